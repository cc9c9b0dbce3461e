//! How upstreams share out requests: what is read, and what is said of what cannot be.

use std::time::Duration;

use super::problems::explained;
use super::*;
use crate::config::{
    Balance, CheckKind, HealthCheck, Host, Problem, Resolver, SameSite, Sticky, Template, Upstream,
};

/// The upstream of [`BASE`] with more keys, and these endpoints.
fn upstream(keys: &str) -> Upstream {
    config(&with(ENDPOINTS, keys)).upstreams.remove(0)
}

#[test]
fn each_way_of_balancing_has_a_name() {
    for (text, expected) in [
        (r#""round-robin""#, Balance::RoundRobin),
        (r#""least-connections""#, Balance::LeastConnections),
        (r#""ip-hash""#, Balance::IpHash),
        (r#""random-two""#, Balance::RandomTwo),
        (
            r#"{ hash = "$request_uri" }"#,
            Balance::Hash {
                key: Template::parse("$request_uri").unwrap(),
                consistent: false,
            },
        ),
        (
            r#"{ hash = "$arg_room$uri", consistent = true }"#,
            Balance::Hash {
                key: Template::parse("$arg_room$uri").unwrap(),
                consistent: true,
            },
        ),
    ] {
        assert_eq!(upstream(&format!("+balance = {text}")).balance, expected);
    }
}

#[test]
fn a_sticky_cookie_has_the_attributes_that_are_written_and_no_others() {
    let plain = Sticky {
        cookie: "srv".to_owned(),
        expires: None,
        domain: None,
        path: None,
        http_only: false,
        secure: false,
        same_site: None,
    };
    assert_eq!(
        upstream(r#"+sticky = { cookie = "srv" }"#).sticky,
        Some(plain.clone())
    );
    let all = upstream(
        r#"+sticky = { cookie = "srv", expires = "1h", domain = ".example.com", path = "/", http_only = true, secure = true, same_site = "none" }"#,
    );
    assert_eq!(
        all.sticky,
        Some(Sticky {
            expires: Some(Duration::from_secs(3600)),
            domain: Some(".example.com".to_owned()),
            path: Some("/".to_owned()),
            http_only: true,
            secure: true,
            same_site: Some(SameSite::None),
            ..plain
        })
    );
}

#[test]
fn an_endpoint_can_be_bounded_eased_in_and_set_aside() {
    let upstream = upstream(
        r#"endpoints = ["127.0.0.1:1", { address = "127.0.0.1:2", max_connections = 9, slow_start = "30s", down = true }]"#,
    );
    let endpoint = &upstream.endpoints[1];
    assert_eq!(endpoint.max_connections, 9);
    assert_eq!(endpoint.slow_start, Duration::from_secs(30));
    assert!(endpoint.down);
    assert!(!upstream.endpoints[0].down);
}

#[test]
fn what_is_hardly_meant_is_said() {
    for (line, says) in [
        (
            r#"+balance = { hash = "request_uri" }"#,
            "5:13: upstreams.chat.balance.hash: \"request_uri\" is the same for all requests; did you mean \"$request_uri\"?",
        ),
        (
            r#"+balance = { hash = "room" }"#,
            "5:13: upstreams.chat.balance.hash: this is the same for all requests, so one endpoint gets all of them",
        ),
        (
            r#"+sticky = { cookie = "srv", same_site = "none" }"#,
            "5:28: upstreams.chat.sticky.same_site: browsers drop such a cookie unless `secure = true`",
        ),
    ] {
        let warnings = parse(&with(ENDPOINTS, line)).unwrap().warnings;
        let warnings: Vec<_> = warnings.iter().map(Problem::to_string).collect();
        assert_eq!(warnings, [format!("tidegate.toml:{says}")]);
    }
}

#[test]
fn ways_of_balancing_are_explained_where_they_stand() {
    const WAYS: &str = r#"expected "round-robin", "least-connections", "ip-hash", "random-two" or a table such as { hash = "$request_uri" }, found"#;
    let says = |rest: &str| format!("5:1: upstreams.chat.balance: {WAYS} {rest}");
    explained(&[
        (ENDPOINTS, r#"+balance = "fair""#, &[&says(r#""fair""#)]),
        (ENDPOINTS, "+balance = 1", &[&says("1")]),
        (
            ENDPOINTS,
            r#"+balance = "ip_hash""#,
            &[&says(r#""ip_hash"; here it is "ip-hash""#)],
        ),
        (
            ENDPOINTS,
            r#"+balance = "least_conn""#,
            &[&says(r#""least_conn"; here it is "least-connections""#)],
        ),
        (
            ENDPOINTS,
            r#"+balance = { consistent = true }"#,
            &[r#"5:1: upstreams.chat.balance.hash: missing; expected text such as "$request_uri""#],
        ),
        (
            ENDPOINTS,
            r#"+balance = { hash = "$request_url" }"#,
            &[
                r#"5:13: upstreams.chat.balance.hash: unknown variable `$request_url`; did you mean `$request_uri`? (in "$request_url")"#,
            ],
        ),
        (
            ENDPOINTS,
            "balance = { hash = \"$uri\", consistent = true }\nendpoints = [{ address = \"127.0.0.1:1\", weight = 10001 }]",
            &[
                "5:1: upstreams.chat.endpoints: expected weights of at most 10000 together for a consistent hash, found 10001",
            ],
        ),
    ]);
}

#[test]
fn backups_and_slow_starts_are_refused_where_nginx_refuses_them() {
    for balance in [r#""ip-hash""#, r#""random-two""#, r#"{ hash = "$uri" }"#] {
        let text = format!(
            "balance = {balance}\nendpoints = [\"127.0.0.1:1\",\n{{ address = \"127.0.0.1:2\", backup = true, slow_start = \"1s\" }}]"
        );
        explained(&[(
            ENDPOINTS,
            &text,
            &[
                r#"6:28: upstreams.chat.endpoints[1].backup: this way of balancing does not support it; "round-robin" and "least-connections" do"#,
                r#"6:43: upstreams.chat.endpoints[1].slow_start: this way of balancing does not support it; "round-robin" and "least-connections" do"#,
            ],
        )]);
    }
}

#[test]
fn sticky_cookies_are_explained_where_they_stand() {
    explained(&[
        (
            ENDPOINTS,
            "+sticky = true",
            &[
                r#"5:1: upstreams.chat.sticky: expected a table such as { cookie = "srv" }, found true"#,
            ],
        ),
        (
            ENDPOINTS,
            "+sticky = { expires = \"1h\" }",
            &["5:1: upstreams.chat.sticky.cookie: missing; expected the name of a cookie"],
        ),
        (
            ENDPOINTS,
            r#"+sticky = { cookie = "a b" }"#,
            &[r#"5:12: upstreams.chat.sticky.cookie: expected the name of a cookie, found "a b""#],
        ),
        (
            ENDPOINTS,
            r#"+sticky = { cookie = "srv", path = "/;x" }"#,
            &[
                r#"5:28: upstreams.chat.sticky.path: expected text that a cookie's attribute can carry, found "/;x""#,
            ],
        ),
        (
            ENDPOINTS,
            r#"+sticky = { cookie = "srv", same_site = "maybe" }"#,
            &[
                r#"5:28: upstreams.chat.sticky.same_site: expected "strict", "lax" or "none", found "maybe""#,
            ],
        ),
    ]);
}

#[test]
fn a_url_where_an_endpoint_belongs_is_put_right() {
    for (written, instead) in [
        ("http://localhost:8080", r#"write "localhost:8080""#),
        ("http://localhost/chat", r#"write "localhost:80""#),
        (
            "https://localhost",
            r#"write "localhost:443", and `tls = true` in the upstream"#,
        ),
    ] {
        let text = format!("endpoints = [{written:?}]");
        let says = format!(
            r#"4:14: upstreams.chat.endpoints[0]: invalid host in upstream: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found {written:?}; {instead}"#
        );
        explained(&[(ENDPOINTS, &text, &[&says])]);
    }
}

#[test]
fn each_kind_of_health_check_has_its_defaults() {
    let health = |text: &str| upstream(&format!("+health = {{ {text} }}")).health.unwrap();
    let tcp = HealthCheck {
        kind: CheckKind::Tcp,
        host: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        jitter: Duration::from_millis(500),
        rise: 2,
        fall: 3,
    };
    assert_eq!(health("type = \"tcp\""), tcp);
    let kind = |text: &str| health(text).kind;
    assert_eq!(
        kind("type = \"http\""),
        CheckKind::Http {
            path: "/".parse().unwrap(),
            expected: vec![200..=399]
        }
    );
    assert_eq!(
        kind("type = \"http\", path = \"/well?x=1\", expect_status = [204, \"300-302\"]"),
        CheckKind::Http {
            path: "/well?x=1".parse().unwrap(),
            expected: vec![204..=204, 300..=302]
        }
    );
    assert_eq!(
        kind("type = \"websocket\", path = \"/chat\""),
        CheckKind::WebSocket {
            path: "/chat".parse().unwrap()
        }
    );
    assert_eq!(
        health("type = \"tcp\", interval = \"1m\"").jitter,
        Duration::from_secs(6)
    );
}

#[test]
fn health_checks_are_explained_where_they_stand() {
    const STATUS: &str =
        r#"expected a status such as 204, a range such as "200-399", or a list of these, found"#;
    let rows: &[(&str, &str)] = &[
        (
            "true",
            r#"5:1: upstreams.chat.health: expected a table such as { type = "http", path = "/healthz" }, found true"#,
        ),
        (
            "{ path = \"/\" }",
            r#"5:1: upstreams.chat.health.type: missing; expected "tcp", "http" or "websocket""#,
        ),
        (
            "{ type = \"icmp\" }",
            r#"5:12: upstreams.chat.health.type: expected "tcp", "http" or "websocket", found "icmp""#,
        ),
        (
            "{ type = \"http\", path = \"well\" }",
            r#"5:27: upstreams.chat.health.path: expected a path such as "/healthz", found "well""#,
        ),
        (
            "{ type = \"http\", host = \"a/b\" }",
            r#"5:27: upstreams.chat.health.host: expected a host such as "chat.example.com", found "a/b""#,
        ),
        (
            "{ type = \"tcp\", path = \"/\" }",
            r#"5:26: upstreams.chat.health.path: has no effect with type = "tcp""#,
        ),
        (
            "{ type = \"websocket\", expect_status = 101 }",
            r#"5:32: upstreams.chat.health.expect_status: has no effect with type = "websocket""#,
        ),
        (
            "{ type = \"tcp\", interval = \"1s\", jitter = \"2s\" }",
            r#"5:43: upstreams.chat.health.jitter: expected at most `interval`, 1s, found "2s""#,
        ),
        (
            "{ type = \"tcp\", fall = 0 }",
            "5:26: upstreams.chat.health.fall: expected a whole number of at least 1, found 0",
        ),
    ];
    for (text, says) in rows {
        explained(&[(ENDPOINTS, &format!("+health = {text}"), &[says])]);
    }
    for (status, found) in [
        ("99", "99"),
        ("\"399-200\"", "\"399-200\""),
        ("\"well\"", "\"well\""),
        ("[]", "a list"),
    ] {
        let text = format!("+health = {{ type = \"http\", expect_status = {status} }}");
        let says = format!("5:27: upstreams.chat.health.expect_status: {STATUS} {found}");
        explained(&[(ENDPOINTS, &text, &[&says])]);
    }
}

#[test]
fn names_are_noted_where_they_stand_and_addresses_are_not() {
    let text = "endpoints = [\"127.0.0.1:9001\", \"[::1]:9001\", { address = \"Chat.Example.com:9001\", weight = 3 }]";
    let config = config(&with(ENDPOINTS, text));
    let endpoint = &config.upstreams[0].endpoints[2];
    assert_eq!(endpoint.host, Host::Name("chat.example.com".to_owned()));
    assert_eq!((endpoint.port, endpoint.weight), (9001, 3));
    let [name] = &config.host_names[..] else {
        panic!("{:?}", config.host_names);
    };
    assert_eq!(name.name, "chat.example.com");
    assert_eq!(
        name.unresolved("nobody knows it").to_string(),
        r#"tidegate.toml:4:48: upstreams.chat.endpoints[2].address: host not found in upstream: expected a name that can be resolved, found "Chat.Example.com:9001"; nobody knows it"#
    );
}

#[test]
fn the_resolver_is_the_systems_unless_servers_are_named() {
    let resolver = |text: &str| config(&with(TOP, text)).resolver;
    let default = Resolver {
        servers: Vec::new(),
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
    };
    assert_eq!(resolver(""), default);
    assert_eq!(
        resolver("resolver = { servers = [\"127.0.0.1:5353\", \"::1\"], timeout = \"1s\" }"),
        Resolver {
            servers: vec![
                "127.0.0.1:5353".parse().unwrap(),
                "[::1]:53".parse().unwrap()
            ],
            timeout: Duration::from_secs(1),
            ..default
        }
    );
    explained(&[
        (
            TOP,
            "resolver = { servers = [\"dns.example.com\"] }",
            &[
                r#"1:25: resolver.servers[0]: expected the IP address of a name server such as "127.0.0.1:53", found "dns.example.com""#,
            ],
        ),
        (
            TOP,
            "resolver = { min_ttl = \"1m\", max_ttl = \"1s\" }",
            &[r#"1:30: resolver.max_ttl: expected `max_ttl` to be at least `min_ttl`, found "1s""#],
        ),
    ]);
}
