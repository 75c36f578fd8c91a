use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    backend::Backend, body::RequestBody, error::Error, model::ModelOverrideLayer,
    route::BackendRouteLayer,
};

/// Which backend a request reached, its target, and its body.
type Reached = (String, String, Bytes);

const JSON: (&str, &str) = ("content-type", "application/json");
const WEBSOCKET: [(&str, &str); 2] = [("connection", "upgrade"), ("upgrade", "websocket")];

/// Sends a request to backends with these entries: a name, and further fields.
async fn ask(
    entries: &[(&str, &str)],
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Reached, Error> {
    let entry = |(name, fields): &(&str, &str)| {
        format!(r#"{{"name":"{name}","url":"http://10.0.0.1/v1"{fields}}}"#)
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let text = format!(r#"{{"primary_backends":[{}]}}"#, entries.join(","));
    let layer = BackendRouteLayer::from_config(&text.parse().unwrap());
    let service = service_fn(async |request: Request<RequestBody>| {
        let backend = request.extensions().get::<Backend>().unwrap().clone();
        let target = request.uri().to_string();
        let length = request.headers().get("content-length").cloned();
        let body = request.into_body().collect().await?.to_bytes();
        if let Some(length) = length {
            assert_eq!(length.to_str().unwrap(), body.len().to_string());
        }
        let reached: Reached = (backend.name().to_owned(), target, body);
        let mut response = Response::new(String::new());
        response.extensions_mut().insert(reached);
        Ok::<_, Error>(response)
    });
    let body = body.into();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header("content-length", body.len());
    }
    let request = request.body(Full::from(body)).unwrap();
    let stack = layer.layer(ModelOverrideLayer::new().layer(service));
    let mut response = stack.oneshot(request).await?;
    Ok(response.extensions_mut().remove().unwrap())
}

/// The same for chat completions with a model: the backend, and the model that it got.
async fn chat(entries: &[(&str, &str)], model: &str) -> Result<(String, String), Error> {
    let body = format!(r#"{{ "stream":true, "model": "{model}" }}"#);
    let reached = ask(entries, Method::POST, "/v1/chat/completions", &[JSON], body);
    let (name, _, body) = reached.await?;
    let body = String::from_utf8(body.into()).unwrap();
    let model = body.strip_prefix(r#"{ "stream":true, "model": ""#).unwrap();
    Ok((name, model.strip_suffix(r#"" }"#).unwrap().to_owned()))
}

const MIXED: [(&str, &str); 5] = [
    ("rest", ""),
    ("gpt", r#","models":["gpt-*","o*"]"#),
    (
        "mini",
        r#","models":["gpt-*-mini","o*"],"model":"overridden""#,
    ),
    (
        "alias",
        r#","models":{"fast":"gpt-4o-mini","openai/*":"*","same":""},"model":"overridden""#,
    ),
    ("exact", r#","models":["gpt-4o"]"#),
];

#[tokio::test]
async fn the_most_specific_match_decides() {
    for (model, name, sent) in [
        ("gpt-4o", "exact", "gpt-4o"),
        ("gpt-4.1", "gpt", "gpt-4.1"),
        ("gpt-", "gpt", "gpt-"),
        ("gpt-4o-mini", "mini", "overridden"),
        ("GPT-4o", "rest", "GPT-4o"),
        ("o3", "gpt", "o3"), // Of several the first.
        ("fast", "alias", "gpt-4o-mini"),
        ("openai/gpt-4o", "alias", "gpt-4o"),
        ("same", "alias", "overridden"),
        ("llama", "rest", "llama"),
        ("", "rest", ""),
        ("\\ud83d", "rest", "\\ud83d"),
    ] {
        let reached = chat(&MIXED, model).await.unwrap();
        assert_eq!(reached, (name.to_owned(), sent.to_owned()), "{model}");
    }
}

#[tokio::test]
async fn a_model_that_nobody_serves_is_not_found() {
    for entries in [&MIXED[1..], &MIXED[1..2]] {
        let error = chat(entries, "llama").await.unwrap_err();
        assert_eq!(error.status(), 404);
        assert_eq!(error.code(), "model_not_found");
        assert_eq!(error.proxy_status(), "destination_not_found");
        let body = error.to_response::<Bytes>().into_body();
        assert_eq!(
            body,
            r#"{"error":{"message":"The model `llama` does not exist or you do not have access to it.","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
    }
    let path = ask(&MIXED[1..], Method::GET, "/v1/models/llama", &[], "").await;
    assert_eq!(path.unwrap_err().code(), "model_not_found");
    let long = chat(&MIXED[1..], &"x".repeat(1000)).await.unwrap_err();
    assert!(long.to_string().len() < 300);
}

#[tokio::test]
async fn without_a_model_all_that_serve_the_path_are_candidates() {
    let entries = [
        ("files", r#","models":["a"],"paths":["/files"]"#),
        ("other", r#","models":["b"]"#),
    ];
    for (method, path, fields, body, name) in [
        (Method::GET, "/v1/files", &[][..], "", "files"),
        (Method::GET, "/v1/batches", &[], "", "other"),
        (
            Method::POST,
            "/v1/files",
            &[JSON],
            r#"{"model":7}"#,
            "files",
        ),
        (Method::POST, "/v1/files", &[JSON], "[]", "files"),
        (Method::POST, "/v1/files", &[], "no JSON", "files"),
        (
            Method::POST,
            "/v1/chat/completions",
            &[("content-type", "text/plain")],
            r#"{"model":"nobody"}"#,
            "other",
        ),
        (Method::GET, "/v1/realtime?model=nobody", &[], "", "other"),
    ] {
        let reached = ask(&entries, method, path, fields, body).await.unwrap();
        assert_eq!(reached.0, name, "{path} {body}");
        assert_eq!(reached.2, body);
    }
    // Of those that serve the path.
    let (name, ..) = ask(
        &entries,
        Method::POST,
        "/v1/files",
        &[JSON],
        r#"{"model":"a"}"#,
    )
    .await
    .unwrap();
    assert_eq!(name, "files");
    let error = ask(&entries, Method::POST, "/v1/x", &[JSON], r#"{"model":"a"}"#).await;
    assert_eq!(error.unwrap_err().code(), "model_not_found");
}

#[tokio::test]
async fn a_model_that_decides_must_be_plain() {
    let entries = [("a", r#","models":["m","n"]"#)];
    let post = |path, fields, body: &'static str| ask(&entries, Method::POST, path, fields, body);
    const CHAT: &str = "/v1/chat/completions";
    for (path, fields, body, status) in [
        (CHAT, &[JSON][..], r#"{"model":"m","model":"n"}"#, 400),
        (CHAT, &[JSON], r#"{"model":"m","Model":"n"}"#, 400),
        (CHAT, &[JSON], r#"{"model":"m","model":7}"#, 400),
        (CHAT, &[JSON], r#"{"model":"m""#, 400),
        (CHAT, &[JSON], "[]", 400),
        (CHAT, &[JSON], "", 400),
        ("/v1/x", &[JSON], r#"{"model":"m""#, 400),
        ("/v1/x", &[JSON, ("content-encoding", "gzip")], "{}", 415),
        (
            "/v1/audio/transcriptions",
            &[("content-type", "multipart/form-data")],
            "x",
            400,
        ),
    ] {
        let error = post(path, fields, body).await.unwrap_err();
        assert_eq!(error.status(), status, "{path} {body}");
    }
    for body in [
        r#"{"model":"m","model":"\u006d"}"#,
        r#"{"MODEL":"n"}"#,
        r#"{"MODEL":"n","model":"n"}"#,
    ] {
        let reached = post(CHAT, &[JSON], body).await.unwrap();
        assert_eq!(reached.2, body, "as it came");
    }
}

#[tokio::test]
async fn a_named_backend_gets_any_model_and_its_own_name_for_it() {
    let named = |model: &str, name: &'static str| {
        let body = format!(r#"{{"model":"{model}"}}"#);
        let fields = [JSON, ("x-proxy-backend", name)];
        async move { ask(&MIXED, Method::POST, "/v1/responses", &fields, body).await }
    };
    for (model, name, sent) in [
        ("llama", "gpt", "llama"),
        ("fast", "alias", "gpt-4o-mini"),
        ("llama", "alias", "overridden"),
        ("fast", "rest", "fast"),
    ] {
        let (reached, _, body) = named(model, name).await.unwrap();
        assert_eq!(reached, name);
        assert_eq!(body, format!(r#"{{"model":"{sent}"}}"#));
    }
}

#[tokio::test]
async fn a_name_is_replaced_in_each_place_of_a_model() {
    let entries = [("a", r#","models":{"fast":"a/new model+","x/*":"*"}"#)];
    for (method, target, expected) in [
        (
            Method::GET,
            "/v1/models/fast",
            "/v1/models/a/new%20model%2B",
        ),
        (
            Method::HEAD,
            "/models/f%61st?a=b",
            "/models/a/new%20model%2B?a=b",
        ),
        (Method::GET, "/v1/models/x%2Fy", "/v1/models/y"),
        (Method::GET, "/v1/models/x/", "/v1/models/x/"),
        (Method::DELETE, "/v1/models/fast", "/v1/models/fast"),
    ] {
        let reached = ask(&entries, method, target, &[], "").await.unwrap();
        assert_eq!(reached.1, expected);
    }
    for target in ["/v1/models/x/../y", "/v1/models/x%2F%2E%2E"] {
        let error = ask(&entries, Method::GET, target, &[], "")
            .await
            .unwrap_err();
        assert_eq!(error.status(), 400, "{target}");
    }
    // Nor by a name.
    let dots = [("a", r#","models":{"x*":"*"}"#)];
    let error = ask(&dots, Method::GET, "/v1/models/x..", &[], "").await;
    assert_eq!(error.unwrap_err().status(), 400);

    let target = "/v1/realtime?a=%20&model=fast";
    let reached = ask(&entries, Method::GET, target, &WEBSOCKET, "").await;
    assert_eq!(
        reached.unwrap().1,
        "/v1/realtime?a=%20&model=a%2Fnew%20model%2B"
    );

    let part = |name: &str, content: &str| {
        format!("--b\r\ncontent-disposition: form-data; name={name}\r\n\r\n{content}\r\n")
    };
    let form = |model: &str| format!("{}{}--b--\r\n", part("model", model), part("file", "fast"));
    let fields = [("content-type", "multipart/form-data; boundary=b")];
    let path = "/v1/audio/transcriptions";
    let reached = ask(&entries, Method::POST, path, &fields, form("fast")).await;
    assert_eq!(reached.unwrap().2, form("a/new model+"));
    let error = ask(&entries, Method::POST, path, &fields, form("slow")).await;
    assert_eq!(error.unwrap_err().code(), "model_not_found");

    let body = r#"{"x":{"model":"fast"},"model":"fast"}"#;
    let reached = ask(&entries, Method::PATCH, "/v1/assistants/x", &[JSON], body).await;
    assert_eq!(
        reached.unwrap().2,
        r#"{"x":{"model":"fast"},"model":"a/new model+"}"#
    );
}

#[tokio::test]
async fn an_override_changes_no_path_but_a_name_does() {
    let entries = [("a", r#","models":{"fast":"m","*":""},"model":"overridden""#)];
    for (target, expected) in [
        ("/v1/models/fast", "/v1/models/m"),
        ("/v1/models/other", "/v1/models/other"),
    ] {
        let reached = ask(&entries, Method::GET, target, &[], "").await.unwrap();
        assert_eq!(reached.1, expected);
    }
}

#[tokio::test]
async fn nothing_is_read_where_no_model_decides() {
    let entries = [("a", r#","models":["m"],"paths":["/x"]"#), ("b", "")];
    for (path, body) in [
        ("/v1/y", "no JSON"),
        ("/v1/y", r#"{"model":"m","model":"n"}"#),
    ] {
        let reached = ask(&entries, Method::POST, path, &[JSON], body)
            .await
            .unwrap();
        assert_eq!((&*reached.0, &*reached.2), ("b", body.as_bytes()));
    }
}

#[tokio::test]
async fn a_websocket_goes_to_those_that_take_it_of_those_that_serve_its_model() {
    let entries = [
        ("a", r#","models":["m"],"websocket":false"#),
        ("b", r#","models":["n","m*"]"#),
        ("c", r#","models":["n"]"#),
    ];
    let open = |target| ask(&entries, Method::GET, target, &WEBSOCKET, "");
    for (target, name) in [
        ("/v1/realtime?model=n", "b"),
        ("/v1/realtime?model=mini", "b"),
        ("/v1/realtime", "b"),
    ] {
        assert_eq!(open(target).await.unwrap().0, name, "{target}");
    }
    for (target, status) in [
        ("/v1/realtime?model=m", 426),
        ("/v1/realtime?model=x", 404),
        ("/v1/realtime?model=m&model=n", 400),
    ] {
        let error = open(target).await.unwrap_err();
        assert_eq!(error.status(), status, "{target}");
    }
}
