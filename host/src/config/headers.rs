//! Header fields that the operator sets, adds, hides and passes, as they are written.

use http::header::HOST;
use http::{HeaderName, HeaderValue};

use super::reader::{Table, Value};
use super::template::{Part, Template};
use super::variables::{Names, Stage};

/// A field added to responses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AddedHeader {
    pub(crate) name: HeaderName,
    /// An empty result adds none.
    pub(crate) value: Template,
    /// To responses of any status. Otherwise only where nginx does: 200, 201, 204, 206, 301, 302, 303,
    /// 304, 307 and 308.
    pub(crate) always: bool,
}

const NAME: &str = "the name of a header field, of letters, digits and `-`";

/// Reads the fields that requests are sent with.
pub(super) fn for_requests(value: &Value<'_>, names: &Names<'_>) -> Vec<(HeaderName, Template)> {
    let mut fields: Vec<(HeaderName, Template)> = Vec::new();
    for entry in value.entries("a table such as { Host = \"$host\" }") {
        let Some(name) = name(&entry, fields.iter().map(|(name, _)| name)) else {
            continue;
        };
        if let Some(why) = managed(&name) {
            entry.problem(why);
            continue;
        }
        let Some(template) = template(&entry, names, Stage::Request) else {
            continue;
        };
        if name == HOST && template.parts().is_empty() {
            entry.problem("a request without `Host` is not valid (RFC 9112 §3.2)");
        }
        fields.push((name, template));
    }
    fields
}

/// Reads the fields of a fixed response.
pub(super) fn of_response(value: &Value<'_>, names: &Names<'_>) -> Vec<(HeaderName, Template)> {
    let mut fields: Vec<(HeaderName, Template)> = Vec::new();
    for entry in value.entries("a table such as { Content-Type = \"text/html\" }") {
        let Some(name) = name(&entry, fields.iter().map(|(name, _)| name)) else {
            continue;
        };
        if let Some(why) = framing(&name) {
            entry.problem(why);
            continue;
        }
        fields.extend(template(&entry, names, Stage::Request).map(|value| (name, value)));
    }
    fields
}

/// Reads `add_headers`.
pub(super) fn added(value: &Value<'_>, names: &Names<'_>) -> Vec<AddedHeader> {
    const FIELD: &str =
        "text, a table such as { value = \"DENY\", always = true }, or a list of these";
    let mut fields: Vec<AddedHeader> = Vec::new();
    for entry in value.entries("a table such as { X-Frame-Options = \"DENY\" }") {
        let Some(name) = name(&entry, fields.iter().map(|field| &field.name)) else {
            continue;
        };
        if let Some(why) = framing(&name) {
            entry.problem(why);
            continue;
        }
        let items = if entry.is_list() {
            entry.list(FIELD)
        } else {
            vec![entry]
        };
        for item in items {
            let read = |t: &Table<'_>| {
                let always = t.boolean("always", false);
                let value = t.require("value", "text such as \"DENY\"")?;
                Some((template(&value, names, Stage::Response)?, always))
            };
            let field = if item.is_table() {
                item.table(FIELD, read).flatten()
            } else if item.as_str().is_some() {
                template(&item, names, Stage::Response).map(|value| (value, false))
            } else {
                item.expected(FIELD);
                None
            };
            fields.extend(field.map(|(value, always)| AddedHeader {
                name: name.clone(),
                value,
                always,
            }));
        }
    }
    fields
}

/// Reads a list of names.
pub(super) fn list(value: &Value<'_>) -> Vec<HeaderName> {
    let parse = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
    value
        .list("a list of header fields such as [\"X-Powered-By\"]")
        .iter()
        .filter_map(|item| item.parse(NAME, parse))
        .collect()
}

/// Reads the name of an entry, which must not be among those before it.
fn name<'a>(
    entry: &Value<'_>,
    mut before: impl Iterator<Item = &'a HeaderName>,
) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(entry.name().as_bytes()) else {
        entry.problem(format_args!("expected {NAME}"));
        return None;
    };
    if before.any(|other| *other == name) {
        entry.problem("this field is already in this table; case makes no difference");
        return None;
    }
    Some(name)
}

/// Why a request field is not the operator's to set; None if it is.
fn managed(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "keep-alive" | "proxy-connection" | "te" | "http2-settings" => {
            Some("this field concerns one connection only and is never passed on (RFC 9110 §7.6.1)")
        }
        "sec-websocket-key"
        | "sec-websocket-version"
        | "sec-websocket-extensions"
        | "sec-websocket-accept" => {
            Some("the proxy keeps this field of the opening handshake consistent itself")
        }
        "content-length" | "transfer-encoding" => framing(name),
        _ => None,
    }
}

/// Why a response field is not the operator's to set; None if it is.
fn framing(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "content-length" | "transfer-encoding" => {
            Some("the proxy sets this field itself, as the body requires")
        }
        "connection" | "keep-alive" | "upgrade" => {
            Some("the proxy sets this field itself, as the connection requires")
        }
        _ => None,
    }
}

/// Reads a text that a header field can carry.
pub(super) fn template(value: &Value<'_>, names: &Names<'_>, stage: Stage) -> Option<Template> {
    let text = value.parse("text such as \"$host:$server_port\"", Some)?;
    let template = match Template::read(text, names, stage) {
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
    // These may well be meant as words.
    const WORDS: [&str; 8] = [
        "https",
        "request",
        "connection",
        "status",
        "route",
        "kind",
        "attempts",
        "failure",
    ];
    if names.find(text).is_ok() && !WORDS.contains(&text) {
        value.doubt(format_args!(
            "{text:?} is sent as it is; did you mean \"${text}\"?"
        ));
    }
    Some(template)
}
