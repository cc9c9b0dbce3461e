//! How an upstream shares out requests: by what is open, by client, by key, by cookie, within limits.

use std::net::{IpAddr, SocketAddr};

use crate::harness::{
    Connection, Refusing, Response, Service, Tidegate, check, eventually, handshake, one_listener,
};

/// A group behind all paths, as tables.
fn group(settings: &str, endpoints: &[String]) -> String {
    format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "group"
        timeouts = {{ connect = "300ms" }}
        [upstreams.group]
        {settings}
        endpoints = [{}]
        [admin]
        listen = "127.0.0.1:0"
        "#,
        endpoints.join(", ")
    )
}

/// An endpoint as the configuration has it, with more keys.
fn endpoint(address: SocketAddr, keys: &str) -> String {
    format!("{{ address = \"{address}\"{keys} }}")
}

fn plain(services: &[&Service]) -> Vec<String> {
    let endpoint = |service: &&Service| endpoint(service.address, "");
    services.iter().map(endpoint).collect()
}

/// Services that answer with the letters a, b and c.
async fn letters() -> [Service; 3] {
    [
        Service::answering("a").await,
        Service::answering("b").await,
        Service::answering("c").await,
    ]
}

/// What so many requests for `/` are answered with.
async fn turns(tidegate: &Tidegate, count: usize) -> String {
    let mut turns = String::new();
    for _ in 0..count {
        turns += tidegate.get("/").await.text();
    }
    turns
}

/// Tunnels and exchanges open at an endpoint, by the metrics.
async fn open(tidegate: &Tidegate, service: &Service) -> f64 {
    let address = service.address.to_string();
    let metrics = tidegate.metrics().await;
    let found = metrics.find("tidegate_endpoint_open", &[("address", &address)]);
    found.unwrap_or_default()
}

async fn failures(tidegate: &Tidegate, address: SocketAddr) -> f64 {
    let address = address.to_string();
    let metrics = tidegate.metrics().await;
    let found = metrics.find("tidegate_endpoint_failures_total", &[("address", &address)]);
    found.unwrap_or_default()
}

#[tokio::test]
async fn least_connections_counts_open_tunnels_of_all_workers() {
    let (a, b) = (
        Service::websocket_echo().await,
        Service::websocket_echo().await,
    );
    let configuration = one_listener(&group("balance = \"least-connections\"", &plain(&[&a, &b])))
        .replace("workers = 1", "workers = 2");
    let tidegate = Tidegate::start(&configuration).await;
    let mut tunnels = Vec::new();
    for _ in 0..5 {
        let before = (a.connections(), b.connections());
        tunnels.push(tidegate.websocket("/").await);
        let a_was_next = a.connections() > before.0;
        tunnels.push(tidegate.websocket("/").await);
        // Whichever worker it was: never two in a row to the same one.
        assert_eq!(a.connections(), b.connections(), "a was next: {a_was_next}");
    }
    // Only the tunnels to one of them end.
    let mut kept = Vec::new();
    for (index, mut tunnel) in tunnels.into_iter().enumerate() {
        tunnel.expect_echo("still here").await;
        if index < 4 {
            drop(tunnel);
        } else {
            kept.push(tunnel);
        }
    }
    eventually("the end of four tunnels", async || {
        (open(&tidegate, &a).await + open(&tidegate, &b).await == 6.0).then_some(())
    })
    .await;
    for _ in 0..4 {
        kept.push(tidegate.websocket("/").await);
    }
    assert_eq!(
        (open(&tidegate, &a).await, open(&tidegate, &b).await),
        (5.0, 5.0)
    );
}

/// The order is nginx's for these clients and weights.
#[tokio::test]
async fn ip_hash_sends_clients_where_nginx_does() {
    let services = letters().await;
    let endpoints = [
        endpoint(services[0].address, ", weight = 3"),
        endpoint(services[1].address, ""),
        endpoint(services[2].address, ", weight = 2"),
    ];
    let tidegate = Tidegate::serving(&group("balance = \"ip-hash\"", &endpoints)).await;
    let mut seen = String::new();
    for network in 0..8 {
        for host in [1, 2] {
            let client = IpAddr::from([127, 0, network, host]);
            let mut connection = Connection::open_from(client, tidegate.address(0)).await;
            seen += connection.exchange("GET / HTTP/1.1\nHost: a").await.text();
        }
    }
    assert_eq!(seen, "aabbccccaaaaaabb");
}

/// The order is nginx's for these keys and weights.
#[tokio::test]
async fn a_hash_sends_keys_where_nginx_does() {
    let services = letters().await;
    let endpoints = [
        endpoint(services[0].address, ", weight = 3"),
        endpoint(services[1].address, ""),
        endpoint(services[2].address, ", weight = 2"),
    ];
    let hash = "balance = { hash = \"$arg_k\" }";
    let tidegate = Tidegate::serving(&group(hash, &endpoints)).await;
    let mut seen = String::new();
    for n in 0..16 {
        seen += tidegate.get(&format!("/?k=key{n}")).await.text();
    }
    assert_eq!(seen, "ccbcaccbaacaccaa");
}

