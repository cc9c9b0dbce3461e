//! Connections that serve more than one request, on both sides.

use crate::harness::{Service, Tidegate, handshake, one_listener, route_to};

const GET: &str = "GET / HTTP/1.1\nHost: a";

#[tokio::test]
async fn one_connection_on_either_side_serves_many_requests() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    for number in 0..5 {
        let seen = client
            .exchange(&format!("GET /{number} HTTP/1.1\nHost: a"))
            .await
            .seen_by_service();
        assert_eq!(seen.target(), format!("/{number}"));
    }
    assert_eq!(service.connections(), 1);
    // Another client finds the same connection to the service.
    tidegate.get("/").await.seen_by_service();
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_their_order() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    let requests: String = (0..10)
        .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.send(requests).await;
    for number in 0..10 {
        let seen = client.read_response().await.seen_by_service();
        assert_eq!(seen.target(), format!("/{number}"));
    }
}

#[tokio::test]
async fn a_service_that_closes_after_each_answer_is_reached_anew() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        // No Connection: close; it just goes, as idle timeouts do.
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 0")
            .await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    for number in 1..=3 {
        assert_eq!(client.exchange(GET).await.status(), 200);
        service.finished().await;
        assert_eq!(service.connections(), number);
    }
}

#[tokio::test]
async fn the_client_decides_whether_its_connection_is_kept() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let rows = [
        ("GET / HTTP/1.1\nHost: a\nConnection: close", false),
        ("GET / HTTP/1.0\nHost: a", false),
        ("GET / HTTP/1.0\nHost: a\nConnection: keep-alive", true),
        (GET, true),
    ];
    for (request, kept) in rows {
        let mut client = tidegate.connect().await;
        client.send_head(request).await;
        let head = client.read_head().await;
        let version = request.lines().next().unwrap().rsplit(' ').next().unwrap();
        // An answer in 1.1 to a 1.0 client is what RFC 9110 §6.2 asks for; it must not be chunked.
        assert!(
            head.start.starts_with("HTTP/1."),
            "{version}: {}",
            head.start
        );
        assert_eq!(head.field("transfer-encoding"), None, "{request}");
        client.read_body(&head).await;
        if kept {
            client.send_head("GET / HTTP/1.1\nHost: a").await;
            assert_eq!(client.read_response().await.status(), 200, "{request}");
        } else {
            client.expect_end().await;
        }
    }
    assert_eq!(
        service.connections(),
        1,
        "the service's connection is kept all the same"
    );
}

#[tokio::test]
async fn idle_connections_to_a_service_can_be_refused() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "service"
        [upstreams.service]
        endpoints = [{{ address = "{}" }}]
        keep_alive = 0
        "#,
        service.address
    ))
    .await;
    for number in 1..=3 {
        tidegate.get("/").await.seen_by_service();
        assert_eq!(service.connections(), number);
    }
}

#[tokio::test]
async fn a_connection_with_an_unread_response_is_not_used_again() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 1000000")
            .await;
        // The client has left; so nothing but an end may follow on this connection.
        connection.read_to_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client.send_head(GET).await;
    assert_eq!(client.read_head().await.status(), 200);
    client.reset();
    service.finished().await;
    let mut second = tidegate.connect().await;
    second.send_head(GET).await;
    assert_eq!(second.read_head().await.status(), 200);
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn an_idle_client_is_closed_after_its_time() {
    let service = Service::http_echo().await;
    let routes = route_to(&service) + "[timeouts]\nkeep_alive = \"100ms\"";
    let tidegate = Tidegate::serving(&routes).await;
    let mut client = tidegate.connect().await;
    client.exchange(GET).await.seen_by_service();
    client.expect_end().await;
}

#[tokio::test]
async fn a_pooled_connection_that_the_service_closed_is_replaced_without_the_client_noticing() {
    // The service closes at the moment the next request is written: the proxy cannot know before.
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 0")
            .await;
        if connection.next_head().await.is_some() {
            connection.reset();
        }
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    assert_eq!(client.exchange(GET).await.status(), 200);
    assert_eq!(client.exchange(GET).await.status(), 200);
    assert_eq!(service.connections(), 2);
    // A request that may not be sent twice is not (RFC 9110 §9.2.2).
    let post = "POST / HTTP/1.1\nHost: a\nContent-Length: 0";
    assert_eq!(client.exchange(post).await.status(), 502);
}

#[tokio::test]
async fn a_tunnels_connection_never_serves_another_request() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_head().await {
            if head.field("upgrade").is_some() {
                connection.accept_websocket(&head).await;
                connection.read_to_end().await;
                return;
            }
            connection
                .send_head("HTTP/1.1 200 OK\nContent-Length: 0")
                .await;
        }
    })
    .await;
    let tidegate = Tidegate::start(&one_listener(&route_to(&service))).await;
    assert_eq!(tidegate.get("/").await.status(), 200);
    // The tunnel may take the idle connection; what comes after it needs another.
    let mut tunnel = tidegate.connect().await;
    tunnel.send_head(&handshake("/")).await;
    assert_eq!(tunnel.read_head().await.status(), 101);
    drop(tunnel);
    assert_eq!(tidegate.get("/").await.status(), 200);
}
