//! `map` blocks, access logs and their formats.

use super::output::{self, Output, quoted};
use super::scope::Scope;
use super::translator::Translator;
use super::tree::Directive;

impl<'a> Translator<'a> {
    /// Writes all maps.
    pub(super) fn maps(&mut self) -> Output {
        let mut output = Output::default();
        let http = self.http;
        let mut names: Vec<&str> = Vec::new();
        for block in http.iter().filter(|d| d.is("map")) {
            let Some(name) = block.argument(1).strip_prefix('$') else {
                let text = format!("invalid variable name {:?}", block.argument(1));
                self.error(block, text, Some(&format!("write ${}", block.argument(1))));
                continue;
            };
            if names.contains(&name) {
                self.error(block, format!("${name} is a map already"), None);
                continue;
            }
            names.push(name);
            self.map(block, name, &mut output);
        }
        output
    }

    fn map(&mut self, block: &'a Directive, name: &str, output: &mut Output) {
        let source = block.argument(0);
        if !self.is_template(block, source) {
            return;
        }
        if !source.contains('$') {
            let text = format!("{source:?} is the same for all requests");
            self.error(block, text, Some(&format!("write ${source}")));
            return;
        }
        self.keep(block, "maps");
        let key = output::key(&map_name(name));
        output.table(&format!("[maps.{key}]"), Some(&block.place));
        output.key("source", &template(source), &block.place);
        let mut values = Vec::new();
        for entry in block.children() {
            entry.is_used.set(true);
            match (entry.name.as_str(), &entry.arguments[..]) {
                ("hostnames", []) => output.key("hostnames", "true", &entry.place),
                ("volatile", []) => {}
                ("default", [value]) => {
                    if self.is_template(entry, value) {
                        output.key("default", &template(value), &entry.place);
                    }
                }
                (_, [value]) => {
                    if self.is_template(entry, value) {
                        values.push((entry, value));
                    }
                }
                _ => self.error(entry, "expected a value and what it becomes, and `;`", None),
            }
        }
        if !values.is_empty() {
            output.line(&format!("[maps.{key}.values]"), Some(&block.place));
            for (entry, value) in values {
                output.key(&output::key(&entry.name), &template(value), &entry.place);
            }
        }
    }

    /// Writes the access log for all servers, and formats that any access log uses.
    pub(super) fn access_logs(&mut self, output: &mut Output) {
        let http = Scope::new(self.http);
        if !has(self.http, "access_log") {
            let place = super::report::Place::file(&self.file);
            let text =
                "without `access_log` nginx logs to a file of its own; here nothing is logged";
            self.report.relies(&place, "", text);
        }
        let mut log = Output::default();
        self.access_log_of(&http, &mut log);
        output.append(log);
    }

    /// Writes the formats that access logs name.
    pub(super) fn log_formats(&mut self) -> Output {
        let mut output = Output::default();
        let http = self.http;
        for directive in http.iter().filter(|d| d.is("log_format")) {
            let name = directive.argument(0);
            if name == "combined" {
                self.error(
                    directive,
                    "every configuration has a format of this name",
                    None,
                );
                continue;
            }
            let escape = directive.argument(1).strip_prefix("escape=");
            let first = if escape.is_some() { 2 } else { 1 };
            let line = directive.arguments[first..].concat();
            let escape = match escape {
                None | Some("default") => None,
                Some("json") => Some("json"),
                Some("none") => Some("off"),
                Some(other) => {
                    self.error(directive, format!("unknown escape {other:?}"), None);
                    continue;
                }
            };
            if !self.is_template(directive, &line) {
                continue;
            }
            self.keep(directive, "log_formats");
            let value = match escape {
                None => template(&line),
                Some(escape) => output::table(&[
                    ("line".to_owned(), template(&line)),
                    ("escape".to_owned(), quoted(escape)),
                ]),
            };
            if output.is_empty() {
                output.table("[log_formats]", Some(&directive.place));
            }
            output.key(&output::key(&format_name(name)), &value, &directive.place);
        }
        output
    }

