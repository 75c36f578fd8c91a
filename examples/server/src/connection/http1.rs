//! HTTP/1.1 with clients: its limits, its clocks, and its upgrades.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::{
    body::Incoming,
    ext::ReasonPhrase,
    rt,
    server::conn::http1,
    service::{HttpService, service_fn},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower::BoxError;

use super::{
    Connection, HEAD_TIMEOUT, Limits, MAX_HEAD_BYTES, RequestBody, body::ResponseBody, date,
    deadline, extensions, linger::Linger, timer::Timer, wake::ConnectionWaker,
};
use crate::socket::Socket;

/// Serves a connection of HTTP/1.1 or 1.0 over this stream.
pub(super) fn connection<T, A, F, B>(
    socket: Socket,
    stream: T,
    answer: A,
    limits: &Limits,
) -> impl Connection + use<T, A, F, B>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<RequestBody>) -> F + Unpin,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
{
    let activity = Activity::new(limits.keep_alive);
    let service = {
        let activity = activity.clone();
        service_fn(move |mut request: Request<Incoming>| {
            let is_http_1_0 = request.version() == Version::HTTP_10;
            if is_http_1_0 {
                activity.0.is_http_1_0.store(true, Relaxed);
            }
            let upgrade = request.extensions().get::<OnUpgrade>();
            let is_upgrade = upgrade.is_some();
            match upgrade {
                Some(upgrade) => activity.asked(upgrade),
                None => *request.extensions_mut() = extensions::take(),
            }
            // RFC 9112, section 3.2.
            let is_host = |(name, _): &(&HeaderName, &HeaderValue)| **name == header::HOST;
            let hosts = request.headers().iter().filter(is_host).count();
            let answer = (hosts == 1 || (hosts == 0 && is_http_1_0))
                .then(|| answer(request.map(RequestBody::from)));
            let activity = activity.clone();
            async move {
                let mut response = match answer {
                    Some(answer) => answer.await?.map(Either::Left),
                    None => not_one_host().map(Either::Right),
                };
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    activity.switched();
                } else {
                    let headers = response.headers_mut();
                    date::add_to(headers);
                    if is_upgrade && activity.refused() {
                        headers.append(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                }
                deadline::begin(&response);
                // hyper needs nothing else of them.
                if response.extensions().get::<ReasonPhrase>().is_none() {
                    extensions::keep(std::mem::take(response.extensions_mut()));
                }
                Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, activity)))
            }
        })
    };
    let notices = limits.notices.clone();
    let stream = TokioIo::new(Linger::new(socket, stream, activity.clone(), notices));
    let connection = http1::Builder::new()
        .timer(activity.clone())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES as usize)
        .keep_alive(limits.notices.is_some())
        // It would be added to a 101, too, which is the backend's.
        .auto_date_header(false)
        .serve_connection(stream, service)
        .with_upgrades();
    Http1 {
        connection,
        waker: ConnectionWaker::default(),
        activity,
        closing: None,
    }
}

/// The answer to a request whose host is in doubt: what stands in front may have seen another one.
fn not_one_host() -> Response<Full<Bytes>> {
    const BODY: &str = r#"{"error":{"message":"The request must have exactly one `Host` field.","type":"invalid_request_error","param":null,"code":"http_request_error"}}"#;
    tracing::debug!("malformed request: not exactly one Host");
    let mut response = Response::new(Full::from(BODY));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-type", "application/json"),
        (
            "proxy-status",
            "tower-openai-proxy; error=http_request_error",
        ),
        ("connection", "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

struct Http1<T, S: HttpService<Incoming>> {
    connection: http1::UpgradeableConnection<T, S>,
    waker: ConnectionWaker,
    activity: Activity,
    /// What hyper handed over at the end for an upgrade that hasn't taken place.
    closing: Option<Box<Upgraded>>,
}

impl<T, S> Connection for Http1<T, S>
where
    T: rt::Read + rt::Write + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody: 'static> + Unpin,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if self.closing.is_none() {
            self.activity.begin_poll();
            let waker = self.waker.of(cx.waker());
            ready!(Pin::new(&mut self.connection).poll(&mut Context::from_waker(waker)))?;
            // Asked for an upgrade, hyper leaves the end of the connection to who gets it, even if
            // the response was no 101.
            let unused = self.activity.upgrade().handle.take();
            let Some(mut unused) = unused else {
                return Poll::Ready(Ok(()));
            };
            match Pin::new(&mut unused).poll(cx) {
                Poll::Ready(Ok(upgraded)) => self.closing = Some(Box::new(upgraded)),
                _ => return Poll::Ready(Ok(())),
            }
        }
        if let Some(closing) = &mut self.closing {
            let _ = ready!(rt::Write::poll_shutdown(Pin::new(&mut **closing), cx));
        }
        Poll::Ready(Ok(()))
    }

    fn shut_down(&mut self) {
        // hyper would add `Connection: close` to a 101, too.
        if !self.activity.defer_shutdown() {
            Pin::new(&mut self.connection).graceful_shutdown();
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        let since = self.activity.clocks().head_awaited;
        since.filter(|_| !self.activity.0.has_read.load(Relaxed))
    }

    fn is_closing(&self) -> bool {
        self.activity.0.is_closing.load(Relaxed)
    }
}

