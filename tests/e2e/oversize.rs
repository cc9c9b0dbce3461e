//! Messages that are too long to be shown to plugins, or that none asked for: closed or passed on as the
//! route says, and never held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compress, Compression, FlushCompress};
use tokio::sync::Semaphore;

use super::messages::scripted;
use crate::harness::{
    Connection, Frame, Service, Tidegate, accepting, binary, close, guest, handshake, ping, pong,
    route_to, text, within,
};

const PASS: &str = "websocket = { max_message = \"1000B\", oversize = \"pass\" }";
const MASK: Option<[u8; 4]> = Some([0x5a, 0x01, 0xff, 0x80]);
const DEFLATE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A service that says what bytes it gets, all of them, after its 101.
pub(super) async fn recording() -> (Service, Recorded) {
    recording_with(None).await
}

/// The same, of a service that answers an offer of extensions.
pub(super) async fn recording_with(answer: Option<&'static str>) -> (Service, Recorded) {
    let (said, heard) = tokio::sync::mpsc::unbounded_channel();
    let sessions = Arc::new(AtomicUsize::new(0));
    let service = Service::start(move |mut connection| {
        let said = said.clone();
        let session = sessions.fetch_add(1, Ordering::SeqCst);
        async move {
            let request = connection.read_head().await;
            let mut head = accepting(&request);
            if let Some(answer) = answer {
                head = head.with("Sec-WebSocket-Extensions", answer);
            }
            connection.send(head.to_wire()).await;
            while let Some(bytes) = connection.next_bytes().await {
                said.send((session, bytes)).ok();
            }
        }
    })
    .await;
    let recorded = Recorded {
        heard,
        bytes: Vec::new(),
        session: None,
    };
    (service, recorded)
}

/// What a service has got and the test has not looked at.
pub(super) struct Recorded {
    heard: tokio::sync::mpsc::UnboundedReceiver<(usize, Vec<u8>)>,
    bytes: Vec<u8>,
    /// The session whose bytes count. None: all do.
    session: Option<usize>,
}

impl Recorded {
    /// From now on only what the next session brings counts: the first, or that after the last one.
    pub(super) fn next_session(&mut self) {
        self.session = Some(self.session.map_or(0, |last| last + 1));
        self.bytes.clear();
    }

    async fn read_more(&mut self, what: &str) {
        let (session, more) = within(what, self.heard.recv())
            .await
            .expect("the service listens on");
        if self.session.is_none_or(|only| only == session) {
            self.bytes.extend(more);
        }
    }

    /// Waits until the service has got these bytes next.
    pub(super) async fn expect(&mut self, expected: &[u8], what: &str) {
        while self.bytes.len() < expected.len() {
            self.read_more(what).await;
        }
        let rest = self.bytes.split_off(expected.len());
        assert!(self.bytes == expected, "{what}: other bytes");
        self.bytes = rest;
    }

    /// Waits for the next frame, which has to be masked.
    pub(super) async fn frame(&mut self) -> Frame {
        loop {
            if let Some((frame, masked)) = Frame::take(&mut self.bytes) {
                assert!(masked, "{frame:?}");
                return frame;
            }
            self.read_more("frame at the service").await;
        }
    }

    /// Waits for the frames of the next message, and puts them together.
    pub(super) async fn message(&mut self) -> Frame {
        let mut whole = self.frame().await;
        while !whole.fin {
            let next = self.frame().await;
            assert_eq!(next.opcode, 0, "the message goes on: {next:?}");
            whole.payload.extend(next.payload);
            whole.fin = next.fin;
        }
        whole
    }

    /// Waits for a control frame, and returns it.
    pub(super) async fn last_frame(&mut self) -> Frame {
        loop {
            let frame = self.frame().await;
            if frame.opcode >= 8 {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn a_message_over_max_message_passes_unseen_and_as_it_came_where_the_route_says_so() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], PASS, "")).await;
    let mut client = tidegate.websocket("/").await;
    let long = format!("replace:{}", "x".repeat(1000));
    let (first, last) = long.split_at(600);
    let rows = [
        ("in one frame", vec![text(&long)]),
        (
            "in fragments",
            vec![text(first).unfinished(), Frame::continuation(last)],
        ),
        (
            "in fragments, the last of which is too long by itself",
            vec![
                text("replace:").unfinished(),
                Frame::continuation("x").unfinished(),
                Frame::continuation(&long),
            ],
        ),
        ("binary", vec![binary([7; 100_000])]),
        ("of a megabyte", vec![text(long.repeat(1000))]),
    ];
    for (what, frames) in rows {
        let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode(MASK)).collect();
        client.send(&wire).await;
        recorded.expect(&wire, what).await;
        // What is not too long is seen as ever.
        client.send(text("drop").encode(MASK)).await;
        let seen = text("seen").encode(MASK);
        client.send(&seen).await;
        recorded.expect(&seen, what).await;
    }
}

