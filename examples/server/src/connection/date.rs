//! `Date`, which is added to responses without one (RFC 9110, section 6.6.1).

use std::{cell::RefCell, time::SystemTime};

use http::{HeaderMap, HeaderValue, header::DATE};
use httpdate::fmt_http_date;

/// The current second, written once for all responses of the thread.
struct Written {
    second: u64,
    date: HeaderValue,
}

thread_local! {
    static WRITTEN: RefCell<Written> = const {
        RefCell::new(Written {
            second: 0,
            date: HeaderValue::from_static(""),
        })
    };
}

/// Adds the current date where there is none.
pub(super) fn add_to(headers: &mut HeaderMap) {
    // Cheaper than to hash the name, and most responses have it.
    if !headers.keys().any(|name| name == DATE) {
        headers.insert(DATE, now());
    }
}

fn now() -> HeaderValue {
    let now = SystemTime::now();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since_1970.unwrap_or_default().as_secs();
    WRITTEN.with_borrow_mut(|written| {
        if written.second != second {
            let date = fmt_http_date(now);
            *written = Written {
                second,
                date: HeaderValue::try_from(date).expect("ASCII"),
            };
        }
        written.date.clone()
    })
}
