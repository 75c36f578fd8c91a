use std::error::Error as _;

use http::HeaderMap;
use http_body_util::{Channel, Empty, Full, channel::Sender};
use tokio::time::{Instant, sleep};

use super::*;
use crate::model::splice::{Splice, json_string};

/// A body that is sent piece by piece.
fn in_pieces() -> (Sender<Bytes, BoxError>, RequestBody) {
    let (sender, body) = Channel::new(16);
    (sender, RequestBody::new(body))
}

/// One whose pieces are there already.
async fn of_pieces(pieces: &[&'static str]) -> RequestBody {
    let (mut sender, body) = in_pieces();
    for &piece in pieces {
        sender.send_data(piece.into()).await.unwrap();
    }
    body
}

async fn next(body: &mut RequestBody) -> Result<Bytes, Error> {
    let frame = soon(body.frame()).await.expect("a piece")?;
    Ok(frame.into_data().expect("data"))
}

async fn bytes(body: impl Into<RequestBody>) -> Bytes {
    body.into().collect().await.unwrap().to_bytes()
}

/// Waits for what should happen.
async fn soon<F: Future>(future: F) -> F::Output {
    let waited = tokio::time::timeout(secs(20), future).await;
    waited.expect("something happens")
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// The limit.

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let body = of_pieces(&["ab", "", "cd", "e"]).await.with_max_bytes(5);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
}

#[tokio::test]
async fn the_first_byte_over_the_limit_is_an_error() {
    let mut body = of_pieces(&["ab", "cd", "ef"]).await.with_max_bytes(5);
    assert_eq!(next(&mut body).await.unwrap(), "ab");
    assert_eq!(next(&mut body).await.unwrap(), "cd");
    let error = next(&mut body).await.unwrap_err();
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (413, "http_request_error")
    );
    assert!(error.is_client());

    let error = of_pieces(&["abc", "def"]).await.with_max_bytes(5).hold();
    assert_eq!(error.await.err().unwrap().status(), 413);
}

#[test]
fn an_announced_length_is_checked_at_once() {
    let body = |limit| RequestBody::new(Full::from("abc")).with_max_bytes(limit);
    assert!(body(2).is_too_large());
    assert!(!body(3).is_too_large());
    assert!(!RequestBody::new(Full::from("abc")).is_too_large());
    // Nothing was announced.
    let (_sender, body) = in_pieces();
    assert!(!body.with_max_bytes(0).is_too_large());
}

#[tokio::test]
async fn a_limit_outlives_another_stage() {
    let body = of_pieces(&["abc"]).await.with_max_bytes(2);
    let body = RequestBody::new(RequestBody::new(body));
    assert_eq!(body.collect().await.unwrap_err().status(), 413);
}

// Silences.

