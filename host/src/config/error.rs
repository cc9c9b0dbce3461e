//! What an operator reads when a file cannot be used.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file could not be read at all.
    #[error("{}: cannot be read: {error}", file.display())]
    Read { file: PathBuf, error: io::Error },
    /// All that is wrong with the file, in its order, and then what is dubious. One line each.
    #[error("{}", Lines(problems, warnings))]
    Invalid {
        problems: Vec<Problem>,
        warnings: Vec<Problem>,
    },
}

/// One thing that is wrong, or dubious, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) file: PathBuf,
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// Path of the key, such as `upstreams.chat.endpoints[0].weight`; empty for the file as a whole.
    pub(crate) key: String,
    /// What was expected and what was found.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            key,
            text,
        } = self;
        write!(f, "{}:{line}:{column}: ", file.display())?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(text)
    }
}

impl Error {
    /// A file with these faults and nothing dubious.
    pub(crate) fn invalid(problems: Vec<Problem>) -> Self {
        Self::Invalid {
            problems,
            warnings: Vec::new(),
        }
    }
}

struct Lines<'a>(&'a [Problem], &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        for warning in self.1 {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
