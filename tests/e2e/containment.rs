//! What bounds a plugin: each limit and what its failure is called, what a failure means in which phase,
//! and the end of being called for one that keeps failing.

use serde_json::Value;

use crate::harness::{
    Connection, Service, Tidegate, close, eventually, guest, handshake, route_to, text,
};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A service that answers requests, and echoes once it is asked for a WebSocket.
async fn both() -> Service {
    Service::start(|mut connection: Connection| async move {
        while let Some(head) = connection.next_head().await {
            if head.field("upgrade").is_some() {
                connection.accept_websocket(&head).await;
                while let Some(frame) = connection.next_frame().await {
                    if connection.try_send(frame.encode(None)).await.is_err() {
                        return;
                    }
                }
                return;
            }
            connection
                .send_head("HTTP/1.1 200 OK\nContent-Length: 6")
                .await;
            connection.send("served").await;
        }
    })
    .await
}

/// A route at `/NAME` with a plugin of that name that misbehaves as `phase` and `how` say, where `boom`
/// occurs; `more` is what else its table has.
fn misbehaving(service: &Service, name: &str, phase: &str, how: &str, more: &str) -> String {
    let route = route_to(service).replace("\"/\"", &format!("\"/{name}\""));
    format!(
        "{route}plugins = [\"{name}\"]\n[plugins.{name}]\nmodule = {:?}\n\
         config = {{ phase = \"{phase}\", how = \"{how}\", when = \"boom\" }}\n{more}\n",
        guest("guest-misbehave")
    )
}

async fn health(tidegate: &Tidegate) -> (u16, Value) {
    let answer = tidegate.admin("/v1/health").await;
    let shown = serde_json::from_str(answer.text()).unwrap();
    (answer.status(), shown)
}

async fn is_ejected(tidegate: &Tidegate) {
    let ejected = async || (health(tidegate).await.1["status"] == "degraded").then_some(());
    eventually("ejection of the plugin", ejected).await;
}

#[tokio::test]
async fn each_limit_has_a_key_and_what_breaks_it_a_kind() {
    let rows = [
        ("cpu-time", "loop", "call_timeout = \"20ms\""),
        ("memory", "hog", "call_timeout = \"5s\"\nmemory = \"2MiB\""),
        (
            "stack",
            "recurse",
            "call_timeout = \"5s\"\nstack = \"64KiB\"",
        ),
        ("handles", "handles", "call_timeout = \"5s\"\nhandles = 20"),
        (
            "output-messages",
            "flood",
            "call_timeout = \"5s\"\noutput_messages = 3",
        ),
        (
            "output-bytes",
            "flood",
            "call_timeout = \"5s\"\noutput_bytes = \"2KiB\"\noutput_messages = 1000000",
        ),
        ("trap", "trap", ""),
        ("contract", "bad-verdict", ""),
    ];
    let service = Service::websocket_echo().await;
    let mut routes = ADMIN.to_owned();
    for (kind, how, limits) in rows {
        let more = format!("on_failure = \"open\"\n[plugins.{kind}.limits]\n{limits}");
        routes += &misbehaving(&service, kind, "message", how, &more);
    }
    let mut tidegate = Tidegate::serving(&routes).await;
    for (kind, ..) in rows {
        let mut client = tidegate.websocket(&format!("/{kind}")).await;
        client.expect_echo("before").await;
        client.expect_echo("boom").await;
        let metrics = tidegate.metrics().await;
        let labels = [("plugin", kind), ("kind", kind)];
        let name = "tidegate_plugin_failures_by_kind_total";
        assert_eq!(metrics.sum(name, &labels), 1.0, "{kind}");
        assert_eq!(metrics.sum(name, &labels[..1]), 1.0, "{kind} and no other");
        let line = tidegate.log("plugin failed").await;
        assert_eq!(
            (&line["plugin"], &line["kind"]),
            (&kind.into(), &kind.into())
        );
    }
}

