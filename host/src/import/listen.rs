//! `listen` and `server_name`: which addresses and names a server answers for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::report::Place;
use super::translator::Translator;
use super::tree::Directive;

/// An address to bind, over all servers.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    /// Where it stands first.
    pub(super) place: Place,
    /// The server that has `default_server`, and where it says so.
    pub(super) default: Option<(usize, Place)>,
}

/// A `server` block and what it answers for.
pub(super) struct Server<'a> {
    pub(super) block: &'a Directive,
    /// Indices of its listeners.
    pub(super) listeners: Vec<usize>,
    /// As the configuration writes them.
    pub(super) names: Vec<String>,
    /// Where its names stand; the block's place if it has none.
    pub(super) named_at: Place,
}

/// Names and addresses under which a server is one site.
pub(super) struct Site {
    pub(super) server: usize,
    pub(super) names: Vec<String>,
    pub(super) listeners: Vec<usize>,
    pub(super) is_default: bool,
}

impl<'a> Translator<'a> {
    /// Reads names and addresses of all servers.
    pub(super) fn servers(&mut self) -> (Vec<Server<'a>>, Vec<Listener>) {
        let mut listeners = Vec::new();
        let mut servers = Vec::new();
        let http = self.http;
        for block in http.iter().filter(|d| d.is("server")) {
            block.is_used.set(true);
            let index = servers.len();
            let own = |name| block.children().iter().filter(move |d| d.is(name));
            let mut server = Server {
                block,
                listeners: Vec::new(),
                names: Vec::new(),
                named_at: block.place.clone(),
            };
            for directive in own("listen") {
                self.listen(directive, index, &mut server, &mut listeners);
            }
            if own("listen").next().is_none() {
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
                let text = "without `listen` it is *:80";
                self.report.relies(&block.place, "server", text);
                place_at(any, block.place.clone(), &mut server, &mut listeners);
            }
            for directive in own("server_name") {
                server.named_at = directive.place.clone();
                self.keep(directive, "names");
                for name in &directive.arguments {
                    self.name(directive, name, &mut server.names);
                }
            }
            servers.push(server);
        }
        (servers, listeners)
    }

    fn listen(
        &mut self,
        directive: &Directive,
        index: usize,
        server: &mut Server<'a>,
        listeners: &mut Vec<Listener>,
    ) {
        let Some(address) = self.address(directive) else {
            return;
        };
        self.keep(directive, "listeners");
        let at = place_at(address, directive.place.clone(), server, listeners);
        for option in &directive.arguments[1..] {
            let name = option.split('=').next().unwrap_or_default();
            match name {
                "ssl" => listeners[at].tls = true,
                "default_server" | "default" => {
                    if let Some((other, place)) = &listeners[at].default {
                        let text = format!("{address} has a default server already ({place})");
                        if *other != index {
                            self.error(directive, text, None);
                        }
                    } else {
                        listeners[at].default = Some((index, directive.place.clone()));
                    }
                }
                "http2" => {}
                "reuseport" | "deferred" | "bind" | "backlog" | "rcvbuf" | "sndbuf"
                | "fastopen" | "so_keepalive" | "setfib" | "accept_filter" => {
                    let what = format!("{} ({option})", directive.text());
                    let why = "sockets are set up by Tidegate itself";
                    self.report.dropped(&directive.place, &what, why);
                }
                "ipv6only" if option == "ipv6only=on" => {}
                "ipv6only" => {
                    let hint = "write a `listen` of its own for IPv4";
                    self.error(directive, format!("{option} is not supported"), Some(hint));
                }
                "proxy_protocol" => {
                    let hint = "let clients or the proxy in front connect without it";
                    self.error(directive, "proxy_protocol is not supported", Some(hint));
                }
                "quic" | "http3" => {
                    let hint = "leave this `listen` out; browsers then use HTTP/2";
                    self.error(directive, "HTTP/3 is not supported", Some(hint));
                }
                _ => self.error(directive, format!("invalid parameter {option:?}"), None),
            }
        }
    }