#[tokio::test]
async fn a_long_message_is_on_its_way_before_it_has_come() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], PASS, "")).await;
    let mut client = tidegate.websocket("/").await;
    let wire = text("x".repeat(10 << 20)).encode(MASK);
    let mut at = 0;
    for piece in [14, 1, 1000, 100_000, 5 << 20] {
        client.send(&wire[at..at + piece]).await;
        recorded.expect(&wire[at..at + piece], "first bytes").await;
        at += piece;
    }
    client.send(&wire[at..]).await;
    recorded.expect(&wire[at..], "last bytes").await;
}

#[tokio::test]
async fn fragments_that_no_plugin_asked_for_are_not_held() {
    let (service, mut recorded) = recording().await;
    // Also where nothing may be too long.
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], "", "")).await;
    let mut client = tidegate.websocket("/").await;
    for frame in [
        binary("first").unfinished(),
        ping("between"),
        Frame::continuation("second").unfinished(),
        Frame::continuation(""),
        text("seen"),
    ] {
        let wire = frame.encode(MASK);
        client.send(&wire).await;
        recorded.expect(&wire, "fragment").await;
    }
}

#[tokio::test]
async fn control_frames_pass_between_the_fragments_of_a_long_message() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], PASS, "")).await;
    let mut client = tidegate.websocket("/").await;
    let long = "y".repeat(1001);
    client.send_frame(text(&long).unfinished()).await;
    assert_eq!(client.read_frame().await, text(&long).unfinished());
    client.send_frame(ping("are you there?")).await;
    assert_eq!(client.read_frame().await, pong("are you there?"));
    client.send_frame(Frame::continuation("end")).await;
    assert_eq!(client.read_frame().await, Frame::continuation("end"));
    client.send_frame(text("replace:seen")).await;
    assert_eq!(client.read_frame().await, text("seen"));
}

#[tokio::test]
async fn what_a_plugin_sends_waits_for_the_end_of_a_long_message() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_exactly(3).await, b"\x01\xfe\x04");
        connection.send_frame(text("send-service:hello")).await;
        connection.send_frame(text("after")).await;
        let mut rest = connection.read_exactly(1 + 4 + 1100).await;
        assert_eq!(rest.remove(0), 0x4c);
        assert_eq!(connection.read_frame().await, Frame::continuation("end"));
        assert_eq!(connection.read_frame().await, text("hello"));
        connection.read_to_end().await;
    })
    .await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], PASS, "")).await;
    let mut client = tidegate.websocket("/").await;
    let wire = text("x".repeat(1100)).unfinished().encode(MASK);
    // Within the frame, and then between two.
    client.send(&wire[..100]).await;
    assert_eq!(client.read_frame().await, text("after"));
    client.send(&wire[100..]).await;
    client.send_frame(Frame::continuation("end")).await;
    client.send_frame(close(1000, "")).await;
    service.finished().await;
}

#[tokio::test]
async fn text_is_judged_however_long_it_is() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], PASS, "")).await;
    // Within a frame: the service cannot be told, but gets nothing more.
    let mut client = tidegate.websocket("/").await;
    let wire = text("x".repeat(100_000)).encode(MASK);
    client.send(&wire[..1000]).await;
    recorded.expect(&wire[..1000], "beginning").await;
    client.send([0xff; 100]).await;
    assert_eq!(client.read_frame().await.close_code(), Some(1007));
    client.expect_end().await;

    // Between two.
    let mut client = tidegate.websocket("/").await;
    let wire = text("x".repeat(2000)).unfinished().encode(MASK);
    client.send(&wire).await;
    recorded.expect(&wire, "first fragment").await;
    client.send_frame(Frame::continuation(b"\xff")).await;
    assert_eq!(client.read_frame().await.close_code(), Some(1007));
    recorded.expect(b"\x88\x82", "Close frame").await;
}

