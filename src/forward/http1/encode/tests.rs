use http::{HeaderName, Request};
use proptest::prelude::*;

use super::*;
use crate::{BackendConfig, Config};

/// One with a key of its own, and one that gets the client's.
fn backend(own_key: bool) -> Backend {
    let backend = BackendConfig::new("a", "http://[::1]:8080/base?own=1");
    let backend = match own_key {
        true => backend.api_key("sk-own"),
        false => backend,
    };
    let config = Config::builder().backend(backend).build().unwrap();
    Backend::all(&config, &[])[0].clone()
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
            "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
            "transfer-encoding", "upgrade", "x-proxy-backend",
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

/// The fields, without those that frame the body: that one is looked at by itself.
fn expected(request: &Request<()>, own_key: bool, is_chunked: bool) -> Vec<(String, Vec<u8>)> {
    const STAYS: [&str; 11] = [
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
    let nominated: Vec<_> = values("connection").flat_map(names).collect();
    let te = values("te").flat_map(names);
    let wants_trailers = te.map(|coding| coding.split(';').next().unwrap().trim() == "trailers");
    let mut wants_trailers = wants_trailers.collect::<Vec<_>>().contains(&true);

    let mut fields = Vec::new();
    for (name, value) in request.headers() {
        let name = name.as_str();
        if name == "te" && asks_for_trailers(value) && std::mem::take(&mut wants_trailers) {
            fields.push((name.to_owned(), b"trailers".to_vec()));
        }
        let is_key = name == "authorization" || name == "api-key";
        let stays = STAYS.contains(&name)
            || nominated.iter().any(|nominated| nominated == name)
            || (own_key && is_key)
            || (name == "trailer" && !is_chunked);
        if !stays {
            fields.push((name.to_owned(), value.as_bytes().trim_ascii().to_vec()));
        }
    }
    fields
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_head_reads_as_what_may_pass(
        method in any_method(),
        fields in prop::collection::vec(any_field(), 0..12),
        length in prop::option::of(0..3u64),
        own_key in any::<bool>(),
    ) {
        let mut request = Request::builder().method(method).uri("/v1/chat/completions/x?y=z");
        request.headers_mut().unwrap().extend(fields);
        let request = request.body(()).unwrap();
        let size = length.map_or_else(SizeHint::default, SizeHint::with_exact);
        let mut head = Vec::new();
        let framing = encode_head(
            &request.clone().into_parts().0, &size, &backend(own_key), &mut head,
        );

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
        let told: Vec<_> = match framing {
            Framing::None => vec![],
            Framing::Length(length) => vec![("content-length", length.to_string())],
            Framing::Chunked => vec![("transfer-encoding", "chunked".to_owned())],
        };
        let told: Vec<_> = told.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        prop_assert_eq!(framings, told);
        prop_assert_eq!(framing == Framing::Chunked, length.is_none());
        let others: Vec<_> =
            others.iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect();
        prop_assert_eq!(others, expected(&request, own_key, length.is_none()));
    }
}
