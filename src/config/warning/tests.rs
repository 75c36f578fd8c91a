use super::ConfigWarning;
use crate::{
    config::{BackendConfig, ClientConfig, Config, ConfigBuilder},
    keys,
};

fn warnings(backends: &[BackendConfig]) -> Vec<ConfigWarning> {
    let mut builder = Config::builder();
    for backend in backends {
        builder = builder.backend(backend.clone());
    }
    builder.build().expect("usable").warnings()
}

fn at(name: &str, url: &str) -> BackendConfig {
    BackendConfig::new(name, url)
}

fn names(backends: &[&str]) -> Vec<String> {
    backends.iter().map(|name| name.to_string()).collect()
}

#[test]
fn the_default_and_the_shipped_configuration_warn_of_nothing() {
    assert_eq!(Config::default().warnings(), []);
    if cfg!(any(feature = "native-tls", feature = "rustls")) {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json");
        assert_eq!(Config::from_path(shipped).expect("usable").warnings(), []);
    }
}

#[test]
fn http_to_another_machine_is_unencrypted() {
    for url in [
        "http://10.0.0.7/v1",
        "http://models.test:8080/v1",
        "http://[fd00::1]/v1",
        "http://localhost.test/v1",
        "http://mylocalhost/v1",
        "http://127.test/v1",
        "http://127.0.0.1.test/v1",
        "http://128.1/v1",
        "http://0.0.0.0/v1",
        "http://[::ffff:10.0.0.1]/v1",
    ] {
        let backends = names(&["A"]);
        let expected = ConfigWarning::Unencrypted { backends };
        assert_eq!(warnings(&[at("A", url)]), [expected], "{url}");
    }
}

#[test]
fn http_to_this_machine_is_not_warned_of_however_it_is_spelt() {
    for host in [
        "localhost",
        "LocalHost:8080",
        "localhost.",
        "api.localhost",
        "127.0.0.1:11434",
        "127.255.0.3",
        "[::1]:80",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
    ] {
        assert_eq!(
            warnings(&[at("A", &format!("http://{host}/v1"))]),
            [],
            "{host}"
        );
    }
}

#[test]
#[cfg(any(feature = "native-tls", feature = "rustls"))]
fn https_to_another_machine_is_not_warned_of() {
    assert_eq!(warnings(&[at("A", "https://models.test/v1")]), []);
}

#[test]
fn credentials_for_different_hosts_are_warned_of_once() {
    let backends = [
        at("A", "http://127.0.0.1:1/v1"),
        at("B", "http://one.test/v1"),
        at("own", "http://two.test/v1").api_key("sk-1"),
        at("C", "http://three.test/v1"),
        at("placeholder", ""),
    ];
    let shared = ConfigWarning::SharedCredentials {
        backends: names(&["A", "B", "C"]),
    };
    let unencrypted = ConfigWarning::Unencrypted {
        backends: names(&["B", "own", "C"]),
    };
    let unguarded = ConfigWarning::UnguardedKey {
        backends: names(&["own"]),
    };
    assert_eq!(warnings(&backends), [shared, unencrypted, unguarded]);
}

#[test]
fn credentials_for_one_host_are_not_warned_of() {
    for backends in [
        // Another port, path, spelling.
        [
            at("A", "http://localhost:1/v1"),
            at("B", "http://localhost:2/v2"),
        ],
        [
            at("A", "http://localhost/v1"),
            at("B", "http://127.0.0.1/v1"),
        ],
        [at("A", "http://localhost/v1"), at("B", "")],
    ] {
        assert_eq!(warnings(&backends), []);
    }
    let shared =
        |warning: &ConfigWarning| matches!(warning, ConfigWarning::SharedCredentials { .. });
    let backends = [
        at("A", "http://one.test/v1"),
        at("B", "http://ONE.test:1/v1"),
    ];
    assert!(!warnings(&backends).iter().any(shared));
    let backends = [
        at("A", "http://one.test/v1"),
        at("B", "http://two.test/v1").api_key("sk-1"),
    ];
    assert!(!warnings(&backends).iter().any(shared));
}

#[test]
fn a_key_that_anyone_spends_is_warned_of_unless_clients_are_authenticated() {
    let builder = Config::builder()
        .backend(at("A", "http://localhost/v1").api_key("sk-1"))
        .backend(at("B", "http://localhost/v1"))
        .backend(at("placeholder", "").api_key("sk-1"));
    let warnings = |builder: ConfigBuilder| builder.build().expect("usable").warnings();

    let unguarded = ConfigWarning::UnguardedKey {
        backends: names(&["A"]),
    };
    assert_eq!(warnings(builder.clone()), [unguarded]);
    assert_eq!(warnings(builder.clone().clients_authenticated(true)), []);
    let key = ClientConfig::new("alice").hash(keys::hash("sk-alice"));
    assert_eq!(warnings(builder.client(key)), []);
}

#[test]
fn a_url_that_ends_with_an_endpoint_is_warned_of() {
    for path in [
        "/v1/chat/completions",
        "/v1/chat/completions/?api-version=1",
        "/completions",
        "/v1/embeddings",
        "/v1/responses",
    ] {
        let expected = ConfigWarning::EndpointInUrl {
            backends: names(&["A"]),
        };
        let url = format!("http://localhost{path}");
        assert_eq!(warnings(&[at("A", &url)]), [expected], "{url}");
    }
    for path in ["", "/v1", "/chat/completions/v1", "/myresponses"] {
        let url = format!("http://localhost{path}");
        assert_eq!(warnings(&[at("A", &url)]), [], "{url}");
    }
}

#[test]
#[cfg(any(feature = "native-tls", feature = "rustls"))]
fn a_url_of_openai_without_v1_is_warned_of() {
    for url in [
        "https://api.openai.com",
        "https://API.openai.com./",
        "https://api.openai.com:443/v10",
        "https://api.openai.com/openai",
    ] {
        let expected = ConfigWarning::MissingVersion {
            backends: names(&["A"]),
        };
        assert_eq!(warnings(&[at("A", url)]), [expected], "{url}");
    }
    for url in [
        "https://api.openai.com/v1/",
        "https://api.openai.com/v1/x",
        "https://openai.test",
    ] {
        assert_eq!(warnings(&[at("A", url)]), [], "{url}");
    }
}

#[test]
fn messages_name_the_backends_and_nothing_else() {
    let backends = [
        at("A", "http://one.test/v1?key=sk-1"),
        at("B", "http://api.openai.com/completions?key=sk-2"),
        at("C", "http://localhost/v1").api_key("sk-3"),
    ];
    let messages: Vec<_> = warnings(&backends).iter().map(|w| w.to_string()).collect();
    assert_eq!(
        messages,
        [
            "a client's credentials go to different hosts: `A`, `B`; give those that should have a \
             key of their own `api_key_env` or `api_key_file`",
            "keys and messages are sent unencrypted, by http, to `A`, `B`",
            "anyone who can reach the proxy spends the key of `C`: clients aren't authenticated; \
             `settings.keys_file` gives them keys of their own",
            "a URL ends with the path of an endpoint, such as /chat/completions, which is \
             appended to it once more: `B`",
            "a URL of OpenAI's API lacks the path /v1: `B`",
        ]
    );
}
