//! Finds the parts named `model` of a `multipart/form-data` document (RFC 7578, RFC 2046).
//!
//! One pass over the bytes, as they arrive, finds the spans of their contents. Of the document it
//! copies only the headers of the current part, and a delimiter's length where a chunk ends.
//!
//! The backend's reader may differ from this one, so a part counts as `model` if any common reader
//! calls it so, and where readers could disagree on the parts or on their names the document is
//! invalid:
//!
//! - `--boundary` starts a line that ends in CRLF and belongs to one part; wherever else it occurs (in
//!   the middle of a line, behind a bare LF, before other bytes, right behind the headers, in the
//!   epilogue), some reader splits there. Padding behind it is an error too: to python-multipart such
//!   a line is content. The last CRLF, a preamble and an epilogue are optional.
//! - Header lines end in CRLF; folded lines, control characters and a space before the colon are
//!   errors.
//! - Every part has one `Content-Disposition: form-data` with one name, as `name` or `name*` in any
//!   case. Escapes are decoded, though not every reader does that. Names in pieces (`name*0`) or in
//!   encoded words are errors, as is `name=` inside a quoted string, where some readers look for it.
//! - A `model` part in a transfer encoding or a charset that does not keep ASCII would be another model
//!   to a reader that decodes it. The parts of a nested multipart could be `model` too. The charset of
//!   the whole document counts as well: Starlette decodes names by it.

mod delimiter;
mod headers;
mod parameters;
mod scanner;
#[cfg(test)]
mod tests;

use std::fmt;

use self::parameters::{has_ascii_charset, parameter, strip_prefix};
pub(crate) use self::scanner::{Found, Scanner};

/// The boundary of a document of this `Content-Type` (RFC 2046, 5.1.1). `None` for other types, and
/// where it is missing, invalid or ambiguous.
pub(crate) fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let parameters = strip_prefix(content_type.trim_ascii(), b"multipart/form-data")?;
    // No boundary needs an escape, and not every reader decodes them.
    if parameters.contains(&b'\\') || !has_ascii_charset(parameters) {
        return None;
    }
    let boundary = parameter(parameters, b"boundary").ok()??;
    let is_valid = boundary.len() <= 70
        && boundary.iter().all(|&byte| is_boundary_char(byte))
        && boundary.last().is_some_and(|&last| last != b' ');
    is_valid.then_some(boundary)
}

fn is_boundary_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte)
}

/// Why a document is not a form. It never quotes the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    what: &'static str,
    at: usize,
}

impl Invalid {
    fn new(what: &'static str, at: usize) -> Self {
        Self { what, at }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Invalid {}
