//! The immutable snapshot of the configuration in force.
//!
//! It is built aside, whole, and put in force for new sessions by `server/reload.rs`; sessions that
//! run keep the one they began with. What a reload does not change is shared with the one before.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderName;

use crate::certificates::{self, Served};
use crate::config::{
    self, Action, Config, Keep, LogFormat, LogTarget, Pattern, SiteName, Template, Variable,
};
use crate::plugin::{self, Chain, EndpointView, Engine, Plugin, Version};
use crate::route::{RouteTable, SiteTable};
use crate::telemetry::{AccessLogFile, AccessLogFiles, EndpointStatus, PluginStatus, Target};
use crate::upstream::{Before, Endpoint, Known, Upstream};

/// Everything a session needs to know that does not change while it runs.
pub(crate) struct Generation {
    /// Counts from 1.
    pub(crate) number: u64,
    pub(crate) limits: config::Limits,
    pub(crate) timeouts: config::ClientTimeouts,
    pub(crate) http2: config::Http2,
    /// In the order of the configuration.
    pub(crate) listeners: Arc<[Listener]>,
    pub(crate) sites: Vec<Site>,
    pub(crate) maps: Vec<config::Map>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) plugins: Vec<Arc<Plugin>>,
    logs: Logs,
    /// How often workers look for what has timed out: fine enough for the shortest timeout.
    pub(crate) sweep_interval: Duration,
}

/// Tells a listener from others for as long as it is bound, wherever the configuration has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ListenerId(u32);

/// What a listener serves.
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    /// As the configuration has it: port 0 is any.
    pub(crate) bind: SocketAddr,
    pub(crate) sites: SiteTable,
    pub(crate) tls: Option<Served>,
    /// Clients may speak HTTP/2: chosen in the TLS handshake, or known beforehand without one.
    pub(crate) http2: bool,
}

/// Names served alike.
pub(crate) struct Site {
    /// The first name; empty if the site has none. It is what `$server_name` says.
    pub(crate) name: Arc<str>,
    pub(crate) names: Vec<SiteName>,
    /// Of requests that no route was found for.
    pub(crate) settings: config::Settings,
    pub(crate) later: Later,
    pub(crate) table: RouteTable,
    pub(crate) routes: Vec<Route>,
}

/// What happens to requests whose path matches.
pub(crate) struct Route {
    pub(crate) settings: config::Settings,
    pub(crate) pattern: Pattern,
    pub(crate) action: Action,
    /// None: the route answers by itself.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// What is replaced at the beginning of the path, and what takes its place.
    pub(crate) replace_prefix: Option<(String, String)>,
    /// Whether a template names a group of a pattern.
    pub(crate) wants_groups: bool,
    pub(crate) chain: Chain,
    /// The endpoints as plugins are told of them.
    pub(crate) endpoints: Vec<EndpointView>,
    /// Fields of the service's responses that clients do not see.
    pub(crate) hidden: Vec<HeaderName>,
    /// How `Location` begins where the service means itself, and what that is to clients.
    pub(crate) own_location: Option<(String, String)>,
    pub(crate) later: Later,
    /// The pattern as written, for logs.
    pub(crate) label: Arc<str>,
}

/// What is made of a request when its head is gone.
pub(crate) struct Later {
    /// What of the heads is kept for that.
    pub(crate) keep: Keep,
    pub(crate) logs: Vec<Log>,
}

/// An access log of a route or site.
pub(crate) struct Log {
    pub(crate) file: Arc<AccessLogFile>,
    pub(crate) format: LogFormat,
    /// If this is empty or `0`, there is no line.
    pub(crate) when: Option<Template>,
}

