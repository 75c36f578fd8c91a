use http::{HeaderName, Request};
use proptest::prelude::*;

use super::*;
use crate::{BackendConfig, Config, forward::exchange::encode_head};

fn backend(url: &str, own_key: bool) -> Backend {
    let mut backend = BackendConfig::new("a", url);
    if own_key {
        backend = backend.api_key("sk-own");
    }
    let config = Config::builder().backend(backend).build().unwrap();
    Backend::all(&config, &[])[0].clone()
}

/// The head of a request to a backend, and how its body must follow.
fn head(mut request: Request<()>, size: &SizeHint, backend: Backend) -> (Vec<u8>, Framing) {
    request.extensions_mut().insert(backend);
    let target = Target::of(&request).unwrap();
    let (parts, ()) = request.into_parts();
    let outbound = Outbound::new(&parts, &target, size);
    (encode_head(&outbound), outbound.framing())
}

#[test]
fn the_target_is_the_base_urls_path_and_both_queries() {
    for (url, request, expected) in [
        ("http://a.test", "/v1/chat/completions", "/chat/completions"),
        ("http://a.test/", "/chat/completions", "/chat/completions"),
        (
            "http://a.test/v1",
            "/chat/completions?",
            "/v1/chat/completions",
        ),
        (
            "http://a.test/a/b//",
            "/v1/chat/completions/x/y",
            "/a/b/chat/completions/x/y",
        ),
        (
            "http://a.test/v1?k=1",
            "/chat/completions",
            "/v1/chat/completions?k=1",
        ),
        (
            "http://a.test/v1?k=1",
            "/chat/completions?l=%20&l",
            "/v1/chat/completions?k=1&l=%20&l",
        ),
        (
            "http://a.test/v1/?",
            "/chat/completions?l",
            "/v1/chat/completions?l",
        ),
        (
            "http://a.test/%7Ea",
            "/v1/chat/completions/%2F",
            "/%7Ea/chat/completions/%2F",
        ),
        // The operator's word counts.
        ("http://a.test?k=1", "/x?k=2", "/x?k=1"),
        ("http://a.test?k=1", "/x?k", "/x?k=1"),
        (
            "http://a.test?a=1&k",
            "/x?b=1&&k=2&c=%26&a=%26&k",
            "/x?a=1&k&b=1&&c=%26",
        ),
        (
            "http://a.test?api-version=1",
            "/x?api%2dversion=2&%61pi-version=3",
            "/x?api-version=1",
        ),
        (
            "http://a.test?a+b=1",
            "/x?a%20b=2&a%2Bb=3&A+b",
            "/x?a+b=1&a%2Bb=3&A+b",
        ),
        ("http://a.test?k=1", "/x?%6", "/x?k=1&%6"),
    ] {
        let request = Request::get(request).body(()).unwrap();
        let (head, _) = head(request, &SizeHint::with_exact(0), backend(url, false));
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        assert_eq!(target, expected, "{url}");
    }
}

#[test]
fn requests_that_cannot_be_forwarded_are_refused() {
    let refused = |method: &str, uri: &str, coding: Option<&'static str>, has_backend: bool| {
        let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
        if has_backend {
            request
                .extensions_mut()
                .insert(backend("http://a.test", false));
        }
        let coding = coding.map(|coding| ("transfer-encoding", coding));
        let coding = coding.map(|(name, coding)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(coding),
            )
        });
        request.headers_mut().extend(coding);
        Target::of(&request).err().map(|error| error.kind())
    };
    assert_eq!(refused("GET", "/v1/x", None, true), None);
    assert_eq!(refused("GET", "/v1/x", Some("chunked"), true), None);
    assert_eq!(refused("GET", "/v1/x", None, false), Some(Kind::Unrouted));
    assert_eq!(
        refused("GET", "/v1/%2e./x", None, true),
        Some(Kind::DotSegments)
    );
    let coded = Some(Kind::UnsupportedTransferCoding);
    assert_eq!(refused("POST", "/v1/x", Some("gzip, chunked"), true), coded);
    assert_eq!(refused("OPTIONS", "*", None, true), Some(Kind::NotFound));
    assert_eq!(
        refused("CONNECT", "a.test:80", None, true),
        Some(Kind::NotFound)
    );
}

#[test]
fn a_backend_with_its_own_key_sees_no_other() {
    let secrets = [
        "authorization",
        "api-key",
        "x-api-key",
        "cookie",
        "openai-organization",
        "openai-project",
    ];
    for own_key in [false, true] {
        let mut request = Request::post("/v1/chat/completions").version(Version::HTTP_2);
        for name in secrets {
            request = request.header(name, "of-the-client");
        }
        let request = request.body(()).unwrap();
        let (head, _) = head(
            request,
            &SizeHint::with_exact(2),
            backend("http://a.test", own_key),
        );
        let head = String::from_utf8(head).unwrap();
        let count = if own_key { 0 } else { secrets.len() };
        assert_eq!(head.matches("of-the-client").count(), count, "{head}");
        assert_eq!(head.contains("authorization: Bearer sk-own\r\n"), own_key);
    }
}

#[test]
fn a_preflight_is_sent_without_credentials() {
    for own_key in [false, true] {
        let request = Request::options("/v1/responses")
            .header("origin", "https://app.test")
            .header("access-control-request-method", "POST")
            .header("authorization", "Bearer of-the-client")
            .header("cookie", "of-the-client");
        let backend = backend("http://a.test", own_key);
        let size = SizeHint::with_exact(0);
        let (head, _) = head(request.body(()).unwrap(), &size, backend);
        let expected = "OPTIONS /responses HTTP/1.1\r\nhost: a.test\r\n\
            origin: https://app.test\r\naccess-control-request-method: POST\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), expected);
    }
}

