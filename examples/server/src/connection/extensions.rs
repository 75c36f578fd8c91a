//! Tables of extensions, which one exchange leaves to the next.

use std::cell::RefCell;

use http::Extensions;

/// The most that a thread keeps.
const MAX_SPARE: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// An empty table, with the memory of one that was [kept](keep).
pub(super) fn take() -> Extensions {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Drops what is in a table, and keeps its memory.
pub(super) fn keep(mut extensions: Extensions) {
    extensions.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(extensions);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_the_next() {
        let mut extensions = take();
        extensions.insert("of the first");
        keep(extensions);

        assert!(take().is_empty());
        for _ in 0..2 * MAX_SPARE {
            keep(Extensions::new());
        }
        assert_eq!(SPARE.with_borrow(Vec::len), MAX_SPARE);
    }
}
