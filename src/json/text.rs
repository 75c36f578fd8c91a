/// A piece of the document, and how far it has been read.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How much of an escape has been read: no byte of it, or so many.
pub(super) type Escape = u8;

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What has been read since.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The next byte, if it has come.
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

    /// Moves to the first byte that neither is [plain](is_plain) nor belongs to an escape, where so
    /// much of one has been read already. Returns how much of one has been read there, and whether
    /// it met ASCII only; it may say no for what stands just behind.
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

    /// Moves to the next byte that is not [plain](is_plain). Returns whether it met ASCII only; it
    /// may say no for what stands just behind.
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
        // The piece's last bytes.
        while self.at < self.bytes.len() && is_plain(self.bytes[self.at]) {
            is_ascii &= self.bytes[self.at].is_ascii();
            self.at += 1;
        }
        is_ascii
    }

    /// Moves past blocks that are plain as a whole. Returns whether they are ASCII only.
    fn plain_blocks(&mut self) -> bool {
        let mut is_ascii = true;
        while let Some(block) = self.bytes[self.at..].first_chunk::<BLOCK>() {
            let mut plain = true;
            let mut ascii = true;
            // No branch inside: the compiler makes vector instructions of it.
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

/// How much of an escape has been read with `byte`, where it may stand there.
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

/// Whether a string may contain `byte` as it is, UTF-8 apart.
fn is_plain(byte: u8) -> bool {
    (byte != b'"') & (byte != b'\\') & (byte >= 0x20)
}

/// The highest bit of each byte in `word` that is not [plain](is_plain).
fn not_plain(word: u64) -> u64 {
    // None of the sums carries over into the next byte, as the highest bits are off before.
    let low = word & !HIGHS;
    let not_quote = (low ^ (ONES * u64::from(b'"'))) + !HIGHS;
    let not_backslash = (low ^ (ONES * u64::from(b'\\'))) + !HIGHS;
    let not_control = low + ONES * (0x80 - 0x20);
    !(word | (not_quote & not_backslash & not_control)) & HIGHS
}
