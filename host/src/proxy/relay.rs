//! From a handshake to the relay of what follows: as messages if a plugin wants any, else as bytes.
//!
//! A plugin that is swapped may want what its version before did not, or the reverse. So a session can
//! go from one kind of relay to the other, whenever it is between two messages on both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};

use super::compression::Legs;
use super::ending::Ending;
use super::failure::SessionFailure;
use super::liveness::Liveness;
use super::outlet::Outlet;
use super::registry::Entry;
use super::session::RouteHandle;
use super::sweep::Watch;
use super::worker::{ConnectionPermit, Worker};
use super::{filter, tunnel};
use crate::plugin::{ChainRun, Handshake, MessageChain, Opening, Sent};
use crate::stream::Stream;
use crate::telemetry::{Chain, Direction};

/// A session whose 101 is on its way, and all it needs but the client's stream.
pub(crate) struct Relay {
    pub(crate) worker: Rc<Worker>,
    pub(crate) service: Stream,
    /// What the service sent after its 101.
    pub(crate) service_early: Bytes,
    /// The session as operators see it.
    pub(crate) entry: Box<Entry>,
    /// The plugins that may want messages.
    pub(crate) chain: Option<(ChainRun, Arc<Handshake>)>,
    /// What the proxy agreed on with each side. Nothing, if there is no chain: then the sides did.
    pub(crate) compression: Legs,
    pub(crate) route: RouteHandle,
    pub(crate) ending: Ending,
}

/// The two ends of a session and what is counted while it lives.
pub(crate) struct Ends {
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Stream,
    pub(crate) service: Stream,
    /// How long the peers may take to end the session once it is over.
    pub(crate) close_timeout: Duration,
    pub(crate) ending: Ending,
    /// None: the client's stream is one of a connection that keeps its own.
    _permit: Option<ConnectionPermit>,
}

/// What ends a session by the clock.
pub(crate) struct Clocks {
    pub(crate) idle_timeout: Duration,
    /// None: it is no WebSocket, or its route asks for nothing.
    pub(crate) liveness: Option<Box<Liveness>>,
}

/// The plugins of a session, whether they see anything of it or not.
pub(crate) struct Watched {
    pub(crate) chain: MessageChain,
    pub(crate) compression: Legs,
    pub(crate) limits: filter::Limits,
    /// While nobody watches: as it was when somebody did last.
    pub(crate) counts: filter::Counts,
}

/// A session on its way from one kind of relay to the other, between two messages.
pub(crate) struct Crossing {
    pub(crate) ends: Ends,
    pub(crate) watch: Watch,
    pub(crate) liveness: Option<Box<Liveness>>,
    pub(crate) watched: Box<Watched>,
    /// What plugins have sent and is not framed yet.
    pub(crate) sent: Vec<Sent>,
    pub(crate) from_client: Way,
    pub(crate) from_service: Way,
}

/// One direction of it.
pub(crate) struct Way {
    pub(crate) outlet: Outlet,
    /// Read, but not looked at.
    pub(crate) unread: Vec<u8>,
    /// Read, `unread` included.
    pub(crate) bytes: u64,
}

/// Starts the task that relays. `client_early` is what the client sent after its request head.
///
/// The task holds no more than it needs: there may be a hundred thousand of them, most of them idle.
pub(crate) fn start(
    relay: Relay,
    client: Stream,
    client_early: Bytes,
    permit: Option<ConnectionPermit>,
) {
    let Relay {
        worker,
        service,
        service_early,
        entry,
        chain,
        compression,
        route,
        ending,
    } = relay;
    let websocket = &route.settings.websocket;
    let ends = Ends {
        worker,
        client,
        service,
        close_timeout: websocket.close_timeout,
        ending,
        _permit: permit,
    };
    ends.worker.metrics.sessions_opened.increment();
    ends.worker.metrics.sessions_open.increment();
    // hyper's buffers end here: kept, each would cost an idle session 8 KiB.
    let early = (client_early.to_vec(), service_early.to_vec());
    let bytes = &ends.worker.metrics.bytes;
    bytes[Direction::ToService].add(early.0.len() as u64);
    bytes[Direction::ToClient].add(early.1.len() as u64);
    let clocks = Clocks {
        idle_timeout: websocket.idle_timeout,
        liveness: entry
            .is_websocket
            .then(|| Liveness::new(websocket.liveness, ends.worker.sweep.now()))
            .flatten(),
    };
    let Some((chain, handshake)) = chain else {
        tokio::task::spawn_local(tunnel::run(ends, early, entry, clocks, None));
        return;
    };
    let mut sent = Vec::new();
    let opening = chain.open(&handshake, websocket.max_message_bytes, &mut sent);
    let watched = |chain| Watched {
        chain,
        compression,
        limits: filter::Limits {
            max_message_bytes: websocket.max_message_bytes,
            oversize: websocket.oversize,
        },
        counts: filter::Counts::default(),
    };
    match opening {
        Ok(Opening::Unwatched(chain)) if compression.is_transparent() => {
            let early = filter::behind(sent, early);
            let watched = Some(Box::new(watched(chain)));
            tokio::task::spawn_local(tunnel::run(ends, early, entry, clocks, watched));
        }
        Ok(Opening::Watched(chain) | Opening::Unwatched(chain)) => {
            let filter = filter::run(ends, early, entry, watched(chain), sent, clocks);
            tokio::task::spawn_local(filter);
        }
        Ok(Opening::Close { code, reason }) => {
            let failure = SessionFailure::ClosedByPlugin { code, reason };
            tokio::task::spawn_local(tunnel::refuse(ends, sent, failure));
        }
        Err(failure) => {
            let failure = SessionFailure::Plugin(failure);
            tokio::task::spawn_local(tunnel::refuse(ends, sent, failure));
        }
    }
}

impl Ends {
    /// Notes why the session ended badly.
    pub(crate) fn failed(&mut self, failure: &SessionFailure) {
        let error = Chain(failure);
        if matches!(failure, SessionFailure::Plugin(_)) {
            warn!(%error, "session failed");
        } else {
            debug!(%error, "session failed");
        }
        self.ending.failed(failure);
        if let Some(record) = &mut self.ending.notes {
            record.closed_by = Some(failure.closed_by());
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.worker.metrics.sessions_open.decrement();
    }
}
