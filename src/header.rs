//! Header fields: names, what types of content they tell, and which concern one connection only
//! (RFC 9110, section 7.6.1).

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

/// The field with the key, as Azure names it.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The same, as Anthropic and others name it.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The organization and the project that OpenAI bills.
pub(crate) const OPENAI_ORGANIZATION: HeaderName = HeaderName::from_static("openai-organization");
pub(crate) const OPENAI_PROJECT: HeaderName = HeaderName::from_static("openai-project");

/// Whether a field holds a client's key.
pub(crate) fn is_credential(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION || *name == API_KEY || *name == X_API_KEY
}

/// Selects a request's backend by name. Not forwarded.
pub(crate) const X_PROXY_BACKEND: HeaderName = HeaderName::from_static("x-proxy-backend");

/// A media type without its parameters.
pub(crate) fn essence(content_type: &[u8]) -> &[u8] {
    let end = memchr::memchr(b';', content_type);
    content_type[..end.unwrap_or(content_type.len())].trim_ascii()
}

/// Whether a `Content-Type` is `application/json` or `…+json`.
pub(crate) fn is_json(content_type: &HeaderValue) -> bool {
    const SUFFIX: &[u8] = b"+json";
    if content_type == "application/json" {
        return true;
    }
    let essence = essence(content_type.as_bytes());
    let suffix = essence.len().checked_sub(SUFFIX.len());
    essence.eq_ignore_ascii_case(b"application/json")
        || suffix.is_some_and(|start| start > 0 && essence[start..].eq_ignore_ascii_case(SUFFIX))
}

/// Whether a `Content-Type` is `multipart/form-data`.
pub(crate) fn is_form(content_type: &HeaderValue) -> bool {
    essence(content_type.as_bytes()).eq_ignore_ascii_case(b"multipart/form-data")
}

/// Whether a `Content-Type` is that of server-sent events.
pub(crate) fn is_event_stream(content_type: &HeaderValue) -> bool {
    essence(content_type.as_bytes()).eq_ignore_ascii_case(b"text/event-stream")
}

/// The `Content-Type` of a message, found without a hash, as by [`has_field`].
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut fields = headers.iter();
    let found = fields.find(|(name, _)| **name == header::CONTENT_TYPE)?;
    Some(found.1)
}

/// Whether a message has a `Content-Encoding` other than `identity`.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = values(headers, &header::CONTENT_ENCODING);
    encodings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Whether a message has this field. With the few fields of a usual head it is cheaper to look at
/// each name than to hash one.
#[inline]
pub(crate) fn has_field(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|other| other == name)
}

/// The values of a field that hardly any message has.
#[inline]
pub(crate) fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> {
    let values = has_field(headers, name).then(|| headers.get_all(name));
    values.into_iter().flatten()
}

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

/// Up to this many options are searched one by one; more are sorted first.
const MAX_UNSORTED: usize = 8;

/// The options in the `Connection` fields of a message (RFC 9110, section 7.6.1): whether the
/// connection persists, and which other fields are hop-by-hop.
#[derive(Default)]
pub(crate) struct ConnectionOptions<'a> {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    names: Vec<&'a [u8]>,
}

impl<'a> ConnectionOptions<'a> {
    /// Reads the values of all `Connection` fields of a message.
    pub(crate) fn new(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut options = Self::default();
        for value in values {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                // Most messages have no other than these two.
                if option.eq_ignore_ascii_case(b"keep-alive") {
                    options.keep_alive = true;
                } else if option.eq_ignore_ascii_case(b"close") {
                    options.close = true;
                } else if !option.is_empty() {
                    options.names.push(option);
                }
            }
        }
        // A head has room for tens of thousands, which must not be compared with each field.
        if options.names.len() > MAX_UNSORTED {
            let names = &mut options.names;
            names.sort_unstable_by(|a, b| compare_ignore_case(a, b));
        }
        options
    }

    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        Self::new(values(headers, &header::CONNECTION).map(HeaderValue::as_bytes))
    }

    /// The fields that are named, as a value of another `Connection` field: they are no trailers of
    /// the message, either.
    pub(crate) fn fields(&self) -> Option<Box<[u8]>> {
        // Most messages name none.
        (!self.names.is_empty()).then(|| self.names.join(&b',').into())
    }

    /// Whether a field name is one of the options.
    #[inline(always)]
    pub(crate) fn contains(&self, name: &str) -> bool {
        // Most messages name none.
        (!self.names.is_empty() && self.names_contain(name)) || (self.close && name == "close")
    }

    #[cold]
    fn names_contain(&self, name: &str) -> bool {
        let name = name.as_bytes();
        if self.names.len() > MAX_UNSORTED {
            let found = |option: &&[u8]| compare_ignore_case(option, name);
            self.names.binary_search_by(found).is_ok()
        } else {
            let mut names = self.names.iter();
            names.any(|option| option.eq_ignore_ascii_case(name))
        }
    }
}

