use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use http::StatusCode;
use proptest::prelude::*;

use super::{BackendConfig, Balance, Config, ConfigBuilder, ConfigError, Settings, parse};
use crate::endpoint::PathPattern;

/// What people have as their `config.json` today.
const COMMENTED: &str = r#"{
  "primary_backends": [
    {
      "name": "LLM1",
      "url": "https://api.openai.com/v1",  # Primary OpenAI API endpoint
      "model": ""  # Optional: Set to override model in all requests
    },
    {
      "name": "LLM2",  # Additional backend configuration
      "url": "",  # Alternative API endpoint
      "model": ""  # Optional model override
    }
  ],
  "settings": {
    "timeout": 30  # Request timeout in seconds
  }
}
"#;

const ABSOLUTE: &str = "must be an absolute http or https URL, such as https://api.openai.com/v1";

const NO_BACKEND: &str = "`primary_backends` must have at least one backend with a URL, such as \
                          { \"name\": \"LLM1\", \"url\": \"https://api.openai.com/v1\" }";

fn environment(name: &str) -> Option<OsString> {
    match name {
        "KEY" | "lower_case" => Some("sk-secret".into()),
        "EMPTY" | "empty1" => Some("".into()),
        "BLANK" => Some("sk-secret ".into()),
        "LINES" => Some("sk-secret\n".into()),
        "BEARER" => Some("Bearer sk-secret".into()),
        "QUOTES" => Some("“sk-secret”".into()),
        #[cfg(unix)]
        "BYTES" => Some(std::os::unix::ffi::OsStringExt::from_vec(
            b"sk-secret\xff".into(),
        )),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse::parse(text, Path::new(""), &environment)
}

fn good(text: &str) -> Config {
    let text = text.replace('»', "");
    parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// Asserts that `text`, in which `»` marks the place the message points to, is refused with
/// `message`.
fn assert_bad(text: &str, message: &str) {
    let place = text.split_once('»').map_or(String::new(), |(before, _)| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        format!("line {line}, column {column}: ")
    });
    let text = text.replacen('»', "", 1);
    match parse(&text) {
        Ok(config) => panic!("{text}\n{config:?}"),
        Err(error) => assert_eq!(error.to_string(), format!("{place}{message}"), "{text}"),
    }
}

/// A file whose second backend is `backend`.
fn with_backend(backend: &str) -> String {
    format!(
        r#"{{
          "primary_backends": [
            {{ "name": "a", "url": "http://a" }},
            {backend}
          ]
        }}"#
    )
}

