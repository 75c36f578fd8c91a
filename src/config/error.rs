use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a configuration can't be used.
///
/// Displayed, it is one message for whoever wrote the configuration: the file, line and column (for
/// what was read from text), the field, what is wrong with it and what is allowed. It holds names
/// of fields, backends and environment variables, never a URL, a key or any other value.
///
/// ```
/// # use tower_openai_proxy::Config;
/// let error = "{ \"settings\": { \"timeout\": \"30\" } }".parse::<Config>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "line 1, column 28: `settings.timeout` must be a positive number of seconds, not a string",
/// );
/// ```
#[derive(Debug)]
pub struct ConfigError {
    file: Option<PathBuf>,
    position: Option<Position>,
    /// A path, such as `primary_backends[1].url`.
    field: Option<String>,
    problem: String,
    source: Option<io::Error>,
}

/// Both count from 1, the column in characters.
#[derive(Clone, Copy, Debug)]
struct Position {
    line: usize,
    column: usize,
}

impl ConfigError {
    /// `problem` continues the sentence that `field` begins.
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let field = Some(field.into());
        Self {
            field,
            ..Self::text(problem)
        }
    }

    /// `problem` is a sentence of its own, about the text as a whole or a place in it.
    pub(super) fn text(problem: impl Into<String>) -> Self {
        Self {
            file: None,
            position: None,
            field: None,
            problem: problem.into(),
            source: None,
        }
    }

    pub(super) fn unreadable(source: io::Error) -> Self {
        let problem = format!("can't be read: {source}");
        Self {
            source: Some(source),
            ..Self::text(problem)
        }
    }

    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
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

    /// The path of the field that this is about.
    pub(super) fn path(&self) -> Option<&str> {
        self.field.as_deref()
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

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
