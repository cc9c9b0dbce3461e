//! Plugins that wait: for services that they ask, and for timers. Whoever waits holds up its own exchange,
//! or its own direction of a session, and nobody else.

use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use crate::harness::{
    Connection, Oracle, Refusing, Service, Tidegate, check, close, command, eventually, guest,
    handshake, one_listener, route_to, text, within,
};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n[timeouts]\ndrain_spread = \"0s\"\n";

/// A route whose plugin waits as it is told and may ask the oracle, and further keys of that plugin.
fn configuration(service: &Service, oracle: &Oracle, plugin: &str) -> String {
    let config = match plugin.contains("config") {
        true => "",
        false => "config = { name = \"a\" }\n",
    };
    format!(
        "{}plugins = [\"waits\"]\n{ADMIN}[upstreams.oracle]\nendpoints = [\"{}\"]\n\
         [plugins.waits]\nmodule = {:?}\ncall = [\"oracle\"]\n{config}{plugin}",
        route_to(service),
        oracle.address(),
        guest("guest-wait"),
    )
}

async fn start(service: &Service, oracle: &Oracle, plugin: &str) -> Tidegate {
    Tidegate::serving(&configuration(service, oracle, plugin)).await
}

/// A request with an order for the plugin.
fn ordering(order: &str) -> String {
    format!("GET / HTTP/1.1\nHost: a\nX-Order: {order}")
}

/// What came of an order about a request.
async fn answer(client: &mut Connection, order: &str) -> String {
    let response = client.exchange(&ordering(order)).await;
    let seen = response.seen_by_service();
    seen.field("x-answer").unwrap_or_default().to_owned()
}

/// Sends an order as a message and returns what comes back of it.
async fn echoed(client: &mut Connection, order: &str) -> String {
    client.send_frame(text(order)).await;
    read_text(client).await
}

async fn read_text(client: &mut Connection) -> String {
    let frame = client.read_frame().await;
    assert_eq!(frame.opcode, 1, "{frame:?}");
    String::from_utf8(frame.payload).unwrap()
}

async fn open_tickets(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    metrics.sum("tidegate_plugin_tickets_open", &[("plugin", "waits")])
}

/// Waits until so many tickets are open.
async fn until_open(tidegate: &Tidegate, count: f64) {
    let look = async || (open_tickets(tidegate).await == count).then_some(());
    eventually("so many open tickets", look).await;
}

/// The stock plugin that asks before a request goes on.
fn auth(service: &Service, oracle: &str, config: &str) -> String {
    format!(
        "{}plugins = [\"auth\"]\n{ADMIN}[upstreams.accounts]\nendpoints = [\"{oracle}\"]\n\
         [plugins.auth]\nmodule = \"builtin:auth-request\"\ncall = [\"accounts\"]\n\
         [plugins.auth.config]\nupstream = \"accounts\"\ntarget = \"/check\"\n{config}",
        route_to(service)
    )
}

// Requests.

