//! `tidegate explain`: which way a request would take, told without taking it.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Authority, Folder, Service, Tidegate, command};

const FILE: &str = r#"
[[listeners]]
bind = "127.0.0.1:8080"
[[listeners]]
bind = "127.0.0.1:8081"
[maps.device]
source = "$http_x_kind"
default = "desktop"
values = { "~^bot-(.*)$" = "robot $1", mobile = "phone" }
[upstreams.chat]
endpoints = [
  { address = "127.0.0.1:9001", weight = 5 },
  "127.0.0.1:9002",
  { address = "127.0.0.1:9005", backup = true },
]
[plugins.served-by]
module = "builtin:headers"
config = { request = { set = { X-Served = "1" } }, response = { set = { X-Served-By = "tidegate" } } }
[plugins.redact]
module = "builtin:redact"
config = { words = ["secret"] }
[[sites]]
names = ["www.example.com", "*.example.org"]
listeners = ["127.0.0.1:8080"]
  [[sites.routes]]
  match = "/chat"
  upstream = "chat"
  plugins = ["served-by", "redact"]
  timeouts = { read = "5m" }
  set_headers = { Host = "$host:$server_port", X-Kind-Is = "$device", X-Real-IP = "$remote_addr" }
  [[sites.routes]]
  match = "~ [.]png$"
  url = "http://127.0.0.1:9010"
  upgrade = []
  [[sites.routes]]
  match = "= /old"
  redirect = "/chat"
[[sites]]
names = ["*.www.example.org"]
  [[sites.routes]]
  match = "/"
  respond = { status = 204 }
[[sites]]
listeners = ["127.0.0.1:8081"]
  [[sites.routes]]
  match = "/"
  respond = { status = 404 }
"#;

#[test]
fn site_and_route_are_told_with_the_reason_why_not_the_others() {
    let told = explained(&["http://www.example.com:8080/chat/a.png"]);
    assert_eq!(told["listener"]["name"], "127.0.0.1:8080");
    assert_eq!(told["site"]["key"], "sites[0]");
    assert_eq!(told["site"]["why"], "www.example.com is its name");
    assert_eq!(
        told["site"]["others"],
        json!([
            { "key": "sites[1]", "name": "*.www.example.org", "why": "has no name that fits \"www.example.com\"" },
            { "key": "sites[2]", "name": "the site without names", "why": "is not on 127.0.0.1:8080" },
        ])
    );
    assert_eq!(told["route"]["key"], "sites[0].routes[1]");
    assert_eq!(
        told["route"]["why"],
        "its pattern is the first that matches"
    );
    assert_eq!(
        told["route"]["others"],
        json!([
            { "key": "sites[0].routes[0]", "name": "/chat", "why": "its prefix is the longest, but patterns go before" },
            { "key": "sites[0].routes[2]", "name": "= /old", "why": "does not match /chat/a.png" },
        ])
    );

    let told = explained(&["http://a.www.example.org:8080/"]);
    assert_eq!(told["site"]["key"], "sites[1]", "the longer wildcard");
    assert_eq!(
        told["site"]["others"][0]["why"],
        "its name *.example.org fits, but that comes later"
    );
    let told = explained(&["http://nobody:8080/chat"]);
    assert_eq!(
        told["site"]["why"],
        "no site of 127.0.0.1:8080 has the name \"nobody\", and it is the default"
    );
}

#[test]
fn variables_are_told_with_how_maps_came_to_theirs() {
    let value = |header: &str| {
        let told = explained(&["http://www.example.com:8080/chat", "-H", header]);
        let variables = told["variables"].as_array().unwrap().clone();
        variables
            .into_iter()
            .find(|variable| variable["name"] == "device")
            .unwrap()
    };
    for (header, expected, why) in [
        ("X-Kind: Mobile", "phone", "\"Mobile\" is one of its keys"),
        ("X-Kind: bot-9", "robot 9", "\"bot-9\" matches ~ ^bot-(.*)$"),
        ("X-Other: 1", "desktop", "\"\" is none of its keys"),
    ] {
        assert_eq!(
            value(header),
            json!({ "name": "device", "value": expected, "why": why })
        );
    }
}

#[test]
fn plugins_are_told_in_the_order_of_each_phase() {
    let told = explained(&["http://www.example.com:8080/chat"]);
    assert_eq!(
        told["plugins"],
        json!({
            "request": ["served-by"],
            "endpoint": [],
            "response": ["served-by"],
            "messages_from_client": ["redact"],
            "messages_from_service": ["redact"],
        })
    );
}

