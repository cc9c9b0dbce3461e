//! The places of plugins on one worker, and what runs there: an instance for exchanges, and as many
//! as their sessions need, each replaced when a call ends it.
//!
//! Which calls are made, and what their failure means for an exchange or session, is left to
//! `exchange.rs` and `messages.rs`; how one is made, to `instance.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;
use tracing::{debug, info, warn};

use super::bindings::exports::tidegate::plugin::handover::State as SessionState;
use super::breaker::{Admission, Now};
use super::engine::{Compiled, Version};
use super::handover::Refusal;
use super::host::{Allowance, Caller, Gate};
use super::instance::Instance;
use super::isolation::Permit;
use super::onlooker::Onlooker;
use super::rollout::{Assignment, Plugin};
use super::snapshots::{Room, Snapshots};
use super::tally::{Tallies, Tally};
use super::trial::Lot;
use super::{Cause, Failure};
use crate::config::{Isolation, OnFailure};
use crate::telemetry::{Label, Phase, PluginMetrics, WorkerMetrics};

/// How long after a failed start the next one is tried, at first and at most.
const MIN_BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// Sessions that one instance serves: those that a trap of another one can touch.
const SESSIONS_PER_INSTANCE: usize = 2048;

/// Instances of one worker: made when first used, and kept while a generation or session holds their
/// plugin.
pub(crate) struct Instances {
    metrics: Arc<WorkerMetrics>,
    /// What [`Lot::draw`] goes on from.
    lots: Cell<u64>,
    caller: Caller,
    /// By [`Plugin::id`].
    seats: RefCell<HashMap<u64, Rc<Seat>>>,
    timed: Timed,
}

/// Slots that take snapshots from time to time.
type Timed = Rc<RefCell<Vec<Weak<Slot>>>>;

/// The place of one plugin on one worker, through its versions.
pub(super) struct Seat {
    plugin: Arc<Plugin>,
    metrics: Arc<PluginMetrics>,
    caller: Caller,
    gate: Arc<Gate>,
    assignment: RefCell<Arc<Assignment>>,
    /// Number of the assignment that all sessions were told to look at last.
    told: Cell<u64>,
    /// Those of the version assigned that may take sessions; the first one serves exchanges.
    slots: RefCell<Vec<Rc<Slot>>>,
    /// The same of a candidate on trial.
    candidate: RefCell<Vec<Rc<Slot>>>,
    /// That candidate, if it only looks on.
    onlooker: RefCell<Option<Rc<Onlooker>>>,
    tallies: Tallies,
    /// For snapshots.
    room: Rc<Room>,
    timed: Timed,
}

/// The place of one instance of a version, or of the next one.
pub(super) struct Slot {
    version: Arc<Version>,
    metrics: Arc<PluginMetrics>,
    tally: Rc<Tally>,
    /// Calls that take longer are counted.
    slow_after: Duration,
    caller: Caller,
    gate: Arc<Gate>,
    live: RefCell<Option<Instance>>,
    /// Those who wait in the instance.
    waiting: RefCell<Slab<Option<Waker>>>,
    /// Instances that have ended. A session open in an earlier life is not known to this one.
    life: Cell<u32>,
    sessions: RefCell<Slab<()>>,
    back_off: Cell<Option<BackOff>>,
    snapshots: Snapshots,
    /// It is for one session.
    _own: Option<Permit>,
}

#[derive(Clone, Copy)]
struct BackOff {
    delay: Duration,
    until: Instant,
}

