//! The clock of the response-header timeout.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::{LONGEST, Timer},
    exchange,
};

/// Runs from the last chunk of the request that was sent, until the response headers.
///
/// The stages below only leave a mark. The time is taken at the next poll: at once, where the task
/// that reads the body polls the exchange, else after a period at the latest.
pub(super) struct HeadClock {
    period: Duration,
    exchange: exchange::Handle,
    deadline: Option<Instant>,
    timer: Timer,
}

impl HeadClock {
    pub(super) fn new(period: Duration, exchange: exchange::Handle) -> Self {
        Self {
            period: period.min(LONGEST),
            exchange,
            deadline: None,
            timer: Timer::default(),
        }
    }

    /// To be polled while there are no response headers; ready when that has lasted too long.
    pub(super) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_active = self.exchange.take_activity();
        let deadline = match self.deadline {
            Some(deadline) if !is_active => deadline,
            _ => Instant::now() + self.period,
        };
        self.deadline = Some(deadline);
        self.timer.poll(deadline, cx)
    }
}
