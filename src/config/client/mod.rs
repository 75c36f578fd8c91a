//! Clients with keys or limits, in code and in a keys file, and which of them are allowed.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, fs, path::Path, sync::Arc, time::SystemTime};

use super::{
    BackendSettings, ConfigError, parse,
    rules::{allowed, is_name, must_be, patterns},
};
use crate::{
    client::{ClientName, Grant, Limits},
    digest::Digest,
    pattern::ModelPattern,
};

/// One client, for [`ConfigBuilder::client`](crate::ConfigBuilder::client): an entry of a keys file,
/// in code. See [`keys`](crate::keys).
#[derive(Clone)]
#[must_use]
pub struct ClientConfig {
    pub(super) name: String,
    pub(super) hash: Option<String>,
    pub(super) models: Option<Vec<String>>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) backends: Option<Vec<String>>,
    pub(super) requests_per_minute: Option<u64>,
    pub(super) max_in_flight: Option<u64>,
    pub(super) expires: Option<SystemTime>,
}

impl ClientConfig {
    /// The client whose [`ClientName`] is `name`: set by the host application or, with
    /// [`hash`](Self::hash), for requests with that key.
    ///
    /// With a hash, a name is 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            hash: None,
            models: None,
            paths: None,
            backends: None,
            requests_per_minute: None,
            max_in_flight: None,
            expires: None,
        }
    }

    /// The SHA-256 digest of the client's key, as [`keys::hash`](crate::keys::hash) gives it:
    /// `sha256:…`. With one client that has a hash, every request must have such a key, or a
    /// [`ClientName`] of the host application's. Default: none.
    pub fn hash(mut self, hash: impl Into<String>) -> Self {
        self.hash = Some(hash.into());
        self
    }

    /// Allows only models that match one of these patterns, at least one, as those of
    /// [`BackendConfig::models`](crate::BackendConfig::models); by the names that clients send.
    ///
    /// A `POST`, `PUT`, `PATCH` or WebSocket whose model can't be seen is allowed only where
    /// [`paths`](Self::paths) name its path by more than `*`. `GET /models` lists only these models.
    /// Default: all.
    pub fn models<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.models = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Allows only paths that match one of these patterns, at least one, as those of
    /// [`BackendConfig::paths`](crate::BackendConfig::paths). Default: all.
    pub fn paths<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.paths = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Allows only the backends with these names, at least one. The others are no candidates for the
    /// client's requests. Default: all.
    pub fn backends<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.backends = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// How many requests the client may send in a minute: a bucket of so many, which refills evenly.
    /// At least 1. Default: no limit.
    pub fn requests_per_minute(mut self, requests: u64) -> Self {
        self.requests_per_minute = Some(requests);
        self
    }

    /// How many requests of the client may be in flight, streams and WebSockets included until their
    /// end. At least 1. Default: no limit.
    pub fn max_in_flight(mut self, requests: u64) -> Self {
        self.max_in_flight = Some(requests);
        self
    }

    /// When the key expires. It says nothing of requests whose [`ClientName`] is the host
    /// application's. Default: never.
    pub fn expires(mut self, at: SystemTime) -> Self {
        self.expires = Some(at);
        self
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.hash.as_ref().map(|_| format_args!("Sensitive"));
        f.debug_struct("ClientConfig")
            .field("name", &self.name)
            .field("hash", &hash)
            .field("models", &self.models)
            .field("paths", &self.paths)
            .field("backends", &self.backends)
            .field("requests_per_minute", &self.requests_per_minute)
            .field("max_in_flight", &self.max_in_flight)
            .field("expires", &self.expires)
            .finish()
    }
}

/// A validated client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    pub(crate) name: ClientName,
    pub(crate) key: Option<Digest>,
    /// `None`: everything.
    pub(crate) grant: Option<Arc<Grant>>,
    pub(crate) limits: Limits,
    pub(crate) expires: Option<SystemTime>,
}

/// Clients as they are validated.
pub(super) struct Clients<'a> {
    backends: &'a [BackendSettings],
    list: Vec<ClientSettings>,
    /// How many of them are from code; the others are from the keys file.
    in_code: usize,
    names: HashMap<ClientName, usize>,
    keys: HashMap<Digest, usize>,
}

