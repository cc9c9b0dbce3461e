//! Messages that plugins wait before they judge: kept with those that wait behind them, and resumed.
//!
//! The direction of such a message stands still, so that order is kept; holding back what comes after it
//! is for `proxy/filter/`.

use std::task::{Context, Poll};

use super::messages::{Budget, MessageChain, Passage};
use super::{Cause, Failure, MessageVerdict, Sent};
use crate::protocol::message::Side;
use crate::telemetry::Phase;

/// A message that a plugin waits with, the last of `waiting`, and those that go on after it.
pub(super) struct Parked {
    waiting: Vec<Passage<'static>>,
    budget: Budget,
}

/// A message that came, or some that plugins sent, for which nobody waits any more.
pub(crate) struct Resumed {
    /// The side that the message came from; None: plugins sent it.
    pub(crate) from: Option<Side>,
    /// On the message that came. Of others only that the session is to be closed.
    pub(crate) verdict: MessageVerdict,
}

impl MessageChain {
    /// Whether a plugin waits before it judges a message.
    pub(crate) fn is_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Whether messages from a side have to wait: one of that direction does, or the session is to move
    /// to another version. That is for when none waits, so none begins to.
    pub(crate) fn blocks(&self, from: Side) -> bool {
        self.is_parked() && (self.is_behind() || self.stands_still(from))
    }

    /// Whether a message from a side waits.
    pub(super) fn stands_still(&self, from: Side) -> bool {
        self.parked
            .iter()
            .flat_map(|parked| &parked.waiting)
            .any(|message| message.from == from)
    }

    /// Resumes plugins whose replies have come, until a message is free to go on. What plugins send is
    /// appended to `sent`, also while nothing is ready.
    pub(crate) fn poll_resumed(
        &mut self,
        cx: &mut Context<'_>,
        sent: &mut Vec<Sent>,
    ) -> Poll<Result<Resumed, Failure>> {
        let mut at = 0;
        loop {
            if let Some(verdict) = self.let_go(sent)? {
                let from = None;
                return Poll::Ready(Ok(Resumed { from, verdict }));
            }
            if at == self.parked.len() {
                return Poll::Pending;
            }
            let Some((n, result)) = self.parked[at].poll(cx) else {
                at += 1;
                continue;
            };
            let Parked {
                mut waiting,
                mut budget,
            } = self.parked.remove(at);
            let from = waiting.first().filter(|first| first.came);
            let from = from.map(|first| first.from);
            let mut said = Vec::new();
            if let Some(message) = waiting.last_mut() {
                self.resume(n, message, result, &mut budget, &mut said)?;
            }
            let said = said.into_iter().map(|sent| (n, sent)).collect();
            waiting.extend(self.on_their_way(said));
            match self.run(waiting, budget, sent)? {
                // It has been put at the end, where it is asked for once more.
                Some(MessageVerdict::Wait) => {}
                Some(verdict) => return Poll::Ready(Ok(Resumed { from, verdict })),
                None => {
                    let verdict = MessageVerdict::Pass;
                    return Poll::Ready(Ok(Resumed { from, verdict }));
                }
            }
        }
    }

    /// Tells plugin `n` of the replies that it waits for with a message.
    fn resume(
        &mut self,
        n: usize,
        message: &mut Passage<'_>,
        result: Result<super::wait::Replies, Cause>,
        budget: &mut Budget,
        said: &mut Vec<Sent>,
    ) -> Result<(), Failure> {
        let Some((_, mut wait)) = message.waits.take() else {
            return Ok(());
        };
        let own = self.links[n].slot.allowance();
        let mut limit = if message.came {
            own
        } else {
            budget.share(own, &self.links)
        };
        let before = limit;
        let held = self.held(n) + wait.held();
        let answer = result.and_then(|replies| {
            wait.resume(Phase::Message, &mut self.time_spent, |instance| {
                instance.hold(held);
                instance.resume_message(&replies, message.kind, &mut limit, said)
            })
        });
        match answer {
            Ok(answer) => {
                if !message.came {
                    budget.spend(before, limit);
                }
                match answer {
                    Some(verdict) => {
                        self.links[n].count_verdict(&verdict);
                        message.judge(verdict);
                        self.saw_message(n);
                    }
                    None => message.waits = Some((n, wait)),
                }
                Ok(())
            }
            Err(cause) if cause.is_of_waiting() => {
                // The plugin is there, or will be: only this message goes on without it.
                let link = &self.links[n];
                link.slot.failed_waiting(Phase::Message, &cause);
                link.fail(Phase::Message, cause)
            }
            Err(cause) => {
                let verdict = self.failed(n, Phase::Message, cause)?;
                message.judge(verdict);
                Ok(())
            }
        }
    }

    pub(super) fn park(&mut self, waiting: Vec<Passage<'_>>, budget: Budget) {
        let waiting = waiting.into_iter().map(Passage::into_owned).collect();
        self.parked.push(Parked { waiting, budget });
    }

    /// Returns how many tickets plugin `n` holds in this session.
    pub(super) fn held(&self, n: usize) -> usize {
        self.parked
            .iter()
            .flat_map(|parked| &parked.waiting)
            .filter_map(|message| message.waits.as_ref())
            .filter(|(by, _)| *by == n)
            .map(|(_, wait)| wait.held())
            .sum()
    }
}

impl Parked {
    /// Returns the plugin that waits and what it is to be told. None: nothing yet.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<(usize, Result<super::wait::Replies, Cause>)> {
        let (n, wait) = self.waiting.last_mut()?.waits.as_mut()?;
        match wait.poll(cx) {
            Poll::Pending => None,
            Poll::Ready(result) => Some((*n, result)),
        }
    }
}
