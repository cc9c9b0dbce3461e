//! The proxy as an operator runs it: the real binary, a file, signals, logs.

use std::net::SocketAddr;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use super::connection::Connection;
use super::files::Folder;
use super::head::Response;
use super::metrics::Metrics;
use super::process::Process;
use super::service::Service;

/// A running proxy. Stopped at the end of the test, if not before.
pub(crate) struct Tidegate {
    /// Holds the configuration as `tidegate.toml`; relative paths in it begin here.
    pub(crate) folder: Folder,
    pub(crate) process: Process,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Tidegate {
    /// Starts with a whole configuration.
    pub(crate) async fn start(configuration: &str) -> Self {
        Self::start_in(Folder::new(), configuration).await
    }

    /// Starts with a whole configuration beside files that it names.
    pub(crate) async fn start_in(folder: Folder, configuration: &str) -> Self {
        let file = folder.write("tidegate.toml", configuration);
        let mut run = command();
        run.arg("run")
            .arg("-c")
            .arg(file)
            .args(["--log-format", "json"]);
        Self::spawn(folder, &mut run).await
    }

    /// Starts with one plain listener, one worker and a site for all names, whose `[[sites.routes]]`
    /// and further tables are given.
    pub(crate) async fn serving(rest: &str) -> Self {
        Self::serving_in(Folder::new(), rest).await
    }

    /// As [`Tidegate::serving`], beside files that the configuration names.
    pub(crate) async fn serving_in(folder: Folder, rest: &str) -> Self {
        Self::start_in(folder, &one_listener(rest)).await
    }

    /// Starts a command that serves until it is told to stop, and waits until it is ready.
    pub(crate) async fn spawn(folder: Folder, command: &mut Command) -> Self {
        let process = Process::spawn(command.current_dir(folder.path()));
        let mut started = Self {
            folder,
            process,
            addresses: Vec::new(),
            admin: None,
        };
        loop {
            let line = started.process.stderr.find("log line", log_line).await;
            let address = || line["address"].as_str().unwrap().parse().unwrap();
            match line["message"].as_str() {
                Some("listening") => started.addresses.push(address()),
                Some("admin listening") => started.admin = Some(address()),
                Some("ready") => return started,
                _ => {}
            }
        }
    }

    /// Address of a listener, counted from 0 in the order of the file.
    pub(crate) fn address(&self, listener: usize) -> SocketAddr {
        self.addresses[listener]
    }

    /// Connects to the first listener.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address(0)).await
    }

    /// Connects to the first listener and opens a WebSocket.
    pub(crate) async fn websocket(&self, target: &str) -> Connection {
        let mut connection = self.connect().await;
        connection.open_websocket(target).await;
        connection
    }

    /// Sends one request without body, given as indented lines, over a connection of its own.
    pub(crate) async fn exchange(&self, lines: &str) -> Response {
        self.connect().await.exchange(lines).await
    }

    /// Sends `GET` for a target over a connection of its own.
    pub(crate) async fn get(&self, target: &str) -> Response {
        self.exchange(&format!("GET {target} HTTP/1.1\nHost: example.com"))
            .await
    }

    /// Address of the admin listener.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.expect("the configuration has an admin listener")
    }

    /// Sends `GET` to the admin listener.
    pub(crate) async fn admin(&self, target: &str) -> Response {
        let address = self.admin_address();
        let mut connection = Connection::open(address).await;
        connection
            .exchange(&format!(
                "GET {target} HTTP/1.1\nHost: {address}\nConnection: close"
            ))
            .await
    }

    /// Runs a command that asks the admin listener.
    pub(crate) fn remote(&self, arguments: &[&str]) -> Output {
        let mut command = command();
        command.args(arguments);
        command.args(["--admin", &self.admin_address().to_string()]);
        command.current_dir(self.folder.path()).output().unwrap()
    }

    /// Reads all metrics.
    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin("/metrics").await.text())
    }

    /// Waits for the address of a listener that a reload has bound.
    pub(crate) async fn bound(&mut self) -> SocketAddr {
        let line = self.log("listening").await;
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// Waits for the next line of the log with this message and returns its fields.
    pub(crate) async fn log(&mut self, message: &str) -> Value {
        let find = |line: &str| {
            let line = log_line(line)?;
            (line["message"] == message).then_some(line)
        };
        self.process.stderr.find(message, find).await
    }

    /// Puts another configuration in place of the one in force and reloads, as [`Tidegate::reload`].
    pub(crate) async fn reload_with(&mut self, configuration: &str) -> Result<u64, String> {
        self.folder.write("tidegate.toml", configuration);
        self.reload().await
    }

    /// Sends SIGHUP. Returns the generation in force then, or why nothing changed.
    pub(crate) async fn reload(&mut self) -> Result<u64, String> {
        self.process.signal(Signal::HUP);
        self.reloaded().await
    }

    /// Waits for the outcome of a reload that began otherwise.
    pub(crate) async fn reloaded(&mut self) -> Result<u64, String> {
        let outcome = |line: &str| {
            let fields = log_line(line)?;
            match fields["message"].as_str()? {
                "reloaded" | "nothing has changed" => {
                    Some(Ok(fields["generation"].as_u64().unwrap()))
                }
                message if message.starts_with("reload failed") => {
                    Some(Err(fields["error"].as_str().unwrap().to_owned()))
                }
                _ => None,
            }
        };
        self.process
            .stderr
            .find("outcome of the reload", outcome)
            .await
    }

    /// Memory of the process in bytes: what it holds now, not what it reserved.
    pub(crate) fn memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// A route that sends all paths to a service. Further keys of the route may follow.
pub(crate) fn route_to(service: &Service) -> String {
    format!(
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\n",
        service.address
    )
}

/// Runs `tidegate check` on a configuration. The error is what it printed.
pub(crate) fn check(configuration: &str) -> Result<(), String> {
    let folder = Folder::new();
    let file = folder.write("tidegate.toml", configuration);
    let output = command().arg("check").arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(printed),
        _ => panic!("check ended with {}: {printed}", output.status),
    }
}

/// The configuration of [`Tidegate::serving`].
pub(crate) fn one_listener(rest: &str) -> String {
    format!(
        r#"
        workers = 1

        [[listeners]]
        bind = "127.0.0.1:0"

        [[sites]]
        default = true

        {rest}
        "#
    )
}

/// The binary, for commands that end by themselves or that [`Tidegate::spawn`] waits for.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for variable in ["LOG", "ADMIN", "TOKEN", "TOKEN_FILE"] {
        command.env_remove(format!("TIDEGATE_{variable}"));
    }
    command
}

/// A log line as JSON; other lines, of a panic say, are passed over.
fn log_line(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
