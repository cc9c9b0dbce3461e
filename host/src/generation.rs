//! The immutable snapshot of the configuration in force.
//!
//! It is built aside, whole, and put in force for new sessions by `server/reload.rs`; sessions that
//! run keep the one they began with. What a reload does not change is shared with the one before.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::certificates;
use crate::config::{self, Action, Config};
use crate::plugin::{self, Chain, EndpointView, Engine, Plugin};
use crate::route::{RouteTable, SiteTable};
use crate::upstream::{Endpoint, Upstream};

/// Everything a session needs to know that does not change while it runs.
pub(crate) struct Generation {
    /// Counts from 1.
    pub(crate) number: u64,
    pub(crate) limits: config::Limits,
    pub(crate) timeouts: config::ClientTimeouts,
    /// In the order of the configuration.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) sites: Vec<Site>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) plugins: Vec<Arc<Plugin>>,
    /// How often workers look for what has timed out: fine enough for the shortest timeout.
    pub(crate) sweep_interval: Duration,
}

/// What a listener serves.
pub(crate) struct Listener {
    pub(crate) sites: SiteTable,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Names served alike.
pub(crate) struct Site {
    /// The first name; empty if the site has none. It is what `$server_name` says.
    pub(crate) name: String,
    pub(crate) table: RouteTable,
    pub(crate) routes: Vec<Route>,
}

/// What happens to requests whose path matches.
pub(crate) struct Route {
    pub(crate) settings: config::Route,
    /// None: the route answers by itself.
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) chain: Chain,
    /// The endpoints as plugins are told of them.
    pub(crate) endpoints: Vec<EndpointView>,
    /// The pattern as written, for logs.
    pub(crate) label: Arc<str>,
}

/// Why a generation could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("listener {listener}")]
    Certificate {
        listener: std::net::SocketAddr,
        source: certificates::Error,
    },
    #[error("upstream `{upstream}`")]
    Upstream {
        upstream: String,
        source: certificates::Error,
    },
    #[error("plugin `{plugin}` from {module}")]
    Plugin {
        plugin: String,
        module: String,
        source: plugin::Error,
    },
    #[error("plugin `{plugin}`: cannot read its module {module}")]
    Module {
        plugin: String,
        module: String,
        source: std::io::Error,
    },
}

impl Generation {
    /// Builds a generation: reads certificates, loads and configures plugins. Blocks for as long as
    /// compiling takes. Returns everything that is wrong, not only the first.
    pub(crate) fn build(
        config: &Config,
        engine: &Engine,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<Error>> {
        let mut errors = Vec::new();
        let listeners = listeners(config, &mut errors);
        let upstreams = upstreams(config, previous, &mut errors);
        let plugins = plugins(config, engine, previous, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let sites = config
            .sites
            .iter()
            .map(|site| Site::new(site, &upstreams, &plugins))
            .collect();
        Ok(Self {
            number: previous.map_or(1, |previous| previous.number + 1),
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            listeners,
            sites,
            upstreams,
            plugins,
            sweep_interval: sweep_interval(config),
        })
    }
}

impl Site {
    fn new(site: &config::Site, upstreams: &[Arc<Upstream>], plugins: &[Arc<Plugin>]) -> Self {
        let name = match site.names.first() {
            None => String::new(),
            Some(config::SiteName::Exact(name)) => name.clone(),
            Some(config::SiteName::Suffix(suffix)) => format!("*{suffix}"),
            Some(config::SiteName::Prefix(prefix)) => format!("{prefix}*"),
        };
        let route = |route: &config::Route| {
            let upstream = match route.action {
                Action::Proxy(upstream) => Some(upstreams[upstream].clone()),
                Action::Files(_) | Action::Respond(_) => None,
            };
            let chain = route
                .plugins
                .iter()
                .map(|&plugin| plugins[plugin].clone())
                .collect();
            Route {
                settings: route.clone(),
                chain: Chain::new(chain),
                endpoints: upstream
                    .iter()
                    .flat_map(|upstream| &upstream.endpoints)
                    .map(view)
                    .collect(),
                upstream,
                label: route.pattern.to_string().into(),
            }
        };
        Self {
            name,
            table: RouteTable::new(site.routes.iter().map(|route| &route.pattern)),
            routes: site.routes.iter().map(route).collect(),
        }
    }
}

fn view(endpoint: &Endpoint) -> EndpointView {
    EndpointView {
        address: endpoint.address,
        weight: endpoint.weight,
        backup: endpoint.backup,
    }
}

fn listeners(config: &Config, errors: &mut Vec<Error>) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let table = SiteTable::new(&config.sites, index);
        let mut tls = None;
        if listener.tls {
            // The default site comes first: its certificate is for clients that name nobody.
            let mut sites: Vec<_> = config
                .sites
                .iter()
                .filter(|site| site.listeners.contains(&index))
                .collect();
            sites.sort_by_key(|site| !site.default);
            let pairs: Vec<_> = sites
                .iter()
                .filter_map(|site| Some((&site.names[..], site.certificate.as_ref()?)))
                .collect();
            match certificates::server_config(&pairs) {
                Ok(config) => tls = Some(config),
                Err(source) => {
                    errors.push(Error::Certificate {
                        listener: listener.bind,
                        source,
                    });
                }
            }
        }
        listeners.push(Listener { sites: table, tls });
    }
    listeners
}

