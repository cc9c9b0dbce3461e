//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT in front, an HTTP/1.1 handshake behind, and
//! all that is promised of a session in between.

use h2::Reason;
use h2::client::Builder;
use h2::ext::Protocol;
use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::messages::scripted;
use crate::harness::http2::{Http2, asking, connecting};
use crate::harness::{
    Authority, Folder, Frame, Head, Service, Tidegate, accepting, close, node, one_listener, ping,
    pong, route_to, text, within,
};

/// A proxy whose plain listener lets clients speak HTTP/2 that know of it.
async fn serving(rest: &str) -> Tidegate {
    let configuration = one_listener(rest).replace("bind =", "http2 = true\nbind =");
    Tidegate::start(&configuration).await
}

async fn client_of(tidegate: &Tidegate) -> Http2 {
    Http2::open(tidegate.address(0)).await
}

/// A service that answers a handshake with what `answer` makes of a right one.
async fn answering(answer: fn(Head) -> Head) -> Service {
    Service::start(move |mut connection| async move {
        let request = connection.read_head().await;
        let answer = answer(accepting(&request));
        connection.send(answer.to_wire()).await;
        connection.read_to_end().await;
    })
    .await
}

#[tokio::test]
async fn the_service_sees_a_handshake_of_http1_with_a_key_of_the_proxys_own() {
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::start(move |mut connection| {
        let heads = heads.clone();
        async move {
            let head = connection.read_head().await;
            let answer = accepting(&head)
                .with("Sec-WebSocket-Protocol", "chat.v2")
                .with("Sec-WebSocket-Extensions", "permessage-deflate")
                .with("X-Answer", "yes")
                .with("Content-Length", "0");
            heads.send(head).unwrap();
            connection.send(answer.to_wire()).await;
            connection.read_to_end().await;
        }
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = client_of(&tidegate).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let request = connecting("/chat?room=1")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", "chat.v1, chat.v2")
            .header("sec-websocket-extensions", "permessage-deflate")
            .header("origin", "https://example.com")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let (answer, _socket) = client.open_websocket(request.body(()).unwrap()).await;
        for (name, value) in [
            ("sec-websocket-protocol", Some("chat.v2")),
            ("sec-websocket-extensions", Some("permessage-deflate")),
            ("x-answer", Some("yes")),
            ("upgrade", None),
            ("connection", None),
            ("sec-websocket-accept", None),
            ("content-length", None),
        ] {
            assert_eq!(answer.field(name), value, "{name}");
        }
        let head = within("request", seen.recv()).await.unwrap();
        assert_eq!(head.start, "GET /chat?room=1 HTTP/1.1");
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat.v1, chat.v2"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("origin", "https://example.com"),
            ("cookie", "a=1; b=2"),
        ] {
            assert_eq!(head.fields(name), [value], "{name}");
        }
        keys.push(head.field("sec-websocket-key").unwrap().to_owned());
    }
    assert_ne!(keys[0], keys[1]);
    assert!(!keys.contains(&"dGhlIHNhbXBsZSBub25jZQ==".to_owned()));
}

#[tokio::test]
async fn messages_pass_in_both_directions_unfiltered() {
    let service = Service::websocket_echo().await;
    let access_log = "[access_log]\npath = \"stdout\"\nformat = \"json\"";
    let mut tidegate = serving(&format!("{}\n{access_log}", route_to(&service))).await;
    let mut client = client_of(&tidegate).await;
    let mut socket = client.websocket("/chat").await;
    let mut other = client.websocket("/chat").await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let payload = "x".repeat(length);
        socket.send_frame(text(&payload)).await;
        assert_eq!(socket.read_frame().await, text(&payload));
    }
    other.expect_echo("beside it").await;
    // An ordinary request too, which is not for this service.
    socket.send_frame(ping("?")).await;
    assert_eq!(socket.read_frame().await, pong("?"));
    socket.send_frame(close(4000, "bye")).await;
    assert_eq!(socket.read_frame().await, close(4000, "bye"));
    socket.expect_end().await;
    socket.finish_sending();

    let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
    for (name, value) in [
        ("kind", json!("websocket")),
        ("method", json!("GET")),
        ("target", json!("/chat")),
        ("version", json!("HTTP/2.0")),
        ("status", json!(101)),
        ("messages_from_client", json!(7)),
        ("messages_from_service", json!(7)),
    ] {
        assert_eq!(record[name], value, "{name} in {record:#}");
    }
    other.expect_echo("still there").await;
}

