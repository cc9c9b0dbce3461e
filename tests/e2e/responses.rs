//! What clients see of a service's response: which fields are hidden, rewritten and added, as nginx's
//! `add_header`, `proxy_hide_header`, `proxy_redirect` and their like do it.

use crate::harness::{Head, Refusing, Response, Service, Tidegate, accepting, handshake};

/// A service that answers with the status at the end of the path, 200 if there is none, and with the
/// fields that the request's `X-Say` fields name. It switches to a WebSocket where it is asked to.
async fn saying() -> Service {
    Service::start(|mut connection| async move {
        while let Some(request) = connection.next_request().await {
            let said = request.fields("x-say");
            let lines: String = said.iter().map(|line| format!("{line}\r\n")).collect();
            if request.field("upgrade").is_some() {
                let head = accepting(&request).to_wire();
                let head = head.trim_end();
                connection.send(format!("{head}\r\n{lines}\r\n")).await;
                return;
            }
            let last = request.target().rsplit('/').next().unwrap_or_default();
            let status: u16 = last.parse().unwrap_or(200);
            let length = match status {
                204 | 304 => "",
                _ => "Content-Length: 0\r\n",
            };
            let head = format!("HTTP/1.1 {status} As Asked\r\n{length}{lines}\r\n");
            if connection.try_send(head).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Asks for a path, and for fields of the response.
async fn ask(tidegate: &Tidegate, target: &str, fields: &[&str]) -> Response {
    let mut lines = format!("GET {target} HTTP/1.1\nHost: example.com");
    for field in fields {
        lines += &format!("\nX-Say: {field}");
    }
    tidegate.exchange(&lines).await
}

/// A route to a service, with more keys.
fn route(path: &str, service: &Service, keys: &str) -> String {
    format!(
        "[[sites.routes]]\nmatch = \"{path}\"\nurl = \"http://{}\"\n{keys}\n",
        service.address
    )
}

#[tokio::test]
async fn fields_are_added_on_the_statuses_that_nginx_adds_them_on_or_always() {
    let service = saying().await;
    let fields = r#"add_headers = { X-Usual = "1", X-Always = { value = "2", always = true } }"#;
    let tidegate = Tidegate::serving(&route("/", &service, fields)).await;
    for status in [200, 201, 204, 206, 301, 302, 303, 304, 307, 308] {
        let response = ask(&tidegate, &format!("/{status}"), &[]).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.field("x-usual"), Some("1"), "{status}");
        assert_eq!(response.field("x-always"), Some("2"), "{status}");
    }
    for status in [202, 203, 300, 305, 400, 401, 403, 404, 410, 500, 502, 503] {
        let response = ask(&tidegate, &format!("/{status}"), &[]).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.field("x-usual"), None, "{status}");
        assert_eq!(response.field("x-always"), Some("2"), "{status}");
    }
}

#[tokio::test]
async fn fields_are_added_to_what_the_proxy_answers_itself_and_to_a_101() {
    let service = saying().await;
    let refusing = Refusing::new();
    let tidegate = Tidegate::serving(&format!(
        r#"
        add_headers = {{ X-Added = {{ value = "$status", always = true }} }}
        [[sites.routes]]
        match = "/respond"
        respond = {{ status = 410 }}
        [[sites.routes]]
        match = "/redirect"
        redirect = "/elsewhere"
        [[sites.routes]]
        match = "/down"
        url = "http://{}"
        {}
        "#,
        refusing.address,
        route("/service", &service, "")
    ))
    .await;
    for (target, status) in [
        ("/respond", 410),
        ("/redirect", 302),
        ("/down", 502),
        ("/no-route", 404),
        ("/service/201", 201),
    ] {
        let response = ask(&tidegate, target, &[]).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.fields("x-added"), [status.to_string()], "{target}");
    }
    let mut client = tidegate.connect().await;
    let head = client.open_websocket("/service").await;
    assert_eq!(head.fields("x-added"), ["101"]);
}

#[tokio::test]
async fn a_route_that_adds_fields_adds_none_of_its_site() {
    let service = saying().await;
    let tidegate = Tidegate::serving(&format!(
        "add_headers = {{ X-Site = \"1\" }}\n{}{}{}",
        route("/inherits", &service, ""),
        route(
            "/has-its-own",
            &service,
            "add_headers = { X-Route = \"2\" }"
        ),
        route("/has-none", &service, "add_headers = {}"),
    ))
    .await;
    for (target, site, own) in [
        ("/inherits", Some("1"), None),
        ("/has-its-own", None, Some("2")),
        ("/has-none", None, None),
    ] {
        let response = ask(&tidegate, target, &[]).await;
        let seen = (response.field("x-site"), response.field("x-route"));
        assert_eq!(seen, (site, own), "{target}");
    }
}

#[tokio::test]
async fn added_fields_may_tell_of_the_response_and_are_left_out_if_empty() {
    let service = saying().await;
    let fields = r#"add_headers = { X-Of = ["$status from $upstream_addr", "$upstream_http_x_id"], X-Empty = "$upstream_http_x_none", X-Sent = "$sent_http_x_id", X-Asked = "$request_uri" }"#;
    let tidegate = Tidegate::serving(&route("/", &service, fields)).await;
    let response = ask(&tidegate, "/a/201", &["X-Id: 7"]).await;
    let of = format!("201 from {}", service.address);
    assert_eq!(response.fields("x-of"), [of.as_str(), "7"]);
    assert_eq!(response.field("x-empty"), None);
    assert_eq!(response.field("x-sent"), Some("7"));
    assert_eq!(response.field("x-asked"), Some("/a/201"));
    // Beside what the service sends, as in nginx.
    let response = ask(&tidegate, "/", &["X-Asked: of the service"]).await;
    assert_eq!(response.fields("x-asked"), ["of the service", "/"]);
}

const OWN_AFFAIRS: [&str; 7] = [
    "Server: service",
    "X-Pad: avoid browser bug",
    "X-Accel-Redirect: /x",
    "X-Accel-Expires: 1",
    "X-Accel-Limit-Rate: 1",
    "X-Accel-Buffering: no",
    "X-Accel-Charset: utf-8",
];

#[tokio::test]
async fn fields_for_proxies_are_hidden_and_others_by_name() {
    let service = saying().await;
    let tidegate = Tidegate::serving(&format!(
        "{}{}{}",
        route("/plain", &service, ""),
        route("/hides", &service, r#"hide_headers = ["X-Powered-By"]"#),
        route(
            "/passes",
            &service,
            r#"pass_headers = ["Server", "X-Accel-Expires"]"#
        ),
    ))
    .await;
    let mut fields = OWN_AFFAIRS.to_vec();
    fields.extend(["X-Powered-By: test", "X-Other: kept"]);
    let names = |head: &Head| -> Vec<String> {
        let of_service = |name: &str| {
            fields
                .iter()
                .any(|field| field.split(':').next().unwrap().eq_ignore_ascii_case(name))
        };
        let names = head
            .fields
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase());
        let mut names: Vec<_> = names.filter(|name| of_service(name)).collect();
        names.sort();
        names
    };
    for (target, expected) in [
        ("/plain", &["server", "x-other", "x-powered-by"][..]),
        ("/hides", &["server", "x-other"]),
        (
            "/passes",
            &["server", "x-accel-expires", "x-other", "x-powered-by"],
        ),
    ] {
        let response = ask(&tidegate, target, &fields).await;
        assert_eq!(names(&response), expected, "{target}");
    }
    // Those of a handshake's answer too.
    let lines = handshake("/hides") + "\nX-Say: X-Powered-By: test\nX-Say: X-Other: kept";
    let mut client = tidegate.connect().await;
    client.send_head(&lines).await;
    let head = client.read_head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(names(&head), ["server", "x-other"]);
}

#[tokio::test]
async fn the_server_field_is_the_proxys_unless_the_route_says_otherwise() {
    let service = saying().await;
    let tidegate = Tidegate::serving(&format!(
        "server_header = \"edge\"\n{}{}{}",
        route("/inherits", &service, ""),
        route("/none", &service, "server_header = \"\""),
        route("/passes", &service, "pass_headers = [\"Server\"]"),
    ))
    .await;
    for (target, expected) in [
        ("/inherits", Some("edge")),
        ("/none", None),
        ("/passes", Some("service")),
        ("/no-route", Some("edge")),
    ] {
        let response = ask(&tidegate, target, &["Server: service"]).await;
        assert_eq!(response.field("server"), expected, "{target}");
    }
    // What a service does not send is the proxy's own to say.
    let response = ask(&tidegate, "/passes", &[]).await;
    assert_eq!(response.field("server"), Some("edge"));
    let tidegate = Tidegate::serving(&route("/", &service, "")).await;
    let response = ask(&tidegate, "/", &[]).await;
    assert_eq!(response.field("server"), Some("tidegate"));
}

#[tokio::test]
async fn where_a_service_redirects_to_itself_becomes_the_path_of_its_route() {
    let service = saying().await;
    let address = service.address;
    let tidegate = Tidegate::serving(&format!(
        r#"
        [upstreams.group]
        endpoints = ["{address}"]
        [[sites.routes]]
        match = "/app/"
        url = "http://{address}/inner/"
        [[sites.routes]]
        match = "/group"
        upstream = "group"
        [[sites.routes]]
        match = "/relative/"
        url = "http://{address}/inner/"
        absolute_redirect = false
        [[sites.routes]]
        match = "~ ^/pattern"
        url = "http://{address}"
        [[sites.routes]]
        match = "/off/"
        url = "http://{address}/inner/"
        rewrite_location = "off"
        "#
    ))
    .await;
    let here = format!("http://example.com:{}", tidegate.address(0).port());
    let inner = format!("http://{address}/inner/x?y");
    let rows = [
        ("/app/301", inner.clone(), format!("{here}/app/x?y")),
        ("/relative/301", inner.clone(), "/relative/x?y".to_owned()),
        ("/off/301", inner.clone(), inner),
        // Without a path in the URL, paths are the same on both sides.
        (
            "/group/301",
            "http://group/x".to_owned(),
            format!("{here}/x"),
        ),
        (
            "/group/301",
            "http://other/x".to_owned(),
            "http://other/x".to_owned(),
        ),
        (
            "/pattern/301",
            format!("http://{address}/x"),
            format!("{here}/x"),
        ),
        // What no rule fits stays as it is.
        ("/app/301", "/there".to_owned(), "/there".to_owned()),
    ];
    for (target, said, expected) in rows {
        let response = ask(&tidegate, target, &[&format!("Location: {said}")]).await;
        assert_eq!(response.fields("location"), [expected], "{target} {said}");
    }
    for (said, expected) in [
        (format!("5; url=http://{address}/inner/x"), "5; url=/app/x"),
        ("5; url=http://other/".to_owned(), "5; url=http://other/"),
        ("5".to_owned(), "5"),
    ] {
        let response = ask(&tidegate, "/app/", &[&format!("Refresh: {said}")]).await;
        assert_eq!(response.fields("refresh"), [expected], "{said}");
    }
}

#[tokio::test]
async fn the_first_rule_that_fits_rewrites_a_location() {
    let service = saying().await;
    let rules = r#"rewrite_location = [
        { from = "http://inside/deep/", to = "https://$host/deeper/" },
        { from = "http://inside/", to = "/outside/" },
        { from = "~ ^http://([a-z]+)[.]internal/(.*)$", to = "https://$1.example.com/$2" },
        { from = "~* ^HTTP://SHOUTING/", to = "/quiet" },
        { from = "/own/$arg_to", to = "/theirs" },
        "default",
    ]"#;
    let tidegate = Tidegate::serving(&route("/", &service, rules)).await;
    let here = format!("http://example.com:{}", tidegate.address(0).port());
    let rows = [
        (
            "http://inside/deep/x",
            "https://example.com/deeper/x".to_owned(),
        ),
        ("http://inside/x", format!("{here}/outside/x")),
        (
            "http://chat.internal/a?b",
            "https://chat.example.com/a?b".to_owned(),
        ),
        ("http://shouting/x", format!("{here}/quiet")),
        ("/own/7/x", format!("{here}/theirs/x")),
        ("http://elsewhere/", "http://elsewhere/".to_owned()),
        (
            &format!("http://{}/x", service.address),
            format!("{here}/x"),
        ),
    ];
    for (said, expected) in rows {
        let response = ask(&tidegate, "/301?to=7", &[&format!("Location: {said}")]).await;
        assert_eq!(response.fields("location"), [expected], "{said}");
    }
}

