//! TLS by rustls, with the cryptography of ring.
//!
//! Certificates are checked by rustls itself, against the authorities that rustls-native-certs
//! finds: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the system's. The platform's own
//! verifier honors these variables on some systems only.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;

use super::{Credentials, Unusable};

pub(super) struct Library(ClientConfig);

#[derive(Clone)]
pub(crate) struct Connector(tokio_rustls::TlsConnector);

pub(crate) type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

impl Library {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, Unusable> {
        let library = |error: rustls::Error| Unusable::Library(error.into());
        let roots = match &credentials.authorities {
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                let authorities = certificates(authorities).ok_or(Unusable::Authorities)?;
                let added = authorities.into_iter().try_for_each(|one| roots.add(one));
                added.map_err(|_| Unusable::Authorities)?;
                roots
            }
            None => native_roots()?,
        };
        // The provider is named: the process may have more than one, or another default.
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(library)?
            .with_root_certificates(roots);
        let Some(identity) = &credentials.identity else {
            return Ok(Self(tls.with_no_client_auth()));
        };
        let chain = certificates(&identity.certificates).ok_or(Unusable::Certificates)?;
        let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|_| Unusable::Key)?;
        let tls = tls.with_client_auth_cert(chain, key);
        Ok(Self(tls.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Unusable::Mismatch,
            rustls::Error::InvalidCertificate(_) => Unusable::Certificates,
            _ => Unusable::Key,
        })?))
    }

    pub(super) fn connector(&mut self, alpn: &[&str]) -> Result<Connector, Unusable> {
        let mut tls = self.0.clone();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Connector(Arc::new(tls).into()))
    }
}

/// Those of a file, at least one.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    certificates.ok().filter(|found| !found.is_empty())
}

/// Fails where no certificate authority is found. Those that rustls can't use are left out.
fn native_roots() -> Result<RootCertStore, Unusable> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors.iter().map(|error| format!(": {error}"));
        let errors: String = errors.take(1).collect();
        let message = format!("no certificate authorities are found{errors}");
        return Err(Unusable::Library(message.into()));
    }
    Ok(roots)
}

pub(super) async fn handshake(
    connector: Connector,
    host: &str,
    tcp: TcpStream,
) -> io::Result<TlsStream> {
    let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    connector.0.connect(host, tcp).await
}

/// Whether it is the certificate that the handshake failed at.
pub(super) fn is_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

pub(crate) fn tcp(tls: &TlsStream) -> &TcpStream {
    tls.get_ref().0
}

/// Never: an end that the backend didn't announce is an error already.
pub(crate) fn is_truncated(_: &TlsStream) -> bool {
    false
}

pub(crate) fn has_chosen_http2(tls: &TlsStream) -> bool {
    tls.get_ref().1.alpn_protocol() == Some(b"h2")
}
