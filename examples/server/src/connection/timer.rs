//! A timer of the runtime for deadlines that hardly ever pass.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Is left alone until it fires, and only then set to the deadline of the day. It is polled when it
/// has fired, or for another task.
#[derive(Default)]
pub(super) struct Timer(Option<Set>);

struct Set {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Waker,
}

impl Timer {
    /// Ready once the deadline has passed.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let Set { sleep, waker } = self.0.get_or_insert_with(|| Set {
            sleep: Box::pin(sleep_until(deadline)),
            waker: Waker::noop().clone(),
        });
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if !sleep.is_elapsed() && waker.will_wake(cx.waker()) {
            return Poll::Pending;
        }
        waker.clone_from(cx.waker());
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker, time::Duration};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn deadlines_that_move_either_way_are_kept() {
        let mut timer = Timer::default();
        let begun = Instant::now();
        for periods in [3, 5, 1] {
            let deadline = begun + periods * PERIOD;
            let mut cx = Context::from_waker(Waker::noop());
            assert!(timer.poll(deadline, &mut cx).is_pending());
        }
        for periods in [1, 4, 6] {
            let deadline = begun + periods * PERIOD;
            poll_fn(|cx| timer.poll(deadline, cx)).await;
            assert_eq!(Instant::now(), deadline);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_is_woken_in_its_turn() {
        let mut timer = Timer::default();
        let deadline = Instant::now() + PERIOD;
        let first = poll_fn(|cx| {
            assert!(timer.poll(deadline, cx).is_pending());
            Poll::Ready(())
        });
        first.await;

        let second = tokio::spawn(async move { poll_fn(|cx| timer.poll(deadline, cx)).await });

        second.await.unwrap();
        assert_eq!(Instant::now(), deadline);
    }
}
