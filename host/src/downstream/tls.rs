//! TLS handshakes with clients. Certificates are chosen in `certificates.rs`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::stream::Stream;

/// Answers a TLS handshake within `limit`. Fails with [`io::ErrorKind::TimedOut`], or with rustls's
/// error inside.
pub(crate) async fn accept(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> io::Result<Stream> {
    match timeout(limit, TlsAcceptor::from(config).accept(socket)).await {
        Ok(stream) => Ok(Stream::TlsServer(Box::new(stream?))),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
