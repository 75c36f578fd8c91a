//! Where the server listens: several addresses, unix sockets, and sockets that it was given. And what
//! it tells the service manager.

// Started where the repository's config.json is, whose backend is https.
#![cfg(all(target_os = "linux", any(feature = "native-tls", feature = "rustls")))]

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tokio::net::{UnixDatagram, UnixStream};

use crate::support::{
    Backend, DEMO_CONFIG, Server, TempFile, Wire, config_for, example,
    http2::{Http2, collect},
    post, response, soon,
};

const LIVE: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";

/// A path at which nothing is, removed with this value.
struct SocketPath {
    path: PathBuf,
    option: String,
}

impl SocketPath {
    fn new() -> Self {
        let file = TempFile::new("sock", "");
        let path = file.path.clone();
        drop(file);
        Self {
            option: format!("unix:{}", path.display()),
            path,
        }
    }

    async fn connect(&self) -> Wire<UnixStream> {
        let stream = soon("connecting", UnixStream::connect(&self.path)).await;
        Wire::over(stream.expect("a listener"))
    }

    fn is_socket(&self) -> bool {
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| found.file_type().is_socket())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The server with these arguments, which ends by itself.
fn refused(arguments: &[&str]) -> String {
    let mut command = Command::new(example("server"));
    let output = command.args(arguments).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("it starts");
    let message = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(stdout.is_empty());
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    message
}

async fn is_live<S>(wire: &mut Wire<S>) -> bool
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    wire.send(LIVE).await;
    wire.response().await.status() == 200
}

// Several addresses.

#[tokio::test]
async fn each_address_has_a_line_in_order_and_is_served() {
    let [one, two] = [SocketPath::new(), SocketPath::new()];
    for workers in ["1", "3"] {
        let mut server = Server::demo(&[
            "--listen",
            &one.option,
            "--listen",
            "127.0.0.1:0",
            "--listen",
            &two.option,
            "--workers",
            workers,
        ]);
        let first = format!("listening on http://{}\n", server.address);
        assert_eq!(server.first_line, first);
        assert_eq!(server.next_line(), format!("listening on {}\n", one.option));
        let third = server.next_line();
        let address = third.trim_end().strip_prefix("listening on http://");
        let address = address.expect("an address").parse().expect("an address");
        assert_ne!(address, server.address);
        assert_eq!(server.next_line(), format!("listening on {}\n", two.option));

        for address in [server.address, address] {
            assert!(is_live(&mut Wire::connect(address).await).await);
        }
        for path in [&one, &two] {
            assert!(is_live(&mut path.connect().await).await);
        }
        server.signal("TERM");
        assert_eq!(soon("the end", server.ended()).await, Some(0));
        assert!(!one.path.exists() && !two.path.exists());
    }
}

#[test]
fn if_one_address_is_taken_nothing_is_left_of_the_others() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let path = SocketPath::new();
    let message = refused(&["--demo", "--listen", &path.option, "--listen", &taken]);
    assert!(message.contains(&taken), "{message}");
    assert!(!path.path.exists());

    let message = refused(&["--demo", "--listen", &path.option, "--listen", &path.option]);
    assert!(message.contains(&path.option), "{message}");
    assert!(!path.path.exists());
}

// Unix sockets.

#[tokio::test]
async fn a_unix_socket_serves_both_versions_of_http_and_streams() {
    let backend = Backend::start().await;
    let path = SocketPath::new();
    let server = Server::start_with(&config_for(&backend), &["--listen", &path.option], &[]);
    let mut client = path.connect().await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    client.until("one\r\n").await;
    // A client that leaves is noticed here, too.
    drop(client);
    wire.closed().await;
    server.logged("end=\"client left\"").await;

    let stream = UnixStream::connect(&path.path).await.expect("a listener");
    let socket = socket2::SockRef::from(&stream)
        .try_clone()
        .expect("a socket");
    let client = Http2::over(stream, socket, server.address).await;
    let answering = async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(response("200 OK", "whole")).await;
        wire
    };
    let (answer, _wire) = tokio::join!(client.send(client.post("{}")), answering);
    let (body, _) = collect(answer.expect("an answer")).await.expect("a body");
    assert_eq!(body, "whole");
}

