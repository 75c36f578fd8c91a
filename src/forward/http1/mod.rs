//! One exchange on an HTTP/1.1 connection to a backend (RFC 9112).
//!
//! The connection belongs to the exchange and with it to the response's body: no task, no channel.
//! Dropping the body closes the connection, which ends the backend's work; not polling it stops
//! the backend by TCP's own means. While a stream is silent it holds no buffer: reads go through
//! one scratch buffer a thread.
//!
//! What is read is taken strictly: anything that could be understood in two ways is an error.

mod chunked;
mod decode;
#[cfg(any(test, fuzzing))]
mod differential;
mod encode;
mod exchange;
mod head;
mod upload;

#[cfg(fuzzing)]
pub(crate) use self::differential::fuzz;
#[cfg(feature = "http2")]
pub(crate) use self::{encode::Framing, upload::wrong_length};
pub(crate) use self::{encode::encode_head, exchange::Exchange, head::Head};
