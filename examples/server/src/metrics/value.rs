//! Counters and histograms that one thread writes and any thread reads.
//!
//! With a single writer, an addition is a relaxed load and a store: no lock, no locked instruction, and
//! no cache line that travels between the workers. `prometheus-client`'s histograms take a lock, and its
//! counters are shared.

use std::{
    array,
    marker::PhantomData,
    sync::atomic::{
        AtomicI64, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

/// What a family is made of.
pub(super) trait Value: Default {
    /// The sum over all threads.
    type Sum: Default;

    fn add_to(&self, sum: &mut Self::Sum);
}

/// Only goes up, at most to its largest number.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: u64) {
        add(&self.0, amount);
    }
}

impl Value for Counter {
    type Sum = u64;

    fn add_to(&self, sum: &mut u64) {
        *sum = sum.saturating_add(self.0.load(Relaxed));
    }
}

/// One thread's part of a number that goes up and down: what begins on one thread may end on another,
/// so a part may be negative.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicI64);

impl Gauge {
    pub(super) fn add(&self, amount: i64) {
        self.0.store(self.0.load(Relaxed) + amount, Release);
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Acquire)
    }
}

/// What a histogram counts.
pub(super) trait Scale: Default {
    /// The inclusive upper bounds of its buckets, at most [`MAX_BOUNDS`], in what it counts.
    const BOUNDS: &'static [u64];

    /// How many of these are one of the metric's unit.
    const PER_UNIT: f64;
}

const MAX_BOUNDS: usize = 17;

/// Nanoseconds, from 10 ms to 11 minutes, of which each bound is twice the one before.
#[derive(Debug, Default)]
pub(super) struct Seconds;

/// Nanoseconds between two tokens of a stream.
#[derive(Debug, Default)]
pub(super) struct TokenSeconds;

/// Tokens, of which each bound is four times the one before.
#[derive(Debug, Default)]
pub(super) struct Tokens;

const MILLISECOND: u64 = 1_000_000;

const SECONDS: [u64; 17] = geometric(10 * MILLISECOND, 2);
const TOKENS: [u64; 14] = geometric(1, 4);
const TOKEN_SECONDS: [u64; 16] = {
    let tenths = [
        10, 25, 50, 100, 250, 500, 750, 1000, 1500, 2000, 3000, 4000, 5000, 7500, 10_000, 25_000,
    ];
    let mut bounds = [0; 16];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = tenths[index] * MILLISECOND / 10;
        index += 1;
    }
    bounds
};

const fn geometric<const N: usize>(first: u64, factor: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut index = 1;
    while index < N {
        bounds[index] = bounds[index - 1] * factor;
        index += 1;
    }
    bounds
}

impl Scale for Seconds {
    const BOUNDS: &'static [u64] = &SECONDS;
    const PER_UNIT: f64 = 1e9;
}

impl Scale for TokenSeconds {
    const BOUNDS: &'static [u64] = &TOKEN_SECONDS;
    const PER_UNIT: f64 = 1e9;
}

impl Scale for Tokens {
    const BOUNDS: &'static [u64] = &TOKENS;
    const PER_UNIT: f64 = 1.0;
}

/// How many values fell below each bound, and their sum.
#[derive(Debug, Default)]
pub(super) struct Histogram<S> {
    /// Behind the last bound is what exceeds it.
    counts: [AtomicU64; MAX_BOUNDS + 1],
    sum: AtomicU64,
    scale: PhantomData<S>,
}

impl<S: Scale> Histogram<S> {
    pub(super) fn observe(&self, value: u64) {
        let bucket = S::BOUNDS.partition_point(|bound| *bound < value);
        add(&self.counts[bucket], 1);
        add(&self.sum, value);
    }

    pub(super) fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A histogram's sum over all threads.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    counts: [u64; MAX_BOUNDS + 1],
    sum: u64,
}

impl Distribution {
    /// The upper bound of each bucket in the metric's unit, and what it holds alone.
    pub(super) fn buckets<S: Scale>(&self) -> Vec<(f64, u64)> {
        let bounds = S::BOUNDS.iter().map(|bound| *bound as f64 / S::PER_UNIT);
        bounds.zip(self.counts).collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum<S: Scale>(&self) -> f64 {
        self.sum as f64 / S::PER_UNIT
    }
}

impl<S: Scale> Value for Histogram<S> {
    type Sum = Distribution;

    fn add_to(&self, sum: &mut Distribution) {
        let counts: [u64; MAX_BOUNDS + 1] =
            array::from_fn(|index| self.counts[index].load(Relaxed));
        for (sum, count) in sum.counts.iter_mut().zip(counts) {
            *sum += count;
        }
        sum.sum = sum.sum.saturating_add(self.sum.load(Relaxed));
    }
}

fn add(to: &AtomicU64, amount: u64) {
    to.store(to.load(Relaxed).saturating_add(amount), Relaxed);
}
