//! Messages that are not held: what no plugin wants to see whole, or is too long for that, goes on as it
//! comes.
//!
//! Where nobody sees it, byte for byte, and within frames too. Where plugins see pieces, or what it
//! inflates to has to go on, no part leaves a frame unfinished: a frame that came whole goes on as it is,
//! of others each part becomes a frame of its own. So a plugin can change any piece of a message, or
//! close the session, and the other side can be told.

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
    kind: MessageKind,
    /// A frame of it has gone on.
    begun: bool,
    is_seen: bool,
    is_changed: bool,
}

/// How a message goes on.
enum How {
    /// Byte for byte.
    AsItCame,
    /// Each part once plugins have judged it.
    Shown,
    /// As `Shown`, part by part of what it inflates to.
    Inflated {
        inflater: Box<PieceInflater>,
        /// What goes on is compressed as it came.
        stays_compressed: bool,
    },
}

/// Where what goes on is put.
pub(super) struct Output<'a> {
    pub(super) input: &'a [u8],
    pub(super) judged: &'a mut Judged,
    pub(super) write: &'a mut Vec<u8>,
    pub(super) deflater: &'a mut Deflater,
}

impl Filter {
    /// Judges a part of a message and sends it on. `used` bytes of the input are used up by it.
    pub(super) fn judge_part(
        &mut self,
        side: Side,
        part: &Part<'_>,
        used: usize,
        out: &mut Output<'_>,
    ) -> Result<(), SessionFailure> {
        if part.first {
            self.chain.begin_parts(side);
            let passing = self.begin_passing(side, part);
            self.inlet(side).passing = Some(Box::new(passing));
        }
        let Some(mut passing) = self.inlet(side).passing.take() else {
            return Ok(());
        };
        if !self.pass_part(side, part, used, &mut passing, out)? {
            self.inlet(side).passing = Some(passing);
            return Ok(());
        }
        self.count(side, passing.fate());
        self.let_go = true;
        let verdict = self
            .chain
            .end_parts(side, &mut self.sent)
            .map_err(SessionFailure::Plugin)?;
        self.put_sent_before(side, out);
        match verdict {
            MessageVerdict::Close { code, reason } => {
                Err(SessionFailure::ClosedByPlugin { code, reason })
            }
            _ => Ok(()),
        }
    }

    fn begin_passing(&self, side: Side, part: &Part<'_>) -> Passing {
        let kind = part.kind;
        let is_shown = self.chain.shows_parts(side, kind);
        let can_stay = self.compression.forwards_compressed(side);
        let how = if part.compressed && (is_shown || !can_stay) {
            self.ends.worker.metrics.messages_inflated.increment();
            How::Inflated {
                inflater: Box::new(PieceInflater::new()),
                stays_compressed: can_stay && !self.chain.edits_parts(side, kind),
            }
        } else if is_shown {
            How::Shown
        } else {
            How::AsItCame
        };
        Passing {
            how,
            kind,
            begun: false,
            is_seen: false,
            is_changed: false,
        }
    }

    /// Returns whether the message is over.
    fn pass_part(
        &mut self,
        side: Side,
        part: &Part<'_>,
        used: usize,
        passing: &mut Passing,
        out: &mut Output<'_>,
    ) -> Result<bool, SessionFailure> {
        let mut how = std::mem::replace(&mut passing.how, How::AsItCame);
        let is_over = match &mut how {
            How::AsItCame => {
                out.judged.pass(part.wire, used, out.input, out.write);
                out.judged.within_frame = part.within_frame;
                part.last
            }
            How::Shown => {
                let verdict = self.show_part(side, passing, part.payload, part.last, out)?;
                let is_itself = verdict == MessageVerdict::Pass && part.is_frame;
                if is_itself && part.first != passing.begun {
                    passing.begun = true;
                    out.judged.pass(part.wire, used, out.input, out.write);
                } else {
                    out.judged.interrupt(out.input, out.write);
                    passing.put(out.write, side, verdict, part.payload, part.last);
                }
                part.last
            }
            How::Inflated {
                inflater,
                stays_compressed,
            } => {
                let stays = *stays_compressed;
                let rest = self.pass_inflated(side, part, passing, inflater, stays, out)?;
                let is_over = part.last && rest == 0;
                if stays && rest == 0 && part.is_frame && part.first != passing.begun {
                    passing.begun = true;
                    out.judged.pass(part.wire, used, out.input, out.write);
                } else if stays {
                    out.judged.interrupt(out.input, out.write);
                    let payload = &part.payload[..part.payload.len() - rest];
                    passing.put_fragment(out.write, side, payload, is_over, true);
                }
                out.judged.used -= self.inlet(side).reader.unread(rest);
                is_over
            }
        };
        passing.how = how;
        Ok(is_over)
    }

