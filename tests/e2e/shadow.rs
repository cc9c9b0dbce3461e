//! A candidate looks on: it is shown what the version in force is, and what it says is compared, counted and
//! never heeded.

use std::process::Output;

use serde_json::Value;

use crate::harness::{
    Connection, Folder, Service, Tidegate, command, eventually, guest, one_listener, route_to,
    text, variant,
};

/// Behind the proxy: WebSockets, and at `/plain` requests.
struct Services {
    _sockets: Service,
    _plain: Service,
}

async fn start_with(module: Vec<u8>, plugin: &str) -> (Services, Tidegate) {
    let sockets = Service::websocket_echo().await;
    let plain = Service::http_echo().await;
    let configuration = one_listener(&format!(
        "{}plugins = [\"mine\"]\n{}plugins = [\"mine\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [plugins.mine]\nmodule = \"plugin.wasm\"\n{plugin}",
        route_to(&plain).replace("\"/\"", "\"/plain\""),
        route_to(&sockets),
    ));
    let folder = Folder::new();
    folder.write("plugin.wasm", module);
    let tidegate = Tidegate::start_in(folder, &configuration).await;
    let services = Services {
        _sockets: sockets,
        _plain: plain,
    };
    (services, tidegate)
}

async fn start(limits: &str) -> (Services, Tidegate) {
    let plugin = format!("config = {{ name = \"a\" }}\n{limits}");
    start_with(variant(""), &plugin).await
}

/// Runs a command against the running proxy.
fn remote(tidegate: &Tidegate, arguments: &[&str]) -> Output {
    let admin = tidegate.admin_address().to_string();
    let mut command = command();
    command.args(arguments).args(["--admin", &admin]);
    command
        .current_dir(tidegate.folder.path())
        .output()
        .unwrap()
}

/// Lets a module look on.
fn show(tidegate: &Tidegate, module: Vec<u8>, flags: &[&str]) {
    tidegate.folder.write("candidate.wasm", module);
    let swap = ["plugin", "swap", "mine", "candidate.wasm", "--shadow"];
    let shown = remote(tidegate, &[&swap[..], flags].concat());
    assert!(shown.status.success(), "{shown:?}");
}

async fn status(tidegate: &Tidegate) -> Value {
    let answer = tidegate.admin("/v1/plugins").await;
    let all: Value = serde_json::from_str(answer.text()).unwrap();
    all["plugins"][0].clone()
}

/// What has been counted of the candidate.
async fn trial(tidegate: &Tidegate) -> Value {
    status(tidegate).await["trial"].clone()
}

fn count(trial: &Value, name: &str) -> u64 {
    trial[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name}: {trial}"))
}

fn differences(trial: &Value, kind: &str) -> u64 {
    count(&trial["differences"], kind)
}

fn version(status: &Value, role: &str) -> Value {
    let mut versions = status["versions"].as_array().unwrap().iter();
    versions
        .find(|version| version["role"] == role)
        .unwrap()
        .clone()
}

