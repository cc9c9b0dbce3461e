//! What one worker thread owns: pools, plugin instances, buffers and clocks. Nothing in here is
//! shared with another worker, so nothing in here needs a lock.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::call_out;
use super::sweep::Sweep;
use crate::generation::Generation;
use crate::plugin::Instances;
use crate::protocol::deflate::Codec;
use crate::telemetry::{AccessLogs, Clock, EndpointMetrics, WorkerMetrics};
use crate::upstream::{Balancer, Endpoint, Pools, Upstream};

/// Size of the buffer that all relays of a worker read into. At 64 KiB, messages of that size cost
/// four reads where one does.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Sessions that move to another version of a plugin before the others get a turn. Each takes some
/// ten microseconds.
const SESSIONS_AT_ONCE: usize = 64;

/// Snapshots that are taken of an instance before the others get a turn. Each takes a few microseconds.
const SNAPSHOTS_AT_ONCE: usize = 64;

/// State of one worker thread.
pub(crate) struct Worker {
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) pools: Pools,
    pub(crate) balancer: Balancer,
    pub(crate) instances: Instances,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) access_logs: AccessLogs,
    pub(crate) buffers: RefCell<Buffers>,
    pub(crate) clock: RefCell<Clock>,
    /// By [`EndpointState::id`](crate::upstream::EndpointState::id).
    endpoints: RefCell<HashMap<u64, Arc<EndpointMetrics>>>,
    /// Client connections open.
    connections: Cell<usize>,
    /// Exchanges that go on without their client's connection.
    orphans: Cell<usize>,
    in_force: Arc<ArcSwap<Generation>>,
    /// The generation as of the last look.
    cached: RefCell<Rc<InForce>>,
    /// Tells of another generation when it is looked at.
    renewed: Notify,
}

/// A generation as one worker's sessions hold it: by an `Rc` of their own, so that they do not contend
/// for the count of the `Arc` that all workers hold.
pub(crate) struct InForce(Arc<Generation>);

impl Deref for InForce {
    type Target = Generation;

    fn deref(&self) -> &Generation {
        &self.0
    }
}

/// Buffers that relays borrow while they run and never across an await.
pub(crate) struct Buffers {
    /// What a read goes into.
    pub(crate) read: Box<[u8]>,
    /// A message, unmasked.
    pub(crate) message: Vec<u8>,
    /// What a relay is about to write, where that is not simply what it read.
    pub(crate) write: Vec<u8>,
    /// Messages are compressed and inflated in here.
    pub(crate) codec: Codec,
}

/// One client connection, counted until this is dropped.
pub(crate) struct ConnectionPermit(Rc<Worker>);

/// One exchange whose client is gone, counted like its connection until this is dropped.
pub(crate) struct Orphan(Rc<Worker>);

impl Worker {
    /// Makes the state of worker number `index`.
    pub(crate) fn new(
        index: usize,
        in_force: Arc<ArcSwap<Generation>>,
        metrics: Arc<WorkerMetrics>,
    ) -> Rc<Self> {
        let cached = RefCell::new(Rc::new(InForce(in_force.load_full())));
        Rc::new_cyclic(|worker| Self {
            sweep: Rc::default(),
            pools: Pools::default(),
            balancer: Balancer::new(index),
            instances: Instances::new(metrics.clone(), call_out::caller(worker.clone())),
            metrics,
            access_logs: AccessLogs::default(),
            buffers: RefCell::new(Buffers {
                read: vec![0; READ_BUFFER_BYTES].into(),
                message: Vec::new(),
                write: Vec::new(),
                codec: Codec::default(),
            }),
            clock: RefCell::new(Clock::system()),
            endpoints: RefCell::default(),
            connections: Cell::new(0),
            orphans: Cell::new(0),
            in_force,
            cached,
            renewed: Notify::new(),
        })
    }

