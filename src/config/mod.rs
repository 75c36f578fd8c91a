//! The configuration: backends and settings, from a file, from text or from code.
//!
//! ```
//! use tower_openai_proxy::Config;
//!
//! let text = r#"{
//!   "primary_backends": [
//!     { "name": "LLM1", "url": "http://127.0.0.1:11434/v1", "model": "llama3.2" },  # tried first
//!     { "name": "LLM2", "url": "" }  // a placeholder: skipped until it has a URL
//!   ],
//!   "settings": { "timeout": 30, "failover_on": [429, 503] }
//! }"#;
//! assert!(text.parse::<Config>().is_ok());
//!
//! let error = text.replace("30", "0").parse::<Config>().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "line 6, column 28: `settings.timeout` must be a positive number of seconds",
//! );
//! ```

mod builder;
mod client;
mod error;
mod fields;
mod parse;
mod proxy;
mod rules;
#[cfg(test)]
mod tests;
mod tls;
mod url;
mod warning;

use std::{ffi::OsString, fmt, fs, path::Path, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};

#[cfg(fuzzing)]
pub(crate) use self::parse::parse;
use self::url::OPENAI_URL;
pub use self::{
    builder::{BackendConfig, Balance, ConfigBuilder},
    client::ClientConfig,
    error::ConfigError,
    warning::ConfigWarning,
};
pub(crate) use self::{
    client::ClientSettings,
    proxy::{Proxy, Via},
    url::BaseUrl,
};
use crate::{
    endpoint::PathPattern, header::is_credential, pattern::ModelMap, secret::FieldValue,
    tls::Client,
};

