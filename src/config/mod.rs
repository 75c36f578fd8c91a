//! What the proxy is told: backends and settings, from a file, from text or from code.
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
mod error;
mod parse;
mod rules;
#[cfg(test)]
mod tests;
mod url;
mod warning;

use std::{ffi::OsString, fs, path::Path, str::FromStr, time::Duration};

use http::{HeaderValue, StatusCode};

#[cfg(fuzzing)]
pub(crate) use self::parse::parse;
pub(crate) use self::url::BaseUrl;
pub use self::{
    builder::{BackendConfig, ConfigBuilder},
    error::ConfigError,
    warning::ConfigWarning,
};
use crate::endpoint::PathPattern;

/// How an environment variable is looked up.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the proxy is told: backends and settings, validated.
///
/// Read from a file ([`from_path`](Config::from_path)), from text ([`FromStr`]), or made in code
/// ([`builder`](Config::builder)); all three are held to the same rules. Environment variables that
/// it names are read at that time.
///
/// The text is JSON in which `#`, `//` and `/* */` begin comments. Unknown fields, fields and
/// backends given twice, and a configuration without a usable backend are errors.
///
/// | field | default | meaning |
/// | --- | --- | --- |
/// | `primary_backends[].name` | required | see [`BackendConfig::new`] |
/// | `….url` | OpenAI's for `LLM1`, otherwise `""` | see [`BackendConfig::new`] |
/// | `….model` | `""` | see [`BackendConfig::model`] |
/// | `….timeout` | `settings.timeout` | seconds, see [`BackendConfig::timeout`] |
/// | `….api_key_env` | none | see [`BackendConfig::api_key_env`] |
/// | `….paths` | none | see [`BackendConfig::paths`] |
/// | `settings.timeout` | 600 | seconds, see [`ConfigBuilder::timeout`] |
/// | `settings.connect_timeout` | 10 | seconds, see [`ConfigBuilder::connect_timeout`] |
/// | `settings.idle_timeout` | 300 | seconds, see [`ConfigBuilder::idle_timeout`] |
/// | `settings.total_timeout` | `null` (none) | seconds, see [`ConfigBuilder::total_timeout`] |
/// | `settings.max_body_bytes` | 67108864 | see [`ConfigBuilder::max_body_bytes`] |
/// | `settings.max_held_bytes` | 1073741824 | see [`ConfigBuilder::max_held_bytes`] |
/// | `settings.max_upload_bytes` | 1073741824 | see [`ConfigBuilder::max_upload_bytes`] |
/// | `settings.require_auth` | `true` | see [`ConfigBuilder::require_auth`] |
/// | `settings.failover_on` | `[]` | see [`ConfigBuilder::failover_on`] |
/// | `settings.cooldown` | 5 | seconds, see [`ConfigBuilder::cooldown`] |
///
/// The [`Default`] is one backend, `LLM1`, at OpenAI, and every default of the table. A build
/// with neither of the cargo features `native-tls` and `rustls` has it, too, but can't reach that
/// backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// In the order of the file, placeholders included; at least one has a URL.
    pub(crate) backends: Vec<BackendSettings>,
    pub(crate) settings: Settings,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// The file can't be read, or what it says can't be used; the message names the file.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        fs::read_to_string(path)
            .map_err(ConfigError::unreadable)
            .and_then(|text| text.parse())
            .map_err(|error| error.in_file(path))
    }

    /// Begins a configuration in code: no backends yet, and every setting at its default.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The same configuration with every backend that has a URL at `url`: for demonstrations and
    /// tests.
    ///
    /// ```
    /// # use tower_openai_proxy::Config;
    /// let config = Config::default().with_backend_urls("http://127.0.0.1:9000/v1")?;
    /// # assert!(format!("{config:?}").contains("http://127.0.0.1:9000/v1"));
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `url` isn't one that a backend can have.
    pub fn with_backend_urls(mut self, url: &str) -> Result<Self, ConfigError> {
        let url =
            BaseUrl::parse(url).map_err(|a| ConfigError::field("url", format!("must be {a}")))?;
        for current in self.backends.iter_mut().filter_map(|b| b.url.as_mut()) {
            current.clone_from(&url);
        }
        Ok(self)
    }

    /// What may tell secrets to others than it was meant for, each kind once; none where all is
    /// well. [`OpenAiProxyLayer`](crate::OpenAiProxyLayer) logs them when it is made and at each
    /// reload.
    ///
    /// ```
    /// # use tower_openai_proxy::{BackendConfig, Config};
    /// let lan = BackendConfig::new("lan", "http://192.168.0.7:8080/v1");
    /// let config = Config::builder().backend(lan).build()?;
    ///
    /// assert_eq!(config.warnings().len(), 1); // not encrypted, and not this machine
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        warning::find(&self.backends)
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        parse::parse(text, &|name| std::env::var_os(name))
    }
}

impl Default for Config {
    fn default() -> Self {
        let openai = BackendSettings {
            name: "LLM1".into(),
            url: Some(BaseUrl::openai()),
            model: None,
            timeout: None,
            credential: None,
            paths: None,
        };
        Self {
            backends: vec![openai],
            settings: Settings::default(),
        }
    }
}

/// A validated backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendSettings {
    pub(crate) name: Box<str>,
    /// `None`: a placeholder.
    pub(crate) url: Option<BaseUrl>,
    pub(crate) model: Option<Box<str>>,
    pub(crate) timeout: Option<Duration>,
    /// `Bearer …`, marked sensitive.
    pub(crate) credential: Option<HeaderValue>,
    /// The paths that it serves; at least one.
    pub(crate) paths: Option<Box<[PathPattern]>>,
}

/// The validated settings. Each is described at the method of [`ConfigBuilder`] that has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) total_timeout: Option<Duration>,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_held_bytes: u64,
    pub(crate) max_upload_bytes: u64,
    pub(crate) require_auth: bool,
    pub(crate) failover_on: Vec<StatusCode>,
    pub(crate) cooldown: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            total_timeout: None,
            max_body_bytes: 64 * 1024 * 1024,
            max_held_bytes: 1024 * 1024 * 1024,
            max_upload_bytes: 1024 * 1024 * 1024,
            require_auth: true,
            failover_on: Vec::new(),
            cooldown: Duration::from_secs(5),
        }
    }
}
