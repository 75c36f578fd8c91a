//! Where the body of a response ends (RFC 9112, section 6.3).

use std::ops::Range;

use http::HeaderMap;
use http_body::SizeHint;

use super::{Malformed, chunked::Chunked};

/// Finds the data of a body in the bytes of its connection.
pub(super) enum Decoder {
    /// With the number of bytes left.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// The connection was closed, which was the end.
    Closed,
}

/// The fields of a head that say where its body ends. Two lengths, or a length and a transfer coding,
/// are refused: another recipient of the response might choose the other one.
#[derive(Default)]
pub(super) struct BodyFields<'a> {
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
}

impl<'a> BodyFields<'a> {
    pub(super) fn add_length(&mut self, value: &'a [u8]) -> Result<(), Malformed> {
        match self.length.replace(value) {
            Some(_) => Err(Malformed("two lengths")),
            None => Ok(()),
        }
    }

    pub(super) fn add_coding(&mut self, value: &'a [u8]) -> Result<(), Malformed> {
        match self.coding.replace(value) {
            Some(_) => Err(Malformed("two transfer codings")),
            None => Ok(()),
        }
    }

    pub(super) fn decoder(self, is_1_0: bool) -> Result<Decoder, Malformed> {
        match (self.length, self.coding) {
            (None, None) => Ok(Decoder::UntilClose),
            (Some(length), None) => parse_length(length).map(Decoder::Length),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && !is_1_0 => {
                Ok(Decoder::Chunked(Chunked::new()))
            }
            (None, Some(_)) => Err(Malformed("unknown transfer coding")),
            (Some(_), Some(_)) => Err(Malformed("both Content-Length and Transfer-Encoding")),
        }
    }
}

impl Decoder {
    /// Consumes input up to the end of the next data, or all of it; gives how much was consumed, and
    /// where in it the data is. Consumes nothing once the body has ended.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<(usize, Range<usize>), Malformed> {
        match self {
            Self::Length(left) => {
                let length = (*left).min(input.len() as u64);
                *left -= length;
                Ok((length as usize, 0..length as usize))
            }
            Self::Chunked(chunked) => chunked.advance(input),
            Self::UntilClose => Ok((input.len(), 0..input.len())),
            Self::Closed => Ok((0, 0..0)),
        }
    }

    /// Notes that the backend has closed the connection, and says whether the body may end so.
    pub(super) fn close(&mut self) -> bool {
        if matches!(self, Self::UntilClose) {
            *self = Self::Closed;
        }
        self.is_end()
    }

    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_end(),
            Self::UntilClose => false,
            Self::Closed => true,
        }
    }

    pub(super) fn has_trailers(&self) -> bool {
        matches!(self, Self::Chunked(chunked) if chunked.has_trailers())
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Chunked(chunked) => chunked.take_trailers(),
            _ => None,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Length(_) => "Length",
            Self::Chunked(_) => "Chunked",
            Self::UntilClose => "UntilClose",
            Self::Closed => "Closed",
        })
    }
}

fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    // `str::parse` would accept a sign.
    let text = std::str::from_utf8(value).ok();
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed("invalid Content-Length"))
}
