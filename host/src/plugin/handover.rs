//! The way of running sessions from one version of a plugin to another, between two messages.
//!
//! Which version is assigned to whom is `rollout.rs`; when a session looks is `proxy/`'s business.

use std::rc::Rc;
use std::sync::Arc;

use super::bindings::exports::tidegate::plugin::handover::State;
use super::engine::Version;
use super::interest::Interest;
use super::messages::{Link, MessageChain};
use super::rollout::Move;
use super::slots::Slot;
use super::{Cause, Failure, MessageVerdict, Reopening, Sent};
use crate::protocol::close::CloseCode;
use crate::telemetry::Phase;

/// What a swap makes of a session.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    /// It goes on.
    Continue,
    /// The swap gave it until now to end by itself.
    Overdue,
    /// A plugin ended it, by its verdict on what another one sent when the session came to it.
    Closed { code: CloseCode, reason: String },
}

impl MessageChain {
    /// Whether a plugin has been swapped since the session last looked. Costs a load per plugin.
    pub(crate) fn is_behind(&self) -> bool {
        self.links.iter().any(Link::is_behind)
    }

    /// Moves the session to the versions that are assigned to it. For between two messages. What
    /// plugins send then is appended to `sent`.
    ///
    /// A version that refuses the session, or fails at it, does not get it: the session stays where
    /// it is.
    pub(crate) fn catch_up(&mut self, sent: &mut Vec<Sent>) -> Result<Handover, Failure> {
        for n in 0..self.links.len() {
            // What waits is of the versions that the session is on; it is looked at again after that. It
            // may have begun to just now, with what a plugin said as the session came to it.
            if self.is_parked() {
                return Ok(Handover::Continue);
            }
            let link = &mut self.links[n];
            // In the midst of a message that it is shown in pieces; it is looked at again after that.
            if !link.is_behind() || link.midway != [false; 2] {
                continue;
            }
            let assignment = link.seat.assignment();
            link.seen = assignment.number();
            self.attach_shadow(n, &assignment);
            let link = &self.links[n];
            let now = link.slot.version();
            let next = assignment.version_for(Some(now), self.lot, &self.handshake.request);
            if Arc::ptr_eq(next, now) {
                continue;
            }
            match assignment.moves(now, next) {
                Move::Never => {}
                Move::Close => return Ok(Handover::Overdue),
                Move::Now => {
                    let mut said = Vec::new();
                    self.move_link(n, next, &mut said)?;
                    if let Some(MessageVerdict::Close { code, reason }) =
                        self.pass_on(n, said, sent)?
                    {
                        return Ok(Handover::Closed { code, reason });
                    }
                }
            }
        }
        Ok(Handover::Continue)
    }

    /// Moves the session to version `next` in the place of plugin `n`, or leaves it. A version that was
    /// turned down keeps no session: what the next one does not take up is opened there anew.
    fn move_link(
        &mut self,
        n: usize,
        next: &Arc<Version>,
        said: &mut Vec<Sent>,
    ) -> Result<(), Failure> {
        let state = self.snapshot(n);
        let link = &self.links[n];
        let must_go = link.slot.version().is_revoked();
        let slot = link.seat.slot_for_move(next);
        let number = slot.number_session();
        let mut admitted = self.admit(&slot, number, state.as_ref(), said);
        if let (Err(why), true, true) = (&admitted, must_go, state.is_some()) {
            slot.refused(why, "a session is opened anew");
            said.clear();
            admitted = self.admit(&slot, number, None, said);
        }
        match admitted {
            Ok((interest, life)) => {
                self.settle(n, slot, number);
                let link = &mut self.links[n];
                if let Some(state) = state {
                    link.slot.keep_snapshot(number, state);
                }
                link.life = life;
                link.interest = interest;
                self.sum_up();
                Ok(())
            }
            Err(Refusal::Failed(phase, cause)) if must_go => {
                said.clear();
                self.settle(n, slot, number);
                let link = &mut self.links[n];
                // It is open in no instance of that version, whichever life there is.
                link.life = link.slot.life().wrapping_sub(1);
                self.failed(n, phase, cause).map(drop)
            }
            Err(why) => {
                slot.free_session(number);
                said.clear();
                slot.refused(&why, "a session stays on its version");
                Ok(())
            }
        }
    }

    /// Has the session in another slot from now on, which knows it by `number`.
    fn settle(&mut self, n: usize, slot: Rc<Slot>, number: u32) {
        let link = &mut self.links[n];
        if let Some(shadow) = &mut link.shadow {
            shadow.fall_behind();
        }
        link.release(&mut self.time_spent);
        slot.count_move();
        let old = std::mem::replace(&mut link.slot, slot);
        old.free_session(std::mem::replace(&mut link.number, number));
    }

    /// Asks the version that plugin `n` has now for what it knows of the session. Nothing, if it has
    /// nothing to say, or cannot say it any more.
    fn snapshot(&mut self, n: usize) -> Option<State> {
        let link = &self.links[n];
        if link.slot.exports().handover.is_none() || !link.is_open() {
            return None;
        }
        let state = link
            .slot
            .call(Phase::Snapshot, &mut self.time_spent, |instance| {
                instance.snapshot(link.number)
            });
        // The session goes on without: the next version is told that it was running before.
        state
            .inspect_err(|cause| link.slot.report(Phase::Snapshot, cause))
            .ok()
    }

    /// Opens the session in another version. Returns what that wants to see, and the life of the slot
    /// it is open in.
    fn admit(
        &mut self,
        slot: &Rc<Slot>,
        number: u32,
        state: Option<&State>,
        said: &mut Vec<Sent>,
    ) -> Result<(Interest, u32), Refusal> {
        let exports = slot.exports();
        if !slot.sees_messages() {
            return Ok((Interest::default(), slot.life()));
        }
        if let Some(state) = state.filter(|_| exports.handover.is_some()) {
            let restored = slot.call(Phase::Restore, &mut self.time_spent, |instance| {
                instance.restore(number, state)
            });
            restored
                .map_err(|cause| Refusal::Failed(Phase::Restore, cause))?
                .map_err(Refusal::Refused)?;
        }
        let limit = slot.allowance();
        let handshake = &self.handshake;
        let opened = slot.call(Phase::Open, &mut self.time_spent, |instance| {
            instance.open(number, handshake, Some(Reopening::Swap), limit, said)
        });
        let wants = opened.map_err(|cause| Refusal::Failed(Phase::Open, cause))?;
        Ok((Interest::of(&wants, self.max_message), slot.life()))
    }
}

/// Why a session stays where it is.
pub(super) enum Refusal {
    /// What `handover.restore` returned.
    Refused(String),
    Failed(Phase, Cause),
}
