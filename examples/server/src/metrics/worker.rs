//! The counting end: a thread's shard, and the series that it has found already.

use std::{borrow::Cow, cell::RefCell, collections::HashMap, sync::Arc};

use super::{
    Metrics,
    facts::{Facts, Labels},
    series::{Counting, Series},
    shard::Shard,
};

/// How many kinds of exchanges a thread remembers. Beyond it, it starts afresh.
const MAX_KINDS: usize = 1024;

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Counts on this thread.
pub(super) fn with<T>(metrics: &'static Metrics, count: impl FnOnce(&mut Worker) -> T) -> T {
    WORKER.with_borrow_mut(|worker| {
        // Tests have several.
        let worker = match worker {
            Some(worker) if std::ptr::eq(worker.metrics, metrics) => worker,
            other => other.insert(Worker::new(metrics)),
        };
        count(worker)
    })
}

/// What a thread counts with.
pub(super) struct Worker {
    metrics: &'static Metrics,
    shard: Arc<Shard>,
    /// By [`write_key`].
    known: HashMap<Box<[u8]>, Series>,
    key: Vec<u8>,
}

impl Worker {
    fn new(metrics: &'static Metrics) -> Self {
        Self {
            metrics,
            shard: metrics.add_shard(),
            known: HashMap::new(),
            key: Vec::new(),
        }
    }

    /// How many kinds of exchanges are remembered.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    pub(super) fn begin(&self) {
        self.shard.in_flight.add(1);
    }

    /// Counts an exchange that has ended. `attempts` has the backend and the result of each attempt
    /// where there were several.
    pub(super) fn end<'a>(
        &mut self,
        facts: &Facts<'_>,
        attempts: impl Iterator<Item = (&'a str, Cow<'static, str>)>,
    ) {
        let Self {
            metrics,
            shard,
            known,
            key,
            ..
        } = self;
        for (backend, result) in attempts {
            shard.attempts.series([backend, &result]).add(1);
        }
        let count = |series: &Series| {
            let models = &metrics.models;
            Counting {
                shard,
                series,
                facts,
                models,
            }
            .count();
        };
        write_key(&facts.labels, key);
        if let Some(series) = known.get(&key[..]) {
            count(series);
        } else {
            let series = Series::default();
            count(&series);
            // Names that aren't labels, of which clients can make up any number, are not kept.
            if metrics.models.shown(&facts.labels).are_settled() {
                if known.len() >= MAX_KINDS {
                    known.clear();
                }
                known.insert(key[..].into(), series);
            }
        }
        // Last, so that a scrape that finds none in flight finds all of them counted.
        shard.in_flight.add(-1);
    }
}

/// Writes labels so that no others are written alike.
fn write_key(labels: &Labels<'_>, key: &mut Vec<u8>) {
    let Labels {
        backend,
        provider,
        endpoint,
        operation,
        status,
        outcome,
        error_type,
        attempt,
        request_model,
        is_configured,
        response_model,
        client,
        missing,
    } = *labels;
    key.clear();
    let status = status.map_or(0, |status| status.as_u16());
    key.extend_from_slice(&status.to_ne_bytes());
    key.push(is_configured.into());
    for text in [
        backend,
        provider,
        endpoint,
        operation,
        outcome,
        error_type,
        attempt,
        request_model,
        response_model,
        client,
        missing,
    ] {
        key.extend_from_slice(text.as_bytes());
        key.push(0xff); // in no text
    }
}
