use super::ConfigWarning;
use crate::config::{BackendConfig, Config};

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
        "127.1",
        "0x7f.0.0.1",
        "0177.1",
        "2130706433",
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
    assert_eq!(warnings(&backends), [shared, unencrypted]);
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
        // Only one gets the client's.
        [
            at("A", "http://localhost/v1"),
            at("B", "http://[::1]/v1").api_key("sk-1"),
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
fn messages_name_the_backends_and_nothing_else() {
    let backends = [
        at("A", "http://one.test/v1?key=sk-1"),
        at("B", "http://two.test/v1?key=sk-2"),
    ];
    let messages: Vec<_> = warnings(&backends).iter().map(|w| w.to_string()).collect();
    assert_eq!(
        messages,
        [
            "a client's credentials go to different hosts: `A`, `B`; give those that should have a \
             key of their own `api_key_env`",
            "keys and messages are sent unencrypted, by http, to `A`, `B`",
        ]
    );
}
