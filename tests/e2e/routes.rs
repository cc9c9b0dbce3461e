//! Which site and which route a request gets: the order in which names and patterns win is nginx's.

use crate::harness::{Tidegate, check, one_listener};

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
        let mut client = crate::harness::Connection::open(tidegate.address(listener)).await;
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