impl Instances {
    /// `caller` sends the call-outs of plugins.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>, caller: Caller) -> Self {
        Self {
            metrics,
            lots: Cell::new(RandomState::new().hash_one(())),
            caller,
            seats: RefCell::default(),
            timed: Rc::default(),
        }
    }

    /// Takes snapshots that it is time for, `most` of each instance. Returns whether there are more.
    pub(crate) fn take_snapshots(&self, most: usize) -> bool {
        let mut timed = self.timed.borrow_mut();
        let mut are_left = false;
        timed.retain(|slot| {
            let slot = slot.upgrade();
            are_left |= slot
                .as_ref()
                .is_some_and(|slot| slot.take_due_snapshots(most));
            slot.is_some()
        });
        are_left
    }

    /// Lets go of all plugins but those `in_force`. Instances of the others go with the last session
    /// that holds them, or now. To be called when another generation is in force; an exchange that
    /// begins with an earlier one is served all the same.
    pub(crate) fn retain(&self, in_force: &[Arc<Plugin>]) {
        let ids: HashSet<u64> = in_force.iter().map(|plugin| plugin.id()).collect();
        self.seats.borrow_mut().retain(|id, _| ids.contains(id));
    }

    /// Looks whether a plugin has been swapped since the last call, in which case the sessions should
    /// look as well, whatever of them has done so by itself. Instances of versions that are not assigned
    /// any more go with their last session.
    pub(crate) fn refresh(&self) -> bool {
        let seats = self.seats.borrow();
        // Each of them, not only up to the first.
        let is_news = |seat: &&Rc<Seat>| {
            seat.refresh();
            let number = seat.number();
            seat.told.replace(number) != number
        };
        seats.values().filter(is_news).count() > 0
    }

    /// Draws what decides whether a session or request is for a candidate.
    pub(super) fn draw(&self) -> Lot {
        Lot::draw(&self.lots)
    }

    pub(super) fn seat(&self, plugin: &Arc<Plugin>) -> Rc<Seat> {
        let mut seats = self.seats.borrow_mut();
        let seat = seats.entry(plugin.id()).or_insert_with(|| {
            let metrics = self.metrics.plugin(plugin.name());
            Rc::new(Seat {
                plugin: Arc::clone(plugin),
                caller: Rc::clone(&self.caller),
                gate: Gate::new(Arc::clone(&metrics)),
                metrics,
                assignment: RefCell::new(plugin.assignment()),
                told: Cell::new(plugin.number()),
                slots: RefCell::default(),
                candidate: RefCell::default(),
                onlooker: RefCell::default(),
                tallies: Tallies::default(),
                room: Rc::default(),
                timed: Rc::clone(&self.timed),
            })
        });
        Rc::clone(seat)
    }
}

impl Seat {
    /// Returns the number of the assignment in force, for comparison with one that was seen.
    pub(super) fn number(&self) -> u64 {
        self.plugin.number()
    }

    /// Returns the assignment in force.
    pub(super) fn assignment(&self) -> Arc<Assignment> {
        self.refresh();
        Arc::clone(&self.assignment.borrow())
    }

    /// Returns the slot that serves exchanges with a version that is assigned.
    pub(super) fn slot(&self, version: &Arc<Version>) -> Rc<Slot> {
        let mut slots = self.slots_of(version).borrow_mut();
        if slots.is_empty() {
            slots.push(self.new_slot(version, None));
        }
        Rc::clone(&slots[0])
    }

    /// Returns a slot of a version that is assigned, with room for a session, or one of its own. Fails if
    /// there are as many of those as there may be.
    pub(super) fn slot_for_session(&self, version: &Arc<Version>) -> Result<Rc<Slot>, Cause> {
        let own = self.own_slot(version)?;
        Ok(own.unwrap_or_else(|| self.shared_slot(version)))
    }

    /// Returns a slot for one session, if each has its own. Fails as [`Self::slot_for_session`].
    pub(super) fn own_slot(&self, version: &Arc<Version>) -> Result<Option<Rc<Slot>>, Cause> {
        let Isolation::Session { max_instances } = version.declared().isolation else {
            return Ok(None);
        };
        match self.plugin.own_instances().take(max_instances) {
            Some(permit) => Ok(Some(self.new_slot(version, Some(permit)))),
            None => {
                let limit = max_instances;
                let cause = Cause::Ceiling { limit };
                self.metrics.failures_by_kind[cause.kind()].increment();
                Err(cause)
            }
        }
    }

