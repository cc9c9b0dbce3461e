//! WebSocket messages in pieces, as they arrive.

use crate::bindings::fragments::exports::tidegate::plugin::fragments as wit;
use crate::{Ending, Handshake, Kind, MessageVerdict, Outgoing, Plugin, Side};

pub use wit::{DataKinds, Purpose};

/// A plugin that sees the messages of WebSocket sessions in pieces, as they arrive: no message is held
/// for it, however long.
///
/// This one closes sessions in which a word appears, wherever a message is cut:
///
/// ```
/// # use std::error::Error;
/// # use tidegate_plugin::{
/// #     DataKinds, Fragment, FragmentSubscription, Fragments, Handshake, MessageVerdict, NoConfig,
/// #     Outgoing, Plugin,
/// # };
/// const WORD: &[u8] = b"secret";
///
/// struct Guard;
/// # impl Plugin for Guard {
/// #     type Config = NoConfig;
/// #     fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> { Ok(Self) }
/// # }
///
/// impl Fragments for Guard {
///     /// The end of the last piece from the client, in which the word may have begun.
///     type Session = Vec<u8>;
///
///     fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<(Vec<u8>, FragmentSubscription)> {
///         let from_client = FragmentSubscription::scan(DataKinds::TEXT).only(tidegate_plugin::Side::Client);
///         Some((Vec::new(), from_client))
///     }
///
///     fn on_fragment(&mut self, end: &mut Vec<u8>, fragment: Fragment, _: &mut Outgoing) -> MessageVerdict {
///         if fragment.first {
///             end.clear();
///         }
///         end.extend_from_slice(&fragment.payload);
///         if end.windows(WORD.len()).any(|window| window == WORD) {
///             return MessageVerdict::Close { code: 1008, reason: "that word".to_owned() };
///         }
///         end.drain(..end.len().saturating_sub(WORD.len() - 1));
///         MessageVerdict::Pass
///     }
/// }
///
/// tidegate_plugin::export!(Guard: Fragments);
/// #
/// # let mut end = Vec::new();
/// # let mut show = |text: &str, first| {
/// #     let fragment = Fragment { first, ..Fragment::from_text(tidegate_plugin::Side::Client, text) };
/// #     Guard.on_fragment(&mut end, fragment, &mut Outgoing::default())
/// # };
/// # assert_eq!(show("a sec", true), MessageVerdict::Pass);
/// # assert!(matches!(show("ret", false), MessageVerdict::Close { .. }));
/// # assert_eq!(show("ret", true), MessageVerdict::Pass);
/// ```
///
/// A plugin may implement [`Messages`](crate::Messages) as well, to be shown whole what is short: what
/// that trait is shown, this one is not.
pub trait Fragments: Plugin {
    /// What the plugin keeps of a session; `()` if nothing.
    type Session: 'static;

    /// Says what the plugin wants to see of a session, or nothing: then it is not called for it
    /// again. Called once per session and instance, after the 101 went out and before any message.
    fn open(
        &mut self,
        handshake: &Handshake,
        out: &mut Outgoing,
    ) -> Option<(Self::Session, FragmentSubscription)>;

    /// Judges a piece of a message. The verdict is on the piece: [`MessageVerdict::Drop`] takes out
    /// this one, and a message of which every piece was dropped is not sent. Only a plugin whose
    /// purpose is to edit may replace and drop; else the instance ends.
    ///
    /// Pieces that passed have gone on by then: one that closes the session leaves the other end with a
    /// message that never ends. What is sent the same way as the pieces goes out after the message.
    fn on_fragment(
        &mut self,
        session: &mut Self::Session,
        fragment: Fragment,
        out: &mut Outgoing,
    ) -> MessageVerdict;

    /// Ends a session. Called once for each session that was subscribed to.
    fn on_close(&mut self, session: Self::Session, ending: Ending) {
        drop(session);
        let _ = ending;
    }
}

/// A piece of a message, as it arrived: at most 64 KiB. Where it ends means nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// The end it comes from.
    pub origin: Side,
    /// Text or binary.
    pub kind: Kind,
    /// UTF-8 if `kind` is text: characters are not cut. The plugin's own: take it to edit it in place.
    /// Only the last piece may be empty.
    pub payload: Vec<u8>,
    /// The message begins with it. If the session was opened again in the midst of a message, there is
    /// none such.
    pub first: bool,
    /// The message ends with it.
    pub last: bool,
}

impl Fragment {
    /// A text message in one piece.
    #[must_use]
    pub fn from_text(origin: Side, text: impl Into<String>) -> Self {
        Self {
            origin,
            kind: Kind::Text,
            payload: text.into().into_bytes(),
            first: true,
            last: true,
        }
    }

    /// A binary message in one piece.
    #[must_use]
    pub fn from_binary(origin: Side, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: Kind::Binary,
            payload: payload.into(),
            ..Self::from_text(origin, "")
        }
    }

    /// Returns the text of a piece of text. Looks at every byte once: a plugin that can work on bytes
    /// uses `payload`.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text => str::from_utf8(&self.payload).ok(),
            Kind::Binary | Kind::Ping | Kind::Pong => None,
        }
    }
}

/// What a plugin wants to see of a session in pieces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FragmentSubscription {
    /// Kinds of messages that come from the client.
    pub from_client: DataKinds,
    /// Kinds of messages that come from the service.
    pub from_service: DataKinds,
    /// What the plugin does to pieces.
    pub purpose: Purpose,
}

impl FragmentSubscription {
    /// Messages of these kinds, whichever end they come from, to look at: the verdict is to pass the
    /// piece or to close the session. Compressed messages go on as they came.
    #[must_use]
    pub fn scan(kinds: DataKinds) -> Self {
        Self {
            from_client: kinds,
            from_service: kinds,
            purpose: Purpose::Scan,
        }
    }

    /// The same, to be changed. Compressed messages go on without compression.
    #[must_use]
    pub fn edit(kinds: DataKinds) -> Self {
        Self {
            purpose: Purpose::Edit,
            ..Self::scan(kinds)
        }
    }

    /// Only those that come from one end.
    #[must_use]
    pub fn only(mut self, origin: Side) -> Self {
        match origin {
            Side::Client => self.from_service = DataKinds::empty(),
            Side::Service => self.from_client = DataKinds::empty(),
        }
        self
    }
}
