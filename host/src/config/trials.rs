//! How candidates of a plugin are tried: `[plugins.NAME.canary]` and `[plugins.NAME.shadow]`, and the
//! words for the same on the command line.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;

use super::reader::{Table, Value};
use super::units;

/// What sessions and requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShareKey {
    /// By nothing that they bring: each is drawn for itself.
    Session,
    /// A field of the request, lower case.
    Header(HeaderName),
    Cookie(String),
}

/// A value that sessions and requests bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Match {
    /// Not [`ShareKey::Session`].
    pub(crate) key: ShareKey,
    pub(crate) value: String,
}

/// What a candidate that serves a share is held to. A swap may say otherwise for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Canary {
    /// How long it is observed. Default 60 s.
    pub(crate) window: Duration,
    /// Default: [`ShareKey::Session`].
    pub(crate) by: ShareKey,
    /// Calls for messages and heads without which it is not promoted. Default 1.
    pub(crate) min_calls: u64,
    /// Calls that may trap or break a limit or the contract, but for the next. Default 0.
    pub(crate) max_traps: u64,
    /// Calls that may be stopped for their CPU time. Default 0.
    pub(crate) max_timeouts: u64,
    /// What all but one in a hundred calls may take. Default: not looked at.
    pub(crate) call_time: Option<Duration>,
    /// How many times as long they may take as those of the version in force. Default 5; 0: not looked at.
    pub(crate) slowdown: u64,
    /// How many of its sessions may end with a code. Default: none with 1011.
    pub(crate) closes: BTreeMap<u16, u64>,
}

/// How much a candidate that only looks on may see and cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shadow {
    /// Percent of sessions and requests that are shown to it. Default 100.
    pub(crate) sample: u64,
    /// Percent of a worker's time that it may take. Default 10.
    pub(crate) budget: u64,
}

const CALL_TIME: &str = "a time such as \"500us\" or \"2ms\"";
const SHARE_KEY: &str = "\"session\", \"header:NAME\" or \"cookie:NAME\"";

impl Default for Canary {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            by: ShareKey::Session,
            min_calls: 1,
            max_traps: 0,
            max_timeouts: 0,
            call_time: None,
            slowdown: 5,
            closes: BTreeMap::from([(1011, 0)]),
        }
    }
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            sample: 100,
            budget: 10,
        }
    }
}

impl ShareKey {
    /// Reads `session`, `header:NAME` or `cookie:NAME`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "session" => Some(Self::Session),
            Some(("header", name)) => HeaderName::from_bytes(name.as_bytes())
                .ok()
                .map(Self::Header),
            Some(("cookie", name)) if !name.is_empty() && !name.contains([';', '=', ' ']) => {
                Some(Self::Cookie(name.to_owned()))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for ShareKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session => f.write_str("session"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl Match {
    /// Reads `header:NAME=VALUE` or `cookie:NAME=VALUE`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (key, value) = text.split_once('=')?;
        let key = ShareKey::parse(key).filter(|key| *key != ShareKey::Session)?;
        Some(Self {
            key,
            value: value.to_owned(),
        })
    }
}

impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Reads a time of calls: `"500us"`, or as any duration.
pub(crate) fn call_time(text: &str) -> Option<Duration> {
    let micros = text.strip_suffix("us").and_then(|n| n.parse().ok());
    let time = micros
        .map(Duration::from_micros)
        .or_else(|| units::duration(text));
    time.filter(|time| !time.is_zero())
}

/// Reads how many sessions may end with which codes: `1011=0,1008=20`.
pub(crate) fn closes(text: &str) -> Option<BTreeMap<u16, u64>> {
    let one = |item: &str| {
        let (code, limit) = item.split_once('=')?;
        Some((
            code.parse().ok().filter(is_close_code)?,
            limit.parse().ok()?,
        ))
    };
    text.split(',').map(one).collect()
}

/// Whether sessions can end with it; 1005 and 1006 stand for Close frames without a code and for none.
fn is_close_code(code: &u16) -> bool {
    (1000..=4999).contains(code)
}

pub(super) fn canary(t: &Table<'_>) -> Canary {
    let default = Canary::default();
    let by = t.get("by");
    let by = by.and_then(|value| value.parse(SHARE_KEY, ShareKey::parse));
    let time = t.get("call_time");
    Canary {
        window: t.duration("window", default.window),
        by: by.unwrap_or(default.by),
        min_calls: t.whole("min_calls", 0.., default.min_calls),
        max_traps: t.whole("max_traps", 0.., default.max_traps),
        max_timeouts: t.whole("max_timeouts", 0.., default.max_timeouts),
        call_time: time.and_then(|value| value.parse(CALL_TIME, call_time)),
        slowdown: t.whole("slowdown", 0..=1000, default.slowdown),
        closes: t
            .get("max_closes")
            .map_or(default.closes, |value| max_closes(&value)),
    }
}

fn max_closes(value: &Value<'_>) -> BTreeMap<u16, u64> {
    let entries = value.entries("a table such as { 1011 = 0, 1008 = 20 }");
    let one = |entry: Value<'_>| {
        let code = entry.name().parse().ok().filter(is_close_code);
        if code.is_none() {
            entry.problem("expected a close code from 1000 to 4999 as the key");
        }
        Some((code?, entry.whole(0..)?))
    };
    entries.into_iter().filter_map(one).collect()
}

pub(super) fn shadow(t: &Table<'_>) -> Shadow {
    let default = Shadow::default();
    Shadow {
        sample: t.whole("sample", 1..=100, default.sample),
        budget: t.whole("budget", 1..=50, default.budget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read_as_they_are_written() {
        for text in ["session", "header:x-user", "cookie:sid"] {
            assert_eq!(ShareKey::parse(text).unwrap().to_string(), text);
        }
        let when = Match::parse("header:X-Canary=a=b").unwrap();
        assert_eq!(when.to_string(), "header:x-canary=a=b");
        for text in [
            "",
            "sessions",
            "header:",
            "header:a b",
            "cookie:",
            "cookie:a=b",
            "ip",
        ] {
            assert_eq!(ShareKey::parse(text), None, "{text}");
        }
        for text in ["session=1", "header:x-canary", "x-canary=1"] {
            assert_eq!(Match::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_of_calls_may_be_shorter_than_a_millisecond() {
        assert_eq!(call_time("500us"), Some(Duration::from_micros(500)));
        assert_eq!(call_time("2ms"), Some(Duration::from_millis(2)));
        for text in ["0us", "us", "500", "0s", "5 us"] {
            assert_eq!(call_time(text), None, "{text}");
        }
    }

    #[test]
    fn codes_of_closed_sessions_have_a_limit_each() {
        let expected = BTreeMap::from([(1008, 20), (1011, 0)]);
        assert_eq!(closes("1011=0,1008=20"), Some(expected));
        for text in ["", "1011", "1011=", "999=1", "1011=0,"] {
            assert_eq!(closes(text), None, "{text}");
        }
    }
}
