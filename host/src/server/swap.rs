//! Replaces a plugin's code under its sessions, or says why not and changes nothing.
//!
//! How sessions then move is the plugin seam's business.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::Causes;
use super::trials::{self, Terms};
use crate::config::SwapPolicy;
use crate::generation::Generation;
use crate::plugin::{Engine, Plugin, Role, Version};

/// What is asked for.
pub(super) struct Swap {
    /// Its name in the configuration.
    pub(super) plugin: String,
    pub(super) module: Bytes,
    pub(super) terms: Terms,
}

/// What a swap did.
pub(super) struct Swapped {
    /// Number of the version that came. Where routes give the plugin a `config` of their own there
    /// are several; this is the last one.
    pub(super) version: u64,
    /// What it does if it is a candidate on trial.
    pub(super) role: Option<&'static str>,
}

/// A plugin, the version it gets, how its sessions get there, and what it does there if it is only on
/// trial.
type Change = (Arc<Plugin>, Arc<Version>, SwapPolicy, Option<Role>);

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
    let named = trials::named(in_force, &swap.plugin)?;
    for plugin in &named {
        refuse_two(plugin)?;
    }
    let load = |plugin: &Arc<Plugin>| {
        let declared = plugin.version().declared().clone();
        let policy = swap.terms.policy.unwrap_or(declared.swap);
        let role = swap.terms.how.role(&declared);
        let version = engine.load(&declared, &swap.module).map_err(|error| {
            let causes = Causes(std::error::Error::source(&error));
            format!("plugin `{}`: {error}{causes}", swap.plugin)
        })?;
        Ok((plugin.clone(), version, policy, role))
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
    let (mut number, mut role) = (0, None);
    let mut candidates = Vec::new();
    for (plugin, version, policy, trial) in changes {
        number = version.id();
        let Some(trial) = trial else {
            plugin.swap(version, policy);
            end_grace_later(&plugin);
            info!(plugin = name, version = number, ?policy, "swapped");
            continue;
        };
        role = Some(trial.name());
        candidates.push((plugin, version, policy, trial));
    }
    if !candidates.is_empty() {
        trials::begin(candidates);
    }
    let version = number;
    Ok(Swapped { version, role })
}

/// A plugin has one candidate at a time: what two of them did could not be told apart.
fn refuse_two(plugin: &Plugin) -> Result<(), String> {
    let Some(trial) = plugin.trial() else {
        return Ok(());
    };
    let (name, version) = (plugin.name(), trial.version.id());
    let role = trial.role.name();
    Err(format!(
        "plugin `{name}` has a {role} already, version {version}: first `tidegate plugin promote {name}` or \
         `tidegate plugin rollback {name}`"
    ))
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
