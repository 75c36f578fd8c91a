//! The private parts that the fuzz targets and the oracle of responses (`fuzz/`) reach. Only they
//! compile it, by `--cfg fuzzing`.

#![allow(missing_docs, missing_debug_implementations)]

use std::{
    ffi::OsString,
    fmt::Debug,
    ops::Range,
    path::Path,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body::{Body, SizeHint};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    Backend, Config, ConfigError,
    config::{self, BackendSettings, OwnField},
    endpoint::{self, Matched, Mount, PathMatch, PathPattern},
    forward::{self, Asked, Framing},
    json::{self, Scanner},
    multipart, observe,
    pattern::{ModelMap, ModelPattern},
    rope::{Replaced, RopeBuilder},
};

/// A body in these chunks, with its model replaced. `None` if it isn't a JSON object.
pub fn splice(chunks: &[&[u8]], model: &str) -> Option<Vec<u8>> {
    let (mut scanner, mut rope) = (Scanner::for_object(), RopeBuilder::default());
    for chunk in chunks {
        scanner.feed(chunk).ok()?;
        rope.push(Bytes::copy_from_slice(chunk));
    }
    let found = scanner.finish().ok()?;
    let (spans, with) = found.with_model(json::string(model));
    let chunks = Replaced::new(rope.finish(), spans, with);
    let length = chunks.remaining();
    let new = chunks.collect::<Vec<_>>().concat();
    assert_eq!(new.len() as u64, length);
    Some(new)
}

/// Whether a JSON document in these chunks is an object. `None` if it isn't JSON.
pub fn is_object(chunks: &[&[u8]]) -> Option<bool> {
    let mut scanner = Scanner::default();
    for chunk in chunks {
        scanner.feed(chunk).ok()?;
    }
    Some(scanner.finish().ok()?.is_object)
}

/// The usage object in an answer that arrives in these chunks.
pub fn usage(chunks: &[&[u8]], is_stream: bool) -> Option<Vec<u8>> {
    observe::fuzz(chunks, is_stream)
}

/// The spans of the `model` parts in a body that arrives in these chunks, or `None` where it is no
/// form of this Content-Type.
pub fn multipart(content_type: &[u8], chunks: &[&[u8]]) -> Option<Vec<Range<usize>>> {
    let mut scanner = multipart::Scanner::new(&multipart::boundary(content_type)?);
    for chunk in chunks {
        scanner.feed(chunk).ok()?;
    }
    let multipart::Found { models } = scanner.finish().ok()?;
    Some(models)
}

/// Reads a configuration in an environment that isn't the process's.
pub fn config(
    text: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Config, ConfigError> {
    config::parse(text, Path::new(""), environment)
}

/// A view of the configuration.
pub struct Settings {
    pub backends: Vec<BackendView>,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub total_timeout: Option<Duration>,
    pub max_body_bytes: u64,
    pub max_held_bytes: u64,
    pub max_upload_bytes: u64,
    pub failover_on: Vec<StatusCode>,
    pub cooldown: Duration,
}

pub struct BackendView {
    pub name: String,
    pub url: Option<Uri>,
    pub model: Option<String>,
    pub timeout: Option<Duration>,
    /// Each of the operator's, and whether it is a secret.
    pub own_fields: Vec<(HeaderName, HeaderValue, bool)>,
    /// As `Debug` shows them.
    pub paths: String,
}

pub fn settings(config: &Config) -> Settings {
    let own_field = |field: &OwnField| {
        let value = field.value.get().into_owned();
        (field.name.clone(), value, field.value.is_secret())
    };
    let view = |backend: &BackendSettings| BackendView {
        name: backend.name.to_string(),
        url: backend.url.as_ref().map(|url| {
            let query = url.query().map(|query| format!("?{query}"));
            let path_and_query = format!("{}/{}", url.path(), query.unwrap_or_default());
            let mut parts = url.origin().clone().into_parts();
            parts.path_and_query = Some(path_and_query.parse().expect("parsed before"));
            Uri::from_parts(parts).expect("parsed before")
        }),
        model: backend.model.as_deref().map(str::to_owned),
        timeout: backend.timeout,
        own_fields: backend.own_fields.iter().map(own_field).collect(),
        paths: format!("{:?}", backend.paths),
    };
    let settings = config.settings.clone();
    Settings {
        backends: config.backends.iter().map(view).collect(),
        timeout: settings.timeout,
        connect_timeout: settings.connect_timeout,
        idle_timeout: settings.idle_timeout,
        total_timeout: settings.total_timeout,
        max_body_bytes: settings.max_body_bytes,
        max_held_bytes: settings.max_held_bytes,
        max_upload_bytes: settings.max_upload_bytes,
        failover_on: settings.failover_on,
        cooldown: settings.cooldown,
    }
}

pub fn backends(config: &Config) -> Vec<Backend> {
    Backend::all(config, &[]).to_vec()
}

/// A path has dot segments, and is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct DotSegments;

/// The path below the prefix, if it is an endpoint's, with the usual prefixes or with others.
pub fn endpoint<'a>(
    prefixes: Option<&[&str]>,
    uri: &'a Uri,
) -> Result<Option<&'a str>, DotSegments> {
    let mut mount = Mount::default();
    if let Some(prefixes) = prefixes {
        mount.set_prefixes(prefixes);
    }
    match mount.classify(uri.path()) {
        PathMatch::Endpoint(matched) => Ok(Some(matched.path(uri))),
        PathMatch::Other => Ok(None),
        PathMatch::Unsafe => Err(DotSegments),
    }
}

