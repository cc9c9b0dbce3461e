//! Puts the next generation in force, or says why not and changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::difference::{self, Change};
use super::swap::{self, Preparation, Swap};
use super::workers::Lines;
use super::{Error, Source, resolve};
use crate::config::{Config, Module};
use crate::downstream::Listener;
use crate::generation::{self, Generation};
use crate::plugin::Engine;
use crate::telemetry::{AccessLogFiles, Metrics, ReloadResult};
use crate::upstream::{Known, Names, Upstream};

/// What a reload did, or would do.
pub(super) struct Reloaded {
    /// In force now.
    pub(super) generation: u64,
    /// Nothing: the generation is the one that was in force before.
    pub(super) changes: Vec<Change>,
}

/// A weight that an operator sets.
pub(super) struct SetWeight {
    pub(super) upstream: String,
    /// By address, or as written.
    pub(super) endpoint: String,
    /// None: as the configuration has it.
    pub(super) weight: Option<u32>,
}

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

    /// Returns the files whose change means a reload: those that plugins were loaded from and, if the
    /// configuration says so, its own and those of certificates.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let plugins = self.config.plugins.iter();
        let modules = plugins.filter_map(|plugin| match &plugin.module {
            Module::File(path) => Some(path.clone()),
            Module::Builtin(_) => None,
        });
        let mut files: Vec<_> = modules.collect();
        if self.config.watch {
            let own = match &self.source {
                Source::File(path) => Some(path.clone()),
                Source::Text { .. } => None,
            };
            let pairs = self
                .config
                .sites
                .iter()
                .filter_map(|site| site.certificate.as_ref());
            let pairs = pairs.flat_map(|pair| [pair.chain.clone(), pair.key.clone()]);
            let tls = self
                .config
                .upstreams
                .iter()
                .filter_map(|up| up.tls.as_ref());
            files.extend(
                own.into_iter()
                    .chain(pairs)
                    .chain(tls.filter_map(|tls| tls.ca.clone())),
            );
        }
        files
    }

    /// Begins to build the next generation from what the source says now. Compiling takes up to
    /// seconds, so this is done on another thread. `trial`: nothing but the difference is wanted.
    pub(super) fn start(&self, trial: bool) -> Build {
        let (source, engine) = (self.source.clone(), self.engine.clone());
        let logs = match trial {
            true => Arc::new(AccessLogFiles::for_trial()),
            false => self.logs.clone(),
        };
        let (running, previous) = (self.config.clone(), self.in_force.load_full());
        let known = self.known.clone();
        Build(tokio::task::spawn_blocking(move || {
            let mut next = build(&source, &running, &engine, &logs, &known, &previous)
                .map_err(|error| error.to_string())?;
            if !trial {
                let bound = bind(&running, &next.config, &previous, &next.built.generation);
                next.sockets = bound.map_err(|error| error.to_string())?;
            }
            Ok(next)
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

    /// Sets the weight of endpoints, for new sessions; None: that of the configuration. Returns the number of
    /// the generation in force then, or that there is no such endpoint.
    pub(super) fn set_weight(&self, set: &SetWeight) -> Option<u64> {
        let before = self.in_force.load();
        let upstreams = before.upstreams.iter().filter(|up| up.name == set.upstream);
        let found: usize = upstreams
            .map(|upstream| upstream.set_weight(&set.endpoint, set.weight))
            .sum();
        if found == 0 {
            return None;
        }
        let generation = before.moved(&self.config, &self.known);
        let number = generation.number;
        self.put_in_force(generation);
        let SetWeight {
            upstream,
            endpoint,
            weight,
        } = set;
        info!(
            upstream,
            endpoint,
            weight,
            generation = number,
            "weight set"
        );
        Some(number)
    }

    fn put_in_force(&self, generation: Generation) {
        let number = generation.number;
        generation.upstreams.iter().for_each(Upstream::settle);
        self.in_force.store(Arc::new(generation));
        self.metrics.set_generation(number);
    }

    /// Returns what a generation that was built to be looked at would change.
    pub(super) fn compare(&self, built: Built) -> Result<Reloaded, String> {
        let in_force = self.in_force.load();
        built.map(|next| Reloaded {
            generation: in_force.number,
            changes: difference::between((&self.config, &in_force), (&next.config, &next.built)),
        })
    }

    /// Puts a generation in force for new sessions, unless it is the same as the one that is; those that
    /// are open keep the one they began with. If it could not be built, the one in force stays.
    pub(super) fn finish(&mut self, built: Built, workers: &Lines) -> Result<Reloaded, String> {
        let next = built.inspect_err(|error| {
            self.metrics.reloaded(ReloadResult::Failure);
            error!(error, "reload failed; the generation in force stays");
        })?;
        self.metrics.reloaded(ReloadResult::Success);
        let before = self.in_force.load_full();
        let changes = difference::between((&self.config, &before), (&next.config, &next.built));
        (self.names, self.known) = (next.names, next.known);
        if changes.is_empty() {
            let generation = before.number;
            info!(generation, "nothing has changed");
            return Ok(Reloaded {
                generation,
                changes,
            });
        }
        let (generation, swapped) = next.built.commit();
        swapped.iter().for_each(swap::end_grace_later);
        let number = generation.number;
        self.config = next.config;
        self.put_in_force(generation);
        let after = self.in_force.load_full();
        for sockets in next.sockets {
            workers.listen(sockets, &after);
        }
        for gone in before
            .listeners
            .iter()
            .filter(|old| after.listener(old.id).is_none())
        {
            info!(address = %gone.bind, "listening no more");
            workers.close(gone.id);
        }
        info!(generation = number, "reloaded");
        Ok(Reloaded {
            generation: number,
            changes,
        })
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
    /// Of listeners that are new: one for each worker.
    sockets: Vec<Vec<Listener>>,
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
    let keys = need_restart(running, &config);
    if !keys.is_empty() {
        return Err(Error::NeedsRestart {
            name: source.name().to_owned(),
            keys,
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
        sockets: Vec::new(),
    })
}

/// Binds the listeners that are new. All of them, or none.
fn bind(
    running: &Config,
    next: &Config,
    before: &Generation,
    after: &Generation,
) -> Result<Vec<Vec<Listener>>, Error> {
    let is_new = |listener: &&generation::Listener| before.listener(listener.id).is_none();
    let listeners = after.listeners.iter().filter(is_new);
    super::bind(listeners, next.workers, |address| {
        let port = address.port();
        port != 0
            && running
                .listeners
                .iter()
                .any(|held| held.bind.port() == port)
    })
    .map(|bound| bound.into_iter().map(|(_, sockets)| sockets).collect())
}

/// Returns the keys that differ and are only read at the start.
fn need_restart(running: &Config, next: &Config) -> Vec<&'static str> {
    let keys = [
        ("workers", running.workers != next.workers),
        ("admin", running.admin != next.admin),
    ];
    let differ = keys.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}
