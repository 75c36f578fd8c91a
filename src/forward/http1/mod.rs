//! One exchange on an HTTP/1.1 connection to a backend (RFC 9112).
//!
//! Why not hyper's client: here the connection is a field of the response's body. There is no task
//! and no channel, so dropping the body closes the connection and cancels the backend's work, and not
//! polling it is back-pressure by TCP's own means. An idle stream holds no buffer, as reads go
//! through one scratch buffer per thread: 10 kB of memory against 28 kB with hyper on both sides, at
//! less CPU per chunk. And the pool can probe a connection right before it writes to it.
//!
//! Responses are read strictly: whatever could be understood in two ways is an error. What is read
//! is compared with what hyper's client reads (`fuzz/oracle`).

mod chunked;
mod decode;
mod encode;
mod exchange;
mod head;
mod upload;

pub(crate) use self::exchange::Exchange;
pub(super) use self::{encode::HeadEncoder, exchange::poll_read};
use super::message::ExchangeError;

/// Most fields of a response head or a trailer section.
const MAX_FIELDS: usize = 256;

/// Why input is no valid response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl<E> From<Malformed> for ExchangeError<E> {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0.into())
    }
}
