//! What an operator sees of a running proxy: the log, the access log and the metrics.
//!
//! | file | what |
//! |---|---|
//! | `record.rs` | what is recorded of an exchange or session |
//! | `line.rs` | how that looks as facts or JSON |
//! | `clock.rs` | the time of a line |
//! | `chain.rs` | an error and its causes |
//! | `access_log.rs` | where lines go, at the end of each |
//! | `metrics.rs` | counters, one set for each worker |
//! | `exposition.rs` | their sums, for Prometheus |
//!
//! The log proper is `tracing`; this file decides where its events go.

mod access_log;
mod chain;
mod clock;
mod exposition;
mod line;
mod metrics;
mod plugins;
mod record;

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) use access_log::{AccessLogFile, AccessLogFiles, AccessLogs, Target};
pub(crate) use chain::Chain;
pub(crate) use clock::{Clock, since_epoch};
pub(crate) use exposition::CONTENT_TYPE;
pub(crate) use line::{HeadTexts, push_escaped, push_facts, push_json, push_json_escaped};
#[cfg(test)]
pub(crate) use metrics::Buckets;
pub(crate) use metrics::{
    Contrast, Direction, EndpointMetrics, EndpointStatus, FailureKind, Fate, Label, Metrics, Phase,
    PluginMetrics, ReloadResult, ShadowFigures, ShadowMetrics, VersionFigures, VersionMetrics,
    WorkerMetrics,
};
pub(crate) use plugins::PluginStatus;
pub(crate) use record::{ClosedBy, Kind, Record};

/// How a line of a log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Sends the log to standard error.
///
/// `level` is a level (`info`), which then holds for tidegate while libraries only warn, or a list such
/// as `warn,tidegate=debug,hyper=trace`. Only the first call in a process has an effect.
pub(crate) fn init(level: &str, format: Format) -> Result<(), ParseError> {
    let filter = filter(level)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let outcome = match format {
        Format::Text => log.finish().try_init(),
        Format::Json => log.json().flatten_event(true).finish().try_init(),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "the log had been set up before");
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    match level.parse::<LevelFilter>() {
        Ok(level) if level < LevelFilter::WARN => EnvFilter::try_new(level.to_string()),
        Ok(level) => EnvFilter::try_new(format!("warn,tidegate={level}")),
        Err(_) => EnvFilter::try_new(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_leaves_libraries_at_warn() {
        assert_eq!(filter("error").unwrap().to_string(), "error");
        assert_eq!(filter("debug").unwrap().to_string(), "tidegate=debug,warn");
        assert_eq!(
            filter("hyper=trace,info").unwrap().to_string(),
            "hyper=trace,info"
        );
        assert!(filter("tidegate=loud").is_err());
    }
}