#[tokio::test]
async fn who_the_asked_service_lets_in_reaches_the_service_behind() {
    let service = Service::http_echo().await;
    let mut oracle = Oracle::start().await;
    let config = auth(&service, &oracle.address(), "copy = [\"X-User\"]");
    let tidegate = Tidegate::serving(&config).await;
    let mut client = tidegate.connect().await;
    for _ in 0..2 {
        client
            .send_head("GET /room?x=1 HTTP/1.1\nHost: a\nCookie: id=7\nX-User: root")
            .await;
        let question = oracle.asked("/check").await;
        assert_eq!(question.head.method(), "GET");
        assert_eq!(question.head.field("host"), Some("accounts"));
        assert_eq!(question.head.field("cookie"), Some("id=7"));
        assert_eq!(question.head.field("x-original-target"), Some("/room?x=1"));
        assert_eq!(question.head.field("x-user"), None);
        question.answer("204 No Content\nX-User: ann", "");
        let seen = client.read_response().await.seen_by_service();
        assert_eq!(seen.fields("x-user"), ["ann"]);
    }
    assert_eq!(oracle.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_handshake_goes_on_when_the_asked_service_says_so() {
    let service = Service::websocket_echo().await;
    let mut oracle = Oracle::start().await;
    let tidegate = Tidegate::serving(&auth(&service, &oracle.address(), "")).await;
    let mut client = tidegate.connect().await;
    client.send_head(&handshake("/")).await;
    oracle.asked("/check").await.answer("200 OK", "");
    assert_eq!(client.read_head().await.status(), 101);
    client.expect_echo("hello").await;
}

#[tokio::test]
async fn who_it_refuses_gets_its_answer_and_anything_else_is_an_error() {
    let service = Service::http_echo().await;
    let mut oracle = Oracle::start().await;
    let config = auth(&service, &oracle.address(), "timeout_ms = 300");
    let tidegate = Tidegate::serving(&config).await;
    let mut client = tidegate.connect().await;
    client.send_head("GET / HTTP/1.1\nHost: a").await;
    let question = oracle.asked("/check").await;
    question.answer("401 Unauthorized\nWWW-Authenticate: Basic", "who?");
    let refused = client.read_response().await;
    assert_eq!(refused.head.status(), 401);
    assert_eq!(refused.head.field("www-authenticate"), Some("Basic"));
    assert_eq!(refused.text(), "who?");

    client.send_head("GET / HTTP/1.1\nHost: a").await;
    oracle.asked("/check").await.answer("302 Found", "");
    assert_eq!(client.read_response().await.head.status(), 500);

    client.send_head("GET / HTTP/1.1\nHost: a").await;
    let question = oracle.asked("/check").await;
    assert_eq!(client.read_response().await.head.status(), 500);
    // Nobody waits for the answer any longer.
    question.abandoned().await;
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn a_service_that_cannot_be_asked_is_an_error_and_an_endpoint_that_failed() {
    let service = Service::http_echo().await;
    let refusing = Refusing::new();
    let config = auth(&service, &refusing.address.to_string(), "");
    let tidegate = Tidegate::serving(&config).await;
    assert_eq!(tidegate.get("/").await.head.status(), 500);
    let metrics = tidegate.metrics().await;
    let labels = [("upstream", "accounts")];
    let failures = metrics.sum("tidegate_endpoint_failures_total", &labels);
    assert_eq!(failures, 1.0);
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn while_one_request_waits_others_of_its_worker_and_instance_are_served() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let tidegate = start(&service, &oracle, "").await;
    let mut waiting = tidegate.connect().await;
    waiting.send_head(&ordering("ask:/slow")).await;
    let slow = oracle.asked("/slow").await;
    let mut other = tidegate.connect().await;
    for _ in 0..20 {
        assert_eq!(answer(&mut other, "none").await, "");
    }
    other.send_head(&ordering("ask:/quick")).await;
    oracle.asked("/quick").await.answer("200 OK", "now");
    let seen = other.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("200 now"));
    slow.answer("200 OK", "at last");
    let seen = waiting.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("200 at last"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_what_its_request_waits_for() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.connect().await;
    client.send_head(&ordering("both:/one:/two")).await;
    let (one, two) = (oracle.asked("/one").await, oracle.asked("/two").await);
    assert_eq!(open_tickets(&tidegate).await, 2.0);
    client.reset();
    one.abandoned().await;
    until_open(&tidegate, 0.0).await;
    let dropped = tidegate.log("cancelled both:/one:/two").await;
    assert_eq!(dropped["plugin"], "waits");
    // An answer to the dead changes nothing.
    two.answer("200 OK", "too late");
    let mut other = tidegate.connect().await;
    assert_eq!(answer(&mut other, "sleep:1").await, "answered");
    assert_eq!(failures(&tidegate).await, 0.0);
}

async fn failures(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    metrics.sum("tidegate_plugin_failures_total", &[("plugin", "waits")])
}

#[tokio::test]
async fn replies_come_in_any_order_and_the_first_may_be_enough() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.connect().await;
    client.send_head(&ordering("both:/one:/two")).await;
    let one = oracle.asked("/one").await;
    oracle.asked("/two").await.answer("200 OK", "2");
    until_open(&tidegate, 1.0).await;
    one.answer("200 OK", "1");
    let seen = client.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("200 1, 200 2"));

    client.send_head(&ordering("first:/one:/two")).await;
    let one = oracle.asked("/one").await;
    oracle.asked("/two").await.answer("200 OK", "2");
    let seen = client.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("200 2"));
    one.abandoned().await;
    assert_eq!(open_tickets(&tidegate).await, 0.0);
}

