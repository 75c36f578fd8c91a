//! Where the model of a request stands, and how it is replaced there.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts, uri::PathAndQuery};
use http_body::Body;

use crate::{
    body::{Found, RequestBody, Scan},
    endpoint::{self, Matched},
    error::{Error, Kind},
    header::{self as fields, content_type, is_encoded, is_form, is_json},
    json, multipart, percent,
};

/// Paths whose JSON has a model: one of any type is replaced, and a missing one inserted.
pub(super) const MODEL_PATHS: [&str; 7] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/moderations",
    "/audio/speech",
    "/images/generations",
];

/// Paths whose forms have a model.
const FORM_PATHS: [&str; 5] = [
    "/audio/transcriptions",
    "/audio/translations",
    "/images/edits",
    "/images/variations",
    "/videos",
];

/// Where the model of a request stands, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the path: `/models/{model}`.
    Path,
    /// In the query: `model`, else `deployment`.
    Query,
    /// In the part `model` of a form.
    Form,
    /// At the top level of the JSON.
    Json {
        /// The path is one of [`MODEL_PATHS`].
        is_model_path: bool,
        /// The body has a JSON `Content-Type`, so it must be JSON.
        is_declared: bool,
        /// It has another one, but is taken for JSON where the model is overridden.
        is_assumed: bool,
    },
    None,
}

impl Place {
    pub(crate) fn of<B: Body>(parts: &Parts, body: &B) -> Self {
        let Some(matched) = Matched::of(&parts.extensions, &parts.uri) else {
            return Self::None;
        };
        let path = endpoint::normalize(matched.path(&parts.uri));
        let is_one_of = |paths: &[&str]| paths.iter().any(|it| *path == *it.as_bytes());
        let (method, headers) = (&parts.method, &parts.headers);
        let has_body = !body.is_end_stream();
        let is_write = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        if matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
            && path.len() > b"/models/".len()
            && path.starts_with(b"/models/")
        {
            return Self::Path;
        }
        if fields::is_websocket(method, parts.version, headers) {
            return Self::Query;
        }
        let content_type = content_type(headers);
        let is_form = content_type.is_some_and(is_form);
        if *method == Method::POST && is_form && is_one_of(&FORM_PATHS) {
            return Self::Form;
        }
        let is_declared = content_type.is_some_and(is_json);
        // There, whatever its type is.
        let is_chat = *path == *b"/chat/completions" && (has_body || *method == Method::POST);
        let is_model_path = is_chat || (*method == Method::POST && is_one_of(&MODEL_PATHS));
        if is_chat
            || (is_write && (is_declared || content_type.is_none()) && (has_body || is_model_path))
        {
            return Self::Json {
                is_model_path,
                is_declared,
                is_assumed: !is_write || !(is_declared || content_type.is_none()),
            };
        }
        Self::None
    }

    /// The place where the model isn't overridden.
    pub(crate) fn without_override(self) -> Self {
        match self {
            Self::Json {
                is_assumed: true, ..
            } => Self::None,
            _ => self,
        }
    }

    /// How the body is to be read so that the model is found, if it stands there.
    pub(crate) fn scan(self, headers: &HeaderMap, is_strict: bool) -> Result<Scan, Error> {
        match self {
            Self::Path | Self::Query | Self::None => Ok(Scan::No),
            Self::Form | Self::Json { .. } if is_encoded(headers) => {
                Err(Error::new(Kind::UnsupportedContentEncoding))
            }
            Self::Json { is_model_path, .. } => Ok(Scan::Json {
                is_strict: is_strict && is_model_path,
            }),
            Self::Form => content_type(headers)
                .and_then(|kind| multipart::boundary(kind.as_bytes()))
                .map(Scan::Form)
                .ok_or_else(|| Error::new(Kind::NoBoundary)),
        }
    }

