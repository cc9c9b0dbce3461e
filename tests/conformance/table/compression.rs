//! Messages that are compressed, or say so (RFC 7692 §6, §7.2).

use super::super::deflate::Deflater;
use super::super::modes::Mode;
use super::super::speaker::{Part, fragments};
use super::super::{Case, LIMIT, case};
use crate::harness::{Frame, binary, close, ping, pong, text};

pub(super) const DEFLATE: &str = "permessage-deflate";
const RSV1: u8 = 0b100;

const NODE_TAKES_PART: &str = "ws takes what zlib hands out of a message that is cut short";

/// "Hello" in every way that RFC 7692 shows, and the section that does.
pub(super) const HELLOS: [(&str, &str, &[u8]); 4] = [
    (
        "RFC 7692 §7.2.3.1",
        "one compressed block",
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
    ),
    (
        "RFC 7692 §7.2.3.3",
        "a block that is not compressed",
        &[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ],
    ),
    (
        "RFC 7692 §7.2.3.4",
        "a final block",
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
    ),
    (
        "RFC 7692 §7.2.3.5",
        "two blocks",
        &[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ],
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let mut rows = hellos();
    rows.extend(messages());
    rows.extend(reserved_bits());
    rows.extend(broken());
    rows.extend(limits());
    rows
}

/// A row on a connection that agreed on compression.
pub(super) fn row(section: &'static str, name: impl Into<String>) -> Case {
    case(section, name).offering(DEFLATE)
}

pub(super) fn compressed(frame: Frame) -> Part {
    Part::Compressed(frame, 1)
}

/// A message whose payload is DEFLATE data already.
pub(super) fn raw(payload: &[u8]) -> Frame {
    text(payload).with_rsv(RSV1)
}

/// What compresses well.
pub(super) fn long() -> String {
    "so it goes, and so it goes on, and on. ".repeat(40)
}

fn alone(message: impl AsRef<[u8]>) -> Vec<u8> {
    Deflater::new(15, false).deflate(message.as_ref()).unwrap()
}

fn hellos() -> Vec<Case> {
    let mut rows = Vec::new();
    for (section, name, wire) in HELLOS {
        rows.push(
            row(section, name)
                .sends([raw(wire)])
                .answered([text("Hello")]),
        );
        for count in 2..=wire.len() {
            rows.push(
                row("RFC 7692 §6.1", format!("{name}, in {count} fragments"))
                    .sends(fragments(1, RSV1, wire, count))
                    .answered([text("Hello")]),
            );
        }
    }
    rows.push(
        row("RFC 7692 §7.2.3.6", "an empty message")
            .sends([raw(&[0])])
            .answered([text("")]),
    );
    rows.push(
        row("RFC 7692 §7.2.3.6", "an empty message between others")
            .sends([raw(HELLOS[0].2), raw(&[0]), raw(HELLOS[0].2)])
            .answered([text("Hello"), text(""), text("Hello")]),
    );
    rows
}

/// Messages of all kinds, compressed and not.
fn messages() -> Vec<Case> {
    let mut rows = Vec::new();
    for length in [0, 1, 125, 126, 1000, 65_535, 65_536, LIMIT] {
        for kind in [1, 2] {
            let message = Frame::new(kind, long().repeat(60).as_bytes().get(..length).unwrap());
            rows.push(
                row(
                    "RFC 7692 §7.2",
                    format!("opcode {kind}, {length} bytes compressed"),
                )
                .sends([compressed(message.clone())])
                .answered([message]),
            );
        }
    }
    for pieces in [2, 3, 17] {
        let message = text(long());
        rows.push(
            row(
                "RFC 7692 §6.1",
                format!("a compressed text in {pieces} fragments"),
            )
            .sends([Part::Compressed(message.clone(), pieces)])
            .answered([message]),
        );
    }
    let wire = alone(long());
    let mut parts = fragments(1, RSV1, &wire, 3);
    parts.insert(1, ping("between"));
    rows.push(
        row("RFC 7692 §6.1", "a ping within a compressed message")
            .sends(parts)
            .answered([pong("between"), text(long())]),
    );
    rows.push(
        row("RFC 7692 §6", "compressed and plain messages in turn")
            .sends([compressed(text("one")), text("two").into()])
            .sends([
                compressed(binary("three")),
                ping("!").into(),
                binary("four").into(),
            ])
            .answered([
                text("one"),
                text("two"),
                binary("three"),
                pong("!"),
                binary("four"),
            ]),
    );
    let cut = alone("caf\u{e9} ".repeat(30));
    rows.push(
        row(
            "RFC 7692 §6.1",
            "a compressed text whose characters are cut by fragments",
        )
        .sends(fragments(1, RSV1, &cut, cut.len()))
        .answered([text("caf\u{e9} ".repeat(30))]),
    );
    rows.push(
        row(
            "RFC 7692 §6",
            "a compressed message that arrives byte by byte",
        )
        .sends([raw(HELLOS[0].2)])
        .answered([text("Hello")])
        .in_pieces_of(1),
    );
    rows.push(
        row("RFC 7692 §7.2.3.3", "noise that cannot be compressed")
            .sends([compressed(binary(
                (0..9000_u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                    .collect::<Vec<_>>(),
            ))])
            .answered([binary(
                (0..9000_u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                    .collect::<Vec<_>>(),
            )]),
    );
    rows
}

/// RSV1 has a meaning on the first frame of a message only, the others have none at all.
fn reserved_bits() -> Vec<Case> {
    let mut rows = Vec::new();
    for rsv in [1, 2, 3, 5, 6, 7] {
        rows.push(
            row(
                "RFC 6455 §5.2, RFC 7692 §6",
                format!("reserved bits {rsv:03b} on a text"),
            )
            .sends([text(HELLOS[0].2).with_rsv(rsv)])
            .fails(1002),
        );
    }
    for frame in [ping("Hello"), pong("Hello"), close(1000, "")] {
        rows.push(
            row("RFC 7692 §6.1", format!("a compressed bit on {frame:?}"))
                .sends([frame.with_rsv(RSV1)])
                .fails(1002),
        );
    }
    let wire = HELLOS[0].2;
    for rsv in [0, RSV1] {
        let last = Frame::continuation(&wire[3..]).with_rsv(RSV1);
        rows.push(
            row(
                "RFC 7692 §6.1",
                format!("a compressed bit on a continuation of rsv {rsv:03b}"),
            )
            .sends([binary(&wire[..3]).with_rsv(rsv).unfinished(), last])
            .fails(1002),
        );
    }
    rows.push(
        row(
            "RFC 7692 §6.1",
            "a compressed bit on a continuation of nothing",
        )
        .sends([Frame::continuation(wire).with_rsv(RSV1)])
        .fails(1002),
    );
    rows
}

/// What cannot be inflated, or is not text once it is.
fn broken() -> Vec<Case> {
    let section = "RFC 7692 §7.2.2, RFC 6455 §7.4.1 (1007)";
    let hello = HELLOS[0].2;
    let mut rows: Vec<_> = (0..hello.len())
        .map(|length| {
            row(
                section,
                format!("the first {length} bytes of a compressed Hello"),
            )
            .sends([raw(&hello[..length])])
            .fails(1007)
            .not_in(Mode::Node, NODE_TAKES_PART)
        })
        .collect();
    for (name, wire) in [
        ("a block of the type that there is not", &[0x07, 1, 2][..]),
        ("all ones", &[0xff; 20]),
        (
            "a stored block whose length is not what its complement says",
            &[0, 5, 0, 0, 0, b'x'],
        ),
        (
            "a reference to before the message",
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
        ),
        ("plain text", b"Hello, is this compressed?"),
    ] {
        rows.push(row(section, name).sends([raw(wire)]).fails(1007));
        rows.push(
            row(section, format!("{name}, as binary in fragments"))
                .sends(fragments(2, RSV1, wire, 3))
                .fails(1007),
        );
    }
    for (name, payload) in [
        ("overlong", b"\xc0\xaf".as_slice()),
        ("cut off", b"caf\xc3"),
        ("a surrogate", b"\xed\xa0\x80"),
    ] {
        let wire = alone(payload.repeat(20));
        rows.push(
            row(
                "RFC 6455 §8.1, RFC 7692 §6.2",
                format!("compressed text that is {name}"),
            )
            .sends([raw(&wire)])
            .fails(1007),
        );
        rows.push(
            row(
                "RFC 6455 §8.1, RFC 7692 §6.2",
                format!("compressed text that is {name}, in fragments"),
            )
            .sends(fragments(1, RSV1, &wire, 3))
            .fails(1007),
        );
    }
    rows
}

/// What counts is the length that a message has once it is inflated.
fn limits() -> Vec<Case> {
    let section = "RFC 7692 §10, RFC 6455 §7.4.1 (1009)";
    let zeros = |length| binary(vec![0; length]);
    let mut rows = vec![
        row(section, "zeros as long as they may be")
            .sends([compressed(zeros(LIMIT))])
            .answered([zeros(LIMIT)]),
        row(section, "zeros in fragments as long as they may be")
            .sends([Part::Compressed(zeros(LIMIT), 5)])
            .answered([zeros(LIMIT)]),
    ];
    for length in [LIMIT + 1, 1 << 20, 16 << 20] {
        let wire = alone(vec![0; length]);
        rows.push(
            row(section, format!("{length} zeros in {} bytes", wire.len()))
                .sends([raw(&wire)])
                .fails(1009),
        );
        rows.push(
            row(section, format!("{length} zeros in fragments"))
                .sends(fragments(2, RSV1, &wire, 4))
                .fails(1009),
        );
    }
    rows
}
