//! Measures silence: how long a body has been pending.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Runs only while a body that is polled has nothing to give. A slow reader doesn't poll, so its
/// pauses are nobody's silence.
///
/// The timer is made at the first silence and left alone from then on: when it fires, a look at
/// when the silence began tells whether it was too long.
pub(crate) struct IdleClock {
    period: Duration,
    silent_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleClock {
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            silent_since: None,
            timer: None,
        }
    }

    /// To be told of every piece.
    pub(crate) fn moved(&mut self) {
        self.silent_since = None;
    }

    /// To be polled where there is no piece; ready when that has lasted too long.
    pub(crate) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.silent_since.get_or_insert_with(Instant::now) + self.period;
        poll_deadline(&mut self.timer, deadline, cx)
    }
}

/// Polls a timer that is made at the first use and moved only when it fires too early.
pub(super) fn poll_deadline(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if timer.deadline() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
    Poll::Pending
}