fn compare_ignore_case(a: &[u8], b: &[u8]) -> Ordering {
    let a = a.iter().map(u8::to_ascii_lowercase);
    a.cmp(b.iter().map(u8::to_ascii_lowercase))
}

/// The method that a browser's preflight announces, if the request is one (the Fetch standard,
/// section 4.8).
pub(crate) fn preflighted_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(header::ORIGIN) {
        return None;
    }
    let announced = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(announced.as_bytes()).ok()
}

/// Whether a request asks for a WebSocket (RFC 6455, section 4.1). Only HTTP/1.1 has `Upgrade`.
pub(crate) fn is_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && version == Version::HTTP_11
        && has_item(headers, header::UPGRADE, b"websocket")
        && has_item(headers, header::CONNECTION, b"upgrade")
}

/// Whether a 101 switches to a WebSocket, and to nothing else.
pub(crate) fn is_websocket_only(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    protocols.next().is_some_and(is_websocket) && protocols.next().is_none()
}

/// Whether a field that is a list has this item, in any case.
fn has_item(headers: &HeaderMap, name: HeaderName, wanted: &[u8]) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| {
        let mut items = value.as_bytes().split(|&byte| byte == b',');
        items.any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted))
    })
}

/// Whether a field belongs to the opening handshake of a WebSocket (RFC 6455, section 11.3).
pub(crate) fn is_handshake(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::UPGRADE)
        || name.as_str().starts_with("sec-websocket-")
}

/// Begins the item of `Sec-WebSocket-Protocol` in which a browser sends its key, as it can't set
/// `Authorization`.
const KEY_PROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// Begin the items in which it sends what belongs to its key.
const ACCOUNT_PROTOCOLS: [&[u8]; 2] = [b"openai-organization.", b"openai-project."];

/// The key in an item of `Sec-WebSocket-Protocol`.
fn key_in_protocol(item: &[u8]) -> Option<&[u8]> {
    after(KEY_PROTOCOL, item)
}

/// What follows a prefix, in any case.
fn after<'a>(prefix: &[u8], item: &'a [u8]) -> Option<&'a [u8]> {
    let (start, rest) = item.trim_ascii().split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The keys in a value of `Sec-WebSocket-Protocol`.
pub(crate) fn keys_in_protocols(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let items = value.as_bytes().split(|&byte| byte == b',');
    items.filter_map(key_in_protocol)
}

/// A value of `Sec-WebSocket-Protocol` without its keys or, of an `account`, its organizations and
/// projects too; `None` if nothing is left.
pub(crate) fn protocols_without_keys(value: &HeaderValue, account: bool) -> Option<HeaderValue> {
    let items = value.as_bytes().split(|&byte| byte == b',');
    let is_account = |item: &[u8]| {
        let mut prefixes = ACCOUNT_PROTOCOLS.iter();
        prefixes.any(|prefix| after(prefix, item).is_some())
    };
    let rest: Vec<_> = items
        .filter(|item| key_in_protocol(item).is_none() && !(account && is_account(item)))
        .collect();
    let rest = rest.join(&b',');
    let rest = HeaderValue::from_bytes(rest.trim_ascii()).ok();
    rest.filter(|rest| !rest.is_empty())
}

