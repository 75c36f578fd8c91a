//! No key, in full or in part, is told to anyone but the backend that it is for.

use std::{
    convert::Infallible,
    fmt::{Debug, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_native_tls::{
    TlsAcceptor,
    native_tls::{self, Identity},
};
use tower::{Layer, Service, ServiceExt, util::service_fn};
use tower_openai_proxy::{
    AuthPassthroughLayer, BackendConfig, BackendRouteLayer, Config, Forward, ModelOverrideLayer,
    OpenAiProxyLayer, RequestBody, TimeoutLayer,
};

use crate::support::{
    self, Backend, Message, Server, TempFile, Unreachable, Wire, config_of,
    http2::{self, Http2},
    nobody, response, soon,
};

// What must stay secret, wherever it stands.
const CLIENT: &str = "sk-proj-Vq3xW8kTz1LmN5pRb7Yc";
const AZURE: &str = "f2c9d71ab36e40858d1c97e6b3a0";
const PROXY_AUTHORIZATION: &str = "dXNlcjpHaDdKazJMcDlRczRUdg";
const BACKEND: &str = "sk-svcacct-H4nE9uJ2sXoK6vGq0Zd";
const IN_URL: &str = "AIzaSyD3fMw7PbR1tQe5LxN8hC2";
const IN_QUERY: &str = "uT6yI0oA8sD2fG4hJ1kL9zXc";
const IN_BODY: &str = "pW5eR7tY3uI1oP9aS6dF0gHj";
const IN_PROTOCOL: &str = "sk-ws-Jm2rB7nQ4yEu9TkC1xPa";
const SECRETS: [&str; 8] = [
    CLIENT,
    AZURE,
    PROXY_AUTHORIZATION,
    BACKEND,
    IN_URL,
    IN_QUERY,
    IN_BODY,
    IN_PROTOCOL,
];

/// Whether the server can reach `https` backends.
const TLS: bool = cfg!(any(feature = "native-tls", feature = "rustls"));

/// Checks that not even 8 characters of any of these are in `text`.
#[track_caller]
fn check(text: &str, secrets: &[&str], what: &str) {
    let lower = text.to_lowercase();
    for secret in secrets {
        let secret = secret.to_lowercase();
        for start in 0..=secret.len() - 8 {
            let part = &secret[start..start + 8];
            assert!(
                !lower.contains(part),
                "{part} of {secret} in {what}:\n{text}"
            );
        }
    }
}

/// A backend that does to a request what the first segment of its path says, and keeps what it was
/// sent. It tells what it knows wherever it can.
struct Fates {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, Message)>>>,
}

impl Fates {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(meet(Wire::new(stream), seen.clone()));
                }
            }
        });
        Self { address, seen }
    }

    /// A backend that meets this fate.
    fn entry(&self, fate: &str, fields: &str) -> String {
        let comma = if fields.is_empty() { "" } else { "," };
        let address = self.address;
        format!(
            r#"{{"name":"{fate}","url":"http://{address}/{fate}/v1?token={IN_URL}"{comma}{fields}}}"#
        )
    }

    /// Waits until a request has met this fate.
    async fn met(&self, fate: &str) {
        let met = async {
            while self.take(fate).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("a request", met).await;
    }

    /// The requests that met this fate.
    fn take(&self, fate: &str) -> Vec<Message> {
        let mut seen = self.seen.lock().unwrap();
        let (ours, others) = seen.drain(..).partition(|(name, _)| name == fate);
        *seen = others;
        ours.into_iter().map(|(_, request)| request).collect()
    }
}

async fn meet(mut wire: Wire, seen: Arc<Mutex<Vec<(String, Message)>>>) {
    while let Some(request) = wire.try_request().await {
        let fate = request.start_line().split('/').nth(1).expect("a path");
        let fate = fate.to_owned();
        let told = format!("{}{}", request.head, String::from_utf8_lossy(&request.body));
        seen.lock().unwrap().push((fate.clone(), request));
        let line = told.replace(['\r', '\n'], " ");
        let length = line.len();
        match &*fate {
            "closes" => return,
            "breaks-off" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length + 1);
                wire.send(head + &line).await;
                return;
            }
            "no-http" => wire.send(told).await,
            "bad-head" => {
                wire.send(format!("HTTP/1.1 200 OK\r\nbad field {line}\r\n\r\n"))
                    .await
            }
            "bad-length" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {line}\r\n\r\n");
                wire.send(head).await;
            }
            "bad-chunk" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                wire.send(format!("{head}2\r\nok\r\n{line}\r\n")).await;
            }
            "silent" => {
                wire.rest().await;
            }
            "falls-silent" => {
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                wire.send(format!("{head}{line}")).await;
                wire.rest().await;
            }
            "switches" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
                wire.send(format!("{head}{line}")).await;
                return;
            }
            "busy" => wire.send(response("503 Service Unavailable", &line)).await,
            _ => wire.send(response("200 OK", &line)).await,
        }
    }
}

