//! What variables stand for, and the maps and groups that make more of them.

use regex::Regex;
use rustls::version::TLS13;

use crate::harness::{
    Authority, Connection, Folder, Service, Tidegate, handshake, one_listener, route_to,
    tls_handshake,
};

/// A service that tells its request's head, behind a route that sends these fields.
async fn with_fields(tables: &str, fields: &[(&str, &str)]) -> (Service, Tidegate) {
    let service = Service::http_echo().await;
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("{name} = '{value}'\n"))
        .collect();
    let routes = format!(
        "{}[sites.routes.set_headers]\n{fields}{tables}",
        route_to(&service)
    );
    let tidegate = Tidegate::serving(&routes).await;
    (service, tidegate)
}

#[tokio::test]
async fn request_variables_mean_what_they_mean_to_nginx() {
    let rows = [
        ("$scheme", "http"),
        ("<$https>", "<>"),
        ("$request", "^GET /a%20b//c\\?room=7&Room=8 HTTP/1[.]1$"),
        ("$request_method", "^GET$"),
        ("$request_uri", "^/a%20b//c\\?room=7&Room=8$"),
        ("$uri", "^/a b/c$"),
        ("$document_uri", "^/a b/c$"),
        ("$args", "^room=7&Room=8$"),
        ("$query_string", "^room=7&Room=8$"),
        ("$uri$is_args$args", "^/a b/c\\?room=7&Room=8$"),
        ("$arg_room", "^7$"),
        ("<$arg_missing>", "^<>$"),
        ("$cookie_id", "^42$"),
        ("$http_cookie", "^id=42; other=1; third=2$"),
        ("$http_x_twice", "^one, two$"),
        ("$remote_user", "^ann$"),
        ("$remote_addr", "^127[.]0[.]0[.]1$"),
        ("$server_addr", "^127[.]0[.]0[.]1$"),
        ("$server_protocol", "^HTTP/1[.]1$"),
        ("$content_type", "^text/plain$"),
        ("$content_length", "^4$"),
        ("$proxy_host:$proxy_port", "^127[.]0[.]0[.]1:[0-9]+:[0-9]+$"),
        ("$request_id", "^[0-9a-f]{32}$"),
        ("$msec", "^[0-9]{10,}[.][0-9]{3}$"),
        ("$time_iso8601", "^[0-9]{4}-[0-9-]+T[0-9:]{8}[+-][0-9:]{5}$"),
        (
            "$time_local",
            "^[0-9]{2}/[A-Z][a-z]{2}/[0-9:]{13} [+-][0-9]{4}$",
        ),
        ("$pid", "^[0-9]+$"),
        ("$hostname", "^[^ ]+$"),
        ("$connection", "^[0-9]+$"),
        ("$connection_requests", "^1$"),
        ("$request_length", "^[0-9]{3}$"),
        ("<$ssl_protocol>", "^<>$"),
        ("$route", "^/$"),
    ];
    let names: Vec<_> = (0..rows.len()).map(|n| format!("X-{n}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(String::as_str)
        .zip(rows.map(|row| row.0))
        .collect();
    let (_service, tidegate) = with_fields("", &fields).await;
    let mut client = tidegate.connect().await;
    client
        .send_head(
            "GET /a%20b//c?room=7&Room=8 HTTP/1.1
            Host: example.com
            Authorization: Basic YW5uOnB3
            Cookie: id=42; other=1
            Cookie: third=2
            X-Twice: one
            X-Twice: two
            Content-Type: text/plain
            Content-Length: 4",
        )
        .await;
    client.send("body").await;
    let seen = client.read_response().await.seen_by_service();
    for (name, (variable, pattern)) in names.iter().zip(rows) {
        let value = seen.field(name).unwrap_or_default();
        assert!(
            Regex::new(pattern).unwrap().is_match(value),
            "{variable}: {value}"
        );
    }
}

#[tokio::test]
async fn a_request_id_is_the_same_as_often_as_it_is_asked_for_and_another_next_time() {
    let fields = [("X-One", "$request_id"), ("X-Two", "$request_id")];
    let (_service, tidegate) = with_fields("", &fields).await;
    let first = tidegate.get("/").await.seen_by_service();
    let second = tidegate.get("/").await.seen_by_service();
    assert_eq!(first.field("x-one"), first.field("x-two"));
    assert_ne!(first.field("x-one"), second.field("x-one"));
}

#[tokio::test]
async fn tls_variables_tell_what_was_agreed_on() {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let folder = Folder::new();
    folder.write("cert.pem", &certificate.chain);
    folder.write("key.pem", &certificate.key);
    let service = Service::http_echo().await;
    let tidegate = Tidegate::start_in(
        folder,
        &format!(
            r#"
            workers = 1
            [[listeners]]
            bind = "127.0.0.1:0"
            tls = true
            [[sites]]
            certificate = {{ chain = "cert.pem", key = "key.pem" }}
            {}
            set_headers = {{ X-Tls = "$https $ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused" }}
            "#,
            route_to(&service)
        ),
    )
    .await;
    let config = std::sync::Arc::new(authority.client(&[&TLS13]));
    for reused in [".", "r"] {
        let stream = tls_handshake(&config, tidegate.address(0), "localhost").await;
        let mut client = Connection::secured(stream.unwrap());
        let seen = client
            .exchange("GET / HTTP/1.1\nHost: a")
            .await
            .seen_by_service();
        let expected = format!("on TLSv1.3 TLS_AES_256_GCM_SHA384 localhost {reused}");
        assert_eq!(seen.fields("x-tls"), [expected]);
    }
}

#[tokio::test]
async fn a_map_is_looked_up_by_the_value_of_another_variable() {
    let tables = r#"
        [maps.connection_upgrade]
        source = "$http_upgrade"
        default = "upgrade"
        values = { "" = "close" }
        [maps.greeting]
        source = "$arg_lang"
        default = "hello $arg_name"
        values = { DE = "hallo $arg_name", "~^(?<first>.)R$" = "bonjour $1 $first", "~*^(.)R$" = "salut $1", "\\~" = "tilde" }
        [maps.place]
        source = "$host"
        hostnames = true
        values = { ".example.com" = "com", "www.*" = "www" }
        [maps.of_maps]
        source = "$place-$connection_upgrade"
        default = "none of ${place}, $connection_upgrade"
        values = { "com-close" = "as expected" }
    "#;
    let fields = [
        ("X-Connection", "$connection_upgrade"),
        ("X-Greeting", "$greeting"),
        ("X-Place", "<$place>"),
        ("X-Of-Maps", "$of_maps"),
    ];
    let (_service, tidegate) = with_fields(tables, &fields).await;
    let rows = [
        (
            "/?lang=de&name=Ann",
            "example.com",
            "",
            ["close", "hallo Ann", "<com>", "as expected"],
        ),
        (
            "/?lang=FR",
            "a.example.com",
            "",
            ["close", "bonjour F F", "<com>", "as expected"],
        ),
        (
            "/?lang=fr",
            "www.x.org",
            "",
            ["close", "salut f", "<www>", "none of www, close"],
        ),
        (
            "/?lang=~",
            "x.org",
            "\nUpgrade: other",
            ["upgrade", "tilde", "<>", "none of , upgrade"],
        ),
        (
            "/?name=Bo",
            "x.org",
            "",
            ["close", "hello Bo", "<>", "none of , close"],
        ),
    ];
    for (target, host, more, expected) in rows {
        let lines = format!("GET {target} HTTP/1.1\nHost: {host}{more}");
        let seen = tidegate.exchange(&lines).await.seen_by_service();
        let names = ["x-connection", "x-greeting", "x-place", "x-of-maps"];
        assert_eq!(
            names.map(|name| seen.field(name).unwrap()),
            expected,
            "{target}"
        );
    }
}

/// The `map` that every nginx configuration for WebSocket has.
#[tokio::test]
async fn connection_and_upgrade_can_be_set_as_nginx_needs_it() {
    let tables = r#"
        [maps.connection_upgrade]
        source = "$http_upgrade"
        default = "upgrade"
        values = { "" = "close" }
    "#;
    let fields = [
        ("Upgrade", "$http_upgrade"),
        ("Connection", "$connection_upgrade"),
    ];
    let (_service, tidegate) = with_fields(tables, &fields).await;
    let seen = tidegate.get("/").await.seen_by_service();
    assert_eq!(seen.fields("connection"), ["close"]);
    assert_eq!(seen.field("upgrade"), None);
    let seen = tidegate.exchange(&handshake("/")).await.seen_by_service();
    assert_eq!(seen.fields("connection"), ["upgrade"]);
    assert_eq!(seen.fields("upgrade"), ["websocket"]);
}

/// As in a configuration that lost its dollars.
#[tokio::test]
async fn fields_that_are_no_variables_keep_a_service_from_upgrading() {
    let fields = [("Upgrade", "http_upgrade"), ("Connection", "upgrade")];
    let (_service, tidegate) = with_fields("", &fields).await;
    let seen = tidegate.exchange(&handshake("/")).await.seen_by_service();
    assert_eq!(seen.fields("upgrade"), ["http_upgrade"]);
}

#[tokio::test]
async fn groups_of_names_and_patterns_are_variables() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::start(
        &format!(
            r#"
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        [[sites]]
        names = ["~^(?<user>[a-z]+)[.]home[.](?<domain>.+)$", "plain.example"]
        [[sites.routes]]
        match = "~ ^/(?<section>[a-z]+)/([0-9]+)"
        url = "http://{address}"
        set_headers = {{ X-Groups = "$user at $domain: $section, $1, $2, <$3>" }}
        [[sites.routes]]
        match = "/"
        redirect = "http://$domain/~$1$request_uri"
        "#,
            address = service.address,
        )
        .replace(", <$3>", ""),
    )
    .await;
    let lines = "GET /news/17?x HTTP/1.1\nHost: Ann.Home.Example.com:80";
    let seen = tidegate.exchange(lines).await.seen_by_service();
    assert_eq!(
        seen.fields("x-groups"),
        ["ann at example.com: news, news, 17"]
    );
    // Where the route has no pattern, numbers are those of the name.
    let lines = "GET /?x HTTP/1.1\nHost: bob.home.example.org";
    let response = tidegate.exchange(lines).await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.fields("location"), ["http://example.org/~bob/?x"]);
    let lines = "GET /a/1 HTTP/1.1\nHost: plain.example";
    let seen = tidegate.exchange(lines).await.seen_by_service();
    assert_eq!(seen.fields("x-groups"), ["at : a, a, 1"]);
}

