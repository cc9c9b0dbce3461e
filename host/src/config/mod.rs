//! The configuration as it is meant: checked, with defaults filled in and units resolved.
//!
//! `file.rs` has it as it is written. Names that refer to something (an upstream, a plugin, a
//! listener) are indices here, so that nothing after this module can refer to what is not there.

mod balance;
mod containment;
mod endpoints;
mod error;
mod file;
mod files;
mod headers;
mod health;
mod keep;
mod logs;
mod maps;
pub(crate) mod nearest;
mod origin;
mod pattern;
mod plugins;
mod reader;
mod rewrites;
mod routes;
mod settings;
mod sites;
mod template;
#[cfg(test)]
mod tests;
mod trials;
pub(crate) mod units;
mod upstreams;
mod variables;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode};

pub(crate) use containment::{Ejection, FailurePolicy, Isolation, OnFailure, SnapshotEvery};
pub(crate) use error::{Error, Problem};
pub(crate) use files::{Base, Coding, Expires, Files, IfModifiedSince, Otherwise, Symlinks};
pub(crate) use keep::Keep;
pub(crate) use logs::{AccessLog, Escape, LogFormat, LogLines, LogTarget};
pub(crate) use maps::Map;
pub(crate) use origin::Origin;
pub(crate) use pattern::{Pattern, Regex};
pub(crate) use rewrites::{LocationRule, Rewrite, Sought};
pub(crate) use settings::{Retry, RouteTimeouts, Settings};
pub(crate) use template::{Part, Template};
pub(crate) use trials::{Canary, Match, Shadow, ShareKey, call_time, closes};
pub(crate) use units::duration;
pub(crate) use variables::Variable;

/// A configuration that can be used, and what the operator should look at in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// In the order of the file.
    pub(crate) warnings: Vec<Problem>,
}

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Worker threads. Default: one per core.
    pub(crate) workers: usize,
    pub(crate) admin: Option<Admin>,
    /// Whether a change of the file, or of a certificate that it names, has the effect of SIGHUP.
    /// Default false.
    pub(crate) watch: bool,
    /// Of requests that no site was found for; sites may have others.
    pub(crate) access_logs: Vec<AccessLog>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: ClientTimeouts,
    pub(crate) resolver: Resolver,
    pub(crate) maps: Vec<Map>,
    pub(crate) http2: Http2,
    /// At least one.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) upstreams: Vec<Upstream>,
    /// The names among the hosts of the endpoints.
    pub(crate) host_names: Vec<HostName>,
    /// Each plugin and variant that a route uses, and those that no route names.
    pub(crate) plugins: Vec<Plugin>,
    /// In the order of the file. At least one.
    pub(crate) sites: Vec<Site>,
}

/// Where operators ask, and what they have to show. At least one of `listen` and `unix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) unix: Option<AdminSocket>,
    /// One of them is wanted of those who come by `listen`. None: nothing is.
    pub(crate) tokens: Vec<Token>,
}

/// A Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminSocket {
    pub(crate) path: PathBuf,
    /// Permissions of its file. Default 0600.
    pub(crate) mode: u32,
}

/// Where a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

/// Bounds on what clients may send and hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Request line and fields of a request head, in bytes. Default 32 KiB; more is answered with 431.
    pub(crate) max_header_bytes: usize,
    /// Fields of a request head. Default 100; more is answered with 431.
    pub(crate) max_headers: usize,
    /// Names of request fields. Default [`FieldNames::Plain`]; fields with others are dropped.
    pub(crate) field_names: FieldNames,
    /// Request target in bytes. Default 8 KiB; more is answered with 414.
    pub(crate) max_uri_bytes: usize,
    /// Client connections of one worker. Default 16384; further ones are closed at once.
    pub(crate) max_connections: usize,
}

/// What names of request fields may consist of. Services that make variables of them cannot tell
/// `X_Real_IP` from `X-Real-IP`, and would take a client's word for the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldNames {
    /// Letters, digits and hyphens.
    Plain,
    /// Underscores as well.
    Underscores,
    /// Whatever HTTP lets them.
    Any,
}

/// What a client's connection may hold that speaks HTTP/2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http2 {
    /// Requests and sessions under way at once. Default 128; further ones are refused.
    pub(crate) max_streams: u32,
    /// What a client may send on one stream before somebody has taken it, in bytes. Default 256 KiB.
    pub(crate) stream_window_bytes: u32,
    /// The same for all streams of a connection together. Default 1 MiB.
    pub(crate) connection_window_bytes: u32,
    /// What is held back for a stream that the client does not read fast enough. Default 64 KiB.
    pub(crate) send_buffer_bytes: usize,
}

