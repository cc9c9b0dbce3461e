//! The three plugins that come with tidegate, on real traffic.

use std::collections::BTreeMap;

use crate::harness::{
    Folder, Frame, Refusing, Service, Tidegate, binary, command, guest, handshake, one_listener,
    route_to, text,
};

#[tokio::test]
async fn a_chain_of_all_three_works_on_its_route_and_not_on_another() {
    let (one, two) = (Service::start(greet).await, Service::start(greet).await);
    let tidegate = Tidegate::serving(&format!(
        r#"
        [[sites.routes]]
        match = "/chat"
        upstream = "services"
        plugins = ["headers", "choose", "redact"]

        [[sites.routes]]
        match = "/plain"
        upstream = "services"

        [upstreams.services]
        endpoints = ["{}", "{}"]

        [plugins.headers]
        module = "builtin:headers"
        [plugins.headers.config]
        request = {{ set = {{ X-Tier = "gold" }}, remove = ["Cookie"] }}
        response = {{ add = {{ X-Proxied = "yes" }} }}

        [plugins.choose]
        module = "builtin:choose-endpoint"
        config = {{ by = "query:room" }}

        [plugins.redact]
        module = "builtin:redact"
        config = {{ words = ["secret"] }}
        "#,
        one.address, two.address
    ))
    .await;
    let cookie = "Cookie: a=b";

    let mut chosen = None;
    for _ in 0..4 {
        let mut client = tidegate.connect().await;
        client
            .send_head(&format!("{}\n{cookie}", handshake("/chat?room=7")))
            .await;
        let head = client.read_head().await;
        assert_eq!(head.status(), 101);
        assert_eq!(head.field("x-proxied"), Some("yes"));
        // The service's greeting is judged as well.
        assert_eq!(
            client.read_frame().await,
            text("tier gold, cookie none, a *** for you")
        );
        client.send_frame(text("my secret")).await;
        assert_eq!(client.read_frame().await, text("my ***"));
        let busy = one.connections() > 0;
        assert_eq!(*chosen.get_or_insert(busy), busy, "one room, one endpoint");
        assert!(
            one.connections() == 0 || two.connections() == 0,
            "one room, one endpoint"
        );
    }

    for _ in 0..2 {
        let mut client = tidegate.connect().await;
        client
            .send_head(&format!("{}\n{cookie}", handshake("/plain?room=7")))
            .await;
        let head = client.read_head().await;
        assert_eq!(head.field("x-proxied"), None);
        assert_eq!(
            client.read_frame().await,
            text("tier none, cookie a=b, a secret for you")
        );
        client.send_frame(text("my secret")).await;
        assert_eq!(client.read_frame().await, text("my secret"));
    }
    assert!(
        one.connections() > 0 && two.connections() > 0,
        "without the plugin they take turns"
    );
}

/// A WebSocket service that first says which fields it saw, with a secret, and then echoes.
async fn greet(mut connection: crate::harness::Connection) {
    let request = connection.read_head().await;
    connection.accept_websocket(&request).await;
    let field = |name| request.field(name).unwrap_or("none");
    let greeting = format!(
        "tier {}, cookie {}, a secret for you",
        field("x-tier"),
        field("cookie")
    );
    connection.send_frame(text(greeting)).await;
    while let Some(frame) = connection.next_frame().await {
        connection.send_frame(frame).await;
    }
}

