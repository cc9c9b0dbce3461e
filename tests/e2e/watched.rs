//! A session that no plugin watches is watched once a version wants that, and the reverse, between two
//! messages and without a byte lost.

use serde_json::Value;

use crate::harness::{
    Connection, Frame, STALL, Service, Tidegate, accepting, close, eventually, guest, one_listener,
    ping, route_to, text,
};

/// A configuration with a plugin `mine` that sees messages of the client, of both sides, or of nobody.
fn watching(service: &Service, obey: &str) -> String {
    with(service, obey, "")
}

fn with(service: &Service, obey: &str, route: &str) -> String {
    one_listener(&format!(
        "access_log = {{ path = \"stdout\", format = \"json\" }}\n{}{route}\nplugins = [\"mine\"]\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [plugins.mine]\nmodule = {:?}\nconfig = {{ name = \"a\", obey = \"{obey}\" }}",
        route_to(service),
        guest("guest-script")
    ))
}

async fn swap(tidegate: &mut Tidegate, configuration: &str) {
    tidegate.reload_with(configuration).await.unwrap();
    let moved = async || {
        let status = tidegate.admin("/v1/plugins").await;
        let status: Value = serde_json::from_str(status.text()).unwrap();
        let versions = status["plugins"][0]["versions"].as_array().unwrap().len();
        (versions == 1).then_some(())
    };
    eventually("all sessions on one version", moved).await;
}

async fn ask(client: &mut Connection, question: &str) -> String {
    client.send_frame(text(question)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
}

fn part(opcode: u8, fin: bool, payload: &str) -> Frame {
    Frame {
        opcode,
        fin,
        ..text(payload)
    }
}

#[tokio::test]
async fn an_unwatched_session_is_watched_once_a_version_wants_to_and_no_longer_when_none_does() {
    let service = Service::websocket_echo().await;
    let nobody = watching(&service, "nobody");
    let mut tidegate = Tidegate::start(&nobody).await;
    let mut client = tidegate.websocket("/").await;
    for _ in 0..3 {
        // The echo is that of the service: no plugin has seen the order.
        assert_eq!(ask(&mut client, "count").await, "count");
        swap(&mut tidegate, &watching(&service, "both")).await;
        assert_eq!(ask(&mut client, "count").await, "1");
        assert_eq!(ask(&mut client, "count").await, "2");
        client.expect_echo("passes").await;
        swap(&mut tidegate, &nobody).await;
    }
    client.send_frame(close(1000, "")).await;
    assert_eq!(client.read_frame().await.opcode, 8);
    drop(client);
    let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
    // Three orders and three echoes unseen; three times two orders and an echo seen.
    assert_eq!(record["messages_from_client"], 3 + 3 * 3, "{record}");
    assert_eq!(record["messages_from_service"], 3 + 3, "{record}");
    assert_eq!(record["messages_dropped"], 6, "{record}");
    assert_eq!(record["messages_sent"], 6, "{record}");
}

#[tokio::test]
async fn the_message_under_way_is_nobodys_and_the_next_is_seen() {
    // It answers pings with what it has got of messages so far.
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        connection.send(accepting(&head).to_wire()).await;
        let mut seen = Vec::new();
        while let Some(frame) = connection.next_frame().await {
            match frame.opcode {
                9 => {
                    let answer = part(10, true, &String::from_utf8_lossy(&seen));
                    connection.send_frame(answer).await;
                }
                _ => seen.extend(frame.payload),
            }
        }
    })
    .await;
    let mut tidegate = Tidegate::start(&watching(&service, "nobody")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(part(1, false, "co")).await;
    client.send_frame(ping("")).await;
    assert_eq!(client.read_frame().await.payload, b"co");
    tidegate
        .reload_with(&watching(&service, "client"))
        .await
        .unwrap();
    // In one piece: the end of one message, and the next.
    let mut rest = part(0, true, "unt").encode(Some([1, 2, 3, 4]));
    rest.extend(text("count").encode(Some([5, 6, 7, 8])));
    client.send(rest).await;
    assert_eq!(client.read_frame().await.payload, b"1");
    client.send_frame(ping("")).await;
    assert_eq!(client.read_frame().await.payload, b"count");
}

#[tokio::test]
async fn pings_of_the_proxy_go_on_and_their_answers_stay_here() {
    let service = Service::websocket_echo().await;
    let pings = "\nwebsocket = { ping_interval = { client = \"50ms\" }, ping_timeout = \"10s\" }";
    let nobody = with(&service, "nobody", pings);
    let mut tidegate = Tidegate::start(&nobody).await;
    let mut client = tidegate.websocket("/").await;
    for obey in ["both", "nobody", "both"] {
        swap(&mut tidegate, &with(&service, obey, pings)).await;
        for _ in 0..3 {
            let asked = client.read_frame().await;
            assert_eq!(asked.opcode, 9);
            let pong = Frame {
                opcode: 10,
                ..asked
            };
            client.send_frame(pong).await;
        }
    }
    // Had one of the answers passed, the service would have had it; it echoes data alone, so ask.
    client.send_frame(text("count")).await;
    loop {
        let frame = client.read_frame().await;
        if frame.opcode == 1 {
            assert_eq!(frame.payload, b"1");
            return;
        }
    }
}

/// Both directions wait here: one for its reader, and the move for the other's message to end.
#[tokio::test]
async fn a_session_that_cannot_move_yet_waits_without_being_busy() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        connection.send(accepting(&head).to_wire()).await;
        connection.send_frame(part(1, false, "begun")).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut tidegate = Tidegate::start(&watching(&service, "nobody")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_frame().await.payload, b"begun");
    tidegate
        .reload_with(&watching(&service, "both"))
        .await
        .unwrap();
    let message = text("x".repeat(1000)).encode(Some([1, 2, 3, 4]));
    let most = 64 << 20;
    assert!(client.send_until_stalled(&message, most).await < most);
    // Half a second of nothing.
    let before = tidegate.process.cpu_time();
    assert_eq!(client.send_until_stalled(&message, most).await, 0);
    let busy = tidegate.process.cpu_time() - before;
    assert!(busy < STALL / 2, "{busy:?}");
}

/// Both kinds of relay in turn, under load: nothing is lost, doubled or reordered.
#[tokio::test]
async fn sessions_under_load_lose_nothing_while_they_cross() {
    const SESSIONS: usize = 20;
    let service = Service::websocket_echo().await;
    let configurations = ["both", "nobody"].map(|obey| watching(&service, obey));
    let mut tidegate = Tidegate::start(&configurations[1]).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut talks = tokio::task::JoinSet::new();
    for n in 0..SESSIONS {
        let mut client = tidegate.websocket("/").await;
        let stopped = stopped.clone();
        // Of all lengths, so that reads end anywhere in a message.
        let filling = "x".repeat([0, 100, 70_000][n % 3]);
        talks.spawn(async move {
            let mut sent = 0_u64;
            while !*stopped.borrow() {
                let mut burst = Vec::new();
                for n in sent..sent + 5 {
                    burst.extend(text(format!("{n} {filling}")).encode(Some([9; 4])));
                }
                client.send(burst).await;
                for n in sent..sent + 5 {
                    let echo = client.read_frame().await;
                    assert!(echo.payload == format!("{n} {filling}").as_bytes(), "{n}");
                }
                sent += 5;
            }
            sent
        });
    }
    for n in 0..10 {
        swap(&mut tidegate, &configurations[n % 2]).await;
    }
    stop.send_replace(true);
    while let Some(talk) = talks.join_next().await {
        assert!(talk.unwrap() > 0);
    }
}
