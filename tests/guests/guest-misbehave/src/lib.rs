//! Breaks the rules of the plugin contract where its configuration says, and leaves all else alone.
//!
//! ```toml
//! config = { phase = "message", how = "loop", when = "spin" }
//! ```
//!
//! `when` is text that must occur in the payload (phase `message`) or else in the target; without
//! it every call counts. In phase `configure` there is nothing to look at. `how`:
//!
//! | | |
//! |---|---|
//! | `trap` | panics |
//! | `loop` | never returns |
//! | `hog` | allocates without end |
//! | `recurse` | calls itself without end |
//! | `handles` | takes handles from the host without end, and keeps them |
//! | `flood` | produces without end: an answer of 256 MiB, messages, or log lines where neither can be had |
//! | `bad-verdict` | answers what the phase does not allow: `wait`, an endpoint that is not there, a ping of 126 bytes in `open`; in `configure` an error, in `close` nothing |
//! | `empty-verdict` | answers `respond` and `replace` without what they need; elsewhere nothing |
//!
//! It uses the contract as it is in `wit/`, since the SDK would not let it do most of this.

// No native linker takes the names that it exports; the SDK's `export!` sees to that by itself.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::hint::black_box;

use serde::Deserialize;

use bindings::exports::tidegate::plugin::{
    balancer, handover, lifecycle, messages, request, response,
};
use bindings::tidegate::plugin::{http, logging, outgoing};
use bindings::wasi::clocks::monotonic_clock;

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from wit/, which documents it"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "
            package tests:misbehave;
            world misbehave {
                include tidegate:plugin/imports@0.1.0;
                export tidegate:plugin/lifecycle@0.1.0;
                export tidegate:plugin/request@0.1.0;
                export tidegate:plugin/response@0.1.0;
                export tidegate:plugin/balancer@0.1.0;
                export tidegate:plugin/messages@0.1.0;
                export tidegate:plugin/handover@0.1.0;
                import wasi:clocks/monotonic-clock@0.2.0;
            }
            package wasi:io@0.2.0 {
                interface poll {
                    resource pollable;
                }
            }
            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    subscribe-duration: func(when: u64) -> pollable;
                }
            }
        ",
        world: "tests:misbehave/misbehave",
        generate_all,
    });
}

struct Misbehave;

/// The configuration.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    phase: Phase,
    how: How,
    #[serde(default)]
    when: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    Configure,
    Request,
    Response,
    Choose,
    Open,
    Message,
    Close,
    Snapshot,
    Restore,
    Release,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    Trap,
    Loop,
    Hog,
    Recurse,
    Handles,
    Flood,
    BadVerdict,
    EmptyVerdict,
}

