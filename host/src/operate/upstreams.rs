//! The commands about the upstreams of a running proxy.

use bytes::Bytes;
use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::{Remote, query, table};
use crate::remote::escaped;

/// What can be done with the upstreams of a running proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum Upstreams {
    /// List upstreams and how their endpoints are
    #[command(after_help = "Example:\n  tidegate upstreams list --json")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Send an endpoint nothing more; what is open there goes on
    ///
    /// Lasts until it is undone, or no configuration in force has the endpoint any more.
    #[command(after_help = "Example:\n  tidegate upstreams drain chat 127.0.0.1:9001")]
    Drain {
        #[command(flatten)]
        place: Place,
        /// Undo it
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Set the weight of an endpoint
    ///
    /// Lasts until the configuration has another weight for the endpoint.
    #[command(after_help = "Example:\n  tidegate upstreams weight chat 127.0.0.1:9001 5")]
    Weight {
        #[command(flatten)]
        place: Place,
        /// A whole number, or `configured` for that of the configuration
        weight: String,
        #[command(flatten)]
        remote: Remote,
    },
}

/// An endpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The upstream's name; host and port for one made by `url`
    upstream: String,
    /// IP address and port, or host and port as the configuration has them
    endpoint: String,
}

impl Place {
    fn order(&self, order: &str) -> String {
        let [upstream, endpoint] = [&self.upstream, &self.endpoint].map(|name| escaped(name));
        format!("/v1/upstreams/{upstream}/endpoints/{endpoint}/{order}")
    }
}

impl Upstreams {
    /// Does it. Returns what is to be printed, or why it could not be done.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            Self::List { remote } => {
                let answer = remote.ask(Method::GET, "/v1/upstreams", Bytes::new())?;
                Ok(remote.print(&answer, list))
            }
            Self::Drain {
                place,
                undo,
                remote,
            } => {
                let target = place.order(if undo { "undrain" } else { "drain" });
                let answer = remote.ask(Method::POST, &target, Bytes::new())?;
                Ok(remote.print(&answer, |_| {
                    let endpoint = &place.endpoint;
                    match undo {
                        true => format!("{endpoint} is in use again"),
                        false => format!("{endpoint} gets nothing more"),
                    }
                }))
            }
            Self::Weight {
                place,
                weight,
                remote,
            } => {
                let target = place.order("weight");
                let target = target + &query([("weight", Some(&*weight))].into_iter());
                let answer = remote.ask(Method::POST, &target, Bytes::new())?;
                Ok(remote.print(&answer, |answer| {
                    let generation = &answer["generation"];
                    format!(
                        "{}: weight {weight}; generation {generation} is in force",
                        place.endpoint
                    )
                }))
            }
        }
    }
}

/// One line for each endpoint.
fn list(answer: &Value) -> String {
    const HEAD: [&str; 7] = [
        "UPSTREAM", "ENDPOINT", "STATE", "WEIGHT", "OPEN", "FAILURES", "CHECKS",
    ];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for upstream in answer["upstreams"].as_array().into_iter().flatten() {
        for endpoint in upstream["endpoints"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let weight = &endpoint["weight"];
            let configured = &endpoint["configured_weight"];
            let checks = &endpoint["checks"];
            rows.push([
                text(&upstream["name"]),
                text(&endpoint["address"]),
                state(endpoint),
                match weight == configured {
                    true => weight.to_string(),
                    false => format!("{weight} ({configured})"),
                },
                endpoint["open"].to_string(),
                endpoint["failures"].to_string(),
                match checks.is_null() {
                    true => "-".to_owned(),
                    false => format!("{} of {}", checks["passed"], sum(checks)),
                },
            ]);
        }
    }
    table(&rows)
}

fn sum(checks: &Value) -> u64 {
    let count = |name: &str| checks[name].as_u64().unwrap_or(0);
    count("passed") + count("failed")
}

/// The reason that explains most of why an endpoint gets nothing, if it does not.
fn state(endpoint: &Value) -> String {
    let is = |name: &str| endpoint[name] == true;
    let state = if is("down") {
        "down"
    } else if is("drained") {
        "drained"
    } else if endpoint["healthy"] == false {
        "unhealthy"
    } else if !is("up") {
        "failed"
    } else {
        "up"
    };
    match is("backup") {
        true => format!("{state}, backup"),
        false => state.to_owned(),
    }
}
