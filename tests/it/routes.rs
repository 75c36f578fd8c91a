//! How connections get to a backend: through HTTP proxies, and by Unix sockets.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};

use crate::{
    support::{Backend, Message, Server, Wire, config_of, nobody, post, post_with, response, soon},
    websocket::{handshake, switch},
};

/// An HTTP proxy: makes tunnels to one address, whatever is asked for, and answers everything else
/// itself.
struct Proxy {
    port: u16,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Proxy {
    /// What it answers to CONNECT, and where its tunnels lead.
    async fn start(connect: &'static str, destination: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(Wire::new(stream), connect, destination, seen.clone()));
                }
            }
        });
        Self { port, seen }
    }

    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn serve(
    mut wire: Wire,
    connect: &str,
    destination: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
) {
    while let Some(request) = wire.try_request().await {
        let is_connect = request.start_line().starts_with("CONNECT ");
        seen.lock().unwrap().push(request);
        if !is_connect {
            wire.send(response("200 OK", "of the proxy")).await;
            continue;
        }
        wire.send(format!("HTTP/1.1 {connect}\r\n\r\n")).await;
        if connect.starts_with('2') {
            let mut backend = TcpStream::connect(destination).await.expect("a backend");
            let _ = tokio::io::copy_bidirectional(&mut wire.stream, &mut backend).await;
        }
        return;
    }
}

const CONNECTED: &str = "200 Connection established";

/// `user` and `p@ss:word/`, percent-encoded.
const USER: &str = "user:p%40ss%3Aword%2F@";
const BASIC: &str = "Basic dXNlcjpwQHNzOndvcmQv";

fn entry(name: &str, url: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"name":"{name}","url":"{url}"{comma}{fields}}}"#)
}

async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

/// A server whose backend is at a name that doesn't resolve.
fn server_at(url: &str, fields: &str, environment: &[(&str, &str)]) -> Server {
    Server::start_with(
        &config_of(&[entry("LLM1", url, fields)], ""),
        &[],
        environment,
    )
}

// Proxies.

