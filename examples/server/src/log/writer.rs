//! Lines wait in a buffer, which a separate thread writes to standard error.

use std::{
    io::{self, Write as _},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// A buffer of this size is written out at once.
const WRITE_SIZE: usize = 256 * 1024;

/// The most that may wait to be written, lines that are being written included.
const MAX_WAITING: usize = 1024 * 1024;

/// How long the end of the program waits for standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Starts the thread.
pub(super) fn start() -> io::Result<()> {
    let writer = thread::Builder::new().name("log".to_owned());
    writer.spawn(write_lines)?;
    Ok(())
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

pub(super) fn log(line: &[u8]) {
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

/// For those who want something to write to.
pub(super) struct Buffered;

impl io::Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
