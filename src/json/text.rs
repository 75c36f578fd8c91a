//! The text of one chunk: where its strings, numbers and white space end.

/// A chunk of the document, and how far it has been read.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How many bytes of an escape have been read; none outside of one.
pub(super) type Escape = u8;

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The bytes read since `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The next byte, if it is in this chunk.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// Moves past white space. Returns the byte behind it.
    pub(super) fn token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    pub(super) fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// Moves to the first byte that is neither [plain](is_plain) nor part of an escape, of which
    /// `escape` bytes have been read before. Returns how many bytes of one have been read there, and
    /// whether the text was ASCII only; bytes just behind it may count, too.
    pub(super) fn string(&mut self, mut escape: Escape) -> (Escape, bool) {
        let mut is_ascii = true;
        loop {
            if escape == 0 {
                is_ascii &= self.plain_run();
            }
            match self.peek().and_then(|byte| escape_after(escape, byte)) {
                Some(after) => escape = after,
                None => return (escape, is_ascii),
            }
            self.at += 1;
        }
    }

    /// Moves to the next byte that is not [plain](is_plain). Returns whether the text was ASCII only;
    /// bytes just behind it may count, too.
    ///
    /// By words and blocks: in ordinary chats, whose strings are short, `memchr2` takes a third more
    /// instructions, and in long strings it isn't faster.
    fn plain_run(&mut self) -> bool {
        let start = self.at;
        let mut is_ascii = true;
        while let Some(word) = self.bytes[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*word);
            is_ascii &= word & HIGHS == 0;
            let stops = not_plain(word);
            if stops != 0 {
                self.at += stops.trailing_zeros() as usize / 8;
                return is_ascii;
            }
            self.at += 8;
            // Most strings are short. One that isn't may be very long.
            if (self.at - start).is_multiple_of(BLOCK) {
                is_ascii &= self.plain_blocks();
            }
        }
        // The chunk's last bytes.
        while self.at < self.bytes.len() && is_plain(self.bytes[self.at]) {
            is_ascii &= self.bytes[self.at].is_ascii();
            self.at += 1;
        }
        is_ascii
    }

    /// Moves past blocks that are entirely plain. Returns whether they are ASCII only.
    fn plain_blocks(&mut self) -> bool {
        let mut is_ascii = true;
        while let Some(block) = self.bytes[self.at..].first_chunk::<BLOCK>() {
            let mut plain = true;
            let mut ascii = true;
            // No branch inside, so that the compiler vectorizes it.
            for &byte in block {
                plain &= is_plain(byte);
                ascii &= byte.is_ascii();
            }
            if !plain {
                break;
            }
            is_ascii &= ascii;
            self.at += BLOCK;
        }
        is_ascii
    }
}

/// How many bytes of an escape have been read with `byte`, if it is valid there.
fn escape_after(before: Escape, byte: u8) -> Option<Escape> {
    match (before, byte) {
        (0, b'\\') => Some(1),
        (1, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Some(0),
        (1, b'u') => Some(2),
        (2..=4, byte) if byte.is_ascii_hexdigit() => Some(before + 1),
        (5, byte) if byte.is_ascii_hexdigit() => Some(0),
        _ => None,
    }
}

/// How much of a long string is tested at once.
const BLOCK: usize = 64;
/// The lowest bit of each byte in a word, and the highest.
const ONES: u64 = u64::MAX / 0xff;
const HIGHS: u64 = ONES << 7;

/// Whether a string may contain `byte` unescaped, UTF-8 aside.
fn is_plain(byte: u8) -> bool {
    (byte != b'"') & (byte != b'\\') & (byte >= 0x20)
}

/// The highest bit of each byte in `word` that is not [plain](is_plain).
fn not_plain(word: u64) -> u64 {
    // No sum carries over into the next byte, as the highest bits are cleared before.
    let low = word & !HIGHS;
    let not_quote = (low ^ (ONES * u64::from(b'"'))) + !HIGHS;
    let not_backslash = (low ^ (ONES * u64::from(b'\\'))) + !HIGHS;
    let not_control = low + ONES * (0x80 - 0x20);
    !(word | (not_quote & not_backslash & not_control)) & HIGHS
}