#[test]
fn what_the_proxy_answers_by_itself_is_told_and_what_it_would_refuse() {
    let told = explained(&["http://www.example.com:8080/old"]);
    let answer = &told["outcomes"][0]["answered"];
    assert_eq!(answer["line"], "HTTP/1.1 302 Found");
    assert_eq!(
        answer["fields"][0],
        json!(["location", "http://www.example.com:8080/chat"])
    );
    assert_eq!(told["upstream"], Value::Null);

    let told = explained(&["http://www.example.com:8080/nothing"]);
    assert_eq!(told["route"], Value::Null);
    assert_eq!(told["refused"]["status"], 404);
    let told = explained(&["http://www.example.com:8080/%zz"]);
    assert_eq!(told["refused"]["status"], 400);
    let told = explained(&["http://www.example.com:8080/a.png"]);
    let handshake = &told["outcomes"][1]["sent"];
    assert!(
        handshake["note"]
            .as_str()
            .unwrap()
            .contains("asks for no upgrade")
    );
}

#[test]
fn endpoints_are_told_in_the_order_of_their_turns() {
    let told = explained(&["http://www.example.com:8080/chat"]);
    let upstream = &told["upstream"];
    assert_eq!(upstream["name"], "chat");
    assert_eq!(upstream["endpoints"][0]["share"], "5 of 6");
    assert_eq!(upstream["endpoints"][2]["backup"], true);
    assert_eq!(
        upstream["tries"],
        json!(["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9005"])
    );
    // Smooth weighted round-robin with 5 and 1.
    let next: Vec<_> = upstream["next"].as_array().unwrap().iter().collect();
    let second = next
        .iter()
        .filter(|address| **address == "127.0.0.1:9002")
        .count();
    assert_eq!((next.len(), second), (8, 1), "{next:?}");
    assert_eq!(
        told["settings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == "timeouts.read (route)")
            .unwrap()["value"],
        "\"5m\""
    );
}

#[test]
fn a_request_over_tls_is_told_as_one() {
    let folder = Folder::new();
    let issued = Authority::new().issue(&["a.example.com"]);
    folder.write("cert.pem", &issued.chain);
    folder.write("key.pem", &issued.key);
    folder.write(
        "tidegate.toml",
        r#"
        [[listeners]]
        bind = "127.0.0.1:8443"
        tls = true
        [[sites]]
        names = ["a.example.com"]
        certificate = { chain = "cert.pem", key = "key.pem" }
        [[sites.routes]]
        match = "/"
        url = "http://127.0.0.1:9001"
        set_headers = { X-Scheme = "$scheme" }
        "#,
    );
    let told = json(&run(&folder, &["https://a.example.com:8443/"]));
    let fields = told["outcomes"][0]["sent"]["fields"].as_array().unwrap();
    assert!(fields.contains(&json!(["x-scheme", "https"])), "{told}");
}

#[test]
fn hashes_are_told_where_a_request_is_led_by_one() {
    let told = |balance: &str, arguments: &[&str]| {
        let folder = Folder::new();
        let line = "[upstreams.chat]";
        folder.write(
            "tidegate.toml",
            FILE.replace(line, &format!("{line}\nbalance = {balance}"))
                .replace("  { address = \"127.0.0.1:9005\", backup = true },\n", ""),
        );
        let mut all = vec!["http://www.example.com:8080/chat"];
        all.extend(arguments);
        json(&run(&folder, &all))["upstream"].clone()
    };
    // nginx's own number for 192.168.2.0/24.
    let by_address = told("\"ip-hash\"", &["--from", "192.168.2.7"]);
    assert_eq!(by_address["balance"], "ip-hash, 155");
    assert_eq!(
        by_address["tries"],
        told("\"ip-hash\"", &["--from", "192.168.2.200"])["tries"]
    );
    let by_key = told("{ hash = \"$http_x_room\" }", &["-H", "X-Room: 7"]);
    assert!(
        by_key["balance"]
            .as_str()
            .unwrap()
            .starts_with("hash of \"7\", "),
        "{by_key}"
    );
    let next = by_key["next"].as_array().unwrap();
    assert!(
        next.iter().all(|address| *address == by_key["tries"][0]),
        "{by_key}"
    );
    assert_eq!(told("\"random-two\"", &[])["tries"], json!([]));
}

/// The proxy's own code tells what it would send, so this is that it does.
#[tokio::test]
async fn the_head_that_is_told_is_the_head_that_is_sent() {
    let service = Service::http_echo().await;
    let file = format!(
        r#"
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        [[sites]]
        default = true
        [[sites.routes]]
        match = "/app/"
        url = "http://{}/inner/"
        set_headers = {{ Host = "$proxy_host", X-Forwarded-For = "$proxy_add_x_forwarded_for", X-Uri = "$request_uri", Accept = "" }}
        "#,
        service.address
    );
    let tidegate = Tidegate::start(&file).await;
    let folder = Folder::new();
    folder.write("tidegate.toml", &file);
    let told = json(&run(
        &folder,
        &[
            "http://example.com/app/x%2Fy?z=1",
            "-H",
            "Accept: text/html",
            "-H",
            "X-Forwarded-For: 192.0.2.1",
            "-H",
            "Connection: x-hop",
            "-H",
            "X-Hop: 1",
        ],
    ));
    let response = tidegate
        .exchange(
            "GET /app/x%2Fy?z=1 HTTP/1.1
            Host: example.com
            Accept: text/html
            X-Forwarded-For: 192.0.2.1
            Connection: x-hop
            X-Hop: 1",
        )
        .await;
    let seen = response.seen_by_service();
    let sent = &told["outcomes"][0]["sent"];
    assert_eq!(sent["line"], seen.start);
    let mut fields: Vec<(String, String)> = serde_json::from_value(sent["fields"].clone()).unwrap();
    let mut expected = seen.fields.clone();
    for (name, _) in &mut expected {
        name.make_ascii_lowercase();
    }
    fields.sort();
    expected.sort();
    assert_eq!(fields, expected);
}

#[test]
fn a_terminal_gets_the_same_in_words() {
    let folder = Folder::new();
    folder.write("tidegate.toml", FILE);
    let mut explain = command();
    explain.args([
        "explain",
        "tidegate.toml",
        "ws://www.example.com:8080/chat",
        "--from",
        "192.0.2.7",
    ]);
    let output = explain.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "request    GET ws://www.example.com:8080/chat, from 192.0.2.7",
        "site       www.example.com, *.example.org  (sites[0])",
        "           because its prefix is the longest, and no pattern matches",
        "           $remote_addr = \"192.0.2.7\"",
        "             GET /chat HTTP/1.1",
        "             host: www.example.com:8080",
        "             upgrade: websocket",
        "           messages from the client: redact",
        "           this request tries 127.0.0.1:9001, then 127.0.0.1:9002, then 127.0.0.1:9005",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line:?} in\n{text}"
        );
    }
}

