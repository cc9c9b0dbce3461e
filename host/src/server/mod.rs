//! The process: what it starts, what puts a new generation in force, and how it ends.
//!
//! The calling thread becomes the control thread: signals, the admin listener, file watching and
//! compiling. Traffic is served by the workers, each a thread with a runtime of its own.

mod access;
mod admin;
mod checks;
mod control;
mod difference;
mod health;
mod parameters;
mod reload;
mod sessions;
mod status;
mod swap;
mod trials;
mod upstreams;
mod watch;
mod workers;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tracing::{info, warn};

use crate::config::{self, Config, Loaded, Problem};
use crate::downstream::Listener;
use crate::generation::{self, Generation};
use crate::plugin;
use crate::telemetry::{AccessLogFiles, Metrics};
use crate::upstream::{self, Known, Names};
pub(crate) use admin::MAX_MODULE_BYTES;
use control::{Control, Signals};
use reload::Reloader;
use watch::FileWatch;
use workers::Workers;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    /// A text that cannot change. The path stands in messages.
    Text {
        text: String,
        name: PathBuf,
    },
}

/// Why the server could not start.
#[derive(Debug)]
pub(crate) enum Error {
    Config(config::Error),
    Generation {
        name: PathBuf,
        errors: Vec<generation::Error>,
    },
    Engine(plugin::Error),
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    /// Keys that are only read at the start differ.
    NeedsRestart {
        name: PathBuf,
        keys: Vec<&'static str>,
    },
    Several(Vec<Self>),
    Socket {
        path: PathBuf,
        source: io::Error,
    },
    /// Of the admin listener.
    Token(String),
    Names(upstream::NamesError),
    Start(io::Error),
}

/// Serves until a signal ends it. Returns once everything has drained. `ready` is told the addresses
/// of the listeners, in their order, once they are served.
pub(crate) fn run(source: Source, ready: impl FnOnce(&[SocketAddr])) -> Result<(), Error> {
    raise_descriptor_limit();
    let runtime = runtime()?;
    // First: a signal that comes during the start is heeded after it, and does not kill the process.
    let signals = {
        let _context = runtime.enter();
        Signals::new().map_err(Error::Start)?
    };
    let loaded = source.load().map_err(Error::Config)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    check_tokens(&config)?;
    let engine = plugin::Engine::new().map_err(Error::Engine)?;
    let logs = Arc::new(AccessLogFiles::default());
    let (names, known) = runtime.block_on(resolve(&config, &Known::default()))?;
    let built = Generation::build(&config, &engine, &logs, &known, None);
    let built = built.map_err(|errors| Error::Generation {
        name: source.name().to_owned(),
        errors,
    })?;
    let (generation, _) = built.commit();
    let metrics = Metrics::new(config.workers);
    metrics.set_generation(generation.number);
    let bound = bind(generation.listeners.iter(), config.workers, |_| false)?;
    let workers = config.workers;
    let result = runtime.block_on(async {
        let admin = match &config.admin {
            None => None,
            Some(settings) => Some(admin::Listeners::bind(settings).await?),
        };
        let reloader = Reloader::new(
            source,
            config,
            engine,
            logs.clone(),
            (names, known),
            generation,
            metrics.clone(),
        );
        let in_force = reloader.in_force().clone();
        metrics.ask_for_endpoints(move || in_force.load().endpoints());
        let in_force = reloader.in_force().clone();
        metrics.ask_for_plugins(move || in_force.load().plugin_status());
        let workers =
            Workers::start(workers, reloader.in_force(), &metrics).map_err(Error::Start)?;
        let mut addresses = Vec::new();
        for (address, sockets) in bound {
            addresses.push(address);
            workers.lines().listen(sockets, &reloader.in_force().load());
        }
        let draining = Arc::new(AtomicBool::new(false));
        let (control, requests) = Control::new();
        let mut socket_file = None;
        if let Some(listeners) = admin {
            let seen = admin::Seen {
                metrics: metrics.clone(),
                draining: draining.clone(),
                in_force: reloader.in_force().clone(),
                control,
                workers: workers.lines().clone(),
                started: SystemTime::now(),
            };
            socket_file = listeners.serve(seen);
        }
        // Before anyone is told that changes are noticed.
        let files = FileWatch::new(reloader.watched());
        info!("ready");
        ready(&addresses);
        let lines = workers.lines().clone();
        control::run(reloader, signals, files, lines, logs, requests).await;
        draining.store(true, Ordering::Relaxed);
        workers.drain().await;
        drop(socket_file);
        Ok(())
    });
    // What is still being compiled would be waited for, for as long as that takes.
    runtime.shutdown_background();
    result
}

