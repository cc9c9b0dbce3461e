//! `permessage-deflate` (RFC 7692) on routes whose plugins see messages: agreed on with each side, and
//! messages that go on as they came, inflated, or compressed anew.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::messages::scripted;
use crate::harness::{
    Connection, Frame, Head, Service, Tidegate, accepting, binary, close, guest, handshake, ping,
    pong, route_to, text,
};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Compresses a message, at another level than the proxy would.
fn deflate(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut stream = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(payload.len() + 100);
    let sync = FlushCompress::Sync;
    stream.compress_vec(payload, &mut out, sync).unwrap();
    assert_eq!(stream.total_in(), payload.len() as u64);
    out.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

/// The frame with its payload inflated, which must say that it is compressed.
fn inflated(frame: Frame) -> Frame {
    assert_eq!(frame.rsv, 0b100, "{frame:?} is compressed");
    let mut out = Vec::with_capacity(1 << 20);
    let wire = [&frame.payload[..], &[0, 0, 0xff, 0xff]].concat();
    let whole = FlushDecompress::Sync;
    Decompress::new(false)
        .decompress_vec(&wire, &mut out, whole)
        .unwrap();
    Frame::new(frame.opcode, out)
}

/// A whole text message, compressed.
fn compressed(payload: impl AsRef<[u8]>) -> Frame {
    text(deflate(payload)).with_rsv(0b100)
}

/// Text that compression makes shorter.
fn long(word: &str) -> String {
    format!("{word} ").repeat(50)
}

/// A service that answers an offer with `answer`, or any request with nothing, and sends every message
/// back as it came.
async fn echo(answer: Option<&'static str>) -> Service {
    Service::start(move |mut connection| async move {
        let request = connection.read_head().await;
        let offered = request.field("sec-websocket-extensions").is_some();
        assert_eq!(offered, answer.is_some(), "{request:?}");
        let mut head = accepting(&request);
        if let Some(answer) = answer {
            head = head.with("Sec-WebSocket-Extensions", answer);
        }
        connection.send(head.to_wire()).await;
        while let Some(frame) = connection.next_frame().await {
            let is_close = frame.opcode == 8;
            let frame = match frame.opcode {
                9 => pong(frame.payload),
                _ => frame,
            };
            if connection.try_send(frame.encode(None)).await.is_err() || is_close {
                return;
            }
        }
    })
    .await
}

/// A proxy whose route passes text messages by `guest-script`.
async fn filtered(service: &Service, compression: &str) -> Tidegate {
    let keys = format!("websocket = {{ compression = {compression:?}, max_message = \"64KiB\" }}");
    Tidegate::serving(&scripted(service, &["a"], &keys, "")).await
}

/// Opens a WebSocket with an offer. Returns what is answered to it.
async fn open(tidegate: &Tidegate, offer: &str) -> (Connection, Head) {
    let mut client = tidegate.connect().await;
    let offer = format!("{}\nSec-WebSocket-Extensions: {offer}", handshake("/"));
    client.send_head(&offer).await;
    let head = client.read_head().await;
    (client, head)
}

/// As [`open`], with what browsers offer, which must be accepted.
async fn open_compressed(tidegate: &Tidegate) -> Connection {
    let (client, head) = open(tidegate, OFFER).await;
    assert_eq!(head.field("sec-websocket-extensions"), Some(ANSWER));
    client
}

#[tokio::test]
async fn a_compressed_message_that_passes_goes_on_as_it_came() {
    let payload = deflate(long("pass"));
    let (first, last) = payload.split_at(7);
    let fragments = [
        text(first).with_rsv(0b100).unfinished(),
        Frame::continuation(last),
    ];
    let whole = compressed(long("whole"));
    let sent = [fragments[0].clone(), fragments[1].clone(), whole.clone()];
    let expected = sent.clone();
    let service = Service::start(move |mut connection| {
        let expected = expected.clone();
        async move {
            let request = connection.read_head().await;
            assert_eq!(
                request.field("sec-websocket-extensions"),
                Some("permessage-deflate; server_no_context_takeover; client_max_window_bits")
            );
            let head = accepting(&request).with("Sec-WebSocket-Extensions", ANSWER);
            connection.send(head.to_wire()).await;
            assert_eq!(connection.read_frame().await, ping("between"));
            for frame in expected {
                assert_eq!(connection.read_frame().await, frame);
                connection.send_frame(frame).await;
            }
            connection.read_to_end().await;
        }
    })
    .await;
    let tidegate = filtered(&service, "both").await;
    let mut client = open_compressed(&tidegate).await;
    client.send_frame(fragments[0].clone()).await;
    client.send_frame(ping("between")).await;
    client.send_frame(fragments[1].clone()).await;
    client.send_frame(whole).await;
    for frame in sent {
        assert_eq!(client.read_frame().await, frame);
    }
}

#[tokio::test]
async fn plugins_see_messages_inflated_and_what_they_make_is_compressed() {
    let service = echo(Some(ANSWER)).await;
    let tidegate = filtered(&service, "both").await;
    let mut client = open_compressed(&tidegate).await;
    let replaced = long("replaced");
    client
        .send_frame(compressed(format!("replace:{replaced}")))
        .await;
    assert_eq!(inflated(client.read_frame().await), text(&replaced));
    client
        .send_frame(compressed(format!("send-client:{replaced}")))
        .await;
    assert_eq!(inflated(client.read_frame().await), text(&replaced));
    // Too short to be worth it.
    client.send_frame(compressed("replace:short")).await;
    assert_eq!(client.read_frame().await, text("short"));
    // Nobody has to compress what it sends.
    client.send_frame(text(format!("replace:{replaced}"))).await;
    assert_eq!(inflated(client.read_frame().await), text(&replaced));
    client.expect_echo("plain").await;
    client.send_frame(compressed("close:4000:enough")).await;
    assert_eq!(client.read_frame().await, close(4000, "enough"));
}

#[tokio::test]
async fn what_no_plugin_asked_for_is_neither_inflated_nor_shown() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        let head = accepting(&request).with("Sec-WebSocket-Extensions", ANSWER);
        connection.send(head.to_wire()).await;
        while let Some(frame) = connection.next_frame().await {
            connection.send_frame(frame).await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"a\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[plugins.a]\nmodule = {:?}\n\
         config = {{ name = \"a\", obey = \"client\", largest = 100 }}",
        route_to(&service),
        guest("guest-script")
    ))
    .await;
    let mut client = open_compressed(&tidegate).await;
    let count = async |name: &str, labels: &[(&str, &str)]| {
        let metrics = tidegate.metrics().await;
        metrics.find(name, labels).unwrap_or_default()
    };
    let counts = async || {
        let calls = [("plugin", "a"), ("phase", "message")];
        (
            count("tidegate_plugin_calls_total", &calls).await,
            count("tidegate_messages_inflated_total", &[]).await,
        )
    };
    // It asked for text of the client, of at most 100 bytes. Nobody sees that this cannot be inflated.
    let garbage = binary([0xff; 100]).with_rsv(0b100);
    let rows = [
        ("another kind", vec![garbage.clone()], (0.0, 0.0)),
        ("a control frame", vec![ping("x")], (0.0, 0.0)),
        // The echo is of the other side.
        ("what it asked for", vec![compressed("short")], (1.0, 1.0)),
        ("plain", vec![text("short")], (2.0, 1.0)),
        ("too long", vec![text("x".repeat(101))], (2.0, 1.0)),
        // Only inflated is it too long, which has to be found out.
        (
            "too long inflated",
            vec![compressed("x".repeat(101))],
            (2.0, 2.0),
        ),
        // That it is too long shows.
        (
            "too long deflated",
            vec![text([0xff; 1000]).with_rsv(0b100)],
            (2.0, 2.0),
        ),
        (
            "too long in fragments",
            vec![
                text([0xff; 90]).with_rsv(0b100).unfinished(),
                Frame::continuation([0xff; 200]),
            ],
            (2.0, 2.0),
        ),
    ];
    for (what, frames, expected) in rows {
        // Both, since the first fragment is held until it is known how long the message is.
        for frame in &frames {
            client.send_frame(frame.clone()).await;
        }
        for frame in frames {
            assert_eq!(client.read_frame().await, frame, "{what}");
        }
        assert_eq!(counts().await, expected, "{what}");
    }
}

