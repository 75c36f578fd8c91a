use std::convert::Infallible;

use http::Response;
use http_body_util::{BodyExt, Full};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Backend, BackendConfig, Config,
    endpoint::{Mount, PathMatch},
};

fn backend(own_key: bool) -> Backend {
    let mut backend = BackendConfig::new("a", "http://a.test:8443/base?k=1");
    if own_key {
        backend = backend.api_key("sk-own");
    }
    let config = Config::builder().backend(backend).build().unwrap();
    Backend::all(&config, &[])[0].clone()
}

/// What a client gets of a request.
async fn sent(request: Request<Full<Bytes>>) -> Result<Request<RequestBody>, Error> {
    let client = service_fn(|request| async { Ok::<_, Infallible>(Response::new(request)) });
    let service = UpstreamRequestLayer::new().layer(client);
    service.oneshot(request).await.map(Response::into_body)
}

fn fields(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_client_gets_a_request_that_is_ready_to_be_sent() {
    let PathMatch::Endpoint(matched) = Mount::default().classify("/v1/chat/completions") else {
        panic!("no endpoint");
    };
    let request = Request::post("/v1/chat/completions?a=b&k=2")
        .version(Version::HTTP_2)
        .header("host", "proxy.test")
        .header("x-one", "1")
        .header("connection", "x-hop, close")
        .header("x-hop", "1")
        .header("content-length", "100")
        .header("te", "gzip, trailers")
        .header("cookie", "a=b")
        .header("x-proxy-backend", "a")
        .header("cookie", "c=d")
        .header("authorization", "Bearer sk-client")
        .extension(backend(false))
        .extension(matched);
    let request = request.body(Full::from("{}")).unwrap();

    let (parts, body) = sent(request).await.unwrap().into_parts();

    assert_eq!(parts.method, "POST");
    assert_eq!(
        parts.uri,
        "http://a.test:8443/base/chat/completions?k=1&a=b"
    );
    assert_eq!(parts.version, Version::HTTP_11);
    let expected = [
        ("host", "a.test:8443"),
        ("x-one", "1"),
        ("content-length", "2"),
        ("te", "trailers"),
        ("cookie", "a=b; c=d"),
        ("authorization", "Bearer sk-client"),
    ];
    assert_eq!(fields(&parts.headers), expected);
    assert!(parts.extensions.get::<Backend>().is_some());
    assert!(parts.extensions.get::<Matched>().is_none());
    assert_eq!(body.collect().await.unwrap().to_bytes(), "{}");
}

#[tokio::test]
async fn the_backends_own_key_is_sent_in_place_of_the_clients() {
    let request = Request::get("/v1/chat/completions/1")
        .header("authorization", "Bearer sk-client")
        .header("x-api-key", "sk-client")
        .header("openai-project", "p")
        .extension(backend(true));
    let request = sent(request.body(Full::default()).unwrap()).await.unwrap();
    let expected = [("host", "a.test:8443"), ("authorization", "Bearer sk-own")];
    assert_eq!(fields(request.headers()), expected);
}

#[tokio::test]
async fn requests_that_cannot_be_forwarded_never_reach_the_client() {
    let unrouted = sent(Request::default()).await.unwrap_err();
    assert_eq!(unrouted.kind(), Kind::Unrouted);

    let request = Request::get("/v1/%2e%2e/x").extension(backend(false));
    let error = sent(request.body(Full::default()).unwrap()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::DotSegments);
}

#[tokio::test]
async fn a_client_gets_the_fields_that_the_operator_sets() {
    let backend = BackendConfig::new("a", "http://a.test/v1")
        .api_key("sk-own")
        .api_key_field("api-key")
        .header("X-One", "own");
    let config = Config::builder().backend(backend).build().unwrap();
    let request = Request::post("/v1/chat/completions")
        .header("x-one", "client")
        .header("x-two", "client")
        .header("authorization", "Bearer sk-client")
        .extension(Backend::all(&config, &[])[0].clone());

    let sent = sent(request.body(Full::from("{}")).unwrap()).await.unwrap();

    assert_eq!(
        fields(sent.headers()),
        [
            ("host", "a.test"),
            ("api-key", "sk-own"),
            ("x-one", "own"),
            ("x-two", "client"),
            ("content-length", "2"),
        ]
    );
    assert!(sent.headers()["api-key"].is_sensitive());
}
