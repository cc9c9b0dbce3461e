//! The service's side: named groups of endpoints, which of them are up, and connections to them.
//!
//! Which upstream a request goes to is `route.rs`'s decision; what is sent over a connection is
//! `proxy/`'s.

mod body;
mod check;
mod connect;
mod endpoint;
mod hash;
mod health;
mod names;
mod pick;
mod pool;
mod report;
mod sticky;
#[cfg(test)]
mod tests;
mod turns;

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;

use crate::certificates::{self, Trust};
use crate::config::{self, Template};
use hash::Ring;

pub(crate) use body::{BodyProblem, BodyProgress, RequestBody};
pub(crate) use connect::{Sending, http1};
pub(crate) use endpoint::{Endpoint, EndpointState, Open};
pub(crate) use hash::Key;
pub(crate) use names::{Error as NamesError, Known, Names};
pub(crate) use pick::{Balancer, Search};
pub(crate) use pool::{Pools, Sender};
pub(crate) use report::EndpointReport;
pub(crate) use sticky::Sticky;

/// Why the service could not be reached or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// nginx says it in these words.
    #[error("no live upstreams in `{upstream}`")]
    NoEndpoint { upstream: String },
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("TLS handshake with {address} failed")]
    Tls {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{address} took longer than {timeout:?} to {action}")]
    Timeout {
        address: SocketAddr,
        action: &'static str,
        timeout: Duration,
    },
    #[error("{address} answered with {status}")]
    Status {
        address: SocketAddr,
        status: http::StatusCode,
    },
    /// It has switched protocols, and not as it was asked to.
    #[error("{address} answered wrongly: {why}")]
    Answer {
        address: SocketAddr,
        why: Cow<'static, str>,
    },
    #[error("connection to {address} failed before the response")]
    Exchange {
        address: SocketAddr,
        source: hyper::Error,
    },
}

/// A named group of endpoints. Immutable; what changes while it runs is in [`EndpointState`].
pub(crate) struct Upstream {
    /// Never used again for another list of endpoints.
    pub(crate) id: u32,
    pub(crate) name: String,
    /// The name as the `Host` of requests; none if it cannot stand there.
    pub(crate) host: Option<HeaderValue>,
    /// In the order of the configuration.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Endpoints that were here before and still have something open.
    former: Vec<(SocketAddr, Weak<EndpointState>)>,
    pub(crate) balance: Balance,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) health: Option<config::HealthCheck>,
    /// Of all endpoints; those chosen by weight have no backups among them.
    total_weight: u64,
    /// Idle connections kept per worker and endpoint.
    pub(crate) keep_alive: usize,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) tls: Option<Tls>,
    /// What it was made from.
    settings: config::Upstream,
}

/// TLS towards an upstream.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) trust: Trust,
    settings: config::UpstreamTls,
}

/// How an upstream shares out requests, with what is worked out of its endpoints beforehand.
pub(crate) enum Balance {
    RoundRobin,
    LeastConnections,
    IpHash,
    RandomTwo,
    Hash { key: Template },
    Ring { key: Template, ring: Ring },
}

/// The upstream of the generation before from which one is made.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a> {
    Nothing,
    /// It [serves](Upstream::serves) the same, and what it knows of its endpoints holds.
    Same(&'a Arc<Upstream>),
    /// It has the same name and other TLS settings: connections to it must not be used, and whether its
    /// endpoints were well says nothing. What operators have said of them holds.
    Named(&'a Upstream),
}

impl<'a> Before<'a> {
    fn same(self) -> Option<&'a Arc<Upstream>> {
        match self {
            Self::Same(old) => Some(old),
            Self::Nothing | Self::Named(_) => None,
        }
    }
}

impl Upstream {
    /// Whether this is what `settings` name, so that what is known of its endpoints still holds.
    pub(crate) fn serves(&self, settings: &config::Upstream) -> bool {
        let tls = self.tls.as_ref().map(|tls| &tls.settings);
        self.name == settings.name && tls == settings.tls.as_ref()
    }

    /// Makes an upstream, with an endpoint for each address of its hosts. If nothing differs from the same
    /// one before, it is that which is returned.
    pub(crate) fn new(
        settings: &config::Upstream,
        known: &Known,
        before: Before<'_>,
    ) -> Result<Arc<Self>, certificates::Error> {
        let previous = before.same();
        let trusted = previous.and_then(|old| old.tls.as_ref());
        let tls = match &settings.tls {
            None => None,
            Some(tls) => Some(Tls {
                trust: certificates::client_config(tls, trusted.map(|tls| &tls.trust))?,
                settings: tls.clone(),
            }),
        };
        let has_trust = |old: &Self| match (&old.tls, &tls) {
            (Some(old), Some(new)) => old.trust.is(&new.trust),
            (old, new) => old.is_none() && new.is_none(),
        };
        let same = previous.filter(|old| old.settings == *settings && has_trust(old));
        if let Some(same) = same.filter(|old| old.is_there(settings, known)) {
            return Ok(same.clone());
        }
        Ok(Arc::new(Self::assemble(settings, known, before, tls)))
    }

