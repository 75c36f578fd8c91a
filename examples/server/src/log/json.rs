//! Lines of JSON: one object each, without nesting.

use std::{cell::RefCell, fmt, time::Duration};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{stamp, stamp::Stamp, writer};

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// One line an event. Its fields stand under `openai_proxy.`.
pub(super) struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        log(metadata.level(), metadata.target(), |line| {
            event.record(line);
        });
    }
}

/// Logs one line; `fields` writes its message and what is behind that.
pub(super) fn log(level: &Level, target: &str, fields: impl FnOnce(&mut Line)) {
    LINE.with_borrow_mut(|line| {
        line.write(level, target, fields);
        writer::log(line.text.as_bytes());
    });
}

/// What the program says outside of events.
pub(super) fn message(message: &str) -> String {
    let mut line = Line::default();
    line.write(&Level::ERROR, super::OWN_TARGETS[1], |line| {
        line.text("message", message);
    });
    line.text
}

/// The line that a thread is writing.
#[derive(Default)]
pub(super) struct Line {
    text: String,
    stamp: Stamp,
}

impl Line {
    fn write(&mut self, level: &Level, target: &str, fields: impl FnOnce(&mut Self)) {
        self.text.clear();
        self.text.push_str("{\"timestamp\":\"");
        self.stamp.write(&mut self.text);
        self.text.push('"');
        self.text("level", level.as_str());
        self.text("target", target);
        fields(self);
        self.text.push_str("}\n");
    }

    fn name(&mut self, name: &str) {
        self.text.push_str(",\"");
        self.text.push_str(name);
        self.text.push_str("\":");
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let needs_escape = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        if value.bytes().any(needs_escape) {
            // Every text has a form in JSON.
            self.text
                .push_str(&serde_json::to_string(value).unwrap_or_default());
        } else {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
        }
    }

    pub(super) fn integer(&mut self, name: &str, value: impl itoa::Integer) {
        self.name(name);
        self.text.push_str(itoa::Buffer::new().format(value));
    }

    pub(super) fn seconds(&mut self, name: &str, time: Duration) {
        self.integer(name, time.as_secs());
        stamp::micros(time.subsec_micros(), &mut self.text);
    }
}

/// The key of an event's field.
fn key(field: &Field) -> String {
    match field.name() {
        "message" => "message".to_owned(),
        name => format!("openai_proxy.{name}"),
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // Not every number has a form in JSON.
        if value.is_finite() {
            self.name(&key(field));
            self.text.push_str(&value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.integer(&key(field), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.integer(&key(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(&key(field));
        self.text.push_str(if value { "true" } else { "false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(&key(field), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(&key(field), &format!("{value:?}"));
    }
}
