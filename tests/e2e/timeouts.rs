//! How long clients and services may take, and what becomes of those that take longer.

use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Service, Tidegate, Unreachable, handshake, route_to};

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_a_408() {
    let service = Service::http_echo().await;
    let timeouts = "[timeouts]\nheader_read = \"200ms\"\nbody_read = \"200ms\"";
    let tidegate = Tidegate::serving(&format!("{}\n{timeouts}", route_to(&service))).await;
    let rows = [
        ("within the head", "GET / HTTP/1.1\r\nHos"),
        (
            "within the body",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\npart",
        ),
        (
            "within a chunk",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart",
        ),
    ];
    for (what, request) in rows {
        let mut client = tidegate.connect().await;
        client.send(request).await;
        assert_eq!(client.read_response().await.status(), 408, "{what}");
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_client_that_sends_its_head_drop_by_drop_has_one_deadline_for_all_of_it() {
    let service = Service::http_echo().await;
    let routes = route_to(&service) + "[timeouts]\nheader_read = \"500ms\"";
    let tidegate = Tidegate::serving(&routes).await;
    let mut client = tidegate.connect().await;
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    while client.try_send("X: y\r\n").await.is_ok() {
        assert!(began.elapsed() < DEADLINE, "it is still being listened to");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_that_never_says_anything_is_closed() {
    let service = Service::http_echo().await;
    let routes = route_to(&service) + "[timeouts]\nheader_read = \"200ms\"\nkeep_alive = \"200ms\"";
    let tidegate = Tidegate::serving(&routes).await;
    tidegate.connect().await.expect_end().await;
}

#[tokio::test]
async fn a_service_that_is_silent_before_its_head_is_a_504() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection.expect_end().await;
    })
    .await;
    let tidegate =
        Tidegate::serving(&(route_to(&service) + "timeouts = { read = \"200ms\" }")).await;
    assert_eq!(tidegate.get("/").await.status(), 504);
    assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 504);
    service.finished().await;
}

#[tokio::test]
async fn a_service_that_falls_silent_within_its_body_ends_the_response() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 10")
            .await;
        connection.send("part").await;
        connection.expect_end().await;
    })
    .await;
    let tidegate =
        Tidegate::serving(&(route_to(&service) + "timeouts = { read = \"200ms\" }")).await;
    let mut client = tidegate.connect().await;
    client.send_head("GET / HTTP/1.1\nHost: a").await;
    assert_eq!(client.read_head().await.status(), 200);
    assert_eq!(client.read_to_end().await, b"part");
    service.finished().await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_in_time_is_a_504() {
    let unreachable = Unreachable::new();
    let tidegate = Tidegate::serving(&format!(
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\ntimeouts = {{ connect = \"200ms\" }}",
        unreachable.address
    ))
    .await;
    assert_eq!(tidegate.get("/").await.status(), 504);
}

#[tokio::test]
async fn a_service_that_does_not_read_the_request_is_a_504() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let route = route_to(&service) + "max_body = \"0B\"\ntimeouts = { send = \"2s\" }";
    let tidegate = Tidegate::serving(&route).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nContent-Length: 1000000000")
        .await;
    // It is told some time after it notices that nothing moves any more.
    client
        .send_until_stalled(&[b'x'; 65536], 1_000_000_000)
        .await;
    assert_eq!(client.read_response().await.status(), 504);
}

#[tokio::test]
async fn a_client_that_does_not_read_the_response_is_given_up() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection.send_head("HTTP/1.1 200 OK").await;
        // It ends with an error once the proxy has closed.
        while connection.try_send(vec![b'x'; 65536]).await.is_ok() {}
    })
    .await;
    let tidegate = Tidegate::serving(&(route_to(&service) + "[timeouts]\nsend = \"300ms\"")).await;
    let mut client = tidegate.connect().await;
    client.send_head("GET / HTTP/1.1\nHost: a").await;
    service.finished().await;
}
