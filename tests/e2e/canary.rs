//! A candidate serves a share of sessions and requests first. If it misbehaves, everything goes back,
//! open sessions too; if not, it gets all.

use std::process::Output;

use serde_json::Value;

use crate::harness::{
    Connection, Folder, Service, Tidegate, close, command, eventually, handshake, one_listener,
    route_to, text, variant,
};

/// Behind the proxy: WebSockets, and at `/plain` requests.
struct Services {
    sockets: Service,
    plain: Service,
}

/// A plugin `mine` on all paths but `/other`, where the same module is `other`.
fn configuration(services: &Services, plugin: &str) -> String {
    let other = route_to(&services.sockets).replace("\"/\"", "\"/other\"");
    let plain = route_to(&services.plain).replace("\"/\"", "\"/plain\"");
    one_listener(&format!(
        "{other}plugins = [\"other\"]\n{plain}plugins = [\"mine\"]\n{}plugins = [\"mine\"]\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [plugins.other]\nmodule = \"other.wasm\"\nconfig = {{ name = \"other\" }}\n\
         [plugins.mine]\nmodule = \"plugin.wasm\"\n{plugin}",
        route_to(&services.sockets)
    ))
    .replace("workers = 1", "workers = 2")
}

const NAMED_A: &str = "config = { name = \"a\" }\n";

