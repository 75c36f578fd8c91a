//! A connection that a test reads and writes byte by byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Join, Sink, join, sink},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

use super::{Message, find, soon};

/// One end of a connection.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    /// Read but not yet returned.
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self::over(stream)
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        Self::new(stream.expect("a listener"))
    }

    /// Sends `bytes` in the background, until the peer stops reading.
    pub(crate) fn send_aside(mut self, bytes: Vec<u8>) -> Wire<Join<OwnedReadHalf, Sink>> {
        let (read, mut write) = self.stream.into_split();
        tokio::spawn(async move {
            let _ = write.write_all(&bytes).await;
            // Dropping the half would shut the connection down.
            std::future::pending::<()>().await;
        });
        Wire {
            stream: join(read, sink()),
            buffer: std::mem::take(&mut self.buffer),
        }
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        reset_at_end(&self.stream);
    }
}

/// Makes the end of a connection a reset.
pub(crate) fn reset_at_end(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("a socket");
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Wraps any stream, such as TLS.
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("writing", self.stream.write_all(bytes.as_ref()))
            .await
            .expect("the peer reads");
    }

    /// Reads the head of a message, including the blank line.
    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.expect("a head")
    }

    /// Like [`head`](Self::head); none if the peer closes first.
    pub(crate) async fn try_head(&mut self) -> Option<String> {
        let head = self.try_head_bytes().await?;
        Some(String::from_utf8(head).expect("UTF-8"))
    }

    /// Like [`try_head`](Self::try_head), for a head that may not be UTF-8.
    pub(crate) async fn try_head_bytes(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill().await == 0 {
                return None;
            }
        };
        Some(self.take(end))
    }

    /// Reads a whole request.
    pub(crate) async fn request(&mut self) -> Message {
        self.try_request().await.expect("a request")
    }

    /// Like [`request`](Self::request); none if the peer closes first.
    pub(crate) async fn try_request(&mut self) -> Option<Message> {
        let head = self.try_head().await?;
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        message.body = self.body(&message).await;
        Some(message)
    }

    /// Reads a whole final response to a request other than HEAD.
    pub(crate) async fn response(&mut self) -> Message {
        let head = self.head().await;
        let mut message = Message {
            head,
            body: Vec::new(),
        };
        let is_empty = matches!(message.status(), 204 | 304);
        let is_framed = message.field("content-length").is_some()
            || message.field("transfer-encoding").is_some();
        message.body = match (is_empty, is_framed) {
            (true, _) => Vec::new(),
            (false, true) => self.body(&message).await,
            (false, false) => self.rest().await,
        };
        message
    }

    async fn body(&mut self, message: &Message) -> Vec<u8> {
        let body = self.try_body(message).await;
        body.unwrap_or_else(|_| panic!("closed within a body"))
    }

    /// Reads a whole body; the error is what arrived of one that is truncated.
    pub(crate) async fn try_body(&mut self, message: &Message) -> Result<Vec<u8>, Vec<u8>> {
        if message.field("transfer-encoding").is_some() {
            let mut end = 0;
            loop {
                while let Some(line) = find(&self.buffer[end..], b"\r\n") {
                    let size = std::str::from_utf8(&self.buffer[end..end + line]).unwrap();
                    let size = size.split(';').next().unwrap().trim();
                    let size = usize::from_str_radix(size, 16).expect("a chunk size");
                    if size == 0 {
                        if let Some(last) = find(&self.buffer[end..], b"\r\n\r\n") {
                            return Ok(self.take(end + last + 4));
                        }
                        break;
                    }
                    let next = end + line + 2 + size + 2;
                    if next > self.buffer.len() {
                        break;
                    }
                    end = next;
                }
                if self.fill().await == 0 {
                    return Err(std::mem::take(&mut self.buffer));
                }
            }
        }
        let length = message
            .field("content-length")
            .map_or(0, |value| value.parse().unwrap());
        while self.buffer.len() < length {
            if self.fill().await == 0 {
                return Err(std::mem::take(&mut self.buffer));
            }
        }
        Ok(self.take(length))
    }

    /// Reads exactly `length` bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert_ne!(self.fill().await, 0, "closed before {length} bytes arrived");
        }
        self.take(length)
    }

    /// Takes the first `length` bytes out of the buffer.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads up to and including `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(start) = find(&self.buffer, text.as_bytes()) {
                let read = self.take(start + text.len());
                return String::from_utf8(read).expect("UTF-8");
            }
            assert_ne!(self.fill().await, 0, "closed before {text:?} arrived");
        }
    }

    /// Reads until the peer closes or resets the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Asserts that the peer closes or resets the connection without sending anything.
    pub(crate) async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether nothing arrives for 100 ms.
    pub(crate) async fn is_silent(&mut self) -> bool {
        self.buffer.is_empty()
            && timeout(
                Duration::from_millis(100),
                self.stream.read_buf(&mut self.buffer),
            )
            .await
            .is_err()
    }

    async fn fill(&mut self) -> usize {
        let read = soon("reading", self.stream.read_buf(&mut self.buffer)).await;
        read.unwrap_or(0) // a reset ends it, too
    }
}

/// Writes until the peer has not read for 500 ms, or all; returns how much was written.
pub(crate) async fn write_until_stopped(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    const CHUNK: usize = 64 * 1024;
    let mut written = 0;
    while written < bytes.len() {
        let next = &bytes[written..bytes.len().min(written + CHUNK)];
        match timeout(Duration::from_millis(500), stream.write(next)).await {
            Ok(length) => written += length.expect("the peer reads on"),
            Err(_) => break,
        }
    }
    written
}
