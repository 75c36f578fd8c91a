//! Which paths are the proxy's: `/chat/completions` below one of its prefixes, and what lies below
//! that.

use std::sync::Arc;

const ENDPOINT: &str = "/chat/completions";

/// What the proxy makes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ours {
    /// To be forwarded.
    Yes,
    /// The application's.
    No,
    /// Within reach of the endpoint by `.` or `..` segments: never forwarded, as a backend might
    /// resolve them to another resource (RFC 3986, section 5.2.4).
    DotSegments,
}

/// Where the endpoint is mounted: the paths in front of it, without trailing slashes.
#[derive(Clone)]
pub(crate) struct Prefixes(Arc<[Box<str>]>);

impl Default for Prefixes {
    fn default() -> Self {
        Self::new(["", "/v1"])
    }
}

impl Prefixes {
    pub(crate) fn new<P: AsRef<str>>(prefixes: impl IntoIterator<Item = P>) -> Self {
        let normal = |prefix: P| {
            let prefix = prefix.as_ref().trim_matches('/');
            let slash = if prefix.is_empty() { "" } else { "/" };
            format!("{slash}{prefix}").into()
        };
        Self(prefixes.into_iter().map(normal).collect())
    }

    pub(crate) fn classify(&self, path: &str) -> Ours {
        let mut prefixes = self.0.iter();
        let ours = prefixes.any(|prefix| {
            path.strip_prefix(&**prefix)
                .and_then(|path| path.strip_prefix(ENDPOINT))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        // A path that reaches the endpoint through dot segments is refused too, not handed on.
        if (ours || path.contains(ENDPOINT)) && has_dot_segment(path) {
            Ours::DotSegments
        } else if ours {
            Ours::Yes
        } else {
            Ours::No
        }
    }
}

/// The part of a path from the endpoint on, which is appended to a backend's base URL.
pub(crate) fn within(path: &str) -> &str {
    // The usual prefixes first: a search costs more.
    let usual = path.strip_prefix("/v1").unwrap_or(path);
    if usual.starts_with(ENDPOINT) {
        return usual;
    }
    path.find(ENDPOINT).map_or(ENDPOINT, |start| &path[start..])
}

/// Whether a segment is `.` or `..`, in any spelling: dots and slashes may be percent-encoded,
/// a backslash counts as a slash, and `;` ends a segment, as some servers have it.
fn has_dot_segment(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%')) {
        return false;
    }
    let mut rest = path.as_bytes();
    let mut dots = Some(0);
    while let Some((byte, after)) = next_decoded(rest) {
        rest = after;
        match (byte, dots) {
            (b'/' | b'\\' | b';', Some(1 | 2)) => return true,
            (b'/' | b'\\', _) => dots = Some(0),
            (b'.', Some(seen)) => dots = Some(seen + 1),
            _ => dots = None,
        }
    }
    matches!(dots, Some(1 | 2))
}

/// The first byte of a path with its percent-encoding undone, and what follows it.
fn next_decoded(path: &[u8]) -> Option<(u8, &[u8])> {
    match path {
        [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            Some((hex(*high) << 4 | hex(*low), rest))
        }
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
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
    }
}