/// What a client sends besides its keys.
#[derive(Clone)]
struct Ask {
    method: Method,
    path: &'static str,
    backend: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: String,
}

fn ask(backend: &'static str) -> Ask {
    Ask {
        method: Method::POST,
        path: "/v1/chat/completions",
        backend,
        fields: &[
            ("authorization", AUTHORIZATION),
            ("api-key", AZURE),
            ("proxy-authorization", BASIC),
        ],
        body: format!(r#"{{"model":"m","user":"{IN_BODY}"}}"#),
    }
}

const AUTHORIZATION: &str = "Bearer sk-proj-Vq3xW8kTz1LmN5pRb7Yc";
const BASIC: &str = "Basic dXNlcjpHaDdKazJMcDlRczRUdg";

/// The head of an answer with its fields, and as much of its body as came.
struct Answer {
    status: u16,
    text: String,
    /// It comes from the proxy itself.
    is_own: bool,
}

/// Sends requests over one version of HTTP.
enum Client {
    Http1(SocketAddr),
    #[cfg(not(any(windows, target_vendor = "apple")))]
    Http1OverTls(SocketAddr),
    Http2(Http2),
}

impl Client {
    async fn both(server: &Server) -> [Self; 2] {
        let http2 = Http2::connect(server.address).await;
        [Self::Http1(server.address), Self::Http2(http2)]
    }

    #[cfg(not(any(windows, target_vendor = "apple")))]
    async fn both_over_tls(server: &Server) -> [Self; 2] {
        let http2 = support::https::http2(server.address).await;
        [Self::Http1OverTls(server.address), Self::Http2(http2)]
    }

    async fn send(&self, ask: &Ask) -> Answer {
        match self {
            Self::Http1(address) => ask_http1(Wire::connect(*address).await, ask).await,
            #[cfg(not(any(windows, target_vendor = "apple")))]
            Self::Http1OverTls(address) => {
                let wire = support::https::connect(*address, &["http/1.1"]).await;
                ask_http1(wire, ask).await
            }
            Self::Http2(client) => {
                let uri = format!("http://proxy.test{}?key={IN_QUERY}", ask.path);
                let mut request = Request::builder().method(&ask.method).uri(uri);
                if !ask.backend.is_empty() {
                    request = request.header("x-proxy-backend", ask.backend);
                }
                for (name, value) in ask.fields {
                    request = request.header(*name, *value);
                }
                let request = request.body(http2::full(ask.body.clone()));
                let answer = client.send(request.expect("a request")).await;
                let answer = answer.expect("a response");
                let (head, mut body) = answer.into_parts();
                let mut text = format!("{:?}\n", http2::fields(&head.headers));
                while let Some(Ok(frame)) = soon("a chunk", body.frame()).await {
                    let data = frame.into_data().unwrap_or_default();
                    text += &String::from_utf8_lossy(&data);
                }
                Answer {
                    status: head.status.as_u16(),
                    is_own: head.headers.contains_key("proxy-status"),
                    text,
                }
            }
        }
    }
}

async fn ask_http1<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>, ask: &Ask) -> Answer {
    let mut head = format!(
        "{} {}?key={IN_QUERY} HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n",
        ask.method, ask.path
    );
    if !ask.backend.is_empty() {
        head += &format!("X-Proxy-Backend: {}\r\n", ask.backend);
    }
    for (name, value) in ask.fields {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", ask.body.len());
    wire.send(head + &ask.body).await;
    let text = wire.rest().await;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.expect("a status"),
        is_own: text.contains("\r\nproxy-status: "),
        text,
    }
}

/// Sends it over both versions of HTTP; what the proxy says for itself must tell nothing.
async fn ask_both(clients: &[Client], ask: &Ask, status: u16) {
    for client in clients {
        let answer = client.send(ask).await;
        assert_eq!(answer.status, status, "{}:\n{}", ask.backend, answer.text);
        if answer.is_own {
            check(&answer.text, &SECRETS, "an error");
        }
    }
}

/// Checks the health and the log of a server, to the last exchange.
async fn check_server(server: Server) {
    let client = Wire::connect(server.address).await;
    check_server_by(client, server).await;
}

async fn check_server_by<S: AsyncRead + AsyncWrite + Unpin>(mut client: Wire<S>, server: Server) {
    let health = format!("GET /health?key={IN_QUERY} HTTP/1.1\r\nHost: {IN_QUERY}\r\n\r\n");
    client.send(health).await;
    let health = client.response().await;
    assert_eq!(health.status(), 200);
    let text = String::from_utf8_lossy(&health.body);
    check(&format!("{}{text}", health.head), &SECRETS, "health");

    // Lines are in order: with this one the rest is there, too.
    client
        .send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    client.response().await;
    let log = server.logged("end=\"http_request_denied\"").await;
    assert!(log.contains("chat{"), "not at trace:\n{log}");
    // Some libraries would print header fields.
    for library in [" h2::", " hyper"] {
        assert!(!log.contains(library), "{library} is heard:\n{log}");
    }
    check(&log, &SECRETS, "the log");
}

