use std::{convert::Infallible, io, net::TcpListener, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tower::{Layer, Service, util::service_fn as tower_service_fn};
use tower_openai_proxy::{Error, OpenAiProxyLayer};

use crate::linger::Linger;

/// How long a connection may take for its first bytes, and each request for its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses when it fails, as it does where no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// HTTP/2 connections on which nothing happens are asked this often whether they still live.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Serves one listener, for ever.
pub(crate) async fn accept(listener: TcpListener, layer: OpenAiProxyLayer) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = layer.layer(tower_service_fn(not_found));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    let served = serve(stream, service).await;
                    if let Err(error) = served {
                        tracing::debug!(error = &*error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection in the version of HTTP that it speaks.
async fn serve<S, B>(
    stream: TcpStream,
    service: S,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    stream.set_nodelay(true)?;
    let is_http2 = timeout(HEAD_TIMEOUT, begins_as_http2(&stream)).await??;
    // Always ready, so it is called without asking.
    let service = service_fn(move |request| service.clone().call(request));
    if is_http2 {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .serve_connection(TokioIo::new(stream), service)
            .await?;
    } else {
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(Linger::new(stream)), service)
            .await?;
    }
    Ok(())
}

/// Whether the client opens with the preface of HTTP/2 (RFC 9113, section 3.4). Takes nothing.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    let mut begin = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut begin).await?;
        let is_undecided = length > 0 && length < PREFACE.len();
        if !is_undecided || !PREFACE.starts_with(&begin[..length]) {
            return Ok(begin[..length] == *PREFACE);
        }
        // What is there stays readable, so there is nothing to wait for but time.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers what isn't the proxy's.
async fn not_found(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Error::not_found().to_response().map(Full::new))
}
