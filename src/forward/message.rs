//! What requests and responses have in common in both versions of HTTP.

use http::{HeaderMap, StatusCode};
use hyper::ext::ReasonPhrase;

/// Largest response head, in bytes.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// The head of a final response, without the fields that concern only the connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// `None` for the standard phrase.
    pub(crate) reason: Option<ReasonPhrase>,
    pub(crate) headers: HeaderMap,
}

impl Head {
    /// Whether a body follows (RFC 9110, section 6.4.1).
    pub(super) fn has_body(status: StatusCode, is_head_request: bool) -> bool {
        !is_head_request && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// How the end of a request's body is marked (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body, and no field that says so.
    None,
    /// By `Content-Length`.
    Length(u64),
    /// By the coding `chunked`, or the end of the stream in HTTP/2.
    Chunked,
}

/// The body isn't as long as its `Content-Length`.
#[derive(Debug)]
pub(super) struct WrongLength;

impl Framing {
    /// Counts a chunk that isn't empty.
    pub(super) fn count(&mut self, length: usize) -> Result<(), WrongLength> {
        match self {
            Self::None => Err(WrongLength),
            Self::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(WrongLength)?;
                Ok(())
            }
            Self::Chunked => Ok(()),
        }
    }

    /// Checks that the body may end here.
    pub(super) fn end(self) -> Result<(), WrongLength> {
        match self {
            Self::Length(left) if left > 0 => Err(WrongLength),
            _ => Ok(()),
        }
    }
}
