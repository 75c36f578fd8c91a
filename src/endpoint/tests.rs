use proptest::prelude::*;

use http::Method;

use super::*;

fn classify(path: &str) -> PathMatch {
    Mount::default().classify(path)
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
        assert!(matches!(classify(path), PathMatch::Endpoint(_)), "{path}");
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
        assert_eq!(classify(path), PathMatch::Other, "{path}");
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
        assert_eq!(classify(path), PathMatch::Unsafe, "{path}");
    }
}

/// The path below the prefix, if it is an endpoint's.
fn below<'a>(mount: &Mount, path: &'a str) -> Option<&'a str> {
    match mount.classify(path) {
        PathMatch::Endpoint(matched) => path.get(matched.prefix..),
        PathMatch::Other | PathMatch::Unsafe => None,
    }
}

fn patterns<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<PathPattern> {
    let parse = |text| PathPattern::parse(text).unwrap();
    texts.into_iter().map(parse).collect()
}

#[test]
fn prefixes_replace_the_usual_ones() {
    let mut mount = Mount::default();
    mount.set_prefixes(["/llm/", "openai/v1"]);
    for (path, expected) in [
        ("/llm/chat/completions", Some("/chat/completions")),
        ("/openai/v1/chat/completions/x", Some("/chat/completions/x")),
        ("/llm/v1/chat/completions", None),
        ("/v1/chat/completions", None),
        ("/chat/completions", None),
    ] {
        assert_eq!(below(&mount, path), expected, "{path}");
    }
    let dots = mount.classify("/llm/../chat/completions");
    assert_eq!(dots, PathMatch::Unsafe);
}

#[test]
fn the_backend_gets_what_follows_the_prefix() {
    let mount = Mount::default();
    for path in ["/chat/completions", "/chat/completions/a/b"] {
        assert_eq!(below(&mount, path), Some(path));
        assert_eq!(below(&mount, &format!("/v1{path}")), Some(path));
    }
}

#[test]
fn all_paths_are_those_below_v1_or_below_the_prefixes_given() {
    let mut mount = Mount::default();
    mount.set_paths(patterns(["*"]));
    for (path, expected) in [
        ("/v1/responses", Some("/responses")),
        ("/v1/agents/x%2Fy", Some("/agents/x%2Fy")),
        ("/v1/v1/models", Some("/v1/models")),
        ("/v1/chat/completions", Some("/chat/completions")),
        ("/chat/completions", Some("/chat/completions")),
        ("/responses", None),
        ("/v1x/models", None),
        ("/v1", None),
        ("/v1/", None),
        ("/", None),
    ] {
        assert_eq!(below(&mount, path), expected, "{path}");
    }
    assert_eq!(mount.classify("/v1/a/..%2Fb"), PathMatch::Unsafe);
    assert_eq!(mount.classify("/a/..%2Fb"), PathMatch::Other);

    mount.set_prefixes(["/", "/v1"]);
    for (path, expected) in [
        ("/responses", Some("/responses")),
        ("/v1/responses", Some("/responses")),
        ("/v1/v1/x", Some("/v1/x")),
        ("/v1x", Some("/v1x")),
        ("/", None),
        ("/v1", None),
        ("/v1/", None),
        ("*", None),
    ] {
        assert_eq!(below(&mount, path), expected, "{path}");
    }
    assert_eq!(mount.classify("/a/..%2Fb"), PathMatch::Unsafe);
}

#[test]
fn a_stack_without_a_fork_takes_v1_off_and_refuses_dot_segments() {
    let matched = |uri: &'static str| {
        let uri = Uri::from_static(uri);
        let matched = Matched::of(&Extensions::new(), &uri)?;
        Some(matched.path(&uri).to_owned())
    };
    assert_eq!(matched("/v1/models").as_deref(), Some("/models"));
    assert_eq!(matched("/v1x").as_deref(), Some("/v1x"));
    assert_eq!(matched("/embeddings").as_deref(), Some("/embeddings"));
    assert_eq!(matched("/v1/%2e%2e/x"), None);
}

