//! `/v1/health`: whether the proxy takes sessions, and which of its plugins are left out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{FailurePolicy, OnFailure};
use crate::plugin::Plugin;

/// How the proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    /// It serves, but for what plugins that are ejected are needed for.
    Degraded,
    Draining,
}

impl Health {
    /// Returns how it is, and the same in words.
    pub(super) fn of(draining: bool, plugins: &[Arc<Plugin>]) -> (Self, Value) {
        let ejected: Vec<_> = plugins.iter().filter_map(|plugin| absent(plugin)).collect();
        let health = match (draining, ejected.is_empty()) {
            (true, _) => Self::Draining,
            (false, false) => Self::Degraded,
            (false, true) => Self::Well,
        };
        (
            health,
            json!({ "status": health.word(), "ejected": ejected }),
        )
    }

    fn word(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
        }
    }
}

/// What is to be known of a plugin that is ejected.
fn absent(plugin: &Plugin) -> Option<Value> {
    let version = plugin.version();
    let retry_in = version.retry_in()?;
    Some(json!({
        "plugin": &**plugin.name(),
        "version": version.id(),
        "ejections": version.ejections(),
        "retry_in_ms": millis(retry_in),
        "on_failure": policy(&version.declared().on_failure),
    }))
}

fn policy(policy: &FailurePolicy) -> Value {
    let word = |policy| match policy {
        OnFailure::Closed => "closed",
        OnFailure::Open => "open",
    };
    json!({
        "request": word(policy.request),
        "response": word(policy.response),
        "choose": word(policy.choose),
        "open": word(policy.open),
        "messages": word(policy.messages),
    })
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
