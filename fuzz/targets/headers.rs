//! The head of a request to a backend: it reads as it should, and only what may pass has passed.
//!
//! The input is text: method, target, version and length of the body, then a field on each line.

#![no_main]

use std::{borrow::Cow, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::{Backend, BackendConfig, Config, fuzzing};

type Field<'a> = (&'a str, Cow<'a, [u8]>);

/// One of the proxy's own key, and one that gets the client's.
static BACKENDS: LazyLock<Vec<Backend>> = LazyLock::new(|| {
    let own = BackendConfig::new("own", "http://[::1]:8080/base/?api-version=1").api_key("sk-own");
    let config = Config::builder()
        .backend(own)
        .backend(BackendConfig::new("plain", "http://backend"))
        .build();
    fuzzing::backends(&config.expect("it is valid"))
});

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n');
    let Some((request, length)) = lines.next().and_then(request_line) else {
        return;
    };
    let (mut parts, ()) = request.into_parts();
    for line in lines {
        let mut field = line.splitn(2, |&byte| byte == b':');
        let (name, value) = (
            field.next().unwrap_or_default(),
            field.next().unwrap_or_default(),
        );
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            let _ = parts.headers.try_append(name, value);
        }
    }
    check(
        &Request::from_parts(parts.clone(), ()),
        length,
        &BACKENDS[0],
        true,
    );
    check(&Request::from_parts(parts, ()), length, &BACKENDS[1], false);
});

fn request_line(line: &[u8]) -> Option<(Request<()>, Option<u64>)> {
    let mut words = line.split(|&byte| byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let version = match words.next()? {
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let length = words
        .next()
        .and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
    let request = Request::builder().method(method).uri(uri).version(version);
    Some((request.body(()).ok()?, length))
}

fn check(request: &Request<()>, length: Option<u64>, backend: &Backend, is_own: bool) {
    let Some(head) = fuzzing::head(request.clone(), length, backend) else {
        return;
    };
    check_lines(&head);
    let mut fields = vec![httparse::EMPTY_HEADER; request.headers().len() + 8];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(
        parsed.parse(&head),
        Ok(httparse::Status::Complete(head.len()))
    );
    assert_eq!(parsed.method, Some(request.method().as_str()));
    assert_eq!(parsed.version, Some(1));
    assert_eq!(parsed.path, Some(&*target(request.uri(), is_own)));

    let mut fields: Vec<Field<'_>> = parsed
        .headers
        .iter()
        .map(|field| (field.name, field.value.into()))
        .collect();
    let host: &[u8] = if is_own { b"[::1]:8080" } else { b"backend" };
    assert_eq!(fields.remove(0), ("host", host.into()));
    if is_own {
        assert_eq!(fields.remove(0), ("authorization", b"Bearer sk-own".into()));
    }
    take_framing(&mut fields, request, length);
    assert_eq!(fields, expected(request, length, is_own));
}

/// Nothing but CRLF ends a line, and only the last one is empty.
fn check_lines(head: &[u8]) {
    let lines = head.strip_suffix(b"\r\n\r\n").expect("it has an end");
    for line in lines.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.is_empty());
        let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        assert!(!line.iter().any(is_control), "{}", line.escape_ascii());
    }
    let bare = |byte| lines.iter().filter(|&&b| b == byte).count();
    assert_eq!(
        bare(b'\r'),
        lines.windows(2).filter(|two| two == b"\r\n").count()
    );
    assert_eq!(bare(b'\n'), bare(b'\r'));
}

fn target(uri: &Uri, is_own: bool) -> String {
    let path = uri.path();
    let (base, own_query) = if is_own {
        ("/base", Some("api-version=1"))
    } else {
        ("", None)
    };
    let below = path
        .strip_prefix("/v1")
        .filter(|rest| rest.starts_with('/'));
    let below = below.unwrap_or(path);
    let query = uri.query().filter(|query| !query.is_empty());
    let is_forwarded = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        !is_own || decoded(name) != b"api-version"
    };
    let mut parameters: Vec<&str> = own_query.into_iter().collect();
    let others = query.into_iter().flat_map(|query| query.split('&'));
    parameters.extend(others.filter(is_forwarded));
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("{base}{below}{mark}{}", parameters.join("&"))
}

fn decoded(mut text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    while let Some(percent) = text.find('%') {
        decoded.extend_from_slice(&text.as_bytes()[..percent]);
        text = &text[percent..];
        let digits = text
            .get(1..3)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(b'%'));
        text = &text[if byte.is_some() { 3 } else { 1 }..];
    }
    decoded.extend_from_slice(text.as_bytes());
    decoded
}

/// Takes out the one field that says how the body is framed, which must be the right one.
fn take_framing(fields: &mut Vec<Field<'_>>, request: &Request<()>, length: Option<u64>) {
    let is_framing = |name: &str| name == "content-length" || name == "transfer-encoding";
    let framing: Vec<_> = fields
        .iter()
        .filter(|(name, _)| is_framing(name))
        .cloned()
        .collect();
    let number = length.unwrap_or_default().to_string();
    let expected: &[Field<'_>] = match length {
        None => &[("transfer-encoding", Cow::Borrowed(b"chunked"))],
        Some(0)
            if !["POST", "PUT", "PATCH"].contains(&request.method().as_str())
                && !request.headers().contains_key("content-length") =>
        {
            &[]
        }
        Some(_) => &[("content-length", number.as_bytes().into())],
    };
    assert_eq!(framing, expected);
    fields.retain(|(name, _)| !is_framing(name));
}

/// The other fields that a backend gets, in their order.
fn expected(request: &Request<()>, length: Option<u64>, is_own: bool) -> Vec<Field<'_>> {
    let headers = request.headers();
    let nominated = tokens(headers, "connection");
    let mut te_is_there = false;
    let mut cookie_is_there = false;
    let mut fields = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        match name {
            "te" => {
                let codings = list(value);
                let mut codings = codings.iter().filter_map(|coding| coding.split(';').next());
                if codings.any(|coding| coding.trim_matches([' ', '\t']) == "trailers")
                    && !te_is_there
                {
                    te_is_there = true;
                    fields.push(("te", b"trailers".into()));
                }
            }
            "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "x-proxy-backend"
            | "content-length" => {}
            "authorization"
            | "api-key"
            | "x-api-key"
            | "cookie"
            | "openai-organization"
            | "openai-project"
                if is_own => {}
            "trailer" if length.is_some() => {}
            _ if nominated.iter().any(|nominated| nominated == name) => {}
            "cookie" if request.version() == Version::HTTP_2 => {
                if !cookie_is_there {
                    cookie_is_there = true;
                    let crumbs: Vec<_> = headers
                        .get_all("cookie")
                        .iter()
                        .map(HeaderValue::as_bytes)
                        .collect();
                    let joined = crumbs.join(b"; ".as_slice());
                    fields.push((name, joined.trim_ascii().to_owned().into()));
                }
            }
            _ => fields.push((name, value.as_bytes().into())),
        }
    }
    fields
}

fn tokens(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().flat_map(list).collect()
}

fn list(value: &HeaderValue) -> Vec<String> {
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    text.split(',')
        .map(|token| token.trim_matches([' ', '\t']).to_owned())
        .collect()
}
