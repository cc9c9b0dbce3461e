//! What files mean: defaults, references, and what is worked out from what is written.

use crate::config::template::Part;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::config::variables::Stage;
use crate::config::{
    Action, Balance, ClientTimeouts, Compression, Ejection, Endpoint, FailurePolicy,
    HandshakeRules, Host, Http2, Isolation, Limits, Liveness, MaxAge, Module, OnFailure, Oversize,
    Pattern, Ping, PluginLimits, RouteTimeouts, Settings, SiteName, SnapshotEvery, SwapPolicy,
    Target, TicketLimits, UpstreamTls, Variable, WebSocket,
};

fn proxy(upstream: usize) -> Action {
    Action::Proxy(Target {
        upstream,
        replace_prefix: None,
    })
}

#[test]
fn what_a_file_leaves_out_has_its_default() {
    let loaded = parse(BASE).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    let seconds = Duration::from_secs;
    assert_eq!(
        config.workers,
        std::thread::available_parallelism().unwrap().get()
    );
    assert_eq!(config.admin, None);
    assert_eq!(config.access_logs, []);
    let limits = Limits {
        max_header_bytes: 32 * 1024,
        max_headers: 100,
        field_names: crate::config::FieldNames::Plain,
        max_uri_bytes: 8 * 1024,
        max_connections: 16_384,
    };
    assert_eq!(config.limits, limits);
    let timeouts = ClientTimeouts {
        tls_handshake: seconds(10),
        header_read: seconds(60),
        keep_alive: seconds(75),
        body_read: seconds(60),
        send: seconds(60),
        drain: seconds(30),
        drain_spread: seconds(15),
    };
    assert_eq!(config.timeouts, timeouts);
    let http2 = Http2 {
        max_streams: 128,
        stream_window_bytes: 256 << 10,
        connection_window_bytes: 1 << 20,
        send_buffer_bytes: 64 << 10,
    };
    assert_eq!(config.http2, http2);
    assert!(!config.listeners[0].tls);
    assert!(!config.listeners[0].http2);

    let upstream = &config.upstreams[0];
    assert_eq!(upstream.name, "chat");
    assert_eq!(upstream.balance, Balance::RoundRobin);
    assert_eq!(upstream.sticky, None);
    assert_eq!(upstream.health, None);
    assert_eq!(
        (upstream.keep_alive, upstream.keep_alive_timeout),
        (32, seconds(60))
    );
    assert_eq!(upstream.tls, None);
    let endpoint = Endpoint {
        host: Host::Address([127, 0, 0, 1].into()),
        port: 9001,
        written: "127.0.0.1:9001".to_owned(),
        weight: 1,
        max_fails: 1,
        fail_timeout: seconds(10),
        max_connections: 0,
        slow_start: Duration::ZERO,
        backup: false,
        down: false,
    };
    assert_eq!(upstream.endpoints, [endpoint]);

    let plugin = &config.plugins[0];
    assert_eq!(plugin.module, Module::Builtin("redact".to_owned()));
    assert_eq!(plugin.config, "{}");
    assert_eq!(plugin.on_failure, FailurePolicy::all(OnFailure::Closed));
    let ejection = Ejection {
        failures: 20,
        percent: 50,
        within: seconds(10),
        back_off: seconds(1),
        max_back_off: seconds(60),
    };
    assert_eq!(plugin.eject, Some(ejection));
    assert_eq!(plugin.isolation, Isolation::Worker);
    assert_eq!(plugin.snapshot_every, None);
    assert_eq!(plugin.swap, SwapPolicy::NextMessage);
    let limits = PluginLimits {
        call_timeout: Duration::from_millis(5),
        memory_bytes: 16 << 20,
        table_elements: 65_536,
        stack_bytes: 512 << 10,
        handles: 1_000,
        snapshots_bytes: 16 << 20,
        output_bytes: 4 << 20,
        output_messages: 64,
        tickets: TicketLimits {
            per_second: 1_000,
            at_once: 256,
            per_session: 8,
            reply_bytes: 64 << 10,
            wait_timeout: seconds(5),
        },
    };
    assert_eq!(plugin.limits, limits);

    let site = &config.sites[0];
    assert_eq!(site.names, [SiteName::Exact("example.com".to_owned())]);
    assert_eq!(site.listeners, [0]);
    assert!(!site.default);
    assert_eq!(site.certificate, None);
    let route = &site.routes[0];
    assert_eq!(route.pattern, Pattern::Prefix("/".to_owned()));
    assert_eq!(route.action, proxy(0));
    assert_eq!(route.plugins, [0]);
    assert_eq!(route.settings.set_headers, []);
    assert_eq!(route.settings.upgrade, ["websocket"]);
    assert_eq!(
        route.settings.timeouts,
        RouteTimeouts {
            connect: seconds(60),
            send: seconds(60),
            read: seconds(60)
        }
    );
    assert_eq!(
        route.settings.websocket,
        WebSocket {
            max_message_bytes: 1 << 20,
            oversize: Oversize::Close,
            idle_timeout: seconds(60),
            compression: Compression {
                client: true,
                service: true
            },
            handshake: HandshakeRules::Strict,
            origins: vec![],
            liveness: Liveness::default(),
            close_timeout: Duration::from_secs(5),
        }
    );
    assert_eq!(route.settings.max_body_bytes, 1 << 20);
}

