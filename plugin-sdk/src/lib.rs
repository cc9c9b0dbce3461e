//! What the author of a Tidegate plugin uses.
//!
//! A plugin is a type that implements [`Plugin`] and those of [`OnRequest`], [`OnResponse`],
//! [`Balancer`], [`Messages`], [`Fragments`] and [`Handover`] that it needs; [`export!`] names them, and the host never calls for
//! what is not named. This one masks a word in every text message:
//!
//! ```
//! use std::error::Error;
//! use tidegate_plugin::{
//!     Handshake, Kinds, Message, MessageVerdict, Messages, Outgoing, Plugin, Subscription,
//! };
//!
//! struct Mask {
//!     word: String,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     word: String,
//! }
//!
//! impl Plugin for Mask {
//!     type Config = Config;
//!
//!     fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
//!         if config.word.is_empty() {
//!             return Err("word: expected at least one character".into());
//!         }
//!         Ok(Self { word: config.word })
//!     }
//! }
//!
//! impl Messages for Mask {
//!     type Session = ();
//!
//!     fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
//!         Some(((), Subscription::both(Kinds::TEXT)))
//!     }
//!
//!     fn on_message(&mut self, _: &mut (), message: Message, _: &mut Outgoing) -> MessageVerdict {
//!         match message.text() {
//!             Some(text) if text.contains(&self.word) => {
//!                 MessageVerdict::Replace(text.replace(&self.word, "***").into())
//!             }
//!             _ => MessageVerdict::Pass,
//!         }
//!     }
//! }
//!
//! tidegate_plugin::export!(Mask: Messages);
//! #
//! # let mut plugin = tidegate_plugin::testing::configure::<Mask>(r#"{"word": "secret"}"#).unwrap();
//! # let message = Message::from_text(tidegate_plugin::Side::Client, "a secret");
//! # let verdict = plugin.on_message(&mut (), message, &mut Outgoing::default());
//! # assert_eq!(verdict, MessageVerdict::Replace(b"a ***".into()));
//! ```
//!
//! `Cargo.toml` says `crate-type = ["cdylib"]`, and
//! `cargo build --release --target wasm32-unknown-unknown` makes the `.wasm` that the proxy loads.
//! `plugins/pass-through` is a whole crate to copy.
//!
//! # Rules
//!
//! - One value of the plugin's type serves all exchanges and sessions of a worker thread, one call at
//!   a time. Another worker has another value; they share nothing.
//! - A panic ends the instance: the value and all its sessions are gone, a fresh one is configured in
//!   its place, and the sessions are opened in it again ([`Handshake::reopened`]). The panic's message
//!   is logged.
//! - A call must be short. CPU time, memory and output are bounded by the operator's `limits`.
//!
//! # Waiting
//!
//! A plugin that has to ask somebody else implements the `async` form of a trait ([`AsyncOnRequest`],
//! [`AsyncOnResponse`], [`AsyncMessages`]) and awaits [call-outs](call) and [`sleep`]: while it waits,
//! nobody does but the exchange, or the direction of the session, that it judges.
//!
//! ```
//! use std::error::Error;
//! use tidegate_plugin::{Answer, AsyncOnRequest, NoConfig, Plugin, RequestHead, Verdict, call};
//!
//! struct Auth;
//!
//! impl Plugin for Auth {
//!     type Config = NoConfig;
//!
//!     fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl AsyncOnRequest for Auth {
//!     async fn on_request(&self, head: &mut RequestHead<'_>) -> Verdict {
//!         let cookie = head.get("cookie").unwrap_or_default();
//!         let request = call::Request::get("accounts", "/check").field("cookie", cookie);
//!         match request.send().await {
//!             Ok(answer) if answer.is_success() => Verdict::Continue,
//!             Ok(_) => Verdict::Respond(Answer::new(403)),
//!             Err(_) => Verdict::Respond(Answer::new(503)),
//!         }
//!     }
//! }
//!
//! tidegate_plugin::export!(Auth: async OnRequest);
//! #
//! # let mut head = tidegate_plugin::testing::Request::default().head();
//! # let verdict = tidegate_plugin::testing::run(Auth.on_request(&mut head), |request| {
//! #     assert_eq!(request.upstream, "accounts");
//! #     Ok(call::Response::new(401))
//! # });
//! # assert_eq!(verdict, Verdict::Respond(Answer::new(403)));
//! ```
//!
//! # Tests
//!
//! Natively [`export!`] only checks types, so a plugin's unit tests call its methods as they are;
//! [`testing`] makes the heads and handshakes to call them with.

mod asynchronous;
mod balancer;
#[doc(hidden)]
pub mod bindings;
pub mod call;
#[doc(hidden)]
pub mod export;
mod fragments;
mod handover;
mod http;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
mod memory;
mod messages;
mod plugin;
#[cfg(target_arch = "wasm32")]
mod tasks;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod waiting;

pub use asynchronous::{AsyncMessages, AsyncOnRequest, AsyncOnResponse};
pub use balancer::{Balancer, Candidate, Endpoint};
pub use fragments::{DataKinds, Fragment, FragmentSubscription, Fragments, Purpose};
pub use handover::Handover;
pub use http::{
    Answer, HeadError, OnRequest, OnResponse, RequestHead, ResponseHead, SentRequest, Verdict,
    check_field,
};
pub use messages::{
    Ending, Handshake, Kind, Kinds, Message, MessageVerdict, Messages, Outgoing, Reopening, Side,
    Subscription,
};
pub use plugin::{NoConfig, Plugin};
pub use waiting::sleep;
