//! Which site and which route a request gets: the order in which names and patterns win is nginx's.

use crate::harness::{Connection, Service, Tidegate, check, one_listener};

#[tokio::test]
async fn the_longest_prefix_wins_unless_a_pattern_matches() {
    let tidegate = Tidegate::serving(
        r#"
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "root" }
        [[sites.routes]]
        match = "/chat"
        respond = { status = 200, body = "chat" }
        [[sites.routes]]
        match = "/chat/room"
        respond = { status = 200, body = "room" }
        [[sites.routes]]
        match = "= /chat"
        respond = { status = 200, body = "exactly chat" }
        [[sites.routes]]
        match = "^~ /raw"
        respond = { status = 200, body = "raw" }
        [[sites.routes]]
        match = "~ \\.(gif|json)$"
        respond = { status = 200, body = "file" }
        [[sites.routes]]
        match = "~* \\.GIF$"
        respond = { status = 200, body = "any gif" }
        "#,
    )
    .await;
    let rows = [
        ("/", "root"),
        ("/cha", "root"),
        ("/chat", "exactly chat"),
        ("/chat/", "chat"),
        ("/chatter", "chat"),
        ("/chat/rooms", "room"),
        ("/chat/room?x=.gif", "room"),
        // Patterns see the decoded, normalised path; the first in the file wins.
        ("/a.gif", "file"),
        ("/a%2Egif", "file"),
        ("/a.GIF", "any gif"),
        ("/raw/a.gif", "raw"),
        ("/raw/../a.gif", "file"),
        ("/x/../chat", "exactly chat"),
        ("//chat/./room", "room"),
        ("/%63hat", "exactly chat"),
    ];
    let mut client = tidegate.connect().await;
    for (target, route) in rows {
        let response = client
            .exchange(&format!("GET {target} HTTP/1.1\nHost: a"))
            .await;
        assert_eq!(response.text(), route, "{target}");
    }
}

#[tokio::test]
async fn a_path_that_leaves_its_root_is_a_400() {
    let tidegate =
        Tidegate::serving("[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }").await;
    for target in [
        "/../etc/passwd",
        "/a/../../b",
        "/%2e%2e/x",
        "/a%00b",
        "/%zz",
    ] {
        assert_eq!(tidegate.get(target).await.status(), 400, "{target}");
    }
}

#[tokio::test]
async fn the_most_exact_site_name_wins() {
    let tidegate = Tidegate::start(
        r#"
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        [[sites]]
        names = ["first.example"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "first" }
        [[sites]]
        default = true
        names = ["www.example.com"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "exact" }
        [[sites]]
        names = ["*.example.com", "*.b.example.com"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "suffix" }
        [[sites]]
        names = ["*.a.example.com"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "longer suffix" }
        [[sites]]
        names = ["www.example.*"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "prefix" }
        [[sites]]
        names = ["~^(www|db[0-9]+)[.]example[.]", "~^db"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "pattern" }
        [[sites]]
        names = ["~^db1", "www.example.com"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "never" }
        "#,
    )
    .await;
    let rows = [
        ("www.example.com", "exact"),
        ("WWW.Example.COM:8080", "exact"),
        ("www.example.com.", "exact"),
        ("chat.example.com", "suffix"),
        ("x.y.example.com", "suffix"),
        ("x.a.example.com", "longer suffix"),
        ("www.example.org", "prefix"),
        ("DB1.Example.org", "pattern"),
        ("db.example", "pattern"),
        ("first.example", "first"),
        // No name matches: the site that says it is the default.
        ("example.com", "exact"),
        ("192.0.2.1", "exact"),
    ];
    for (host, site) in rows {
        let response = tidegate
            .exchange(&format!("GET / HTTP/1.1\nHost: {host}"))
            .await;
        assert_eq!(response.text(), site, "{host}");
    }
}

#[tokio::test]
async fn without_a_default_the_first_site_of_the_listener_answers() {
    let tidegate = Tidegate::start(
        r#"
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        [[listeners]]
        bind = "127.0.0.2:0"
        [[sites]]
        names = ["one.example"]
        listeners = ["127.0.0.1:0"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "one" }
        [[sites]]
        names = ["two.example"]
        listeners = ["127.0.0.2:0"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "two" }
        [[sites]]
        names = ["both.example"]
        [[sites.routes]]
        match = "/"
        respond = { status = 200, body = "both" }
        "#,
    )
    .await;
    let rows = [
        (0, "one.example", "one"),
        (0, "two.example", "one"),
        (0, "both.example", "both"),
        (1, "one.example", "two"),
        (1, "two.example", "two"),
        (1, "both.example", "both"),
    ];
    for (listener, host, site) in rows {
        let mut client = Connection::open(tidegate.address(listener)).await;
        let response = client
            .exchange(&format!("GET / HTTP/1.1\nHost: {host}"))
            .await;
        assert_eq!(response.text(), site, "{host} at listener {listener}");
    }
}

#[tokio::test]
async fn a_path_without_a_route_is_a_404() {
    let tidegate =
        Tidegate::serving("[[sites.routes]]\nmatch = \"/only\"\nrespond = { status = 204 }").await;
    assert_eq!(tidegate.get("/only/this").await.status(), 204);
    assert_eq!(tidegate.get("/").await.status(), 404);
}

