//! A plugin is replaced under sessions that run: they move to the new version between two messages, with
//! what the old one knew of them.

use std::process::Output;

use serde_json::Value;

use crate::harness::{
    Connection, Folder, Frame, Service, Tidegate, command, component, eventually, guest,
    one_listener, route_to, text,
};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A configuration with a plugin `mine` from `plugin.wasm`, which starts as the script guest.
fn configuration(service: &Service, plugin: &str) -> String {
    one_listener(&format!(
        "{}plugins = [\"mine\"]\n{ADMIN}[plugins.mine]\nmodule = \"plugin.wasm\"\n{plugin}",
        route_to(service)
    ))
}

fn named(name: &str) -> String {
    format!("config = {{ name = \"{name}\" }}")
}

async fn start(plugin: &str) -> (Service, Tidegate) {
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    folder.write("plugin.wasm", script());
    let tidegate = Tidegate::start_in(folder, &configuration(&service, plugin)).await;
    (service, tidegate)
}

fn script() -> Vec<u8> {
    std::fs::read(guest("guest-script")).unwrap()
}

/// Asks the plugin something through an open session.
async fn ask(client: &mut Connection, question: &str) -> String {
    client.send_frame(text(question)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
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

async fn status(tidegate: &Tidegate) -> Value {
    let answer = tidegate.admin("/v1/plugins").await;
    let all: Value = serde_json::from_str(answer.text()).unwrap();
    all["plugins"][0].clone()
}

/// Sessions on each version, that in force first.
async fn sessions(tidegate: &Tidegate) -> Vec<u64> {
    let status = status(tidegate).await;
    let versions = status["versions"].as_array().unwrap().iter();
    versions
        .map(|version| version["sessions"].as_u64().unwrap())
        .collect()
}

/// Waits until there are so many sessions on each version, that in force first.
async fn moved(tidegate: &Tidegate, expected: &[u64]) {
    let all_moved = async || (sessions(tidegate).await == expected).then_some(());
    eventually("sessions on the versions", all_moved).await;
}

#[tokio::test]
async fn a_session_goes_on_in_the_next_version_with_what_the_last_one_knew() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    assert_eq!(ask(&mut client, "a/count").await, "2");
    for (name, count) in [("b", "3"), ("c", "4"), ("d", "5")] {
        tidegate
            .reload_with(&configuration(&service, &named(name)))
            .await
            .unwrap();
        assert_eq!(ask(&mut client, &format!("{name}/count")).await, count);
    }
    assert_eq!(ask(&mut client, "past").await, "b,c,d");
    assert!(ask(&mut client, "facts").await.contains("reopened=true"));
}

#[tokio::test]
async fn idle_sessions_move_too_and_old_versions_go_with_their_last_session() {
    let (_service, tidegate) = start(&named("a")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = tidegate.websocket("/").await;
        assert_eq!(ask(&mut client, "count").await, "1");
        clients.push(client);
    }
    let swapped = remote(&tidegate, &["plugin", "swap", "mine", "plugin.wasm"]);
    assert!(swapped.status.success(), "{swapped:?}");
    moved(&tidegate, &[20]).await;
    for client in &mut clients {
        assert_eq!(ask(client, "count").await, "2");
    }
}

#[tokio::test]
async fn idle_sessions_move_although_others_talk_and_move_first() {
    let (_service, tidegate) = start(&named("a")).await;
    let _idle = tidegate.websocket("/").await;
    let mut talker = tidegate.websocket("/").await;
    let talk = async {
        for n in 1_u64.. {
            assert_eq!(ask(&mut talker, "count").await, n.to_string());
        }
    };
    let swaps = async {
        for _ in 0..3 {
            let admin = tidegate.admin_address();
            let head = format!(
                "POST /v1/plugins/mine/swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
                script().len()
            );
            let mut connection = Connection::open(admin).await;
            connection.send(head).await;
            connection.send(script()).await;
            assert_eq!(connection.read_response().await.status(), 200);
            moved(&tidegate, &[2]).await;
        }
    };
    tokio::select! {
        () = talk => unreachable!("it goes on"),
        () = swaps => {}
    }
}

#[tokio::test]
async fn a_session_between_the_fragments_of_a_message_moves_as_well() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    let part = |fin, payload: &str| Frame {
        fin,
        ..text(payload)
    };
    client.send_frame(part(false, "b/cou")).await;
    // The ping goes past what is held back, so the first part has arrived.
    client.send_frame(crate::harness::ping("!")).await;
    client.read_frame().await;
    tidegate
        .reload_with(&configuration(&service, &named("b")))
        .await
        .unwrap();
    moved(&tidegate, &[1]).await;
    let rest = Frame {
        opcode: 0,
        ..text("nt")
    };
    client.send_frame(rest).await;
    assert_eq!(client.read_frame().await.payload, b"1");
}

