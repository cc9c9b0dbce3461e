//! Sites as they are written, and whether they can share their listeners.

use super::endpoints::is_host;
use super::logs::Formats;
use super::pattern::Regex;
use super::plugins::Plugins;
use super::reader::{Table, Value};
use super::settings::Inherited;
use super::upstreams::Upstreams;
use super::variables::{Groups, Names};
use super::{Certificate, Listener, Site, SiteName, file, routes};

const NAME: &str = "a host name such as \"www.example.com\", \"*.example.com\" or \
                    \"www.example.*\", or a pattern such as \"~^www[0-9]+[.]example[.]com$\"";

const CERTIFICATE: &str = "a table such as { chain = \"cert.pem\", key = \"key.pem\" }";

/// Listeners with their places in the file.
type Listeners<'r> = [(Value<'r>, Listener)];

/// What sites and routes refer to.
pub(super) struct Parts<'r, 'a> {
    pub(super) listeners: &'a Listeners<'r>,
    /// Routes add to them.
    pub(super) upstreams: Upstreams<'r>,
    /// Routes add to them.
    pub(super) plugins: Plugins<'r>,
    pub(super) names: Names<'a>,
    pub(super) formats: &'a Formats<'a>,
}

/// What routes take over from their site.
pub(super) struct Level<'a> {
    pub(super) inherited: &'a Inherited,
    pub(super) groups: &'a Groups,
}

/// Reads `[[sites]]`.
pub(super) fn read<'r>(
    t: &Table<'r>,
    parts: &mut Parts<'r, '_>,
    defaults: &Inherited,
) -> Vec<Site> {
    const SITES: &str = "at least one table [[sites]] with [[sites.routes]]";
    let Some(value) = t.require("sites", SITES) else {
        return Vec::new();
    };
    let items = value.list("a list of tables [[sites]]");
    if items.is_empty() && value.is_list() {
        value.problem(format_args!("expected {SITES}, found none"));
    }
    let mut sites: Vec<Written<'r>> = Vec::new();
    for item in items {
        let site = item.table("a table", |t| site(t, &item, parts, defaults));
        sites.extend(site);
    }
    check_names(&sites, parts.listeners);
    check_defaults(&sites, parts.listeners);
    check_listeners(&sites, parts.listeners);
    sites.into_iter().map(|written| written.site).collect()
}

/// A site, and where the parts stand that may clash with other sites'.
struct Written<'r> {
    value: Value<'r>,
    names: Vec<Value<'r>>,
    /// In the file, usable or not.
    has_certificate: bool,
    site: Site,
}

fn site<'r>(
    t: &Table<'r>,
    value: &Value<'r>,
    parts: &mut Parts<'r, '_>,
    defaults: &Inherited,
) -> Written<'r> {
    let listeners = parts.listeners;
    let written_names = t
        .get("names")
        .map(|value| value.list("a list of host names"));
    let nameless = written_names.as_ref().is_none_or(Vec::is_empty);
    let (names, name_values): (Vec<SiteName>, _) = written_names
        .unwrap_or_default()
        .into_iter()
        .filter_map(|value| Some((name(&value)?, value)))
        .unzip();
    let used = match t.get("listeners") {
        Some(value) => references(&value, listeners),
        None => (0..listeners.len()).collect(),
    };
    let default = t.get("default");
    let is_default = match default.as_ref().map(|value| (value, value.as_bool())) {
        None => nameless,
        Some((value, Some(false))) if nameless => {
            value.problem("a site without `names` can only be a default site");
            true
        }
        Some((_, Some(written))) => written,
        Some((value, None)) => {
            value.expected("true or false");
            nameless
        }
    };
    let written_certificate = t.get("certificate");
    let has_certificate = written_certificate.is_some();
    let certificate = written_certificate
        .and_then(|value| value.table(CERTIFICATE, certificate))
        .flatten();
    let groups = names
        .iter()
        .fold(Groups::default(), |groups, name| match name {
            SiteName::Regex(regex) => groups.or(Groups::of(regex)),
            _ => groups,
        });
    let variables = Names {
        groups: Some(&groups),
        ..parts.names
    };
    let inherited = defaults.read(t, &variables, parts.formats);
    let level = Level {
        inherited: &inherited,
        groups: &groups,
    };
    let routes = routes::read(t, parts, &level);
    let site = Site {
        names,
        listeners: used,
        default: is_default,
        certificate,
        settings: inherited.settings,
        routes,
    };
    Written {
        value: value.clone(),
        names: name_values,
        has_certificate,
        site,
    }
}

