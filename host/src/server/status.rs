//! Plugins as the admin listener shows them: their versions, what each has done, and who is on trial.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::admin::seconds;
use super::health;
use crate::config::SwapPolicy;
use crate::plugin::{Difference, Ended, Plugin, Role, Trial, Version};
use crate::telemetry::{Label as _, ShadowFigures, VersionFigures};

pub(super) fn plugin_as_json(plugin: &Plugin) -> Value {
    let in_force = plugin.version();
    let trial = plugin.trial();
    let mut versions = plugin.versions();
    versions.reverse();
    let versions = versions.iter().map(|version| {
        let mut shown = figures_as_json(&version.figures());
        shown.insert("version".to_owned(), json!(version.id()));
        shown.insert("role".to_owned(), json!(plugin.role_of(version)));
        shown.insert("loaded_at".to_owned(), json!(seconds(version.loaded_at())));
        shown.insert("ejections".to_owned(), json!(version.ejections()));
        let retry_in = version.retry_in().map(health::millis);
        shown.insert("retry_in_ms".to_owned(), json!(retry_in));
        Value::Object(shown)
    });
    json!({
        "name": &**plugin.name(),
        "module": in_force.declared().module.to_string(),
        "policy": policy(plugin.policy()),
        "version": in_force.id(),
        "versions": versions.collect::<Vec<_>>(),
        "trial": trial.as_deref().map(|trial| trial_as_json(trial, &in_force)),
        "last_trial": plugin.last_trial().map(|ended| ended_as_json(&ended)),
    })
}

fn trial_as_json(trial: &Trial, in_force: &Version) -> Value {
    let mut shown = json!({
        "role": trial.role.name(),
        "version": trial.version.id(),
        "beside": in_force.id(),
        "policy": policy(trial.policy),
        "since": seconds(trial.since),
        "age_ms": millis(trial.age()),
    });
    let more = match &trial.role {
        Role::Canary { share, limits } => json!({
            "percent": share.percent,
            "by": share.key.to_string(),
            "when": share.when.as_ref().map(ToString::to_string),
            "window_ms": millis(limits.window),
            "limits": {
                "min_calls": limits.min_calls,
                "max_traps": limits.max_traps,
                "max_timeouts": limits.max_timeouts,
                "call_time_us": limits.call_time.map(micros),
                "slowdown": limits.slowdown,
                "max_closes": closes(&limits.closes),
            },
        }),
        Role::Shadow {
            share,
            budget,
            observed,
        } => {
            let mut shown = observed_as_json(&observed.figures());
            shown["sample"] = json!(share.percent);
            shown["budget"] = json!(budget);
            let recent = observed.recent();
            shown["recent"] = recent.iter().map(difference_as_json).collect();
            shown
        }
    };
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

fn observed_as_json(observed: &ShadowFigures) -> Value {
    json!({
        "compared": observed.compared,
        "skipped": observed.skipped,
        "differences": observed.differences,
    })
}

fn difference_as_json(difference: &Difference) -> Value {
    json!({
        "at": seconds(difference.at),
        "function": difference.function,
        "kind": difference.kind.value(),
        "in_force": difference.in_force,
        "shadow": difference.shadow,
    })
}

fn ended_as_json(ended: &Ended) -> Value {
    json!({
        "role": ended.role,
        "version": ended.version,
        "outcome": ended.outcome.text(),
        "reason": ended.reason,
        "at": seconds(ended.at),
        "figures": figures_as_json(&ended.figures),
        "observed": ended.observed.as_ref().map(observed_as_json),
    })
}

fn figures_as_json(figures: &VersionFigures) -> Map<String, Value> {
    let figures = json!({
        "sessions": figures.sessions,
        "calls": figures.calls,
        "failures": figures.failures,
        "traps": figures.failures.saturating_sub(figures.timeouts),
        "timeouts": figures.timeouts,
        "moved": figures.moved,
        "refused": figures.refused,
        "closes": closes(&figures.closes),
        "call_time_p50_us": figures.median.map(micros),
        "call_time_p99_us": figures.percentile_99.map(micros),
    });
    match figures {
        Value::Object(figures) => figures,
        _ => Map::new(),
    }
}

fn policy(policy: SwapPolicy) -> String {
    match policy {
        SwapPolicy::NextMessage => "next-message".to_owned(),
        SwapPolicy::NextSession => "next-session".to_owned(),
        SwapPolicy::DrainBy(time) => format!("drain-by:{}ms", time.as_millis()),
    }
}

fn closes(closes: &std::collections::BTreeMap<u16, u64>) -> Value {
    let closes = closes
        .iter()
        .map(|(code, count)| (code.to_string(), json!(count)));
    Value::Object(closes.collect())
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
