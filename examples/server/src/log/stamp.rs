//! The time of a line (RFC 3339, UTC), at the cost of a few digits.

use std::time::{self, Duration};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

/// Remembers the last second that was asked for.
#[derive(Default)]
pub(super) struct Stamp {
    /// Since 1970.
    second: u64,
    /// The same as text.
    date: String,
}

impl Stamp {
    /// Writes what time it is, to a microsecond.
    pub(super) fn write(&mut self, text: &mut String) {
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
        text.push_str(&self.date);
        micros(now.subsec_micros(), text);
        text.push('Z');
    }
}

/// Writes the fraction of a second.
pub(super) fn micros(micros: u32, text: &mut String) {
    text.push('.');
    for power in [100_000, 10_000, 1000, 100, 10, 1] {
        let digit = micros / power % 10;
        text.push((b'0' + digit as u8) as char);
    }
}

fn since_1970() -> Duration {
    let now = time::SystemTime::now().duration_since(time::UNIX_EPOCH);
    now.unwrap_or_default()
}
