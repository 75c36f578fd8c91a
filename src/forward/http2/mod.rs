//! HTTP/2 to backends that choose it in the TLS handshake (RFC 9113).
//!
//! A task reads and writes the connection, and asks at times whether the backend is still there. A
//! stream belongs to the response's future and body, as an HTTP/1.1 connection does: they poll the
//! request's body, dropping them resets the stream, and not polling them closes its window.

#[cfg(test)]
mod tests;

use std::{
    io,
    mem::MaybeUninit,
    net::Shutdown,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request::Parts,
    uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};
use socket2::Socket;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};

use super::{
    http1::{Framing, wrong_length},
    request::{stays_here, write_target},
};
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{BoxError, Error, Kind},
    header::{Nominated, asks_for_trailers, is_hop_by_hop, may_trail},
};

/// How often the backend is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long its answer may take; then the connection is given up with all of its streams.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a stream may hold that nobody has read yet.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The largest there is, so that streams which nobody reads never stop the others.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// Streams before the backend has told how many it takes.
const FIRST_STREAMS: usize = 1;

/// Largest head of a response, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// A connection that takes requests.
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// What a connection shares with its streams and its task.
struct Shared {
    streams: Mutex<Streams>,
    /// Below all of it, to look at.
    socket: Option<Socket>,
}

struct Streams {
    open: usize,
    /// When the last one ended, if none is open.
    idle_since: Instant,
    /// The end has been seen on the socket, if not yet by the connection's task.
    is_closed: bool,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins a connection. A task serves it until it is closed, or let go with its last stream.
pub(crate) async fn connect<T>(io: T, socket: Option<Socket>) -> Result<Connection, BoxError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(FIRST_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(io)
        .await?;
    let shared = Arc::new(Shared {
        streams: Mutex::new(Streams {
            open: 0,
            idle_since: Instant::now(),
            is_closed: false,
        }),
        socket,
    });
    tokio::spawn(serve(connection, shared.clone()));
    Ok(Connection { sender, shared })
}

async fn serve<T>(mut connection: h2::client::Connection<T, Bytes>, shared: Arc<Shared>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong().expect("not taken before");
    let mut silence = pin!(silence(pings));
    // How it ended is told to the streams. To drop it ends them.
    std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => silence.as_mut().poll(cx),
    })
    .await;
    drop(connection);
    if let Some(socket) = &shared.socket {
        // It may be closed already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Waits until the backend doesn't answer any more.
async fn silence(mut pings: PingPong) {
    loop {
        sleep(PING_INTERVAL).await;
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

impl Connection {
    /// A place for one more stream, if there is one.
    pub(crate) fn reserve(&self) -> Option<Reserved> {
        let mut sender = self.sender.clone();
        let mut streams = self.shared.streams();
        if streams.is_closed
            || !is_open(&mut sender)
            || streams.open >= sender.current_max_send_streams()
        {
            return None;
        }
        streams.open += 1;
        Some(Reserved {
            is_first: streams.open == 1,
            sender,
            place: Place(self.shared.clone()),
        })
    }

    /// Whether the backend takes requests on it, and it hasn't been idle for too long.
    pub(crate) fn is_usable(&mut self, idle_timeout: Duration) -> bool {
        let streams = self.shared.streams();
        let is_used = streams.open > 0 || streams.idle_since.elapsed() < idle_timeout;
        is_used && !streams.is_closed && is_open(&mut self.sender)
    }
}

/// Whether neither side has ended the connection, or announced its end.
fn is_open(sender: &mut SendRequest<Bytes>) -> bool {
    let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(())))
}

/// A place for one stream, which is free again when this is dropped.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.0.streams();
        streams.open -= 1;
        streams.idle_since = Instant::now();
    }
}

/// A stream that can be opened.
pub(crate) struct Reserved {
    sender: SendRequest<Bytes>,
    place: Place,
    is_first: bool,
}

/// Why nothing of a request was sent.
pub(crate) enum NotSent {
    /// The connection doesn't take requests any more. Here is the request's body.
    Closed(RequestBody),
    Failed(Error),
}

/// What a look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing that its task doesn't know.
    Silent,
    /// Something has come that its task hasn't read yet: it may be the announcement of its end.
    Unread,
    Closed,
}

