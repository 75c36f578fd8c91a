//! Percent-encoding (RFC 3986, section 2.1).

/// The first byte of a text with its percent-encoding undone, and what follows it.
pub(crate) fn next_decoded(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            Some((hex(*high) << 4 | hex(*low), rest))
        }
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// The text with its percent-encoding undone. A `%` that begins no encoding stays.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = next_decoded(rest) {
        rest = after;
        decoded.push(byte);
    }
    decoded
}

/// The text with everything encoded but unreserved characters (section 2.3) and these.
pub(crate) fn encode(text: &str, kept: &[u8]) -> String {
    use std::fmt::Write;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("a string can be written to");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_again() {
        let text = "a b/c+d%é\n~.-_";
        assert_eq!(encode(text, b""), "a%20b%2Fc%2Bd%25%C3%A9%0A~.-_");
        assert_eq!(encode("a/b c", b"/"), "a/b%20c");
        assert_eq!(decode(&encode(text, b"")), text.as_bytes());
        assert_eq!(decode("%zz%4%"), b"%zz%4%");
    }
}
