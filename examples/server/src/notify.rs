//! Tells the service manager how the server is, where `NOTIFY_SOCKET` names one (`sd_notify(3)`).

#[cfg(unix)]
pub(crate) use self::manager::{ready, reloading, stopping};

#[cfg(unix)]
mod manager {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use sd_notify::NotifyState::{self, Ready, Reloading, Stopping};

    /// A reload that ends after the server was told to end tells nothing any more.
    static IS_STOPPING: Mutex<bool> = Mutex::new(false);

    /// The server accepts connections, with the configuration that it has.
    pub(crate) fn ready() {
        if !*is_stopping() {
            send(&[Ready]);
        }
    }

    /// The server reads its configuration; [`ready`] follows.
    pub(crate) fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now()
            && !*is_stopping()
        {
            send(&[Reloading, now]);
        }
    }

    /// The server ends.
    pub(crate) fn stopping() {
        *is_stopping() = true;
        send(&[Stopping]);
    }

    fn is_stopping() -> MutexGuard<'static, bool> {
        IS_STOPPING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "the service manager can't be told");
        }
    }
}

#[cfg(not(unix))]
pub(crate) use self::nobody::{ready, reloading, stopping};

#[cfg(not(unix))]
mod nobody {
    pub(crate) fn ready() {}
    pub(crate) fn reloading() {}
    pub(crate) fn stopping() {}
}
