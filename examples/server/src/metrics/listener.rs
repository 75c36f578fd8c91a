//! The HTTP listener that is scraped, on a separate thread: it answers until the process exits, and a
//! large or slow scrape holds no worker up.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus_client::{
    encoding::prometheus_text::{self, CONTENT_TYPE},
    registry::Registry,
};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Where the metrics are.
pub(super) const PATH: &str = "/metrics";

/// How long a scrape may take, from its connection to the end of its response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many scrapes may be under way; further ones wait.
const MAX_CONNECTIONS: usize = 64;

/// How long accepting pauses when it fails, as it does where no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens, alone on this address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts the thread.
pub(super) fn start(listener: TcpListener, registry: Registry) -> io::Result<()> {
    let runtime = crate::new_runtime()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let thread = thread::Builder::new().name("metrics".to_owned());
    thread.spawn(move || runtime.block_on(accept(listener, registry)))?;
    Ok(())
}

pub(super) async fn accept(listener: tokio::net::TcpListener, registry: Registry) {
    let registry = Arc::new(registry);
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = free.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = registry.clone();
                tokio::spawn(async move {
                    let _ = timeout(TIMEOUT, serve(stream, &registry)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, registry: &Registry) {
    let service = service_fn(async |request: Request<_>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), registry))
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}

fn answer(method: &Method, path: &str, registry: &Registry) -> Response<Full<Bytes>> {
    let plain = |status, body: &'static str| {
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    };
    if path != PATH {
        return plain(StatusCode::NOT_FOUND, "The metrics are at /metrics.\n");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let mut text = String::new();
    if prometheus_text::encode(&mut text, registry).is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "");
    }
    let mut response = Response::new(Full::from(text));
    let content_type = HeaderValue::from_static(CONTENT_TYPE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}
