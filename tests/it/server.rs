//! Starting the server: its arguments, its configuration, its logs, and the connections it takes.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{
    Backend, DEMO_CONFIG, PATIENCE, Server, TempFile, Wire, config_for, config_of, config_with,
    entry, example,
    http2::{Http2, collect, full},
    nobody, post, post_with, response,
};

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

/// The server with these arguments, which ends by itself.
fn run(arguments: &[&str]) -> Output {
    run_command(Server::command().args(arguments))
}

/// The same, with a configuration that can be used, at an address that can't.
fn run_at(address: &str, workers: &str) -> Output {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.args(["--listen", address, "--workers", workers]);
    run_command(command.arg("--config").arg(&config.path))
}

fn run_command(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the server starts");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().expect("a child");
            panic!("it runs on: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("a child")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// Checks that the server refused to start with this status, and gives its message.
#[track_caller]
fn refused(output: &Output, status: i32) -> &str {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert_eq!(stdout(output), "");
    let message = stderr(output);
    assert!(
        message.len() > 20 && !message.contains("panic"),
        "{message}"
    );
    message
}

/// The names of the backends, as health tells them.
async fn backends(server: &Server) -> Vec<String> {
    let mut client = Wire::connect(server.address).await;
    client.send(HEALTH).await;
    let health = client.response().await;
    assert_eq!(health.status(), 200);
    let json = health.json();
    let backends = json["backends"].as_array().expect("a list");
    let name = |backend: &Value| backend["name"].as_str().expect("a name").to_owned();
    backends.iter().map(name).collect()
}

/// A directory that is removed with this value.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let name = format!("tower-openai-proxy-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a temporary directory");
        Self(path)
    }

    fn with_config(self, content: &str) -> Self {
        std::fs::write(self.0.join("config.json"), content).expect("a file");
        self
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// Arguments.

#[tokio::test]
async fn one_line_on_standard_output_tells_the_address_and_nothing_follows() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    assert_ne!(server.address.port(), 0);
    let expected = format!("listening on http://{}\n", server.address);
    assert_eq!(server.first_line, expected);

    backend.answer_all(response("200 OK", "{}"));
    let mut client = Wire::connect(server.address).await;
    for request in [post("{}"), post("{}"), HEALTH.to_owned()] {
        client.send(request).await;
        assert_eq!(client.response().await.status(), 200);
    }
    client.send("nonsense\r\n\r\n").await;
    client.rest().await;
    server.logged("end=complete").await;
    assert_eq!(server.stop_with_output(), "");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_listens_on_the_address_that_was_asked_for() {
    // Kept from others, but not from the server: nobody listens at it yet.
    let free = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let free = free.expect("a socket");
    free.set_reuse_address(true).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    free.bind(&any.into()).expect("a free port");
    let address = free.local_addr().expect("bound").as_socket();
    let address = address.expect("an IP address").to_string();
    let mut server = Server::demo(&["--listen", &address]);
    assert_eq!(
        server.next_line(),
        format!("listening on http://{address}\n")
    );
    assert_eq!(backends(&server).await, ["LLM1"]);
}

#[tokio::test]
async fn it_listens_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // not everywhere
    }
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Command::new(example("server"));
    command.args(["--demo", "--listen", "[::1]:0", "--config"]);
    let server = Server::spawn(command.arg(&config.path));
    let port = server.address.port();
    assert_eq!(
        server.first_line,
        format!("listening on http://[::1]:{port}\n")
    );
    assert_eq!(backends(&server).await, ["LLM1"]);
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    for workers in ["1", "2"] {
        let output = run_at(&taken, workers);
        let message = refused(&output, 2);
        assert!(message.contains(&taken), "{message}");
        assert!(message.contains("in use"), "{message}");
    }
}

#[tokio::test]
async fn the_port_of_another_server_with_many_workers_is_taken_too() {
    let server = Server::demo(&["--workers", "2"]);
    let taken = server.address.to_string();
    for workers in ["1", "2"] {
        let output = run_at(&taken, workers);
        assert!(refused(&output, 2).contains(&taken));
    }
}

