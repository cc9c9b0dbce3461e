//! Files that a location serves, and what caches are told of responses.

use super::maps::template;
use super::output::{self, Output, quoted};
use super::scope::Scope;
use super::translator::Translator;
use super::tree::Directive;
use super::values;

/// Longest table that is written in one line.
const SHORT: usize = 100;

/// Settings of a `files` table, each with its value as TOML.
type Entries = Vec<(String, String)>;

impl<'a> Translator<'a> {
    /// Writes which files are served. `base` is the `root` or `alias`.
    pub(super) fn files(&mut self, scope: &Scope<'a>, base: &'a Directive, route: &mut Output) {
        if !self.is_template(base, base.argument(0)) {
            return;
        }
        let Some(path) = self.prefixed(base, base.argument(0)) else {
            return;
        };
        let key = if base.is("alias") { "alias" } else { "root" };
        self.keep(base, &format!("files.{key}"));
        let mut files = vec![(key.to_owned(), template(&path))];
        if let Some(directive) = scope.find("index") {
            let names: Vec<_> = directive.arguments.iter().map(String::as_str).collect();
            self.keep(directive, "files.index");
            if names != ["index.html"] {
                files.push(("index".to_owned(), output::list(names)));
            }
        }
        self.tries(scope, &mut files);
        let types = self.types(scope, base);
        self.default_type(scope, base, &mut files);
        self.precompressed(scope, &mut files);
        self.links_and_dates(scope, &mut files);
        let mut all = files.clone();
        if !types.is_empty() {
            all.push(("types".to_owned(), output::table(&types)));
        }
        let value = match &all[..] {
            [(key, _)] if key == "root" => template(&path),
            _ => output::table(&all),
        };
        let is_short = value.len() <= SHORT;
        if is_short {
            route.key("files", &value, &base.place);
        }
        self.expires(scope, route);
        self.settings_of_answer(&scope.locations(), route);
        if !is_short {
            route.line("[sites.routes.files]", Some(&base.place));
            for (key, value) in &files {
                route.key(key, value, &base.place);
            }
            if !types.is_empty() {
                route.line("[sites.routes.files.types]", Some(&base.place));
            }
            for (extension, media_type) in &types {
                route.key(&output::key(extension), media_type, &base.place);
            }
        }
    }

    fn tries(&mut self, scope: &Scope<'a>, files: &mut Entries) {
        let Some(directive) = scope.find("try_files") else {
            return;
        };
        self.keep(directive, "files.try");
        let last = directive.arguments.last().map_or("", String::as_str);
        if last.starts_with('@') {
            let hint = "write a `location` of its own for what the service answers";
            self.error(directive, format!("{last} is not supported"), Some(hint));
            return;
        }
        if !last.starts_with('=') {
            let text =
                format!("{last} is served by this route, whatever other `location` it matches");
            self.report
                .relies(&directive.place, &directive.text(), text);
        }
        let paths: Vec<_> = directive
            .arguments
            .iter()
            .map(|path| template(path))
            .collect();
        files.push(("try".to_owned(), format!("[{}]", paths.join(", "))));
    }

    /// Media types that the configuration would not know by itself.
    fn types(&mut self, scope: &Scope<'a>, base: &Directive) -> Entries {
        let mut types: Entries = Vec::new();
        let Some(block) = scope.find("types") else {
            let text = "without `types` nginx knows html, gif and jpg alone; here the usual types \
                        are known, as with its mime.types";
            self.report.relies(&base.place, &base.text(), text);
            return types;
        };
        self.keep(block, "files.types");
        let text =
            "files whose kind it does not name have their usual media type, and not the default";
        self.report.relies(&block.place, "types", text);
        for entry in block.children() {
            for extension in &entry.arguments {
                let known = mime_guess::from_ext(extension).first_raw();
                if known != Some(entry.name.as_str()) {
                    types.push((extension.to_ascii_lowercase(), quoted(&entry.name)));
                }
            }
        }
        types
    }

