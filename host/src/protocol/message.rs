//! Messages out of frames, for one direction of a session that plugins watch (RFC 6455 §5.4-5.6).
//!
//! What happens to a message is for `proxy/filter.rs`, which also owns the bytes: a reader keeps
//! only the fragments of a message whose last frame has not come.

use std::str::Utf8Error;

use thiserror::Error;

use super::close::CloseCode;
use super::deflate::{InflateError, longest_compressed};
use super::frame::{COMPRESSED, FrameError, FrameHeader, Opcode, unmask_into};

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
const MIN_FRAGMENT_HEADERS: usize = 16 * 1024;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::close::encode_close;
    use super::super::deflate::Codec;
    use super::super::frame::{encode_frame, encode_header};
    use super::*;

    const MAX: usize = 1000;
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// An event that owns what it holds.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Message(MessageKind, Vec<u8>, Vec<u8>),
        Compressed(MessageKind, Vec<u8>, Vec<u8>),
        Close(Option<u16>, String, Vec<u8>),
    }

    /// Gives `reads` to a reader as a session does: kept until they are used up.
    fn read<'a>(
        reader: &mut MessageReader,
        reads: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Seen>, (Vec<Seen>, ProtocolError)> {
        let mut seen = Vec::new();
        let mut buffer = Vec::new();
        let mut scratch = Vec::new();
        for bytes in reads {
            buffer.extend_from_slice(bytes);
            loop {
                let (event, used) = match reader.next(&buffer, &mut scratch) {
                    Ok(next) => next,
                    Err(error) => return Err((seen, error)),
                };
                let is_over = match event {
                    Event::Message {
                        kind,
                        payload,
                        wire,
                    } => {
                        seen.push(Seen::Message(kind, payload.to_vec(), wire.to_vec()));
                        false
                    }
                    Event::Compressed {
                        kind,
                        payload,
                        wire,
                    } => {
                        seen.push(Seen::Compressed(kind, payload.to_vec(), wire.to_vec()));
                        false
                    }
                    Event::Close { code, reason, wire } => {
                        seen.push(Seen::Close(code, reason.to_owned(), wire.to_vec()));
                        false
                    }
                    Event::NeedMore { at_least } => {
                        assert!(at_least > 0);
                        true
                    }
                };
                buffer.drain(..used);
                if is_over {
                    break;
                }
            }
        }
        Ok(seen)
    }

    fn from_client(bytes: &[u8]) -> Result<Vec<Seen>, ProtocolError> {
        read(&mut MessageReader::new(Side::Client, MAX, false), [bytes]).map_err(|(_, error)| error)
    }

    fn from_service(bytes: &[u8]) -> Result<Vec<Seen>, ProtocolError> {
        read(&mut MessageReader::new(Side::Service, MAX, false), [bytes])
            .map_err(|(_, error)| error)
    }

    fn fragment(out: &mut Vec<u8>, fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, part: &[u8]) {
        encode_header(out, fin, 0, opcode, mask, part.len());
        match mask {
            None => out.extend_from_slice(part),
            Some(key) => unmask_into(out, part, key, 0),
        }
    }

    /// A text message of the service in the given fragments.
    fn text_in(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let opcode = if n == 0 {
                Opcode::Text
            } else {
                Opcode::Continuation
            };
            fragment(&mut out, n + 1 == parts.len(), opcode, None, part);
        }
        out
    }

    #[test]
    fn the_unmasked_hello_of_the_rfc_is_a_message() {
        let wire = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(
            from_service(&wire),
            Ok(vec![Seen::Message(
                MessageKind::Text,
                b"Hello".to_vec(),
                wire.to_vec()
            )])
        );
    }

    #[test]
    fn the_masked_hello_of_the_rfc_is_a_message() {
        let wire = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(
            from_client(&wire),
            Ok(vec![Seen::Message(
                MessageKind::Text,
                b"Hello".to_vec(),
                wire.to_vec()
            )])
        );
    }

    #[test]
    fn the_fragmented_hello_of_the_rfc_is_one_message() {
        let wire = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(
            from_service(&wire),
            Ok(vec![Seen::Message(
                MessageKind::Text,
                b"Hello".to_vec(),
                wire.to_vec()
            )])
        );
    }

    #[test]
    fn the_ping_and_pong_of_the_rfc_are_messages() {
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(
            from_service(&ping),
            Ok(vec![Seen::Message(
                MessageKind::Ping,
                b"Hello".to_vec(),
                ping.to_vec()
            )])
        );
        let pong = [
            0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(
            from_client(&pong),
            Ok(vec![Seen::Message(
                MessageKind::Pong,
                b"Hello".to_vec(),
                pong.to_vec()
            )])
        );
    }

    #[test]
    fn a_whole_frame_is_not_copied() {
        let mut input = Vec::new();
        encode_frame(&mut input, Opcode::Binary, None, b"abc");
        let mut scratch = Vec::new();
        let mut reader = MessageReader::new(Side::Service, MAX, false);
        let (event, used) = reader.next(&input, &mut scratch).unwrap();
        let Event::Message { payload, wire, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(used, input.len());
        assert_eq!(wire.as_ptr_range(), input.as_ptr_range());
        assert_eq!(payload.as_ptr(), input[2..].as_ptr());
        assert_eq!(scratch.capacity(), 0);
    }

    #[test]
    fn a_control_frame_between_fragments_comes_first_and_is_not_in_the_wire_bytes() {
        let mut first = Vec::new();
        fragment(&mut first, false, Opcode::Binary, Some(KEY), b"ab");
        let mut ping = Vec::new();
        encode_frame(&mut ping, Opcode::Ping, Some(KEY), b"?");
        let mut last = Vec::new();
        fragment(
            &mut last,
            true,
            Opcode::Continuation,
            Some([1, 2, 3, 4]),
            b"cd",
        );
        assert_eq!(
            from_client(&[&first[..], &ping, &last].concat()),
            Ok(vec![
                Seen::Message(MessageKind::Ping, b"?".to_vec(), ping),
                Seen::Message(
                    MessageKind::Binary,
                    b"abcd".to_vec(),
                    [first, last].concat()
                ),
            ])
        );
    }

    #[test]
    fn a_reader_is_idle_and_empty_again_after_a_fragmented_message() {
        let wire = text_in(&[b"ab", b"cd"]);
        let mut reader = MessageReader::new(Side::Service, MAX, false);
        assert_eq!(read(&mut reader, [&wire[..4]]), Ok(vec![]));
        assert!(!reader.is_idle());
        assert!(reader.buffered_bytes() >= 6);
        read(&mut reader, [&wire[4..]]).unwrap();
        assert!(reader.is_idle());
        assert_eq!(reader.buffered_bytes(), 0);
    }

    #[test]
    fn it_says_how_many_bytes_complete_the_frame() {
        let mut scratch = Vec::new();
        let mut reader = MessageReader::new(Side::Service, MAX, false);
        let mut at_least = |input: &[u8]| match reader.next(input, &mut scratch) {
            Ok((Event::NeedMore { at_least }, 0)) => at_least,
            other => panic!("{other:?}"),
        };
        assert_eq!(at_least(&[]), 2);
        assert_eq!(at_least(&[0x82]), 1);
        assert_eq!(at_least(&[0x82, 126]), 1);
        assert_eq!(at_least(&[0x82, 126, 1, 0]), 256);
        assert_eq!(at_least(&[0x82, 5, 1]), 4);
    }

    #[test]
    fn an_unmasked_frame_of_the_client_is_refused() {
        assert_eq!(from_client(&[0x81, 0x01]), Err(ProtocolError::Unmasked));
        assert_eq!(from_client(&[0x89, 0x00]), Err(ProtocolError::Unmasked));
    }

    #[test]
    fn a_masked_frame_of_the_service_is_refused() {
        assert_eq!(
            from_service(&[0x81, 0x81, 0, 0, 0, 0]),
            Err(ProtocolError::Masked)
        );
    }

    #[test]
    fn reserved_bits_are_refused() {
        for (first, rsv) in [(0xc1, 4), (0xa1, 2), (0x91, 1), (0xc9, 4)] {
            assert_eq!(
                from_service(&[first, 0]),
                Err(ProtocolError::ReservedBits { rsv })
            );
        }
    }

    /// What a reader of the service's frames makes of them where compression was agreed on.
    fn compressed_from_service(bytes: &[u8]) -> Result<Vec<Seen>, ProtocolError> {
        let mut reader = MessageReader::new(Side::Service, MAX, true);
        read(&mut reader, [bytes]).map_err(|(_, error)| error)
    }

    #[test]
    fn the_compressed_hello_of_the_rfc_is_a_compressed_message() {
        let wire = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let seen = |wire: &[u8]| {
            let payload = vec![0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
            vec![Seen::Compressed(MessageKind::Text, payload, wire.to_vec())]
        };
        assert_eq!(compressed_from_service(&wire), Ok(seen(&wire)));
        let fragmented = [
            0x41, 0x03, 0xf2, 0x48, 0xcd, 0x80, 0x04, 0xc9, 0xc9, 0x07, 0x00,
        ];
        assert_eq!(compressed_from_service(&fragmented), Ok(seen(&fragmented)));
        let rsv = Err(ProtocolError::ReservedBits { rsv: 4 });
        assert_eq!(from_service(&wire), rsv);
        assert_eq!(from_service(&fragmented), rsv);
    }

    #[test]
    fn only_the_first_frame_of_a_message_says_that_it_is_compressed() {
        for wire in [
            &[0x01, 0, 0xc0, 0][..],
            &[0x41, 0, 0xc0, 0],
            &[0xc8, 0],
            &[0xc9, 0],
            &[0xca, 0],
        ] {
            let seen = compressed_from_service(wire);
            assert_eq!(seen, Err(ProtocolError::CompressedBit), "{wire:x?}");
        }
        for (first, rsv) in [(0xe1, 6), (0xa1, 2), (0x91, 1), (0xf1, 7)] {
            let refused = Err(ProtocolError::ReservedBits { rsv });
            assert_eq!(compressed_from_service(&[first, 0]), refused);
        }
    }

    #[test]
    fn a_message_that_is_not_compressed_is_one_where_it_could_be() {
        let wire = [text_in(&[b"a", b"b"]), text_in(&[b"c"])].concat();
        let seen = compressed_from_service(&wire);
        assert_eq!(seen, from_service(&wire));
        assert_eq!(seen.unwrap().len(), 2);
        let not_utf8 = Err(ProtocolError::TextNotUtf8);
        assert_eq!(compressed_from_service(&text_in(&[b"\xff"])), not_utf8);
    }

    #[test]
    fn a_compressed_message_may_be_little_longer_than_others() {
        let limit = longest_compressed(MAX);
        let frame = |fin, opcode, length: usize| {
            let mut wire = Vec::new();
            let rsv = if opcode == Opcode::Continuation {
                0
            } else {
                COMPRESSED
            };
            encode_header(&mut wire, fin, rsv, opcode, None, length);
            wire.resize(wire.len() + length, 0);
            wire
        };
        let too_long = Err(ProtocolError::MessageTooLong { limit: MAX });
        let longest = frame(true, Opcode::Binary, limit);
        assert_eq!(compressed_from_service(&longest).unwrap().len(), 1);
        let longer = &frame(true, Opcode::Binary, limit + 1)[..4];
        assert_eq!(compressed_from_service(longer), too_long);
        for (length, fits) in [(limit - MAX, true), (limit - MAX + 1, false)] {
            let first = frame(false, Opcode::Binary, MAX);
            let wire = [first, frame(true, Opcode::Continuation, length)].concat();
            assert_eq!(compressed_from_service(&wire).is_ok(), fits);
        }
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        assert_eq!(
            from_service(&[0x83, 0]),
            Err(ProtocolError::Frame(FrameError::UnknownOpcode {
                opcode: 3
            }))
        );
    }

    #[test]
    fn a_continuation_of_nothing_is_refused() {
        for first in [0x80, 0x00] {
            assert_eq!(
                from_service(&[first, 0]),
                Err(ProtocolError::NothingToContinue)
            );
        }
        let finished = [text_in(&[b"a", b"b"]), vec![0x80, 0]].concat();
        assert_eq!(
            from_service(&finished),
            Err(ProtocolError::NothingToContinue)
        );
    }

    #[test]
    fn a_message_inside_another_is_refused() {
        for first in [0x81, 0x02] {
            assert_eq!(
                from_service(&[0x01, 0, first, 0]),
                Err(ProtocolError::MessageInsideMessage)
            );
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_its_header() {
        let mut largest = Vec::new();
        encode_frame(&mut largest, Opcode::Binary, None, &[0; MAX]);
        assert_eq!(from_service(&largest).unwrap().len(), 1);

        let too_long = Err(ProtocolError::MessageTooLong { limit: MAX });
        assert_eq!(from_service(&[0x82, 126, 0x03, 0xe9]), too_long);
        let gigantic = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(from_service(&gigantic), too_long);
    }

    #[test]
    fn fragments_that_add_up_over_the_limit_are_refused_at_the_header() {
        let mut wire = Vec::new();
        fragment(&mut wire, false, Opcode::Binary, None, &[0; MAX - 1]);
        let fits = [&wire[..], &[0x80, 1, 7]].concat();
        assert_eq!(from_service(&fits).unwrap().len(), 1);
        wire.extend_from_slice(&[0x80, 2]);
        assert_eq!(
            from_service(&wire),
            Err(ProtocolError::MessageTooLong { limit: MAX })
        );
    }

    #[test]
    fn control_frames_pass_when_the_largest_message_is_smaller() {
        let mut reader = MessageReader::new(Side::Service, 1, false);
        let mut wire = Vec::new();
        encode_frame(&mut wire, Opcode::Ping, None, &[1; 125]);
        assert_eq!(read(&mut reader, [&wire[..]]).unwrap().len(), 1);
    }

    #[test]
    fn endless_empty_fragments_are_refused() {
        let mut reader = MessageReader::new(Side::Client, MAX, false);
        let mut scratch = Vec::new();
        let mut wire = Vec::new();
        fragment(&mut wire, false, Opcode::Text, Some(KEY), b"");
        let mut count = 0;
        let error = loop {
            match reader.next(&wire, &mut scratch) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
            assert!(reader.buffered_bytes() <= 2 * MIN_FRAGMENT_HEADERS);
            wire.clear();
            fragment(&mut wire, false, Opcode::Continuation, Some(KEY), b"");
        };
        assert_eq!(
            error,
            ProtocolError::TooManyFragments {
                limit: MIN_FRAGMENT_HEADERS
            }
        );
        assert_eq!(count, MIN_FRAGMENT_HEADERS / 6);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let not_utf8 = Err(ProtocolError::TextNotUtf8);
        assert_eq!(from_service(&text_in(&[b"a\xff"])), not_utf8);
        assert_eq!(from_service(&text_in(&[b"\xed\xa0\x80"])), not_utf8);
        assert_eq!(from_service(&text_in(&[b"\xe2\x82"])), not_utf8);
        assert_eq!(from_service(&text_in(&[b"\xe2\x82", b""])), not_utf8);
        assert_eq!(from_service(&text_in(&[b"\xe2", b"\x28"])), not_utf8);
        let mut binary = Vec::new();
        encode_frame(&mut binary, Opcode::Binary, None, b"\xff");
        assert!(from_service(&binary).is_ok());
    }

    #[test]
    fn text_is_refused_in_the_fragment_that_spoils_it() {
        // The first frames alone: no last one is needed to see it.
        for parts in [
            &[&b"a\xff"[..], b"b"][..],
            &[b"\xe2", b"\x28", b"b"],
            &[b"\xf4", b"\x90", b"\x80\x80"],
            &[b"\xc3\xa9\xf0", b"\x9f\x92", b"\xff", b"b"],
        ] {
            let mut wire = text_in(parts);
            let last = parts[parts.len() - 1].len() + 2;
            wire.truncate(wire.len() - last);
            assert_eq!(
                from_service(&wire),
                Err(ProtocolError::TextNotUtf8),
                "{parts:x?}"
            );
        }
    }

    #[test]
    fn a_character_may_be_spread_over_fragments() {
        let wire = text_in(&[b"\xf0", b"\x9f", b"", b"\x92", b"\xa9!"]);
        assert_eq!(
            from_service(&wire),
            Ok(vec![Seen::Message(
                MessageKind::Text,
                "💩!".into(),
                wire.clone()
            )])
        );
    }

    #[test]
    fn a_close_frame_has_code_and_reason() {
        let mut wire = Vec::new();
        encode_close(&mut wire, Some(KEY), CloseCode::GOING_AWAY, "até");
        assert_eq!(
            from_client(&wire),
            Ok(vec![Seen::Close(Some(1001), "até".into(), wire.clone())])
        );
    }

    #[test]
    fn a_close_frame_may_be_empty() {
        assert_eq!(
            from_service(&[0x88, 0]),
            Ok(vec![Seen::Close(None, String::new(), vec![0x88, 0])])
        );
    }

    #[test]
    fn a_close_frame_that_breaks_the_rules_is_refused() {
        assert_eq!(
            from_service(&[0x88, 1, 3]),
            Err(ProtocolError::HalfCloseCode)
        );
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            let [high, low] = code.to_be_bytes();
            assert_eq!(
                from_service(&[0x88, 2, high, low]),
                Err(ProtocolError::CloseCode { code })
            );
        }
        assert_eq!(
            from_service(&[0x88, 3, 0x03, 0xe8, 0xff]),
            Err(ProtocolError::ReasonNotUtf8)
        );
    }

    #[test]
    fn a_close_frame_may_come_between_fragments() {
        let seen = from_service(&[0x01, 1, b'a', 0x88, 0]).unwrap();
        assert_eq!(seen, [Seen::Close(None, String::new(), vec![0x88, 0])]);
    }

    #[test]
    fn each_error_has_the_code_that_the_rfc_gives_it() {
        for (error, code) in [
            (ProtocolError::Unmasked, CloseCode::PROTOCOL_ERROR),
            (ProtocolError::TextNotUtf8, CloseCode::INVALID_PAYLOAD),
            (ProtocolError::ReasonNotUtf8, CloseCode::INVALID_PAYLOAD),
            (
                ProtocolError::MessageTooLong { limit: 1 },
                CloseCode::TOO_BIG,
            ),
            (
                ProtocolError::TooManyFragments { limit: 1 },
                CloseCode::TOO_BIG,
            ),
            (ProtocolError::CompressedBit, CloseCode::PROTOCOL_ERROR),
            (
                InflateError::TooLong { limit: 1 }.into(),
                CloseCode::TOO_BIG,
            ),
            (InflateError::Malformed.into(), CloseCode::INVALID_PAYLOAD),
        ] {
            assert_eq!(error.close_code(), code);
        }
    }

    /// A data message: its fragments, and the ping that comes before each.
    fn message() -> impl Strategy<Value = (bool, Vec<(String, bool)>)> {
        (
            any::<bool>(),
            prop::collection::vec((".{0,40}", any::<bool>()), 1..5),
        )
    }

    /// Writes messages as one side would, and what a reader should see.
    fn write(
        messages: &[(bool, Vec<(String, bool)>)],
        mask: Option<[u8; 4]>,
    ) -> (Vec<u8>, Vec<Seen>) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (is_text, parts) in messages {
            let mut payload = Vec::new();
            let mut wire = Vec::new();
            for (n, (part, ping_first)) in parts.iter().enumerate() {
                if *ping_first {
                    let start = stream.len();
                    encode_frame(&mut stream, Opcode::Ping, mask, b"p");
                    let ping = stream[start..].to_vec();
                    expected.push(Seen::Message(MessageKind::Ping, b"p".to_vec(), ping));
                }
                let opcode = match (n, is_text) {
                    (0, true) => Opcode::Text,
                    (0, false) => Opcode::Binary,
                    _ => Opcode::Continuation,
                };
                let start = stream.len();
                let is_last = n + 1 == parts.len();
                fragment(&mut stream, is_last, opcode, mask, part.as_bytes());
                payload.extend_from_slice(part.as_bytes());
                wire.extend_from_slice(&stream[start..]);
            }
            let kind = if *is_text {
                MessageKind::Text
            } else {
                MessageKind::Binary
            };
            expected.push(Seen::Message(kind, payload, wire));
        }
        (stream, expected)
    }

    /// Cuts `bytes` at the given distances, repeated to its end.
    fn cut<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut reads = Vec::new();
        for &at in cuts.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (read, rest) = bytes.split_at(at.min(bytes.len()));
            reads.push(read);
            bytes = rest;
        }
        reads
    }

    proptest! {
        #[test]
        fn messages_and_their_wire_bytes_do_not_depend_on_how_the_stream_is_read(
            messages in prop::collection::vec(message(), 0..5),
            cuts in prop::collection::vec(1_usize..60, 1..20),
            mask: Option<[u8; 4]>,
        ) {
            let (stream, expected) = write(&messages, mask);
            let from = if mask.is_some() { Side::Client } else { Side::Service };
            let mut reader = MessageReader::new(from, MAX, false);
            prop_assert_eq!(read(&mut reader, cut(&stream, &cuts)), Ok(expected));
            prop_assert!(reader.is_idle());
        }

        #[test]
        fn a_message_reads_as_it_was_written(
            payload in prop::collection::vec(any::<u8>(), 0..MAX),
            mask: Option<[u8; 4]>,
        ) {
            let mut wire = Vec::new();
            encode_frame(&mut wire, Opcode::Binary, mask, &payload);
            let from = if mask.is_some() { Side::Client } else { Side::Service };
            let seen = read(&mut MessageReader::new(from, MAX, false), [&wire[..]]);
            prop_assert_eq!(seen, Ok(vec![Seen::Message(MessageKind::Binary, payload, wire.clone())]));
        }

        #[test]
        fn compressed_messages_inflate_to_what_was_written_however_the_stream_is_read(
            messages in prop::collection::vec(
                (any::<bool>(), "[a-c ]{0,300}", prop::collection::vec(1_usize..100, 1..4)),
                0..6,
            ),
            cuts in prop::collection::vec(1_usize..60, 1..20),
            mask: Option<[u8; 4]>,
        ) {
            let mut codec = Codec::default();
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (compress, text, lengths) in &messages {
                let deflated = codec.deflater.deflate(text.as_bytes(), 15).filter(|_| *compress);
                let payload = deflated.unwrap_or(text.as_bytes());
                let mut parts = cut(payload, lengths);
                if parts.is_empty() {
                    parts.push(b"");
                }
                let start = stream.len();
                for (n, part) in parts.iter().enumerate() {
                    let (opcode, rsv) = match n {
                        0 if deflated.is_some() => (Opcode::Text, COMPRESSED),
                        0 => (Opcode::Text, 0),
                        _ => (Opcode::Continuation, 0),
                    };
                    let fin = n + 1 == parts.len();
                    encode_header(&mut stream, fin, rsv, opcode, mask, part.len());
                    match mask {
                        None => stream.extend_from_slice(part),
                        Some(key) => unmask_into(&mut stream, part, key, 0),
                    }
                }
                expected.push((text.clone().into_bytes(), stream[start..].to_vec()));
            }
            let from = if mask.is_some() { Side::Client } else { Side::Service };
            let mut reader = MessageReader::new(from, MAX, true);
            let seen = read(&mut reader, cut(&stream, &cuts)).unwrap();
            let inflated = seen.into_iter().map(|seen| match seen {
                Seen::Compressed(_, payload, wire) => {
                    (codec.inflater.inflate(&payload, MAX).unwrap().to_vec(), wire)
                }
                Seen::Message(_, payload, wire) => (payload, wire),
                Seen::Close(..) => unreachable!(),
            });
            prop_assert_eq!(inflated.collect::<Vec<_>>(), expected);
            prop_assert!(reader.is_idle());
        }

        #[test]
        fn text_is_judged_alike_whole_and_in_fragments(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..8),
                prop::collection::vec(prop::sample::select(&b"a\x80\x9f\xa0\xbf\xc3\xe0\xe2\xed\xf0\xf4"[..]), 0..8),
                ".{0,6}".prop_map(String::into_bytes),
            ],
            cuts in prop::collection::vec(1_usize..4, 1..4),
        ) {
            let mut parts = cut(&bytes, &cuts);
            if parts.is_empty() {
                parts.push(b"");
            }
            let is_utf8 = std::str::from_utf8(&bytes).is_ok();
            prop_assert_eq!(from_service(&text_in(&parts)).is_ok(), is_utf8);
            prop_assert_eq!(from_service(&text_in(&[&bytes])).is_ok(), is_utf8);
        }

        #[test]
        fn random_bytes_never_panic_and_never_take_more_memory_than_allowed(
            reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..60),
            from in prop::sample::select(&[Side::Client, Side::Service][..]),
            may_compress: bool,
        ) {
            let mut reader = MessageReader::new(from, 64, may_compress);
            drop(read(&mut reader, reads.iter().map(Vec::as_slice)));
            prop_assert!(reader.buffered_bytes() <= 2 * (2 * 136 + MIN_FRAGMENT_HEADERS));
        }

        #[test]
        fn frames_that_may_follow_each_other_never_take_more_memory_than_allowed(
            frames in prop::collection::vec(
                (any::<bool>(), prop::sample::select(&[0x0_u8, 0x0, 0x0, 0x1, 0x2, 0x8, 0x9, 0xa][..]), 0_usize..40),
                0..200,
            ),
        ) {
            let mut reader = MessageReader::new(Side::Service, 64, false);
            let mut scratch = Vec::new();
            for (fin, opcode, length) in frames {
                let mut frame = vec![u8::from(fin) << 7 | opcode, u8::try_from(length).unwrap()];
                frame.resize(2 + length, b'a');
                if let Ok((event, used)) = reader.next(&frame, &mut scratch) {
                    prop_assert_eq!(used, frame.len());
                    if let Event::Message { payload, wire, .. } = event {
                        prop_assert!(payload.len() <= 125 && wire.len() <= payload.len() + 400);
                    }
                }
                prop_assert!(reader.buffered_bytes() <= 2 * (2 * 64 + 400));
            }
        }
    }
}
