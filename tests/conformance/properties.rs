//! Conversations that nobody thought of: random frames, cut at random, with compression and without.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;

use super::endpoint::Side;
use super::modes::{Mode, Stage};
use super::speaker::{Part, fragments};
use super::{Case, case};
use crate::harness::{Frame, ping, pong};

/// Conversations that are held.
const CONVERSATIONS: u32 = 200;

/// A data message and how it is sent.
#[derive(Debug, Clone)]
struct Message {
    opcode: u8,
    payload: Vec<u8>,
    compressed: bool,
    fragments: usize,
    /// Sent after the first fragment, if there is a second; else behind.
    ping: Option<Vec<u8>>,
}

/// What repeats itself, so that it can be compressed, and is UTF-8 cut or not.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 0..300_usize, 1 => 60_000..66_000_usize];
    (any::<[char; 3]>(), length).prop_map(|(characters, length)| {
        let word: String = characters.iter().collect();
        word.repeat(length / word.len()).into_bytes()
    })
}

fn message() -> impl Strategy<Value = Message> {
    let ping = prop::option::of(prop::collection::vec(any::<u8>(), 0..=125));
    let parts = (1..=2_u8, payload(), any::<bool>(), 1..6_usize, ping);
    parts.prop_map(|(opcode, payload, compressed, fragments, ping)| Message {
        opcode,
        payload,
        compressed,
        fragments,
        ping,
    })
}

/// A row of these messages, written in pieces of so many bytes.
fn row(messages: Vec<Message>, offer: &str, pieces: usize) -> Case {
    let mut row = case("RFC 6455 §5, RFC 7692 §6", "any frames").offering(offer);
    row.pieces = pieces;
    for Message {
        opcode,
        payload,
        compressed,
        fragments: count,
        ping: pinged,
    } in messages
    {
        let whole = Frame::new(opcode, &payload);
        let mut parts = if compressed && !offer.is_empty() {
            vec![Part::Compressed(whole.clone(), count)]
        } else {
            let frames = fragments(opcode, 0, &payload, count);
            frames.into_iter().map(Part::Frame).collect()
        };
        let mut answers = vec![whole];
        if let Some(payload) = pinged {
            let (at, first) = if parts.len() > 1 { (1, 0) } else { (1, 1) };
            parts.insert(at, ping(&payload).into());
            answers.insert(first, pong(&payload));
        }
        row = row.sends(parts).answered(answers);
    }
    row
}

#[test]
fn any_frames_cut_anywhere_arrive_as_they_were_sent() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::start());
    let messages = prop::collection::vec(message(), 0..12);
    let offer = prop::sample::select(vec![
        "",
        "permessage-deflate",
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
    ]);
    let pieces = prop_oneof![1..20_usize, 20..5000_usize, Just(usize::MAX)];
    let speaker = prop::sample::select(vec![Side::Client, Side::Service]);
    let mode = prop::sample::select(vec![Mode::Unfiltered, Mode::Filtered]);
    let mut runner = TestRunner::new(Config {
        cases: CONVERSATIONS,
        failure_persistence: None,
        ..Config::default()
    });
    let conversations = (messages, offer, pieces, speaker, mode);
    let held = runner.run(
        &conversations,
        |(messages, offer, pieces, speaker, mode)| {
            let row = Arc::new(row(messages, offer, pieces));
            let held = runtime.block_on(stage.hold(&row, mode, speaker));
            held.map_err(TestCaseError::fail)
        },
    );
    held.unwrap_or_else(|problem| panic!("{problem}"));
}
