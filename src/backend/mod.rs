//! One backend of the configuration, and its health.
//!
//! A [`Backend`] travels with the request as an extension: the route stage puts it there, and the
//! stages below read what concerns them (model, timeouts, URL). It is in the response's extensions
//! too, the proxy's own error responses included, so that other middleware can tell which one
//! answered:
//!
//! ```
//! use tower_openai_proxy::{BackendConfig, BackendRouteLayer, Config};
//!
//! let config = Config::builder()
//!     .backend(BackendConfig::new("local", "http://127.0.0.1:11434/v1").model("llama3.2"))
//!     .build()?;
//! let route = BackendRouteLayer::from_config(&config);
//! let [backend] = route.backends() else { unreachable!() };
//!
//! assert_eq!(backend.name(), "local");
//! assert_eq!(backend.model(), Some("llama3.2"));
//! assert_eq!(backend.url(), "http://127.0.0.1:11434/v1");
//! assert_eq!(backend.provider(), "openai");
//! assert_eq!(backend.timeouts().response_head.as_secs(), 600);
//! assert!(!backend.is_cooling_down());
//! # Ok::<(), tower_openai_proxy::ConfigError>(())
//! ```

mod health;
mod in_flight;
mod origin;
mod provider;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::{HeaderValue, Method, Uri};

pub(crate) use self::{
    health::{Admission, Probe},
    in_flight::InFlight,
    origin::{Origin, Route},
    queue::Wait,
};
use self::{
    health::{Health, Policy},
    queue::Queue,
};
use crate::{
    affinity::StableHash,
    config::{BackendSettings, BaseUrl, Config, OwnField},
    endpoint::{self, PathPattern},
    pattern::{ModelMap, Specificity},
    secret,
};

/// One backend of the configuration. Cheap to clone.
///
/// Found in the extensions of a request below [`BackendRoute`](crate::BackendRoute), and in those of
/// a response above it. Two are equal if they have the same name and URL, so a reload that changes
/// something else of a backend leaves it the key of a map.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    name: Box<str>,
    url: BaseUrl,
    origin: Origin,
    /// Where that of WebSockets is another one.
    upgrade_origin: Option<Origin>,
    model: Option<Arc<str>>,
    models: Option<ModelMap>,
    timeouts: Timeouts,
    own_fields: Box<[OwnField]>,
    has_key: bool,
    drops_client_keys: bool,
    /// Whether requests to it carry a credential of the operator's.
    has_credential: bool,
    paths: Option<Box<[PathPattern]>>,
    is_selectable: bool,
    takes_websockets: bool,
    policy: Policy,
    priority: i64,
    weight: f64,
    name_hash: StableHash,
    max_in_flight: Option<usize>,
    provider: Cow<'static, str>,
    shared: Arc<Shared>,
}

/// What is known of a backend. A reload keeps it.
#[derive(Default)]
struct Shared {
    health: Health,
    in_flight: AtomicUsize,
    queue: Queue,
}

/// The timeouts of one backend.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timeouts {
    /// For connecting, TLS included: `connect_timeout`, or `response_head` where that is shorter.
    pub connect: Duration,
    /// From having sent the whole request to the response headers: `timeout`.
    pub response_head: Duration,
    /// Between two chunks of a body: `idle_timeout`.
    pub idle: Duration,
    /// For a WebSocket on which neither side sends: `tunnel_idle_timeout`.
    pub tunnel_idle: Duration,
}

impl Backend {
    /// The backends of a configuration that can be used, in its order.
    ///
    /// Those that equal one of `previous` keep its health.
    pub(crate) fn all(config: &Config, previous: &[Backend]) -> Arc<[Backend]> {
        let backends = config.backends.iter();
        let fields = backends.clone().flat_map(|backend| &backend.own_fields);
        secret::watch(fields.filter_map(|field| field.value.file()));
        let mut all: Vec<Self> = Vec::new();
        for backend in backends {
            // Connections are found faster, and go on after a reload, where origins are the same.
            let mut known = previous.iter().chain(&all).map(Self::origin);
            let shared = |origin: Origin| {
                let known = known.find(|known| **known == origin);
                known.cloned().unwrap_or(origin)
            };
            all.extend(Self::new(backend, config, previous, shared));
        }
        all.into()
    }

