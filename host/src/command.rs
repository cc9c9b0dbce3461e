//! The command line: which command does what, and which exit code it ends with.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::operate::{self, Remote};
use crate::{demo, explain, import, server, telemetry};

/// A reverse proxy for WebSockets and HTTP, programmable in WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
#[command(after_help = "Examples:
  tidegate demo                        try it: a chat behind three plugins, no file needed
  tidegate check tidegate.toml         tell all that is wrong with a configuration
  tidegate run -c tidegate.toml        serve
  tidegate explain tidegate.toml URL   tell which way a request would take, and why
  tidegate import nginx.conf           the same as nginx, in Tidegate's words

Exit codes: 0 done, 1 the configuration or an address cannot be used, 2 wrong arguments.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as
    /// `warn,tidegate=debug`
    #[arg(
        long,
        global = true,
        default_value = "info",
        env = "TIDEGATE_LOG",
        value_name = "LEVEL"
    )]
    log: String,
    /// How it is logged
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says
    ///
    /// SIGHUP, or a change to a plugin's file, puts a new generation in force for new sessions, as does
    /// a change to the configuration itself if that says `watch = true`;
    /// sessions that are open keep theirs. SIGUSR1 opens the access log anew. SIGTERM and SIGINT
    /// drain: nothing new is accepted, exchanges finish, WebSockets are closed with 1001.
    #[command(after_help = "Example:\n  tidegate run -c tidegate.toml")]
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file without binding anything
    ///
    /// Reads certificates, and compiles and configures plugins, as `run` does. Tells everything that
    /// is wrong at once, one problem a line, with file, line, key, value and expectation.
    #[command(after_help = "Example:\n  tidegate check tidegate.toml && systemctl reload tidegate")]
    Check {
        /// The configuration
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    Explain(explain::Question),
    Import(import::Arguments),
    /// Put in force what the configuration of a running proxy says now
    ///
    /// As SIGHUP does, but the outcome is told here: what was added (+), removed (-) and changed (~), or
    /// everything that is wrong, in which case nothing has changed.
    #[command(after_help = "Example:\n  tidegate reload --dry-run && tidegate reload")]
    Reload {
        /// Tell what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// See and close the sessions of a running proxy
    #[command(subcommand)]
    Sessions(operate::Sessions),
    /// See the upstreams of a running proxy, take endpoints out, and set their weights
    #[command(subcommand)]
    Upstreams(operate::Upstreams),
    /// Tell which release a running proxy is, which contract plugins have with it, and its generation
    #[command(after_help = "Example:\n  tidegate version --json")]
    Version {
        #[command(flatten)]
        remote: Remote,
    },
    /// See and replace the plugins of a running proxy
    #[command(subcommand)]
    Plugin(operate::Plugin),
    /// Try it: a chat behind three plugins, no file needed
    ///
    /// Starts two small chat services and a proxy with the plugins choose-endpoint, headers and
    /// redact before them. Open the address in two browser tabs.
    #[command(after_help = "Example:\n  tidegate demo --listen 127.0.0.1:8081")]
    Demo {
        /// Where the proxy listens
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
        listen: SocketAddr,
        /// Where the admin listener is (`tidegate plugin`, /metrics, ...); nowhere if not given
        #[arg(long, value_name = "ADDRESS")]
        admin: Option<SocketAddr>,
        /// Print the configuration that the demo runs with, and exit
        #[arg(long)]
        print_config: bool,
    },
}

/// Reads the arguments, does what they say and returns the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let format = match arguments.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    if let Err(error) = telemetry::init(&arguments.log, format) {
        return fail(&format!("--log: expected a level such as `info`: {error}"));
    }
    match arguments.command {
        Command::Run { config } => serve(&config),
        Command::Check { file } => check(&file),
        Command::Explain(question) => report(question.answer()),
        Command::Import(arguments) => translate(&arguments),
        Command::Reload { dry_run, remote } => report(operate::reload(&remote, dry_run)),
        Command::Plugin(plugin) => report(plugin.run()),
        Command::Sessions(sessions) => report(sessions.run()),
        Command::Upstreams(upstreams) => report(upstreams.run()),
        Command::Version { remote } => report(operate::version(&remote)),
        Command::Demo {
            listen,
            admin,
            print_config: false,
        } => try_it(listen, admin),
        Command::Demo {
            listen,
            admin,
            print_config: true,
        } => {
            let [blue, green] = [9001, 9002].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            say(
                &mut std::io::stdout(),
                demo::config(listen, admin, blue, green).trim_end(),
            );
            ExitCode::SUCCESS
        }
    }
}

fn serve(file: &Path) -> ExitCode {
    match server::run(server::Source::File(file.to_owned()), |_| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Runs the proxy before the demo's services, which have a thread of their own.
fn try_it(listen: SocketAddr, admin: Option<SocketAddr>) -> ExitCode {
    let services = match demo::Thread::start() {
        Ok(services) => services,
        Err(error) => return fail(&format!("cannot start the services of the demo: {error}")),
    };
    let text = demo::config(listen, admin, services.blue, services.green);
    let source = server::Source::Text {
        text,
        name: "demo".into(),
    };
    let ready = |addresses: &[SocketAddr]| {
        let address = addresses.first().copied().unwrap_or(listen);
        say(&mut std::io::stdout(), &demo::banner(address));
    };
    let served = server::run(source, ready);
    services.stop();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn check(file: &Path) -> ExitCode {
    match server::check(file) {
        Ok(warnings) => {
            for warning in warnings {
                say(&mut std::io::stderr(), &format!("warning: {warning}"));
            }
            say(&mut std::io::stdout(), &format!("{}: ok", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn translate(arguments: &import::Arguments) -> ExitCode {
    let import::Outcome { report, text } = arguments.run();
    say(&mut std::io::stderr(), &report);
    match text {
        Ok(Some(text)) => {
            say(&mut std::io::stdout(), text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(None) => ExitCode::FAILURE,
        Err(Some(error)) => fail(&error),
    }
}

fn report(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(text) => {
            say(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    say(&mut std::io::stderr(), &error.to_string());
    ExitCode::FAILURE
}

/// Writes a line. A reader that has gone away is no reason to fail.
fn say(out: &mut dyn Write, line: &str) {
    if let Err(error) = writeln!(out, "{line}") {
        tracing::debug!(%error, "nobody reads what is printed");
    }
}
