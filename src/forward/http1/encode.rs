//! The head of a request as bytes (RFC 9112, sections 3 and 5).

use http::{HeaderName, HeaderValue, Method, header};

use crate::forward::message::Framing;

/// Most heads fit into this.
const CAPACITY: usize = 1024;

/// Writes a head, field by field.
pub(crate) struct HeadEncoder {
    head: Vec<u8>,
}

impl HeadEncoder {
    /// Writes the request line.
    pub(crate) fn new(method: &Method, write_target: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut head = Vec::with_capacity(CAPACITY);
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        write_target(&mut head);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        Self { head }
    }

    #[inline]
    pub(crate) fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        write_field(&mut self.head, name, value);
    }

    /// Writes the parts of a cookie as one field, which HTTP/1.1 must have at most once (RFC 6265,
    /// section 5.4).
    pub(crate) fn cookie<'a>(&mut self, crumbs: impl IntoIterator<Item = &'a HeaderValue>) {
        let mut before: &[u8] = b"cookie: ";
        for crumb in crumbs {
            self.head.extend_from_slice(before);
            self.head.extend_from_slice(crumb.as_bytes());
            before = b"; ";
        }
        self.head.extend_from_slice(b"\r\n");
    }

    /// Writes the field that marks the end of the body.
    pub(crate) fn framing(&mut self, framing: Framing) {
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                self.head.extend_from_slice(b"content-length: ");
                let mut digits = itoa::Buffer::new();
                self.head
                    .extend_from_slice(digits.format(length).as_bytes());
                self.head.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => {
                write_field(&mut self.head, &header::TRANSFER_ENCODING, &CHUNKED);
            }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.head.extend_from_slice(b"\r\n");
        self.head
    }
}

static CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

pub(super) fn write_field(head: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    head.extend_from_slice(name.as_str().as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}
