use std::error::Error as _;

use http::HeaderMap;
use http_body_util::{BodyExt, Channel, Empty, Full, channel::Sender};
use tokio::time::{Instant, sleep};

use super::*;
use crate::rope::PIECE;

/// A body that is sent chunk by chunk.
fn in_chunks() -> (Sender<Bytes, BoxError>, RequestBody) {
    let (sender, body) = Channel::new(16);
    (sender, RequestBody::new(body))
}

/// One whose chunks are there already.
async fn of_chunks(chunks: &[&'static str]) -> RequestBody {
    let (mut sender, body) = in_chunks();
    for &chunk in chunks {
        sender.send_data(chunk.into()).await.unwrap();
    }
    body
}

async fn next(body: &mut RequestBody) -> Result<Bytes, Error> {
    let frame = soon(body.frame()).await.expect("a chunk")?;
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
    let body = of_chunks(&["ab", "", "cd", "e"]).await.with_max_bytes(5);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
}

#[tokio::test]
async fn the_first_byte_over_the_limit_is_an_error() {
    let mut body = of_chunks(&["ab", "cd", "ef"]).await.with_max_bytes(5);
    assert_eq!(next(&mut body).await.unwrap(), "ab");
    assert_eq!(next(&mut body).await.unwrap(), "cd");
    let error = next(&mut body).await.unwrap_err();
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (413, "http_request_error")
    );
    assert!(error.is_client_error());

    let error = of_chunks(&["abc", "def"])
        .await
        .with_max_bytes(5)
        .buffer(Scan::No);
    assert_eq!(error.await.err().unwrap().status(), 413);
}

#[test]
fn an_announced_length_is_checked_at_once() {
    let body = |limit| RequestBody::new(Full::from("abc")).with_max_bytes(limit);
    assert!(body(2).is_too_large());
    assert!(!body(3).is_too_large());
    assert!(!RequestBody::new(Full::from("abc")).is_too_large());
    // Nothing was announced.
    let (_sender, body) = in_chunks();
    assert!(!body.with_max_bytes(0).is_too_large());
}

#[tokio::test]
async fn a_limit_outlives_another_stage() {
    let body = of_chunks(&["abc"]).await.with_max_bytes(2);
    let body = RequestBody::new(RequestBody::new(body));
    assert_eq!(body.collect().await.unwrap_err().status(), 413);
}

// Idle times.

