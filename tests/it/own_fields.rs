//! The fields that the operator sets on requests to a backend: its key, which may be in a file, and
//! `headers`.

use std::{fs, path::Path};

use crate::{
    support::{
        Backend, Message, Record, Server, TempFile, Wire, config_of, entry, post, post_with,
        response, soon,
    },
    websocket::{SWITCH, handshake},
};

/// A server with these members for its one backend, and what that has received.
async fn recorded(fields: &str, settings: &str) -> (Record, Server) {
    let backend = Backend::start().await;
    let config = config_of(&[entry("LLM1", backend.address, fields)], settings);
    let environment = [("OWN_KEY", "sk-own"), ("TOKEN", "two words")];
    let server = Server::start_with(&config, &[], &environment);
    (backend.record_all(response("200 OK", "{}")), server)
}

async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

/// What arrives of a request.
async fn arrives(record: &Record, server: &Server, request: impl AsRef<[u8]>) -> Message {
    assert_eq!(ask(server, request).await.status(), 200);
    record.take().remove(0)
}

/// The name of a temporary file, which is in the folder of the configuration.
fn name(file: &TempFile) -> &str {
    file.path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("UTF-8")
}

/// Replaces a file as Kubernetes does: at no time is there a part of it.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("a file");
    fs::rename(new, path).expect("the same folder");
}

