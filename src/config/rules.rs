//! What a configuration may say, whether it was read or built in code.

use std::time::Duration;

use super::{
    BackendConfig, BackendSettings, Config, ConfigBuilder, ConfigError, Environment, Settings,
    Weight,
    builder::Models,
    client::Clients,
    proxy,
    url::{BaseUrl, OPENAI_URL},
};
use crate::{
    affinity::Source,
    endpoint::PathPattern,
    pattern::{ModelMap, ModelPattern},
};

/// What is allowed, as messages say it after "must be".
pub(super) mod allowed {
    pub(crate) const AUTHORITIES: &str = "certificates of authorities in PEM form";
    pub(crate) const BACKEND: &str = "the name of a backend of the configuration";
    pub(crate) const BACKENDS: &str = "a list of names of backends, at least one";
    pub(crate) const BYTES: &str = "a whole number of bytes, 1 or more";
    pub(crate) const CLIENT_CERT: &str =
        "the client's certificate, and those of its issuers after it, in PEM form";
    pub(crate) const CLIENT_KEY: &str =
        "the private key of `client_cert` in PEM form, without a passphrase";
    pub(crate) const COOLDOWN: &str = "a number of seconds, 0 (never) or more";
    pub(crate) const HEADER: &str = "a header field other than `Host`, `Content-Length` and those \
        that concern one connection, such as `Connection`";
    pub(crate) const HEADER_SOURCE: &str = "a string, {\"env\": \"NAME\"} or {\"file\": \"PATH\"}";
    pub(crate) const HEADER_VALUE: &str =
        "visible ASCII characters, with blanks between them at most";
    pub(crate) const BALANCE: &str = "`\"order\"` or `\"least_busy\"`";
    pub(crate) const COUNT: &str = "a whole number, 1 or more";
    pub(crate) const PRIORITY: &str = "a whole number, less for those that come first";
    pub(crate) const QUEUE_TIMEOUT: &str = "a number of seconds, 0 (nobody waits) or more";
    pub(crate) const SOURCES: &str = "a list of sources such as `body:prompt_cache_key`";
    pub(crate) const WEIGHT: &str = "a positive number";
    pub(crate) const KEY: &str = "visible ASCII characters, at least one, without blanks";
    pub(crate) const KEY_FIELD: &str = "`authorization`, `api-key` or `x-api-key`";
    pub(crate) const KEY_NAME: &str = "a name of 1 to 64 letters, digits, `.`, `_` and `-`";
    pub(crate) const MODEL: &str = "a model's name, without control characters";
    pub(crate) const MODEL_PATTERNS: &str = "a list of model patterns, at least one";
    pub(crate) const MODELS: &str =
        "a list of model patterns, or an object from patterns to names, with at least one";
    pub(crate) const NAME: &str =
        "a name: not empty, without control characters and blanks at its ends";
    pub(crate) const PATHS: &str = "a list of path patterns, at least one";
    pub(crate) const REQUESTS: &str = "a whole number of requests, 1 or more";
    pub(crate) const SECONDS: &str = "a positive number of seconds";
    pub(crate) const STATUS: &str = "a status code from 300 to 599";
}

/// No clock runs longer: [`Instant`](std::time::Instant) plus any duration could overflow.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

impl ConfigBuilder {
    pub(super) fn build_with(self, environment: Environment<'_>) -> Result<Config, ConfigError> {
        let source = self.clone();
        let mut backends: Vec<BackendSettings> = Vec::with_capacity(self.backends.len());
        for (index, backend) in self.backends.into_iter().enumerate() {
            let path = format!("primary_backends[{index}]");
            let backend = backend.validate(&path, environment)?;
            if let Some(first) = backends.iter().position(|b| b.name == backend.name) {
                let taken = format!("primary_backends[{first}] is called `{}`", backend.name);
                let problem = format!("must be unique, but {taken} as well");
                return Err(ConfigError::in_field(path + ".name", problem));
            }
            backends.push(backend);
        }
        if backends.iter().all(|backend| backend.url.is_none()) {
            let example = format!(r#"{{ "name": "LLM1", "url": "{OPENAI_URL}" }}"#);
            let problem = format!("must have at least one backend with a URL, such as {example}");
            return Err(ConfigError::in_field("primary_backends", problem));
        }
        if self.env_proxies {
            proxy::apply(&mut backends, environment)?;
        }
        let settings = self.settings.validate()?;
        let clients = Clients::validate(self.clients, self.keys_file.as_deref(), &backends)?;
        Ok(Config {
            backends,
            settings,
            clients,
            source,
        })
    }
}

impl BackendConfig {
    /// `path` is this backend's, such as `primary_backends[1]`.
    fn validate(
        self,
        path: &str,
        environment: Environment<'_>,
    ) -> Result<BackendSettings, ConfigError> {
        let field = |name| format!("{path}.{name}");
        if !is_name(&self.name) {
            return Err(must_be(allowed::NAME, field("name")));
        }
        if self.model.contains(char::is_control) {
            return Err(must_be(allowed::MODEL, field("model")));
        }
        let url = match self.url.as_str() {
            "" => None,
            url => Some(BaseUrl::parse(url).map_err(|allowed| must_be(allowed, field("url")))?),
        };
        let models = self.models.as_ref();
        let models = models.map(|models| models.validate(&field("models")));
        let timeout = self.timeout.map(|time| positive(time, field("timeout")));
        let tls = self.tls(path)?;
        let via = self.via(path)?;
        let (own_fields, has_key) = self.own_fields(path, environment)?;
        if self.provider.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(must_be(allowed::NAME, field("provider")));
        }
        let paths = self.paths.map(|paths| patterns(&paths, &field("paths")));
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return Err(must_be(allowed::WEIGHT, field("weight")));
        }
        if self.max_in_flight == Some(0) {
            return Err(must_be(allowed::COUNT, field("max_in_flight")));
        }
        Ok(BackendSettings {
            name: self.name.into(),
            url,
            model: (!self.model.is_empty()).then(|| self.model.into()),
            models: models.transpose()?,
            timeout: timeout.transpose()?,
            own_fields,
            has_key,
            tls,
            via,
            paths: paths.transpose()?,
            websocket: self.websocket,
            priority: self.priority,
            weight: Weight(self.weight),
            max_in_flight: self
                .max_in_flight
                .map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
            provider: self.provider.map(Into::into),
        })
    }
}

