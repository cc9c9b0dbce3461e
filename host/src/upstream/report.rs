//! Upstreams as operators see them, and what operators may do to their endpoints while they run.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Balance, Endpoint, Upstream, health};

/// An endpoint as it was when somebody asked.
pub(crate) struct EndpointReport {
    pub(crate) address: SocketAddr,
    /// Host and port as the configuration has them.
    pub(crate) written: String,
    pub(crate) weight: u32,
    /// Another one, if an operator has set `weight`.
    pub(crate) configured_weight: u32,
    pub(crate) is_backup: bool,
    /// By the configuration.
    pub(crate) is_down: bool,
    /// By an operator.
    pub(crate) is_drained: bool,
    /// Whether it would get something now, if it has room.
    pub(crate) is_up: bool,
    /// By its health checks; None: there are none.
    pub(crate) is_healthy: Option<bool>,
    /// Checks that it has passed, and those that it has not.
    pub(crate) checks: (u64, u64),
    /// Exchanges and sessions.
    pub(crate) open: u32,
    /// 0: any number.
    pub(crate) max_connections: u32,
    /// Those that count against it.
    pub(crate) failures: u32,
}

impl Upstream {
    /// Returns how its endpoints are.
    pub(crate) fn report(&self) -> impl Iterator<Item = EndpointReport> {
        let now = health::now();
        let alone = self.endpoints.len() == 1;
        let is_checked = self.health.is_some();
        self.endpoints.iter().map(move |endpoint| {
            let state = &endpoint.state;
            EndpointReport {
                address: endpoint.address,
                written: endpoint.written.clone(),
                weight: endpoint.weight,
                configured_weight: endpoint.configured_weight,
                is_backup: endpoint.backup,
                is_down: endpoint.is_down(),
                is_drained: state.is_drained(),
                is_up: endpoint.is_up(alone, now),
                is_healthy: is_checked.then(|| state.health.is_healthy()),
                checks: state.health.checks(),
                open: state.open(),
                max_connections: endpoint.max_connections,
                failures: state.health.failures(),
            }
        })
    }

    /// Returns how the upstream shares out requests, in the words of the configuration.
    pub(crate) fn balance_name(&self) -> &'static str {
        match self.balance {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
            Balance::IpHash => "ip-hash",
            Balance::RandomTwo => "random-two",
            Balance::Hash { .. } => "hash",
            Balance::Ring { .. } => "consistent-hash",
        }
    }

    /// Takes endpoints out, or back in, at once and for all workers. Returns how many there are.
    pub(crate) fn set_drained(&self, name: &str, drained: bool) -> usize {
        let named = self.named(name);
        named
            .map(|endpoint| endpoint.state.set_drained(drained))
            .count()
    }

    /// Sets a weight for the generation that is made next; None: that of the configuration. Returns of how
    /// many endpoints.
    pub(crate) fn set_weight(&self, name: &str, weight: Option<u32>) -> usize {
        let named = self.named(name);
        let set = |endpoint: &Endpoint| {
            let configured = endpoint.configured_weight;
            let weight = weight.unwrap_or(configured);
            endpoint.state.set_weight(configured, weight);
        };
        named.map(set).count()
    }

    /// Forgets weights that were set while the configuration had others.
    pub(crate) fn settle(upstream: &Arc<Self>) {
        for endpoint in &upstream.endpoints {
            endpoint.state.settle(endpoint.configured_weight);
        }
    }

    /// The endpoint of an address, or all those of a host and port as they are written.
    fn named(&self, name: &str) -> impl Iterator<Item = &Endpoint> {
        let endpoints = self.endpoints.iter();
        endpoints.filter(move |endpoint| *endpoint.name == *name || endpoint.written == name)
    }
}
