//! Makes connections to backends and classifies the errors: names and TCP are hyper-util's work, TLS
//! that of [`tls`].

mod tunnel;

use std::{
    error::Error as StdError,
    io,
    path::Path,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Uri;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout};
use tower::Service;

use super::{
    http2,
    stream::Stream,
    tcp::{self, DnsError, Resolver, Tcp},
};
use crate::{
    backend::{Origin, Route},
    error::{BoxError, Error, Kind},
    tls,
};

/// Connects to the origins of backends.
pub(crate) struct Connector {
    tcp: Tcp,
    /// Made when it is first needed: reading the certificate authorities takes a while.
    tls: OnceLock<Result<tls::Client, tls::Unusable>>,
}

/// The versions of HTTP that a connection may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    /// HTTP/2, if it is enabled and the backend chooses it, else HTTP/1.1.
    Any,
    /// HTTP/1.1 alone, as an upgrade needs it.
    Http1,
}

impl Connector {
    pub(crate) fn new() -> Self {
        Self::with_resolver(tcp::resolver())
    }

    fn with_resolver(resolver: Resolver) -> Self {
        Self {
            tcp: tcp::connector(resolver),
            tls: OnceLock::new(),
        }
    }

    /// Makes ready what connections to this origin need, so that the first one needn't wait.
    pub(crate) fn prepare(&self, origin: &Origin) {
        if origin.is_https() {
            let _ = self.tls(origin);
        }
    }

    /// The same for all origins without settings of their own.
    pub(crate) fn prepare_tls(&self) {
        let _ = self.default_tls();
    }

    fn default_tls(&self) -> &Result<tls::Client, tls::Unusable> {
        let default = || tls::Client::new(tls::Credentials::default());
        self.tls.get_or_init(default)
    }

    fn tls<'a>(&'a self, origin: &'a Origin) -> Result<&'a tls::Client, Error> {
        if let Some(client) = origin.tls() {
            return Ok(client);
        }
        let client = self.default_tls().as_ref();
        client.map_err(|error| Error::new(Kind::TlsProtocol).with_source(error.to_string()))
    }

    /// Starts to connect. `period` is for all of it: the name, TCP and TLS. The addresses of a name
    /// share it, so that one which drops packets doesn't hide the others.
    pub(crate) fn connect(
        &self,
        origin: &Origin,
        versions: Versions,
        period: Duration,
    ) -> Result<Connecting, Error> {
        let mut tcp = self.tcp.clone();
        tcp.set_connect_timeout(Some(period));
        // The connector is ready from the start, as its resolver always is.
        let attempt = match origin.route() {
            Route::Direct if !origin.is_https() => Attempt::Tcp {
                future: tcp.call(origin.uri().clone()),
            },
            _ => {
                let tls = origin.is_https().then(|| self.tls(origin)).transpose()?;
                let tls = tls.map(|tls| tls.connector(versions == Versions::Http1).clone());
                let future = Box::pin(connect(origin.clone(), tcp, tls));
                Attempt::Steps { future }
            }
        };
        Ok(Connecting {
            attempt: timeout(period, attempt),
        })
    }
}

/// Connects in more than one step, or to a Unix socket.
async fn connect(
    origin: Origin,
    mut tcp: Tcp,
    tls: Option<tls::Connector>,
) -> Result<Connected, BoxError> {
    let tcp = match origin.route() {
        Route::Direct => tcp.call(origin.uri().clone()).await?.into_inner(),
        Route::Unix(path) => return connect_unix(path).await,
        Route::Proxy(proxy) => tcp.call(proxy.uri().clone()).await?.into_inner(),
        Route::Tunnel(proxy) => {
            let mut tcp = tcp.call(proxy.uri().clone()).await?.into_inner();
            let authority = format!("{}:{}", origin.host(), origin.port());
            tunnel::open(&mut tcp, &authority, proxy.authorization()).await?;
            tcp
        }
    };
    match tls {
        Some(tls) => Connected::over(tls::connect(tls, origin.host(), tcp).await?).await,
        None => Ok(Connected::Http1(Stream::tcp(tcp))),
    }
}

#[cfg(unix)]
async fn connect_unix(path: &Path) -> Result<Connected, BoxError> {
    let unix = tokio::net::UnixStream::connect(path).await?;
    Ok(Connected::Http1(Stream::unix(unix)))
}

/// No configuration has such a URL.
#[cfg(not(unix))]
async fn connect_unix(_: &Path) -> Result<Connected, BoxError> {
    Err(io::Error::from(io::ErrorKind::Unsupported).into())
}

/// A new connection, by the version of HTTP that it speaks.
pub(crate) enum Connected {
    Http1(Stream),
    Http2(http2::Connection),
}

impl Connected {
    /// By the version that the backend has chosen.
    async fn over(tls: tls::TlsStream) -> Result<Self, BoxError> {
        if tls::has_chosen_http2(&tls) {
            return Ok(Self::Http2(http2::connect(tls).await?));
        }
        Ok(Self::Http1(Stream::tls(tls)))
    }
}

pin_project! {
    /// A connection in the making.
    pub(crate) struct Connecting {
        #[pin]
        attempt: Timeout<Attempt>,
    }
}

pin_project! {
    #[project = AttemptProj]
    enum Attempt {
        Tcp { #[pin] future: <Tcp as Service<Uri>>::Future },
        Steps { future: Pin<Box<dyn Future<Output = Result<Connected, BoxError>> + Send>> },
    }
}

impl Future for Attempt {
    type Output = Result<Connected, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            AttemptProj::Tcp { future } => {
                let tcp = ready!(future.poll(cx)).map_err(BoxError::from)?;
                Ok(Connected::Http1(Stream::tcp(tcp.into_inner())))
            }
            AttemptProj::Steps { future } => ready!(future.as_mut().poll(cx)),
        })
    }
}

impl Future for Connecting {
    type Output = Result<Connected, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let connected = ready!(self.project().attempt.poll(cx));
        Poll::Ready(connected.map_or_else(
            |elapsed| Err(Error::new(Kind::ConnectTimeout).with_source(elapsed)),
            |connected| connected.map_err(classify),
        ))
    }
}

/// Which step of connecting failed.
fn classify(error: BoxError) -> Error {
    let mut kind = Kind::Refused;
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*error);
    while let Some(cause) = next {
        // `source` skips what an I/O error wraps.
        let wrapped = cause.downcast_ref::<io::Error>();
        next = match wrapped.and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
        if cause.is::<DnsError>() {
            kind = Kind::Dns;
        }
        if let Some(error) = cause.downcast_ref::<tls::HandshakeError>() {
            kind = if error.is_certificate {
                Kind::TlsCertificate
            } else {
                Kind::TlsProtocol
            };
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.raw_os_error().is_some_and(is_out_of_descriptors)
        {
            kind = Kind::Overloaded;
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.kind() == io::ErrorKind::TimedOut
        {
            kind = Kind::ConnectTimeout;
        }
    }
    Error::new(kind).with_source(error)
}

/// Whether this process has no file descriptors left (`EMFILE`, `ENFILE`).
fn is_out_of_descriptors(code: i32) -> bool {
    cfg!(unix) && matches!(code, 23 | 24)
}

#[cfg(test)]
mod tests;
