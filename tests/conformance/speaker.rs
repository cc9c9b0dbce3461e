//! The end that a row is told to: it sends whatever the row says, right or wrong, and writes down what
//! comes back.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::deflate::{Deflater, Inflater};
use super::endpoint::{Ending, Heard, Side, Stream};
use super::modes::Mode;
use super::negotiation::Agreement;
use super::{Case, End, LIMIT};
use crate::harness::{Frame, close};

/// The mask of the example in RFC 6455 §5.7.
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a row sends, one thing after another.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// A frame, masked if the client sends it.
    Frame(Frame),
    /// A frame that the client masks with this key.
    Key(Frame, [u8; 4]),
    /// A frame that is masked if the service sends it.
    WronglyMasked(Frame),
    /// A frame whose length takes so many bytes, 2 or 8, more than it needs.
    LongLength(Frame, usize),
    /// The header of a frame of this length, whose payload never comes.
    Header(Frame, u64),
    /// A frame of which only the first bytes of its payload come.
    Cut(Frame, usize),
    /// A message, compressed as was agreed on, in so many frames.
    Compressed(Frame, usize),
}

impl From<Frame> for Part {
    fn from(frame: Frame) -> Self {
        Self::Frame(frame)
    }
}

/// Ends every conversation that nothing else ends.
pub(super) fn farewell() -> Frame {
    close(1000, "that is all")
}

impl Part {
    /// The bytes of it.
    fn write(&self, out: &mut Vec<u8>, side: Side, deflater: &mut Option<Deflater>) {
        let mask = side.mask();
        match self {
            Self::Frame(frame) => out.extend(frame.encode(mask)),
            Self::Key(frame, key) => out.extend(frame.encode(mask.map(|_| *key))),
            Self::WronglyMasked(frame) => out.extend(frame.encode(side.other().mask())),
            Self::LongLength(frame, bytes) => {
                let wire = frame.encode(mask);
                let after = match frame.payload.len() {
                    0..=125 => 2,
                    _ => 4,
                };
                header(out, &wire, frame.payload.len() as u64, *bytes);
                out.extend(&wire[after..]);
            }
            Self::Header(frame, length) => {
                let wire = Frame::new(0, "").encode(mask);
                header(out, &[frame.encode(None)[0], wire[1]], *length, 8);
                out.extend(&wire[2..]);
            }
            Self::Cut(frame, count) => {
                let wire = frame.encode(mask);
                let end = wire.len() - frame.payload.len() + count;
                out.extend(&wire[..end]);
            }
            Self::Compressed(frame, pieces) => {
                let deflater = deflater.as_mut().expect("compression was agreed on");
                match deflater.deflate(&frame.payload) {
                    Some(deflated) => {
                        for frame in fragments(frame.opcode, 0b100, &deflated, *pieces) {
                            out.extend(frame.encode(mask));
                        }
                    }
                    None => out.extend(frame.encode(mask)),
                }
            }
        }
    }
}

/// The first bytes of a frame with another length, in 2 or 8 bytes.
fn header(out: &mut Vec<u8>, wire: &[u8], length: u64, bytes: usize) {
    out.push(wire[0]);
    out.push(wire[1] & 0x80 | if bytes == 2 { 126 } else { 127 });
    out.extend(&length.to_be_bytes()[8 - bytes..]);
}

/// A message in so many frames, the last of which may be empty.
pub(super) fn fragments(opcode: u8, rsv: u8, payload: &[u8], count: usize) -> Vec<Frame> {
    let length = payload.len().div_ceil(count).max(1);
    let part =
        |n: usize| &payload[payload.len().min(n * length)..payload.len().min((n + 1) * length)];
    let frames = (0..count).map(|n| {
        let frame = match n {
            0 => Frame::new(opcode, part(n)).with_rsv(rsv),
            _ => Frame::continuation(part(n)),
        };
        if n + 1 < count {
            frame.unfinished()
        } else {
            frame
        }
    });
    frames.collect()
}

/// The bytes of a whole row.
fn script(case: &Case, mode: Mode, side: Side, agreement: Option<Agreement>) -> Vec<u8> {
    let mut deflater = agreement.map(|agreement| agreement.of(side).deflater());
    let mut out = Vec::new();
    for part in &case.parts {
        part.write(&mut out, side, &mut deflater);
    }
    let end = case.expected_in(mode).map(|expected| &expected.end);
    if matches!(end, Some(End::Closed(close)) if *close == farewell()) {
        out.extend(farewell().encode(side.mask()));
    }
    out
}

/// Sends a row and listens to the end. Returns what was heard, and what was sent.
pub(super) async fn speak(
    stream: &mut impl Stream,
    early: Vec<u8>,
    side: Side,
    agreement: Option<Agreement>,
    case: &Case,
    mode: Mode,
) -> (Heard, Vec<u8>) {
    let script = script(case, mode, side, agreement);
    let (mut reader, mut writer) = tokio::io::split(&mut *stream);
    let writing = async {
        for piece in script.chunks(case.pieces) {
            // The other end may have heard enough.
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
        if case.ends {
            writer.shutdown().await.ok();
        }
    };
    let listening = async {
        let inflater = agreement.map(|agreement| agreement.of(side.other()).inflater());
        let mut ear = Ear {
            side,
            received: early,
            inflater,
        };
        let mut frames = Vec::new();
        let end = loop {
            match ear.next() {
                Ok(Some(frame)) if frame.opcode == 8 => break Ending::Closed(frame),
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => {
                    ear.received.reserve(16 * 1024);
                    if reader.read_buf(&mut ear.received).await.unwrap_or(0) == 0 {
                        break Ending::Gone;
                    }
                }
                Err(problem) => break Ending::Refused(problem),
            }
        };
        (frames, end, ear.received)
    };
    let ((), (frames, end, bytes)) = tokio::join!(writing, listening);
    stream.shutdown().await.ok();
    let mut heard = Heard {
        bytes,
        frames,
        end,
        agreement,
    };
    // Nothing may follow a Close frame.
    stream.read_to_end(&mut heard.bytes).await.ok();
    (heard, script)
}

/// Reads what the other end answers: messages of one frame.
struct Ear {
    side: Side,
    received: Vec<u8>,
    inflater: Option<Inflater>,
}

impl Ear {
    fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some((frame, is_masked)) = Frame::take(&mut self.received) else {
            return Ok(None);
        };
        if is_masked != (self.side == Side::Service) {
            return Err(format!("{frame:?} is wrongly masked"));
        }
        match &mut self.inflater {
            Some(inflater) if frame.rsv == 0b100 => {
                let inflated = inflater.inflate(&frame.payload, LIMIT);
                let payload = inflated.map_err(|problem| format!("{frame:?}: {problem:?}"))?;
                Ok(Some(Frame::new(frame.opcode, payload)))
            }
            _ => Ok(Some(frame)),
        }
    }
}
