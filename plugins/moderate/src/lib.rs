//! Asks a service about each text message before it goes on: an example of a plugin that waits.
//!
//! ```toml
//! [plugins.moderate]
//! module = "moderate.wasm"
//! call = ["moderation"]
//! [plugins.moderate.config]
//! upstream = "moderation"
//! target = "/messages"
//! from = "client"
//! timeout_ms = 1000
//! ```
//!
//! The service gets each message as a `POST` with its text as the body, and `X-Origin: client` or `service`.
//! It answers with 204 (the message goes on), 200 (the body goes on instead) or 403 (the message is
//! dropped). Anything else, and no answer within `timeout_ms` (1000 unless written otherwise), closes the
//! session with 1013. `from` says whose messages are asked about: `client` (default), `service` or `both`.
//!
//! Build it with `cargo build --profile plugin --target wasm32-unknown-unknown -p moderate`.

use std::error::Error;
use std::time::Duration;

use serde::Deserialize;
use tidegate_plugin::call::{self, Request};
use tidegate_plugin::{
    AsyncMessages, Handshake, Kinds, Message, MessageVerdict, Outgoing, Plugin, Side, Subscription,
    log,
};

struct Moderate {
    config: Config,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    upstream: String,
    target: String,
    #[serde(default)]
    from: From,
    #[serde(default = "a_second")]
    timeout_ms: u64,
}

#[derive(Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum From {
    #[default]
    Client,
    Service,
    Both,
}

fn a_second() -> u64 {
    1000
}

impl Plugin for Moderate {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        if !call::is_granted(&config.upstream) {
            let upstream = &config.upstream;
            return Err(format!("upstream: expected one that `call` of the plugin names, such as call = [{upstream:?}]; found {upstream:?}").into());
        }
        Ok(Self { config })
    }
}

impl AsyncMessages for Moderate {
    type Session = ();

    fn open(&self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        let subscription = match self.config.from {
            From::Client => Subscription::only(Side::Client, Kinds::TEXT),
            From::Service => Subscription::only(Side::Service, Kinds::TEXT),
            From::Both => Subscription::both(Kinds::TEXT),
        };
        Some(((), subscription))
    }

    async fn on_message(&self, (): &(), message: Message, _: &mut Outgoing) -> MessageVerdict {
        let origin = match message.origin {
            Side::Client => "client",
            Side::Service => "service",
        };
        let request = Request::post(&self.config.upstream, &self.config.target, message.payload)
            .field("content-type", "text/plain; charset=utf-8")
            .field("x-origin", origin)
            .timeout(Duration::from_millis(self.config.timeout_ms));
        match request.send().await {
            Ok(answer) if answer.status == 204 => MessageVerdict::Pass,
            Ok(answer) if answer.status == 403 => MessageVerdict::Drop,
            Ok(answer) if answer.status == 200 && str::from_utf8(&answer.body).is_ok() => {
                MessageVerdict::Replace(answer.body)
            }
            Ok(answer) => {
                log::error!("the service answered with {}", answer.status);
                unavailable()
            }
            Err(error) => {
                log::error!("{}: {error}", self.config.upstream);
                unavailable()
            }
        }
    }
}

fn unavailable() -> MessageVerdict {
    MessageVerdict::Close {
        code: 1013,
        reason: "not moderated".to_owned(),
    }
}

tidegate_plugin::export!(Moderate: async Messages);

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::call::{Error as CallError, Response};
    use tidegate_plugin::testing::{configure, run};

    #[test]
    fn the_answer_of_the_service_is_the_verdict() {
        let config = r#"{"upstream": "moderation", "target": "/"}"#;
        let plugin: Moderate = configure(config).unwrap();
        let judge = |answer: Result<Response, CallError>| {
            let mut out = Outgoing::default();
            let message = Message::from_text(Side::Client, "hello");
            run(plugin.on_message(&(), message, &mut out), |request| {
                assert_eq!(request.body, b"hello");
                answer.clone()
            })
        };
        let replaced = Response {
            body: b"***".to_vec(),
            ..Response::new(200)
        };
        let not_text = Response {
            body: vec![0xff],
            ..Response::new(200)
        };
        assert_eq!(judge(Ok(Response::new(204))), MessageVerdict::Pass);
        assert_eq!(judge(Ok(Response::new(403))), MessageVerdict::Drop);
        let expected = MessageVerdict::Replace(b"***".to_vec());
        assert_eq!(judge(Ok(replaced)), expected);
        for answer in [
            Ok(not_text),
            Ok(Response::new(500)),
            Err(CallError::Timeout),
        ] {
            assert_eq!(judge(answer), unavailable());
        }
    }
}
