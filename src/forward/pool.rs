//! Connections to backends that can be used again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::connect::{Connector, Stream};
#[cfg(feature = "http2")]
use super::http2;
use crate::backend::Origin;

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often those that were idle for too long, or that the backend has closed, are let go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Most idle connections to one origin.
const MAX_IDLE: usize = 512;

/// From here on the socket itself is asked whether the backend has closed the connection: the
/// runtime may not have heard of it yet.
const LOOK_AFTER: Duration = Duration::from_micros(100);

/// The connections of one [`Forward`](super::Forward) and its clones: the idle ones, and those that
/// take more than one request at a time.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There are few origins.
    origins: Vec<(Origin, Kept)>,
    is_swept: bool,
}

/// The connections to one origin.
#[derive(Default)]
struct Kept {
    idle: Vec<Idle>,
    /// The oldest first.
    #[cfg(feature = "http2")]
    http2: Vec<http2::Connection>,
}

struct Idle {
    stream: Stream,
    since: Instant,
}

impl Idle {
    fn is_usable(&mut self) -> bool {
        let idle = self.since.elapsed();
        idle < IDLE_TIMEOUT
            && self.stream.is_silent()
            && (idle < LOOK_AFTER || self.stream.socket_is_silent())
    }
}

impl Kept {
    /// Lets go what isn't usable, and says whether anything is left.
    fn sweep(&mut self) -> bool {
        self.idle.retain_mut(Idle::is_usable);
        #[cfg(feature = "http2")]
        {
            self.http2.retain_mut(|open| open.is_usable(IDLE_TIMEOUT));
            !self.idle.is_empty() || !self.http2.is_empty()
        }
        #[cfg(not(feature = "http2"))]
        !self.idle.is_empty()
    }
}

impl Pool {
    pub(crate) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            state: Mutex::default(),
        }
    }

    /// What makes new connections.
    pub(crate) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// The connection that was used last of those that still work.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Stream> {
        loop {
            let mut idle = self.lock().kept(origin)?.idle.pop()?;
            if idle.is_usable() {
                return Some(idle.stream);
            }
        }
    }

    pub(crate) fn put(self: &Arc<Self>, origin: &Origin, stream: Stream) {
        let since = Instant::now();
        self.keep(origin, |kept| {
            if kept.idle.len() < MAX_IDLE {
                kept.idle.push(Idle { stream, since });
            }
        });
    }

    /// A place for a stream on the oldest connection that has one, so that others can fall idle.
    #[cfg(feature = "http2")]
    pub(crate) fn reserve(&self, origin: &Origin) -> Option<http2::Reserved> {
        let mut state = self.lock();
        state
            .kept(origin)?
            .http2
            .iter()
            .find_map(http2::Connection::reserve)
    }

    /// Shares a connection, and gives the first place on it.
    #[cfg(feature = "http2")]
    pub(crate) fn share(
        self: &Arc<Self>,
        origin: &Origin,
        connection: http2::Connection,
    ) -> Option<http2::Reserved> {
        let reserved = connection.reserve();
        self.keep(origin, |kept| kept.http2.push(connection));
        reserved
    }

    fn keep(self: &Arc<Self>, origin: &Origin, add: impl FnOnce(&mut Kept)) {
        let mut state = self.lock();
        match state.kept(origin) {
            Some(kept) => add(kept),
            None => {
                let mut kept = Kept::default();
                add(&mut kept);
                state.origins.push((origin.clone(), kept));
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
    fn kept(&mut self, origin: &Origin) -> Option<&mut Kept> {
        let mut origins = self.origins.iter_mut();
        Some(&mut origins.find(|(other, _)| other == origin)?.1)
    }
}

/// Lets connections go as long as there are any, and ends with the last one.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        state.origins.retain_mut(|(_, kept)| kept.sweep());
        if state.origins.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}
