//! WebSocket messages.

use crate::Plugin;
use crate::bindings::imports::tidegate::plugin::http as wit;
#[cfg(target_arch = "wasm32")]
use crate::bindings::imports::tidegate::plugin::outgoing;
#[cfg(not(target_arch = "wasm32"))]
use crate::memory;

pub use crate::bindings::imports::tidegate::plugin::http::Reopening;
pub use crate::bindings::imports::tidegate::plugin::outgoing::{Kind, Side};
pub use crate::bindings::messages::exports::tidegate::plugin::messages::{
    Ending, Kinds, Subscription,
};

/// A plugin that sees WebSocket messages.
pub trait Messages: Plugin {
    /// What the plugin keeps of a session; `()` if nothing.
    type Session: 'static;

    /// Says what the plugin wants to see of a session, or nothing: then it is not called for it
    /// again. Called once per session and instance, after the 101 went out and before any message.
    fn open(
        &mut self,
        handshake: &Handshake,
        out: &mut Outgoing,
    ) -> Option<(Self::Session, Subscription)>;

    /// Judges a message. Called once per subscribed message, whole: fragments are put together
    /// first, up to the route's `max_message`.
    fn on_message(
        &mut self,
        session: &mut Self::Session,
        message: Message,
        out: &mut Outgoing,
    ) -> MessageVerdict;

    /// Ends a session. Called once for each session that was subscribed to.
    fn on_close(&mut self, session: Self::Session, ending: Ending) {
        drop(session);
        let _ = ending;
    }
}

/// A message as it reached the plugin, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The end it comes from.
    pub origin: Side,
    /// What the payload is.
    pub kind: Kind,
    /// UTF-8 if `kind` is text. The plugin's own: take it to edit it in place.
    pub payload: Vec<u8>,
}

impl Message {
    /// A text message.
    #[must_use]
    pub fn from_text(origin: Side, text: impl Into<String>) -> Self {
        Self {
            origin,
            kind: Kind::Text,
            payload: text.into().into_bytes(),
        }
    }

    /// A binary message.
    #[must_use]
    pub fn from_binary(origin: Side, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            origin,
            kind: Kind::Binary,
            payload: payload.into(),
        }
    }

    /// Returns the text of a text message. Looks at every byte once: a plugin that can work on bytes
    /// uses `payload`.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text => str::from_utf8(&self.payload).ok(),
            Kind::Binary | Kind::Ping | Kind::Pong => None,
        }
    }
}

/// What a plugin answers about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum MessageVerdict {
    /// The message goes on as it came.
    Pass,
    /// This goes on instead, with the kind the message had. A text must stay UTF-8, a ping or pong
    /// within 125 bytes; else the instance ends.
    Replace(Vec<u8>),
    /// The message ends here.
    Drop,
    /// The session ends at both ends, after what was sent before.
    Close {
        /// A code that may be sent (RFC 6455 §7.4): 1000 to 1003, 1007 to 1014, 3000 to 4999; else
        /// the instance ends.
        code: u16,
        /// For people. What is beyond 123 bytes is cut off (RFC 6455 §5.5).
        reason: String,
    },
}

impl Subscription {
    /// Messages of these kinds, whichever end they come from.
    #[must_use]
    pub fn both(kinds: Kinds) -> Self {
        Self {
            from_client: kinds,
            from_service: kinds,
            largest: None,
        }
    }

    /// Messages of these kinds from one end.
    #[must_use]
    pub fn only(origin: Side, kinds: Kinds) -> Self {
        let (from_client, from_service) = match origin {
            Side::Client => (kinds, Kinds::empty()),
            Side::Service => (Kinds::empty(), kinds),
        };
        Self {
            from_client,
            from_service,
            largest: None,
        }
    }

    /// Only messages whose payload is at most this long; longer ones pass unseen.
    #[must_use]
    pub fn up_to(mut self, bytes: u64) -> Self {
        self.largest = Some(bytes);
        self
    }
}

