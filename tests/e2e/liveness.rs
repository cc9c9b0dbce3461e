//! What the proxy does about sessions by the clock: pings of its own, sides that do not answer, the
//! greatest age, and a closing handshake that does not end. Everything holds for blind tunnels and for
//! sessions whose messages plugins see.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::harness::{
    Connection, Frame, Service, Tidegate, binary, close, handshake, ping, pong, route_to, text,
};

/// Two routes to a service with these settings for WebSockets: `/blind` and, with a plugin that sees
/// messages, `/seen`.
fn routes(service: &Service, websocket: &str) -> String {
    let route = |path: &str, plugins: &str| {
        format!(
            "{}plugins = [{plugins}]\nwebsocket = {{ {websocket} }}\n",
            route_to(service).replace("\"/\"", &format!("{path:?}"))
        )
    };
    format!(
        "{}{}[plugins.redact]\nmodule = \"builtin:redact\"\nconfig = {{ words = [\"secret\"] }}\n",
        route("/blind", ""),
        route("/seen", "\"redact\""),
    )
}

const PATHS: [&str; 2] = ["/blind", "/seen"];

/// Opens a WebSocket as a service does.
async fn accept(connection: &mut Connection) {
    let request = connection.read_head().await;
    connection.accept_websocket(&request).await;
}

/// Reads a ping, and returns what answers it.
async fn read_ping(connection: &mut Connection) -> Frame {
    let frame = connection.read_frame().await;
    assert_eq!(frame, ping(&frame.payload));
    pong(&frame.payload)
}

/// Reads up to a frame that is no ping, and answers pings meanwhile.
async fn read_past_pings(connection: &mut Connection) -> Frame {
    loop {
        let frame = connection.read_frame().await;
        if frame.opcode != 9 {
            return frame;
        }
        // The far end may be closing.
        if let Err(error) = connection
            .try_send(pong(&frame.payload).encode(Some([1, 2, 3, 4])))
            .await
        {
            panic!("cannot answer a ping: {error}");
        }
    }
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_its_answer_goes_no_further() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        assert_eq!(connection.read_frame().await, pong("unasked"));
        assert_eq!(connection.read_frame().await, pong("12345678"));
        assert_eq!(connection.read_frame().await, text("hello"));
        connection.send_frame(text("hello")).await;
    })
    .await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"1m\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        for _ in 0..3 {
            let answer = read_ping(&mut client).await;
            client.send_frame(answer).await;
        }
        // Those that answer nothing of the proxy's are relayed, whatever their length.
        client.send_frame(pong("unasked")).await;
        client.send_frame(pong("12345678")).await;
        client.send_frame(text("hello")).await;
        assert_eq!(read_past_pings(&mut client).await, text("hello"), "{path}");
    }
    service.finished().await;
}

#[tokio::test]
async fn answers_are_known_behind_a_frame_that_began_with_the_handshake() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        assert_eq!(connection.read_frame().await, text("began early"));
        assert_eq!(connection.read_frame().await, text("hello"));
    })
    .await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"1m\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.connect().await;
        let head: Vec<_> = handshake(path)
            .lines()
            .map(str::trim)
            .map(String::from)
            .collect();
        let frame = text("began early").encode(Some([1, 2, 3, 4]));
        let head = head.join("\r\n") + "\r\n\r\n";
        client.send([head.as_bytes(), &frame[..5]].concat()).await;
        assert_eq!(client.read_head().await.status(), 101);
        client.send(&frame[5..]).await;
        // Byte by byte, as a network may have it.
        let answer = read_ping(&mut client).await.encode(Some([5, 6, 7, 8]));
        for byte in answer {
            client.send([byte]).await;
        }
        client.send_frame(text("hello")).await;
        client.read_to_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn a_silent_service_is_pinged_and_its_answer_goes_no_further() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        for _ in 0..3 {
            let answer = read_ping(&mut connection).await;
            connection.send_frame(answer).await;
        }
        connection.send_frame(text("hello")).await;
        connection.read_to_end().await;
    })
    .await;
    let settings = "ping_interval = { service = \"100ms\" }, ping_timeout = \"1m\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        assert_eq!(client.read_frame().await, text("hello"), "{path}");
    }
}

