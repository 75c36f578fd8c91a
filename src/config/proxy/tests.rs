use std::{collections::HashMap, ffi::OsString, path::Path};

use super::*;
use crate::{
    Config,
    config::{BackendSettings, parse::parse},
};

/// A backend at this URL, with further members, in an environment whose proxies count.
fn backend(
    url: &str,
    members: &str,
    environment: &[(&str, &str)],
) -> Result<BackendSettings, ConfigError> {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    let environment = |name: &str| environment.get(name).map(OsString::from);
    let text = format!(r#"{{ "primary_backends": [{{ "name": "a", "url": "{url}"{members} }}] }}"#);
    let mut config = parse(&text, Path::new(""), &environment)?;
    assert!(!matches!(config.backends[0].via, Via::Proxy(_)) || !members.is_empty());
    apply(&mut config.backends, &environment)?;
    Ok(config.backends.remove(0))
}

/// The proxy of a backend, and what it gets as `Proxy-Authorization`.
fn proxied(backend: &BackendSettings) -> Option<(String, Option<&str>)> {
    match &backend.via {
        Via::Proxy(proxy) => {
            let authorization = proxy.authorization();
            assert!(authorization.is_none_or(HeaderValue::is_sensitive));
            let authorization = authorization.map(|value| value.to_str().unwrap());
            Some((proxy.uri().to_string(), authorization))
        }
        Via::Unset | Via::Direct => None,
    }
}

#[test]
fn base64_is_that_of_rfc_4648() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
}

