//! What HTTP, RFC 6455 and RFC 7692 say about bytes: bytes in, values out.
//!
//! Nothing here has a socket, a clock or a log; whoever reads and writes decides when.

pub(crate) mod accept;
pub(crate) mod answers;
pub(crate) mod close;
pub(crate) mod deflate;
pub(crate) mod extensions;
pub(crate) mod frame;
pub(crate) mod headers;
pub(crate) mod message;
pub(crate) mod upgrade;
pub(crate) mod utf8;
