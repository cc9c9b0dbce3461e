//! When a request is tried at another endpoint, and what becomes of it if that may not be or is of no
//! use: nginx's `proxy_next_upstream` and its idempotence rule.

use std::net::SocketAddr;

use crate::harness::{
    Connection, Head, Refusing, Service, Tidegate, Unreachable, accepting, handshake,
};

/// A proxy to an endpoint that is always tried first, and one that takes over.
async fn proxy(first: SocketAddr, second: SocketAddr, keys: &str) -> Tidegate {
    Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "group"
        timeouts = {{ connect = "300ms", read = "300ms" }}
        {keys}
        [upstreams.group]
        endpoints = [
          {{ address = "{first}", max_fails = 0 }},
          {{ address = "{second}", backup = true }},
        ]
        [admin]
        listen = "127.0.0.1:0"
        "#
    ))
    .await
}

/// A service that does this with each connection, once a request has come.
async fn once_asked<F>(
    script: impl Fn(Connection, Head) -> F + Send + Sync + Clone + 'static,
) -> Service
where
    F: Future<Output = ()> + Send + 'static,
{
    Service::start(move |mut connection| {
        let script = script.clone();
        async move {
            if let Some(head) = connection.next_request().await {
                script(connection, head).await;
            }
        }
    })
    .await
}

/// Breaks each connection off once a request has come.
async fn dying() -> Service {
    once_asked(|connection, _| async move { connection.reset() }).await
}

/// Answers nothing.
async fn silent() -> Service {
    once_asked(|mut connection, _| async move {
        connection.next_head().await;
    })
    .await
}

/// Answers what is no HTTP.
async fn noise() -> Service {
    once_asked(|mut connection, _| async move {
        connection.send("220 mail.example.com ESMTP\r\n\r\n").await;
        connection.next_head().await;
    })
    .await
}

async fn answering_with(status: &'static str) -> Service {
    once_asked(move |mut connection, _| async move {
        let head = format!("HTTP/1.1 {status}\nContent-Length: 0\nConnection: close");
        connection.send_head(&head).await;
    })
    .await
}

const GET: &str = "GET / HTTP/1.1\nHost: a";

#[tokio::test]
async fn each_condition_moves_a_request_on_and_no_other_does() {
    let alive = Service::answering("alive").await;
    let (refusing, unreachable) = (Refusing::new(), Unreachable::new());
    let (dying, silent, noise) = (dying().await, silent().await, noise().await);
    let busy = answering_with("503 Busy").await;
    let missing = answering_with("404 Missing").await;
    let rows = [
        ("refuses", refusing.address, "\"error\"", 502),
        ("breaks off", dying.address, "\"error\"", 502),
        ("is not reached", unreachable.address, "\"timeout\"", 504),
        ("is silent", silent.address, "\"timeout\"", 504),
        ("is noise", noise.address, "\"invalid-response\"", 502),
        ("is busy", busy.address, "503", 503),
        ("has nothing", missing.address, "404", 404),
    ];
    let all = [
        "\"error\"",
        "\"timeout\"",
        "\"invalid-response\"",
        "503",
        "404",
    ];
    for (what, address, condition, status) in rows {
        let on = format!("retry = {{ on = [{condition}] }}");
        let tidegate = proxy(address, alive.address, &on).await;
        assert_eq!(tidegate.get("/").await.text(), "alive", "{what}");
        let others: Vec<_> = all
            .into_iter()
            .filter(|other| *other != condition)
            .collect();
        let on = format!("retry = {{ on = [{}] }}", others.join(", "));
        let tidegate = proxy(address, alive.address, &on).await;
        assert_eq!(tidegate.get("/").await.status(), status, "{what}");
    }
    // The default is nginx's: errors and timeouts.
    for (what, address, condition, status) in rows {
        let tidegate = proxy(address, alive.address, "").await;
        let response = tidegate.get("/").await;
        match condition {
            "\"error\"" | "\"timeout\"" => assert_eq!(response.text(), "alive", "{what}"),
            _ => assert_eq!(response.status(), status, "{what}"),
        }
    }
}

#[tokio::test]
async fn what_may_do_something_twice_is_not_sent_twice() {
    let alive = Service::answering("alive").await;
    let (refusing, dying) = (Refusing::new(), dying().await);
    let busy = answering_with("503 Busy").await;
    const ON: &str = "retry.on = [\"error\", 503]";
    let moved = async |first: SocketAddr, keys: &str, request: &str, body: &str| {
        let tidegate = proxy(first, alive.address, keys).await;
        let mut client = tidegate.connect().await;
        client.send_head(request).await;
        client.send(body).await;
        let response = client.read_response().await;
        assert!([200, 502, 503].contains(&response.status()), "{response:?}");
        response.status() == 200
    };
    let also = format!("{ON}\nretry.non_idempotent = true");
    for method in ["GET", "PUT", "DELETE", "POST", "LOCK", "PATCH"] {
        let request = format!("{method} / HTTP/1.1\nHost: a\nContent-Length: 0");
        let is_idempotent = !matches!(method, "POST" | "LOCK" | "PATCH");
        for first in [dying.address, busy.address] {
            assert_eq!(
                moved(first, ON, &request, "").await,
                is_idempotent,
                "{method}"
            );
            assert!(moved(first, &also, &request, "").await, "{method}");
        }
        // Nothing of it was sent.
        assert!(moved(refusing.address, ON, &request, "").await, "{method}");
    }
    // A body is not kept, so what has one is sent on as long as nothing of it was.
    let request = "PUT / HTTP/1.1\nHost: a\nContent-Length: 4";
    assert!(!moved(dying.address, &also, request, "body").await);
    assert!(!moved(busy.address, &also, request, "body").await);
    assert!(moved(refusing.address, &also, request, "body").await);
}

