//! A ready component: built for `wasm32-wasip2`, it has the whole standard library, with a WASI behind
//! it that the host leaves empty.
//!
//! `cargo build --profile plugin --target wasm32-wasip2 -p guest-wasip2`
//!
//! Each text message `wasi:WHAT` from the client is answered with what came of it, and dropped:
//!
//! | WHAT | answer where WASI is empty |
//! |---|---|
//! | `map` | `2`: a `HashMap`, which needs randomness, was filled and read |
//! | `env` | `0`: variables of the environment |
//! | `args` | `0`: arguments |
//! | `clock` | `true`: both clocks are there |
//! | `print` | `printed`, and nothing is printed |
//! | `file` | `error` and the kind of the error: there is no file to open |
//! | `write` | `error` and its kind |
//! | `socket` | `error` and its kind |
//! | `sleep` | `slept`, if the host lets it sleep for 10 s |
//!
//! Any other message passes.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

use tidegate_plugin::{
    Handshake, Kinds, Message, MessageVerdict, Messages, NoConfig, Outgoing, Plugin, Side,
    Subscription,
};

struct Wasi;

impl Plugin for Wasi {
    type Config = NoConfig;

    fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> {
        Ok(Self)
    }
}

impl Messages for Wasi {
    type Session = ();

    fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        Some(((), Subscription::only(Side::Client, Kinds::TEXT)))
    }

    fn on_message(&mut self, (): &mut (), message: Message, out: &mut Outgoing) -> MessageVerdict {
        match message
            .text()
            .and_then(|text| text.strip_prefix("wasi:"))
            .and_then(attempt)
        {
            Some(came_of_it) => {
                out.send_text(message.origin, &came_of_it);
                MessageVerdict::Drop
            }
            None => MessageVerdict::Pass,
        }
    }
}

tidegate_plugin::export!(Wasi: Messages);

fn attempt(what: &str) -> Option<String> {
    let outcome = |result: io::Result<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("error {:?}", error.kind()),
    };
    Some(match what {
        "map" => HashMap::from([("a", 1), ("b", 2)])["b"].to_string(),
        "env" => env::vars_os().count().to_string(),
        "args" => env::args_os().count().to_string(),
        "clock" => {
            let began = Instant::now();
            (SystemTime::now() > SystemTime::UNIX_EPOCH && Instant::now() >= began).to_string()
        }
        "print" => {
            // Unlike `println!`, these do not panic where there is nothing to print to.
            let mut streams =
                [io::stdout().write(b"out\n"), io::stderr().write(b"err\n")].into_iter();
            if streams.all(|written| written.is_ok()) {
                "printed".to_owned()
            } else {
                "refused".to_owned()
            }
        }
        "file" => outcome(File::open("/etc/hostname").map(drop)),
        "write" => outcome(fs::write("/tmp/written", b"x")),
        "socket" => outcome(TcpStream::connect("127.0.0.1:1").map(drop)),
        "sleep" => {
            thread::sleep(Duration::from_secs(10));
            "slept".to_owned()
        }
        _ => return None,
    })
}