/// Looks up an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The validated configuration: backends and settings.
///
/// It is read from a file ([`from_path`](Config::from_path)), from text ([`FromStr`]), or made in
/// code ([`builder`](Config::builder)); the same rules apply to all three. Environment variables
/// that it names are read at that time, and so is its keys file.
///
/// The text is JSON in which `#`, `//` and `/* */` begin comments. Unknown fields, duplicate fields
/// and backends, and a configuration without a usable backend are errors. Relative paths in a file
/// are relative to its folder; those in text or in code, to the working directory.
///
/// | field | default | meaning |
/// | --- | --- | --- |
/// | `primary_backends[].name` | required | see [`BackendConfig::new`] |
/// | `….url` | OpenAI's for `LLM1`, otherwise `""` | see [`BackendConfig::new`] |
/// | `….model` | `""` | see [`BackendConfig::model`] |
/// | `….models` | every model | see [`BackendConfig::models`], [`BackendConfig::model_names`] |
/// | `….timeout` | `settings.timeout` | seconds, see [`BackendConfig::timeout`] |
/// | `….api_key_env` | none | see [`BackendConfig::api_key_env`] |
/// | `….api_key_file` | none | see [`BackendConfig::api_key_file`] |
/// | `….api_key_field` | `"authorization"` | see [`BackendConfig::api_key_field`] |
/// | `….accept_encoding` | the client's | `"identity"`: answers aren't compressed, so that their usage can be read |
/// | `….headers` | none | see [`BackendConfig::header`]; a secret is `{"env": "NAME"}` or `{"file": "PATH"}` |
/// | `….ca_file` | none | see [`BackendConfig::ca_file`] |
/// | `….client_cert`, `….client_key` | none | see [`BackendConfig::client_cert`] |
/// | `….proxy` | none | see [`BackendConfig::proxy`] |
/// | `….paths` | none | see [`BackendConfig::paths`] |
/// | `….websocket` | `true` | see [`BackendConfig::websocket`] |
/// | `….priority` | 0 | see [`BackendConfig::priority`] |
/// | `….weight` | 1 | see [`BackendConfig::weight`] |
/// | `….max_in_flight` | none | see [`BackendConfig::max_in_flight`] |
/// | `….provider` | by the host | see [`BackendConfig::provider`] |
/// | `settings.timeout` | 600 | seconds, see [`ConfigBuilder::timeout`] |
/// | `settings.connect_timeout` | 10 | seconds, see [`ConfigBuilder::connect_timeout`] |
/// | `settings.idle_timeout` | 300 | seconds, see [`ConfigBuilder::idle_timeout`] |
/// | `settings.tunnel_idle_timeout` | 3600 | seconds, see [`ConfigBuilder::tunnel_idle_timeout`] |
/// | `settings.total_timeout` | `null` (none) | seconds, see [`ConfigBuilder::total_timeout`] |
/// | `settings.ping` | `null` (none) | seconds, see [`ConfigBuilder::ping`] |
/// | `settings.max_body_bytes` | 67108864 | see [`ConfigBuilder::max_body_bytes`] |
/// | `settings.max_held_bytes` | 1073741824 | see [`ConfigBuilder::max_held_bytes`] |
/// | `settings.max_upload_bytes` | 1073741824 | see [`ConfigBuilder::max_upload_bytes`] |
/// | `settings.require_auth` | `true` | see [`ConfigBuilder::require_auth`] |
/// | `settings.backend_header` | `true` | see [`ConfigBuilder::backend_header`] |
/// | `settings.merge_models` | `true` | see [`ConfigBuilder::merge_models`] |
/// | `settings.failover_on` | `[]` | see [`ConfigBuilder::failover_on`] |
/// | `settings.cooldown` | 5 | seconds, see [`ConfigBuilder::cooldown`] |
/// | `settings.failures` | 1 | see [`ConfigBuilder::failures`] |
/// | `settings.balance` | `"order"` | or `"least_busy"`, see [`ConfigBuilder::balance`] |
/// | `settings.affinity` | `[]` | see [`ConfigBuilder::affinity`] |
/// | `settings.queue_timeout` | 0 | seconds, see [`ConfigBuilder::queue_timeout`] |
/// | `settings.keys_file` | none | see [`ConfigBuilder::keys_file`] |
///
/// The [`Default`] is one backend, `LLM1`, at OpenAI, and every default of the table. Builds with
/// neither of the cargo features `native-tls` and `rustls` have it, too, but can't reach that backend.
#[derive(Clone)]
pub struct Config {
    /// In the order of the file, placeholders included; at least one has a URL.
    pub(crate) backends: Vec<BackendSettings>,
    pub(crate) settings: Settings,
    /// Those of the keys file, and of code.
    pub(crate) clients: Arc<[ClientSettings]>,
    /// What it was built from.
    source: ConfigBuilder,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// The file can't be read, or its configuration is invalid; the message names the file.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("can't be read: {error}")))
            .and_then(|text| {
                let folder = path.parent().unwrap_or(Path::new(""));
                parse::parse(&text, folder, &|name| std::env::var_os(name))
            })
            .map_err(|error| error.in_file(path))
    }

    /// Starts a configuration in code, without backends and with every setting at its default.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// A builder that makes the same configuration, to change one that was read from a file.
    ///
    /// Environment variables that it names are read again when it is built.
    ///
    /// ```
    /// # use tower_openai_proxy::Config;
    /// let text = r#"{ "primary_backends": [{ "name": "local", "url": "http://127.0.0.1:1/v1" }] }"#;
    /// let config: Config = text.parse()?;
    ///
    /// let without_limit = config.to_builder().max_body_bytes(u64::MAX).build()?;
    /// # assert_ne!(without_limit, config);
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    pub fn to_builder(&self) -> ConfigBuilder {
        self.source.clone()
    }

    /// The keys file, which is read when the configuration is.
    pub fn keys_file(&self) -> Option<&Path> {
        self.source.keys_file.as_deref()
    }

    /// Whether a request needs a client key, unless the host application knows the client.
    pub(crate) fn needs_client_key(&self) -> bool {
        self.clients.iter().any(|client| client.key.is_some())
    }

    /// Sends connections to backends without a [`proxy`](BackendConfig::proxy) through those of the
    /// environment: `HTTPS_PROXY` and `HTTP_PROXY` by the scheme of the backend's URL, unless
    /// `NO_PROXY` excepts its host. Default: nobody asks the environment.
    ///
    /// The names may be in lower case, too, which comes first. `NO_PROXY` is a list, separated by
    /// commas or blanks, of names (`a.test` and `.a.test` are that name and all below it), addresses
    /// and networks (`10.0.0.0/8`), each with or without a port, or `*` for all. Loopback addresses,
    /// `localhost` and Unix sockets are never proxied. Configurations made of this one by
    /// [`to_builder`](Self::to_builder) ask the environment again.
    ///
    /// ```
    /// # use tower_openai_proxy::{BackendConfig, Config};
    /// let config = Config::builder()
    ///     .backend(BackendConfig::new("local", "http://127.0.0.1:11434/v1"))
    ///     .build()?
    ///     .with_env_proxies()?;
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A variable that is needed isn't the URL of an HTTP proxy; the message names it.
    pub fn with_env_proxies(mut self) -> Result<Self, ConfigError> {
        proxy::apply(&mut self.backends, &|name| std::env::var_os(name))?;
        self.source.env_proxies = true;
        Ok(self)
    }

    /// Settings that could send credentials to unintended hosts, let others use a key, or make every
    /// request fail; at most one warning of each kind.
    /// [`OpenAiProxyLayer`](crate::OpenAiProxyLayer) logs them when it is made and at each reload.
    ///
    /// ```
    /// # use tower_openai_proxy::{BackendConfig, Config};
    /// let lan = BackendConfig::new("lan", "http://192.168.0.7:8080/v1");
    /// let config = Config::builder().backend(lan).build()?;
    ///
    /// assert_eq!(config.warnings().len(), 1); // unencrypted, and to another machine
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        warning::find(self)
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        parse::parse(text, Path::new(""), &|name| std::env::var_os(name))
    }
}

