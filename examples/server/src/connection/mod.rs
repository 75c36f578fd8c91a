//! One connection with a client, from its first byte on.

mod body;
mod date;
mod deadline;
mod extensions;
mod http1;
mod http2;
mod linger;
#[cfg(test)]
mod tests;
mod timer;
mod wake;

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, InvalidMessage},
    server::TlsStream,
};
use tower::{BoxError, Service};

pub(crate) use self::wake::RequestBody;
use crate::{
    notice::{Notice, Notices},
    serve::CurrentTls,
    socket::{Socket, Stream},
    tls,
};

/// How long a connection may take for its handshake or its first bytes, and each request for its
/// head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection that is being closed waits for the client's side of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The size of a request's head. Above it: 431. Some gateways send large tokens and cookies along.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// How long a connection lives.
pub(crate) struct Limits {
    keep_alive: Duration,
    /// None while the server drains.
    notices: Option<Notices>,
}

impl Limits {
    pub(crate) fn new(keep_alive: Duration, notices: Notices) -> Self {
        Self {
            keep_alive,
            notices: Some(notices),
        }
    }

    /// For a connection accepted while the server drains, which doesn't wait for it.
    pub(crate) fn while_draining() -> Self {
        Self {
            keep_alive: CLOSE_TIMEOUT,
            notices: None,
        }
    }
}

/// What answers requests.
pub(crate) trait Handler:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static;
}

impl<S, B> Handler for S
where
    S: Service<
            Request<RequestBody>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        >,
    S: Clone + Send + Sync + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Body = B;
}

/// Serves a connection in a separate task.
pub(crate) fn serve<S: Handler>(
    stream: Stream,
    tls: Option<&CurrentTls>,
    service: S,
    limits: Limits,
) {
    // Cheaper than a clone for each request, and in a box as it is moved around.
    let service = Box::new(Mutex::new(service));
    // Two kinds of tasks, so that the one without TLS has no room for it.
    match tls {
        None => tokio::spawn(async move {
            match open_plain(stream, limits).await {
                Ok((socket, is_http2, limits)) => {
                    speak(socket.clone(), socket, is_http2, service, limits).await;
                }
                Err(error) => tracing::debug!(%error, "connection ended before a request"),
            }
        }),
        Some(tls) => {
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            tokio::spawn(async move {
                match open_tls(stream, acceptor, limits).await {
                    Ok((stream, limits)) => {
                        let (socket, session) = stream.get_ref();
                        let is_http2 = session.alpn_protocol() == Some(tls::HTTP2);
                        speak(socket.clone(), stream, is_http2, service, limits).await;
                    }
                    Err(error) => log_handshake(&error),
                }
            })
        }
    };
}

fn log_handshake(error: &io::Error) {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            tracing::debug!(
                "TLS handshake failed: the client doesn't speak TLS (plain HTTP on the HTTPS port?)"
            );
        }
        _ => tracing::debug!(%error, "TLS handshake failed"),
    }
}

fn log_end(error: &hyper::Error) {
    let cause = error.source();
    if error.is_parse() {
        tracing::debug!(%error, cause, "malformed request");
    } else {
        tracing::debug!(%error, cause, "connection ended");
    }
}

async fn open_plain(stream: Stream, limits: Limits) -> io::Result<(Socket, bool, Limits)> {
    let socket = Socket::new(stream)?;
    let opening = socket.begins_with(http2::PREFACE);
    let (is_http2, limits) = opened(opening, limits).await?;
    Ok((socket, is_http2, limits))
}

async fn open_tls(
    stream: Stream,
    acceptor: TlsAcceptor,
    limits: Limits,
) -> io::Result<(Box<TlsStream<Socket>>, Limits)> {
    // In boxes, as they are large, and a task has room for every place that they are moved to.
    let accepting = Box::pin(acceptor.accept(Socket::new(stream)?));
    let (stream, limits) = opened(accepting, limits).await?;
    Ok((Box::new(stream), limits))
}

