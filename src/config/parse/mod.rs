//! The configuration as text: JSON with comments, turned into what the builder takes.
//!
//! The document is walked by hand, as derived types would take a list for an object, quote a wrong
//! value (which may be a key) in their messages, and not know the path of a field.

mod comments;
mod keys;
mod scan;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use http::StatusCode;
use serde_json::Value;

pub(super) use self::keys::keys;
use super::{
    BackendConfig, Balance, Config, ConfigBuilder, ConfigError, Environment, Settings,
    rules::allowed, url::OPENAI_URL,
};

/// Reads and validates `text`. Errors point to the line and column. Relative paths in it are relative
/// to `folder`.
pub(crate) fn parse(
    text: &str,
    folder: &Path,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    const CONFIGURATION: Kind = Kind {
        name: "configuration",
        content: "a JSON object with `primary_backends`",
    };
    read(text, CONFIGURATION, |document| {
        builder(document, folder)?.build_with(environment)
    })
}

/// What a document is, as messages say it.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    content: &'static str,
}

/// Reads a document. Errors point to the line and column.
fn read<T>(
    text: &str,
    kind: Kind,
    build: impl FnOnce(&Field<'_>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // a byte order mark
    let json = comments::blank(text).map_err(|start| {
        ConfigError::new("the comment that begins here has no end (`*/`)").at(text, start)
    })?;
    let Kind { name, content } = kind;
    if json.trim_ascii().is_empty() {
        let problem = format!("the {name} is empty; it must be {content}");
        return Err(ConfigError::new(problem).at(text, 0));
    }
    let document = serde_json::from_str(&json).map_err(|error| syntax(text, &error))?;
    if let Some((path, offset)) = scan::duplicate(&json) {
        return Err(
            ConfigError::in_field(path, "is given twice; once is allowed").at(text, offset),
        );
    }
    build(&Field::document(&document, name)).map_err(|error| {
        let field = error.field().filter(|_| error.file().is_none());
        match field.and_then(|path| scan::find(&json, path)) {
            Some(offset) => error.at(text, offset),
            None => error,
        }
    })
}

/// What serde_json says about text that isn't JSON, put for people.
fn syntax(text: &str, error: &serde_json::Error) -> ConfigError {
    let message = scan::message(error);
    let problem = match message.as_str() {
        _ if error.is_eof() => "it ends inside of a string, a list or an object",
        "expected value" => "a value is needed here, such as text in double quotes or a number",
        "key must be a string" => "the name of a field is needed here, in double quotes",
        _ if message.starts_with("control character") => {
            "a string must not hold a line break or control character; is a quote missing?"
        }
        message => message,
    };
    ConfigError::new(format!("not valid JSON: {problem}")).at(text, scan::offset(text, error))
}

fn builder(document: &Field<'_>, folder: &Path) -> Result<ConfigBuilder, ConfigError> {
    let mut builder = Config::builder();
    for (name, field) in document.members()? {
        match name {
            "primary_backends" => {
                for item in field.items("a list of backends")? {
                    builder = builder.backend(backend(&item, folder)?);
                }
            }
            "settings" => {
                let keys_file;
                (builder.settings, keys_file) = settings(&field)?;
                builder.keys_file = keys_file.map(|path| folder.join(path));
            }
            _ => return Err(field.unknown("`primary_backends` and `settings`")),
        }
    }
    Ok(builder)
}

fn backend(item: &Field<'_>, folder: &Path) -> Result<BackendConfig, ConfigError> {
    let (mut name, mut url) = (None, None);
    let mut backend = BackendConfig::new("", "");
    for (key, field) in item.members()? {
        match key {
            "name" => name = Some(field.string()?),
            "url" => url = Some(field.string()?),
            "model" => backend = backend.model(field.string()?),
            "models" => backend = models(backend, &field)?,
            "timeout" => backend = backend.timeout(field.seconds(allowed::SECONDS)?),
            "api_key_env" | "api_key_file" if backend.api_key.is_some() => {
                return Err(field.error("is one key too many; give it in one of the two"));
            }
            "api_key_env" => backend = backend.api_key_env(field.string()?),
            "api_key_file" => backend = backend.api_key_file(folder.join(field.string()?)),
            "api_key_field" => backend = backend.api_key_field(field.string()?),
            "accept_encoding" if field.string()? == "identity" => {
                backend = backend.header("Accept-Encoding", "identity");
            }
            "accept_encoding" => return Err(field.error("must be `identity`")),
            "headers" => {
                for (name, value) in field.members()? {
                    backend = header(backend, name, &value, folder)?;
                }
            }
            "ca_file" => backend = backend.ca_file(folder.join(field.string()?)),
            "client_cert" => backend = backend.client_cert(folder.join(field.string()?)),
            "client_key" => backend = backend.client_key(folder.join(field.string()?)),
            "proxy" => backend = backend.proxy(field.string()?),
            "paths" => {
                backend = backend.paths(field.strings(allowed::PATHS)?);
            }
            "websocket" => backend = backend.websocket(field.boolean()?),
            "priority" => backend = backend.priority(field.integer(allowed::PRIORITY)?),
            "weight" => backend = backend.weight(field.number(allowed::WEIGHT)?),
            "max_in_flight" => {
                backend = backend.max_in_flight(field.whole_number(allowed::COUNT)?);
            }
            "provider" => backend = backend.provider(field.string()?),
            _ => {
                return Err(field.unknown(
                    "`name`, `url`, `model`, `models`, `timeout`, `api_key_env`, `api_key_file`, \
                     `api_key_field`, `accept_encoding`, `headers`, `ca_file`, `client_cert`, `client_key`, `proxy`, `paths`, \
                     `websocket`, `priority`, `weight`, `max_in_flight` and `provider`",
                ));
            }
        }
    }
    backend.name = name.ok_or_else(|| item.error("needs a `name`"))?.into();
    backend.url = match url {
        Some(url) => url.into(),
        None if backend.name == "LLM1" => OPENAI_URL.into(),
        None => String::new(),
    };
    Ok(backend)
}

fn header(
    backend: BackendConfig,
    name: &str,
    value: &Field<'_>,
    folder: &Path,
) -> Result<BackendConfig, ConfigError> {
    if let Some(text) = value.value.as_str() {
        return Ok(backend.header(name, text));
    }
    if !value.value.is_object() {
        return Err(value.is_not(allowed::HEADER_SOURCE));
    }
    let mut members = value.members()?;
    match (members.next(), members.next()) {
        (Some(("env", variable)), None) => Ok(backend.header_env(name, variable.string()?)),
        (Some(("file", path)), None) => Ok(backend.header_file(name, folder.join(path.string()?))),
        _ => Err(value.error(format!("must be {}", allowed::HEADER_SOURCE))),
    }
}

fn models(backend: BackendConfig, field: &Field<'_>) -> Result<BackendConfig, ConfigError> {
    match field.value {
        Value::Object(_) => {
            let names = field.members()?;
            let names = names.map(|(pattern, name)| Ok((pattern, name.string()?)));
            Ok(backend.model_names(names.collect::<Result<Vec<_>, _>>()?))
        }
        _ => {
            let patterns = field.items(allowed::MODELS)?.map(|item| item.string());
            Ok(backend.models(patterns.collect::<Result<Vec<_>, _>>()?))
        }
    }
}

/// The settings, and the path of the keys file.
fn settings<'a>(object: &Field<'a>) -> Result<(Settings, Option<&'a str>), ConfigError> {
    let mut settings = Settings::default();
    let mut keys_file = None;
    for (key, field) in object.members()? {
        match key {
            "timeout" => settings.timeout = field.seconds(allowed::SECONDS)?,
            "connect_timeout" => settings.connect_timeout = field.seconds(allowed::SECONDS)?,
            "idle_timeout" => settings.idle_timeout = field.seconds(allowed::SECONDS)?,
            "tunnel_idle_timeout" => {
                settings.tunnel_idle_timeout = field.seconds(allowed::SECONDS)?;
            }
            "total_timeout" => settings.total_timeout = field.optional_seconds()?,
            "ping" => settings.ping = field.optional_seconds()?,
            "max_body_bytes" => settings.max_body_bytes = field.whole_number(allowed::BYTES)?,
            "max_held_bytes" => settings.max_held_bytes = field.whole_number(allowed::BYTES)?,
            "max_upload_bytes" => settings.max_upload_bytes = field.whole_number(allowed::BYTES)?,
            "require_auth" => settings.require_auth = field.boolean()?,
            "backend_header" => settings.backend_header = field.boolean()?,
            "merge_models" => settings.merge_models = field.boolean()?,
            "failover_on" => {
                settings.failover_on = field
                    .items("a list of status codes")?
                    .map(|item| item.status())
                    .collect::<Result<_, _>>()?;
            }
            "cooldown" => settings.cooldown = field.seconds(allowed::COOLDOWN)?,
            "failures" => {
                let failures = field.whole_number(allowed::COUNT)?;
                settings.failures = u32::try_from(failures).unwrap_or(u32::MAX);
            }
            "balance" => {
                settings.balance = match field.value.as_str() {
                    Some("order") => Balance::Order,
                    Some("least_busy") => Balance::LeastBusy,
                    Some(_) => return Err(field.error(format!("must be {}", allowed::BALANCE))),
                    None => return Err(field.is_not(allowed::BALANCE)),
                }
            }
            "affinity" => {
                let sources = field.strings(allowed::SOURCES)?;
                settings.affinity = sources.into_iter().map(Into::into).collect();
            }
            "queue_timeout" => settings.queue_timeout = field.seconds(allowed::QUEUE_TIMEOUT)?,
            "keys_file" => keys_file = Some(field.string()?),
            _ => {
                return Err(field.unknown(
                    "`timeout`, `connect_timeout`, `idle_timeout`, `tunnel_idle_timeout`, \
                     `total_timeout`, `ping`, `max_body_bytes`, `max_held_bytes`, `max_upload_bytes`, \
                     `require_auth`, `backend_header`, `merge_models`, `failover_on`, `cooldown`, \
                     `failures`, `balance`, `affinity`, `queue_timeout` and `keys_file`",
                ));
            }
        }
    }
    Ok((settings, keys_file))
}

