//! Access logs and their formats as they are written.

use std::path::PathBuf;
use std::sync::Arc;

use super::reader::{Table, Value};
use super::template::Template;
use super::upstreams::unknown;
use super::variables::{Names, Stage};

/// Where and how each exchange and session is recorded at its end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AccessLog {
    pub(crate) target: LogTarget,
    pub(crate) format: LogFormat,
    /// If this is empty or `0`, there is no line.
    pub(crate) when: Option<Template>,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// How a line of the access log looks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LogFormat {
    /// One object with all facts.
    Json,
    Lines(Arc<LogLines>),
}

/// A format with a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogLines {
    pub(crate) template: Template,
    pub(crate) escape: Escape,
    /// Whether facts follow as `key=value`.
    pub(crate) facts: bool,
}

/// What becomes of bytes of a value that would be misread in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escape {
    /// `\xHH`; a value that is missing is `-`.
    Hex,
    /// As in a JSON string; a value that is missing is empty.
    Json,
    /// They stay; a value that is missing is empty.
    Off,
}

impl AccessLog {
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let line = match &self.format {
            LogFormat::Lines(lines) => Some(&lines.template),
            LogFormat::Json => None,
        };
        line.into_iter().chain(&self.when)
    }
}

/// The format of nginx that every configuration has.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                        $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// Formats by name.
pub(super) struct Formats<'a> {
    lines: Vec<(String, Arc<LogLines>)>,
    names: Names<'a>,
}

impl<'a> Formats<'a> {
    /// Reads `[log_formats]`.
    pub(super) fn read(t: &Table<'_>, names: Names<'a>) -> Self {
        let template = Template::read(COMBINED, &names, Stage::End).unwrap_or_default();
        let combined = |facts| LogLines {
            template: template.clone(),
            escape: Escape::Hex,
            facts,
        };
        let mut lines = vec![
            ("text".to_owned(), Arc::new(combined(true))),
            ("combined".to_owned(), Arc::new(combined(false))),
        ];
        let entries = t
            .get("log_formats")
            .map(|value| value.entries("a table such as { main = \"$remote_addr $status\" }"));
        for entry in entries.unwrap_or_default() {
            if matches!(entry.name(), "combined" | "text" | "json") {
                entry.problem("is a format that every file has; expected another name");
                continue;
            }
            lines.extend(
                log_lines(&entry, &names).map(|format| (entry.name().to_owned(), Arc::new(format))),
            );
        }
        Self { lines, names }
    }

    /// Reads an `access_log`: a table, a list of them, or `false`.
    pub(super) fn access_logs(&self, value: &Value<'_>) -> Vec<AccessLog> {
        const LOG: &str = "a table such as { path = \"stdout\" }, a list of such tables, or false";
        if value.as_bool() == Some(false) {
            return Vec::new();
        }
        if value.is_list() {
            let logs = value.list(LOG);
            let read = |item: &Value<'_>| item.table(LOG, |t| self.access_log(t)).flatten();
            return logs.iter().filter_map(read).collect();
        }
        let log = value.table(LOG, |t| self.access_log(t)).flatten();
        log.into_iter().collect()
    }

    fn access_log(&self, t: &Table<'_>) -> Option<AccessLog> {
        let target = t
            .require("path", "\"stdout\", \"stderr\" or a path of a file")
            .and_then(|value| target(&value));
        let format = t
            .get("format")
            .map_or_else(|| Some(self.text()), |value| self.named(&value));
        let when = t
            .get("when")
            .map(|value| template(&value, &self.names).unwrap_or_default());
        Some(AccessLog {
            target: target?,
            format: format?,
            when,
        })
    }

    /// The format that is first.
    fn text(&self) -> LogFormat {
        LogFormat::Lines(self.lines[0].1.clone())
    }

    fn named(&self, value: &Value<'_>) -> Option<LogFormat> {
        let name = value.parse("the name of a format", Some)?;
        if name == "json" {
            return Some(LogFormat::Json);
        }
        let found = self.lines.iter().find(|(known, _)| known == name);
        if found.is_none() {
            let own = self.lines.iter().map(|(known, _)| known.as_str());
            let known = ["json"].into_iter().chain(own);
            value.problem(unknown("format", "log_formats", name, known));
        }
        found.map(|(_, lines)| LogFormat::Lines(lines.clone()))
    }
}

fn target(value: &Value<'_>) -> Option<LogTarget> {
    match value.as_str() {
        Some("stdout") => Some(LogTarget::Stdout),
        Some("stderr") => Some(LogTarget::Stderr),
        _ => {
            let path = value.path("\"stdout\", \"stderr\" or a path of a file")?;
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            if path.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
                value.expected("a path of a file, in a folder that exists");
            }
            Some(LogTarget::File(path))
        }
    }
}

fn log_lines(value: &Value<'_>, names: &Names<'_>) -> Option<LogLines> {
    const ESCAPE: [(&str, Escape); 3] = [
        ("hex", Escape::Hex),
        ("json", Escape::Json),
        ("off", Escape::Off),
    ];
    if !value.is_table() {
        return Some(LogLines {
            template: template(value, names)?,
            escape: Escape::Hex,
            facts: false,
        });
    }
    let read = |t: &Table<'_>| {
        let line = t.require("line", "text such as \"$remote_addr $status\"");
        let escape = t.choice("escape", ESCAPE, Escape::Hex);
        Some(LogLines {
            template: template(&line?, names)?,
            escape,
            facts: false,
        })
    };
    value.table("text such as \"$remote_addr $status\"", read)?
}

fn template(value: &Value<'_>, names: &Names<'_>) -> Option<Template> {
    let text = value.parse("text such as \"$remote_addr $status\"", Some)?;
    match Template::read(text, names, Stage::End) {
        Ok(template) => Some(template),
        Err(problem) => {
            value.problem(format_args!("{problem} (in {})", value.found()));
            None
        }
    }
}
