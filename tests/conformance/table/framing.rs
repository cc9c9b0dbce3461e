//! Single frames: first byte, length, mask (RFC 6455 §5.2, §5.3, §5.5).

use super::super::endpoint::Side;
use super::super::modes::Mode;
use super::super::speaker::Part;
use super::super::{Case, case};
use crate::harness::{Frame, binary, ping, pong, text};

const MINIMAL: &str = "RFC 6455 §5.2 (minimal number of bytes)";
const NODE_TAKES_LONG: &str = "ws takes lengths in more bytes than they need";

pub(super) fn cases() -> Vec<Case> {
    let rows = first_bytes().chain(lengths()).chain(long_lengths());
    rows.chain(control_lengths()).chain(masks()).collect()
}

/// Every opcode with all reserved bits, whole and not.
fn first_bytes() -> impl Iterator<Item = Case> {
    let whole = (0..8).flat_map(|rsv| (0..16).map(move |opcode| first_byte(true, rsv, opcode)));
    whole.chain((0..16).map(|opcode| first_byte(false, 0, opcode)))
}

fn first_byte(fin: bool, rsv: u8, opcode: u8) -> Case {
    let payload = if opcode == 8 { "" } else { "Hello" };
    let frame = Frame {
        fin,
        ..Frame::new(opcode, payload).with_rsv(rsv)
    };
    let name = format!("a first byte of {:#04x}", frame.encode(None)[0]);
    let row = |section| case(section, name).sends([frame.clone()]);
    match (opcode, rsv, fin) {
        (3..=7 | 11.., ..) => row("RFC 6455 §5.2 (opcode)").fails(1002),
        (_, 1.., _) => row("RFC 6455 §5.2 (RSV)").fails(1002),
        (8..=10, _, false) => row("RFC 6455 §5.5").fails(1002),
        (0, ..) => row("RFC 6455 §5.4").fails(1002),
        (8, ..) => row("RFC 6455 §5.5.1").closed(frame),
        (9, ..) => row("RFC 6455 §5.5.2").answered([pong(payload)]),
        (10, ..) => row("RFC 6455 §5.5.3"),
        (_, _, true) => row("RFC 6455 §5.6").answered([frame]),
        (_, _, false) => row("RFC 6455 §5.4")
            .sends([Frame::continuation(" again")])
            .answered([Frame::new(opcode, "Hello again")]),
    }
}

/// Payloads around the lengths where the next form of a length begins.
fn lengths() -> impl Iterator<Item = Case> {
    let boundaries = [0, 1, 124, 125, 126, 127, 128, 255, 256, 65_534, 65_535];
    let lengths = boundaries.into_iter().chain([65_536, 65_537]);
    lengths.flat_map(|length| {
        let kinds = [
            ("text", text(vec![b'x'; length])),
            ("binary", binary(vec![0xff; length])),
        ];
        kinds.map(|(kind, frame)| {
            case(
                "RFC 6455 §5.2 (payload length)",
                format!("{length} bytes of {kind}"),
            )
            .sends([frame.clone()])
            .answered([frame])
        })
    })
}

/// Lengths in more bytes than they need, and such as no frame can have.
fn long_lengths() -> impl Iterator<Item = Case> {
    let too_wide = [
        (0, 2),
        (1, 2),
        (125, 2),
        (0, 8),
        (125, 8),
        (126, 8),
        (65_535, 8),
    ];
    let too_wide = too_wide.into_iter().map(|(length, bytes)| {
        let frame = binary(vec![7; length]);
        case(MINIMAL, format!("a length of {length} in {bytes} bytes"))
            .sends([Part::LongLength(frame.clone(), bytes)])
            .fails(1002)
            .but_answered_in(Mode::Node, vec![frame], NODE_TAKES_LONG)
    });
    let negative = [1 << 63, u64::MAX].into_iter().map(|length| {
        case(
            "RFC 6455 §5.2 (most significant bit)",
            format!("a length of {length}"),
        )
        .sends([Part::Header(binary(""), length)])
        .fails(1002)
        .but_in(
            Mode::Node,
            Some(1009),
            "ws has no numbers over 53 bits, and looks no closer",
        )
    });
    too_wide.chain(negative)
}

/// Control frames carry 125 bytes at most.
fn control_lengths() -> impl Iterator<Item = Case> {
    let fitting = [0, 1, 124, 125].into_iter().flat_map(|length| {
        let payload = vec![0xfe; length];
        [
            case("RFC 6455 §5.5.2", format!("a ping of {length} bytes"))
                .sends([ping(&payload)])
                .answered([pong(&payload)]),
            case(
                "RFC 6455 §5.5.3",
                format!("a pong of {length} bytes nobody asked for"),
            )
            .sends([pong(&payload)]),
        ]
    });
    let long = [8, 9, 10].into_iter().flat_map(|opcode| {
        [126, 65_536].map(|length| {
            let name = format!("opcode {opcode} with {length} bytes");
            let payload = [&[3, 0xe8], vec![b'x'; length - 2].as_slice()].concat();
            case("RFC 6455 §5.5 (125 bytes or less)", name)
                .sends([Frame::new(opcode, payload)])
                .fails(1002)
        })
    });
    let rows = [case("RFC 6455 §5.5.2", "ten pings at once")
        .sends((0..10).map(|n| ping([n])))
        .answered((0..10).map(|n| pong([n])))];
    fitting.chain(long).chain(rows)
}

fn masks() -> impl Iterator<Item = Case> {
    let wrong = [0, 1, 2, 8, 9, 10].into_iter().map(|opcode| {
        case(
            "RFC 6455 §5.1",
            format!("opcode {opcode}, masked as the other side does"),
        )
        .sends([Part::WronglyMasked(Frame::new(opcode, ""))])
        .fails(1002)
    });
    let keys = [[0; 4], [0xff; 4], [1, 2, 3, 4], [0, 0, 0, 0x80]];
    let right = keys.into_iter().flat_map(|key| {
        [0, 1, 3, 4, 5, 8, 1000].map(|length| {
            let frame = text(vec![b'm'; length]);
            case(
                "RFC 6455 §5.3",
                format!("{length} bytes masked with {key:x?}"),
            )
            .sends([Part::Key(frame.clone(), key)])
            .answered([frame])
            .only_from(&[Side::Client])
        })
    });
    let changing = case("RFC 6455 §5.3", "a mask of its own for each fragment")
        .sends([
            Part::Key(text("one ").unfinished(), [1, 2, 3, 4]),
            Part::Key(Frame::continuation("two ").unfinished(), [0; 4]),
            Part::Key(Frame::continuation("three"), [0xff, 0, 0xff, 0]),
        ])
        .answered([text("one two three")])
        .only_from(&[Side::Client]);
    wrong.chain(right).chain([changing])
}
