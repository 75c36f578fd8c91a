//! By what requests are told apart that should reach the same backend.

use http::HeaderName;

/// Where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Header(HeaderName),
    /// A top-level string of the JSON body.
    Body(Box<str>),
    /// The client's name or credentials.
    Key,
    /// So many bytes of the prompt.
    Prompt(usize),
}

impl Source {
    /// What sources must be, as messages say it after "must be".
    pub(crate) const ALLOWED: &str = "`header:NAME`, `body:FIELD`, `key` or `prompt:BYTES` with \
        1 byte or more";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => (text == "key").then_some(Self::Key),
            Some(("header", name)) => name.parse().ok().map(Self::Header),
            Some(("body", field)) => (!field.is_empty()).then(|| Self::Body(field.into())),
            Some(("prompt", bytes)) => {
                let bytes = bytes.parse().ok().filter(|bytes| *bytes > 0);
                bytes.map(Self::Prompt)
            }
            Some(_) => None,
        }
    }
}

/// A hash that is the same in every process and version: FNV-1a, with the last step of MurmurHash3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StableHash(u64);

impl StableHash {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mix(hash))
    }

    /// The hash of a pair.
    pub(crate) fn with(self, other: Self) -> Self {
        Self(mix(self.0 ^ other.0))
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }
}

/// Spreads each bit over all others.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// When a runner with this weight arrives in a race that random bits decide: the chance to be first
/// is its share of all weights.
pub(crate) fn arrival(bits: u64, weight: f64) -> f64 {
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / weight
}
