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
mod demo;
mod linger;
mod listen;
mod log;
mod serve;

use std::{io, net::SocketAddr, process::ExitCode, thread};

use tokio::runtime::{Builder, Runtime};
use tower_openai_proxy::{Config, ConfigError, OpenAiProxyLayer};

use self::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    let config = match arguments.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    log::start();
    let result = run(&arguments, config);
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, mut config: Config) -> Result<(), Box<dyn std::error::Error>> {
    if arguments.demo {
        let url = format!("http://{}/v1", start_demo()?);
        config = config.with_backend_urls(&url)?;
    }
    let layer = OpenAiProxyLayer::from_config(config).with_health();
    let listeners = listen::bind(arguments.listen, arguments.workers).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", arguments.listen),
        )
    })?;
    let address = listeners[0].local_addr()?;

    let mut workers = Vec::new();
    for listener in listeners {
        let (runtime, layer) = (runtime()?, layer.with_own_connections());
        let worker = thread::Builder::new().name("worker".to_owned());
        workers.push(worker.spawn(move || runtime.block_on(serve::accept(listener, layer)))?);
    }
    println!("listening on http://{address}");
    for worker in workers {
        worker.join().map_err(|_| "a worker ended by a panic")??;
    }
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
