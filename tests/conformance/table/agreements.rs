//! What is agreed on of `permessage-deflate`, and what has to be kept to then (RFC 7692 §5, §7.1).

use super::super::deflate::Deflater;
use super::super::modes::Mode;
use super::super::speaker::Part;
use super::super::{Case, case};
use super::compression::{DEFLATE, HELLOS, compressed, long, raw, row};
use crate::harness::{Frame, binary, text};

const NODE_REFUSES: &str = "ws does not decline a bad offer: it refuses the handshake, or takes it";
const TAKEN_OVER: &str = "a filtered route agrees on no context takeover";

pub(super) fn cases() -> Vec<Case> {
    let mut rows = offers();
    rows.extend(takeovers());
    rows.extend(windows());
    rows
}

/// Compresses one message after the other with the window of the first.
fn taking_over(messages: &[&str]) -> Vec<Frame> {
    let mut deflater = Deflater::new(15, true);
    let deflated = messages
        .iter()
        .map(|message| deflater.deflate(message.as_bytes()));
    deflated.map(|wire| raw(&wire.unwrap())).collect()
}

/// Offers, and conversations on what came of them: two messages that take context over if they may.
fn offers() -> Vec<Case> {
    let parameters = [
        "",
        "; server_no_context_takeover",
        "; client_no_context_takeover",
        "; server_no_context_takeover; client_no_context_takeover",
        "; client_max_window_bits",
        "; client_no_context_takeover; client_max_window_bits; server_no_context_takeover",
    ];
    let windows = (8..=15).flat_map(|bits| {
        [
            format!("; server_max_window_bits={bits}"),
            format!("; client_max_window_bits={bits}"),
            format!("; server_max_window_bits={bits}; client_max_window_bits"),
        ]
    });
    let quoted = ["; server_max_window_bits=\"12\"".to_owned()];
    let accepted = parameters
        .map(str::to_owned)
        .into_iter()
        .chain(windows)
        .chain(quoted);
    let declined = [
        "; mystery",
        "; mystery=1",
        "; server_no_context_takeover=1",
        "; client_no_context_takeover=true",
        "; server_max_window_bits",
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=010",
        "; server_max_window_bits=x",
        "; client_max_window_bits=7",
        "; client_max_window_bits=16",
        "; client_max_window_bits=",
        "; server_no_context_takeover; server_no_context_takeover",
        "; server_max_window_bits=10; server_max_window_bits=10",
    ];
    let mut rows: Vec<_> = accepted
        .map(|parameters| {
            let message = text(long());
            case("RFC 7692 §7.1", format!("the offer {DEFLATE}{parameters}"))
                .offering(format!("{DEFLATE}{parameters}"))
                .agreeing(true)
                .sends([compressed(message.clone()), compressed(message.clone())])
                .answered([message.clone(), message])
        })
        .collect();
    rows.extend(declined.map(|parameters| {
        case(
            "RFC 7692 §7.1",
            format!("the bad offer {DEFLATE}{parameters}"),
        )
        .offering(format!("{DEFLATE}{parameters}"))
        .agreeing(false)
        .sends([text(long())])
        .answered([text(long())])
        .not_in(Mode::Node, NODE_REFUSES)
    }));
    for (name, offer, agrees) in [
        ("an unknown extension", "x-compress; level=9", false),
        (
            "an unknown extension before",
            "x-compress, permessage-deflate",
            true,
        ),
        (
            "a better offer before",
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            true,
        ),
    ] {
        rows.push(
            case("RFC 6455 §9.1, RFC 7692 §5.1", name)
                .offering(offer)
                .agreeing(agrees)
                .sends([text(long())])
                .answered([text(long())]),
        );
    }
    rows.push(
        case("RFC 7692 §5.1", "a bad offer before a good one")
            .offering(format!("{DEFLATE}; mystery, {DEFLATE}"))
            .agreeing(true)
            .sends([text(long())])
            .answered([text(long())])
            .not_in(Mode::Node, NODE_REFUSES),
    );
    rows.push(
        case("RFC 7692 §6", "a compressed bit without an agreement")
            .sends([raw(HELLOS[0].2)])
            .fails(1002),
    );
    rows
}

/// Whether a message may refer to the one before it.
fn takeovers() -> Vec<Case> {
    let twice = || [text("Hello"), text("Hello")];
    let all = "server_no_context_takeover; client_no_context_takeover";
    vec![
        row(
            "RFC 7692 §7.2.3.2",
            "a second Hello that refers to the first",
        )
        .sends([raw(HELLOS[0].2), raw(&[0xf2, 0x00, 0x11, 0x00, 0x00])])
        .answered(twice())
        .but_in(Mode::Filtered, Some(1007), TAKEN_OVER),
        row(
            "RFC 7692 §7.1.1",
            "a message that refers to one before, against the agreement",
        )
        .offering(format!("{DEFLATE}; {all}"))
        .sends(taking_over(&["Hello", "Hello"]))
        .answered([text("Hello")])
        .fails(1007),
        row(
            "RFC 7692 §7.1.1",
            "messages that refer to nothing, though they may",
        )
        .sends([raw(HELLOS[0].2), raw(HELLOS[0].2)])
        .answered(twice()),
        row(
            "RFC 7692 §7.2.1",
            "context over a message that is not compressed",
        )
        .sends([
            compressed(text(long())),
            Part::Frame(text("plain")),
            compressed(text(long())),
        ])
        .answered([text(long()), text("plain"), text(long())]),
    ]
}

/// A message that repeats itself further back than the smaller windows reach.
fn windows() -> Vec<Case> {
    let noise = (0_u32..5000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
    let noise: Vec<u8> = noise.collect();
    let message = binary(noise.repeat(4));
    let offers = (9..=15).map(|bits| {
        format!("{DEFLATE}; server_max_window_bits={bits}; client_max_window_bits={bits}")
    });
    offers
        .map(|offer| {
            case("RFC 7692 §7.1.2", format!("a long message with {offer}"))
                .offering(offer)
                .agreeing(true)
                .sends([compressed(message.clone()), compressed(message.clone())])
                .answered([message.clone(), message.clone()])
        })
        .collect()
}
