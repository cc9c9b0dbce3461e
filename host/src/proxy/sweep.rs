//! Timeouts without timers: activity stamps a coarse clock, and one sweep per worker finds what has
//! been silent for too long.
//!
//! What then happens to a connection or session is decided by the task that owns it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::registry::{Entry, Figures, Goodbye, PluginVersion, Sight};

/// The watches of one worker and their clock.
#[derive(Default)]
pub(crate) struct Sweep {
    /// Moves only when [`Self::advance`] is called.
    now: Cell<Moment>,
    /// The part of a millisecond that `now` is behind by.
    rest: Cell<Duration>,
    /// What [`Watch::past`] returns.
    past: Cell<Moment>,
    draining: Cell<bool>,
    watched: RefCell<Slab<Rc<State>>>,
    /// Sessions that were watched so far.
    sessions: Cell<u64>,
}

/// A point in time by the clock of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// Something that may be silent for too long. Dropping it ends the watch.
pub(crate) struct Watch {
    key: usize,
    state: Rc<State>,
    sweep: Rc<Sweep>,
}

/// Why a watch woke its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The worker takes no new sessions and wants this one to end.
    Drain,
    /// An operator wants the session to end; see [`Watch::goodbye`].
    Close,
    /// The armed timeout has gone by without activity.
    Expired,
    /// The moment that the alarm was set to has gone by.
    Alarm,
}

struct State {
    /// Last activity.
    since: Cell<Moment>,
    /// Milliseconds of silence allowed; [`u64::MAX`]: any.
    timeout: Cell<u64>,
    alarm: Cell<Moment>,
    pending: Cell<Pending>,
    listens: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// None: not a session.
    entry: Option<Box<Entry>>,
}

/// Signals that the task has not been given.
#[derive(Clone, Copy, Default)]
struct Pending {
    drain: bool,
    close: bool,
    expired: bool,
    alarm: bool,
}

impl Moment {
    /// Never comes.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// Returns the moment so long after this one.
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns the time from an earlier moment to this one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Sweep {
    /// Begins to watch; nothing is armed yet. While the worker drains, [`Signal::Drain`] comes at once.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        self.begin(None)
    }

    /// Begins to watch a session, as [`Self::watch`]; operators see it from now on.
    pub(crate) fn watch_session(self: &Rc<Self>, mut entry: Box<Entry>) -> Watch {
        let number = self.sessions.get() + 1;
        self.sessions.set(number);
        entry.number = number;
        entry.opened = self.now.get();
        self.begin(Some(entry))
    }

    fn begin(self: &Rc<Self>, entry: Option<Box<Entry>>) -> Watch {
        let state = Rc::new(State {
            since: Cell::new(self.now.get()),
            timeout: Cell::new(u64::MAX),
            alarm: Cell::new(Moment::NEVER),
            pending: Cell::new(Pending {
                drain: self.draining.get(),
                ..Pending::default()
            }),
            listens: Cell::new(false),
            waker: RefCell::new(None),
            entry,
        });
        let key = self.watched.borrow_mut().insert(state.clone());
        Watch {
            key,
            state,
            sweep: self.clone(),
        }
    }

    /// Returns the clock, which may be up to one step late.
    pub(crate) fn now(&self) -> Moment {
        self.now.get()
    }

    /// Whether everything was told to drain.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Moves the clock and wakes what has expired. `elapsed` since the last call.
    pub(crate) fn advance(&self, elapsed: Duration) {
        // A stamp is up to one step older than the activity it stands for.
        let past = self.now.get();
        self.past.set(past);
        let elapsed = self.rest.get() + elapsed;
        self.now.set(past.after(elapsed));
        let rest = Duration::from_nanos(u64::from(elapsed.subsec_nanos() % 1_000_000));
        self.rest.set(rest);
        for (_, state) in self.watched.borrow().iter() {
            let silent = past.0.saturating_sub(state.since.get().0);
            if silent >= state.timeout.get() {
                state.timeout.set(u64::MAX);
                state.wake(Signal::Expired);
            }
            if past >= state.alarm.get() {
                state.alarm.set(Moment::NEVER);
                state.wake(Signal::Alarm);
            }
        }
    }

    /// Wakes the tasks of watches that [listen](Watch::listen), so that they look at what has changed:
    /// `count` of all watches, from place `from` on. Returns where to go on; None: that was the last.
    pub(crate) fn rouse(&self, from: usize, count: usize) -> Option<usize> {
        let watched = self.watched.borrow();
        let end = from.saturating_add(count).min(watched.capacity());
        for state in (from..end).filter_map(|key| watched.get(key)) {
            if state.listens.get() {
                state.call();
            }
        }
        (end < watched.capacity()).then_some(end)
    }

