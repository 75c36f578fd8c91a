//! The time by which an exchange must have ended, with the client too: hyper asks for no more of a
//! response's body while its client doesn't read, so the body can't see to that by itself.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;
use tokio::{task::futures::TaskLocalFuture, task_local, time::Instant};
use tower_openai_proxy::timeout::EndsAt;

use super::timer::Timer;

task_local! {
    static DEADLINE: Cell<Option<Instant>>;
}

/// What this task serves from now on has the deadline of this response.
pub(super) fn begin<B>(response: &Response<B>) {
    let deadline = response.extensions().get::<EndsAt>();
    set(deadline.map(|deadline| deadline.0));
}

/// The exchange has ended in time.
pub(super) fn end() {
    set(None);
}

fn set(deadline: Option<Instant>) {
    // Where there is no scope, nothing is enforced.
    let _ = DEADLINE.try_with(|current| current.set(deadline));
}

/// Serves one exchange, or one after the other. None if one hasn't ended in time.
pub(super) fn enforce<F: Future>(serving: F) -> Enforced<F> {
    let watched = Watched {
        serving,
        timer: Timer::default(),
    };
    DEADLINE.scope(Cell::new(None), watched)
}

/// What serves until a deadline has passed.
pub(super) type Enforced<F> = TaskLocalFuture<Cell<Option<Instant>>, Watched<F>>;

pin_project! {
    /// What serves, and the timer for its deadlines. (The future of an `async fn` has its argument
    /// twice.)
    pub(super) struct Watched<F> {
        #[pin]
        serving: F,
        timer: Timer,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.serving.poll(cx) {
            return Poll::Ready(Some(output));
        }
        match DEADLINE.with(Cell::get) {
            Some(deadline) => this.timer.poll(deadline, cx).map(|()| None),
            None => Poll::Pending,
        }
    }
}
