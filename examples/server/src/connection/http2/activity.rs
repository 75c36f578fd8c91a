//! What is in flight on a connection.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;

use super::deadline::{self, Enforced};

/// What the parts of a connection know of each other. All of them are on one thread.
///
/// As hyper's executor it runs each exchange in a separate task, and so counts them.
#[derive(Clone, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Default)]
struct State {
    exchanges: AtomicUsize,
    writes: AtomicUsize,
    is_blocked: AtomicBool,
    /// The exchanges that wait for the next write.
    waiting: Mutex<Vec<Waker>>,
}

impl Activity {
    /// Whether an exchange is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.0.exchanges.load(Relaxed) > 0
    }

    /// A write to the client, which was taken or is pending.
    pub(super) fn write<T>(&self, written: &Poll<T>) {
        self.0.is_blocked.store(written.is_pending(), Relaxed);
        if written.is_ready() {
            self.0.writes.fetch_add(1, Relaxed);
            let mut waiting = self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// How often something was written to the client.
    pub(super) fn writes(&self) -> usize {
        self.0.writes.load(Relaxed)
    }

    /// Whether the client takes no more for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.is_blocked.load(Relaxed)
    }

    /// Wakes an exchange after the next write.
    pub(super) fn wake_after_write(&self, waker: &Waker) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

impl<F> Executor<F> for Activity
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, exchange: F) {
        tokio::spawn(Exchange {
            serving: deadline::enforce(exchange),
            _running: Running::new(self),
        });
    }
}

pin_project! {
    /// The task of an exchange. (An `async` block would have its future twice.)
    struct Exchange<F> {
        // Dropped too late, it is reset.
        #[pin]
        serving: Enforced<F>,
        // The end of the exchange has woken the connection, which comes to see this next.
        _running: Running,
    }
}

impl<F: Future<Output = ()>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let served = ready!(self.project().serving.poll(cx));
        if served.is_none() {
            tracing::debug!("the client did not read its response in time");
        }
        Poll::Ready(())
    }
}

/// An exchange in flight.
struct Running(Activity);

impl Running {
    fn new(activity: &Activity) -> Self {
        activity.0.exchanges.fetch_add(1, Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.exchanges.fetch_sub(1, Relaxed);
    }
}
