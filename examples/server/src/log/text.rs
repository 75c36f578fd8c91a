//! Lines of text: time, level, message, fields.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{stamp::Stamp, writer};

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// One line an event.
pub(super) struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with_borrow_mut(|line| {
            line.begin(event.metadata().level());
            event.record(line);
            line.text.push('\n');
            writer::log(line.text.as_bytes());
        });
    }
}

/// The line that a thread is writing. Numbers go without `fmt`, which would cost several times what
/// everything else here does.
#[derive(Default)]
struct Line {
    text: String,
    stamp: Stamp,
}

impl Line {
    fn begin(&mut self, level: &Level) {
        self.text.clear();
        self.stamp.write(&mut self.text);
        self.text.push(' ');
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
        // Without a branch for each byte, so that it is vectorized.
        let is_plain = |byte: u8| byte.is_ascii_graphic() & (byte != b'"');
        let is_plain = value.bytes().fold(true, |all, byte| all & is_plain(byte));
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
