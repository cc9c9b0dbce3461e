//! What becomes of handshakes that lack something, and that both forms of an example say the same.

use std::process::Output;

use regex::Regex;
use serde_json::Value;

use super::{SetUp, example};
use crate::harness::{Folder, Service, Tidegate, check, command, handshake};

#[tokio::test]
async fn a11_a_handshake_that_lacks_something_is_an_ordinary_request_or_refused() {
    let service = Service::telling("1").await;
    // Each is sent on (by the service) or answered by the proxy itself.
    let rows = [
        // What is changed, the changed line, by "strict" rules, by "lenient" ones.
        (
            "no Upgrade",
            "Upgrade: websocket",
            "",
            (200, "1"),
            (200, "1"),
        ),
        (
            "another Upgrade",
            "Upgrade: websocket",
            "Upgrade: http_upgrade",
            (200, "1"),
            (200, "1"),
        ),
        (
            "no Connection",
            "Connection: Upgrade",
            "",
            (200, "1"),
            (200, "1"),
        ),
        (
            "another Connection",
            "Connection: Upgrade",
            "Connection: keep-alive",
            (200, "1"),
            (200, "1"),
        ),
        (
            "no key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "",
            (400, "-"),
            (418, "1"),
        ),
        (
            "a key of 15 bytes",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25j",
            (400, "-"),
            (418, "1"),
        ),
        (
            "no version",
            "Sec-WebSocket-Version: 13",
            "",
            (400, "-"),
            (418, "1"),
        ),
        (
            "version 8",
            "Version: 13",
            "Version: 8",
            (426, "-"),
            (418, "1"),
        ),
    ];
    for rules in ["strict", "lenient"] {
        let tidegate = Tidegate::serving(&format!(
            "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\nwebsocket.handshake = \"{rules}\"",
            service.address
        ))
        .await;
        for (what, from, to, strict, lenient) in rows {
            let expected = if rules == "strict" { strict } else { lenient };
            // A service that refuses what it is asked for.
            let target = if expected.0 == 200 {
                "/"
            } else {
                "/status/418"
            };
            let lines = handshake(target);
            assert!(lines.contains(from), "{what}");
            let lines: Vec<_> = lines.lines().map(|line| line.replace(from, to)).collect();
            let lines: Vec<_> = lines
                .iter()
                .map(|line| line.trim())
                .filter(|l| !l.is_empty())
                .collect();
            let response = tidegate.exchange(&lines.join("\n")).await;
            let seen = (response.status(), response.by());
            assert_eq!(seen, expected, "{what}, {rules}");
            if seen.0 == 426 {
                assert_eq!(response.fields("sec-websocket-version"), ["13"]);
                assert_eq!(response.fields("upgrade"), ["websocket"]);
            }
        }
    }
}

/// Examples with both forms that say the same, and requests to ask about.
const PAIRS: [(&str, &[&str]); 6] = [
    (
        "s0a",
        &[
            "http://www.xxxx.com/chat",
            "https://www.xxxx.com/a%2Fb?x=1",
            "http://www.xxxx.com/x.json",
            "http://other/socket.gif?x",
        ],
    ),
    (
        "s0b",
        &[
            "http://www.xxx.com/",
            "https://www.xxx.com/a.png",
            "http://other/",
        ],
    ),
    (
        "s1",
        &[
            "http://www.xxx.net/ver",
            "http://www.xxx.net/version?x",
            "http://www.xxx.net/",
        ],
    ),
    ("s2", &["http://a:8020/", "http://ws.repo:8020/chat"]),
    ("s3-edge", &["https://www.xncoding.com/", "https://other/x"]),
    (
        "s3-inner",
        &["http://board.xncoding.com/", "http://other/x"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a13_what_import_writes_and_what_is_written_by_hand_lead_requests_alike() {
    let set_up = SetUp::new().await;
    for (name, urls) in PAIRS {
        let folder = set_up.folder();
        let texts = set_up.texts(&folder, name);
        for url in urls {
            for header in ["X-Forwarded-For: 192.0.2.1", "Upgrade: websocket"] {
                let told = texts.each_ref().map(|text| {
                    folder.write("tidegate.toml", text);
                    explain(&folder, &[url, "-H", header, "--from", "192.0.2.7"])
                });
                let [imported, written] = told;
                assert_eq!(imported, written, "{name}, {url}: left is imported");
                assert!(imported["outcomes"].is_array() || imported["refused"].is_object());
            }
        }
    }
}

fn explain(folder: &Folder, arguments: &[&str]) -> Value {
    let mut explain = command();
    explain
        .args(["explain", "tidegate.toml", "--json"])
        .args(arguments);
    let output: Output = explain.current_dir(folder.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    // They are not asked in the same second.
    let time = Regex::new("([0-9]{2}:)+[0-9]{2}").unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&time.replace_all(&told, "TIME")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_without_fault_and_is_in_the_list() {
    let set_up = SetUp::new().await;
    let folder = format!("{}/examples", env!("CARGO_MANIFEST_DIR"));
    let readme = example("README.md");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        assert!(readme.contains(&format!("[{name}]({name})")), "{name}");
        if name.ends_with(".toml") {
            let folder = set_up.folder();
            let text = set_up.with_names(&set_up.placed(&folder, &example(&name)));
            folder.write(&name, text);
            let mut check = command();
            check.args(["check", &name]).current_dir(folder.path());
            let output = check.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{error}");
            // The folder of the static files is there, so nothing is dubious.
            assert_eq!(error, "", "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 8);
    // Those that need nothing of a machine are right as they are.
    for name in [
        "s1.toml",
        "s1-default-server.toml",
        "s2.toml",
        "s3-inner.toml",
        "s4.toml",
    ] {
        assert_eq!(check(&example(name)), Ok(()), "{name}");
    }
}
