//! Health checks: who is asked what, and what becomes of an endpoint that does not answer well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::harness::{
    Connection, Head, Refusing, Service, Tidegate, accepting, eventually, handshake, one_listener,
};

/// A check often enough for a test; its kind is to be added.
const OFTEN: &str = "interval = \"20ms\", jitter = \"5ms\", fall = 2, rise = 2";

/// One check, and then none for the length of a test.
const ONCE: &str = "interval = \"1h\", jitter = \"0s\", fall = 1";

/// A group behind all paths that is checked.
fn checked(health: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "group"
        [upstreams.group]
        endpoints = [{}]
        health = {{ {health} }}
        [admin]
        listen = "127.0.0.1:0"
        "#,
        endpoints.join(", ")
    )
}

/// Waits until an endpoint counts as up or as down.
async fn is_up(tidegate: &Tidegate, address: SocketAddr, up: bool) {
    let what = format!("up = {up} of {address}");
    let address = address.to_string();
    eventually(&what, async || {
        let metrics = tidegate.metrics().await;
        let value = metrics.sum("tidegate_endpoint_up", &[("address", &address)]);
        (value == f64::from(u8::from(up))).then_some(())
    })
    .await;
}

async fn failures(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    let failures = metrics.find("tidegate_endpoint_failures_total", &[]);
    failures.unwrap_or_default()
}

async fn checks(tidegate: &Tidegate, result: &str) -> f64 {
    let metrics = tidegate.metrics().await;
    metrics.sum(
        "tidegate_endpoint_health_checks_total",
        &[("result", result)],
    )
}

async fn turns(tidegate: &Tidegate, count: usize) -> String {
    let mut turns = String::new();
    for _ in 0..count {
        turns += tidegate.get("/").await.text();
    }
    turns
}

/// Answers checks with a status that may change, and other requests with its name.
async fn moody(name: &'static str, status: &Arc<AtomicU16>) -> Service {
    let status = status.clone();
    Service::start(move |connection| answer_moodily(connection, name, status.clone())).await
}

