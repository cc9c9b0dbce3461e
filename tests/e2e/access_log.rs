//! The access log: one line for each exchange or session, written at its end.

use std::sync::Arc;

use regex::Regex;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{
    Connection, Folder, Nginx, Refusing, Service, Tidegate, close, eventually, free_addresses,
    handshake, route_to, text, within,
};

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

/// Formats in which nothing depends on how long something took, and who writes them.
const FORMATS: &str = r#"
log_format main '$remote_addr - $remote_user [$time_local] "$request" '
                '$status $body_bytes_sent "$http_referer" '
                '"$http_user_agent" "$http_x_forwarded_for"';
log_format long '$http_host $server_name $scheme $server_protocol $request_method "$request_uri" '
                '$uri $args $upstream_addr $upstream_status $sent_http_x_id $upstream_http_x_id '
                '$request_length $sent_http_content_length $msec $time_iso8601';
log_format json escape=json '{"uri":"$request_uri","agent":"$http_user_agent","none":"$http_x_none"}';
log_format bare escape=none '$http_user_agent|$http_x_none|';
map $http_user_agent $wanted { default 1; ~^bot 0; "" ""; }
server {
    listen 80;
    server_name logs.example.com;
    access_log FOLDER/combined.log;
    access_log FOLDER/main.log main;
    access_log FOLDER/long.log long;
    access_log FOLDER/json.log json;
    access_log FOLDER/bare.log bare;
    access_log FOLDER/wanted.log combined if=$wanted;
    location / {
        proxy_pass http://SERVICE;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
    }
    location /own { access_log FOLDER/own.log; return 204; }
    location /unlogged { access_log off; return 204; }
}
"#;

const LOGS: [&str; 7] = ["combined", "main", "long", "json", "bare", "wanted", "own"];

