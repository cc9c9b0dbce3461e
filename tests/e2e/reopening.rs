//! Sessions of an instance that failed: they go on from their last snapshot, or are opened anew; and those
//! that have an instance of their own.

use crate::harness::{Connection, Service, Tidegate, eventually, guest, handshake, route_to, text};

/// A route with a plugin `mine` that does what messages say.
fn routes(service: &Service, more: &str) -> String {
    format!(
        "{}plugins = [\"mine\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[plugins.mine]\nmodule = {:?}\n{more}\n",
        route_to(service),
        guest("guest-script")
    )
}

const NAMED: &str = "config = { name = \"a\" }\n";

async fn start(more: &str) -> (Service, Tidegate) {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&routes(&service, &format!("{NAMED}{more}"))).await;
    (service, tidegate)
}

/// Asks the plugin something through an open session.
async fn ask(client: &mut Connection, question: &str) -> String {
    client.send_frame(text(question)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
}

/// Ends the instance, and the session that does it.
async fn trap(tidegate: &Tidegate) {
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("trap")).await;
    assert_eq!(client.read_frame().await.close_code(), Some(1011));
}

async fn snapshots_taken(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    let labels = [("plugin", "mine"), ("phase", "snapshot")];
    metrics
        .find("tidegate_plugin_calls_total", &labels)
        .unwrap_or_default()
}

async fn own_instances(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    metrics.sum("tidegate_plugin_own_instances", &[])
}

#[tokio::test]
async fn sessions_of_a_failed_instance_go_on_from_their_last_snapshot() {
    let (_service, tidegate) = start("snapshot_every = 2").await;
    let (mut one, mut two) = (tidegate.websocket("/").await, tidegate.websocket("/").await);
    for count in ["1", "2", "3"] {
        assert_eq!(ask(&mut one, "count").await, count);
    }
    for count in ["1", "2", "3", "4"] {
        assert_eq!(ask(&mut two, "count").await, count);
    }
    assert_eq!(snapshots_taken(&tidegate).await, 3.0);
    trap(&tidegate).await;
    // Each was last asked after its second, or fourth, message.
    assert_eq!(ask(&mut one, "count").await, "3");
    assert_eq!(ask(&mut two, "count").await, "5");
    let facts = ask(&mut one, "facts").await;
    assert!(
        facts.contains("reopened=true\nreopening=failure"),
        "{facts}"
    );
    // The snapshot outlives the instance that it was put back into.
    trap(&tidegate).await;
    assert_eq!(ask(&mut two, "count").await, "5");
}

#[tokio::test]
async fn sessions_without_a_snapshot_are_opened_anew_and_told_so() {
    let (_service, tidegate) = start("").await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    assert_eq!(ask(&mut client, "count").await, "2");
    assert_eq!(snapshots_taken(&tidegate).await, 0.0);
    trap(&tidegate).await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let facts = ask(&mut client, "facts").await;
    assert!(
        facts.contains("reopened=true\nreopening=failure"),
        "{facts}"
    );
    assert_eq!(ask(&mut client, "past").await, "");
}

#[tokio::test]
async fn snapshots_are_taken_of_sessions_that_have_fallen_silent() {
    let (_service, tidegate) = start("snapshot_every = \"20ms\"").await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    let taken = async || (snapshots_taken(&tidegate).await >= 1.0).then_some(());
    eventually("a snapshot", taken).await;
    trap(&tidegate).await;
    assert_eq!(ask(&mut client, "count").await, "2");
}

#[tokio::test]
async fn a_snapshot_that_is_refused_is_done_without() {
    let service = Service::websocket_echo().await;
    for refuse in ["error", "panic"] {
        let more = format!("config = {{ name = \"a\", refuse = {refuse:?} }}\nsnapshot_every = 1");
        let tidegate = Tidegate::serving(&routes(&service, &more)).await;
        let mut client = tidegate.websocket("/").await;
        assert_eq!(ask(&mut client, "count").await, "1");
        trap(&tidegate).await;
        assert_eq!(ask(&mut client, "count").await, "1", "{refuse}");
        let facts = ask(&mut client, "facts").await;
        assert!(facts.contains("reopening=failure"), "{facts}");
    }
}

