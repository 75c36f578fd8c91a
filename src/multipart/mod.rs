//! Finds the parts named `model` of a `multipart/form-data` document (RFC 7578, RFC 2046).
//!
//! One pass over the bytes, as they arrive, finds the spans of their contents. It copies only a line
//! of part headers at a time, and the end of a chunk, where a delimiter may be cut in two.
//!
//! The backend may read the document differently. A part therefore counts as `model` if any common
//! reader would call it that, and a document in which readers could find different parts or names is
//! invalid:
//!
//! - Every `--boundary` must be a delimiter: behind a CRLF that is not the headers' own, and followed
//!   by CRLF, or by `--` at the end. In the middle of a line, behind a bare LF, before other bytes or
//!   in the epilogue it is an error. So is padding behind it: python-multipart takes such a line for
//!   content. Preamble, epilogue and last CRLF are optional.
//! - Header lines end in CRLF. Folded lines, control characters and a space before the colon are
//!   errors.
//! - Every part has one `Content-Disposition: form-data` with one name, as `name` or `name*`, in any
//!   case. Escapes are decoded, though not every reader does so. Split names (`name*0`) and encoded
//!   words are errors. So is `name=` in a quoted string or at the end of another key (`x-name=`), where
//!   readers that search for it find it.
//! - A transfer encoding, or a charset other than a superset of ASCII, is an error on a `model` part,
//!   and so is a nested multipart on any part. Starlette decodes names by the charset of the whole
//!   document, which therefore has to keep ASCII too.

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