#[test]
fn patterns_are_compared_decoded_and_with_runs_of_slashes_as_one() {
    for (pattern, path, expected) in [
        ("*", "/anything/at/all", true),
        ("/responses", "/responses", true),
        ("/responses", "/responses/", false),
        ("/responses", "/responses/x", false),
        ("/responses", "//responses", true),
        ("/responses", "/r%65sponses", true),
        ("/responses/*", "/responses", false),
        ("/responses/*", "/responses/", false),
        ("/responses/*", "/responses/x/y", true),
        ("/responses/*", "/responses%2fx", true),
        ("/responses/*", "/responses//x", true),
        ("/responses/*", "/responsesx", false),
        ("/audio*", "/audio", true),
        ("/audio*", "/audio/speech", true),
    ] {
        let found = matches(patterns([pattern]).iter(), path);
        assert_eq!(found, expected, "{pattern} and {path}");
    }
}

#[test]
fn bad_patterns_are_refused() {
    for text in [
        "",
        "responses",
        "/v1/responses",
        "/v1",
        "/v1/*",
        "/a*b",
        "/*/b",
        "/**",
        "/a b",
        "/a?b",
        "/a#b",
        "/a%62",
        "/a/../b",
        "/a//b",
        "/a\nb",
    ] {
        assert!(PathPattern::parse(text).is_none(), "{text:?}");
    }
}

#[test]
fn the_operators_key_opens_what_makes_an_answer_or_lists_models() {
    fn opens(method: &Method, path: &str) -> bool {
        is_answer_or_models(method, path, false)
    }
    for path in [
        "/chat/completions",
        "/responses",
        "/audio/speech",
        "//chat/completions",
    ] {
        assert!(opens(&Method::POST, path), "{path}");
        assert!(
            !opens(&Method::GET, path) && !opens(&Method::DELETE, path),
            "{path}"
        );
        assert!(!opens(&Method::POST, &format!("{path}/x")), "{path}");
    }
    for path in [
        "/files",
        "/batches",
        "/models",
        "/organization/users",
        "/responses/x/cancel",
    ] {
        assert!(!opens(&Method::POST, path), "{path}");
    }
    for path in ["/models", "/models/gpt-4o", "/models/a/b"] {
        assert!(
            opens(&Method::GET, path) && opens(&Method::HEAD, path),
            "{path}"
        );
        assert!(!opens(&Method::DELETE, path), "{path}");
    }
    assert!(!opens(&Method::GET, "/models/"));
    assert!(is_answer_or_models(&Method::GET, "/realtime", true));
    assert!(is_answer_or_models(&Method::GET, "/responses", true));
    assert!(!is_answer_or_models(&Method::GET, "/models", true));
    assert!(!opens(&Method::GET, "/realtime"));

    for path in [
        "/organization",
        "/organization/x",
        "/projects/",
        "/%6frganization",
        "/organization;x/users",
        "/projects%5Cp",
    ] {
        assert!(is_administration(path), "{path}");
    }
    assert!(!is_administration("/organizations"));
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

#[test]
fn exceptions_are_whole_paths_that_stay_the_applications() {
    let mut mount = Mount::default();
    mount.set_prefixes(["/"]);
    mount.set_paths(PathPattern::parse("*"));
    mount.set_exceptions(["/livez".into(), "/chat/completions".into()]);
    for path in ["/livez", "/chat/completions"] {
        assert_eq!(mount.classify(path), PathMatch::Other, "{path}");
    }
    for path in ["/livez/", "/livezz", "/live", "/chat/completions/1"] {
        let all = PathMatch::Endpoint(Matched { prefix: 0 });
        assert_eq!(mount.classify(path), all, "{path}");
    }
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
        let mut other = Mount::default();
        other.set_prefixes(["llm/", "/a/b"]);
        for (mount, prefixes) in [
            (Mount::default(), ["", "/v1"]),
            (other, ["/llm", "/a/b"]),
        ] {
            let prefix = prefixes.iter().find(|prefix| {
                let endpoint = format!("{prefix}{CHAT_COMPLETIONS}");
                path == endpoint || path.starts_with(&(endpoint + "/"))
            });
            let resolved = resolve(&path);
            let expected = match (prefix, &resolved) {
                (Some(_), None) => PathMatch::Unsafe,
                (Some(prefix), Some(_)) => PathMatch::Endpoint(Matched { prefix: prefix.len() }),
                (None, None) if path.contains(CHAT_COMPLETIONS) => PathMatch::Unsafe,
                (None, _) => PathMatch::Other,
            };
            prop_assert_eq!(mount.classify(&path), expected);

            // Whatever a backend makes of it, it stays below the endpoint.
            if let (Some(prefix), Some(resolved)) = (prefix, resolved) {
                let endpoint = [prefix, CHAT_COMPLETIONS].concat();
                prop_assert!(resolved.starts_with(&endpoint));
            }
        }
    }
}