#[test]
fn a_proxy_is_a_url_with_host_and_port() {
    for (text, uri, authorization) in [
        ("http://proxy.test:3128", "http://proxy.test:3128/", None),
        ("HTTP://proxy.test:3128/", "http://proxy.test:3128/", None),
        ("http://[::1]:3128", "http://[::1]:3128/", None),
        ("http://proxy.test", "http://proxy.test/", None),
        // Aladdin:open sesame
        (
            "http://Aladdin:open%20sesame@proxy.test:1",
            "http://proxy.test:1/",
            Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ),
        // a:b/@:
        (
            "http://a:b%2F%40%3a@proxy.test:1",
            "http://proxy.test:1/",
            Some("Basic YTpiL0A6"),
        ),
        (
            "http://a@proxy.test:1",
            "http://proxy.test:1/",
            Some("Basic YTo="),
        ),
    ] {
        let backend = backend("http://a.test", &format!(r#", "proxy": "{text}""#), &[]);
        let expected = Some((uri.to_owned(), authorization));
        assert_eq!(proxied(&backend.unwrap()), expected, "{text}");
    }
    for text in [
        "proxy.test:3128",
        "https://proxy.test:3128",
        "socks5://proxy.test:1080",
        "http://",
        "http://:3128",
        "http://sk-secret@:3128",
        "http://proxy.test:0",
        "http://proxy.test:65536",
        "http://proxy.test:3128/path",
        "http://proxy.test:3128?query",
        "http://user:sk-secret/@proxy.test:3128/x",
        "http://proxy.test: 3128",
        " http://proxy.test:3128",
    ] {
        let error = backend("http://a.test", &format!(r#", "proxy": "{text}""#), &[]);
        let error = error.expect_err(text).to_string();
        let expected = "`primary_backends[0].proxy` must be http://host:port, with user:password@ \
                        before the host if the proxy asks for them";
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn the_environment_names_a_proxy_for_each_scheme_in_either_case() {
    const BOTH: [(&str, &str); 2] = [
        ("HTTP_PROXY", "http://plain.test:1"),
        ("HTTPS_PROXY", "http://u:p@tls.test:2"),
    ];
    let for_url = |url, environment: &[_]| {
        let backend = backend(url, "", environment).unwrap();
        proxied(&backend).map(|(uri, _)| uri)
    };
    assert_eq!(
        for_url("http://a.test", &BOTH).unwrap(),
        "http://plain.test:1/"
    );
    assert_eq!(for_url("http://a.test", &BOTH[1..]), None);
    assert_eq!(
        for_url("http://a.test", &[("http_proxy", "p.test:3")]).unwrap(),
        "http://p.test:3/"
    );
    assert_eq!(
        for_url("http://a.test", &[("http_proxy", ""), BOTH[0]]).unwrap(),
        "http://plain.test:1/"
    );
    assert_eq!(for_url("http://a.test", &[("HTTP_PROXY", "")]), None);
    if crate::tls::IS_AVAILABLE {
        assert_eq!(
            for_url("https://a.test", &BOTH).unwrap(),
            "http://tls.test:2/"
        );
        assert_eq!(for_url("https://a.test", &BOTH[..1]), None);
        let lower = [("https_proxy", "http://p.test:3"), BOTH[1]];
        assert_eq!(
            for_url("https://a.test", &lower).unwrap(),
            "http://p.test:3/"
        );
    }
}

#[test]
fn what_is_configured_comes_before_the_environment() {
    let environment = [
        ("HTTP_PROXY", "http://environment.test:1"),
        ("NO_PROXY", "*"),
    ];
    let own = backend(
        "http://a.test",
        r#", "proxy": "http://own.test:2""#,
        &environment,
    )
    .unwrap();
    assert_eq!(proxied(&own).unwrap().0, "http://own.test:2/");
    let direct = backend("http://a.test", r#", "proxy": """#, &environment[..1]).unwrap();
    assert_eq!(proxied(&direct), None);
}

#[test]
fn loopback_addresses_and_exceptions_are_reached_directly() {
    let proxy = ("HTTP_PROXY", "http://proxy.test:1");
    for (no_proxy, url, is_direct) in [
        ("", "http://127.0.0.1:8080", true),
        ("", "http://127.1.2.3", true),
        ("", "http://localhost/v1", true),
        ("", "http://LLM.localhost/v1", true),
        ("", "http://[::1]:80", true),
        ("", "http://10.0.0.1", false),
        ("*", "http://a.test", true),
        ("b.test, *", "http://a.test", true),
        ("a.test", "http://a.test:8080", true),
        ("A.Test", "http://a.tEST", true),
        ("b.test , a.test", "http://a.test", true),
        ("b.test a.test", "http://a.test", true),
        ("a.test", "http://llm.a.test", true),
        ("a.test", "http://not-a.test", false),
        ("a.test", "http://a.test.example", false),
        (".a.test", "http://llm.a.test", true),
        (".a.test", "http://deep.llm.a.test.", true),
        ("*.a.test", "http://llm.a.test", true),
        (".a.test", "http://xa.test", false),
        (" , ,, ", "http://a.test", false),
        (".", "http://a.test", false),
        ("a.test:8080", "http://a.test:8080", true),
        ("a.test:8080", "http://a.test", false),
        ("a.test:80", "http://a.test", true),
        ("10.0.0.1", "http://10.0.0.1:8080", true),
        ("10.0.0.1:8080", "http://10.0.0.1:8080", true),
        ("0.0.1", "http://10.0.0.1", false),
        ("10.0.0.0/8", "http://10.200.0.1", true),
        ("10.0.0.0/8", "http://11.0.0.1", false),
        ("10.0.0.0/33,0.0.0.0/0", "http://11.0.0.1", true),
        ("fd00::/8", "http://[fd12::1]:80", true),
        ("[fd12::1]:80", "http://[fd12::1]:80", true),
        ("fd12::1", "http://[fd12::2]:80", false),
        ("::/0", "http://[fd12::2]:80", true),
    ] {
        for name in ["NO_PROXY", "no_proxy"] {
            let backend = backend(url, "", &[proxy, (name, no_proxy)]).unwrap();
            assert_eq!(proxied(&backend).is_none(), is_direct, "{no_proxy}: {url}");
        }
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_where_it_would_be() {
    let environment = [("HTTP_PROXY", "socks5://user:sk-secret@proxy.test:1080")];
    let error = backend("http://a.test", "", &environment).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the environment variable `HTTP_PROXY` must be http://host:port, with user:password@ \
         before the host if the proxy asks for them"
    );
    assert!(backend("http://127.0.0.1", "", &environment).is_ok());
    assert!(backend("http://a.test", r#", "proxy": """#, &environment).is_ok());
}

#[test]
fn a_configuration_asks_for_the_environment() {
    // The tests' own environment isn't changed: the variables are the process's.
    let environment = |name: &str| (name == "http_proxy").then(|| "http://p.test:1".into());
    let build = |builder: crate::ConfigBuilder| builder.build_with(&environment).unwrap();
    let backend = BackendConfig::new("a", "http://a.test");
    let config = build(Config::builder().backend(backend));
    assert_eq!(proxied(&config.backends[0]), None);

    let mut source = config.to_builder();
    source.env_proxies = true;
    let config = build(source);
    assert!(proxied(&config.backends[0]).is_some());
    // And keeps asking.
    let again = build(config.to_builder());
    assert_eq!(again, config);
    let secret = build(
        config
            .to_builder()
            .map_backends(|it| it.proxy("http://u:sk-secret@p:1")),
    );
    assert!(!format!("{secret:?} {:?}", secret.to_builder()).contains("sk-secret"));
}
