//! The service's side: named groups of endpoints, which of them are up, and connections to them.
//!
//! Which upstream a request goes to is `route.rs`'s decision; what is sent over a connection is
//! `proxy/`'s.

mod body;
mod connect;
mod health;
mod pick;
mod pool;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::config;

pub(crate) use body::{BodyProblem, BodyProgress, RequestBody};
pub(crate) use connect::{Sending, http1};
pub(crate) use health::Health;
pub(crate) use pick::{Balancer, Tried};
pub(crate) use pool::{Pools, Sender};

/// Why the service could not be reached or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("upstream `{upstream}` has no endpoint left to try")]
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
    /// Idle connections kept per worker and endpoint.
    pub(crate) keep_alive: usize,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) tls: Option<Tls>,
}

/// TLS towards an upstream.
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
    settings: config::UpstreamTls,
}

/// One address of an upstream.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// [`Self::address`] as text.
    pub(crate) name: Arc<str>,
    pub(crate) weight: u32,
    pub(crate) backup: bool,
    max_fails: u32,
    fail_timeout: Duration,
    pub(crate) state: Arc<EndpointState>,
}

/// What all workers know of an endpoint. It outlives reloads that keep the address.
pub(crate) struct EndpointState {
    /// Unique in the process; key of the pools.
    pub(crate) id: u64,
    pub(crate) health: Health,
    open: AtomicU32,
}

/// An exchange or session counted as open at an endpoint until this is dropped.
pub(crate) struct Open(Arc<EndpointState>);

impl Upstream {
    /// Whether this is what `settings` name, so that what is known of its endpoints still holds.
    pub(crate) fn serves(&self, settings: &config::Upstream) -> bool {
        let tls = self.tls.as_ref().map(|tls| &tls.settings);
        self.name == settings.name && tls == settings.tls.as_ref()
    }

    /// Makes an upstream. What `previous`, which [`serves`](Self::serves) the same in the generation
    /// before, knows of its endpoints is kept.
    pub(crate) fn new(
        settings: &config::Upstream,
        previous: Option<&Self>,
    ) -> Result<Self, crate::certificates::Error> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let endpoints: Vec<_> = settings
            .endpoints
            .iter()
            .map(|endpoint| Endpoint::new(endpoint, previous))
            .collect();
        let same = previous.filter(|old| {
            old.endpoints.len() == endpoints.len()
                && old
                    .endpoints
                    .iter()
                    .zip(&endpoints)
                    .all(|(a, b)| a.is_same(b))
        });
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                let (config, server_name) = crate::certificates::client_config(tls)?;
                Some(Tls {
                    config,
                    server_name,
                    settings: tls.clone(),
                })
            }
        };
        Ok(Self {
            id: same.map_or_else(|| NEXT_ID.fetch_add(1, Ordering::Relaxed), |old| old.id),
            name: settings.name.clone(),
            host: HeaderValue::from_str(&settings.name).ok(),
            endpoints,
            keep_alive: settings.keep_alive,
            keep_alive_timeout: settings.keep_alive_timeout,
            tls,
        })
    }
}

impl Endpoint {
    fn new(settings: &config::Endpoint, previous: Option<&Upstream>) -> Self {
        let kept = previous
            .and_then(|old| {
                old.endpoints
                    .iter()
                    .find(|old| old.address == settings.address)
            })
            .map(|old| old.state.clone());
        Self {
            address: settings.address,
            name: settings.address.to_string().into(),
            weight: settings.weight,
            backup: settings.backup,
            max_fails: settings.max_fails,
            fail_timeout: settings.fail_timeout,
            state: kept.unwrap_or_else(EndpointState::new),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.weight == other.weight
            && self.backup == other.backup
            && self.max_fails == other.max_fails
            && self.fail_timeout == other.fail_timeout
    }
}

impl EndpointState {
    fn new() -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            health: Health::default(),
            open: AtomicU32::new(0),
        })
    }

    /// Returns the exchanges and sessions open now, over all workers.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
