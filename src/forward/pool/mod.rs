//! Connections to backends that can be used again.

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connect::{Connected, Connector, Versions},
    http2,
    stream::Stream,
};
use crate::backend::Origin;

/// How old a connection may be when it is used again, so that a name which moves is followed.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// How often unusable connections are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// The socket of a connection that has been idle for this long is probed as well: the runtime may
/// not know yet that the backend has closed it.
const PROBE_AFTER: Duration = Duration::from_micros(100);

/// The limits of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_idle_per_origin: usize,
    pub(crate) idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_idle_per_origin: 512,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// The connections of one [`Forward`](super::Forward) and its clones: idle ones, and those that carry
/// more than one request at a time.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There are few origins.
    origins: Vec<(Origin, OriginPool)>,
    is_swept: bool,
}

/// The connections to one origin.
#[derive(Default)]
struct OriginPool {
    idle: Vec<Idle>,
    /// The oldest first.
    http2: Vec<http2::Connection>,
}

/// A connection that takes a request.
pub(crate) enum Open {
    Http1(Stream),
    Http2(http2::StreamPermit),
}

struct Idle {
    stream: Stream,
    since: Instant,
}

impl Idle {
    fn is_usable(&mut self, timeout: Duration) -> bool {
        let now = Instant::now();
        let is_within = |since: Instant, period| {
            let end = since.checked_add(period);
            end.is_none_or(|end| now < end)
        };
        is_within(self.since, timeout)
            && is_within(self.stream.connected_at(), MAX_AGE)
            && self.stream.is_idle()
            && (is_within(self.since, PROBE_AFTER) || self.stream.is_socket_idle())
    }
}

impl OriginPool {
    /// Drops unusable connections, and says whether any are left.
    fn sweep(&mut self, timeout: Duration) -> bool {
        self.idle.retain_mut(|idle| idle.is_usable(timeout));
        let is_usable = |open: &mut http2::Connection| open.is_usable(timeout, MAX_AGE);
        self.http2.retain_mut(is_usable);
        !self.idle.is_empty() || !self.http2.is_empty()
    }
}

impl Pool {
    pub(crate) fn new(connector: Arc<Connector>, limits: Limits) -> Self {
        Self {
            connector,
            limits,
            state: Mutex::default(),
        }
    }

    /// An empty pool with the same connector and limits.
    pub(crate) fn separate(&self) -> Self {
        Self::new(self.connector.clone(), self.limits)
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A connection for one request: with HTTP/2 the oldest that takes one more, so that newer ones
    /// become idle; with HTTP/1.1 the one that was used last.
    pub(crate) fn take(&self, origin: &Origin, versions: Versions) -> Option<Open> {
        if versions == Versions::Any
            && let Some(permit) = self.reserve(origin)
        {
            return Some(Open::Http2(permit));
        }
        loop {
            let mut idle = self.lock().origin(origin)?.idle.pop()?;
            if idle.is_usable(self.limits.idle_timeout) {
                return Some(Open::Http1(idle.stream));
            }
        }
    }

    fn reserve(&self, origin: &Origin) -> Option<http2::StreamPermit> {
        let mut state = self.lock();
        let mut connections = state.origin(origin)?.http2.iter();
        connections.find_map(|connection| connection.reserve(MAX_AGE))
    }

    /// Takes a new connection for one request, and shares it where it carries more than one. `None`
    /// where it is closed already.
    pub(crate) fn admit(self: &Arc<Self>, origin: &Origin, connected: Connected) -> Option<Open> {
        match connected {
            Connected::Http1(stream) => Some(Open::Http1(stream)),
            Connected::Http2(connection) => {
                let permit = connection.reserve(MAX_AGE);
                self.add(origin, |pool| pool.http2.push(connection));
                permit.map(Open::Http2)
            }
        }
    }

    /// Keeps an idle connection.
    pub(crate) fn put(self: &Arc<Self>, origin: &Origin, stream: Stream) {
        let since = Instant::now();
        self.add(origin, |pool| {
            if pool.idle.len() < self.limits.max_idle_per_origin {
                pool.idle.push(Idle { stream, since });
            }
        });
    }

    fn add(self: &Arc<Self>, origin: &Origin, add: impl FnOnce(&mut OriginPool)) {
        let mut state = self.lock();
        match state.origin(origin) {
            Some(pool) => add(pool),
            None => {
                let mut pool = OriginPool::default();
                add(&mut pool);
                state.origins.push((origin.clone(), pool));
            }
        }
        if !std::mem::replace(&mut state.is_swept, true) {
            drop(state);
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn origin(&mut self, origin: &Origin) -> Option<&mut OriginPool> {
        let mut origins = self.origins.iter_mut();
        Some(&mut origins.find(|(other, _)| other == origin)?.1)
    }
}

/// Drops unusable connections as long as there are connections.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        let timeout = pool.limits.idle_timeout;
        let mut state = pool.lock();
        state.origins.retain_mut(|(_, pool)| pool.sweep(timeout));
        if state.origins.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}
