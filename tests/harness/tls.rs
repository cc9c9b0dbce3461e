//! A certificate authority of a test's own, and TLS on both sides of the proxy with it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connection::{Connection, Role};
use super::within;

/// Issues certificates, and makes clients that trust nobody else.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key, PEM.
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
    key_pair: KeyPair,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// The authority's own certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Issues a certificate for host names and IP addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key_pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key_pair, &self.issuer).unwrap();
        Certificate {
            chain: certificate.pem(),
            key: key_pair.serialize_pem(),
            key_pair,
            certificate,
        }
    }

    /// Configuration of a client that trusts this authority only.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Connects by TLS 1.3 or 1.2 with a server name.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> Connection {
        let config = self.client(rustls::ALL_VERSIONS);
        let stream = tls_handshake(&Arc::new(config), address, name)
            .await
            .unwrap();
        Connection::secured(stream)
    }

    /// As [`Authority::connect`], as a client at an address of its own.
    pub(crate) async fn connect_from(
        &self,
        client: IpAddr,
        address: SocketAddr,
        name: &str,
    ) -> Connection {
        let config = self.client(rustls::ALL_VERSIONS);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client, 0)).unwrap();
        let socket = within("connection", socket.connect(address)).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connect = TlsConnector::from(Arc::new(config)).connect(name, socket);
        Connection::secured(within("TLS handshake", connect).await.unwrap())
    }
}

impl Certificate {
    /// Configuration of a service that shows this certificate.
    pub(crate) fn service(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_pair.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }

    /// The certificate as it appears in a TLS handshake.
    pub(crate) fn der(&self) -> &[u8] {
        self.certificate.der()
    }
}

/// Connects and does a TLS handshake as the configuration says. For tests about the handshake.
pub(crate) async fn tls_handshake(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = within("connection", TcpStream::connect(address)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(
        "TLS handshake",
        TlsConnector::from(config.clone()).connect(name, socket),
    )
    .await
}

impl Connection {
    /// Goes on as a client after a TLS handshake.
    pub(crate) fn secured(stream: TlsStream<TcpStream>) -> Self {
        Self::new(stream, Role::Client)
    }
}