#[tokio::test]
async fn whatever_a_side_says_answers_a_ping() {
    let service = Service::websocket_echo().await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"10s\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        // A second ping comes only after something answered the first.
        for _ in 0..3 {
            read_ping(&mut client).await;
            client.send_frame(text("not a pong")).await;
            assert_eq!(read_past_pings(&mut client).await, text("not a pong"));
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_given_up_and_both_sides_are_told() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        assert_eq!(connection.read_frame().await, close(1001, ""));
        connection.expect_end().await;
    })
    .await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"200ms\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        read_ping(&mut client).await;
        assert_eq!(client.read_frame().await, close(1001, ""), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn a_client_whose_answer_cannot_be_read_yet_is_not_given_up() {
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let service = Service::start(move |mut connection| {
        let told = told.clone();
        async move {
            accept(&mut connection).await;
            told.notified().await;
            while connection.read_frame().await != text("end") {}
            connection.send_frame(text("got it")).await;
            connection.read_to_end().await;
        }
    })
    .await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"1s\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        let wire = binary([7; 100_000]).encode(Some([0; 4]));
        let sent = client.send_until_stalled(&wire, 200 << 20).await;
        // What could answer the first one is behind all that.
        for _ in 0..2 {
            read_ping(&mut client).await;
        }
        go_on.notify_one();
        client.send(&wire[sent % wire.len()..]).await;
        client.send_frame(text("end")).await;
        assert_eq!(read_past_pings(&mut client).await, text("got it"), "{path}");
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_up_and_both_sides_are_told() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        read_ping(&mut connection).await;
        assert_eq!(connection.read_frame().await, close(1001, ""));
        connection.expect_end().await;
    })
    .await;
    let settings = "ping_interval = { service = \"100ms\" }, ping_timeout = \"200ms\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        assert_eq!(client.read_frame().await, close(1014, ""), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn pings_and_their_answers_do_not_keep_a_session_from_being_idle() {
    let service = Service::websocket_echo().await;
    let settings =
        "ping_interval = { client = \"100ms\" }, ping_timeout = \"1m\", idle_timeout = \"600ms\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        assert_eq!(
            read_past_pings(&mut client).await,
            close(1001, ""),
            "{path}"
        );
    }
}

/// A service that sends the first half of a frame, and the rest of it and another message when it is
/// told to; but echoes to clients of `/blind/clock`.
async fn halting(go_on: Arc<Notify>) -> Service {
    Service::start(move |mut connection| {
        let go_on = go_on.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            if request.target() == "/blind/clock" {
                while let Some(frame) = connection.next_frame().await {
                    if connection.try_send(frame.encode(None)).await.is_err() {
                        return;
                    }
                }
                return;
            }
            let wire = text("in two halves").encode(None);
            connection.send(&wire[..7]).await;
            go_on.notified().await;
            connection
                .send([&wire[7..], &text("next").encode(None)].concat())
                .await;
            connection.read_to_end().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_ping_on_a_blind_tunnel_waits_for_the_frame_at_hand() {
    let go_on = Arc::new(Notify::new());
    let service = halting(go_on.clone()).await;
    let settings = "ping_interval = { client = \"100ms\" }, ping_timeout = \"1m\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    let mut client = tidegate.websocket("/blind").await;
    // Another session shows when the ping is overdue.
    let mut clock = tidegate.websocket("/blind/clock").await;
    for _ in 0..3 {
        let answer = read_ping(&mut clock).await;
        clock.send_frame(answer).await;
    }
    go_on.notify_one();
    assert_eq!(client.read_frame().await, text("in two halves"));
    read_ping(&mut client).await;
    assert_eq!(client.read_frame().await, text("next"));
}

#[tokio::test]
async fn a_session_is_closed_at_its_greatest_age_however_busy_it_is() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        loop {
            let frame = connection.read_frame().await;
            if frame.opcode == 8 {
                assert_eq!(frame, close(1001, ""));
                return connection.expect_end().await;
            }
            // The proxy may not want it any more.
            if connection.try_send(frame.encode(None)).await.is_err() {
                return;
            }
        }
    })
    .await;
    let settings = "max_age = \"300ms\", max_age_jitter = \"0s\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        let told = loop {
            client.send_frame(text("tick")).await;
            let frame = client.read_frame().await;
            if frame != text("tick") {
                break frame;
            }
        };
        assert_eq!(told, close(1001, ""), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn the_greatest_age_cuts_no_frame_of_a_blind_tunnel() {
    let go_on = Arc::new(Notify::new());
    let service = halting(go_on.clone()).await;
    let settings = "max_age = \"200ms\", max_age_jitter = \"0s\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    let mut client = tidegate.websocket("/blind").await;
    // This session is younger.
    let mut clock = tidegate.websocket("/blind/clock").await;
    assert_eq!(clock.read_frame().await, close(1001, ""));
    go_on.notify_one();
    assert_eq!(client.read_frame().await, text("in two halves"));
    assert_eq!(client.read_frame().await, close(1001, ""));
    client.expect_end().await;
}

#[tokio::test]
async fn the_greatest_age_does_not_wait_for_ever_for_the_end_of_a_frame() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        // Of a frame that never ends, a byte now and then: of text, which the plugin wants whole.
        connection.send([0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]).await;
        while connection.try_send([0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let settings = "max_age = \"100ms\", max_age_jitter = \"0s\", close_timeout = \"200ms\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        let heard = client.read_to_end().await;
        // What a plugin wants whole is held, so the client has not been sent a part of it.
        let told = match path {
            "/seen" => close(1001, "").encode(None),
            // In the midst of a frame it would be payload.
            _ => vec![0],
        };
        assert!(heard.ends_with(&told), "{path}: {heard:?}");
    }
    service.finished().await;
}

#[tokio::test]
async fn the_greatest_age_ends_what_is_not_understood_as_well() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        connection.send("not a frame").await;
        assert_eq!(connection.read_frame().await, close(1001, ""));
    })
    .await;
    let settings = "max_age = \"100ms\", max_age_jitter = \"0s\"";
    let tidegate = Tidegate::serving(&routes(&service, settings)).await;
    let mut client = tidegate.websocket("/blind").await;
    assert_eq!(client.read_to_end().await, b"not a frame");
    service.finished().await;
}

