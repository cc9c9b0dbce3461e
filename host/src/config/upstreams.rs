//! Upstreams as they are written: `[upstreams.NAME]`, and those that a route's `url` makes.

use std::time::Duration;

use super::endpoints::{self, DEFAULT_ENDPOINT, bare_host, is_host};
use super::reader::{Table, Value};
use super::variables::Names;
use super::{Balance, Endpoint, HostName, Target, Upstream, UpstreamTls, balance, health, nearest};

const URL: &str = "a URL such as \"http://localhost:9010\"";

/// All upstreams of a file, growing as routes are read.
pub(super) struct Upstreams<'r> {
    upstreams: Vec<Upstream>,
    host_names: Vec<HostName>,
    /// Of the first `named.len()` upstreams: where each stands and whether a route uses it.
    named: Vec<(Value<'r>, bool)>,
}

impl<'r> Upstreams<'r> {
    /// Reads the named ones.
    pub(super) fn read(t: &Table<'r>, names: &Names<'_>) -> Self {
        let named = t.get("upstreams");
        let named = named
            .map(|value| value.entries("tables [upstreams.NAME]"))
            .unwrap_or_default();
        let mut host_names = Vec::new();
        let upstreams = named
            .iter()
            .map(|value| upstream(value, names, &mut host_names));
        Self {
            upstreams: upstreams.collect(),
            host_names,
            named: named.into_iter().map(|value| (value, false)).collect(),
        }
    }

    /// The index of the upstream whose name `value` is.
    pub(super) fn named(&mut self, value: &Value<'_>) -> Option<usize> {
        let name = value.parse("the name of an upstream", Some)?;
        let index = self
            .named
            .iter()
            .position(|(upstream, _)| upstream.name() == name);
        match index {
            Some(index) => self.named[index].1 = true,
            None => {
                let known = || self.named.iter().map(|(upstream, _)| upstream.name());
                value.problem(unknown("upstream", "upstreams", name, known()));
            }
        }
        index
    }

    /// The upstream for a URL, made if no route before had the same one, and the URL's path.
    pub(super) fn of_url(&mut self, value: &Value<'_>) -> Option<Target> {
        let url = url(value)?;
        let replace_prefix = url.path.clone();
        let upstream = self.made_for(url, value)?;
        Some(Target {
            upstream,
            replace_prefix,
        })
    }

    fn made_for(&mut self, url: Url, value: &Value<'_>) -> Option<usize> {
        if let Some((named, used)) = self.named.iter_mut().find(|(u, _)| u.name() == url.host) {
            *used = true;
            value.problem(format_args!(
                "{:?} is an upstream of this file; write `upstream = {:?}`{}",
                url.host,
                named.name(),
                match &url.path {
                    Some(path) => format!(" and `replace_prefix = {path:?}`"),
                    None => String::new(),
                }
            ));
            return None;
        }
        let made = self
            .upstreams
            .iter()
            .skip(self.named.len())
            .position(|upstream| upstream.name == url.name && upstream.tls.is_some() == url.tls);
        if let Some(made) = made {
            return Some(self.named.len() + made);
        }
        let endpoint = Endpoint {
            host: endpoints::host(value, &url.host, &mut self.host_names),
            port: url.port,
            written: format!("{}:{}", url.host, url.port),
            ..DEFAULT_ENDPOINT
        };
        self.upstreams.push(Upstream {
            name: url.name,
            endpoints: vec![endpoint],
            balance: Balance::RoundRobin,
            sticky: None,
            health: None,
            keep_alive: DEFAULT_KEEP_ALIVE,
            keep_alive_timeout: DEFAULT_KEEP_ALIVE_TIMEOUT,
            tls: url.tls.then_some(UpstreamTls {
                ca: None,
                server_name: url.host,
                verify: true,
            }),
        });
        Some(self.upstreams.len() - 1)
    }

    /// All upstreams and the names of their hosts, once all routes are read.
    pub(super) fn finish(self) -> (Vec<Upstream>, Vec<HostName>) {
        for (upstream, _) in self.named.iter().filter(|(_, used)| !used) {
            upstream.warn("no route uses this upstream");
        }
        (self.upstreams, self.host_names)
    }
}

const DEFAULT_KEEP_ALIVE: usize = 32;
const DEFAULT_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

