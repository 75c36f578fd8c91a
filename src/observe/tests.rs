use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    sync::{Mutex, atomic::AtomicUsize},
};

use http::StatusCode;
use http_body_util::{BodyExt, Channel, Full, channel::Sender};
use tower::{Service, ServiceExt, service_fn};

use super::*;
use crate::error::Kind;

type Records = Arc<Mutex<Vec<String>>>;

/// A layer that writes down every record.
fn recording() -> (ObserveLayer, Records) {
    let records = Records::default();
    let written = records.clone();
    let layer = ObserveLayer::new().with_observer(move |_| {
        let written = written.clone();
        Some(move |exchange: &Exchange| {
            let status = exchange.status().map_or(0, |status| status.as_u16());
            let outcome = exchange.outcome().as_str();
            let error = exchange.error().map_or("-", Error::code);
            let bytes = exchange.response_bytes();
            let chunks = exchange.response_chunks();
            written
                .lock()
                .unwrap()
                .push(format!("{status} {outcome} {error} {bytes} {chunks}"));
        })
    });
    (layer, records)
}

fn taken(records: &Records) -> Vec<String> {
    std::mem::take(&mut *records.lock().unwrap())
}

fn post() -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .body(Full::default())
        .unwrap()
}

type Answer<B> = Ready<Result<Response<B>, Error>>;

/// Answers once, with this.
fn answering<B>(
    response: Result<Response<B>, Error>,
) -> impl Service<Request<RequestBody>, Response = Response<B>, Error = Error, Future = Answer<B>> {
    let mut response = Some(response);
    service_fn(move |_| ready(response.take().expect("called once")))
}

fn stream(kind: &str) -> (Sender<Bytes, Error>, Response<Channel<Bytes, Error>>) {
    let (sender, body) = Channel::new(16);
    let response = Response::builder().header("content-type", kind);
    (sender, response.body(body).unwrap())
}

#[tokio::test]
async fn a_whole_response_is_complete() {
    let (layer, records) = recording();
    let (mut sender, response) = stream("application/json");
    for chunk in ["ab", "", "c"] {
        sender.send_data(chunk.into()).await.unwrap();
    }
    drop(sender);
    let service = layer.layer(answering(Ok(response)));
    let response = service.oneshot(post()).await.unwrap();
    assert!(taken(&records).is_empty());
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "abc");
    assert_eq!(taken(&records), ["200 complete - 3 2"]);
}

#[tokio::test]
async fn an_empty_response_is_complete_at_once() {
    let (layer, records) = recording();
    let response = Response::builder()
        .status(204)
        .body(Full::<Bytes>::default());
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        ready(Ok::<_, Infallible>(response.as_ref().unwrap().clone()))
    }));
    let response = service.oneshot(post()).await.unwrap();
    drop(response);
    assert_eq!(taken(&records), ["204 complete - 0 0"]);
}