impl<'a> Clients<'a> {
    /// Those of code, and of the keys file.
    pub(super) fn validate(
        clients: Vec<ClientConfig>,
        keys_file: Option<&Path>,
        backends: &'a [BackendSettings],
    ) -> Result<Arc<[ClientSettings]>, ConfigError> {
        let mut valid = Self {
            backends,
            list: Vec::new(),
            in_code: usize::MAX,
            names: HashMap::new(),
            keys: HashMap::new(),
        };
        for client in clients {
            valid.add(client)?;
        }
        valid.in_code = valid.list.len();
        if let Some(path) = keys_file {
            valid.read(path)?;
        }
        Ok(valid.list.into())
    }

    fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        // The path isn't shown, lest it be a key.
        let unreadable = |error: &dyn fmt::Display| {
            let problem = format!(
                "names a file that can't be read: {error}; a relative path begins at the \
                 configuration's folder"
            );
            ConfigError::in_field("settings.keys_file", problem)
        };
        // Anything else, such as a FIFO, may block for ever.
        let is_file = fs::metadata(path)
            .map_err(|error| unreadable(&error))?
            .is_file();
        if !is_file {
            return Err(unreadable(&"not a regular file"));
        }
        let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
        parse::keys(&text, self).map_err(|error| error.in_file(path))
    }

    /// The path of a client in the configuration, or in the keys file.
    fn place(&self, index: usize) -> String {
        match index.checked_sub(self.in_code) {
            Some(index) => format!("keys[{index}]"),
            None => format!("clients[{index}]"),
        }
    }

    pub(super) fn add(&mut self, client: ClientConfig) -> Result<(), ConfigError> {
        let index = self.list.len();
        let field = |name: &str| format!("{}.{name}", self.place(index));
        let is_allowed = match client.hash {
            Some(_) => is_key_name(&client.name),
            None => is_name(&client.name),
        };
        if !is_allowed {
            return Err(must_be(allowed::KEY_NAME, field("name")));
        }
        let key = client.hash.map(|hash| {
            Digest::parse(&hash).ok_or_else(|| must_be(Digest::ALLOWED, field("hash")))
        });
        let models = client.models.map(|texts| models(&texts, &field("models")));
        let paths = client.paths.map(|paths| patterns(&paths, &field("paths")));
        let backends = client
            .backends
            .map(|names| self.backends(names, &field("backends")));
        let grant = Grant {
            models: models.transpose()?,
            paths: paths.transpose()?,
            backends: backends.transpose()?,
        };
        let limit = |limit: Option<u64>, name| match limit {
            Some(0) => Err(must_be(allowed::REQUESTS, field(name))),
            limit => Ok(limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX))),
        };
        let client = ClientSettings {
            name: ClientName::new(client.name),
            key: key.transpose()?,
            grant: (!grant.is_full()).then(|| Arc::new(grant)),
            limits: Limits {
                requests_per_minute: limit(client.requests_per_minute, "requests_per_minute")?,
                max_in_flight: limit(client.max_in_flight, "max_in_flight")?,
            },
            expires: client.expires,
        };
        let not_unique = |name: &str, other: usize| {
            let problem = format!("must be unique, but {} has the same", self.place(other));
            ConfigError::in_field(field(name), problem)
        };
        if let Some(other) = self.names.get(&client.name) {
            return Err(not_unique("name", *other));
        }
        if let Some(other) = client.key.and_then(|key| self.keys.get(&key)) {
            return Err(not_unique("hash", *other));
        }
        self.names.insert(client.name.clone(), index);
        if let Some(key) = client.key {
            self.keys.insert(key, index);
        }
        self.list.push(client);
        Ok(())
    }

    fn backends(&self, names: Vec<String>, field: &str) -> Result<Box<[Box<str>]>, ConfigError> {
        if names.is_empty() {
            return Err(must_be(allowed::BACKENDS, field));
        }
        for (index, name) in names.iter().enumerate() {
            if !self.backends.iter().any(|backend| *backend.name == **name) {
                return Err(must_be(allowed::BACKEND, format!("{field}[{index}]")));
            }
        }
        Ok(names.into_iter().map(Into::into).collect())
    }
}

fn models(texts: &[String], field: &str) -> Result<Box<[ModelPattern]>, ConfigError> {
    if texts.is_empty() {
        return Err(must_be(allowed::MODEL_PATTERNS, field));
    }
    let patterns = texts.iter().enumerate().map(|(index, text)| {
        ModelPattern::parse(text)
            .ok_or_else(|| must_be(ModelPattern::ALLOWED, format!("{field}[{index}]")))
    });
    patterns.collect()
}

/// Whether a name can be that of a key.
fn is_key_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}
