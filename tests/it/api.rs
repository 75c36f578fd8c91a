//! The whole API: which paths are served and by whom, and where the model of a request is replaced.

use axum::Router;
use tokio::net::TcpListener;
use tower_openai_proxy::{Config, OpenAiProxyLayer, proxy, route::select_fn};

use crate::support::{
    Backend, Message, Record, Server, Wire, chunked, config_of, config_with, entry,
    http2::{self, Http2},
    nobody, response, soon,
};

const AUTHORIZED: &str = "authorization: Bearer sk-test\r\n";

const KEY: &str = r#""api_key_env":"OWN_KEY""#;

/// It has to be escaped in JSON and in a URL, but not in a form.
const MODEL: &str = r#""model":"my \"m\"/ü+1""#;
const IN_JSON: &str = r#""my \"m\"/ü+1""#;
const IN_URL: &str = "my%20%22m%22%2F%C3%BC%2B1";
const IN_FORM: &str = r#"my "m"/ü+1"#;

/// A server with recording backends `LLM1`, `LLM2`…, and a client.
struct Bench {
    client: Wire,
    backends: Vec<Record>,
    server: Server,
}

impl Bench {
    /// One backend for each of these fields.
    async fn start(fields: &[&str], settings: &str) -> Self {
        let mut entries = Vec::new();
        let mut backends = Vec::new();
        for (number, fields) in (1..).zip(fields) {
            let backend = Backend::start().await;
            let name = format!("LLM{number}");
            entries.push(entry(&name, backend.address, fields));
            let answer = format!("HTTP/1.1 204 No Content\r\nx-from: {name}\r\n\r\n");
            backends.push(backend.record_all(answer));
        }
        let config = config_of(&entries, settings);
        let server = Server::start_with(&config, &[], &[("OWN_KEY", "sk-own")]);
        Self {
            client: Wire::connect(server.address).await,
            backends,
            server,
        }
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.client.send(&request).await;
        if !request.as_ref().starts_with(b"HEAD ") {
            return self.client.response().await;
        }
        Message {
            head: self.client.head().await,
            body: Vec::new(),
        }
    }

    /// What arrives of a request, at any backend.
    async fn arrives(&mut self, request: impl AsRef<[u8]>) -> Message {
        let answer = self.ask(&request).await;
        let request = String::from_utf8_lossy(request.as_ref());
        assert_eq!(answer.status(), 204, "{request}\n{answer:?}");
        self.take().expect("a request")
    }

    /// The status of the proxy's own response to a request that no backend gets.
    async fn refused(&mut self, request: impl AsRef<[u8]>) -> u16 {
        let answer = self.ask(&request).await;
        assert!(self.take().is_none());
        let code = match answer.status() {
            401 => "http_request_denied",
            404 => "destination_not_found",
            _ => "http_request_error",
        };
        let request = String::from_utf8_lossy(request.as_ref());
        assert_eq!(answer.error_code(), code, "{request}");
        answer.status()
    }

    /// Who serves a request: the number of the backend, or 0.
    async fn server_of(&mut self, request: &str) -> usize {
        let answer = self.ask(request).await;
        let arrived = self.take().is_some();
        let name = answer.field("x-from");
        assert_eq!(arrived, name.is_some(), "{request}");
        match name {
            Some(name) => name["LLM".len()..].parse().expect("a number"),
            None => {
                assert_eq!(answer.status(), 404, "{request}");
                let error = answer.field("proxy-status").expect("an error");
                assert!(error.ends_with("; error=destination_not_found"), "{error}");
                0
            }
        }
    }

    /// The only request since the last call.
    fn take(&self) -> Option<Message> {
        let mut requests: Vec<_> = self.backends.iter().flat_map(Record::take).collect();
        assert!(requests.len() < 2, "{requests:?}");
        requests.pop()
    }
}

/// A request without a body.
fn bare(start: &str, fields: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}{fields}\r\n")
}

/// A request with a body.
fn with_body(start: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    bare(start, &format!("{fields}Content-Length: {length}\r\n")) + body
}

/// The same, in chunks.
fn in_chunks(start: &str, fields: &str, body: &str) -> Vec<u8> {
    let head = bare(start, &format!("{fields}Transfer-Encoding: chunked\r\n"));
    [head.into_bytes(), chunked(body.as_bytes(), &[1, 7, 20])].concat()
}

fn content_type(kind: &str) -> String {
    match kind {
        "" => String::new(),
        kind => format!("Content-Type: {kind}\r\n"),
    }
}

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).expect("UTF-8")
}

// ---- Paths ----

/// Paths, and how they arrive below `/v1`.
const PATHS: [(&str, &str); 26] = [
    ("/v1/agents/x%2Fy?beta=true", "/agents/x%2Fy?beta=true"),
    ("/responses", "/responses"),
    ("/v1/responses", "/responses"),
    ("/v1/responses/", "/responses/"),
    ("/models", "/models"),
    ("/v1/v1/models", "/v1/models"),
    ("/v1x", "/v1x"),
    ("/V1/models", "/V1/models"),
    ("/v1%2Fmodels", "/v1%2Fmodels"),
    ("/%76%31/models", "/%76%31/models"),
    ("/v2/chat/completions", "/v2/chat/completions"),
    ("/chat", "/chat"),
    ("/chat/completionsx", "/chat/completionsx"),
    ("/Chat/Completions", "/Chat/Completions"),
    ("/v1/chat%2Fcompletions", "/chat%2Fcompletions"),
    ("//chat/completions", "//chat/completions"),
    ("//v1/chat/completions", "//v1/chat/completions"),
    ("/v1//chat//completions//", "//chat//completions//"),
    ("/healthz", "/healthz"),
    ("/v1/health", "/health"),
    ("/health/", "/health/"),
    (
        "/v1/files/a%20b/content?x=%2F&y",
        "/files/a%20b/content?x=%2F&y",
    ),
    ("/a/..b/c../.../.d", "/a/..b/c../.../.d"),
    ("/v1/a;b=c/d:e@f!$&'()*+,=~", "/a;b=c/d:e@f!$&'()*+,=~"),
    ("/a%zz%2/%FF%00", "/a%zz%2/%FF%00"),
    ("/x?a=1&a=2&&=&%zz&p=/../.?#", "/x?a=1&a=2&&=&%zz&p=/../.?"),
];

