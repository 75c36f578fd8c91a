use std::{fmt, path::PathBuf, time::Duration};

use http::StatusCode;

use super::{ClientConfig, Config, ConfigError, Settings, url::BaseUrl};

/// How a backend is chosen among those of the same priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// The first one in the configuration.
    #[default]
    Order,
    /// The one with the fewest requests in flight per weight; of equals a random one, in proportion to
    /// their weights.
    LeastBusy,
}

/// Builds a [`Config`] in code.
///
/// ```
/// use std::time::Duration;
/// use tower_openai_proxy::{BackendConfig, Config};
///
/// let config = Config::builder()
///     .backend(BackendConfig::new("local", "http://127.0.0.1:11434/v1").model("llama3.2"))
///     .backend(BackendConfig::new("spare", "http://10.0.0.7:8080/v1"))
///     .timeout(Duration::from_secs(30))
///     .build()?;
///
/// // The same, written as a file would have it.
/// let text = r#"{
///   "primary_backends": [
///     { "name": "local", "url": "http://127.0.0.1:11434/v1", "model": "llama3.2" },
///     { "name": "spare", "url": "http://10.0.0.7:8080/v1" }
///   ],
///   "settings": { "timeout": 30 }
/// }"#;
/// assert_eq!(config, text.parse()?);
/// # Ok::<(), tower_openai_proxy::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConfigBuilder {
    pub(super) backends: Vec<BackendConfig>,
    pub(super) settings: Settings,
    pub(super) clients: Vec<ClientConfig>,
    pub(super) keys_file: Option<PathBuf>,
    /// Whether the environment's proxies count.
    pub(super) env_proxies: bool,
}

impl ConfigBuilder {
    /// Adds a backend. Backends are tried in the order in which they were added.
    pub fn backend(mut self, backend: BackendConfig) -> Self {
        self.backends.push(backend);
        self
    }

    /// Replaces each backend by what `change` makes of it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_openai_proxy::{BackendConfig, Config};
    /// # let config = Config::builder().backend(BackendConfig::new("spare", "http://10.0.0.7/v1")).build()?;
    /// let patient = config.to_builder().map_backends(|backend| match backend.name() {
    ///     "spare" => backend.timeout(Duration::from_secs(3600)),
    ///     _ => backend,
    /// });
    /// # assert_ne!(patient.build()?, config);
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    pub fn map_backends(mut self, change: impl FnMut(BackendConfig) -> BackendConfig) -> Self {
        self.backends = self.backends.into_iter().map(change).collect();
        self
    }

