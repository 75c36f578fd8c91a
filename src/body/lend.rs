//! A body that one attempt after the other reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{RequestBody, State};

/// Lends a body to one attempt after the other: a clone if it is buffered, else the body itself, as
/// long as no attempt has read from it.
#[derive(Clone, Default)]
pub(crate) struct Lender(Arc<Mutex<Option<RequestBody>>>);

impl Lender {
    pub(crate) fn new(body: RequestBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// `None` once it was read from.
    pub(crate) fn lend(&self) -> Option<RequestBody> {
        let mut slot = self.slot();
        let body = slot.as_ref()?;
        if let Some(clone) = body.try_clone() {
            return Some(clone);
        }
        let body = slot.take()?;
        let exchange = body.exchange.clone();
        let lent = Lent {
            body: Some(body),
            lender: self.clone(),
        };
        Some(RequestBody {
            state: State::Lent(Box::new(lent)),
            exchange,
        })
    }

    fn slot(&self) -> MutexGuard<'_, Option<RequestBody>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that goes back to its lender when it is dropped unread.
pub(super) struct Lent {
    /// `None` only while it is dropped.
    body: Option<RequestBody>,
    lender: Lender,
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
            *self.lender.slot() = Some(body);
        }
    }
}
