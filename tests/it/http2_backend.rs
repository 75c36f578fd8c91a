//! Backends that choose HTTP/2 in the TLS handshake.

// Elsewhere the certificate authorities are the system's, and can't be chosen for a test.
#![cfg(all(
    feature = "http2",
    any(feature = "native-tls", feature = "rustls"),
    not(any(windows, target_vendor = "apple"))
))]

use std::{future::poll_fn, net::Shutdown, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_native_tls::{TlsAcceptor, TlsStream};

use crate::{
    support::{
        self, Backend, Message, Server, Wire, chunked, config_of, find,
        http2::{self, Http2},
        noise, post, post_with, response, soon,
    },
    websocket::{SWITCH, handshake},
};

/// A backend that takes HTTP/2 alone, or that and HTTP/1.1.
struct Http2Backend {
    port: u16,
    asked: UnboundedReceiver<Asked>,
}

/// A request that came, and the way to answer it.
struct Asked {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    /// Its connection.
    connection: Arc<Connection>,
}

/// The backend's side of a connection.
struct Connection {
    number: usize,
    go_away: UnboundedSender<Option<Reason>>,
    task: AbortHandle,
    /// Below all of it.
    socket: Socket,
}

impl Connection {
    /// Announces the end. What was sent before may go on.
    fn go_away(&self) {
        self.go_away.send(None).expect("a connection");
    }

    /// Ends all of it with this reason.
    fn abort(&self, reason: Reason) {
        self.go_away.send(Some(reason)).expect("a connection");
    }

    /// Closes it without a word.
    fn close(&self) {
        self.task.abort();
        self.socket.shutdown(Shutdown::Write).expect("connected");
    }

    /// Waits until the proxy has closed it, too.
    async fn closed(&self) {
        let gone = async {
            while !self.task.is_finished() {
                sleep(Duration::from_millis(1)).await;
            }
            let socket = self.socket.try_clone().expect("a socket");
            let stream = TcpStream::from_std(socket.into()).expect("a socket");
            Wire::new(stream).rest().await;
        };
        soon("the end", gone).await;
    }
}

fn acceptor(protocols: &[&str]) -> TlsAcceptor {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let read = |name| std::fs::read(certificates.join(name)).expect("a file");
    let identity = native_tls::Identity::from_pkcs8(&read("good.pem"), &read("leaf.key"));
    let mut acceptor = native_tls::TlsAcceptor::builder(identity.expect("a key"));
    acceptor.accept_alpn(protocols);
    acceptor.build().expect("a certificate").into()
}

impl Http2Backend {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(configure: impl FnOnce(&mut h2::server::Builder)) -> Self {
        let mut builder = h2::server::Builder::new();
        configure(&mut builder);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(&["h2", "http/1.1"]);
        let (ask, asked) = unbounded_channel();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((tcp, _)) = listener.accept().await {
                number += 1;
                let socket = SockRef::from(&tcp).try_clone().expect("a socket");
                let tls = accept_tls(acceptor.clone(), tcp);
                tokio::spawn(serve(tls, socket, builder.clone(), number, ask.clone()));
            }
        });
        Self { port, asked }
    }

    fn server(&self) -> Server {
        self.server_with("")
    }

    fn server_with(&self, settings: &str) -> Server {
        server_for(self.port, "", settings)
    }

    /// The next request.
    async fn asked(&mut self) -> Asked {
        let asked = soon("a request", self.asked.recv()).await;
        asked.expect("the backend runs")
    }

    async fn is_asked(&mut self) -> bool {
        let asked = timeout(Duration::from_millis(100), self.asked.recv()).await;
        asked.is_ok()
    }
}

async fn accept_tls(acceptor: TlsAcceptor, tcp: TcpStream) -> TlsStream<TcpStream> {
    tcp.set_nodelay(true).expect("a socket");
    acceptor.accept(tcp).await.expect("a handshake")
}

async fn serve(
    tls: impl Future<Output = TlsStream<TcpStream>> + Send + 'static,
    socket: Socket,
    builder: h2::server::Builder,
    number: usize,
    ask: UnboundedSender<Asked>,
) {
    let (go_away, mut goes_away) = unbounded_channel();
    let (start, started) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut http2 = builder.handshake(tls.await).await.expect("HTTP/2");
        let connection: Arc<Connection> = started.await.expect("sent below");
        loop {
            tokio::select! {
                request = http2.accept() => match request {
                    Some(Ok((request, respond))) => {
                        let connection = connection.clone();
                        let _ = ask.send(Asked { request, respond, connection });
                    }
                    _ => return,
                },
                Some(reason) = goes_away.recv() => match reason {
                    None => http2.graceful_shutdown(),
                    Some(reason) => http2.abrupt_shutdown(reason),
                },
            }
        }
    });
    let connection = Connection {
        number,
        go_away,
        task: task.abort_handle(),
        socket,
    };
    let _ = start.send(Arc::new(connection));
}

