//! The cookie that keeps a client at one endpoint, as nginx's `sticky cookie` does.
//!
//! Reading it from a request and setting it is the session's business.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use foldhash::HashMap;
use http::HeaderValue;
use jiff::Timestamp;

use super::Endpoint;
use crate::config::{self, SameSite};

/// What a client's cookie says, and what is said to it.
pub(crate) struct Sticky {
    /// Name of the cookie.
    pub(crate) cookie: String,
    expires: Option<Duration>,
    /// What follows the value, but for when it expires.
    attributes: String,
    /// Values, in the order of the endpoints.
    values: Vec<String>,
    endpoints: HashMap<String, usize>,
}

impl Sticky {
    pub(super) fn new(settings: &config::Sticky, endpoints: &[Endpoint]) -> Self {
        let values: Vec<_> = endpoints.iter().map(value).collect();
        let by_value = values.iter().cloned().zip(0..).collect();
        Self {
            cookie: settings.cookie.clone(),
            expires: settings.expires,
            attributes: attributes(settings),
            values,
            endpoints: by_value,
        }
    }

    /// Returns the endpoint that a cookie names.
    pub(crate) fn find(&self, value: &str) -> Option<usize> {
        self.endpoints.get(value).copied()
    }

    /// Whether a client that came with a cookie for the endpoint that answered needs another one, since
    /// its own will expire.
    pub(crate) fn renews(&self) -> bool {
        self.expires.is_some()
    }

    /// Returns the field that tells a client to come back to an endpoint. None: it cannot be written,
    /// because the time it expires at is out of all bounds.
    pub(crate) fn set_cookie(&self, endpoint: usize, now: SystemTime) -> Option<HeaderValue> {
        let mut field = format!("{}={}", self.cookie, self.values[endpoint]);
        if let Some(expires) = self.expires {
            let at = Timestamp::try_from(now.checked_add(expires)?).ok()?;
            let at = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&at)
                .ok()?;
            write!(field, "; Expires={at}; Max-Age={}", expires.as_secs()).ok()?;
        }
        field.push_str(&self.attributes);
        HeaderValue::from_str(&field).ok()
    }
}

/// Returns the value that stands for an endpoint: the same at every proxy and after every start, and not
/// the address itself.
fn value(endpoint: &Endpoint) -> String {
    let digest = digest::digest(&digest::SHA256, endpoint.name.as_bytes());
    digest.as_ref()[..16]
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string succeeds");
            hex
        })
}

fn attributes(settings: &config::Sticky) -> String {
    let mut text = String::new();
    if let Some(domain) = &settings.domain {
        text += "; Domain=";
        text += domain;
    }
    if let Some(path) = &settings.path {
        text += "; Path=";
        text += path;
    }
    if settings.http_only {
        text += "; HttpOnly";
    }
    if settings.secure {
        text += "; Secure";
    }
    text += match settings.same_site {
        None => "",
        Some(SameSite::Strict) => "; SameSite=Strict",
        Some(SameSite::Lax) => "; SameSite=Lax",
        Some(SameSite::None) => "; SameSite=None",
    };
    text
}
