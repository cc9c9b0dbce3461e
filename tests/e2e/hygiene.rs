//! What a route insists on in an opening handshake, and which pages may open WebSockets at all.

use crate::harness::{
    Connection, Head, Service, Tidegate, check, close, handshake, one_listener, route_to, text,
};

/// A route that holds handshakes to these rules. Further keys of the route may follow.
fn route_with(service: &Service, rules: &str) -> String {
    format!(
        "{}websocket = {{ handshake = {rules:?} }}\n",
        route_to(service)
    )
}

/// Sends the 101 of these lines to every request, whatever it asks, and its first message back.
async fn answering(lines: &'static str) -> Service {
    Service::start(move |mut connection| async move {
        connection.read_head().await;
        connection
            .send_head(&format!("HTTP/1.1 101 Switching Protocols\n{lines}"))
            .await;
        if let Some(frame) = connection.next_frame().await {
            connection.send_frame(frame).await;
        }
    })
    .await
}

/// Opens a WebSocket by these lines, says something to see that it works, and returns the 101.
async fn opened(tidegate: &Tidegate, lines: &str) -> Head {
    let mut client = tidegate.connect().await;
    client.send_head(lines).await;
    let head = client.read_head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    client.expect_echo("it works").await;
    head
}

#[tokio::test]
async fn a_handshake_that_breaks_the_rules_is_forwarded_as_it_is_unless_the_route_is_strict() {
    let cases = [
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", ""),
        ("dGhlIHNhbXBsZSBub25jZQ==", "not a key"),
        ("Version: 13", "Version: 8"),
        ("Sec-WebSocket-Version: 13", ""),
    ];
    for rules in ["lenient", "off"] {
        for (right, wrong) in cases {
            let lines = handshake("/").replace(right, wrong);
            let lines: Vec<_> = lines.lines().map(str::trim).collect();
            let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            let lines = lines.join("\n");
            let sent = Head::parse(&lines.replace('\n', "\r\n"));
            let service = Service::start(move |mut connection: Connection| {
                let sent = sent.clone();
                async move {
                    let request = connection.read_head().await;
                    for name in ["sec-websocket-key", "sec-websocket-version"] {
                        assert_eq!(request.field(name), sent.field(name));
                    }
                    connection
                        .send_head(
                            "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade",
                        )
                        .await;
                    let frame = connection.read_frame().await;
                    connection.send_frame(frame).await;
                }
            })
            .await;
            let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
            opened(&tidegate, &lines).await;
            service.finished().await;
        }
    }
}

#[tokio::test]
async fn what_lacks_a_step_of_the_handshake_is_an_ordinary_request_or_refused_as_the_rules_say() {
    // A service that switches whenever it is asked to, and proves nothing.
    let service = Service::start(|mut connection| async move {
        while let Some(request) = connection.next_request().await {
            if request.field("upgrade").is_none() {
                connection
                    .send_head("HTTP/1.1 200 OK\nContent-Length: 0")
                    .await;
                continue;
            }
            assert_eq!(request.field("connection"), Some("upgrade"));
            connection
                .send_head(
                    "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade",
                )
                .await;
            return;
        }
    })
    .await;
    let cases = [
        ("Upgrade: websocket\n", "", [200, 200, 200]),
        // As in a configuration that has lost its `$`.
        ("Upgrade: websocket", "Upgrade: http_upgrade", [200; 3]),
        ("Connection: Upgrade\n", "", [200, 200, 101]),
        ("Connection: Upgrade", "Connection: close", [200, 200, 101]),
        ("GET", "DELETE", [200; 3]),
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n",
            "",
            [400, 101, 101],
        ),
        ("Version: 13", "Version: 12", [426, 101, 101]),
        ("Version: 13", "Version: 13, 12", [426, 101, 101]),
    ];
    for (index, rules) in ["strict", "lenient", "off"].into_iter().enumerate() {
        let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
        for (right, wrong, statuses) in cases {
            let lines: Vec<_> = handshake("/")
                .lines()
                .map(|line| line.trim().to_owned() + "\n")
                .collect();
            let lines = lines.concat();
            assert!(lines.contains(right), "{right}");
            let mut client = tidegate.connect().await;
            client.send_head(&lines.replace(right, wrong)).await;
            let head = client.read_head().await;
            let what = format!("{rules}: {right:?} became {wrong:?}");
            assert_eq!(head.status(), statuses[index], "{what}");
            let version = (head.status() == 426).then_some("13");
            assert_eq!(head.field("sec-websocket-version"), version, "{what}");
            let protocol = matches!(head.status(), 101 | 426).then_some("websocket");
            assert_eq!(head.field("upgrade"), protocol, "{what}");
        }
    }
}

