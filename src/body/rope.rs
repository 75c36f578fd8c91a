//! Bytes in memory, in the pieces in which they came: held and handed on without a copy.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Smaller pieces are joined by copying. Each may keep a whole read buffer in memory, and of tiny
/// ones the bookkeeping would be larger than the bytes.
const SMALL: usize = 4 * 1024;

/// About so many bytes of small pieces are joined to one.
const JOINED: usize = 32 * 1024;

/// Handed on are pieces of at most this size, so that progress can be seen.
pub(super) const PIECE: usize = 512 * 1024;

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

#[cfg(test)]
mod tests;
