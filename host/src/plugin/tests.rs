//! The seam against guests written for it: small core modules in the text format, made components by
//! the same way as an operator's.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use wit_parser::Resolve;

use super::breaker::{Admission, Now};
use super::host::{Gate, Orders, Started, Work};
use super::wait::{Asked, Step};
use super::*;
use crate::config::{self, FailurePolicy, Module, OnFailure, PluginLimits, SwapPolicy};
use crate::telemetry::WorkerMetrics;

/// A guest that does what messages and its configuration tell it.
///
/// The configuration is `{"T":"M"}`: a tag, by which messages address it, and a mode, which is what it
/// does about everything else. The first byte of a message is what to do with it; see `on-message`.
fn guest(exports: &[&str]) -> Vec<u8> {
    let mut world = "package test:guest; world guest {\n".to_owned();
    for import in ["logging", "http", "outgoing"] {
        writeln!(world, "import tidegate:plugin/{import}@0.1.0;").unwrap();
    }
    let mut functions = String::new();
    for export in exports {
        writeln!(world, "export tidegate:plugin/{export}@0.1.0;").unwrap();
        functions.push_str(match *export {
            "lifecycle" => LIFECYCLE,
            "request" => REQUEST,
            "response" => RESPONSE,
            "balancer" => BALANCER,
            "messages" => MESSAGES,
            other => panic!("no code for {other}"),
        });
    }
    world.push('}');
    module(&world, &format!("{IMPORTS}{functions}"))
}

