//! Clocks that cost little while they don't fire.

use std::{
    cell::RefCell,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::{self, Handle},
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

/// A timer of the runtime that is set at the first use and moved only when it fires too early.
#[derive(Default)]
pub(crate) struct Timer(Option<Armed>);

struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Of the task that it wakes; none while it isn't set.
    waker: Option<Waker>,
    /// Whose timer it is: another one mustn't poll it.
    runtime: runtime::Id,
}

thread_local! {
    /// Timers that have no use any more, set as they were: to take one of them costs a fraction of
    /// making one, and removing it again, for each exchange. One that fires wakes a task in vain.
    static SPARE: RefCell<Vec<Armed>> = const { RefCell::new(Vec::new()) };
}

/// The most timers that a thread keeps, as each also keeps the memory of the task that it wakes.
const MAX_SPARE: usize = 16;

impl Timer {
    /// Ready when the deadline is over.
    pub(crate) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let armed = self.0.get_or_insert_with(|| Armed::new(deadline));
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

impl Drop for Timer {
    fn drop(&mut self) {
        let mut armed = self.0.take();
        if armed.is_some() {
            // Not at the end of the thread.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MAX_SPARE {
                    spare.extend(armed.take());
                }
            });
        }
    }
}

impl Armed {
    /// A spare one or else a new one, which fires at the deadline.
    fn new(deadline: Instant) -> Self {
        let runtime = Handle::current().id();
        while let Some(spare) = SPARE.with_borrow_mut(Vec::pop) {
            if spare.runtime == runtime {
                return spare;
            }
        }
        Self {
            sleep: Box::pin(sleep_until(deadline)),
            waker: None,
            runtime,
        }
    }

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
