//! The path rules against a straightforward reading of them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::fuzzing::{DotSegments, is_ours, within};

const ENDPOINT: &str = "/chat/completions";
const PREFIXES: &[&str] = &["/llm/", "openai/v1", "/chat/completions-x"];

fuzz_target!(|path: &str| {
    check(None, &["", "/v1"], path);
    check(
        Some(PREFIXES),
        &["/llm", "/openai/v1", "/chat/completions-x"],
        path,
    );
});

fn check(given: Option<&[&str]>, prefixes: &[&str], path: &str) {
    let prefix = prefixes.iter().find(|prefix| {
        let endpoint = format!("{prefix}{ENDPOINT}");
        path == endpoint || path.starts_with(&(endpoint + "/"))
    });
    let resolved = resolve(path);
    let has_dots = resolved.is_none();
    let expected = match prefix {
        _ if has_dots && (prefix.is_some() || path.contains(ENDPOINT)) => Err(DotSegments),
        Some(_) => Ok(true),
        None => Ok(false),
    };
    assert_eq!(is_ours(given, path), expected);

    if let (Ok(true), Some(prefix)) = (expected, prefix) {
        assert_eq!(within(path), &path[prefix.len()..]);
        // Whatever a backend makes of it, it stays below the endpoint.
        assert!(resolved.is_some_and(|path| path.starts_with(&format!("{prefix}{ENDPOINT}"))));
    }
    assert!(within(path).starts_with(ENDPOINT));
}

/// A path as the most lenient server reads it, or none where that has dot segments.
fn resolve(path: &str) -> Option<String> {
    let decoded = decode(path).replace('\\', "/");
    let mut segments = decoded.split('/').map(|segment| segment.split(';').next());
    match segments.any(|segment| matches!(segment, Some("." | ".."))) {
        true => None,
        false => Some(decoded),
    }
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
