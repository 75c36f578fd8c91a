//! On paused time, over a pipe in memory.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Channel, Empty, Full};
use tokio::{
    io::{DuplexStream, duplex},
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    RequestBody, TimeoutLayer,
    forward::message::{ExchangeError, Framing, Head},
};

const MAX_AGE: Duration = Duration::from_secs(600);

type Server = h2::server::Connection<DuplexStream, Bytes>;

/// A connection, and the backend's side of it, which allows so many streams.
async fn connected(max_streams: u32) -> (Connection, Server) {
    let (client, server) = duplex(64 * 1024);
    let connection = connect(client).await.unwrap();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(max_streams);
    (connection, builder.handshake(server).await.unwrap())
}

/// Serves without an answer until the connection is closed.
async fn serve_without_responding(mut server: Server) {
    let mut asked = Vec::new();
    while let Some(Ok(request)) = server.accept().await {
        asked.push(request);
    }
}

fn send<B>(permit: StreamPermit, body: B) -> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    let head = Request::post("https://backend.test/v1/chat/completions");
    let sent = permit.send(head.body(()).unwrap(), Framing::Chunked, body);
    sent.ok().expect("an open connection")
}

fn send_empty(permit: StreamPermit) -> Exchange<Empty<Bytes>> {
    send(permit, Empty::new())
}

async fn head<B>(exchange: &mut Exchange<B>) -> Result<Head, ExchangeError<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    std::future::poll_fn(|cx| exchange.poll_head(cx)).await
}

/// Waits until what can happen without waiting has happened.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn one_stream_is_open_at_first_and_then_as_many_as_the_backend_allows() {
    let (connection, server) = connected(3).await;
    let first = connection.reserve(MAX_AGE).unwrap();
    assert!(connection.reserve(MAX_AGE).is_none());

    tokio::spawn(serve_without_responding(server));
    settle().await;
    let _more = [0; 2].map(|_| connection.reserve(MAX_AGE).unwrap());
    assert!(connection.reserve(MAX_AGE).is_none());

    // A permit is taken until its exchange is dropped.
    let exchange = send_empty(first);
    assert!(connection.reserve(MAX_AGE).is_none());
    drop(exchange);
    assert!(connection.reserve(MAX_AGE).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_answers_pings_keeps_its_connection() {
    let (mut connection, server) = connected(100).await;
    tokio::spawn(serve_without_responding(server));
    let _permit = connection.reserve(MAX_AGE).unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert!(connection.is_usable(Duration::ZERO, Duration::MAX));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_no_longer_answers_pings_is_given_up() {
    let (mut connection, _server) = connected(100).await;
    let mut exchange = send_empty(connection.reserve(MAX_AGE).unwrap());
    let started = Instant::now();

    let error = head(&mut exchange).await.err().unwrap();

    assert!(matches!(error, ExchangeError::Closed(_)), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 50);
    assert!(!connection.is_usable(Duration::MAX, Duration::MAX));
    assert!(connection.reserve(MAX_AGE).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_unusable_when_it_has_been_idle_for_too_long() {
    const IDLE: Duration = Duration::from_secs(90);
    let (mut connection, server) = connected(100).await;
    let server = tokio::spawn(serve_without_responding(server));
    settle().await;
    let permit = connection.reserve(MAX_AGE).unwrap();
    sleep(2 * IDLE).await;
    assert!(connection.is_usable(IDLE, Duration::MAX));
    drop(permit);
    sleep(IDLE / 2).await;
    assert!(connection.is_usable(IDLE, Duration::MAX));
    sleep(IDLE).await;
    assert!(!connection.is_usable(IDLE, Duration::MAX));

    drop(connection);
    settle().await;
    assert!(server.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_connection_takes_no_requests_once_its_end_is_announced() {
    let (mut connection, mut server) = connected(100).await;
    let mut exchange = send_empty(connection.reserve(MAX_AGE).unwrap());
    let (_, mut respond) = server.accept().await.unwrap().unwrap();
    server.graceful_shutdown();
    tokio::spawn(serve_without_responding(server));
    settle().await;

    assert!(connection.reserve(MAX_AGE).is_none());
    assert!(!connection.is_usable(Duration::MAX, Duration::MAX));
    // What was sent before goes on.
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(head(&mut exchange).await.ok().unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_response_header_timeout_is_paused_while_the_client_sends() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10_700);
    let (connection, server) = connected(100).await;
    tokio::spawn(serve_without_responding(server));
    let (mut client, body) = Channel::<Bytes>::new(1);
    let service = TimeoutLayer::new()
        .with_default_response_head(TIMEOUT)
        .layer(service_fn(move |request: Request<RequestBody>| {
            let mut exchange = send(connection.reserve(MAX_AGE).unwrap(), request.into_body());
            async move {
                let head = head(&mut exchange).await.expect("waits");
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(head.status.to_string())))
            }
        }));
    let answer = tokio::spawn(service.oneshot(Request::new(body)));

    for _ in 0..3 {
        sleep(PAUSE).await;
        client.send_data(Bytes::from("some text")).await.unwrap();
    }
    sleep(PAUSE).await;
    assert!(!answer.is_finished());
    drop(client);
    let started = Instant::now();

    let error = answer.await.unwrap().err().unwrap();

    assert_eq!(error.code(), "http_response_timeout");
    let late = started.elapsed().checked_sub(TIMEOUT).expect("early");
    assert!(late < Duration::from_millis(5), "late by {late:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_takes_no_more_requests() {
    let (mut connection, server) = connected(100).await;
    tokio::spawn(serve_without_responding(server));
    settle().await;
    let permit = connection.reserve(MAX_AGE).unwrap();
    sleep(MAX_AGE - Duration::from_secs(1)).await;
    assert!(connection.is_usable(Duration::MAX, MAX_AGE));
    drop(connection.reserve(MAX_AGE).unwrap());
    sleep(Duration::from_secs(1)).await;

    assert!(connection.reserve(MAX_AGE).is_none());
    assert!(!connection.is_usable(Duration::MAX, MAX_AGE));
    // A stream that was opened before goes on.
    drop(connection);
    let mut exchange = send_empty(permit);
    let waiting = tokio::time::timeout(Duration::from_secs(10), head(&mut exchange)).await;
    assert!(waiting.is_err());
}
