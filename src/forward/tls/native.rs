//! TLS by the platform's own library.

use std::error::Error as StdError;

use http::Uri;
use hyper_tls::{HttpsConnector, MaybeHttpsStream, native_tls};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::watched::Watched;
use crate::{
    error::{BoxError, Kind},
    forward::tcp::Tcp,
};

pub(crate) struct Connector(native_tls::TlsConnector);

pub(crate) type TlsStream = hyper_tls::TlsStream<TokioIo<TokioIo<Watched>>>;

impl Connector {
    /// Fails where the library doesn't work.
    #[cfg_attr(not(feature = "http2"), expect(unused_variables))]
    pub(crate) fn new(alpn: &[&str]) -> Result<Self, BoxError> {
        #[cfg_attr(not(feature = "http2"), expect(unused_mut))]
        let mut tls = native_tls::TlsConnector::builder();
        #[cfg(feature = "http2")]
        tls.request_alpns(alpn);
        Ok(Self(tls.build()?))
    }
}

/// Connects to an `https` origin.
pub(crate) fn connect(
    connector: &Connector,
    tcp: Tcp,
    origin: Uri,
) -> impl Future<Output = Result<TlsStream, BoxError>> + Send + use<> {
    let watched = |tcp: TokioIo<TcpStream>| TokioIo::new(Watched::new(tcp.into_inner()));
    let mut connector: HttpsConnector<_> =
        (tcp.map_response(watched), connector.0.clone().into()).into();
    connector.https_only(true);
    let connecting = connector.call(origin);
    async move {
        match connecting.await? {
            MaybeHttpsStream::Https(tls) => Ok(tls.into_inner()),
            MaybeHttpsStream::Http(_) => Err("not TLS".into()),
        }
    }
}

fn below(tls: &TlsStream) -> &Watched {
    tls.get_ref().get_ref().get_ref().inner().inner()
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

/// The kind of an error, if it is the library's.
pub(crate) fn kind(cause: &(dyn StdError + 'static)) -> Option<Kind> {
    // The libraries below it give no more than a text. An alert is the backend's word.
    let text = cause.downcast_ref::<native_tls::Error>()?.to_string();
    let text = text.to_lowercase();
    if text.contains("certificate") && !text.contains("alert") {
        Some(Kind::TlsCertificate)
    } else {
        Some(Kind::TlsProtocol)
    }
}