/// A server for the backend `LLM1` at this port, with further fields and settings.
fn server_for(port: u16, fields: &str, settings: &str) -> Server {
    let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/authority.pem");
    let entry = format!(r#"{{"name":"LLM1","url":"https://localhost:{port}/v1"{fields}}}"#);
    let authority = authority.to_str().expect("UTF-8");
    let environment = [("SSL_CERT_FILE", authority), ("TEST_KEY", "sk-backend")];
    Server::start_with(&config_of(&[entry], settings), &[], &environment)
}

impl Asked {
    /// Answers with a head, and a body that follows.
    fn head(&mut self, response: http::response::Builder) -> SendStream<Bytes> {
        let response = response.body(()).expect("a head");
        self.respond.send_response(response, false).expect("open")
    }

    /// Answers 200 with this body.
    fn answer(&mut self, body: impl Into<Bytes>) {
        self.head(Response::builder())
            .send_data(body.into(), true)
            .expect("open");
    }

    /// The whole body, and the trailers.
    async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let mut whole = Vec::new();
        while let Some(piece) = self.chunk().await {
            whole.extend_from_slice(&piece);
        }
        let trailers = soon("trailers", self.request.body_mut().trailers()).await;
        (whole, trailers.expect("an open stream"))
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        let body = self.request.body_mut();
        let piece = soon("a chunk", body.data()).await?.expect("a chunk");
        let room = body.flow_control();
        room.release_capacity(piece.len()).expect("was taken");
        Some(piece)
    }

    /// Waits until the stream is reset.
    async fn reset(&mut self) -> Reason {
        let reset = soon("a reset", poll_fn(|cx| self.respond.poll_reset(cx))).await;
        reset.expect("a reset")
    }
}

/// Waits until the stream is reset.
async fn reset(stream: &mut SendStream<Bytes>) -> Reason {
    let reset = soon("a reset", poll_fn(|cx| stream.poll_reset(cx))).await;
    reset.expect("a reset")
}

/// Sends all of a body as there is room for it.
async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.expect("an open stream").expect("an open stream");
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, body.is_empty()).expect("open");
    }
}

fn fields(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let text = |(name, value)| -> (&str, &str) {
        let (name, value): (&HeaderName, &HeaderValue) = (name, value);
        (name.as_str(), value.to_str().expect("text"))
    };
    headers.iter().map(text).collect()
}

async fn client_of(server: &Server, request: impl AsRef<[u8]>) -> Wire {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client
}

// Which version.

#[tokio::test]
async fn a_backend_that_can_is_spoken_to_in_http2() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post(r#"{"model":"m"}"#)).await;
    let mut asked = backend.asked().await;
    assert_eq!(asked.request.version(), Version::HTTP_2);
    assert_eq!(asked.body().await.0, br#"{"model":"m"}"#);
    asked.answer("{\"a\": 1 }\n");

    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
    assert_eq!(answer.content(), b"{\"a\": 1 }\n");
}

#[tokio::test]
async fn a_backend_that_can_not_is_spoken_to_in_http_1_1() {
    for protocols in [&["http/1.1"][..], &[]] {
        let backend = Backend::start().await;
        let server = server_for(backend.address.port(), "", "");
        let mut client = client_of(&server, post("{}")).await;
        let tcp = backend.accept().await.stream;
        let tls = soon("a handshake", accept_tls(acceptor(protocols), tcp)).await;
        let mut wire = Wire::over(tls);
        let request = wire.request().await;
        assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
        wire.send(response("200 OK", "one")).await;
        assert_eq!(client.response().await.body, b"one");

        client.send(post("{}")).await;
        wire.request().await;
        wire.send(response("200 OK", "two")).await;
        assert_eq!(client.response().await.body, b"two");
    }
}

#[tokio::test]
async fn a_backend_without_tls_is_spoken_to_in_http_1_1() {
    let backend = Backend::start().await;
    let server = Server::start(&support::config_for(&backend));
    let _client = client_of(&server, post("{}")).await;
    let request = backend.accept().await.request().await;
    assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
}

// Requests.

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_but_for_what_concerns_the_connection() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let request = "POST /v1/chat/completions?a=b&c HTTP/1.1\r\n\
        Host: proxy.test\r\n\
        X-One: 1\r\n\
        Authorization: Bearer sk-test\r\n\
        Connection: close, X-Hop\r\n\
        X-Hop: 1\r\n\
        Keep-Alive: timeout=5\r\n\
        Proxy-Authorization: Basic x\r\n\
        Proxy-Connection: keep-alive\r\n\
        TE: trailers, gzip\r\n\
        Content-Length: 2\r\n\
        X-Two: 2\r\n\
        Upgrade: h2c\r\n\
        X-Proxy-Backend: LLM1\r\n\
        X-One: 3\r\n\
        Cookie: a=b; c=d\r\n\
        User-Agent: test\r\n\r\n{}";
    let _client = client_of(&server, request).await;
    let mut asked = backend.asked().await;

    assert_eq!(asked.request.method(), Method::POST);
    let uri = format!(
        "https://localhost:{}/v1/chat/completions?a=b&c",
        backend.port
    );
    assert_eq!(asked.request.uri().to_string(), uri);
    let expected = [
        ("x-one", "1"),
        ("x-one", "3"),
        ("authorization", "Bearer sk-test"),
        ("te", "trailers"),
        ("content-length", "2"),
        ("x-two", "2"),
        ("cookie", "a=b; c=d"),
        ("user-agent", "test"),
    ];
    assert_eq!(fields(asked.request.headers()), expected);
    assert_eq!(asked.body().await, (b"{}".to_vec(), None));
}

