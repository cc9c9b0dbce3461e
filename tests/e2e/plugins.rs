//! Plugins on requests and responses, what may be one, and what a plugin says to the operator.

use crate::harness::{
    Folder, Refusing, Service, Tidegate, command, component, guest, handshake, one_listener,
    route_to, text,
};

/// Tables of plugins that are `guest-script` with these names.
fn scripts(names: &[&str]) -> String {
    let mut tables = String::new();
    for name in names {
        tables += &format!(
            "[plugins.{name}]\nmodule = {:?}\nconfig = {{ name = \"{name}\" }}\n",
            guest("guest-script")
        );
    }
    tables
}

#[tokio::test]
async fn requests_pass_the_chain_in_order_and_responses_in_reverse() {
    let service = Service::http_echo().await;
    let route = route_to(&service) + "plugins = [\"a\", \"b\", \"c\"]\n";
    let tidegate = Tidegate::serving(&(route + &scripts(&["a", "b", "c"]))).await;
    let response = tidegate.get("/").await;
    assert_eq!(
        response.seen_by_service().fields("x-script"),
        ["a", "b", "c"]
    );
    assert_eq!(response.fields("x-script"), ["c", "b", "a"]);
}

#[tokio::test]
async fn a_101_and_the_request_for_it_pass_the_chain_too() {
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        assert_eq!(request.fields("x-script"), ["a", "b"]);
        connection.accept_websocket(&request).await;
        connection.read_to_end().await;
    })
    .await;
    let route = route_to(&service) + "plugins = [\"a\", \"b\"]\n";
    let tidegate = Tidegate::serving(&(route + &scripts(&["a", "b"]))).await;
    let head = tidegate.connect().await.open_websocket("/").await;
    assert_eq!(head.fields("x-script"), ["b", "a"]);
}

#[tokio::test]
async fn an_answer_of_a_plugin_passes_those_before_it_and_never_reaches_the_service() {
    let service = Service::http_echo().await;
    let headers = "[plugins.headers]\nmodule = \"builtin:headers\"\nconfig = { response = { set = { X-Headers = \"seen\" } } }\n";
    let route = |target: &str, plugins: &str| {
        route_to(&service).replace("\"/\"", &format!("\"{target}\""))
            + &format!("plugins = {plugins}\n")
    };
    let tidegate = Tidegate::serving(&format!(
        "{}{}{headers}{}",
        route("/deny", "[\"headers\", \"a\", \"b\"]"),
        route("/", "[\"a\", \"headers\"]"),
        scripts(&["a", "b"])
    ))
    .await;
    for request in ["GET /deny HTTP/1.1\nHost: a".to_owned(), handshake("/deny")] {
        let response = tidegate.exchange(&request).await;
        assert_eq!((response.status(), response.text()), (403, "denied by a"));
        assert_eq!(response.field("x-denied-by"), Some("a"));
        assert_eq!(response.fields("x-script"), ["a"], "b did not see it");
        assert_eq!(response.field("x-headers"), Some("seen"), "headers did");
        assert_eq!(response.field("content-length"), Some("11"));
    }
    assert_eq!(service.connections(), 0);
    // The second route is served, which shows that headers there comes after a.
    assert_eq!(tidegate.get("/").await.field("x-headers"), Some("seen"));
}

#[tokio::test]
async fn an_answer_of_a_plugin_leaves_the_connection_usable_although_a_body_was_sent() {
    let service = Service::http_echo().await;
    let route = route_to(&service) + "plugins = [\"a\"]\n";
    let tidegate = Tidegate::serving(&(route + &scripts(&["a"]))).await;
    let mut client = tidegate.connect().await;
    // At once, so that the body need not be waited for.
    client
        .send("POST /deny HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody!")
        .await;
    assert_eq!(client.read_response().await.status(), 403);
    client
        .exchange("GET / HTTP/1.1\nHost: a")
        .await
        .seen_by_service();
}

#[tokio::test]
async fn plugins_see_the_proxys_own_answers() {
    let refusing = Refusing::new();
    let route = format!(
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{}\"\nplugins = [\"a\", \"b\"]\n",
        refusing.address
    );
    let tidegate = Tidegate::serving(&(route + &scripts(&["a", "b"]))).await;
    let response = tidegate.get("/").await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.fields("x-script"), ["b", "a"]);
}

#[tokio::test]
async fn what_a_plugin_logs_is_in_the_log_with_its_name() {
    let service = Service::websocket_echo().await;
    let route = route_to(&service) + "plugins = [\"speaker\"]\n";
    let mut tidegate = Tidegate::serving(&(route + &scripts(&["speaker"]))).await;
    drop(tidegate.websocket("/").await);
    let fields = tidegate.log("closed with 1006 by client").await;
    assert_eq!(fields["plugin"], "speaker");
}

