//! The configuration: any text is read or refused with one line that says where and what, shows
//! no value, and what was read keeps the documented rules.

#![no_main]

use std::{collections::HashSet, ffi::OsString, time::Duration};

use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::{
    Config, ConfigError,
    fuzzing::{self, BackendView},
};

/// The key in the environment; and what stands for a secret in the text.
const KEY: &str = "sk-0123456789abcdef";
const SECRET: &str = "s3cr3t";

const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn environment(name: &str) -> Option<OsString> {
    match name {
        "KEY" | "key" => Some(KEY.into()),
        "EMPTY" => Some("".into()),
        "BLANK" => Some(format!("{KEY} ").into()),
        "LINES" => Some(format!("{KEY}\r\nx: y").into()),
        _ => None,
    }
}

fuzz_target!(|text: &str| {
    if text.contains(KEY) {
        return;
    }
    let result = fuzzing::config(text, &environment);
    match &result {
        Ok(config) => check_config(config),
        Err(error) => check_error(text, error),
    }
    // What says nothing changes nothing.
    let same =
        |text: &str| fuzzing::config(text, &environment).ok() == result.as_ref().ok().cloned();
    assert!(same(&format!("{text}\n# {{")));
    assert!(text.starts_with('\u{feff}') || same(&format!("\u{feff}//\"\n/* # */{text}")));
});

fn check_error(text: &str, error: &ConfigError) {
    let message = error.to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(!format!("{message} {error:?}").contains(KEY), "{message}");
    let shows_names = ["is not a known field", "is given twice", "is called `"];
    if message.contains(SECRET) {
        assert!(
            shows_names.iter().any(|name| message.contains(name)),
            "{message}"
        );
    }

    if error.file().is_some() {
        return; // A keys file, which is whatever there is at that path.
    }
    let Some(place) = message.strip_prefix("line ") else {
        assert!(
            message.starts_with(['`']) || message.starts_with("the configuration"),
            "{message}"
        );
        return;
    };
    let (line, rest) = place.split_once(", column ").expect("a column");
    let (column, _) = rest.split_once(": ").expect("a problem");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = line
        .parse::<usize>()
        .unwrap()
        .checked_sub(1)
        .expect("lines count from 1");
    let line = text.split('\n').nth(line).expect("the line is in the text");
    let column: usize = column.parse().unwrap();
    assert!(
        (1..=line.chars().count() + 1).contains(&column),
        "{message}"
    );
}

fn check_config(config: &Config) {
    let settings = fuzzing::settings(config);
    let names: HashSet<_> = settings
        .backends
        .iter()
        .map(|backend| &backend.name)
        .collect();
    assert_eq!(names.len(), settings.backends.len());
    assert!(
        settings
            .backends
            .iter()
            .any(|backend| backend.url.is_some())
    );
    settings.backends.iter().for_each(check_backend);
    let usable = settings
        .backends
        .iter()
        .filter(|backend| backend.url.is_some());
    assert_eq!(fuzzing::backends(config).len(), usable.count());

    let timeouts = [
        settings.timeout,
        settings.connect_timeout,
        settings.idle_timeout,
    ];
    for timeout in timeouts.into_iter().chain(settings.total_timeout) {
        assert!(timeout > Duration::ZERO && timeout <= LONGEST);
    }
    assert!(settings.connect_timeout <= settings.timeout);
    assert!(settings.cooldown <= LONGEST);
    assert!(settings.max_body_bytes > 0);
    assert!(settings.max_held_bytes > 0);
    assert!(settings.max_upload_bytes > 0);
    let statuses = settings.failover_on.iter();
    assert!(
        statuses
            .map(|status| status.as_u16())
            .all(|status| (300..600).contains(&status))
    );

    let debug = format!("{config:?}");
    assert!(!debug.contains(KEY), "{debug}");
    if debug.contains(SECRET) {
        let is_shown = |backend: &BackendView| {
            let url = backend.url.as_ref();
            let url = url.map(|url| format!("{}{}", url.authority().unwrap(), url.path()));
            let paths = Some(backend.paths.clone());
            let shown = [
                Some(backend.name.clone()),
                backend.model.clone(),
                url,
                paths,
            ];
            shown.iter().flatten().any(|text| text.contains(SECRET))
        };
        assert!(settings.backends.iter().any(is_shown), "{debug}");
    }
}

fn check_backend(backend: &BackendView) {
    let name = &backend.name;
    assert!(!name.is_empty() && name.trim() == name && !name.contains(char::is_control));
    assert!(backend.model.as_ref().is_none_or(|model| !model.is_empty()));
    assert!(
        backend
            .timeout
            .is_none_or(|time| time > Duration::ZERO && time <= LONGEST)
    );
    if let Some(url) = &backend.url {
        assert!(matches!(url.scheme_str(), Some("http")));
        assert!(url.host().is_some_and(|host| !host.is_empty()));
        assert!(url.port_u16() != Some(0));
        assert!(!url.authority().unwrap().as_str().contains('@'));
        assert!(
            url.to_string()
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#')
        );
    }
    for (name, value, is_secret) in &backend.own_fields {
        assert!(backend.url.is_some());
        assert!(!matches!(
            name.as_str(),
            "host" | "content-length" | "connection"
        ));
        assert!(*is_secret || !value.as_bytes().contains(&b'\n'));
    }
}