/// Which endpoint each of some keys goes to.
async fn by_key(tidegate: &Tidegate) -> Vec<String> {
    let mut letters = Vec::new();
    for n in 0..30 {
        let answer = tidegate.get(&format!("/?room={n}")).await;
        letters.push(answer.text().to_owned());
    }
    letters
}

#[tokio::test]
async fn a_consistent_hash_moves_only_the_keys_of_the_endpoint_that_goes() {
    let [a, b, c] = letters().await;
    let hash = "balance = { hash = \"$arg_room\", consistent = true }";
    let of = |services: &[&Service]| one_listener(&group(hash, &plain(services)));
    let mut tidegate = Tidegate::start(&of(&[&a, &b, &c])).await;
    let before = by_key(&tidegate).await;
    assert_eq!(before, by_key(&tidegate).await, "a key stays where it is");
    tidegate.reload_with(&of(&[&a, &c])).await.unwrap();
    let after = by_key(&tidegate).await;
    assert!(!after.contains(&"b".to_owned()));
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || before == "b", "{before} became {after}");
    }
}

#[tokio::test]
async fn a_key_is_taken_from_the_request_as_the_client_sent_it() {
    let [a, b, _] = letters().await;
    let rest = group(
        "balance = { hash = \"$http_host\", consistent = true }",
        &plain(&[&a, &b]),
    );
    let rest = rest.replace(
        "upstream = \"group\"",
        "upstream = \"group\"\nset_headers = { Host = \"same.example.com\" }",
    );
    let tidegate = Tidegate::serving(&rest).await;
    let mut seen = String::new();
    for n in 0..20 {
        let request = format!("GET / HTTP/1.1\nHost: room{n}.example.com");
        seen += tidegate.exchange(&request).await.text();
    }
    assert!(seen.contains('a') && seen.contains('b'), "{seen}");
}

/// The value of the cookie that a response sets, and what stands behind it.
fn cookie(response: &Response) -> (&str, &str) {
    let field = response.field("set-cookie").expect("a cookie is set");
    let value = field.strip_prefix("srv=").unwrap();
    value.split_once("; ").unwrap_or((value, ""))
}

#[tokio::test]
async fn a_sticky_cookie_keeps_a_client_at_its_endpoint() {
    let [a, b, c] = letters().await;
    let sticky = "sticky = { cookie = \"srv\", path = \"/\", http_only = true }";
    let tidegate = Tidegate::serving(&group(sticky, &plain(&[&a, &b, &c]))).await;
    let first = tidegate.get("/").await;
    let (value, attributes) = cookie(&first);
    assert_eq!(attributes, "Path=/; HttpOnly");
    assert!(
        !value.contains("127"),
        "the address is not the client's business"
    );
    let with_cookie = format!("GET / HTTP/1.1\nHost: a\nCookie: theme=dark; srv={value}");
    for _ in 0..4 {
        let again = tidegate.exchange(&with_cookie).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.field("set-cookie"), None, "it knows");
    }
    // A cookie that names nobody is no cookie.
    let unknown = "GET / HTTP/1.1\nHost: a\nCookie: srv=nobody";
    assert!(
        tidegate
            .exchange(unknown)
            .await
            .field("set-cookie")
            .is_some()
    );
}

#[tokio::test]
async fn a_cookie_is_set_with_a_101_and_replaced_when_its_endpoint_is_down() {
    let (a, b) = (
        Service::websocket_echo().await,
        Service::websocket_echo().await,
    );
    let sticky = "sticky = { cookie = \"srv\" }";
    let rest = group(sticky, &plain(&[&a, &b]));
    let mut tidegate = Tidegate::start(&one_listener(&rest)).await;
    let first = tidegate.exchange(&handshake("/")).await;
    assert_eq!(first.status(), 101);
    let value = cookie(&first).0.to_owned();
    let with_cookie = format!("{}\nCookie: srv={value}", handshake("/"));
    let (chosen, other) = if a.connections() == 1 {
        (&a, &b)
    } else {
        (&b, &a)
    };
    for count in 2..5 {
        let again = tidegate.exchange(&with_cookie).await;
        assert_eq!(again.field("set-cookie"), None);
        assert_eq!(chosen.connections(), count);
    }
    let address = chosen.address.to_string();
    let down = rest.replace(
        &format!("\"{address}\""),
        &format!("\"{address}\", down = true"),
    );
    tidegate.reload_with(&one_listener(&down)).await.unwrap();
    let moved = tidegate.exchange(&with_cookie).await;
    assert_ne!(cookie(&moved).0, value);
    assert_eq!(other.connections(), 1);
}