#[tokio::test]
async fn every_path_arrives_below_the_base_url_byte_for_byte() {
    let mut bench = Bench::start(&[""], "").await;
    for (target, expected) in PATHS {
        for method in ["GET", "POST", "DELETE", "PURGE"] {
            let request = with_body(&format!("{method} {target}"), "", "");
            let arrived = bench.arrives(request).await;
            let expected = format!("{method} /v1{expected} HTTP/1.1");
            assert_eq!(arrived.start_line(), expected, "{target}");
        }
    }
}

#[tokio::test]
async fn every_path_of_http2_arrives_as_well() {
    let bench = Bench::start(&[""], "").await;
    let client = Http2::connect(bench.server.address).await;
    for (target, expected) in PATHS {
        let uri = format!("http://proxy.test{target}");
        let request = client.request("GET").uri(uri).body(http2::full(""));
        let answer = client.send(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 204, "{target}");
        let arrived = bench.take().unwrap();
        let expected = format!("GET /v1{expected} HTTP/1.1");
        assert_eq!(arrived.start_line(), expected, "{target}");
    }
}

#[tokio::test]
async fn what_a_base_url_has_is_kept_on_every_path() {
    for (base, expected) in [
        ("", "/files/x?after=1"),
        ("/", "/files/x?after=1"),
        ("/deep/v1/", "/deep/v1/files/x?after=1"),
        (
            "/openai?api-version=9",
            "/openai/files/x?api-version=9&after=1",
        ),
    ] {
        let backend = Backend::start().await;
        let config = config_of(&[entry("LLM1", backend.address, "")], "");
        let server = Server::start(&config.replace("/v1", base));
        let record = backend.record_all(response("200 OK", ""));
        let mut client = Wire::connect(server.address).await;
        client.send(bare("GET /v1/files/x?after=1", "")).await;
        assert_eq!(client.response().await.status(), 200);
        let arrived = &record.take()[0];
        assert_eq!(arrived.start_line(), format!("GET {expected} HTTP/1.1"));
    }
}

#[tokio::test]
async fn on_every_path_the_response_passes_as_it_is() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, ""));
    let mut client = Wire::connect(server.address).await;
    client
        .send(with_body("POST /v1/audio/speech", "", "{}"))
        .await;
    let mut wire = backend.accept().await;
    wire.request().await;
    let head = "HTTP/1.1 201 Made it\r\nlocation: /v1/audio/x%2Fy?z\r\ncontent-type: audio/mpeg\r\n\
        x-request-id: req_1\r\ndate: d\r\ntransfer-encoding: chunked\r\n\r\n";
    wire.send(head).await;
    assert_eq!(client.head().await, head);
    for chunk in [&b"3\r\n\0\xff\n\r\n"[..], b"1\r\n\x1f\r\n", b"0\r\n\r\n"] {
        wire.send(chunk).await;
        assert_eq!(client.exactly(chunk.len()).await, chunk);
    }
}

/// A path of each row, and whether a layer proxies it.
async fn layer_proxies(build: fn(proxy::Builder) -> proxy::Builder, rows: &[(&str, Option<&str>)]) {
    let backend = Backend::start().await;
    let config: Config = config_with(&backend, "").parse().unwrap();
    let layer = build(OpenAiProxyLayer::builder(config)).build();
    let record = backend.record_all(response("200 OK", "backend"));
    let app = Router::new().fallback(async || "app").layer(layer);
    let mut client = Wire::connect(serve(app).await).await;
    for (path, arrives) in rows {
        client.send(bare(&format!("GET {path}"), "")).await;
        let answer = client.response().await;
        let arrived = record.take().pop();
        let arrived = arrived.as_ref().map(Message::start_line);
        let expected = arrives.map(|path| format!("GET /v1{path} HTTP/1.1"));
        assert_eq!(arrived, expected.as_deref(), "{path}");
        let from = if expected.is_some() { "backend" } else { "app" };
        assert_eq!(text(&answer.content()), from, "{path}");
    }
}

async fn serve(app: Router) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_layer_takes_chat_completions_and_what_else_it_is_told_to() {
    let chat = Some("/chat/completions");
    let by_default = [
        ("/chat/completions", chat),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions/x", Some("/chat/completions/x")),
        ("/v1/responses", None),
        ("/responses", None),
    ];
    layer_proxies(|builder| builder, &by_default).await;
    let all = [
        ("/v1/chat/completions", chat),
        ("/chat/completions", chat),
        ("/v1/responses?x", Some("/responses?x")),
        ("/v1/v1/x", Some("/v1/x")),
        ("/responses", None),
        ("/v1", None),
        ("/v1/", None),
    ];
    layer_proxies(proxy::Builder::all_paths, &all).await;
    let prefixed = [
        ("/llm/responses", Some("/responses")),
        ("/llm/v1/responses", Some("/v1/responses")),
        ("/llm/", None),
        ("/v1/responses", None),
        ("/v1/chat/completions", None),
    ];
    layer_proxies(|builder| builder.prefixes(["/llm"]).all_paths(), &prefixed).await;
    let some = [
        ("/v1/files/x", Some("/files/x")),
        ("/v1/responses", Some("/responses")),
        ("/v1/files", None),
        ("/v1/responses/x", None),
        ("/files/x", None),
    ];
    layer_proxies(|builder| builder.paths(["/files/*", "/responses"]), &some).await;
}

// ---- Which backend serves a path ----

