//! Exchanges with a deadline, whose client has stopped reading, on paused time.

use std::sync::Arc;

use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::sleep,
};
use tower::service_fn;

use tower_openai_proxy::timeout::EndsAt;

use super::*;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// More of the same for ever. When it is dropped, it tells.
struct Endless(Arc<Semaphore>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
            &[b'x'; 64 * 1024],
        )))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

const TIME: Duration = Duration::from_secs(5);

/// Connects to a server that answers `/endless` so, with a deadline, and anything else at once.
async fn connect(dropped: &Arc<Semaphore>, notices: Notices) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("a connection");
    let dropped = dropped.clone();
    let service = service_fn(move |request: Request<RequestBody>| {
        let dropped = dropped.clone();
        async move {
            let body = match request.uri().path() {
                "/endless" => Body::new(Endless(dropped)),
                _ => Body::new(Full::from("whole")),
            };
            let mut response = Response::new(body);
            let deadline = EndsAt(Instant::now() + TIME);
            response.extensions_mut().insert(deadline);
            Ok::<_, Infallible>(response)
        }
    });
    let limits = Limits::new(Duration::from_secs(620), notices);
    serve(Stream::Tcp(stream), None, service, limits);
    client
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_response_in_time_is_closed() {
    let dropped = Arc::new(Semaphore::new(0));
    let (_told_nothing, notices) = watch::channel(Notice::default());
    let mut client = connect(&dropped, notices).await;
    // What ends in time leaves the connection as it is.
    for _ in 0..2 {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.expect("open");
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\nwhole") {
            let length = client.read_buf(&mut received).await.expect("open");
            assert!(length > 0, "closed");
        }
        sleep(2 * TIME).await;
    }

    let request = b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request).await.expect("open");
    let start = Instant::now();
    let in_time = timeout(2 * TIME, dropped.acquire()).await;
    assert!(in_time.is_ok(), "the body is still there");
    assert_eq!(start.elapsed().as_secs(), TIME.as_secs());
    let _ = client.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_an_http2_client_does_not_read_in_time_is_reset() {
    let dropped = Arc::new(Semaphore::new(0));
    let (_told_nothing, notices) = watch::channel(Notice::default());
    let stream = TokioIo::new(connect(&dropped, notices).await);
    let http2 = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = http2.await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut get = |path| {
        let request = Request::get(format!("http://proxy.test{path}"));
        sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"))
    };
    let endless = get("/endless").await.expect("a response");
    let start = Instant::now();
    let in_time = timeout(2 * TIME, dropped.acquire()).await;
    assert!(in_time.is_ok(), "the body is still there");
    assert_eq!(start.elapsed().as_secs(), TIME.as_secs());
    assert!(endless.into_body().collect().await.is_err());

    // The others of the connection go on.
    let answer = get("/").await.expect("a response");
    sleep(2 * TIME).await;
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "whole");
}
