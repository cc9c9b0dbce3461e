//! Maps: variables whose value is looked up by the value of others, as nginx's `map` does.

use std::collections::HashMap;

use super::pattern::Regex;
use super::reader::{Table, Value};
use super::template::Template;
use super::variables::{Groups, Names, Stage, Variable};

/// A variable of the operator's own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Map {
    /// Without the dollar.
    pub(crate) name: String,
    pub(crate) source: Template,
    /// In lower case.
    exact: HashMap<String, Template>,
    /// `.example.com`, longest first.
    suffixes: Vec<(String, Template)>,
    /// `www.example.`, longest first.
    prefixes: Vec<(String, Template)>,
    /// In the order of the file.
    patterns: Vec<(Regex, Template)>,
    default: Template,
    /// When the last of what it depends on is known.
    pub(crate) stage: Stage,
}

/// What a map found.
pub(crate) struct Found<'a> {
    pub(crate) value: &'a Template,
    /// The groups of the pattern, if one matched.
    pub(crate) groups: Option<regex::Captures<'a>>,
    pub(crate) by: By<'a>,
}

/// By which key a map found its value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    Text,
    /// `.example.com`
    Suffix(&'a str),
    /// `www.example.`
    Prefix(&'a str),
    Pattern(&'a Regex),
    Default,
}

impl std::fmt::Display for By<'_> {
    /// As what a text is or does.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text => f.write_str("is one of its keys"),
            Self::Suffix(suffix) => write!(f, "fits *{suffix}"),
            Self::Prefix(prefix) => write!(f, "fits {prefix}*"),
            Self::Pattern(pattern) => write!(f, "matches {pattern}"),
            Self::Default => f.write_str("is none of its keys"),
        }
    }
}

impl Map {
    /// Finds the value for a text: the text itself without regard to case, then host names by the
    /// longest wildcard, then the first pattern that matches, then the default.
    pub(crate) fn find<'a>(&'a self, text: &'a str) -> Found<'a> {
        let plain = |value, by| Found {
            value,
            groups: None,
            by,
        };
        let lower = text.to_ascii_lowercase();
        let host = lower.strip_suffix('.').unwrap_or(&lower);
        let exact = self.exact.get(&lower);
        let suffix = || self.suffixes.iter().find(|(end, _)| host.ends_with(end));
        let prefix = || {
            self.prefixes
                .iter()
                .find(|(start, _)| host.starts_with(start))
        };
        if let Some(value) = exact {
            return plain(value, By::Text);
        }
        if let Some((end, value)) = suffix() {
            return plain(value, By::Suffix(end));
        }
        if let Some((start, value)) = prefix() {
            return plain(value, By::Prefix(start));
        }
        for (regex, value) in &self.patterns {
            if let Some(groups) = regex.captures(text) {
                return Found {
                    value,
                    groups: Some(groups),
                    by: By::Pattern(regex),
                };
            }
        }
        plain(&self.default, By::Default)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let wildcards = self.suffixes.iter().chain(&self.prefixes);
        [&self.source, &self.default]
            .into_iter()
            .chain(self.exact.values())
            .chain(wildcards.map(|(_, value)| value))
            .chain(self.patterns.iter().map(|(_, value)| value))
    }

    /// All variables that the value may depend on directly.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.templates().flat_map(Template::variables)
    }
}

/// Reads `[maps]`.
pub(super) fn read(t: &Table<'_>) -> Vec<Map> {
    let Some(value) = t.get("maps") else {
        return Vec::new();
    };
    let entries = value.entries("tables [maps.NAME]");
    // A map may name one that stands further down.
    let names: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name().to_owned(), Stage::Request))
        .collect();
    let mut maps: Vec<_> = entries.iter().map(|entry| map(entry, &names)).collect();
    for index in 0..maps.len() {
        match stage(index, &maps, &mut Vec::new()) {
            Ok(stage) => maps[index].stage = stage,
            Err(cycle) => entries[index].problem(format_args!("depends on itself: {cycle}")),
        }
    }
    maps
}

/// The names of maps as templates refer to them.
pub(super) fn names(maps: &[Map]) -> Vec<(String, Stage)> {
    let name = |map: &Map| (map.name.clone(), map.stage);
    maps.iter().map(name).collect()
}