#[test]
fn help_tells_every_option() {
    for flag in ["--help", "-h"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        for option in [
            "--config",
            "--listen",
            "--demo",
            "--workers",
            "RUST_LOG",
            "127.0.0.1:8000",
        ] {
            assert!(stdout(&output).contains(option), "{option}");
        }
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn version_tells_the_version() {
    for flag in ["--version", "-V"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        let expected = concat!("tower-openai-proxy ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(stdout(&output), expected);
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn an_argument_that_is_not_understood_ends_it_with_status_2() {
    let cases: [(&[&str], &str); 10] = [
        (&["--bogus"], "--bogus"),
        (&["-x"], "-x"),
        (&["stray"], "stray"),
        (&["--demo=yes"], "--demo"),
        (&["--config"], "--config"),
        (&["--listen"], "--listen"),
        (&["--listen", "nonsense"], "--listen nonsense"),
        (&["--listen", "127.0.0.1:65536"], "--listen 127.0.0.1:65536"),
        (&["--workers", "0"], "--workers 0"),
        (&["--workers", "many"], "--workers many"),
    ];
    for (arguments, named) in cases {
        let output = run(arguments);
        let message = refused(&output, 2);
        assert!(message.contains(named), "{message}");
        assert!(message.contains("--help"), "{message}");
    }
}

// The configuration.

/// As people have it today, comments and all.
#[cfg(feature = "native-tls")]
const WITH_COMMENTS: &str = r#"{
  "primary_backends": [
    {
      "name": "LLM1",
      "url": "https://api.openai.com/v1",  # Primary OpenAI API endpoint
      "model": ""  # Optional: Set to override model in all requests
    },
    {
      "name": "LLM2",  # Additional backend configuration
      "url": "",  # Alternative API endpoint
      "model": ""  # Optional model override
    }
  ],
  "settings": {
    "timeout": 30  # Request timeout in seconds
  }
}
"#;

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn a_configuration_with_comments_loads_as_it_stands() {
    let server = Server::start(WITH_COMMENTS);
    assert_eq!(backends(&server).await, ["LLM1"]);
}

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn the_configuration_that_is_shipped_loads() {
    let server = Server::start(include_str!("../../config.json"));
    assert_eq!(backends(&server).await, ["LLM1"]);
}

#[tokio::test]
async fn config_json_of_the_working_directory_is_the_default() {
    let config = config_of(&[entry("HERE", nobody().await, "")], "");
    let directory = TempDir::new("default").with_config(&config);
    let server = Server::spawn(Server::command().current_dir(&directory.0));
    assert_eq!(backends(&server).await, ["HERE"]);
}

#[tokio::test]
async fn without_any_configuration_there_is_one_backend() {
    let directory = TempDir::new("none");
    let server = Server::spawn(Server::command().current_dir(&directory.0));
    assert_eq!(backends(&server).await, ["LLM1"]);
}

#[tokio::test]
async fn the_file_that_was_asked_for_goes_before_config_json() {
    let directory = TempDir::new("other").with_config("not read");
    let asked_for = config_of(&[entry("OTHER", nobody().await, "")], "");
    let asked_for = TempFile::new("other.json", &asked_for);
    let mut command = Server::command();
    command.current_dir(&directory.0);
    command.arg("--config").arg(&asked_for.path);
    assert_eq!(backends(&Server::spawn(&mut command)).await, ["OTHER"]);
}

#[test]
fn config_json_that_cannot_be_used_is_an_error() {
    let directory = TempDir::new("broken").with_config("{\n\n  nonsense");
    let output = run_command(Server::command().current_dir(&directory.0));
    let message = refused(&output, 2);
    assert!(
        message.starts_with("config.json: line 3, column 3: "),
        "{message}"
    );
}

/// The message for a configuration that can't be used. The server's address is taken: nothing may
/// be bound before the configuration is known to be good.
fn message_for(path: &Path) -> String {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let path = path.to_str().expect("UTF-8");
    let output = run(&["--listen", &taken, "--config", path]);
    let message = refused(&output, 2);
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    let problem = message.strip_prefix(&format!("{path}: "));
    problem
        .expect("the file's name first")
        .trim_end()
        .to_owned()
}

#[test]
fn a_configuration_error_names_the_file_the_place_and_what_is_allowed() {
    let cases = [
        ("", &["line 1, column 1: ", "JSON"][..]),
        (
            "{\n  \"settings\": {}\n} x",
            &["line 3, column 3: ", "JSON"],
        ),
        (
            "{\n  \"primary_backends\": [\n    { \"name\": \"A\", \"url\": \"ftp://a\" }\n  ]\n}",
            &["line 3, ", "`primary_backends[0].url`", "http or https"],
        ),
        (
            r#"{"primary_backends":[{"name":"A","url":"http://a"}],"settings":{"timeout":0}}"#,
            &["line 1, ", "`settings.timeout`", "positive"],
        ),
        (
            r#"{"primary_backends":[{"name":"A","url":"http://a","modle":""}]}"#,
            &["line 1, ", "`primary_backends[0].modle`", "`model`"],
        ),
        (
            r#"{"primary_backends":[{"name":"A","url":""}]}"#,
            &["line 1, ", "`primary_backends`", "at least one"],
        ),
        (
            r#"{"primary_backends":[{"name":"A","url":"http://a"},{"name":"A","url":"http://b"}]}"#,
            &["line 1, ", "`primary_backends[1].name`", "unique"],
        ),
        (
            r#"{"primary_backends":[{"name":"A","url":"http://a","api_key_env":"NOT_SET_ANYWHERE"}]}"#,
            &[
                "line 1, ",
                "`primary_backends[0].api_key_env`",
                "NOT_SET_ANYWHERE",
            ],
        ),
    ];
    for (config, parts) in cases {
        let file = TempFile::new("wrong.json", config);
        let message = message_for(&file.path);
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_is_an_error() {
    let path = std::env::temp_dir().join("tower-openai-proxy-not-there.json");
    assert!(message_for(&path).contains("can't be read"));
}

#[cfg(not(feature = "native-tls"))]
#[test]
fn without_tls_an_https_backend_is_a_configuration_error() {
    let file = TempFile::new("https.json", include_str!("../../config.json"));
    assert!(message_for(&file.path).contains("native-tls"));
}

// Logs.

/// The lines of exchanges.
fn exchanges(log: &str) -> Vec<&str> {
    let lines = log.lines();
    lines.filter(|line| line.contains(" exchange ")).collect()
}

/// What a line says after `name=`, without quotation marks.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split_once(&format!(" {name}="))?.1;
    Some(match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split(' ').next()?,
    })
}

/// The one line of an exchange that ended so, with what it says of backend, status and bytes.
async fn logged(server: &Server, end: &str) -> [Option<String>; 3] {
    let quoted = match end.contains(' ') {
        true => format!("end=\"{end}\""),
        false => format!("end={end}"),
    };
    let log = server.logged(&quoted).await;
    let lines = exchanges(&log);
    assert_eq!(lines.len(), 1, "{log}");
    let line = lines[0];
    assert!(line.contains(" INFO "), "{line}");
    assert_eq!(field(line, "end"), Some(end), "{line}");
    let millis = |name| {
        let value = field(line, name)?;
        Some(value.parse::<f64>().expect("a number"))
    };
    let total = millis("total_ms").expect("always");
    assert!(total >= 0.0, "{line}");
    if field(line, "status").is_some() {
        assert!((0.0..=total).contains(&millis("head_ms").expect("there was one")));
    }
    ["backend", "status", "bytes"].map(|name| field(line, name).map(str::to_owned))
}

fn says(backend: &str, status: &str, bytes: &str) -> [Option<String>; 3] {
    [backend, status, bytes].map(|value| (!value.is_empty()).then(|| value.to_owned()))
}

#[tokio::test]
async fn every_exchange_is_one_line_in_the_log() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    let mut wire = None;
    for status in [
        "200 OK",
        "429 Too Many Requests",
        "500 Internal Server Error",
    ] {
        client.send(post("{}")).await;
        let wire = match &mut wire {
            Some(wire) => wire,
            None => wire.insert(backend.accept().await),
        };
        wire.request().await;
        wire.send(response(status, "0123456789")).await;
        client.response().await;
    }
    client
        .send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status(), 401);

    let log = server.logged("status=401").await;
    let lines = exchanges(&log);
    let seen = |name| {
        lines
            .iter()
            .map(|line| field(line, name))
            .collect::<Vec<_>>()
    };
    let some = |values: [&'static str; 4]| values.map(Some);
    assert_eq!(seen("status"), some(["200", "429", "500", "401"]));
    assert_eq!(seen("bytes"), some(["10", "10", "10", "0"]));
    let end = some(["complete", "complete", "complete", "http_request_denied"]);
    assert_eq!(seen("end"), end);
    assert_eq!(
        seen("backend"),
        [Some("LLM1"), Some("LLM1"), Some("LLM1"), None]
    );
    // Nothing but the line of the start is in the log as well, and each line begins with the time.
    let (start, rest) = log.split_once('\n').expect("lines");
    let version = concat!(" version=", env!("CARGO_PKG_VERSION"), " ");
    assert!(start.contains(version), "{start}");
    assert!(
        start.contains(" config=") && start.contains("config.json"),
        "{start}"
    );
    assert!(start.ends_with(" backends=LLM1"), "{start}");
    assert_eq!(rest.lines().count(), lines.len(), "{log}");
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("20") && line.contains("Z INFO "))
    );
}

#[tokio::test]
async fn the_log_tells_a_complete_exchange_over_http2() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    backend.answer_all(response("200 OK", "0123456789"));
    let client = Http2::connect(server.address).await;
    let response = client.send(client.post("{}")).await.expect("a response");
    collect(response).await.expect("a body");
    assert_eq!(logged(&server, "complete").await, says("LLM1", "200", "10"));
}

