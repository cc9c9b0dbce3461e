//! Heads on their way through: what is removed from them, what is set, and with which values.

use std::net::SocketAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;

use super::failure::Failure;
use crate::config::{Template, Variable};
use crate::plugin::Facts;
use crate::protocol::headers::{normalize_path, remove_hop_by_hop};
use crate::protocol::upgrade::lists;
use crate::upstream::Upstream;

/// `X-Forwarded-For`, the de-facto standard before RFC 7239.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What variables are asked about, beside the head.
pub(crate) struct Variables<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// First name of the site.
    pub(crate) server_name: &'a str,
    pub(crate) upstream: Option<&'a Upstream>,
}

impl Variables<'_> {
    /// Renders a template over a request head as it came from the client.
    pub(crate) fn render(&self, template: &Template, head: &Parts) -> Vec<u8> {
        let mut out = Vec::new();
        template.render(&mut out, |variable, out| self.write(variable, head, out));
        out
    }

    fn write(&self, variable: &Variable, head: &Parts, out: &mut Vec<u8>) {
        let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
        match variable {
            Variable::Host => {
                text(if self.facts.host.is_empty() {
                    self.server_name
                } else {
                    &self.facts.host
                });
            }
            Variable::HttpHost => out.extend_from_slice(first(&head.headers, &HOST)),
            Variable::Http(name) => out.extend_from_slice(first(&head.headers, name)),
            Variable::RemoteAddr => text(&self.remote.ip().to_string()),
            Variable::RemotePort => text(&self.remote.port().to_string()),
            Variable::ServerAddr => text(&self.local.ip().to_string()),
            Variable::ServerPort => text(&self.local.port().to_string()),
            Variable::ServerName => text(self.server_name),
            Variable::Scheme => text(self.facts.scheme),
            Variable::RequestMethod => text(head.method.as_str()),
            Variable::RequestUri => text(target(head)),
            Variable::Uri => {
                let path = normalize_path(head.uri.path());
                text(&path.unwrap_or_default());
            }
            Variable::Args => text(head.uri.query().unwrap_or_default()),
            Variable::Arg(name) => text(argument(head.uri.query().unwrap_or_default(), name)),
            Variable::Cookie(name) => text(cookie(&head.headers, name)),
            Variable::ProxyHost => text(self.upstream.map_or("", |upstream| &upstream.name)),
            Variable::ProxyAddXForwardedFor => {
                for value in head.headers.get_all(X_FORWARDED_FOR) {
                    out.extend_from_slice(value.as_bytes());
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(self.remote.ip().to_string().as_bytes());
            }
        }
    }
}

/// Makes a client's head one for the service: fields of the client's connection go, `Host` becomes
/// the upstream's name, and the route's own fields are set. `upgrade` is the token to ask for.
pub(crate) fn for_service(
    head: &mut Parts,
    set_headers: &[(HeaderName, Template)],
    variables: &Variables<'_>,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Failure> {
    // Rendered first: templates speak of the head as the client sent it.
    let mut set = Vec::with_capacity(set_headers.len());
    for (name, template) in set_headers {
        let value = variables.render(template, head);
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value))
            .map_err(|_| Failure::BadRequest("a field value made from it cannot be sent"))?;
        set.push((name, value));
    }
    // Services that frame messages with trailers (gRPC) insist on being told that they arrive.
    let trailers = lists(&head.headers, TE, "trailers");
    remove_hop_by_hop(&mut head.headers);
    // hyper answers 100 by itself, once the service has a connection and the body is asked for.
    head.headers.remove(EXPECT);
    match variables
        .upstream
        .and_then(|upstream| upstream.host.clone())
    {
        Some(host) => head.headers.insert(HOST, host),
        None => head.headers.remove(HOST),
    };
    for (name, value) in set {
        if value.is_empty() {
            head.headers.remove(name);
        } else {
            head.headers.insert(name, value);
        }
    }
    if let Some(token) = upgrade {
        head.headers.insert(UPGRADE, token.clone());
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // In origin form, whatever form the client used (RFC 9112 §3.2).
    if head.uri.authority().is_some() {
        head.uri = target(head).parse().unwrap_or_default();
    }
    head.version = http::Version::HTTP_11;
    // hyper's own marks; the service's connection makes new ones.
    head.extensions.clear();
    Ok(())
}

/// Makes a service's head one for the client: fields of the service's connection go.
pub(crate) fn for_client(head: &mut http::response::Parts) {
    // A length that came beside chunked framing is not to be believed (RFC 9112 §6.3).
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(&mut head.headers);
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
}

/// Returns path and query as they will be sent.
pub(crate) fn target(head: &Parts) -> &str {
    head.uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str)
}

/// Returns the host a request asks for: lower case, without port; empty if it names none.
///
/// A request must have exactly one `Host` in HTTP/1.1 (RFC 9112 §3.2), and an absolute target goes
/// before it (§3.2.2).
pub(crate) fn host(head: &Parts) -> Result<String, Failure> {
    let mut values = head.headers.get_all(HOST).iter();
    let field = values.next();
    if values.next().is_some() {
        return Err(Failure::BadRequest("more than one Host"));
    }
    if field.is_none() && head.version == http::Version::HTTP_11 {
        return Err(Failure::BadRequest("no Host"));
    }
    let field = field.filter(|host| !host.is_empty());
    let parsed = field
        .map(|host| http::uri::Authority::try_from(host.as_bytes()))
        .transpose();
    let field = parsed.map_err(|_| Failure::BadRequest("Host is no host"))?;
    if field
        .as_ref()
        .is_some_and(|host| host.as_str().contains('@'))
    {
        return Err(Failure::BadRequest("Host is no host"));
    }
    let host = head
        .uri
        .host()
        .or(field.as_ref().map(http::uri::Authority::host));
    Ok(host
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_ascii_lowercase())
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

fn argument<'a>(query: &'a str, name: &str) -> &'a str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let lines = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}
