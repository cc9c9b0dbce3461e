//! The WebSocket protocol on a route whose plugins read messages: there the proxy is an end of both
//! conversations, and holds both sides to the rules of RFC 6455.

use super::messages::{assert_closed_with, scripted};
use crate::harness::{Frame, Service, Tidegate, accepting, binary, close, handshake, ping, text};

#[tokio::test]
async fn a_message_may_be_as_long_as_max_message_and_no_longer() {
    let service = Service::websocket_echo().await;
    let keys = "websocket = { max_message = \"1000B\" }";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, "")).await;
    let rows: [(&str, Vec<Frame>, bool); 5] = [
        ("just right", vec![text("x".repeat(1000))], true),
        ("one byte more", vec![text("x".repeat(1001))], false),
        (
            "just right in fragments",
            vec![binary([1; 500]).unfinished(), Frame::continuation([1; 500])],
            true,
        ),
        (
            "one byte more in fragments",
            vec![binary([1; 500]).unfinished(), Frame::continuation([1; 501])],
            false,
        ),
        (
            "binary, that no plugin asked for",
            vec![binary(vec![1; 1001])],
            false,
        ),
    ];
    for (what, frames, fits) in rows {
        let mut client = tidegate.websocket("/").await;
        for frame in frames {
            client.try_send(frame.encode(Some([1; 4]))).await.ok();
        }
        let answer = client.read_frame().await;
        let expected = if fits { None } else { Some(1009) };
        assert_eq!(answer.close_code(), expected, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_length_over_max_message_is_refused_at_its_header() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client
        .send(b"\x82\xff\x00\x00\x00\x7f\xff\xff\xff\xff\x01\x02\x03\x04")
        .await;
    assert_eq!(client.read_frame().await.close_code(), Some(1009));
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_how() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mask = Some([0x11, 0x22, 0x33, 0x44]);
    let masked = |frame: Frame| frame.encode(mask);
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("an unmasked frame", text("hello").encode(None), 1002),
        (
            "a reserved bit",
            masked(text("hello").with_rsv(0b100)),
            1002,
        ),
        ("an unknown opcode", masked(Frame::new(3, "hello")), 1002),
        (
            "an unknown control opcode",
            masked(Frame::new(11, "hello")),
            1002,
        ),
        (
            "a fragmented ping",
            masked(ping("hello").unfinished()),
            1002,
        ),
        ("a ping that is too long", masked(ping([0; 126])), 1002),
        (
            "a continuation of nothing",
            masked(Frame::continuation("hello")),
            1002,
        ),
        (
            "a message within another",
            [masked(text("one").unfinished()), masked(text("two"))].concat(),
            1002,
        ),
        (
            "a length in more bytes than needed",
            b"\x81\xfe\x00\x01\0\0\0\0x".to_vec(),
            1002,
        ),
        (
            "a length with its top bit set",
            b"\x82\xff\x80\0\0\0\0\0\0\x01\0\0\0\0".to_vec(),
            1002,
        ),
        ("a close of one byte", masked(Frame::new(8, [3])), 1002),
        (
            "a close with a code that is never sent",
            masked(close(1005, "")),
            1002,
        ),
        ("a close with a reserved code", masked(close(999, "")), 1002),
        (
            "a close whose reason is not UTF-8",
            masked(Frame::new(8, b"\x03\xe8\xff")),
            1007,
        ),
        ("text that is not UTF-8", masked(text(b"\xff")), 1007),
        (
            "text that ends within a character",
            masked(text(b"caf\xc3")),
            1007,
        ),
        (
            "text whose second fragment is not UTF-8",
            [
                masked(text(b"caf\xc3").unfinished()),
                masked(Frame::continuation(b"(")),
            ]
            .concat(),
            1007,
        ),
        ("a surrogate", masked(text(b"\xed\xa0\x80")), 1007),
    ];
    for (what, bytes, code) in rows {
        let mut client = tidegate.websocket("/").await;
        client.expect_echo("before").await;
        client.send(bytes).await;
        let answer = client.read_frame().await;
        assert_eq!(answer.close_code(), Some(code), "{what}: {answer:?}");
        assert!(
            answer.payload.len() > 2,
            "{what}: the reason says what it was"
        );
        client.expect_end().await;
    }
}

