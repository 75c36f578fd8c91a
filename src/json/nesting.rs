//! Which arrays and objects are open.

/// The open containers, one bit each. The first 64 need no allocation.
#[derive(Default)]
pub(super) struct Nesting {
    depth: usize,
    /// The innermost ones, the last one in the lowest bit; set for an object.
    inner: u64,
    /// The others, 64 each.
    outer: Vec<u64>,
}

impl Nesting {
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether the innermost one is an object.
    pub(super) fn in_object(&self) -> bool {
        self.inner & 1 == 1
    }

    /// What closes the innermost one.
    pub(super) fn end(&self) -> u8 {
        if self.in_object() { b'}' } else { b']' }
    }

    pub(super) fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(is_object);
        self.depth += 1;
    }

    pub(super) fn pop(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth.is_multiple_of(64)
            && let Some(outer) = self.outer.pop()
        {
            self.inner = outer;
        }
    }
}