/// Waits for what comes before the first request: it has a limit, and draining ends it.
async fn opened<T>(
    opening: impl Future<Output = io::Result<T>>,
    mut limits: Limits,
) -> io::Result<(T, Limits)> {
    let opened = {
        let draining = async {
            match &mut limits.notices {
                Some(notices) => notices.wait_for(|notice| notice.is_draining).await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            opened = timeout(HEAD_TIMEOUT, opening) => opened??,
            _ = draining => return Err(io::Error::other("the server is draining")),
        }
    };
    Ok((opened, limits))
}

/// Serves a connection in this version of HTTP. It keeps its receiver of the notices until the
/// connection has been dropped, and everything that it had in flight is logged.
#[expect(
    clippy::manual_async_fn,
    reason = "its future would have each argument twice"
)]
fn speak<T, S>(
    socket: Socket,
    stream: T,
    is_http2: bool,
    service: Box<Mutex<S>>,
    mut limits: Limits,
) -> impl Future<Output = ()> + Send
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Handler,
{
    async move {
        let service = move |request| {
            // `OpenAiProxy` is always ready, so `poll_ready` need not be called.
            let mut service = service.lock().unwrap_or_else(PoisonError::into_inner);
            service.call(request)
        };
        let result = if is_http2 {
            let mut connection = http2::connection(stream, service, limits.keep_alive);
            drive(&mut connection, &socket, &mut limits.notices).await
        } else {
            let mut connection = http1::connection(socket.clone(), stream, service, &limits);
            let serving = drive(&mut connection, &socket, &mut limits.notices);
            let in_time = deadline::enforce(serving).await;
            in_time.unwrap_or(Ok(End::TooLate))
        };
        match result {
            Ok(End::Proper) => {}
            Ok(End::ClientLeft) => tracing::debug!("the client left"),
            Ok(End::TooLate) => tracing::debug!("the client did not read its response in time"),
            Err(error) => log_end(&error),
        }
    }
}

/// A connection in one version of HTTP.
trait Connection {
    /// Serves it. Ready at its end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;

    /// Ends it behind the exchanges in flight: at once, where there are none.
    fn shut_down(&mut self);

    /// Since when nothing has been in flight, where that is so.
    fn idle_since(&self) -> Option<Instant>;

    /// Whether everything is sent, and only the client's side is waited for.
    fn is_closing(&self) -> bool;
}

/// What happens to a connection.
enum Event {
    Ended(hyper::Result<()>),
    ClientLeft,
    Told,
}

/// How a connection ended.
enum End {
    Proper,
    ClientLeft,
    TooLate,
}

/// Serves a connection to its end, which notices bring nearer.
async fn drive(
    connection: &mut impl Connection,
    socket: &Socket,
    notices: &mut Option<Notices>,
) -> hyper::Result<End> {
    let mut client_left = pin!(socket.closed());
    loop {
        let mut waiting = notices.clone();
        let told = async {
            let is_told = match &mut waiting {
                Some(waiting) => waiting.changed().await.is_ok(),
                None => false,
            };
            if !is_told {
                std::future::pending::<()>().await;
            }
        };
        let mut told = pin!(told);
        let mut is_asked = false;
        let event = poll_fn(|cx| {
            // Asked once, it wakes this task; from then on a glance is enough.
            let has_changed = |notices: &Notices| notices.has_changed().unwrap_or(false);
            if !is_asked || notices.as_ref().is_some_and(has_changed) {
                is_asked = true;
                if told.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Told);
                }
            }
            let (polled, is_read) = socket.is_read_in(|| connection.poll(cx));
            if let Poll::Ready(result) = polled {
                return Poll::Ready(Event::Ended(result));
            }
            let is_watched = !is_read && !connection.is_closing();
            if is_watched && client_left.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::ClientLeft);
            }
            Poll::Pending
        });
        match event.await {
            Event::Ended(result) => return result.map(|()| End::Proper),
            Event::ClientLeft => return Ok(End::ClientLeft),
            Event::Told => {
                let Some(notices) = notices else {
                    continue;
                };
                let Notice {
                    is_draining,
                    idle_since,
                } = *notices.borrow_and_update();
                let is_idle = |bound| connection.idle_since().is_some_and(|since| since <= bound);
                if is_draining || idle_since.is_some_and(is_idle) {
                    connection.shut_down();
                }
            }
        }
    }
}