#[tokio::test]
async fn plugins_judge_messages_and_see_the_handshake_as_ever() {
    let service = Service::websocket_echo().await;
    let access_log = "[access_log]\npath = \"stdout\"\nformat = \"json\"";
    let mut tidegate = serving(&scripted(&service, &["a"], "", access_log)).await;
    let mut client = client_of(&tidegate).await;
    let mut socket = client.websocket("/chat").await;
    socket.expect_echo("pass").await;
    socket.send_frame(text("drop")).await;
    socket.send_frame(text("replace:other")).await;
    assert_eq!(socket.read_frame().await, text("other"));
    socket.send_frame(text("send-client:made")).await;
    assert_eq!(socket.read_frame().await, text("made"));
    socket.send_frame(text("close:4001:enough")).await;
    assert_eq!(socket.read_frame().await, close(4001, "enough"));
    socket.expect_end().await;
    drop(socket);
    let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
    assert_eq!(record["messages_dropped"], 2, "{record:#}");
    assert_eq!(record["messages_replaced"], 1, "{record:#}");
    assert_eq!(record["closed_by"], "plugin", "{record:#}");

    // And answer in place of the service: then it is an ordinary response.
    let (answer, _) = client.connect(connecting("/deny").body(()).unwrap()).await;
    assert_eq!(
        (answer.status(), answer.field("x-denied-by")),
        (403, Some("a"))
    );
}

#[tokio::test]
async fn a_violation_closes_with_its_code() {
    let service = Service::websocket_echo().await;
    let tidegate = serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = client_of(&tidegate).await;
    let mut socket = client.websocket("/").await;
    // Not masked.
    socket.send(text("x").encode(None)).await;
    assert_eq!(socket.read_frame().await.close_code(), Some(1002));
    socket.expect_end().await;
}

#[tokio::test]
async fn compression_is_agreed_on_as_ever() {
    use flate2::{Compress, Compression, FlushCompress};
    // Knows no compression, so that messages have to be inflated on their way.
    let service = Service::websocket_echo().await;
    let tidegate = serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = client_of(&tidegate).await;
    let offer = connecting("/").header("sec-websocket-extensions", "permessage-deflate");
    let (answer, mut socket) = client.open_websocket(offer.body(()).unwrap()).await;
    assert_eq!(
        answer.field("sec-websocket-extensions"),
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
    let message = "again and ".repeat(10);
    let mut deflated = Vec::with_capacity(200);
    Compress::new(Compression::best(), false)
        .compress_vec(message.as_bytes(), &mut deflated, FlushCompress::Sync)
        .unwrap();
    let payload = deflated.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap();
    socket.send_frame(text(payload).with_rsv(0b100)).await;
    let echoed = socket.read_frame().await;
    assert_eq!(echoed.rsv, 0b100, "{echoed:?}");
    assert!(echoed.payload.len() < message.len() / 2);
}

#[tokio::test]
async fn any_other_answer_of_the_service_is_the_streams_response() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_request().await {
            let status = &head.target()[1..];
            let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 2\r\n\r\nno");
            connection.send(answer).await;
        }
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = client_of(&tidegate).await;
    client.can_connect().await;
    // 200 would mean that it was accepted.
    for (answered, status, body) in [
        ("401", 401, "no"),
        ("403", 403, "no"),
        ("302", 302, "no"),
        ("503", 503, "no"),
        ("200", 501, "501 Not Implemented\n"),
    ] {
        let request = connecting(&format!("/{answered}")).body(()).unwrap();
        let (exchange, _send) = client.send(request, false).await;
        let response = exchange.response().await;
        assert_eq!((response.status(), response.text()), (status, body));
    }
}

