//! What the tests of the server share: the server itself as a process, a backend that is scripted
//! byte by byte, and a client that sends raw bytes. All over real sockets on the loopback address.

pub(crate) mod frames;
pub(crate) mod http2;
#[cfg(not(any(windows, target_vendor = "apple")))]
pub(crate) mod https;
#[cfg(target_os = "linux")]
pub(crate) mod usage;

use std::{
    future::Future,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Join, Sink, join, sink},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

/// How long anything that should happen may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what should happen.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = timeout(PATIENCE, future).await else {
        panic!("{what}: not within {PATIENCE:?}");
    };
    output
}

/// Locked by each test that has hundreds of connections open, so that descriptors suffice for all
/// that run at the same time.
pub(crate) static MANY_CONNECTIONS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The server example, running as a process of its own. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// What it printed on standard output: its first line.
    pub(crate) first_line: String,
    stdout: BufReader<ChildStdout>,
    log: Arc<Mutex<Vec<u8>>>,
    log_reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it with this configuration.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[], &[])
    }

    /// The same, with further arguments and environment variables.
    pub(crate) fn start_with(
        config: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let config = TempFile::new("config.json", config);
        let mut command = Self::command();
        command.arg("--config").arg(&config.path).args(arguments);
        command.envs(environment.iter().copied());
        Self::spawn(&mut command)
    }

    /// Starts it with `--demo` and further arguments, whatever the build can reach.
    pub(crate) fn demo(arguments: &[&str]) -> Self {
        Self::start_with(DEMO_CONFIG, &[&["--demo"], arguments].concat(), &[])
    }

    /// A command line of the server: one worker, a free port, `RUST_LOG` as if not set.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(example("server"));
        command.args(["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env_remove("RUST_LOG");
        command
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");

        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = child.stderr.take().expect("piped");
        let log_reader = thread::spawn({
            let log = log.clone();
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    log.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            }
        });

        let mut first_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut first_line).expect("a line");
        let address = first_line.trim_end().split("//").nth(1);
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let _ = child.wait();
            let _ = log_reader.join();
            let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
            panic!("the server did not start: {first_line:?}\n{log}");
        };
        Self {
            child,
            address,
            first_line,
            stdout,
            log,
            log_reader: Some(log_reader),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `HUP`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill(1)").success());
    }

    /// Whether the process is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process has ended, and gives its exit status.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until the log contains this.
    pub(crate) async fn logged(&self, text: &str) -> String {
        let seen = async {
            while !self.log().contains(text) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, seen).await.is_err() {
            panic!("{text:?} not in the log:\n{}", self.log());
        }
        self.log()
    }

    /// Ends it, and gives what it printed on standard output after its first line.
    pub(crate) fn stop_with_output(mut self) -> String {
        let _ = self.child.kill();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("UTF-8");
        rest
    }

    /// Ends it, and gives all that it logged.
    pub(crate) fn stop(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
        self.log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The built example of this name. `cargo test` builds the examples.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("this program has a path");
    path.pop(); // the file
    path.pop(); // deps
    path.push("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: run `cargo test`, or `cargo build --example {name}` first",
        path.display()
    );
    path
}

/// A file that is removed with this value.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
}

impl TempFile {
    pub(crate) fn new(name: &str, content: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-openai-proxy-{}-{unique}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a temporary file");
        Self { path }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One backend, `LLM1`, which nobody resolves.
pub(crate) const DEMO_CONFIG: &str =
    r#"{"primary_backends":[{"name":"LLM1","url":"http://demo.invalid/v1"}]}"#;

/// A configuration with this one backend, `LLM1`.
pub(crate) fn config_for(backend: &Backend) -> String {
    config_with(backend, "")
}

/// The same, with settings: JSON fields, such as `"timeout": 1`.
pub(crate) fn config_with(backend: &Backend, settings: &str) -> String {
    format!(
        r#"{{"primary_backends":[{{"name":"LLM1","url":"{}"}}],"settings":{{{settings}}}}}"#,
        backend.url()
    )
}

/// A configuration with these backends, each as [`entry`] writes it, and settings.
pub(crate) fn config_of(backends: &[String], settings: &str) -> String {
    format!(
        r#"{{"primary_backends":[{}],"settings":{{{settings}}}}}"#,
        backends.join(",")
    )
}

/// A backend of a configuration at this address, with further fields, such as `"model":"m"`.
pub(crate) fn entry(name: &str, address: SocketAddr, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"name":"{name}","url":"http://{address}/v1"{comma}{fields}}}"#)
}

/// A backend whose every byte the test reads and writes.
pub(crate) struct Backend {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Wire {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        Wire::new(stream)
    }

