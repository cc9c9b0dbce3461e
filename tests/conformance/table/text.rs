//! UTF-8 in text messages (RFC 6455 §5.6, §8.1), by the syntax of RFC 3629 §4.

use super::super::modes::Mode;
use super::super::speaker::{Part, fragments};
use super::super::{Case, case};
use crate::harness::{Frame, binary, text};

const TEXT: &str = "RFC 6455 §5.6, RFC 3629 §4";
const WRONG: &str = "RFC 6455 §8.1, RFC 3629 §4";
const NODE_WAITS: &str = "ws judges a text when it is whole";

/// Well-formed characters: ranges of the first and of the second byte, and how many bytes follow.
const SYNTAX: [(u8, u8, u8, u8, usize); 8] = [
    (0xc2, 0xdf, 0x80, 0xbf, 0),
    (0xe0, 0xe0, 0xa0, 0xbf, 1),
    (0xe1, 0xec, 0x80, 0xbf, 1),
    (0xed, 0xed, 0x80, 0x9f, 1),
    (0xee, 0xef, 0x80, 0xbf, 1),
    (0xf0, 0xf0, 0x90, 0xbf, 2),
    (0xf1, 0xf3, 0x80, 0xbf, 2),
    (0xf4, 0xf4, 0x80, 0x8f, 2),
];

pub(super) fn cases() -> Vec<Case> {
    let mut rows = Vec::new();
    for character in characters() {
        rows.extend(well_formed(&character));
        rows.extend(cut_off(&character));
    }
    for bytes in malformed() {
        rows.extend(refused(&bytes));
    }
    rows.extend(others());
    rows
}

/// First and last character of each row of the syntax.
fn characters() -> Vec<Vec<u8>> {
    let ends = SYNTAX
        .into_iter()
        .flat_map(|(low, high, second, last, tail)| {
            let first = [vec![low, second], vec![0x80; tail]].concat();
            let last = [vec![high, last], vec![0xbf; tail]].concat();
            [first, last]
        });
    [vec![0x00], vec![0x7f]].into_iter().chain(ends).collect()
}

/// First bytes that begin no character, and characters whose second byte is just out of range: what
/// is overlong, a surrogate, or over U+10FFFF.
fn malformed() -> Vec<Vec<u8>> {
    let never = [0x80, 0xbf, 0xc0, 0xc1, 0xf5, 0xff].map(|byte| vec![byte]);
    let beside = SYNTAX
        .into_iter()
        .flat_map(|(low, high, second, last, tail)| {
            let tail = vec![0x80; tail];
            [
                [&[low, second - 1], &tail[..]].concat(),
                [&[high, last + 1], &tail[..]].concat(),
            ]
        });
    never.into_iter().chain(beside).collect()
}

fn well_formed(character: &[u8]) -> Vec<Case> {
    let payload = [b"before ", character, b" after"].concat();
    let mut rows = vec![
        case(TEXT, format!("the character {character:x?}"))
            .sends([text(&payload)])
            .answered([text(&payload)]),
    ];
    if character.len() > 1 {
        rows.push(
            case(
                TEXT,
                format!("the character {character:x?}, cut by fragments"),
            )
            .sends(fragments(1, 0, &payload, payload.len()))
            .answered([text(&payload)])
            .in_pieces_of(5),
        );
    }
    rows
}

/// The last byte of a character is missing.
fn cut_off(character: &[u8]) -> Option<Case> {
    let (_, rest) = character.split_last()?;
    let row = || case(WRONG, format!("text that ends with {rest:x?}"));
    (!rest.is_empty()).then(|| row().sends([text([b"before ", rest].concat())]).fails(1007))
}

fn refused(bytes: &[u8]) -> Vec<Case> {
    let payload = [b"before ", bytes, b" after"].concat();
    let row = |how: &str| case(WRONG, format!("{bytes:x?} {how}")).fails(1007);
    let two = fragments(1, 0, &payload, 2);
    vec![
        row("in a text").sends([text(&payload)]),
        row("in the fragments of a text").sends(two),
        row("is no error in binary")
            .sends([binary(&payload)])
            .answered([binary(&payload)])
            .closed(super::super::speaker::farewell()),
        // Nobody waits for the rest.
        row("in a text whose last fragment never comes")
            .sends([text(&payload).unfinished()])
            .not_in(Mode::Node, NODE_WAITS),
        row("in a frame whose end never comes")
            .sends([Part::Cut(
                text([&payload[..], &[b'x'; 100]].concat()),
                payload.len(),
            )])
            .not_in(Mode::Node, NODE_WAITS),
    ]
}

fn others() -> Vec<Case> {
    let long = "κόσμε ".repeat(5000);
    let cut = [b"caf\xc3".as_slice(), b"(".as_slice()];
    vec![
        case(TEXT, "a long text of two bytes a character")
            .sends([text(&long)])
            .answered([text(&long)]),
        case(TEXT, "the same in fragments that cut characters")
            .sends(fragments(1, 0, long.as_bytes(), 7))
            .answered([text(&long)]),
        case(TEXT, "U+FFFE, U+FFFF and U+FEFF, which are characters here")
            .sends([text("\u{fffe}\u{ffff}\u{feff}")])
            .answered([text("\u{fffe}\u{ffff}\u{feff}")]),
        case(WRONG, "a character that the next fragment does not finish")
            .sends([
                text(cut[0]).unfinished(),
                Frame::continuation(cut[1]).unfinished(),
            ])
            .fails(1007)
            .not_in(Mode::Node, NODE_WAITS),
        case(
            WRONG,
            "a character that an empty last fragment does not finish",
        )
        .sends([text(cut[0]).unfinished(), Frame::continuation("")])
        .fails(1007),
        case(WRONG, "a long text whose last byte is wrong")
            .sends([text([long.as_bytes(), b"\xff"].concat())])
            .fails(1007),
    ]
}
