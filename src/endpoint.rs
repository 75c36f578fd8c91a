//! Which paths are the proxy's: `/chat/completions`, what lies below it, and the same under `/v1`.

const ENDPOINT: &str = "/chat/completions";
const VERSION_PREFIX: &str = "/v1";

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

pub(crate) fn classify(path: &str) -> Ours {
    let unversioned = path.strip_prefix(VERSION_PREFIX).unwrap_or(path);
    let ours = starts_with_endpoint(unversioned);
    // A path that reaches the endpoint through dot segments is refused too, not handed on.
    if (ours || path.contains(ENDPOINT)) && has_dot_segment(path) {
        Ours::DotSegments
    } else if ours {
        Ours::Yes
    } else {
        Ours::No
    }
}

/// The part of a path from the endpoint on, which is appended to a backend's base URL.
pub(crate) fn within(path: &str) -> &str {
    let unversioned = path.strip_prefix(VERSION_PREFIX).unwrap_or(path);
    if unversioned.starts_with(ENDPOINT) {
        return unversioned;
    }
    path.find(ENDPOINT).map_or(ENDPOINT, |start| &path[start..])
}

fn starts_with_endpoint(path: &str) -> bool {
    path.strip_prefix(ENDPOINT)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
    fn the_backend_gets_what_follows_the_prefix() {
        assert_eq!(within("/v1/chat/completions"), "/chat/completions");
        assert_eq!(within("/chat/completions/a/b"), "/chat/completions/a/b");
    }
}
