//! What happens to a request between the two sides.
//!
//! `session.rs` is the path; the other files are its steps. Sockets are accepted in `downstream/`,
//! endpoints and their connections live in `upstream/`.

mod affinity;
mod answer;
mod attempts;
mod body;
mod call_out;
mod client;
mod closing;
mod compression;
mod ending;
mod exchange;
mod expires;
mod failure;
mod files;
mod filter;
mod framing;
mod handshake;
mod head;
mod home;
mod http2;
mod liveness;
mod log_line;
mod mask;
mod notes;
mod outlet;
mod preview;
mod registry;
mod relay;
mod response;
mod session;
mod sweep;
mod tunnel;
mod variables;
mod worker;

pub(crate) use body::ResponseBody;
pub(crate) use client::{Client, Handover, Http, Phase, TlsFacts};
pub(crate) use closing::linger;
pub(crate) use failure::Failure;
pub(crate) use head::host;
pub(crate) use home::Home;
pub(crate) use http2::{accept_connect, is_extended_connect};
pub(crate) use preview::{Entry, Next, Preview, Tries};
pub(crate) use registry::{Goodbye, Network, Sight, Which};
pub(crate) use session::{refused, run};
pub(crate) use sweep::Signal;
pub(crate) use worker::{ConnectionPermit, Worker};
