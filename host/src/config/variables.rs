//! The variables that configurations may name, and when each is known.
//!
//! Names and meanings are nginx's where nginx has them. What a variable stands for in a session is
//! the proxy's to say.

use std::borrow::Cow;

use http::HeaderName;

use super::nearest;

/// What may stand behind a `$`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `$host`: host of the request line, else of the `Host` field, else the site's first name;
    /// lower case, without port.
    Host,
    /// `$http_host`: the `Host` field as it came.
    HttpHost,
    /// `$http_NAME`: a request field, underscores standing for hyphens.
    Http(HeaderName),
    /// `$arg_NAME`: one argument of the query.
    Arg(String),
    /// `$cookie_NAME`
    Cookie(String),
    /// `$remote_addr`: the client's address.
    RemoteAddr,
    /// `$binary_remote_addr`: the same in 4 or 16 bytes.
    BinaryRemoteAddr,
    /// `$remote_port`
    RemotePort,
    /// `$remote_user`: the name given by basic authentication.
    RemoteUser,
    /// `$server_addr`: the address on which the client reached us.
    ServerAddr,
    /// `$server_port`
    ServerPort,
    /// `$server_name`: the site's first name.
    ServerName,
    /// `$server_protocol`: `HTTP/1.1`
    ServerProtocol,
    /// `$scheme`: `http` or `https`, as the client used it.
    Scheme,
    /// `$https`: `on` or nothing.
    Https,
    /// `$request`: the request line as it came.
    Request,
    /// `$request_method`
    RequestMethod,
    /// `$request_uri`: path and query as they came.
    RequestUri,
    /// `$request_length`: bytes of head and body that came.
    RequestLength,
    /// `$request_id`: 32 random hexadecimal digits, the same as often as it is asked for.
    RequestId,
    /// `$uri`: the path, decoded and normalised.
    Uri,
    /// `$args`: the query without its question mark.
    Args,
    /// `$is_args`: `?` if there is a query.
    IsArgs,
    /// `$content_length`: the request's field.
    ContentLength,
    /// `$content_type`: the request's field.
    ContentType,
    /// `$proxy_host`: the upstream's name, or the host of the route's `url`.
    ProxyHost,
    /// `$proxy_port`: port of the route's `url`, else that of the scheme.
    ProxyPort,
    /// `$proxy_add_x_forwarded_for`: what came in `X-Forwarded-For`, and the client's address.
    ProxyAddXForwardedFor,
    /// `$msec`: seconds since 1970, with milliseconds.
    Msec,
    /// `$time_iso8601`
    TimeIso8601,
    /// `$time_local`: as in nginx's access logs.
    TimeLocal,
    /// `$hostname`
    Hostname,
    /// `$pid`
    Pid,
    /// `$connection`: number of the client's connection.
    Connection,
    /// `$connection_requests`: requests of that connection so far.
    ConnectionRequests,
    /// `$ssl_protocol`: `TLSv1.3`
    SslProtocol,
    /// `$ssl_cipher`: the cipher suite by its OpenSSL name.
    SslCipher,
    /// `$ssl_server_name`: the name the client sent in its TLS handshake.
    SslServerName,
    /// `$ssl_session_reused`: `r` or `.`
    SslSessionReused,
    /// `$route`: the route's `match`.
    Route,
    /// `$1` to `$9`: a group of the pattern that matched.
    Capture(usize),
    /// `$NAME`: a named group of the pattern that matched.
    Named(String),
    /// `$NAME`: a map, by its place in the configuration.
    Map(usize),

    /// `$status`
    Status,
    /// `$request_time`: seconds since the request began, with milliseconds.
    RequestTime,
    /// `$upstream_addr`: the endpoints tried.
    UpstreamAddr,
    /// `$upstream_status`: what each answered.
    UpstreamStatus,
    /// `$upstream_connect_time`: how long each took to be reached.
    UpstreamConnectTime,
    /// `$upstream_header_time`: how long each took to answer.
    UpstreamHeaderTime,
    /// `$upstream_response_time`: how long each was at it.
    UpstreamResponseTime,
    /// `$upstream_http_NAME`: a field of the service's response.
    UpstreamHttp(HeaderName),
    /// `$sent_http_NAME`: a field of the response.
    SentHttp(HeaderName),
    /// `$attempts`: how many endpoints were tried.
    Attempts,
    /// `$plugin_time`: seconds spent in plugins, with microseconds.
    PluginTime,
    /// `$failure`: why it ended badly.
    Failure,

    /// `$body_bytes_sent`: bytes of the response's body, and of a tunnel.
    BodyBytesSent,
    /// `$bytes_sent`: the same and the head.
    BytesSent,
    /// `$bytes_from_client`: bytes of the request's body, and of a tunnel.
    BytesFromClient,
    /// `$kind`: `exchange`, `tunnel` or `websocket`.
    Kind,
    /// `$messages_from_client`
    MessagesFromClient,
    /// `$messages_from_service`
    MessagesFromService,
    /// `$messages_dropped`: by plugins.
    MessagesDropped,
    /// `$messages_replaced`: by plugins.
    MessagesReplaced,
    /// `$messages_sent`: by plugins.
    MessagesSent,
    /// `$close_code`: of the first Close frame.
    CloseCode,
    /// `$closed_by`: `client`, `service`, `plugin` or `proxy`.
    ClosedBy,
}