    /// The same for a session that has another slot until it has moved, so that it is never one too many.
    pub(super) fn slot_for_move(&self, version: &Arc<Version>) -> Rc<Slot> {
        match version.declared().isolation {
            Isolation::Worker => self.shared_slot(version),
            Isolation::Session { .. } => {
                let permit = self.plugin.own_instances().take_for_move();
                self.new_slot(version, Some(permit))
            }
        }
    }

    /// Returns a slot of a version that is assigned, with room for a session.
    pub(super) fn shared_slot(&self, version: &Arc<Version>) -> Rc<Slot> {
        let mut slots = self.slots_of(version).borrow_mut();
        let has_room = |slot: &&Rc<Slot>| slot.sessions.borrow().len() < SESSIONS_PER_INSTANCE;
        if let Some(slot) = slots.iter().find(has_room) {
            return Rc::clone(slot);
        }
        let slot = self.new_slot(version, None);
        slots.push(Rc::clone(&slot));
        slot
    }

    fn slots_of(&self, version: &Arc<Version>) -> &RefCell<Vec<Rc<Slot>>> {
        if Arc::ptr_eq(version, self.assignment.borrow().version()) {
            &self.slots
        } else {
            &self.candidate
        }
    }

    /// Looks at the assignment.
    fn refresh(&self) {
        if self.plugin.number() == self.assignment.borrow().number() {
            return;
        }
        let next = self.plugin.assignment();
        let last = self.assignment.replace(Arc::clone(&next));
        let candidate = |assignment: &Assignment| {
            let trial = assignment.trial();
            trial.map(|trial| Arc::as_ptr(&trial.version))
        };
        if !Arc::ptr_eq(last.version(), next.version()) {
            let mut slots = self.slots.borrow_mut();
            slots.clear();
            // What has served goes on to do so; what has looked on is another plugin's affair.
            let looked_on = last.trial().is_some_and(|trial| trial.looks_on());
            if candidate(&last) == Some(Arc::as_ptr(next.version())) && !looked_on {
                *slots = self.candidate.take();
            }
        }
        if candidate(&last) != candidate(&next) {
            self.candidate.borrow_mut().clear();
            self.onlooker.take();
        }
        self.tallies.retain(|version| {
            let trial = next.trial().map(|trial| trial.version.id());
            version == next.version().id() || Some(version) == trial
        });
    }

    /// Returns the candidate that looks on, by an assignment that was just looked at.
    pub(super) fn onlooker(&self, assignment: &Assignment) -> Option<Rc<Onlooker>> {
        let trial = assignment.trial()?;
        let mut onlooker = self.onlooker.borrow_mut();
        if onlooker.is_none() {
            *onlooker = Onlooker::of(trial);
        }
        onlooker.clone()
    }

    fn new_slot(&self, version: &Arc<Version>, own: Option<Permit>) -> Rc<Slot> {
        let settings = version.declared();
        let every = settings.snapshot_every;
        let every = every.filter(|_| version.compiled().handover.is_some());
        let snapshots = Snapshots::new(every, settings.limits.snapshots_bytes, &self.room);
        // What an onlooker does is not what the plugin does.
        let (metrics, gate) = match &*self.onlooker.borrow() {
            Some(onlooker) if Arc::ptr_eq(&onlooker.trial().version, version) => {
                (Arc::default(), Arc::clone(onlooker.gate()))
            }
            _ => (Arc::clone(&self.metrics), Arc::clone(&self.gate)),
        };
        let slot = Rc::new(Slot {
            metrics,
            tally: self.tallies.of(version),
            slow_after: version.slow_after(),
            version: Arc::clone(version),
            caller: Rc::clone(&self.caller),
            gate,
            live: RefCell::default(),
            waiting: RefCell::default(),
            life: Cell::new(0),
            sessions: RefCell::default(),
            back_off: Cell::default(),
            snapshots,
            _own: own,
        });
        if slot.snapshots.are_timed() {
            self.timed.borrow_mut().push(Rc::downgrade(&slot));
        }
        slot
    }
}

