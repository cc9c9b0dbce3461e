//! The client's side: accepting, TLS, and HTTP connections.
//!
//! What is done with a request is `proxy/`'s business.

mod http;
mod listener;
mod tls;

pub(crate) use listener::Listener;
