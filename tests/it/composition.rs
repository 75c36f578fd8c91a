//! The layers with other middleware, as the recipes in the module docs have it.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::Request as AxumRequest,
    middleware::{self, Next},
    routing::get,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, Client},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn,
};
use tower_http::cors::CorsLayer;
use tower_openai_proxy::{
    AuthPassthrough, AuthPassthroughLayer, BackendRoute, BackendRouteLayer, Config, Error, Forward,
    MergeModels, MergeModelsLayer, ModelOverride, ModelOverrideLayer, OpenAiProxy,
    OpenAiProxyLayer, RequestBody, Timeout, TimeoutLayer,
    route::{Select, select_fn},
};

use crate::support::{
    self, Backend, Wire, config_for, config_of, config_with, entry, nobody, post, post_with,
    response, soon,
};

type OneBackend = tower_openai_proxy::Backend;

// What axum and tonic ask of layers and services.
const _: () = {
    const fn is_shared<T: Clone + Send + Sync + 'static>() {}
    const fn is_sent<T: Send + 'static>() {}

    is_shared::<OpenAiProxyLayer>();
    is_shared::<AuthPassthroughLayer>();
    is_shared::<MergeModelsLayer>();
    is_shared::<BackendRouteLayer>();
    is_shared::<ModelOverrideLayer>();
    is_shared::<TimeoutLayer>();

    is_shared::<OpenAiProxy<()>>();
    is_shared::<AuthPassthrough<()>>();
    is_shared::<MergeModels<()>>();
    is_shared::<BackendRoute<()>>();
    is_shared::<ModelOverride<()>>();
    is_shared::<Timeout<()>>();
    is_shared::<Forward>();

    is_shared::<OneBackend>();
    is_shared::<Config>();
    is_sent::<RequestBody>();
    is_sent::<Error>();
    is_sent::<tower_openai_proxy::forward::ResponseBody>();
    is_sent::<tower_openai_proxy::forward::ResponseFuture>();
    is_sent::<tower_openai_proxy::proxy::ResponseBody<Full<Bytes>>>();
    is_sent::<<OpenAiProxy<Stub> as Service<Request<Full<Bytes>>>>::Future>();
};

/// A custom service, for the assertion above.
type Stub = tower::util::BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

