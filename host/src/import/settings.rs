//! What a site or a route does beside its action: fields, timeouts, retries, limits.
//!
//! Sites have what `http` and `server` say, and routes what their `location` says: the rest is
//! inherited by the configuration's own rules, which are nginx's.

use super::maps::template;
use super::output::{self, Output, quoted};
use super::scope::Scope;
use super::translator::Translator;
use super::tree::Directive;
use crate::config::Variable;

/// Conditions of `proxy_next_upstream` that have a name of their own here.
const CONDITIONS: [(&str, &str); 3] = [
    ("error", "error"),
    ("timeout", "timeout"),
    ("invalid_header", "invalid-response"),
];

impl<'a> Translator<'a> {
    /// Writes the settings that a level has itself. `path` is the table they belong to.
    pub(super) fn settings(&mut self, level: &Scope<'a>, path: &str, output: &mut Output) {
        self.max_body(level, output);
        for (name, key) in [
            ("proxy_ignore_client_abort", "ignore_client_abort"),
            ("absolute_redirect", "absolute_redirect"),
        ] {
            if let Some(directive) = level.find(name)
                && let Some(on) = self.switch(directive)
            {
                self.keep(directive, key);
                output.key(key, &on.to_string(), &directive.place);
            }
        }
        self.timeouts(level, output);
        self.retry(level, output);
        for (name, key) in [
            ("proxy_hide_header", "hide_headers"),
            ("proxy_pass_header", "pass_headers"),
        ] {
            let found = level.all(name);
            if let Some(first) = found.first() {
                let names: Vec<_> = found.iter().map(|d| d.argument(0)).collect();
                output.key(key, &output::list(names), &first.place);
                for directive in found {
                    self.keep(directive, key);
                }
            }
        }
        self.rewrite_location(level, output);
        self.rewrite_cookies(level, output);
        self.set_headers(level, path, output);
        self.add_headers(level, path, output);
    }

    pub(super) fn max_body(&mut self, level: &Scope<'a>, output: &mut Output) {
        if let Some(directive) = level.find("client_max_body_size")
            && let Some(size) = self.size(directive)
        {
            self.keep(directive, "max_body");
            output.key("max_body", &size, &directive.place);
        }
    }

    fn timeouts(&mut self, level: &Scope<'a>, output: &mut Output) {
        let mut timeouts = Vec::new();
        let mut place = None;
        for (name, key) in [
            ("proxy_connect_timeout", "connect"),
            ("proxy_send_timeout", "send"),
            ("proxy_read_timeout", "read"),
        ] {
            let Some(directive) = level.find(name) else {
                continue;
            };
            let Some(time) = self.time(directive) else {
                continue;
            };
            if time == "\"0s\"" {
                self.error(directive, "0 would end every request at once", None);
                continue;
            }
            self.keep(directive, &format!("timeouts.{key}"));
            timeouts.push((key.to_owned(), time));
            place.get_or_insert(&directive.place);
        }
        if let Some(place) = place {
            output.key("timeouts", &output::table(&timeouts), place);
        }
    }

    fn retry(&mut self, level: &Scope<'a>, output: &mut Output) {
        let mut retry = Vec::new();
        let mut place = None;
        if let Some(directive) = level.find("proxy_next_upstream") {
            self.keep(directive, "retry.on");
            place.get_or_insert(&directive.place);
            let mut on = Vec::new();
            let mut non_idempotent = false;
            for condition in &directive.arguments {
                let known = CONDITIONS.iter().find(|(name, _)| name == condition);
                let status = condition
                    .strip_prefix("http_")
                    .and_then(|code| code.parse::<u16>().ok())
                    .filter(|code| (400..600).contains(code));
                match (condition.as_str(), known, status) {
                    (_, Some((_, name)), _) => on.push(quoted(name)),
                    (_, _, Some(status)) => on.push(status.to_string()),
                    ("non_idempotent", ..) => non_idempotent = true,
                    ("off", ..) => {}
                    _ => {
                        let text = format!("unknown condition {condition:?}");
                        self.error(directive, text, None);
                    }
                }
            }
            retry.push(("on".to_owned(), format!("[{}]", on.join(", "))));
            if non_idempotent {
                retry.push(("non_idempotent".to_owned(), "true".to_owned()));
            }
        }
        if let Some(directive) = level.find("proxy_next_upstream_tries") {
            match directive.argument(0).parse::<u32>() {
                Ok(tries) => retry.push(("tries".to_owned(), tries.to_string())),
                Err(_) => self.error(directive, "expected a number", None),
            }
            self.keep(directive, "retry.tries");
            place.get_or_insert(&directive.place);
        }
        if let Some(directive) = level.find("proxy_next_upstream_timeout")
            && let Some(time) = self.time(directive)
        {
            self.keep(directive, "retry.timeout");
            place.get_or_insert(&directive.place);
            retry.push(("timeout".to_owned(), time));
        }
        if let Some(place) = place {
            output.key("retry", &output::table(&retry), place);
        }
    }

    fn rewrite_location(&mut self, level: &Scope<'a>, output: &mut Output) {
        let found = level.all("proxy_redirect");
        let Some(first) = found.first() else {
            return;
        };
        let mut rules = Vec::new();
        let mut is_off = false;
        for directive in &found {
            self.keep(directive, "rewrite_location");
            match &directive.arguments[..] {
                [word] if word == "off" => is_off = true,
                [word] if word == "default" => {
                    if !level.is_behind(directive, "proxy_pass") {
                        let hint = "move it behind `proxy_pass`";
                        self.error(directive, "stands before any `proxy_pass`", Some(hint));
                    }
                    rules.push(quoted("default"));
                }
                [from, to] => rules.push(rule(from, to)),
                _ => self.error(
                    directive,
                    "expected `default`, `off` or two arguments",
                    None,
                ),
            }
        }
        let value = match &rules[..] {
            _ if is_off => quoted("off"),
            [only] if only == "\"default\"" => only.clone(),
            _ => format!("[{}]", rules.join(", ")),
        };
        output.key("rewrite_location", &value, &first.place);
    }

