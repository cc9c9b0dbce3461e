//! Checked directives into a configuration, part by part in the order of `tidegate.example.toml`.

use std::path::PathBuf;

use super::listen::{Listener, Server, Site};
use super::output::{self, Output, list};
use super::report::{Place, Report};
use super::scope::Scope;
use super::tree::Directive;
use super::upstream::Group;
use super::{Options, values};

/// What is being translated, and what is known of it so far.
pub(super) struct Translator<'a> {
    pub(super) report: &'a mut Report,
    pub(super) options: &'a Options,
    /// The main file.
    pub(super) file: PathBuf,
    /// Its folder, where relative names of certificates begin.
    pub(super) folder: PathBuf,
    /// Directives outside of `http`.
    pub(super) main: &'a [Directive],
    pub(super) http: &'a [Directive],
    pub(super) groups: Vec<Group<'a>>,
}

impl<'a> Translator<'a> {
    /// Translates everything.
    pub(super) fn run(mut self, title: &str) -> Output {
        self.groups = self.named_groups();
        let (servers, listeners) = self.servers();
        let sites = self.sites(&servers, &listeners);
        let mut output = Output::default();
        output.comment(title);
        self.dropped(self.main, &mut output);
        self.dropped(self.http, &mut output);
        self.process(&mut output);
        self.access_logs(&mut output);
        output.append(self.log_formats());
        self.client_limits(&servers, &mut output);
        if servers.is_empty() && self.report.is_ok() {
            let place = Place::file(&self.file);
            let text = "no `server` is in these files; there is nothing to serve";
            self.report.error(&place, "", text, None);
        }
        for (index, listener) in listeners.iter().enumerate() {
            if sites.iter().any(|site| site.listeners.contains(&index)) {
                output.table("[[listeners]]", Some(&listener.place));
                let address = output::quoted(&listener.address.to_string());
                output.key("bind", &address, &listener.place);
                if listener.tls {
                    output.key("tls", "true", &listener.place);
                }
            }
        }
        let maps = self.maps();
        // Routes first: they say which groups are spoken to in TLS.
        let mut routed = Output::default();
        for site in &sites {
            self.site(site, &servers, &listeners, &mut routed);
        }
        output.append(maps);
        output.append(self.upstreams());
        output.append(routed);
        output
    }

    fn process(&mut self, output: &mut Output) {
        for directive in self.main.iter().filter(|d| d.is("worker_processes")) {
            self.keep(directive, "workers");
            match (directive.argument(0), directive.argument(0).parse::<u16>()) {
                ("auto", _) => {}
                (_, Ok(number @ 1..=1024)) => {
                    output.key("workers", &number.to_string(), &directive.place);
                }
                _ => self.error(
                    directive,
                    "expected `auto` or a number from 1 to 1024",
                    None,
                ),
            }
        }
    }