impl Slot {
    pub(super) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    pub(super) fn exports(&self) -> &Compiled {
        self.version.compiled()
    }

    pub(super) fn sees_messages(&self) -> bool {
        self.version.sees_messages()
    }

    /// What one call may produce.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance::of(&self.version.declared().limits)
    }

    pub(super) fn life(&self) -> u32 {
        self.life.get()
    }

    /// Returns a number for a session: one that is free again, or the next.
    pub(super) fn number_session(&self) -> u32 {
        self.tally.metrics.sessions.increment();
        let number = self.sessions.borrow_mut().insert(());
        u32::try_from(number).expect("a worker holds fewer sessions than a u32 counts")
    }

    pub(super) fn free_session(&self, number: u32) {
        self.tally.metrics.sessions.decrement();
        self.sessions.borrow_mut().try_remove(number as usize);
        self.snapshots.forget(number);
    }

    /// Notes that a session has seen a message, and takes a snapshot of it if it is time for one.
    pub(super) fn saw_message(&self, session: u32, time_spent: &mut Duration) {
        if self.snapshots.saw_message(session, self.life()) {
            self.take_snapshot(session, time_spent);
        }
    }

    /// Notes that a message of a session waits: no snapshot is taken of it before the next message.
    pub(super) fn session_waits(&self, session: u32) {
        self.snapshots.put_off(session);
    }

    /// Takes snapshots that it is time for, `most` of them. Returns whether there are more.
    fn take_due_snapshots(&self, most: usize) -> bool {
        let now = Instant::now();
        for _ in 0..most {
            match self.snapshots.next_due(now) {
                None => return false,
                // What an instance knew that has ended since is gone.
                Some((session, life)) if life == self.life() => {
                    self.take_snapshot(session, &mut Duration::default());
                }
                Some(_) => {}
            }
        }
        true
    }

    fn take_snapshot(&self, session: u32, time_spent: &mut Duration) {
        let state = self.call(Phase::Snapshot, time_spent, |instance| {
            instance.snapshot(session)
        });
        match state {
            Ok(state) => self.keep_snapshot(session, state),
            Err(cause) => self.report(Phase::Snapshot, &cause),
        }
    }

    /// Keeps what is known of a session, if there is room.
    pub(super) fn keep_snapshot(&self, session: u32, state: SessionState) {
        if self.snapshots.are_kept()
            && !self.snapshots.keep(session, state)
            && let Some(unreported) = self.tally.reports.admit()
        {
            let plugin: &str = self.version.name();
            warn!(
                plugin,
                unreported, "no room for a snapshot (`limits.snapshots`)"
            );
        }
    }

    /// Returns the last snapshot of a session.
    pub(super) fn snapshot_of(&self, session: u32) -> Option<SessionState> {
        self.snapshots.of(session)
    }

    pub(super) fn forget_snapshot(&self, session: u32) {
        self.snapshots.forget(session);
    }

    /// Notes that a session is opened without the snapshot that there is.
    pub(super) fn refused_snapshot(&self, session: u32, reason: &str) {
        self.snapshots.forget(session);
        if let Some(unreported) = self.tally.reports.admit() {
            let plugin: &str = self.version.name();
            warn!(
                plugin,
                reason, unreported, "a session goes on without its snapshot"
            );
        }
    }

    /// Fails if the plugin is ejected and it is not time for a trial.
    pub(super) fn is_called(&self) -> Result<(), Cause> {
        match self.version.retry_in() {
            Some(retry_in) if !retry_in.is_zero() => Err(Cause::Ejected { retry_in }),
            _ => Ok(()),
        }
    }

    /// Calls the instance, which is made first if there is none. A failed call ends it.
    pub(super) fn call<R>(
        &self,
        phase: Phase,
        time_spent: &mut Duration,
        call: impl FnOnce(&mut Instance) -> Result<R, Cause>,
    ) -> Result<R, Cause> {
        let admission = self.admit(phase)?;
        self.call_admitted(admission, phase, time_spent, call)
    }

    fn call_admitted<R>(
        &self,
        admission: Admission,
        phase: Phase,
        time_spent: &mut Duration,
        call: impl FnOnce(&mut Instance) -> Result<R, Cause>,
    ) -> Result<R, Cause> {
        let mut live = self.live.borrow_mut();
        let instance = match &mut *live {
            Some(instance) => instance,
            none => {
                let started = Instant::now();
                let made = self.make();
                *time_spent += started.elapsed();
                none.insert(made.inspect_err(|cause| {
                    self.metrics.failures[phase].increment();
                    self.failed(admission, phase, cause);
                })?)
            }
        };
        let started = Instant::now();
        let result = call(instance);
        let took = started.elapsed();
        *time_spent += took;
        self.metrics.calls[phase].increment();
        self.metrics.call_time[phase].observe(took);
        self.tally.metrics.count_call(phase, took, self.slow_after);
        if admission == Admission::Trial && result.is_ok() {
            self.version
                .breaker()
                .readmit(Now::read(), |phase| self.version.calls(phase));
            let plugin: &str = self.version.name();
            info!(plugin, version = self.version.id(), "plugin is back");
        }
        if let Err(cause) = &result {
            self.failed(admission, phase, cause);
            self.metrics.failures[phase].increment();
            self.tally.metrics.failures.increment();
            if matches!(cause, Cause::Timeout { .. }) {
                self.tally.metrics.timeouts.increment();
            }
            self.metrics.instances_replaced.increment();
            *live = None;
            self.instance_ended();
        }
        result
    }

    /// Begins the next life, and wakes those who wait for what is gone with the last one.
    fn instance_ended(&self) {
        self.life.set(self.life.get().wrapping_add(1));
        for (_, waker) in self.waiting.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Asks whether the plugin is called at all. While it is not, it has no instances either: its sessions
    /// are opened again when it is back, since it has missed some of them.
    fn admit(&self, phase: Phase) -> Result<Admission, Cause> {
        self.version.breaker().admit().map_err(|retry_in| {
            if self.live.take().is_some() {
                self.instance_ended();
            }
            let cause = Cause::Ejected { retry_in };
            self.metrics.failures_by_kind[cause.kind()].increment();
            let plugin: &str = self.version.name();
            debug!(plugin, phase = super::function(phase), %cause, "plugin is left out");
            cause
        })
    }

    /// Notes a call that failed, or for which there was no instance.
    fn failed(&self, admission: Admission, phase: Phase, cause: &Cause) {
        self.metrics.failures_by_kind[cause.kind()].increment();
        let calls = self.version.calls(phase);
        let breaker = self.version.breaker();
        let ejected = breaker.failed(admission, phase, Now::read(), calls);
        if let Some(back_off) = ejected {
            let plugin: &str = self.version.name();
            let version = self.version.id();
            warn!(plugin, version, ?back_off, %cause, "plugin is ejected: it keeps failing");
        }
    }

    /// Calls the instance if a session is open in it still. What fails here fails nothing else.
    pub(super) fn call_if_alive(
        &self,
        life: u32,
        phase: Phase,
        time_spent: &mut Duration,
        call: impl FnOnce(&mut Instance) -> Result<(), Cause>,
    ) {
        // Sessions may end while the worker unwinds out of a call.
        let alive = self.live.try_borrow().is_ok_and(|live| live.is_some());
        // An ejected plugin is told as well: what still lives is about to forget the session.
        if alive
            && life == self.life.get()
            && let Err(cause) = self.call_admitted(Admission::Usual, phase, time_spent, call)
        {
            self.report(phase, &cause);
        }
    }

    /// Applies `on_failure`: returns the failure that ends the exchange or session, or nothing if it
    /// goes on without the plugin.
    pub(super) fn fail(&self, phase: Phase, cause: Cause) -> Result<(), Failure> {
        match self.on_failure(phase) {
            OnFailure::Closed => Err(Failure {
                plugin: Arc::clone(self.version.name()),
                phase,
                cause,
            }),
            OnFailure::Open => {
                // Why it is absent was reported; that it is since then is no news.
                if !cause.is_absence() || matches!(cause, Cause::Ceiling { .. }) {
                    self.report(phase, &cause);
                }
                Ok(())
            }
        }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Counts a hook that waits in the instance. Returns what it is known by.
    pub(super) fn begin_waiting(&self) -> usize {
        self.waiting.borrow_mut().insert(None)
    }

    /// Has somebody woken if the instance ends.
    pub(super) fn wait(&self, key: usize, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.get_mut(key) {
            Some(Some(known)) => known.clone_from(waker),
            Some(none) => *none = Some(waker.clone()),
            None => {}
        }
    }

    pub(super) fn end_waiting(&self, key: usize) {
        self.waiting.borrow_mut().try_remove(key);
    }

    /// Counts a hook that failed while it waited.
    pub(super) fn failed_waiting(&self, phase: Phase, cause: &Cause) {
        self.metrics.failures_by_kind[cause.kind()].increment();
        self.metrics.failures[phase].increment();
        self.tally.metrics.failures.increment();
    }

    fn on_failure(&self, phase: Phase) -> OnFailure {
        let policy = &self.version.declared().on_failure;
        match phase {
            Phase::Request => policy.request,
            Phase::Response => policy.response,
            Phase::Choose => policy.choose,
            Phase::Open => policy.open,
            _ => policy.messages,
        }
    }

    fn make(&self) -> Result<Instance, Cause> {
        let now = Instant::now();
        let back_off = self.back_off.get();
        if let Some(BackOff { until, .. }) = back_off
            && now < until
        {
            return Err(Cause::Unavailable {
                retry_in: until - now,
            });
        }
        self.metrics.calls[Phase::Configure].increment();
        let started = Instance::start(&self.version, &self.tally.log, &self.gate);
        self.metrics.call_time[Phase::Configure].observe(now.elapsed());
        match started {
            Ok(instance) => {
                self.back_off.set(None);
                Ok(instance)
            }
            Err(error) => {
                let delay = back_off
                    .map_or(MIN_BACK_OFF, |last| last.delay * 2)
                    .min(MAX_BACK_OFF);
                self.back_off.set(Some(BackOff {
                    delay,
                    until: Instant::now() + delay,
                }));
                self.metrics.failures[Phase::Configure].increment();
                self.tally.metrics.failures.increment();
                let cause = Cause::from(error);
                self.report(Phase::Configure, &cause);
                Err(cause)
            }
        }
    }

    /// Counts a session that ended on this version.
    pub(super) fn count_close(&self, code: u16) {
        self.tally.metrics.count_close(code);
    }

    /// Counts a session that came from another version.
    pub(super) fn count_move(&self) {
        self.tally.metrics.moved.increment();
    }

    /// Notes that a session did not come from another version with what that knew of it.
    pub(super) fn refused(&self, why: &Refusal, instead: &'static str) {
        self.tally.metrics.refused.increment();
        match why {
            Refusal::Failed(phase, cause) => self.report(*phase, cause),
            Refusal::Refused(reason) => {
                if let Some(unreported) = self.tally.reports.admit() {
                    let plugin: &str = self.version.name();
                    warn!(plugin, reason, unreported, "{instead}");
                }
            }
        }
    }

    pub(super) fn report(&self, phase: Phase, cause: &Cause) {
        if let Some(unreported) = self.tally.reports.admit() {
            let plugin: &str = self.version.name();
            let function = super::function(phase);
            let kind = cause.kind().value();
            warn!(plugin, function, kind, %cause, unreported, "plugin failed");
        }
    }
}
