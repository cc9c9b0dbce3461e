//! `upstream` blocks, and where `proxy_pass` leads.

use super::maps::template;
use super::output::{self, Output, quoted};
use super::scope::Scope;
use super::translator::Translator;
use super::tree::Directive;
use super::values;

/// A group of endpoints.
pub(super) struct Group<'a> {
    pub(super) name: String,
    /// None: a `proxy_pass` that needs more than a `url` can say.
    block: Option<&'a Directive>,
    /// TLS towards it, once a `proxy_pass` has said whether there is.
    tls: Option<Option<String>>,
    /// Who said so.
    by: Option<&'a Directive>,
}

/// Where requests go, as a key of a route and its value.
pub(super) struct Target {
    pub(super) key: &'static str,
    pub(super) value: String,
    /// What takes the place of the prefix.
    pub(super) uri: Option<String>,
}

impl<'a> Translator<'a> {
    /// The groups that have a name.
    pub(super) fn named_groups(&mut self) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let http = self.http;
        for block in http.iter().filter(|d| d.is("upstream")) {
            let name = block.argument(0);
            if let Some(twin) = groups.iter().find(|group| group.name == name) {
                let at = twin.block.map_or_else(String::new, |b| b.place.to_string());
                self.error(block, format!("{name} is an upstream already ({at})"), None);
                continue;
            }
            groups.push(Group {
                name: name.to_owned(),
                block: Some(block),
                tls: None,
                by: None,
            });
        }
        groups
    }

    /// Reads the URL of a `proxy_pass`.
    pub(super) fn target(&mut self, pass: &'a Directive, scope: &Scope<'a>) -> Option<Target> {
        let url = pass.argument(0);
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => {
                let hint = "write http:// or https:// before the host; a WebSocket begins as HTTP";
                let text = match url {
                    "" => "expected the service's URL, found an empty text".to_owned(),
                    _ => format!("invalid URL prefix in {url:?}"),
                };
                self.error(pass, text, Some(hint));
                return None;
            }
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, uri) = rest.split_at(end);
        let uri = (!uri.is_empty()).then(|| uri.to_owned());
        if url.contains('$') {
            let hint = "write a `location` for each service";
            self.error(pass, "variables in it are not supported", Some(hint));
            return None;
        }
        if authority.starts_with("unix:") {
            let hint = "let the service listen on 127.0.0.1";
            self.error(pass, "UNIX sockets are not supported", Some(hint));
            return None;
        }
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        if let Some(index) = self.groups.iter().position(|group| group.name == authority) {
            let tls = tls.then(|| self.tls(scope, host));
            self.agree(index, tls, pass);
            return Some(Target {
                key: "upstream",
                value: authority.to_owned(),
                uri,
            });
        }
        if authority != host && self.groups.iter().any(|group| group.name == host) {
            let text = format!("upstream {host} has ports of its own, and may not have one here");
            self.error(pass, text, Some(&format!("write {}://{host}", scheme(tls))));
            return None;
        }
        if tls {
            return self.made(pass, scope, authority, host, uri);
        }
        Some(Target {
            key: "url",
            value: format!("http://{authority}{}", uri.as_deref().unwrap_or_default()),
            uri,
        })
    }

    /// Makes a group for an `https` URL: a `url` would verify certificates, which nginx does only
    /// where it is told to.
    fn made(
        &mut self,
        pass: &'a Directive,
        scope: &Scope<'a>,
        authority: &str,
        host: &str,
        uri: Option<String>,
    ) -> Option<Target> {
        let tls = Some(self.tls(scope, host));
        let name = authority.strip_suffix(":443").unwrap_or(authority);
        if name.contains([':', '[']) {
            let hint = format!("write an `upstream` with `server {authority};` and its name here");
            let text = "a port other than 443 beside https has no name that would do here";
            self.error(pass, text, Some(&hint));
            return None;
        }
        let index = match self.groups.iter().position(|group| group.name == name) {
            Some(index) => index,
            None => {
                self.groups.push(Group {
                    name: name.to_owned(),
                    block: None,
                    tls: None,
                    by: None,
                });
                self.groups.len() - 1
            }
        };
        self.agree(index, tls, pass);
        Some(Target {
            key: "upstream",
            value: name.to_owned(),
            uri,
        })
    }

    /// Notes whether a group is spoken to in TLS. All who use it must say the same.
    fn agree(&mut self, index: usize, tls: Option<String>, pass: &'a Directive) {
        let group = &mut self.groups[index];
        match &group.tls {
            None => {
                group.tls = Some(tls);
                group.by = Some(pass);
            }
            Some(said) if *said == tls => {}
            Some(_) => {
                let at = group.by.map_or_else(String::new, |by| by.place.to_string());
                let text = format!("{} is spoken to in another way at {at}", group.name);
                let hint = "write an `upstream` for each way";
                self.error(pass, text, Some(hint));
            }
        }
    }

    /// The `tls` of an upstream, as TOML.
    fn tls(&mut self, scope: &Scope<'a>, host: &str) -> String {
        let mut tls = Vec::new();
        let verify = scope.find("proxy_ssl_verify").is_some_and(|directive| {
            self.keep(directive, "tls.verify");
            self.switch(directive) == Some(true)
        });
        if let Some(directive) = scope.find("proxy_ssl_trusted_certificate") {
            self.keep(directive, "tls.ca");
            if verify {
                let path = self.folder.join(directive.argument(0));
                tls.push(("ca".to_owned(), quoted(&path.to_string_lossy())));
            }
        }
        let name = scope.find("proxy_ssl_name");
        if let Some(directive) = name {
            self.keep(directive, "tls.server_name");
        }
        let name = name.map_or(host, |directive| directive.argument(0));
        let name = if matches!(name, "$proxy_host" | "$host" | "$http_host") {
            host
        } else {
            name
        };
        tls.push(("server_name".to_owned(), quoted(name)));
        if let Some(directive) = scope.find("proxy_ssl_server_name") {
            self.keep(directive, "tls.server_name");
        }
        tls.push(("verify".to_owned(), verify.to_string()));
        output::table(&tls)
    }

    /// Writes all groups.
    pub(super) fn upstreams(&mut self) -> Output {
        let mut output = Output::default();
        for group in std::mem::take(&mut self.groups) {
            let Some(by) = group.by else {
                if let Some(block) = group.block {
                    block.is_used.set(true);
                    let why = "no `proxy_pass` leads to it";
                    self.report.dropped(&block.place, &block.text(), why);
                }
                continue;
            };
            let place = group.block.map_or(&by.place, |block| &block.place);
            let head = format!("[upstreams.{}]", output::key(&group.name));
            output.table(&head, Some(place));
            match group.block {
                Some(block) => self.group(block, &mut output),
                None => {
                    let address = format!("{}:443", group.name);
                    output.key("endpoints", &output::list([address.as_str()]), place);
                }
            }
            if let Some(Some(tls)) = &group.tls {
                if tls.contains("verify = false") {
                    let text = "without `proxy_ssl_verify on` nobody checks whom they talk to";
                    self.report.relies(&by.place, &by.text(), text);
                    output.comment("nginx does not verify unless told to. Better: verify = true.");
                }
                output.key("tls", tls, &by.place);
            }
        }
        output
    }

    fn group(&mut self, block: &'a Directive, output: &mut Output) {
        self.dropped(block.children(), output);
        self.keep(block, "upstreams");
        self.balance(block, output);
        let mut lines = Vec::new();
        for server in block.children().iter().filter(|d| d.is("server")) {
            self.keep(server, "endpoints");
            if let Some(line) = self.endpoint(server) {
                lines.push((line, &server.place));
            }
        }
        if block.children().iter().all(|d| !d.is("server")) && !block.has_bad() {
            let text = "no `server` is in it";
            self.error(block, text, Some("write server 127.0.0.1:9001;"));
        }
        match &lines[..] {
            [(only, place)] => output.line(&format!("endpoints = [{only}]"), Some(*place)),
            _ => {
                output.line("endpoints = [", Some(&block.place));
                for (line, place) in lines {
                    output.line(&format!("  {line},"), Some(place));
                }
                output.line("]", Some(&block.place));
            }
        }
        let keep_alive = block.children().iter().find(|d| d.is("keepalive"));
        if let Some(directive) = keep_alive {
            self.keep(directive, "keep_alive");
            match directive.argument(0).parse::<u32>() {
                Ok(number) => output.key("keep_alive", &number.to_string(), &directive.place),
                Err(_) => self.error(directive, "expected a number", None),
            }
        }
        let timeout = block.children().iter().find(|d| d.is("keepalive_timeout"));
        if let Some(directive) = timeout
            && let Some(time) = self.time(directive)
        {
            self.keep(directive, "keep_alive_timeout");
            output.key("keep_alive_timeout", &time, &directive.place);
        }
        self.sticky(block, output);
    }

    /// Writes how requests are shared out.
    fn balance(&mut self, block: &'a Directive, output: &mut Output) {
        for directive in block.children() {
            let text = match directive.name.as_str() {
                "ip_hash" => quoted("ip-hash"),
                "least_conn" => quoted("least-connections"),
                "random" => match &directive.arguments[..] {
                    [two] if two == "two" => quoted("random-two"),
                    [two, least] if two == "two" && least == "least_conn" => quoted("random-two"),
                    _ => {
                        let hint = "write `random two least_conn`";
                        self.error(directive, "only `random two` is supported", Some(hint));
                        continue;
                    }
                },
                "hash" => {
                    if !self.is_template(directive, directive.argument(0)) {
                        continue;
                    }
                    let mut table = vec![("hash".to_owned(), template(directive.argument(0)))];
                    match directive.argument(1) {
                        "" => {}
                        "consistent" => table.push(("consistent".to_owned(), "true".to_owned())),
                        other => {
                            self.error(directive, format!("invalid parameter {other:?}"), None)
                        }
                    }
                    output::table(&table)
                }
                _ => continue,
            };
            self.keep(directive, "balance");
            output.key("balance", &text, &directive.place);
        }
    }

    fn endpoint(&mut self, server: &'a Directive) -> Option<String> {
        let address = server.argument(0);
        if address.starts_with("unix:") {
            let hint = "let the service listen on 127.0.0.1";
            self.error(server, "UNIX sockets are not supported", Some(hint));
            return None;
        }
        if let Some((scheme, rest)) = address.split_once("://") {
            let text = format!(
                "invalid host in upstream {address:?}: {scheme}:// belongs to `proxy_pass`"
            );
            let rest = rest.trim_end_matches('/');
            self.error(server, text, Some(&format!("write server {rest};")));
            return None;
        }
        if address.contains(['/', '$', ' ']) {
            self.error(
                server,
                format!("invalid host in upstream {address:?}"),
                None,
            );
            return None;
        }
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.contains(']'));
        let address = match has_port {
            true => address.to_owned(),
            false => {
                let text = "without a port it is 80";
                self.report.relies(&server.place, &server.text(), text);
                format!("{address}:80")
            }
        };
        let mut settings = vec![("address".to_owned(), quoted(&address))];
        for parameter in &server.arguments[1..] {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let number = value.parse::<u32>().ok();
            let mut add = |key: &str, value: String| settings.push((key.to_owned(), value));
            match (name, number) {
                ("weight", Some(1..)) | ("max_fails", Some(_)) => add(name, value.to_owned()),
                ("max_conns", Some(_)) => add("max_connections", value.to_owned()),
                ("fail_timeout" | "slow_start", _) => match values::time(value) {
                    Some(time) => add(name, quoted(&values::write_time(time))),
                    None => {
                        let text = format!("expected {name}=TIME, found {parameter:?}");
                        self.error(server, text, None);
                    }
                },
                ("backup" | "down", _) if value.is_empty() => add(name, "true".to_owned()),
                ("resolve", _) => {
                    let what = format!("{} (resolve)", server.text());
                    let why = "names are looked up again in any case";
                    self.report.dropped(&server.place, &what, why);
                }
                _ => self.error(server, format!("invalid parameter {parameter:?}"), None),
            }
        }
        Some(match &settings[..] {
            [(_, only)] => only.clone(),
            _ => output::table(&settings),
        })
    }

    fn sticky(&mut self, block: &'a Directive, output: &mut Output) {
        let Some(directive) = block.children().iter().find(|d| d.is("sticky")) else {
            return;
        };
        self.keep(directive, "sticky");
        if directive.argument(0) != "cookie" || directive.arguments.len() < 2 {
            let text = "only `sticky cookie NAME` is supported";
            self.error(directive, text, None);
            return;
        }
        let mut sticky = vec![("cookie".to_owned(), quoted(directive.argument(1)))];
        for parameter in &directive.arguments[2..] {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = match name {
                "expires" => match values::time(value) {
                    Some(time) => quoted(&values::write_time(time)),
                    None => {
                        self.error(directive, format!("invalid parameter {parameter:?}"), None);
                        continue;
                    }
                },
                "domain" | "samesite" => quoted(&value.to_ascii_lowercase()),
                "path" => quoted(value),
                "httponly" | "secure" => "true".to_owned(),
                _ => {
                    self.error(directive, format!("invalid parameter {parameter:?}"), None);
                    continue;
                }
            };
            let key = match name {
                "samesite" => "same_site",
                "httponly" => "http_only",
                name => name,
            };
            sticky.push((key.to_owned(), value));
        }
        output.key("sticky", &output::table(&sticky), &directive.place);
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}
