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
    /// Milliseconds; moves only when [`Self::advance`] is called.
    now: Cell<u64>,
    draining: Cell<bool>,
    watched: RefCell<Slab<Rc<State>>>,
}

/// Something that may be silent for too long. Dropping it ends the watch.
pub(crate) struct Watch {
    key: usize,
    state: Rc<State>,
    sweep: Rc<Sweep>,
}

/// Why a watch woke its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The armed timeout has gone by without activity.
    Expired,
    /// The worker takes no new sessions and wants this one to end.
    Drain,
}

struct State {
    /// Last activity, by [`Sweep::now`].
    since: Cell<u64>,
    /// Milliseconds of silence allowed; [`u64::MAX`]: any.
    timeout: Cell<u64>,
    pending: Cell<Option<Signal>>,
    waker: RefCell<Option<Waker>>,
}

impl Sweep {
    /// Begins to watch; nothing is armed yet. While the worker drains, [`Signal::Drain`] comes at once.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        let state = Rc::new(State {
            since: Cell::new(self.now.get()),
            timeout: Cell::new(u64::MAX),
            pending: Cell::new(self.draining.get().then_some(Signal::Drain)),
            waker: RefCell::new(None),
        });
        let key = self.watched.borrow_mut().insert(state.clone());
        Watch {
            key,
            state,
            sweep: self.clone(),
        }
    }

    /// Moves the clock and wakes what has expired. `elapsed` since the last call.
    pub(crate) fn advance(&self, elapsed: Duration) {
        let step = millis(elapsed);
        let now = self.now.get() + step;
        self.now.set(now);
        for (_, state) in self.watched.borrow().iter() {
            // A stamp is up to one step older than the activity it stands for.
            let silent = now.saturating_sub(state.since.get()).saturating_sub(step);
            if silent >= state.timeout.get() {
                state.timeout.set(u64::MAX);
                state.wake(Signal::Expired);
            }
        }
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

    /// Allows any silence.
    pub(crate) fn disarm(&self) {
        self.state.timeout.set(u64::MAX);
    }

    /// Notes activity.
    pub(crate) fn touch(&self) {
        self.state.since.set(self.sweep.now.get());
    }

    /// Waits for the next signal. Only the last task to poll is woken.
    pub(crate) fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.state.pending.take() {
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
        // An expiry tells less than a drain; it must not take its place.
        if self.pending.get() != Some(Signal::Drain) {
            self.pending.set(Some(signal));
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
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