/// The path that a hand-made stack forwards.
pub fn forwarded(uri: &Uri) -> Result<&str, DotSegments> {
    let matched = Matched::of(&Extensions::new(), uri).ok_or(DotSegments)?;
    Ok(matched.path(uri))
}

/// Whether a path matches a pattern of paths. `None` where that is no such pattern.
pub fn path_matches(pattern: &str, path: &str) -> Option<bool> {
    let pattern = PathPattern::parse(pattern)?;
    Some(endpoint::matches([&pattern].into_iter(), path))
}

/// What a backend's `models` make of a client's names, and the other way round.
pub struct Models(ModelMap);

impl Models {
    /// From patterns and the backend's names. `None` where a configuration may not have them.
    pub fn new(rules: &[(&str, &str)]) -> Option<Self> {
        let mut allowed = Vec::new();
        for (pattern, name) in rules {
            let pattern = ModelPattern::parse(pattern)?;
            if pattern.name().is_some() && name.contains('*') {
                return None;
            }
            allowed.push((pattern, *name));
        }
        Some(Self(ModelMap::new(allowed)))
    }

    /// The backend's name for a model, which may be the client's. `None` where it isn't served.
    pub fn name(&self, model: &str) -> Option<String> {
        self.0.specificity(model)?;
        Some(self.0.rename(model).unwrap_or_else(|| model.to_owned()))
    }

    pub fn aliases(&self, name: &str) -> Vec<String> {
        self.0.aliases(name)
    }
}

/// The head of a request as it goes to a backend, its body being so long. `None` where it isn't
/// forwarded.
pub fn head(mut request: Request<()>, length: Option<u64>, backend: &Backend) -> Option<Vec<u8>> {
    let size = length.map_or_else(SizeHint::default, SizeHint::with_exact);
    request.extensions_mut().insert(backend.clone());
    forward::fuzz_head(request, &size).ok()
}

/// A request and its response on an HTTP/1.1 connection to a backend. Errors are texts.
pub struct Exchange<T, B>(forward::Exchange<T, B>);

/// The head of a response, without the fields of the connection.
pub struct Head {
    pub status: StatusCode,
    pub reason: Option<ReasonPhrase>,
    pub headers: HeaderMap,
}

impl<T, B> Exchange<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error: Debug> + Unpin,
{
    pub fn new(io: T, body: B, is_head_request: bool) -> Self {
        let framing = if body.is_end_stream() {
            Framing::None
        } else {
            Framing::Chunked
        };
        let asked = if is_head_request {
            Asked::Head
        } else {
            Asked::Content
        };
        // What the request is doesn't matter.
        let head = b"\r\n".into();
        Self(forward::Exchange::new(io, head, framing, body, asked))
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, String>> {
        // What is left in it must not come out again.
        let mut recycled =
            HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("spare"))]);
        let head = ready!(self.0.poll_head(cx, &mut recycled));
        let head = head.map(|head| Head {
            status: head.status,
            reason: head.reason,
            headers: head.headers,
        });
        Poll::Ready(head.map_err(text))
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        self.0.poll_data(cx).map_err(text)
    }

    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.0.take_trailers()
    }

    /// The connection, where another exchange may follow on it.
    pub fn into_reusable(self) -> Option<T> {
        self.0.into_reusable()
    }
}

fn text(error: impl Debug) -> String {
    format!("{error:?}")
}
