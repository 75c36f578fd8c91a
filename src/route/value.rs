//! The value by which a request keeps to a backend.

use http::{HeaderMap, header, request::Parts};
use http_body::Body;
use serde_json::value::RawValue;

use crate::{
    affinity::{Source, StableHash},
    body::RequestBody,
    client::ClientName,
    header::{API_KEY, X_API_KEY, is_encoded, keys_in_protocols},
    json,
    model::Place,
};

/// The hash of the first of these that a request has.
pub(super) fn hash(sources: &[Source], request: &Parts, body: &RequestBody) -> Option<StableHash> {
    let mut document = None;
    sources.iter().find_map(|source| {
        if let Source::Body(_) | Source::Prompt(_) = source {
            let document = document.get_or_insert_with(|| document_of(request, body));
            return in_document(source, document);
        }
        match source {
            Source::Key => key(request),
            Source::Header(name) => plain(request.headers.get(name)?.as_bytes()),
            Source::Body(_) | Source::Prompt(_) => None,
        }
    })
}

fn plain(value: &[u8]) -> Option<StableHash> {
    (!value.is_empty()).then(|| StableHash::of(value))
}

/// The JSON of a buffered body; empty where it has none.
fn document_of(request: &Parts, body: &RequestBody) -> Vec<u8> {
    let is_json = matches!(Place::of(request, body), Place::Json { .. });
    if !is_json || is_encoded(&request.headers) {
        return Vec::new();
    }
    let length = body.size_hint().exact().unwrap_or(0);
    body.copy(0..length as usize)
}

fn in_document(source: &Source, document: &[u8]) -> Option<StableHash> {
    let field = |name: &str| json::field(document, name).map(RawValue::get);
    match source {
        Source::Body(name) => {
            let text = json::decode_string(field(name)?.as_bytes())?;
            plain(text.as_bytes())
        }
        Source::Prompt(bytes) => {
            let prompts = ["messages", "input", "prompt"];
            let prompt = prompts.into_iter().find_map(field)?.as_bytes();
            plain(&prompt[..prompt.len().min(*bytes)])
        }
        Source::Header(_) | Source::Key => None,
    }
}

/// Of the client's name, else of its credentials.
fn key(request: &Parts) -> Option<StableHash> {
    if let Some(name) = request.extensions.get::<ClientName>() {
        return plain(name.as_str().as_bytes());
    }
    plain(credentials(&request.headers)?)
}

fn credentials(headers: &HeaderMap) -> Option<&[u8]> {
    let fields = [header::AUTHORIZATION, API_KEY, X_API_KEY];
    if let Some(value) = fields.iter().find_map(|name| headers.get(name)) {
        let value = value.as_bytes();
        return Some(value.strip_prefix(b"Bearer ").unwrap_or(value));
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    protocols.iter().flat_map(keys_in_protocols).next()
}