    /// Returns the same upstream with the addresses that its hosts have now, and the weights that count now.
    /// None: they are the same.
    pub(crate) fn moved(
        self: &Arc<Self>,
        settings: &config::Upstream,
        known: &Known,
    ) -> Option<Arc<Self>> {
        let moved = !self.is_there(settings, known);
        let assemble = || Self::assemble(settings, known, Before::Same(self), self.tls.clone());
        moved.then(|| Arc::new(assemble()))
    }

    /// Whether the endpoints are those that `settings` mean now.
    fn is_there(&self, settings: &config::Upstream, known: &Known) -> bool {
        let now = addresses(settings, known).map(|(endpoint, address)| {
            let state = self.state(address);
            let weight = state.map_or(endpoint.weight, |state| state.weight(endpoint.weight));
            (address, weight)
        });
        let endpoints = self.endpoints.iter();
        now.eq(endpoints.map(|endpoint| (endpoint.address, endpoint.weight)))
    }

    fn assemble(
        settings: &config::Upstream,
        known: &Known,
        before: Before<'_>,
        tls: Option<Tls>,
    ) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let endpoints: Vec<_> = addresses(settings, known)
            .map(|(endpoint, address)| Endpoint::new(endpoint, address, before))
            .collect();
        let previous = before.same();
        let same = previous.filter(|old| {
            old.endpoints.len() == endpoints.len()
                && old
                    .endpoints
                    .iter()
                    .zip(&endpoints)
                    .all(|(a, b)| a.is_same(b))
        });
        Self {
            id: same.map_or_else(|| NEXT_ID.fetch_add(1, Ordering::Relaxed), |old| old.id),
            name: settings.name.clone(),
            host: HeaderValue::from_str(&settings.name).ok(),
            former: previous.map_or_else(Vec::new, |old| old.without(&endpoints)),
            balance: Balance::new(&settings.balance, &endpoints),
            sticky: settings
                .sticky
                .as_ref()
                .map(|settings| Sticky::new(settings, &endpoints)),
            health: settings.health.clone(),
            total_weight: endpoints.iter().map(|e| u64::from(e.weight)).sum(),
            endpoints,
            keep_alive: settings.keep_alive,
            keep_alive_timeout: settings.keep_alive_timeout,
            tls,
            settings: settings.clone(),
        }
    }

    /// Returns what is known of an address, also of one that went and came back while something was still
    /// open there.
    fn state(&self, address: SocketAddr) -> Option<Arc<EndpointState>> {
        let mut endpoints = self.endpoints.iter();
        let known = endpoints.find(|endpoint| endpoint.address == address);
        known.map(|endpoint| endpoint.state.clone()).or_else(|| {
            let mut former = self.former.iter();
            former.find(|(other, _)| *other == address)?.1.upgrade()
        })
    }

    /// Returns the endpoints of this upstream, and of those before it, that are not among `others` and
    /// have something open.
    fn without(&self, others: &[Endpoint]) -> Vec<(SocketAddr, Weak<EndpointState>)> {
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.map(|e| (e.address, Arc::downgrade(&e.state)));
        let mut former: Vec<_> = self.former.iter().cloned().chain(endpoints).collect();
        former.retain(|(address, state)| {
            let is_gone = others.iter().all(|other| other.address != *address);
            is_gone && state.upgrade().is_some_and(|state| state.open() > 0)
        });
        former
    }

    /// Returns what a request is chosen by, if it is a text made from the request.
    pub(crate) fn key(&self) -> Option<&Template> {
        match &self.balance {
            Balance::Hash { key } | Balance::Ring { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// Returns the addresses of an upstream's hosts, each once.
fn addresses<'a>(
    settings: &'a config::Upstream,
    known: &'a Known,
) -> impl Iterator<Item = (&'a config::Endpoint, SocketAddr)> {
    let mut seen = HashSet::new();
    let endpoints = settings.endpoints.iter().flat_map(|endpoint| {
        let addresses = known.addresses(&endpoint.host).iter();
        addresses.map(move |&address| (endpoint, SocketAddr::new(address, endpoint.port)))
    });
    endpoints.filter(move |(_, address)| seen.insert(*address))
}

impl Balance {
    fn new(settings: &config::Balance, endpoints: &[Endpoint]) -> Self {
        match settings {
            config::Balance::RoundRobin => Self::RoundRobin,
            config::Balance::LeastConnections => Self::LeastConnections,
            config::Balance::IpHash => Self::IpHash,
            config::Balance::RandomTwo => Self::RandomTwo,
            config::Balance::Hash { key, consistent } => {
                let key = key.clone();
                if *consistent {
                    let ring = Ring::new(endpoints);
                    Self::Ring { key, ring }
                } else {
                    Self::Hash { key }
                }
            }
        }
    }
}
