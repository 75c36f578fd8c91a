//! The layers stacked by hand, as the README has it, keep the promises of the whole: one table of
//! requests goes through both.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, body::Body, error_handling::HandleError};
use hyper_util::{
    client::legacy::{self, Client},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, time::timeout};
use tower::ServiceBuilder;
use tower_openai_proxy::{
    AuthPassthroughLayer, BackendConfig, BackendRouteLayer, Config, DeadlineLayer, Error, Forward,
    KeysLayer, MergeModelsLayer, ModelOverrideLayer, ObserveLayer, OpenAiProxyLayer, RequestBody,
    TimeoutLayer, forward::UpstreamRequestLayer, keys,
};

use crate::support::{Backend, Message, TempFile, Wire, config_of, entry, nobody, response, soon};

/// A request, and what the backend does with it.
struct Case {
    name: &'static str,
    settings: &'static str,
    /// Further fields of the backend's configuration.
    backend: &'static str,
    /// A backend that refuses connections comes first.
    is_second: bool,
    head: &'static str,
    body: &'static str,
    does: Does,
    /// Of the answer, and what the backend gets of the request: its first line, if anything.
    expected: (u16, Option<&'static str>),
}

enum Does {
    Answer(&'static str),
    /// It sends this and then nothing more.
    Stall(&'static str),
    /// It closes the connection without an answer.
    Close,
}

const AUTH: &str = "Authorization: Bearer sk-test\r\n";

const CASE: Case = Case {
    name: "",
    settings: "",
    backend: "",
    is_second: false,
    head: "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n",
    body: "{}",
    does: Does::Answer("fine"),
    expected: (200, Some("POST /v1/chat/completions HTTP/1.1")),
};

const CASES: &[Case] = &[
    Case {
        name: "a request",
        ..CASE
    },
    Case {
        name: "a foreign path",
        head: "GET /v1/models?limit=1 HTTP/1.1\r\n",
        body: "",
        expected: (200, Some("GET /v1/models?limit=1 HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "a path without the prefix",
        head: "POST /embeddings HTTP/1.1\r\nContent-Length: 2\r\n",
        expected: (200, Some("POST /v1/embeddings HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "dot segments",
        head: "POST /v1/chat/completions/%2e%2e/models HTTP/1.1\r\nContent-Length: 2\r\n",
        expected: (400, None),
        ..CASE
    },
    Case {
        name: "a path that the backend doesn't serve",
        backend: r#""paths":["/embeddings"]"#,
        expected: (404, None),
        ..CASE
    },
    Case {
        name: "an unknown backend",
        head: "POST /v1/chat/completions HTTP/1.1\r\nX-Proxy-Backend: no\r\nContent-Length: 2\r\n",
        expected: (404, None),
        ..CASE
    },
    Case {
        name: "a selected backend",
        is_second: true,
        head: "POST /v1/chat/completions HTTP/1.1\r\nX-Proxy-Backend: LLM1\r\nContent-Length: 2\r\n",
        ..CASE
    },
    Case {
        name: "fields",
        head: "POST /v1/chat/completions HTTP/1.1\r\nX-One: 1\r\nConnection: x-two\r\nX-Two: 2\r\n\
               x-one: 3\r\nKeep-Alive: 5\r\nCookie: a=b\r\nContent-Length: 2\r\n",
        ..CASE
    },
    Case {
        name: "a model that is replaced",
        backend: r#""model":"other""#,
        ..CASE
    },
    Case {
        name: "a model that can't be replaced",
        backend: r#""model":"other""#,
        head: "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 4\r\n",
        body: "null",
        expected: (400, None),
        ..CASE
    },
    Case {
        name: "a large body",
        settings: r#""max_body_bytes":1"#,
        expected: (413, None),
        ..CASE
    },
    Case {
        name: "a large body of unknown length",
        settings: r#""max_body_bytes":1"#,
        is_second: true,
        head: "POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
        body: "2\r\n{}\r\n0\r\n\r\n",
        expected: (413, None),
        ..CASE
    },
    Case {
        name: "a buffer that is full",
        settings: r#""max_held_bytes":1"#,
        is_second: true,
        expected: (503, None),
        ..CASE
    },
    Case {
        name: "a client that is idle",
        settings: r#""idle_timeout":0.3"#,
        head: "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 3\r\n",
        does: Does::Stall(""),
        expected: (408, Some("POST /v1/chat/completions HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "a backend that doesn't answer",
        settings: r#""timeout":0.3"#,
        does: Does::Stall(""),
        expected: (504, Some("POST /v1/chat/completions HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "a backend that is idle",
        settings: r#""idle_timeout":0.3"#,
        does: Does::Stall("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
        ..CASE
    },
    Case {
        name: "an exchange that takes too long before its headers",
        settings: r#""total_timeout":0.3"#,
        does: Does::Stall(""),
        expected: (504, Some("POST /v1/chat/completions HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "an exchange that takes too long",
        settings: r#""total_timeout":0.3"#,
        does: Does::Stall("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
        ..CASE
    },
    Case {
        name: "a backend that closes the connection",
        does: Does::Close,
        expected: (502, Some("POST /v1/chat/completions HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "the models of all backends",
        is_second: true,
        head: "GET /v1/models HTTP/1.1\r\nAccept-Encoding: gzip\r\n",
        body: "",
        does: Does::Answer(r#"{"object":"list","data":[{"id":"m"}],"more":0}"#),
        expected: (200, Some("GET /v1/models HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "the first backend's models",
        settings: r#""merge_models":false"#,
        is_second: true,
        head: "GET /v1/models HTTP/1.1\r\nAccept-Encoding: gzip\r\n",
        body: "",
        expected: (200, Some("GET /v1/models HTTP/1.1")),
        ..CASE
    },
    Case {
        name: "failover",
        is_second: true,
        ..CASE
    },
];

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn whole(config: Config) -> Router {
    let layer = OpenAiProxyLayer::builder(config)
        .prefixes(["/", "/v1"])
        .all_paths()
        .build();
    Router::new().layer(layer)
}

fn by_hand(config: Config) -> Router {
    let stack = ServiceBuilder::new()
        .layer(KeysLayer::from_config(&config))
        .layer(ObserveLayer::new())
        .layer(DeadlineLayer::from_config(&config))
        .layer(AuthPassthroughLayer::from_config(&config))
        .layer(MergeModelsLayer::from_config(&config))
        .layer(BackendRouteLayer::from_config(&config))
        .layer(ModelOverrideLayer::new())
        .layer(TimeoutLayer::new())
        .service(Forward::new());
    let answered = HandleError::new(stack, async |error: Error| error.to_response::<Body>());
    Router::new().fallback_service(answered)
}

/// The whole, with hyper-util's client in place of `Forward`.
fn with_another_client(config: Config) -> Router {
    let client = Client::builder(TokioExecutor::new()).build_http::<RequestBody>();
    let forward = ServiceBuilder::new()
        .layer(UpstreamRequestLayer::new())
        .map_err(|error: legacy::Error| {
            if error.is_connect() {
                Error::connect(error)
            } else {
                Error::closed_before_response(error)
            }
        })
        .service(client);
    let layer = OpenAiProxyLayer::builder(config)
        .prefixes(["/", "/v1"])
        .all_paths()
        .forward(forward)
        .build();
    Router::new().layer(layer)
}

/// What the client gets: the head without `Date`, the body, and whether it is truncated.
async fn ask(address: SocketAddr, case: &Case, auth: &str) -> (u16, String) {
    let mut client = Wire::connect(address).await;
    let (head, body) = (case.head, case.body);
    client
        .send(format!("{head}Host: proxy.test\r\n{auth}\r\n{body}"))
        .await;
    let mut message = Message {
        head: client.head().await,
        body: Vec::new(),
    };
    let (body, is_truncated) = match soon("a body", client.try_body(&message)).await {
        Ok(body) => (body, false),
        Err(begun) => (begun, true),
    };
    let lines = message.head.split_inclusive("\r\n");
    message.head = lines.filter(|line| !line.starts_with("date:")).collect();
    let body = String::from_utf8_lossy(&body);
    let seen = format!("{}{body} truncated={is_truncated}", message.head);
    (message.status(), seen)
}

/// What the backend gets, if it is contacted.
async fn play(backend: &Backend, does: &Does) -> String {
    let mut wire = backend.accept().await;
    let mut request = Message {
        head: wire.head().await,
        body: Vec::new(),
    };
    match does {
        Does::Answer(body) => {
            request.body = wire.try_body(&request).await.expect("a whole request");
            wire.send(response("200 OK", body)).await;
        }
        Does::Stall(bytes) => {
            wire.send(bytes).await;
            wire.rest().await;
        }
        Does::Close => {}
    }
    let head = request
        .head
        .replace(&backend.address.to_string(), "BACKEND");
    format!("{head}{}", String::from_utf8_lossy(&request.body))
}

/// Sends the request of a case through an app: what the client gets, and the backend.
async fn run(case: &Case, auth: &str, app: fn(Config) -> Router) -> (u16, String, Option<String>) {
    let backend = Backend::start().await;
    let mut entries = vec![entry("LLM1", backend.address, case.backend)];
    if case.is_second {
        entries.insert(0, entry("LLM0", nobody().await, ""));
    }
    let config = config_of(&entries, case.settings);
    let address = serve(app(config.parse().expect("a configuration"))).await;
    let mut played = pin!(play(&backend, &case.does));
    let mut asked = pin!(ask(address, case, auth));
    let (status, answer, request) = tokio::select! {
        biased;
        request = &mut played => {
            let (status, answer) = asked.await;
            (status, answer, Some(request))
        }
        (status, answer) = &mut asked => {
            // A backend that stalls sees the end.
            let request = timeout(Duration::from_millis(200), played).await.ok();
            (status, answer, request)
        }
    };
    (status, answer, request)
}

#[tokio::test]
async fn layers_stacked_by_hand_do_what_the_whole_does() {
    for case in CASES {
        let whole = run(case, AUTH, whole).await;
        let (status, line) = case.expected;
        assert_eq!(whole.0, status, "{}: {}", case.name, whole.1);
        let first = whole.2.as_ref().and_then(|request| request.lines().next());
        assert_eq!(first, line, "{}", case.name);
        assert_eq!(run(case, AUTH, by_hand).await, whole, "{}", case.name);
    }
}

#[tokio::test]
async fn another_client_gets_what_a_backend_would_get() {
    /// The lines of a request in order: clients may write fields in another one.
    fn sorted(request: Option<String>) -> Option<Vec<String>> {
        let mut lines: Vec<_> = request?.lines().map(str::to_owned).collect();
        lines.sort();
        Some(lines)
    }

    for case in CASES {
        let (status, answer, request) = run(case, AUTH, with_another_client).await;
        let (expected_status, expected, expected_request) = run(case, AUTH, whole).await;
        assert_eq!(status, expected_status, "{}", case.name);
        // hyper closes a connection whose request body is dropped before its end.
        let answer = answer.replace("connection: close\r\n", "");
        assert_eq!(answer, expected, "{}", case.name);
        assert_eq!(sorted(request), sorted(expected_request), "{}", case.name);
    }
}

#[tokio::test]
async fn another_client_gets_the_operators_key_and_none_of_the_clients() {
    let backend = Backend::start().await;
    let own = BackendConfig::new("LLM1", backend.url()).api_key("sk-operator");
    let config = Config::builder()
        .backend(own)
        .build()
        .expect("a configuration");
    let address = serve(with_another_client(config)).await;
    let case = Case {
        head: "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\
               Cookie: session=sk-client\r\napi-key: sk-client\r\nx-api-key: sk-client\r\n",
        ..CASE
    };
    let (asked, request) = tokio::join!(ask(address, &case, AUTH), play(&backend, &case.does));
    assert_eq!(asked.0, 200);
    assert!(
        request.contains("authorization: Bearer sk-operator\r\n"),
        "{request}"
    );
    assert!(
        !request.contains("sk-client") && !request.contains("sk-test"),
        "{request}"
    );
}

#[tokio::test]
async fn credentials_are_required_by_both_unless_the_configuration_says_otherwise() {
    let optional = Case {
        settings: r#""require_auth":false"#,
        ..CASE
    };
    for (case, status) in [(CASE, 401), (optional, 200)] {
        let whole = run(&case, "", whole).await;
        assert_eq!(whole.0, status, "{}", whole.1);
        assert_eq!(run(&case, "", by_hand).await, whole);
    }
}

#[tokio::test]
async fn client_keys_hold_in_both() {
    let hash = keys::hash("sk-test");
    let limits = r#""paths":["/chat/completions"],"models":["gpt-*"],"requests_per_minute":60"#;
    let keys = format!(r#"{{"keys":[{{"name":"alice","hash":"{hash}",{limits}}}]}}"#);
    let keys = TempFile::new("keys.json", &keys);
    let path = serde_json::Value::from(keys.path.to_str());
    let settings = format!(r#""keys_file":{path}"#).leak();
    let good = Case {
        settings,
        head: "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 17\r\n",
        body: r#"{"model":"gpt-4"}"#,
        ..CASE
    };
    let elsewhere = Case {
        settings,
        head: "GET /v1/files HTTP/1.1\r\n",
        body: "",
        ..CASE
    };
    let other_model = Case {
        settings,
        head: good.head,
        body: r#"{"model":"gpx-4"}"#,
        ..CASE
    };
    for (case, auth, status) in [
        (&good, AUTH, 200),
        (&good, "api-key: sk-test\r\n", 200),
        (&good, "", 401),
        (&good, "Authorization: Bearer sk-other\r\n", 401),
        (&elsewhere, AUTH, 403),
        (&other_model, AUTH, 403),
    ] {
        let whole = run(case, auth, whole).await;
        assert_eq!(whole.0, status, "{}", whole.1);
        assert_eq!(whole.2.is_some(), status == 200);
        assert!(!whole.2.as_deref().unwrap_or_default().contains("sk-test"));
        assert_eq!(run(case, auth, by_hand).await, whole);
    }
}
