//! What variables stand for, as far as the head of a request tells it.
//!
//! Names are read in `config/variables.rs`. What is known only later is in `notes.rs`.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Version;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, UPGRADE,
};
use http::request::Parts;

use super::client::TlsFacts;
use super::head::{self, Hop};
use crate::config::{Map, Part, Pattern, SiteName, Template, Variable};
use crate::plugin::Facts;
use crate::protocol::headers::{cookie, normalize_path};
use crate::telemetry::{Clock, since_epoch};
use crate::upstream::Upstream;

/// `X-Forwarded-For`, the de-facto standard before RFC 7239.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What variables are asked about, beside the head.
pub(crate) struct Variables<'a> {
    pub(crate) hop: &'a Hop,
    pub(crate) facts: &'a Facts,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Number of the client's connection, and of its requests so far.
    pub(crate) connection: (u64, u64),
    pub(crate) tls: Option<&'a TlsFacts>,
    /// First name of the site.
    pub(crate) server_name: &'a str,
    /// Label of the route; empty if there is none.
    pub(crate) route: &'a str,
    pub(crate) upstream: Option<&'a Upstream>,
    pub(crate) captured: Option<&'a Captured>,
    pub(crate) maps: &'a [Map],
    pub(crate) request_id: &'a Cell<Option<u128>>,
    pub(crate) clock: &'a RefCell<Clock>,
}

/// Groups of the patterns by which site and route were found.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    /// From `$0` on: of the route's pattern, else of the name's.
    numbered: Vec<Option<Box<str>>>,
    named: Vec<(Box<str>, Box<str>)>,
}

/// Groups for a text that belongs to a pattern of its own.
pub(crate) type Groups<'a> = Option<&'a regex::Captures<'a>>;

impl Captured {
    /// Matches once more, for a route that wants groups.
    pub(crate) fn of(pattern: &Pattern, names: &[SiteName], path: &str, host: &str) -> Box<Self> {
        let mut captured = Box::<Self>::default();
        let by_name = names.iter().find_map(|name| match name {
            SiteName::Regex(regex) => Some((regex, regex.captures(host)?)),
            _ => None,
        });
        if let Some((regex, groups)) = by_name {
            captured.add(regex, &groups);
        }
        if let Pattern::Regex(regex) = pattern
            && let Some(groups) = regex.captures(path)
        {
            captured.add(regex, &groups);
        }
        captured
    }

    fn add(&mut self, regex: &regex::Regex, groups: &regex::Captures<'_>) {
        self.numbered = groups
            .iter()
            .map(|group| group.map(|group| group.as_str().into()))
            .collect();
        for name in regex.capture_names().flatten() {
            if let Some(group) = groups.name(name) {
                self.named.push((name.into(), group.as_str().into()));
            }
        }
    }

    fn numbered(&self, number: usize) -> Option<&str> {
        self.numbered.get(number)?.as_deref()
    }

    fn named(&self, name: &str) -> Option<&str> {
        // The route's come later and hide the name's.
        let mut named = self.named.iter().rev();
        named
            .find(|(known, _)| &**known == name)
            .map(|(_, text)| &**text)
    }
}

