//! Which paths are proxied, and what of a path a backend gets.

mod guard;
mod path;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{Extensions, Uri, request::Parts};

use self::path::matches_exactly;
pub(crate) use self::{
    guard::{is_administration, is_answer_or_models},
    path::{PathPattern, has_dot_segment, matches, normalize},
};

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
        (!has_dot_segment(uri.path())).then(|| Self::usual(uri))
    }

    /// What a stack without a fork takes off.
    fn usual(uri: &Uri) -> Self {
        let below = uri.path().strip_prefix(USUAL_PREFIX);
        let is_below = below.is_some_and(|rest| rest.starts_with('/'));
        Self {
            prefix: if is_below { USUAL_PREFIX.len() } else { 0 },
        }
    }

    /// Whether the stages below find the same without being told.
    pub(crate) fn is_usual(self, uri: &Uri) -> bool {
        self == Self::usual(uri)
    }

    /// The path below the prefix, which is appended to a backend's base URL.
    pub(crate) fn path(self, uri: &Uri) -> &str {
        let path = uri.path();
        path.get(self.prefix..).unwrap_or(path)
    }
}

/// The path of a request below the prefix.
pub(crate) fn path_of(request: &Parts) -> &str {
    let matched = Matched::of(&request.extensions, &request.uri);
    matched.map_or("", |matched| matched.path(&request.uri))
}

/// Where the endpoints are mounted, and which.
#[derive(Clone)]
pub(crate) struct Mount {
    /// The longest first.
    prefixes: Vec<Prefix>,
    /// The paths below the prefixes; `None` for chat completions.
    paths: Option<Arc<[PathPattern]>>,
    /// Whole paths that are the application's in any case.
    exceptions: Arc<[Box<str>]>,
}

#[derive(Clone)]
struct Prefix {
    /// Without a trailing slash.
    text: Box<str>,
    /// Only for chat completions, where other paths are the application's.
    is_narrow: bool,
}

impl Default for Mount {
    /// Chat completions, below `/` and `/v1`.
    fn default() -> Self {
        let prefix = |text: &str, is_narrow| Prefix {
            text: text.into(),
            is_narrow,
        };
        Self {
            prefixes: vec![prefix(USUAL_PREFIX, false), prefix("", true)],
            paths: None,
            exceptions: Arc::default(),
        }
    }
}

impl Mount {
    pub(crate) fn set_prefixes<P: AsRef<str>>(&mut self, prefixes: impl IntoIterator<Item = P>) {
        let normalize = |prefix: P| {
            let prefix = prefix.as_ref().trim_matches('/');
            let slash = if prefix.is_empty() { "" } else { "/" };
            Prefix {
                text: format!("{slash}{prefix}").into(),
                is_narrow: false,
            }
        };
        self.prefixes = prefixes.into_iter().map(normalize).collect();
        self.prefixes
            .sort_by_key(|prefix| std::cmp::Reverse(prefix.text.len()));
    }

    pub(crate) fn set_paths(&mut self, paths: impl IntoIterator<Item = PathPattern>) {
        self.paths = Some(paths.into_iter().collect());
    }

    pub(crate) fn set_exceptions(&mut self, paths: impl IntoIterator<Item = Box<str>>) {
        self.exceptions = paths.into_iter().collect();
    }

    pub(crate) fn classify(&self, path: &str) -> PathMatch {
        if self.exceptions.iter().any(|exception| **exception == *path) {
            return PathMatch::Other;
        }
        let matched = self.prefixes.iter().find(|prefix| {
            let below = path.strip_prefix(&*prefix.text);
            below.is_some_and(|below| self.is_endpoint(prefix, below))
        });
        // A path that reaches the endpoint through dot segments is rejected too, not handed on.
        if (matched.is_some() || path.contains(CHAT_COMPLETIONS)) && has_dot_segment(path) {
            return PathMatch::Unsafe;
        }
        match matched {
            Some(prefix) => PathMatch::Endpoint(Matched {
                prefix: prefix.text.len(),
            }),
            None => PathMatch::Other,
        }
    }

    /// Whether a path below the prefix is proxied.
    fn is_endpoint(&self, prefix: &Prefix, below: &str) -> bool {
        match &self.paths {
            Some(paths) if !prefix.is_narrow => {
                below.starts_with('/')
                    && matches_exactly(paths, below)
                    && !self.is_prefix(&prefix.text, below)
            }
            _ => is_chat_completions(below),
        }
    }

    /// Whether a path is one of the prefixes itself.
    fn is_prefix(&self, prefix: &str, below: &str) -> bool {
        let below = below.trim_end_matches('/');
        let mut prefixes = self.prefixes.iter();
        prefixes.any(|other| other.text.strip_prefix(prefix) == Some(below))
    }
}

/// Whether a path is the endpoint, or lies below it.
fn is_chat_completions(path: &str) -> bool {
    let rest = path.strip_prefix(CHAT_COMPLETIONS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
