//! Comments in JSON.

/// `text` with every comment (`#`, `//`, `/* */`) turned into as many bytes of blanks, so that what
/// is left is JSON with each token on the line and at the offset where it was.
///
/// # Errors
///
/// The offset of a `/*` without its `*/`.
pub(super) fn blank(text: &str) -> Result<String, usize> {
    let mut json = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['"', '#', '/']) {
        let (plain, special) = rest.split_at(start);
        json.push_str(plain);
        let (len, comment) = if special.starts_with('"') {
            (string_len(special), false)
        } else if special.starts_with('#') || special.starts_with("//") {
            (special.find('\n').unwrap_or(special.len()), true)
        } else if let Some(inside) = special.strip_prefix("/*") {
            let end = inside.find("*/").ok_or(text.len() - special.len())?;
            (end + "/**/".len(), true)
        } else {
            (1, false) // A lone `/`, which the JSON parser refuses.
        };
        let (token, after) = special.split_at(len);
        if comment {
            json.extend(token.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        } else {
            json.push_str(token);
        }
        rest = after;
    }
    json.push_str(rest);
    Ok(json)
}

/// The length of the string that `text` begins with, both quotes included. One that isn't closed
/// ends with its line, so that what follows isn't read inside out.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'\n' => return at,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
