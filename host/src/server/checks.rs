//! Health checks of the generation in force: one task for each endpoint, on the control thread.
//!
//! What a check is, is said in `upstream/check.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::HealthCheck;
use crate::generation::Generation;
use crate::telemetry::Chain;
use crate::upstream::{EndpointState, Upstream};

/// The checks that run.
pub(super) struct Checks {
    in_force: Arc<ArcSwap<Generation>>,
    /// By [`EndpointState::id`].
    running: HashMap<u64, Running>,
}

struct Running {
    settings: HealthCheck,
    state: Arc<EndpointState>,
    task: JoinHandle<()>,
}

impl Checks {
    /// Runs the checks of the generation in force.
    pub(super) fn start(in_force: &Arc<ArcSwap<Generation>>) -> Self {
        let mut checks = Self {
            in_force: in_force.clone(),
            running: HashMap::new(),
        };
        checks.renew();
        checks
    }

    /// Runs the checks of the generation in force, which is another one now. Those that are the same go
    /// on; an endpoint that is checked no longer counts as healthy.
    pub(super) fn renew(&mut self) {
        let generation = self.in_force.load();
        let mut before = std::mem::take(&mut self.running);
        for upstream in &generation.upstreams {
            let Some(settings) = &upstream.health else {
                continue;
            };
            for endpoint in upstream.endpoints.iter().filter(|e| !e.is_down()) {
                let id = endpoint.state.id;
                let running = match before.remove(&id) {
                    Some(running) if running.settings == *settings => running,
                    other => {
                        if let Some(other) = other {
                            other.task.abort();
                        }
                        let watch = watch(self.in_force.clone(), upstream.name.clone(), id);
                        Running {
                            settings: settings.clone(),
                            state: endpoint.state.clone(),
                            task: tokio::spawn(watch),
                        }
                    }
                };
                self.running.insert(id, running);
            }
        }
        for gone in before.into_values() {
            gone.task.abort();
            gone.state.health.set_healthy(true);
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

/// Checks one endpoint again and again, until no generation in force has it.
async fn watch(in_force: Arc<ArcSwap<Generation>>, name: String, id: u64) {
    let mut streak = 0;
    let mut wait = None;
    // The upstream is looked up each time, so that its TLS settings are those in force.
    loop {
        let Some((upstream, index)) = find(&in_force.load(), &name, id) else {
            return;
        };
        let Some(settings) = &upstream.health else {
            return;
        };
        // Checks do not begin all at once, neither at the start nor later.
        let jitter = settings.jitter.mul_f64(fastrand::f64());
        tokio::time::sleep(wait.unwrap_or(Duration::ZERO) + jitter).await;
        wait = Some(settings.interval.saturating_sub(settings.jitter / 2));
        check(&upstream, index, settings, &mut streak).await;
    }
}

fn find(generation: &Generation, name: &str, id: u64) -> Option<(Arc<Upstream>, usize)> {
    generation.upstreams.iter().find_map(|upstream| {
        let mut endpoints = upstream.endpoints.iter();
        let index = endpoints.position(|endpoint| endpoint.state.id == id)?;
        (upstream.name == name).then(|| (upstream.clone(), index))
    })
}

/// Checks once. `streak`: results in a row that contradict what is believed of the endpoint.
async fn check(upstream: &Upstream, index: usize, settings: &HealthCheck, streak: &mut u32) {
    let endpoint = &upstream.endpoints[index];
    let state = &endpoint.state;
    let result = upstream.check(endpoint, settings).await;
    state.health.checked(result.is_ok());
    if result.is_ok() == state.health.is_healthy() {
        *streak = 0;
        return;
    }
    *streak += 1;
    let (upstream, endpoint) = (&upstream.name, &endpoint.name);
    match result {
        Ok(()) if *streak >= settings.rise => {
            state.health.set_healthy(true);
            info!(%upstream, %endpoint, "endpoint is healthy again");
        }
        Err(error) if *streak >= settings.fall => {
            state.health.set_healthy(false);
            warn!(%upstream, %endpoint, error = %Chain(&error), "endpoint is unhealthy");
        }
        _ => return,
    }
    *streak = 0;
}