fn config(text: &str) -> Config {
    text.parse().expect("a configuration")
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends these bytes on a separate connection and waits for the answer.
async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> support::Message {
    let mut client = Wire::connect(address).await;
    client.send(request).await;
    client.response().await
}

/// A backend that answers everything with its name, as an answer in full.
async fn named(name: &str) -> SocketAddr {
    let backend = Backend::start().await;
    let address = backend.address;
    backend.answer_all(response("200 OK", name));
    address
}

#[tokio::test]
async fn the_model_override_alone_works_in_front_of_another_client() {
    let backend = Backend::start().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<RequestBody>();
    let service = ServiceBuilder::new()
        .layer(ModelOverrideLayer::with_default_model("gpt-4o"))
        .service(client);
    let request = |body: &'static str| {
        let url = format!("{}/chat/completions", backend.url());
        Request::post(url).body(Full::<Bytes>::from(body)).unwrap()
    };

    let answer = tokio::spawn(
        service
            .clone()
            .oneshot(request(r#"{ "model": "m", "n": 1.0 }"#)),
    );
    let mut wire = backend.accept().await;
    let seen = wire.request().await;
    assert_eq!(seen.content(), br#"{ "model": "gpt-4o", "n": 1.0 }"#);
    assert_eq!(seen.field("content-length").as_deref(), Some("31"));
    wire.send(response("201 Created", "its answer")).await;
    let answer = answer.await.unwrap().expect("a response");
    assert_eq!(answer.status(), 201);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "its answer"
    );

    // What the layer refuses never reaches the client, and has a separate answer.
    let error = service.clone().oneshot(request("[]")).await.unwrap_err();
    assert_eq!(error.status(), 400);
    assert_eq!(error.code(), "http_request_error");

    // The client's own error is kept.
    let url = format!("http://{}/", nobody().await);
    let refused = Request::post(url).body(Full::<Bytes>::from("{}")).unwrap();
    let error = service.oneshot(refused).await.unwrap_err();
    let source = error.source().expect("the client's");
    assert!(
        source
            .downcast_ref::<legacy::Error>()
            .expect("its type")
            .is_connect()
    );
}

#[tokio::test]
async fn a_limit_for_each_backend_holds_until_the_stream_ends_and_spills_over() {
    let first = Backend::start().await;
    let backends = [
        entry("first", first.address, ""),
        entry("second", named("second").await, ""),
    ];
    let config = config(&config_of(&backends, ""));
    let route = BackendRouteLayer::from_config(&config);
    let one = |backend: &OneBackend| (backend.name().to_owned(), Arc::new(Semaphore::new(1)));
    let limits: Arc<HashMap<_, _>> = Arc::new(route.backends().iter().map(one).collect());
    let forward = Forward::new();
    let limited = service_fn(move |request: Request<RequestBody>| {
        let backend = request.extensions().get::<OneBackend>();
        let limit = limits[backend.expect("chosen above").name()].clone();
        let forward = forward.clone();
        async move {
            let permit = limit.try_acquire_owned().map_err(|_| Error::overloaded())?;
            let response = forward.oneshot(request).await?;
            Ok::<_, Error>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _ = &permit;
                    frame
                })
            }))
        }
    });
    let proxy = OpenAiProxyLayer::builder(config).forward(limited).build();
    let cooling = proxy.handle().backends()[0].clone();
    let address = serve(Router::new().layer(proxy)).await;

    let mut client = Wire::connect(address).await;
    client.send(post("{}")).await;
    let mut wire = first.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegun")
        .await;
    client.until("begun").await;

    // The first streams, so the second is asked, and the first isn't taken for broken.
    let answer = ask(address, post("{}")).await;
    assert_eq!(answer.body, b"second");
    assert!(!cooling.is_cooling_down());
    // Nobody else may take the place of one that was named.
    let answer = ask(address, post_with("X-Proxy-Backend: first\r\n", "{}")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.error_code(), "destination_unavailable");

    // It has ended: the first again.
    wire.send("end").await;
    client.until("end").await;
    client.send(post("{}")).await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegun")
        .await;
    client.until("begun").await;

    // A client that disconnects gives its permit back, too.
    drop(client);
    wire.closed().await;
    let mut client = Wire::connect(address).await;
    client.send(post("{}")).await;
    first.accept().await.request().await;
}