    fn default_type(&mut self, scope: &Scope<'a>, base: &Directive, files: &mut Entries) {
        let default = match scope.find("default_type") {
            Some(directive) => {
                self.keep(directive, "files.default_type");
                directive.argument(0)
            }
            None => {
                let text = "without `default_type` files of unknown kinds are text/plain";
                self.report.relies(&base.place, &base.text(), text);
                "text/plain"
            }
        };
        if default != "application/octet-stream" {
            files.push(("default_type".to_owned(), quoted(default)));
        }
        if let Some(directive) = scope.find("charset") {
            self.keep(directive, "files.charset");
            if directive.argument(0) != "off" {
                files.push(("charset".to_owned(), quoted(directive.argument(0))));
            }
        }
    }

    fn precompressed(&mut self, scope: &Scope<'a>, files: &mut Entries) {
        let mut codings = Vec::new();
        for (name, coding) in [("brotli_static", "br"), ("gzip_static", "gzip")] {
            if let Some(directive) = scope.find(name) {
                self.keep(directive, "files.precompressed");
                if self.switch(directive) == Some(true) {
                    codings.push(coding);
                }
            }
        }
        if !codings.is_empty() {
            files.push(("precompressed".to_owned(), output::list(codings)));
        }
    }

    fn links_and_dates(&mut self, scope: &Scope<'a>, files: &mut Entries) {
        if let Some(directive) = scope.find("disable_symlinks") {
            self.keep(directive, "files.symlinks");
            match directive.argument(0) {
                "off" => {}
                "on" => files.push(("symlinks".to_owned(), quoted("deny"))),
                _ => {
                    let hint = "write `on`, or look at `symlinks = \"within\"`";
                    self.error(directive, "owners of links are not looked at", Some(hint));
                }
            }
        }
        if let Some(directive) = scope.find("if_modified_since") {
            self.keep(directive, "files.if_modified_since");
            match directive.argument(0) {
                "exact" => {}
                rule => files.push(("if_modified_since".to_owned(), quoted(rule))),
            }
        }
    }

    /// Refuses what nginx would add to responses of services as well.
    pub(super) fn charset_of_service(&mut self, scope: &Scope<'a>) {
        let charset = scope.find("charset").filter(|d| d.argument(0) != "off");
        if let Some(directive) = charset {
            let text = "is not added to responses of services";
            let hint = "let them send it, or set it in the locations that serve files";
            self.error(directive, text, Some(hint));
        }
    }

    /// Writes how long responses stay fresh.
    pub(super) fn expires(&mut self, scope: &Scope<'a>, route: &mut Output) {
        let Some(directive) = scope.find("expires") else {
            return;
        };
        self.keep(directive, "expires");
        let (prefix, text) = match &directive.arguments[..] {
            [modified, time] if modified == "modified" => ("modified ", time.as_str()),
            [text] => ("", text.as_str()),
            _ => {
                self.error(directive, "expected `modified` or one argument", None);
                return;
            }
        };
        if matches!(text, "off" | "epoch" | "max") && prefix.is_empty() {
            if text != "off" {
                route.key("expires", &quoted(text), &directive.place);
            }
            return;
        }
        let unsigned = text.trim_start_matches(['+', '-']);
        let Some(time) = values::time(unsigned).filter(|_| text.len() - unsigned.len() < 2) else {
            let hint = "write a time such as 30d, or `epoch`, `max` or `off`";
            self.error(directive, format!("{text:?} is not supported"), Some(hint));
            return;
        };
        let minus = if text.starts_with('-') { "-" } else { "" };
        let value = format!("{prefix}{minus}{}", values::write_time(time));
        route.key("expires", &quoted(&value), &directive.place);
    }

    /// Writes the settings of a route that asks no service. What is for services alone has no effect
    /// there in nginx either.
    pub(super) fn settings_of_answer(&mut self, level: &Scope<'a>, route: &mut Output) {
        if let Some(directive) = level.find("absolute_redirect")
            && let Some(on) = self.switch(directive)
        {
            self.keep(directive, "absolute_redirect");
            route.key("absolute_redirect", &on.to_string(), &directive.place);
        }
        self.max_body(level, route);
        self.access_log_of(level, route);
        self.add_headers(level, "sites.routes", route);
    }
}
