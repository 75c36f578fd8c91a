//! The layer in front of a service of the test's own, and the limits on paused time.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Channel, Full, channel::Sender};
use proptest::prelude::*;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, advance},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{KeysLayer, hash, limit::Usage};
use crate::{
    client::{ClientName, Limits},
    config::{BackendConfig, ClientConfig, Config, ConfigBuilder},
    error::Error,
    tunnel::{Cause, Ended, Tunnel},
};

fn builder() -> ConfigBuilder {
    Config::builder().backend(BackendConfig::new("LLM1", "http://a.test"))
}

fn layer(clients: impl IntoIterator<Item = ClientConfig>) -> KeysLayer {
    let config = clients.into_iter().fold(builder(), ConfigBuilder::client);
    KeysLayer::from_config(&config.build().unwrap())
}

fn alice() -> ClientConfig {
    ClientConfig::new("alice").hash(hash("sk-alice"))
}

/// What the service behind the layer saw of a request.
#[derive(Clone)]
struct Seen {
    headers: HeaderMap,
    name: Option<ClientName>,
}

/// Sends a request through the layer to a service that tells what it saw.
async fn send(layer: &KeysLayer, request: Request<()>) -> Result<Seen, Response<Bytes>> {
    let service = service_fn(async |request: Request<()>| {
        let mut response = Response::new(Full::from("ok"));
        response.extensions_mut().insert(Seen {
            headers: request.headers().clone(),
            name: request.extensions().get().cloned(),
        });
        Ok::<_, Infallible>(response)
    });
    let Ok(response) = layer.layer(service).oneshot(request).await;
    match response.extensions().get::<Seen>() {
        Some(seen) => Ok(seen.clone()),
        None => {
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Err(Response::from_parts(parts, body))
        }
    }
}

fn request(fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post("/v1/chat/completions");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn upgrade(protocols: &str) -> Request<()> {
    let mut request = request(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocols),
    ]);
    *request.method_mut() = Method::GET;
    request
}

