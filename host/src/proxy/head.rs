//! Heads on their way through: what is removed from them, and what is set.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{Uri, response};
use hyper::body::{Body, Incoming};

use super::failure::Failure;
use super::variables::Variables;
use crate::config::{FieldNames, Template};
use crate::generation::Route;
use crate::protocol::headers::{
    escaped, normalize_path_bytes, remove_hop_by_hop, remove_odd_names,
};
use crate::protocol::upgrade::{list_items, lists};

/// Length of the longest target that can be sent: what [`Uri`] holds.
const MAX_TARGET_BYTES: usize = 65_534;

/// Fields of the client's connection, taken from a head before anyone else sees it. What `Connection`
/// names is gone with them, so that a client cannot name what a plugin sets.
#[derive(Debug, Default)]
pub(crate) struct Hop {
    pub(super) connection: Option<HeaderValue>,
    pub(super) upgrade: Option<HeaderValue>,
    /// Whether the client takes trailers (RFC 9110 §10.1.4).
    trailers: bool,
}

impl Hop {
    /// Takes the fields out of a request head, and with them those whose names are not to be passed on.
    pub(crate) fn take(headers: &mut HeaderMap, names: FieldNames) -> Self {
        let hop = Self {
            connection: headers.get(CONNECTION).cloned(),
            upgrade: headers.get(UPGRADE).cloned(),
            trailers: lists(headers, TE, "trailers"),
        };
        remove_hop_by_hop(headers);
        match names {
            FieldNames::Plain => remove_odd_names(headers, false),
            FieldNames::Underscores => remove_odd_names(headers, true),
            FieldNames::Any => {}
        }
        hop
    }
}

/// Makes a head, from which [`Hop`] has been taken, one for the service: `Host` becomes the upstream's
/// name, the route's own fields are set, and its path takes the place of the prefix. `upgrade` is the
/// token to ask for.
pub(crate) fn for_service(
    head: &mut Parts,
    route: &Route,
    variables: &Variables<'_>,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Failure> {
    // Rendered first: templates speak of the head as it came here, not of each other.
    let set_headers = &route.settings.set_headers;
    let mut set = Vec::with_capacity(set_headers.len());
    for (name, template) in set_headers {
        set.push((name, field(template, variables, head)?));
    }
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
        if !value.is_empty() {
            head.headers.insert(name, value);
        } else if *name != HOST {
            // A request without Host is none (RFC 9112 §3.2); the default stays.
            head.headers.remove(name);
        }
    }
    if let Some(token) = upgrade {
        head.headers.insert(UPGRADE, token.clone());
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if variables.hop.trailers {
        // Services that frame messages with trailers (gRPC) insist on being told that they arrive.
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
        head.headers
            .append(CONNECTION, HeaderValue::from_static("te"));
    }
    set_target(head, route)?;
    head.version = http::Version::HTTP_11;
    // hyper's own marks; the service's connection makes new ones.
    head.extensions.clear();
    Ok(())
}

fn field(
    template: &Template,
    variables: &Variables<'_>,
    head: &Parts,
) -> Result<HeaderValue, Failure> {
    let value = variables.render(template, head);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(value))
        .map_err(|_| Failure::BadRequest("a field value made from it cannot be sent"))
}

/// Whether the route's own fields leave it to the client to ask for an upgrade to `token`.
pub(crate) fn leaves_upgrade(
    route: &Route,
    variables: &Variables<'_>,
    head: &Parts,
    token: &HeaderValue,
) -> bool {
    route.settings.set_headers.iter().all(|(name, template)| {
        let value = || field(template, variables, head);
        match *name {
            UPGRADE => {
                value().is_ok_and(|value| value.as_bytes().eq_ignore_ascii_case(token.as_bytes()))
            }
            CONNECTION => value().is_ok_and(|value| {
                list_items([&value]).any(|item| item.eq_ignore_ascii_case("upgrade"))
            }),
            _ => true,
        }
    })
}

/// Makes the target what the service is asked for: in origin form, whatever form the client used
/// (RFC 9112 §3.2), and with the route's own path, if it has one, in place of its prefix.
fn set_target(head: &mut Parts, route: &Route) -> Result<(), Failure> {
    if let Some((prefix, path)) = &route.replace_prefix
        && let Ok(normal) = normalize_path_bytes(head.uri.path())
        && let Some(rest) = normal.strip_prefix(prefix.as_bytes())
    {
        let query = head.uri.query().map(|query| format!("?{query}"));
        let target = format!("{path}{}{}", escaped(rest), query.unwrap_or_default());
        head.uri = parsed(&target)?;
    } else if head.uri.authority().is_some() {
        let target = target(head);
        let slash = if target.starts_with('/') { "" } else { "/" };
        head.uri = parsed(&format!("{slash}{target}"))?;
    }
    Ok(())
}

/// Fails with a target that has become too long: what is escaped is longer than it came.
fn parsed(target: &str) -> Result<Uri, Failure> {
    target.parse().map_err(|_| match target.len() {
        ..=MAX_TARGET_BYTES => Failure::BadRequest("the target made from it cannot be sent"),
        _ => Failure::TargetTooLong {
            limit: MAX_TARGET_BYTES,
        },
    })
}

/// Makes a service's head one for the client: fields of the service's connection go. Fails if its body
/// is coded in a way that would be lost with them.
pub(crate) fn for_client(head: &mut response::Parts, body: &Incoming) -> Result<(), Failure> {
    if !is_plainly_framed(&head.headers) {
        return Err(Failure::BadResponse("a transfer coding other than chunked"));
    }
    let length = head.headers.get(CONTENT_LENGTH);
    if head.headers.contains_key(TRANSFER_ENCODING) {
        // A length that came beside chunked framing is not to be believed (RFC 9112 §6.3).
        head.headers.remove(CONTENT_LENGTH);
    } else if length.is_some_and(|length| length.as_bytes().contains(&b','))
        && let Some(exact) = body.size_hint().exact()
    {
        // The same length several times, which hyper has checked.
        head.headers.insert(CONTENT_LENGTH, exact.into());
    }
    remove_hop_by_hop(&mut head.headers);
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    Ok(())
}

/// Whether a message is framed by `chunked` at most: any other transfer coding would be lost on the
/// way, since it belongs to the connection (RFC 9112 §6.1).
pub(crate) fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = list_items(headers.get_all(TRANSFER_ENCODING));
    codings
        .next()
        .is_none_or(|coding| coding.eq_ignore_ascii_case("chunked"))
        && codings.next().is_none()
}

/// Returns the size of a request head as it came, in bytes.
pub(crate) fn size(head: &Parts) -> usize {
    // Two spaces, the version, the line's end and the last, empty line; a colon, a space and the
    // line's end.
    let line = head.method.as_str().len() + target(head).len() + 14;
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    line + fields.sum::<usize>()
}

/// Returns path and query as they will be sent.
pub(crate) fn target(head: &Parts) -> &str {
    head.uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str)
}

/// Returns the host a request asks for: lower case, without port; empty if it names none.
///
/// A request must have exactly one `Host` from HTTP/1.1 on (RFC 9112 §3.2), and an absolute target goes
/// before it (§3.2.2).
pub(crate) fn host(head: &Parts) -> Result<String, Failure> {
    let mut values = head.headers.get_all(HOST).iter();
    let field = values.next();
    if values.next().is_some() {
        return Err(Failure::BadRequest("more than one Host"));
    }
    if field.is_none() && head.version >= http::Version::HTTP_11 {
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
