//! Secrets that requests to a backend carry, and those of them that are in files.

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http::HeaderValue;

use crate::file;

/// How often files are read again.
const INTERVAL: Duration = Duration::from_secs(1);

/// More than any secret has.
const MAX_BYTES: u64 = 64 * 1024;

/// The value of a field that the operator sets.
#[derive(Clone)]
pub(crate) enum FieldValue {
    /// Marked sensitive if it is a secret.
    Fixed(HeaderValue),
    File(Arc<SecretFile>),
}

impl FieldValue {
    /// The value as it is now.
    #[inline]
    pub(crate) fn get(&self) -> Cow<'_, HeaderValue> {
        match self {
            Self::Fixed(value) => Cow::Borrowed(value),
            Self::File(file) => Cow::Owned(file.value()),
        }
    }

    pub(crate) fn is_secret(&self) -> bool {
        match self {
            Self::Fixed(value) => value.is_sensitive(),
            Self::File(_) => true,
        }
    }

    pub(crate) fn file(&self) -> Option<&Arc<SecretFile>> {
        match self {
            Self::Fixed(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for FieldValue {}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive")
    }
}

/// Makes a value of a secret, where it can be one. It is marked sensitive.
pub(crate) type Parse = fn(&str) -> Option<HeaderValue>;

/// A secret in a file, as it was when the file last held one.
pub(crate) struct SecretFile {
    path: PathBuf,
    /// Whose secret it is, for the log.
    owner: String,
    parse: Parse,
    value: RwLock<HeaderValue>,
    is_warned_of: AtomicBool,
}

/// Why a file holds no secret.
#[derive(Debug)]
pub(crate) enum Problem {
    Unreadable(io::Error),
    Empty,
    Invalid,
}

impl SecretFile {
    /// Reads the file. `owner` is what the log calls the secret.
    pub(crate) fn open(path: PathBuf, owner: String, parse: Parse) -> Result<Self, Problem> {
        Ok(Self {
            value: RwLock::new(read(&path, parse)?),
            path,
            owner,
            parse,
            is_warned_of: AtomicBool::new(false),
        })
    }

    fn value(&self) -> HeaderValue {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        value.clone()
    }

    /// Reads the file again. If it holds no secret, the last one stays, and the log says so once.
    fn refresh(&self) {
        match read(&self.path, self.parse) {
            Ok(value) => {
                self.is_warned_of.store(false, Ordering::Relaxed);
                if value != self.value() {
                    *self.value.write().unwrap_or_else(PoisonError::into_inner) = value;
                    tracing::debug!("the file of {} has been read again", self.owner);
                }
            }
            Err(problem) => {
                if !self.is_warned_of.swap(true, Ordering::Relaxed) {
                    let owner = &self.owner;
                    tracing::warn!("the file of {owner} {problem}; its last content stays in use");
                }
            }
        }
    }
}

fn read(path: &Path, parse: Parse) -> Result<HeaderValue, Problem> {
    let content = file::read(path, MAX_BYTES).map_err(Problem::Unreadable)?;
    let content = content.strip_suffix(b"\n").unwrap_or(&content);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if content.is_empty() {
        return Err(Problem::Empty);
    }
    let content = std::str::from_utf8(content).map_err(|_| Problem::Invalid)?;
    parse(content).ok_or(Problem::Invalid)
}

/// Reads these files again once a second, as long as somebody uses them. A thread does so: a file
/// may be on a file system that hangs.
pub(crate) fn watch<'a>(files: impl Iterator<Item = &'a Arc<SecretFile>>) {
    let mut files: Vec<Weak<SecretFile>> = files.map(Arc::downgrade).collect();
    if files.is_empty() {
        return;
    }
    let thread = thread::Builder::new().name("secrets".to_owned());
    let started = thread.spawn(move || {
        while !files.is_empty() {
            thread::sleep(INTERVAL);
            files.retain(|file| {
                file.upgrade().is_some_and(|file| {
                    file.refresh();
                    true
                })
            });
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "no thread for secrets in files: they will not be read again");
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "can't be read ({error})"),
            Self::Empty => f.write_str("is empty"),
            Self::Invalid => f.write_str("has content that can't be used"),
        }
    }
}
