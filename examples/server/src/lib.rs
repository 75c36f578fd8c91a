//! The proxy as a program of its own: a plain hyper server around `OpenAiProxyLayer`.
//!
//! Try it without a key or a network:
//!
//! ```sh
//! cargo run --release --example server -- --demo
//! curl http://127.0.0.1:8000/v1/chat/completions -H 'Authorization: Bearer demo' \
//!     -d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```
//!
//! Each worker is a thread with a runtime, a listener and backend connections of its own, so that
//! nothing is shared or locked on the way of a request.

mod arguments;
mod control;
mod demo;
mod http2;
mod linger;
mod listen;
mod log;
mod serve;
#[cfg(test)]
mod tests;
mod timer;
mod tls;

use std::{io, net::SocketAddr, process::ExitCode, thread};

use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use tower_openai_proxy::OpenAiProxyLayer;

use self::{
    arguments::{Arguments, Loaded},
    control::{Current, Signals, Source, Watched},
};

// It costs a stream less memory and a large body less work than most systems' own.
#[cfg(any(target_os = "linux", target_os = "macos"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs the program: reads the command line, serves until it is told to end, and gives the exit status.
///
/// 0 after a drain, 2 where the command line or a file it names can't be used, 1 for anything else.
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    // Before they are read, so that no change is missed.
    let watched = Watched::new(arguments.watched());
    // Before anything is started.
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    log::start();
    let result = run(&arguments, watched, loaded);
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    arguments: &Arguments,
    watched: Watched<'_>,
    loaded: Loaded,
) -> Result<(), Box<dyn std::error::Error>> {
    let source = Source {
        arguments,
        demo_url: match arguments.demo {
            true => Some(format!("http://{}/v1", start_demo()?)),
            false => None,
        },
    };
    let loaded = source.redirect(loaded)?;
    let layer = OpenAiProxyLayer::from_config(loaded.config).with_health("/health");
    let (tls, current_tls) = loaded.tls.map(watch::channel).unzip();
    let listeners = listen::bind(arguments.listen, arguments.workers).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", arguments.listen),
        )
    })?;
    let address = listeners[0].local_addr()?;

    let (draining, receiver) = watch::channel(false);
    for listener in listeners {
        let layer = layer.with_separate_pool();
        let (tls, draining) = (current_tls.clone(), receiver.clone());
        let runtime = runtime()?;
        let worker = thread::Builder::new().name("worker".to_owned());
        worker.spawn(move || runtime.block_on(serve::accept(listener, tls, layer, draining)))?;
    }
    drop(receiver);
    let runtime = runtime()?;
    // Before anybody can know that there is a server to signal to.
    let signals = runtime.block_on(async { Signals::new() })?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("listening on {scheme}://{address}");
    let current = Current { layer, tls };
    runtime.block_on(control::run(&source, &current, signals, watched, draining));
    Ok(())
}

/// Starts the stand-in for the API on a thread of its own.
fn start_demo() -> io::Result<SocketAddr> {
    let runtime = runtime()?;
    let address = runtime.block_on(demo::start())?;
    let demo = thread::Builder::new().name("demo".to_owned());
    demo.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(address)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