/// Checks a configuration as [`run`] would read it, without binding anything. Returns warnings.
pub(crate) fn check(file: &Path) -> Result<Vec<Problem>, Error> {
    let (loaded, _) = load(file)?;
    Ok(loaded.warnings)
}

/// Reads a configuration and builds what it means, as [`run`] would, without binding anything.
pub(crate) fn load(file: &Path) -> Result<(Loaded, Generation), Error> {
    let loaded = Config::load(file).map_err(Error::Config)?;
    check_tokens(&loaded.config)?;
    let engine = plugin::Engine::new().map_err(Error::Engine)?;
    let logs = AccessLogFiles::for_trial();
    let (_, known) = runtime()?.block_on(resolve(&loaded.config, &Known::default()))?;
    let built = Generation::build(&loaded.config, &engine, &logs, &known, None);
    let built = built.map_err(|errors| Error::Generation {
        name: file.to_owned(),
        errors,
    })?;
    Ok((loaded, built.commit().0))
}

/// The runtime of the control thread.
fn runtime() -> Result<Runtime, Error> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().map_err(Error::Start)
}

/// Finds the addresses of the names in a configuration. One that cannot be found now stays where `before`
/// has it.
async fn resolve(config: &Config, before: &Known) -> Result<(Names, Known), Error> {
    let names = Names::new(&config.resolver).map_err(Error::Names)?;
    match names.resolve(&config.host_names, before).await {
        Ok(known) => Ok((names, known)),
        Err(problems) => Err(Error::Config(config::Error::invalid(problems))),
    }
}

/// A bound address, and a socket of it for each worker.
type Bound = (SocketAddr, Vec<Listener>);

/// Binds listeners, once for each worker; all of them, or none. `shares`: whether this process may have a
/// socket of an address's port already.
fn bind<'a>(
    listeners: impl Iterator<Item = &'a generation::Listener>,
    workers: usize,
    shares: impl Fn(SocketAddr) -> bool,
) -> Result<Vec<Bound>, Error> {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for listener in listeners {
        let address = listener.bind;
        match Listener::bind(listener.id, address, workers, shares(address)) {
            Ok((address, sockets)) => {
                info!(%address, tls = listener.tls.is_some(), "listening");
                all.push((address, sockets));
            }
            Err(source) => errors.push(Error::Bind { address, source }),
        }
    }
    match errors.len() {
        0 => Ok(all),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Several(errors)),
    }
}

/// Checks that the tokens of the admin listener can be read.
fn check_tokens(config: &Config) -> Result<(), Error> {
    let mut tokens = config.admin.iter().flat_map(|admin| &admin.tokens);
    tokens.try_for_each(|token| access::read(token).map(drop).map_err(Error::Token))
}

/// Takes as many descriptors as the system lets this process have: each tunnel needs two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

impl Source {
    fn load(&self) -> Result<Loaded, config::Error> {
        match self {
            Self::File(path) => Config::load(path),
            Self::Text { text, name } => Config::parse(text, name),
        }
    }

    fn name(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Text { name, .. } => name,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Generation { name, errors } => {
                for (n, error) in errors.iter().enumerate() {
                    let newline = if n == 0 { "" } else { "\n" };
                    write!(
                        f,
                        "{newline}{}: {error}{}",
                        name.display(),
                        Causes(error.source())
                    )?;
                }
                Ok(())
            }
            Self::Engine(error) => {
                write!(
                    f,
                    "cannot run WebAssembly: {error}{}",
                    Causes(error.source())
                )
            }
            Self::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the address is in use")
            }
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::NeedsRestart { name, keys } => {
                for (n, key) in keys.iter().enumerate() {
                    let newline = if n == 0 { "" } else { "\n" };
                    let name = name.display();
                    write!(
                        f,
                        "{newline}{name}: `{key}` has changed, which takes a restart"
                    )?;
                }
                Ok(())
            }
            Self::Several(errors) => {
                for (n, error) in errors.iter().enumerate() {
                    let newline = if n == 0 { "" } else { "\n" };
                    write!(f, "{newline}{error}")?;
                }
                Ok(())
            }
            Self::Socket { path, source } => {
                write!(f, "cannot listen at {}: {source}", path.display())
            }
            Self::Token(error) => f.write_str(error),
            Self::Names(error) => write!(f, "{error}{}", Causes(error.source())),
            Self::Start(error) => write!(f, "cannot start: {error}"),
        }
    }
}

/// The causes of an error, each after a colon.
struct Causes<'a>(Option<&'a dyn std::error::Error>);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause = self.0;
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
