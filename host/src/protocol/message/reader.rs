//! Reads messages from the bytes of one side.
//!
//! A reader keeps only the fragments of a message whose last frame has not come.

use std::str::Utf8Error;

use super::super::close::CloseCode;
use super::super::deflate::longest_compressed;
use super::super::frame::{COMPRESSED, FrameError, FrameHeader, Opcode, unmask_into};
use super::{Event, MessageKind, ProtocolError, Side};

/// One direction of a session: turns a growing buffer of wire bytes into messages.
#[derive(Debug)]
pub(crate) struct MessageReader {
    from: Side,
    max_message: usize,
    /// Whether messages may come compressed.
    may_compress: bool,
    /// The message whose last frame has not come. Boxed, because most sessions never have one.
    unfinished: Option<Box<Unfinished>>,
}

impl MessageReader {
    /// Begins between two messages.
    ///
    /// Frames of the client must be masked, those of the service must not (RFC 6455 §5.1).
    /// `max_message` is the largest payload in bytes after reassembly; a frame that goes over it is
    /// refused at its header. Frame headers of a fragmented message may take a quarter of that on
    /// top, at least 16 KiB.
    ///
    /// With `may_compress`, `permessage-deflate` was agreed on. What a compressed message inflates to
    /// is not known here; compressed it may be a little longer than `max_message`.
    pub(crate) fn new(from: Side, max_message: usize, may_compress: bool) -> Self {
        Self {
            from,
            max_message,
            may_compress,
            unfinished: None,
        }
    }

    /// Reads the next event, and how many bytes of `input` it used up: also before
    /// [`Event::NeedMore`], when fragments were taken in. `input` begins where the call before
    /// stopped.
    ///
    /// A message of one frame borrows `wire` from `input`, and `payload` too unless it is masked.
    /// Everything else is put into `scratch`, whose content before is lost; one is enough for many
    /// readers. `input` has to grow until a frame is whole, so it never needs more than
    /// `max_message` bytes and a header.
    #[inline]
    pub(crate) fn next<'a>(
        &mut self,
        input: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<(Event<'a>, usize), ProtocolError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let Some(header) = FrameHeader::parse(rest)? else {
                let at_least = 2_usize.saturating_sub(rest.len()).max(1);
                return Ok((Event::NeedMore { at_least }, used));
            };
            let payload_len = self.judge(&header)?;
            let frame_len = header.header_len + payload_len;
            if rest.len() < frame_len {
                let at_least = frame_len - rest.len();
                return Ok((Event::NeedMore { at_least }, used));
            }
            let wire = &rest[..frame_len];
            used += frame_len;
            let kind = match (header.opcode, header.fin) {
                (Opcode::Text, true) => MessageKind::Text,
                (Opcode::Binary, true) => MessageKind::Binary,
                (Opcode::Ping, _) => MessageKind::Ping,
                (Opcode::Pong, _) => MessageKind::Pong,
                (Opcode::Close, _) => {
                    return Ok((close(wire, &header, scratch)?, used));
                }
                (Opcode::Continuation, true) => {
                    return Ok((self.finish(wire, &header, scratch)?, used));
                }
                (Opcode::Text | Opcode::Binary | Opcode::Continuation, false) => {
                    self.collect(wire, &header)?;
                    continue;
                }
            };
            let payload = unmasked(wire, &header, scratch);
            // Of the reserved bits only this one got past the header, and only where it may be set.
            if header.rsv != 0 {
                let event = Event::Compressed {
                    kind,
                    payload,
                    wire,
                };
                return Ok((event, used));
            }
            if kind == MessageKind::Text && std::str::from_utf8(payload).is_err() {
                return Err(ProtocolError::TextNotUtf8);
            }
            let event = Event::Message {
                kind,
                payload,
                wire,
            };
            return Ok((event, used));
        }
    }

    /// Judges what the header shows in its place in the stream, and returns the payload's length.
    #[inline]
    fn judge(&self, header: &FrameHeader) -> Result<usize, ProtocolError> {
        if header.rsv != 0 {
            self.judge_reserved(header)?;
        }
        match (self.from, header.mask) {
            (Side::Client, None) => return Err(ProtocolError::Unmasked),
            (Side::Service, Some(_)) => return Err(ProtocolError::Masked),
            (Side::Client, Some(_)) | (Side::Service, None) => {}
        }
        let (before, limit) = match (header.opcode, &self.unfinished) {
            (Opcode::Continuation, Some(message)) if message.compressed => {
                (message.payload.len(), longest_compressed(self.max_message))
            }
            (Opcode::Continuation, Some(message)) => (message.payload.len(), self.max_message),
            (Opcode::Continuation, None) => return Err(ProtocolError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(ProtocolError::MessageInsideMessage);
            }
            (Opcode::Text | Opcode::Binary, None) if header.rsv != 0 => {
                (0, longest_compressed(self.max_message))
            }
            (Opcode::Text | Opcode::Binary, None) => (0, self.max_message),
            // Bounded by RFC 6455 §5.5, not by the largest message.
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                return usize::try_from(header.payload_len)
                    .map_err(|_| FrameError::LongControl.into());
            }
        };
        usize::try_from(header.payload_len)
            .ok()
            .filter(|&length| length <= limit - before)
            .ok_or(ProtocolError::MessageTooLong {
                limit: self.max_message,
            })
    }

    /// Judges reserved bits of which any is set: RSV1 says of a message's first frame that the message
    /// is compressed, if that was agreed on (RFC 7692 §6.1).
    #[cold]
    fn judge_reserved(&self, header: &FrameHeader) -> Result<(), ProtocolError> {
        match header.opcode {
            _ if !self.may_compress || header.rsv != COMPRESSED => {
                Err(ProtocolError::ReservedBits { rsv: header.rsv })
            }
            Opcode::Text | Opcode::Binary => Ok(()),
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {
                Err(ProtocolError::CompressedBit)
            }
        }
    }

    /// Takes in a frame that is not the last of its message.
    fn collect(&mut self, wire: &[u8], header: &FrameHeader) -> Result<(), ProtocolError> {
        let limit = (self.max_message / 4).max(MIN_FRAGMENT_HEADERS);
        let message = self.unfinished.get_or_insert_with(|| {
            Box::new(Unfinished {
                is_text: header.opcode == Opcode::Text,
                compressed: header.rsv != 0,
                payload: Vec::new(),
                valid: 0,
                wire: Vec::new(),
            })
        });
        let headers = message.wire.len() - message.payload.len() + header.header_len;
        if headers > limit {
            return Err(ProtocolError::TooManyFragments { limit });
        }
        message.wire.extend_from_slice(wire);
        append_payload(&mut message.payload, wire, header);
        if message.is_text && !message.compressed {
            // The last character may be cut in two by the end of the frame.
            message.valid += match std::str::from_utf8(&message.payload[message.valid..]) {
                Ok(text) => text.len(),
                Err(error) if is_cut_off(&error) => error.valid_up_to(),
                Err(_) => return Err(ProtocolError::TextNotUtf8),
            };
        }
        Ok(())
    }

    /// Puts a message and its last frame together in `scratch`, so that nothing stays here.
    fn finish<'a>(
        &mut self,
        wire: &[u8],
        header: &FrameHeader,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Event<'a>, ProtocolError> {
        let message = self
            .unfinished
            .take()
            .ok_or(ProtocolError::NothingToContinue)?;
        scratch.clear();
        scratch.extend_from_slice(&message.payload);
        append_payload(scratch, wire, header);
        let kind = if message.is_text {
            MessageKind::Text
        } else {
            MessageKind::Binary
        };
        let is_judged = message.is_text && !message.compressed;
        if is_judged && std::str::from_utf8(&scratch[message.valid..]).is_err() {
            return Err(ProtocolError::TextNotUtf8);
        }
        let payload_len = scratch.len();
        scratch.extend_from_slice(&message.wire);
        scratch.extend_from_slice(wire);
        let (payload, wire) = scratch.split_at(payload_len);
        Ok(if message.compressed {
            Event::Compressed {
                kind,
                payload,
                wire,
            }
        } else {
            Event::Message {
                kind,
                payload,
                wire,
            }
        })
    }
}

