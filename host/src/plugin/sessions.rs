//! The calls of an instance about WebSocket sessions. Which are made, and in what order, is for
//! `messages.rs`.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::exports::tidegate::plugin::{fragments, messages};
use super::host::{Allowance, Lent, State};
use super::instance::{Instance, LENT, begin, guarded, take_lent, unmet};
use super::resumption::{resumable, waits};
use super::wait::Asked;
use super::{Cause, Handshake, MessageVerdict, Reopening, Sent};
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::Phase;

/// What a plugin wants of a session: nothing of what it does not export.
#[derive(Default)]
pub(super) struct Wants {
    pub(super) messages: Option<messages::Subscription>,
    pub(super) fragments: Option<fragments::Subscription>,
}

/// A piece of a message, on its way past a plugin.
pub(super) struct Piece<'a> {
    pub(super) from: Side,
    pub(super) kind: MessageKind,
    pub(super) payload: &'a [u8],
    pub(super) place: fragments::Place,
}

const NOTHING: Allowance = Allowance {
    bytes: 0,
    messages: 0,
};

impl Instance {
    /// Opens a session. What that sent is appended to `sent`.
    pub(super) fn open(
        &mut self,
        session: u32,
        handshake: &Arc<Handshake>,
        reopening: Option<Reopening>,
        limit: Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<Wants, Cause> {
        let mut wants = Wants::default();
        let mut left = limit;
        if let Some(guest) = &self.guest.messages {
            begin(&mut self.store, Phase::Open, self.timeout, left);
            self.store.data_mut().lent = lent(handshake, reopening);
            let result = guarded(&mut self.store, |store| {
                guest.call_open(store, session, Resource::new_borrow(LENT))
            });
            drop(take_lent(&mut self.store));
            wants.messages = Some(result?);
            left = self.take_produced(sent);
        }
        if let Some(guest) = &self.guest.fragments {
            begin(&mut self.store, Phase::Open, self.timeout, left);
            self.store.data_mut().lent = lent(handshake, reopening);
            let result = guarded(&mut self.store, |store| {
                guest.call_open(store, session, Resource::new_borrow(LENT))
            });
            drop(take_lent(&mut self.store));
            wants.fragments = Some(result?);
            self.take_produced(sent);
        }
        Ok(wants)
    }

    /// Asks for a verdict. What the call sent is appended to `sent`, and what it produced is taken from
    /// `limit`.
    pub(super) fn on_message(
        &mut self,
        session: u32,
        from: Side,
        kind: MessageKind,
        payload: &[u8],
        limit: &mut Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<Asked<MessageVerdict>, Cause> {
        let guest = self
            .guest
            .messages
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Message, self.timeout, *limit);
        self.store.data_mut().call.judges(kind);
        let verdict = guarded(&mut self.store, |store| {
            guest.call_on_message(&mut *store, session, from.into(), kind.into(), payload)
        })?;
        let verdict = match verdict {
            messages::Verdict::Pass => MessageVerdict::Pass,
            messages::Verdict::Drop => MessageVerdict::Drop,
            messages::Verdict::Replace => replacement(self.store.data_mut())?,
            messages::Verdict::Close => closing(self.store.data_mut()),
            messages::Verdict::Wait => {
                resumable(self.guest.resumption.as_ref())?;
                *limit = self.take_produced(sent);
                return Ok(waits(&mut self.store));
            }
        };
        *limit = self.take_produced(sent);
        Ok(Asked::Answered(verdict))
    }

    /// Asks for a verdict on a piece; as [`Self::on_message`]. Only with `may_edit` that may be another than
    /// to pass it or to close the session.
    pub(super) fn on_fragment(
        &mut self,
        session: u32,
        piece: &Piece<'_>,
        may_edit: bool,
        limit: &mut Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Cause> {
        let guest = self
            .guest
            .fragments
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Fragment, self.timeout, *limit);
        self.store.data_mut().call.judges(piece.kind);
        let verdict = guarded(&mut self.store, |store| {
            let Piece {
                from,
                kind,
                payload,
                place,
            } = piece;
            let (from, kind) = ((*from).into(), (*kind).into());
            guest.call_on_fragment(&mut *store, session, from, kind, payload, *place)
        })?;
        let verdict = match verdict {
            fragments::Verdict::Pass => MessageVerdict::Pass,
            fragments::Verdict::Close => closing(self.store.data_mut()),
            fragments::Verdict::Wait => {
                let what = "answered `wait` about a piece, which cannot be waited with";
                return Err(Cause::Rule(what.to_owned()));
            }
            fragments::Verdict::Replace | fragments::Verdict::Drop if !may_edit => {
                let what = "changed a message, though its purpose was to `scan`";
                return Err(Cause::Rule(what.to_owned()));
            }
            fragments::Verdict::Drop => MessageVerdict::Drop,
            fragments::Verdict::Replace => replacement(self.store.data_mut())?,
        };
        *limit = self.take_produced(sent);
        Ok(verdict)
    }

    /// Tells the plugin how a session ended, by each interface through which it watched.
    pub(super) fn on_close(
        &mut self,
        session: u32,
        code: u16,
        by: Option<Side>,
        (of_messages, of_fragments): (bool, bool),
    ) -> Result<(), Cause> {
        let by = by.map(Into::into);
        if let Some(guest) = self.guest.messages.as_ref().filter(|_| of_messages) {
            begin(&mut self.store, Phase::Close, self.timeout, NOTHING);
            let ending = messages::Ending { code, by };
            guarded(&mut self.store, |store| {
                guest.call_on_close(store, session, ending)
            })?;
        }
        if let Some(guest) = self.guest.fragments.as_ref().filter(|_| of_fragments) {
            begin(&mut self.store, Phase::Close, self.timeout, NOTHING);
            let ending = fragments::Ending { code, by };
            guarded(&mut self.store, |store| {
                guest.call_on_close(store, session, ending)
            })?;
        }
        Ok(())
    }

    /// Takes what the last call sent. Returns what it left of its allowance.
    pub(super) fn take_produced(&mut self, sent: &mut Vec<Sent>) -> Allowance {
        let state = self.store.data_mut();
        if !state.produced.sent.is_empty() {
            sent.append(&mut state.produced.sent);
        }
        state.call.left()
    }
}

fn lent(handshake: &Arc<Handshake>, reopening: Option<Reopening>) -> Lent {
    Lent::Handshake {
        handshake: Arc::clone(handshake),
        reopening,
    }
}

pub(super) fn replacement(state: &mut State) -> Result<MessageVerdict, Cause> {
    match state.produced.replacement.take() {
        Some(payload) => Ok(MessageVerdict::Replace(payload)),
        None => unmet("replace", "outgoing.replace"),
    }
}

pub(super) fn closing(state: &mut State) -> MessageVerdict {
    let named = state.produced.close.take();
    let (code, reason) = named.unwrap_or((CloseCode::POLICY, String::new()));
    MessageVerdict::Close { code, reason }
}