thread_local! {
    static CONFIG: RefCell<Option<Config>> = const { RefCell::new(None) };
    /// Targets of the open sessions, by number.
    static TARGETS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

impl lifecycle::Guest for Misbehave {
    fn configure(config: String) -> Result<(), String> {
        let config: Config = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        CONFIG.set(Some(config));
        match due(Phase::Configure, b"") {
            None | Some(How::EmptyVerdict) => Ok(()),
            Some(How::BadVerdict) => Err("told to refuse its configuration".to_owned()),
            Some(How::Flood) => flood_the_log(),
            Some(how) => fail(how),
        }
    }
}

impl request::Guest for Misbehave {
    fn on_request(head: &http::RequestHead) -> request::Verdict {
        match due(Phase::Request, head.target().as_bytes()) {
            None => request::Verdict::Continue,
            Some(How::BadVerdict) => request::Verdict::Wait,
            Some(How::EmptyVerdict) => request::Verdict::Respond,
            Some(How::Flood) => {
                respond_with_a_flood();
                request::Verdict::Respond
            }
            Some(how) => fail(how),
        }
    }
}

impl response::Guest for Misbehave {
    fn on_response(request: &http::SentRequest, _: &http::ResponseHead) -> response::Verdict {
        match due(Phase::Response, request.target().as_bytes()) {
            None => response::Verdict::Continue,
            Some(How::BadVerdict) => response::Verdict::Wait,
            Some(How::EmptyVerdict) => response::Verdict::Respond,
            Some(How::Flood) => {
                respond_with_a_flood();
                response::Verdict::Respond
            }
            Some(how) => fail(how),
        }
    }
}

impl balancer::Guest for Misbehave {
    fn endpoints(_: u32, _: String, _: Vec<balancer::Endpoint>) {}

    fn choose(_: u32, head: &http::RequestHead, _: Vec<balancer::Candidate>) -> Option<u32> {
        match due(Phase::Choose, head.target().as_bytes()) {
            None | Some(How::EmptyVerdict) => None,
            Some(How::BadVerdict) => Some(u32::MAX),
            Some(How::Flood) => flood_the_log(),
            Some(how) => fail(how),
        }
    }
}

impl messages::Guest for Misbehave {
    fn open(session: u32, handshake: &http::Handshake) -> messages::Subscription {
        let target = handshake.target();
        match due(Phase::Open, target.as_bytes()) {
            None | Some(How::EmptyVerdict) => {}
            Some(How::BadVerdict) => {
                outgoing::send(outgoing::Side::Client, outgoing::Kind::Ping, &[0; 126]);
            }
            Some(How::Flood) => flood_the_session(),
            Some(how) => fail(how),
        }
        remember(session, target);
        let kinds = messages::Kinds::TEXT | messages::Kinds::BINARY;
        messages::Subscription {
            from_client: kinds,
            from_service: kinds,
            largest: None,
        }
    }

    fn on_message(
        _: u32,
        _: outgoing::Side,
        _: outgoing::Kind,
        payload: Vec<u8>,
    ) -> messages::Verdict {
        match due(Phase::Message, &payload) {
            None => messages::Verdict::Pass,
            Some(How::BadVerdict) => messages::Verdict::Wait,
            Some(How::EmptyVerdict) => messages::Verdict::Replace,
            Some(How::Flood) => flood_the_session(),
            Some(how) => fail(how),
        }
    }

    fn on_close(session: u32, _: messages::Ending) {
        match due(Phase::Close, target_of(session).as_bytes()) {
            None | Some(How::BadVerdict | How::EmptyVerdict) => {}
            Some(How::Flood) => flood_the_log(),
            Some(how) => fail(how),
        }
    }
}

impl handover::Guest for Misbehave {
    fn snapshot(session: u32) -> handover::State {
        let target = target_of(session);
        match due(Phase::Snapshot, target.as_bytes()) {
            None | Some(How::BadVerdict | How::EmptyVerdict) => {}
            Some(How::Flood) => {
                return handover::State {
                    form: 1,
                    bytes: vec![b'x'; 2 << 20],
                };
            }
            Some(how) => fail(how),
        }
        handover::State {
            form: 1,
            bytes: target.into_bytes(),
        }
    }

    fn restore(session: u32, state: handover::State) -> Result<(), String> {
        match due(Phase::Restore, &state.bytes) {
            None | Some(How::EmptyVerdict) => {}
            Some(How::BadVerdict) => return Err("told to refuse the session".to_owned()),
            Some(How::Flood) => flood_the_log(),
            Some(how) => fail(how),
        }
        let target = String::from_utf8(state.bytes).map_err(|error| error.to_string())?;
        remember(session, target);
        Ok(())
    }

    fn release(session: u32) {
        match due(Phase::Release, target_of(session).as_bytes()) {
            None | Some(How::BadVerdict | How::EmptyVerdict) => {}
            Some(How::Flood) => flood_the_log(),
            Some(how) => fail(how),
        }
    }
}

fn remember(session: u32, target: String) {
    TARGETS.with_borrow_mut(|targets| {
        let index = session as usize;
        if index >= targets.len() {
            targets.resize(index + 1, String::new());
        }
        targets[index] = target;
    });
}

fn target_of(session: u32) -> String {
    TARGETS.with_borrow(|targets| targets[session as usize].clone())
}

/// Says how to misbehave in this call, if at all.
fn due(phase: Phase, seen: &[u8]) -> Option<How> {
    let config = CONFIG.with_borrow(Clone::clone)?;
    let when = config.when.as_bytes();
    let occurs = when.is_empty() || seen.windows(when.len()).any(|window| window == when);
    (config.phase == phase && (occurs || phase == Phase::Configure)).then_some(config.how)
}

fn fail(how: How) -> ! {
    match how {
        How::Loop => loop {
            black_box(());
        },
        How::Hog => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 64 << 10]));
            }
        }
        How::Handles => loop {
            std::mem::forget(monotonic_clock::subscribe_duration(0));
        },
        How::Recurse => {
            recurse(0);
            unreachable!("the stack has no end")
        }
        How::Trap | How::Flood | How::BadVerdict | How::EmptyVerdict => panic!("told to trap"),
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1))) + 1
}

/// Answers in pieces that fit the memory an instance has; the host sees no end of them.
fn respond_with_a_flood() {
    let answer = http::Answer {
        status: 200,
        fields: Vec::new(),
        body: vec![b'x'; 8 << 20],
    };
    for _ in 0..32 {
        http::respond(&answer);
    }
}

fn flood_the_session() -> ! {
    loop {
        outgoing::send(
            outgoing::Side::Client,
            outgoing::Kind::Binary,
            &[b'x'; 1024],
        );
    }
}

fn flood_the_log() -> ! {
    loop {
        logging::log(logging::Level::Info, "flood", "one of many");
    }
}

#[allow(unsafe_code, reason = "generated from wit/")]
mod export {
    use super::{Misbehave, bindings};

    bindings::export!(Misbehave with_types_in bindings);
}
