//! Streams of frames, read in pieces.

use proptest::prelude::*;

use super::super::close::encode_close;
use super::super::deflate::{Codec, longest_compressed};
use super::super::frame::{
    COMPRESSED, FrameHeader, Opcode, encode_frame, encode_header, unmask_into,
};
use super::reader::MIN_FRAGMENT_HEADERS;
use super::*;

const MAX: usize = 1000;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An event that owns what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(MessageKind, Vec<u8>, Vec<u8>),
    Compressed(MessageKind, Vec<u8>, Vec<u8>),
    Close(Option<u16>, String, Vec<u8>),
    Part {
        kind: MessageKind,
        payload: Vec<u8>,
        wire: Vec<u8>,
        first: bool,
        last: bool,
        is_frame: bool,
    },
}

/// All messages are held.
const fn held(max: usize) -> Wish {
    Wish {
        limit: max,
        held_below: max + 1,
        shows_parts: false,
    }
}

fn read<'a>(
    reader: &mut MessageReader,
    reads: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Seen>, (Vec<Seen>, ProtocolError)> {
    read_with(reader, held(MAX), reads)
}

/// Gives `reads` to a reader as a session does: kept until they are used up.
fn read_with<'a>(
    reader: &mut MessageReader,
    wish: Wish,
    reads: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Seen>, (Vec<Seen>, ProtocolError)> {
    let mut seen = Vec::new();
    let mut buffer = Vec::new();
    let mut scratch = Vec::new();
    for bytes in reads {
        buffer.extend_from_slice(bytes);
        loop {
            let (event, used) = match reader.next(&buffer, &mut scratch, |_| wish) {
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
                Event::Part(part) => {
                    seen.push(Seen::Part {
                        kind: part.kind,
                        payload: part.payload.to_vec(),
                        wire: part.wire.to_vec(),
                        first: part.first,
                        last: part.last,
                        is_frame: part.is_frame,
                    });
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
    read(&mut MessageReader::new(Side::Client, false), [bytes]).map_err(|(_, error)| error)
}

fn from_service(bytes: &[u8]) -> Result<Vec<Seen>, ProtocolError> {
    read(&mut MessageReader::new(Side::Service, false), [bytes]).map_err(|(_, error)| error)
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
    let mut reader = MessageReader::new(Side::Service, false);
    let (event, used) = reader.next(&input, &mut scratch, |_| held(MAX)).unwrap();
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
    let mut reader = MessageReader::new(Side::Service, false);
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
    let mut reader = MessageReader::new(Side::Service, false);
    let mut at_least = |input: &[u8]| match reader.next(input, &mut scratch, |_| held(MAX)) {
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
    let mut reader = MessageReader::new(Side::Service, true);
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
    let mut reader = MessageReader::new(Side::Service, false);
    let mut wire = Vec::new();
    encode_frame(&mut wire, Opcode::Ping, None, &[1; 125]);
    let seen = read_with(&mut reader, held(1), [&wire[..]]);
    assert_eq!(seen.unwrap().len(), 1);
}

#[test]
fn endless_empty_fragments_are_refused() {
    let mut reader = MessageReader::new(Side::Client, false);
    let mut scratch = Vec::new();
    let mut wire = Vec::new();
    fragment(&mut wire, false, Opcode::Text, Some(KEY), b"");
    let mut count = 0;
    let error = loop {
        match reader.next(&wire, &mut scratch, |_| held(MAX)) {
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

/// Messages below `held` are held; others go on in parts that are shown.
const fn parted(limit: usize, held: usize) -> Wish {
    Wish {
        limit,
        held_below: held,
        shows_parts: true,
    }
}

fn part(payload: &str, wire: &[u8], first: bool, last: bool, is_frame: bool) -> Seen {
    Seen::Part {
        kind: MessageKind::Text,
        payload: payload.into(),
        wire: wire.to_vec(),
        first,
        last,
        is_frame,
    }
}

#[test]
fn a_message_that_is_not_held_comes_in_parts_as_it_arrives() {
    let wire = text_in(&[b"abc", b"de"]);
    let mut reader = MessageReader::new(Side::Service, false);
    let reads = [
        &wire[..1],
        &wire[1..2],
        &wire[2..4],
        &wire[4..8],
        &wire[8..],
    ];
    let seen = read_with(&mut reader, parted(usize::MAX, 0), reads).unwrap();
    let expected = [
        part("ab", &wire[..4], true, false, false),
        part("c", &wire[4..5], false, false, false),
        part("d", &wire[5..8], false, false, false),
        part("e", &wire[8..], false, true, false),
    ];
    assert_eq!(seen, expected);
    // Frames that are whole are parts of their own, and one that is all is no part.
    let seen = read_with(&mut reader, parted(usize::MAX, 0), [&wire[..], &wire[5..]]);
    let expected = [
        part("abc", &wire[..5], true, false, true),
        part("de", &wire[5..], false, true, true),
    ];
    let (seen, error) = seen.unwrap_err();
    assert_eq!(
        (&seen[..], error),
        (&expected[..], ProtocolError::NothingToContinue)
    );
}

#[test]
fn what_was_held_comes_first_once_the_message_is_too_long_for_that() {
    let wire = text_in(&[b"abc", b"", b"defg"]);
    let mut reader = MessageReader::new(Side::Service, false);
    let mut seen = read_with(&mut reader, parted(usize::MAX, 7), [&wire[..9]]).unwrap();
    // Not even the whole header has come of what makes it too long.
    assert_eq!(seen, []);
    assert!(reader.buffered_bytes() >= 7);
    let rest = read_with(
        &mut reader,
        parted(usize::MAX, 7),
        [&wire[7..11], &wire[11..]],
    );
    seen.extend(rest.unwrap());
    let expected = [
        part("abc", &wire[..5], true, false, true),
        part("", &wire[5..7], false, false, true),
        part("de", &wire[7..11], false, false, false),
        part("fg", &wire[11..], false, true, false),
    ];
    assert_eq!(seen, expected);
    assert!(reader.is_idle());
}

#[test]
fn a_part_of_text_ends_with_a_whole_character() {
    let wire = text_in(&[b"a\xc3", b"\xa9b\xf0\x9f", b"\x92", b"\xa9"]);
    let mut reader = MessageReader::new(Side::Service, false);
    let seen = read_with(&mut reader, parted(usize::MAX, 0), [&wire[..]]).unwrap();
    let expected = [
        part("a", &wire[..4], true, false, false),
        part("éb", &wire[4..10], false, false, false),
        part("", &wire[10..13], false, false, false),
        part("💩", &wire[13..], false, true, false),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn parts_are_judged_as_they_come() {
    for (parts, whole) in [
        (&[&b"ab\xff"[..]][..], false),
        (&[b"ab\xc3", b"("], false),
        (&[b"ab\xc3", b""], true),
    ] {
        let mut wire = text_in(parts);
        if !whole {
            // Of the frame that spoils it, the last byte is yet to come.
            wire.push(b'x');
            let length = wire.len() - parts[parts.len() - 1].len() - 2;
            wire[length] += 1;
            wire.pop();
        }
        for shows_parts in [true, false] {
            let wish = Wish {
                shows_parts,
                ..parted(usize::MAX, 0)
            };
            let mut reader = MessageReader::new(Side::Service, false);
            let seen = read_with(&mut reader, wish, [&wire[..]]);
            let (_, error) = seen.unwrap_err();
            assert_eq!(error, ProtocolError::TextNotUtf8, "{parts:x?}");
        }
    }
}

#[test]
fn text_that_waits_to_be_whole_is_judged_as_it_arrives() {
    let mut long = Vec::new();
    encode_frame(&mut long, Opcode::Text, Some(KEY), &[b'a'; 200]);
    let header = long.len() - 200;
    long[header + 100] ^= 0xff;
    let mut reader = MessageReader::new(Side::Client, false);
    let cuts = [&long[..header + 40], &long[header + 40..header + 100]];
    assert_eq!(read(&mut reader, cuts), Ok(vec![]));
    // The reader has to be given again what it has not used up.
    let mut scratch = Vec::new();
    let spoilt = reader.next(&long[..header + 101], &mut scratch, |_| held(MAX));
    assert_eq!(spoilt, Err(ProtocolError::TextNotUtf8));
}

#[test]
fn a_part_that_nobody_is_shown_has_no_payload_and_its_header_does_not_wait() {
    let wish = Wish {
        shows_parts: false,
        ..parted(usize::MAX, 0)
    };
    let mut wire = Vec::new();
    encode_frame(&mut wire, Opcode::Text, Some(KEY), &[7; 50]);
    let mut reader = MessageReader::new(Side::Client, false);
    let seen = read_with(&mut reader, wish, [&wire[..6], &wire[6..20], &wire[20..]]).unwrap();
    let expected = [
        part("", &wire[..6], true, false, false),
        part("", &wire[6..20], false, false, false),
        part("", &wire[20..], false, true, false),
    ];
    assert_eq!(seen, expected);
    assert!(reader.is_idle());
}

#[test]
fn a_message_over_the_limit_is_refused_in_parts_too() {
    let mut wire = Vec::new();
    fragment(&mut wire, false, Opcode::Binary, None, &[0; MAX]);
    wire.extend_from_slice(&[0x80, 1]);
    let mut reader = MessageReader::new(Side::Service, false);
    let (seen, error) = read_with(&mut reader, parted(MAX, 0), [&wire[..]]).unwrap_err();
    assert_eq!(seen.len(), 1);
    assert_eq!(error, ProtocolError::MessageTooLong { limit: MAX });
    // And any length is fine where there is no limit.
    let gigantic = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1];
    let mut reader = MessageReader::new(Side::Service, false);
    let seen = read_with(&mut reader, parted(usize::MAX, 0), [&gigantic[..]]);
    assert_eq!(seen.unwrap().len(), 1);
}

#[test]
fn what_a_caller_leaves_of_a_part_comes_again() {
    let mut wire = Vec::new();
    encode_header(&mut wire, true, COMPRESSED, Opcode::Text, Some(KEY), 5);
    unmask_into(&mut wire, b"abcde", KEY, 0);
    fn payload(event: Event<'_>) -> (Vec<u8>, bool) {
        match event {
            Event::Part(part) => (part.payload.to_vec(), part.last),
            other => panic!("{other:?}"),
        }
    }
    let mut reader = MessageReader::new(Side::Client, true);
    let mut scratch = Vec::new();
    let wish = |_| parted(usize::MAX, 0);
    // From the input.
    let (event, used) = reader.next(&wire[..10], &mut scratch, wish).unwrap();
    assert_eq!((payload(event), used), ((b"abcd".to_vec(), false), 10));
    assert_eq!(reader.unread(2), 2);
    let (event, used) = reader.next(&wire[8..], &mut scratch, wish).unwrap();
    assert_eq!((payload(event), used), ((b"cde".to_vec(), true), 3));
    // From what came before.
    let (event, used) = reader.next(&wire, &mut scratch, wish).unwrap();
    assert!(matches!(event, Event::Compressed { .. }));
    assert_eq!(used, wire.len());
    reader.part_instead(MessageKind::Text, &wire);
    assert!(reader.is_ahead_of_input());
    let (event, used) = reader.next(&[], &mut scratch, wish).unwrap();
    assert_eq!((payload(event), used), ((b"abcde".to_vec(), true), 0));
    assert_eq!(reader.unread(4), 0);
    assert!(reader.is_ahead_of_input());
    let (event, _) = reader.next(&[], &mut scratch, wish).unwrap();
    assert_eq!(payload(event), (b"bcde".to_vec(), true));
    assert!(!reader.is_ahead_of_input() && reader.is_idle());
}

/// A data message: its fragments, and the ping that comes before each.
fn message() -> impl Strategy<Value = (bool, Vec<(String, bool)>)> {
    (
        any::<bool>(),
        prop::collection::vec((".{0,40}", any::<bool>()), 1..5),
    )
}

/// Writes messages as one side would, and what a reader should see.
fn write(messages: &[(bool, Vec<(String, bool)>)], mask: Option<[u8; 4]>) -> (Vec<u8>, Vec<Seen>) {
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
        let mut reader = MessageReader::new(from, false);
        prop_assert_eq!(read(&mut reader, cut(&stream, &cuts)), Ok(expected));
        prop_assert!(reader.is_idle());
    }

    #[test]
    fn parts_are_the_messages_that_were_written_however_the_stream_is_read(
        messages in prop::collection::vec(message(), 0..5),
        cuts in prop::collection::vec(1_usize..60, 1..20),
        mask: Option<[u8; 4]>,
        held_below in prop_oneof![Just(0), 0_usize..150],
        shows_parts: bool,
    ) {
        let (stream, expected) = write(&messages, mask);
        let from = if mask.is_some() { Side::Client } else { Side::Service };
        let mut reader = MessageReader::new(from, false);
        let wish = Wish { shows_parts, ..parted(usize::MAX, held_below) };
        let seen = read_with(&mut reader, wish, cut(&stream, &cuts)).unwrap();
        prop_assert!(reader.is_idle());
        // Pings may overtake what is held, so messages and pings are compared by themselves.
        let (mut data, mut pings) = (Vec::new(), Vec::new());
        let mut begun: Option<(Vec<u8>, Vec<u8>)> = None;
        for seen in seen {
            match seen {
                Seen::Message(MessageKind::Ping, ..) => pings.push(seen),
                Seen::Message(_, payload, wire) => {
                    prop_assert!(begun.is_none());
                    data.push((payload, wire));
                }
                Seen::Part { kind, payload, wire, first, last, is_frame } => {
                    prop_assert_eq!(first, begun.is_none());
                    let (before, sent) = begun.get_or_insert_default();
                    before.extend_from_slice(&payload);
                    sent.extend_from_slice(&wire);
                    if kind == MessageKind::Text {
                        prop_assert!(std::str::from_utf8(&payload).is_ok());
                    }
                    if is_frame && shows_parts {
                        let header = FrameHeader::parse(&wire).unwrap().unwrap();
                        prop_assert_eq!(header.payload_len, payload.len() as u64);
                        prop_assert_eq!(header.fin, last);
                    }
                    if last {
                        data.extend(begun.take());
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        let (expected_pings, expected): (Vec<_>, Vec<_>) = expected
            .into_iter()
            .partition(|seen| matches!(seen, Seen::Message(MessageKind::Ping, ..)));
        prop_assert_eq!(pings, expected_pings);
        prop_assert_eq!(data.len(), expected.len());
        for ((payload, wire), expected) in data.into_iter().zip(expected) {
            let Seen::Message(_, expected_payload, expected_wire) = expected else { unreachable!() };
            prop_assert_eq!(wire, expected_wire);
            if shows_parts || !payload.is_empty() {
                prop_assert_eq!(payload, expected_payload);
            }
        }
    }

    #[test]
    fn a_message_reads_as_it_was_written(
        payload in prop::collection::vec(any::<u8>(), 0..MAX),
        mask: Option<[u8; 4]>,
    ) {
        let mut wire = Vec::new();
        encode_frame(&mut wire, Opcode::Binary, mask, &payload);
        let from = if mask.is_some() { Side::Client } else { Side::Service };
        let seen = read(&mut MessageReader::new(from, false), [&wire[..]]);
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
        let mut reader = MessageReader::new(from, true);
        let seen = read(&mut reader, cut(&stream, &cuts)).unwrap();
        let inflated = seen.into_iter().map(|seen| match seen {
            Seen::Compressed(_, payload, wire) => {
                (codec.inflater.inflate(&payload, MAX).unwrap().to_vec(), wire)
            }
            Seen::Message(_, payload, wire) => (payload, wire),
            Seen::Close(..) | Seen::Part { .. } => unreachable!(),
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
        let mut reader = MessageReader::new(from, may_compress);
        drop(read_with(&mut reader, held(64), reads.iter().map(Vec::as_slice)));
        prop_assert!(reader.buffered_bytes() <= 2 * (2 * 136 + MIN_FRAGMENT_HEADERS));
    }

    #[test]
    fn frames_that_may_follow_each_other_never_take_more_memory_than_allowed(
        frames in prop::collection::vec(
            (any::<bool>(), prop::sample::select(&[0x0_u8, 0x0, 0x0, 0x1, 0x2, 0x8, 0x9, 0xa][..]), 0_usize..40),
            0..200,
        ),
    ) {
        let mut reader = MessageReader::new(Side::Service, false);
        let mut scratch = Vec::new();
        for (fin, opcode, length) in frames {
            let mut frame = vec![u8::from(fin) << 7 | opcode, u8::try_from(length).unwrap()];
            frame.resize(2 + length, b'a');
            if let Ok((event, used)) = reader.next(&frame, &mut scratch, |_| held(64)) {
                prop_assert_eq!(used, frame.len());
                if let Event::Message { payload, wire, .. } = event {
                    prop_assert!(payload.len() <= 125 && wire.len() <= payload.len() + 400);
                }
            }
            prop_assert!(reader.buffered_bytes() <= 2 * (2 * 64 + 400));
        }
    }
}
