//! What takes more than a request and its answer to tell.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Told, World};
use crate::harness::{Connection, close, eventually, handshake, text};

/// Fails unless the services of requests come in this order, wherever it begins.
async fn in_turn(world: &World, order: &str) {
    let turns = world.turns("/", 2 * order.len()).await;
    let (first, second) = turns.split_at(order.len());
    assert_eq!(first, second, "the round repeats");
    assert!(order.repeat(2).contains(first), "{first} is not {order}");
}

pub(super) fn weights_5_1_1(world: &mut World) -> Told<'_> {
    Box::pin(in_turn(world, "1121311"))
}

pub(super) fn two_in_turn(world: &mut World) -> Told<'_> {
    Box::pin(in_turn(world, "12"))
}

pub(super) fn four_in_turn(world: &mut World) -> Told<'_> {
    Box::pin(in_turn(world, "1234"))
}

/// Failures of the endpoint that refuses connections.
async fn failures(world: &World) -> f64 {
    let address = world.dead.address.to_string();
    let metrics = world.tidegate.metrics().await;
    let found = metrics.find("tidegate_endpoint_failures_total", &[("address", &address)]);
    found.unwrap_or_default()
}

pub(super) fn three_failures_and_no_fourth(world: &mut World) -> Told<'_> {
    Box::pin(async {
        assert_eq!(world.turns("/", 12).await, "1".repeat(12));
        assert_eq!(failures(world).await, 3.0);
    })
}

pub(super) fn failures_without_end(world: &mut World) -> Told<'_> {
    Box::pin(async {
        world.turns("/", 8).await;
        let (some, tried) = (failures(world).await, 4.0);
        assert!(
            some >= tried,
            "it is tried as often as it is its turn: {some}"
        );
    })
}

pub(super) fn errors_of_services_are_no_failures(world: &mut World) -> Told<'_> {
    Box::pin(async {
        for path in ["/status/500", "/status/404", "/status/403"] {
            let turns = world.turns(path, 6).await;
            assert!("121212 212121".contains(&turns), "{path}: {turns}");
        }
    })
}

pub(super) fn handshakes_of_the_dead_go_to_the_living(world: &mut World) -> Told<'_> {
    Box::pin(async {
        for _ in 0..2 {
            let mut client = world.connect().await;
            let (answer, _) = client.open_told(&handshake("/")).await;
            assert_eq!(answer.field("x-service"), Some("1"));
            client.expect_echo("hello").await;
        }
        assert_eq!(failures(world).await, 1.0);
    })
}

pub(super) fn nobody_left_is_a_502_at_once(world: &mut World) -> Told<'_> {
    Box::pin(async {
        assert_eq!(world.get("/").await.status(), 502);
        // The endpoint rests now.
        assert_eq!(world.get("/").await.status(), 502);
        let line = world.tidegate.log("request failed").await;
        let line = match line["error"]
            .as_str()
            .unwrap()
            .contains("no live upstreams")
        {
            true => line,
            false => world.tidegate.log("request failed").await,
        };
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("no live upstreams in `g`"), "{error}");
        assert_eq!(failures(world).await, 1.0);
    })
}

pub(super) fn networks_stay_where_they_are(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let mut seen = Vec::new();
        for network in 0..8 {
            let mut of_network = Vec::new();
            for host in [1, 2, 200] {
                let client = IpAddr::from([127, 0, network, host]);
                let mut client = Connection::open_from(client, world.tidegate.address(0)).await;
                let response = client.exchange("GET / HTTP/1.1\nHost: a").await;
                of_network.push(response.by().to_owned());
            }
            of_network.dedup();
            assert_eq!(of_network.len(), 1, "127.0.{network}.x: {of_network:?}");
            seen.extend(of_network);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["1", "2", "3"], "networks are spread");
    })
}

pub(super) fn both_ports_answer_and_plain_http_on_tls_is_a_400(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let request = "GET / HTTP/1.1\nHost: one.example";
        let seen = world.ask(request).await.told();
        assert_eq!(seen.field("x-scheme"), Some("http"));
        let address = world.tidegate.address(1);
        let mut client = world.authority.connect(address, "one.example").await;
        let seen = client.exchange(request).await.told();
        assert_eq!(seen.field("x-scheme"), Some("https"));
        let mut client = Connection::open(address).await;
        let response = client.exchange(request).await;
        assert_eq!((response.status(), response.by()), (400, "-"));
        client.expect_end().await;
    })
}

pub(super) fn certificates_follow_the_server_name(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let address = world.tidegate.address(0);
        for name in ["one.example", "two.example"] {
            // The client knows that the certificate is for this name.
            let mut client = world.authority.connect(address, name).await;
            let lines = format!("GET / HTTP/1.1\nHost: {name}");
            let response = client.exchange(&lines).await;
            assert_eq!(format!("{}.example", response.text()), name);
        }
    })
}

pub(super) fn dhparam_is_left_out_and_told(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let toml = world.tidegate.folder.read("tidegate.toml");
        let left_out = "# left out: ssl_dhparam dh.pem (DHE is not used";
        assert!(toml.contains(left_out), "{toml}");
    })
}

