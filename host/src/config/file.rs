//! The configuration as it is written: top-level keys, and the order in which the rest is read.
//!
//! A key is added where its table is read, with its default, and in `tidegate.example.toml`. Each
//! larger part has a file of its own: `maps.rs`, `logs.rs`, `upstreams.rs`, `plugins.rs`, `sites.rs`,
//! `routes.rs`, and `settings.rs` for what sites and routes share.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::error::Error;
use super::logs::Formats;
use super::plugins::Plugins;
use super::reader::{self, Table, Value};
use super::settings::Inherited;
use super::sites::Parts;
use super::upstreams::Upstreams;
use super::variables::Names;
use super::{
    Admin, AdminSocket, ClientTimeouts, Config, FieldNames, Http2, Limits, Listener, Loaded,
    Resolver, Token, maps, sites,
};

/// Why no smaller value: it is the least that hyper's buffer can be.
const LEAST_HEADER_BYTES: u64 = 8 << 10;

/// Why no larger value: the `http` crate keeps targets no longer than this.
const MOST_URI_BYTES: u64 = 65_534;

/// Reads a configuration; `file` is its name in messages, and its folder is where relative paths
/// begin.
pub(super) fn parse(text: &str, file: &Path) -> Result<Loaded, Error> {
    let reader::Read { value, warnings } = reader::read(file, text, config)?;
    Ok(Loaded {
        config: value,
        warnings,
    })
}

/// Reads a file.
pub(super) fn load(file: &Path) -> Result<Loaded, Error> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::Read {
        file: file.to_owned(),
        error,
    })?;
    parse(&text, file)
}

const ADMIN: &str = "a table such as { listen = \"127.0.0.1:9900\" }";
const ADDRESS: &str = "an IP address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"";

fn config(t: &Table<'_>) -> Config {
    t.refuse("include", "; write the whole configuration in one file");
    let workers = t.get("workers").map_or_else(cores, |value| workers(&value));
    let admin = t
        .get("admin")
        .and_then(|value| value.table(ADMIN, admin))
        .flatten();
    let watch = t.boolean("watch", false);
    let limits = t.section("limits", limits);
    let timeouts = t.section("timeouts", timeouts);
    let http2 = t.section("http2", http2);
    let written_listeners = listeners(t, admin.as_ref());
    let maps = maps::read(t);
    let map_names = maps::names(&maps);
    let names = Names {
        maps: &map_names,
        groups: None,
    };
    let resolver = t.section("resolver", resolver);
    let formats = Formats::read(t, names);
    let access_logs = t
        .get("access_log")
        .map(|value| formats.access_logs(&value))
        .unwrap_or_default();
    let mut upstreams = Upstreams::read(t, &names);
    let plugins = Plugins::read(t, &mut upstreams);
    let mut parts = Parts {
        listeners: &written_listeners,
        upstreams,
        plugins,
        names,
        formats: &formats,
    };
    let defaults = Inherited::defaults(access_logs.clone());
    let sites = sites::read(t, &mut parts, &defaults);
    let Parts {
        upstreams, plugins, ..
    } = parts;
    let (upstreams, host_names) = upstreams.finish();
    Config {
        workers,
        admin,
        watch,
        access_logs,
        limits,
        timeouts,
        resolver,
        maps,
        http2,
        listeners: written_listeners
            .into_iter()
            .map(|(_, listener)| listener)
            .collect(),
        upstreams,
        host_names,
        plugins: plugins.finish(),
        sites,
    }
}