/// Why a generation could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("listener {listener}")]
    Certificate {
        listener: SocketAddr,
        source: certificates::Error,
    },
    #[error("cannot open the access log {path}")]
    AccessLog {
        path: String,
        source: std::io::Error,
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

/// A generation that could be put in force, and what comes with it.
pub(crate) struct Built {
    pub(crate) generation: Generation,
    /// Plugins that the generation before has as well, in another version.
    swaps: Vec<Swap>,
}

/// A plugin, and the version that it gets.
type Swap = (Arc<Plugin>, Arc<Version>);

impl Built {
    /// Returns the names of the plugins that get another version.
    pub(crate) fn swapped(&self) -> impl Iterator<Item = &str> {
        self.swaps.iter().map(|(plugin, _)| &**plugin.name())
    }

    /// Returns the generation, which is to be put in force at once: plugins that are in force already
    /// get the versions that it asks for. Returns those as well.
    pub(crate) fn commit(self) -> (Generation, Vec<Arc<Plugin>>) {
        let swap = |(plugin, version): Swap| {
            plugin.configure(version);
            plugin
        };
        let swapped = self.swaps.into_iter().map(swap).collect();
        (self.generation, swapped)
    }
}

impl Generation {
    /// Builds a generation: reads certificates, loads and configures plugins. Blocks for as long as
    /// compiling takes. Returns everything that is wrong, not only the first. `known` has the addresses of
    /// all names in `config`.
    pub(crate) fn build(
        config: &Config,
        engine: &Engine,
        files: &AccessLogFiles,
        known: &Known,
        previous: Option<&Self>,
    ) -> Result<Built, Vec<Error>> {
        let mut errors = Vec::new();
        let logs = logs(config, files, &mut errors);
        let listeners = listeners(config, previous, &mut errors);
        let upstreams = upstreams(config, known, previous, &mut errors);
        let (plugins, swaps) = plugins(config, engine, previous, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let sites = config
            .sites
            .iter()
            .map(|site| Site::new(site, &config.maps, &upstreams, &plugins, &logs))
            .collect();
        let generation = Self {
            number: previous.map_or(1, |previous| previous.number + 1),
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            http2: config.http2.clone(),
            listeners: listeners.into(),
            sites,
            maps: config.maps.clone(),
            upstreams,
            plugins,
            logs,
            sweep_interval: sweep_interval(config),
        };
        Ok(Built { generation, swaps })
    }
}

impl Generation {
    /// Returns the same generation, but for the addresses of names. All else is shared with this one.
    /// `config` is what this one was built from.
    pub(crate) fn moved(&self, config: &Config, known: &Known) -> Self {
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .zip(&self.upstreams)
            .map(|(settings, upstream)| {
                let moved = upstream.moved(settings, known);
                moved.unwrap_or_else(|| upstream.clone())
            })
            .collect();
        let sites = config
            .sites
            .iter()
            .map(|site| Site::new(site, &self.maps, &upstreams, &self.plugins, &self.logs))
            .collect();
        Self {
            number: self.number + 1,
            limits: self.limits.clone(),
            timeouts: self.timeouts.clone(),
            http2: self.http2.clone(),
            listeners: self.listeners.clone(),
            sites,
            maps: self.maps.clone(),
            upstreams,
            plugins: self.plugins.clone(),
            logs: self.logs.clone(),
            sweep_interval: self.sweep_interval,
        }
    }

    /// Returns a listener; None: it was removed, or was added later.
    pub(crate) fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    /// Returns what a scrape tells of the endpoints.
    pub(crate) fn endpoints(&self) -> Vec<EndpointStatus> {
        let upstreams = self.upstreams.iter();
        upstreams.flat_map(|upstream| upstream.status()).collect()
    }

    /// Returns what a scrape tells of the versions of plugins.
    pub(crate) fn plugin_status(&self) -> Vec<PluginStatus> {
        self.plugins.iter().map(|plugin| plugin.status()).collect()
    }
}

impl Site {
    fn new(
        site: &config::Site,
        maps: &[config::Map],
        upstreams: &[Arc<Upstream>],
        plugins: &[Arc<Plugin>],
        logs: &Logs,
    ) -> Self {
        let name = site.names.first().map(|name| name.to_string().into());
        let route = |route: &config::Route| {
            let target = match &route.action {
                Action::Proxy(target) => Some(target),
                Action::Files(_) | Action::Respond(_) => None,
            };
            let upstream = target.map(|target| upstreams[target.upstream].clone());
            let path = target.and_then(|target| target.replace_prefix.clone());
            let chain = route
                .plugins
                .iter()
                .map(|&plugin| plugins[plugin].clone())
                .collect();
            Route {
                settings: route.settings.clone(),
                pattern: route.pattern.clone(),
                action: route.action.clone(),
                own_location: upstream
                    .as_deref()
                    .map(|upstream| own_location(upstream, path.as_deref(), &route.pattern)),
                replace_prefix: path.and_then(|path| Some((route.pattern.prefix()?, path))),
                hidden: hidden(&route.settings),
                later: Later::new(&route.settings, maps, logs),
                wants_groups: route.variables().any(Variable::is_group),
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
            name: name.unwrap_or_default(),
            names: site.names.clone(),
            settings: site.settings.clone(),
            later: Later::new(&site.settings, maps, logs),
            table: RouteTable::new(site.routes.iter().map(|route| {
                let proxies = matches!(route.action, Action::Proxy(_));
                (&route.pattern, proxies)
            })),
            routes: site.routes.iter().map(route).collect(),
        }
    }
}

impl Later {
    fn new(settings: &config::Settings, maps: &[config::Map], logs: &Logs) -> Self {
        let log = |log: &config::AccessLog| {
            let file = logs.iter().find(|(target, _)| *target == log.target);
            file.map(|(_, file)| Log {
                file: file.clone(),
                format: log.format.clone(),
                when: log.when.clone(),
            })
        };
        Self {
            keep: Keep::of(settings, maps),
            logs: settings.access_logs.iter().filter_map(log).collect(),
        }
    }
}

/// Fields that nginx hides as well: those of the service itself, and those meant for the proxy.
const HIDDEN: [&str; 8] = [
    "date",
    "server",
    "x-pad",
    "x-accel-expires",
    "x-accel-redirect",
    "x-accel-limit-rate",
    "x-accel-buffering",
    "x-accel-charset",
];

fn hidden(settings: &config::Settings) -> Vec<HeaderName> {
    let passed = |name: &HeaderName| settings.pass_headers.contains(name);
    let always = HIDDEN.map(HeaderName::from_static);
    let hidden = always.into_iter().filter(|name| !passed(name));
    hidden
        .chain(settings.hide_headers.iter().cloned())
        .collect()
}

/// Says how the service names what the route leads to, and what it is called here.
fn own_location(upstream: &Upstream, path: Option<&str>, pattern: &Pattern) -> (String, String) {
    let scheme = if upstream.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let path = path.zip(pattern.prefix());
    let (path, prefix) = path.unwrap_or(("/", "/".to_owned()));
    (format!("{scheme}://{}{path}", upstream.name), prefix)
}

/// Open access logs by what they are called in the configuration.
type Logs = Arc<[(LogTarget, Arc<AccessLogFile>)]>;

fn logs(config: &Config, files: &AccessLogFiles, errors: &mut Vec<Error>) -> Logs {
    let mut logs = Vec::new();
    let routes = config.sites.iter().flat_map(|site| {
        let routes = site.routes.iter().map(|route| &route.settings);
        routes.chain([&site.settings])
    });
    for log in routes.flat_map(|settings| &settings.access_logs) {
        if logs.iter().any(|(target, _)| *target == log.target) {
            continue;
        }
        let target = match &log.target {
            LogTarget::Stdout => Target::Stdout,
            LogTarget::Stderr => Target::Stderr,
            LogTarget::File(path) => Target::File(path.clone()),
        };
        match files.open(&target) {
            Ok(file) => logs.push((log.target.clone(), file)),
            Err(source) => errors.push(Error::AccessLog {
                path: target.to_string(),
                source,
            }),
        }
    }
    logs.into()
}

fn view(endpoint: &Endpoint) -> EndpointView {
    EndpointView {
        address: endpoint.address,
        weight: endpoint.weight,
        backup: endpoint.backup,
    }
}

fn listeners(
    config: &Config,
    previous: Option<&Generation>,
    errors: &mut Vec<Error>,
) -> Vec<Listener> {
    static NEXT_ID: AtomicU32 = AtomicU32::new(0);
    let mut before: Vec<_> = previous.map_or(Vec::new(), |old| old.listeners.iter().collect());
    let mut listeners = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        // Those of port 0 are told apart by their order.
        let same = before.iter().position(|old| old.bind == listener.bind);
        let same = same.map(|place| before.remove(place));
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
            let old = same.and_then(|old| old.tls.as_ref());
            match certificates::server_config(&pairs, listener.http2, old) {
                Ok(served) => tls = Some(served),
                Err(source) => {
                    errors.push(Error::Certificate {
                        listener: listener.bind,
                        source,
                    });
                }
            }
        }
        let new_id = || ListenerId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        listeners.push(Listener {
            id: same.map_or_else(new_id, |old| old.id),
            bind: listener.bind,
            sites: table,
            tls,
            http2: listener.http2,
        });
    }
    listeners
}

fn upstreams(
    config: &Config,
    known: &Known,
    previous: Option<&Generation>,
    errors: &mut Vec<Error>,
) -> Vec<Arc<Upstream>> {
    let mut upstreams = Vec::new();
    for settings in &config.upstreams {
        let olds = previous.map_or(&[][..], |previous| &previous.upstreams);
        let same = olds.iter().find(|old| old.serves(settings));
        let named = || olds.iter().find(|old| old.name == settings.name);
        let before = match same {
            Some(old) => Before::Same(old),
            None => named().map_or(Before::Nothing, |old| Before::Named(old)),
        };
        match Upstream::new(settings, known, before) {
            Ok(upstream) => upstreams.push(upstream),
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

/// Returns the plugins in the order of the configuration, and the new versions of those that the
/// previous generation has as well.
fn plugins(
    config: &Config,
    engine: &Engine,
    previous: Option<&Generation>,
    errors: &mut Vec<Error>,
) -> (Vec<Arc<Plugin>>, Vec<Swap>) {
    let modules: Vec<_> = config
        .plugins
        .iter()
        .map(|settings| plugin::read_module(&settings.module))
        .collect();
    let before = previous.map_or(&[][..], |previous| &previous.plugins);
    let unchanged = |settings, module: &std::io::Result<Cow<'_, [u8]>>| {
        let bytes = module.as_ref().ok()?;
        before
            .iter()
            .find(|plugin| plugin.is_configured(settings, bytes))
    };
    let kept: Vec<_> = config
        .plugins
        .iter()
        .zip(&modules)
        .map(|(settings, module)| unchanged(settings, module).cloned())
        .collect();
    let mut plugins = Vec::new();
    let mut swaps = Vec::new();
    for ((settings, module), same) in config.plugins.iter().zip(modules).zip(&kept) {
        if let Some(plugin) = same {
            plugins.push(plugin.clone());
            continue;
        }
        let name = || settings.name.clone();
        let bytes = match module {
            Ok(bytes) => bytes,
            Err(source) => {
                errors.push(Error::Module {
                    plugin: name(),
                    module: settings.module.to_string(),
                    source,
                });
                continue;
            }
        };
        match engine.load(settings, &bytes) {
            Ok(version) => match successor(config, before, &kept, &settings.name) {
                Some(plugin) => {
                    swaps.push((plugin.clone(), version));
                    plugins.push(plugin);
                }
                None => plugins.push(Arc::new(Plugin::new(version))),
            },
            Err(source) => errors.push(Error::Plugin {
                plugin: name(),
                module: settings.module.to_string(),
                source,
            }),
        }
    }
    (plugins, swaps)
}

/// Returns the plugin before that a changed one of this name is the next version of. There may be
/// several of a name, where routes have a `config` of their own; which of them became which can be
/// told only if one has changed.
fn successor(
    config: &Config,
    before: &[Arc<Plugin>],
    kept: &[Option<Arc<Plugin>>],
    name: &str,
) -> Option<Arc<Plugin>> {
    let is_kept =
        |plugin: &Arc<Plugin>| kept.iter().flatten().any(|kept| Arc::ptr_eq(kept, plugin));
    let mut gone = before
        .iter()
        .filter(|plugin| **plugin.name() == *name && !is_kept(plugin));
    let named = config.plugins.iter().zip(kept);
    let changed = named.filter(|(settings, kept)| settings.name == name && kept.is_none());
    let only = gone.next().filter(|_| gone.next().is_none())?;
    (changed.count() == 1).then(|| only.clone())
}

/// A tenth of the shortest timeout that a sweep enforces, within 20 ms and 500 ms: each sweep
/// looks at every session.
fn sweep_interval(config: &Config) -> Duration {
    let routes = config.sites.iter().flat_map(|site| &site.routes);
    let shortest = routes
        .flat_map(|route| {
            let websocket = &route.settings.websocket;
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