#[tokio::test]
async fn a_message_longer_than_a_plugin_asked_for_passes_or_closes() {
    let service = Service::websocket_echo().await;
    for (oversize, closes) in [("close", false), ("pass", false), ("close-unseen", true)] {
        let tidegate = Tidegate::serving(&format!(
            "{}plugins = [\"a\"]\nwebsocket = {{ oversize = {oversize:?} }}\n[plugins.a]\nmodule = {:?}\n\
             config = {{ name = \"a\", largest = 20 }}",
            route_to(&service),
            guest("guest-script")
        ))
        .await;
        let mut client = tidegate.websocket("/").await;
        client.send_frame(text("replace:seen")).await;
        assert_eq!(client.read_frame().await, text("seen"));
        // As long as it may be, of another kind, and from the other side.
        let (longest, longer) = ("drop:abcdefghijklmno", "replace:abcdefghijklm");
        assert_eq!((longest.len(), longer.len()), (20, 21));
        client.send_frame(text(longest)).await;
        client.send_frame(binary(longer)).await;
        assert_eq!(client.read_frame().await, binary(longer));
        client.send_frame(text("send-service:{}")).await;
        assert_eq!(client.read_frame().await, text("{}"));
        for frames in [
            vec![text(longer)],
            vec![
                text("replace:").unfinished(),
                Frame::continuation("abcdefghijklm"),
            ],
        ] {
            let mut client = tidegate.websocket("/").await;
            for frame in &frames {
                client.send_frame(frame.clone()).await;
            }
            if closes {
                assert_eq!(client.read_frame().await.close_code(), Some(1009));
                continue;
            }
            for frame in frames {
                assert_eq!(client.read_frame().await, frame, "{oversize}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_message_that_has_to_be_inflated_goes_on_in_pieces() {
    let payload: String = ('a'..='z').cycle().take(300_000).collect::<String>() + "é";
    let expected = payload.clone();
    let service = Service::start(move |mut connection| {
        let expected = expected.clone();
        async move {
            let request = connection.read_head().await;
            connection.accept_websocket(&request).await;
            for _ in 0..2 {
                let mut whole = Vec::new();
                loop {
                    let frame = connection.read_frame().await;
                    assert_eq!(frame.opcode, if whole.is_empty() { 1 } else { 0 });
                    assert!(frame.payload.len() <= 64 << 10, "{frame:?}");
                    whole.extend(frame.payload);
                    if frame.fin {
                        break;
                    }
                }
                assert!(whole == expected.as_bytes());
            }
            assert_eq!(connection.read_frame().await, text("seen"));
        }
    })
    .await;
    let keys =
        "websocket = { compression = \"client\", max_message = \"1000B\", oversize = \"pass\" }";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, "")).await;
    let mut client = open_compressed(&tidegate).await;
    let deflated = deflate(payload.as_bytes());
    client.send_frame(text(&deflated).with_rsv(0b100)).await;
    let (first, last) = deflated.split_at(deflated.len() / 2);
    client
        .send_frame(text(first).with_rsv(0b100).unfinished())
        .await;
    client.send_frame(Frame::continuation(last)).await;
    client
        .send_frame(text(deflate(b"replace:seen")).with_rsv(0b100))
        .await;
    service.finished().await;
}

/// Promise 5 of the design, where messages are longer than anybody holds.
#[tokio::test]
async fn long_messages_cost_no_memory_while_they_pass_or_stall() {
    const SESSIONS: usize = 16;
    let reading = Arc::new(Semaphore::new(0));
    let reads = reading.clone();
    let service = Service::start(move |mut connection| {
        let reads = reads.clone();
        async move {
            let request = connection.read_head().await;
            let head = accepting(&request);
            connection.send(head.to_wire()).await;
            if request.target() == "/stalls" {
                reads.acquire().await.unwrap().forget();
            }
            while connection.next_bytes().await.is_some() {}
        }
    })
    .await;
    let keys = "websocket = { compression = \"client\", oversize = \"pass\" }";
    let tidegate = Tidegate::serving(&scripted(&service, &["a"], keys, "")).await;
    // A message that never ends, and one that is a thousand times as long inflated.
    let mut endless = text("").encode(MASK);
    endless.splice(1..2, [0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0]);
    let spaces = text(deflate(&vec![b' '; 64 << 20]))
        .with_rsv(0b100)
        .encode(MASK);
    let before = tidegate.memory();
    let mut held = Vec::new();
    for _ in 0..SESSIONS {
        let mut passing = tidegate.websocket("/").await;
        passing.send(&endless).await;
        let most = 8 << 20;
        let unmasked: Vec<u8> = [b' ' ^ 0x5a, b' ' ^ 1, b' ' ^ 0xff, b' ' ^ 0x80].repeat(1000);
        assert!(passing.send_until_stalled(&unmasked, most).await >= most);
        held.push(passing);
        for wire in [[&endless[..], &unmasked].concat(), spaces.clone()] {
            let mut stalled = open_compressed_at(&tidegate, "/stalls").await;
            let most = 256 << 20;
            let taken = match wire.len() < 10_000 {
                true => {
                    stalled.send(&wire).await;
                    stalled.send_until_stalled(&unmasked, most).await
                }
                false => stalled.send_until_stalled(&wire, most).await,
            };
            assert!(taken < most, "the client is held back");
            held.push(stalled);
        }
    }
    let each = tidegate.memory().saturating_sub(before) as usize / held.len();
    assert!(each < 1 << 20, "a session holds {} KiB", each / 1024);
}

pub(super) fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut stream = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(payload.len() + 100);
    let sync = FlushCompress::Sync;
    stream.compress_vec(payload, &mut out, sync).unwrap();
    out.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

pub(super) async fn open_compressed(tidegate: &Tidegate) -> Connection {
    open_compressed_at(tidegate, "/").await
}

pub(super) async fn open_compressed_at(tidegate: &Tidegate, target: &str) -> Connection {
    let mut client = tidegate.connect().await;
    let offer = format!(
        "{}\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        handshake(target)
    );
    client.send_head(&offer).await;
    let head = client.read_head().await;
    assert_eq!(head.field("sec-websocket-extensions"), Some(DEFLATE));
    client
}
