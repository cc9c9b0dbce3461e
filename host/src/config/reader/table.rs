//! Tables with known keys, and the kinds of value that many keys have.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeBounds;
use std::time::Duration;

use toml::de::DeTable;

use super::{Reader, Value, join, within};
use crate::config::{nearest, units};

/// A table with known keys.
pub(in crate::config) struct Table<'r> {
    reader: &'r Reader<'r>,
    key: String,
    at: usize,
    entries: &'r DeTable<'r>,
    known: RefCell<Vec<&'static str>>,
    /// Asked for only to say that they are not supported.
    refused: RefCell<Vec<&'static str>>,
}

impl<'r> Table<'r> {
    pub(super) fn new(
        reader: &'r Reader<'r>,
        key: String,
        at: usize,
        entries: &'r DeTable<'r>,
    ) -> Self {
        let (known, refused) = (RefCell::default(), RefCell::default());
        Self {
            reader,
            key,
            at,
            entries,
            known,
            refused,
        }
    }

    /// Notes that something is wrong with the table as a whole.
    pub(in crate::config) fn problem(&self, text: impl Display) {
        let problem = self.reader.problem(self.at, &self.key, text);
        self.reader.problems.borrow_mut().push(problem);
    }

    /// The value of a key, if the file has it.
    pub(in crate::config) fn get(&self, name: &'static str) -> Option<Value<'r>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&name) {
            known.push(name);
        }
        let value = self.find(name);
        #[cfg(test)]
        super::coverage::record(&join(&self.key, name), value.is_some());
        value
    }

    /// The value of a key that must be there.
    pub(in crate::config) fn require(&self, name: &'static str, what: &str) -> Option<Value<'r>> {
        let value = self.get(name);
        if value.is_none() {
            let key = join(&self.key, name);
            let problem =
                self.reader
                    .problem(self.at, &key, format_args!("missing; expected {what}"));
            self.reader.problems.borrow_mut().push(problem);
        }
        value
    }

    /// Says of a key from the design that this release does not have it, and what it has instead.
    /// True if the file has the key.
    pub(in crate::config) fn refuse(&self, name: &'static str, instead: &str) -> bool {
        self.refused.borrow_mut().push(name);
        let value = self.find(name);
        if let Some(value) = &value {
            value.problem(format_args!("not supported in this release{instead}"));
        }
        value.is_some()
    }

    /// A table within, or an empty one that yields its defaults.
    pub(in crate::config) fn section<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Table<'r>) -> T,
    ) -> T {
        self.get(name)
            .and_then(|value| value.table("a table", &read))
            .unwrap_or_else(|| {
                self.reader
                    .table(join(&self.key, name), self.at, &self.reader.empty, read)
            })
    }

    /// A duration longer than nothing.
    pub(in crate::config) fn duration(&self, name: &'static str, default: Duration) -> Duration {
        self.optional_duration(name).unwrap_or(default)
    }

    /// A duration longer than nothing, if the file has the key.
    pub(in crate::config) fn optional_duration(&self, name: &'static str) -> Option<Duration> {
        self.get(name)?.duration(units::DURATION)
    }

    /// A duration that may be `"0s"`.
    pub(in crate::config) fn duration_or_zero(
        &self,
        name: &'static str,
        default: Duration,
    ) -> Duration {
        let value = self.get(name);
        value
            .and_then(|value| value.parse(units::DURATION, units::duration))
            .unwrap_or(default)
    }

    /// A size in bytes, within bounds.
    pub(in crate::config) fn size<N: TryFrom<u64>>(
        &self,
        name: &'static str,
        bounds: impl RangeBounds<u64>,
        default: N,
    ) -> N {
        let read = |value: Value<'r>| {
            let size = value.parse(units::SIZE, units::size)?;
            if !bounds.contains(&size) {
                value.expected(format_args!("a size{}", within(&bounds, units::write_size)));
                return None;
            }
            value.fit(size)
        };
        self.get(name).and_then(read).unwrap_or(default)
    }

    /// A whole number within bounds.
    pub(in crate::config) fn whole<N: TryFrom<u64>>(
        &self,
        name: &'static str,
        bounds: impl RangeBounds<u64>,
        default: N,
    ) -> N {
        self.get(name)
            .and_then(|value| value.whole(bounds))
            .unwrap_or(default)
    }

    /// `true` or `false`.
    pub(in crate::config) fn boolean(&self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.get(name) else {
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            value.expected("true or false");
            default
        })
    }

    /// One of a few words.
    pub(in crate::config) fn choice<T: Copy, const N: usize>(
        &self,
        name: &'static str,
        words: [(&str, T); N],
        default: T,
    ) -> T {
        let expected = || {
            let quoted = words.map(|(word, _)| format!("{word:?}"));
            match quoted.split_last() {
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            }
        };
        let find = |text: &str| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, is)| *is)
        };
        self.get(name)
            .and_then(|value| value.parse(expected(), find))
            .unwrap_or(default)
    }

    fn find(&self, name: &'static str) -> Option<Value<'r>> {
        let (key, value) = self.entries.get_key_value(name)?;
        Some(Value {
            reader: self.reader,
            key: join(&self.key, name),
            name: key.get_ref(),
            at: key.span().start,
            value,
        })
    }

    /// Reports what nobody asked for.
    pub(super) fn report_unknown(&self) {
        const SHORT: usize = 8;
        let known = self.known.borrow();
        let refused = self.refused.borrow();
        for (key, _) in self.entries {
            let name: &str = key.get_ref();
            if known.contains(&name) || refused.contains(&name) {
                continue;
            }
            let list = format!("known here: {}", known.join(", "));
            let text = match nearest::name(name, known.iter().copied()) {
                Some(near) if known.len() > SHORT => format!("did you mean `{near}`?"),
                Some(near) => format!("did you mean `{near}`? {list}"),
                None => list,
            };
            let (at, path) = (key.span().start, join(&self.key, name));
            let problem = self
                .reader
                .problem(at, &path, format_args!("unknown key; {text}"));
            self.reader.problems.borrow_mut().push(problem);
        }
    }
}