/// How long clients may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientTimeouts {
    /// Whole TLS handshake. Default 10 s.
    pub(crate) tls_handshake: Duration,
    /// From the first byte of a request head to its last. Default 60 s; then 408.
    pub(crate) header_read: Duration,
    /// Between requests of a connection. Default 75 s.
    pub(crate) keep_alive: Duration,
    /// Between two reads of a request body. Default 60 s; then 408.
    pub(crate) body_read: Duration,
    /// Between two writes to a client that does not read. Default 60 s.
    pub(crate) send: Duration,
    /// How long exchanges and sessions may go on after the first SIGTERM or SIGINT. Default 30 s.
    pub(crate) drain: Duration,
    /// Over how much of it sessions are told to end, one after the other. Default: half of it.
    pub(crate) drain_spread: Duration,
}

/// A bound address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listener {
    pub(crate) bind: SocketAddr,
    pub(crate) tls: bool,
    /// Whether HTTP/2 may be spoken. Default: with TLS, where the handshake says what is; without, only
    /// clients that know of it beforehand speak it.
    pub(crate) http2: bool,
}

/// A named group of endpoints. `url = "..."` in a route makes one of its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Upstream {
    /// The name in the file; host and port of the URL for an upstream made by `url`. It is what
    /// `$proxy_host` says.
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) balance: Balance,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) health: Option<HealthCheck>,
    /// Idle connections kept per worker and endpoint. Default 32; 0 keeps none.
    pub(crate) keep_alive: usize,
    /// How long an idle connection is kept. Default 60 s.
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) tls: Option<UpstreamTls>,
}

/// How an upstream shares out requests. All of them answer as nginx does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Balance {
    /// Smooth weighted round-robin.
    RoundRobin,
    /// To the endpoint with the fewest exchanges and sessions open for its weight.
    LeastConnections,
    /// By the client's address: the first three octets of an IPv4 address, a whole IPv6 address.
    IpHash,
    /// To the one with fewer open, of two drawn at random.
    RandomTwo,
    /// By what a text stands for in the request. `consistent`: by a ring, so that an endpoint that comes
    /// or goes moves few keys.
    Hash { key: Template, consistent: bool },
}

/// A cookie that keeps a client at the endpoint that answered it first, for as long as that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sticky {
    pub(crate) cookie: String,
    /// Default: until the browser is closed.
    pub(crate) expires: Option<Duration>,
    pub(crate) domain: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
    pub(crate) same_site: Option<SameSite>,
}

/// With which requests of other sites a cookie is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameSite {
    Strict,
    Lax,
    None,
}

/// How endpoints are looked after beside the requests that they serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub(crate) kind: CheckKind,
    /// Default: the upstream's name.
    pub(crate) host: Option<HeaderValue>,
    /// Between the end of a check and the next. Default 5 s.
    pub(crate) interval: Duration,
    /// For the whole check. Default 2 s.
    pub(crate) timeout: Duration,
    /// By how much `interval` varies. Default: a tenth of it.
    pub(crate) jitter: Duration,
    /// Checks in a row that an endpoint must pass to be healthy again. Default 2.
    pub(crate) rise: u32,
    /// Checks in a row that it must fail to be unhealthy. Default 3.
    pub(crate) fall: u32,
}

/// What an endpoint is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckKind {
    /// A connection, and the TLS handshake if the upstream has TLS.
    Tcp,
    /// A GET. Default: path `/`, status 200 to 399.
    Http {
        path: PathAndQuery,
        expected: Vec<RangeInclusive<u16>>,
    },
    /// An opening handshake. It is closed at once, with 1000.
    WebSocket { path: PathAndQuery },
}

/// Where the addresses of names are found, beside the hosts file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Default: none, which means those of the system.
    pub(crate) servers: Vec<SocketAddr>,
    /// Addresses are kept for at least so long, whatever DNS says of them. Default 5 s.
    pub(crate) min_ttl: Duration,
    /// And for at most so long. Default 1 h.
    pub(crate) max_ttl: Duration,
    /// For one question to one server. Default 5 s.
    pub(crate) timeout: Duration,
}

/// A name that has to be resolved, where it stands in the file.
#[derive(Debug, Clone)]
pub(crate) struct HostName {
    pub(crate) name: String,
    /// What is wrong if it cannot be, but for the reason.
    problem: Problem,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// Lower case; one of [`Config::host_names`].
    Name(String),
}

/// An endpoint as written: one for each address that its host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// Host and port as written, from which the points of a hash ring are made.
    pub(crate) written: String,
    /// At least 1. Default 1.
    pub(crate) weight: u32,
    /// Failures within `fail_timeout` that take the endpoint out. Default 1; 0 never does.
    pub(crate) max_fails: u32,
    /// How long failures count, and how long the endpoint stays out. Default 10 s.
    pub(crate) fail_timeout: Duration,
    /// Exchanges and sessions open at once, over all workers. Default 0: any number.
    pub(crate) max_connections: u32,
    /// How long an endpoint that came back takes to reach its weight. Default 0: no time.
    pub(crate) slow_start: Duration,
    pub(crate) backup: bool,
    /// Keeps its place in the order, and gets nothing.
    pub(crate) down: bool,
}

