use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use http::Uri;
use lexopt::{Arg, Parser, ValueExt};

use crate::{health, key, listen::Address, log, print, source::Source, tls::Files};

const HELP: &str = "\
A transparent proxy for the OpenAI API.

Usage: openai-proxy [OPTIONS]

      --config PATH   the configuration; default: config.json where it exists,
                      else one backend, LLM1, at OpenAI
      --listen ADDR   where to listen: an IP address and a port (0 takes a free one), or
                      unix:PATH; may be given more than once; default: 127.0.0.1:8000
      --check         read everything as at a start, say what is wrong with it, and exit:
                      with status 0, silently, if all is right, else with status 2
      --health URL    ask a running server, as at http://127.0.0.1:8000/livez, and exit: with
                      status 0 if the answer is a success, else with status 1
      --demo          answer from an embedded mock of the OpenAI API: needs no key and no network
      --watch         reload the configuration when the file changes; SIGHUP always does
      --tls-cert PEM  serve HTTPS with this certificate, those of its issuers after it,
      --tls-key PEM   and this private key, without a passphrase; both are reloaded
                      with the configuration
      --workers N     worker threads, each with separate backend connections; default: one per core
      --metrics ADDR  answer Prometheus there, GET /metrics; default: off
      --log-format FORMAT
                      text, or json: one JSON object per line; default: text
      --drain-delay SECONDS
                      how long requests are still served as before after SIGTERM or SIGINT,
                      while /readyz already says 503; default: 0
      --drain-timeout SECONDS
                      how long requests in flight may take after that; default: 30.
                      A second signal ends the server at once
      --keep-alive SECONDS
                      how long a client's connection may be idle between requests;
                      default: 620
      --new-key NAME  print a new random client key, and the entry of the keys file for it
      --hash-key      read a client key from standard input and print its hash for the keys file
  -h, --help          print this
  -V, --version       print the version

Environment:
  RUST_LOG            what is logged on standard error, such as warn or debug; default: info.
                      Libraries log errors only, unless it names them, as in info,h2=warn
  LISTEN_FDS, LISTEN_PID
                      sockets from the service manager, which are used in place of --listen
  NOTIFY_SOCKET       where the service manager is told of the start, reloads and the end
  SSL_CERT_FILE, SSL_CERT_DIR
                      certificate authorities for backends, in place of the system's
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                      HTTP proxies to backends without a `proxy` of their own, and the
                      hosts that are reached directly; in lower case, too

With --demo, some models return errors: demo-401, demo-404, demo-429, demo-500,
demo-break (a truncated response), demo-silent (a stalled one).";

const VERSION: &str = concat!("tower-openai-proxy ", env!("CARGO_PKG_VERSION"));

const DEFAULT_CONFIG: &str = "config.json";

const DEFAULT_ADDRESS: Address =
    Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000));

/// Longer durations are clamped, so that they can be added to any time.
const MAX_SECONDS: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The command line.
pub(crate) struct Arguments {
    pub(crate) source: Source,
    pub(crate) watch: bool,
    pub(crate) listen: Vec<Address>,
    pub(crate) check: bool,
    /// A server to ask, in place of being one.
    pub(crate) health: Option<Uri>,
    pub(crate) demo: bool,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) workers: NonZeroUsize,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) keep_alive: Duration,
}

impl Arguments {
    /// None where a question was answered (`--help`, `--version`).
    pub(crate) fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut arguments = Self {
            source: Source {
                config: Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()),
                tls: None,
                demo_url: None,
            },
            watch: false,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(620),
            listen: Vec::new(),
            check: false,
            health: None,
            demo: false,
            metrics: None,
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        let (mut certificate, mut key) = (None, None);
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("config") => arguments.source.config = Some(parser.value()?.into()),
                Arg::Long("listen") => {
                    let address = value(&mut parser, "--listen", Address::ALLOWED)?;
                    arguments.listen.push(address);
                }
                Arg::Long("check") => arguments.check = true,
                Arg::Long("health") => {
                    let url = parser.value()?.string()?;
                    let allowed = "an http URL, such as http://127.0.0.1:8000/livez";
                    let parsed = health::parse(&url);
                    let error = || format!("`--health {url}`: it must be {allowed}");
                    arguments.health = Some(parsed.ok_or_else(error)?);
                }
                Arg::Long("demo") => arguments.demo = true,
                Arg::Long("metrics") => {
                    let allowed = "an IP address and a port, such as 127.0.0.1:9464";
                    arguments.metrics = Some(value(&mut parser, "--metrics", allowed)?);
                }
                Arg::Long("log-format") => {
                    // `log::choose_format` has taken it.
                    value::<log::Format>(&mut parser, log::FORMAT_OPTION, "text or json")?;
                }
                Arg::Long("watch") => arguments.watch = true,
                Arg::Long("tls-cert") => certificate = Some(parser.value()?.into()),
                Arg::Long("tls-key") => key = Some(parser.value()?.into()),
                Arg::Long("drain-delay") => {
                    arguments.drain_delay = seconds(&mut parser, "--drain-delay")?;
                }
                Arg::Long("drain-timeout") => {
                    arguments.drain_timeout = seconds(&mut parser, "--drain-timeout")?;
                }
                Arg::Long("keep-alive") => {
                    arguments.keep_alive = seconds(&mut parser, "--keep-alive")?;
                }
                Arg::Long("workers") => {
                    let allowed = "a whole number, 1 or more";
                    arguments.workers = value(&mut parser, "--workers", allowed)?;
                }
                Arg::Long("new-key") => {
                    key::print_new(&parser.value()?.string()?)?;
                    return Ok(None);
                }
                Arg::Long("hash-key") => {
                    key::print_hash()?;
                    return Ok(None);
                }
                Arg::Short('h') | Arg::Long("help") => {
                    print::output(HELP);
                    return Ok(None);
                }
                Arg::Short('V') | Arg::Long("version") => {
                    print::output(VERSION);
                    return Ok(None);
                }
                other => return Err(other.unexpected()),
            }
        }
        if arguments.listen.is_empty() {
            arguments.listen.push(DEFAULT_ADDRESS);
        }
        arguments.source.tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Files { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err("`--tls-cert` needs `--tls-key` as well".into()),
            (None, Some(_)) => return Err("`--tls-key` needs `--tls-cert` as well".into()),
        };
        Ok(Some(arguments))
    }
}

/// The value of an option, or what it must be.
fn value<T: FromStr>(parser: &mut Parser, option: &str, allowed: &str) -> Result<T, lexopt::Error> {
    let value = parser.value()?.string()?;
    let parsed = value.parse();
    parsed.map_err(|_| format!("`{option} {value}`: it must be {allowed}").into())
}

/// The value of an option that is a duration.
fn seconds(parser: &mut Parser, option: &str) -> Result<Duration, lexopt::Error> {
    let allowed = "a number of seconds, 0 or more";
    let seconds = value(parser, option, allowed)?;
    let duration = Duration::try_from_secs_f64(seconds);
    Ok(duration
        .map_err(|_| format!("`{option} {seconds}`: it must be {allowed}"))?
        .min(MAX_SECONDS))
}
