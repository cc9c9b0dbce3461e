//! Puts the next generation in force, or says why not and changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::swap::{self, Preparation, Swap};
use super::{Error, Source, resolve};
use crate::config::{Config, Module};
use crate::generation::{self, Generation};
use crate::plugin::Engine;
use crate::telemetry::{AccessLogFiles, Metrics, ReloadResult};
use crate::upstream::{Known, Names};

/// Builds generations from one source.
pub(super) struct Reloader {
    source: Source,
    /// As it is in force.
    config: Config,
    engine: Engine,
    logs: Arc<AccessLogFiles>,
    names: Names,
    known: Known,
    in_force: Arc<ArcSwap<Generation>>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    pub(super) fn new(
        source: Source,
        config: Config,
        engine: Engine,
        logs: Arc<AccessLogFiles>,
        (names, known): (Names, Known),
        generation: Generation,
        metrics: Arc<Metrics>,
    ) -> Self {
        let in_force = Arc::new(ArcSwap::from_pointee(generation));
        Self {
            source,
            config,
            engine,
            logs,
            names,
            known,
            in_force,
            metrics,
        }
    }

    /// Returns the generation in force, as workers look at it.
    pub(super) fn in_force(&self) -> &Arc<ArcSwap<Generation>> {
        &self.in_force
    }

    /// Returns the files that plugins were loaded from.
    pub(super) fn modules(&self) -> Vec<PathBuf> {
        let files = self
            .config
            .plugins
            .iter()
            .filter_map(|plugin| match &plugin.module {
                Module::File(path) => Some(path.clone()),
                Module::Builtin(_) => None,
            });
        files.collect()
    }

    /// Begins to build the next generation from what the source says now. Compiling takes up to
    /// seconds, so this is done on another thread.
    pub(super) fn start(&self) -> Build {
        let (source, engine) = (self.source.clone(), self.engine.clone());
        let logs = self.logs.clone();
        let (running, previous) = (self.config.clone(), self.in_force.load_full());
        let known = self.known.clone();
        Build(tokio::task::spawn_blocking(move || {
            build(&source, &running, &engine, &logs, &known, &previous)
                .map_err(|error| error.to_string())
        }))
    }

    /// Begins to prepare a swap, on another thread as well.
    pub(super) fn prepare(&self, swap: Swap) -> Preparation {
        Preparation::start(self.in_force.load_full(), self.engine.clone(), swap)
    }

    /// Waits until names have other addresses, and puts a generation in force whose endpoints are there.
    /// Cancel safe.
    pub(super) async fn follow_names(&mut self) {
        loop {
            let refreshed = self.names.refresh(&mut self.known).await;
            self.metrics.resolved(refreshed.answered, refreshed.failed);
            if refreshed.moved {
                break;
            }
        }
        let generation = self.in_force.load().moved(&self.config, &self.known);
        let number = generation.number;
        self.put_in_force(generation);
        info!(generation = number, "endpoints have moved");
    }

    fn put_in_force(&self, generation: Generation) {
        let number = generation.number;
        self.in_force.store(Arc::new(generation));
        self.metrics.set_generation(number);
    }

    /// Puts a generation in force for new sessions; those that are open keep the one they began with.
    /// If it could not be built, the one in force stays.
    pub(super) fn finish(&mut self, built: Built) -> Result<u64, String> {
        match built {
            Ok(next) => {
                let (generation, swapped) = next.built.commit();
                swapped.iter().for_each(swap::end_grace_later);
                let number = generation.number;
                self.put_in_force(generation);
                (self.config, self.names, self.known) = (next.config, next.names, next.known);
                self.metrics.reloaded(ReloadResult::Success);
                info!(generation = number, "reloaded");
                Ok(number)
            }
            Err(error) => {
                self.metrics.reloaded(ReloadResult::Failure);
                error!(error, "reload failed; the generation in force stays");
                Err(error)
            }
        }
    }
}

/// A generation in the making.
pub(super) struct Build(JoinHandle<Built>);

/// What a build comes to: the next generation, or why there is none.
pub(super) type Built = Result<Next, String>;

/// The next generation, and what it was built from.
pub(super) struct Next {
    config: Config,
    names: Names,
    known: Known,
    built: generation::Built,
}

impl Build {
    /// Waits for it. Cancel safe.
    pub(super) async fn done(&mut self) -> Built {
        (&mut self.0)
            .await
            .unwrap_or_else(|panic| Err(panic.to_string()))
    }
}

fn build(
    source: &Source,
    running: &Config,
    engine: &Engine,
    logs: &AccessLogFiles,
    known: &Known,
    previous: &Generation,
) -> Result<Next, Error> {
    let loaded = source.load().map_err(Error::Config)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    if let Some(key) = needs_restart(running, &config) {
        return Err(Error::NeedsRestart {
            name: source.name().to_owned(),
            key,
        });
    }
    let (names, known) = Handle::current().block_on(resolve(&config, known))?;
    let built = Generation::build(&config, engine, logs, &known, Some(previous));
    let built = built.map_err(|errors| Error::Generation {
        name: source.name().to_owned(),
        errors,
    })?;
    Ok(Next {
        config,
        names,
        known,
        built,
    })
}

/// Returns the first key that differs and is only read at the start.
fn needs_restart(running: &Config, next: &Config) -> Option<&'static str> {
    [
        ("workers", running.workers != next.workers),
        ("admin", running.admin != next.admin),
        ("listeners", running.listeners != next.listeners),
    ]
    .into_iter()
    .find_map(|(key, differs)| differs.then_some(key))
}
