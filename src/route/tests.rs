use std::{
    collections::VecDeque,
    future::{Ready, pending, ready},
    sync::Mutex,
    time::Duration,
};

use http_body_util::{BodyExt, Channel, Full};
use tokio::time::sleep;
use tower::ServiceExt;

use super::*;
use crate::{affinity::Source, client::ClientName, config::BackendConfig, header::X_PROXY_BACKEND};

/// What a backend does with a request.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answer(u16),
    Fail(Kind),
}

use Does::{Answer, Fail};

/// A backend's name, and the request that it got.
type Asked = (String, Request<RequestBody>);

/// A service that does what it is told, in this order, and keeps what it was asked.
#[derive(Clone)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Does>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Does>) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            asked: Arc::default(),
        }
    }

    /// Takes what it was asked: the backends' names.
    fn names(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|(name, _)| name).collect()
    }
}

impl Service<Request<RequestBody>> for Scripted {
    type Response = Response<String>;
    type Error = Error;
    type Future = Ready<Result<Response<String>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let name = request.extensions().get::<Backend>().unwrap().name();
        let name = name.to_owned();
        self.asked.lock().unwrap().push((name.clone(), request));
        let next = self.script.lock().unwrap().pop_front();
        ready(match next.expect("no further request") {
            Answer(status) => Ok(Response::builder().status(status).body(name).unwrap()),
            Fail(kind) => Err(Error::new(kind)),
        })
    }
}

/// A layer for backends of these names.
fn layer(names: &[&str], settings: &str) -> BackendRouteLayer {
    let entry = |name: &&str| format!(r#"{{"name":"{name}","url":"http://10.0.0.1/v1"}}"#);
    let entries: Vec<_> = names.iter().map(entry).collect();
    let text = format!(
        r#"{{"primary_backends":[{},{{"name":"placeholder","url":""}}],"settings":{{{settings}}}}}"#,
        entries.join(",")
    );
    BackendRouteLayer::from_config(&text.parse().unwrap())
}

fn request() -> Request<Full<Bytes>> {
    Request::new(Full::from("body"))
}

fn named(name: &str) -> Request<Full<Bytes>> {
    let mut request = request();
    let name = name.parse().unwrap();
    request.headers_mut().insert(X_PROXY_BACKEND, name);
    request
}

fn cooling(layer: &BackendRouteLayer) -> Vec<&str> {
    let backends = layer.backends().iter();
    let cooling = backends.filter(|backend| backend.is_cooling_down());
    cooling.map(Backend::name).collect()
}

/// Kinds of failures by which nothing of the request was sent.
const NOT_CONNECTED: [Kind; 4] = [
    Kind::Refused,
    Kind::Dns,
    Kind::TlsProtocol,
    Kind::ConnectTimeout,
];

#[tokio::test]
async fn the_order_is_that_of_the_configuration() {
    let service = Scripted::new([Fail(Kind::Refused), Fail(Kind::Dns), Answer(200)]);
    let layer = layer(&["a", "b", "c", "d"], "");
    let response = layer
        .layer(service.clone())
        .oneshot(request())
        .await
        .unwrap();
    assert_eq!(response.body().get_ref(), "c");
    assert_eq!(response.extensions().get::<Backend>().unwrap().name(), "c");
    assert_eq!(service.names(), ["a", "b", "c"]);
}

#[tokio::test]
async fn no_connection_moves_on_and_counts() {
    for kind in NOT_CONNECTED {
        let service = Scripted::new([Fail(kind), Answer(200)]);
        let layer = layer(&["a", "b"], "");
        let response = layer
            .layer(service.clone())
            .oneshot(request())
            .await
            .unwrap();
        assert_eq!(response.body().get_ref(), "b", "{kind:?}");
        assert_eq!(cooling(&layer), ["a"], "{kind:?}");
    }
}

#[tokio::test]
async fn a_failure_after_the_request_was_sent_counts_but_stays() {
    for kind in [Kind::ClosedBeforeHead, Kind::NotHttp, Kind::ResponseTimeout] {
        let service = Scripted::new([Fail(kind)]);
        let layer = layer(&["a", "b"], "");
        let error = layer
            .layer(service.clone())
            .oneshot(request())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Error::new(kind).code());
        assert_eq!(error.backend().unwrap().name(), "a");
        assert_eq!(cooling(&layer), ["a"], "{kind:?}");
    }
}

