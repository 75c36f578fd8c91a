//! Reads the top-level `model` of a JSON object that passes in chunks.

use memchr::memchr2;

/// Finds the first string under a top-level `model`, in chunks that are cut anywhere. It checks
/// nothing else, and keeps nothing but that string.
///
/// Not found, by design: a key that is written with escapes.
#[derive(Default)]
pub(crate) struct ModelReader {
    state: State,
    /// How many containers are open.
    depth: u32,
    /// How much of the key has been read.
    matched: u8,
    /// The string, as it is written.
    value: Vec<u8>,
    /// The byte before was a backslash that escapes the next one.
    is_escaped: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before the object.
    #[default]
    Start,
    /// Between strings, in a container.
    Between,
    /// In a string that isn't looked at.
    String,
    /// In a string at the top level, which is the key as far as it has been read.
    Key,
    /// Behind the key.
    Colon,
    /// Behind its colon.
    Value,
    /// In the value.
    Model,
    Found,
    /// There is none.
    Over,
}

const KEY: &[u8] = b"model\"";

/// Longer names are cut off here.
const MAX_LENGTH: usize = 256;

impl ModelReader {
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            rest = match self.state {
                State::Found | State::Over => return,
                State::String => self.skip_string(rest),
                State::Between if self.depth > 1 => self.skip_nested(rest),
                State::Model => self.read_model(rest),
                _ => {
                    self.step(*byte);
                    after
                }
            };
        }
    }

    /// The value, if there is one.
    pub(crate) fn into_model(self) -> Option<String> {
        if self.state != State::Found {
            return None;
        }
        if !self.value.contains(&b'\\') {
            let name = String::from_utf8(self.value);
            return Some(
                name.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            );
        }
        super::decode_string(&[b"\"", &self.value[..], b"\""].concat())
    }

    fn step(&mut self, byte: u8) {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.state {
            State::Start if byte == b'{' => {
                self.state = State::Between;
                self.depth = 1;
            }
            State::Start if !is_space => self.state = State::Over,
            State::Between => self.between(byte),
            State::Key if KEY[usize::from(self.matched)] == byte => {
                self.matched += 1;
                if usize::from(self.matched) == KEY.len() {
                    self.state = State::Colon;
                }
            }
            State::Key if byte == b'"' => self.state = State::Between,
            State::Key => {
                self.state = State::String;
                self.is_escaped = byte == b'\\';
            }
            State::Colon if byte == b':' => self.state = State::Value,
            State::Value if byte == b'"' => self.state = State::Model,
            State::Colon | State::Value if !is_space => {
                self.state = State::Between;
                self.between(byte);
            }
            _ => {}
        }
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.state = match self.depth {
                    1 => State::Key,
                    _ => State::String,
                };
                self.matched = 0;
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = State::Over;
                }
            }
            _ => {}
        }
    }

    /// Reads on to the end of the value, or to an escape in it.
    fn read_model<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let is_escaped = std::mem::take(&mut self.is_escaped);
        let length = match memchr2(b'"', b'\\', &text[usize::from(is_escaped)..]) {
            Some(at) => usize::from(is_escaped) + at,
            None => text.len(),
        };
        let (part, rest) = text.split_at(length);
        let room = MAX_LENGTH - self.value.len();
        self.value.extend_from_slice(&part[..length.min(room)]);
        match rest {
            _ if length > room => self.state = State::Found,
            [b'"', ..] => self.state = State::Found,
            [escape, after @ ..] => {
                self.is_escaped = true;
                if length == room {
                    self.state = State::Found;
                } else {
                    self.value.push(*escape);
                }
                return after;
            }
            [] => {}
        }
        rest
    }

    /// Moves on in a nested container, to the end of it or into a string.
    fn skip_nested<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        // The bytes that matter come soon, so looking at each is faster than a search.
        let matters = |byte: &u8| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']');
        let Some(at) = text.iter().position(matters) else {
            return &[];
        };
        self.between(text[at]);
        &text[at + 1..]
    }

    /// Moves on to the end of a string.
    fn skip_string<'a>(&mut self, mut text: &'a [u8]) -> &'a [u8] {
        if std::mem::take(&mut self.is_escaped) {
            text = &text[1..];
        }
        while let Some(at) = memchr2(b'"', b'\\', text) {
            if text[at] == b'"' {
                self.state = State::Between;
                return &text[at + 1..];
            }
            let Some(after) = text.get(at + 2..) else {
                self.is_escaped = true;
                return &[];
            };
            text = after;
        }
        &[]
    }
}