    /// Shows plugins what a part inflates to, and unless it `stays` compressed, sends that on. Returns how
    /// many bytes of it were left for later: it may be a thousand times as long inflated.
    fn pass_inflated(
        &mut self,
        side: Side,
        part: &Part<'_>,
        passing: &mut Passing,
        inflater: &mut PieceInflater,
        stays: bool,
        out: &mut Output<'_>,
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
            out.judged.inflated += inflater.total() - before;
            if inflater.total() > limit {
                return Err(broken(InflateError::TooLong { limit }.into()));
            }
            let ends = part.last && rest.is_empty() && !progress.has_more;
            let piece = whole_characters(part.kind, inflater.piece(), ends)
                .ok_or_else(|| broken(ProtocolError::TextNotUtf8))?;
            let verdict = self.show_part(side, passing, piece, ends, out)?;
            if !stays {
                out.judged.interrupt(out.input, out.write);
                passing.put(out.write, side, verdict, piece, ends);
            }
            let taken = piece.len();
            inflater.take(taken);
            let is_enough = out.judged.inflated > INFLATED_AT_ONCE && !rest.is_empty();
            if is_enough || !progress.has_more {
                return Ok(rest.len());
            }
        }
    }

    /// Asks the plugins that want pieces, if there is anything to be shown.
    fn show_part(
        &mut self,
        side: Side,
        passing: &mut Passing,
        payload: &[u8],
        ends: bool,
        out: &mut Output<'_>,
    ) -> Result<MessageVerdict, SessionFailure> {
        let is_shown = self.chain.shows_parts(side, passing.kind);
        if !is_shown || payload.is_empty() && !ends {
            return Ok(MessageVerdict::Pass);
        }
        passing.is_seen = true;
        let verdict = self
            .chain
            .on_part(side, passing.kind, payload, ends, &mut self.sent)
            .map_err(SessionFailure::Plugin)?;
        self.has_sent_back |= self.chain.has_later();
        self.put_sent_before(side, out);
        match verdict {
            MessageVerdict::Close { code, reason } => {
                self.count(side, Fate::Close);
                Err(SessionFailure::ClosedByPlugin { code, reason })
            }
            verdict => Ok(verdict),
        }
    }

    /// Puts what plugins have sent behind what goes on so far.
    fn put_sent_before(&mut self, side: Side, out: &mut Output<'_>) {
        if !self.sent.is_empty() {
            out.judged.interrupt(out.input, out.write);
            self.take_sent(Some((side, out.write)), out.deflater);
        }
    }
}

impl Passing {
    /// Appends what a verdict makes of a part that is not compressed.
    fn put(
        &mut self,
        write: &mut Vec<u8>,
        from: Side,
        verdict: MessageVerdict,
        payload: &[u8],
        is_last: bool,
    ) {
        match verdict {
            // The end of a message of which all was dropped.
            MessageVerdict::Pass if payload.is_empty() && self.is_changed && !self.begun => {}
            MessageVerdict::Pass | MessageVerdict::Wait => {
                self.put_fragment(write, from, payload, is_last, false);
            }
            MessageVerdict::Replace(payload) => {
                self.is_changed = true;
                self.put_fragment(write, from, &payload, is_last, false);
            }
            MessageVerdict::Drop | MessageVerdict::Close { .. } => {
                self.is_changed = true;
                if self.begun {
                    self.put_fragment(write, from, &[], is_last, false);
                }
            }
        }
    }

    /// Appends a part as a frame, unless there is nothing in it.
    fn put_fragment(
        &mut self,
        write: &mut Vec<u8>,
        from: Side,
        payload: &[u8],
        is_last: bool,
        is_compressed: bool,
    ) {
        if payload.is_empty() && !is_last {
            return;
        }
        let fragment = Fragment {
            kind: self.kind,
            is_first: !std::mem::replace(&mut self.begun, true),
            is_last,
            is_compressed,
        };
        frame_fragment(write, from.other(), fragment, payload);
    }

    /// What became of the message, now that it is over.
    fn fate(&self) -> Fate {
        let is_sent = self.begun || matches!(self.how, How::AsItCame);
        match (self.is_seen, self.is_changed) {
            (_, true) if is_sent => Fate::Replace,
            (_, true) => Fate::Drop,
            (true, false) => Fate::Pass,
            (false, false) => Fate::Unseen,
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
