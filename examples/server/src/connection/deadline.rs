//! The time by which an exchange must have ended, with the client too: hyper asks for no more of a
//! response's body while its client doesn't read, so the body can't see to that by itself.

use std::{cell::Cell, future::poll_fn, pin::pin, task::Poll};

use http::Response;
use tokio::{task_local, time::Instant};
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
pub(super) async fn enforce<F: Future>(serving: F) -> Option<F::Output> {
    let mut serving = pin!(serving);
    let mut timer = Timer::default();
    let enforced = poll_fn(|cx| {
        if let Poll::Ready(output) = serving.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Some(deadline) = DEADLINE.with(Cell::get) else {
            return Poll::Pending;
        };
        timer.poll(deadline, cx).map(|()| None)
    });
    DEADLINE.scope(Cell::new(None), enforced).await
}