#[tokio::test]
async fn an_opening_that_arrives_in_pieces_is_understood() {
    let path = SocketPath::new();
    let _server = Server::demo(&["--listen", &path.option]);
    let mut client = path.connect().await;
    client.send("GE").await;
    assert!(client.is_silent().await);
    client.send(&LIVE[2..]).await;
    assert_eq!(client.response().await.status(), 200);
    // Half of what HTTP/2 opens with.
    let mut client = path.connect().await;
    client.send("PRI * HT").await;
    assert!(client.is_silent().await);
    client
        .send("TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let settings = client.exactly(9).await;
    assert_eq!(settings[3], 4);
}

#[tokio::test]
async fn a_socket_is_for_user_and_group_and_goes_with_the_server() {
    for signals in [&["TERM"][..], &["INT"], &["TERM", "TERM"]] {
        let path = SocketPath::new();
        let backend = Backend::start().await;
        let mut server =
            Server::start_with(&config_for(&backend), &["--listen", &path.option], &[]);
        let mode = fs::metadata(&path.path)
            .expect("a socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        let mut client = path.connect().await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        for signal in signals {
            server.signal(signal);
            server.logged("draining").await;
            if signals.len() == 1 {
                // While it drains, it goes on answering there.
                let mut late = path.connect().await;
                assert!(is_live(&mut late).await);
            }
        }
        wire.send(response("200 OK", "late")).await;
        soon("the end", server.ended()).await;
        assert!(!path.path.exists());
    }
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let path = SocketPath::new();
    let mut first = Server::demo(&["--listen", &path.option]);
    first.signal("KILL");
    soon("the end", first.ended()).await;
    assert!(path.is_socket());
    let _second = Server::demo(&["--listen", &path.option]);
    assert!(is_live(&mut path.connect().await).await);
}

#[tokio::test]
async fn a_socket_on_which_somebody_listens_is_taken() {
    let path = SocketPath::new();
    let server = Server::demo(&["--listen", &path.option]);
    let message = refused(&["--demo", "--listen", &path.option]);
    assert!(
        message.contains(&path.option) && message.contains("in use"),
        "{message}"
    );
    assert!(is_live(&mut path.connect().await).await);
    drop(server);
    fs::remove_file(&path.path).expect("a socket");

    // Also if it is too busy to take one more connection.
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let listener = listener.expect("a socket");
    let address = socket2::SockAddr::unix(&path.path).expect("a path");
    listener.bind(&address).expect("free");
    listener.listen(0).expect("a socket");
    let _waiting = std::os::unix::net::UnixStream::connect(&path.path).expect("a listener");
    assert!(refused(&["--demo", "--listen", &path.option]).contains("in use"));
    assert!(path.is_socket());
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let file = TempFile::new("no-socket", "content");
    let link = SocketPath::new();
    std::os::unix::fs::symlink(&file.path, &link.path).expect("a link");
    for path in [&file.path, &link.path, Path::new("/")] {
        let option = format!("unix:{}", path.display());
        let message = refused(&["--demo", "--listen", &option]);
        assert!(
            message.contains(&option) && message.contains("socket"),
            "{message}"
        );
        assert!(path.exists());
    }
    assert_eq!(fs::read(&file.path).expect("a file"), b"content");
}

#[test]
fn a_path_that_cannot_be_is_refused() {
    let long = format!("unix:/tmp/{}", "x".repeat(200));
    for wrong in ["unix:/no/such/directory/sock", &long] {
        assert!(refused(&["--demo", "--listen", wrong]).contains(wrong));
    }
    let output = Command::new(example("server"))
        .args(["--listen", "unix:"])
        .output();
    let output = output.expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("`--listen unix:`") && message.contains("a path"),
        "{message}"
    );
}

#[tokio::test]
async fn what_has_taken_the_place_of_a_socket_stays() {
    let path = SocketPath::new();
    let mut server = Server::demo(&["--listen", &path.option]);
    fs::remove_file(&path.path).expect("a socket");
    let _other = UnixListener::bind(&path.path).expect("free");
    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(0));
    assert!(path.is_socket());
}

// Sockets that are given.

