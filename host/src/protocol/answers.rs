//! The answers to pings of the proxy's own, on a stream that it otherwise relays as it is.
//!
//! When to ping, and what to make of silence, is for `proxy/liveness.rs`.

use super::frame::{FrameHeader, Opcode};

/// What the proxy's pings of one session carry, and by which their pongs are known (RFC 6455 §5.5.3).
/// As short as it is, nobody sends it by chance.
pub(crate) type Token = [u8; 8];

/// Takes pongs that carry a token out of a stream of frames. Of all other frames it reads headers
/// only, and passes them on as they came.
///
/// At most one header, or one pong that may be an answer, is held back until it is whole.
#[derive(Debug)]
pub(crate) struct AnswerSieve {
    token: Token,
    /// Bytes of payload that pass before the next header; [`LOST`] once one was not understood.
    remaining: u64,
    /// The first `held` bytes of a frame of which it is not known yet whether it passes.
    frame: [u8; LONGEST],
    held: u8,
}

/// What the beginning of a frame shows.
enum Verdict {
    /// More bytes are needed.
    Open,
    /// An answer of this many bytes.
    Answer(usize),
    /// So many bytes pass, and so many of payload after them.
    Passes(usize, u64),
}

impl AnswerSieve {
    /// Begins between two frames.
    pub(crate) fn new(token: Token) -> Self {
        Self {
            token,
            remaining: 0,
            frame: [0; LONGEST],
            held: 0,
        }
    }

    /// Returns what of the next `bytes`, and of those held back before, goes on: a part of `bytes` if
    /// it is in one piece, else put together in `scratch`.
    ///
    /// From a header that cannot be one on, everything passes.
    pub(crate) fn sift<'a>(&mut self, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.clear();
        // What passes and is not in `scratch`.
        let mut piece = 0..0;
        while piece.end < bytes.len() {
            let payload = usize::try_from(self.remaining).unwrap_or(usize::MAX);
            let payload = payload.min(bytes.len() - piece.end);
            piece.end += payload;
            self.remaining -= payload as u64;
            let rest = &bytes[piece.end..];
            if rest.is_empty() {
                break;
            }
            let held = usize::from(self.held);
            let fresh = rest.len().min(LONGEST - held);
            self.frame[held..held + fresh].copy_from_slice(&rest[..fresh]);
            self.held = 0;
            match self.judge(held + fresh) {
                Verdict::Open => {
                    self.held = u8::try_from(held + fresh).expect("a frame held is 14 bytes");
                    break;
                }
                Verdict::Answer(length) => {
                    scratch.extend_from_slice(&bytes[piece.clone()]);
                    let after = piece.end + length - held;
                    piece = after..after;
                }
                Verdict::Passes(length, payload) => {
                    // Something is held only where `bytes` begin.
                    scratch.extend_from_slice(&self.frame[..held]);
                    piece.end += length - held;
                    self.remaining = payload;
                }
            }
        }
        if scratch.is_empty() {
            return &bytes[piece];
        }
        scratch.extend_from_slice(&bytes[piece]);
        scratch
    }

    /// Returns what is held back. At the end of the stream it passes, since nothing can follow.
    pub(crate) fn held(&self) -> &[u8] {
        &self.frame[..usize::from(self.held)]
    }

    /// Judges a frame by its first `known` bytes, which are all if they are [`LONGEST`].
    fn judge(&self, known: usize) -> Verdict {
        let known = &self.frame[..known];
        let header = match FrameHeader::parse(known) {
            Ok(Some(header)) => header,
            Ok(None) => return Verdict::Open,
            Err(_) => return Verdict::Passes(known.len(), LOST),
        };
        let is_answer = header.opcode == Opcode::Pong
            && header.rsv == 0
            && header.payload_len == self.token.len() as u64;
        if !is_answer {
            return Verdict::Passes(header.header_len, header.payload_len);
        }
        let length = header.header_len + self.token.len();
        let Some(payload) = known.get(header.header_len..length) else {
            return Verdict::Open;
        };
        let key = header.mask.unwrap_or_default();
        let unmasked = payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b);
        if unmasked.eq(self.token) {
            Verdict::Answer(length)
        } else {
            Verdict::Passes(length, 0)
        }
    }
}

/// A masked pong with a token; no header is longer.
const LONGEST: usize = 2 + 4 + size_of::<Token>();
const _: () = assert!(LONGEST >= FrameHeader::MAX_LEN);

