//! A client's connection, as its sessions see it: who it is, and what it waits for.
//!
//! `downstream/http.rs` reads and writes it and acts on its watch.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::sweep::Watch;
use super::worker::{ConnectionPermit, Worker};
use crate::stream::{Observer, Stream};

/// One connection of a client.
pub(crate) struct Client {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Place of the listener it came in by.
    pub(crate) listener: usize,
    /// None: it is not encrypted.
    pub(crate) tls: Option<Box<TlsFacts>>,
    /// Number of the connection, from 1, over all workers.
    pub(crate) number: u64,
    requests: Cell<u64>,
    /// What takes over the connection after a 101 went out.
    pub(crate) handover: RefCell<Option<Handover>>,
    /// Expires when a head or the next request takes too long.
    pub(crate) watch: Watch,
    phase: Cell<Phase>,
    ended: Cell<bool>,
    /// A write waits for the client to read.
    stalled: Cell<bool>,
    /// The response that is under way is the last one.
    last: Cell<bool>,
    header_read: Duration,
    keep_alive: Duration,
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

/// Takes a client's stream, the bytes that came after the request head, and the permit.
pub(crate) type Handover = Box<dyn FnOnce(Stream, Bytes, ConnectionPermit)>;

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
        listener: usize,
        tls: Option<Box<TlsFacts>>,
        worker: &Worker,
    ) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let generation = worker.generation();
        let watch = worker.sweep.watch();
        watch.arm(generation.timeouts.header_read);
        Self {
            remote,
            local,
            listener,
            tls,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) + 1,
            requests: Cell::new(0),
            handover: RefCell::default(),
            watch,
            phase: Cell::new(Phase::Head),
            ended: Cell::new(false),
            stalled: Cell::new(false),
            last: Cell::new(false),
            header_read: generation.timeouts.header_read,
            keep_alive: generation.timeouts.keep_alive,
        }
    }

    /// Returns what the connection waits for.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Returns how many requests have come, the one that is under way included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Whether the client has ended its side.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Notes that a request head is complete.
    pub(crate) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.phase.set(Phase::Session);
        self.watch.disarm();
    }

    /// Notes that the connection ends with this response, because not all of its request is read.
    pub(crate) fn ends(&self) {
        self.last.set(true);
    }

    /// Notes that an exchange is over, but for what still waits to be written.
    pub(crate) fn rest(&self) {
        if !self.last.get() {
            self.phase.set(Phase::Idle);
            self.watch.arm(self.keep_alive);
        }
    }

    /// Whether the connection has had its time. While the client does not read what was written, it is
    /// not the one that is waited for, and the send timeout rules.
    pub(crate) fn is_late(&self) -> bool {
        if self.stalled.get() {
            self.watch.arm(self.keep_alive);
        }
        !self.stalled.get()
    }
}

impl Observer for Rc<Client> {
    fn read(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.set(true);
        } else if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.watch.arm(self.header_read);
        }
    }

    fn wrote(&self, stalled: bool) {
        self.stalled.set(stalled);
        if self.phase.get() == Phase::Idle {
            self.watch.touch();
        }
    }
}