async fn answer_moodily(mut connection: Connection, name: &'static str, status: Arc<AtomicU16>) {
    while let Some(head) = connection.next_request().await {
        let status = match head.target() {
            "/well" => status.load(Ordering::SeqCst),
            _ => 200,
        };
        let length = name.len();
        let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n{name}");
        if connection.try_send(answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connections_gets_no_requests() {
    let (dead, alive) = (Refusing::new(), Service::answering("alive").await);
    let mut tidegate = Tidegate::serving(&checked(
        &format!("type = \"tcp\", {OFTEN}"),
        &[dead.address, alive.address],
    ))
    .await;
    let line = tidegate.log("endpoint is unhealthy").await;
    assert_eq!(line["upstream"], "group");
    assert_eq!(line["endpoint"], dead.address.to_string());
    is_up(&tidegate, dead.address, false).await;
    assert_eq!(turns(&tidegate, 6).await, "alive".repeat(6));
    assert_eq!(failures(&tidegate).await, 0.0, "no request found it dead");
    assert!(checks(&tidegate, "failure").await >= 2.0);

    let dead_address = dead.address;
    let _back = dead.serve("back");
    tidegate.log("endpoint is healthy again").await;
    is_up(&tidegate, dead_address, true).await;
    assert!(turns(&tidegate, 2).await.contains("back"));
    assert!(checks(&tidegate, "success").await >= 2.0);
}

#[tokio::test]
async fn an_endpoint_is_as_well_as_the_status_it_answers_with() {
    let mood = Arc::new(AtomicU16::new(204));
    let (moody, calm) = (
        moody("moody", &mood).await,
        Service::answering("calm").await,
    );
    let health = format!("type = \"http\", path = \"/well\", {OFTEN}");
    let mut tidegate = Tidegate::serving(&checked(&health, &[moody.address, calm.address])).await;
    assert!(turns(&tidegate, 2).await.contains("moody"));

    mood.store(503, Ordering::SeqCst);
    let line = tidegate.log("endpoint is unhealthy").await;
    assert!(line["error"].as_str().unwrap().contains("503"), "{line}");
    assert_eq!(turns(&tidegate, 4).await, "calm".repeat(4));

    mood.store(399, Ordering::SeqCst);
    tidegate.log("endpoint is healthy again").await;
    assert!(turns(&tidegate, 2).await.contains("moody"));
}

#[tokio::test]
async fn a_check_names_the_host_and_path_it_is_told_to() {
    let (seen, mut heads) = tokio::sync::mpsc::unbounded_channel::<Head>();
    let service = Service::start(move |mut connection| {
        let seen = seen.clone();
        async move {
            let Some(head) = connection.next_head().await else {
                return;
            };
            seen.send(head).unwrap();
            connection
                .send_head("HTTP/1.1 200 OK\nContent-Length: 0")
                .await;
        }
    })
    .await;
    let configuration = |host: &str| {
        let health = format!("type = \"http\", path = \"/well?deep=1\", {host} {ONCE}");
        one_listener(&checked(&health, &[service.address]))
    };
    let mut tidegate = Tidegate::start(&configuration("")).await;
    let head = heads.recv().await.unwrap();
    assert_eq!(head.start, "GET /well?deep=1 HTTP/1.1");
    assert_eq!(head.field("host"), Some("group"));
    // Other settings are another check, at once.
    tidegate
        .reload_with(&configuration("host = \"chat.example.com\","))
        .await
        .unwrap();
    let head = heads.recv().await.unwrap();
    assert_eq!(head.field("host"), Some("chat.example.com"));
}

#[tokio::test]
async fn a_websocket_check_opens_one_and_closes_it_with_1000() {
    let (closed, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::start(move |mut connection| {
        let closed = closed.clone();
        async move {
            let Some(head) = connection.next_head().await else {
                return;
            };
            assert_eq!(head.field("sec-websocket-version"), Some("13"));
            connection.accept_websocket(&head).await;
            let frame = connection.next_frame().await.expect("a Close frame");
            closed.send((head, frame)).unwrap();
        }
    })
    .await;
    let health = format!("type = \"websocket\", path = \"/chat\", {OFTEN}");
    let tidegate = Tidegate::serving(&checked(&health, &[service.address])).await;
    let (first, frame) = frames.recv().await.unwrap();
    assert_eq!(first.target(), "/chat");
    assert_eq!((frame.opcode, &frame.payload[..2]), (8, &[0x03, 0xe8][..]));
    let (second, _) = frames.recv().await.unwrap();
    let key = |head: &Head| head.field("sec-websocket-key").unwrap().to_owned();
    assert_ne!(key(&first), key(&second), "each with a key of its own");
    is_up(&tidegate, service.address, true).await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_no_websocket_is_unhealthy() {
    let plain = Service::http_echo().await;
    let wrong = Service::start(|mut connection| async move {
        let Some(head) = connection.next_head().await else {
            return;
        };
        let answer = accepting(&head).replacing("Sec-WebSocket-Accept", Some("AAAA"));
        if connection.try_send(answer.to_wire()).await.is_ok() {
            connection.read_to_end().await;
        }
    })
    .await;
    let silent = Service::start(|mut connection| async move {
        connection.read_to_end().await;
    })
    .await;
    let health = format!("type = \"websocket\", timeout = \"100ms\", {OFTEN}");
    let endpoints = [plain.address, wrong.address, silent.address];
    let mut tidegate = Tidegate::serving(&checked(&health, &endpoints)).await;
    let mut errors = Vec::new();
    for _ in 0..3 {
        let line = tidegate.log("endpoint is unhealthy").await;
        errors.push(line["error"].as_str().unwrap().to_owned());
    }
    for says in ["200", "Sec-WebSocket-Accept", "100ms"] {
        assert!(
            errors.iter().any(|error| error.contains(says)),
            "{errors:?}"
        );
    }
    assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 502);
    let line = tidegate.log("request failed").await;
    assert_eq!(line["error"], "no live upstreams in `group`");
}

#[tokio::test]
async fn a_group_of_one_that_is_unhealthy_is_502_and_its_tunnels_stay() {
    let mood = Arc::new(AtomicU16::new(200));
    let status = mood.clone();
    let service = Service::start(move |mut connection| {
        let status = status.clone();
        async move {
            let Some(head) = connection.next_head().await else {
                return;
            };
            if head.target() == "/well" {
                let status = status.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} So\nContent-Length: 0");
                return connection.send_head(&answer).await;
            }
            connection.accept_websocket(&head).await;
            while let Some(frame) = connection.next_frame().await {
                if connection.try_send(frame.encode(None)).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let health = format!("type = \"http\", path = \"/well\", {OFTEN}");
    let tidegate = Tidegate::serving(&checked(&health, &[service.address])).await;
    let mut tunnel = tidegate.websocket("/").await;
    mood.store(500, Ordering::SeqCst);
    is_up(&tidegate, service.address, false).await;
    tunnel.expect_echo("still here").await;
    assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 502);
    mood.store(200, Ordering::SeqCst);
    is_up(&tidegate, service.address, true).await;
    tidegate.websocket("/").await.expect_echo("back").await;
}

#[tokio::test]
async fn what_checks_found_survives_a_reload_that_keeps_the_endpoint() {
    let (dead, alive) = (Refusing::new(), Service::answering("alive").await);
    let endpoints = [dead.address, alive.address];
    let health = format!("type = \"tcp\", {ONCE}");
    let before = one_listener(&checked(&health, &endpoints));
    let mut tidegate = Tidegate::start(&before).await;
    tidegate.log("endpoint is unhealthy").await;
    let dead_address = dead.address;
    // Nobody checks again within this test, so this is not noticed.
    let _back = dead.serve("back");
    let other_route = "[[sites.routes]]\nmatch = \"/n\"\nrespond = { status = 204 }\n[admin]";
    tidegate
        .reload_with(&before.replace("[admin]", other_route))
        .await
        .unwrap();
    is_up(&tidegate, dead_address, false).await;
    assert_eq!(turns(&tidegate, 4).await, "alive".repeat(4));
    // Without checks there is nothing to say that it is not well.
    let unchecked = before.replace(&format!("health = {{ {health} }}"), "");
    tidegate.reload_with(&unchecked).await.unwrap();
    is_up(&tidegate, dead_address, true).await;
    assert!(turns(&tidegate, 2).await.contains("back"));
}

#[tokio::test]
async fn a_plugin_is_not_offered_what_is_unhealthy() {
    let (dead, alive) = (Refusing::new(), Service::answering("alive").await);
    let rest = checked(
        &format!("type = \"tcp\", {ONCE}"),
        &[dead.address, alive.address],
    );
    let rest = rest.replace(
        "upstream = \"group\"",
        "upstream = \"group\"\nplugins = [\"choose\"]",
    );
    let mut tidegate = Tidegate::serving(&format!(
        "{rest}\n[plugins.choose]\nmodule = \"builtin:choose-endpoint\"\nconfig = {{ by = \"query:room\" }}"
    ))
    .await;
    tidegate.log("endpoint is unhealthy").await;
    for room in 0..12 {
        let answer = tidegate.get(&format!("/?room={room}")).await;
        assert_eq!(answer.text(), "alive", "{room}");
    }
    assert_eq!(failures(&tidegate).await, 0.0);
}
