//! Heads of responses on their way to the client: what of the service's is hidden and rewritten, and
//! what is added to all.

use bytes::Bytes;
use http::Response;
use http::header::{
    ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION, REFRESH, SERVER, SET_COOKIE,
};
use http_body::Body;

use super::answer;
use super::body::ResponseBody;
use super::ending::Ending;
use super::notes::{Moment, Notes};
use super::session::Session;
use super::variables::Groups;
use super::worker::Worker;
use crate::config::{LocationRule, Rewrite, Settings, Sought, Template};

/// What rules and added fields are rendered with.
struct Late<'a> {
    /// None: no template has a variable.
    notes: Option<&'a Notes>,
    moment: Moment<'a>,
}

/// Makes fields of a service's response those that the client may see: hides some, and rewrites where
/// they lead to.
pub(crate) fn rewrite(session: &Session, headers: &mut HeaderMap, ending: &mut Ending) {
    if let Some(notes) = &mut ending.notes {
        notes.answered(headers);
    }
    for name in &session.route.hidden {
        headers.remove(name);
    }
    for name in [LOCATION, REFRESH] {
        if headers.contains_key(&name)
            && let Some(value) = location(session, headers, name == REFRESH, ending)
            && let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value))
        {
            headers.insert(name, value);
        }
    }
    let rules = &session.route.settings.rewrite_cookies;
    if !(rules.domain.is_empty() && rules.path.is_empty()) && headers.contains_key(SET_COOKIE) {
        cookies(session, headers, ending);
    }
}

/// Returns what `Location`, or the URL in `Refresh`, becomes, if a rule fits.
fn location(
    session: &Session,
    headers: &HeaderMap,
    is_refresh: bool,
    ending: &Ending,
) -> Option<Vec<u8>> {
    let name = if is_refresh { REFRESH } else { LOCATION };
    let value = headers.get(name)?.as_bytes();
    let start = if is_refresh {
        let url = value
            .windows(4)
            .position(|text| text.eq_ignore_ascii_case(b"url="))?;
        url + 4
    } else {
        0
    };
    let (before, url) = value.split_at(start);
    let late = Late::new(session, headers, ending);
    let mut rules = session.route.settings.rewrite_location.iter();
    let url = rules.find_map(|rule| match rule {
        LocationRule::Default => {
            let (from, to) = session.route.own_location.as_ref()?;
            let rest = url.strip_prefix(from.as_bytes())?;
            Some([to.as_bytes(), rest].concat())
        }
        LocationRule::Rewrite(rule) => late.rewritten(rule, url),
    })?;
    // As with redirects of the proxy's own.
    if !is_refresh && url.first() == Some(&b'/') {
        return Some(answer::location(session, url));
    }
    Some([before, &url].concat())
}

/// Rewrites domain and path of all cookies that are set.
fn cookies(session: &Session, headers: &mut HeaderMap, ending: &Ending) {
    let rules = &session.route.settings.rewrite_cookies;
    let late = Late::new(session, headers, ending);
    let rewritten: Vec<_> = headers
        .get_all(SET_COOKIE)
        .iter()
        .map(|value| {
            let mut parts = value.as_bytes().split(|&byte| byte == b';');
            // The name and the value of the cookie.
            let mut cookie = parts.next().unwrap_or_default().to_vec();
            for part in parts {
                cookie.push(b';');
                cookie.extend_from_slice(&attribute(part, |name, value| {
                    if name.eq_ignore_ascii_case(b"domain") {
                        let mut rules = rules.domain.iter();
                        rules.find_map(|rule| late.rewritten_domain(rule, value))
                    } else if name.eq_ignore_ascii_case(b"path") {
                        let mut rules = rules.path.iter();
                        rules.find_map(|rule| late.rewritten(rule, value))
                    } else {
                        None
                    }
                }));
            }
            HeaderValue::from_maybe_shared(Bytes::from(cookie)).unwrap_or_else(|_| value.clone())
        })
        .collect();
    headers.remove(SET_COOKIE);
    for value in rewritten {
        headers.append(SET_COOKIE, value);
    }
}

/// Returns an attribute of a cookie with another value, where `rewrite` has one.
fn attribute(part: &[u8], rewrite: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let equals = part.iter().position(|&byte| byte == b'=');
    let Some((name, value)) = equals.map(|at| part.split_at(at + 1)) else {
        return part.to_vec();
    };
    let bare = name[..name.len() - 1].trim_ascii();
    match rewrite(bare, value.trim_ascii()) {
        Some(value) => [name, &value].concat(),
        None => part.to_vec(),
    }
}