fn upstreams(
    config: &Config,
    previous: Option<&Generation>,
    errors: &mut Vec<Error>,
) -> Vec<Arc<Upstream>> {
    let mut upstreams = Vec::new();
    for settings in &config.upstreams {
        let old = previous.and_then(|previous| {
            previous
                .upstreams
                .iter()
                .find(|upstream| upstream.serves(settings))
        });
        match Upstream::new(settings, old.map(Arc::as_ref)) {
            Ok(upstream) => upstreams.push(Arc::new(upstream)),
            Err(source) => {
                errors.push(Error::Upstream {
                    upstream: settings.name.clone(),
                    source,
                });
            }
        }
    }
    upstreams
}

fn plugins(
    config: &Config,
    engine: &Engine,
    previous: Option<&Generation>,
    errors: &mut Vec<Error>,
) -> Vec<Arc<Plugin>> {
    let mut plugins = Vec::new();
    for settings in &config.plugins {
        let name = || settings.name.clone();
        let module = settings.module.to_string();
        let bytes = match plugin::read_module(&settings.module) {
            Ok(bytes) => bytes,
            Err(source) => {
                errors.push(Error::Module {
                    plugin: name(),
                    module,
                    source,
                });
                continue;
            }
        };
        let same = previous.and_then(|previous| {
            previous
                .plugins
                .iter()
                .find(|plugin| plugin.is_current(settings, &bytes))
        });
        if let Some(plugin) = same {
            plugins.push(plugin.clone());
            continue;
        }
        match engine.load(settings, &bytes) {
            Ok(plugin) => plugins.push(plugin),
            Err(source) => errors.push(Error::Plugin {
                plugin: name(),
                module,
                source,
            }),
        }
    }
    plugins
}

/// A tenth of the shortest timeout that a sweep enforces, within 20 ms and 500 ms: each sweep
/// looks at every session.
fn sweep_interval(config: &Config) -> Duration {
    let routes = config.sites.iter().flat_map(|site| &site.routes);
    let shortest = routes
        .flat_map(|route| {
            let websocket = &route.websocket;
            let liveness = &websocket.liveness;
            let pings = [liveness.ping_client, liveness.ping_service];
            let pings = pings.into_iter().flatten();
            pings
                .flat_map(|ping| [ping.interval, ping.timeout])
                .chain(liveness.max_age.map(|age| age.limit))
                .chain([websocket.idle_timeout, websocket.close_timeout])
        })
        .chain([config.timeouts.header_read, config.timeouts.keep_alive])
        .min()
        .unwrap_or(Duration::MAX);
    (shortest / 10).clamp(Duration::from_millis(20), Duration::from_millis(500))
}