#[tokio::test]
async fn who_goes_on_talking_after_a_close_frame_is_cut_off() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        assert_eq!(connection.read_frame().await, close(1000, "bye"));
        let wire = text("I am not listening").encode(None);
        while connection.try_send(&wire).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&routes(&service, "close_timeout = \"300ms\"")).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        client.send_frame(close(1000, "bye")).await;
        let told = loop {
            let frame = client.read_frame().await;
            if frame != text("I am not listening") {
                break frame;
            }
        };
        assert_eq!(told, close(1014, ""), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn a_closing_handshake_under_way_is_not_disturbed_by_a_shutdown() {
    let answer = Arc::new(Notify::new());
    let told = answer.clone();
    let service = Service::start(move |mut connection| {
        let told = told.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            if request.target() == "/blind/clock" {
                connection.read_to_end().await;
                return;
            }
            assert_eq!(connection.read_frame().await, close(3000, "bye"));
            connection.send_frame(text("one more thing")).await;
            told.notified().await;
            connection.send_frame(close(3000, "good bye")).await;
        }
    })
    .await;
    for path in PATHS {
        let settings = "close_timeout = \"1m\"";
        let at_once = "\n[timeouts]\ndrain_spread = \"0s\"";
        let tidegate = Tidegate::serving(&(routes(&service, settings) + at_once)).await;
        let mut client = tidegate.websocket(path).await;
        let mut clock = tidegate.websocket("/blind/clock").await;
        client.send_frame(close(3000, "bye")).await;
        assert_eq!(client.read_frame().await, text("one more thing"));
        tidegate.process.signal(rustix::process::Signal::TERM);
        assert_eq!(clock.read_frame().await, close(1001, ""), "{path}");
        drop(clock);
        answer.notify_one();
        assert_eq!(client.read_frame().await, close(3000, "good bye"), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}

#[tokio::test]
async fn a_close_frame_that_nobody_answers_is_answered_by_the_proxy() {
    let service = Service::start(|mut connection| async move {
        accept(&mut connection).await;
        assert_eq!(connection.read_frame().await, close(1000, "bye"));
        // Nor is it sent another one (RFC 6455 §5.5.1).
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&routes(&service, "idle_timeout = \"300ms\"")).await;
    for path in PATHS {
        let mut client = tidegate.websocket(path).await;
        client.send_frame(close(1000, "bye")).await;
        assert_eq!(client.read_frame().await, close(1014, ""), "{path}");
        client.expect_end().await;
    }
    service.finished().await;
}
