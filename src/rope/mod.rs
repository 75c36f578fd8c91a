//! Bytes in memory, in the pieces in which they came: held and handed on without a copy.

use std::{collections::VecDeque, iter::Peekable, ops::Range, vec};

use bytes::{Bytes, BytesMut};

/// Smaller pieces are joined by copying. Each may keep a whole read buffer in memory, and of tiny
/// ones the bookkeeping would be larger than the bytes.
const SMALL: usize = 4 * 1024;

/// About so many bytes of small pieces are joined to one.
const JOINED: usize = 32 * 1024;

/// Handed on are pieces of at most this size, so that progress can be seen.
pub(crate) const PIECE: usize = 512 * 1024;

/// Immutable bytes that needn't be in one place. A clone shares them.
#[derive(Clone, Default)]
pub(crate) struct Rope {
    /// Empty only where the rope is.
    first: Bytes,
    rest: VecDeque<Bytes>,
    length: usize,
}

impl Rope {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn append(&mut self, piece: Bytes) {
        self.length += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else if !piece.is_empty() {
            self.rest.push_back(piece);
        }
    }

    /// Takes bytes off the front: as many as come in one piece, at most `max`. None at the end.
    pub(crate) fn take(&mut self, max: usize) -> Bytes {
        let length = self.first.len().min(max).min(PIECE);
        let piece = self.first.split_to(length);
        if self.first.is_empty() {
            self.first = self.rest.pop_front().unwrap_or_default();
        }
        self.length -= length;
        piece
    }

    /// A copy of these bytes.
    pub(crate) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut copy = Vec::with_capacity(range.len());
        let mut start = 0;
        for chunk in std::iter::once(&self.first).chain(&self.rest) {
            let from = range.start.clamp(start, start + chunk.len()) - start;
            let to = range.end.clamp(start, start + chunk.len()) - start;
            copy.extend_from_slice(&chunk[from..to]);
            start += chunk.len();
        }
        copy
    }

    /// Drops `count` bytes off the front.
    pub(crate) fn skip(&mut self, mut count: usize) {
        debug_assert!(count <= self.length);
        while count > 0 && !self.is_empty() {
            count -= self.take(count).len();
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        Self {
            length: bytes.len(),
            first: bytes,
            rest: VecDeque::new(),
        }
    }
}

/// Makes a [`Rope`]. One of a single piece is never copied.
#[derive(Default)]
pub(crate) struct RopeBuilder {
    rope: Rope,
    /// Small pieces that are being joined. They stand behind the rope.
    joined: BytesMut,
}

impl RopeBuilder {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.rope.is_empty() {
            self.rope.append(piece);
        } else if piece.len() < SMALL {
            self.joined.extend_from_slice(&piece);
            if self.joined.len() >= JOINED {
                self.append_joined();
            }
        } else {
            self.append_joined();
            self.rope.append(piece);
        }
    }

    pub(crate) fn finish(mut self) -> Rope {
        self.append_joined();
        self.rope
    }

    fn append_joined(&mut self) {
        self.rope.append(std::mem::take(&mut self.joined).freeze());
    }
}

/// The new document, piece by piece, none of them empty. Usually there is one more than the old one
/// came in, and one that is the model.
///
/// Replaced are made as they are asked for: a body of nothing but `model` keys would have many.
#[derive(Clone)]
pub(crate) struct Replaced {
    /// What is left of the rope.
    rope: Rope,
    /// Where that starts in the whole rope.
    at: usize,
    /// The spans of the whole rope that are still to be replaced, in their order.
    spans: Peekable<vec::IntoIter<Range<usize>>>,
    with: Bytes,
    remaining: u64,
}

impl Replaced {
    pub(crate) fn new(rope: Rope, spans: Vec<Range<usize>>, with: Bytes) -> Self {
        let replaced: usize = spans.iter().map(Range::len).sum();
        Self {
            remaining: (rope.len() - replaced) as u64 + spans.len() as u64 * with.len() as u64,
            rope,
            at: 0,
            spans: spans.into_iter().peekable(),
            with,
        }
    }

    /// How many bytes are still to come.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }
}

impl Iterator for Replaced {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let chunk = match self.spans.next_if(|span| span.start == self.at) {
            Some(span) => {
                self.rope.skip(span.len());
                self.at = span.end;
                self.with.clone()
            }
            None => {
                let end = self.spans.peek().map_or(usize::MAX, |span| span.start);
                let chunk = self.rope.take(end - self.at);
                self.at += chunk.len();
                chunk
            }
        };
        self.remaining -= chunk.len() as u64;
        (!chunk.is_empty()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests;