#[tokio::test]
async fn cookies_of_a_service_become_the_sites() {
    let service = saying().await;
    let rules = r#"rewrite_cookies = { domain = [{ from = "localhost", to = "$host" }, { from = "~ ^(.+)[.]internal$", to = "$1.example.com" }], path = [{ from = "/app/", to = "/" }, { from = "~ ^/v[0-9]+(/.*)$", to = "$1" }] }"#;
    let tidegate = Tidegate::serving(&route("/", &service, rules)).await;
    let rows = [
        (
            "a=b; Domain=localhost; Path=/app/x; HttpOnly",
            "a=b; Domain=example.com; Path=/x; HttpOnly",
        ),
        ("a=b; domain=LocalHost", "a=b; domain=example.com"),
        ("a=b; Domain=.localhost", "a=b; Domain=.example.com"),
        ("a=b; Domain=chat.internal", "a=b; Domain=chat.example.com"),
        ("a=b; Path=/v2/x", "a=b; Path=/x"),
        (
            "a=Domain=localhost; Path=/other",
            "a=Domain=localhost; Path=/other",
        ),
        (
            "a=b; Domain=localhost.example",
            "a=b; Domain=localhost.example",
        ),
        ("a=b", "a=b"),
    ];
    for (said, expected) in rows {
        let said = [
            &*format!("Set-Cookie: {said}"),
            "Set-Cookie: c=d; Path=/app/",
        ];
        let response = ask(&tidegate, "/", &said).await;
        assert_eq!(response.fields("set-cookie"), [expected, "c=d; Path=/"]);
    }
}
