//! The access log: one line for each exchange or session, written at its end.

use std::sync::Arc;

use regex::Regex;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{Refusing, Service, Tidegate, eventually, handshake, route_to, text, within};

/// A proxy that logs to its standard output.
async fn logging(format: &str, routes: &str) -> Tidegate {
    let access_log = format!("[access_log]\npath = \"stdout\"\nformat = \"{format}\"");
    Tidegate::serving(&format!("{routes}\n{access_log}")).await
}

/// The next line, of a JSON log.
async fn record(tidegate: &mut Tidegate) -> Value {
    let line = tidegate.process.stdout.line().await;
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Fails the test unless a record has all these facts.
fn assert_facts(record: &Value, facts: Value) {
    for (name, value) in facts.as_object().unwrap() {
        assert_eq!(record.get(name), Some(value), "{name} in {record:#}");
    }
}

#[tokio::test]
async fn a_text_line_is_nginxs_combined_followed_by_facts() {
    let service = Service::answering("hello").await;
    let mut tidegate = logging("text", &route_to(&service)).await;
    tidegate
        .exchange(
            "GET /a%20b?c=d HTTP/1.1
            Host: Example.com:80
            Authorization: Basic YW5uOnB3
            Referer: http://example.com/\\x
            User-Agent: cafe/1 \"quoted\"",
        )
        .await;
    let line = tidegate.process.stdout.line().await;
    let expected = Regex::new(
        r#"^127\.0\.0\.1 - ann \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a%20b\?c=d HTTP/1\.1" 200 5 "http://example\.com/\\x5Cx" "cafe/1 \\x22quoted\\x22" .*kind=exchange"#,
    )
    .unwrap();
    assert!(expected.is_match(&line), "{line}");
    assert!(
        line.contains(&format!("endpoint={}", service.address)),
        "{line}"
    );
}

#[tokio::test]
async fn a_json_line_tells_all_of_an_exchange() {
    let service = Service::answering("hello").await;
    let mut tidegate = logging("json", &route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST /path?query HTTP/1.1\nHost: example.com\nContent-Length: 4")
        .await;
    client.send("body").await;
    assert_eq!(client.read_response().await.text(), "hello");
    let facts = json!({
        "remote_addr": "127.0.0.1",
        "remote_port": client.address().port(),
        "kind": "exchange",
        "method": "POST",
        "target": "/path?query",
        "version": "HTTP/1.1",
        "host": "example.com",
        "status": 200,
        "route": "/",
        "endpoint": service.address.to_string(),
        "attempts": 1,
        "bytes_from_client": 4,
        "bytes_to_client": 5,
    });
    assert_facts(&record(&mut tidegate).await, facts);
}

#[tokio::test]
async fn a_sessions_line_comes_at_its_end() {
    let service = Service::websocket_echo().await;
    let mut tidegate = logging("json", &route_to(&service)).await;
    let mut client = tidegate.websocket("/chat").await;
    for payload in ["one", "two"] {
        client.expect_echo(payload).await;
    }
    // The line of another exchange comes first, although that began later.
    let refused = handshake("/refused").replace("Version: 13", "Version: 8");
    assert_eq!(tidegate.exchange(&refused).await.status(), 426);
    let first = record(&mut tidegate).await;
    assert_facts(
        &first,
        json!({ "kind": "exchange", "target": "/refused", "status": 426 }),
    );

    let sent = text("one").encode(Some([0; 4])).len() + text("two").encode(Some([0; 4])).len();
    let received = text("one").encode(None).len() + text("two").encode(None).len();
    drop(client);
    let second = record(&mut tidegate).await;
    let facts = json!({
        "kind": "websocket",
        "target": "/chat",
        "status": 101,
        "bytes_from_client": sent,
        "bytes_to_client": received,
        "messages_from_client": 2,
        "messages_from_service": 2,
        "closed_by": "client",
    });
    assert_facts(&second, facts);
}

#[tokio::test]
async fn what_went_wrong_is_in_the_line() {
    let refusing = Refusing::new();
    let mut tidegate = logging(
        "json",
        &format!(
            "[[sites.routes]]\nmatch = \"/down\"\nurl = \"http://{}\"",
            refusing.address
        ),
    )
    .await;
    let rows = [
        (
            "GET /down HTTP/1.1\nHost: a",
            502,
            refusing.address.to_string(),
        ),
        ("GET /nowhere HTTP/1.1\nHost: a", 404, "/nowhere".to_owned()),
        (
            "GET /down HTTP/1.1\nHost: a\nHost: b",
            400,
            "Host".to_owned(),
        ),
    ];
    for (request, status, says) in rows {
        assert_eq!(tidegate.exchange(request).await.status(), status);
        let record = record(&mut tidegate).await;
        assert_facts(&record, json!({ "status": status }));
        let failure = record["failure"].as_str().unwrap_or_default();
        assert!(failure.contains(&says), "{status}: {record:#}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_has_a_line_too() {
    let service = Service::http_echo().await;
    let mut tidegate = logging(
        "json",
        &format!("{}[timeouts]\nheader_read = \"100ms\"", route_to(&service)),
    )
    .await;
    for (noise, status) in [("NOISE\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost", 408)] {
        let mut client = tidegate.connect().await;
        client.send(noise).await;
        assert_eq!(client.read_response().await.status(), status);
        assert_facts(&record(&mut tidegate).await, json!({ "status": status }));
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_logged_as_499() {
    let asked = Arc::new(Semaphore::new(0));
    let tell = asked.clone();
    let service = Service::start(move |mut connection| {
        let tell = tell.clone();
        async move {
            connection.read_head().await;
            tell.add_permits(1);
            connection.expect_end().await;
        }
    })
    .await;
    let mut tidegate = logging("json", &route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client.send_head("GET /impatient HTTP/1.1\nHost: a").await;
    within("request at the service", asked.acquire())
        .await
        .unwrap()
        .forget();
    client.reset();
    let facts = json!({ "target": "/impatient", "status": 499 });
    assert_facts(&record(&mut tidegate).await, facts);
    // And the service is not left with it.
    service.finished().await;
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_anew_on_sigusr1() {
    let service = Service::answering("hello").await;
    let routes = format!("{}[access_log]\npath = \"access.log\"", route_to(&service));
    let tidegate = Tidegate::serving(&routes).await;
    let logged = async |file: &str, target: &str| {
        eventually(target, async || {
            tidegate.folder.read(file).contains(target).then_some(())
        })
        .await;
    };
    tidegate.get("/first").await;
    logged("access.log", "/first").await;
    let path = |name: &str| tidegate.folder.path().join(name);
    std::fs::rename(path("access.log"), path("access.log.1")).unwrap();
    tidegate.process.signal(Signal::USR1);
    eventually("new file", async || {
        path("access.log").exists().then_some(())
    })
    .await;
    tidegate.get("/second").await;
    logged("access.log", "/second").await;
    assert!(!tidegate.folder.read("access.log.1").contains("/second"));
}
