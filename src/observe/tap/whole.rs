//! Reads along in a body that isn't a stream.

use super::{
    finder::{Finder, Found},
    stream::{NAMES_WITHIN, Names},
    words::Words,
};

/// So many bytes at the beginning and at the end of a body are searched for its usage.
const SEARCHED: u64 = 64 * 1024;

/// A body that arrives in chunks, cut anywhere.
pub(in crate::observe) struct Whole {
    finder: Finder,
    words: Words,
    offset: u64,
    /// Where the searched end begins, if the length is known.
    end_at: Option<u64>,
    /// Of the beginning.
    first: Option<Box<Found>>,
}

impl Whole {
    /// `length` is that of the body, if it is known.
    pub(super) fn new(length: Option<u64>) -> Self {
        Self {
            finder: Finder::default(),
            words: Words::new(false),
            offset: 0,
            end_at: length.map(|length| length.saturating_sub(SEARCHED)),
            first: None,
        }
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) {
        if !self.words.is_over() {
            let left = NAMES_WITHIN.saturating_sub(self.offset);
            self.words.feed(up_to(chunk, left).0);
            if chunk.len() as u64 >= left {
                self.words.give_up_names();
            }
        }
        let (first, rest) = up_to(chunk, SEARCHED.saturating_sub(self.offset));
        if !first.is_empty() {
            self.finder.feed(first, self.offset);
            self.offset += first.len() as u64;
            if self.offset == SEARCHED {
                // What reaches beyond is found only if it is within the searched end as well.
                self.end_first();
            }
        }
        if !rest.is_empty() {
            self.feed_rest(rest);
        }
    }

    fn feed_rest(&mut self, rest: &[u8]) {
        let end_at = self.end_at.unwrap_or_default();
        let (skipped, rest) = up_to(rest, end_at.saturating_sub(self.offset));
        if !skipped.is_empty() {
            self.finder.end();
            self.offset += skipped.len() as u64;
        }
        self.finder.feed(rest, self.offset);
        self.offset += rest.len() as u64;
    }

    /// What was found at the beginning is kept aside.
    fn end_first(&mut self) {
        self.first = self.finder.take();
    }

    pub(super) fn take_found(&mut self) -> (Option<Box<Found>>, Names) {
        self.finder.end();
        let (model, id) = self.words.take_names();
        let last = self.finder.take();
        let end_at = self.offset.saturating_sub(SEARCHED);
        let is_within = |found: &Found| self.offset <= SEARCHED || found.start >= end_at;
        let last = last.filter(|found| is_within(found));
        (last.or(self.first.take()), Names { model, id })
    }
}

/// The first `length` bytes, and the rest.
fn up_to(text: &[u8], length: u64) -> (&[u8], &[u8]) {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    text.split_at(length.min(text.len()))
}
