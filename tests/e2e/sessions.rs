//! The sessions of a running proxy, as operators see and close them.

use serde_json::{Value, json};

use crate::harness::http2::Http2;
use crate::harness::{
    Connection, Folder, Service, Tidegate, close, eventually, guest, one_listener, route_to, text,
};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

async fn sessions(tidegate: &Tidegate, query: &str) -> Vec<Value> {
    let answer = tidegate.admin(&format!("/v1/sessions{query}")).await;
    assert_eq!(answer.status(), 200, "{query}: {}", answer.text());
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    answer["sessions"].as_array().unwrap().clone()
}

/// Sends an order. Returns the status and what was answered.
async fn order(tidegate: &Tidegate, target: &str) -> (u16, Value) {
    let mut connection = Connection::open(tidegate.admin_address()).await;
    let answer = connection
        .exchange(&format!(
            "POST {target} HTTP/1.1\nHost: localhost\nContent-Length: 0"
        ))
        .await;
    (
        answer.status(),
        serde_json::from_str(answer.text()).unwrap(),
    )
}

#[tokio::test]
async fn a_session_is_shown_with_all_that_is_known_of_it() {
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    folder.write("plugin.wasm", std::fs::read(guest("pass-through")).unwrap());
    let configuration = one_listener(&format!(
        r#"
        {}
        set_headers = {{ X-Request-Id = "$request_id" }}
        [[sites.routes]]
        match = "/watched"
        url = "http://{}"
        plugins = ["mine"]
        [plugins.mine]
        module = "plugin.wasm"
        {ADMIN}
        "#,
        route_to(&service),
        service.address
    ));
    let tidegate = Tidegate::start_in(folder, &configuration).await;
    let mut plain = tidegate.websocket("/").await;
    let mut watched = tidegate.websocket("/watched").await;
    for _ in 0..3 {
        plain.expect_echo("12345").await;
        watched.expect_echo("123").await;
    }
    let all = eventually("all messages", async || {
        let all = sessions(&tidegate, "").await;
        let whole = all
            .iter()
            .all(|session| session["messages"]["from_service"] == 3);
        (all.len() == 2 && whole).then_some(all)
    })
    .await;
    let one = &all[0];
    let expected = [
        ("id", json!("0-1")),
        ("kind", json!("websocket")),
        ("client", json!(plain.address().to_string())),
        ("site", json!("")),
        ("route", json!("/")),
        ("endpoint", json!(service.address.to_string())),
        ("plugins", json!([])),
        ("messages", json!({ "from_client": 3, "from_service": 3 })),
        (
            "bytes",
            json!({ "from_client": 3 * 11, "from_service": 3 * 7 }),
        ),
    ];
    for (name, value) in expected {
        assert_eq!(one[name], value, "{name}");
    }
    assert_eq!(one["request_id"].as_str().unwrap().len(), 32);
    assert!(one["age_ms"].as_u64() >= one["idle_ms"].as_u64(), "{one}");
    let other = &all[1];
    assert_eq!(
        (&other["id"], &other["route"]),
        (&json!("0-2"), &json!("/watched"))
    );
    assert_eq!(other["request_id"], Value::Null);
    assert_eq!(other["bytes"]["from_service"], 3 * 5);
    let plugin = other["plugins"][0].clone();
    assert_eq!(plugin["name"], "mine");

    // It says so when the session has moved to another version.
    let swapped = tidegate.remote(&["plugin", "swap", "mine", "plugin.wasm"]);
    assert!(swapped.status.success(), "{swapped:?}");
    eventually("the other version", async || {
        let now = sessions(&tidegate, "?plugin=mine").await;
        (now[0]["plugins"][0]["version"].as_u64() > plugin["version"].as_u64()).then_some(())
    })
    .await;

    let shown = tidegate.remote(&["sessions", "show", "0-1"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&plain.address().to_string()), "{shown}");
    let shown = tidegate.remote(&["sessions", "show", "0-1", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["client"], one["client"]);
    drop(plain);
    eventually("the end of the session", async || {
        (sessions(&tidegate, "").await.len() == 1).then_some(())
    })
    .await;
    let unknown = tidegate.remote(&["sessions", "show", "0-1"]);
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(error, "no session `0-1` is open\n");
}

#[tokio::test]
async fn a_list_has_pages_that_miss_nobody_and_repeat_nobody() {
    const SESSIONS: usize = 25;
    let service = Service::websocket_echo().await;
    let configuration = one_listener(&(route_to(&service) + ADMIN));
    let tidegate = Tidegate::start(&configuration.replace("workers = 1", "workers = 2")).await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(tidegate.websocket("/").await);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let answer = tidegate
            .admin(&format!("/v1/sessions?limit=7{after}"))
            .await;
        let page: Value = serde_json::from_str(answer.text()).unwrap();
        let ids = page["sessions"].as_array().unwrap().iter();
        seen.extend(ids.map(|session| session["client"].as_str().unwrap().to_owned()));
        // Somebody who goes between two pages is no reason to miss others.
        if seen.len() == 7 {
            let first = clients.remove(0);
            seen.retain(|client| *client != first.address().to_string());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let mut open: Vec<_> = clients
        .iter()
        .map(|client| client.address().to_string())
        .collect();
    open.sort();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, open);
    let listed = tidegate.remote(&["sessions", "list", "--limit", "7"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 1 + 7 + 1, "{listed}");
    assert!(listed.contains("there are more: --after "), "{listed}");
}

#[tokio::test]
async fn sessions_are_found_by_what_they_are() {
    let service = Service::websocket_echo().await;
    let configuration = one_listener(&format!(
        r#"
        {}
        [[sites.routes]]
        match = "/redacted"
        url = "http://{}"
        plugins = ["redact"]
        [[sites]]
        names = ["www.example.com"]
        [[sites.routes]]
        match = "~ ^/x"
        url = "http://{}"
        [plugins.redact]
        module = "builtin:redact"
        config = {{ words = ["secret"] }}
        {ADMIN}
        "#,
        route_to(&service),
        service.address,
        service.address
    ));
    let tidegate = Tidegate::start(&configuration).await;
    let _plain = tidegate.websocket("/").await;
    let mut redacted =
        Connection::open_from("127.0.0.7".parse().unwrap(), tidegate.address(0)).await;
    redacted.open_websocket("/redacted").await;
    let mut named = tidegate.connect().await;
    named
        .send_head("GET /x HTTP/1.1\nHost: www.example.com\nConnection: upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        .await;
    assert_eq!(named.read_head().await.status(), 101);
    let endpoint = service.address;
    let rows = [
        ("", "123"),
        ("?site=www.example.com", "3"),
        ("?site=", "12"),
        ("?route=/redacted", "2"),
        ("?route=~%20%5E/x", "3"),
        ("?plugin=redact", "2"),
        ("?client=127.0.0.7", "2"),
        ("?client=127.0.0.0/29", "123"),
        ("?client=10.0.0.0/8", ""),
        (&format!("?endpoint={endpoint}"), "123"),
        ("?endpoint=127.0.0.1:1", ""),
        ("?older_than=0s&idle_for=0s", "123"),
        ("?older_than=1h", ""),
        ("?idle_for=1h", ""),
        ("?plugin=redact&site=www.example.com", ""),
    ];
    for (query, expected) in rows {
        let found = sessions(&tidegate, query).await;
        let found: String = found
            .iter()
            .map(|session| session["id"].as_str().unwrap().trim_start_matches("0-"))
            .collect();
        assert_eq!(found, expected, "{query}");
    }
    let wrong = [
        ("client=here", "client: expected an address or a network"),
        ("older_than=5", "older_than: expected a duration"),
        ("limit=0", "limit: expected a whole number from 1 to 1000"),
        ("after=x", "after: expected the id of a session"),
        ("colour=red", "unknown parameter `colour`"),
    ];
    for (query, says) in wrong {
        let answer = tidegate.admin(&format!("/v1/sessions?{query}")).await;
        assert_eq!(answer.status(), 400, "{query}");
        assert!(answer.text().contains(says), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_session_is_closed_with_code_and_reason_and_others_go_on() {
    let service = Service::websocket_echo().await;
    let configuration = one_listener(&format!(
        r#"
        {}
        [[sites.routes]]
        match = "/redacted"
        url = "http://{}"
        plugins = ["redact"]
        [plugins.redact]
        module = "builtin:redact"
        config = {{ words = ["secret"] }}
        {ADMIN}
        "#,
        route_to(&service),
        service.address
    ));
    let tidegate = Tidegate::start(&configuration).await;
    for (number, target) in [(1, "/"), (3, "/redacted")] {
        let mut client = tidegate.websocket(target).await;
        let mut other = tidegate.websocket(target).await;
        client.expect_echo("before").await;
        let id = format!("0-{number}");
        let closed = tidegate.remote(&[
            "sessions",
            "close",
            &id,
            "--code",
            "4000",
            "--reason",
            "log in & again",
        ]);
        let printed = String::from_utf8(closed.stdout).unwrap();
        assert_eq!(printed, "1 session was closed\n", "{target}");
        assert_eq!(
            client.read_frame().await,
            close(4000, "log in & again"),
            "{target}"
        );
        client.send_frame(close(4000, "")).await;
        client.expect_end().await;
        other.expect_echo("not this one").await;
    }
    // In the midst of a frame it waits for its end, but not for ever.
    let mut client = tidegate.websocket("/").await;
    let frame = text("a frame in two parts").encode(Some([0; 4]));
    client.send(&frame[..9]).await;
    eventually("its beginning", async || {
        let all = sessions(&tidegate, "").await;
        let last = all.last().unwrap();
        (last["bytes"]["from_client"] == 9).then_some(())
    })
    .await;
    assert_eq!(
        order(&tidegate, "/v1/sessions/0-5/close").await,
        (200, json!({ "closed": 1 }))
    );
    client.send(&frame[9..]).await;
    let mut next = client.read_frame().await;
    if next == text("a frame in two parts") {
        next = client.read_frame().await;
    }
    assert_eq!(next, close(1001, ""));
}

#[tokio::test]
async fn several_sessions_are_closed_at_once_but_never_all_by_mistake() {
    let service = Service::websocket_echo().await;
    let other = "[[sites.routes]]\nmatch = \"/other\"\nurl = ";
    let routes = format!(
        "{}{other}\"http://{}\"\n",
        route_to(&service),
        service.address
    );
    let configuration = one_listener(&(routes + ADMIN)).replace("workers = 1", "workers = 2");
    let tidegate = Tidegate::start(&configuration).await;
    let mut here = Vec::new();
    let mut there = Vec::new();
    for _ in 0..6 {
        here.push(tidegate.websocket("/").await);
        there.push(tidegate.websocket("/other").await);
    }
    let (status, answer) = order(&tidegate, "/v1/sessions/close?code=4001").await;
    assert_eq!(status, 400);
    assert!(
        answer["error"].as_str().unwrap().contains("say which"),
        "{answer}"
    );
    let (status, answer) = order(&tidegate, "/v1/sessions/close?all=true&code=1006").await;
    assert_eq!(status, 400);
    assert!(
        answer["error"].as_str().unwrap().contains("code: expected"),
        "{answer}"
    );
    let long = "x".repeat(124);
    let target = format!("/v1/sessions/close?all=true&reason={long}");
    assert_eq!(order(&tidegate, &target).await.0, 400);

    let closed = tidegate.remote(&["sessions", "close", "--route", "/other", "--code", "4001"]);
    assert_eq!(
        String::from_utf8(closed.stdout).unwrap(),
        "6 sessions were closed\n"
    );
    for client in &mut there {
        assert_eq!(client.read_frame().await, close(4001, ""));
    }
    for client in &mut here {
        client.expect_echo("untouched").await;
    }
    assert_eq!(order(&tidegate, "/v1/sessions/close?all=true").await.0, 200,);
    for client in &mut here {
        assert_eq!(client.read_frame().await, close(1001, ""));
    }
    for target in [
        "/v1/sessions/0-99/close",
        "/v1/sessions/9-1/close",
        "/v1/sessions/x/close",
    ] {
        assert_eq!(order(&tidegate, target).await.0, 404, "{target}");
    }
}

#[tokio::test]
async fn a_tunnel_of_another_protocol_is_cut() {
    let service = Service::start(|mut connection: Connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: other")
            .await;
        connection.send("hello").await;
        connection.read_to_end().await;
    })
    .await;
    let routes = route_to(&service) + "upgrade = [\"other\"]\n" + ADMIN;
    let tidegate = Tidegate::serving(&routes).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: other")
        .await;
    client.read_head().await;
    client.read_through("hello").await;
    let all = sessions(&tidegate, "").await;
    assert_eq!(all[0]["kind"], "tunnel");
    assert_eq!(order(&tidegate, "/v1/sessions/0-1/close").await.0, 200);
    client.expect_end().await;
    service.finished().await;
}

#[tokio::test]
async fn a_session_over_http2_is_closed_and_its_connection_is_not() {
    let service = Service::websocket_echo().await;
    let configuration = one_listener(&(route_to(&service) + ADMIN));
    let configuration = configuration.replace(
        "bind = \"127.0.0.1:0\"",
        "http2 = true\nbind = \"127.0.0.1:0\"",
    );
    let tidegate = Tidegate::start(&configuration).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let mut one = client.websocket("/").await;
    let mut other = client.websocket("/").await;
    one.expect_echo("before").await;
    let all = sessions(&tidegate, "").await;
    assert_eq!(all[0]["client"], all[1]["client"]);
    assert_eq!(
        order(&tidegate, "/v1/sessions/0-1/close?code=4002").await.0,
        200
    );
    assert_eq!(one.read_frame().await, close(4002, ""));
    other.expect_echo("here").await;
}
