//! The path rules against a straightforward reading of them.

#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::fuzzing::{DotSegments, endpoint, forwarded};

const ENDPOINT: &str = "/chat/completions";
const PREFIXES: &[&str] = &["/llm/", "openai/v1", "/chat/completions-x"];

fuzz_target!(|uri: &str| {
    let Ok(uri) = uri.parse::<Uri>() else {
        return;
    };
    check(None, &["", "/v1"], &uri);
    check(
        Some(PREFIXES),
        &["/llm", "/openai/v1", "/chat/completions-x"],
        &uri,
    );

    let path = uri.path();
    let expected = match path.strip_prefix("/v1") {
        _ if resolve(path).is_none() => Err(DotSegments),
        Some(below) if below.starts_with('/') => Ok(below),
        _ => Ok(path),
    };
    assert_eq!(forwarded(&uri), expected);
});

fn check(given: Option<&[&str]>, prefixes: &[&str], uri: &Uri) {
    let path = uri.path();
    let prefix = prefixes.iter().find(|prefix| {
        let endpoint = format!("{prefix}{ENDPOINT}");
        path == endpoint || path.starts_with(&(endpoint + "/"))
    });
    let resolved = resolve(path);
    let has_dots = resolved.is_none();
    let expected = match prefix {
        _ if has_dots && (prefix.is_some() || path.contains(ENDPOINT)) => Err(DotSegments),
        Some(prefix) => Ok(Some(&path[prefix.len()..])),
        None => Ok(None),
    };
    assert_eq!(endpoint(given, uri), expected);

    if let (Ok(Some(_)), Some(prefix)) = (expected, prefix) {
        // Whatever a backend makes of it, it stays below the endpoint.
        assert!(resolved.is_some_and(|path| path.starts_with(&format!("{prefix}{ENDPOINT}"))));
    }
}

/// A path as the most lenient server reads it, or none where that has dot segments.
fn resolve(path: &str) -> Option<String> {
    let decoded = decode(path).replace('\\', "/");
    let mut segments = decoded.split('/').map(|segment| segment.split(';').next());
    let has_dots = segments.any(|segment| matches!(segment, Some("." | "..")));
    (!has_dots).then_some(decoded)
}

/// Undoes the percent-encoding; each byte becomes a character of its own.
fn decode(path: &str) -> String {
    let mut decoded = String::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.map(|hex| u8::from_str_radix(hex, 16)) {
            Some(Ok(byte)) if *first == b'%' => {
                decoded.push(byte.into());
                rest = &after[2..];
            }
            _ => {
                decoded.push((*first).into());
                rest = after;
            }
        }
    }
    decoded
}
