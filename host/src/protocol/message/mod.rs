//! Messages out of frames, for one direction of a session that plugins watch (RFC 6455 §5.4-5.6).
//!
//! Here is what is found in a stream; reading it is `reader.rs`. What happens to a message is for
//! `proxy/filter`, which also owns the bytes.

mod parted;
mod reader;
#[cfg(test)]
mod tests;

use thiserror::Error;

use super::close::CloseCode;
use super::deflate::InflateError;
use super::frame::FrameError;

pub(crate) use reader::MessageReader;

/// One end of a session; here, the end that the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Client,
    Service,
}

impl Side {
    /// Returns the opposite end.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Service,
            Self::Service => Self::Client,
        }
    }
}

/// What a message is, as plugins see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MessageKind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// The next thing in a stream of frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A whole data message, or a ping or pong. Text is UTF-8.
    ///
    /// `wire` is its frames as received, with their headers and masks. Control frames that came
    /// between the fragments of a data message are not in it; they were events before.
    Message {
        kind: MessageKind,
        payload: &'a [u8],
        wire: &'a [u8],
    },
    /// A whole data message whose payload is compressed (RFC 7692 §6). Whether it can be inflated, and
    /// whether it is UTF-8 if it is text, nobody has looked.
    Compressed {
        kind: MessageKind,
        payload: &'a [u8],
        wire: &'a [u8],
    },
    /// A part of a data message that is not held; see [`Wish`].
    Part(Part<'a>),
    /// A Close frame, `wire` as received. A frame without a code has no reason either. Nothing that
    /// follows it means anything (RFC 6455 §5.5.1).
    Close {
        code: Option<u16>,
        reason: &'a str,
        wire: &'a [u8],
    },
    /// The input holds no further event. At least `at_least` more bytes, never 0, bring the
    /// frame at hand, or its header if that is not whole.
    NeedMore { at_least: usize },
}

/// Some of the bytes of a data message, as they came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) kind: MessageKind,
    /// As in [`Event::Compressed`].
    pub(crate) compressed: bool,
    /// As received, with the header of the frame if that begins here.
    pub(crate) wire: &'a [u8],
    /// What it carries, without its mask; empty unless parts are shown. Text that is not compressed is
    /// judged, and here it ends with a whole character: what is cut off begins the next part.
    pub(crate) payload: &'a [u8],
    /// The message begins with it.
    pub(crate) first: bool,
    /// The message ends with it.
    pub(crate) last: bool,
    /// `wire` is a whole frame, and `payload` all that it carries.
    pub(crate) is_frame: bool,
    /// More of the same frame follows.
    pub(crate) within_frame: bool,
}

/// What is to become of a data message that has not come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Longest payload in bytes, put together; a frame that goes over it is refused at its header.
    pub(crate) limit: usize,
    /// A message is held until it is whole while it is shorter than this. A longer one goes on in
    /// parts as they come, and so does, from then on, one that turns out to be longer.
    pub(crate) held_below: usize,
    /// Parts have a payload.
    pub(crate) shows_parts: bool,
}

/// Which rule a peer broke. The stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("reserved bits {rsv:#05b} are set, which no extension gave a meaning")]
    ReservedBits { rsv: u8 },
    #[error("compressed bit is set on a frame that does not begin a message")]
    CompressedBit,
    #[error(transparent)]
    Inflate(#[from] InflateError),
    #[error("frame from the client is not masked")]
    Unmasked,
    #[error("frame from the service is masked")]
    Masked,
    #[error("continuation frame without a message to continue")]
    NothingToContinue,
    #[error("new message before the last frame of the one before")]
    MessageInsideMessage,
    #[error("message is over {limit} bytes")]
    MessageTooLong { limit: usize },
    #[error("frame headers of one message are over {limit} bytes")]
    TooManyFragments { limit: usize },
    #[error("text message is not UTF-8")]
    TextNotUtf8,
    #[error("close frame has one byte, which is half a code")]
    HalfCloseCode,
    #[error("close code {code} may not be sent")]
    CloseCode { code: u16 },
    #[error("close reason is not UTF-8")]
    ReasonNotUtf8,
}

impl ProtocolError {
    /// Returns the code that tells the peer.
    pub(crate) fn close_code(&self) -> CloseCode {
        match self {
            Self::Frame(_)
            | Self::ReservedBits { .. }
            | Self::CompressedBit
            | Self::Unmasked
            | Self::Masked
            | Self::NothingToContinue
            | Self::MessageInsideMessage
            | Self::HalfCloseCode
            | Self::CloseCode { .. } => CloseCode::PROTOCOL_ERROR,
            Self::TextNotUtf8 | Self::ReasonNotUtf8 | Self::Inflate(InflateError::Malformed) => {
                CloseCode::INVALID_PAYLOAD
            }
            Self::MessageTooLong { .. }
            | Self::TooManyFragments { .. }
            | Self::Inflate(InflateError::TooLong { .. }) => CloseCode::TOO_BIG,
        }
    }
}
