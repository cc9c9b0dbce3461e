//! Messages of several frames, and what may come between them (RFC 6455 §5.4).

use super::super::modes::Mode;
use super::super::speaker::fragments;
use super::super::{Case, case};
use crate::harness::{Frame, binary, close, ping, pong, text};

const SECTION: &str = "RFC 6455 §5.4";

pub(super) fn cases() -> Vec<Case> {
    let mut rows = wholes();
    rows.extend(between());
    rows.extend(orders());
    rows
}

/// Messages in so many fragments, of so many bytes each.
fn wholes() -> Vec<Case> {
    let mut rows = Vec::new();
    for (count, length) in [
        (2, 0),
        (2, 1),
        (3, 1),
        (10, 10),
        (5, 126),
        (2, 30_000),
        (500, 100),
    ] {
        for (kind, opcode) in [("text", 1), ("binary", 2)] {
            let payload = vec![b'f'; count * length];
            rows.push(
                case(
                    SECTION,
                    format!("{kind} in {count} fragments of {length} bytes"),
                )
                .sends(fragments(opcode, 0, &payload, count))
                .answered([Frame::new(opcode, payload)]),
            );
        }
    }
    for empty in ["first", "middle", "last"] {
        let part = |name| Frame::continuation(if name == empty { "" } else { "part" });
        let first = Frame {
            opcode: 1,
            ..part("first").unfinished()
        };
        let rest = [part("middle").unfinished(), part("last")];
        rows.push(
            case(SECTION, format!("an empty fragment, the {empty}"))
                .sends([first].into_iter().chain(rest))
                .answered([text("partpart")]),
        );
    }
    let payload = "byte by byte".repeat(3);
    rows.push(
        case(SECTION, "fragments that arrive byte by byte")
            .sends(fragments(1, 0, payload.as_bytes(), 5))
            .answered([text(payload)])
            .in_pieces_of(1),
    );
    let many = (0..20_000).map(|_| Frame::continuation("").unfinished());
    rows.push(
        case(SECTION, "20,000 fragments without a payload")
            .sends([binary("begin").unfinished()].into_iter().chain(many))
            .sends([Frame::continuation("end")])
            .answered([binary("beginend")])
            .but_in(
                Mode::Filtered,
                Some(1009),
                "the proxy holds a message with its frame headers, and bounds both",
            ),
    );
    rows
}

/// Control frames between fragments.
fn between() -> Vec<Case> {
    let mut rows = Vec::new();
    for (name, control, answers) in [
        ("a ping", ping("?"), vec![pong("?")]),
        ("an empty ping", ping(""), vec![pong("")]),
        ("a pong", pong("!"), vec![]),
        ("a ping of 125 bytes", ping([1; 125]), vec![pong([1; 125])]),
    ] {
        for at in 1..4 {
            let mut frames = fragments(1, 0, b"in four parts now", 4);
            frames.insert(at, control.clone());
            rows.push(
                case("RFC 6455 §5.5", format!("{name} after fragment {at} of 4"))
                    .sends(frames)
                    .answered(answers.clone())
                    .answered([text("in four parts now")]),
            );
        }
    }
    let frames = fragments(2, 0, &[0; 6], 3);
    let pinged = frames.into_iter().flat_map(|frame| [frame, ping("p")]);
    rows.push(
        case("RFC 6455 §5.5", "a ping after each fragment")
            .sends(pinged)
            .answered([pong("p"), pong("p"), binary([0; 6]), pong("p")]),
    );
    rows.push(
        case("RFC 6455 §5.5.1", "a close after the first fragment")
            .sends([text("never").unfinished(), close(1001, "away")])
            .closed(close(1001, "away")),
    );
    rows
}

/// Fragments where none belong.
fn orders() -> Vec<Case> {
    let row = |name: &str, frames: Vec<Frame>| case(SECTION, name).sends(frames).fails(1002);
    let part = |payload: &str| Frame::continuation(payload);
    vec![
        row("a continuation of nothing", vec![part("x")]),
        row(
            "an unfinished continuation of nothing",
            vec![part("x").unfinished()],
        ),
        row(
            "a continuation after a whole message",
            vec![text("whole"), part("x")],
        )
        .answered([text("whole")]),
        row(
            "a continuation after the last fragment",
            vec![text("a").unfinished(), part("b"), part("c")],
        )
        .answered([text("ab")]),
        row("text within text", vec![text("a").unfinished(), text("b")]),
        row(
            "binary within text",
            vec![text("a").unfinished(), binary("b")],
        ),
        row(
            "text within binary",
            vec![binary("a").unfinished(), text("b")],
        ),
        row(
            "an unfinished message within another",
            vec![text("a").unfinished(), text("b").unfinished()],
        ),
        row(
            "a message after the second fragment",
            vec![text("a").unfinished(), part("b").unfinished(), text("c")],
        ),
        row(
            "a fragmented ping within a message",
            vec![text("a").unfinished(), ping("").unfinished()],
        ),
        row("a fragmented close", vec![close(1000, "").unfinished()]),
        row("a continued ping", vec![ping("a").unfinished(), part("b")]),
        case(
            SECTION,
            "messages one after the other, whole and in fragments",
        )
        .sends([text("one")])
        .sends(fragments(2, 0, b"two", 2))
        .sends([text("three"), binary("")])
        .sends(fragments(1, 0, b"four", 4))
        .answered([
            text("one"),
            binary("two"),
            text("three"),
            binary(""),
            text("four"),
        ]),
    ]
}
