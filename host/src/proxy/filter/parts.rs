//! Messages that are not held: what is too long for the route, or nobody wants to see whole, goes on as
//! it comes.
//!
//! Nobody sees such a message: its bytes pass as they are, within a frame too. Where it has to be
//! inflated for the other side, each piece is a frame of its own.

use super::super::failure::SessionFailure;
use super::super::framing::{Fragment, frame_fragment};
use super::Filter;
use super::judge::{INFLATED_AT_ONCE, Judged};
use crate::plugin::MessageVerdict;
use crate::protocol::deflate::{Deflater, InflateError, PieceInflater};
use crate::protocol::message::{MessageKind, Part, ProtocolError, Side};
use crate::protocol::utf8::is_cut_off;
use crate::telemetry::Fate;

/// A message that goes on in parts.
pub(super) struct Passing {
    how: How,
    /// A frame of it has gone on.
    begun: bool,
}

/// How a message goes on.
enum How {
    /// Byte for byte.
    AsItCame,
    /// What it inflates to, in frames of the proxy's own.
    Inflated(PieceInflater),
}

impl Filter {
    /// Sends on a part of a message.
    #[allow(
        clippy::too_many_arguments,
        reason = "they are buffers of one worker, lent for a while"
    )]
    pub(super) fn judge_part(
        &mut self,
        side: Side,
        part: &Part<'_>,
        used: usize,
        input: &[u8],
        judged: &mut Judged,
        write: &mut Vec<u8>,
        deflater: &mut Deflater,
    ) -> Result<(), SessionFailure> {
        if part.first {
            self.chain.begin_parts(side);
            let passing = self.begin_passing(side, part);
            self.inlet(side).passing = Some(Box::new(passing));
        }
        let Some(mut passing) = self.inlet(side).passing.take() else {
            return Ok(());
        };
        let is_over = match &mut passing.how {
            How::AsItCame => {
                judged.pass(part.wire, used, input, write);
                judged.within_frame = part.within_frame;
                part.last
            }
            How::Inflated(inflater) => {
                judged.interrupt(input, write);
                let begun = &mut passing.begun;
                let rest = self.inflate_part(side, part, inflater, begun, judged, write)?;
                judged.used -= self.inlet(side).reader.unread(rest);
                part.last && rest == 0
            }
        };
        if !is_over {
            self.inlet(side).passing = Some(passing);
            return Ok(());
        }
        self.count(side, Fate::Unseen);
        self.let_go = true;
        let verdict = self
            .chain
            .end_parts(side, &mut self.sent)
            .map_err(SessionFailure::Plugin)?;
        if !self.sent.is_empty() {
            judged.interrupt(input, write);
            self.take_sent(Some((side, write)), deflater);
        }
        match verdict {
            MessageVerdict::Close { code, reason } => {
                Err(SessionFailure::ClosedByPlugin { code, reason })
            }
            _ => Ok(()),
        }
    }

    fn begin_passing(&self, side: Side, part: &Part<'_>) -> Passing {
        let how = if part.compressed && !self.compression.forwards_compressed(side) {
            How::Inflated(PieceInflater::new())
        } else {
            How::AsItCame
        };
        Passing { how, begun: false }
    }

    /// Sends on what a part inflates to. Returns how many bytes of it were left for later: it may be a
    /// thousand times as long inflated.
    fn inflate_part(
        &self,
        side: Side,
        part: &Part<'_>,
        inflater: &mut PieceInflater,
        begun: &mut bool,
        judged: &mut Judged,
        write: &mut Vec<u8>,
    ) -> Result<usize, SessionFailure> {
        let broken = |error| SessionFailure::protocol(side, error);
        let limit = self.longest(side, part.kind);
        let mut rest = part.payload;
        loop {
            let before = inflater.total();
            let progress = inflater
                .inflate(rest, part.last)
                .map_err(|error| broken(error.into()))?;
            rest = &rest[progress.used..];
            judged.inflated += inflater.total() - before;
            if inflater.total() > limit {
                return Err(broken(InflateError::TooLong { limit }.into()));
            }
            let ends = part.last && rest.is_empty() && !progress.has_more;
            let piece = inflater.piece();
            let piece = whole_characters(part.kind, piece, ends)
                .ok_or_else(|| broken(ProtocolError::TextNotUtf8))?;
            if ends || !piece.is_empty() {
                let fragment = Fragment {
                    kind: part.kind,
                    is_first: !std::mem::replace(begun, true),
                    is_last: ends,
                    is_compressed: false,
                };
                frame_fragment(write, side.other(), fragment, piece);
            }
            let taken = piece.len();
            inflater.take(taken);
            let is_enough = judged.inflated > INFLATED_AT_ONCE && !rest.is_empty();
            if is_enough || !progress.has_more {
                return Ok(rest.len());
            }
        }
    }
}

/// Returns text up to its last whole character, and all of what is not text. None: it is no text.
fn whole_characters(kind: MessageKind, piece: &[u8], ends: bool) -> Option<&[u8]> {
    if kind != MessageKind::Text {
        return Some(piece);
    }
    match std::str::from_utf8(piece) {
        Ok(_) => Some(piece),
        Err(error) if is_cut_off(&error) && !ends => Some(&piece[..error.valid_up_to()]),
        Err(_) => None,
    }
}