#[tokio::test]
async fn tries_and_their_time_have_limits() {
    let alive = Service::answering("alive").await;
    let (refusing, silent) = (Refusing::new(), silent().await);
    for (first, keys, status) in [
        (refusing.address, "retry.tries = 1", 502),
        (refusing.address, "retry.tries = 2", 200),
        // The first try takes 300 ms.
        (silent.address, "retry.timeout = \"100ms\"", 504),
        (silent.address, "retry.timeout = \"1h\"", 200),
        (refusing.address, "retry.on = []", 502),
    ] {
        let tidegate = proxy(first, alive.address, keys).await;
        assert_eq!(tidegate.get("/").await.status(), status, "{keys}");
    }
}

#[tokio::test]
async fn the_last_failure_is_the_one_that_is_told() {
    let (refusing, silent) = (Refusing::new(), silent().await);
    let busy = answering_with("503 Busy").await;
    for (first, second, status) in [
        (refusing.address, silent.address, 504),
        (silent.address, refusing.address, 502),
        (refusing.address, busy.address, 503),
        (busy.address, refusing.address, 502),
    ] {
        let keys = "retry.on = [\"error\", \"timeout\", 503]";
        let tidegate = proxy(first, second, keys).await;
        assert_eq!(tidegate.get("/").await.status(), status);
    }
}

/// Failures of an endpoint, by the metrics.
async fn failures(tidegate: &Tidegate, address: SocketAddr) -> f64 {
    let address = address.to_string();
    let metrics = tidegate.metrics().await;
    let found = metrics.find("tidegate_endpoint_failures_total", &[("address", &address)]);
    found.unwrap_or_default()
}

#[tokio::test]
async fn a_status_that_is_disliked_is_a_failure_but_what_is_forbidden_or_missing_is_none() {
    let alive = Service::answering("alive").await;
    let keys = "retry.on = [403, 404, 500]";
    for (status, counted) in [("500 Oops", 1.0), ("403 No", 0.0), ("404 Missing", 0.0)] {
        let angry = answering_with(status).await;
        let tidegate = proxy(angry.address, alive.address, keys).await;
        assert_eq!(tidegate.exchange(GET).await.text(), "alive", "{status}");
        assert_eq!(
            failures(&tidegate, angry.address).await,
            counted,
            "{status}"
        );
    }
    let angry = answering_with("500 Oops").await;
    let tidegate = proxy(angry.address, alive.address, "").await;
    assert_eq!(tidegate.exchange(GET).await.status(), 500);
    assert_eq!(failures(&tidegate, angry.address).await, 0.0);
}

/// Accepts each handshake as it would another one.
async fn accepting_another() -> Service {
    once_asked(|mut connection, request| async move {
        let answer = accepting(&request)
            .replacing("sec-websocket-accept", Some("ZEs+c+VBk8Aj01+wJGN7Y15796g="));
        connection.send(answer.to_wire()).await;
        connection.next_head().await;
    })
    .await
}

/// Switches to another protocol, whatever it is asked.
async fn switching() -> Service {
    once_asked(|mut connection, _| async move {
        connection
            .send_head("HTTP/1.1 101 Switching Protocols\nUpgrade: other\nConnection: Upgrade")
            .await;
        connection.next_head().await;
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_answers_a_handshake_wrongly_has_failed_and_another_one_is_asked() {
    let echo = Service::websocket_echo().await;
    for wrong in [
        accepting_another().await,
        switching().await,
        dying().await,
        silent().await,
        noise().await,
    ] {
        let keys = "retry.on = [\"error\", \"timeout\", \"invalid-response\"]";
        let tidegate = proxy(wrong.address, echo.address, keys).await;
        tidegate.websocket("/").await.expect_echo("hello").await;
        assert_eq!(failures(&tidegate, wrong.address).await, 1.0);
        // The one that was given up is not kept waiting.
        wrong.finished().await;
    }
    let wrong = accepting_another().await;
    for (on, status) in [
        ("\"error\"", 101),
        ("\"invalid-response\"", 101),
        ("\"timeout\"", 502),
    ] {
        let tidegate = proxy(wrong.address, echo.address, &format!("retry.on = [{on}]")).await;
        let mut client = tidegate.connect().await;
        client.send_head(&handshake("/")).await;
        assert_eq!(client.read_head().await.status(), status, "{on}");
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_failure_too() {
    let (alive, switching) = (Service::answering("alive").await, switching().await);
    let tidegate = proxy(switching.address, alive.address, "").await;
    assert_eq!(tidegate.get("/").await.text(), "alive");
    assert_eq!(failures(&tidegate, switching.address).await, 1.0);
    // It may have done what it was asked to.
    let post = "POST / HTTP/1.1\nHost: a\nContent-Length: 0";
    assert_eq!(tidegate.exchange(post).await.status(), 502);
}
