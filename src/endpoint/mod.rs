//! Which paths are proxied, and what of a path a backend gets.

mod path;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{Extensions, Uri};

pub(crate) use self::path::{PathPattern, find_match, next_decoded};
use self::path::{has_dot_segment, matches_exactly};

const CHAT_COMPLETIONS: &str = "/chat/completions";

/// The prefix that hand-made stacks take off.
const USUAL_PREFIX: &str = "/v1";

/// What the proxy makes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathMatch {
    /// To be forwarded.
    Endpoint(Matched),
    /// The application's.
    Other,
    /// Within reach of an endpoint by `.` or `..` segments: never forwarded, as a backend might
    /// resolve them to another resource (RFC 3986, section 5.2.4).
    Unsafe,
}

/// How much of a request's path is prefix. Below [`OpenAiProxy`](crate::OpenAiProxy) it is in the
/// request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    prefix: usize,
}

impl Matched {
    /// The match of a request: what the fork found or, in a stack without one, its path without
    /// `/v1`. `None` where the path has dot segments.
    pub(crate) fn of(extensions: &Extensions, uri: &Uri) -> Option<Self> {
        if let Some(matched) = extensions.get::<Self>() {
            return Some(*matched);
        }
        let path = uri.path();
        let below = path.strip_prefix(USUAL_PREFIX);
        let is_below = below.is_some_and(|rest| rest.starts_with('/'));
        (!has_dot_segment(path)).then_some(Self {
            prefix: if is_below { USUAL_PREFIX.len() } else { 0 },
        })
    }

    /// The path below the prefix, which is appended to a backend's base URL.
    pub(crate) fn path(self, uri: &Uri) -> &str {
        let path = uri.path();
        path.get(self.prefix..).unwrap_or(path)
    }
}

/// Where the endpoints are mounted, and which.
#[derive(Clone)]
pub(crate) struct Mount {
    /// The paths in front of the endpoints, without trailing slashes; the longest first.
    prefixes: Arc<[Box<str>]>,
    /// The paths below them.
    paths: Arc<[PathPattern]>,
}

impl Default for Mount {
    /// Chat completions, below `/` and `/v1`.
    fn default() -> Self {
        let patterns = [
            CHAT_COMPLETIONS,
            "/chat/completions/*",
            "/chat/completions/",
        ];
        Self {
            prefixes: normalize_prefixes(["", USUAL_PREFIX]),
            paths: patterns
                .into_iter()
                .filter_map(PathPattern::parse)
                .collect(),
        }
    }
}

impl Mount {
    pub(crate) fn set_prefixes<P: AsRef<str>>(&mut self, prefixes: impl IntoIterator<Item = P>) {
        self.prefixes = normalize_prefixes(prefixes);
    }

    pub(crate) fn set_paths(&mut self, paths: impl IntoIterator<Item = PathPattern>) {
        self.paths = paths.into_iter().collect();
    }

    pub(crate) fn classify(&self, path: &str) -> PathMatch {
        let is_prefix = |prefix: &Box<str>| path.trim_end_matches('/') == &**prefix;
        let matched = self.prefixes.iter().find(|prefix| {
            let below = path.strip_prefix(&***prefix);
            below.is_some_and(|below| below.starts_with('/') && matches_exactly(&self.paths, below))
        });
        let matched = matched.filter(|_| !self.prefixes.iter().any(is_prefix));
        // A path that reaches the endpoint through dot segments is refused too, not handed on.
        if (matched.is_some() || path.contains(CHAT_COMPLETIONS)) && has_dot_segment(path) {
            return PathMatch::Unsafe;
        }
        match matched {
            Some(prefix) => PathMatch::Endpoint(Matched {
                prefix: prefix.len(),
            }),
            None => PathMatch::Other,
        }
    }
}

fn normalize_prefixes<P: AsRef<str>>(prefixes: impl IntoIterator<Item = P>) -> Arc<[Box<str>]> {
    let normalize = |prefix: P| {
        let prefix = prefix.as_ref().trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("{slash}{prefix}").into_boxed_str()
    };
    let mut prefixes: Vec<_> = prefixes.into_iter().map(normalize).collect();
    prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
    prefixes.into()
}