#[tokio::test]
async fn an_answer_that_is_too_late_too_long_or_none_is_an_error_by_name() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let limits = "limits = { reply_bytes = \"16B\" }";
    let tidegate = start(&service, &oracle, limits).await;
    let mut client = tidegate.connect().await;
    assert_eq!(
        answer(&mut client, "ask-else:/").await,
        "the upstream is not granted"
    );
    assert_eq!(
        answer(&mut client, "ask:no-path").await,
        "not a request that can be sent"
    );
    let timeout = answer(&mut client, "ask-in:50:/late").await;
    assert_eq!(timeout, "no answer in time");
    oracle.asked("/late").await.abandoned().await;
    client.send_head(&ordering("ask:/long")).await;
    let question = oracle.asked("/long").await;
    question.answer("200 OK", "longer than sixteen bytes");
    let seen = client.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("the response is too long"));
    client.send_head(&ordering("ask:/broken")).await;
    oracle.asked("/broken").await.answer("nonsense", "");
    let seen = client.read_response().await.seen_by_service();
    let broken = "the connection broke, or what came was no response";
    assert_eq!(seen.field("x-answer"), Some(broken));
}

#[tokio::test]
async fn what_a_plugin_may_start_is_limited_per_exchange_at_once_and_per_second() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let limits =
        "limits = { max_calls_per_session = 3, max_calls = 5, max_calls_per_second = 1000 }";
    let mut tidegate = start(&service, &oracle, limits).await;
    let mut client = tidegate.connect().await;
    let refused = "3, then: too many call-outs";
    assert_eq!(answer(&mut client, "many:4").await, refused);
    // The timer that it has is counted when it is resumed as well.
    let refused = "2, then: too many call-outs";
    assert_eq!(answer(&mut client, "more:4").await, refused);
    let later = "GET / HTTP/1.1\nHost: a\nX-Later: more:4";
    let response = client.exchange(later).await;
    let said = response.head.field("x-answer").unwrap_or_default();
    assert!(said.ends_with(refused), "{said}");
    let refused = "3, then: too many call-outs";
    // What was started is cancelled with that.
    assert_eq!(answer(&mut client, "many:4").await, refused);

    let mut others = Vec::new();
    for target in ["/1", "/2"] {
        let mut other = tidegate.connect().await;
        other
            .send_head(&ordering(&format!("both:{target}:{target}")))
            .await;
        let questions = (oracle.asked(target).await, oracle.asked(target).await);
        others.push((other, questions));
    }
    let refused = "1, then: too many call-outs";
    assert_eq!(answer(&mut client, "many:2").await, refused);

    let limits = "limits = { max_calls_per_second = 3 }";
    tidegate
        .reload_with(&one_listener(&configuration(&service, &oracle, limits)))
        .await
        .unwrap();
    drop(others);
    let mut client = tidegate.connect().await;
    // The clock may strike once in between.
    let answer = answer(&mut client, "often:8").await;
    assert!(answer.ends_with(", then: too many call-outs"), "{answer}");
    let metrics = tidegate.metrics().await;
    let labels = [("plugin", "waits")];
    assert!(metrics.sum("tidegate_plugin_tickets_refused_total", &labels) >= 4.0);
}

#[tokio::test]
async fn a_hook_that_waits_too_long_has_failed_and_its_instance_lives_on() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let limits = "limits = { wait_timeout = \"200ms\" }";
    for (policy, status) in [("closed", 500), ("open", 200)] {
        let plugin = format!("on_failure = \"{policy}\"\n{limits}");
        let tidegate = start(&service, &oracle, &plugin).await;
        let mut client = tidegate.connect().await;
        let response = client.exchange(&ordering("ask:/never")).await;
        assert_eq!(response.head.status(), status);
        oracle.asked("/never").await.abandoned().await;
        let failed = client.exchange(&ordering("many:1")).await;
        assert_eq!(failed.head.status(), status);
        assert_eq!(answer(&mut client, "sleep:1").await, "answered");
        let metrics = tidegate.metrics().await;
        let labels = [("plugin", "waits")];
        let replaced = metrics.sum("tidegate_plugin_instances_replaced_total", &labels);
        assert_eq!(replaced, 0.0);
        assert_eq!(failures(&tidegate).await, 2.0);
    }
}

