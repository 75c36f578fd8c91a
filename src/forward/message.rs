//! What requests and responses have in common in both versions of HTTP.

use std::{error::Error as StdError, task::Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use hyper::ext::ReasonPhrase;

/// Largest response head, in bytes.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// The head of a final response, without the fields that concern only the connection. (Where it
/// answers a request for an upgrade, those of the upgrade are there.)
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

/// What a request asks for, as far as that decides what its response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Content,
    /// No more than a head.
    Head,
    /// A WebSocket.
    Upgrade,
}

/// What polling for a frame of a response gives.
pub(crate) type PollFrame<E> = Poll<Option<Result<Frame<Bytes>, ExchangeError<E>>>>;

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) enum ExchangeError<E> {
    /// The request's body failed.
    RequestBody(E),
    /// The request's body isn't as long as its `Content-Length`.
    WrongLength,
    /// The response isn't valid HTTP.
    Malformed(Source),
    /// The response switches to a protocol that wasn't asked for.
    Switched,
    /// The connection or the stream ended before the response.
    Closed(Source),
    /// The same, and the backend says that it didn't process the request (RFC 9113, section 8.7).
    #[cfg_attr(not(feature = "http2"), expect(dead_code))]
    Unprocessed(Source),
}

pub(crate) type Source = Box<dyn StdError + Send + Sync>;

impl<E> From<WrongLength> for ExchangeError<E> {
    fn from(_: WrongLength) -> Self {
        Self::WrongLength
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
