//! Makes connections to backends: names, TCP and TLS are the work of hyper-util and of the TLS
//! libraries, what is ours is to tell their failures apart.

use std::{
    error::Error as StdError,
    fmt, io,
    mem::MaybeUninit,
    pin::Pin,
    sync::OnceLock,
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

#[cfg(feature = "http2")]
use super::http2;
use super::tls;
use crate::{
    backend::Origin,
    error::{BoxError, Error, Kind},
};

type Resolver = MapErr<GaiResolver, fn(io::Error) -> DnsError>;
pub(super) type Tcp = HttpConnector<Resolver>;

/// Connects to the origins of backends.
pub(crate) struct Connector {
    tcp: Tcp,
    /// Made when it is needed: reading the certificate authorities takes a while.
    tls: OnceLock<Result<tls::Connector, BoxError>>,
}

impl Connector {
    pub(crate) fn new() -> Self {
        let resolver: Resolver = GaiResolver::new().map_err(DnsError);
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Self {
            tcp,
            tls: OnceLock::new(),
        }
    }

    /// Makes ready what connections to this origin need, so that the first one needn't wait.
    pub(crate) fn prepare(&self, origin: &Origin) {
        if origin.is_https() {
            let _ = self.tls();
        }
    }

    fn tls(&self) -> &Result<tls::Connector, BoxError> {
        self.tls.get_or_init(|| tls::Connector::new(&self.tcp))
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

    fn connect_tls(&self, origin: &Origin) -> Result<Attempt, Error> {
        let tls = self.tls().as_ref();
        let tls =
            tls.map_err(|error| Error::new(Kind::TlsProtocol).with_source(error.to_string()))?;
        let connecting = tls::connect(tls, origin.uri().clone());
        let future = Box::pin(async move {
            let stream = connecting.await?;
            #[cfg(feature = "http2")]
            if tls::has_chosen_http2(&stream) {
                let socket = SockRef::from(tls::tcp(&stream)).try_clone().ok();
                return Ok(Connected::Http2(http2::connect(stream, socket).await?));
            }
            Ok(Connected::Http1(Stream::Tls(Box::new(stream))))
        });
        Ok(Attempt::Tls { future })
    }
}

/// A new connection, by the version of HTTP that it speaks.
pub(crate) enum Connected {
    Http1(Stream),
    #[cfg(feature = "http2")]
    Http2(http2::Connection),
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
        Tls { future: Pin<Box<dyn Future<Output = Result<Connected, BoxError>> + Send>> },
    }
}

impl Future for Attempt {
    type Output = Result<Connected, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            AttemptProj::Tcp { future } => {
                let tcp = ready!(future.poll(cx)).map_err(BoxError::from)?;
                Ok(Connected::Http1(Stream::Tcp(tcp.into_inner())))
            }
            AttemptProj::Tls { future } => ready!(future.as_mut().poll(cx)),
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
        kind = tls::kind(cause).unwrap_or(kind);
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

/// Whether the fault is this system's own: no file descriptor is left (`EMFILE`, `ENFILE`).
fn is_out_of_descriptors(code: i32) -> bool {
    cfg!(unix) && matches!(code, 23 | 24)
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
    Tls(Box<tls::TlsStream>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls::tcp(tls),
        }
    }

    /// Whether nothing has come on an idle connection, as far as the runtime has heard: its end or
    /// any data means that it can't be used.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        if let Self::Tcp(tcp) = self {
            let read = tcp.try_read(&mut byte);
            return matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
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
            Self::Tls(tls) => {
                let room = buffer.remaining();
                ready!(Pin::new(&mut *tls).poll_read(cx, buffer))?;
                let is_end = buffer.remaining() == room;
                Poll::Ready(match is_end && tls::is_cut(tls) {
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
