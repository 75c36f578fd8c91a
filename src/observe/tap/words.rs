//! Finds the first of each key of a set whose value is a string, in JSON that passes in chunks: the
//! names in a response, and the first token of a stream.
//!
//! Like the search for `usage`, it knows keys by their quotes alone.

use memchr::{memchr, memchr2};

use crate::json;

/// Keys that are searched for. Those of the names come first.
const KEYS: [&[u8]; 12] = [
    b"model",
    b"id",
    b"content",
    b"reasoning_content",
    b"reasoning",
    b"refusal",
    b"text",
    b"delta",
    b"transcript",
    b"data",
    b"arguments",
    b"tool_calls",
];

/// The length of the longest.
const MAX_KEY: usize = {
    let (mut max, mut key) = (0, 0);
    while key < KEYS.len() {
        if KEYS[key].len() > max {
            max = KEYS[key].len();
        }
        key += 1;
    }
    max
};

const MODEL: u8 = 0;
const ID: u8 = 1;
const TOOL_CALLS: u8 = 11;

/// Sets of keys, a bit each.
const NAMES: u16 = 1 << MODEL | 1 << ID;
const TOKENS: u16 = ((1 << KEYS.len()) - 1) & !NAMES;

/// Longer names are cut off here.
const MAX_NAME: usize = 256;

/// Searches text that arrives in chunks, cut anywhere.
#[derive(Default)]
pub(super) struct Words {
    wanted: u16,
    state: State,
    /// The last byte of the chunk before.
    before: u8,
    model: Option<Box<str>>,
    id: Option<Box<str>>,
    /// A name that a chunk's end has cut.
    name: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// Before a quote.
    #[default]
    Between,
    /// In what may be a key that a chunk's end cuts, of which so many bytes have been read.
    Key { candidates: u16, read: u8 },
    /// Behind a key.
    Colon(u8),
    /// Behind its colon.
    Value(u8),
    /// Behind the first quote of a token.
    Token,
    /// Behind the bracket of `tool_calls`.
    Calls,
    /// In the value of a name.
    Name { key: u8, is_escaped: bool },
}

impl Words {
    pub(super) fn new(has_tokens: bool) -> Self {
        Self {
            wanted: if has_tokens { NAMES | TOKENS } else { NAMES },
            ..Self::default()
        }
    }

    /// Whether there is anything left to search for.
    pub(super) fn is_over(&self) -> bool {
        self.wanted == 0
    }

    pub(super) fn wants_names(&self) -> bool {
        self.wanted & NAMES != 0
    }

    pub(super) fn wants_token(&self) -> bool {
        self.wanted & TOKENS != 0
    }

    /// Gives up the names that haven't been found.
    pub(super) fn give_up_names(&mut self) {
        self.wanted &= !NAMES;
        if matches!(self.state, State::Name { .. }) {
            self.end();
        }
        self.name = Vec::new();
    }

    /// The text ends here, or what follows doesn't belong to it.
    pub(super) fn end(&mut self) {
        self.state = State::Between;
        self.before = 0;
        self.name.clear();
    }

    pub(super) fn take_names(&mut self) -> (Option<Box<str>>, Option<Box<str>>) {
        (self.model.take(), self.id.take())
    }

    pub(super) fn feed(&mut self, text: &[u8]) {
        let mut at = 0;
        while self.wanted != 0
            && let Some(&byte) = text.get(at)
        {
            match self.state {
                State::Between => {
                    let Some(quote) = memchr(b'"', &text[at..]) else {
                        break;
                    };
                    at += quote;
                    let before = match at.checked_sub(1) {
                        Some(before) => text[before],
                        None => self.before,
                    };
                    at += 1;
                    if before != b'\\' {
                        let (state, length) = self.key(&text[at..]);
                        self.state = state;
                        at += length;
                    }
                }
                State::Key { candidates, read } => {
                    let candidates = matching(candidates, read, byte);
                    self.state = match candidates {
                        // The byte may be a quote, and begin a key itself.
                        0 => State::Between,
                        _ if byte == b'"' => State::Colon(candidates.trailing_zeros() as u8),
                        _ => State::Key {
                            candidates,
                            read: read + 1,
                        },
                    };
                    at += usize::from(candidates != 0);
                }
                _ if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') && self.skips_space() => at += 1,
                State::Colon(key) if byte == b':' => {
                    self.state = State::Value(key);
                    at += 1;
                }
                State::Value(key) if byte == b'"' && key != TOOL_CALLS => {
                    self.state = match key {
                        MODEL | ID => State::Name {
                            key,
                            is_escaped: false,
                        },
                        _ => State::Token,
                    };
                    at += 1;
                }
                State::Value(TOOL_CALLS) if byte == b'[' => {
                    self.state = State::Calls;
                    at += 1;
                }
                State::Token if byte != b'"' => self.find_token(),
                State::Token => {
                    self.state = State::Between;
                    at += 1;
                }
                State::Calls if byte != b']' => self.find_token(),
                State::Name { key, is_escaped } => {
                    at += self.read_name(key, is_escaped, &text[at..]);
                }
                // Not what was looked for; the byte may begin it.
                State::Colon(_) | State::Value(_) | State::Calls => self.state = State::Between,
            }
        }
        if let Some(last) = text.last() {
            self.before = *last;
        }
    }

