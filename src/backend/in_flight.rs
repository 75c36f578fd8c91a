//! How many requests a backend is busy with, and how many it may be.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::Backend;

impl Backend {
    /// How many requests it is busy with, over all threads: from the time it was chosen for one until
    /// the last byte of the response body has been forwarded, the client has disconnected, or the
    /// WebSocket is closed. A reload keeps the count.
    pub fn in_flight(&self) -> usize {
        self.0.shared.in_flight.load(Relaxed)
    }

    /// Takes a place, whoever waits for it.
    pub(super) fn take_place(&self) -> Option<InFlight> {
        self.count_one().then(|| InFlight(self.clone()))
    }

    /// Counts one more, unless it is full.
    fn count_one(&self) -> bool {
        let in_flight = &self.0.shared.in_flight;
        let Some(max) = self.0.max_in_flight else {
            in_flight.fetch_add(1, SeqCst);
            return true;
        };
        let one_more = |count| (count < max).then_some(count + 1);
        in_flight.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }
}

/// A request that its backend is busy with, until this is dropped.
pub(crate) struct InFlight(Backend);

impl InFlight {
    /// Fails where the backend is full, or others wait for it.
    pub(crate) fn begin(backend: Backend) -> Result<Self, Backend> {
        let is_taken = backend.0.max_in_flight.is_some() && backend.is_waited_for();
        if !is_taken && backend.count_one() {
            Ok(Self(backend))
        } else {
            Err(backend)
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.shared.in_flight.fetch_sub(1, SeqCst);
        if self.0.is_waited_for() {
            self.0.hand_over();
        }
    }
}
