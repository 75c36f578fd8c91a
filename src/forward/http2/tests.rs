//! On paused time, over a pipe in memory.

use http::Response;
use http_body_util::{Channel, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{BackendConfig, Config, TimeoutLayer};

const BACKEND: &str = "http://backend.test/v1";

type Server = h2::server::Connection<DuplexStream, Bytes>;

fn backend() -> Backend {
    let config = Config::builder().backend(BackendConfig::new("LLM1", BACKEND));
    Backend::all(&config.build().unwrap())[0].clone()
}

/// A connection, and the backend's side of it, which allows so many streams.
async fn connected(max_streams: u32) -> (Connection, Server) {
    let (ours, theirs) = duplex(64 * 1024);
    let connection = connect(ours, None).await.unwrap();
    let mut server = h2::server::Builder::new();
    server.max_concurrent_streams(max_streams);
    (connection, server.handshake(theirs).await.unwrap())
}

/// Serves without an answer until the connection is closed.
async fn serve_silently(mut server: Server) {
    let mut asked = Vec::new();
    while let Some(Ok(request)) = server.accept().await {
        asked.push(request);
    }
}

fn send(reserved: Reserved, body: RequestBody) -> Exchange {
    let (parts, ()) = Request::post("/v1/chat/completions")
        .body(())
        .unwrap()
        .into_parts();
    let Ok(exchange) = reserved.send(&parts, body, &backend()) else {
        panic!("not sent");
    };
    exchange
}

async fn head(exchange: &mut Exchange) -> Result<Head, Error> {
    let head = std::future::poll_fn(|cx| exchange.poll_head(cx)).await;
    head.map(|(head, _)| head)
}

/// Waits until what can happen without waiting has happened.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn one_stream_is_open_at_first_and_then_as_many_as_the_backend_allows() {
    let (connection, server) = connected(3).await;
    let first = connection.reserve().unwrap();
    assert!(first.is_first());
    assert!(connection.reserve().is_none());

    tokio::spawn(serve_silently(server));
    settle().await;
    let more = [connection.reserve().unwrap(), connection.reserve().unwrap()];
    assert!(more.iter().all(|reserved| !reserved.is_first()));
    assert!(connection.reserve().is_none());

    // A place is taken until its exchange is dropped.
    let exchange = send(first, RequestBody::default());
    assert!(connection.reserve().is_none());
    drop(exchange);
    assert!(connection.reserve().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_answers_pings_keeps_its_connection() {
    let (mut connection, server) = connected(100).await;
    tokio::spawn(serve_silently(server));
    let _place = connection.reserve().unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert!(connection.is_usable(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_not_there_any_more_is_noticed() {
    let (mut connection, _server) = connected(100).await;
    let mut exchange = send(connection.reserve().unwrap(), RequestBody::default());
    let started = Instant::now();

    let error = head(&mut exchange).await.err().unwrap();

    assert_eq!(error.code(), "connection_terminated");
    assert_eq!(started.elapsed().as_secs(), 50);
    assert!(!connection.is_usable(Duration::MAX));
    assert!(connection.reserve().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_for_too_long_is_closed() {
    const IDLE: Duration = Duration::from_secs(90);
    let (mut connection, server) = connected(100).await;
    let server = tokio::spawn(serve_silently(server));
    settle().await;
    let place = connection.reserve().unwrap();
    sleep(2 * IDLE).await;
    assert!(connection.is_usable(IDLE));
    drop(place);
    sleep(IDLE / 2).await;
    assert!(connection.is_usable(IDLE));
    sleep(IDLE).await;
    assert!(!connection.is_usable(IDLE));

    drop(connection);
    settle().await;
    assert!(server.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_announced_end_lets_no_more_requests_in() {
    let (mut connection, mut server) = connected(100).await;
    let mut exchange = send(connection.reserve().unwrap(), RequestBody::default());
    let (_, mut respond) = server.accept().await.unwrap().unwrap();
    server.graceful_shutdown();
    tokio::spawn(serve_silently(server));
    settle().await;

    assert!(connection.reserve().is_none());
    assert!(!connection.is_usable(Duration::MAX));
    // What was sent before goes on.
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(head(&mut exchange).await.ok().unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_head_stands_while_the_client_sends() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10_700);
    let (connection, server) = connected(100).await;
    tokio::spawn(serve_silently(server));
    let (mut client, body) = Channel::<Bytes>::new(1);
    let service = TimeoutLayer::new()
        .with_response_head(TIMEOUT)
        .layer(service_fn(move |request: Request<RequestBody>| {
            let mut exchange = send(connection.reserve().unwrap(), request.into_body());
            async move {
                let head = head(&mut exchange).await?;
                Ok::<_, Error>(Response::new(Full::<Bytes>::from(head.status.to_string())))
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
async fn what_a_backend_writes_at_the_end_is_not_told() {
    let (ours, mut theirs) = duplex(64 * 1024);
    let connection = connect(ours, None).await.unwrap();
    let mut exchange = send(connection.reserve().unwrap(), RequestBody::default());
    // SETTINGS, then GOAWAY with its last stream, its reason and debug data (RFC 9113, section 6).
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let go_away = [0, 0, 8 + 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    let end = [&settings[..], &go_away, b"sk-key"].concat();
    theirs.write_all(&end).await.unwrap();

    let error = head(&mut exchange).await.err().unwrap();

    assert_eq!(error.code(), "connection_terminated");
    let text = format!("{error:?}");
    assert!(
        text.contains("excessive load") && !text.contains("sk-"),
        "{text}"
    );
}

/// What a look shows at last that shows something. The runtime doesn't hear of anything meanwhile.
fn look(reserved: &Reserved) -> Look {
    loop {
        match reserved.look() {
            Look::Silent => std::thread::sleep(Duration::from_millis(1)),
            look => return look,
        }
    }
}

#[tokio::test]
async fn a_look_shows_what_the_runtime_has_not_heard_of() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (ours, mut theirs) = (ours.unwrap(), theirs.unwrap().0);
    let socket = socket2::SockRef::from(&ours).try_clone().unwrap();
    let connection = connect(ours, Some(socket)).await.unwrap();
    let mut preface = [0; 24];
    theirs.read_exact(&mut preface).await.unwrap();

    let reserved = connection.reserve().unwrap();
    assert_eq!(reserved.look(), Look::Silent);
    theirs.write_all(b"\0").await.unwrap();
    assert_eq!(look(&reserved), Look::Unread);
    while reserved.look() == Look::Unread {
        tokio::task::yield_now().await;
    }

    drop(theirs);
    assert_eq!(look(&reserved), Look::Closed);
    drop(reserved);
    assert!(connection.reserve().is_none());
}
