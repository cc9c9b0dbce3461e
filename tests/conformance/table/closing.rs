//! Close frames: codes, reasons, and what follows them (RFC 6455 §5.5.1, §7.4).

use super::super::speaker::Part;
use super::super::{Case, case};
use crate::harness::{Frame, binary, close, ping, text};

const CODE: &str = "RFC 6455 §7.4";
const FRAME: &str = "RFC 6455 §5.5.1";

/// Codes, by who may send them: everybody, or nobody. To 1014 they are registered with IANA.
const CODES: [(u16, u16, bool); 9] = [
    (0, 999, false),
    (1000, 1003, true),
    (1004, 1006, false),
    (1007, 1014, true),
    (1015, 1015, false),
    (1016, 1999, false),
    (2000, 2999, false),
    (3000, 4999, true),
    (5000, u16::MAX, false),
];

pub(super) fn cases() -> Vec<Case> {
    let mut rows: Vec<_> = codes().collect();
    rows.extend(reasons());
    rows.extend(what_follows());
    rows
}

/// All of a short range, the ends of a long one.
fn codes() -> impl Iterator<Item = Case> {
    CODES.into_iter().flat_map(|(first, last, allowed)| {
        let all =
            (first..=last).filter(move |code| last - first < 10 || [first, last].contains(code));
        all.flat_map(move |code| {
            ["", "why"].map(|reason| {
                let frame = close(code, reason);
                let row = case(
                    CODE,
                    format!("a close with code {code} and reason {reason:?}"),
                );
                let row = row.sends([frame.clone()]);
                if allowed {
                    row.closed(frame)
                } else {
                    row.fails(1002)
                }
            })
        })
    })
}

fn reasons() -> Vec<Case> {
    let mut rows = vec![
        case(FRAME, "a close without a code")
            .sends([Frame::new(8, "")])
            .closed(Frame::new(8, "")),
        case(FRAME, "a close with half a code")
            .sends([Frame::new(8, [3])])
            .fails(1002),
    ];
    for length in [1, 122, 123] {
        let frame = close(1000, &"r".repeat(length));
        rows.push(
            case(FRAME, format!("a reason of {length} bytes"))
                .sends([frame.clone()])
                .closed(frame),
        );
    }
    rows.push(
        case("RFC 6455 §5.5", "a reason of 124 bytes")
            .sends([close(1000, &"r".repeat(124))])
            .fails(1002),
    );
    for reason in ["é", "κόσμε", "\u{10ffff}", "\0"] {
        let frame = close(4321, reason);
        rows.push(
            case(FRAME, format!("the reason {reason:?}"))
                .sends([frame.clone()])
                .closed(frame),
        );
    }
    for reason in [
        b"\xff".as_slice(),
        b"\xc3",
        b"ok \xed\xa0\x80",
        b"\xf4\x90\x80\x80",
    ] {
        let payload = [&[0x03, 0xe8], reason].concat();
        rows.push(
            case("RFC 6455 §5.5.1, §8.1", format!("the reason {reason:x?}"))
                .sends([Frame::new(8, payload)])
                .fails(1007),
        );
    }
    rows
}

/// After a Close frame nothing means anything.
fn what_follows() -> Vec<Case> {
    let bye = close(1000, "bye");
    let row = |name: &str| case(FRAME, name).closed(bye.clone());
    vec![
        row("a message after a close").sends([bye.clone(), text("more")]),
        row("a ping after a close").sends([bye.clone(), ping("more")]),
        row("a second close").sends([bye.clone(), close(4000, "again")]),
        row("a broken frame after a close").sends([
            Part::Frame(bye.clone()),
            Part::Frame(Frame::new(7, "?")),
            Part::WronglyMasked(text("?")),
        ]),
        row("messages before a close")
            .sends([text("one"), binary("two"), bye.clone()])
            .answered([text("one"), binary("two")]),
        row("a close with which its sender ends its side")
            .sends([bye.clone()])
            .ending(),
        row("messages, and a close with which their sender ends its side")
            .sends((0..20).map(|n| binary(vec![n; 5000])))
            .sends([bye.clone()])
            .answered((0..20).map(|n| binary(vec![n; 5000])))
            .ending(),
        row("a close that arrives byte by byte")
            .sends([bye.clone()])
            .in_pieces_of(1),
    ]
}