    /// Reads the key that may begin here, behind a quote, and gives its length.
    fn key(&self, text: &[u8]) -> (State, usize) {
        if text.len() <= MAX_KEY {
            let candidates = self.wanted;
            let cut = State::Key {
                candidates,
                read: 0,
            };
            return (cut, 0);
        }
        let mut left = self.wanted & BEGINNING[usize::from(text[0])];
        while left != 0 {
            let index = left.trailing_zeros() as u8;
            let key = KEYS[usize::from(index)];
            if text.starts_with(key) && text[key.len()] == b'"' {
                return (State::Colon(index), key.len() + 1);
            }
            left &= left - 1;
        }
        (State::Between, 0)
    }

    fn skips_space(&self) -> bool {
        matches!(self.state, State::Colon(_) | State::Value(_) | State::Calls)
    }

    fn find_token(&mut self) {
        self.wanted &= !TOKENS;
        self.state = State::Between;
    }

    /// Reads on to the end of a name or of the text. Returns how far.
    fn read_name(&mut self, key: u8, mut is_escaped: bool, text: &[u8]) -> usize {
        let mut length = 0;
        let mut end = None;
        while end.is_none() && length < text.len() {
            if std::mem::take(&mut is_escaped) {
                length += 1;
                continue;
            }
            let special = memchr2(b'"', b'\\', &text[length..]);
            length += special.unwrap_or(text.len() - length);
            match text.get(length) {
                Some(b'"') => end = Some(length),
                Some(_) => {
                    is_escaped = true;
                    length += 1;
                }
                None => {}
            }
        }
        let room = MAX_NAME.saturating_sub(self.name.len());
        let (part, _) = text.split_at(length.min(room));
        let is_whole = self.name.is_empty() && end.is_some();
        if !is_whole {
            self.name.extend_from_slice(part);
        }
        if end.is_none() && self.name.len() < MAX_NAME {
            self.state = State::Name { key, is_escaped };
            return length;
        }
        let found = if key == MODEL {
            &mut self.model
        } else {
            &mut self.id
        };
        *found = Some(decoded(if is_whole { part } else { &self.name }));
        self.name = Vec::new();
        self.wanted &= !(1 << key);
        self.state = State::Between;
        // The quote at its end is none that begins a key.
        length + usize::from(end.is_some())
    }
}

/// A name as it is meant, from the inside of its quotes.
fn decoded(name: &[u8]) -> Box<str> {
    match str::from_utf8(name) {
        Ok(name) if !name.contains('\\') => name.into(),
        _ if name.contains(&b'\\') => {
            let name = json::decode_string(&[b"\"", name, b"\""].concat());
            name.unwrap_or_default().into()
        }
        _ => String::from_utf8_lossy(name).into(),
    }
}

/// The keys that begin with a byte. Most quotes begin none of them.
const BEGINNING: [u16; 256] = {
    let mut beginning = [0; 256];
    let mut key = 0;
    while key < KEYS.len() {
        beginning[KEYS[key][0] as usize] |= 1 << key;
        key += 1;
    }
    beginning
};

/// Which of the candidates go on with this byte, or end with it if it is a quote.
fn matching(candidates: u16, read: u8, byte: u8) -> u16 {
    if read == 0 {
        return candidates & BEGINNING[usize::from(byte)];
    }
    let mut left = candidates;
    let mut matching = 0;
    while left != 0 {
        let key = left.trailing_zeros();
        let expected = KEYS[key as usize].get(usize::from(read));
        if *expected.unwrap_or(&b'"') == byte {
            matching |= 1 << key;
        }
        left &= left - 1;
    }
    matching
}
