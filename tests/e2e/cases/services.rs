//! Services behind one proxy: how requests are shared out, what services see, and how long they may be
//! silent.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Change, SetUp, change, changes};
use crate::harness::{
    Connection, Frame, Refusing, Service, Tidegate, Unreachable, accepting, check, close,
    eventually, handshake, import, on_free_ports, ping, text,
};

const NAMES: [&str; 5] = ["1", "2", "3", "4", "5"];

/// A handshake for a host.
fn handshake_for(host: &str, target: &str) -> String {
    handshake(target).replace("Host: example.com", &format!("Host: {host}"))
}

async fn telling<const N: usize>() -> [Service; N] {
    let mut services = Vec::new();
    for name in NAMES.into_iter().take(N) {
        services.push(Service::telling(name).await);
    }
    services
        .try_into()
        .unwrap_or_else(|_| panic!("as many as names"))
}

/// Who answered so many requests for a host.
async fn turns(tidegate: &Tidegate, host: &str, count: usize) -> String {
    let mut turns = String::new();
    for _ in 0..count {
        let response = tidegate
            .exchange(&format!("GET / HTTP/1.1\nHost: {host}"))
            .await;
        turns += response.by();
    }
    turns
}

#[tokio::test]
async fn a1_chats_take_turns_on_both_ports_and_files_stay_files() {
    let set_up = SetUp::new().await;
    let services: [Service; 4] = telling().await;
    let places: Vec<Change> = services
        .iter()
        .zip(8888..)
        .map(|(service, port)| change(&format!("127.0.0.1:{port}"), service.address))
        .collect();
    for tidegate in set_up.both("s0a", &places).await {
        let mut turns = String::new();
        for port in [0, 1] {
            let address = tidegate.address(port);
            let host = format!("www.xxxx.com:{}", address.port());
            for _ in 0..5 {
                let mut client = match port {
                    0 => Connection::open(address).await,
                    _ => set_up.authority.connect(address, "www.xxxx.com").await,
                };
                let lines = handshake_for("www.xxxx.com", "/chat");
                let (answer, told) = client.open_told(&lines).await;
                assert_eq!(told.fields("host"), [host.as_str()]);
                turns += answer.field("x-service").unwrap();
                client.expect_echo("hello").await;
            }
        }
        assert!("1234".repeat(4).contains(&turns), "1-2-3-4-1: {turns}");
        // Patterns go before prefixes, also for those who would rather open a WebSocket.
        let lines = handshake_for("www.xxxx.com", "/x.json");
        let response = tidegate.exchange(&lines).await;
        assert_eq!((response.status(), response.text()), (200, "{}"));
        assert_eq!(response.fields("cache-control"), ["max-age=2592000"]);
        assert!(response.field("expires").is_some());
    }
}

/// Failures of an endpoint so far.
async fn failures(tidegate: &Tidegate, address: SocketAddr) -> f64 {
    let address = address.to_string();
    let metrics = tidegate.metrics().await;
    let found = metrics.find("tidegate_endpoint_failures_total", &[("address", &address)]);
    found.unwrap_or_default()
}

#[tokio::test]
async fn a2_ten_failures_take_an_endpoint_out_and_one_probe_finds_out_whether_it_is_back() {
    let set_up = SetUp::new().await;
    let [one, two, three, backup]: [Service; 4] = telling().await;
    let dead = Refusing::new();
    let places = [
        change("127.0.0.1:8881", one.address),
        change("127.0.0.1:8882", two.address),
        change("127.0.0.1:8883", three.address),
        change("127.0.0.1:8884", dead.address),
        change("127.0.0.1:8885", backup.address),
        change("120s", "2s"),
    ];
    const HOST: &str = "www.xxx.com";
    for tidegate in set_up.both("s0b", &places).await {
        let lines = "GET / HTTP/1.1\nHost: www.xxx.com\nX-Forwarded-For: 192.0.2.1";
        let told = tidegate.exchange(lines).await.told();
        assert_eq!(told.fields("x-forwarded-for"), ["192.0.2.1, 127.0.0.1"]);
        assert_eq!(told.fields("remote-host"), ["127.0.0.1"]);
        assert_eq!(told.fields("x-real-ip"), ["127.0.0.1"]);
        assert_eq!(told.fields("host"), [HOST]);

        eventually("the tenth failure", async || {
            let turns = turns(&tidegate, HOST, 8).await;
            assert!(
                !turns.contains('4'),
                "the backup is for when all are out: {turns}"
            );
            let failures = failures(&tidegate, dead.address).await;
            assert!(failures <= 10.0, "it is not tried an eleventh time");
            (failures == 10.0).then_some(())
        })
        .await;
        eventually("the probe", async || {
            turns(&tidegate, HOST, 1).await;
            (failures(&tidegate, dead.address).await > 10.0).then_some(())
        })
        .await;
        turns(&tidegate, HOST, 9).await;
        assert_eq!(
            failures(&tidegate, dead.address).await,
            11.0,
            "one is enough"
        );
    }
}