/// When something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// As soon as the head of the request has come.
    Request,
    /// Once there is the head of a response.
    Response,
    /// When the exchange or session is over.
    End,
}

/// Names as written, for reading and for suggestions.
const NAMES: [(&str, Variable); 60] = [
    ("host", Variable::Host),
    ("http_host", Variable::HttpHost),
    ("remote_addr", Variable::RemoteAddr),
    ("binary_remote_addr", Variable::BinaryRemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("remote_user", Variable::RemoteUser),
    ("server_addr", Variable::ServerAddr),
    ("server_port", Variable::ServerPort),
    ("server_name", Variable::ServerName),
    ("server_protocol", Variable::ServerProtocol),
    ("scheme", Variable::Scheme),
    ("https", Variable::Https),
    ("request", Variable::Request),
    ("request_method", Variable::RequestMethod),
    ("request_uri", Variable::RequestUri),
    ("request_length", Variable::RequestLength),
    ("request_id", Variable::RequestId),
    ("uri", Variable::Uri),
    ("document_uri", Variable::Uri),
    ("args", Variable::Args),
    ("query_string", Variable::Args),
    ("is_args", Variable::IsArgs),
    ("content_length", Variable::ContentLength),
    ("content_type", Variable::ContentType),
    ("proxy_host", Variable::ProxyHost),
    ("proxy_port", Variable::ProxyPort),
    ("proxy_add_x_forwarded_for", Variable::ProxyAddXForwardedFor),
    ("msec", Variable::Msec),
    ("time_iso8601", Variable::TimeIso8601),
    ("time_local", Variable::TimeLocal),
    ("hostname", Variable::Hostname),
    ("pid", Variable::Pid),
    ("connection", Variable::Connection),
    ("connection_requests", Variable::ConnectionRequests),
    ("ssl_protocol", Variable::SslProtocol),
    ("ssl_cipher", Variable::SslCipher),
    ("ssl_server_name", Variable::SslServerName),
    ("ssl_session_reused", Variable::SslSessionReused),
    ("route", Variable::Route),
    ("status", Variable::Status),
    ("request_time", Variable::RequestTime),
    ("upstream_addr", Variable::UpstreamAddr),
    ("upstream_status", Variable::UpstreamStatus),
    ("upstream_connect_time", Variable::UpstreamConnectTime),
    ("upstream_header_time", Variable::UpstreamHeaderTime),
    ("upstream_response_time", Variable::UpstreamResponseTime),
    ("attempts", Variable::Attempts),
    ("plugin_time", Variable::PluginTime),
    ("failure", Variable::Failure),
    ("body_bytes_sent", Variable::BodyBytesSent),
    ("bytes_sent", Variable::BytesSent),
    ("bytes_from_client", Variable::BytesFromClient),
    ("kind", Variable::Kind),
    ("messages_from_client", Variable::MessagesFromClient),
    ("messages_from_service", Variable::MessagesFromService),
    ("messages_dropped", Variable::MessagesDropped),
    ("messages_replaced", Variable::MessagesReplaced),
    ("messages_sent", Variable::MessagesSent),
    ("close_code", Variable::CloseCode),
    ("closed_by", Variable::ClosedBy),
];

impl Variable {
    /// The variable of that name, without the dollar, that every configuration has.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if let Some((_, variable)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(variable.clone());
        }
        let of = |prefix| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        let field = |name: &str| HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok();
        if let Some(name) = of("http_") {
            return field(name).map(Self::Http);
        }
        if let Some(name) = of("upstream_http_") {
            return field(name).map(Self::UpstreamHttp);
        }
        if let Some(name) = of("sent_http_") {
            return field(name).map(Self::SentHttp);
        }
        let argument = of("arg_").map(|name| Self::Arg(name.to_owned()));
        argument.or_else(|| of("cookie_").map(|name| Self::Cookie(name.to_owned())))
    }

    /// Whether it can be asked for at any time, and then means that time.
    pub(crate) fn is_known_always(&self) -> bool {
        matches!(
            self,
            Self::Msec
                | Self::TimeIso8601
                | Self::TimeLocal
                | Self::Hostname
                | Self::Pid
                | Self::RequestLength
        )
    }

    /// The name as it is written behind the dollar. `maps` are those of the configuration.
    pub(crate) fn name(&self, maps: &[super::Map]) -> String {
        let field = |family: &str, name: &HeaderName| {
            format!("{family}_{}", name.as_str().replace('-', "_"))
        };
        match self {
            Self::Http(name) => field("http", name),
            Self::UpstreamHttp(name) => field("upstream_http", name),
            Self::SentHttp(name) => field("sent_http", name),
            Self::Arg(name) => format!("arg_{name}"),
            Self::Cookie(name) => format!("cookie_{name}"),
            Self::Capture(number) => number.to_string(),
            Self::Named(name) => name.clone(),
            Self::Map(index) => maps
                .get(*index)
                .map_or_else(String::new, |map| map.name.clone()),
            _ => {
                let known = NAMES.iter().find(|(_, variable)| variable == self);
                known.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }
        }
    }

    /// Whether it is a group of a pattern.
    pub(crate) fn is_group(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Named(_))
    }

    /// Returns when the variable is first known; a map when the last is of what it depends on.
    pub(super) fn stage(&self, names: &Names<'_>) -> Stage {
        match self {
            Self::Map(index) => names.maps.get(*index).map_or(Stage::Request, |map| map.1),
            Self::Status
            | Self::RequestTime
            | Self::UpstreamAddr
            | Self::UpstreamStatus
            | Self::UpstreamConnectTime
            | Self::UpstreamHeaderTime
            | Self::UpstreamResponseTime
            | Self::UpstreamHttp(_)
            | Self::SentHttp(_)
            | Self::Attempts
            | Self::PluginTime
            | Self::Failure => Stage::Response,
            Self::BodyBytesSent
            | Self::BytesSent
            | Self::BytesFromClient
            | Self::Kind
            | Self::MessagesFromClient
            | Self::MessagesFromService
            | Self::MessagesDropped
            | Self::MessagesReplaced
            | Self::MessagesSent
            | Self::CloseCode
            | Self::ClosedBy => Stage::End,
            _ => Stage::Request,
        }
    }
}