#[tokio::test]
async fn a_backends_own_key_replaces_the_clients_credentials() {
    let mut backend = Http2Backend::start().await;
    let server = server_for(backend.port, r#","api_key_env":"TEST_KEY""#, "");
    let _client = client_of(
        &server,
        post_with("api-key: sk-client\r\nCookie: a=b\r\n", "{}"),
    )
    .await;
    let asked = backend.asked().await;
    let expected = [
        ("authorization", "Bearer sk-backend"),
        ("content-length", "2"),
    ];
    assert_eq!(fields(asked.request.headers()), expected);
}

#[tokio::test]
async fn a_request_without_a_body_arrives_without_one() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let request =
        "GET /v1/chat/completions/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n";
    let mut client = client_of(&server, request).await;
    let mut asked = backend.asked().await;
    assert!(asked.request.body().is_end_stream());
    assert_eq!(
        fields(asked.request.headers()),
        [("authorization", "Bearer a")]
    );
    asked.answer("some text");
    assert_eq!(client.response().await.content(), b"some text");
}

#[tokio::test]
async fn a_chunked_body_arrives_as_it_comes_with_its_trailers() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    let expected = [("authorization", "Bearer a"), ("trailer", "x-sum")];
    assert_eq!(fields(asked.request.headers()), expected);
    for piece in ["some", " text"] {
        let chunk = chunked(piece.as_bytes(), &[piece.len()]);
        client.send(chunk.strip_suffix(b"0\r\n\r\n").unwrap()).await;
        assert_eq!(asked.chunk().await.unwrap(), piece);
    }
    client
        .send("0\r\nx-sum: 1\r\nauthorization: Bearer b\r\n\r\n")
        .await;
    let (rest, trailers) = asked.body().await;
    assert!(rest.is_empty());
    assert_eq!(fields(&trailers.unwrap()), [("x-sum", "1")]);
}

#[tokio::test]
async fn a_replaced_model_has_the_right_length() {
    let mut backend = Http2Backend::start().await;
    let server = server_for(backend.port, r#","model":"another""#, "");
    let _client = client_of(&server, post(r#"{"model":"m","n":1}"#)).await;
    let mut asked = backend.asked().await;
    assert_eq!(asked.request.headers()["content-length"], "25");
    assert_eq!(asked.body().await.0, br#"{"model":"another","n":1}"#);
}

#[tokio::test]
async fn large_bodies_come_through_byte_for_byte() {
    // With windows smaller than the proxy's, and larger.
    for window in [65_535, 4 << 20] {
        let backend = Http2Backend::start_with(|builder| {
            builder.initial_window_size(window);
            builder.initial_connection_window_size(window);
        });
        let mut backend = backend.await;
        let server = backend.server();
        let (question, answer) = (noise(5_000_000), Bytes::from(noise(7_000_000)));
        for framing in ["Content-Length: 5000000", "Transfer-Encoding: chunked"] {
            let body = match framing.contains("chunked") {
                true => chunked(&question, &[70_000, 1, 300_000]),
                false => question.clone(),
            };
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
                 {framing}\r\n\r\n"
            );
            let asking = async {
                let mut client = client_of(&server, head).await;
                client.send(&body).await;
                client.response().await
            };
            let answering = async {
                let mut asked = backend.asked().await;
                assert!(asked.body().await.0 == question, "another body came");
                let mut stream = asked.head(Response::builder());
                soon("room", send_all(&mut stream, answer.clone())).await;
            };
            let (response, ()) = tokio::join!(asking, answering);
            assert!(response.content() == answer, "another body came back");
        }
    }
}

#[tokio::test]
async fn many_large_bodies_share_a_connection() {
    const EACH: usize = 400_000;
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut first = client_of(&server, post("{}")).await;
    backend.asked().await.answer("");
    first.response().await;

    let body = Bytes::from(noise(EACH));
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let (address, body) = (server.address, body.clone());
            tokio::spawn(async move {
                let mut client = Wire::connect(address).await;
                let head = format!(
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
                     Content-Length: {EACH}\r\n\r\n"
                );
                client.send(head).await;
                client.send(&body).await;
                client.response().await.content() == body
            })
        })
        .collect();
    for _ in 0..asking.len() {
        let (mut asked, body) = (backend.asked().await, body.clone());
        tokio::spawn(async move {
            assert!(asked.body().await.0 == body, "another body came");
            let mut stream = asked.head(Response::builder());
            soon("room", send_all(&mut stream, body)).await;
        });
    }
    for asking in asking {
        assert!(soon("an answer", asking).await.unwrap(), "another body");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_read_slows_its_client_down() {
    // More than the sockets can hold.
    const LENGTH: usize = 24 << 20;
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
         Content-Length: {LENGTH}\r\n\r\n"
    );
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    let body = Bytes::from(noise(LENGTH));
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        client.send(sent).await;
        client
    });
    sleep(Duration::from_millis(300)).await;
    assert!(!sending.is_finished());
    assert!(asked.body().await.0 == body, "another body came");
    asked.answer("some text");
    let mut client = soon("the end", sending).await.unwrap();
    assert_eq!(client.response().await.content(), b"some text");
}

