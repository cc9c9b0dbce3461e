//! Keys, chains and roots from files, made into rustls configurations for both sides.
//!
//! Which site a name belongs to is `route.rs`'s business; this module is given names and files.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::config::{Certificate, Regex, SiteName, UpstreamTls};

/// What HTTP/2 is called in a TLS handshake (RFC 9113 §3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// What a certificate file can get wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read certificates from {}", path.display())]
    Chain {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("no certificate in {}", path.display())]
    EmptyChain { path: PathBuf },
    #[error("cannot read a private key from {}", path.display())]
    Key {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("the key {} does not fit the certificate {}", key.display(), chain.display())]
    Mismatch {
        chain: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("the certificate in {} cannot be trusted as an authority", path.display())]
    Root {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("the system has no certificate authorities; give `tls.ca` a file")]
    NoSystemRoots,
    #[error("`tls.server_name`: expected a host name or an IP address, found `{name}`")]
    ServerName { name: String },
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// The contents of files, as far as they need to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

/// What a TLS listener serves with.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) config: Arc<ServerConfig>,
    /// The files of the chains, and what was in them and the files of their keys.
    pub(crate) certificates: Arc<[(PathBuf, Fingerprint)]>,
    /// Of all that the configuration was made from.
    fingerprint: Fingerprint,
}

/// Returns the configuration of a TLS listener: TLS 1.2 and 1.3, a certificate by server name, and
/// that of the first entry for clients that send none or an unknown one. `http2`: clients may choose it.
/// If nothing differs from what the listener had, that is returned.
///
/// Sessions resume by tickets (RFC 8446 §4.6.1, RFC 5077), which need no state that workers share. Those
/// of `previous` stay good.
pub(crate) fn server_config(
    sites: &[(&[SiteName], &Certificate)],
    http2: bool,
    previous: Option<&Served>,
) -> Result<Served, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (resolver, certificates) = Resolver::load(sites, &provider)?;
    let fingerprint = of_listener(sites, &certificates, http2);
    if let Some(same) = previous.filter(|old| old.fingerprint == fingerprint) {
        return Ok(same.clone());
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.ticketer = match previous {
        Some(old) => old.config.ticketer.clone(),
        None => aws_lc_rs::Ticketer::new()?,
    };
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = match http2 {
        true => vec![HTTP2.to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    Ok(Served {
        config: Arc::new(config),
        certificates: certificates.into(),
        fingerprint,
    })
}

/// What connections to a service are made with.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
    /// Of the authorities.
    fingerprint: Fingerprint,
}

impl Trust {
    /// Whether it is the very same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

/// Returns the configuration for connections to a service, and the name to verify it by. `previous` is what
/// the same settings were made into before, and is returned if the authorities are still the same.
pub(crate) fn client_config(tls: &UpstreamTls, previous: Option<&Trust>) -> Result<Trust, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let (roots, fingerprint) = match tls.verify {
        true => roots(tls.ca.as_deref())?,
        false => (RootCertStore::empty(), fingerprint([])),
    };
    if let Some(same) = previous.filter(|old| old.fingerprint == fingerprint) {
        return Ok(same.clone());
    }
    let config = if tls.verify {
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(algorithms)))
            .with_no_client_auth()
    };
    let name = ServerName::try_from(tls.server_name.clone()).map_err(|_| Error::ServerName {
        name: tls.server_name.clone(),
    })?;
    Ok(Trust {
        config: Arc::new(config),
        server_name: name,
        fingerprint,
    })
}

fn roots(ca: Option<&Path>) -> Result<(RootCertStore, Fingerprint), Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let certificates = read_chain(path)?;
        let fingerprint = fingerprint(certificates.iter().map(AsRef::as_ref));
        for certificate in certificates {
            roots.add(certificate).map_err(|source| Error::Root {
                path: path.to_owned(),
                source,
            })?;
        }
        return Ok((roots, fingerprint));
    }
    let certificates = rustls_native_certs::load_native_certs().certs;
    let fingerprint = fingerprint(certificates.iter().map(AsRef::as_ref));
    // Single unusable certificates are common in system stores and no reason to fail.
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        Err(Error::NoSystemRoots)
    } else {
        Ok((roots, fingerprint))
    }
}