    /// Tells every watch but those of sessions, and all that are to come, to drain.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for (_, state) in self.watched.borrow().iter() {
            if state.entry.is_none() {
                state.wake(Signal::Drain);
            }
        }
    }

    /// Tells one session to drain, if it is still there.
    pub(super) fn dismiss(&self, key: usize, number: u64) {
        if let Some(state) = self.session(key, number) {
            state.wake(Signal::Drain);
        }
    }

    /// Shows `look` the sessions among `count` of all watches, from place `from` on: the place, the entry,
    /// the clock, and how long nothing has passed. Returns where to go on; None: that was the last.
    pub(super) fn entries(
        &self,
        from: usize,
        count: usize,
        look: &mut impl FnMut(usize, &Entry, Moment, Duration),
    ) -> Option<usize> {
        let watched = self.watched.borrow();
        let end = from.saturating_add(count).min(watched.capacity());
        let now = self.now.get();
        for key in from..end {
            let state = watched.get(key);
            if let Some((state, entry)) = state.and_then(|s| Some((s, s.entry.as_deref()?))) {
                look(key, entry, now, now.since(state.since.get()));
            }
        }
        (end < watched.capacity()).then_some(end)
    }

    /// Returns how a session looks, if it is still there.
    pub(super) fn sight(&self, key: usize, number: u64) -> Option<Sight> {
        let state = self.session(key, number)?;
        let now = self.now.get();
        let entry = state.entry.as_deref()?;
        Some(entry.sight(now, now.since(state.since.get())))
    }

    /// Has a session closed. Returns whether it was still there.
    pub(super) fn bid_goodbye(&self, key: usize, number: u64, goodbye: &Goodbye) -> bool {
        let state = self.session(key, number);
        let Some((state, entry)) = state
            .as_deref()
            .and_then(|s| Some((s, s.entry.as_deref()?)))
        else {
            return false;
        };
        entry.goodbye.set(Some(Box::new(goodbye.clone())));
        state.wake(Signal::Close);
        true
    }

    /// Returns what is at a place, unless another one has taken it meanwhile.
    fn session(&self, key: usize, number: u64) -> Option<Rc<State>> {
        let watched = self.watched.borrow();
        let state = watched.get(key)?;
        let is_it = state.entry.as_deref()?.number == number;
        is_it.then(|| state.clone())
    }
}

impl Watch {
    /// Allows `timeout` of silence from now on.
    pub(crate) fn arm(&self, timeout: Duration) {
        self.touch();
        self.state.timeout.set(millis(timeout));
    }

    /// Allows no more than `timeout` of silence, from now on.
    pub(crate) fn shorten(&self, timeout: Duration) {
        self.touch();
        let timeout = self.state.timeout.get().min(millis(timeout));
        self.state.timeout.set(timeout);
    }

    /// Wants the task to be woken by [`Sweep::rouse`] as well.
    pub(crate) fn listen(&self) {
        self.state.listens.set(true);
    }

    /// Allows any silence.
    pub(crate) fn disarm(&self) {
        self.state.timeout.set(u64::MAX);
    }

    /// Notes activity.
    pub(crate) fn touch(&self) {
        self.state.since.set(self.sweep.now.get());
    }

    /// Notes what has passed in the session.
    pub(crate) fn passed(&self, figures: Figures) {
        if let Some(entry) = &self.state.entry {
            entry.figures.set(figures);
        }
    }

    /// Notes which versions of plugins the session is on.
    pub(crate) fn is_on(&self, plugins: impl Iterator<Item = PluginVersion>) {
        if let Some(entry) = &self.state.entry {
            *entry.plugins.borrow_mut() = plugins.collect();
        }
    }

    /// Returns with what the session is to be closed, once.
    pub(crate) fn goodbye(&self) -> Option<Goodbye> {
        let goodbye = self.state.entry.as_ref()?.goodbye.take();
        goodbye.map(|goodbye| *goodbye)
    }

    /// Sets the alarm, in place of the one before. It does not care for activity.
    pub(crate) fn set_alarm(&self, at: Moment) {
        self.state.alarm.set(at);
    }

    /// Returns the clock, as [`Sweep::now`].
    pub(crate) fn now(&self) -> Moment {
        self.sweep.now()
    }

    /// Returns the latest moment that has certainly gone by for what was stamped with
    /// [`Self::now`], however late the clock was then.
    pub(crate) fn past(&self) -> Moment {
        self.sweep.past.get()
    }

