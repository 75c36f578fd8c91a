use std::ops::Range;

use bytes::Bytes;

use super::{
    Invalid,
    key::Key,
    nesting::Nesting,
    text::{Escape, Text},
    utf8::Utf8,
};

/// Finds the models of a document that comes in pieces, cut anywhere.
#[derive(Default)]
pub(crate) struct Scanner {
    state: State,
    /// What has been read of an escape, a number or a literal, where the state is in one.
    escape: Escape,
    number: Number,
    literal: Literal,
    open: Nesting,
    /// Where the piece that is being read starts in the document.
    offset: usize,
    utf8: Utf8,
    /// The document's own members: the last key, where it starts, and where its value does.
    key: Key,
    key_start: usize,
    value_start: usize,
    found: Found,
}

#[derive(Default)]
pub(crate) struct Found {
    /// Where the models' values stand.
    pub(crate) models: Vec<Range<usize>>,
    /// Just behind the opening brace.
    pub(crate) inside: usize,
    pub(crate) is_empty: bool,
}

impl Found {
    /// What to replace, and with what, so that the document has this model: each value of a `model`
    /// key or, where there is none, the place for one.
    pub(crate) fn with_model(&self, model_json: Bytes) -> (Vec<Range<usize>>, Bytes) {
        if !self.models.is_empty() {
            return (self.models.clone(), model_json);
        }
        let comma = if self.is_empty { "" } else { "," };
        let member = [b"\"model\":", &model_json[..], comma.as_bytes()].concat();
        (vec![self.inside..self.inside], member.into())
    }
}

/// What comes next, by the grammar of RFC 8259.
#[derive(Clone, Copy, Default)]
enum State {
    /// The document's opening brace.
    #[default]
    Object,
    /// A key, or the end of the object.
    FirstKey,
    Key,
    Colon,
    /// A value, or the end of the array.
    FirstValue,
    Value,
    /// A comma, or the end of the container.
    Comma,
    /// Nothing but white space.
    End,
    /// The rest of a string that is a key, or a value.
    KeyString,
    ValueString,
    /// The rest of a number, or of `true`, `false` or `null`.
    Number,
    Literal,
}

/// What has been read of a number: `-? int frac? exp?`.
#[derive(Clone, Copy, Default)]
enum Number {
    #[default]
    Minus,
    /// An `int` that is zero, and so is whole.
    Zero,
    Int,
    /// The decimal point.
    Point,
    Frac,
    E,
    /// The exponent's sign.
    Sign,
    Exp,
}

impl Number {
    /// Whether it may end here.
    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Int | Self::Frac | Self::Exp)
    }
}

/// A literal, and how much of it has been read.
#[derive(Clone, Copy, Default)]
struct Literal {
    name: &'static [u8],
    read: usize,
}

