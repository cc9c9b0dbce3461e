//! SIGHUP: another configuration for new sessions, under those that run.

use std::sync::Arc;

use crate::harness::{
    Authority, Connection, Folder, Service, Tidegate, eventually, one_listener, route_to, text,
    tls_handshake,
};

#[tokio::test]
async fn a_reload_of_another_route_leaves_an_open_tunnel_alone() {
    let service = Service::websocket_echo().await;
    let with = |status: u16| {
        one_listener(&format!(
            "{}[[sites.routes]]\nmatch = \"/other\"\nrespond = {{ status = {status} }}",
            route_to(&service)
        ))
    };
    let mut tidegate = Tidegate::start(&with(204)).await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("before").await;
    assert_eq!(tidegate.get("/other").await.status(), 204);

    assert_eq!(tidegate.reload_with(&with(205)).await, Ok(2));

    assert_eq!(tidegate.get("/other").await.status(), 205);
    client.expect_echo("after").await;
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn new_requests_are_served_as_the_new_file_says_even_on_an_old_connection() {
    let (old, new) = (
        Service::answering("old").await,
        Service::answering("new").await,
    );
    let mut tidegate = Tidegate::serving(&route_to(&old)).await;
    let mut client = tidegate.connect().await;
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "old"
    );
    tidegate
        .reload_with(&one_listener(&route_to(&new)))
        .await
        .unwrap();
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "new"
    );
    assert_eq!(tidegate.get("/").await.text(), "new");
}

