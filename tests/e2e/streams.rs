//! Random streams of frames through a route whose plugins pass everything: what comes out is what went
//! in, however the network cuts it.

use super::oversize::{Recorded, deflate, open_compressed, recording_with};
use crate::harness::{
    Connection, Frame, Service, Tidegate, binary, close, guest, ping, route_to, text,
};

const ANSWER: &str = "permessage-deflate; server_no_context_takeover";

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }
}

/// The frames of some messages, and masks for them. `pings`: between fragments too.
fn frames(random: &mut Random, compressed: bool, pings: bool) -> Vec<(Frame, [u8; 4])> {
    let mut frames = Vec::new();
    for _ in 0..20 {
        let length = random.of(&[0, 1, 7, 100, 125, 126, 127, 1000, 65_535, 65_536, 90_000]);
        let characters = ["a", "é", "€", "💩", "some words "];
        let mut payload = String::new();
        while payload.len() < length {
            payload += random.of(&characters);
        }
        let mut payload = payload.into_bytes();
        let is_compressed = compressed && random.below(2) == 0;
        if is_compressed {
            payload = deflate(&payload);
        }
        let mut parts = vec![&payload[..]];
        for _ in 0..random.of(&[0, 0, 1, 3]) {
            let last = parts.pop().unwrap_or_default();
            let (before, after) = last.split_at(random.below(last.len() + 1));
            parts.extend([before, after]);
        }
        let count = parts.len();
        let is_text = random.below(2) == 0;
        for (n, part) in parts.into_iter().enumerate() {
            let mut frame = match (n, is_text) {
                (0, true) => text(part),
                (0, false) => binary(part),
                _ => Frame::continuation(part),
            };
            frame.fin = n + 1 == count;
            if n == 0 && is_compressed {
                frame = frame.with_rsv(0b100);
            }
            let mask = [random.next() as u8, 0, random.next() as u8, 0xff];
            if pings && random.below(3) == 0 {
                frames.push((ping(random.next().to_string()), mask));
            }
            frames.push((frame, mask));
        }
    }
    frames
}

/// Sends bytes in pieces of any length.
async fn send_in_pieces(client: &mut Connection, random: &mut Random, wire: &[u8]) {
    let mut rest = wire;
    while !rest.is_empty() {
        let most = random.of(&[1, 3, 14, 200, 5000, 70_000, 300_000]);
        let (piece, after) = rest.split_at(most.min(rest.len()));
        client.send(piece).await;
        tokio::task::yield_now().await;
        rest = after;
    }
}

fn route(service: &Service, plugins: &str) -> String {
    format!(
        "{}{plugins}\n[plugins.whole]\nmodule = {:?}\nconfig = {{ name = \"a\", obey = \"both\" }}\n\
         limits = {{ call_timeout = \"1s\" }}\n\
         [plugins.short]\nmodule = {:?}\nconfig = {{ name = \"a\", obey = \"both\", largest = 100 }}\n\
         [plugins.pieces]\nmodule = {:?}\nlimits = {{ call_timeout = \"1s\" }}\n",
        route_to(service),
        guest("guest-script"),
        guest("guest-script"),
        guest("guest-pieces"),
    )
}

/// Data frames and control frames by themselves: control frames overtake fragments that are held.
fn apart(frames: impl IntoIterator<Item = Frame>) -> (Vec<Frame>, Vec<Frame>) {
    frames.into_iter().partition(|frame| frame.opcode < 8)
}

#[tokio::test]
async fn what_passes_is_the_same_bytes_however_it_is_read() {
    for compressed in [false, true] {
        let answer = compressed.then_some(ANSWER);
        let (service, mut recorded) = recording_with(answer).await;
        for plugins in [
            "plugins = [\"whole\"]",
            "plugins = [\"short\"]\nwebsocket = { oversize = \"pass\", max_message = \"1KiB\" }",
        ] {
            let tidegate = Tidegate::serving(&route(&service, plugins)).await;
            for seed in 1..8 {
                let random = &mut Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
                recorded.next_session();
                let mut client = open(&tidegate, compressed).await;
                let frames = frames(random, compressed, false);
                let wire: Vec<u8> = frames
                    .iter()
                    .flat_map(|(frame, mask)| frame.encode(Some(*mask)))
                    .collect();
                let send = send_in_pieces(&mut client, random, &wire);
                let what = format!("stream {seed} with {plugins}");
                tokio::join!(send, recorded.expect(&wire, &what));
            }
        }
    }
}

