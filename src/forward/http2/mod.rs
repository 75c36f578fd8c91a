//! HTTP/2 to backends that choose it in the TLS handshake (RFC 9113).
//!
//! A task reads and writes a connection, and checks at times that the backend is still there. A
//! stream belongs to the response's future and body, as an HTTP/1.1 connection does: they poll the
//! request's body, dropping them resets the stream, and not polling them closes its window.

mod connection;
mod stream;
#[cfg(test)]
mod tests;

use h2::Reason;

pub(super) use self::{
    connection::{Connection, StreamPermit, Unsent, connect},
    stream::Exchange,
};

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Error<E> {
    /// The request's body failed.
    RequestBody(E),
    /// The request's body isn't as long as its `Content-Length`.
    WrongLength,
    Malformed(&'static str),
    /// The stream ended, or the connection did.
    Http2(h2::Error),
}

impl<E> Error<E> {
    /// Whether the backend has said that it didn't process the request (RFC 9113, section 8.7).
    pub(super) fn is_unprocessed(&self) -> bool {
        let Self::Http2(error) = self else {
            return false;
        };
        // Of the streams, only those that a GOAWAY excludes fail with it.
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || is_refused)
    }
}
