//! The client's side: accepting, TLS, and HTTP connections.
//!
//! What is done with a request is `proxy/`'s business.

mod close;
mod http1;
mod http2;
mod listener;
mod tls;

pub(crate) use listener::Listener;