    /// Waits for the next signal. Only the last task to poll is woken.
    pub(crate) fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.state.take_pending() {
            return Poll::Ready(signal);
        }
        let mut waker = self.state.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sweep.watched.borrow_mut().try_remove(self.key);
    }
}

impl State {
    fn wake(&self, signal: Signal) {
        let mut pending = self.pending.get();
        match signal {
            Signal::Drain => pending.drain = true,
            Signal::Close => pending.close = true,
            Signal::Expired => pending.expired = true,
            Signal::Alarm => pending.alarm = true,
        }
        self.pending.set(pending);
        self.call();
    }

    fn call(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn take_pending(&self) -> Option<Signal> {
        let mut pending = self.pending.get();
        let signal = pending.take();
        self.pending.set(pending);
        signal
    }
}

impl Pending {
    /// Takes the signal that tells most.
    fn take(&mut self) -> Option<Signal> {
        let signals = [
            (&mut self.drain, Signal::Drain),
            (&mut self.close, Signal::Close),
            (&mut self.expired, Signal::Expired),
            (&mut self.alarm, Signal::Alarm),
        ];
        let mut signals = signals.into_iter();
        let (pending, signal) = signals.find(|(pending, _)| **pending)?;
        *pending = false;
        Some(signal)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(watch: &Watch) -> Option<Signal> {
        match watch.poll_signal(&Context::from_waker(Waker::noop())) {
            Poll::Ready(signal) => Some(signal),
            Poll::Pending => None,
        }
    }

    #[test]
    fn silence_expires_once_and_never_early() {
        let sweep = Rc::new(Sweep::default());
        let watch = sweep.watch();
        watch.arm(Duration::from_millis(100));
        for _ in 0..10 {
            sweep.advance(Duration::from_millis(10));
            assert_eq!(signal(&watch), None);
        }
        sweep.advance(Duration::from_millis(10));
        assert_eq!(signal(&watch), Some(Signal::Expired));
        sweep.advance(Duration::from_millis(500));
        assert_eq!(signal(&watch), None);
    }

    #[test]
    fn parts_of_milliseconds_add_up() {
        let sweep = Rc::new(Sweep::default());
        let watch = sweep.watch();
        let begun = watch.now();
        for _ in 0..1_000 {
            sweep.advance(Duration::from_micros(1_999));
        }
        assert_eq!(watch.now().since(begun), Duration::from_millis(1_999));
    }

    #[test]
    fn activity_and_disarming_postpone() {
        let sweep = Rc::new(Sweep::default());
        let watch = sweep.watch();
        watch.arm(Duration::from_millis(20));
        for _ in 0..10 {
            sweep.advance(Duration::from_millis(10));
            watch.touch();
            assert_eq!(signal(&watch), None);
        }
        watch.disarm();
        sweep.advance(Duration::from_secs(100));
        assert_eq!(signal(&watch), None);
    }

    #[test]
    fn an_alarm_rings_once_and_never_early_whatever_the_activity() {
        let sweep = Rc::new(Sweep::default());
        let watch = sweep.watch();
        sweep.advance(Duration::from_millis(10));
        watch.set_alarm(watch.now().after(Duration::from_millis(20)));
        for _ in 0..2 {
            sweep.advance(Duration::from_millis(10));
            watch.touch();
            assert_eq!(signal(&watch), None);
        }
        sweep.advance(Duration::from_millis(10));
        assert_eq!(signal(&watch), Some(Signal::Alarm));
        sweep.advance(Duration::from_secs(1));
        assert_eq!(signal(&watch), None);
    }

    #[test]
    fn no_signal_is_lost_to_another() {
        let sweep = Rc::new(Sweep::default());
        let watch = sweep.watch();
        watch.arm(Duration::from_millis(10));
        watch.set_alarm(watch.now().after(Duration::from_millis(10)));
        sweep.advance(Duration::from_millis(10));
        sweep.advance(Duration::from_millis(10));
        sweep.drain();
        let signals = std::iter::from_fn(|| signal(&watch));
        assert_eq!(
            signals.collect::<Vec<_>>(),
            [Signal::Drain, Signal::Expired, Signal::Alarm]
        );
    }

    #[test]
    fn a_drain_reaches_watches_old_and_new_and_dropped_ones_are_forgotten() {
        let sweep = Rc::new(Sweep::default());
        let old = sweep.watch();
        drop(sweep.watch());
        sweep.drain();
        assert_eq!(signal(&old), Some(Signal::Drain));
        assert_eq!(signal(&sweep.watch()), Some(Signal::Drain));
        assert_eq!(sweep.watched.borrow().len(), 1);
    }
}
