//! HTTP/2 in front of services that speak HTTP/1.1: who gets it, and that requests and responses are
//! what they would be without it.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::http2::{Http2, asking, read_to_end};
use crate::harness::{
    Authority, Connection, Folder, Process, Service, Tidegate, eventually, node, one_listener,
    route_to, tls_handshake, within,
};

/// A proxy whose plain listener lets clients speak HTTP/2 that know of it.
async fn serving(rest: &str) -> Tidegate {
    let configuration = one_listener(rest).replace("bind =", "http2 = true\nbind =");
    Tidegate::start(&configuration).await
}

/// A proxy with a TLS listener, and who to trust. `listener` has further keys of it.
async fn serving_tls(listener: &str, rest: &str) -> (Tidegate, Authority) {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost", "example.com"]);
    let folder = Folder::new();
    folder.write("cert.pem", &certificate.chain);
    folder.write("key.pem", &certificate.key);
    let site = "certificate = { chain = \"cert.pem\", key = \"key.pem\" }\n";
    let configuration = one_listener(&(site.to_owned() + rest));
    let bind = format!("tls = true\n{listener}\nbind =");
    let tidegate = Tidegate::start_in(folder, &configuration.replace("bind =", &bind)).await;
    (tidegate, authority)
}

#[tokio::test]
async fn a_client_of_tls_has_http2_if_it_offers_it() {
    let service = Service::http_echo().await;
    let (tidegate, authority) = serving_tls("", &route_to(&service)).await;
    let mut client = Http2::secured(&authority, tidegate.address(0), "localhost").await;
    client.get("/").await.seen_by_service();

    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let agreed = agreed(&tidegate, &authority, offered).await;
        assert_eq!(agreed.as_deref(), chosen, "{offered:?}");
    }
    let mut client = authority.connect(tidegate.address(0), "localhost").await;
    client
        .exchange("GET / HTTP/1.1\nHost: a")
        .await
        .seen_by_service();
}

#[tokio::test]
async fn a_listener_can_do_without_http2() {
    let service = Service::http_echo().await;
    let (tidegate, authority) = serving_tls("http2 = false", &route_to(&service)).await;
    let chosen = agreed(&tidegate, &authority, &["h2", "http/1.1"]).await;
    assert_eq!(chosen.as_deref(), Some("http/1.1"));

    // Without TLS that is the default: what begins so is no request of HTTP/1.1.
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client.send(crate::harness::http2::PREFACE).await;
    client.expect_end().await;
}

/// The protocol that a TLS handshake agrees on.
async fn agreed(tidegate: &Tidegate, authority: &Authority, offered: &[&str]) -> Option<String> {
    let mut config = authority.client(rustls::ALL_VERSIONS);
    config.alpn_protocols = offered
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let stream = tls_handshake(&Arc::new(config), tidegate.address(0), "localhost").await;
    let stream = stream.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol()?;
    Some(String::from_utf8(chosen.to_vec()).unwrap())
}

#[tokio::test]
async fn a_plain_listener_tells_http2_from_http1_by_its_first_bytes() {
    let service = Service::http_echo().await;
    let tidegate = serving(&route_to(&service)).await;
    Http2::open(tidegate.address(0))
        .await
        .get("/")
        .await
        .seen_by_service();
    tidegate.get("/").await.seen_by_service();

    // However they arrive.
    let mut client = tidegate.connect().await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        client.send([*byte]).await;
    }
    assert_eq!(
        client.read_raw().await.kind,
        crate::harness::http2::kind::SETTINGS
    );
    // PUT begins as a preface does.
    let mut client = tidegate.connect().await;
    client.send("P").await;
    client
        .send("UT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.read_response().await.seen_by_service();
}

