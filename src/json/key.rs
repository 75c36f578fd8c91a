const MODEL: &[u8] = b"model";

/// Tells from a key's JSON text, as it comes, whether the key is `model`. Keeps none of the text,
/// which is to be well-formed.
#[derive(Default)]
pub(super) struct Key {
    /// How much of `model` has come, and whether something else has.
    matched: usize,
    is_other: bool,
    escape: Escape,
    /// The first half of a surrogate pair has just come.
    in_pair: bool,
    has_lone_surrogate: bool,
}

#[derive(Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// Behind the backslash.
    Begun,
    /// Behind `\u`, with so many digits to come.
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
                    self.other();
                }
                Escape::Hex { left, unit } => self.hex(left - 1, unit << 4 | hex_digit(byte)),
            }
            text = rest;
        }
    }

    pub(super) fn is_model(&self) -> bool {
        self.matched == MODEL.len() && !self.is_other
    }

    /// Whether an escape is half of a surrogate pair, the other half of which is missing. To be
    /// asked when the whole key has been read.
    pub(super) fn has_lone_surrogate(&self) -> bool {
        self.has_lone_surrogate || self.in_pair
    }

    /// Characters that aren't escaped.
    fn plain(&mut self, text: &[u8]) {
        self.has_lone_surrogate |= std::mem::take(&mut self.in_pair);
        if MODEL[self.matched..].starts_with(text) {
            self.matched += text.len();
        } else {
            self.is_other = true;
        }
    }

    fn other(&mut self) {
        self.plain(b"\0");
    }

    fn hex(&mut self, left: u8, unit: u16) {
        if left > 0 {
            self.escape = Escape::Hex { left, unit };
            return;
        }
        self.escape = Escape::None;
        match unit {
            0xdc00..=0xdfff if self.in_pair => self.in_pair = false,
            0xdc00..=0xdfff => self.has_lone_surrogate = true,
            0xd800..=0xdbff => {
                self.other();
                self.in_pair = true;
            }
            _ => match u8::try_from(unit) {
                Ok(byte) => self.plain(&[byte]),
                Err(_) => self.other(),
            },
        }
    }
}

fn hex_digit(digit: u8) -> u16 {
    match digit {
        b'0'..=b'9' => u16::from(digit - b'0'),
        _ => u16::from((digit | 0x20) - b'a') + 10,
    }
}
