//! WebSocket messages through a chain of plugins. `guest-script` does what a message tells it to, so
//! the tests say in messages what a plugin does.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::oversize::{deflate, open_compressed};
use crate::harness::{
    Connection, Frame, Service, Tidegate, accepting, binary, close, guest, handshake, ping, pong,
    route_to, text, within,
};

/// A route to a service whose messages pass these plugins, of which each is a `guest-script` with a
/// name. Further keys of the route may follow, then `rest`.
pub(super) fn scripted(service: &Service, names: &[&str], keys: &str, rest: &str) -> String {
    let mut plugins = String::new();
    for name in names {
        plugins += &format!(
            "[plugins.{name}]\nmodule = {:?}\nconfig = {{ name = \"{name}\", obey = \"both\" }}\n",
            guest("guest-script")
        );
    }
    format!(
        "{}plugins = {names:?}\n{keys}\n{rest}\n{plugins}",
        route_to(service)
    )
}

/// Answers each message with what it heard, so that nothing comes back as it went.
async fn hearing() -> Service {
    Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        while let Some(frame) = connection.next_frame().await {
            match frame.opcode {
                8 => return connection.send_frame(frame).await,
                9 => connection.send_frame(pong(frame.payload)).await,
                opcode => {
                    let heard = [b"heard ", frame.payload.as_slice()].concat();
                    connection.send_frame(Frame::new(opcode, heard)).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_verdict_decides_what_becomes_of_a_message() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    let rows: [(&str, &[&str]); 7] = [
        ("plain", &["heard plain"]),
        ("replace:other", &["heard other"]),
        ("replace:", &["heard "]),
        ("drop", &[]),
        ("send-service:hello", &["heard hello"]),
        ("send-client:hello", &["hello"]),
        ("echo-back", &["echo-back"]),
    ];
    for (message, answers) in rows {
        client.send_frame(text(message)).await;
        for answer in answers {
            assert_eq!(client.read_frame().await, text(answer), "{message}");
        }
        // And nothing else, which would come before the answer to this.
        client.send_frame(text("next")).await;
        assert_eq!(client.read_frame().await, text("heard next"), "{message}");
    }
}

#[tokio::test]
async fn a_plugin_that_closes_closes_both_ends() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_frame().await, text("before"));
        assert_eq!(connection.read_frame().await, close(4001, "enough"));
        connection.expect_end().await;
    })
    .await;
    let mut tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("before")).await;
    client.send_frame(text("close:4001:enough")).await;
    client.send_frame(text("not any more")).await;
    assert_eq!(client.read_frame().await, close(4001, "enough"));
    client.expect_end().await;
    service.finished().await;
    assert_closed_with(&mut tidegate, "closed with 4001 by nobody").await;
}

/// Waits for what `guest-script` logs at the end of a session.
pub(super) async fn assert_closed_with(tidegate: &mut Tidegate, line: &str) {
    let logged = |found: &str| found.contains("closed with").then(|| found.to_owned());
    let found = tidegate
        .process
        .stderr
        .find("end of the session", logged)
        .await;
    assert!(found.contains(line), "expected {line}: {found}");
}

#[tokio::test]
async fn messages_pass_the_chain_in_order_and_on_the_way_back_in_reverse() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a", "b"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    let rows = [
        // Towards the service a comes first, so b sees what a made of it ...
        ("a/replace:b/replace:x", "heard x"),
        // ... but not the other way round.
        ("b/replace:a/replace:x", "heard a/replace:x"),
        // What a plugin sends passes those between it and the end it is for.
        ("a/send-service:b/replace:x", "heard x"),
        ("b/send-client:a/replace:x", "x"),
        // A plugin does not see what it sends itself, nor do those on its other side.
        ("a/send-client:a/replace:x", "a/replace:x"),
        ("a/send-client:b/replace:x", "b/replace:x"),
        ("b/send-service:a/replace:x", "heard a/replace:x"),
    ];
    for (message, answer) in rows {
        client.send_frame(text(message)).await;
        assert_eq!(client.read_frame().await, text(answer), "{message}");
    }
}

