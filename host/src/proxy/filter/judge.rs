//! What becomes of the messages in a piece of input: read, inflated where somebody wants that, shown to
//! the chain, and put together for the other side.

use std::borrow::Cow;
use std::ops::Range;

use super::super::compression::Legs;
use super::super::failure::SessionFailure;
use super::super::framing::{frame, is_data, is_worth_deflating};
use super::parts::Output;
use super::{Counts, Filter, HIGH_WATER_BYTES, Limits, direction};
use crate::config::Oversize;
use crate::plugin::{MessageChain, MessageVerdict, Sent};
use crate::protocol::deflate::{Codec, Deflater, InflateError, Inflater, longest_compressed};
use crate::protocol::message::{Event, MessageKind, ProtocolError, Side, Wish};
use crate::telemetry::Fate;

/// Messages of one session that are judged before other sessions get a turn. One read may hold tens
/// of thousands, and each may cost a call.
const MESSAGES_AT_ONCE: usize = 128;

/// The same, for the bytes that they inflate to: what one read brings of messages that are plain.
pub(super) const INFLATED_AT_ONCE: usize = 256 * 1024;
impl Filter {
    /// Reads messages from `input` and judges them. `write` is overwritten.
    pub(super) fn judge(
        &mut self,
        side: Side,
        input: &[u8],
        message: &mut Vec<u8>,
        write: &mut Vec<u8>,
        codec: &mut Codec,
    ) -> (Judged, Result<(), SessionFailure>) {
        write.clear();
        let mut judged = Judged {
            within_frame: self.outlet(side).is_within_frame(),
            ..Judged::default()
        };
        let mut messages = 0;
        let result = loop {
            match self.judge_next(side, input, &mut judged, message, write, codec) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failure) => break Err(failure),
            }
            messages += 1;
            if self.chain.blocks(side) {
                break Ok(());
            }
            if messages == MESSAGES_AT_ONCE
                || judged.inflated > INFLATED_AT_ONCE
                || write.len() > HIGH_WATER_BYTES
                || self.sent_back(side) > HIGH_WATER_BYTES
            {
                let has_more = self.inlet(side).reader.is_ahead_of_input();
                judged.paused = has_more || judged.used < input.len();
                break Ok(());
            }
        };
        if !write.is_empty() {
            judged.interrupt(input, write);
        }
        judged.paused |= self.chain.blocks(side);
        (judged, result)
    }

    /// Judges the next message. False: there is none that is whole.
    fn judge_next(
        &mut self,
        side: Side,
        input: &[u8],
        judged: &mut Judged,
        message: &mut Vec<u8>,
        write: &mut Vec<u8>,
        codec: &mut Codec,
    ) -> Result<bool, SessionFailure> {
        let (chain, compression, limits) = (&self.chain, &self.compression, self.limits);
        let inlet = match side {
            Side::Client => &mut self.from_client,
            Side::Service => &mut self.from_service,
        };
        let compresses = inlet.compresses;
        let wish = |kind| wish(chain, compression, limits, side, kind);
        let read = inlet.reader.next(&input[judged.used..], message, wish);
        let (event, used) = read.map_err(|error| SessionFailure::protocol(side, error))?;
        judged.used += used;
        let Codec { inflater, deflater } = codec;
        // No payload: nobody needs it.
        let (kind, payload, wire, can_pass) = match event {
            Event::NeedMore { .. } => return Ok(false),
            Event::Close { code, wire, .. } => {
                judged.interrupt(input, write);
                write.extend_from_slice(wire);
                self.inlet(side).closed = true;
                // 1005 stands for a Close frame without a code (RFC 6455 §7.1.5).
                self.close.get_or_insert((code.unwrap_or(1005), side));
                // What follows it is nothing (RFC 6455 §5.5.1).
                judged.used = input.len();
                return Ok(false);
            }
            Event::Part(part) => {
                let mut out = Output {
                    input,
                    judged,
                    write,
                    deflater,
                };
                self.judge_part(side, &part, used, &mut out)?;
                return Ok(true);
            }
            Event::Message {
                kind,
                payload,
                wire,
            } => {
                if kind == MessageKind::Pong && self.is_answer(payload) {
                    self.inlet(side).answers += wire.len() as u64;
                    return Ok(true);
                }
                let can_pass = !(compresses && is_worth_deflating(kind, payload));
                (kind, Some(payload), wire, can_pass)
            }
            Event::Compressed {
                kind,
                payload,
                wire,
            } => {
                let can_pass = self.compression.forwards_compressed(side);
                match self.inflate(side, kind, payload, can_pass, inflater)? {
                    Inflated::Whole(inflated) => {
                        judged.inflated += inflated.len();
                        (kind, Some(inflated), wire, can_pass)
                    }
                    Inflated::Unseen(made) => {
                        judged.inflated += made;
                        (kind, None, wire, can_pass)
                    }
                    Inflated::TooLong(made) => {
                        judged.inflated += made;
                        self.inlet(side).reader.part_instead(kind, wire);
                        return Ok(true);
                    }
                }
            }
        };
        let verdict = self.verdict(side, kind, payload)?;
        if matches!(verdict, MessageVerdict::Pass) && can_pass && self.sent.is_empty() {
            judged.pass(wire, used, input, write);
            return Ok(true);
        }
        judged.interrupt(input, write);
        self.take_sent(Some((side, write)), deflater);
        let message = Held {
            kind,
            // What goes on as it came is not needed in another form.
            payload: payload.filter(|_| !can_pass).map(Cow::Borrowed),
            wire: Cow::Borrowed(wire),
        };
        if verdict == MessageVerdict::Wait {
            self.inlet(side).held = Some(Box::new(message.into_owned()));
            return Ok(false);
        }
        self.put(side, &message, verdict, write, deflater)?;
        Ok(true)
    }

    /// Appends what a verdict makes of a message.
    pub(super) fn put(
        &mut self,
        from: Side,
        message: &Held<'_>,
        verdict: MessageVerdict,
        write: &mut Vec<u8>,
        deflater: &mut Deflater,
    ) -> Result<(), SessionFailure> {
        let to = from.other();
        let window = self.compression.window_towards(to);
        match (verdict, &message.payload) {
            (MessageVerdict::Pass, Some(payload)) => {
                frame(write, to, message.kind, payload, window, deflater);
            }
            (MessageVerdict::Pass, None) => write.extend_from_slice(&message.wire),
            (MessageVerdict::Replace(payload), _) => {
                frame(write, to, message.kind, &payload, window, deflater);
            }
            (MessageVerdict::Drop | MessageVerdict::Wait, _) => {}
            (MessageVerdict::Close { code, reason }, _) => {
                return Err(SessionFailure::ClosedByPlugin { code, reason });
            }
        }
        Ok(())
    }

    /// Inflates a message that came whole, if a plugin may want it, or if it cannot go on as it came.
    fn inflate<'a>(
        &self,
        side: Side,
        kind: MessageKind,
        compressed: &[u8],
        can_pass: bool,
        inflater: &'a mut Inflater,
    ) -> Result<Inflated<'a>, SessionFailure> {
        let wish = wish(&self.chain, &self.compression, self.limits, side, kind);
        let has_to_be = !can_pass || self.chain.shows_parts(side, kind);
        let longest = if has_to_be {
            self.limits.max_message_bytes
        } else if let Some(longest) = wish.held_below.checked_sub(1) {
            longest
        } else {
            return Ok(Inflated::Unseen(0));
        };
        let longest = longest.min(wish.limit);
        // As long as it is, what it inflates to is longer than anybody wants.
        let is_unseen = !has_to_be && longest < wish.limit;
        if is_unseen && compressed.len() > longest_compressed(longest) {
            return Ok(Inflated::Unseen(0));
        }
        self.ends.worker.metrics.messages_inflated.increment();
        match inflater.inflate(compressed, longest) {
            Ok(text) if kind == MessageKind::Text && std::str::from_utf8(text).is_err() => {
                Err(SessionFailure::protocol(side, ProtocolError::TextNotUtf8))
            }
            Ok(payload) => Ok(Inflated::Whole(payload)),
            Err(InflateError::TooLong { .. }) if longest < wish.limit => Ok(if has_to_be {
                Inflated::TooLong(longest)
            } else {
                Inflated::Unseen(longest)
            }),
            Err(error) => Err(SessionFailure::protocol(side, error.into())),
        }
    }

    /// Returns the length in bytes over which a message closes the session.
    pub(super) fn longest(&self, side: Side, kind: MessageKind) -> usize {
        wish(&self.chain, &self.compression, self.limits, side, kind).limit
    }

    /// Whether a pong answers a ping of the proxy.
    fn is_answer(&self, payload: &[u8]) -> bool {
        let liveness = self.liveness.as_ref();
        liveness.is_some_and(|liveness| payload == liveness.token())
    }

    /// Asks the chain, if any plugin wants the message, and counts the answer.
    fn verdict(
        &mut self,
        side: Side,
        kind: MessageKind,
        payload: Option<&[u8]>,
    ) -> Result<MessageVerdict, SessionFailure> {
        let wanted = payload.filter(|payload| self.chain.wants(side, kind, payload.len()));
        let (verdict, fate) = if let Some(payload) = wanted {
            let verdict = self
                .chain
                .on_message(side, kind, payload, &mut self.sent)
                .map_err(SessionFailure::Plugin)?;
            self.has_sent_back |= self.chain.has_later();
            let fate = fate(&verdict);
            (verdict, fate)
        } else {
            (MessageVerdict::Pass, Some(Fate::Unseen))
        };
        if let Some(fate) = fate.filter(|_| is_data(kind)) {
            self.count(side, fate);
        }
        Ok(verdict)
    }

    /// Counts a message that came from a side.
    pub(super) fn count(&mut self, side: Side, fate: Fate) {
        self.counts.judged(side, fate);
        let direction = direction(side.other());
        self.ends.worker.metrics.messages[direction][fate].increment();
    }

    /// Frames what plugins have sent: into `write` what goes the way of the message being judged, so
    /// that it goes before it; the rest behind what waits for the other side.
    pub(super) fn take_sent(
        &mut self,
        mut current: Option<(Side, &mut Vec<u8>)>,
        deflater: &mut Deflater,
    ) {
        for Sent { to, kind, payload } in std::mem::take(&mut self.sent) {
            // It was sent a Close frame, and nothing follows that (RFC 6455 §5.5.1).
            if self.inlet(to.other()).closed {
                continue;
            }
            self.counts.sent += 1;
            self.ends.worker.metrics.messages[direction(to)][Fate::Send].increment();
            let window = self.compression.window_towards(to);
            match &mut current {
                Some((from, write)) if from.other() == to => {
                    frame(write, to, kind, &payload, window, deflater);
                }
                _ => {
                    self.has_sent_back = true;
                    self.outlet(to.other())
                        .queue(|out| frame(out, to, kind, &payload, window, deflater));
                }
            }
        }
    }
}