    /// How long to wait for a backend's response headers after the whole request has been sent; for
    /// a response that isn't streamed, this includes the whole generation. Default: 600 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long connecting to a backend may take, TLS included; at most
    /// [`timeout`](Self::timeout). Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long a body may be idle, the client's or the backend's, before the exchange is aborted.
    /// Default: 300 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How long neither side of a WebSocket may send anything before it is closed. Default: 3600 s.
    pub fn tunnel_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.tunnel_idle_timeout = timeout;
        self
    }

    /// How long a whole exchange may take, streams and WebSockets included. Default: no limit.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.settings.total_timeout = Some(timeout);
        self
    }

    /// How long a stream of server-sent events may be idle before a comment is sent into it, which
    /// keeps connections open. Default: none is sent. See [`ping`](crate::ping).
    pub fn ping(mut self, period: Duration) -> Self {
        self.settings.ping = Some(period);
        self
    }

    /// The largest request body, in bytes, that is JSON or buffered; larger ones are answered 413.
    /// Default: 67108864 (64 MiB).
    pub fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// How many bytes of request bodies may be buffered at a time, all requests together. Beyond
    /// it, requests that need more are answered 503 with `Retry-After: 1`. Default: 1073741824
    /// (1 GiB).
    pub fn max_held_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_held_bytes = bytes;
        self
    }

    /// The largest request body, in bytes, that is streamed and isn't JSON, such as a file; larger
    /// ones are answered 413. Default: 1073741824 (1 GiB).
    pub fn max_upload_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_upload_bytes = bytes;
        self
    }

    /// Whether requests with neither `Authorization` nor `api-key` are answered 401, without
    /// contacting a backend. Default: true.
    pub fn require_auth(mut self, required: bool) -> Self {
        self.settings.require_auth = required;
        self
    }

    /// Whether the request field `X-Proxy-Backend` selects a backend by its name. If not, it is
    /// forwarded like any other field. Default: true.
    pub fn backend_header(mut self, selects: bool) -> Self {
        self.settings.backend_header = selects;
        self
    }

    /// Whether `GET /models` is answered with one list of the models of all backends that serve it,
    /// where there are several. If not, it is forwarded like any other request. Default: true. See
    /// [`models`](crate::models).
    pub fn merge_models(mut self, merge: bool) -> Self {
        self.settings.merge_models = merge;
        self
    }

    /// Whether only authenticated clients can reach the proxy, because the host application or a
    /// gateway in front of it checks who they are. It changes nothing but
    /// [`Config::warnings`]: a backend's own key is then not warned of. Default: false.
    pub fn clients_authenticated(mut self, authenticated: bool) -> Self {
        self.settings.clients_authenticated = authenticated;
        self
    }

    /// The response statuses, from 300 to 599, on which the next backend is tried. Failed connections
    /// always have that effect. Default: none.
    pub fn failover_on(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.settings.failover_on = statuses.into_iter().collect();
        self
    }

    /// How long a backend is tried last after a failure; zero disables this. Default: 5 s.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.settings.cooldown = cooldown;
        self
    }

    /// How many failures in a row make a backend be tried last: no connection, closed before the
    /// response headers, no headers in time, or a status of [`failover_on`](Self::failover_on). Any
    /// other response ends the row. Default: 1.
    pub fn failures(mut self, failures: u32) -> Self {
        self.settings.failures = failures;
        self
    }

    /// How a backend is chosen among those of the same priority. Default: [`Balance::Order`].
    pub fn balance(mut self, balance: Balance) -> Self {
        self.settings.balance = balance;
        self
    }

    /// Sends requests with the same value to the same backend, as prefix caches need it. The value is
    /// that of the first of these sources that a request has: `header:NAME`, `body:FIELD` (a top-level
    /// string of the JSON body, such as `prompt_cache_key` or `user`), `key` (the client's name, or
    /// its credentials), `prompt:BYTES` (the first bytes of `messages`, `input` or `prompt`). A
    /// backend that has more than its share in flight is passed over. Default: none. See
    /// [`route`](crate::route).
    pub fn affinity<T: Into<String>>(mut self, sources: impl IntoIterator<Item = T>) -> Self {
        self.settings.affinity = sources.into_iter().map(Into::into).collect();
        self
    }

    /// How long a request waits for a place if all its backends have
    /// [`max_in_flight`](BackendConfig::max_in_flight), in order of arrival; then it is answered 503,
    /// `connection_limit_reached`. At most 1024 requests wait in the process. Default: 0.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Requires one of the keys in this file of every request. See [`keys`](crate::keys). It is read
    /// when the configuration is built. Default: none.
    pub fn keys_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.keys_file = Some(path.into());
        self
    }

    /// Adds a client: a key, or limits for one that the host application knows. Their names, and
    /// those in the keys file, are unique. See [`keys`](crate::keys).
    pub fn client(mut self, client: ClientConfig) -> Self {
        self.clients.push(client);
        self
    }

    /// Validates everything, and reads the environment variables that backends name.
    ///
    /// Durations are clamped to 30 years.
    ///
    /// # Errors
    ///
    /// The first field that is invalid, under its name in a file, such as
    /// `primary_backends[1].url`.
    pub fn build(self) -> Result<Config, ConfigError> {
        self.build_with(&|name| std::env::var_os(name))
    }
}

