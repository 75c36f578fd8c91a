//! What one backend is, and whether it just failed.
//!
//! A [`Backend`] travels with the request as an extension: the route stage puts it there, the stages
//! below read what concerns them (model, timeouts, where to send). It travels back with the
//! response, so that other middleware can tell who answered.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Uri, uri::Scheme};
use tokio::time::Instant;

use crate::{
    config::{BackendSettings, Config},
    json,
};

/// One backend of the configuration. Cheap to clone.
///
/// Found in the extensions of a request below [`BackendRoute`](crate::BackendRoute), and in those of
/// a response above it.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    name: Box<str>,
    origin: Origin,
    host: HeaderValue,
    /// Path before `/chat/completions`, without a trailing slash.
    base_path: Box<str>,
    query: Option<Box<str>>,
    model: Option<Model>,
    timeouts: Timeouts,
    credential: Option<HeaderValue>,
    cooldown: Duration,
    born: Instant,
    /// Milliseconds after `born` until which the backend is tried last.
    cooling_until: AtomicU64,
}

/// Where connections go: what two backends must share to share connections.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Uri>);

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Origin {
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    pub(crate) fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(default)
    }
}

pub(crate) struct Model {
    pub(crate) name: Box<str>,
    /// The name as JSON text.
    pub(crate) json: Bytes,
}

/// The clocks of one backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) response_head: Duration,
    pub(crate) idle: Duration,
}

impl Backend {
    /// The backends of a configuration that can be used, in its order.
    pub(crate) fn all(config: &Config) -> Arc<[Backend]> {
        let backends = config.backends.iter();
        backends
            .filter_map(|backend| Self::new(backend, config))
            .collect()
    }

    fn new(backend: &BackendSettings, config: &Config) -> Option<Self> {
        let url = backend.url.as_ref()?;
        let settings = &config.settings;
        let authority = url.authority()?;
        let origin = Uri::builder()
            .scheme(url.scheme()?.clone())
            .authority(authority.clone())
            .path_and_query("/")
            .build()
            .ok()?;
        let response_head = backend.timeout.unwrap_or(settings.timeout);
        Some(Self(Arc::new(Inner {
            name: backend.name.clone(),
            origin: Origin(Arc::new(origin)),
            host: HeaderValue::try_from(authority.as_str()).ok()?,
            base_path: url.path().trim_end_matches('/').into(),
            query: url.query().map(Into::into),
            model: backend.model.as_deref().map(|name| Model {
                name: name.into(),
                json: json::string(name),
            }),
            timeouts: Timeouts {
                connect: settings.connect_timeout.min(response_head),
                response_head,
                idle: settings.idle_timeout,
            },
            credential: backend.credential.clone(),
            cooldown: settings.cooldown,
            born: Instant::now(),
            cooling_until: AtomicU64::new(0),
        })))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The model that replaces the request's, where one is configured.
    pub fn model(&self) -> Option<&str> {
        Some(&self.model_override()?.name)
    }

    /// Whether it failed less than `cooldown` ago (no connection, broken off before a response's
    /// head, no head in time, or a status of `failover_on`), so that the others are tried first.
    pub fn is_cooling_down(&self) -> bool {
        self.millis() < self.0.cooling_until.load(Ordering::Relaxed)
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn failed(&self) {
        let until = self.millis() + self.0.cooldown.as_millis() as u64;
        self.0.cooling_until.store(until, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        self.0.born.elapsed().as_millis() as u64
    }

    pub(crate) fn model_override(&self) -> Option<&Model> {
        self.0.model.as_ref()
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.0.timeouts
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.0.host
    }

    pub(crate) fn credential(&self) -> Option<&HeaderValue> {
        self.0.credential.as_ref()
    }

    /// The path of the base URL, without a trailing slash.
    pub(crate) fn base_path(&self) -> &str {
        &self.0.base_path
    }

    /// The query of the base URL.
    pub(crate) fn query(&self) -> Option<&str> {
        self.0.query.as_deref()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("name", &self.0.name)
            .field("model", &self.model())
            .field("cooling_down", &self.is_cooling_down())
            .finish_non_exhaustive()
    }
}
