//! Whole files: what is wrong with them, what they mean, and the example that ships with tidegate.

mod example;
mod files;
mod meaning;
mod problems;
mod upstreams;

use std::path::Path;

use super::{Config, Error, Loaded};

/// A file without fault. Each test changes one line of it.
const BASE: &str = r#"[[listeners]]
bind = "127.0.0.1:8080"
[upstreams.chat]
endpoints = ["127.0.0.1:9001"]
[plugins.redact]
module = "builtin:redact"
[[sites]]
names = ["example.com"]
[[sites.routes]]
match = "/"
upstream = "chat"
plugins = ["redact"]
"#;

/// Before the first line of [`BASE`].
const TOP: &str = "";
const BIND: &str = r#"bind = "127.0.0.1:8080""#;
const ENDPOINTS: &str = r#"endpoints = ["127.0.0.1:9001"]"#;
const MODULE: &str = r#"module = "builtin:redact""#;
const NAMES: &str = r#"names = ["example.com"]"#;
const MATCH: &str = r#"match = "/""#;
const UPSTREAM: &str = r#"upstream = "chat""#;
const CHAIN: &str = r#"plugins = ["redact"]"#;

/// [`BASE`] with another text for `line`; a text that begins with `+` comes after it instead.
fn with(line: &str, text: &str) -> String {
    if line == TOP {
        return format!("{text}\n{BASE}");
    }
    assert_eq!(BASE.matches(line).count(), 1, "{line}");
    match text.strip_prefix('+') {
        Some(more) => BASE.replace(line, &format!("{line}\n{more}")),
        None => BASE.replace(line, text),
    }
}

fn parse(text: &str) -> Result<Loaded, Error> {
    Config::parse(text, Path::new("tidegate.toml"))
}

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}")).config
}
