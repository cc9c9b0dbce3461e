//! What HTTP and RFC 6455 say about bytes: bytes in, values out.
//!
//! Nothing here has a socket, a clock or a log; whoever reads and writes decides when.

pub(crate) mod close;
pub(crate) mod frame;
pub(crate) mod headers;
pub(crate) mod message;
pub(crate) mod upgrade;