/// A service that echoes WebSockets, and answers with 5 bytes and the status at the end of a path.
async fn logged_service() -> Service {
    Service::start(|mut connection| async move {
        while let Some(request) = connection.next_request().await {
            if request.field("sec-websocket-key").is_some() {
                connection.accept_websocket(&request).await;
                while let Some(frame) = connection.next_frame().await {
                    let is_close = frame.opcode == 8;
                    if connection.try_send(frame.encode(None)).await.is_err() || is_close {
                        return;
                    }
                }
                return;
            }
            let last = request.target().rsplit('/').next().unwrap_or_default();
            let status: u16 = last.parse().unwrap_or(200);
            let body = if request.method() == "HEAD" {
                ""
            } else {
                "hello"
            };
            let answer =
                format!("HTTP/1.1 {status} As Asked\r\nX-Id: 7\r\nContent-Length: 5\r\n\r\n{body}");
            if connection.try_send(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Sends one request and waits until `lines` lines of it are in the logs of the folder.
async fn logged(address: std::net::SocketAddr, folder: &Folder, request: &str, lines: usize) {
    let before = LOGS.map(|log| folder.read(&format!("{log}.log")).lines().count());
    let mut client = Connection::open(address).await;
    client.send_head(request).await;
    if request.contains("Upgrade") {
        assert_eq!(client.read_head().await.status(), 101);
        client.expect_echo("one message").await;
        client.send_frame(close(1000, "")).await;
        assert_eq!(client.read_frame().await, close(1000, ""));
        client.read_to_end().await;
    } else {
        client.read_head().await;
    }
    eventually("the lines of a request", async || {
        let now = LOGS.map(|log| folder.read(&format!("{log}.log")).lines().count());
        let new: usize = now
            .iter()
            .zip(before)
            .map(|(now, before)| now - before)
            .sum();
        assert!(new <= lines, "{new} lines of {request}");
        (new == lines).then_some(())
    })
    .await;
}

/// Times take the same place in all logs.
fn without_times(log: &str) -> String {
    let times = [
        r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}",
        r"\d{10}\.\d{3}",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d",
    ];
    times.iter().fold(log.to_owned(), |log, time| {
        Regex::new(time)
            .unwrap()
            .replace_all(&log, "TIME")
            .into_owned()
    })
}

#[tokio::test]
async fn lines_in_formats_of_nginx_are_those_of_nginx_byte_for_byte() {
    Nginx::require();
    let service = logged_service().await;
    let fragment = FORMATS.replace("SERVICE", &service.address.to_string());
    let fragment_in = |folder: &Folder| {
        let path = folder.path().display().to_string();
        fragment.replace("FOLDER", &path)
    };
    let at_nginx = Folder::new();
    let addresses: [_; 1] = free_addresses();
    let listen = format!("listen {};", addresses[0]);
    let whole = format!(
        "user root;\npid nginx.pid;\nerror_log stderr;\nevents {{ }}\nhttp {{\n{}\n}}\n",
        fragment_in(&at_nginx).replace("listen 80;", &listen)
    );
    let _nginx = Nginx::start(&at_nginx.write("nginx.conf", whole), &addresses).await;
    let folder = Folder::new();
    let fragment = fragment_in(&folder);
    let tidegate = Tidegate::imported_in(folder, &fragment).await;

    let websocket = handshake("/tunnel") + "\nUser-Agent: tunnel";
    let rows = [
        ("GET / HTTP/1.1\nHost: logs.example.com", 5),
        (
            "GET /a%20b//../c?d=e&f HTTP/1.1\nHost: logs.example.com\nUser-Agent: cafe/1 \"quoted\" \\ \u{e9}\u{1f980}\nReferer: http://a/?b=\"\nX-Forwarded-For: 192.0.2.1, 192.0.2.2",
            6,
        ),
        (
            "GET /404 HTTP/1.1\nHost: logs.example.com\nAuthorization: Basic YW5uOnB3\nUser-Agent: tab\there",
            6,
        ),
        (
            "GET /500 HTTP/1.0\nHost: logs.example.com\nUser-Agent: bot/1",
            5,
        ),
        ("HEAD /x HTTP/1.1\nHost: logs.example.com\nUser-Agent: a", 6),
        (
            "OPTIONS /x HTTP/1.1\nHost: other:81\nUser-Agent: a\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-For: 192.0.2.2",
            6,
        ),
        ("GET /own/x HTTP/1.1\nHost: logs.example.com", 1),
        ("GET /unlogged HTTP/1.1\nHost: logs.example.com", 0),
        (&websocket, 6),
    ];
    for (request, lines) in rows {
        logged(addresses[0], &at_nginx, request, lines).await;
        logged(tidegate.address(0), &tidegate.folder, request, lines).await;
    }
    for log in LOGS {
        let name = format!("{log}.log");
        let lines = |folder: &Folder| without_times(&folder.read(&name));
        assert_eq!(
            lines(&tidegate.folder),
            lines(&at_nginx),
            "{log}: left is Tidegate, right is nginx"
        );
    }
}

#[tokio::test]
async fn every_log_of_a_request_gets_its_line_and_each_is_opened_anew() {
    let service = Service::answering("hello").await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        access_log = [
          {{ path = "all.log", format = "path" }},
          {{ path = "named.log", format = "path", when = "$arg_name" }},
          {{ path = "zero.log", format = "path", when = "$arg_zero" }},
        ]
        [log_formats]
        path = "$request_uri"
        {}
        [[sites.routes]]
        match = "/own"
        url = "http://{address}"
        access_log = {{ path = "own.log", format = "path" }}
        [[sites.routes]]
        match = "/silent"
        url = "http://{address}"
        access_log = false
        "#,
        route_to(&service),
        address = service.address
    ))
    .await;
    let logs = ["all.log", "named.log", "zero.log", "own.log"];
    for target in ["/?name=a", "/?zero=0", "/silent", "/own", "/last"] {
        tidegate.get(target).await;
    }
    let has = async |file: &str, content: &str| {
        eventually(content, async || {
            (tidegate.folder.read(file) == content).then_some(())
        })
        .await;
    };
    has("all.log", "/?name=a\n/?zero=0\n/last\n").await;
    has("named.log", "/?name=a\n").await;
    has("own.log", "/own\n").await;
    assert_eq!(tidegate.folder.read("zero.log"), "");
    let path = |name: &str| tidegate.folder.path().join(name);
    for log in logs {
        std::fs::rename(path(log), path(&format!("{log}.1"))).unwrap();
    }
    tidegate.process.signal(Signal::USR1);
    for log in logs {
        eventually(log, async || path(log).exists().then_some(())).await;
    }
    for target in ["/?name=b", "/own?b"] {
        tidegate.get(target).await;
    }
    has("all.log", "/?name=b\n").await;
    has("named.log", "/?name=b\n").await;
    has("own.log", "/own?b\n").await;
    has("all.log.1", "/?name=a\n/?zero=0\n/last\n").await;
}
