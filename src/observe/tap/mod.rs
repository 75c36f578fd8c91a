//! Reads along in a response body, in place: nothing is kept of it but the usage object, and the
//! names of its model and id.

#[cfg(feature = "decompress")]
mod encoded;
mod finder;
pub(super) mod object;
mod stream;
#[cfg(test)]
mod tests;
mod whole;
mod words;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Body;

pub(super) use self::stream::Names;
use self::{stream::Stream, whole::Whole};
use super::usage::Usage;
use crate::header::{content_type, essence, is_encoded};

/// What reads along in a response body.
pub(super) enum Tap {
    /// Nothing.
    None(Missing),
    Stream(Box<Stream>),
    Whole(Box<Whole>),
    /// To be decoded at the end.
    #[cfg(feature = "decompress")]
    Encoded(Box<encoded::Encoded>),
}

/// Why no usage is known so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Encoded,
    NotApplicable,
    TooLarge,
    NotFound,
}

/// What a response was found to say.
pub(super) struct Seen {
    pub(super) usage: Result<Usage, Missing>,
    pub(super) names: Names,
}

impl Tap {
    /// For this response, which may be a stream of events. Only the answers to a POST are read.
    pub(super) fn of<B: Body>(response: &Response<B>, is_stream: bool, is_post: bool) -> Self {
        if !is_post || !response.status().is_success() {
            return Self::None(Missing::NotApplicable);
        }
        let headers = response.headers();
        let content_type = content_type(headers);
        if !is_stream && !content_type.is_some_and(is_plain_json) {
            return Self::None(Missing::NotApplicable);
        }
        if is_encoded(headers) {
            #[cfg(feature = "decompress")]
            if !is_stream && let Some(encoded) = encoded::Encoded::of(headers) {
                return Self::Encoded(Box::new(encoded));
            }
            return Self::None(Missing::Encoded);
        }
        if is_stream {
            Self::Stream(Box::new(Stream::new()))
        } else {
            let length = response.body().size_hint().exact();
            Self::Whole(Box::new(Whole::new(length)))
        }
    }

    /// Reads on. Whether the first token is in this chunk.
    pub(super) fn feed(&mut self, chunk: &Bytes) -> bool {
        match self {
            Self::None(_) => false,
            Self::Stream(stream) => stream.feed(chunk),
            Self::Whole(whole) => {
                whole.feed(chunk);
                false
            }
            #[cfg(feature = "decompress")]
            Self::Encoded(encoded) => {
                encoded.feed(chunk);
                false
            }
        }
    }

    /// The whole body has passed.
    pub(super) fn end(&mut self) {
        match self {
            Self::Stream(stream) => stream.end(),
            #[cfg(feature = "decompress")]
            Self::Encoded(encoded) => {
                *self = match encoded.decode() {
                    Some(whole) => Self::Whole(Box::new(whole)),
                    None => Self::None(Missing::Encoded),
                };
            }
            Self::None(_) | Self::Whole(_) => {}
        }
    }

    /// Whether `data: [DONE]` has passed.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.is_done())
    }

    /// Whether an error event has passed.
    pub(super) fn has_error(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.has_error())
    }

    /// What the body was found to say.
    pub(super) fn take(&mut self) -> Seen {
        let (found, names) = match self {
            Self::None(missing) => {
                return Seen {
                    usage: Err(*missing),
                    names: Names::default(),
                };
            }
            Self::Stream(stream) => stream.take_found(),
            Self::Whole(whole) => whole.take_found(),
            // It was cut off.
            #[cfg(feature = "decompress")]
            Self::Encoded(_) => {
                return Seen {
                    usage: Err(Missing::Encoded),
                    names: Names::default(),
                };
            }
        };
        let usage = match found {
            Some(found) => found.usage.ok_or(Missing::TooLarge),
            None => Err(Missing::NotFound),
        };
        Seen { usage, names }
    }
}

fn is_plain_json(content_type: &HeaderValue) -> bool {
    essence(content_type.as_bytes()).eq_ignore_ascii_case(b"application/json")
}

/// The usage object in an answer that arrives in these chunks.
#[cfg(fuzzing)]
pub(crate) fn fuzz(chunks: &[&[u8]], is_stream: bool) -> Option<Vec<u8>> {
    let mut tap = if is_stream {
        Tap::Stream(Box::new(Stream::new()))
    } else {
        Tap::Whole(Box::new(Whole::new(None)))
    };
    for chunk in chunks {
        tap.feed(&Bytes::copy_from_slice(chunk));
    }
    tap.end();
    let usage = tap.take().usage.ok()?;
    Some(usage.as_bytes().to_vec())
}