    /// Hands each connection to this, for as long as the test runs.
    pub(crate) fn serve_all<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl Fn(Wire) -> F + Send + 'static,
    ) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                tokio::spawn(serve(Wire::new(stream)));
            }
        });
    }

    /// Whether a connection is waiting to be accepted, given a moment to come.
    pub(crate) async fn is_contacted(&self) -> bool {
        timeout(Duration::from_millis(100), self.listener.accept())
            .await
            .is_ok()
    }

    /// Answers every request on every connection in the same way, for as long as the test runs.
    pub(crate) fn answer_all(self, response: impl Into<Vec<u8>>) {
        let response: Arc<[u8]> = response.into().into();
        self.serve_all(move |mut wire| {
            let response = response.clone();
            async move {
                while wire.try_request().await.is_some() {
                    wire.send(&response).await;
                }
            }
        });
    }

    /// The same, and keeps what it was asked.
    pub(crate) fn record_all(self, response: impl Into<Vec<u8>>) -> Record {
        let response: Arc<[u8]> = response.into().into();
        let record = Record {
            address: self.address,
            seen: Arc::default(),
        };
        let seen = record.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                seen.lock().unwrap().connections += 1;
                let (response, seen) = (response.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Some(request) = wire.try_request().await {
                        seen.lock().unwrap().requests.push(request);
                        wire.send(&response).await;
                    }
                });
            }
        });
        record
    }
}

/// What a backend has been asked so far.
pub(crate) struct Record {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<Message>,
}

impl Record {
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// The requests since this was last asked for.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.seen.lock().unwrap().requests)
    }
}

/// An address at which nobody listens, kept from others for as long as the program runs.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = free_port();
    let address = socket.local_addr().expect("bound").as_socket();
    std::mem::forget(socket);
    address.expect("an IP address")
}

fn free_port() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket
}

/// A backend at which connecting hangs: its queue of connections is full, and nobody takes any.
pub(crate) struct Unreachable {
    pub(crate) address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl Unreachable {
    pub(crate) async fn start() -> Self {
        let listener = free_port();
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("bound").as_socket();
        let address = address.expect("an IP address");
        let mut queued = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            queued.push(stream.expect("room in the queue, or silence"));
            assert!(queued.len() < 100, "connecting never hangs on this system");
        }
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}

/// One end of a connection.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    /// Read, but not yet used.
    buffer: Vec<u8>,
}