#[tokio::test]
async fn what_is_not_the_backends_fault_neither_counts_nor_moves_on() {
    for kind in [
        Kind::BodyTooLarge,
        Kind::BodyTruncated,
        Kind::BodyIdle,
        Kind::UnsupportedContentEncoding,
        Kind::NotAJsonObject,
        Kind::Internal,
    ] {
        let service = Scripted::new([Fail(kind)]);
        let layer = layer(&["a", "b"], "");
        assert!(layer.layer(service).oneshot(request()).await.is_err());
        assert!(cooling(&layer).is_empty(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_foreign_services_errors_are_no_reason_to_move_on() {
    let layer = layer(&["a", "b"], "");
    let service = tower::service_fn(|_| ready(Err::<Response<String>, _>(std::fmt::Error)));
    let error = layer.layer(service).oneshot(request()).await.unwrap_err();
    assert_eq!(error.status(), 500);
    assert!(cooling(&layer).is_empty());
}

#[tokio::test]
async fn statuses_move_on_where_they_are_told_to() {
    let service = Scripted::new([Answer(503), Answer(429), Answer(500), Answer(503)]);
    let layer = layer(&["a", "b", "c", "d"], r#""failover_on":[429,503]"#);
    let mut route = layer.layer(service.clone());
    let response = (&mut route).oneshot(request()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &**response.body().get_ref()),
        (500, "c")
    );
    assert_eq!(cooling(&layer), ["a", "b"]);

    // The next begins behind those that failed, and none is left after them.
    service
        .script
        .lock()
        .unwrap()
        .extend([Answer(503), Answer(503), Answer(503)]);
    service.names();
    let response = route.oneshot(request()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &**response.body().get_ref()),
        (503, "b")
    );
    assert_eq!(service.names(), ["c", "d", "a", "b"]);
}

#[tokio::test]
async fn the_last_failure_stands() {
    let service = Scripted::new([Answer(503), Fail(Kind::Refused)]);
    let layer = layer(&["a", "b"], r#""failover_on":[503]"#);
    let error = layer.layer(service).oneshot(request()).await.unwrap_err();
    assert_eq!(error.code(), "connection_refused");
    assert_eq!(error.backend().unwrap().name(), "b");
    assert_eq!(cooling(&layer), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_cools_down_for_so_long() {
    let ms = Duration::from_millis;
    let service = Scripted::new([
        Fail(Kind::ClosedBeforeHead),
        Answer(200),
        Fail(Kind::NotHttp),
        Answer(200),
        Answer(200),
    ]);
    let layer = layer(&["a", "b"], r#""cooldown":5"#);
    let mut route = layer.layer(service.clone());
    let mut ask = async || (&mut route).oneshot(request()).await.is_ok();

    assert!(!ask().await); // a
    assert_eq!(cooling(&layer), ["a"]);
    sleep(ms(3000)).await;
    assert!(ask().await && !ask().await); // b, b
    assert_eq!(cooling(&layer), ["a", "b"]);
    sleep(ms(1990)).await;
    assert_eq!(cooling(&layer), ["a", "b"]);
    sleep(ms(20)).await;
    assert_eq!(cooling(&layer), ["b"]);
    assert!(ask().await); // a
    sleep(ms(3000)).await;
    assert!(cooling(&layer).is_empty());
    assert!(ask().await); // a
    assert_eq!(service.names(), ["a", "b", "b", "a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn failures_during_a_cooldown_change_nothing() {
    let service = Scripted::new([Fail(Kind::NotHttp), Fail(Kind::NotHttp)]);
    let layer = layer(&["a"], r#""cooldown":5"#);
    let mut route = layer.layer(service);
    for _ in 0..2 {
        assert!((&mut route).oneshot(request()).await.is_err());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cooling(&layer), ["a"]);
    }
    sleep(Duration::from_millis(1010)).await;
    assert!(cooling(&layer).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_finds_out_whether_a_backend_is_well_again() {
    let layer = layer(&["a", "b"], r#""cooldown":5"#);
    layer.backends()[0].record_failure(None);
    sleep(Duration::from_secs(6)).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let silent = tower::service_fn(move |request: Request<RequestBody>| {
        let name = request.extensions().get::<Backend>().unwrap().name();
        log.lock().unwrap().push(name.to_owned());
        pending::<Result<Response<String>, Error>>()
    });
    let route = layer.layer(silent);
    let ask = || tokio::spawn(route.clone().oneshot(request()));
    let probe = ask();
    tokio::task::yield_now().await;
    let _other = ask();
    tokio::task::yield_now().await;
    assert!(cooling(&layer).is_empty(), "as its time is over");
    // A client that leaves gives the place back.
    probe.abort();
    let _ = probe.await;
    let _next = ask();
    tokio::task::yield_now().await;
    let _last = ask();
    tokio::task::yield_now().await;
    assert_eq!(*asked.lock().unwrap(), ["a", "b", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn without_cooldown_there_is_none() {
    let service = Scripted::new([Fail(Kind::NotHttp), Answer(200)]);
    let layer = layer(&["a", "b"], r#""cooldown":0"#);
    let mut route = layer.layer(service.clone());
    assert!((&mut route).oneshot(request()).await.is_err());
    assert!(cooling(&layer).is_empty());
    assert!(route.oneshot(request()).await.is_ok());
    assert_eq!(service.names(), ["a", "a"]);
}

#[tokio::test]
async fn what_one_stack_learns_all_know() {
    let layer = layer(&["a", "b"], "");
    let failing = Scripted::new([Fail(Kind::NotHttp)]);
    assert!(
        layer
            .clone()
            .layer(failing)
            .oneshot(request())
            .await
            .is_err()
    );
    let service = Scripted::new([Answer(200)]);
    let response = layer.layer(service).oneshot(request()).await.unwrap();
    assert_eq!(response.body().get_ref(), "b");
}

#[tokio::test]
async fn a_client_that_leaves_is_no_failure() {
    let layer = layer(&["a", "b"], "");
    let silent = tower::service_fn(|_| pending::<Result<Response<String>, Error>>());
    let exchange = layer.layer(silent).oneshot(request());
    let waited = tokio::time::timeout(Duration::from_millis(1), exchange).await;
    assert!(waited.is_err());
    assert!(cooling(&layer).is_empty());
}

// What the next backend gets.

#[tokio::test]
async fn each_attempt_gets_the_same_request() {
    let service = Scripted::new([Fail(Kind::Refused), Answer(503), Answer(200)]);
    let layer = layer(&["a", "b", "c"], r#""failover_on":[503]"#);
    let mut request = Request::post("/v1/chat/completions?x=1")
        .header("x-one", "1")
        .body(Full::from("body"))
        .unwrap();
    request.extensions_mut().insert("an extension");
    layer.layer(service.clone()).oneshot(request).await.unwrap();

    let asked = std::mem::take(&mut *service.asked.lock().unwrap());
    let mut memory = Vec::new();
    for (name, request) in asked {
        assert_eq!(request.uri(), "/v1/chat/completions?x=1", "{name}");
        assert_eq!(request.method(), "POST", "{name}");
        assert_eq!(request.headers()["x-one"], "1", "{name}");
        assert_eq!(request.extensions().get::<&str>(), Some(&"an extension"));
        assert_eq!(request.body().size_hint().exact(), Some(4));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "body", "{name}");
        memory.push(body.as_ptr());
    }
    assert_eq!(memory.len(), 3);
    assert!(memory.iter().all(|&pointer| pointer == memory[0]), "copied");
}

#[tokio::test]
async fn a_single_backend_gets_the_body_as_it_comes() {
    for (names, header) in [(&["a"][..], None), (&["a", "b"], Some("b"))] {
        let service = Scripted::new([Answer(200)]);
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let mut request = Request::new(body);
        if let Some(name) = header {
            let name = name.parse().unwrap();
            request.headers_mut().insert(X_PROXY_BACKEND, name);
        }
        // Answered before any of the body was there.
        let route = layer(names, "").layer(service.clone());
        route.oneshot(request).await.unwrap();
        sender.send_data("piece".into()).await.unwrap();
        let mut asked = service.asked.lock().unwrap().pop().unwrap().1;
        let frame = asked.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "piece");
    }
}

#[tokio::test(start_paused = true)]
async fn several_backends_wait_for_the_whole_body() {
    let service = Scripted::new([Answer(200)]);
    let (mut sender, body) = Channel::<Bytes>::new(8);
    let exchange = layer(&["a", "b"], "").layer(service.clone());
    let exchange = tokio::spawn(exchange.oneshot(Request::new(body)));
    for piece in ["one ", "two"] {
        sender.send_data(piece.into()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(service.asked.lock().unwrap().is_empty());
    }
    drop(sender);
    exchange.await.unwrap().unwrap();
    let asked = service.asked.lock().unwrap().pop().unwrap().1;
    let body = asked.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "one two");
}

#[tokio::test]
async fn a_body_that_breaks_off_reaches_no_backend() {
    let service = Scripted::new([]);
    let (mut sender, body) = Channel::<Bytes, Error>::new(8);
    sender.send_data("half".into()).await.unwrap();
    sender.abort(Error::not_found());
    let layer = layer(&["a", "b"], "");
    let route = layer.layer(service.clone());
    let error = route.oneshot(Request::new(body)).await.unwrap_err();
    assert_eq!(error.status(), 400);
    assert!(cooling(&layer).is_empty());
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_reaches_no_backend() {
    for names in [&["a"][..], &["a", "b"]] {
        let service = Scripted::new([]);
        let request = Request::new(RequestBody::new(Full::from("body")).with_max_bytes(3));
        let route = layer(names, "").layer(service);
        assert_eq!(route.oneshot(request).await.unwrap_err().status(), 413);
    }
}

#[tokio::test]
async fn each_attempt_waits_for_its_service() {
    let service = Scripted::new([Fail(Kind::Refused), Answer(200)]);
    let layer = layer(&["a", "b"], "");
    // Room for one at a time: a second attempt needs what the first gave back.
    let limited = tower::ServiceBuilder::new()
        .layer(layer)
        .concurrency_limit(1)
        .service(service);
    let response = limited.oneshot(request()).await.unwrap();
    assert_eq!(response.body().get_ref(), "b");
}

#[tokio::test]
async fn an_error_of_a_service_that_is_never_ready_passes() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<RequestBody>> for NeverReady {
        type Response = Response<String>;
        type Error = Error;
        type Future = Ready<Result<Response<String>, Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Err(Error::new(Kind::Dns)))
        }
        fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
            unreachable!("it was never ready")
        }
    }
    let route = layer(&["a", "b"], "").layer(NeverReady);
    let error = route.oneshot(request()).await.unwrap_err();
    assert_eq!(error.code(), "dns_error");
    assert_eq!(error.backend().unwrap().name(), "b");
}

// Who is asked.

#[tokio::test]
async fn a_name_picks_one_backend_and_no_other() {
    for does in [Answer(200), Answer(503), Fail(Kind::Refused)] {
        let service = Scripted::new([does, does]);
        let layer = layer(&["a", "b", "c"], r#""failover_on":[503]"#);
        let mut route = layer.layer(service.clone());
        // Cooling down or not.
        for _ in 0..2 {
            let _ = (&mut route).oneshot(named("b")).await;
        }
        assert_eq!(service.names(), ["b", "b"], "{does:?}");
        let failed = !matches!(does, Answer(200));
        assert_eq!(cooling(&layer).is_empty(), !failed, "{does:?}");
    }
}

#[tokio::test]
async fn only_the_exact_name_of_a_usable_backend_is_known() {
    let layer = layer(&["a", "Ü"], "");
    for name in ["A", "aa", "", "c", "placeholder", "a,a"] {
        let route = layer.layer(Scripted::new([]));
        let error = route.oneshot(named(name)).await.unwrap_err();
        let answer = (error.status().as_u16(), error.code());
        assert_eq!(answer, (404, "destination_not_found"), "{name}");
    }
    let service = Scripted::new([Answer(200)]);
    let mut request = request();
    let name = http::HeaderValue::from_bytes("Ü".as_bytes()).unwrap();
    request.headers_mut().insert(X_PROXY_BACKEND, name);
    let response = layer.layer(service).oneshot(request).await.unwrap();
    assert_eq!(response.body().get_ref(), "Ü");
}

#[tokio::test]
async fn a_selector_decides_who_is_tried() {
    let last_two_backwards =
        select_fn(|request| request.backends().iter().rev().take(2).cloned().collect());
    let layer = layer(&["a", "b", "c"], "").with_selector(last_two_backwards);
    let service = Scripted::new([Fail(Kind::Refused), Answer(200), Answer(200), Answer(200)]);
    let mut route = layer.layer(service.clone());
    for _ in 0..2 {
        (&mut route).oneshot(request()).await.unwrap();
    }
    // A name still selects any.
    route.oneshot(named("a")).await.unwrap();
    assert_eq!(service.names(), ["c", "b", "b", "a"]);

    let nobody = layer.with_selector(select_fn(|_| Vec::new()));
    let error = nobody
        .layer(Scripted::new([]))
        .oneshot(request())
        .await
        .unwrap_err();
    assert_eq!(error.status(), 404);
}

#[tokio::test]
async fn a_selector_sees_the_model_and_the_path() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let selector = select_fn(move |request| {
        let model = request.model().map(str::to_owned);
        log.lock().unwrap().push((request.path().to_owned(), model));
        request.backends().to_vec()
    });
    let shared: Arc<dyn Select> = Arc::new(selector);
    for (path, body, model) in [
        (
            "/v1/responses",
            r#"{"n":1,"model":"gpt-\u0034o"}"#,
            Some("gpt-4o"),
        ),
        ("/responses", r#"{"input":{"model":"no"}}"#, None),
        ("/v1/models", "", None),
        ("/v1/x", "no JSON", None),
    ] {
        let route = layer(&["a"], "").with_selector(shared.clone());
        let service = Scripted::new([Answer(200)]);
        let request = Request::post(path).body(Full::<Bytes>::from(body)).unwrap();
        route.layer(service.clone()).oneshot(request).await.unwrap();
        let (path, seen) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(path, path.trim_start_matches("/v1"));
        assert_eq!(seen.as_deref(), model, "{body}");
        let (_, request) = service.asked.lock().unwrap().pop().unwrap();
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent, body, "as it came");
    }
}

#[tokio::test]
async fn the_limits_of_the_configuration_hold_without_the_whole() {
    let layer = layer(&["a", "b"], r#""max_body_bytes":3,"idle_timeout":5"#);
    let error = layer.layer(Scripted::new([])).oneshot(request()).await;
    assert_eq!(error.unwrap_err().status(), 413);

    let dots = Request::post("/v1/../x").body(Full::<Bytes>::default());
    let error = layer.layer(Scripted::new([])).oneshot(dots.unwrap()).await;
    assert_eq!(error.unwrap_err().status(), 400);
}

#[tokio::test]
async fn the_attempts_are_kept_for_an_observer() {
    let service = Scripted::new([Fail(Kind::Refused), Fail(Kind::NotHttp)]);
    let exchange = crate::exchange::Handle::observed(Default::default(), None);
    let request = request().map(|body| RequestBody::new(body).in_exchange(exchange.clone()));
    let route = layer(&["a", "b"], "").layer(service);
    assert!(route.oneshot(request).await.is_err());
    let observed = exchange.lock().unwrap();
    let attempts = observed.attempts.as_slice().iter();
    let attempts: Vec<_> = attempts
        .map(|it| format!("{} {}", it.backend().name(), it.result()))
        .collect();
    assert_eq!(attempts, ["a connection_refused", "b client_left"]);
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_a_backend() {
    let old = layer(&["a", "b"], r#""cooldown":60"#);
    old.backends()[1].record_failure(None);
    let text = r#"{"primary_backends":[{"name":"b","url":"http://10.0.0.1/v1"},
        {"name":"a","url":"http://10.0.0.2/v1"}],"settings":{"cooldown":60}}"#;
    let new = BackendRouteLayer::reloaded(&text.parse().unwrap(), Some(&old));
    assert_eq!(cooling(&new), ["b"]);
    old.backends()[0].record_failure(None);
    assert_eq!(cooling(&new), ["b"], "another URL is another backend");
}

#[tokio::test]
async fn a_reload_keeps_failures_that_are_too_few_for_a_cooldown() {
    let old = layer(&["a", "b"], r#""cooldown":60,"failures":2"#);
    old.backends()[1].record_failure(None);
    let text = r#"{"primary_backends":[{"name":"b","url":"http://10.0.0.1/v1"},
        {"name":"a","url":"http://10.0.0.1/v1"}],"settings":{"cooldown":60,"failures":2}}"#;
    let new = BackendRouteLayer::reloaded(&text.parse().unwrap(), Some(&old));
    assert_eq!(cooling(&new), [""; 0]);
    for backend in new.backends() {
        backend.record_failure(None);
    }
    assert_eq!(cooling(&new), ["b"]);
}

#[test]
fn a_clients_name_comes_before_its_key_as_the_value_of_an_affinity() {
    let value = |name: Option<&str>, key: &str| {
        let mut request = Request::post("/").header("authorization", key);
        if let Some(name) = name {
            request = request.extension(ClientName::new(name));
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let value = value::hash(&[Source::Key], &parts, &RequestBody::empty());
        value.unwrap().to_bits()
    };
    let alice = value(Some("alice"), "Bearer sk-1");
    assert_eq!(alice, value(Some("alice"), "Bearer sk-2"));
    assert_ne!(alice, value(Some("bob"), "Bearer sk-1"));
    assert_ne!(alice, value(None, "Bearer sk-1"));
    assert_eq!(value(None, "Bearer sk-1"), value(None, "sk-1"));
}

#[tokio::test]
async fn a_backend_serves_only_its_paths() {
    let text = r#"{"primary_backends":[
        {"name":"chat","url":"http://10.0.0.1","paths":["/chat/completions"]},
        {"name":"rest","url":"http://10.0.0.2","paths":["/chat/completions/*","/files*"]}]}"#;
    let layer = BackendRouteLayer::from_config(&text.parse().unwrap());
    for (path, name, expected) in [
        ("/v1/chat/completions", "", Some("chat")),
        ("/chat/completions", "", Some("chat")),
        ("/chat/completions/x", "", Some("rest")),
        ("/files", "", Some("rest")),
        ("/responses", "", None),
        ("/files", "chat", None),
        ("/files", "rest", Some("rest")),
    ] {
        let service = Scripted::new([Answer(200)]);
        let mut request = Request::get(path);
        if !name.is_empty() {
            request = request.header(X_PROXY_BACKEND, name);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = layer.layer(service.clone()).oneshot(request).await;
        match expected {
            Some(expected) => assert_eq!(answer.unwrap().body().get_ref(), expected, "{path}"),
            None => {
                assert_eq!(
                    answer.unwrap_err().code(),
                    "destination_not_found",
                    "{path}"
                );
                assert!(service.names().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_operators_key_opens_no_stored_objects_unless_the_paths_name_them() {
    let backends = |paths: &str| {
        let own = BackendConfig::new("own", "http://10.0.0.1").api_key("sk-operator");
        let own = match paths {
            "" => own,
            paths => own.paths(paths.split(' ')),
        };
        let config = Config::builder().backend(own).build().unwrap();
        BackendRouteLayer::from_config(&config)
    };
    for (paths, method, path, is_served) in [
        ("", "POST", "/v1/chat/completions", true),
        ("", "GET", "/v1/chat/completions", false),
        ("", "GET", "/v1/chat/completions/x", false),
        ("", "DELETE", "/v1/chat/completions/x", false),
        ("", "POST", "/v1/files", false),
        ("", "GET", "/v1/models", true),
        ("*", "DELETE", "/v1/chat/completions/x", true),
        ("*", "GET", "/v1/organization/users", false),
        ("*", "GET", "/v1/projects", false),
        ("* /organization/*", "GET", "/v1/organization/users", true),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let service = Scripted::new([Answer(200)]);
        let answer = backends(paths).layer(service).oneshot(request).await;
        assert_eq!(answer.is_ok(), is_served, "{paths:?}: {method} {path}");
    }
}

#[tokio::test]
async fn a_preflight_goes_where_its_request_would_and_takes_the_first_answer() {
    let text = r#"{"primary_backends":[
        {"name":"a","url":"http://10.0.0.1"},{"name":"b","url":"http://10.0.0.2"}],
        "settings":{"failover_on":[405]}}"#;
    let layer = BackendRouteLayer::from_config(&text.parse().unwrap());
    let preflight = || {
        Request::builder()
            .method("OPTIONS")
            .uri("/v1/chat/completions")
            .header("origin", "https://app.test")
            .header("access-control-request-method", "POST")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let service = Scripted::new([Answer(405)]);
    let response = layer.layer(service.clone()).oneshot(preflight()).await;
    assert_eq!(response.unwrap().status(), 405);
    assert_eq!(service.names(), ["a"]);

    let service = Scripted::new([Fail(Kind::Refused), Answer(200)]);
    let response = layer.layer(service.clone()).oneshot(preflight()).await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(service.names(), ["a", "b"]);

    // With the operator's key: asked for the method that it announces.
    let own = BackendConfig::new("own", "http://10.0.0.1").api_key("sk-operator");
    let config = Config::builder().backend(own).build().unwrap();
    let layer = BackendRouteLayer::from_config(&config);
    let service = Scripted::new([Answer(204)]);
    assert!(layer.layer(service).oneshot(preflight()).await.is_ok());
    let mut delete = preflight();
    let announced = "DELETE".parse().unwrap();
    delete
        .headers_mut()
        .insert("access-control-request-method", announced);
    assert!(
        layer
            .layer(Scripted::new([]))
            .oneshot(delete)
            .await
            .is_err()
    );
    let mut plain = preflight();
    plain.headers_mut().remove("origin");
    assert!(layer.layer(Scripted::new([])).oneshot(plain).await.is_err());
}

/// An upload of unknown length, and where it is sent from.
fn upload(
    kind: &str,
) -> (
    http_body_util::channel::Sender<Bytes, Error>,
    Request<RequestBody>,
) {
    let (sender, body) = Channel::new(1);
    let request = Request::post("/v1/files").header("content-type", kind);
    (sender, request.body(RequestBody::new(body)).unwrap())
}

#[tokio::test]
async fn an_upload_is_streamed_to_the_first_backend_that_can_be_connected_to() {
    let service = tower::service_fn(async |request: Request<RequestBody>| {
        let name = request
            .extensions()
            .get::<Backend>()
            .unwrap()
            .name()
            .to_owned();
        match &*name {
            "a" => Err(Error::new(Kind::Refused)),
            name => {
                let mut body = request.into_body();
                let first = body.frame().await.unwrap()?.into_data().unwrap();
                Ok(Response::new(format!("{name} {first:?}")))
            }
        }
    });
    // The client never ends it.
    let (mut sender, request) = upload("audio/mpeg");
    let sending = tokio::spawn(async move {
        sender.send_data("begin".into()).await.unwrap();
        pending::<()>().await;
    });
    let route = layer(&["a", "b", "c"], "").layer(service);
    let response = route.oneshot(request).await.unwrap();
    assert_eq!(response.body().get_ref(), "b b\"begin\"");
    sending.abort();
}

#[tokio::test]
async fn an_upload_that_was_begun_moves_on_no_more() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        *count.lock().unwrap() += 1;
        async {
            request.into_body().frame().await.unwrap()?;
            Ok::<_, Error>(Response::builder().status(503).body(String::new()).unwrap())
        }
    });
    let (mut sender, request) = upload("multipart/form-data; boundary=x");
    sender.send_data("begin".into()).await.unwrap();
    let route = layer(&["a", "b"], r#""failover_on":[503]"#).layer(service);
    assert_eq!(route.oneshot(request).await.unwrap().status(), 503);
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test]
async fn uploads_and_other_bodies_have_limits_of_their_own() {
    let settings = r#""max_body_bytes":3,"max_upload_bytes":5"#;
    for (names, kind, length, is_ok) in [
        (&["a"][..], "audio/mpeg", 5, true),
        (&["a"], "audio/mpeg", 6, false),
        (&["a", "b"], "audio/mpeg", 5, true),
        (&["a"], "application/json", 3, true),
        (&["a"], "application/json", 4, false),
        (&["a", "b"], "application/json", 4, false),
        (&["a"], "", 4, false),
    ] {
        let mut request = Request::post("/v1/files");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::from(vec![b' '; length])).unwrap();
        let answer = layer(names, settings)
            .layer(Scripted::new([Answer(200)]))
            .oneshot(request)
            .await;
        match answer {
            Ok(_) => assert!(is_ok, "{kind} {length}"),
            Err(error) => assert!(!is_ok && error.status() == 413, "{kind} {length}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_name_selects_nothing_where_the_field_is_off() {
    let layer = layer(&["a", "b"], r#""backend_header":false"#);
    let service = Scripted::new([Answer(200)]);
    let response = layer
        .layer(service.clone())
        .oneshot(named("b"))
        .await
        .unwrap();
    assert_eq!(response.body().get_ref(), "a");
    let (_, request) = service.asked.lock().unwrap().pop().unwrap();
    assert_eq!(request.headers()[X_PROXY_BACKEND], "b");
}
