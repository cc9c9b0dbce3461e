//! What RFC 6455 and RFC 7692 demand, as a table: what is sent, and what has to come of it.
//!
//! Rows are made by the generators of [`table`] from the standards' own tables: every opcode, every
//! boundary of a length, every range of close codes, every well-formed sequence of UTF-8. Each row is
//! sent by a client and by a service, and in three ways: straight to the other end, through a route
//! whose bytes nobody looks at, and through one whose messages all pass a plugin, as they are or with
//! another compression. All must end the same, but for rows that say what is different and why.
//!
//! The other end is [`endpoint`], which knows nothing of the host's code and holds its peer to every
//! rule. So that it is not the only judge of the table, Node's `ws` is asked too.

mod deflate;
mod endpoint;
mod modes;
mod negotiation;
mod properties;
mod speaker;
mod table;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::harness::Frame;
use endpoint::Side;
use modes::{Mode, Stage};
use speaker::Part;

/// Largest message in bytes, for every end: beyond 65,535, where the longest form of a length begins.
const LIMIT: usize = 70_000;

/// Conversations held at once.
const AT_ONCE: usize = 48;

/// One row of the table.
struct Case {
    name: String,
    /// Where the standard demands it.
    section: &'static str,
    /// Who may send this.
    speakers: &'static [Side],
    /// Extensions that the client offers; empty: none.
    offer: String,
    /// Whether the offer is accepted. None: that is no matter of this row.
    agrees: Option<bool>,
    parts: Vec<Part>,
    /// Bytes that are written at once.
    pieces: usize,
    /// The sender ends its side behind them.
    ends: bool,
    expected: Expected,
    /// Where it ends otherwise, and why.
    exceptions: Vec<(Mode, Option<Expected>, &'static str)>,
}

/// What comes of a row.
#[derive(Clone)]
struct Expected {
    /// Answers: messages come back as single frames, and a pong for each ping.
    answers: Vec<Frame>,
    end: End,
}

/// How a conversation is to end.
#[derive(Clone)]
enum End {
    /// By a Close frame that is answered by the same.
    Closed(Frame),
    /// The other end finds fault and says so with this code.
    Failed(u16),
}

/// Begins a row that both sides may send.
fn case(section: &'static str, name: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        section,
        speakers: &[Side::Client, Side::Service],
        offer: String::new(),
        agrees: None,
        parts: Vec::new(),
        pieces: usize::MAX,
        ends: false,
        expected: Expected {
            answers: Vec::new(),
            end: End::Closed(speaker::farewell()),
        },
        exceptions: Vec::new(),
    }
}

impl Case {
    /// What is sent; unless it ends the conversation itself, a Close frame follows.
    fn sends<P: Into<Part>>(mut self, parts: impl IntoIterator<Item = P>) -> Self {
        self.parts.extend(parts.into_iter().map(Into::into));
        self
    }

    /// What comes back.
    fn answered(mut self, answers: impl IntoIterator<Item = Frame>) -> Self {
        self.expected.answers.extend(answers);
        self
    }

    /// The other end answers a Close frame that is sent; it comes back as it is.
    fn closed(mut self, close: Frame) -> Self {
        self.expected.end = End::Closed(close);
        self
    }

    /// The other end closes with this code.
    fn fails(mut self, code: u16) -> Self {
        self.expected.end = End::Failed(code);
        self
    }

    fn only_from(mut self, speakers: &'static [Side]) -> Self {
        self.speakers = speakers;
        self
    }

    fn offering(mut self, offer: impl Into<String>) -> Self {
        self.offer = offer.into();
        self
    }

    fn agreeing(mut self, agrees: bool) -> Self {
        self.agrees = Some(agrees);
        self
    }

    /// Writes so many bytes at once.
    fn in_pieces_of(mut self, bytes: usize) -> Self {
        self.pieces = bytes;
        self
    }

    /// Ends the sender's side of the connection behind what is sent.
    fn ending(mut self) -> Self {
        self.ends = true;
        self
    }

    /// In this mode it fails with another code, or does not fail (None), for this reason.
    fn but_in(mut self, mode: Mode, code: Option<u16>, why: &'static str) -> Self {
        let end = code.map_or_else(|| End::Closed(speaker::farewell()), End::Failed);
        let expected = Expected {
            end,
            ..self.expected.clone()
        };
        self.exceptions.push((mode, Some(expected), why));
        self
    }

    /// As [`Case::but_in`], and with other answers.
    fn but_answered_in(mut self, mode: Mode, answers: Vec<Frame>, why: &'static str) -> Self {
        let end = End::Closed(speaker::farewell());
        let expected = Expected { answers, end };
        self.exceptions.push((mode, Some(expected), why));
        self
    }

    /// In this mode it cannot be tried, for this reason.
    fn not_in(mut self, mode: Mode, why: &'static str) -> Self {
        self.exceptions.push((mode, None, why));
        self
    }

    /// What is expected in a mode; nothing if it is not tried there.
    fn expected_in(&self, mode: Mode) -> Option<&Expected> {
        let mode = mode.excepted_as();
        let exception = self.exceptions.iter().find(|(other, ..)| *other == mode);
        exception.map_or(Some(&self.expected), |(_, expected, _)| expected.as_ref())
    }
}

#[tokio::test]
async fn every_row_ends_as_the_standards_have_it_directly_unfiltered_and_filtered() {
    let (held, problems) = LocalSet::new().run_until(hold_all(table::cases())).await;
    let count = problems.len();
    assert!(
        problems.is_empty(),
        "{count} of {held} conversations ended otherwise:\n{}",
        problems.join("\n")
    );
}

/// Holds the conversations of all rows. Returns how many there were, and what was wrong, in order.
async fn hold_all(cases: Vec<Case>) -> (usize, Vec<String>) {
    let stage = Rc::new(Stage::start().await);
    let permits = Rc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in cases.into_iter().map(Arc::new) {
        for mode in Mode::ALL {
            let speakers = case.speakers.iter().filter(|side| mode.is_for(**side));
            for &speaker in speakers.filter(|_| case.expected_in(mode).is_some()) {
                let (stage, case, permits) = (stage.clone(), case.clone(), permits.clone());
                running.spawn_local(async move {
                    let _permit = permits.acquire().await.unwrap();
                    let held = stage.hold(&case, mode, speaker).await;
                    held.err().map(|problem| {
                        let Case { name, section, .. } = &*case;
                        format!("{section}: {name}; sent by the {speaker}, {mode}: {problem}")
                    })
                });
            }
        }
    }
    let held = running.len();
    let mut problems: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    problems.sort();
    (held, problems)
}

#[test]
fn the_table_has_no_row_twice_and_no_exception_without_a_reason() {
    let cases = table::cases();
    assert!(cases.len() >= 250, "{} rows", cases.len());
    let mut seen = HashSet::new();
    for case in &cases {
        assert!(seen.insert((&case.section, &case.name)), "{}", case.name);
        assert!(case.section.starts_with("RFC "), "{}", case.section);
        let reasons = case.exceptions.iter().map(|(.., why)| why);
        assert!(reasons.clone().all(|why| !why.is_empty()), "{}", case.name);
    }
}
