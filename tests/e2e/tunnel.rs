//! Tunnels without plugins: bytes go through as they are, ends and stalls included.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{
    Connection, Service, Tidegate, accepting, close, eventually, raise_descriptor_limit, route_to,
    text, within,
};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_client_that_has_finished_sending_still_receives() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_to_end().await, b"the question");
        connection.send("the answer").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    client.send("the question").await;
    client.finish_sending().await;
    assert_eq!(client.read_to_end().await, b"the answer");
}

#[tokio::test]
async fn a_service_that_has_finished_sending_still_receives() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection
            .send(accepting(&request).to_wire() + "the last word")
            .await;
        connection.finish_sending().await;
        let heard = connection.read_to_end().await;
        assert_eq!(heard, b"and still I speak");
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_to_end().await, b"the last word");
    client.send("and still I speak").await;
    client.finish_sending().await;
    service.finished().await;
}

#[tokio::test]
async fn a_service_that_dies_within_a_message_ends_the_tunnel() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        let whole = text("a message that is cut short").encode(None);
        connection.send(&whole[..10]).await;
        assert_eq!(connection.read_frame().await, text("got it"));
        connection.reset();
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_exactly(10).await[2..], *b"a messag");
    client.send_frame(text("got it")).await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_dies_ends_the_connection_to_the_service() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_frame().await, text("hello"));
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("hello")).await;
    client.reset();
    service.finished().await;
}

#[tokio::test]
async fn a_tunnel_that_is_silent_for_too_long_is_closed_and_one_that_speaks_is_not() {
    let service = Service::websocket_echo().await;
    let route = format!(
        "{}websocket = {{ idle_timeout = \"1s\" }}",
        route_to(&service)
    );
    let tidegate = Tidegate::serving(&route).await;
    let mut silent = tidegate.websocket("/").await;
    let mut speaking = tidegate.websocket("/").await;
    let silent = tokio::spawn(async move {
        assert_eq!(silent.read_frame().await, close(1001, ""));
        silent.expect_end().await;
    });
    while !silent.is_finished() {
        speaking.expect_echo("still here").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    silent.await.unwrap();
    speaking.expect_echo("and still").await;
}

/// Promise 5 of the design, for peers that do not read what they are sent.
#[tokio::test]
async fn peers_that_do_not_read_cost_no_memory() {
    const SESSIONS: usize = 16;

    let stalled = Arc::new(Semaphore::new(0));
    let counted = stalled.clone();
    let service = Service::start(move |mut connection| {
        let counted = counted.clone();
        async move {
            let request = connection.read_head().await;
            if request.target() == "/download" {
                connection.send_head("HTTP/1.1 200 OK").await;
            } else {
                connection.accept_websocket(&request).await;
            }
            if request.target() != "/silent" {
                expect_stall(&mut connection).await;
                counted.add_permits(1);
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let stall = async |sessions: usize| {
        let mut held = JoinSet::new();
        for _ in 0..sessions {
            let mut silent = tidegate.websocket("/silent").await;
            held.spawn(async move {
                expect_stall(&mut silent).await;
                silent
            });
            let flooded = tidegate.websocket("/flood").await;
            held.spawn(async { flooded });
            let mut download = tidegate.connect().await;
            download.send_head("GET /download HTTP/1.1\nHost: a").await;
            held.spawn(async { download });
        }
        let held = held.join_all().await;
        let both = stalled.acquire_many(2 * sessions as u32);
        within("stall of the service", both).await.unwrap().forget();
        held
    };

    // The first of each kind fills what is allocated once and then kept.
    let _first = stall(1).await;
    let before = tidegate.memory();
    let held = stall(SESSIONS).await;
    let grown = tidegate.memory().saturating_sub(before) as usize;
    assert!(
        grown < held.len() * MIB,
        "{} stalled sessions hold {} KiB each",
        held.len(),
        grown / held.len() / 1024
    );
}

/// Sends up to 200 MiB and fails the test if that much is taken.
async fn expect_stall(connection: &mut Connection) {
    const MOST: usize = 200 * MIB;
    let sent = connection.send_until_stalled(&vec![b'x'; MIB], MOST).await;
    assert!(sent < MOST, "all of it was taken although nobody reads it");
}

#[tokio::test]
async fn a_thousand_tunnels_at_once_mix_nothing_up() {
    const TUNNELS: usize = 1000;
    const MESSAGES: usize = 20;

    raise_descriptor_limit();
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::start(&format!(
        r#"
        workers = 2

        [admin]
        listen = "127.0.0.1:0"

        [[listeners]]
        bind = "127.0.0.1:0"

        [[sites]]
        default = true

        {}
        "#,
        route_to(&service)
    ))
    .await;

    let mut opening = JoinSet::new();
    for _ in 0..TUNNELS {
        let address = tidegate.address(0);
        opening.spawn(async move {
            let mut client = Connection::open(address).await;
            client.open_websocket("/").await;
            client
        });
    }
    let clients = opening.join_all().await;
    // A session is open a moment after its client has the 101.
    let open = async |count: usize| {
        let metrics = tidegate.metrics().await;
        (metrics.sum("tidegate_sessions_open", &[]) == count as f64).then_some(())
    };
    eventually("count of all tunnels", async || open(TUNNELS).await).await;

    let mut echoing = JoinSet::new();
    for (tunnel, mut client) in clients.into_iter().enumerate() {
        echoing.spawn(async move {
            // All are on their way before the first is read.
            for message in 0..MESSAGES {
                client.send_frame(text(format!("{tunnel}/{message}"))).await;
            }
            for message in 0..MESSAGES {
                assert_eq!(
                    client.read_frame().await,
                    text(format!("{tunnel}/{message}"))
                );
            }
        });
    }
    echoing.join_all().await;
    eventually("end of all tunnels", async || open(0).await).await;
}
