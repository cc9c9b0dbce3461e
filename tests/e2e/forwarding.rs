//! Which fields of a request reach the service, and which of a response the client.

use crate::harness::{Head, Refusing, Service, Tidegate, route_to};

#[tokio::test]
async fn method_target_and_fields_arrive_as_they_were_sent() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let response = tidegate
        .exchange(
            "DELETE /a%2Fb/../c?x=%20&y=/.. HTTP/1.1
            Host: example.com
            X-Twice: one
            Accept: text/html
            X-Twice: two
            X-Empty:",
        )
        .await;
    let seen = response.seen_by_service();
    assert_eq!(seen.start, "DELETE /a%2Fb/../c?x=%20&y=/.. HTTP/1.1");
    assert_eq!(seen.fields("x-twice"), ["one", "two"]);
    assert_eq!(seen.field("accept"), Some("text/html"));
    assert_eq!(seen.field("x-empty"), Some(""));
}

#[tokio::test]
async fn fields_of_one_connection_are_not_sent_on_over_the_next() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_head().await {
            let body = head.to_wire();
            connection
                .send_head(&format!(
                    "HTTP/1.1 200 OK
                    Connection: X-Hop
                    X-Hop: of the service
                    Keep-Alive: timeout=5
                    Proxy-Connection: keep-alive
                    X-Stays: of the service
                    Content-Length: {}",
                    body.len()
                ))
                .await;
            connection.send(body).await;
        }
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let response = tidegate
        .exchange(
            "GET / HTTP/1.1
            Host: example.com
            Connection: close, X-Hop, x-OTHER-hop
            X-Hop: of the client
            X-Other-Hop: of the client
            X-Stays: of the client
            Keep-Alive: timeout=5
            Proxy-Connection: close
            TE: trailers, deflate",
        )
        .await;

    let seen = response.seen_by_service();
    for name in ["x-hop", "x-other-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.field(name), None, "{name} reached the service");
    }
    // The proxy's own: trailers do arrive, other codings would not.
    assert_eq!(seen.fields("te"), ["trailers"]);
    assert_eq!(seen.field("x-stays"), Some("of the client"));
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(response.field(name), None, "{name} reached the client");
    }
    assert_eq!(response.field("x-stays"), Some("of the service"));
}

#[tokio::test]
async fn fields_can_be_set_from_variables_and_taken_away_by_an_empty_value() {
    let service = Service::http_echo().await;
    let routes = route_to(&service)
        + r#"
        [sites.routes.set_headers]
        Host = "$host:$server_port"
        X-Real-IP = "$remote_addr"
        X-Forwarded-For = "$proxy_add_x_forwarded_for"
        X-Forwarded-Proto = "$scheme"
        X-Forwarded-Host = "$http_host"
        X-Agent = "<$http_user_agent>"
        X-Everything = "$request_method $request_uri $uri $args $arg_room $cookie_id"
        X-From = "$remote_port"
        X-Upstream = "$proxy_host"
        X-Price = "5$$"
        Accept-Encoding = ""
        X-Absent = "$http_x_absent"
        "#;
    let tidegate = Tidegate::serving(&routes).await;
    let mut client = tidegate.connect().await;
    let response = client
        .exchange(
            "GET /ro%6Fm//x?room=7&b HTTP/1.1
            Host: WWW.Example.com:99
            User-Agent: curl
            Cookie: a=b; id=42
            X-Forwarded-For: 192.0.2.1
            X-Forwarded-For: 192.0.2.2
            Accept-Encoding: gzip",
        )
        .await;
    let seen = response.seen_by_service();
    let expected = [
        (
            "host",
            format!("www.example.com:{}", tidegate.address(0).port()),
        ),
        ("x-real-ip", "127.0.0.1".to_owned()),
        (
            "x-forwarded-for",
            "192.0.2.1, 192.0.2.2, 127.0.0.1".to_owned(),
        ),
        ("x-forwarded-proto", "http".to_owned()),
        ("x-forwarded-host", "WWW.Example.com:99".to_owned()),
        ("x-agent", "<curl>".to_owned()),
        (
            "x-everything",
            "GET /ro%6Fm//x?room=7&b /room/x room=7&b 7 42".to_owned(),
        ),
        ("x-from", client.address().port().to_string()),
        ("x-upstream", service.address.to_string()),
        ("x-price", "5$".to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(seen.fields(name), [value], "{name}");
    }
    assert_eq!(seen.field("accept-encoding"), None);
    assert_eq!(seen.field("x-absent"), None);
}

#[tokio::test]
async fn the_host_field_follows_nginx() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/default"
        upstream = "chat"
        [[sites.routes]]
        match = "/host"
        upstream = "chat"
        set_headers = {{ Host = "$host" }}
        [[sites.routes]]
        match = "/http_host"
        upstream = "chat"
        set_headers = {{ Host = "$http_host" }}
        [[sites.routes]]
        match = "/url"
        url = "http://localhost:{port}"
        [upstreams.chat]
        endpoints = [{{ address = "127.0.0.1:{port}" }}]
        "#,
        port = service.address.port()
    ))
    .await;
    let url_host = format!("localhost:{}", service.address.port());
    let rows = [
        // An upstream goes by its name, not by the address that was picked.
        ("/default", "chat"),
        ("/host", "example.com"),
        ("/http_host", "Example.COM:81"),
        ("/url", url_host.as_str()),
    ];
    for (target, host) in rows {
        let lines = format!("GET {target} HTTP/1.1\nHost: Example.COM:81");
        let seen = tidegate.exchange(&lines).await.seen_by_service();
        assert_eq!(seen.fields("host"), [host], "{target}");
    }
    // The host of the request line wins over the field (RFC 9112 §3.2.2), and the target goes on in
    // origin form.
    let lines = "GET http://line.example/host?q HTTP/1.1\nHost: field.example";
    let seen = tidegate.exchange(lines).await.seen_by_service();
    assert_eq!(seen.fields("host"), ["line.example"]);
    assert_eq!(seen.target(), "/host?q");
}