#[tokio::test]
async fn who_waits_in_an_instance_that_ends_gets_the_policy_at_once() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    for (policy, status) in [("closed", 500), ("open", 200)] {
        let plugin = format!("on_failure = \"{policy}\"");
        let tidegate = start(&service, &oracle, &plugin).await;
        let mut waiting = tidegate.connect().await;
        waiting.send_head(&ordering("ask:/slow")).await;
        let slow = oracle.asked("/slow").await;
        let mut other = tidegate.connect().await;
        let trapped = other.exchange(&ordering("trap")).await;
        assert_eq!(trapped.head.status(), status);
        assert_eq!(waiting.read_response().await.head.status(), status);
        slow.abandoned().await;
        assert_eq!(answer(&mut other, "sleep:1").await, "answered");
    }
}

#[tokio::test]
async fn a_trap_after_waiting_and_a_wait_for_nothing_are_failures() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.connect().await;
    client.send_head(&ordering("trap-after:/then")).await;
    oracle.asked("/then").await.answer("200 OK", "");
    assert_eq!(client.read_response().await.head.status(), 500);
    let response = client.exchange(&ordering("forever")).await;
    assert_eq!(response.head.status(), 500);
    assert_eq!(answer(&mut client, "sleep:1").await, "answered");
}

#[tokio::test]
async fn a_response_waits_as_well() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.connect().await;
    client
        .send_head("GET /x HTTP/1.1\nHost: a\nX-Later: ask:/about")
        .await;
    oracle.asked("/about").await.answer("200 OK", "fine");
    let response = client.read_response().await;
    assert_eq!(response.head.field("x-answer"), Some("/x 200 fine"));
}

#[tokio::test]
async fn an_exchange_that_waits_is_finished_before_the_exit() {
    let (service, mut oracle) = (Service::http_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut idle = tidegate.connect().await;
    let mut client = tidegate.connect().await;
    client.send_head(&ordering("ask:/slow")).await;
    let question = oracle.asked("/slow").await;
    tidegate.process.signal(Signal::TERM);
    // An idle connection is closed at once; that is also the sign that draining has begun.
    idle.expect_end().await;
    question.answer("200 OK", "");
    let seen = client.read_response().await.seen_by_service();
    assert_eq!(seen.field("x-answer"), Some("200"));
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

#[test]
fn a_plugin_that_is_not_granted_what_it_needs_stops_the_start() {
    let config = one_listener(
        "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 200 }\nplugins = [\"auth\"]\n\
         [upstreams.accounts]\nendpoints = [\"127.0.0.1:9\"]\n\
         [plugins.auth]\nmodule = \"builtin:auth-request\"\n\
         [plugins.auth.config]\nupstream = \"accounts\"\ntarget = \"/check\"\n",
    );
    let error = check(&config).unwrap_err();
    assert!(error.contains("call = [\"accounts\"]"), "{error}");
    let granted = config.replace(
        "[plugins.auth.config]",
        "call = [\"accounts\"]\n[plugins.auth.config]",
    );
    check(&granted).unwrap();
}

// Messages.

#[tokio::test]
async fn messages_behind_one_that_waits_keep_their_order_and_the_other_direction_goes_on() {
    let mut oracle = Oracle::start().await;
    let (to_client, from_test) = mpsc::unbounded_channel::<&str>();
    let from_test = Arc::new(Mutex::new(from_test));
    // Sends what the test says, and whatever the proxy lets through comes back.
    let service = Service::start(move |mut connection: Connection| {
        let from_test = from_test.clone();
        async move {
            let head = connection.next_head().await.unwrap();
            connection.accept_websocket(&head).await;
            let mut from_test = from_test.lock().await;
            loop {
                tokio::select! {
                    Some(say) = from_test.recv() => connection.send_frame(text(say)).await,
                    frame = connection.next_frame() => match frame {
                        Some(frame) => connection.send_frame(frame).await,
                        None => return,
                    },
                }
            }
        }
    })
    .await;
    let tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(echoed(&mut client, "before").await, "before");
    for message in ["ask:/first", "second", "ask:/third", "fourth"] {
        client.send_frame(text(message)).await;
    }
    let first = oracle.asked("/first").await;
    for message in ["this way", "is free"] {
        to_client.send(message).unwrap();
        assert_eq!(read_text(&mut client).await, message);
    }
    assert_eq!(
        open_tickets(&tidegate).await,
        1.0,
        "the third is not asked about yet"
    );
    first.answer("200 OK", "1");
    assert_eq!(read_text(&mut client).await, "a: 200 1");
    assert_eq!(read_text(&mut client).await, "second");
    oracle.asked("/third").await.answer("200 OK", "3");
    assert_eq!(read_text(&mut client).await, "a: 200 3");
    assert_eq!(read_text(&mut client).await, "fourth");
}

#[tokio::test]
async fn a_session_that_waits_delays_no_other_of_its_instance() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let tidegate = start(&service, &oracle, "").await;
    let mut parked = Vec::new();
    for _ in 0..3 {
        let mut client = tidegate.websocket("/").await;
        client.send_frame(text("ask:/slow")).await;
        parked.push((client, oracle.asked("/slow").await));
    }
    let mut other = tidegate.websocket("/").await;
    for _ in 0..50 {
        other.expect_echo("free").await;
    }
    assert_eq!(echoed(&mut other, "sleep:1").await, "a: answered");
    // In another order than they came.
    for (mut client, question) in parked.into_iter().rev() {
        question.answer("200 OK", "");
        assert_eq!(read_text(&mut client).await, "a: 200");
    }
}

#[tokio::test]
async fn both_directions_wait_each_for_itself() {
    let mut oracle = Oracle::start().await;
    // Answers the first message with an order of its own, and echoes the rest.
    let service = Service::start(|mut connection: Connection| async move {
        let head = connection.next_head().await.unwrap();
        connection.accept_websocket(&head).await;
        connection.read_frame().await;
        connection.send_frame(text("ask:/back")).await;
        while let Some(frame) = connection.next_frame().await {
            connection.send_frame(frame).await;
        }
    })
    .await;
    let plugin = "config = { name = \"a\", watch = \"both\" }";
    let tidegate = start(&service, &oracle, plugin).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("go")).await;
    let back = oracle.asked("/back").await;
    client.send_frame(text("ask:/there")).await;
    oracle.asked("/there").await.answer("200 OK", "there");
    // What has gone there comes back behind what still waits.
    until_open(&tidegate, 1.0).await;
    back.answer("200 OK", "back");
    assert_eq!(read_text(&mut client).await, "a: 200 back");
    assert_eq!(read_text(&mut client).await, "a: 200 there");
}

