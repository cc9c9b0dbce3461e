//! Dates as HTTP writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The last second of the year 9999: later years have no room in a date.
const LATEST: i64 = 253_402_300_799;

/// Writes seconds of the Unix epoch as a date (RFC 9110 §5.6.7). Times that such a date cannot say
/// become the nearest that it can.
pub(crate) fn http_date(seconds: i64) -> HeaderValue {
    let seconds = seconds.clamp(0, LATEST).unsigned_abs();
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Reads a date into seconds of the Unix epoch.
pub(crate) fn seconds(date: &HeaderValue) -> Option<i64> {
    let date = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
    since_epoch(date)
}

/// Returns the seconds from the Unix epoch to a time after it.
pub(crate) fn since_epoch(time: SystemTime) -> Option<i64> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_written() {
        for (at, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_704_164_645, "Tue, 02 Jan 2024 03:04:05 GMT"),
            (LATEST, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(at), text);
            assert_eq!(seconds(&HeaderValue::from_static(text)), Some(at));
        }
        assert_eq!(http_date(-1), http_date(0));
        assert_eq!(http_date(i64::MAX), http_date(LATEST));
        assert_eq!(seconds(&HeaderValue::from_static("yesterday")), None);
    }
}
