//! The commands about the sessions of a running proxy.

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{Remote, query, table};
use crate::remote::escaped;

/// What can be done with the sessions of a running proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List the sessions that are open
    #[command(after_help = "Examples:
  tidegate sessions list --route /chat --idle-for 10m
  tidegate sessions list --client 10.0.0.0/8 --json")]
    List {
        #[command(flatten)]
        which: Which,
        /// How many at most; up to 1000
        #[arg(long, default_value = "100", value_name = "N")]
        limit: String,
        /// Those after this one: the id that the list before ended with
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one session
    #[command(after_help = "Example:\n  tidegate sessions show 0-17")]
    Show {
        /// As it is listed
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Close one session, or all that are meant
    ///
    /// Client and service get a Close frame where a frame ends; other tunnels are cut.
    #[command(after_help = "Examples:
  tidegate sessions close 0-17 --code 4000 --reason 'please log in again'
  tidegate sessions close --plugin redact --older-than 1h")]
    Close {
        /// As it is listed
        #[arg(conflicts_with_all = ["Which", "all"])]
        id: Option<String>,
        #[command(flatten)]
        which: Which,
        /// All of them
        #[arg(long)]
        all: bool,
        /// What the Close frame says
        #[arg(long, default_value = "1001")]
        code: String,
        /// Its text, of at most 123 bytes
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Which sessions are meant: those of which all that is given is true.
#[derive(Debug, Args)]
#[group(id = "Which", multiple = true)]
pub(crate) struct Which {
    /// First name of the site
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// The route's `match`
    #[arg(long, value_name = "PATTERN")]
    route: Option<String>,
    /// A plugin that their messages pass
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Address or network of the client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// IP address and port
    #[arg(long, value_name = "ADDRESS")]
    endpoint: Option<String>,
    /// Opened at least so long ago
    #[arg(long, value_name = "DURATION")]
    older_than: Option<String>,
    /// Nothing has passed for at least so long
    #[arg(long, value_name = "DURATION")]
    idle_for: Option<String>,
}

impl Which {
    fn given(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("site", self.site.as_deref()),
            ("route", self.route.as_deref()),
            ("plugin", self.plugin.as_deref()),
            ("client", self.client.as_deref()),
            ("endpoint", self.endpoint.as_deref()),
            ("older_than", self.older_than.as_deref()),
            ("idle_for", self.idle_for.as_deref()),
        ]
    }
}

impl Sessions {
    /// Does it. Returns what is to be printed, or why it could not be done.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            Self::List {
                which,
                limit,
                after,
                remote,
            } => {
                let page = [("limit", Some(&*limit)), ("after", after.as_deref())];
                let target = format!(
                    "/v1/sessions{}",
                    query(which.given().into_iter().chain(page))
                );
                let answer = remote.ask(Method::GET, &target, Bytes::new())?;
                Ok(remote.print(&answer, list))
            }
            Self::Show { id, remote } => {
                let target = format!("/v1/sessions/{}", escaped(&id));
                let answer = remote.ask(Method::GET, &target, Bytes::new())?;
                Ok(remote.print(&answer, show))
            }
            Self::Close {
                id,
                which,
                all,
                code,
                reason,
                remote,
            } => {
                let path = match &id {
                    Some(id) => format!("/v1/sessions/{}/close", escaped(id)),
                    None => "/v1/sessions/close".to_owned(),
                };
                let rest = [
                    ("all", all.then_some("true")),
                    ("code", Some(&*code)),
                    ("reason", reason.as_deref()),
                ];
                let target = path + &query(which.given().into_iter().chain(rest));
                let answer = remote.ask(Method::POST, &target, Bytes::new())?;
                Ok(
                    remote.print(&answer, |answer| match answer["closed"].as_u64() {
                        Some(1) => "1 session was closed".to_owned(),
                        count => format!("{} sessions were closed", count.unwrap_or(0)),
                    }),
                )
            }
        }
    }
}

/// One line for each session.
fn list(answer: &Value) -> String {
    const HEAD: [&str; 9] = [
        "ID", "CLIENT", "SITE", "ROUTE", "ENDPOINT", "AGE", "IDLE", "MESSAGES", "BYTES",
    ];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for session in answer["sessions"].as_array().into_iter().flatten() {
        let text = |name: &str| session[name].as_str().unwrap_or_default().to_owned();
        rows.push([
            text("id"),
            text("client"),
            text("site"),
            text("route"),
            text("endpoint"),
            time(&session["age_ms"]),
            time(&session["idle_ms"]),
            sides(&session["messages"]),
            sides(&session["bytes"]),
        ]);
    }
    let mut text = table(&rows);
    if let Some(next) = answer["next"].as_str() {
        text.push_str(&format!("\nthere are more: --after {next}"));
    }
    text
}

/// One line for each thing that is known.
fn show(session: &Value) -> String {
    let text = |name: &str| session[name].as_str().unwrap_or("-").to_owned();
    let plugins = session["plugins"].as_array().into_iter().flatten();
    let plugin = |plugin: &Value| {
        let name = plugin["name"].as_str().unwrap_or_default();
        format!("{name} (version {})", plugin["version"])
    };
    let plugins: Vec<_> = plugins.map(plugin).collect();
    let plugins = match plugins.is_empty() {
        true => "-".to_owned(),
        false => plugins.join(", "),
    };
    let rows = [
        ("id", text("id")),
        ("kind", text("kind")),
        ("client", text("client")),
        ("site", text("site")),
        ("route", text("route")),
        ("endpoint", text("endpoint")),
        ("plugins", plugins),
        ("request id", text("request_id")),
        ("age", time(&session["age_ms"])),
        ("idle", time(&session["idle_ms"])),
        ("messages", sides(&session["messages"])),
        ("bytes", sides(&session["bytes"])),
    ];
    table(&rows.map(|(name, value)| [name.to_owned(), value]))
}

/// From the client and from the service.
fn sides(value: &Value) -> String {
    format!("{} / {}", value["from_client"], value["from_service"])
}

/// A duration in its two largest units.
fn time(millis: &Value) -> String {
    let millis = millis.as_u64().unwrap_or(0);
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}.{}s", millis % 1000 / 100),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let rows = [
            (0, "0.0s"),
            (59_900, "59.9s"),
            (61_000, "1m01s"),
            (3_600_000, "1h00m"),
            (90_061_000, "1d01h"),
        ];
        for (millis, text) in rows {
            assert_eq!(time(&millis.into()), text);
        }
    }
}
