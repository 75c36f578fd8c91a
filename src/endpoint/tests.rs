use proptest::prelude::*;

use super::*;

fn classify(path: &str) -> Ours {
    Prefixes::default().classify(path)
}

#[test]
fn the_endpoint_and_what_lies_below_it_is_ours() {
    for path in [
        "/chat/completions",
        "/chat/completions/",
        "/chat/completions/chatcmpl-1/messages",
        "/v1/chat/completions",
        "/v1/chat/completions/a.b/..c/...",
        "/v1/chat/completions/a%2Fb",
    ] {
        assert_eq!(classify(path), Ours::Yes, "{path}");
    }
}

#[test]
fn other_paths_are_the_applications() {
    for path in [
        "/",
        "*",
        "",
        "/health",
        "/chat",
        "/chat/completionsx",
        "/v2/chat/completions",
        "/v1/v1/chat/completions",
        "//chat/completions",
        "/Chat/Completions",
        "/v1/../models",
        "/a/./b",
    ] {
        assert_eq!(classify(path), Ours::No, "{path}");
    }
}

#[test]
fn dot_segments_are_refused_in_every_spelling() {
    for path in [
        "/chat/completions/..",
        "/chat/completions/.",
        "/v1/chat/completions/../models",
        "/v1/chat/completions/%2e%2E/models",
        "/v1/chat/completions/.%2e/models",
        "/v1/chat/completions/x%2f..%2fmodels",
        "/v1/chat/completions/x/..\\models",
        "/v1/chat/completions/x%5c%2e%2e%5Cmodels",
        "/v1/../chat/completions",
        "/./v1/chat/completions",
        "/v1/chat/completions/..;a/models",
        "/models/../chat/completions/x",
    ] {
        assert_eq!(classify(path), Ours::DotSegments, "{path}");
    }
}

#[test]
fn prefixes_take_the_place_of_the_usual_ones() {
    let prefixes = Prefixes::new(["/llm/", "openai/v1"]);
    for (path, ours) in [
        ("/llm/chat/completions", Ours::Yes),
        ("/openai/v1/chat/completions/x", Ours::Yes),
        ("/llm/../chat/completions", Ours::DotSegments),
        ("/llm/v1/chat/completions", Ours::No),
        ("/v1/chat/completions", Ours::No),
        ("/chat/completions", Ours::No),
    ] {
        assert_eq!(prefixes.classify(path), ours, "{path}");
    }
}

#[test]
fn the_backend_gets_what_follows_the_prefix() {
    assert_eq!(within("/v1/chat/completions"), "/chat/completions");
    assert_eq!(within("/chat/completions/a/b"), "/chat/completions/a/b");
    assert_eq!(within("/llm/chat/completions/a"), "/chat/completions/a");
    for prefix in ["/chat/completions-x", "/a/chat/completionsx"] {
        let path = [prefix, ENDPOINT, "/a"].concat();
        assert_eq!(within(&path), "/chat/completions/a");
    }
}

/// A path as the most lenient server reads it, or none where that has dot segments.
fn resolve(path: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        let code = rest.strip_prefix('%').and_then(|rest| rest.get(..2));
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let (character, length) = match code.map(|code| u8::from_str_radix(code, 16)) {
            Some(Ok(byte)) => (byte.into(), 3),
            _ => (character, character.len_utf8()),
        };
        decoded.push(character);
        rest = &rest[length..];
    }
    let decoded = decoded.replace('\\', "/");
    let mut segments = decoded.split('/').map(|segment| segment.split(';').next());
    let has_dots = segments.any(|segment| matches!(segment, Some("." | "..")));
    (!has_dots).then_some(decoded)
}

fn any_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just("/chat/completions"),
        2 => Just("/v1"),
        1 => Just("/llm"),
        4 => prop::sample::select(vec!["/", "\\", ";", "%2f", "%2F", "%5c", "%3B", "%", "%2", "é"]),
        4 => prop::sample::select(vec![".", "..", "%2e", "%2E%2e", "...", "a", "s"]),
    ];
    prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_path_is_classified_as_the_rules_say(path in any_path()) {
        for (prefixes, mounts) in [
            (Prefixes::default(), ["", "/v1"]),
            (Prefixes::new(["llm/", "/a/b"]), ["/llm", "/a/b"]),
        ] {
            let mount = mounts.iter().find(|mount| {
                let endpoint = format!("{mount}{ENDPOINT}");
                path == endpoint || path.starts_with(&(endpoint + "/"))
            });
            let resolved = resolve(&path);
            let expected = match (mount, &resolved) {
                (Some(_), None) => Ours::DotSegments,
                (Some(_), Some(_)) => Ours::Yes,
                (None, None) if path.contains(ENDPOINT) => Ours::DotSegments,
                (None, _) => Ours::No,
            };
            prop_assert_eq!(prefixes.classify(&path), expected);

            // Whatever a backend makes of it, it stays below the endpoint.
            if let (Some(mount), Some(resolved)) = (mount, resolved) {
                let endpoint = [mount, ENDPOINT].concat();
                prop_assert!(resolved.starts_with(&endpoint));
                prop_assert_eq!(within(&path), &path[mount.len()..]);
            }
        }
    }
}