/// The names a text may use beside those that every configuration has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Names<'a> {
    /// In the order of the configuration, each with when it is known.
    pub(super) maps: &'a [(String, Stage)],
    pub(super) groups: Option<&'a Groups>,
}

/// Groups of the pattern that a text belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// How many have a number.
    numbered: usize,
    named: Vec<String>,
}

impl Groups {
    /// The groups of a pattern.
    pub(super) fn of(regex: &regex::Regex) -> Self {
        Self {
            numbered: regex.captures_len() - 1,
            named: regex
                .capture_names()
                .flatten()
                .map(ToOwned::to_owned)
                .collect(),
        }
    }

    /// Groups of any of several patterns, where which of them matches is not known.
    pub(super) fn or(mut self, other: Self) -> Self {
        self.numbered = self.numbered.max(other.numbered);
        self.named.extend(other.named);
        self
    }

    /// The groups of a pattern, and the named ones of another that has matched before.
    pub(super) fn after(mut self, other: &Self) -> Self {
        self.named.extend_from_slice(&other.named);
        self
    }
}

impl Names<'_> {
    /// Finds what stands behind a dollar, or says what could.
    pub(super) fn find(&self, name: &str) -> Result<Variable, String> {
        if let Some(number) = name.parse::<usize>().ok().filter(|n| (1..=9).contains(n)) {
            let groups = self.groups.map_or(0, |groups| groups.numbered);
            return if number <= groups {
                Ok(Variable::Capture(number))
            } else {
                Err(match groups {
                    0 => format!("`${number}` means a group of a pattern, and there is none here"),
                    _ => format!("`${number}`: the pattern has no more than {groups} groups"),
                })
            };
        }
        if let Some(map) = self.maps.iter().position(|(map, _)| map == name) {
            return Ok(Variable::Map(map));
        }
        if self.named_groups().any(|group| group == name) {
            return Ok(Variable::Named(name.to_owned()));
        }
        Variable::named(name).ok_or_else(|| self.unknown(name))
    }

    fn named_groups(&self) -> impl Iterator<Item = &str> {
        let groups = self.groups.iter().flat_map(|groups| &groups.named);
        groups.map(String::as_str)
    }

    fn unknown(&self, name: &str) -> String {
        let own = self.maps.iter().map(|(map, _)| map.as_str());
        let known = NAMES.iter().map(|(known, _)| *known);
        if let Some(near) = nearest::name(name, own.clone().chain(self.named_groups()).chain(known))
        {
            return format!("unknown variable `${name}`; did you mean `${near}`?");
        }
        let own: Vec<_> = own.map(|map| format!("${map}")).collect();
        let own = match own.len() {
            0 => Cow::Borrowed("there are no [maps] in this file"),
            _ => Cow::Owned(format!("[maps] of this file: {}", own.join(", "))),
        };
        format!("unknown variable `${name}`; {own}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_the_rest_of_the_name() {
        let field = || HeaderName::from_static("x-forwarded-proto");
        let named = |name| Variable::named(name).unwrap();
        assert_eq!(named("http_x_forwarded_proto"), Variable::Http(field()));
        assert_eq!(
            named("upstream_http_x_forwarded_proto"),
            Variable::UpstreamHttp(field())
        );
        assert_eq!(
            named("sent_http_x_forwarded_proto"),
            Variable::SentHttp(field())
        );
        assert_eq!(named("http_host"), Variable::HttpHost);
        assert_eq!(named("arg_room_id"), Variable::Arg("room_id".to_owned()));
        assert_eq!(named("cookie_sid"), Variable::Cookie("sid".to_owned()));
        assert_eq!(Variable::named("http_"), None);
        assert_eq!(Variable::named("Host"), None);
    }

    #[test]
    fn every_name_is_there_once() {
        for (index, (name, _)) in NAMES.iter().enumerate() {
            assert!(
                NAMES[..index].iter().all(|(other, _)| other != name),
                "{name}"
            );
        }
    }

    #[test]
    fn groups_have_numbers_and_names() {
        let regex = regex::Regex::new("^/(?<room>[a-z]+)/([0-9]+)").unwrap();
        let groups = Groups::of(&regex);
        let names = Names {
            maps: &[],
            groups: Some(&groups),
        };
        assert_eq!(names.find("2"), Ok(Variable::Capture(2)));
        assert_eq!(names.find("room"), Ok(Variable::Named("room".to_owned())));
        assert_eq!(
            names.find("3"),
            Err("`$3`: the pattern has no more than 2 groups".to_owned())
        );
        assert_eq!(
            Names::default().find("1"),
            Err("`$1` means a group of a pattern, and there is none here".to_owned())
        );
    }
}
