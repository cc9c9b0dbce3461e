//! A message that is not held: its bytes go on in parts as they come.
//!
//! Which message that is, `reader.rs` finds out; all there is to know here is how much of the frame at
//! hand is yet to come, and of text, the beginning of a character that a part ended within.

use super::super::frame::{FrameHeader, unmask_into};
use super::reader::Begun;
use super::{Part, ProtocolError};

/// A message that goes on in parts.
#[derive(Debug)]
pub(super) struct Parted {
    begun: Begun,
    /// Parts have a payload.
    shown: bool,
    /// A part of it has been returned.
    on_its_way: bool,
    frame: Option<Frame>,
    /// Whole frames that came before it was known that they would not be held.
    replay: Vec<u8>,
    /// Bytes of them that have been returned.
    replayed: usize,
    /// The last part came from there.
    is_replaying: bool,
}

/// The frame at hand; over once nothing remains of it.
#[derive(Debug)]
struct Frame {
    mask: Option<[u8; 4]>,
    /// Bytes of payload that have been returned.
    offset: u64,
    remaining: u64,
    fin: bool,
}

/// The next part of what came before.
pub(super) struct Replay {
    frames: Vec<u8>,
    header: Option<FrameHeader>,
}

/// Where the payload of a part is.
enum Payload {
    /// Put together in the scratch buffer.
    Scratch,
    /// At this distance from the beginning and from the end of the part as it was received.
    Wire(usize, usize),
}

impl Parted {
    pub(super) fn new(begun: Begun, shown: bool, replay: Vec<u8>) -> Self {
        Self {
            begun,
            shown,
            on_its_way: false,
            frame: None,
            replay,
            replayed: 0,
            is_replaying: false,
        }
    }

    pub(super) fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Whether the last part of the message has been returned.
    pub(super) fn is_over(&self) -> bool {
        let frame = self.frame.as_ref();
        frame.is_some_and(|frame| frame.fin && frame.remaining == 0)
    }

    /// Whether more of a frame is to come, from the input.
    pub(super) fn is_within_frame(&self) -> bool {
        let frame = self.frame.as_ref();
        frame.is_some_and(|frame| frame.remaining > 0)
    }

    /// Whether parts are left of what came before.
    pub(super) fn is_ahead_of_input(&self) -> bool {
        self.replayed < self.replay.len()
    }

    /// Begins with the next part of what came before, if any is left of that.
    pub(super) fn next_replay(&mut self) -> Option<Replay> {
        let rest = self.replay.get(self.replayed..)?;
        if rest.is_empty() {
            self.replay = Vec::new();
            self.replayed = 0;
            self.is_replaying = false;
            return None;
        }
        let header = if self.is_within_frame() {
            None
        } else {
            Some(FrameHeader::parse(rest).ok().flatten()?)
        };
        Some(Replay {
            frames: std::mem::take(&mut self.replay),
            header,
        })
    }

