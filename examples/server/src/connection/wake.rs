//! One poll of the connection less for each request with a body.
//!
//! When a chunk of a request's body is taken out of hyper's channel, the channel wakes the task that
//! fills it: the connection's, which is being polled, and so is polled again. Behind the last chunk
//! there is nothing to fill in, and that poll is for nothing.

use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

thread_local! {
    /// What the wakers of connections do on this thread.
    static MODE: Cell<Mode> = const { Cell::new(Mode::Wake) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They wake their tasks.
    Wake,
    /// They wait for what a body has to give.
    Hold,
    /// One has been held.
    Held,
}

/// The waker of a connection's task, as hyper gets it.
#[derive(Default)]
pub(super) struct ConnectionWaker(Option<(Waker, Waker)>);

impl ConnectionWaker {
    pub(super) fn of(&mut self, task: &Waker) -> &Waker {
        let is_current = |(known, _): &(Waker, Waker)| known.will_wake(task);
        if !self.0.as_ref().is_some_and(is_current) {
            self.0 = None;
        }
        let make = || {
            let waker = Waker::from(Arc::new(Held(task.clone())));
            (task.clone(), waker)
        };
        let (_, waker) = self.0.get_or_insert_with(make);
        waker
    }
}

struct Held(Waker);

impl Wake for Held {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match MODE.get() {
            Mode::Wake => self.0.wake_by_ref(),
            Mode::Hold | Mode::Held => MODE.set(Mode::Held),
        }
    }
}

/// A request's body that doesn't wake its connection behind its last chunk.
pub(crate) struct RequestBody(Incoming);

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self(body)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        MODE.set(Mode::Hold);
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        let is_held = MODE.replace(Mode::Wake) == Mode::Held;
        // Of a body with a length, hyper's side of the channel has gone with the last chunk.
        let is_last = self.0.is_end_stream() && matches!(frame, Poll::Ready(Some(Ok(_))));
        if is_held && !is_last {
            cx.waker().wake_by_ref();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    async fn echo(request: Request<Incoming>) -> Result<Response<String>, hyper::Error> {
        let body = RequestBody::from(request.into_body()).collect().await?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Response::new(body))
    }

    /// Sends these parts to a connection that is polled once behind each. Gives how often each poll
    /// has woken the connection's task, and what was answered.
    async fn wakes(parts: &[&str]) -> (Vec<usize>, String) {
        let (mut client, server) = duplex(4096);
        let connection = http1::Builder::new()
            .auto_date_header(false)
            .serve_connection(TokioIo::new(server), service_fn(echo));
        let mut connection = pin!(connection);
        let count = Arc::new(Count::default());
        let task = Waker::from(count.clone());
        let mut waker = ConnectionWaker::default();
        let mut wakes = Vec::new();
        for part in parts {
            client.write_all(part.as_bytes()).await.expect("room");
            count.0.store(0, Relaxed);
            let mut cx = Context::from_waker(waker.of(&task));
            assert!(connection.as_mut().poll(&mut cx).is_pending());
            wakes.push(count.0.load(Relaxed));
        }
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await.expect("an answer");
        (
            wakes,
            String::from_utf8_lossy(&answer[..length]).into_owned(),
        )
    }

    #[tokio::test]
    async fn the_last_chunk_of_a_body_wakes_nobody() {
        let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
        let (wakes, answer) = wakes(&[request]).await;
        assert_eq!(wakes, [0]);
        assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
    }

    #[tokio::test]
    async fn another_one_wakes_the_connection_to_read_on() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nhi";
        let (wakes, answer) = wakes(&[head, "ho"]).await;
        // hyper's own wake-up, which isn't lost; and the duplex's, upon the second part.
        assert_eq!(wakes[0], 1);
        assert!(answer.ends_with("\r\n\r\nhiho"), "{answer}");

        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
        let (wakes, answer) = self::wakes(&[head, "0\r\n\r\n"]).await;
        assert_eq!(wakes[0], 1);
        assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
    }
}
