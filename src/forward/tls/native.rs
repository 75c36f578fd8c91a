//! TLS by the platform's own library.

use std::error::Error as StdError;

use http::Uri;
use hyper_tls::{MaybeHttpsStream, native_tls};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt, util::MapResponse};

use super::watched::Watched;
use crate::{
    error::{BoxError, Kind},
    forward::connect::Tcp,
};

type Watch = fn(TokioIo<TcpStream>) -> TokioIo<Watched>;

pub(crate) struct Connector(hyper_tls::HttpsConnector<MapResponse<Tcp, Watch>>);

pub(crate) type TlsStream = hyper_tls::TlsStream<TokioIo<TokioIo<Watched>>>;

impl Connector {
    /// Fails where the library doesn't work.
    pub(crate) fn new(tcp: &Tcp) -> Result<Self, BoxError> {
        let mut tls = native_tls::TlsConnector::builder();
        let tls = &mut tls;
        #[cfg(feature = "http2")]
        let tls = tls.request_alpns(&["h2", "http/1.1"]);
        let watch: Watch = |tcp| TokioIo::new(Watched::new(tcp.into_inner()));
        let mut connector: hyper_tls::HttpsConnector<_> =
            (tcp.clone().map_response(watch), tls.build()?.into()).into();
        connector.https_only(true);
        Ok(Self(connector))
    }
}

/// Connects to an `https` origin.
pub(crate) fn connect(
    connector: &Connector,
    origin: Uri,
) -> impl Future<Output = Result<TlsStream, BoxError>> + Send + use<> {
    let connecting = connector.0.clone().call(origin);
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

/// Whether the end that was read is none that the backend announced.
pub(crate) fn is_cut(tls: &TlsStream) -> bool {
    below(tls).is_cut()
}

#[cfg(feature = "http2")]
pub(crate) fn has_chosen_http2(tls: &TlsStream) -> bool {
    matches!(tls.get_ref().negotiated_alpn(), Ok(Some(protocol)) if protocol == b"h2")
}

/// What an error means, if it is the library's.
pub(crate) fn kind(cause: &(dyn StdError + 'static)) -> Option<Kind> {
    // The libraries below give no more than a text. An alert is what the backend says.
    let text = cause.downcast_ref::<native_tls::Error>()?.to_string();
    let text = text.to_lowercase();
    Some(
        match text.contains("certificate") && !text.contains("alert") {
            true => Kind::TlsCertificate,
            false => Kind::TlsProtocol,
        },
    )
}
