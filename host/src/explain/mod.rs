//! Which way a request would take, and why: `tidegate explain`.
//!
//! The generation is built as `run` builds it, and the request goes through the steps of a session up
//! to the one that would ask a plugin or a service (`proxy/preview.rs`). Nothing is bound or sent.

mod candidates;
mod print;
mod question;
mod settings;
mod way;

pub(crate) use question::Question;

use serde::Serialize;

/// What there is to tell. Its fields are the keys of `--json`, which is part of the command's interface.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) request: Request,
    pub(super) listener: Choice,
    pub(super) site: Choice,
    /// None: no route is for the path.
    pub(super) route: Option<Choice>,
    /// Why the request would be refused before anything else happens.
    pub(super) refused: Option<Refusal>,
    /// Those that templates of the route name, with their values.
    pub(super) variables: Vec<Value>,
    /// In the order in which they are asked. None of them is asked now.
    pub(super) plugins: Phases,
    /// The request as it is, and as the opening handshake of a WebSocket.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) upstream: Option<Candidates>,
    /// Limits and timeouts in force, by their keys.
    pub(super) settings: Vec<Value>,
}

/// The request in a few words.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) url: String,
    /// Lower case, without port; what sites are looked for by.
    pub(super) host: String,
    /// Decoded and normalised; what routes are looked for by.
    pub(super) path: String,
    pub(super) from: String,
}

/// What was chosen, and what was not.
#[derive(Debug, Serialize)]
pub(super) struct Choice {
    /// Path of the key in the configuration, such as `sites[0]`.
    pub(super) key: String,
    pub(super) name: String,
    pub(super) why: String,
    pub(super) others: Vec<Other>,
}

/// What was not chosen.
#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) key: String,
    pub(super) name: String,
    pub(super) why: String,
}

/// A request that gets an answer for what it is.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) why: String,
}

/// A name and its value.
#[derive(Debug, Serialize)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) value: String,
    /// How it came about, where the name does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// Plugins by what they are asked about.
#[derive(Debug, Default, Serialize)]
pub(super) struct Phases {
    pub(super) request: Vec<String>,
    pub(super) endpoint: Vec<String>,
    pub(super) response: Vec<String>,
    pub(super) messages_from_client: Vec<String>,
    pub(super) messages_from_service: Vec<String>,
}

/// What becomes of one kind of request.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// `request` or `handshake`.
    pub(super) kind: &'static str,
    #[serde(flatten)]
    pub(super) what: What,
}

/// See [`Outcome`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// To a service, in this form.
    Sent(Head),
    /// By the proxy itself.
    Answered(Head),
    Refused(Refusal),
}

/// A head: its first line and its fields.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub(super) line: String,
    pub(super) fields: Vec<(String, String)>,
    /// What the first line does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// The endpoints a request may go to.
#[derive(Debug, Serialize)]
pub(super) struct Candidates {
    pub(super) name: String,
    pub(super) balance: String,
    pub(super) endpoints: Vec<Endpoint>,
    /// Addresses this request would try, each after the one before it failed, if all are up and it is
    /// the first one of a worker. Empty if that is left to chance.
    pub(super) tries: Vec<String>,
    /// Addresses of requests like this one that come after each other and stay open.
    pub(super) next: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    pub(super) address: String,
    pub(super) weight: u32,
    pub(super) backup: bool,
    /// Of this many picks in a row, how many would be its own.
    pub(super) share: String,
}