/// Asks the plugin something through an open session.
async fn ask(client: &mut Connection, question: &str) -> String {
    client.send_frame(text(question)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
}

#[tokio::test]
async fn a_candidate_that_agrees_differs_in_nothing_also_in_sessions_that_were_open() {
    let (_services, tidegate) = start("").await;
    let mut old = tidegate.websocket("/").await;
    for n in 1..=3 {
        assert_eq!(ask(&mut old, "count").await, n.to_string());
    }
    show(&tidegate, variant(""), &["--budget", "50"]);
    let mut new = tidegate.websocket("/").await;
    assert_eq!(ask(&mut old, "count").await, "4");
    assert_eq!(ask(&mut new, "count").await, "1");
    old.expect_echo("message").await;
    assert_eq!(ask(&mut old, "replace:other").await, "other");
    assert_eq!(tidegate.get("/plain").await.fields("x-script"), ["a"]);
    let shown = trial(&tidegate).await;
    assert!(count(&shown, "compared") >= 5, "{shown}");
    for (kind, found) in shown["differences"].as_object().unwrap() {
        assert_eq!(*found, 0, "{kind}: {shown}");
    }
    let status = status(&tidegate).await;
    assert_eq!(version(&status, "shadow")["sessions"], 2);
    assert_eq!(version(&status, "in-force")["sessions"], 2);
}

#[tokio::test]
async fn differences_are_counted_by_kind_and_never_applied() {
    let (_services, mut tidegate) = start("").await;
    let mut client = tidegate.websocket("/").await;
    show(
        &tidegate,
        variant("name=b,shout,deny=/plain"),
        &["--budget", "50"],
    );
    let kinds = async |kind: &str, told: (&str, &str)| {
        let seen = async || {
            let shown = trial(&tidegate).await;
            (differences(&shown, kind) > 0).then_some(shown)
        };
        let shown = eventually(kind, seen).await;
        let recent = shown["recent"].as_array().unwrap();
        let found = |difference: &&Value| {
            difference["kind"] == kind
                && difference["in_force"] == told.0
                && difference["shadow"] == told.1
        };
        assert!(
            recent.iter().any(|difference| found(&difference)),
            "{shown}"
        );
    };
    // Which is let through by one, and changed by the other.
    client.expect_echo("hello").await;
    kinds("verdict", ("pass", "replace with 5 bytes")).await;
    // Both drop it, and send an answer each.
    assert_eq!(ask(&mut client, "who").await, "a");
    kinds("sent", ("1 sent, 1 bytes", "1 sent, 1 bytes")).await;
    client.send_frame(text("send-client:to b/only")).await;
    assert_eq!(client.read_frame().await.payload, b"to b/only");
    client.expect_echo("nothing came between").await;
    // One answers a request, the other lets it go on.
    let response = tidegate.get("/plain").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.fields("x-script"), ["a"]);
    assert_eq!(response.seen_by_service().fields("x-script"), ["a"]);
    kinds("verdict", ("continue", "respond with 403")).await;
    // Their heads of responses differ.
    kinds("content", ("continue", "continue, with another head")).await;
    let logged = tidegate.log("shadow differs").await;
    assert_eq!(logged["function"], "messages.on-message");
    let metrics = tidegate.metrics().await;
    let verdicts = [("plugin", "mine"), ("kind", "verdict")];
    let found = metrics.sum("tidegate_plugin_shadow_differences_total", &verdicts);
    assert!(found >= 2.0, "{found}");
    let table = String::from_utf8(remote(&tidegate, &["plugin", "status"]).stdout).unwrap();
    assert!(table.contains("is a shadow: "), "{table}");
    assert!(table.contains(" verdict"), "{table}");
    let back = remote(&tidegate, &["plugin", "rollback", "mine"]);
    assert!(back.status.success(), "{back:?}");
    client.expect_echo("hello again").await;
    let status = status(&tidegate).await;
    assert!(status["trial"].is_null());
    assert!(differences(&status["last_trial"]["observed"], "verdict") >= 2);
    assert_eq!(status["versions"].as_array().unwrap().len(), 1, "{status}");
}

#[tokio::test]
async fn a_shadow_that_traps_touches_nothing() {
    let (_services, tidegate) = start("").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(tidegate.websocket("/").await);
    }
    show(&tidegate, variant("trap=2"), &["--budget", "50"]);
    for n in 1..=10 {
        for client in &mut clients {
            assert_eq!(ask(client, "count").await, n.to_string());
        }
    }
    let seen = async || {
        for client in &mut clients {
            client.expect_echo("message").await;
        }
        let shown = trial(&tidegate).await;
        (differences(&shown, "failure") > 0).then_some(())
    };
    eventually("a failure of the shadow", seen).await;
    let status = status(&tidegate).await;
    assert_eq!(version(&status, "in-force")["failures"], 0);
    assert_ne!(version(&status, "shadow")["traps"], 0);
    let metrics = tidegate.metrics().await;
    let mine = [("plugin", "mine")];
    for name in ["failures", "instances_replaced"] {
        let name = format!("tidegate_plugin_{name}_total");
        assert_eq!(metrics.sum(&name, &mine), 0.0, "{name}");
    }
}

