//! DEFLATE as RFC 1951 writes it, one bit at a time: slow, plain, and strict about the window. Making
//! compressed messages is left to a library.

use std::collections::HashMap;

use flate2::{Compress, Compression, FlushCompress};

/// Why a message cannot be inflated.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    /// Not DEFLATE, not whole, or a reference to before the window.
    Malformed,
    TooLong,
}

/// What every message ends with and is sent without (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Inflates the messages of one direction.
pub(super) struct Inflater {
    window: usize,
    takes_over: bool,
    history: Vec<u8>,
}

impl Inflater {
    pub(super) fn new(window_bits: u8, takes_over: bool) -> Self {
        Self {
            window: 1 << window_bits,
            takes_over,
            history: Vec::new(),
        }
    }

    /// Inflates a message of up to `limit` bytes.
    pub(super) fn inflate(&mut self, message: &[u8], limit: usize) -> Result<Vec<u8>, Problem> {
        if !self.takes_over {
            self.history.clear();
        }
        let start = self.history.len();
        let wire = [message, &TAIL].concat();
        let mut bits = Bits {
            bytes: &wire,
            at: 0,
        };
        while !bits.is_at_end() {
            let is_final = bits.take(1)? == 1;
            match bits.take(2)? {
                0 => stored(&mut bits, &mut self.history)?,
                1 => self.block(&mut bits, &Codes::fixed(), start + limit)?,
                2 => {
                    let codes = Codes::dynamic(&mut bits)?;
                    self.block(&mut bits, &codes, start + limit)?;
                }
                _ => return Err(Problem::Malformed),
            }
            if self.history.len() > start + limit {
                return Err(Problem::TooLong);
            }
            if is_final {
                // What follows begins with the next byte (RFC 7692 §7.2.3.4).
                bits.align();
            }
        }
        let inflated = self.history[start..].to_vec();
        let kept = self.history.len().saturating_sub(self.window);
        self.history.drain(..kept);
        Ok(inflated)
    }

    /// Reads a compressed block (RFC 1951 §3.2.3).
    fn block(&mut self, bits: &mut Bits, codes: &Codes, most: usize) -> Result<(), Problem> {
        loop {
            let symbol = match bits.symbol(&codes.literals)? {
                literal @ 0..=255 => {
                    self.history.push(literal as u8);
                    continue;
                }
                256 => return Ok(()),
                symbol => usize::from(symbol - 257),
            };
            let (base, extra) = LENGTHS.get(symbol).ok_or(Problem::Malformed)?;
            let length = usize::from(*base) + bits.take(*extra)?;
            let symbol = usize::from(bits.symbol(&codes.distances)?);
            let (base, extra) = DISTANCES.get(symbol).ok_or(Problem::Malformed)?;
            let distance = usize::from(*base) + bits.take(*extra)?;
            let from = self.history.len().checked_sub(distance);
            let from = from.filter(|_| distance <= self.window);
            let from = from.ok_or(Problem::Malformed)?;
            for at in from..from + length {
                self.history.push(self.history[at]);
            }
            if self.history.len() > most {
                return Err(Problem::TooLong);
            }
        }
    }
}

/// Reads a block that is not compressed (RFC 1951 §3.2.4).
fn stored(bits: &mut Bits, out: &mut Vec<u8>) -> Result<(), Problem> {
    bits.align();
    let (length, complement) = (bits.take(16)?, bits.take(16)?);
    if length != complement ^ 0xffff {
        return Err(Problem::Malformed);
    }
    for _ in 0..length {
        out.push(bits.take(8)? as u8);
    }
    Ok(())
}

/// Bits of a message, lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u8) -> Result<usize, Problem> {
        let mut number = 0;
        for place in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(Problem::Malformed)?;
            number |= usize::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Ok(number)
    }

    fn symbol(&mut self, codes: &HashMap<(u8, u16), u16>) -> Result<u16, Problem> {
        let mut code = 0;
        for length in 1..=15 {
            code = code << 1 | self.take(1)? as u16;
            if let Some(symbol) = codes.get(&(length, code)) {
                return Ok(*symbol);
            }
        }
        Err(Problem::Malformed)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len() * 8
    }
}

/// Huffman codes by length and bits.
struct Codes {
    literals: HashMap<(u8, u16), u16>,
    distances: HashMap<(u8, u16), u16>,
}

impl Codes {
    /// RFC 1951 §3.2.6.
    fn fixed() -> Self {
        let literals = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
        Self {
            literals: huffman(&literals),
            distances: huffman(&[5; 30]),
        }
    }