#[tokio::test]
async fn a_cookie_that_expires_is_renewed_with_each_answer() {
    let [a, b, _] = letters().await;
    let sticky = "sticky = { cookie = \"srv\", expires = \"1h\" }";
    let tidegate = Tidegate::serving(&group(sticky, &plain(&[&a, &b]))).await;
    let first = tidegate.get("/").await;
    let (value, attributes) = cookie(&first);
    assert!(
        attributes.starts_with("Expires=") && attributes.ends_with("; Max-Age=3600"),
        "{attributes}"
    );
    let again = format!("GET / HTTP/1.1\nHost: a\nCookie: srv={value}");
    assert_eq!(cookie(&tidegate.exchange(&again).await).0, value);
}

#[tokio::test]
async fn no_more_than_max_connections_are_open_at_an_endpoint_over_all_workers() {
    let (a, b) = (
        Service::websocket_echo().await,
        Service::websocket_echo().await,
    );
    let endpoints = [
        endpoint(a.address, ", max_connections = 2"),
        endpoint(b.address, ", max_connections = 1"),
    ];
    let configuration = one_listener(&group("", &endpoints)).replace("workers = 1", "workers = 2");
    let mut tidegate = Tidegate::start(&configuration).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(tidegate.websocket("/").await);
    }
    assert_eq!((a.connections(), b.connections()), (2, 1));
    for _ in 0..4 {
        assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 502);
    }
    let line = tidegate.log("request failed").await;
    assert_eq!(line["error"], "no live upstreams in `group`");
    // Being full is no failure.
    assert_eq!(failures(&tidegate, a.address).await, 0.0);
    drop(tunnels.pop());
    eventually("room for another tunnel", async || {
        let mut client = tidegate.connect().await;
        let answer = client.exchange(&handshake("/")).await;
        (answer.status() == 101).then_some(client)
    })
    .await;
}

#[tokio::test]
async fn random_two_uses_every_endpoint() {
    let services = letters().await;
    let endpoints = plain(&services.each_ref());
    let tidegate = Tidegate::serving(&group("balance = \"random-two\"", &endpoints)).await;
    let seen = turns(&tidegate, 60).await;
    for letter in ['a', 'b', 'c'] {
        assert!(seen.contains(letter), "{seen}");
    }
}

/// Four endpoints of weight 50, one of which is dead, and a backup.
#[tokio::test]
async fn after_max_fails_an_endpoint_rests_and_then_gets_exactly_one_probe() {
    let [a, b, c] = letters().await;
    let (dead, backup) = (Refusing::new(), Service::answering("backup").await);
    let fails = ", weight = 50, max_fails = 10, fail_timeout = \"2s\"";
    let endpoints = [
        endpoint(a.address, fails),
        endpoint(b.address, fails),
        endpoint(c.address, fails),
        endpoint(dead.address, fails),
        endpoint(backup.address, ", backup = true"),
    ];
    let tidegate = Tidegate::serving(&group("", &endpoints)).await;
    eventually("the tenth failure", async || {
        turns(&tidegate, 10).await;
        let failures = failures(&tidegate, dead.address).await;
        assert!(failures <= 10.0, "it is not tried an eleventh time");
        (failures == 10.0).then_some(())
    })
    .await;
    eventually("the probe", async || {
        turns(&tidegate, 1).await;
        (failures(&tidegate, dead.address).await > 10.0).then_some(())
    })
    .await;
    let seen = turns(&tidegate, 12).await;
    assert_eq!(failures(&tidegate, dead.address).await, 11.0);
    assert!(!seen.contains("backup"), "{seen}");
}

#[tokio::test]
async fn everyone_is_served_by_the_backup_until_one_endpoint_is_back() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let backup = Service::answering("backup").await;
    let fails = ", max_fails = 1, fail_timeout = \"1s\"";
    let endpoints = [
        endpoint(one.address, fails),
        endpoint(two.address, fails),
        endpoint(backup.address, ", backup = true"),
    ];
    let mut tidegate = Tidegate::serving(&group("", &endpoints)).await;
    assert_eq!(turns(&tidegate, 4).await, "backup".repeat(4));
    let out = tidegate.log("endpoint is out for its failures").await;
    assert_eq!(out["level"], "WARN");
    let _back = one.serve("back");
    eventually("use of the endpoint that is back", async || {
        (tidegate.get("/").await.text() == "back").then_some(())
    })
    .await;
    tidegate.log("endpoint is back").await;
    // The other one stays dead: whenever it is probed, the one that is back takes over.
    assert_eq!(turns(&tidegate, 6).await, "back".repeat(6));
}

#[test]
fn a_url_where_an_endpoint_belongs_is_refused() {
    let text = one_listener(&group("", &["\"http://localhost:8080\"".to_owned()]));
    let error = check(&text).unwrap_err();
    assert!(
        error.contains("invalid host in upstream") && error.contains("write \"localhost:8080\""),
        "{error}"
    );
}