#[tokio::test]
async fn the_key_is_the_bearer_token_else_api_key_else_the_websockets() {
    let layer = layer([alice()]);
    let protocol = "realtime, openai-insecure-api-key.sk-alice";
    for good in [
        request(&[("authorization", "Bearer sk-alice")]),
        request(&[("authorization", "bearer  sk-alice ")]),
        request(&[
            ("authorization", "Basic x"),
            ("authorization", "Bearer sk-alice"),
        ]),
        request(&[("authorization", "Bearer sk-alice"), ("api-key", "sk-x")]),
        request(&[("api-key", "sk-alice")]),
        request(&[("authorization", "Basic x"), ("api-key", "sk-alice")]),
        request(&[("authorization", "Bearer "), ("api-key", "sk-alice")]),
        upgrade(protocol),
    ] {
        let seen = send(&layer, good).await.map_err(|_| "refused").unwrap();
        assert_eq!(seen.name.unwrap().as_str(), "alice");
    }
    let mut http2 = upgrade(protocol);
    *http2.version_mut() = Version::HTTP_2;
    for bad in [
        request(&[]),
        request(&[("authorization", "Bearer sk-alic")]),
        request(&[("authorization", "Bearer sk-alice sk-alice")]),
        request(&[("authorization", "sk-alice")]),
        request(&[("authorization", "Basic sk-alice")]),
        request(&[("authorization", "Bearer sk-x"), ("api-key", "sk-alice")]),
        request(&[("x-api-key", "sk-alice")]),
        request(&[("sec-websocket-protocol", protocol)]),
        request(&[("authorization", &format!("Bearer {}", hash("sk-alice")))]),
        http2,
    ] {
        let refused = send(&layer, bad).await.err().expect("refused");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn which_key_was_wrong_cannot_be_told_from_the_answer() {
    let expired = ClientConfig::new("bob")
        .hash(hash("sk-bob"))
        .expires(SystemTime::now());
    let layer = layer([alice(), expired]);
    let mut answers = Vec::new();
    for fields in [
        &[][..],
        &[("authorization", "Bearer sk-x")],
        &[("api-key", "sk-x")],
        &[("authorization", "Bearer sk-bob")],
    ] {
        let answer = send(&layer, request(fields)).await.err().expect("refused");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let error = "tower-openai-proxy; error=http_request_denied";
        assert_eq!(answer.headers()["proxy-status"], error);
        let told = answer.extensions().get::<Error>().expect("told");
        assert_eq!(told.code(), "invalid_api_key");
        answers.push(format!("{:?} {:?}", answer.headers(), answer.body()));
    }
    assert!(
        answers[0].contains(r#"\"type\":\"invalid_request_error\""#),
        "{answers:?}"
    );
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_key_expires_on_time() {
    let later = SystemTime::now() + Duration::from_secs(1000);
    let layer = layer([alice().expires(later)]);
    let good = request(&[("api-key", "sk-alice")]);
    assert!(send(&layer, good).await.is_ok());
}

#[tokio::test]
async fn keys_are_taken_out_and_other_fields_stay_in_order() {
    let layer = layer([alice()]);
    let mut sent = upgrade("a, openai-insecure-api-key.sk-alice, b");
    for (name, value) in [
        ("x-one", "1"),
        ("authorization", "Bearer sk-alice"),
        ("api-key", "sk-alice"),
        ("x-api-key", "sk-alice"),
        ("x-two", "2"),
    ] {
        sent.headers_mut().append(name, value.parse().unwrap());
    }
    let seen = send(&layer, sent).await.map_err(|_| "refused").unwrap();
    let fields: Vec<_> = seen.headers.iter().collect();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    let expected = [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-protocol: a, b",
        "x-one: 1",
        "x-two: 2",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn probes_and_preflights_need_no_key() {
    let layer = layer([alice().max_in_flight(1)]);
    for path in ["/health", "/livez", "/readyz"] {
        for method in [Method::GET, Method::HEAD] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            assert!(send(&layer, request).await.is_ok(), "{path}");
        }
        assert!(
            send(&layer, Request::post(path).body(()).unwrap())
                .await
                .is_err()
        );
    }
    let mut preflight = request(&[
        ("origin", "http://app.test"),
        ("access-control-request-method", "POST"),
    ]);
    *preflight.method_mut() = Method::OPTIONS;
    assert!(send(&layer, preflight).await.is_ok());
    let mut options = request(&[("origin", "http://app.test")]);
    *options.method_mut() = Method::OPTIONS;
    assert!(send(&layer, options).await.is_err());
}

#[tokio::test]
async fn a_hosts_own_name_stands_for_a_key_and_has_its_limits() {
    let named = |name: &str| {
        let mut request = request(&[("authorization", "Bearer the-hosts-own")]);
        request.extensions_mut().insert(ClientName::new(name));
        request
    };
    // Clients without keys: whoever has no name has no limits.
    let guest = ClientConfig::new("guest@x")
        .requests_per_minute(1)
        .paths(["/chat/completions"]);
    let layer = self::layer([guest.clone()]);
    let seen = send(&layer, named("guest@x"))
        .await
        .map_err(|_| "refused")
        .unwrap();
    assert_eq!(seen.headers["authorization"], "Bearer the-hosts-own");
    assert_eq!(
        send(&layer, named("guest@x")).await.err().unwrap().status(),
        429
    );
    for _ in 0..3 {
        assert!(send(&layer, named("other")).await.is_ok());
        assert!(send(&layer, request(&[])).await.is_ok());
    }
    let mut elsewhere = named("guest@x");
    *elsewhere.uri_mut() = "/v1/files".parse().unwrap();
    assert_eq!(send(&layer, elsewhere).await.err().unwrap().status(), 403);

    // Beside keys, whatever their dates say.
    let expired = alice()
        .expires(SystemTime::UNIX_EPOCH)
        .requests_per_minute(1);
    let layer = self::layer([expired, guest]);
    assert!(send(&layer, named("alice")).await.is_ok());
    assert_eq!(
        send(&layer, named("alice")).await.err().unwrap().status(),
        429
    );
    assert!(send(&layer, named("other")).await.is_ok());
    assert_eq!(
        send(&layer, request(&[])).await.err().unwrap().status(),
        401
    );
}

#[tokio::test]
async fn inside_another_nothing_is_counted_twice() {
    let layer = layer([alice().requests_per_minute(1).max_in_flight(1)]);
    let service = layer.layer(layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    })));
    let request = request(&[("api-key", "sk-alice")]);
    let Ok(response) = service.oneshot(request).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn paths_are_compared_as_those_of_backends_are() {
    let layer = layer([alice().paths(["/chat/completions", "/files/*"])]);
    for (path, status) in [
        ("/v1/chat/completions", 200),
        ("/chat/completions", 200),
        ("/v1//chat/completion%73", 200),
        ("/v1/files/a/b", 200),
        ("/v1/files", 403),
        ("/v1/models", 403),
        ("/v1/chat/completions/", 403),
        ("/v1/files/../models", 400),
    ] {
        let mut request = request(&[("api-key", "sk-alice")]);
        *request.uri_mut() = path.parse().unwrap();
        let answer = send(&layer, request).await;
        let found = answer.as_ref().err().map_or(200, |it| it.status().as_u16());
        assert_eq!(found, status, "{path}");
        if let Err(answer) = answer.map_err(|answer| answer.into_body())
            && status == 403
        {
            let body = String::from_utf8_lossy(&answer).into_owned();
            assert!(body.contains(r#""code":"path_not_allowed""#), "{body}");
        }
    }
}

// Limits.

#[tokio::test(start_paused = true)]
async fn a_bucket_refills_evenly() {
    let layer = layer([alice().requests_per_minute(6)]);
    let ask = || send(&layer, request(&[("api-key", "sk-alice")]));
    for _ in 0..6 {
        assert!(ask().await.is_ok());
    }
    let answer = ask().await.err().expect("the bucket is empty");
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "10");
    assert_eq!(answer.headers()["retry-after-ms"], "10000");
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(body.contains(r#""code":"rate_limit_exceeded""#), "{body}");
    assert!(body.contains(r#""type":"rate_limit_error""#), "{body}");

    advance(Duration::from_micros(9_000_500)).await;
    let answer = ask().await.err().expect("not yet");
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["retry-after-ms"], "1000");
    advance(Duration::from_micros(999_500)).await;
    assert!(ask().await.is_ok());
    assert!(ask().await.is_err());

    // It has no more than six, however long nobody asks.
    advance(Duration::from_secs(3600)).await;
    for _ in 0..6 {
        assert!(ask().await.is_ok());
    }
    assert!(ask().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_takes_nothing_from_the_bucket() {
    let layer = layer([alice().requests_per_minute(2)]);
    let refusing = layer.layer(service_fn(async |_: Request<()>| {
        let error = Error::forbidden();
        let mut response = error.to_response::<Bytes>().map(Full::new);
        response.extensions_mut().insert(error);
        Ok::<_, Infallible>(response)
    }));
    for _ in 0..10 {
        let request = request(&[("api-key", "sk-alice")]);
        let Ok(response) = refusing.clone().oneshot(request).await;
        assert_eq!(response.status(), 403);
    }
    let ask = || send(&layer, request(&[("api-key", "sk-alice")]));
    assert!(ask().await.is_ok() && ask().await.is_ok());
    // Nor do those that come too soon.
    for _ in 0..10 {
        assert_eq!(ask().await.err().unwrap().headers()["retry-after"], "30");
    }
}

type Chunks = Channel<Bytes, Error>;

type Bodies = UnboundedReceiver<Sender<Bytes, Error>>;

/// A service that answers with bodies that the test sends.
fn streaming() -> (
    impl Service<Request<()>, Response = Response<Chunks>, Error = Infallible> + Clone,
    Bodies,
) {
    let (senders, bodies) = unbounded_channel();
    let service = service_fn(move |_| {
        let (sender, body) = Channel::new(8);
        senders.send(sender).unwrap();
        std::future::ready(Ok(Response::new(body)))
    });
    (service, bodies)
}

#[tokio::test]
async fn a_stream_counts_until_its_end() {
    let layer = layer([alice().max_in_flight(2)]);
    let (service, mut bodies) = streaming();
    let service = layer.layer(service);
    let ask = async || {
        let request = request(&[("api-key", "sk-alice")]);
        let Ok(response) = service.clone().oneshot(request).await;
        response
    };
    let first = ask().await.into_body();
    let second = ask().await.into_body();
    let refused = ask().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(!refused.headers().contains_key("retry-after-ms"));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(
        body.contains(r#""code":"concurrency_limit_exceeded""#),
        "{body}"
    );
    assert!(body.contains(r#""type":"rate_limit_error""#), "{body}");

    // One is dropped, the other read to its end.
    drop(second);
    let third = ask().await;
    assert_eq!(third.status(), 200);
    let mut sender = bodies.recv().await.unwrap();
    let mut first = std::pin::pin!(first);
    sender.send_data("a".into()).await.unwrap();
    assert!(first.frame().await.is_some());
    assert_eq!(ask().await.status(), 429);
    drop(sender);
    // Before the end is passed on, the next one may come.
    assert!(first.frame().await.is_none());
    assert_eq!(ask().await.status(), 200);
}

#[tokio::test]
async fn a_body_that_fails_and_one_without_bytes_are_no_longer_in_flight() {
    let layer = layer([alice().max_in_flight(1)]);
    let (service, mut bodies) = streaming();
    let service = layer.layer(service);
    let request = || request(&[("api-key", "sk-alice")]);
    let Ok(response) = service.clone().oneshot(request()).await;
    let mut body = std::pin::pin!(response.into_body());
    bodies.recv().await.unwrap().abort(Error::overloaded());
    assert!(body.frame().await.unwrap().is_err());

    let empty = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let Ok(kept) = empty.clone().oneshot(request()).await;
    let Ok(next) = empty.oneshot(request()).await;
    assert_eq!(
        (kept.status(), next.status()),
        (StatusCode::OK, StatusCode::OK)
    );
}

#[tokio::test]
async fn a_request_that_is_given_up_is_no_longer_in_flight() {
    let layer = layer([alice().max_in_flight(1)]);
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let request = || request(&[("api-key", "sk-alice")]);
    let waiting = tokio::spawn(service.clone().oneshot(request()));
    tokio::task::yield_now().await;
    let Ok(refused) = service.oneshot(request()).await;
    assert_eq!(refused.status(), 429);
    waiting.abort();
    let _ = waiting.await;
    assert!(send(&layer, request()).await.is_ok());
}

#[tokio::test]
async fn a_tunnel_counts_until_it_is_closed() {
    let layer = layer([alice().max_in_flight(1)]);
    let tunnel = Tunnel::default();
    let service = layer.layer(service_fn({
        let tunnel = tunnel.clone();
        move |_: Request<()>| {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.extensions_mut().insert(tunnel.clone());
            std::future::ready(Ok::<_, Infallible>(response))
        }
    }));
    let Ok(response) = service.oneshot(request(&[("api-key", "sk-alice")])).await;
    drop(response);
    let ask = || send(&layer, request(&[("api-key", "sk-alice")]));
    assert_eq!(ask().await.err().unwrap().status(), 429);
    tunnel.end(&Ended {
        cause: Cause::Closed,
        request_bytes: 0,
        response_bytes: 0,
        response_chunks: 0,
    });
    assert!(ask().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_clients_use_whose_names_stay() {
    let config = |clients: Vec<ClientConfig>| {
        let config = clients.into_iter().fold(builder(), ConfigBuilder::client);
        config.build().unwrap()
    };
    let limited = |rate, in_flight| alice().requests_per_minute(rate).max_in_flight(in_flight);
    let ask = |layer: &KeysLayer| {
        let layer = layer.clone();
        async move { send(&layer, request(&[("api-key", "sk-alice")])).await }
    };
    let old = KeysLayer::from_config(&config(vec![limited(10, 2)]));
    for _ in 0..7 {
        assert!(ask(&old).await.is_ok());
    }
    let (service, _bodies) = streaming();
    let service = old.layer(service);
    let Ok(stream) = service.oneshot(request(&[("api-key", "sk-alice")])).await;

    // Two are left of ten, whatever the new size is; and one is in flight.
    let new = KeysLayer::reloaded(&config(vec![limited(60, 1)]), Some(&old));
    assert_eq!(ask(&new).await.err().unwrap().headers()["retry-after"], "1");
    drop(stream);
    assert!(ask(&new).await.is_ok() && ask(&new).await.is_ok());
    let answer = ask(&new).await.err().expect("the bucket is empty");
    assert_eq!(answer.headers()["retry-after-ms"], "1000");

    // At most the new size.
    advance(Duration::from_secs(60)).await;
    let small = KeysLayer::reloaded(&config(vec![limited(3, 1)]), Some(&new));
    for _ in 0..3 {
        assert!(ask(&small).await.is_ok());
    }
    assert!(ask(&small).await.is_err());

    // The key may change with the name.
    let renewed = ClientConfig::new("alice")
        .hash(hash("sk-new"))
        .requests_per_minute(3);
    let renewed = KeysLayer::reloaded(&config(vec![renewed]), Some(&small));
    assert_eq!(ask(&renewed).await.err().unwrap().status(), 401);
    let new_key = request(&[("api-key", "sk-new")]);
    assert_eq!(send(&renewed, new_key).await.err().unwrap().status(), 429);

    // Another name, another bucket; no clients, no keys.
    let bob = ClientConfig::new("bob")
        .hash(hash("sk-alice"))
        .requests_per_minute(3);
    let other = KeysLayer::reloaded(&config(vec![bob]), Some(&renewed));
    assert!(ask(&other).await.is_ok());
    let none = KeysLayer::reloaded(&config(vec![]), Some(&other));
    assert!(send(&none, request(&[])).await.is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// In any period at most N + N × minutes are admitted, and as many as that are if asked for.
    #[test]
    fn a_bucket_admits_what_it_should_and_no_more(
        rate in 1_u32..5000,
        gaps in prop::collection::vec(0_u64..40_000_000, 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let usage = Arc::new(Usage::default());
            let limits = Limits { requests_per_minute: Some(rate), max_in_flight: None };
            let start = Instant::now();
            let mut admitted = 0_u64;
            for gap in gaps {
                advance(Duration::from_micros(gap)).await;
                let mut error = None;
                for _ in 0..=rate {
                    match usage.admit(limits) {
                        Ok(_) => admitted += 1,
                        Err(refused) => {
                            error = Some(refused);
                            break;
                        }
                    }
                }
                prop_assert!(error.is_some(), "the bucket has no end");
                let refilled = start.elapsed().as_micros() as u64 * u64::from(rate) / 60_000_000;
                prop_assert!(admitted <= u64::from(rate) + refilled);
                // It is full after a minute at the latest, so that what was over is lost.
                if gap <= 60_000_000 {
                    prop_assert!(admitted >= refilled.min(u64::from(rate)));
                }
            }
            Ok(())
        })?;
    }
}