    fn new(
        backend: &BackendSettings,
        config: &Config,
        previous: &[Backend],
        shared: impl FnOnce(Origin) -> Origin,
    ) -> Option<Self> {
        let url = backend.url.as_ref()?;
        let settings = &config.settings;
        let response_head = backend.timeout.unwrap_or(settings.timeout);
        let origin = shared(Origin::new(url, backend));
        Some(Self(Arc::new(Inner {
            name: backend.name.clone(),
            upgrade_origin: origin.for_upgrades(),
            origin,
            url: url.clone(),
            model: backend.model.as_deref().map(Into::into),
            models: backend.models.clone(),
            timeouts: Timeouts {
                connect: settings.connect_timeout.min(response_head),
                response_head,
                idle: settings.idle_timeout,
                tunnel_idle: settings.tunnel_idle_timeout,
            },
            own_fields: backend.own_fields.clone(),
            has_key: backend.has_key,
            drops_client_keys: backend.has_key || config.needs_client_key(),
            has_credential: backend.has_credential(),
            paths: backend.paths.clone(),
            is_selectable: settings.backend_header,
            takes_websockets: backend.websocket,
            policy: Policy {
                failures: settings.failures,
                cooldown: settings.cooldown,
            },
            priority: backend.priority,
            weight: backend.weight.0,
            name_hash: StableHash::of(backend.name.as_bytes()),
            max_in_flight: backend.max_in_flight,
            provider: match &backend.provider {
                Some(name) => Cow::Owned(name.to_string()),
                None => Cow::Borrowed(provider::of_host(url.host())),
            },
            shared: previous
                .iter()
                .find(|known| known.0.name == backend.name && known.0.url == *url)
                .map_or_else(Arc::default, |known| known.0.shared.clone()),
        })))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The model that replaces the request's, where one is configured.
    pub fn model(&self) -> Option<&str> {
        self.0.model.as_deref()
    }

    /// The base URL as configured; at a [`socket`](Self::socket), that of `http://localhost`. Its query
    /// may hold a key.
    pub fn url(&self) -> &Uri {
        self.0.url.uri()
    }

    /// The Unix socket at which it is reached, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        self.0.url.socket().map(|socket| &**socket)
    }

    /// Who generates its answers, by OpenTelemetry's name (`gen_ai.provider.name`): as configured, else
    /// what its host tells, such as `groq`, else `openai`.
    pub fn provider(&self) -> &str {
        &self.0.provider
    }

    /// Its timeouts.
    pub fn timeouts(&self) -> Timeouts {
        self.0.timeouts
    }

    /// Whether it serves a request for this path below the prefix.
    ///
    /// With a credential of the operator's and no `paths`, only what makes an answer or lists models.
    pub(crate) fn serves(&self, method: &Method, path: &str, is_upgrade: bool) -> bool {
        let has_key = self.0.has_credential;
        match &self.0.paths {
            None => !has_key || endpoint::is_answer_or_models(method, path, is_upgrade),
            Some(paths) => {
                let is_narrow = has_key && endpoint::is_administration(path);
                let paths = paths.iter();
                endpoint::matches(paths.filter(|it| !(is_narrow && it.is_all())), path)
            }
        }
    }

    /// The models that it serves, and its names for them; `None` where it serves every one.
    pub(crate) fn models(&self) -> Option<&ModelMap> {
        self.0.models.as_ref()
    }

    /// How specific the pattern is by which it serves this model, if it does.
    pub(crate) fn specificity(&self, model: &str) -> Option<Specificity> {
        match self.models() {
            Some(models) => models.specificity(model),
            None => Some(Specificity::LEAST),
        }
    }

    /// Whether requests for a WebSocket are sent to it.
    pub(crate) fn takes_websockets(&self) -> bool {
        self.0.takes_websockets
    }

    /// Its place in the order: the backends of a higher number are tried after those of a lower one.
    pub fn priority(&self) -> i64 {
        self.0.priority
    }

    /// Its share of the requests, in proportion to the weights of the others.
    pub fn weight(&self) -> f64 {
        self.0.weight
    }

    pub(crate) fn name_hash(&self) -> StableHash {
        self.0.name_hash
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn model_override(&self) -> Option<&Arc<str>> {
        self.0.model.as_ref()
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Where connections for WebSockets go.
    pub(crate) fn upgrade_origin(&self) -> &Origin {
        self.0.upgrade_origin.as_ref().unwrap_or(&self.0.origin)
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        self.0.url.authority()
    }

    /// Whether `X-Proxy-Backend` selects it, so that the field isn't forwarded.
    pub(crate) fn is_selectable(&self) -> bool {
        self.0.is_selectable
    }

    /// What requests to it get in place of the client's fields of these names.
    pub(crate) fn own_fields(&self) -> &[OwnField] {
        &self.0.own_fields
    }

    /// Whether clients' keys aren't for it: it has one of its own, or they are the proxy's.
    pub(crate) fn drops_client_keys(&self) -> bool {
        self.0.drops_client_keys
    }

    /// Whether one of its own fields is a key in place of the client's credentials.
    pub(crate) fn has_key(&self) -> bool {
        self.0.has_key
    }

    /// The path of the base URL, without a trailing slash.
    pub(crate) fn base_path(&self) -> &str {
        self.0.url.path()
    }

    /// The query of the base URL.
    pub(crate) fn query(&self) -> Option<&str> {
        self.0.url.query()
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.ptr_eq(other) || (self.0.name == other.0.name && self.0.url == other.0.url)
    }
}

impl Eq for Backend {}

impl Hash for Backend {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
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
