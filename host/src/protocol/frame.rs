//! WebSocket frames: headers, masks, and where a frame ends (RFC 6455 §5.2, §5.3).
//!
//! What a row of frames means is for `message/`, and so is what depends on who sent one.

use thiserror::Error;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// Whether it is a control frame: short, never fragmented, allowed between the fragments of a
    /// message.
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// Why bytes are not a frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("frame has the unknown opcode {opcode:#x}")]
    UnknownOpcode { opcode: u8 },
    #[error("control frame is fragmented")]
    FragmentedControl,
    #[error("control frame has a payload over 125 bytes")]
    LongControl,
    #[error("frame length {length} is not encoded in the fewest bytes")]
    LengthNotMinimal { length: u64 },
    #[error("frame length {length} is over 63 bits")]
    LengthTooLarge { length: u64 },
}

/// RSV1, as in [`FrameHeader::rsv`]: the message is compressed (RFC 7692 §6).
pub(crate) const COMPRESSED: u8 = 0b100;

/// A frame without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Whether it is the last frame of its message.
    pub(crate) fin: bool,
    /// The reserved bits, `0b0RRR`: RSV1 is 4, RSV2 is 2, RSV3 is 1.
    pub(crate) rsv: u8,
    pub(crate) opcode: Opcode,
    pub(crate) mask: Option<[u8; 4]>,
    /// Below 2^63.
    pub(crate) payload_len: u64,
    /// Bytes the header takes on the wire, 2 to [`Self::MAX_LEN`].
    pub(crate) header_len: usize,
}

impl FrameHeader {
    /// Longest header in bytes: two, eight of length, four of mask.
    pub(crate) const MAX_LEN: usize = 14;

    /// Reads the header that `bytes` begin with; nothing if it has not arrived whole.
    ///
    /// Judges only what the header alone can show: masks and reserved bits are right or wrong by
    /// who sent them and what was negotiated.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        let bits = first & 0x0f;
        let opcode = Opcode::from_bits(bits).ok_or(FrameError::UnknownOpcode { opcode: bits })?;
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(FrameError::FragmentedControl);
            }
            if short > LONGEST_SHORT {
                return Err(FrameError::LongControl);
            }
        }
        let (payload_len, rest, length_len) = match short {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from(u16::from_be_bytes(*length));
                if length <= u64::from(LONGEST_SHORT) {
                    return Err(FrameError::LengthNotMinimal { length });
                }
                (length, rest, 2)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(*length);
                if length <= u64::from(u16::MAX) {
                    return Err(FrameError::LengthNotMinimal { length });
                }
                if length >> 63 != 0 {
                    return Err(FrameError::LengthTooLarge { length });
                }
                (length, rest, 8)
            }
            _ => (u64::from(short), rest, 0),
        };
        let (mask, mask_len) = if second & MASKED == 0 {
            (None, 0)
        } else {
            let Some(key) = rest.first_chunk() else {
                return Ok(None);
            };
            (Some(*key), 4)
        };
        Ok(Some(Self {
            fin,
            rsv: (first >> 4) & 0x7,
            opcode,
            mask,
            payload_len,
            header_len: 2 + length_len + mask_len,
        }))
    }
}

