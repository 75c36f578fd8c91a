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

use std::{fmt, iter::Peekable, ops::Range, vec};

use bytes::Bytes;

use self::scanner::Scanner;
use crate::body::{Rope, RopeBuilder};

/// The model's name as a JSON string, quotes included, for [`Splice`].
pub(crate) fn json_string(model: &str) -> Bytes {
    serde_json::Value::from(model).to_string().into()
}

/// A document on its way in. The value of each top-level `model` will be replaced; where there is
/// none, the key and a value are put in front.
pub(crate) struct Splice {
    scanner: Scanner,
    body: RopeBuilder,
    model_json: Bytes,
}

impl Splice {
    pub(crate) fn new(model_json: Bytes) -> Self {
        Self {
            scanner: Scanner::default(),
            body: RopeBuilder::default(),
            model_json,
        }
    }

    /// Takes the next piece of the document, which may be cut anywhere. After an error there is no
    /// use in more.
    pub(crate) fn feed(&mut self, piece: Bytes) -> Result<(), NotAnObject> {
        self.scanner.feed(&piece)?;
        self.body.push(piece);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Pieces, NotAnObject> {
        let found = self.scanner.finish()?;
        let mut spans = found.models;
        let mut with = self.model_json;
        if spans.is_empty() {
            spans.push(found.inside..found.inside);
            let comma = if found.is_empty { "" } else { "," };
            with = [b"\"model\":", &with[..], comma.as_bytes()].concat().into();
        }
        Ok(Pieces::new(self.body.finish(), spans, with))
    }
}

/// The new document, piece by piece, none of them empty. Usually there is one more than the old one
/// came in, and one that is the model.
///
/// Pieces are made as they are asked for: a body of nothing but `model` keys would have many.
pub(crate) struct Pieces {
    /// What is left of the old document.
    body: Rope,
    /// Where `body` starts in the old document.
    at: usize,
    /// What is still to be replaced in the old document.
    spans: Peekable<vec::IntoIter<Range<usize>>>,
    with: Bytes,
    remaining: u64,
}

impl Pieces {
    fn new(body: Rope, spans: Vec<Range<usize>>, with: Bytes) -> Self {
        let replaced: usize = spans.iter().map(Range::len).sum();
        Self {
            remaining: (body.len() - replaced) as u64 + spans.len() as u64 * with.len() as u64,
            body,
            at: 0,
            spans: spans.into_iter().peekable(),
            with,
        }
    }

    /// How many bytes are still to come: before the first piece, the length of the new document.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = match self.spans.next_if(|span| span.start == self.at) {
            Some(span) => {
                self.body.skip(span.len());
                self.at = span.end;
                self.with.clone()
            }
            None => {
                let end = self.spans.peek().map_or(usize::MAX, |span| span.start);
                let piece = self.body.take(end - self.at);
                self.at += piece.len();
                piece
            }
        };
        self.remaining -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }
}

/// What keeps a document from being exactly one JSON object. It never quotes the document.
///
/// In a box: nearly all is read without an error, and faster where there is no room kept for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAnObject(Box<Fault>);

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    what: &'static str,
    at: usize,
}

impl NotAnObject {
    #[cold]
    fn new(what: &'static str, at: usize) -> Self {
        Self(Box::new(Fault { what, at }))
    }
}

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.0.what, self.0.at)
    }
}

impl std::error::Error for NotAnObject {}
