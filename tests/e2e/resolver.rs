//! Names of endpoints: where they lead, what happens when that changes, and when nobody knows.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;

use crate::harness::{
    Folder, NameServer, Service, Tidegate, check, command, eventually, one_listener, route_to,
};

const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Two services on one port of two addresses, since a name has no port.
async fn neighbours() -> (Service, Service) {
    loop {
        let one = Service::answering("1").await;
        let address = SocketAddr::new(TWO.into(), one.address.port());
        if let Some(two) = Service::answering_at(address, "2").await {
            return (one, two);
        }
    }
}

/// A group behind all paths, of one name.
fn named(name: &str, port: u16, dns: &NameServer, group: &str) -> String {
    one_listener(&format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "group"
        [upstreams.group]
        endpoints = ["{name}:{port}"]
        {group}
        [resolver]
        servers = ["{}"]
        min_ttl = "100ms"
        timeout = "500ms"
        [admin]
        listen = "127.0.0.1:0"
        "#,
        dns.address
    ))
}

async fn turns(tidegate: &Tidegate, count: usize) -> String {
    let mut turns = String::new();
    for _ in 0..count {
        turns += tidegate.get("/").await.text();
    }
    turns
}

#[tokio::test]
async fn a_name_with_two_addresses_is_two_endpoints() {
    let (one, two) = neighbours().await;
    let dns = NameServer::start(300).await;
    dns.set("chat.test", &[TWO, ONE]);
    let tidegate = Tidegate::start(&named("Chat.test", one.address.port(), &dns, "")).await;
    // In the order of their numbers, whatever that of the answer is.
    assert_eq!(turns(&tidegate, 4).await, "1212");
    let metrics = tidegate.metrics().await;
    for service in [&one, &two] {
        let address = service.address.to_string();
        assert_eq!(
            metrics.sum("tidegate_endpoint_up", &[("address", &address)]),
            1.0
        );
    }
}

#[tokio::test]
async fn a_name_that_moves_takes_new_sessions_along_and_leaves_open_ones() {
    let one = Service::websocket_echo().await;
    let moved = loop {
        let address = SocketAddr::new(TWO.into(), one.address.port());
        if let Some(service) = Service::answering_at(address, "moved").await {
            break service;
        }
    };
    let dns = NameServer::start(1).await;
    dns.set("chat.test", &[ONE]);
    let mut tidegate = Tidegate::start(&named("chat.test", one.address.port(), &dns, "")).await;
    let mut tunnel = tidegate.websocket("/").await;
    tunnel.expect_echo("before").await;

    dns.set("chat.test", &[TWO]);
    let line = tidegate.log("endpoints have moved").await;
    assert_eq!(line["generation"], 2);
    for _ in 0..4 {
        assert_eq!(tidegate.get("/").await.text(), "moved");
    }
    assert_eq!(one.connections(), 1);
    tunnel.expect_echo("still here").await;
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_generation", &[]), 2.0);
    let up = |address: SocketAddr| {
        let address = address.to_string();
        metrics.find("tidegate_endpoint_up", &[("address", &address)])
    };
    assert_eq!((up(one.address), up(moved.address)), (None, Some(1.0)));
    // The endpoint that is gone keeps its tunnel to its end.
    tunnel.expect_echo("and still").await;
}

#[tokio::test]
async fn an_answer_that_says_the_same_in_another_order_changes_nothing() {
    let (one, _two) = neighbours().await;
    let dns = NameServer::start(0).await;
    dns.set("chat.test", &[ONE, TWO]);
    let tidegate = Tidegate::start(&named("chat.test", one.address.port(), &dns, "")).await;
    assert_eq!(turns(&tidegate, 1).await, "1");
    dns.set("chat.test", &[TWO, ONE]);
    dns.answered(3).await;
    assert_eq!(turns(&tidegate, 3).await, "212");
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_generation", &[]), 1.0);
    assert!(metrics.sum("tidegate_resolver_lookups_total", &[("result", "success")]) >= 2.0);
}

#[tokio::test]
async fn when_nobody_answers_the_last_addresses_stay_in_use() {
    let (one, _two) = neighbours().await;
    let dns = NameServer::start(0).await;
    dns.set("chat.test", &[ONE]);
    let configuration = named("chat.test", one.address.port(), &dns, "");
    let mut tidegate = Tidegate::start(&configuration).await;
    dns.set_broken(true);
    let line = tidegate
        .log("cannot resolve a name; its last addresses stay in use")
        .await;
    assert_eq!(line["name"], "chat.test");
    assert_eq!(turns(&tidegate, 2).await, "11");
    // Also over a reload.
    assert_eq!(tidegate.reload().await, Ok(1));
    assert_eq!(turns(&tidegate, 2).await, "11");
    dns.set("chat.test", &[TWO]);
    dns.set_broken(false);
    tidegate.log("endpoints have moved").await;
    assert_eq!(turns(&tidegate, 2).await, "22");
}