fn upstream(value: &Value<'_>, names: &Names<'_>, host_names: &mut Vec<HostName>) -> Upstream {
    check_name(value);
    let mut upstream = Upstream {
        name: value.name().to_owned(),
        endpoints: Vec::new(),
        balance: Balance::RoundRobin,
        sticky: None,
        health: None,
        keep_alive: DEFAULT_KEEP_ALIVE,
        keep_alive_timeout: DEFAULT_KEEP_ALIVE_TIMEOUT,
        tls: None,
    };
    value.table("a table with `endpoints`", |t| {
        let balance = t
            .get("balance")
            .and_then(|value| balance::read(&value, names));
        upstream.balance = balance.unwrap_or(Balance::RoundRobin);
        let mut hosts = Vec::new();
        if let Some(value) = t.require("endpoints", "a list such as [\"127.0.0.1:9001\"]") {
            upstream.endpoints = endpoints::read(&value, &upstream.balance, &mut hosts, host_names);
        }
        upstream.sticky = t.get("sticky").and_then(|value| balance::sticky(&value));
        upstream.health = t.get("health").and_then(|value| health::read(&value));
        upstream.keep_alive = t.whole("keep_alive", 0.., DEFAULT_KEEP_ALIVE);
        upstream.keep_alive_timeout = t.duration("keep_alive_timeout", DEFAULT_KEEP_ALIVE_TIMEOUT);
        upstream.tls = t.get("tls").and_then(|value| tls(&value, &hosts));
    });
    upstream
}

fn tls(value: &Value<'_>, hosts: &[&str]) -> Option<UpstreamTls> {
    let (ca, server_name, verify) = match value.as_bool() {
        Some(false) => return None,
        Some(true) => (None, None, true),
        None => value.table("true, false or a table such as { ca = \"ca.pem\" }", |t| {
            let ca = t.get("ca").and_then(|value| value.existing_file());
            let host = |text| is_host_or_v6(text).then(|| text.to_ascii_lowercase());
            let server_name = t
                .get("server_name")
                .map(|value| value.parse("a host name", host).unwrap_or_default());
            (ca, server_name, t.boolean("verify", true))
        })?,
    };
    let server_name = server_name.unwrap_or_else(|| {
        let host = hosts.first().copied().unwrap_or_default();
        if hosts.iter().any(|other| !other.eq_ignore_ascii_case(host)) {
            value.problem(
                "the endpoints have different hosts; \
                 expected `server_name`, the name that their certificates are for",
            );
        }
        host.to_ascii_lowercase()
    });
    Some(UpstreamTls {
        ca,
        server_name,
        verify,
    })
}

fn is_host_or_v6(text: &str) -> bool {
    is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok()
}

struct Url {
    /// Host, and port unless it is the scheme's own: what nginx calls `$proxy_host`.
    name: String,
    /// Without brackets.
    host: String,
    port: u16,
    tls: bool,
    /// Takes the place of the prefix that the route matches.
    path: Option<String>,
}

fn url(value: &Value<'_>) -> Option<Url> {
    let text = value.parse(URL, Some)?;
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let tls = match scheme {
        "http" => false,
        "https" => true,
        "ws" | "wss" => {
            let http = text.replacen("ws", "http", 1);
            value.expected_because(
                URL,
                format_args!("a WebSocket begins as HTTP: write {http:?}"),
            );
            return None;
        }
        _ => {
            value.expected(URL);
            return None;
        }
    };
    if text.contains('$') {
        value.expected_because(URL, "variables in it are not supported in this release");
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        value.expected_because(URL, "requests bring their own query");
        return None;
    }
    let default_port = if tls { 443 } else { 80 };
    let with_port = authority
        .rsplit_once(':')
        .filter(|(host, _)| bare_host(host).is_some());
    let (host, port) = match with_port {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)),
        None => (authority, Some(default_port)),
    };
    let (Some(bare), Some(port)) = (bare_host(host), port) else {
        value.expected(URL);
        return None;
    };
    let host = host.to_ascii_lowercase();
    let name = if port == default_port {
        host
    } else {
        format!("{host}:{port}")
    };
    Some(Url {
        name,
        host: bare.to_ascii_lowercase(),
        port,
        tls,
        path: (!path.is_empty()).then(|| path.to_owned()),
    })
}

/// Notes a name that is no name for an upstream or plugin: names go into header fields and metrics.
pub(super) fn check_name(value: &Value<'_>) {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if value.name().is_empty() || !value.name().bytes().all(fine) {
        value.problem("expected a name of letters, digits, `-`, `_` and `.`");
    }
}

/// Says that a reference names nothing.
pub(super) fn unknown<'a>(
    what: &str,
    section: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> String {
    let known: Vec<_> = known.collect();
    let hint = match nearest::name(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known.is_empty() => format!("there is no [{section}.NAME] in this file"),
        None => format!("known: {}", known.join(", ")),
    };
    format!("unknown {what} {name:?}; {hint}")
}