#[tokio::test]
async fn the_log_tells_a_client_that_left_before_the_head() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    drop(client);
    let seen = logged(&server, "client left").await;
    assert_eq!(seen, says("LLM1", "", "0"));
}

#[tokio::test]
async fn the_log_tells_a_client_that_left_mid_body() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        .await;
    client.until("0123456789").await;
    drop(client);
    assert_eq!(
        logged(&server, "client left").await,
        says("LLM1", "200", "10")
    );
}

#[tokio::test]
async fn the_log_tells_a_backend_that_broke_off() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        .await;
    client.until("0123456789").await;
    drop(wire);
    let seen = logged(&server, "backend broke off").await;
    assert_eq!(seen, says("LLM1", "200", "10"));
}

#[tokio::test]
async fn the_log_tells_a_backend_that_refused() {
    let config = config_of(&[entry("LLM1", nobody().await, "")], "");
    let server = Server::start(&config);
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    assert_eq!(client.response().await.error_code(), "connection_refused");
    let [backend, status, _] = logged(&server, "connection_refused").await;
    assert_eq!(
        [backend.as_deref(), status.as_deref()],
        [Some("LLM1"), Some("502")]
    );
}

#[tokio::test]
async fn the_log_tells_which_clock_ran_out_before_the_head() {
    for clock in ["timeout", "total_timeout"] {
        let backend = Backend::start().await;
        let server = Server::start(&config_with(&backend, &format!(r#""{clock}":0.2"#)));
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        assert_eq!(client.response().await.status(), 504);
        let [_, status, _] = logged(&server, clock).await;
        assert_eq!(status.as_deref(), Some("504"));
    }
}

#[tokio::test]
async fn the_log_tells_which_clock_ran_out_mid_body() {
    // The second one is longer, as it must not run out before the head.
    for (clock, seconds) in [("idle_timeout", 0.2), ("total_timeout", 1.5)] {
        let backend = Backend::start().await;
        let server = Server::start(&config_with(&backend, &format!(r#""{clock}":{seconds}"#)));
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
            .await;
        client.rest().await;
        assert_eq!(logged(&server, clock).await, says("LLM1", "200", "10"));
    }
}

#[tokio::test]
async fn the_log_tells_a_client_that_fell_silent() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""idle_timeout":0.2"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(post("{}").replace("Length: 2", "Length: 3"))
        .await;
    assert_eq!(client.response().await.status(), 408);
    let [_, status, _] = logged(&server, "client idle_timeout").await;
    assert_eq!(status.as_deref(), Some("408"));
}

/// A server whose log is filtered so, after an exchange that was complete and one that was not.
async fn logs_at(level: &str) -> Server {
    let backend = Backend::start().await;
    let backends = [
        entry(
            "LLM1",
            backend.address,
            r#""model":"llama","provider":"groq""#,
        ),
        entry("LLM2", nobody().await, r#""model":"llama""#),
    ];
    let config = config_of(&backends, "");
    backend.answer_all(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\n0123456789",
    );
    let server = Server::start_with(&config, &[], &[("RUST_LOG", level)]);
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"model":"gpt"}"#)).await;
    assert_eq!(client.response().await.status(), 200);
    client
        .send(post_with("X-Proxy-Backend: LLM2\r\n", "{}"))
        .await;
    assert_eq!(client.response().await.status(), 502);
    server
}

#[tokio::test]
async fn the_log_is_silent_at_warn() {
    for level in ["warn", "off"] {
        let server = logs_at(level).await;
        // Longer than lines wait to be written.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.stop(), "");
    }
}

#[tokio::test]
async fn an_empty_rust_log_is_as_none() {
    let server = logs_at("").await;
    let log = server.logged("end=connection_refused").await;
    assert_eq!(exchanges(&log).len(), 2, "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[tokio::test]
async fn a_rust_log_that_is_not_understood_is_warned_about() {
    // A misspelt level would otherwise be a target of this name.
    for wrong in ["a=b=c", "inof", "server=loud"] {
        let server = logs_at(wrong).await;
        let log = server.logged("end=connection_refused").await;
        let first = log.lines().next().unwrap_or_default();
        assert!(
            first.contains("WARN") && first.contains("RUST_LOG"),
            "{log}"
        );
        assert_eq!(exchanges(&log).len(), 2, "{log}");
    }
}

#[tokio::test]
async fn at_debug_the_log_has_spans_with_the_names_of_opentelemetry() {
    let server = logs_at("debug").await;
    let log = server.logged("end=\"connection_refused\"").await;
    let lines = exchanges(&log);
    assert_eq!(lines.len(), 2, "{log}");
    for (line, names) in lines.iter().zip([
        &[
            "gen_ai.provider.name=\"groq\"",
            "gen_ai.request.stream=true",
            "gen_ai.response.time_to_first_chunk=",
            "http.response.status_code=200",
        ][..],
        &[
            "gen_ai.provider.name=\"openai\"",
            "http.response.status_code=502",
            "error.type=\"connection_refused\"",
        ],
    ]) {
        let span = line.split_once("chat{").expect("a span").1;
        let span = span.split_once('}').expect("its end").0;
        for name in names.iter().chain(&[
            "gen_ai.operation.name=\"chat\"",
            "gen_ai.request.model=\"llama\"",
            "otel.name=\"chat llama\"",
            "otel.kind=\"client\"",
        ]) {
            assert!(span.contains(name), "{name} is not in {span}");
        }
        let is_error = line.contains("connection_refused");
        assert_eq!(
            span.contains("otel.status_code=\"ERROR\""),
            is_error,
            "{span}"
        );
        assert!(!span.contains("127.0.0.1"), "{span}");
    }
}

// Connections.

#[tokio::test]
async fn one_port_serves_http1_and_http2() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    backend.answer_all(response("200 OK", "the same"));
    let mut http1 = Wire::connect(server.address).await;
    let http2 = Http2::connect(server.address).await;
    for _ in 0..2 {
        http1.send(post("{}")).await;
        let answer = http1.response().await;
        assert_eq!((answer.status(), &*answer.body), (200, &b"the same"[..]));
        let answer = http2.send(http2.post("{}")).await.expect("a response");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(collect(answer).await.expect("a body").0, "the same");
    }
    let health = Request::get(format!("http://{}/health", server.address));
    let health = http2.send(health.body(full("")).expect("a request")).await;
    assert_eq!(health.expect("a response").status(), StatusCode::OK);
}

/// The type of an HTTP/2 frame: settings.
const SETTINGS: u8 = 4;

#[tokio::test]
async fn a_preface_of_http2_that_arrives_in_pieces_is_understood() {
    let server = Server::demo(&[]);
    for first in [1, 3, 4, 14, 23] {
        let mut client = Wire::connect(server.address).await;
        let (begin, rest) = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".split_at(first);
        client.send(begin).await;
        client.is_silent().await;
        client.send(rest).await;
        client.send([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await;
        let frame = client.exactly(9).await;
        assert_eq!(frame[3], SETTINGS, "{frame:?}");
    }
}

#[tokio::test]
async fn a_request_of_http1_that_arrives_in_pieces_is_understood() {
    let server = Server::demo(&[]);
    for request in [HEALTH, "PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut client = Wire::connect(server.address).await;
        let (begin, rest) = request.split_at(2);
        client.send(&begin[..1]).await;
        assert!(client.is_silent().await);
        client.send(&begin[1..]).await;
        assert!(client.is_silent().await);
        client.send(rest).await;
        let status = client.response().await.status();
        assert_eq!(status, if request == HEALTH { 200 } else { 404 });
    }
}

/// How many connections to its backend a server with so many workers makes for one request after
/// the other, each on a connection of its own.
async fn connections_of(workers: &str) -> usize {
    let backend = Backend::start().await;
    let config = config_for(&backend);
    let server = Server::start_with(&config, &["--workers", workers], &[]);
    let record = backend.record_all(response("200 OK", "{}"));
    for _ in 0..64 {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        assert_eq!(client.response().await.status(), 200);
    }
    record.connections()
}

#[tokio::test]
async fn every_worker_serves_on_connections_of_its_own() {
    assert_eq!(connections_of("1").await, 1);
    if cfg!(target_os = "linux") {
        // The kernel spreads connections over the workers.
        assert_eq!(connections_of("2").await, 2);
    }
}

#[tokio::test]
async fn a_client_that_shuts_its_sending_side_down_is_taken_as_gone() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    client.stream.shutdown().await.expect("a socket");
    wire.closed().await;
    client.closed().await;
    let seen = logged(&server, "client left").await;
    assert_eq!(seen, says("LLM1", "", "0"));
}