#[tokio::test]
async fn the_service_sees_the_request_of_an_http1_client() {
    let service = Service::http_echo().await;
    let routes = route_to(&service)
        + r#"
        [sites.routes.set_headers]
        Host = "$host:$server_port"
        X-Host = "$http_host"
        X-Forwarded-For = "$proxy_add_x_forwarded_for"
        X-Cookie = "$cookie_c"
        "#;
    let tidegate = serving(&routes).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let request = asking(Method::GET, "/a%2Fb?c=d")
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .header("te", "trailers")
        .header("x-forwarded-for", "192.0.2.1");
    let seen = client
        .exchange(request.body(()).unwrap())
        .await
        .seen_by_service();
    assert_eq!(seen.start, "GET /a%2Fb?c=d HTTP/1.1");
    let port = tidegate.address(0).port();
    for (name, value) in [
        ("host", &*format!("example.com:{port}")),
        ("x-host", "example.com"),
        ("cookie", "a=1; b=2; c=3"),
        ("x-cookie", "3"),
        ("te", "trailers"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
    ] {
        assert_eq!(seen.fields(name), [value], "{name}");
    }
}

#[tokio::test]
async fn nothing_of_the_services_connection_reaches_the_client() {
    let service = Service::start(|mut connection| async move {
        while connection.next_request().await.is_some() {
            connection
                .send_head(
                    "HTTP/1.1 200 OK
                    Connection: keep-alive, X-Hop
                    Keep-Alive: timeout=5
                    Proxy-Connection: keep-alive
                    X-Hop: a
                    X-Stays: b
                    Transfer-Encoding: chunked",
                )
                .await;
            connection.send("3\r\nabc\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let response = Http2::open(tidegate.address(0)).await.get("/").await;
    assert_eq!(response.text(), "abc");
    let mut names: Vec<_> = response
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    // The proxy's own Date, since the service has none, and its own Server, whatever the service has.
    assert_eq!(names, ["date", "server", "x-stays"]);
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        let (body, trailers) = connection.read_body(&head).await;
        assert_eq!(body, b"body");
        assert_eq!(trailers, [("x-checksum".to_owned(), "request".to_owned())]);
        connection
            .send_head("HTTP/1.1 200 OK\nTrailer: X-Checksum\nTransfer-Encoding: chunked")
            .await;
        connection.send_chunk("answer").await;
        connection.send("0\r\nX-Checksum: response\r\n\r\n").await;
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let request = asking(Method::POST, "/").header("trailer", "x-checksum");
    let (exchange, mut send) = client.send(request.body(()).unwrap(), false).await;
    send.send_data(Bytes::from_static(b"body"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("request"));
    send.send_trailers(trailers).unwrap();
    let response = exchange.response().await;
    assert_eq!(response.text(), "answer");
    assert_eq!(
        response.trailers,
        [("x-checksum".to_owned(), "response".to_owned())]
    );
    service.finished().await;
}

#[tokio::test]
async fn a_response_without_a_body_says_what_it_would_in_http1() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_request().await {
            let answer = match (head.method(), head.target()) {
                ("HEAD", _) => "200 OK\nContent-Length: 5",
                (_, "/empty") => "200 OK\nContent-Length: 0",
                (_, "/204") => "204 No Content",
                _ => "304 Not Modified\nContent-Length: 5",
            };
            connection.send_head(&format!("HTTP/1.1 {answer}")).await;
        }
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    for (method, target, status, length) in [
        (Method::HEAD, "/", 200, Some("5")),
        (Method::GET, "/empty", 200, Some("0")),
        (Method::GET, "/204", 204, None),
        (Method::GET, "/304", 304, Some("5")),
    ] {
        let response = client
            .exchange(asking(method, target).body(()).unwrap())
            .await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.field("content-length"), length, "{target}");
        assert_eq!(response.body, b"", "{target}");
    }
    // All over one connection, which went back to the pool each time.
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn what_is_refused_is_answered_and_the_connection_goes_on() {
    let service = Service::http_echo().await;
    let limits = "max_body = \"1KiB\"\n[limits]\nmax_header = \"8KiB\"\nmax_uri = \"1KiB\"";
    let tidegate = serving(&(route_to(&service).replace("\"/\"", "\"/in\"") + limits)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let long = "x".repeat(8192);
    let rows = [
        ("no route", asking(Method::GET, "/out"), 404),
        (
            "two hosts",
            asking(Method::GET, "/in").header("host", "example.org"),
            400,
        ),
        (
            "one host twice",
            asking(Method::GET, "/in").header("host", "Example.com"),
            200,
        ),
        (
            "a long field",
            asking(Method::GET, "/in").header("x", &long),
            431,
        ),
        (
            "a long target",
            asking(Method::GET, &format!("/in?{}", &long[..1024])),
            414,
        ),
        (
            "a long body",
            asking(Method::POST, "/in").header("content-length", 1025),
            413,
        ),
        (
            "nothing to proxy",
            asking(Method::CONNECT, "").uri("example.com:443"),
            400,
        ),
        ("a usual one", asking(Method::GET, "/in"), 200),
    ];
    for (what, request, status) in rows {
        let request = request.body(()).unwrap();
        let is_all = request.method() == Method::GET;
        let (exchange, _send) = client.send(request, is_all).await;
        assert_eq!(exchange.response().await.status(), status, "{what}");
    }
    // The same without a length that says so beforehand.
    let request = asking(Method::POST, "/in").body(()).unwrap();
    let (exchange, mut send) = client.send(request, false).await;
    send.send_data(Bytes::from(vec![b'x'; 1025]), false)
        .unwrap();
    assert_eq!(exchange.response().await.status(), 413);
    client.get("/in").await.seen_by_service();
}

#[tokio::test]
async fn a_request_that_names_nobody_is_a_400() {
    use crate::harness::http2::{END_HEADERS, END_STREAM, PREFACE, RawFrame, kind, literals};
    let service = Service::http_echo().await;
    let access_log = "[access_log]\npath = \"stdout\"\nformat = \"json\"";
    let mut tidegate = serving(&format!("{}\n{access_log}", route_to(&service))).await;
    let mut client = tidegate.connect().await;
    client.send(PREFACE).await;
    let fields = literals(&[(":method", "GET"), (":scheme", "http"), (":path", "/a")]);
    let headers = RawFrame::new(kind::HEADERS, END_STREAM | END_HEADERS, 1, fields);
    client.send(headers.to_wire()).await;
    client.read_raw_of(kind::HEADERS).await;
    let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
    assert_eq!(record["status"], 400);
    assert_eq!(record["target"], "/a");
}

#[tokio::test]
async fn a_client_that_expects_100_has_it_once_somebody_wants_the_body() {
    let service = Service::http_echo().await;
    let tidegate = serving(&(route_to(&service) + "max_body = \"1KiB\"")).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let expecting = |length: u64| {
        let request = asking(Method::POST, "/").header("expect", "100-continue");
        request.header("content-length", length).body(()).unwrap()
    };
    let (mut exchange, mut send) = client.send(expecting(4), false).await;
    exchange.go_ahead().await;
    send.send_data(Bytes::from_static(b"body"), true).unwrap();
    let seen = exchange.response().await.seen_by_service();
    assert_eq!(seen.field("content-length"), Some("4"));
    assert_eq!(seen.field("expect"), None);

    let (exchange, _send) = client.send(expecting(5000), false).await;
    assert_eq!(exchange.response().await.status(), 413);
}

#[tokio::test]
async fn requests_of_one_connection_do_not_wait_for_each_other() {
    // Answers the last request first.
    let (sender, receiver) = tokio::sync::watch::channel(3);
    let (sender, receiver) = (Arc::new(sender), receiver);
    let service = Service::start(move |mut connection| {
        let (sender, mut turn) = (sender.clone(), receiver.clone());
        async move {
            let head = connection.read_head().await;
            let mine: i32 = head.target()[1..].parse().unwrap();
            within("my turn", turn.wait_for(|turn| *turn == mine))
                .await
                .unwrap();
            connection
                .send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{mine}"
                ))
                .await;
            sender.send_replace(mine - 1);
        }
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let mut exchanges = Vec::new();
    for target in ["/1", "/2", "/3"] {
        let request = asking(Method::GET, target).body(()).unwrap();
        exchanges.push(client.send(request, true).await.0);
    }
    for (exchange, text) in exchanges.into_iter().zip(["1", "2", "3"]) {
        assert_eq!(exchange.response().await.text(), text);
    }
}

#[tokio::test]
async fn long_bodies_pass_in_both_directions_at_once() {
    const LENGTH: usize = 3_000_000;
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
            .await;
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        while let Some(chunk) = connection.read_chunk().await {
            connection
                .send_chunk(std::str::from_utf8(&chunk).unwrap())
                .await;
        }
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let tidegate = serving(&(route_to(&service) + "max_body = \"4MiB\"")).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let (exchange, mut send) = client
        .send(asking(Method::POST, "/").body(()).unwrap(), false)
        .await;
    let body: Vec<u8> = (b'a'..=b'z').cycle().take(LENGTH).collect();
    let sent = Bytes::from(body.clone());
    // h2 sends as fast as the windows allow.
    send.send_data(sent, true).unwrap();
    assert!(exchange.response().await.body == body);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_exchange_and_no_other() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        if head.target() == "/hanging" {
            connection.expect_end().await;
        } else {
            connection
                .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
                .await;
            connection.send_chunk("begun").await;
            connection.expect_end().await;
        }
    })
    .await;
    let access_log = "[access_log]\npath = \"stdout\"\nformat = \"json\"";
    let mut tidegate = serving(&format!("{}\n{access_log}", route_to(&service))).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    for (target, status) in [("/hanging", 499), ("/begun", 200)] {
        let (exchange, mut send) = client
            .send(asking(Method::GET, target).body(()).unwrap(), true)
            .await;
        if status == 200 {
            let (_, mut receive) = exchange.head().await.unwrap();
            assert_eq!(
                within("data", receive.data()).await.unwrap().unwrap(),
                "begun"
            );
        } else {
            eventually("request", async || {
                (service.connections() == 1).then_some(())
            })
            .await;
        }
        send.send_reset(Reason::CANCEL);
        service.finished().await;
        let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
        assert_eq!(
            (&record["status"], &record["target"]),
            (&json!(status), &json!(target))
        );
        assert_eq!(record["version"], "HTTP/2.0");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_resets_its_stream() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
            .await;
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let (exchange, _) = client
        .send(asking(Method::GET, "/").body(()).unwrap(), true)
        .await;
    let error = exchange.try_response().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    // A service that is gone before its head has an answer, as ever.
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
    })
    .await;
    let tidegate = serving(&route_to(&service)).await;
    let response = Http2::open(tidegate.address(0)).await.get("/").await;
    assert_eq!(
        (response.status(), response.text()),
        (502, "502 Bad Gateway\n")
    );
    assert_eq!(response.field("content-length"), Some("16"));
}

#[tokio::test]
async fn plugins_see_requests_as_ever() {
    let service = Service::http_echo().await;
    let routes = route_to(&service)
        + r#"
        plugins = ["headers"]
        [plugins.headers]
        module = "builtin:headers"
        [plugins.headers.config]
        request = { set = { X-Tier = "gold" }, remove = ["Cookie"] }
        response = { set = { X-Proxied = "yes" } }
        "#;
    let tidegate = serving(&routes).await;
    let request = asking(Method::GET, "/").header("cookie", "a=b");
    let mut client = Http2::open(tidegate.address(0)).await;
    let response = client.exchange(request.body(()).unwrap()).await;
    assert_eq!(response.field("x-proxied"), Some("yes"));
    let seen = response.seen_by_service();
    assert_eq!(seen.field("x-tier"), Some("gold"));
    assert_eq!(seen.field("cookie"), None);
    client.get("/").await.seen_by_service();
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_then_the_process_ends() {
    let service = Service::start(|mut connection: Connection| async move {
        let head = connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
            .await;
        connection.send_chunk("before").await;
        let (body, _) = connection.read_body(&head).await;
        connection
            .send_chunk(std::str::from_utf8(&body).unwrap())
            .await;
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let mut tidegate = serving(&route_to(&service)).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let idle = Http2::open(tidegate.address(0)).await;
    let (exchange, mut send) = client
        .send(asking(Method::POST, "/").body(()).unwrap(), false)
        .await;
    let (_, mut receive) = exchange.head().await.unwrap();
    assert_eq!(
        within("data", receive.data()).await.unwrap().unwrap(),
        "before"
    );

    tidegate.process.signal(Signal::TERM);
    // It is told to go (GOAWAY), which is also the sign that draining has begun.
    assert!(idle.ended().await.is_ok());
    send.send_data(Bytes::from_static(b"after"), true).unwrap();
    assert_eq!(read_to_end(&mut receive).await.unwrap(), b"after");
    assert!(client.ended().await.is_ok());
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

/// Asks for a page and sends a body, over one connection.
const NODE_CLIENT: &str = r#"
    const http2 = require("http2");
    const [url, ca] = process.argv.slice(1);
    const session = http2.connect(url, { ca });
    const ask = (headers, body) => new Promise((resolve, reject) => {
        const stream = session.request(headers);
        let status, text = "", trailers;
        stream.on("response", (headers) => (status = headers[":status"]));
        stream.on("data", (data) => (text += data));
        stream.on("end", () => resolve(`${status} ${text.length}`));
        stream.on("error", reject);
        stream.end(body);
    });
    (async () => {
        const all = [];
        for (let n = 0; n < 20; n++) all.push(ask({ ":path": `/${n}` }));
        const answers = new Set((await Promise.all(all)).map((answer) => answer.split(" ")[0]));
        console.log([...answers].join(), await ask({ ":method": "POST", ":path": "/" }, "x".repeat(500000)));
        session.close();
        session.on("close", () => console.log("closed"));
    })();
"#;

#[tokio::test]
async fn others_understand_it_too() {
    let service = Service::answering("hello").await;
    let (tidegate, authority) = serving_tls("", &route_to(&service)).await;
    let url = format!("https://localhost:{}", tidegate.address(0).port());
    let mut client = node(NODE_CLIENT, &[&url, &authority.pem()]);
    assert_eq!(client.stdout.line().await, "200 200 5");
    assert_eq!(client.stdout.line().await, "closed");

    let folder = Folder::new();
    let ca = folder.write("ca.pem", authority.pem());
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "--http2",
        "--silent",
        "--write-out",
        " %{http_version} %{http_code}\\n",
    ])
    .arg("--cacert")
    .arg(ca)
    .args(["--data", "body", &url]);
    let mut client = Process::spawn(&mut curl);
    assert_eq!(client.stdout.line().await, "hello 2 200");
}
