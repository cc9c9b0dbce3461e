//! Reads messages from the bytes of one side.
//!
//! A reader keeps only the fragments of a message that is held until its last frame has come. Of one
//! that is not held it knows how much of the frame at hand is yet to come: `parted.rs`.

use super::super::close::CloseCode;
use super::super::deflate::longest_compressed;
use super::super::frame::{COMPRESSED, FrameHeader, Opcode, unmask_into};
use super::super::utf8::Utf8;
use super::parted::Parted;
use super::{Event, MessageKind, ProtocolError, Side, Wish};

/// One direction of a session: turns a growing buffer of wire bytes into messages.
#[derive(Debug)]
pub(crate) struct MessageReader {
    from: Side,
    /// Whether messages may come compressed.
    may_compress: bool,
    ahead: Ahead,
    /// The message whose last frame has not come. Boxed, because most sessions never have one.
    open: Option<Box<Open>>,
}

/// What is known of a text frame that has not come whole and waits in the input.
#[derive(Debug, Default)]
struct Ahead {
    /// Bytes of its payload that were judged.
    judged: usize,
    text: Utf8,
}

/// A data message that has begun.
#[derive(Debug)]
enum Open {
    Held(Held),
    Parted(Parted),
}

/// Fragments of a message that is held until it is whole.
#[derive(Debug)]
struct Held {
    begun: Begun,
    /// Whole frames.
    wire: Vec<u8>,
}

/// What is known of a message from its frames so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) kind: MessageKind,
    pub(super) compressed: bool,
    /// Bytes of payload in frames that have begun.
    pub(super) length: usize,
    /// Of text that is not compressed.
    pub(super) text: Utf8,
}

impl MessageReader {
    /// Begins between two messages.
    ///
    /// Frames of the client must be masked, those of the service must not (RFC 6455 §5.1). With
    /// `may_compress`, `permessage-deflate` was agreed on. What a compressed message inflates to is not
    /// known here; compressed it may be a little longer than a [`Wish`] says.
    pub(crate) fn new(from: Side, may_compress: bool) -> Self {
        Self {
            from,
            may_compress,
            ahead: Ahead::default(),
            open: None,
        }
    }