/// What the offender is told and what the other side is, for the service as the offender.
#[tokio::test]
async fn a_service_that_breaks_the_protocol_is_told_how_and_the_client_that_it_was_the_service() {
    let rows: [(&str, Vec<u8>, u16); 9] = [
        ("masked", text("a").encode(Some([1, 2, 3, 4])), 1002),
        ("reserved-bit", text("a").with_rsv(0b010).encode(None), 1002),
        ("unknown-opcode", Frame::new(5, "a").encode(None), 1002),
        ("long-ping", ping([0; 126]).encode(None), 1002),
        (
            "nothing-to-continue",
            Frame::continuation("a").encode(None),
            1002,
        ),
        ("half-a-code", Frame::new(8, [3]).encode(None), 1002),
        ("not-text", text(b"a\xff").encode(None), 1007),
        (
            "not-text-at-its-end",
            [
                text(b"a\xc3").unfinished().encode(None),
                Frame::continuation("").encode(None),
            ]
            .concat(),
            1007,
        ),
        ("too-long", b"\x82\x7f\0\0\0\0\0\x20\0\0".to_vec(), 1009),
    ];
    let wires = rows.clone();
    let service = Service::start(move |mut connection| {
        let wires = wires.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            let wanted = |(what, ..): &&(&str, _, _)| request.target() == format!("/{what}");
            let (what, wire, code) = wires.iter().find(wanted).unwrap();
            connection.send_frame(text("before")).await;
            connection.send(wire).await;
            let told = connection.read_frame().await;
            assert_eq!(told.close_code(), Some(*code), "{what}: {told:?}");
            assert!(
                told.payload.len() > 2,
                "{what}: the reason says what it was"
            );
            connection.expect_end().await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    for (what, ..) in rows {
        let mut client = tidegate.websocket(&format!("/{what}")).await;
        assert_eq!(client.read_frame().await, text("before"), "{what}");
        assert_eq!(client.read_frame().await, close(1014, ""), "{what}");
        client.expect_end().await;
        service.finished().await;
    }
}

/// The same, for the client as the offender: its service hears that it went away.
#[tokio::test]
async fn a_service_whose_client_breaks_the_protocol_is_told_that_it_is_gone() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_frame().await, text("before"));
        assert_eq!(connection.read_frame().await, close(1001, ""));
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    for (offence, code) in [
        (text("unmasked").encode(None), 1002),
        (text(b"\xff").encode(Some([0; 4])), 1007),
        (b"\x82\xff\0\0\0\0\0\x20\0\0\0\0\0\0".to_vec(), 1009),
        // Fragments that were held are lost with it.
        (
            [
                text("held").unfinished().encode(Some([0; 4])),
                text("again").encode(Some([0; 4])),
            ]
            .concat(),
            1002,
        ),
    ] {
        let mut client = tidegate.websocket("/").await;
        client.send_frame(text("before")).await;
        client.send(&offence).await;
        assert_eq!(client.read_frame().await.close_code(), Some(code));
        client.expect_end().await;
        service.finished().await;
    }
}

#[tokio::test]
async fn a_character_cut_by_fragments_is_no_error() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    let fragments = [text(b"caf\xc3").unfinished(), Frame::continuation(b"\xa9")];
    for fragment in fragments {
        client.send_frame(fragment.clone()).await;
    }
    assert_eq!(client.read_frame().await, text(b"caf\xc3").unfinished());
    assert_eq!(client.read_frame().await, Frame::continuation(b"\xa9"));
}

#[tokio::test]
async fn a_service_that_breaks_the_protocol_is_told_and_the_client_hears_that_it_is_to_blame() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        connection
            .send(text("masked").encode(Some([1, 2, 3, 4])))
            .await;
        assert_eq!(connection.read_frame().await.close_code(), Some(1002));
        connection.expect_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_frame().await.close_code(), Some(1014));
    client.expect_end().await;
    service.finished().await;
}

#[tokio::test]
async fn a_closing_handshake_passes_as_it_is() {
    let service = Service::websocket_echo().await;
    let mut tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(close(4321, "see you")).await;
    assert_eq!(client.read_frame().await, close(4321, "see you"));
    client.expect_end().await;
    assert_closed_with(&mut tidegate, "closed with 4321 by client").await;

    // Without a code, which is allowed too.
    let mut client = tidegate.websocket("/").await;
    client.send_frame(Frame::new(8, "")).await;
    assert_eq!(client.read_frame().await, Frame::new(8, ""));
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_with_its_close_frame_hears_the_answer() {
    let (answer, answers) = tokio::sync::watch::channel(false);
    let service = Service::start(move |mut connection| {
        let mut answers = answers.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            while let Some(frame) = connection.next_frame().await {
                if frame.opcode == 8 {
                    answers.wait_for(|&now| now).await.unwrap();
                }
                connection.send_frame(frame).await;
            }
        }
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(close(4000, "bye")).await;
    client.finish_sending().await;
    // By then the one worker has seen the end of the first.
    tidegate.websocket("/").await.expect_echo("another").await;
    answer.send(true).unwrap();
    assert_eq!(client.read_frame().await, close(4000, "bye"));
    client.expect_end().await;
}

#[tokio::test]
async fn a_service_that_dies_within_a_message_closes_the_client_with_1014() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        let whole = text("a message that is cut short").encode(None);
        connection
            .send([&text("whole").encode(None), &whole[..10]].concat())
            .await;
    })
    .await;
    let mut tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(client.read_frame().await, text("whole"));
    // Nothing of the message that never came whole.
    assert_eq!(client.read_frame().await.close_code(), Some(1014));
    client.expect_end().await;
    assert_closed_with(&mut tidegate, "closed with 1006 by service").await;
}

#[tokio::test]
async fn a_client_that_dies_closes_the_service_with_1001() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_frame().await, text("hello"));
        assert_eq!(connection.read_frame().await, close(1001, ""));
        connection.expect_end().await;
    })
    .await;
    let mut tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("hello")).await;
    client.finish_sending().await;
    drop(client);
    service.finished().await;
    assert_closed_with(&mut tidegate, "closed with 1006 by client").await;
}

#[tokio::test]
async fn where_compression_is_off_it_is_neither_offered_nor_accepted() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(request.field("sec-websocket-extensions"), None);
        assert_eq!(
            request.field("sec-websocket-protocol"),
            Some("chat, superchat")
        );
        let answer = accepting(&request).with("Sec-WebSocket-Protocol", "chat");
        let answer = match request.target() {
            "/insists" => answer.with("Sec-WebSocket-Extensions", "permessage-deflate"),
            _ => answer,
        };
        connection.send(answer.to_wire()).await;
        connection.read_to_end().await;
    })
    .await;
    let keys = "websocket = { compression = \"off\" }";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, "")).await;
    for (target, status) in [("/", 101), ("/insists", 502)] {
        let mut client = tidegate.connect().await;
        let offer =
            "Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Protocol: chat, superchat";
        client
            .send_head(&format!("{}\n{offer}", handshake(target)))
            .await;
        let head = client.read_head().await;
        assert_eq!(head.status(), status, "{target}");
        assert_eq!(head.field("sec-websocket-extensions"), None, "{target}");
    }
}
