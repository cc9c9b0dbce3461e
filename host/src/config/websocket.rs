//! WebSocket sessions of a route as they are written: who may open one, and how long it may last.

use std::time::Duration;

use super::reader::{Table, Value};
use super::{
    Compression, HandshakeRules, Liveness, MaxAge, Origin, Ping, RouteTimeouts, WebSocket, units,
};

/// What `compression` may be, its default first.
const COMPRESSION: [(&str, Compression); 4] = [
    ("both", legs(true, true)),
    ("client", legs(true, false)),
    ("service", legs(false, true)),
    ("off", legs(false, false)),
];

const fn legs(client: bool, service: bool) -> Compression {
    Compression { client, service }
}

/// Reads `websocket` of a route.
pub(super) fn read(t: &Table<'_>, timeouts: &RouteTimeouts) -> WebSocket {
    let rules = [
        ("strict", HandshakeRules::Strict),
        ("lenient", HandshakeRules::Lenient),
        ("off", HandshakeRules::Off),
    ];
    let idle_timeout = t.optional_duration("idle_timeout");
    let (ping_client, ping_service) = pings(t, idle_timeout, timeouts);
    WebSocket {
        max_message_bytes: t.size("max_message", 1.., 1 << 20),
        idle_timeout: idle_timeout.unwrap_or(timeouts.read),
        compression: t.choice("compression", COMPRESSION, COMPRESSION[0].1),
        handshake: t.choice("handshake", rules, HandshakeRules::Strict),
        origins: t
            .get("origins")
            .map(|value| origins(&value))
            .unwrap_or_default(),
        liveness: Liveness {
            ping_client,
            ping_service,
            max_age: max_age(t),
        },
        close_timeout: t.duration("close_timeout", Duration::from_secs(5)),
    }
}

/// Reads how clients and services are pinged: `"20s"` for both, or a table with one for each.
fn pings(
    t: &Table<'_>,
    idle_timeout: Option<Duration>,
    timeouts: &RouteTimeouts,
) -> (Option<Ping>, Option<Ping>) {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let interval = t.get("ping_interval");
    if let (Some(interval), None) = (&interval, idle_timeout)
        && timeouts.read == RouteTimeouts::DEFAULT
    {
        interval.warn(
            "pings do not keep a session open in which nobody says anything; how long such a one may \
             last is for `idle_timeout` to say, which is 60s now",
        );
    }
    let interval = interval.map(|value| sides(&value));
    let timeout = t.get("ping_timeout");
    if let (None, Some(timeout)) = (&interval, &timeout) {
        timeout.problem("has no effect without `ping_interval`");
    }
    let timeout = timeout.map(|value| sides(&value)).unwrap_or_default();
    let interval = interval.unwrap_or_default();
    let ping = |interval: Option<Duration>, timeout: Option<Duration>| {
        interval.map(|interval| Ping {
            interval,
            timeout: timeout.unwrap_or(TIMEOUT),
        })
    };
    (ping(interval.0, timeout.0), ping(interval.1, timeout.1))
}

/// Reads a duration for the client and one for the service.
fn sides(value: &Value<'_>) -> (Option<Duration>, Option<Duration>) {
    if value.is_table() {
        let read = |t: &Table<'_>| {
            (
                t.optional_duration("client"),
                t.optional_duration("service"),
            )
        };
        return value.table("a table", read).unwrap_or_default();
    }
    let both = value.duration(format_args!(
        "{}, or a table such as {{ client = \"20s\" }}",
        units::DURATION
    ));
    (both, both)
}

fn max_age(t: &Table<'_>) -> Option<MaxAge> {
    let limit = t.optional_duration("max_age");
    let jitter = t.get("max_age_jitter");
    if let (None, Some(jitter)) = (limit, &jitter) {
        jitter.problem("has no effect without `max_age`");
    }
    let limit = limit?;
    let written = jitter.and_then(|value| {
        let jitter = value.parse(units::DURATION, units::duration)?;
        if jitter > limit {
            value.expected("at most `max_age`");
        }
        Some(jitter.min(limit))
    });
    Some(MaxAge {
        limit,
        jitter: written.unwrap_or(limit / 10),
    })
}

/// Reads which pages may open WebSockets.
fn origins(value: &Value<'_>) -> Vec<Origin> {
    const ORIGIN: &str =
        "an origin such as \"https://app.example.com\" or \"https://*.example.com\"";
    let items = value.list("a list such as [\"https://app.example.com\"]");
    if items.is_empty() && value.is_list() {
        value
            .problem("expected at least one origin, found none; without `origins` all are allowed");
    }
    items
        .iter()
        .filter_map(|item| item.parse(ORIGIN, Origin::parse))
        .collect()
}