/// A data message whose last frame has not come.
#[derive(Debug)]
struct Unfinished {
    is_text: bool,
    compressed: bool,
    payload: Vec<u8>,
    /// How much of a text payload that is not compressed is known to be UTF-8, up to the end of a character.
    valid: usize,
    wire: Vec<u8>,
}

/// What the frame headers of one message may take in any case: fragments without a payload would
/// otherwise make memory grow without limit.
pub(super) const MIN_FRAGMENT_HEADERS: usize = 16 * 1024;

/// Returns the payload of a whole frame, in `scratch` if it had to be changed.
#[inline]
fn unmasked<'a>(wire: &'a [u8], header: &FrameHeader, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let payload = &wire[header.header_len..];
    match header.mask {
        None => payload,
        Some(key) => {
            scratch.clear();
            unmask_into(scratch, payload, key, 0);
            scratch
        }
    }
}

fn append_payload(out: &mut Vec<u8>, wire: &[u8], header: &FrameHeader) {
    let payload = &wire[header.header_len..];
    match header.mask {
        None => out.extend_from_slice(payload),
        Some(key) => unmask_into(out, payload, key, 0),
    }
}

fn close<'a>(
    wire: &'a [u8],
    header: &FrameHeader,
    scratch: &'a mut Vec<u8>,
) -> Result<Event<'a>, ProtocolError> {
    let (code, reason) = match unmasked(wire, header, scratch) {
        [] => (None, &[][..]),
        [_] => return Err(ProtocolError::HalfCloseCode),
        &[high, low, ref reason @ ..] => (Some(u16::from_be_bytes([high, low])), reason),
    };
    if let Some(code) = code
        && !CloseCode::may_be_sent(code)
    {
        return Err(ProtocolError::CloseCode { code });
    }
    let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::ReasonNotUtf8)?;
    Ok(Event::Close { code, reason, wire })
}

/// Whether more bytes could make the text valid.
fn is_cut_off(error: &Utf8Error) -> bool {
    error.error_len().is_none()
}

#[cfg(test)]
impl MessageReader {
    /// Whether no message is in progress: its first frame taken in, its last one not.
    pub(crate) fn is_idle(&self) -> bool {
        self.unfinished.is_none()
    }

    /// Bytes of memory that the message in progress takes here.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.unfinished.as_ref().map_or(0, |message| {
            message.payload.capacity() + message.wire.capacity()
        })
    }
}