#[tokio::test(start_paused = true)]
async fn being_idle_for_too_long_is_an_error() {
    let (mut sender, body) = in_chunks();
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
    assert!(error.is_client_error() && error.is_timeout());
    let late = start.elapsed() - secs(5);
    assert!(late < Duration::from_millis(5), "late by {late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_read_does_not_make_the_client_idle() {
    let (mut sender, body) = in_chunks();
    let mut body = body.with_idle_timeout(secs(5));
    for chunk in ["a", "b"] {
        sender.send_data(chunk.into()).await.unwrap();
        sleep(secs(100)).await;
        assert_eq!(next(&mut body).await.unwrap(), chunk);
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
    let (_sender, body) = in_chunks();
    let held = soon(body.with_idle_timeout(secs(5)).buffer(Scan::No)).await;
    let error = held.err().unwrap();
    assert_eq!(error.status(), 408);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_body_may_be_idle() {
    let (_sender, mut body) = in_chunks();
    let waited = tokio::time::timeout(secs(1_000_000), body.frame()).await;
    assert!(waited.is_err());
}

// What it forwards.

#[tokio::test]
async fn a_streamed_body_passes_chunk_by_chunk() {
    let mut body = of_chunks(&["a", "bc"]).await;
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
    let (mut sender, mut body) = in_chunks();
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
        let (mut sender, mut body) = in_chunks();
        sender.send_data("half".into()).await.unwrap();
        sender.abort(std::fmt::Error.into());
        let error = if holds {
            body.buffer(Scan::No).await.err().unwrap()
        } else {
            assert_eq!(next(&mut body).await.unwrap(), "half");
            next(&mut body).await.unwrap_err()
        };
        assert_eq!(error.status(), 400);
        assert!(error.is_client_error());
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
        assert!(body.buffer(Scan::No).await.unwrap().is_end_stream());
    }
}

// In memory.

#[tokio::test]
async fn a_buffered_body_is_forwarded_in_chunks_of_the_same_memory() {
    let bytes = Bytes::from(vec![7; 2 * PIECE + 1]);
    let mut body = RequestBody::from(bytes.clone());
    let mut left = bytes.len();
    for expected in [PIECE, PIECE, 1] {
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(left as u64));
        let chunk = next(&mut body).await.unwrap();
        assert_eq!(chunk.len(), expected);
        assert_eq!(chunk.as_ptr(), bytes[bytes.len() - left..].as_ptr());
        left -= expected;
    }
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_replaced_body_has_the_length_that_it_tells() {
    let body = RequestBody::from(Bytes::from_static(br#"{"model": "a", "n": 1}"#));
    let body = body.buffer(Scan::Json { is_strict: true }).await.unwrap();
    let Some(Ok(Found::Json(found))) = body.found() else {
        panic!("not found");
    };
    assert_eq!(body.copy(found.models[0].span.clone()), b"\"a\"");
    let (spans, with) = found.with_model(crate::json::string("other"));
    let body = body.replace(spans, with);
    let expected = r#"{"model": "other", "n": 1}"#;
    assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
    assert!(!body.is_end_stream());
    let again = body.try_clone().unwrap();
    assert_eq!(bytes(body.buffer(Scan::No).await.unwrap()).await, expected);
    assert_eq!(bytes(again).await, expected);
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_found_out_at_once_where_it_must_be_one() {
    let (mut sender, body) = in_chunks();
    sender.send_data("[".into()).await.unwrap();
    let error = soon(body.buffer(Scan::Json { is_strict: true }))
        .await
        .err()
        .unwrap();
    assert_eq!(error.status(), 400);

    let body = of_chunks(&["not", " json"]).await;
    let body = body.buffer(Scan::Json { is_strict: false }).await.unwrap();
    assert!(body.found().unwrap().is_err());
    assert_eq!(bytes(body).await, "not json");
}

#[tokio::test]
async fn a_long_scan_lets_other_tasks_run() {
    let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(5 * 1024 * 1024));
    let mut buffer = RequestBody::from(Bytes::from(json)).buffer(Scan::Json { is_strict: true });
    let mut turns = 0;
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while Pin::new(&mut buffer).poll(&mut cx).is_pending() {
        turns += 1;
    }
    assert_eq!(turns, 5);
}

// The budget.

fn budget(limit: u64) -> Arc<Budget> {
    let budget = Arc::new(Budget::default());
    budget.set_limit(limit);
    budget
}

#[tokio::test]
async fn buffered_bodies_share_a_budget_and_give_it_back() {
    let budget = budget(5);
    let first = of_chunks(&["ab", "c"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    let first = first.buffer(Scan::No).await.unwrap();
    let clone = first.try_clone().unwrap();

    let second = of_chunks(&["def"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    let error = second.buffer(Scan::No).await.err().unwrap();
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (503, "destination_unavailable")
    );
    let response = error.to_response::<Bytes>();
    assert_eq!(response.headers()["retry-after"], "1");

    drop(first);
    let third = of_chunks(&["def"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    assert!(third.buffer(Scan::No).await.is_err(), "a clone has it");
    drop(clone);
    let fourth = of_chunks(&["defgh"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    // A second look at it doesn't count it twice, nor give it back.
    let fourth = fourth.buffer(Scan::No).await.unwrap();
    let fourth = fourth
        .buffer(Scan::Json { is_strict: false })
        .await
        .unwrap();
    let fifth = of_chunks(&["i"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    assert!(fifth.buffer(Scan::No).await.is_err());
    drop(fourth);
    let sixth = of_chunks(&["ijklm"])
        .await
        .with_buffer_limits(u64::MAX, &budget);
    assert!(sixth.buffer(Scan::No).await.is_ok());
}

#[tokio::test]
async fn a_streamed_body_needs_no_budget() {
    let body = of_chunks(&["abc"])
        .await
        .with_buffer_limits(u64::MAX, &budget(1));
    assert_eq!(bytes(body).await, "abc");
}

/// Sends `chunk` every `pause` seconds, and gives what buffering it comes to.
async fn buffered_slowly(chunk: usize, pause: u64, chunks: usize) -> Result<RequestBody, Error> {
    let (mut sender, body) = in_chunks();
    let sending = async move {
        for _ in 0..chunks {
            sleep(secs(pause)).await;
            if sender.send_data(vec![b' '; chunk].into()).await.is_err() {
                break;
            }
        }
    };
    let body = body.with_idle_timeout(secs(10)).buffer(Scan::No);
    let waited = tokio::time::timeout(secs(100_000), async { tokio::join!(body, sending).0 });
    waited.await.expect("something happens")
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_drop_by_drop_is_given_up() {
    let error = buffered_slowly(1, 9, 1000).await.unwrap_err();
    assert_eq!(error.status(), 408);
    // 1 KiB/s is enough, and so is a body that is whole within the period.
    assert!(buffered_slowly(9 * 1024, 9, 100).await.is_ok());
    assert!(buffered_slowly(1, 4, 2).await.is_ok());
}

#[tokio::test]
async fn buffering_a_single_chunk_does_not_copy_it() {
    let (mut sender, body) = in_chunks();
    let chunk = Bytes::from(vec![7; 1000]);
    sender.send_data(chunk.clone()).await.unwrap();
    drop(sender);
    let held = bytes(body.buffer(Scan::No).await.unwrap()).await;
    assert_eq!((held.as_ptr(), held.len()), (chunk.as_ptr(), 1000));
}

#[tokio::test]
async fn buffering_joins_chunks_and_drops_trailers() {
    let (mut sender, body) = in_chunks();
    for chunk in ["", "a", "bc", "", "def"] {
        sender.send_data(chunk.into()).await.unwrap();
    }
    sender.send_trailers(HeaderMap::new()).await.unwrap();
    drop(sender);
    assert_eq!(bytes(body.buffer(Scan::No).await.unwrap()).await, "abcdef");
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

// Lent to attempts.

#[tokio::test]
async fn a_body_is_lent_again_until_it_was_read_from() {
    let mut lender = Lender::new(of_chunks(&["ab", "c"]).await);
    let lent = lender.lend(false).unwrap();
    assert!(!lent.is_end_stream() && lender.lend(false).is_none());
    drop(lent);
    let mut lent = lender.lend(false).unwrap();
    assert_eq!(next(&mut lent).await.unwrap(), "ab");
    drop(lent);
    assert!(lender.lend(false).is_none());

    let mut lender = Lender::new(RequestBody::from(Bytes::from("abc")));
    for _ in 0..2 {
        assert_eq!(bytes(lender.lend(false).unwrap()).await, "abc");
    }
    assert_eq!(bytes(lender.lend(true).unwrap()).await, "abc");
}

#[tokio::test]
async fn buffered_bodies_have_a_separate_limit() {
    let body = || async {
        let body = of_chunks(&["abc", "def"]).await.with_max_bytes(6);
        body.with_buffer_limits(5, &budget(100))
    };
    assert_eq!(bytes(body().await).await, "abcdef");
    let error = body().await.buffer(Scan::No).await.err().unwrap();
    assert_eq!(error.status(), 413);
}
