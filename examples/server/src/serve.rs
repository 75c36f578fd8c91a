use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::TcpListener,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tower::{BoxError, Layer, Service, util::service_fn as tower_service_fn};
use tower_openai_proxy::{Error, OpenAiProxyLayer};

use crate::{
    http2::{self, HeadTimeout},
    linger::{Linger, Socket},
    timer::ConnectionTimer,
    tls,
};

/// How long a connection may take for its handshake or its first bytes, and each request for its
/// head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses when it fails, as it does where no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// While accepting goes on failing, it is said this often.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What HTTPS is served with now. It changes at a reload.
pub(crate) type CurrentTls = watch::Receiver<Arc<ServerConfig>>;

/// Changes when the server begins to wind down.
pub(crate) type Draining = watch::Receiver<bool>;

/// Serves one listener, for ever: plain HTTP, or HTTPS. When `draining` changes, what is in flight
/// is brought to its end; what of that still goes on holds a clone of `draining`.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<CurrentTls>,
    layer: OpenAiProxyLayer,
    mut draining: Draining,
) -> io::Result<()> {
    let mut listener = Listener::new(listener)?;
    let proxy = layer.handle();
    let service = layer.layer(tower_service_fn(move |_| not_found(proxy.is_draining())));
    loop {
        tokio::select! {
            stream = listener.next() => {
                serve(stream, tls.as_ref(), service.clone(), Some(draining.clone()));
            }
            _ = draining.changed() => break,
        }
    }
    drop(draining);
    loop {
        serve(listener.next().await, tls.as_ref(), service.clone(), None);
    }
}

struct Listener {
    listener: tokio::net::TcpListener,
    warned: Option<Instant>,
}

impl Listener {
    fn new(listener: TcpListener) -> io::Result<Self> {
        Ok(Self {
            listener: tokio::net::TcpListener::from_std(listener)?,
            warned: None,
        })
    }