/// One backend, for [`ConfigBuilder::backend`]. It is validated by [`ConfigBuilder::build`].
#[derive(Clone)]
#[must_use]
pub struct BackendConfig {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) model: String,
    pub(super) models: Option<Models>,
    pub(super) timeout: Option<Duration>,
    pub(super) api_key: Option<Source>,
    pub(super) api_key_field: Option<String>,
    pub(super) headers: Vec<(String, Source)>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) proxy: Option<String>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) websocket: bool,
    pub(super) priority: i64,
    pub(super) weight: f64,
    pub(super) max_in_flight: Option<u64>,
    pub(super) provider: Option<String>,
}

/// The models of a backend, as they were written: messages name their places.
#[derive(Clone, Debug)]
pub(super) enum Models {
    Patterns(Vec<String>),
    Names(Vec<(String, String)>),
}

/// Where the value of a field comes from.
#[derive(Clone)]
pub(super) enum Source {
    Given(String),
    Variable(String),
    File(PathBuf),
}

impl BackendConfig {
    /// A backend called `name` at the base URL `url`.
    ///
    /// The name identifies the backend in logs, in health and in routing (the header field
    /// `X-Proxy-Backend`). It must not be empty, contain control characters, or begin or end with
    /// blanks.
    ///
    /// The path of a request, such as `/chat/completions`, is appended to the URL. It is absolute,
    /// `http` or (with one of the cargo features `native-tls` and `rustls`) `https`, without user
    /// name, password and fragment. Its query, such as Azure's `?api-version=…`, is kept. An empty
    /// URL makes the backend a placeholder, which is skipped.
    ///
    /// `unix:/path/to.sock:/v1` is the base path `/v1` at a Unix socket, which must be absolute;
    /// without `:/v1` the base path is empty. Requests have `Host: localhost`.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            model: String::new(),
            models: None,
            timeout: None,
            api_key: None,
            api_key_field: None,
            headers: Vec::new(),
            ca_file: None,
            client_cert: None,
            client_key: None,
            proxy: None,
            paths: None,
            websocket: true,
            priority: 0,
            weight: 1.0,
            max_in_flight: None,
            provider: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has no URL, so that it is skipped.
    pub fn is_placeholder(&self) -> bool {
        self.url.is_empty()
    }

    /// Replaces the base URL.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Replaces the request's `model` by this one, which must not contain control characters.
    /// Default: empty, which leaves it as it is.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }

