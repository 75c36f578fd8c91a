use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{ServiceExt, service_fn};

use super::*;

/// What the service below the override gets: the target, and the body with its announced length.
async fn overridden(
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<(String, Bytes), Error> {
    let body = body.into();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.header("content-length", body.len());
    let below = service_fn(async |request: Request<RequestBody>| {
        let target = request.uri().to_string();
        let length = request.headers()["content-length"]
            .to_str()
            .unwrap()
            .to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(length, body.len().to_string(), "{body:?}");
        Ok::<_, Infallible>(Response::new((target, body)))
    });
    let layer = ModelOverrideLayer::with_default_model("a/new model");
    let request = request.body(Full::from(body)).unwrap();
    Ok(layer.layer(below).oneshot(request).await?.into_body())
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn json(method: Method, target: &str, body: &'static str) -> Result<Bytes, Error> {
    let (unchanged, body) = overridden(method, target, &[JSON], body).await?;
    assert_eq!(unchanged, target);
    Ok(body)
}

#[tokio::test]
async fn json_with_a_model_has_it_replaced_wherever_it_goes() {
    for (method, path) in [
        (Method::POST, "/v1/chat/completions"),
        (Method::PUT, "/v1/chat/completions"),
        (Method::POST, "/v1/responses"),
        (Method::POST, "/v1/fine_tuning/jobs"),
        (Method::PATCH, "/assistants/x"),
        (Method::POST, "/v1/chat/completions/x"),
    ] {
        let body = json(method, path, r#"{"a":{"model":"no"},"model": "m"}"#)
            .await
            .unwrap();
        assert_eq!(
            body, r#"{"a":{"model":"no"},"model": "a/new model"}"#,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_model_is_inserted_where_one_is_needed_and_nowhere_else() {
    for path in super::place::MODEL_PATHS {
        for (body, expected) in [
            ("{}", r#"{"model":"a/new model"}"#),
            (r#"{"n":1}"#, r#"{"model":"a/new model","n":1}"#),
            (r#"{"model":null}"#, r#"{"model":"a/new model"}"#),
        ] {
            let target = format!("/v1{path}");
            let replaced = json(Method::POST, &target, body).await.unwrap();
            assert_eq!(replaced, expected, "{path}");
        }
        for body in ["[]", "", "null", "{"] {
            let error = json(Method::POST, path, body).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{path}: {body}");
        }
    }
    for (method, path) in [
        (Method::POST, "/v1/chat/completions/x"),
        (Method::POST, "/v1/batches"),
        (Method::POST, "/v1/videos"),
        (Method::PUT, "/v1/responses"),
        (Method::POST, "/v1/responses/x/cancel"),
    ] {
        for body in ["{}", r#"{"model":7}"#, "[]", "", "null"] {
            let unchanged = json(method.clone(), path, body).await;
            let is_broken = body.is_empty();
            if !is_broken {
                assert_eq!(unchanged.unwrap(), body, "{method} {path}");
            }
        }
        let error = json(method.clone(), path, r#"{"model":"#)
            .await
            .unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_no_json_passes_unless_it_says_it_is() {
    for (fields, path, is_ok) in [
        (&[][..], "/v1/files", true),
        (&[("content-type", "text/plain")], "/v1/x", true),
        (
            &[("content-type", "application/problem+json")],
            "/v1/x",
            false,
        ),
        (
            &[("content-type", "Application/JSON; charset=utf-8")],
            "/v1/x",
            false,
        ),
        // There, it is JSON whatever it says.
        (
            &[("content-type", "text/plain")],
            "/v1/chat/completions",
            false,
        ),
    ] {
        let passed = overridden(Method::POST, path, fields, "no json").await;
        assert_eq!(passed.is_ok(), is_ok, "{fields:?} {path}");
    }
    let text = [("content-type", "text/plain")];
    let body = r#"{"model":"m"}"#;
    let (_, passed) = overridden(Method::POST, "/v1/x", &text, body)
        .await
        .unwrap();
    assert_eq!(passed, body);
}

#[tokio::test]
async fn encoded_bodies_are_refused_where_the_model_is_replaced() {
    let gzip = [JSON, ("content-encoding", "gzip")];
    let error = overridden(Method::POST, "/v1/x", &gzip, "{}")
        .await
        .unwrap_err();
    assert_eq!(error.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let text = [("content-type", "text/plain"), ("content-encoding", "gzip")];
    assert!(overridden(Method::POST, "/v1/x", &text, "{}").await.is_ok());
    let identity = [JSON, ("content-encoding", "Identity")];
    assert!(
        overridden(Method::POST, "/v1/x", &identity, "{}")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_query_of_a_websocket_has_its_model_replaced() {
    let upgrade = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
    ];
    for (target, expected) in [
        (
            "/v1/realtime?model=m&x=%20",
            "/v1/realtime?model=a%2Fnew%20model&x=%20",
        ),
        (
            "/v1/realtime?a&%6dodel=m&model=",
            "/v1/realtime?a&%6dodel=a%2Fnew%20model&model=a%2Fnew%20model",
        ),
        (
            "/realtime?deployment=d",
            "/realtime?deployment=a%2Fnew%20model",
        ),
        (
            "/realtime?model=m&deployment=d",
            "/realtime?model=a%2Fnew%20model&deployment=d",
        ),
        ("/realtime?intent=x", "/realtime?intent=x"),
        ("/realtime", "/realtime"),
    ] {
        let (target, _) = overridden(Method::GET, target, &upgrade, "").await.unwrap();
        assert_eq!(target, expected);
    }
    let (target, _) = overridden(Method::GET, "/v1/x?model=m", &[], "")
        .await
        .unwrap();
    assert_eq!(target, "/v1/x?model=m");
}

#[tokio::test]
async fn an_override_changes_no_path() {
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        let (target, _) = overridden(method, "/v1/models/m", &[], "").await.unwrap();
        assert_eq!(target, "/v1/models/m");
    }
}

/// The model of a request, for whoever decides by it.
async fn model(
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Option<String>, Error> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let body = RequestBody::from(body.into());
    let place = Place::of(&parts, &body);
    let scan = place.scan(&parts.headers, false)?;
    let body = body.buffer(scan).await?;
    place.model(&parts, &body)
}

#[tokio::test]
async fn the_model_is_found_in_each_of_its_places() {
    let upgrade = [("connection", "upgrade"), ("upgrade", "WebSocket")];
    for (method, target, fields, body, expected) in [
        (
            Method::GET,
            "/v1/models/a%2Fb/c%20d",
            &[][..],
            "",
            Some("a/b/c d"),
        ),
        (Method::DELETE, "/models/m", &[], "", Some("m")),
        (Method::GET, "/v1/models", &[], "", None),
        (Method::GET, "/v1/models/", &[], "", None),
        (Method::POST, "/v1/models/m", &[JSON], "{}", None),
        (
            Method::GET,
            "/v1/realtime?model=a+b%2B",
            &upgrade,
            "",
            Some("a b+"),
        ),
        (Method::GET, "/v1/realtime?model=m", &[], "", None),
        (
            Method::POST,
            "/v1/x",
            &[JSON],
            r#"{"model":"m"}"#,
            Some("m"),
        ),
        (
            Method::POST,
            "/v1/x",
            &[JSON],
            r#"{"Model":"m"}"#,
            Some("m"),
        ),
        (
            Method::POST,
            "/v1/x",
            &[JSON],
            r#"{"model":"m","model":"\u006d"}"#,
            Some("m"),
        ),
        (Method::POST, "/v1/x", &[JSON], r#"{"model":7}"#, None),
        (Method::POST, "/v1/x", &[], "no json", None),
        (Method::POST, "/v1/x", &[JSON], "[]", None),
        (Method::POST, "/v1/batches/b/cancel", &[], "", None),
        (Method::GET, "/v1/x", &[JSON], r#"{"model":"m"}"#, None),
    ] {
        let found = model(method.clone(), target, fields, body).await.unwrap();
        assert_eq!(found.as_deref(), expected, "{method} {target} {body}");
    }
}

#[tokio::test]
async fn two_different_models_are_an_error_where_one_decides() {
    for body in [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","MODEL":"b"}"#,
        r#"{"model":"a","model":7}"#,
        r#"{"model":null,"model":"a"}"#,
    ] {
        let error = model(Method::POST, "/v1/x", &[JSON], body)
            .await
            .unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.code()),
            (400, "http_request_error")
        );
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let two = model(Method::GET, "/realtime?model=a&model=b", &upgrade, "").await;
    assert_eq!(two.unwrap_err().status(), StatusCode::BAD_REQUEST);
    let broken = model(Method::POST, "/v1/x", &[JSON], "{").await;
    assert_eq!(broken.unwrap_err().status(), StatusCode::BAD_REQUEST);
    // With an override alone, all are replaced.
    let body = json(
        Method::POST,
        "/v1/responses",
        r#"{"model":"a","model":"b"}"#,
    )
    .await;
    assert_eq!(
        body.unwrap(),
        r#"{"model":"a/new model","model":"a/new model"}"#
    );
}