impl Models {
    /// `field` is the path of the models.
    fn validate(&self, field: &str) -> Result<ModelMap, ConfigError> {
        let pattern = |text: &str, field: &str| {
            ModelPattern::parse(text).ok_or_else(|| must_be(ModelPattern::ALLOWED, field))
        };
        let mut rules = Vec::new();
        match self {
            Self::Patterns(texts) => {
                for (index, text) in texts.iter().enumerate() {
                    rules.push((pattern(text, &format!("{field}[{index}]"))?, ""));
                }
            }
            Self::Names(names) => {
                for (text, name) in names {
                    let field = format!("{field}.{}", text.escape_debug());
                    let pattern = pattern(text, &field)?;
                    if name.contains(char::is_control) {
                        return Err(must_be(allowed::MODEL, field));
                    }
                    if name.contains('*') && pattern.name().is_some() {
                        let problem = "must have no `*`, as its pattern has none to stand for";
                        return Err(ConfigError::in_field(field, problem));
                    }
                    rules.push((pattern, name.as_str()));
                }
            }
        }
        if rules.is_empty() {
            return Err(must_be(allowed::MODELS, field));
        }
        Ok(ModelMap::new(rules))
    }
}

impl Settings {
    fn validate(self) -> Result<Self, ConfigError> {
        let timeout = positive(self.timeout, "settings.timeout")?;
        let connect_timeout = positive(self.connect_timeout, "settings.connect_timeout")?;
        let idle_timeout = positive(self.idle_timeout, "settings.idle_timeout")?;
        let tunnel_idle_timeout =
            positive(self.tunnel_idle_timeout, "settings.tunnel_idle_timeout")?;
        let total_timeout = self
            .total_timeout
            .map(|time| positive(time, "settings.total_timeout"));
        let ping = self.ping.map(|time| positive(time, "settings.ping"));
        for (bytes, field) in [
            (self.max_body_bytes, "settings.max_body_bytes"),
            (self.max_held_bytes, "settings.max_held_bytes"),
            (self.max_upload_bytes, "settings.max_upload_bytes"),
        ] {
            if bytes == 0 {
                return Err(must_be(allowed::BYTES, field));
            }
        }
        if self.failures == 0 {
            return Err(must_be(allowed::COUNT, "settings.failures"));
        }
        for (index, source) in self.affinity.iter().enumerate() {
            if Source::parse(source).is_none() {
                let field = format!("settings.affinity[{index}]");
                return Err(must_be(Source::ALLOWED, field));
            }
        }
        for (index, status) in self.failover_on.iter().enumerate() {
            if !(300..=599).contains(&status.as_u16()) {
                let field = format!("settings.failover_on[{index}]");
                return Err(must_be(allowed::STATUS, field));
            }
        }
        Ok(Self {
            timeout,
            connect_timeout: connect_timeout.min(timeout),
            idle_timeout,
            tunnel_idle_timeout,
            total_timeout: total_timeout.transpose()?,
            ping: ping.transpose()?,
            cooldown: self.cooldown.min(LONGEST),
            queue_timeout: self.queue_timeout.min(LONGEST),
            ..self
        })
    }
}

/// Whether a header field can carry `name` and come out with the same.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_control) && name.trim() == name
}

/// The patterns of the field `field`.
pub(super) fn patterns(texts: &[String], field: &str) -> Result<Box<[PathPattern]>, ConfigError> {
    if texts.is_empty() {
        return Err(must_be(allowed::PATHS, field));
    }
    let patterns = texts.iter().enumerate().map(|(index, text)| {
        PathPattern::parse(text)
            .ok_or_else(|| must_be(PathPattern::ALLOWED, format!("{field}[{index}]")))
    });
    patterns.collect()
}

fn positive(time: Duration, field: impl Into<String>) -> Result<Duration, ConfigError> {
    match time {
        Duration::ZERO => Err(must_be(allowed::SECONDS, field)),
        time => Ok(time.min(LONGEST)),
    }
}

pub(super) fn must_be(allowed: &str, field: impl Into<String>) -> ConfigError {
    ConfigError::in_field(field, format!("must be {allowed}"))
}
