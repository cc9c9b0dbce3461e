//! Upstreams as they are written: `[upstreams.NAME]`, and those that a route's `url` makes.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::reader::{Table, Value, reason};
use super::{Balance, Endpoint, Upstream, UpstreamTls, nearest};

const ENDPOINT: &str = "host:port such as \"127.0.0.1:9001\" or \"localhost:9001\"";
const URL: &str = "a URL such as \"http://localhost:9010\"";

/// All upstreams of a file, growing as routes are read.
pub(super) struct Upstreams<'r> {
    upstreams: Vec<Upstream>,
    /// Of the first `named.len()` upstreams: where each stands and whether a route uses it.
    named: Vec<(Value<'r>, bool)>,
}

impl<'r> Upstreams<'r> {
    /// Reads the named ones.
    pub(super) fn read(t: &Table<'r>) -> Self {
        let named = t.get("upstreams");
        let named = named
            .map(|value| value.entries("tables [upstreams.NAME]"))
            .unwrap_or_default();
        let upstreams = named.iter().map(upstream).collect();
        Self {
            upstreams,
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

    /// The index of the upstream for a URL, made if no route before had the same one.
    pub(super) fn of_url(&mut self, value: &Value<'_>) -> Option<usize> {
        let url = url(value)?;
        if let Some((named, used)) = self.named.iter_mut().find(|(u, _)| u.name() == url.host) {
            *used = true;
            value.problem(format_args!(
                "{:?} is an upstream of this file; write `upstream = {:?}`",
                url.host,
                named.name()
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
        let endpoints = resolve(value, &url.host, url.port)
            .into_iter()
            .map(|address| Endpoint {
                address,
                ..DEFAULT_ENDPOINT
            })
            .collect();
        self.upstreams.push(Upstream {
            name: url.name,
            endpoints,
            balance: Balance::RoundRobin,
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

    /// All upstreams, once all routes are read.
    pub(super) fn finish(self) -> Vec<Upstream> {
        for (upstream, _) in self.named.iter().filter(|(_, used)| !used) {
            upstream.warn("no route uses this upstream");
        }
        self.upstreams
    }
}

const DEFAULT_KEEP_ALIVE: usize = 32;
const DEFAULT_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

const DEFAULT_ENDPOINT: Endpoint = Endpoint {
    address: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
    weight: 1,
    max_fails: 1,
    fail_timeout: Duration::from_secs(10),
    backup: false,
};

fn upstream(value: &Value<'_>) -> Upstream {
    check_name(value);
    let mut upstream = Upstream {
        name: value.name().to_owned(),
        endpoints: Vec::new(),
        balance: Balance::RoundRobin,
        keep_alive: DEFAULT_KEEP_ALIVE,
        keep_alive_timeout: DEFAULT_KEEP_ALIVE_TIMEOUT,
        tls: None,
    };
    value.table("a table with `endpoints`", |t| {
        if let Some(value) = t.get("balance") {
            balance(&value);
        }
        let mut hosts = Vec::new();
        if let Some(value) = t.require("endpoints", "a list such as [\"127.0.0.1:9001\"]") {
            upstream.endpoints = endpoints(&value, &mut hosts);
        }
        upstream.keep_alive = t.whole("keep_alive", 0.., DEFAULT_KEEP_ALIVE);
        upstream.keep_alive_timeout = t.duration("keep_alive_timeout", DEFAULT_KEEP_ALIVE_TIMEOUT);
        upstream.tls = t.get("tls").and_then(|value| tls(&value, &hosts));
    });
    upstream
}

/// There is one way so far, so a valid value changes nothing.
fn balance(value: &Value<'_>) {
    match value.as_str() {
        Some("round-robin") => {}
        Some("least-connections" | "ip-hash" | "random-two") => {
            value.expected_because("\"round-robin\"", "not supported in this release");
        }
        Some(text) if text.starts_with("hash(") => {
            value.expected_because("\"round-robin\"", "not supported in this release");
        }
        _ => value.expected("\"round-robin\""),
    }
}

/// Reads the endpoints, and their hosts as written.
fn endpoints<'r>(value: &Value<'r>, hosts: &mut Vec<&'r str>) -> Vec<Endpoint> {
    let items = value.list("a list such as [\"127.0.0.1:9001\"]");
    if items.is_empty() && value.is_list() {
        value.problem("expected at least one endpoint, found none");
    }
    let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
    let mut only_backups = !items.is_empty();
    for item in &items {
        let (at, endpoint) = match item.is_table() {
            true => {
                let read = |t: &Table<'r>| (t.require("address", ENDPOINT), endpoint(t));
                let Some((Some(at), endpoint)) = item.table(ENDPOINT, read) else {
                    only_backups = false;
                    continue;
                };
                (at, endpoint)
            }
            false => (item.clone(), DEFAULT_ENDPOINT),
        };
        only_backups &= endpoint.backup;
        let Some((host, port)) = host_and_port(&at) else {
            continue;
        };
        hosts.push(host);
        for address in resolve(&at, host, port) {
            match endpoints.iter().find(|(_, other)| other.address == address) {
                Some((other, _)) => at.problem(format_args!(
                    "{address} is already {other}; `weight` gives an endpoint a larger share"
                )),
                None => endpoints.push((
                    item.key().to_owned(),
                    Endpoint {
                        address,
                        ..endpoint
                    },
                )),
            }
        }
    }
    if only_backups {
        value.problem("expected at least one endpoint that is no backup, found only backups");
    }
    endpoints
        .into_iter()
        .map(|(_, endpoint)| endpoint)
        .collect()
}

/// Reads an endpoint but for its address.
fn endpoint(t: &Table<'_>) -> Endpoint {
    Endpoint {
        weight: t.whole("weight", 1.., DEFAULT_ENDPOINT.weight),
        max_fails: t.whole("max_fails", 0.., DEFAULT_ENDPOINT.max_fails),
        fail_timeout: t.duration("fail_timeout", DEFAULT_ENDPOINT.fail_timeout),
        backup: t.boolean("backup", DEFAULT_ENDPOINT.backup),
        ..DEFAULT_ENDPOINT
    }
}

fn host_and_port<'r>(value: &Value<'r>) -> Option<(&'r str, u16)> {
    let text = value.as_str().unwrap_or_default();
    let read = || {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some((bare_host(host)?, port))
    };
    let endpoint = read();
    if endpoint.is_none() {
        if text.contains("://") {
            let why = "the scheme belongs to a route's `url` or to the upstream's `tls`";
            value.expected_because(ENDPOINT, why);
        } else {
            value.expected(ENDPOINT);
        }
    }
    endpoint
}

/// A host name or address, without the brackets of an IPv6 address.
fn bare_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => is_host(host).then_some(host),
    }
}

/// Whether this could be a host name or an IPv4 address.
pub(super) fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn resolve(value: &Value<'_>, host: &str, port: u16) -> Vec<SocketAddr> {
    let resolved = (host, port).to_socket_addrs().and_then(|addresses| {
        let addresses: Vec<_> = addresses.collect();
        if addresses.is_empty() {
            return Err(io::Error::other("it has no address"));
        }
        Ok(addresses)
    });
    resolved.unwrap_or_else(|error| {
        value.expected_because("a host that can be resolved", reason(&error));
        Vec::new()
    })
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
    if !path.is_empty() {
        value.expected_because(
            URL,
            format_args!(
                "a path ({path:?}) is not supported in this release, requests keep theirs"
            ),
        );
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