    /// Reads `80`, `*:80`, `127.0.0.1`, `127.0.0.1:80`, `[::]:80` or `localhost:80`.
    fn address(&mut self, directive: &Directive) -> Option<SocketAddr> {
        let text = directive.argument(0);
        if text.starts_with("unix:") {
            let hint = "write an address and port";
            self.error(directive, "UNIX sockets are not supported", Some(hint));
            return None;
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => ("*", Some(text)),
            _ => (text, None),
        };
        let port = match port {
            None => Some(80),
            Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0),
        };
        let ip = match host {
            "*" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
                Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            },
        };
        match (ip, port) {
            (Some(ip), Some(port)) => Some(SocketAddr::new(ip, port)),
            (_, None) => {
                self.error(directive, format!("invalid port in {text:?}"), None);
                None
            }
            (None, _) => {
                let hint = "write an IP address, such as 127.0.0.1:80 or [::]:80, or a port";
                self.error(directive, format!("no address: {text:?}"), Some(hint));
                None
            }
        }
    }

    /// Adds what a name of a server is here. Names that no client can ask for are left out.
    fn name(&mut self, directive: &Directive, name: &str, names: &mut Vec<String>) {
        let lower = name.to_ascii_lowercase();
        let mut add = |name: String| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        match lower.as_str() {
            // Requests without a host go to the default in any case.
            "" | "_" | "__" | "--" | "!@#" => {}
            _ if name.starts_with('~') => add(name.to_owned()),
            _ if name.contains('$') => {
                let hint = "write the name";
                self.error(
                    directive,
                    format!("variables in {name:?} are not supported"),
                    Some(hint),
                );
            }
            _ => match lower.strip_prefix('.') {
                Some(rest) => {
                    add(rest.to_owned());
                    add(format!("*.{rest}"));
                }
                None => add(lower),
            },
        }
    }

    /// Divides servers into sites: a server that is the default of one of its listeners and not of
    /// another, or whose name another has on one of them, is more than one.
    pub(super) fn sites(&mut self, servers: &[Server<'a>], listeners: &[Listener]) -> Vec<Site> {
        let mut sites: Vec<Site> = Vec::new();
        let mut taken: Vec<(usize, &str, &Place)> = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let first = sites.len();
            for &listener in &server.listeners {
                let first_server = servers.iter().position(|s| s.listeners.contains(&listener));
                let default = listeners[listener].default.as_ref();
                let is_default =
                    default.map_or(first_server, |(server, _)| Some(*server)) == Some(index);
                let mut names = Vec::new();
                for name in &server.names {
                    let other = taken.iter().find(|(at, n, _)| *at == listener && n == name);
                    if let Some((.., other)) = other {
                        let address = listeners[listener].address;
                        let what = format!("server_name {name}");
                        let why = format!("{other} has this name on {address} already");
                        self.report.dropped(&server.named_at, &what, why);
                        continue;
                    }
                    taken.push((listener, name, &server.named_at));
                    names.push(name.clone());
                }
                let same = |site: &&mut Site| site.names == names && site.is_default == is_default;
                match sites[first..].iter_mut().find(same) {
                    Some(site) => site.listeners.push(listener),
                    None => sites.push(Site {
                        server: index,
                        names,
                        listeners: vec![listener],
                        is_default,
                    }),
                }
            }
        }
        sites.retain(|site| {
            let reached = site.is_default || !site.names.is_empty();
            if !reached {
                let place = &servers[site.server].block.place;
                let why = "no request reaches it: it has no name that clients could ask for, and \
                           is no default server";
                self.report.dropped(place, "server", why);
            }
            reached
        });
        sites
    }
}

/// Puts a server on an address and returns the listener.
fn place_at(
    address: SocketAddr,
    place: Place,
    server: &mut Server<'_>,
    listeners: &mut Vec<Listener>,
) -> usize {
    let known = listeners.iter().position(|l| l.address == address);
    let at = known.unwrap_or_else(|| {
        listeners.push(Listener {
            address,
            tls: false,
            place,
            default: None,
        });
        listeners.len() - 1
    });
    if !server.listeners.contains(&at) {
        server.listeners.push(at);
    }
    at
}
