//! Finds the last usage object in JSON that passes in chunks.
//!
//! In JSON the bytes `"usage"`, followed by a colon, are a key wherever they stand, unless a backslash
//! precedes them: quotes inside strings are escaped. So they are searched for, and nothing else of the
//! text is read but the object behind them.

use std::sync::LazyLock;

use memchr::memmem;

use super::object::{Members, Unread};
use crate::observe::usage::{Fields, Usage};

const KEY: &[u8] = b"\"usage\"";

static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(KEY));

/// The largest usage object that is kept.
const MAX_BYTES: usize = 4096;

/// How deep objects under `usage` are searched for others that are within them.
const MAX_NESTING: u32 = 8;

/// Searches text that arrives in chunks, cut anywhere.
#[derive(Default)]
pub(super) struct Finder {
    state: State,
    /// The last byte of the chunk before.
    before: u8,
    /// Where the last key starts.
    start: u64,
    /// The object that a chunk's end has cut.
    open: Option<Box<Open>>,
    found: Option<Box<Found>>,
}

#[derive(Clone, Copy)]
enum State {
    /// Before a key, of which so many bytes have been read.
    Key(u8),
    /// Behind a key.
    Colon,
    /// Behind its colon.
    Value,
    /// In the object.
    Object,
}

impl Default for State {
    fn default() -> Self {
        Self::Key(0)
    }
}

/// A usage object, and where its key starts.
pub(super) struct Found {
    pub(super) start: u64,
    /// `None` if it is too large.
    pub(super) usage: Option<Usage>,
}

impl Finder {
    /// Reads on; `offset` is that of the text.
    pub(super) fn feed(&mut self, text: &[u8], offset: u64) {
        self.read(text, offset);
        if let Some(last) = text.last() {
            self.before = *last;
        }
    }

    /// The text ends here, or what follows doesn't belong to it.
    pub(super) fn end(&mut self) {
        if let Some(open) = self.open.take()
            && !open.is_large
        {
            self.search_within(&open.bytes);
        }
        self.state = State::default();
        self.before = 0;
    }

    pub(super) fn take(&mut self) -> Option<Box<Found>> {
        self.found.take()
    }

    fn read(&mut self, text: &[u8], offset: u64) {
        let mut at = 0;
        let (mut nesting, mut nested_to) = (0, 0);
        while let Some(&byte) = text.get(at) {
            match self.state {
                State::Key(0) => {
                    let Some(found) = FINDER.find(&text[at..]) else {
                        return self.begin_key(text, at, offset);
                    };
                    let key = at + found;
                    let before = match key.checked_sub(1) {
                        Some(before) => text[before],
                        None => self.before,
                    };
                    if before != b'\\' {
                        self.start = offset + key as u64;
                        self.state = State::Colon;
                    }
                    at = key + KEY.len();
                }
                State::Key(read) if KEY[usize::from(read)] == byte => {
                    at += 1;
                    self.state = match usize::from(read) + 1 {
                        length if length == KEY.len() => State::Colon,
                        _ => State::Key(read + 1),
                    };
                }
                State::Colon | State::Value if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => {
                    at += 1;
                }
                State::Colon if byte == b':' => {
                    at += 1;
                    self.state = State::Value;
                }
                State::Value if byte == b'{' => {
                    let object = &text[at..];
                    self.state = State::default();
                    match Fields::read(object) {
                        Ok((Some(fields), length)) => {
                            self.keep(&object[..length], fields);
                            at += length;
                        }
                        Ok((None, length)) => {
                            if at >= nested_to {
                                (nesting, nested_to) = (0, at + length);
                            }
                            nesting += 1;
                            at += if nesting > MAX_NESTING { length } else { 1 };
                        }
                        Err(Unread::Invalid) => at += 1,
                        Err(Unread::Cut) => {
                            self.open = Some(Box::default());
                            self.state = State::Object;
                        }
                    }
                }
                State::Object => {
                    let open = self.open.get_or_insert_default();
                    let Some(length) = open.read(&text[at..]) else {
                        return;
                    };
                    at += length;
                    self.close();
                }
                // Not what was looked for; the byte may begin it.
                State::Key(_) | State::Colon | State::Value => self.state = State::default(),
            }
        }
    }