fn workers(value: &Value<'_>) -> usize {
    const MOST: usize = 1024;
    let number = value
        .as_whole()
        .and_then(|number| usize::try_from(number).ok());
    match number {
        Some(number @ 1..=MOST) => number,
        _ if value.as_str() == Some("auto") => cores(),
        _ => {
            value.expected(format_args!("\"auto\" or a whole number from 1 to {MOST}"));
            1
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn admin(t: &Table<'_>) -> Option<Admin> {
    let unix = t.get("unix");
    let listen = match unix {
        Some(_) => t.get("listen"),
        None => t.require("listen", ADDRESS),
    };
    let mode = t.get("mode");
    if let (Some(mode), None) = (&mode, &unix) {
        mode.problem("means nothing without `unix`");
    }
    let read = |text: &str| u32::from_str_radix(text, 8).ok();
    let mode = mode.and_then(|mode| {
        mode.parse("permissions such as \"0600\" or \"0660\"", |text| {
            read(text).filter(|mode| *mode <= 0o777)
        })
    });
    let tokens = tokens(t);
    let unix = unix.map(|value| {
        let path = value.path("a path such as \"/run/tidegate.sock\"");
        path.map(|path| AdminSocket {
            path,
            mode: mode.unwrap_or(0o600),
        })
    });
    let listen = listen.map(|value| {
        let address = address(&value);
        if address.is_some_and(|address| !address.ip().is_loopback()) && tokens.is_empty() {
            value.warn(
                "others can reach this address, so it takes no orders; give it a `token_file`, or listen \
                 at a loopback address",
            );
        }
        address
    });
    // What is there has to be right.
    let (listen, unix) = match (listen, unix) {
        (Some(None), _) | (_, Some(None)) | (None, None) => return None,
        (listen, unix) => (listen.flatten(), unix.flatten()),
    };
    Some(Admin {
        listen,
        unix,
        tokens,
    })
}

fn tokens(t: &Table<'_>) -> Vec<Token> {
    let file = t.get("token_file");
    let file = file.and_then(|value| value.path("a path such as \"/etc/tidegate/token\""));
    let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let variable = t.get("token_env");
    let variable = variable.and_then(|value| value.parse("the name of a variable", name));
    let file = file.map(Token::File).into_iter();
    file.chain(variable.map(Token::Variable)).collect()
}

fn limits(t: &Table<'_>) -> Limits {
    const FIELD_NAMES: [(&str, FieldNames); 3] = [
        ("plain", FieldNames::Plain),
        ("underscores", FieldNames::Underscores),
        ("any", FieldNames::Any),
    ];
    Limits {
        max_header_bytes: t.size("max_header", LEAST_HEADER_BYTES..=16 << 20, 32 << 10),
        max_headers: t.whole("max_headers", 1..=4096, 100),
        field_names: t.choice("field_names", FIELD_NAMES, FieldNames::Plain),
        max_uri_bytes: t.size("max_uri", 1..=MOST_URI_BYTES, 8 << 10),
        max_connections: t.whole("max_connections", 1.., 16_384),
    }
}

fn http2(t: &Table<'_>) -> Http2 {
    /// The window of a connection begins with this and cannot be made smaller (RFC 9113 §6.9.2).
    const LEAST_WINDOW: u64 = 64 << 10;
    const MOST: u64 = 1 << 30;
    Http2 {
        max_streams: t.whole("max_streams", 1..=65_535, 128),
        stream_window_bytes: t.size("stream_window", 1 << 10..=MOST, 256 << 10),
        connection_window_bytes: t.size("connection_window", LEAST_WINDOW..=MOST, 1 << 20),
        send_buffer_bytes: t.size("send_buffer", 1 << 10..=MOST, 64 << 10),
    }
}

fn timeouts(t: &Table<'_>) -> ClientTimeouts {
    let drain = t.duration_or_zero("drain", Duration::from_secs(30));
    let drain_spread = t.duration_or_zero("drain_spread", drain / 2);
    if drain_spread > drain
        && let Some(value) = t.get("drain_spread")
    {
        value.expected("a duration not longer than `drain`");
    }
    ClientTimeouts {
        tls_handshake: t.duration("tls_handshake", Duration::from_secs(10)),
        header_read: t.duration("header_read", Duration::from_secs(60)),
        keep_alive: t.duration("keep_alive", Duration::from_secs(75)),
        body_read: t.duration("body_read", Duration::from_secs(60)),
        send: t.duration("send", Duration::from_secs(60)),
        drain,
        drain_spread,
    }
}

fn resolver(t: &Table<'_>) -> Resolver {
    const SERVER: &str = "the IP address of a name server such as \"127.0.0.1:53\"";
    let servers = t.get("servers").map(|value| {
        let server = |text: &str| {
            let bare = |text: &str| Some(SocketAddr::new(text.parse().ok()?, 53));
            text.parse().ok().or_else(|| bare(text))
        };
        let items = value.list("a list such as [\"127.0.0.1:53\"]");
        let servers = items.iter().filter_map(|item| item.parse(SERVER, server));
        servers.collect()
    });
    let resolver = Resolver {
        servers: servers.unwrap_or_default(),
        min_ttl: t.duration("min_ttl", Duration::from_secs(5)),
        max_ttl: t.duration("max_ttl", Duration::from_secs(3600)),
        timeout: t.duration("timeout", Duration::from_secs(5)),
    };
    if resolver.max_ttl < resolver.min_ttl
        && let Some(value) = t.get("max_ttl").or_else(|| t.get("min_ttl"))
    {
        value.expected("`max_ttl` to be at least `min_ttl`");
    }
    resolver
}

/// Reads the listeners, each with its place so that later checks can point at it.
fn listeners<'r>(t: &Table<'r>, admin: Option<&Admin>) -> Vec<(Value<'r>, Listener)> {
    const LISTENERS: &str = "at least one table [[listeners]] with `bind`";
    let Some(value) = t.require("listeners", LISTENERS) else {
        return Vec::new();
    };
    let items = value.list("a list of tables [[listeners]]");
    if items.is_empty() && value.is_list() {
        value.problem(format_args!("expected {LISTENERS}, found none"));
    }
    let mut listeners: Vec<(Value<'r>, Listener)> = Vec::new();
    for item in items {
        let read = |t: &Table<'r>| {
            let bind = t.require("bind", ADDRESS);
            let tls = t.boolean("tls", false);
            let http2 = t.boolean("http2", tls);
            let bind = bind.and_then(|value| Some((address(&value)?, value)));
            bind.map(|(bind, value)| (Listener { bind, tls, http2 }, value))
        };
        let Some((listener, bind)) = item.table("a table", read).flatten() else {
            continue;
        };
        // Port 0 stands for any free port, so two of them are two listeners.
        if listener.bind.port() != 0 {
            if let Some((other, _)) = listeners.iter().find(|(_, l)| l.bind == listener.bind) {
                bind.problem(format_args!(
                    "{} is already bound by {}",
                    listener.bind,
                    other.key()
                ));
            }
            if admin.is_some_and(|admin| admin.listen == Some(listener.bind)) {
                bind.problem(format_args!(
                    "{} is already bound by admin.listen",
                    listener.bind
                ));
            }
        }
        listeners.push((item, listener));
    }
    listeners
}

/// Reads an address to bind, or the same address where it is referred to.
pub(super) fn address(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.as_str().unwrap_or_default();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => value.expected_because(
            ADDRESS,
            format_args!("all addresses are \"0.0.0.0:{port}\" and, IPv6, \"[::]:{port}\""),
        ),
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => value.expected_because(
            ADDRESS,
            format_args!("this machine is \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        ),
        _ => value.expected(ADDRESS),
    }
    None
}
