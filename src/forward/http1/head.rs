//! The head of a response: status line and header section (RFC 9112, sections 4 and 5), and what
//! it says about the length of the body (section 6).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::decode::{Decoder, Framing};
use crate::header::{Nominated, is_hop_by_hop};

/// Largest head of a response, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Most fields in a head or a trailer section.
pub(super) const MAX_FIELDS: usize = 128;

/// The head of a final response, without what concerns only the connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// Where it isn't the usual one.
    pub(crate) reason: Option<ReasonPhrase>,
    pub(crate) headers: HeaderMap,
    pub(super) keep_alive: bool,
}

#[derive(Debug)]
pub(super) enum Parsed {
    /// More input is needed.
    Partial,
    /// An interim response (1xx) of this length.
    Interim(usize),
    /// A final response whose head has this length, and where its body ends.
    Final(usize, Head, Decoder),
}

/// Why the input is no response that can be passed on.
pub(super) type Invalid = &'static str;

/// Parses the head at the start of the input, as the answer to a HEAD request or to another. The
/// memory of `spare` is used again for the fields.
pub(super) fn parse(
    input: &Bytes,
    to_head: bool,
    spare: &mut HeaderMap,
) -> Result<Parsed, Invalid> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut fields,
    ) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() > MAX_HEAD => return Err("head too large"),
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err("too many fields"),
        Err(_) => return Err("malformed head"),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or("invalid status code")?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("switches protocols without being asked");
    }
    if status.is_informational() {
        return Ok(Parsed::Interim(length));
    }
    if length > MAX_HEAD {
        return Err("head too large");
    }

    let is_1_0 = response.version == Some(0);
    let mut connection = Nominated::default();
    let mut framing = Framing::default();
    // The values are slices of the input.
    let mut headers = std::mem::take(spare);
    headers.clear();
    headers.reserve(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "invalid name")?;
        match name {
            header::CONNECTION => connection.add(field.value),
            header::CONTENT_LENGTH => framing.add_length(field.value)?,
            header::TRANSFER_ENCODING => framing.add_coding(field.value)?,
            _ => {}
        }
        if !is_hop_by_hop(name.as_str()) {
            let value = HeaderValue::from_maybe_shared(input.slice_ref(field.value))
                .map_err(|_| "invalid field value")?;
            headers.append(name, value);
        }
    }
    let headers = connection.strip(headers);
    let has_body =
        !to_head && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
    let body = match framing.decoder(is_1_0)? {
        _ if !has_body => Decoder::Length(0),
        body => body,
    };
    let keep_alive = !connection.close
        && (!is_1_0 || connection.keep_alive)
        && !matches!(body, Decoder::UntilClose);
    Ok(Parsed::Final(
        length,
        Head {
            status,
            reason: reason_phrase(&input[..length], status),
            headers,
            keep_alive,
        },
        body,
    ))
}

/// The reason phrase as it was sent, where it isn't the usual one for the status.
fn reason_phrase(head: &[u8], status: StatusCode) -> Option<ReasonPhrase> {
    const BEFORE: usize = "HTTP/1.1 200 ".len();
    let line = head
        .trim_ascii_start()
        .split(|&byte| byte == b'\n')
        .next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let reason = line.get(BEFORE..).unwrap_or_default();
    if status.canonical_reason().map(str::as_bytes) == Some(reason) {
        return None;
    }
    ReasonPhrase::try_from(reason).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_new(input: &Bytes, to_head: bool) -> Result<Parsed, Invalid> {
        parse(input, to_head, &mut HeaderMap::new())
    }

    fn parse_final(input: &str) -> (Head, Decoder) {
        match parse_new(&Bytes::copy_from_slice(input.as_bytes()), false) {
            Ok(Parsed::Final(length, head, body)) => {
                assert_eq!(length, input.find("\r\n\r\n").unwrap() + 4);
                (head, body)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_keep_their_order_and_repetitions() {
        let (head, _) = parse_final(
            "HTTP/1.1 200 OK\r\nB: 1\r\na:2 \r\nSet-Cookie: x\r\nset-cookie: \ty\r\nempty:\r\n\r\nrest",
        );
        let fields: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let expected: [(&str, &[u8]); 5] = [
            ("b", b"1"),
            ("a", b"2"),
            ("set-cookie", b"x"),
            ("set-cookie", b"y"),
            ("empty", b""),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn hop_by_hop_fields_are_left_out() {
        let (head, body) = parse_final(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nx-hop: 1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nX-End: 1\r\n\r\n",
        );
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["trailer", "x-end"]);
        assert!(matches!(body, Decoder::Chunked(_)));
        assert!(head.keep_alive);
    }

    #[test]
    fn the_connection_is_kept_only_where_both_sides_can_tell() {
        for (head, keep_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ] {
            assert_eq!(parse_final(head).0.keep_alive, keep_alive, "{head}");
        }
    }

    #[test]
    fn an_unusual_reason_phrase_is_kept() {
        let reason = |line: &str| {
            let (head, _) = parse_final(&format!("{line}\r\nContent-Length: 0\r\n\r\n"));
            head.reason.map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 OK"), None);
        assert_eq!(reason("HTTP/1.1 200 Fine"), Some(b"Fine".to_vec()));
        assert_eq!(reason("HTTP/1.1 200 "), Some(Vec::new()));
        assert_eq!(reason("HTTP/1.1 200"), Some(Vec::new()));
        assert_eq!(
            reason("HTTP/1.1 429 Zu viel für uns"),
            Some("Zu viel für uns".into())
        );
    }

    #[test]
    fn interim_responses_are_told_apart() {
        let interim = Bytes::from_static(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        );
        assert!(matches!(
            parse_new(&interim, false),
            Ok(Parsed::Interim(40))
        ));
        assert!(
            parse_new(
                &Bytes::from("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
                false
            )
            .is_err()
        );
    }

    #[test]
    fn a_head_may_be_split_anywhere() {
        let head = Bytes::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\n");
        for cut in 0..head.len() {
            assert!(
                matches!(parse_new(&head.slice(..cut), false), Ok(Parsed::Partial)),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_their_fields_say() {
        for (head, to_head) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", false),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
                false,
            ),
        ] {
            let Ok(Parsed::Final(_, _, body)) = parse_new(&Bytes::from(head), to_head) else {
                panic!("{head}");
            };
            assert!(matches!(body, Decoder::Length(0)));
        }
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_refused() {
        let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(MAX_FIELDS + 1)
        );
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "{\"error\":1}",
            &huge,
            &huge[..huge.len() - 1],
            &many,
        ] {
            assert!(
                parse_new(&Bytes::copy_from_slice(head.as_bytes()), false).is_err(),
                "{:.60}",
                head
            );
        }
    }
}