#[tokio::test]
async fn what_a_plugin_sends_goes_before_it_waits_and_a_chain_keeps_its_order() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let config = configuration(&service, &oracle, "").replace(
        "plugins = [\"waits\"]",
        "plugins = [\"waits\", { name = \"waits\", config = { name = \"b\" } }]",
    );
    let tidegate = Tidegate::serving(&config).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("a/say/ask:/of-a")).await;
    client.send_frame(text("b/say/ask:/of-b")).await;
    let of_a = oracle.asked("/of-a").await;
    assert_eq!(read_text(&mut client).await, "a waits");
    assert_eq!(open_tickets(&tidegate).await, 1.0);
    of_a.answer("200 OK", "");
    let of_b = oracle.asked("/of-b").await;
    // The one has been to the service, the other comes straight from the plugin.
    let mut both = [read_text(&mut client).await, read_text(&mut client).await];
    both.sort();
    assert_eq!(both, ["a: 200", "b waits"]);
    of_b.answer("404 Not Found", "");
    assert_eq!(read_text(&mut client).await, "b: 404");
}

#[tokio::test]
async fn a_client_whose_message_waits_is_held_back_and_loses_nothing() {
    const MESSAGES: usize = 4000;
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let limits = "limits = { wait_timeout = \"60s\" }";
    let tidegate = start(&service, &oracle, limits).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("ask:/slow")).await;
    let question = oracle.asked("/slow").await;
    let memory = tidegate.memory();
    let message = |n: usize| text(format!("{n:05} {}", "x".repeat(10_000)));
    let all: Vec<u8> = (0..MESSAGES)
        .flat_map(|n| message(n).encode(Some([1, 2, 3, 4])))
        .collect();
    let sent = client.send_until_stalled(&all, all.len()).await;
    assert!(sent < all.len(), "the client can send without end");
    let grown = tidegate.memory().saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} bytes are held for it");
    question.answer("200 OK", "");
    assert_eq!(read_text(&mut client).await, "a: 200");
    let mut rest = &all[sent..];
    for n in 0..MESSAGES {
        // As much as was read: more would stall again.
        let piece = rest.len().min(10_018);
        client.send(&rest[..piece]).await;
        rest = &rest[piece..];
        assert_eq!(client.read_frame().await, message(n));
    }
}

