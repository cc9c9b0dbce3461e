//! The end of the process: what is under way may finish, nothing new begins.

use rustix::process::Signal;

use crate::harness::{Connection, Service, Tidegate, close, route_to};

#[tokio::test]
async fn an_exchange_under_way_is_finished_before_the_exit() {
    for signal in [Signal::TERM, Signal::INT] {
        let service = Service::start(|mut connection| async move {
            connection.read_head().await;
            connection
                .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
                .await;
            connection.send_chunk("before").await;
            let after = connection.read_chunk().await.unwrap();
            connection
                .send_chunk(std::str::from_utf8(&after).unwrap())
                .await;
            connection.send("0\r\n\r\n").await;
        })
        .await;
        let mut tidegate = Tidegate::serving(&route_to(&service)).await;
        let mut client = tidegate.connect().await;
        let mut idle = tidegate.connect().await;
        client
            .send_head("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked")
            .await;
        client.read_head().await;
        assert_eq!(client.read_chunk().await.unwrap(), b"before");

        tidegate.process.signal(signal);
        // An idle connection is closed at once; that is also the sign that draining has begun.
        idle.expect_end().await;
        client.send("5\r\nafter\r\n0\r\n\r\n").await;
        assert_eq!(client.read_chunk().await.unwrap(), b"after");
        assert_eq!(client.read_chunk().await, None);
        client.read_through("\r\n").await;
        client.expect_end().await;
        assert_eq!(tidegate.process.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn websocket_sessions_are_told_that_the_proxy_goes_away() {
    let service = Service::websocket_echo().await;
    let mut tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("before").await;
    tidegate.process.signal(Signal::TERM);
    assert_eq!(client.read_frame().await, close(1001, ""));
    client.send_frame(close(1001, "")).await;
    client.expect_end().await;
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
    service.finished().await;
}

#[tokio::test]
async fn nobody_gets_in_while_others_finish() {
    let service = hanging().await;
    let routes = route_to(&service) + "[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = Tidegate::serving(&routes).await;
    let mut busy = tidegate.connect().await;
    busy.send_head("GET / HTTP/1.1\nHost: a").await;
    busy.read_head().await;
    let mut idle = tidegate.connect().await;
    assert_eq!(tidegate.admin("/healthz").await.status(), 200);
    tidegate.process.signal(Signal::TERM);
    idle.expect_end().await;
    // A load balancer in front sees it too.
    assert_eq!(tidegate.admin("/healthz").await.status(), 503);
    let refused = tokio::net::TcpStream::connect(tidegate.address(0)).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn draining_ends_after_its_time_or_at_the_second_signal() {
    for (timeout, signals) in [("200ms", 1), ("1h", 2)] {
        let service = hanging().await;
        let routes = format!("{}[timeouts]\ndrain = \"{timeout}\"", route_to(&service));
        let mut tidegate = Tidegate::serving(&routes).await;
        let mut busy = tidegate.connect().await;
        busy.send_head("GET / HTTP/1.1\nHost: a").await;
        busy.read_head().await;
        let mut idle = tidegate.connect().await;
        for _ in 0..signals {
            tidegate.process.signal(Signal::INT);
            // Or two signals could become one.
            idle.expect_end().await;
        }
        tidegate.process.exit().await;
        busy.expect_end().await;
    }
}

/// A service that begins its answers and never ends them.
async fn hanging() -> Service {
    Service::start(|mut connection: Connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 10")
            .await;
        connection.read_to_end().await;
    })
    .await
}
