//! The policy: what a backend gets of a client's request, decided once for both versions of HTTP and
//! for clients other than [`Forward`](super::Forward).

#[cfg(test)]
mod tests;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{self, GetAll},
    request::Parts,
    uri::PathAndQuery,
};
use http_body::SizeHint;
use hyper::upgrade::OnUpgrade;

use super::{
    connect::Versions,
    message::{Asked, Framing},
};
use crate::{
    backend::{Backend, Origin},
    config::Proxy,
    endpoint::Matched,
    error::{Error, Kind},
    header::{
        ConnectionOptions, OPENAI_ORGANIZATION, OPENAI_PROJECT, X_PROXY_BACKEND, accepts_trailers,
        has_transfer_coding, is_credential, is_handshake, is_hop_by_hop, is_websocket,
        preflighted_method, protocols_without_keys,
    },
    percent::next_decoded,
};

static TE: HeaderName = header::TE;
static TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Where a request goes.
pub(super) struct Target {
    pub(super) backend: Backend,
    matched: Matched,
    /// The client's side of the WebSocket that the request asks for; few do.
    upgrade: Option<Box<OnUpgrade>>,
}

impl Target {
    /// Fails where a request can't be forwarded.
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Error> {
        let backend = request.extensions().get::<Backend>();
        let backend = backend.ok_or_else(|| Error::new(Kind::Unrouted))?;
        if has_transfer_coding(request.headers()) {
            return Err(Error::new(Kind::UnsupportedTransferCoding));
        }
        let matched = Matched::of(request.extensions(), request.uri())
            .ok_or_else(|| Error::new(Kind::DotSegments))?;
        // Neither `*` nor an authority can be appended to a base URL.
        if !matched.path(request.uri()).starts_with('/') {
            return Err(Error::not_found());
        }
        Ok(Self {
            backend: backend.clone(),
            matched,
            upgrade: None,
        })
    }

    /// The same, and the upgrade that the request may ask for. Fails where the server has none.
    pub(super) fn with_upgrade<B>(mut self, request: &mut Request<B>) -> Result<Self, Error> {
        if is_websocket(request.method(), request.version(), request.headers()) {
            let upgrade = request.extensions_mut().remove::<OnUpgrade>();
            let unavailable = || Error::new(Kind::UpgradeUnavailable).with_backend(&self.backend);
            self.upgrade = Some(Box::new(upgrade.ok_or_else(unavailable)?));
        }
        Ok(self)
    }

    /// Over which versions of HTTP the request can be sent.
    pub(super) fn versions(&self) -> Versions {
        if self.is_upgrade() {
            Versions::Http1
        } else {
            Versions::Any
        }
    }

    /// Where its connection goes.
    pub(super) fn origin(&self) -> &Origin {
        if self.is_upgrade() {
            self.backend.upgrade_origin()
        } else {
            self.backend.origin()
        }
    }

    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    pub(super) fn into_upgrade(self) -> Option<OnUpgrade> {
        self.upgrade.map(|upgrade| *upgrade)
    }
}

/// A client's request as its backend gets it.
pub(super) struct Outbound<'a> {
    parts: &'a Parts,
    target: &'a Target,
    framing: Framing,
    options: ConnectionOptions<'a>,
    /// A browser's preflight: it needs no credentials, so whose it is isn't known.
    is_preflight: bool,
    /// The backend doesn't see the client's keys.
    drops_keys: bool,
    /// Nor whose account it is, nor its cookies.
    drops_account: bool,
}

/// A field of a request.
pub(super) enum Field<'a> {
    Plain(&'a HeaderName, &'a HeaderValue),
    /// All of a cookie that HTTP/2 may have split (RFC 9113, section 8.2.3).
    Cookie(GetAll<'a, HeaderValue>),
    /// What marks the end of the body.
    Framing,
}

impl<'a> Outbound<'a> {
    /// `size` is the size of the body.
    pub(super) fn new(parts: &'a Parts, target: &'a Target, size: &SizeHint) -> Self {
        let framing = match size.exact() {
            None => Framing::Chunked,
            Some(0) if !announces_body(parts) => Framing::None,
            Some(length) => Framing::Length(length),
        };
        let is_preflight = preflighted_method(&parts.method, &parts.headers).is_some();
        Self {
            parts,
            target,
            framing,
            options: ConnectionOptions::of(&parts.headers),
            is_preflight,
            drops_keys: is_preflight || target.backend.drops_client_keys(),
            drops_account: is_preflight || target.backend.has_key(),
        }
    }