impl Reserved {
    /// Whether the connection was idle before.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Asks the socket itself: the runtime may not have heard yet.
    pub(crate) fn look(&self) -> Look {
        let shared = &self.place.0;
        let Some(socket) = &shared.socket else {
            return Look::Silent;
        };
        match socket.peek(&mut [MaybeUninit::uninit()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Silent,
            Ok(1..) => Look::Unread,
            Ok(0) | Err(_) => {
                shared.streams().is_closed = true;
                Look::Closed
            }
        }
    }

    /// Begins to send a request.
    pub(crate) fn send(
        mut self,
        parts: &Parts,
        body: RequestBody,
        backend: &Backend,
    ) -> Result<Exchange, NotSent> {
        let failed = |source: BoxError| Error::new(Kind::Internal).with_source(source);
        let framing = Framing::of(parts, &body.size_hint());
        let head = match encode(parts, framing, backend) {
            Ok(head) => head,
            Err(error) => return Err(NotSent::Failed(failed(error.into()))),
        };
        let is_end = body.is_end_stream();
        let (response, stream) = match self.sender.send_request(head, is_end) {
            Ok(sent) => sent,
            Err(error) if is_open(&mut self.sender) => {
                return Err(NotSent::Failed(failed(error.into())));
            }
            Err(_) => return Err(NotSent::Closed(body)),
        };
        body.note_connecting(false);
        Ok(Exchange {
            upload: (!is_end).then(|| Upload::new(stream, framing, body)),
            response,
            to_head: parts.method == Method::HEAD,
            place: self.place,
        })
    }
}

/// The head of a request to a backend.
fn encode(parts: &Parts, framing: Framing, backend: &Backend) -> Result<Request<()>, http::Error> {
    let mut target = Vec::new();
    write_target(parts, backend, &mut target);
    let mut uri = backend.origin().uri().clone().into_parts();
    uri.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(target))?);

    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = Uri::from_parts(uri)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields(parts, framing, backend);
    Ok(request)
}

fn fields(parts: &Parts, framing: Framing, backend: &Backend) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(parts.headers.len() + 2);
    if let Some(credential) = backend.credential() {
        fields.insert(header::AUTHORIZATION, credential.clone());
    }
    let length = match framing {
        Framing::Length(length) => Some(HeaderValue::from(length)),
        Framing::None | Framing::Chunked => None,
    };
    let nominated = Nominated::of(&parts.headers);
    for (name, value) in &parts.headers {
        match *name {
            // Where it was, but as it is now.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => {
                if let Some(length) = &length {
                    fields.insert(header::CONTENT_LENGTH, length.clone());
                }
            }
            header::TE => {
                if asks_for_trailers(value) {
                    fields.insert(header::TE, HeaderValue::from_static("trailers"));
                }
            }
            header::TRAILER if framing != Framing::Chunked => {}
            _ if stays_here(name, &nominated, backend) => {}
            _ => {
                fields.append(name.clone(), value.clone());
            }
        }
    }
    if let Some(length) = length {
        fields.entry(header::CONTENT_LENGTH).or_insert(length);
    }
    fields
}

/// A request's body on its way to the backend.
struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    framing: Framing,
    /// What waits for room in the windows.
    piece: Bytes,
}

impl Upload {
    fn new(stream: SendStream<Bytes>, framing: Framing, body: RequestBody) -> Self {
        Self {
            stream,
            body,
            framing,
            piece: Bytes::new(),
        }
    }

    /// Sends what there is. Ready when that was all, or the backend takes no more: its response
    /// will tell. An error is the body's.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if !self.piece.is_empty() {
                while self.stream.capacity() == 0 {
                    let Some(Ok(_)) = ready!(self.stream.poll_capacity(cx)) else {
                        return Poll::Ready(Ok(()));
                    };
                }
                let piece = std::mem::take(&mut self.piece);
                let is_end = self.body.is_end_stream();
                if is_end {
                    self.check_end()?;
                }
                if self.stream.send_data(piece, is_end).is_err() || is_end {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                None => return Poll::Ready(self.end(None)),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.take(data)?,
                    Err(frame) => return Poll::Ready(self.end(frame.into_trailers().ok())),
                },
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Chunked => {}
            Framing::Length(left) => {
                let length = data.len() as u64;
                *left = left.checked_sub(length).ok_or_else(wrong_length)?;
            }
            Framing::None => return Err(wrong_length()),
        }
        // Room for a byte is asked for: what is sent at once may wait for the rest of it, and
        // holds back no other stream meanwhile.
        self.stream.reserve_capacity(1);
        self.piece = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Error> {
        self.check_end()?;
        let trailers = trailers.filter(|_| self.framing == Framing::Chunked);
        let mut trailers = trailers.unwrap_or_default();
        if trailers.keys().any(|name| !may_trail(name)) {
            let all = std::mem::take(&mut trailers);
            for (name, value) in all.iter().filter(|(name, _)| may_trail(name)) {
                trailers.append(name.clone(), value.clone());
            }
        }
        // Should the backend not take it any more, its response tells.
        let _ = match trailers.is_empty() {
            true => self.stream.send_data(Bytes::new(), true),
            false => self.stream.send_trailers(trailers),
        };
        Ok(())
    }

    fn check_end(&self) -> Result<(), Error> {
        match self.framing {
            Framing::Length(left) if left > 0 => Err(wrong_length()),
            _ => Ok(()),
        }
    }
}

