//! The other end: sends every message back, and holds its peer to every rule of RFC 6455 and RFC 7692.
//!
//! Written from the standards alone, for plainness, not speed.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::LIMIT;
use super::deflate::{Deflater, Inflater, Problem};
use super::negotiation::Agreement;
use super::speaker::MASK;
use crate::harness::{Frame, close, pong};

/// Which end this is; it decides who masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Service,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Service,
            Self::Service => Self::Client,
        }
    }

    /// The mask of what this side sends (RFC 6455 §5.1).
    pub(super) fn mask(self) -> Option<[u8; 4]> {
        (self == Self::Client).then_some(MASK)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Service => "service",
        })
    }
}

/// What a WebSocket can run on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What one end of a conversation has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Everything that came, as it came.
    pub(super) bytes: Vec<u8>,
    /// Whole messages and control frames before the end.
    pub(super) frames: Vec<Frame>,
    pub(super) end: Ending,
    /// What was agreed on for its leg.
    pub(super) agreement: Option<Agreement>,
}

/// How a conversation ended for one end of it.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Ending {
    /// With this Close frame of the peer's.
    Closed(Frame),
    /// This end found fault: the code that it closed with, and the rule.
    Judged(u16, &'static str),
    /// The connection ended without a Close frame.
    #[default]
    Gone,
    /// There was no conversation.
    Refused(String),
}