/// A message on which there is a verdict, or will be.
pub(super) struct Held<'a> {
    pub(super) kind: MessageKind,
    /// If it cannot go on as it came.
    payload: Option<Cow<'a, [u8]>>,
    wire: Cow<'a, [u8]>,
}

/// What became of a piece of input: a run of it that goes on as it came, or, if anything had to be
/// made anew, bytes that were put together.
#[derive(Default)]
pub(super) struct Judged {
    /// Passed as it came and was not put together.
    run: Range<usize>,
    /// Bytes of the input that need not be read again.
    pub(super) used: usize,
    /// There is more, and it can wait.
    pub(super) paused: bool,
    /// Bytes that messages were inflated to.
    pub(super) inflated: usize,
    /// What goes on ends within a frame.
    pub(super) within_frame: bool,
}

/// A compressed message that came whole.
enum Inflated<'a> {
    Whole(&'a [u8]),
    /// Nobody has to see it, for all that was made of it.
    Unseen(usize),
    /// It has to be inflated and is too long for that to be done at once, for all that was made of it.
    TooLong(usize),
}

impl Held<'_> {
    fn into_owned(self) -> Held<'static> {
        Held {
            kind: self.kind,
            payload: self.payload.map(|payload| Cow::Owned(payload.into_owned())),
            wire: Cow::Owned(self.wire.into_owned()),
        }
    }
}

