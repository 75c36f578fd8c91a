//! TLS to backends, by the library that the features select. Each module has the same items.
//!
//! With both features it is rustls, so that it can be enabled without disabling the default.

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod native;
#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
mod none;
#[cfg(feature = "rustls")]
mod rustls;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[cfg(test)]
mod tests;
#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod watched;

use std::{error::Error as StdError, fmt};

use tokio::net::TcpStream;

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
use self::native as library;
#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
use self::none as library;
#[cfg(feature = "rustls")]
use self::rustls as library;

pub(crate) use self::library::{Connector, TlsStream, has_chosen_http2, is_truncated, tcp};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Whether this build can speak TLS to backends.
pub(crate) const IS_AVAILABLE: bool = cfg!(any(feature = "native-tls", feature = "rustls"));

/// What a backend may choose in the handshake. One that is offered nothing speaks HTTP/1.1.
const ALPN: &[&str] = if cfg!(feature = "http2") {
    &["h2", "http/1.1"]
} else {
    &[]
};

/// What is configured in place of the defaults, in PEM form.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The certificate authorities, in place of the system's.
    pub(crate) authorities: Option<Vec<u8>>,
    pub(crate) identity: Option<Identity>,
}

/// What a backend is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The client's certificate, and those of its issuers after it.
    pub(crate) certificates: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// Why no client can be made.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "native-tls", feature = "rustls")),
    expect(dead_code)
)]
pub(crate) enum Unusable {
    /// There is no certificate among those of the authorities, or a malformed one.
    Authorities,
    /// There is no certificate of the client's, or a malformed one.
    Certificates,
    /// There is no key in a form that the library takes.
    Key,
    /// The key isn't that of the certificate.
    Mismatch,
    /// The library doesn't work, or finds no authorities.
    Library(BoxError),
}

/// The client's side of TLS.
pub(crate) struct Client {
    credentials: Credentials,
    any: Connector,
    /// Offers HTTP/1.1 alone, where that isn't what `any` does.
    http1: Option<Connector>,
}

impl Client {
    /// Reading the system's authorities takes a while.
    pub(crate) fn new(credentials: Credentials) -> Result<Self, Unusable> {
        let mut library = library::Library::new(&credentials)?;
        let only_http1 = cfg!(feature = "http2").then(|| library.connector(&["http/1.1"]));
        Ok(Self {
            any: library.connector(ALPN)?,
            http1: only_http1.transpose()?,
            credentials,
        })
    }

    /// For HTTP/1.1 alone, or for any version.
    pub(crate) fn connector(&self, only_http1: bool) -> &Connector {
        let http1 = self.http1.as_ref().filter(|_| only_http1);
        http1.unwrap_or(&self.any)
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.credentials == other.credentials
    }
}

impl Eq for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive")
    }
}

/// Shakes hands with the host of a URL on a new connection.
pub(crate) async fn connect(
    connector: Connector,
    host: &str,
    tcp: TcpStream,
) -> Result<TlsStream, HandshakeError> {
    let address = host.strip_prefix('[');
    let address = address.and_then(|host| host.strip_suffix(']'));
    let handshake = library::handshake(connector, address.unwrap_or(host), tcp);
    handshake.await.map_err(|source| HandshakeError {
        is_certificate: library::is_certificate(&source),
        source: Box::new(source),
    })
}

/// Marks an error of the handshake, to tell it from those of earlier steps. Its text is the error's
/// own, for a log that shows one cause.
#[derive(Debug)]
pub(crate) struct HandshakeError {
    /// Whether the backend's certificate is what is wrong.
    pub(crate) is_certificate: bool,
    source: BoxError,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for HandshakeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities => f.write_str("no certificate authorities"),
            Self::Certificates => f.write_str("no certificate"),
            Self::Key => f.write_str("no private key"),
            Self::Mismatch => f.write_str("the private key is not the certificate's"),
            Self::Library(error) => error.fmt(f),
        }
    }
}