/// A published trace of a handshake, whose `Sec-WebSocket-Accept` does not answer its key.
#[tokio::test]
async fn a_wrong_accept_is_a_502_or_a_warning_or_nobodys_business() {
    let lines = handshake("/").replace("dGhlIHNhbXBsZSBub25jZQ==", "hj0eNqbhE/A0GkBXDRrYYw==");
    let right = answering(
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: tAsr1vlKhIQGZ37CVuLBbuaIxXw=",
    )
    .await;
    let tidegate = Tidegate::serving(&route_with(&right, "strict")).await;
    opened(&tidegate, &lines).await;

    const WRONG: &str = "ZEs+c+VBk8Aj01+wJGN7Y15796g=";
    let wrong = answering(
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: ZEs+c+VBk8Aj01+wJGN7Y15796g=",
    )
    .await;
    let tidegate = Tidegate::serving(&route_with(&wrong, "strict")).await;
    assert_eq!(tidegate.exchange(&lines).await.status(), 502);
    for rules in ["lenient", "off"] {
        let mut tidegate = Tidegate::serving(&route_with(&wrong, rules)).await;
        let head = opened(&tidegate, &lines).await;
        assert_eq!(head.field("sec-websocket-accept"), Some(WRONG), "{rules}");
        if rules == "lenient" {
            let line = tidegate.log("lenient about a handshake").await;
            assert_eq!(line["level"], "WARN", "{line}");
        }
    }
}

#[tokio::test]
async fn a_subprotocol_that_was_not_offered_is_refused_only_by_strict_routes() {
    let service = answering(
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Protocol: other\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    )
    .await;
    let lines = handshake("/") + "\nSec-WebSocket-Protocol: chat, superchat";
    let tidegate = Tidegate::serving(&route_with(&service, "strict")).await;
    assert_eq!(tidegate.exchange(&lines).await.status(), 502);
    for rules in ["lenient", "off"] {
        let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
        let head = opened(&tidegate, &lines).await;
        assert_eq!(
            head.field("sec-websocket-protocol"),
            Some("other"),
            "{rules}"
        );
    }
}

#[tokio::test]
async fn a_101_that_browsers_would_refuse_is_refused_by_strict_routes() {
    const ACCEPT: &str = "Upgrade: websocket\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    for (lines, is_right) in [
        ("Connection: keep-alive, Upgrade", true),
        ("Connection: keep-alive", false),
        ("X-Connection: Upgrade", false),
        (
            "Connection: Upgrade\nSec-WebSocket-Protocol: superchat",
            true,
        ),
        (
            "Connection: Upgrade\nSec-WebSocket-Protocol: chat, superchat",
            false,
        ),
        (
            "Connection: Upgrade\nSec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol: superchat",
            false,
        ),
    ] {
        let service = answering(format!("{ACCEPT}\n{lines}").leak()).await;
        let asked = handshake("/") + "\nSec-WebSocket-Protocol: chat, superchat";
        for rules in ["strict", "lenient"] {
            let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
            let mut client = tidegate.connect().await;
            client.send_head(&asked).await;
            let expected = if is_right || rules == "lenient" {
                101
            } else {
                502
            };
            let head = client.read_head().await;
            assert_eq!(head.status(), expected, "{rules}: {lines}");
        }
    }
}

