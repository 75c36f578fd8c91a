//! Header fields: names, and which of them concern one connection only (RFC 9110, section 7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// Azure's name for the field with the key.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The name that Anthropic's and Google's gateways have for it.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Whether a field holds a client's key.
pub(crate) fn is_credential(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION || *name == API_KEY || *name == X_API_KEY
}

/// Selects the one backend of a request, by its name. Not forwarded.
pub(crate) const X_PROXY_BACKEND: HeaderName = HeaderName::from_static("x-proxy-backend");

/// Fields that concern one connection, not the message.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What the `Connection` fields of a message say: whether the connection stays, and which other
/// fields are hop-by-hop as well.
#[derive(Default)]
pub(crate) struct Nominated<'a> {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    names: Vec<&'a [u8]>,
}

impl<'a> Nominated<'a> {
    /// Adds the options in one value of a `Connection` field.
    pub(crate) fn add(&mut self, value: &'a [u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            // These two come with most messages.
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if !option.is_empty() {
                self.names.push(option);
            }
        }
    }

    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut nominated = Self::default();
        for value in headers.get_all(header::CONNECTION) {
            nominated.add(value.as_bytes());
        }
        nominated
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        let is_named = |nominated: &&[u8]| nominated.eq_ignore_ascii_case(name.as_bytes());
        self.names.iter().any(is_named) || (self.close && name == "close")
    }

    /// The fields without the nominated ones, in their order.
    pub(crate) fn strip(&self, mut headers: HeaderMap) -> HeaderMap {
        if headers.keys().any(|name| self.contains(name.as_str())) {
            let all = std::mem::take(&mut headers);
            for (name, value) in &all {
                if !self.contains(name.as_str()) {
                    headers.append(name, value.clone());
                }
            }
        }
        headers
    }
}

/// The method that a browser's preflight announces, if the request is one (the Fetch standard,
/// section 4.8).
pub(crate) fn preflighted_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    let announced = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let is_preflight = *method == Method::OPTIONS && headers.contains_key(header::ORIGIN);
    Method::from_bytes(announced.as_bytes())
        .ok()
        .filter(|_| is_preflight)
}

/// Whether a request asks for a WebSocket (RFC 6455, section 4.1).
pub(crate) fn is_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let has = |name, wanted: &[u8]| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| {
            let mut items = value.as_bytes().split(|&byte| byte == b',');
            items.any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted))
        })
    };
    *method == Method::GET
        && has(header::UPGRADE, b"websocket")
        && has(header::CONNECTION, b"upgrade")
}

/// Whether a trailer is passed on: never one that frames, routes or authenticates the
/// message (RFC 9110, section 6.5.1).
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    let belongs_into_the_head = [
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TRAILER,
        API_KEY,
        X_PROXY_BACKEND,
    ];
    !is_hop_by_hop(name.as_str()) && !belongs_into_the_head.contains(name)
}

/// Whether a request is in a transfer coding besides `chunked`, which alone has been undone.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Whether a `TE` value asks for trailers, the one of its values that is passed on.
pub(crate) fn asks_for_trailers(te: &HeaderValue) -> bool {
    te.as_bytes().split(|&byte| byte == b',').any(|coding| {
        let coding = coding.split(|&byte| byte == b';').next();
        coding.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_nominates_fields_in_any_spelling() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-One ,"));
        headers.append("connection", HeaderValue::from_static("x-two"));

        let nominated = Nominated::of(&headers);

        assert!(nominated.contains("x-one") && nominated.contains("x-two"));
        assert!(nominated.close && nominated.contains("close"));
        assert!(!nominated.contains("x-three") && !nominated.contains(""));
    }

    #[test]
    fn trailers_are_found_among_other_codings() {
        for (te, expected) in [
            ("trailers", true),
            ("gzip;q=0.5, Trailers", true),
            ("trailers;q=1", true),
            ("gzip", false),
            ("", false),
            ("xtrailers", false),
        ] {
            assert_eq!(
                asks_for_trailers(&HeaderValue::from_static(te)),
                expected,
                "{te}"
            );
        }
    }
}