#[tokio::test]
async fn only_the_clients_side_can_be_compressed() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(request.field("sec-websocket-extensions"), None);
        connection.accept_websocket(&request).await;
        for frame in [
            text(long("text")),
            binary(long("binary")),
            text("short"),
            text(long("fragmented")),
        ] {
            assert_eq!(connection.read_frame().await, frame);
            connection.send_frame(frame).await;
        }
        connection.read_to_end().await;
    })
    .await;
    let tidegate = filtered(&service, "client").await;
    let mut client = open_compressed(&tidegate).await;
    client.send_frame(compressed(long("text"))).await;
    assert_eq!(inflated(client.read_frame().await), text(long("text")));
    client
        .send_frame(binary(deflate(long("binary"))).with_rsv(0b100))
        .await;
    assert_eq!(inflated(client.read_frame().await), binary(long("binary")));
    client.send_frame(compressed("short")).await;
    assert_eq!(client.read_frame().await, text("short"));
    let payload = deflate(long("fragmented"));
    client
        .send_frame(text(&payload[..9]).with_rsv(0b100).unfinished())
        .await;
    client.send_frame(Frame::continuation(&payload[9..])).await;
    assert_eq!(
        inflated(client.read_frame().await),
        text(long("fragmented"))
    );
}

#[tokio::test]
async fn only_the_services_side_can_be_compressed() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(
            request.field("sec-websocket-extensions"),
            Some("permessage-deflate; server_no_context_takeover")
        );
        let head = accepting(&request).with("Sec-WebSocket-Extensions", ANSWER);
        connection.send(head.to_wire()).await;
        let frame = connection.read_frame().await;
        assert_eq!(inflated(frame), text(long("there")));
        connection.send_frame(compressed(long("back"))).await;
        connection.read_to_end().await;
    })
    .await;
    let tidegate = filtered(&service, "service").await;
    for offer in [OFFER, "x-none"] {
        let (mut client, head) = open(&tidegate, offer).await;
        assert_eq!(head.status(), 101);
        assert_eq!(head.field("sec-websocket-extensions"), None);
        client.send_frame(text(long("there"))).await;
        assert_eq!(client.read_frame().await, text(long("back")));
    }
}

