//! Replaces a plugin's code under its sessions, or says why not and changes nothing.
//!
//! How sessions then move is the plugin seam's business.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::Causes;
use crate::config::SwapPolicy;
use crate::generation::Generation;
use crate::plugin::{Engine, Plugin, Version};

/// What is asked for.
pub(super) struct Swap {
    /// Its name in the configuration.
    pub(super) plugin: String,
    pub(super) module: Bytes,
    /// None: as the configuration has it.
    pub(super) policy: Option<SwapPolicy>,
}

/// What a swap did.
pub(super) struct Swapped {
    /// Number of the version in force now. Where routes give the plugin a `config` of their own there
    /// are several; this is the last one.
    pub(super) version: u64,
}

/// A plugin, the version it gets, and how its sessions get there.
type Change = (Arc<Plugin>, Arc<Version>, SwapPolicy);

/// What [`Preparation::done`] returns: the plugin's name, and what is to change or why nothing is.
pub(super) type Prepared = (String, Result<Vec<Change>, String>);

/// A swap in the making.
pub(super) struct Preparation {
    plugin: String,
    task: JoinHandle<Result<Vec<Change>, String>>,
}

impl Preparation {
    /// Begins to compile, check and start what a swap brings, on another thread.
    pub(super) fn start(in_force: Arc<Generation>, engine: Engine, swap: Swap) -> Self {
        Self {
            plugin: swap.plugin.clone(),
            task: tokio::task::spawn_blocking(move || prepare(&in_force, &engine, &swap)),
        }
    }

    /// Waits for it. Cancel safe.
    pub(super) async fn done(&mut self) -> Prepared {
        let outcome = (&mut self.task).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(panic.to_string()));
        (self.plugin.clone(), outcome)
    }
}

fn prepare(in_force: &Generation, engine: &Engine, swap: &Swap) -> Result<Vec<Change>, String> {
    let plugins = in_force.plugins.iter();
    let named: Vec<_> = plugins
        .filter(|plugin| **plugin.name() == *swap.plugin)
        .collect();
    if named.is_empty() {
        let mut known: Vec<_> = in_force
            .plugins
            .iter()
            .map(|plugin| &**plugin.name())
            .collect();
        known.dedup();
        let known = match known.join("`, `") {
            names if names.is_empty() => "the configuration has none".to_owned(),
            names => format!("expected one of `{names}`"),
        };
        return Err(format!("no plugin `{}`; {known}", swap.plugin));
    }
    let load = |plugin: &Arc<Plugin>| {
        let declared = plugin.version().declared().clone();
        let policy = swap.policy.unwrap_or(declared.swap);
        let version = engine.load(&declared, &swap.module).map_err(|error| {
            let causes = Causes(std::error::Error::source(&error));
            format!("plugin `{}`: {error}{causes}", swap.plugin)
        })?;
        Ok((plugin.clone(), version, policy))
    };
    named.into_iter().map(load).collect()
}

/// Puts in force what was prepared.
pub(super) fn finish((name, prepared): Prepared) -> Result<Swapped, String> {
    let changes = prepared.inspect_err(|error| {
        error!(
            plugin = name,
            error, "swap failed; the version in force stays"
        );
    })?;
    let mut number = 0;
    for (plugin, version, policy) in changes {
        number = version.id();
        plugin.swap(version, policy);
        end_grace_later(&plugin);
        info!(plugin = name, version = number, ?policy, "swapped");
    }
    Ok(Swapped { version: number })
}

/// Sees to it that sessions which may stay on an old version for some time do not stay longer.
pub(super) fn end_grace_later(plugin: &Arc<Plugin>) {
    if let Some((number, grace)) = plugin.grace() {
        let plugin = plugin.clone();
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            plugin.end_grace(number);
        });
    }
}