#[test]
fn a_session_may_be_silent_as_long_as_a_read_may_take_unless_said_otherwise() {
    let idle = |text: &str| {
        config(&with(UPSTREAM, text)).sites[0].routes[0]
            .settings
            .websocket
            .idle_timeout
    };
    assert_eq!(
        idle("+timeouts = { read = \"5m\" }"),
        Duration::from_secs(300)
    );
    let both = "+timeouts = { read = \"5m\" }\nwebsocket = { idle_timeout = \"1h\" }";
    assert_eq!(idle(both), Duration::from_secs(3600));
}

#[test]
fn messages_that_are_too_long_close_or_pass() {
    for (text, expected) in [
        ("close", Oversize::Close),
        ("pass", Oversize::Pass),
        ("close-unseen", Oversize::CloseUnseen),
    ] {
        let line = format!("+websocket = {{ oversize = {text:?} }}");
        let config = config(&with(UPSTREAM, &line));
        assert_eq!(
            config.sites[0].routes[0].settings.websocket.oversize,
            expected
        );
    }
}

#[test]
fn each_leg_can_be_compressed_by_itself() {
    for (text, client, service) in [
        ("both", true, true),
        ("client", true, false),
        ("service", false, true),
        ("off", false, false),
    ] {
        let line = format!("+websocket = {{ compression = {text:?} }}");
        let route = config(&with(UPSTREAM, &line))
            .sites
            .remove(0)
            .routes
            .remove(0);
        let expected = Compression { client, service };
        assert_eq!(route.settings.websocket.compression, expected, "{text}");
    }
}

#[test]
fn origins_and_the_rules_of_a_handshake_are_as_written() {
    let websocket = |text: &str| {
        config(&with(UPSTREAM, text))
            .sites
            .remove(0)
            .routes
            .remove(0)
            .settings
            .websocket
    };
    let origins =
        r#"+websocket = { origins = ["https://a.example.com", "http://*.example.org:81"] }"#;
    let origins = websocket(origins).origins;
    let admitted = |value| origins.iter().any(|origin| origin.matches(value));
    assert!(admitted("https://a.example.com") && admitted("http://b.example.org:81"));
    assert!(!admitted("https://b.example.com") && !admitted("http://b.example.org"));
    for (word, rules) in [
        ("strict", HandshakeRules::Strict),
        ("lenient", HandshakeRules::Lenient),
        ("off", HandshakeRules::Off),
    ] {
        let text = format!("+websocket = {{ handshake = {word:?} }}");
        assert_eq!(websocket(&text).handshake, rules);
    }
}

