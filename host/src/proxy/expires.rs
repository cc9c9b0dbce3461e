//! `Expires` and `Cache-Control` as a route's `expires` asks for them.

use std::time::SystemTime;

use http::header::{CACHE_CONTROL, EXPIRES, HeaderValue, LAST_MODIFIED};
use http::{Response, StatusCode};

use crate::config::Expires;
use crate::files::{http_date, seconds, since_epoch};

/// What nginx calls the end of time, and ten years.
const MAX: (i64, i64) = (2_145_916_555, 315_360_000);

/// Sets both fields, in place of what the response has of them, if its status is one that may be
/// cached.
pub(super) fn set<B>(response: &mut Response<B>, expires: Expires) {
    if expires == Expires::Off || !is_cacheable(response.status()) {
        return;
    }
    let now = since_epoch(SystemTime::now()).unwrap_or(0);
    let headers = response.headers_mut();
    let modified = headers.get(LAST_MODIFIED).and_then(seconds);
    let (at, age) = times(expires, now, modified);
    let control = if age < 0 {
        Ok(HeaderValue::from_static("no-cache"))
    } else {
        HeaderValue::try_from(format!("max-age={age}"))
    };
    headers.insert(EXPIRES, http_date(at));
    if let Ok(control) = control {
        headers.insert(CACHE_CONTROL, control);
    }
}

/// Returns when a response becomes stale, and how many seconds from now that is. Of what is long
/// past it only matters that it is.
fn times(expires: Expires, now: i64, modified: Option<i64>) -> (i64, i64) {
    match expires {
        // nginx's, which is not 0: some clients took that for no date.
        Expires::Off | Expires::Epoch => (1, -1),
        Expires::Max => MAX,
        Expires::After {
            seconds,
            modified: false,
        } => (now + seconds, seconds),
        Expires::After {
            seconds,
            modified: true,
        } => {
            let from = modified.unwrap_or(now);
            (from + seconds, from + seconds - now)
        }
    }
}

/// The statuses on which nginx sets these fields.
fn is_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_on(status: u16, expires: Expires) -> Response<()> {
        let mut response = Response::builder()
            .status(status)
            .header(EXPIRES, "0")
            .header(EXPIRES, "1")
            .header(CACHE_CONTROL, "private")
            .header(CACHE_CONTROL, "no-store")
            .header(LAST_MODIFIED, "Tue, 02 Jan 2024 03:04:05 GMT")
            .body(())
            .unwrap();
        set(&mut response, expires);
        response
    }

    fn fields(response: &Response<()>) -> [Vec<&str>; 2] {
        [EXPIRES, CACHE_CONTROL].map(|name| {
            let values = response.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect()
        })
    }

    #[test]
    fn both_fields_are_replaced() {
        for (expires, at, control) in [
            (Expires::Epoch, "Thu, 01 Jan 1970 00:00:01 GMT", "no-cache"),
            (
                Expires::Max,
                "Thu, 31 Dec 2037 23:55:55 GMT",
                "max-age=315360000",
            ),
            (
                Expires::After {
                    seconds: 30 * 86_400,
                    modified: true,
                },
                "Thu, 01 Feb 2024 03:04:05 GMT",
                "no-cache",
            ),
        ] {
            let response = set_on(200, expires);
            assert_eq!(fields(&response), [vec![at], vec![control]]);
        }
    }

    #[test]
    fn times_are_counted_from_now_or_from_the_last_change() {
        let after = |seconds, modified| Expires::After { seconds, modified };
        for (expires, modified, expected) in [
            (after(60, false), Some(500), (1060, 60)),
            (after(0, false), None, (1000, 0)),
            (after(-60, false), None, (940, -60)),
            (after(600, true), Some(500), (1100, 100)),
            (after(60, true), Some(500), (560, -440)),
            (after(60, true), None, (1060, 60)),
        ] {
            assert_eq!(times(expires, 1000, modified), expected, "{expires:?}");
        }
    }

    #[test]
    fn only_statuses_that_may_be_cached_have_them() {
        let untouched = [vec!["0", "1"], vec!["private", "no-store"]];
        for status in [101, 202, 205, 305, 400, 403, 404, 405, 412, 416, 500, 502] {
            assert_eq!(fields(&set_on(status, Expires::Max)), untouched, "{status}");
        }
        for status in [200, 201, 204, 206, 301, 302, 303, 304, 307, 308] {
            assert_ne!(fields(&set_on(status, Expires::Max)), untouched, "{status}");
        }
        assert_eq!(fields(&set_on(200, Expires::Off)), untouched);
    }
}
