//! TLS by the platform's own library.

use native_tls::{Certificate, TlsConnectorBuilder};
use tokio::net::TcpStream;

use super::{Credentials, Identity, Unusable, watched::Watched};

pub(super) struct Library {
    tls: TlsConnectorBuilder,
    has_identity: bool,
}

#[derive(Clone)]
pub(crate) struct Connector(tokio_native_tls::TlsConnector);

pub(crate) type TlsStream = tokio_native_tls::TlsStream<Watched>;

impl Library {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, Unusable> {
        let mut tls = native_tls::TlsConnector::builder();
        if let Some(pem) = &credentials.authorities {
            tls.disable_built_in_roots(true);
            for authority in certificates(pem).ok_or(Unusable::Authorities)? {
                tls.add_root_certificate(authority);
            }
        }
        if let Some(identity) = &credentials.identity {
            certificates(&identity.certificates).ok_or(Unusable::Certificates)?;
            let key = pkcs8(identity)?;
            let identity = native_tls::Identity::from_pkcs8(&identity.certificates, &key);
            tls.identity(identity.map_err(|_| Unusable::Key)?);
        }
        Ok(Self {
            tls,
            has_identity: credentials.identity.is_some(),
        })
    }

    #[cfg_attr(not(feature = "http2"), expect(unused_variables))]
    pub(super) fn connector(&mut self, alpn: &[&str]) -> Result<Connector, Unusable> {
        #[cfg(feature = "http2")]
        self.tls.request_alpns(alpn);
        match self.tls.build() {
            Ok(tls) => Ok(Connector(tls.into())),
            // Not all libraries compare them before.
            Err(_) if self.has_identity => Err(Unusable::Mismatch),
            Err(error) => Err(Unusable::Library(error.into())),
        }
    }
}

/// Those of a file, at least one.
fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    let certificates = Certificate::stack_from_pem(pem).ok();
    certificates.filter(|found| !found.is_empty())
}

/// The key in the form that the library takes, if it has another one. It is the certificate's.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn pkcs8(identity: &Identity) -> Result<Vec<u8>, Unusable> {
    use openssl::{pkey::PKey, x509::X509};

    // Without a passphrase: OpenSSL would ask for one on the terminal.
    let key = PKey::private_key_from_pem_callback(&identity.key, |_| Ok(0));
    let key = key.map_err(|_| Unusable::Key)?;
    let public = X509::from_pem(&identity.certificates).and_then(|first| first.public_key());
    if !public.is_ok_and(|public| public.public_eq(&key)) {
        return Err(Unusable::Mismatch);
    }
    key.private_key_to_pem_pkcs8().map_err(|_| Unusable::Key)
}

#[cfg(any(windows, target_vendor = "apple"))]
fn pkcs8(identity: &Identity) -> Result<Vec<u8>, Unusable> {
    Ok(identity.key.clone())
}

pub(super) async fn handshake(
    connector: Connector,
    host: &str,
    tcp: TcpStream,
) -> native_tls::Result<TlsStream> {
    connector.0.connect(host, Watched::new(tcp)).await
}

/// Whether it is the certificate that the handshake failed at.
pub(super) fn is_certificate(error: &native_tls::Error) -> bool {
    // The libraries below it give no more than a text. An alert is the backend's word.
    let text = error.to_string().to_lowercase();
    text.contains("certificate") && !text.contains("alert")
}

fn below(tls: &TlsStream) -> &Watched {
    tls.get_ref().get_ref().get_ref()
}

pub(crate) fn tcp(tls: &TlsStream) -> &TcpStream {
    below(tls).tcp()
}

/// Whether the end that was read is one that the backend didn't announce.
pub(crate) fn is_truncated(tls: &TlsStream) -> bool {
    below(tls).is_truncated()
}

#[cfg(feature = "http2")]
pub(crate) fn has_chosen_http2(tls: &TlsStream) -> bool {
    matches!(tls.get_ref().negotiated_alpn(), Ok(Some(protocol)) if protocol == b"h2")
}

/// Never: it isn't offered.
#[cfg(not(feature = "http2"))]
pub(crate) fn has_chosen_http2(_: &TlsStream) -> bool {
    false
}
