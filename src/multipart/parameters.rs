//! Reads the parameters of a field value.

/// The value of a parameter in `*( OWS ";" OWS [ parameter ] )` (RFC 9110, 5.6.6), written as itself
/// or as `name*` (RFC 8187). Fails where readers could find different values.
pub(super) fn parameter(mut text: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut found = None;
    loop {
        text = match text.trim_ascii_start().split_first() {
            None => return Ok(found),
            Some((b';', rest)) => rest.trim_ascii_start(),
            Some(_) => return Err(MALFORMED),
        };
        let (key, rest) = token(text);
        if key.is_empty() {
            text = rest;
            continue;
        }
        let (value, rest) = Value::read(rest.strip_prefix(b"=").ok_or(MALFORMED)?)?;
        let written = &text[..text.len() - rest.len()];
        text = rest;
        // `filename` ends in `name`, but no reader mistakes it.
        let is_file_name = matches!(strip_prefix(key, b"filename"), Some(b"" | b"*"));
        let from = if is_file_name { key.len() } else { 1 };
        if mentions(&written[from..], name) {
            return Err("misleading parameter");
        }
        let value = match strip_prefix(key, name) {
            Some(b"") => value.decode(),
            Some(b"*") => decode_extended(&value.decode()).ok_or("undecodable parameter")?,
            Some([b'*', ..]) => return Err("split parameter"),
            _ => continue,
        };
        if *found.get_or_insert_with(|| value.clone()) != value {
            return Err("conflicting parameters");
        }
    }
}

const MALFORMED: &str = "malformed parameter";

/// Whether ASCII text is itself in the charset that the parameters give, if any.
pub(super) fn has_ascii_charset(parameters: &[u8]) -> bool {
    parameter(parameters, b"charset")
        .is_ok_and(|charset| charset.is_none_or(|charset| is_ascii_charset(&charset)))
}

/// Readers exist that decode by any other charset too.
fn is_ascii_charset(charset: &[u8]) -> bool {
    let charsets: [&[u8]; 3] = [b"utf-8", b"us-ascii", b"iso-8859-1"];
    charsets
        .iter()
        .any(|ascii| charset.eq_ignore_ascii_case(ascii))
}

/// The text behind a prefix in any case.
pub(super) fn strip_prefix<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The token that the text starts with, possibly empty, and the rest.
pub(super) fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = text.iter().position(|byte| !is_token(byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// A parameter's value as it is written.
enum Value<'a> {
    Token(&'a [u8]),
    /// The text between the quotes.
    Quoted(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value that the text starts with, and the rest.
    fn read(text: &'a [u8]) -> Result<(Self, &'a [u8]), &'static str> {
        let Some(quoted) = text.strip_prefix(b"\"") else {
            return match token(text) {
                (b"", _) => Err(MALFORMED),
                (token, rest) => Ok((Self::Token(token), rest)),
            };
        };
        let mut is_escaped = false;
        let end = quoted.iter().position(|&byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let end = end.ok_or("unterminated quoted string")?;
        Ok((Self::Quoted(&quoted[..end]), &quoted[end + 1..]))
    }

    fn decode(self) -> Vec<u8> {
        match self {
            Self::Token(token) => token.to_vec(),
            Self::Quoted(raw) => {
                let mut bytes = raw.iter().copied();
                let next = || match bytes.next() {
                    Some(b'\\') => bytes.next(),
                    byte => byte,
                };
                std::iter::from_fn(next).collect()
            }
        }
    }
}

/// Whether a reader that ignores quotes, or searches within keys, finds the parameter in this text.
fn mentions(text: &[u8], name: &[u8]) -> bool {
    (0..text.len())
        .filter_map(|at| strip_prefix(&text[at..], name))
        .any(|rest| matches!(rest.trim_ascii_start(), [b'=' | b'*', ..]))
}

/// Decodes `charset'language'percent-encoded` (RFC 8187, 3.2.1).
fn decode_extended(text: &[u8]) -> Option<Vec<u8>> {
    let mut fields = text.splitn(3, |&byte| byte == b'\'');
    let (charset, _language, mut text) = (fields.next()?, fields.next()?, fields.next()?);
    if !is_ascii_charset(charset) {
        return None;
    }
    let mut decoded = Vec::new();
    while let Some((&byte, rest)) = text.split_first() {
        text = rest;
        decoded.push(if byte == b'%' {
            let (digits, rest) = rest.split_at_checked(2)?;
            text = rest;
            hex(digits[0])? << 4 | hex(digits[1])?
        } else {
            byte
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    let digit = char::from(digit).to_digit(16)?;
    u8::try_from(digit).ok()
}