#[tokio::test]
async fn a_slow_shadow_takes_its_budget_and_no_more() {
    let (_services, tidegate) = start("limits = { call_timeout = \"5s\" }\n").await;
    let mut client = tidegate.websocket("/").await;
    // Each call takes some tens of milliseconds: most of what comes meanwhile is not shown to it.
    show(&tidegate, variant("work=30000"), &["--budget", "1"]);
    for n in 1..=400 {
        assert_eq!(ask(&mut client, "count").await, n.to_string());
    }
    let shown = trial(&tidegate).await;
    let (compared, skipped) = (count(&shown, "compared"), count(&shown, "skipped"));
    assert!(compared > 0, "{shown}");
    assert!(skipped > 4 * compared, "{shown}");
    // What it was shown after it had missed something, it saw with what the other knew.
    assert_eq!(differences(&shown, "sent"), 0, "{shown}");
}

#[tokio::test]
async fn a_shadow_becomes_the_real_one() {
    let (_services, tidegate) = start("").await;
    let mut client = tidegate.websocket("/").await;
    show(&tidegate, variant("name=b"), &[]);
    assert_eq!(ask(&mut client, "a/count").await, "1");
    let promoted = remote(&tidegate, &["plugin", "promote", "mine"]);
    assert!(promoted.status.success(), "{promoted:?}");
    assert_eq!(ask(&mut client, "b/count").await, "2");
    let status = status(&tidegate).await;
    assert_eq!(status["last_trial"]["role"], "shadow");
    assert_eq!(status["last_trial"]["outcome"], "promoted");
    assert_eq!(version(&status, "in-force")["sessions"], 1);
    let metrics = tidegate.metrics().await;
    let messages = [("plugin", "mine"), ("phase", "message")];
    assert_eq!(metrics.sum("tidegate_plugin_calls_total", &messages), 2.0);
}

#[tokio::test]
async fn a_sample_of_the_sessions_is_shown() {
    let (_services, tidegate) = start("").await;
    show(&tidegate, variant(""), &["--sample", "30"]);
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(tidegate.websocket("/").await);
    }
    for client in &mut clients {
        client.expect_echo("message").await;
    }
    let sessions = version(&status(&tidegate).await, "shadow")["sessions"].clone();
    let sessions = sessions.as_u64().unwrap();
    assert!((3..=33).contains(&sessions), "{sessions} of 60");
}

#[tokio::test]
async fn a_second_candidate_beside_a_shadow_is_refused() {
    let (_services, tidegate) = start("").await;
    show(&tidegate, variant(""), &[]);
    let second = ["plugin", "swap", "mine", "plugin.wasm", "--percent", "10"];
    let refused = remote(&tidegate, &second);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(
        error.contains("plugin `mine` has a shadow already"),
        "{error}"
    );
}

#[tokio::test]
async fn messages_in_pieces_are_shown_in_pieces() {
    let pieces = std::fs::read(guest("guest-pieces")).unwrap();
    let edit =
        "config = { edit = true, origin = \"client\" }\nlimits = { call_timeout = \"1s\" }\n";
    let (_services, tidegate) = start_with(pieces.clone(), edit).await;
    let mut client = tidegate.websocket("/").await;
    show(&tidegate, pieces, &["--budget", "50"]);
    let long = "long ".repeat(60_000);
    client.send_frame(text(&long)).await;
    let mut received = Vec::new();
    loop {
        let frame = client.read_frame().await;
        received.extend(frame.payload);
        if frame.fin {
            break;
        }
    }
    assert_eq!(received, long.to_uppercase().into_bytes());
    let shown = trial(&tidegate).await;
    assert!(count(&shown, "compared") > 0, "{shown}");
    for (kind, found) in shown["differences"].as_object().unwrap() {
        assert_eq!(*found, 0, "{kind}: {shown}");
    }
}
