//! `--metrics`: what goes through the proxy, for Prometheus to scrape.
//!
//! Each thread that serves exchanges counts into a [shard](Shard) that it alone writes, and remembers
//! the series of each kind of exchange that it has seen: an exchange costs one look-up, and some twenty
//! additions without a lock. A scrape adds the shards up, and `prometheus-client` writes the text.

mod exposition;
mod facts;
mod family;
mod listener;
mod names;
mod process;
mod series;
mod shard;
#[cfg(test)]
mod tests;
mod value;
mod worker;

use std::{
    borrow::Cow,
    io,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
};

use http::request::Parts;
use tower_openai_proxy::{observe::Exchange, proxy::Handle};

pub(crate) use self::listener::bind;
use self::{facts::Facts, names::Models, shard::Shard};

/// What all threads count.
#[derive(Debug)]
pub(crate) struct Metrics {
    shards: Mutex<Vec<Arc<Shard>>>,
    models: Models,
}

impl Metrics {
    /// Lives as long as the program, so that exchanges need no count of references.
    pub(crate) fn leak() -> &'static Self {
        Box::leak(Box::new(Self {
            // So that every family has a description before the first exchange.
            shards: Mutex::new(vec![Arc::new(Shard::new())]),
            models: Models::default(),
        }))
    }

    /// An observer: counts an exchange from its beginning to its end.
    pub(crate) fn observe(
        &'static self,
        _: &Parts,
    ) -> Option<impl FnOnce(&Exchange) + Send + use<>> {
        worker::with(self, |worker| worker.begin());
        Some(move |exchange: &Exchange| {
            let (only, several) = match exchange.attempts() {
                [attempt] => (attempt.result(), &[][..]),
                attempts => (Cow::Borrowed(""), attempts),
            };
            let facts = Facts::of(exchange, &only);
            let several = several.iter();
            let several = several.map(|attempt| (attempt.backend().name(), attempt.result()));
            worker::with(self, |worker| worker.end(&facts, several));
        })
    }

    /// Answers scrapes from now on, on a thread of its own.
    pub(crate) fn serve(&'static self, listener: TcpListener, proxy: Handle) -> io::Result<()> {
        tracing::info!(
            "metrics on http://{}{}",
            listener.local_addr()?,
            listener::PATH
        );
        listener::start(listener, exposition::registry(self, proxy))
    }

    fn add_shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new());
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.push(shard.clone());
        shard
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.clone()
    }
}