    /// RFC 1951 §3.2.7.
    fn dynamic(bits: &mut Bits) -> Result<Self, Problem> {
        let (literals, distances) = (bits.take(5)? + 257, bits.take(5)? + 1);
        let mut order = [0; 19];
        for place in ORDER.iter().take(bits.take(4)? + 4) {
            order[*place] = bits.take(3)? as u8;
        }
        let codes = huffman(&order);
        let mut lengths: Vec<u8> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, count) = match bits.symbol(&codes)? {
                16 => (
                    *lengths.last().ok_or(Problem::Malformed)?,
                    3 + bits.take(2)?,
                ),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length as u8, 1),
            };
            lengths.extend(vec![length; count]);
        }
        if lengths.len() > literals + distances {
            return Err(Problem::Malformed);
        }
        Ok(Self {
            literals: huffman(&lengths[..literals]),
            distances: huffman(&lengths[literals..]),
        })
    }
}

/// Gives each symbol the next code of its length (RFC 1951 §3.2.2).
fn huffman(lengths: &[u8]) -> HashMap<(u8, u16), u16> {
    let mut codes = HashMap::new();
    let mut code = 0;
    for length in 1..=15 {
        code <<= 1;
        for symbol in (0..).zip(lengths).filter(|(_, found)| **found == length) {
            codes.insert((length, code), symbol.0);
            code += 1;
        }
    }
    codes
}

/// Base and extra bits of lengths (RFC 1951 §3.2.5).
#[rustfmt::skip]
const LENGTHS: [(u16, u8); 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1),
    (19, 2), (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4),
    (115, 4), (131, 5), (163, 5), (195, 5), (227, 5), (258, 0),
];

/// The same of distances.
#[rustfmt::skip]
const DISTANCES: [(u16, u8); 30] = [
    (1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (9, 2), (13, 2), (17, 3), (25, 3), (33, 4), (49, 4),
    (65, 5), (97, 5), (129, 6), (193, 6), (257, 7), (385, 7), (513, 8), (769, 8), (1025, 9), (1537, 9),
    (2049, 10), (3073, 10), (4097, 11), (6145, 11), (8193, 12), (12289, 12), (16385, 13), (24577, 13),
];

/// In which lengths of code lengths come.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Compresses the messages of one direction.
pub(super) struct Deflater {
    stream: Option<Compress>,
    takes_over: bool,
}

impl Deflater {
    pub(super) fn new(window_bits: u8, takes_over: bool) -> Self {
        let stream = |bits| Compress::new_with_window_bits(Compression::best(), false, bits);
        Self {
            // The library has no window of 8 bits.
            stream: (window_bits > 8).then(|| stream(window_bits)),
            takes_over,
        }
    }

    /// Compresses a message; nothing if it has to be sent as it is.
    pub(super) fn deflate(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let stream = self.stream.as_mut()?;
        if message.is_empty() {
            // The library has nothing to flush then (RFC 7692 §7.2.3.6).
            return Some(vec![0]);
        }
        if !self.takes_over {
            stream.reset();
        }
        let mut out = Vec::with_capacity(message.len() + message.len() / 8 + 100);
        let sync = FlushCompress::Sync;
        stream.compress_vec(message, &mut out, sync).unwrap();
        Some(out.strip_suffix(&TAIL)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_compresses_is_inflated() {
        let noise = (0_u32..3000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
        let texts = [
            Vec::new(),
            b"Hello".to_vec(),
            b"again and again ".repeat(400),
            noise.collect(),
        ];
        for bits in 9..=15 {
            for takes_over in [false, true] {
                let mut inflater = Inflater::new(bits, takes_over);
                let mut deflater = Deflater::new(bits, takes_over);
                for text in texts.iter().chain(&texts) {
                    let wire = deflater.deflate(text).unwrap();
                    assert_eq!(inflater.inflate(&wire, text.len()), Ok(text.clone()));
                }
            }
        }
    }

    #[test]
    fn references_beyond_the_window_are_refused() {
        let noise = (0_u32..600).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
        let twice = noise.collect::<Vec<_>>().repeat(2);
        let wire = Deflater::new(15, false).deflate(&twice).unwrap();
        assert_eq!(
            Inflater::new(10, false).inflate(&wire, 9999).as_ref(),
            Ok(&twice)
        );
        let small = Inflater::new(9, false).inflate(&wire, 9999);
        assert_eq!(small, Err(Problem::Malformed));
    }
}
