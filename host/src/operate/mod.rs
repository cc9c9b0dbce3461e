//! The commands that ask a running proxy for something: `plugin ...`, `reload`, and those of the files beside
//! this one.
//!
//! How it is asked is `remote.rs`; what it does then, `server/`.

mod sessions;
mod upstreams;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::remote;
use crate::server::MAX_MODULE_BYTES;

pub(crate) use sessions::Sessions;
pub(crate) use upstreams::Upstreams;

/// Where the running proxy is, and how its answer is printed.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The `admin.listen` of the running proxy, or the path that is its `admin.unix`
    #[arg(
        long,
        default_value = "127.0.0.1:9900",
        env = "TIDEGATE_ADMIN",
        value_name = "ADDRESS"
    )]
    admin: remote::Address,
    /// A file with the token that it wants to be shown; without it, TIDEGATE_TOKEN is the token
    #[arg(long, env = "TIDEGATE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    ///
    /// With --percent or --when it gets a share of the sessions and requests first. If it keeps to the
    /// limits (of the plugin's `canary`, unless they are given here) for the time of the window, it gets all;
    /// if not, it gets none, and open sessions go back as well. With --shadow it serves nobody, until
    /// `plugin promote` or `plugin rollback`.
    #[command(after_help = "Examples:
  tidegate plugin swap redact target/redact.wasm
  tidegate plugin swap redact target/redact.wasm --percent 10 --window 5m
  tidegate plugin swap redact target/redact.wasm --percent 10 --by cookie:sid
  tidegate plugin swap redact target/redact.wasm --when header:x-canary=1
  tidegate plugin swap redact target/redact.wasm --shadow --sample 20")]
    Swap {
        /// The plugin's name in the configuration
        name: String,
        /// A component or core module
        file: PathBuf,
        #[command(flatten)]
        terms: Box<Terms>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Put the candidate that is on trial in force, for all sessions and requests
    #[command(after_help = "Example:\n  tidegate plugin promote redact")]
    Promote {
        /// The plugin's name in the configuration
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take back the candidate that is on trial; its sessions go back to the version in force
    #[command(after_help = "Example:\n  tidegate plugin rollback redact")]
    Rollback {
        /// The plugin's name in the configuration
        name: String,
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

/// How a version comes. What is wrong with it is told by the running proxy.
#[derive(Debug, Args)]
pub(crate) struct Terms {
    /// How running sessions get to the new version: next-message, next-session or drain-by:30s;
    /// default: what the plugin's `swap` says
    #[arg(long)]
    policy: Option<String>,
    /// How much of the sessions and requests it gets first, from 1 to 100
    #[arg(long, help_heading = "Canary")]
    percent: Option<String>,
    /// What they are told apart by: session, header:NAME or cookie:NAME
    #[arg(long, help_heading = "Canary")]
    by: Option<String>,
    /// What gets it whatever the share is: header:NAME=VALUE or cookie:NAME=VALUE
    #[arg(long, help_heading = "Canary")]
    when: Option<String>,
    /// How long it is observed
    #[arg(long, help_heading = "Canary", value_name = "DURATION")]
    window: Option<String>,
    /// Calls about messages and heads without which it is not promoted
    #[arg(long, help_heading = "Canary", value_name = "N")]
    min_calls: Option<String>,
    /// Calls that may trap or break a limit or the contract
    #[arg(long, help_heading = "Canary", value_name = "N")]
    max_traps: Option<String>,
    /// Calls that may be stopped for their CPU time
    #[arg(long, help_heading = "Canary", value_name = "N")]
    max_timeouts: Option<String>,
    /// What all but one in a hundred calls may take, such as 500us
    #[arg(long, help_heading = "Canary", value_name = "TIME")]
    call_time: Option<String>,
    /// How many times as long as those of the version in force they may take; 0: any
    #[arg(long, help_heading = "Canary", value_name = "N")]
    slowdown: Option<String>,
    /// How many of its sessions may end with which codes, such as 1011=0,1008=20
    #[arg(long, help_heading = "Canary", value_name = "CODE=N,...")]
    max_closes: Option<String>,
    /// Only show it copies of what the version in force sees, and compare what it says
    #[arg(long, help_heading = "Shadow")]
    shadow: bool,
    /// How much of the sessions and requests it is shown, from 1 to 100
    #[arg(long, help_heading = "Shadow", value_name = "PERCENT")]
    sample: Option<String>,
    /// How much of a worker's time it may take, from 1 to 50
    #[arg(long, help_heading = "Shadow", value_name = "PERCENT")]
    budget: Option<String>,
}

impl Terms {
    /// Returns what is asked for as a query: nothing, or `?` and more.
    fn query(&self) -> String {
        let shadow = self.shadow.then(|| "true".to_owned());
        let given = [
            ("shadow", &shadow),
            ("sample", &self.sample),
            ("budget", &self.budget),
            ("policy", &self.policy),
            ("percent", &self.percent),
            ("by", &self.by),
            ("when", &self.when),
            ("window", &self.window),
            ("min_calls", &self.min_calls),
            ("max_traps", &self.max_traps),
            ("max_timeouts", &self.max_timeouts),
            ("call_time", &self.call_time),
            ("slowdown", &self.slowdown),
            ("max_closes", &self.max_closes),
        ];
        let given = given.into_iter();
        query(given.map(|(name, value)| (name, value.as_deref())))
    }
}

impl Plugin {
    /// Does it. Returns what is to be printed, or why it could not be done.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            Self::Swap {
                name,
                file,
                terms,
                remote,
            } => swap(&name, &file, &terms, &remote),
            Self::Promote { name, remote } => {
                let answer = decide(&name, "promote", &remote)?;
                Ok(remote.print(&answer, |answer| {
                    format!("{name}: version {} is in force", answer["version"])
                }))
            }
            Self::Rollback { name, remote } => {
                let answer = decide(&name, "rollback", &remote)?;
                Ok(remote.print(&answer, |answer| {
                    format!("{name}: version {} was taken back", answer["version"])
                }))
            }
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

/// Tells which release runs, and what it has in force.
pub(crate) fn version(remote: &Remote) -> Result<String, String> {
    let answer = remote.ask(Method::GET, "/v1/version", Bytes::new())?;
    Ok(remote.print(&answer, |answer| {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        format!(
            "tidegate {}, contract {}, generation {}, {} workers, process {}",
            text("version"),
            text("contract"),
            answer["generation"],
            answer["workers"],
            answer["pid"]
        )
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

fn swap(name: &str, file: &Path, terms: &Terms, remote: &Remote) -> Result<String, String> {
    let length = std::fs::metadata(file).map_or(0, |file| file.len());
    if length > MAX_MODULE_BYTES as u64 {
        let most = MAX_MODULE_BYTES >> 20;
        return Err(format!(
            "{}: a module may be {most} MiB long",
            file.display()
        ));
    }
    let module = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let target = format!(
        "/v1/plugins/{}/swap{}",
        remote::escaped(name),
        terms.query()
    );
    let answer = remote.ask(Method::POST, &target, module.into())?;
    Ok(
        remote.print(&answer, |answer| match answer["role"].as_str() {
            None => format!("{name}: version {} is in force", answer["version"]),
            Some(role) => format!(
                "{name}: version {} is a {role}; see `tidegate plugin status`",
                answer["version"]
            ),
        }),
    )
}

fn decide(name: &str, decision: &str, remote: &Remote) -> Result<Value, String> {
    let target = format!("/v1/plugins/{}/{decision}", remote::escaped(name));
    remote.ask(Method::POST, &target, Bytes::new())
}

impl Remote {
    fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<Value, String> {
        let token = self.token()?;
        let question = remote::Question {
            method,
            target,
            body,
            token: token.as_deref().map(str::trim),
        };
        remote::ask(&self.admin, question).map_err(|error| {
            let mut message = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            message
        })
    }

    fn token(&self) -> Result<Option<String>, String> {
        match &self.token_file {
            None => Ok(std::env::var("TIDEGATE_TOKEN").ok()),
            Some(file) => {
                let token = std::fs::read_to_string(file);
                let token = token.map_err(|error| format!("{}: {error}", file.display()))?;
                Ok(Some(token))
            }
        }
    }

    fn print(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> String {
        if self.json {
            answer.to_string()
        } else {
            text(answer)
        }
    }
}

/// One line for each version, the newest first, and one for each trial: those under way, and the last
/// that was.
fn status(answer: &Value) -> String {
    const HEAD: [&str; 11] = [
        "PLUGIN", "VERSION", "ROLE", "SESSIONS", "MOVED", "REFUSED", "CALLS", "TRAPS", "TIMEOUTS",
        "P50", "P99",
    ];
    let mut rows = vec![HEAD.map(str::to_owned)];
    let mut notes = Vec::new();
    for plugin in answer["plugins"].as_array().into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default();
        for version in plugin["versions"].as_array().into_iter().flatten() {
            let number = |name: &str| version[name].to_string();
            let time = |name: &str| match version[name].as_f64() {
                Some(micros) => format!("{micros} us"),
                None => "-".to_owned(),
            };
            rows.push([
                name.to_owned(),
                number("version"),
                version["role"].as_str().unwrap_or_default().to_owned(),
                number("sessions"),
                number("moved"),
                number("refused"),
                number("calls"),
                number("traps"),
                number("timeouts"),
                time("call_time_p50_us"),
                time("call_time_p99_us"),
            ]);
        }
        notes.extend(trial(name, &plugin["trial"]));
        notes.extend(last_trial(name, &plugin["last_trial"]));
    }
    let mut text = table(&rows);
    notes.extend(ejected(answer));
    for note in notes {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

fn trial(plugin: &str, trial: &Value) -> Option<String> {
    let role = trial["role"].as_str()?;
    let text = |name: &str| trial[name].as_str();
    if role == "shadow" {
        return Some(format!(
            "{plugin}: version {} is a shadow: {} compared, {} skipped, {}",
            trial["version"],
            trial["compared"],
            trial["skipped"],
            differences(&trial["differences"]),
        ));
    }
    let seconds = |name: &str| trial[name].as_u64().unwrap_or(0) as f64 / 1000.0;
    let mut share = Vec::new();
    if let Some(percent) = trial["percent"].as_u64().filter(|percent| *percent > 0) {
        share.push(format!(
            "{percent} % by {}",
            text("by").unwrap_or("session")
        ));
    }
    share.extend(text("when").map(|when| format!("what has {when}")));
    Some(format!(
        "{plugin}: version {} is a {role} for {}, for {:.1} s of {:.1} s",
        trial["version"],
        share.join(" and "),
        seconds("age_ms"),
        seconds("window_ms"),
    ))
}

/// How many there were of each kind.
fn differences(kinds: &Value) -> String {
    let kinds = kinds.as_object().into_iter().flatten();
    let found = kinds.filter(|(_, count)| **count != 0);
    let found: Vec<_> = found
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    match found.join(", ") {
        none if none.is_empty() => "no difference".to_owned(),
        some => format!("differences: {some}"),
    }
}

fn last_trial(plugin: &str, ended: &Value) -> Option<String> {
    let (role, outcome) = (ended["role"].as_str()?, ended["outcome"].as_str()?);
    let reason = ended["reason"].as_str().unwrap_or_default();
    Some(format!(
        "{plugin}: version {}, a {role}, was {}: {reason}",
        ended["version"],
        outcome.replace('-', " "),
    ))
}

/// One line for each version that is left out because it kept failing.
fn ejected(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for plugin in answer["plugins"].as_array().into_iter().flatten() {
        for version in plugin["versions"].as_array().into_iter().flatten() {
            if let Some(retry_in) = version["retry_in_ms"].as_u64() {
                let name = plugin["name"].as_str().unwrap_or_default();
                let number = &version["version"];
                lines.push(format!(
                    "{name}: version {number} is ejected, since it kept failing; tried again in {retry_in} ms"
                ));
            }
        }
    }
    lines
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
