//! The limit on a whole exchange, once its response has begun.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::error::{Error, Kind};

/// A body that is dropped when its time is over, and with it the backend's connection.
///
/// A task of its own sees to that: nobody asks for a body whose client doesn't read.
pub(super) struct TotalBody<B> {
    shared: Arc<Mutex<Shared<B>>>,
    deadline: Instant,
    watch: JoinHandle<()>,
}

struct Shared<B> {
    /// None when the time was over.
    body: Option<Pin<Box<B>>>,
    reader: Option<Waker>,
}

impl<B> TotalBody<B>
where
    B: Body + Send + 'static,
{
    pub(super) fn new(body: B, deadline: Instant) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            body: Some(Box::pin(body)),
            reader: None,
        }));
        let watched = shared.clone();
        let watch = tokio::spawn(async move {
            sleep_until(deadline).await;
            let mut shared = lock(&watched);
            shared.expire();
            if let Some(reader) = shared.reader.take() {
                reader.wake();
            }
        });
        Self {
            shared,
            deadline,
            watch,
        }
    }
}

impl<B: Body> Shared<B> {
    fn is_end(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_end_stream())
    }

    /// Lets the body go, unless all of it has been read in time.
    fn expire(&mut self) {
        if !self.is_end() {
            self.body = None;
        }
    }
}

fn lock<B>(shared: &Mutex<Shared<B>>) -> MutexGuard<'_, Shared<B>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Body for TotalBody<B>
where
    B: Body<Data = Bytes, Error = Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut shared = lock(&self.shared);
        // The task may not have come to it yet.
        if Instant::now() >= self.deadline {
            shared.expire();
        }
        let Some(body) = &mut shared.body else {
            return Poll::Ready(Some(Err(Error::new(Kind::TotalTimeout))));
        };
        let frame = body.as_mut().poll_frame(cx);
        if frame.is_pending() {
            shared.reader = Some(cx.waker().clone());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.shared).is_end()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        shared
            .body
            .as_ref()
            .map(|body| body.size_hint())
            .unwrap_or_default()
    }
}

impl<B> Drop for TotalBody<B> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