impl Variables<'_> {
    /// Renders a template over a request head as it came from the client.
    pub(crate) fn render(&self, template: &Template, head: &Parts) -> Vec<u8> {
        let mut out = Vec::new();
        self.append(template, head, None, &mut out);
        out
    }

    fn append(&self, template: &Template, head: &Parts, groups: Groups<'_>, out: &mut Vec<u8>) {
        for part in template.parts() {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    // What is missing is empty here.
                    let _missing = self.write(variable, head, groups, out).is_none();
                }
            }
        }
    }

    /// Appends the value of a variable; None: it has none, which logs tell from an empty one.
    pub(crate) fn write(
        &self,
        variable: &Variable,
        head: &Parts,
        groups: Groups<'_>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let headers = &head.headers;
        match variable {
            Variable::Host => text(out, self.host()),
            Variable::HttpHost => one(out, headers, &HOST),
            Variable::Http(name) => match *name {
                CONNECTION if self.hop.connection.is_some() => {
                    bytes(out, self.hop.connection.as_ref()?.as_bytes())
                }
                UPGRADE if self.hop.upgrade.is_some() => {
                    bytes(out, self.hop.upgrade.as_ref()?.as_bytes())
                }
                _ => joined(out, headers, name),
            },
            Variable::Arg(name) => text(out, argument(head.uri.query()?, name)?),
            Variable::Cookie(name) => text(out, cookie(headers, name)?),
            Variable::RemoteAddr => display(out, self.remote.ip()),
            Variable::BinaryRemoteAddr => match self.remote.ip() {
                IpAddr::V4(address) => bytes(out, &address.octets()),
                IpAddr::V6(address) => bytes(out, &address.octets()),
            },
            Variable::RemotePort => display(out, self.remote.port()),
            Variable::RemoteUser => bytes(out, &basic_user(headers)?),
            Variable::ServerAddr => display(out, self.local.ip()),
            Variable::ServerPort => display(out, self.local.port()),
            Variable::ServerName => text(out, self.server_name),
            Variable::ServerProtocol => text(out, version_text(head.version)),
            Variable::Scheme => text(out, self.facts.scheme),
            Variable::Https => text(out, if self.is_tls() { "on" } else { "" }),
            Variable::Request => {
                let version = version_text(head.version);
                display(out, format_args!("{} {} {version}", head.method, head.uri))
            }
            Variable::RequestMethod => text(out, head.method.as_str()),
            Variable::RequestUri => text(out, head::target(head)),
            Variable::RequestLength => display(out, head::size(head)),
            Variable::RequestId => {
                let id = self.request_id.get().unwrap_or_else(|| fastrand::u128(..));
                self.request_id.set(Some(id));
                display(out, format_args!("{id:032x}"))
            }
            Variable::Uri => text(out, &normalize_path(head.uri.path()).ok()?),
            Variable::Args => text(out, head.uri.query()?),
            Variable::IsArgs => {
                let query = head.uri.query().unwrap_or_default();
                text(out, if query.is_empty() { "" } else { "?" })
            }
            Variable::ContentLength => one(out, headers, &CONTENT_LENGTH),
            Variable::ContentType => one(out, headers, &CONTENT_TYPE),
            Variable::ProxyHost => text(out, &self.upstream?.name),
            Variable::ProxyPort => {
                let upstream = self.upstream?;
                let port = upstream.name.rsplit_once(':').map(|(_, port)| port);
                let digits = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
                let default = if upstream.tls.is_some() { "443" } else { "80" };
                text(out, digits.unwrap_or(default))
            }
            Variable::ProxyAddXForwardedFor => {
                if joined(out, headers, &X_FORWARDED_FOR).is_some() {
                    out.extend_from_slice(b", ");
                }
                display(out, self.remote.ip())
            }
            Variable::Msec
            | Variable::TimeIso8601
            | Variable::TimeLocal
            | Variable::Hostname
            | Variable::Pid => always(variable, self.clock, out),
            Variable::Connection => display(out, self.connection.0),
            Variable::ConnectionRequests => display(out, self.connection.1),
            Variable::SslProtocol => text(out, self.tls?.protocol),
            Variable::SslCipher => text(out, self.tls?.cipher),
            Variable::SslServerName => text(out, self.tls?.server_name.as_deref()?),
            Variable::SslSessionReused => text(out, if self.tls?.is_resumed { "r" } else { "." }),
            Variable::Route => text(out, Some(self.route).filter(|route| !route.is_empty())?),
            Variable::Capture(number) => match groups {
                Some(groups) => text(out, groups.get(*number)?.as_str()),
                None => text(out, self.captured?.numbered(*number)?),
            },
            Variable::Named(name) => match groups.and_then(|groups| groups.name(name)) {
                Some(group) => text(out, group.as_str()),
                None => text(out, self.captured?.named(name)?),
            },
            Variable::Map(index) => {
                let map = self.maps.get(*index)?;
                let mut source = Vec::new();
                self.append(&map.source, head, None, &mut source);
                let source = String::from_utf8_lossy(&source);
                let found = map.find(&source);
                self.append(found.value, head, found.groups.as_ref(), out);
                Some(())
            }
            // Of the response, or of the end.
            _ => None,
        }
    }

    fn host(&self) -> &str {
        if self.facts.host.is_empty() {
            self.server_name
        } else {
            &self.facts.host
        }
    }

    fn is_tls(&self) -> bool {
        self.facts.scheme == "https"
    }
}

/// Appends one of the variables that are known at any time.
pub(super) fn always(variable: &Variable, clock: &RefCell<Clock>, out: &mut Vec<u8>) -> Option<()> {
    let now = since_epoch();
    match variable {
        Variable::Hostname => text(out, hostname()),
        Variable::Pid => display(out, std::process::id()),
        Variable::Msec => display(
            out,
            format_args!("{}.{:03}", now.as_secs(), now.subsec_millis()),
        ),
        Variable::TimeIso8601 => {
            let mut clock = clock.borrow_mut();
            let texts = clock.at(now);
            text(out, &texts.iso8601);
            text(out, &texts.offset)
        }
        Variable::TimeLocal => text(out, &clock.borrow_mut().at(now).local),
        _ => None,
    }
}

/// Returns the name of the machine as of the first call; empty if it has none.
fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
        name.unwrap_or_default().trim().to_ascii_lowercase()
    })
}

fn text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes(out, text.as_bytes())
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(bytes);
    Some(())
}

fn display(out: &mut Vec<u8>, value: impl Display) -> Option<()> {
    write!(out, "{value}").ok()
}

fn one(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) -> Option<()> {
    bytes(out, headers.get(name)?.as_bytes())
}

/// Appends all lines of a field as one, in the way of its kind.
pub(super) fn joined(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) -> Option<()> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    out.extend_from_slice(lines.next()?);
    let comma: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    for line in lines {
        out.extend_from_slice(comma);
        out.extend_from_slice(line);
    }
    Some(())
}

fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Returns the user name of basic authentication (RFC 7617 §2).
fn basic_user(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, credentials) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut user = BASE64.decode(credentials.trim_ascii()).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    user.truncate(colon);
    (!user.is_empty()).then_some(user)
}

/// As nginx's `$server_protocol`.
fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_basic_authentication_names_a_user() {
        for (value, user) in [
            ("Basic YW5uOnB3", Some("ann")),
            ("basic YW5uOnB3", Some("ann")),
            ("Basic Om5vYm9keQ==", None),
            ("Basic YW5u", None),
            ("Basic !", None),
            ("Basic", None),
            ("Bearer YW5uOnB3", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(
                basic_user(&headers).as_deref(),
                user.map(str::as_bytes),
                "{value}"
            );
        }
    }
}
