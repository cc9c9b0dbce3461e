//! Does what each text message says, so that a test writes a plugin by sending messages.
//!
//! ```toml
//! config = { name = "a", obey = "both", hello = "welcome" }
//! ```
//!
//! | message | what happens |
//! |---|---|
//! | `drop` | it is dropped |
//! | `replace:TEXT` | TEXT goes on instead |
//! | `close:CODE:REASON` | the session ends |
//! | `send-client:TEXT`, `send-service:TEXT` | TEXT is sent there; the message is dropped |
//! | `echo-back` | the message is sent back to where it came from and dropped |
//! | `count` | the sender is told how many messages of the session were seen, this one included; dropped |
//! | `past` | the sender is told the versions by `name` that the session came to by swaps; dropped |
//! | `who` | the sender is told the `name`; dropped |
//! | `total` | as `count`, of all sessions of the instance |
//! | `busy` | `busy` is logged, then nothing else happens on the worker for a while; dropped |
//! | `trap` | the instance ends |
//! | `facts` | the sender is told about the handshake, one `name=value` a line; dropped |
//! | anything else | passes |
//!
//! `obey` is the end whose messages are obeyed: `client` (default), `service`, `both`, or `nobody`, and
//! then no session is watched. A message to several of these plugins names the one it is for: `b/drop` is
//! obeyed by the one with `name = "b"` only. `hello` is sent to the client when a session opens. With
//! `refuse = "error"`, or `"panic"`, no session is taken over from another version. With `largest`, longer
//! messages than that are not asked for. With `refuse-from = "b"`, only none that was on `b` last.
//!
//! What a build does beside that is written in [`BUILD`], which `harness::variant` fills in, so that one
//! configuration has several builds: words such as `name=b,trap=100`, separated by commas.
//!
//! | word | what happens |
//! |---|---|
//! | `name=NAME` | in place of the configuration's |
//! | `trap=N` | each Nth message of the instance traps |
//! | `work=N` | each message and request takes N thousand steps of work |
//! | `deny=TARGET` | requests for it are answered with 403 |
//! | `shout` | messages that would pass go on in capitals |
//!
//! Requests for `/deny` are answered with 403, the field `x-denied-by: NAME` and the body
//! `denied by NAME`. Otherwise a request gets, and a response gets, one more field `x-script: NAME`. The end
//! of a session is logged as `closed with CODE by client`, `service` or `nobody`.

use std::error::Error;

use serde::{Deserialize, Serialize};
use tidegate_plugin::{
    Answer, Ending, Handover, Handshake, Kinds, Message, MessageVerdict, Messages, OnRequest,
    OnResponse, Outgoing, Plugin, Reopening, RequestHead, ResponseHead, SentRequest, Side,
    Subscription, Verdict, log,
};

struct Script {
    config: Config,
    seen: u64,
    trap: Option<u64>,
    work: u64,
    deny: String,
    shout: bool,
}

/// What keeps a worker busy for some tenths of a second.
const BUSY: u64 = 300_000_000;

/// What this build does.
static BUILD: &str = "build:                                                          ";