    pub(super) fn method(&self) -> &'a Method {
        &self.parts.method
    }

    pub(super) fn asked(&self) -> Asked {
        match self.parts.method {
            _ if self.target.is_upgrade() => Asked::Upgrade,
            Method::HEAD => Asked::Head,
            _ => Asked::Content,
        }
    }

    /// The fields that `Connection` names, which may come as trailers, too.
    pub(super) fn connection_fields(&self) -> Option<Box<[u8]>> {
        self.options.fields()
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn host(&self) -> &'a HeaderValue {
        self.target.backend.host()
    }

    /// The proxy that gets the request in absolute form.
    pub(super) fn forward_proxy(&self) -> Option<&'a Proxy> {
        self.target.origin().forward_proxy()
    }

    /// Writes the request target in origin form (RFC 9112, section 3.2.1): the base URL's path, the
    /// path below the prefix, the base URL's query, and the parameters of the client's query whose
    /// names it doesn't have.
    pub(super) fn write_target(&self, target: &mut Vec<u8>) {
        let Target {
            backend, matched, ..
        } = self.target;
        target.extend_from_slice(backend.base_path().as_bytes());
        target.extend_from_slice(matched.path(&self.parts.uri).as_bytes());
        let mut separator = b'?';
        let mut push = |parameters: &str| {
            target.push(separator);
            target.extend_from_slice(parameters.as_bytes());
            separator = b'&';
        };
        let own = backend.query().filter(|query| !query.is_empty());
        let query = self.parts.uri.query().filter(|query| !query.is_empty());
        own.into_iter().for_each(&mut push);
        match (own, query) {
            (_, None) => {}
            (None, Some(query)) => push(query),
            (Some(own), Some(query)) => {
                let parameters = query.split('&');
                parameters
                    .filter(|parameter| !has_parameter(own, parameter))
                    .for_each(push);
            }
        }
    }

    /// The same as a URL: for clients, and for the pseudo-header fields of HTTP/2.
    pub(super) fn uri(&self) -> Result<Uri, http::Error> {
        let mut target = Vec::new();
        self.write_target(&mut target);
        let mut uri = self.target.backend.origin().uri().clone().into_parts();
        uri.path_and_query = Some(PathAndQuery::from_maybe_shared(bytes::Bytes::from(target))?);
        Ok(Uri::from_parts(uri)?)
    }

    /// The header section but for `Host`: the backend's own fields, then the client's in their
    /// order.
    #[inline(always)]
    pub(super) fn for_each_field(&self, mut visit: impl FnMut(Field<'_>)) {
        for field in self.target.backend.own_fields() {
            if !(self.is_preflight && field.value.is_secret()) {
                visit(Field::Plain(&field.name, &field.value.get()));
            }
        }
        let mut framing_is_due = self.framing != Framing::None;
        let mut te_is_due = true;
        let mut cookie_is_due = true;
        for (name, value) in &self.parts.headers {
            match *name {
                // In its place, but with the length that the body has now.
                header::CONTENT_LENGTH | header::TRANSFER_ENCODING => {
                    if std::mem::take(&mut framing_is_due) {
                        visit(Field::Framing);
                    }
                }
                header::TE => {
                    if te_is_due && accepts_trailers(value) {
                        visit(Field::Plain(&TE, &TRAILERS));
                        te_is_due = false;
                    }
                }
                _ if self.is_dropped(name) => {}
                header::SEC_WEBSOCKET_PROTOCOL if self.drops_keys => {
                    if let Some(value) = protocols_without_keys(value, self.drops_account) {
                        visit(Field::Plain(name, &value));
                    }
                }
                header::COOKIE if self.parts.version == Version::HTTP_2 => {
                    if std::mem::take(&mut cookie_is_due) {
                        visit(Field::Cookie(self.parts.headers.get_all(header::COOKIE)));
                    }
                }
                _ => visit(Field::Plain(name, value)),
            }
        }
        if framing_is_due {
            visit(Field::Framing);
        }
    }

    /// Adds the same to a map.
    pub(super) fn append_to(&self, headers: &mut HeaderMap, joins_cookie: bool) {
        let own_fields = self.target.backend.own_fields();
        headers.reserve(self.parts.headers.len() + own_fields.len() + 1);
        self.for_each_field(|field| match field {
            Field::Plain(name, value) => {
                headers.append(name.clone(), value.clone());
            }
            Field::Cookie(crumbs) if joins_cookie => {
                headers.extend(join(crumbs).map(|cookie| (header::COOKIE, cookie)));
            }
            Field::Cookie(crumbs) => {
                for crumb in crumbs {
                    headers.append(header::COOKIE, crumb.clone());
                }
            }
            Field::Framing => {
                if let Framing::Length(length) = self.framing {
                    headers.insert(header::CONTENT_LENGTH, length.into());
                }
            }
        });
    }

    /// Whether a field isn't for the backend, whatever its value.
    #[inline(always)]
    fn is_dropped(&self, name: &HeaderName) -> bool {
        let mut own_fields = self.target.backend.own_fields().iter();
        if own_fields.any(|field| field.name == *name) {
            return true;
        }
        if self.target.is_upgrade() && is_handshake(name) {
            return false;
        }
        // It is known to the client or the proxy only, or the backend has one of its own.
        let is_private =
            self.drops_keys && (is_credential(name) || (self.drops_account && is_account(name)));
        is_private
            || *name == header::HOST
            || (self.target.backend.is_selectable() && *name == X_PROXY_BACKEND)
            || (*name == header::TRAILER && self.framing != Framing::Chunked)
            || is_hop_by_hop(name.as_str())
            || self.options.contains(name.as_str())
    }
}

fn is_account(name: &HeaderName) -> bool {
    *name == header::COOKIE || [OPENAI_ORGANIZATION, OPENAI_PROJECT].contains(name)
}

fn join(crumbs: GetAll<'_, HeaderValue>) -> Option<HeaderValue> {
    let crumbs: Vec<_> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).ok()
}

/// Whether a request without a body has a field that says so: where a body is expected (RFC 9110,
/// section 8.6), and where the client said so.
fn announces_body(parts: &Parts) -> bool {
    matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
        || parts.headers.contains_key(header::CONTENT_LENGTH)
}

/// Whether a query has a parameter with the name of this one, whatever of it is percent-encoded.
fn has_parameter(query: &str, parameter: &str) -> bool {
    let mut parameters = query.split('&');
    parameters.any(|other| decoded_name(other).eq(decoded_name(parameter)))
}

fn decoded_name(parameter: &str) -> impl Iterator<Item = u8> {
    let name = parameter.split('=').next().unwrap_or_default();
    let mut rest = name.as_bytes();
    std::iter::from_fn(move || {
        let is_plus = rest.first() == Some(&b'+');
        let (byte, after) = next_decoded(rest)?;
        rest = after;
        Some(if is_plus { b' ' } else { byte })
    })
}
