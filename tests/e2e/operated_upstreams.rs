//! The upstreams of a running proxy, as operators see them and change them while it runs.

use serde_json::{Value, json};

use crate::harness::{
    Authority, Connection, Endless, Folder, Service, Tidegate, http_echo, one_listener,
};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// Two services that answer with their letters, as one upstream.
struct Pair {
    a: Service,
    b: Service,
}

impl Pair {
    async fn start() -> Self {
        Self {
            a: Service::answering("a").await,
            b: Service::answering("b").await,
        }
    }

    /// `first` stands in the table of the first endpoint.
    fn configuration(&self, first: &str) -> String {
        one_listener(&format!(
            r#"
            [[sites.routes]]
            match = "/"
            upstream = "group"
            [upstreams.group]
            endpoints = [{{ address = "{}"{first} }}, {{ address = "{}" }}]
            {ADMIN}
            "#,
            self.a.address, self.b.address
        ))
    }
}

/// Who answers so many requests.
async fn answers(tidegate: &Tidegate, count: usize) -> String {
    let mut seen = String::new();
    for _ in 0..count {
        seen += tidegate.get("/").await.text();
    }
    seen
}

fn count(seen: &str, letter: char) -> usize {
    seen.chars().filter(|seen| *seen == letter).count()
}

async fn endpoint(tidegate: &Tidegate, place: usize) -> Value {
    let answer = tidegate.admin("/v1/upstreams/group").await;
    let upstream: Value = serde_json::from_str(answer.text()).unwrap();
    upstream["endpoints"][place].clone()
}

fn printed(output: &std::process::Output) -> String {
    String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap()
}

#[tokio::test]
async fn an_endpoint_that_is_drained_gets_nothing_until_that_is_undone() {
    let pair = Pair::start().await;
    let mut tidegate = Tidegate::start(&pair.configuration("")).await;
    assert_eq!(count(&answers(&tidegate, 4).await, 'a'), 2);
    let a = pair.a.address.to_string();

    let drained = tidegate.remote(&["upstreams", "drain", "group", &a]);
    assert_eq!(printed(&drained), format!("{a} gets nothing more\n"));
    assert_eq!(answers(&tidegate, 4).await, "bbbb");
    let seen = endpoint(&tidegate, 0).await;
    assert_eq!(
        (&seen["drained"], &seen["up"]),
        (&json!(true), &json!(false))
    );
    // A reload that keeps the endpoint changes nothing about it.
    let more = "[[sites.routes]]\nmatch = \"/more\"\nrespond = { status = 204 }\n[upstreams.group]";
    let more = pair.configuration("").replace("[upstreams.group]", more);
    assert_eq!(tidegate.reload_with(&more).await, Ok(2));
    assert_eq!(answers(&tidegate, 2).await, "bb");

    let listed = printed(&tidegate.remote(&["upstreams", "list"]));
    let row = listed.lines().find(|line| line.contains(&a)).unwrap();
    assert!(row.contains("drained"), "{listed}");
    let undone = tidegate.remote(&["upstreams", "drain", "group", &a, "--undo"]);
    assert_eq!(printed(&undone), format!("{a} is in use again\n"));
    assert_eq!(count(&answers(&tidegate, 4).await, 'a'), 2);
}

#[tokio::test]
async fn what_is_open_at_a_drained_endpoint_goes_on() {
    let service = Service::websocket_echo().await;
    let configuration = one_listener(&format!(
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\n{ADMIN}",
        service.address
    ));
    let tidegate = Tidegate::start(&configuration).await;
    let mut client = tidegate.websocket("/").await;
    let address = service.address.to_string();
    let drained = tidegate.remote(&["upstreams", "drain", &address, &address]);
    assert!(drained.status.success(), "{}", printed(&drained));
    client.expect_echo("still here").await;
    // Nobody is left for others.
    assert_eq!(tidegate.get("/").await.status(), 502);
}

