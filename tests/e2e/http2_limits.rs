//! What a client of HTTP/2 may hold, how long it may take, and how often it may change its mind.

use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use http::Method;

use crate::harness::http2::{
    END_HEADERS, END_STREAM, Http2, PREFACE, RawFrame, asking, kind, literals, read_to_end,
    usual_fields,
};
use crate::harness::{
    Connection, DEADLINE, Service, Tidegate, eventually, one_listener, route_to, within,
};

async fn serving(rest: &str) -> Tidegate {
    let configuration = one_listener(rest).replace("bind =", "http2 = true\nbind =");
    Tidegate::start(&configuration).await
}

/// A client that has begun and writes its frames itself.
async fn raw(tidegate: &Tidegate) -> Connection {
    let mut client = tidegate.connect().await;
    client.send(PREFACE).await;
    client
}

fn headers(stream: u32) -> Vec<u8> {
    RawFrame::new(
        kind::HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        usual_fields(),
    )
    .to_wire()
}

fn reset(stream: u32) -> Vec<u8> {
    let cancel = 8_u32.to_be_bytes();
    RawFrame::new(kind::RST_STREAM, 0, stream, cancel).to_wire()
}

#[tokio::test]
async fn the_client_is_told_the_limits() {
    let service = Service::http_echo().await;
    let http2 =
        "[http2]\nmax_streams = 7\nstream_window = \"100KiB\"\n[limits]\nmax_header = \"8KiB\"";
    let tidegate = serving(&format!("{}\n{http2}", route_to(&service))).await;
    let mut client = raw(&tidegate).await;
    let settings = client.read_raw_of(kind::SETTINGS).await.payload;
    let setting = |wanted: u16| {
        let found = settings
            .chunks(6)
            .find(|one| one[..2] == wanted.to_be_bytes());
        found.map(|one| u32::from_be_bytes(one[2..].try_into().unwrap()))
    };
    assert_eq!(setting(3), Some(7), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(4), Some(100 << 10), "SETTINGS_INITIAL_WINDOW_SIZE");
    // With room for heads that are answered with 431.
    let list = setting(6).unwrap();
    assert!(
        (8 << 10..64 << 10).contains(&list),
        "SETTINGS_MAX_HEADER_LIST_SIZE: {list}"
    );
}