#[test]
fn a_cookie_that_http2_has_split_is_joined() {
    let request = Request::get("/v1/x")
        .version(Version::HTTP_2)
        .header("cookie", "a=b")
        .header("x", "1")
        .header("cookie", "c=d");
    let request = request.body(()).unwrap();
    let (head, _) = head(
        request,
        &SizeHint::with_exact(0),
        backend("http://a.test", false),
    );
    let fields = "host: a.test\r\ncookie: a=b; c=d\r\nx: 1\r\n\r\n";
    assert!(head.ends_with(fields.as_bytes()));
}

fn any_method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["POST", "GET", "DELETE", "OPTIONS", "M-SEARCH"])
}

fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop_oneof![
        4 => "[a-c]{1,2}",
        1 => Just("connection".to_owned()),
        4 => prop::sample::select(vec![
            "api-key", "authorization", "content-length", "cookie", "host", "keep-alive",
            "openai-organization", "openai-project", "proxy-authenticate", "proxy-authorization",
            "proxy-connection", "te", "trailer", "upgrade", "x-api-key", "x-proxy-backend",
        ]).prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        2 => "[a-c, ]{0,5}".prop_map(String::into_bytes),
        1 => Just(b"close, A, cookie".to_vec()),
        1 => Just(b"gzip, Trailers;q=1".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..5),
    ];
    (name, value).prop_filter_map("no value", |(name, value)| {
        Some((
            HeaderName::try_from(name).ok()?,
            HeaderValue::from_bytes(&value).ok()?,
        ))
    })
}

/// The fields but for the one that marks the end of the body.
fn expected(request: &Request<()>, own_key: bool, is_chunked: bool) -> Vec<(String, Vec<u8>)> {
    const DROPPED: [&str; 11] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-proxy-backend",
    ];
    let values = |name| request.headers().get_all(name).iter();
    let names = |value: &HeaderValue| -> Vec<String> {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let names = text.split(',').map(|name| name.trim_matches([' ', '\t']));
        names.map(str::to_owned).collect()
    };
    let options: Vec<_> = values("connection").flat_map(names).collect();
    let te = values("te").flat_map(names);
    let wants_trailers = te.map(|coding| coding.split(';').next().unwrap().trim() == "trailers");
    let mut wants_trailers = wants_trailers.collect::<Vec<_>>().contains(&true);

    let mut fields = Vec::new();
    for (name, value) in request.headers() {
        let name = name.as_str();
        if name == "te" && accepts_trailers(value) && std::mem::take(&mut wants_trailers) {
            fields.push((name.to_owned(), b"trailers".to_vec()));
        }
        let is_replaced = own_key
            && matches!(
                name,
                "authorization"
                    | "api-key"
                    | "cookie"
                    | "openai-organization"
                    | "openai-project"
                    | "x-api-key"
            );
        let is_dropped = is_replaced
            || DROPPED.contains(&name)
            || options.iter().any(|option| option == name)
            || (name == "trailer" && !is_chunked);
        if !is_dropped {
            fields.push((name.to_owned(), value.as_bytes().trim_ascii().to_vec()));
        }
    }
    fields
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_head_has_what_is_to_be_forwarded(
        method in any_method(),
        fields in prop::collection::vec(any_field(), 0..12),
        length in prop::option::of(0..3u64),
        own_key in any::<bool>(),
    ) {
        let mut request = Request::builder().method(method).uri("/v1/chat/completions/x?y=z");
        request.headers_mut().unwrap().extend(fields);
        if length.is_none() {
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().unwrap().insert("transfer-encoding", chunked);
        }
        let request = request.body(()).unwrap();
        let size = length.map_or_else(SizeHint::default, SizeHint::with_exact);
        let backend = backend("http://[::1]:8080/base?own=1", own_key);
        let (head, framing) = head(request.clone(), &size, backend);

        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Request::new(&mut fields);
        let whole = httparse::Status::Complete(head.len());
        prop_assert_eq!(parsed.parse(&head), Ok(whole));
        prop_assert_eq!(parsed.method, Some(method));
        prop_assert_eq!(parsed.path, Some("/base/chat/completions/x?own=1&y=z"));
        prop_assert_eq!(parsed.version, Some(1));
        // Nothing but CRLF ends a line.
        let lines = parsed.headers.len() + 2;
        for end in [b'\r', b'\n'] {
            prop_assert_eq!(head.iter().filter(|&&byte| byte == end).count(), lines);
        }

        let mut fields = parsed.headers.iter().map(|field| (field.name, field.value));
        prop_assert_eq!(fields.next(), Some(("host", b"[::1]:8080".as_slice())));
        if own_key {
            let key = ("authorization", b"Bearer sk-own".as_slice());
            prop_assert_eq!(fields.next(), Some(key));
        }
        let is_framing = |name: &str| name == "content-length" || name == "transfer-encoding";
        let (framings, others): (Vec<_>, Vec<_>) = fields.partition(|(name, _)| is_framing(name));
        let marked: Vec<_> = match framing {
            Framing::None => vec![],
            Framing::Length(length) => vec![("content-length", length.to_string())],
            Framing::Chunked => vec![("transfer-encoding", "chunked".to_owned())],
        };
        let marked: Vec<_> = marked.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        prop_assert_eq!(framings, marked);
        prop_assert_eq!(framing == Framing::Chunked, length.is_none());
        let others: Vec<_> =
            others.iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect();
        prop_assert_eq!(others, expected(&request, own_key, length.is_none()));
    }
}
