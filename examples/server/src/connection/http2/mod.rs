//! HTTP/2 with clients: its limits, and the end of connections that are idle.

mod activity;
mod head;
mod join;

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt,
    server::conn::http2,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};
use tower::BoxError;

use self::{activity::Activity, head::HeadTimeout, join::Joined};
use super::{CLOSE_TIMEOUT, Connection, HEAD_TIMEOUT, MAX_HEAD_BYTES, RequestBody, deadline};

/// What opens a connection (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections on which nothing happens are probed this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to a probe may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Concurrent exchanges on one connection; clients queue the others, or connect again.
const MAX_STREAMS: u32 = 200;

/// What is buffered of an upload that its backend doesn't take: the bound on memory for an exchange.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all uploads of a connection: any number of stalled ones never stops the others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// What is buffered of a response that the client doesn't take.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Streams that a client has reset before they were looked at, and those reset for its mistakes.
/// With more of them the connection is closed, as they come from an attack ("rapid reset").
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 1024;

/// Serves a connection of HTTP/2 over this stream.
pub(super) fn connection<T, A, F, B>(
    stream: T,
    answer: A,
    keep_alive: Duration,
) -> impl Connection + use<T, A, F, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<RequestBody>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let activity = Activity::default();
    let service = {
        let activity = activity.clone();
        service_fn(move |request: Request<Incoming>| {
            let answer = answer(request.map(RequestBody::from));
            let activity = activity.clone();
            async {
                let response = answer.await?;
                deadline::begin(&response);
                Ok::<_, Infallible>(response.map(|body| Joined::new(body, activity)))
            }
        })
    };
    let stream = TokioIo::new(HeadTimeout::new(stream, HEAD_TIMEOUT, activity.clone()));
    let connection = http2::Builder::new(activity.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .serve_connection(stream, service);
    Http2 {
        // In a box, so that the task has no room for it where it isn't needed.
        connection: Box::pin(connection),
        activity,
        keep_alive,
        idle_since: None,
        closing: None,
        clock: None,
    }
}

/// A connection that ends when it has been idle for long. Its client may answer pings for ever, and
/// need not answer the one that hyper ends it with.
struct Http2<T, S: HttpService<Incoming>> {
    connection: Pin<Box<http2::Connection<T, S, Activity>>>,
    activity: Activity,
    keep_alive: Duration,
    /// Since when no exchange has been in flight.
    idle_since: Option<Instant>,
    closing: Option<Closing>,
    clock: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy)]
struct Closing {
    since: Instant,
    /// When something was last written, such as the rest of a response, and how often by then.
    written: Instant,
    writes: usize,
}

impl<T, S, B, F> Connection for Http2<T, S>
where
    T: rt::Read + rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = B, Future = F>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    F: Future<Output = Result<Response<B>, S::Error>> + Send + 'static,
    S::Error: Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        loop {
            if let Poll::Ready(result) = self.connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if self.activity.is_busy() {
                self.idle_since = None;
                return Poll::Pending;
            }
            let now = Instant::now();
            let deadline = self.deadline(now);
            let clock = self
                .clock
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if clock.deadline() != deadline {
                clock.as_mut().reset(deadline);
            }
            // A flood uses up what the runtime allows a task at a time, and the clock is never ready.
            if now < deadline {
                ready!(clock.as_mut().poll(cx));
            }
            if self.closing.is_some() {
                return Poll::Ready(Ok(()));
            }
            self.shut_down();
        }
    }

    fn shut_down(&mut self) {
        if self.closing.is_none() {
            let now = Instant::now();
            self.closing = Some(Closing {
                since: now,
                written: now,
                writes: self.activity.writes(),
            });
            self.connection.as_mut().graceful_shutdown();
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    fn is_closing(&self) -> bool {
        false
    }
}

impl<T, S: HttpService<Incoming>> Http2<T, S> {
    /// When a connection without exchanges ends.
    fn deadline(&mut self, now: Instant) -> Instant {
        let idle_since = *self.idle_since.get_or_insert(now);
        let Some(closing) = &mut self.closing else {
            return idle_since + self.keep_alive;
        };
        let writes = self.activity.writes();
        if std::mem::replace(&mut closing.writes, writes) != writes {
            closing.written = now;
        }
        // The rest of the responses is written as the client reads it.
        let since = idle_since.max(closing.since);
        (closing.written.max(since) + CLOSE_TIMEOUT).min(since + HEAD_TIMEOUT)
    }
}
