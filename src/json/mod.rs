//! Swaps the values of a JSON object's top-level `model` keys, and leaves every other byte alone.
//!
//! One pass over the bytes, as they come, finds where these values stand. It builds nothing, copies
//! nothing and does not recurse; of the containers around a value it keeps one bit each. On its way
//! it checks the whole document against RFC 8259, so that a backend that reads by the same rules
//! finds the same `model`.
//!
//! Where readers of JSON differ, the backend is to decide, so these pass:
//!
//! - numbers of any size (`1e999`), and containers nested to any depth;
//! - a key that stands twice; each `model` is replaced, as some readers use the first and some the
//!   last;
//! - escapes of lone surrogates (`"\ud83d"`), which JavaScript writes where it cut an emoji in two.
//!
//! Only in a top-level key is such an escape an error: some readers drop it, and to them
//! `"model\ud800"` is `model`. Invalid UTF-8 and a byte order mark are errors everywhere.
//!
//! All this is how `serde_json` reads a map from `String` to `&RawValue`.

mod key;
mod nesting;
mod scanner;
#[cfg(test)]
mod tests;
mod text;
mod utf8;

use std::fmt;

use bytes::Bytes;

pub(crate) use self::scanner::{Found, Scanner};

/// `text` as a JSON string, quotes included.
pub(crate) fn string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

/// What keeps a document from being exactly one JSON object. It never quotes the document.
///
/// In a box: nearly all is read without an error, and faster where there is no room kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid(Box<Fault>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    what: &'static str,
    at: usize,
}

impl Invalid {
    #[cold]
    fn new(what: &'static str, at: usize) -> Self {
        Self(Box::new(Fault { what, at }))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.0.what, self.0.at)
    }
}

impl std::error::Error for Invalid {}
