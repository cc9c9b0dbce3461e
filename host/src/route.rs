//! Host and path to a route, by nginx's order of precedence.
//!
//! What a route does once found is `proxy/session.rs`'s business.

use std::collections::HashMap;

use crate::config::{self, Pattern, Regex, SiteName};

/// Sites of one listener: which name is served by which of [`crate::generation::Generation::sites`].
pub(crate) struct SiteTable {
    exact: HashMap<String, usize>,
    /// `.example.com`, longest first.
    suffixes: Vec<(String, usize)>,
    /// `www.example.`, longest first.
    prefixes: Vec<(String, usize)>,
    /// In the order of the file.
    patterns: Vec<(Regex, usize)>,
    /// None: the listener has no site.
    default: Option<usize>,
}

impl SiteTable {
    /// Makes the table of `listener` from all sites of the configuration, in their order.
    pub(crate) fn new(sites: &[config::Site], listener: usize) -> Self {
        let mut table = Self {
            exact: HashMap::new(),
            suffixes: vec![],
            prefixes: vec![],
            patterns: vec![],
            default: None,
        };
        let mut first = None;
        for (index, site) in sites.iter().enumerate() {
            if !site.listeners.contains(&listener) {
                continue;
            }
            first.get_or_insert(index);
            if site.default {
                table.default.get_or_insert(index);
            }
            for name in &site.names {
                match name {
                    SiteName::Exact(name) => {
                        table.exact.entry(name.clone()).or_insert(index);
                    }
                    SiteName::Suffix(suffix) => table.suffixes.push((suffix.clone(), index)),
                    SiteName::Prefix(prefix) => table.prefixes.push((prefix.clone(), index)),
                    SiteName::Regex(regex) => table.patterns.push((regex.clone(), index)),
                }
            }
        }
        // Stable: of equal names the first site keeps it.
        table
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        table.default = table.default.or(first);
        table
    }

    /// Returns the site for a host in lower case without port: the first that fits, else the listener's
    /// default.
    pub(crate) fn find(&self, host: &str) -> Option<usize> {
        let mut fitting = self.fitting(host);
        fitting.next().map(|(site, _)| site).or(self.default)
    }

    /// Returns the sites whose names fit a host, the first of which is the one: exact name, then longest
    /// leading wildcard, then longest trailing wildcard, then patterns in the order of the file.
    pub(crate) fn fitting<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (usize, ByName<'a>)> {
        let exact = self.exact.get(host).map(|site| (*site, ByName::Exact));
        let suffixes = self.suffixes.iter().filter_map(|(suffix, site)| {
            let fits = host.ends_with(suffix.as_str());
            fits.then_some((*site, ByName::Suffix(suffix)))
        });
        let prefixes = self.prefixes.iter().filter_map(|(prefix, site)| {
            let fits = host.starts_with(prefix.as_str());
            fits.then_some((*site, ByName::Prefix(prefix)))
        });
        let patterns = self.patterns.iter().filter_map(|(regex, site)| {
            let fits = regex.is_match(host);
            fits.then_some((*site, ByName::Pattern(regex)))
        });
        exact
            .into_iter()
            .chain(suffixes)
            .chain(prefixes)
            .chain(patterns)
    }
}

/// How a name of a site fits a host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ByName<'a> {
    Exact,
    /// `.example.com`
    Suffix(&'a str),
    /// `www.example.`
    Prefix(&'a str),
    Pattern(&'a Regex),
}

/// Routes of one site: which path is served by which of them.
pub(crate) struct RouteTable {
    exact: HashMap<String, Found>,
    /// Longest first; true: patterns are not tried if this one matches.
    prefixes: Vec<(String, bool, usize)>,
    /// In the order of the file.
    patterns: Vec<(Regex, usize)>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Route(usize),
    /// To the path with a slash behind it, the prefix of this route.
    WithSlash(usize),
}

impl RouteTable {
    /// Makes the table from patterns in the order of the file, each with whether the route sends
    /// requests on. To prefixes of such routes that end in a slash, the path without it is led.
    pub(crate) fn new<'a>(routes: impl Iterator<Item = (&'a Pattern, bool)>) -> Self {
        let mut table = Self {
            exact: HashMap::new(),
            prefixes: vec![],
            patterns: vec![],
        };
        let mut without_slash = Vec::new();
        for (index, (pattern, proxies)) in routes.enumerate() {
            match pattern {
                Pattern::Exact(path) => {
                    let route = Found::Route(index);
                    table.exact.entry(path.clone()).or_insert(route);
                }
                Pattern::Prefix(path) => table.prefixes.push((path.clone(), false, index)),
                Pattern::PrefixFirst(path) => table.prefixes.push((path.clone(), true, index)),
                Pattern::Regex(regex) => table.patterns.push((regex.clone(), index)),
            }
            if let Pattern::Prefix(path) | Pattern::PrefixFirst(path) = pattern
                && let Some(path) = path.strip_suffix('/').filter(|path| !path.is_empty())
                && proxies
            {
                without_slash.push((path.to_owned(), Found::WithSlash(index)));
            }
        }
        table
            .prefixes
            .sort_by_key(|(prefix, ..)| std::cmp::Reverse(prefix.len()));
        for (path, found) in without_slash {
            // A route for that very path goes before.
            if !table.prefixes.iter().any(|(prefix, ..)| *prefix == path) {
                table.exact.entry(path).or_insert(found);
            }
        }
        table
    }

    /// Returns what a decoded and normalised path leads to: the first that fits.
    pub(crate) fn find(&self, path: &str) -> Option<Found> {
        self.fitting(path).next().map(|(found, _)| found)
    }

    /// Returns what fits a path, the first of which is what it leads to: `=`; then the longest prefix if
    /// it is `^~`; then patterns in the order of the file; then the longest prefix; then shorter ones.
    pub(crate) fn fitting(&self, path: &str) -> impl Iterator<Item = (Found, ByPath)> {
        let exact = self.exact.get(path).map(|found| (*found, ByPath::Exact));
        let mut prefixes = self
            .prefixes
            .iter()
            .filter(move |(prefix, ..)| path.starts_with(prefix.as_str()))
            .map(|(_, is_first, route)| (Found::Route(*route), *is_first));
        // Looked for only when there is no exact one.
        let longest = match exact {
            Some(_) => None,
            None => prefixes.next(),
        };
        let (first, last) = match longest {
            Some((found, true)) => (Some((found, ByPath::First)), None),
            Some((found, false)) => (None, Some((found, ByPath::Prefix))),
            None => (None, None),
        };
        let patterns = self.patterns.iter().filter_map(move |(regex, route)| {
            let fits = regex.is_match(path);
            fits.then_some((Found::Route(*route), ByPath::Pattern))
        });
        exact
            .into_iter()
            .chain(first)
            .chain(patterns)
            .chain(last)
            .chain(prefixes.map(|(found, _)| (found, ByPath::Shorter)))
    }
}

