//! What the stages of one exchange tell each other, beside the request.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use http::{Extensions, StatusCode};

use crate::{backend::Backend, client::ClientName, error::Error, json::ModelReader};

/// One exchange, shared by its stages: how far the request has been sent and, for an observer, to
/// which backends, and what it says of itself.
///
/// It travels with the [`RequestBody`](crate::RequestBody), so that every stage of a stack finds it,
/// whatever stands between them.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Shared>);

struct Shared {
    upload: AtomicU8,
    /// Of the request's body.
    received_bytes: AtomicU64,
    /// `None` where nobody observes the exchange.
    observed: Option<Mutex<Observed>>,
    /// Of an exchange that is a part of another one, as each attempt is.
    whole: Option<Handle>,
}

/// What observers are told at the end.
#[derive(Default)]
pub(crate) struct Observed {
    pub(crate) attempts: Attempts,
    /// Reads along in the request's body.
    pub(crate) reader: Option<ModelReader>,
    /// The model that the request was sent with in place of its own.
    pub(crate) configured_model: Option<Box<str>>,
    pub(crate) client: Option<ClientName>,
}

/// Nothing was sent since the last look, and only the backend can change that.
const IDLE: u8 = 0;
/// Something was sent since the last look.
const ACTIVE: u8 = 1;
/// The request waits for the client or for a connection, which have timeouts of their own.
const PAUSED: u8 = 2;

impl Handle {
    pub(crate) fn new() -> Self {
        Self::with(None, None)
    }

    /// One that is observed. `whole` is the exchange that it is a part of, if any.
    pub(crate) fn observed(observed: Observed, whole: Option<Self>) -> Self {
        Self::with(Some(observed.into()), whole)
    }

    fn with(observed: Option<Mutex<Observed>>, whole: Option<Self>) -> Self {
        Self(Arc::new(Shared {
            upload: AtomicU8::new(IDLE),
            received_bytes: AtomicU64::new(0),
            observed,
            whole,
        }))
    }

    /// Notes that a part of the request was sent, or that it waits for something other than the
    /// backend.
    pub(crate) fn note_upload(&self, is_paused: bool) {
        let state = if is_paused { PAUSED } else { ACTIVE };
        self.0.upload.store(state, Relaxed);
        if let Some(whole) = &self.0.whole {
            whole.note_upload(is_paused);
        }
    }

    /// Whether the request has come further since the last call, or waits for something other than
    /// the backend.
    pub(crate) fn take_activity(&self) -> bool {
        let state = self.0.upload.load(Relaxed);
        if state == ACTIVE {
            // Unless something was noted just now, by another task.
            let _ = self
                .0
                .upload
                .compare_exchange(ACTIVE, IDLE, Relaxed, Relaxed);
        }
        state != IDLE
    }

    /// Counts what the client sends of the request's body, and reads along.
    pub(crate) fn receive(&self, data: &[u8]) {
        self.0.received_bytes.fetch_add(data.len() as u64, Relaxed);
        if let Some(mut observed) = self.lock()
            && let Some(reader) = &mut observed.reader
        {
            reader.feed(data);
        }
        if let Some(whole) = &self.0.whole {
            whole.receive(data);
        }
    }

    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Relaxed)
    }

    /// Notes that the request with these extensions goes to this backend now, with its own model at
    /// first.
    pub(crate) fn begin_attempt(&self, backend: &Backend, request: &Extensions) {
        if let Some(mut observed) = self.lock() {
            observed.attempts.push(backend);
            observed.configured_model = None;
            // A layer below the observer may have found it.
            if observed.client.is_none() {
                observed.client = request.get().cloned();
            }
        }
    }

    /// Notes how an attempt ended after which the exchange goes on.
    pub(crate) fn end_attempt(&self, backend: &Backend, result: AttemptResult) {
        if let Some(mut observed) = self.lock() {
            observed.attempts.end(backend, result);
        }
    }

    /// Notes that the request is sent with this model in place of its own.
    pub(crate) fn configure_model(&self, model: &str) {
        if let Some(mut observed) = self.lock() {
            observed.configured_model = Some(model.into());
        }
        if let Some(whole) = &self.0.whole {
            whole.configure_model(model);
        }
    }

    /// What observers are told; `None` where nobody observes.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, Observed>> {
        let observed = self.0.observed.as_ref()?;
        Some(observed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A backend that a request was sent to, and what came of it.
#[derive(Clone)]
pub struct Attempt {
    backend: Backend,
    /// `None` while it is under way.
    result: Option<AttemptResult>,
}

/// How an attempt ended.
#[derive(Clone)]
pub(crate) enum AttemptResult {
    /// Its response is the exchange's.
    Answered,
    /// With this status, upon which the next backend was tried.
    Status(StatusCode),
    Failed(Error),
    ClientLeft,
}

impl AttemptResult {
    /// Of an attempt after which the next backend is tried.
    pub(crate) fn moved_on(result: Result<StatusCode, &Error>) -> Self {
        match result {
            Ok(status) => Self::Status(status),
            Err(error) => Self::Failed(error.clone()),
        }
    }
}

impl Attempt {
    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What came of it: `answered`; `status_429` and the like, where the next backend was tried upon
    /// that status; the [type of RFC 9209](Error::proxy_status) of what went wrong, such as
    /// `connection_refused`; or `client_left`.
    pub fn result(&self) -> Cow<'static, str> {
        match &self.result {
            Some(AttemptResult::Answered) => "answered".into(),
            Some(AttemptResult::Status(status)) => format!("status_{}", status.as_u16()).into(),
            Some(AttemptResult::Failed(error)) => error.proxy_status().into(),
            Some(AttemptResult::ClientLeft) | None => "client_left".into(),
        }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("backend", &self.backend.name())
            .field("result", &self.result())
            .finish()
    }
}

/// The attempts of an exchange. There is seldom more than one, which needs no memory of its own.
#[derive(Default)]
pub(crate) struct Attempts {
    only: Option<Attempt>,
    /// All of them, where there are several.
    all: Vec<Attempt>,
}

impl Attempts {
    fn push(&mut self, backend: &Backend) {
        let attempt = Attempt {
            backend: backend.clone(),
            result: None,
        };
        if self.all.is_empty() && self.only.is_none() {
            self.only = Some(attempt);
        } else {
            self.all.extend(self.only.take());
            self.all.push(attempt);
        }
    }

    fn end(&mut self, backend: &Backend, result: AttemptResult) {
        let mut attempts = self.only.iter_mut().chain(self.all.iter_mut().rev());
        let ended = attempts.find(|it| it.result.is_none() && it.backend.ptr_eq(backend));
        if let Some(attempt) = ended {
            attempt.result = Some(result);
        }
    }

    /// Notes how those ended of which that isn't known.
    pub(crate) fn end_all(&mut self, result: &AttemptResult) {
        for attempt in self.only.iter_mut().chain(&mut self.all) {
            attempt.result.get_or_insert_with(|| result.clone());
        }
    }

    pub(crate) fn as_slice(&self) -> &[Attempt] {
        if self.all.is_empty() {
            self.only.as_slice()
        } else {
            &self.all
        }
    }

    pub(crate) fn last(&self) -> Option<&Backend> {
        self.as_slice().last().map(Attempt::backend)
    }
}
