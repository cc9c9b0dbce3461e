//! Plugins through their versions, as a scrape finds them.
//!
//! What each plugin is called for is counted in `metrics.rs`, whatever version did it.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::exposition::Families;
use super::metrics::{ShadowFigures, VersionFigures};

/// A plugin at the moment of a scrape. Several may have one name.
#[derive(Debug, Clone)]
pub(crate) struct PluginStatus {
    pub(crate) plugin: String,
    /// What each of its versions does, and what it has counted.
    pub(crate) versions: Vec<(&'static str, VersionFigures)>,
    /// Percent that a candidate serves.
    pub(crate) share: Option<u64>,
    /// Candidates by what became of them.
    pub(crate) trials: Vec<(&'static str, u64)>,
    /// What candidates that looked on have been seen to do.
    pub(crate) shadows: ShadowFigures,
    /// Whether its version in force is left out because it kept failing, and how often it was.
    pub(crate) is_ejected: bool,
    pub(crate) ejections: u64,
    /// Instances that serve one session each.
    pub(crate) own_instances: u64,
}

/// All plugins in force.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    /// By plugin and by what a version does: sessions, calls, failures.
    versions: BTreeMap<(String, &'static str), [u64; 3]>,
    shares: BTreeMap<String, u64>,
    trials: BTreeMap<(String, &'static str), u64>,
    shadows: BTreeMap<String, ShadowFigures>,
    ejected: BTreeMap<String, bool>,
    ejections: BTreeMap<String, u64>,
    own_instances: BTreeMap<String, u64>,
}

impl Plugins {
    pub(super) fn new(plugins: Vec<PluginStatus>) -> Self {
        let mut all = Self::default();
        for status in plugins {
            for (role, figures) in status.versions {
                let sums = all.versions.entry((status.plugin.clone(), role));
                let sums = sums.or_default();
                let counts = [figures.sessions, figures.calls, figures.failures];
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count;
                }
            }
            for (outcome, count) in status.trials {
                *all.trials
                    .entry((status.plugin.clone(), outcome))
                    .or_default() += count;
            }
            let shadows = all.shadows.entry(status.plugin.clone());
            shadows.or_default().add(&status.shadows);
            let name = || status.plugin.clone();
            *all.ejected.entry(name()).or_default() |= status.is_ejected;
            *all.ejections.entry(name()).or_default() += status.ejections;
            *all.own_instances.entry(name()).or_default() += status.own_instances;
            let share = all.shares.entry(status.plugin).or_default();
            *share = (*share).max(status.share.unwrap_or(0));
        }
        all
    }

    fn shadows(
        &self,
        value: fn(&ShadowFigures) -> u64,
    ) -> impl Iterator<Item = ([(&str, &str); 1], u64)> {
        let shadows = self.shadows.iter();
        shadows.map(move |(plugin, shadow)| ([("plugin", &**plugin)], value(shadow)))
    }

    fn versions(&self, index: usize) -> impl Iterator<Item = ([(&str, &str); 2], u64)> {
        self.versions.iter().map(move |((plugin, role), counts)| {
            ([("plugin", &**plugin), ("role", *role)], counts[index])
        })
    }
}

impl Collector for Plugins {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        out.gauges(
            "plugin_version_sessions",
            "Sessions on versions of plugins, by what the version does",
            self.versions(0),
        )?;
        out.counters(
            "plugin_version_calls",
            "Calls of versions of plugins, by what the version does; begins anew with each version",
            self.versions(1),
        )?;
        out.counters(
            "plugin_version_failures",
            "Those that trapped or broke a limit or the contract",
            self.versions(2),
        )?;
        out.gauges(
            "plugin_canary_percent",
            "Percent of sessions and requests that a candidate serves",
            self.shares
                .iter()
                .map(|(plugin, share)| ([("plugin", &**plugin)], *share)),
        )?;
        out.gauges(
            "plugin_ejected",
            "Whether a plugin is left out because it kept failing",
            by_name(&self.ejected).map(|(labels, ejected)| (labels, u64::from(*ejected))),
        )?;
        out.counters(
            "plugin_ejections",
            "Times that the version in force of a plugin was left out because it kept failing",
            by_name(&self.ejections).map(|(labels, count)| (labels, *count)),
        )?;
        out.gauges(
            "plugin_own_instances",
            "Instances of plugins that serve one session each",
            by_name(&self.own_instances).map(|(labels, count)| (labels, *count)),
        )?;
        out.counters(
            "plugin_trials",
            "Candidates whose trial is over, by outcome",
            self.trials.iter().map(|((plugin, outcome), count)| {
                ([("plugin", &**plugin), ("outcome", *outcome)], *count)
            }),
        )?;
        out.counters(
            "plugin_shadow_compared",
            "Answers of candidates that look on, compared with those in force",
            self.shadows(|shadow| shadow.compared),
        )?;
        out.counters(
            "plugin_shadow_skipped",
            "What candidates that look on were not shown, for the time that they had taken",
            self.shadows(|shadow| shadow.skipped),
        )?;
        out.counters(
            "plugin_shadow_differences",
            "Answers of candidates that look on which differ from those in force, by how",
            self.shadows.iter().flat_map(|(plugin, shadow)| {
                let kinds = shadow.differences.iter();
                kinds.map(|(kind, count)| ([("plugin", &**plugin), ("kind", *kind)], *count))
            }),
        )
    }
}

fn by_name<T>(values: &BTreeMap<String, T>) -> impl Iterator<Item = ([(&str, &str); 1], &T)> {
    values
        .iter()
        .map(|(plugin, value)| ([("plugin", &**plugin)], value))
}
