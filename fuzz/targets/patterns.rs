//! Patterns of paths and of models against a straightforward reading of them.
//!
//! The input is text. Its first line is a path, and a model's name at both sides; each other line is
//! a pattern, and behind a `=` a backend's name for what it matches.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::fuzzing::{Models, path_matches};

fuzz_target!(|text: &str| {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let rules: Vec<_> = rest
        .lines()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        .collect();
    for (pattern, _) in &rules {
        check_path(pattern, first);
    }
    check_models(&rules, first);
});

fn check_path(pattern: &str, path: &str) {
    let Some(matches) = path_matches(pattern, path) else {
        return;
    };
    assert!(pattern == "*" || pattern.starts_with('/') && !pattern.starts_with("/v1/"));
    assert!(
        !pattern
            .trim_end_matches('*')
            .contains(['*', '%', '?', '#', ' '])
    );
    let path = normalize(path);
    let expected = match pattern.strip_suffix('*') {
        // Below a path is something.
        Some(above) if above.ends_with('/') => {
            path.starts_with(above.as_bytes()) && path.len() > above.len()
        }
        Some(start) => path.starts_with(start.as_bytes()),
        None => path == pattern.as_bytes(),
    };
    assert_eq!(matches, expected);
}

/// Decoded, and runs of slashes made one.
fn normalize(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut normal = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.map(|digits| std::str::from_utf8(digits).expect("ASCII"));
        match (bytes[at], digits) {
            (b'%', Some(digits)) => {
                normal.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                at += 3;
            }
            (byte, _) => {
                normal.push(byte);
                at += 1;
            }
        }
    }
    normal.dedup_by(|next, before| *next == b'/' && *before == b'/');
    normal
}

fn check_models(rules: &[(&str, &str)], model: &str) {
    let Some(models) = Models::new(rules) else {
        return;
    };
    assert_eq!(models.name(model), expected(rules, model));

    let mut aliases = models.aliases(model);
    for alias in &aliases {
        assert_eq!(models.name(alias).as_deref(), Some(model), "{alias}");
    }
    // The client's own name for it is one of them.
    if models.name(model).as_deref() == Some(model) {
        assert!(aliases.iter().any(|alias| alias == model));
    }
    let count = aliases.len();
    aliases.sort();
    aliases.dedup();
    assert_eq!(aliases.len(), count, "one of them twice");
}

/// The backend's name for a model by the rule that is most specific: the name itself, else the
/// longest pattern, and of several the first.
fn expected(rules: &[(&str, &str)], model: &str) -> Option<String> {
    let mut best: Option<(usize, &str, String)> = None;
    for (pattern, name) in rules {
        let (weight, captured) = match pattern.split_once('*') {
            None if *pattern == model => (usize::MAX, String::new()),
            None => continue,
            Some((before, after)) => {
                let is_match = model.len() >= before.len() + after.len()
                    && model.starts_with(before)
                    && model.ends_with(after);
                if !is_match {
                    continue;
                }
                let captured = &model[before.len()..model.len() - after.len()];
                (pattern.chars().count() - 1, captured.to_owned())
            }
        };
        if best
            .as_ref()
            .is_none_or(|(heaviest, ..)| weight > *heaviest)
        {
            best = Some((weight, name, captured));
        }
    }
    let (_, name, captured) = best?;
    Some(match name {
        "" => model.to_owned(),
        name => name.replace('*', &captured),
    })
}
