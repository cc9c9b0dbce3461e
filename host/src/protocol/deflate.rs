//! Messages compressed and decompressed, each on its own (RFC 7692 §7.2).
//!
//! Neither side takes context over from one message to the next, so one [`Codec`] serves all sessions
//! of a worker. What the two ends may agree on is in `extensions.rs`; which message is worth the
//! work, in `proxy/filter/`.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

use super::extensions::{LARGEST_WINDOW, SMALLEST_WINDOW};

/// Why a compressed message could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum InflateError {
    #[error("compressed message is not DEFLATE data, or ends too soon")]
    Malformed,
    #[error("compressed message is over {limit} bytes once inflated")]
    TooLong { limit: usize },
}

/// Returns how many bytes a message of at most `max_message` bytes may take compressed: what cannot
/// be compressed grows a little (by an eighth in the worst of codes).
pub(crate) fn longest_compressed(max_message: usize) -> usize {
    max_message
        .saturating_add(max_message / 8)
        .saturating_add(64)
}

/// Both directions of the work, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Codec {
    pub(crate) inflater: Inflater,
    pub(crate) deflater: Deflater,
}

/// Decompresses messages.
#[derive(Debug, Default)]
pub(crate) struct Inflater {
    /// With the largest window, which reads what was written with any.
    stream: Option<Decompress>,
    out: Vec<u8>,
}

/// Compresses messages.
#[derive(Debug, Default)]
pub(crate) struct Deflater {
    /// By window: 9 bits first.
    streams: [Option<Compress>; 7],
    out: Vec<u8>,
}

impl Codec {
    /// Gives back what a long message made buffers larger than `kept` bytes for.
    pub(crate) fn shrink_to(&mut self, kept: usize) {
        self.inflater.out.shrink_to(kept);
        self.deflater.out.shrink_to(kept);
    }
}

impl Inflater {
    /// Inflates the payload of a whole message. What it inflates to is bounded while it does: no
    /// more than `limit` bytes and one are ever made room for here.
    pub(crate) fn inflate(
        &mut self,
        compressed: &[u8],
        limit: usize,
    ) -> Result<&[u8], InflateError> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        stream.reset(false);
        let out = &mut self.out;
        out.clear();
        let expected = compressed.len().saturating_mul(4).max(MIN_ROOM);
        out.reserve_exact(expected.min(limit.saturating_add(1)));
        let ended = inflate_piece(stream, compressed, out, limit)?;
        // A message may also end with a final block and nothing after it.
        if ended == Ended::Inside && inflate_piece(stream, &REMOVED, out, limit)? == Ended::Inside {
            return Err(InflateError::Malformed);
        }
        Ok(out)
    }
}

/// Where a piece of a message left the stream.
#[derive(PartialEq)]
enum Ended {
    /// More can follow.
    Inside,
    /// Exactly at the end of a final block.
    AtFinalBlock,
}

fn inflate_piece(
    stream: &mut Decompress,
    mut piece: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<Ended, InflateError> {
    loop {
        if out.len() == out.capacity() {
            let room = out.len().saturating_mul(2).max(MIN_ROOM);
            let room = room.min(limit.saturating_add(1));
            out.reserve_exact(room - out.len());
        }
        let before = stream.total_in();
        let status = stream
            .decompress_vec(piece, out, FlushDecompress::None)
            .map_err(|_| InflateError::Malformed)?;
        if out.len() > limit {
            return Err(InflateError::TooLong { limit });
        }
        let used = usize::try_from(stream.total_in() - before).unwrap_or(usize::MAX);
        piece = piece.get(used..).unwrap_or_default();
        match status {
            Status::StreamEnd if piece.is_empty() => return Ok(Ended::AtFinalBlock),
            // Blocks may follow a final one (RFC 7692 §7.2.3.4), and refer to what came before it.
            Status::StreamEnd => {
                stream.reset(false);
                let window = out.len().saturating_sub(WINDOW);
                stream
                    .set_dictionary(&out[window..])
                    .map_err(|_| InflateError::Malformed)?;
            }
            Status::Ok | Status::BufError if out.len() == out.capacity() => {}
            Status::Ok | Status::BufError => return Ok(Ended::Inside),
        }
    }
}

/// Decompresses one message piece by piece, for whoever does not need it whole: what cannot be held.
///
/// It takes some 110 KiB while its message lasts.
#[derive(Debug)]
pub(crate) struct PieceInflater {
    stream: Decompress,
    /// What was inflated last: a window of what was taken, then from `taken` on what was not.
    out: Vec<u8>,
    taken: usize,
    /// All that the message has been inflated to so far, in bytes.
    total: usize,
    at_final_block: bool,
    /// Bytes of [`REMOVED`] that were put back.
    restored: usize,
}

/// What [`PieceInflater::inflate`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that were used of those given.
    pub(crate) used: usize,
    /// There is more to be had from the rest of them, though it may be empty.
    pub(crate) has_more: bool,
}

