//! WebSocket frames by hand (RFC 6455 §5.2), shared with nothing in the host so that both would have
//! to be wrong in the same way.

/// A frame without its mask: a [`Connection`](super::Connection) masks what a client sends, and fails
/// the test when a mask is missing or too much.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) rsv: u8,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn text(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(1, payload)
}

pub(crate) fn binary(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(2, payload)
}

pub(crate) fn ping(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(9, payload)
}

pub(crate) fn pong(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(10, payload)
}

/// A Close frame with a code and a reason (RFC 6455 §5.5.1).
pub(crate) fn close(code: u16, reason: &str) -> Frame {
    Frame::new(8, [&code.to_be_bytes(), reason.as_bytes()].concat())
}

impl Frame {
    pub(crate) fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            payload: payload.as_ref().to_vec(),
        }
    }

    /// A fragment that does not begin the message.
    pub(crate) fn continuation(payload: impl AsRef<[u8]>) -> Self {
        Self::new(0, payload)
    }

    /// The same frame, but more fragments follow.
    pub(crate) fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    /// The same frame with reserved bits, `0b100` being RSV1.
    pub(crate) fn with_rsv(mut self, rsv: u8) -> Self {
        self.rsv = rsv;
        self
    }

    /// Code of a Close frame, if this is one that has a code.
    pub(crate) fn close_code(&self) -> Option<u16> {
        match self.payload.as_slice() {
            [high, low, ..] if self.opcode == 8 => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }

    /// The frame as the wire has it.
    pub(crate) fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut wire = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let masked = u8::from(mask.is_some()) << 7;
        match self.payload.len() {
            length @ 0..=125 => wire.push(masked | length as u8),
            length @ 126..=0xffff => {
                wire.push(masked | 126);
                wire.extend((length as u16).to_be_bytes());
            }
            length => {
                wire.push(masked | 127);
                wire.extend((length as u64).to_be_bytes());
            }
        }
        let start = wire.len() + mask.map_or(0, |key| key.len());
        wire.extend(mask.iter().flatten());
        wire.extend(&self.payload);
        if let Some(key) = mask {
            apply(key, &mut wire[start..]);
        }
        wire
    }

    /// Takes a frame from the front of what was received; nothing if it has not come whole. Says too
    /// whether it was masked.
    pub(crate) fn take(received: &mut Vec<u8>) -> Option<(Self, bool)> {
        let [first, second] = *received.first_chunk()?;
        let masked = second & 0x80 != 0;
        let (length, mut start) = match second & 0x7f {
            126 => (
                u16::from_be_bytes(*received[2..].first_chunk()?) as usize,
                4,
            ),
            127 => (
                u64::from_be_bytes(*received[2..].first_chunk()?) as usize,
                10,
            ),
            length => (length as usize, 2),
        };
        let mut key = [0; 4];
        if masked {
            key = *received.get(start..)?.first_chunk()?;
            start += key.len();
        }
        let mut payload = received.get(start..start + length)?.to_vec();
        apply(key, &mut payload);
        received.drain(..start + length);
        let frame = Self {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 15,
            payload,
        };
        Some((frame, masked))
    }
}

/// Masks or unmasks (RFC 6455 §5.3).
fn apply(key: [u8; 4], payload: &mut [u8]) {
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

/// Readable where an assertion fails: `text "hello"`, not a list of numbers.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.opcode {
            0 => "continuation",
            1 => "text",
            2 => "binary",
            8 => "close",
            9 => "ping",
            10 => "pong",
            _ => "unknown",
        };
        write!(f, "{name}")?;
        if let Some(code) = self.close_code() {
            return write!(
                f,
                " {code} {:?}",
                String::from_utf8_lossy(&self.payload[2..])
            );
        }
        if !self.fin {
            write!(f, " unfinished")?;
        }
        if self.rsv != 0 {
            write!(f, " rsv {:03b}", self.rsv)?;
        }
        match self.payload.get(..200) {
            None => write!(f, " {:?}", String::from_utf8_lossy(&self.payload)),
            Some(start) => {
                write!(
                    f,
                    " {:?}... of {} bytes",
                    String::from_utf8_lossy(start),
                    self.payload.len()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 §5.7.
    #[test]
    fn the_examples_of_the_standard_are_encoded_and_decoded() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        let examples = [
            (text("Hello"), None, b"\x81\x05Hello".to_vec()),
            (text("Hello"), Some(mask), masked.to_vec()),
            (text("Hel").unfinished(), None, b"\x01\x03Hel".to_vec()),
            (Frame::continuation("lo"), None, b"\x80\x02lo".to_vec()),
            (ping("Hello"), None, b"\x89\x05Hello".to_vec()),
            (
                binary([7; 256]),
                None,
                [&b"\x82\x7e\x01\x00"[..], &[7; 256]].concat(),
            ),
            (
                binary(vec![7; 65536]),
                None,
                [&b"\x82\x7f\0\0\0\0\0\x01\0\0"[..], &[7; 65536]].concat(),
            ),
        ];
        for (frame, mask, mut wire) in examples {
            assert_eq!(frame.encode(mask), wire);
            let cut = wire.len() - 1;
            assert_eq!(
                Frame::take(&mut wire[..cut].to_vec()),
                None,
                "{frame:?} is not whole"
            );
            assert_eq!(Frame::take(&mut wire), Some((frame, mask.is_some())));
            assert!(wire.is_empty());
        }
    }
}
