//! The admin listener: whether the proxy takes sessions, what it has counted, and orders to it.
//!
//! It runs on the control thread, which does what is asked for in `control.rs`. What the numbers mean
//! is in `telemetry/`; the command line's side is `remote.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, info};

use super::access::{Guard, SocketFile};
use super::control::Control;
use super::difference::Change;
use super::health::Health;
use super::parameters::Parameters;
use super::status::plugin_as_json;
use super::swap::Swap;
use super::trials::{self, Decision, Terms};
use super::workers::Lines;
use super::{Error, access, sessions, upstreams};
use crate::config::Admin;
use crate::generation::Generation;
use crate::plugin;
use crate::telemetry::{self, Metrics};

/// Largest module that can be handed over.
pub(crate) const MAX_MODULE_BYTES: usize = 64 << 20;

/// Connections that are served at a time at each of the two; others wait to be accepted. Each may hold a
/// descriptor that traffic would need.
const MAX_CONNECTIONS: usize = 256;

/// How long a head may take, from when the connection is there or the answer before it was sent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What is shown and who is asked.
pub(crate) struct Seen {
    pub(crate) metrics: Arc<Metrics>,
    /// Set by whoever begins the drain.
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) in_force: Arc<ArcSwap<Generation>>,
    pub(super) control: Control,
    pub(super) workers: Lines,
    pub(super) started: SystemTime,
}

/// What all handlers share.
pub(super) type Shared = State<Arc<Seen>>;

/// Where operators ask.
pub(crate) struct Listeners {
    tcp: Option<(TcpListener, Guard)>,
    unix: Option<(UnixListener, SocketFile)>,
}

impl Listeners {
    /// Binds what the settings name.
    pub(super) async fn bind(settings: &Admin) -> Result<Self, Error> {
        let tcp = match settings.listen {
            None => None,
            Some(address) => {
                let failed = |source| Error::Bind { address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                info!(%address, "admin listening");
                let guard = match &*settings.tokens {
                    [] if address.ip().is_loopback() => Guard::Loopback,
                    [] => Guard::Anybody,
                    tokens => Guard::Tokens(tokens.to_vec()),
                };
                Some((listener, guard))
            }
        };
        let unix = match &settings.unix {
            None => None,
            Some(socket) => {
                let path = &socket.path;
                let failed = |source| Error::Socket {
                    path: path.clone(),
                    source,
                };
                let bound = access::bind(socket).map_err(failed)?;
                info!(path = %path.display(), "admin listening at a socket");
                Some(bound)
            }
        };
        Ok(Self { tcp, unix })
    }

    /// Serves in tasks of their own. Returns the file of the Unix socket, which is there until it is
    /// dropped.
    pub(super) fn serve(self, seen: Seen) -> Option<SocketFile> {
        let seen = Arc::new(seen);
        if let Some((listener, guard)) = self.tcp {
            tokio::spawn(serve(listener, router(seen.clone(), guard)));
        }
        let (listener, file) = self.unix?;
        tokio::spawn(serve(listener, router(seen, Guard::Socket)));
        Some(file)
    }
}

/// Serves each connection in a task of its own. Never returns.
async fn serve(mut listener: impl Listener, router: Router) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    // An error: somebody has closed the semaphore, which nobody does.
    while let Ok(place) = room.clone().acquire_owned().await {
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "admin connection failed");
            }
            drop(place);
        });
    }
}

fn router(seen: Arc<Seen>, guard: Guard) -> Router {
    Router::new()
        .route("/healthz", get(whether_it_serves))
        .route("/metrics", get(scrape))
        .route("/v1/health", get(health_of_all))
        .route("/v1/plugins", get(plugins))
        .route("/v1/plugins/{name}/swap", post(swap))
        .route("/v1/plugins/{name}/promote", post(promote))
        .route("/v1/plugins/{name}/rollback", post(roll_back))
        .route("/v1/reload", post(reload))
        .route("/v1/version", get(version))
        .merge(sessions::routes())
        .merge(upstreams::routes())
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(
            Arc::new(guard),
            access::admit,
        ))
        .layer(DefaultBodyLimit::max(MAX_MODULE_BYTES))
        .with_state(seen)
}

