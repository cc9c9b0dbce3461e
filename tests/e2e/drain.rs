//! The end of the process: what is under way may finish, nothing new begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{
    Connection, Endless, Service, Tidegate, close, eventually, one_listener, route_to, text, within,
};

#[tokio::test]
async fn an_exchange_under_way_is_finished_before_the_exit() {
    for signal in [Signal::TERM, Signal::INT] {
        let service = Service::start(|mut connection| async move {
            connection.read_head().await;
            connection
                .send_head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
                .await;
            connection.send_chunk("before").await;
            let after = connection.read_chunk().await.unwrap();
            connection
                .send_chunk(std::str::from_utf8(&after).unwrap())
                .await;
            connection.send("0\r\n\r\n").await;
        })
        .await;
        let mut tidegate = Tidegate::serving(&route_to(&service)).await;
        let mut client = tidegate.connect().await;
        let mut idle = tidegate.connect().await;
        client
            .send_head("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked")
            .await;
        client.read_head().await;
        assert_eq!(client.read_chunk().await.unwrap(), b"before");

        tidegate.process.signal(signal);
        // An idle connection is closed at once; that is also the sign that draining has begun.
        idle.expect_end().await;
        client.send("5\r\nafter\r\n0\r\n\r\n").await;
        assert_eq!(client.read_chunk().await.unwrap(), b"after");
        assert_eq!(client.read_chunk().await, None);
        client.read_through("\r\n").await;
        client.expect_end().await;
        assert_eq!(tidegate.process.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn the_exit_does_not_wait_for_a_reload_that_is_being_prepared() {
    let routes = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";
    let mut tidegate = Tidegate::serving(routes).await;
    let file = Endless::replacing(&tidegate.folder, "tidegate.toml");
    tidegate.process.signal(Signal::HUP);
    let _writer = file.is_read().await;
    tidegate.process.signal(Signal::TERM);
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

/// Its client is gone, and it has nobody else who remembers it.
#[tokio::test]
async fn an_exchange_without_its_client_is_finished_before_the_exit() {
    let (asked, may_answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let service = {
        let (asked, may_answer) = (asked.clone(), may_answer.clone());
        Service::start(move |mut connection| {
            let (asked, may_answer) = (asked.clone(), may_answer.clone());
            async move {
                while connection.next_request().await.is_some() {
                    asked.add_permits(1);
                    may_answer.acquire().await.unwrap().forget();
                    connection
                        .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
                        .await;
                }
            }
        })
        .await
    };
    let mut tidegate = Tidegate::serving(&format!(
        "{}ignore_client_abort = true\n[access_log]\npath = \"stdout\"\nformat = \"json\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[limits]\nmax_connections = 1",
        route_to(&service)
    ))
    .await;
    let mut client = tidegate.connect().await;
    client.send_head("GET / HTTP/1.1\nHost: a").await;
    within("request at the service", asked.acquire())
        .await
        .unwrap()
        .forget();
    client.reset();
    eventually("the client's end", async || {
        let open = tidegate
            .metrics()
            .await
            .sum("tidegate_connections_open", &[]);
        (open == 0.0).then_some(())
    })
    .await;
    // It has its place as if the client were there.
    tidegate.connect().await.expect_end().await;
    let refused = async || {
        tidegate
            .metrics()
            .await
            .sum("tidegate_connections_refused_total", &[])
    };
    assert_eq!(refused().await, 1.0);

    tidegate.process.signal(Signal::TERM);
    tidegate.log("draining").await;
    assert_eq!(tidegate.admin("/healthz").await.status(), 503);
    may_answer.add_permits(1);
    let line = tidegate.process.stdout.line().await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["status"], 200);
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn websocket_sessions_are_told_that_the_proxy_goes_away() {
    let service = Service::websocket_echo().await;
    let mut tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("before").await;
    tidegate.process.signal(Signal::TERM);
    assert_eq!(client.read_frame().await, close(1001, ""));
    client.send_frame(close(1001, "")).await;
    client.expect_end().await;
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
    service.finished().await;
}

#[tokio::test]
async fn nobody_gets_in_while_others_finish() {
    let service = hanging().await;
    let routes = route_to(&service) + "[admin]\nlisten = \"127.0.0.1:0\"";
    let tidegate = Tidegate::serving(&routes).await;
    let mut busy = tidegate.connect().await;
    busy.send_head("GET / HTTP/1.1\nHost: a").await;
    busy.read_head().await;
    let mut idle = tidegate.connect().await;
    assert_eq!(tidegate.admin("/healthz").await.status(), 200);
    tidegate.process.signal(Signal::TERM);
    idle.expect_end().await;
    // A load balancer in front sees it too.
    assert_eq!(tidegate.admin("/healthz").await.status(), 503);
    let refused = tokio::net::TcpStream::connect(tidegate.address(0)).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn draining_ends_after_its_time_or_at_the_second_signal() {
    for (timeout, signals, code) in [("200ms", 1, 0), ("1h", 2, 1)] {
        let service = hanging().await;
        let routes = format!("{}[timeouts]\ndrain = \"{timeout}\"", route_to(&service));
        let mut tidegate = Tidegate::serving(&routes).await;
        let mut busy = tidegate.connect().await;
        busy.send_head("GET / HTTP/1.1\nHost: a").await;
        busy.read_head().await;
        let mut idle = tidegate.connect().await;
        for _ in 0..signals {
            tidegate.process.signal(Signal::INT);
            // Or two signals could become one.
            idle.expect_end().await;
        }
        assert_eq!(tidegate.process.exit().await.code(), Some(code));
        busy.expect_end().await;
    }
}

/// A service that begins its answers and never ends them.
async fn hanging() -> Service {
    Service::start(|mut connection: Connection| async move {
        connection.read_head().await;
        connection
            .send_head("HTTP/1.1 200 OK\nContent-Length: 10")
            .await;
        connection.read_to_end().await;
    })
    .await
}

/// Their clients do not come back all at once.
#[tokio::test]
async fn sessions_are_closed_one_after_the_other() {
    const SESSIONS: u32 = 20;
    const SPREAD: Duration = Duration::from_secs(2);
    let service = Service::websocket_echo().await;
    let timeouts = "[timeouts]\ndrain = \"12s\"\ndrain_spread = \"2s\"";
    let mut tidegate = Tidegate::serving(&(route_to(&service) + timeouts)).await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(tidegate.websocket("/").await);
    }
    let begin = Instant::now();
    tidegate.process.signal(Signal::TERM);
    let mut closings = JoinSet::new();
    for (place, mut client) in clients.into_iter().enumerate() {
        closings.spawn(async move {
            // Until its turn comes a session goes on as ever.
            if place == 10 {
                client.expect_echo("still here").await;
            }
            assert_eq!(client.read_frame().await, close(1001, ""));
            let at = begin.elapsed();
            client.send_frame(close(1001, "")).await;
            client.expect_end().await;
            at
        });
    }
    let mut times = closings.join_all().await;
    times.sort();
    // The machine may be slow, but nobody is told too early.
    let (first, last) = (times[0], times[times.len() - 1]);
    let least = SPREAD.mul_f64(0.9);
    assert!(last >= least, "all were closed within {last:?}");
    let half = times.iter().filter(|time| **time < SPREAD / 2).count();
    assert!(half <= 11, "{half} of 20 in the first half: {times:?}");
    assert!(first < SPREAD, "the first one waited for {first:?}");
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_connections_of_clients_that_go_on_to_ask_end_with_a_whole_response() {
    let service = Service::http_echo().await;
    // Where clients may speak either protocol, they have to begin before anybody knows which.
    let configuration = one_listener(&route_to(&service)).replace("bind =", "http2 = true\nbind =");
    let tidegate = Tidegate::start(&configuration).await;
    let mut client = tidegate.connect().await;
    let get = "GET / HTTP/1.1\nHost: a";
    client.exchange(get).await;
    let mut fresh = tidegate.connect().await;
    tidegate.process.signal(Signal::TERM);
    eventually("the end of the listener", async || {
        let connected = tokio::net::TcpStream::connect(tidegate.address(0)).await;
        connected.is_err().then_some(())
    })
    .await;
    for client in [&mut client, &mut fresh] {
        let last = client.exchange(get).await;
        assert_eq!(
            (last.status(), last.field("connection")),
            (200, Some("close"))
        );
        client.expect_end().await;
    }
}

#[tokio::test]
async fn another_process_takes_over_the_address() {
    let service = hanging().await;
    let mut tidegate = Tidegate::serving(&route_to(&service)).await;
    let mut busy = tidegate.connect().await;
    busy.send_head("GET / HTTP/1.1\nHost: a").await;
    busy.read_head().await;
    let mut idle = tidegate.connect().await;

    let successor = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    successor.set_reuse_port(true).unwrap();
    successor.bind(&tidegate.address(0).into()).unwrap();
    successor.listen(64).unwrap();
    tidegate.process.signal(Signal::TERM);
    tidegate.log("draining").await;
    idle.expect_end().await;
    for _ in 0..20 {
        let client = Connection::open(tidegate.address(0)).await;
        let (_, address) = successor.accept().unwrap();
        assert_eq!(address.as_socket(), Some(client.address()));
    }
}

/// Everything that was begun comes to its end, and the process to its own in time.
#[tokio::test]
async fn under_load_every_exchange_is_finished_and_every_session_closed() {
    const BODY: usize = 256 * 1024;
    let (chat, pages) = (Service::websocket_echo().await, whole().await);
    let routes = route_to(&chat).replace("\"/\"", "\"/chat\"") + &route_to(&pages);
    let timeouts = "[timeouts]\ndrain = \"14s\"\ndrain_spread = \"1s\"";
    let configuration = one_listener(&(routes + timeouts)).replace("workers = 1", "workers = 2");
    let mut tidegate = Tidegate::start(&configuration).await;
    let address = tidegate.address(0);
    let mut talks = JoinSet::new();
    for _ in 0..40 {
        let mut client = tidegate.websocket("/chat").await;
        talks.spawn(async move {
            let mut sent = 0_u64;
            loop {
                if client
                    .try_send(text(sent.to_string()).encode(Some([0; 4])))
                    .await
                    .is_err()
                {
                    panic!("cut after {sent} messages");
                }
                let frame = client.read_frame().await;
                if frame == close(1001, "") {
                    client.send_frame(close(1001, "")).await;
                    client.read_to_end().await;
                    return sent;
                }
                assert_eq!(frame, text(sent.to_string()));
                sent += 1;
            }
        });
    }
    let mut asking = JoinSet::new();
    for kept in [true, true, false, false] {
        asking.spawn(async move {
            let mut answered = 0_u64;
            let get = "GET / HTTP/1.1\nHost: a";
            let mut client = None;
            loop {
                let opened = match client.take() {
                    Some(connection) => Some(connection),
                    None => Connection::try_open(address).await.ok(),
                };
                // Refused: it takes no more.
                let Some(mut connection) = opened else {
                    return answered;
                };
                let response = connection.exchange(get).await;
                assert_eq!((response.status(), response.body.len()), (200, BODY));
                answered += 1;
                let ends = response.field("connection") == Some("close");
                client = (kept && !ends).then_some(connection);
            }
        });
    }
    eventually("some load", async || {
        (pages.connections() > 2).then_some(())
    })
    .await;
    tidegate.process.signal(Signal::TERM);
    let began = Instant::now();
    for answered in asking.join_all().await {
        assert!(answered > 0);
    }
    assert_eq!(talks.join_all().await.len(), 40);
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(14));

    /// A service whose answers take some writes.
    async fn whole() -> Service {
        Service::start(|mut connection: Connection| async move {
            while connection.next_request().await.is_some() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                let answer = head + &"x".repeat(BODY);
                if connection.try_send(answer).await.is_err() {
                    return;
                }
            }
        })
        .await
    }
}
