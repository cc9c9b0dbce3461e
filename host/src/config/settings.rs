//! What a route does beside its action. Each key may also stand in the site, for those of its routes
//! that do not have it themselves.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::headers::{self, AddedHeader};
use super::logs::{AccessLog, Formats};
use super::reader::{Table, Value};
use super::rewrites::{self, CookieRewrites, LocationRule, Rewrite};
use super::template::Template;
use super::variables::Names;
use super::{Expires, WebSocket, files, websocket};

/// What a route does beside its action.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Fields of the request sent to the service, after the defaults; an empty result sends none.
    pub(crate) set_headers: Vec<(HeaderName, Template)>,
    /// Fields added to responses, whoever made them.
    pub(crate) add_headers: Vec<AddedHeader>,
    /// Fields of the service's responses that clients do not see, beside those that they never see.
    pub(crate) hide_headers: Vec<HeaderName>,
    /// Fields that they see, although they never would.
    pub(crate) pass_headers: Vec<HeaderName>,
    /// Default: [`LocationRule::Default`].
    pub(crate) rewrite_location: Vec<LocationRule>,
    pub(crate) rewrite_cookies: CookieRewrites,
    /// Whether `Location`, where the proxy itself redirects to a path, is a whole URL. Default true.
    pub(crate) absolute_redirect: bool,
    /// The `Server` of responses. Default: `tidegate`.
    pub(crate) server_header: Option<HeaderValue>,
    /// Upgrade tokens that may become tunnels, lower case. Default: `websocket`.
    pub(crate) upgrade: Vec<String>,
    pub(crate) websocket: WebSocket,
    pub(crate) timeouts: RouteTimeouts,
    pub(crate) retry: Retry,
    /// Whether an exchange goes on to its end when the client has gone. Default false.
    pub(crate) ignore_client_abort: bool,
    /// Longest request body in bytes. Default 1 MiB; 0: no limit. More is answered with 413.
    pub(crate) max_body_bytes: u64,
    /// What caches are told of responses. Default: nothing.
    pub(crate) expires: Expires,
    pub(crate) access_logs: Vec<AccessLog>,
}

/// How long a service may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteTimeouts {
    /// To reach one endpoint, its TLS handshake included. Default 60 s; then the next, at last 504.
    pub(crate) connect: Duration,
    /// Between two writes to the service while one is pending. Default 60 s; then 504.
    pub(crate) send: Duration,
    /// Between two reads from the service. Default 60 s; before the head: 504.
    pub(crate) read: Duration,
}

/// When another endpoint is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retry {
    /// After a connection that could not be made or broke. Default true.
    pub(crate) on_error: bool,
    /// After a timeout. Default true.
    pub(crate) on_timeout: bool,
    /// After an answer that is no HTTP. Default false.
    pub(crate) on_invalid_response: bool,
    /// After an answer with one of these statuses. Default: none.
    pub(crate) on_status: Vec<StatusCode>,
    /// Also for POST, LOCK and PATCH after they were sent. Default false.
    pub(crate) non_idempotent: bool,
    /// Endpoints tried for one request. Default 0: all.
    pub(crate) tries: usize,
    /// How long after the first try another may begin. Default 0: at any time.
    pub(crate) timeout: Duration,
}

impl RouteTimeouts {
    /// What each of them is unless it is given.
    pub(crate) const DEFAULT: Duration = Duration::from_secs(60);
}

/// Settings of the level above, and what of them depends on others.
#[derive(Clone)]
pub(super) struct Inherited {
    pub(super) settings: Settings,
    /// As written, since some of its defaults depend on settings of the level below.
    websocket: websocket::Written,
}

impl Default for Settings {
    fn default() -> Self {
        let timeouts = RouteTimeouts {
            connect: RouteTimeouts::DEFAULT,
            send: RouteTimeouts::DEFAULT,
            read: RouteTimeouts::DEFAULT,
        };
        Self {
            set_headers: Vec::new(),
            add_headers: Vec::new(),
            hide_headers: Vec::new(),
            pass_headers: Vec::new(),
            rewrite_location: vec![LocationRule::Default],
            rewrite_cookies: CookieRewrites::default(),
            absolute_redirect: true,
            server_header: Some(HeaderValue::from_static("tidegate")),
            upgrade: vec!["websocket".to_owned()],
            websocket: websocket::Written::default().meant(&timeouts),
            timeouts,
            retry: Retry {
                on_error: true,
                on_timeout: true,
                on_invalid_response: false,
                on_status: Vec::new(),
                non_idempotent: false,
                tries: 0,
                timeout: Duration::ZERO,
            },
            ignore_client_abort: false,
            max_body_bytes: 1 << 20,
            expires: Expires::Off,
            access_logs: Vec::new(),
        }
    }
}

impl Settings {
    /// Templates that are rendered when the head of the request is gone.
    pub(crate) fn late_templates(&self) -> impl Iterator<Item = &Template> {
        let rules = self.rewrite_location.iter().filter_map(|rule| match rule {
            LocationRule::Default => None,
            LocationRule::Rewrite(rewrite) => Some(rewrite),
        });
        let cookies = &self.rewrite_cookies;
        let rewrites = rules.chain(&cookies.domain).chain(&cookies.path);
        let logs = self.access_logs.iter().flat_map(AccessLog::templates);
        let added = self.add_headers.iter().map(|field| &field.value);
        added
            .chain(rewrites.flat_map(Rewrite::templates))
            .chain(logs)
    }
}