/// A rule that the peer broke, and the code for it.
struct Violation(u16, &'static str);

/// One end of an open WebSocket.
struct Endpoint {
    side: Side,
    received: Vec<u8>,
    message: Option<Unfinished>,
    /// There if compression was agreed on.
    codec: Option<(Inflater, Deflater)>,
}

/// A message whose last frame has not come.
struct Unfinished {
    opcode: u8,
    compressed: bool,
    payload: Vec<u8>,
}

/// A frame's header, found to be right.
struct Header {
    fin: bool,
    rsv: u8,
    opcode: u8,
    start: usize,
    length: usize,
}

/// Answers messages until the conversation ends. `early` came with the handshake.
pub(super) async fn echo(
    stream: &mut impl Stream,
    early: Vec<u8>,
    side: Side,
    agreement: Option<Agreement>,
) -> Heard {
    let codec = |agreement: Agreement| {
        let (theirs, ours) = (agreement.of(side.other()), agreement.of(side));
        (theirs.inflater(), ours.deflater())
    };
    let mut endpoint = Endpoint {
        side,
        received: early.clone(),
        message: None,
        codec: agreement.map(codec),
    };
    let mut heard = Heard {
        bytes: early,
        agreement,
        ..Heard::default()
    };
    heard.end = endpoint.converse(stream, &mut heard).await;
    stream.shutdown().await.ok();
    // What a peer sends after the end is still read, so that it hears of the end.
    stream.read_to_end(&mut heard.bytes).await.ok();
    heard
}

impl Endpoint {
    async fn converse(&mut self, stream: &mut impl Stream, heard: &mut Heard) -> Ending {
        loop {
            let frame = match self.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let before = heard.bytes.len();
                    heard.bytes.reserve(16 * 1024);
                    if stream.read_buf(&mut heard.bytes).await.unwrap_or(0) == 0 {
                        return Ending::Gone;
                    }
                    self.received.extend_from_slice(&heard.bytes[before..]);
                    continue;
                }
                Err(Violation(code, rule)) => {
                    let close = close(code, rule).encode(self.side.mask());
                    stream.write_all(&close).await.ok();
                    return Ending::Judged(code, rule);
                }
            };
            if let Some(answer) = self.answer(&frame) {
                stream.write_all(&answer).await.ok();
            }
            if frame.opcode == 8 {
                return Ending::Closed(frame);
            }
            heard.frames.push(frame);
        }
    }

    fn answer(&mut self, frame: &Frame) -> Option<Vec<u8>> {
        let answer = match frame.opcode {
            9 => pong(&frame.payload),
            10 => return None,
            8 => frame.clone(),
            _ => {
                let deflater = self.codec.as_mut().map(|(_, deflater)| deflater);
                match deflater.and_then(|deflater| deflater.deflate(&frame.payload)) {
                    Some(deflated) => Frame::new(frame.opcode, deflated).with_rsv(0b100),
                    None => frame.clone(),
                }
            }
        };
        Some(answer.encode(self.side.mask()))
    }

    /// Takes the next control frame or whole message from what was received.
    fn next(&mut self) -> Result<Option<Frame>, Violation> {
        while let Some(header) = self.header()? {
            let end = header.start + header.length;
            let payload = &self.received[header.start..self.received.len().min(end)];
            let mut payload = payload.to_vec();
            if self.side == Side::Service {
                let key = &self.received[header.start - 4..header.start];
                let masked = payload.iter_mut().zip(key.iter().cycle());
                masked.for_each(|(byte, key)| *byte ^= key);
            }
            let is_whole = self.received.len() >= end;
            self.judge_text(&header, &payload)?;
            if !is_whole {
                return Ok(None);
            }
            self.received.drain(..end);
            if let Some(frame) = self.assemble(&header, payload)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Reads a header and judges what it shows; nothing if it has not come whole.
    fn header(&self) -> Result<Option<Header>, Violation> {
        let Some(&[first, second]) = self.received.first_chunk() else {
            return Ok(None);
        };
        let (fin, rsv, opcode) = (first & 0x80 != 0, first >> 4 & 7, first & 15);
        let (is_masked, short) = (second & 0x80 != 0, second & 0x7f);
        let is_control = opcode >= 8;
        let begins = matches!(opcode, 1 | 2);
        demand(begins || matches!(opcode, 0 | 8..=10), 1002, "opcode")?;
        let may_compress = self.codec.is_some() && begins;
        let rsv_is_right = rsv == 0 || (rsv == 0b100 && may_compress);
        demand(rsv_is_right, 1002, "reserved bits")?;
        demand(fin || !is_control, 1002, "fragmented control frame")?;
        demand(short <= 125 || !is_control, 1002, "long control frame")?;
        demand(is_masked == (self.side == Side::Service), 1002, "mask")?;
        let is_within = self.message.is_some();
        demand(!(begins && is_within), 1002, "message within a message")?;
        demand(opcode != 0 || is_within, 1002, "nothing to continue")?;

        let extended = &self.received[2..];
        let (length, wide, least) = match short {
            126 => match extended.first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2, 126),
                None => return Ok(None),
            },
            127 => match extended.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 8, 0x1_0000),
                None => return Ok(None),
            },
            short => (u64::from(short), 0, 0),
        };
        demand(length >= least, 1002, "length in too many bytes")?;
        demand(length >> 63 == 0, 1002, "length over 63 bits")?;
        let before = self.message.as_ref().filter(|_| !is_control);
        let is_compressed = rsv != 0 || before.is_some_and(|message| message.compressed);
        // What cannot be compressed grows a little.
        let limit = if is_compressed { LIMIT * 2 } else { LIMIT };
        let before = before.map_or(0, |message| message.payload.len());
        let fits = is_control || length <= (limit - before) as u64;
        demand(fits, 1009, "message is too long")?;
        let start = 2 + wide + if is_masked { 4 } else { 0 };
        let header = Header {
            fin,
            rsv,
            opcode,
            start,
            length: length as usize,
        };
        Ok((self.received.len() >= start).then_some(header))
    }

    /// Judges text as far as it has come (RFC 6455 §8.1), if that can be seen.
    fn judge_text(&self, header: &Header, payload: &[u8]) -> Result<(), Violation> {
        let (is_text, before) = match (&self.message, header.opcode) {
            (Some(message), 0) => {
                let is_text = message.opcode == 1 && !message.compressed;
                (is_text, &message.payload[..])
            }
            (_, opcode) => (opcode == 1 && header.rsv == 0, &[][..]),
        };
        if !is_text {
            return Ok(());
        }
        let text = [before, payload].concat();
        let is_last = header.fin && payload.len() == header.length;
        let is_right = match std::str::from_utf8(&text) {
            Ok(_) => true,
            // The last character may be cut in two.
            Err(error) => error.error_len().is_none() && !is_last,
        };
        demand(is_right, 1007, "text is not UTF-8")
    }

    /// Takes in a whole frame; returns what is complete now.
    fn assemble(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Frame>, Violation> {
        match header.opcode {
            8 => judge_close(&payload)?,
            9 | 10 => {}
            opcode => {
                let message = self.message.get_or_insert_with(|| Unfinished {
                    opcode,
                    compressed: header.rsv != 0,
                    payload: Vec::new(),
                });
                message.payload.extend(payload);
                if !header.fin {
                    return Ok(None);
                }
                let message = self.message.take();
                return message.map(|message| self.finish(message)).transpose();
            }
        }
        Ok(Some(Frame::new(header.opcode, payload)))
    }

    fn finish(&mut self, message: Unfinished) -> Result<Frame, Violation> {
        let payload = match &mut self.codec {
            Some((inflater, _)) if message.compressed => {
                let inflated = inflater.inflate(&message.payload, LIMIT);
                inflated.map_err(|problem| match problem {
                    Problem::Malformed => Violation(1007, "message cannot be inflated"),
                    Problem::TooLong => Violation(1009, "message is too long"),
                })?
            }
            _ => message.payload,
        };
        let is_right = message.opcode != 1 || std::str::from_utf8(&payload).is_ok();
        demand(is_right, 1007, "text is not UTF-8")?;
        Ok(Frame::new(message.opcode, payload))
    }
}

/// RFC 6455 §5.5.1, §7.4, and the registry of close codes.
fn judge_close(payload: &[u8]) -> Result<(), Violation> {
    match payload {
        [] => Ok(()),
        [_] => Err(Violation(1002, "half a close code")),
        [high, low, reason @ ..] => {
            let may_be_sent = match u16::from_be_bytes([*high, *low]) {
                1004 | 1005 | 1006 | 1015 => false,
                code => (1000..=1014).contains(&code) || (3000..=4999).contains(&code),
            };
            demand(may_be_sent, 1002, "close code")?;
            let is_text = std::str::from_utf8(reason).is_ok();
            demand(is_text, 1007, "reason is not UTF-8")
        }
    }
}

fn demand(holds: bool, code: u16, rule: &'static str) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation(code, rule))
    }
}
