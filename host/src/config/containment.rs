//! What a plugin's failures mean: for the exchange or session at hand, and for the plugin.

use std::time::Duration;

use super::reader::{Table, Value};

/// What a plugin's failure means for the exchange or session at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// 500, or close with 1011.
    Closed,
    /// Go on without the plugin.
    Open,
}

/// What a plugin's failure means, by what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailurePolicy {
    pub(crate) request: OnFailure,
    pub(crate) response: OnFailure,
    pub(crate) choose: OnFailure,
    /// As a session begins, or is opened again.
    pub(crate) open: OnFailure,
    /// Whole ones and pieces.
    pub(crate) messages: OnFailure,
}

/// When a plugin that keeps failing is left out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// So many failed calls of one phase within [`Self::within`], on all workers. Default 20.
    pub(crate) failures: u32,
    /// What share of the calls of that phase they have to be as well, in percent. Default 50.
    pub(crate) percent: u32,
    /// Default 10 s.
    pub(crate) within: Duration,
    /// How long it is left out at first; twice as long each time that it fails again at once. Default 1 s.
    pub(crate) back_off: Duration,
    /// How long at most. Default 60 s; no less than `back_off`.
    pub(crate) max_back_off: Duration,
}

/// Who shares an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Up to 2,048 sessions of a worker.
    Worker,
    /// Nobody: each session that may see messages has its own.
    Session {
        /// How many there may be, over all workers. Default 2,000.
        max_instances: usize,
    },
}

/// How often snapshots of a session are kept for the case that its instance fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotEvery {
    Messages(u32),
    /// Of those that have seen messages since.
    Time(Duration),
}

const WORDS: [(&str, OnFailure); 2] = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];

impl FailurePolicy {
    /// The same for everything.
    pub(crate) const fn all(policy: OnFailure) -> Self {
        Self {
            request: policy,
            response: policy,
            choose: policy,
            open: policy,
            messages: policy,
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 20,
            percent: 50,
            within: Duration::from_secs(10),
            back_off: Duration::from_secs(1),
            max_back_off: Duration::from_secs(60),
        }
    }
}

/// Reads `on_failure`. What a table does not name is `closed`.
pub(super) fn on_failure(value: &Value<'_>) -> Option<FailurePolicy> {
    const EXPECTED: &str =
        "\"closed\", \"open\" or a table such as { http = \"closed\", messages = \"open\" }";
    match value.as_str() {
        Some("closed") => Some(FailurePolicy::all(OnFailure::Closed)),
        Some("open") => Some(FailurePolicy::all(OnFailure::Open)),
        _ => value.table(EXPECTED, by_phase),
    }
}

fn by_phase(t: &Table<'_>) -> FailurePolicy {
    let http = t.choice("http", WORDS, OnFailure::Closed);
    let messages = t.choice("messages", WORDS, OnFailure::Closed);
    FailurePolicy {
        request: t.choice("request", WORDS, http),
        response: t.choice("response", WORDS, http),
        choose: t.choice("choose", WORDS, http),
        open: t.choice("open", WORDS, messages),
        messages,
    }
}

/// Reads `eject`. None: never.
pub(super) fn eject(value: &Value<'_>) -> Option<Ejection> {
    const EXPECTED: &str = "\"never\" or a table such as { failures = 20, within = \"10s\" }";
    match value.as_str() {
        Some("never") => None,
        _ => value.table(EXPECTED, ejection),
    }
}

/// Reads `isolation` and what belongs to it.
pub(super) fn isolation(t: &Table<'_>) -> Isolation {
    let words = [("worker", false), ("session", true)];
    let of_session = t.choice("isolation", words, false);
    let max_instances = t.whole("max_instances", 1..=8_000, 2_000);
    match of_session {
        true => Isolation::Session { max_instances },
        false => Isolation::Worker,
    }
}

/// Reads `snapshot_every`.
pub(super) fn snapshot_every(value: &Value<'_>) -> Option<SnapshotEvery> {
    const EXPECTED: &str = "a number of messages from 1, or a duration such as \"10s\"";
    match value.as_whole().map(u32::try_from) {
        Some(Ok(n)) if n > 0 => Some(SnapshotEvery::Messages(n)),
        Some(_) => {
            value.expected(EXPECTED);
            None
        }
        None => value.duration(EXPECTED).map(SnapshotEvery::Time),
    }
}

fn ejection(t: &Table<'_>) -> Ejection {
    let default = Ejection::default();
    let back_off = t.duration("back_off", default.back_off);
    Ejection {
        failures: t.whole("failures", 1..=1_000_000, default.failures),
        percent: t.whole("percent", 0..=100, default.percent),
        within: t.duration("within", default.within),
        back_off,
        max_back_off: t
            .duration("max_back_off", default.max_back_off)
            .max(back_off),
    }
}