#[test]
fn two_routes_with_the_same_match_are_an_error() {
    let route = "[[sites.routes]]\nmatch = \"/chat\"\nrespond = { status = 204 }\n";
    let problems = check(&one_listener(&route.repeat(2))).unwrap_err();
    assert!(problems.contains("/chat"), "{problems}");
}

#[tokio::test]
async fn the_path_of_a_url_takes_the_place_of_the_prefix() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        [upstreams.chat]
        endpoints = ["{address}"]
        [[sites.routes]]
        match = "/plain"
        url = "http://{address}"
        [[sites.routes]]
        match = "/app/"
        url = "http://{address}/inner/"
        [[sites.routes]]
        match = "/cut"
        url = "http://{address}/"
        [[sites.routes]]
        match = "= /one"
        upstream = "chat"
        replace_prefix = "/other"
        "#,
        address = service.address
    ))
    .await;
    let rows = [
        ("/plain/a%2Fb?x=1", "/plain/a%2Fb?x=1"),
        ("/app/x?y=%20", "/inner/x?y=%20"),
        ("/app/a%20b%2Fc/../%3F%C3%A9", "/inner/a%20b/%3F%C3%A9"),
        ("//app/./x", "/inner/x"),
        ("/app/%ff", "/inner/%FF"),
        ("/cut", "/"),
        ("/cut/x", "//x"),
        ("/one?q", "/other?q"),
    ];
    for (target, expected) in rows {
        let seen = tidegate.get(target).await.seen_by_service();
        assert_eq!(seen.target(), expected, "{target}");
    }
}

#[tokio::test]
async fn a_target_that_becomes_too_long_is_refused() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        "[limits]\nmax_header = \"64KiB\"\nmax_uri = \"32KiB\"\n\
         [[sites.routes]]\nmatch = \"/app/\"\nurl = \"http://{}/inner/\"",
        service.address
    ))
    .await;
    let asked = async |bars: usize| tidegate.get(&format!("/app/{}", "|".repeat(bars))).await;
    // Each is three bytes where it goes out.
    let seen = asked(2_000).await.seen_by_service();
    assert_eq!(seen.target(), format!("/inner/{}", "%7C".repeat(2_000)));
    assert_eq!(asked(22_000).await.status(), 414);
}

#[tokio::test]
async fn a_path_that_lacks_the_slash_of_a_service_is_redirected_to_it() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/app/"
        url = "http://{address}"
        [[sites.routes]]
        match = "/relative/"
        url = "http://{address}"
        absolute_redirect = false
        [[sites.routes]]
        match = "/taken/"
        url = "http://{address}"
        [[sites.routes]]
        match = "= /taken"
        respond = {{ status = 204 }}
        [[sites.routes]]
        match = "/own/"
        respond = {{ status = 204 }}
        [[sites.routes]]
        match = "~ .*"
        respond = {{ status = 418 }}
        "#,
        address = service.address
    ))
    .await;
    let port = tidegate.address(0).port();
    let response = tidegate.get("/app?x=1").await;
    assert_eq!(response.status(), 301);
    let location = format!("http://example.com:{port}/app/?x=1");
    assert_eq!(response.fields("location"), [location]);
    let response = tidegate.get("/relative").await;
    assert_eq!(response.fields("location"), ["/relative/"]);
    assert_eq!(tidegate.get("/taken").await.status(), 204);
    assert_eq!(tidegate.get("/own").await.status(), 418);
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn routes_redirect_and_answer_with_variables() {
    let tidegate = Tidegate::serving(
        r#"
        [[sites.routes]]
        match = "/away"
        redirect = { status = 301, to = "https://$host$request_uri" }
        [[sites.routes]]
        match = "/here"
        redirect = "/there$is_args$args"
        [[sites.routes]]
        match = "/gone"
        respond = { status = 404 }
        [[sites.routes]]
        match = "/text"
        respond = { body = "$request_method of $arg_name", headers = { X-Uri = "$uri" } }
        [[sites.routes]]
        match = "/nothing"
        respond = { status = 204 }
        "#,
    )
    .await;
    let port = tidegate.address(0).port();
    let here = format!("http://example.com:{port}/there?x");
    let rows = [
        (
            "/away?x=1",
            301,
            Some("https://example.com/away?x=1"),
            "301 Moved Permanently\n",
        ),
        ("/here?x", 302, Some(&*here), "302 Found\n"),
        ("/gone", 404, None, "404 Not Found\n"),
        ("/text?name=Ann", 200, None, "GET of Ann"),
        ("/nothing", 204, None, ""),
    ];
    for (target, status, location, body) in rows {
        let response = tidegate.get(target).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.field("location"), location, "{target}");
        assert_eq!(response.text(), body, "{target}");
    }
    assert_eq!(tidegate.get("/text").await.field("x-uri"), Some("/text"));
}

#[test]
fn a_name_that_another_site_has_is_ignored_with_a_warning_and_a_second_default_is_an_error() {
    let site =
        "names = [\"a.example\"]\n[[sites.routes]]\nmatch = \"/\"\nrespond = {}\n[[sites]]\n";
    let last = "names = [\"a.example\"]\nroutes = [{ match = \"/\", respond = {} }]\n";
    assert_eq!(check(&one_listener(&format!("{site}{last}"))), Ok(()));
    let second = format!("{site}default = true\n{last}");
    let problems = check(&one_listener(&second)).unwrap_err();
    assert!(
        problems.contains("already has a default site"),
        "{problems}"
    );
}