/// Removes the trailers that a message may not have: those that are not [allowed](is_trailer_allowed),
/// and those that its `Connection` [names](ConnectionOptions::fields).
pub(crate) fn retain_trailers(trailers: &mut HeaderMap, connection: Option<&[u8]>) {
    let options = ConnectionOptions::new(connection);
    let is_kept = |name: &HeaderName| is_trailer_allowed(name) && !options.contains(name.as_str());
    if !trailers.keys().all(is_kept) {
        for (name, value) in &std::mem::take(trailers) {
            if is_kept(name) {
                trailers.append(name.clone(), value.clone());
            }
        }
    }
}

/// The fields of a request without its credentials, in their order.
pub(crate) fn without_credentials(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if *name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = protocols_without_keys(value, false) {
                kept.append(name.clone(), value);
            }
        } else if !is_credential(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Whether a message may have this field as a trailer: not if it frames, routes or authenticates
/// the message (RFC 9110, section 6.5.1).
fn is_trailer_allowed(name: &HeaderName) -> bool {
    let head_only = [
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::COOKIE,
        header::HOST,
        header::TRAILER,
        API_KEY,
        OPENAI_ORGANIZATION,
        OPENAI_PROJECT,
        X_API_KEY,
        X_PROXY_BACKEND,
    ];
    !is_hop_by_hop(name.as_str()) && !head_only.contains(name)
}

/// Whether a request has a transfer coding other than `chunked`, the only one that servers decode.
pub(crate) fn has_transfer_coding(headers: &HeaderMap) -> bool {
    let mut codings = values(headers, &header::TRANSFER_ENCODING);
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Whether a `TE` value accepts trailers, the only one of its values that is forwarded.
pub(crate) fn accepts_trailers(te: &HeaderValue) -> bool {
    te.as_bytes().split(|&byte| byte == b',').any(|coding| {
        let coding = coding.split(|&byte| byte == b';').next();
        coding.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// When a response says that its server takes requests again: `retry-after-ms`, as OpenAI's SDKs read
/// it, else `Retry-After` (RFC 9110, section 10.2.3), in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse().ok();
    let millis = text(RETRY_AFTER_MS).and_then(number);
    if let Some(wait) = millis.and_then(|ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok()) {
        return Some(wait);
    }
    let text = text(header::RETRY_AFTER)?;
    match number(text) {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_options_are_field_names_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-One ,"));
        headers.append("connection", HeaderValue::from_static("x-two"));

        let options = ConnectionOptions::of(&headers);

        assert!(options.contains("x-one") && options.contains("x-two"));
        assert!(options.close && options.contains("close"));
        assert!(!options.contains("x-three") && !options.contains(""));
    }

    #[test]
    fn many_connection_options_are_found_as_well() {
        let names: Vec<_> = (0..1000)
            .map(|number| format!("X-{}", number * 7 % 1000))
            .collect();
        let value = names.join(", ");
        let options = ConnectionOptions::new([value.as_bytes()]);

        for name in &names {
            assert!(options.contains(&name.to_ascii_lowercase()), "{name}");
        }
        assert!(!options.contains("x-1000") && !options.contains("x-"));
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
                accepts_trailers(&HeaderValue::from_static(te)),
                expected,
                "{te}"
            );
        }
    }

    #[test]
    fn retry_after_is_in_milliseconds_seconds_or_a_date() {
        let in_10_s = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(10));
        for (fields, expected) in [
            (&[("retry-after", "7")][..], 7000..=7000),
            (&[("retry-after", "1.5")], 1500..=1500),
            (
                &[("retry-after-ms", "250"), ("retry-after", "7")],
                250..=250,
            ),
            (
                &[("retry-after-ms", "x"), ("retry-after", "7")],
                7000..=7000,
            ),
            (&[("retry-after", &in_10_s)], 8000..=10_000),
        ] {
            let fields = fields.iter().map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            });
            let wait = retry_after(&fields.collect()).unwrap();
            assert!(expected.contains(&wait.as_millis()), "{wait:?}");
        }
        for value in ["", "-1", "soon", "1e300", "Fri, 01 Jan 2021 00:00:00 GMT"] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers), None, "{value}");
        }
    }
}