#[tokio::test]
async fn other_extensions_are_declined_and_compression_can_be_switched_off() {
    let service = echo(None).await;
    for (compression, offer) in [
        ("off", OFFER),
        ("both", "x-webkit-deflate-frame"),
        ("both", "("),
    ] {
        let tidegate = filtered(&service, compression).await;
        let (mut client, head) = open(&tidegate, offer).await;
        assert_eq!(head.status(), 101);
        assert_eq!(head.field("sec-websocket-extensions"), None, "{offer}");
        client.expect_echo(&long("plain")).await;
        client.send_frame(compressed("nobody agreed")).await;
        assert_eq!(client.read_frame().await.close_code(), Some(1002));
    }
}

#[tokio::test]
async fn a_window_that_a_client_wants_is_kept_to() {
    // The service goes without, so what it sends has to be compressed anew.
    let service = echo(Some("permessage-deflate; server_no_context_takeover")).await;
    let tidegate = filtered(&service, "both").await;
    let offer = "permessage-deflate; server_max_window_bits=9";
    let (mut client, head) = open(&tidegate, offer).await;
    let answer = format!("{ANSWER}; server_max_window_bits=9");
    assert_eq!(head.field("sec-websocket-extensions"), Some(&answer[..]));
    // It repeats itself at once, and again 2000 bytes on, which only a larger window sees.
    let noise: String = (0_u32..125)
        .map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761)).repeat(2))
        .collect();
    let message = noise.repeat(2);
    let frame = compressed(&message);
    client.send_frame(frame.clone()).await;
    let answered = client.read_frame().await;
    assert!(answered.payload.len() > frame.payload.len() + 300);
    assert_eq!(inflated(answered), text(&message));
}

