//! What the sessions of an instance go on from if it fails: their last snapshots, kept beside it.
//!
//! When they are taken, and what they are put back into, is for `slots.rs` and `messages.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use super::bindings::exports::tidegate::plugin::handover::State;
use crate::config::SnapshotEvery;

/// What a snapshot takes beside its bytes, with its place in the table and in the queue.
const OVERHEAD_BYTES: usize = 128;

/// The snapshots of one instance's sessions, by their numbers.
pub(super) struct Snapshots {
    /// None: none are taken.
    every: Option<SnapshotEvery>,
    /// What may be used of `room`.
    limit: usize,
    room: Rc<Room>,
    sessions: RefCell<HashMap<u32, Session>>,
    /// Sessions that have changed, and when they are looked at.
    due: RefCell<VecDeque<(Instant, u32)>>,
}

/// What all instances of a plugin on a worker keep together, in bytes.
#[derive(Default)]
pub(super) struct Room(Cell<usize>);

#[derive(Default)]
struct Session {
    kept: Option<State>,
    /// Messages since.
    messages: u32,
    is_due: bool,
    /// The life of the slot that knows what happened since.
    life: u32,
}

impl Room {
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let used = self.0.get().saturating_add(bytes);
        let fits = used <= limit;
        if fits {
            self.0.set(used);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }
}

impl Snapshots {
    pub(super) fn new(every: Option<SnapshotEvery>, limit: usize, room: &Rc<Room>) -> Self {
        Self {
            every,
            limit,
            room: Rc::clone(room),
            sessions: RefCell::default(),
            due: RefCell::default(),
        }
    }

    /// Notes that a session has seen a message. Returns whether it is time for a snapshot now.
    pub(super) fn saw_message(&self, session: u32, life: u32) -> bool {
        let Some(every) = self.every else {
            return false;
        };
        let mut sessions = self.sessions.borrow_mut();
        let known = sessions.entry(session).or_default();
        known.life = life;
        match every {
            SnapshotEvery::Messages(n) => {
                known.messages += 1;
                known.messages >= n
            }
            SnapshotEvery::Time(time) => {
                if !known.is_due {
                    known.is_due = true;
                    self.due
                        .borrow_mut()
                        .push_back((Instant::now() + time, session));
                }
                false
            }
        }
    }

    /// Has a session wait for its next message.
    pub(super) fn put_off(&self, session: u32) {
        if let Some(known) = self.sessions.borrow_mut().get_mut(&session) {
            known.is_due = false;
        }
    }

    /// Returns the next session that it is time for, and the life of the slot that knows it.
    pub(super) fn next_due(&self, now: Instant) -> Option<(u32, u32)> {
        loop {
            let mut due = self.due.borrow_mut();
            let (_, session) = due.pop_front_if(|(time, _)| *time <= now)?;
            if let Some(known) = self.sessions.borrow_mut().get_mut(&session)
                && std::mem::take(&mut known.is_due)
            {
                return Some((session, known.life));
            }
        }
    }

    /// Whether sessions are to be looked at from time to time.
    pub(super) fn are_timed(&self) -> bool {
        matches!(self.every, Some(SnapshotEvery::Time(_)))
    }

    /// Whether any are taken.
    pub(super) fn are_kept(&self) -> bool {
        self.every.is_some()
    }

    /// Keeps a snapshot in place of the one before. False: there is no room, and then there is none.
    pub(super) fn keep(&self, session: u32, state: State) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let known = sessions.entry(session).or_default();
        known.messages = 0;
        if let Some(before) = known.kept.take() {
            self.room.give_back(size(&before));
        }
        let fits = self.room.take(size(&state), self.limit);
        known.kept = fits.then_some(state);
        fits
    }

    /// Returns the last snapshot of a session.
    pub(super) fn of(&self, session: u32) -> Option<State> {
        self.sessions.borrow().get(&session)?.kept.clone()
    }

    /// Forgets a session.
    pub(super) fn forget(&self, session: u32) {
        if self.every.is_none() {
            return;
        }
        if let Some(known) = self.sessions.borrow_mut().remove(&session)
            && let Some(state) = &known.kept
        {
            self.room.give_back(size(state));
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        for session in self.sessions.get_mut().values() {
            if let Some(state) = &session.kept {
                self.room.give_back(size(state));
            }
        }
    }
}

fn size(state: &State) -> usize {
    state.bytes.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn state(len: usize) -> State {
        State {
            form: 1,
            bytes: vec![0; len],
        }
    }

    #[test]
    fn every_so_many_messages_it_is_time() {
        let snapshots = Snapshots::new(Some(SnapshotEvery::Messages(3)), 1000, &Rc::default());
        let times = || {
            (0..3)
                .map(|_| snapshots.saw_message(7, 0))
                .collect::<Vec<_>>()
        };
        assert_eq!(times(), [false, false, true]);
        assert!(snapshots.keep(7, state(1)));
        assert_eq!(times(), [false, false, true]);
    }

    #[test]
    fn a_session_that_changed_is_due_once_after_the_time() {
        let minute = Duration::from_secs(60);
        let snapshots = Snapshots::new(Some(SnapshotEvery::Time(minute)), 1000, &Rc::default());
        for _ in 0..3 {
            assert!(!snapshots.saw_message(7, 4));
        }
        let now = Instant::now();
        assert_eq!(snapshots.next_due(now), None);
        assert_eq!(snapshots.next_due(now + minute), Some((7, 4)));
        assert_eq!(snapshots.next_due(now + minute), None);
        assert!(!snapshots.saw_message(7, 5));
        snapshots.forget(7);
        assert_eq!(snapshots.next_due(now + 2 * minute), None);
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_room_comes_back() {
        let room = Rc::<Room>::default();
        let limit = 2 * OVERHEAD_BYTES + 100;
        let of_instance = || Snapshots::new(Some(SnapshotEvery::Messages(1)), limit, &room);
        let (snapshots, others) = (of_instance(), of_instance());
        assert!(snapshots.keep(1, state(100)));
        assert!(!others.keep(1, state(1)));
        assert!(others.of(1).is_none());
        assert!(snapshots.keep(1, state(50)), "in place of the one before");
        assert!(others.keep(1, state(50)));
        assert!(!others.keep(1, state(51)));
        assert!(others.of(1).is_none(), "an older one would be misleading");
        drop(others);
        snapshots.forget(1);
        assert_eq!(room.0.get(), 0);
    }
}