#[tokio::test]
async fn a_session_that_ends_cancels_what_it_waits_for() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("both:/one:/two")).await;
    let (one, two) = (oracle.asked("/one").await, oracle.asked("/two").await);
    client.reset();
    one.abandoned().await;
    until_open(&tidegate, 0.0).await;
    tidegate.log("cancelled both:/one:/two").await;
    tidegate.log("closed with 1006").await;
    two.answer("200 OK", "too late");
    let mut other = tidegate.websocket("/").await;
    assert_eq!(echoed(&mut other, "sleep:1").await, "a: answered");
    assert_eq!(failures(&tidegate).await, 0.0);
}

#[tokio::test]
async fn a_service_that_goes_away_ends_a_session_that_waits() {
    let mut oracle = Oracle::start().await;
    let service = Service::start(|mut connection: Connection| async move {
        let head = connection.next_head().await.unwrap();
        connection.accept_websocket(&head).await;
        // The first message says that it is time to go.
        connection.read_frame().await;
    })
    .await;
    let tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("go")).await;
    client.send_frame(text("ask:/slow")).await;
    assert_eq!(client.read_frame().await, close(1014, ""));
    drop(client);
    until_open(&tidegate, 0.0).await;
    // It may have gone before the question was asked.
    if let Some(question) = oracle.was_asked() {
        question.abandoned().await;
    }
}

#[tokio::test]
async fn last_words_behind_a_message_that_waits_are_delivered() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("ask:/slow")).await;
    client.send_frame(text("and more")).await;
    client.send_frame(close(1000, "bye")).await;
    client.finish_sending().await;
    let question = oracle.asked("/slow").await;
    question.answer("200 OK", "");
    assert_eq!(read_text(&mut client).await, "a: 200");
    assert_eq!(read_text(&mut client).await, "and more");
    assert_eq!(client.read_frame().await, close(1000, "bye"));
    tidegate.log("closed with 1000").await;
}

#[tokio::test]
async fn a_message_that_waits_too_long_gets_the_policy() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let limits = "limits = { wait_timeout = \"200ms\" }";
    let tidegate = start(&service, &oracle, limits).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("ask:/never")).await;
    assert_eq!(client.read_frame().await, close(1011, ""));
    oracle.asked("/never").await.abandoned().await;

    let plugin = format!("on_failure = \"open\"\n{limits}");
    let tidegate = start(&service, &oracle, &plugin).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(echoed(&mut client, "ask:/never").await, "ask:/never");
    // The plugin still judges the next one.
    assert_eq!(echoed(&mut client, "sleep:1").await, "a: answered");
}

#[tokio::test]
async fn sessions_that_wait_in_an_instance_that_ends_get_the_policy_at_once() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    for policy in ["closed", "open"] {
        let plugin = format!("on_failure = \"{policy}\"");
        let tidegate = start(&service, &oracle, &plugin).await;
        let mut waiting = tidegate.websocket("/").await;
        waiting.send_frame(text("ask:/slow")).await;
        let slow = oracle.asked("/slow").await;
        let mut other = tidegate.websocket("/").await;
        other.send_frame(text("trap")).await;
        let frame = waiting.read_frame().await;
        if policy == "closed" {
            assert_eq!(frame, close(1011, ""));
            assert_eq!(other.read_frame().await, close(1011, ""));
        } else {
            assert_eq!(frame, text("ask:/slow"));
            assert_eq!(echoed(&mut waiting, "sleep:1").await, "a: answered");
        }
        slow.abandoned().await;
    }
}

#[tokio::test]
async fn a_session_moves_to_the_next_version_when_what_it_waits_for_has_come() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("ask:/slow")).await;
    client.send_frame(text("sleep:1")).await;
    let question = oracle.asked("/slow").await;
    let next = configuration(&service, &oracle, "config = { name = \"b\" }");
    tidegate.reload_with(&one_listener(&next)).await.unwrap();
    let mut other = tidegate.websocket("/").await;
    assert_eq!(echoed(&mut other, "sleep:1").await, "b: answered");
    question.answer("200 OK", "");
    assert_eq!(read_text(&mut client).await, "a: 200");
    assert_eq!(read_text(&mut client).await, "b: answered");
}