#[tokio::test]
async fn a_wrong_answer_of_the_service_is_a_502() {
    for answer in [
        |head: Head| head.replacing("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        |head: Head| head.replacing("sec-websocket-accept", None),
        |head: Head| head.replacing("upgrade", Some("chat")),
        |head: Head| head.with("sec-websocket-protocol", "never-offered"),
    ] {
        let service = answering(answer).await;
        let tidegate = serving(&route_to(&service)).await;
        let mut client = client_of(&tidegate).await;
        let (answer, _) = client.connect(connecting("/").body(()).unwrap()).await;
        assert_eq!(answer.status(), 502);
    }
}

#[tokio::test]
async fn what_the_route_does_not_switch_to_is_a_501_and_a_bad_handshake_what_it_ever_is() {
    let service = Service::websocket_echo().await;
    let routes = route_to(&service)
        + r#"
        [[sites.routes]]
        match = "/fixed"
        respond = { status = 200, body = "hello" }
        "#;
    let tidegate = serving(&routes).await;
    let mut client = client_of(&tidegate).await;
    let other = |protocol| asking(Method::CONNECT, "/").extension(Protocol::from_static(protocol));
    let rows = [
        ("a protocol that nobody allows", other("connect-udp"), 501),
        ("an answer that cannot be meant", connecting("/fixed"), 501),
        ("no version", other("websocket"), 400),
        (
            "another version",
            other("websocket").header("sec-websocket-version", "8"),
            426,
        ),
    ];
    for (what, request, status) in rows {
        let (answer, _) = client.connect(request.body(()).unwrap()).await;
        assert_eq!(answer.status(), status, "{what}");
    }
    client.websocket("/").await.expect_echo("a right one").await;
}

#[tokio::test]
async fn other_protocols_are_blind_tunnels() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        assert_eq!((head.method(), head.field("upgrade")), ("GET", Some("raw")));
        assert_eq!(head.field("sec-websocket-key"), None);
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\n\x01early")
            .await;
        assert_eq!(connection.read_exactly(5).await, b"bytes");
        // The end of one side leaves the other open.
        connection.expect_end().await;
        connection.send("late").await;
    })
    .await;
    let tidegate = serving(&(route_to(&service) + "upgrade = [\"raw\"]")).await;
    let mut client = client_of(&tidegate).await;
    let request = asking(Method::CONNECT, "/").extension(Protocol::from_static("raw"));
    let (_, mut socket) = client.open_websocket(request.body(()).unwrap()).await;
    socket.send("bytes").await;
    socket.finish_sending();
    assert_eq!(socket.read_to_end().await, b"\x01earlylate");
    service.finished().await;
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_session_alone() {
    let service = Service::websocket_echo().await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = client_of(&tidegate).await;
    let mut stays = client.websocket("/").await;
    stays.expect_echo("a").await;
    let mut goes = client.websocket("/").await;
    goes.expect_echo("b").await;
    goes.reset();
    // Its service is told: of two scripts one comes to its end.
    service.one_finished().await;
    stays.expect_echo("c").await;
    // So does a connection that is gone, for all of its sessions.
    drop((stays, client));
    service.finished().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service() {
    const MIB: usize = 1 << 20;
    const MOST: usize = 100 * MIB;
    let (told, mut stalled) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::start(move |mut connection| {
        let told = told.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            if request.target() == "/flood" {
                let frame = text("x".repeat(64 << 10)).encode(None);
                let sent = connection.send_until_stalled(&frame, MOST).await;
                told.send(sent).unwrap();
                std::future::pending::<()>().await;
            } else if request.target() == "/silent" {
                std::future::pending::<()>().await;
            } else {
                let frame = connection.read_frame().await;
                connection.send_frame(frame).await;
            }
        }
    })
    .await;
    for routes in [route_to(&service), scripted(&service, &["a"], "", "")] {
        let tidegate = serving(&routes).await;
        // Its other streams are to have room beside the one that is not read.
        let wide = Builder::new()
            .initial_connection_window_size(1 << 24)
            .clone();
        let mut client = Http2::open_with(&wide, tidegate.address(0)).await;
        // The first session fills what is allocated once and then kept.
        client.websocket("/echo").await.expect_echo("first").await;
        let before = tidegate.memory();
        let _flooded = client.websocket("/flood").await;
        let sent = within("stall of the service", stalled.recv())
            .await
            .unwrap();
        assert!(sent < MOST, "all of it was taken although nobody reads it");
        // Another session of the same connection does not notice.
        client.websocket("/echo").await.expect_echo("lively").await;
        // And the other way round.
        let mut silent = client.websocket("/silent").await;
        let frame = text("y".repeat(64 << 10)).encode(Some([0; 4]));
        let sent = silent.send_until_stalled(&frame, MOST).await;
        assert!(sent < MOST, "all of it was taken although nobody reads it");
        client.websocket("/echo").await.expect_echo("lively").await;
        let grown = tidegate.memory().saturating_sub(before) as usize;
        assert!(grown < 16 * MIB, "it grew by {grown} bytes");
    }
}

