//! Listeners that a reload adds, removes or leaves alone.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use crate::harness::{Connection, Service, Tidegate, eventually, route_to};

/// A configuration with these listeners, and a route to a service at all of them.
fn with(listeners: &[&str], service: &Service) -> String {
    let listener = |bind: &&str| format!("[[listeners]]\nbind = \"{bind}\"\n");
    let listeners: String = listeners.iter().map(listener).collect();
    format!(
        "workers = 2\n{listeners}[[sites]]\ndefault = true\n{}",
        route_to(service)
    )
}

/// The sockets that listen at a port, as the kernel numbers them.
fn sockets(tidegate: &Tidegate, address: SocketAddr) -> BTreeSet<u64> {
    const LISTENS: &str = "0A";
    let table =
        std::fs::read_to_string(format!("/proc/{}/net/tcp", tidegate.process.id())).unwrap();
    let port = format!(":{:04X}", address.port());
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&port) && row[3] == LISTENS)
        .map(|row| row[9].parse().unwrap())
        .collect()
}

async fn is_refused(address: SocketAddr) -> bool {
    let connected = tokio::net::TcpStream::connect(address).await;
    connected.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_listener_is_added_and_removed_while_the_others_keep_their_sockets() {
    let service = Service::websocket_echo().await;
    let (one, other) = ("127.0.0.1:0", "127.0.0.2:0");
    let mut tidegate = Tidegate::start(&with(&[one], &service)).await;
    let first = tidegate.address(0);
    let held = sockets(&tidegate, first);
    assert_eq!(held.len(), 2, "one for each worker");
    let mut old = tidegate.websocket("/").await;

    // In front of the other: places in the file mean nothing.
    tidegate
        .folder
        .write("tidegate.toml", with(&[other, one], &service));
    tidegate.process.signal(rustix::process::Signal::HUP);
    let added = tidegate.bound().await;
    assert_eq!(tidegate.reloaded().await, Ok(2));
    assert_eq!(added.ip().to_string(), "127.0.0.2");
    let mut sessions = Vec::new();
    for _ in 0..8 {
        let mut client = Connection::open(added).await;
        client.open_websocket("/").await;
        client.expect_echo("by the new one").await;
        sessions.push(client);
    }
    assert_eq!(sockets(&tidegate, first), held);

    // The first one goes. What came in by it goes on.
    let mut kept = Connection::open(first).await;
    tidegate
        .reload_with(&with(&[other], &service))
        .await
        .unwrap();
    eventually("the end of the listener", async || {
        is_refused(first).await.then_some(())
    })
    .await;
    old.expect_echo("still here").await;
    for client in &mut sessions {
        client.expect_echo("here too").await;
    }
    kept.open_websocket("/").await;
    kept.expect_echo("late, but in time").await;

    // And comes back.
    tidegate
        .folder
        .write("tidegate.toml", with(&[other, one], &service));
    tidegate.process.signal(rustix::process::Signal::HUP);
    let back = tidegate.bound().await;
    tidegate.reloaded().await.unwrap();
    let mut client = Connection::open(back).await;
    client.open_websocket("/").await;
    client.expect_echo("again").await;
}

#[tokio::test]
async fn the_connection_of_a_removed_listener_is_told_to_go_with_its_next_response() {
    let service = Service::http_echo().await;
    let mut tidegate = Tidegate::start(&with(&["127.0.0.1:0", "127.0.0.2:0"], &service)).await;
    let mut client = tidegate.connect().await;
    let get = "GET / HTTP/1.1\nHost: a";
    assert_eq!(client.exchange(get).await.field("connection"), None);
    tidegate
        .reload_with(&with(&["127.0.0.2:0"], &service))
        .await
        .unwrap();
    let last = client.exchange(get).await;
    assert_eq!(last.status(), 200);
    assert_eq!(last.field("connection"), Some("close"));
    client.expect_end().await;
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_fails_the_whole_reload() {
    let service = Service::http_echo().await;
    let mut tidegate = Tidegate::start(&with(&["127.0.0.1:0"], &service)).await;
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = taken
        .each_ref()
        .map(|taken| taken.local_addr().unwrap().to_string());
    let other = Service::answering("other").await;
    let next = with(&["127.0.0.2:0", &one, &two], &other);
    let error = tidegate.reload_with(&next).await.unwrap_err();
    for address in [&one, &two] {
        let says = format!("cannot listen on {address}: the address is in use");
        assert!(error.contains(&says), "{error}");
    }
    tidegate.get("/").await.seen_by_service();
    drop(taken);
    assert_eq!(tidegate.reload_with(&next).await, Ok(2));
    let mut client = Connection::open(one.parse().unwrap()).await;
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "other"
    );
}

#[tokio::test]
async fn an_address_gives_way_to_all_addresses_of_its_port() {
    let service = Service::answering("here").await;
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let [narrow, wide] = ["127.0.0.1", "0.0.0.0"].map(|ip| format!("{ip}:{port}"));
    let mut tidegate = Tidegate::start(&with(&[&narrow], &service)).await;
    tidegate
        .reload_with(&with(&[&wide], &service))
        .await
        .unwrap();
    let mut client = Connection::open(format!("127.0.0.2:{port}").parse().unwrap()).await;
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "here"
    );
}

/// Those that the kernel has accepted for a listener are not lost with it.
#[tokio::test]
async fn no_connection_is_lost_to_a_listener_that_closes() {
    let service = Service::answering("here").await;
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let [narrow, wide] = ["127.0.0.1", "0.0.0.0"].map(|ip| format!("{ip}:{port}"));
    let mut tidegate = Tidegate::start(&with(&[&narrow], &service)).await;
    let address: SocketAddr = narrow.parse().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let stopped = stopped.clone();
        clients.spawn(async move {
            while !*stopped.borrow() {
                let mut client = Connection::open(address).await;
                let answer = client.exchange("GET / HTTP/1.1\nHost: a").await;
                assert_eq!(answer.text(), "here");
            }
        });
    }
    for _ in 0..5 {
        // Never neither of them.
        for listeners in [
            &[&*narrow, &*wide][..],
            &[&wide],
            &[&wide, &narrow],
            &[&narrow],
        ] {
            tidegate
                .reload_with(&with(listeners, &service))
                .await
                .unwrap();
        }
    }
    stop.send_replace(true);
    clients.join_all().await;
}
