//! The head of a request as bytes (RFC 9112, sections 3 and 5).
//!
//! It is written straight from the client's fields, in their order: what isn't passed on is skipped
//! on the way.

use http::{HeaderValue, Method, Version, header, request::Parts};
use http_body::SizeHint;

use crate::{
    backend::Backend,
    forward::request::{stays_here, write_target},
    header::{Nominated, asks_for_trailers},
};

/// How the end of a request's body is told (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, and no field that says so.
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    pub(crate) fn of(parts: &Parts, body: &SizeHint) -> Self {
        match body.exact() {
            None => Self::Chunked,
            // These are expected to have a body (RFC 9110, section 8.6).
            Some(0)
                if !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
                    && !parts.headers.contains_key(header::CONTENT_LENGTH) =>
            {
                Self::None
            }
            Some(length) => Self::Length(length),
        }
    }
}

/// Writes the head of a request to a backend, and says how its body must follow.
pub(crate) fn encode_head(
    parts: &Parts,
    body: &SizeHint,
    backend: &Backend,
    head: &mut Vec<u8>,
) -> Framing {
    let framing = Framing::of(parts, body);
    head.extend_from_slice(parts.method.as_str().as_bytes());
    head.push(b' ');
    write_target(parts, backend, head);
    head.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(head, "host", backend.host());
    if let Some(credential) = backend.credential() {
        write_field(head, "authorization", credential);
    }

    let nominated = Nominated::of(&parts.headers);
    let joins_cookies = parts.version == Version::HTTP_2;
    let mut framing_is_written = framing == Framing::None;
    let mut te_is_written = false;
    let mut cookies_are_written = false;
    for (name, value) in &parts.headers {
        match *name {
            // Where it was, but with the length that the body has now.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => {
                if !framing_is_written {
                    write_framing(head, framing);
                    framing_is_written = true;
                }
            }
            header::TE => {
                if !te_is_written && asks_for_trailers(value) {
                    head.extend_from_slice(b"te: trailers\r\n");
                    te_is_written = true;
                }
            }
            header::TRAILER if framing != Framing::Chunked => {}
            _ if stays_here(name, &nominated, backend) => {}
            // HTTP/2 may have split it (RFC 9113, section 8.2.3).
            header::COOKIE if joins_cookies => {
                if !cookies_are_written {
                    write_cookies(head, parts);
                    cookies_are_written = true;
                }
            }
            _ => write_field(head, name.as_str(), value),
        }
    }
    if !framing_is_written {
        write_framing(head, framing);
    }
    head.extend_from_slice(b"\r\n");
    framing
}

pub(super) fn write_field(head: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}

fn write_framing(head: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            head.extend_from_slice(b"content-length: ");
            head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

fn write_cookies(head: &mut Vec<u8>, parts: &Parts) {
    head.extend_from_slice(b"cookie: ");
    for (index, crumb) in parts.headers.get_all(header::COOKIE).iter().enumerate() {
        if index > 0 {
            head.extend_from_slice(b"; ");
        }
        head.extend_from_slice(crumb.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