#[tokio::test]
async fn requests_over_http2_pass_with_their_trailers() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let client = Http2::connect(server.address).await;
    let request = client
        .request("POST")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .header("te", "trailers")
        .body(http2::full("{}"))
        .unwrap();
    let answering = async {
        let mut asked = backend.asked().await;
        let cookies = asked.request.headers().get_all("cookie").iter();
        assert_eq!(cookies.collect::<Vec<_>>(), ["a=b", "c=d"]);
        asked.body().await;
        let mut stream = asked.head(Response::builder().header("trailer", "x-sum"));
        stream.send_data(Bytes::from("some text"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        stream.send_trailers(trailers).unwrap();
    };
    let (answer, ()) = tokio::join!(client.send(request), answering);
    let (body, trailers) = http2::collect(answer.unwrap()).await.unwrap();
    assert_eq!(body, "some text");
    assert_eq!(fields(&trailers.unwrap()), [("x-sum", "1")]);
}

#[tokio::test]
async fn a_body_that_becomes_too_large_is_answered_413_and_ends_the_backends_request() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server_with(r#""max_body_bytes":10"#);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    client.send("6\r\n123456\r\n").await;
    asked.chunk().await;
    client.send("6\r\n123456\r\n").await;
    assert_eq!(client.response().await.status(), 413);
    assert_eq!(asked.reset().await, Reason::CANCEL);
}

#[tokio::test]
async fn an_idle_client_gets_408_and_ends_the_backends_request() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server_with(r#""idle_timeout":0.3"#);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Content-Length: 10\r\n\r\n12345";
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    assert_eq!(client.response().await.status(), 408);
    assert_eq!(asked.reset().await, Reason::CANCEL);
}

// Responses.

#[tokio::test]
async fn a_response_comes_back_as_it_was_sent() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post_with("TE: trailers\r\n", "{}")).await;
    let mut asked = backend.asked().await;
    let head = Response::builder()
        .status(429)
        .header("date", "yesterday")
        .header("x-b", "1")
        .header("retry-after", "20")
        .header("x-b", "2")
        .header("trailer", "x-sum")
        .header("proxy-authenticate", "Basic")
        .header("content-type", "application/json");
    let mut stream = asked.head(head);
    stream.send_data(Bytes::from("{ }"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    stream.send_trailers(trailers).unwrap();

    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 429 Too Many Requests");
    let expected = [
        ("date", "yesterday"),
        ("x-b", "1"),
        ("x-b", "2"),
        ("retry-after", "20"),
        ("trailer", "x-sum"),
        ("content-type", "application/json"),
        ("transfer-encoding", "chunked"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(answer.fields(), expected);
    assert_eq!(answer.body, b"3\r\n{ }\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn a_response_with_a_length_keeps_it() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder().header("content-length", 9));
    stream.send_data(Bytes::from("some text"), true).unwrap();
    let answer = client.response().await;
    assert_eq!(answer.field("content-length").as_deref(), Some("9"));
    assert_eq!(answer.body, b"some text");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = Wire::connect(server.address).await;
    for (method, status) in [("POST", 204), ("GET", 304), ("HEAD", 200)] {
        // With the head alone, and with an end that follows it.
        for is_end in [true, false] {
            let request = format!(
                "{method} /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            client.send(request).await;
            let mut asked = backend.asked().await;
            let mut head = Response::builder().status(status);
            if status != 204 {
                head = head.header("content-length", "100");
            }
            let head = head.body(()).unwrap();
            let mut stream = asked.respond.send_response(head, is_end).unwrap();
            let answer = client.head().await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            if !is_end {
                let _ = stream.send_data(Bytes::new(), true);
            }
        }
    }
    assert!(client.is_silent().await);
}

#[tokio::test]
async fn interim_responses_are_consumed() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    for status in [102, 103] {
        let interim = Response::builder().status(status).body(()).unwrap();
        asked.respond.send_informational(interim).unwrap();
    }
    asked.answer("some text");
    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
    assert_eq!(answer.content(), b"some text");
}

#[tokio::test]
async fn each_chunk_of_a_stream_comes_before_the_next_is_sent() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post(r#"{"stream":true}"#)).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder().header("content-type", "text/event-stream"));
    client.head().await;
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        stream.send_data(event.clone().into(), false).unwrap();
        client.until(&event).await;
    }
    stream.send_data(Bytes::new(), true).unwrap();
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_whole() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Content-Length: 10\r\n\r\n12345";
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    assert_eq!(asked.chunk().await.unwrap(), "12345");
    let mut stream = asked.head(Response::builder());
    stream.send_data(Bytes::from("early"), false).unwrap();
    client.until("early").await;
    client.send("67890").await;
    assert_eq!(asked.chunk().await.unwrap(), "67890");
    stream.send_data(Bytes::from("late"), true).unwrap();
    client.until("late").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_whole_answer_stands_though_the_backend_resets_what_it_did_not_read() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Content-Length: 1000000\r\n\r\n12345";
    let mut client = client_of(&server, head).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder().status(413));
    stream.send_data(Bytes::from("too large"), true).unwrap();
    // With what it hasn't read it lets go of the stream (RFC 9113, section 8.1).
    drop((stream, asked));
    let answer = client.response().await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.content(), b"too large");
}

#[tokio::test]
async fn slow_clients_slow_their_backend_down_and_no_others() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post("{}")).await;
    backend.asked().await.answer("");
    client.response().await;

    // More than the sockets and the window can hold; together more than the window that the
    // library gives a connection.
    let endless = Bytes::from(vec![b'x'; 16 << 20]);
    let mut slow = Vec::new();
    let mut sending = Vec::new();
    for _ in 0..25 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket");
        let stream = socket.connect(server.address).await;
        let mut client = Wire::new(stream.expect("someone listens"));
        client.send(post("{}")).await;
        let mut asked = backend.asked().await;
        assert_eq!(asked.connection.number, 1);
        let mut stream = asked.head(Response::builder());
        let endless = endless.clone();
        sending.push(tokio::spawn(async move {
            send_all(&mut stream, endless).await;
        }));
        client.head().await;
        slow.push(client);
    }

    // Others go on, on the same connection.
    let body = Bytes::from(noise(300_000));
    for _ in 0..20 {
        client.send(post("{}")).await;
        let mut asked = backend.asked().await;
        assert_eq!(asked.connection.number, 1);
        let mut stream = asked.head(Response::builder());
        soon("room", send_all(&mut stream, body.clone())).await;
        assert!(client.response().await.content() == body);
    }
    for sending in sending {
        assert!(!sending.is_finished());
        sending.abort();
    }
}

