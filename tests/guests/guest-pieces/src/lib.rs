//! Sees messages in pieces, and does to them what its configuration says.
//!
//! ```toml
//! config = { forbid = "word", edit = true, tell = true }
//! ```
//!
//! | key | what happens |
//! |---|---|
//! | `forbid` | a message in which this appears, however it is cut, closes the session with 4008 |
//! | `edit` | letters of a to z become upper case; a piece that begins with `-` is dropped, `=` makes it empty |
//! | `tell` | the sender is told at the end of each message: `KIND: PIECES pieces, LENGTH bytes` |
//! | `announce` | this is sent to where the pieces go, with each piece |
//! | `origin` | only messages from there: `client` or `service` |
//! | `kinds` | `text` or `binary` only; both without it |
//! | `whole` | messages of up to so many bytes are asked for whole as well, and answered with `whole` |
//!
//! A place of a piece that cannot be is a panic.

use std::error::Error;

use serde::Deserialize;
use tidegate_plugin::{
    DataKinds, Fragment, FragmentSubscription, Fragments, Handshake, Kind, Kinds, Message,
    MessageVerdict, Messages, Outgoing, Plugin, Side, Subscription,
};

struct Pieces(Config);

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    forbid: Option<String>,
    #[serde(default)]
    edit: bool,
    #[serde(default)]
    tell: bool,
    announce: Option<String>,
    origin: Option<String>,
    kinds: Option<String>,
    whole: Option<u64>,
}

/// What was seen of the message at hand from one end.
#[derive(Default)]
struct Seen {
    pieces: usize,
    bytes: usize,
    /// Its end, in which the word may have begun.
    end: Vec<u8>,
}

impl Plugin for Pieces {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        Ok(Self(config))
    }
}

impl Messages for Pieces {
    type Session = ();

    fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        let subscription = Subscription::both(Kinds::TEXT | Kinds::BINARY);
        Some(((), subscription.up_to(self.0.whole?)))
    }

    fn on_message(&mut self, (): &mut (), message: Message, out: &mut Outgoing) -> MessageVerdict {
        out.send_text(message.origin, "whole");
        MessageVerdict::Drop
    }
}

impl Fragments for Pieces {
    type Session = [Seen; 2];

    fn open(
        &mut self,
        _: &Handshake,
        _: &mut Outgoing,
    ) -> Option<([Seen; 2], FragmentSubscription)> {
        let kinds = match self.0.kinds.as_deref() {
            Some("text") => DataKinds::TEXT,
            Some("binary") => DataKinds::BINARY,
            _ => DataKinds::TEXT | DataKinds::BINARY,
        };
        let subscription = if self.0.edit {
            FragmentSubscription::edit(kinds)
        } else {
            FragmentSubscription::scan(kinds)
        };
        let subscription = match self.0.origin.as_deref() {
            Some("client") => subscription.only(Side::Client),
            Some("service") => subscription.only(Side::Service),
            _ => subscription,
        };
        Some((Default::default(), subscription))
    }

    fn on_fragment(
        &mut self,
        session: &mut [Seen; 2],
        fragment: Fragment,
        out: &mut Outgoing,
    ) -> MessageVerdict {
        let (seen, other) = match fragment.origin {
            Side::Client => (&mut session[0], Side::Service),
            Side::Service => (&mut session[1], Side::Client),
        };
        assert_eq!(
            fragment.first,
            seen.pieces == 0,
            "the first piece is marked"
        );
        assert!(
            fragment.last || !fragment.payload.is_empty(),
            "no piece is empty"
        );
        let is_text = matches!(fragment.kind, Kind::Text);
        assert!(!is_text || fragment.text().is_some(), "text is UTF-8");
        seen.pieces += 1;
        seen.bytes += fragment.payload.len();
        if let Some(word) = &self.0.forbid {
            seen.end.extend_from_slice(&fragment.payload);
            let mut windows = seen.end.windows(word.len());
            if windows.any(|window| window == word.as_bytes()) {
                return MessageVerdict::Close {
                    code: 4008,
                    reason: "forbidden".to_owned(),
                };
            }
            let kept = seen.end.len().saturating_sub(word.len() - 1);
            seen.end.drain(..kept);
        }
        if let Some(announcement) = &self.0.announce {
            out.send_text(other, announcement);
        }
        if fragment.last {
            let Seen { pieces, bytes, .. } = std::mem::take(seen);
            if self.0.tell {
                let kind = if is_text { "text" } else { "binary" };
                let said = format!("{kind}: {pieces} pieces, {bytes} bytes");
                out.send_text(fragment.origin, &said);
            }
        }
        match fragment.payload.first() {
            Some(b'-') if self.0.edit => MessageVerdict::Drop,
            Some(b'=') if self.0.edit => MessageVerdict::Replace(Vec::new()),
            Some(_) if self.0.edit => {
                MessageVerdict::Replace(fragment.payload.to_ascii_uppercase())
            }
            _ => MessageVerdict::Pass,
        }
    }
}

tidegate_plugin::export!(Pieces: Messages, Fragments);
