//! Finds the boundary between two parts (RFC 2046, section 5.1.1).

use memchr::memmem::Finder;

const CRLF: &[u8] = b"\r\n";

/// Finds the delimiter `--boundary` in text that arrives in chunks, cut anywhere.
pub(super) struct Delimiter {
    finder: Finder<'static>,
    /// The end of the text before the current chunk: no less than there can be of a delimiter, and
    /// the two bytes before it.
    tail: Vec<u8>,
}

/// A delimiter in the text.
pub(super) struct Match {
    /// Where it ends in the chunk.
    pub(super) end: usize,
    pub(super) is_behind_crlf: bool,
}

impl Delimiter {
    /// For a document that starts with a line.
    pub(super) fn new(boundary: &[u8]) -> Self {
        let delimiter = [b"--", boundary].concat();
        Self {
            finder: Finder::new(&delimiter).into_owned(),
            tail: CRLF.to_vec(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.finder.needle().len()
    }

    /// Starts on another text. A line break before it does not belong to it.
    pub(super) fn restart(&mut self) {
        self.tail.clear();
    }

    /// The first delimiter that ends in this chunk of the text.
    pub(super) fn find(&mut self, chunk: &[u8]) -> Option<Match> {
        let length = self.len();
        let before = self.tail.len();
        let head = chunk.len().min(length - 1);
        self.tail.extend_from_slice(&chunk[..head]);
        if let Some(at) = self.finder.find(&self.tail) {
            return Some(Match {
                end: at + length - before,
                is_behind_crlf: self.tail[..at].ends_with(CRLF),
            });
        }
        if let Some(at) = self.finder.find(chunk) {
            let text = if at < CRLF.len() {
                &self.tail[..before + at]
            } else {
                &chunk[..at]
            };
            return Some(Match {
                end: at + length,
                is_behind_crlf: text.ends_with(CRLF),
            });
        }
        let kept = length - 1 + CRLF.len();
        let end = chunk.len().saturating_sub(kept).max(head);
        self.tail.extend_from_slice(&chunk[end..]);
        self.tail.drain(..self.tail.len().saturating_sub(kept));
        None
    }
}