impl Scanner {
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), Invalid> {
        let mut text = Text::new(piece);
        let mut state = self.state;
        while text.peek().is_some() {
            state = match state {
                State::KeyString => self.key_string(&mut text)?,
                State::ValueString => self.value_string(&mut text)?,
                State::Number => self.number(&mut text)?,
                State::Literal => self.literal(&mut text)?,
                _ => match text.token() {
                    Some(byte) => self.token(state, byte, &mut text)?,
                    None => break,
                },
            };
        }
        self.state = state;
        self.offset += piece.len();
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Found, Invalid> {
        match self.state {
            State::End => Ok(self.found),
            state => Err(self.unexpected(state, self.offset)),
        }
    }

    /// Moves past one byte between strings, numbers and literals, or into one of them.
    #[inline(always)]
    fn token(&mut self, state: State, byte: u8, text: &mut Text<'_>) -> Result<State, Invalid> {
        let at = self.offset + text.at();
        text.advance();
        Ok(match state {
            State::FirstKey | State::Key if byte == b'"' => self.key(at),
            State::Colon if byte == b':' => State::Value,
            State::Value => self.value(state, byte, at)?,
            State::FirstValue if byte != b']' => self.value(state, byte, at)?,
            State::Comma if byte == b',' => match self.open.in_object() {
                true => State::Key,
                false => State::Value,
            },
            State::Comma if byte == self.open.end() => self.close(at),
            State::FirstValue => self.close(at),
            State::FirstKey if byte == b'}' => {
                self.found.is_empty = self.is_outermost();
                self.close(at)
            }
            State::Object if byte == b'{' => {
                self.found.inside = at + 1;
                self.open(true)
            }
            _ => return Err(self.unexpected(state, at)),
        })
    }

    fn key(&mut self, at: usize) -> State {
        if self.is_outermost() {
            self.key = Key::default();
            self.key_start = at;
        }
        State::KeyString
    }

    fn value(&mut self, state: State, first: u8, at: usize) -> Result<State, Invalid> {
        if self.is_outermost() {
            self.value_start = at;
        }
        Ok(match first {
            b'"' => State::ValueString,
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'-' => self.begin_number(Number::Minus),
            b'0' => self.begin_number(Number::Zero),
            b'1'..=b'9' => self.begin_number(Number::Int),
            b't' => self.begin_literal(b"true"),
            b'f' => self.begin_literal(b"false"),
            b'n' => self.begin_literal(b"null"),
            _ => return Err(self.unexpected(state, at)),
        })
    }

    fn begin_number(&mut self, number: Number) -> State {
        self.number = number;
        State::Number
    }

    fn begin_literal(&mut self, name: &'static [u8]) -> State {
        self.literal = Literal { name, read: 1 };
        State::Literal
    }

    fn open(&mut self, is_object: bool) -> State {
        self.open.push(is_object);
        match is_object {
            true => State::FirstKey,
            false => State::FirstValue,
        }
    }

    /// Closes the innermost container, the last byte of which stands `at` this place.
    fn close(&mut self, at: usize) -> State {
        self.open.pop();
        match self.open.depth() {
            0 => State::End,
            _ => self.end_value(at + 1),
        }
    }

    fn end_value(&mut self, end: usize) -> State {
        if self.is_outermost() && self.key.is_model() {
            self.found.models.push(self.value_start..end);
        }
        State::Comma
    }

    /// Whether the innermost container is the document's object.
    fn is_outermost(&self) -> bool {
        self.open.depth() == 1
    }

    fn key_string(&mut self, text: &mut Text<'_>) -> Result<State, Invalid> {
        let start = text.at();
        let is_whole = self.string(text)?;
        if self.is_outermost() {
            self.key.read(text.since(start));
        }
        if !is_whole {
            return Ok(State::KeyString);
        }
        text.advance();
        if self.is_outermost() && self.key.has_lone_surrogate() {
            return Err(Invalid::new("lone surrogate in a key", self.key_start));
        }
        Ok(State::Colon)
    }

    fn value_string(&mut self, text: &mut Text<'_>) -> Result<State, Invalid> {
        if !self.string(text)? {
            return Ok(State::ValueString);
        }
        text.advance();
        Ok(self.end_value(self.offset + text.at()))
    }

    /// Moves on in a string: to its end, or to the piece's. Returns whether it is the string's.
    fn string(&mut self, text: &mut Text<'_>) -> Result<bool, Invalid> {
        let start = text.at();
        let (escape, is_ascii) = text.string(self.escape);
        self.escape = escape;
        let next = text.peek();
        if !is_ascii || self.utf8.begun() > 0 {
            self.check_utf8(text.since(start), self.offset + start, next.is_none())?;
        }
        let at = self.offset + text.at();
        match next {
            None => Ok(false),
            Some(b'"') if escape == 0 => Ok(true),
            Some(_) if escape == 0 => Err(Invalid::new("control character in a string", at)),
            Some(_) => Err(Invalid::new("invalid escape", at - usize::from(escape))),
        }
    }

    /// Checks what has been read of a string, to its end or `is_cut`.
    fn check_utf8(&mut self, read: &[u8], at: usize, is_cut: bool) -> Result<(), Invalid> {
        let checked = self.utf8.read(read, at);
        let begun = self.utf8.begun();
        match checked {
            Ok(()) if is_cut || begun == 0 => Ok(()),
            Ok(()) => Err(Invalid::new("invalid UTF-8", at + read.len() - begun)),
            Err(at) => Err(Invalid::new("invalid UTF-8", at)),
        }
    }

    fn number(&mut self, text: &mut Text<'_>) -> Result<State, Invalid> {
        use Number::*;

        while let Some(byte) = text.peek() {
            self.number = match (self.number, byte) {
                (Minus, b'0') => Zero,
                (Minus, b'1'..=b'9') => Int,
                (Int | Frac | Exp, b'0'..=b'9') => {
                    text.digits();
                    continue;
                }
                (Zero | Int, b'.') => Point,
                (Point, b'0'..=b'9') => Frac,
                (Zero | Int | Frac, b'e' | b'E') => E,
                (E, b'+' | b'-') => Sign,
                (E | Sign, b'0'..=b'9') => Exp,
                (Zero | Int | Frac | Exp, _) => return Ok(self.end_value(self.offset + text.at())),
                (Minus | Point | E | Sign, _) => {
                    return Err(Invalid::new("expected a digit", self.offset + text.at()));
                }
            };
            text.advance();
        }
        Ok(State::Number)
    }

    fn literal(&mut self, text: &mut Text<'_>) -> Result<State, Invalid> {
        while let Some(&expected) = self.literal.name.get(self.literal.read) {
            match text.peek() {
                Some(byte) if byte == expected => text.advance(),
                Some(_) => return Err(self.unexpected(State::Literal, self.offset + text.at())),
                None => return Ok(State::Literal),
            }
            self.literal.read += 1;
        }
        Ok(self.end_value(self.offset + text.at()))
    }

    /// The error that the document has an unexpected byte, or its end, `at` this place.
    #[cold]
    fn unexpected(&self, state: State, at: usize) -> Invalid {
        let what = match state {
            State::Object => "expected `{`",
            State::FirstKey | State::Key => "expected a key",
            State::Colon => "expected `:`",
            State::FirstValue | State::Value => "expected a value",
            State::End => "expected the end",
            State::KeyString | State::ValueString if self.escape == 0 => "string without an end",
            State::KeyString | State::ValueString => {
                return Invalid::new("invalid escape", at - usize::from(self.escape));
            }
            State::Literal => return Invalid::new("expected a value", at - self.literal.read),
            State::Number if !self.number.is_whole() => "expected a digit",
            State::Comma | State::Number if self.open.in_object() => "expected `,` or `}`",
            State::Comma | State::Number => "expected `,` or `]`",
        };
        Invalid::new(what, at)
    }
}
