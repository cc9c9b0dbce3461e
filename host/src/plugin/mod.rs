//! The plugin seam: what the data path says to plugins, and what they answer.
//!
//! Nothing outside this folder knows how a plugin is run. What a plugin may do and expect is written
//! in `wit/`; what becomes of an answer on the wire is left to `proxy/`.

mod bindings;
mod breaker;
mod engine;
mod exchange;
mod handover;
mod host;
mod instance;
mod interest;
mod isolation;
mod judgement;
mod messages;
mod module;
mod onlooker;
mod parked;
mod resumption;
mod rollout;
mod sessions;
mod shadow;
mod slots;
mod snapshots;
mod tally;
#[cfg(test)]
mod tests;
mod trial;
mod wait;
mod wasi;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::{FailureKind, Phase};

pub(crate) use bindings::exports::tidegate::plugin::balancer::Candidate;
pub(crate) use bindings::tidegate::plugin::tickets::CallError;
pub(crate) use engine::{Engine, Version};
pub(crate) use exchange::{Chain, ChainRun, Takes};
pub(crate) use handover::Handover;
pub(crate) use host::{CallOut, CallResult, Caller};
pub(crate) use messages::MessageChain;
pub(crate) use module::read_module;
pub(crate) use onlooker::Difference;
pub(crate) use parked::Resumed;
pub(crate) use rollout::Plugin;
pub(crate) use slots::Instances;
pub(crate) use trial::{Ended, Look, Role, Share, Trial};

/// The contract with plugins, and its version: the package of `wit/`.
pub(crate) const CONTRACT: &str = "tidegate:plugin@0.1.0";

/// What plugins may ask about an exchange or session beside its heads.
#[derive(Debug)]
pub(crate) struct Facts {
    /// `http` or `https`, as the client reached the proxy.
    pub(crate) scheme: &'static str,
    /// Lower case, without port; empty if the client named none.
    pub(crate) host: Box<str>,
    /// Of the client.
    pub(crate) remote: IpAddr,
    /// Whether the request asks for an upgrade that the route allows.
    pub(crate) is_handshake: bool,
    /// What a head may grow to, in bytes of its target and fields.
    pub(crate) max_header_bytes: usize,
}

/// A request as it was sent to the service, for the plugins that see its response.
#[derive(Debug)]
pub(crate) struct SentRequest {
    pub(crate) facts: Arc<Facts>,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: Box<str>,
    pub(crate) headers: HeaderMap,
    /// The endpoint that answered; nothing if the answer was made here.
    pub(crate) endpoint: Option<SocketAddr>,
}

/// What a WebSocket session knows of its opening handshake, for as long as it lives. Its values
/// should be copies: a value cut out of a read buffer keeps all of that buffer.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) facts: Arc<Facts>,
    /// Path and query as they were sent to the service.
    pub(crate) target: Box<str>,
    /// Fields of the request as it was sent to the service.
    pub(crate) request: HeaderMap,
    /// Fields of the 101 as it was sent to the client.
    pub(crate) response: HeaderMap,
    pub(crate) endpoint: SocketAddr,
}

/// An upstream as its plugins are told of it, once per instance and `id`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamView<'a> {
    /// Never used again for another upstream, nor for this one with other endpoints.
    pub(crate) id: u32,
    pub(crate) name: &'a str,
    pub(crate) endpoints: &'a [EndpointView],
}

/// One endpoint of an [`UpstreamView`].
#[derive(Debug, Clone)]
pub(crate) struct EndpointView {
    pub(crate) address: SocketAddr,
    /// At least 1.
    pub(crate) weight: u32,
    pub(crate) backup: bool,
}

/// What a chain makes of a head.
#[must_use]
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The head, which plugins may have changed, goes on.
    Continue,
    /// This goes to the client instead. It has no `content-length` and no `date`.
    Respond(http::Response<Bytes>),
    /// A plugin waits for something; whoever asked resumes the run.
    Wait,
}

/// Why a session is opened that was running before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopening {
    /// Another version of the plugin knew it.
    Swap,
    /// The instance that knew it failed, or the plugin was left out for a while.
    Failure,
}

/// What a chain makes of a session when it opens.
#[must_use]
pub(crate) enum Opening {
    /// No plugin subscribed: after what was sent, nobody needs to see what passes.
    Unwatched(MessageChain),
    Watched(MessageChain),
    /// The session ends, after what was sent.
    Close {
        code: CloseCode,
        reason: String,
    },
}

/// What a chain makes of a message.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MessageVerdict {
    /// It goes on as it came.
    Pass,
    /// This goes on instead, with the kind the message had.
    Replace(Vec<u8>),
    Drop,
    /// The session ends, after what was sent.
    Close {
        code: CloseCode,
        reason: String,
    },
    /// A plugin waits for something before it judges the message; see [`MessageChain::poll_resumed`].
    Wait,
}

/// A message of a plugin's own, past the plugins on its way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) to: Side,
    pub(crate) kind: MessageKind,
    pub(crate) payload: Vec<u8>,
}

