use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    io,
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
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

// The record.

/// A layer that hands every record to this function.
fn observing<T: Send + 'static>(
    tell: impl Fn(&Exchange) -> T + Clone + Send + Sync + 'static,
) -> (ObserveLayer, Arc<Mutex<Vec<T>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let written = told.clone();
    let layer = ObserveLayer::new().with_observer(move |_| {
        let (written, tell) = (written.clone(), tell.clone());
        Some(move |exchange: &Exchange| written.lock().unwrap().push(tell(exchange)))
    });
    (layer, told)
}

/// Reads a request, and answers with this.
fn reading(
    response: Response<Full<Bytes>>,
) -> impl Service<Request<RequestBody>, Response = Response<Full<Bytes>>, Error = Error, Future: Send>
+ Clone {
    service_fn(move |request: Request<RequestBody>| {
        let response = response.clone();
        async move {
            request.into_body().collect().await?;
            Ok(response)
        }
    })
}

fn json_answer(body: &'static str) -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(Full::from(body)).unwrap()
}

/// The record of an exchange, as `tell` has it.
async fn record_of<T: Send + 'static>(
    request: Request<Full<Bytes>>,
    response: Response<Full<Bytes>>,
    tell: impl Fn(&Exchange) -> T + Clone + Send + Sync + 'static,
) -> T {
    let (layer, told) = observing(tell);
    let response = layer.layer(reading(response)).oneshot(request).await;
    response.unwrap().into_body().collect().await.unwrap();
    let mut told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    told.remove(0)
}

