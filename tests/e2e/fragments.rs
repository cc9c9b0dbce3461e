//! Plugins that see messages in pieces, as they arrive. `guest-pieces` does to them what its
//! configuration says.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::oversize::{deflate, open_compressed, open_compressed_at, recording, recording_with};
use crate::harness::{
    Frame, Service, Tidegate, accepting, binary, close, eventually, guest, ping, pong, route_to,
    text,
};

const MASK: Option<[u8; 4]> = Some([0x5a, 0x01, 0xff, 0x80]);

/// A route whose messages pass these plugins, of which each is a `guest-pieces` with a configuration.
/// Messages may be as long as they like.
fn in_pieces(service: &Service, configs: &[&str], websocket: &str) -> String {
    let mut plugins = String::new();
    let mut names = Vec::new();
    for (n, config) in configs.iter().enumerate() {
        names.push(format!("p{n}"));
        plugins += &format!(
            "[plugins.p{n}]\nmodule = {:?}\nconfig = {{ {config} }}\nlimits = {{ call_timeout = \"1s\" }}\n",
            guest("guest-pieces")
        );
    }
    format!(
        "{}plugins = {names:?}\nwebsocket = {{ oversize = \"pass\", {websocket} }}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n{plugins}",
        route_to(service)
    )
}

async fn calls(tidegate: &Tidegate, phase: &str) -> f64 {
    let labels = [("plugin", "p0"), ("phase", phase)];
    let metrics = tidegate.metrics().await;
    let calls = metrics.find("tidegate_plugin_calls_total", &labels);
    calls.unwrap_or_default()
}

#[tokio::test]
async fn a_piece_is_shown_and_gone_before_the_next_has_come() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["tell = true"], "")).await;
    let mut client = tidegate.websocket("/").await;
    // Each fragment passes as it came.
    let fragments = [
        text("one").unfinished(),
        Frame::continuation("").unfinished(),
        Frame::continuation("two").unfinished(),
        Frame::continuation("three"),
    ];
    for frame in fragments {
        let wire = frame.encode(MASK);
        client.send(&wire).await;
        recorded.expect(&wire, "fragment").await;
    }
    assert_eq!(client.read_frame().await, text("text: 3 pieces, 11 bytes"));

    // A frame that comes in pieces leaves as frames of them.
    let wire = binary("four fivesix").encode(MASK);
    client.send(&wire[..10]).await;
    let first = recorded.frame().await;
    assert_eq!(first, binary("four").unfinished());
    client.send(&wire[10..15]).await;
    assert_eq!(
        recorded.frame().await,
        Frame::continuation(" five").unfinished()
    );
    client.send(&wire[15..]).await;
    assert_eq!(recorded.frame().await, Frame::continuation("six"));
    assert_eq!(
        client.read_frame().await,
        text("binary: 3 pieces, 12 bytes")
    );
}

#[tokio::test]
async fn a_short_message_is_one_piece_and_passes_as_it_came() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["tell = true"], "")).await;
    let mut client = tidegate.websocket("/").await;
    for (frame, told) in [
        (text("short"), "text: 1 pieces, 5 bytes"),
        (text(""), "text: 1 pieces, 0 bytes"),
        (binary([0xff; 3]), "binary: 1 pieces, 3 bytes"),
    ] {
        let wire = frame.encode(MASK);
        client.send(&wire).await;
        recorded.expect(&wire, told).await;
        assert_eq!(client.read_frame().await, text(told));
    }
}

