//! Reads a form (`multipart/form-data`, RFC 7578) as it arrives. A file is counted, not kept.

#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{body::Body, header, http::request::Parts};

use super::error::ApiError;

/// Limits the headers and fields of a form, all together.
const MAX_TEXT: usize = 64 * 1024;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Form {
    fields: Vec<(String, String)>,
    file: Option<File>,
}

#[derive(Debug, PartialEq)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: u64,
}

impl Form {
    pub(super) async fn read<B>(head: &Parts, body: B) -> Result<Self, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let boundary = boundary(head).ok_or_else(|| invalid("it has no boundary"))?;
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        let mut reader = Reader::new(body);
        let mut form = Self::default();
        reader.text(&delimiter).await?;
        while !reader.next_is(b"--").await? {
            let headers = reader.text(b"\r\n\r\n").await?;
            let name = parameter(&headers, "name").ok_or_else(|| invalid("a part has no name"))?;
            if let Some(filename) = parameter(&headers, "filename") {
                let bytes = reader.count(&delimiter).await?;
                form.file = Some(File {
                    name: filename.to_owned(),
                    bytes,
                });
            } else {
                let value = reader.text(&delimiter).await?;
                form.fields.push((name.to_owned(), value));
            }
        }
        Ok(form)
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let field = fields.find(|field| field.0 == name);
        field.map(|(_, value)| &**value)
    }

    pub(super) fn file(&self) -> Result<&File, ApiError> {
        self.file.as_ref().ok_or_else(|| ApiError::missing("file"))
    }
}

fn boundary(head: &Parts) -> Option<&str> {
    let content_type = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let parameters = content_type.strip_prefix("multipart/form-data")?;
    let (_, boundary) = parameters.split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// A parameter of `Content-Disposition`, as clients write it.
fn parameter<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = headers.split_once(&format!("; {name}=\""))?;
    let (value, _) = value.split_once('"')?;
    Some(value)
}

fn invalid(why: &str) -> ApiError {
    ApiError::new(400, None, format!("Could not parse multipart form: {why}."))
}

struct Reader<B> {
    body: B,
    /// What was received and not yet read.
    buffer: BytesMut,
    /// How many bytes may still be kept.
    text_left: usize,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn new(body: B) -> Self {
        Self {
            body,
            // Every delimiter but the first one follows a line.
            buffer: BytesMut::from("\r\n"),
            text_left: MAX_TEXT,
        }
    }

    /// Skips `pattern` if it comes next.
    async fn next_is(&mut self, pattern: &[u8]) -> Result<bool, ApiError> {
        while self.buffer.len() < pattern.len() {
            self.receive().await?;
        }
        let is_next = self.buffer.starts_with(pattern);
        if is_next {
            self.buffer.advance(pattern.len());
        }
        Ok(is_next)
    }

    /// Reads up to and including `end`, and returns what comes before it.
    async fn text(&mut self, end: &[u8]) -> Result<String, ApiError> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk_before(end).await? {
            self.text_left = (self.text_left.checked_sub(chunk.len()))
                .ok_or_else(|| invalid("its headers and fields are too long"))?;
            text.extend(chunk);
        }
        String::from_utf8(text).map_err(|_| invalid("it is not UTF-8"))
    }

    /// Like [`text`](Self::text), but returns the number of bytes.
    async fn count(&mut self, end: &[u8]) -> Result<u64, ApiError> {
        let mut count = 0;
        while let Some(chunk) = self.chunk_before(end).await? {
            count += chunk.len() as u64;
        }
        Ok(count)
    }

    /// The next bytes before `end`; `None` once it has been reached and skipped.
    async fn chunk_before(&mut self, end: &[u8]) -> Result<Option<BytesMut>, ApiError> {
        loop {
            match find(&self.buffer, end) {
                Some(0) => {
                    self.buffer.advance(end.len());
                    return Ok(None);
                }
                Some(at) => return Ok(Some(self.buffer.split_to(at))),
                // The last bytes may be the beginning of `end`.
                None if self.buffer.len() >= end.len() => {
                    let at = self.buffer.len() - end.len() + 1;
                    return Ok(Some(self.buffer.split_to(at)));
                }
                None => self.receive().await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<(), ApiError> {
        let Some(Ok(frame)) = self.body.frame().await else {
            return Err(invalid("it ends too early"));
        };
        if let Some(data) = frame.data_ref() {
            self.buffer.extend_from_slice(data);
        }
        Ok(())
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(pattern.len());
    windows.position(|window| window[0] == pattern[0] && window == pattern)
}
