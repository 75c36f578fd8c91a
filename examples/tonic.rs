//! A tonic server that gains the proxy by one line: `.layer(OpenAiProxyLayer::from_config(config))`.
//!
//! ```sh
//! cargo run --example tonic                             # 127.0.0.1:3000, backend OpenAI
//! cargo run --example tonic 127.0.0.1:8080 config.json  # another address, backends from a file
//! ```
//!
//! Its own service is gRPC's [health protocol], for the server (`""`) and for each backend by its
//! name: `Check` answers once, `Watch` is a stream of changes. With [grpc-health-probe]:
//!
//! ```sh
//! grpc-health-probe -addr 127.0.0.1:3000 -service LLM1
//! ```
//!
//! or with curl, a message as gRPC frames it (`\0`, its length, then field 1: `LLM1`):
//!
//! ```sh
//! printf '\0\0\0\0\6\12\4LLM1' | curl -sN --http2-prior-knowledge \
//!     http://127.0.0.1:3000/grpc.health.v1.Health/Check \
//!     -H 'Content-Type: application/grpc' -H 'TE: trailers' --data-binary @- | xxd
//! ```
//!
//! And it serves chat completions, over HTTP/2 and HTTP/1.1:
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/v1/chat/completions \
//!     -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
//!     -d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```
//!
//! [health protocol]: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
//! [grpc-health-probe]: https://github.com/grpc-ecosystem/grpc-health-probe

use std::{env, error::Error, time::Duration};

use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower_openai_proxy::{Backend, Config, OpenAiProxyLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:3000".to_owned());
    let config = match arguments.next() {
        Some(path) => Config::from_path(path)?,
        None => Config::default(),
    };
    let proxy = OpenAiProxyLayer::from_config(config);

    let (reporter, routes) = app();
    tokio::spawn(report(proxy.handle().backends().to_vec(), reporter));

    let incoming = TcpIncoming::bind(address.parse()?)?.with_nodelay(Some(true));
    println!("listening on http://{}", incoming.local_addr()?);
    Server::builder()
        .accept_http1(true) // which curl and OpenAI's SDKs speak
        .layer(proxy)
        .add_routes(routes)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The gRPC services as they were before.
pub fn app() -> (HealthReporter, Routes) {
    let (reporter, health) = tonic_health::server::health_reporter();
    (reporter, Routes::new(health))
}

/// Reports which backends work, each time that changes.
async fn report(backends: Vec<Backend>, reporter: HealthReporter) {
    let mut reported = vec![None; backends.len()];
    loop {
        for (backend, reported) in backends.iter().zip(&mut reported) {
            let status = match backend.is_cooling_down() {
                true => ServingStatus::NotServing,
                false => ServingStatus::Serving,
            };
            if reported.replace(status) != Some(status) {
                reporter.set_service_status(backend.name(), status).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
