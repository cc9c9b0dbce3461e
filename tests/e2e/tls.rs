//! TLS on either side of the proxy.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::harness::{
    Authority, Connection, Folder, Service, Tidegate, binary, eventually, http_echo, route_to,
    tls_handshake, websocket_echo,
};

/// A TLS listener and a site for `names` beside the files `cert.pem` and `key.pem`.
async fn proxy(authority: &Authority, rest: &str) -> Tidegate {
    let certificate = authority.issue(&["www.example.com"]);
    let folder = Folder::new();
    folder.write("cert.pem", &certificate.chain);
    folder.write("key.pem", &certificate.key);
    let configuration = format!(
        r#"
        workers = 2

        [[listeners]]
        bind = "127.0.0.1:0"
        tls = true

        [[sites]]
        names = ["www.example.com"]
        certificate = {{ chain = "cert.pem", key = "key.pem" }}

        {rest}
        "#
    );
    Tidegate::start_in(folder, &configuration).await
}

#[tokio::test]
async fn wss_in_front_reaches_ws_behind() {
    let service = Service::websocket_echo().await;
    let authority = Authority::new();
    let tidegate = proxy(&authority, &route_to(&service)).await;
    let mut client = authority
        .connect(tidegate.address(0), "www.example.com")
        .await;
    client.open_websocket("/").await;
    client.expect_echo("secret on one side").await;
    // Longer than a TLS record, and than what TLS holds back.
    let large = binary(vec![7; 1_000_000]);
    client.send_frame(large.clone()).await;
    assert_eq!(client.read_frame().await, large);
}

#[tokio::test]
async fn ws_in_front_reaches_wss_behind() {
    let authority = Authority::new();
    let certificate = authority.issue(&["chat.internal"]);
    let service = Service::start_tls(certificate.service(), websocket_echo).await;
    let folder = Folder::new();
    folder.write("ca.pem", authority.pem());
    let tidegate = Tidegate::serving_in(
        folder,
        &upstream_with(
            &service,
            r#"tls = { ca = "ca.pem", server_name = "chat.internal" }"#,
        ),
    )
    .await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("secret on the other side").await;
    let large = binary(vec![7; 1_000_000]);
    client.send_frame(large.clone()).await;
    assert_eq!(client.read_frame().await, large);
}

