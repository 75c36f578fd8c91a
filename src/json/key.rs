//! Whether a key is `model`.

const MODEL: &[u8] = b"model";

/// Compares a key with `model` while its JSON text arrives. Keeps none of the text, which must be
/// well-formed.
#[derive(Default)]
pub(super) struct Key {
    /// How many characters of `model` have been read, in either case.
    matched: usize,
    /// One of them was in upper case.
    has_upper_case: bool,
    is_other: bool,
    escape: Escape,
}

#[derive(Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// Behind the backslash.
    Begun,
    /// Behind `\u`, with `left` digits to come.
    Hex { left: u8, unit: u16 },
}

impl Key {
    /// Reads on in the text between the quotes.
    pub(super) fn read(&mut self, mut text: &[u8]) {
        while let Some((&byte, rest)) = text.split_first() {
            match self.escape {
                Escape::None if byte != b'\\' => {
                    let end = text.iter().position(|&byte| byte == b'\\');
                    let (plain, rest) = text.split_at(end.unwrap_or(text.len()));
                    self.plain(plain);
                    text = rest;
                    continue;
                }
                Escape::None => self.escape = Escape::Begun,
                Escape::Begun if byte == b'u' => self.escape = Escape::Hex { left: 4, unit: 0 },
                Escape::Begun => {
                    // None of the short escapes stands for a letter.
                    self.escape = Escape::None;
                    self.is_other = true;
                }
                Escape::Hex { left, unit } => self.hex(left - 1, unit << 4 | hex_digit(byte)),
            }
            text = rest;
        }
    }

    pub(super) fn is_model(&self) -> bool {
        self.is_model_in_any_case() && !self.has_upper_case
    }

    /// Whether the key is `model` to a reader that ignores the case of ASCII letters.
    pub(super) fn is_model_in_any_case(&self) -> bool {
        self.matched == MODEL.len() && !self.is_other
    }

    /// Reads characters that aren't escaped.
    fn plain(&mut self, text: &[u8]) {
        match MODEL[self.matched..].get(..text.len()) {
            Some(expected) if expected.eq_ignore_ascii_case(text) => {
                self.has_upper_case |= expected != text;
                self.matched += text.len();
            }
            _ => self.is_other = true,
        }
    }

    fn hex(&mut self, left: u8, unit: u16) {
        if left > 0 {
            self.escape = Escape::Hex { left, unit };
            return;
        }
        self.escape = Escape::None;
        match u8::try_from(unit) {
            Ok(byte) => self.plain(&[byte]),
            Err(_) => self.is_other = true,
        }
    }
}

fn hex_digit(digit: u8) -> u16 {
    match digit {
        b'0'..=b'9' => u16::from(digit - b'0'),
        _ => u16::from((digit | 0x20) - b'a') + 10,
    }
}
