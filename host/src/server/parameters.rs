//! What is asked for in the query of a request to the admin listener.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::duration;

/// The parameters of a query that nobody has taken yet.
pub(super) struct Parameters {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Parameters {
    pub(super) fn new(given: BTreeMap<String, String>) -> Self {
        Self {
            given,
            known: Vec::new(),
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.given.remove(name)
    }

    /// Reads a parameter. The error says what was `expected`.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{name}: expected {expected}, found `{text}`")),
        }
    }

    pub(super) fn duration(&mut self, name: &'static str) -> Result<Option<Duration>, String> {
        self.read(name, "a duration such as `30s` or `10m`", duration)
    }

    /// Refuses what is left.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.given.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let known = self.known.join("`, `");
                Err(format!(
                    "unknown parameter `{unknown}`; known here: `{known}`"
                ))
            }
        }
    }
}
