//! The clocks of an exchange: how long the response's head is waited for, and how long a body has
//! been silent.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Runs from the last piece of the request that was passed on, until the response's head.
///
/// What the stages below do only leaves a mark. The time is taken when the exchange is next looked
/// at: at once, where its body is read by the same task, else after a period at the latest.
pub(super) struct HeadClock {
    period: Duration,
    progress: Arc<Progress>,
    deadline: Option<Instant>,
    timer: Timer,
}

impl HeadClock {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            progress: Arc::new(Progress(AtomicU8::new(STILL))),
            deadline: None,
            timer: Timer::default(),
        }
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// To be polled while there is no head; ready when that has lasted too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let moves = self.progress.moves();
        let deadline = match self.deadline {
            Some(deadline) if !moves => deadline,
            _ => Instant::now() + self.period,
        };
        self.deadline = Some(deadline);
        self.timer.poll(deadline, cx)
    }
}

/// How far a request has been passed on: what the head clock goes by.
pub(crate) struct Progress(AtomicU8);

const STILL: u8 = 0;
const MOVED: u8 = 1;
const HELD_UP: u8 = 2;

impl Progress {
    /// The request has come further, or is held up by something other than the backend's answer.
    pub(crate) fn note(&self, is_held_up: bool) {
        let state = if is_held_up { HELD_UP } else { MOVED };
        self.0.store(state, Ordering::Relaxed);
    }

    /// Whether it has come further since the last look, or may do so without the backend.
    fn moves(&self) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        if state == MOVED {
            // Unless something was noted just now, on another task.
            let relaxed = Ordering::Relaxed;
            let _ = self.0.compare_exchange(MOVED, STILL, relaxed, relaxed);
        }
        state != STILL
    }
}

/// Runs only while a body that is polled has nothing to give. A slow reader doesn't poll, so its
/// pauses are nobody's silence.
///
/// The timer is made at the first silence and left alone from then on: when it fires, a look at
/// when the silence began tells whether it was too long.
pub(crate) struct IdleClock {
    period: Duration,
    silent_since: Option<Instant>,
    timer: Timer,
}

impl IdleClock {
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            silent_since: None,
            timer: Timer::default(),
        }
    }

    /// To be told of every piece.
    pub(crate) fn moved(&mut self) {
        self.silent_since = None;
    }

    /// To be polled where there is no piece; ready when that has lasted too long.
    pub(crate) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.silent_since.get_or_insert_with(Instant::now) + self.period;
        self.timer.poll(deadline, cx)
    }
}

/// A timer of the runtime that is made at the first use and moved only when it fires too early.
#[derive(Default)]
pub(super) struct Timer(Option<Armed>);

struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Of the task that it wakes; none while it isn't set.
    waker: Option<Waker>,
}

impl Timer {
    /// Ready when the deadline is over.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
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
