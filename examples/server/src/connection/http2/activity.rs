use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use hyper::rt::Executor;

/// What the parts of a connection know of each other. All of them are on one thread.
///
/// It runs the exchanges for hyper, each in a task of its own, and so counts them.
#[derive(Clone, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Default)]
struct State {
    exchanges: AtomicUsize,
    has_written: AtomicBool,
}

impl Activity {
    /// Whether an exchange is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.0.exchanges.load(Relaxed) > 0
    }

    /// Something was written to the client.
    pub(super) fn wrote(&self) {
        self.0.has_written.store(true, Relaxed);
    }

    /// Whether something was written since this was last asked.
    pub(super) fn has_written(&self) -> bool {
        self.0.has_written.swap(false, Relaxed)
    }
}

impl<F> Executor<F> for Activity
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, exchange: F) {
        let running = Running::new(self);
        tokio::spawn(async move {
            exchange.await;
            // The end of the exchange has woken the connection, which comes to see this next.
            drop(running);
        });
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
