//! Swaps the values of a JSON object's top-level `model` keys, and leaves every other byte alone.
//!
//! One pass over the bytes finds where these values stand. It builds nothing, copies nothing and
//! does not recurse; of the containers around a value it keeps one bit each. On its way it checks
//! the whole document against RFC 8259, so that a backend that reads by the same rules finds the
//! same `model`.
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

use std::{fmt, ops::Range, vec};

use bytes::{Buf, Bytes};

/// The model's name as a JSON string, quotes included, for [`replace_model`].
pub(crate) fn json_string(model: &str) -> Bytes {
    serde_json::Value::from(model).to_string().into()
}

/// Replaces the value of each top-level `model` in the JSON object `body` by `model_json`. Where
/// there is none, puts the key and `model_json` in front.
pub(crate) fn replace_model(body: &Bytes, model_json: &Bytes) -> Result<Pieces, NotAnObject> {
    let mut scan = Scanner { bytes: body, at: 0 };
    let found = scan.document();
    let found = found.map_err(|what| NotAnObject { what, at: scan.at })?;

    let mut spans = found.models;
    let mut with = model_json.clone();
    if spans.is_empty() {
        spans.push(found.inside..found.inside);
        let comma = if found.is_empty { "" } else { "," };
        with = [b"\"model\":", &model_json[..], comma.as_bytes()]
            .concat()
            .into();
    }
    Ok(Pieces::new(body.clone(), spans, with))
}

/// The new document, piece by piece, none of them empty. Usually there are three: what stands before
/// the model, the model, and what stands after it.
///
/// Pieces are made as they are asked for: a body of nothing but `model` keys would have many.
pub(crate) struct Pieces {
    /// What is left of the old document.
    body: Bytes,
    /// Where `body` starts in the old document.
    at: usize,
    /// What is still to be replaced in the old document.
    spans: vec::IntoIter<Range<usize>>,
    with: Bytes,
    with_is_next: bool,
    remaining: u64,
}

impl Pieces {
    fn new(body: Bytes, spans: Vec<Range<usize>>, with: Bytes) -> Self {
        let replaced: usize = spans.iter().map(Range::len).sum();
        Self {
            remaining: (body.len() - replaced) as u64 + spans.len() as u64 * with.len() as u64,
            body,
            at: 0,
            spans: spans.into_iter(),
            with,
            with_is_next: false,
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
        let piece = if self.with_is_next {
            self.with_is_next = false;
            self.with.clone()
        } else if let Some(span) = self.spans.next() {
            let before = self.body.split_to(span.start - self.at);
            self.body.advance(span.len());
            self.at = span.end;
            self.with_is_next = true;
            before
        } else {
            std::mem::take(&mut self.body)
        };
        self.remaining -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }
}

/// What keeps a document from being exactly one JSON object. It never quotes the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnObject {
    what: What,
    at: usize,
}

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for NotAnObject {}

type What = &'static str;

/// A document, and how far it has been read. After an error that is where the error is.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Found {
    models: Vec<Range<usize>>,
    /// Just behind the opening brace.
    inside: usize,
    is_empty: bool,
}

