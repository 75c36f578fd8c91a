use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, Channel, Empty, Full, channel::Sender};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

const PERIOD: Duration = Duration::from_secs(15);

fn headers(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    let value = |value| HeaderValue::from_static(value);
    let fields = fields
        .iter()
        .map(|(name, text)| (name.clone(), value(text)));
    fields.collect()
}

fn events() -> HeaderMap {
    headers(&[(header::CONTENT_TYPE, "text/event-stream")])
}

/// A stream and its other end.
fn stream(headers: &HeaderMap) -> (Sender<Bytes>, PingBody<Channel<Bytes>>) {
    let (sender, body) = Channel::new(1);
    (sender, PingBody::new(body, headers, Some(PERIOD)))
}

/// The next frame, if there is one within so many periods.
async fn next<B>(body: &mut PingBody<B>, periods: u32) -> Option<Bytes>
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let frame = tokio::time::timeout(PERIOD * periods, body.frame())
        .await
        .ok()?;
    let frame = frame.expect("not at its end").expect("no error");
    Some(frame.into_data().expect("data"))
}

/// Whether there is a ping behind these chunks.
async fn is_pinged_behind(chunks: &[&'static str]) -> bool {
    let (mut sender, mut body) = stream(&events());
    for chunk in chunks {
        let chunk = Bytes::from(*chunk);
        sender.send_data(chunk.clone()).await.expect("open");
        assert_eq!(next(&mut body, 1).await, Some(chunk));
    }
    next(&mut body, 2).await == Some(": ping\n\n".into())
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_pinged_whenever_it_has_been_idle_for_the_period() {
    let (mut sender, mut body) = stream(&events());
    for _ in 0..2 {
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(next(&mut body, 2).await.expect("a ping"), ": ping\n\n");
            assert_eq!(start.elapsed().as_secs(), PERIOD.as_secs());
        }
        // A byte from the backend starts the period anew.
        let early = tokio::time::timeout(PERIOD * 2 / 3, body.frame()).await;
        assert!(early.is_err());
        sender.send_data("data: x\n\n".into()).await.expect("open");
        assert_eq!(next(&mut body, 1).await.expect("data"), "data: x\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_stands_only_between_events() {
    for chunks in [
        &[][..],
        &["data: x\n\n"],
        &["data: x\r\n\r\n"],
        &["data: x\r\r"],
        &["data: x\n\r\n"],
        &["data: x\r\n\n"],
        &["data: x\r\r\n"],
        &["data: x\n", "\n"],
        &["data: x\r\n\r", "\n"],
        &["data: x\r", "\n", "\r", "\n"],
        &["da", "ta: x\n\n"],
        &["data: x\n\ndata: y\n\n"],
        &[": processing\n\n"],
        &["\n"],
        &["\r\n"],
    ] {
        assert!(is_pinged_behind(chunks).await, "{chunks:?}");
    }
    for chunks in [
        &["d"][..],
        &["data: x"],
        &["data: x\n"],
        &["data: x\r\n"],
        &["data: x\r"],
        &["data: x", "\r", "\n"],
        // An LF may follow.
        &["data: x\r\n\r"],
        &["data: x\n\r"],
        &["data: x\n\n", "data: y\n"],
        &["data: x\n\nd"],
        &[": processing\n"],
        &["\u{feff}"],
        &["\n\n "],
    ] {
        assert!(!is_pinged_behind(chunks).await, "{chunks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_plain_event_streams_are_pinged() {
    use header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
    for (fields, is_pinged) in [
        (&[(CONTENT_TYPE, "text/event-stream")][..], true),
        (&[(CONTENT_TYPE, "Text/Event-Stream ; charset=utf-8")], true),
        (&[(CONTENT_TYPE, "text/event-stream;charset=utf-8")], true),
        (&[], false),
        (&[(CONTENT_TYPE, "text/event-streams")], false),
        (&[(CONTENT_TYPE, "application/json")], false),
        (&[(CONTENT_TYPE, "text/plain; a=text/event-stream")], false),
        (
            &[
                (CONTENT_TYPE, "text/event-stream"),
                (CONTENT_ENCODING, "gzip"),
            ],
            false,
        ),
        (
            &[
                (CONTENT_TYPE, "text/event-stream"),
                (CONTENT_ENCODING, "identity"),
            ],
            false,
        ),
        (
            &[(CONTENT_TYPE, "text/event-stream"), (CONTENT_LENGTH, "9")],
            false,
        ),
    ] {
        let (_sender, mut body) = stream(&headers(fields));
        assert_eq!(next(&mut body, 2).await.is_some(), is_pinged, "{fields:?}");
    }
}

#[test]
fn a_body_whose_length_is_known_keeps_it() {
    let body = PingBody::new(Full::<Bytes>::from("data"), &events(), Some(PERIOD));
    assert_eq!(body.size_hint().exact(), Some(4));
    let body = PingBody::new(Empty::<Bytes>::new(), &events(), Some(PERIOD));
    assert!(body.is_end_stream());
    let (_sender, body) = stream(&events());
    assert_eq!(body.size_hint().exact(), None);
}

#[tokio::test(start_paused = true)]
async fn without_a_period_nothing_is_added() {
    let (_sender, body) = Channel::<Bytes>::new(1);
    let mut body = PingBody::new(body, &events(), None);
    assert_eq!(next(&mut body, 100).await, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_trailers() {
    let (mut sender, mut body) = stream(&events());
    sender.send_trailers(HeaderMap::new()).await.expect("open");
    let trailers = body.frame().await.expect("a frame").expect("no error");
    assert!(trailers.is_trailers());
    let next = tokio::time::timeout(PERIOD * 2, body.frame()).await;
    assert!(next.is_err());
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_error_passes() {
    let (sender, body) = Channel::<Bytes, &str>::new(1);
    let mut body = PingBody::new(body, &events(), Some(PERIOD));
    sender.abort("broken");
    assert!(body.frame().await.expect("a frame").is_err());
}

/// Whether an event stream is between two events, by the definition of its lines.
fn is_between_events(stream: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stream);
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    lines.is_empty() || lines == "\n" || lines.ends_with("\n\n")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pings_stand_where_the_definition_of_lines_allows(
        chunks in prop::collection::vec("[a\r\n]{1,5}", 0..6),
    ) {
        let mut tail = super::body::Tail::default();
        for chunk in &chunks {
            tail.push(chunk.as_bytes());
        }
        let stream = chunks.concat().into_bytes();
        // This CR may be half of a line's end.
        let is_half = stream.ends_with(b"\n\r") || stream == b"\r";
        let expected = is_between_events(&stream) && !is_half;
        prop_assert_eq!(tail.is_between_events(), expected, "{:?}", chunks);
    }
}

#[tokio::test(start_paused = true)]
async fn the_layer_pings_what_the_service_below_it_sends() {
    use tower::ServiceExt;
    let service = |period: Option<Duration>| {
        let inner = tower::service_fn(|_: Request<String>| async {
            let (sender, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                tokio::time::sleep(PERIOD * 21 / 2).await;
                drop(sender);
            });
            let response = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
            Ok::<_, Infallible>(response.body(body).expect("a response"))
        });
        PingLayer { period }.layer(inner)
    };
    for (period, expected) in [(Some(PERIOD), 10), (None, 0)] {
        let response = service(period)
            .oneshot(Request::default())
            .await
            .expect("infallible");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("no error")
            .to_bytes();
        assert_eq!(body, ": ping\n\n".repeat(expected).as_bytes());
    }
}