impl Inherited {
    /// What holds where nothing is written.
    pub(super) fn defaults(access_logs: Vec<AccessLog>) -> Self {
        Self {
            settings: Settings {
                access_logs,
                ..Settings::default()
            },
            websocket: websocket::Written::default(),
        }
    }

    /// Reads the settings of a site or route. Lists and tables of fields are inherited only as a whole.
    pub(super) fn read(&self, t: &Table<'_>, names: &Names<'_>, formats: &Formats<'_>) -> Self {
        let above = &self.settings;
        let timeouts = t.section("timeouts", |t| timeouts(t, &above.timeouts));
        let written = t.section("websocket", |t| self.websocket.read(t, &timeouts));
        let settings = Settings {
            set_headers: or(t, "set_headers", &above.set_headers, |value| {
                headers::for_requests(value, names)
            }),
            add_headers: or(t, "add_headers", &above.add_headers, |value| {
                headers::added(value, names)
            }),
            hide_headers: or(t, "hide_headers", &above.hide_headers, headers::list),
            pass_headers: or(t, "pass_headers", &above.pass_headers, headers::list),
            rewrite_location: or(t, "rewrite_location", &above.rewrite_location, |value| {
                rewrites::location(value, names)
            }),
            rewrite_cookies: or(t, "rewrite_cookies", &above.rewrite_cookies, |value| {
                let read = |t: &Table<'_>| rewrites::cookies(t, names);
                let read = value.table("a table with `domain` and `path`", read);
                read.unwrap_or_default()
            }),
            absolute_redirect: t.boolean("absolute_redirect", above.absolute_redirect),
            server_header: or(t, "server_header", &above.server_header, server_header),
            upgrade: or(t, "upgrade", &above.upgrade, upgrade),
            websocket: written.meant(&timeouts),
            timeouts,
            retry: t.section("retry", |t| retry(t, &above.retry)),
            ignore_client_abort: t.boolean("ignore_client_abort", above.ignore_client_abort),
            max_body_bytes: t.size("max_body", 0.., above.max_body_bytes),
            expires: or(t, "expires", &above.expires, files::expires),
            access_logs: or(t, "access_log", &above.access_logs, |value| {
                formats.access_logs(value)
            }),
        };
        Self {
            settings,
            websocket: written,
        }
    }
}

/// Reads a key, or takes over what the level above has.
fn or<T: Clone>(
    t: &Table<'_>,
    name: &'static str,
    above: &T,
    read: impl FnOnce(&Value<'_>) -> T,
) -> T {
    t.get(name)
        .map_or_else(|| above.clone(), |value| read(&value))
}

/// Reads the value of `Server`; none for an empty text.
fn server_header(value: &Value<'_>) -> Option<HeaderValue> {
    let parse = |text: &str| HeaderValue::from_str(text).ok();
    value
        .parse("text that a header field can carry", parse)
        .filter(|text| !text.is_empty())
}

/// Reads the tokens of protocols that clients may switch to.
fn upgrade(value: &Value<'_>) -> Vec<String> {
    const TOKENS: &str = "a list of protocols such as [\"websocket\"]";
    let mut tokens = Vec::new();
    for item in value.list(TOKENS) {
        let token = item.as_str().unwrap_or_default().to_ascii_lowercase();
        match token.as_str() {
            "h2c" => item.problem(
                "h2c cannot be switched to: requests in such a tunnel would pass all routes unseen",
            ),
            _ if tokens.contains(&token) => {
                item.problem(format_args!("{} is already in this list", item.found()));
            }
            _ if is_protocol(&token) => tokens.push(token),
            _ => item.expected("a protocol such as \"websocket\""),
        }
    }
    tokens
}

/// Whether this is `protocol-name ["/" protocol-version]` (RFC 9110 §7.8).
fn is_protocol(text: &str) -> bool {
    let is_token = |text: &str| {
        let special = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || special(byte))
    };
    let (name, version) = text.split_once('/').unwrap_or((text, "1"));
    is_token(name) && is_token(version)
}

fn timeouts(t: &Table<'_>, above: &RouteTimeouts) -> RouteTimeouts {
    RouteTimeouts {
        connect: t.duration("connect", above.connect),
        send: t.duration("send", above.send),
        read: t.duration("read", above.read),
    }
}

fn retry(t: &Table<'_>, above: &Retry) -> Retry {
    const ON: &str = "\"error\", \"timeout\", \"invalid-response\" or a status from 400 to 599";
    let mut retry = Retry {
        non_idempotent: t.boolean("non_idempotent", above.non_idempotent),
        tries: t.whole("tries", 0.., above.tries),
        timeout: t.duration_or_zero("timeout", above.timeout),
        ..above.clone()
    };
    let Some(on) = t.get("on") else {
        return retry;
    };
    retry.on_error = false;
    retry.on_timeout = false;
    retry.on_invalid_response = false;
    retry.on_status.clear();
    for item in on.list("a list such as [\"error\", \"timeout\", 502]") {
        let status = item
            .as_whole()
            .filter(|code| (400..600).contains(code))
            .and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        match (item.as_str(), status) {
            (Some("error"), _) => retry.on_error = true,
            (Some("timeout"), _) => retry.on_timeout = true,
            (Some("invalid-response"), _) => retry.on_invalid_response = true,
            (_, Some(status)) => retry.on_status.push(status),
            _ => item.expected(ON),
        }
    }
    retry
}
