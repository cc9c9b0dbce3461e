//! Walks a TOML document and remembers where everything stands.
//!
//! Reading never stops at a problem: it is noted, a default takes its place, and [`read`] gives all
//! of them back at the end. Asking a [`Table`] for a key is what makes the key known; the keys that
//! nobody asked for are reported when the table is done. What keys mean is `file.rs`'s business.

#[cfg(test)]
pub(super) mod coverage;
mod table;

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Problem};
use super::units;
pub(super) use table::Table;

/// Parses `text` and reads its top-level table, along with what is dubious. Fails if there is any
/// problem, with all of them.
pub(super) fn read<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&Table<'_>) -> T,
) -> Result<Read<T>, Error> {
    let reader = Reader {
        file,
        text,
        empty: DeTable::new(),
        problems: RefCell::default(),
        warnings: RefCell::default(),
        doubts: RefCell::default(),
    };
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => return Err(Error::invalid(vec![reader.syntax_error(&error)])),
    };
    let value = reader.table(String::new(), 0, document.get_ref(), read);
    let sorted = |problems: &RefCell<Vec<Problem>>| {
        let mut problems = problems.take();
        problems.sort();
        problems
    };
    match sorted(&reader.problems) {
        problems if problems.is_empty() => {
            reader
                .warnings
                .borrow_mut()
                .append(&mut reader.doubts.take());
            Ok(Read {
                value,
                warnings: sorted(&reader.warnings),
            })
        }
        // That nothing uses a plugin, say, may be because what uses it is wrong.
        problems => Err(Error::Invalid {
            problems,
            warnings: sorted(&reader.doubts),
        }),
    }
}

/// A file that has been read.
pub(super) struct Read<T> {
    pub(super) value: T,
    /// What is allowed but hardly meant.
    pub(super) warnings: Vec<Problem>,
}

/// A file being read.
struct Reader<'r> {
    file: &'r Path,
    text: &'r str,
    /// Stands in for tables that are not in the file, so that defaults are written once.
    empty: DeTable<'r>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Warnings that hold whatever else is wrong.
    doubts: RefCell<Vec<Problem>>,
}

impl<'r> Reader<'r> {
    fn problem(&self, at: usize, key: &str, text: impl Display) -> Problem {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Problem {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            text: text.to_string(),
        }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> Problem {
        let span = error.span().unwrap_or(self.text.len()..self.text.len());
        match self.text.get(span.clone()) {
            Some(found) if !found.is_empty() && !found.contains('\n') => self.problem(
                span.start,
                "",
                format_args!("{} at `{found}`", error.message()),
            ),
            _ => self.problem(span.start, "", error.message()),
        }
    }

    fn table<T>(
        &'r self,
        key: String,
        at: usize,
        entries: &'r DeTable<'r>,
        read: impl FnOnce(&Table<'r>) -> T,
    ) -> T {
        let table = Table::new(self, key, at, entries);
        let value = read(&table);
        table.report_unknown();
        value
    }
}

/// A value, its key and its place.
#[derive(Clone)]
pub(super) struct Value<'r> {
    reader: &'r Reader<'r>,
    /// Path of the key from the top of the file.
    key: String,
    /// Last part of the key; empty for an item of a list.
    name: &'r str,
    /// Where the key stands, or the item. A key and its value share a line.
    at: usize,
    value: &'r Spanned<DeValue<'r>>,
}

impl<'r> Value<'r> {
    /// The path of the key, such as `sites[0].routes[1].match`.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The last part of the key, such as `chat` of `upstreams.chat`; empty for an item of a list.
    pub(super) fn name(&self) -> &'r str {
        self.name
    }

    /// Notes that something is wrong here.
    pub(super) fn problem(&self, text: impl Display) {
        let problem = self.reader.problem(self.at, &self.key, text);
        self.reader.problems.borrow_mut().push(problem);
    }

    /// Returns a problem that is none yet.
    pub(super) fn possible_problem(&self, text: impl Display) -> Problem {
        self.reader.problem(self.at, &self.key, text)
    }

    /// Notes that the value is not what it should be.
    pub(super) fn expected(&self, what: impl Display) {
        self.problem(format_args!("expected {what}, found {}", self.found()));
    }

    /// Notes that the value is not what it should be, and why.
    pub(super) fn expected_because(&self, what: impl Display, why: impl Display) {
        self.problem(format_args!(
            "expected {what}, found {}; {why}",
            self.found()
        ));
    }

    /// Notes that something is allowed here but hardly meant.
    pub(super) fn warn(&self, text: impl Display) {
        let problem = self.reader.problem(self.at, &self.key, text);
        self.reader.warnings.borrow_mut().push(problem);
    }

    /// As [`Self::warn`], for what holds whatever else is wrong with the file, and is told with that.
    pub(super) fn doubt(&self, text: impl Display) {
        let problem = self.reader.problem(self.at, &self.key, text);
        self.reader.doubts.borrow_mut().push(problem);
    }

    /// The value in a few words, for messages.
    pub(super) fn found(&self) -> String {
        const LONGEST: usize = 60;
        match self.value.get_ref() {
            DeValue::String(text) if text.chars().count() > LONGEST => {
                let start: String = text.chars().take(LONGEST).collect();
                format!("{:?}...", start)
            }
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            // As written: `0x10`, `1_000`.
            _ => self
                .reader
                .text
                .get(self.value.span())
                .unwrap_or_default()
                .to_owned(),
        }
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// The string, if it is one. Notes nothing.
    pub(super) fn as_str(&self) -> Option<&'r str> {
        self.value.get_ref().as_str()
    }

