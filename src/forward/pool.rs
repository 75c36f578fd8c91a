//! Idle connections to backends.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::connect::Stream;
use crate::backend::Origin;

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often those that were idle for too long, or that the backend has closed, are let go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Most idle connections to one origin.
const MAX_IDLE: usize = 512;

/// From here on the socket itself is asked whether the backend has closed the connection: the
/// runtime may not have heard of it yet.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The idle connections of one [`Forward`](super::Forward) and its clones.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There are few origins.
    origins: Vec<(Origin, Vec<Idle>)>,
    is_swept: bool,
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

impl Pool {
    /// The connection that was used last of those that still work.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Stream> {
        loop {
            let mut idle = self.lock().idle(origin)?.pop()?;
            if idle.is_usable() {
                return Some(idle.stream);
            }
        }
    }

    pub(crate) fn put(self: &Arc<Self>, origin: &Origin, stream: Stream) {
        let mut state = self.lock();
        let since = Instant::now();
        match state.idle(origin) {
            Some(idle) if idle.len() < MAX_IDLE => idle.push(Idle { stream, since }),
            Some(_) => {}
            None => {
                let idle = vec![Idle { stream, since }];
                state.origins.push((origin.clone(), idle));
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
    fn idle(&mut self, origin: &Origin) -> Option<&mut Vec<Idle>> {
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
        for (_, idle) in &mut state.origins {
            idle.retain_mut(Idle::is_usable);
        }
        state.origins.retain(|(_, idle)| !idle.is_empty());
        if state.origins.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}
