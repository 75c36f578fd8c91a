//! HTTP/2 to backends that choose it in the TLS handshake (RFC 9113).
//!
//! A task reads and writes a connection, and checks at times that the backend is still there. A
//! stream belongs to the response's future and body, as an HTTP/1.1 connection does: they poll the
//! request's body, dropping them resets the stream, and not polling them closes its window.

#[cfg(feature = "http2")]
mod connection;
#[cfg(not(feature = "http2"))]
mod none;
#[cfg(feature = "http2")]
mod stream;
#[cfg(all(test, feature = "http2"))]
mod tests;

use super::message::Source;

#[cfg(not(feature = "http2"))]
pub(super) use self::none::{Connection, Exchange, StreamPermit, connect};
#[cfg(feature = "http2")]
pub(super) use self::{
    connection::{Connection, StreamPermit, connect},
    stream::Exchange,
};

/// Why nothing of a request was sent.
#[cfg_attr(not(feature = "http2"), expect(dead_code))]
pub(super) enum Unsent<B> {
    /// The connection takes no more requests. Gives back the request's body.
    Closed(B),
    /// The request can't be sent in HTTP/2.
    Invalid(Source),
}
