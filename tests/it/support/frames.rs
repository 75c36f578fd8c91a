//! HTTP/2 frame by frame (RFC 9113), for what no conforming client would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::soon;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const ACK: u8 = 1;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields as HPACK literals (RFC 7541, section 6.2.2), without any checks.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).expect("small"));
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(128 | (length % 128) as u8);
                    length /= 128;
                }
                block.push(length as u8);
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A request to the endpoint: its pseudo-header fields and credentials.
pub(crate) const REQUEST: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "proxy.test"),
    (":path", "/v1/chat/completions"),
    ("authorization", "Bearer sk-test"),
];

/// A connection that writes any frames, and reads nothing but acknowledgements of pings.
pub(crate) struct Frames {
    write: OwnedWriteHalf,
    reader: JoinHandle<()>,
    acknowledged: watch::Receiver<u64>,
    pings: u64,
}

impl Frames {
    /// Connects, and sends the preface and empty settings.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        let stream = stream.expect("a listener");
        stream.set_nodelay(true).expect("a socket");
        let (read, write) = stream.into_split();
        let (acknowledge, acknowledged) = watch::channel(0);
        let mut frames = Self {
            write,
            reader: tokio::spawn(read_all(read, acknowledge)),
            acknowledged,
            pings: 0,
        };
        let settings = frame(SETTINGS, 0, 0, &[]);
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*settings].concat();
        assert!(frames.send(&preface).await);
        frames
    }

    /// Returns whether the server still reads.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> bool {
        soon("writing", self.write.write_all(frames)).await.is_ok()
    }

    /// Waits until the server has read everything sent; returns whether the connection lives on.
    pub(crate) async fn is_served(&mut self) -> bool {
        self.pings += 1;
        let number = self.pings;
        let ping = frame(PING, 0, 0, &number.to_be_bytes());
        let sent = self.write.write_all(&ping).await.is_ok();
        let acknowledged = self.acknowledged.wait_for(|&last| last >= number);
        soon("an answer to a ping", acknowledged).await.is_ok() && sent
    }

    /// Closes the connection, and waits until the server has closed it, too.
    pub(crate) async fn close(mut self) {
        let _ = self.write.shutdown().await;
        soon("the end", self.reader).await.expect("no panic");
    }
}

async fn read_all(mut read: OwnedReadHalf, acknowledge: watch::Sender<u64>) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == PING && head[4] & ACK != 0 {
            let number = payload.try_into().expect("8 bytes");
            acknowledge.send_replace(u64::from_be_bytes(number));
        }
    }
}
