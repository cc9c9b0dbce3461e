//! Messages out of frames.

use crate::input::Input;
use crate::protocol::close::CloseCode;
use crate::protocol::deflate::longest_compressed;
use crate::protocol::message::{
    Event, MessageKind, MessageReader, Part, ProtocolError, Side, Wish,
};

/// Longest of the largest messages: short, so that a fuzzer gets there.
const LONGEST: usize = 300;

/// An event that owns what it holds; a message that came in parts is put together again.
#[derive(Debug, PartialEq)]
enum Seen {
    Message(Message),
    Close(Option<u16>, String),
}

#[derive(Debug, PartialEq)]
struct Message {
    kind: MessageKind,
    compressed: bool,
    payload: Vec<u8>,
    wire: Vec<u8>,
}

/// Messages are the same wherever the stream is cut, whether they are held or go on in parts, and
/// however much of a part is given back; their frames are those that came; and none is too long.
pub fn message(bytes: &[u8]) {
    let mut input = Input(bytes);
    let side = if input.flag() {
        Side::Client
    } else {
        Side::Service
    };
    let may_compress = input.flag();
    let limit = usize::from(input.byte()).min(LONGEST);
    let held = Wish {
        limit,
        held_below: limit + 1,
        shows_parts: false,
    };
    let parted = Wish {
        held_below: usize::from(input.byte()),
        shows_parts: true,
        ..held
    };
    let given_back = usize::from(input.byte());
    let reads: Vec<&[u8]> = input.reads().collect();
    let stream = reads.concat();
    let read = |wish, given_back, reads: &[&[u8]]| {
        let reader = MessageReader::new(side, may_compress);
        Reading::new(reader, wish, given_back).read(reads)
    };
    let whole = read(held, 0, &[&stream]);
    assert_eq!(whole, read(held, 0, &reads));
    assert_eq!(whole, read(parted, 0, &[&stream]));
    assert_eq!(whole, read(parted, 0, &reads));
    assert_eq!(whole, read(parted, given_back, &reads));
}

/// A stream that is being read.
struct Reading {
    reader: MessageReader,
    wish: Wish,
    /// Bytes of each compressed part that come again, if it has as many.
    given_back: usize,
    seen: Vec<Seen>,
    /// A message whose last part has not come.
    begun: Option<Message>,
    /// The last part was given back from.
    is_again: bool,
}

impl Reading {
    fn new(reader: MessageReader, wish: Wish, given_back: usize) -> Self {
        Self {
            reader,
            wish,
            given_back,
            seen: Vec::new(),
            begun: None,
            is_again: false,
        }
    }

    /// Reads to the end, a Close frame or an error.
    fn read(mut self, reads: &[&[u8]]) -> (Vec<Seen>, Option<ProtocolError>) {
        let (mut buffer, mut scratch) = (Vec::new(), Vec::new());
        for bytes in reads {
            buffer.extend_from_slice(bytes);
            loop {
                let wish = self.wish;
                let (event, mut used) = match self.reader.next(&buffer, &mut scratch, |_| wish) {
                    Ok(next) => next,
                    Err(error) => return (self.seen, Some(error)),
                };
                match event {
                    Event::NeedMore { at_least } => {
                        assert!(at_least > 0 && !self.reader.is_ahead_of_input());
                        buffer.drain(..used);
                        break;
                    }
                    Event::Close { code, reason, .. } => {
                        assert!(code.is_none_or(CloseCode::may_be_sent));
                        self.seen.push(Seen::Close(code, reason.to_owned()));
                        return (self.seen, None);
                    }
                    Event::Message {
                        kind,
                        payload,
                        wire,
                    } => self.take_whole(kind, false, payload, wire),
                    Event::Compressed {
                        kind,
                        payload,
                        wire,
                    } => self.take_whole(kind, true, payload, wire),
                    Event::Part(part) => {
                        let back = self.take_part(&part);
                        if back > 0 {
                            used -= self.reader.unread(back);
                        }
                    }
                }
                buffer.drain(..used);
            }
        }
        (self.seen, None)
    }

    fn take_whole(&mut self, kind: MessageKind, compressed: bool, payload: &[u8], wire: &[u8]) {
        assert!(self.begun.is_none() || matches!(kind, MessageKind::Ping | MessageKind::Pong));
        self.push(Message {
            kind,
            compressed,
            payload: payload.to_vec(),
            wire: wire.to_vec(),
        });
    }

    /// Puts a part to those before it. Returns how much of it is given back.
    fn take_part(&mut self, part: &Part<'_>) -> usize {
        assert_eq!(part.first, self.begun.is_none());
        assert!(!part.last || !part.within_frame);
        let mut message = self.begun.take().unwrap_or_else(|| Message {
            kind: part.kind,
            compressed: part.compressed,
            payload: Vec::new(),
            wire: Vec::new(),
        });
        assert_eq!(
            (message.kind, message.compressed),
            (part.kind, part.compressed)
        );
        // Every other time, and never all of it, so that the reading comes to its end.
        let may_go_back = part.compressed && part.payload.len() > self.given_back && !self.is_again;
        let back = if may_go_back { self.given_back } else { 0 };
        self.is_again = back > 0;
        let kept = part.payload.len() - back;
        message.payload.extend_from_slice(&part.payload[..kept]);
        message
            .wire
            .extend_from_slice(&part.wire[..part.wire.len() - back]);
        if part.last && back == 0 {
            self.push(message);
        } else {
            self.begun = Some(message);
        }
        back
    }

    fn push(&mut self, message: Message) {
        let Message {
            kind,
            compressed,
            payload,
            wire,
        } = &message;
        let limit = match kind {
            MessageKind::Ping | MessageKind::Pong => 125,
            _ if *compressed => longest_compressed(self.wish.limit),
            _ => self.wish.limit,
        };
        assert!(payload.len() <= limit && wire.len() > payload.len());
        if *kind == MessageKind::Text && !compressed {
            assert!(std::str::from_utf8(payload).is_ok());
        }
        self.seen.push(Seen::Message(message));
    }
}
