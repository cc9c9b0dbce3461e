//! Origins that may open WebSockets: which pages a browser may do it for (RFC 6455 §10.2).

/// An origin, or all that end in one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Lower case.
    scheme: String,
    host: Host,
    /// None: the scheme has no port of its own, and none was written.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Lower case.
    Exact(String),
    /// `*.example.com`, held as `.example.com`
    Below(String),
}

impl Origin {
    /// Reads `https://app.example.com`, `https://*.example.com` or `http://localhost:3000`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, host, port) = split(text)?;
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some(domain) => Host::Below(domain.strip_prefix('.').map(|_| domain.to_owned())?),
            None => Host::Exact(host),
        };
        let (Host::Exact(name) | Host::Below(name)) = &host;
        is_host(name.trim_start_matches('.')).then_some(Self {
            scheme: scheme.to_ascii_lowercase(),
            host,
            port,
        })
    }

    /// Whether the value of an `Origin` field is this one, or one of these.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let Some((scheme, host, port)) = split(value) else {
            return false;
        };
        // What is no host name could hide a path or a user in front of the right ending.
        self.port == port
            && self.scheme.eq_ignore_ascii_case(scheme)
            && is_host(host)
            && match &self.host {
                Host::Exact(name) => name.eq_ignore_ascii_case(host),
                Host::Below(domain) => host
                    .to_ascii_lowercase()
                    .strip_suffix(domain.as_str())
                    .is_some_and(|below| !below.is_empty()),
            }
    }
}

/// Splits an origin into scheme, host and port; the port is that of the scheme if it is not written
/// (RFC 6454 §4).
fn split(text: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, authority) = text.split_once("://")?;
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(number(port)?)),
        _ => (authority, None),
    };
    is_scheme(scheme).then_some((scheme, host, port.or(default_port(scheme))))
}

fn default_port(scheme: &str) -> Option<u16> {
    let ports = [("http", 80), ("https", 443)];
    ports
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(scheme))
        .map(|(_, port)| *port)
}

fn number(port: &str) -> Option<u16> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten()
}

/// Whether this is a name of non-empty labels, or an IP address as a URL has it.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    match text.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => text.split('.').all(is_label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(origin: &str, value: &str) -> bool {
        Origin::parse(origin).unwrap().matches(value)
    }

    #[test]
    fn an_origin_matches_itself_whatever_its_case_and_with_its_port_written_or_not() {
        for (origin, value) in [
            ("https://app.example.com", "https://app.example.com"),
            ("https://App.Example.com", "HTTPS://app.example.COM"),
            ("https://app.example.com", "https://app.example.com:443"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://localhost:80", "http://localhost"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://[::1]", "https://[::1]"),
            ("moz-extension://0f1e", "moz-extension://0f1e"),
        ] {
            assert!(matches(origin, value), "{origin} {value}");
        }
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        for value in [
            "http://app.example.com",
            "http://app.example.com:443",
            "https://example.com",
            "https://x.app.example.com",
            "https://app.example.com.evil.org",
            "https://app.example.com:8443",
            "https://app.example.com:",
            "https://app.example.com:0443x",
            "https://app.example.com/",
            "https://app.example.com.",
            "app.example.com",
            "null",
            "",
        ] {
            assert!(!matches("https://app.example.com", value), "{value}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        for (value, expected) in [
            ("https://a.example.com", true),
            ("https://A.B.Example.com:443", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://a..example.com", false),
            ("https://evilexample.com", false),
            ("https://evil.org/.example.com", false),
            ("https://evil.org#.example.com", false),
            ("https://evil.org:1@a.example.com", false),
            ("https://evil.org:443/.example.com", false),
            ("http://a.example.com", false),
        ] {
            assert_eq!(matches("https://*.example.com", value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_quite_an_origin_is_none() {
        for text in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://*example.com",
            "https://a.*.com",
            "https://app.example.com/",
            "https://app.example.com/chat",
            "https://user@app.example.com",
            "https://app.example.com:port",
            "https://app.example.com:+1",
            "https://app.example.com:65536",
            "https://app..example.com",
            "://app.example.com",
            "1s://app.example.com",
            "https://[::1",
            "https://é.example.com",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }
}