/// TLS towards a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamTls {
    /// File of PEM certificates to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Name to send and to verify: a host name, or an IP address without brackets. Default: the
    /// host of the endpoints as written, so it must be given where they differ, and where they are
    /// bare addresses that the certificate does not name.
    pub(crate) server_name: String,
    /// Default true.
    pub(crate) verify: bool,
}

/// A plugin named in the file, or a variant of one that a route made with its own `config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// The name in the file; variants share it.
    pub(crate) name: String,
    pub(crate) module: Module,
    /// The `config` table as JSON; `{}` if there is none.
    pub(crate) config: String,
    /// Names of upstreams that it may call.
    pub(crate) call: Vec<String>,
    pub(crate) limits: PluginLimits,
    pub(crate) on_failure: FailurePolicy,
    /// None: never.
    pub(crate) eject: Option<Ejection>,
    pub(crate) isolation: Isolation,
    /// None: none are kept.
    pub(crate) snapshot_every: Option<SnapshotEvery>,
    pub(crate) swap: SwapPolicy,
    pub(crate) canary: Canary,
    pub(crate) shadow: Shadow,
}

/// How sessions that run get to a new version of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SwapPolicy {
    /// Between two messages, those that are idle at once.
    NextMessage,
    /// Not at all: the new version is for new sessions.
    NextSession,
    /// Not at all, and those that are left after this time are closed with 1012.
    DrainBy(Duration),
}

/// Where a plugin's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Module {
    /// Part of the binary: `builtin:NAME`, without the prefix.
    Builtin(String),
    File(PathBuf),
}

/// Bounds on one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginLimits {
    /// CPU time of one call. Default 5 ms; kept to about 2 ms.
    pub(crate) call_timeout: Duration,
    /// Linear memory and tables of one instance. Default 16 MiB.
    pub(crate) memory_bytes: usize,
    /// Elements of all tables of one instance. Default 65,536.
    pub(crate) table_elements: usize,
    /// Stack of one call. Default 512 KiB.
    pub(crate) stack_bytes: usize,
    /// Handles to what the host holds for one instance. Default 1,000.
    pub(crate) handles: usize,
    /// Bytes one call may produce: answers, replacements, sent messages. Default 4 MiB.
    pub(crate) output_bytes: usize,
    /// Snapshots of sessions that are kept on one worker. Default 16 MiB.
    pub(crate) snapshots_bytes: usize,
    /// Messages one call may send. Default 64.
    pub(crate) output_messages: usize,
    pub(crate) tickets: TicketLimits,
}

/// Bounds on what a plugin starts and waits for. Timers count as call-outs do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TicketLimits {
    /// Started per second and worker. Default 1,000.
    pub(crate) per_second: u32,
    /// At once, per worker. Default 256.
    pub(crate) at_once: u32,
    /// At once, by one exchange or session. Default 8.
    pub(crate) per_session: usize,
    /// Body of one response. Default 64 KiB.
    pub(crate) reply_bytes: usize,
    /// How long one hook may wait, all in all. Default 5 s; then it has failed.
    pub(crate) wait_timeout: Duration,
}

/// Names served alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Site {
    /// Lower case. At least one, unless `default`.
    pub(crate) names: Vec<SiteName>,
    /// Indices into [`Config::listeners`], at least one. Default: all listeners.
    pub(crate) listeners: Vec<usize>,
    /// Answers requests of its listeners that name no site. A site without names always does. If no
    /// site of a listener does, the first one answers.
    pub(crate) default: bool,
    pub(crate) certificate: Option<Certificate>,
    /// Of requests that no route was found for; routes have their own.
    pub(crate) settings: Settings,
    /// In the order of the file.
    pub(crate) routes: Vec<Route>,
}

/// A name a site answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SiteName {
    /// `www.example.com`
    Exact(String),
    /// `*.example.com`, held as `.example.com`
    Suffix(String),
    /// `www.example.*`, held as `www.example.`
    Prefix(String),
    /// `~^(?<name>.+)\.example\.com$`
    Regex(Regex),
}

/// Files of a chain and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// What happens to requests whose path matches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub(crate) pattern: Pattern,
    pub(crate) action: Action,
    /// Indices into [`Config::plugins`], in the operator's order; each at most once.
    pub(crate) plugins: Vec<usize>,
    pub(crate) settings: Settings,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Proxy(Target),
    Files(Arc<Files>),
    Respond(Respond),
}

