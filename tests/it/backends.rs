//! Which backend gets a request, and what happens when one fails.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Backend, Message, Record, Server, Unreachable, Wire, config_for, config_of, config_with, entry,
    nobody, post, post_with, response, soon,
};

const OK: &str = "200 OK";

/// A cooldown that outlasts every test.
const LONG_COOLDOWN: &str = r#""cooldown":1000"#;

/// A configuration with `first` and `second`.
fn two(first: SocketAddr, second: SocketAddr, settings: &str) -> String {
    config_of(
        &[entry("first", first, ""), entry("second", second, "")],
        settings,
    )
}

/// One exchange on a separate connection.
async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

/// What health says of each backend, in its order.
async fn health(server: &Server) -> Vec<(String, String)> {
    let health = ask(server, "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n").await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    health.json()["backends"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|backend| (text(&backend["name"]), text(&backend["status"])))
        .collect()
}

/// The names of the backends that are cooling down.
async fn cooling(server: &Server) -> Vec<String> {
    let health = health(server).await.into_iter();
    health
        .filter(|(_, status)| status == "cooldown")
        .map(|(name, _)| name)
        .collect()
}

/// A backend that answers with its name.
async fn answering(name: &str) -> Record {
    Backend::start().await.record_all(response(OK, name))
}

/// The next request of a new connection.
async fn asked(backend: &Backend) -> (Wire, Message) {
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    (wire, request)
}

fn named(name: &str) -> String {
    post_with(&format!("X-Proxy-Backend: {name}\r\n"), "{}")
}

// The order.