pub(super) fn a_frame_may_come_with_the_handshake(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let lines = handshake("/");
        let head: String = lines
            .lines()
            .map(|line| format!("{}\r\n", line.trim()))
            .collect();
        let mut bytes = format!("{head}\r\n").into_bytes();
        bytes.extend(text("early").encode(Some([1, 2, 3, 4])));
        let mut client = world.connect().await;
        client.send(bytes).await;
        assert_eq!(client.read_head().await.status(), 101);
        // The service's first frame comes with its 101.
        client.read_frame().await;
        assert_eq!(client.read_frame().await, text("early"));
    })
}

pub(super) fn a_101_may_have_a_content_length_of_0(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let lines = handshake("/") + "\nX-Say: Content-Length: 0\nX-Say: Server: TornadoServer/4.3";
        let mut client = world.connect().await;
        let (answer, _) = client.open_told(&lines).await;
        assert_eq!(answer.field("content-length"), None);
        client.expect_echo("hello").await;
    })
}

pub(super) fn a_service_that_does_not_read_is_a_504(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let mut client = world.connect().await;
        client
            .send_head("POST /deaf HTTP/1.1\nHost: a\nContent-Length: 1000000000")
            .await;
        client
            .send_until_stalled(&[b'x'; 65536], 1_000_000_000)
            .await;
        assert_eq!(client.read_response().await.status(), 504);
    })
}

pub(super) fn silence_ends_exchanges_and_tunnels(world: &mut World) -> Told<'_> {
    Box::pin(async {
        assert_eq!(world.get("/silent").await.status(), 504);
        let (mut silent, mut speaking) = (world.connect().await, world.connect().await);
        silent.open_told(&handshake("/")).await;
        speaking.open_told(&handshake("/")).await;
        let began = Instant::now();
        let silent = tokio::spawn(async move {
            assert_eq!(silent.read_frame().await, close(1001, ""));
            silent.expect_end().await;
            Instant::now()
        });
        // What only one side says keeps a tunnel open; here it is answered.
        while !silent.is_finished() {
            speaking.expect_echo("still here").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ended = silent.await.unwrap();
        assert!(
            ended - began >= Duration::from_millis(900),
            "it waits its time"
        );
        speaking.expect_echo("and still").await;
    })
}

pub(super) fn either_side_ends_a_tunnel(world: &mut World) -> Told<'_> {
    Box::pin(async {
        // The service ends its connection behind its Close frame.
        let mut client = world.connect().await;
        client.open_told(&handshake("/")).await;
        client.send_frame(close(1000, "")).await;
        assert_eq!(client.read_frame().await, close(1000, ""));
        client.expect_end().await;
        let mut client = world.connect().await;
        client.open_told(&handshake("/")).await;
        drop(client);
        // Its script ends when its connection does.
        world.services[0].finished().await;
        // And no request comes over either of these connections.
        assert_eq!(world.get("/").await.by(), "1");
        assert_eq!(world.services[0].connections(), 3);
    })
}

/// Waits until a log has exactly this in it.
async fn logged(world: &World, file: &str, content: &str) {
    eventually(content, async || {
        (world.tidegate.folder.read(file) == content).then_some(())
    })
    .await;
}

pub(super) fn a_client_that_leaves_is_a_499_unless_it_is_ignored(world: &mut World) -> Told<'_> {
    Box::pin(async {
        for path in ["/silent", "/slow"] {
            let before = world.services[0].connections();
            let mut client = world.connect().await;
            let lines = format!("GET {path} HTTP/1.1\nHost: a");
            client.send_head(&lines).await;
            eventually("the request at the service", async || {
                (world.services[0].connections() > before).then_some(())
            })
            .await;
            client.reset();
        }
        logged(world, "access.log", "/silent 499\n/slow 200\n").await;
    })
}

pub(super) fn a_tunnel_has_one_line_at_its_end(world: &mut World) -> Told<'_> {
    Box::pin(async {
        let mut client = world.connect().await;
        let (_, told) = client.open_told(&handshake("/tunnel")).await;
        client.expect_echo("hello").await;
        world.get("/after/status/404").await;
        let length = world.get("/length").await.body.len();
        drop(client);
        let lines = eventually("three lines", async || {
            let log = world.tidegate.folder.read("access.log");
            (log.lines().count() == 3).then_some(log)
        })
        .await;
        let lines: Vec<_> = lines.lines().collect();
        assert!(lines[0].starts_with("/after/status/404 404 "), "{lines:?}");
        assert_eq!(lines[1], format!("/length 200 {length}"));
        let told = text(told.to_wire()).encode(None).len();
        let bytes = told + text("hello").encode(None).len();
        assert_eq!(lines[2], format!("/tunnel 101 {bytes}"));
        assert_eq!(world.get("/combined").await.status(), 204);
        let line = eventually("a line", async || {
            let log = world.tidegate.folder.read("combined.log");
            (!log.is_empty()).then_some(log)
        })
        .await;
        assert!(
            line.ends_with("\"GET /combined HTTP/1.1\" 204 0 \"-\" \"-\"\n"),
            "{line}"
        );
    })
}
