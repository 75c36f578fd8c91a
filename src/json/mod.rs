//! Finds the top-level `model` of a JSON document, and makes the edits that replace it.
//!
//! One pass over the bytes, as they arrive, finds the spans of the values. It builds nothing, copies
//! nothing and does not recurse; of each open container it keeps one bit. It validates the whole
//! document against the grammar of RFC 8259, so that a backend that reads by the same rules finds
//! the same `model`.
//!
//! Where JSON readers differ, the backend decides, so these are accepted:
//!
//! - numbers of any size (`1e999`), and containers nested to any depth;
//! - duplicate keys: every `model` counts, as some readers use the first and some the last;
//! - escapes of unpaired surrogates (`"\ud83d"`), which JavaScript and Python write for an emoji cut
//!   in two, in keys as well.
//!
//! Invalid UTF-8 and a byte order mark are errors.
//!
//! All this is how `serde_json` reads a `RawValue`.

mod key;
mod model_reader;
mod nesting;
mod scanner;
#[cfg(test)]
mod tests;
mod text;
mod utf8;

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) use self::{
    model_reader::ModelReader,
    scanner::{Found, Scanner},
};

/// `text` as a JSON string, quotes included.
pub(crate) fn string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

/// The text of a JSON string, with U+FFFD in place of unpaired surrogates. `None` for any other
/// value.
pub(crate) fn decode_string(json: &[u8]) -> Option<String> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, text: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(text).into_owned())
        }
    }

    // Not as a `str`, which can't have unpaired surrogates.
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_bytes(Text).ok()
}

/// The value of a field of an object: of the last one, if there are several.
pub(crate) fn field<'a>(document: &'a [u8], name: &str) -> Option<&'a RawValue> {
    struct Field<'n>(&'n str);

    impl<'de> Visitor<'de> for Field<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            // A `String` can't be a lone surrogate, which names may hold.
            while let Some(name) = fields.next_key::<&RawValue>()? {
                let value = fields.next_value()?;
                if decode_string(name.get().as_bytes()).is_some_and(|name| name == self.0) {
                    found = Some(value);
                }
            }
            Ok(found)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_slice(document);
    let found = deserializer.deserialize_map(Field(name)).ok()?;
    deserializer.end().ok()?;
    found
}

/// Why a document is not JSON, or not an object. It never quotes the document.
///
/// Boxed: errors are rare, and scanning is faster without room for them.
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