#[tokio::test(start_paused = true)]
async fn a_silence_that_lasts_too_long_is_an_error() {
    let (mut sender, body) = in_pieces();
    let mut body = body.with_idle_timeout(secs(5));
    let sending = tokio::spawn(async move {
        for pause in [4, 4, 0, 4] {
            sleep(secs(pause)).await;
            sender.send_data("x".into()).await.unwrap();
        }
        sender
    });
    for _ in 0..4 {
        assert_eq!(next(&mut body).await.unwrap(), "x");
    }
    let _sender = sending.await.unwrap();
    let start = Instant::now();
    let error = next(&mut body).await.unwrap_err();
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (408, "http_request_error")
    );
    assert!(error.is_client() && error.is_timeout());
    let late = start.elapsed() - secs(5);
    assert!(late < Duration::from_millis(5), "late by {late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_read_is_not_the_clients_silence() {
    let (mut sender, body) = in_pieces();
    let mut body = body.with_idle_timeout(secs(5));
    for piece in ["a", "b"] {
        sender.send_data(piece.into()).await.unwrap();
        sleep(secs(100)).await;
        assert_eq!(next(&mut body).await.unwrap(), piece);
    }
    // Nor where it was asked in vain before.
    assert!(tokio::time::timeout(secs(1), body.frame()).await.is_err());
    sender.send_data("c".into()).await.unwrap();
    sleep(secs(100)).await;
    assert_eq!(next(&mut body).await.unwrap(), "c");
    drop(sender);
    sleep(secs(100)).await;
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_held_is_timed_as_well() {
    let (_sender, body) = in_pieces();
    let held = soon(body.with_idle_timeout(secs(5)).hold()).await;
    let error = held.err().unwrap();
    assert_eq!(error.status(), 408);
}

#[tokio::test(start_paused = true)]
async fn without_a_period_a_body_may_be_silent() {
    let (_sender, mut body) = in_pieces();
    let waited = tokio::time::timeout(secs(1_000_000), body.frame()).await;
    assert!(waited.is_err());
}

// What it passes on.

#[tokio::test]
async fn a_streamed_body_passes_piece_by_piece() {
    let mut body = of_pieces(&["a", "bc"]).await;
    assert!(!body.is_end_stream());
    assert_eq!(next(&mut body).await.unwrap(), "a");
    assert_eq!(next(&mut body).await.unwrap(), "bc");
    assert!(body.frame().await.is_none());

    let body = RequestBody::new(Full::from("abc"));
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
}

#[tokio::test]
async fn trailers_of_a_streamed_body_pass() {
    let (mut sender, mut body) = in_pieces();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_with_its_cause() {
    for holds in [false, true] {
        let (mut sender, mut body) = in_pieces();
        sender.send_data("half".into()).await.unwrap();
        sender.abort(std::fmt::Error.into());
        let error = if holds {
            body.hold().await.err().unwrap()
        } else {
            assert_eq!(next(&mut body).await.unwrap(), "half");
            next(&mut body).await.unwrap_err()
        };
        assert_eq!(error.status(), 400);
        assert!(error.is_client());
        assert!(error.source().unwrap().is::<std::fmt::Error>());
    }
}

#[tokio::test]
async fn a_body_that_is_empty_has_ended() {
    for mut body in [
        RequestBody::default(),
        RequestBody::from(Bytes::new()),
        RequestBody::new(Empty::new()),
        RequestBody::new(Full::<Bytes>::default()).with_max_bytes(0),
    ] {
        assert!(body.is_end_stream() && !body.is_too_large());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
        assert!(body.hold().await.unwrap().is_empty());
    }
}

// In memory.

#[tokio::test]
async fn a_held_body_is_handed_on_in_pieces_of_the_same_memory() {
    let bytes = Bytes::from(vec![7; 2 * rope::PIECE + 1]);
    let mut body = RequestBody::from(bytes.clone());
    let mut left = bytes.len();
    for expected in [rope::PIECE, rope::PIECE, 1] {
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(left as u64));
        let piece = next(&mut body).await.unwrap();
        assert_eq!(piece.len(), expected);
        assert_eq!(piece.as_ptr(), bytes[bytes.len() - left..].as_ptr());
        left -= expected;
    }
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_spliced_body_has_the_length_that_it_tells() {
    let body = Bytes::from_static(br#"{"model": "a", "n": 1}"#);
    let mut splice = Splice::new(json_string("other"));
    splice.feed(body).unwrap();
    let body = RequestBody::spliced(splice.finish().unwrap());
    let expected = r#"{"model": "other", "n": 1}"#;
    assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
    assert!(!body.is_end_stream());
    assert_eq!(bytes(body.hold().await.unwrap()).await, expected);
}

#[tokio::test]
async fn holding_a_single_piece_does_not_copy_it() {
    let (mut sender, body) = in_pieces();
    let piece = Bytes::from(vec![7; 1000]);
    sender.send_data(piece.clone()).await.unwrap();
    drop(sender);
    let held = bytes(body.hold().await.unwrap()).await;
    assert_eq!((held.as_ptr(), held.len()), (piece.as_ptr(), 1000));
}

#[tokio::test]
async fn holding_joins_pieces_and_drops_trailers() {
    let (mut sender, body) = in_pieces();
    for piece in ["", "a", "bc", "", "def"] {
        sender.send_data(piece.into()).await.unwrap();
    }
    sender.send_trailers(HeaderMap::new()).await.unwrap();
    drop(sender);
    assert_eq!(bytes(body.hold().await.unwrap()).await, "abcdef");
}

#[test]
fn debug_shows_no_content() {
    for body in [
        RequestBody::new(Full::from("secret")),
        RequestBody::from(Bytes::from("secret")),
    ] {
        let debug = format!("{body:?}");
        assert!(
            debug.contains("size_hint") && !debug.contains("secret"),
            "{debug}"
        );
    }
}