// Clients that disconnect.

#[tokio::test]
async fn a_client_that_disconnects_before_the_head_resets_the_stream() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let client = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    asked.body().await;
    drop(client);
    assert_eq!(asked.reset().await, Reason::CANCEL);
    server.logged("end=\"client left\"").await;
}

#[tokio::test]
async fn a_client_that_disconnects_from_an_idle_stream_resets_it() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder());
    client.head().await;
    drop(client);
    assert_eq!(reset(&mut stream).await, Reason::CANCEL);
}

#[tokio::test]
async fn a_client_that_disconnects_mid_stream_resets_it_and_no_other() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let (mut left, mut right) = (
        client_of(&server, post("{}")).await,
        Wire::connect(server.address).await,
    );
    let mut asked = backend.asked().await;
    let mut of_left = asked.head(Response::builder());
    of_left.send_data(Bytes::from("some text"), false).unwrap();
    left.until("some text").await;
    right.send(post("{}")).await;
    let mut asked = backend.asked().await;
    let mut of_right = asked.head(Response::builder());
    of_right.send_data(Bytes::from("some text"), false).unwrap();
    right.until("some text").await;

    drop(left);
    assert_eq!(reset(&mut of_left).await, Reason::CANCEL);
    of_right.send_data(Bytes::from("the end"), true).unwrap();
    right.until("the end").await;
    right.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_disconnects_while_it_sends_resets_the_stream() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\
        Content-Length: 10\r\n\r\n12345";
    // Before the head, and after it.
    for is_early in [false, true] {
        let mut client = client_of(&server, head).await;
        let mut asked = backend.asked().await;
        asked.chunk().await;
        let mut stream = is_early.then(|| asked.head(Response::builder()));
        if is_early {
            client.head().await;
        }
        drop(client);
        let reason = match &mut stream {
            Some(stream) => reset(stream).await,
            None => asked.reset().await,
        };
        assert_eq!(reason, Reason::CANCEL);
    }
}

