//! Where in a document a field stands, and which one stands there twice.
//!
//! [`Value`](serde_json::Value) knows neither. A scan looks at each value just before it is parsed
//! and, where it finds what it looks for, stops the parser with an error, which has the position.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// Path and offset of the first field that its object has already.
pub(super) fn duplicate(json: &str) -> Option<(String, usize)> {
    let error = scan(json, Wanted::Duplicate)?;
    Some((message(&error), offset(json, &error)))
}

/// The offset of the value at `path`.
pub(super) fn find(json: &str, path: &str) -> Option<usize> {
    let error = scan(json, Wanted::Path(path))?;
    Some(offset(json, &error))
}

/// The path of the member `name` of the object at `path`.
pub(super) fn member(path: &str, name: &str) -> String {
    if path.is_empty() && name.is_empty() {
        return "\"\"".to_owned(); // The document has no path itself.
    }
    let dot = if path.is_empty() { "" } else { "." };
    let name = if is_like_a_key(name) { "…" } else { name };
    let name = name.escape_debug(); // So that a message stays one line.
    format!("{path}{dot}{name}")
}

/// Whether a name may be a key or its digest, put where a field's name belongs.
fn is_like_a_key(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let mut parts = name.split(|c| !is_plain(c));
    parts.any(|part| part.len() >= LIKE_A_KEY)
}

/// No header field or model has a name of so many letters and digits in a row.
const LIKE_A_KEY: usize = 40;

/// The path of the item at `index` of the list at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// serde_json's message without the position that it ends with.
pub(super) fn message(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    if message.ends_with(&position) {
        message.truncate(message.len() - position.len());
    }
    message
}

/// The offset in `text` at which serde_json saw `error`.
pub(super) fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let lines = text.split_inclusive('\n').take(lines_before);
    let consumed = lines.map(str::len).sum::<usize>() + error.column();
    match error.classify() {
        Category::Data => consumed, // A stopped scan: the value is next.
        Category::Eof => text.len(),
        Category::Syntax | Category::Io => consumed.saturating_sub(1),
    }
}

fn scan(json: &str, wanted: Wanted<'_>) -> Option<serde_json::Error> {
    let document = Scan {
        path: Path::Document,
        duplicate: false,
        wanted,
    };
    let mut parser = serde_json::Deserializer::from_str(json);
    document.deserialize(&mut parser).err()
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Duplicate,
    Path(&'a str),
}

/// Where a value stands. Most are never written out.
#[derive(Clone, Copy)]
enum Path<'a> {
    Document,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn text(&self) -> String {
        match *self {
            Self::Document => String::new(),
            Self::Member(object, name) => member(&object.text(), name),
            Self::Item(list, index) => item(&list.text(), index),
        }
    }
}

/// The value about to be parsed.
struct Scan<'a> {
    path: Path<'a>,
    /// Whether its object has a field of this name already.
    duplicate: bool,
    wanted: Wanted<'a>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        let found = match self.wanted {
            Wanted::Duplicate => self.duplicate,
            Wanted::Path(path) => self.path.text() == path,
        };
        if found {
            return Err(D::Error::custom(self.path.text()));
        }
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Scan {
                path: Path::Member(&self.path, &name),
                duplicate: names.contains(&name),
                wanted: self.wanted,
            })?;
            names.insert(name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let items = (0..).map(|index| Scan {
            path: Path::Item(&self.path, index),
            duplicate: false,
            wanted: self.wanted,
        });
        for item in items {
            if list.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}