/// What a session knows of its opening handshake.
#[derive(Debug)]
pub struct Handshake<'a> {
    #[cfg(target_arch = "wasm32")]
    inner: &'a wit::Handshake,
    #[cfg(not(target_arch = "wasm32"))]
    inner: memory::Handshake,
    #[cfg(not(target_arch = "wasm32"))]
    lent: std::marker::PhantomData<&'a wit::Handshake>,
}

impl<'a> Handshake<'a> {
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn new(inner: &'a wit::Handshake) -> Self {
        Self { inner }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn new(inner: memory::Handshake) -> Self {
        Self {
            inner,
            lent: std::marker::PhantomData,
        }
    }

    /// Returns `http` or `https`, as the client reached the proxy.
    #[must_use]
    pub fn scheme(&self) -> String {
        self.inner.scheme()
    }

    /// Returns the host the client asked for: lower case, without port; empty if it named none.
    #[must_use]
    pub fn host(&self) -> String {
        self.inner.host()
    }

    /// Returns path and query as they were sent to the service.
    #[must_use]
    pub fn target(&self) -> String {
        self.inner.target()
    }

    /// Returns the address of the client, without port: `192.0.2.7`, `2001:db8::1`.
    #[must_use]
    pub fn remote_address(&self) -> String {
        self.inner.remote_address()
    }

    /// Returns the first value of a field of the request, as it was sent to the service.
    #[must_use]
    pub fn request_field(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.request_field(name)
    }

    /// Returns the first value of a field of the 101, as it was sent to the client.
    #[must_use]
    pub fn response_field(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.response_field(name)
    }

    /// Returns the subprotocol agreed on (RFC 6455 §1.9), if any.
    #[must_use]
    pub fn subprotocol(&self) -> Option<String> {
        self.inner.subprotocol()
    }

    /// Returns address and port of the endpoint that serves the session.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.inner.endpoint()
    }

    /// Returns whether the session was already running: in an instance that failed, or without this
    /// version of the plugin. Messages may have passed that this value never saw.
    #[must_use]
    pub fn reopened(&self) -> bool {
        self.inner.reopened()
    }

    /// Returns why the session is opened again, or nothing if it begins.
    #[must_use]
    pub fn reopening(&self) -> Option<Reopening> {
        self.inner.reopening()
    }
}

/// Sends messages of the plugin's own to the ends of the session at hand.
///
/// A message goes out before the one being judged, if that goes the same way, and passes the plugins
/// that stand between this one and that end. All of it counts against the plugin's `output_bytes`
/// and `output_messages`.
#[derive(Debug, Default)]
pub struct Outgoing {
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) sent: Vec<crate::testing::Sent>,
}

impl Outgoing {
    /// Sends a text message.
    pub fn send_text(&mut self, to: Side, text: &str) {
        self.send(to, Kind::Text, text.as_bytes());
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, to: Side, payload: &[u8]) {
        self.send(to, Kind::Binary, payload);
    }

    /// Sends a ping of at most 125 bytes; a longer one ends the instance.
    pub fn send_ping(&mut self, to: Side, payload: &[u8]) {
        self.send(to, Kind::Ping, payload);
    }

    /// Sends a pong of at most 125 bytes; a longer one ends the instance.
    pub fn send_pong(&mut self, to: Side, payload: &[u8]) {
        self.send(to, Kind::Pong, payload);
    }

    #[cfg(target_arch = "wasm32")]
    #[allow(clippy::unused_self, reason = "whoever has it may send")]
    fn send(&mut self, to: Side, kind: Kind, payload: &[u8]) {
        outgoing::send(to, kind, payload);
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn send(&mut self, to: Side, kind: Kind, payload: &[u8]) {
        self.sent.push(crate::testing::Sent {
            to,
            kind,
            payload: payload.to_vec(),
        });
    }
}
