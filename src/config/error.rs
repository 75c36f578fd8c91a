use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
};

/// Why a configuration can't be used.
///
/// Displayed, it is one line for the author of the configuration: the file, line and column (of text
/// that was read), the field, what is wrong with it and what is allowed. It names fields, backends
/// and environment variables, and never contains a URL, a key or any other value. `Debug` is the
/// same, so that a `main` that returns this error prints it.
///
/// ```
/// # use tower_openai_proxy::Config;
/// let error = "{ \"settings\": { \"timeout\": \"30\" } }".parse::<Config>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "line 1, column 28: `settings.timeout` must be a positive number of seconds, not a string",
/// );
/// ```
pub struct ConfigError {
    file: Option<PathBuf>,
    position: Option<Position>,
    field: Option<String>,
    problem: String,
}

/// Both count from 1, the column in characters.
#[derive(Clone, Copy)]
struct Position {
    line: usize,
    column: usize,
}

impl ConfigError {
    /// The file, if the configuration was read from one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line in the text, from 1.
    pub fn line(&self) -> Option<usize> {
        Some(self.position?.line)
    }

    /// The column in the line, in characters, from 1.
    pub fn column(&self) -> Option<usize> {
        Some(self.position?.column)
    }

    /// The path of the field, such as `primary_backends[1].url`.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// `problem` continues the sentence that `field` begins.
    pub(super) fn in_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(problem)
        }
    }

    /// `problem` is a sentence of its own, about the text as a whole or a place in it.
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self {
            file: None,
            position: None,
            field: None,
            problem: problem.into(),
        }
    }

    /// Unless it is in another file that this one names.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Points to the character of `text` that begins at byte `offset`.
    pub(super) fn at(mut self, text: &str, offset: usize) -> Self {
        let before = String::from_utf8_lossy(&text.as_bytes()[..offset.min(text.len())]);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        self.position = Some(Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        });
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(Position { line, column }) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "`{field}` ")?;
        }
        f.write_str(&self.problem)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ConfigError {}
