//! What the backend and the load client share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of a clock that all processes of the machine share.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    Duration::from(time).as_nanos() as u64
}

/// When a chunk was made, as text of the chunk: `@`, 19 digits, `@`. So it outlives proxies that
/// take chunks apart. There is no other `@` in the traffic.
pub mod stamp {
    pub const DIGITS: usize = 19;

    pub fn text(now_ns: u64) -> String {
        format!("@{now_ns:019}@")
    }

    pub fn find(line: &[u8]) -> Option<u64> {
        let start = memchr::memchr(b'@', line)? + 1;
        let digits = line.get(start..start + DIGITS)?;
        if line.get(start + DIGITS) != Some(&b'@') {
            return None;
        }
        digits.iter().try_fold(0u64, |value, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + u64::from(digit - b'0'))
        })
    }
}

/// What stream the backend is to send. The request's system message says so, such as
/// `mock:chunks=50,delay_us=20000,end_us=0`: messages get through every proxy, unknown fields don't.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamPlan {
    pub chunks: u32,
    pub delay: Duration,
    /// Between the last event and the end of the response.
    pub end_delay: Duration,
}

impl StreamPlan {
    pub const MARK: &'static str = "mock:chunks=";

    /// Has the backend close the connection behind an answer that isn't a stream.
    pub const CLOSE: &'static str = "mock:close";

    pub fn as_text(&self) -> String {
        format!(
            "{}{},delay_us={},end_us={}",
            Self::MARK,
            self.chunks,
            self.delay.as_micros(),
            self.end_delay.as_micros()
        )
    }

    pub fn find(body: &[u8]) -> Option<Self> {
        let start = memchr::memmem::find(body, Self::MARK.as_bytes())? + Self::MARK.len();
        let (chunks, rest) = leading_number(&body[start..])?;
        let (delay_us, rest) = leading_number(rest.strip_prefix(b",delay_us=")?)?;
        let end_us = rest.strip_prefix(b",end_us=").and_then(leading_number);
        Some(Self {
            chunks: chunks as u32,
            delay: Duration::from_micros(delay_us),
            end_delay: Duration::from_micros(end_us.map_or(0, |(number, _)| number)),
        })
    }
}

fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..length]).ok()?.parse().ok()?;
    Some((number, &text[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_round_trip() {
        let line = format!("data: {{\"content\": \"{} word\"}}", stamp::text(1234));
        assert_eq!(stamp::find(line.as_bytes()), Some(1234));
        assert_eq!(stamp::find(b"data: [DONE]"), None);
    }

    #[test]
    fn plan_round_trip() {
        let plan = StreamPlan {
            chunks: 50,
            delay: Duration::from_micros(20_000),
            end_delay: Duration::from_micros(5_000),
        };
        let body = format!("{{\"content\": \"Hello. {}\"}}", plan.as_text());
        assert_eq!(StreamPlan::find(body.as_bytes()), Some(plan));
    }
}