    /// The next connection. Where none can be taken, as when no file descriptor is left, it waits.
    async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // The client has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let warned = self.warned.map(|warned| warned.elapsed());
                    if warned.is_none_or(|elapsed| elapsed >= ACCEPT_WARN_INTERVAL) {
                        tracing::warn!(%error, "cannot accept connections for now");
                        self.warned = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What answers requests.
trait Handler:
    Service<
        Request<Incoming>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> Handler for S
where
    S: Service<
            Request<Incoming>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        >,
    S: Clone + Send + Sync + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// Serves one connection, in a task of its own.
fn serve<S: Handler>(
    stream: TcpStream,
    tls: Option<&CurrentTls>,
    service: S,
    draining: Option<Draining>,
) {
    // Cheaper than a clone for each request, and in a box as it is moved around.
    let service = Box::new(Mutex::new(service));
    // Two kinds of tasks, so that the one without TLS has no room for it.
    match tls {
        None => tokio::spawn(async move {
            match open_plain(&stream, draining).await {
                Ok((is_http2, draining)) => speak(stream, is_http2, service, draining).await,
                Err(error) => log_end(&error),
            }
        }),
        Some(tls) => {
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            tokio::spawn(async move {
                match open_tls(stream, acceptor, draining).await {
                    Ok((stream, draining)) => {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
                        speak(stream, is_http2, service, draining).await;
                    }
                    Err(error) => log_end(&error),
                }
            })
        }
    };
}

fn log_end(error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(error, "connection ended");
}

async fn open_plain(
    stream: &TcpStream,
    draining: Option<Draining>,
) -> io::Result<(bool, Option<Draining>)> {
    stream.set_nodelay(true)?;
    opened(begins_as_http2(stream), draining).await
}

async fn open_tls(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    draining: Option<Draining>,
) -> io::Result<(TlsStream<TcpStream>, Option<Draining>)> {
    stream.set_nodelay(true)?;
    opened(acceptor.accept(stream), draining).await
}

/// What comes before the first request: it has a limit, and draining ends it.
async fn opened<T>(
    opening: impl Future<Output = io::Result<T>>,
    draining: Option<Draining>,
) -> io::Result<(T, Option<Draining>)> {
    let opening = timeout(HEAD_TIMEOUT, opening);
    let Some(mut draining) = draining else {
        return Ok((opening.await??, None));
    };
    tokio::select! {
        biased;
        opened = opening => Ok((opened??, Some(draining))),
        _ = draining.changed() => Err(io::Error::other("the server is draining")),
    }
}

/// Serves a connection in this version of HTTP. It holds on to `draining` until the connection is
/// gone, and all has been logged that it had in flight.
async fn speak<T, S>(stream: T, is_http2: bool, service: Box<Mutex<S>>, draining: Option<Draining>)
where
    T: AsyncRead + AsyncWrite + Socket + Send + Unpin + 'static,
    S: Handler,
{
    let is_http_1_0 = Arc::new(AtomicBool::new(false));
    let service = {
        let is_http_1_0 = is_http_1_0.clone();
        service_fn(move |request: Request<Incoming>| {
            if request.version() == Version::HTTP_10 {
                is_http_1_0.store(true, Ordering::Relaxed);
            }
            // Always ready, so it is called without asking.
            let mut service = service.lock().unwrap_or_else(PoisonError::into_inner);
            service.call(request)
        })
    };
    let result = if is_http2 {
        let stream = TokioIo::new(HeadTimeout::new(stream, HEAD_TIMEOUT));
        // In a box, so that the task has no room for it where it isn't needed.
        let mut connection = Box::pin(http2::builder().serve_connection(stream, service));
        finish(connection.as_mut(), draining.as_ref()).await
    } else {
        let stream = TokioIo::new(Linger::new(stream, is_http_1_0));
        let mut builder = http1::Builder::new();
        builder
            .timer(ConnectionTimer::default())
            .header_read_timeout(HEAD_TIMEOUT);
        let connection = pin!(builder.serve_connection(stream, service));
        finish(connection, draining.as_ref()).await
    };
    if let Err(error) = result {
        log_end(&error);
    }
}

/// Serves a connection to its end, which draining brings nearer.
async fn finish<C>(mut connection: Pin<&mut C>, draining: Option<&Draining>) -> Result<(), C::Error>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let Some(draining) = draining else {
        return connection.await;
    };
    let mut waiting = draining.clone();
    let mut begins = pin!(waiting.changed());
    let mut is_asked = false;
    let mut is_draining = false;
    poll_fn(move |cx| {
        // Asked once, it wakes this task; from then on a glance is enough.
        let may_have_begun = !is_asked || draining.has_changed().unwrap_or(true);
        if may_have_begun && !is_draining {
            is_asked = true;
            is_draining = begins.as_mut().poll(cx).is_ready();
            if is_draining {
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    })
    .await
}

/// Whether the client opens with the preface of HTTP/2 (RFC 9113, section 3.4). Takes nothing.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = http2::PREFACE;
    let mut begin = [0; PREFACE.len()];
    let mut pause = Duration::from_millis(1);
    loop {
        let length = stream.peek(&mut begin).await?;
        // No more comes where the client has shut its sending side down.
        let is_over = stream.ready(Interest::READABLE).await?.is_read_closed();
        let is_undecided = length > 0 && length < PREFACE.len() && !is_over;
        if !is_undecided || !PREFACE.starts_with(&begin[..length]) {
            return Ok(begin[..length] == *PREFACE);
        }
        // What is there stays readable, so there is nothing to wait for but time.
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(250));
    }
}

/// Answers what isn't the proxy's.
async fn not_found(is_draining: bool) -> Result<Response<Full<Bytes>>, Infallible> {
    let error = match is_draining {
        true => Error::draining(),
        false => Error::not_found(),
    };
    Ok(error.to_response().map(Full::new))
}
