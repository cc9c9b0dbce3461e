//! What is recorded of one exchange or session, for its line in the access log.
//!
//! The session fills it in; `line.rs` writes it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HOST, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, request};

/// What is known of one exchange or session.
///
/// An idle tunnel holds one, so it is small, and it owns its texts: the head they were read from can go.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) started: Instant,
    pub(super) remote: IpAddr,
    pub(super) remote_port: u16,
    pub(super) head: HeadTexts,
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
    /// Begins the record of a request that was read.
    pub(crate) fn new(remote: SocketAddr, head: &request::Parts) -> Self {
        Self {
            head: HeadTexts::of(head),
            ..Self::unread(remote)
        }
    }

    /// Begins the record of a request whose head could not be read.
    pub(crate) fn unread(remote: SocketAddr) -> Self {
        Self {
            started: Instant::now(),
            remote: remote.ip(),
            remote_port: remote.port(),
            head: HeadTexts::default(),
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
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
            Self::WebSocket => "websocket",
        }
    }
}

impl ClosedBy {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Service => "service",
            Self::Plugin => "plugin",
            Self::Proxy => "proxy",
        }
    }
}

/// What the log says of a request's head, in one allocation.
#[derive(Debug, Default)]
pub(super) struct HeadTexts {
    bytes: Box<[u8]>,
    /// Where each text ends in `bytes`; it begins where the one before it ends.
    ends: [u32; HEAD_TEXTS],
    /// Bit n is set if text n was there; it may be empty all the same.
    present: u8,
}

const HEAD_TEXTS: usize = 5;

#[derive(Clone, Copy)]
pub(super) enum HeadText {
    /// `GET /chat HTTP/1.1`
    RequestLine,
    Host,
    RemoteUser,
    Referer,
    UserAgent,
}

impl HeadTexts {
    fn of(head: &request::Parts) -> Self {
        let line = format!(
            "{} {} {}",
            head.method,
            head.uri,
            version_text(head.version)
        );
        let user = basic_user(&head.headers);
        let field = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
        // In the order of `HeadText`.
        let texts: [_; HEAD_TEXTS] = [
            Some(line.as_bytes()),
            field(HOST),
            user.as_deref(),
            field(REFERER),
            field(USER_AGENT),
        ];
        let bytes = texts.iter().flatten().copied().collect::<Vec<_>>().concat();
        let (mut ends, mut present, mut end) = ([0; HEAD_TEXTS], 0, 0);
        for (n, text) in texts.iter().enumerate() {
            end += text.map_or(0, <[u8]>::len);
            ends[n] = u32::try_from(end).unwrap_or(u32::MAX);
            present |= u8::from(text.is_some()) << n;
        }
        Self {
            bytes: bytes.into_boxed_slice(),
            ends,
            present,
        }
    }

    pub(super) fn get(&self, text: HeadText) -> Option<&[u8]> {
        let n = text as usize;
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        let range = start as usize..self.ends[n] as usize;
        (self.present & 1 << n != 0).then(|| self.bytes.get(range).unwrap_or_default())
    }
}

/// As nginx's `$server_protocol`.
fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// Returns the user name of basic authentication (RFC 7617 §2).
fn basic_user(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, credentials) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut user = BASE64.decode(credentials.trim_ascii()).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    user.truncate(colon);
    (!user.is_empty()).then_some(user)
}

#[cfg(test)]
pub(super) mod tests {
    use http::Request;

    use super::*;

    pub(in super::super) fn remote() -> SocketAddr {
        "192.0.2.7:50123".parse().unwrap()
    }

    pub(in super::super) fn request(fields: &[(&str, &[u8])]) -> request::Parts {
        let mut request = Request::get("/chat?room=a");
        for &(name, value) in fields {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    pub(in super::super) fn tunnel() -> Record {
        let mut record = Record::new(
            remote(),
            &request(&[
                ("host", b"example.com"),
                ("authorization", b"Basic YW5uOnB3"),
                ("referer", b"http://example.com/\"x\\y"),
                ("user-agent", b"caf\xe9\t1"),
            ]),
        );
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
    fn only_basic_authentication_names_a_user() {
        for (value, user) in [
            ("basic YW5uOnB3", Some("ann")),
            ("Basic Om5vYm9keQ==", None),
            ("Basic YW5u", None),
            ("Basic !", None),
            ("Basic", None),
            ("Bearer YW5uOnB3", None),
        ] {
            let head = request(&[("authorization", value.as_bytes())]);
            assert_eq!(
                basic_user(&head.headers).as_deref(),
                user.map(str::as_bytes),
                "{value}"
            );
        }
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 256, "{} bytes", size_of::<Record>());
    }
}