#[tokio::test]
async fn requests_to_http_backends_go_to_the_proxy_in_absolute_form() {
    let proxy = Proxy::start(CONNECTED, nobody().await).await;
    let fields = format!(r#""proxy":"http://{USER}127.0.0.1:{}""#, proxy.port);
    let server = server_at("http://llm.invalid:8080/v1", &fields, &[]);
    let mut client = Wire::connect(server.address).await;
    for _ in 0..2 {
        client
            .send(post_with(
                "Proxy-Authorization: Basic of-the-client\r\n",
                "{}",
            ))
            .await;
        assert_eq!(client.response().await.body, b"of the proxy");
        let [request] = &proxy.take()[..] else {
            panic!("one request")
        };
        assert_eq!(
            request.start_line(),
            "POST http://llm.invalid:8080/v1/chat/completions HTTP/1.1"
        );
        assert_eq!(request.field("host").as_deref(), Some("llm.invalid:8080"));
        assert_eq!(request.field("proxy-authorization").as_deref(), Some(BASIC));
        assert_eq!(
            request.field("authorization").as_deref(),
            Some("Bearer sk-test")
        );
        assert_eq!(request.body, b"{}");
    }

    let fields = format!(r#""proxy":"http://127.0.0.1:{}""#, proxy.port);
    let server = server_at("http://llm.invalid?k=v", &fields, &[]);
    assert_eq!(ask(&server, post("{}")).await.status(), 200);
    let [request] = &proxy.take()[..] else {
        panic!("one request")
    };
    assert_eq!(
        request.start_line(),
        "POST http://llm.invalid/chat/completions?k=v HTTP/1.1"
    );
    assert_eq!(request.field("proxy-authorization"), None);
}

#[tokio::test]
async fn websockets_go_through_a_tunnel_of_their_own() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(CONNECTED, backend.address).await;
    let fields = format!(r#""proxy":"http://{USER}127.0.0.1:{}""#, proxy.port);
    let server = server_at("http://llm.invalid:8080/v1", &fields, &[]);
    // An idle connection to the proxy is none to the backend.
    assert_eq!(ask(&server, post("{}")).await.body, b"of the proxy");
    proxy.take();

    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    let head = wire.head().await;
    assert!(
        head.starts_with("GET /v1/realtime HTTP/1.1\r\nhost: llm.invalid:8080\r\n"),
        "{head}"
    );
    assert!(!head.contains("proxy-authorization"), "{head}");
    switch(&mut client, &mut wire).await;
    let [connect] = &proxy.take()[..] else {
        panic!("one CONNECT")
    };
    assert_eq!(connect.start_line(), "CONNECT llm.invalid:8080 HTTP/1.1");
    assert_eq!(connect.field("host").as_deref(), Some("llm.invalid:8080"));
    assert_eq!(connect.field("proxy-authorization").as_deref(), Some(BASIC));

    // Nor is an idle tunnel one to the proxy.
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(response("401 Unauthorized", "no")).await;
    assert_eq!(client.response().await.status(), 401);
    proxy.take();
    assert_eq!(ask(&server, post("{}")).await.body, b"of the proxy");
    assert!(proxy.take()[0].start_line().starts_with("POST http://"));
}

#[tokio::test]
async fn a_refused_tunnel_is_a_refused_connection() {
    for (connect, tells) in [
        ("403 Forbidden", "status 403"),
        ("407 Proxy Authentication Required", "status 407"),
        ("502 Bad Gateway", "status 502"),
    ] {
        let proxy = Proxy::start(connect, nobody().await).await;
        let fields = format!(r#""proxy":"http://u:sk-secret@127.0.0.1:{}""#, proxy.port);
        let server = server_at("http://llm.invalid/v1", &fields, &[("RUST_LOG", "trace")]);
        let answer = ask(&server, handshake("/v1/realtime", "")).await;
        assert_eq!(
            (answer.status(), &*answer.error_code()),
            (502, "connection_refused")
        );
        let log = server.logged(tells).await;
        assert!(
            !log.contains("sk-secret") && !log.contains("c2stc2VjcmV0"),
            "{log}"
        );
    }
    // Nor is there a way past a proxy that isn't there.
    let backend = Backend::start().await;
    let fields = format!(r#""proxy":"http://{}""#, nobody().await);
    let server = server_at(&backend.url(), &fields, &[]);
    assert_eq!(
        ask(&server, post("{}")).await.error_code(),
        "connection_refused"
    );
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_silent_proxy_is_a_connect_timeout() {
    let proxy = Backend::start().await;
    let fields = format!(r#""proxy":"http://{}""#, proxy.address);
    let entry = entry("LLM1", "http://llm.invalid/v1", &fields);
    let server = Server::start(&config_of(&[entry], r#""connect_timeout":0.3"#));
    let answer = ask(&server, handshake("/v1/realtime", "")).await;
    assert_eq!(
        (answer.status(), &*answer.error_code()),
        (504, "connection_timeout")
    );
}

#[tokio::test]
async fn the_environments_proxies_count_but_for_loopback_and_exceptions() {
    let proxy = Proxy::start(CONNECTED, nobody().await).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    for (name, no_proxy, host, is_proxied) in [
        ("HTTP_PROXY", ("NO_PROXY", ""), "llm.invalid", true),
        (
            "http_proxy",
            ("NO_PROXY", "other.invalid"),
            "llm.invalid",
            true,
        ),
        (
            "HTTP_PROXY",
            ("NO_PROXY", "other.invalid, llm.invalid"),
            "llm.invalid",
            false,
        ),
        (
            "HTTP_PROXY",
            ("no_proxy", " .invalid"),
            "llm.invalid",
            false,
        ),
        ("HTTP_PROXY", ("NO_PROXY", "*"), "llm.invalid", false),
        ("HTTPS_PROXY", ("NO_PROXY", ""), "llm.invalid", false),
    ] {
        let environment = [(name, &*url), no_proxy];
        let server = server_at(&format!("http://{host}/v1"), "", &environment);
        let answer = ask(&server, post("{}")).await;
        if is_proxied {
            assert_eq!(answer.body, b"of the proxy", "{environment:?}");
        } else {
            assert_eq!(answer.error_code(), "dns_error", "{environment:?}");
        }
        assert_eq!(proxy.take().len(), usize::from(is_proxied));
    }

    let backend = Backend::start().await;
    let server = server_at(
        &backend.url(),
        "",
        &[("HTTP_PROXY", &url), ("http_proxy", &url)],
    );
    backend.answer_all(response("200 OK", "of the backend"));
    assert_eq!(ask(&server, post("{}")).await.body, b"of the backend");
    // Whoever configures a proxy means it.
    let backend = Backend::start().await;
    let fields = format!(r#""proxy":"{url}""#);
    let server = server_at(&backend.url(), &fields, &[("NO_PROXY", "*")]);
    assert_eq!(ask(&server, post("{}")).await.body, b"of the proxy");
    let server = server_at(
        "http://llm.invalid/v1",
        r#""proxy":"""#,
        &[("HTTP_PROXY", &url)],
    );
    assert_eq!(ask(&server, post("{}")).await.error_code(), "dns_error");
}

#[test]
fn a_proxy_that_cannot_be_used_is_reported_at_the_start() {
    let config = config_of(&[entry("LLM1", "http://llm.invalid/v1", "")], "");
    let config = crate::support::TempFile::new("config.json", &config);
    let mut command = Server::command();
    command.arg("--config").arg(&config.path);
    command.env("HTTP_PROXY", "socks5://user:sk-secret@127.0.0.1:1080");
    let output = command.output().expect("a process");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("`HTTP_PROXY` must be http://host:port"),
        "{message}"
    );
    assert!(!message.contains("sk-secret"), "{message}");
}

#[cfg(all(
    any(feature = "native-tls", feature = "rustls"),
    not(any(windows, target_vendor = "apple"))
))]
#[tokio::test]
async fn https_backends_are_reached_through_a_tunnel() {
    use tokio_native_tls::{TlsAcceptor, native_tls};

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    let identity = native_tls::Identity::from_pkcs8(&read("good.pem"), &read("leaf.key"));
    let acceptor = native_tls::TlsAcceptor::new(identity.expect("a key"));
    let acceptor = TlsAcceptor::from(acceptor.expect("a certificate"));
    let backend = Backend::start().await;
    let proxy = Proxy::start(CONNECTED, backend.address).await;
    let fields = format!(
        r#""ca_file":{:?},"proxy":"http://{USER}127.0.0.1:{}""#,
        folder.join("authority.pem"),
        proxy.port
    );
    // Another port: nothing goes there but through the tunnel.
    let server = server_at(
        &format!("https://localhost:{}/v1", nobody().await.port()),
        &fields,
        &[],
    );
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let tcp = backend.accept().await.stream;
    let mut wire = Wire::over(
        soon("a handshake", acceptor.accept(tcp))
            .await
            .expect("TLS"),
    );
    for body in ["1", "2"] {
        let request = wire.request().await;
        assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
        assert_eq!(request.field("proxy-authorization"), None);
        wire.send(response("200 OK", body)).await;
        assert_eq!(client.response().await.body, body.as_bytes());
        if body == "1" {
            client.send(post("{}")).await; // on the same connection
        }
    }
    let [connect] = &proxy.take()[..] else {
        panic!("one CONNECT")
    };
    assert!(connect.start_line().starts_with("CONNECT localhost:"));
    assert_eq!(connect.field("proxy-authorization").as_deref(), Some(BASIC));

    let refusing = Proxy::start("403 Forbidden", backend.address).await;
    let fields = format!(r#""proxy":"http://127.0.0.1:{}""#, refusing.port);
    let server = server_at("https://llm.invalid/v1", &fields, &[]);
    let answer = ask(&server, post("{}")).await;
    assert_eq!(
        (answer.status(), &*answer.error_code()),
        (502, "connection_refused")
    );
    assert_eq!(
        refusing.take()[0].start_line(),
        "CONNECT llm.invalid:443 HTTP/1.1"
    );
    // The environment's too.
    let environment = format!("http://127.0.0.1:{}", refusing.port);
    let server = server_at(
        "https://llm.invalid/v1",
        "",
        &[("https_proxy", &environment)],
    );
    assert_eq!(
        ask(&server, post("{}")).await.error_code(),
        "connection_refused"
    );
}

// Unix sockets.

#[cfg(unix)]
mod unix {
    use std::path::PathBuf;

    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A backend at a socket, which is removed on drop.
    struct AtSocket {
        listener: UnixListener,
        path: PathBuf,
    }

    impl AtSocket {
        fn start(name: &str) -> Self {
            let name = format!("top-{}-{name}.sock", std::process::id());
            let path = std::env::temp_dir().join(name);
            let listener = UnixListener::bind(&path).expect("a socket");
            Self { listener, path }
        }

        /// The URL with this base path.
        fn url(&self, base: &str) -> String {
            format!("unix:{}{base}", self.path.display())
        }

        async fn accept(&self) -> Wire<UnixStream> {
            let accepted = soon("a connection", self.listener.accept()).await;
            Wire::over(accepted.expect("a connection").0)
        }
    }

    impl Drop for AtSocket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[tokio::test]
    async fn a_backend_may_be_at_a_unix_socket() {
        let backend = AtSocket::start("base");
        for (base, path) in [
            (":/v1", "/v1/chat/completions"),
            ("", "/chat/completions"),
            (":", "/chat/completions"),
            (":/v1/?k=v", "/v1/chat/completions?k=v"),
        ] {
            // Never by a proxy.
            let proxy = ("HTTP_PROXY", "http://127.0.0.1:1");
            let server = server_at(
                &backend.url(base),
                r#""proxy":"http://127.0.0.1:1""#,
                &[proxy],
            );
            let mut client = Wire::connect(server.address).await;
            client.send(post("{}")).await;
            let mut wire = backend.accept().await;
            for _ in 0..2 {
                let request = wire.request().await;
                assert_eq!(request.start_line(), format!("POST {path} HTTP/1.1"));
                assert_eq!(request.field("host").as_deref(), Some("localhost"));
                wire.send(response("200 OK", "ok")).await;
                assert_eq!(client.response().await.body, b"ok");
                client.send(post("{}")).await; // on the same connection
            }
        }
    }

    #[tokio::test]
    async fn a_closed_socket_connection_is_replaced() {
        let backend = AtSocket::start("closed");
        let server = server_at(&backend.url(":/v1"), "", &[]);
        let mut client = Wire::connect(server.address).await;
        for _ in 0..2 {
            client.send(post("{}")).await;
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send(response("200 OK", "ok")).await;
            assert_eq!(client.response().await.body, b"ok");
        }
    }

    #[tokio::test]
    async fn websockets_go_by_sockets_too() {
        let backend = AtSocket::start("websocket");
        let server = server_at(&backend.url(":/v1"), "", &[]);
        let mut client = Wire::connect(server.address).await;
        client.send(handshake("/v1/realtime", "")).await;
        let mut wire = backend.accept().await;
        assert!(
            wire.head()
                .await
                .starts_with("GET /v1/realtime HTTP/1.1\r\nhost: localhost\r\n")
        );
        switch(&mut client, &mut wire).await;
        drop(client);
        assert_eq!(wire.rest().await, b"");
    }

    #[tokio::test]
    async fn nobody_at_a_socket_is_a_refused_connection() {
        let path = AtSocket::start("gone").path.clone(); // Removed again.
        let server = server_at(&format!("unix:{}:/v1", path.display()), "", &[]);
        let answer = ask(&server, post("{}")).await;
        assert_eq!(
            (answer.status(), &*answer.error_code()),
            (502, "connection_refused")
        );
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("UTF-8");
        assert!(!String::from_utf8_lossy(&answer.body).contains(name));
    }

    #[tokio::test]
    async fn two_sockets_are_two_backends() {
        let [first, second] = [AtSocket::start("one"), AtSocket::start("two")];
        let entries = [
            entry("one", &first.url(":/v1"), ""),
            entry("two", &second.url(":/v1"), ""),
        ];
        let server = Server::start(&config_of(&entries, ""));
        let mut client = Wire::connect(server.address).await;
        for (name, backend) in [("one", &first), ("two", &second)] {
            client
                .send(post_with(&format!("X-Proxy-Backend: {name}\r\n"), "{}"))
                .await;
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send(response("200 OK", name)).await;
            assert_eq!(client.response().await.body, name.as_bytes());
        }
    }
}