#[tokio::test]
async fn a_backend_serves_the_paths_that_its_patterns_match() {
    let fields = [
        r#""paths":["/responses","/audio*"]"#,
        r#""paths":["/responses/*","/files"]"#,
        r#""paths":["/chat/completions","/a/b/*","/models/*"]"#,
    ];
    let mut bench = Bench::start(&fields, "").await;
    for (target, expected) in [
        ("/v1/responses", 1),
        ("/responses?x=/files", 1),
        ("//responses", 1),
        ("/v1/respon%73es", 1),
        ("/responses/", 0),
        ("/Responses", 0),
        ("/responsesx", 0),
        ("/responses/x", 2),
        ("/responses/x/y/", 2),
        ("/responses//x", 2),
        ("/responses%2Fx", 2),
        ("/responses%2f", 0),
        ("/audio", 1),
        ("/audio/speech", 1),
        ("/audiobook", 1),
        ("/files", 2),
        ("/files/x", 0),
        ("/v1/chat/completions", 3),
        ("/chat/completions/x", 0),
        ("/a//b/%2Fc", 3),
        ("/a/b", 0),
        ("/a/b/", 0),
        ("/models/m", 3),
        ("/models", 0),
        ("/v1/v1/responses", 0),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let request = bare(&format!("{method} {target}"), "Content-Length: 0\r\n");
            assert_eq!(
                bench.server_of(&request).await,
                expected,
                "{method} {target}"
            );
        }
    }
    // A name opens nothing.
    for (name, target, expected) in [
        ("LLM2", "/files", 2),
        ("LLM1", "/files", 0),
        ("LLM2", "/responses", 0),
        ("LLM4", "/files", 0),
    ] {
        let request = bare(
            &format!("GET {target}"),
            &format!("X-Proxy-Backend: {name}\r\n"),
        );
        assert_eq!(bench.server_of(&request).await, expected, "{name} {target}");
    }
    // It is forwarded as it was sent.
    let arrived = bench.arrives(bare("GET //respon%73es", "")).await;
    assert_eq!(arrived.start_line(), "GET /v1//respon%73es HTTP/1.1");
}

#[tokio::test]
async fn a_bad_pattern_is_a_configuration_error() {
    let address = nobody().await;
    for paths in [
        "[]",
        r#"[""]"#,
        r#"["responses"]"#,
        r#"["/v1/responses"]"#,
        r#"["/a*b"]"#,
        r#"["/a/../b"]"#,
        r#"["*", "/a b"]"#,
        r#""*""#,
    ] {
        let config = config_of(
            &[entry("LLM1", address, &format!(r#""paths":{paths}"#))],
            "",
        );
        let error = config.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("`primary_backends[0].paths"), "{error}");
    }
}

const ANSWERS: [&str; 13] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
    "/embeddings",
    "/moderations",
    "/audio/transcriptions",
    "/audio/translations",
    "/audio/speech",
    "/images/generations",
    "/images/edits",
    "/images/variations",
];

#[tokio::test]
async fn the_operators_key_is_sent_for_answers_and_lists_of_models_only() {
    let mut bench = Bench::start(&[KEY], "").await;
    let mut rows = Vec::new();
    for path in ANSWERS {
        rows.push(("POST", path.to_owned(), true));
        rows.push(("POST", format!("/{path}"), true));
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            rows.push((method, path.to_owned(), false));
        }
        for below in ["/", "/x", "%2Fx", "/x/cancel"] {
            rows.push(("POST", format!("{path}{below}"), false));
            rows.push(("GET", format!("{path}{below}"), false));
        }
    }
    for path in ["/models", "/models/m", "/models/a/b", "/models/a%2Fb"] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            rows.push((method, path.to_owned(), matches!(method, "GET" | "HEAD")));
        }
    }
    for path in [
        "/models/",
        "/files",
        "/files/f/content",
        "/batches",
        "/batches/b/cancel",
        "/videos",
        "/assistants",
        "/threads/runs",
        "/vector_stores",
        "/fine_tuning/jobs",
        "/conversations",
        "/containers",
        "/organization",
        "/organization/admin_api_keys",
        "/projects",
        "/projects/p/keys",
        "/realtime",
        "/Embeddings",
        "/v1/embeddings",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            rows.push((method, path.to_owned(), false));
        }
    }
    for (method, path, is_served) in rows {
        let request = with_body(&format!("{method} /v1{path}"), "", "");
        let expected = usize::from(is_served);
        assert_eq!(bench.server_of(&request).await, expected, "{method} {path}");
    }
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (path, expected) in [
        ("/realtime", 1),
        ("/responses", 1),
        ("/models", 0),
        ("/files", 0),
        ("/realtime/sessions", 0),
    ] {
        let request = bare(&format!("GET {path}"), upgrade);
        assert_eq!(bench.server_of(&request).await, expected, "{path}");
    }
}