    /// Writes the access log of one level, if it says anything about it.
    pub(super) fn access_log_of(&mut self, level: &Scope<'a>, output: &mut Output) {
        let found = level.all("access_log");
        let mut logs = Vec::new();
        for directive in &found {
            self.keep(directive, "access_log");
            if directive.argument(0) == "off" {
                output.key("access_log", "false", &directive.place);
                return;
            }
            logs.extend(self.access_log(directive));
        }
        let (Some(first), [log, more @ ..]) = (found.first(), &logs[..]) else {
            return;
        };
        let value = match more {
            [] => log.clone(),
            _ => format!("[{}]", logs.join(", ")),
        };
        output.key("access_log", &value, &first.place);
    }

    fn access_log(&mut self, directive: &'a Directive) -> Option<String> {
        let target = directive.argument(0);
        if target.starts_with("syslog:") || target.contains('$') {
            let hint = "write the path of a file";
            let text = format!("{target:?} is not supported");
            self.error(directive, text, Some(hint));
            return None;
        }
        let path = match target {
            "/dev/stdout" => "stdout".to_owned(),
            "/dev/stderr" => "stderr".to_owned(),
            _ => self.prefixed(directive, target)?,
        };
        let mut log = vec![("path".to_owned(), quoted(&path))];
        let mut format = "combined";
        let mut rest = &directive.arguments[1..];
        if let [name, after @ ..] = rest
            && !name.contains('=')
        {
            (format, rest) = (name, after);
        }
        let mut formats = self.http.iter().filter(|d| d.is("log_format"));
        if format != "combined" && !formats.any(|known| known.argument(0) == format) {
            let text = format!("unknown log format {format:?}");
            self.error(directive, text, Some("write a `log_format` of that name"));
            return None;
        }
        log.push(("format".to_owned(), quoted(&format_name(format))));
        for parameter in rest {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("if", condition) => {
                    if !self.is_template(directive, condition) {
                        return None;
                    }
                    log.push(("when".to_owned(), template(condition)));
                }
                ("buffer" | "flush", _) => {
                    let what = format!("{} ({parameter})", directive.text());
                    let why = "lines are written together in any case";
                    self.report.dropped(&directive.place, &what, why);
                }
                ("gzip", _) => {
                    let hint = "compress logs when they are moved away";
                    self.error(directive, "gzip is not supported", Some(hint));
                }
                _ => self.error(directive, format!("invalid parameter {parameter:?}"), None),
            }
        }
        Some(output::table(&log))
    }
}

/// Variables of Tidegate's own, whose names a file of nginx may have given to maps.
const OURS: [&str; 13] = [
    "attempts",
    "bytes_from_client",
    "close_code",
    "closed_by",
    "failure",
    "kind",
    "messages_dropped",
    "messages_from_client",
    "messages_from_service",
    "messages_replaced",
    "messages_sent",
    "plugin_time",
    "route",
];

/// The name of a map here, where it would be that of a variable.
fn map_name(name: &str) -> String {
    match OURS.contains(&name) {
        true => format!("{name}_map"),
        false => name.to_owned(),
    }
}

/// Writes a text with variables as TOML.
pub(super) fn template(text: &str) -> String {
    let mut renamed = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, behind) = rest.split_at(dollar + 1);
        let (brace, name) = match behind.strip_prefix('{') {
            Some(name) => ("{", name),
            None => ("", behind),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        renamed.push_str(before);
        renamed.push_str(brace);
        renamed.push_str(&map_name(name));
        rest = after;
    }
    renamed.push_str(rest);
    quoted(&renamed)
}

/// Whether a directive stands in a block or within it.
fn has(block: &[Directive], name: &str) -> bool {
    block
        .iter()
        .any(|directive| directive.is(name) || has(directive.children(), name))
}

/// The name of a format here, where two names are taken.
fn format_name(name: &str) -> String {
    match name {
        "text" | "json" => format!("nginx-{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_have_the_name_of_a_variable_get_another_wherever_they_are_named() {
        for (text, written) in [
            ("$kind/${route}s", r#""$kind_map/${route_map}s""#),
            ("$kinds $host", r#""$kinds $host""#),
            ("plain", r#""plain""#),
        ] {
            assert_eq!(template(text), written);
        }
    }
}