fn name(value: &Value<'_>) -> Option<SiteName> {
    let Some(text) = value.as_str() else {
        value.expected(NAME);
        return None;
    };
    if let Some(expression) = text.strip_prefix('~') {
        // Hosts have no case; groups get it in lower case.
        return Regex::read(value, expression, true).map(SiteName::Regex);
    }
    let lower = text.to_ascii_lowercase();
    let suffix = lower.strip_prefix('*').filter(|rest| rest.starts_with('.'));
    let prefix = lower.strip_suffix('*').filter(|rest| rest.ends_with('.'));
    let read = match (suffix, prefix) {
        (Some(suffix), _) => is_host(&suffix[1..]).then(|| SiteName::Suffix(suffix.to_owned())),
        (None, Some(prefix)) => {
            let host = &prefix[..prefix.len() - 1];
            is_host(host).then(|| SiteName::Prefix(prefix.to_owned()))
        }
        (None, None) => is_host_or_bracketed(&lower).then_some(SiteName::Exact(lower)),
    };
    if read.is_none() {
        match text {
            "*" | "" | "_" => value.expected_because(NAME, "a site for all names has no `names`"),
            _ if text.contains(':') => value.expected_because(NAME, "ports belong to `listeners`"),
            _ if text.starts_with('.') => value.expected_because(
                NAME,
                format_args!("write \"{}\", \"*{text}\" for both", &text[1..]),
            ),
            _ if !text.is_ascii() => value.expected_because(NAME, "write it in its xn-- form"),
            _ => value.expected(NAME),
        }
    }
    read
}

/// Whether this is what a `Host` field may have before its port.
fn is_host_or_bracketed(text: &str) -> bool {
    let v6 = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    v6.map_or_else(
        || is_host(text) && text != "_",
        |v6| v6.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

/// Reads which listeners a site is on. An address with port 0 means all listeners that say so.
fn references<'r>(value: &Value<'r>, listeners: &Listeners<'r>) -> Vec<usize> {
    let mut indices = Vec::new();
    let items = value.list("a list such as [\"127.0.0.1:8080\"]");
    if items.is_empty() && value.is_list() {
        value.problem("expected at least one listener, found none");
    }
    for item in items {
        let Some(address) = file::address(&item) else {
            continue;
        };
        let same = |(_, (_, listener)): &(usize, &(Value<'_>, Listener))| listener.bind == address;
        let mut found = listeners
            .iter()
            .enumerate()
            .filter(same)
            .map(|(index, _)| index)
            .peekable();
        if found.peek().is_none() {
            let known: Vec<_> = listeners.iter().map(|(_, l)| l.bind.to_string()).collect();
            item.problem(format_args!(
                "unknown listener \"{address}\"; known: {}",
                known.join(", ")
            ));
        }
        for index in found {
            if indices.contains(&index) {
                item.problem(format_args!("\"{address}\" is already in this list"));
            } else {
                indices.push(index);
            }
        }
    }
    indices
}

fn certificate(t: &Table<'_>) -> Option<Certificate> {
    const PEM: &str = "a path of a PEM file";
    let chain = t
        .require("chain", PEM)
        .and_then(|value| value.existing_file());
    let key = t
        .require("key", PEM)
        .and_then(|value| value.existing_file());
    Some(Certificate {
        chain: chain?,
        key: key?,
    })
}

/// Of a name that stands twice on one listener, the second has no effect.
fn check_names(sites: &[Written<'_>], listeners: &Listeners<'_>) {
    let mut taken: Vec<(usize, &SiteName, &Written<'_>)> = Vec::new();
    for written in sites {
        for (name, value) in written.site.names.iter().zip(&written.names) {
            let clash = taken.iter().find(|(listener, other, _)| {
                *other == name && written.site.listeners.contains(listener)
            });
            if let Some((listener, _, other)) = clash {
                value.warn(format_args!(
                    "has no effect: {} is already a name of {} on {}",
                    value.found(),
                    other.value.key(),
                    listeners[*listener].1.bind
                ));
                continue;
            }
            taken.extend(
                written
                    .site
                    .listeners
                    .iter()
                    .map(|index| (*index, name, written)),
            );
        }
    }
}

/// A listener has at most one default site.
fn check_defaults(sites: &[Written<'_>], listeners: &Listeners<'_>) {
    for (index, written) in sites
        .iter()
        .enumerate()
        .filter(|(_, written)| written.site.default)
    {
        let clash = written.site.listeners.iter().find_map(|listener| {
            let other = sites[..index]
                .iter()
                .find(|other| other.site.default && other.site.listeners.contains(listener))?;
            Some((listener, other))
        });
        if let Some((listener, other)) = clash {
            written.value.problem(format_args!(
                "{} already has a default site, {}; a site without `names` is one too",
                listeners[*listener].1.bind,
                other.value.key()
            ));
        }
    }
}

/// Every listener has a site, and every site of a TLS listener has a certificate.
fn check_listeners(sites: &[Written<'_>], listeners: &Listeners<'_>) {
    // A site that could not be placed may have been meant for any of them.
    let all_placed = !sites.is_empty() && sites.iter().all(|w| !w.site.listeners.is_empty());
    for (index, (value, _)) in listeners.iter().enumerate().filter(|_| all_placed) {
        if !sites
            .iter()
            .any(|written| written.site.listeners.contains(&index))
        {
            value.problem("no site answers here; add it to the `listeners` of one");
        }
    }
    for written in sites {
        let on_tls = written
            .site
            .listeners
            .iter()
            .find(|index| listeners[**index].1.tls);
        match (on_tls, &written.site.certificate) {
            (Some(index), None) if !written.has_certificate => written.value.problem(format_args!(
                "expected `certificate`, found none; {} has `tls`, \
                 and `listeners` can keep this site off it",
                listeners[*index].1.bind
            )),
            (None, Some(_)) => {
                written
                    .value
                    .warn("`certificate` has no effect: no listener of this site has `tls`");
            }
            _ => {}
        }
    }
}