#[tokio::test]
async fn a2_the_backup_serves_while_all_four_are_out() {
    let set_up = SetUp::new().await;
    let [backup]: [Service; 1] = telling().await;
    let mut dead: Vec<_> = (0..4).map(|_| Refusing::new()).collect();
    let mut places: Vec<Change> = dead
        .iter()
        .zip(8881..)
        .map(|(dead, port)| change(&format!("127.0.0.1:{port}"), dead.address))
        .collect();
    places.push(change("127.0.0.1:8885", backup.address));
    places.push(change("120s", "1s"));
    const HOST: &str = "www.xxx.com";
    let both = set_up.both("s0b", &places).await;
    for tidegate in &both {
        assert_eq!(turns(tidegate, HOST, 12).await, "1".repeat(12));
        for dead in &dead {
            assert_eq!(failures(tidegate, dead.address).await, 10.0);
        }
    }
    let _back = dead.remove(0).serve("back");
    for tidegate in &both {
        let get = async || {
            let response = tidegate.exchange("GET / HTTP/1.1\nHost: www.xxx.com").await;
            response.text() == "back"
        };
        eventually("use of the endpoint that is back", async || {
            get().await.then_some(())
        })
        .await;
        for _ in 0..6 {
            assert!(get().await, "the backup rests again");
        }
    }
}

#[tokio::test]
async fn a3_a_service_below_a_path_is_told_its_own_name_and_may_be_silent_for_long() {
    let set_up = SetUp::new().await;
    let [service]: [Service; 1] = telling().await;
    let name = format!("localhost:{}", service.address.port());
    // A day, and an hour of silence.
    let day = || changes(["86400s", "24s"], ["\"1d\"", "\"24s\""]);
    let hour = Duration::from_secs(1);
    let lines = handshake_for("www.xxx.net", "/ver");
    for tidegate in set_up
        .both("s1", &[change("localhost:9010", &name), day()])
        .await
    {
        let mut client = tidegate.connect().await;
        let (_, told) = client.open_told(&lines).await;
        assert_eq!(told.fields("host"), [name.as_str()]);
        tokio::time::sleep(hour).await;
        client.expect_echo("still here").await;
    }
    // It is the route's time that counts.
    let short = changes(["86400s", "300ms"], ["\"1d\"", "\"300ms\""]);
    for tidegate in set_up
        .both("s1", &[change("localhost:9010", &name), short])
        .await
    {
        let mut client = tidegate.connect().await;
        client.open_told(&lines).await;
        assert_eq!(client.read_frame().await, close(1001, ""));
    }
    let void = Unreachable::new();
    let places = [
        change("localhost:9010", void.address),
        changes(
            ["connect_timeout 5s", "connect_timeout 200ms"],
            ["connect = \"5s\"", "connect = \"200ms\""],
        ),
    ];
    for tidegate in set_up.both("s1", &places).await {
        assert_eq!(tidegate.exchange(&lines).await.status(), 504);
    }
}