    /// Writes limits and timeouts of clients, which all servers share here.
    fn client_limits(&mut self, servers: &[Server<'a>], output: &mut Output) {
        let mut limits = Output::default();
        let name = "large_client_header_buffers";
        if let Some(directive) = self.shared(servers, name, "limits") {
            let number = directive.argument(0).parse::<u64>().ok();
            let size = values::size(directive.argument(1));
            match number.zip(size) {
                Some((number @ 1.., size @ 1..)) => {
                    let place = &directive.place;
                    let quoted = |bytes| output::quoted(&values::write_size(bytes));
                    let all = number.saturating_mul(size).clamp(8 << 10, 16 << 20);
                    limits.key("max_header", &quoted(all), place);
                    limits.key("max_uri", &quoted(size.min(65_534)), place);
                }
                _ => self.error(directive, "expected a number and a size such as 4 8k", None),
            }
        }
        self.field_names(servers, &mut limits);
        let mut timeouts = Output::default();
        for (name, key) in [
            ("client_header_timeout", "header_read"),
            ("keepalive_timeout", "keep_alive"),
            ("client_body_timeout", "body_read"),
            ("send_timeout", "send"),
        ] {
            if let Some(directive) = self.shared(servers, name, &format!("timeouts.{key}"))
                && let Some(time) = self.time(directive)
            {
                if time == "\"0s\"" {
                    let hint = "write the shortest time that a client may take";
                    self.error(directive, "0 cannot be kept", Some(hint));
                    continue;
                }
                timeouts.key(key, &time, &directive.place);
            }
        }
        for (head, part) in [("[limits]", limits), ("[timeouts]", timeouts)] {
            if !part.is_empty() {
                output.table(head, None);
                output.append(part);
            }
        }
    }

    /// Writes which names of request fields are passed on.
    fn field_names(&mut self, servers: &[Server<'a>], limits: &mut Output) {
        let key = "limits.field_names";
        let is = |translator: &mut Self, name, default| {
            let Some(directive) = translator.shared(servers, name, key) else {
                return (default, None);
            };
            let on = translator.switch(directive).unwrap_or(default);
            (on, Some(&directive.place))
        };
        let (drops, at) = is(self, "ignore_invalid_headers", true);
        let (underscores, other) = is(self, "underscores_in_headers", false);
        match (drops, underscores) {
            (true, false) => {}
            (true, true) => other
                .into_iter()
                .for_each(|place| limits.key("field_names", "\"underscores\"", place)),
            (false, _) => at
                .into_iter()
                .for_each(|place| limits.key("field_names", "\"any\"", place)),
        }
    }

    /// The directive that is in force for all servers. It is an error if it is not the same for all.
    fn shared(
        &mut self,
        servers: &[Server<'a>],
        name: &'static str,
        key: &str,
    ) -> Option<&'a Directive> {
        let http = Scope::new(self.http);
        let mut first: Option<Option<&'a Directive>> = None;
        for server in servers {
            let scope = http.within(server.block);
            let found = scope.find(name);
            let of = |found: Option<&'a Directive>| found.map(|d| d.arguments.clone());
            match first {
                None => first = Some(found),
                Some(first) if of(first) == of(found) => {}
                Some(first) => {
                    let (Some(at), other) = (found.or(first), first.or(found)) else {
                        continue;
                    };
                    let text = format!(
                        "is not the same for all servers, and {key} is one for all (see {})",
                        other.map_or_else(String::new, |other| other.place.to_string())
                    );
                    self.error(at, text, Some("move it to `http`"));
                    return None;
                }
            }
            self.refuse_within(server.block, name, key);
        }
        let found = first.flatten()?;
        self.keep(found, key);
        Some(found)
    }

    /// Refuses a directive in locations whose setting is one for all servers here.
    fn refuse_within(&mut self, block: &'a Directive, name: &str, key: &str) {
        for location in block.children().iter().filter(|d| d.is("location")) {
            if let Some(own) = location.children().iter().find(|d| d.is(name)) {
                let text = format!("cannot differ by location: {key} is one for all");
                self.error(own, text, Some("move it to `http`"));
            }
            self.refuse_within(location, name, key);
        }
    }

    fn site(
        &mut self,
        site: &Site,
        servers: &[Server<'a>],
        listeners: &[Listener],
        output: &mut Output,
    ) {
        let server = &servers[site.server];
        let scope = Scope::new(self.http).within(server.block);
        output.table("[[sites]]", Some(&server.block.place));
        self.dropped(server.block.children(), output);
        if !site.names.is_empty() {
            let names = list(site.names.iter().map(String::as_str));
            output.key("names", &names, &server.named_at);
        }
        if site.listeners.len() < listeners.len() {
            let addresses: Vec<_> = site
                .listeners
                .iter()
                .map(|&index| listeners[index].address.to_string())
                .collect();
            let addresses = list(addresses.iter().map(String::as_str));
            output.key("listeners", &addresses, &server.block.place);
        }
        let explicit = |index: &usize| listeners[*index].default.is_some();
        if site.is_default && !site.names.is_empty() && site.listeners.iter().any(explicit) {
            output.key("default", "true", &server.block.place);
        }
        let tls: Vec<_> = site
            .listeners
            .iter()
            .filter(|&&l| listeners[l].tls)
            .collect();
        if !tls.is_empty() {
            self.certificate(server, &scope, servers, listeners, output);
        }
        let own = Scope::new(server.block.children());
        self.access_log_of(&own, output);
        self.settings(&scope, "sites", output);
        self.routes(&scope, output);
    }

    /// Writes the certificate of a site on a TLS listener.
    fn certificate(
        &mut self,
        server: &Server<'a>,
        scope: &Scope<'a>,
        servers: &[Server<'a>],
        listeners: &[Listener],
        output: &mut Output,
    ) {
        let http = Scope::new(self.http);
        self.tls_versions(scope);
        let mut found = [
            scope.find("ssl_certificate"),
            scope.find("ssl_certificate_key"),
        ];
        if found[0].is_none() {
            // nginx then shows the certificate of the listener's default server.
            let listener = server.listeners.iter().find(|&&l| listeners[l].tls);
            let default = listener.and_then(|&listener| {
                let first = servers.iter().position(|s| s.listeners.contains(&listener));
                let explicit = listeners[listener]
                    .default
                    .as_ref()
                    .map(|(server, _)| *server);
                explicit.or(first)
            });
            if let Some(default) = default.map(|index| http.within(servers[index].block)) {
                found = ["ssl_certificate", "ssl_certificate_key"].map(|name| default.find(name));
                if found[0].is_some() {
                    let text =
                        "without `ssl_certificate` clients are shown that of the default server";
                    self.report.relies(&server.block.place, "server", text);
                }
            }
        }
        let [Some(chain), Some(key)] = found else {
            let directive = found[0].unwrap_or(server.block);
            let text = match found[0] {
                Some(_) => "has no `ssl_certificate_key` beside it",
                None => "listens with `ssl` and has no `ssl_certificate`",
            };
            self.error(directive, text, None);
            return;
        };
        self.keep(chain, "certificate.chain");
        self.keep(key, "certificate.key");
        let files = [("chain", chain), ("key", key)].map(|(name, directive)| {
            let path = self.folder.join(directive.argument(0));
            (name.to_owned(), output::quoted(&path.to_string_lossy()))
        });
        output.key("certificate", &output::table(&files), &chain.place);
    }

    fn tls_versions(&mut self, scope: &Scope<'a>) {
        let Some(directive) = scope.find("ssl_protocols") else {
            return;
        };
        let has = |name: &str| directive.arguments.iter().any(|a| a == name);
        if !has("TLSv1.2") {
            let hint = "leave it out, or add TLSv1.2";
            let text = "TLS 1.2 and 1.3 are always offered";
            self.error(directive, text, Some(hint));
        } else {
            directive.drop("TLS 1.2 and 1.3 are offered, and nothing older");
            let why = "TLS 1.2 and 1.3 are offered, and nothing older";
            self.report
                .dropped(&directive.place, &directive.text(), why);
        }
        directive.is_used.set(true);
    }

    /// Tells, in the report and in the text, which directives of a block are left out.
    pub(super) fn dropped(&mut self, block: &[Directive], output: &mut Output) {
        let mut alike: Vec<(&Directive, &str, usize)> = Vec::new();
        for directive in block {
            let Some(why) = directive.dropped() else {
                continue;
            };
            self.report
                .dropped(&directive.place, &directive.text(), why);
            let same = |(other, reason, _): &&mut (&Directive, &str, usize)| {
                other.name == directive.name && *reason == why
            };
            match alike.iter_mut().find(same) {
                Some((.., count)) => *count += 1,
                None => alike.push((directive, why, 1)),
            }
        }
        for (directive, why, count) in alike {
            let what = match count {
                1 => one_line(&directive.text()),
                _ => format!("{}, {count} times", directive.name),
            };
            output.comment(&format!("left out: {what} ({why})"));
        }
    }

    /// Notes that a directive is in the output, and under which key.
    pub(super) fn keep(&mut self, directive: &Directive, key: &str) {
        directive.is_used.set(true);
        self.report
            .translated(&directive.place, &directive.text(), key);
    }

    /// Notes that a directive cannot be kept as it is.
    pub(super) fn error(
        &mut self,
        directive: &Directive,
        text: impl Into<String>,
        suggestion: Option<&str>,
    ) {
        directive.is_used.set(true);
        self.report.error(
            &directive.place,
            &directive.name,
            text,
            suggestion.map(str::to_owned),
        );
    }

    /// The time that a directive gives, as TOML.
    pub(super) fn time(&mut self, directive: &Directive) -> Option<String> {
        let time = values::time(directive.argument(0));
        if time.is_none() {
            let found = directive.argument(0);
            let text = format!("expected a time such as 60s or 500ms, found {found:?}");
            self.error(directive, text, None);
        }
        time.map(|time| output::quoted(&values::write_time(time)))
    }

    /// The size that a directive gives, as TOML.
    pub(super) fn size(&mut self, directive: &Directive) -> Option<String> {
        let size = values::size(directive.argument(0));
        if size.is_none() {
            let found = directive.argument(0);
            let text = format!("expected a size such as 8k or 1m, found {found:?}");
            self.error(directive, text, None);
        }
        size.map(|size| output::quoted(&values::write_size(size)))
    }

    /// The switch that a directive sets.
    pub(super) fn switch(&mut self, directive: &Directive) -> Option<bool> {
        let switch = values::switch(directive.argument(0));
        if switch.is_none() {
            let found = directive.argument(0);
            self.error(
                directive,
                format!("expected `on` or `off`, found {found:?}"),
                None,
            );
        }
        switch
    }

    /// A path below nginx's prefix, where relative paths of files and logs begin. It is not written
    /// in nginx's files, so it has to be told.
    pub(super) fn prefixed(&mut self, directive: &Directive, path: &str) -> Option<String> {
        if path.starts_with(['/', '$']) {
            return Some(path.to_owned());
        }
        match &self.options.prefix {
            Some(prefix) => Some(prefix.join(path).to_string_lossy().into_owned()),
            None => {
                let hint = "write it from the root, or give nginx's prefix with --prefix";
                let text = format!("{path:?} begins where nginx was installed");
                self.error(directive, text, Some(hint));
                None
            }
        }
    }
}

/// Cuts what would not fit into a comment.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 60;
    let line: String = text.chars().take(LONGEST).collect();
    let line = line.replace(char::is_control, " ");
    match text.chars().count() > LONGEST {
        true => format!("{line}..."),
        false => line,
    }
}