/// What `wit/host.wit` says of `send`, where others stand on both sides of the plugin that does.
#[tokio::test]
async fn in_a_chain_of_three_each_message_passes_those_between_it_and_where_it_goes() {
    let service = hearing().await;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = Tidegate::serving(&scripted(&service, &["a", "b", "c"], "", admin)).await;
    let mut client = tidegate.websocket("/").await;
    let rows = [
        // A replaced message is what the next one sees.
        ("a/replace:b/replace:c/replace:x", "heard x"),
        ("c/replace:b/replace:x", "heard b/replace:x"),
        // Towards the service: those after it, and not itself.
        ("a/send-service:b/replace:c/replace:x", "heard x"),
        ("b/send-service:c/replace:x", "heard x"),
        ("b/send-service:a/replace:x", "heard a/replace:x"),
        ("b/send-service:b/replace:x", "heard b/replace:x"),
        ("c/send-service:b/replace:x", "heard b/replace:x"),
        // Towards the client: those before it, the nearest first.
        ("c/send-client:b/replace:a/replace:x", "x"),
        ("c/send-client:a/replace:b/replace:x", "b/replace:x"),
        ("b/send-client:a/replace:x", "x"),
        ("b/send-client:c/replace:x", "c/replace:x"),
        ("a/send-client:b/replace:x", "b/replace:x"),
        // What is sent may make others send, each by the same rule.
        (
            "a/send-service:b/send-service:c/send-client:a/replace:x",
            "x",
        ),
        ("c/send-client:b/send-service:c/replace:x", "heard x"),
    ];
    for (message, answer) in rows {
        client.send_frame(text(message)).await;
        assert_eq!(client.read_frame().await, text(answer), "{message}");
    }
    // What one drops, those after it do not see.
    let mut seen_by_c = async || {
        client.send_frame(text("c/count")).await;
        let count = client.read_frame().await.payload;
        String::from_utf8(count).unwrap().parse::<u64>().unwrap()
    };
    let before = seen_by_c().await;
    assert_eq!(seen_by_c().await, before + 1);
    client.send_frame(text("b/drop")).await;
    client.send_frame(text("c/count")).await;
    let count = (before + 2).to_string();
    assert_eq!(client.read_frame().await, text(count));
    // And where one closes, nobody after it is asked.
    let calls = async |plugin| {
        let labels = [("plugin", plugin), ("phase", "message")];
        let metrics = tidegate.metrics().await;
        metrics.sum("tidegate_plugin_calls_total", &labels)
    };
    let before = (calls("b").await, calls("c").await);
    client.send_frame(text("b/close:4000:enough")).await;
    assert_eq!(client.read_frame().await, close(4000, "enough"));
    assert_eq!(calls("b").await, before.0 + 1.0);
    assert_eq!(calls("c").await, before.1);
}

#[tokio::test]
async fn messages_from_the_service_pass_the_last_plugin_first() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        // With the 101, so these are early bytes as well.
        let first = text("b/replace:a/replace:x").encode(None);
        let second = text("a/replace:b/replace:x").encode(None);
        let head = accepting(&request).to_wire();
        connection
            .send([head.as_bytes(), &first, &second].concat())
            .await;
        connection.read_to_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a", "b"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_frame().await, text("x"));
    assert_eq!(client.read_frame().await, text("b/replace:x"));
}

#[tokio::test]
async fn what_a_plugin_sends_at_the_opening_comes_before_anything_else() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        let early = text("from the service").encode(None);
        connection
            .send([accepting(&request).to_wire().as_bytes(), &early].concat())
            .await;
        connection.read_to_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"a\"]\n[plugins.a]\nmodule = {:?}\nconfig = {{ name = \"a\", hello = \"welcome\" }}",
        route_to(&service),
        guest("guest-script")
    ))
    .await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_frame().await, text("welcome"));
    assert_eq!(client.read_frame().await, text("from the service"));
}

#[tokio::test]
async fn early_messages_of_the_client_are_judged_too() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.connect().await;
    let head = handshake("/")
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\r\n");
    let early = text("replace:early").encode(Some([1, 2, 3, 4]));
    // The second message is cut in two, the first half being early.
    let second = text("replace:second").encode(Some([1, 2, 3, 4]));
    client
        .send([head.as_bytes(), b"\r\n\r\n", &early, &second[..9]].concat())
        .await;
    assert_eq!(client.read_head().await.status(), 101);
    client.send(&second[9..]).await;
    assert_eq!(client.read_frame().await, text("heard early"));
    assert_eq!(client.read_frame().await, text("heard second"));
}

