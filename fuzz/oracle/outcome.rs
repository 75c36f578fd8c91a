//! What a client makes of a response.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::{client::conn::http1::handshake, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use tower_openai_proxy::fuzzing::Exchange;

use super::wire::{Case, Seen, To, Wire};

/// What was made of a response.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) head: Option<SeenHead>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<Field>,
    pub(super) ending: Ending,
    pub(super) reusable: bool,

    // Not compared.
    /// What was wrong.
    pub(super) why: String,
    /// How many bytes were read.
    pub(super) read: usize,
    /// hyper's: all fields.
    pub(super) fields: HeaderMap,
    pub(super) version: Version,
}

pub(super) type Field = (String, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenHead {
    pub(super) status: StatusCode,
    pub(super) reason: Vec<u8>,
    /// Without those of the connection.
    pub(super) fields: Vec<Field>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// More is waited for.
    #[default]
    None,
    Clean,
    Failed,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        let compared = |outcome: &Self| (outcome.ending, outcome.reusable);
        compared(self) == compared(other)
            && self.head == other.head
            && self.body == other.body
            && self.trailers == other.trailers
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &[u8]| value.escape_ascii().to_string();
        let fields = |fields: &[Field]| -> Vec<_> {
            let fields = fields.iter();
            fields
                .map(|(name, value)| format!("{name}: {}", text(value)))
                .collect()
        };
        if let Some(head) = &self.head {
            write!(f, "{} {:?} ", head.status.as_u16(), text(&head.reason))?;
            write!(f, "{:?} ", fields(&head.fields))?;
        }
        write!(f, "body {:?} ", text(&self.body))?;
        write!(f, "trailers {:?} ", fields(&self.trailers))?;
        write!(f, "{:?}, reusable: {}", self.ending, self.reusable)?;
        write!(f, " ({} bytes read; {})", self.read, self.why)
    }
}

impl Outcome {
    fn fail(&mut self, error: &dyn StdError) {
        self.ending = Ending::Failed;
        let mut next = Some(error);
        while let Some(error) = next {
            self.why += &format!("{error}. ");
            next = error.source();
        }
    }

    fn fail_by(&mut self, error: String) {
        self.ending = Ending::Failed;
        self.why = error;
    }
}

fn head(status: StatusCode, reason: Option<&ReasonPhrase>, fields: &HeaderMap) -> SeenHead {
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    SeenHead {
        status,
        reason: reason.map_or(usual, ReasonPhrase::as_bytes).to_vec(),
        fields: list(fields),
    }
}

