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
    time::{Timeout, timeout},
};
use tower::{Service, ServiceExt, util::MapErr};

#[cfg(feature = "native-tls")]
use {
    super::watched::Watched, hyper_util::rt::TokioIo, std::sync::OnceLock, tower::util::MapResponse,
};

use crate::{
    backend::Origin,
    error::{BoxError, Error, Kind},
};

type Resolver = MapErr<GaiResolver, fn(io::Error) -> DnsError>;
type Tcp = HttpConnector<Resolver>;

#[cfg(feature = "native-tls")]
type Watch = fn(TokioIo<TcpStream>) -> TokioIo<Watched>;
#[cfg(feature = "native-tls")]
type Tls = hyper_tls::HttpsConnector<MapResponse<Tcp, Watch>>;
#[cfg(feature = "native-tls")]
type TlsStream = hyper_tls::TlsStream<TokioIo<TokioIo<Watched>>>;

/// Connects to the origins of backends.
pub(crate) struct Connector {
    tcp: Tcp,
    /// Made when it is needed: reading the certificate authorities takes a while.
    #[cfg(feature = "native-tls")]
    tls: OnceLock<Result<Tls, hyper_tls::native_tls::Error>>,
}

impl Connector {
    pub(crate) fn new() -> Self {
        let resolver: Resolver = GaiResolver::new().map_err(DnsError);
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Self {
            tcp,
            #[cfg(feature = "native-tls")]
            tls: OnceLock::new(),
        }
    }

    /// Makes ready what connections to this origin need, so that the first one needn't wait.
    pub(crate) fn prepare(&self, origin: &Origin) {
        #[cfg(feature = "native-tls")]
        if origin.is_https() {
            let _ = self.tls();
        }
        #[cfg(not(feature = "native-tls"))]
        let _ = origin;
    }

    #[cfg(feature = "native-tls")]
    fn tls(&self) -> &Result<Tls, hyper_tls::native_tls::Error> {
        self.tls.get_or_init(|| {
            let tls = hyper_tls::native_tls::TlsConnector::new()?;
            let watch: Watch = |tcp| TokioIo::new(Watched::new(tcp.into_inner()));
            Ok((self.tcp.clone().map_response(watch), tls.into()).into())
        })
    }

    /// Starts to connect. `period` is for all of it: the name, TCP and TLS.
    pub(crate) fn connect(&self, origin: &Origin, period: Duration) -> Result<Connecting, Error> {
        // The connectors are ready from the start: their resolver always is.
        let attempt = match origin.is_https() {
            true => self.connect_tls(origin)?,
            false => Attempt::Tcp {
                future: self.tcp.clone().call(origin.uri().clone()),
            },
        };
        Ok(Connecting {
            attempt: timeout(period, attempt),
        })
    }

    #[cfg(feature = "native-tls")]
    fn connect_tls(&self, origin: &Origin) -> Result<Attempt, Error> {
        match self.tls() {
            Ok(tls) => Ok(Attempt::Tls {
                future: tls.clone().call(origin.uri().clone()),
            }),
            Err(error) => Err(Error::new(Kind::TlsProtocol).with_source(error.to_string())),
        }
    }

    #[cfg(not(feature = "native-tls"))]
    fn connect_tls(&self, _: &Origin) -> Result<Attempt, Error> {
        Err(Error::new(Kind::TlsProtocol).with_source("built without TLS"))
    }
}

pin_project! {
    /// A connection in the making.
    pub(crate) struct Connecting {
        #[pin]
        attempt: Timeout<Attempt>,
    }
}

#[cfg(feature = "native-tls")]
pin_project! {
    #[project = AttemptProj]
    enum Attempt {
        Tcp { #[pin] future: <Tcp as Service<Uri>>::Future },
        Tls { #[pin] future: <Tls as Service<Uri>>::Future },
    }
}

#[cfg(not(feature = "native-tls"))]
pin_project! {
    #[project = AttemptProj]
    enum Attempt {
        Tcp { #[pin] future: <Tcp as Service<Uri>>::Future },
    }
}

impl Future for Attempt {
    type Output = Result<Stream, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            AttemptProj::Tcp { future } => {
                let tcp = ready!(future.poll(cx)).map_err(BoxError::from)?;
                Ok(Stream::Tcp(tcp.into_inner()))
            }
            #[cfg(feature = "native-tls")]
            AttemptProj::Tls { future } => match ready!(future.poll(cx))? {
                hyper_tls::MaybeHttpsStream::Http(tcp) => {
                    Ok(Stream::Tcp(tcp.into_inner().into_tcp()))
                }
                hyper_tls::MaybeHttpsStream::Https(tls) => {
                    Ok(Stream::Tls(Box::new(tls.into_inner())))
                }
            },
        })
    }
}

impl Future for Connecting {
    type Output = Result<Stream, Error>;

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
        next = cause.source();
        if cause.is::<DnsError>() {
            kind = Kind::Dns;
        }
        #[cfg(feature = "native-tls")]
        if let Some(tls) = cause.downcast_ref::<hyper_tls::native_tls::Error>() {
            // The libraries below give no more than a text. An alert is what the backend says.
            let text = tls.to_string().to_lowercase();
            kind = match text.contains("certificate") && !text.contains("alert") {
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
    Tls(Box<TlsStream>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            #[cfg(feature = "native-tls")]
            Self::Tls(tls) => below(tls).tcp(),
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

#[cfg(feature = "native-tls")]
fn below(tls: &TlsStream) -> &Watched {
    tls.get_ref().get_ref().get_ref().inner().inner()
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
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            #[cfg(feature = "native-tls")]
            Self::Tls(tls) => {
                let room = buffer.remaining();
                ready!(Pin::new(&mut *tls).poll_read(cx, buffer))?;
                let is_end = buffer.remaining() == room;
                Poll::Ready(match is_end && below(tls).is_cut() {
                    true => Err(io::ErrorKind::UnexpectedEof.into()),
                    false => Ok(()),
                })
            }
        }
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
