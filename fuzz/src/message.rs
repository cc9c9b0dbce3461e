//! Messages out of frames.

use crate::input::Input;
use crate::protocol::close::CloseCode;
use crate::protocol::message::{Event, MessageKind, MessageReader, ProtocolError, Side};

/// Largest message: small, so that a fuzzer gets there.
const MAX: usize = 300;

/// An event that owns what it holds.
#[derive(Debug, PartialEq)]
enum Seen {
    Message(MessageKind, Vec<u8>),
    Compressed(MessageKind, Vec<u8>),
    Close(Option<u16>, String),
}

/// Messages are the same wherever the stream is cut, their frames are those that came, and none is
/// longer than it may be.
pub fn message(bytes: &[u8]) {
    let mut input = Input(bytes);
    let side = if input.flag() {
        Side::Client
    } else {
        Side::Service
    };
    let may_compress = input.flag();
    let reads: Vec<&[u8]> = input.reads().collect();
    let stream = reads.concat();
    let whole = read(MessageReader::new(side, MAX, may_compress), &[&stream]);
    let cut = read(MessageReader::new(side, MAX, may_compress), &reads);
    assert_eq!(whole, cut);
}

/// Reads to the end, a Close frame or an error.
fn read(mut reader: MessageReader, reads: &[&[u8]]) -> (Vec<Seen>, Option<ProtocolError>) {
    let mut seen = Vec::new();
    let (mut buffer, mut scratch) = (Vec::new(), Vec::new());
    for bytes in reads {
        buffer.extend_from_slice(bytes);
        loop {
            let (event, used) = match reader.next(&buffer, &mut scratch) {
                Ok(next) => next,
                Err(error) => return (seen, Some(error)),
            };
            let event = match event {
                Event::NeedMore { at_least } => {
                    assert!(at_least > 0);
                    buffer.drain(..used);
                    break;
                }
                Event::Message {
                    kind,
                    payload,
                    wire,
                } => {
                    assert!(payload.len() <= MAX && wire.len() > payload.len());
                    if kind == MessageKind::Text {
                        assert!(std::str::from_utf8(payload).is_ok());
                    }
                    Seen::Message(kind, payload.to_vec())
                }
                Event::Compressed { kind, payload, .. } => {
                    assert!(matches!(kind, MessageKind::Text | MessageKind::Binary));
                    Seen::Compressed(kind, payload.to_vec())
                }
                Event::Close { code, reason, .. } => {
                    assert!(code.is_none_or(CloseCode::may_be_sent));
                    seen.push(Seen::Close(code, reason.to_owned()));
                    return (seen, None);
                }
            };
            assert!(used > 0);
            seen.push(event);
            buffer.drain(..used);
        }
    }
    (seen, None)
}
