//! Bodies, which are streamed and never collected; their trailers, and the wish to be asked first.

use crate::harness::{Connection, Service, Tidegate, handshake, route_to};

#[tokio::test]
async fn the_first_chunk_of_a_response_arrives_before_the_last_is_sent() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
            .await;
        connection.send_chunk("first").await;
        // The client says so once it has the first, and only then comes the last.
        assert_eq!(connection.read_chunk().await.unwrap(), b"got it");
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked")
        .await;
    assert_eq!(client.read_head().await.status(), 200);
    assert_eq!(client.read_chunk().await.unwrap(), b"first");
    client.send_chunk("got it").await;
    client.send("0\r\n\r\n").await;
    assert_eq!(client.read_chunk().await, None);
}

#[tokio::test]
async fn the_first_chunk_of_a_request_arrives_before_the_last_is_sent() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        assert_eq!(connection.read_chunk().await.unwrap(), b"first");
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 2")
            .await;
        assert_eq!(connection.read_chunk().await.unwrap(), b"last");
        assert_eq!(connection.read_chunk().await, None);
        connection.send("ok").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked")
        .await;
    client.send_chunk("first").await;
    let head = client.read_head().await;
    client.send_chunk("last").await;
    client.send("0\r\n\r\n").await;
    assert_eq!(client.read_body(&head).await.0, b"ok");
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions_and_both_framings() {
    const LENGTH: usize = 3_000_000;
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.next_head().await {
            let (body, _) = connection.read_body(&head).await;
            match head.target() {
                "/sized" => {
                    connection
                        .send_head(&format!("HTTP/1.1 200 OK\nContent-Length: {}", body.len()))
                        .await;
                    connection.send(body).await;
                }
                "/chunked" => {
                    connection
                        .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
                        .await;
                    for chunk in body.chunks(70_000) {
                        connection
                            .send_chunk(std::str::from_utf8(chunk).unwrap())
                            .await;
                    }
                    connection.send("0\r\n\r\n").await;
                }
                _ => {
                    connection
                        .send_head("HTTP/1.1 200 OK\nConnection: close")
                        .await;
                    connection.send(body).await;
                    return;
                }
            }
        }
    })
    .await;
    let tidegate = Tidegate::serving(&(route_to(&service) + "max_body = \"4MiB\"")).await;
    let body: String = ('a'..='z').cycle().take(LENGTH).collect();
    for target in ["/sized", "/chunked", "/until-end"] {
        for chunked in [false, true] {
            let client = tidegate.connect().await;
            // Sent and received at the same time, or both ends would wait for each other.
            let response = upload(client, target, &body, chunked).await;
            assert!(response == body.as_bytes(), "{target}, chunked: {chunked}");
        }
    }
}

async fn upload(mut client: Connection, target: &str, body: &str, chunked: bool) -> Vec<u8> {
    if chunked {
        client
            .send_head(&format!(
                "POST {target} HTTP/1.1\nHost: a\nTransfer-Encoding: chunked"
            ))
            .await;
        client.send_chunk(body).await;
        client.send("0\r\n\r\n").await;
    } else {
        let length = body.len();
        client
            .send_head(&format!(
                "POST {target} HTTP/1.1\nHost: a\nContent-Length: {length}"
            ))
            .await;
        client.send(body).await;
    }
    client.read_response().await.body
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        assert_eq!(head.field("trailer"), Some("X-Checksum"));
        let (body, trailers) = connection.read_body(&head).await;
        assert_eq!(body, b"body");
        let [(name, value)] = trailers.as_slice() else {
            panic!("{trailers:?}")
        };
        assert!(
            name.eq_ignore_ascii_case("x-checksum") && value == "request",
            "{name}: {value}"
        );
        connection
            .send_head("HTTP/1.1 200 OK\nTrailer: X-Checksum\nTransfer-Encoding: chunked")
            .await;
        connection.send_chunk("answer").await;
        connection.send("0\r\nX-Checksum: response\r\n\r\n").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head(
            "POST / HTTP/1.1
            Host: a
            TE: trailers
            Trailer: X-Checksum
            Transfer-Encoding: chunked",
        )
        .await;
    client.send_chunk("body").await;
    client.send("0\r\nX-Checksum: request\r\n\r\n").await;
    let response = client.read_response().await;
    assert_eq!(response.text(), "answer");
    let [(name, value)] = response.trailers.as_slice() else {
        panic!("{response:?}")
    };
    assert!(
        name.eq_ignore_ascii_case("x-checksum") && value == "response",
        "{name}: {value}"
    );
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_continue() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 4")
        .await;
    assert_eq!(client.read_head().await.status(), 100);
    client.send("body").await;
    client.read_response().await.seen_by_service();
}

#[tokio::test]
async fn a_client_that_expects_100_can_be_refused_without_its_body() {
    let service = Service::http_echo().await;
    let tidegate = Tidegate::serving(&(route_to(&service) + "max_body = \"1KiB\"")).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 5000")
        .await;
    assert_eq!(client.read_head().await.status(), 413);
    assert_eq!(service.connections(), 0);
}

/// Promise 4 of the design.
#[tokio::test]
async fn a_101_goes_out_although_a_body_was_announced() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        let frame = connection.read_frame().await;
        connection.send_frame(frame).await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head(&format!("{}\nContent-Length: 0", handshake("/")))
        .await;
    assert_eq!(client.read_head().await.status(), 101);
    client.expect_echo("at once").await;
}

#[tokio::test]
async fn a_service_may_answer_before_it_has_read_the_whole_request() {
    let service = Service::start(|mut connection| async move {
        connection.read_through("only the beginning").await;
        connection
            .send_head("HTTP/1.1 403 Forbidden\nContent-Length: 2\nConnection: close")
            .await;
        connection.send("no").await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.connect().await;
    client
        .send_head("POST / HTTP/1.1\nHost: a\nContent-Length: 900000")
        .await;
    client.send("only the beginning").await;
    let response = client.read_response().await;
    assert_eq!((response.status(), response.text()), (403, "no"));
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_cut_short_for_the_client_too() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        let framing = if head.target() == "/sized" {
            "Content-Length: 100"
        } else {
            "Transfer-Encoding: chunked"
        };
        connection
            .send_head(&format!("HTTP/1.1 200 OK\n{framing}"))
            .await;
        connection
            .send(if head.target() == "/sized" {
                "part"
            } else {
                "4\r\npart\r\n"
            })
            .await;
    })
    .await;
    let tidegate = Tidegate::serving(&route_to(&service)).await;
    for (target, part) in [("/sized", "part"), ("/chunked", "4\r\npart\r\n")] {
        let mut client = tidegate.connect().await;
        client
            .send_head(&format!("GET {target} HTTP/1.1\nHost: a"))
            .await;
        assert_eq!(client.read_head().await.status(), 200, "{target}");
        // In particular no last chunk, which would make it look complete.
        assert_eq!(client.read_to_end().await, part.as_bytes(), "{target}");
    }
}
