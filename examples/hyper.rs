//! The proxy on hyper alone: HTTP/1.1 and HTTP/2 on one port, and a graceful shutdown on Ctrl-C.
//!
//! ```sh
//! cargo run --example hyper                             # 127.0.0.1:3000, backends from config.json
//! cargo run --example hyper 127.0.0.1:8080 other.json   # another address and configuration
//! ```
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/v1/chat/completions \
//!     -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
//!     -d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```
//!
//! For a server that faces the internet, with TLS and limits, see `examples/server`.

use std::{convert::Infallible, env, error::Error, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, signal, time};
use tower::ServiceBuilder;
use tower_openai_proxy::{Config, OpenAiProxyLayer};

/// How long responses in flight may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:3000".to_owned());
    let config = Config::from_path(arguments.next().unwrap_or("config.json".to_owned()))?;

    let layer = OpenAiProxyLayer::builder(config).health("/health").build();
    let proxy = layer.handle();
    let service = ServiceBuilder::new().layer(layer).service_fn(not_found);
    let service = TowerToHyperService::new(service);

    let mut server = auto::Builder::new(TokioExecutor::new());
    // Without a timer, hyper gives clients any time they like to send a request's head.
    server.http1().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut interrupt = pin!(signal::ctrl_c());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
            interrupted = &mut interrupt => break interrupted?,
        };
        // Sends each chunk of a stream at once.
        let _ = stream.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone());
        // Fails when the client disconnects, which is no concern of the server.
        tokio::spawn(connections.watch(connection.into_owned()));
    }

    // Refuses new connections, then new requests, and waits for the responses in flight.
    drop(listener);
    proxy.drain();
    time::timeout(GRACE, connections.shutdown()).await?;
    Ok(())
}

/// Answers every request that is not for the proxy.
async fn not_found(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = tower_openai_proxy::Error::not_found().to_response();
    Ok(response.map(Full::new))
}
