//! Times as text (RFC 3339).

use std::time::{Duration, SystemTime};

/// What a time must be, as messages say it after "must be".
pub(crate) const ALLOWED: &str = "a date and a time with its offset from UTC, as RFC 3339 has it: \
    `2027-01-01T00:00:00Z` or `2027-01-01T00:00:00+01:00`";

/// The time that a text says, without fractions of a second; the epoch for all before it. `None`
/// where the text isn't [allowed](ALLOWED).
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4)?;
    separator(&mut rest, b"-")?;
    let month = number(&mut rest, 2)?;
    separator(&mut rest, b"-")?;
    let day = number(&mut rest, 2)?;
    separator(&mut rest, b"Tt ")?;
    let hour = number(&mut rest, 2)?;
    separator(&mut rest, b":")?;
    let minute = number(&mut rest, 2)?;
    separator(&mut rest, b":")?;
    let second = number(&mut rest, 2)?;
    if separator(&mut rest, b".").is_some() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = rest.get(digits..).filter(|_| digits > 0)?;
    }
    let offset = match separator(&mut rest, b"Zz+-")? {
        sign @ (b'+' | b'-') => {
            let hours = number(&mut rest, 2)?;
            separator(&mut rest, b":")?;
            let minutes = number(&mut rest, 2)?;
            let is_allowed = hours < 24 && minutes < 60;
            let seconds = (hours * 60 + minutes) * 60;
            is_allowed.then_some(if sign == b'-' { -seconds } else { seconds })?
        }
        _ => 0,
    };
    let is_allowed = rest.is_empty()
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60; // a leap second
    let seconds =
        ((days_before(year, month, day) * 24 + hour) * 60 + minute) * 60 + second - offset;
    let since_epoch = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    is_allowed.then(|| SystemTime::UNIX_EPOCH + since_epoch)
}

fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (digits, after) = rest.split_at_checked(digits)?;
    *rest = after;
    digits.iter().try_fold(0, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        Some(number * 10 + i64::from(digit))
    })
}

/// Takes one of these, and tells which it was.
fn separator(rest: &mut &[u8], allowed: &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    let found = allowed.contains(&first).then_some(first)?;
    *rest = after;
    Some(found)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The days from 1970-01-01 to a date.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |years: i64| {
        let before = years - 1;
        before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)
    };
    let years = (year - 1970) * 365 + leap_days(year) - leap_days(1970);
    let months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let since_epoch = parse(text)?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since_epoch.expect("not before").as_secs())
    }

    /// As `date -d … +%s` says.
    #[test]
    fn times_of_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2027-01-01T00:00:00Z", 1_798_761_600),
            ("2027-01-01t00:00:00z", 1_798_761_600),
            ("2027-01-01 00:00:00Z", 1_798_761_600),
            ("2027-01-01T00:00:00.123456789Z", 1_798_761_600),
            ("2027-01-01T01:00:00+01:00", 1_798_761_600),
            ("2026-12-31T18:30:00-05:30", 1_798_761_600),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("1990-12-31T23:59:60Z", 662_688_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("0000-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", 0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2027-01-01",
            "2027-01-01T00:00:00",
            "2027-01-01T00:00Z",
            "2027-1-1T00:00:00Z",
            "27-01-01T00:00:00Z",
            "2027-00-01T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-01-00T00:00:00Z",
            "2027-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:60:00Z",
            "2027-01-01T00:00:61Z",
            "2027-01-01T00:00:00.Z",
            "2027-01-01T00:00:00+0100",
            "2027-01-01T00:00:00+24:00",
            "2027-01-01T00:00:00Z ",
            " 2027-01-01T00:00:00Z",
            "2027-01-01T00:00:00ZZ",
            "+027-01-01T00:00:00Z",
            "２027-01-01T00:00:00Z",
            "1798761600",
            "tomorrow",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