/// Why an exchange or session ends because of a plugin whose `on_failure` is `closed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{plugin}` failed in {}", function(*phase))]
pub(crate) struct Failure {
    pub(crate) plugin: Arc<str>,
    pub(crate) phase: Phase,
    #[source]
    pub(crate) cause: Cause,
}

/// What ended a call, and with it the instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    #[error("used more than {limit:?} of CPU time")]
    Timeout { limit: Duration },
    #[error("needed more than {limit} bytes of memory")]
    Memory { limit: usize },
    #[error("needed more than {limit} elements of tables")]
    Tables { limit: usize },
    #[error("needed more than {limit} bytes of stack")]
    Stack { limit: usize },
    #[error("held more than {limit} handles of the host")]
    Handles { limit: usize },
    #[error("produced more than {limit} {unit}")]
    Output { limit: usize, unit: &'static str },
    /// With the first lines of the backtrace.
    #[error("trapped: {0}")]
    Trap(String),
    /// What the plugin did that `wit/` says it must not.
    #[error("broke the contract: {0}")]
    Rule(String),
    /// An instance on a worker refused what one on the control thread took.
    #[error("refused its configuration: {0}")]
    Configure(String),
    /// No instance could be made lately, and none is tried before `retry_in` has passed.
    #[error("could not be started; tried again in {retry_in:?}")]
    Unavailable { retry_in: Duration },
    /// Its instance lives on.
    #[error("waited longer than {limit:?}")]
    Waited { limit: Duration },
    /// Another call ended the instance that it waited in.
    #[error("its instance ended while it waited")]
    Lost,
    /// It kept failing, and is not called before `retry_in` has passed.
    #[error("is ejected; tried again in {retry_in:?}")]
    Ejected { retry_in: Duration },
    /// Each session has an instance of its own, and there are as many as there may be.
    #[error("has {limit} instances, as many as it may")]
    Ceiling { limit: usize },
    /// A fault of the host, kept to the instance it happened in.
    #[error("the host panicked: {0}")]
    Panic(String),
}

impl Cause {
    /// Whether it befell a hook while it waited, and not in a call of its own.
    fn is_of_waiting(&self) -> bool {
        matches!(self, Self::Waited { .. } | Self::Lost)
    }

    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Timeout { .. } => FailureKind::Timeout,
            Self::Memory { .. } => FailureKind::Memory,
            Self::Tables { .. } => FailureKind::Tables,
            Self::Stack { .. } => FailureKind::Stack,
            Self::Handles { .. } => FailureKind::Handles,
            Self::Output {
                unit: "messages", ..
            } => FailureKind::OutputMessages,
            Self::Output { .. } => FailureKind::OutputBytes,
            Self::Trap(_) => FailureKind::Trap,
            Self::Rule(_) => FailureKind::Contract,
            Self::Configure(_) | Self::Unavailable { .. } => FailureKind::Start,
            Self::Ejected { .. } | Self::Ceiling { .. } => FailureKind::Refused,
            Self::Waited { .. } | Self::Lost => FailureKind::Waited,
            Self::Panic(_) => FailureKind::Host,
        }
    }

    /// Whether the call was not made at all, because the plugin is not there for now: it may be later,
    /// for the same exchange or session as well.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Ejected { .. } | Self::Ceiling { .. }
        )
    }
}

/// Why a plugin cannot be loaded. The caller knows its name and file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no WebAssembly engine on this machine")]
    Engine(#[source] Source),
    #[error("expected a WebAssembly component or core module, found neither")]
    NotWasm,
    #[error("the core module cannot be made a component")]
    Componentise(#[source] Source),
    #[error("not a valid component")]
    Compile(#[source] Source),
    #[error("imports `{name}`, which tidegate does not offer")]
    Import { name: String },
    #[error("imports something tidegate offers in another form")]
    ImportType(#[source] Source),
    #[error("exports `{name}`, which is no interface of a plugin; expected one of {}", engine::EXPORTS.join(", "))]
    Export { name: String },
    #[error("exports `{name}` in another form than tidegate calls")]
    ExportType {
        name: String,
        #[source]
        source: Source,
    },
    #[error("exports none of {}", engine::EXPORTS.join(", "))]
    NoExports,
    #[error("has a `config`, but exports no `lifecycle` that could take it")]
    TakesNoConfig,
    /// What the plugin said.
    #[error("refuses its `config`: {0}")]
    Configure(String),
    #[error("does not start")]
    Start(#[source] Cause),
}

/// An error of the engine underneath.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// The function of `wit/` that a phase calls.
fn function(phase: Phase) -> &'static str {
    match phase {
        Phase::Configure => "lifecycle.configure",
        Phase::Request => "request.on-request",
        Phase::Response => "response.on-response",
        Phase::Choose => "balancer.choose",
        Phase::Open => "open",
        Phase::Message => "messages.on-message",
        Phase::Fragment => "fragments.on-fragment",
        Phase::Close => "on-close",
        Phase::Snapshot => "handover.snapshot",
        Phase::Restore => "handover.restore",
        Phase::Release => "handover.release",
        Phase::Cancel => "resumption.cancelled",
    }
}