#[tokio::test]
async fn a_fragmented_message_is_seen_whole_and_passes_as_it_came() {
    let fragments = [
        text("frag").unfinished(),
        Frame::continuation("").unfinished(),
        Frame::continuation("ments"),
    ];
    let wire: Vec<u8> = fragments
        .iter()
        .flat_map(|frame| frame.encode(Some([9, 8, 7, 6])))
        .collect();
    let expected = wire.clone();
    let service = Service::start(move |mut connection| {
        let expected = expected.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            // The same masks and the same fragments.
            assert_eq!(connection.read_exactly(expected.len()).await, expected);
            assert_eq!(connection.read_frame().await, text("whole"));
            connection.send_frame(text("unmasked").unfinished()).await;
            connection
                .send_frame(Frame::continuation(" fragments"))
                .await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send(&wire).await;
    for fragment in ["repl", "ace:wh", "ole"] {
        let frame = if fragment == "repl" {
            text(fragment)
        } else {
            Frame::continuation(fragment)
        };
        client
            .send_frame(if fragment == "ole" {
                frame
            } else {
                frame.unfinished()
            })
            .await;
    }
    assert_eq!(client.read_frame().await, text("unmasked").unfinished());
    assert_eq!(client.read_frame().await, Frame::continuation(" fragments"));
}

#[tokio::test]
async fn control_frames_between_fragments_are_relayed_at_once() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("replace:in").unfinished()).await;
    client.send_frame(ping("are you there?")).await;
    assert_eq!(client.read_frame().await, pong("are you there?"));
    client.send_frame(Frame::continuation(" two")).await;
    assert_eq!(client.read_frame().await, text("heard in two"));
}

#[tokio::test]
async fn a_message_cut_anywhere_by_the_network_is_the_same_message() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    let payload = format!("replace:{}", "y".repeat(150));
    let wire = text(&payload).encode(Some([5, 6, 7, 8]));
    for cut in 1..wire.len() {
        client.send(&wire[..cut]).await;
        // So that the halves are two reads and not one.
        tokio::task::yield_now().await;
        client.send(&wire[cut..]).await;
        let answer = text(format!("heard {}", &payload["replace:".len()..]));
        assert_eq!(client.read_frame().await, answer, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_plugin_knows_the_handshake() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        let answer = accepting(&request)
            .with("Sec-WebSocket-Protocol", "chat")
            .with("X-Fact", "of the service");
        connection.send(answer.to_wire()).await;
        connection.read_to_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.connect().await;
    let fields = "X-Fact: of the client\nSec-WebSocket-Protocol: chat";
    client
        .send_head(&format!("{}\n{fields}", handshake("/room%2F7?q")))
        .await;
    assert_eq!(client.read_head().await.status(), 101);
    client.send_frame(text("facts")).await;
    let expected = [
        "scheme=http",
        "host=example.com",
        "target=/room%2F7?q",
        "remote-address=127.0.0.1",
        &format!("endpoint={}", service.address),
        "subprotocol=chat",
        "reopened=false",
        "reopening=no",
        "request-x-fact=of the client",
        "response-x-fact=of the service",
    ];
    assert_eq!(client.read_frame().await, text(expected.join("\n")));
}

#[tokio::test]
async fn sessions_of_one_instance_do_not_share_their_state() {
    let service = hearing().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let (mut one, mut other) = (tidegate.websocket("/").await, tidegate.websocket("/").await);
    for number in ["1", "2", "3"] {
        one.send_frame(text("count")).await;
        assert_eq!(one.read_frame().await, text(number));
    }
    other.send_frame(text("count")).await;
    assert_eq!(other.read_frame().await, text("1"));
    // The number of a session that has ended is given to the next; its state is not.
    one.send_frame(close(1000, "")).await;
    one.read_to_end().await;
    let mut next = tidegate.websocket("/").await;
    next.send_frame(text("count")).await;
    assert_eq!(next.read_frame().await, text("1"));
}

/// Promise 1 of the design.
#[tokio::test]
async fn a_message_that_no_plugin_asked_for_costs_no_call() {
    let service = hearing().await;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", admin)).await;
    let mut client = tidegate.websocket("/").await;
    let calls = async || {
        let metrics = tidegate.metrics().await;
        let labels = [("plugin", "a"), ("phase", "message")];
        metrics.sum("tidegate_plugin_calls_total", &labels)
    };
    client.send_frame(text("seen")).await;
    client.read_frame().await;
    // Once on its way to the service, and the answer on its way back.
    assert_eq!(calls().await, 2.0);
    for _ in 0..3 {
        client.send_frame(binary("unseen")).await;
        assert_eq!(client.read_frame().await, binary("heard unseen"));
        client.send_frame(ping("unseen")).await;
        assert_eq!(client.read_frame().await, pong("unseen"));
    }
    assert_eq!(calls().await, 2.0);
    let metrics = tidegate.metrics().await;
    for (verdict, count) in [("pass", 1.0), ("unseen", 3.0)] {
        for direction in ["to-service", "to-client"] {
            let labels = [("direction", direction), ("verdict", verdict)];
            assert_eq!(
                metrics.sum("tidegate_messages_total", &labels),
                count,
                "{labels:?}"
            );
        }
    }
}

/// One read holds thousands of these. The instance counts what it judges, over all sessions, so the
/// number that one session is told lies within the burst of the other only if that waited its turn.
#[tokio::test]
async fn a_burst_of_small_messages_lets_other_sessions_have_their_turn() {
    const BURST: u64 = 8000;
    const ATTEMPTS: usize = 30;
    let service = Service::websocket_echo().await;
    let limits = "[plugins.a.limits]\ncall_timeout = \"60s\"";
    let keys = "websocket = { compression = \"client\" }";
    let mut tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, limits)).await;
    let plain = text("drop")
        .encode(Some([1, 2, 3, 4]))
        .repeat(BURST as usize / 2);
    // Each of these inflates to 32 KiB.
    let long = "drop:".to_owned() + &" ".repeat(32 << 10);
    let deflated = text(deflate(long.as_bytes()))
        .with_rsv(0b100)
        .encode(Some([0; 4]));
    let deflated = deflated.repeat(500);
    for (what, burst, length) in [("plain", plain, BURST / 2), ("deflated", deflated, 500)] {
        assert!(burst.len() < 60_000, "it fits one read: {}", burst.len());
        let total = async |client: &mut Connection| {
            client.send_frame(text("total")).await;
            let total = client.read_frame().await.payload;
            String::from_utf8(total).unwrap().parse::<u64>().unwrap()
        };
        let mut is_within = false;
        for _ in 0..ATTEMPTS {
            let mut bursting = open_compressed(&tidegate).await;
            let mut other = tidegate.websocket("/").await;
            let mut busy = tidegate.websocket("/").await;
            let before = total(&mut other).await;
            // While this goes on, both sessions' messages arrive at the proxy.
            busy.send_frame(text("busy")).await;
            let is_busy = |line: &str| line.contains("\"message\":\"busy\"").then_some(());
            tidegate.process.stderr.find("busy", is_busy).await;
            bursting.send(&burst).await;
            let now = total(&mut other).await;
            // The busy message, and what this one is itself.
            is_within = now > before + 2 && now < before + length;
            if is_within {
                break;
            }
        }
        assert!(is_within, "{what}: all at once");
    }
}