/// A service that begins with a message of its own, sends what the test says, and tells it what arrives; a
/// Close frame is answered.
async fn told_by_the_test(
    first: &'static str,
) -> (
    Service,
    mpsc::UnboundedSender<&'static str>,
    mpsc::UnboundedReceiver<String>,
) {
    let (say, from_test) = mpsc::unbounded_channel::<&str>();
    let (arrives, arrived) = mpsc::unbounded_channel();
    let from_test = Arc::new(Mutex::new(from_test));
    let service = Service::start(move |mut connection: Connection| {
        let (from_test, arrives) = (from_test.clone(), arrives.clone());
        async move {
            let head = connection.next_head().await.unwrap();
            connection.accept_websocket(&head).await;
            connection.send_frame(text(first)).await;
            let mut from_test = from_test.lock().await;
            loop {
                tokio::select! {
                    Some(say) = from_test.recv() => connection.send_frame(text(say)).await,
                    frame = connection.next_frame() => match frame {
                        None => return,
                        Some(frame) if frame.opcode == 8 => connection.send_frame(frame).await,
                        Some(frame) => {
                            let payload = String::from_utf8(frame.payload).unwrap();
                            arrives.send(payload).ok();
                        }
                    },
                }
            }
        }
    })
    .await;
    (service, say, arrived)
}

async fn next(arrived: &mut mpsc::UnboundedReceiver<String>) -> String {
    within("message at the service", arrived.recv())
        .await
        .unwrap()
}

/// Returns how many bytes have come from clients.
async fn read_of_client(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    metrics.sum("tidegate_bytes_total", &[("direction", "to-service")])
}

/// What a plugin named `name` is configured as to look at both directions.
fn both(name: &str) -> String {
    format!("config = {{ name = \"{name}\", watch = \"both\" }}")
}

#[tokio::test]
async fn a_session_that_waits_both_ways_moves_when_what_has_begun_is_over() {
    let mut oracle = Oracle::start().await;
    let (service, _say, mut arrived) = told_by_the_test("ask:/back").await;
    let mut tidegate = start(&service, &oracle, &both("a")).await;
    let mut client = tidegate.websocket("/").await;
    let back = oracle.asked("/back").await;
    client.send_frame(text("ask:/there")).await;
    client.send_frame(text("sleep:1")).await;
    let there = oracle.asked("/there").await;
    let second = one_listener(&configuration(&service, &oracle, &both("b")));
    tidegate.reload_with(&second).await.unwrap();
    there.answer("200 OK", "");
    assert_eq!(next(&mut arrived).await, "a: 200");
    // The one behind it would keep the session where it is, and the next one of the service after that.
    back.answer("200 OK", "");
    assert_eq!(read_text(&mut client).await, "a: 200");
    assert_eq!(next(&mut arrived).await, "b: answered");
}

#[tokio::test]
async fn what_plugins_send_behind_a_message_that_waits_does_not_overtake_it() {
    let mut oracle = Oracle::start().await;
    let (service, say, mut arrived) = told_by_the_test("welcome").await;
    let config = format!(
        "{}\n[plugins.script]\nmodule = {:?}\nconfig = {{ name = \"s\", obey = \"service\" }}",
        configuration(&service, &oracle, ""),
        guest("guest-script"),
    );
    let config = config.replace("plugins = [\"waits\"]", "plugins = [\"waits\", \"script\"]");
    let tidegate = Tidegate::serving(&config).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(read_text(&mut client).await, "welcome");
    for order in ["ask:/slow", "sleep:1", "last"] {
        client.send_frame(text(order)).await;
    }
    let question = oracle.asked("/slow").await;
    for order in ["send-service:one", "send-service:two", "so far"] {
        say.send(order).unwrap();
    }
    assert_eq!(read_text(&mut client).await, "so far");
    question.answer("200 OK", "");
    for message in ["a: 200", "one", "two", "a: answered", "last"] {
        assert_eq!(next(&mut arrived).await, message);
    }
    say.send("send-service:three").unwrap();
    assert_eq!(next(&mut arrived).await, "three");
}