#[tokio::test]
async fn a_client_that_disconnects_has_left() {
    let (layer, records) = recording();
    let silent = service_fn(|_: Request<RequestBody>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let mut waiting = Box::pin(layer.clone().layer(silent).oneshot(post()));
    let polled = std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
    assert!(polled.await);
    drop(waiting);
    assert_eq!(taken(&records), ["0 client_left - 0 0"]);

    let (mut sender, response) = stream("text/event-stream");
    sender.send_data("data: {}\n\n".into()).await.unwrap();
    let service = layer.layer(answering(Ok(response)));
    let mut body = service.oneshot(post()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(taken(&records), ["200 client_left - 10 1"]);
}

#[tokio::test]
async fn errors_are_failed_or_rejected_before_the_headers_and_broken_after_them() {
    let (layer, records) = recording();
    for (kind, expected) in [
        (Kind::NoCredentials, "401 rejected http_request_denied 0 0"),
        (Kind::Draining, "503 rejected destination_unavailable 0 0"),
        (Kind::Overloaded, "503 failed destination_unavailable 0 0"),
        (Kind::Refused, "502 failed connection_refused 0 0"),
        (
            Kind::ResponseTimeout,
            "504 failed http_response_timeout 0 0",
        ),
    ] {
        let service = answering::<Full<Bytes>>(Err(Error::new(kind)));
        assert!(layer.layer(service).oneshot(post()).await.is_err());
        assert_eq!(taken(&records), [expected]);
    }
    for (kind, expected) in [
        (Kind::Truncated, "200 broken connection_terminated 0 0"),
        (Kind::BackendIdle, "200 broken http_response_timeout 0 0"),
        (
            Kind::BodyTruncated,
            "200 client_left http_request_error 0 0",
        ),
    ] {
        let (sender, response) = stream("text/event-stream");
        sender.abort(Error::new(kind));
        let service = layer.layer(answering(Ok(response)));
        let response = service.oneshot(post()).await.unwrap();
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(taken(&records), [expected]);
    }
    let observe = layer.layer(());
    let rejected = observe
        .reject::<Answer<Full<Bytes>>>(&post().into_parts().0, Error::new(Kind::DotSegments));
    assert!(rejected.await.is_err());
    assert_eq!(taken(&records), ["400 rejected http_request_error 0 0"]);
}

#[tokio::test]
async fn a_stream_is_complete_once_done_was_forwarded() {
    let (layer, records) = recording();
    for (kind, encoding, is_post, expected) in [
        ("text/event-stream; charset=utf-8", None, true, "complete"),
        ("text/event-stream", Some("gzip"), true, "client_left"),
        ("text/plain", None, true, "client_left"),
        ("text/event-stream", None, false, "client_left"),
    ] {
        let (mut sender, mut response) = stream(kind);
        if let Some(encoding) = encoding {
            let encoding = encoding.parse().unwrap();
            response.headers_mut().insert("content-encoding", encoding);
        }
        sender.send_data("data: [DONE]\n\n".into()).await.unwrap();
        let mut request = post();
        if !is_post {
            *request.method_mut() = http::Method::GET;
        }
        let service = layer.layer(answering(Ok(response)));
        let mut body = service.oneshot(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(taken(&records), [format!("200 {expected} - 14 1")]);
    }
    // Whatever the backend does after it.
    let (mut sender, response) = stream("text/event-stream");
    sender.send_data("data: [DONE]\n\n".into()).await.unwrap();
    sender.abort(Error::new(Kind::Truncated));
    let service = layer.layer(answering(Ok(response)));
    let body = service.oneshot(post()).await.unwrap().into_body();
    assert!(body.collect().await.is_err());
    assert_eq!(taken(&records), ["200 complete - 14 1"]);
}

#[tokio::test]
async fn an_observer_that_panics_changes_nothing() {
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = ends.clone();
    let (layer, records) = recording();
    let layer = layer
        .with_observer(|_| -> Option<fn(&Exchange)> { panic!("at the beginning") })
        .with_observer(|_| Some(|_: &Exchange| panic!("at the end")))
        .with_observer(move |_| {
            let counted = counted.clone();
            Some(move |_: &Exchange| {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
        });
    let service = layer.layer(answering(Ok(Response::new(Full::<Bytes>::from("a"))
        .map(|body| body.map_err(|never: Infallible| -> Error { match never {} })))));
    let response = service.oneshot(post()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "a");
    assert_eq!(taken(&records), ["200 complete - 1 1"]);
    assert_eq!(ends.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_no_observer_wants_is_not_followed() {
    let layer = ObserveLayer::new().with_observer(|_| None::<fn(&Exchange)>);
    let observe = layer.layer(());
    assert!(Recorder::begin(&observe.observers, &post().into_parts().0, None).is_none());
}

#[tokio::test]
async fn the_bytes_of_a_request_are_counted_as_they_are_received() {
    let counted = Arc::new(Mutex::new(None));
    let layer = ObserveLayer::new().with_observer({
        let counted = counted.clone();
        move |_| {
            let counted = counted.clone();
            Some(move |exchange: &Exchange| {
                *counted.lock().unwrap() = Some(exchange.request_bytes());
            })
        }
    });
    let service = layer.layer(service_fn(async |request: Request<RequestBody>| {
        request.into_body().collect().await?;
        Ok::<_, Error>(Response::new(Full::<Bytes>::default()))
    }));
    let (mut sender, body) = Channel::<Bytes, Error>::new(16);
    for chunk in ["ab", "", "c"] {
        sender.send_data(chunk.into()).await.unwrap();
    }
    drop(sender);
    service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(*counted.lock().unwrap(), Some(3));
}
