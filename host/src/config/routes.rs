//! Routes as they are written: what they match, what they do, and the fields they send.

use http::header::HOST;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::plugins::Plugins;
use super::reader::{Table, Value};
use super::template::{Part, Template, Variable};
use super::upstreams::Upstreams;
use super::{Action, Expires, Pattern, Respond, Route, RouteTimeouts, files, websocket};

const PATTERN: &str = "a path such as \"/chat\" or \"= /chat\" (exact) or \"^~ /chat\" (before \
                       patterns), or a pattern such as \"~ [.]png$\" or \"~* [.]png$\" (any case)";
const RESPOND: &str = "a table such as { status = 204 }";
const TEMPLATE: &str = "text such as \"$host:$server_port\"";

/// Reads `[[sites.routes]]` of one site.
pub(super) fn read<'r>(
    t: &Table<'r>,
    upstreams: &mut Upstreams<'r>,
    plugins: &mut Plugins<'r>,
) -> Vec<Route> {
    const ROUTES: &str = "at least one table [[sites.routes]] with `match`";
    let Some(value) = t.require("routes", ROUTES) else {
        return Vec::new();
    };
    let items = value.list("a list of tables [[sites.routes]]");
    if items.is_empty() && value.is_list() {
        value.problem(format_args!("expected {ROUTES}, found none"));
    }
    let mut routes: Vec<(Value<'r>, Route)> = Vec::new();
    for item in items {
        let read = item
            .table("a table", |t| route(t, upstreams, plugins))
            .flatten();
        let Some((pattern, route)) = read else {
            continue;
        };
        let twin = routes
            .iter()
            .find(|(_, other)| same_place(&other.pattern, &route.pattern));
        if let Some((other, _)) = twin {
            let found = pattern.found();
            pattern.problem(format_args!(
                "{found} is already matched by {}",
                other.key()
            ));
        }
        routes.push((item, route));
    }
    routes.into_iter().map(|(_, route)| route).collect()
}

fn route<'r>(
    t: &Table<'r>,
    upstreams: &mut Upstreams<'r>,
    plugins: &mut Plugins<'r>,
) -> Option<(Value<'r>, Route)> {
    let written_pattern = t.require("match", PATTERN);
    let pattern = written_pattern.as_ref().and_then(pattern);
    let action = action(t, upstreams);
    let plugins = t
        .get("plugins")
        .map(|value| plugins.chain(&value))
        .unwrap_or_default();
    let for_services = ["set_headers", "upgrade", "websocket", "timeouts"];
    let answers_itself = match action {
        Some(Action::Respond(_)) => Some("respond"),
        Some(Action::Files(_)) => Some("files"),
        Some(Action::Proxy(_)) | None => None,
    };
    if let Some(key) = answers_itself {
        for value in for_services.into_iter().filter_map(|name| t.get(name)) {
            value.problem(format_args!("has no effect on a route with `{key}`"));
        }
    }
    let set_headers = t
        .get("set_headers")
        .map(|value| fields(&value))
        .unwrap_or_default();
    let upgrade = t
        .get("upgrade")
        .map_or_else(|| vec!["websocket".to_owned()], |v| upgrade(&v));
    let timeouts = t.section("timeouts", timeouts);
    let websocket = t.section("websocket", |t| websocket::read(t, &timeouts));
    let max_body_bytes = t.size("max_body", 0.., 1 << 20);
    let expires = t
        .get("expires")
        .map_or(Expires::Off, |value| files::expires(&value));
    let route = Route {
        pattern: pattern?,
        action: action?,
        plugins,
        set_headers,
        upgrade,
        websocket,
        timeouts,
        max_body_bytes,
        expires,
    };
    Some((written_pattern?, route))
}

fn pattern(value: &Value<'_>) -> Option<Pattern> {
    let text = value.parse(PATTERN, Some)?;
    let sign_end = text
        .find(|c: char| !"=^~*".contains(c))
        .unwrap_or(text.len());
    let (sign, rest) = text.split_at(sign_end);
    let rest = if sign.is_empty() {
        rest
    } else {
        rest.trim_start()
    };
    let path = rest.starts_with('/').then(|| rest.to_owned());
    let pattern = match sign {
        "" => path.map(Pattern::Prefix),
        "=" => path.map(Pattern::Exact),
        "^~" => path.map(Pattern::PrefixFirst),
        "~" | "~*" if !rest.is_empty() => {
            let flags = if sign == "~*" { "(?i)" } else { "" };
            return match Regex::new(&format!("{flags}{rest}")) {
                Ok(regex) => Some(Pattern::Regex(regex)),
                Err(error) => {
                    value.expected_because("a regular expression", last_line(&error));
                    None
                }
            };
        }
        _ => None,
    };
    if pattern.is_none() {
        value.expected(PATTERN);
    }
    pattern
}

/// The regex crate draws a picture of the place; its last line says what is wrong.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Whether one of two patterns would never be reached.
fn same_place(a: &Pattern, b: &Pattern) -> bool {
    use Pattern::{Prefix, PrefixFirst};
    match (a, b) {
        (Prefix(a), PrefixFirst(b)) | (PrefixFirst(a), Prefix(b)) => a == b,
        _ => a == b,
    }
}