#[tokio::test]
async fn a_failure_means_what_the_operator_says_for_the_phase() {
    let service = both().await;
    let mut routes = String::new();
    for (phase, on_failure) in [
        ("request", "{ http = \"open\" }"),
        ("request", "{ http = \"open\", request = \"closed\" }"),
        ("response", "{ http = \"open\" }"),
        ("response", "{ messages = \"open\" }"),
        ("open", "{ messages = \"open\" }"),
        ("open", "{ messages = \"open\", open = \"closed\" }"),
        ("message", "{ messages = \"open\" }"),
        ("message", "{ http = \"open\", open = \"open\" }"),
    ] {
        let n = routes.matches("[plugins").count();
        let name = format!("{phase}-{}", ["open", "closed"][n % 2]);
        let on_failure = format!("on_failure = {on_failure}");
        routes += &misbehaving(&service, &name, phase, "trap", &on_failure);
    }
    let tidegate = Tidegate::serving(&routes).await;
    for phase in ["request", "response"] {
        for (policy, status) in [("open", 200), ("closed", 500)] {
            let response = tidegate.get(&format!("/{phase}-{policy}?boom")).await;
            assert_eq!(response.status(), status, "{phase} {policy}");
        }
    }
    tidegate
        .websocket("/open-open?boom")
        .await
        .expect_echo("without it")
        .await;
    let mut client = tidegate.websocket("/open-closed?boom").await;
    assert_eq!(client.read_frame().await.close_code(), Some(1011));
    let mut client = tidegate.websocket("/message-open").await;
    client.expect_echo("boom").await;
    let mut client = tidegate.websocket("/message-closed").await;
    client.send_frame(text("boom")).await;
    assert_eq!(client.read_frame().await.close_code(), Some(1011));
}

#[tokio::test]
async fn the_log_tells_the_cause_of_a_failure_as_json() {
    let service = both().await;
    let routes = misbehaving(&service, "message", "message", "trap", "")
        + &misbehaving(&service, "request", "request", "trap", "");
    let mut tidegate = Tidegate::serving(&routes).await;
    assert_eq!(tidegate.get("/request?boom").await.status(), 500);
    let line = tidegate.log("request failed").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("request.on-request: trapped"), "{error}");
    let mut client = tidegate.websocket("/message").await;
    client.send_frame(text("boom")).await;
    let line = tidegate.log("session failed").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("messages.on-message: trapped"), "{error}");
}

/// Three failures, and it is left out for as long as a test lasts.
const LONG: &str = "eject = { failures = 3, back_off = \"1h\", max_back_off = \"1h\" }\n";

/// Three failures, and it is tried again at once.
const SHORT: &str = "eject = { failures = 3, back_off = \"50ms\", max_back_off = \"50ms\" }\n";

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_ejected_and_the_health_says_it() {
    let service = both().await;
    let routes = misbehaving(&service, "bad", "request", "trap", LONG)
        + &misbehaving(&service, "good", "request", "trap", LONG)
        + ADMIN;
    let mut tidegate = Tidegate::serving(&routes).await;
    assert_eq!(health(&tidegate).await.0, 200);
    assert_eq!(health(&tidegate).await.1["status"], "ok");
    let mut open = tidegate.websocket("/bad").await;
    let mut other = tidegate.websocket("/good").await;
    // The handshake was a call that went well, so these are most of them.
    for _ in 0..3 {
        assert_eq!(tidegate.get("/bad?boom").await.status(), 500);
    }
    is_ejected(&tidegate).await;
    let line = tidegate.log("plugin is ejected: it keeps failing").await;
    assert_eq!(line["plugin"], "bad");

    let (status, shown) = health(&tidegate).await;
    assert_eq!(status, 200);
    let ejected = shown["ejected"].as_array().unwrap();
    assert_eq!(ejected.len(), 1);
    assert_eq!(ejected[0]["plugin"], "bad");
    assert_eq!(ejected[0]["on_failure"]["request"], "closed");
    assert!(ejected[0]["retry_in_ms"].as_u64().unwrap() > 3_000_000);
    for (query, status) in [("503", 503), ("299", 299), ("99", 400), ("x", 400)] {
        let answer = tidegate
            .admin(&format!("/v1/health?degraded={query}"))
            .await;
        assert_eq!(answer.status(), status, "{query}");
    }
    assert_eq!(tidegate.admin("/healthz").await.status(), 200);
    let metrics = tidegate.metrics().await;
    for (plugin, ejected) in [("bad", 1.0), ("good", 0.0)] {
        let labels = [("plugin", plugin)];
        assert_eq!(metrics.sum("tidegate_plugin_ejected", &labels), ejected);
        assert_eq!(
            metrics.sum("tidegate_plugin_ejections_total", &labels),
            ejected
        );
    }
    let plugins = tidegate.admin("/v1/plugins").await;
    let plugins: Value = serde_json::from_str(plugins.text()).unwrap();
    assert_eq!(plugins["plugins"][0]["versions"][0]["ejections"], 1);

    // Nobody is served who needs it, and everybody else is.
    assert_eq!(tidegate.get("/bad").await.status(), 503);
    let refused = tidegate.exchange(&handshake("/bad")).await;
    assert_eq!(refused.status(), 503);
    open.send_frame(text("is it there?")).await;
    assert_eq!(open.read_frame().await.close_code(), Some(1013));
    assert_eq!(tidegate.get("/good").await.status(), 200);
    other.expect_echo("another plugin").await;
}

