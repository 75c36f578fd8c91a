//! What goes to a backend.

use http::{HeaderName, header, request::Parts};

use crate::{
    backend::Backend,
    endpoint::Matched,
    header::{API_KEY, Nominated, X_PROXY_BACKEND, is_hop_by_hop},
};

/// Whether a field of a request isn't for this backend, whatever its value: it concerns the
/// connection or the proxy, or the backend's own takes its place.
pub(crate) fn stays_here(name: &HeaderName, nominated: &Nominated<'_>, backend: &Backend) -> bool {
    match *name {
        header::HOST => true,
        header::AUTHORIZATION if backend.credential().is_some() => true,
        _ if *name == API_KEY && backend.credential().is_some() => true,
        _ if *name == X_PROXY_BACKEND => true,
        _ => is_hop_by_hop(name.as_str()) || nominated.contains(name.as_str()),
    }
}

pub(crate) fn write_target(parts: &Parts, backend: &Backend, target: &mut Vec<u8>) {
    let path = match Matched::of(&parts.extensions, &parts.uri) {
        Some(matched) => matched.path(&parts.uri),
        None => "/",
    };
    backend.write_target(path, parts.uri.query(), target);
}
