//! Whether a request still wants the file (RFC 9110 §13), in nginx's order: `If-Unmodified-Since`,
//! `If-Match`, then `If-Modified-Since` and `If-None-Match`, which must agree on a 304.

use http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

use super::date;
use crate::config::IfModifiedSince;
use crate::protocol::upgrade::list_items;

/// What tells one state of a file from another.
pub(super) struct Validators {
    pub(super) etag: HeaderValue,
    /// Seconds of the Unix epoch.
    pub(super) modified: i64,
}

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Outcome {
    Wanted,
    NotModified,
    Failed,
}

impl Validators {
    /// Judges the conditions of a request.
    pub(super) fn judge(&self, headers: &HeaderMap, since: IfModifiedSince) -> Outcome {
        let time = |name: HeaderName| headers.get(name).map(date::seconds);
        let is_older = |date: Option<i64>| date.is_none_or(|date| self.modified > date);
        if time(IF_UNMODIFIED_SINCE).is_some_and(is_older) {
            return Outcome::Failed;
        }
        if headers.contains_key(IF_MATCH) && !self.is_listed(headers, IF_MATCH, false) {
            return Outcome::Failed;
        }
        let modified = time(IF_MODIFIED_SINCE).map(|date| match since {
            IfModifiedSince::Exact => date != Some(self.modified),
            IfModifiedSince::Before => is_older(date),
            IfModifiedSince::Off => true,
        });
        let matched = headers
            .contains_key(IF_NONE_MATCH)
            .then(|| self.is_listed(headers, IF_NONE_MATCH, true));
        match (modified, matched) {
            (None, None) | (Some(true), _) | (_, Some(false)) => Outcome::Wanted,
            (Some(false) | None, Some(true) | None) => Outcome::NotModified,
        }
    }

    /// Whether `If-Range`, if there is one, lets parts of the file be sent.
    pub(super) fn allow_ranges(&self, headers: &HeaderMap) -> bool {
        headers.get(IF_RANGE).is_none_or(|value| {
            if value.as_bytes().ends_with(b"\"") {
                value == self.etag
            } else {
                date::seconds(value) == Some(self.modified)
            }
        })
    }

    /// Whether the tag is in a list, or the list is `*`. Weak tags count for what is compared weakly
    /// only (RFC 9110 §8.8.3.2); our own is never weak.
    fn is_listed(&self, headers: &HeaderMap, name: HeaderName, weakly: bool) -> bool {
        let any = headers
            .get_all(&name)
            .iter()
            .any(|value| value.as_bytes() == b"*");
        any || list_items(headers.get_all(&name)).any(|item| {
            let tag = match item.strip_prefix("W/") {
                Some(tag) if weakly => tag,
                _ => item,
            };
            self.etag == tag
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use IfModifiedSince::{Before, Exact, Off};
    use Outcome::{Failed, NotModified, Wanted};

    const AT: &str = "Tue, 02 Jan 2024 03:04:05 GMT";
    const EARLIER: &str = "Mon, 01 Jan 2024 03:04:05 GMT";
    const LATER: &str = "Wed, 03 Jan 2024 03:04:05 GMT";
    const TAG: &str = "\"65937d25-21\"";

    fn file() -> Validators {
        Validators {
            etag: HeaderValue::from_static(TAG),
            modified: 1_704_164_645,
        }
    }

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn conditions_come_to_what_they_come_to_in_nginx() {
        let ims = IF_MODIFIED_SINCE;
        let inm = IF_NONE_MATCH;
        for (fields, since, expected) in [
            (&[][..], Exact, Wanted),
            (&[(ims.clone(), AT)], Exact, NotModified),
            (&[(ims.clone(), EARLIER)], Exact, Wanted),
            (&[(ims.clone(), LATER)], Exact, Wanted),
            (&[(ims.clone(), "rubbish")], Exact, Wanted),
            (&[(ims.clone(), AT)], Before, NotModified),
            (&[(ims.clone(), EARLIER)], Before, Wanted),
            (&[(ims.clone(), LATER)], Before, NotModified),
            (&[(ims.clone(), "rubbish")], Before, Wanted),
            (&[(ims.clone(), AT)], Off, Wanted),
            (&[(inm.clone(), TAG)], Exact, NotModified),
            (&[(inm.clone(), "W/\"65937d25-21\"")], Exact, NotModified),
            (
                &[(inm.clone(), "\"x\" , \"65937d25-21\"")],
                Exact,
                NotModified,
            ),
            (&[(inm.clone(), "*")], Exact, NotModified),
            (&[(inm.clone(), "\"x\", *")], Exact, Wanted),
            (&[(inm.clone(), "65937d25-21")], Exact, Wanted),
            (&[(inm.clone(), "\"x\"")], Exact, Wanted),
            // Both must agree.
            (&[(inm.clone(), "\"x\""), (ims.clone(), AT)], Exact, Wanted),
            (&[(inm.clone(), TAG), (ims.clone(), EARLIER)], Exact, Wanted),
            (&[(inm.clone(), TAG), (ims, AT)], Exact, NotModified),
            (&[(IF_MATCH, TAG)], Exact, Wanted),
            (&[(IF_MATCH, "\"x\", \"65937d25-21\"")], Exact, Wanted),
            (&[(IF_MATCH, "*")], Exact, Wanted),
            (&[(IF_MATCH, "W/\"65937d25-21\"")], Exact, Failed),
            (&[(IF_MATCH, "\"x\"")], Exact, Failed),
            (&[(IF_UNMODIFIED_SINCE, AT)], Exact, Wanted),
            (&[(IF_UNMODIFIED_SINCE, LATER)], Exact, Wanted),
            (&[(IF_UNMODIFIED_SINCE, EARLIER)], Exact, Failed),
            (&[(IF_UNMODIFIED_SINCE, "rubbish")], Exact, Failed),
            (&[(IF_MATCH, "\"x\""), (inm, TAG)], Exact, Failed),
        ] {
            let outcome = file().judge(&headers(fields), since);
            assert_eq!(outcome, expected, "{fields:?} {since:?}");
        }
    }

    #[test]
    fn if_range_is_compared_exactly() {
        for (value, expected) in [
            (TAG, true),
            (AT, true),
            ("W/\"65937d25-21\"", false),
            ("\"x\"", false),
            (EARLIER, false),
            (LATER, false),
            ("*", false),
            ("", false),
        ] {
            let headers = headers(&[(IF_RANGE, value)]);
            assert_eq!(file().allow_ranges(&headers), expected, "{value}");
        }
        assert!(file().allow_ranges(&HeaderMap::new()));
    }
}