    /// Reads the next event, and how many bytes of `input` it used up: also before
    /// [`Event::NeedMore`], when fragments were taken in. `input` begins where the call before
    /// stopped.
    ///
    /// A message of one frame borrows `wire` from `input`, and `payload` too unless it is masked.
    /// Everything else is put into `scratch`, whose content before is lost; one is enough for many
    /// readers. `input` has to grow until a frame that is held is whole, so it never needs more than
    /// [`Wish::held_below`] bytes and a header. Frame headers of a message that is held may take a
    /// quarter of that on top, at least 16 KiB.
    ///
    /// A message in one frame that is whole is never an [`Event::Part`], however long it is.
    #[inline]
    pub(crate) fn next<'a>(
        &mut self,
        input: &'a [u8],
        scratch: &'a mut Vec<u8>,
        wish: impl Fn(MessageKind) -> Wish,
    ) -> Result<(Event<'a>, usize), ProtocolError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if let Some(parted) = self.parted() {
                if let Some(replay) = parted.next_replay() {
                    return Ok((Event::Part(parted.replay(replay, scratch)?), used));
                }
                if parted.is_within_frame() {
                    if rest.is_empty() {
                        return Ok((Event::NeedMore { at_least: 1 }, used));
                    }
                    let (part, taken) = parted.take(None, rest, scratch)?;
                    return Ok((Event::Part(part), used + taken));
                }
            }
            let Some(header) = FrameHeader::parse(rest)? else {
                let at_least = 2_usize.saturating_sub(rest.len()).max(1);
                return Ok((Event::NeedMore { at_least }, used));
            };
            self.judge(&header)?;
            let payload_len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
            let frame_len = header.header_len.saturating_add(payload_len);
            let missing = frame_len.saturating_sub(rest.len());
            if header.opcode.is_control() {
                if missing > 0 {
                    return Ok((Event::NeedMore { at_least: missing }, used));
                }
                let event = control(&rest[..frame_len], &header, scratch)?;
                return Ok((event, used + frame_len));
            }
            let begun = self.begun(&header);
            let wish = wish(begun.kind);
            let length = begun.length.saturating_add(payload_len);
            let is_held = length < wish.held_below_as_sent(begun.compressed);
            if length > wish.limit_as_sent(begun.compressed) {
                return Err(ProtocolError::MessageTooLong { limit: wish.limit });
            }
            if missing == 0 && header.fin && self.open.is_none() {
                self.forget_ahead();
                let event = whole(&rest[..frame_len], &header, begun, scratch)?;
                return Ok((event, used + frame_len));
            }
            // A header alone is nothing to be shown, and a frame that is whole can go on as it is.
            let is_bare = payload_len > 0 && rest.len() == header.header_len;
            if is_bare && wish.shows_parts && (!is_held || self.parted().is_some()) {
                return Ok((Event::NeedMore { at_least: 1 }, used));
            }
            if let Some(parted) = self.parted_unless(is_held, &begun, wish) {
                if let Some(replay) = parted.next_replay() {
                    return Ok((Event::Part(parted.replay(replay, scratch)?), used));
                }
                let (part, taken) = parted.take(Some(&header), rest, scratch)?;
                return Ok((Event::Part(part), used + taken));
            }
            if missing > 0 {
                self.judge_ahead(&begun, &header, rest, scratch)?;
                return Ok((Event::NeedMore { at_least: missing }, used));
            }
            self.forget_ahead();
            let frame = &rest[..frame_len];
            used += frame_len;
            if header.fin {
                return Ok((self.finish(frame, &header, scratch)?, used));
            }
            self.collect(frame, &header, begun, wish, scratch)?;
        }
    }

    /// Has a compressed message that was just returned whole come again, in parts that are shown.
    pub(crate) fn part_instead(&mut self, kind: MessageKind, wire: &[u8]) {
        let begun = Begun {
            kind,
            compressed: true,
            length: wire.len(),
            text: Utf8::default(),
        };
        let parted = Parted::new(begun, true, wire.to_vec());
        self.open = Some(Box::new(Open::Parted(parted)));
    }

    /// Has the last `length` bytes of the part that was just returned come again, in the next one.
    /// Returns how many of them the next input has to begin with.
    pub(crate) fn unread(&mut self, length: usize) -> usize {
        match self.open.as_deref_mut() {
            Some(Open::Parted(parted)) => parted.unread(length),
            Some(Open::Held(_)) | None => 0,
        }
    }

    /// Whether there are events without further input.
    pub(crate) fn is_ahead_of_input(&self) -> bool {
        match self.open.as_deref() {
            Some(Open::Parted(parted)) => parted.is_ahead_of_input(),
            Some(Open::Held(_)) | None => false,
        }
    }

    /// Returns the message that goes on in parts, if one does.
    fn parted(&mut self) -> Option<&mut Parted> {
        if let Some(Open::Parted(parted)) = self.open.as_deref()
            && parted.is_over()
        {
            self.open = None;
        }
        match self.open.as_deref_mut() {
            Some(Open::Parted(parted)) => Some(parted),
            Some(Open::Held(_)) | None => None,
        }
    }

    /// Returns the message that goes on in parts: because it did before, or because from now on it is
    /// not held.
    fn parted_unless(&mut self, is_held: bool, begun: &Begun, wish: Wish) -> Option<&mut Parted> {
        let held = match self.open.as_deref_mut() {
            Some(Open::Parted(_)) => return self.parted(),
            _ if is_held => return None,
            Some(Open::Held(held)) => std::mem::take(&mut held.wire),
            None => Vec::new(),
        };
        self.forget_ahead();
        // What was held is judged again on its way.
        let begun = Begun {
            text: Utf8::default(),
            ..*begun
        };
        let parted = Parted::new(begun, wish.shows_parts, held);
        self.open = Some(Box::new(Open::Parted(parted)));
        self.parted()
    }

    /// Judges what the header shows in its place in the stream, but for the length of a message.
    #[inline]
    fn judge(&self, header: &FrameHeader) -> Result<(), ProtocolError> {
        if header.rsv != 0 {
            self.judge_reserved(header)?;
        }
        match (self.from, header.mask) {
            (Side::Client, None) => return Err(ProtocolError::Unmasked),
            (Side::Service, Some(_)) => return Err(ProtocolError::Masked),
            (Side::Client, Some(_)) | (Side::Service, None) => {}
        }
        match (header.opcode, &self.open) {
            (Opcode::Continuation, None) => Err(ProtocolError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(ProtocolError::MessageInsideMessage),
            _ => Ok(()),
        }
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

    /// Returns what is known of the message that a data frame belongs to, before that frame.
    #[inline]
    fn begun(&self, header: &FrameHeader) -> Begun {
        match self.open.as_deref() {
            Some(Open::Held(held)) => held.begun,
            Some(Open::Parted(parted)) => *parted.begun(),
            None => Begun {
                kind: if header.opcode == Opcode::Text {
                    MessageKind::Text
                } else {
                    MessageKind::Binary
                },
                // Of the reserved bits only this one gets past the header, and only where it may be set.
                compressed: header.rsv != 0,
                length: 0,
                text: Utf8::default(),
            },
        }
    }

    /// Judges what has come of a text frame that waits to be whole.
    fn judge_ahead(
        &mut self,
        begun: &Begun,
        header: &FrameHeader,
        rest: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        if !begun.is_judged() {
            return Ok(());
        }
        let Ahead { judged, text } = &mut self.ahead;
        if *judged == 0 {
            *text = begun.text;
        }
        let payload = &rest[header.header_len..];
        let fresh = payload.get(*judged..).unwrap_or_default();
        let fresh = unmasked(fresh, header.mask, *judged, scratch);
        *judged = payload.len();
        text.take_in(fresh).map_err(|_| ProtocolError::TextNotUtf8)
    }

    #[inline]
    fn forget_ahead(&mut self) {
        if self.ahead.judged > 0 {
            self.ahead = Ahead::default();
        }
    }

    /// Takes in a frame that is not the last of its message.
    fn collect(
        &mut self,
        frame: &[u8],
        header: &FrameHeader,
        begun: Begun,
        wish: Wish,
        scratch: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        let limit = (wish.held_below / 4).max(MIN_FRAGMENT_HEADERS);
        let open = self.open.get_or_insert_with(|| {
            Box::new(Open::Held(Held {
                begun,
                wire: Vec::new(),
            }))
        });
        let Open::Held(Held { begun, wire }) = &mut **open else {
            return Ok(());
        };
        let headers = wire.len() - begun.length + header.header_len;
        if headers > limit {
            return Err(ProtocolError::TooManyFragments { limit });
        }
        wire.extend_from_slice(frame);
        begun.length += frame.len() - header.header_len;
        if begun.is_judged() {
            let payload = unmasked(&frame[header.header_len..], header.mask, 0, scratch);
            begun
                .text
                .take_in(payload)
                .map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        Ok(())
    }

    /// Puts a message and its last frame together in `scratch`, so that nothing stays here.
    fn finish<'a>(
        &mut self,
        frame: &[u8],
        header: &FrameHeader,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Event<'a>, ProtocolError> {
        let Some(Open::Held(Held { begun, wire })) = self.open.take().map(|open| *open) else {
            return Err(ProtocolError::NothingToContinue);
        };
        scratch.clear();
        let mut rest = &wire[..];
        while let Some(header) = FrameHeader::parse(rest)? {
            let end = header.header_len + usize::try_from(header.payload_len).unwrap_or_default();
            unmask_all(scratch, &rest[header.header_len..end], header.mask);
            rest = &rest[end..];
        }
        let before = scratch.len();
        unmask_all(scratch, &frame[header.header_len..], header.mask);
        if begun.is_judged() {
            let mut text = begun.text;
            let is_text = text.take_in(&scratch[before..]).is_ok() && text.cut().is_empty();
            if !is_text {
                return Err(ProtocolError::TextNotUtf8);
            }
        }
        let payload_len = scratch.len();
        scratch.extend_from_slice(&wire);
        scratch.extend_from_slice(frame);
        let (payload, wire) = scratch.split_at(payload_len);
        Ok(data(begun, payload, wire))
    }
}

impl Begun {
    /// Whether its payload has to be UTF-8 as it comes.
    pub(super) fn is_judged(&self) -> bool {
        self.kind == MessageKind::Text && !self.compressed
    }
}

impl Wish {
    fn limit_as_sent(&self, compressed: bool) -> usize {
        if compressed {
            longest_compressed(self.limit)
        } else {
            self.limit
        }
    }

    fn held_below_as_sent(&self, compressed: bool) -> usize {
        match self.held_below.checked_sub(1) {
            Some(longest) if compressed => longest_compressed(longest).saturating_add(1),
            _ => self.held_below,
        }
    }
}

/// What the frame headers of one message may take in any case: fragments without a payload would
/// otherwise make memory grow without limit.
pub(super) const MIN_FRAGMENT_HEADERS: usize = 16 * 1024;

/// Returns payload without its mask, in `scratch` if it had one. `offset` is how much of the frame's
/// payload came before.
#[inline]
pub(super) fn unmasked<'a>(
    payload: &'a [u8],
    mask: Option<[u8; 4]>,
    offset: usize,
    scratch: &'a mut Vec<u8>,
) -> &'a [u8] {
    match mask {
        None => payload,
        Some(key) => {
            scratch.clear();
            unmask_into(scratch, payload, key, offset);
            scratch
        }
    }
}

