//! Hooks that wait: the work behind their tickets, for as long as somebody is there to be told.
//!
//! Nothing runs on its own: whoever waits drives the work, and dropping a [`Wait`] ends it. What a hook
//! holds up meanwhile is for `exchange.rs` and `parked.rs`.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Cause;
use super::bindings::tidegate::plugin::tickets::{Reply, Response};
use super::host::{CallResult, Orders, Place, Started, Work};
use super::instance::Instance;
use super::slots::Slot;
use crate::telemetry::Phase;

/// What a hook that may wait has answered.
pub(super) enum Asked<V> {
    Answered(V),
    Waits(Orders),
}

/// What has come of asking a hook.
pub(super) enum Step<V> {
    Done(V),
    Waits(Box<Wait>),
}

/// A hook that waits. Dropped before it has answered, the plugin is told that it is cancelled.
pub(super) struct Wait {
    slot: Rc<Slot>,
    /// The life of the slot whose instance the hook is in.
    life: u32,
    /// By which the slot wakes whoever waits in it.
    key: usize,
    running: Vec<Running>,
    timeout: Pin<Box<Sleep>>,
    limit: Duration,
    /// It waits on after replies that have just come.
    was_resumed: bool,
    answered: bool,
}

struct Running {
    ticket: u64,
    reply: Pin<Box<dyn Future<Output = Reply>>>,
    _place: Place,
}

/// Replies, with their tickets.
pub(super) type Replies = Vec<(u64, Reply)>;

impl Slot {
    /// Calls a hook that may wait.
    pub(super) fn ask<V>(
        self: &Rc<Self>,
        phase: Phase,
        time_spent: &mut Duration,
        ask: impl FnOnce(&mut Instance) -> Result<Asked<V>, Cause>,
    ) -> Result<Step<V>, Cause> {
        self.call(phase, time_spent, |instance| match ask(instance)? {
            Asked::Answered(answer) => Ok(Step::Done(answer)),
            Asked::Waits(orders) => {
                let mut wait = Wait::new(self);
                wait.take(orders)?;
                Ok(Step::Waits(Box::new(wait)))
            }
        })
    }
}

impl Slot {
    /// Calls a hook for somebody who does not wait. None: it would have, and has been told that it is
    /// cancelled; nothing was started.
    pub(super) fn ask_at_once<V>(
        &self,
        phase: Phase,
        time_spent: &mut Duration,
        ask: impl FnOnce(&mut Instance) -> Result<Asked<V>, Cause>,
    ) -> Result<Option<V>, Cause> {
        self.call(phase, time_spent, |instance| match ask(instance)? {
            Asked::Answered(answer) => Ok(Some(answer)),
            Asked::Waits(orders) => {
                let tickets: Vec<_> = orders
                    .started
                    .iter()
                    .map(|started| started.ticket)
                    .collect();
                instance.cancelled(&tickets).map(|()| None)
            }
        })
    }
}

impl Wait {
    fn new(slot: &Rc<Slot>) -> Self {
        let limit = slot.version().declared().limits.tickets.wait_timeout;
        let deadline = Instant::now().checked_add(limit);
        Self {
            slot: Rc::clone(slot),
            life: slot.life(),
            key: slot.begin_waiting(),
            running: Vec::new(),
            timeout: Box::pin(deadline.map_or_else(|| sleep(limit), sleep_until)),
            limit,
            was_resumed: false,
            answered: false,
        }
    }

    /// Waits for replies, at least one. A plugin that fails meanwhile, by waiting too long or as its
    /// instance ends, is a cause.
    ///
    /// A hook that waits on after replies gets the next ones at the next poll at the earliest: what is
    /// answered at once, over and over, must hold up neither its worker nor the end of its own patience.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Replies, Cause>> {
        if self.life != self.slot.life() {
            return Poll::Ready(Err(Cause::Lost));
        }
        self.slot.wait(self.key, cx.waker());
        if self.timeout.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Cause::Waited { limit: self.limit }));
        }
        if std::mem::take(&mut self.was_resumed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut replies = Replies::new();
        self.running
            .retain_mut(|running| match running.reply.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(reply) => {
                    replies.push((running.ticket, reply));
                    false
                }
            });
        if replies.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(replies))
        }
    }

    /// Resumes the hook. Returns its answer; None: it waits on.
    pub(super) fn resume<V>(
        &mut self,
        phase: Phase,
        time_spent: &mut Duration,
        ask: impl FnOnce(&mut Instance) -> Result<Asked<V>, Cause>,
    ) -> Result<Option<V>, Cause> {
        let slot = Rc::clone(&self.slot);
        slot.call(phase, time_spent, |instance| match ask(instance)? {
            Asked::Answered(answer) => {
                self.answered = true;
                Ok(Some(answer))
            }
            Asked::Waits(orders) => {
                self.was_resumed = true;
                self.take(orders).map(|()| None)
            }
        })
    }

    /// Returns how many tickets are not settled.
    pub(super) fn held(&self) -> usize {
        self.running.len()
    }

    /// Starts what a call of the hook ordered.
    fn take(&mut self, orders: Orders) -> Result<(), Cause> {
        let Orders { started, cancelled } = orders;
        let is_wanted = |ticket: &u64| !cancelled.contains(ticket);
        self.running.retain(|running| is_wanted(&running.ticket));
        for Started {
            ticket,
            work,
            place,
        } in started
        {
            if is_wanted(&ticket) {
                self.running.push(Running {
                    ticket,
                    reply: self.begin(work),
                    _place: place,
                });
            }
        }
        if self.running.is_empty() {
            return Err(Cause::Rule("answered `wait` without a ticket".to_owned()));
        }
        Ok(())
    }

    fn begin(&self, work: Work) -> Pin<Box<dyn Future<Output = Reply>>> {
        match work {
            Work::Call(call) => {
                let result = (self.slot.caller())(*call);
                Box::pin(async move { reply(result.await) })
            }
            Work::Sleep(time) => Box::pin(async move {
                sleep(time).await;
                Reply::Elapsed
            }),
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.slot.end_waiting(self.key);
        if self.answered {
            return;
        }
        let tickets: Vec<_> = self
            .running
            .drain(..)
            .map(|running| running.ticket)
            .collect();
        let mut time_spent = Duration::ZERO;
        self.slot
            .call_if_alive(self.life, Phase::Cancel, &mut time_spent, |instance| {
                instance.cancelled(&tickets)
            });
    }
}

/// A result in the words of the contract.
fn reply(result: CallResult) -> Reply {
    match result {
        Err(error) => Reply::Failed(error),
        Ok(response) => {
            let fields = response.headers().iter();
            Reply::Response(Response {
                status: response.status().as_u16(),
                fields: fields
                    .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                    .collect(),
                body: response.into_body().into(),
            })
        }
    }
}