/// The server's command line, with this descriptor as its number 3 and these assignments. `$$` is
/// its process.
fn given(socket: impl Into<OwnedFd>, environment: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!(r#"exec 3<&0 </dev/null; {environment} exec "$0" "$@""#);
    command
        .args(["-c", &script])
        .arg(example("server"))
        .args(arguments);
    command
        .stdin(Stdio::from(socket.into()))
        .env_remove("RUST_LOG");
    command
}

#[tokio::test]
async fn given_sockets_are_used_in_place_of_listen() {
    let unused = SocketPath::new();
    for workers in ["1", "2"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let arguments = ["--demo", "--listen", &unused.option, "--workers", workers];
        let environment = "LISTEN_FDS=1 LISTEN_PID=$$";
        let mut server = Server::spawn_as_is(&mut given(listener, environment, &arguments));
        assert_eq!(
            server.first_line,
            format!("listening on http://{address}\n")
        );
        assert!(!unused.path.exists());
        for _ in 0..4 {
            assert!(is_live(&mut Wire::connect(address).await).await);
        }
        server.signal("TERM");
        assert_eq!(soon("the end", server.ended()).await, Some(0));
    }
}

#[tokio::test]
async fn the_path_of_a_given_socket_stays() {
    let path = SocketPath::new();
    let listener = UnixListener::bind(&path.path).expect("free");
    let environment = "LISTEN_FDS=1 LISTEN_PID=$$";
    let mut command = given(listener, environment, &["--demo", "--workers", "2"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    assert_eq!(line, format!("listening on {}\n", path.option));
    for _ in 0..4 {
        assert!(is_live(&mut path.connect().await).await);
    }
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.expect("kill(1)").success());
    assert!(child.wait().expect("a child").success());
    assert!(path.is_socket());
}

#[tokio::test]
async fn sockets_for_another_process_are_not_taken() {
    for environment in [
        "LISTEN_FDS=1 LISTEN_PID=1",
        "LISTEN_FDS=1",
        "LISTEN_FDS=0 LISTEN_PID=$$",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let arguments = ["--demo", "--listen", "127.0.0.1:0"];
        let server = Server::spawn_as_is(&mut given(listener, environment, &arguments));
        assert_ne!(server.address, address);
        assert!(is_live(&mut Wire::connect(server.address).await).await);
    }
}

#[test]
fn what_is_given_and_no_listener_is_an_error() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let idle = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let file = fs::File::open("/dev/null").expect("a file");
    for socket in [
        udp.into(),
        idle.expect("a socket").into(),
        OwnedFd::from(file),
    ] {
        let environment = "LISTEN_FDS=1 LISTEN_PID=$$";
        let output = given(socket, environment, &["--demo"])
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("LISTEN_FDS"), "{message}");
    }
}

// The service manager.

struct Manager {
    socket: UnixDatagram,
    path: SocketPath,
}

impl Manager {
    fn new() -> Self {
        let path = SocketPath::new();
        let socket = UnixDatagram::bind(&path.path).expect("free");
        Self { socket, path }
    }

    async fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let received = soon("a message", self.socket.recv(&mut buffer)).await;
        String::from_utf8(buffer[..received.expect("a message")].to_vec()).expect("UTF-8")
    }

    /// Checks that it is told of a reload, and that this one is over.
    async fn told_of_reload(&self) {
        let told = self.told().await;
        let time = told
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect("a reload");
        let time: u64 = time.trim_end().parse().expect("a number");
        let uptime = fs::read_to_string("/proc/uptime").expect("Linux has it");
        let uptime: f64 = uptime
            .split(' ')
            .next()
            .expect("a number")
            .parse()
            .expect("a number");
        let ago = uptime - time as f64 / 1e6;
        assert!((-1.0..60.0).contains(&ago), "{ago} s ago");
        assert_eq!(self.told().await, "READY=1\n");
    }
}

#[tokio::test]
async fn the_service_manager_is_told_of_the_start_reloads_and_the_end() {
    let manager = Manager::new();
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.arg("--config").arg(&config.path);
    command.args(["--drain-delay", "600"]);
    let mut server = Server::spawn(command.env("NOTIFY_SOCKET", &manager.path.path));
    assert_eq!(manager.told().await, "READY=1\n");
    assert!(is_live(&mut Wire::connect(server.address).await).await);

    server.signal("HUP");
    manager.told_of_reload().await;
    server.logged("configuration reloaded").await;
    fs::write(&config.path, "nonsense").expect("a file");
    server.signal("HUP");
    manager.told_of_reload().await;
    server.logged("the old configuration stays").await;

    server.signal("TERM");
    assert_eq!(manager.told().await, "STOPPING=1\n");
    // A reload from now on isn't told: the manager would take the server for ready.
    fs::write(&config.path, DEMO_CONFIG).expect("a file");
    server.signal("HUP");
    soon("the reload", async {
        while server.log().matches("configuration reloaded").count() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(1));
    assert!(manager.socket.try_recv(&mut [0; 64]).is_err());
}

#[tokio::test]
async fn a_service_manager_that_is_gone_is_no_error() {
    let gone = SocketPath::new();
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.arg("--config").arg(&config.path);
    let mut server = Server::spawn(command.env("NOTIFY_SOCKET", &gone.path));
    assert!(is_live(&mut Wire::connect(server.address).await).await);
    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}