#[tokio::test]
async fn pieces_are_cut_between_characters() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["tell = true"], "")).await;
    let mut client = tidegate.websocket("/").await;
    // The guest panics if it is shown text that is not UTF-8.
    let wire = text("a💩b").encode(MASK);
    for cut in [&wire[..8], &wire[8..9], &wire[9..10], &wire[10..]] {
        client.send(cut).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(recorded.message().await, text("a💩b"));
    for frame in [
        text(b"a\xf0\x9f").unfinished(),
        Frame::continuation(b"\x92").unfinished(),
        Frame::continuation(b"\xa9b"),
    ] {
        client.send_frame(frame).await;
    }
    assert_eq!(recorded.message().await, text("a💩b"));
    for _ in 0..2 {
        let told = client.read_frame().await;
        assert!(told.payload.ends_with(b"6 bytes"), "{told:?}");
    }
    // Also where a message that came whole is shown in several.
    let long = "💩".repeat(50_000);
    client.send_frame(text(&long)).await;
    assert!(recorded.message().await == text(&long));
    client.send_frame(text(b"a\xf0\x9f").unfinished()).await;
    client.send_frame(Frame::continuation("")).await;
    assert!(client.read_frame().await.payload.ends_with(b"200000 bytes"));
    assert_eq!(client.read_frame().await.close_code(), Some(1007));
}

#[tokio::test]
async fn a_forbidden_word_across_two_pieces_closes_both_ends() {
    let config = "forbid = \"forbidden\"";
    for within_frame in [false, true] {
        let (service, mut recorded) = recording().await;
        let tidegate = Tidegate::serving(&in_pieces(&service, &[config], "")).await;
        let mut client = tidegate.websocket("/").await;
        if within_frame {
            let wire = text("what is forbidden?").encode(MASK);
            client.send(&wire[..6 + 12]).await;
            assert_eq!(recorded.frame().await, text("what is forb").unfinished());
            client.send(&wire[6 + 12..]).await;
        } else {
            let first = text("what is forb").unfinished();
            client.send_frame(first.clone()).await;
            assert_eq!(recorded.frame().await, first);
            client.send_frame(Frame::continuation("idden?")).await;
        }
        assert_eq!(client.read_frame().await, close(4008, "forbidden"));
        assert_eq!(recorded.frame().await, close(4008, "forbidden"));
        client.expect_end().await;
    }
}

#[tokio::test]
async fn pieces_can_be_replaced_and_dropped() {
    let (service, mut recorded) = recording().await;
    let config = "edit = true, tell = true";
    let tidegate = Tidegate::serving(&in_pieces(&service, &[config], "")).await;
    let mut client = tidegate.websocket("/").await;
    let rows: [(&[&str], Option<&[&str]>); 7] = [
        (&["abc", "def", "ghi"], Some(&["ABC", "DEF", "GHI"])),
        (&["-abc", "def"], Some(&["DEF"])),
        (&["abc", "-def", "ghi"], Some(&["ABC", "GHI"])),
        (&["abc", "-def"], Some(&["ABC", ""])),
        (&["-abc", "-def"], None),
        (&["-abc", "-def", ""], None),
        (&["=abc", "=def"], Some(&[""])),
    ];
    for (sent, expected) in rows {
        for (n, part) in sent.iter().enumerate() {
            let mut frame = if n == 0 {
                text(part)
            } else {
                Frame::continuation(part)
            };
            frame.fin = n + 1 == sent.len();
            client.send_frame(frame).await;
        }
        let told = client.read_frame().await;
        let pieces = format!("text: {} pieces", sent.len());
        assert!(told.payload.starts_with(pieces.as_bytes()), "{told:?}");
        let Some(expected) = expected else { continue };
        for (n, part) in expected.iter().enumerate() {
            let mut frame = if n == 0 {
                text(part)
            } else {
                Frame::continuation(part)
            };
            frame.fin = n + 1 == expected.len();
            assert_eq!(recorded.frame().await, frame, "{sent:?}");
        }
    }
    // As a whole.
    for (sent, expected) in [("abc", Some("ABC")), ("-abc", None), ("=abc", Some(""))] {
        client.send_frame(text(sent)).await;
        client.read_frame().await;
        if let Some(expected) = expected {
            assert_eq!(recorded.frame().await, text(expected));
        }
    }
    let metrics = tidegate.metrics().await;
    for (verdict, count) in [("replace", 7.0), ("drop", 3.0)] {
        let labels = [("direction", "to-service"), ("verdict", verdict)];
        assert_eq!(metrics.sum("tidegate_messages_total", &labels), count);
    }
}

