//! What the stages of one exchange tell each other, beside the request.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

use crate::backend::Backend;

/// One exchange, shared by its stages: how far the request has been sent, and to which backends.
///
/// It travels with the [`RequestBody`](crate::RequestBody), so that every stage of a stack finds it,
/// whatever stands between them.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Shared>);

struct Shared {
    upload: AtomicU8,
    /// Of the request's body.
    received_bytes: AtomicU64,
    /// `None` where nobody observes the exchange.
    attempts: Option<Mutex<Vec<Backend>>>,
}

/// Nothing was sent since the last look, and only the backend can change that.
const IDLE: u8 = 0;
/// Something was sent since the last look.
const ACTIVE: u8 = 1;
/// The request waits for the client or for a connection, which have timeouts of their own.
const PAUSED: u8 = 2;

impl Handle {
    pub(crate) fn new() -> Self {
        Self::with_attempts(None)
    }

    /// One that keeps the attempts, for an observer.
    pub(crate) fn observed() -> Self {
        Self::with_attempts(Some(Mutex::default()))
    }

    fn with_attempts(attempts: Option<Mutex<Vec<Backend>>>) -> Self {
        Self(Arc::new(Shared {
            upload: AtomicU8::new(IDLE),
            received_bytes: AtomicU64::new(0),
            attempts,
        }))
    }

    /// Notes that a part of the request was sent, or that it waits for something other than the
    /// backend.
    pub(crate) fn note_upload(&self, is_paused: bool) {
        let state = if is_paused { PAUSED } else { ACTIVE };
        self.0.upload.store(state, Relaxed);
    }

    /// Whether the request has come further since the last call, or waits for something other than
    /// the backend.
    pub(crate) fn take_activity(&self) -> bool {
        let state = self.0.upload.load(Relaxed);
        if state == ACTIVE {
            // Unless something was noted just now, by another task.
            let _ = self
                .0
                .upload
                .compare_exchange(ACTIVE, IDLE, Relaxed, Relaxed);
        }
        state != IDLE
    }

    /// Counts what the client sends of the request's body.
    pub(crate) fn count_received(&self, length: usize) {
        self.0.received_bytes.fetch_add(length as u64, Relaxed);
    }

    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Relaxed)
    }

    /// Notes that the request goes to this backend now.
    pub(crate) fn begin_attempt(&self, backend: &Backend) {
        if let Some(mut attempts) = self.attempts() {
            attempts.push(backend.clone());
        }
    }

    /// The backends that the request went to, the last one last; `None` where they aren't kept.
    pub(crate) fn attempts(&self) -> Option<MutexGuard<'_, Vec<Backend>>> {
        let attempts = self.0.attempts.as_ref()?;
        Some(attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
