//! Paths: whether they are safe to forward, and patterns that they match.

use std::borrow::Cow;

use crate::percent::next_decoded;

/// Whether a segment is `.` or `..`, in any spelling: dots and slashes may be percent-encoded,
/// a backslash counts as a slash, and `;` ends a segment, as some servers have it.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    if memchr::memchr2(b'.', b'%', path.as_bytes()).is_none() {
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

/// A path with its percent-encoding undone and every run of slashes made one: how patterns see it.
pub(crate) fn normalize(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') && !path.contains("//") {
        return path.as_bytes().into();
    }
    let mut normal = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = next_decoded(rest) {
        rest = after;
        if byte != b'/' || normal.last() != Some(&b'/') {
            normal.push(byte);
        }
    }
    normal.into()
}

/// A pattern of paths below the prefix: `/responses` (exactly this), `/responses/*` (what is below
/// it), `*` (all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern {
    /// Without the `*` at the end.
    text: Box<str>,
    has_wildcard: bool,
}

impl PathPattern {
    /// What patterns must be, as messages say it after "must be".
    pub(crate) const ALLOWED: &str = "a path below the base URL such as `/responses` or \
        `/responses/*`, or `*`: beginning with `/` but not with `/v1/`, with at most one `*`, at its \
        end, and without `.` segments, `%`, `?`, `#`, `//`, blanks and control characters";

    /// `None` where the text isn't [allowed](Self::ALLOWED).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (path, has_wildcard) = match text.strip_suffix('*') {
            Some(path) => (path, true),
            None => (text, false),
        };
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"*%?#\\".contains(c);
        let is_allowed = path.chars().all(is_plain)
            && !path.contains("//")
            && !has_dot_segment(path)
            && !path.starts_with("/v1/")
            && path != "/v1"
            && (path.starts_with('/') || text == "*");
        is_allowed.then(|| Self {
            text: path.into(),
            has_wildcard,
        })
    }

    /// Whether it is `*`.
    pub(crate) fn is_all(&self) -> bool {
        self.text.is_empty()
    }

    fn matches_bytes(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match path.strip_prefix(text) {
            Some(rest) if self.has_wildcard => !rest.is_empty() || !text.ends_with(b"/"),
            Some(rest) => rest.is_empty(),
            None => false,
        }
    }
}

/// Whether a path matches one of the patterns, compared percent-decoded and with runs of slashes as
/// one.
pub(crate) fn matches<'a>(mut patterns: impl Iterator<Item = &'a PathPattern>, path: &str) -> bool {
    let path = normalize(path);
    patterns.any(|pattern| pattern.matches_bytes(&path))
}

/// The same, compared byte for byte.
pub(super) fn matches_exactly(patterns: &[PathPattern], path: &str) -> bool {
    let mut patterns = patterns.iter();
    patterns.any(|pattern| pattern.matches_bytes(path.as_bytes()))
}