#[tokio::test]
async fn a_session_keeps_the_route_it_began_with_and_gets_what_its_plugins_are_now() {
    let service = Service::websocket_echo().await;
    let redacting = |word: &str| {
        one_listener(&format!(
            r#"
            {}
            plugins = ["redact"]
            [plugins.redact]
            module = "builtin:redact"
            config = {{ words = ["{word}"] }}
            "#,
            route_to(&service)
        ))
    };
    let mut tidegate = Tidegate::start(&redacting("one")).await;
    let mut running = tidegate.websocket("/").await;
    tidegate.reload_with(&redacting("two")).await.unwrap();
    let mut fresh = tidegate.websocket("/").await;
    // Words added to a list must reach sessions that are open.
    for client in [&mut running, &mut fresh] {
        client.send_frame(text("one two")).await;
        assert_eq!(client.read_frame().await, text("one ***"));
    }
    // The route goes on for it when it is gone from the file, and with it its plugins.
    tidegate
        .reload_with(&one_listener(
            "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }",
        ))
        .await
        .unwrap();
    running.send_frame(text("one two")).await;
    assert_eq!(running.read_frame().await, text("one ***"));
    assert_eq!(tidegate.get("/").await.status(), 204);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_why() {
    let service = Service::websocket_echo().await;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let good = one_listener(&format!("{}\n{admin}", route_to(&service)));
    let mut tidegate = Tidegate::start(&good).await;
    let mut client = tidegate.websocket("/").await;
    let rows = [
        (good.replace("match", "matches"), "matches"),
        (
            good.replace("url = ", "plugins = [\"absent\"]\nurl = "),
            "absent",
        ),
        (
            format!("{good}\n[limits]\nmax_header = \"big\""),
            "max_header",
        ),
        ("= not toml".to_owned(), "tidegate.toml:1"),
    ];
    for (bad, says) in &rows {
        let error = tidegate.reload_with(bad).await.unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
        client.expect_echo("still here").await;
        tidegate
            .websocket("/")
            .await
            .expect_echo("and new ones too")
            .await;
    }
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_generation", &[]), 1.0);
    assert_eq!(
        metrics.sum("tidegate_reloads_total", &[("result", "failure")]),
        rows.len() as f64
    );
    // Once it is right again, it counts.
    assert_eq!(tidegate.reload_with(&good).await, Ok(2));
}

#[tokio::test]
async fn what_is_only_read_at_the_start_is_named_and_nothing_changes() {
    let respond = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";
    let before = one_listener(respond);
    let mut tidegate = Tidegate::start(&before).await;
    let changed = before.replace("204", "205");
    let rows = [
        ("workers", changed.replace("workers = 1", "workers = 2")),
        ("listeners", changed.replace("127.0.0.1:0", "127.0.0.2:0")),
        (
            "admin",
            format!("{changed}[admin]\nlisten = \"127.0.0.1:0\""),
        ),
    ];
    for (key, configuration) in rows {
        let error = tidegate.reload_with(&configuration).await.unwrap_err();
        assert!(
            error.contains(key) && error.contains("restart"),
            "{key}: {error}"
        );
        assert_eq!(tidegate.get("/").await.status(), 204, "{key}");
    }
}

#[tokio::test]
async fn a_reload_without_a_change_keeps_connections_to_services() {
    let service = Service::http_echo().await;
    let mut tidegate = Tidegate::serving(&route_to(&service)).await;
    tidegate.get("/").await.seen_by_service();
    for _ in 0..3 {
        tidegate.reload().await.unwrap();
        tidegate.get("/").await.seen_by_service();
    }
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn new_certificates_are_shown_to_new_clients_and_old_ones_stay_connected() {
    let service = Service::websocket_echo().await;
    let authority = Authority::new();
    let (old, new) = (
        authority.issue(&["www.example.com"]),
        authority.issue(&["www.example.com"]),
    );
    let folder = Folder::new();
    folder.write("cert.pem", &old.chain);
    folder.write("key.pem", &old.key);
    let mut tidegate = Tidegate::start_in(
        folder,
        &format!(
            r#"
            workers = 2
            [[listeners]]
            bind = "127.0.0.1:0"
            tls = true
            [[sites]]
            names = ["www.example.com"]
            certificate = {{ chain = "cert.pem", key = "key.pem" }}
            {}
            "#,
            route_to(&service)
        ),
    )
    .await;
    let address = tidegate.address(0);
    let mut client = authority.connect(address, "www.example.com").await;
    client.open_websocket("/").await;

    // A key that does not fit changes nothing.
    tidegate.folder.write("cert.pem", &new.chain);
    let error = tidegate.reload().await.unwrap_err();
    assert!(error.contains("key.pem"), "{error}");
    tidegate.folder.write("key.pem", &new.key);
    tidegate.reload().await.unwrap();

    client.expect_echo("still here").await;
    // On every worker; connections are shared out at random.
    for _ in 0..8 {
        let config = Arc::new(authority.client(rustls::ALL_VERSIONS));
        let stream = tls_handshake(&config, address, "www.example.com")
            .await
            .unwrap();
        assert_eq!(
            stream.get_ref().1.peer_certificates().unwrap()[0].as_ref(),
            new.der()
        );
    }
}

/// Promise 2 of the design.
#[tokio::test]
async fn reloads_lose_nothing_of_many_sessions_that_echo() {
    const SESSIONS: usize = 100;
    const MESSAGES: usize = 100;
    let service = Service::websocket_echo().await;
    let with = |number: usize| {
        one_listener(&format!(
            "{}[[sites.routes]]\nmatch = \"/n\"\nrespond = {{ status = 200, body = \"{number}\" }}",
            route_to(&service)
        ))
        .replace("workers = 1", "workers = 2")
    };
    let mut tidegate = Tidegate::start(&with(0)).await;
    let mut echoing = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        let address = tidegate.address(0);
        echoing.spawn(async move {
            let mut client = Connection::open(address).await;
            client.open_websocket("/").await;
            for message in 0..MESSAGES {
                client.expect_echo(&format!("{session}/{message}")).await;
            }
        });
    }
    for number in 1..=10 {
        tidegate.reload_with(&with(number)).await.unwrap();
        // Both workers have it by now, or will in a moment.
        eventually("the new generation", async || {
            (tidegate.get("/n").await.text() == number.to_string()).then_some(())
        })
        .await;
    }
    echoing.join_all().await;
}