#[tokio::test]
async fn headers_are_set_added_and_removed_both_ways_and_on_the_proxys_own_answers() {
    let (service, refusing) = (Service::http_echo().await, Refusing::new());
    let tidegate = Tidegate::serving(&format!(
        r#"
        {}
        plugins = ["headers"]
        [[sites.routes]]
        match = "/down"
        url = "http://{}"
        plugins = ["headers"]
        [[sites.routes]]
        match = "/fixed"
        respond = {{ status = 200, body = "fixed" }}
        plugins = ["headers"]
        [plugins.headers]
        module = "builtin:headers"
        [plugins.headers.config.request]
        set = {{ X-One = "1", X-Two = ["2", "3"] }}
        add = {{ X-Kept = "more" }}
        remove = ["X-Gone"]
        [plugins.headers.config.response]
        set = {{ X-Frame-Options = "DENY" }}
        "#,
        route_to(&service),
        refusing.address
    ))
    .await;
    let response = tidegate
        .exchange("GET / HTTP/1.1\nHost: a\nX-One: 0\nX-Kept: some\nX-Gone: x")
        .await;
    let seen = response.seen_by_service();
    assert_eq!(seen.fields("x-one"), ["1"]);
    assert_eq!(seen.fields("x-two"), ["2", "3"]);
    assert_eq!(seen.fields("x-kept"), ["some", "more"]);
    assert_eq!(seen.field("x-gone"), None);
    for (target, status) in [("/", 200), ("/down", 502), ("/fixed", 200)] {
        let response = tidegate.get(target).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.field("x-frame-options"), Some("DENY"), "{target}");
    }
}

#[tokio::test]
async fn a_key_stays_with_its_endpoint_until_that_is_gone() {
    let names = ["a", "b", "c"];
    let mut services = Vec::new();
    for name in names {
        services.push(Service::answering(name).await);
    }
    let configuration = |addresses: &[String]| {
        one_listener(&format!(
            r#"
            [[sites.routes]]
            match = "/"
            upstream = "services"
            plugins = ["choose"]
            timeouts = {{ connect = "1s" }}
            [upstreams.services]
            endpoints = {addresses:?}
            [plugins.choose]
            module = "builtin:choose-endpoint"
            config = {{ by = "header:X-Room" }}
            "#
        ))
    };
    let addresses: Vec<_> = services
        .iter()
        .map(|service| service.address.to_string())
        .collect();
    let tidegate = Tidegate::start(&configuration(&addresses)).await;
    let before = rooms(&tidegate).await;
    assert_eq!(rooms(&tidegate).await, before, "a room stays where it is");
    for name in names {
        assert!(
            before.values().any(|found| found == name),
            "nobody is at {name}: {before:?}"
        );
    }

    // With the last one refusing connections, only its rooms move.
    let refusing = Refusing::new();
    let mut fewer = addresses.clone();
    fewer[2] = refusing.address.to_string();
    drop(tidegate);
    let without: Vec<_> = addresses[..2].to_vec();
    let tidegate = Tidegate::start(&configuration(&without)).await;
    let after = rooms(&tidegate).await;
    for (room, name) in &before {
        let stays = name == "c" || &after[room] == name;
        assert!(
            stays,
            "room {room} was at {name} and is at {} now",
            after[room]
        );
    }
    // One that does not answer costs a room another choice and not an error.
    let tidegate = Tidegate::start(&configuration(&fewer)).await;
    assert_eq!(rooms(&tidegate).await.len(), before.len());
}

/// Which service each of thirty rooms is served by.
async fn rooms(tidegate: &Tidegate) -> BTreeMap<usize, String> {
    let mut found = BTreeMap::new();
    for room in 0..30 {
        let response = tidegate
            .exchange(&format!("GET / HTTP/1.1\nHost: a\nX-Room: {room}"))
            .await;
        assert_eq!(response.status(), 200);
        found.insert(room, response.text().to_owned());
    }
    found
}

#[tokio::test]
async fn an_endpoint_is_chosen_by_query_header_cookie_or_path() {
    let (a, b) = (Service::answering("a").await, Service::answering("b").await);
    for by in [
        "query:room",
        "header:X-Room",
        "cookie:room",
        "path-segment:2",
    ] {
        let tidegate = Tidegate::serving(&format!(
            r#"
            [[sites.routes]]
            match = "/"
            upstream = "services"
            plugins = ["choose"]
            [upstreams.services]
            endpoints = ["{}", "{}"]
            [plugins.choose]
            module = "builtin:choose-endpoint"
            config = {{ by = "{by}" }}
            "#,
            a.address, b.address
        ))
        .await;
        let mut seen = String::new();
        for room in 0..16 {
            let request = format!(
                "GET /rooms/{room}?room={room} HTTP/1.1\nHost: a\nX-Room: {room}\nCookie: room={room}"
            );
            let first = tidegate.exchange(&request).await.text().to_owned();
            let second = tidegate.exchange(&request).await.text().to_owned();
            assert_eq!(first, second, "{by}, room {room}");
            seen += &first;
        }
        assert!(seen.contains('a') && seen.contains('b'), "{by}: {seen}");
    }
}

