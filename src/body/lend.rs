//! A body that one attempt after the other reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{RequestBody, State};

/// Lends a body to one attempt after the other: a clone if it is buffered, else the body itself, as
/// long as no attempt has read from it.
pub(crate) enum Lender {
    Buffered(RequestBody),
    Streamed(Slot),
}

/// Where a body is while it isn't lent.
#[derive(Clone)]
pub(crate) struct Slot(Arc<Mutex<Option<RequestBody>>>);

impl Lender {
    pub(crate) fn new(body: RequestBody) -> Self {
        match body.state {
            State::Buffered(_) | State::Replaced(_) => Self::Buffered(body),
            State::Streamed(_) | State::Lent(_) => {
                Self::Streamed(Slot(Arc::new(Mutex::new(Some(body)))))
            }
        }
    }

    /// `None` once it was read from. Whoever is the last to borrow it gets it for good.
    pub(crate) fn lend(&mut self, is_last: bool) -> Option<RequestBody> {
        match self {
            Self::Buffered(body) if is_last => Some(std::mem::take(body)),
            Self::Buffered(body) => body.try_clone(),
            Self::Streamed(slot) => {
                let body = slot.lock().take()?;
                let exchange = body.exchange.clone();
                let lent = Lent {
                    body: Some(body),
                    slot: slot.clone(),
                };
                Some(RequestBody {
                    state: State::Lent(Box::new(lent)),
                    exchange,
                })
            }
        }
    }
}

impl Default for Lender {
    /// An empty body.
    fn default() -> Self {
        Self::new(RequestBody::default())
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<RequestBody>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that goes back to its slot when it is dropped unread.
pub(super) struct Lent {
    /// `None` only while it is dropped.
    body: Option<RequestBody>,
    slot: Slot,
}

impl Lent {
    pub(super) fn get(&self) -> Option<&RequestBody> {
        self.body.as_ref()
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut RequestBody> {
        self.body.as_mut()
    }

    /// The body, to be read.
    pub(super) fn take(&mut self) -> RequestBody {
        self.body.take().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            *self.slot.lock() = Some(body);
        }
    }
}