/// What becomes of a message by a verdict. None: that is not known yet.
pub(super) fn fate(verdict: &MessageVerdict) -> Option<Fate> {
    Some(match verdict {
        MessageVerdict::Pass => Fate::Pass,
        MessageVerdict::Replace(_) => Fate::Replace,
        MessageVerdict::Drop => Fate::Drop,
        MessageVerdict::Close { .. } => Fate::Close,
        MessageVerdict::Wait => return None,
    })
}

/// Says what is to become of messages of a kind that have not come whole.
fn wish(
    chain: &MessageChain,
    compression: &Legs,
    limits: Limits,
    side: Side,
    kind: MessageKind,
) -> Wish {
    let max = limits.max_message_bytes;
    let below = |longer: u64| usize::try_from(longer).unwrap_or(usize::MAX);
    let seen_by_all = below(chain.wanted_by_all_below(side, kind)).saturating_sub(1);
    // What has to be compressed, or must not stay so, is put together first.
    let is_recoded = compression.compresses(side)
        || compression.is_compressed(side) && !compression.forwards_compressed(side);
    Wish {
        limit: match limits.oversize {
            Oversize::Close => max,
            Oversize::Pass => usize::MAX,
            Oversize::CloseUnseen => max.min(seen_by_all),
        },
        held_below: if is_recoded {
            max.saturating_add(1)
        } else {
            below(chain.wanted_below(side, kind))
        },
        // What has to be inflated must be shown to whoever does that.
        shows_parts: chain.shows_parts(side, kind)
            || compression.is_compressed(side) && !compression.forwards_compressed(side),
    }
}