#[tokio::test]
async fn what_follows_a_close_frame_is_nothing_while_its_direction_is_held_back_as_well() {
    let mut oracle = Oracle::start().await;
    let (service, _say, _arrived) = told_by_the_test("ask:/back").await;
    let mut tidegate = start(&service, &oracle, &both("a")).await;
    let mut client = tidegate.websocket("/").await;
    let back = oracle.asked("/back").await;
    client.send_frame(close(1000, "bye")).await;
    let look = async || Some(read_of_client(&tidegate).await).filter(|bytes| *bytes > 0.0);
    let before = eventually("the Close frame", look).await;
    let second = one_listener(&configuration(&service, &oracle, &both("b")));
    tidegate.reload_with(&second).await.unwrap();
    // No frame at all.
    client.send([0xff; 64]).await;
    let look = async || (read_of_client(&tidegate).await >= before + 64.0).then_some(());
    eventually("what follows it", look).await;
    back.answer("200 OK", "");
    assert_eq!(read_text(&mut client).await, "a: 200");
    assert_eq!(client.read_frame().await, close(1000, "bye"));
}

#[tokio::test]
async fn a_candidate_that_looks_on_asks_nobody() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let waits = guest("guest-wait");
    let config = configuration(&service, &oracle, "").replace(
        &format!("{waits:?}"),
        &format!("{:?}", guest("guest-script")),
    );
    let tidegate = Tidegate::serving(&config).await;
    let mut swap = command();
    swap.args(["plugin", "swap", "waits"]).arg(waits);
    swap.args(["--shadow", "--admin", &tidegate.admin_address().to_string()]);
    let swapped = swap.output().unwrap();
    assert!(swapped.status.success(), "{swapped:?}");
    let mut client = tidegate.websocket("/").await;
    // To the version in force this is no order, so it passes.
    for _ in 0..5 {
        client.expect_echo("ask:/never").await;
    }
    client.expect_echo("no order").await;
    let answer = tidegate.admin("/v1/plugins").await;
    let plugins: Value = serde_json::from_str(answer.text()).unwrap();
    let trial = &plugins["plugins"][0]["trial"];
    assert!(trial["skipped"].as_u64().unwrap() >= 5, "{trial}");
    assert_eq!(trial["differences"]["failure"], 0, "{trial}");
    assert!(oracle.was_asked().is_none());
    assert_eq!(open_tickets(&tidegate).await, 0.0);
    // What it would have started takes nothing from the version in force.
    let metrics = tidegate.metrics().await;
    for name in [
        "tidegate_plugin_tickets_total",
        "tidegate_plugin_tickets_refused_total",
    ] {
        assert_eq!(metrics.sum(name, &[("plugin", "waits")]), 0.0, "{name}");
    }
}

#[tokio::test]
async fn a_session_that_waits_is_told_of_the_exit() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let mut tidegate = start(&service, &oracle, "").await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("ask:/slow")).await;
    let question = oracle.asked("/slow").await;
    tidegate.process.signal(Signal::TERM);
    assert_eq!(client.read_frame().await, close(1001, ""));
    question.abandoned().await;
    client.send_frame(close(1001, "")).await;
    client.expect_end().await;
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_answer_about_each_message_is_its_fate() {
    let (service, mut oracle) = (Service::websocket_echo().await, Oracle::start().await);
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"moderate\"]\n[upstreams.moderation]\nendpoints = [\"{}\"]\n\
         [plugins.moderate]\nmodule = {:?}\ncall = [\"moderation\"]\n\
         config = {{ upstream = \"moderation\", target = \"/messages\" }}\n",
        route_to(&service),
        oracle.address(),
        guest("moderate"),
    ))
    .await;
    let mut client = tidegate.websocket("/").await;
    for message in ["fine", "rude", "spam", "odd"] {
        client.send_frame(text(message)).await;
    }
    for (message, status, body) in [
        ("fine", "204 No Content", ""),
        ("rude", "200 OK", "r***"),
        ("spam", "403 Forbidden", ""),
        ("odd", "500 Oh", ""),
    ] {
        let question = oracle.asked("/messages").await;
        assert_eq!(question.head.method(), "POST");
        assert_eq!(question.body, message.as_bytes());
        question.answer(status, body);
    }
    assert_eq!(read_text(&mut client).await, "fine");
    assert_eq!(read_text(&mut client).await, "r***");
    assert_eq!(client.read_frame().await, close(1013, "not moderated"));
}
