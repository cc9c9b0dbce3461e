//! Messages as long as they may be, and longer (RFC 6455 §10.4: 1009).

use super::super::speaker::{Part, fragments};
use super::super::{Case, LIMIT, case};
use crate::harness::{Frame, binary, ping, pong, text};

const SECTION: &str = "RFC 6455 §7.4.1 (1009), §10.4";

pub(super) fn cases() -> Vec<Case> {
    let mut rows = Vec::new();
    for (kind, opcode) in [("text", 1), ("binary", 2)] {
        let whole = |length| Frame::new(opcode, vec![b'l'; length]);
        rows.extend([
            case(SECTION, format!("{kind} as long as it may be"))
                .sends([whole(LIMIT)])
                .answered([whole(LIMIT)]),
            case(SECTION, format!("{kind} of one byte more"))
                .sends([whole(LIMIT + 1)])
                .fails(1009),
        ]);
        for count in [2, 3, 70] {
            let parts = |length| fragments(opcode, 0, &vec![b'l'; length], count);
            rows.extend([
                case(
                    SECTION,
                    format!("{kind} as long as it may be, in {count} fragments"),
                )
                .sends(parts(LIMIT))
                .answered([whole(LIMIT)]),
                case(
                    SECTION,
                    format!("{kind} of one byte more, in {count} fragments"),
                )
                .sends(parts(LIMIT + 1))
                .fails(1009),
            ]);
        }
    }
    // Refused at their headers: no byte of them ever comes.
    let lengths = [
        LIMIT as u64 + 1,
        1 << 31,
        1 << 32,
        (1 << 53) - 1,
        1 << 53,
        (1 << 63) - 1,
    ];
    rows.extend(lengths.map(|length| {
        case(SECTION, format!("the header of a frame of {length} bytes"))
            .sends([Part::Header(binary(""), length)])
            .fails(1009)
    }));
    rows.push(
        case(SECTION, "the header of a last fragment that is too long")
            .sends([Part::Frame(text("begun").unfinished())])
            .sends([Part::Header(Frame::continuation(""), LIMIT as u64 - 4)])
            .fails(1009),
    );
    rows.push(
        case(SECTION, "control frames do not count")
            .sends([binary(vec![1; LIMIT]).unfinished(), ping([2; 125])])
            .sends([Frame::continuation("")])
            .answered([pong([2; 125]), binary(vec![1; LIMIT])]),
    );
    rows.push(
        case(SECTION, "ten messages as long as they may be")
            .sends((0..10).map(|n| binary(vec![n; LIMIT])))
            .answered((0..10).map(|n| binary(vec![n; LIMIT]))),
    );
    rows
}
