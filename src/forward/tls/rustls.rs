//! TLS by rustls, with the cryptography of ring.
//!
//! Certificates are checked by rustls itself, against the authorities that rustls-native-certs
//! finds: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the system's. The platform's own
//! verifier honors these variables on some systems only.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::ring};
use tokio::net::TcpStream;
use tower::Service;

use crate::{
    error::{BoxError, Kind},
    forward::tcp::Tcp,
};

pub(crate) struct Connector(Arc<ClientConfig>);

pub(crate) type TlsStream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

impl Connector {
    /// Fails where no certificate authority is found.
    pub(crate) fn new(alpn: &[&str]) -> Result<Self, BoxError> {
        // The provider is named: the process may have more than one, or another default.
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_native_roots()?
            .with_no_client_auth();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self(Arc::new(tls)))
    }
}

/// Connects to an `https` origin.
pub(crate) fn connect(
    connector: &Connector,
    tcp: Tcp,
    origin: Uri,
) -> impl Future<Output = Result<TlsStream, BoxError>> + Send + use<> {
    let connecting = HttpsConnector::from((tcp, connector.0.clone())).call(origin);
    async move {
        match connecting.await {
            Ok(stream) => Ok(TokioIo::new(stream)),
            // Earlier steps have error types of their own.
            Err(error) => Err(match error.downcast::<io::Error>() {
                Ok(error) => HandshakeError(*error).into(),
                Err(error) => error,
            }),
        }
    }
}

pub(crate) fn tcp(tls: &TlsStream) -> &TcpStream {
    match tls.inner() {
        MaybeHttpsStream::Http(tcp) => tcp.inner(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
    }
}

/// Never: an end that the backend didn't announce is an error already.
pub(crate) fn is_truncated(_: &TlsStream) -> bool {
    false
}

pub(crate) fn has_chosen_http2(tls: &TlsStream) -> bool {
    match tls.inner() {
        MaybeHttpsStream::Http(_) => false,
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
    }
}

/// The kind of an error, if it is the library's.
pub(crate) fn kind(cause: &(dyn StdError + 'static)) -> Option<Kind> {
    if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
        return Some(Kind::TlsCertificate);
    }
    cause.is::<HandshakeError>().then_some(Kind::TlsProtocol)
}

/// Marks an error of the handshake, to tell it from those of earlier steps. Its text is the error's
/// own, for a log that shows one cause.
#[derive(Debug)]
struct HandshakeError(io::Error);

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for HandshakeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}
