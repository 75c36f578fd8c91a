use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread};

use lexopt::{Arg, Parser, ValueExt};

use crate::{Config, ConfigError};

const HELP: &str = "\
A transparent proxy for OpenAI-compatible chat completions.

Usage: server [OPTIONS]

      --config PATH   the configuration; default: config.json where it exists,
                      else one backend, LLM1, at OpenAI
      --listen ADDR   where to listen; default: 127.0.0.1:8000, port 0 takes a free one
      --demo          answer by an embedded stand-in for the OpenAI API, without a key or a network
      --workers N     threads that serve, each with its own connections; default: the cores
  -h, --help          print this
  -V, --version       print the version

Environment:
  RUST_LOG            what is logged on standard error, such as warn or debug; default: info
  SSL_CERT_FILE, SSL_CERT_DIR
                      certificate authorities for backends, in place of the system's

With --demo some models are answered with errors: demo-401, demo-404, demo-429, demo-500,
demo-break (breaks off), demo-silent (falls silent).";

const DEFAULT_CONFIG: &str = "config.json";

/// What the command line says.
pub(crate) struct Arguments {
    config: Option<PathBuf>,
    pub(crate) listen: SocketAddr,
    pub(crate) demo: bool,
    pub(crate) workers: NonZeroUsize,
}

impl Arguments {
    /// None where the question was answered already (`--help`, `--version`).
    pub(crate) fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut arguments = Self {
            config: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            demo: false,
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("config") => arguments.config = Some(parser.value()?.into()),
                Arg::Long("listen") => arguments.listen = parser.value()?.parse()?,
                Arg::Long("demo") => arguments.demo = true,
                Arg::Long("workers") => arguments.workers = parser.value()?.parse()?,
                Arg::Short('h') | Arg::Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                Arg::Short('V') | Arg::Long("version") => {
                    println!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
                    return Ok(None);
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(arguments))
    }

    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(path) => Config::from_path(path),
            None if PathBuf::from(DEFAULT_CONFIG).exists() => Config::from_path(DEFAULT_CONFIG),
            None => Ok(Config::default()),
        }
    }
}