    /// The boolean, if it is one. Notes nothing.
    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.get_ref().as_bool()
    }

    /// A string that `parse` understands.
    pub(super) fn parse<T>(
        &self,
        what: impl Display,
        parse: impl FnOnce(&'r str) -> Option<T>,
    ) -> Option<T> {
        let parsed = self.as_str().and_then(parse);
        if parsed.is_none() {
            self.expected(what);
        }
        parsed
    }

    /// A duration longer than nothing.
    pub(super) fn duration(&self, what: impl Display) -> Option<Duration> {
        let duration = self.parse(what, units::duration)?;
        if duration.is_zero() {
            self.expected("a duration of at least 1ms");
        }
        Some(duration)
    }

    /// The whole number, if it is one of at most 64 bits and not negative. Notes nothing.
    pub(super) fn as_whole(&self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// A whole number within bounds.
    pub(super) fn whole<N: TryFrom<u64>>(&self, bounds: impl RangeBounds<u64>) -> Option<N> {
        let Some(number) = self.as_whole().filter(|number| bounds.contains(number)) else {
            self.expected(format_args!(
                "a whole number{}",
                within(&bounds, |n| n.to_string())
            ));
            return None;
        };
        self.fit(number)
    }

    fn fit<N: TryFrom<u64>>(&self, number: u64) -> Option<N> {
        let fitting = N::try_from(number).ok();
        if fitting.is_none() {
            self.expected("less");
        }
        fitting
    }

    /// A list of `what`; empty if it is none.
    pub(super) fn list(&self, what: &str) -> Vec<Value<'r>> {
        let Some(items) = self.value.get_ref().as_array() else {
            self.expected(what);
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, value)| Value {
                reader: self.reader,
                key: format!("{}[{index}]", self.key),
                name: "",
                at: value.span().start,
                value,
            })
            .collect()
    }

    /// The entries of a table whose keys are names of the operator's choice, in the order of the
    /// file; empty if it is no table.
    pub(super) fn entries(&self, what: &str) -> Vec<Value<'r>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.expected(what);
            return Vec::new();
        };
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| Value {
                reader: self.reader,
                key: join(&self.key, key.get_ref()),
                name: key.get_ref(),
                at: key.span().start,
                value,
            })
            .collect();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// A table with known keys.
    pub(super) fn table<T>(&self, what: &str, read: impl FnOnce(&Table<'r>) -> T) -> Option<T> {
        let Some(entries) = self.value.get_ref().as_table() else {
            self.expected(what);
            return None;
        };
        Some(self.reader.table(self.key.clone(), self.at, entries, read))
    }

    /// A path, relative to the folder of the file being read.
    pub(super) fn path(&self, what: &str) -> Option<PathBuf> {
        let path = self.parse(what, |text| (!text.is_empty()).then_some(text))?;
        Some(self.folder().join(path))
    }

    /// The folder of the file being read, in which relative paths begin; empty for the current one.
    pub(super) fn folder(&self) -> &'r Path {
        self.reader.file.parent().unwrap_or(Path::new(""))
    }

    /// The path of a file that can be opened.
    pub(super) fn existing_file(&self) -> Option<PathBuf> {
        let path = self.path("a path of a file")?;
        // Metadata first: to open a named pipe may block.
        let checked = std::fs::metadata(&path).and_then(|metadata| {
            if metadata.is_file() {
                std::fs::File::open(&path)?;
            }
            Ok(metadata.is_file())
        });
        match checked {
            Ok(true) => {}
            Ok(false) => self.expected("a file"),
            Err(error) => self.expected_because("a file that can be read", reason(&error)),
        }
        Some(path)
    }

    /// Anything, as JSON. Dates become strings.
    pub(super) fn json(&self) -> serde_json::Value {
        match self.value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Boolean(boolean) => (*boolean).into(),
            DeValue::Datetime(datetime) => datetime.to_string().into(),
            DeValue::Integer(integer) => {
                let number = i64::from_str_radix(integer.as_str(), integer.radix());
                number.map_or_else(
                    |_| self.no_json("a whole number of at most 64 bits"),
                    Into::into,
                )
            }
            DeValue::Float(float) => {
                let number = float
                    .as_str()
                    .parse()
                    .ok()
                    .and_then(serde_json::Number::from_f64);
                number.map_or_else(|| self.no_json("a finite number"), Into::into)
            }
            DeValue::Array(_) => self.list("a list").iter().map(Self::json).collect(),
            DeValue::Table(_) => self
                .entries("a table")
                .iter()
                .map(|entry| (entry.name.to_owned(), entry.json()))
                .collect(),
        }
    }

    fn no_json(&self, what: &str) -> serde_json::Value {
        self.expected(what);
        serde_json::Value::Null
    }
}

/// What the system says, without the number that it ends in.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error")
        .map_or(text.as_str(), |(text, _)| text)
        .to_owned()
}

/// Appends a key to a path of keys, quoted if TOML asks for it.
fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let name = if bare {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// Bounds as the end of "a whole number ...".
fn within(bounds: &impl RangeBounds<u64>, write: impl Fn(u64) -> String) -> String {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let least = match bounds.start_bound() {
        Included(0) | Unbounded => None,
        Included(least) | Excluded(least) => Some(write(*least)),
    };
    let most = match bounds.end_bound() {
        Unbounded => None,
        Included(most) => Some(write(*most)),
        Excluded(most) => Some(write(most.saturating_sub(1))),
    };
    match (least, most) {
        (None, None) => String::new(),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
    }
}