#[tokio::test]
async fn long_messages_pass_whole_in_both_directions_at_once() {
    let service = Service::websocket_echo().await;
    let keys = "websocket = { max_message = \"4MiB\" }";
    // What a machine that does other things as well needs to look through a megabyte.
    let limits =
        "[plugins.a.limits]\ncall_timeout = \"1s\"\n[plugins.b.limits]\ncall_timeout = \"1s\"";
    let tidegate = Tidegate::serving(&scripted(&service, &["a", "b"], keys, limits)).await;
    let mut client = tidegate.websocket("/").await;
    let payload: String = ('a'..='z').cycle().take(1_500_000).collect();
    // All three are on their way before the first comes back.
    for number in 0..3 {
        client.send_frame(text(format!("{number}{payload}"))).await;
    }
    for number in 0..3 {
        assert!(
            client.read_frame().await == text(format!("{number}{payload}")),
            "message {number}"
        );
    }
}

/// Promise 5 of the design, where messages pass plugins.
#[tokio::test]
async fn peers_that_do_not_read_cost_no_memory_with_plugins_either() {
    const SESSIONS: usize = 16;
    const MOST: usize = 200 << 20;

    let stalled = Arc::new(Semaphore::new(0));
    let counted = stalled.clone();
    let service = Service::start(move |mut connection| {
        let counted = counted.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            if request.target() == "/flood" {
                let message = binary([b'x'; 50_000]).encode(None);
                assert!(connection.send_until_stalled(&message, MOST).await < MOST);
                counted.add_permits(1);
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let stall = async |sessions: usize| {
        let mut held = JoinSet::new();
        for _ in 0..sessions {
            let mut silent = tidegate.websocket("/silent").await;
            held.spawn(async move {
                let message = text("x".repeat(50_000)).encode(Some([0; 4]));
                assert!(silent.send_until_stalled(&message, MOST).await < MOST);
                silent
            });
            let flooded = tidegate.websocket("/flood").await;
            held.spawn(async { flooded });
        }
        let held: Vec<Connection> = held.join_all().await;
        let all = stalled.acquire_many(sessions as u32);
        within("stall of the service", all).await.unwrap().forget();
        held
    };
    let _first = stall(1).await;
    let before = tidegate.memory();
    let held = stall(SESSIONS).await;
    let each = tidegate.memory().saturating_sub(before) as usize / held.len();
    assert!(
        each < 1 << 20,
        "a stalled session holds {} KiB",
        each / 1024
    );
}