impl Judged {
    /// Moves the run to what is put together, since something else follows it.
    pub(super) fn interrupt(&mut self, input: &[u8], write: &mut Vec<u8>) {
        write.extend_from_slice(&input[std::mem::take(&mut self.run)]);
    }

    /// Returns what goes on.
    /// Has what came go on as it is: `wire`, of which `used` bytes are the end of the used input.
    pub(super) fn pass(&mut self, wire: &[u8], used: usize, input: &[u8], write: &mut Vec<u8>) {
        let start = self.used - used;
        // One frame that passes simply makes the run longer.
        if wire.len() == used && (self.run.is_empty() || self.run.end == start) {
            if self.run.is_empty() {
                self.run.start = start;
            }
            self.run.end = self.used;
        } else {
            self.interrupt(input, write);
            write.extend_from_slice(wire);
        }
    }

    pub(super) fn bytes<'a>(&self, input: &'a [u8], write: &'a [u8]) -> &'a [u8] {
        if write.is_empty() {
            &input[self.run.clone()]
        } else {
            write
        }
    }
}

impl Counts {
    fn judged(&mut self, from: Side, fate: Fate) {
        match from {
            Side::Client => self.from_client += 1,
            Side::Service => self.from_service += 1,
        }
        match fate {
            Fate::Drop => self.dropped += 1,
            Fate::Replace => self.replaced += 1,
            Fate::Pass | Fate::Close | Fate::Send | Fate::Unseen => {}
        }
    }
}
