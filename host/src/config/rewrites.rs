//! What is rewritten in responses of services, as it is written: where they redirect to, and whom
//! their cookies are for.

use super::pattern::Regex;
use super::reader::{Table, Value};
use super::template::Template;
use super::variables::{Groups, Names, Stage};

/// A rule for `Location` and `Refresh`. The first that fits is the only one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LocationRule {
    /// The URL of the service becomes the path of the route.
    Default,
    Rewrite(Rewrite),
}

/// A part of a text, and what takes its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rewrite {
    pub(crate) from: Sought,
    pub(crate) to: Template,
}

impl Rewrite {
    /// Its templates; what they say of groups may be of its own pattern.
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let from = match &self.from {
            Sought::Text(template) => Some(template),
            Sought::Regex(_) => None,
        };
        from.into_iter().chain([&self.to])
    }
}

/// What a [`Rewrite`] looks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sought {
    /// The text begins with this, or, for the domain of a cookie, is this.
    Text(Template),
    /// What matches is replaced; groups are for the other template.
    Regex(Regex),
}

/// Rules for the attributes of `Set-Cookie`. The first that fits is the only one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CookieRewrites {
    pub(crate) domain: Vec<Rewrite>,
    pub(crate) path: Vec<Rewrite>,
}

const RULE: &str = "a table such as { from = \"http://localhost:8000/\", to = \"/\" }";

/// Reads `rewrite_location`.
pub(super) fn location(value: &Value<'_>, names: &Names<'_>) -> Vec<LocationRule> {
    const RULES: &str = "\"default\", \"off\" or a list of tables such as \
                         { from = \"http://localhost:8000/\", to = \"/\" }";
    match value.as_str() {
        Some("default") => return vec![LocationRule::Default],
        Some("off") => return Vec::new(),
        _ => {}
    }
    value
        .list(RULES)
        .iter()
        .filter_map(|item| match item.as_str() {
            Some("default") => Some(LocationRule::Default),
            _ => rewrite(item, names).map(LocationRule::Rewrite),
        })
        .collect()
}

/// Reads `rewrite_cookies`.
pub(super) fn cookies(t: &Table<'_>, names: &Names<'_>) -> CookieRewrites {
    let rules = |name| {
        let items = t.get(name).map(|value| value.list("a list of tables"));
        let items = items.unwrap_or_default();
        items
            .iter()
            .filter_map(|item| rewrite(item, names))
            .collect()
    };
    CookieRewrites {
        domain: rules("domain"),
        path: rules("path"),
    }
}

fn rewrite(item: &Value<'_>, names: &Names<'_>) -> Option<Rewrite> {
    let read = |t: &Table<'_>| {
        let from = t.require("from", "text, or a pattern such as \"~ ^http://[^/]+/\"");
        let to = t.require("to", "text, which may have variables");
        let from = from.and_then(|value| look_for(&value, names));
        let groups = match &from {
            Some(Sought::Regex(regex)) => Some(Groups::of(regex)),
            _ => None,
        };
        let names = Names {
            groups: groups.as_ref().or(names.groups),
            ..*names
        };
        let to = to.and_then(|value| super::headers::template(&value, &names, Stage::Response));
        Some(Rewrite {
            from: from?,
            to: to?,
        })
    };
    item.table(RULE, read).flatten()
}

fn look_for(value: &Value<'_>, names: &Names<'_>) -> Option<Sought> {
    let text = value.parse("text, or a pattern such as \"~ ^http://[^/]+/\"", Some)?;
    if let Some(text) = text.strip_prefix('~') {
        let (text, any_case) = text.strip_prefix('*').map_or((text, false), |t| (t, true));
        return Regex::read(value, text.trim_start(), any_case).map(Sought::Regex);
    }
    if text.is_empty() {
        value.expected("text, or a pattern such as \"~ ^http://[^/]+/\"");
        return None;
    }
    super::headers::template(value, names, Stage::Response).map(Sought::Text)
}
