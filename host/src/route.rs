//! Host and path to a route, by nginx's order of precedence.
//!
//! What a route does once found is `proxy/session.rs`'s business.

use std::collections::HashMap;

use crate::config::{self, Pattern, SiteName};

/// Sites of one listener: which name is served by which of [`crate::generation::Generation::sites`].
pub(crate) struct SiteTable {
    exact: HashMap<String, usize>,
    /// `.example.com`, longest first.
    suffixes: Vec<(String, usize)>,
    /// `www.example.`, longest first.
    prefixes: Vec<(String, usize)>,
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

    /// Returns the site for a host in lower case without port: exact name, then longest leading
    /// wildcard, then longest trailing wildcard, then the listener's default.
    pub(crate) fn find(&self, host: &str) -> Option<usize> {
        let suffix = || {
            self.suffixes
                .iter()
                .find(|(suffix, _)| host.ends_with(suffix.as_str()))
        };
        let prefix = || {
            self.prefixes
                .iter()
                .find(|(prefix, _)| host.starts_with(prefix.as_str()))
        };
        self.exact
            .get(host)
            .copied()
            .or_else(|| suffix().map(|(_, site)| *site))
            .or_else(|| prefix().map(|(_, site)| *site))
            .or(self.default)
    }
}

/// Routes of one site: which path is served by which of them.
pub(crate) struct RouteTable {
    exact: HashMap<String, usize>,
    /// Longest first; true: patterns are not tried if this one matches.
    prefixes: Vec<(String, bool, usize)>,
    /// In the order of the file.
    patterns: Vec<(regex::Regex, usize)>,
}

impl RouteTable {
    /// Makes the table from patterns in the order of the file.
    pub(crate) fn new<'a>(routes: impl Iterator<Item = &'a Pattern>) -> Self {
        let mut table = Self {
            exact: HashMap::new(),
            prefixes: vec![],
            patterns: vec![],
        };
        for (index, pattern) in routes.enumerate() {
            match pattern {
                Pattern::Exact(path) => {
                    table.exact.entry(path.clone()).or_insert(index);
                }
                Pattern::Prefix(path) => table.prefixes.push((path.clone(), false, index)),
                Pattern::PrefixFirst(path) => table.prefixes.push((path.clone(), true, index)),
                Pattern::Regex(regex) => table.patterns.push((regex.clone(), index)),
            }
        }
        table
            .prefixes
            .sort_by_key(|(prefix, ..)| std::cmp::Reverse(prefix.len()));
        table
    }

    /// Returns the route for a decoded and normalised path: `=` first; then the longest prefix, at
    /// once if it is `^~`; else the first pattern that matches; else that prefix.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        if let Some(&route) = self.exact.get(path) {
            return Some(route);
        }
        let prefix = self
            .prefixes
            .iter()
            .find(|(prefix, ..)| path.starts_with(prefix.as_str()));
        if let Some(&(_, true, route)) = prefix {
            return Some(route);
        }
        let pattern = self.patterns.iter().find(|(regex, _)| regex.is_match(path));
        pattern
            .map(|(_, route)| *route)
            .or(prefix.map(|(.., route)| *route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_win_in_the_order_of_nginx() {
        let regex = |text| Pattern::Regex(regex::Regex::new(text).unwrap());
        let patterns = [
            Pattern::Prefix("/".into()),
            Pattern::Prefix("/chat".into()),
            Pattern::Exact("/chat".into()),
            Pattern::PrefixFirst("/static/".into()),
            regex(r".*.(gif|txt|json)$"),
            regex(r"^/chat/x"),
            Pattern::Prefix("/chat/long".into()),
        ];
        let table = RouteTable::new(patterns.iter());
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
            assert_eq!(table.find(path), Some(expected), "{path}");
        }
        assert_eq!(
            RouteTable::new([Pattern::Prefix("/a".into())].iter()).find("/b"),
            None
        );
    }

    #[test]
    fn names_win_in_the_order_of_nginx() {
        let site = |names: &[SiteName], default, listeners: &[usize]| config::Site {
            names: names.to_vec(),
            listeners: listeners.to_vec(),
            default,
            certificate: None,
            routes: vec![],
        };
        let exact = |name: &str| SiteName::Exact(name.into());
        let suffix = |name: &str| SiteName::Suffix(name.into());
        let prefix = |name: &str| SiteName::Prefix(name.into());
        let sites = [
            site(&[prefix("www.example.")], false, &[0]),
            site(&[suffix(".example.com")], false, &[0]),
            site(
                &[suffix(".a.example.com"), exact("example.com")],
                false,
                &[0, 1],
            ),
            site(&[exact("www.example.com")], true, &[0]),
        ];
        let table = SiteTable::new(&sites, 0);
        for (host, expected) in [
            ("www.example.com", 3),
            ("x.example.com", 1),
            ("x.a.example.com", 2),
            ("example.com", 2),
            ("www.example.org", 0),
            ("unknown", 3),
            ("", 3),
        ] {
            assert_eq!(table.find(host), Some(expected), "{host}");
        }
        assert_eq!(SiteTable::new(&sites, 1).find("unknown"), Some(2));
        assert_eq!(SiteTable::new(&sites, 2).find("unknown"), None);
    }
}
