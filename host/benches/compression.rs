//! What a message of 1 KiB costs the proxy whose plugin looks at it, plain and compressed:
//! `cargo bench --bench compression`. Prints numbers and judges none of them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a program for developers, as the tests are"
)]

#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the tests use the rest of it"
)]
#[path = "../../tests/harness/mod.rs"]
mod harness;

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use harness::{Frame, Service, Tidegate, accepting, guest, handshake, route_to, text};

/// Messages sent at once.
const BURST: usize = 100;

const BURSTS: usize = 500;

const EXTENSION: &str =
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let plain = text(message());
    let compressed = Frame {
        rsv: 4,
        payload: deflated(&plain.payload),
        ..plain.clone()
    };
    let lengths = (plain.payload.len(), compressed.payload.len());
    println!(
        "{} B, compressed {} B; CPU time of the proxy:",
        lengths.0, lengths.1
    );
    for plugins in ["", "plugins = [\"find\"]\n"] {
        let mut times = Vec::new();
        for frame in [&plain, &compressed] {
            let mut rounds = Vec::new();
            for _ in 0..5 {
                rounds.push(time_of(frame, plugins).await);
            }
            rounds.sort_unstable();
            times.push(rounds[2]);
        }
        let who = if plugins.is_empty() {
            "nobody looks"
        } else {
            "a plugin looks"
        };
        println!(
            "  {who}: plain {:?}, compressed {:?}: {:?} more",
            times[0],
            times[1],
            times[1].saturating_sub(times[0])
        );
    }
}

/// CPU time of the proxy for one message to a service that says nothing.
async fn time_of(frame: &Frame, plugins: &str) -> Duration {
    let wire = frame.encode(Some([7, 7, 7, 7]));
    let burst = wire.repeat(BURST);
    let expected = burst.len();
    let service = Service::start(move |mut connection| async move {
        let head = connection.read_head().await;
        let answer = accepting(&head).with("Sec-WebSocket-Extensions", EXTENSION);
        connection.send(answer.to_wire()).await;
        for _ in 0..BURSTS {
            connection.read_exactly(expected).await;
            connection.send_frame(text("taken")).await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&format!(
        "{}{plugins}[plugins.find]\nmodule = {:?}\nconfig = {{ word = \"forbidden\" }}\n",
        route_to(&service),
        guest("guest-find")
    ))
    .await;
    let mut client = tidegate.connect().await;
    let request = handshake("/") + &format!("\nSec-WebSocket-Extensions: {EXTENSION}");
    client.send_head(&request).await;
    assert_eq!(client.read_head().await.status(), 101);
    let before = tidegate.process.cpu_time();
    for _ in 0..BURSTS {
        client.send(&burst).await;
        client.read_frame().await;
    }
    let spent = tidegate.process.cpu_time() - before;
    spent / u32::try_from(BURST * BURSTS).unwrap()
}

/// What an application may say: 1 KiB of JSON.
fn message() -> String {
    let mut message = String::from("[");
    for n in 0_u32.. {
        let next = format!(
            "{{\"id\":{},\"symbol\":\"X{}\",\"price\":{}.{}}},",
            n.wrapping_mul(2_654_435_761),
            n * 7 % 31,
            n * 37 % 1000,
            n * 13 % 100
        );
        if message.len() + next.len() > 1024 {
            break;
        }
        message += &next;
    }
    message
}

/// As RFC 7692 section 7.2.1 has it: without the empty block at its end.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 64);
    Compress::new(Compression::default(), false)
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    assert_eq!(out.split_off(out.len() - 4), [0, 0, 255, 255]);
    out
}
