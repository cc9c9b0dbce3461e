//! Idle connections to endpoints, one pool per worker.
//!
//! A connection comes back when its response has been read to the end; making new ones is
//! `connect.rs`'s business.

use std::cell::RefCell;

use foldhash::HashMap;
use hyper::client::conn::http1::SendRequest;

use super::{EndpointState, RequestBody, Upstream, health};

/// The sending half of an HTTP/1.1 connection to a service.
pub(crate) type Sender = SendRequest<RequestBody>;

/// Idle connections of one worker, by endpoint.
#[derive(Default)]
pub(crate) struct Pools {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
}

struct Idle {
    sender: Sender,
    /// In milliseconds of [`health::now`].
    expires: u64,
}

impl Pools {
    /// Takes the connection used last. None: a new one is needed.
    pub(crate) fn take(&self, endpoint: &EndpointState) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint.id)?;
        connections.retain(|idle| !idle.sender.is_closed());
        // One that came back a moment ago may not have seen the end of its response yet.
        let ready = connections
            .iter()
            .rposition(|idle| idle.sender.is_ready())?;
        Some(connections.remove(ready).sender)
    }

    /// Keeps a connection whose response has been read. The one used longest ago goes when there are
    /// more than the upstream keeps.
    pub(crate) fn put(&self, upstream: &Upstream, endpoint: &EndpointState, sender: Sender) {
        if upstream.keep_alive == 0 || sender.is_closed() {
            return;
        }
        let timeout = u64::try_from(upstream.keep_alive_timeout.as_millis()).unwrap_or(u64::MAX);
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(endpoint.id).or_default();
        if connections.len() >= upstream.keep_alive {
            connections.remove(0);
        }
        connections.push(Idle {
            sender,
            expires: health::now().saturating_add(timeout),
        });
    }

    /// Closes connections that have been idle for too long or were closed by the service.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return;
        }
        let now = health::now();
        idle.retain(|_, connections| {
            connections.retain(|idle| idle.expires > now && !idle.sender.is_closed());
            !connections.is_empty()
        });
    }

    /// Closes every idle connection.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}