#[tokio::test]
async fn a_weight_holds_until_the_configuration_has_another_one() {
    let pair = Pair::start().await;
    let mut tidegate = Tidegate::start(&pair.configuration("")).await;
    let a = pair.a.address.to_string();
    let weigh = |tidegate: &Tidegate, weight: &str| {
        printed(&tidegate.remote(&["upstreams", "weight", "group", &a, weight]))
    };
    let says = weigh(&tidegate, "3");
    assert_eq!(says, format!("{a}: weight 3; generation 2 is in force\n"));
    assert_eq!(count(&answers(&tidegate, 8).await, 'a'), 6);
    let seen = endpoint(&tidegate, 0).await;
    assert_eq!(
        (&seen["weight"], &seen["configured_weight"]),
        (&json!(3), &json!(1))
    );

    // Reloads leave it alone: nothing has changed, or something else has.
    assert_eq!(tidegate.reload().await, Ok(2));
    let other = pair.configuration(", max_fails = 2");
    assert_eq!(tidegate.reload_with(&other).await, Ok(3));
    assert_eq!(count(&answers(&tidegate, 8).await, 'a'), 6);

    // The configuration asks for something else, and then for the first again.
    let heavier = pair.configuration(", weight = 7");
    assert_eq!(tidegate.reload_with(&heavier).await, Ok(4));
    assert_eq!(count(&answers(&tidegate, 8).await, 'a'), 7);
    assert_eq!(tidegate.reload_with(&pair.configuration("")).await, Ok(5));
    assert_eq!(count(&answers(&tidegate, 8).await, 'a'), 4);

    weigh(&tidegate, "3");
    weigh(&tidegate, "configured");
    assert_eq!(count(&answers(&tidegate, 8).await, 'a'), 4);
}