/// Appends the header of a frame whose `payload_len` bytes follow, masked with `mask` if there is
/// one. `rsv` as in [`FrameHeader`].
#[inline]
pub(crate) fn encode_header(
    out: &mut Vec<u8>,
    fin: bool,
    rsv: u8,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    payload_len: usize,
) {
    let fin = if fin { FIN } else { 0 };
    let masked = if mask.is_some() { MASKED } else { 0 };
    out.push(fin | ((rsv & 0x7) << 4) | opcode.bits());
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(length @ ..=LONGEST_SHORT), _) => out.push(masked | length),
        (_, Ok(length)) => {
            out.push(masked | LENGTH_16);
            out.extend_from_slice(&length.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(masked | LENGTH_64);
            out.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    if let Some(key) = mask {
        out.extend_from_slice(&key);
    }
}

/// Appends `payload` as one whole frame, masked while it is copied.
#[inline]
pub(crate) fn encode_frame(
    out: &mut Vec<u8>,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    payload: &[u8],
) {
    encode_fragment(out, true, 0, opcode, mask, payload);
}

/// As [`encode_frame`], for a payload that is compressed (RFC 7692 §6.1).
pub(crate) fn encode_compressed_frame(
    out: &mut Vec<u8>,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    payload: &[u8],
) {
    encode_fragment(out, true, COMPRESSED, opcode, mask, payload);
}

/// As [`encode_frame`], for a payload that may be only a part of a message. `rsv` as in [`FrameHeader`].
#[inline]
pub(crate) fn encode_fragment(
    out: &mut Vec<u8>,
    fin: bool,
    rsv: u8,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    payload: &[u8],
) {
    out.reserve(FrameHeader::MAX_LEN + payload.len());
    encode_header(out, fin, rsv, opcode, mask, payload.len());
    match mask {
        Some(key) => unmask_into(out, payload, key, 0),
        None => out.extend_from_slice(payload),
    }
}

/// Appends `payload` with the mask taken off, or put on: it is the same (RFC 6455 §5.3). `offset`
/// is how many bytes of the frame's payload came before.
#[inline]
pub(crate) fn unmask_into(out: &mut Vec<u8>, payload: &[u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    let start = out.len();
    out.extend_from_slice(payload);
    // Copied first, then changed in place: an exact-sized copy and a loop over whole words both
    // compile to vector instructions, which appending word by word does not.
    let word_key = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (words, tail) = out[start..].as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ word_key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(word_key.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Follows the frames of a stream that somebody else owns: reads headers, skips payloads, copies
/// nothing but a header cut in two by a read.
#[derive(Debug, Clone)]
pub(crate) struct Boundaries {
    /// Bytes of payload until the frame ends; [`LOST`] once a header was not understood.
    remaining: u64,
    messages: u64,
    /// The first `collected` bytes of a header that has not arrived whole.
    header: [u8; FrameHeader::MAX_LEN],
    collected: u8,
    /// Whether the end of this frame is the end of a data message.
    ends_message: bool,
    /// A data message has begun and not ended.
    within_message: bool,
    closed: bool,
}

impl Boundaries {
    /// Begins between two frames.
    pub(crate) fn new() -> Self {
        Self {
            remaining: 0,
            messages: 0,
            header: [0; FrameHeader::MAX_LEN],
            collected: 0,
            ends_message: false,
            within_message: false,
            closed: false,
        }
    }

    /// Follows the next `bytes` of the stream.
    ///
    /// A header that cannot be one is an error once. From then on every position counts as inside
    /// a frame, at no cost, so a caller may go on or stop asking.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let length = bytes.len() as u64;
        if length < self.remaining {
            self.remaining -= length;
            return Ok(());
        }
        self.advance_over_headers(bytes)
    }

    /// Follows `bytes` up to where the frame at hand ends, and returns where that is; None: beyond
    /// them. As [`Self::advance`] otherwise.
    pub(crate) fn advance_to_boundary(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<usize>, FrameError> {
        self.advance_until(bytes, Self::at_boundary)
    }

    /// As [`Self::advance_to_boundary`], up to where no data message is under way either.
    pub(crate) fn advance_to_message_end(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<usize>, FrameError> {
        self.advance_until(bytes, Self::is_between_messages)
    }

    fn advance_until(
        &mut self,
        bytes: &[u8],
        is_there: impl Fn(&Self) -> bool,
    ) -> Result<Option<usize>, FrameError> {
        let mut used = 0;
        while !is_there(self) {
            if used == bytes.len() {
                return Ok(None);
            }
            // Of a header it is not known how long it is.
            let step = usize::try_from(self.remaining.max(1)).unwrap_or(usize::MAX);
            let step = step.min(bytes.len() - used);
            self.advance(&bytes[used..used + step])?;
            used += step;
        }
        Ok(Some(used))
    }

    /// Whether a Close frame, or its beginning, has passed.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Whether the stream is between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.remaining == 0 && self.collected == 0
    }

    /// Whether the stream is between two frames, and between two data messages.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.at_boundary() && !self.within_message
    }

    /// Data messages that have passed whole.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes at least the rest of the payload at hand from `bytes`.
    fn advance_over_headers(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        loop {
            let payload = usize::try_from(self.remaining)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            bytes = &bytes[payload..];
            self.remaining -= payload as u64;
            if self.remaining > 0 {
                return Ok(());
            }
            if std::mem::take(&mut self.ends_message) {
                self.messages += 1;
                self.within_message = false;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            match self.read_header(bytes) {
                Ok(Some((header, used))) => {
                    bytes = &bytes[used..];
                    self.remaining = header.payload_len;
                    let is_data = !header.opcode.is_control();
                    self.ends_message = header.fin && is_data;
                    self.within_message |= is_data;
                    self.closed |= header.opcode == Opcode::Close;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.remaining = LOST;
                    return Err(error);
                }
            }
        }
    }

    /// Reads one header and how many of `bytes` belong to it; what is only its beginning is kept.
    fn read_header(&mut self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, FrameError> {
        let collected = usize::from(self.collected);
        if collected == 0
            && let Some(header) = FrameHeader::parse(bytes)?
        {
            return Ok(Some((header, header.header_len)));
        }
        let more = bytes.len().min(FrameHeader::MAX_LEN - collected);
        let end = collected + more;
        self.header[collected..end].copy_from_slice(&bytes[..more]);
        match FrameHeader::parse(&self.header[..end])? {
            Some(header) => {
                self.collected = 0;
                Ok(Some((header, header.header_len - collected)))
            }
            None => {
                self.collected = u8::try_from(end).expect("a header is at most 14 bytes");
                Ok(None)
            }
        }
    }
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Longest payload whose length stands in the second byte.
const LONGEST_SHORT: u8 = 125;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;
/// More payload than any stream carries, and twice what a header can declare.
const LOST: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPCODES: [Opcode; 6] = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];

    fn parsed(bytes: &[u8]) -> FrameHeader {
        FrameHeader::parse(bytes).unwrap().unwrap()
    }

    #[test]
    fn the_headers_of_the_rfc_examples_are_read() {
        // RFC 6455 §5.7.
        let unmasked_text = parsed(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(
            unmasked_text,
            FrameHeader {
                fin: true,
                rsv: 0,
                opcode: Opcode::Text,
                mask: None,
                payload_len: 5,
                header_len: 2
            }
        );
        let masked_text = parsed(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f]);
        assert_eq!(masked_text.mask, Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked_text.header_len, 6);
        assert!(!parsed(&[0x01, 0x03, 0x48, 0x65, 0x6c]).fin);
        assert_eq!(parsed(&[0x80, 0x02]).opcode, Opcode::Continuation);
        assert_eq!(parsed(&[0x89, 0x05]).opcode, Opcode::Ping);
        assert_eq!(parsed(&[0x8a, 0x85, 0, 0, 0, 0]).opcode, Opcode::Pong);
        assert_eq!(parsed(&[0x82, 0x7e, 0x01, 0x00]).payload_len, 256);
        assert_eq!(
            parsed(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]).payload_len,
            65536
        );
    }

    #[test]
    fn the_masked_hello_of_the_rfc_is_unmasked() {
        let mut out = Vec::new();
        unmask_into(
            &mut out,
            &[0x7f, 0x9f, 0x4d, 0x51, 0x58],
            [0x37, 0xfa, 0x21, 0x3d],
            0,
        );
        assert_eq!(out, b"Hello");
    }

    #[test]
    fn the_masked_hello_of_the_rfc_is_written() {
        let mut out = Vec::new();
        encode_frame(
            &mut out,
            Opcode::Text,
            Some([0x37, 0xfa, 0x21, 0x3d]),
            b"Hello",
        );
        assert_eq!(
            out,
            [
                0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
            ]
        );
    }

    #[test]
    fn opcodes_that_nobody_defined_are_errors() {
        for opcode in (0x3..=0x7).chain(0xb..=0xf) {
            assert_eq!(
                FrameHeader::parse(&[0x80 | opcode, 0]),
                Err(FrameError::UnknownOpcode { opcode })
            );
        }
    }

    #[test]
    fn a_fragmented_control_frame_is_an_error() {
        assert_eq!(
            FrameHeader::parse(&[0x09, 0]),
            Err(FrameError::FragmentedControl)
        );
    }

    #[test]
    fn a_control_frame_over_125_bytes_is_an_error_before_its_length_arrives() {
        for length in [126, 127] {
            assert_eq!(
                FrameHeader::parse(&[0x88, length]),
                Err(FrameError::LongControl)
            );
        }
    }

    #[test]
    fn a_length_in_more_bytes_than_it_needs_is_an_error() {
        assert_eq!(
            FrameHeader::parse(&[0x82, 126, 0, 125]),
            Err(FrameError::LengthNotMinimal { length: 125 })
        );
        assert_eq!(
            FrameHeader::parse(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            Err(FrameError::LengthNotMinimal { length: 65535 })
        );
    }

    #[test]
    fn a_length_with_its_top_bit_set_is_an_error() {
        assert_eq!(
            FrameHeader::parse(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            Err(FrameError::LengthTooLarge { length: 1 << 63 })
        );
        let largest = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(parsed(&largest).payload_len, (1 << 63) - 1);
    }

    #[test]
    fn lengths_use_the_fewest_bytes_at_each_limit() {
        for (length, header_len) in [
            (0, 2),
            (125, 2),
            (126, 4),
            (255, 4),
            (256, 4),
            (65535, 4),
            (65536, 10),
        ] {
            let mut out = Vec::new();
            encode_header(&mut out, true, 0, Opcode::Binary, None, length);
            assert_eq!(out.len(), header_len, "{length}");
            assert_eq!(parsed(&out).payload_len, length as u64);
        }
    }

    /// Two pings around a text message of two frames, and a binary message.
    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(&mut out, Opcode::Ping, Some([1, 2, 3, 4]), b"");
        encode_header(&mut out, false, 0, Opcode::Text, None, 3);
        out.extend_from_slice(b"abc");
        encode_frame(&mut out, Opcode::Ping, None, b"12");
        encode_frame(&mut out, Opcode::Continuation, None, b"");
        encode_frame(&mut out, Opcode::Binary, Some([9; 4]), &[7; 300]);
        out
    }

    #[test]
    fn boundaries_count_the_data_messages_that_are_over() {
        let mut boundaries = Boundaries::new();
        let stream = stream();
        boundaries.advance(&stream[..stream.len() - 1]).unwrap();
        assert_eq!(boundaries.messages(), 1);
        assert!(!boundaries.at_boundary());
        boundaries.advance(&stream[stream.len() - 1..]).unwrap();
        assert_eq!(boundaries.messages(), 2);
        assert!(boundaries.at_boundary());
    }

    #[test]
    fn boundaries_know_whether_a_close_frame_has_passed() {
        let mut boundaries = Boundaries::new();
        boundaries.advance(&stream()).unwrap();
        assert!(!boundaries.closed());
        boundaries.advance(&[0x88, 0x80, 1, 2]).unwrap();
        assert!(!boundaries.closed(), "half a header");
        boundaries.advance(&[3, 4]).unwrap();
        assert!(boundaries.closed() && boundaries.at_boundary());
    }

    #[test]
    fn boundaries_accept_frames_of_extensions() {
        let mut boundaries = Boundaries::new();
        boundaries.advance(&[0xc2, 0x01, 0xff]).unwrap();
        assert!(boundaries.at_boundary());
    }

    #[test]
    fn boundaries_report_a_header_they_cannot_understand_once() {
        let mut boundaries = Boundaries::new();
        assert_eq!(
            boundaries.advance(b"\x81\x00GET / HTTP/1.1"),
            Err(FrameError::UnknownOpcode { opcode: 7 })
        );
        assert_eq!(boundaries.messages(), 1);
        for _ in 0..10 {
            assert_eq!(boundaries.advance(b"GET / HTTP/1.1"), Ok(()));
            assert!(!boundaries.at_boundary());
        }
    }

    proptest! {
        #[test]
        fn unmasking_is_the_naive_loop_at_every_offset(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            key in any::<[u8; 4]>(),
            offset in any::<usize>(),
            before in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut out = before.clone();
            unmask_into(&mut out, &payload, key, offset);
            let mut naive = before;
            naive.extend(
                payload.iter().enumerate().map(|(i, byte)| byte ^ key[(offset % 4 + i) % 4]),
            );
            prop_assert_eq!(out, naive);
        }

        #[test]
        fn a_header_reads_as_it_was_written(
            fin: bool,
            rsv in 0_u8..8,
            opcode in prop::sample::select(&OPCODES[..]),
            mask: Option<[u8; 4]>,
            length in prop_oneof![0_usize..300, 65000_usize..66000, any::<u32>().prop_map(|n| n as usize)],
        ) {
            let fin = fin || opcode.is_control();
            let length = if opcode.is_control() { length % 126 } else { length };
            let mut out = Vec::new();
            encode_header(&mut out, fin, rsv, opcode, mask, length);
            let header_len = out.len();
            for cut in 0..header_len {
                prop_assert_eq!(FrameHeader::parse(&out[..cut]), Ok(None));
            }
            let expected = FrameHeader {
                fin, rsv, opcode, mask, payload_len: length as u64, header_len,
            };
            prop_assert_eq!(FrameHeader::parse(&out), Ok(Some(expected)));
            out.push(0xff);
            prop_assert_eq!(FrameHeader::parse(&out), Ok(Some(expected)));
        }

        #[test]
        fn boundaries_do_not_depend_on_how_the_stream_is_read(
            cuts in prop::collection::vec(1_usize..40, 0..50),
        ) {
            let stream = stream();
            let ends = [6, 11, 15, 17, stream.len()];
            let mut boundaries = Boundaries::new();
            let mut at = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                let end = (at + cut).min(stream.len());
                boundaries.advance(&stream[at..end]).unwrap();
                at = end;
                prop_assert_eq!(boundaries.at_boundary(), at == 0 || ends.contains(&at));
            }
            prop_assert_eq!(boundaries.messages(), 2);
        }

        #[test]
        fn the_next_boundary_is_found_from_wherever_the_stream_was_left(left in 0_usize..340) {
            let stream = stream();
            let left = left.min(stream.len());
            let ends = [0, 6, 11, 15, 17, stream.len()];
            let expected = ends.iter().find(|end| **end >= left).unwrap() - left;
            let mut boundaries = Boundaries::new();
            boundaries.advance(&stream[..left]).unwrap();
            prop_assert_eq!(boundaries.advance_to_boundary(&stream[left..]), Ok(Some(expected)));
            prop_assert!(boundaries.at_boundary());
            if expected > 0 {
                let mut boundaries = Boundaries::new();
                boundaries.advance(&stream[..left]).unwrap();
                let cut = &stream[left..left + expected - 1];
                prop_assert_eq!(boundaries.advance_to_boundary(cut), Ok(None));
            }
        }

        #[test]
        fn random_bytes_never_make_boundaries_panic(
            reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
        ) {
            let mut boundaries = Boundaries::new();
            let mut errors = 0;
            for read in reads {
                errors += usize::from(boundaries.advance(&read).is_err());
            }
            prop_assert!(errors <= 1);
        }
    }
}