#[tokio::test]
async fn a_client_of_http2_that_resets_its_stream_resets_the_backends() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let client = Http2::connect(server.address).await;
    let request = client.post("{}");
    let mut waiting = Box::pin(client.send(request));
    let mut asked = tokio::select! {
        asked = backend.asked() => asked,
        _ = &mut waiting => panic!("answered"),
    };
    drop(waiting);
    assert_eq!(asked.reset().await, Reason::CANCEL);
}

#[tokio::test]
async fn clocks_reset_the_stream() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server_with(r#""timeout":0.3,"idle_timeout":0.5"#);
    let mut client = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.error_code(), "http_response_timeout");
    assert_eq!(asked.reset().await, Reason::CANCEL);

    client.send(post("{}")).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder());
    stream.send_data(Bytes::from("some text"), false).unwrap();
    client.until("some text").await;
    assert_eq!(reset(&mut stream).await, Reason::CANCEL);
    server.logged("end=idle_timeout").await;
    assert!(find(&client.rest().await, b"0\r\n\r\n").is_none());
}

// Errors.

/// What the server answers where its backend does this instead of answering.
async fn answer_where<T>(fails: impl FnOnce(Asked) -> T) -> Message {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = client_of(&server, post("{}")).await;
    let _held = fails(backend.asked().await);
    let answer = client.response().await;
    assert!(!backend.is_asked().await, "sent again");
    answer
}

#[tokio::test]
async fn an_end_before_the_head_is_a_terminated_connection_and_nothing_is_sent_again() {
    type Fails = fn(Asked);
    let ends: [Fails; 7] = [
        |mut asked| asked.respond.send_reset(Reason::INTERNAL_ERROR),
        |mut asked| asked.respond.send_reset(Reason::REFUSED_STREAM),
        |mut asked| asked.respond.send_reset(Reason::NO_ERROR),
        |asked| asked.connection.abort(Reason::INTERNAL_ERROR),
        |asked| asked.connection.abort(Reason::NO_ERROR),
        |asked| asked.connection.close(),
        |asked| drop(asked.respond),
    ];
    for fails in ends {
        let answer = answer_where(fails).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.error_code(), "connection_terminated");
    }
}

#[tokio::test]
async fn a_malformed_response_is_a_protocol_error() {
    for lengths in [&["5", "6"][..], &["5", "5"], &["+5"], &["5, 5"], &["x"]] {
        let answer = answer_where(|mut asked| {
            let mut head = Response::builder();
            for length in lengths {
                head = head.header("content-length", *length);
            }
            let mut stream = asked.head(head);
            stream.send_data(Bytes::from("12345"), true).unwrap();
            asked
        })
        .await;
        assert_eq!(answer.status(), 502, "{lengths:?}");
        assert_eq!(answer.error_code(), "http_protocol_error", "{lengths:?}");
    }
    let answer = answer_where(|mut asked| {
        asked.head(Response::builder().header("x-large", "x".repeat(300 << 10)))
    })
    .await;
    assert_eq!(answer.error_code(), "http_protocol_error");
}

#[tokio::test]
async fn a_backend_that_chooses_http2_and_does_not_speak_it_is_a_protocol_error() {
    for nonsense in [&response("400 Bad Request", "what?")[..], &"\0".repeat(100)] {
        let backend = Backend::start().await;
        let server = server_for(backend.address.port(), "", "");
        let mut client = client_of(&server, post("{}")).await;
        let tcp = backend.accept().await.stream;
        let tls = soon("a handshake", accept_tls(acceptor(&["h2"]), tcp)).await;
        let mut wire = Wire::over(tls);
        wire.until("SM\r\n\r\n").await;
        wire.send(nonsense).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.error_code(), "http_protocol_error");
    }
}

