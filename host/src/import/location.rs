//! A `location`: which requests it is for, and what it does with them.

use super::maps::template;
use super::output::{self, Output, quoted};
use super::scope::Scope;
use super::translator::Translator;
use super::tree::Directive;

/// Statuses whose `return` names where to.
const REDIRECTS: [&str; 5] = ["301", "302", "303", "307", "308"];

impl<'a> Translator<'a> {
    /// Writes the routes of a server.
    pub(super) fn routes(&mut self, server: &Scope<'a>, output: &mut Output) {
        if let Some(answer) = server.own_named("return") {
            let mut route = self.begin("/", answer, &[], output);
            self.answer(answer, server, &mut route);
            output.append(route);
            for location in server.own().iter().filter(|d| d.is("location")) {
                location.is_used.set(true);
                let why = format!("`return` at {} answers before it", answer.place);
                self.report.dropped(&location.place, &location.text(), why);
            }
            return;
        }
        let mut has_root = false;
        for location in server.own().iter().filter(|d| d.is("location")) {
            let pattern: Vec<_> = location.arguments.iter().map(String::as_str).collect();
            has_root |= matches!(pattern[..], ["/"] | ["^~", "/"] | ["^~/"]);
            self.location(location, server, false, output);
        }
        if has_root {
            return;
        }
        match server.find("root") {
            Some(root) => {
                let mut route = self.begin("/", root, &[], output);
                self.files(server, root, &mut route);
                output.append(route);
            }
            None => {
                if let Some(place) = server.own().first().map(|first| first.place.clone()) {
                    let text = "without `location /` other requests get nginx's own pages; here \
                                they get 404";
                    self.report.relies(&place, "server", text);
                }
            }
        }
    }

    /// Begins a route: its head, what is left out of its block, and what it matches.
    fn begin(
        &mut self,
        pattern: &str,
        directive: &Directive,
        block: &[Directive],
        output: &mut Output,
    ) -> Output {
        output.line("", None);
        let mut route = Output::indented(2);
        route.line("[[sites.routes]]", Some(&directive.place));
        self.dropped(block, &mut route);
        route.key("match", &quoted(pattern), &directive.place);
        route
    }

    /// Writes a location and those within it. `is_first`: one around it keeps patterns from being
    /// tried.
    fn location(
        &mut self,
        directive: &'a Directive,
        outer: &Scope<'a>,
        is_first: bool,
        output: &mut Output,
    ) {
        let Some((sign, path)) = self.pattern(directive) else {
            return;
        };
        let is_nested = !outer.locations().own().is_empty();
        if is_nested && !self.may_nest(directive, sign, is_first) {
            return;
        }
        let is_first = sign == "^~" || is_first;
        let pattern = match sign {
            "" if is_first => format!("^~ {path}"),
            "" => path.to_owned(),
            sign => format!("{sign} {path}"),
        };
        self.keep(directive, "match");
        let scope = outer.within(directive);
        let block = directive.children();
        let mut route = self.begin(&pattern, directive, block, output);
        let answer = scope.own_named("return");
        let pass = scope.own_named("proxy_pass");
        if let Some(answer) = answer {
            self.answer(answer, &scope, &mut route);
            self.unreached(pass.into_iter(), answer);
        } else if let Some(pass) = pass {
            self.pass(pass, &scope, sign.starts_with('~'), &mut route);
        } else if let Some(base) = scope.own_named("alias").or(scope.find("root")) {
            self.files(&scope, base, &mut route);
        } else if directive.has_bad() {
            // What it does is among that; what else is wrong is told as well.
            self.settings(&scope.locations(), "sites.routes", &mut route);
        } else {
            let text = "has neither `proxy_pass` nor `return` nor a `root`, so nginx looks for files \
                        where it was installed";
            self.error(directive, text, Some("say what it does"));
        }
        output.append(route);
        for nested in block.iter().filter(|d| d.is("location")) {
            self.location(nested, &scope, is_first, output);
        }
    }

    fn unreached(&mut self, directives: impl Iterator<Item = &'a Directive>, answer: &Directive) {
        for directive in directives {
            directive.is_used.set(true);
            let why = format!("`return` at {} answers before it", answer.place);
            self.report
                .dropped(&directive.place, &directive.text(), why);
        }
    }

    /// Reads `[sign] path`, also where there is no space between them.
    fn pattern(&mut self, directive: &'a Directive) -> Option<(&'a str, String)> {
        let (sign, path) = match &directive.arguments[..] {
            [sign, path] => (sign.as_str(), path.as_str()),
            [both] => {
                let signs = ["~*", "^~", "=", "~"];
                let sign = signs.iter().find(|sign| both.starts_with(**sign));
                let length = sign.map_or(0, |sign| sign.len());
                both.split_at(length)
            }
            _ => return None,
        };
        if path.starts_with('@') && sign.is_empty() {
            let hint = "nothing refers to a named location here; leave it out";
            self.error(directive, "named locations are not supported", Some(hint));
            return None;
        }
        if !matches!(sign, "" | "=" | "^~" | "~" | "~*") {
            let text = format!("invalid modifier {sign:?}");
            self.error(directive, text, Some("expected =, ^~, ~ or ~*"));
            return None;
        }
        if !sign.starts_with('~') && !path.starts_with('/') {
            let text = format!("{path:?} matches nothing: paths begin with a slash");
            self.error(directive, text, Some(&format!("write /{path}")));
            return None;
        }
        Some((sign, path.to_owned()))
    }

