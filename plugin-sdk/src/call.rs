//! Call-outs: requests that a plugin makes to services while one of its hooks waits.
//!
//! For the `async` traits ([`AsyncOnRequest`](crate::AsyncOnRequest) and its like). The operator names
//! the upstreams that a plugin may call:
//!
//! ```toml
//! [plugins.auth]
//! call = ["accounts"]
//! ```
//!
//! ```
//! use std::time::Duration;
//! use tidegate_plugin::call::{Error, Request};
//!
//! async fn is_known(user: &str) -> Result<bool, Error> {
//!     let answer = Request::get("accounts", "/check")
//!         .field("x-user", user)
//!         .timeout(Duration::from_secs(1))
//!         .send()
//!         .await?;
//!     Ok(answer.is_success())
//! }
//! # let known = tidegate_plugin::testing::run(is_known("ann"), |request| {
//! #     assert_eq!(request.target, "/check");
//! #     Ok(tidegate_plugin::call::Response::new(204))
//! # });
//! # assert_eq!(known, Ok(true));
//! ```

use std::fmt;
use std::time::Duration;

use crate::bindings::imports::tidegate::plugin::tickets as wit;
use crate::waiting::{Order, Ticket};

/// A request to an upstream of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// One that the operator has granted.
    pub upstream: String,
    /// `GET`, `POST`, ...; not `CONNECT`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names and values. Without `host`, that is the name of the upstream.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Counts against the plugin's `output_bytes`.
    pub body: Vec<u8>,
    /// Until the whole response has to be there. Without it the plugin's `wait_timeout` ends the wait, and
    /// that is a failure of the plugin.
    pub timeout: Option<Duration>,
}

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Names, in lower case, and values.
    pub fields: Vec<(String, Vec<u8>)>,
    /// At most the plugin's `reply_bytes`.
    pub body: Vec<u8>,
}

/// Why there is no response, or no timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The operator has not granted the upstream (`call` of the plugin).
    Denied,
    /// Too many: per second, at once by the plugin, or at once by the exchange or session.
    Limit,
    /// The method, the target or a field cannot be sent.
    Invalid,
    /// No endpoint of the upstream is up and takes a connection.
    Refused,
    /// The request's timeout has passed.
    Timeout,
    /// The connection broke, or what came was no response.
    Failed,
    /// The body of the response is longer than the plugin's `reply_bytes`.
    TooLarge,
}

/// Returns whether the operator has granted call-outs to an upstream, so that
/// [`Plugin::configure`](crate::Plugin::configure) can refuse what would never work. Natively all are.
#[must_use]
pub fn is_granted(upstream: &str) -> bool {
    #[cfg(target_arch = "wasm32")]
    {
        wit::may_call(upstream)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        !upstream.is_empty()
    }
}

impl Request {
    /// A request without fields and body.
    #[must_use]
    pub fn new(method: &str, upstream: &str, target: &str) -> Self {
        Self {
            upstream: upstream.to_owned(),
            method: method.to_owned(),
            target: target.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(upstream: &str, target: &str) -> Self {
        Self::new("GET", upstream, target)
    }

    /// A POST with a body.
    #[must_use]
    pub fn post(upstream: &str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::new("POST", upstream, target)
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// Bounds the time until the whole response is there.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it, and waits for the whole response. Dropped before that, the call-out is cancelled.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A response is none, whatever its status.
    pub async fn send(self) -> Result<Response, Error> {
        match Ticket::new(Order::Call(self)).await? {
            wit::Reply::Response(response) => Ok(Response {
                status: response.status,
                fields: response.fields,
                body: response.body,
            }),
            wit::Reply::Failed(error) => Err(error.into()),
            wit::Reply::Elapsed => Err(Error::Failed),
        }
    }
}

impl Response {
    /// A response without fields and body, for tests.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Returns whether the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the first value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let named = self
            .fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "the upstream is not granted",
            Self::Limit => "too many call-outs",
            Self::Invalid => "not a request that can be sent",
            Self::Refused => "no endpoint takes a connection",
            Self::Timeout => "no answer in time",
            Self::Failed => "the connection broke, or what came was no response",
            Self::TooLarge => "the response is too long",
        })
    }
}

impl std::error::Error for Error {}

impl From<wit::CallError> for Error {
    fn from(error: wit::CallError) -> Self {
        match error {
            wit::CallError::Denied => Self::Denied,
            wit::CallError::Limit => Self::Limit,
            wit::CallError::Invalid => Self::Invalid,
            wit::CallError::Refused => Self::Refused,
            wit::CallError::Timeout => Self::Timeout,
            wit::CallError::Failed => Self::Failed,
            wit::CallError::TooLarge => Self::TooLarge,
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl From<Error> for wit::CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied => Self::Denied,
            Error::Limit => Self::Limit,
            Error::Invalid => Self::Invalid,
            Error::Refused => Self::Refused,
            Error::Timeout => Self::Timeout,
            Error::Failed => Self::Failed,
            Error::TooLarge => Self::TooLarge,
        }
    }
}