#[tokio::test]
async fn a_refused_session_stays_on_the_version_it_has() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let refusing = "config = { name = \"b\", refuse = \"error\" }";
    tidegate
        .reload_with(&configuration(&service, refusing))
        .await
        .unwrap();
    let refused = tidegate.log("a session stays on its version").await;
    assert_eq!(refused["reason"], "refused, as configured");
    assert_eq!(ask(&mut client, "a/count").await, "2");
    // New ones are not concerned, and the next version may take it.
    assert_eq!(
        ask(&mut tidegate.websocket("/").await, "b/count").await,
        "1"
    );
    tidegate
        .reload_with(&configuration(&service, &named("c")))
        .await
        .unwrap();
    assert_eq!(ask(&mut client, "c/count").await, "3");
}

#[tokio::test]
async fn a_version_that_traps_as_it_takes_a_session_does_not_get_it() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let trapping = "config = { name = \"b\", refuse = \"panic\" }";
    tidegate
        .reload_with(&configuration(&service, trapping))
        .await
        .unwrap();
    let failed = tidegate.log("plugin failed").await;
    assert_eq!(failed["function"], "handover.restore");
    assert_eq!(ask(&mut client, "a/count").await, "2");
}

#[tokio::test]
async fn with_next_session_those_that_run_stay() {
    let (service, mut tidegate) = start(&format!("{}\nswap = \"next-session\"", named("a"))).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let next = format!("{}\nswap = \"next-session\"", named("b"));
    tidegate
        .reload_with(&configuration(&service, &next))
        .await
        .unwrap();
    assert_eq!(ask(&mut client, "a/count").await, "2");
    assert_eq!(
        ask(&mut tidegate.websocket("/").await, "b/count").await,
        "1"
    );
    assert_eq!(ask(&mut client, "a/count").await, "3");
}

#[tokio::test]
async fn with_drain_by_those_that_are_left_are_closed_with_1012() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let next = format!("{}\nswap = {{ drain_by = \"300ms\" }}", named("b"));
    tidegate
        .reload_with(&configuration(&service, &next))
        .await
        .unwrap();
    let mut new = tidegate.websocket("/").await;
    assert_eq!(ask(&mut new, "b/count").await, "1");
    let closed = client.read_frame().await;
    assert_eq!(
        (closed.opcode, &closed.payload[..2]),
        (8, &1012_u16.to_be_bytes()[..])
    );
    assert_eq!(ask(&mut new, "b/count").await, "2");
}