impl Scanner<'_> {
    /// Reads the whole document.
    fn document(&mut self) -> Result<Found, What> {
        self.expect(b'{', "expected `{`")?;
        let inside = self.at;
        let is_empty = self.token() == b'}';
        let mut models = Vec::new();
        if !is_empty {
            loop {
                let key = self.key()?;
                self.token();
                let start = self.at;
                self.value()?;
                if self.is_model(key)? {
                    models.push(start..self.at);
                }
                if self.token() != b',' {
                    break;
                }
                self.at += 1;
            }
        }
        self.expect(b'}', "expected `,` or `}`")?;
        self.token();
        if self.at < self.bytes.len() {
            return Err("expected the end");
        }
        Ok(Found {
            models,
            inside,
            is_empty,
        })
    }

    /// The next byte. At the end it is NUL, which JSON has nowhere.
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Moves past white space. Returns the byte behind it.
    fn token(&mut self) -> u8 {
        while let b' ' | b'\n' | b'\r' | b'\t' = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    /// Moves past white space and `byte`.
    fn expect(&mut self, byte: u8, what: What) -> Result<(), What> {
        if self.token() != byte {
            return Err(what);
        }
        self.at += 1;
        Ok(())
    }

    /// Moves past a key and its colon. Returns where the key stands, quotes included.
    fn key(&mut self) -> Result<Range<usize>, What> {
        if self.token() != b'"' {
            return Err("expected a key");
        }
        let start = self.at;
        self.string()?;
        let end = self.at;
        self.expect(b':', "expected `:`")?;
        Ok(start..end)
    }

    /// Whether the key is `model` once its escapes are resolved.
    fn is_model(&mut self, key: Range<usize>) -> Result<bool, What> {
        let start = key.start;
        let key = &self.bytes[key];
        if !key.contains(&b'\\') {
            return Ok(key == br#""model""#);
        }
        match serde_json::from_slice::<String>(key) {
            Ok(key) => Ok(key == "model"),
            Err(_) => {
                self.at = start;
                Err("lone surrogate in a key")
            }
        }
    }

    /// Moves past a value of any type.
    fn value(&mut self) -> Result<(), What> {
        let mut open = Nesting::default();
        loop {
            match self.token() {
                b'"' => self.string()?,
                b'{' => {
                    self.at += 1;
                    if self.token() != b'}' {
                        open.push(true);
                        self.key()?;
                        continue;
                    }
                    self.at += 1;
                }
                b'[' => {
                    self.at += 1;
                    if self.token() != b']' {
                        open.push(false);
                        continue;
                    }
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return Err("expected a value"),
            }

            // A value has ended, and perhaps containers around it.
            loop {
                if open.is_empty() {
                    return Ok(());
                }
                match (self.token(), open.in_object()) {
                    (b',', true) => {
                        self.at += 1;
                        self.key()?;
                        break;
                    }
                    (b',', false) => {
                        self.at += 1;
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        open.pop();
                    }
                    (_, true) => return Err("expected `,` or `}`"),
                    (_, false) => return Err("expected `,` or `]`"),
                }
            }
        }
    }

    fn literal(&mut self, literal: &[u8]) -> Result<(), What> {
        if !self.bytes[self.at..].starts_with(literal) {
            return Err("expected a value");
        }
        self.at += literal.len();
        Ok(())
    }

    /// Moves past a number: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
    fn number(&mut self) -> Result<(), What> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if let b'e' | b'E' = self.peek() {
            self.at += 1;
            if let b'+' | b'-' = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), What> {
        if !self.peek().is_ascii_digit() {
            return Err("expected a digit");
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    /// Moves past a string.
    fn string(&mut self) -> Result<(), What> {
        self.at += 1;
        let start = self.at;
        let mut is_ascii = true;
        loop {
            is_ascii &= self.plain_run();
            match self.peek() {
                b'"' => break,
                b'\\' => {
                    // Where there is one, there often are more in a row.
                    while self.peek() == b'\\' {
                        self.escape()?;
                    }
                }
                _ if self.at < self.bytes.len() => return Err("control character in a string"),
                _ => return Err("string without an end"),
            }
        }
        if !is_ascii && let Err(error) = std::str::from_utf8(&self.bytes[start..self.at]) {
            self.at = start + error.valid_up_to();
            return Err("invalid UTF-8");
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), What> {
        self.at += match &self.bytes[self.at + 1..] {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|x| x.is_ascii_hexdigit()) => 6,
            _ => return Err("invalid escape"),
        };
        Ok(())
    }

    /// Moves to the next byte that is not [plain](is_plain). Returns whether it met ASCII only; it
    /// may say no for what stands just behind.
    fn plain_run(&mut self) -> bool {
        let start = self.at;
        let mut is_ascii = true;
        while let Some(word) = self.bytes[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*word);
            is_ascii &= word & HIGHS == 0;
            let stops = not_plain(word);
            if stops != 0 {
                self.at += stops.trailing_zeros() as usize / 8;
                return is_ascii;
            }
            self.at += 8;
            // Most strings are short. One that isn't may be very long.
            if (self.at - start).is_multiple_of(BLOCK) {
                is_ascii &= self.plain_blocks();
            }
        }
        // The document's last bytes.
        while self.at < self.bytes.len() && is_plain(self.bytes[self.at]) {
            is_ascii &= self.bytes[self.at].is_ascii();
            self.at += 1;
        }
        is_ascii
    }

    /// Moves past blocks that are plain as a whole. Returns whether they are ASCII only.
    fn plain_blocks(&mut self) -> bool {
        let mut is_ascii = true;
        while let Some(block) = self.bytes[self.at..].first_chunk::<BLOCK>() {
            let mut plain = true;
            let mut ascii = true;
            // No branch inside: the compiler makes vector instructions of it.
            for &byte in block {
                plain &= is_plain(byte);
                ascii &= byte.is_ascii();
            }
            if !plain {
                break;
            }
            is_ascii &= ascii;
            self.at += BLOCK;
        }
        is_ascii
    }
}

/// How much of a long string is tested at once.
const BLOCK: usize = 64;
/// The lowest bit of each byte in a word, and the highest.
const ONES: u64 = u64::MAX / 0xff;
const HIGHS: u64 = ONES << 7;

/// Whether a string may contain `byte` as it is, UTF-8 apart.
fn is_plain(byte: u8) -> bool {
    (byte != b'"') & (byte != b'\\') & (byte >= 0x20)
}

/// The highest bit of each byte in `word` that is not [plain](is_plain).
fn not_plain(word: u64) -> u64 {
    // None of the sums carries over into the next byte, as the highest bits are off before.
    let low = word & !HIGHS;
    let not_quote = (low ^ (ONES * u64::from(b'"'))) + !HIGHS;
    let not_backslash = (low ^ (ONES * u64::from(b'\\'))) + !HIGHS;
    let not_control = low + ONES * (0x80 - 0x20);
    !(word | (not_quote & not_backslash & not_control)) & HIGHS
}

/// The containers that are open, one bit each. The first 64 need no allocation.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// The innermost ones, the last one in the lowest bit; set for an object.
    inner: u64,
    /// The others, 64 each.
    outer: Vec<u64>,
}

impl Nesting {
    fn is_empty(&self) -> bool {
        self.depth == 0
    }

    fn in_object(&self) -> bool {
        self.inner & 1 == 1
    }

    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth.is_multiple_of(64)
            && let Some(outer) = self.outer.pop()
        {
            self.inner = outer;
        }
    }
}

#[cfg(test)]
mod tests;
