//! Logs on standard error that cost the workers next to nothing: a line is formatted into a shared
//! buffer, and a separate thread writes the buffer out ten times a second.
//!
//! A standard error that blocks or fails never holds a worker up: lines wait in the buffer, and
//! when that is full, further ones are dropped and counted.
//!
//! `RUST_LOG` says what is logged. It holds for this project's own targets. Those of the HTTP and
//! TLS libraries are enabled at `error`, as clients can make them warn; where `RUST_LOG` names one,
//! up to `info`, as below that they would print header fields, and with them keys.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    io::{self, Write as _},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{self, Duration},
};

use tracing::{
    Event, Level, Subscriber,
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

/// A buffer of this size is written out at once.
const WRITE_SIZE: usize = 256 * 1024;

/// The most that may wait to be written, lines that are being written included.
const MAX_WAITING: usize = 1024 * 1024;

/// How long the end of the program waits for standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The targets that never log a header field or a body.
const OWN_TARGETS: [&str; 2] = ["tower_openai_proxy", "tower_openai_proxy_server"];

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer {
    lines: Vec::new(),
    writing: 0,
    dropped: 0,
    is_ending: false,
    is_failing: false,
});

/// Wakes the writer before its time.
static WAKE: Condvar = Condvar::new();

/// Tells that the writer has written, or failed to.
static WRITTEN: Condvar = Condvar::new();

/// What waits to be written.
struct Buffer {
    lines: Vec<u8>,
    /// The bytes that the writer has taken and not written yet.
    writing: usize,
    /// The lines that found no room.
    dropped: u64,
    /// The program waits for the last lines.
    is_ending: bool,
    /// The last write failed.
    is_failing: bool,
}

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
    if most > Some(LevelFilter::INFO) {
        let spans = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Buffered);
        logs.with(spans).init();
    } else {
        logs.with(Lines).init();
    }
    let writer = thread::Builder::new().name("log".to_owned());
    writer.spawn(write_lines)?;
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
    let root = target.split("::").next();
    OWN_TARGETS.iter().any(|own| root == Some(own))
}

/// Logs a message as it stands, whatever `RUST_LOG` says.
pub(crate) fn message(message: impl fmt::Display) {
    log(format!("{message}\n").as_bytes());
}

/// Waits until everything logged so far is written, unless standard error fails or blocks. Called
/// once, at the end of the program.
pub(crate) fn flush() {
    let mut buffer = buffer();
    buffer.is_ending = true;
    WAKE.notify_one();
    let waits = |buffer: &mut Buffer| {
        let is_written = buffer.lines.is_empty() && buffer.writing == 0;
        !is_written && !buffer.is_failing
    };
    let _ = WRITTEN.wait_timeout_while(buffer, FLUSH_TIMEOUT, waits);
}

/// Writes lines out for as long as the program runs.
fn write_lines() {
    let mut lines = Vec::new();
    let mut written = 0;
    loop {
        {
            let waits = |buffer: &mut Buffer| {
                let is_urgent = buffer.is_ending && !buffer.lines.is_empty();
                buffer.is_failing || !is_urgent && buffer.lines.len() < WRITE_SIZE
            };
            let woken = WAKE.wait_timeout_while(buffer(), WRITE_INTERVAL, waits);
            let (mut buffer, _) = woken.unwrap_or_else(PoisonError::into_inner);
            if written == lines.len() {
                lines.clear();
                written = 0;
                std::mem::swap(&mut lines, &mut buffer.lines);
                buffer.writing = lines.len();
            }
        }
        let is_failing = write(&lines, &mut written).is_err();
        let dropped = {
            let mut buffer = buffer();
            buffer.is_failing = is_failing;
            buffer.writing = lines.len() - written;
            WRITTEN.notify_all();
            match buffer.writing {
                0 => std::mem::take(&mut buffer.dropped),
                _ => 0,
            }
        };
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "log lines dropped while standard error was blocked"
            );
        }
    }
}

/// Writes on from where the last write ended.
fn write(lines: &[u8], written: &mut usize) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    while *written < lines.len() {
        match stderr.write(&lines[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => *written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn buffer() -> MutexGuard<'static, Buffer> {
    BUFFER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(line: &[u8]) {
    let mut buffer = buffer();
    let before = buffer.lines.len();
    if buffer.writing + before + line.len() > MAX_WAITING {
        buffer.dropped += 1;
        return;
    }
    buffer.lines.extend_from_slice(line);
    if before < WRITE_SIZE && buffer.lines.len() >= WRITE_SIZE {
        WAKE.notify_one();
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

fn since_1970() -> Duration {
    let now = time::SystemTime::now().duration_since(time::UNIX_EPOCH);
    now.unwrap_or_default()
}

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// One line an event: time, level, message, fields.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with_borrow_mut(|line| {
            line.begin(event.metadata().level());
            event.record(line);
            line.text.push('\n');
            log(line.text.as_bytes());
        });
    }
}

/// The line that a thread is writing. Numbers go without `fmt`, which would cost several times what
/// everything else here does.
#[derive(Default)]
struct Line {
    text: String,
    /// The last second a line was written in, since 1970 and as text.
    second: u64,
    date: String,
}

impl Line {
    fn begin(&mut self, level: &Level) {
        let mut now = since_1970();
        while now.as_secs() != self.second {
            self.date.clear();
            // Writing to a string can't fail.
            let _ = SystemTime.format_time(&mut Writer::new(&mut self.date));
            self.date.truncate("1970-01-01T00:00:00".len());
            // That was still in this second, if the clock says so now.
            self.second = now.as_secs();
            now = since_1970();
        }
        self.text.clear();
        self.text.push_str(&self.date);
        self.text.push('.');
        for power in [100_000, 10_000, 1000, 100, 10, 1] {
            let digit = now.subsec_micros() / power % 10;
            self.text.push((b'0' + digit as u8) as char);
        }
        self.text.push_str("Z ");
        self.text.push_str(level.as_str());
    }

    fn name(&mut self, field: &Field) {
        self.text.push(' ');
        if field.name() != "message" {
            self.text.push_str(field.name());
            self.text.push('=');
        }
    }

    fn integer(&mut self, value: impl itoa::Integer) {
        self.text.push_str(itoa::Buffer::new().format(value));
    }
}

impl Visit for Line {
    /// To one decimal.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        let tenths = (value * 10.0).round() as i64;
        self.integer(tenths / 10);
        self.text.push('.');
        self.integer((tenths % 10).abs());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        self.integer(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.integer(value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        let is_plain = value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let _ = match is_plain {
            true => self.text.write_str(value),
            false => write!(self.text, "{value:?}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.name(field);
            let _ = write!(self.text, "{value:?}");
        } else {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}
