//! Makes connections to backends: names, TCP and TLS are hyper-util's and hyper-tls's work, what is
//! ours is to tell their failures apart.

use std::{
    error::Error as StdError,
    fmt, io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Uri;
use hyper_util::client::legacy::connect::{HttpConnector, dns::GaiResolver};
use pin_project_lite::pin_project;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::{Service, ServiceExt, util::MapErr};

#[cfg(feature = "native-tls")]
use hyper_util::rt::TokioIo;

use crate::{
    backend::Origin,
    error::{BoxError, Error, Kind},
};

type Resolver = MapErr<GaiResolver, fn(io::Error) -> DnsError>;

#[cfg(feature = "native-tls")]
type Inner = hyper_tls::HttpsConnector<HttpConnector<Resolver>>;
#[cfg(not(feature = "native-tls"))]
type Inner = HttpConnector<Resolver>;

/// Connects to the origins of backends.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: Inner,
}

impl Connector {
    /// Fails where the system's TLS library can't be set up.
    pub(crate) fn new() -> Result<Self, BoxError> {
        let resolver: Resolver = GaiResolver::new().map_err(DnsError);
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.set_nodelay(true);
        http.enforce_http(false);
        #[cfg(feature = "native-tls")]
        let inner = {
            let tls = hyper_tls::native_tls::TlsConnector::new()?;
            hyper_tls::HttpsConnector::from((http, tls.into()))
        };
        #[cfg(not(feature = "native-tls"))]
        let inner = http;
        Ok(Self { inner })
    }

    /// Starts to connect. `period` is for all of it: the name, TCP and TLS.
    pub(crate) fn connect(&self, origin: &Origin, period: Duration) -> Connecting {
        let mut inner = self.inner.clone();
        Connecting {
            // The connector is ready from the start: its resolver always is.
            connected: tokio::time::timeout(period, inner.call(origin.0.clone())),
        }
    }
}

pin_project! {
    /// A connection in the making.
    pub(crate) struct Connecting {
        #[pin]
        connected: tokio::time::Timeout<<Inner as Service<Uri>>::Future>,
    }
}

impl Future for Connecting {
    type Output = Result<Stream, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().connected.poll(cx)) {
            Ok(Ok(stream)) => Ok(Stream::new(stream)),
            Ok(Err(error)) => Err(classify(error.into())),
            Err(elapsed) => Err(Error::new(Kind::ConnectTimeout).with_source(elapsed)),
        })
    }
}

/// Which step of connecting failed.
fn classify(error: BoxError) -> Error {
    let mut kind = Kind::Refused;
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*error);
    while let Some(cause) = next {
        next = cause.source();
        if cause.is::<DnsError>() {
            kind = Kind::Dns;
        }
        #[cfg(feature = "native-tls")]
        if let Some(tls) = cause.downcast_ref::<hyper_tls::native_tls::Error>() {
            // The libraries below give no more than a text.
            let is_certificate = tls.to_string().to_lowercase().contains("certificate");
            kind = match is_certificate {
                true => Kind::TlsCertificate,
                false => Kind::TlsProtocol,
            };
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.kind() == io::ErrorKind::TimedOut
        {
            kind = Kind::ConnectTimeout;
        }
    }
    Error::new(kind).with_source(error)
}

/// Marks what the resolver says, to be found again behind the connector's own error.
#[derive(Debug)]
pub(crate) struct DnsError(io::Error);

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name could not be resolved")
    }
}

impl StdError for DnsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// A connection to a backend.
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(feature = "native-tls")]
    Tls(Box<hyper_tls::TlsStream<TokioIo<TokioIo<TcpStream>>>>),
}

impl Stream {
    #[cfg(feature = "native-tls")]
    fn new(stream: hyper_tls::MaybeHttpsStream<TokioIo<TcpStream>>) -> Self {
        match stream {
            hyper_tls::MaybeHttpsStream::Http(tcp) => Self::Tcp(tcp.into_inner()),
            hyper_tls::MaybeHttpsStream::Https(tls) => Self::Tls(Box::new(tls.into_inner())),
        }
    }

    #[cfg(not(feature = "native-tls"))]
    fn new(stream: hyper_util::rt::TokioIo<TcpStream>) -> Self {
        Self::Tcp(stream.into_inner())
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            #[cfg(feature = "native-tls")]
            Self::Tls(tls) => tls.get_ref().get_ref().get_ref().inner().inner(),
        }
    }

    /// Whether nothing has come on an idle connection, as far as the runtime has heard: its end or
    /// any data means that it can't be used.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// The same, asked of the socket itself.
    pub(crate) fn socket_is_silent(&self) -> bool {
        let peeked = SockRef::from(self.tcp()).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Calls a method of whichever stream it is.
macro_rules! delegate {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match $self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).$method($($argument),*),
            #[cfg(feature = "native-tls")]
            Stream::Tls(tls) => Pin::new(tls).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}