#[tokio::test]
async fn a_drain_closes_sessions_with_1001_and_then_the_process_ends() {
    let service = Service::websocket_echo().await;
    for routes in [route_to(&service), scripted(&service, &["a"], "", "")] {
        let mut tidegate = serving(&routes).await;
        let mut client = client_of(&tidegate).await;
        let mut socket = client.websocket("/").await;
        socket.expect_echo("before").await;
        tidegate.process.signal(Signal::TERM);
        assert_eq!(socket.read_frame().await, close(1001, ""));
        socket.send_frame(close(1001, "")).await;
        socket.expect_end().await;
        socket.finish_sending();
        assert!(client.ended().await.is_ok());
        assert_eq!(tidegate.process.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_silent_session_is_closed_and_its_connection_is_not() {
    let service = Service::websocket_echo().await;
    let keys = "websocket = { idle_timeout = \"300ms\" }\n";
    let tidegate = serving(&(route_to(&service) + keys)).await;
    let mut client = client_of(&tidegate).await;
    let mut socket = client.websocket("/").await;
    assert_eq!(socket.read_frame().await, close(1001, ""));
    socket.expect_end().await;
    // What the client still owes is not waited for forever.
    assert!(matches!(
        socket.broken_off().await,
        Reason::CANCEL | Reason::NO_ERROR
    ));
    client.websocket("/").await.expect_echo("a new one").await;
}

#[tokio::test]
async fn an_open_session_keeps_an_otherwise_idle_connection() {
    let service = Service::websocket_echo().await;
    let timeouts = "[timeouts]\nkeep_alive = \"200ms\"\nheader_read = \"200ms\"";
    let tidegate = serving(&(route_to(&service).replace("\"/\"", "\"/chat\"") + timeouts)).await;
    let mut client = client_of(&tidegate).await;
    let mut socket = client.websocket("/chat").await;
    let mut closed = Http2::open(tidegate.address(0)).await;
    assert_eq!(closed.get("/").await.status(), 404);
    assert!(closed.ended().await.is_ok());
    // By now its time would have been over as well.
    socket.expect_echo("still there").await;
}

#[tokio::test]
async fn an_idle_session_takes_little_memory() {
    const SESSIONS: usize = 1000;
    let service = Service::websocket_echo().await;
    let tidegate = serving(&format!(
        "{}\n[http2]\nmax_streams = 2000",
        route_to(&service)
    ))
    .await;
    let mut client = client_of(&tidegate).await;
    let mut held = vec![client.websocket("/").await];
    held[0].expect_echo("first").await;
    let before = tidegate.memory();
    for _ in 0..SESSIONS {
        let mut socket = client.websocket("/").await;
        socket.expect_echo("one").await;
        held.push(socket);
    }
    let each = tidegate.memory().saturating_sub(before) as usize / SESSIONS;
    assert!(each < 12 << 10, "{each} bytes each");
}

/// Opens a WebSocket by extended CONNECT with nothing but what Node brings, and says what came back.
const NODE_CLIENT: &str = r#"
    const http2 = require("http2");
    const [url, ca] = process.argv.slice(1);
    const session = http2.connect(url, { ca });
    session.on("remoteSettings", ({ enableConnectProtocol }) => {
        const stream = session.request({
            ":method": "CONNECT", ":protocol": "websocket", ":path": "/chat", "sec-websocket-version": "13",
        });
        stream.on("response", (headers) => {
            console.log(`${enableConnectProtocol} ${headers[":status"]}`);
            // "hello", masked with zeroes; then a Close frame with 1000.
            stream.write(Buffer.from([0x81, 0x85, 0, 0, 0, 0, ...Buffer.from("hello")]));
            stream.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]));
        });
        let received = Buffer.alloc(0);
        stream.on("data", (data) => (received = Buffer.concat([received, data])));
        stream.on("end", () => {
            console.log(received.toString("hex"));
            stream.end();
            session.close();
        });
    });
"#;

#[tokio::test]
async fn others_understand_it_too() {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let service = Service::websocket_echo().await;
    for routes in [route_to(&service), scripted(&service, &["a"], "", "")] {
        let folder = Folder::new();
        folder.write("cert.pem", &certificate.chain);
        folder.write("key.pem", &certificate.key);
        let site = "certificate = { chain = \"cert.pem\", key = \"key.pem\" }\n";
        let configuration = one_listener(&(site.to_owned() + &routes));
        let configuration = configuration.replace("bind =", "tls = true\nbind =");
        let tidegate = Tidegate::start_in(folder, &configuration).await;
        let url = format!("https://localhost:{}", tidegate.address(0).port());
        let mut client = node(NODE_CLIENT, &[&url, &authority.pem()]);
        assert_eq!(client.stdout.line().await, "true 200");
        let expected = [text("hello"), close(1000, "")].map(|frame: Frame| frame.encode(None));
        let expected: String = expected
            .concat()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(client.stdout.line().await, expected);
        client.exit().await;
    }
}