/// A value of the document and the path that leads to it, such as `primary_backends[1].url`.
struct Field<'a> {
    path: String,
    value: &'a Value,
    /// The name of the document's [`Kind`].
    document: &'static str,
}

impl<'a> Field<'a> {
    fn document(value: &'a Value, document: &'static str) -> Self {
        let path = String::new();
        Self {
            path,
            value,
            document,
        }
    }

    fn inside(&self, path: String, value: &'a Value) -> Self {
        let document = self.document;
        Self {
            path,
            value,
            document,
        }
    }

    fn members(&self) -> Result<impl Iterator<Item = (&'a str, Field<'a>)>, ConfigError> {
        let members = self
            .value
            .as_object()
            .ok_or_else(|| self.is_not("an object"))?;
        Ok(members.iter().map(|(name, value)| {
            let path = scan::member(&self.path, name);
            (name.as_str(), self.inside(path, value))
        }))
    }

    fn items(&self, allowed: &str) -> Result<impl Iterator<Item = Field<'a>>, ConfigError> {
        let items = self.value.as_array().ok_or_else(|| self.is_not(allowed))?;
        Ok(items.iter().enumerate().map(|(index, value)| {
            let path = scan::item(&self.path, index);
            self.inside(path, value)
        }))
    }

    fn string(&self) -> Result<&'a str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.is_not("a string"))
    }

    fn strings(&self, allowed: &str) -> Result<Vec<&'a str>, ConfigError> {
        self.items(allowed)?.map(|item| item.string()).collect()
    }

    fn boolean(&self) -> Result<bool, ConfigError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.is_not("true or false"))
    }

    /// Seconds of any size, as a [`Duration`] that is zero only where they are.
    fn seconds(&self, allowed: &str) -> Result<Duration, ConfigError> {
        match self.value.as_f64() {
            Some(0.0) => Ok(Duration::ZERO),
            Some(seconds) if seconds > 0.0 => {
                let seconds = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                Ok(seconds.max(Duration::from_nanos(1)))
            }
            _ => Err(self.is_not(allowed)),
        }
    }

    /// Seconds, or none where it is null.
    fn optional_seconds(&self) -> Result<Option<Duration>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            _ => self.seconds(allowed::SECONDS).map(Some),
        }
    }

    fn number(&self, allowed: &str) -> Result<f64, ConfigError> {
        self.value.as_f64().ok_or_else(|| self.is_not(allowed))
    }

    fn integer(&self, allowed: &str) -> Result<i64, ConfigError> {
        match (self.value.as_i64(), self.value.as_f64()) {
            (Some(number), _) => Ok(number),
            (None, Some(float)) if float.fract() == 0.0 => Ok(float as i64),
            _ => Err(self.is_not(allowed)),
        }
    }

    /// `1e6` is one, too.
    fn whole_number(&self, allowed: &str) -> Result<u64, ConfigError> {
        match (self.value.as_u64(), self.value.as_f64()) {
            (Some(number), _) => Ok(number),
            (None, Some(float)) if float >= 0.0 && float.fract() == 0.0 => Ok(float as u64),
            _ => Err(self.is_not(allowed)),
        }
    }

    fn status(&self) -> Result<StatusCode, ConfigError> {
        let number = self.whole_number(allowed::STATUS)?;
        let code = u16::try_from(number).map_err(|_| self.is_not(allowed::STATUS))?;
        StatusCode::from_u16(code).map_err(|_| self.is_not(allowed::STATUS))
    }

    /// Names the kind of the value only: the value itself may be a secret.
    fn is_not(&self, allowed: &str) -> ConfigError {
        let found = match self.value {
            Value::Null => ", not null",
            Value::Bool(_) => ", not true or false",
            Value::Number(_) => "",
            Value::String(_) => ", not a string",
            Value::Array(_) => ", not a list",
            Value::Object(_) => ", not an object",
        };
        self.error(format!("must be {allowed}{found}"))
    }

    fn must_be(&self, allowed: &str) -> ConfigError {
        self.error(format!("must be {allowed}"))
    }

    fn unknown(&self, known: &str) -> ConfigError {
        self.error(format!("is not a known field; known here are {known}"))
    }

    fn error(&self, problem: impl Into<String>) -> ConfigError {
        match self.path.as_str() {
            "" => ConfigError::new(format!("the {} {}", self.document, problem.into())),
            path => ConfigError::in_field(path, problem),
        }
    }
}
