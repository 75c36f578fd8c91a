//! Requests at a given rate, whether or not the last ones have been answered.

use std::{thread, time::Duration};

use compare_load::monotonic_ns;
use tokio::sync::{
    Mutex,
    mpsc::{UnboundedReceiver, unbounded_channel},
};

/// When the next request is due: at once, until a rate is set.
#[derive(Default)]
pub struct Pace {
    due: Mutex<Option<UnboundedReceiver<u64>>>,
}

impl Pace {
    /// Waits until a request is due, and says since when, if by the rate.
    pub async fn next(&self) -> Option<u64> {
        self.due.lock().await.as_mut()?.recv().await
    }

    /// From now on, requests a second: by a thread, as the runtime's timers would send a heap of
    /// them each millisecond.
    pub async fn set(&self, rate: f64) {
        let (sender, receiver) = unbounded_channel();
        *self.due.lock().await = Some(receiver);
        thread::spawn(move || {
            let start = monotonic_ns();
            for number in 0.. {
                let due = start + (f64::from(number) * 1e9 / rate) as u64;
                let early = Duration::from_nanos(due.saturating_sub(monotonic_ns()));
                if !early.is_zero() {
                    thread::sleep(early);
                }
                if sender.send(due).is_err() {
                    return;
                }
            }
        });
    }
}