    /// Notes the key that may begin at the end of a text that has no whole one from here on.
    #[inline]
    fn begin_key(&mut self, text: &[u8], from: usize, offset: u64) {
        let from = from.max(text.len().saturating_sub(KEY.len() - 1));
        let Some(quote) = memchr::memrchr(b'"', &text[from..]) else {
            return;
        };
        let key = from + quote;
        let before = match key.checked_sub(1) {
            Some(before) => text[before],
            None => self.before,
        };
        if before != b'\\' && KEY.starts_with(&text[key..]) {
            self.start = offset + key as u64;
            self.state = State::Key((text.len() - key) as u8);
        }
    }

    fn keep(&mut self, object: &[u8], fields: Fields) {
        let usage = (object.len() <= MAX_BYTES).then(|| Usage::new(fields, object));
        self.found = Some(Box::new(Found {
            start: self.start,
            usage,
        }));
    }

    /// The object that was cut has ended.
    fn close(&mut self) {
        self.state = State::default();
        let Some(open) = self.open.take() else {
            return;
        };
        if open.is_large {
            if open.is_usage {
                self.found = Some(Box::new(Found {
                    start: self.start,
                    usage: None,
                }));
            }
            return;
        }
        match Fields::read(&open.bytes) {
            Ok((Some(fields), _)) => self.keep(&open.bytes, fields),
            _ => self.search_within(&open.bytes),
        }
    }

    /// Searches an object that is no usage itself, or has no end.
    fn search_within(&mut self, object: &[u8]) {
        let mut within = Self::default();
        within.read(object.get(1..).unwrap_or_default(), self.start + 1);
        self.found = within.found.or(self.found.take());
    }
}

/// An object that is being collected. Of one that is too large, only the last member.
#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    depth: u32,
    is_string: bool,
    is_escaped: bool,
    is_large: bool,
    /// The last member is too large, so nothing of it is kept.
    is_member_large: bool,
    /// One of its members makes it a usage object; known only of one that is too large.
    is_usage: bool,
}

impl Open {
    /// Reads on to the object's end, which is returned, or to that of the text.
    fn read(&mut self, text: &[u8]) -> Option<usize> {
        let mut kept = 0;
        for (at, &byte) in text.iter().enumerate() {
            let is_member_end = self.step(byte);
            let is_end = self.depth == 0;
            if self.bytes.len() + (at + 1 - kept) > MAX_BYTES {
                self.grow_large(&text[kept..=at]);
                kept = at + 1;
            }
            if self.is_large && (is_end || is_member_end) {
                self.bytes.extend_from_slice(&text[kept..=at]);
                kept = at + 1;
                self.end_member();
            }
            if is_end {
                self.bytes.extend_from_slice(&text[kept..=at]);
                return Some(at + 1);
            }
        }
        self.bytes.extend_from_slice(&text[kept..]);
        None
    }

    /// Whether the byte ends a member of the object.
    fn step(&mut self, byte: u8) -> bool {
        if self.is_string {
            self.is_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.is_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' => return self.depth == 1,
            _ => {}
        }
        false
    }

    /// There is more of it than is kept.
    fn grow_large(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        if !self.is_large {
            self.is_large = true;
            let mut end = 1;
            if let Ok(mut members) = Members::of(&self.bytes) {
                while let Ok(Some(_)) = members.key()
                    && members.value().is_ok()
                {
                    end = members.end();
                }
            }
            self.is_usage = is_usage(&self.bytes[1..end]);
            self.bytes.drain(..end);
        }
        // No count is as long.
        if self.is_member_large || self.bytes.len() > MAX_BYTES {
            self.is_member_large = true;
            self.bytes.clear();
        }
    }

    /// The last member of an object that is too large has ended.
    fn end_member(&mut self) {
        if !std::mem::take(&mut self.is_member_large) {
            let member = self.bytes.strip_prefix(b",").unwrap_or(&self.bytes);
            let member = member.strip_suffix(b",").or(member.strip_suffix(b"}"));
            self.is_usage |= is_usage(member.unwrap_or_default());
        }
        self.bytes.clear();
    }
}

/// Whether one of these members makes an object a usage object.
fn is_usage(members: &[u8]) -> bool {
    let object = [b"{", members, b"}"].concat();
    matches!(Fields::read(&object), Ok((Some(_), _)))
}
