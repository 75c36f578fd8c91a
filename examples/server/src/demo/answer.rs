//! Answers and how they are sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Response,
    body::{Body, Bytes, Frame},
    header,
};
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Between two words of a stream.
pub(super) const PACE: Duration = Duration::from_millis(20);

/// What an endpoint answers.
pub(super) enum Answer {
    Json(Value),
    /// Server-sent events, made only as they are sent.
    Stream {
        opening: String,
        words: Box<dyn Iterator<Item = String> + Send>,
        closing: String,
    },
}

/// How a response ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    Complete,
    /// The connection is closed in the middle of it.
    Broken,
    /// It stalls.
    Silent,
}

impl Answer {
    pub(super) async fn into_response(self, end: End) -> Response<Script> {
        match self {
            Self::Json(value) => match end {
                End::Complete => json_response(200, &value),
                End::Broken => json_response(200, &value).map(Script::broken_in_half),
                End::Silent => std::future::pending().await,
            },
            Self::Stream {
                opening,
                words,
                closing,
            } => {
                let (most_words, closing) = match end {
                    End::Complete => (usize::MAX, Some(closing)),
                    End::Broken => (4, None),
                    End::Silent => (1, None),
                };
                let opening = std::iter::once(opening);
                let events = opening.chain(words.take(most_words)).chain(closing);
                Response::builder()
                    .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
                    .header(header::CACHE_CONTROL, "no-cache")
                    .body(Script::new(events.map(Bytes::from), end))
                    .expect("valid")
            }
        }
    }
}

pub(super) fn json_response(status: u16, value: &Value) -> Response<Script> {
    let json = Bytes::from(format!("{value:#}\n"));
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, json.len())
        .body(Script::new(std::iter::once(json), End::Complete))
        .expect("valid")
}

/// An event that has only data.
pub(super) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// A body sent in chunks at an even pace. It does nothing while nobody reads it.
pub(super) struct Script {
    chunks: Box<dyn Iterator<Item = Bytes> + Send>,
    pace: Interval,
    end: End,
}

impl Script {
    fn new(chunks: impl Iterator<Item = Bytes> + Send + 'static, end: End) -> Self {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            chunks: Box::new(chunks),
            pace,
            end,
        }
    }

    pub(super) fn empty() -> Self {
        Self::new(std::iter::empty(), End::Complete)
    }

    fn broken_in_half(self) -> Self {
        let half = |chunk: Bytes| chunk.slice(..chunk.len() / 2);
        Self::new(self.chunks.map(half), End::Broken)
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        ready!(self.pace.poll_tick(cx));
        match (self.chunks.next(), self.end) {
            (Some(chunk), _) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            (None, End::Complete) => Poll::Ready(None),
            (None, End::Broken) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            (None, End::Silent) => Poll::Pending,
        }
    }
}