/// A core module that says that it was built for `world`.
fn module(world: &str, code: &str) -> Vec<u8> {
    let mut module = wat::parse_str(format!("(module {code} {COMMON})")).unwrap();
    let mut resolve = Resolve::default();
    resolve.push_dir("../wit").unwrap();
    let package = resolve.push_str("guest.wit", world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

const IMPORTS: &str = r#"
  (import "tidegate:plugin/outgoing@0.1.0" "send" (func $send (param i32 i32 i32 i32)))
  (import "tidegate:plugin/outgoing@0.1.0" "replace" (func $replace (param i32 i32)))
  (import "tidegate:plugin/outgoing@0.1.0" "close" (func $close (param i32 i32 i32)))
  (import "tidegate:plugin/logging@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "respond" (func $respond (param i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]request-head.set"
    (func $set (param i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]request-head.get"
    (func $get (param i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]request-head.set-target"
    (func $set_target (param i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]response-head.set"
    (func $set_response (param i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]response-head.set-status"
    (func $set_status (param i32 i32 i32)))
  (import "tidegate:plugin/http@0.1.0" "[method]handshake.reopened"
    (func $reopened (param i32) (result i32)))
  (import "tidegate:plugin/http@0.1.0" "[resource-drop]request-head" (func $drop_request (param i32)))
  (import "tidegate:plugin/http@0.1.0" "[resource-drop]sent-request" (func $drop_sent (param i32)))
  (import "tidegate:plugin/http@0.1.0" "[resource-drop]response-head"
    (func $drop_response (param i32)))
  (import "tidegate:plugin/http@0.1.0" "[resource-drop]handshake" (func $drop_handshake (param i32)))
"#;

const COMMON: &str = r#"
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 4096))
  (global $tag (mut i32) (i32.const 0))
  (global $mode (mut i32) (i32.const 0))
  (global $handle (mut i32) (i32.const 0))
  (data (i32.const 16) "reopened")
  (data (i32.const 32) "x-seen")
  (data (i32.const 48) "connection")
  (data (i32.const 64) "refused for a reason")
  (data (i32.const 96) "/other?x=1")
  (data (i32.const 112) "\ff")
  (func $allocate (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
        (br $grow)))
    (local.get $at))
"#;

/// Modes: `e` refuses, `t` traps.
const LIFECYCLE: &str = r#"
  (func (export "tidegate:plugin/lifecycle@0.1.0#configure") (param $at i32) (param $len i32) (result i32)
    (if (i32.ge_u (local.get $len) (i32.const 9))
      (then
        (global.set $tag (i32.load8_u offset=2 (local.get $at)))
        (global.set $mode (i32.load8_u offset=6 (local.get $at)))))
    (i32.store8 (i32.const 0) (i32.const 0))
    (if (i32.eq (global.get $mode) (i32.const 101)) ;; e
      (then
        (i32.store8 (i32.const 0) (i32.const 1))
        (i32.store (i32.const 4) (i32.const 64))
        (i32.store (i32.const 8) (i32.const 20))))
    (if (i32.eq (global.get $mode) (i32.const 116)) (then (unreachable))) ;; t
    (i32.const 0))
"#;

/// Sets `x-seen` to its tag and the target to `/other?x=1`. Modes: `u` then traps, `v` then answers
/// 403, `w` then waits, `b` sets `connection` instead and traps unless that is refused, `k` calls
/// `outgoing.replace`, which is not for here, and `g` reads and writes (the benchmark's mode).
const REQUEST: &str = r#"
  (func (export "tidegate:plugin/request@0.1.0#on-request") (param $head i32) (result i32)
    (local $verdict i32)
    (i32.store8 (i32.const 128) (global.get $tag))
    (if (i32.eq (global.get $mode) (i32.const 103)) ;; g
      (then
        (call $get (local.get $head) (i32.const 32) (i32.const 6) (i32.const 144))
        (call $get (local.get $head) (i32.const 48) (i32.const 10) (i32.const 144))
        (call $set (local.get $head) (i32.const 32) (i32.const 6) (i32.const 128) (i32.const 1) (i32.const 144))
        (call $drop_request (local.get $head))
        (global.set $heap (i32.const 4096))
        (return (i32.const 0))))
    (if (i32.eq (global.get $mode) (i32.const 98)) ;; b
      (then
        (call $set (local.get $head) (i32.const 48) (i32.const 10) (i32.const 128) (i32.const 1) (i32.const 144))
        (if (i32.ne (i32.load8_u (i32.const 144)) (i32.const 1)) (then (unreachable)))
        (call $drop_request (local.get $head))
        (return (i32.const 0))))
    (call $set (local.get $head) (i32.const 32) (i32.const 6) (i32.const 128) (i32.const 1) (i32.const 144))
    (call $set_target (local.get $head) (i32.const 96) (i32.const 10) (i32.const 144))
    (if (i32.eq (global.get $mode) (i32.const 117)) (then (unreachable))) ;; u
    (if (i32.eq (global.get $mode) (i32.const 107)) ;; k
      (then (call $replace (i32.const 32) (i32.const 6))))
    (if (i32.eq (global.get $mode) (i32.const 118)) ;; v
      (then
        (call $respond (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 7))
        (local.set $verdict (i32.const 1))))
    (if (i32.eq (global.get $mode) (i32.const 119)) (then (local.set $verdict (i32.const 2)))) ;; w
    (call $drop_request (local.get $head))
    (local.get $verdict))
"#;

/// Sets `x-seen` to its tag, and the status to 201. Modes: `V` answers 403, `U` traps.
const RESPONSE: &str = r#"
  (func (export "tidegate:plugin/response@0.1.0#on-response") (param $request i32) (param $head i32) (result i32)
    (local $verdict i32)
    (i32.store8 (i32.const 128) (global.get $tag))
    (call $set_response (local.get $head) (i32.const 32) (i32.const 6) (i32.const 128) (i32.const 1) (i32.const 144))
    (call $set_status (local.get $head) (i32.const 201) (i32.const 144))
    (if (i32.eq (global.get $mode) (i32.const 85)) (then (unreachable))) ;; U
    (if (i32.eq (global.get $mode) (i32.const 86)) ;; V
      (then
        (call $respond (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 7))
        (local.set $verdict (i32.const 1))))
    (call $drop_sent (local.get $request))
    (call $drop_response (local.get $head))
    (local.get $verdict))
"#;

/// Chooses the endpoint of the last candidate. Modes: `0` none, `9` endpoint 9.
const BALANCER: &str = r#"
  (func (export "tidegate:plugin/balancer@0.1.0#endpoints") (param i32 i32 i32 i32 i32))
  (func (export "tidegate:plugin/balancer@0.1.0#choose")
      (param $upstream i32) (param $head i32) (param $at i32) (param $len i32) (result i32)
    (call $drop_request (local.get $head))
    (i32.store8 (i32.const 144) (i32.ne (global.get $mode) (i32.const 48)))
    (i32.store (i32.const 148)
      (select
        (i32.const 9)
        (i32.load (i32.add (local.get $at) (i32.mul (i32.sub (local.get $len) (i32.const 1)) (i32.const 8))))
        (i32.eq (global.get $mode) (i32.const 57))))
    (global.set $heap (i32.const 4096))
    (i32.const 144))
"#;

/// What a message's first byte asks for:
///
/// `+` replaced by itself and the tag · `d` dropped · `c` closed with 4001 · `s`TAG SIDE REST: the plugin of
/// that tag sends REST to that side · `z` sent to both sides as it is · `t` trap · `l` endless loop · `m`
/// memory without end · `f` messages without end · `b` bytes without end · `B` 2 MiB at once · `u` replaced by what is no
/// UTF-8 · `w` wait · `x` replace without a replacement. Anything else passes.
///
/// Modes: `n` wants nothing, `s` only text of at most four bytes from the client, `h` says hello to the
/// service when a session opens, `T` traps then. One that is opened again tells the client.
const MESSAGES: &str = r#"
  (func (export "tidegate:plugin/messages@0.1.0#open") (param $session i32) (param $handshake i32) (result i32)
    (if (i32.eq (global.get $mode) (i32.const 84)) (then (unreachable))) ;; T
    (if (call $reopened (local.get $handshake))
      (then (call $send (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 8))))
    (call $drop_handshake (local.get $handshake))
    (if (i32.eq (global.get $mode) (i32.const 104)) ;; h
      (then
        (i32.store8 (i32.const 128) (i32.const 43)) ;; +
        (call $send (i32.const 1) (i32.const 0) (i32.const 128) (i32.const 1))))
    (i32.store8 (i32.const 144) (i32.const 15))
    (i32.store8 (i32.const 145) (i32.const 15))
    (i32.store8 (i32.const 152) (i32.const 0))
    (if (i32.eq (global.get $mode) (i32.const 110)) ;; n
      (then (i32.store16 (i32.const 144) (i32.const 0))))
    (if (i32.eq (global.get $mode) (i32.const 115)) ;; s
      (then
        (i32.store16 (i32.const 144) (i32.const 1))
        (i32.store8 (i32.const 152) (i32.const 1))
        (i64.store (i32.const 160) (i64.const 4))))
    (i32.const 144))

  (func (export "tidegate:plugin/messages@0.1.0#on-message")
      (param $session i32) (param $origin i32) (param $kind i32) (param $at i32) (param $len i32) (result i32)
    (local $do i32)
    (global.set $heap (i32.const 4096))
    (if (i32.eqz (local.get $len)) (then (return (i32.const 0))))
    (local.set $do (i32.load8_u (local.get $at)))
    (if (i32.eq (local.get $do) (i32.const 43)) ;; +
      (then
        (i32.store8 (i32.add (local.get $at) (local.get $len)) (global.get $tag))
        (call $replace (local.get $at) (i32.add (local.get $len) (i32.const 1)))
        (return (i32.const 1))))
    (if (i32.eq (local.get $do) (i32.const 100)) (then (return (i32.const 2)))) ;; d
    (if (i32.eq (local.get $do) (i32.const 99)) ;; c
      (then
        (call $close (i32.const 4001) (i32.const 64) (i32.const 7))
        (return (i32.const 3))))
    (if (i32.eq (local.get $do) (i32.const 115)) ;; s
      (then
        (if (i32.eq (i32.load8_u offset=1 (local.get $at)) (global.get $tag))
          (then
            (call $send
              (i32.eq (i32.load8_u offset=2 (local.get $at)) (i32.const 115))
              (i32.const 0)
              (i32.add (local.get $at) (i32.const 3))
              (i32.sub (local.get $len) (i32.const 3)))))
        (return (i32.const 0))))
    (if (i32.eq (local.get $do) (i32.const 122)) ;; z
      (then
        (call $send (i32.const 0) (local.get $kind) (local.get $at) (local.get $len))
        (call $send (i32.const 1) (local.get $kind) (local.get $at) (local.get $len))
        (return (i32.const 0))))
    (if (i32.eq (local.get $do) (i32.const 116)) (then (unreachable))) ;; t
    (if (i32.eq (local.get $do) (i32.const 108)) (then (loop $forever (br $forever)))) ;; l
    (if (i32.eq (local.get $do) (i32.const 109)) ;; m
      (then (loop $forever (drop (memory.grow (i32.const 16))) (br $forever))))
    (if (i32.eq (local.get $do) (i32.const 102)) ;; f
      (then (loop $forever
        (call $send (i32.const 0) (i32.const 1) (local.get $at) (i32.const 0))
        (br $forever))))
    (if (i32.eq (local.get $do) (i32.const 98)) ;; b
      (then (loop $forever
        (call $replace (i32.const 4096) (i32.const 32768))
        (br $forever))))
    (if (i32.eq (local.get $do) (i32.const 66)) ;; B
      (then
        (drop (memory.grow (i32.const 32)))
        (call $replace (i32.const 0) (i32.const 2097152))
        (return (i32.const 1))))
    (if (i32.eq (local.get $do) (i32.const 117)) ;; u
      (then
        (call $replace (i32.const 112) (i32.const 1))
        (return (i32.const 1))))
    (if (i32.eq (local.get $do) (i32.const 119)) (then (return (i32.const 4)))) ;; w
    (if (i32.eq (local.get $do) (i32.const 120)) (then (return (i32.const 1)))) ;; x
    (i32.const 0))

  (func (export "tidegate:plugin/messages@0.1.0#on-close") (param i32 i32 i32 i32)
    ;; What cannot be sent then.
    (if (i32.eq (global.get $mode) (i32.const 71)) ;; G
      (then (call $send (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 8)))))
"#;

const ALL: [&str; 5] = ["lifecycle", "request", "response", "balancer", "messages"];

fn declared(config: &str, on_failure: OnFailure) -> config::Plugin {
    config::Plugin {
        name: "guest".to_owned(),
        module: Module::Builtin("guest".to_owned()),
        config: config.to_owned(),
        limits: PluginLimits {
            call_timeout: Duration::from_millis(20),
            memory_bytes: 4 << 20,
            table_elements: 1_000,
            stack_bytes: 512 << 10,
            handles: 1_000,
            snapshots_bytes: 1 << 20,
            output_bytes: 256 << 10,
            output_messages: 8,
            tickets: config::TicketLimits {
                per_second: 8,
                at_once: 8,
                per_session: 8,
                reply_bytes: 1024,
                wait_timeout: Duration::from_secs(1),
            },
        },
        call: Vec::new(),
        on_failure: FailurePolicy::all(on_failure),
        eject: Some(config::Ejection::default()),
        isolation: config::Isolation::Worker,
        snapshot_every: None,
        swap: SwapPolicy::NextMessage,
        canary: config::Canary::default(),
        shadow: config::Shadow::default(),
    }
}

/// A worker, and plugins of the one guest with the given configurations.
struct Fixture {
    metrics: Arc<WorkerMetrics>,
    instances: Instances,
    chain: Chain,
}

fn fixture(on_failure: OnFailure, configs: &[&str]) -> Fixture {
    let engine = Engine::new().unwrap();
    let bytes = guest(&ALL);
    let load = |config: &&str| {
        let version = engine.load(&declared(config, on_failure), &bytes);
        Arc::new(Plugin::new(version.unwrap()))
    };
    let chain = Chain::new(configs.iter().map(load).collect());
    let metrics = Arc::<WorkerMetrics>::default();
    let instances = Instances::new(Arc::clone(&metrics), nobody());
    Fixture {
        metrics,
        instances,
        chain,
    }
}

/// Sends no call-outs.
fn nobody() -> Caller {
    Rc::new(|_| Box::pin(async { Err(CallError::Refused) }))
}

fn closed(configs: &[&str]) -> Fixture {
    fixture(OnFailure::Closed, configs)
}

fn open(configs: &[&str]) -> Fixture {
    fixture(OnFailure::Open, configs)
}

fn facts() -> Arc<Facts> {
    Arc::new(Facts {
        scheme: "https",
        host: "www.example.com".into(),
        remote: "192.0.2.7".parse().unwrap(),
        is_handshake: false,
        max_header_bytes: 4096,
    })
}

fn handshake() -> Arc<Handshake> {
    Arc::new(Handshake {
        facts: facts(),
        target: "/chat".into(),
        request: HeaderMap::new(),
        response: HeaderMap::new(),
        endpoint: "127.0.0.1:9001".parse().unwrap(),
    })
}

fn request() -> http::request::Parts {
    Request::get("/a%2Fb?x")
        .header("x-old", "kept")
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn response(status: u16) -> http::response::Parts {
    Response::builder()
        .status(status)
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn sent_request() -> Arc<SentRequest> {
    Arc::new(SentRequest {
        facts: facts(),
        method: Method::GET,
        target: "/".into(),
        headers: HeaderMap::new(),
        endpoint: None,
    })
}

fn text(to: Side, payload: &str) -> Sent {
    Sent {
        to,
        kind: MessageKind::Text,
        payload: payload.as_bytes().to_vec(),
    }
}

fn replaced(payload: &str) -> MessageVerdict {
    MessageVerdict::Replace(payload.as_bytes().to_vec())
}

impl Fixture {
    fn session(&self) -> MessageChain {
        let mut sent = Vec::new();
        let opening = self
            .chain
            .begin(&self.instances, &HeaderMap::new())
            .open(&handshake(), 64 << 20, &mut sent)
            .unwrap();
        assert_eq!(sent, []);
        match opening {
            Opening::Watched(chain) => chain,
            _ => panic!("not watched"),
        }
    }
}

impl MessageChain {
    fn say(&mut self, from: Side, payload: &str) -> (Result<MessageVerdict, Failure>, Vec<Sent>) {
        let mut sent = Vec::new();
        let verdict = self.on_message(from, MessageKind::Text, payload.as_bytes(), &mut sent);
        (verdict, sent)
    }

    fn client_says(&mut self, payload: &str) -> Result<MessageVerdict, Failure> {
        self.say(Side::Client, payload).0
    }
}

fn load_error(config: &str, bytes: &[u8]) -> Error {
    let engine = Engine::new().unwrap();
    engine
        .load(&declared(config, OnFailure::Closed), bytes)
        .unwrap_err()
}

#[test]
fn what_is_not_wasm_is_said_to_be_neither() {
    assert!(matches!(load_error("{}", b"#!/bin/sh"), Error::NotWasm));
    assert!(matches!(load_error("{}", b"\0asm"), Error::NotWasm));
}

#[test]
fn a_module_that_exports_no_interface_is_refused() {
    let error = load_error("{}", &guest(&[]));
    assert_eq!(
        error.to_string(),
        "exports none of lifecycle, request, response, balancer, messages, handover, fragments, resumption"
    );
}

#[test]
fn an_unknown_interface_of_the_package_is_refused_by_name() {
    let wit = "package tidegate:plugin@0.1.0; interface other { f: func(); }
        world guest { export other; }";
    let mut module =
        wat::parse_str(r#"(module (func (export "tidegate:plugin/other@0.1.0#f")))"#).unwrap();
    embed(&mut module, wit);
    match load_error("{}", &module) {
        Error::Export { name } => assert_eq!(name, "tidegate:plugin/other@0.1.0"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_export_of_another_type_is_refused_by_name() {
    let wit = "package tidegate:plugin@0.1.0; interface lifecycle { configure: func(n: u32); }
        world guest { export lifecycle; }";
    let mut module = wat::parse_str(
        r#"(module (func (export "tidegate:plugin/lifecycle@0.1.0#configure") (param i32)))"#,
    )
    .unwrap();
    embed(&mut module, wit);
    match load_error("{}", &module) {
        Error::ExportType { name, .. } => assert!(name.contains("lifecycle"), "{name}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_import_that_is_not_offered_is_named() {
    let wit = "package test:guest; interface clouds { f: func(); }
        world guest { import clouds; export tidegate:plugin/lifecycle@0.1.0; }";
    let module = module(
        wit,
        &format!(r#"(import "test:guest/clouds" "f" (func)) {LIFECYCLE}"#),
    );
    match load_error("{}", &module) {
        Error::Import { name } => assert_eq!(name, "test:guest/clouds"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_import_in_another_form_is_refused() {
    let wit = "package tidegate:plugin@0.1.0; interface logging { log: func(n: u32); }
        interface lifecycle { configure: func(config: string) -> result<_, string>; }
        world guest { import logging; export lifecycle; }";
    let code = format!(
        r#"(module (import "tidegate:plugin/logging@0.1.0" "log" (func (param i32))) {LIFECYCLE} {COMMON})"#
    );
    let mut module = wat::parse_str(code).unwrap();
    embed(&mut module, wit);
    assert!(matches!(load_error("{}", &module), Error::ImportType(_)));
}

fn embed(module: &mut Vec<u8>, wit: &str) {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("guest.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(module, &resolve, world, encoding).unwrap();
}

#[test]
fn a_plugin_that_waits_is_stopped_at_once() {
    let mut resolve = Resolve::default();
    let mut last = None;
    for wit in [
        "package wasi:io@0.2.0; interface poll { resource pollable { block: func(); } }",
        "package wasi:clocks@0.2.0; interface monotonic-clock {
            use wasi:io/poll@0.2.0.{pollable};
            subscribe-duration: func(nanoseconds: u64) -> pollable; }",
        "package tidegate:plugin@0.1.0; interface lifecycle {
            configure: func(config: string) -> result<_, string>; }",
        "package test:guest; world guest {
            import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;
            export tidegate:plugin/lifecycle@0.1.0; }",
    ] {
        last = Some(resolve.push_str("guest.wit", wit).unwrap());
    }
    let code = format!(
        r#"(module
            (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
                (func $subscribe (param i64) (result i32)))
            (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
            (func (export "tidegate:plugin/lifecycle@0.1.0#configure") (param i32 i32) (result i32)
                (call $block (call $subscribe (i64.const 0)))
                (call $block (call $subscribe (i64.const 3600000000000)))
                (i32.const 0))
            {COMMON})"#
    );
    let mut module = wat::parse_str(code).unwrap();
    let world = resolve.select_world(&[last.unwrap()], None).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();

    // As on a worker, whose thread has a runtime that must not be blocked on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let error = runtime.block_on(async { load_error("{}", &module) });
    assert!(
        matches!(&error, Error::Start(Cause::Rule(rule)) if rule.contains("wait")),
        "{error:?}"
    );
}

#[test]
fn a_hook_that_is_answered_at_once_over_and_over_holds_up_nobody_and_comes_to_its_timeout() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let seat = it.instances.seat(&it.chain.plugins()[0]);
    let slot = seat.slot(seat.assignment().version());
    let gate = Gate::new(Arc::default());
    let limits = config::TicketLimits {
        per_second: u32::MAX,
        ..slot.version().declared().limits.tickets.clone()
    };
    // A call-out that `nobody` refuses before anything is awaited.
    let asks_again = || {
        let call = CallOut {
            upstream: "down".to_owned(),
            request: Request::default(),
            timeout: None,
            max_reply_bytes: 0,
        };
        let orders = Orders {
            started: vec![Started {
                ticket: 0,
                work: Work::Call(Box::new(call)),
                place: gate.enter(&limits).unwrap(),
            }],
            cancelled: Vec::new(),
        };
        Ok(Asked::<()>::Waits(orders))
    };
    let mut time_spent = Duration::ZERO;
    let phase = Phase::Message;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let cause = runtime.block_on(async {
        let Ok(Step::Waits(mut wait)) = slot.ask(phase, &mut time_spent, |_| asks_again()) else {
            panic!("does not wait");
        };
        let until_it_fails = poll_fn(|cx| {
            let mut resumed = 0;
            loop {
                match wait.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(cause)) => return Poll::Ready(cause),
                    Poll::Ready(Ok(replies)) => assert_eq!(replies.len(), 1),
                }
                resumed += 1;
                assert_eq!(resumed, 1, "others of the worker get no turn");
                let answer = wait.resume(phase, &mut time_spent, |_| asks_again());
                assert_eq!(answer.unwrap(), None);
            }
        });
        until_it_fails.await
    });
    assert!(matches!(cause, Cause::Waited { .. }), "{cause:?}");
}

#[test]
fn a_configuration_that_nobody_takes_is_an_error() {
    let bytes = guest(&["messages"]);
    assert!(matches!(
        load_error(r#"{"A":"a"}"#, &bytes),
        Error::TakesNoConfig
    ));
    let engine = Engine::new().unwrap();
    engine
        .load(&declared("{}", OnFailure::Closed), &bytes)
        .unwrap();
}

#[test]
fn what_configure_returns_is_the_error() {
    match load_error(r#"{"A":"e"}"#, &guest(&ALL)) {
        Error::Configure(message) => assert_eq!(message, "refused for a reason"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        load_error(r#"{"A":"t"}"#, &guest(&ALL)),
        Error::Start(Cause::Trap(_))
    ));
}

#[test]
fn a_ready_component_is_taken_as_it_is() {
    let component = wit_component::ComponentEncoder::default()
        .module(&guest(&ALL))
        .unwrap()
        .encode()
        .unwrap();
    Engine::new()
        .unwrap()
        .load(&declared("{}", OnFailure::Closed), &component)
        .unwrap();
}

#[test]
fn memory_that_the_limit_does_not_allow_keeps_a_plugin_from_starting() {
    let mut small = declared("{}", OnFailure::Closed);
    small.limits.memory_bytes = 32 << 10;
    let error = Engine::new()
        .unwrap()
        .load(&small, &guest(&ALL))
        .unwrap_err();
    assert!(
        matches!(error, Error::Start(Cause::Memory { limit: 32_768 })),
        "{error:?}"
    );
}

#[test]
fn tables_that_the_limit_does_not_allow_keep_a_plugin_from_starting() {
    let world = "package test:guest; world guest { export tidegate:plugin/lifecycle@0.1.0; }";
    let bytes = module(world, &format!("(table 2000 funcref) {LIFECYCLE}"));
    let engine = Engine::new().unwrap();
    let mut plugin = declared("{}", OnFailure::Closed);
    let error = engine.load(&plugin, &bytes).unwrap_err();
    assert!(
        matches!(error, Error::Start(Cause::Tables { limit: 1_000 })),
        "{error:?}"
    );
    plugin.limits.table_elements = 3_000;
    engine.load(&plugin, &bytes).unwrap();
}

#[test]
fn a_plugin_is_current_until_its_bytes_or_configuration_change() {
    let engine = Engine::new().unwrap();
    let bytes = guest(&ALL);
    let as_declared = declared("{}", OnFailure::Closed);
    let plugin = engine.load(&as_declared, &bytes).unwrap();
    assert!(plugin.origin().is(&as_declared, &bytes));
    assert!(
        !plugin
            .origin()
            .is(&declared(r#"{"A":"a"}"#, OnFailure::Closed), &bytes)
    );
    assert!(!plugin.origin().is(&declared("{}", OnFailure::Open), &bytes));
    assert!(!plugin.origin().is(&as_declared, &guest(&["messages"])));
}

#[test]
fn requests_pass_first_to_last_and_responses_last_to_first() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    let mut head = request();
    assert!(matches!(
        run.on_request(&mut head, &facts()),
        Ok(Verdict::Continue)
    ));
    assert_eq!(head.headers["x-seen"], "B");
    assert_eq!(head.headers["x-old"], "kept");
    assert_eq!(head.uri, "/other?x=1");
    let mut head = response(200);
    assert!(matches!(
        run.on_response(&sent_request(), &mut head),
        Ok(Verdict::Continue)
    ));
    assert_eq!(head.headers["x-seen"], "A");
    assert_eq!(head.status, StatusCode::CREATED);
}

#[test]
fn an_answer_ends_the_way_in_and_is_seen_from_there_back() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"v"}"#, r#"{"C":"a"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    let Ok(Verdict::Respond(answer)) = run.on_request(&mut request(), &facts()) else {
        panic!()
    };
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(&answer.body()[..], b"refused");
    let calls = it.metrics.plugin("guest");
    assert_eq!(calls.calls[Phase::Request].value(), 2);
    let mut head = answer.into_parts().0;
    assert!(matches!(
        run.on_response(&sent_request(), &mut head),
        Ok(Verdict::Continue)
    ));
    assert_eq!(calls.calls[Phase::Response].value(), 2);
    assert_eq!(head.headers["x-seen"], "A");
}

#[test]
fn an_answer_to_a_response_is_seen_by_the_plugins_before() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"V"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    let Ok(Verdict::Respond(answer)) = run.on_response(&sent_request(), &mut response(200)) else {
        panic!()
    };
    assert_eq!(answer.headers()["x-seen"], "A");
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(&answer.body()[..], b"refused");
}

#[test]
fn an_answer_to_a_101_is_a_failure_and_its_status_stays() {
    let it = closed(&[r#"{"A":"V"}"#]);
    let mut head = response(101);
    let failure = it
        .chain
        .begin(&it.instances, &HeaderMap::new())
        .on_response(&sent_request(), &mut head);
    assert!(matches!(failure.unwrap_err().cause, Cause::Rule(_)));
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    assert!(head.headers.is_empty());
}

#[test]
fn a_trap_leaves_the_head_as_it_was() {
    for it in [closed(&[r#"{"A":"u"}"#]), open(&[r#"{"A":"u"}"#])] {
        let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
        let mut head = request();
        head.headers
            .append("x-seen", HeaderValue::from_static("one"));
        head.headers
            .append("x-seen", HeaderValue::from_static("two"));
        let was = (head.uri.clone(), head.headers.clone());
        drop(run.on_request(&mut head, &facts()));
        assert_eq!((head.uri, head.headers), was);
    }
}

#[test]
fn an_open_failure_skips_the_plugin_and_a_closed_one_ends_the_exchange() {
    let it = open(&[r#"{"A":"u"}"#, r#"{"B":"a"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    let mut head = request();
    assert!(matches!(
        run.on_request(&mut head, &facts()),
        Ok(Verdict::Continue)
    ));
    assert_eq!(head.headers["x-seen"], "B");
    let mut head = response(200);
    assert!(matches!(
        run.on_response(&sent_request(), &mut head),
        Ok(Verdict::Continue)
    ));
    assert_eq!(
        head.headers["x-seen"], "B",
        "the failed one is asked nothing more"
    );

    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"u"}"#, r#"{"C":"a"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    let failure = run.on_request(&mut request(), &facts()).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "plugin `guest` failed in request.on-request"
    );
    assert!(matches!(&failure.cause, Cause::Trap(trap) if trap.contains("unreachable")));
    let mut head = response(500);
    assert!(matches!(
        run.on_response(&sent_request(), &mut head),
        Ok(Verdict::Continue)
    ));
    assert_eq!(head.headers["x-seen"], "A");
    assert_eq!(it.metrics.plugin("guest").calls[Phase::Response].value(), 1);
}

#[test]
fn after_a_failure_on_the_way_back_the_next_answer_goes_on_from_there() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"U"}"#, r#"{"C":"a"}"#]);
    let mut run = it.chain.begin(&it.instances, &HeaderMap::new());
    run.on_response(&sent_request(), &mut response(200))
        .unwrap_err();
    let mut head = response(500);
    assert!(matches!(
        run.on_response(&sent_request(), &mut head),
        Ok(Verdict::Continue)
    ));
    assert_eq!(head.headers["x-seen"], "A");
    assert_eq!(it.metrics.plugin("guest").calls[Phase::Response].value(), 3);
}

#[test]
fn fields_of_the_connection_are_refused() {
    let it = closed(&[r#"{"A":"b"}"#]);
    let mut head = request();
    assert!(matches!(
        it.chain
            .begin(&it.instances, &HeaderMap::new())
            .on_request(&mut head, &facts()),
        Ok(Verdict::Continue)
    ));
    assert!(!head.headers.contains_key("connection"));
}

#[test]
fn wait_and_calls_out_of_place_break_the_contract() {
    for config in [r#"{"A":"w"}"#, r#"{"A":"k"}"#] {
        let it = closed(&[config]);
        let failure = it
            .chain
            .begin(&it.instances, &HeaderMap::new())
            .on_request(&mut request(), &facts());
        assert!(
            matches!(failure.unwrap_err().cause, Cause::Rule(_)),
            "{config}"
        );
    }
}

#[test]
fn an_endpoint_is_chosen_by_the_first_plugin_that_names_a_candidate() {
    let endpoint = |port| EndpointView {
        address: ([127, 0, 0, 1], port).into(),
        weight: 1,
        backup: false,
    };
    let endpoints = [endpoint(1), endpoint(2), endpoint(3)];
    let upstream = UpstreamView {
        id: 7,
        name: "chat",
        endpoints: &endpoints,
    };
    let candidates = [
        Candidate {
            endpoint: 0,
            open: 0,
        },
        Candidate {
            endpoint: 2,
            open: 5,
        },
    ];
    let choose = |it: &Fixture| {
        it.chain.begin(&it.instances, &HeaderMap::new()).choose(
            upstream,
            &mut request(),
            &facts(),
            &candidates,
        )
    };
    assert_eq!(
        choose(&closed(&[r#"{"A":"0"}"#, r#"{"B":"a"}"#])).unwrap(),
        Some(2)
    );
    assert_eq!(choose(&closed(&[r#"{"A":"0"}"#])).unwrap(), None);
    assert!(matches!(
        choose(&closed(&[r#"{"A":"9"}"#])).unwrap_err().cause,
        Cause::Rule(_)
    ));
    assert_eq!(
        choose(&open(&[r#"{"A":"9"}"#, r#"{"B":"a"}"#])).unwrap(),
        Some(2)
    );
}

#[test]
fn messages_pass_the_chain_in_the_order_of_their_direction() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#, r#"{"C":"a"}"#]);
    let mut session = it.session();
    assert_eq!(session.say(Side::Client, "+").0.unwrap(), replaced("+ABC"));
    assert_eq!(session.say(Side::Service, "+").0.unwrap(), replaced("+CBA"));
    assert_eq!(
        session.say(Side::Client, "hello").0.unwrap(),
        MessageVerdict::Pass
    );
    assert_eq!(
        session.say(Side::Client, "d").0.unwrap(),
        MessageVerdict::Drop
    );
    let Ok(MessageVerdict::Close { code, reason }) = session.say(Side::Client, "c").0 else {
        panic!()
    };
    assert_eq!((code.as_u16(), reason.as_str()), (4001, "refused"));
}

#[test]
fn what_a_plugin_sends_passes_those_between_it_and_that_end() {
    let it = closed(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#, r#"{"C":"a"}"#]);
    let mut session = it.session();
    for (said, to, arrives) in [
        ("sBs+", Side::Service, "+C"),
        ("sBc+", Side::Client, "+A"),
        ("sAs+", Side::Service, "+BC"),
        ("sAc+", Side::Client, "+"),
        ("sCc+", Side::Client, "+BA"),
        ("sCs+", Side::Service, "+"),
    ] {
        for from in [Side::Client, Side::Service] {
            let (verdict, sent) = session.say(from, said);
            assert_eq!(verdict.unwrap(), MessageVerdict::Pass);
            assert_eq!(sent, [text(to, arrives)], "{said}");
        }
    }
    // What it sends may be dropped, and may close.
    assert_eq!(
        session.say(Side::Client, "sAsd"),
        (Ok(MessageVerdict::Pass), vec![])
    );
    assert!(matches!(
        session.say(Side::Client, "sAsc").0,
        Ok(MessageVerdict::Close { .. })
    ));
    // And may make another plugin send, which goes before it.
    let (verdict, sent) = session.say(Side::Client, "sAssBc+");
    assert_eq!(verdict.unwrap(), MessageVerdict::Pass);
    assert_eq!(
        sent,
        [text(Side::Client, "+A"), text(Side::Service, "sBc+")]
    );
}

#[test]
fn plugins_that_answer_each_other_come_to_an_end() {
    let mut session = closed(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#]).session();
    let (verdict, sent) = session.say(Side::Client, "z");
    assert!(matches!(
        verdict.unwrap_err().cause,
        Cause::Output {
            unit: "messages",
            ..
        }
    ));
    assert!(sent.len() <= 32, "{}", sent.len());
    let mut session = open(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#]).session();
    assert_eq!(session.client_says("z").unwrap(), MessageVerdict::Pass);
}

#[test]
fn only_subscribed_messages_are_wanted() {
    let session = closed(&[r#"{"A":"s"}"#, r#"{"B":"n"}"#]).session();
    assert!(session.wants(Side::Client, MessageKind::Text, 4));
    assert!(!session.wants(Side::Client, MessageKind::Text, 5));
    assert!(!session.wants(Side::Client, MessageKind::Binary, 1));
    assert!(!session.wants(Side::Service, MessageKind::Text, 1));
}

#[test]
fn a_session_that_nobody_wants_is_unwatched_and_not_told_of_its_end() {
    let it = closed(&[r#"{"A":"n"}"#]);
    let opening = it.chain.begin(&it.instances, &HeaderMap::new()).open(
        &handshake(),
        64 << 20,
        &mut Vec::new(),
    );
    assert!(matches!(opening, Ok(Opening::Unwatched(_))));
    assert_eq!(it.metrics.plugin("guest").calls[Phase::Close].value(), 0);
}

#[test]
fn first_words_pass_plugins_that_were_opened_after_their_speaker() {
    let it = closed(&[r#"{"A":"h"}"#, r#"{"B":"a"}"#]);
    let mut sent = Vec::new();
    let opening =
        it.chain
            .begin(&it.instances, &HeaderMap::new())
            .open(&handshake(), 64 << 20, &mut sent);
    assert!(matches!(opening, Ok(Opening::Watched(_))));
    assert_eq!(sent, [text(Side::Service, "+B")]);
}

#[test]
fn each_limit_is_told_apart() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let cause = |said: &str| it.session().client_says(said).unwrap_err().cause;
    assert!(matches!(cause("t"), Cause::Trap(trap) if trap.contains("unreachable")));
    assert_eq!(cause("m"), Cause::Memory { limit: 4 << 20 });
    assert_eq!(
        cause("f"),
        Cause::Output {
            limit: 8,
            unit: "messages"
        }
    );
    assert_eq!(
        cause("b"),
        Cause::Output {
            limit: 256 << 10,
            unit: "bytes"
        }
    );
    let at_once = Cause::Output {
        limit: 256 << 10,
        unit: "bytes",
    };
    assert_eq!(cause("B"), at_once, "refused before it is copied");
    assert!(matches!(cause("u"), Cause::Rule(rule) if rule.contains("UTF-8")));
    assert!(matches!(cause("w"), Cause::Rule(rule) if rule.contains("wait")));
    assert!(matches!(cause("x"), Cause::Rule(rule) if rule.contains("outgoing.replace")));
    let started = Instant::now();
    assert_eq!(
        cause("l"),
        Cause::Timeout {
            limit: Duration::from_millis(20)
        }
    );
    assert!(started.elapsed() >= Duration::from_millis(20));
    let metrics = it.metrics.plugin("guest");
    assert_eq!(metrics.failures[Phase::Message].value(), 9);
    assert_eq!(metrics.instances_replaced.value(), 9);
}

#[test]
fn a_payload_beyond_the_memory_limit_is_a_failure_of_memory() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let failure = it.session().client_says(&"x".repeat(8 << 20)).unwrap_err();
    assert!(
        matches!(failure.cause, Cause::Memory { .. }),
        "{:?}",
        failure.cause
    );
}

#[test]
fn other_sessions_of_a_failed_instance_are_opened_again() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let (mut one, mut other) = (it.session(), it.session());
    one.client_says("t").unwrap_err();
    let (verdict, sent) = other.say(Side::Client, "+");
    assert_eq!(verdict.unwrap(), replaced("+A"));
    assert_eq!(sent, [text(Side::Client, "reopened")]);
    assert_eq!(other.say(Side::Client, "+"), (Ok(replaced("+A")), vec![]));
}

#[test]
fn an_open_failure_takes_the_plugin_out_of_that_session_only() {
    let it = open(&[r#"{"A":"a"}"#, r#"{"B":"a"}"#]);
    let (mut one, mut other) = (it.session(), it.session());
    assert_eq!(one.client_says("t").unwrap(), MessageVerdict::Pass);
    assert!(
        !one.wants(Side::Client, MessageKind::Text, 1),
        "both trapped"
    );
    assert_eq!(one.client_says("+").unwrap(), MessageVerdict::Pass);
    assert_eq!(other.client_says("+").unwrap(), replaced("+AB"));
}

#[test]
fn the_end_of_a_session_is_told_to_the_instance_that_knows_it() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let closes = || it.metrics.plugin("guest").calls[Phase::Close].value();
    it.session().close(1000, Some(Side::Client));
    assert_eq!(closes(), 1);
    drop(it.session());
    assert_eq!(closes(), 2);
    let (mut one, other) = (it.session(), it.session());
    one.client_says("t").unwrap_err();
    drop(one);
    drop(other);
    assert_eq!(closes(), 2, "its instance is gone");
}

#[test]
fn a_failure_at_the_end_of_a_session_hurts_nobody() {
    let it = closed(&[r#"{"A":"G"}"#]);
    let mut other = it.session();
    drop(it.session());
    assert_eq!(it.metrics.plugin("guest").failures[Phase::Close].value(), 1);
    assert_eq!(other.client_says("+").unwrap(), replaced("+A"));
}

#[test]
fn a_plugin_that_does_not_start_is_left_alone_for_a_while() {
    let Fixture {
        metrics,
        instances,
        chain,
    } = closed(&[r#"{"A":"a"}"#]);
    // As if what configure depends on had changed since the plugin was loaded.
    let broken = chain.plugins()[0].version().with_config(r#"{"A":"e"}"#);
    let chain = Chain::new(vec![Arc::new(Plugin::new(broken))]);
    let ask = || {
        chain
            .begin(&instances, &HeaderMap::new())
            .on_request(&mut request(), &facts())
            .unwrap_err()
            .cause
    };
    assert!(matches!(ask(), Cause::Configure(_)));
    for _ in 0..3 {
        assert!(
            matches!(ask(), Cause::Unavailable { retry_in } if retry_in <= Duration::from_secs(1))
        );
    }
    assert_eq!(metrics.plugin("guest").calls[Phase::Configure].value(), 1);
    assert_eq!(metrics.plugin("guest").failures[Phase::Request].value(), 4);
}

#[test]
fn a_session_that_has_to_go_where_its_plugin_is_not_there_yet_is_opened_when_it_is() {
    let it = open(&[r#"{"A":"a"}"#]);
    let plugin = &it.chain.plugins()[0];
    let mut session = it.session();
    let broken = plugin.version().with_config(r#"{"A":"e"}"#);
    plugin.version().revoke();
    plugin.swap(broken, SwapPolicy::NextMessage);
    // It does not start, and is left alone for a while.
    let mut other = it.chain.begin(&it.instances, &HeaderMap::new());
    let verdict = other.on_request(&mut request(), &facts());
    assert!(matches!(verdict, Ok(Verdict::Continue)));
    let failures = |phase| it.metrics.plugin("guest").failures[phase].value();
    let moved = session.catch_up(&mut Vec::new()).unwrap();
    assert_eq!(moved, Handover::Continue);
    assert_eq!(failures(Phase::Open), 1);
    assert_eq!(session.client_says("+").unwrap(), MessageVerdict::Pass);
    assert_eq!(failures(Phase::Open), 2, "it is opened before its messages");
    assert_eq!(failures(Phase::Message), 0);
}

#[test]
fn an_instance_goes_with_its_last_session() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let plugin = Arc::clone(&it.chain.plugins()[0]);
    let mut session = it.session();
    it.instances.retain(&[]);
    assert_eq!(session.client_says("+").unwrap(), replaced("+A"));
    drop(session);
    assert_eq!(Arc::strong_count(&plugin), 2, "this one and the chain's");
}

#[test]
fn session_numbers_are_dense_and_used_again() {
    let it = closed(&[r#"{"A":"a"}"#]);
    let plugin = &it.chain.plugins()[0];
    let slot = it.instances.seat(plugin).slot(&plugin.version());
    let (_first, second) = (it.session(), it.session());
    assert_eq!(slot.number_session(), 2);
    drop(second);
    assert_eq!(slot.number_session(), 1);
}

#[test]
fn who_waits_in_an_instance_is_woken_when_the_plugin_has_been_ejected() {
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let it = closed(&[r#"{"A":"a"}"#]);
    let plugin = &it.chain.plugins()[0];
    let slot = it.instances.seat(plugin).slot(&plugin.version());
    let mut session = it.session();
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    slot.wait(slot.begin_waiting(), &Arc::clone(&woken).into());
    // As if it had kept failing on other workers, for here its instance lives.
    let breaker = slot.version().breaker();
    let mut failures = 0..1_000;
    failures
        .find_map(|_| breaker.failed(Admission::Usual, Phase::Request, Now::read(), 1))
        .unwrap();
    let life = slot.life();
    let failure = session.client_says("+").unwrap_err();
    assert!(matches!(failure.cause, Cause::Ejected { .. }));
    assert_ne!(slot.life(), life);
    assert!(woken.0.load(Ordering::Relaxed));
}

#[test]
fn a_head_grows_no_further_than_its_limit() {
    let mut facts = Arc::into_inner(facts()).unwrap();
    facts.max_header_bytes = 20;
    let facts = Arc::new(facts);
    let it = closed(&[r#"{"A":"a"}"#]);
    let mut head = request();
    head.headers
        .insert("x-large", HeaderValue::from_static("0123456789"));
    let verdict = it
        .chain
        .begin(&it.instances, &HeaderMap::new())
        .on_request(&mut head, &facts);
    assert!(matches!(verdict, Ok(Verdict::Continue)));
    assert!(!head.headers.contains_key("x-seen"));
}

#[test]
fn the_contract_is_called_what_it_is_called_in_its_own_words() {
    let world = include_str!("../../../wit/world.wit");
    assert!(world.contains(&format!("package {};", CONTRACT)));
}
