//! Finds a document's top-level `model`, and validates the whole (RFC 8259).

use std::ops::Range;

use bytes::Bytes;

use super::{
    Invalid,
    key::Key,
    nesting::Nesting,
    text::{Escape, Text},
    utf8::Utf8,
};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Scans a document that arrives in chunks, cut anywhere. By [default](Default) it may be any JSON.
#[derive(Default)]
pub(crate) struct Scanner {
    state: State,
    /// How much of an escape, a number or a literal has been read, where the state is in one.
    escape: Escape,
    number: Number,
    literal: Literal,
    open: Nesting,
    /// Where the current chunk starts in the document.
    offset: usize,
    utf8: Utf8,
    /// The document's last top-level key, and its value.
    key: Key,
    value_start: usize,
    value_is_string: bool,
    found: Found,
}

/// What a document is, and where its `model` stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the document's value starts, behind leading white space.
    start: usize,
    pub(crate) is_object: bool,
    is_empty: bool,
    /// The values of the top-level `model` keys, in their order.
    pub(crate) models: Vec<Value>,
    /// The values of the top-level keys that differ from `model` only in the case of ASCII letters,
    /// which some readers ignore.
    pub(crate) look_alikes: Vec<Value>,
}

/// A value of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) span: Range<usize>,
    pub(crate) is_string: bool,
}

impl Found {
    /// The same, for callers that need an object.
    pub(crate) fn require_object(&self) -> Result<&Self, Invalid> {
        if self.is_object {
            Ok(self)
        } else {
            Err(Invalid::new(EXPECTED_OBJECT, self.start))
        }
    }

    /// Which spans of an object to replace, and by what, to give it this model: the value of each
    /// `model` key or, where there is none, the place for one.
    pub(crate) fn with_model(&self, model_json: Bytes) -> (Vec<Range<usize>>, Bytes) {
        if !self.models.is_empty() {
            let spans = self.models.iter().map(|value| value.span.clone());
            return (spans.collect(), model_json);
        }
        let comma = if self.is_empty { "" } else { "," };
        let member = [b"\"model\":", &model_json[..], comma.as_bytes()].concat();
        let inside = self.start + 1;
        let place = inside..inside;
        (vec![place], member.into())
    }
}

const EXPECTED_OBJECT: &str = "expected `{`";

/// What comes next, by the grammar of RFC 8259.
#[derive(Clone, Copy, Default)]
enum State {
    /// The document's value: any, or an object.
    #[default]
    Document,
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
    /// What is wrong with it, if it isn't JSON.
    fault: Option<&'static str>,
}

