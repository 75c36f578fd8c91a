//! Bytes in memory, in the chunks in which they arrived: buffered and forwarded without a copy.

use std::{collections::VecDeque, iter::Peekable, ops::Range, vec};

use bytes::{Bytes, BytesMut};

/// Smaller chunks are joined by copying: each may keep a whole read buffer in memory, and the
/// bookkeeping of tiny ones would be larger than their bytes.
const SMALL: usize = 4 * 1024;

/// About how many bytes of small chunks are joined into one.
const JOINED: usize = 32 * 1024;

/// The largest chunk that is taken at once, so that progress can be seen.
pub(crate) const PIECE: usize = 512 * 1024;

/// Immutable bytes that needn't be contiguous. A clone shares them.
#[derive(Clone, Default)]
pub(crate) struct Rope {
    /// Empty only if the rope is.
    first: Bytes,
    /// Most ropes have none.
    rest: Option<VecDeque<Bytes>>,
    length: usize,
}

impl Rope {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn append(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.rest.get_or_insert_default().push_back(chunk);
        }
    }

    /// Takes bytes off the front: one chunk of at most `max` bytes, which is empty at the end.
    pub(crate) fn take(&mut self, max: usize) -> Bytes {
        let length = self.first.len().min(max).min(PIECE);
        let chunk = self.first.split_to(length);
        if self.first.is_empty() {
            let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
            self.first = next.unwrap_or_default();
        }
        self.length -= length;
        chunk
    }

    /// A copy of these bytes.
    pub(crate) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut copy = Vec::with_capacity(range.len());
        let mut start = 0;
        for chunk in std::iter::once(&self.first).chain(self.rest.iter().flatten()) {
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
            rest: None,
        }
    }
}

/// Builds a [`Rope`]. A single chunk is never copied.
#[derive(Default)]
pub(crate) struct RopeBuilder {
    rope: Rope,
    /// Small chunks that are being joined, behind those of the rope.
    joined: BytesMut,
}

impl RopeBuilder {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.rope.is_empty() {
            self.rope.append(chunk);
        } else if chunk.len() < SMALL {
            self.joined.extend_from_slice(&chunk);
            if self.joined.len() >= JOINED {
                self.append_joined();
            }
        } else {
            self.append_joined();
            self.rope.append(chunk);
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

/// A rope with spans of it replaced, as chunks, none of them empty.
///
/// They are made one at a time: a body of nothing but `model` keys would have many.
#[derive(Clone)]
pub(crate) struct Replaced {
    /// The rest of the rope.
    rope: Rope,
    /// Where the rest starts in the whole rope.
    at: usize,
    /// The remaining spans, in the whole rope and in order.
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

    /// How many bytes are left.
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