    /// Returns the generation in force.
    pub(crate) fn generation(&self) -> Rc<InForce> {
        let in_force = self.in_force.load();
        let mut cached = self.cached.borrow_mut();
        if !Arc::ptr_eq(&in_force, &cached.0) {
            *cached = Rc::new(InForce(Arc::clone(&in_force)));
            let generation = cached.clone();
            drop(cached);
            self.balancer.retain(|id| {
                generation
                    .upstreams
                    .iter()
                    .any(|upstream| upstream.id == id)
            });
            self.endpoints.borrow_mut().retain(|id, _| {
                let mut endpoints = generation.upstreams.iter().flat_map(|up| &up.endpoints);
                endpoints.any(|endpoint| endpoint.state.id == *id)
            });
            self.metrics.retain_endpoints(|name, address| {
                let mut upstreams = generation.upstreams.iter();
                upstreams.any(|upstream| {
                    let mut endpoints = upstream.endpoints.iter();
                    *upstream.name == *name && endpoints.any(|endpoint| endpoint.address == address)
                })
            });
            self.instances.retain(&generation.plugins);
            self.renewed.notify_waiters();
            return generation;
        }
        cached.clone()
    }

    /// Waits until another generation is in force: as of the call, and noticed at the next sweep at the latest.
    pub(crate) fn renewed(&self) -> Notified<'_> {
        self.renewed.notified()
    }

    /// Returns a generation as this worker's sessions hold it.
    pub(crate) fn hold(&self, generation: Arc<Generation>) -> Rc<InForce> {
        let cached = self.generation();
        match Arc::ptr_eq(&cached.0, &generation) {
            true => cached,
            false => Rc::new(InForce(generation)),
        }
    }

    /// Returns what this worker counts for an endpoint.
    pub(crate) fn endpoint_metrics(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
    ) -> Arc<EndpointMetrics> {
        let mut endpoints = self.endpoints.borrow_mut();
        let entry = endpoints.entry(endpoint.state.id);
        entry
            .or_insert_with(|| self.metrics.endpoint(&upstream.name, endpoint.address))
            .clone()
    }

    /// Counts a client connection. None: there are as many as the limit allows.
    pub(crate) fn admit(self: &Rc<Self>) -> Option<ConnectionPermit> {
        let limit = self.generation().limits.max_connections;
        if self.connections() >= limit {
            self.metrics.connections_refused.increment();
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        self.metrics.connections_accepted.increment();
        self.metrics.connections_open.increment();
        Some(ConnectionPermit(self.clone()))
    }

    /// Counts an exchange whose client is gone.
    pub(crate) fn orphan(self: &Rc<Self>) -> Orphan {
        self.orphans.set(self.orphans.get() + 1);
        Orphan(self.clone())
    }

    /// Returns the client connections open now, those that became tunnels included, and the exchanges that
    /// go on without theirs.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get() + self.orphans.get()
    }

    /// Looks for what has timed out, again and again. Never returns.
    pub(crate) async fn sweep_forever(&self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(self.generation().sweep_interval).await;
            let now = Instant::now();
            self.sweep.advance(now - last);
            last = now;
            self.pools.sweep();
            while self.instances.take_snapshots(SNAPSHOTS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            if self.instances.refresh() {
                self.rouse().await;
            }
            self.access_logs.flush();
        }
    }

    /// Lets the sessions look at which versions of plugins are assigned to them: a few at a time, so
    /// that those that have something to say do not wait for those that do not.
    async fn rouse(&self) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.sweep.rouse(from, SESSIONS_AT_ONCE);
            tokio::task::yield_now().await;
        }
    }

    /// Waits until no client connection is open and no exchange goes on without one, looking every few
    /// milliseconds, or until `limit` has passed. Returns whether all are gone.
    pub(crate) async fn drained(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.connections() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.metrics.connections_open.decrement();
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.0.orphans.set(self.0.orphans.get() - 1);
    }
}