/// How a route fits a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByPath {
    Exact,
    /// The longest prefix, which is `^~`.
    First,
    Pattern,
    /// The longest prefix.
    Prefix,
    /// A prefix shorter than one that fits as well.
    Shorter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_win_in_the_order_of_nginx() {
        let regex = |text| Pattern::Regex(regex::Regex::new(text).unwrap().into());
        let patterns = [
            Pattern::Prefix("/".into()),
            Pattern::Prefix("/chat".into()),
            Pattern::Exact("/chat".into()),
            Pattern::PrefixFirst("/static/".into()),
            regex(r".*.(gif|txt|json)$"),
            regex(r"^/chat/x"),
            Pattern::Prefix("/chat/long".into()),
        ];
        let table = RouteTable::new(patterns.iter().map(|pattern| (pattern, false)));
        for (path, expected) in [
            ("/", 0),
            ("/other", 0),
            ("/chat", 2),
            ("/chat/", 1),
            ("/chatter", 1),
            ("/a.gif", 4),
            ("/gif", 4),
            ("/notagif", 4),
            ("/socket.json", 4),
            ("/a.GIF", 0),
            ("/a.gif/", 0),
            ("/a.json5", 0),
            ("/static/a.gif", 3),
            ("/chat/x.gif", 4),
            ("/chat/x", 5),
            ("/chat/longer", 6),
        ] {
            assert_eq!(table.find(path), Some(Found::Route(expected)), "{path}");
        }
        let one = [Pattern::Prefix("/a".into())];
        let table = RouteTable::new(one.iter().map(|pattern| (pattern, true)));
        assert_eq!(table.find("/b"), None);
    }

    #[test]
    fn a_prefix_without_its_slash_leads_to_it_unless_a_route_is_for_that_path() {
        let patterns = [
            (Pattern::Prefix("/a/".into()), true),
            (Pattern::Prefix("/b/".into()), true),
            (Pattern::Exact("/b".into()), true),
            (Pattern::Prefix("/c/".into()), true),
            (Pattern::Prefix("/c".into()), false),
            (Pattern::Prefix("/d/".into()), false),
            (Pattern::Prefix("/".into()), true),
        ];
        let table = RouteTable::new(
            patterns
                .iter()
                .map(|(pattern, proxies)| (pattern, *proxies)),
        );
        for (path, expected) in [
            ("/a", Found::WithSlash(0)),
            ("/a/x", Found::Route(0)),
            ("/b", Found::Route(2)),
            ("/c", Found::Route(4)),
            ("/d", Found::Route(6)),
            ("/", Found::Route(6)),
        ] {
            assert_eq!(table.find(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn names_win_in_the_order_of_nginx() {
        let site = |names: &[SiteName], default, listeners: &[usize]| config::Site {
            names: names.to_vec(),
            listeners: listeners.to_vec(),
            default,
            certificate: None,
            settings: config::Settings::default(),
            routes: vec![],
        };
        let exact = |name: &str| SiteName::Exact(name.into());
        let suffix = |name: &str| SiteName::Suffix(name.into());
        let prefix = |name: &str| SiteName::Prefix(name.into());
        let pattern = |name: &str| SiteName::Regex(regex::Regex::new(name).unwrap().into());
        let sites = [
            site(&[prefix("www.example.")], false, &[0]),
            site(&[suffix(".example.com")], false, &[0]),
            site(
                &[suffix(".a.example.com"), exact("example.com")],
                false,
                &[0, 1],
            ),
            site(&[exact("www.example.com")], true, &[0]),
            site(&[pattern("^[a-z]+[.]example[.]")], false, &[0]),
            site(&[pattern("^known[.]example[.]")], false, &[0]),
        ];
        let table = SiteTable::new(&sites, 0);
        for (host, expected) in [
            ("www.example.com", 3),
            ("x.example.com", 1),
            ("x.a.example.com", 2),
            ("example.com", 2),
            ("www.example.org", 0),
            ("known.example.org", 4),
            ("unknown", 3),
            ("", 3),
        ] {
            assert_eq!(table.find(host), Some(expected), "{host}");
        }
        assert_eq!(SiteTable::new(&sites, 1).find("unknown"), Some(2));
        assert_eq!(SiteTable::new(&sites, 2).find("unknown"), None);
    }
}
