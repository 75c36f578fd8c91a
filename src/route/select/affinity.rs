//! The same backend for the same value, by weighted rendezvous hashing.

use std::{fmt, sync::Arc};

use super::{Select, Selection, ranked};
use crate::{affinity::arrival, backend::Backend};

/// A backend with fewer requests in flight takes any.
const MIN_BOUND: usize = 8;

/// How much more than its share a backend takes.
const BOUND: f64 = 1.25;

/// By priority, then the same backends for the same value: `settings.affinity`.
///
/// Weighted rendezvous hashing over the backends' names: without one backend only its own values
/// move. One that has more than 1.25 times its share of the group's requests in flight, and at least
/// 8, comes behind the group's others. A request without a value is left to another selector.
#[derive(Clone)]
pub struct Affinity {
    otherwise: Arc<dyn Select>,
}

impl Affinity {
    /// `otherwise` selects for requests without a value.
    pub fn new(otherwise: impl Select) -> Self {
        Self::shared(Arc::new(otherwise))
    }

    pub(crate) fn shared(otherwise: Arc<dyn Select>) -> Self {
        Self { otherwise }
    }
}

impl Select for Affinity {
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        let Some(value) = request.affinity else {
            return self.otherwise.select(request);
        };
        ranked(request.backends(), |backend| {
            let bits = value.with(backend.name_hash()).to_bits();
            let arrival = arrival(bits, backend.weight());
            let is_over = is_over_bound(backend, request.backends());
            (backend.priority(), f64::from(is_over), arrival)
        })
    }

    fn needs_model(&self) -> bool {
        self.otherwise.needs_model()
    }
}

/// Whether a backend has more than its share of what its group has in flight.
fn is_over_bound(backend: &Backend, backends: &[Backend]) -> bool {
    let in_flight = backend.in_flight();
    if in_flight < MIN_BOUND {
        return false;
    }
    // What cools down takes no share.
    let is_counted = |other: &&Backend| {
        other.priority() == backend.priority() && (other.is_available() || *other == backend)
    };
    let group = backends.iter().filter(is_counted);
    let (all, weights) = group.fold((0, 0.0), |(all, weights), other| {
        (all + other.in_flight(), weights + other.weight())
    });
    in_flight as f64 > BOUND * (all + 1) as f64 * backend.weight() / weights
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Affinity").finish_non_exhaustive()
    }
}
