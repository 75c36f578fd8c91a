use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use crate::{
    config::{BackendConfig, ClientConfig, Config, ConfigBuilder, ConfigError},
    digest::Digest,
    keys,
};

/// A folder with a configuration and a keys file, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, keys: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("tower-openai-proxy-{}-{unique}-{name}", process::id());
        let folder = Self(env::temp_dir().join(folder));
        fs::create_dir_all(&folder.0).unwrap();
        let config = r#"{
            "primary_backends": [
                { "name": "LLM1", "url": "http://a.test" },
                { "name": "LLM2", "url": "" }
            ],
            "settings": { "keys_file": "keys.json" }
        }"#;
        fs::write(folder.0.join("config.json"), config).unwrap();
        fs::write(folder.0.join("keys.json"), keys).unwrap();
        folder
    }

    fn read(&self) -> Result<Config, ConfigError> {
        Config::from_path(self.0.join("config.json"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hash(key: &str) -> String {
    keys::hash(key)
}

/// A configuration that any build takes.
fn builder() -> ConfigBuilder {
    Config::builder().backend(BackendConfig::new("LLM1", "http://a.test"))
}

/// An entry with these further members.
fn entry(more: &str) -> String {
    format!(
        r#"{{"keys":[{{"name":"alice","hash":"{}"{more}}}]}}"#,
        hash("a")
    )
}

#[test]
fn a_whole_keys_file() {
    let (upper, lower) = (hash("alice's").to_ascii_uppercase(), hash("bob's"));
    let upper = upper.replace("SHA256:", "sha256:");
    let text = format!(
        r#"{{
          # Comments are allowed.
          "keys": [
            {{
              "name": "alice",
              "hash": "{upper}",  // of either case
              "models": ["gpt-*", "o3"],
              "paths": ["*", "/files/*"],
              "backends": ["LLM1", "LLM2"],
              "requests_per_minute": 60,
              "max_in_flight": 1e3,
              "expires": "2027-01-01T00:00:00Z"
            }},
            /* Expired, which is no error. */
            {{ "name": "Bob_2.x-y", "hash": "{lower}", "expires": "1999-12-31T23:59:59+02:00" }}
          ]
        }}"#
    );
    let folder = Folder::new("whole", &text);
    let config = folder.read().unwrap();
    assert_eq!(config.keys_file(), Some(&*folder.0.join("keys.json")));
    let [alice, bob] = &*config.clients else {
        panic!("{:?}", config.clients);
    };
    assert_eq!(alice.name.as_str(), "alice");
    assert_eq!(alice.key, Some(Digest::of(b"alice's")));
    assert_eq!(alice.limits.requests_per_minute, Some(60));
    assert_eq!(alice.limits.max_in_flight, Some(1000));
    let since = alice
        .expires
        .unwrap()
        .duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(since.unwrap().as_secs(), 1_798_761_600);
    let grant = alice.grant.as_ref().unwrap();
    assert!(grant.allows_model("gpt-4o") && grant.allows_model("o3") && !grant.allows_model("o4"));
    assert!(grant.allows_backend("LLM2") && !grant.allows_backend("LLM3"));
    assert!(grant.allows_path("/anything"));
    assert_eq!(bob.name.as_str(), "Bob_2.x-y");
    assert!(bob.grant.is_none() && bob.expires.unwrap() < SystemTime::now());

    // The same in code.
    let in_code = Config::builder()
        .backend(BackendConfig::new("LLM1", "http://a.test"))
        .backend(BackendConfig::new("LLM2", ""))
        .keys_file(folder.0.join("keys.json"))
        .build();
    assert_eq!(in_code.unwrap(), config);
    let debug = format!("{config:?} {:?}", config.clients);
    let digits = &lower["sha256:".len()..];
    assert!(!debug.contains(&digits[..8]), "{debug}");
}

/// Asserts what is said of a keys file, in which `»` marks the place that the message points to.
fn assert_bad(text: &str, message: &str) {
    let place = text.split_once('»').map_or(String::new(), |(before, _)| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        format!("line {line}, column {column}: ")
    });
    let folder = Folder::new("bad", &text.replacen('»', "", 1));
    let error = folder.read().expect_err(text);
    let file = folder.0.join("keys.json");
    let expected = format!("{}: {place}{message}", file.display());
    assert_eq!(error.to_string(), expected, "{text}");
    assert_eq!(error.file(), Some(&*file));
    // No part of a hash, and no key.
    let digits = hash("a");
    let shown = error.to_string().replace(&file.display().to_string(), "");
    for secret in [&digits["sha256:".len()..][..8], "sk-secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn each_wrong_entry_is_refused_with_its_place_and_advice() {
    let digits = &hash("a")["sha256:".len()..].to_owned();
    let name = "must be a name of 1 to 64 letters, digits, `.`, `_` and `-`";
    let wrong_hash =
        "must be `sha256:` and 64 hexadecimal digits, as `server --hash-key` prints them";
    let of = |name: &str, hash: &str| format!(r#"{{"keys":[{{"name":{name},"hash":{hash}}}]}}"#);
    let good = format!(r#""sha256:{digits}""#);

    for wrong in [
        r#""""#,
        r#""a b""#,
        r#""é""#,
        &format!("\"{}\"", "a".repeat(65)),
        r#""a\n""#,
    ] {
        assert_bad(
            &of(&format!("»{wrong}"), &good),
            &format!("`keys[0].name` {name}"),
        );
    }
    assert_bad(&of("»1", &good), "`keys[0].name` must be a string");
    for wrong in [
        r#""""#.to_owned(),
        r#""sk-secret""#.to_owned(),
        format!(r#""{digits}""#),
        format!(r#""sha256:{}""#, &digits[1..]),
        format!(r#""sha256:{digits}0""#),
        format!(r#""sha512:{digits}""#),
    ] {
        let text = of(r#""alice""#, &format!("»{wrong}"));
        assert_bad(&text, &format!("`keys[0].hash` {wrong_hash}"));
    }
    assert_bad(&of(r#""alice""#, "»5"), "`keys[0].hash` must be a string");
    assert_bad(
        r#"{"keys":[»{"name":"alice"}]}"#,
        "`keys[0]` needs a `hash`, as `server --hash-key` prints it for a key",
    );
    assert_bad(
        &format!(r#"{{"keys":[»{{"hash":{good}}}]}}"#),
        "`keys[0]` needs a `name`",
    );
    assert_bad(
        &entry(r#","key":»"sk-secret""#),
        "`keys[0].key` must not be in the file; put its `hash` there, as `server --hash-key` prints it",
    );
    assert_bad(
        &entry(r#","model":»["gpt-4"]"#),
        "`keys[0].model` is not a known field; known here are `name`, `hash`, `models`, `paths`, \
         `backends`, `requests_per_minute`, `max_in_flight` and `expires`",
    );
    assert_bad(
        &format!(r#"{{"keys":[{{"name":"a","hash":{good}}},»5]}}"#),
        "`keys[1]` must be an object",
    );
}

#[test]
fn each_wrong_member_is_refused_with_its_place_and_advice() {
    let requests = "must be a whole number of requests, 1 or more";
    for wrong in ["0", "-1", "1.5"] {
        for name in ["requests_per_minute", "max_in_flight"] {
            let text = entry(&format!(r#","{name}":»{wrong}"#));
            assert_bad(&text, &format!("`keys[0].{name}` {requests}"));
        }
    }
    assert_bad(
        &entry(r#","max_in_flight":»"8""#),
        &format!("`keys[0].max_in_flight` {requests}, not a string"),
    );
    for wrong in ["2027-01-01", "2027-13-01T00:00:00Z", "tomorrow", ""] {
        assert_bad(
            &entry(&format!(r#","expires":»"{wrong}""#)),
            "`keys[0].expires` must be a date and a time with its offset from UTC, as RFC 3339 has \
             it: `2027-01-01T00:00:00Z` or `2027-01-01T00:00:00+01:00`",
        );
    }
    assert_bad(
        &entry(r#","expires":»1798761600"#),
        "`keys[0].expires` must be a string",
    );
    assert_bad(
        &entry(r#","backends":["LLM1",»"LLM3"]"#),
        "`keys[0].backends[1]` must be the name of a backend of the configuration",
    );
    assert_bad(
        &entry(r#","backends":»[]"#),
        "`keys[0].backends` must be a list of names of backends, at least one",
    );
    assert_bad(
        &entry(r#","models":»[]"#),
        "`keys[0].models` must be a list of model patterns, at least one",
    );
    assert_bad(
        &entry(r#","models":»{"gpt-*":""}"#),
        "`keys[0].models` must be a list of model patterns, at least one, not an object",
    );
    for wrong in ["", "a*b*"] {
        assert_bad(
            &entry(&format!(r#","models":["gpt-4",»"{wrong}"]"#)),
            "`keys[0].models[1]` must be a model's name such as `gpt-4o`, or a pattern with one `*` \
             such as `gpt-*`, not empty and without control characters",
        );
    }
    assert_bad(
        &entry(r#","paths":»[]"#),
        "`keys[0].paths` must be a list of path patterns, at least one",
    );
    let folder = Folder::new("path", &entry(r#","paths":["/v1/models"]"#));
    let error = folder.read().unwrap_err();
    assert_eq!(error.field(), Some("keys[0].paths[0]"));
}

#[test]
fn names_and_hashes_are_unique() {
    let (a, b) = (hash("a"), hash("b"));
    let two = |first: &str, second: &str| format!(r#"{{"keys":[{{{first}}},{{{second}}}]}}"#);
    assert_bad(
        &two(
            &format!(r#""name":"alice","hash":"{a}""#),
            &format!(r#""name":»"alice","hash":"{b}""#),
        ),
        "`keys[1].name` must be unique, but keys[0] has the same",
    );
    // Of either case, they are the same digits.
    let upper = a.replace("sha256:", "").to_ascii_uppercase();
    assert_bad(
        &two(
            &format!(r#""name":"alice","hash":"{a}""#),
            &format!(r#""name":"bob","hash":»"sha256:{upper}""#),
        ),
        "`keys[1].hash` must be unique, but keys[0] has the same",
    );
    let error = builder()
        .client(ClientConfig::new("alice").hash(a))
        .client(ClientConfig::new("alice"))
        .build();
    let message = "`clients[1].name` must be unique, but clients[0] has the same";
    assert_eq!(error.unwrap_err().to_string(), message);
}

#[test]
fn files_that_are_no_keys_files() {
    assert_bad(
        "»",
        "the keys file is empty; it must be a JSON object with `keys`",
    );
    let none =
        "the keys file has no keys; `server --new-key NAME` prints an entry for its list `keys`";
    assert_bad("{}", none);
    assert_bad(r#"{"keys":[]}"#, none);
    assert_bad("[]", "the keys file must be an object, not a list");
    assert_bad(
        r#"{"keys":[],"secrets":»[]}"#,
        "`secrets` is not a known field; known here are `keys`",
    );
    assert_bad(
        r#"{"keys":»{}}"#,
        "`keys` must be a list of keys, not an object",
    );
    assert_bad(
        r#"{"keys":[],"keys":»[]}"#,
        "`keys` is given twice; once is allowed",
    );
    assert_bad(
        "{\"keys\":[\n  »alice]}",
        "not valid JSON: a value is needed here, such as text in double quotes or a number",
    );
}

#[test]
fn a_key_in_the_place_of_a_fields_name_is_not_shown() {
    let hash = hash("a");
    let members = [
        format!(r#"{{"keys":[{{"name":"a","{hash}":1}}]}}"#),
        format!(
            r#"{{"keys":[{{"name":"a","sk-proxy-{}":1}}]}}"#,
            "x".repeat(43)
        ),
        format!(r#"{{"{hash}":1,"{hash}":2}}"#),
    ];
    for text in members {
        let folder = Folder::new("name", &text);
        let error = folder.read().unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains('…') && !message.contains(&hash[7..]),
            "{message}"
        );
        assert!(
            !message.contains("xxxx") && error.line().is_some(),
            "{message}"
        );
    }
}

#[test]
fn unreadable_keys_files() {
    let folder = Folder::new("unreadable", "");
    let keys_file = folder.0.join("keys.json");
    let check = |problem: &str| {
        let error = folder.read().unwrap_err();
        assert_eq!(error.field(), Some("settings.keys_file"));
        assert_eq!(error.line(), Some(6));
        assert_eq!(error.file(), Some(&*folder.0.join("config.json")));
        let message = error.to_string();
        assert!(message.contains(problem), "{message}");
        assert!(message.ends_with("a relative path begins at the configuration's folder"));
    };
    fs::remove_file(&keys_file).unwrap();
    check("names a file that can't be read: ");
    fs::create_dir(&keys_file).unwrap();
    check("names a file that can't be read: not a regular file");
    fs::remove_dir(&keys_file).unwrap();
    fs::write(&keys_file, b"\xff").unwrap();
    check("names a file that can't be read: ");
}

#[test]
fn clients_in_code() {
    let build = |client: ClientConfig| builder().client(client).build();
    // Names of a host application's own are freer than those of keys.
    let config = build(ClientConfig::new("alice@example.com").max_in_flight(1)).unwrap();
    assert!(!config.needs_client_key() && config.clients.len() == 1);
    let config = build(ClientConfig::new("alice").hash(hash("a"))).unwrap();
    assert!(config.needs_client_key() && config.keys_file().is_none());
    for (client, field) in [
        (
            ClientConfig::new("alice@example.com").hash(hash("a")),
            "clients[0].name",
        ),
        (ClientConfig::new(""), "clients[0].name"),
        (ClientConfig::new("a").hash("sk-secret"), "clients[0].hash"),
        (ClientConfig::new("a").models([""]), "clients[0].models[0]"),
        (ClientConfig::new("a").paths(["x"]), "clients[0].paths[0]"),
        (
            ClientConfig::new("a").backends(["x"]),
            "clients[0].backends[0]",
        ),
        (
            ClientConfig::new("a").requests_per_minute(0),
            "clients[0].requests_per_minute",
        ),
        (
            ClientConfig::new("a").max_in_flight(0),
            "clients[0].max_in_flight",
        ),
    ] {
        let debug = format!("{client:?}");
        assert!(!debug.contains("sk-secret"), "{debug}");
        assert_eq!(build(client).unwrap_err().field(), Some(field));
    }
}
