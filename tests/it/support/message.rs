//! HTTP/1.1 messages.

use super::find;

/// A message as received: its head, and its body with any transfer coding.
#[derive(Debug)]
pub(crate) struct Message {
    /// Includes the blank line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        let code = self.start_line().split(' ').nth(1);
        code.and_then(|code| code.parse().ok())
            .expect("a status line")
    }

    /// The header fields in order, with lowercase names.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let lines = self.head.lines().skip(1).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a field");
                (name.to_lowercase(), value.trim().to_owned())
            })
            .collect()
    }

    /// The value of a header field that occurs at most once.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut values: Vec<_> = self
            .fields()
            .into_iter()
            .filter(|(n, _)| n == name)
            .collect();
        assert!(
            values.len() <= 1,
            "{name} occurs more than once:\n{}",
            self.head
        );
        values.pop().map(|(_, value)| value)
    }

    /// The body as JSON, without its transfer coding.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.content()).expect("JSON")
    }

    /// The body without its transfer coding.
    pub(crate) fn content(&self) -> Vec<u8> {
        match self.field("transfer-encoding").as_deref() {
            Some("chunked") => dechunk(&self.body),
            _ => self.body.clone(),
        }
    }

    /// The `code` of an OpenAI-style error. Asserts that style, and that `Proxy-Status` agrees.
    pub(crate) fn error_code(&self) -> String {
        let json = self.json();
        let error = json["error"].as_object().expect("an error");
        let fields: Vec<_> = error.keys().map(String::as_str).collect();
        assert_eq!(fields, ["code", "message", "param", "type"]);
        assert!(error["param"].is_null() && error["message"].is_string());
        let kind = match self.status() {
            400..=499 => "invalid_request_error",
            _ => "proxy_error",
        };
        assert_eq!(error["type"], kind);
        let code = error["code"].as_str().expect("a code").to_owned();
        let proxy_status = self.field("proxy-status").expect("Proxy-Status");
        assert!(
            proxy_status.ends_with(&format!("; error={code}")),
            "{proxy_status}"
        );
        assert_eq!(
            self.field("content-type").as_deref(),
            Some("application/json")
        );
        code
    }
}

/// A POST of `body` to the endpoint, with credentials.
pub(crate) fn post(body: &str) -> String {
    post_with("", body)
}

/// Like [`post`], with further header fields: lines that end with CRLF.
pub(crate) fn post_with(fields: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\
         {fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A response with this status (code and reason phrase) and body.
pub(crate) fn response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Decodes the chunked coding.
pub(crate) fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = find(body, b"\r\n").expect("a chunk size");
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

/// Encodes `body` in the chunked coding, cycling through these chunk sizes.
pub(crate) fn chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(body.len() + 1024);
    let mut rest = body;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
        rest = after;
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}