/// Returns the fingerprint of some parts, in their order.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Fingerprint(bytes)
}

/// Returns the fingerprint of all that the configuration of a listener is made from.
fn of_listener(
    sites: &[(&[SiteName], &Certificate)],
    certificates: &[(PathBuf, Fingerprint)],
    http2: bool,
) -> Fingerprint {
    let mut parts = vec![vec![u8::from(http2)]];
    for ((names, _), (_, contents)) in sites.iter().zip(certificates) {
        parts.push(contents.0.to_vec());
        parts.extend(names.iter().map(|name| name.to_string().into_bytes()));
    }
    fingerprint(parts.iter().map(Vec::as_slice))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| Error::Chain {
            path: path.to_owned(),
            source,
        })?;
    if chain.is_empty() {
        Err(Error::EmptyChain {
            path: path.to_owned(),
        })
    } else {
        Ok(chain)
    }
}

fn read_pair(
    certificate: &Certificate,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Fingerprint), Error> {
    let chain = read_chain(&certificate.chain)?;
    let key = PrivateKeyDer::from_pem_file(&certificate.key).map_err(|source| Error::Key {
        path: certificate.key.clone(),
        source,
    })?;
    let parts = chain.iter().map(AsRef::as_ref);
    let fingerprint = fingerprint(parts.chain([key.secret_der()]));
    CertifiedKey::from_der(chain, key, provider)
        .map(|pair| (Arc::new(pair), fingerprint))
        .map_err(|source| Error::Mismatch {
            chain: certificate.chain.clone(),
            key: certificate.key.clone(),
            source,
        })
}

/// Chooses a certificate by the name the client asks for (RFC 6066 §3).
#[derive(Debug)]
struct Resolver {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `.example.com`, longest first.
    suffixes: Vec<(String, Arc<CertifiedKey>)>,
    /// `www.example.`, longest first.
    prefixes: Vec<(String, Arc<CertifiedKey>)>,
    /// In the order of the file.
    patterns: Vec<(Regex, Arc<CertifiedKey>)>,
    fallback: Option<Arc<CertifiedKey>>,
}

impl Resolver {
    fn load(
        sites: &[(&[SiteName], &Certificate)],
        provider: &CryptoProvider,
    ) -> Result<(Self, Vec<(PathBuf, Fingerprint)>), Error> {
        let mut files = Vec::new();
        let mut resolver = Self {
            exact: HashMap::new(),
            suffixes: vec![],
            prefixes: vec![],
            patterns: vec![],
            fallback: None,
        };
        for (names, certificate) in sites {
            let (pair, fingerprint) = read_pair(certificate, provider)?;
            files.push((certificate.chain.clone(), fingerprint));
            resolver.fallback.get_or_insert_with(|| pair.clone());
            for name in *names {
                match name {
                    SiteName::Exact(name) => {
                        resolver
                            .exact
                            .entry(name.clone())
                            .or_insert_with(|| pair.clone());
                    }
                    SiteName::Suffix(suffix) => {
                        resolver.suffixes.push((suffix.clone(), pair.clone()));
                    }
                    SiteName::Prefix(prefix) => {
                        resolver.prefixes.push((prefix.clone(), pair.clone()));
                    }
                    SiteName::Regex(regex) => {
                        resolver.patterns.push((regex.clone(), pair.clone()));
                    }
                }
            }
        }
        resolver
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        resolver
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok((resolver, files))
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let suffix = || {
            self.suffixes
                .iter()
                .find(|(suffix, _)| name.ends_with(suffix.as_str()))
        };
        let prefix = || {
            self.prefixes
                .iter()
                .find(|(prefix, _)| name.starts_with(prefix.as_str()))
        };
        let pattern = || self.patterns.iter().find(|(regex, _)| regex.is_match(name));
        self.exact
            .get(name)
            .or_else(|| suffix().map(|(_, pair)| pair))
            .or_else(|| prefix().map(|(_, pair)| pair))
            .or_else(|| pattern().map(|(_, pair)| pair))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        asked
            .and_then(|name| self.find(&name).cloned())
            .or_else(|| self.fallback.clone())
    }
}

/// Accepts any certificate, for `tls.verify = false`. Signatures of the handshake are still checked.
struct Unverified(WebPkiSupportedAlgorithms);

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