impl PieceInflater {
    /// Begins with a message.
    pub(crate) fn new() -> Self {
        Self {
            stream: Decompress::new(false),
            out: Vec::with_capacity(WINDOW + PIECE),
            taken: 0,
            total: 0,
            at_final_block: false,
            restored: 0,
        }
    }

    /// Inflates the next bytes of the message, until they are used up or as much has come of them as
    /// there is room for. `is_last`: the message ends with them.
    pub(crate) fn inflate(
        &mut self,
        compressed: &[u8],
        is_last: bool,
    ) -> Result<Progress, InflateError> {
        let outdated = self.taken.min(self.out.len().saturating_sub(WINDOW));
        self.out.drain(..outdated);
        self.taken -= outdated;
        let before = self.out.len();
        let used = self.run(compressed)?;
        let ends = is_last && used == compressed.len() && self.has_room();
        // A message may also end with a final block and nothing after it.
        if ends && !(self.restored == 0 && self.at_final_block) {
            self.restored += self.run(&REMOVED[self.restored..])?;
            if self.has_room() && !self.at_final_block {
                return Err(InflateError::Malformed);
            }
        }
        self.total = self.total.saturating_add(self.out.len() - before);
        Ok(Progress {
            used,
            has_more: !self.has_room(),
        })
    }

    /// Returns what was inflated and not taken.
    pub(crate) fn piece(&self) -> &[u8] {
        &self.out[self.taken..]
    }

    /// Takes from the front of [`Self::piece`]: all but a few bytes, before the next call.
    pub(crate) fn take(&mut self, length: usize) {
        self.taken += length;
    }

    /// Returns how many bytes the message has been inflated to so far.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    fn has_room(&self) -> bool {
        self.out.len() < self.out.capacity()
    }

    fn run(&mut self, compressed: &[u8]) -> Result<usize, InflateError> {
        let mut used = 0;
        loop {
            let rest = &compressed[used..];
            if self.at_final_block {
                if rest.is_empty() {
                    return Ok(used);
                }
                // As in `inflate_piece`.
                self.stream.reset(false);
                let window = self.out.len().saturating_sub(WINDOW);
                self.stream
                    .set_dictionary(&self.out[window..])
                    .map_err(|_| InflateError::Malformed)?;
                self.at_final_block = false;
            }
            let before = self.stream.total_in();
            let status = self
                .stream
                .decompress_vec(rest, &mut self.out, FlushDecompress::None)
                .map_err(|_| InflateError::Malformed)?;
            used += usize::try_from(self.stream.total_in() - before).unwrap_or(rest.len());
            self.at_final_block = status == Status::StreamEnd;
            if !self.at_final_block || !self.has_room() {
                return Ok(used);
            }
        }
    }
}

