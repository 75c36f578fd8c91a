use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown, Watcher},
};
use tokio::{io::Interest, net::TcpStream, sync::watch, time::timeout};
use tower::{BoxError, Layer, Service, util::service_fn as tower_service_fn};
use tower_openai_proxy::{Error, OpenAiProxyLayer};

use crate::{linger::Linger, timer::ConnectionTimer};

/// How long a connection may take for its first bytes, and each request for its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses when it fails, as it does where no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// HTTP/2 connections on which nothing happens are asked this often whether they still live.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Serves one listener, for ever. When `draining` changes, what is in flight is brought to its end;
/// then `draining` is dropped, but the listener is served on.
pub(crate) async fn accept(
    listener: TcpListener,
    layer: OpenAiProxyLayer,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let fallback = layer.clone();
    let service = layer.layer(tower_service_fn(move |_| not_found(fallback.is_draining())));
    let in_flight = GracefulShutdown::new();
    loop {
        tokio::select! {
            stream = next(&listener) => {
                tokio::spawn(serve(stream, service.clone(), Some(in_flight.watcher())));
            }
            _ = draining.changed() => break,
        }
    }
    tokio::spawn(async move {
        in_flight.shutdown().await;
        drop(draining);
    });
    loop {
        tokio::spawn(serve(next(&listener).await, service.clone(), None));
    }
}

/// The next connection. Where none can be taken, as when no file descriptor is left, it waits.
async fn next(listener: &tokio::net::TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S, B>(stream: TcpStream, service: S, watcher: Option<Watcher>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Err(error) = try_serve(stream, service, watcher).await {
        tracing::debug!(error = &*error, "connection ended");
    }
}

/// Serves one connection in the version of HTTP that it speaks.
async fn try_serve<S, B>(
    stream: TcpStream,
    service: S,
    watcher: Option<Watcher>,
) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    stream.set_nodelay(true)?;
    let is_http2 = timeout(HEAD_TIMEOUT, begins_as_http2(&stream)).await??;
    let is_http_1_0 = Arc::new(AtomicBool::new(false));
    let service = {
        let is_http_1_0 = is_http_1_0.clone();
        service_fn(move |request: Request<Incoming>| {
            if request.version() == Version::HTTP_10 {
                is_http_1_0.store(true, Ordering::Relaxed);
            }
            // Always ready, so it is called without asking.
            service.clone().call(request)
        })
    };
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .serve_connection(TokioIo::new(stream), service);
        finish(connection, watcher).await?;
    } else {
        let connection = http1::Builder::new()
            .timer(ConnectionTimer::default())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(Linger::new(stream, is_http_1_0)), service);
        finish(connection, watcher).await?;
    }
    Ok(())
}

/// Serves a connection to its end, which draining brings nearer.
async fn finish<C>(connection: C, watcher: Option<Watcher>) -> Result<(), C::Error>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    match watcher {
        Some(watcher) => watcher.watch(connection).await,
        None => connection.await,
    }
}

/// Whether the client opens with the preface of HTTP/2 (RFC 9113, section 3.4). Takes nothing.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    // The whole of it: the library would wait for the rest for ever.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
