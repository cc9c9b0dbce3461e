//! WebSocket sessions of a route as they are written: who may open one, and how long it may last.

use std::time::Duration;

use super::reader::{Table, Value};
use super::{
    Compression, HandshakeRules, Liveness, MaxAge, Origin, Oversize, Ping, RouteTimeouts,
    WebSocket, units,
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

/// A duration for the client and one for the service.
type Sides = (Option<Duration>, Option<Duration>);

/// What sites and routes write; what a route leaves out, it takes over from its site.
#[derive(Clone)]
pub(super) struct Written {
    max_message_bytes: usize,
    oversize: Oversize,
    idle_timeout: Option<Duration>,
    compression: Compression,
    handshake: HandshakeRules,
    origins: Vec<Origin>,
    ping_interval: Sides,
    ping_timeout: Sides,
    max_age: Option<Duration>,
    max_age_jitter: Option<Duration>,
    close_timeout: Duration,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            oversize: Oversize::Close,
            idle_timeout: None,
            compression: COMPRESSION[0].1,
            handshake: HandshakeRules::Strict,
            origins: Vec::new(),
            ping_interval: Sides::default(),
            ping_timeout: Sides::default(),
            max_age: None,
            max_age_jitter: None,
            close_timeout: Duration::from_secs(5),
        }
    }
}

impl Written {
    /// Reads `websocket` of a site or route below the one that wrote this.
    pub(super) fn read(&self, t: &Table<'_>, timeouts: &RouteTimeouts) -> Self {
        let rules = [
            ("strict", HandshakeRules::Strict),
            ("lenient", HandshakeRules::Lenient),
            ("off", HandshakeRules::Off),
        ];
        let oversize = [
            ("close", Oversize::Close),
            ("pass", Oversize::Pass),
            ("close-unseen", Oversize::CloseUnseen),
        ];
        let idle_timeout = t.optional_duration("idle_timeout").or(self.idle_timeout);
        let (ping_interval, ping_timeout) = self.pings(t, idle_timeout, timeouts);
        let (max_age, max_age_jitter) = self.max_age(t);
        Self {
            max_message_bytes: t.size("max_message", 1.., self.max_message_bytes),
            oversize: t.choice("oversize", oversize, self.oversize),
            idle_timeout,
            compression: t.choice("compression", COMPRESSION, self.compression),
            handshake: t.choice("handshake", rules, self.handshake),
            origins: t
                .get("origins")
                .map_or_else(|| self.origins.clone(), |value| origins(&value)),
            ping_interval,
            ping_timeout,
            max_age,
            max_age_jitter,
            close_timeout: t.duration("close_timeout", self.close_timeout),
        }
    }

    /// What all of it means beside these timeouts.
    pub(super) fn meant(&self, timeouts: &RouteTimeouts) -> WebSocket {
        const PING_TIMEOUT: Duration = Duration::from_secs(10);
        let ping = |interval: Option<Duration>, timeout: Option<Duration>| {
            interval.map(|interval| Ping {
                interval,
                timeout: timeout.unwrap_or(PING_TIMEOUT),
            })
        };
        let max_age = self.max_age.map(|limit| MaxAge {
            limit,
            jitter: self
                .max_age_jitter
                .map_or(limit / 10, |jitter| jitter.min(limit)),
        });
        WebSocket {
            max_message_bytes: self.max_message_bytes,
            oversize: self.oversize,
            idle_timeout: self.idle_timeout.unwrap_or(timeouts.read),
            compression: self.compression,
            handshake: self.handshake,
            origins: self.origins.clone(),
            liveness: Liveness {
                ping_client: ping(self.ping_interval.0, self.ping_timeout.0),
                ping_service: ping(self.ping_interval.1, self.ping_timeout.1),
                max_age,
            },
            close_timeout: self.close_timeout,
        }
    }

    /// Reads how clients and services are pinged: `"20s"` for both, or a table with one for each.
    fn pings(
        &self,
        t: &Table<'_>,
        idle_timeout: Option<Duration>,
        timeouts: &RouteTimeouts,
    ) -> (Sides, Sides) {
        let interval = t.get("ping_interval");
        if let (Some(interval), None) = (&interval, idle_timeout)
            && timeouts.read == RouteTimeouts::DEFAULT
        {
            interval.warn(
                "pings do not keep a session open in which nobody says anything; how long such a one \
                 may last is for `idle_timeout` to say, which is 60s now",
            );
        }
        let interval = interval.map_or(self.ping_interval, |value| sides(&value));
        let timeout = t.get("ping_timeout");
        if let ((None, None), Some(timeout)) = (interval, &timeout) {
            timeout.problem("has no effect without `ping_interval`");
        }
        let timeout = timeout.map_or(self.ping_timeout, |value| sides(&value));
        (interval, timeout)
    }

    /// Reads how old sessions may get, and how much earlier they may end.
    fn max_age(&self, t: &Table<'_>) -> (Option<Duration>, Option<Duration>) {
        let limit = t.optional_duration("max_age").or(self.max_age);
        let Some(written) = t.get("max_age_jitter") else {
            return (limit, self.max_age_jitter);
        };
        let Some(most) = limit else {
            written.problem("has no effect without `max_age`");
            return (None, None);
        };
        let jitter = written.parse(units::DURATION, units::duration);
        if jitter.is_some_and(|jitter| jitter > most) {
            written.expected("at most `max_age`");
        }
        (limit, jitter)
    }
}

/// Reads a duration for the client and one for the service.
fn sides(value: &Value<'_>) -> Sides {
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
