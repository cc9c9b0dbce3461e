//! Groups of endpoints: whose turn it is, and who takes over when one fails.

use crate::harness::{Refusing, Service, Tidegate, Unreachable, handshake};

/// The bodies of so many answers, one letter each.
async fn turns(tidegate: &Tidegate, count: usize) -> String {
    let mut turns = String::new();
    for _ in 0..count {
        turns += tidegate.get("/").await.text();
    }
    turns
}

/// A proxy with one worker and this group behind all paths.
async fn proxy_to(endpoints: &str) -> Tidegate {
    Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "group"
        timeouts = {{ connect = "300ms", read = "300ms" }}
        [upstreams.group]
        endpoints = [{endpoints}]
        [admin]
        listen = "127.0.0.1:0"
        "#
    ))
    .await
}

#[tokio::test]
async fn weights_5_1_1_are_served_as_nginx_would() {
    let (a, b, c) = (
        Service::answering("a").await,
        Service::answering("b").await,
        Service::answering("c").await,
    );
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\", weight = 5 }}, {{ address = \"{}\" }}, {{ address = \"{}\" }}",
        a.address, b.address, c.address
    ))
    .await;
    // Each worker begins somewhere in the round, so one round is compared up to rotation.
    let turns = turns(&tidegate, 14).await;
    let (first, second) = turns.split_at(7);
    assert_eq!(first, second, "the round repeats");
    assert!(
        "aabacaaaabacaa".contains(first),
        "{first} is not a rotation of aabacaa"
    );
}

#[tokio::test]
async fn equal_endpoints_take_turns_for_handshakes_too() {
    let (a, b) = (
        Service::websocket_echo().await,
        Service::websocket_echo().await,
    );
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\" }}",
        a.address, b.address
    ))
    .await;
    for round in 1..=3 {
        tidegate.websocket("/").await.expect_echo("one").await;
        tidegate.websocket("/").await.expect_echo("other").await;
        assert_eq!((a.connections(), b.connections()), (round, round));
    }
}

#[tokio::test]
async fn the_next_endpoint_serves_what_the_first_could_not_be_reached_for() {
    let (refusing, unreachable) = (Refusing::new(), Unreachable::new());
    let alive = Service::answering("alive").await;
    for dead in [refusing.address, unreachable.address] {
        let tidegate = proxy_to(&format!(
            "{{ address = \"{dead}\", max_fails = 0 }}, {{ address = \"{}\" }}",
            alive.address
        ))
        .await;
        for _ in 0..4 {
            assert_eq!(tidegate.get("/").await.text(), "alive", "{dead}");
        }
        // Nothing of a body is sent before there is a connection, so a POST moves on as well.
        for _ in 0..2 {
            let mut client = tidegate.connect().await;
            client
                .send_head("POST / HTTP/1.1\nHost: a\nContent-Length: 4")
                .await;
            client.send("body").await;
            assert_eq!(client.read_response().await.text(), "alive", "{dead}");
        }
    }
}

#[tokio::test]
async fn a_handshake_moves_on_to_the_next_endpoint() {
    let (refusing, alive) = (Refusing::new(), Service::websocket_echo().await);
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\" }}",
        refusing.address, alive.address
    ))
    .await;
    for _ in 0..2 {
        tidegate.websocket("/").await.expect_echo("alive").await;
    }
}

#[tokio::test]
async fn a_failed_endpoint_is_left_alone_until_its_time_has_passed() {
    let (refusing, alive) = (Refusing::new(), Service::answering("alive").await);
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\", max_fails = 2, fail_timeout = \"1h\" }}, {{ address = \"{}\" }}",
        refusing.address, alive.address
    ))
    .await;
    assert_eq!(turns(&tidegate, 12).await, "alive".repeat(12));
    let metrics = tidegate.metrics().await;
    let failures = metrics.sum(
        "tidegate_endpoint_failures_total",
        &[("address", &refusing.address.to_string())],
    );
    assert_eq!(
        failures, 2.0,
        "it was tried until max_fails and not once more"
    );
}

#[tokio::test]
async fn an_endpoint_that_came_back_is_used_again() {
    let (refusing, alive) = (Refusing::new(), Service::answering("b").await);
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\", max_fails = 1, fail_timeout = \"1s\" }}, {{ address = \"{}\" }}",
        refusing.address, alive.address
    ))
    .await;
    assert_eq!(turns(&tidegate, 4).await, "bbbb");
    let back = refusing.serve("a");
    crate::harness::eventually("use of the endpoint that came back", async || {
        (tidegate.get("/").await.text() == "a").then_some(())
    })
    .await;
    assert!(
        turns(&tidegate, 4).await.contains('a'),
        "and it stays in use"
    );
    drop(back);
}

#[tokio::test]
async fn a_backup_serves_only_when_all_others_are_out() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let (primary, backup) = (Service::answering("p").await, Service::answering("b").await);
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\", backup = true }}",
        primary.address, backup.address
    ))
    .await;
    assert_eq!(turns(&tidegate, 4).await, "pppp");

    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\" }}, {{ address = \"{}\", backup = true }}",
        one.address, two.address, backup.address
    ))
    .await;
    assert_eq!(turns(&tidegate, 4).await, "bbbb");
}

#[tokio::test]
async fn a_group_with_nobody_left_is_a_502() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\" }}",
        one.address, two.address
    ))
    .await;
    for _ in 0..3 {
        assert_eq!(tidegate.get("/").await.status(), 502);
        assert_eq!(tidegate.exchange(&handshake("/")).await.status(), 502);
    }
}

#[tokio::test]
async fn the_only_endpoint_of_a_group_is_never_given_up() {
    let refusing = Refusing::new();
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\", max_fails = 1, fail_timeout = \"1h\" }}",
        refusing.address
    ))
    .await;
    for _ in 0..3 {
        assert_eq!(tidegate.get("/").await.status(), 502);
    }
    let _service = refusing.serve("alive");
    assert_eq!(tidegate.get("/").await.text(), "alive");
}

#[tokio::test]
async fn an_error_that_a_service_answers_is_passed_on_and_not_a_failure() {
    let angry = Service::start(|mut connection| async move {
        while connection.next_head().await.is_some() {
            connection
                .send_head("HTTP/1.1 500 Oops\nContent-Length: 0")
                .await;
        }
    })
    .await;
    let calm = Service::answering("calm").await;
    let tidegate = proxy_to(&format!(
        "{{ address = \"{}\" }}, {{ address = \"{}\" }}",
        angry.address, calm.address
    ))
    .await;
    let mut statuses: Vec<u16> = Vec::new();
    for _ in 0..6 {
        statuses.push(tidegate.get("/").await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 500, 500, 500]);
}

#[tokio::test]
async fn a_request_that_was_sent_goes_to_another_endpoint_only_if_it_may_be_repeated() {
    let dying = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection.reset();
    })
    .await;
    let alive = Service::answering("alive").await;
    let endpoints = format!(
        "{{ address = \"{}\", max_fails = 0 }}, {{ address = \"{}\" }}",
        dying.address, alive.address
    );
    let tidegate = proxy_to(&endpoints).await;
    for (request, expected) in [
        ("GET / HTTP/1.1\nHost: a", [200, 200]),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 0", [200, 502]),
    ] {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(tidegate.exchange(request).await.status());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, expected, "{request}");
    }
}
