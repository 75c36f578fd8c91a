//! The proxy as a program: a hyper server around `OpenAiProxyLayer`.
//!
//! Try it without a key or a network:
//!
//! ```sh
//! cargo run --release --example server -- --demo
//! curl http://127.0.0.1:8000/v1/chat/completions -H 'Authorization: Bearer demo' \
//!     -d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```
//!
//! Each worker is a thread with a separate runtime, listener and pool of backend connections, so that
//! requests share no state and wait for no lock.

mod arguments;
mod connection;
mod control;
mod demo;
mod descriptors;
mod files;
mod health;
mod key;
mod listen;
mod log;
mod metrics;
mod notice;
mod notify;
mod print;
mod probes;
mod reload;
mod serve;
mod socket;
mod source;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    env,
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    thread,
};

use http::request::Parts;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use tower_openai_proxy::{Backend, OpenAiProxyLayer, observe::access_log};

use self::{
    arguments::Arguments,
    control::{Ending, Signals},
    health::Unwell,
    listen::{Address, Bound},
    log::Format,
    metrics::Metrics,
    probes::Readiness,
    reload::{Current, Watched},
    serve::Options,
    source::{Loaded, Source},
};

// It costs a stream less memory and a large body less work than most systems' own.
#[cfg(any(target_os = "linux", target_os = "macos"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs the program: reads the command line, serves until it is told to end, and gives the exit status.
///
/// 0 after a drain, 2 if the command line, a file or an address it names can't be used, 1 for
/// anything else, such as a second signal to end.
pub fn main() -> ExitCode {
    log::choose_format(env::args_os());
    let prepared = match prepare() {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            let status = if error.is::<Unwell>() { 1 } else { 2 };
            print::error(error);
            return ExitCode::from(status);
        }
    };
    if let Err(error) = log::start() {
        print::error(error);
        return ExitCode::FAILURE;
    }
    let status = match run(prepared) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::message(error);
            ExitCode::FAILURE
        }
    };
    log::flush();
    status
}

/// Everything that can be wrong with how the program was started has been found right.
struct Prepared {
    arguments: Arguments,
    watched: Watched,
    loaded: Loaded,
    bound: Vec<Bound>,
    metrics_listener: Option<TcpListener>,
}

/// None where the command line only asked a question, which has been answered.
fn prepare() -> Result<Option<Prepared>, Box<dyn Error>> {
    let arguments = Arguments::parse().map_err(|error| format!("{error}\nTry --help."))?;
    let Some(arguments) = arguments else {
        return Ok(None);
    };
    if let Some(url) = &arguments.health {
        health::ask(url)?;
        return Ok(None);
    }
    let watched = arguments.source.paths().into_iter();
    let watched = watched.filter(|_| arguments.watch).map(Path::to_owned);
    let mut watched = Watched::new(watched.collect());
    let mut loaded = arguments.source.load()?;
    if watched.follow(loaded.config.keys_file()) {
        loaded = arguments.source.load()?;
    }
    if arguments.check {
        return Ok(None);
    }
    let bound = listen::bind(&arguments.listen, arguments.workers)?;
    let metrics_listener = arguments.metrics.map(|address| {
        let listener = metrics::bind(address);
        listener.map_err(|error| format!("cannot serve metrics on {address}: {error}"))
    });
    Ok(Some(Prepared {
        arguments,
        watched,
        loaded,
        bound,
        metrics_listener: metrics_listener.transpose()?,
    }))
}

fn run(prepared: Prepared) -> Result<(), Box<dyn Error>> {
    let Prepared {
        arguments,
        watched,
        loaded,
        mut bound,
        metrics_listener,
    } = prepared;
    descriptors::raise_limit();
    let runtime = new_runtime()?;
    // Before a worker answers anybody who then knows that there is a server to signal to.
    let signals = runtime.block_on(async { Signals::new() })?;
    let mut source = arguments.source;
    if arguments.demo {
        source.demo_url = Some(format!("http://{}/v1", start_demo()?));
    }
    let loaded = source.redirect(loaded)?;
    let mut builder = OpenAiProxyLayer::builder(loaded.config)
        .prefixes(["/", "/v1"])
        .all_paths()
        .except(probes::PATHS)
        .health("/health");
    builder = match log::format() {
        Format::Text => builder.observer(access_log),
        Format::Json => builder.observer(log::json_log),
    };
    let metrics = metrics_listener.map(|listener| (listener, Metrics::leak()));
    if let Some((_, metrics)) = &metrics {
        let metrics: &'static Metrics = metrics;
        builder = builder.observer(move |request: &Parts| metrics.observe(request));
    }
    let layer = builder.build();
    log_start(&source, &layer);
    if let Some((listener, metrics)) = metrics {
        metrics.serve(listener, layer.handle())?;
    }
    let (tls, current_tls) = loaded.tls.map(watch::channel).unzip();

    let options = Options {
        tls: current_tls,
        keep_alive: arguments.keep_alive,
        notices: watch::Sender::default(),
        readiness: Readiness::default(),
    };
    for _ in 0..arguments.workers.get() {
        let listeners = bound.iter_mut().filter_map(|bound| bound.listeners.pop());
        let listeners = listeners.collect();
        let layer = layer.with_separate_pool();
        let options = options.clone();
        let runtime = new_runtime()?;
        let worker = thread::Builder::new().name("worker".to_owned());
        worker.spawn(move || runtime.block_on(serve::accept_all(listeners, layer, options)))?;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    for Bound { address, .. } in &bound {
        match address {
            Address::Tcp(address) => {
                print::output(format_args!("listening on {scheme}://{address}"))
            }
            #[cfg(unix)]
            Address::Unix(_) => print::output(format_args!("listening on {address}")),
        }
    }
    let current = Current {
        proxy: layer.handle(),
        tls,
    };
    let reload = reload::start(source, current, watched)?;
    notify::ready();
    let ending = Ending {
        proxy: layer.handle(),
        notices: options.notices,
        readiness: options.readiness,
        drain_delay: arguments.drain_delay,
        drain_timeout: arguments.drain_timeout,
    };
    runtime.block_on(control::run(signals, reload, ending))?;
    Ok(())
}

fn log_start(source: &Source, layer: &OpenAiProxyLayer) {
    let config = match &source.config {
        Some(path) => path.display().to_string(),
        None => "built-in".to_owned(),
    };
    let backends = layer.handle().backends();
    let names: Vec<_> = backends.iter().map(Backend::name).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config,
        backends = names.join(", "),
        "starting"
    );
}

/// Starts the mock of the API on a separate thread.
fn start_demo() -> io::Result<SocketAddr> {
    let runtime = new_runtime()?;
    let address = runtime.block_on(demo::start())?;
    let demo = thread::Builder::new().name("demo".to_owned());
    demo.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(address)
}

fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