#[tokio::test]
async fn an_answer_that_cannot_be_kept_to_is_refused() {
    for answer in [
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover; mystery",
        "permessage-deflate; server_no_context_takeover, x-other",
        "x-other",
    ] {
        let service = echo(Some(answer)).await;
        let tidegate = filtered(&service, "both").await;
        let (_, head) = open(&tidegate, OFFER).await;
        assert_eq!(head.status(), 502, "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_of_compression_is_told_so() {
    let service = echo(Some(ANSWER)).await;
    let tidegate = filtered(&service, "both").await;
    let rows = [
        // Over 64 KiB once inflated.
        (vec![compressed("x".repeat(65_537))], 1009),
        (vec![text([0xff; 100]).with_rsv(0b100)], 1007),
        (vec![compressed(b"not \xff text")], 1007),
        // Not whole.
        (vec![text(&deflate(long("cut"))[..5]).with_rsv(0b100)], 1007),
        (vec![ping("").with_rsv(0b100)], 1002),
        (vec![Frame::continuation("").with_rsv(0b100)], 1002),
        (
            vec![
                text("").unfinished(),
                Frame::continuation("").with_rsv(0b100),
            ],
            1002,
        ),
        (vec![text("").with_rsv(0b110)], 1002),
    ];
    for (frames, code) in rows {
        let mut client = open_compressed(&tidegate).await;
        client.send_frame(compressed("x".repeat(65_536))).await;
        client.read_frame().await;
        for frame in &frames {
            client.send_frame(frame.clone()).await;
        }
        let closed = client.read_frame().await;
        assert_eq!(closed.close_code(), Some(code), "{frames:?}");
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_gigabyte_of_zeros_is_refused_without_being_inflated() {
    let mut stream = Compress::new(Compression::best(), false);
    let (zeros, mut bomb) = (vec![0; 1 << 20], Vec::with_capacity(2 << 20));
    for _ in 0..1024 {
        let none = FlushCompress::None;
        stream.compress_vec(&zeros, &mut bomb, none).unwrap();
    }
    let sync = FlushCompress::Sync;
    stream.compress_vec(&[], &mut bomb, sync).unwrap();
    bomb.truncate(bomb.len() - 4);

    let service = echo(Some(ANSWER)).await;
    let keys = "websocket = { max_message = \"2MiB\" }";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, "")).await;
    let mut client = open_compressed(&tidegate).await;
    client.send_frame(compressed(long("warm"))).await;
    client.read_frame().await;
    let before = tidegate.memory();
    client.send_frame(text(&bomb).with_rsv(0b100)).await;
    assert_eq!(client.read_frame().await.close_code(), Some(1009));
    let grown = tidegate.memory().saturating_sub(before) >> 20;
    assert!(grown < 32, "{grown} MiB");
}

#[tokio::test]
async fn messages_that_grow_when_inflated_wait_for_a_service_that_does_not_read() {
    let (read, reads) = tokio::sync::watch::channel(false);
    let service = Service::start(move |mut connection| {
        let mut reads = reads.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            reads.wait_for(|&now| now).await.unwrap();
            for n in 0..1000 {
                let frame = connection.read_frame().await;
                assert_eq!(frame.payload.len(), 65_536, "message {n}");
            }
        }
    })
    .await;
    let tidegate = filtered(&service, "client").await;
    let mut client = open_compressed(&tidegate).await;
    let before = tidegate.memory();
    // One read of the proxy's holds as many of them as are 200 MiB inflated.
    let message = compressed(vec![b' '; 65_536]).encode(Some([1, 2, 3, 4]));
    let taken = client
        .send_until_stalled(&message.repeat(3000), 256 << 20)
        .await;
    assert!(taken < 256 << 20, "the client is held back");
    let grown = tidegate.memory().saturating_sub(before) >> 20;
    assert!(grown < 32, "{grown} MiB");
    read.send(true).unwrap();
    service.finished().await;
}

#[tokio::test]
async fn a_session_that_no_plugin_watches_is_relayed_whatever_was_agreed_on() {
    let plugin = format!(
        "plugins = [\"a\"]\n[plugins.a]\nmodule = {:?}\nconfig = {{ name = \"a\", obey = \"nobody\" }}",
        guest("guest-script")
    );
    // Both sides compressed: blind.
    let service = echo(Some(ANSWER)).await;
    let tidegate = Tidegate::serving(&(route_to(&service) + &plugin)).await;
    let mut client = open_compressed(&tidegate).await;
    let garbage = binary([0xff; 100]).with_rsv(0b100);
    client.send_frame(garbage.clone()).await;
    assert_eq!(client.read_frame().await, garbage);
    client.expect_echo("plain").await;

    // One is not: inflated for it all the same.
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&(route_to(&service) + &plugin)).await;
    let mut client = open_compressed(&tidegate).await;
    client.send_frame(compressed(long("there"))).await;
    assert_eq!(inflated(client.read_frame().await), text(long("there")));
    client.send_frame(close(1000, "")).await;
    assert_eq!(client.read_frame().await, close(1000, ""));
}
