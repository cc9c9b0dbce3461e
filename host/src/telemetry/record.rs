//! What is recorded of one exchange or session, beside its head, for its line in the access log.
//!
//! The session fills it in; `line.rs` writes it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;

/// What is known of one exchange or session.
///
/// An idle tunnel holds one, so it is small.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) started: Instant,
    pub(crate) remote: SocketAddr,
    pub(crate) kind: Kind,
    /// Pattern of the route.
    pub(crate) route: Option<Box<str>>,
    /// Of the response; `None` if there was none.
    pub(crate) status: Option<StatusCode>,
    /// The one that answered, or was tried last.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Endpoints tried.
    pub(crate) attempts: u32,
    /// Of the body, and of the tunnel.
    pub(crate) bytes_from_client: u64,
    /// Of the body, and of the tunnel.
    pub(crate) bytes_to_client: u64,
    pub(crate) messages_from_client: u64,
    pub(crate) messages_from_service: u64,
    pub(crate) messages_dropped: u64,
    pub(crate) messages_replaced: u64,
    /// Sent by plugins.
    pub(crate) messages_sent: u64,
    /// Of the first Close frame.
    pub(crate) close_code: Option<u16>,
    /// Who ended the session.
    pub(crate) closed_by: Option<ClosedBy>,
    pub(crate) plugin_time: Duration,
    pub(crate) failure: Option<Box<str>>,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exchange,
    /// A blind tunnel of a protocol other than WebSocket.
    Tunnel,
    WebSocket,
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    Client,
    Service,
    Plugin,
    /// A limit, a timeout or a drain.
    Proxy,
}

impl Record {
    /// Begins the record of a request.
    pub(crate) fn new(remote: SocketAddr) -> Self {
        Self {
            started: Instant::now(),
            remote,
            kind: Kind::Exchange,
            route: None,
            status: None,
            endpoint: None,
            attempts: 0,
            bytes_from_client: 0,
            bytes_to_client: 0,
            messages_from_client: 0,
            messages_from_service: 0,
            messages_dropped: 0,
            messages_replaced: 0,
            messages_sent: 0,
            close_code: None,
            closed_by: None,
            plugin_time: Duration::ZERO,
            failure: None,
        }
    }
}

impl Kind {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
            Self::WebSocket => "websocket",
        }
    }
}

impl ClosedBy {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Service => "service",
            Self::Plugin => "plugin",
            Self::Proxy => "proxy",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn remote() -> SocketAddr {
        "192.0.2.7:50123".parse().unwrap()
    }

    pub(in super::super) fn tunnel() -> Record {
        let mut record = Record::new(remote());
        record.kind = Kind::WebSocket;
        record.route = Some("= /chat".into());
        record.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        record.endpoint = Some("[::1]:9001".parse().unwrap());
        record.attempts = 1;
        record.bytes_from_client = 10;
        record.bytes_to_client = 2345;
        record.messages_from_client = 3;
        record.messages_replaced = 1;
        record.close_code = Some(1000);
        record.closed_by = Some(ClosedBy::Client);
        record.plugin_time = Duration::from_micros(7);
        record
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 256, "{} bytes", size_of::<Record>());
    }
}
