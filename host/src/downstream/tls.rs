//! TLS handshakes with clients. Certificates are chosen in `certificates.rs`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::HTTP2;
use crate::proxy::TlsFacts;
use crate::stream::Stream;

/// What a client began with.
pub(crate) enum Accepted {
    Tls(Stream, Box<TlsFacts>),
    /// Plain text, nothing of which has been read.
    Plain(Stream),
}

/// Answers a TLS handshake within `limit`. Fails with [`io::ErrorKind::TimedOut`], or with rustls's
/// error inside. A client that does not begin one is handed back.
pub(crate) async fn accept(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> io::Result<Accepted> {
    let accepted = async {
        let mut first = [0];
        if socket.peek(&mut first).await? == 1 && !begins_tls(first[0]) {
            return Ok(Accepted::Plain(Stream::Plain(socket)));
        }
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        let facts = Box::new(facts(stream.get_ref().1));
        Ok(Accepted::Tls(Stream::TlsServer(Box::new(stream)), facts))
    };
    match timeout(limit, accepted).await {
        Ok(accepted) => accepted,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Whether this is the first byte of a handshake record (RFC 8446 §5.1), or of those that came before.
fn begins_tls(first: u8) -> bool {
    first == 0x16 || first & 0x80 != 0
}

fn facts(connection: &ServerConnection) -> TlsFacts {
    TlsFacts {
        protocol: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        },
        cipher: connection
            .negotiated_cipher_suite()
            .map_or("", |suite| openssl_name(suite.suite())),
        server_name: connection.server_name().map(Into::into),
        is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// Returns the name by which OpenSSL, and so nginx, knows a cipher suite that rustls has.
fn openssl_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

/// Whether HTTP/2 was agreed on in the TLS handshake (RFC 7301).
pub(crate) fn chose_http2(stream: &Stream) -> bool {
    match stream {
        Stream::TlsServer(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        Stream::Plain(_) | Stream::TlsClient(_) | Stream::Http2(_) => false,
    }
}
