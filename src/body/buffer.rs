//! Bodies in memory: how they are read, scanned, and counted.

use std::{
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use super::{RequestBody, State};
use crate::{
    error::{Error, Kind},
    json, multipart,
    rope::{Rope, RopeBuilder},
};

/// A client that sends more slowly than this, on average over the idle timeout, is given up: its
/// bytes occupy memory for as long as it likes.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// How much is scanned at a time before other tasks get their turn.
const SCAN_BYTES: usize = 1024 * 1024;

/// Bytes that may be buffered at a time, by all exchanges together.
#[derive(Default)]
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }
}

/// Bytes taken from a budget, given back when this is dropped.
struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let used = self.budget.used.fetch_add(bytes, Relaxed) + bytes;
        self.bytes += bytes;
        if used > self.budget.limit.load(Relaxed) {
            let error = Error::new(Kind::OutOfMemory);
            return Err(error.with_retry_after(Duration::from_secs(1)));
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// Bytes in memory, what is known of them, and their place in the budget.
#[derive(Clone)]
pub(super) struct Buffered {
    rope: Rope,
    found: Option<Arc<Result<Found, Error>>>,
    reservation: Option<Arc<Reservation>>,
}

impl Buffered {
    /// `None` where there are no bytes.
    pub(super) fn boxed(rope: Rope) -> Option<Box<Self>> {
        (!rope.is_empty()).then(|| Box::new(rope.into()))
    }

    pub(super) fn len(this: &Option<Box<Self>>) -> u64 {
        this.as_ref().map_or(0, |this| this.rope.len() as u64)
    }

    pub(super) fn take(&mut self) -> Bytes {
        self.rope.take(usize::MAX)
    }

    pub(super) fn take_rope(&mut self) -> Rope {
        std::mem::take(&mut self.rope)
    }

    /// A copy of these bytes.
    pub(super) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        self.rope.copy(range)
    }

    pub(super) fn found(&self) -> Option<&Result<Found, Error>> {
        self.found.as_deref()
    }
}

impl From<Rope> for Buffered {
    fn from(rope: Rope) -> Self {
        Self {
            rope,
            found: None,
            reservation: None,
        }
    }
}

/// How a body is scanned while it is read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Scan {
    No,
    Json {
        /// It must be an object: reading ends with the first byte that shows it isn't.
        is_strict: bool,
    },
    /// As a form with this boundary.
    Form(Vec<u8>),
}

/// What a scan has found.
pub(crate) enum Found {
    Json(json::Found),
    Form(multipart::Found),
}

enum Scanner {
    Json(Box<json::Scanner>),
    Form(Box<multipart::Scanner>),
}

impl Scanner {
    fn new(scan: Scan) -> Option<Self> {
        match scan {
            Scan::No => None,
            Scan::Json { is_strict: false } => Some(Self::Json(Box::default())),
            Scan::Json { is_strict: true } => {
                Some(Self::Json(Box::new(json::Scanner::for_object())))
            }
            Scan::Form(boundary) => Some(Self::Form(Box::new(multipart::Scanner::new(&boundary)))),
        }
    }

    fn feed(&mut self, chunk: &[u8]) -> Result<(), Error> {
        match self {
            Self::Json(json) => Ok(json.feed(chunk)?),
            Self::Form(form) => Ok(form.feed(chunk)?),
        }
    }

    fn finish(self) -> Result<Found, Error> {
        Ok(match self {
            Self::Json(json) => Found::Json(json.finish()?),
            Self::Form(form) => Found::Form(form.finish()?),
        })
    }
}

/// Reads a body to its end.
pub(crate) struct Buffer {
    /// What is still to be read.
    body: RequestBody,
    read: RopeBuilder,
    scanner: Option<Scanner>,
    failed_scan: Option<Error>,
    is_strict: bool,
    reservation: Option<Reservation>,
    rate: Rate,
}

impl Buffer {
    pub(super) fn new(body: RequestBody, scan: Scan) -> Self {
        let is_scanned = body.found().is_some();
        let reservation = match &body.state {
            State::Streamed(streamed) => streamed.budget.clone(),
            _ => None,
        };
        let is_strict = scan == Scan::Json { is_strict: true };
        Self {
            scanner: Scanner::new(scan).filter(|_| !is_scanned),
            failed_scan: None,
            is_strict,
            reservation: reservation.map(|budget| Reservation { budget, bytes: 0 }),
            rate: Rate::default(),
            read: RopeBuilder::default(),
            body,
        }
    }

    fn push(&mut self, chunk: Bytes) -> Result<(), Error> {
        if let Some(reservation) = &mut self.reservation {
            reservation.grow(chunk.len() as u64)?;
        }
        if let Some(scanner) = &mut self.scanner
            && let Err(error) = scanner.feed(&chunk)
        {
            if self.is_strict {
                return Err(error);
            }
            self.failed_scan = Some(error);
            self.scanner = None;
        }
        self.read.push(chunk);
        Ok(())
    }

    fn finish(&mut self) -> Result<RequestBody, Error> {
        let found = match (self.failed_scan.take(), self.scanner.take()) {
            (Some(error), _) => Some(Err(error)),
            (None, Some(scanner)) => Some(scanner.finish()),
            (None, None) => None,
        };
        if self.is_strict
            && let Some(Err(error)) = found
        {
            return Err(error);
        }
        // One that was buffered before keeps its place in the budget.
        let reservation = match &self.body.state {
            State::Buffered(Some(buffered)) => buffered.reservation.clone(),
            _ => self.reservation.take().map(Arc::new),
        };
        Ok(RequestBody {
            state: State::Buffered(Some(Box::new(Buffered {
                rope: std::mem::take(&mut self.read).finish(),
                found: found.map(Arc::new),
                reservation,
            }))),
            exchange: self.body.exchange.take(),
        })
    }
}

impl Future for Buffer {
    type Output = Result<RequestBody, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.scanner.is_none() && !matches!(this.body.state, State::Streamed(_)) {
            return Poll::Ready(Ok(std::mem::take(&mut this.body)));
        }
        if this.body.is_too_large() {
            return Poll::Ready(Err(Error::new(Kind::BodyTooLarge)));
        }
        let mut turn = 0;
        loop {
            let frame = match Pin::new(&mut this.body).poll_frame(cx)? {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    this.rate.begin();
                    return Poll::Pending;
                }
            };
            let Some(frame) = frame else {
                return Poll::Ready(this.finish());
            };
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if let State::Streamed(streamed) = &this.body.state
                && let Some(idle) = &streamed.idle
            {
                this.rate.check(chunk.len(), idle.period())?;
            }
            turn += chunk.len();
            this.push(chunk)?;
            // Not polled again, which would cost most requests another call.
            if this.body.is_end_stream() {
                return Poll::Ready(this.finish());
            }
            if turn >= SCAN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

/// How fast a client sends.
#[derive(Default)]
struct Rate {
    since: Option<Instant>,
    bytes: u64,
}

impl Rate {
    /// The client is waited for.
    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Fails where less has come in a period than must.
    fn check(&mut self, bytes: usize, period: Duration) -> Result<(), Error> {
        let Some(since) = self.since else {
            return Ok(());
        };
        self.bytes += bytes as u64;
        let elapsed = since.elapsed();
        if elapsed < period {
            return Ok(());
        }
        if self.bytes < elapsed.as_secs().saturating_mul(MIN_BYTES_PER_SECOND) {
            return Err(Error::new(Kind::BodyIdle));
        }
        *self = Self {
            since: Some(Instant::now()),
            bytes: 0,
        };
        Ok(())
    }
}
