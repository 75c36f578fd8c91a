//! The head of a response: status line and header section (RFC 9112, sections 4 and 5), and what
//! it says about the length of the body (section 6).

use std::{cell::Cell, mem::MaybeUninit};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::{
    MAX_FIELDS, Malformed,
    decode::{BodyFields, Decoder},
};
use crate::{
    forward::message::{Asked, Head, MAX_HEAD},
    header::{ConnectionOptions, is_hop_by_hop, is_websocket_only},
};

/// Input up to this size is parsed again with each read, so that what can't become a head is refused
/// early.
const SMALL: usize = 4 * 1024;

/// Decides when incomplete input is worth parsing again: a head that comes in many small reads must
/// not be parsed with each of them.
#[derive(Default)]
pub(super) struct HeadSearch {
    /// How much has been found to have no end of a head.
    searched: usize,
    /// How much there was to parse the last time.
    parsed: usize,
}

impl HeadSearch {
    pub(super) fn is_due(&mut self, input: &[u8]) -> bool {
        let is_due = !input.is_empty()
            && (input.len() <= SMALL
                || input.len() > MAX_HEAD
                || input.len() >= 2 * self.parsed
                || has_empty_line(&input[self.searched.saturating_sub(2)..]));
        self.searched = input.len();
        if is_due {
            self.parsed = input.len();
        }
        is_due
    }
}