#[tokio::test]
async fn with_paths_the_operators_key_opens_what_they_name() {
    let all = format!(r#"{KEY},"paths":["*"]"#);
    let some = format!(r#"{KEY},"paths":["/files*","/organization/usage/*","/projects"]"#);
    let everything = format!(r#"{KEY},"paths":["*","/organization*","/projects*"]"#);
    for (fields, request, expected) in [
        (&all, "GET /v1/files", true),
        (&all, "DELETE /v1/files/f", true),
        (&all, "GET /v1/chat/completions", true),
        (&all, "POST /v1/batches", true),
        (&all, "GET /v1/organization", false),
        (&all, "GET /v1/organization/users", false),
        (&all, "GET /v1//organi%7Aation%2Fusers", false),
        (&all, "GET /v1/organization;x/users", false),
        (&all, "GET /v1/projects", false),
        (&all, "POST /v1/projects/p", false),
        (&all, "GET /v1/organizations", true),
        (&some, "DELETE /v1/files/f", true),
        (&some, "POST /v1/chat/completions", false),
        (&some, "GET /v1/organization/usage/costs", true),
        (&some, "GET /v1/organization/users", false),
        (&some, "DELETE /v1/projects", true),
        (&some, "GET /v1/projects/p", false),
        (&everything, "DELETE /v1/organization/users/u", true),
        (&everything, "GET /v1/projects", true),
    ] {
        let mut bench = Bench::start(&[fields], "").await;
        let served = bench.server_of(&with_body(request, "", "")).await;
        assert_eq!(served, usize::from(expected), "{fields}: {request}");
    }
}

#[tokio::test]
async fn with_the_clients_own_credentials_everything_passes() {
    let mut bench = Bench::start(&[KEY, ""], "").await;
    for (request, expected) in [
        ("POST /v1/embeddings", 1),
        ("GET /v1/files", 2),
        ("DELETE /v1/organization/users/u", 2),
        ("GET /v1/chat/completions/x", 2),
    ] {
        let request = with_body(request, "", "");
        let answer = bench.ask(&request).await;
        let name = format!("LLM{expected}");
        assert_eq!(answer.field("x-from"), Some(name), "{request}");
        let key = if expected == 1 { "sk-own" } else { "sk-test" };
        let arrived = bench.take().unwrap().field("authorization");
        assert_eq!(arrived, Some(format!("Bearer {key}")), "{request}");
    }
}

// ---- Preflights ----

/// A preflight that announces this method, with credentials that no browser would send.
fn preflight(path: &str, method: &str, fields: &str) -> String {
    format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: proxy.test\r\nOrigin: https://app.test\r\n\
         Access-Control-Request-Method: {method}\r\n{fields}\r\n"
    )
}

#[tokio::test]
async fn a_preflight_needs_no_credentials_and_is_sent_without_any() {
    for own in ["", KEY] {
        let mut bench = Bench::start(&[own], "").await;
        for fields in [
            "",
            "Authorization: Bearer sk-client\r\nCookie: a=b\r\n",
            "api-key: sk-client\r\nx-api-key: sk-client\r\nCookie: a\r\nCookie: b\r\n",
        ] {
            let request = preflight("/v1/responses", "POST", fields);
            let arrived = bench.arrives(request).await;
            let expected = format!(
                "OPTIONS /v1/responses HTTP/1.1\r\nhost: {}\r\norigin: https://app.test\r\n\
                 access-control-request-method: POST\r\n\r\n",
                bench.backends[0].address
            );
            assert_eq!(arrived.head, expected);
        }
    }
}

#[tokio::test]
async fn an_options_that_is_no_preflight_needs_credentials() {
    let mut bench = Bench::start(&[""], "").await;
    let preflight = preflight("/v1/responses", "POST", "");
    for left_out in [
        "Origin: https://app.test\r\n",
        "Access-Control-Request-Method: POST\r\n",
    ] {
        let request = preflight.replace(left_out, "");
        assert_eq!(bench.refused(&request).await, 401, "{left_out}");
        let request = request.replace("\r\n\r\n", &format!("\r\n{AUTHORIZED}\r\n"));
        let arrived = bench.arrives(request).await;
        let key = arrived.field("authorization");
        assert_eq!(key.as_deref(), Some("Bearer sk-test"), "{left_out}");
    }
    let request = preflight.replace("OPTIONS", "GET");
    assert_eq!(bench.refused(request).await, 401);
}

#[tokio::test]
async fn a_preflight_goes_where_the_announced_method_is_served() {
    let mut bench = Bench::start(&[KEY, r#""paths":["/files*"]"#], "").await;
    for (path, method, expected) in [
        ("/v1/embeddings", "POST", 1),
        ("/v1/embeddings", "DELETE", 0),
        ("/v1/models", "GET", 1),
        ("/v1/models", "POST", 0),
        ("/v1/files/f", "DELETE", 2),
        ("/v1/batches", "POST", 0),
    ] {
        let request = preflight(path, method, "");
        assert_eq!(bench.server_of(&request).await, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn only_a_failed_connection_moves_a_preflight_on() {
    let [first, second] = [Backend::start().await, Backend::start().await];
    let entries = [
        entry("LLM1", nobody().await, ""),
        entry("LLM2", first.address, ""),
        entry("LLM3", second.address, ""),
    ];
    let server = Server::start(&config_of(&entries, r#""failover_on":[405,500,503]"#));
    let mut client = Wire::connect(server.address).await;
    for status in ["405 Not here", "503 Not now", "500 Oh", "204 Fine"] {
        client.send(preflight("/v1/x", "POST", "")).await;
        let mut wire = first.accept().await;
        wire.request().await;
        let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        wire.send(answer).await;
        let line = format!("HTTP/1.1 {status}");
        assert_eq!(client.response().await.start_line(), line);
    }
    assert!(!second.is_contacted().await);
}

// ---- Limits, and bodies that stream through ----

const FORM: &str = "multipart/form-data; boundary=x";

#[tokio::test]
async fn json_has_one_limit_and_what_streams_through_another() {
    let settings = r#""max_body_bytes":150,"max_upload_bytes":200"#;
    for (fields, rows) in [
        (
            &[""][..],
            &[
                ("/v1/files", FORM, 200),
                ("/v1/files", "application/jsonl", 200),
                ("/v1/files", "application/octet-stream", 200),
                ("/v1/chat/completions", FORM, 200),
                ("/v1/chat/completions", "text/plain", 200),
                ("/v1/files", "application/json", 150),
                ("/v1/files", "Application/X+JSON; charset=utf-8", 150),
                ("/v1/files", "", 150),
                ("/v1/chat/completions", "", 150),
            ][..],
        ),
        (
            &["", ""],
            &[
                ("/v1/files", "audio/mpeg", 200),
                ("/v1/files", "application/json", 150),
            ],
        ),
        (
            &[MODEL],
            &[
                ("/v1/files", FORM, 200),
                ("/v1/audio/translations/x", FORM, 200),
                // Buffered for their model.
                ("/v1/audio/translations", FORM, 150),
                ("/v1/chat/completions", "text/plain", 150),
            ],
        ),
    ] {
        let mut bench = Bench::start(fields, settings).await;
        for &(path, kind, limit) in rows {
            let start = format!("POST {path}");
            let kind = content_type(kind);
            for length in [limit, limit + 1] {
                // A body that is fine for every reader.
                let is_json = !kind.contains("multipart");
                let body = if is_json {
                    format!("{{{}}}", " ".repeat(length - 2))
                } else {
                    let part = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";
                    let end = "\r\n--x--\r\n";
                    let padding = " ".repeat(length - part.len() - end.len());
                    format!("{part}{padding}{end}")
                };
                let request = with_body(&start, &kind, &body);
                if length == limit {
                    let arrived = bench.arrives(&request).await;
                    assert!(arrived.body.len() >= limit, "{path} {kind}");
                } else {
                    assert_eq!(bench.refused(&request).await, 413, "{path} {kind}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_upload_over_its_limit_is_413_before_a_head_and_a_cut_after_it() {
    let backend = Backend::start().await;
    let settings = r#""max_body_bytes":5,"max_upload_bytes":10"#;
    let server = Server::start(&config_with(&backend, settings));
    let fields = "Content-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n";
    let head = bare("POST /v1/files", fields);
    for has_head in [false, true] {
        let mut client = Wire::connect(server.address).await;
        client.send(format!("{head}a\r\n0123456789\r\n")).await;
        let mut wire = backend.accept().await;
        wire.until("0123456789\r\n").await;
        if has_head {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
                .await;
            client.until("part").await;
        }
        client.send("1\r\nx\r\n").await;
        if has_head {
            client.closed().await;
        } else {
            let answer = client.response().await;
            assert_eq!(answer.status(), 413);
            assert_eq!(answer.error_code(), "http_request_error");
        }
        // Truncated, not ended.
        wire.closed().await;
    }
}

/// A server with three backends, at the first of which nobody listens.
async fn three(settings: &str) -> (Backend, Backend, Server) {
    let [second, third] = [Backend::start().await, Backend::start().await];
    let entries = [
        entry("LLM1", nobody().await, ""),
        entry("LLM2", second.address, ""),
        entry("LLM3", third.address, ""),
    ];
    let server = Server::start(&config_of(&entries, settings));
    (second, third, server)
}

#[tokio::test]
async fn with_several_backends_an_upload_streams_to_the_first_that_can_be_connected_to() {
    let (second, third, server) = three("").await;
    for kind in [FORM, "application/octet-stream", "application/jsonl"] {
        let mut client = Wire::connect(server.address).await;
        let fields = format!("Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n");
        client.send(bare("POST /v1/files", &fields)).await;
        client.send("3\r\none\r\n").await;
        let mut wire = second.accept().await;
        // Before the client has sent all.
        wire.until("3\r\none\r\n").await;
        client.send("3\r\ntwo\r\n0\r\n\r\n").await;
        wire.until("3\r\ntwo\r\n0\r\n\r\n").await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(client.response().await.status(), 200, "{kind}");
    }
    assert!(!third.is_contacted().await);
}

#[tokio::test]
async fn an_upload_that_was_begun_moves_on_no_more() {
    let (second, third, server) = three(r#""failover_on":[503],"cooldown":0"#).await;
    let upload = with_body("POST /v1/files", &content_type("audio/mpeg"), "sound");
    let mut client = Wire::connect(server.address).await;
    for (answer, status) in [
        (
            "HTTP/1.1 503 Not now\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            503,
        ),
        ("", 502),
    ] {
        client.send(&upload).await;
        let mut wire = second.accept().await;
        assert_eq!(wire.request().await.body, b"sound");
        wire.send(answer).await;
        drop(wire);
        assert_eq!(client.response().await.status(), status);
    }
    assert!(!third.is_contacted().await);
    // A body that was buffered does.
    client.send(with_body("POST /v1/files", "", "{}")).await;
    let mut wire = second.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 503 Not now\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    let mut wire = third.accept().await;
    assert_eq!(wire.request().await.body, b"{}");
    wire.send(response("200 OK", "")).await;
    assert_eq!(client.response().await.status(), 200);
}

// ---- The model ----

#[tokio::test]
async fn without_a_reason_nothing_is_looked_into() {
    let mut bench = Bench::start(&[""], "").await;
    for (path, fields, body) in [
        ("/v1/chat/completions", "", "no JSON"),
        (
            "/v1/responses",
            "Content-Type: application/json\r\n",
            "{\"model\":",
        ),
        ("/v1/responses", "Content-Type: application/json\r\n", "[]"),
        ("/v1/responses", "", "{\"model\":\"a\",\"model\":\"b\"}"),
        ("/v1/responses", "Content-Encoding: gzip\r\n", "\u{1f}\u{1}"),
        (
            "/v1/audio/transcriptions",
            "Content-Type: multipart/form-data\r\n",
            "?",
        ),
        (
            "/v1/videos",
            "Content-Type: multipart/form-data; boundary=x\r\n",
            "--y",
        ),
    ] {
        let start = format!("POST {path}");
        let arrived = bench.arrives(with_body(&start, fields, body)).await;
        assert_eq!(text(&arrived.body), body, "{path}");
        let arrived = bench.arrives(in_chunks(&start, fields, body)).await;
        assert_eq!(text(&arrived.content()), body, "{path}");
        assert_eq!(
            arrived.field("transfer-encoding").as_deref(),
            Some("chunked")
        );
        assert_eq!(arrived.field("content-length"), None);
    }
}

/// Paths whose JSON has a model inserted.
const MODEL_PATHS: [&str; 7] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/moderations",
    "/audio/speech",
    "/images/generations",
];

/// Sends a body with its length and in chunks, and checks what arrives of it.
async fn check_body(bench: &mut Bench, start: &str, fields: &str, body: &str, expected: &str) {
    let what = format!("{start} {fields}{body}");
    let arrived = bench.arrives(with_body(start, fields, body)).await;
    assert_eq!(text(&arrived.body), expected, "{what}");
    let length = arrived.field("content-length");
    assert_eq!(length, Some(expected.len().to_string()), "{what}");
    assert_eq!(arrived.field("transfer-encoding"), None, "{what}");

    // Buffered in memory, it has a length; else it stays without.
    let arrived = bench.arrives(in_chunks(start, fields, body)).await;
    assert_eq!(text(&arrived.content()), expected, "{what}");
    let is_chunked = arrived.field("transfer-encoding").is_some();
    assert!(!is_chunked || body == expected, "{what}");
    assert_eq!(
        arrived.field("content-length"),
        length.filter(|_| !is_chunked),
        "{what}"
    );
}

#[tokio::test]
async fn the_model_of_any_json_is_replaced_and_no_other_byte() {
    let mut bench = Bench::start(&[MODEL], "").await;
    let new = IN_JSON;
    let bodies = [
        (
            r#"{"model":"m"}"#.to_owned(),
            format!(r#"{{"model":{new}}}"#),
        ),
        (
            " {\n\t\"n\": 1.0e+2, \"model\" : \"m\",\"é\":\"\\u00e9\" }\r\n".to_owned(),
            format!(" {{\n\t\"n\": 1.0e+2, \"model\" : {new},\"é\":\"\\u00e9\" }}\r\n"),
        ),
        (
            r#"{"mod\u0065l":"\u006d","a":{"model":"no"},"b":[{"model":"no"}]}"#.to_owned(),
            format!(r#"{{"mod\u0065l":{new},"a":{{"model":"no"}},"b":[{{"model":"no"}}]}}"#),
        ),
        // All of them, with an override alone; but none that only looks like it.
        (
            r#"{"model":"a","Model":"b","model":"c","MODEL":"d"}"#.to_owned(),
            format!(r#"{{"model":{new},"Model":"b","model":{new},"MODEL":"d"}}"#),
        ),
        // What JavaScript and Python write for a cut emoji.
        (
            r#"{"model":"m","a\ud83d":"\ude00\ud83d","b":["\ud83dx"]}"#.to_owned(),
            format!(r#"{{"model":{new},"a\ud83d":"\ude00\ud83d","b":["\ud83dx"]}}"#),
        ),
        (
            r#"{"model":"m\ud83d"}"#.to_owned(),
            format!(r#"{{"model":{new}}}"#),
        ),
    ];
    for (method, path) in MODEL_PATHS.map(|path| ("POST", path)).into_iter().chain([
        ("PUT", "/chat/completions"),
        ("PATCH", "/chat/completions"),
        ("PUT", "/responses"),
        ("PATCH", "/assistants/a"),
        ("POST", "/chat/completions/x"),
        ("POST", "/fine_tuning/jobs"),
        ("POST", "/videos"),
        ("POST", "/whatever/comes"),
        ("POST", "//respon%73es"),
    ]) {
        let start = format!("{method} /v1{path}");
        for (body, expected) in &bodies {
            for kind in [
                "",
                "application/json",
                "Application/Vnd.X+JSON ; charset=utf-8",
            ] {
                let kind = content_type(kind);
                check_body(&mut bench, &start, &kind, body, expected).await;
            }
        }
    }
}

#[tokio::test]
async fn a_model_is_inserted_where_one_is_needed_and_nowhere_else() {
    let mut bench = Bench::start(&[MODEL], "").await;
    let json = content_type("application/json");
    let new = format!(r#""model":{IN_JSON}"#);
    for path in MODEL_PATHS {
        let start = format!("POST /v1{path}");
        for (body, expected) in [
            ("{}", format!("{{{new}}}")),
            (r#"{ "n" :1 }"#, format!(r#"{{{new}, "n" :1 }}"#)),
            (r#"{"model":null,"n":1}"#, format!(r#"{{{new},"n":1}}"#)),
            (r#"{"model":{"model":[]}}"#, format!("{{{new}}}")),
            (r#"{"Model":"m"}"#, format!(r#"{{{new},"Model":"m"}}"#)),
        ] {
            check_body(&mut bench, &start, &json, body, &expected).await;
        }
        for body in ["[]", "null", "\"{}\"", "7", "{", "{}{}", "", "no JSON"] {
            for fields in ["", &json] {
                let request = with_body(&start, fields, body);
                assert_eq!(bench.refused(request).await, 400, "{path}: {body}");
            }
        }
    }
    for start in [
        "POST /v1/chat/completions/x",
        "PUT /v1/responses",
        "PATCH /v1/embeddings",
        "POST /v1/responses/compact",
        "POST /v1/responses/",
        "POST /v1/batches",
        "POST /v1/videos",
        "POST /v1/images/edits",
        "POST /v1/v1/responses",
    ] {
        for body in [
            "{}",
            r#"{"n":1}"#,
            r#"{"model":null}"#,
            r#"{"model":7,"model":{}}"#,
            r#"{"Model":"m"}"#,
            "[{\"model\":\"m\"}]",
            "null",
            "\"model\"",
        ] {
            check_body(&mut bench, start, &json, body, body).await;
        }
    }
}

#[tokio::test]
async fn a_request_without_a_model_passes_a_backend_with_an_override() {
    let mut bench = Bench::start(&[MODEL], "").await;
    for start in [
        "POST /v1/batches/b/cancel",
        "DELETE /v1/files/f",
        "GET /v1/chat/completions",
        "GET /v1/chat/completions/x?model=m",
        "DELETE /v1/chat/completions",
        "HEAD /v1/models",
        // An override is nobody's path.
        "GET /v1/models/m",
        "DELETE /v1/models/m%2Fn",
        // Not a WebSocket.
        "GET /v1/realtime?model=m",
        "POST /v1/realtime/calls?model=m",
    ] {
        let arrived = bench.arrives(bare(start, "")).await;
        assert_eq!(arrived.start_line(), format!("{start} HTTP/1.1"));
        assert!(arrived.body.is_empty());
    }
    let body = r#"{"model":"m"}"#;
    for (start, kind) in [
        // Lines, texts and forms have no model at their top level.
        ("POST /v1/files", "application/jsonl"),
        ("POST /v1/files", "text/plain"),
        ("POST /v1/realtime/calls", "application/sdp"),
        ("POST /v1/responses", "text/json"),
        ("POST /v1/responses", "application/json-seq"),
        ("POST /v1/responses", "application/x-www-form-urlencoded"),
        ("DELETE /v1/x", "application/json"),
        ("GET /v1/responses", "application/json"),
        ("PURGE /v1/responses", "application/json"),
    ] {
        check_body(&mut bench, start, &content_type(kind), body, body).await;
    }
    // Without a type it is JSON only if it can be read as such.
    for body in [
        "no JSON",
        r#"{"model":"#,
        "{\"model\":\"m\"}\n{\"model\":\"m\"}",
    ] {
        check_body(&mut bench, "POST /v1/uploads/u/parts", "", body, body).await;
    }
}

#[tokio::test]
async fn what_is_not_as_its_type_says_is_refused_where_the_model_is_replaced() {
    let mut bench = Bench::start(&[MODEL], "").await;
    let json = "Content-Type: application/json\r\n";
    let form = "Content-Type: multipart/form-data; boundary=x\r\n";
    let part = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";
    for (path, fields, body, status) in [
        ("/v1/files", json, "{", 400),
        ("/v1/files", json, "no JSON", 400),
        ("/v1/files", json, "{\"model\":\"\u{1}\"}", 400),
        (
            "/v1/videos",
            "Content-Type: multipart/form-data\r\n",
            "?",
            400,
        ),
        (
            "/v1/videos",
            "Content-Type: multipart/form-data; boundary=\r\n",
            "?",
            400,
        ),
        ("/v1/videos", form, "", 400),
        ("/v1/videos", form, "--y\r\n\r\n\r\n--y--\r\n", 400),
        ("/v1/videos", form, part, 400),
        (
            "/v1/chat/completions",
            "Content-Type: text/plain\r\n",
            "text",
            400,
        ),
        (
            "/v1/files",
            &format!("{json}Content-Encoding: gzip\r\n"),
            "{}",
            415,
        ),
        (
            "/v1/files",
            &format!("{json}Content-Encoding: identity, br\r\n"),
            "{}",
            415,
        ),
        ("/v1/responses", "Content-Encoding: zstd\r\n", "{}", 415),
        (
            "/v1/videos",
            &format!("{form}Content-Encoding: gzip\r\n"),
            part,
            415,
        ),
    ] {
        let start = format!("POST {path}");
        let request = with_body(&start, fields, body);
        assert_eq!(
            bench.refused(request).await,
            status,
            "{start} {fields}{body}"
        );
    }
    // What has no model may be anything.
    for (start, fields, body) in [
        (
            "POST /v1/files",
            "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n",
            "\u{1f}",
        ),
        (
            "POST /v1/files",
            "Content-Type: multipart/form-data\r\n",
            "?",
        ),
        (
            "PUT /v1/videos",
            "Content-Type: multipart/form-data\r\n",
            "?",
        ),
        (
            "POST /v1/videos/v",
            "Content-Type: multipart/form-data\r\n",
            "?",
        ),
    ] {
        check_body(&mut bench, start, fields, body, body).await;
    }
    let identity = format!("{json}Content-Encoding: Identity\r\n");
    let expected = format!(r#"{{"model":{IN_JSON}}}"#);
    check_body(
        &mut bench,
        "POST /v1/x",
        &identity,
        r#"{"model":"m"}"#,
        &expected,
    )
    .await;
}

/// A form with these models, among parts that only look like one.
fn form(models: &[&str]) -> String {
    let mut form = "--a b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF\r\n--a\r\n\r\n\u{0}{\"model\":\"no\"}\r\n"
        .to_owned();
    for model in models {
        form += "--a b\r\ncontent-disposition:form-data;name=\"model\"\r\nX-Part: 1\r\n\r\n";
        form += model;
        form += "\r\n";
    }
    form + "--a b\r\nContent-Disposition: form-data; name=\"Model\"\r\n\r\nno\r\n--a b--\r\n"
}

#[tokio::test]
async fn the_model_of_a_form_is_replaced_and_no_other_byte() {
    let mut bench = Bench::start(&[MODEL], "").await;
    let kind = "Content-Type: Multipart/Form-Data; charset=utf-8; boundary=\"a b\"\r\n";
    for path in [
        "/audio/transcriptions",
        "/audio/translations",
        "/images/edits",
        "/images/variations",
        "/videos",
    ] {
        let start = format!("POST /v1{path}");
        for models in [&["m"][..], &[""], &["m", "m"], &["a\r\n", "-- b"]] {
            let expected = form(&vec![IN_FORM; models.len()]);
            check_body(&mut bench, &start, kind, &form(models), &expected).await;
        }
        // None is inserted.
        check_body(&mut bench, &start, kind, &form(&[]), &form(&[])).await;
        // JSON is JSON there, too.
        let expected = format!(r#"{{"model":{IN_JSON}}}"#);
        let json = content_type("application/json");
        check_body(&mut bench, &start, &json, r#"{"model":"m"}"#, &expected).await;
    }
    for start in [
        "POST /v1/files",
        "PUT /v1/videos",
        "POST /v1/videos/v/remix",
    ] {
        check_body(&mut bench, start, kind, &form(&["m"]), &form(&["m"])).await;
    }
}

#[tokio::test]
async fn the_model_in_the_query_of_a_websocket_is_replaced_and_no_other_byte() {
    let mut bench = Bench::start(&[MODEL], "").await;
    let new = IN_URL;
    for (target, expected) in [
        ("/realtime?model=m", format!("/realtime?model={new}")),
        (
            "/realtime?a&%6dodel=m%20&x=%2f+1",
            format!("/realtime?a&%6dodel={new}&x=%2f+1"),
        ),
        (
            "/x%2Fy?model=&model=b",
            format!("/x%2Fy?model={new}&model={new}"),
        ),
        (
            "/realtime?deployment=m",
            format!("/realtime?deployment={new}"),
        ),
        (
            "/realtime?deployment=d&model=m",
            format!("/realtime?deployment=d&model={new}"),
        ),
        (
            "/realtime?Model=m&models=m&amodel=m",
            "/realtime?Model=m&models=m&amodel=m".into(),
        ),
        (
            "/realtime?intent=transcription",
            "/realtime?intent=transcription".into(),
        ),
        ("/responses", "/responses".into()),
    ] {
        let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
        let arrived = bench
            .arrives(bare(&format!("GET /v1{target}"), upgrade))
            .await;
        let expected = format!("GET /v1{expected} HTTP/1.1");
        assert_eq!(arrived.start_line(), expected, "{target}");
    }
}

#[tokio::test]
async fn over_http2_the_model_is_replaced_as_well() {
    let bench = Bench::start(&[MODEL], "").await;
    let client = Http2::connect(bench.server.address).await;
    let json = (
        r#"{"model":"m"}"#.to_owned(),
        format!(r#"{{"model":{IN_JSON}}}"#),
    );
    let form = (form(&["m"]), form(&[IN_FORM]));
    for (path, kind, (body, expected)) in [
        ("/v1/responses", "application/json", json),
        ("/v1/videos", "multipart/form-data; boundary=\"a b\"", form),
    ] {
        let uri = format!("http://proxy.test{path}");
        let request = client.request("POST").uri(uri).header("content-type", kind);
        let answer = client.send(request.body(http2::full(body)).unwrap()).await;
        assert_eq!(answer.unwrap().status(), 204);
        let arrived = bench.take().unwrap();
        assert_eq!(text(&arrived.content()), expected);
    }
}

/// A request that may go to a backend without an override passes there as it is, and is replaced
/// where it goes to another.
#[tokio::test]
async fn each_attempt_has_its_backends_model() {
    let [first, second] = [Backend::start().await, Backend::start().await];
    let entries = [
        entry("LLM1", first.address, r#""model":"one""#),
        entry("LLM2", second.address, ""),
    ];
    let server = Server::start(&config_of(&entries, r#""failover_on":[503],"cooldown":0"#));
    let mut client = Wire::connect(server.address).await;
    let json = r#"{"model":"m","n":1}"#;
    let kind = "Content-Type: multipart/form-data; boundary=\"a b\"\r\n";
    for (start, fields, body, expected) in [
        (
            "POST /v1/responses",
            "",
            json.to_owned(),
            r#"{"model":"one","n":1}"#.to_owned(),
        ),
        ("POST /v1/videos", kind, form(&["m"]), form(&["one"])),
    ] {
        client.send(with_body(start, fields, &body)).await;
        let mut wire = first.accept().await;
        assert_eq!(text(&wire.request().await.body), expected);
        wire.send("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        let mut wire = second.accept().await;
        assert_eq!(text(&wire.request().await.body), body);
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(client.response().await.status(), 200);
    }
}

/// Requests whose model decides which backend gets them.
#[tokio::test]
async fn where_the_model_decides_there_must_not_be_two() {
    let mut backends = Vec::new();
    let mut entries = Vec::new();
    for name in ["a", "b c/d"] {
        let backend = Backend::start().await;
        entries.push(entry(name, backend.address, ""));
        backends.push(backend.record_all(response("200 OK", name)));
    }
    let config: Config = config_of(&entries, "").parse().unwrap();
    let by_model = select_fn(|request| {
        let backends = request.backends().iter();
        backends
            .filter(|backend| Some(backend.name()) == request.model())
            .cloned()
            .collect()
    });
    let builder = OpenAiProxyLayer::builder(config)
        .all_paths()
        .selector(by_model);
    let mut client = Wire::connect(serve(Router::new().layer(builder.build())).await).await;

    let json = "Content-Type: application/json\r\n";
    let parts = "Content-Type: multipart/form-data; boundary=\"a b\"\r\n";
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let gzip = "Content-Encoding: gzip\r\n";
    let none = "404";
    let two = "400 two";
    for (start, fields, body, expected) in [
        ("POST /v1/x", json, r#"{"model":"a"}"#.to_owned(), "a"),
        (
            "POST /v1/x",
            "",
            r#"{"model":"b c\/d","model":"b c/\u0064"}"#.into(),
            "b c/d",
        ),
        ("POST /v1/x", json, r#"{"Model":"a"}"#.into(), "a"),
        (
            "POST /v1/x",
            json,
            r#"{"model":"a","MODEL":"a"}"#.into(),
            "a",
        ),
        ("POST /v1/x", json, r#"{"a":{"model":"a"}}"#.into(), none),
        ("POST /v1/x", json, r#"{"model":7}"#.into(), none),
        ("POST /v1/x", json, r#"{"model":"a\ud83d"}"#.into(), none),
        (
            "POST /v1/x",
            json,
            r#"{"model":"a","n":"\ud83d"}"#.into(),
            "a",
        ),
        ("POST /v1/x", json, "[]".into(), none),
        ("POST /v1/x", "", "no JSON".into(), none),
        ("POST /v1/x", json, "no JSON".into(), "400"),
        (
            "POST /v1/x",
            json,
            r#"{"model":"a","model":"b"}"#.into(),
            two,
        ),
        (
            "POST /v1/x",
            json,
            r#"{"model":"a","MODEL":"b"}"#.into(),
            two,
        ),
        (
            "POST /v1/x",
            json,
            r#"{"model":"a","model":null}"#.into(),
            two,
        ),
        (
            "POST /v1/x",
            json,
            r#"{"model":["a"],"model":"a"}"#.into(),
            two,
        ),
        ("POST /v1/x", gzip, r#"{"model":"a"}"#.into(), "415"),
        ("POST /v1/videos", parts, form(&["a"]), "a"),
        ("POST /v1/videos", parts, form(&["b c/d", "b c/d"]), "b c/d"),
        ("POST /v1/videos", parts, form(&["a", "b c/d"]), two),
        ("POST /v1/videos", parts, form(&[]), none),
        ("POST /v1/videos", parts, "--x".into(), "400"),
        (
            "POST /v1/videos",
            "Content-Type: multipart/form-data\r\n",
            String::new(),
            "400",
        ),
        ("GET /v1/models/a", "", String::new(), "a"),
        ("HEAD /v1/models/a", "", String::new(), "a"),
        ("GET /v1/models/b%20c/d", "", String::new(), "b c/d"),
        ("DELETE /v1/models/b%20c%2Fd", "", String::new(), "b c/d"),
        ("POST /v1/models/a", "", String::new(), none),
        (
            "GET /v1/realtime?model=b+c%2fd",
            upgrade,
            String::new(),
            "b c/d",
        ),
        ("GET /v1/realtime?deployment=a", upgrade, String::new(), "a"),
        (
            "GET /v1/realtime?model=a&deployment=b",
            upgrade,
            String::new(),
            "a",
        ),
        (
            "GET /v1/realtime?model=a&model=a",
            upgrade,
            String::new(),
            "a",
        ),
        (
            "GET /v1/realtime?model=a&model=b",
            upgrade,
            String::new(),
            two,
        ),
        ("GET /v1/realtime?model=a", "", String::new(), none),
        ("POST /v1/batches/b/cancel", "", String::new(), none),
    ] {
        client.send(with_body(start, fields, &body)).await;
        let arrived = |record: &Record| record.take().pop();
        let what = format!("{start} {body}");
        if start.starts_with("HEAD") {
            let head = soon("a head", client.head()).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert!(arrived(&backends[0]).is_some());
            continue;
        }
        let answer = client.response().await;
        let content = text(&answer.body).to_owned();
        match expected {
            "a" | "b c/d" => {
                assert_eq!(content, expected, "{what}");
                let arrived = backends.iter().find_map(arrived).unwrap();
                assert_eq!(text(&arrived.body), body);
                let line = format!("{start} HTTP/1.1");
                assert_eq!(arrived.start_line(), line);
            }
            refusal => {
                let status = answer.status().to_string();
                assert_eq!(status, refusal[..3], "{what}: {content}");
                let is_about_two = answer.json()["error"]["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("two"));
                assert_eq!(is_about_two, refusal == two, "{what}: {content}");
                assert!(backends.iter().find_map(arrived).is_none(), "{what}");
            }
        }
    }
}
