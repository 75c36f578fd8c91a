use std::path::Path;

use crate::{
    BackendConfig, Config, ConfigError,
    config::{BackendSettings, parse::parse},
};

/// A backend with these members, in a file beside the certificates.
fn backend(members: &str) -> Result<BackendSettings, ConfigError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let text =
        format!(r#"{{ "primary_backends": [{{ "name": "a", "url": "https://a", {members} }}] }}"#);
    Ok(parse(&text, &folder, &|_| None)?.backends.remove(0))
}

#[test]
fn the_files_are_relative_to_the_configurations_folder() {
    for (members, is_set) in [
        (r#""model": """#, false),
        (r#""ca_file": "authority.pem""#, true),
        (
            r#""client_cert": "client.pem", "client_key": "client.key""#,
            true,
        ),
        (
            r#""client_key": "client.key", "ca_file": "authority.pem", "client_cert": "client.pem""#,
            true,
        ),
    ] {
        assert_eq!(backend(members).unwrap().tls.is_some(), is_set, "{members}");
    }

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let built = BackendConfig::new("a", "https://a")
        .ca_file(folder.join("authority.pem"))
        .client_cert(folder.join("client.pem"))
        .client_key(folder.join("client.key"));
    let built = Config::builder().backend(built).build().unwrap();
    let read = backend(
        r#""ca_file": "authority.pem", "client_cert": "client.pem", "client_key": "client.key""#,
    );
    assert_eq!(built.backends, [read.unwrap()]);
    let debug = format!("{built:?}");
    assert!(debug.contains("tls: Some(Sensitive)"), "{debug}");
}

#[test]
fn files_that_are_not_allowed() {
    const AUTHORITIES: &str = "it must hold certificates of authorities in PEM form";
    const CERTIFICATE: &str =
        "it must hold the client's certificate, and those of its issuers after it, in PEM form";
    const KEY: &str =
        "it must hold the private key of `client_cert` in PEM form, without a passphrase";
    let pair = |certificate: &str, key: &str| {
        format!(
            r#""ca_file": "authority.pem", "client_cert": "{certificate}", "client_key": "{key}""#
        )
    };
    for (members, field, problem, must) in [
        (
            r#""ca_file": "leaf.key""#.to_owned(),
            "ca_file",
            "names a file without a valid certificate",
            AUTHORITIES,
        ),
        (
            pair("client.key", "client.key"),
            "client_cert",
            "names a file without a valid certificate",
            CERTIFICATE,
        ),
        (
            pair("client.pem", "encrypted.key"),
            "client_key",
            "names a file without such a key",
            KEY,
        ),
        (
            pair("client.pem", "leaf.key"),
            "client_key",
            "names a file whose key isn't the certificate's",
            KEY,
        ),
    ] {
        let error = backend(&members).unwrap_err();
        let expected = format!("`primary_backends[0].{field}` {problem}; {must}");
        assert!(error.to_string().ends_with(&expected), "{error}");
        assert!(error.line().is_some(), "{error}");
    }
    for (members, field) in [
        (r#""ca_file": "sk-secret""#.to_owned(), "ca_file"),
        (pair("sk-secret", "client.key"), "client_cert"),
        (pair("client.pem", "sk-secret"), "client_key"),
        (pair("client.pem", "."), "client_key"),
    ] {
        let error = backend(&members).unwrap_err().to_string();
        let expected = format!("`primary_backends[0].{field}` names a file that can't be read (");
        assert!(error.contains(&expected), "{error}");
        assert!(!error.contains("sk-secret"), "{error}");
    }
    for (members, expected) in [
        (
            r#""client_cert": "client.pem""#,
            "`primary_backends[0].client_cert` needs the private key of the certificate in \
             `client_key`",
        ),
        (
            r#""client_key": "client.key""#,
            "`primary_backends[0].client_key` needs the certificate of the key in `client_cert`",
        ),
    ] {
        let error = backend(members).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    // A placeholder's aren't read.
    let placeholder = BackendConfig::new("b", "").ca_file("missing");
    let config = Config::builder().backend(BackendConfig::new("a", "http://a"));
    assert!(config.backend(placeholder).build().is_ok());
}
