//! The fields that the operator sets on requests to a backend: its key and `headers`.

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use http::{HeaderName, HeaderValue, header};

use super::{
    BackendConfig, ConfigError, Environment, OwnField,
    builder::Source,
    rules::{allowed, must_be},
};
use crate::{
    header::{API_KEY, X_API_KEY, is_credential, is_hop_by_hop},
    secret::{FieldValue, Parse, Problem, SecretFile},
};

impl BackendConfig {
    /// The fields, and whether one of them is a key in place of the client's credentials. `path` is
    /// this backend's. The secrets of a placeholder aren't read.
    pub(super) fn own_fields(
        &self,
        path: &str,
        environment: Environment<'_>,
    ) -> Result<(Box<[OwnField]>, bool), ConfigError> {
        let key_field = match &self.api_key_field {
            Some(name) => key_field(name)
                .ok_or_else(|| must_be(allowed::KEY_FIELD, format!("{path}.api_key_field")))?,
            None => header::AUTHORIZATION,
        };
        let mut fields: Vec<OwnField> = Vec::new();
        let mut has_key = self.api_key.is_some();
        if let Some(source) = &self.api_key {
            let secret = Secret {
                field: format!("{path}.{}", source.key_field()),
                owner: format!("`{}` of backend `{}`", source.key_field(), self.name),
                kind: "key",
                allowed: allowed::KEY,
                parse: if key_field == header::AUTHORIZATION {
                    bearer
                } else {
                    bare
                },
            };
            if !self.is_placeholder() {
                let value = secret.value(source, environment)?;
                let name = key_field.clone();
                fields.push(OwnField { name, value });
            }
        }
        for (index, (text, source)) in self.headers.iter().enumerate() {
            let field = format!("{path}.headers.{}", text.escape_debug());
            let name = HeaderName::try_from(text.as_str()).ok();
            let name = name.filter(may_be_set);
            let name = name.ok_or_else(|| must_be(allowed::HEADER, &*field))?;
            let mut others = self.headers[..index].iter();
            if others.any(|(other, _)| other.eq_ignore_ascii_case(text)) {
                let problem = "is given twice, in different case; once is allowed";
                return Err(ConfigError::in_field(field, problem));
            }
            if self.api_key.is_some() && (name == key_field || name == header::AUTHORIZATION) {
                let problem = "can't be set beside the backend's own key; give one of the two";
                return Err(ConfigError::in_field(field, problem));
            }
            has_key |= name == header::AUTHORIZATION;
            let secret = Secret {
                owner: format!("`headers.{name}` of backend `{}`", self.name),
                field,
                kind: "value",
                allowed: allowed::HEADER_VALUE,
                parse: value,
            };
            if !self.is_placeholder() {
                let mut value = secret.value(source, environment)?;
                if let (FieldValue::Fixed(value), Source::Given(_)) = (&mut value, source) {
                    value.set_sensitive(is_credential(&name) || name == header::COOKIE);
                }
                fields.push(OwnField { name, value });
            }
        }
        Ok((fields.into(), has_key))
    }
}

impl Source {
    /// The field of the configuration in which a key of this source stands.
    fn key_field(&self) -> &'static str {
        match self {
            Self::Given(_) => "api_key",
            Self::Variable(_) => "api_key_env",
            Self::File(_) => "api_key_file",
        }
    }
}

/// The field for a key that a configuration names.
fn key_field(name: &str) -> Option<HeaderName> {
    let mut names = [header::AUTHORIZATION, API_KEY, X_API_KEY].into_iter();
    names.find(|known| name.eq_ignore_ascii_case(known.as_str()))
}

fn may_be_set(name: &HeaderName) -> bool {
    let is_framing = matches!(
        *name,
        header::HOST | header::CONTENT_LENGTH | header::TRAILER
    );
    !is_framing && !is_hop_by_hop(name.as_str())
}

/// A value that is to be made.
struct Secret {
    /// Where it is configured.
    field: String,
    /// What the log calls it.
    owner: String,
    kind: &'static str,
    allowed: &'static str,
    parse: Parse,
}

impl Secret {
    fn value(
        &self,
        source: &Source,
        environment: Environment<'_>,
    ) -> Result<FieldValue, ConfigError> {
        let value = match source {
            Source::Given(text) => {
                let value = (self.parse)(text);
                value.ok_or_else(|| must_be(self.allowed, &*self.field))?
            }
            Source::Variable(name) => self.variable(name, environment(name))?,
            Source::File(path) => {
                let file = SecretFile::open(path.clone(), self.owner.clone(), self.parse);
                let file = file.map_err(|problem| self.in_file(&problem))?;
                return Ok(FieldValue::File(file.into()));
            }
        };
        Ok(FieldValue::Fixed(value))
    }

    fn variable(&self, name: &str, content: Option<OsString>) -> Result<HeaderValue, ConfigError> {
        let content = content.as_ref();
        let present = content.filter(|content| !content.is_empty());
        if let Some(value) = present.and_then(|content| (self.parse)(content.to_str()?)) {
            return Ok(value);
        }
        // Some write the key itself here: only what is surely a name is shown.
        let is_sure = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let name = if name.bytes().all(is_sure) {
            format!("the environment variable `{name}`")
        } else {
            "an environment variable (not shown, lest it be the key itself)".to_owned()
        };
        let problem = match content {
            None => "isn't set".to_owned(),
            Some(content) if content.is_empty() => "is empty".to_owned(),
            Some(_) => format!("has a value that can't be a {}", self.kind),
        };
        Err(self.error(&format!("{name}, which {problem}")))
    }

    /// The path isn't shown: some write the key itself there, too.
    fn in_file(&self, problem: &Problem) -> ConfigError {
        let kind = self.kind;
        self.error(&match problem {
            Problem::Unreadable(error) => format!("a file that can't be read ({error})"),
            Problem::Empty => "a file that is empty".to_owned(),
            Problem::Invalid => format!("a file with content that can't be a {kind}"),
        })
    }

    fn error(&self, named: &str) -> ConfigError {
        let Self { kind, allowed, .. } = self;
        let problem = format!("names {named}; it must hold the {kind}, {allowed}");
        ConfigError::in_field(&*self.field, problem)
    }
}

/// The value of `Authorization` for a key, where that can be one.
fn bearer(key: &str) -> Option<HeaderValue> {
    bare(key)?;
    sensitive(&format!("Bearer {key}"))
}

fn bare(key: &str) -> Option<HeaderValue> {
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| sensitive(key))?
}

/// The value of any field, which may be empty.
fn value(text: &str) -> Option<HeaderValue> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let is_value = text.bytes().all(is_allowed) && text.trim() == text;
    is_value.then(|| sensitive(text))?
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
