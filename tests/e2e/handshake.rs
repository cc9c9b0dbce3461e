//! Opening handshakes, of WebSocket and of other protocols, and what services answer to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{
    Service, Tidegate, accepting, binary, check, handshake, one_listener, route_to, text,
};

#[tokio::test]
async fn messages_of_all_length_encodings_are_echoed_through_the_proxy() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        client.send_frame(binary(&payload)).await;
        assert_eq!(client.read_frame().await, binary(&payload));
    }
    client.expect_echo("and text").await;
}

#[tokio::test]
async fn bytes_that_come_with_the_handshake_are_not_lost_in_either_direction() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection
            .send(accepting(&request).to_wire() + "early from the service")
            .await;
        assert_eq!(connection.read_frame().await, text("early from the client"));
        assert_eq!(connection.read_frame().await, text("late from the client"));
        connection.send("late from the service").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;

    let mut client = tidegate.connect().await;
    let head = handshake("/")
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\r\n");
    let early = text("early from the client").encode(Some([1, 2, 3, 4]));
    client
        .send([head.as_bytes(), b"\r\n\r\n", &early].concat())
        .await;

    assert_eq!(client.read_head().await.status(), 101);
    client.read_through("early from the service").await;
    client.send_frame(text("late from the client")).await;
    client.read_through("late from the service").await;
}

