//! Requests that wait until a backend that is full has a place.
//!
//! Each backend has a queue; a request is in those of all its candidates. A place that becomes free
//! is handed to the first of its backend's queue, so nobody who comes later can take it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::{Backend, InFlight};

/// How many requests may wait in the process.
const MAX_WAITING: usize = 1024;

/// How many do.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Those that wait for a backend, in order of arrival.
#[derive(Default)]
pub(super) struct Queue {
    length: AtomicUsize,
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
}

struct Waiter {
    backends: Vec<Backend>,
    place: Mutex<Place>,
}

enum Place {
    Awaited(Option<Waker>),
    Given(InFlight),
    /// Nobody waits any more.
    Left,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    pub(super) fn is_waited_for(&self) -> bool {
        self.0.shared.queue.length.load(SeqCst) > 0
    }

    /// Hands free places to those that wait.
    pub(super) fn hand_over(&self) {
        let queue = &self.0.shared.queue;
        while self.is_waited_for() {
            let mut waiters = lock(&queue.waiters);
            // By the limit of the configuration that the first one came with.
            let place = waiters.front().and_then(|first| {
                let mut backends = first.backends.iter();
                let same = |it: &&Self| Arc::ptr_eq(&it.0.shared, &self.0.shared);
                backends.find(same)?.take_place()
            });
            let Some(place) = place else { return };
            let Some(first) = waiters.pop_front() else {
                return;
            };
            queue.length.fetch_sub(1, SeqCst);
            drop(waiters);
            // One that has left gives it back.
            first.give(place);
        }
    }
}

impl Waiter {
    fn give(&self, given: InFlight) {
        let mut place = lock(&self.place);
        if let Place::Awaited(waker) = &mut *place {
            let waker = waker.take();
            *place = Place::Given(given);
            drop(place);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Waits for a place at one of several backends.
pub(crate) struct Wait {
    waiter: Arc<Waiter>,
    timer: Pin<Box<Sleep>>,
}

impl Wait {
    /// `None` where nothing is waited for, or too many wait.
    pub(crate) fn new(backends: Vec<Backend>, period: Duration) -> Option<Self> {
        if period.is_zero() {
            return None;
        }
        if WAITING.fetch_add(1, SeqCst) >= MAX_WAITING {
            WAITING.fetch_sub(1, SeqCst);
            return None;
        }
        let waiter = Arc::new(Waiter {
            backends,
            place: Mutex::new(Place::Awaited(None)),
        });
        let wait = Self {
            waiter: waiter.clone(),
            timer: Box::pin(sleep(period)),
        };
        for backend in &waiter.backends {
            let queue = &backend.0.shared.queue;
            lock(&queue.waiters).push_back(waiter.clone());
            queue.length.fetch_add(1, SeqCst);
        }
        // One may have become free meanwhile.
        waiter.backends.iter().for_each(Backend::hand_over);
        Some(wait)
    }
}

impl Future for Wait {
    /// `None` when the time is over.
    type Output = Option<InFlight>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<InFlight>> {
        let is_over = self.timer.as_mut().poll(cx).is_ready();
        let mut place = lock(&self.waiter.place);
        match &mut *place {
            Place::Awaited(waker) if !is_over => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => match std::mem::replace(&mut *place, Place::Left) {
                Place::Given(given) => Poll::Ready(Some(given)),
                Place::Awaited(_) | Place::Left => Poll::Ready(None),
            },
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let unused = std::mem::replace(&mut *lock(&self.waiter.place), Place::Left);
        for backend in &self.waiter.backends {
            let queue = &backend.0.shared.queue;
            let mut waiters = lock(&queue.waiters);
            let position = waiters.iter().position(|it| Arc::ptr_eq(it, &self.waiter));
            if let Some(position) = position {
                waiters.remove(position);
                queue.length.fetch_sub(1, SeqCst);
            }
        }
        WAITING.fetch_sub(1, SeqCst);
        // Not before: the next one gets it.
        drop(unused);
    }
}