fn has_empty_line(input: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', input)
        .any(|end| matches!(input[end + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

#[derive(Debug)]
pub(super) enum Parsed {
    /// More input is needed.
    Partial,
    /// An interim response (1xx) of this length.
    Interim(usize),
    /// A 101 that wasn't asked for, or with another protocol.
    Unasked,
    Final {
        /// Of the head in the input.
        length: usize,
        head: Head,
        body: Decoder,
        keep_alive: bool,
    },
}

thread_local! {
    static NAMES: Cell<Names> = Cell::default();
}

/// The names of the last head's fields, in their order. Heads of the same backends resemble each
/// other, and comparing a name costs a tenth of parsing it.
#[derive(Default)]
struct Names {
    last: Vec<(Box<[u8]>, HeaderName)>,
    next: usize,
}

/// Longer names are not kept.
const MAX_KEPT_NAME: usize = 64;

impl Names {
    fn get(&mut self, text: &[u8]) -> Result<HeaderName, Malformed> {
        let at = self.next;
        self.next += 1;
        if let Some((known, name)) = self.last.get(at)
            && **known == *text
        {
            return Ok(name.clone());
        }
        let name = HeaderName::from_bytes(text).map_err(|_| Malformed("invalid name"))?;
        if text.len() <= MAX_KEPT_NAME {
            let entry = (text.into(), name.clone());
            if at < self.last.len() {
                self.last[at] = entry;
            } else if at == self.last.len() {
                self.last.push(entry);
            }
        }
        Ok(name)
    }

    fn rewound(mut self) -> Self {
        self.next = 0;
        self
    }
}

/// Parses the head at the start of the input, as the response to what was asked for. The fields
/// reuse the memory of `recycled`.
pub(super) fn parse(
    input: &Bytes,
    asked: Asked,
    recycled: &mut HeaderMap,
) -> Result<Parsed, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut fields,
    ) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() > MAX_HEAD => {
            return Err(Malformed("head too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("too many fields")),
        Err(_) => return Err(Malformed("malformed head")),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Malformed("invalid status code"))?;
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    if is_switch && asked != Asked::Upgrade {
        return Ok(Parsed::Unasked);
    }
    if status.is_informational() && !is_switch {
        return Ok(Parsed::Interim(length));
    }
    if length > MAX_HEAD {
        return Err(Malformed("head too large"));
    }

    let is_1_0 = response.version == Some(0);
    let fields = response.headers.iter();
    let is_connection =
        |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("connection");
    let options = ConnectionOptions::new(fields.filter(is_connection).map(|field| field.value));
    // The fields of an upgrade are for the client, too.
    let is_kept = |name: &HeaderName| match asked {
        _ if is_switch => true,
        Asked::Upgrade if status == StatusCode::UPGRADE_REQUIRED => {
            matches!(*name, header::CONNECTION | header::UPGRADE)
        }
        _ => false,
    };
    let mut body = BodyFields::default();
    let mut names = NAMES.take();
    // The values are slices of the input.
    let mut headers = std::mem::take(recycled);
    headers.clear();
    headers.reserve(response.headers.len());
    for field in response.headers.iter() {
        let name = names.get(field.name.as_bytes())?;
        match name {
            header::CONTENT_LENGTH => body.add_length(field.value)?,
            header::TRANSFER_ENCODING => body.add_coding(field.value)?,
            _ => {}
        }
        let is_connections = is_hop_by_hop(name.as_str()) || options.contains(name.as_str());
        if !is_connections || is_kept(&name) {
            let value = HeaderValue::from_maybe_shared(input.slice_ref(field.value));
            headers.append(name, value.map_err(|_| Malformed("invalid field value"))?);
        }
    }
    NAMES.set(names.rewound());
    let mut body = match body.decoder(is_1_0)? {
        Decoder::Chunked(chunked) => Decoder::Chunked(chunked.with_connection(options.fields())),
        other => other,
    };
    if is_switch && !is_websocket_only(&headers) {
        return Ok(Parsed::Unasked);
    }
    if is_switch && !matches!(body, Decoder::UntilClose | Decoder::Length(0)) {
        return Err(Malformed("a body in a 101"));
    }
    if is_switch || !Head::has_body(status, asked == Asked::Head) {
        body = Decoder::Length(0);
    }
    let keep_alive =
        !options.close && (!is_1_0 || options.keep_alive) && !matches!(body, Decoder::UntilClose);
    let reason = reason_phrase(&input[..length], status);
    Ok(Parsed::Final {
        length,
        head: Head {
            status,
            reason,
            headers,
        },
        body,
        keep_alive,
    })
}

/// The reason phrase as it was sent, unless it is the standard one for the status.
fn reason_phrase(head: &[u8], status: StatusCode) -> Option<ReasonPhrase> {
    const BEFORE: usize = "HTTP/1.1 200 ".len();
    let line = &head[..memchr::memchr(b'\n', head)?];
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

    fn parse_new(input: &Bytes, asked: Asked) -> Result<Parsed, Malformed> {
        parse(input, asked, &mut HeaderMap::new())
    }

    fn parse_final(input: &str) -> (Head, Decoder, bool) {
        parse_final_for(input, Asked::Content)
    }

    fn parse_final_for(input: &str, asked: Asked) -> (Head, Decoder, bool) {
        match parse_new(&Bytes::copy_from_slice(input.as_bytes()), asked) {
            Ok(Parsed::Final {
                length,
                head,
                body,
                keep_alive,
            }) => {
                assert_eq!(length, input.find("\r\n\r\n").unwrap() + 4);
                (head, body, keep_alive)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_keep_their_order_and_repetitions() {
        let (head, ..) = parse_final(
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
        let (head, body, keep_alive) = parse_final(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nx-hop: 1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nX-End: 1\r\n\r\n",
        );
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["trailer", "x-end"]);
        assert!(matches!(body, Decoder::Chunked(_)));
        assert!(keep_alive);
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
            assert_eq!(parse_final(head).2, keep_alive, "{head}");
        }
    }

    #[test]
    fn an_unusual_reason_phrase_is_kept() {
        let reason = |line: &str| {
            let (head, ..) = parse_final(&format!("{line}\r\nContent-Length: 0\r\n\r\n"));
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
            parse_new(&interim, Asked::Content),
            Ok(Parsed::Interim(40))
        ));
    }

    #[test]
    fn the_fields_of_an_upgrade_are_the_clients_too() {
        const FIELDS: &str = "Upgrade: websocket\r\nX: y\r\nConnection: Upgrade, x";
        let names = |status: &str, asked| {
            let input = format!("HTTP/1.1 {status}\r\n{FIELDS}\r\n\r\n");
            let (head, ..) = parse_final_for(&input, asked);
            let names = head.headers.keys().map(|name| name.to_string());
            names.collect::<Vec<_>>()
        };
        let all = ["upgrade", "x", "connection"];
        assert_eq!(names("101 Switching Protocols", Asked::Upgrade), all);
        let handshake = ["upgrade", "connection"];
        assert_eq!(names("426 Upgrade Required", Asked::Upgrade), handshake);
        assert!(names("426 Upgrade Required", Asked::Content).is_empty());
        assert!(names("200 OK", Asked::Upgrade).is_empty());
    }

    #[test]
    fn a_switch_that_was_not_asked_for_is_told_apart() {
        for (fields, asked) in [
            ("Upgrade: websocket\r\n", Asked::Content),
            ("Upgrade: websocket\r\n", Asked::Head),
            ("", Asked::Upgrade),
            ("Upgrade: h2c\r\n", Asked::Upgrade),
            ("Upgrade: websocket, h2c\r\n", Asked::Upgrade),
            ("Upgrade: websocket\r\nUpgrade: h2c\r\n", Asked::Upgrade),
        ] {
            let input = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            let parsed = parse_new(&Bytes::from(input), asked);
            assert!(matches!(parsed, Ok(Parsed::Unasked)), "{fields}");
        }
    }

    #[test]
    fn what_follows_a_101_is_no_body() {
        let switch = |fields: &str| {
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket";
            let input = format!("{head}\r\n{fields}\r\n");
            parse_new(&Bytes::from(input), Asked::Upgrade)
        };
        for fields in ["", "Content-Length: 0\r\n"] {
            let Ok(Parsed::Final { body, .. }) = switch(fields) else {
                panic!("{fields}");
            };
            assert!(body.is_end(), "{fields}");
        }
        for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            assert!(switch(fields).is_err(), "{fields}");
        }
    }

    #[test]
    fn a_head_may_be_split_anywhere() {
        let head = Bytes::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\n");
        for cut in 0..head.len() {
            assert!(
                matches!(
                    parse_new(&head.slice(..cut), Asked::Content),
                    Ok(Parsed::Partial)
                ),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_a_few_times_only() {
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000));
        let mut search = HeadSearch::default();
        let due: Vec<_> = (1..=head.len())
            .filter(|&length| search.is_due(&head.as_bytes()[..length]))
            .collect();
        assert!(due.len() < SMALL + 20, "{}", due.len());
        assert_eq!(due.last(), Some(&head.len()));
    }

    #[test]
    fn the_end_of_a_large_head_is_found_wherever_it_is_split() {
        for end in ["\r\n\r\n", "\n\n", "\r\n\n", "\n\r\n"] {
            let head = format!("HTTP/1.1 200 OK\r\nx: {}{end}rest", "y".repeat(10_000));
            let length = head.len() - "rest".len();
            for cut in length - end.len()..length {
                let mut search = HeadSearch::default();
                assert!(search.is_due(&head.as_bytes()[..cut]));
                assert!(search.is_due(head.as_bytes()), "{end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_their_fields_say() {
        for (head, asked) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Asked::Head),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Asked::Head,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Asked::Content),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
                Asked::Content,
            ),
        ] {
            let parsed = parse_new(&Bytes::from(head), asked);
            let Ok(Parsed::Final { body, .. }) = parsed else {
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
                parse_new(&Bytes::copy_from_slice(head.as_bytes()), Asked::Content).is_err(),
                "{:.60}",
                head
            );
        }
    }
}