#[tokio::test]
async fn a_stream_too_many_is_refused_and_the_others_go_on() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection.read_to_end().await;
    })
    .await;
    let http2 = "[http2]\nmax_streams = 2";
    let tidegate = serving(&format!("{}\n{http2}", route_to(&service))).await;
    let mut client = raw(&tidegate).await;
    // So that the limit is known, and going beyond it is the client's fault.
    client
        .send(RawFrame::new(kind::SETTINGS, 1, 0, []).to_wire())
        .await;
    for stream in [1, 3, 5] {
        client.send(headers(stream)).await;
    }
    let refused = client.read_raw_of(kind::RST_STREAM).await;
    assert_eq!(
        (refused.stream, refused.reason()),
        (5, Reason::REFUSED_STREAM)
    );
    eventually("requests", async || {
        (service.connections() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_cost_the_service_little() {
    let service = Service::http_echo().await;
    let tidegate = serving(&route_to(&service)).await;
    let mut client = raw(&tidegate).await;
    let flood: Vec<u8> = (0..10_000_u32)
        .flat_map(|n| [headers(2 * n + 1), reset(2 * n + 1)].concat())
        .collect();
    // The proxy may stop reading when it has seen enough.
    client.try_send(flood).await.ok();
    let last = client.read_raw_of(kind::GOAWAY).await;
    assert_eq!(last.reason(), Reason::ENHANCE_YOUR_CALM);
    assert!(
        service.connections() < 300,
        "{} reached the service",
        service.connections()
    );
}

#[tokio::test]
async fn requests_taken_back_one_by_one_are_seen_through_as_well() {
    let service = Service::start(|mut connection| async move {
        connection.read_head().await;
        connection.read_to_end().await;
    })
    .await;
    let tidegate = serving(&format!("{}\n[http2]\nmax_streams = 1", route_to(&service))).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let mut asked = 0;
    loop {
        let request = asking(Method::GET, "/").body(()).unwrap();
        let (exchange, mut send) = client.send(request, true).await;
        asked += 1;
        // It gets as far as to the service each time.
        let reached = async || (service.connections() >= asked).then_some(());
        let ended = tokio::select! {
            () = eventually("request", reached) => None,
            ended = exchange.try_response() => Some(ended.unwrap_err()),
        };
        if ended.is_some() {
            break;
        }
        send.send_reset(Reason::CANCEL);
        assert!(asked < 150, "it goes on and on");
    }
    let ended = client.ended().await.unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert!(asked > 100, "too soon, after {asked}");
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection_before_it_fills_the_memory() {
    let service = Service::http_echo().await;
    let tidegate = serving(&route_to(&service)).await;
    let before = tidegate.memory();
    let mut client = raw(&tidegate).await;
    let fields = literals(&[("x-long", &"x".repeat(100))]);
    client
        .send(RawFrame::new(kind::HEADERS, END_STREAM, 1, usual_fields()).to_wire())
        .await;
    let more = RawFrame::new(kind::CONTINUATION, 0, 1, fields)
        .to_wire()
        .repeat(1000);
    let began = Instant::now();
    while client.try_send(&more).await.is_ok() {
        assert!(began.elapsed() < DEADLINE, "it is still being listened to");
    }
    let grown = tidegate.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "it grew by {grown} bytes");
    Http2::open(tidegate.address(0))
        .await
        .get("/")
        .await
        .seen_by_service();
}

#[tokio::test]
async fn floods_of_frames_that_want_an_answer_are_not_read_ahead() {
    let service = Service::http_echo().await;
    let tidegate = serving(&format!(
        "{}\n[timeouts]\nsend = \"500ms\"",
        route_to(&service)
    ))
    .await;
    let ping = RawFrame::new(kind::PING, 0, 0, *b"12345678").to_wire();
    let settings = RawFrame::new(kind::SETTINGS, 0, 0, []).to_wire();
    for frame in [ping, settings] {
        let mut client = raw(&tidegate).await;
        let before = tidegate.memory();
        // Answers that nobody reads: the proxy has to stop, and then to end it.
        let frames = frame.repeat(1000);
        let began = Instant::now();
        while client.try_send(&frames).await.is_ok() {
            assert!(began.elapsed() < DEADLINE, "it is still being listened to");
        }
        let grown = tidegate.memory().saturating_sub(before);
        assert!(grown < 16 << 20, "it grew by {grown} bytes");
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_pings_do_not_keep_it() {
    let service = Service::http_echo().await;
    let timeouts = "[timeouts]\nkeep_alive = \"300ms\"";
    let tidegate = serving(&format!("{}\n{timeouts}", route_to(&service))).await;
    let mut client = raw(&tidegate).await;
    client.send(headers(1)).await;
    client.read_raw_of(kind::HEADERS).await;
    let ping = RawFrame::new(kind::PING, 0, 0, *b"12345678").to_wire();
    let told = client.read_raw_of(kind::GOAWAY);
    assert_eq!(told.await.reason(), Reason::NO_ERROR);
    let began = Instant::now();
    while client.try_send(&ping).await.is_ok() {
        assert!(began.elapsed() < DEADLINE, "it is kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_first_words_is_not_waited_for() {
    let service = Service::http_echo().await;
    let timeouts = "[timeouts]\nheader_read = \"300ms\"";
    let tidegate = serving(&format!("{}\n{timeouts}", route_to(&service))).await;
    let half = RawFrame::new(kind::HEADERS, END_STREAM, 1, usual_fields()).to_wire();
    for words in [
        &b""[..],
        b"PR",
        &PREFACE[..10],
        PREFACE,
        &[PREFACE, &half].concat(),
    ] {
        let mut client = tidegate.connect().await;
        client.send(words).await;
        client.read_to_end().await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let service = Service::http_echo().await;
    let timeouts = "[timeouts]\nbody_read = \"200ms\"";
    let tidegate = serving(&format!("{}\n{timeouts}", route_to(&service))).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let request = asking(Method::POST, "/").header("content-length", 10);
    let (exchange, mut send) = client.send(request.body(()).unwrap(), false).await;
    send.send_data(Bytes::from_static(b"part"), false).unwrap();
    assert_eq!(exchange.response().await.status(), 408);
    client.get("/").await.seen_by_service();
}

/// A service that answers `/long` with this many bytes.
async fn long_answers(length: usize) -> Service {
    Service::start(move |mut connection| async move {
        while let Some(head) = connection.next_request().await {
            let length = if head.target() == "/long" { length } else { 2 };
            let body = "x".repeat(length);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            if connection.try_send(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_stream_that_is_not_read_waits_and_the_others_do_not() {
    const LENGTH: usize = 4_000_000;
    let service = long_answers(LENGTH).await;
    let tidegate = serving(&route_to(&service)).await;
    let before = tidegate.memory();
    let settings = Builder::new()
        .initial_connection_window_size(1 << 24)
        .clone();
    let mut client = Http2::open_with(&settings, tidegate.address(0)).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let (exchange, _) = client
            .send(asking(Method::GET, "/long").body(()).unwrap(), true)
            .await;
        waiting.push(exchange.head().await.unwrap().1);
    }
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "xx");
    }
    let grown = tidegate.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "what waits is bounded, not {grown} bytes");
    for mut receive in waiting {
        assert_eq!(read_to_end(&mut receive).await.unwrap().len(), LENGTH);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_for_too_long_is_reset_alone() {
    let service = long_answers(1_000_000).await;
    let timeouts =
        "[timeouts]\nsend = \"300ms\"\n[access_log]\npath = \"stdout\"\nformat = \"json\"";
    let mut tidegate = serving(&format!("{}\n{timeouts}", route_to(&service))).await;
    let settings = Builder::new()
        .initial_connection_window_size(1 << 24)
        .clone();
    let mut client = Http2::open_with(&settings, tidegate.address(0)).await;
    let (exchange, mut send) = client
        .send(asking(Method::GET, "/long").body(()).unwrap(), true)
        .await;
    let (_, receive) = exchange.head().await.unwrap();
    let reason = std::future::poll_fn(|cx| send.poll_reset(cx));
    assert_eq!(within("reset", reason).await.unwrap(), Reason::CANCEL);
    drop(receive);
    let record = tidegate.process.stdout.line().await;
    assert!(
        record.contains("client took nothing of the response for 300ms"),
        "{record}"
    );
    assert_eq!(client.get("/").await.text(), "xx");
}

#[tokio::test]
async fn a_connection_that_is_not_read_at_all_is_closed() {
    let service = long_answers(64 << 20).await;
    let tidegate = serving(&format!(
        "{}\n[timeouts]\nsend = \"500ms\"",
        route_to(&service)
    ))
    .await;
    let mut client = raw(&tidegate).await;
    // Windows as wide as can be, so that only the socket is in the way.
    let wide = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    client
        .send(RawFrame::new(kind::SETTINGS, 0, 0, wide).to_wire())
        .await;
    let more = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    client.send(RawFrame::new(8, 0, 0, more).to_wire()).await;
    let path = literals(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "example.com"),
        (":path", "/long"),
    ]);
    let request = RawFrame::new(kind::HEADERS, END_STREAM | END_HEADERS, 1, path);
    client.send(request.to_wire()).await;
    service.finished().await;
}

#[tokio::test]
async fn an_upload_that_the_service_does_not_read_stops_the_client() {
    let service = Service::start(|mut connection| async move {
        let head = connection.read_head().await;
        if head.target() == "/long" {
            std::future::pending::<()>().await;
        } else {
            connection
                .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let tidegate = serving(&(route_to(&service) + "max_body = \"0B\"")).await;
    let mut client = Http2::open(tidegate.address(0)).await;
    let (_exchange, mut send) = client
        .send(asking(Method::POST, "/long").body(()).unwrap(), false)
        .await;
    let mut sent = 0;
    loop {
        send.reserve_capacity(16 << 10);
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx));
        let stalled = std::time::Duration::from_millis(500);
        let Ok(room) = tokio::time::timeout(stalled, room).await else {
            break;
        };
        let room = room.unwrap().unwrap();
        send.send_data(Bytes::from(vec![0; room]), false).unwrap();
        sent += room;
        assert!(sent < 64 << 20, "nothing stops it");
    }
    // Another request of the same connection does.
    assert_eq!(client.get("/").await.status(), 200);
}
