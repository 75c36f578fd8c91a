//! The server and the examples as child processes.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::timeout;

use super::{DEMO_CONFIG, PATIENCE, TempFile};

/// A running server or hosting example, killed on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The first line it printed on standard output.
    pub(crate) first_line: String,
    stdout: BufReader<ChildStdout>,
    log: Arc<Mutex<Vec<u8>>>,
    log_reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server with this configuration.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[], &[])
    }

    /// Like [`start`](Self::start), with further arguments and environment variables.
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

    /// Starts the server with `--demo` and further arguments, whether or not the build has TLS.
    pub(crate) fn demo(arguments: &[&str]) -> Self {
        Self::start_with(DEMO_CONFIG, &[&["--demo"], arguments].concat(), &[])
    }

    /// The server's command line: a free port, one worker, `RUST_LOG` unset.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(example("server"));
        command.args(["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env_remove("RUST_LOG");
        command
    }

    /// Spawns a program that prints its address first, and waits for that line.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::spawn_as_is(command.stdin(Stdio::null()))
    }

    /// Like [`spawn`](Self::spawn), with the standard input that the command has.
    pub(crate) fn spawn_as_is(command: &mut Command) -> Self {
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

    /// The next line that it prints on standard output.
    pub(crate) fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `HUP`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill(1)").success());
    }

    /// Whether the process is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the process to exit, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until the log contains `text`, and returns the log.
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

    /// Kills the process, and returns what it printed on standard output after its first line.
    pub(crate) fn stop_with_output(mut self) -> String {
        let _ = self.child.kill();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("UTF-8");
        rest
    }

    /// Kills the process, and returns its log.
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

/// The path of an example, which `cargo test` has built.
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
