//! Regular expressions as they are written, and the paths that routes match.

use std::fmt;
use std::ops::Deref;

use super::reader::Value;

/// A regular expression, equal to another that is written the same.
#[derive(Debug, Clone)]
pub(crate) struct Regex(regex::Regex);

/// How a route's path is matched. The order in which patterns win is nginx's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Pattern {
    /// `/chat`
    Prefix(String),
    /// `= /chat`
    Exact(String),
    /// `^~ /chat`: a prefix that keeps patterns from being tried.
    PrefixFirst(String),
    /// `~ re` and, without regard to case, `~* re`.
    Regex(Regex),
}

/// What `match` looks like, for messages.
pub(super) const PATTERN: &str = "a path such as \"/chat\" or \"= /chat\" (exact) or \"^~ /chat\" \
                                  (before patterns), or a pattern such as \"~ [.]png$\" or \
                                  \"~* [.]png$\" (any case)";

impl Regex {
    /// Reads an expression that stands in `value`.
    pub(super) fn read(value: &Value<'_>, text: &str, any_case: bool) -> Option<Self> {
        let flags = if any_case { "(?i)" } else { "" };
        match regex::Regex::new(&format!("{flags}{text}")) {
            Ok(regex) => Some(Self(regex)),
            Err(error) => {
                value.expected_because("a regular expression", last_line(&error));
                None
            }
        }
    }
}

impl Pattern {
    /// The path with which all paths begin that match; None for a regular expression.
    pub(crate) fn prefix(&self) -> Option<String> {
        match self {
            Self::Prefix(path) | Self::Exact(path) | Self::PrefixFirst(path) => Some(path.clone()),
            Self::Regex(_) => None,
        }
    }
}

/// Reads a `match`.
pub(super) fn read(value: &Value<'_>) -> Option<Pattern> {
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
    // Of a pattern that begins with `^`, that belongs to the expression.
    let (sign, rest) = match sign.strip_suffix('^') {
        Some(sign @ ("~" | "~*")) => (sign, &text[sign.len()..]),
        _ => (sign, rest),
    };
    let path = rest.starts_with('/').then(|| rest.to_owned());
    let pattern = match sign {
        "" => path.map(Pattern::Prefix),
        "=" => path.map(Pattern::Exact),
        "^~" => path.map(Pattern::PrefixFirst),
        "~" | "~*" if !rest.is_empty() => {
            return Regex::read(value, rest, sign == "~*").map(Pattern::Regex);
        }
        _ => None,
    };
    if pattern.is_none() {
        value.expected(PATTERN);
    }
    pattern
}

/// Whether one of two patterns would never be reached.
pub(super) fn same_place(a: &Pattern, b: &Pattern) -> bool {
    use Pattern::{Prefix, PrefixFirst};
    match (a, b) {
        (Prefix(a), PrefixFirst(b)) | (PrefixFirst(a), Prefix(b)) => a == b,
        _ => a == b,
    }
}

/// The regex crate draws a picture of the place; its last line says what is wrong.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl Deref for Regex {
    type Target = regex::Regex;

    fn deref(&self) -> &regex::Regex {
        &self.0
    }
}

impl From<regex::Regex> for Regex {
    fn from(regex: regex::Regex) -> Self {
        Self(regex)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Regex {}

impl fmt::Display for Regex {
    /// As it is written: `~ re` or `~* re`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str().strip_prefix("(?i)") {
            Some(text) => write!(f, "~* {text}"),
            None => write!(f, "~ {}", self.0),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(path) => f.write_str(path),
            Self::Exact(path) => write!(f, "= {path}"),
            Self::PrefixFirst(path) => write!(f, "^~ {path}"),
            Self::Regex(regex) => regex.fmt(f),
        }
    }
}