/// Asks until the backend gets this `Authorization`.
async fn gets(record: &Record, server: &Server, expected: &str) {
    let seen = async {
        loop {
            let request = arrives(record, server, post("{}")).await;
            if request.field("authorization").as_deref() == Some(expected) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon(expected, seen).await;
}

// Keys in files.

#[tokio::test]
async fn a_key_in_a_file_is_followed_without_a_reload() {
    let file = TempFile::new("key", "sk-first\n");
    let (record, server) = recorded(&format!(r#""api_key_file":"{}""#, name(&file)), "").await;
    let request = post_with("api-key: sk-client\r\nCookie: sk-client\r\n", "{}");
    let request = arrives(&record, &server, request).await;
    let authorization = request.field("authorization");
    assert_eq!(authorization.as_deref(), Some("Bearer sk-first"));
    assert!(!request.head.contains("sk-client") && !request.head.contains("sk-test"));

    replace(&file.path, "sk-second\r\n");
    gets(&record, &server, "Bearer sk-second").await;
    fs::write(&file.path, "sk-third").expect("a file");
    gets(&record, &server, "Bearer sk-third").await;
    assert!(!server.stop().contains("WARN the file"));
}

#[tokio::test]
async fn a_file_that_goes_missing_or_empty_keeps_the_last_key_and_is_logged_once() {
    let lost = TempFile::new("lost", "sk-lost");
    let kept = TempFile::new("kept", "sk-1");
    let backends = [Backend::start().await, Backend::start().await];
    let entries = [("lost", &lost, &backends[0]), ("kept", &kept, &backends[1])];
    let entries = entries.map(|(llm, file, backend)| {
        entry(
            llm,
            backend.address,
            &format!(r#""api_key_file":"{}""#, name(file)),
        )
    });
    let server = Server::start(&config_of(&entries, ""));
    let [lost_record, kept_record] =
        backends.map(|backend| backend.record_all(response("200 OK", "{}")));
    let to_kept = post_with("X-Proxy-Backend: kept\r\n", "{}");
    let is_read_again = async |key: &str| {
        let key = format!("Bearer {key}");
        let seen = async {
            while arrives(&kept_record, &server, &to_kept)
                .await
                .field("authorization")
                .as_ref()
                != Some(&key)
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        soon(&key, seen).await;
    };
    let warned = |log: &str| {
        log.matches("WARN the file of `api_key_file` of backend `lost`")
            .count()
    };

    fs::remove_file(&lost.path).expect("a file");
    let log = server.logged("`lost` can't be read").await;
    assert!(log.contains("its last content stays in use"), "{log}");
    // All files are read again in one go, so that each of these is another look.
    for key in ["sk-2", "sk-3"] {
        replace(&kept.path, key);
        is_read_again(key).await;
    }
    assert_eq!(warned(&server.log()), 1);
    let request = arrives(&lost_record, &server, post("{}")).await;
    assert_eq!(
        request.field("authorization").as_deref(),
        Some("Bearer sk-lost")
    );

    // Once more where it was good meanwhile.
    fs::write(&lost.path, "sk-found").expect("a file");
    gets(&lost_record, &server, "Bearer sk-found").await;
    fs::write(&lost.path, "\n").expect("a file");
    server.logged("`lost` is empty").await;
    replace(&kept.path, "sk-4");
    is_read_again("sk-4").await;
    let request = arrives(&lost_record, &server, post("{}")).await;
    assert_eq!(
        request.field("authorization").as_deref(),
        Some("Bearer sk-found")
    );
    let log = server.stop();
    assert_eq!(warned(&log), 2);
    assert!(!log.contains("sk-"), "{log}");
}

#[tokio::test]
async fn a_key_from_a_file_opens_what_one_from_a_variable_does() {
    let file = TempFile::new("key", "sk-file");
    let key = format!(r#""api_key_file":"{}""#, name(&file));
    let (record, server) = recorded(&key, "").await;
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\r\n")
    };
    assert_eq!(ask(&server, get("/v1/files")).await.status(), 404);
    arrives(&record, &server, get("/v1/models")).await;

    let (record, server) = recorded(&format!(r#"{key},"paths":["*"]"#), "").await;
    arrives(&record, &server, get("/v1/files")).await;
    assert_eq!(
        ask(&server, get("/v1/organization/users")).await.status(),
        404
    );
}

#[tokio::test]
async fn a_key_goes_bare_into_the_field_that_is_named() {
    for field in ["api-key", "x-api-key"] {
        let key = format!(r#""api_key_env":"OWN_KEY","api_key_field":"{field}""#);
        let (record, server) = recorded(&key, "").await;
        let credentials = "api-key: sk-client\r\nx-api-key: sk-client\r\nX-A: 1\r\n";
        let request = arrives(&record, &server, post_with(credentials, "{}")).await;
        let fields = request.fields();
        let mut fields: Vec<_> = fields
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        fields.remove(0); // Host
        assert_eq!(
            fields,
            [(field, "sk-own"), ("x-a", "1"), ("content-length", "2")]
        );
    }
}

// Other fields.

const HEADERS: &str = r#""headers": {
    "OpenAI-Organization": "org-own", "HTTP-Referer": "https://own.test", "X-Api-Key": {"env": "OWN_KEY"},
    "X-Token": {"env": "TOKEN"}
}"#;

/// As they arrive.
const OWN_FIELDS: [(&str, &str); 4] = [
    ("http-referer", "https://own.test"),
    ("openai-organization", "org-own"),
    ("x-api-key", "sk-own"),
    ("x-token", "two words"),
];

/// Asserts that a request has the fields of [`HEADERS`], and no others of their names.
#[track_caller]
fn has_own_fields(request: &Message) {
    let mut fields = request.fields();
    fields.retain(|(name, _)| OWN_FIELDS.iter().any(|(own, _)| own == name));
    fields.sort();
    let expected = OWN_FIELDS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields, expected);
}

const OF_THE_CLIENT: &str = "openai-organization: org-client\r\nhttp-referer: https://client.test\r\n\
    HTTP-REFERER: https://client.test\r\nX-API-Key: sk-client\r\nx-token: client\r\nX-Other: 1\r\n";

#[tokio::test]
async fn headers_take_the_place_of_the_clients() {
    let (record, server) = recorded(HEADERS, "").await;
    let request = arrives(&record, &server, post_with(OF_THE_CLIENT, "{}")).await;
    has_own_fields(&request);
    // Nothing else changes.
    assert_eq!(
        request.field("authorization").as_deref(),
        Some("Bearer sk-test")
    );
    assert_eq!(request.field("x-other").as_deref(), Some("1"));
    assert_eq!(request.body, b"{}");
    has_own_fields(&arrives(&record, &server, post("{}")).await);
}

#[tokio::test]
async fn headers_may_name_an_organization_beside_the_backends_own_key() {
    let fields = format!(
        r#""api_key_env":"OWN_KEY",{}"#,
        HEADERS.replace("X-Api-Key", "OpenAI-Project")
    );
    let (record, server) = recorded(&fields, "").await;
    let client = format!("{OF_THE_CLIENT}OpenAI-Project: proj-client\r\n");
    let request = arrives(&record, &server, post_with(&client, "{}")).await;
    assert_eq!(
        request.field("authorization").as_deref(),
        Some("Bearer sk-own")
    );
    assert_eq!(
        request.field("openai-organization").as_deref(),
        Some("org-own")
    );
    assert_eq!(request.field("openai-project").as_deref(), Some("sk-own"));
    assert!(!request.head.contains("client"), "{}", request.head);
}

#[tokio::test]
async fn an_authorization_among_the_headers_is_the_backends_own_key() {
    let fields = r#""headers":{"Authorization":{"env":"TOKEN"}}"#;
    let (record, server) = recorded(fields, "").await;
    let request = post_with("api-key: sk-client\r\nCookie: sk-client\r\n", "{}");
    let request = arrives(&record, &server, request).await;
    assert_eq!(request.field("authorization").as_deref(), Some("two words"));
    assert!(!request.head.contains("sk-client"), "{}", request.head);
}

#[tokio::test]
async fn a_credential_of_the_operators_opens_no_stored_objects() {
    let get = "GET /v1/files HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\r\n";
    for (headers, expected) in [
        (r#"{"x-api-key":{"env":"OWN_KEY"}}"#, 404),
        (r#"{"Authorization":"Bearer sk-own"}"#, 404),
        (r#"{"X-Other":{"env":"OWN_KEY"}}"#, 200),
    ] {
        let (_record, server) = recorded(&format!(r#""headers":{headers}"#), "").await;
        assert_eq!(ask(&server, get).await.status(), expected, "{headers}");
    }
}

#[tokio::test]
async fn a_header_in_a_file_is_followed() {
    let file = TempFile::new("token", "Token one");
    let headers = format!(
        r#""headers":{{"Authorization":{{"file":"{}"}}}}"#,
        name(&file)
    );
    let (record, server) = recorded(&headers, "").await;
    gets(&record, &server, "Token one").await;
    replace(&file.path, "Token two\n");
    gets(&record, &server, "Token two").await;
}

#[tokio::test]
async fn a_preflight_gets_what_is_no_secret() {
    let (record, server) = recorded(HEADERS, "").await;
    let preflight = format!(
        "OPTIONS /v1/responses HTTP/1.1\r\nHost: proxy.test\r\nOrigin: https://app.test\r\n\
         Access-Control-Request-Method: POST\r\n{OF_THE_CLIENT}\r\n"
    );
    let request = arrives(&record, &server, preflight).await;
    assert_eq!(
        request.field("http-referer").as_deref(),
        Some("https://own.test")
    );
    for secret in ["x-api-key", "x-token", "authorization"] {
        assert_eq!(request.field(secret), None);
    }
}

#[tokio::test]
async fn websockets_and_the_list_of_models_carry_them() {
    let (record, server) = recorded(HEADERS, "").await;
    let list = format!(
        "GET /v1/models HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk\r\n{OF_THE_CLIENT}\r\n"
    );
    has_own_fields(&arrives(&record, &server, &list).await);

    let both = [Backend::start().await, Backend::start().await];
    let entries = both.each_ref().map(|backend| {
        entry(
            &format!("LLM{}", backend.address.port()),
            backend.address,
            HEADERS,
        )
    });
    let environment = [("OWN_KEY", "sk-own"), ("TOKEN", "two words")];
    let server = Server::start_with(&config_of(&entries, ""), &[], &environment);
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", OF_THE_CLIENT)).await;
    let mut wire = both[0].accept().await;
    has_own_fields(&wire.request().await);
    wire.send(SWITCH).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));

    let models = response("200 OK", r#"{"object":"list","data":[]}"#);
    let records = both.map(|backend| backend.record_all(&*models));
    assert_eq!(ask(&server, &list).await.status(), 200);
    for record in records {
        has_own_fields(&record.take()[0]);
    }
}

#[tokio::test]
async fn the_client_chooses_no_account_by_a_subprotocol_beside_the_backends_own_key() {
    let protocols = "Sec-WebSocket-Protocol: realtime, openai-organization.org-client,\
                     OpenAI-Project.proj-client, openai-beta.realtime-v1\r\n";
    for (fields, expected) in [
        (
            r#""api_key_env":"OWN_KEY""#,
            "realtime, openai-beta.realtime-v1",
        ),
        (
            "",
            "realtime, openai-organization.org-client,OpenAI-Project.proj-client, \
             openai-beta.realtime-v1",
        ),
    ] {
        let backend = Backend::start().await;
        let config = config_of(&[entry("LLM1", backend.address, fields)], "");
        let server = Server::start_with(&config, &[], &[("OWN_KEY", "sk-own")]);
        let mut client = Wire::connect(server.address).await;
        client.send(handshake("/v1/realtime", protocols)).await;
        let request = backend.accept().await.request().await;
        assert_eq!(
            request.field("sec-websocket-protocol").as_deref(),
            Some(expected)
        );
    }
}