/// Adds what the operator adds to responses, and `Server`, and keeps what is asked about later.
pub(crate) fn finish(
    settings: &Settings,
    worker: &Worker,
    response: &mut Response<ResponseBody>,
    ending: &mut Ending,
) {
    let status = response.status();
    if let Some(notes) = &mut ending.notes {
        notes.status = Some(status);
    }
    if !settings.add_headers.is_empty() {
        add(settings, worker, response, ending);
    }
    if let Some(server) = &settings.server_header
        && !response.headers().contains_key(SERVER)
    {
        response.headers_mut().insert(SERVER, server.clone());
    }
    if let Some(notes) = &mut ending.notes {
        let length = response.body().size_hint().exact();
        notes.sends(status, response.headers(), length);
    }
}

fn add(
    settings: &Settings,
    worker: &Worker,
    response: &mut Response<ResponseBody>,
    ending: &Ending,
) {
    let is_usual = matches!(
        response.status().as_u16(),
        200 | 201 | 204 | 206 | 301..=304 | 307 | 308
    );
    let late = Late {
        notes: ending.notes.as_deref(),
        moment: Moment {
            clock: &worker.clock,
            headers: Some(response.headers()),
        },
    };
    let values: Vec<_> = settings
        .add_headers
        .iter()
        .filter(|field| field.always || is_usual)
        .map(|field| (&field.name, late.render(&field.value, None)))
        .collect();
    for (name, value) in values {
        // What cannot be sent is left out: a stranger may have had a hand in it.
        let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        // Of these there is one at most.
        if *name == LAST_MODIFIED || *name == ETAG || *name == SERVER {
            response.headers_mut().insert(name, value);
        } else {
            response.headers_mut().append(name, value);
        }
    }
}

impl<'a> Late<'a> {
    fn new(session: &'a Session, headers: &'a HeaderMap, ending: &'a Ending) -> Self {
        Self {
            notes: ending.notes.as_deref(),
            moment: Moment {
                clock: &session.worker.clock,
                headers: Some(headers),
            },
        }
    }

    fn render(&self, template: &Template, groups: Groups<'_>) -> Vec<u8> {
        match (template.as_literal(), self.notes) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(notes)) => notes.render(template, &self.moment, groups),
            (None, None) => Vec::new(),
        }
    }

    /// Returns what a text becomes that begins with what the rule looks for, or matches it.
    fn rewritten(&self, rule: &Rewrite, text: &[u8]) -> Option<Vec<u8>> {
        match &rule.from {
            Sought::Text(from) => {
                let rest = text.strip_prefix(&self.render(from, None)[..])?;
                let mut out = self.render(&rule.to, None);
                out.extend_from_slice(rest);
                Some(out)
            }
            Sought::Regex(regex) => {
                let text = String::from_utf8_lossy(text);
                let groups = regex.captures(&text)?;
                Some(self.render(&rule.to, Some(&groups)))
            }
        }
    }

    /// Returns what the domain of a cookie becomes. A dot in front means nothing (RFC 6265 §5.2.3) and
    /// stays.
    fn rewritten_domain(&self, rule: &Rewrite, domain: &[u8]) -> Option<Vec<u8>> {
        let bare = |text: &[u8]| text.strip_prefix(b".").unwrap_or(text).to_vec();
        match &rule.from {
            Sought::Text(from) => {
                let is_same = bare(&self.render(from, None)).eq_ignore_ascii_case(&bare(domain));
                is_same.then(|| {
                    let dot: &[u8] = if domain.starts_with(b".") { b"." } else { b"" };
                    [dot, &bare(&self.render(&rule.to, None))].concat()
                })
            }
            Sought::Regex(_) => self.rewritten(rule, domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_keeps_its_name_and_the_blanks_around_it() {
        let rewrite = |name: &[u8], _: &[u8]| (name == b"Path").then(|| b"/x".to_vec());
        assert_eq!(attribute(b" Path=/a", rewrite), b" Path=/x");
        assert_eq!(attribute(b" Path = /a ", rewrite), b" Path =/x");
        assert_eq!(attribute(b" HttpOnly", rewrite), b" HttpOnly");
        assert_eq!(attribute(b" Domain=a", rewrite), b" Domain=a");
    }
}
