//! The admin listener: whether the proxy is well, and its numbers.

use tokio::io::AsyncReadExt;

use crate::harness::{
    Connection, Refusing, Service, Tidegate, binary, eventually, route_to, text, within,
};

/// A series by its name and labels, and its value.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

#[tokio::test]
async fn healthz_says_ok_and_other_paths_are_unknown() {
    let routes = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";
    let tidegate = Tidegate::serving(&format!("{routes}[admin]\nlisten = \"127.0.0.1:0\"")).await;
    assert_eq!(tidegate.admin("/healthz").await.status(), 200);
    assert_eq!(tidegate.admin("/").await.status(), 404);
    // The admin listener is not the proxy, and the proxy has no admin paths.
    assert_eq!(tidegate.get("/healthz").await.status(), 204);
}

/// It would keep a descriptor from the traffic for as long as it likes.
#[tokio::test]
async fn who_does_not_get_to_ask_is_left() {
    let routes = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\nunix = \"admin.sock\"";
    let tidegate = Tidegate::serving(&format!("{routes}{admin}")).await;
    let path = tidegate.folder.path().join("admin.sock");
    let mut socket = tokio::net::UnixStream::connect(path).await.unwrap();
    let mut begun = Connection::open(tidegate.admin_address()).await;
    begun
        .send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        .await;
    let mut silent = Connection::open(tidegate.admin_address()).await;
    begun.read_to_end().await;
    silent.read_to_end().await;
    let end = within("end of the socket", socket.read_u8()).await;
    assert!(end.is_err(), "it is closed without a word");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let (service, refusing) = (Service::websocket_echo().await, Refusing::new());
    let tidegate = Tidegate::serving(&format!(
        r#"
        {}
        [[sites.routes]]
        match = "/down"
        upstream = "down"
        [[sites.routes]]
        match = "/fixed"
        respond = {{ status = 200, body = "0123456789" }}
        [upstreams.down]
        endpoints = [{{ address = "{}" }}]
        [admin]
        listen = "127.0.0.1:0"
        "#,
        route_to(&service),
        refusing.address
    ))
    .await;

    for _ in 0..3 {
        assert_eq!(tidegate.get("/fixed").await.status(), 200);
    }
    let down = tidegate.get("/down").await;
    assert_eq!(down.status(), 502);
    let mut open = tidegate.websocket("/").await;
    open.expect_echo("one").await;
    let mut closed = tidegate.websocket("/").await;
    closed.expect_echo("two").await;
    closed.send_frame(binary("three")).await;
    closed.read_frame().await;
    drop(closed);

    let metrics = eventually("end of the session", async || {
        let metrics = tidegate.metrics().await;
        let open = ["tidegate_sessions_open", "tidegate_connections_open"];
        let only_one = open.iter().all(|name| metrics.sum(name, &[]) == 1.0);
        only_one.then_some(metrics)
    })
    .await;
    let address = refusing.address.to_string();
    let rows: [Row<'_>; 13] = [
        ("tidegate_connections_accepted_total", &[], 6.0),
        ("tidegate_connections_refused_total", &[], 0.0),
        ("tidegate_connections_open", &[], 1.0),
        ("tidegate_requests_total", &[], 6.0),
        ("tidegate_responses_total", &[("class", "1xx")], 2.0),
        ("tidegate_responses_total", &[("class", "2xx")], 3.0),
        ("tidegate_responses_total", &[("class", "5xx")], 1.0),
        ("tidegate_sessions_opened_total", &[], 2.0),
        ("tidegate_upstream_connections_opened_total", &[], 2.0),
        (
            "tidegate_endpoint_picks_total",
            &[("address", &address)],
            1.0,
        ),
        (
            "tidegate_endpoint_failures_total",
            &[("address", &address)],
            1.0,
        ),
        ("tidegate_workers", &[], 1.0),
        ("tidegate_generation", &[], 1.0),
    ];
    for (name, labels, value) in rows {
        assert_eq!(metrics.sum(name, labels), value, "{name} {labels:?}");
    }
    // Messages of a tunnel are counted when it ends: those of the one that is open are missing.
    let unseen = |direction| [("direction", direction), ("verdict", "unseen")];
    for direction in ["to-service", "to-client"] {
        assert_eq!(
            metrics.sum("tidegate_messages_total", &unseen(direction)),
            2.0,
            "{direction}"
        );
    }
    let frames = |mask| {
        let sent = [text("one"), text("two"), binary("three")];
        sent.iter()
            .map(|frame| frame.encode(mask).len())
            .sum::<usize>()
    };
    let bytes = |direction| metrics.sum("tidegate_bytes_total", &[("direction", direction)]);
    assert_eq!(bytes("to-service"), frames(Some([0; 4])) as f64);
    assert_eq!(
        bytes("to-client"),
        (frames(None) + 3 * 10 + down.body.len()) as f64
    );
}