/// The words of [`BUILD`], each with what follows its `=`.
fn build() -> impl Iterator<Item = (&'static str, &'static str)> {
    // The compiler must not know what is in there.
    let words = std::hint::black_box(BUILD)["build:".len()..].trim_end();
    let words = words.split(',').filter(|word| !word.is_empty());
    words.map(|word| word.split_once('=').unwrap_or((word, "")))
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    #[serde(default)]
    obey: Obey,
    hello: Option<String>,
    refuse: Option<Refuse>,
    #[serde(rename = "refuse-from")]
    refuse_from: Option<String>,
    largest: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Refuse {
    Error,
    Panic,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Obey {
    #[default]
    Client,
    Service,
    Both,
    Nobody,
}

#[derive(Serialize, Deserialize)]
struct Session {
    seen: u64,
    facts: String,
    /// Names of the versions that it has been on before this one.
    #[serde(default)]
    past: Vec<String>,
}

impl Plugin for Script {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        let mut script = Self {
            config,
            seen: 0,
            trap: None,
            work: 0,
            deny: "/deny".to_owned(),
            shout: false,
        };
        for (word, argument) in build() {
            match word {
                "name" => script.config.name = argument.to_owned(),
                "trap" => script.trap = Some(argument.parse()?),
                "work" => script.work = argument.parse()?,
                "deny" => script.deny = argument.to_owned(),
                "shout" => script.shout = true,
                _ => return Err(format!("no behaviour `{word}`").into()),
            }
        }
        Ok(script)
    }
}

impl OnRequest for Script {
    fn on_request(&mut self, head: &mut RequestHead) -> Verdict {
        self.work();
        let name = &self.config.name;
        if head.target() == self.deny {
            let answer = Answer::new(403).field("x-denied-by", name.as_str());
            return Verdict::Respond(answer.body(format!("denied by {name}")));
        }
        head.add("x-script", name).expect("a field that may be set");
        Verdict::Continue
    }
}

impl OnResponse for Script {
    fn on_response(&mut self, _: &SentRequest, head: &mut ResponseHead) -> Verdict {
        head.add("x-script", &self.config.name)
            .expect("a field that may be set");
        Verdict::Continue
    }
}

impl Script {
    fn work(&self) {
        for n in 0..self.work * 1000 {
            std::hint::black_box(n);
        }
    }

    fn subscription(&self) -> Option<Subscription> {
        let subscription = match self.config.obey {
            Obey::Client => Subscription::only(Side::Client, Kinds::TEXT),
            Obey::Service => Subscription::only(Side::Service, Kinds::TEXT),
            Obey::Both => Subscription::both(Kinds::TEXT),
            Obey::Nobody => return None,
        };
        Some(Subscription {
            largest: self.config.largest,
            ..subscription
        })
    }
}

impl Messages for Script {
    type Session = Session;

    fn open(
        &mut self,
        handshake: &Handshake,
        out: &mut Outgoing,
    ) -> Option<(Session, Subscription)> {
        if let Some(hello) = &self.config.hello {
            out.send_text(Side::Client, hello);
        }
        Some((
            Session {
                seen: 0,
                facts: facts(handshake),
                past: Vec::new(),
            },
            self.subscription()?,
        ))
    }

    fn on_message(
        &mut self,
        session: &mut Session,
        message: Message,
        out: &mut Outgoing,
    ) -> MessageVerdict {
        session.seen += 1;
        self.seen += 1;
        if self.trap.is_some_and(|each| self.seen.is_multiple_of(each)) {
            panic!("trapped, as built");
        }
        self.work();
        let Some(text) = message.text() else {
            return MessageVerdict::Pass;
        };
        let text = match text.split_once('/') {
            Some((name, order)) if name == self.config.name => order,
            _ => text,
        };
        let (order, argument) = text.split_once(':').unwrap_or((text, ""));
        match order {
            "drop" => {}
            "replace" => return MessageVerdict::Replace(argument.into()),
            "close" => {
                let (code, reason) = argument.split_once(':').unwrap_or((argument, ""));
                let Ok(code) = code.parse() else {
                    return MessageVerdict::Pass;
                };
                return MessageVerdict::Close {
                    code,
                    reason: reason.to_owned(),
                };
            }
            "send-client" => out.send_text(Side::Client, argument),
            "send-service" => out.send_text(Side::Service, argument),
            "echo-back" => out.send_text(message.origin, text),
            "count" => out.send_text(message.origin, &session.seen.to_string()),
            "past" => out.send_text(message.origin, &session.past.join(",")),
            "who" => out.send_text(message.origin, &self.config.name),
            "total" => out.send_text(message.origin, &self.seen.to_string()),
            "trap" => panic!("told to trap"),
            "busy" => {
                log::info!("busy");
                for n in 0..BUSY {
                    std::hint::black_box(n);
                }
            }
            "facts" => out.send_text(message.origin, &session.facts),
            _ if self.shout => return MessageVerdict::Replace(text.to_uppercase().into()),
            _ => return MessageVerdict::Pass,
        }
        MessageVerdict::Drop
    }

    fn on_close(&mut self, _: Session, ending: Ending) {
        let by = match ending.by {
            Some(Side::Client) => "client",
            Some(Side::Service) => "service",
            None => "nobody",
        };
        log::info!("closed with {} by {by}", ending.code);
    }
}

impl Handover for Script {
    fn adopt(&mut self, mut session: Session) -> Result<Session, Box<dyn Error>> {
        match self.config.refuse {
            None => {}
            Some(Refuse::Error) => return Err("refused, as configured".into()),
            Some(Refuse::Panic) => panic!("refused, as configured"),
        }
        let last = session.past.last();
        if last.is_some() && last == self.config.refuse_from.as_ref() {
            return Err("refused, for where it comes from".into());
        }
        session.past.push(self.config.name.clone());
        Ok(session)
    }

    fn resume(
        &mut self,
        session: &mut Session,
        handshake: &Handshake,
        _: &mut Outgoing,
    ) -> Option<Subscription> {
        session.facts = facts(handshake);
        self.subscription()
    }
}

tidegate_plugin::export!(Script: OnRequest, OnResponse, Messages, Handover);

fn reopening(handshake: &Handshake) -> String {
    match handshake.reopening() {
        None => "no",
        Some(Reopening::Swap) => "swap",
        Some(Reopening::Failure) => "failure",
    }
    .to_owned()
}

fn facts(handshake: &Handshake) -> String {
    let text =
        |value: Option<Vec<u8>>| String::from_utf8(value.unwrap_or_default()).unwrap_or_default();
    [
        ("scheme", handshake.scheme()),
        ("host", handshake.host()),
        ("target", handshake.target()),
        ("remote-address", handshake.remote_address()),
        ("endpoint", handshake.endpoint()),
        ("subprotocol", handshake.subprotocol().unwrap_or_default()),
        ("reopened", handshake.reopened().to_string()),
        ("reopening", reopening(handshake)),
        ("request-x-fact", text(handshake.request_field("x-fact"))),
        ("response-x-fact", text(handshake.response_field("x-fact"))),
    ]
    .map(|(name, value)| format!("{name}={value}"))
    .join("\n")
}