    /// Serves only models that match one of these patterns, at least one: `gpt-4o` (exactly this),
    /// `gpt-*` (`*` stands for anything, the empty string included). Names are case-sensitive.
    ///
    /// A request goes to the backends whose best pattern for its model is the most specific of all:
    /// a name comes before any pattern, and of two patterns the one with more characters comes first.
    /// Those without patterns come last. A model that no backend serves is answered with 404,
    /// `model_not_found`. Default: every model.
    ///
    /// ```
    /// use tower_openai_proxy::BackendConfig;
    ///
    /// let openai = BackendConfig::new("openai", "https://api.openai.com/v1").models(["gpt-*", "o*"]);
    /// let local = BackendConfig::new("local", "http://127.0.0.1:8080/v1"); // everything else
    /// ```
    pub fn models<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        let patterns = patterns.into_iter().map(Into::into);
        self.models = Some(Models::Patterns(patterns.collect()));
        self
    }

    /// Like [`models`](Self::models), with the name that the backend gets for each pattern, which
    /// comes before [`model`](Self::model). In the name, `*` stands for what the pattern's `*`
    /// matched; an empty one leaves the client's. The later of the two calls counts.
    ///
    /// ```
    /// use tower_openai_proxy::BackendConfig;
    ///
    /// let openai = BackendConfig::new("openai", "https://api.openai.com/v1").model_names([
    ///     ("fast", "gpt-4o-mini"), // an alias
    ///     ("openai/*", "*"),       // takes a prefix off
    ///     ("gpt-*", ""),           // as it is
    /// ]);
    /// ```
    pub fn model_names<P, N>(mut self, names: impl IntoIterator<Item = (P, N)>) -> Self
    where
        P: Into<String>,
        N: Into<String>,
    {
        let names = names.into_iter();
        let names = names.map(|(pattern, name)| (pattern.into(), name.into()));
        self.models = Some(Models::Names(names.collect()));
        self
    }

    /// Overrides [`ConfigBuilder::timeout`] for this backend.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends `key` to this backend as `Authorization: Bearer …` in place of the client's
    /// credentials, which this backend then never sees: `Authorization`, `api-key`, `x-api-key`, and
    /// the key among the subprotocols of a WebSocket; nor does it see the client's `Cookie`,
    /// `OpenAI-Organization` and `OpenAI-Project`. Default: the client's credentials.
    ///
    /// Clients still need credentials of their own unless [`ConfigBuilder::require_auth`] is off.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(Source::Given(key.into()));
        self
    }

    /// Like [`api_key`](Self::api_key), with the key in the environment variable `name`, which is
    /// read when the configuration is built, unless the backend is a placeholder. The last of the
    /// calls that give a key counts.
    pub fn api_key_env(mut self, name: impl Into<String>) -> Self {
        self.api_key = Some(Source::Variable(name.into()));
        self
    }

    /// Like [`api_key_env`](Self::api_key_env), with the key in a file; a line end behind it is no
    /// part of it.
    ///
    /// The file is read again once a second, by a thread that runs as long as a layer uses it, so
    /// that a new key needs no reload. A file that goes missing or can't be used leaves the last key
    /// in place; the log says so once, at level `WARN`.
    pub fn api_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.api_key = Some(Source::File(path.into()));
        self
    }

    /// The field in which the key is sent: `authorization` (as `Bearer …`), `api-key` or `x-api-key`
    /// (the bare key, as Azure and others expect it). Default: `authorization`.
    pub fn api_key_field(mut self, name: impl Into<String>) -> Self {
        self.api_key_field = Some(name.into());
        self
    }

    /// Sets this field on requests to this backend, in place of the client's fields of that name:
    /// `OpenAI-Organization`, say, or `HTTP-Referer`. A second call with the same name replaces the
    /// first.
    ///
    /// Not allowed are `Host`, `Content-Length` and fields that concern one connection, such as
    /// `Connection` (RFC 9110, section 7.6.1).
    ///
    /// `Authorization` counts as a key of the backend's own, as [`api_key`](Self::api_key) gives it,
    /// and can't stand beside one. An `api-key` or `x-api-key` replaces the client's fields of these
    /// names only; but it is the operator's, so that the same [`paths`](Self::paths) are served as
    /// with a key. A browser's preflight request gets no secrets.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with_header(name.into(), Source::Given(value.into()))
    }

    /// Like [`header`](Self::header), with a secret in the environment variable `variable`, which
    /// must not be empty and is read when the configuration is built.
    pub fn header_env(self, name: impl Into<String>, variable: impl Into<String>) -> Self {
        self.with_header(name.into(), Source::Variable(variable.into()))
    }

    /// Like [`header`](Self::header), with a secret in a file, which is read again as that of
    /// [`api_key_file`](Self::api_key_file) is.
    pub fn header_file(self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.with_header(name.into(), Source::File(path.into()))
    }

    fn with_header(mut self, name: String, source: Source) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, source));
        self
    }

    /// Trusts the certificate authorities in this file, in PEM form, in place of the system's. It is
    /// read when the configuration is built.
    ///
    /// This, [`client_cert`](Self::client_cert) and [`client_key`](Self::client_key) are for
    /// [`Forward`](crate::Forward), with one of the cargo features `native-tls` and `rustls`; a client
    /// of your own has settings of its own.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Shows this certificate to the backend (mutual TLS): a file in PEM form, with those of its
    /// issuers after it. It needs a [`client_key`](Self::client_key). Both are read when the
    /// configuration is built.
    pub fn client_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_cert = Some(path.into());
        self
    }

    /// The private key of [`client_cert`](Self::client_cert): a file in PEM form (PKCS#8; PKCS#1 and
    /// SEC1, too, but with `native-tls` on Windows and Apple's systems), without a passphrase.
    pub fn client_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_key = Some(path.into());
        self
    }

    /// Connects to the backend through an HTTP proxy, `http://host:port` or
    /// `http://user:password@host:port` (percent-encoded). An empty text connects directly, whatever
    /// the environment says. Default: directly, or what
    /// [`Config::with_env_proxies`](super::Config::with_env_proxies) finds.
    ///
    /// To `https` backends, and for WebSockets, the proxy is asked for a tunnel (`CONNECT`); requests
    /// to `http` backends are sent to it in absolute form (RFC 9112, section 3.2.2). Unix sockets are
    /// never proxied. It is for [`Forward`](crate::Forward); a client of your own has settings of its
    /// own.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Serves only paths that match one of these patterns, at least one: `/responses` (exactly
    /// this), `/responses/*` (everything below it), `*` (everything). Paths start below the base
    /// URL; a `*` may only stand at the end, and matches slashes, too.
    ///
    /// Default: every path or, with a key of the backend's own, those that generate or list models.
    pub fn paths<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.paths = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Whether requests for a WebSocket are sent to it. If no backend that serves the path takes
    /// them, they are answered 426, upon which clients use plain HTTP. Default: true.
    pub fn websocket(mut self, takes_websockets: bool) -> Self {
        self.websocket = takes_websockets;
        self
    }

    /// Tries it after the backends of a lower priority. Default: 0.
    pub fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// Its share of the requests, in proportion to the weights of the others, by
    /// [`Balance::LeastBusy`] and [`ConfigBuilder::affinity`]. Default: 1.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Sends it at most so many requests at a time, streams and WebSockets included until their end;
    /// then it is passed over. See [`ConfigBuilder::queue_timeout`]. Default: no limit.
    pub fn max_in_flight(mut self, requests: u64) -> Self {
        self.max_in_flight = Some(requests);
        self
    }

    /// Who generates its answers, as metrics and spans name it (`gen_ai.provider.name` of
    /// OpenTelemetry): `openai`, `groq`, `mistral_ai` or any other name. It must not be empty, contain
    /// control characters, or begin or end with blanks.
    ///
    /// Default: what the host tells (OpenAI, Azure OpenAI, Groq, Mistral, DeepSeek, xAI, Perplexity,
    /// Gemini, Vertex AI, Moonshot and Anthropic are known), else `openai`.
    pub fn provider(mut self, name: impl Into<String>) -> Self {
        self.provider = Some(name.into());
        self
    }
}

impl fmt::Debug for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let api_key = self.api_key.as_ref().map(|_| format_args!("Sensitive"));
        let proxy = self.proxy.as_ref().map(|_| format_args!("Sensitive"));
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("BackendConfig")
            .field("name", &self.name)
            .field("url", &BaseUrl::parse(&self.url).ok())
            .field("model", &self.model)
            .field("models", &self.models)
            .field("timeout", &self.timeout)
            .field("api_key", &api_key)
            .field("api_key_field", &self.api_key_field)
            .field("headers", &headers)
            .field("ca_file", &self.ca_file)
            .field("client_cert", &self.client_cert)
            .field("client_key", &self.client_key)
            .field("proxy", &proxy)
            .field("paths", &self.paths)
            .field("websocket", &self.websocket)
            .field("priority", &self.priority)
            .field("weight", &self.weight)
            .field("max_in_flight", &self.max_in_flight)
            .field("provider", &self.provider)
            .finish()
    }
}
