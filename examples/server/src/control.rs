//! The server's signals and its end.

use std::{sync::mpsc::SyncSender, time::Duration};

use tokio::{sync::watch, time::timeout};
use tower_openai_proxy::proxy::Handle;

use self::signals::Signal;
pub(crate) use self::signals::Signals;
use crate::notice::Notice;

/// Asks for reloads until the server is told to end. Then drains: returns when everything in flight
/// has ended, or after `drain_timeout`.
pub(crate) async fn run(
    mut signals: Signals,
    reload: SyncSender<()>,
    proxy: Handle,
    notices: watch::Sender<Notice>,
    drain_timeout: Duration,
) {
    while let Signal::Reload = signals.next().await {
        // Where there is no room, a reload is about to start anyway.
        let _ = reload.try_send(());
    }

    tracing::info!("draining");
    proxy.drain();
    notices.send_modify(|notice| notice.is_draining = true);
    // Each connection keeps its receiver for as long as something is in flight.
    let drained = timeout(drain_timeout, notices.closed()).await;
    if drained.is_err() {
        tracing::warn!("exchanges were still in flight");
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