#[tokio::test]
async fn a_version_without_hand_over_opens_the_session_anew() {
    let (service, mut tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    tidegate.folder.write(
        "plugin.wasm",
        std::fs::read(component("guest-wasip2")).unwrap(),
    );
    let without = configuration(&service, "");
    // The file is watched, and changes before the configuration does: that version takes no `config`.
    while tidegate.reload_with(&without).await.is_err() {}
    assert_eq!(ask(&mut client, "wasi:args").await, "0");
}

#[tokio::test]
async fn a_broken_candidate_changes_nothing_and_the_answer_says_why() {
    let (_service, tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let before = status(&tidegate).await["version"].clone();
    tidegate.folder.write("text.wasm", "not wasm");
    tidegate.folder.write("cut.wasm", &script()[..1000]);
    let other = guest("pass-through");
    for (name, file, expected) in [
        (
            "mine",
            "text.wasm",
            "plugin `mine`: expected a WebAssembly component or core module, found neither",
        ),
        ("mine", "cut.wasm", "cannot be made a component"),
        ("mine", other.to_str().unwrap(), "refuses its `config`"),
        (
            "yours",
            "plugin.wasm",
            "no plugin `yours`; expected one of `mine`",
        ),
        ("mine", "absent.wasm", "absent.wasm: No such file"),
    ] {
        let output = remote(&tidegate, &["plugin", "swap", name, file]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{file}: {error}");
        assert!(error.contains(expected), "{file}: {error}");
    }
    assert_eq!(status(&tidegate).await["version"], before);
    assert_eq!(ask(&mut client, "a/count").await, "2");
}

#[tokio::test]
async fn a_swap_by_hand_lasts_until_the_configuration_asks_for_something_else() {
    let (service, mut tidegate) = start(&named("a")).await;
    let by_hand = |tidegate: &Tidegate| {
        let output = remote(
            tidegate,
            &["plugin", "swap", "mine", "plugin.wasm", "--json"],
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["version"].clone()
    };
    let version = by_hand(&tidegate);
    tidegate.reload().await.unwrap();
    assert_eq!(status(&tidegate).await["version"], version);
    tidegate
        .reload_with(&configuration(&service, &named("b")))
        .await
        .unwrap();
    assert_ne!(status(&tidegate).await["version"], version);
}

#[tokio::test]
async fn the_status_is_a_table_or_json() {
    let (_service, tidegate) = start(&named("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let table = String::from_utf8(remote(&tidegate, &["plugin", "status"]).stdout).unwrap();
    let mut lines = table.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("PLUGIN  VERSION  ROLE      SESSIONS"),
        "{table}"
    );
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        (row[0], row[2], row[3]),
        ("mine", "in-force", "1"),
        "{table}"
    );
    let json = remote(&tidegate, &["plugin", "status", "--json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["plugins"][0]["versions"][0]["sessions"], 1);
}

#[tokio::test]
async fn a_reload_over_the_admin_listener_tells_its_outcome() {
    let (_service, tidegate) = start(&named("a")).await;
    let reloaded = remote(&tidegate, &["reload"]);
    assert_eq!(
        String::from_utf8(reloaded.stdout).unwrap(),
        "nothing has changed; generation 1 is in force\n"
    );
    tidegate.folder.write("tidegate.toml", "workers = \"many\"");
    let refused = remote(&tidegate, &["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("workers: expected"), "{error}");
}

#[tokio::test]
async fn orders_from_web_pages_are_refused() {
    let (_service, tidegate) = start(&named("a")).await;
    let mut connection = Connection::open(tidegate.admin_address()).await;
    let order =
        "POST /v1/reload HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\nContent-Length: 0";
    assert_eq!(connection.exchange(order).await.status(), 403);
}

/// The promise of the whole product: nothing is lost, doubled or reordered, and the numbering goes on
/// across versions.
#[tokio::test]
async fn sessions_under_load_lose_nothing_while_their_plugin_is_swapped_again_and_again() {
    const SESSIONS: usize = 100;
    const SWAPS: usize = 20;
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    folder.write("plugin.wasm", script());
    let configuration = configuration(&service, &named("a")).replace("workers = 1", "workers = 2");
    let tidegate = Tidegate::start_in(folder, &configuration).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut talks = tokio::task::JoinSet::new();
    for _ in 0..SESSIONS {
        let mut client = tidegate.websocket("/").await;
        let stopped = stopped.clone();
        talks.spawn(async move {
            let mut seen = 0_u64;
            while !*stopped.borrow() {
                client.expect_echo(&format!("message {seen}")).await;
                assert_eq!(ask(&mut client, "count").await, (seen * 2 + 2).to_string());
                seen += 1;
            }
            let past = ask(&mut client, "past").await;
            (seen, past.split(',').count())
        });
    }
    for _ in 0..SWAPS {
        let admin = tidegate.admin_address().to_string();
        let path = tidegate.folder.path().to_owned();
        let swapped = tokio::task::spawn_blocking(move || {
            let mut swap = command();
            swap.args(["plugin", "swap", "mine", "plugin.wasm", "--admin", &admin]);
            swap.current_dir(path).output().unwrap()
        });
        let swapped = swapped.await.unwrap();
        assert!(swapped.status.success(), "{swapped:?}");
        // Each of them has moved before the next one begins.
        moved(&tidegate, &[SESSIONS as u64]).await;
    }
    stop.send_replace(true);
    while let Some(talk) = talks.join_next().await {
        let (seen, moves) = talk.unwrap();
        assert!(seen > 0);
        assert_eq!(moves, SWAPS);
    }
}
