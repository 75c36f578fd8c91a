//! Reads one HTTP/1.1 answer with as little work as possible, noting its events as they come.

use bytes::{Buf, BytesMut};
use compare_load::{monotonic_ns, stamp};
use memchr::memchr;
use tokio::{io::AsyncReadExt, sync::OwnedSemaphorePermit};

use crate::{Shared, client::Io};

/// A connection, with what was read and not yet used.
pub struct Buffered {
    pub io: Box<dyn Io>,
    buffer: BytesMut,
}

impl Buffered {
    pub fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// Waits for more bytes; false at the end of the connection.
    async fn fill(&mut self) -> Result<bool, String> {
        self.buffer.reserve(16 * 1024);
        let count = self.io.read_buf(&mut self.buffer).await;
        Ok(count.map_err(|error| format!("receive: {error}"))? > 0)
    }
}

struct Head {
    status: u16,
    framing: Framing,
    is_stream: bool,
    keep_alive: bool,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked(ChunkPart),
    UntilClose,
}

#[derive(Clone, Copy)]
enum ChunkPart {
    Size,
    Data(usize),
    Trailer,
}

/// Reads the answer to a request, or leaves it behind `[DONE]`; says whether the connection can be
/// used again.
pub async fn read_response(
    connection: &mut Buffered,
    mut events: Events<'_>,
    leaves: bool,
) -> Result<bool, String> {
    let head = loop {
        if let Some(head) = take_head(&mut connection.buffer)? {
            break head;
        }
        if !connection.fill().await? {
            return Err("connection closed before an answer".to_owned());
        }
    };
    if head.status != 200 {
        return Err(format!("status {}", head.status));
    }
    let mut framing = head.framing;
    events.is_stream = head.is_stream;
    while !take_body(&mut connection.buffer, &mut framing, &mut events)? {
        if leaves && events.done {
            return Ok(false);
        }
        if !connection.fill().await? {
            if matches!(framing, Framing::UntilClose) {
                break;
            }
            return Err("connection closed within an answer".to_owned());
        }
    }
    events.end()?;
    Ok(head.keep_alive && !matches!(framing, Framing::UntilClose))
}

fn take_head(buffer: &mut BytesMut) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(buffer)
        .map_err(|error| format!("bad answer: {error}"))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let mut head = Head {
        status: response.code.unwrap_or(0),
        framing: Framing::UntilClose,
        is_stream: false,
        keep_alive: true,
    };
    for header in response.headers {
        let value = std::str::from_utf8(header.value).unwrap_or("").trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            head.framing = Framing::Length(value.parse().map_err(|_| "bad content-length")?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            head.framing = Framing::Chunked(ChunkPart::Size);
        } else if header.name.eq_ignore_ascii_case("content-type") {
            head.is_stream = value.starts_with("text/event-stream");
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.keep_alive = !value.eq_ignore_ascii_case("close");
        }
    }
    buffer.advance(length);
    Ok(Some(head))
}

/// Passes on what body there is in the buffer; true at the body's end.
fn take_body(
    buffer: &mut BytesMut,
    framing: &mut Framing,
    events: &mut Events<'_>,
) -> Result<bool, String> {
    loop {
        match framing {
            Framing::UntilClose => {
                events.take(buffer, buffer.len());
                return Ok(false);
            }
            Framing::Length(left) => {
                *left -= events.take(buffer, *left);
                return Ok(*left == 0);
            }
            Framing::Chunked(ChunkPart::Size) => {
                let Some(line_end) = memchr(b'\n', buffer) else {
                    return Ok(false);
                };
                let line = std::str::from_utf8(&buffer[..line_end]).unwrap_or("");
                let digits = line.split(';').next().unwrap_or("").trim();
                let size = usize::from_str_radix(digits, 16)
                    .map_err(|_| format!("bad chunk size {line:?}"))?;
                buffer.advance(line_end + 1);
                *framing = Framing::Chunked(match size {
                    0 => ChunkPart::Trailer,
                    size => ChunkPart::Data(size),
                });
            }
            Framing::Chunked(ChunkPart::Data(left)) if *left > 0 => {
                if buffer.is_empty() {
                    return Ok(false);
                }
                *left -= events.take(buffer, *left);
            }
            Framing::Chunked(ChunkPart::Data(_)) => {
                if buffer.len() < 2 {
                    return Ok(false);
                }
                buffer.advance(2);
                *framing = Framing::Chunked(ChunkPart::Size);
            }
            Framing::Chunked(ChunkPart::Trailer) => {
                let Some(line_end) = memchr(b'\n', buffer) else {
                    return Ok(false);
                };
                let blank = buffer[..line_end].trim_ascii().is_empty();
                buffer.advance(line_end + 1);
                if blank {
                    return Ok(true);
                }
            }
        }
    }
}

/// The server-sent events of one answer.
pub struct Events<'a> {
    pub is_stream: bool,
    begun: bool,
    done: bool,
    sent: u64,
    partial_line: Vec<u8>,
    stats: &'a Shared,
    /// Given back when the first event has come.
    opening: Option<OwnedSemaphorePermit>,
}

impl<'a> Events<'a> {
    /// Of an answer to a request sent at `sent`.
    pub fn new(sent: u64, stats: &'a Shared, opening: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            is_stream: false,
            begun: false,
            done: false,
            sent,
            partial_line: Vec::new(),
            stats,
            opening,
        }
    }

    /// Takes up to `limit` bytes out of the buffer.
    fn take(&mut self, buffer: &mut BytesMut, limit: usize) -> usize {
        let count = limit.min(buffer.len());
        self.bytes(&buffer[..count]);
        buffer.advance(count);
        count
    }

    pub fn bytes(&mut self, mut bytes: &[u8]) {
        self.stats.borrow_mut().body_bytes(bytes.len());
        if !self.is_stream {
            return;
        }
        let now = monotonic_ns();
        while let Some(line_end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(line_end + 1);
            bytes = rest;
            if self.partial_line.is_empty() {
                self.line(line, now);
            } else {
                let mut whole = std::mem::take(&mut self.partial_line);
                whole.extend_from_slice(line);
                self.line(&whole, now);
                whole.clear();
                self.partial_line = whole;
            }
        }
        self.partial_line.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], now: u64) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        let mut stats = self.stats.borrow_mut();
        if !self.begun {
            self.begun = true;
            self.opening = None;
            stats.first_event(now.saturating_sub(self.sent));
        }
        if let Some(stamped) = stamp::find(data) {
            stats.chunk(now.saturating_sub(stamped));
        } else if data.trim_ascii() == b"[DONE]" {
            self.done = true;
        }
    }

    /// At the end of the answer: says whether it was whole.
    pub fn end(&self) -> Result<(), String> {
        if self.is_stream && !self.done {
            return Err("stream ended without [DONE]".to_owned());
        }
        Ok(())
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.stats.borrow_mut().stream_ended();
        }
    }
}