/// Where a route sends requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Index into [`Config::upstreams`].
    pub(crate) upstream: usize,
    /// What takes the place of the route's prefix in the path. None: the target is sent as it came.
    pub(crate) replace_prefix: Option<String>,
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Respond {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    /// None: a line with the status, where it asks for one.
    pub(crate) body: Option<Template>,
}

/// WebSocket sessions of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebSocket {
    /// Longest message that is put together for plugins, in bytes. Default 1 MiB. What becomes of a
    /// longer one on a route whose plugins see messages, `oversize` says.
    pub(crate) max_message_bytes: usize,
    pub(crate) oversize: Oversize,
    /// How long a session, or any other tunnel, may be silent in both directions. Default: the
    /// route's `timeouts.read`.
    pub(crate) idle_timeout: Duration,
    /// Where messages may be compressed that plugins see. Default: towards both sides. On a route
    /// whose plugins see no messages, client and service agree by themselves.
    pub(crate) compression: Compression,
    pub(crate) handshake: HandshakeRules,
    /// Origins that may open a WebSocket; others, and clients that name none, are answered with 403.
    /// Empty: anybody may.
    pub(crate) origins: Vec<Origin>,
    pub(crate) liveness: Liveness,
    /// How long the peers may take to end a session that is over: one of them has sent a Close frame,
    /// or the proxy has sent its own, or the session is as old as it may get and a frame is under way.
    /// Default 5 s; then the connections are closed.
    pub(crate) close_timeout: Duration,
}

/// What becomes of messages that are too long to be shown to plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oversize {
    /// Over `max_message` they close the session with 1009. Those that are only longer than a plugin
    /// cares about pass it unseen. The default.
    Close,
    /// They pass unseen, however long they are, and are not held.
    Pass,
    /// As `Close`, and so does what is longer than any plugin that asked for its kind cares about: no
    /// message gets past a plugin by its length.
    CloseUnseen,
}

/// What the proxy does about WebSocket sessions by the clock, beside ending silent ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Liveness {
    /// None: clients are not pinged.
    pub(crate) ping_client: Option<Ping>,
    /// None: services are not pinged.
    pub(crate) ping_service: Option<Ping>,
    /// None: sessions may get as old as they like.
    pub(crate) max_age: Option<MaxAge>,
}

/// How the proxy finds out whether a side of a session is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ping {
    /// Silence of the side after which it is pinged.
    pub(crate) interval: Duration,
    /// How long it may then go on to say nothing. Default 10 s; then the session is closed.
    pub(crate) timeout: Duration,
}

/// How old a session may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) limit: Duration,
    /// Up to this much earlier, each session at random, at most `limit`. Default: a tenth of it.
    pub(crate) jitter: Duration,
}

/// What the proxy insists on in an opening handshake beside what makes it one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeRules {
    /// Key, version, accept, token and subprotocol have to be right.
    Strict,
    /// The service judges the client; what it answers wrongly is worth a warning, and goes on.
    Lenient,
    /// A 101 to a request for an upgrade is enough.
    Off,
}

/// Legs of a session on which `permessage-deflate` may be agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compression {
    pub(crate) client: bool,
    pub(crate) service: bool,
}

impl Config {
    /// Reads and checks a file. All that is wrong with it is in the error, not only the first.
    pub(crate) fn load(path: &Path) -> Result<Loaded, Error> {
        file::load(path)
    }

    /// Reads and checks the text of a file. `name` stands in messages, and relative paths in the
    /// text begin in its folder.
    pub(crate) fn parse(text: &str, name: &Path) -> Result<Loaded, Error> {
        file::parse(text, name)
    }
}

/// Where it stands makes no difference.
impl PartialEq for HostName {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl HostName {
    /// Returns the problem that the name cannot be resolved.
    pub(crate) fn unresolved(&self, why: impl std::fmt::Display) -> Problem {
        let mut problem = self.problem.clone();
        problem.text += &format!("; {why}");
        problem
    }
}

impl Route {
    /// All variables that its templates name.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        let own: Vec<&Template> = match &self.action {
            Action::Proxy(_) => Vec::new(),
            Action::Files(files) => files.templates().collect(),
            Action::Respond(respond) => {
                let fields = respond.headers.iter().map(|(_, value)| value);
                fields.chain(&respond.body).collect()
            }
        };
        let sent = self.settings.set_headers.iter().map(|(_, value)| value);
        own.into_iter()
            .chain(sent)
            .chain(self.settings.late_templates())
            .flat_map(Template::variables)
    }
}

impl std::fmt::Display for SiteName {
    /// As it is written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            // Names have no case, so that the sign for it is not written.
            Self::Regex(regex) => write!(f, "~{}", regex.as_str().trim_start_matches("(?i)")),
        }
    }
}

impl std::fmt::Display for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