    /// Returns the next part of what came before, in `scratch`.
    pub(super) fn replay<'a>(
        &mut self,
        replay: Replay,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Part<'a>, ProtocolError> {
        let Replay { frames, header } = replay;
        let (taken, payload) = self.measure(header.as_ref(), &frames[self.replayed..], scratch)?;
        let wire = &frames[self.replayed..self.replayed + taken.length];
        let (payload, wire) = match payload {
            Payload::Scratch => {
                let length = scratch.len();
                scratch.extend_from_slice(wire);
                scratch.split_at(length)
            }
            Payload::Wire(before, after) => {
                scratch.clear();
                scratch.extend_from_slice(wire);
                (&scratch[before..scratch.len() - after], &scratch[..])
            }
        };
        self.replayed += taken.length;
        self.replay = frames;
        self.is_replaying = true;
        Ok(self.part(&taken, payload, wire))
    }

    /// Takes the next part from `rest`, which begins with a frame and its `header`, or within one.
    /// Returns how many bytes it took.
    pub(super) fn take<'a>(
        &mut self,
        header: Option<&FrameHeader>,
        rest: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<(Part<'a>, usize), ProtocolError> {
        if let Some(header) = header {
            let length = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
            self.begun.length = self.begun.length.saturating_add(length);
        }
        self.is_replaying = false;
        let (taken, payload) = self.measure(header, rest, scratch)?;
        let wire = &rest[..taken.length];
        let payload = match payload {
            Payload::Scratch => &scratch[..],
            Payload::Wire(before, after) => &wire[before..wire.len() - after],
        };
        Ok((self.part(&taken, payload, wire), taken.length))
    }

    /// Has the end of the last part come again. Returns how much of it the input has to begin with.
    pub(super) fn unread(&mut self, length: usize) -> usize {
        if let Some(frame) = &mut self.frame {
            frame.remaining += length as u64;
            frame.offset -= length as u64;
        }
        if self.is_replaying {
            self.replayed -= length;
            0
        } else {
            length
        }
    }

    /// Finds out how much of `rest` belongs to the next part, and what that carries.
    fn measure(
        &mut self,
        header: Option<&FrameHeader>,
        rest: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(Taken, Payload), ProtocolError> {
        let begins = header.is_some();
        let header_len = header.map_or(0, |header| header.header_len);
        let frame = match (header, &mut self.frame) {
            (None, Some(frame)) => frame,
            (header, frame) => frame.insert(Frame {
                mask: header.and_then(|header| header.mask),
                offset: 0,
                remaining: header.map_or(0, |header| header.payload_len),
                fin: header.is_none_or(|header| header.fin),
            }),
        };
        let here = rest.len() - header_len;
        let here = usize::try_from(frame.remaining).map_or(here, |all| all.min(here));
        let sent = &rest[header_len..header_len + here];
        let (offset, mask) = (frame.offset, frame.mask);
        frame.offset += here as u64;
        frame.remaining -= here as u64;
        let ends = frame.remaining == 0;
        let mut taken = Taken {
            length: header_len + here,
            last: ends && frame.fin,
            is_frame: begins && ends,
            within_frame: !ends,
        };
        let before = self.begun.text.cut().len();
        if !self.shown && !self.begun.is_judged() {
            let nothing = Payload::Wire(taken.length, 0);
            return Ok((taken, nothing));
        }
        let key = mask.map(|mut key| {
            key.rotate_left(usize::try_from(offset % 4).unwrap_or_default());
            key
        });
        let is_put_together = key.is_some() || before > 0;
        if is_put_together {
            scratch.clear();
            scratch.extend_from_slice(self.begun.text.cut());
            unmask_into(scratch, sent, key.unwrap_or_default(), 0);
        }
        if !self.begun.is_judged() {
            let payload = if is_put_together {
                Payload::Scratch
            } else {
                Payload::Wire(header_len, 0)
            };
            return Ok((taken, payload));
        }
        let text = &mut self.begun.text;
        let judged = if is_put_together {
            text.take_in(&scratch[before..])
        } else {
            text.take_in(sent)
        };
        let after = text.cut().len();
        if judged.is_err() || (taken.last && after > 0) {
            return Err(ProtocolError::TextNotUtf8);
        }
        taken.is_frame &= before == 0 && after == 0;
        if is_put_together {
            scratch.truncate(scratch.len() - after);
            Ok((taken, Payload::Scratch))
        } else {
            Ok((taken, Payload::Wire(header_len, after)))
        }
    }

    fn part<'a>(&mut self, taken: &Taken, payload: &'a [u8], wire: &'a [u8]) -> Part<'a> {
        Part {
            kind: self.begun.kind,
            compressed: self.begun.compressed,
            wire,
            payload: if self.shown { payload } else { &[] },
            first: !std::mem::replace(&mut self.on_its_way, true),
            last: taken.last,
            is_frame: taken.is_frame,
            within_frame: taken.within_frame,
        }
    }

    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.replay.capacity()
    }
}

/// A part, as far as it can be said without its bytes.
struct Taken {
    /// As received.
    length: usize,
    last: bool,
    is_frame: bool,
    within_frame: bool,
}