#[tokio::test]
async fn calls_of_plugins_are_counted_and_timed_by_phase() {
    let service = Service::websocket_echo().await;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let route = route_to(&service) + "plugins = [\"a\"]\n" + admin;
    let tidegate = Tidegate::serving(&(route + &scripts(&["a"]))).await;
    let mut client = tidegate.websocket("/").await;
    for _ in 0..3 {
        client.expect_echo("hello").await;
    }
    let metrics = tidegate.metrics().await;
    let rows = [
        ("request", 1.0),
        ("response", 1.0),
        ("open", 1.0),
        ("message", 3.0),
    ];
    for (phase, calls) in rows {
        let labels = [("plugin", "a"), ("phase", phase)];
        assert_eq!(
            metrics.sum("tidegate_plugin_calls_total", &labels),
            calls,
            "{phase}"
        );
        let timed = "tidegate_plugin_call_duration_seconds_count";
        assert_eq!(metrics.sum(timed, &labels), calls, "{phase}");
        assert_eq!(
            metrics.sum("tidegate_plugin_failures_total", &labels),
            0.0,
            "{phase}"
        );
    }
}

#[tokio::test]
async fn a_ready_component_finds_an_empty_world() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"ready\"]\n[plugins.ready]\nmodule = {:?}",
        route_to(&service),
        component("guest-wasip2")
    ))
    .await;
    let mut client = tidegate.websocket("/").await;
    let rows = [
        ("wasi:map", "2"),
        ("wasi:env", "0"),
        ("wasi:args", "0"),
        ("wasi:clock", "true"),
        ("wasi:print", "printed"),
        ("anything else", "anything else"),
    ];
    for (order, answer) in rows {
        client.send_frame(text(order)).await;
        assert_eq!(client.read_frame().await, text(answer), "{order}");
    }
    for order in ["wasi:file", "wasi:write", "wasi:socket"] {
        client.send_frame(text(order)).await;
        let answer = client.read_frame().await;
        assert!(answer.payload.starts_with(b"error "), "{order}: {answer:?}");
    }
    assert_eq!(tidegate.process.stdout.text(), "", "nothing was printed");
}

#[tokio::test]
async fn a_component_that_sleeps_is_stopped_and_the_worker_goes_on() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"ready\"]\n[plugins.ready]\nmodule = {:?}",
        route_to(&service),
        component("guest-wasip2")
    ))
    .await;
    let mut other = tidegate.websocket("/").await;
    let mut sleeping = tidegate.websocket("/").await;
    let began = std::time::Instant::now();
    sleeping.send_frame(text("wasi:sleep")).await;
    assert_eq!(sleeping.read_frame().await.close_code(), Some(1011));
    other.expect_echo("awake").await;
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "the worker slept too"
    );
}

#[test]
fn a_file_that_is_no_plugin_stops_the_start_with_what_it_is() {
    let empty_module = b"\0asm\x01\0\0\0".as_slice();
    let truncated = std::fs::read(guest("pass-through")).unwrap();
    let rows = [
        ("text", b"just text".as_slice()),
        ("nothing", b"".as_slice()),
        ("a module without exports", empty_module),
        ("half a plugin", &truncated[..truncated.len() / 2]),
    ];
    for (what, bytes) in rows {
        let folder = Folder::new();
        folder.write("mine.wasm", bytes);
        let route =
            "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:9\"\nplugins = [\"mine\"]\n";
        let text = one_listener(&format!("{route}[plugins.mine]\nmodule = \"mine.wasm\""));
        let file = folder.write("tidegate.toml", text);
        for arguments in [&["run", "-c"][..], &["check"]] {
            let output = command().args(arguments).arg(&file).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{what}: {error}");
            assert!(
                error.contains("mine") && !error.contains("panicked"),
                "{what}: {error}"
            );
        }
    }
}

#[test]
fn a_configuration_for_a_plugin_that_takes_none_is_an_error() {
    let folder = Folder::new();
    let route =
        "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:9\"\nplugins = [\"mine\"]\n";
    let plugin = format!(
        "[plugins.mine]\nmodule = {:?}\nconfig = {{ speed = 3 }}",
        guest("pass-through")
    );
    let file = folder.write("tidegate.toml", one_listener(&(route.to_owned() + &plugin)));
    let output = command().arg("check").arg(file).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("mine") && error.contains("config"),
        "{error}"
    );
}
