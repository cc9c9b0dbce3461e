//! Health checks as they are written: `health` of `[upstreams.NAME]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::reader::{Table, Value};
use super::{CheckKind, HealthCheck};

const HEALTH: &str = "a table such as { type = \"http\", path = \"/healthz\" }";
const TYPE: &str = "\"tcp\", \"http\" or \"websocket\"";
const STATUS: &str = "a status such as 204, a range such as \"200-399\", or a list of these";

/// Reads `health`.
pub(super) fn read(value: &Value<'_>) -> Option<HealthCheck> {
    value.table(HEALTH, check).flatten()
}

fn check(t: &Table<'_>) -> Option<HealthCheck> {
    let kind = kind(t);
    let host = t.get("host").and_then(|value| {
        value.parse("a host such as \"chat.example.com\"", |text| {
            let is_host = !text.is_empty() && !text.contains([' ', '/']);
            HeaderValue::from_str(text).ok().filter(|_| is_host)
        })
    });
    let interval = t.duration("interval", Duration::from_secs(5));
    let check = HealthCheck {
        kind: kind?,
        host,
        interval,
        timeout: t.duration("timeout", Duration::from_secs(2)),
        jitter: t.duration_or_zero("jitter", interval / 10),
        rise: t.whole("rise", 1.., 2),
        fall: t.whole("fall", 1.., 3),
    };
    if check.jitter > check.interval
        && let Some(value) = t.get("jitter")
    {
        value.expected(format_args!("at most `interval`, {:?}", check.interval));
    }
    Some(check)
}

fn kind(t: &Table<'_>) -> Option<CheckKind> {
    let path = t.get("path").map(|value| {
        let path = |text: &str| {
            let path = text.starts_with('/').then(|| text.parse().ok());
            path.flatten()
        };
        value.parse("a path such as \"/healthz\"", path)
    });
    let path = path.map_or(Some(PathAndQuery::from_static("/")), |path| path);
    let expected = t.get("expect_status").map(|value| statuses(&value));
    let kind = t.require("type", TYPE)?;
    let (read, unused): (_, &[_]) = match kind.as_str() {
        Some("tcp") => (CheckKind::Tcp, &["path", "expect_status", "host"]),
        Some("http") => {
            let expected = expected.unwrap_or_else(|| vec![200..=399]);
            (
                CheckKind::Http {
                    path: path?,
                    expected,
                },
                &[],
            )
        }
        Some("websocket") => (CheckKind::WebSocket { path: path? }, &["expect_status"]),
        _ => {
            kind.expected(TYPE);
            return None;
        }
    };
    for value in unused.iter().filter_map(|name| t.get(name)) {
        value.problem(format_args!("has no effect with type = {}", kind.found()));
    }
    Some(read)
}

fn statuses(value: &Value<'_>) -> Vec<RangeInclusive<u16>> {
    if !value.is_list() {
        return status(value).into_iter().collect();
    }
    let items = value.list(STATUS);
    if items.is_empty() {
        value.expected(STATUS);
    }
    items.iter().filter_map(status).collect()
}

fn status(value: &Value<'_>) -> Option<RangeInclusive<u16>> {
    let bounds = |number: u64| {
        u16::try_from(number)
            .ok()
            .filter(|n| (100..=599).contains(n))
    };
    let range = match value.as_str() {
        None => value
            .as_whole()
            .and_then(bounds)
            .map(|status| status..=status),
        Some(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let read = |text: &str| text.trim().parse().ok().and_then(bounds);
            read(first)
                .zip(read(last))
                .map(|(first, last)| first..=last)
        }
    };
    let range = range.filter(|range| !range.is_empty());
    if range.is_none() {
        value.expected(STATUS);
    }
    range
}
