//! Validates UTF-8 that arrives in chunks.

/// Validates text that arrives in chunks.
#[derive(Default)]
pub(super) struct Utf8 {
    /// A character whose end hasn't arrived yet.
    begun: [u8; 4],
    length: usize,
}

impl Utf8 {
    /// How many bytes of an unfinished character have been read.
    pub(super) fn begun(&self) -> usize {
        self.length
    }

    /// Validates the text that follows, which starts `at` this offset. Fails with the offset of the
    /// first invalid byte sequence.
    pub(super) fn read(&mut self, text: &[u8], at: usize) -> Result<(), usize> {
        let rest = self.end_character(text, at)?;
        let Err(error) = std::str::from_utf8(rest) else {
            return Ok(());
        };
        let begun = &rest[error.valid_up_to()..];
        if error.error_len().is_some() {
            return Err(at + text.len() - begun.len());
        }
        self.begun[..begun.len()].copy_from_slice(begun);
        self.length = begun.len();
        Ok(())
    }

    /// Reads on in the unfinished character, if there is one. Returns the text behind it.
    fn end_character<'a>(&mut self, mut text: &'a [u8], at: usize) -> Result<&'a [u8], usize> {
        let start = at - self.length;
        while self.length > 0
            && let Some((&byte, rest)) = text.split_first()
        {
            self.begun[self.length] = byte;
            self.length += 1;
            text = rest;
            match std::str::from_utf8(&self.begun[..self.length]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_some() => return Err(start),
                Err(_) => {}
            }
        }
        Ok(text)
    }
}