async fn start(plugin: &str) -> (Services, Tidegate) {
    let services = Services {
        sockets: Service::websocket_echo().await,
        plain: Service::http_echo().await,
    };
    let folder = Folder::new();
    folder.write("plugin.wasm", variant(""));
    folder.write("other.wasm", variant(""));
    let tidegate = Tidegate::start_in(folder, &configuration(&services, plugin)).await;
    (services, tidegate)
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

/// Begins a trial of another build, and waits for it.
fn swap(tidegate: &Tidegate, words: &str, flags: &[&str]) -> Output {
    tidegate.folder.write("candidate.wasm", variant(words));
    let swap = ["plugin", "swap", "mine", "candidate.wasm"];
    remote(tidegate, &[&swap[..], flags].concat())
}

fn begin(tidegate: &Tidegate, words: &str, flags: &[&str]) {
    let swapped = swap(tidegate, words, flags);
    assert!(swapped.status.success(), "{swapped:?}");
}

async fn status(tidegate: &Tidegate, plugin: &str) -> Value {
    let answer = tidegate.admin("/v1/plugins").await;
    let all: Value = serde_json::from_str(answer.text()).unwrap();
    let mut plugins = all["plugins"].as_array().unwrap().iter();
    plugins
        .find(|shown| shown["name"] == plugin)
        .unwrap()
        .clone()
}

/// Sessions on the versions that play a part.
async fn sessions(tidegate: &Tidegate, role: &str) -> u64 {
    let status = status(tidegate, "mine").await;
    let versions = status["versions"].as_array().unwrap().iter();
    let playing = versions.filter(|version| version["role"] == role);
    playing
        .map(|version| version["sessions"].as_u64().unwrap())
        .sum()
}

/// Waits until the trial is over, and returns how it ended.
async fn outcome(tidegate: &Tidegate) -> Value {
    let over = async || {
        let status = status(tidegate, "mine").await;
        (status["trial"].is_null()).then(|| status["last_trial"].clone())
    };
    eventually("end of the trial", over).await
}

/// Asks the plugin something through an open session.
async fn ask(client: &mut Connection, question: &str) -> String {
    client.send_frame(text(question)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
}

/// Opens a session whose handshake has one more field.
async fn websocket_with(tidegate: &Tidegate, field: &str) -> Connection {
    let mut client = tidegate.connect().await;
    let head = handshake("/");
    client.send_head(&format!("{head}\n{field}")).await;
    assert_eq!(client.read_head().await.status(), 101);
    client
}

/// Returns the name of the version that served a request.
async fn served_by(client: &mut Connection, field: &str) -> String {
    let field = if field.is_empty() { "x-none: 1" } else { field };
    let request = format!("GET /plain HTTP/1.1\nHost: example.com\n{field}");
    let response = client.exchange(&request).await;
    response.head.field("x-script").unwrap().to_owned()
}

#[tokio::test]
async fn a_share_of_the_requests_goes_to_the_candidate() {
    let (_services, tidegate) = start(NAMED_A).await;
    begin(&tidegate, "name=b", &["--percent", "30"]);
    let mut client = tidegate.connect().await;
    let mut candidate = 0;
    for _ in 0..400 {
        candidate += u32::from(served_by(&mut client, "").await == "b");
    }
    // Four times the standard deviation to either side.
    assert!((83..=157).contains(&candidate), "{candidate} of 400");
}

#[tokio::test]
async fn the_same_value_always_gets_the_same_version_in_requests_and_sessions() {
    let (_services, tidegate) = start(NAMED_A).await;
    begin(
        &tidegate,
        "name=b",
        &["--percent", "25", "--by", "header:x-user"],
    );
    let mut client = tidegate.connect().await;
    let mut candidate = Vec::new();
    for user in 0..200 {
        let field = format!("x-user: {user}");
        let first = served_by(&mut client, &field).await;
        assert_eq!(served_by(&mut client, &field).await, first, "user {user}");
        if first == "b" {
            candidate.push(user);
        }
    }
    assert!((25..=75).contains(&candidate.len()), "{candidate:?}");
    for user in (0..40).step_by(4) {
        let mut session = websocket_with(&tidegate, &format!("X-User: {user}")).await;
        let expected = if candidate.contains(&user) { "b" } else { "a" };
        assert_eq!(ask(&mut session, "who").await, expected, "user {user}");
    }
    // Who brings no value stays out of it.
    for _ in 0..20 {
        assert_eq!(served_by(&mut client, "").await, "a");
    }
}

#[tokio::test]
async fn a_match_gets_the_candidate_and_nobody_else_does() {
    let (_services, tidegate) = start(NAMED_A).await;
    begin(&tidegate, "name=b", &["--when", "cookie:canary=yes"]);
    let mut client = tidegate.connect().await;
    for (field, expected) in [
        ("cookie: a=1; canary=yes", "b"),
        ("cookie: canary=no", "a"),
        ("", "a"),
    ] {
        assert_eq!(served_by(&mut client, field).await, expected, "{field}");
    }
}

#[tokio::test]
async fn open_sessions_of_the_share_move_and_are_promoted_with_all_others_after_the_window() {
    let (_services, tidegate) = start(NAMED_A).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = tidegate.websocket("/").await;
        assert_eq!(ask(&mut client, "count").await, "1");
        clients.push(client);
    }
    begin(
        &tidegate,
        "name=b",
        &["--percent", "50", "--window", "2s", "--slowdown", "0"],
    );
    let mut seen = [0; 2];
    for client in &mut clients {
        match &*ask(client, "who").await {
            "a" => seen[0] += 1,
            "b" => seen[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert!(seen[0] >= 5 && seen[1] >= 5, "{seen:?}");
    let ended = outcome(&tidegate).await;
    assert_eq!(ended["outcome"], "promoted");
    for client in &mut clients {
        assert_eq!(ask(client, "b/count").await, "3");
        assert_eq!(ask(client, "past").await, "b");
    }
    assert_eq!(sessions(&tidegate, "in-force").await, 40);
    assert_eq!(sessions(&tidegate, "leaving").await, 0);
}

/// The promise: a bad candidate costs nobody a session, and nobody else anything.
#[tokio::test]
async fn a_candidate_that_traps_now_and_then_is_rolled_back_and_no_session_is_lost() {
    let (_services, mut tidegate) = start(&format!("{NAMED_A}on_failure = \"open\"\n")).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut other = tidegate.websocket("/other").await;
        assert_eq!(ask(&mut other, "count").await, "1");
        others.push(other);
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut talks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = tidegate.websocket("/").await;
        let stopped = stopped.clone();
        talks.spawn(async move {
            let mut message = 0_u64;
            while !*stopped.borrow() {
                client.expect_echo(&format!("message {message}")).await;
                message += 1;
            }
            assert_eq!(ask(&mut client, "who").await, "a");
        });
    }
    begin(&tidegate, "name=b,trap=100", &["--percent", "40"]);
    let ended = outcome(&tidegate).await;
    assert_eq!(ended["outcome"], "rolled-back");
    let reason = ended["reason"].as_str().unwrap();
    assert!(
        reason.contains("failed calls, with 0 allowed (max_traps)"),
        "{reason}"
    );
    assert!(ended["figures"]["traps"].as_u64().unwrap() > 0, "{ended}");
    let all_back = async || (sessions(&tidegate, "in-force").await == 40).then_some(());
    eventually("all sessions on the version in force", all_back).await;
    stop.send_replace(true);
    while let Some(talk) = talks.join_next().await {
        talk.unwrap();
    }
    for other in &mut others {
        assert_eq!(ask(other, "count").await, "2");
        assert_eq!(ask(other, "past").await, "");
    }
    let other = status(&tidegate, "other").await;
    assert_eq!(other["versions"].as_array().unwrap().len(), 1);
    assert_eq!(other["versions"][0]["failures"], 0);
    let logged = tidegate.log("canary rolled back").await;
    assert_eq!(logged["reason"], reason);
    let metrics = tidegate.metrics().await;
    let trials = |outcome| {
        let labels = [("plugin", "mine"), ("outcome", outcome)];
        metrics.sum("tidegate_plugin_trials_total", &labels)
    };
    assert_eq!((trials("rolled-back"), trials("promoted")), (1.0, 0.0));
}

#[tokio::test]
async fn what_a_candidate_did_to_sessions_that_have_ended_counts_if_each_has_its_own_instance() {
    let plugin = format!("{NAMED_A}on_failure = \"open\"\nisolation = \"session\"\n");
    let (_services, tidegate) = start(&plugin).await;
    let flags = ["--percent", "100", "--max-traps", "2"];
    begin(&tidegate, "name=b,trap=2", &flags);
    // One after the other, and one failure in each, so no session alone is too much. Which worker serves
    // them does not matter: the figures are those of all.
    for _ in 0..3 {
        let mut client = tidegate.websocket("/").await;
        client.expect_echo("first").await;
        client.expect_echo("second").await;
        client.send_frame(close(1000, "")).await;
        assert_eq!(client.read_frame().await, close(1000, ""));
        client.expect_end().await;
    }
    let ended = outcome(&tidegate).await;
    let reason = "3 failed calls, with 2 allowed (max_traps)";
    assert_eq!(
        (&ended["outcome"], &ended["reason"]),
        (&"rolled-back".into(), &reason.into())
    );
}

#[tokio::test]
async fn a_rolled_back_session_keeps_what_the_candidate_knew_of_it() {
    let (_services, tidegate) = start(&format!("{NAMED_A}swap = \"next-session\"\n")).await;
    let mut old = tidegate.websocket("/").await;
    assert_eq!(ask(&mut old, "count").await, "1");
    begin(&tidegate, "name=b", &["--percent", "100"]);
    let mut new = tidegate.websocket("/").await;
    assert_eq!(ask(&mut new, "b/count").await, "1");
    // Those that run stay, as the policy says.
    assert_eq!(ask(&mut old, "a/count").await, "2");
    let back = remote(&tidegate, &["plugin", "rollback", "mine"]);
    let said = String::from_utf8(back.stdout).unwrap();
    assert!(said.ends_with("was taken back\n"), "{said}");
    assert_eq!(ask(&mut new, "a/count").await, "2");
    assert_eq!(ask(&mut old, "a/count").await, "3");
    let ended = outcome(&tidegate).await;
    assert_eq!(
        (&ended["outcome"], &ended["reason"]),
        (&"rolled-back".into(), &"by hand".into())
    );
}

#[tokio::test]
async fn a_session_that_the_old_version_refuses_is_opened_there_anew() {
    let refusing = "config = { name = \"a\", refuse-from = \"b\" }\n";
    let (_services, mut tidegate) = start(refusing).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    begin(&tidegate, "name=b", &["--percent", "100"]);
    assert_eq!(ask(&mut client, "b/count").await, "2");
    assert!(
        remote(&tidegate, &["plugin", "rollback", "mine"])
            .status
            .success()
    );
    let refused = tidegate.log("a session is opened anew").await;
    assert_eq!(refused["reason"], "refused, for where it comes from");
    assert_eq!(ask(&mut client, "a/count").await, "1");
    assert!(ask(&mut client, "facts").await.contains("reopened=true"));
}

#[tokio::test]
async fn a_slow_candidate_is_rolled_back() {
    let limits = "limits = { call_timeout = \"2s\" }\n";
    for (flags, why) in [
        (
            &["--call-time", "400us", "--slowdown", "0"][..],
            "(call_time)",
        ),
        (&["--slowdown", "5"], "(slowdown)"),
    ] {
        let (_services, tidegate) = start(&format!("{NAMED_A}{limits}")).await;
        let mut clients = Vec::new();
        for _ in 0..16 {
            clients.push(tidegate.websocket("/").await);
        }
        begin(
            &tidegate,
            "name=b,work=2000",
            &[&["--percent", "50"], flags].concat(),
        );
        let over = async || {
            for client in &mut clients {
                for _ in 0..16 {
                    client.send_frame(text("message")).await;
                }
            }
            for client in &mut clients {
                for _ in 0..16 {
                    assert_eq!(client.read_frame().await.payload, b"message");
                }
            }
            let status = status(&tidegate, "mine").await;
            (status["trial"].is_null()).then(|| status["last_trial"].clone())
        };
        let ended = eventually("end of the trial", over).await;
        assert_eq!(ended["outcome"], "rolled-back");
        let reason = ended["reason"].as_str().unwrap();
        assert!(reason.ends_with(why), "{reason}");
    }
}

#[tokio::test]
async fn a_candidate_that_uses_up_its_time_is_rolled_back() {
    let limits = "limits = { call_timeout = \"20ms\" }\non_failure = \"open\"\n";
    let (_services, tidegate) = start(&format!("{NAMED_A}{limits}")).await;
    let mut client = tidegate.websocket("/").await;
    let flags = ["--percent", "100", "--max-traps", "1000"];
    begin(&tidegate, "name=b,work=10000000", &flags);
    client.expect_echo("message").await;
    let ended = outcome(&tidegate).await;
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.ends_with("(max_timeouts)"), "{reason}");
    assert_eq!(ask(&mut client, "who").await, "a");
}

#[tokio::test]
async fn sessions_that_end_with_a_code_count_against_the_candidate_they_end_on() {
    let (_services, tidegate) = start(NAMED_A).await;
    let flags = ["--when", "header:x-canary=1", "--max-closes", "1008=1"];
    begin(&tidegate, "name=b", &flags);
    let on_trial = async || !status(&tidegate, "mine").await["trial"].is_null();
    let closed = async |field: &str| {
        let mut client = websocket_with(&tidegate, field).await;
        client.send_frame(text("close:1008:why not")).await;
        let code = client.read_frame().await.payload[..2].to_vec();
        assert_eq!(code, 1008_u16.to_be_bytes());
    };
    for _ in 0..3 {
        closed("X-Canary: 0").await;
    }
    closed("X-Canary: 1").await;
    assert!(on_trial().await);
    closed("X-Canary: 1").await;
    let ended = outcome(&tidegate).await;
    let reason = "2 sessions closed with 1008, with 1 allowed (max_closes)";
    assert_eq!(ended["reason"], reason);
}

#[tokio::test]
async fn a_module_that_fails_under_one_configuration_is_taken_back_under_all() {
    let (services, mut tidegate) = start(NAMED_A).await;
    let variant = "plugins = [{ name = \"mine\", config = { name = \"c\" } }]";
    let both = configuration(&services, &format!("{NAMED_A}on_failure = \"open\"\n"));
    let both = both.replace("plugins = [\"other\"]", variant);
    tidegate.reload_with(&both).await.unwrap();
    begin(&tidegate, "trap=1", &["--percent", "100"]);
    let all = async || {
        let answer = tidegate.admin("/v1/plugins").await;
        let all: Value = serde_json::from_str(answer.text()).unwrap();
        let mut plugins = all["plugins"].as_array().unwrap().clone();
        plugins.retain(|plugin| plugin["name"] == "mine");
        plugins
    };
    let on_trial = all().await;
    assert_eq!(on_trial.len(), 2);
    assert!(on_trial.iter().all(|plugin| plugin["trial"].is_object()));
    let mut client = tidegate.websocket("/other").await;
    client.expect_echo("message").await;
    let all_back = async || {
        let all = all().await;
        let is_back = |plugin: &Value| plugin["last_trial"]["outcome"] == "rolled-back";
        all.iter().all(is_back).then_some(())
    };
    eventually("the end of both trials", all_back).await;
    assert_eq!(ask(&mut client, "who").await, "c");
}

#[tokio::test]
async fn a_candidate_that_nobody_has_called_is_not_promoted() {
    let (_services, tidegate) = start(NAMED_A).await;
    begin(
        &tidegate,
        "name=b",
        &["--percent", "100", "--window", "1ms"],
    );
    let over_time = async || {
        let trial = status(&tidegate, "mine").await["trial"].clone();
        assert!(trial.is_object(), "{trial}");
        (trial["age_ms"].as_u64().unwrap() > 300).then_some(())
    };
    eventually("some time after the window", over_time).await;
    assert_eq!(served_by(&mut tidegate.connect().await, "").await, "b");
    assert_eq!(outcome(&tidegate).await["outcome"], "promoted");
}

#[tokio::test]
async fn a_reload_that_changes_the_plugin_turns_the_candidate_down() {
    let (services, mut tidegate) = start(NAMED_A).await;
    let mut client = tidegate.websocket("/").await;
    begin(&tidegate, "name=b", &["--percent", "100"]);
    assert_eq!(ask(&mut client, "who").await, "b");
    // One that changes nothing about it leaves it on trial.
    tidegate.reload().await.unwrap();
    assert_eq!(ask(&mut client, "who").await, "b");
    let next = configuration(
        &services,
        "config = { name = \"c\" }\nswap = \"next-session\"\n",
    );
    tidegate.reload_with(&next).await.unwrap();
    assert_eq!(ask(&mut client, "who").await, "c");
    let ended = outcome(&tidegate).await;
    assert_eq!(
        ended["reason"],
        "the configuration asks for another version"
    );
}

#[tokio::test]
async fn the_configuration_has_limits_that_flags_go_before() {
    let limits = "[plugins.mine.canary]\nwindow = \"7s\"\nby = \"cookie:sid\"\nmax_traps = 3\n";
    let (_services, tidegate) = start(&format!("{NAMED_A}{limits}")).await;
    begin(&tidegate, "name=b", &["--percent", "10", "--window", "9s"]);
    let trial = status(&tidegate, "mine").await["trial"].clone();
    assert_eq!(trial["window_ms"], 9000);
    assert_eq!(trial["by"], "cookie:sid");
    assert_eq!(trial["limits"]["max_traps"], 3);
    assert_eq!(trial["limits"]["slowdown"], 5);
}

#[tokio::test]
async fn what_cannot_be_done_is_told_and_changes_nothing() {
    let (_services, tidegate) = start(NAMED_A).await;
    let fails = |output: Output, expected: &str| {
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(expected), "{error}");
    };
    for percent in ["0", "101", "some"] {
        let expected = format!("percent: expected a whole number from 1 to 100, found `{percent}`");
        fails(swap(&tidegate, "", &["--percent", percent]), &expected);
    }
    fails(
        swap(&tidegate, "", &["--window", "5s"]),
        "expected `percent` or `when`",
    );
    for decision in ["promote", "rollback"] {
        fails(
            remote(&tidegate, &["plugin", decision, "mine"]),
            "plugin `mine` has no candidate on trial",
        );
        fails(
            remote(&tidegate, &["plugin", decision, "yours"]),
            "no plugin `yours`; expected one of `other`, `mine`",
        );
    }
    assert!(status(&tidegate, "mine").await["trial"].is_null());
    begin(&tidegate, "name=b", &["--percent", "10"]);
    let version = status(&tidegate, "mine").await["trial"]["version"].clone();
    for flags in [&["--percent", "20"][..], &[]] {
        fails(
            swap(&tidegate, "name=c", flags),
            &format!("plugin `mine` has a canary already, version {version}"),
        );
    }
    assert_eq!(status(&tidegate, "mine").await["trial"]["version"], version);
}

#[tokio::test]
async fn the_status_shows_who_is_on_trial_and_how_the_last_one_ended() {
    let (_services, tidegate) = start(NAMED_A).await;
    begin(
        &tidegate,
        "name=b",
        &["--percent", "100", "--by", "session"],
    );
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "who").await, "b");
    let table = || String::from_utf8(remote(&tidegate, &["plugin", "status"]).stdout).unwrap();
    let shown = table();
    let rows: Vec<Vec<_>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = |role: &str| rows.iter().find(|row| row[0] == "mine" && row[2] == role);
    assert_eq!(row("canary").unwrap()[3], "1", "{shown}");
    assert_eq!(row("in-force").unwrap()[3], "0", "{shown}");
    assert!(
        shown.contains("is a canary for 100 % by session, for "),
        "{shown}"
    );
    let metrics = tidegate.metrics().await;
    let canary = [("plugin", "mine"), ("role", "canary")];
    assert_eq!(
        metrics.sum("tidegate_plugin_version_sessions", &canary),
        1.0
    );
    let mine = [("plugin", "mine")];
    assert_eq!(metrics.sum("tidegate_plugin_canary_percent", &mine), 100.0);
    let promoted = remote(&tidegate, &["plugin", "promote", "mine", "--json"]);
    let promoted: Value = serde_json::from_slice(&promoted.stdout).unwrap();
    let status = status(&tidegate, "mine").await;
    assert_eq!(status["version"], promoted["version"]);
    let shown = table();
    assert!(shown.contains("a canary, was promoted: by hand"), "{shown}");
}
