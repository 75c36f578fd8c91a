//! `--demo`: an embedded mock of the OpenAI API, good enough to develop against.
//!
//! Responses have the shapes of the API reference, with usage, rate-limit headers and the API's
//! errors. There is no model behind them: the text is always the same except for an excerpt of the
//! user's last message. `/realtime` takes and sends the API's events by WebSocket, in text only.
//!
//! Any model name gets an answer, and some get trouble. The header `x-demo: 429` asks for the same
//! as the model `demo-429`, on any path, and takes precedence.
//!
//! | model         | what happens                                                              |
//! | ------------- | ------------------------------------------------------------------------- |
//! | `demo-401`    | 401 `invalid_api_key`                                                     |
//! | `demo-404`    | 404 `model_not_found`                                                     |
//! | `demo-429`    | 429 `rate_limit_exceeded`, with `retry-after` and the remaining limits    |
//! | `demo-500`    | 500 `server_error`                                                        |
//! | `demo-break`  | the connection is closed in the middle of the body, streamed or not       |
//! | `demo-silent` | no response at all; a stream stalls after its first word                  |

mod answer;
mod audio;
mod base64;
mod chat;
mod completion;
mod completions;
mod embeddings;
mod endpoint;
mod error;
mod files;
mod form;
mod id;
mod images;
mod models;
mod realtime;
mod reply;
mod request;
mod responses;
mod sample;
mod text;
mod trouble;
mod websocket;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::{
    Request, Response, body::Incoming, header::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use self::{answer::Script, error::ApiError};

/// Starts the mock on a free loopback port of the current runtime and returns its address.
/// Serves until the runtime ends.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream))),
                // Most likely out of file descriptors, which passes.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(address)
}

async fn connection(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // An error here is a client that disconnected, or a response truncated on purpose.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(respond))
        .with_upgrades()
        .await;
}

async fn respond(mut request: Request<Incoming>) -> Result<Response<Script>, hyper::Error> {
    let started = Instant::now();
    let upgrade = websocket::requested(&mut request);
    let (head, mut body) = request.into_parts();
    let response = match upgrade {
        Some(upgrade) => websocket::open(&head, upgrade),
        None => endpoint::answer(&head, &mut body).await,
    };
    // An error may come before the end of an upload: without this, the client might never read it.
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let mut response = response.unwrap_or_else(ApiError::into_response);
    let processing = started.elapsed().as_millis().to_string();
    for (name, value) in [
        ("x-request-id", &*id::unique("req_")),
        ("openai-organization", "org-demo"),
        ("openai-processing-ms", &*processing),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "1999900"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "3ms"),
    ] {
        let value = HeaderValue::from_str(value).expect("printable");
        // An error may have set its own.
        response.headers_mut().entry(name).or_insert(value);
    }
    Ok(response)
}