fn list(fields: &HeaderMap) -> Vec<Field> {
    fields
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

/// Polls until it is ready, or nothing moves any more.
fn drive<R>(seen: &Seen, mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Option<R> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut rounds = 0;
    while rounds < 10 {
        let before = seen.bytes.get();
        if let Poll::Ready(ready) = poll(&mut cx) {
            return Some(ready);
        }
        let is_moving = seen.bytes.get() > before;
        rounds = if is_moving { 0 } else { rounds + 1 };
    }
    None
}

/// The body of a request.
enum RequestBody {
    Empty,
    /// Doesn't come to its end.
    Unfinished {
        is_begun: bool,
    },
}

impl RequestBody {
    fn of(to: To) -> Self {
        match to {
            To::Unfinished | To::Unread => Self::Unfinished { is_begun: false },
            To::Get | To::Head => Self::Empty,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Unfinished { is_begun: true } => Poll::Pending,
            Self::Unfinished { is_begun } => {
                *is_begun = true;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from("{")))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// What our connection makes of it.
pub(super) fn ours(case: &Case) -> Outcome {
    let (wire, seen) = Wire::new(case);
    let body = RequestBody::of(case.to);
    let mut exchange = Exchange::new(wire, body, case.to == To::Head);
    let mut outcome = Outcome::default();
    match drive(&seen, |cx| exchange.poll_head(cx)) {
        Some(Ok(seen)) => {
            outcome.head = Some(head(seen.status, seen.reason.as_ref(), &seen.headers));
        }
        Some(Err(error)) => outcome.fail_by(error),
        None => {}
    }
    while outcome.head.is_some() {
        match drive(&seen, |cx| exchange.poll_data(cx)) {
            Some(Some(Ok(data))) => {
                assert!(!data.is_empty(), "an empty piece");
                outcome.body.extend_from_slice(&data);
                continue;
            }
            Some(Some(Err(error))) => outcome.fail_by(error),
            Some(None) => {
                outcome.ending = Ending::Clean;
                outcome.trailers = list(&exchange.take_trailers().unwrap_or_default());
                let wire = exchange.into_reusable();
                outcome.reusable = wire.is_some_and(|wire| wire.is_silent());
            }
            None => {}
        }
        break;
    }
    outcome.read = seen.bytes.get();
    outcome
}

/// What hyper's client makes of it.
pub(super) fn hypers(case: &Case) -> Outcome {
    let (wire, seen) = Wire::new(case);
    let mut outcome = Outcome::default();
    let mut handshake = pin!(handshake(TokioIo::new(wire)));
    let (mut sender, connection) = drive(&seen, |cx| handshake.as_mut().poll(cx))
        .and_then(Result::ok)
        .expect("there is nothing to fail");
    let mut connection = pin!(connection);
    let mut is_open = true;
    let mut poll_connection = |cx: &mut Context<'_>| {
        is_open = is_open && connection.as_mut().poll(cx).is_pending();
    };

    let method = match case.to {
        To::Get => Method::GET,
        To::Head => Method::HEAD,
        To::Unfinished | To::Unread => Method::POST,
    };
    let request = Request::builder().method(method).uri("/");
    let request = request.body(RequestBody::of(case.to)).expect("it is valid");
    let mut response = pin!(sender.send_request(request));
    let response = drive(&seen, |cx| {
        poll_connection(cx);
        response.as_mut().poll(cx)
    });
    let mut response = match response {
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            outcome.fail(&error);
            outcome.read = seen.bytes.get();
            return outcome;
        }
        None => {
            outcome.read = seen.bytes.get();
            return outcome;
        }
    };
    let reason = response.extensions().get::<ReasonPhrase>();
    let connections = connection_fields(response.headers());
    let is_end_to_end = |name: &HeaderName| !connections.iter().any(|other| other == name.as_str());
    let end_to_end = |fields: &HeaderMap| -> HeaderMap {
        let fields = fields.iter().filter(|(name, _)| is_end_to_end(name));
        fields
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    outcome.head = Some(head(
        response.status(),
        reason,
        &end_to_end(response.headers()),
    ));
    outcome.fields = response.headers().clone();
    outcome.version = response.version();
    loop {
        let frame = drive(&seen, |cx| {
            poll_connection(cx);
            Pin::new(response.body_mut()).poll_frame(cx)
        });
        match frame.map(Option::transpose) {
            Some(Ok(Some(frame))) => match frame.into_data() {
                Ok(data) => outcome.body.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    outcome.trailers = list(&end_to_end(&trailers));
                    let in_head_only = |name: &str| name == "content-length" || name == "trailer";
                    outcome.trailers.retain(|(name, _)| !in_head_only(name));
                }
            },
            Some(Ok(None)) => {
                outcome.ending = Ending::Clean;
                drive(&seen, |cx| {
                    poll_connection(cx);
                    Poll::<()>::Pending
                });
                outcome.reusable = sender.is_ready();
                break;
            }
            Some(Err(error)) => {
                outcome.fail(&error);
                break;
            }
            None => break,
        }
    }
    outcome.read = seen.bytes.get();
    outcome
}

/// The names of the fields that concern the connection, of a head and of its trailers (RFC 9110,
/// section 7.6.1).
fn connection_fields(head: &HeaderMap) -> Vec<String> {
    const HOP_BY_HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let mut fields = HOP_BY_HOP.map(str::to_owned).to_vec();
    for value in head.get_all("connection") {
        let names = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let names = names.split(',').map(|name| name.trim_matches([' ', '\t']));
        fields.extend(names.map(str::to_owned));
    }
    fields
}
