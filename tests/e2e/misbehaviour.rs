//! Plugins that trap, loop, allocate, flood or answer nonsense: they hurt their own sessions at most,
//! and the operator chose how (promise 3 of the design).

use crate::harness::{
    Connection, Folder, Service, Tidegate, binary, command, eventually, guest, handshake,
    one_listener, route_to, text, websocket_echo,
};

/// What each phase can get wrong.
const HOWS: [&str; 8] = [
    "trap",
    "loop",
    "hog",
    "recurse",
    "handles",
    "flood",
    "bad-verdict",
    "empty-verdict",
];

/// A route at `/PHASE/HOW` for each way to misbehave in a phase, to a service, and the plugin's table.
///
/// It misbehaves in a request or session whose target has `boom` in it, and in messages that have.
fn routes(service: &Service, phase: &str, hows: &[&str], on_failure: &str) -> String {
    let mut routes = String::new();
    for how in hows {
        let config = format!("phase = \"{phase}\", how = \"{how}\", when = \"boom\"");
        let route = route_to(service).replace("\"/\"", &format!("\"/{how}\""));
        routes += &format!("{route}plugins = [{{ name = \"bad\", config = {{ {config} }} }}]\n");
    }
    let other = route_to(service).replace("\"/\"", "\"/bystander\"");
    format!(
        "{routes}
        {other}
        plugins = [\"bystander\"]
        [plugins.bystander]
        module = {:?}
        config = {{ name = \"bystander\" }}
        [plugins.bad]
        module = {:?}
        on_failure = \"{on_failure}\"
        [plugins.bad.limits]
        handles = 100
        [admin]
        listen = \"127.0.0.1:0\"",
        guest("guest-script"),
        guest("guest-misbehave")
    )
}

/// A session of another plugin, on the same worker.
struct Bystander {
    client: Connection,
    messages: usize,
}

impl Bystander {
    async fn open(tidegate: &Tidegate) -> Self {
        Self {
            client: tidegate.websocket("/bystander").await,
            messages: 0,
        }
    }

    /// Its plugin counts its messages, and would begin anew in another instance.
    async fn is_untouched(&mut self) {
        self.messages += 1;
        self.client.send_frame(text("count")).await;
        assert_eq!(
            self.client.read_frame().await,
            text(self.messages.to_string())
        );
    }
}

/// How many calls of a phase failed.
async fn failures(tidegate: &Tidegate, phase: &str) -> f64 {
    let labels = [("plugin", "bad"), ("phase", phase)];
    let metrics = tidegate.metrics().await;
    metrics
        .find("tidegate_plugin_failures_total", &labels)
        .unwrap_or_default()
}

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

async fn failing_heads(phase: &str, hows: &[&str], on_failure: &str) {
    let service = both().await;
    let tidegate = Tidegate::serving(&routes(&service, phase, hows, on_failure)).await;
    let mut bystander = Bystander::open(&tidegate).await;
    let memory = tidegate.memory();
    for (number, how) in hows.iter().enumerate() {
        let target = |suffix: &str| format!("GET /{how}{suffix} HTTP/1.1\nHost: a");
        assert_eq!(
            tidegate.exchange(&target("")).await.text(),
            "served",
            "{phase} {how}"
        );
        let mut open = tidegate.websocket(&format!("/{how}")).await;

        for request in [target("?boom"), handshake(&format!("/{how}?boom"))] {
            let response = tidegate.connect().await;
            let status = status_of(response, &request).await;
            match on_failure {
                "closed" => assert_eq!(status, 500, "{phase} {how}"),
                _ => assert!(matches!(status, 200 | 101), "{phase} {how}: {status}"),
            }
        }
        assert_eq!(
            failures(&tidegate, phase).await,
            2.0 * (number + 1) as f64,
            "{phase} {how}"
        );
        assert_eq!(
            tidegate.exchange(&target("")).await.text(),
            "served",
            "{phase} {how}"
        );
        open.expect_echo("a session of the instance that failed")
            .await;
        bystander.is_untouched().await;
    }
    let grown = tidegate.memory().saturating_sub(memory) >> 20;
    assert!(grown < 200, "memory has grown by {grown} MiB");
}

async fn status_of(mut client: Connection, request: &str) -> u16 {
    client.send_head(request).await;
    client.read_head().await.status()
}

#[tokio::test]
async fn a_request_is_answered_with_500_where_a_failure_closes() {
    failing_heads("request", &HOWS, "closed").await;
}

#[tokio::test]
async fn a_request_goes_on_without_the_plugin_where_a_failure_opens() {
    failing_heads("request", &HOWS, "open").await;
}

#[tokio::test]
async fn a_response_becomes_a_500_where_a_failure_closes() {
    failing_heads("response", &HOWS, "closed").await;
}

#[tokio::test]
async fn a_response_goes_on_without_the_plugin_where_a_failure_opens() {
    failing_heads("response", &HOWS, "open").await;
}

/// Not choosing is an answer, so there is no empty one.
const CHOICES: [&str; 7] = [
    "trap",
    "loop",
    "hog",
    "recurse",
    "handles",
    "flood",
    "bad-verdict",
];

#[tokio::test]
async fn a_failed_choice_is_a_500_where_a_failure_closes() {
    failing_heads("choose", &CHOICES, "closed").await;
}

#[tokio::test]
async fn a_failed_choice_is_left_to_the_upstream_where_a_failure_opens() {
    failing_heads("choose", &CHOICES, "open").await;
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_closes_with_1011_or_goes_on_without_the_plugin() {
    let hows = &HOWS[..7];
    for on_failure in ["closed", "open"] {
        let service = Service::start(websocket_echo).await;
        let tidegate = Tidegate::serving(&routes(&service, "open", hows, on_failure)).await;
        let mut bystander = Bystander::open(&tidegate).await;
        for how in hows {
            let mut other = tidegate.websocket(&format!("/{how}")).await;
            let mut client = tidegate.websocket(&format!("/{how}?boom")).await;
            if on_failure == "closed" {
                assert_eq!(client.read_frame().await.close_code(), Some(1011), "{how}");
                client.expect_end().await;
            } else {
                client.expect_echo("without the plugin").await;
            }
            other.expect_echo("another session").await;
            bystander.is_untouched().await;
        }
    }
}

#[tokio::test]
async fn a_message_that_fails_closes_its_session_with_1011_and_no_other() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&routes(&service, "message", &HOWS, "closed")).await;
    let mut bystander = Bystander::open(&tidegate).await;
    for (number, how) in HOWS.iter().enumerate() {
        let mut others = Vec::new();
        for _ in 0..5 {
            others.push(tidegate.websocket(&format!("/{how}")).await);
        }
        let mut client = tidegate.websocket(&format!("/{how}")).await;
        client.expect_echo("before").await;
        client.send_frame(text("boom")).await;
        assert_eq!(client.read_frame().await.close_code(), Some(1011), "{how}");
        client.expect_end().await;
        for other in &mut others {
            other.expect_echo("another session").await;
        }
        bystander.is_untouched().await;
        tidegate
            .websocket(&format!("/{how}"))
            .await
            .expect_echo("a new one")
            .await;
        assert_eq!(
            failures(&tidegate, "message").await,
            (number + 1) as f64,
            "{how}"
        );
    }
}

#[tokio::test]
async fn a_message_that_fails_passes_where_a_failure_opens() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&routes(&service, "message", &HOWS, "open")).await;
    let mut bystander = Bystander::open(&tidegate).await;
    for (number, how) in HOWS.iter().enumerate() {
        let mut other = tidegate.websocket(&format!("/{how}")).await;
        let mut client = tidegate.websocket(&format!("/{how}")).await;
        client.expect_echo("before").await;
        // Nothing of what the failed call sent comes with it.
        client.expect_echo("boom").await;
        // The plugin is skipped for this session from now on.
        client.expect_echo("boom again").await;
        bystander.is_untouched().await;
        other.expect_echo("another session").await;
        assert_eq!(
            failures(&tidegate, "message").await,
            (number + 1) as f64,
            "{how}"
        );
    }
}