#[test]
fn questions_that_cannot_be_asked_are_explained() {
    let folder = Folder::new();
    folder.write("tidegate.toml", FILE);
    for (arguments, expected) in [
        (
            &["www.example.com/chat"][..],
            "expected a URL such as http://www.example.com/chat, found \"www.example.com/chat\"; it has no scheme",
        ),
        (
            &["ftp://a/"],
            "expected a URL such as http://www.example.com/chat, found \"ftp://a/\"; its scheme is none of http, https, ws and wss",
        ),
        (
            &["http://user@a/"],
            "expected a URL such as http://www.example.com/chat, found \"http://user@a/\"; a name before the host is never sent",
        ),
        (
            &["http:///a"],
            "expected a URL such as http://www.example.com/chat, found \"http:///a\"; it has no host that can be read",
        ),
        (
            &["https://www.example.com/"],
            "no listener is TLS on port 443; there are: 127.0.0.1:8080 (plain), 127.0.0.1:8081 (plain)",
        ),
        (
            &["http://a:8080/", "-H", "no colon"],
            "--header: expected 'Name: value', found \"no colon\"",
        ),
        (
            &["http://a:8080/", "--method", "GE T"],
            "--method: expected a method such as GET, found \"GE T\"",
        ),
    ] {
        let output = run(&folder, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), expected);
    }
    folder.write("tidegate.toml", format!("workers = 0\n{FILE}"));
    let output = run(&folder, &["http://a/"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("tidegate.toml:1:1: workers: "));
}

/// What is told of a URL, with more arguments, before [`FILE`].
fn explained(arguments: &[&str]) -> Value {
    let folder = Folder::new();
    folder.write("tidegate.toml", FILE);
    json(&run(&folder, arguments))
}

fn run(folder: &Folder, arguments: &[&str]) -> Output {
    let mut explain = command();
    explain
        .args(["explain", "tidegate.toml", "--json"])
        .args(arguments);
    explain.current_dir(folder.path()).output().unwrap()
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}