impl Scanner {
    /// For a document that must be an object: fails at the first byte of any other.
    pub(crate) fn for_object() -> Self {
        Self {
            state: State::Object,
            ..Self::default()
        }
    }

    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), Invalid> {
        let mut text = Text::new(chunk);
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
        self.offset += chunk.len();
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Found, Invalid> {
        match self.state {
            State::End => Ok(self.found),
            // Only its end shows that a number is whole.
            State::Number if self.open.depth() == 0 && self.number.is_whole() => Ok(self.found),
            state => Err(self.unexpected(state, self.offset)),
        }
    }

    /// Moves past one byte between strings, numbers and literals, or into one of them.
    #[inline(always)]
    fn token(&mut self, state: State, byte: u8, text: &mut Text<'_>) -> Result<State, Invalid> {
        let at = self.offset + text.at();
        text.advance();
        Ok(match state {
            State::FirstKey | State::Key if byte == b'"' => self.key(),
            State::Colon if byte == b':' => State::Value,
            State::Value => self.value(state, byte, at)?,
            State::FirstValue if byte != b']' => self.value(state, byte, at)?,
            State::Comma if byte == b',' => {
                if self.open.in_object() {
                    State::Key
                } else {
                    State::Value
                }
            }
            State::Comma if byte == self.open.end() => self.close(at),
            State::FirstValue => self.close(at),
            State::FirstKey if byte == b'}' => {
                self.found.is_empty = self.is_outermost();
                self.close(at)
            }
            State::Document | State::Object => self.document(state, byte, at)?,
            _ => return Err(self.unexpected(state, at)),
        })
    }

    fn document(&mut self, state: State, first: u8, at: usize) -> Result<State, Invalid> {
        self.found.start = at;
        self.found.is_object = first == b'{';
        if first == BYTE_ORDER_MARK[0] {
            Ok(self.begin_literal(BYTE_ORDER_MARK, Some("a byte order mark")))
        } else if self.found.is_object || matches!(state, State::Document) {
            self.value(state, first, at)
        } else {
            Err(self.unexpected(state, at))
        }
    }

    fn key(&mut self) -> State {
        if self.is_outermost() {
            self.key = Key::default();
        }
        State::KeyString
    }

    fn value(&mut self, state: State, first: u8, at: usize) -> Result<State, Invalid> {
        if self.is_outermost() {
            self.value_start = at;
            self.value_is_string = first == b'"';
        }
        Ok(match first {
            b'"' => State::ValueString,
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'-' => self.begin_number(Number::Minus),
            b'0' => self.begin_number(Number::Zero),
            b'1'..=b'9' => self.begin_number(Number::Int),
            b't' => self.begin_literal(b"true", None),
            b'f' => self.begin_literal(b"false", None),
            b'n' => self.begin_literal(b"null", None),
            b'N' => self.begin_literal(b"NaN", Some("`NaN` is not JSON")),
            _ => return Err(self.unexpected(state, at)),
        })
    }

    fn begin_number(&mut self, number: Number) -> State {
        self.number = number;
        State::Number
    }

    fn begin_literal(&mut self, name: &'static [u8], fault: Option<&'static str>) -> State {
        self.literal = Literal {
            name,
            read: 1,
            fault,
        };
        State::Literal
    }

    fn open(&mut self, is_object: bool) -> State {
        self.open.push(is_object);
        if is_object {
            State::FirstKey
        } else {
            State::FirstValue
        }
    }

    /// Closes the innermost container, the last byte of which is `at` this offset.
    fn close(&mut self, at: usize) -> State {
        self.open.pop();
        self.end_value(at + 1)
    }

    fn end_value(&mut self, end: usize) -> State {
        match self.open.depth() {
            0 => return State::End,
            1 if self.key.is_model_in_any_case() => self.end_model(end),
            _ => {}
        }
        State::Comma
    }

    /// Notes the value of a key that is `model` in any case.
    fn end_model(&mut self, end: usize) {
        let values = if self.key.is_model() {
            &mut self.found.models
        } else {
            &mut self.found.look_alikes
        };
        values.push(Value {
            span: self.value_start..end,
            is_string: self.value_is_string,
        });
    }

    /// Whether the innermost container is the document itself.
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
        Ok(State::Colon)
    }

    fn value_string(&mut self, text: &mut Text<'_>) -> Result<State, Invalid> {
        if !self.string(text)? {
            return Ok(State::ValueString);
        }
        text.advance();
        Ok(self.end_value(self.offset + text.at()))
    }

    /// Moves on to the end of a string, or of the chunk. Returns whether it is the string's.
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
        let end = self.offset + text.at();
        match self.literal.fault {
            Some(fault) => Err(Invalid::new(fault, end - self.literal.read)),
            None => Ok(self.end_value(end)),
        }
    }

    /// The error that the document has an unexpected byte, or ends, `at` this offset.
    #[cold]
    fn unexpected(&self, state: State, at: usize) -> Invalid {
        let what = match state {
            State::Object => EXPECTED_OBJECT,
            State::FirstKey | State::Key => "expected a key",
            State::Colon => "expected `:`",
            State::Document | State::FirstValue | State::Value => "expected a value",
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
