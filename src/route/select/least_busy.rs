//! The backend with the fewest requests in flight per weight.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Select, Selection, ranked};
use crate::{
    affinity::{arrival, mix},
    backend::Backend,
};

/// By priority, then the fewest requests in flight per weight: `settings.balance` `"least_busy"`.
/// Among equals the order is random, in proportion to the weights.
#[derive(Debug)]
pub struct LeastBusy {
    random: AtomicU64,
}

impl LeastBusy {
    /// With random numbers of its own.
    pub fn new() -> Self {
        Self {
            random: AtomicU64::new(RandomState::new().hash_one(())),
        }
    }

    fn random(&self) -> u64 {
        // SplitMix64.
        mix(self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed))
    }
}

impl Default for LeastBusy {
    fn default() -> Self {
        Self::new()
    }
}

impl Select for LeastBusy {
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        let backends = request.backends();
        let weight = backends.first().map_or(1.0, Backend::weight);
        let is_even = backends.iter().all(|backend| backend.weight() == weight);
        ranked(backends, |backend| {
            let load = backend.in_flight() as f64 / backend.weight();
            let tie = match is_even {
                // Any random number will do, without a logarithm.
                true => (self.random() >> 1) as i64 as f64,
                false => arrival(self.random(), backend.weight()),
            };
            (backend.priority(), load, tie)
        })
    }

    fn needs_model(&self) -> bool {
        false
    }
}