#[tokio::test]
async fn a_failure_at_the_end_of_a_session_is_nobody_elses_whatever_the_policy() {
    for on_failure in ["closed", "open"] {
        failing_ends(on_failure).await;
    }
}

async fn failing_ends(on_failure: &str) {
    let hows = &HOWS[..6];
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&routes(&service, "close", hows, on_failure)).await;
    let mut bystander = Bystander::open(&tidegate).await;
    for (number, how) in hows.iter().enumerate() {
        let mut other = tidegate.websocket(&format!("/{how}")).await;
        drop(tidegate.websocket(&format!("/{how}?boom")).await);
        eventually("failure of the plugin", async || {
            (failures(&tidegate, "close").await == (number + 1) as f64).then_some(())
        })
        .await;
        other.expect_echo("another session").await;
        bystander.is_untouched().await;
    }
}

/// Swaps all variants of the plugin for the same code, while each has a session that makes the `phase` of
/// the hand-over fail.
async fn failing_hand_over(phase: &str, hows: &[&str], on_failure: &str) {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&routes(&service, phase, hows, on_failure)).await;
    let mut bystander = Bystander::open(&tidegate).await;
    let mut sessions = Vec::new();
    for how in hows {
        let target = format!("/{how}");
        let failing = tidegate.websocket(&format!("{target}?boom")).await;
        sessions.push((how, failing, tidegate.websocket(&target).await));
    }
    let admin = tidegate.admin_address().to_string();
    let swapped = command()
        .args(["plugin", "swap", "bad"])
        .arg(guest("guest-misbehave"))
        .args(["--admin", &admin])
        .output()
        .unwrap();
    assert!(swapped.status.success(), "{phase}: {swapped:?}");
    for (how, failing, other) in &mut sessions {
        for client in [failing, other] {
            client.expect_echo(&format!("after {phase} {how}")).await;
        }
    }
    bystander.is_untouched().await;
    assert_eq!(
        failures(&tidegate, phase).await,
        hows.len() as f64,
        "{phase}"
    );
}

