//! Client keys, from outside: whose request it is, what it may use, and how much.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    process::{Command, Output, Stdio},
    time::Duration,
};

use axum::{Router, extract::Request, middleware, middleware::Next, routing::get};
use serde_json::Value;
use tokio::net::TcpListener;
use tower_openai_proxy::{
    BackendConfig, ClientConfig, ClientName, Config, KeysLayer, OpenAiProxyLayer, keys,
};

use crate::{
    support::{
        Backend, Message, Record, Server, TempFile, Wire, config_of, entry, post, response, soon,
    },
    websocket::{SWITCH, handshake},
};

const OK: &str = "200 OK";

/// Alice may use all there is; these are further members of entries.
const ALICE: (&str, &str) = ("alice", "");

/// A keys file with these clients, whose keys are `sk-` and the name.
fn keys_file(clients: &[(&str, &str)]) -> String {
    let entries = clients.iter().map(|(name, more)| {
        let hash = keys::hash(format!("sk-{name}"));
        let comma = if more.is_empty() { "" } else { "," };
        format!(r#"{{"name":"{name}","hash":"{hash}"{comma}{more}}}"#)
    });
    let entries: Vec<_> = entries.collect();
    format!(r#"{{"keys":[{}]}}"#, entries.join(","))
}

/// A server with these backends and clients, and its keys file.
struct Proxy {
    server: Server,
    config: TempFile,
    keys: TempFile,
}

impl Proxy {
    fn start(backends: &[String], settings: &str, clients: &[(&str, &str)]) -> Self {
        Self::start_with(backends, settings, clients, &[])
    }

    fn start_with(
        backends: &[String],
        settings: &str,
        clients: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let keys = TempFile::new("keys.json", &keys_file(clients));
        // Both are in one folder.
        let name = keys.path.file_name().unwrap().to_str().unwrap();
        let comma = if settings.is_empty() { "" } else { "," };
        let settings = format!(r#""keys_file":"{name}"{comma}{settings}"#);
        let config = TempFile::new("config.json", &config_of(backends, &settings));
        let mut command = Server::command();
        command.arg("--config").arg(&config.path).args(arguments);
        command.env("PROXY_KEY", "sk-operator");
        Self {
            server: Server::spawn(&mut command),
            config,
            keys,
        }
    }

    async fn send(&self, request: impl AsRef<[u8]>) -> Message {
        let mut client = Wire::connect(self.server.address).await;
        client.send(request).await;
        client.response().await
    }

    /// Sends a completion by this client.
    async fn ask(&self, client: &str) -> Message {
        self.send(by(client, "")).await
    }
}

/// A backend that answers all requests, and its record.
async fn answering() -> Record {
    Backend::start().await.record_all(response(OK, "{}"))
}

/// A request with this client's key in place of that of the test's requests.
fn with_key(client: &str, request: &str) -> String {
    let (before, after) = request.split_once("Authorization: Bearer ").expect("a key");
    let (_, after) = after.split_once("\r\n").unwrap();
    format!("{before}Authorization: Bearer sk-{client}\r\n{after}")
}

/// A completion by this client with this model, or none.
fn by(client: &str, model: &str) -> String {
    let body = match model {
        "" => "{}".to_owned(),
        model => format!(r#"{{"model":"{model}"}}"#),
    };
    with_key(client, &post(&body))
}

/// Any request by this client.
fn any(client: &str, method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-{client}\r\n\
         {fields}Content-Length: {length}\r\n\r\n{body}"
    )
}

const JSON: &str = "Content-Type: application/json\r\n";

#[track_caller]
fn is_refused(answer: &Message, status: u16, code: &str) {
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status(), error["code"].as_str()),
        (status, Some(code))
    );
    let kind = if status == 429 {
        "rate_limit_error"
    } else {
        "invalid_request_error"
    };
    assert_eq!(error["type"], kind);
    let proxy_status = answer.field("proxy-status").unwrap();
    let proxy_error = match status {
        404 => "destination_not_found",
        400 => "http_request_error",
        _ => "http_request_denied",
    };
    assert_eq!(
        proxy_status,
        format!("tower-openai-proxy; error={proxy_error}")
    );
}

// Whose request it is.

#[tokio::test]
async fn without_a_key_nobody_is_served() {
    for settings in ["", r#""require_auth":false"#] {
        let backend = answering().await;
        let backends = [entry("LLM1", backend.address, "")];
        let expired = ("bob", r#""expires":"2020-01-01T00:00:00Z""#);
        let proxy = Proxy::start(&backends, settings, &[ALICE, expired]);

        let none = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        let mut answers = Vec::new();
        for request in [none.to_owned(), by("mallory", ""), by("bob", "")] {
            let answer = proxy.send(request).await;
            is_refused(&answer, 401, "invalid_api_key");
            assert_eq!(answer.field("www-authenticate").unwrap(), "Bearer");
            let mut fields = answer.fields();
            fields.retain(|(name, _)| name != "date");
            answers.push((fields, answer.body));
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
        assert_eq!(backend.connections(), 0);

        for request in [
            by("alice", ""),
            by("alice", "").replace("Authorization: Bearer ", "api-key: "),
            by("alice", "").replace("Bearer", "bearer"),
        ] {
            assert_eq!(proxy.send(request).await.status(), 200);
        }
    }
}

#[tokio::test]
async fn health_and_preflights_need_no_key() {
    let backend = answering().await;
    let proxy = Proxy::start(&[entry("LLM1", backend.address, "")], "", &[ALICE]);
    for method in ["GET", "HEAD"] {
        for path in ["/health", "/livez", "/readyz"] {
            let mut client = Wire::connect(proxy.server.address).await;
            client
                .send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}");
        }
    }
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\
                     Access-Control-Request-Method: POST\r\n\r\n";
    assert_eq!(proxy.send(preflight).await.status(), 200);
    assert_eq!(backend.take()[0].field("authorization"), None);
    let options = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n";
    is_refused(&proxy.send(options).await, 401, "invalid_api_key");
}

#[tokio::test]
async fn a_clients_key_never_reaches_a_backend() {
    let (plain, keyed) = (answering().await, answering().await);
    let backends = [
        entry("plain", plain.address, ""),
        entry("keyed", keyed.address, r#""api_key_env":"PROXY_KEY""#),
    ];
    let proxy = Proxy::start(&backends, "", &[ALICE]);
    let fields = "X-One: 1\r\napi-key: sk-alice\r\nX-Two: 2\r\nx-api-key: sk-alice\r\n\
                  Authorization: Basic sk-alice\r\n\
                  Sec-WebSocket-Protocol: a, openai-insecure-api-key.sk-alice\r\nX-Three: 3\r\n";
    for (name, backend) in [("plain", &plain), ("keyed", &keyed)] {
        let fields = format!("{JSON}X-Proxy-Backend: {name}\r\n{fields}");
        let request = any("alice", "POST", "/v1/chat/completions", &fields, "{}");
        assert_eq!(proxy.send(request).await.status(), 200);
        let seen = backend.take().remove(0);
        assert!(!seen.head.contains("sk-alice"), "{}", seen.head);
        let own = (name == "keyed").then(|| "Bearer sk-operator".to_owned());
        assert_eq!(seen.field("authorization"), own);
        assert_eq!(seen.field("api-key"), None);
        // The others come in their order.
        let names: Vec<_> = seen.fields().into_iter().map(|(name, _)| name).collect();
        let others: Vec<_> = names.iter().filter(|name| name.starts_with("x-")).collect();
        assert_eq!(others, ["x-one", "x-two", "x-three"]);
    }
}

#[tokio::test]
async fn a_websockets_key_is_taken_out_of_its_subprotocols() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(&[entry("LLM1", backend.address, "")], "", &[ALICE]);
    let open = |protocols: &str| {
        let fields = format!("Sec-WebSocket-Protocol: {protocols}\r\n");
        handshake("/v1/realtime", &fields).replace("Authorization: Bearer sk-test\r\n", "")
    };
    for (protocols, forwarded) in [
        (
            "realtime, openai-insecure-api-key.sk-alice, openai-organization.o",
            Some("realtime, openai-organization.o"),
        ),
        ("openai-insecure-api-key.sk-alice", None),
    ] {
        let mut client = Wire::connect(proxy.server.address).await;
        client.send(open(protocols)).await;
        let mut wire = backend.accept().await;
        let head = wire.head().await;
        let seen = Message {
            head,
            body: Vec::new(),
        };
        assert_eq!(seen.field("sec-websocket-protocol").as_deref(), forwarded);
        assert!(!seen.head.contains("sk-alice") && !seen.head.contains("authorization"));
        wire.send(SWITCH).await;
        assert_eq!(client.head().await, SWITCH);
    }
    let answer = proxy.send(open("openai-insecure-api-key.sk-mallory")).await;
    is_refused(&answer, 401, "invalid_api_key");
    // That of a request for no WebSocket isn't one.
    let fields = "Sec-WebSocket-Protocol: openai-insecure-api-key.sk-alice\r\n";
    let request = format!("GET /v1/realtime HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    is_refused(&proxy.send(request).await, 401, "invalid_api_key");
}

// What a client may use.

#[tokio::test]
async fn models_are_those_that_the_client_names() {
    let backend = answering().await;
    let backends = [entry(
        "LLM1",
        backend.address,
        r#""models":{"fast":"gpt-4o-mini","*":""}"#,
    )];
    let clients = [("alice", r#""models":["gpt-*","fast"]"#), ("bob", "")];
    let proxy = Proxy::start(&backends, "", &clients);

    for model in ["gpt-4o", "gpt-", "fast"] {
        assert_eq!(
            proxy.send(by("alice", model)).await.status(),
            200,
            "{model}"
        );
    }
    backend.take();
    let form =
        "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--x--\r\n";
    let multipart = "Content-Type: multipart/form-data; boundary=x\r\n";
    for request in [
        by("alice", "o3"),
        by("alice", "GPT-4o"),
        by("alice", "xgpt-4o"),
        any("alice", "PUT", "/v1/x", JSON, r#"{"model":"o3"}"#),
        any("alice", "PATCH", "/v1/x", JSON, r#"{"model":"o3"}"#),
        any("alice", "POST", "/v1/audio/transcriptions", multipart, form),
        any("alice", "DELETE", "/v1/models/o3", "", ""),
        with_key("alice", &handshake("/v1/realtime?model=o3", "")),
    ] {
        let answer = proxy.send(&request).await;
        is_refused(&answer, 403, "model_not_allowed");
        assert_eq!(answer.json()["error"]["param"], "model");
    }
    // In the path, it is as if it weren't there.
    for request in ["GET", "HEAD"].map(|it| any("alice", it, "/v1/models/o3", "", "")) {
        let mut client = Wire::connect(proxy.server.address).await;
        client.send(&request).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    }
    let answer = proxy
        .send(any("alice", "GET", "/v1/models/o3", "", ""))
        .await;
    is_refused(&answer, 404, "model_not_found");
    // What can't be read for sure is an error; whoever has no `models` isn't asked for one.
    let two = any(
        "alice",
        "POST",
        "/v1/chat/completions",
        JSON,
        r#"{"model":"fast","model":"o3"}"#,
    );
    is_refused(&proxy.send(&two).await, 400, "http_request_error");
    let broken = any(
        "alice",
        "POST",
        "/v1/embeddings",
        JSON,
        r#"{"model":"fast""#,
    );
    is_refused(&proxy.send(broken).await, 400, "http_request_error");
    let encoded = format!("{JSON}Content-Encoding: gzip\r\n");
    let encoded = any("alice", "POST", "/v1/embeddings", &encoded, "x");
    assert_eq!(proxy.send(encoded).await.status(), 415);
    assert!(backend.take().is_empty(), "nobody is contacted");
    assert_eq!(proxy.send(by("bob", "o3")).await.status(), 200);
    assert_eq!(
        proxy
            .send(any("alice", "GET", "/v1/models/gpt-4o", "", ""))
            .await
            .status(),
        200
    );
    assert_eq!(
        proxy
            .send(any("alice", "DELETE", "/v1/models/gpt-4o", "", ""))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_model_that_cannot_be_seen_is_refused_unless_the_path_is_named() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [
        ("alice", r#""models":["gpt-*"]"#),
        ("bob", r#""models":["gpt-*"],"paths":["*"]"#),
        (
            "carol",
            r#""models":["gpt-*"],"paths":["*","/files","/batches/*","/realtime"]"#,
        ),
    ];
    let proxy = Proxy::start(&backends, "", &clients);
    let requests = |client: &str| {
        [
            any(
                client,
                "POST",
                "/v1/files",
                "Content-Type: application/octet-stream\r\n",
                "data",
            ),
            any(client, "POST", "/v1/batches/1/cancel", "", ""),
            any(client, "PUT", "/v1/batches/1", JSON, r#"{"model":5}"#),
            any(client, "PATCH", "/v1/batches/1", JSON, "{}"),
        ]
    };
    for client in ["alice", "bob"] {
        for request in requests(client) {
            is_refused(&proxy.send(request).await, 403, "model_not_allowed");
        }
        let upgrade = with_key(client, &handshake("/v1/realtime", ""));
        is_refused(&proxy.send(upgrade).await, 403, "model_not_allowed");
        assert!(backend.take().is_empty(), "nobody is contacted");
        for method in ["GET", "DELETE"] {
            let request = any(client, method, "/v1/files/1", "", "");
            assert_eq!(proxy.send(request).await.status(), 200, "{method}");
        }
        backend.take();
    }
    for request in requests("carol") {
        assert_eq!(proxy.send(request).await.status(), 200);
    }
    let upgrade = with_key("carol", &handshake("/v1/realtime", ""));
    assert_eq!(proxy.send(upgrade).await.status(), 200);
    let chat = any("carol", "POST", "/v1/chat/completions", JSON, "{}");
    is_refused(&proxy.send(chat).await, 403, "model_not_allowed");
    let chat = by("carol", "o3");
    is_refused(&proxy.send(chat).await, 403, "model_not_allowed");
}

/// The ids in a list of models.
fn ids(answer: &Message) -> Vec<String> {
    let list = answer.json();
    let entries = list["data"].as_array().expect("a list").iter();
    entries
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_list_of_models_has_only_the_clients() {
    let list = r#"{"object":"list","data":[{"id":"o3"},{"n":1},{ "id" : "gpt-4o" }]}"#;
    let first = Backend::start().await.record_all(response(OK, list));
    let list = r#"{"object":"list","data":[{"id":"gpt-5"},{"id":"phi"}]}"#;
    let second = Backend::start().await.record_all(response(OK, list));
    let clients = [
        ("alice", r#""models":["gpt-*"]"#),
        ("bob", ""),
        ("carol", r#""models":["gpt-*","phi"],"backends":["b"]"#),
        ("dave", r#""models":["none"]"#),
        ("erin", r#""backends":["a"]"#),
    ];
    let one = [entry("a", first.address, "")];
    let two = [
        entry("a", first.address, ""),
        entry("b", second.address, ""),
    ];
    let models = |client: &str| any(client, "GET", "/v1/models", "", "");

    let proxy = Proxy::start(&two, "", &clients);
    assert_eq!(ids(&proxy.send(models("alice")).await), ["gpt-4o", "gpt-5"]);
    assert_eq!(ids(&proxy.send(models("carol")).await), ["gpt-5", "phi"]);
    assert_eq!(ids(&proxy.send(models("dave")).await), [""; 0]);
    let all = proxy.send(models("bob")).await;
    assert!(
        all.json()["data"].as_array().unwrap().len() == 5,
        "{:?}",
        all.json()
    );
    first.take();
    second.take();
    assert!(
        proxy
            .send(models("erin"))
            .await
            .content()
            .starts_with(br#"{"object":"list","data":[{"id":"o3"},{"n":1}"#)
    );
    assert_eq!((first.take().len(), second.take().len()), (1, 0));
    // The entry's bytes are its backend's.
    let answer = proxy.send(models("alice")).await;
    assert_eq!(
        answer.content(),
        br#"{"object":"list","data":[{ "id" : "gpt-4o" },{"id":"gpt-5"}]}"#
    );
    // That of one backend, too, however it is asked.
    let named = any("alice", "GET", "/v1/models", "X-Proxy-Backend: b\r\n", "");
    assert_eq!(ids(&proxy.send(named).await), ["gpt-5"]);
    assert!(first.take().len() == 1 && second.take().len() == 2);
    let alone = Proxy::start(&one, "", &clients[..2]);
    assert_eq!(ids(&alone.send(models("alice")).await), ["gpt-4o"]);
    let unmerged = Proxy::start(&two, r#""merge_models":false"#, &clients);
    assert_eq!(ids(&unmerged.send(models("alice")).await), ["gpt-4o"]);
    let head = any("alice", "HEAD", "/v1/models", "", "");
    let mut client = Wire::connect(alone.server.address).await;
    client.send(head).await;
    let head = client.head().await;
    let length = br#"{"object":"list","data":[{ "id" : "gpt-4o" }]}"#.len();
    assert!(
        head.contains(&format!("content-length: {length}\r\n")),
        "{head}"
    );
}

#[tokio::test]
async fn what_is_no_list_tells_a_restricted_client_nothing() {
    let backend = Backend::start().await.record_all(response(OK, "[\"o3\"]"));
    let clients = [("alice", r#""models":["gpt-*"]"#)];
    let proxy = Proxy::start(&[entry("a", backend.address, "")], "", &clients);
    let answer = proxy.send(any("alice", "GET", "/v1/models", "", "")).await;
    assert_eq!(answer.content(), br#"{"object":"list","data":[]}"#);
}

#[tokio::test]
async fn paths_that_are_not_the_clients() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""paths":["/chat/completions","/files/*"]"#)];
    let proxy = Proxy::start(&backends, "", &clients);
    for path in [
        "/v1/chat/completions",
        "/chat/completions",
        "/v1/files/1",
        "/v1//files/a/b",
    ] {
        let answer = proxy.send(any("alice", "POST", path, JSON, "{}")).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
    backend.take();
    for path in [
        "/v1/files",
        "/v1/embeddings",
        "/v1/chat/completions/1",
        "/v1/models",
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let answer = proxy.send(any("alice", method, path, "", "")).await;
            is_refused(&answer, 403, "path_not_allowed");
        }
    }
    let upgrade = with_key("alice", &handshake("/v1/realtime", ""));
    is_refused(&proxy.send(upgrade).await, 403, "path_not_allowed");
    assert!(backend.take().is_empty(), "nobody is contacted");
}

#[tokio::test]
async fn backends_that_are_not_the_clients_are_no_candidates() {
    let (first, second) = (answering().await, answering().await);
    let backends = [
        entry(
            "a",
            first.address,
            r#""models":["gpt-*"],"paths":["/chat/completions","/files"]"#,
        ),
        entry(
            "b",
            second.address,
            r#""models":["o*"],"paths":["/chat/completions","/batches"]"#,
        ),
    ];
    let clients = [("alice", r#""backends":["b"]"#), ("bob", "")];
    let proxy = Proxy::start(&backends, "", &clients);
    assert_eq!(proxy.send(by("alice", "o3")).await.status(), 200);
    assert_eq!(proxy.send(by("bob", "gpt-4o")).await.status(), 200);
    assert_eq!((first.take().len(), second.take().len()), (1, 1));

    is_refused(
        &proxy.send(by("alice", "gpt-4o")).await,
        404,
        "model_not_found",
    );
    let answer = proxy
        .send(any("alice", "POST", "/v1/files", JSON, "{}"))
        .await;
    is_refused(&answer, 404, "destination_not_found");
    let named = |client: &str, backend: &str| {
        let fields = format!("{JSON}X-Proxy-Backend: {backend}\r\n");
        any(
            client,
            "POST",
            "/v1/chat/completions",
            &fields,
            r#"{"model":"x"}"#,
        )
    };
    is_refused(
        &proxy.send(named("alice", "a")).await,
        403,
        "backend_not_allowed",
    );
    is_refused(
        &proxy.send(named("alice", "c")).await,
        404,
        "destination_not_found",
    );
    assert!(
        first.take().is_empty() && second.take().is_empty(),
        "nobody is contacted"
    );
    assert_eq!(proxy.send(named("alice", "b")).await.status(), 200);
    assert_eq!(proxy.send(named("bob", "a")).await.status(), 200);

    // Where the field selects nothing, it opens nothing.
    let proxy = Proxy::start(&backends, r#""backend_header":false"#, &clients);
    is_refused(
        &proxy.send(named("alice", "a")).await,
        404,
        "model_not_found",
    );
}

#[tokio::test]
async fn a_backend_named_by_a_restricted_client_gets_its_models_only() {
    let (first, second) = (answering().await, answering().await);
    let backends = [
        entry("a", first.address, r#""models":{"fast":"tiny"}"#),
        entry("b", second.address, ""),
    ];
    let proxy = Proxy::start(&backends, "", &[("alice", r#""models":["fast","gpt-*"]"#)]);
    let named = |model: &str| {
        let body = format!(r#"{{"model":"{model}"}}"#);
        any(
            "alice",
            "POST",
            "/v1/chat/completions",
            &format!("{JSON}X-Proxy-Backend: a\r\n"),
            &body,
        )
    };
    is_refused(&proxy.send(named("o3")).await, 403, "model_not_allowed");
    // Whatever the backend's own patterns say.
    assert_eq!(proxy.send(named("gpt-4o")).await.status(), 200);
    assert_eq!(proxy.send(named("fast")).await.status(), 200);
    let bodies: Vec<_> = first.take().into_iter().map(|it| it.body).collect();
    assert_eq!(
        bodies,
        [&br#"{"model":"gpt-4o"}"#[..], br#"{"model":"tiny"}"#]
    );
    assert_eq!(second.connections(), 0);
}

// How much.

#[tokio::test]
async fn requests_per_minute_are_a_bucket() {
    let backend = answering().await;
    let backends = [
        entry("a", crate::support::nobody().await, ""),
        entry("b", backend.address, r#""models":["gpt-*"]"#),
    ];
    let clients = [
        ("alice", r#""requests_per_minute":3,"models":["gpt-*"]"#),
        ("bob", r#""requests_per_minute":3"#),
    ];
    // One bucket for all threads.
    let proxy = Proxy::start_with(&backends, "", &clients, &["--workers", "3"]);
    // Refused ones don't count, nor do tries.
    for _ in 0..4 {
        is_refused(
            &proxy.send(by("alice", "o3")).await,
            403,
            "model_not_allowed",
        );
    }
    for _ in 0..3 {
        assert_eq!(proxy.send(by("alice", "gpt-4o")).await.status(), 200);
    }
    for _ in 0..2 {
        let answer = proxy.send(by("alice", "gpt-4o")).await;
        is_refused(&answer, 429, "rate_limit_exceeded");
        let seconds: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        let millis: u64 = answer.field("retry-after-ms").unwrap().parse().unwrap();
        assert!(
            (1..=20).contains(&seconds) && seconds == millis.div_ceil(1000),
            "{}",
            answer.head
        );
    }
    assert_eq!(backend.take().len(), 3);
    // Others aren't concerned, nor is health.
    assert_eq!(proxy.send(by("bob", "gpt-4o")).await.status(), 200);
    let line = proxy.server.logged("status=429").await;
    assert!(!line.contains("sk-"), "{line}");
}

#[tokio::test]
async fn requests_are_in_flight_until_the_end_of_their_streams() {
    let backend = Backend::start().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""max_in_flight":2"#)];
    let proxy = Proxy::start_with(&backends, "", &clients, &["--workers", "2"]);

    let mut stream = Wire::connect(proxy.server.address).await;
    stream.send(by("alice", "")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await;
    stream.until("a\r\n").await;
    let mut waiting = Wire::connect(proxy.server.address).await;
    waiting.send(by("alice", "")).await;
    let mut silent = backend.accept().await;
    silent.request().await;

    let answer = proxy.ask("alice").await;
    is_refused(&answer, 429, "concurrency_limit_exceeded");
    assert_eq!(answer.field("retry-after").unwrap(), "1");
    assert_eq!(answer.field("retry-after-ms"), None);

    // A client that has the end may send its next request at once.
    wire.send("0\r\n\r\n").await;
    stream.until("0\r\n\r\n").await;
    stream.send(by("alice", "")).await;
    wire.request().await;
    wire.send(response(OK, "b")).await;
    assert_eq!(stream.response().await.body, b"b");
    // One that leaves is no longer in flight.
    drop(waiting);
    silent.closed().await;
    drop(wire);
    backend.answer_all(response(OK, "{}"));
    soon("its end", async {
        while proxy.ask("alice").await.status() == 429 {}
    })
    .await;
    let both = tokio::join!(proxy.ask("alice"), proxy.ask("alice"));
    assert_eq!((both.0.status(), both.1.status()), (200, 200));
}

#[tokio::test]
async fn requests_one_behind_the_other_are_never_two() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""max_in_flight":1"#)];
    let proxy = Proxy::start_with(&backends, "", &clients, &["--workers", "2"]);
    let mut kept = Wire::connect(proxy.server.address).await;
    for _ in 0..100 {
        kept.send(by("alice", "")).await;
        assert_eq!(kept.response().await.status(), 200);
        assert_eq!(proxy.ask("alice").await.status(), 200);
    }
}

#[tokio::test]
async fn a_tunnel_is_in_flight_until_it_is_closed() {
    let backend = Backend::start().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""max_in_flight":1"#)];
    let proxy = Proxy::start(&backends, "", &clients);
    let mut client = Wire::connect(proxy.server.address).await;
    client
        .send(with_key("alice", &handshake("/v1/realtime", "")))
        .await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    client.head().await;
    client.send("over").await;
    wire.until("over").await;
    is_refused(&proxy.ask("alice").await, 429, "concurrency_limit_exceeded");
    drop((client, wire));
    backend.answer_all(response(OK, "{}"));
    soon("the tunnel's end", async {
        while proxy.ask("alice").await.status() == 429 {}
    })
    .await;
}

#[tokio::test]
async fn the_clients_name_is_in_the_log_and_no_key_or_hash_is() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""paths":["/chat/completions"]"#)];
    let proxy = Proxy::start(&backends, "", &clients);
    proxy.ask("alice").await;
    proxy.send(any("alice", "GET", "/v1/models", "", "")).await;
    proxy.ask("mallory").await;
    proxy.server.logged("status=401").await;
    let log = proxy.server.stop();
    let digits = &keys::hash("sk-alice")["sha256:".len()..][..8];
    assert!(!log.contains("sk-") && !log.contains(digits), "{log}");
    for (status, is_known) in [(200, true), (403, true), (401, false)] {
        let status = format!("status={status} ");
        let mut lines = log.lines().filter(|line| line.contains(&status));
        let line = lines.next().unwrap_or_else(|| panic!("{status}\n{log}"));
        assert_eq!(line.contains(" key=alice"), is_known, "{line}");
        assert!(lines.next().is_none(), "{log}");
    }
}

// Reloads.

#[cfg(unix)]
#[tokio::test]
async fn a_hangup_replaces_the_keys_and_keeps_what_their_names_use() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let clients = [("alice", r#""requests_per_minute":2"#), ("bob", "")];
    let proxy = Proxy::start(&backends, "", &clients);
    assert_eq!(proxy.ask("alice").await.status(), 200);
    assert_eq!(proxy.ask("bob").await.status(), 200);

    let reload = async |keys: &str, until: &str| {
        let before = proxy.server.log().matches(until).count();
        fs::write(&proxy.keys.path, keys).unwrap();
        proxy.server.signal("HUP");
        soon("the reload", async {
            while proxy.server.log().matches(until).count() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    let changed = [("alice", r#""requests_per_minute":5"#), ("carol", "")];
    reload(&keys_file(&changed), "configuration reloaded").await;
    assert_eq!(proxy.ask("bob").await.status(), 401);
    assert_eq!(proxy.ask("carol").await.status(), 200);
    assert_eq!(proxy.ask("alice").await.status(), 200);
    is_refused(&proxy.ask("alice").await, 429, "rate_limit_exceeded");

    // One that can't be used leaves the old ones in force.
    for broken in ["", "{", r#"{"keys":[{"name":"dave","hash":"sk-dave"}]}"#] {
        reload(broken, "the old configuration stays").await;
        assert_eq!(proxy.ask("carol").await.status(), 200);
        assert_eq!(proxy.ask("dave").await.status(), 401);
    }
    let log = proxy.server.logged("`keys[0].hash` must be").await;
    let keys = proxy.keys.path.display();
    assert!(
        log.contains(&format!("{keys}: line 1, column 32: `keys[0].hash`")),
        "{log}"
    );
    assert!(!log.contains("sk-dave"));
}

#[tokio::test]
async fn a_watched_keys_file_is_read_again_when_it_changes() {
    let backend = answering().await;
    let backends = [entry("LLM1", backend.address, "")];
    let proxy = Proxy::start_with(&backends, "", &[ALICE], &["--watch"]);
    assert_eq!(proxy.ask("alice").await.status(), 200);
    let until = async |client: &str, status: u16| {
        soon("the reload", async {
            while proxy.ask(client).await.status() != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    fs::write(&proxy.keys.path, keys_file(&[("bob", "")])).unwrap();
    until("bob", 200).await;
    assert_eq!(proxy.ask("alice").await.status(), 401);

    // Another file, from then on.
    let other = TempFile::new("keys.json", &keys_file(&[("carol", "")]));
    let config = fs::read_to_string(&proxy.config.path).unwrap();
    let name = |file: &TempFile| file.path.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(
        &proxy.config.path,
        config.replace(&name(&proxy.keys), &name(&other)),
    )
    .unwrap();
    until("carol", 200).await;
    fs::write(&other.path, keys_file(&[("dave", "")])).unwrap();
    until("dave", 200).await;
    assert_eq!(proxy.ask("carol").await.status(), 401);
}

#[tokio::test]
async fn who_spends_the_operators_key_unguarded_is_warned() {
    let backend = answering().await;
    let backends = [entry(
        "LLM1",
        backend.address,
        r#""api_key_env":"PROXY_KEY""#,
    )];
    let warning = "anyone who can reach the proxy spends the key of `LLM1`";
    let config = config_of(&backends, "");
    let server = Server::start_with(&config, &[], &[("PROXY_KEY", "sk-operator")]);
    let log = server.logged(warning).await;
    assert!(log.contains("keys_file"), "{log}");

    let proxy = Proxy::start(&backends, "", &[ALICE]);
    proxy.ask("alice").await;
    let log = proxy.server.logged("status=200").await;
    assert!(!log.contains(warning), "{log}");
}

#[test]
fn a_keys_file_that_cannot_be_used_ends_the_start() {
    let keys = TempFile::new(
        "keys.json",
        "{\"keys\":[\n{\"name\":\"alice\",\"hash\":\"sk-alice\"}]}",
    );
    let path = Value::from(keys.path.to_str());
    let config = format!(
        r#"{{"primary_backends":[{{"name":"a","url":"http://a.test"}}],"settings":{{"keys_file":{path}}}}}"#
    );
    let config = TempFile::new("config.json", &config);
    for check in [&["--check"][..], &[]] {
        let arguments = [&["--config", config.path.to_str().unwrap()], check].concat();
        let output = run(&arguments, b"");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let message = String::from_utf8(output.stderr).unwrap();
        let place = format!(
            "{}: line 2, column 24: `keys[0].hash` must be",
            keys.path.display()
        );
        assert!(
            message.starts_with(&place) && !message.contains("sk-alice"),
            "{message}"
        );
    }
}

// The command line.

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(crate::support::example("server"));
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn a_new_key_and_its_entry_are_printed() {
    let output = run(&["--new-key", "alice"], b"");
    assert_eq!(output.status.code(), Some(0));
    let output = String::from_utf8(output.stdout).unwrap();
    let (key, entry) = output.trim_end().split_once('\n').expect("two lines");
    let random = key.strip_prefix("sk-proxy-").unwrap();
    assert_eq!(random.len(), 43);
    assert!(
        random
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    );
    let other = String::from_utf8(run(&["--new-key", "alice"], b"").stdout).unwrap();
    assert!(!other.contains(key));
    let parsed: Value = serde_json::from_str(entry).expect("JSON");
    let expected = serde_json::json!({ "name": "alice", "hash": keys::hash(key) });
    assert_eq!(parsed, expected);

    // They work together.
    let backend = answering().await;
    let proxy = Proxy::start(&[self::entry("LLM1", backend.address, "")], "", &[ALICE]);
    drop(proxy);
    let keys = TempFile::new("keys.json", &format!(r#"{{"keys":[{entry}]}}"#));
    let path = keys.path.display().to_string();
    let settings = format!(r#""keys_file":{}"#, Value::from(path));
    let config = config_of(&[self::entry("LLM1", backend.address, "")], &settings);
    for arguments in [&[][..], &["--demo"]] {
        let server = Server::start_with(&config, arguments, &[]);
        let mut client = Wire::connect(server.address).await;
        let hello = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#;
        let request = with_key("x", &post(hello)).replace("sk-x", key);
        client.send(request).await;
        assert_eq!(client.response().await.status(), 200, "{arguments:?}");
    }
}

#[test]
fn a_key_is_hashed_without_the_line_end_behind_it() {
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";
    for input in ["abc", "abc\n", "abc\r\n"] {
        let output = run(&["--hash-key"], input.as_bytes());
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), abc);
    }
    for input in ["", "\n", "abc\n\n", " abc\n", "a\tb"] {
        let output = run(&["--hash-key"], input.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{input:?}");
        assert!(output.stdout.is_empty());
    }
    for name in ["", "a b", "é"] {
        let output = run(&["--new-key", name], b"");
        assert_eq!(output.status.code(), Some(2), "{name:?}");
        assert!(output.stdout.is_empty());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("1 to 64 letters, digits"), "{message}");
    }
}

// In an app of one's own.

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(address).await;
    client.send(request).await;
    client.response().await
}

#[tokio::test]
async fn the_layer_guards_any_axum_app() {
    let client = ClientConfig::new("alice")
        .hash(keys::hash("sk-alice"))
        .requests_per_minute(2);
    let config = Config::builder()
        .backend(BackendConfig::new("a", "http://a.test"))
        .client(client);
    let app = Router::new()
        .route(
            "/name",
            get(async |request: Request| {
                assert!(request.headers().get("authorization").is_none());
                request
                    .extensions()
                    .get::<ClientName>()
                    .unwrap()
                    .to_string()
            }),
        )
        .layer(KeysLayer::from_config(&config.build().unwrap()));
    let address = serve(app).await;
    is_refused(
        &ask(address, "GET /name HTTP/1.1\r\nHost: a\r\n\r\n").await,
        401,
        "invalid_api_key",
    );
    for _ in 0..2 {
        let answer = ask(address, any("alice", "GET", "/name", "", "")).await;
        assert_eq!((answer.status(), &*answer.body), (200, &b"alice"[..]));
    }
    is_refused(
        &ask(address, any("alice", "GET", "/name", "", "")).await,
        429,
        "rate_limit_exceeded",
    );
    // A fallback is guarded, too; `/health` is the app's own, and open.
    is_refused(
        &ask(address, any("bob", "GET", "/x", "", "")).await,
        401,
        "invalid_api_key",
    );
    assert_eq!(
        ask(address, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .status(),
        404
    );
}

#[tokio::test]
async fn the_layer_around_the_proxy_counts_once_and_hides_the_key() {
    let backend = answering().await;
    let url = format!("http://{}/v1", backend.address);
    let client = ClientConfig::new("alice").hash(keys::hash("sk-alice"));
    let with_keys = Config::builder()
        .backend(BackendConfig::new("a", &url))
        .client(
            client
                .requests_per_minute(2)
                .max_in_flight(1)
                .models(["gpt-*"]),
        )
        .build()
        .unwrap();
    let without = Config::builder()
        .backend(BackendConfig::new("a", &url))
        .build()
        .unwrap();
    for inner in [with_keys.clone(), without] {
        let app = Router::new()
            .layer(OpenAiProxyLayer::from_config(inner))
            .layer(KeysLayer::from_config(&with_keys));
        let address = serve(app).await;
        for _ in 0..3 {
            is_refused(
                &ask(address, by("alice", "o3")).await,
                403,
                "model_not_allowed",
            );
        }
        for _ in 0..2 {
            assert_eq!(ask(address, by("alice", "gpt-4o")).await.status(), 200);
            assert_eq!(backend.take()[0].field("authorization"), None);
        }
        is_refused(
            &ask(address, by("alice", "gpt-4o")).await,
            429,
            "rate_limit_exceeded",
        );
    }
}

#[tokio::test]
async fn a_hosts_own_name_has_limits_in_the_proxy_too() {
    let backend = answering().await;
    let config = Config::builder()
        .backend(BackendConfig::new(
            "a",
            format!("http://{}/v1", backend.address),
        ))
        .client(
            ClientConfig::new("alice@x")
                .requests_per_minute(2)
                .models(["gpt-*"]),
        )
        .build()
        .unwrap();
    let authenticate = async |mut request: Request, next: Next| {
        let name = request.headers()["x-user"].to_str().unwrap().to_owned();
        request.extensions_mut().insert(ClientName::new(name));
        next.run(request).await
    };
    let app = Router::new()
        .layer(OpenAiProxyLayer::from_config(config))
        .layer(middleware::from_fn(authenticate));
    let address = serve(app).await;
    let by = |name: &str, model: &str| {
        let request = by("x", model);
        request.replace("Authorization: Bearer sk-x", &format!("X-User: {name}"))
    };
    is_refused(
        &ask(address, by("alice@x", "o3")).await,
        403,
        "model_not_allowed",
    );
    for _ in 0..2 {
        assert_eq!(ask(address, by("alice@x", "gpt-4o")).await.status(), 200);
    }
    is_refused(
        &ask(address, by("alice@x", "gpt-4o")).await,
        429,
        "rate_limit_exceeded",
    );
    assert_eq!(ask(address, by("bob@x", "o3")).await.status(), 200);
}
