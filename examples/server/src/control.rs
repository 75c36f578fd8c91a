//! The server's signals and its end.

use std::{error::Error, fmt, sync::mpsc::SyncSender, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tower_openai_proxy::proxy::Handle;

use self::signals::Signal;
pub(crate) use self::signals::Signals;
use crate::{notice::Notice, notify, probes::Readiness};

/// How the server ends, once it is told to.
pub(crate) struct Ending {
    pub(crate) proxy: Handle,
    pub(crate) notices: watch::Sender<Notice>,
    pub(crate) readiness: Readiness,
    /// How long new requests are still served while `/readyz` says that none should come.
    pub(crate) drain_delay: Duration,
    /// How long exchanges in flight may take from then on.
    pub(crate) drain_timeout: Duration,
}

/// Asks for reloads until the server is told to end, and ends it then: returns when everything in
/// flight has ended, or its time is over.
///
/// # Errors
///
/// The server was told again, and is to end at once.
pub(crate) async fn run(
    mut signals: Signals,
    reload: SyncSender<()>,
    ending: Ending,
) -> Result<(), Interrupted> {
    signals.end(&reload).await;
    tokio::select! {
        biased;
        () = signals.end(&reload) => Err(Interrupted),
        () = ending.end() => Ok(()),
    }
}

/// The drain was cut short by a second signal.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a second signal ended the server at once")
    }
}

impl Error for Interrupted {}

impl Ending {
    async fn end(self) {
        self.readiness.end();
        notify::stopping();
        if !self.drain_delay.is_zero() {
            tracing::info!(seconds = self.drain_delay.as_secs_f64(), "drain delayed");
            sleep(self.drain_delay).await;
        }
        tracing::info!("draining");
        self.proxy.drain();
        self.notices.send_modify(|notice| notice.is_draining = true);
        // Each connection keeps its receiver for as long as something is in flight.
        let drained = timeout(self.drain_timeout, self.notices.closed()).await;
        if drained.is_err() {
            tracing::warn!("exchanges were still in flight");
        }
    }
}

impl Signals {
    /// Asks for reloads until the server is told to end.
    async fn end(&mut self, reload: &SyncSender<()>) {
        while let Signal::Reload = self.next().await {
            // Where there is no room, a reload is about to start anyway.
            let _ = reload.try_send(());
        }
    }
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
        /// Ignored: without a handler they would end the process.
        _ignored: [Stream; 2],
    }

    impl Signals {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                hangup: signal(SignalKind::hangup())?,
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                _ignored: [
                    signal(SignalKind::user_defined1())?,
                    signal(SignalKind::user_defined2())?,
                ],
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
