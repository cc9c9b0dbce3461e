//! What plugins log, and how much of it is let through.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use tracing::{Level, debug, error, info, trace, warn};
use wasmtime::Result;

use super::State;
use crate::plugin::bindings::tidegate::plugin::logging;

/// Longest message of a log line.
const MAX_LOG_BYTES: usize = 8 * 1024;

/// Longest name of the part of a plugin that speaks in a log line.
const MAX_LOG_CONTEXT_BYTES: usize = 256;

/// Log lines of a plugin per second and worker.
const MAX_LOG_LINES: u32 = 100;

/// Counts the log lines of a plugin, or about it, on a worker.
pub(in crate::plugin) struct LogGate {
    lines_per_second: u32,
    /// Second since the first line of the process.
    second: AtomicU64,
    lines: AtomicU32,
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> Result<()> {
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        self.log.write(&self.plugin, level, &context, &message);
        Ok(())
    }
}

impl LogGate {
    pub(in crate::plugin) fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            second: AtomicU64::new(u64::MAX),
            lines: AtomicU32::new(0),
        }
    }

    /// The share of what a plugin writes.
    pub(in crate::plugin) fn of_plugin() -> Arc<Self> {
        Arc::new(Self::new(MAX_LOG_LINES))
    }

    /// Writes a line, if the host's level and the plugin's share of this second let it through.
    pub(in crate::plugin) fn write(
        &self,
        plugin: &str,
        level: Level,
        context: &str,
        message: &str,
    ) {
        // Macros want a level each, and ask whether it is enabled before they look at the fields.
        macro_rules! write {
            ($write:ident) => {
                $write!(plugin, context = %line(context, MAX_LOG_CONTEXT_BYTES), "{}", line(message, MAX_LOG_BYTES))
            };
        }
        if level > tracing::level_filters::LevelFilter::current() {
            return;
        }
        match self.admit() {
            Some(0) => {}
            Some(dropped) => warn!(plugin, dropped, "plugin writes too many log lines"),
            None => return,
        }
        match level {
            Level::TRACE => write!(trace),
            Level::DEBUG => write!(debug),
            Level::INFO => write!(info),
            Level::WARN => write!(warn),
            Level::ERROR => write!(error),
        }
    }

    /// Counts a line. Returns how many were dropped since the last that was not, or nothing if this
    /// one is to be dropped as well. A gate is used by one thread at a time.
    pub(in crate::plugin) fn admit(&self) -> Option<u32> {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);

        let second = START.elapsed().as_secs();
        let mut lines = self.lines.load(Ordering::Relaxed);
        let mut dropped = 0;
        if self.second.swap(second, Ordering::Relaxed) != second {
            dropped = lines.saturating_sub(self.lines_per_second);
            lines = 0;
        }
        self.lines.store(lines.saturating_add(1), Ordering::Relaxed);
        (lines < self.lines_per_second).then_some(dropped)
    }
}

/// Cuts text to `max` bytes and escapes what would break or repaint a log line.
fn line(text: &str, max: usize) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(max)];
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}
