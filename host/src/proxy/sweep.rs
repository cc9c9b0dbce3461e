//! Timeouts without timers: activity stamps a coarse clock, and one sweep per worker finds what has
//! been silent for too long.
//!
//! What then happens to a connection or session is decided by the task that owns it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

/// The watches of one worker and their clock.
#[derive(Default)]
pub(crate) struct Sweep {
    /// Moves only when [`Self::advance`] is called.
    now: Cell<Moment>,
    /// What [`Watch::past`] returns.
    past: Cell<Moment>,
    draining: Cell<bool>,
    watched: RefCell<Slab<Rc<State>>>,
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
}

/// Signals that the task has not been given.
#[derive(Clone, Copy, Default)]
struct Pending {
    drain: bool,
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
}

impl Sweep {
    /// Begins to watch; nothing is armed yet. While the worker drains, [`Signal::Drain`] comes at once.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
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
        self.now.set(past.after(elapsed));
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

    /// Tells every watch, and those to come, to drain.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for (_, state) in self.watched.borrow().iter() {
            state.wake(Signal::Drain);
        }
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