#[tokio::test]
async fn a_request_whose_host_is_missing_or_given_twice_is_a_400() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    for fields in ["X: y", "Host: a\nHost: b", "Host: a b"] {
        let response = tidegate
            .exchange(&format!("GET / HTTP/1.1\n{fields}"))
            .await;
        assert_eq!(response.status(), 400, "{fields:?}");
    }
    assert_eq!(service.connections(), 0);
}

/// Framings that two readers may understand in two ways (RFC 9112 §11.2).
#[tokio::test]
async fn a_request_that_could_smuggle_another_is_a_400() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let framings = [
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length : 5",
        " X: folded",
    ];
    for framing in framings {
        let mut client = tidegate.connect().await;
        // As it is: folding and blanks before colons must survive.
        let head = format!("POST / HTTP/1.1\nHost: a\n{framing}\n\n").replace('\n', "\r\n");
        client.send(head + "0\r\n\r\n").await;
        let response = client.read_response().await;
        assert!(
            matches!(response.status(), 400 | 501),
            "{framing:?}: {response:?}"
        );
        client.expect_end().await;
    }
    assert_eq!(
        service.connections(),
        0,
        "nothing of it reached the service"
    );
}

/// RFC 9112 §6.3: the chunks count, and nothing else is read from such a connection.
#[tokio::test]
async fn a_length_beside_chunks_is_taken_away_and_the_connection_closed() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nContent-Length: 40\nTransfer-Encoding: chunked")
        .await;
    client
        .send("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let seen = client.read_response().await.seen_by_service();
    assert_eq!(seen.field("content-length"), None);
    assert_eq!(seen.fields("transfer-encoding"), ["chunked"]);
    client.expect_end().await;
}

#[tokio::test]
async fn a_response_has_a_date_and_the_services_own_fields() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send_head(
                "HTTP/1.1 299 Fancy Reason
                Date: Thu, 01 Jan 1970 00:00:00 GMT
                Server: theirs
                Set-Cookie: a=1
                Set-Cookie: b=2
                Content-Length: 0",
            )
            .await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let response = tidegate.get("/").await;
    assert_eq!(response.status(), 299);
    assert_eq!(response.fields("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.fields("date").len(), 1);
}

#[tokio::test]
async fn a_service_that_does_not_speak_http_is_a_502() {
    let answers = [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "",
    ];
    for answer in answers {
        let service = Service::start(move |mut connection| async move {
            connection.read_head().await;
            connection.send(answer).await;
        })
        .await;
        let tidegate = Tidegate::serving(&route_to(&service)).await;
        assert_eq!(tidegate.get("/").await.status(), 502, "{answer:?}");
    }
}

#[tokio::test]
async fn answers_made_here_keep_the_connection_alive_and_say_so() {
    let refusing = Refusing::new();
    let tidegate = Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/down"
        url = "http://{}"
        [[sites.routes]]
        match = "= /fixed"
        respond = {{ status = 418, headers = {{ X-Host = "$host" }}, body = "short and stout\n" }}
        "#,
        refusing.address
    ))
    .await;
    let mut client = tidegate.connect().await;
    let rows: [(&str, u16, Option<&str>); 3] = [
        ("/down", 502, None),
        ("/nowhere", 404, None),
        ("/fixed", 418, Some("short and stout\n")),
    ];
    for (target, status, body) in rows {
        let response = client
            .exchange(&format!("GET {target} HTTP/1.1\nHost: a"))
            .await;
        assert_eq!(response.status(), status, "{target}");
        assert!(
            response.field("content-length").is_some(),
            "{target}: {response:?}"
        );
        if let Some(body) = body {
            assert_eq!(response.text(), body);
            assert_eq!(response.field("x-host"), Some("a"));
        }
    }
}

#[tokio::test]
async fn a_response_to_head_has_the_fields_of_a_body_but_no_body() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_head().await {
            connection
                .send_head("HTTP/1.1 200 OK\nContent-Length: 4")
                .await;
            if head.method() == "GET" {
                connection.send("body").await;
            }
        }
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client.send_head("HEAD / HTTP/1.1\nHost: a").await;
    let head: Head = client.read_head().await;
    assert_eq!(head.field("content-length"), Some("4"));
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "body"
    );
}