/// More payload than any stream carries.
const LOST: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::encode_frame;
    use super::*;

    const TOKEN: Token = *b"\x00token\xff!";

    fn sifted(sieve: &mut AnswerSieve, bytes: &[u8]) -> Vec<u8> {
        sieve.sift(bytes, &mut Vec::new()).to_vec()
    }

    fn frame(opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(&mut out, opcode, mask, payload);
        out
    }

    #[test]
    fn only_pongs_with_the_token_are_taken() {
        let mut sieve = AnswerSieve::new(TOKEN);
        for mask in [None, Some([7, 0, 9, 255])] {
            let answer = frame(Opcode::Pong, mask, &TOKEN);
            assert!(sifted(&mut sieve, &answer).is_empty());
            for (opcode, payload) in [
                (Opcode::Pong, &TOKEN[..7]),
                (Opcode::Pong, b"\x00token\xff?"),
                (Opcode::Pong, b""),
                (Opcode::Ping, &TOKEN),
                (Opcode::Text, &TOKEN),
                (Opcode::Close, b"\x03\xe9"),
            ] {
                let frame = frame(opcode, mask, payload);
                assert_eq!(sifted(&mut sieve, &frame), frame);
            }
        }
    }

    #[test]
    fn what_cannot_be_an_answer_is_not_held_back() {
        let mut sieve = AnswerSieve::new(TOKEN);
        let message = frame(Opcode::Binary, Some([1, 2, 3, 4]), &[0; 1000]);
        assert_eq!(sifted(&mut sieve, &message[..8]), message[..8]);
        assert_eq!(sifted(&mut sieve, &message[8..700]), message[8..700]);
        assert_eq!(sifted(&mut sieve, &message[700..]), message[700..]);
        assert!(sieve.held().is_empty());
    }

    #[test]
    fn a_stream_in_one_piece_is_not_copied() {
        let mut stream = frame(Opcode::Pong, None, &TOKEN);
        stream.extend(frame(Opcode::Text, None, b"hello"));
        stream.extend(&TOKEN[..1]);
        let mut scratch = Vec::new();
        let mut sieve = AnswerSieve::new(TOKEN);
        let passed = sieve.sift(&stream, &mut scratch).as_ptr_range();
        assert!(stream.as_ptr_range().contains(&passed.start));
    }

    #[test]
    fn from_what_is_no_frame_on_everything_passes() {
        let mut sieve = AnswerSieve::new(TOKEN);
        let mut stream = b"\x81\x00GET / HTTP/1.1\r\n\r\n".to_vec();
        stream.extend(frame(Opcode::Pong, None, &TOKEN));
        assert_eq!(sifted(&mut sieve, &stream[..3]), stream[..2]);
        assert_eq!(sifted(&mut sieve, &stream[3..]), stream[2..]);
    }

    proptest! {
        #[test]
        fn however_it_is_read_the_stream_loses_its_answers_and_nothing_else(
            frames in prop::collection::vec(
                (
                    prop_oneof![
                        Just((Opcode::Pong, TOKEN.to_vec())),
                        (
                            prop::sample::select(vec![
                                Opcode::Continuation, Opcode::Text, Opcode::Binary,
                                Opcode::Close, Opcode::Ping, Opcode::Pong,
                            ]),
                            prop::collection::vec(any::<u8>(), 0..20),
                        ),
                        Just((Opcode::Binary, vec![0x8a; 300])),
                    ],
                    any::<Option<[u8; 4]>>(),
                ),
                0..12,
            ),
            cuts in prop::collection::vec(1_usize..40, 0..200),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for ((opcode, payload), mask) in frames {
                let frame = frame(opcode, mask, &payload);
                stream.extend_from_slice(&frame);
                if opcode != Opcode::Pong || payload != TOKEN {
                    expected.extend_from_slice(&frame);
                }
            }
            let mut sieve = AnswerSieve::new(TOKEN);
            let mut passed = Vec::new();
            let mut at = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                let end = (at + cut).min(stream.len());
                passed.extend(sifted(&mut sieve, &stream[at..end]));
                at = end;
            }
            prop_assert!(sieve.held().is_empty());
            prop_assert_eq!(passed, expected);
        }

        #[test]
        fn random_bytes_neither_panic_nor_get_lost(
            reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
        ) {
            let mut sieve = AnswerSieve::new(TOKEN);
            let mut passed = Vec::new();
            for read in &reads {
                passed.extend(sifted(&mut sieve, read));
            }
            passed.extend_from_slice(sieve.held());
            prop_assert_eq!(passed, reads.concat());
        }
    }
}
