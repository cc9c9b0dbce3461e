//! The commands that ask a running proxy for something: `plugin ...`, `reload`, and those of the files beside
//! this one.
//!
//! How it is asked is `remote.rs`; what it does then, `server/`.

mod sessions;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::remote;

pub(crate) use sessions::Sessions;

/// Where the running proxy is, and how its answer is printed.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The `admin.listen` of the running proxy
    #[arg(
        long,
        default_value = "127.0.0.1:9900",
        env = "TIDEGATE_ADMIN",
        value_name = "ADDRESS"
    )]
    admin: SocketAddr,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What can be done with the plugins of a running proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Replace a plugin's code under its sessions
    ///
    /// The module is compiled, checked and started by the running proxy first; if anything is wrong
    /// with it, the version in force stays. A swap lasts until the configuration, or the file that it
    /// names, changes.
    #[command(after_help = "Example:\n  tidegate plugin swap redact target/redact.wasm")]
    Swap {
        /// The plugin's name in the configuration
        name: String,
        /// A component or core module
        file: PathBuf,
        /// How running sessions get to the new version: next-message, next-session or drain-by:30s;
        /// default: what the plugin's `swap` says
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show the plugins, their versions and the sessions on each
    #[command(after_help = "Example:\n  tidegate plugin status --json")]
    Status {
        #[command(flatten)]
        remote: Remote,
    },
}

impl Plugin {
    /// Does it. Returns what is to be printed, or why it could not be done.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            Self::Swap {
                name,
                file,
                policy,
                remote,
            } => swap(&name, &file, policy.as_deref(), &remote),
            Self::Status { remote } => {
                let answer = remote.ask(Method::GET, "/v1/plugins", Bytes::new())?;
                Ok(remote.print(&answer, status))
            }
        }
    }
}

/// Puts in force what the configuration says now, or tells what that would change.
pub(crate) fn reload(remote: &Remote, dry_run: bool) -> Result<String, String> {
    let target = match dry_run {
        true => "/v1/reload?dry_run=true",
        false => "/v1/reload",
    };
    let answer = remote.ask(Method::POST, target, Bytes::new())?;
    Ok(remote.print(&answer, |answer| {
        let mut lines = changes(answer);
        let generation = &answer["generation"];
        lines.push(match (lines.is_empty(), dry_run) {
            (true, true) => format!("nothing would change; generation {generation} is in force"),
            (true, false) => format!("nothing has changed; generation {generation} is in force"),
            (false, true) => format!("nothing was done; generation {generation} is in force"),
            (false, false) => format!("generation {generation} is in force"),
        });
        lines.join("\n")
    }))
}

/// One line for each thing that a reload changes.
fn changes(answer: &Value) -> Vec<String> {
    let changes = answer["changes"].as_array().into_iter().flatten();
    let line = |change: &Value| {
        let sign = match change["change"].as_str() {
            Some("added") => '+',
            Some("removed") => '-',
            _ => '~',
        };
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        format!("{sign} {} {}", text("kind"), text("name"))
    };
    changes.map(line).collect()
}

fn swap(name: &str, file: &Path, policy: Option<&str>, remote: &Remote) -> Result<String, String> {
    let module = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let policy = policy.map_or(String::new(), |policy| format!("?policy={policy}"));
    let target = format!("/v1/plugins/{name}/swap{policy}");
    let answer = remote.ask(Method::POST, &target, module.into())?;
    Ok(remote.print(&answer, |answer| {
        format!("{name}: version {} is in force", answer["version"])
    }))
}

impl Remote {
    fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<Value, String> {
        remote::ask(self.admin, method, target, body).map_err(|error| {
            let mut message = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            message
        })
    }

    fn print(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> String {
        if self.json {
            answer.to_string()
        } else {
            text(answer)
        }
    }
}

/// One line for each version, the one in force first.
fn status(answer: &Value) -> String {
    const HEAD: [&str; 9] = [
        "PLUGIN", "VERSION", "SESSIONS", "MOVED", "REFUSED", "CALLS", "FAILURES", "P50", "P99",
    ];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for plugin in answer["plugins"].as_array().into_iter().flatten() {
        for version in plugin["versions"].as_array().into_iter().flatten() {
            let number = |name: &str| version[name].to_string();
            let time = |name: &str| match version[name].as_f64() {
                Some(micros) => format!("{micros} us"),
                None => "-".to_owned(),
            };
            let in_force = version["version"] == plugin["version"];
            rows.push([
                plugin["name"].as_str().unwrap_or_default().to_owned(),
                number("version") + if in_force { " *" } else { "" },
                number("sessions"),
                number("moved"),
                number("refused"),
                number("calls"),
                number("failures"),
                time("call_time_p50_us"),
                time("call_time_p99_us"),
            ]);
        }
    }
    table(&rows)
}

/// Returns what is given as a query: nothing, or `?` and more.
fn query<'a>(given: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let given = given.filter_map(|(name, value)| Some((name, value?)));
    let given: Vec<_> = given
        .map(|(name, value)| format!("{name}={}", remote::escaped(value)))
        .collect();
    match given.is_empty() {
        true => String::new(),
        false => format!("?{}", given.join("&")),
    }
}

/// Columns side by side.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        cells.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
