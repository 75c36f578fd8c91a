//! The server at the edges of its system: outputs that fail or stall, files that cannot be read,
//! addresses, descriptors and clients that go away.

#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use http::Request;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{
    Backend, DEMO_CONFIG, Message, PATIENCE, Server, TempFile, Unreachable, Wire, config_for,
    config_of, entry,
    frames::{self, block, frame},
    https, post, response, soon,
    usage::{Usage, usage_at_rest},
};

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

/// A server whose outputs the test chooses. It ends with this value.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts it at an address that was free a moment ago: it may be unable to print its own. Not at
    /// 127.0.0.1, where the port might become that of somebody's connection.
    async fn start(config: &TempFile, arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Self {
        let free = TcpListener::bind("127.0.0.2:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let mut command = Command::new(crate::support::example("server"));
        command.args(["--workers", "1", "--listen", &address.to_string()]);
        command.arg("--config").arg(&config.path).args(arguments);
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        let child = command.stdout(stdout).stderr(stderr).spawn();
        let process = Self {
            child: child.expect("the server starts"),
            address,
        };
        soon("a listener", async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        // Its listener is there before it is ready for signals.
        assert!(is_healthy(address).await);
        process
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill(1)").success());
    }

    async fn ended(&mut self) -> ExitStatus {
        soon("the end", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    return status;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server prints that ends by itself.
async fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the server starts");
    let ended = timeout(PATIENCE, async {
        while child.try_wait().expect("a child").is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let has_ended = ended.await.is_ok();
    let _ = child.kill();
    assert!(has_ended, "it runs on: {:?}", child.wait_with_output());
    child.wait_with_output().expect("a child")
}

async fn is_healthy(address: SocketAddr) -> bool {
    let mut client = Wire::connect(address).await;
    client.send(HEALTH).await;
    client.response().await.status() == 200
}

/// Every write to it fails.
fn full() -> Stdio {
    let full = File::options().write(true).open("/dev/full");
    full.expect("Linux has it").into()
}

/// A pipe that nobody reads from.
fn closed() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

// Standard output and standard error.

#[tokio::test]
async fn failing_outputs_end_neither_the_server_nor_its_configuration() {
    for broken in [full, closed] {
        let config = TempFile::new("config.json", DEMO_CONFIG);
        let mut server = Process::start(&config, &["--watch"], broken(), broken()).await;
        fs::write(&config.path, "{ cut short").expect("a file");
        server.signal("HUP");
        // Long enough for the reload and for what --watch sees.
        sleep(Duration::from_millis(1500)).await;
        assert!(is_healthy(server.address).await);
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0));
    }
}

#[test]
fn a_question_whose_answer_nobody_reads_is_no_error() {
    for flag in ["--help", "--version"] {
        for broken in [full, closed] {
            let mut command = Server::command();
            command.arg(flag).stdout(broken()).stderr(Stdio::piped());
            let output = command.output().expect("the server starts");
            assert_eq!(output.status.code(), Some(0));
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        }
    }
}

#[test]
fn a_message_that_nobody_reads_leaves_the_status_as_it_is() {
    for broken in [full, closed] {
        let mut command = Server::command();
        command
            .arg("--bogus")
            .stdout(Stdio::null())
            .stderr(broken());
        assert_eq!(command.status().expect("it starts").code(), Some(2));
    }
}

/// Sends so many requests in one go, each of which is refused and logged, and reads the answers.
async fn refused(address: SocketAddr, count: usize) {
    const REFUSED: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n";
    let client = Wire::connect(address).await;
    let mut client = client.send_aside(REFUSED.repeat(count).into());
    for _ in 0..count {
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 401"), "{head}");
        let message = Message {
            head,
            body: Vec::new(),
        };
        client.try_body(&message).await.expect("a whole body");
    }
}

#[tokio::test]
async fn a_log_reader_that_stalls_stops_nobody_and_learns_how_much_it_missed() {
    const COUNT: usize = 12_000;
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let (log, stderr) = std::io::pipe().expect("a pipe");
    let server = Process::start(&config, &[], Stdio::null(), stderr.into()).await;
    refused(server.address, COUNT).await;
    assert!(is_healthy(server.address).await);

    let (mut seen, mut bytes) = (0, 0);
    let mut lines = BufReader::new(log).lines();
    let dropped = loop {
        let line = lines.next().expect("the pipe is open").expect("UTF-8");
        bytes += line.len() + 1;
        seen += usize::from(line.contains("http_request_denied"));
        if let Some((_, dropped)) = line.split_once(" dropped=") {
            break dropped.parse::<usize>().expect("a number");
        }
    };
    assert_eq!(seen + dropped, COUNT);
    // What waited in the server, and in the pipe.
    assert!(bytes <= 1024 * 1024 + 64 * 1024 + 1024, "{bytes}");

    refused(server.address, 1).await;
    let next = lines.next().expect("the pipe is open").expect("UTF-8");
    assert!(next.contains("http_request_denied"), "{next}");
}

#[tokio::test]
async fn a_log_reader_that_stalls_does_not_hold_up_the_end() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let (_log, stderr) = std::io::pipe().expect("a pipe");
    let mut server = Process::start(&config, &[], Stdio::null(), stderr.into()).await;
    refused(server.address, 2_000).await;
    fs::write(&config.path, "{ cut short").expect("a file");
    server.signal("HUP");
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
}

// Files.

fn make_fifo(path: &Path) {
    let _ = fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo(1)").success());
}

#[tokio::test]
async fn a_fifo_in_place_of_a_file_is_refused_at_the_start() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let fifo = TempFile::new("fifo", "");
    make_fifo(&fifo.path);
    let (config, fifo) = (&config.path, &fifo.path);
    for arguments in [
        [Path::new("--config"), fifo].as_slice(),
        &[
            Path::new("--config"),
            config,
            Path::new("--tls-cert"),
            fifo,
            Path::new("--tls-key"),
            fifo,
        ],
    ] {
        let output = output(Server::command().args(arguments)).await;
        assert_eq!(output.status.code(), Some(2));
        let message = format!("{}: can't be read: not a regular file\n", fifo.display());
        assert_eq!(String::from_utf8_lossy(&output.stderr), message);
    }
}

#[tokio::test]
async fn a_fifo_at_a_reload_leaves_the_configuration_and_the_signals_in_place() {
    for arguments in [&[][..], &["--watch"]] {
        let config = TempFile::new("config.json", DEMO_CONFIG);
        let mut command = Server::command();
        command.arg("--config").arg(&config.path).args(arguments);
        let mut server = Server::spawn(&mut command);
        make_fifo(&config.path);
        server.signal("HUP");
        server.logged("the old configuration stays").await;
        assert!(is_healthy(server.address).await);
        server.signal("TERM");
        assert_eq!(soon("the end", server.ended()).await, Some(0));
    }
}

#[tokio::test]
async fn a_link_to_a_file_is_followed() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let link = TempFile::new("link.json", "");
    fs::remove_file(&link.path).expect("a file");
    std::os::unix::fs::symlink(&config.path, &link.path).expect("a link");
    let mut command = Server::command();
    let server = Server::spawn(command.arg("--config").arg(&link.path));
    assert!(is_healthy(server.address).await);
}

// Clients that disconnect.

#[tokio::test]
async fn a_client_that_disconnected_is_noticed_whatever_it_sent_before() {
    for (what, request) in [
        ("a stray line end", format!("{}\r\n", post("{}"))),
        (
            "a pipelined request",
            format!("{}{}", post("{}"), post("{}")),
        ),
        ("a part of one", format!("{}POST", post("{}"))),
    ] {
        for is_reset in [false, true] {
            let backend = Backend::start().await;
            let server = Server::start(&config_for(&backend));
            let mut client = Wire::connect(server.address).await;
            client.send(&request).await;
            let mut wire = backend.accept().await;
            wire.request().await;
            match is_reset {
                true => client.reset(),
                // It might still read.
                false => client.stream.shutdown().await.expect("a socket"),
            }
            let log = server.logged("end=").await;
            assert!(log.contains("end=\"client left\""), "{what}: {log}");
            wire.closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_disconnected_is_noticed_though_nobody_takes_its_upload() {
    let hangs = Unreachable::start().await;
    let config = config_of(
        &[entry("LLM1", hangs.address, "")],
        r#""connect_timeout":300"#,
    );
    let server = Server::start(&config);
    let mut client = Wire::connect(server.address).await;
    client.send(post(&"x".repeat(50_000))).await;
    assert!(client.is_silent().await);
    client.stream.shutdown().await.expect("a socket");
    server.logged("end=\"client left\"").await;
    client.rest().await;
}

#[tokio::test]
async fn a_client_that_disconnected_is_noticed_over_tls() {
    let backend = Backend::start().await;
    let server = https::start(&config_for(&backend), ["good.pem", "leaf.key"]);
    let mut client = https::connect(server.address, &["http/1.1"]).await;
    client.send(format!("{}{}", post("{}"), post("{}"))).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    drop(client);
    server.logged("end=\"client left\"").await;
    wire.closed().await;
}

// Heads.

#[tokio::test]
async fn a_head_has_64_kib_at_most() {
    const REST: usize = "GET /health HTTP/1.1\r\nHost: a\r\nx: \r\n\r\n".len();
    let server = Server::demo(&[]);
    for (size, status) in [
        (60_000, "200"),
        (64 * 1024, "200"),
        (64 * 1024 + 1, "431"),
        (100_000, "431"),
        (400_000, "431"),
    ] {
        let long = "x".repeat(size - REST);
        let head = format!("GET /health HTTP/1.1\r\nHost: a\r\nx: {long}\r\n\r\n");
        let client = Wire::connect(server.address).await;
        let answer = client.send_aside(head.into()).head().await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{size}: {answer}");
    }
}

#[tokio::test]
async fn a_request_of_http_1_1_has_exactly_one_host() {
    let server = Server::demo(&[]);
    let credentials = "Authorization: Bearer sk-test";
    for path in ["/health", "/v1/chat/completions"] {
        for (version, hosts, is_served) in [
            ("1.1", "Host: a\r\n", true),
            ("1.1", "", false),
            ("1.1", "Host: a\r\nHost: a\r\n", false),
            ("1.1", "Host: a\r\nHost: b\r\n", false),
            ("1.0", "", true),
            ("1.0", "Host: a\r\n", true),
            ("1.0", "Host: a\r\nHost: b\r\n", false),
        ] {
            let mut client = Wire::connect(server.address).await;
            let request = format!("GET {path} HTTP/{version}\r\n{hosts}{credentials}\r\n\r\n");
            client.send(&request).await;
            let answer = client.response().await;
            if is_served {
                assert_eq!(answer.status(), 200, "{request}");
            } else {
                assert_eq!(answer.status(), 400, "{request}");
                assert_eq!(answer.error_code(), "http_request_error");
                client.closed().await;
            }
        }
    }
}

// Descriptors.

#[tokio::test]
async fn idle_connections_make_room_where_descriptors_run_short() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#]);
    command.arg(crate::support::example("server"));
    command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--config"]);
    let server = Server::spawn(command.arg(&config.path).env_remove("RUST_LOG"));
    let mut idle = Vec::new();
    for _ in 0..40 {
        let mut client = Wire::connect(server.address).await;
        client.send(HEALTH).await;
        assert_eq!(client.response().await.status(), 200);
        idle.push(client);
    }
    let mut late = Vec::new();
    for _ in 0..40 {
        let mut client = Wire::connect(server.address).await;
        client.send(HEALTH).await;
        late.push(client);
    }
    for client in &mut late {
        assert_eq!(client.response().await.status(), 200);
    }
    server
        .logged("cannot accept connections for now code=EMFILE")
        .await;
    idle[0].closed().await;
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -Sn 80; ulimit -Hn 90; exec "$0" "$@""#]);
    command.arg(crate::support::example("server"));
    command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--config"]);
    let server = Server::spawn(command.arg(&config.path).env_remove("RUST_LOG"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id()));
    let limits = limits.expect("a process");
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = limit.expect("always").split_whitespace().skip(3).collect();
    assert_eq!(numbers[..2], ["90", "90"]);
}

// Idle connections.

#[tokio::test]
async fn keep_alive_says_how_long_a_connection_may_be_idle() {
    let server = Server::demo(&["--keep-alive", "0.2"]);
    let mut client = Wire::connect(server.address).await;
    client.send(HEALTH).await;
    assert_eq!(client.response().await.status(), 200);
    client.closed().await;
    for wrong in ["-1", "soon", "NaN"] {
        let output = output(Server::command().args(["--keep-alive", wrong])).await;
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("--keep-alive"), "{message}");
    }
}

// HTTP/2.

/// A client that gives all the window it can for what it never reads.
async fn greedy_client(address: SocketAddr) -> TcpStream {
    const MOST: u32 = (1 << 31) - 1;
    let window = [&[0, 4][..], &MOST.to_be_bytes()].concat();
    let more = (MOST - 65_535).to_be_bytes();
    let opening = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(frames::SETTINGS, 0, 0, &window),
        frame(frames::WINDOW_UPDATE, 0, 0, &more),
        frame(
            frames::HEADERS,
            frames::END_HEADERS | frames::END_STREAM,
            1,
            &block(&frames::REQUEST),
        ),
    ];
    let mut client = TcpStream::connect(address).await.expect("it listens");
    client.write_all(&opening.concat()).await.expect("open");
    client
}

#[tokio::test]
async fn small_chunks_that_an_http2_client_never_reads_fill_no_memory() {
    for chunk in ["1\r\nx\r\n", "8\r\n01234567\r\n"] {
        let backend = Backend::start().await;
        let server = Server::start(&config_for(&backend));
        let before = usage_at_rest(&server).await;
        let _client = greedy_client(server.address).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let chunks = chunk.repeat(100_000);
        while crate::support::write_until_stopped(&mut wire.stream, chunks.as_bytes()).await
            == chunks.len()
        {}
        let after = Usage::of(&server);
        assert!(
            after.memory < before.memory + 8 * 1024,
            "{before:?}, {after:?}"
        );
    }
}

#[tokio::test]
async fn uploads_that_nobody_takes_stop_no_others_however_many_they_are() {
    const STUCK: usize = 199;
    let (hangs, works) = (Unreachable::start().await, Backend::start().await);
    let backends = [
        entry("hangs", hangs.address, ""),
        entry("works", works.address, ""),
    ];
    let config = config_of(&backends, r#""connect_timeout":300"#);
    let server = Server::start(&config);
    works.answer_all(response("200 OK", "{}"));
    let stream = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let upload = |backend| {
        let request = Request::post("http://proxy.test/v1/chat/completions");
        let request = request.header("authorization", "Bearer sk-test");
        request
            .header("x-proxy-backend", backend)
            .body(())
            .expect("a request")
    };

    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        client = soon("room", client.ready()).await.expect("open");
        let (answer, mut sender) = client
            .send_request(upload("hangs"), false)
            .expect("a stream");
        // More than a stream's window.
        sender
            .send_data(vec![b' '; 300_000].into(), false)
            .expect("open");
        stuck.push((answer, sender));
    }
    for _ in 0..3 {
        client = soon("room", client.ready()).await.expect("open");
        let (answer, mut sender) = client
            .send_request(upload("works"), false)
            .expect("a stream");
        sender
            .send_data(vec![b' '; 1_000_000].into(), true)
            .expect("open");
        let answer = soon("an answer", answer).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}

// Signals.

#[tokio::test]
async fn user_signals_are_ignored() {
    let server = Server::demo(&[]);
    for signal in ["USR1", "USR2"] {
        server.signal(signal);
        assert!(is_healthy(server.address).await);
    }
}

// The demo.

#[tokio::test]
async fn the_demo_answers_a_recursive_schema_within_bounds() {
    let server = Server::demo(&[]);
    let properties: Vec<_> = (0..40)
        .map(|n| format!(r##""p{n}":{{"$ref":"#"}}"##))
        .collect();
    let schema = format!(
        r#"{{"type":"object","properties":{{{}}}}}"#,
        properties.join(",")
    );
    let format = format!(r#"{{"type":"json_schema","json_schema":{{"schema":{schema}}}}}"#);
    let messages = r#"[{"role":"user","content":"Hello"}]"#;
    let request = format!(r#"{{"model":"m","messages":{messages},"response_format":{format}}}"#);
    let mut client = Wire::connect(server.address).await;
    client.send(post(&request)).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body.len() < 100_000, "{}", answer.body.len());
    let json = answer.json();
    let content = json["choices"][0]["message"]["content"].as_str();
    let sample: serde_json::Value = serde_json::from_str(content.expect("text")).expect("JSON");
    assert!(sample["p0"]["p0"].is_object(), "{sample}");
}

// What never becomes an exchange.

/// A server that serves HTTPS if `tls`, after a client has sent this and was cut off.
async fn server_that_got(bytes: &[u8], tls: bool, level: &str) -> Server {
    let environment = [("RUST_LOG", level)];
    let server = match tls {
        true => https::start_with(DEMO_CONFIG, ["good.pem", "leaf.key"], &environment),
        false => Server::start_with(DEMO_CONFIG, &[], &environment),
    };
    let mut client = Wire::connect(server.address).await;
    client.send(bytes).await;
    client.rest().await;
    server
}

#[tokio::test]
async fn what_never_becomes_an_exchange_is_logged_at_debug_with_its_cause() {
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    let half = &https_hello()[..20];
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0\0";
    for (bytes, tls, message, cause) in [
        (
            &b"GET nonsense\r\n\r\n"[..],
            false,
            "malformed request",
            "invalid",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            false,
            "malformed request",
            "Host",
        ),
        (long.as_bytes(), false, "malformed request", "too large"),
        (http2, false, "connection ended", "protocol error"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            true,
            "TLS handshake failed",
            "plain HTTP",
        ),
        (half, true, "TLS handshake failed", "handshake"),
    ] {
        let server = server_that_got(bytes, tls, "debug").await;
        let log = server.logged(message).await;
        let line = log.lines().find(|line| line.contains(message));
        let line = line.expect("just seen");
        assert!(line.contains(" DEBUG ") && line.contains(cause), "{line}");
        assert!(!log.contains("nonsense"), "{log}");
        let quiet = server_that_got(bytes, tls, "info").await.stop();
        assert!(!quiet.contains(message), "{quiet}");
    }
}

/// A record of TLS that says it is a handshake and is none.
fn https_hello() -> Vec<u8> {
    [&b"\x16\x03\x01\x00\x0f"[..], &[0xff; 15]].concat()
}

#[tokio::test]
async fn libraries_warn_only_where_they_are_named() {
    const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // An answer to a PING that nobody sent, and a frame that ends the connection.
    const ACK: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0whatever";
    const END: &[u8] = b"\0\0\0\0\0\0\0\0\0";
    let bytes = [OPENING, ACK, END].concat();
    for (level, warns) in [("info", false), ("debug", false), ("info,h2=warn", true)] {
        let server = server_that_got(&bytes, false, level).await;
        assert!(is_healthy(server.address).await);
        // Longer than lines wait to be written.
        sleep(Duration::from_millis(300)).await;
        let log = server.stop();
        assert_eq!(log.contains("PING ack"), warns, "{level}: {log}");
    }
}
