//! Reads the members of a JSON object in place.

/// Why the members of an object can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) enum Unread {
    /// The text ends before the object does.
    Cut,
    /// It is no JSON.
    Invalid,
}

/// The members of an object, one after the other: keys and values as they are written, the keys
/// without their quotes.
///
/// Nested containers are skipped by their brackets alone.
pub(in crate::observe) struct Members<'a> {
    text: &'a [u8],
    at: usize,
    is_first: bool,
}

impl<'a> Members<'a> {
    /// Of the object at the beginning of `text`.
    pub(in crate::observe) fn of(text: &'a [u8]) -> Result<Self, Unread> {
        match text.first() {
            Some(b'{') => Ok(Self {
                text,
                at: 1,
                is_first: true,
            }),
            Some(_) => Err(Unread::Invalid),
            None => Err(Unread::Cut),
        }
    }

    /// The next key. Its value is to be read then.
    pub(in crate::observe) fn key(&mut self) -> Result<Option<&'a [u8]>, Unread> {
        let is_first = std::mem::take(&mut self.is_first);
        match self.token()? {
            b'}' => {
                self.at += 1;
                return Ok(None);
            }
            b',' if !is_first => {
                self.at += 1;
                self.token()?;
            }
            _ if is_first => {}
            _ => return Err(Unread::Invalid),
        }
        let key = self.at;
        self.string()?;
        let key = &self.text[key + 1..self.at - 1];
        if self.token()? != b':' {
            return Err(Unread::Invalid);
        }
        self.at += 1;
        self.token()?;
        Ok(Some(key))
    }

    /// The value of the last key.
    pub(in crate::observe) fn value(&mut self) -> Result<&'a [u8], Unread> {
        let value = self.at;
        match self.byte()? {
            b'"' => self.string()?,
            b'{' | b'[' => self.container()?,
            _ => self.scalar()?,
        }
        Ok(&self.text[value..self.at])
    }

    /// Reads the value of the last key, an object, member by member, as far as it is one.
    pub(in crate::observe) fn within(
        &mut self,
        mut read: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<(), Unread> {
        let value = &self.text[self.at..];
        let mut each = || {
            let mut members = Self::of(value)?;
            while let Some(key) = members.key()? {
                read(key, members.value()?);
            }
            Ok::<_, Unread>(members.end())
        };
        match each() {
            Ok(length) => self.at += length,
            Err(_) => _ = self.value()?,
        }
        Ok(())
    }

    /// Where the object ends, once there is no more member.
    pub(in crate::observe) fn end(&self) -> usize {
        self.at
    }

    fn byte(&self) -> Result<u8, Unread> {
        self.text.get(self.at).copied().ok_or(Unread::Cut)
    }

    /// The next byte that isn't white space.
    fn token(&mut self) -> Result<u8, Unread> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    fn string(&mut self) -> Result<(), Unread> {
        if self.byte()? != b'"' {
            return Err(Unread::Invalid);
        }
        self.at += 1;
        loop {
            let rest = self.text.get(self.at..).ok_or(Unread::Cut)?;
            let at = memchr::memchr2(b'"', b'\\', rest).ok_or(Unread::Cut)?;
            if rest[at] == b'"' {
                self.at += at + 1;
                return Ok(());
            }
            self.at += at + 2;
        }
    }

    fn container(&mut self) -> Result<(), Unread> {
        let mut depth = 0_usize;
        loop {
            match self.byte()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Moves past a number or a literal.
    fn scalar(&mut self) -> Result<(), Unread> {
        let start = self.at;
        while matches!(self.byte()?, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'+' | b'.' | b'E') {
            self.at += 1;
        }
        if self.at == start {
            return Err(Unread::Invalid);
        }
        Ok(())
    }
}

/// A non-negative integer in plain digits of at most 63 bits.
pub(in crate::observe) fn count(value: &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for digit in value {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = u64::from(digit - b'0');
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    (!value.is_empty() && number <= i64::MAX as u64).then_some(number)
}

/// A non-negative number.
pub(in crate::observe) fn number(value: &[u8]) -> Option<f64> {
    if !value.first()?.is_ascii_digit() {
        return None;
    }
    let number: f64 = serde_json::from_slice(value).ok()?;
    number.is_finite().then_some(number)
}
