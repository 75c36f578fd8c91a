//! Logs on standard error that cost the workers next to nothing: a line is formatted into a shared
//! buffer, and a thread of its own writes the buffer out ten times a second.
//!
//! `RUST_LOG` says what is logged. Below `info` only the proxy's own targets are heard: those of
//! the HTTP and TLS libraries would print header fields, and with them keys.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter, Targets},
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// A buffer of this size is written out by the thread that has filled it.
const BUFFER_SIZE: usize = 256 * 1024;

/// The targets that may say more than `info`: they never print a header field or a body.
const OWN_TARGETS: [&str; 2] = ["tower_openai_proxy", "server"];

static BUFFER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Begins to log what `RUST_LOG` asks for.
pub(crate) fn start() {
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
        is_harmless(metadata) && targets.would_enable(metadata.target(), metadata.level())
    })
    .with_max_level_hint(most.unwrap_or(LevelFilter::OFF));

    // Spans are only made at `debug`: formatting them is left to the library that does it well.
    let logs = tracing_subscriber::registry().with(filter);
    if most > Some(LevelFilter::INFO) {
        let spans = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Buffered);
        logs.with(spans).init();
    } else {
        logs.with(Lines).init();
    }
    let writer = thread::Builder::new().name("log".to_owned());
    let started = writer.spawn(|| {
        loop {
            thread::sleep(WRITE_INTERVAL);
            flush();
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "logs are written late");
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, "RUST_LOG is not understood; logging at info");
    }
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

fn is_harmless(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || is_own(metadata.target())
}

fn is_own(target: &str) -> bool {
    let root = target.split("::").next();
    OWN_TARGETS.iter().any(|own| root == Some(own))
}

/// Writes out what has been logged so far.
pub(crate) fn flush() {
    let lines = std::mem::take(&mut *buffer());
    if !lines.is_empty() {
        // There is nowhere to report a failure to.
        let _ = io::stderr().lock().write_all(&lines);
    }
}

fn buffer() -> MutexGuard<'static, Vec<u8>> {
    BUFFER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(line: &[u8]) {
    let is_full = {
        let mut buffer = buffer();
        buffer.extend_from_slice(line);
        buffer.len() > BUFFER_SIZE
    };
    if is_full {
        flush();
    }
}

struct Buffered;

impl io::Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line an event: time, level, message, fields.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(String::with_capacity(256));
        // Writing to a string can't fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut line.0));
        let _ = write!(line.0, " {}", event.metadata().level());
        event.record(&mut line);
        line.0.push('\n');
        log(line.0.as_bytes());
    }
}

struct Line(String);

impl Line {
    fn name(&mut self, field: &Field) {
        self.0.push(' ');
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        let _ = write!(self.0, "{value:.1}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        let is_plain = value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let _ = match is_plain {
            true => self.0.write_str(value),
            false => write!(self.0, "{value:?}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" || text.parse::<u64>().is_ok() {
            self.name(field);
            self.0.push_str(&text);
        } else {
            self.record_str(field, &text);
        }
    }
}
