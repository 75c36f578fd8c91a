//! A connection, and how many streams it takes.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use http::{Method, Request};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};

use super::{
    Unsent,
    stream::{Exchange, Upload},
};
use crate::forward::message::{Framing, MAX_HEAD};

/// How often the backend is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long its answer may take, before the connection is closed with all of its streams.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of a response a stream buffers until it is read.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The largest possible, so that streams which nobody reads never block the others.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// The number of streams until the backend has announced its limit.
const INITIAL_STREAMS: usize = 1;

/// A connection that takes requests.
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    streams: Arc<Mutex<Streams>>,
    connected_at: Instant,
}

struct Streams {
    open: usize,
    /// When the last one ended, if none is open.
    idle_since: Instant,
    /// Whether no more are to be opened.
    is_closed: bool,
}

/// Starts a connection. A task serves it until it is closed, or dropped together with its last
/// stream.
pub(crate) async fn connect<T>(io: T) -> Result<Connection, h2::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(INITIAL_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .handshake(io)
        .await?;
    tokio::spawn(serve(connection));
    Ok(Connection {
        sender,
        streams: Arc::new(Mutex::new(Streams {
            open: 0,
            idle_since: Instant::now(),
            is_closed: false,
        })),
        connected_at: Instant::now(),
    })
}

async fn serve<T>(mut connection: h2::client::Connection<T, Bytes>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong().expect("not taken before");
    let mut unresponsive = pin!(unresponsive(pings));
    // The streams learn how it ended. Dropping the connection ends them.
    std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => unresponsive.as_mut().poll(cx),
    })
    .await;
}

/// Waits until the backend no longer answers.
async fn unresponsive(mut pings: PingPong) {
    loop {
        sleep(PING_INTERVAL).await;
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

impl Connection {
    /// A permit for one more stream, if there is one and the connection isn't too old.
    pub(crate) fn reserve(&self, max_age: Duration) -> Option<StreamPermit> {
        let mut sender = self.sender.clone();
        let mut streams = lock(&self.streams);
        if streams.is_closed
            || self.connected_at.elapsed() >= max_age
            || !is_open(&mut sender)
            || streams.open >= sender.current_max_send_streams()
        {
            return None;
        }
        streams.open += 1;
        Some(StreamPermit {
            sender,
            slot: Slot(self.streams.clone()),
        })
    }

    /// Whether it takes requests, and is neither too old nor idle for too long.
    pub(crate) fn is_usable(&mut self, idle_timeout: Duration, max_age: Duration) -> bool {
        let streams = lock(&self.streams);
        let is_used = streams.open > 0 || streams.idle_since.elapsed() < idle_timeout;
        is_used
            && !streams.is_closed
            && self.connected_at.elapsed() < max_age
            && is_open(&mut self.sender)
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether neither side has closed the connection or announced its end.
fn is_open(sender: &mut SendRequest<Bytes>) -> bool {
    let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(())))
}

/// One of the streams that a connection may have, free again when this is dropped.
pub(super) struct Slot(Arc<Mutex<Streams>>);

impl Slot {
    /// Opens no more streams on the connection.
    pub(super) fn close_connection(&self) {
        lock(&self.0).is_closed = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut streams = lock(&self.0);
        streams.open -= 1;
        streams.idle_since = Instant::now();
    }
}

/// The right to open one stream.
pub(crate) struct StreamPermit {
    sender: SendRequest<Bytes>,
    slot: Slot,
}

impl StreamPermit {
    /// Starts to send a request.
    pub(crate) fn send<B>(
        mut self,
        head: Request<()>,
        framing: Framing,
        body: B,
    ) -> Result<Exchange<B>, Unsent<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let is_end = body.is_end_stream();
        let is_head_request = *head.method() == Method::HEAD;
        match self.sender.send_request(head, is_end) {
            Ok((response, stream)) => {
                let upload = (!is_end).then(|| Upload::new(stream, framing, body));
                Ok(Exchange::new(upload, response, is_head_request, self.slot))
            }
            Err(error) if is_open(&mut self.sender) => Err(Unsent::Invalid(error.into())),
            Err(_) => Err(Unsent::Closed(body)),
        }
    }
}
