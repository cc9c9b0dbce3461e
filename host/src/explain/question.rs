//! The request that is asked about: a URL and what the command line says beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::{Method, Request, Uri};

use super::print::text;
use super::way::explain;
use crate::config::Config;

/// Explain which way a request would take, and why
///
/// Tells the listener, the site and the route and why it is none of the others, the values of variables,
/// the plugins in the order in which they would be asked, the request as the service would get it,
/// ordinary and as the opening handshake of a WebSocket, the endpoints in the order in which they would
/// be tried, and limits and timeouts in force. Nothing is bound or sent, and no plugin is asked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate explain tidegate.toml https://www.example.com/chat
  tidegate explain tidegate.toml http://a.example.com/x?y=1 -H 'Cookie: id=7' --from 192.0.2.7
  tidegate explain tidegate.toml ws://a.example.com/chat --json | jq .route.why

Exit codes: 0 explained, 1 the file or the URL cannot be used, 2 wrong arguments.")]
pub(crate) struct Question {
    /// The configuration
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// What a client asks for: http, https, ws or wss
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// A field of the request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The client's address
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    from: IpAddr,
    /// The request's method
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    method: String,
    /// Explain as one JSON object
    #[arg(long)]
    json: bool,
}

/// A request, and where it would come in.
pub(super) struct Asked {
    pub(super) head: Parts,
    /// Place of the listener in the configuration, and why it is that one.
    pub(super) listener: usize,
    pub(super) why: String,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A URL, taken apart.
struct Target {
    tls: bool,
    /// As the `Host` field has it.
    authority: String,
    port: Option<u16>,
    uri: Uri,
}

impl Question {
    /// Returns the explanation as it is printed. The error is what is wrong with the file or the URL.
    pub(crate) fn answer(&self) -> Result<String, String> {
        let explanation = explain(self).map_err(|error| error.to_string())?;
        if self.json {
            return serde_json::to_string(&explanation).map_err(|error| error.to_string());
        }
        Ok(text(&explanation).trim_end().to_owned())
    }

    /// Makes the request, or says what is wrong with it.
    pub(super) fn ask(&self, config: &Config) -> Result<Asked, String> {
        let target = target(&self.url)?;
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| {
            format!(
                "--method: expected a method such as GET, found {:?}",
                self.method
            )
        })?;
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = method;
        head.uri = target.uri.clone();
        let host = HeaderValue::from_str(&target.authority);
        head.headers
            .insert(HOST, host.map_err(|error| error.to_string())?);
        add(&mut head.headers, &self.headers)?;
        let (listener, why) = listener(config, &target)?;
        let bind = config.listeners[listener].bind;
        let port = target.port.unwrap_or(if target.tls { 443 } else { 80 });
        let port = if bind.port() == 0 { port } else { bind.port() };
        Ok(Asked {
            head,
            listener,
            why,
            local: SocketAddr::new(bind.ip(), port),
            remote: SocketAddr::new(self.from, 0),
        })
    }
}

impl Asked {
    /// The same request as the opening handshake of a WebSocket, for what of that is missing.
    pub(super) fn handshake(&self) -> Parts {
        let mut head = self.head.clone();
        head.method = Method::GET;
        // The key of RFC 6455 §1.3.
        let fields = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            (SEC_WEBSOCKET_KEY.as_str(), "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in fields {
            let name = HeaderName::from_static(name);
            head.headers
                .entry(name)
                .or_insert(HeaderValue::from_static(value));
        }
        head
    }
}

fn target(url: &str) -> Result<Target, String> {
    const URL: &str = "a URL such as http://www.example.com/chat";
    let wrong = |why: &str| format!("expected {URL}, found {url:?}{why}");
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| wrong("; it has no scheme"))?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => false,
        "https" | "wss" => true,
        _ => return Err(wrong("; its scheme is none of http, https, ws and wss")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let parsed: http::uri::Authority = authority
        .parse()
        .map_err(|_| wrong("; it has no host that can be read"))?;
    if authority.contains('@') {
        return Err(wrong("; a name before the host is never sent"));
    }
    if parsed.host().is_empty() || authority.ends_with(':') {
        return Err(wrong("; its host or port is empty"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let uri = format!("{slash}{path}")
        .parse()
        .map_err(|error| wrong(&format!("; its path cannot be sent: {error}")))?;
    Ok(Target {
        tls,
        authority: authority.to_owned(),
        port: parsed.port_u16(),
        uri,
    })
}

/// Adds the fields of the command line. `Host` takes the place of the URL's.
fn add(headers: &mut HeaderMap, fields: &[String]) -> Result<(), String> {
    for field in fields {
        let wrong = || format!("--header: expected 'Name: value', found {field:?}");
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        if name == HOST {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(())
}

/// Finds the listener that a client with this URL would reach.
fn listener(config: &Config, target: &Target) -> Result<(usize, String), String> {
    let default = if target.tls { 443 } else { 80 };
    let port = target.port.unwrap_or(default);
    let fitting = |wanted: Option<u16>| {
        let fits = |listener: &&(usize, &crate::config::Listener)| {
            let bind = listener.1.bind.port();
            listener.1.tls == target.tls && wanted.is_none_or(|port| bind == port || bind == 0)
        };
        let listeners: Vec<_> = config.listeners.iter().enumerate().collect();
        listeners
            .iter()
            .filter(fits)
            .map(|(index, _)| *index)
            .collect::<Vec<_>>()
    };
    match (fitting(Some(port))[..].first(), &fitting(None)[..]) {
        (Some(&index), _) => Ok((index, format!("its port is {port}"))),
        // A port that the URL does not name may be mapped by whatever is in front.
        (None, [only]) if target.port.is_none() => {
            let bind = config.listeners[*only].bind;
            let why = format!(
                "no other is {}; port {port} is taken to lead to it",
                kind(target.tls)
            );
            Ok((*only, format!("{why} ({bind})")))
        }
        _ => {
            let known: Vec<_> = config
                .listeners
                .iter()
                .map(|listener| format!("{} ({})", listener.bind, kind(listener.tls)))
                .collect();
            Err(format!(
                "no listener is {} on port {port}; there are: {}",
                kind(target.tls),
                known.join(", ")
            ))
        }
    }
}

fn kind(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}