#[tokio::test]
async fn control_frames_overtake_fragments_and_nothing_else_changes() {
    for compressed in [false, true] {
        let (service, mut recorded) = recording_with(compressed.then_some(ANSWER)).await;
        let plugins = "plugins = [\"whole\"]";
        let tidegate = Tidegate::serving(&route(&service, plugins)).await;
        for seed in 1..6 {
            let random = &mut Random(u64::wrapping_mul(seed, 0xd134_2543_de82_ef95));
            recorded.next_session();
            let mut client = open(&tidegate, compressed).await;
            let sent = frames(random, compressed, true);
            let wire: Vec<u8> = sent
                .iter()
                .flat_map(|(frame, mask)| frame.encode(Some(*mask)))
                .collect();
            let receive = async {
                let mut received = Vec::new();
                for _ in 0..sent.len() {
                    received.push(recorded.frame().await);
                }
                received
            };
            let send = send_in_pieces(&mut client, random, &wire);
            let ((), received) = tokio::join!(send, receive);
            let sent = sent.into_iter().map(|(frame, _)| frame);
            assert!(apart(received) == apart(sent), "stream {seed}");
        }
    }
}

#[tokio::test]
async fn what_plugins_see_in_pieces_is_the_same_messages_however_it_is_read() {
    for compressed in [false, true] {
        let (service, mut recorded) = recording_with(compressed.then_some(ANSWER)).await;
        for plugins in [
            "plugins = [\"pieces\"]",
            "plugins = [\"short\", \"pieces\"]\nwebsocket = { oversize = \"pass\", max_message = \"1KiB\" }",
        ] {
            let tidegate = Tidegate::serving(&route(&service, plugins)).await;
            for seed in 1..6 {
                let random = &mut Random(u64::wrapping_mul(seed, 0xa076_1d64_78bd_642f));
                recorded.next_session();
                let mut client = open(&tidegate, compressed).await;
                let frames = frames(random, compressed, true);
                let mut wire: Vec<u8> = frames
                    .iter()
                    .flat_map(|(frame, mask)| frame.encode(Some(*mask)))
                    .collect();
                wire.extend(close(1000, "").encode(Some([0; 4])));
                let send = send_in_pieces(&mut client, random, &wire);
                let ((), received) = tokio::join!(send, until_close(&mut recorded));
                let sent = frames.into_iter().map(|(frame, _)| frame);
                let what = format!("stream {seed} with {plugins}");
                assert!(messages(received) == messages(sent), "{what}");
            }
        }
    }
}

async fn until_close(recorded: &mut Recorded) -> Vec<Frame> {
    let mut received = Vec::new();
    loop {
        let frame = recorded.frame().await;
        if frame.opcode == 8 {
            return received;
        }
        received.push(frame);
    }
}

/// Messages put together, and control frames.
fn messages(frames: impl IntoIterator<Item = Frame>) -> (Vec<Frame>, Vec<Frame>) {
    let (data, control) = apart(frames);
    let mut whole: Vec<Frame> = Vec::new();
    for frame in data {
        match whole.last_mut() {
            Some(begun) if !begun.fin => {
                assert_eq!((frame.opcode, frame.rsv), (0, 0));
                begun.payload.extend(frame.payload);
                begun.fin = frame.fin;
            }
            _ => whole.push(frame),
        }
    }
    (whole, control)
}

async fn open(tidegate: &Tidegate, compressed: bool) -> Connection {
    if compressed {
        open_compressed(tidegate).await
    } else {
        tidegate.websocket("/").await
    }
}
