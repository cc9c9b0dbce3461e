//! A new connection to an endpoint: TCP, TLS where the upstream asks for it, and the HTTP/1.1 client
//! on top.
//!
//! Reuse of connections is `pool.rs`'s business; retrying elsewhere is the session's.

use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Endpoint, Error, RequestBody, Upstream};
use crate::stream::{Guarded, Stream};

/// A stream to a service as hyper drives it.
pub(crate) type Sending = TokioIo<Guarded<()>>;

impl Upstream {
    /// Connects to an endpoint, TLS handshake included, within `limit`. Cancel safe: dropping the
    /// future closes what was opened.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Stream, Error> {
        let address = endpoint.address;
        let connect = async {
            let socket = TcpStream::connect(address)
                .await
                .and_then(|socket| socket.set_nodelay(true).map(|()| socket))
                .map_err(|source| Error::Connect { address, source })?;
            let Some(tls) = &self.tls else {
                return Ok(Stream::Plain(socket));
            };
            let connector = TlsConnector::from(tls.trust.config.clone());
            // Boxed: a TLS handshake is large, and most connections have none.
            let stream = Box::pin(connector.connect(tls.trust.server_name.clone(), socket))
                .await
                .map_err(|source| Error::Tls { address, source })?;
            Ok(Stream::TlsClient(Box::new(stream)))
        };
        match timeout(limit, connect).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                address,
                action: "connect",
                timeout: limit,
            }),
        }
    }
}

/// Starts HTTP/1.1 on a stream. `send_timeout` bounds the time between two writes while one is
/// pending.
pub(crate) async fn http1(
    stream: Stream,
    send_timeout: Duration,
    max_header_bytes: usize,
) -> Result<
    (
        http1::SendRequest<RequestBody>,
        http1::Connection<Sending, RequestBody>,
    ),
    hyper::Error,
> {
    http1::Builder::new()
        .max_header_size(max_header_bytes)
        .handshake(TokioIo::new(Guarded::new(stream, send_timeout, ())))
        .await
}