fn start(backends: &[String], settings: &str) -> Server {
    let environment = [("RUST_LOG", "trace"), ("SECRET_OF_BACKEND", BACKEND)];
    Server::start_with(&config_of(backends, settings), &[], &environment)
}

const OWN_KEY: &str = r#""api_key_env":"SECRET_OF_BACKEND""#;

#[tokio::test]
async fn success_tells_no_key() {
    let fates = Fates::start().await;
    let overrides = format!(r#"{OWN_KEY},"model":"other""#);
    let backends = [
        fates.entry("passes", ""),
        fates.entry("own-key", OWN_KEY),
        fates.entry("overrides", &overrides),
    ];
    let server = start(&backends, "");
    let clients = Client::both(&server).await;
    for backend in ["", "passes", "own-key", "overrides"] {
        ask_both(&clients, &ask(backend), 200).await;
    }
    check_server(server).await;
}

#[tokio::test]
async fn keys_in_files_and_among_the_headers_are_told_to_their_backend_alone() {
    let fates = Fates::start().await;
    let key = TempFile::new("key", BACKEND);
    let key = |field: &str| {
        let name = key.path.file_name().and_then(|name| name.to_str());
        field.replace("KEY", name.expect("UTF-8"))
    };
    let literal = format!(r#""headers":{{"api-key":"{BACKEND}"}}"#);
    let headers = r#""headers":{"X-Token":{"file":"KEY"},"x-api-key":{"env":"SECRET_OF_BACKEND"}}"#;
    let backends = [
        fates.entry(
            "own-key",
            &key(r#""api_key_file":"KEY","api_key_field":"api-key""#),
        ),
        fates.entry("passes", &key(headers)),
        fates.entry("closes", &literal),
        fates.entry("no-http", &key(r#""api_key_file":"KEY""#)),
    ];
    let server = start(&backends, r#""cooldown":0"#);
    let clients = Client::both(&server).await;
    for (backend, status) in [
        ("own-key", 200),
        ("passes", 200),
        ("closes", 502),
        ("no-http", 502),
    ] {
        ask_both(&clients, &ask(backend), status).await;
        let request = fates.take(backend).remove(0);
        assert!(request.head.contains(BACKEND), "{}", request.head);
    }
    server.signal("HUP");
    server.logged("the old configuration stays").await; // The file is gone by now.
    check_server(server).await;
}

#[tokio::test]
async fn a_backend_with_its_own_key_never_sees_the_clients() {
    let fates = Fates::start().await;
    let server = start(&[fates.entry("own-key", OWN_KEY)], "");
    let clients = Client::both(&server).await;
    ask_both(&clients, &ask("own-key"), 200).await;
    let requests = fates.take("own-key");
    assert_eq!(requests.len(), 2);
    for request in requests {
        let told = format!("{}{}", request.head, String::from_utf8_lossy(&request.body));
        check(
            &told,
            &[CLIENT, AZURE, PROXY_AUTHORIZATION],
            "the backend's request",
        );
        let expected = format!("Bearer {BACKEND}");
        assert_eq!(request.field("authorization"), Some(expected));
    }
    check_server(server).await;
}

#[tokio::test]
async fn the_next_backend_never_sees_the_key_of_the_one_before() {
    let fates = Fates::start().await;
    let backends = [fates.entry("busy", OWN_KEY), fates.entry("passes", "")];
    let server = start(&backends, r#""failover_on":[503],"cooldown":0"#);
    let clients = Client::both(&server).await;
    ask_both(&clients, &ask(""), 200).await;
    assert_eq!(fates.take("busy").len(), 2);
    let requests = fates.take("passes");
    assert_eq!(requests.len(), 2);
    for request in requests {
        check(
            &request.head,
            &[BACKEND, PROXY_AUTHORIZATION],
            "the backend's request",
        );
        assert_eq!(
            request.field("authorization").as_deref(),
            Some(AUTHORIZATION)
        );
        assert_eq!(request.field("api-key").as_deref(), Some(AZURE));
    }
    check_server(server).await;
}

#[tokio::test]
async fn errors_of_the_client_tell_no_key() {
    let fates = Fates::start().await;
    let backends = [
        fates.entry("passes", OWN_KEY),
        fates.entry("overrides", r#""model":"other""#),
    ];
    let server = start(&backends, r#""max_body_bytes":200"#);
    let clients = Client::both(&server).await;

    let anonymous = Ask {
        fields: &[("proxy-authorization", BASIC)],
        ..ask("")
    };
    ask_both(&clients, &anonymous, 401).await;
    // People mistake fields.
    ask_both(&clients, &ask(CLIENT), 404).await;
    for (backend, path, status) in [
        ("", "/v1/?key=sk-proj-Vq3xW8kTz1LmN5pRb7Yc", 404),
        // What its backend doesn't serve.
        ("passes", "/v1/sk-proj-Vq3xW8kTz1LmN5pRb7Yc/models", 404),
        (
            "",
            "/v1/chat/completions/../sk-proj-Vq3xW8kTz1LmN5pRb7Yc",
            400,
        ),
    ] {
        ask_both(
            &clients,
            &Ask {
                path,
                ..ask(backend)
            },
            status,
        )
        .await;
    }
    let long = format!(r#"{{"model":"m","user":"{}"}}"#, IN_BODY.repeat(10));
    for backend in ["passes", "overrides"] {
        ask_both(
            &clients,
            &Ask {
                body: long.clone(),
                ..ask(backend)
            },
            413,
        )
        .await;
    }
    for body in [
        format!("\"{IN_BODY}\""),
        format!("[\"{IN_BODY}\"]"),
        format!("{{\"{IN_BODY}\"}}"),
        format!("{{\"model\":{IN_BODY}}}"),
        format!("{{\"model\":\"m\"}} {IN_BODY}"),
        format!("{{\"user\":\"{IN_BODY}\n\"}}"),
        IN_BODY.to_owned(),
    ] {
        ask_both(
            &clients,
            &Ask {
                body,
                ..ask("overrides")
            },
            400,
        )
        .await;
    }
    let encoded = Ask {
        fields: &[
            ("authorization", AUTHORIZATION),
            ("content-encoding", IN_QUERY),
        ],
        ..ask("overrides")
    };
    ask_both(&clients, &encoded, 415).await;
    assert!(fates.take("overrides").is_empty());
    check_server(server).await;
}

#[tokio::test]
async fn errors_of_backends_tell_no_key() {
    let fates = Fates::start().await;
    let refused = nobody().await;
    let label = "x".repeat(64); // no name can have it, so that nobody is asked
    let silent = format!(r#"{OWN_KEY},"timeout":0.3"#);
    let mut backends = vec![
        format!(r#"{{"name":"refused","url":"http://{refused}/v1?token={IN_URL}",{OWN_KEY}}}"#),
        format!(r#"{{"name":"no-name","url":"http://{label}/v1?token={IN_URL}",{OWN_KEY}}}"#),
        fates.entry("silent", &silent),
    ];
    let fatal = ["closes", "no-http", "bad-head", "bad-length"];
    let breaks = ["breaks-off", "bad-chunk"];
    for fate in fatal.iter().chain(&breaks) {
        backends.push(fates.entry(fate, OWN_KEY));
    }
    if TLS {
        let url = format!("https://{}/v1?token={IN_URL}", fates.address);
        backends.push(format!(
            r#"{{"name":"no-tls","url":"{url}",{OWN_KEY},"timeout":0.3}}"#
        ));
    }
    let server = start(&backends, r#""cooldown":0"#);
    let clients = Client::both(&server).await;

    for backend in ["refused", "no-name"].into_iter().chain(fatal) {
        ask_both(&clients, &ask(backend), 502).await;
    }
    for backend in breaks {
        ask_both(&clients, &ask(backend), 200).await;
    }
    ask_both(&clients, &ask("silent"), 504).await;
    if TLS {
        ask_both(&clients, &ask("no-tls"), 504).await; // it waits for more than a hello
    }
    // All in a row: one after the other fails to connect, the third is silent.
    ask_both(&clients, &ask(""), 504).await;
    check_server(server).await;
}

#[tokio::test]
async fn connections_that_cannot_be_made_tell_no_key() {
    let hangs = Unreachable::start().await;
    let untrusted = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut backends = vec![format!(
        r#"{{"name":"hangs","url":"http://{}/v1?token={IN_URL}",{OWN_KEY}}}"#,
        hangs.address
    )];
    if TLS {
        let address = untrusted.local_addr().expect("bound");
        let url = format!("https://{address}/v1?token={IN_URL}");
        backends.push(format!(r#"{{"name":"untrusted","url":"{url}",{OWN_KEY}}}"#));
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
        let read = |name| std::fs::read(folder.join(name)).expect("a file");
        let identity = Identity::from_pkcs8(&read("untrusted.pem"), &read("leaf.key"));
        let acceptor = native_tls::TlsAcceptor::new(identity.expect("a key"));
        let acceptor = TlsAcceptor::from(acceptor.expect("a certificate"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = untrusted.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
    }
    let server = start(&backends, r#""cooldown":0,"connect_timeout":0.3"#);
    let clients = Client::both(&server).await;
    ask_both(&clients, &ask("hangs"), 504).await;
    if TLS {
        ask_both(&clients, &ask("untrusted"), 502).await;
    }
    check_server(server).await;
}

#[tokio::test]
async fn exchanges_that_take_too_long_tell_no_key() {
    let fates = Fates::start().await;
    let backends = [
        fates.entry("silent", OWN_KEY),
        fates.entry("falls-silent", OWN_KEY),
    ];
    let server = start(&backends, r#""total_timeout":0.3,"cooldown":0"#);
    let clients = Client::both(&server).await;
    ask_both(&clients, &ask("silent"), 504).await;
    ask_both(&clients, &ask("falls-silent"), 200).await;
    check_server(server).await;
}

#[tokio::test]
#[cfg(unix)]
async fn a_server_that_drains_tells_no_key() {
    let fates = Fates::start().await;
    let server = start(&[fates.entry("silent", OWN_KEY)], "");
    let mut client = Wire::connect(server.address).await;
    client.send(head("silent", 2) + "{}").await;
    fates.met("silent").await;
    server.signal("TERM");
    server.logged("draining").await;
    for path in ["/v1/chat/completions", "/sk-proj-Vq3xW8kTz1LmN5pRb7Yc"] {
        for client in Client::both(&server).await {
            let answer = client
                .send(&Ask {
                    path,
                    ..ask("silent")
                })
                .await;
            assert_eq!(answer.status, 503);
            assert!(answer.is_own);
            check(&answer.text, &SECRETS, "an error");
        }
    }
    drop(client);
    server.logged("end=\"client ").await;
    check(&server.stop(), &SECRETS, "the log");
}

#[tokio::test]
#[cfg(unix)]
async fn reloads_tell_no_key() {
    let config = |address: &str, fields: &str| {
        let url = format!("http://{address}/v1?token={IN_URL}");
        let other = r#"{"name":"B","url":"http://192.0.2.2/v1"}"#;
        format!(r#"{{"primary_backends":[{{"name":"A","url":"{url}"{fields}}},{other}]}}"#)
    };
    let file = TempFile::new("config.json", &config("192.0.2.1", ""));
    let mut command = Server::command();
    command.arg("--config").arg(&file.path);
    let server = Server::spawn(command.env("RUST_LOG", "trace"));
    server.logged("credentials go to different hosts").await;
    server.signal("HUP");
    server.logged("configuration reloaded").await;
    for (count, text) in [
        config(&format!("user:{CLIENT}@192.0.2.1"), ""),
        config("192.0.2.1", &format!(r#","api_key_env":"{CLIENT}""#)),
        config("192.0.2.1", &format!(r#","api_key_file":"{CLIENT}""#)),
        config("192.0.2.1", &format!(r#","api_key_field":"{CLIENT}""#)),
        config(
            "192.0.2.1",
            &format!(r#","headers":{{"X":{{"env":"{CLIENT}"}}}}"#),
        ),
        config("192.0.2.1", &format!(r#","headers":{{"X":" {CLIENT}"}}"#)),
        config("192.0.2.1", &format!(r#","model":{CLIENT}"#)),
        CLIENT.to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&file.path, text).expect("a file");
        server.signal("HUP");
        let refused = async {
            while server.log().matches("the old configuration stays").count() <= count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("the reload", refused).await;
    }
    check(&server.stop(), &SECRETS, "the log");
}

#[tokio::test]
async fn websockets_tell_no_key() {
    let fates = Fates::start().await;
    let backends = [
        fates.entry("switches", ""),
        fates.entry("own-key", OWN_KEY),
        fates.entry("closes", ""),
        fates.entry("passes", r#""websocket":false"#),
    ];
    let server = start(&backends, "");
    let fields = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        (
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.sk-ws-Jm2rB7nQ4yEu9TkC1xPa",
        ),
    ];
    for (backend, status) in [
        ("switches", 101),
        ("own-key", 200),
        ("closes", 502),
        ("passes", 426),
    ] {
        let mut wire = Wire::connect(server.address).await;
        let mut head = format!(
            "GET /v1/realtime?key={IN_QUERY} HTTP/1.1\r\nHost: proxy.test\r\n\
             X-Proxy-Backend: {backend}\r\n"
        );
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        wire.send(head + "\r\n").await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        if matches!(status, 426 | 502) {
            let error = wire.until("}}").await;
            check(&(head + &error), &SECRETS, "an error");
        }
        let requests = fates.take(backend);
        for request in &requests {
            let has_key = request.head.contains(IN_PROTOCOL);
            assert_eq!(has_key, backend != "own-key", "{}", request.head);
        }
        assert_eq!(requests.is_empty(), backend == "passes");
    }
    check_server(server).await;
}

/// TLS on both sides: one server is the other's backend, over HTTP/2 where the build can.
#[tokio::test]
#[cfg(not(any(windows, target_vendor = "apple")))]
async fn serving_tls_tells_no_key() {
    use support::https::{self, certificate};

    const FATES: [&str; 3] = ["passes", "breaks-off", "closes"];
    let fates = Fates::start().await;
    let backends = FATES.map(|fate| fates.entry(fate, OWN_KEY));
    let environment = [("RUST_LOG", "trace"), ("SECRET_OF_BACKEND", BACKEND)];
    let pair = ["good.pem", "leaf.key"];
    let inner = https::start_with(&config_of(&backends, ""), pair, &environment);
    let clients = Client::both_over_tls(&inner).await;
    errors_over_tls(&clients, ["passes", "breaks-off", "closes"]).await;

    if TLS {
        let authority = certificate("authority.pem");
        let authority = ("SSL_CERT_FILE", authority.to_str().expect("UTF-8"));
        let environment = [&environment[..], &[authority]].concat();
        let url = format!(
            "https://localhost:{}/v1?token={IN_URL}",
            inner.address.port()
        );
        let backend = format!(r#"{{"name":"inner","url":"{url}",{OWN_KEY}}}"#);
        let outer = https::start_with(&config_of(&[backend], ""), pair, &environment);
        let clients = Client::both_over_tls(&outer).await;
        errors_over_tls(&clients, ["inner"; 3]).await;
        check_server_by(https::connect(outer.address, &[]).await, outer).await;
    }

    // Handshakes that fail, with all that a client would say.
    let fields = format!("Authorization: {AUTHORIZATION}\r\nApi-Key: {AZURE}\r\n");
    let hello = "\x16\x03\x01\x00\x70\x01\x00\x00\x6c\x03\x03";
    for said in [head("passes", 0), format!("{hello}{fields}{IN_BODY}")] {
        let mut client = Wire::connect(inner.address).await;
        client.send(said).await;
        let _ = client.stream.shutdown().await;
        let answer = client.rest().await;
        check(&String::from_utf8_lossy(&answer), &SECRETS, "an answer");
    }
    check_server_by(https::connect(inner.address, &[]).await, inner).await;
}

/// Asks a server for an answer, one that breaks off and none at all, and for what isn't there.
#[cfg(not(any(windows, target_vendor = "apple")))]
async fn errors_over_tls(clients: &[Client], [passes, breaks, closes]: [&'static str; 3]) {
    ask_both(clients, &ask(passes), 200).await;
    ask_both(clients, &ask(breaks), 200).await;
    let closed = if closes == passes { 200 } else { 502 };
    ask_both(clients, &ask(closes), closed).await;
    let fields = &[("proxy-authorization", BASIC)];
    ask_both(
        clients,
        &Ask {
            fields,
            ..ask(passes)
        },
        401,
    )
    .await;
    ask_both(clients, &ask(CLIENT), 404).await;
    let path = "/v1/chat/completions/../sk-proj-Vq3xW8kTz1LmN5pRb7Yc";
    ask_both(
        clients,
        &Ask {
            path,
            ..ask(passes)
        },
        400,
    )
    .await;
}

/// A request over HTTP/1.1 to this backend, of which as much is sent as there is of its body.
fn head(backend: &str, length: usize) -> String {
    format!(
        "POST /v1/chat/completions?key={IN_QUERY} HTTP/1.1\r\nHost: a\r\n\
         Authorization: {AUTHORIZATION}\r\nX-Proxy-Backend: {backend}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn an_idle_body_tells_no_key() {
    let fates = Fates::start().await;
    let backends = [fates.entry("falls-silent", OWN_KEY)];
    let server = start(&backends, r#""idle_timeout":0.3"#);
    let clients = Client::both(&server).await;
    ask_both(&clients, &ask("falls-silent"), 200).await;

    // The client's body goes idle.
    let mut client = Wire::connect(server.address).await;
    let begun = format!("{}{{\"user\":\"{IN_BODY}", head("falls-silent", 1000));
    client.send(begun).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 408);
    let text = String::from_utf8_lossy(&answer.body);
    check(&format!("{}{text}", answer.head), &SECRETS, "an error");

    let client = Http2::connect(server.address).await;
    let (mut sender, body) = http2::channel();
    let uri = format!("http://proxy.test/v1/chat/completions?key={IN_QUERY}");
    let request = Request::post(uri).header("authorization", AUTHORIZATION);
    let begun = sender.send_data(Bytes::from(IN_BODY));
    let answer = client.send(request.body(body).expect("a request"));
    let (_, answer) = tokio::join!(begun, answer);
    let answer = answer.expect("a response");
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    let (body, _) = http2::collect(answer).await.expect("a body");
    check(&String::from_utf8_lossy(&body), &SECRETS, "an error");
    check_server(server).await;
}

#[tokio::test]
async fn a_client_that_disconnects_tells_no_key() {
    let body = format!("\"{IN_BODY}\"");
    for sent in [IN_BODY.len(), body.len()] {
        let fates = Fates::start().await;
        let server = start(&[fates.entry("silent", OWN_KEY)], "");
        let mut client = Wire::connect(server.address).await;
        client
            .send(head("silent", body.len()) + &body[..sent])
            .await;
        if sent == body.len() {
            fates.met("silent").await;
        }
        drop(client);
        server.logged("end=\"client ").await;
        check_server(server).await;
    }
}

#[tokio::test]
async fn a_client_that_disconnects_over_http2_tells_no_key() {
    for is_connection in [true, false] {
        let fates = Fates::start().await;
        let server = start(&[fates.entry("silent", OWN_KEY)], "");
        let client = Http2::connect(server.address).await;
        let uri = format!("http://proxy.test/v1/chat/completions?key={IN_QUERY}");
        let request = Request::post(uri).header("authorization", AUTHORIZATION);
        let request = request.body(http2::full(format!("\"{IN_BODY}\"")));
        tokio::select! {
            _ = client.send(request.expect("a request")) => panic!("an answer"),
            () = fates.met("silent") => {} // and the stream is reset
        }
        if is_connection {
            client.break_off();
        }
        server.logged("end=\"client ").await;
        check_server(server).await;
    }
}

#[tokio::test]
async fn requests_that_are_no_http_tell_no_key() {
    let server = start(&[Fates::start().await.entry("passes", OWN_KEY)], "");
    let line = format!("POST /v1/chat/completions?key={IN_QUERY}");
    let fields = format!("Authorization: {AUTHORIZATION}\r\nApi-Key: {AZURE}\r\n");
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for request in [
        format!("{line} HTTP/1.1\r\n{fields}Bad Field {CLIENT}: {CLIENT}\r\n\r\n"),
        format!("{line} HTTP/1.1\r\n{fields}Content-Length: {CLIENT}\r\n\r\n"),
        format!("{line} HTTP/1.1\r\n{fields}Transfer-Encoding: {CLIENT}\r\n\r\n"),
        format!("{line} HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{IN_BODY}\r\n"),
        format!("{line} HTTP/{CLIENT}\r\n{fields}\r\n"),
        format!("{line} {CLIENT} HTTP/1.1\r\n{fields}\r\n"),
        format!("{CLIENT}\r\n{fields}\r\n"),
        format!("{line} HTTP/1.1\r\n{}\r\n", fields.repeat(6_000)),
        format!("{preface}{fields}{IN_BODY}"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(&request).await;
        let _ = client.stream.shutdown().await;
        let answer = client.rest().await;
        check(&String::from_utf8_lossy(&answer), &SECRETS, "an answer");
    }
    check_server(server).await;
}

#[test]
fn configuration_errors_tell_no_key() {
    let backend = |url: &str, fields: &str| {
        format!(r#"{{"primary_backends":[{{"name":"A","url":"{url}"{fields}}}]}}"#)
    };
    let url = "http://127.0.0.1/v1";
    for text in [
        backend(&format!("http://user:{CLIENT}@127.0.0.1/v1"), ""),
        backend(&format!("ftp://127.0.0.1/v1?key={CLIENT}"), ""),
        backend(&format!("http://127.0.0.1/v1?key={CLIENT}#a"), ""),
        backend(&format!("http://127.0.0.1/v1?key={CLIENT} "), ""),
        backend(&format!("/v1?key={CLIENT}"), ""),
        backend(CLIENT, ""),
        backend(url, &format!(r#","api_key_env":"{CLIENT}""#)),
        backend(url, &format!(r#","timeout":"{CLIENT}""#)),
        backend(url, &format!(r#","model":["{CLIENT}"]"#)),
        backend(url, &format!(r#","model":"{CLIENT}"#)),
        backend(url, &format!(r#","model":{CLIENT}"#)),
        format!(r#"{{"settings":"{CLIENT}"}}"#),
        format!("\"{CLIENT}\""),
        CLIENT.to_owned(),
    ] {
        let error = text.parse::<Config>().expect_err(&text);
        check(
            &format!("{error} {error:?} {error:#?}"),
            &SECRETS,
            "an error",
        );
    }
    let error = Config::builder()
        .backend(BackendConfig::new("A", url).api_key(format!("{CLIENT} ")))
        .build()
        .expect_err("no blanks");
    check(&format!("{error} {error:?}"), &SECRETS, "an error");
}

/// A configuration of two backends: one that refuses, and this one.
fn config(backend: SocketAddr, refused: SocketAddr) -> Config {
    let entry = |name, address| {
        BackendConfig::new(name, format!("http://{address}/v1?token={IN_URL}"))
            .api_key(BACKEND)
            .model("other")
    };
    Config::builder()
        .backend(entry("refused", refused))
        .backend(entry("answers", backend))
        .build()
        .expect("usable")
}

/// Notes how values show themselves.
#[derive(Default)]
struct Shown(String);

impl Shown {
    /// Takes the value's `Debug` and hands it back.
    fn note<T: Debug>(&mut self, value: T) -> T {
        writeln!(self.0, "{value:?}\n{value:#?}").expect("memory");
        value
    }
}

async fn app(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

fn request() -> Request<Full<Bytes>> {
    Request::post(format!("/v1/chat/completions?key={IN_QUERY}"))
        .header("authorization", AUTHORIZATION)
        .header("api-key", AZURE)
        .body(Full::from(format!(r#"{{"model":"m","user":"{IN_BODY}"}}"#)))
        .expect("a request")
}

#[tokio::test]
async fn debug_output_tells_no_key() {
    let backend = Backend::start().await;
    let config = config(backend.address, nobody().await);
    backend.answer_all(response("200 OK", "{}"));
    let mut shown = Shown::default();

    shown.note(&config);
    shown.note(config.warnings());
    let risky = Config::builder()
        .backend(BackendConfig::new(
            "A",
            format!("http://one.test/?token={IN_URL}"),
        ))
        .backend(BackendConfig::new(
            "B",
            format!("http://two.test/?token={IN_URL}"),
        ));
    let risky = risky.build().expect("usable").warnings();
    for warning in shown.note(risky) {
        writeln!(shown.0, "{warning}").expect("memory");
    }
    let url = format!("http://127.0.0.1/v1?token={IN_URL}");
    let entries = [
        BackendConfig::new("A", &url).api_key(BACKEND),
        BackendConfig::new("A", &url).api_key_env(CLIENT),
        BackendConfig::new("A", format!("http://user:{CLIENT}@127.0.0.1/")).api_key(BACKEND),
    ];
    for entry in entries {
        shown.note(&entry);
        drop(shown.note(Config::builder().backend(entry)));
    }

    // Each layer, service and future, with a request inside.
    let body = shown.note(RequestBody::new(Full::from(IN_BODY)));
    drop(body.with_max_bytes(1000));
    let layer = shown.note(OpenAiProxyLayer::from_config(config.clone()));
    shown.note(layer.handle().backends());
    let mut proxy = shown.note(layer.layer(service_fn(app)));
    shown.note(proxy.call(request()));
    let auth = shown.note(AuthPassthroughLayer::new());
    let below = service_fn(async |request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(format!("{:?}", request.headers()))
    });
    let headers = auth.layer(below).oneshot(request()).await;
    shown.note(headers.expect("an answer"));
    let mut auth = auth.layer(shown.note(Forward::new()));
    shown.note(&auth);
    shown.note(auth.call(request()));
    let route = shown.note(BackendRouteLayer::from_config(&config));
    let model = shown.note(ModelOverrideLayer::new());
    let timeout = shown.note(TimeoutLayer::new().with_default_idle(Duration::from_secs(1)));
    let mut timeout = shown.note(timeout.layer(Forward::new()));
    shown.note(timeout.call(request()));
    let mut model = shown.note(model.layer(timeout));
    shown.note(model.call(request().map(RequestBody::new)));
    let mut route = shown.note(route.layer(model));
    shown.note(route.call(request()));

    // An answer, and errors with all that caused them.
    let answer = route.oneshot(request()).await.expect("an answer");
    shown.note(&answer);
    shown.note(answer.extensions().get::<tower_openai_proxy::Backend>());
    shown.note(proxy.oneshot(request()).await.expect("an answer"));
    let mut direct = request();
    direct
        .extensions_mut()
        .insert(layer.handle().backends()[1].clone());
    let answer = shown.note(Forward::new().call(direct)).await;
    shown.note(answer.expect("an answer"));
    let refused = layer.handle().backends()[0].clone();
    let mut lost = request();
    lost.extensions_mut().insert(refused);
    let error = Forward::new().oneshot(lost).await.expect_err("refused");
    shown.note(&error);
    write!(shown.0, "{error}").expect("memory");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        write!(shown.0, "{cause} {cause:?}").expect("memory");
        source = cause.source();
    }

    for name in [
        "AuthPassthrough {",
        "AuthPassthroughLayer {",
        "Backend {",
        "BackendConfig {",
        "BackendRoute {",
        "BackendRouteLayer {",
        "BackendSettings {",
        "Config {",
        "ConfigBuilder {",
        "Error {",
        "Forward",
        "ModelOverride {",
        "ModelOverrideLayer",
        "OpenAiProxy {",
        "OpenAiProxyLayer {",
        "RequestBody {",
        "ResponseBody {",
        "ResponseFuture {",
        "SharedCredentials {",
        "Timeout {",
        "TimeoutLayer {",
        "Unencrypted {",
    ] {
        assert!(shown.0.contains(name), "no {name} in\n{}", shown.0);
    }
    check(&shown.0, &SECRETS, "Debug");
}
