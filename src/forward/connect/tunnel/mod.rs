//! Tunnels through an HTTP proxy (RFC 9110, section 9.3.6).

#[cfg(test)]
mod tests;

use std::{error::Error, fmt};

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::BoxError;

const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 100;

/// Asks a proxy for a tunnel to `authority`, a host and port. From then on the connection is that to
/// the host.
pub(super) async fn open(
    proxy: &mut (impl AsyncRead + AsyncWrite + Unpin),
    authority: &str,
    authorization: Option<&HeaderValue>,
) -> Result<(), BoxError> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        request.extend_from_slice(b"proxy-authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    proxy.write_all(&request).await?;
    proxy.flush().await?;

    let mut read = Vec::new();
    loop {
        if proxy.read_buf(&mut read).await? == 0 {
            return Err(Refused::Closed.into());
        }
        while let Some((status, length)) = status(&read)? {
            match status {
                100..=199 => drop(read.drain(..length)),
                // The host says nothing before it is asked.
                200..=299 if length == read.len() => return Ok(()),
                200..=299 => return Err(Refused::Malformed.into()),
                _ => return Err(Refused::Status(status).into()),
            }
        }
        if read.len() > MAX_HEAD {
            return Err(Refused::Malformed.into());
        }
    }
}

/// The status of a head that is whole, and the head's length.
fn status(read: &[u8]) -> Result<Option<(u16, usize)>, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(read) {
        Ok(httparse::Status::Complete(length)) => Ok(response.code.map(|code| (code, length))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Refused::Malformed),
    }
}

/// Why there is no tunnel. Nothing of it tells where the proxy is.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Status(u16),
    Closed,
    Malformed,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the proxy answered CONNECT with status {status}"),
            Self::Closed => f.write_str("the proxy closed the connection at CONNECT"),
            Self::Malformed => f.write_str("the proxy's answer to CONNECT was not valid HTTP"),
        }
    }
}

impl Error for Refused {}
