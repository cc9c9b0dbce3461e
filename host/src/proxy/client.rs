//! A client's connection, as its sessions see it: who it is, and what it waits for.
//!
//! `downstream/http1.rs` or `downstream/http2.rs` reads and writes it and acts on its watch.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::home::Home;
use super::sweep::Watch;
use super::worker::{ConnectionPermit, Worker};
use crate::stream::{Observer, Stream};

/// One connection of a client.
pub(crate) struct Client {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Where it came in.
    pub(crate) home: Home,
    /// None: it is not encrypted.
    pub(crate) tls: Option<Box<TlsFacts>>,
    pub(crate) http: Http,
    /// Number of the connection, from 1, over all workers.
    pub(crate) number: u64,
    requests: Cell<u64>,
    /// Expires when a head or the next request takes too long.
    pub(crate) watch: Watch,
    phase: Cell<Phase>,
    /// Of a connection that several sessions share: it is open until the last of them has ended.
    permit: Cell<Option<ConnectionPermit>>,
    /// Sessions under way. HTTP/1.1 has one at a time.
    sessions: Cell<usize>,
    ended: Cell<bool>,
    /// A write waits for the client to read.
    stalled: Cell<bool>,
    /// The response that is under way is the last one.
    last: Cell<bool>,
    header_read: Duration,
    keep_alive: Cell<Duration>,
}

/// What was agreed on in a TLS handshake.
#[derive(Debug)]
pub(crate) struct TlsFacts {
    /// `TLSv1.3`
    pub(crate) protocol: &'static str,
    /// The cipher suite by its OpenSSL name.
    pub(crate) cipher: &'static str,
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) is_resumed: bool,
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    /// Or 1.0.
    One,
    Two,
}

/// Takes a client's stream, the bytes that came after the request head, and the permit of the
/// connection if the stream is all of it.
pub(crate) type Handover = Box<dyn FnOnce(Stream, Bytes, Option<ConnectionPermit>)>;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request head.
    Head,
    /// A session, which has its own timeouts.
    Session,
}

impl Client {
    /// Notes a connection that was accepted. A client that connects is expected to ask.
    pub(crate) fn new(
        remote: SocketAddr,
        local: SocketAddr,
        home: Home,
        tls: Option<Box<TlsFacts>>,
        http: Http,
        worker: &Worker,
    ) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let generation = worker.generation();
        let watch = worker.sweep.watch();
        watch.arm(generation.timeouts.header_read);
        Self {
            remote,
            local,
            home,
            tls,
            http,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) + 1,
            requests: Cell::new(0),
            watch,
            phase: Cell::new(Phase::Head),
            permit: Cell::new(None),
            sessions: Cell::new(0),
            ended: Cell::new(false),
            stalled: Cell::new(false),
            last: Cell::new(false),
            header_read: generation.timeouts.header_read,
            keep_alive: Cell::new(generation.timeouts.keep_alive),
        }
    }

    /// Keeps the permit for as long as a session needs the connection.
    pub(crate) fn keep(&self, permit: ConnectionPermit) {
        self.permit.set(Some(permit));
    }

    /// Returns what the connection waits for.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Returns how many requests have come, the one that is under way included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Whether the client is to find another connection for what it asks next: the worker drains, or
    /// the listener that this one came in by has been removed.
    pub(crate) fn is_to_go(&self, worker: &Worker) -> bool {
        worker.sweep.is_draining() || self.home.is_gone(worker)
    }

    /// Returns how the client came in: `https` or `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Whether the client has ended its side.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Notes that a request head is complete.
    pub(crate) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.sessions.set(self.sessions.get() + 1);
        self.phase.set(Phase::Session);
        self.watch.disarm();
    }

    /// Notes that the connection ends with this response, because not all of its request is read.
    pub(crate) fn ends(&self) {
        self.last.set(true);
    }

    /// Notes that a session is over, but for what still waits to be written.
    pub(crate) fn rest(&self) {
        self.sessions.set(self.sessions.get() - 1);
        if self.sessions.get() == 0 && !self.last.get() {
            self.phase.set(Phase::Idle);
            self.watch.arm(self.keep_alive.get());
        }
    }

    /// Lets the client be idle for no longer than this from now on, since it was told to go.
    pub(crate) fn hurry(&self, keep_alive: Duration) {
        self.keep_alive.set(keep_alive);
        if self.sessions.get() == 0 {
            self.watch.arm(keep_alive);
        }
    }

    /// Whether the connection has had its time. While the client does not read what was written, it is
    /// not the one that is waited for, and the send timeout rules.
    pub(crate) fn is_late(&self) -> bool {
        if self.stalled.get() {
            self.watch.arm(self.keep_alive.get());
        }
        !self.stalled.get()
    }
}

impl Observer for Rc<Client> {
    fn read(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.set(true);
        } else if self.phase.get() == Phase::Idle && self.http == Http::One {
            self.phase.set(Phase::Head);
            self.watch.arm(self.header_read);
        }
    }

    fn wrote(&self, stalled: bool) {
        self.stalled.set(stalled);
        // What is written to a client of HTTP/2 that asks nothing may answer its pings.
        if self.phase.get() == Phase::Idle && self.http == Http::One {
            self.watch.touch();
        }
    }
}
