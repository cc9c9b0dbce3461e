//! What a client may send and hold before it is told that it is too much.

use crate::harness::{Connection, Service, Tidegate, eventually, route_to};

#[tokio::test]
async fn a_head_that_is_too_large_has_an_answer_that_says_how() {
    let service = Service::http_echo().await;
    let limits = "[limits]\nmax_header = \"8KiB\"\nmax_headers = 10\nmax_uri = \"1KiB\"";
    let tidegate = Tidegate::serving(&format!("{}\n{limits}", route_to(&service))).await;

    let target = |length: usize| format!("/{}", "u".repeat(length - 1));
    let field = |length: usize| format!("X-Long: {}", "v".repeat(length));
    let fields = |count: usize| {
        (1..count)
            .map(|n| format!("X-{n}: y\n"))
            .collect::<String>()
    };
    let rows = [
        ("a usual one", "/".to_owned(), String::new(), 200),
        (
            "a target of the largest length",
            target(1024),
            String::new(),
            200,
        ),
        ("a target one byte longer", target(1025), String::new(), 414),
        (
            "a target nearly as long as a head may be",
            target(8000),
            String::new(),
            414,
        ),
        (
            "a target longer than a whole head may be",
            target(20_000),
            String::new(),
            414,
        ),
        ("a long field", "/".to_owned(), field(8000), 200),
        ("a field that is too long", "/".to_owned(), field(8192), 431),
        (
            "a field of a megabyte",
            "/".to_owned(),
            field(1_000_000),
            431,
        ),
        ("as many fields as may be", "/".to_owned(), fields(10), 200),
        ("one field more", "/".to_owned(), fields(11), 431),
        ("far more fields", "/".to_owned(), fields(700), 431),
    ];
    for (what, target, fields, status) in rows {
        let mut client = tidegate.connect().await;
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\n{}",
            fields.replace('\n', "\r\n")
        );
        // The proxy may stop reading when it has seen enough.
        let head = head.trim_end().to_owned() + "\r\n\r\n";
        client.try_send(head).await.ok();
        assert_eq!(client.read_response().await.status(), status, "{what}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_413_in_either_framing() {
    let service = Service::http_echo().await;
    let route = route_to(&service) + "max_body = \"1KiB\"";
    let tidegate = Tidegate::serving(&route).await;
    let rows = [
        (
            "announced, just right",
            "Content-Length: 1024",
            "x".repeat(1024),
            200,
        ),
        (
            "announced, too long",
            "Content-Length: 1025",
            "x".repeat(1025),
            413,
        ),
        (
            "announced as far more than is ever sent",
            "Content-Length: 99999999999",
            String::new(),
            413,
        ),
        (
            "chunked, just right",
            "Transfer-Encoding: chunked",
            chunked(1024),
            200,
        ),
        (
            "chunked, too long",
            "Transfer-Encoding: chunked",
            chunked(1025),
            413,
        ),
        (
            "chunked, without end",
            "Transfer-Encoding: chunked",
            format!("ffffffff\r\n{}", "x".repeat(5000)),
            413,
        ),
    ];
    for (what, framing, body, status) in rows {
        let mut client = tidegate.connect().await;
        client
            .send_head(&format!("POST / HTTP/1.1\nHost: a\n{framing}"))
            .await;
        client.try_send(body).await.ok();
        assert_eq!(client.read_response().await.status(), status, "{what}");
    }
}

fn chunked(length: usize) -> String {
    let (first, second) = (600, length - 600);
    format!(
        "258\r\n{}\r\n{second:x}\r\n{}\r\n0\r\n\r\n",
        "x".repeat(first),
        "y".repeat(second)
    )
}

#[tokio::test]
async fn a_route_without_a_body_limit_takes_all() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&(route_to(&service) + "max_body = \"0B\"")).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nContent-Length: 2000000")
        .await;
    client.send("x".repeat(2_000_000)).await;
    client.read_response().await.seen_by_service();
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once_and_others_go_on() {
    let service = Service::http_echo().await;
    let routes =
        route_to(&service) + "[limits]\nmax_connections = 2\n[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = Tidegate::serving(&routes).await;
    let mut first = tidegate.connect().await;
    let mut second = tidegate.connect().await;
    for client in [&mut first, &mut second] {
        client
            .exchange("GET / HTTP/1.1\nHost: a")
            .await
            .seen_by_service();
    }
    tidegate.connect().await.expect_end().await;
    first
        .exchange("GET / HTTP/1.1\nHost: a")
        .await
        .seen_by_service();
    assert_eq!(
        tidegate
            .metrics()
            .await
            .sum("tidegate_connections_refused_total", &[]),
        1.0
    );

    // A place that becomes free can be taken.
    drop(second);
    eventually("a free place", async || {
        let mut third = Connection::open(tidegate.address(0)).await;
        third
            .try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .ok()?;
        third.next_head().await.filter(|head| head.status() == 200)
    })
    .await;
}