#[tokio::test]
async fn an_https_service_is_proxied_with_its_connections_kept() {
    let authority = Authority::new();
    let certificate = authority.issue(&["127.0.0.1"]);
    let service = Service::start_tls(certificate.service(), http_echo).await;
    let folder = Folder::new();
    folder.write("ca.pem", authority.pem());
    // The name to verify is that of the address where none is given.
    let tidegate = Tidegate::serving_in(
        folder,
        &upstream_with(&service, r#"tls = { ca = "ca.pem" }"#),
    )
    .await;
    for _ in 0..3 {
        tidegate.get("/").await.seen_by_service();
    }
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_service_whose_certificate_cannot_be_verified_is_a_502_unless_nobody_minds() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.issue(&["chat.internal"]);
    let service = Service::start_tls(certificate.service(), http_echo).await;
    let rows = [
        (
            "as it should be",
            r#"ca = "ca.pem", server_name = "chat.internal""#,
            200,
        ),
        (
            "of another authority",
            r#"ca = "other.pem", server_name = "chat.internal""#,
            502,
        ),
        (
            "for another name",
            r#"ca = "ca.pem", server_name = "mail.internal""#,
            502,
        ),
        (
            "not known to the system",
            r#"server_name = "chat.internal""#,
            502,
        ),
        (
            "not verified",
            r#"server_name = "mail.internal", verify = false"#,
            200,
        ),
    ];
    for (what, tls, status) in rows {
        let folder = Folder::new();
        folder.write("ca.pem", authority.pem());
        folder.write("other.pem", other.pem());
        let route = upstream_with(&service, &format!("tls = {{ {tls} }}"));
        let tidegate = Tidegate::serving_in(folder, &route).await;
        assert_eq!(
            tidegate.get("/").await.status(),
            status,
            "a certificate that is {what}"
        );
    }
}

/// A route to a service by an upstream with one more key.
fn upstream_with(service: &Service, key: &str) -> String {
    format!(
        r#"
        [[sites.routes]]
        match = "/"
        upstream = "secure"
        [upstreams.secure]
        endpoints = [{{ address = "{}" }}]
        {key}
        "#,
        service.address
    )
}

#[tokio::test]
async fn variables_know_that_the_client_came_by_tls() {
    let service = Service::http_echo().await;
    let authority = Authority::new();
    let headers =
        "set_headers = { X-Forwarded-Proto = \"$scheme\", Host = \"$host:$server_port\" }";
    let tidegate = proxy(&authority, &(route_to(&service) + headers)).await;
    let address = tidegate.address(0);
    let mut client = authority.connect(address, "www.example.com").await;
    let seen = client
        .exchange("GET / HTTP/1.1\nHost: www.example.com")
        .await
        .seen_by_service();
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(
        seen.field("host"),
        Some(format!("www.example.com:{}", address.port()).as_str())
    );
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_server_name() {
    let authority = Authority::new();
    let folder = Folder::new();
    let names = ["one.example", "two.example", "*.three.example"];
    let mut sites = String::new();
    let certificates = names.map(|name| authority.issue(&[name]));
    for (number, (name, certificate)) in names.iter().zip(&certificates).enumerate() {
        folder.write(&format!("{number}.pem"), &certificate.chain);
        folder.write(&format!("{number}.key"), &certificate.key);
        sites += &format!(
            r#"
            [[sites]]
            names = ["{name}"]
            certificate = {{ chain = "{number}.pem", key = "{number}.key" }}
            [[sites.routes]]
            match = "/"
            respond = {{ status = 204 }}
            "#
        );
    }
    let listener = "workers = 1\n[[listeners]]\nbind = \"127.0.0.1:0\"\ntls = true";
    let tidegate = Tidegate::start_in(folder, &format!("{listener}\n{sites}")).await;

    let rows = [
        ("one.example", 0),
        ("two.example", 1),
        ("x.three.example", 2),
    ];
    for (name, shown) in rows {
        let config = Arc::new(authority.client(rustls::ALL_VERSIONS));
        let stream = tls_handshake(&config, tidegate.address(0), name)
            .await
            .unwrap();
        let certificate = &stream.get_ref().1.peer_certificates().unwrap()[0];
        assert_eq!(certificate.as_ref(), certificates[shown].der(), "{name}");
    }
    // Neither an unknown name nor none at all is refused: the first certificate is shown.
    for name in ["unknown.example", "127.0.0.1"] {
        let config = Arc::new(authority.client(rustls::ALL_VERSIONS));
        let error = tls_handshake(&config, tidegate.address(0), name)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("not valid for name"),
            "{name}: {error}"
        );
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_sessions_resumed_on_any_worker() {
    let service = Service::http_echo().await;
    let authority = Authority::new();
    let tidegate = proxy(&authority, &route_to(&service)).await;
    let versions = [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ];
    for (version, spoken) in versions {
        // The configuration holds the tickets.
        let config = Arc::new(authority.client(&[version]));
        for attempt in 0..8 {
            let stream = tls_handshake(&config, tidegate.address(0), "www.example.com")
                .await
                .unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(spoken));
            let expected = if attempt == 0 {
                HandshakeKind::Full
            } else {
                HandshakeKind::Resumed
            };
            assert_eq!(
                session.handshake_kind(),
                Some(expected),
                "{spoken:?}, attempt {attempt}"
            );
            // In TLS 1.3 tickets come after the handshake, so read something.
            let mut client = Connection::secured(stream);
            client
                .exchange("GET / HTTP/1.1\nHost: www.example.com")
                .await
                .seen_by_service();
        }
    }
}

#[tokio::test]
async fn http_1_1_is_agreed_on_with_a_client_that_asks() {
    let authority = Authority::new();
    let tidegate = proxy(
        &authority,
        "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }",
    )
    .await;
    let mut config = authority.client(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"spdy/3".to_vec(), b"http/1.1".to_vec()];
    let stream = tls_handshake(&Arc::new(config), tidegate.address(0), "www.example.com")
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_tls_handshake_is_closed_and_delays_nobody() {
    let service = Service::http_echo().await;
    let authority = Authority::new();
    let timeouts = "[timeouts]\ntls_handshake = \"500ms\"";
    let tidegate = proxy(&authority, &format!("{}\n{timeouts}", route_to(&service))).await;
    // More than there are workers, so one would wait if a worker did.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(tidegate.connect().await);
    }
    for _ in 0..4 {
        let mut client = authority
            .connect(tidegate.address(0), "www.example.com")
            .await;
        client
            .exchange("GET / HTTP/1.1\nHost: www.example.com")
            .await
            .seen_by_service();
    }
    for mut client in silent {
        client.expect_end().await;
    }
}

#[tokio::test]
async fn noise_on_a_tls_port_hurts_only_who_makes_it() {
    let service = Service::http_echo().await;
    let authority = Authority::new();
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = proxy(&authority, &format!("{}\n{admin}", route_to(&service))).await;
    let mut noisy = tidegate.connect().await;
    noisy.send([0xff; 64]).await;
    noisy.read_to_end().await;
    let mut client = authority
        .connect(tidegate.address(0), "www.example.com")
        .await;
    client
        .exchange("GET / HTTP/1.1\nHost: www.example.com")
        .await
        .seen_by_service();
    eventually("count of the failure", async || {
        let metrics = tidegate.metrics().await;
        (metrics.sum("tidegate_tls_handshake_failures_total", &[]) == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_end_of_sending_passes_through_tls() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        assert_eq!(connection.read_to_end().await, b"the question");
        connection.send("the answer").await;
    })
    .await;
    let authority = Authority::new();
    let tidegate = proxy(&authority, &route_to(&service)).await;
    let mut client = authority
        .connect(tidegate.address(0), "www.example.com")
        .await;
    client.open_websocket("/").await;
    client.send("the question").await;
    client.finish_sending().await;
    assert_eq!(client.read_to_end().await, b"the answer");
}