    /// Whether a location within another can stand beside it with the same meaning.
    fn may_nest(&mut self, directive: &Directive, sign: &str, is_first: bool) -> bool {
        let text = match sign {
            "" | "=" => return true,
            "^~" if is_first => return true,
            "^~" => "`^~` within a location keeps only patterns within it from being tried",
            _ => "a pattern within a location is tried only there",
        };
        self.error(
            directive,
            text,
            Some("move it out of the location around it"),
        );
        false
    }

    /// Writes what `return` answers.
    fn answer(&mut self, directive: &Directive, scope: &Scope<'a>, route: &mut Output) {
        let place = &directive.place;
        let (status, text) = match &directive.arguments[..] {
            [text] if text.starts_with("http://") || text.starts_with("https://") => {
                ("302", Some(text.as_str()))
            }
            [text] if text.starts_with("$scheme") => ("302", Some(text.as_str())),
            [status] => (status.as_str(), None),
            [status, text] => (status.as_str(), Some(text.as_str())),
            _ => return,
        };
        if text.is_some_and(|text| !self.is_template(directive, text)) {
            return;
        }
        if REDIRECTS.contains(&status)
            && let Some(to) = text
        {
            self.keep(directive, "redirect");
            let redirect = match status {
                "302" => template(to),
                _ => output::table(&[
                    ("status".to_owned(), status.to_owned()),
                    ("to".to_owned(), template(to)),
                ]),
            };
            route.key("redirect", &redirect, place);
        } else {
            let valid = status
                .parse::<u16>()
                .is_ok_and(|code| (200..600).contains(&code));
            if status == "444" {
                let hint = "write another status, such as 404";
                self.error(
                    directive,
                    "444 (close without an answer) is not supported",
                    Some(hint),
                );
                return;
            }
            if !valid {
                let hint = "expected a status from 200 to 599";
                self.error(directive, format!("invalid status {status:?}"), Some(hint));
                return;
            }
            self.keep(directive, "respond");
            let mut respond = vec![("status".to_owned(), status.to_owned())];
            if let Some(text) = text {
                let found = scope.find("default_type");
                if let Some(found) = found {
                    self.keep(found, "respond.headers");
                }
                let media_type = found.map_or("text/plain", |d| d.argument(0));
                let headers = [("Content-Type".to_owned(), quoted(media_type))];
                respond.push(("headers".to_owned(), output::table(&headers)));
                respond.push(("body".to_owned(), template(text)));
            }
            route.key("respond", &output::table(&respond), place);
        }
        let own = scope.locations();
        self.settings_of_answer(&own, route);
    }

    /// Writes what a service is asked for.
    fn pass(
        &mut self,
        directive: &'a Directive,
        scope: &Scope<'a>,
        is_pattern: bool,
        route: &mut Output,
    ) {
        self.http_version(scope);
        self.charset_of_service(scope);
        let Some(target) = self.target(directive, scope) else {
            return;
        };
        self.keep(directive, target.key);
        route.key(target.key, &quoted(&target.value), &directive.place);
        if let Some(uri) = &target.uri {
            if is_pattern {
                let hint = "leave the path out of `proxy_pass`, or use a location without pattern";
                let text = "has a path, which a location with a pattern cannot replace anything by";
                self.error(directive, text, Some(hint));
            } else if target.key == "upstream" {
                route.key("replace_prefix", &quoted(uri), &directive.place);
            }
        }
        self.upgrade(scope, directive, route);
        self.access_log_of(&scope.locations(), route);
        self.expires(scope, route);
        self.settings(&scope.locations(), "sites.routes", route);
    }

    fn http_version(&mut self, scope: &Scope<'a>) {
        let Some(directive) = scope.find("proxy_http_version") else {
            return;
        };
        directive.is_used.set(true);
        match directive.argument(0) {
            "1.1" => {
                let why = "services are always spoken to in HTTP/1.1";
                self.report
                    .dropped(&directive.place, &directive.text(), why);
            }
            other => {
                let text = format!("HTTP/{other} towards services is not supported");
                self.error(directive, text, Some("write 1.1"));
            }
        }
    }

    /// Writes which protocols clients may switch to: nginx lets them if the service is sent `Upgrade`.
    fn upgrade(&mut self, scope: &Scope<'a>, pass: &Directive, route: &mut Output) {
        let fields = scope.all("proxy_set_header");
        let field = |name: &str| {
            let mut found = fields
                .iter()
                .filter(|d| d.argument(0).eq_ignore_ascii_case(name));
            found.next().copied()
        };
        let upgrade = field("upgrade").filter(|d| !d.argument(1).is_empty());
        let Some(upgrade) = upgrade else {
            let place = &pass.place;
            let text = "without `proxy_set_header Upgrade` no WebSocket passes";
            self.report.relies(place, &pass.text(), text);
            route.key("upgrade", "[]", place);
            return;
        };
        match field("connection") {
            Some(connection) if !connection.argument(1).is_empty() => {}
            _ => {
                let hint = "add proxy_set_header Connection \"upgrade\";";
                let text = "is sent without `Connection`, so that services do not switch";
                self.error(upgrade, text, Some(hint));
            }
        }
    }
}
