//! How an upstream shares out requests, as it is written: `balance` and `sticky`.

use std::time::Duration;

use super::reader::{Table, Value};
use super::template::Template;
use super::variables::{Names, Stage};
use super::{Balance, SameSite, Sticky};

const BALANCE: &str = "\"round-robin\", \"least-connections\", \"ip-hash\", \"random-two\" or a table \
                       such as { hash = \"$request_uri\" }";
const STICKY: &str = "a table such as { cookie = \"srv\" }";

/// Reads `balance`.
pub(super) fn read(value: &Value<'_>, names: &Names<'_>) -> Option<Balance> {
    if value.is_table() {
        return value.table(BALANCE, |t| hash(t, names)).flatten();
    }
    match value.as_str() {
        Some("round-robin") => return Some(Balance::RoundRobin),
        Some("least-connections") => return Some(Balance::LeastConnections),
        Some("ip-hash") => return Some(Balance::IpHash),
        Some("random-two") => return Some(Balance::RandomTwo),
        // As nginx calls them.
        Some("least_conn") => value.expected_because(BALANCE, "here it is \"least-connections\""),
        Some("ip_hash") => value.expected_because(BALANCE, "here it is \"ip-hash\""),
        _ => value.expected(BALANCE),
    }
    None
}

fn hash(t: &Table<'_>, names: &Names<'_>) -> Option<Balance> {
    let consistent = t.boolean("consistent", false);
    let value = t.require("hash", "text such as \"$request_uri\"")?;
    let text = value.parse("text such as \"$request_uri\"", Some)?;
    let key = match Template::read(text, names, Stage::Request) {
        Ok(key) => key,
        Err(problem) => {
            value.problem(format_args!("{problem} (in {})", value.found()));
            return None;
        }
    };
    if names.find(text).is_ok() {
        value.warn(format_args!(
            "{text:?} is the same for all requests; did you mean \"${text}\"?"
        ));
    } else if !text.contains('$') {
        value.warn("this is the same for all requests, so one endpoint gets all of them");
    }
    Some(Balance::Hash { key, consistent })
}

/// Reads `sticky`.
pub(super) fn sticky(value: &Value<'_>) -> Option<Sticky> {
    value.table(STICKY, cookie).flatten()
}

fn cookie(t: &Table<'_>) -> Option<Sticky> {
    let name = |text: &str| is_token(text).then(|| text.to_owned());
    let cookie = t
        .require("cookie", "the name of a cookie")
        .and_then(|value| value.parse("the name of a cookie", name));
    let expires = t
        .get("expires")
        .map(|_| t.duration("expires", Duration::ZERO));
    let attribute = |name| {
        let value = t.get(name)?;
        value.parse("text that a cookie's attribute can carry", |text| {
            is_attribute(text).then(|| text.to_owned())
        })
    };
    let same_site = [
        ("strict", Some(SameSite::Strict)),
        ("lax", Some(SameSite::Lax)),
        ("none", Some(SameSite::None)),
    ];
    let sticky = Sticky {
        cookie: cookie?,
        expires,
        domain: attribute("domain"),
        path: attribute("path"),
        http_only: t.boolean("http_only", false),
        secure: t.boolean("secure", false),
        same_site: t.choice("same_site", same_site, None),
    };
    if sticky.same_site == Some(SameSite::None)
        && !sticky.secure
        && let Some(value) = t.get("same_site")
    {
        value.warn("browsers drop such a cookie unless `secure = true`");
    }
    Some(sticky)
}

/// Whether this is a token (RFC 9110 §5.6.2), as names of cookies are.
fn is_token(text: &str) -> bool {
    let special = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || special(byte))
}

/// Whether this is an `av-octet` string (RFC 6265 §4.1.1).
fn is_attribute(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b';')
}