#[tokio::test]
async fn a_route_with_a_url_follows_its_name_too() {
    let (one, _two) = neighbours().await;
    let dns = NameServer::start(1).await;
    dns.set("chat.test", &[ONE]);
    let configuration = named("chat.test", one.address.port(), &dns, "").replace(
        "upstream = \"group\"",
        &format!("url = \"http://chat.test:{}\"", one.address.port()),
    );
    let mut tidegate = Tidegate::start(&configuration).await;
    assert_eq!(turns(&tidegate, 1).await, "1");
    dns.set("chat.test", &[ONE, TWO]);
    tidegate.log("endpoints have moved").await;
    assert_eq!(turns(&tidegate, 4).await, "1212");
}

#[tokio::test]
async fn what_is_known_of_an_address_that_stays_is_kept() {
    let (one, _two) = neighbours().await;
    let dns = NameServer::start(1).await;
    dns.set("chat.test", &[ONE]);
    let mut tidegate = Tidegate::start(&named("chat.test", one.address.port(), &dns, "")).await;
    assert_eq!(turns(&tidegate, 3).await, "111");
    assert_eq!(one.connections(), 1);
    dns.set("chat.test", &[ONE, TWO]);
    tidegate.log("endpoints have moved").await;
    assert!(turns(&tidegate, 4).await.contains('1'));
    assert_eq!(one.connections(), 1, "its idle connection is used further");
}

#[tokio::test]
async fn a_new_address_is_checked_before_long() {
    let (one, two) = neighbours().await;
    let dns = NameServer::start(1).await;
    dns.set("chat.test", &[ONE]);
    let health = "health = { type = \"tcp\", interval = \"50ms\", fall = 1 }";
    let configuration = named("chat.test", one.address.port(), &dns, health);
    let mut tidegate = Tidegate::start(&configuration).await;
    // Somebody else's port: nobody listens there.
    let nobody = Ipv4Addr::new(127, 0, 0, 3);
    dns.set("chat.test", &[ONE, nobody]);
    let line = tidegate.log("endpoint is unhealthy").await;
    let address = SocketAddr::new(nobody.into(), one.address.port());
    assert_eq!(line["endpoint"], address.to_string());
    assert_eq!(turns(&tidegate, 3).await, "111");
    assert_eq!(two.connections(), 0);
}

fn run(configuration: &str) -> Output {
    let folder = Folder::new();
    let file = folder.write("tidegate.toml", configuration);
    command().arg("run").arg("-c").arg(file).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_an_error_at_the_start_and_in_a_check() {
    let dns = NameServer::start(1).await;
    let configuration = named("nobody.test", 9001, &dns, "");
    let line = configuration
        .lines()
        .position(|line| line.contains("nobody.test"))
        .unwrap();
    let says = format!(
        "tidegate.toml:{}:22: upstreams.group.endpoints[0]: host not found in upstream: \
         expected a name that can be resolved, found \"nobody.test:9001\"; it has no address\n",
        line + 1
    );
    let error = check(&configuration).unwrap_err();
    assert!(error.ends_with(&says), "{error}");
    let output = run(&configuration);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.ends_with(&says), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_is_told_so_without_asking_anybody() {
    let dns = NameServer::start(1).await;
    dns.set("chat.test", &[ONE]);
    let wrong = named("chat.test", 9001, &dns, "keep_alives = 3");
    let error = check(&wrong).unwrap_err();
    assert!(error.contains("did you mean `keep_alive`?"), "{error}");
    assert_eq!(dns.questions(), 0);
    assert_eq!(check(&named("chat.test", 9001, &dns, "")), Ok(()));
    assert!(dns.questions() > 0);
}

#[tokio::test]
async fn a_reload_that_names_a_host_nobody_knows_changes_nothing() {
    let (one, _two) = neighbours().await;
    let dns = NameServer::start(300).await;
    dns.set("chat.test", &[ONE]);
    let port = one.address.port();
    let mut tidegate = Tidegate::start(&named("chat.test", port, &dns, "")).await;
    let unknown = named("nobody.test", port, &dns, "");
    let error = tidegate.reload_with(&unknown).await.unwrap_err();
    assert!(error.contains("host not found in upstream"), "{error}");
    assert_eq!(turns(&tidegate, 1).await, "1");
    dns.set("nobody.test", &[TWO]);
    tidegate.reload_with(&unknown).await.unwrap();
    assert_eq!(turns(&tidegate, 1).await, "2");
}

#[tokio::test]
async fn the_hosts_file_goes_before_dns() {
    let service = Service::answering("here").await;
    let dns = NameServer::start(1).await;
    let configuration = named("localhost", service.address.port(), &dns, "");
    let tidegate = Tidegate::start(&configuration).await;
    assert_eq!(tidegate.get("/").await.text(), "here");
    assert_eq!(dns.questions(), 0);
}

#[tokio::test]
async fn addresses_are_asked_for_by_nobody() {
    let service = Service::answering("here").await;
    let dns = NameServer::start(1).await;
    let rest = format!(
        "{}[resolver]\nservers = [\"{}\"]",
        route_to(&service),
        dns.address
    );
    let tidegate = Tidegate::serving(&rest).await;
    eventually("an answer", async || {
        (tidegate.get("/").await.text() == "here").then_some(())
    })
    .await;
    assert_eq!(dns.questions(), 0);
}