/// 503 tells a load balancer to send new clients elsewhere while the old ones finish.
async fn whether_it_serves(State(seen): Shared) -> (StatusCode, &'static str) {
    if seen.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// How load balancers see a proxy that serves, but for what an ejected plugin is needed for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthQuery {
    /// The status of the answer then; without it 200, since all proxies of one configuration are likely
    /// to eject the same plugin at once.
    degraded: Option<u16>,
}

async fn health_of_all(State(seen): Shared, Query(query): Query<HealthQuery>) -> Response {
    let degraded = query.degraded.unwrap_or(200);
    let Some(degraded) = StatusCode::from_u16(degraded)
        .ok()
        .filter(|_| (200..600).contains(&degraded))
    else {
        let error = format!("degraded: expected a status from 200 to 599, found `{degraded}`");
        return refusal(StatusCode::BAD_REQUEST, &error);
    };
    let draining = seen.draining.load(Ordering::Relaxed);
    let (health, shown) = Health::of(draining, &seen.in_force.load().plugins);
    let status = match health {
        Health::Well => StatusCode::OK,
        Health::Degraded => degraded,
        Health::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, answer(&shown)).into_response()
}

async fn scrape(State(seen): Shared) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, telemetry::CONTENT_TYPE)],
        seen.metrics.encode(),
    )
}

async fn plugins(State(seen): Shared) -> Response {
    let generation = seen.in_force.load();
    let plugins = generation.plugins.iter();
    answer(&json!({ "plugins": plugins.map(|plugin| plugin_as_json(plugin)).collect::<Vec<_>>() }))
}

async fn swap(
    State(seen): Shared,
    Path(plugin): Path<String>,
    Query(given): Query<BTreeMap<String, String>>,
    module: Bytes,
) -> Response {
    let terms = match Terms::read(Parameters::new(given)) {
        Ok(terms) => terms,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let swapped = seen.control.swap(Swap {
        plugin: plugin.clone(),
        module,
        terms,
    });
    match swapped.await {
        Ok(swapped) => {
            answer(&json!({ "plugin": plugin, "version": swapped.version, "role": swapped.role }))
        }
        Err(error) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

async fn promote(State(seen): Shared, Path(plugin): Path<String>) -> Response {
    decide(&seen, &plugin, Decision::Promote)
}

async fn roll_back(State(seen): Shared, Path(plugin): Path<String>) -> Response {
    decide(&seen, &plugin, Decision::RollBack)
}

/// At once: whoever takes a candidate back does not wait for what is being compiled.
fn decide(seen: &Seen, plugin: &str, decision: Decision) -> Response {
    match trials::decide(&seen.in_force.load(), plugin, decision) {
        Ok(version) => answer(&json!({ "plugin": plugin, "version": version })),
        Err(error) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    /// Nothing is done, but what would be is told.
    #[serde(default)]
    dry_run: bool,
}

async fn reload(State(seen): Shared, Query(query): Query<ReloadQuery>) -> Response {
    let outcome = match query.dry_run {
        true => seen.control.compare().await,
        false => seen.control.reload().await,
    };
    let reloaded = match outcome {
        Ok(reloaded) => reloaded,
        Err(error) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, &error),
    };
    let change = |change: &Change| json!({ "kind": change.kind.name(), "name": change.name, "change": change.how.name() });
    answer(&json!({
        "generation": reloaded.generation,
        "dry_run": query.dry_run,
        "changes": reloaded.changes.iter().map(change).collect::<Vec<_>>(),
    }))
}

async fn version(State(seen): Shared) -> Response {
    answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "contract": plugin::CONTRACT,
        "generation": seen.in_force.load().number,
        "workers": seen.workers.count(),
        "started_at": seconds(seen.started),
        "pid": std::process::id(),
    }))
}

async fn not_found() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "there is nothing here; docs/admin.md has a list of what there is",
    )
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(super) fn answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

pub(super) fn refusal(status: StatusCode, error: &str) -> Response {
    (status, answer(&json!({ "error": error }))).into_response()
}