fn request(method: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn endpoints_and_operations_have_few_names() {
    for (method, path, endpoint, operation) in [
        (
            "POST",
            "/v1/chat/completions",
            "/chat/completions",
            Some("chat"),
        ),
        (
            "POST",
            "/chat/completions?x=/files",
            "/chat/completions",
            Some("chat"),
        ),
        ("GET", "/v1/chat/completions", "/chat/completions", None),
        ("POST", "/v1/chat/completions/1", "other", None),
        ("POST", "/v1/responses", "/responses", Some("chat")),
        ("GET", "/v1/responses/1", "other", None),
        (
            "POST",
            "/v1/completions",
            "/completions",
            Some("text_completion"),
        ),
        ("POST", "/v1/embeddings", "/embeddings", Some("embeddings")),
        ("POST", "/v1/moderations", "/moderations", None),
        ("GET", "/v1/models", "/models", None),
        ("GET", "/v1/models/gpt-4o", "other", None),
        ("GET", "/v1/realtime", "/realtime", None),
        ("POST", "/v1/images/edits", "/images/*", None),
        ("POST", "/v1/audio/speech", "/audio/*", None),
        ("GET", "/v1/files", "/files/*", None),
        ("GET", "/v1/files/1/content", "/files/*", None),
        ("GET", "/v1/filesystem", "other", None),
        ("GET", "/v1/batches", "/batches/*", None),
        ("GET", "/v1/secret", "other", None),
    ] {
        let tell = |exchange: &Exchange| (exchange.endpoint(), exchange.operation());
        let told = record_of(request(method, path), json_answer("{}"), tell).await;
        assert_eq!(told, (endpoint, operation), "{method} {path}");
    }
}

#[tokio::test]
async fn an_answer_says_what_it_used_or_why_that_is_not_known() {
    let tell = |exchange: &Exchange| {
        let missing = exchange.usage_missing().map(UsageMissing::as_str);
        (exchange.usage().and_then(Usage::total_tokens), missing)
    };
    let usage = r#"{"usage":{"total_tokens":7}}"#;
    let large: &str = format!(
        r#"{{"usage":{{"total_tokens":7,"x":"{}"}}}}"#,
        "x".repeat(5000)
    )
    .leak();
    for (path, status, kind, encoding, body, expected) in [
        (
            "/v1/chat/completions",
            200,
            "application/json",
            "identity",
            usage,
            (Some(7), None),
        ),
        (
            "/v1/chat/completions",
            200,
            "application/json",
            "identity",
            "{}",
            (None, Some("not_sent")),
        ),
        (
            "/v1/chat/completions",
            200,
            "application/json",
            "compress",
            usage,
            (None, Some("encoded")),
        ),
        (
            "/v1/chat/completions",
            200,
            "text/event-stream",
            "gzip",
            usage,
            (None, Some("encoded")),
        ),
        (
            "/v1/chat/completions",
            200,
            "text/plain",
            "identity",
            usage,
            (None, Some("not_applicable")),
        ),
        (
            "/v1/chat/completions",
            200,
            "application/json",
            "identity",
            large,
            (None, Some("too_large")),
        ),
        (
            "/v1/chat/completions",
            400,
            "application/json",
            "identity",
            usage,
            (None, None),
        ),
        (
            "/v1/audio/transcriptions",
            200,
            "application/json",
            "identity",
            usage,
            (Some(7), None),
        ),
        (
            "/v1/audio/transcriptions",
            200,
            "application/json",
            "identity",
            "{}",
            (None, None),
        ),
    ] {
        let mut response = json_answer(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        response
            .headers_mut()
            .insert("content-encoding", encoding.parse().unwrap());
        let told = record_of(request("POST", path), response, tell).await;
        assert_eq!(told, expected, "{path} {status} {kind} {encoding}");
    }
}

#[tokio::test]
async fn usage_counts_although_the_client_leaves() {
    let (layer, told) = observing(|exchange| {
        let missing = exchange.usage_missing().map(UsageMissing::as_str);
        let error = exchange.error_type().map(str::to_owned);
        (
            exchange.usage().and_then(Usage::output_tokens),
            missing,
            error,
        )
    });
    for (sent, expected) in [
        (
            "data: {\"usage\":{\"output_tokens\":3}}\n\n",
            (Some(3), None),
        ),
        ("data: {}\n\n", (None, Some("cut_off"))),
    ] {
        let (mut sender, response) = stream("text/event-stream");
        sender.send_data(sent.into()).await.unwrap();
        let service = layer.layer(answering(Ok(response)));
        let mut body = service.oneshot(post()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let (usage, missing) = expected;
        let left = Some("client_left".to_owned());
        assert_eq!(told.lock().unwrap().pop(), Some((usage, missing, left)));
    }
}

#[tokio::test]
async fn what_went_wrong_has_a_name() {
    let tell = |exchange: &Exchange| exchange.error_type().map(str::to_owned);
    for (status, kind, body, expected) in [
        (200, "application/json", "{}", None),
        (302, "application/json", "{}", None),
        (429, "application/json", "{}", Some("429")),
        (503, "text/html", "", Some("503")),
        (
            200,
            "text/event-stream",
            "data: {\"error\":{}}\n\n",
            Some("stream_error"),
        ),
        (200, "text/event-stream", "data: {\"error\":null}\n\n", None),
        (
            500,
            "text/event-stream",
            "data: {\"error\":{}}\n\n",
            Some("500"),
        ),
    ] {
        let mut response = json_answer(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        let told = record_of(post(), response, tell).await;
        assert_eq!(told.as_deref(), expected, "{status}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_its_upload_off_has_left() {
    let (layer, records) = recording();
    for (kind, expected) in [
        (io::ErrorKind::UnexpectedEof, "0 client_left - 0 0"),
        (
            io::ErrorKind::InvalidInput,
            "400 rejected http_request_error 0 0",
        ),
    ] {
        let error = Error::new(Kind::BodyTruncated).with_source(io::Error::from(kind));
        let service = layer.layer(answering::<Full<Bytes>>(Err(error)));
        assert!(service.oneshot(post()).await.is_err());
        assert_eq!(taken(&records), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn times_count_from_the_requests_headers() {
    let (layer, told) = observing(|exchange| {
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis());
        [
            millis(exchange.time_to_head()),
            millis(exchange.time_to_first_token()),
            millis(exchange.time_per_output_token()),
            millis(exchange.longest_gap()),
            millis(Some(exchange.duration())),
        ]
    });
    let (mut sender, response) = stream("text/event-stream");
    let mut response = Some(response);
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        let response = response.take().unwrap();
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Error>(response)
        }
    }));
    let body = service.oneshot(post()).await.unwrap().into_body();
    let reading = tokio::spawn(body.collect());
    for (wait, data) in [
        (10, "data: {\"content\":\"\"}\n\n"),
        (20, "data: {\"content\":\"a\"}\n\n"),
        (300, "data: {\"usage\":{\"output_tokens\":11}}\n\n"),
        (40, "data: [DONE]\n\n"),
    ] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        sender.send_data(data.into()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    drop(sender);
    reading.await.unwrap().unwrap();
    let expected = [100, 130, 34, 300, 475].map(Some);
    assert_eq!(*told.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn the_requests_own_model_is_read_along() {
    let tell = |exchange: &Exchange| {
        let model = exchange.request_model().map(str::to_owned);
        (model, exchange.is_configured_model())
    };
    for (kind, body, expected) in [
        (
            Some("application/json"),
            r#"{"x":{"model":"no"},"model":"m"}"#,
            Some("m"),
        ),
        (None, r#"{"model":"m"}"#, Some("m")),
        (Some("text/plain"), r#"{"model":"m"}"#, None),
        (Some("application/json"), "{}", None),
    ] {
        let mut request = post().map(|_| Full::from(body));
        if let Some(kind) = kind {
            request
                .headers_mut()
                .insert("content-type", kind.parse().unwrap());
        }
        let told = record_of(request, json_answer("{}"), tell).await;
        assert_eq!(
            told,
            (expected.map(str::to_owned), false),
            "{kind:?} {body}"
        );
    }
    // The one that the backend was sent.
    let (layer, told) = observing(tell);
    let stack = layer.layer(
        crate::ModelOverrideLayer::with_default_model("configured")
            .layer(reading(json_answer("{}"))),
    );
    let request = post().map(|_| Full::from(r#"{"model":"m"}"#));
    let response = stack.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let expected = (Some("configured".to_owned()), true);
    assert_eq!(*told.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn ids_and_the_client_are_in_the_record() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let tell = |exchange: &Exchange| {
        let trace = exchange.trace_context();
        [
            exchange.request_id(),
            exchange.backend_request_id(),
            exchange.client_name(),
            exchange.response_model(),
            exchange.response_id(),
            trace.map(TraceContext::trace_id),
            trace.map(TraceContext::parent_id),
        ]
        .map(|text| text.map(str::to_owned))
    };
    let mut sent = post();
    let headers = sent.headers_mut();
    headers.insert("traceparent", trace.parse().unwrap());
    headers.insert("x-client-request-id", "req-1".parse().unwrap());
    sent.extensions_mut()
        .insert(crate::ClientName::new("alice"));
    let mut response = json_answer(r#"{"id":"chatcmpl-1","model":"gpt-4o"}"#);
    response
        .headers_mut()
        .insert("apim-request-id", "apim-1".parse().unwrap());
    let told = record_of(sent, response, tell).await;
    let expected = [
        "req-1",
        "apim-1",
        "alice",
        "gpt-4o",
        "chatcmpl-1",
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
    ];
    assert_eq!(told, expected.map(|text| Some(text.to_owned())));

    let mut sent = post();
    let headers = sent.headers_mut();
    headers.append("traceparent", trace.parse().unwrap());
    headers.append("traceparent", trace.parse().unwrap());
    headers.insert("x-request-id", "a b".parse().unwrap());
    headers.insert("x-client-request-id", "req-1".parse().unwrap());
    let told = record_of(sent, json_answer("{}"), tell).await;
    assert_eq!(told, [const { None::<String> }; 7]);
}

#[test]
fn a_trace_context_is_well_formed_or_none() {
    let of = |value: &str| {
        let value = value.parse().unwrap();
        let headers = http::HeaderMap::from_iter([("traceparent".parse().unwrap(), value)]);
        trace::Ids::of(&headers, &trace::X_CLIENT_REQUEST_ID).trace_context
    };
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert!(!of(good).unwrap().is_sampled());
    assert!(of(&good.replace("-00", "-03")).unwrap().is_sampled());
    assert!(of(&format!("cc{}-more", &good[2..])).is_some());
    for bad in [
        "",
        &good[..54],
        &format!("{good}-more"),
        &format!("cc{}more", &good[2..]),
        &good.replacen("00", "ff", 1),
        &good.to_uppercase(),
        &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        &good.replace("b7ad6b7169203331", &"0".repeat(16)),
        &good.replace("-b7", "_b7"),
    ] {
        assert!(of(bad).is_none(), "{bad:?}");
    }
}

#[tokio::test]
async fn below_the_route_each_attempt_is_an_exchange() {
    let config = r#"{"primary_backends":[{"name":"a","url":"http://a.test"},{"name":"b","url":"http://b.test"}],
        "settings":{"failover_on":[503]}}"#;
    let config: crate::Config = config.parse().unwrap();
    let tell = |exchange: &Exchange| {
        let attempts = exchange.attempts().iter();
        let attempts = attempts.map(|it| format!("{} {}", it.backend().name(), it.result()));
        let bytes = exchange.request_bytes();
        (attempts.collect::<Vec<_>>().join(", "), bytes)
    };
    let (above, whole) = observing(tell);
    let (below, parts) = observing(tell);
    let service = service_fn(async |request: Request<RequestBody>| {
        let is_first = request.extensions().get::<crate::Backend>().unwrap().name() == "a";
        request.into_body().collect().await?;
        let mut response = json_answer("{}");
        if is_first {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok::<_, Error>(response)
    });
    let route = crate::BackendRouteLayer::from_config(&config);
    let stack = above.layer(route.layer(below.layer(service)));
    let response = stack
        .oneshot(post().map(|_| Full::from("{}")))
        .await
        .unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(
        *whole.lock().unwrap(),
        [("a status_503, b answered".to_owned(), 2)]
    );
    let names: Vec<_> = parts
        .lock()
        .unwrap()
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    // The first one's answer was dropped unread.
    assert_eq!(names, ["a answered", "b answered"]);
}

#[tokio::test]
async fn the_record_shows_nothing_of_a_message() {
    let mut sent = request("POST", "/v1/secret-path?key=secret");
    *sent.body_mut() = Full::from(r#"{"model":"secret"}"#);
    sent.headers_mut()
        .insert("x-request-id", "secret".parse().unwrap());
    let response =
        json_answer(r#"{"id":"secret","model":"secret","usage":{"total_tokens":1,"x":"secret"}}"#);
    let text = record_of(sent, response, |exchange| format!("{exchange:?}")).await;
    assert!(
        text.contains("Exchange") && !text.contains("secret"),
        "{text}"
    );
}
