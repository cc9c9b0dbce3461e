//! Heads of requests and responses, and the two phases that see them.
//!
//! A head is the host's: each access is a call to it (200 to 350 ns), so a plugin pays for the fields
//! it touches. Natively a head is a value made by [`testing`](crate::testing).

use std::error::Error;
use std::fmt;
#[cfg(not(target_arch = "wasm32"))]
use std::marker::PhantomData;

use crate::Plugin;
use crate::bindings::imports::tidegate::plugin::http as wit;
#[cfg(not(target_arch = "wasm32"))]
use crate::memory;

pub use crate::bindings::imports::tidegate::plugin::http::Answer;

/// A plugin that sees requests.
pub trait OnRequest: Plugin {
    /// Judges a request. Called once per request, opening handshakes included, when its head is
    /// complete and the route is found, before an endpoint is chosen. The body is not touched.
    fn on_request(&mut self, head: &mut RequestHead) -> Verdict;
}

/// A plugin that sees responses.
pub trait OnResponse: Plugin {
    /// Judges a response. Called once per response: the service's final one (a 101 too), or one made
    /// by a plugin or the proxy itself. The body is not touched.
    fn on_response(&mut self, request: &SentRequest, head: &mut ResponseHead) -> Verdict;
}

/// What a plugin answers about a head.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Goes on: to the next plugin, then to the service or the client.
    Continue,
    /// Answers with this. On a request, instead of asking the service; on a response, instead of
    /// it, which is not possible for a 101.
    Respond(Answer),
}

impl Answer {
    /// An answer without fields or body. `status`: 200 to 599; another ends the instance.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a field. `content-length` and `date` are the host's. What is not a field (see
    /// [`check_field`]) ends the instance when the answer is given.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the whole body. It counts against the plugin's `output_bytes`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// The head of a request: as it will leave for the service, after the plugins before this one.
#[derive(Debug)]
pub struct RequestHead<'a> {
    #[cfg(target_arch = "wasm32")]
    inner: &'a wit::RequestHead,
    #[cfg(not(target_arch = "wasm32"))]
    inner: memory::Request,
    #[cfg(not(target_arch = "wasm32"))]
    lent: PhantomData<&'a ()>,
}

impl RequestHead<'_> {
    /// Returns the method: `GET`, `POST`, ...
    #[must_use]
    pub fn method(&self) -> String {
        self.inner.method()
    }

    /// Returns `http` or `https`, as the client reached the proxy.
    #[must_use]
    pub fn scheme(&self) -> String {
        self.inner.scheme()
    }

    /// Returns the host the client asked for: lower case, without port; empty if it named none.
    #[must_use]
    pub fn host(&self) -> String {
        self.inner.host()
    }

    /// Returns path and query, percent-encoded as received: `/a%2Fb?x=1`.
    #[must_use]
    pub fn target(&self) -> String {
        self.inner.target()
    }

    /// Replaces path and query. The route and the upstream stay as they were chosen.
    ///
    /// # Errors
    ///
    /// [`HeadError::InvalidTarget`], [`HeadError::TooLarge`].
    pub fn set_target(&mut self, target: &str) -> Result<(), HeadError> {
        Ok(self.inner.set_target(target)?)
    }

    /// Returns the address of the client, without port: `192.0.2.7`, `2001:db8::1`.
    #[must_use]
    pub fn remote_address(&self) -> String {
        self.inner.remote_address()
    }

    /// Returns whether this is an opening handshake: it asks for an upgrade that the route allows.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.inner.is_handshake()
    }
}

/// The request that a response answers, as it was sent to the service.
#[derive(Debug)]
pub struct SentRequest<'a> {
    #[cfg(target_arch = "wasm32")]
    inner: &'a wit::SentRequest,
    #[cfg(not(target_arch = "wasm32"))]
    inner: memory::Request,
    #[cfg(not(target_arch = "wasm32"))]
    lent: PhantomData<&'a ()>,
}

impl SentRequest<'_> {
    /// As [`RequestHead::method`].
    #[must_use]
    pub fn method(&self) -> String {
        self.inner.method()
    }

    /// As [`RequestHead::scheme`].
    #[must_use]
    pub fn scheme(&self) -> String {
        self.inner.scheme()
    }

    /// As [`RequestHead::host`].
    #[must_use]
    pub fn host(&self) -> String {
        self.inner.host()
    }

    /// As [`RequestHead::target`].
    #[must_use]
    pub fn target(&self) -> String {
        self.inner.target()
    }

    /// As [`RequestHead::remote_address`].
    #[must_use]
    pub fn remote_address(&self) -> String {
        self.inner.remote_address()
    }

    /// Returns the first value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.get(name)
    }

    /// Returns the first value of a field, if that is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.get(name)?).ok()
    }

    /// Returns address and port of the endpoint that answered; nothing if the answer was made here.
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        self.inner.endpoint()
    }
}

/// The head of a response: as it will leave for the client, after the plugins before this one.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    #[cfg(target_arch = "wasm32")]
    inner: &'a wit::ResponseHead,
    #[cfg(not(target_arch = "wasm32"))]
    inner: memory::Response,
    #[cfg(not(target_arch = "wasm32"))]
    lent: PhantomData<&'a ()>,
}