#[tokio::test]
async fn a_refused_handshake_reaches_the_client_as_the_service_sent_it() {
    const REFUSALS: [&str; 5] = [
        "200 OK",
        "401 Unauthorized",
        "403 Forbidden",
        "426 Upgrade Required",
        "500 Oops",
    ];
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_head().await {
            let status = REFUSALS[head.target()[1..].parse::<usize>().unwrap()];
            connection
                .send_head(&format!(
                    "HTTP/1.1 {status}\nX-Reason: because\nContent-Length: 7"
                ))
                .await;
            connection.send("sorry!\n").await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;

    // One connection for all: none of these answers ends it.
    let mut client = tidegate.connect().await;
    for (number, status) in REFUSALS.iter().enumerate() {
        let response = client.exchange(&handshake(&format!("/{number}"))).await;
        assert!(
            status.starts_with(&response.status().to_string()),
            "{status}: {response:?}"
        );
        assert_eq!(response.field("x-reason"), Some("because"), "{status}");
        assert_eq!(response.text(), "sorry!\n", "{status}");
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nsecret")
            .await;
        assert_eq!(request.field("upgrade"), None);
        // It must not become a tunnel: nothing of what follows the 101 may be sent to the client.
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let response = tidegate.get("/").await;
    assert_eq!(response.status(), 502);
    assert!(!response.text().contains("secret"));
}

#[tokio::test]
async fn a_101_that_does_not_answer_the_request_is_a_502() {
    let wrong = [
        ("upgrade", Some("irc")),
        ("upgrade", None),
        ("sec-websocket-accept", Some("ZEs+c+VBk8Aj01+wJGN7Y15796g=")),
        ("sec-websocket-accept", None),
    ];
    let service = Service::start(move |mut connection| async move {
        let request = connection.read_head().await;
        let (name, value) = wrong[request.target()[1..].parse::<usize>().unwrap()];
        connection
            .send(accepting(&request).replacing(name, value).to_wire())
            .await;
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    for (number, what) in wrong.iter().enumerate() {
        let response = tidegate.exchange(&handshake(&format!("/{number}"))).await;
        assert_eq!(response.status(), 502, "{what:?}");
    }
}

#[tokio::test]
async fn a_101_with_a_content_length_of_0_is_tolerated() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection
            .send(accepting(&request).with("Content-Length", "0").to_wire())
            .await;
        let frame = connection.read_frame().await;
        connection.send_frame(frame).await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    tidegate.websocket("/").await.expect_echo("tolerated").await;
}

#[tokio::test]
async fn a_handshake_that_breaks_the_rules_is_answered_here() {
    let asked = Arc::new(AtomicBool::new(false));
    let told = asked.clone();
    let service = Service::start(move |_| {
        told.store(true, Ordering::SeqCst);
        async {}
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let cases = [
        (
            "no key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "X: y",
            400,
        ),
        (
            "a key that is not 16 bytes",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZQ==",
            400,
        ),
        (
            "a key that is not base64",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25j!!==",
            400,
        ),
        ("another version", "Version: 13", "Version: 8", 426),
        ("no version", "Sec-WebSocket-Version: 13", "X: y", 400),
    ];
    for (what, right, wrong, status) in cases {
        let lines = handshake("/").replace(right, wrong);
        let response = tidegate.exchange(&lines).await;
        assert_eq!(response.status(), status, "{what}");
        if status == 426 {
            assert_eq!(
                response.field("sec-websocket-version"),
                Some("13"),
                "{what}"
            );
        }
    }
    assert!(
        !asked.load(Ordering::SeqCst),
        "the service was not bothered"
    );
}

#[tokio::test]
async fn subprotocols_and_extensions_are_between_client_and_service_on_a_blind_tunnel() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(
            request.field("sec-websocket-protocol"),
            Some("chat, superchat")
        );
        assert_eq!(
            request.field("sec-websocket-extensions"),
            Some("permessage-deflate")
        );
        assert_eq!(request.field("origin"), Some("http://example.com"));
        let answer = accepting(&request)
            .with("Sec-WebSocket-Protocol", "superchat")
            .with("Sec-WebSocket-Extensions", "permessage-deflate");
        connection.send(answer.to_wire()).await;
        // Compressed: RSV1 is set (RFC 7692 §6).
        assert_eq!(
            connection.read_frame().await,
            text("compressed").with_rsv(0b100)
        );
        connection
            .send_frame(text("compressed too").with_rsv(0b100))
            .await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    let offer = "Sec-WebSocket-Protocol: chat, superchat
        Sec-WebSocket-Extensions: permessage-deflate
        Origin: http://example.com";
    client
        .send_head(&format!("{}\n{offer}", handshake("/")))
        .await;
    let head = client.read_head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("sec-websocket-protocol"), Some("superchat"));
    assert_eq!(
        head.field("sec-websocket-extensions"),
        Some("permessage-deflate")
    );
    client.send_frame(text("compressed").with_rsv(0b100)).await;
    assert_eq!(
        client.read_frame().await,
        text("compressed too").with_rsv(0b100)
    );
}

#[tokio::test]
async fn any_protocol_on_the_routes_list_becomes_a_tunnel_of_bytes() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(request.field("upgrade"), Some("knock/2"));
        assert!(
            request
                .field("connection")
                .unwrap()
                .eq_ignore_ascii_case("upgrade")
        );
        connection
            .send_head("HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: knock/2")
            .await;
        connection.send(b"\xff\xff who is there?").await;
        assert_eq!(connection.read_exactly(7).await, b"\0nobody");
        connection.send("good bye").await;
    })
    .await;
    let routes = format!(
        "{}\nupgrade = [\"websocket\", \"knock/2\"]",
        route_to(&service)
    );
    let tidegate = Tidegate::serving(&routes).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: knock/2")
        .await;
    let head = client.read_head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade"), Some("knock/2"));
    assert_eq!(client.read_exactly(16).await, b"\xff\xff who is there?");
    client.send(b"\0nobody").await;
    client.read_through("good bye").await;
    client.expect_end().await;
}

#[tokio::test]
async fn upgrades_that_are_not_on_the_list_are_ordinary_requests() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let requests = [
        (
            "h2c",
            "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__",
        ),
        (
            "an unknown protocol",
            "Connection: upgrade\nUpgrade: knock/2",
        ),
        (
            "an upgrade that Connection does not name",
            "Upgrade: websocket",
        ),
    ];
    for (what, fields) in requests {
        let response = tidegate
            .exchange(&format!("GET / HTTP/1.1\nHost: a\n{fields}"))
            .await;
        let seen = response.seen_by_service();
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(seen.field(name), None, "{what}");
        }
        let connection = seen.field("connection").unwrap_or_default().to_lowercase();
        assert!(
            !connection.contains("upgrade"),
            "{what}: Connection: {connection}"
        );
    }
}

#[tokio::test]
async fn h2c_stays_refused_even_on_a_list() {
    let routes =
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:1\"\nupgrade = [\"h2c\"]";
    let problems = check(&one_listener(routes)).unwrap_err();
    assert!(
        problems.contains("upgrade") && problems.contains("h2c"),
        "{problems}"
    );
}
