//! How much a client may use: requests a minute, and requests at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::Limits,
    error::{Error, Kind},
};

/// What a client uses at the moment. A reload keeps it, whatever the limits are then.
///
/// The bucket of requests isn't that of the crate governor, which neither takes a request back nor
/// keeps its level when its size changes.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    /// The requests left in the bucket, in parts of [`REQUEST`].
    left: u64,
    /// When that was so; `None` while the bucket was never used, so that it is full.
    at: Option<Instant>,
}

/// One request, in the parts of which a bucket gets as many in a microsecond as it gets requests in
/// a minute.
const REQUEST: u64 = 60_000_000;

impl Usage {
    /// Takes a request in, or tells why not.
    pub(super) fn admit(self: &Arc<Self>, limits: Limits) -> Result<Permit, Error> {
        let mut state = self.lock();
        if limits
            .max_in_flight
            .is_some_and(|max| state.in_flight >= max)
        {
            let error = Error::new(Kind::ConcurrencyLimited);
            return Err(error.with_retry_after(Duration::from_secs(1)));
        }
        let is_charged = limits.requests_per_minute.is_some();
        if let Some(rate) = limits.requests_per_minute {
            let wait = state.take(rate, Instant::now());
            wait.map_err(|wait| Error::new(Kind::RateLimited).with_retry_after(wait))?;
        }
        state.in_flight = state.in_flight.saturating_add(1);
        Ok(Permit {
            usage: self.clone(),
            is_charged,
        })
    }

    /// To be called before the limits change.
    pub(super) fn settle(&self, limits: Limits) {
        let mut state = self.lock();
        match limits.requests_per_minute {
            Some(rate) => state.refill(rate, Instant::now()),
            None => state.at = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, rate: u32, now: Instant) -> Result<(), Duration> {
        self.refill(rate, now);
        match self.left.checked_sub(REQUEST) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let micros = (REQUEST - self.left).div_ceil(rate.into());
                Err(Duration::from_micros(micros))
            }
        }
    }

    fn refill(&mut self, rate: u32, now: Instant) {
        let full = u64::from(rate) * REQUEST;
        let Some(at) = self.at else {
            (self.left, self.at) = (full, Some(now));
            return;
        };
        let micros = now.saturating_duration_since(at).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(rate.into());
        self.left = self.left.saturating_add(gained).min(full);
        // A part of a microsecond counts the next time.
        self.at = Some(at + Duration::from_micros(micros));
    }
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    usage: Arc<Usage>,
    /// It took a request from the bucket.
    is_charged: bool,
}

impl Permit {
    /// Gives back what a request took that was refused after all.
    pub(crate) fn refund(&mut self) {
        if std::mem::take(&mut self.is_charged) {
            let mut state = self.usage.lock();
            state.left = state.left.saturating_add(REQUEST);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.lock().in_flight -= 1;
    }
}
