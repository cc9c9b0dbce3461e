//! The calls of an instance that resume its hooks. What is waited for, and when they are made, is for
//! `wait.rs`.

use std::sync::Arc;

use http::{StatusCode, request, response};
use wasmtime::Store;
use wasmtime::component::Resource;

use super::bindings::exports::tidegate::plugin::resumption::{self, HeadVerdict};
use super::host::{Allowance, State, rule};
use super::instance::{Instance, LENT, answer, begin, guarded, lend_request, lend_response};
use super::sessions::{closing, replacement};
use super::wait::{Asked, Replies};
use super::{Cause, Facts, MessageVerdict, Sent, SentRequest, Verdict};
use crate::protocol::message::MessageKind;
use crate::telemetry::Phase;

/// What calls may produce that nothing may come of.
const NOTHING: Allowance = Allowance {
    bytes: 0,
    messages: 0,
};

impl Instance {
    /// Notes how many tickets the exchange or session holds whose hook is called next.
    pub(super) fn hold(&mut self, tickets: usize) {
        self.store.data_mut().tickets.hold(tickets);
    }

    /// As [`Self::on_request`].
    pub(super) fn resume_request(
        &mut self,
        replies: &Replies,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
        limit: Allowance,
    ) -> Result<Asked<Verdict>, Cause> {
        let guest = resumable(self.guest.resumption.as_ref())?;
        begin(&mut self.store, Phase::Request, self.timeout, limit);
        lend_request(&mut self.store, head, facts, |store| {
            let verdict =
                guest.call_resume_request(&mut *store, replies, Resource::new_borrow(LENT))?;
            match verdict {
                HeadVerdict::Continue => Ok(Asked::Answered(Verdict::Continue)),
                HeadVerdict::Respond => Ok(Asked::Answered(Verdict::Respond(answer(store)?))),
                HeadVerdict::Wait => Ok(waits(store)),
            }
        })
    }

    /// As [`Self::on_response`].
    pub(super) fn resume_response(
        &mut self,
        replies: &Replies,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
        limit: Allowance,
    ) -> Result<Asked<Verdict>, Cause> {
        let guest = resumable(self.guest.resumption.as_ref())?;
        begin(&mut self.store, Phase::Response, self.timeout, limit);
        let status = head.status;
        lend_response(&mut self.store, request, head, |store| {
            let verdict = guest.call_resume_response(
                &mut *store,
                replies,
                Resource::new_borrow(LENT),
                Resource::new_borrow(LENT),
            )?;
            match verdict {
                HeadVerdict::Continue => Ok(Asked::Answered(Verdict::Continue)),
                HeadVerdict::Respond if status == StatusCode::SWITCHING_PROTOCOLS => {
                    rule("answered `respond` to a 101".to_owned())
                }
                HeadVerdict::Respond => Ok(Asked::Answered(Verdict::Respond(answer(store)?))),
                HeadVerdict::Wait => Ok(waits(store)),
            }
        })
    }

    /// As [`Self::on_message`].
    pub(super) fn resume_message(
        &mut self,
        replies: &Replies,
        kind: MessageKind,
        limit: &mut Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<Asked<MessageVerdict>, Cause> {
        let guest = resumable(self.guest.resumption.as_ref())?;
        begin(&mut self.store, Phase::Message, self.timeout, *limit);
        self.store.data_mut().call.judges(kind);
        let verdict = guarded(&mut self.store, |store| {
            guest.call_resume_message(store, replies)
        })?;
        let verdict = match verdict {
            resumption::MessageVerdict::Pass => MessageVerdict::Pass,
            resumption::MessageVerdict::Drop => MessageVerdict::Drop,
            resumption::MessageVerdict::Replace => replacement(self.store.data_mut())?,
            resumption::MessageVerdict::Close => closing(self.store.data_mut()),
            resumption::MessageVerdict::Wait => {
                *limit = self.take_produced(sent);
                return Ok(waits(&mut self.store));
            }
        };
        *limit = self.take_produced(sent);
        Ok(Asked::Answered(verdict))
    }

    /// Tells the plugin that a hook is not resumed.
    pub(super) fn cancelled(&mut self, tickets: &[u64]) -> Result<(), Cause> {
        let guest = resumable(self.guest.resumption.as_ref())?;
        begin(&mut self.store, Phase::Cancel, self.timeout, NOTHING);
        guarded(&mut self.store, |store| {
            guest.call_cancelled(store, tickets)
        })
    }
}

/// What a hook that answered `wait` has ordered.
pub(super) fn waits<V>(store: &mut Store<State>) -> Asked<V> {
    Asked::Waits(store.data_mut().tickets.take_orders())
}

/// Refuses a plugin to wait that could not be told of the replies.
pub(super) fn resumable(guest: Option<&resumption::Guest>) -> Result<&resumption::Guest, Cause> {
    guest.ok_or_else(|| Cause::Rule("answered `wait`, but exports no `resumption`".to_owned()))
}