#[tokio::test]
async fn a_rate_limit_for_each_backend_is_a_stack_for_each() {
    let backends = [
        entry("a", named("a").await, ""),
        entry("b", named("b").await, ""),
        entry("nobody", nobody().await, ""),
    ];
    let config = config(&config_of(&backends, r#""timeout":2"#));
    let route = BackendRouteLayer::from_config(&config);
    let stack = |backend: &OneBackend| {
        let stack = ServiceBuilder::new()
            .buffer(1)
            .rate_limit(2, Duration::from_secs(3600))
            .service(Forward::new());
        (backend.name().to_owned(), stack)
    };
    let stacks: Arc<HashMap<_, _>> = Arc::new(route.backends().iter().map(stack).collect());
    let forward = service_fn(move |request: Request<RequestBody>| {
        let backend = request.extensions().get::<OneBackend>();
        let stack = stacks[backend.expect("chosen above").name()].clone();
        stack.oneshot(request)
    });
    let proxy = OpenAiProxyLayer::builder(config).forward(forward).build();
    let address = serve(Router::new().layer(proxy)).await;
    let to = |name| post_with(&format!("X-Proxy-Backend: {name}\r\n"), "{}");

    for _ in 0..2 {
        assert_eq!(ask(address, to("a")).await.body, b"a");
    }
    let mut third = Wire::connect(address).await;
    third.send(to("a")).await;
    assert!(third.is_silent().await);
    assert_eq!(ask(address, to("b")).await.body, b"b");
    // An error comes through as it was.
    let answer = ask(address, to("nobody")).await;
    assert_eq!(answer.error_code(), "connection_refused");
    // The wait is on the backend's clock.
    let answer = third.response().await;
    assert_eq!(answer.error_code(), "http_response_timeout");
}

#[tokio::test]
async fn waiting_for_a_permit_between_route_and_timeouts_does_not_make_a_backend_idle() {
    let backend = Backend::start().await;
    let config = config(&config_with(&backend, r#""timeout":1"#));
    let stack = ServiceBuilder::new()
        .layer(BackendRouteLayer::from_config(&config))
        .concurrency_limit(1)
        .layer(ModelOverrideLayer::new())
        .layer(TimeoutLayer::new())
        .service(Forward::new());
    let request = || Request::post("/v1/chat/completions").body(Full::<Bytes>::from("{}"));

    let first = tokio::spawn(stack.clone().oneshot(request().unwrap()));
    let mut wire = backend.accept().await;
    wire.request().await;
    let mut second = tokio::spawn(stack.oneshot(request().unwrap()));
    // The first is out of time, which leaves the second all of its own.
    let error = first.await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "in time")).await;
    let answer = soon("the second", &mut second).await.unwrap();
    assert_eq!(answer.expect("a response").status(), 200);
}

/// Answers what load_shed refuses.
async fn overloaded(_: BoxError) -> Response<Body> {
    Error::overloaded().to_response()
}

#[tokio::test]
async fn a_limit_above_the_whole_answers_in_openais_form_until_a_head_has_come() {
    let backend = Backend::start().await;
    let limit = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let app = Router::new().route("/", get("own"));
    let app = app.layer(OpenAiProxyLayer::from_config(config(&config_for(&backend))));
    let address = serve(app.layer(limit)).await;
    let mut first = Wire::connect(address).await;
    first.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;

    let answer = ask(address, post("{}")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.error_code(), "destination_unavailable");
    assert_eq!(answer.field("retry-after"), None);
    // One limit for all routes, the app's own included.
    assert_eq!(
        ask(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .status(),
        503
    );

    // tower's limit counts a request until its response's head: the stream goes on, uncounted.
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegun")
        .await;
    first.until("begun").await;
    let mut second = Wire::connect(address).await;
    second.send(post("{}")).await;
    let mut other = backend.accept().await;
    other.request().await;
    other.send(response("200 OK", "let in")).await;
    assert_eq!(second.response().await.body, b"let in");
    wire.send("end").await;
    first.until("end").await;
}

#[tokio::test]
async fn in_axum_the_builders_limit_counts_each_route_by_itself() {
    let backend = Backend::start().await;
    let limit = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .load_shed()
        .concurrency_limit(1);
    let app = Router::new().route("/", get("own"));
    let app = app.layer(OpenAiProxyLayer::from_config(config(&config_for(&backend))));
    let address = serve(app.layer(limit)).await;
    let mut first = Wire::connect(address).await;
    first.send(post("{}")).await;
    let _wire = backend.accept().await;

    assert_eq!(ask(address, post("{}")).await.status(), 503);
    assert_eq!(
        ask(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_rate_limiter_above_the_whole_says_when_to_come_back() {
    let address = named("LLM1").await;
    let config = config(&config_of(&[entry("LLM1", address, "")], ""));
    let left = Arc::new(AtomicUsize::new(1));
    let limiter = move |request: AxumRequest, next: Next| {
        let is_let_in = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        async move {
            match is_let_in {
                Ok(_) => next.run(request).await,
                Err(_) => {
                    let error = Error::too_many_requests();
                    let error = error.with_retry_after(Duration::from_millis(1001));
                    error.to_response()
                }
            }
        }
    };
    let app = Router::new().layer(OpenAiProxyLayer::from_config(config));
    let address = serve(app.layer(middleware::from_fn(limiter))).await;

    assert_eq!(ask(address, post("{}")).await.body, b"LLM1");
    let answer = ask(address, post("{}")).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.error_code(), "http_request_denied");
    assert_eq!(answer.field("retry-after").as_deref(), Some("2"));
}

#[test]
fn retry_after_is_in_whole_seconds_rounded_up() {
    for (wait, expected) in [
        (Duration::ZERO, "0"),
        (Duration::from_nanos(1), "1"),
        (Duration::from_secs(60), "60"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        for error in [Error::overloaded(), Error::too_many_requests()] {
            let response = error.with_retry_after(wait).to_response::<Body>();
            assert_eq!(response.headers()["retry-after"], expected);
        }
    }
}

#[tokio::test]
async fn in_a_plain_stack_cors_stands_around_the_proxy() {
    let own = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("own")))
    });
    let service = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(OpenAiProxyLayer::from_config(Config::default()))
        .service(own);
    let request = Request::options("/v1/chat/completions")
        .header("origin", "http://page.test")
        .body(Full::default())
        .unwrap();

    let response = service.oneshot(request).await.unwrap();

    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test]
async fn a_mock_of_the_backends_makes_an_app_testable_without_sockets() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let stub = service_fn({
        let seen = seen.clone();
        move |request: Request<RequestBody>| {
            let seen = seen.clone();
            async move {
                let (parts, body) = request.into_parts();
                let backend = parts.extensions.get::<OneBackend>().expect("chosen above");
                let name = backend.name().to_owned();
                let body = body.collect().await?.to_bytes();
                seen.lock().unwrap().push((name, body));
                let answer = Response::builder().status(StatusCode::CREATED);
                let answer = answer.header("x-one", "1");
                Ok::<_, Error>(answer.body(Full::<Bytes>::from("an answer")).unwrap())
            }
        }
    });
    let config = config(
        r#"{"primary_backends":[{"name":"LLM1","url":"http://nobody.test","model":"mine"}]}"#,
    );
    let app = Router::new()
        .route("/", get("own"))
        .layer(OpenAiProxyLayer::builder(config).forward(stub).build());

    let request = Request::post("/v1/chat/completions").header("api-key", "k");
    let request = request.body(Body::from(r#"{"model":"theirs"}"#)).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["x-one"], "1");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "an answer"
    );
    let expected = ("LLM1".to_owned(), Bytes::from(r#"{"model":"mine"}"#));
    assert_eq!(*seen.lock().unwrap(), [expected]);

    let response = app
        .oneshot(Request::get("/").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "own"
    );
}

#[tokio::test]
async fn the_error_of_a_custom_client_tells_no_secrets() {
    let stub = service_fn(async |_: Request<RequestBody>| {
        Err::<Response<Full<Bytes>>, _>("sk-secret at 10.0.0.7".to_owned())
    });
    let app = Router::new().layer(
        OpenAiProxyLayer::builder(Config::default())
            .forward(stub)
            .build(),
    );
    let answer = ask(serve(app).await, post("{}")).await;

    assert_eq!(answer.status(), 500);
    assert_eq!(answer.error_code(), "proxy_internal_error");
    let text = String::from_utf8(answer.body).unwrap();
    assert!(
        !text.contains("secret") && !text.contains("10.0.0.7"),
        "{text}"
    );
}

/// An app whose three backends answer with their names, and whose selector is this.
async fn with_selector(selector: impl Select, settings: &str) -> SocketAddr {
    let backends = [
        entry("a", named("a").await, ""),
        entry("b", named("b").await, ""),
        entry("nobody", nobody().await, ""),
    ];
    let config = config(&config_of(&backends, settings));
    let proxy = OpenAiProxyLayer::builder(config)
        .prefixes(["/v1", "/team-b"])
        .selector(selector)
        .build();
    serve(Router::new().layer(proxy)).await
}

#[tokio::test]
async fn a_selector_chooses_by_a_header() {
    let by_team = select_fn(|request| {
        let backends = request.backends();
        match request.head().headers.get("x-team") {
            Some(team) if team == "b" => vec![backends[1].clone()],
            Some(team) if team == "none" => vec![],
            Some(_) => vec![backends[2].clone(), backends[1].clone()],
            None => vec![backends[0].clone()],
        }
    });
    let address = with_selector(by_team, "").await;
    for (fields, expected) in [
        ("", "a"),
        ("X-Team: b\r\n", "b"),
        ("X-Team: c\r\n", "b"), // failing over, within what the selector gave
        ("X-Team: b\r\nX-Proxy-Backend: a\r\n", "a"), // by name, whatever the selector
    ] {
        let answer = ask(address, post_with(fields, "{}")).await;
        assert_eq!(answer.body, expected.as_bytes(), "{fields}");
    }
    let answer = ask(address, post_with("X-Team: none\r\n", "{}")).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.error_code(), "destination_not_found");
}

#[tokio::test]
async fn a_selector_chooses_by_the_path() {
    let by_path = select_fn(|request| {
        let is_b = request.head().uri.path().starts_with("/team-b/");
        vec![request.backends()[usize::from(is_b)].clone()]
    });
    let address = with_selector(by_path, "").await;

    assert_eq!(ask(address, post("{}")).await.body, b"a");
    let to_b = post("{}").replace("/v1/", "/team-b/");
    assert_eq!(ask(address, to_b).await.body, b"b");
}

#[tokio::test]
async fn a_selector_chooses_by_weight() {
    let turn = AtomicUsize::new(0);
    let three_to_one = select_fn(move |request| {
        let is_fourth = turn.fetch_add(1, Ordering::Relaxed) % 4 == 3;
        let mut order = request.backends()[..2].to_vec();
        order.rotate_left(usize::from(is_fourth));
        order
    });
    let address = with_selector(three_to_one, "").await;

    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.extend(ask(address, post("{}")).await.body);
    }

    assert_eq!(answers, b"aaabaaab");
}

#[tokio::test]
async fn what_a_selector_gives_is_tried_in_turn_and_what_failed_comes_last() {
    let nobody_first = select_fn(|request| {
        let backends = request.backends();
        vec![backends[2].clone(), backends[0].clone()]
    });
    let address = with_selector(nobody_first, r#""cooldown":60"#).await;

    assert_eq!(ask(address, post("{}")).await.body, b"a");
    assert_eq!(ask(address, post("{}")).await.body, b"a");
}

#[tokio::test]
async fn the_endpoint_is_mounted_where_the_app_wants_it() {
    let address = named("LLM1").await;
    let config = config(&config_of(&[entry("LLM1", address, "")], ""));
    let proxy = OpenAiProxyLayer::builder(config)
        .prefixes(["/llm/v1", "internal/"])
        .build();
    let app = Router::new().fallback(async || (StatusCode::IM_A_TEAPOT, "own"));
    let address = serve(app.layer(proxy)).await;
    for (path, status) in [
        ("/llm/v1/chat/completions", 200),
        ("/llm/v1/chat/completions/x", 200),
        ("/internal/chat/completions", 200),
        ("/v1/chat/completions", 418),
        ("/chat/completions", 418),
        ("/llm/chat/completions", 418),
        ("/health", 418),
    ] {
        let answer = ask(address, post("{}").replace("/v1/chat/completions", path)).await;
        assert_eq!(answer.status(), status, "{path}");
    }
}

#[tokio::test]
async fn health_is_the_apps_own_unless_it_gives_a_path_for_it() {
    let config = config(&config_of(&[entry("LLM1", nobody().await, "")], ""));
    let app = || {
        Router::new()
            .route("/health", get("own"))
            .route("/up", get("own"))
    };
    let proxy = OpenAiProxyLayer::builder(config.clone())
        .health("/up")
        .build();
    let without = serve(app().layer(OpenAiProxyLayer::from_config(config))).await;
    let with = serve(app().layer(proxy)).await;
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_eq!(ask(without, get("/health")).await.body, b"own");
    assert_eq!(ask(without, get("/up")).await.body, b"own");
    assert_eq!(ask(with, get("/health")).await.body, b"own");
    let answer = ask(with, get("/up")).await;
    assert_eq!(answer.json()["status"], "ok");
    assert_eq!(answer.json()["backends"][0]["name"], "LLM1");
    // Another method is the app's.
    let post = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(with, post).await.status(), 405);
}
