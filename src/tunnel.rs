//! What the stages of an exchange do at the end of its tunnel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Response, StatusCode};
use tokio::time::Instant;

/// What follows a 101, in the extensions of that response.
///
/// Each stage above adds what it has to do at the end. It does so before the server sends the 101,
/// and so before the tunnel carries anything.
#[derive(Clone, Default)]
pub(crate) struct Tunnel(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    deadline: Option<Instant>,
    at_end: Vec<AtEnd>,
}

type AtEnd = Box<dyn FnOnce(&Ended) + Send>;

/// How a tunnel ended, and what it carried.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) cause: Cause,
    /// From the client to the backend.
    pub(crate) request_bytes: u64,
    /// From the backend to the client, and in how many chunks.
    pub(crate) response_bytes: u64,
    pub(crate) response_chunks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Both sides, or one of them, and the other one's time was over.
    Closed,
    /// The client's connection was reset.
    ClientReset,
    /// The backend's connection was reset.
    BackendReset,
    /// Neither side sent anything for too long.
    Idle,
    /// The deadline of the exchange.
    Deadline,
}

impl Tunnel {
    /// The tunnel that this response opens.
    pub(crate) fn of<B>(response: &Response<B>) -> Option<&Self> {
        // Other responses have nothing to look for.
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        response.extensions().get()
    }

    /// Ends the tunnel at this time at the latest.
    pub(crate) fn end_at(&self, deadline: Instant) {
        let mut shared = self.lock();
        let earliest = shared
            .deadline
            .map_or(deadline, |other| other.min(deadline));
        shared.deadline = Some(earliest);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Calls `call` at the end, or drops it if the client leaves before the tunnel begins.
    pub(crate) fn at_end(&self, call: impl FnOnce(&Ended) + Send + 'static) {
        self.lock().at_end.push(Box::new(call));
    }

    pub(crate) fn end(&self, ended: &Ended) {
        let calls = std::mem::take(&mut self.lock().at_end);
        for call in calls {
            call(ended);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