fn with_url(url: &str) -> String {
    with_backend(&format!(r#"{{ "name": "b", "url": »"{url}" }}"#))
}

/// A file with a good backend and `settings`.
fn with_settings(settings: &str) -> String {
    format!(
        r#"{{
          "primary_backends": [{{ "name": "a", "url": "http://a" }}],
          "settings": {settings}
        }}"#
    )
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
#[cfg(any(feature = "native-tls", feature = "rustls"))]
fn the_shipped_file_and_the_one_with_comments_load_as_they_stand() {
    let config = good(include_str!("../../config.json"));
    assert_eq!(config, good(COMMENTED));
    assert_eq!(config, good(&COMMENTED.replace('\n', "\r\n")));
    assert_eq!(config, good(&format!("\u{feff}{COMMENTED}")));

    let [first, second] = &config.backends[..] else {
        panic!("{config:?}");
    };
    assert_eq!(&*first.name, "LLM1");
    assert_eq!(
        first.url,
        super::BaseUrl::parse("https://api.openai.com/v1").ok()
    );
    assert_eq!(first.model, None);
    assert_eq!(first.timeout, None);
    assert!(first.own_fields.is_empty() && !first.has_key);
    assert_eq!(&*second.name, "LLM2");
    assert_eq!(second.url, None);
    assert_eq!(config.settings.timeout, seconds(30));
}

#[test]
#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
fn https_needs_tls() {
    let message = "`primary_backends[0].url` must be http: this build lacks the cargo features \
                   `native-tls` and `rustls`, one of which https needs";
    assert_bad(&COMMENTED.replace("\"https", "»\"https"), message);
}

#[test]
fn defaults() {
    let settings = Settings {
        timeout: seconds(600),
        connect_timeout: seconds(10),
        idle_timeout: seconds(300),
        tunnel_idle_timeout: seconds(3600),
        total_timeout: None,
        ping: None,
        max_body_bytes: 67_108_864,
        max_held_bytes: 1_073_741_824,
        max_upload_bytes: 1_073_741_824,
        require_auth: true,
        backend_header: true,
        merge_models: true,
        clients_authenticated: false,
        failover_on: vec![],
        cooldown: seconds(5),
        failures: 1,
        balance: Balance::Order,
        affinity: Vec::new(),
        queue_timeout: Duration::ZERO,
    };
    assert_eq!(good(&with_url("http://a")).settings, settings);
    assert_eq!(good(&with_settings("{}")).settings, settings);
    assert_eq!(Config::default().settings, settings);
    if cfg!(any(feature = "native-tls", feature = "rustls")) {
        let file = good(r#"{"primary_backends": [{"name": "LLM1"}]}"#);
        assert_eq!(file, Config::default());
    }
}

#[test]
fn every_field_from_the_file_as_from_the_builder() {
    let file = good(
        r#"{
          "primary_backends": [
            { "name": "a", "url": "http://a:8080/base/?api-version=1", "model": "m", "timeout": 2.5,
              "models": { "openai/*": "*", "fast": "gpt-4o-mini", "o3": "" },
              "api_key_env": "KEY", "paths": ["/responses/*", "/models"], "websocket": false,
              "provider": "groq" },
            { "name": "LLM2", "models": ["gpt-*", "o3"], "priority": -1, "weight": 0.5,
              "max_in_flight": 8 },
            { "name": "Zoë 3", "url": "http://[::1]:3/" }
          ],
          "settings": {
            "timeout": 1, "connect_timeout": 2, "idle_timeout": 3, "total_timeout": 4,
            "tunnel_idle_timeout": 8, "ping": 9,
            "max_body_bytes": 5, "max_held_bytes": 6, "max_upload_bytes": 7, "require_auth": false,
            "merge_models": false, "failover_on": [429, 503], "cooldown": 0, "failures": 3, "balance": "least_busy",
            "affinity": ["header:X-Session", "body:user", "key", "prompt:512"], "queue_timeout": 9
          }
        }"#,
    );
    let builder = Config::builder()
        .backend(
            BackendConfig::new("a", "http://a:8080/base/?api-version=1")
                .model("m")
                .model_names([("fast", "gpt-4o-mini"), ("o3", ""), ("openai/*", "*")])
                .timeout(Duration::from_millis(2500))
                .api_key("sk-secret")
                .paths(["/responses/*", "/models"])
                .websocket(false)
                .provider("groq"),
        )
        .backend(
            BackendConfig::new("LLM2", "")
                .models(["gpt-*", "o3"])
                .priority(-1)
                .weight(0.5)
                .max_in_flight(8),
        )
        .backend(BackendConfig::new("Zoë 3", "http://[::1]:3/"))
        .timeout(seconds(1))
        .connect_timeout(seconds(2))
        .idle_timeout(seconds(3))
        .total_timeout(seconds(4))
        .tunnel_idle_timeout(seconds(8))
        .ping(seconds(9))
        .max_body_bytes(5)
        .max_held_bytes(6)
        .max_upload_bytes(7)
        .require_auth(false)
        .merge_models(false)
        .failover_on([
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ])
        .cooldown(Duration::ZERO)
        .failures(3)
        .balance(Balance::LeastBusy)
        .affinity(["header:X-Session", "body:user", "key", "prompt:512"])
        .queue_timeout(seconds(9));
    assert_eq!(builder.build().unwrap(), file);

    assert!(file.backends[0].has_key && !file.backends[1].has_key);
    let paths = file.backends[0].paths.as_deref();
    let patterns = ["/responses/*", "/models"].map(|text| PathPattern::parse(text).unwrap());
    assert_eq!(paths, Some(&patterns[..]));
    assert_eq!(file.backends[1].paths, None);
    assert!(!file.backends[0].websocket && file.backends[1].websocket);
    assert_eq!(file.settings.connect_timeout, seconds(1)); // not longer than `timeout`
}

#[test]
fn the_builder_is_held_to_the_same_rules() {
    let backend = || BackendConfig::new("a", "http://a");
    let builder = || Config::builder().backend(backend());
    let too_low = builder().failover_on([StatusCode::BAD_GATEWAY, StatusCode::OK]);
    for (builder, message) in [
        (Config::builder(), NO_BACKEND),
        (
            builder().backend(backend()),
            "`primary_backends[1].name` must be unique, but primary_backends[0] is called `a` as \
             well",
        ),
        (
            builder().backend(BackendConfig::new("b", "").timeout(Duration::ZERO)),
            "`primary_backends[1].timeout` must be a positive number of seconds",
        ),
        (
            Config::builder().backend(backend().api_key("")),
            "`primary_backends[0].api_key` must be visible ASCII characters, at least one, \
             without blanks",
        ),
        (
            Config::builder().backend(backend().paths([""; 0])),
            "`primary_backends[0].paths` must be a list of path patterns, at least one",
        ),
        (
            Config::builder().backend(backend().models([""; 0])),
            "`primary_backends[0].models` must be a list of model patterns, or an object from \
             patterns to names, with at least one",
        ),
        (
            Config::builder().backend(backend().models(["gpt-*", ""])),
            "`primary_backends[0].models[1]` must be a model's name such as `gpt-4o`, or a pattern \
             with one `*` such as `gpt-*`, not empty and without control characters",
        ),
        (
            Config::builder().backend(backend().model_names([("fast", "*")])),
            "`primary_backends[0].models.fast` must have no `*`, as its pattern has none to stand \
             for",
        ),
        (
            builder().idle_timeout(Duration::ZERO),
            "`settings.idle_timeout` must be a positive number of seconds",
        ),
        (
            too_low,
            "`settings.failover_on[1]` must be a status code from 300 to 599",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
}

#[test]
fn urls_that_are_allowed() {
    for (text, origin, path, query) in [
        ("http://a", "http://a/", "", None),
        ("http://a/", "http://a/", "", None),
        ("HTTP://A.example/v1/", "http://a.example/", "/v1", None),
        ("http://127.0.0.1:1/v1", "http://127.0.0.1:1/", "/v1", None),
        ("http://[::1]:65535", "http://[::1]:65535/", "", None),
        ("http://a?key=v", "http://a/", "", Some("key=v")),
        (
            "http://a/v1/?api-version=2024-02-01&x=%20",
            "http://a/",
            "/v1",
            Some("api-version=2024-02-01&x=%20"),
        ),
        ("http://a/b@c?d=@", "http://a/", "/b@c", Some("d=@")),
    ] {
        let config = good(&with_url(text));
        let url = config.backends[1].url.as_ref().unwrap();
        assert_eq!(url.origin(), origin, "{text}");
        assert_eq!((url.path(), url.query()), (path, query), "{text}");
    }
}

#[test]
fn urls_that_are_not() {
    const ASCII: &str =
        "must be without blanks, control and non-ASCII characters (percent-encode them)";
    const USER: &str =
        "must be without user name and password; a key goes into the variable of `api_key_env`";
    const FRAGMENT: &str = "must be without a fragment (`#…`)";
    const PORT: &str = "must be with a port from 1 to 65535, or without one";
    for (url, problem) in [
        ("api.openai.com", ABSOLUTE),
        ("api.openai.com/v1", ABSOLUTE),
        ("localhost:8080", ABSOLUTE),
        ("/v1", ABSOLUTE),
        ("//a/v1", ABSOLUTE),
        ("*", ABSOLUTE),
        ("ftp://a", ABSOLUTE),
        ("http:a", ABSOLUTE),
        ("http:/a", ABSOLUTE),
        ("http://", ABSOLUTE),
        ("http:///v1", ABSOLUTE),
        ("http://:80/v1", ABSOLUTE),
        ("http://?x", ABSOLUTE),
        ("http://[::1/v1", ABSOLUTE),
        ("http://a\\\\b", ABSOLUTE),
        (" http://a", ASCII),
        ("http://a ", ASCII),
        (" ", ASCII),
        ("http://a/ b", ASCII),
        ("http://a\\n", ASCII),
        ("http://bücher.example", ASCII),
        ("http://user@a", USER),
        ("http://user:sk-secret@a/v1", USER),
        ("https://sk-secret@x@a?b", USER),
        ("ftp://user:sk-secret@a", USER),
        ("http://a/v1#x", FRAGMENT),
        ("http://a#", FRAGMENT),
        ("http://a:/v1", PORT),
        ("http://a:0", PORT),
        ("http://a:65536", PORT),
        ("http://[::1]:99999", PORT),
    ] {
        let message = format!("`primary_backends[1].url` {problem}");
        assert_bad(&with_url(url), &message);
    }
}

#[cfg(unix)]
#[test]
fn urls_of_unix_sockets() {
    for (text, socket, path, query) in [
        ("unix:/run/a.sock", "/run/a.sock", "", None),
        ("unix:/run/a.sock:", "/run/a.sock", "", None),
        ("unix:/run/a.sock:/", "/run/a.sock", "", None),
        ("unix:/run/a.sock:/v1/", "/run/a.sock", "/v1", None),
        (
            "UNIX:/run/my llm.sock:/v1?k=:",
            "/run/my llm.sock",
            "/v1",
            Some("k=:"),
        ),
    ] {
        let config = good(&with_url(text));
        let url = config.backends[1].url.as_ref().unwrap();
        assert_eq!(url.socket().unwrap().to_str(), Some(socket), "{text}");
        assert_eq!((url.path(), url.query()), (path, query), "{text}");
        assert_eq!(url.origin(), "http://localhost/");
        assert_eq!(url.authority(), "localhost");
        assert!(url.is_loopback() && !url.is_https());
    }
    const MUST: &str = "must be unix:/path/to.sock:/v1, with the absolute path of a socket, and the base path after it";
    let long = format!("unix:/{}", "x".repeat(200));
    for (url, problem) in [
        ("unix:", MUST),
        ("unix:run/a.sock", MUST),
        ("unix::/v1", MUST),
        ("unix:/run/a.sock:v1", MUST),
        ("unix:/run/a.sock:8080/v1", MUST),
        ("unix:/run/a\\u0000.sock", MUST),
        (
            "unix:/run/a.sock:/v1#x",
            "must be without a fragment (`#…`)",
        ),
        (&long, "must be a socket with a shorter path"),
    ] {
        assert_bad(
            &with_url(url),
            &format!("`primary_backends[1].url` {problem}"),
        );
    }
}

#[test]
fn times_that_are_allowed() {
    const YEARS_30: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    for (number, time) in [
        ("30", seconds(30)),
        ("30.0", seconds(30)),
        ("3e1", seconds(30)),
        ("0.001", Duration::from_millis(1)),
        ("1e-300", Duration::from_nanos(1)),
        ("946080000", YEARS_30),
        ("946080001", YEARS_30),
        ("18446744073709551615", YEARS_30),
        ("18446744073709551616", YEARS_30),
        ("1e300", YEARS_30),
    ] {
        for field in [
            "timeout",
            "idle_timeout",
            "tunnel_idle_timeout",
            "total_timeout",
            "ping",
            "cooldown",
        ] {
            let settings = good(&with_settings(&format!(r#"{{"{field}": {number}}}"#))).settings;
            let got = match field {
                "timeout" => settings.timeout,
                "idle_timeout" => settings.idle_timeout,
                "tunnel_idle_timeout" => settings.tunnel_idle_timeout,
                "total_timeout" => settings.total_timeout.unwrap(),
                "ping" => settings.ping.unwrap(),
                _ => settings.cooldown,
            };
            assert_eq!(got, time, "{field}: {number}");
            assert!(std::time::Instant::now().checked_add(got).is_some());
        }
        let backend = format!(r#"{{ "name": "b", "timeout": {number} }}"#);
        let config = good(&with_backend(&backend));
        assert_eq!(config.backends[1].timeout, Some(time), "{number}");
    }

    let longest = Config::builder()
        .backend(BackendConfig::new("a", "http://a").timeout(Duration::MAX))
        .timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .cooldown(Duration::MAX)
        .build()
        .unwrap();
    assert_eq!(longest.backends[0].timeout, Some(YEARS_30));
    assert_eq!(longest.settings.timeout, YEARS_30);
    assert_eq!(longest.settings.connect_timeout, YEARS_30);
    assert_eq!(longest.settings.cooldown, YEARS_30);

    let settings = good(&with_settings(
        r#"{"total_timeout": null, "ping": null, "cooldown": -0.0}"#,
    ))
    .settings;
    assert_eq!(settings.total_timeout, None);
    assert_eq!(settings.ping, None);
    assert_eq!(settings.cooldown, Duration::ZERO);
}

#[test]
fn numbers_that_are_allowed() {
    for (number, bytes) in [
        ("1", 1),
        ("1e6", 1_000_000),
        ("9007199254740993", 9_007_199_254_740_993),
        ("1e300", u64::MAX),
    ] {
        for field in ["max_body_bytes", "max_held_bytes", "max_upload_bytes"] {
            let settings = good(&with_settings(&format!(r#"{{"{field}": {number}}}"#))).settings;
            let got = match field {
                "max_body_bytes" => settings.max_body_bytes,
                "max_held_bytes" => settings.max_held_bytes,
                _ => settings.max_upload_bytes,
            };
            assert_eq!(got, bytes, "{field}: {number}");
        }
    }
    let text = with_settings(r#"{"failover_on": [300, 599, 429.0]}"#);
    assert_eq!(good(&text).settings.failover_on, [300, 599, 429]);
}

#[test]
fn settings_that_are_not_allowed() {
    for (field, values, allowed) in [
        (
            "failures",
            &["0", "1.5", "-1"][..],
            "a whole number, 1 or more",
        ),
        (
            "balance",
            &["\"random\""],
            "`\"order\"` or `\"least_busy\"`",
        ),
        (
            "queue_timeout",
            &["-1"],
            "a number of seconds, 0 (nobody waits) or more",
        ),
    ] {
        for value in values {
            let settings = format!(r#"{{ "{field}": »{value} }}"#);
            let message = format!("`settings.{field}` must be {allowed}");
            assert_bad(&with_settings(&settings), &message);
        }
    }
    for source in [
        "",
        "x",
        "header:",
        "header:a b",
        "body:",
        "prompt:0",
        "prompt:x",
        "key:a",
    ] {
        let settings = format!(r#"{{ "affinity": ["key", »"{source}"] }}"#);
        assert_bad(
            &with_settings(&settings),
            "`settings.affinity[1]` must be `header:NAME`, `body:FIELD`, `key` or `prompt:BYTES` \
             with 1 byte or more",
        );
    }
    for (field, values, allowed) in [
        ("weight", &["0", "-1"][..], "a positive number"),
        ("max_in_flight", &["0", "1.5"], "a whole number, 1 or more"),
        (
            "priority",
            &["1.5"],
            "a whole number, less for those that come first",
        ),
    ] {
        for value in values {
            let backend = format!(r#"{{ "name": "b", "{field}": »{value} }}"#);
            let message = format!("`primary_backends[1].{field}` must be {allowed}");
            assert_bad(&with_backend(&backend), &message);
        }
    }
    for (settings, message) in [
        ("»[30]", "`settings` must be an object, not a list"),
        ("»null", "`settings` must be an object, not null"),
        (
            r#"{ "timout": »30 }"#,
            "`settings.timout` is not a known field; known here are `timeout`, `connect_timeout`, \
             `idle_timeout`, `tunnel_idle_timeout`, `total_timeout`, `ping`, \
             `max_body_bytes`, `max_held_bytes`, `max_upload_bytes`, `require_auth`, `backend_header`, \
             `merge_models`, `failover_on`, `cooldown`, `failures`, `balance`, `affinity`, \
             `queue_timeout` and `keys_file`",
        ),
        (
            r#"{ "timeout": 30, "time\u006fut": »30 }"#,
            "`settings.timeout` is given twice; once is allowed",
        ),
        (
            r#"{ "timeout": »"30" }"#,
            "`settings.timeout` must be a positive number of seconds, not a string",
        ),
        (
            r#"{ "timeout": »null }"#,
            "`settings.timeout` must be a positive number of seconds, not null",
        ),
        (
            r#"{ "timeout": »true }"#,
            "`settings.timeout` must be a positive number of seconds, not true or false",
        ),
        (
            r#"{ "timeout": »0 }"#,
            "`settings.timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "connect_timeout": »-1 }"#,
            "`settings.connect_timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "idle_timeout": »-0.0 }"#,
            "`settings.idle_timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "tunnel_idle_timeout": »0 }"#,
            "`settings.tunnel_idle_timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "tunnel_idle_timeout": »null }"#,
            "`settings.tunnel_idle_timeout` must be a positive number of seconds, not null",
        ),
        (
            r#"{ "total_timeout": »0 }"#,
            "`settings.total_timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "total_timeout": »[] }"#,
            "`settings.total_timeout` must be a positive number of seconds, not a list",
        ),
        (
            r#"{ "ping": »0 }"#,
            "`settings.ping` must be a positive number of seconds",
        ),
        (
            r#"{ "ping": »"15" }"#,
            "`settings.ping` must be a positive number of seconds, not a string",
        ),
        (
            r#"{ "cooldown": »-0.1 }"#,
            "`settings.cooldown` must be a number of seconds, 0 (never) or more",
        ),
        (
            r#"{ "max_body_bytes": »0 }"#,
            "`settings.max_body_bytes` must be a whole number of bytes, 1 or more",
        ),
        (
            r#"{ "max_body_bytes": »1.5 }"#,
            "`settings.max_body_bytes` must be a whole number of bytes, 1 or more",
        ),
        (
            r#"{ "max_body_bytes": »-1 }"#,
            "`settings.max_body_bytes` must be a whole number of bytes, 1 or more",
        ),
        (
            r#"{ "max_held_bytes": »0 }"#,
            "`settings.max_held_bytes` must be a whole number of bytes, 1 or more",
        ),
        (
            r#"{ "max_upload_bytes": »0 }"#,
            "`settings.max_upload_bytes` must be a whole number of bytes, 1 or more",
        ),
        (
            r#"{ "max_body_bytes": »"64M" }"#,
            "`settings.max_body_bytes` must be a whole number of bytes, 1 or more, not a string",
        ),
        (
            r#"{ "require_auth": »"no" }"#,
            "`settings.require_auth` must be true or false, not a string",
        ),
        (
            r#"{ "failover_on": »429 }"#,
            "`settings.failover_on` must be a list of status codes",
        ),
        (
            r#"{ "failover_on": [429, »299] }"#,
            "`settings.failover_on[1]` must be a status code from 300 to 599",
        ),
        (
            r#"{ "failover_on": [»600] }"#,
            "`settings.failover_on[0]` must be a status code from 300 to 599",
        ),
        (
            r#"{ "failover_on": [»65965] }"#,
            "`settings.failover_on[0]` must be a status code from 300 to 599",
        ),
        (
            r#"{ "failover_on": [»"5xx"] }"#,
            "`settings.failover_on[0]` must be a status code from 300 to 599, not a string",
        ),
    ] {
        assert_bad(&with_settings(settings), message);
    }
}

#[test]
fn backends_that_are_not_allowed() {
    const PATH: &str = "must be a path below the base URL such as `/responses` or `/responses/*`, \
                        or `*`: beginning with `/` but not with `/v1/`, with at most one `*`, at its \
                        end, and without `.` segments, `%`, `?`, `#`, `//`, blanks and control \
                        characters";
    const NAME: &str = "`primary_backends[1].name` must be a name: not empty, without control \
                        characters and blanks at its ends";
    const PATTERN: &str = "must be a model's name such as `gpt-4o`, or a pattern with one `*` such \
                           as `gpt-*`, not empty and without control characters";
    const MODELS: &str = "`primary_backends[1].models` must be a list of model patterns, or an \
                          object from patterns to names, with at least one";
    for (backend, message) in [
        (r#"{ "name": "b", "models": »[] }"#, MODELS),
        (r#"{ "name": "b", "models": »{} }"#, MODELS),
        (
            r#"{ "name": "b", "models": »"gpt-*" }"#,
            &format!("{MODELS}, not a string"),
        ),
        (
            r#"{ "name": "b", "models": ["a", »""] }"#,
            &format!("`primary_backends[1].models[1]` {PATTERN}"),
        ),
        (
            r#"{ "name": "b", "models": [»"a*b*"] }"#,
            &format!("`primary_backends[1].models[0]` {PATTERN}"),
        ),
        (
            r#"{ "name": "b", "models": ["a", »7] }"#,
            "`primary_backends[1].models[1]` must be a string",
        ),
        (
            r#"{ "name": "b", "models": { "": »"" } }"#,
            &format!("`primary_backends[1].models.` {PATTERN}"),
        ),
        (
            r#"{ "name": "b", "models": { "a": "b", "x.**": »"" } }"#,
            &format!("`primary_backends[1].models.x.**` {PATTERN}"),
        ),
        (
            r#"{ "name": "b", "models": { "a": »null } }"#,
            "`primary_backends[1].models.a` must be a string, not null",
        ),
        (
            r#"{ "name": "b", "models": { "a\n": »"" } }"#,
            &format!("`primary_backends[1].models.a\\n` {PATTERN}"),
        ),
        (
            r#"{ "name": "b", "models": { "*": "*", "a": »"x-*" } }"#,
            "`primary_backends[1].models.a` must have no `*`, as its pattern has none to stand for",
        ),
        (
            r#"{ "name": "b", "models": { "a": »"b\n" } }"#,
            "`primary_backends[1].models.a` must be a model's name, without control characters",
        ),
        (
            r#"{ "name": "b", "models": { "a": "b", "a": »"c" } }"#,
            "`primary_backends[1].models.a` is given twice; once is allowed",
        ),
        (
            r#"»["b", "http://b"]"#,
            "`primary_backends[1]` must be an object, not a list",
        ),
        (
            r#"»"http://b""#,
            "`primary_backends[1]` must be an object, not a string",
        ),
        (
            r#"»{ "url": "http://b" }"#,
            "`primary_backends[1]` needs a `name`",
        ),
        (
            r#"{ "name": "b", "api_key": »"sk-secret" }"#,
            "`primary_backends[1].api_key` is not a known field; known here are `name`, `url`, \
             `model`, `models`, `timeout`, `api_key_env`, `api_key_file`, `api_key_field`, `accept_encoding`, `headers`, \
             `ca_file`, `client_cert`, `client_key`, `proxy`, `paths`, `websocket`, `priority`, \
             `weight`, `max_in_flight` and `provider`",
        ),
        (
            r#"{ "name": "b", "a.\n\u001b[2J": »1 }"#,
            "`primary_backends[1].a.\\n\\u{1b}[2J` is not a known field; known here are `name`, \
             `url`, `model`, `models`, `timeout`, `api_key_env`, `api_key_file`, `api_key_field`, `accept_encoding`, `headers`, \
             `ca_file`, `client_cert`, `client_key`, `proxy`, `paths`, `websocket`, `priority`, \
             `weight`, `max_in_flight` and `provider`",
        ),
        (
            r#"{ "name": "b", "accept_encoding": »"gzip" }"#,
            "`primary_backends[1].accept_encoding` must be `identity`",
        ),
        (
            r#"{ "name": "b", "name": »"c" }"#,
            "`primary_backends[1].name` is given twice; once is allowed",
        ),
        (
            r#"{ "name": »"a" }"#,
            "`primary_backends[1].name` must be unique, but primary_backends[0] is called `a` as \
             well",
        ),
        (r#"{ "name": »"" }"#, NAME),
        (r#"{ "name": »" b" }"#, NAME),
        (r#"{ "name": »"b\u00a0" }"#, NAME),
        (r#"{ "name": »"b\tc" }"#, NAME),
        (r#"{ "name": »"b\u007fc" }"#, NAME),
        (
            r#"{ "name": »1 }"#,
            "`primary_backends[1].name` must be a string",
        ),
        (
            r#"{ "name": "b", "url": »null }"#,
            "`primary_backends[1].url` must be a string, not null",
        ),
        (
            r#"{ "name": "b", "model": »["m"] }"#,
            "`primary_backends[1].model` must be a string, not a list",
        ),
        (
            r#"{ "name": "b", "model": »"m\n" }"#,
            "`primary_backends[1].model` must be a model's name, without control characters",
        ),
        (
            r#"{ "name": "b", "provider": »"" }"#,
            "`primary_backends[1].provider` must be a name: not empty, without control characters \
             and blanks at its ends",
        ),
        (
            r#"{ "name": "b", "provider": »null }"#,
            "`primary_backends[1].provider` must be a string, not null",
        ),
        (
            r#"{ "name": "b", "timeout": »0 }"#,
            "`primary_backends[1].timeout` must be a positive number of seconds",
        ),
        (
            r#"{ "name": "b", "timeout": »{} }"#,
            "`primary_backends[1].timeout` must be a positive number of seconds, not an object",
        ),
    ] {
        assert_bad(&with_backend(backend), message);
    }

    for (paths, field, message) in [
        (
            "»[]",
            "paths",
            "must be a list of path patterns, at least one",
        ),
        (
            "»null",
            "paths",
            "must be a list of path patterns, at least one, not null",
        ),
        (
            r#"»"*""#,
            "paths",
            "must be a list of path patterns, at least one, not a string",
        ),
        (r#"["*", »1]"#, "paths[1]", "must be a string"),
        (r#"["/models", »"/v1/models"]"#, "paths[1]", PATH),
        (r#"[»"models"]"#, "paths[0]", PATH),
        (r#"[»"/a*b"]"#, "paths[0]", PATH),
        (r#"[»""]"#, "paths[0]", PATH),
    ] {
        let backend = format!(r#"{{ "name": "b", "paths": {paths} }}"#);
        assert_bad(
            &with_backend(&backend),
            &format!("`primary_backends[1].{field}` {message}"),
        );
    }
}

#[test]
fn keys_in_variables() {
    const MUST: &str =
        "it must hold the key, visible ASCII characters, at least one, without blanks";
    let file = |variable: &str| {
        let url = r#""url": "http://b""#;
        with_backend(&format!(
            r#"{{ "name": "b", {url}, "api_key_env": »"{variable}" }}"#
        ))
    };
    for variable in ["KEY", "lower_case"] {
        let config = good(&file(variable));
        let [field] = &*config.backends[1].own_fields else {
            panic!("{config:?}");
        };
        assert_eq!(field.name, "authorization");
        assert_eq!(*field.value.get(), "Bearer sk-secret");
        assert!(field.value.get().is_sensitive() && field.value.is_secret());
    }
    for (variable, problem) in [
        ("UNSET_1", "isn't set"),
        ("EMPTY", "is empty"),
        ("BLANK", "has a value that can't be a key"),
        ("LINES", "has a value that can't be a key"),
        ("BEARER", "has a value that can't be a key"),
        ("QUOTES", "has a value that can't be a key"),
        #[cfg(unix)]
        ("BYTES", "has a value that can't be a key"),
        ("", "isn't set"),
    ] {
        let message = format!(
            "`primary_backends[1].api_key_env` names the environment variable `{variable}`, which \
             {problem}; {MUST}"
        );
        assert_bad(&file(variable), &message);
    }
    for (key, problem) in [
        ("sk-secret", "isn't set"),
        ("gsk_1", "isn't set"),
        ("empty1", "is empty"),
    ] {
        let message = format!(
            "`primary_backends[1].api_key_env` names an environment variable (not shown, lest it \
             be the key itself), which {problem}; {MUST}"
        );
        assert_bad(&file(key), &message);
    }
    // A placeholder's isn't read.
    good(&with_backend(r#"{ "name": "b", "api_key_env": "UNSET" }"#));
}

#[test]
fn documents_that_are_not_allowed() {
    const EMPTY: &str =
        "the configuration is empty; it must be a JSON object with `primary_backends`";
    for (text, message) in [
        ("{}", NO_BACKEND),
        (r#"{ "settings": { "timeout": 30 } }"#, NO_BACKEND),
        (r#"{ "primary_backends": »[] }"#, NO_BACKEND),
        (
            r#"{ "primary_backends": »[{ "name": "LLM2" }, { "name": "LLM1", "url": "" }] }"#,
            NO_BACKEND,
        ),
        (
            r#"{ "primary_backends": »{ "name": "LLM1" } }"#,
            "`primary_backends` must be a list of backends, not an object",
        ),
        (
            r#"{ "backends": »[] }"#,
            "`backends` is not a known field; known here are `primary_backends` and `settings`",
        ),
        (
            r#"{ "": »1 }"#,
            "`\"\"` is not a known field; known here are `primary_backends` and `settings`",
        ),
        (
            r#"{ "settings": {}, "settings": »{} }"#,
            "`settings` is given twice; once is allowed",
        ),
        ("[]", "the configuration must be an object, not a list"),
        ("30", "the configuration must be an object"),
        ("»", EMPTY),
        ("» \r\n", EMPTY),
        ("»# only a comment\n", EMPTY),
        (
            "{ \"settings\": {»",
            "not valid JSON: it ends inside of a string, a list or an object",
        ),
        (
            "{\n  \"settings\": {},\n»}",
            "not valid JSON: trailing comma",
        ),
        (
            "{ /* ö\n */ \"ä\": { # ü\n /*ß*/ »é } }",
            "not valid JSON: the name of a field is needed here, in double quotes",
        ),
        (
            "{ »settings: {} }",
            "not valid JSON: the name of a field is needed here, in double quotes",
        ),
        (
            "{ \"settings\": »'' }",
            "not valid JSON: a value is needed here, such as text in double quotes or a number",
        ),
        (
            "{ \"settings\": {}»/ }",
            "not valid JSON: expected `,` or `}`",
        ),
        ("{} »{}", "not valid JSON: trailing characters"),
        (
            "{ »/ \"settings\": {} }",
            "not valid JSON: the name of a field is needed here, in double quotes",
        ),
        (
            "{ \"settings\": \"#\" »\"//\" }",
            "not valid JSON: expected `,` or `}`",
        ),
        (
            "{ \"a »\n /* \": \"b\" */ }",
            "not valid JSON: a string must not hold a line break or control character; is a quote \
             missing?",
        ),
        (
            "{\n  \"ö\": 1, »/* \"settings\": {}\n}",
            "the comment that begins here has no end (`*/`)",
        ),
        ("{ »/*/ }", "the comment that begins here has no end (`*/`)"),
    ] {
        assert_bad(text, message);
    }
}

/// Every field there is, and a secret in a URL.
const EVERYTHING: &str = r#"{
  # One of ours.
  "primary_backends": [
    { "name": "é", "url": "http://a:1/v1?key=secret", "model": "m", "timeout": 2.5, "api_key_env": "KEY", "paths": ["*"], "websocket": false, "provider": "p" },
    { "name": "b" } // a placeholder
  ],
  "settings": {
    "timeout": 1, "connect_timeout": 2, "idle_timeout": 3, "total_timeout": 4, "cooldown": 0,
    "tunnel_idle_timeout": 8, "ping": 9,
    "max_body_bytes": 5, "max_held_bytes": 6, "max_upload_bytes": 7, "require_auth": false,
    "failover_on": [429, 503] /* the usual */
  }
}"#;

/// How many characters are taken out, and what is put there.
fn any_damage() -> impl Strategy<Value = (usize, String)> {
    let added = prop_oneof![
        4 => r#"[\[\]{}",:#/*0-9a-zé\\.e\n@-]{0,2}"#,
        1 => prop::sample::select(vec!["null", "\"x\": 1, ", "[]", "{}", "1e999", "\u{1b}", "/*", "*/"])
            .prop_map(str::to_owned),
    ];
    (prop_oneof![3 => 0..4usize, 1 => 0..40usize], added)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_refused_in_one_line_at_a_place(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any_damage()), 1..3),
    ) {
        let mut text: Vec<char> = EVERYTHING.chars().collect();
        for (at, (removed, added)) in damages {
            let start = at.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        let Err(error) = parse(&text) else {
            return Ok(());
        };
        let message = error.to_string();
        prop_assert!(!message.contains(char::is_control), "{message:?}");
        prop_assert!(!message.contains("secret"), "{message}");
        let place = message.strip_prefix("line ").and_then(|rest| rest.split_once(", column "));
        let Some((line, rest)) = place else {
            prop_assert!(message.starts_with("`primary_backends"), "{message}");
            return Ok(());
        };
        let (column, _) = rest.split_once(": ").unwrap();
        let line = text.split('\n').nth(line.parse::<usize>().unwrap() - 1);
        let columns = 1..=line.unwrap().chars().count() + 1;
        prop_assert!(columns.contains(&column.parse().unwrap()), "{message}");
    }

    #[test]
    fn no_text_is_too_strange(
        text in prop_oneof![any::<String>(), r#"[\[\]{}",:#/*\\\n0-9a-zé ]*"#],
    ) {
        let _ = parse(&text);
    }
}

#[test]
fn files() {
    let folder = env::temp_dir().join(format!("tower-openai-proxy-config-{}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &[u8]| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };

    let text = r#"{ "primary_backends": [{ "name": "a", "url": "http://a" }] }"#;
    let config = Config::from_path(write("good.json", text.as_bytes())).unwrap();
    assert_eq!(config, good(text));

    let path = write("bad.json", b"{\n\"settings\": 1 }");
    let error = Config::from_path(&path).unwrap_err();
    let place = format!("{}: line 2, column 13: ", path.display());
    assert_eq!(error.to_string(), place + "`settings` must be an object");
    assert_eq!(format!("{error:?}"), error.to_string());
    assert_eq!(error.file(), Some(&*path));
    assert_eq!((error.line(), error.column()), (Some(2), Some(13)));
    assert_eq!(error.field(), Some("settings"));
    assert!(error.source().is_none());

    let none = folder.join("none.json");
    let latin1 = write("latin1.json", b"{} # \xfc");
    for path in [none, latin1, folder.clone()] {
        let error = Config::from_path(&path).unwrap_err();
        let cause = fs::read_to_string(&path).unwrap_err();
        let message = format!("{}: can't be read: {cause}", path.display());
        assert_eq!(error.to_string(), message);
        assert!(error.source().is_none());
        assert_eq!(
            (error.line(), error.column(), error.field()),
            (None, None, None)
        );
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_configuration_from_a_file_is_changed_in_code() {
    let config = good(EVERYTHING);
    let build = |builder: ConfigBuilder| builder.build_with(&environment);
    assert_eq!(build(config.to_builder()).unwrap(), config);

    let local = "http://127.0.0.1:1/v1";
    let changed = config.to_builder().map_backends(|backend| {
        if backend.is_placeholder() {
            backend
        } else {
            backend.url(local)
        }
    });
    let changed = build(changed.timeout(seconds(60))).unwrap();
    let expected = EVERYTHING
        .replace("http://a:1/v1?key=secret", local)
        .replace("\"timeout\": 1", "\"timeout\": 60");
    assert_eq!(changed, good(&expected));
    assert_eq!(changed.backends[1].url, None);

    let bad = config
        .to_builder()
        .map_backends(|backend| backend.url("127.0.0.1:1"));
    let error = build(bad).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`primary_backends[0].url` {ABSOLUTE}")
    );

    // A placeholder's key is read once it has a URL.
    let config = good(&with_backend(
        r#"{ "name": "b", "api_key_env": "UNSET_1" }"#,
    ));
    let error = config
        .to_builder()
        .map_backends(|backend| backend.url(local))
        .build();
    assert_eq!(
        error.unwrap_err().field(),
        Some("primary_backends[1].api_key_env")
    );
}

#[test]
fn secrets_are_in_no_message_and_no_debug() {
    for text in [
        r#""sk-secret""#,
        r#"["sk-secret"]"#,
        r#"{ "primary_backends": "sk-secret" }"#,
        r#"{ "primary_backends": ["sk-secret"] }"#,
        r#"{ "primary_backends": [{ "name": ["sk-secret"] }] }"#,
        r#"{ "primary_backends": [{ "name": " sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "timeout": "sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "key": "sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://sk-secret@a" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://a:b@sk-secret@a" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://a?sk-secret#" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://a:0?sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://a", "api_key_env": "sk-secret" }] }"#,
        r#"{ "primary_backends": [{ "name": "a", "url": "http://a", "api_key_env": "BLANK" }] }"#,
        r#"{ "settings": { "require_auth": "sk-secret" } }"#,
        r#"{ "settings": { "timeout": sk-secret } }"#,
        r#"{ "settings": "sk-secret }"#,
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }

    let key = || BackendConfig::new("a", "http://a/v1?key=secret").api_key("sk-secret");
    let variable = BackendConfig::new("b", "http://b@secret").api_key_env("sk-secret");
    let builder = Config::builder().backend(key()).backend(variable);
    let config = Config::builder().backend(key()).build().unwrap();
    for debug in [format!("{builder:?}"), format!("{config:?}")] {
        assert!(!debug.contains("secret"), "{debug}");
        assert!(debug.contains("http://a/v1"), "{debug}");
        assert!(debug.contains("Sensitive"), "{debug}");
    }
}

#[test]
fn the_coding_of_answers_is_a_field_of_requests() {
    let with = |field: &str| {
        let text = r#"{"primary_backends":[{"name":"a","url":"http://a.test",FIELD}]}"#;
        text.replace("FIELD", field).parse::<Config>().unwrap()
    };
    let short = with(r#""accept_encoding":"identity""#);
    assert_eq!(short, with(r#""headers":{"Accept-Encoding":"identity"}"#));
}
