//! What happens to the server while it runs: a new configuration, and its end.

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tower_openai_proxy::OpenAiProxyLayer;

use self::signals::Signal;
pub(crate) use self::signals::Signals;
use crate::{
    arguments::{Arguments, Loaded},
    log,
};

/// How often `--watch` looks at the files.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Where the configuration comes from.
pub(crate) struct Source<'a> {
    pub(crate) arguments: &'a Arguments,
    /// The stand-in's, with `--demo`.
    pub(crate) demo_url: Option<String>,
}

impl Source<'_> {
    fn load(&self) -> Result<Loaded, Box<dyn Error>> {
        self.redirect(self.arguments.load()?)
    }

    /// What was loaded, with all backends at the stand-in's address where there is one.
    pub(crate) fn redirect(&self, mut loaded: Loaded) -> Result<Loaded, Box<dyn Error>> {
        if let Some(url) = &self.demo_url {
            loaded.config = loaded.config.with_backend_urls(url)?;
        }
        Ok(loaded)
    }
}

/// What a reload replaces, all or nothing.
pub(crate) struct Current {
    pub(crate) layer: OpenAiProxyLayer,
    pub(crate) tls: Option<watch::Sender<Arc<ServerConfig>>>,
}

impl Current {
    /// Files that can't be used leave the old ones in place.
    fn reload(&self, source: &Source<'_>) {
        match source.load() {
            Ok(loaded) => {
                self.layer.reload(loaded.config);
                if let (Some(current), Some(tls)) = (&self.tls, loaded.tls) {
                    current.send_replace(tls);
                }
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                log::message(error);
                tracing::error!("the old configuration stays");
            }
        }
    }
}

/// Reloads as asked, until the server is told to end. Then drains: returns when what is in flight
/// has ended, or the time for it is over.
pub(crate) async fn run(
    source: &Source<'_>,
    current: &Current,
    mut signals: Signals,
    mut watched: Watched<'_>,
    draining: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => current.reload(source),
                Signal::End => break,
            },
            () = watched.changed() => current.reload(source),
        }
    }

    tracing::info!("draining");
    current.layer.drain();
    draining.send_replace(true);
    // Each worker holds on to its receiver for as long as something is in flight.
    let drained = timeout(source.arguments.drain_timeout, draining.closed()).await;
    if drained.is_err() {
        tracing::warn!("exchanges were still in flight");
    }
}

/// Files that are looked at from time to time.
pub(crate) struct Watched<'a> {
    files: Vec<&'a Path>,
    contents: Contents,
}

type Contents = Vec<Option<Vec<u8>>>;

impl<'a> Watched<'a> {
    pub(crate) fn new(files: Vec<&'a Path>) -> Self {
        Self {
            contents: read(&files),
            files,
        }
    }

    /// Waits until the files' contents are others, and the same at two looks in a row: what is just
    /// being written is left alone.
    async fn changed(&mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        let mut ticks = interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = read(&self.files);
        loop {
            ticks.tick().await;
            let now = read(&self.files);
            if now == before && now != self.contents {
                self.contents = now;
                return;
            }
            before = now;
        }
    }
}

fn read(files: &[&Path]) -> Contents {
    files.iter().map(|file| fs::read(file).ok()).collect()
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
