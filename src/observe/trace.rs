//! What the messages of an exchange say to identify it: trace context and request ids.

use http::{HeaderMap, HeaderName, HeaderValue};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What OpenAI's SDKs call a request's id, and Azure a response's.
pub(super) static X_CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
pub(super) static APIM_REQUEST_ID: HeaderName = HeaderName::from_static("apim-request-id");

/// The ids of a message. They are looked for in one pass: a look-up by name costs more than a pass
/// over the few fields that a message has.
#[derive(Default)]
pub(super) struct Ids {
    /// That of a request with exactly one that is well-formed.
    pub(super) trace_context: Option<TraceContext>,
    /// The first of those that it may have. One that can't be shown in a log isn't kept.
    pub(super) message: Option<Box<str>>,
}

impl Ids {
    /// Those of a message whose own id is in `x-request-id`, or else in the other field.
    pub(super) fn of(headers: &HeaderMap, other: &HeaderName) -> Self {
        let (mut usual, mut others) = (None, None);
        let (mut trace, mut traces) = (None, 0);
        for (name, value) in headers {
            if *name == X_REQUEST_ID {
                usual.get_or_insert(value);
            } else if *name == TRACEPARENT {
                trace = Some(value);
                traces += 1;
            } else if name == other {
                others.get_or_insert(value);
            }
        }
        let trace = trace.filter(|_| traces == 1);
        Self {
            trace_context: trace.and_then(|value| TraceContext::parse(value.as_bytes())),
            message: usual.or(others).and_then(plain),
        }
    }
}

/// The `traceparent` of a request ([W3C Trace Context]).
///
/// [W3C Trace Context]: https://www.w3.org/TR/trace-context/#traceparent-header
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// As it was sent, without what a later version may have added.
    text: [u8; LENGTH],
}

/// Of version 00: two digits, the ids, and two digits of flags, with hyphens between them.
const LENGTH: usize = 55;

impl TraceContext {
    fn parse(value: &[u8]) -> Option<Self> {
        let (text, more) = value.split_first_chunk::<LENGTH>()?;
        let is_well_formed = text.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let is_known = match &text[..2] {
            b"00" => more.is_empty(),
            b"ff" => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let is_zero = |id: &[u8]| id.iter().all(|digit| *digit == b'0');
        let context = Self { text: *text };
        let is_valid =
            is_well_formed && is_known && !is_zero(&text[3..35]) && !is_zero(&text[36..52]);
        is_valid.then_some(context)
    }

    /// The trace's id: 32 hexadecimal digits in lower case.
    pub fn trace_id(&self) -> &str {
        self.part(3, 35)
    }

    /// The id of the client's span: 16 hexadecimal digits in lower case.
    pub fn parent_id(&self) -> &str {
        self.part(36, 52)
    }

    /// Whether the client may have recorded the trace.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(self.part(53, 55), 16).is_ok_and(|flags| flags & 1 == 1)
    }

    fn part(&self, start: usize, end: usize) -> &str {
        str::from_utf8(&self.text[start..end]).unwrap_or_default()
    }
}

fn plain(value: &HeaderValue) -> Option<Box<str>> {
    let text = str::from_utf8(value.as_bytes()).ok()?;
    is_plain(text).then(|| text.into())
}

/// Whether a value of a message can be shown as it is: 1 to 128 printable ASCII characters without
/// quotes, backslashes and blanks.
pub(super) fn is_plain(text: &str) -> bool {
    // Without a branch for each byte, so that it is vectorized.
    let is_plain = |byte: u8| byte.is_ascii_graphic() & (byte != b'"') & (byte != b'\\');
    (1..=128).contains(&text.len()) && text.bytes().fold(true, |all, byte| all & is_plain(byte))
}