#[tokio::test]
async fn words_are_masked_in_text_of_the_direction_asked_for() {
    // Says how long what it heard was, and then a secret of its own.
    let service = Service::start(|mut connection| async move {
        let request = connection.read_head().await;
        connection.accept_websocket(&request).await;
        while let Some(heard) = connection.next_frame().await {
            let said = format!("{} secret", heard.payload.len());
            connection.send_frame(Frame::new(heard.opcode, said)).await;
        }
    })
    .await;
    let route = |direction: &str| {
        let route = route_to(&service).replace("\"/\"", &format!("\"/{direction}\""));
        let config =
            format!("words = [\"secret\"], replacement = \"#\", direction = \"{direction}\"");
        format!("{route}plugins = [{{ name = \"redact\", config = {{ {config} }} }}]\n")
    };
    let tidegate = Tidegate::serving(&format!(
        "{}{}{}[plugins.redact]\nmodule = \"builtin:redact\"\nconfig = {{ words = [\"x\"] }}",
        route("both"),
        route("from-client"),
        route("from-service")
    ))
    .await;
    let rows = [
        ("/both", "1 #"),
        ("/from-client", "1 secret"),
        ("/from-service", "6 #"),
    ];
    for (target, answer) in rows {
        let mut client = tidegate.websocket(target).await;
        client.send_frame(text("secret")).await;
        assert_eq!(client.read_frame().await, text(answer), "{target}");
        client.send_frame(binary("secret")).await;
        assert_eq!(client.read_frame().await, binary("6 secret"), "{target}");
    }
}

#[tokio::test]
async fn a_word_in_two_fragments_is_masked() {
    let service = Service::websocket_echo().await;
    let tidegate = Tidegate::serving(&format!(
        "{}plugins = [\"redact\"]\n[plugins.redact]\nmodule = \"builtin:redact\"\nconfig = {{ words = [\"secret\"] }}",
        route_to(&service)
    ))
    .await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("a sec").unfinished()).await;
    client.send_frame(Frame::continuation("ret")).await;
    assert_eq!(client.read_frame().await, text("a ***"));
}

#[tokio::test]
async fn a_plugin_from_a_file_works_as_one_of_the_binary() {
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    std::fs::copy(guest("redact"), folder.path().join("redact.wasm")).unwrap();
    let tidegate = Tidegate::serving_in(
        folder,
        &format!(
            "{}plugins = [\"redact\"]\n[plugins.redact]\nmodule = \"redact.wasm\"\nconfig = {{ words = [\"secret\"] }}",
            route_to(&service)
        ),
    )
    .await;
    let mut client = tidegate.websocket("/").await;
    client.send_frame(text("a secret")).await;
    assert_eq!(client.read_frame().await, text("a ***"));
}

#[test]
fn what_a_plugin_says_of_its_configuration_stops_the_start() {
    let rows = [
        ("redact", "config = { words = 7 }", "words"),
        ("redact", "", "words"),
        ("choose-endpoint", "config = { by = \"moon\" }", "moon"),
        ("headers", "config = { requests = {} }", "requests"),
    ];
    for (plugin, config, says) in rows {
        let folder = Folder::new();
        let routes =
            "[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:9\"\nplugins = [\"mine\"]";
        let file = folder.write(
            "tidegate.toml",
            one_listener(&format!(
                "{routes}\n[plugins.mine]\nmodule = \"builtin:{plugin}\"\n{config}"
            )),
        );
        for arguments in [&["run", "-c"][..], &["check"]] {
            let output = command().args(arguments).arg(&file).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(
                error.contains("mine") && error.contains(says),
                "{arguments:?}: {error}"
            );
        }
    }
}
