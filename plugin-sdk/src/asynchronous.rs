//! Hooks that may wait: the same phases, as `async` functions.
//!
//! While one waits, its exchange or that direction of its session stands still, and everything else goes
//! on: also other calls of the same plugin. So these take the plugin and the session by shared reference;
//! what changes is in a [`Cell`](std::cell::Cell) or [`RefCell`](std::cell::RefCell), and a borrow of that
//! must not be held across an `.await`.

use crate::{
    Ending, Handshake, Message, MessageVerdict, Outgoing, Plugin, RequestHead, ResponseHead,
    SentRequest, Subscription, Verdict,
};

/// [`OnRequest`](crate::OnRequest), with leave to wait: `export!(Auth: async OnRequest)`.
pub trait AsyncOnRequest: Plugin {
    /// As [`OnRequest::on_request`](crate::OnRequest::on_request). What it changes of the head before it
    /// waits stays changed if it then fails and the operator's `on_failure` is `open`.
    fn on_request(&self, head: &mut RequestHead) -> impl Future<Output = Verdict>;
}

/// [`OnResponse`](crate::OnResponse), with leave to wait: `export!(Sign: async OnResponse)`.
pub trait AsyncOnResponse: Plugin {
    /// As [`OnResponse::on_response`](crate::OnResponse::on_response), and
    /// [`AsyncOnRequest::on_request`].
    fn on_response(
        &self,
        request: &SentRequest,
        head: &mut ResponseHead,
    ) -> impl Future<Output = Verdict>;
}

/// [`Messages`](crate::Messages), with leave to wait: `export!(Moderate: async Messages)`.
pub trait AsyncMessages: Plugin {
    /// What the plugin keeps of a session; `()` if nothing.
    type Session: 'static;

    /// As [`Messages::open`](crate::Messages::open). It cannot wait.
    fn open(
        &self,
        handshake: &Handshake,
        out: &mut Outgoing,
    ) -> Option<(Self::Session, Subscription)>;

    /// As [`Messages::on_message`](crate::Messages::on_message). While it waits, later messages of the same
    /// direction wait behind this one, and those of the other direction may be shown.
    fn on_message(
        &self,
        session: &Self::Session,
        message: Message,
        out: &mut Outgoing,
    ) -> impl Future<Output = MessageVerdict>;

    /// Ends a session. Called once for each session that was subscribed to; hooks of it that waited have
    /// been dropped before.
    fn on_close(&self, session: &Self::Session, ending: Ending) {
        let _ = (session, ending);
    }
}