/// Finds when a map is known; the error is a way on which it depends on itself.
fn stage(index: usize, maps: &[Map], way: &mut Vec<usize>) -> Result<Stage, String> {
    if way.first() == Some(&index) {
        way.push(index);
        let names: Vec<_> = way.iter().map(|&n| format!("${}", maps[n].name)).collect();
        return Err(names.join(" → "));
    }
    if way.contains(&index) {
        // A circle further on, which is told of where it is.
        return Ok(Stage::Request);
    }
    way.push(index);
    let mut latest = Stage::Request;
    for variable in maps[index].variables() {
        latest = latest.max(match variable {
            Variable::Map(other) => stage(*other, maps, way)?,
            variable => variable.stage(&Names::default()),
        });
    }
    way.pop();
    Ok(latest)
}

fn map(entry: &Value<'_>, names: &[(String, Stage)]) -> Map {
    let name = entry.name();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() == 1 && name.as_bytes()[0].is_ascii_digit() {
        entry.problem("expected the name of a variable, without the dollar");
    } else if !name.bytes().all(is_name) {
        entry.problem("expected a name of letters, digits and `_`, without the dollar");
    } else if Variable::named(name).is_some() {
        entry.problem(format_args!("`${name}` is a variable already"));
    }
    let mut map = Map {
        name: name.to_owned(),
        source: Template::default(),
        exact: HashMap::new(),
        suffixes: Vec::new(),
        prefixes: Vec::new(),
        patterns: Vec::new(),
        default: Template::default(),
        stage: Stage::Request,
    };
    const MAP: &str =
        "a table such as { source = \"$http_upgrade\", values = { \"\" = \"close\" } }";
    entry.table(MAP, |t| {
        let plain = Names {
            maps: names,
            groups: None,
        };
        if let Some(value) = t.require("source", "text such as \"$http_upgrade\"") {
            map.source = template(&value, &plain);
        }
        if let Some(value) = t.get("default") {
            map.default = template(&value, &plain);
        }
        let hostnames = t.boolean("hostnames", false);
        if let Some(value) = t.get("values") {
            for entry in value.entries("a table such as { \"\" = \"close\" }") {
                add(&mut map, &entry, names, hostnames);
            }
        }
    });
    let longest = |(a, _): &(String, Template), (b, _): &(String, Template)| b.len().cmp(&a.len());
    map.suffixes.sort_by(longest);
    map.prefixes.sort_by(longest);
    map
}

/// Adds one value under its key: `~re`, `~*re`, a host name with a wildcard, or the text itself. A
/// backslash in front makes anything the text itself.
fn add(map: &mut Map, entry: &Value<'_>, names: &[(String, Stage)], hostnames: bool) {
    let key = entry.name();
    let plain = Names {
        maps: names,
        groups: None,
    };
    if let Some(text) = key.strip_prefix('~') {
        let (text, any_case) = text.strip_prefix('*').map_or((text, false), |t| (t, true));
        let Some(regex) = Regex::read(entry, text.trim_start(), any_case) else {
            return;
        };
        let groups = Groups::of(&regex);
        let names = Names {
            groups: Some(&groups),
            ..plain
        };
        map.patterns.push((regex, template(entry, &names)));
        return;
    }
    let value = template(entry, &plain);
    let lower = key.to_ascii_lowercase();
    if hostnames {
        if let Some(suffix) = lower.strip_prefix('*').filter(|end| end.starts_with('.')) {
            map.suffixes.push((suffix.to_owned(), value));
            return;
        }
        if let Some(prefix) = lower.strip_suffix('*').filter(|start| start.ends_with('.')) {
            map.prefixes.push((prefix.to_owned(), value));
            return;
        }
        if let Some(host) = lower.strip_prefix('.') {
            map.suffixes.push((lower.clone(), value.clone()));
            map.exact.insert(host.to_owned(), value);
            return;
        }
    }
    let text = lower.strip_prefix('\\').unwrap_or(&lower);
    if map.exact.insert(text.to_owned(), value).is_some() {
        entry.problem("this text is already in this table; case makes no difference");
    }
}

fn template(value: &Value<'_>, names: &Names<'_>) -> Template {
    let Some(text) = value.parse("text, which may have variables", Some) else {
        return Template::default();
    };
    Template::read(text, names, Stage::End).unwrap_or_else(|problem| {
        value.problem(format_args!("{problem} (in {})", value.found()));
        Template::default()
    })
}
