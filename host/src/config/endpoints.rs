//! Endpoints as they are written: `endpoints` of `[upstreams.NAME]`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::reader::{Table, Value};
use super::{Balance, Endpoint, Host, HostName};

const ENDPOINT: &str = "host:port such as \"127.0.0.1:9001\" or \"localhost:9001\"";

pub(super) const DEFAULT_ENDPOINT: Endpoint = Endpoint {
    host: Host::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    port: 0,
    written: String::new(),
    weight: 1,
    max_fails: 1,
    fail_timeout: Duration::from_secs(10),
    max_connections: 0,
    slow_start: Duration::ZERO,
    backup: false,
    down: false,
};

/// Reads the endpoints, and their hosts as written.
pub(super) fn read<'r>(
    value: &Value<'r>,
    balance: &Balance,
    hosts: &mut Vec<&'r str>,
    names: &mut Vec<HostName>,
) -> Vec<Endpoint> {
    let items = value.list("a list such as [\"127.0.0.1:9001\"]");
    if items.is_empty() && value.is_list() {
        value.problem("expected at least one endpoint, found none");
    }
    let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
    let mut only_backups = !items.is_empty();
    for item in &items {
        let (at, endpoint) = match item.is_table() {
            true => {
                let read = |t: &Table<'r>| (t.require("address", ENDPOINT), endpoint(t, balance));
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
        let (host, written) = (
            self::host(&at, host, names),
            at.as_str().unwrap_or_default(),
        );
        let twin = endpoints
            .iter()
            .find(|(_, other)| other.host == host && other.port == port);
        if let Some((twin, _)) = twin {
            at.problem(format_args!(
                "{written} is already {twin}; `weight` gives an endpoint a larger share"
            ));
            continue;
        }
        let endpoint = Endpoint {
            host,
            port,
            written: written.to_owned(),
            ..endpoint
        };
        endpoints.push((item.key().to_owned(), endpoint));
    }
    if only_backups {
        value.problem("expected at least one endpoint that is no backup, found only backups");
    }
    let endpoints: Vec<_> = endpoints
        .into_iter()
        .map(|(_, endpoint)| endpoint)
        .collect();
    check_ring(value, balance, &endpoints);
    endpoints
}

/// Reads an endpoint but for its address.
fn endpoint(t: &Table<'_>, balance: &Balance) -> Endpoint {
    let endpoint = Endpoint {
        weight: t.whole("weight", 1.., DEFAULT_ENDPOINT.weight),
        max_fails: t.whole("max_fails", 0.., DEFAULT_ENDPOINT.max_fails),
        fail_timeout: t.duration("fail_timeout", DEFAULT_ENDPOINT.fail_timeout),
        max_connections: t.whole("max_connections", 0.., DEFAULT_ENDPOINT.max_connections),
        slow_start: t.duration_or_zero("slow_start", DEFAULT_ENDPOINT.slow_start),
        backup: t.boolean("backup", DEFAULT_ENDPOINT.backup),
        down: t.boolean("down", DEFAULT_ENDPOINT.down),
        ..DEFAULT_ENDPOINT
    };
    if !takes_turns(balance) {
        let used = [
            ("backup", endpoint.backup),
            ("slow_start", !endpoint.slow_start.is_zero()),
        ];
        for value in used
            .iter()
            .filter_map(|(name, used)| t.get(name).filter(|_| *used))
        {
            value.problem(
                "this way of balancing does not support it; \
                 \"round-robin\" and \"least-connections\" do",
            );
        }
    }
    endpoint
}

/// Whether it is by their state that endpoints are chosen, and not by the request or by chance.
fn takes_turns(balance: &Balance) -> bool {
    match balance {
        Balance::RoundRobin | Balance::LeastConnections => true,
        Balance::IpHash | Balance::RandomTwo | Balance::Hash { .. } => false,
    }
}

/// A ring has 160 points for each unit of weight.
fn check_ring(value: &Value<'_>, balance: &Balance, endpoints: &[Endpoint]) {
    const MOST: u64 = 10_000;
    let total: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
    if matches!(
        balance,
        Balance::Hash {
            consistent: true,
            ..
        }
    ) && total > MOST
    {
        value.problem(format_args!(
            "expected weights of at most {MOST} together for a consistent hash, found {total}"
        ));
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
        match text.split_once("://") {
            Some((scheme, rest)) => value.problem(format_args!(
                "invalid host in upstream: expected {ENDPOINT}, found {text:?}; {}",
                without_scheme(scheme, rest)
            )),
            None => value.expected(ENDPOINT),
        }
    }
    endpoint
}

/// What to write instead of a URL.
fn without_scheme(scheme: &str, rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (port, tls) = match scheme {
        "https" | "wss" => (":443", ", and `tls = true` in the upstream"),
        _ => (":80", ""),
    };
    let port = if authority.contains(':') { "" } else { port };
    format!("write \"{authority}{port}\"{tls}")
}

/// A host name or address, without the brackets of an IPv6 address.
pub(super) fn bare_host(host: &str) -> Option<&str> {
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

/// Reads a host. A name is noted, since its addresses are not known yet.
pub(super) fn host(value: &Value<'_>, text: &str, names: &mut Vec<HostName>) -> Host {
    if let Ok(address) = text.parse() {
        return Host::Address(address);
    }
    let name = text.to_ascii_lowercase();
    names.push(HostName {
        name: name.clone(),
        problem: value.possible_problem(format_args!(
            "host not found in upstream: expected a name that can be resolved, found {}",
            value.found()
        )),
    });
    Host::Name(name)
}
