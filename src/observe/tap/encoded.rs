//! Decodes an answer for the record, once all of it has been forwarded.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status, read::MultiGzDecoder};
use http::{HeaderMap, header};

use super::whole::Whole;
use crate::rope::{Rope, RopeBuilder};

/// The largest answer that is decoded, as it was sent.
const MAX_ENCODED: usize = 256 * 1024;

/// The same, decoded.
const MAX_DECODED: usize = 4 * 1024 * 1024;

/// The largest window of zstd in HTTP (RFC 9659, section 3).
const MAX_WINDOW: u64 = 8 * 1024 * 1024;

/// How much is decoded at a time.
const STEP: usize = 8 * 1024;

/// An answer in one of the codings that are decoded (RFC 9110, section 8.4.1; RFC 7932; RFC 8878).
pub(in crate::observe) struct Encoded {
    coding: Coding,
    body: RopeBuilder,
    length: usize,
}

#[derive(Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoded {
    /// `None` where the answer has several codings, or one that isn't decoded.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let coding = match value
            .as_bytes()
            .trim_ascii()
            .to_ascii_lowercase()
            .as_slice()
        {
            b"gzip" | b"x-gzip" => Coding::Gzip,
            b"deflate" => Coding::Deflate,
            b"br" => Coding::Brotli,
            b"zstd" => Coding::Zstd,
            _ => return None,
        };
        Some(Self {
            coding,
            body: RopeBuilder::default(),
            length: 0,
        })
    }

    pub(super) fn feed(&mut self, chunk: &Bytes) {
        self.length = self.length.saturating_add(chunk.len());
        if self.length <= MAX_ENCODED {
            self.body.push(chunk.clone());
        } else {
            self.body = RopeBuilder::default();
        }
    }

    /// `None` where the answer is too large, or isn't what it says it is.
    pub(super) fn decode(&mut self) -> Option<Whole> {
        let body = std::mem::take(&mut self.body).finish();
        if self.length > MAX_ENCODED {
            return None;
        }
        // Some send it without the wrapping that the coding has (RFC 9110, section 8.4.1.2).
        let is_zlib = match *body.copy(0..body.len().min(2)) {
            [first, second] => {
                first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31)
            }
            _ => false,
        };
        let chunks = Chunks(body);
        match self.coding {
            Coding::Gzip => read(MultiGzDecoder::new(chunks)),
            Coding::Deflate => read(Inflate {
                rest: chunks.0,
                input: Bytes::new(),
                inflate: Decompress::new(is_zlib),
                is_over: false,
            }),
            Coding::Brotli => read(brotli_decompressor::Decompressor::new(chunks, STEP)),
            Coding::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    chunks, MAX_WINDOW,
                );
                read(decoder.ok()?)
            }
        }
    }
}

/// Reads along in what a decoder gives.
fn read(mut decoder: impl Read) -> Option<Whole> {
    let mut whole = Whole::new(None);
    let mut buffer = [0; STEP];
    let mut length = 0;
    loop {
        match decoder.read(&mut buffer).ok()? {
            0 => return Some(whole),
            read => {
                length += read;
                if length > MAX_DECODED {
                    return None;
                }
                whole.feed(&buffer[..read]);
            }
        }
    }
}

/// Reads what is left of a rope.
struct Chunks(Rope);

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.0.take(buffer.len());
        buffer[..chunk.len()].copy_from_slice(&chunk);
        Ok(chunk.len())
    }
}

/// Decodes deflate. Unlike the reader of flate2, it fails where the end is missing.
struct Inflate {
    rest: Rope,
    input: Bytes,
    inflate: Decompress,
    is_over: bool,
}

impl Read for Inflate {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_over {
            if self.input.is_empty() {
                self.input = self.rest.take(STEP);
            }
            let is_end = self.input.is_empty();
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let flush = FlushDecompress::None;
            let status = self.inflate.decompress(&self.input, buffer, flush)?;
            let taken = self.inflate.total_in() - before.0;
            self.input.advance(taken as usize);
            self.is_over = status == Status::StreamEnd;
            let given = self.inflate.total_out() - before.1;
            if given > 0 {
                return Ok(given as usize);
            }
            if is_end && !self.is_over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}