/// A message as it came: its head, and its body as its framing says, still in its coding.
#[derive(Debug)]
pub(crate) struct Message {
    /// With the blank line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        let code = self.start_line().split(' ').nth(1);
        code.and_then(|code| code.parse().ok())
            .expect("a status line")
    }

    /// The fields in order, names in lower case.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let lines = self.head.lines().skip(1).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a field");
                (name.to_lowercase(), value.trim().to_owned())
            })
            .collect()
    }

    /// The value of a field that is there once at most.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut values: Vec<_> = self
            .fields()
            .into_iter()
            .filter(|(n, _)| n == name)
            .collect();
        assert!(
            values.len() <= 1,
            "{name} stands more than once:\n{}",
            self.head
        );
        values.pop().map(|(_, value)| value)
    }

    /// The body as JSON, undone from the chunked coding if it is in it.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.content()).expect("JSON")
    }

    /// The body without its transfer coding.
    pub(crate) fn content(&self) -> Vec<u8> {
        match self.field("transfer-encoding").as_deref() {
            Some("chunked") => dechunk(&self.body),
            _ => self.body.clone(),
        }
    }

    /// `code` of an error in OpenAI's form. Checks that form, and that `Proxy-Status` agrees.
    pub(crate) fn error_code(&self) -> String {
        let json = self.json();
        let error = json["error"].as_object().expect("an error");
        let fields: Vec<_> = error.keys().map(String::as_str).collect();
        assert_eq!(fields, ["code", "message", "param", "type"]);
        assert!(error["param"].is_null() && error["message"].is_string());
        let kind = match self.status() {
            400..=499 => "invalid_request_error",
            _ => "proxy_error",
        };
        assert_eq!(error["type"], kind);
        let code = error["code"].as_str().expect("a code").to_owned();
        let proxy_status = self.field("proxy-status").expect("Proxy-Status");
        assert!(
            proxy_status.ends_with(&format!("; error={code}")),
            "{proxy_status}"
        );
        assert_eq!(
            self.field("content-type").as_deref(),
            Some("application/json")
        );
        code
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self::over(stream)
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        Self::new(stream.expect("someone listens"))
    }

    /// Sends in the background, for as long as the other side takes it.
    pub(crate) fn send_aside(mut self, bytes: Vec<u8>) -> Wire<Join<OwnedReadHalf, Sink>> {
        let (read, mut write) = self.stream.into_split();
        tokio::spawn(async move {
            let _ = write.write_all(&bytes).await;
            // Dropped, it would shut the connection down.
            std::future::pending::<()>().await;
        });
        Wire {
            stream: join(read, sink()),
            buffer: std::mem::take(&mut self.buffer),
        }
    }

    /// Sends a reset instead of a proper end.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_std().expect("a socket");
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over any stream, such as one of TLS.
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("writing", self.stream.write_all(bytes.as_ref()))
            .await
            .expect("the other side reads");
    }

    /// Reads the head of a message: up to and with the blank line.
    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.expect("a head")
    }

    pub(crate) async fn try_head(&mut self) -> Option<String> {
        let head = self.try_head_bytes().await?;
        Some(String::from_utf8(head).expect("UTF-8"))
    }

    /// The same for a head that isn't text.
    pub(crate) async fn try_head_bytes(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill().await == 0 {
                return None;
            }
        };
        Some(self.take(end))
    }

    /// Reads a whole request.
    pub(crate) async fn request(&mut self) -> Message {
        self.try_request().await.expect("a request")
    }

    /// The same; none if the connection is closed instead.
    pub(crate) async fn try_request(&mut self) -> Option<Message> {
        let head = self.try_head().await?;
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        message.body = self.body(&message).await;
        Some(message)
    }

    /// Reads a whole final response to a request that isn't HEAD.
    pub(crate) async fn response(&mut self) -> Message {
        let head = self.head().await;
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        let is_empty = matches!(message.status(), 204 | 304);
        let is_framed = message.field("content-length").is_some()
            || message.field("transfer-encoding").is_some();
        message.body = match (is_empty, is_framed) {
            (true, _) => Vec::new(),
            (false, true) => self.body(&message).await,
            (false, false) => self.rest().await,
        };
        message
    }

    async fn body(&mut self, message: &Message) -> Vec<u8> {
        let body = self.try_body(message).await;
        body.unwrap_or_else(|_| panic!("closed within a body"))
    }

    /// Reads a body to its end; an error is what came of it before the connection was closed.
    pub(crate) async fn try_body(&mut self, message: &Message) -> Result<Vec<u8>, Vec<u8>> {
        if message.field("transfer-encoding").is_some() {
            let mut end = 0;
            loop {
                while let Some(line) = find(&self.buffer[end..], b"\r\n") {
                    let size = std::str::from_utf8(&self.buffer[end..end + line]).unwrap();
                    let size = size.split(';').next().unwrap().trim();
                    let size = usize::from_str_radix(size, 16).expect("a chunk size");
                    if size == 0 {
                        if let Some(last) = find(&self.buffer[end..], b"\r\n\r\n") {
                            return Ok(self.take(end + last + 4));
                        }
                        break;
                    }
                    let next = end + line + 2 + size + 2;
                    if next > self.buffer.len() {
                        break;
                    }
                    end = next;
                }
                if self.fill().await == 0 {
                    return Err(std::mem::take(&mut self.buffer));
                }
            }
        }
        let length = message
            .field("content-length")
            .map_or(0, |value| value.parse().unwrap());
        while self.buffer.len() < length {
            if self.fill().await == 0 {
                return Err(std::mem::take(&mut self.buffer));
            }
        }
        Ok(self.take(length))
    }

    /// Reads so many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert_ne!(self.fill().await, 0, "closed before {length} bytes came");
        }
        self.take(length)
    }

    /// Takes so many bytes out of the buffer.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads until this has come, and gives all up to its end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(start) = find(&self.buffer, text.as_bytes()) {
                let read = self.take(start + text.len());
                return String::from_utf8(read).expect("UTF-8");
            }
            assert_ne!(self.fill().await, 0, "closed before {text:?} came");
        }
    }

    /// Reads until the other side closes or resets the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side closes or resets the connection, and expects nothing to come.
    pub(crate) async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether nothing comes for a moment.
    pub(crate) async fn is_silent(&mut self) -> bool {
        self.buffer.is_empty()
            && timeout(
                Duration::from_millis(100),
                self.stream.read_buf(&mut self.buffer),
            )
            .await
            .is_err()
    }

    async fn fill(&mut self) -> usize {
        let read = soon("reading", self.stream.read_buf(&mut self.buffer)).await;
        read.unwrap_or(0) // a reset is an end, too
    }
}

/// A POST of this body to the endpoint, with credentials.
pub(crate) fn post(body: &str) -> String {
    post_with("", body)
}

/// The same, with further fields: lines that end with CRLF.
pub(crate) fn post_with(fields: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\
         {fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A response with this status line's end and body.
pub(crate) fn response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Undoes the chunked coding.
pub(crate) fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = find(body, b"\r\n").expect("a chunk size");
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

/// So many bytes that look random and are the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut noise = Vec::with_capacity(length + 8);
    while noise.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(length);
    noise
}

/// Writes until nobody takes any more for a while, or all; gives how much was taken.
pub(crate) async fn write_until_stopped(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    const PIECE: usize = 64 * 1024;
    let mut written = 0;
    while written < bytes.len() {
        let next = &bytes[written..bytes.len().min(written + PIECE)];
        match timeout(Duration::from_millis(500), stream.write(next)).await {
            Ok(length) => written += length.expect("the other side reads on"),
            Err(_) => break,
        }
    }
    written
}

/// A body in the chunked coding, in pieces of these sizes, over and over.
pub(crate) fn chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(body.len() + 1024);
    let mut rest = body;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
        rest = after;
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
