//! Finds the parts named `model` in a form.

use std::ops::Range;

use super::{Invalid, delimiter::Delimiter, headers::Headers};

const CRLF: &[u8] = b"\r\n";

/// Limits on one part's headers, in bytes with their line ends, and on the parts that are found.
const MAX_HEADERS: usize = 16 * 1024;
const MAX_MODELS: usize = 1000;

/// Scans a document that arrives in chunks, cut anywhere.
pub(crate) struct Scanner {
    state: State,
    delimiter: Delimiter,
    /// How much of the document has been read.
    offset: usize,
    /// What has been read of a line of headers, or of the two bytes behind a delimiter.
    line: Vec<u8>,
    /// The current part.
    headers: Headers,
    headers_start: usize,
    is_model: bool,
    content_start: usize,
    found: Found,
}

/// What a document has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The contents of the parts named `model`, in their order.
    pub(crate) models: Vec<Range<usize>>,
}

/// What comes next.
#[derive(Clone, Copy)]
enum State {
    Preamble,
    /// The end of a delimiter line: CRLF, or the hyphens that close the document.
    DelimiterEnd,
    Headers,
    Content,
    /// CRLF, or the end of the document.
    Closed,
    Epilogue,
}

impl Scanner {
    /// For a document with this [boundary](super::boundary()).
    pub(crate) fn new(boundary: &[u8]) -> Self {
        Self {
            state: State::Preamble,
            delimiter: Delimiter::new(boundary),
            offset: 0,
            line: Vec::new(),
            headers: Headers::default(),
            headers_start: 0,
            is_model: false,
            content_start: 0,
            found: Found::default(),
        }
    }

    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), Invalid> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let read = match self.state {
                State::Preamble | State::Content | State::Epilogue => self.text(rest)?,
                State::DelimiterEnd | State::Closed => self.delimiter_end(rest)?,
                State::Headers => self.header(rest)?,
            };
            rest = &rest[read..];
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Found, Invalid> {
        match self.state {
            State::Epilogue => Ok(self.found),
            State::Closed if self.line.is_empty() => Ok(self.found),
            State::Preamble => Err(Invalid::new("the boundary is missing", self.offset)),
            _ => Err(Invalid::new("the boundary is never closed", self.offset)),
        }
    }

    /// Reads on to the end of the next delimiter. Returns how many bytes it read.
    fn text(&mut self, text: &[u8]) -> Result<usize, Invalid> {
        let Some(found) = self.delimiter.find(text) else {
            self.offset += text.len();
            return Ok(text.len());
        };
        self.offset += found.end;
        let start = self.offset - self.delimiter.len();
        if !found.is_behind_crlf || matches!(self.state, State::Epilogue) {
            return Err(Invalid::new("misplaced boundary", start));
        }
        if matches!(self.state, State::Content) && self.is_model {
            self.model(self.content_start..start - CRLF.len())?;
        }
        self.state = State::DelimiterEnd;
        Ok(found.end)
    }

    fn model(&mut self, content: Range<usize>) -> Result<(), Invalid> {
        if self.found.models.len() == MAX_MODELS {
            let what = "more than 1000 `model` parts";
            return Err(Invalid::new(what, content.start));
        }
        self.found.models.push(content);
        Ok(())
    }

    /// Reads on in the two bytes behind a delimiter, or a closed one. Returns how many it read.
    fn delimiter_end(&mut self, text: &[u8]) -> Result<usize, Invalid> {
        let read = text.len().min(2 - self.line.len());
        self.line.extend_from_slice(&text[..read]);
        self.offset += read;
        if self.line.len() < 2 {
            return Ok(read);
        }
        self.state = match (self.state, &self.line[..]) {
            (State::DelimiterEnd, CRLF) => {
                self.headers = Headers::default();
                self.headers_start = self.offset;
                State::Headers
            }
            (State::DelimiterEnd, b"--") => State::Closed,
            (State::Closed, CRLF) => {
                self.delimiter.restart();
                State::Epilogue
            }
            _ => return Err(Invalid::new("malformed boundary line", self.offset - 2)),
        };
        self.line.clear();
        Ok(read)
    }

    /// Reads on to the end of a line. Returns how many bytes it read.
    fn header(&mut self, text: &[u8]) -> Result<usize, Invalid> {
        let end = memchr::memchr(b'\n', text);
        let read = end.map_or(text.len(), |end| end + 1);
        let room = MAX_HEADERS - (self.offset - self.headers_start);
        if read > room {
            return Err(Invalid::new("part headers over 16 KiB", self.offset + room));
        }
        self.line.extend_from_slice(&text[..read]);
        self.offset += read;
        if end.is_some() {
            self.header_line()?;
            self.line.clear();
        }
        Ok(read)
    }

    fn header_line(&mut self) -> Result<(), Invalid> {
        let start = self.offset - self.line.len();
        let invalid = |what| Invalid::new(what, start);
        let line = self.line.strip_suffix(CRLF);
        let line = line.ok_or_else(|| invalid("bare line feed in part headers"))?;
        if !line.is_empty() {
            return self.headers.field(line).map_err(invalid);
        }
        self.is_model = self.headers.is_model().map_err(invalid)?;
        self.content_start = self.offset;
        self.delimiter.restart();
        self.state = State::Content;
        Ok(())
    }
}