    fn rewrite_cookies(&mut self, level: &Scope<'a>, output: &mut Output) {
        let mut rewrites = Vec::new();
        let mut place = None;
        for (name, key) in [
            ("proxy_cookie_domain", "domain"),
            ("proxy_cookie_path", "path"),
        ] {
            let mut rules = Vec::new();
            for directive in level.all(name) {
                self.keep(directive, &format!("rewrite_cookies.{key}"));
                place.get_or_insert(&directive.place);
                match &directive.arguments[..] {
                    [word] if word == "off" => {}
                    [from, to] => rules.push(rule(from, to)),
                    _ => self.error(directive, "expected `off` or two arguments", None),
                }
            }
            if !rules.is_empty() {
                rewrites.push((key.to_owned(), format!("[{}]", rules.join(", "))));
            }
        }
        if let Some(place) = place {
            output.key("rewrite_cookies", &output::table(&rewrites), place);
        }
    }

    /// Writes the fields that services are sent, as a table of its own.
    fn set_headers(&mut self, level: &Scope<'a>, path: &str, output: &mut Output) {
        let found = level.all("proxy_set_header");
        if found.is_empty() {
            return;
        }
        output.line(&format!("[{path}.set_headers]"), Some(&found[0].place));
        let mut seen: Vec<&str> = Vec::new();
        for directive in found {
            let (name, value) = (directive.argument(0), directive.argument(1));
            self.keep(directive, "set_headers");
            if seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                let text = format!("{name} is set twice, and a field is sent once here");
                self.error(directive, text, None);
                continue;
            }
            seen.push(name);
            if self.lost_dollar(directive, value) || !self.is_template(directive, value) {
                continue;
            }
            if value.is_empty() && is_never_sent(name) {
                let why = "this field is never passed on in any case";
                self.report
                    .dropped(&directive.place, &directive.text(), why);
                continue;
            }
            output.key(&output::key(name), &template(value), &directive.place);
        }
    }

    /// Whether a value is the name of a variable without its dollar, which nobody means.
    fn lost_dollar(&mut self, directive: &Directive, value: &str) -> bool {
        let is_variable = value == "host"
            || value.contains('_') && (Variable::named(value).is_some() || self.is_map(value));
        if is_variable {
            let text = format!("{value:?} would be sent as it is; its `$` is lost");
            self.error(directive, text, Some(&format!("write ${value}")));
        }
        is_variable
    }

    fn is_map(&self, name: &str) -> bool {
        let mut maps = self.http.iter().filter(|d| d.is("map"));
        maps.any(|map| map.argument(1).strip_prefix('$') == Some(name))
    }

    /// Checks that each dollar of a text has a name behind it.
    pub(super) fn is_template(&mut self, directive: &Directive, text: &str) -> bool {
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            rest = &rest[dollar + 1..];
            let name = rest.strip_prefix('{').unwrap_or(rest);
            let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                let hint = "nginx has no way to write a dollar; write a `map` whose value is one";
                self.error(
                    directive,
                    format!("a `$` without a name in {text:?}"),
                    Some(hint),
                );
                return false;
            }
            if rest.starts_with('{') && !rest.contains('}') {
                self.error(directive, format!("`${{` without `}}` in {text:?}"), None);
                return false;
            }
        }
        true
    }

    /// Writes the fields that responses are given, as a table of its own.
    pub(super) fn add_headers(&mut self, level: &Scope<'a>, path: &str, output: &mut Output) {
        let found = level.all("add_header");
        let Some(first) = found.first() else {
            return;
        };
        output.line(&format!("[{path}.add_headers]"), Some(&first.place));
        let mut fields: Vec<(&str, Vec<String>, &Directive)> = Vec::new();
        for directive in found {
            self.keep(directive, "add_headers");
            let (name, value) = (directive.argument(0), directive.argument(1));
            if !self.is_template(directive, value) {
                continue;
            }
            let value = match directive.arguments.get(2).map(String::as_str) {
                None => template(value),
                Some("always") => format!("{{ value = {}, always = true }}", template(value)),
                Some(other) => {
                    let text = format!("expected `always`, found {other:?}");
                    self.error(directive, text, None);
                    continue;
                }
            };
            match fields
                .iter_mut()
                .find(|(other, ..)| other.eq_ignore_ascii_case(name))
            {
                Some((_, values, _)) => values.push(value),
                None => fields.push((name, vec![value], directive)),
            }
        }
        for (name, values, directive) in fields {
            let value = match &values[..] {
                [only] => only.clone(),
                several => format!("[{}]", several.join(", ")),
            };
            output.key(&output::key(name), &value, &directive.place);
        }
    }
}

/// Whether a request field is never passed on, so that emptying it changes nothing.
fn is_never_sent(name: &str) -> bool {
    let fields = ["keep-alive", "proxy-connection", "te", "http2-settings"];
    fields.iter().any(|field| name.eq_ignore_ascii_case(field))
}

fn rule(from: &str, to: &str) -> String {
    output::table(&[
        ("from".to_owned(), template(from)),
        ("to".to_owned(), template(to)),
    ])
}
