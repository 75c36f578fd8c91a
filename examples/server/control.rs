//! What happens to the server while it runs: a new configuration, and its end.

use std::{fs, path::Path, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tower_openai_proxy::{Config, ConfigError, OpenAiProxyLayer};

use self::signals::Signal;
pub(crate) use self::signals::Signals;
use crate::{arguments::Arguments, log};

/// How often `--watch` looks at the file.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Where the configuration comes from, at the start and at each reload.
pub(crate) struct Source<'a> {
    pub(crate) arguments: &'a Arguments,
    /// The stand-in's, with `--demo`.
    pub(crate) demo_url: Option<String>,
}

impl Source<'_> {
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let config = self.arguments.config()?;
        match &self.demo_url {
            Some(url) => config.with_backend_urls(url),
            None => Ok(config),
        }
    }

    /// A configuration that can't be used leaves the old one in place.
    fn reload(&self, layer: &OpenAiProxyLayer) {
        match self.load() {
            Ok(config) => {
                layer.reload(config);
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                log::flush();
                eprintln!("{error}");
                tracing::error!("the old configuration stays");
            }
        }
    }
}

/// Reloads as asked, until the server is told to end. Then drains: returns when what is in flight
/// has ended, or the time for it is over.
pub(crate) async fn run(
    source: &Source<'_>,
    layer: &OpenAiProxyLayer,
    mut signals: Signals,
    mut watched: Watched<'_>,
    draining: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => source.reload(layer),
                Signal::End => break,
            },
            () = watched.changed() => source.reload(layer),
        }
    }

    tracing::info!("draining");
    layer.drain();
    draining.send_replace(true);
    // Each worker holds on to its receiver for as long as something is in flight.
    let drained = timeout(source.arguments.drain_timeout, draining.closed()).await;
    if drained.is_err() {
        tracing::warn!("exchanges were still in flight");
    }
}

/// A file that is looked at from time to time.
pub(crate) struct Watched<'a> {
    path: Option<&'a Path>,
    content: Option<Vec<u8>>,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(path: Option<&'a Path>) -> Self {
        Self {
            content: path.and_then(read),
            path,
        }
    }

    /// Waits until the file's content is another, and the same at two looks in a row: one that is
    /// just being written is left alone.
    async fn changed(&mut self) {
        let Some(path) = self.path else {
            return std::future::pending().await;
        };
        let mut ticks = interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = read(path);
        loop {
            ticks.tick().await;
            let now = read(path);
            if now == before && now != self.content {
                self.content = now;
                return;
            }
            before = now;
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

#[cfg(unix)]
mod signals {
    use std::io;

    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    pub(super) enum Signal {
        Reload,
        End,
    }

    pub(crate) struct Signals {
        hangup: Stream,
        interrupt: Stream,
        terminate: Stream,
    }

    impl Signals {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                hangup: signal(SignalKind::hangup())?,
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.hangup.recv() => Signal::Reload,
                _ = self.interrupt.recv() => Signal::End,
                _ = self.terminate.recv() => Signal::End,
            }
        }
    }
}

#[cfg(not(unix))]
mod signals {
    use std::io;

    pub(super) enum Signal {
        // There is no such signal here; `--watch` reloads.
        #[expect(dead_code)]
        Reload,
        End,
    }

    pub(crate) struct Signals;

    impl Signals {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) -> Signal {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Signal::End
        }
    }
}