/// What the parts of a connection know of each other.
///
/// It is the timer for hyper's clocks, too. hyper makes one for each request's head, and knows no
/// other limit between requests: what that is depends on whether the head has begun.
#[derive(Clone)]
pub(super) struct Activity(Arc<State>);

struct State {
    keep_alive: Duration,
    /// How often the connection has been polled.
    polls: AtomicUsize,
    clocks: Mutex<Clocks>,
    /// Something has been read since a head was awaited.
    has_read: AtomicBool,
    is_http_1_0: AtomicBool,
    is_closing: AtomicBool,
    /// A 101 was sent.
    is_tunnel: AtomicBool,
    upgrade: Mutex<Upgrade>,
}

#[derive(Default)]
struct Upgrade {
    /// Of the last request that asked for one.
    handle: Option<OnUpgrade>,
    /// That request has no answer yet.
    is_unanswered: bool,
    /// The connection is to end behind that answer, unless it is a 101.
    is_shut_down: bool,
}

#[derive(Default)]
struct Clocks {
    /// Since when hyper has waited for a head.
    head_awaited: Option<Instant>,
    /// One for all of hyper's clocks.
    timer: Timer,
}

impl Activity {
    pub(super) fn new(keep_alive: Duration) -> Self {
        Self(Arc::new(State {
            keep_alive,
            polls: AtomicUsize::new(0),
            clocks: Mutex::default(),
            has_read: AtomicBool::new(false),
            is_http_1_0: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            upgrade: Mutex::default(),
        }))
    }

    /// The connection is polled, by the one task that does so.
    pub(super) fn begin_poll(&self) {
        let polls = self.current_poll().wrapping_add(1);
        self.0.polls.store(polls, Relaxed);
    }

    /// Which of its polls is under way. What is pending stays so for the rest of it: what becomes
    /// ready meanwhile has woken the connection, which is polled again in any case.
    pub(super) fn current_poll(&self) -> usize {
        self.0.polls.load(Relaxed)
    }

    /// Something has come from the client.
    pub(super) fn read(&self) {
        self.0.has_read.store(true, Relaxed);
    }

    /// Everything is sent, and the sending side is shut down.
    pub(super) fn closing(&self) {
        self.0.is_closing.store(true, Relaxed);
        deadline::end();
    }

    /// Whether the end of the connection may be the end of a response.
    pub(super) fn is_http_1_0(&self) -> bool {
        self.0.is_http_1_0.load(Relaxed)
    }

    /// A request asks for an upgrade.
    fn asked(&self, upgrade: &OnUpgrade) {
        let mut state = self.upgrade();
        state.handle = Some(upgrade.clone());
        state.is_unanswered = true;
    }

    /// A 101 is sent: what follows, and its end, is the tunnel's matter.
    pub(super) fn switched(&self) {
        self.0.is_tunnel.store(true, Relaxed);
        *self.upgrade() = Upgrade::default();
    }

    /// Another answer than a 101 is sent. Tells whether the connection is to end behind it.
    fn refused(&self) -> bool {
        let mut state = self.upgrade();
        state.is_unanswered = false;
        state.is_shut_down
    }

    /// Whether the answer to a request for an upgrade decides how the connection ends.
    fn defer_shutdown(&self) -> bool {
        let mut state = self.upgrade();
        state.is_shut_down = state.is_unanswered;
        state.is_shut_down
    }

    /// Whether the connection has switched protocols.
    pub(super) fn is_tunnel(&self) -> bool {
        self.0.is_tunnel.load(Relaxed)
    }

    fn upgrade(&self) -> MutexGuard<'_, Upgrade> {
        self.0
            .upgrade
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.0.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl rt::Timer for Activity {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    /// Called where hyper begins to wait for a head.
    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        let awaited = Instant::from(deadline) - HEAD_TIMEOUT;
        self.0.has_read.store(false, Relaxed);
        deadline::end();
        let is_first = self.clocks().head_awaited.replace(awaited).is_none();
        Box::pin(Clock {
            activity: self.clone(),
            awaited,
            begun: is_first.then_some(awaited),
        })
    }

    /// The runtime's time, which a test may have paused.
    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

/// Runs out when a head isn't whole in time, or none has begun to come.
struct Clock {
    activity: Activity,
    awaited: Instant,
    begun: Option<Instant>,
}

impl rt::Sleep for Clock {}

impl Future for Clock {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.begun.is_none() && this.activity.0.has_read.load(Relaxed) {
            this.begun = Some(Instant::now());
        }
        let deadline = match this.begun {
            Some(begun) => begun + HEAD_TIMEOUT,
            None => this.awaited + this.activity.0.keep_alive,
        };
        this.activity.clocks().timer.poll(deadline, cx)
    }
}
