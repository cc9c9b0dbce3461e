//! What a reload changes, in the words of the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::certificates::Fingerprint;
use crate::config::{self, Action, Config, Files, Respond};
use crate::generation::{Built, Generation};

/// One thing that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) how: How,
}

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Certificate,
    Site,
    Route,
    Upstream,
    Plugin,
    /// A key or table of the top level.
    Setting,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Added,
    Removed,
    Changed,
}

/// Returns what differs between what is in force and what is to be. Nothing: the two are the same.
pub(super) fn between(
    (config, generation): (&Config, &Generation),
    (next, built): (&Config, &Built),
) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(
        Kind::Listener,
        listeners(config),
        &listeners(next),
        &mut changes,
    );
    let certificates = [generation, &built.generation].map(certificates);
    let [before, after] = certificates.map(|all| all.into_iter().collect::<Vec<_>>());
    compare(Kind::Certificate, before, &after, &mut changes);
    compare(Kind::Site, sites(config), &sites(next), &mut changes);
    compare(Kind::Route, routes(config), &routes(next), &mut changes);
    compare(
        Kind::Upstream,
        upstreams(config),
        &upstreams(next),
        &mut changes,
    );
    compare(Kind::Plugin, plugins(config), &plugins(next), &mut changes);
    compare(
        Kind::Setting,
        settings(config),
        &settings(next),
        &mut changes,
    );
    for (kind, name) in renewed(generation, built) {
        if !changes
            .iter()
            .any(|change| change.kind == kind && change.name == name)
        {
            let how = How::Changed;
            changes.push(Change { kind, name, how });
        }
    }
    if changes.is_empty() && config != next {
        // Such as another order of sites.
        let (kind, how) = (Kind::Setting, How::Changed);
        let name = "order".to_owned();
        changes.push(Change { kind, name, how });
    }
    changes.sort_by_key(|change| change.kind as u8);
    changes
}

/// Things of one kind by their names. Those of the same name are told apart by their order.
type Named<T> = Vec<(String, T)>;

fn compare<T: PartialEq>(
    kind: Kind,
    mut before: Named<T>,
    after: &Named<T>,
    changes: &mut Vec<Change>,
) {
    let mut note = |name: &str, how| {
        let name = name.to_owned();
        changes.push(Change { kind, name, how });
    };
    for (name, value) in after {
        match before.iter().position(|(old, _)| old == name) {
            None => note(name, How::Added),
            Some(place) => {
                let (_, old) = before.remove(place);
                if old != *value {
                    note(name, How::Changed);
                }
            }
        }
    }
    for (name, _) in &before {
        note(name, How::Removed);
    }
}

fn listeners(config: &Config) -> Named<(bool, bool)> {
    let listeners = config.listeners.iter();
    let listener = |l: &config::Listener| (l.bind.to_string(), (l.tls, l.http2));
    listeners.map(listener).collect()
}

fn certificates(generation: &Generation) -> BTreeMap<String, Fingerprint> {
    let served = generation.listeners.iter().filter_map(|l| l.tls.as_ref());
    let files = served.flat_map(|served| served.certificates.iter());
    files
        .map(|(path, fingerprint)| (path.display().to_string(), *fingerprint))
        .collect()
}

/// What a site is beside its routes.
#[derive(PartialEq)]
struct Site<'a> {
    names: &'a [config::SiteName],
    listeners: Vec<SocketAddr>,
    default: bool,
    certificate: Option<(&'a Path, &'a Path)>,
    settings: &'a config::Settings,
}

fn sites(config: &Config) -> Named<Site<'_>> {
    config
        .sites
        .iter()
        .map(|site| {
            let listeners = site.listeners.iter();
            let certificate = site.certificate.as_ref();
            let parts = Site {
                names: &site.names,
                listeners: listeners.map(|&at| config.listeners[at].bind).collect(),
                default: site.default,
                certificate: certificate.map(|pair| (&*pair.chain, &*pair.key)),
                settings: &site.settings,
            };
            (name(site), parts)
        })
        .collect()
}

/// What a site is called: by its first name.
fn name(site: &config::Site) -> String {
    let first = site.names.first();
    first.map_or_else(|| "default".to_owned(), ToString::to_string)
}