#[tokio::test]
async fn calls_in_sessions_that_have_ended_went_well_all_the_same() {
    let service = both().await;
    let own = format!("on_failure = \"open\"\nisolation = \"session\"\n{LONG}");
    let routes = misbehaving(&service, "bad", "message", "trap", &own) + ADMIN;
    let tidegate = Tidegate::serving(&routes).await;
    for _ in 0..5 {
        let mut client = tidegate.websocket("/bad").await;
        for _ in 0..9 {
            client.expect_echo("well").await;
        }
        client.expect_echo("boom").await;
        client.send_frame(close(1000, "")).await;
        assert_eq!(client.read_frame().await, close(1000, ""));
        client.expect_end().await;
    }
    let metrics = tidegate.metrics().await;
    let bad = [("plugin", "bad")];
    let traps = [bad[0], ("kind", "trap")];
    let of_kind = "tidegate_plugin_failures_by_kind_total";
    assert_eq!(metrics.sum(of_kind, &traps), 5.0);
    assert_eq!(metrics.sum("tidegate_plugin_ejections_total", &bad), 0.0);
}

#[tokio::test]
async fn an_ejected_plugin_is_back_when_a_trial_goes_well() {
    let service = both().await;
    let on_failure = format!("on_failure = \"open\"\n{SHORT}");
    let routes = misbehaving(&service, "bad", "request", "trap", &on_failure) + ADMIN;
    let mut tidegate = Tidegate::serving(&routes).await;
    let mut open = tidegate.websocket("/bad").await;
    for _ in 0..3 {
        // It goes on without the plugin, whatever becomes of that.
        assert_eq!(tidegate.get("/bad?boom").await.status(), 200);
    }
    tidegate.log("plugin is ejected: it keeps failing").await;
    // Each is a trial, if it is time for one; until then the session goes on without the plugin.
    let back = async || {
        assert_eq!(tidegate.get("/bad").await.status(), 200);
        (health(&tidegate).await.1["status"] == "ok").then_some(())
    };
    eventually("the plugin's return", back).await;
    // The session that was open is opened again, and is seen by the plugin from then on.
    let calls = async |phase| {
        let labels = [("plugin", "bad"), ("phase", phase)];
        let metrics = tidegate.metrics().await;
        metrics
            .find("tidegate_plugin_calls_total", &labels)
            .unwrap_or_default()
    };
    let before = (calls("open").await, calls("message").await);
    open.expect_echo("seen both ways").await;
    let after = (calls("open").await, calls("message").await);
    assert_eq!(after, (before.0 + 1.0, before.1 + 2.0));
    tidegate.log("plugin is back").await;
}

#[tokio::test]
async fn a_plugin_that_starts_well_and_traps_on_every_call_is_not_replaced_for_ever() {
    let service = both().await;
    let more = format!("on_failure = \"open\"\n{LONG}");
    let routes = misbehaving(&service, "bad", "message", "trap", &more).replace("boom", "");
    let tidegate = Tidegate::serving(&(routes + ADMIN)).await;
    for _ in 0..50 {
        // The heads and the opening go well each time.
        let mut client = tidegate.websocket("/bad").await;
        client.expect_echo("one").await;
    }
    is_ejected(&tidegate).await;
    let metrics = tidegate.metrics().await;
    let replaced = metrics.sum("tidegate_plugin_instances_replaced_total", &[]);
    assert!(replaced <= 20.0, "{replaced} instances");
}

#[tokio::test]
async fn a_plugin_that_is_never_to_be_ejected_is_called_whatever_it_does() {
    let service = both().await;
    let routes = misbehaving(&service, "bad", "request", "trap", "eject = \"never\"") + ADMIN;
    let tidegate = Tidegate::serving(&routes).await;
    for _ in 0..40 {
        assert_eq!(tidegate.get("/bad?boom").await.status(), 500);
    }
    assert_eq!(tidegate.get("/bad").await.status(), 200);
    assert_eq!(health(&tidegate).await.1["status"], "ok");
}

#[tokio::test]
async fn a_swap_brings_an_ejected_plugin_back_at_once() {
    let service = both().await;
    let routes = misbehaving(&service, "bad", "request", "trap", LONG) + ADMIN;
    let mut tidegate = Tidegate::serving(&routes).await;
    for _ in 0..3 {
        tidegate.get("/bad?boom").await;
    }
    assert_eq!(tidegate.get("/bad").await.status(), 503);
    let text = std::fs::read_to_string(tidegate.folder.path().join("tidegate.toml")).unwrap();
    let mended = text.replace("when = \"boom\"", "when = \"bang\"");
    tidegate.reload_with(&mended).await.unwrap();
    assert_eq!(tidegate.get("/bad?boom").await.status(), 200);
    assert_eq!(health(&tidegate).await.1["status"], "ok");
}
