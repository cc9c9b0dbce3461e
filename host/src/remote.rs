//! Asks a running proxy, over its admin listener, for the command line.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a running proxy is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot reach tidegate at {address}; is its admin listener there?")]
    Connect { address: Address, source: io::Error },
    #[error("the connection to {address} failed")]
    Connection {
        address: Address,
        source: hyper::Error,
    },
    #[error("{address} answered something that is not tidegate's: is its admin listener there?")]
    Stranger { address: Address },
    #[error("the token has characters that cannot be sent")]
    Token,
    /// What tidegate said.
    #[error("{0}")]
    Refused(String),
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

/// Returns a text as it stands within a path or query (RFC 3986 §2.1).
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a str,
    pub(crate) body: Bytes,
    /// What the proxy wants to be shown, if it wants anything.
    pub(crate) token: Option<&'a str>,
}

/// Sends one request to the admin listener at `address` and returns its answer.
pub(crate) fn ask(address: &Address, question: Question<'_>) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let failed = |source| Error::Connect {
            address: address.clone(),
            source,
        };
        match address {
            Address::Tcp(to) => {
                let stream = TcpStream::connect(to).await.map_err(failed)?;
                exchange(address, stream, question).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                exchange(address, stream, question).await
            }
        }
    })
}

async fn exchange(
    address: &Address,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    question: Question<'_>,
) -> Result<Value, Error> {
    let broken = |source| Error::Connection {
        address: address.clone(),
        source,
    };
    let stranger = || Error::Stranger {
        address: address.clone(),
    };
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut request = Request::new(Full::new(question.body));
    *request.method_mut() = question.method;
    *request.uri_mut() = question.target.parse().map_err(|_| stranger())?;
    let host = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let host = host.parse().expect("an address is a field value");
    request.headers_mut().insert(HOST, host);
    if let Some(token) = question.token {
        let token = HeaderValue::from_str(&format!("Bearer {token}"));
        let token = token.map_err(|_| Error::Token)?;
        request.headers_mut().insert(AUTHORIZATION, token);
    }
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?;
    let answer: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
    let answer = answer.ok_or_else(stranger)?;
    match answer["error"].as_str() {
        Some(error) => Err(Error::Refused(error.to_owned())),
        None if status.is_success() => Ok(answer),
        None => Err(stranger()),
    }
}

impl FromStr for Address {
    type Err = Infallible;

    /// An address and port; anything else is a path, also behind `unix:`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.parse() {
            Ok(address) => Self::Tcp(address),
            Err(_) => Self::Unix(text.strip_prefix("unix:").unwrap_or(text).into()),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