#[test]
fn pings_and_the_greatest_age_are_off_unless_asked_for_per_side() {
    let liveness = |keys: &str| {
        let text = format!("+websocket = {{ idle_timeout = \"1h\", {keys} }}");
        config(&with(UPSTREAM, &text)).sites[0].routes[0]
            .settings
            .websocket
            .liveness
    };
    let seconds = Duration::from_secs;
    let ping = |interval, timeout| {
        Some(Ping {
            interval: seconds(interval),
            timeout: seconds(timeout),
        })
    };
    let age = |limit, jitter| {
        Some(MaxAge {
            limit: seconds(limit),
            jitter: seconds(jitter),
        })
    };
    for (keys, client, service, max_age) in [
        ("", None, None, None),
        (r#"ping_interval = "20s""#, ping(20, 10), ping(20, 10), None),
        (
            r#"ping_interval = "20s", ping_timeout = "5s""#,
            ping(20, 5),
            ping(20, 5),
            None,
        ),
        (
            r#"ping_interval = { client = "20s" }"#,
            ping(20, 10),
            None,
            None,
        ),
        (
            r#"ping_interval = { client = "20s", service = "30s" }, ping_timeout = { service = "1s" }"#,
            ping(20, 10),
            ping(30, 1),
            None,
        ),
        (r#"max_age = "12h""#, None, None, age(43_200, 4_320)),
        (
            r#"max_age = "1h", max_age_jitter = "0s""#,
            None,
            None,
            age(3600, 0),
        ),
        (
            r#"max_age = "1h", max_age_jitter = "1h""#,
            None,
            None,
            age(3600, 3600),
        ),
    ] {
        let expected = Liveness {
            ping_client: client,
            ping_service: service,
            max_age,
        };
        assert_eq!(liveness(keys), expected, "{keys}");
    }
}

#[test]
fn patterns_are_told_apart_by_their_sign() {
    let pattern = |text: &str| {
        let line = format!("match = {text:?}");
        config(&with(MATCH, &line))
            .sites
            .remove(0)
            .routes
            .remove(0)
            .pattern
    };
    assert_eq!(pattern("/chat"), Pattern::Prefix("/chat".to_owned()));
    assert_eq!(pattern("= /chat"), Pattern::Exact("/chat".to_owned()));
    assert_eq!(pattern("=/chat"), Pattern::Exact("/chat".to_owned()));
    assert_eq!(
        pattern("^~ /chat"),
        Pattern::PrefixFirst("/chat".to_owned())
    );
    let images = r"~ .*.(gif|jpg)$";
    let Pattern::Regex(regex) = pattern(images) else {
        panic!("no regex")
    };
    assert!(regex.is_match("/notagif") && !regex.is_match("/a.GIF"));
    let Pattern::Regex(regex) = pattern(r"~* \.(gif|jpg)$") else {
        panic!("no regex")
    };
    assert!(regex.is_match("/a.GIF") && !regex.is_match("/notagif"));
}

#[test]
fn site_names_are_lower_case_and_may_have_one_star_at_an_end() {
    let names =
        r#"names = ["WWW.Example.com", "*.example.org", "www.example.*", "[::1]", "10.0.0.1"]"#;
    let exact = |name: &str| SiteName::Exact(name.to_owned());
    assert_eq!(
        config(&with(NAMES, names)).sites[0].names,
        [
            exact("www.example.com"),
            SiteName::Suffix(".example.org".to_owned()),
            SiteName::Prefix("www.example.".to_owned()),
            exact("[::1]"),
            exact("10.0.0.1"),
        ]
    );
}

#[test]
fn a_site_without_names_is_the_default_site() {
    assert!(config(&with(NAMES, "")).sites[0].default);
    assert!(config(&with(NAMES, "+default = true")).sites[0].default);
}

#[test]
fn one_site_may_have_a_name_that_another_has_on_another_listener() {
    let second = "\n[[listeners]]\nbind = \"127.0.0.1:8081\"\n[[sites]]\nnames = [\"example.com\"]\n\
                  listeners = [\"127.0.0.1:8081\"]\nroutes = [{ match = \"/\", upstream = \"chat\" }]\n";
    let text = with(NAMES, "+listeners = [\"127.0.0.1:8080\"]") + second;
    let sites = config(&text).sites;
    assert_eq!(
        (&sites[0].listeners[..], &sites[1].listeners[..]),
        (&[0][..], &[1][..])
    );
}

#[test]
fn listeners_on_port_0_are_as_many_as_are_written_and_named_together() {
    let text = with(
        BIND,
        "bind = \"127.0.0.1:0\"\n[[listeners]]\nbind = \"127.0.0.1:0\"",
    );
    assert_eq!(config(&text).listeners.len(), 2);
    let named = text.replace(NAMES, "listeners = [\"127.0.0.1:0\"]");
    assert_eq!(config(&named).sites[0].listeners, [0, 1]);
}

#[test]
fn a_tls_listener_is_content_with_a_certificate_for_each_of_its_sites() {
    let text = with(BIND, "+tls = true");
    let text = text.replace(
        NAMES,
        "certificate = { chain = \"Cargo.toml\", key = \"Cargo.toml\" }",
    );
    let loaded = parse(&text).unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(loaded.config.listeners[0].tls);
    // Where TLS is, HTTP/2 is, unless it is said otherwise.
    assert!(loaded.config.listeners[0].http2);
    assert_eq!(
        loaded.config.sites[0].certificate.as_ref().unwrap().chain,
        Path::new("Cargo.toml")
    );
}

#[test]
fn tls_to_an_upstream_verifies_the_host_as_written_by_default() {
    let tls = |text: &str| {
        config(&with(ENDPOINTS, text))
            .upstreams
            .remove(0)
            .tls
            .unwrap()
    };
    let expected = UpstreamTls {
        ca: None,
        server_name: "localhost".to_owned(),
        verify: true,
    };
    assert_eq!(
        tls("endpoints = [\"LocalHost:1\", \"localhost:2\"]\ntls = true"),
        expected
    );
    assert_eq!(tls("endpoints = [\"localhost:1\"]\ntls = {}"), expected);
    assert_eq!(
        tls("endpoints = [\"127.0.0.1:1\", \"127.0.0.2:1\"]\n\
             tls = { ca = \"Cargo.toml\", server_name = \"A.test\", verify = false }"),
        UpstreamTls {
            ca: Some(PathBuf::from("Cargo.toml")),
            server_name: "a.test".to_owned(),
            verify: false
        }
    );
}

#[test]
fn a_url_makes_one_upstream_that_all_routes_with_it_share() {
    let route =
        |path: &str, url: &str| format!("[[sites.routes]]\nmatch = {path:?}\nurl = {url:?}\n");
    let text = BASE.to_owned()
        + &route("/a", "http://127.0.0.1:9010")
        + &route("/b", "http://127.0.0.1:9010")
        + &route("/c", "https://127.0.0.1:9010")
        + &route("/d", "http://127.0.0.1")
        + &route("/e", "https://[::1]");
    let config = config(&text);
    let actions: Vec<_> = config.sites[0]
        .routes
        .iter()
        .map(|route| &route.action)
        .collect();
    assert_eq!(
        actions,
        [0, 1, 1, 2, 3, 4].map(proxy).iter().collect::<Vec<_>>()
    );
    let names: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| upstream.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "chat",
            "127.0.0.1:9010",
            "127.0.0.1:9010",
            "127.0.0.1",
            "[::1]"
        ]
    );
    let ports: Vec<_> = config
        .upstreams
        .iter()
        .map(|u| u.endpoints[0].port)
        .collect();
    assert_eq!(ports, [9001, 9010, 9010, 80, 443]);
    assert_eq!(config.upstreams[1].tls, None);
    assert_eq!(config.upstreams[4].tls.as_ref().unwrap().server_name, "::1");
}

