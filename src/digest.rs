//! SHA-256 digests of clients' keys.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// The digest of a key, from which the key can't be found: keys are long and random.
///
/// Two are compared in constant time, so that how long it takes tells nothing about the other.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

const PREFIX: &str = "sha256:";

impl Digest {
    /// What the text of a digest must be, as messages say it after "must be".
    pub(crate) const ALLOWED: &str =
        "`sha256:` and 64 hexadecimal digits, as `server --hash-key` prints them";

    pub(crate) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// `None` where the text isn't [allowed](Self::ALLOWED).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        let (pairs, []) = digits.as_chunks() else {
            return None;
        };
        let pairs: &[[u8; 2]; 32] = pairs.try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = (high? * 16 + low?) as u8;
        }
        Some(Self(bytes))
    }

    fn words(&self) -> [u64; 4] {
        let (words, _) = self.0.as_chunks();
        std::array::from_fn(|index| u64::from_ne_bytes(words[index]))
    }

    /// The text that [`parse`](Self::parse) reads.
    pub(crate) fn text(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once(PREFIX.to_owned()).chain(digits).collect()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.words().ct_eq(&other.words()).into()
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, ..] = self.words();
        state.write_u64(first);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn it_is_sha_256() {
        assert_eq!(Digest::of(b"abc").text(), ABC);
        assert_eq!(Digest::parse(ABC), Some(Digest::of(b"abc")));
        assert_ne!(Digest::of(b"abc"), Digest::of(b"abd"));
        assert_eq!(format!("{:?}", Digest::of(b"abc")), "Digest");
    }

    #[test]
    fn digits_are_of_either_case() {
        let digits = ABC.strip_prefix(PREFIX).unwrap();
        let upper = format!("{PREFIX}{}", digits.to_ascii_uppercase());
        assert_eq!(Digest::parse(&upper), Some(Digest::of(b"abc")));
    }

    #[test]
    fn other_texts_are_refused() {
        let digits = ABC.strip_prefix(PREFIX).unwrap();
        for text in [
            "",
            "sha256:",
            digits,
            &ABC[..ABC.len() - 1],
            &ABC[..ABC.len() - 2],
            &format!("{ABC}0"),
            &format!("{ABC}00"),
            &format!("{}zz", &ABC[..ABC.len() - 2]),
            &format!(" {ABC}"),
            &format!("SHA256:{digits}"),
            &format!("sha512:{digits}{digits}"),
            &format!("sha256:{}", "é".repeat(32)),
        ] {
            assert_eq!(Digest::parse(text), None, "{text:?}");
        }
    }
}