#[tokio::test]
async fn fields_of_the_site_are_sent_by_routes_that_set_none_themselves() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        set_headers = {{ Host = "$host", X-Site = "1" }}
        [[sites.routes]]
        match = "/inherits"
        url = "http://{address}"
        [[sites.routes]]
        match = "/has-its-own"
        url = "http://{address}"
        set_headers = {{ X-Route = "1" }}
        "#,
        address = service.address
    ))
    .await;
    let seen = tidegate.get("/inherits").await.seen_by_service();
    assert_eq!(seen.fields("host"), ["example.com"]);
    assert_eq!(
        (seen.field("x-site"), seen.field("x-route")),
        (Some("1"), None)
    );
    // The site's `Host` is lost as well, as it is in nginx.
    let seen = tidegate.get("/has-its-own").await.seen_by_service();
    assert_eq!(seen.fields("host"), [service.address.to_string()]);
    assert_eq!(
        (seen.field("x-site"), seen.field("x-route")),
        (None, Some("1"))
    );
}

#[test]
fn variables_that_are_unknown_or_too_late_are_an_error_of_the_file() {
    let route = |value: &str| {
        let route = "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:1\"\n";
        one_listener(&format!("{route}set_headers = {{ X-A = \"{value}\" }}"))
    };
    for (value, says) in [
        ("$hots", "did you mean `$host`?"),
        ("$status", "is not known before the response"),
        ("$1", "a group of a pattern"),
    ] {
        let problems = crate::harness::check(&route(value)).unwrap_err();
        assert!(problems.contains(says), "{problems}");
    }
}