impl Deflater {
    /// Compresses a payload for a peer whose window has `window_bits`. Nothing if that does not make
    /// it shorter: any message may be sent as it is (RFC 7692 §6.1).
    pub(crate) fn deflate(&mut self, payload: &[u8], window_bits: u8) -> Option<&[u8]> {
        // What fits the window refers to nothing outside it, whatever it was compressed with.
        let bits = if payload.len() <= 1 << window_bits {
            LARGEST_WINDOW
        } else {
            window_bits
        };
        // The one window that zlib cannot make, of 8 bits, has no place here.
        let stream = self.streams.get_mut(usize::from(bits.checked_sub(9)?))?;
        let stream =
            stream.get_or_insert_with(|| Compress::new_with_window_bits(LEVEL, false, bits));
        stream.reset();
        self.out.clear();
        self.out.reserve(payload.len());
        stream
            .compress_vec(payload, &mut self.out, FlushCompress::Sync)
            .ok()?;
        if stream.total_in() < payload.len() as u64 || self.out.len() == self.out.capacity() {
            // What does not fit is too long.
            return None;
        }
        let deflated = self.out.strip_suffix(&REMOVED[..4])?;
        (deflated.len() < payload.len()).then_some(deflated)
    }
}

/// What every message ends with and is sent without, the end of an empty stored block
/// (RFC 7692 §7.2.1), and an empty final block: only a message that was whole reads that as such.
const REMOVED: [u8; 6] = [0x00, 0x00, 0xff, 0xff, 0x03, 0x00];

/// How far back a message may refer to itself.
const WINDOW: usize = 1 << LARGEST_WINDOW;

/// What there is room for beside the window, where a message is not inflated whole.
const PIECE: usize = 32 * 1024;

/// Room made for a message at first, in bytes.
const MIN_ROOM: usize = 1024;

/// For a chat message of 1 KiB, level 1 takes half the time of the levels above it (7 µs for 14) and
/// saves 56% where they save 70%.
const LEVEL: Compression = Compression::new(1);