    /// The model of a request whose body was scanned. Two different ones are an error: the backend
    /// might read the other.
    pub(crate) fn model(self, parts: &Parts, body: &RequestBody) -> Result<Option<String>, Error> {
        let values: Vec<Option<String>> = match self {
            Self::None => return Ok(None),
            Self::Path => {
                let model = endpoint::normalize(endpoint::path_of(parts));
                let model = model.strip_prefix(b"/models/").unwrap_or_default();
                return Ok(Some(String::from_utf8_lossy(model).into_owned()));
            }
            Self::Query => {
                let query = parts.uri.query().unwrap_or_default();
                let spans = query_values(query).into_iter();
                spans.map(|span| Some(decode_query(&query[span]))).collect()
            }
            Self::Form | Self::Json { .. } => match (self, body.found()) {
                (_, None) => return Ok(None),
                (Self::Json { is_declared, .. }, Some(Err(_))) if !is_declared => return Ok(None),
                (_, Some(Err(error))) => return Err(error.clone()),
                (_, Some(Ok(Found::Form(form)))) => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    let spans = form.models.iter();
                    spans
                        .map(|span| Some(text(body.copy(span.clone()))))
                        .collect()
                }
                (_, Some(Ok(Found::Json(found)))) => {
                    let values = found.models.iter().chain(&found.look_alikes);
                    values
                        .map(|value| json::decode_string(&body.copy(value.span.clone())))
                        .collect()
                }
            },
        };
        let mut values = values.into_iter();
        let first = values.next().flatten();
        if values.any(|value| value != first) {
            return Err(Error::new(Kind::TwoModels).with_param("model"));
        }
        Ok(first)
    }

    /// The request with this model in its place: every value is replaced; where there is none, one
    /// is inserted on [`MODEL_PATHS`].
    pub(crate) fn replace(
        self,
        mut parts: Parts,
        mut body: RequestBody,
        model: &str,
    ) -> Result<(Parts, RequestBody), Error> {
        let (spans, with) = match (self, body.found()) {
            (Self::Query, _) => {
                let is_replaced = replace_in_query(&mut parts.uri, model)
                    .map_err(|error| Error::new(Kind::Internal).with_source(error))?;
                if is_replaced && let Some(exchange) = body.exchange() {
                    exchange.configure_model(model);
                }
                return Ok((parts, body));
            }
            (Self::Path | Self::None, _) | (_, None) => return Ok((parts, body)),
            (
                Self::Json {
                    is_declared,
                    is_model_path,
                    ..
                },
                Some(Err(error)),
            ) => {
                if !is_declared && !is_model_path {
                    return Ok((parts, body));
                }
                return Err(error.clone());
            }
            (Self::Form, Some(Err(error))) => return Err(error.clone()),
            (Self::Json { is_model_path, .. }, Some(Ok(Found::Json(found)))) if is_model_path => {
                found.require_object()?.with_model(json::string(model))
            }
            (_, Some(Ok(Found::Json(found)))) => {
                let strings = found.models.iter().filter(|value| value.is_string);
                let spans = strings.map(|value| value.span.clone()).collect();
                (spans, json::string(model))
            }
            (_, Some(Ok(Found::Form(form)))) => (
                form.models.clone(),
                Bytes::copy_from_slice(model.as_bytes()),
            ),
        };
        if spans.is_empty() {
            return Ok((parts, body));
        }
        if let Some(exchange) = body.exchange() {
            exchange.configure_model(model);
        }
        body = body.replace(spans, with);
        if parts.headers.contains_key(header::CONTENT_LENGTH) {
            let length = HeaderValue::from(body.size_hint().lower());
            parts.headers.insert(header::CONTENT_LENGTH, length);
        }
        Ok((parts, body))
    }

    /// The same, with a name that the backend has for this very model: it is replaced in the path,
    /// too, but where the request would delete another one.
    pub(crate) fn rename(
        self,
        mut parts: Parts,
        body: RequestBody,
        model: &str,
    ) -> Result<(Parts, RequestBody), Error> {
        if self != Self::Path {
            return self.replace(parts, body, model);
        }
        // Without a name the path is that of the list.
        if parts.method != Method::DELETE && !model.is_empty() {
            replace_in_path(&mut parts, model)?;
        }
        Ok((parts, body))
    }
}

/// The spans of the values of `model` in a query or, where there is none, of `deployment`.
fn query_values(query: &str) -> Vec<Range<usize>> {
    let values = |wanted: &[u8]| {
        let mut start = 0;
        let mut spans = Vec::new();
        for parameter in query.split('&') {
            if let Some((name, value)) = parameter.split_once('=')
                && percent::decode(name) == wanted
            {
                let value_start = start + name.len() + 1;
                spans.push(value_start..value_start + value.len());
            }
            start += parameter.len() + 1;
        }
        spans
    };
    let models = values(b"model");
    if models.is_empty() {
        values(b"deployment")
    } else {
        models
    }
}

fn decode_query(value: &str) -> String {
    let decoded = percent::decode(&value.replace('+', " "));
    String::from_utf8_lossy(&decoded).into_owned()
}

fn replace_in_path(parts: &mut Parts, model: &str) -> Result<(), Error> {
    let Some(matched) = Matched::of(&parts.extensions, &parts.uri) else {
        return Ok(());
    };
    let path = parts.uri.path();
    let prefix = &path[..path.len() - matched.path(&parts.uri).len()];
    let mut target = format!("{prefix}/models/{}", percent::encode(model, b"/"));
    if endpoint::has_dot_segment(&target) {
        return Err(Error::new(Kind::DotSegments));
    }
    if let Some(query) = parts.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    set_target(&mut parts.uri, target)
        .map_err(|error| Error::new(Kind::Internal).with_source(error))
}

fn set_target(uri: &mut Uri, target: String) -> Result<(), http::Error> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(target))?);
    *uri = Uri::from_parts(parts)?;
    Ok(())
}

/// Whether there is a model to replace.
fn replace_in_query(uri: &mut Uri, model: &str) -> Result<bool, http::Error> {
    let query = uri.query().unwrap_or_default();
    let encoded = percent::encode(model, b"");
    let mut target = format!("{}?", uri.path());
    let mut at = 0;
    for span in query_values(query) {
        target.push_str(&query[at..span.start]);
        target.push_str(&encoded);
        at = span.end;
    }
    if at == 0 {
        return Ok(false);
    }
    target.push_str(&query[at..]);
    set_target(uri, target)?;
    Ok(true)
}