/// Sends on. Nothing is left once the request has been passed on.
fn poll_upload(upload: &mut Option<Upload>, cx: &mut Context<'_>) -> Result<(), Error> {
    if let Some(sending) = upload
        && let Poll::Ready(sent) = sending.poll(cx)
    {
        *upload = None;
        sent?;
    }
    Ok(())
}

/// A request, and the response's head that is waited for.
pub(crate) struct Exchange {
    upload: Option<Upload>,
    response: ResponseFuture,
    to_head: bool,
    // The last to be dropped: the others end the stream.
    place: Place,
}

/// The head of a response, without what concerns only the connection.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl Exchange {
    /// Sends the request and waits for the head of the response, which may come before the request
    /// has been sent whole.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Head, RecvStream), Error>> {
        poll_upload(&mut self.upload, cx)?;
        let response = ready!(Pin::new(&mut self.response).poll(cx));
        let (parts, body) = response.map_err(before_head)?.into_parts();
        let headers = parts.headers;
        if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
            let error = Error::new(Kind::NotHttp).with_source("length told twice");
            return Poll::Ready(Err(error));
        }
        let head = Head {
            status: parts.status,
            headers: end_to_end(headers),
        };
        Poll::Ready(Ok((head, body)))
    }

    /// What comes after the head; nothing if the response has no body.
    pub(crate) fn into_download(self, head: &Head, body: RecvStream) -> Option<Download> {
        let has_body = !self.to_head
            && !matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        if !has_body || body.is_end_stream() {
            return None;
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Some(Download {
            upload: self.upload,
            body,
            left,
            place: self.place,
        })
    }
}

fn before_head(error: h2::Error) -> Error {
    // The library's errors are the backend's mistakes; all others are its end, or the stream's.
    let kind = match error.is_library() {
        true => Kind::NotHttp,
        false => Kind::ClosedBeforeHead,
    };
    Error::new(kind).with_source(without_debug_data(error))
}

/// A backend may write what it likes into the last frame of a connection, a key too. It isn't told.
fn without_debug_data(error: h2::Error) -> BoxError {
    match error.reason() {
        Some(reason) if error.is_go_away() => format!("connection error: {reason}").into(),
        _ => error.into(),
    }
}

fn end_to_end(headers: HeaderMap) -> HeaderMap {
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return headers;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        if !is_hop_by_hop(name.as_str()) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// The body of a response that comes.
pub(crate) struct Download {
    upload: Option<Upload>,
    body: RecvStream,
    /// How much is to come, where the head told.
    left: Option<u64>,
    // The last to be dropped: the others end the stream.
    #[expect(dead_code, reason = "held for its `Drop`")]
    place: Place,
}

impl Download {
    /// The next frame, as soon as it is there; none at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let broke_off = |error| {
            let error = without_debug_data(error);
            Error::new(Kind::Truncated).with_source(error)
        };
        if let Err(error) = poll_upload(&mut self.upload, cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            return Poll::Ready(match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever has it reads on when it has gone: only then more may come. This
                    // fails where nothing more can.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    if data.is_empty() {
                        continue;
                    }
                    Some(Ok(Frame::data(data)))
                }
                // Whatever the reason it gives: after a whole response there is no error.
                Some(Err(error)) => Some(Err(broke_off(error))),
                None => match ready!(self.body.poll_trailers(cx)) {
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    Err(error) => Some(Err(broke_off(error))),
                },
            });
        }
    }

    /// Whether all of it has been given out.
    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