#[tokio::test]
async fn a_plugin_that_only_looks_must_not_change_anything() {
    // It drops nothing, since it said that it would not; the configuration asks for a word only.
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["forbid = \"x\""], "")).await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("-abc").await;
    assert_eq!(calls(&tidegate, "fragment").await, 2.0);
    assert_eq!(calls(&tidegate, "message").await, 0.0);
}

#[tokio::test]
async fn each_plugin_sees_what_the_one_before_it_made_of_a_piece() {
    let (service, mut recorded) = recording().await;
    let configs = [
        "edit = true, origin = \"client\"",
        "forbid = \"WORD\", tell = true",
    ];
    let tidegate = Tidegate::serving(&in_pieces(&service, &configs, "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("abc").unfinished()).await;
    client.send_frame(Frame::continuation("-def")).await;
    assert_eq!(recorded.message().await, text("ABC"));
    // Who has seen a piece is told of the end, though the last was dropped.
    assert_eq!(client.read_frame().await, text("text: 2 pieces, 3 bytes"));
    client.send_frame(text("-abc").unfinished()).await;
    client.send_frame(Frame::continuation("-def")).await;
    client.send_frame(text("wo").unfinished()).await;
    client.send_frame(Frame::continuation("rd")).await;
    assert_eq!(client.read_frame().await, close(4008, "forbidden"));
}

#[tokio::test]
async fn what_a_plugin_sends_goes_after_the_message_it_was_shown_in_pieces() {
    let (service, mut recorded) = recording().await;
    let configs = ["announce = \"said\", origin = \"client\"", "tell = true"];
    let tidegate = Tidegate::serving(&in_pieces(&service, &configs, "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("first").unfinished()).await;
    assert_eq!(recorded.frame().await, text("first").unfinished());
    client.send_frame(ping("between")).await;
    assert_eq!(recorded.frame().await, ping("between"));
    client.send_frame(Frame::continuation("last")).await;
    assert_eq!(recorded.frame().await, Frame::continuation("last"));
    for _ in 0..2 {
        assert_eq!(recorded.frame().await, text("said"));
    }
    // The second plugin was shown these messages one after the other.
    for told in ["text: 2 pieces, 9 bytes", "text: 1 pieces, 4 bytes"] {
        assert_eq!(client.read_frame().await, text(told));
    }
    assert_eq!(client.read_frame().await, text("text: 1 pieces, 4 bytes"));
    // One that came whole follows what is sent about it.
    client.send_frame(text("whole")).await;
    assert_eq!(recorded.frame().await, text("said"));
    assert_eq!(recorded.frame().await, text("whole"));
}

#[tokio::test]
async fn what_is_sent_about_one_message_is_bounded_for_all_its_pieces() {
    let (service, _recorded) = recording().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["announce = \"said\""], "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("first").unfinished()).await;
    for _ in 0..64 {
        client
            .send_frame(Frame::continuation("more").unfinished())
            .await;
    }
    assert_eq!(client.read_frame().await.close_code(), Some(1011));
}

#[tokio::test]
async fn a_message_that_is_shown_whole_is_not_shown_in_pieces() {
    let (service, mut recorded) = recording().await;
    let config = "whole = 10, tell = true, kinds = \"text\"";
    let tidegate = Tidegate::serving(&in_pieces(&service, &[config], "")).await;
    let mut client = tidegate.websocket("/").await;
    for frames in [
        vec![text("0123456789")],
        vec![text("01234").unfinished(), Frame::continuation("56789")],
    ] {
        for frame in frames {
            client.send_frame(frame).await;
        }
        assert_eq!(client.read_frame().await, text("whole"));
    }
    // What was held of a longer one comes as its first piece.
    client.send_frame(text("01234").unfinished()).await;
    client.send_frame(ping("held")).await;
    assert_eq!(recorded.frame().await, ping("held"));
    client.send_frame(Frame::continuation("567890")).await;
    assert_eq!(recorded.frame().await, text("01234").unfinished());
    assert_eq!(recorded.frame().await, Frame::continuation("567890"));
    assert_eq!(client.read_frame().await, text("text: 2 pieces, 11 bytes"));
    assert_eq!(calls(&tidegate, "message").await, 2.0);
    assert_eq!(calls(&tidegate, "fragment").await, 2.0);
    // Nobody asked for these in pieces.
    client.send_frame(binary([0; 11])).await;
    assert_eq!(recorded.frame().await, binary([0; 11]));
    assert_eq!(calls(&tidegate, "fragment").await, 2.0);
}

#[tokio::test]
async fn a_compressed_message_is_shown_inflated_and_goes_on_as_it_came() {
    let answer = "permessage-deflate; server_no_context_takeover";
    let (service, mut recorded) = recording_with(Some(answer)).await;
    let config = "tell = true, forbid = \"forbidden\"";
    let tidegate = Tidegate::serving(&in_pieces(&service, &[config], "")).await;
    let mut client = open_compressed(&tidegate).await;
    let payload: String = (0..30_000).map(|n| format!("{n} ")).collect();
    let deflated = deflate(payload.as_bytes());
    let (first, last) = deflated.split_at(deflated.len() / 2);
    // Whole, in fragments, and cut by the network.
    let whole = text(&deflated).with_rsv(0b100);
    let fragments = [
        text(first).with_rsv(0b100).unfinished(),
        Frame::continuation(last),
    ];
    for frames in [&[whole.clone()][..], &fragments] {
        for frame in frames {
            let wire = frame.encode(MASK);
            client.send(&wire[..20]).await;
            tokio::task::yield_now().await;
            client.send(&wire[20..]).await;
        }
        let passed = recorded.message().await;
        assert_eq!((passed.rsv, passed.opcode), (0b100, 1));
        assert!(passed.payload == deflated, "the same compressed bytes");
        let told = client.read_frame().await;
        let bytes = format!("{} bytes", payload.len());
        assert!(told.payload.ends_with(bytes.as_bytes()), "{told:?}");
    }
    // As many bytes again, in which the word is cut by the limit of a piece or not.
    let guilty = format!("{payload}forbidden{payload}");
    let wire = text(deflate(guilty.as_bytes()))
        .with_rsv(0b100)
        .encode(MASK);
    client.send(&wire).await;
    assert_eq!(client.read_frame().await, close(4008, "forbidden"));
    assert_eq!(recorded.last_frame().await, close(4008, "forbidden"));
}

#[tokio::test]
async fn a_compressed_message_that_may_be_changed_goes_on_inflated() {
    let answer = "permessage-deflate; server_no_context_takeover";
    let (service, mut recorded) = recording_with(Some(answer)).await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["edit = true"], "")).await;
    let mut client = open_compressed(&tidegate).await;
    let payload = "é, some text. ".repeat(20_000);
    let deflated = deflate(payload.as_bytes());
    let (first, last) = deflated.split_at(100);
    client
        .send_frame(text(first).with_rsv(0b100).unfinished())
        .await;
    client.send_frame(Frame::continuation(last)).await;
    let passed = recorded.message().await;
    assert!(passed == text(payload.to_ascii_uppercase()));
    // A short one is framed whole, and compressed as any message.
    client
        .send_frame(text(deflate(b"short")).with_rsv(0b100))
        .await;
    assert_eq!(recorded.frame().await, text("SHORT"));
}

#[tokio::test]
async fn pieces_of_the_service_pass_the_last_plugin_first() {
    let service = Service::websocket_echo().await;
    let configs = ["kinds = \"text\"", "edit = true, kinds = \"binary\""];
    let tidegate = Tidegate::serving(&in_pieces(&service, &configs, "")).await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(binary("abc").unfinished()).await;
    assert_eq!(client.read_frame().await, binary("ABC").unfinished());
    client.send_frame(ping("between")).await;
    assert_eq!(client.read_frame().await, pong("between"));
    client.send_frame(Frame::continuation("def")).await;
    assert_eq!(client.read_frame().await, Frame::continuation("DEF"));
    client.expect_echo("abc").await;
}

/// Promise 5 of the design, where plugins look at messages of any length.
#[tokio::test]
async fn ten_mebibytes_pass_a_plugin_in_many_sessions_at_once_and_are_never_held() {
    const SESSIONS: usize = 24;
    const LENGTH: usize = 10 << 20;
    let stalls = Arc::new(Semaphore::new(0));
    let reads = stalls.clone();
    let service = Service::start(move |mut connection| {
        let reads = reads.clone();
        async move {
            let request = connection.read_head().await;
            connection.send(accepting(&request).to_wire()).await;
            if request.target() == "/stalls" {
                reads.acquire().await.unwrap().forget();
            }
            while connection.next_bytes().await.is_some() {}
        }
    })
    .await;
    let config = "forbid = \"forbidden\", tell = true";
    let websocket = "compression = \"client\"";
    let tidegate = Tidegate::serving(&in_pieces(&service, &[config], websocket)).await;
    let wire = text("x".repeat(LENGTH)).encode(MASK);
    let spaces = text(deflate(&vec![b' '; 64 << 20])).with_rsv(0b100);
    let spaces = spaces.encode(MASK);

    let mut warm = tidegate.websocket("/").await;
    warm.send(&wire).await;
    warm.read_frame().await;
    let before = tidegate.memory();
    let mut held = Vec::new();
    for n in 0..SESSIONS {
        let mut client = open_compressed_at(&tidegate, ["/", "/stalls"][n % 2]).await;
        let sent = match n % 4 {
            0 => {
                client.send(&wire[..LENGTH / 2]).await;
                0
            }
            1 => client.send_until_stalled(&wire[..LENGTH], 256 << 20).await,
            2 => {
                client.send(&spaces[..spaces.len() / 2]).await;
                0
            }
            _ => client.send_until_stalled(&spaces, 256 << 20).await,
        };
        assert!(sent < 256 << 20, "the client is held back");
        held.push(client);
    }
    let each = tidegate.memory().saturating_sub(before) as usize / held.len();
    assert!(each < 1 << 20, "a session holds {} KiB", each / 1024);
    // And the rest passes, all of it shown.
    held[0].send(&wire[LENGTH / 2..]).await;
    let told = held[0].read_frame().await;
    let expected = format!("{LENGTH} bytes");
    assert!(told.payload.ends_with(expected.as_bytes()), "{told:?}");
}

#[tokio::test]
async fn sessions_of_an_instance_that_fails_go_on_in_the_next_with_the_rest_of_their_messages() {
    let (service, mut recorded) = recording().await;
    let tidegate = Tidegate::serving(&in_pieces(&service, &["announce = \"said\""], "")).await;
    let mut other = tidegate.websocket("/").await;
    other.send_frame(ping("open")).await;
    assert_eq!(recorded.frame().await, ping("open"));
    let mut failing = tidegate.websocket("/").await;
    failing.send_frame(text("first").unfinished()).await;
    for _ in 0..64 {
        failing
            .send_frame(Frame::continuation("more").unfinished())
            .await;
    }
    assert_eq!(failing.read_frame().await.close_code(), Some(1011));
    let reopened = async || (calls(&tidegate, "open").await >= 3.0).then_some(());
    other.send_frame(text("whole")).await;
    eventually("the session in the next instance", reopened).await;
}
