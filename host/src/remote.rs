//! Asks a running proxy, over its admin listener, for the command line.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot reach tidegate at {address}; is `admin.listen` there?")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the connection to {address} failed")]
    Connection {
        address: SocketAddr,
        source: hyper::Error,
    },
    #[error("{address} answered something that is not tidegate's: is its admin listener there?")]
    Stranger { address: SocketAddr },
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

/// Sends one request to the admin listener at `address` and returns its answer.
pub(crate) fn ask(
    address: SocketAddr,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(exchange(address, method, target, body))
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Value, Error> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| Error::Connect { address, source })?;
    let broken = |source| Error::Connection { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().map_err(|_| Error::Stranger { address })?;
    let host = address
        .to_string()
        .parse()
        .expect("an address is a field value");
    request.headers_mut().insert(HOST, host);
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?;
    let answer: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
    let answer = answer.ok_or(Error::Stranger { address })?;
    match answer["error"].as_str() {
        Some(error) => Err(Error::Refused(error.to_owned())),
        None if status.is_success() => Ok(answer),
        None => Err(Error::Stranger { address }),
    }
}