#[tokio::test]
async fn an_end_within_a_body_breaks_the_clients() {
    type Ends = fn(SendStream<Bytes>, Arc<Connection>);
    let ends: [Ends; 6] = [
        |mut stream, _| stream.send_reset(Reason::INTERNAL_ERROR),
        |mut stream, _| stream.send_reset(Reason::NO_ERROR),
        |mut stream, _| stream.send_reset(Reason::CANCEL),
        |_, connection| connection.abort(Reason::INTERNAL_ERROR),
        |_, connection| connection.abort(Reason::NO_ERROR),
        |_, connection| connection.close(),
    ];
    for end in ends {
        let mut backend = Http2Backend::start().await;
        let server = backend.server();
        let mut client = client_of(&server, post("{}")).await;
        let mut asked = backend.asked().await;
        let mut stream = asked.head(Response::builder());
        stream.send_data(Bytes::from("some text"), false).unwrap();
        client.until("some text").await;
        end(stream, asked.connection.clone());
        assert!(find(&client.rest().await, b"0\r\n\r\n").is_none());
        server.logged("end=\"backend broke off\"").await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_breaks_the_clients() {
    for body in ["1234", "123456"] {
        let mut backend = Http2Backend::start().await;
        let server = backend.server();
        let mut client = client_of(&server, post("{}")).await;
        let mut asked = backend.asked().await;
        let mut stream = asked.head(Response::builder().header("content-length", 5));
        client.head().await;
        stream.send_data(Bytes::from(body), true).unwrap();
        assert!(client.rest().await.len() < 5);
        server.logged("end=\"backend broke off\"").await;
    }
}

// Requests that a backend says it didn't process (RFC 9113, section 8.7).

/// A server that has the request's body in memory.
fn buffering_server_for(port: u16) -> Server {
    server_for(port, r#","model":"m""#, "")
}

#[tokio::test]
async fn a_request_that_is_refused_is_sent_again() {
    let mut backend = Http2Backend::start().await;
    let server = buffering_server_for(backend.port);
    let mut client = client_of(&server, post("{}")).await;
    for _ in 0..2 {
        let mut asked = backend.asked().await;
        asked.body().await;
        asked.respond.send_reset(Reason::REFUSED_STREAM);
    }
    let mut asked = backend.asked().await;
    assert_eq!(asked.body().await.0, br#"{"model":"m"}"#);
    asked.answer("some text");
    assert_eq!(client.response().await.content(), b"some text");

    // Not for ever.
    client.send(post("{}")).await;
    for _ in 0..3 {
        let mut asked = backend.asked().await;
        asked.respond.send_reset(Reason::REFUSED_STREAM);
    }
    let answer = client.response().await;
    assert_eq!(answer.error_code(), "connection_terminated");
    assert!(!backend.is_asked().await, "sent again");
}

#[tokio::test]
async fn a_request_that_is_not_said_to_be_unprocessed_is_not_sent_again() {
    let reasons = [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR];
    for reason in reasons {
        let mut backend = Http2Backend::start().await;
        let server = buffering_server_for(backend.port);
        let mut client = client_of(&server, post("{}")).await;
        backend.asked().await.respond.send_reset(reason);
        let answer = client.response().await;
        assert_eq!(answer.error_code(), "connection_terminated", "{reason}");
        assert!(!backend.is_asked().await, "sent again");
    }
}

#[tokio::test]
async fn a_request_that_crosses_the_announced_end_is_sent_on_a_new_connection() {
    let listener = Backend::start().await;
    let server = buffering_server_for(listener.address.port());
    let mut client = client_of(&server, post("{}")).await;
    let tls = accept_tls(acceptor(&["h2"]), listener.accept().await.stream);
    let mut tls = soon("a handshake", tls).await;
    // SETTINGS, and GOAWAY without any stream (RFC 9113, sections 6.5 and 6.8).
    tls.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut read = Vec::new();
    while find(&read, br#""model":"m""#).is_none() {
        let reading = tls.read_buf(&mut read);
        assert_ne!(soon("a request", reading).await.unwrap(), 0);
    }
    tls.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0")
        .await
        .unwrap();

    let tls = accept_tls(acceptor(&["h2"]), listener.accept().await.stream);
    let other = soon("a handshake", tls).await;
    let mut http2 = h2::server::handshake(other).await.expect("HTTP/2");
    let (_, mut respond) = http2.accept().await.expect("a request").expect("valid");
    let mut stream = respond
        .send_response(Response::new(()), false)
        .expect("open");
    stream.send_data("some text".into(), true).expect("open");
    tokio::spawn(async move { http2.accept().await.is_some() });
    assert_eq!(client.response().await.content(), b"some text");
}

// Connections.

/// A backend to which a connection is open already, which takes so many requests at a time.
async fn with_a_connection_of_100_streams() -> (Http2Backend, Server) {
    let backend = Http2Backend::start_with(|builder| {
        builder.max_concurrent_streams(100);
    });
    let mut backend = backend.await;
    let server = backend.server();
    let mut first = client_of(&server, post("{}")).await;
    backend.asked().await.answer("");
    first.response().await;
    (backend, server)
}

#[tokio::test]
async fn three_hundred_requests_at_a_time_wait_for_none_of_each_other() {
    let (mut backend, server) = with_a_connection_of_100_streams().await;

    // One after the other, but none is answered before the last has come.
    let mut clients = Vec::new();
    let mut open: Vec<Asked> = Vec::new();
    for _ in 0..300 {
        clients.push(client_of(&server, post("{}")).await);
        open.push(backend.asked().await);
    }
    let on = |number| {
        open.iter()
            .filter(move |asked| asked.connection.number == number)
    };
    let connections = open.iter().map(|asked| asked.connection.number).max();
    let used: Vec<_> = (1..=connections.unwrap()).map(|n| on(n).count()).collect();
    assert_eq!(used.iter().sum::<usize>(), 300);
    // A connection that was made a moment ago may not know its limit yet.
    assert!(used[0] == 100 && used.len() < 10, "{used:?}");

    for (number, asked) in open.iter_mut().enumerate().rev() {
        asked.answer(format!("answer to {number}"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.response().await.content();
        assert_eq!(answer, format!("answer to {number}").into_bytes());
    }

    // Their places are free again.
    for client in &mut clients[..50] {
        client.send(post("{}")).await;
        assert_eq!(backend.asked().await.connection.number, 1);
    }
}

#[tokio::test]
async fn three_hundred_requests_at_once_wait_for_none_of_each_other() {
    let (mut backend, server) = with_a_connection_of_100_streams().await;

    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(Wire::connect(server.address).await);
    }
    for client in &mut clients {
        client.send(post("{}")).await;
    }
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(backend.asked().await);
    }
    for asked in &mut open {
        asked.answer("some text");
    }
    for client in &mut clients {
        assert_eq!(client.response().await.content(), b"some text");
    }
}

#[tokio::test]
async fn places_of_clients_that_disconnected_are_free_again() {
    let backend = Http2Backend::start_with(|builder| {
        builder.max_concurrent_streams(2);
    });
    let mut backend = backend.await;
    let server = backend.server();
    let mut first = client_of(&server, post("{}")).await;
    backend.asked().await.answer("");
    first.response().await;
    for _ in 0..20 {
        let clients = [
            client_of(&server, post("{}")).await,
            client_of(&server, post("{}")).await,
        ];
        let mut open = [backend.asked().await, backend.asked().await];
        drop(clients);
        for asked in &mut open {
            assert_eq!(asked.connection.number, 1);
            asked.reset().await;
        }
    }
}

#[tokio::test]
async fn a_connection_whose_end_is_announced_takes_no_more_requests() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut first = client_of(&server, post("{}")).await;
    let mut asked = backend.asked().await;
    let mut stream = asked.head(Response::builder());
    stream.send_data(Bytes::from("some text"), false).unwrap();
    first.until("some text").await;
    asked.connection.go_away();
    // Its announcement is there with what follows it.
    stream.send_data(Bytes::from("more"), false).unwrap();
    first.until("more").await;

    let mut second = client_of(&server, post("{}")).await;
    let mut other = backend.asked().await;
    assert_ne!(other.connection.number, asked.connection.number);
    other.answer("the second");
    assert_eq!(second.response().await.content(), b"the second");
    stream.send_data(Bytes::from("the first"), true).unwrap();
    first.until("the first").await;
    first.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_has_closed_is_nobodys_error() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = Wire::connect(server.address).await;
    type Ends = fn(&Connection);
    let ends: [Ends; 4] = [
        |connection| connection.close(),
        |connection| connection.abort(Reason::NO_ERROR),
        |connection| connection.go_away(),
        |connection| connection.abort(Reason::ENHANCE_YOUR_CALM),
    ];
    for (number, end) in (1..).zip(ends) {
        client.send(post("{}")).await;
        let mut asked = backend.asked().await;
        assert_eq!(asked.connection.number, number);
        asked.answer("some text");
        assert_eq!(client.response().await.content(), b"some text");
        end(&asked.connection);
        asked.connection.closed().await;
    }
    client.send(post("{}")).await;
    backend.asked().await.answer("the last");
    assert_eq!(client.response().await.content(), b"the last");
}

#[tokio::test]
async fn a_backend_that_closes_after_each_answer_is_asked_again_without_an_error() {
    let mut backend = Http2Backend::start().await;
    let server = backend.server();
    let mut client = Wire::connect(server.address).await;
    for _ in 0..30 {
        client.send(post("{}")).await;
        let mut asked = backend.asked().await;
        asked.connection.go_away();
        asked.answer("some text");
        let answer = client.response().await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.content(), b"some text");
    }
}

#[tokio::test]
async fn a_websocket_is_opened_over_http_1_1() {
    let backend = Backend::start().await;
    let server = server_for(backend.address.port(), "", "");
    let acceptor = acceptor(&["h2", "http/1.1"]);
    let accept = async || accept_tls(acceptor.clone(), backend.accept().await.stream).await;
    let chosen = |tls: &TlsStream<TcpStream>| tls.get_ref().negotiated_alpn().expect("known");
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let http2 = accept().await;
    assert_eq!(chosen(&http2).as_deref(), Some(&b"h2"[..]));

    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let tls = accept().await;
    assert_eq!(chosen(&tls).as_deref(), Some(&b"http/1.1"[..]));
    let mut wire = Wire::over(tls);
    assert!(
        wire.head()
            .await
            .starts_with("GET /v1/realtime HTTP/1.1\r\n")
    );
    wire.send(format!("{SWITCH}Hello")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(client.until("Hello").await, "Hello");
}
