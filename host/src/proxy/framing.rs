//! Messages as frames, for what the proxy does not send as it came.

use super::mask;
use crate::protocol::deflate::Deflater;
use crate::protocol::frame::{
    COMPRESSED, Opcode, encode_compressed_frame, encode_fragment, encode_frame,
};
use crate::protocol::message::{MessageKind, Side};

/// Shortest payload in bytes that is compressed: below it the work saves next to nothing.
const WORTH_DEFLATING: usize = 64;

/// Appends a message as one frame, compressed if the side it goes to has a `window` (in bits) and it
/// gets shorter so.
pub(crate) fn frame(
    out: &mut Vec<u8>,
    to: Side,
    kind: MessageKind,
    payload: &[u8],
    window: Option<u8>,
    deflater: &mut Deflater,
) {
    let window = window.filter(|_| is_worth_deflating(kind, payload));
    match window.and_then(|window| deflater.deflate(payload, window)) {
        Some(deflated) => encode_compressed_frame(out, opcode(kind), mask(to), deflated),
        None => frame_plain(out, to, kind, payload),
    }
}

/// A piece of a message that is sent in several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment {
    pub(crate) kind: MessageKind,
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
    /// The message is compressed, all of it.
    pub(crate) is_compressed: bool,
}

/// Appends a piece of a message as a frame.
pub(crate) fn frame_fragment(out: &mut Vec<u8>, to: Side, fragment: Fragment, payload: &[u8]) {
    let opcode = if fragment.is_first {
        opcode(fragment.kind)
    } else {
        Opcode::Continuation
    };
    let rsv = if fragment.is_first && fragment.is_compressed {
        COMPRESSED
    } else {
        0
    };
    encode_fragment(out, fragment.is_last, rsv, opcode, mask(to), payload);
}

/// Appends a message as one frame that is not compressed.
pub(crate) fn frame_plain(out: &mut Vec<u8>, to: Side, kind: MessageKind, payload: &[u8]) {
    encode_frame(out, opcode(kind), mask(to), payload);
}

/// Whether a message is compressed where that was agreed on. Control frames never are
/// (RFC 7692 §6.1).
pub(crate) fn is_worth_deflating(kind: MessageKind, payload: &[u8]) -> bool {
    is_data(kind) && payload.len() >= WORTH_DEFLATING
}

/// Whether it is a message of the peers' own, not a ping or pong.
pub(crate) fn is_data(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Text | MessageKind::Binary)
}

/// What goes to a service is masked, and nothing else is (RFC 6455 §5.1).
fn mask(to: Side) -> Option<[u8; 4]> {
    match to {
        Side::Client => None,
        Side::Service => Some(mask::fresh()),
    }
}

fn opcode(kind: MessageKind) -> Opcode {
    match kind {
        MessageKind::Text => Opcode::Text,
        MessageKind::Binary => Opcode::Binary,
        MessageKind::Ping => Opcode::Ping,
        MessageKind::Pong => Opcode::Pong,
    }
}