fn action<'r>(t: &Table<'r>, upstreams: &mut Upstreams<'r>) -> Option<Action> {
    const ACTIONS: &str = "one of `upstream`, `url`, `files` and `respond`";
    let upstream = t.get("upstream");
    let url = t.get("url");
    let served = t.get("files");
    let respond_with = t.get("respond");
    let written: Vec<_> = [&upstream, &url, &served, &respond_with]
        .into_iter()
        .flatten()
        .collect();
    match written[..] {
        [] => t.problem(format_args!("expected {ACTIONS}, found none")),
        [first, .., last] => last.problem(format_args!(
            "this route already has `{}`; expected only {ACTIONS}",
            first.name()
        )),
        _ => {}
    }
    // All are read, so that the problems of each are seen.
    let upstream = upstream.and_then(|value| upstreams.named(&value));
    let url = url.and_then(|value| upstreams.of_url(&value));
    let served = served.and_then(|value| files::read(&value));
    let respond = respond_with.and_then(|value| value.table(RESPOND, respond));
    upstream
        .or(url)
        .map(Action::Proxy)
        .or(served.map(Action::Files))
        .or(respond.map(Action::Respond))
}

fn respond(t: &Table<'_>) -> Respond {
    let status = t.get("status").and_then(|value| {
        let code = value.whole::<u16>(200..=599)?;
        StatusCode::from_u16(code).ok()
    });
    let status = status.unwrap_or(StatusCode::OK);
    let headers = t
        .get("headers")
        .map(|value| fields(&value))
        .unwrap_or_default();
    let body = t
        .get("body")
        .map(|value| (value.parse("text", Some).unwrap_or_default(), value));
    if let Some((text, value)) = &body
        && !text.is_empty()
        && matches!(status.as_u16(), 204 | 304)
    {
        value.problem(format_args!(
            "a response with status {} has no body",
            status.as_u16()
        ));
    }
    let body = body.map(|(text, _)| text.to_owned()).unwrap_or_default();
    Respond {
        status,
        headers,
        body,
    }
}

/// Reads a table of header fields.
fn fields(value: &Value<'_>) -> Vec<(HeaderName, Template)> {
    let mut fields: Vec<(HeaderName, Template)> = Vec::new();
    for entry in value.entries("a table such as { Host = \"$host\" }") {
        let Ok(name) = HeaderName::from_bytes(entry.name().as_bytes()) else {
            entry.problem("expected the name of a header field, of letters, digits and `-`");
            continue;
        };
        if let Some(why) = managed(&name) {
            entry.problem(why);
            continue;
        }
        if fields.iter().any(|(other, _)| *other == name) {
            entry.problem("this field is already in this table; case makes no difference");
            continue;
        }
        let Some(template) = template(&entry) else {
            continue;
        };
        if name == HOST && template.parts().is_empty() {
            entry.problem("a request without `Host` is not valid (RFC 9112 §3.2)");
        }
        fields.push((name, template));
    }
    fields
}

/// Why a field is not the operator's to set; None if it is.
fn managed(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "connection" | "upgrade" => {
            Some("the proxy sets this field itself; `upgrade` says what clients may switch to")
        }
        "content-length" | "transfer-encoding" => {
            Some("the proxy sets this field itself, as the body requires")
        }
        "keep-alive" | "proxy-connection" | "te" | "http2-settings" => {
            Some("this field concerns one connection only and is never passed on (RFC 9110 §7.6.1)")
        }
        "sec-websocket-key"
        | "sec-websocket-version"
        | "sec-websocket-extensions"
        | "sec-websocket-accept" => {
            Some("the proxy keeps this field of the opening handshake consistent itself")
        }
        _ => None,
    }
}

fn template(value: &Value<'_>) -> Option<Template> {
    let text = value.parse(TEMPLATE, Some)?;
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(problem) => {
            value.problem(format_args!("{problem} (in {})", value.found()));
            return None;
        }
    };
    let sendable = |part: &Part| match part {
        Part::Literal(text) => HeaderValue::from_bytes(text.as_bytes()).is_ok(),
        Part::Variable(_) => true,
    };
    if !template.parts().iter().all(sendable) {
        value.expected("text that a header field can carry, without line breaks");
    }
    if Variable::named(text).is_some() {
        value.warn(format_args!(
            "{text:?} is sent as it is; did you mean \"${text}\"?"
        ));
    }
    Some(template)
}

/// Reads the tokens of protocols that clients may switch to.
fn upgrade(value: &Value<'_>) -> Vec<String> {
    const TOKENS: &str = "a list of protocols such as [\"websocket\"]";
    let mut tokens = Vec::new();
    for item in value.list(TOKENS) {
        let token = item.as_str().unwrap_or_default().to_ascii_lowercase();
        match token.as_str() {
            "h2c" => item.problem(
                "h2c cannot be switched to: requests in such a tunnel would pass all routes unseen",
            ),
            _ if tokens.contains(&token) => {
                item.problem(format_args!("{} is already in this list", item.found()));
            }
            _ if is_protocol(&token) => tokens.push(token),
            _ => item.expected("a protocol such as \"websocket\""),
        }
    }
    tokens
}

/// Whether this is `protocol-name ["/" protocol-version]` (RFC 9110 §7.8).
fn is_protocol(text: &str) -> bool {
    let is_token = |text: &str| {
        let special = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || special(byte))
    };
    let (name, version) = text.split_once('/').unwrap_or((text, "1"));
    is_token(name) && is_token(version)
}

fn timeouts(t: &Table<'_>) -> RouteTimeouts {
    RouteTimeouts {
        connect: t.duration("connect", RouteTimeouts::DEFAULT),
        send: t.duration("send", RouteTimeouts::DEFAULT),
        read: t.duration("read", RouteTimeouts::DEFAULT),
    }
}