#[tokio::test]
async fn a_hand_over_that_fails_costs_no_session_whatever_the_policy() {
    for on_failure in ["closed", "open"] {
        for phase in ["snapshot", "restore", "release"] {
            failing_hand_over(phase, &HOWS[..6], on_failure).await;
        }
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut() {
    let service = both().await;
    let routes = routes(&service, "choose", &["flood"], "closed");
    let routes = routes.replace("handles = 100", "call_timeout = \"200ms\"");
    let tidegate = Tidegate::serving(&routes).await;
    assert_eq!(tidegate.get("/flood?boom").await.status(), 500);
    let lines = tidegate
        .process
        .stderr
        .text()
        .matches("one of many")
        .count();
    assert!((1..=300).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn other_routes_of_the_worker_go_on_while_a_plugin_loops() {
    let service = both().await;
    let routes = routes(&service, "message", &["loop"], "closed");
    let tidegate = Tidegate::serving(&format!("{}{routes}", route_to(&service))).await;
    let mut neighbour = tidegate.websocket("/").await;
    for _ in 0..20 {
        let mut client = tidegate.websocket("/loop").await;
        client.send_frame(text("boom")).await;
        neighbour.expect_echo("not my business").await;
        neighbour.send_frame(binary("nor mine")).await;
        assert_eq!(neighbour.read_frame().await, binary("nor mine"));
        assert_eq!(client.read_frame().await.close_code(), Some(1011));
    }
}

#[test]
fn a_plugin_that_fails_its_configuration_stops_the_start_with_the_reason() {
    for how in [
        "trap",
        "loop",
        "hog",
        "recurse",
        "handles",
        "flood",
        "bad-verdict",
    ] {
        let folder = Folder::new();
        let route =
            "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:9\"\nplugins = [\"bad\"]\n";
        let plugin = format!(
            "[plugins.bad]\nmodule = {:?}\nconfig = {{ phase = \"configure\", how = \"{how}\" }}",
            guest("guest-misbehave")
        );
        let file = folder.write("tidegate.toml", one_listener(&(route.to_owned() + &plugin)));
        let output = command().arg("run").arg("-c").arg(file).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{how}: {error}");
        assert!(error.contains("bad"), "{how}: {error}");
        if how == "bad-verdict" {
            assert!(
                error.contains("told to refuse its configuration"),
                "{error}"
            );
        }
    }
}
