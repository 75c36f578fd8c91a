use std::{env, fs, process};

use super::*;

fn parse(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A file of this test's own, removed on drop.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let name = format!("tower-openai-proxy-secret-{}-{name}", process::id());
        Self(env::temp_dir().join(name))
    }

    fn write(&self, content: &[u8]) {
        fs::write(&self.0, content).unwrap();
    }

    fn open(&self) -> Result<SecretFile, Problem> {
        SecretFile::open(self.0.clone(), "a secret".to_owned(), parse)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn one_line_end_is_taken_off() {
    let file = Temporary::new("line");
    for (content, expected) in [
        ("sk-1", Some("sk-1")),
        ("sk-1\n", Some("sk-1")),
        ("sk-1\r\n", Some("sk-1")),
        ("sk-1\n\n", None),
        ("sk-1\nsk-2", None),
    ] {
        file.write(content.as_bytes());
        let value = file.open().ok().map(|file| file.value());
        assert_eq!(
            value.as_ref().map(HeaderValue::as_bytes),
            expected.map(str::as_bytes)
        );
    }
}

#[test]
fn the_last_secret_stays_until_there_is_another() {
    let file = Temporary::new("last");
    file.write(b"sk-1");
    let secret = file.open().unwrap();
    let refreshed = || {
        secret.refresh();
        secret.value()
    };
    let is_warned_of = || secret.is_warned_of.load(Ordering::Relaxed);

    file.write(b"sk-2\n");
    assert_eq!(secret.value(), "sk-1");
    assert_eq!(refreshed(), "sk-2");
    assert!(secret.value().is_sensitive() && !is_warned_of());
    for bad in [b"" as &[u8], b"\n", b"sk-3\nsk-4", b"sk-3\xff"] {
        file.write(bad);
        assert_eq!(refreshed(), "sk-2");
        assert!(is_warned_of());
    }
    fs::remove_file(&file.0).unwrap();
    assert_eq!(refreshed(), "sk-2");
    file.write(b"sk-3");
    assert_eq!(refreshed(), "sk-3");
    assert!(!is_warned_of());
}

#[test]
fn what_is_no_file_with_a_secret_is_refused() {
    let file = Temporary::new("none");
    assert!(matches!(file.open(), Err(Problem::Unreadable(_))));
    file.write(b"\r\n");
    assert!(matches!(file.open(), Err(Problem::Empty)));
    file.write(b"\x07");
    assert!(matches!(file.open(), Err(Problem::Invalid)));
    let folder = SecretFile::open(env::temp_dir(), String::new(), parse);
    assert!(matches!(folder, Err(Problem::Unreadable(_))));
}
