//! What the fuzz targets (`fuzz/`) reach of the private parts. Only cargo-fuzz compiles it.

#![allow(missing_docs, missing_debug_implementations)]

use std::{ffi::OsString, ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body::SizeHint;

use crate::{
    Backend, Config, ConfigError,
    config::{self, BackendSettings},
    endpoint::{self, Ours, Prefixes},
    forward,
    model::splice::{self, Splice},
    multipart,
};

/// The body of which these are the pieces with its model replaced, or `None` where it is no JSON
/// object.
pub fn splice(pieces: &[&[u8]], model: &str) -> Option<Vec<u8>> {
    let mut splice = Splice::new(splice::json_string(model));
    for piece in pieces {
        splice.feed(Bytes::copy_from_slice(piece)).ok()?;
    }
    let pieces = splice.finish().ok()?;
    let length = pieces.remaining();
    let new = pieces.collect::<Vec<_>>().concat();
    assert_eq!(new.len() as u64, length);
    Some(new)
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
    config::parse(text, environment)
}

/// What a configuration came to.
pub struct Settings {
    pub backends: Vec<BackendView>,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub total_timeout: Option<Duration>,
    pub max_body_bytes: u64,
    pub failover_on: Vec<StatusCode>,
    pub cooldown: Duration,
}

pub struct BackendView {
    pub name: String,
    pub url: Option<Uri>,
    pub model: Option<String>,
    pub timeout: Option<Duration>,
    pub credential: Option<HeaderValue>,
}

pub fn settings(config: &Config) -> Settings {
    let view = |backend: &BackendSettings| BackendView {
        name: backend.name.to_string(),
        url: backend.url.clone(),
        model: backend.model.as_deref().map(str::to_owned),
        timeout: backend.timeout,
        credential: backend.credential.clone(),
    };
    let settings = config.settings.clone();
    Settings {
        backends: config.backends.iter().map(view).collect(),
        timeout: settings.timeout,
        connect_timeout: settings.connect_timeout,
        idle_timeout: settings.idle_timeout,
        total_timeout: settings.total_timeout,
        max_body_bytes: settings.max_body_bytes,
        failover_on: settings.failover_on,
        cooldown: settings.cooldown,
    }
}

pub fn backends(config: &Config) -> Vec<Backend> {
    Backend::all(config).to_vec()
}

/// A path has dot segments, and is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct DotSegments;

/// Whether a path is the proxy's, mounted at the usual prefixes or at others.
pub fn is_ours(prefixes: Option<&[&str]>, path: &str) -> Result<bool, DotSegments> {
    let prefixes = prefixes.map_or_else(Prefixes::default, Prefixes::new);
    match prefixes.classify(path) {
        Ours::Yes => Ok(true),
        Ours::No => Ok(false),
        Ours::DotSegments => Err(DotSegments),
    }
}

/// The part of a path that a backend gets.
pub fn within(path: &str) -> &str {
    endpoint::within(path)
}

/// The head of a request as it goes to a backend, its body being so long.
pub fn head(request: Request<()>, length: Option<u64>, backend: &Backend) -> Vec<u8> {
    let size = length.map_or_else(SizeHint::default, SizeHint::with_exact);
    let mut head = Vec::new();
    forward::encode_head(&request.into_parts().0, &size, backend, &mut head);
    head
}

/// Reads a response as ours and as hyper's client, and panics where the difference is unexplained.
pub fn response(input: &[u8]) {
    forward::fuzz(input);
}
