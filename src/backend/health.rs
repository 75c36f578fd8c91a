//! Which backends failed, for how long they are tried last, and who finds out whether they are well
//! again.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Backend;

/// The longest cooldown, unless the configuration has a longer one.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(60);

/// What the configuration says.
pub(super) struct Policy {
    /// How many failures in a row begin a cooldown.
    pub(super) failures: u32,
    /// How long the first one lasts; zero: there is none.
    pub(super) cooldown: Duration,
}

/// What is known of a backend. Without failures it costs a load to ask for it.
pub(super) struct Health {
    born: Instant,
    /// Since the last success.
    failures: AtomicU32,
    /// Milliseconds after `born` until which the backend is tried last; 0: none.
    cooling_until: AtomicU64,
    /// Cooldowns since the last success. Locked by whoever changes the two above.
    cooldowns: Mutex<u32>,
    is_probed: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            failures: AtomicU32::new(0),
            cooling_until: AtomicU64::new(0),
            cooldowns: Mutex::new(0),
            is_probed: AtomicBool::new(false),
        }
    }
}

/// How a backend takes the next request.
pub(crate) enum Admission {
    Up,
    /// Its cooldown is over: this request finds out whether it is well.
    Probe(Probe),
    /// It cools down, or another request finds that out.
    Cooling,
}

impl Health {
    fn millis(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// Whether the cooldown is over, but no request has succeeded since.
    fn is_unproven(&self) -> bool {
        self.failures.load(Relaxed) > 0
    }
}

impl Backend {
    /// Whether it cools down after failures (no connection, closed before the response headers, no
    /// headers in time, or a status of `failover_on`), so that the others are tried first.
    pub fn is_cooling_down(&self) -> bool {
        let health = &self.0.shared.health;
        let until = health.cooling_until.load(Relaxed);
        until > 0 && health.millis() < until
    }

    /// Whether it doesn't cool down, and no other request finds out whether it still should: those
    /// that are available are tried first.
    pub fn is_available(&self) -> bool {
        let health = &self.0.shared.health;
        if health.cooling_until.load(Relaxed) == 0 {
            return true;
        }
        let is_probed = health.is_unproven() && health.is_probed.load(Relaxed);
        !is_probed && !self.is_cooling_down()
    }

    /// What [`is_available`](Self::is_available) says, for a request that is sent at once.
    pub(crate) fn admit(&self) -> Admission {
        let health = &self.0.shared.health;
        if health.cooling_until.load(Relaxed) == 0 {
            return Admission::Up;
        }
        if self.is_cooling_down() {
            return Admission::Cooling;
        }
        if !health.is_unproven() {
            return Admission::Up;
        }
        if health.is_probed.swap(true, Relaxed) {
            return Admission::Cooling;
        }
        Admission::Probe(Probe(self.clone()))
    }

    /// Counts a failure. One that begins a cooldown makes it at least `wait` long, which the backend
    /// has asked for.
    pub(crate) fn record_failure(&self, wait: Option<Duration>) {
        let Policy { failures, cooldown } = self.0.policy;
        let health = &self.0.shared.health;
        let mut cooldowns = health
            .cooldowns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if cooldown.is_zero() || self.is_cooling_down() {
            return;
        }
        let in_a_row = health.failures.load(Relaxed).saturating_add(1);
        health.failures.store(in_a_row, Relaxed);
        if in_a_row < failures {
            return;
        }
        let doubled = cooldown.saturating_mul(1 << (*cooldowns).min(16));
        let period = doubled.min(LONGEST_COOLDOWN.max(cooldown));
        let period = period.max(wait.unwrap_or_default().min(LONGEST_COOLDOWN));
        *cooldowns = cooldowns.saturating_add(1);
        let until = health.millis() + (period.as_millis() as u64).max(1);
        health.cooling_until.store(until, Relaxed);
    }

    pub(crate) fn record_success(&self) {
        let health = &self.0.shared.health;
        if health.failures.load(Relaxed) == 0 {
            return;
        }
        let mut cooldowns = health
            .cooldowns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *cooldowns = 0;
        health.failures.store(0, Relaxed);
        if !self.is_cooling_down() {
            health.cooling_until.store(0, Relaxed);
        }
    }
}

/// The one request that finds out whether a backend is well. The place is free when it is dropped.
pub(crate) struct Probe(Backend);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.0.shared.health.is_probed.store(false, Relaxed);
    }
}