#[tokio::test]
async fn a_session_that_was_handed_over_is_told_so() {
    let service = Service::websocket_echo().await;
    let configuration = |name: &str| {
        let more = format!("config = {{ name = {name:?} }}\nsnapshot_every = 100");
        crate::harness::one_listener(&routes(&service, &more))
    };
    let mut tidegate = Tidegate::start_in(crate::harness::Folder::new(), &configuration("a")).await;
    let mut client = tidegate.websocket("/").await;
    assert_eq!(ask(&mut client, "count").await, "1");
    tidegate.reload_with(&configuration("b")).await.unwrap();
    assert_eq!(ask(&mut client, "count").await, "2");
    let facts = ask(&mut client, "facts").await;
    assert!(facts.contains("reopened=true\nreopening=swap"), "{facts}");
    // What was handed over is a snapshot as well.
    trap(&tidegate).await;
    assert_eq!(ask(&mut client, "count").await, "2");
}

#[tokio::test]
async fn each_session_may_have_an_instance_of_its_own() {
    let (_service, tidegate) = start("isolation = \"session\"").await;
    let (mut one, mut two) = (tidegate.websocket("/").await, tidegate.websocket("/").await);
    for total in ["1", "2"] {
        assert_eq!(ask(&mut one, "total").await, total);
        assert_eq!(ask(&mut two, "total").await, total);
    }
    assert_eq!(own_instances(&tidegate).await, 2.0);
    two.send_frame(text("trap")).await;
    assert_eq!(two.read_frame().await.close_code(), Some(1011));
    assert_eq!(ask(&mut one, "total").await, "3");
    drop((one, two));
    let gone = async || (own_instances(&tidegate).await == 0.0).then_some(());
    eventually("the end of the instances", gone).await;
}

#[tokio::test]
async fn a_session_beyond_the_ceiling_is_refused_before_the_service_is_asked() {
    let (service, tidegate) = start("isolation = \"session\"\nmax_instances = 2").await;
    let (mut one, two) = (tidegate.websocket("/").await, tidegate.websocket("/").await);
    let connections = service.connections();
    let refused = tidegate.exchange(&handshake("/")).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(service.connections(), connections);
    assert_eq!(ask(&mut one, "count").await, "1");
    drop(two);
    let admitted = async || {
        let mut client = tidegate.connect().await;
        client.send_head(&handshake("/")).await;
        (client.read_head().await.status() == 101).then_some(())
    };
    eventually("room for another session", admitted).await;
}

#[tokio::test]
async fn a_session_beyond_the_ceiling_goes_without_the_plugin_where_a_failure_opens() {
    let more = "isolation = \"session\"\nmax_instances = 1\non_failure = { open = \"open\" }";
    let (_service, tidegate) = start(more).await;
    let mut one = tidegate.websocket("/").await;
    let mut two = tidegate.websocket("/").await;
    assert_eq!(ask(&mut one, "count").await, "1");
    assert_eq!(ask(&mut two, "count").await, "count", "the service's echo");
    let metrics = tidegate.metrics().await;
    let refused = metrics.sum(
        "tidegate_plugin_failures_by_kind_total",
        &[("kind", "refused")],
    );
    assert!(refused >= 1.0);
}

#[tokio::test]
async fn sessions_with_instances_of_their_own_are_handed_over_as_well() {
    let service = Service::websocket_echo().await;
    let configuration = |name: &str| {
        let own = "isolation = \"session\"\nmax_instances = 2";
        let more = format!("config = {{ name = {name:?} }}\n{own}");
        crate::harness::one_listener(&routes(&service, &more))
    };
    let mut tidegate = Tidegate::start_in(crate::harness::Folder::new(), &configuration("a")).await;
    let (mut one, mut two) = (tidegate.websocket("/").await, tidegate.websocket("/").await);
    assert_eq!(ask(&mut one, "count").await, "1");
    assert_eq!(ask(&mut two, "count").await, "1");
    tidegate.reload_with(&configuration("b")).await.unwrap();
    for client in [&mut one, &mut two] {
        assert_eq!(ask(client, "b/count").await, "2");
        assert_eq!(ask(client, "total").await, "2");
    }
    assert_eq!(own_instances(&tidegate).await, 2.0);
}
