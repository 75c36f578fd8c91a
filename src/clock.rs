//! Clocks that cost little while they don't fire.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// The longest period of any clock: an [`Instant`] plus [`Duration::MAX`] would overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Runs only while a body that is polled has nothing to give. A slow reader doesn't poll, so its
/// pauses don't count.
///
/// The timer is made when the body is first idle and left alone from then on: when it fires, the
/// start of the idle time tells whether that was too long.
pub(crate) struct IdleClock {
    period: Duration,
    idle_since: Option<Instant>,
    timer: Timer,
}

impl IdleClock {
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period: period.min(LONGEST),
            idle_since: None,
            timer: Timer::default(),
        }
    }

    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    /// To be told of every frame.
    pub(crate) fn reset(&mut self) {
        self.idle_since = None;
    }

    /// To be polled where there is no frame; ready when that has lasted too long.
    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.idle_since.get_or_insert_with(Instant::now) + self.period;
        self.timer.poll(deadline, cx)
    }
}

/// A timer of the runtime that is made at the first use and moved only when it fires too early.
#[derive(Default)]
pub(crate) struct Timer(Option<Armed>);

struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Of the task that it wakes; none while it isn't set.
    waker: Option<Waker>,
}

impl Timer {
    /// Ready when the deadline is over.
    pub(crate) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let armed = self.0.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep_until(deadline)),
            waker: None,
        });
        if armed.sleep.deadline() > deadline {
            armed.reset(deadline);
        }
        while !armed.is_set(cx.waker()) {
            // A task that has used up its budget isn't kept from setting it.
            let mut sleep = pin!(unconstrained(&mut armed.sleep));
            if sleep.as_mut().poll(cx).is_pending() {
                armed.waker = Some(cx.waker().clone());
            } else if armed.sleep.deadline() >= deadline {
                return Poll::Ready(());
            } else {
                armed.reset(deadline);
            }
        }
        Poll::Pending
    }
}

impl Armed {
    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.waker = None;
    }

    /// Whether it will wake this task: most polls find it as the last one left it.
    fn is_set(&self, waker: &Waker) -> bool {
        let is_its = |set: &Waker| set.will_wake(waker);
        self.waker.as_ref().is_some_and(is_its) && !self.sleep.is_elapsed()
    }
}