const _: () = assert!(SMALLEST_WINDOW == 8 && LARGEST_WINDOW == 15);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn inflated(compressed: &[u8]) -> Result<Vec<u8>, InflateError> {
        let mut inflater = Inflater::default();
        inflater.inflate(compressed, MAX).map(<[u8]>::to_vec)
    }

    /// Text with repetitions far apart, so that large windows find what small ones do not.
    fn text(length: usize) -> Vec<u8> {
        let words = (0_u32..).map(|n| format!("word {} ", n.wrapping_mul(2_654_435_761) >> 21));
        words.flat_map(String::into_bytes).take(length).collect()
    }

    /// Text that repeats itself at once, but not again.
    fn pairs(length: usize) -> Vec<u8> {
        let pairs = (0_u32..).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761)).repeat(2));
        pairs.flat_map(String::into_bytes).take(length).collect()
    }

    #[test]
    fn the_hello_of_the_rfc_is_inflated() {
        // RFC 7692 §7.2.3.1, and two blocks of §7.2.3.3, .4 and .5.
        for compressed in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(
                inflated(compressed),
                Ok(b"Hello".to_vec()),
                "{compressed:x?}"
            );
        }
        // What a final block ends needs nothing after it.
        let final_block = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(in_pieces(&final_block, 2), Ok(b"Hello".to_vec()));
        assert_eq!(
            inflated(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
            Ok(b"Hello".to_vec())
        );
        assert_eq!(inflated(&[0x00]), Ok(Vec::new()));
    }

    #[test]
    fn blocks_after_a_final_one_may_refer_to_what_came_before_it() {
        let payload = text(300);
        let mut first = Compress::new(Compression::best(), false);
        let mut compressed = Vec::with_capacity(1000);
        let whole = FlushCompress::Finish;
        first
            .compress_vec(&payload, &mut compressed, whole)
            .unwrap();
        let mut second = Compress::new(Compression::best(), false);
        second.set_dictionary(&payload).unwrap();
        let mut rest = Vec::with_capacity(1000);
        second
            .compress_vec(&payload, &mut rest, FlushCompress::Sync)
            .unwrap();
        assert!(rest.len() < 30);
        compressed.extend_from_slice(rest.strip_suffix(&REMOVED[..4]).unwrap());
        let twice = [&payload[..], &payload].concat();
        assert_eq!(inflated(&compressed), Ok(twice.clone()));
        for step in [1, 50, 1000] {
            assert_eq!(in_pieces(&compressed, step), Ok(twice.clone()));
        }
    }

    #[test]
    fn what_is_not_deflate_data_or_not_whole_is_refused() {
        let mut deflater = Deflater::default();
        let payload = text(2000);
        let compressed = deflater.deflate(&payload, 15).unwrap();
        assert_eq!(inflated(compressed).as_deref(), Ok(&payload[..]));
        for end in 0..compressed.len() {
            assert_eq!(
                inflated(&compressed[..end]),
                Err(InflateError::Malformed),
                "{end}"
            );
        }
        for garbage in [
            &[0xff][..],
            &[0x07, 1, 2],
            b"",
            b"Hello",
            &[0x00, 5, 0, 0, 0],
        ] {
            assert_eq!(
                inflated(garbage),
                Err(InflateError::Malformed),
                "{garbage:x?}"
            );
        }
        // A reference to before the message: there is no context.
        let mut stream = Compress::new(Compression::best(), false);
        stream.set_dictionary(&payload).unwrap();
        let mut out = Vec::with_capacity(2000);
        stream
            .compress_vec(&payload, &mut out, FlushCompress::Sync)
            .unwrap();
        assert_eq!(
            inflated(&out[..out.len() - 4]),
            Err(InflateError::Malformed)
        );
    }

    /// Inflates in pieces, given `step` bytes at once.
    fn in_pieces(compressed: &[u8], step: usize) -> Result<Vec<u8>, InflateError> {
        let mut inflater = PieceInflater::new();
        let mut out = Vec::new();
        let mut steps = compressed.chunks(step).peekable();
        let nothing: &[u8] = &[];
        let mut rest = steps.next().unwrap_or(nothing);
        loop {
            let is_last = steps.peek().is_none();
            let progress = inflater.inflate(rest, is_last)?;
            rest = &rest[progress.used..];
            // A few bytes may be left, as of a character that is cut off.
            let piece = inflater.piece();
            let taken = if progress.has_more || !is_last {
                piece.len().saturating_sub(3)
            } else {
                piece.len()
            };
            assert!(piece.len() <= WINDOW + PIECE);
            out.extend_from_slice(&piece[..taken]);
            inflater.take(taken);
            if !progress.has_more {
                match steps.next() {
                    Some(next) => rest = next,
                    None => break,
                }
            }
        }
        assert_eq!(inflater.total(), out.len());
        assert!(inflater.out.capacity() <= WINDOW + PIECE);
        Ok(out)
    }

    #[test]
    fn what_is_inflated_in_pieces_is_what_is_inflated_whole() {
        let mut deflater = Deflater::default();
        for length in [0, 1, 500, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 1 << 20] {
            for payload in [text(length), vec![7; length]] {
                let compressed = deflater.deflate(&payload, 15).unwrap_or(&[0x00]);
                let expected = inflated(compressed);
                for step in [1, 7, 1000, usize::MAX] {
                    assert!(in_pieces(compressed, step) == expected, "{length} {step}");
                }
                for end in (0..compressed.len()).step_by(compressed.len() / 20 + 1) {
                    let cut = &compressed[..end];
                    assert_eq!(in_pieces(cut, 100), inflated(cut), "{length} {end}");
                }
            }
        }
        assert_eq!(in_pieces(&[0xff], 1), Err(InflateError::Malformed));
    }

    #[test]
    fn a_gigabyte_of_zeros_is_refused_within_the_limit() {
        let mut stream = Compress::new(Compression::best(), false);
        let zeros = vec![0; 1 << 20];
        let mut bomb = Vec::with_capacity(2 << 20);
        for _ in 0..1024 {
            stream
                .compress_vec(&zeros, &mut bomb, FlushCompress::None)
                .unwrap();
        }
        stream
            .compress_vec(&[], &mut bomb, FlushCompress::Sync)
            .unwrap();
        assert_eq!(stream.total_in(), 1 << 30);
        assert!(bomb.len() < 2 << 20);
        let mut inflater = Inflater::default();
        for limit in [0, 1, 1000, 65_536, MAX] {
            assert_eq!(
                inflater.inflate(&bomb, limit),
                Err(InflateError::TooLong { limit })
            );
            assert!(inflater.out.capacity() <= (limit + 1).max(MIN_ROOM));
        }
    }

    #[test]
    fn a_message_may_be_exactly_as_long_as_the_limit() {
        let mut codec = Codec::default();
        for length in [1, 1023, 1024, 1025, 5000] {
            let payload = vec![7; length];
            let compressed = codec
                .deflater
                .deflate(&payload, 15)
                .unwrap_or(&[0x62, 0x07, 0x00]);
            assert_eq!(
                codec.inflater.inflate(compressed, length).map(<[u8]>::len),
                Ok(length)
            );
            let limit = length - 1;
            let too_long = Err(InflateError::TooLong { limit });
            assert_eq!(codec.inflater.inflate(compressed, limit), too_long);
        }
    }

    #[test]
    fn what_would_not_get_shorter_is_not_compressed() {
        let mut deflater = Deflater::default();
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        });
        let noise: Vec<u8> = noise.take(5000).collect();
        assert_eq!(deflater.deflate(&noise, 15), None);
        assert_eq!(deflater.deflate(b"", 15), None);
        // What was given up leaves no trace.
        let payload = text(500);
        let compressed = deflater.deflate(&payload, 15).unwrap();
        assert_eq!(inflated(compressed), Ok(payload));
    }

    #[test]
    fn a_small_window_is_kept_to() {
        let mut deflater = Deflater::default();
        let mut deflated = |payload: &[u8], bits| deflater.deflate(payload, bits).unwrap().len();
        for bits in 9..=15 {
            // The second half could refer to the first, were that not just out of sight.
            let half = pairs((1 << bits) + 300);
            let whole = half.repeat(2);
            let (one, two) = (deflated(&half, bits), deflated(&whole, bits));
            assert!(two > one * 19 / 10, "{bits}: {one}, {two}");
            if bits < 15 {
                let larger = deflated(&whole, 15);
                assert!(larger < one * 17 / 10, "{bits}: {one}, {larger}");
            }
        }
    }

    #[test]
    fn a_window_of_8_bits_is_kept_to_by_what_fits_it() {
        let mut deflater = Deflater::default();
        // zlib has no window of 8 bits, but a short message needs none.
        let short = &b"again and again and again ".repeat(10)[..256];
        assert!(deflater.deflate(short, 8).is_some());
        assert_eq!(deflater.deflate(&[0; 257], 8), None);
    }

    #[test]
    fn what_cannot_be_compressed_still_fits_the_longest_compressed_message() {
        assert_eq!(longest_compressed(usize::MAX), usize::MAX);
        for length in [1, 100, 10_000, 100_000] {
            let mut state = 1_u32;
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3] | 0x90
            })
            .take(length)
            .collect();
            for level in 0..10 {
                let mut stream = Compress::new(Compression::new(level), false);
                let mut out = Vec::with_capacity(2 * length + 100);
                stream
                    .compress_vec(&noise, &mut out, FlushCompress::Sync)
                    .unwrap();
                assert!(out.len() <= longest_compressed(length), "{length} {level}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_deflated_inflates_to_the_same(
            messages in prop::collection::vec(
                (prop::collection::vec(prop::sample::select(&b"abc \0\xff"[..]), 0..3000), 8..=15_u8),
                1..6,
            ),
        ) {
            let mut codec = Codec::default();
            for (payload, bits) in messages {
                if let Some(compressed) = codec.deflater.deflate(&payload, bits) {
                    prop_assert!(compressed.len() < payload.len());
                    prop_assert_eq!(codec.inflater.inflate(compressed, MAX), Ok(&payload[..]));
                }
            }
        }

        #[test]
        fn random_bytes_never_panic_and_never_take_more_room_than_allowed(
            compressed in prop::collection::vec(any::<u8>(), 0..300),
            limit in 0_usize..3000,
        ) {
            let mut inflater = Inflater::default();
            if let Ok(payload) = inflater.inflate(&compressed, limit) {
                prop_assert!(payload.len() <= limit);
            }
            prop_assert!(inflater.out.capacity() <= (limit + 1).max(MIN_ROOM));
        }
    }
}
