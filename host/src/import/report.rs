//! What became of each directive, for the operator and for scripts.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::rc::Rc;

use serde_json::json;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: Rc<Path>,
    /// From 1; 0 is the file as a whole.
    pub(super) line: usize,
}

impl Place {
    /// A file as a whole.
    pub(super) fn file(file: &Path) -> Self {
        Self {
            file: file.into(),
            line: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        Ok(())
    }
}

/// Something to tell of a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Note {
    pub(super) place: Place,
    /// The directive, or as much of it as it takes to know which; empty for the file's syntax.
    pub(super) directive: String,
    pub(super) text: String,
    pub(super) suggestion: Option<String>,
}

impl Note {
    /// Whether it says the same of the same directive, with other arguments or elsewhere.
    fn is_like(&self, other: &Self) -> bool {
        let name = |note: &Self| note.directive.split(' ').next().map(str::to_owned);
        name(self) == name(other) && self.text == other.text
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.directive.is_empty() {
            write!(f, "{}: ", self.directive)?;
        }
        f.write_str(&self.text)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        Ok(())
    }
}

/// All there is to tell of an import. A note that is made several times, since several routes inherit
/// the same directive, is told once.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<Note>,
    dropped: Vec<Note>,
    defaults: Vec<Note>,
    translated: Vec<Note>,
    told: HashSet<Note>,
}

impl Report {
    /// Notes what keeps the file from being translated.
    pub(super) fn error(
        &mut self,
        place: &Place,
        directive: &str,
        text: impl Into<String>,
        suggestion: Option<String>,
    ) {
        let note = note(place, directive, text.into(), suggestion);
        self.add(note, |report| &mut report.errors);
    }

    /// Notes that a directive is left out, and why that changes nothing that matters.
    pub(super) fn dropped(&mut self, place: &Place, directive: &str, why: impl Into<String>) {
        let note = note(place, directive, why.into(), None);
        self.add(note, |report| &mut report.dropped);
    }

    /// Notes that something follows from a default of nginx.
    pub(super) fn relies(&mut self, place: &Place, directive: &str, text: impl Into<String>) {
        let note = note(place, directive, text.into(), None);
        self.add(note, |report| &mut report.defaults);
    }

    /// Notes what a directive has become.
    pub(super) fn translated(&mut self, place: &Place, directive: &str, key: impl Into<String>) {
        let note = note(place, directive, key.into(), None);
        self.add(note, |report| &mut report.translated);
    }

    fn add(&mut self, note: Note, list: impl Fn(&mut Self) -> &mut Vec<Note>) {
        if self.told.insert(note.clone()) {
            list(self).push(note);
        }
    }

    /// Whether the file can be used.
    pub(super) fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// Puts everything in the order of the files' lines.
    pub(super) fn sort(&mut self) {
        for list in [
            &mut self.errors,
            &mut self.dropped,
            &mut self.defaults,
            &mut self.translated,
        ] {
            list.sort_by(|a, b| a.place.cmp(&b.place));
        }
    }

    /// The report as one JSON object. Its shape is part of the command's interface.
    pub(super) fn json(&self) -> serde_json::Value {
        let list = |notes: &[Note], text: &str| -> serde_json::Value {
            notes
                .iter()
                .map(|note| {
                    let mut object = json!({
                        "file": note.place.file.to_string_lossy(),
                        "line": note.place.line,
                        "directive": note.directive,
                        text: note.text,
                    });
                    if let Some(suggestion) = &note.suggestion {
                        object["suggestion"] = suggestion.as_str().into();
                    }
                    object
                })
                .collect()
        };
        json!({
            "ok": self.is_ok(),
            "errors": list(&self.errors, "problem"),
            "dropped": list(&self.dropped, "reason"),
            "defaults": list(&self.defaults, "default"),
            "translated": list(&self.translated, "key"),
        })
    }
}

fn note(place: &Place, directive: &str, text: String, suggestion: Option<String>) -> Note {
    Note {
        place: place.clone(),
        directive: directive.to_owned(),
        text,
        suggestion,
    }
}

/// For a terminal: errors alone if there are any, since nothing else matters then.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_ok() {
            for error in &self.errors {
                writeln!(f, "{error}")?;
            }
            let count = self.errors.len();
            let s = if count == 1 { "" } else { "s" };
            return write!(f, "{count} error{s}; nothing is written");
        }
        let mut text = String::new();
        let sections = [
            ("dropped, since they change nothing here", &self.dropped),
            (
                "defaults of nginx that the result relies on",
                &self.defaults,
            ),
        ];
        for (title, notes) in sections {
            if !notes.is_empty() {
                writeln!(text, "{title}:")?;
                let mut notes = notes.iter().peekable();
                while let Some(note) = notes.next() {
                    let mut alike = 0;
                    while notes.next_if(|next| next.is_like(note)).is_some() {
                        alike += 1;
                    }
                    match alike {
                        0 => writeln!(text, "  {note}")?,
                        _ => writeln!(text, "  {note} (and {alike} more like it)")?,
                    }
                }
            }
        }
        let count = self.translated.len();
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{text}{count} directive{s} translated")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: usize) -> Place {
        Place {
            file: Path::new("nginx.conf").into(),
            line,
        }
    }

    #[test]
    fn errors_hide_all_else_and_are_counted() {
        let mut report = Report::default();
        report.dropped(&place(1), "sendfile on", "there is no such choice here");
        report.error(
            &place(3),
            "if",
            "is not supported",
            Some("use a map".into()),
        );
        report.error(&place(2), "", "unexpected `}`", None);
        report.sort();
        assert_eq!(
            report.to_string(),
            "nginx.conf:2: unexpected `}`\n\
             nginx.conf:3: if: is not supported; use a map\n\
             2 errors; nothing is written"
        );
    }

    #[test]
    fn what_several_routes_inherit_is_told_once() {
        let mut report = Report::default();
        for _ in 0..2 {
            report.dropped(&place(1), "sendfile on", "no effect");
            report.translated(&place(2), "proxy_read_timeout 5s", "timeouts.read");
        }
        assert_eq!(
            report.to_string(),
            "dropped, since they change nothing here:\n  \
             nginx.conf:1: sendfile on: no effect\n1 directive translated"
        );
        assert_eq!(report.json()["translated"].as_array().unwrap().len(), 1);
        assert_eq!(report.json()["ok"], true);
    }
}
