//! Logs on standard error that cost the workers next to nothing: a line is formatted into a shared
//! buffer, and a separate thread writes the buffer out ten times a second.
//!
//! A standard error that blocks or fails never holds a worker up: lines wait in the buffer, and
//! when that is full, further ones are dropped and counted.
//!
//! Lines are text or, with `--log-format json`, JSON objects.
//!
//! `RUST_LOG` says what is logged. It holds for this project's own targets. Those of the HTTP and
//! TLS libraries are enabled at `error`, as clients can make them warn; where `RUST_LOG` names one,
//! up to `info`, as below that they would print header fields, and with them keys.

mod exchange;
mod json;
mod stamp;
mod text;
mod writer;

use std::{ffi::OsString, fmt, io, str::FromStr, sync::OnceLock};

use tracing::Level;
use tracing_subscriber::{
    filter::{FilterFn, LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::writer::Buffered;
pub(crate) use self::{exchange::json_log, writer::flush};

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl FromStr for Format {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

pub(crate) const FORMAT_OPTION: &str = "--log-format";

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Takes the format from the command line before anything else is, so that mistakes elsewhere in it
/// are told in this format.
pub(crate) fn choose_format(arguments: impl Iterator<Item = OsString>) {
    let mut arguments = arguments.filter_map(|argument| argument.into_string().ok());
    let mut format = Format::Text;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix(FORMAT_OPTION) {
            Some("") => arguments.next(),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        format = value.and_then(|value| value.parse().ok()).unwrap_or(format);
    }
    if format == Format::Json {
        std::panic::set_hook(Box::new(|panic| crate::print::error(panic)));
    }
    let _ = FORMAT.set(format);
}

pub(crate) fn format() -> Format {
    *FORMAT.get().unwrap_or(&Format::Text)
}

/// The targets that never log a header field or a body.
const OWN_TARGETS: [&str; 2] = ["tower_openai_proxy", "tower_openai_proxy_server"];

/// Starts to log what `RUST_LOG` asks for. Fails where no thread can be started.
pub(crate) fn start() -> io::Result<()> {
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    let info = Targets::new().with_default(Level::INFO);
    let (targets, mistake) = match wanted.as_deref().map(parse) {
        None => (info, None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (info, Some(error)),
    };
    let most = targets.iter().map(|(_, level)| level).max();
    let most = most.into_iter().chain(targets.default_level()).max();
    let filter = FilterFn::new(move |metadata| {
        targets.would_enable(metadata.target(), metadata.level())
            && *metadata.level() <= most_of(metadata.target(), &targets)
    })
    .with_max_level_hint(most.unwrap_or(LevelFilter::OFF));

    // Spans are only made at `debug`: formatting them is left to the library that does it well.
    let logs = tracing_subscriber::registry().with(filter);
    if format() == Format::Json {
        logs.with(json::Lines).init();
    } else if most > Some(LevelFilter::INFO) {
        let spans = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Buffered);
        logs.with(spans).init();
    } else {
        logs.with(text::Lines).init();
    }
    writer::start()?;
    if let Some(error) = mistake {
        tracing::warn!(%error, "RUST_LOG is not understood; logging at info");
    }
    Ok(())
}

/// What a value of `RUST_LOG` asks for. A word that is no level would be taken for a target, and a
/// misspelt level silence everything.
fn parse(wanted: &str) -> Result<Targets, Box<dyn std::error::Error>> {
    let targets: Targets = wanted.parse()?;
    if targets.default_level().is_none() && !targets.iter().any(|(target, _)| is_own(target)) {
        return Err("neither a level nor a target of this server".into());
    }
    Ok(targets)
}

/// The most verbose level of a target that may be logged at all.
fn most_of(target: &str, wanted: &Targets) -> LevelFilter {
    if is_own(target) {
        LevelFilter::TRACE
    } else if wanted.iter().any(|(named, _)| target.starts_with(named)) {
        LevelFilter::INFO
    } else {
        LevelFilter::ERROR
    }
}

fn is_own(target: &str) -> bool {
    OWN_TARGETS.iter().any(|own| {
        let below = target.strip_prefix(own);
        below.is_some_and(|below| below.is_empty() || below.starts_with("::"))
    })
}

/// Logs a message as it stands, whatever `RUST_LOG` says.
pub(crate) fn message(message: impl fmt::Display) {
    writer::log(line(message).as_bytes());
}

/// A message as a line.
pub(crate) fn line(message: impl fmt::Display) -> String {
    match format() {
        Format::Text => format!("{message}\n"),
        Format::Json => json::message(&message.to_string()),
    }
}