impl ResponseHead<'_> {
    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.inner.status()
    }

    /// Sets the status. A 101 stays a 101, and nothing else becomes one.
    ///
    /// # Errors
    ///
    /// [`HeadError::InvalidStatus`].
    pub fn set_status(&mut self, status: u16) -> Result<(), HeadError> {
        Ok(self.inner.set_status(status)?)
    }
}

impl<'a> SentRequest<'a> {
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn new(inner: &'a wit::SentRequest) -> Self {
        Self { inner }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn new(inner: memory::Request) -> Self {
        Self {
            inner,
            lent: PhantomData,
        }
    }
}

/// Why a head was left as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// Not a field name (RFC 9110 §5.1), or not a field value (§5.5: no NUL, CR or LF).
    InvalidField(String),
    /// A field of the connection, not of the message: it belongs to the host. On a handshake also
    /// the `sec-websocket-*` fields it is made of.
    ForbiddenField(String),
    /// Not a request target in origin form (RFC 9112 §3.2.1).
    InvalidTarget(String),
    /// Not a status between 200 and 599, or a change to or from 101.
    InvalidStatus(u16),
    /// The head would grow beyond the route's `max_header`.
    TooLarge,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidField(name) => write!(
                f,
                "`{name}` is not a field name, or its value not a field value"
            ),
            Self::ForbiddenField(name) => write!(f, "field `{name}` belongs to the proxy"),
            Self::InvalidTarget(target) => {
                write!(f, "`{target}` is not a path with an optional query")
            }
            Self::InvalidStatus(status) => write!(f, "status {status} cannot be set here"),
            Self::TooLarge => f.write_str("the head would grow too large"),
        }
    }
}

impl Error for HeadError {}

impl From<wit::HeadError> for HeadError {
    fn from(error: wit::HeadError) -> Self {
        match error {
            wit::HeadError::InvalidField(name) => Self::InvalidField(name),
            wit::HeadError::ForbiddenField(name) => Self::ForbiddenField(name),
            wit::HeadError::InvalidTarget(target) => Self::InvalidTarget(target),
            wit::HeadError::InvalidStatus(status) => Self::InvalidStatus(status),
            wit::HeadError::TooLarge => Self::TooLarge,
        }
    }
}

/// Fields of the connection, not of the message (RFC 9110 §7.6.1), and of its framing.
const FORBIDDEN_FIELDS: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// Judges a field as a head does, so that a plugin can refuse its configuration instead of failing
/// on every request. What depends on the head at hand is left to the head: its size, and the
/// `sec-websocket-*` fields of a handshake.
///
/// # Errors
///
/// [`HeadError::InvalidField`], [`HeadError::ForbiddenField`].
pub fn check_field(name: &str, value: impl AsRef<[u8]>) -> Result<(), HeadError> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    if name.is_empty() || !name.bytes().all(is_token) || value.as_ref().iter().any(is_control) {
        return Err(HeadError::InvalidField(name.to_owned()));
    }
    if FORBIDDEN_FIELDS
        .iter()
        .any(|forbidden| forbidden.eq_ignore_ascii_case(name))
    {
        return Err(HeadError::ForbiddenField(name.to_ascii_lowercase()));
    }
    Ok(())
}

/// The fields of a head that may be changed. Names are compared without regard to case, and handed
/// out in lower case.
macro_rules! fields {
    ($head:ident, lent: $lent:ty, in memory: $owned:ty) => {
        impl<'a> $head<'a> {
            #[cfg(target_arch = "wasm32")]
            pub(crate) fn new(inner: &'a $lent) -> Self {
                Self { inner }
            }

            #[cfg(not(target_arch = "wasm32"))]
            pub(crate) fn new(inner: $owned) -> Self {
                Self {
                    inner,
                    lent: PhantomData,
                }
            }

            /// Returns the names of the fields present, each once, in no particular order.
            #[must_use]
            pub fn names(&self) -> Vec<String> {
                self.inner.names()
            }

            /// Returns the first value of a field.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<Vec<u8>> {
                self.inner.get(name)
            }

            /// Returns the first value of a field, if that is UTF-8.
            #[must_use]
            pub fn text(&self, name: &str) -> Option<String> {
                String::from_utf8(self.get(name)?).ok()
            }

            /// Returns all values of a field, in order.
            #[must_use]
            pub fn get_all(&self, name: &str) -> Vec<Vec<u8>> {
                self.inner.get_all(name)
            }

            /// Sets a field to one value; values it had are gone.
            ///
            /// # Errors
            ///
            /// [`HeadError::InvalidField`], [`HeadError::ForbiddenField`], [`HeadError::TooLarge`].
            pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeadError> {
                Ok(self.inner.set(name, value.as_ref())?)
            }

            /// Adds a value and keeps those the field has.
            ///
            /// # Errors
            ///
            /// As [`set`](Self::set).
            pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeadError> {
                Ok(self.inner.add(name, value.as_ref())?)
            }

            /// Removes a field. Returns whether it was present.
            ///
            /// # Errors
            ///
            /// [`HeadError::InvalidField`], [`HeadError::ForbiddenField`].
            pub fn remove(&mut self, name: &str) -> Result<bool, HeadError> {
                Ok(self.inner.remove(name)?)
            }
        }
    };
}

fields!(RequestHead, lent: wit::RequestHead, in memory: memory::Request);
fields!(ResponseHead, lent: wit::ResponseHead, in memory: memory::Response);
