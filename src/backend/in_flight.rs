//! How many requests a backend is busy with.

use std::sync::atomic::Ordering::Relaxed;

use super::Backend;

impl Backend {
    /// How many requests it is busy with, over all threads: from the time it was chosen for one until
    /// the last byte of the response body has been forwarded, the client has disconnected, or the
    /// WebSocket is closed. A reload keeps the count.
    pub fn in_flight(&self) -> usize {
        self.0.shared.in_flight.load(Relaxed)
    }
}

/// A request that its backend is busy with, until this is dropped.
pub(crate) struct InFlight(Backend);

impl InFlight {
    pub(crate) fn begin(backend: Backend) -> Self {
        backend.0.shared.in_flight.fetch_add(1, Relaxed);
        Self(backend)
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.shared.in_flight.fetch_sub(1, Relaxed);
    }
}
