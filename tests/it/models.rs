//! `GET /models`: one list of the models of all backends.

use std::net::SocketAddr;

use crate::support::{
    Backend, Message, Record, Server, Wire, chunked, config_of, entry, find, nobody, noise,
    response, soon,
};

const OK: &str = "200 OK";

/// A request without a body, with these fields: lines that end with CRLF.
fn request(method: &str, fields: &str) -> String {
    format!(
        "{method} /v1/models HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-client\r\n\
         {fields}\r\n"
    )
}

async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

fn list(entries: &str) -> String {
    format!(r#"{{"object":"list","data":[{entries}]}}"#)
}

/// A backend with these models.
async fn with_models(entries: &str) -> Record {
    let backend = Backend::start().await;
    backend.record_all(response(OK, &list(entries)))
}

/// A configuration with these backends: `a`, `b`, `c`.
fn config(backends: &[SocketAddr], settings: &str) -> String {
    let names = ["a", "b", "c"].into_iter();
    let entries = names
        .zip(backends)
        .map(|(name, &address)| entry(name, address, ""));
    config_of(&entries.collect::<Vec<_>>(), settings)
}

#[tokio::test]
async fn one_backend_gets_the_request_itself() {
    let body = "{ \"data\" : [ {\"id\":\"m\"}, {\"id\":\"m\"} ] }\n";
    let backend = Backend::start().await.record_all(response(OK, body));
    let server = Server::start(&config(&[backend.address], ""));
    let fields = "Accept-Encoding: gzip\r\nIf-None-Match: \"e\"\r\n";
    let answer = ask(&server, request("GET", fields)).await;
    assert_eq!(answer.body, body.as_bytes());
    let asked = backend.take().remove(0);
    assert_eq!(asked.field("accept-encoding").unwrap(), "gzip");
    assert_eq!(asked.field("if-none-match").unwrap(), "\"e\"");

    // One of several that serves the path, too.
    let entries = [
        entry("a", nobody().await, r#""paths":["/chat/*"]"#),
        entry("b", backend.address, ""),
    ];
    let server = Server::start(&config_of(&entries, ""));
    assert_eq!(ask(&server, request("GET", "")).await.body, body.as_bytes());
}

#[tokio::test]
async fn several_become_one_list_of_their_entries_as_they_are() {
    let first = Backend::start().await;
    let spaced = "{ \"id\" : \"\\u006d\" ,\r\n\t\"x\":1.50E+3 }";
    let pretty =
        format!("{{\r\n  \"data\": [ {spaced} , {{\"created\":0}} ],\r\n  \"more\": false\r\n}}");
    let coded = chunked(pretty.as_bytes(), &[1, 7, 2]);
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let first = first.record_all([head, coded].concat());
    let second = with_models(r#"{"id":"m","late":true},{"id":"模型","owned_by":"Zoë"}"#).await;
    let third = with_models(r#"{"id":"模型"},{"id":"n"}"#).await;
    let addresses = [first.address, second.address, third.address];
    let server = Server::start(&config(&addresses, ""));

    let answer = ask(&server, request("GET", "")).await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
    let expected = format!(
        r#"{{"object":"list","data":[{spaced},{{"created":0}},{{"id":"模型","owned_by":"Zoë"}},{{"id":"n"}}]}}"#
    );
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    let fields = answer.fields().into_iter();
    let fields: Vec<_> = fields.filter(|(name, _)| name != "date").collect();
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        fields,
        [
            field("content-type", "application/json"),
            field("content-length", &expected.len().to_string())
        ]
    );

    // HEAD gets the head of the same, by GETs.
    let mut client = Wire::connect(server.address).await;
    client.send(request("HEAD", "")).await;
    let head = client.head().await;
    assert_eq!(without_date(&head), without_date(&answer.head));
    client.send(request("GET", "")).await;
    assert_eq!(client.response().await.body, answer.body);
    for backend in [first, second, third] {
        let asked = backend.take();
        assert_eq!(asked.len(), 3);
        for request in asked {
            assert_eq!(request.start_line(), "GET /v1/models HTTP/1.1");
        }
    }
}

fn without_date(head: &str) -> String {
    let lines = head.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date:")).collect()
}

#[tokio::test]
async fn each_backend_gets_its_own_key_and_a_request_for_the_whole_list() {
    let (keyed, keyless) = (with_models("").await, with_models("").await);
    let entries = [
        entry("a", keyed.address, r#""api_key_env":"OWN_KEY""#),
        entry("b", keyless.address, ""),
    ];
    let environment = [("OWN_KEY", "sk-operator")];
    let server = Server::start_with(&config_of(&entries, ""), &[], &environment);
    let fields = "Accept-Encoding: gzip\r\nRange: bytes=0-9\r\nIf-None-Match: *\r\n\
                  If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\nif-range: \"e\"\r\n\
                  OpenAI-Organization: org-client\r\nX-One: 1\r\nUser-Agent: test\r\n";
    assert_eq!(
        ask(&server, request("GET", fields)).await.body,
        list("").as_bytes()
    );

    let names = |message: &Message| {
        let names = message.fields().into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>().join(" ")
    };
    let asked = keyed.take().remove(0);
    assert_eq!(asked.field("authorization").unwrap(), "Bearer sk-operator");
    assert!(!asked.head.contains("client"), "{}", asked.head);
    assert_eq!(names(&asked), "host authorization x-one user-agent");
    let asked = keyless.take().remove(0);
    assert_eq!(asked.field("authorization").unwrap(), "Bearer sk-client");
    assert!(!asked.head.contains("operator"), "{}", asked.head);
    assert_eq!(
        names(&asked),
        "host authorization openai-organization x-one user-agent"
    );
}

#[tokio::test]
async fn one_backend_can_be_selected_and_merging_turned_off() {
    let body = " [the backend's own] ";
    let first = Backend::start().await.record_all(response(OK, body));
    let second = with_models("").await;
    let addresses = [first.address, second.address];
    let server = Server::start(&config(&addresses, ""));
    let fields = "X-Proxy-Backend: a\r\nAccept-Encoding: br\r\n";
    let answer = ask(&server, request("GET", fields)).await;
    assert_eq!(answer.body, body.as_bytes());
    assert_eq!(first.take()[0].field("accept-encoding").unwrap(), "br");
    let unknown = request("GET", "X-Proxy-Backend: x\r\n");
    assert_eq!(ask(&server, unknown).await.status(), 404);

    let server = Server::start(&config(&addresses, r#""merge_models":false"#));
    let answer = ask(&server, request("GET", "")).await;
    assert_eq!(answer.body, body.as_bytes());
    assert_eq!((first.take().len(), second.connections()), (1, 0));
}

#[tokio::test]
async fn a_backend_that_fails_is_left_out_and_the_log_says_why() {
    let gzip = [b"\x1f\x8b\x08\0".to_vec(), noise(100)].concat();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        gzip.len()
    );
    let gzip = [head.into_bytes(), gzip].concat();
    let five_mib = list(&format!(r#"{{"id":"{}"}}"#, "m".repeat(5 * 1024 * 1024)));
    let unannounced = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_bytes();
    let unannounced = [unannounced, &chunked(five_mib.as_bytes(), &[65_536])].concat();
    let truncated = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":[";
    let no = r#"{"object":"list","data":[{"id":"no"}]}"#;
    for (answer, cause) in [
        (response("401 Unauthorized", no), "status 401"),
        (response("203 Other", no), "status 203"),
        (response("503 Unavailable", no), "status 503"),
        (response(OK, "<html>"), "its answer is not a list of models"),
        (response(OK, &five_mib), "its answer is larger than 4 MiB"),
        (truncated.to_owned(), "connection_terminated"),
        ("nonsense\r\n\r\n".to_owned(), "http_protocol_error"),
    ]
    .map(|(answer, cause)| (answer.into_bytes(), cause))
    .into_iter()
    .chain([
        (gzip, "its answer has a `Content-Encoding`"),
        (unannounced, "its answer is larger than 4 MiB"),
    ]) {
        let failing = Backend::start().await;
        let address = failing.address;
        failing.serve_all(move |mut wire| {
            let answer = answer.clone();
            async move {
                wire.request().await;
                let (_, mut write) = wire.stream.split();
                // The proxy may not read all of it.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &answer).await;
            }
        });
        let works = with_models(r#"{"id":"m"}"#).await;
        let entries = [
            format!(r#"{{"name":"a","url":"http://{address}/v1?key=sk-in-url"}}"#),
            entry("b", works.address, ""),
        ];
        let server = Server::start(&config_of(&entries, ""));
        let answer = ask(&server, request("GET", "")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            String::from_utf8_lossy(&answer.body),
            list(r#"{"id":"m"}"#),
            "{cause}"
        );
        server.logged("end=complete").await;
        let log = server.stop();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        let [line] = warnings[..] else {
            panic!("{cause}: {log}");
        };
        assert!(line.contains("left out of the list of models"), "{line}");
        assert!(line.contains("backend=a"), "{line}");
        assert!(line.contains(cause), "{cause}: {line}");
        for secret in ["sk-", "http:", &address.to_string()] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test]
async fn a_backend_without_a_connection_cools_down() {
    let works = with_models(r#"{"id":"m"}"#).await;
    let settings = r#""cooldown":1000,"failover_on":[503]"#;
    let full = Backend::start().await;
    let full_address = full.address;
    full.answer_all(response("503 Unavailable", ""));
    let addresses = [nobody().await, full_address, works.address];
    let server = Server::start(&config(&addresses, settings));
    // Those that are cooling down are asked as well.
    for _ in 0..2 {
        let answer = ask(&server, request("GET", "")).await;
        assert_eq!(answer.body, list(r#"{"id":"m"}"#).as_bytes());
    }
    let health = ask(&server, "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n").await;
    let health = String::from_utf8(health.body).unwrap();
    for state in [
        r#"{"name":"a","status":"cooldown"}"#,
        r#"{"name":"b","status":"cooldown"}"#,
        r#"{"name":"c","status":"up"}"#,
    ] {
        assert!(health.contains(state), "{health}");
    }
    server.logged("cause=\"status 503\"").await;
    server.logged("backend=a cause=").await;
}

#[tokio::test]
async fn a_backend_that_hangs_costs_nobody_the_list() {
    let hanging = Backend::start().await;
    let works = with_models(r#"{"id":"m"}"#).await;
    let settings = r#""connect_timeout":0.1"#;
    let server = Server::start(&config(&[hanging.address, works.address], settings));
    let mut client = Wire::connect(server.address).await;
    client.send(request("GET", "")).await;
    let mut wire = hanging.accept().await;
    wire.request().await;
    let answer = client.response().await; // after 5.1 s
    assert_eq!(answer.body, list(r#"{"id":"m"}"#).as_bytes());
    wire.closed().await;
    server.logged("backend=a cause=http_response_timeout").await;
}

#[tokio::test]
async fn if_all_fail_the_first_answer_stands_as_it_came() {
    let body = r#"{"error":{"code":"invalid_api_key"}}"#;
    let first = Backend::start().await;
    let first_address = first.address;
    first.answer_all(format!(
        "HTTP/1.1 401 No Such Key\r\nX-Request-Id: 1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let server = Server::start(&config(&[first_address, nobody().await], ""));
    let answer = ask(&server, request("GET", "")).await;
    assert_eq!(answer.start_line(), "HTTP/1.1 401 No Such Key");
    assert_eq!(answer.field("x-request-id").unwrap(), "1");
    assert_eq!(answer.body, body.as_bytes());

    let mut client = Wire::connect(server.address).await;
    client.send(request("HEAD", "")).await;
    let head = client.head().await;
    assert_eq!(without_date(&head), without_date(&answer.head));
    assert!(client.is_silent().await);

    // The proxy's own error for the first.
    let server = Server::start(&config(&[nobody().await, first_address], ""));
    let answer = ask(&server, request("GET", "")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "connection_refused");
    assert!(find(&answer.body, b"`a`").is_some());
}

#[tokio::test]
async fn a_large_answer_that_stands_comes_whole() {
    let large = list(&format!(r#"{{"id":"{}"}}"#, "m".repeat(5 * 1024 * 1024)));
    for coded in [false, true] {
        let first = Backend::start().await;
        let first_address = first.address;
        if coded {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            first.answer_all([head, chunked(large.as_bytes(), &[100_000, 3])].concat());
        } else {
            first.answer_all(response(OK, &large));
        }
        let server = Server::start(&config(&[first_address, nobody().await], ""));
        let answer = ask(&server, request("GET", "")).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.content() == large.as_bytes(), "{coded}");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_ends_all_requests() {
    let backends = [Backend::start().await, Backend::start().await];
    let addresses = [backends[0].address, backends[1].address];
    let server = Server::start(&config(&addresses, ""));
    let mut client = Wire::connect(server.address).await;
    client.send(request("GET", "")).await;
    let mut waiting = backends[0].accept().await;
    waiting.request().await;
    let mut begun = backends[1].accept().await;
    begun.request().await;
    begun
        .send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":[")
        .await;
    drop(client);
    soon("the first ends", waiting.closed()).await;
    soon("the second ends", begun.closed()).await;
    server.logged("end=\"client left\"").await;
}

#[tokio::test]
async fn credentials_are_required() {
    let (first, second) = (with_models("").await, with_models("").await);
    let server = Server::start(&config(&[first.address, second.address], ""));
    let answer = ask(
        &server,
        "GET /v1/models HTTP/1.1\r\nHost: proxy.test\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status(), 401);
    assert_eq!((first.connections(), second.connections()), (0, 0));
}