impl Default for Config {
    fn default() -> Self {
        let source = BackendConfig::new("LLM1", OPENAI_URL);
        let openai = BackendSettings {
            name: source.name().into(),
            url: Some(BaseUrl::openai()),
            model: None,
            models: None,
            timeout: None,
            own_fields: [].into(),
            has_key: false,
            tls: None,
            via: Via::Unset,
            paths: None,
            websocket: true,
            priority: 0,
            weight: Weight(1.0),
            max_in_flight: None,
            provider: None,
        };
        Self {
            backends: vec![openai],
            settings: Settings::default(),
            clients: Arc::default(),
            source: Self::builder().backend(source),
        }
    }
}

/// Compares the result, not where it came from: two configurations are equal if one names the
/// environment variable that holds the key of the other.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.backends == other.backends
            && self.settings == other.settings
            && self.clients == other.clients
    }
}

impl Eq for Config {}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("backends", &self.backends)
            .field("settings", &self.settings)
            .field("clients", &self.clients.len())
            .finish()
    }
}

/// Positive and finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weight(pub(crate) f64);

impl Eq for Weight {}

/// A validated backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendSettings {
    pub(crate) name: Box<str>,
    /// `None`: a placeholder.
    pub(crate) url: Option<BaseUrl>,
    pub(crate) model: Option<Box<str>>,
    /// The models that it serves; `None`: every one.
    pub(crate) models: Option<ModelMap>,
    pub(crate) timeout: Option<Duration>,
    /// What requests to it get in place of the client's fields of these names.
    pub(crate) own_fields: Box<[OwnField]>,
    /// Whether one of them is a key that stands in for all credentials of the client.
    pub(crate) has_key: bool,
    /// What TLS to it uses in place of the defaults.
    pub(crate) tls: Option<Arc<Client>>,
    pub(crate) via: Via,
    /// The paths that it serves; at least one.
    pub(crate) paths: Option<Box<[PathPattern]>>,
    pub(crate) websocket: bool,
    pub(crate) priority: i64,
    pub(crate) weight: Weight,
    pub(crate) max_in_flight: Option<usize>,
    pub(crate) provider: Option<Box<str>>,
}

impl BackendSettings {
    /// Whether requests to it carry a credential of the operator's.
    pub(crate) fn has_credential(&self) -> bool {
        let mut fields = self.own_fields.iter();
        fields.any(|field| is_credential(&field.name))
    }
}

/// A header field that the operator sets on requests to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnField {
    pub(crate) name: HeaderName,
    pub(crate) value: FieldValue,
}

/// The validated settings. The methods of [`ConfigBuilder`] with the same names describe them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) tunnel_idle_timeout: Duration,
    pub(crate) total_timeout: Option<Duration>,
    pub(crate) ping: Option<Duration>,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_held_bytes: u64,
    pub(crate) max_upload_bytes: u64,
    pub(crate) require_auth: bool,
    pub(crate) backend_header: bool,
    pub(crate) merge_models: bool,
    pub(crate) clients_authenticated: bool,
    pub(crate) failover_on: Vec<StatusCode>,
    pub(crate) cooldown: Duration,
    pub(crate) failures: u32,
    pub(crate) balance: Balance,
    /// As they were written; each can be parsed.
    pub(crate) affinity: Vec<String>,
    pub(crate) queue_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            tunnel_idle_timeout: Duration::from_secs(3600),
            total_timeout: None,
            ping: None,
            max_body_bytes: 64 * 1024 * 1024,
            max_held_bytes: 1024 * 1024 * 1024,
            max_upload_bytes: 1024 * 1024 * 1024,
            require_auth: true,
            backend_header: true,
            merge_models: true,
            clients_authenticated: false,
            failover_on: Vec::new(),
            cooldown: Duration::from_secs(5),
            failures: 1,
            balance: Balance::Order,
            affinity: Vec::new(),
            queue_timeout: Duration::ZERO,
        }
    }
}
