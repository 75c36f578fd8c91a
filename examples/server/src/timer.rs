use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt;
use tokio::time::{Sleep, sleep_until};

/// The timer of one connection, for clocks that are set for every request and hardly ever run out.
///
/// hyper makes a clock for each request's head. All clocks of a connection use one timer of the
/// runtime: it is left alone until it fires, and only then set to the deadline of the day.
#[derive(Clone, Default)]
pub(crate) struct ConnectionTimer(Arc<Mutex<Option<Pin<Box<Sleep>>>>>);

impl rt::Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Clock {
            timer: self.clone(),
            deadline: deadline.into(),
        })
    }

    /// The runtime's time, which a test may have paused.
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

struct Clock {
    timer: ConnectionTimer,
    deadline: tokio::time::Instant,
}

impl rt::Sleep for Clock {}

impl Future for Clock {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let mut timer = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