#[tokio::test]
async fn another_protocol_than_was_asked_for_is_refused_unless_the_rules_are_off() {
    for lines in ["Upgrade: irc\nConnection: Upgrade", "Connection: Upgrade"] {
        let service = answering(lines).await;
        for rules in ["strict", "lenient"] {
            let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
            let response = tidegate.exchange(&handshake("/")).await;
            assert_eq!(response.status(), 502, "{rules}: {lines}");
        }
        let tidegate = Tidegate::serving(&route_with(&service, "off")).await;
        opened(&tidegate, &handshake("/")).await;
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502_whatever_the_rules() {
    let service = answering("Upgrade: websocket\nConnection: Upgrade").await;
    for rules in ["strict", "lenient", "off"] {
        let tidegate = Tidegate::serving(&route_with(&service, rules)).await;
        assert_eq!(tidegate.get("/").await.status(), 502, "{rules}");
    }
}

#[tokio::test]
async fn messages_that_plugins_see_are_held_to_the_protocol_whatever_the_handshake_was() {
    const PLUGIN: &str = "plugins = [\"redact\"]\n[plugins.redact]\nmodule = \"builtin:redact\"\n\
                          config = { words = [\"secret\"] }\n";
    let service = answering("Upgrade: websocket\nConnection: Upgrade").await;
    let tidegate = Tidegate::serving(&(route_with(&service, "off") + PLUGIN)).await;
    let mut client = tidegate.connect().await;
    client.send_head(&handshake("/")).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.send(text("not masked").encode(None)).await;
    let told = client.read_frame().await;
    assert_eq!(told.close_code(), Some(1002), "{told:?}");

    // An extension that nobody offered: its frames could not be read.
    let service =
        answering("Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Extensions: x-odd").await;
    let tidegate = Tidegate::serving(&(route_with(&service, "off") + PLUGIN)).await;
    assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 502);
}

#[tokio::test]
async fn only_pages_of_listed_origins_may_open_websockets() {
    let service = Service::websocket_echo().await;
    let route = format!(
        "{}websocket = {{ origins = [\"https://app.example.com\", \"http://*.example.org:8080\"] }}",
        route_to(&service)
    );
    let tidegate = Tidegate::serving(&route).await;
    let cases = [
        ("Origin: https://app.example.com", 101),
        ("Origin: HTTPS://App.Example.Com:443", 101),
        ("Origin: http://a.b.example.org:8080", 101),
        ("Origin: http://app.example.com", 403),
        ("Origin: https://app.example.com:8443", 403),
        ("Origin: http://example.org:8080", 403),
        ("Origin: https://evil.example", 403),
        ("Origin: null", 403),
        ("Origin:", 403),
        ("X-Origin: https://app.example.com", 403),
        (
            "Origin: https://app.example.com\nOrigin: https://evil.example",
            403,
        ),
    ];
    for (origin, status) in cases {
        let mut client = tidegate.connect().await;
        client
            .send_head(&format!("{}\n{origin}", handshake("/")))
            .await;
        let head = client.read_head().await;
        assert_eq!(head.status(), status, "{origin}");
        if status == 101 {
            client.send_frame(close(1000, "")).await;
            assert_eq!(client.read_frame().await, close(1000, ""));
        }
    }
}

#[tokio::test]
async fn origins_do_not_matter_to_requests_that_open_no_websocket() {
    let service = Service::http_echo().await;
    let route = route_to(&service) + "websocket = { origins = [\"https://app.example.com\"] }";
    let tidegate = Tidegate::serving(&route).await;
    let response = tidegate
        .exchange("GET / HTTP/1.1\nHost: a\nOrigin: https://evil.example")
        .await;
    assert_eq!(
        response.seen_by_service().field("origin"),
        Some("https://evil.example")
    );
}

#[tokio::test]
async fn a_word_that_is_no_rule_is_an_error_that_names_the_rules() {
    let route = "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:1\"\n\
                 websocket = { handshake = \"relaxed\" }";
    let problems = check(&one_listener(route)).unwrap_err();
    assert!(problems.contains("\"lenient\""), "{problems}");
}