fn unmask_all(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    match mask {
        None => out.extend_from_slice(payload),
        Some(key) => unmask_into(out, payload, key, 0),
    }
}

/// The event of a message that is one frame.
#[inline]
fn whole<'a>(
    frame: &'a [u8],
    header: &FrameHeader,
    begun: Begun,
    scratch: &'a mut Vec<u8>,
) -> Result<Event<'a>, ProtocolError> {
    let payload = unmasked(&frame[header.header_len..], header.mask, 0, scratch);
    if begun.is_judged() && std::str::from_utf8(payload).is_err() {
        return Err(ProtocolError::TextNotUtf8);
    }
    Ok(data(begun, payload, frame))
}

#[inline]
fn data<'a>(begun: Begun, payload: &'a [u8], wire: &'a [u8]) -> Event<'a> {
    let kind = begun.kind;
    if begun.compressed {
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
    }
}

/// The event of a control frame.
fn control<'a>(
    wire: &'a [u8],
    header: &FrameHeader,
    scratch: &'a mut Vec<u8>,
) -> Result<Event<'a>, ProtocolError> {
    let payload = unmasked(&wire[header.header_len..], header.mask, 0, scratch);
    let kind = match header.opcode {
        Opcode::Ping => MessageKind::Ping,
        Opcode::Pong => MessageKind::Pong,
        _ => return close(payload, wire),
    };
    Ok(Event::Message {
        kind,
        payload,
        wire,
    })
}

fn close<'a>(payload: &'a [u8], wire: &'a [u8]) -> Result<Event<'a>, ProtocolError> {
    let (code, reason) = match payload {
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

impl MessageReader {
    /// Whether no message is in progress: its first frame taken in, its last one not.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.parted().is_none() && self.open.is_none()
    }
}

#[cfg(test)]
impl MessageReader {
    /// Bytes of memory that the message in progress takes here.
    pub(crate) fn buffered_bytes(&self) -> usize {
        match self.open.as_deref() {
            None => 0,
            Some(Open::Held(held)) => held.wire.capacity(),
            Some(Open::Parted(parted)) => parted.buffered_bytes(),
        }
    }
}