#[tokio::test]
async fn what_is_not_there_or_makes_no_sense_is_refused() {
    let pair = Pair::start().await;
    let tidegate = Tidegate::start(&pair.configuration("")).await;
    let (a, b) = (pair.a.address.to_string(), pair.b.address.to_string());
    let rows = [
        (
            vec!["upstreams", "drain", "grop", &a],
            "no upstream `grop`; expected one of `group`\n".to_owned(),
        ),
        (
            vec!["upstreams", "drain", "group", "127.0.0.1:1"],
            format!("no endpoint `127.0.0.1:1` in upstream `group`; expected one of `{a}`, `{b}`\n"),
        ),
        (
            vec!["upstreams", "weight", "group", "127.0.0.1:1", "2"],
            format!("no endpoint `127.0.0.1:1` in upstream `group`; expected one of `{a}`, `{b}`\n"),
        ),
        (
            vec!["upstreams", "weight", "group", &a, "0"],
            "weight: expected a whole number from 1 to 1000, or `configured`; with `drain` an endpoint \
             gets nothing, found `0`\n"
                .to_owned(),
        ),
    ];
    for (arguments, says) in rows {
        let refused = tidegate.remote(&arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert_eq!(printed(&refused), says, "{arguments:?}");
    }
    assert_eq!(tidegate.admin("/v1/upstreams/none").await.status(), 404);
}

#[tokio::test]
async fn the_list_has_what_is_known_of_every_endpoint() {
    let pair = Pair::start().await;
    let tidegate = Tidegate::start(&pair.configuration(", max_connections = 9")).await;
    let mut busy = Connection::open(tidegate.address(0)).await;
    busy.exchange("GET / HTTP/1.1\nHost: a").await;
    let answer = tidegate.admin("/v1/upstreams").await;
    let all: Value = serde_json::from_str(answer.text()).unwrap();
    let group = &all["upstreams"][0];
    assert_eq!(
        (&group["name"], &group["balance"]),
        (&json!("group"), &json!("round-robin"))
    );
    let expected = json!({
        "address": pair.a.address.to_string(),
        "written": pair.a.address.to_string(),
        "up": true,
        "drained": false,
        "down": false,
        "backup": false,
        "weight": 1,
        "configured_weight": 1,
        "open": 0,
        "max_connections": 9,
        "failures": 0,
        "healthy": null,
        "checks": null,
    });
    assert_eq!(group["endpoints"][0], expected);
}

#[tokio::test]
async fn a_running_proxy_tells_its_versions() {
    let pair = Pair::start().await;
    let tidegate = Tidegate::start(&pair.configuration("")).await;
    let json = tidegate.remote(&["version", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["generation"], 1);
    assert_eq!(json["pid"], tidegate.process.id());
    let text = printed(&tidegate.remote(&["version"]));
    assert!(text.contains("contract tidegate:plugin@"), "{text}");
}

#[tokio::test]
async fn an_order_whose_sender_is_gone_before_its_turn_is_not_carried_out() {
    let pair = Pair::start().await;
    let mut tidegate = Tidegate::start(&pair.configuration("")).await;
    let file = Endless::replacing(&tidegate.folder, "tidegate.toml");
    tidegate.process.signal(rustix::process::Signal::HUP);
    let writer = file.is_read().await;

    let mut sender = Connection::open(tidegate.admin_address()).await;
    let target = format!(
        "/v1/upstreams/group/endpoints/{}/weight?weight=5",
        pair.a.address
    );
    sender
        .send_head(&format!(
            "POST {target} HTTP/1.1\nHost: localhost\nContent-Length: 0"
        ))
        .await;
    // By now it waits for the reload.
    assert_eq!(tidegate.admin("/healthz").await.status(), 200);
    sender.finish_sending().await;
    sender.expect_end().await;
    drop(writer);
    assert!(tidegate.reloaded().await.is_err(), "there is nothing in it");
    assert_eq!(endpoint(&tidegate, 0).await["weight"], 1);
    // Others get their turn.
    let a = pair.a.address.to_string();
    let set = tidegate.remote(&["upstreams", "weight", "group", &a, "3"]);
    assert!(set.status.success(), "{}", printed(&set));
    assert_eq!(endpoint(&tidegate, 0).await["weight"], 3);
}

#[tokio::test]
async fn what_operators_have_said_of_an_endpoint_outlives_other_tls_settings() {
    let authority = Authority::new();
    let certificate = authority.issue(&["127.0.0.1"]);
    let a = Service::start_tls(certificate.service(), http_echo).await;
    let b = Service::start_tls(certificate.service(), http_echo).await;
    let folder = Folder::new();
    folder.write("ca.pem", authority.pem());
    let with = |tls: &str| {
        one_listener(&format!(
            r#"
            [[sites.routes]]
            match = "/"
            upstream = "group"
            [upstreams.group]
            endpoints = [{{ address = "{}" }}, {{ address = "{}" }}]
            tls = {{ ca = "ca.pem"{tls} }}
            {ADMIN}
            "#,
            a.address, b.address
        ))
    };
    let mut tidegate = Tidegate::start_in(folder, &with("")).await;
    let [first, second] = [&a, &b].map(|service| service.address.to_string());
    for arguments in [
        &["upstreams", "drain", "group", &first][..],
        &["upstreams", "weight", "group", &second, "7"],
    ] {
        let done = tidegate.remote(arguments);
        assert!(done.status.success(), "{}", printed(&done));
    }
    let reloaded = tidegate.reload_with(&with(", verify = false")).await;
    assert!(reloaded.is_ok(), "{reloaded:?}");
    assert_eq!(endpoint(&tidegate, 0).await["drained"], true);
    assert_eq!(endpoint(&tidegate, 1).await["weight"], 7);
    for _ in 0..4 {
        tidegate.get("/").await.seen_by_service();
    }
    assert_eq!(a.connections(), 0);

    let undone = tidegate.remote(&["upstreams", "drain", "group", &first, "--undo"]);
    assert!(undone.status.success(), "{}", printed(&undone));
    assert_eq!(endpoint(&tidegate, 0).await["up"], true);
}