#[tokio::test]
async fn the_first_backend_gets_every_request_while_it_works() {
    let (first, second) = (answering("1").await, answering("2").await);
    let server = Server::start(&two(first.address, second.address, ""));
    for _ in 0..3 {
        assert_eq!(ask(&server, post("{}")).await.body, b"1");
    }
    assert_eq!(first.take().len(), 3);
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn placeholders_are_skipped() {
    let second = answering("2").await;
    let config = config_of(
        &[
            r#"{"name":"LLM1","url":"","model":"m"}"#.into(),
            entry("LLM2", second.address, ""),
            r#"{"name":"LLM3"}"#.into(),
        ],
        "",
    );
    let server = Server::start(&config);
    assert_eq!(ask(&server, post("{}")).await.body, b"2");
    assert_eq!(second.take()[0].body, b"{}");
    assert_eq!(health(&server).await, [("LLM2".into(), "up".into())]);
}

// Failover.

#[tokio::test]
async fn a_refused_connection_moves_on_to_the_next_backend() {
    let second = answering("2").await;
    let server = Server::start(&two(nobody().await, second.address, ""));
    assert_eq!(ask(&server, post("{}")).await.body, b"2");
    assert_eq!(second.take().len(), 1);
}

#[tokio::test]
async fn a_connection_that_takes_too_long_moves_on() {
    let (first, second) = (Unreachable::start().await, answering("2").await);
    let settings = r#""connect_timeout":0.3"#;
    let server = Server::start(&two(first.address, second.address, settings));
    assert_eq!(ask(&server, post("{}")).await.body, b"2");
    assert_eq!(cooling(&server).await, ["first"]);
}

#[tokio::test]
async fn a_connect_timeout_that_timeout_cuts_short_still_moves_on() {
    let (first, second) = (Unreachable::start().await, answering("2").await);
    let settings = r#""cooldown":0,"timeout":0.1"#;
    let server = Server::start(&two(first.address, second.address, settings));
    for _ in 0..10 {
        assert_eq!(ask(&server, post("{}")).await.body, b"2");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_moves_on() {
    let second = answering("2").await;
    // A label of 64 characters is refused without asking anyone.
    let first = format!(
        r#"{{"name":"first","url":"http://{}.invalid/v1"}}"#,
        "x".repeat(64)
    );
    let second_entry = entry("second", second.address, "");
    let server = Server::start(&config_of(&[first, second_entry], ""));
    assert_eq!(ask(&server, post("{}")).await.body, b"2");
    assert_eq!(cooling(&server).await, ["first"]);
}

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn a_failed_tls_handshake_moves_on() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let first_entry = format!(r#"{{"name":"first","url":"https://{}/v1"}}"#, first.address);
    let config = config_of(&[first_entry, entry("second", second.address, "")], "");
    let server = Server::start(&config);
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;

    let mut wire = first.accept().await;
    wire.exactly(1).await;
    wire.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        .await;

    assert_eq!(client.response().await.body, b"2");
    assert_eq!(cooling(&server).await, ["first"]);
}

#[tokio::test]
async fn a_status_in_failover_on_moves_on() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let first = Backend::start().await.record_all(response(status, "busy"));
        let second = answering("2").await;
        let settings = r#""failover_on":[429,503]"#;
        let server = Server::start(&two(first.address, second.address, settings));
        assert_eq!(ask(&server, post("{}")).await.body, b"2", "{status}");
        assert_eq!(first.take().len(), 1, "{status}");
        assert_eq!(second.take().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn the_last_backends_answer_stands_when_all_have_a_status_in_failover_on() {
    let first = Backend::start().await;
    let second = Backend::start().await;
    let (urls, settings) = ([first.address, second.address], r#""failover_on":[503]"#);
    let server = Server::start(&two(urls[0], urls[1], settings));
    first.answer_all(response("503 Service Unavailable", "one"));
    second.answer_all("HTTP/1.1 503 Try Later\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\ntwo");

    let answer = ask(&server, post("{}")).await;
    assert_eq!(answer.start_line(), "HTTP/1.1 503 Try Later");
    assert_eq!(answer.field("retry-after").as_deref(), Some("7"));
    assert_eq!(answer.field("proxy-status"), None);
    assert_eq!(answer.body, b"two");
}

#[tokio::test]
async fn the_last_backends_failure_stands_when_it_cannot_be_reached() {
    let first = Backend::start().await;
    let settings = r#""failover_on":[429]"#;
    let server = Server::start(&two(first.address, nobody().await, settings));
    first.answer_all(response("429 Too Many Requests", "busy"));

    let answer = ask(&server, post("{}")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "connection_refused");
    let json = answer.json();
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("`second`"), "{message}");
}

#[tokio::test]
async fn every_backend_is_tried_in_turn() {
    let (third, fourth) = (answering("3").await, answering("4").await);
    let entries = [
        entry("first", nobody().await, ""),
        entry("second", nobody().await, ""),
        entry("third", third.address, ""),
        entry("fourth", fourth.address, ""),
    ];
    let server = Server::start(&config_of(&entries, LONG_COOLDOWN));
    assert_eq!(ask(&server, post("{}")).await.body, b"3");
    assert_eq!(cooling(&server).await, ["first", "second"]);
    assert_eq!(fourth.connections(), 0);
}

#[tokio::test]
async fn any_other_status_stands() {
    for status in [
        "200 OK",
        "302 Found",
        "401 Unauthorized",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
    ] {
        let first = Backend::start().await.record_all(response(status, "one"));
        let second = answering("2").await;
        let settings = r#""failover_on":[503]"#;
        let server = Server::start(&two(first.address, second.address, settings));
        let answer = ask(&server, post("{}")).await;
        assert_eq!(answer.start_line(), format!("HTTP/1.1 {status}"));
        assert_eq!(answer.body, b"one");
        assert_eq!(first.take().len(), 1);
        assert_eq!(second.connections(), 0);
    }
}

#[tokio::test]
async fn no_status_moves_on_by_default() {
    let first = Backend::start().await;
    let second = answering("2").await;
    let server = Server::start(&two(first.address, second.address, ""));
    first.answer_all(response("503 Service Unavailable", "one"));
    assert_eq!(ask(&server, post("{}")).await.body, b"one");
    assert_eq!(second.connections(), 0);
    assert!(cooling(&server).await.is_empty());
}

#[tokio::test]
async fn a_request_that_was_written_is_never_sent_again() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let settings = r#""cooldown":0,"timeout":0.3"#;
    let server = Server::start(&two(first.address, second.address, settings));
    let answers = [
        ("", true, 502, "connection_terminated"),
        (
            "HTTP/1.1 200 OK\r\nCont",
            true,
            502,
            "connection_terminated",
        ),
        ("not HTTP\r\n\r\n", true, 502, "http_protocol_error"),
        ("", false, 504, "http_response_timeout"),
    ];
    for (bytes, then_closes, status, code) in answers {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&first).await;
        wire.send(bytes).await;
        let held = (!then_closes).then_some(wire);
        let answer = client.response().await;
        assert_eq!(answer.status(), status, "{bytes:?}");
        assert_eq!(answer.error_code(), code, "{bytes:?}");
        assert!(!first.is_contacted().await, "{bytes:?}");
        drop(held);
    }
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn a_reset_after_the_request_was_written_is_no_reason_to_send_it_again() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let server = Server::start(&two(first.address, second.address, ""));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    asked(&first).await.0.reset();
    let answer = client.response().await;
    assert_eq!(answer.error_code(), "connection_terminated");
    assert!(!first.is_contacted().await);
    assert_eq!(second.connections(), 0);
}

// What goes to the next backend.

#[tokio::test]
async fn the_next_backend_gets_the_very_same_body() {
    let first = Backend::start().await;
    let second = Backend::start().await;
    let settings = r#""failover_on":[503]"#;
    let urls = [first.address, second.address];
    let server = Server::start(&two(urls[0], urls[1], settings));
    let first = first.record_all(response("503 Service Unavailable", ""));
    let second = second.record_all(response(OK, "2"));

    // Every byte value, in chunks that fall on no boundary.
    let body: Vec<u8> = (0..1_000_003u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let mut request = format!(
        "POST /v1/chat/completions?a=1 HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\
         X-One: 1\r\nX-Two: 2\r\nX-One: 3\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    assert_eq!(ask(&server, request).await.body, b"2");

    let (first, second) = (first.take(), second.take());
    let without_host = |request: &Message| {
        let mut fields = request.fields();
        fields.retain(|(name, _)| name != "host");
        fields
    };
    assert!(first[0].body == body, "the first backend's body");
    assert!(second[0].body == body, "the second backend's body");
    assert_eq!(first[0].start_line(), second[0].start_line());
    assert_eq!(without_host(&first[0]), without_host(&second[0]));
    let hosts = [&first[0], &second[0]].map(|request| request.field("host").unwrap());
    assert_eq!(hosts, urls.map(|url| url.to_string()));
}

#[tokio::test]
async fn the_next_backend_gets_a_body_that_came_in_chunks() {
    let second = answering("2").await;
    let server = Server::start(&two(nobody().await, second.address, ""));
    let mut client = Wire::connect(server.address).await;
    client
        .send("POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for chunk in [
        "3\r\n{\"a\r\n",
        "1\r\n\"\r\n",
        "5;x=y\r\n: 1}\n\r\n",
        "0\r\n\r\n",
    ] {
        client.send(chunk).await;
    }
    assert_eq!(client.response().await.body, b"2");
    assert_eq!(second.take()[0].content(), b"{\"a\": 1}\n");
}

#[tokio::test]
async fn each_backend_gets_its_own_model() {
    let body = r#"{"model": "mine", "n":1.0}"#;
    let first = Backend::start().await;
    let second = Backend::start().await;
    let third = Backend::start().await;
    let entries = [
        entry("first", first.address, r#""model":"one""#),
        entry("second", second.address, ""),
        entry("third", third.address, r#""model":"three""#),
    ];
    let server = Server::start(&config_of(&entries, r#""failover_on":[503]"#));
    let busy = || response("503 Service Unavailable", "");
    let records = [
        first.record_all(busy()),
        second.record_all(busy()),
        third.record_all(response(OK, "")),
    ];
    assert_eq!(ask(&server, post(body)).await.status(), 200);

    let bodies = records.map(|record| String::from_utf8(record.take().remove(0).body).unwrap());
    let expected = ["\"one\"", "\"mine\"", "\"three\""];
    assert_eq!(
        bodies,
        expected.map(|model| body.replace("\"mine\"", model))
    );
}

#[tokio::test]
async fn a_backends_own_timeout_is_its_alone() {
    let (first, second) = (Backend::start().await, Backend::start().await);
    let entries = [
        entry("first", first.address, r#""timeout":0.3"#),
        entry("second", second.address, ""),
    ];
    let server = Server::start(&config_of(&entries, ""));

    let mut patient = Wire::connect(server.address).await;
    patient.send(named("second")).await;
    let (mut second_wire, _) = asked(&second).await;
    let mut hasty = Wire::connect(server.address).await;
    hasty.send(named("first")).await;
    let _first_wire = asked(&first).await;

    let answer = hasty.response().await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.error_code(), "http_response_timeout");
    second_wire.send(response(OK, "2")).await;
    assert_eq!(patient.response().await.body, b"2");
}

/// The credentials in a request.
fn credentials(request: &Message) -> [Option<String>; 2] {
    ["authorization", "api-key"].map(|name| request.field(name))
}

#[tokio::test]
async fn no_backend_sees_the_key_of_another() {
    let backends = [
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    ];
    let key = |name: &str| format!(r#""api_key_env":"{name}""#);
    let entries = [
        entry("first", backends[0].address, &key("FIRST_KEY")),
        entry("second", backends[1].address, ""),
        entry("third", backends[2].address, &key("THIRD_KEY")),
    ];
    let server = Server::start_with(
        &config_of(&entries, r#""failover_on":[401]"#),
        &[],
        &[("FIRST_KEY", "sk-first"), ("THIRD_KEY", "sk-third")],
    );
    let records =
        backends.map(|backend| backend.record_all(response("401 Unauthorized", "wrong key")));

    // Nor what else tells who the client is.
    const PERSONAL: [&str; 4] = [
        "x-api-key",
        "cookie",
        "openai-organization",
        "openai-project",
    ];
    let personal: String = PERSONAL.map(|name| format!("{name}: mine\r\n")).concat();
    let request = post_with(&format!("api-key: azure-client\r\n{personal}"), "{}");
    assert_eq!(ask(&server, request).await.body, b"wrong key");

    let requests = records.map(|record| record.take().remove(0));
    let seen = requests.each_ref().map(credentials);
    assert_eq!(seen[0], [Some("Bearer sk-first".into()), None]);
    assert_eq!(
        seen[1],
        [Some("Bearer sk-test".into()), Some("azure-client".into())]
    );
    assert_eq!(seen[2], [Some("Bearer sk-third".into()), None]);
    for (own, request) in ["sk-first", "sk-test", "sk-third"].iter().zip(&requests) {
        let seen = PERSONAL.iter().filter(|name| request.field(name).is_some());
        let count = if *own == "sk-test" { PERSONAL.len() } else { 0 };
        assert_eq!(seen.count(), count, "{}", request.head);
        for key in ["sk-first", "sk-test", "azure-client", "sk-third"] {
            let is_own = key == *own || (*own == "sk-test" && key == "azure-client");
            assert_eq!(request.head.contains(key), is_own, "{}", request.head);
        }
    }
}

#[tokio::test]
async fn a_backends_key_spares_no_client_its_own() {
    let backend = Backend::start().await;
    let config = |settings| {
        let entry = entry("LLM1", backend.address, r#""api_key_env":"OWN_KEY""#);
        config_of(&[entry], settings)
    };
    let request = post("{}").replace("Authorization: Bearer sk-test\r\n", "");
    let key = [("OWN_KEY", "sk-own")];

    let server = Server::start_with(&config(""), &[], &key);
    assert_eq!(ask(&server, &request).await.status(), 401);
    assert!(!backend.is_contacted().await);

    let server = Server::start_with(&config(r#""require_auth":false"#), &[], &key);
    let backend = backend.record_all(response(OK, "1"));
    assert_eq!(ask(&server, &request).await.body, b"1");
    let seen = credentials(&backend.take()[0]);
    assert_eq!(seen, [Some("Bearer sk-own".into()), None]);
}

// Cooldown.

#[tokio::test]
async fn a_backend_that_just_failed_is_tried_last() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let settings = r#""cooldown":1000,"timeout":0.3"#;
    let failures = ["close", "reset", "half a head", "garbage", "silence"];
    for failure in failures {
        let server = Server::start(&two(first.address, second.address, settings));
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&first).await;
        let mut held = None;
        match failure {
            "close" => drop(wire),
            "reset" => wire.reset(),
            "half a head" => wire.send("HTTP/1.1 200 OK\r\n").await,
            "garbage" => wire.send("garbage").await,
            _ => held = Some(wire),
        }
        assert!(client.response().await.status() >= 502, "{failure}");
        assert_eq!(
            health(&server).await,
            [
                ("first".into(), "cooldown".into()),
                ("second".into(), "up".into())
            ],
            "{failure}"
        );
        assert_eq!(ask(&server, post("{}")).await.body, b"2", "{failure}");
        assert!(!first.is_contacted().await, "{failure}");
        drop(held);
    }
}

#[tokio::test]
async fn a_backend_that_could_not_be_reached_or_was_failed_over_cools_down() {
    let busy = Backend::start().await;
    let second = answering("2").await;
    let settings = r#""cooldown":1000,"failover_on":[500]"#;
    let server = Server::start(&two(busy.address, second.address, settings));
    let busy = busy.record_all(response("500 Internal Server Error", ""));
    for _ in 0..3 {
        assert_eq!(ask(&server, post("{}")).await.body, b"2");
    }
    assert_eq!(cooling(&server).await, ["first"]);
    assert_eq!(busy.take().len(), 1);

    let server = Server::start(&two(nobody().await, second.address, LONG_COOLDOWN));
    assert_eq!(ask(&server, post("{}")).await.body, b"2");
    assert_eq!(cooling(&server).await, ["first"]);
}

#[tokio::test]
async fn a_cooling_backend_is_still_tried_when_the_others_fail() {
    let first = Backend::start().await;
    let server = Server::start(&two(first.address, nobody().await, LONG_COOLDOWN));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    drop(asked(&first).await);
    assert_eq!(client.response().await.status(), 502);
    assert_eq!(cooling(&server).await, ["first"]);

    // The second is refused, so both cool down.
    client.send(post("{}")).await;
    let (mut wire, _) = asked(&first).await;
    wire.send(response(OK, "1")).await;
    assert_eq!(client.response().await.body, b"1");
    assert_eq!(cooling(&server).await, ["first", "second"]);

    // The order is that of the file again.
    client.send(post("{}")).await;
    wire.request().await;
    wire.send(response(OK, "1")).await;
    assert_eq!(client.response().await.body, b"1");
}

#[tokio::test]
async fn after_the_cooldown_a_backend_is_up_and_in_its_place_again() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let settings = r#""cooldown":0.7"#;
    let server = Server::start(&two(first.address, second.address, settings));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    drop(asked(&first).await);
    assert_eq!(client.response().await.status(), 502);

    soon("up again", async {
        while !cooling(&server).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    client.send(post("{}")).await;
    let (mut wire, _) = asked(&first).await;
    wire.send(response(OK, "1")).await;
    assert_eq!(client.response().await.body, b"1");
}

#[tokio::test]
async fn without_cooldown_a_failed_backend_is_tried_first_again() {
    let (first, second) = (Backend::start().await, answering("2").await);
    let server = Server::start(&two(first.address, second.address, r#""cooldown":0"#));
    for _ in 0..3 {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        drop(asked(&first).await);
        assert_eq!(
            client.response().await.error_code(),
            "connection_terminated"
        );
        assert!(cooling(&server).await.is_empty());
    }
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn what_the_client_did_is_not_the_backends_failure() {
    let first = Backend::start().await;
    let second = answering("2").await;
    let entries = [
        entry("first", first.address, r#""model":"m""#),
        entry("second", second.address, ""),
    ];
    let settings = r#""cooldown":1000,"max_body_bytes":50,"idle_timeout":0.3"#;
    let server = Server::start(&config_of(&entries, settings));

    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n";
    let too_large = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n33\r\n{}\r\n",
        "x".repeat(51)
    );
    for (request, status) in [
        (post("[]"), 400),
        (post_with("Content-Encoding: gzip\r\n", "{}"), 415),
        (post(&"x".repeat(51)), 413),
        (too_large, 413),
        (format!("{head}Content-Length: 9\r\n\r\n{{"), 408),
        (
            format!("{head}Transfer-Encoding: chunked\r\n\r\nx\r\n"),
            400,
        ),
    ] {
        assert_eq!(ask(&server, &request).await.status(), status, "{request}");
    }
    assert!(cooling(&server).await.is_empty());
    assert!(!first.is_contacted().await);
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn a_client_that_disconnects_is_not_the_backends_failure() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, LONG_COOLDOWN));
    // Before the head, and within its own body.
    for request in [post("{}"), post("{}").replace(": 2\r\n", ": 3\r\n")] {
        let mut client = Wire::connect(server.address).await;
        client.send(&request).await;
        let mut wire = backend.accept().await;
        wire.until("{}").await;
        drop(client);
        wire.closed().await;
        assert!(cooling(&server).await.is_empty(), "{request}");
    }
}

#[tokio::test]
async fn what_follows_a_head_is_no_failure_that_counts() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, LONG_COOLDOWN));
    for answer in [
        "HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&backend).await;
        wire.send(answer).await;
        client.head().await;
        drop(wire);
        // Until this one is over: the next is on a separate connection.
        if answer.contains("200") {
            client.rest().await;
        }
        assert!(cooling(&server).await.is_empty(), "{answer}");
    }
}

// X-Proxy-Backend.

#[tokio::test]
async fn x_proxy_backend_picks_a_backend_and_is_not_forwarded() {
    let (first, second) = (answering("1").await, answering("2").await);
    let server = Server::start(&two(first.address, second.address, ""));
    for name in ["second", "first", "second"] {
        let expected = if name == "first" { b"1" } else { b"2" };
        assert_eq!(ask(&server, named(name)).await.body, expected);
    }
    for request in first.take().into_iter().chain(second.take()) {
        let head = request.head.to_lowercase();
        assert!(!head.contains("x-proxy-backend"), "{head}");
    }
}

#[tokio::test]
async fn x_proxy_backend_is_not_forwarded_by_a_single_backend_either() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let backend = backend.record_all(response(OK, "1"));
    assert_eq!(ask(&server, named("LLM1")).await.body, b"1");
    assert_eq!(backend.take()[0].field("x-proxy-backend"), None);
    assert_eq!(ask(&server, named("LLM2")).await.status(), 404);
    assert!(backend.take().is_empty());
}

#[tokio::test]
async fn a_name_that_no_backend_has_is_not_found() {
    let first = answering("1").await;
    let config = config_of(
        &[
            entry("first", first.address, ""),
            r#"{"name":"placeholder"}"#.into(),
        ],
        "",
    );
    let server = Server::start(&config);
    for name in [
        "third",
        "First",
        "firs",
        "first2",
        "\"first\"",
        "first, first",
        "placeholder",
    ] {
        let answer = ask(&server, named(name)).await;
        assert_eq!(answer.status(), 404, "{name}");
        assert_eq!(answer.error_code(), "destination_not_found", "{name}");
    }
    assert_eq!(first.connections(), 0);
}

#[tokio::test]
async fn a_backend_chosen_by_name_has_no_fallback() {
    let second = answering("2").await;
    let server = Server::start(&two(nobody().await, second.address, ""));
    let answer = ask(&server, named("first")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "connection_refused");
    assert_eq!(cooling(&server).await, ["first"]);

    let first = Backend::start().await;
    let settings = r#""failover_on":[503],"cooldown":1000"#;
    let server = Server::start(&two(first.address, second.address, settings));
    let first = first.record_all(response("503 Service Unavailable", "busy"));
    // Cooling down or not.
    for _ in 0..2 {
        let answer = ask(&server, named("first")).await;
        assert_eq!((answer.status(), &*answer.body), (503, &b"busy"[..]));
    }
    assert_eq!(first.take().len(), 2);
    assert_eq!(cooling(&server).await, ["first"]);
    assert_eq!(second.connections(), 0);
}

// Connections that are kept.

#[tokio::test]
async fn two_hundred_requests_in_a_row_need_one_connection() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let backend = backend.record_all(chunked);
    let mut client = Wire::connect(server.address).await;
    for _ in 0..200 {
        client.send(post("{}")).await;
        assert_eq!(client.response().await.content(), b"ok");
    }
    assert_eq!(backend.take().len(), 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_kept_for_any_client() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let backend = backend.record_all(response(OK, "ok"));
    for _ in 0..20 {
        assert_eq!(ask(&server, post("{}")).await.body, b"ok");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_connection_with_an_exchange_on_it_takes_no_other() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut clients = Vec::new();
    let mut wires = Vec::new();
    for _ in 0..3 {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        clients.push(client);
        wires.push(asked(&backend).await.0);
    }
    for (wire, body) in wires.iter_mut().zip(["a", "b", "c"]) {
        wire.send(response(OK, body)).await;
    }
    for (client, body) in clients.iter_mut().zip(["a", "b", "c"]) {
        assert_eq!(client.response().await.body, body.as_bytes());
    }
}

/// How a backend ends an idle connection.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Fin,
    Reset,
    RequestTimeout,
    UnsolicitedBytes,
}

const ENDINGS: [Ending; 4] = [
    Ending::Fin,
    Ending::Reset,
    Ending::RequestTimeout,
    Ending::UnsolicitedBytes,
];

/// Ends an idle connection; what is given back keeps it open on this side.
async fn end(mut wire: Wire, ending: Ending) -> Option<Wire> {
    // A close alone may come late: a process that another test starts in this moment has the
    // socket, too, until it runs its own program.
    match ending {
        Ending::Fin => wire.stream.shutdown().await.expect("a socket"),
        Ending::Reset => {
            wire.reset();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ending::RequestTimeout => {
            wire.send(
                "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .await;
            wire.stream.shutdown().await.expect("a socket");
        }
        Ending::UnsolicitedBytes => {
            wire.send(response(OK, "not yours")).await;
            return Some(wire);
        }
    }
    None
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_has_ended_is_nobodys_error() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, LONG_COOLDOWN));
    let mut client = Wire::connect(server.address).await;
    let mut open = Vec::new();
    for round in 0..3 {
        for ending in ENDINGS {
            client.send(post("{}")).await;
            let mut wire = tokio::select! {
                (wire, _) = asked(&backend) => wire,
                answer = client.response() => panic!("before {ending:?}, round {round}: {answer:?}"),
            };
            wire.send(response(OK, "fresh")).await;
            let answer = client.response().await;
            assert_eq!(answer.body, b"fresh", "{ending:?}, round {round}");
            open.push(end(wire, ending).await);
        }
    }
    assert!(cooling(&server).await.is_empty());
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_ended_long_ago_is_nobodys_error() {
    let long = Duration::from_millis(1100);
    let tests = ENDINGS.map(|ending| async move {
        let backend = Backend::start().await;
        let server = Server::start(&config_with(&backend, LONG_COOLDOWN));
        let mut client = Wire::connect(server.address).await;
        let mut held = Vec::new();
        // Ended and then idle; idle and then ended.
        for (before, after) in [(Duration::ZERO, long), (long, Duration::ZERO)] {
            client.send(post("{}")).await;
            let (mut wire, _) = asked(&backend).await;
            wire.send(response(OK, "fresh")).await;
            assert_eq!(client.response().await.body, b"fresh", "{ending:?}");
            tokio::time::sleep(before).await;
            held.push(end(wire, ending).await);
            tokio::time::sleep(after).await;
        }
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&backend).await;
        wire.send(response(OK, "fresh")).await;
        assert_eq!(client.response().await.body, b"fresh", "{ending:?}");
        assert!(cooling(&server).await.is_empty(), "{ending:?}");
    });
    for test in tests.map(tokio::spawn) {
        test.await.expect("passed");
    }
}

#[tokio::test]
async fn a_kept_connection_that_breaks_after_the_request_was_written_is_an_error() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""cooldown":0"#));
    for ending in [Ending::Fin, Ending::Reset] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&backend).await;
        wire.send(response(OK, "1")).await;
        assert_eq!(client.response().await.body, b"1");

        client.send(post("{}")).await;
        wire.request().await;
        end(wire, ending).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 502, "{ending:?}");
        assert_eq!(answer.error_code(), "connection_terminated", "{ending:?}");
        assert!(!backend.is_contacted().await, "{ending:?}");
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_wants_closed_takes_no_other_request() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        // More than it announced.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        // The connection becomes one client's.
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic, Negotiate\r\n\
         Content-Length: 2\r\n\r\nok",
    ] {
        client.send(post("{}")).await;
        let (mut wire, _) = asked(&backend).await;
        wire.send(answer).await;
        assert_eq!(client.response().await.body, b"ok", "{answer}");
        wire.closed().await;
    }
}

// Health.

#[tokio::test]
async fn health_has_exactly_this_form() {
    let backend = Backend::start().await;
    let config = config_of(
        &[
            entry("LLM1", backend.address, r#""model":"m""#),
            r#"{"name":"LLM2","url":"","model":""}"#.into(),
            entry(
                r#"\"b\\ü"#,
                backend.address,
                r#""api_key_env":"HEALTH_KEY""#,
            ),
        ],
        "",
    );
    let server = Server::start_with(&config, &[], &[("HEALTH_KEY", "sk-secret")]);
    for target in ["/health", "/health?verbose=1"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: proxy.test\r\n\r\n");
        let health = ask(&server, request).await;
        assert_eq!(health.start_line(), "HTTP/1.1 200 OK");
        assert_eq!(
            health.field("content-type").as_deref(),
            Some("application/json")
        );
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"{{"status":"ok","version":"{version}","backends":[{{"name":"LLM1","status":"up"}},{{"name":"\"b\\ü","status":"up"}}]}}"#
        );
        assert_eq!(String::from_utf8(health.body).unwrap(), expected);
        for secret in [
            "127.0.0.1",
            "http",
            "sk-secret",
            &backend.address.port().to_string(),
        ] {
            assert!(!expected.contains(secret));
        }
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn health_answers_head_without_a_body() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client
        .send("HEAD /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(client.is_silent().await);

    client
        .send("GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        .await;
    let health = client.response().await;
    let without_date = |head: &str| -> Vec<String> {
        let lines = head.lines().filter(|line| !line.starts_with("date:"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(without_date(&head), without_date(&health.head));
    let backends = json!([{ "name": "LLM1", "status": "up" }]);
    assert_eq!(health.json()["backends"], backends);
}

#[tokio::test]
async fn health_is_nothing_else() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let request =
            format!("{method} /health HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: 0\r\n\r\n");
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 404, "{method}");
        assert_eq!(answer.error_code(), "destination_not_found", "{method}");
    }
    // These are the backend's, so they need credentials.
    for path in ["/health/", "/Health", "/healthz", "/v1/health", "//health"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: proxy.test\r\n\r\n");
        client.send(request).await;
        assert_eq!(client.response().await.status(), 401, "{path}");
    }
    assert!(!backend.is_contacted().await);
}
