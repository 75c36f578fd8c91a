use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
};

use crate::{
    BackendConfig, Config, ConfigError,
    config::{BackendSettings, parse::parse},
};

fn environment(name: &str) -> Option<OsString> {
    match name {
        "KEY" => Some("sk-variable".into()),
        "WORDS" => Some("two words".into()),
        "EMPTY" => Some("".into()),
        _ => None,
    }
}

/// A folder with the file `key`, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, key: &str) -> Self {
        let name = format!("tower-openai-proxy-fields-{}-{name}", process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("key"), key).unwrap();
        Self(folder)
    }

    /// A configuration with a backend that has these members, from a file in the folder.
    fn config(&self, members: &str) -> Result<Config, ConfigError> {
        config(members, &self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(members: &str, folder: &Path) -> Result<Config, ConfigError> {
    let backend = format!(r#"{{ "name": "a", "url": "http://a", {members} }}"#);
    let text = format!(r#"{{ "primary_backends": [{backend}] }}"#);
    parse(&text, folder, &environment)
}

/// The fields of a configuration without files.
fn fields(members: &str) -> Vec<(String, String, bool)> {
    let config = config(members, Path::new("")).unwrap();
    shown(&config.backends[0])
}

/// Name, value, and whether that is a secret.
fn shown(backend: &BackendSettings) -> Vec<(String, String, bool)> {
    let fields = backend.own_fields.iter().map(|field| {
        let value = field.value.get().to_str().unwrap().to_owned();
        (field.name.to_string(), value, field.value.is_secret())
    });
    fields.collect()
}

fn error(members: &str) -> String {
    let error = config(members, Path::new("")).unwrap_err();
    assert!(error.line() == Some(1) && error.column().is_some());
    let text = error.to_string();
    text.split_once(": ").unwrap().1.to_owned()
}

fn secret(name: &str, value: &str) -> (String, String, bool) {
    (name.to_owned(), value.to_owned(), true)
}

fn plain(name: &str, value: &str) -> (String, String, bool) {
    (name.to_owned(), value.to_owned(), false)
}

#[test]
fn a_key_goes_into_the_field_that_is_named() {
    for (field, expected) in [
        ("", secret("authorization", "Bearer sk-variable")),
        (
            r#","api_key_field": "Authorization""#,
            secret("authorization", "Bearer sk-variable"),
        ),
        (
            r#","api_key_field": "api-key""#,
            secret("api-key", "sk-variable"),
        ),
        (
            r#","api_key_field": "x-api-key""#,
            secret("x-api-key", "sk-variable"),
        ),
    ] {
        let members = format!(r#""api_key_env": "KEY"{field}"#);
        assert_eq!(fields(&members), [expected]);
    }
    assert_eq!(
        error(r#""api_key_env": "KEY", "api_key_field": "x-key""#),
        "`primary_backends[0].api_key_field` must be `authorization`, `api-key` or `x-api-key`"
    );
}

#[test]
fn a_file_with_a_key_is_relative_to_the_configurations_folder() {
    let folder = Folder::new("relative", "sk-file\n");
    let expected = [secret("authorization", "Bearer sk-file")];
    let config = folder.config(r#""api_key_file": "key""#).unwrap();
    assert_eq!(shown(&config.backends[0]), expected);
    assert!(config.backends[0].has_key);
    // The builder knows the file by now.
    let again = config.to_builder().build().unwrap();
    assert_eq!(shown(&again.backends[0]), expected);
    assert_eq!(again, config);

    let path = folder.0.join("key").display().to_string();
    let absolute = format!(r#""api_key_file": {path:?}, "api_key_field": "api-key""#);
    let config = self::config(&absolute, Path::new("/elsewhere")).unwrap();
    assert_eq!(shown(&config.backends[0]), [secret("api-key", "sk-file")]);

    let file = folder.0.join("config.json");
    let backend = r#"{ "name": "a", "url": "http://a", "api_key_file": "./key" }"#;
    fs::write(&file, format!(r#"{{ "primary_backends": [{backend}] }}"#)).unwrap();
    let config = Config::from_path(file).unwrap();
    assert_eq!(shown(&config.backends[0]), expected);
}

#[test]
fn a_file_without_a_key_is_an_error_that_does_not_show_it() {
    const MUST: &str =
        "it must hold the key, visible ASCII characters, at least one, without blanks";
    for (content, problem) in [
        ("", "a file that is empty"),
        ("\n", "a file that is empty"),
        ("sk-secret \n", "a file with content that can't be a key"),
        ("sk-secret\n\n", "a file with content that can't be a key"),
        ("sk-sécret", "a file with content that can't be a key"),
    ] {
        let folder = Folder::new("bad", content);
        let error = folder.config(r#""api_key_file": "key""#).unwrap_err();
        let expected = format!("`primary_backends[0].api_key_file` names {problem}; {MUST}");
        assert!(error.to_string().ends_with(&expected), "{error}");
        assert!(error.line().is_some());
    }
    let error = error(r#""api_key_file": "sk-secret""#);
    assert!(
        error.starts_with("`primary_backends[0].api_key_file` names a file that can't be read (")
    );
    assert!(!error.contains("sk-secret"), "{error}");
}

#[test]
fn a_backend_has_one_key() {
    for members in [
        r#""api_key_env": "KEY", "api_key_file": "key""#,
        r#""api_key_file": "key", "api_key_env": "KEY""#,
    ] {
        let error = error(members);
        assert!(
            error.ends_with("is one key too many; give it in one of the two"),
            "{error}"
        );
    }
    for header in ["Authorization", "AUTHORIZATION", "api-key"] {
        let field = r#""api_key_env": "KEY", "api_key_field": "api-key""#;
        assert_eq!(
            error(&format!(r#"{field}, "headers": {{ "{header}": "x" }}"#)),
            format!(
                "`primary_backends[0].headers.{header}` can't be set beside the backend's own key; \
                 give one of the two"
            )
        );
    }
    // Some gateways want another one beside it.
    let members = r#""api_key_env": "KEY", "headers": { "x-api-key": "sk-gateway" }"#;
    let key = secret("authorization", "Bearer sk-variable");
    assert_eq!(fields(members), [key, secret("x-api-key", "sk-gateway")]);
}

#[test]
fn headers_are_set_with_values_and_secrets() {
    let folder = Folder::new("headers", "two words\r\n");
    let config = folder.config(
        r#""headers": {
            "OpenAI-Organization": "org-1", "HTTP-Referer": "https://app.test/?a=b c",
            "X-Empty": "", "X-Token": { "env": "KEY" }, "X-Words": { "env": "WORDS" },
            "X-File": { "file": "key" }, "api-key": "sk-literal", "Cookie": "a=b"
        }"#,
    );
    let backend = &config.unwrap().backends[0];
    assert!(!backend.has_key && backend.has_credential());
    let mut fields = shown(backend);
    fields.sort();
    assert_eq!(
        fields,
        [
            secret("api-key", "sk-literal"),
            secret("cookie", "a=b"),
            plain("http-referer", "https://app.test/?a=b c"),
            plain("openai-organization", "org-1"),
            plain("x-empty", ""),
            secret("x-file", "two words"),
            secret("x-token", "sk-variable"),
            secret("x-words", "two words"),
        ]
    );
    assert!(format!("{backend:?}").contains("x-token"));
    for value in ["org-1", "two words", "sk-"] {
        assert!(!format!("{backend:?}").contains(value));
    }
}

#[test]
fn an_authorization_is_a_key() {
    let config = config(
        r#""headers": { "authorization": "Basic eA==" }"#,
        Path::new(""),
    );
    let backend = &config.unwrap().backends[0];
    assert!(backend.has_key && backend.has_credential());
    assert_eq!(shown(backend), [secret("authorization", "Basic eA==")]);
}

#[test]
fn headers_that_are_not_allowed() {
    const NAME: &str = "must be a header field other than `Host`, `Content-Length` and those that \
                        concern one connection, such as `Connection`";
    const VALUE: &str = "must be visible ASCII characters, with blanks between them at most";
    const SOURCE: &str = r#"must be a string, {"env": "NAME"} or {"file": "PATH"}"#;
    const VARIABLE: &str = "it must hold the value, visible ASCII characters, with blanks between \
                            them at most";
    for (name, value, problem) in [
        ("Host", r#""a""#, NAME),
        ("content-length", r#""0""#, NAME),
        ("Connection", r#""close""#, NAME),
        ("Keep-Alive", r#""a""#, NAME),
        ("Proxy-Authorization", r#""a""#, NAME),
        ("TE", r#""trailers""#, NAME),
        ("Trailer", r#""a""#, NAME),
        ("Transfer-Encoding", r#""chunked""#, NAME),
        ("Upgrade", r#""a""#, NAME),
        ("", r#""a""#, NAME),
        ("a b", r#""a""#, NAME),
        ("é", r#""a""#, NAME),
        ("x", r#"" a""#, VALUE),
        ("x", r#""a\n""#, VALUE),
        ("x", r#""a\r\nb: c""#, VALUE),
        ("x", r#""é""#, VALUE),
        ("x", "{}", SOURCE),
        ("x", r#"{ "env": "KEY", "file": "key" }"#, SOURCE),
        ("x", r#"{ "key": "sk-secret" }"#, SOURCE),
        ("x", "1", SOURCE),
        ("x", "null", &format!("{SOURCE}, not null")),
        ("x", r#"["a"]"#, &format!("{SOURCE}, not a list")),
        (
            "x",
            r#"{ "env": "EMPTY" }"#,
            &format!("names the environment variable `EMPTY`, which is empty; {VARIABLE}"),
        ),
        (
            "x",
            r#"{ "env": "UNSET" }"#,
            &format!("names the environment variable `UNSET`, which isn't set; {VARIABLE}"),
        ),
    ] {
        let members = format!(r#""headers": {{ "{name}": {value} }}"#);
        let expected = format!("`primary_backends[0].headers.{name}` {problem}");
        assert_eq!(error(&members), expected);
    }
    let twice = error(r#""headers": { "X-Two": "a", "x-two": "b" }"#);
    assert_eq!(
        twice,
        "`primary_backends[0].headers.x-two` is given twice, in different case; once is allowed"
    );
    assert_eq!(
        error(r#""headers": ["x"]"#),
        "`primary_backends[0].headers` must be an object, not a list"
    );
}

#[test]
fn the_builder_says_the_same() {
    let folder = Folder::new("builder", "sk-file");
    let file = folder.config(
        r#""api_key_file": "key", "api_key_field": "x-api-key",
           "headers": { "a": "1", "b": { "env": "KEY" }, "c": { "file": "key" } }"#,
    );
    let backend = BackendConfig::new("a", "http://a")
        .api_key("sk-other")
        .api_key_file(folder.0.join("key"))
        .api_key_field("x-api-key")
        .header("a", "0")
        .header("a", "1")
        .header("b", "sk-variable")
        .header_file("c", folder.0.join("key"));
    let debug = format!("{backend:?}");
    assert!(
        debug.contains("x-api-key") && !debug.contains("sk-"),
        "{debug}"
    );
    assert_eq!(
        Config::builder().backend(backend).build().unwrap(),
        file.unwrap()
    );

    // A placeholder's secrets aren't read, but what is known is checked.
    let placeholder = BackendConfig::new("b", "")
        .api_key_file("missing")
        .header_file("c", "missing");
    let with = |placeholder| {
        let good = BackendConfig::new("a", "http://a");
        Config::builder().backend(good).backend(placeholder).build()
    };
    assert!(with(placeholder.clone()).is_ok());
    assert!(with(placeholder.header("Host", "x")).is_err());
}