#[tokio::test]
async fn a4_each_way_to_name_the_host_is_another_text() {
    let [service]: [Service; 1] = telling().await;
    let port = service.address.port();
    let fragment = format!(
        "server {{ server_name www.example.com;
           location /host {{ proxy_pass http://localhost:{port}; proxy_set_header Host $host; }}
           location /http_host {{ proxy_pass http://localhost:{port}; proxy_set_header Host $http_host; }}
           location /proxy_host {{ proxy_pass http://localhost:{port}; proxy_set_header Host $proxy_host; }}
           location /port {{ proxy_pass http://localhost:{port}; proxy_set_header Host $host:$server_port; }}
         }}"
    );
    let tidegate = Tidegate::imported(&fragment).await;
    let listener = tidegate.address(0).port();
    for (target, expected) in [
        ("/host", "www.example.com".to_owned()),
        ("/http_host", "Www.Example.com:81".to_owned()),
        ("/proxy_host", format!("localhost:{port}")),
        ("/port", format!("www.example.com:{listener}")),
    ] {
        let lines = format!("GET {target} HTTP/1.1\nHost: Www.Example.com:81");
        let told = tidegate.exchange(&lines).await.told();
        assert_eq!(told.fields("host"), [expected], "{target}");
    }
}

#[tokio::test]
async fn a5_the_default_server_answers_for_unknown_hosts_and_urls_in_a_group_are_refused() {
    let set_up = SetUp::new().await;
    let services: [Service; 2] = telling().await;
    let places: Vec<Change> = services
        .iter()
        .zip([8080, 8081])
        .map(|(service, port)| {
            let to = format!("localhost:{}", service.address.port());
            let url = format!("http://localhost:{port}");
            // The file of Tidegate speaks of the mistake in a comment.
            let listed = format!("\"localhost:{port}\"");
            changes([&url, &to], [&listed, &format!("\"{to}\"")])
        })
        .collect();
    for tidegate in set_up.both("s1-default-server", &places).await {
        for host in ["www.xxx.net", "unknown.example", "127.0.0.1"] {
            let seen = turns_of(&tidegate, host).await;
            assert!(["12", "21"].contains(&seen.as_str()), "{host}: {seen}");
        }
        let lines = handshake_for("unknown.example", "/res");
        let (_, told) = tidegate.connect().await.open_told(&lines).await;
        assert_eq!(told.fields("host"), ["unknown.example"]);
    }
    let folder = set_up.folder();
    let report = import(&folder, &super::example("s1-default-server.conf")).unwrap_err();
    for (line, port) in [(4, 8080), (5, 8081)] {
        let said = format!(
            "site.conf:{line}: server: invalid host in upstream \"http://localhost:{port}\": http:// \
             belongs to `proxy_pass`; write server localhost:{port};"
        );
        assert!(report.contains(&said), "{report}");
    }
    let wrong = super::example("s1-default-server.toml")
        .replace("[\"localhost:8080\"", "[\"http://localhost:8080\"");
    let problems = check(&wrong).unwrap_err();
    for said in [
        "tidegate.toml:10:14: ",
        "invalid host in upstream",
        "write \"localhost:8080\"",
    ] {
        assert!(problems.contains(said), "{problems}");
    }
}

async fn turns_of(tidegate: &Tidegate, host: &str) -> String {
    let mut turns = String::new();
    for _ in 0..2 {
        let lines = format!("GET /res/1 HTTP/1.1\nHost: {host}");
        turns += tidegate.exchange(&lines).await.by();
    }
    turns
}

/// A handshake's key, and what answers it.
const ANSWERS: [(&str, &str, bool); 3] = [
    (
        "hj0eNqbhE/A0GkBXDRrYYw==",
        "tAsr1vlKhIQGZ37CVuLBbuaIxXw=",
        true,
    ),
    (
        "hj0eNqbhE/A0GkBXDRrYYw==",
        "ZEs+c+VBk8Aj01+wJGN7Y15796g=",
        false,
    ),
    (
        "dGhlIHNhbXBsZSBub25jZQ==",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        true,
    ),
];

#[tokio::test]
async fn a6_an_answer_that_does_not_fit_its_key_is_refused_unless_nobody_minds() {
    for (key, accept, is_right) in ANSWERS {
        let service = Service::start(move |mut connection| async move {
            let request = connection.read_head().await;
            assert_eq!(request.field("sec-websocket-key"), Some(key));
            // Tornado's answer has a length as well.
            let answer = accepting(&request)
                .replacing("sec-websocket-accept", Some(accept))
                .with("Content-Length", "0")
                .with("Server", "TornadoServer/4.3");
            connection.send(answer.to_wire()).await;
            connection.next_frame().await;
        })
        .await;
        let lines = handshake("/").replace("dGhlIHNhbXBsZSBub25jZQ==", key);
        for rules in ["strict", "lenient"] {
            let mut tidegate = Tidegate::serving(&format!(
                "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\nwebsocket.handshake = \"{rules}\"",
                service.address
            ))
            .await;
            let mut client = tidegate.connect().await;
            client.send_head(&lines).await;
            let head = client.read_head().await;
            match (is_right, rules) {
                (false, "strict") => assert_eq!(head.status(), 502, "{accept}"),
                _ => {
                    assert_eq!(head.status(), 101, "{accept}, {rules}");
                    assert_eq!(head.fields("sec-websocket-accept"), [accept]);
                }
            }
            if !is_right && rules == "lenient" {
                tidegate.log("lenient about a handshake").await;
            }
        }
    }
}

/// The echo service of the set-up; a path that begins with `/pinging` has it ping every 200 ms.
async fn prefixing(name: &'static str) -> Service {
    Service::start(move |mut connection| async move {
        while let Some(request) = connection.next_request().await {
            if request.field("sec-websocket-key").is_none() {
                let body = request.to_wire();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nX-Service: {name}\r\nContent-Length: {length}\r\n\r\n"
                );
                connection.send(head + &body).await;
                continue;
            }
            let answer = accepting(&request).with("X-Service", name);
            connection.send(answer.to_wire()).await;
            while request.target().starts_with("/pinging") {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if connection.try_send(ping("").encode(None)).await.is_err() {
                    return;
                }
            }
            while let Some(Frame { payload, .. }) = connection.next_frame().await {
                let said = String::from_utf8_lossy(&payload).into_owned();
                let answer = text(format!("Server received from client: {said}"));
                if connection.try_send(answer.encode(None)).await.is_err() {
                    return;
                }
            }
            return;
        }
    })
    .await
}

#[tokio::test]
async fn a7_two_echo_services_take_turns_and_sessions_end_after_silence() {
    let set_up = SetUp::new().await;
    let services = [prefixing("1").await, prefixing("2").await];
    let mut places: Vec<Change> = services
        .iter()
        .zip([8010, 8011])
        .map(|(service, port)| {
            let to = format!("localhost:{}", service.address.port());
            change(&format!("localhost:{port}"), to)
        })
        .collect();
    places.push(change("300s", "1s"));
    for tidegate in set_up.both("s2", &places).await {
        let mut turns = String::new();
        for _ in 0..4 {
            let mut client = tidegate.connect().await;
            let answer = client.open_websocket("/").await;
            turns += answer.field("x-service").unwrap();
            client.send_frame(text("Hello")).await;
            let said = client.read_frame().await;
            assert_eq!(said, text("Server received from client: Hello"));
        }
        assert!("12121".contains(&turns), "{turns}");
        let told = tidegate.get("/").await.told();
        assert_eq!(told.fields("connection"), ["close"]);
        assert_eq!(told.fields("x-real-ip"), ["127.0.0.1"]);

        let mut silent = tidegate.websocket("/").await;
        let mut pinged = tidegate.websocket("/pinging").await;
        let silent = tokio::spawn(async move {
            assert_eq!(silent.read_frame().await, close(1001, ""));
            silent.expect_end().await;
        });
        // It has been pinged for longer than the other one has lived.
        while !silent.is_finished() {
            assert_eq!(pinged.read_frame().await, ping(""));
        }
        silent.await.unwrap();
        assert_eq!(pinged.read_frame().await, ping(""));
    }
    places.push(changes(
        ["#ip_hash", "ip_hash"],
        ["\nendpoints", "\nbalance = \"ip-hash\"\nendpoints"],
    ));
    for tidegate in set_up.both("s2", &places).await {
        let turns = turns(&tidegate, "ws.repo", 4).await;
        assert!(["1111", "2222"].contains(&turns.as_str()), "{turns}");
    }
}

#[tokio::test]
async fn a12_a_file_that_lost_its_dollars_is_told_so_line_by_line() {
    let set_up = SetUp::new().await;
    let report = import(&set_up.folder(), &super::example("s4.conf")).unwrap_err();
    for said in [
        "site.conf:8: proxy_pass: expected 1 argument, found none; write the service's address: proxy_pass http://127.0.0.1:9001;",
        "site.conf:10: proxy_set_header: \"http_upgrade\" would be sent as it is; its `$` is lost; write $http_upgrade",
        "site.conf:12: proxy_set_header: \"host\" would be sent as it is; its `$` is lost; write $host",
    ] {
        assert!(report.contains(said), "{report}");
    }
    let written = super::example("s4.toml")
        .replace("\"http://127.0.0.1:9001\"", "\"\"")
        .replace('$', "");
    let problems = check(&written).unwrap_err();
    for said in [
        "tidegate.toml:12:3: sites[0].routes[0].url: expected a URL such as \"http://localhost:9010\", found \"\"",
        "warning: ",
        "tidegate.toml:14:19: sites[0].routes[0].set_headers.Upgrade: \"http_upgrade\" is sent as it is; did you mean \"$http_upgrade\"?",
        "set_headers.Host: \"host\" is sent as it is; did you mean \"$host\"?",
    ] {
        assert!(problems.contains(said), "no {said:?} in\n{problems}");
    }
    // With its dollars it works.
    let [service]: [Service; 1] = telling().await;
    let places = change("127.0.0.1:9001", service.address).tidegate;
    let right = super::example("s4.toml").replace(&places.0, &places.1);
    let tidegate = Tidegate::start(&on_free_ports(&right)).await;
    let lines = handshake_for("www.example.com", "/websocket");
    let (_, told) = tidegate.connect().await.open_told(&lines).await;
    assert_eq!(told.fields("host"), ["www.example.com"]);
}