#[test]
fn a_route_with_a_configuration_of_its_own_makes_a_variant_of_the_plugin() {
    let chain = r#"plugins = [{ name = "redact", config = { words = ["a"] } }, "redact"]
[[sites.routes]]
match = "/other"
upstream = "chat"
plugins = [{ name = "redact", config = { words = ["a"] } }, { name = "redact", config = {} }]"#;
    let config = config(&with(CHAIN, chain));
    let plugins: Vec<_> = config
        .plugins
        .iter()
        .map(|p| (p.name.as_str(), p.config.as_str()))
        .collect();
    assert_eq!(
        plugins,
        [("redact", r#"{"words":["a"]}"#), ("redact", "{}")]
    );
    let chains: Vec<_> = config.sites[0]
        .routes
        .iter()
        .map(|route| &route.plugins[..])
        .collect();
    assert_eq!(chains, [[0, 1], [0, 1]]);
}

#[test]
fn a_plugin_that_is_only_used_with_other_configurations_is_not_loaded_with_its_own() {
    let chain = r#"plugins = [{ name = "redact", config = { words = [] } }]"#;
    let loaded = parse(&with(CHAIN, chain)).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.plugins.len(), 1);
    assert_eq!(loaded.config.plugins[0].config, r#"{"words":[]}"#);
}

#[test]
fn a_plugins_configuration_becomes_json() {
    let table = r#"+[plugins.redact.config]
text = "a\"b"
whole = 0x10
fraction = 1.5
yes = true
day = 2026-01-02
list = [1, "two", { three = 3 }]
nested.key = "value""#;
    assert_eq!(
        config(&with(MODULE, table)).plugins[0].config,
        r#"{"day":"2026-01-02","fraction":1.5,"list":[1,"two",{"three":3}],"nested":{"key":"value"},"text":"a\"b","whole":16,"yes":true}"#
    );
}

#[test]
fn header_fields_keep_the_order_of_the_file() {
    let set = r#"+set_headers = { X-B = "$host:${server_port}", X-A = "", Host = "a" }"#;
    let set_headers = config(&with(UPSTREAM, set))
        .sites
        .remove(0)
        .routes
        .remove(0)
        .settings
        .set_headers;
    let names: Vec<_> = set_headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-b", "x-a", "host"]);
    let parts = [
        Part::Variable(Variable::Host),
        Part::Literal(":".to_owned()),
        Part::Variable(Variable::ServerPort),
    ];
    assert_eq!(set_headers[0].1.parts(), parts);
}

#[test]
fn a_route_may_answer_by_itself() {
    let line = r#"respond = { status = 301, headers = { Location = "https://$host$request_uri" }, body = "moved" }"#;
    let config = config(&with(UPSTREAM, line));
    let Action::Respond(respond) = &config.sites[0].routes[0].action else {
        panic!("no respond")
    };
    assert_eq!(respond.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(respond.headers.len(), 1);
    let body = [Part::Literal("moved".to_owned())];
    assert_eq!(respond.body.as_ref().unwrap().parts(), body);
}

#[test]
fn a_redirect_is_an_answer_with_a_location() {
    let respond = |line: &str| match config(&with(UPSTREAM, line)).sites[0].routes[0]
        .action
        .clone()
    {
        Action::Respond(respond) => (respond.status.as_u16(), respond.headers, respond.body),
        action => panic!("{action:?}"),
    };
    let short = respond(r#"redirect = "https://$host$request_uri""#);
    assert_eq!((short.0, &short.2), (302, &None));
    let long = respond(r#"redirect = { to = "https://$host$request_uri", status = 308 }"#);
    assert_eq!((long.0, long.1), (308, short.1));
}

#[test]
fn a_path_of_a_url_takes_the_place_of_the_prefix() {
    let target = |line: &str| match config(&with(UPSTREAM, line)).sites[0].routes[0]
        .action
        .clone()
    {
        Action::Proxy(target) => target.replace_prefix,
        action => panic!("{action:?}"),
    };
    let url = target(r#"url = "http://127.0.0.1:9010/app/""#);
    assert_eq!(url.as_deref(), Some("/app/"));
    let upstream = target("+replace_prefix = \"/app/\"");
    assert_eq!(upstream.as_deref(), Some("/app/"));
    assert_eq!(target(r#"url = "http://127.0.0.1:9010""#), None);
}

#[test]
fn routes_take_over_from_their_site_what_they_do_not_have_themselves() {
    let site = "+set_headers = { X-Site = \"1\", X-Both = \"1\" }\n\
                timeouts = { connect = \"1s\", read = \"2s\" }\nmax_body = \"1B\"\n\
                websocket = { max_message = \"1B\" }";
    let settings = |route: &str| {
        config(&with(UPSTREAM, route).replace(NAMES, &with_site(site))).sites[0].routes[0]
            .settings
            .clone()
    };
    let fields = |settings: &Settings| -> Vec<_> {
        let names = settings.set_headers.iter();
        names.map(|(name, _)| name.to_string()).collect()
    };
    let none = settings(UPSTREAM);
    assert_eq!(fields(&none), ["x-site", "x-both"]);
    assert_eq!(none.timeouts.connect, Duration::from_secs(1));
    assert_eq!(none.websocket.idle_timeout, Duration::from_secs(2));
    assert_eq!(
        (none.max_body_bytes, none.websocket.max_message_bytes),
        (1, 1)
    );
    // Fields are taken over together or not at all, durations one by one.
    let own = settings("+set_headers = { X-Both = \"2\" }\ntimeouts = { read = \"3s\" }");
    assert_eq!(fields(&own), ["x-both"]);
    assert_eq!(own.timeouts.connect, Duration::from_secs(1));
    assert_eq!(own.websocket.idle_timeout, Duration::from_secs(3));
}

fn with_site(keys: &str) -> String {
    keys.replace('+', &format!("{NAMES}\n"))
}

#[test]
fn a_map_finds_texts_hosts_patterns_and_else_the_default() {
    let text = with(
        TOP,
        r#"[maps.place]
source = "$host"
hostnames = true
default = "else"
values = { "a.example" = "exact", "*.example" = "suffix", "*.b.example" = "longer", "b.*" = "prefix", "~*^(C+)[.]" = "group $1", "~^c" = "later", ".d.org" = "both" }"#,
    );
    let map = config(&text).maps.remove(0);
    for (host, expected) in [
        ("A.EXAMPLE", "exact"),
        ("x.example", "suffix"),
        ("x.b.example", "longer"),
        ("b.example", "suffix"),
        ("b.org", "prefix"),
        ("d.org", "both"),
        ("x.d.org", "both"),
        ("unknown", "else"),
        ("", "else"),
    ] {
        let found = map.find(host);
        assert_eq!(
            found.value.parts(),
            [Part::Literal(expected.to_owned())],
            "{host}"
        );
        assert!(found.groups.is_none(), "{host}");
    }
    let found = map.find("cc.net");
    assert_eq!(&found.groups.unwrap()[1], "cc");
    assert_eq!(found.value.parts()[1], Part::Variable(Variable::Capture(1)));
}

#[test]
fn maps_may_name_maps_in_any_order() {
    let text = with(
        TOP,
        "[maps.a]\nsource = \"$b\"\n[maps.b]\nsource = \"$status\"\n[maps.c]\nsource = \"$host\"",
    );
    let maps = config(&text).maps;
    assert_eq!(maps[0].source.parts(), [Part::Variable(Variable::Map(1))]);
    let stages: Vec<_> = maps.iter().map(|map| map.stage).collect();
    assert_eq!(stages, [Stage::Response, Stage::Response, Stage::Request]);
}

#[test]
fn a_failure_means_what_the_phase_says_or_else_its_group_or_else_closed() {
    use OnFailure::{Closed, Open};
    let rows = [
        (r#""open""#, [Open, Open, Open, Open, Open]),
        (r#"{ http = "open" }"#, [Open, Open, Open, Closed, Closed]),
        (
            r#"{ http = "open", choose = "closed", messages = "open" }"#,
            [Open, Open, Closed, Open, Open],
        ),
        (
            r#"{ request = "open", open = "open" }"#,
            [Open, Closed, Closed, Open, Closed],
        ),
        (
            r#"{ response = "open", messages = "open", open = "closed" }"#,
            [Closed, Open, Closed, Closed, Open],
        ),
    ];
    for (text, [request, response, choose, open, messages]) in rows {
        let config = config(&with(MODULE, &format!("+on_failure = {text}")));
        let meant = FailurePolicy {
            request,
            response,
            choose,
            open,
            messages,
        };
        assert_eq!(config.plugins[0].on_failure, meant, "{text}");
    }
}

#[test]
fn a_plugin_is_ejected_as_its_table_says_or_never() {
    let eject = |text: &str| config(&with(MODULE, &format!("+eject = {text}"))).plugins[0].eject;
    assert_eq!(eject(r#""never""#), None);
    assert_eq!(eject("{}"), Some(Ejection::default()));
    let ejection = Ejection {
        failures: 3,
        back_off: Duration::from_secs(300),
        // No less than the first.
        max_back_off: Duration::from_secs(300),
        ..Ejection::default()
    };
    assert_eq!(
        eject(r#"{ failures = 3, back_off = "5m" }"#),
        Some(ejection)
    );
}

#[test]
fn snapshots_are_every_so_many_messages_or_so_often() {
    let every = |text: &str| {
        let text = format!("+snapshot_every = {text}");
        config(&with(MODULE, &text)).plugins[0].snapshot_every
    };
    assert_eq!(every("1"), Some(SnapshotEvery::Messages(1)));
    assert_eq!(
        every(r#""10s""#),
        Some(SnapshotEvery::Time(Duration::from_secs(10)))
    );
}

#[test]
fn an_instance_for_each_session_has_its_ceiling() {
    let isolation = |text: &str| config(&with(MODULE, text)).plugins[0].isolation;
    let of_sessions = |max_instances| Isolation::Session { max_instances };
    assert_eq!(isolation(r#"+isolation = "session""#), of_sessions(2_000));
    assert_eq!(
        isolation("+isolation = \"session\"\nmax_instances = 7"),
        of_sessions(7)
    );
    assert_eq!(isolation(r#"+isolation = "worker""#), Isolation::Worker);
}
