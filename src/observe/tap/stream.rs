//! Reads along in an event stream.

use super::{
    finder::{Finder, Found},
    words::Words,
};

/// The names are searched for in so many bytes of a response.
pub(super) const NAMES_WITHIN: u64 = 4096;

/// An event stream that arrives in chunks, cut anywhere.
#[derive(Default)]
pub(in crate::observe) struct Stream {
    finder: Finder,
    /// `None` once there is nothing left to search for.
    words: Option<Box<Words>>,
    /// Where the words that were found went.
    names: Names,
    offset: u64,
    line: Line,
    is_done: bool,
    has_error: bool,
}

/// The names in a response.
#[derive(Default)]
pub(in crate::observe) struct Names {
    pub(in crate::observe) model: Option<Box<str>>,
    pub(in crate::observe) id: Option<Box<str>>,
}

/// A line that a chunk's end has cut.
#[derive(Default)]
struct Line {
    kind: Kind,
    /// How its data begins.
    head: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
enum Kind {
    /// So many bytes of `data:` have been read.
    #[default]
    Start,
    Begun(u8),
    Data,
    Other,
}

const FIELD: &[u8] = b"data:";

/// So much of a line's data tells what kind of event it is, with some room for white space.
const HEAD: usize = 48;

/// What the data of an event begins with that isn't part of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Special {
    Done,
    Error,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            words: Some(Box::new(Words::new(true))),
            ..Self::default()
        }
    }

    /// Whether `data: [DONE]` has passed.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether an error event has passed.
    pub(super) fn has_error(&self) -> bool {
        self.has_error
    }

    /// Reads on. Whether the first token is in this chunk.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> bool {
        let wants_token = self.wants_token();
        let mut rest = chunk;
        while !rest.is_empty() {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.begin_line(rest);
                break;
            };
            let line = &rest[..end];
            if matches!(self.line.kind, Kind::Start) {
                if let Some(data) = line.strip_prefix(FIELD) {
                    self.read(data);
                    self.end_data(data);
                }
            } else {
                self.begin_line(line);
                self.end_line();
            }
            rest = &rest[end + 1..];
        }
        self.offset += chunk.len() as u64;
        if let Some(words) = &mut self.words {
            if self.offset >= NAMES_WITHIN && words.wants_names() {
                words.give_up_names();
            }
            let is_token = wants_token && !words.wants_token();
            if words.is_over() {
                self.keep_names();
            }
            return is_token;
        }
        false
    }

    /// The stream has ended.
    pub(super) fn end(&mut self) {
        self.end_line();
        self.keep_names();
    }

    pub(super) fn take_found(&mut self) -> (Option<Box<Found>>, Names) {
        self.finder.end();
        self.keep_names();
        (self.finder.take(), std::mem::take(&mut self.names))
    }

    fn wants_token(&self) -> bool {
        self.words.as_ref().is_some_and(|words| words.wants_token())
    }

    fn keep_names(&mut self) {
        if let Some(mut words) = self.words.take() {
            let (model, id) = words.take_names();
            self.names = Names { model, id };
        }
    }

    /// Reads a part of a line's data.
    fn read(&mut self, data: &[u8]) {
        self.finder.feed(data, 0);
        if let Some(words) = &mut self.words {
            words.feed(data);
        }
    }

    /// A line of data has ended, of which this is the beginning, or all if it is short.
    fn end_data(&mut self, data: &[u8]) {
        self.finder.end();
        if let Some(words) = &mut self.words {
            words.end();
        }
        match special(data) {
            Some(Special::Done) => self.is_done = true,
            Some(Special::Error) => self.has_error = true,
            None => {}
        }
    }

    /// Reads a part of a line that isn't whole in one chunk.
    fn begin_line(&mut self, mut part: &[u8]) {
        while let Some((byte, rest)) = part.split_first() {
            let read = match self.line.kind {
                Kind::Start => 0,
                Kind::Begun(read) => read,
                Kind::Data => {
                    self.read(part);
                    let room = HEAD - self.line.head.len();
                    self.line
                        .head
                        .extend_from_slice(&part[..part.len().min(room)]);
                    return;
                }
                Kind::Other => return,
            };
            self.line.kind = match usize::from(read) {
                read if FIELD[read] != *byte => Kind::Other,
                read if read + 1 == FIELD.len() => Kind::Data,
                _ => Kind::Begun(read + 1),
            };
            part = rest;
        }
    }

    /// The line that was begun has ended.
    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if matches!(line.kind, Kind::Data) {
            self.end_data(&line.head);
        }
    }
}

/// What an event with this data is, if that isn't part of an answer.
#[inline]
fn special(data: &[u8]) -> Option<Special> {
    let data = data.strip_prefix(b" ").unwrap_or(data);
    match data.first()? {
        b'[' if matches!(data, b"[DONE]" | b"[DONE]\r") => Some(Special::Done),
        b'{' => is_error(&data[1..]).then_some(Special::Error),
        b' ' | b'\t' => {
            let data = data.trim_ascii_start();
            let is_error = data.first() == Some(&b'{') && is_error(&data[1..]);
            is_error.then_some(Special::Error)
        }
        _ => None,
    }
}

/// Whether the members of an object begin as those of an error event do.
fn is_error(members: &[u8]) -> bool {
    let members = members.trim_ascii_start();
    let value = |key: &[u8]| {
        let value = members.strip_prefix(key)?.trim_ascii_start();
        Some(value.strip_prefix(b":")?.trim_ascii_start())
    };
    if let Some(error) = value(b"\"error\"") {
        !error.is_empty() && !error.starts_with(b"null")
    } else if let Some(kind) = value(b"\"type\"") {
        kind.starts_with(b"\"error\"") || kind.starts_with(b"\"response.failed\"")
    } else {
        false
    }
}