/// What a route is, with names in place of indices, which other changes may move.
#[derive(PartialEq)]
struct Route<'a> {
    action: RouteAction<'a>,
    plugins: Vec<(&'a str, &'a str)>,
    settings: &'a config::Settings,
}

#[derive(PartialEq)]
enum RouteAction<'a> {
    /// The upstream, whether it has TLS, and what takes the place of the prefix.
    Proxy(&'a str, bool, Option<&'a str>),
    Files(&'a Files),
    Respond(&'a Respond),
}

fn routes(config: &Config) -> Named<Route<'_>> {
    let sites = config.sites.iter();
    let routes = sites.flat_map(|site| site.routes.iter().map(move |route| (site, route)));
    routes
        .map(|(site, route)| {
            let action = match &route.action {
                Action::Proxy(target) => {
                    let upstream = &config.upstreams[target.upstream];
                    let path = target.replace_prefix.as_deref();
                    RouteAction::Proxy(&upstream.name, upstream.tls.is_some(), path)
                }
                Action::Files(files) => RouteAction::Files(files),
                Action::Respond(respond) => RouteAction::Respond(respond),
            };
            let plugins = route.plugins.iter().map(|&plugin| {
                let plugin = &config.plugins[plugin];
                (&*plugin.name, &*plugin.config)
            });
            let parts = Route {
                action,
                plugins: plugins.collect(),
                settings: &route.settings,
            };
            (format!("{} {}", name(site), route.pattern), parts)
        })
        .collect()
}

fn upstreams(config: &Config) -> Named<&config::Upstream> {
    let upstreams = config.upstreams.iter();
    upstreams
        .map(|upstream| (upstream.name.clone(), upstream))
        .collect()
}

/// Each plugin with all its variants.
fn plugins(config: &Config) -> Named<Vec<&config::Plugin>> {
    let mut plugins: Named<Vec<&config::Plugin>> = Vec::new();
    for plugin in &config.plugins {
        match plugins.iter_mut().find(|(name, _)| *name == plugin.name) {
            Some((_, variants)) => variants.push(plugin),
            None => plugins.push((plugin.name.clone(), vec![plugin])),
        }
    }
    plugins
}

/// The rest, each by its key and as it is printed for developers, which differs where it does.
fn settings(config: &Config) -> Named<String> {
    let Config {
        workers,
        admin,
        watch,
        access_logs,
        limits,
        timeouts,
        resolver,
        maps,
        http2,
        listeners: _,
        upstreams: _,
        host_names: _,
        plugins: _,
        sites: _,
    } = config;
    let settings: [(&str, &dyn fmt::Debug); 9] = [
        ("workers", workers),
        ("admin", admin),
        ("watch", watch),
        ("access_log", access_logs),
        ("limits", limits),
        ("timeouts", timeouts),
        ("resolver", resolver),
        ("maps", maps),
        ("http2", http2),
    ];
    let setting = |(key, value): (&str, &dyn fmt::Debug)| (key.to_owned(), format!("{value:?}"));
    settings.map(setting).into()
}

/// Returns what is written as before and is another one all the same: modules whose bytes differ, and
/// upstreams whose names have other addresses or whose authorities are others.
fn renewed(before: &Generation, built: &Built) -> Vec<(Kind, String)> {
    let after = &built.generation;
    let is_new = |plugin: &&Arc<_>| !before.plugins.iter().any(|old| Arc::ptr_eq(old, plugin));
    let plugins = after.plugins.iter().filter(is_new);
    let plugins = plugins.map(|plugin| plugin.name().to_string());
    let swapped = built.swapped().map(str::to_owned);
    let is_new = |upstream: &&Arc<_>| {
        !before
            .upstreams
            .iter()
            .any(|old| Arc::ptr_eq(old, upstream))
    };
    let upstreams = after.upstreams.iter().filter(is_new);
    let upstreams = upstreams.map(|upstream| (Kind::Upstream, upstream.name.clone()));
    let plugins = plugins.chain(swapped).map(|name| (Kind::Plugin, name));
    let mut renewed: Vec<_> = plugins.chain(upstreams).collect();
    renewed.dedup();
    renewed
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Certificate => "certificate",
            Self::Site => "site",
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::Plugin => "plugin",
            Self::Setting => "setting",
        }
    }
}

impl How {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}
