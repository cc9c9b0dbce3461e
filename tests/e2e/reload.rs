//! SIGHUP: another configuration for new sessions, under those that run.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{
    Authority, Certificate, Connection, Folder, Service, Tidegate, eventually, guest, one_listener,
    route_to, text, tls_handshake,
};

#[tokio::test]
async fn a_reload_of_another_route_leaves_an_open_tunnel_alone() {
    let service = Service::websocket_echo().await;
    let with = |status: u16| {
        one_listener(&format!(
            "{}[[sites.routes]]\nmatch = \"/other\"\nrespond = {{ status = {status} }}",
            route_to(&service)
        ))
    };
    let mut tidegate = Tidegate::start(&with(204)).await;
    let mut client = tidegate.websocket("/").await;
    client.expect_echo("before").await;
    assert_eq!(tidegate.get("/other").await.status(), 204);

    assert_eq!(tidegate.reload_with(&with(205)).await, Ok(2));

    assert_eq!(tidegate.get("/other").await.status(), 205);
    client.expect_echo("after").await;
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn new_requests_are_served_as_the_new_file_says_even_on_an_old_connection() {
    let (old, new) = (
        Service::answering("old").await,
        Service::answering("new").await,
    );
    let mut tidegate = Tidegate::serving(&route_to(&old)).await;
    let mut client = tidegate.connect().await;
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "old"
    );
    tidegate
        .reload_with(&one_listener(&route_to(&new)))
        .await
        .unwrap();
    assert_eq!(
        client.exchange("GET / HTTP/1.1\nHost: a").await.text(),
        "new"
    );
    assert_eq!(tidegate.get("/").await.text(), "new");
}

#[tokio::test]
async fn a_session_keeps_the_route_it_began_with_and_gets_what_its_plugins_are_now() {
    let service = Service::websocket_echo().await;
    let redacting = |word: &str| {
        one_listener(&format!(
            r#"
            {}
            plugins = ["redact"]
            [plugins.redact]
            module = "builtin:redact"
            config = {{ words = ["{word}"] }}
            "#,
            route_to(&service)
        ))
    };
    let mut tidegate = Tidegate::start(&redacting("one")).await;
    let mut running = tidegate.websocket("/").await;
    tidegate.reload_with(&redacting("two")).await.unwrap();
    let mut fresh = tidegate.websocket("/").await;
    // Words added to a list must reach sessions that are open.
    for client in [&mut running, &mut fresh] {
        client.send_frame(text("one two")).await;
        assert_eq!(client.read_frame().await, text("one ***"));
    }
    // The route goes on for it when it is gone from the file, and with it its plugins.
    tidegate
        .reload_with(&one_listener(
            "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }",
        ))
        .await
        .unwrap();
    running.send_frame(text("one two")).await;
    assert_eq!(running.read_frame().await, text("one ***"));
    assert_eq!(tidegate.get("/").await.status(), 204);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_why() {
    let service = Service::websocket_echo().await;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let good = one_listener(&format!("{}\n{admin}", route_to(&service)));
    let mut tidegate = Tidegate::start(&good).await;
    let mut client = tidegate.websocket("/").await;
    let rows = [
        (good.replace("match", "matches"), "matches"),
        (
            good.replace("url = ", "plugins = [\"absent\"]\nurl = "),
            "absent",
        ),
        (
            format!("{good}\n[limits]\nmax_header = \"big\""),
            "max_header",
        ),
        ("= not toml".to_owned(), "tidegate.toml:1"),
    ];
    for (bad, says) in &rows {
        let error = tidegate.reload_with(bad).await.unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
        client.expect_echo("still here").await;
        tidegate
            .websocket("/")
            .await
            .expect_echo("and new ones too")
            .await;
    }
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_generation", &[]), 1.0);
    assert_eq!(
        metrics.sum("tidegate_reloads_total", &[("result", "failure")]),
        rows.len() as f64
    );
    // Once it is right again, it counts; it is what has been in force all along.
    assert_eq!(tidegate.reload_with(&good).await, Ok(1));
    let other = good.replace("match = \"/\"", "match = \"/x\"");
    assert_eq!(tidegate.reload_with(&other).await, Ok(2));
}

#[tokio::test]
async fn what_is_only_read_at_the_start_is_named_and_nothing_changes() {
    let respond = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";
    let before = one_listener(respond);
    let mut tidegate = Tidegate::start(&before).await;
    let changed = before.replace("204", "205");
    let rows = [
        ("workers", changed.replace("workers = 1", "workers = 2")),
        (
            "admin",
            format!("{changed}[admin]\nlisten = \"127.0.0.1:0\""),
        ),
    ];
    let both = format!(
        "{}[admin]\nlisten = \"127.0.0.1:0\"",
        changed.replace("workers = 1", "workers = 2")
    );
    let error = tidegate.reload_with(&both).await.unwrap_err();
    assert!(
        error.contains("`workers`") && error.contains("`admin`"),
        "{error}"
    );
    for (key, configuration) in rows {
        let error = tidegate.reload_with(&configuration).await.unwrap_err();
        assert!(
            error.contains(key) && error.contains("restart"),
            "{key}: {error}"
        );
        assert_eq!(tidegate.get("/").await.status(), 204, "{key}");
    }
}

#[tokio::test]
async fn a_reload_without_a_change_keeps_connections_to_services() {
    let service = Service::http_echo().await;
    let mut tidegate = Tidegate::serving(&route_to(&service)).await;
    tidegate.get("/").await.seen_by_service();
    for _ in 0..3 {
        tidegate.reload().await.unwrap();
        tidegate.get("/").await.seen_by_service();
    }
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn new_certificates_are_shown_to_new_clients_and_old_ones_stay_connected() {
    let service = Service::websocket_echo().await;
    let authority = Authority::new();
    let (old, new) = (
        authority.issue(&["www.example.com"]),
        authority.issue(&["www.example.com"]),
    );
    let folder = Folder::new();
    folder.write("cert.pem", &old.chain);
    folder.write("key.pem", &old.key);
    let mut tidegate = Tidegate::start_in(
        folder,
        &format!(
            r#"
            workers = 2
            [[listeners]]
            bind = "127.0.0.1:0"
            tls = true
            [[sites]]
            names = ["www.example.com"]
            certificate = {{ chain = "cert.pem", key = "key.pem" }}
            {}
            "#,
            route_to(&service)
        ),
    )
    .await;
    let address = tidegate.address(0);
    let mut client = authority.connect(address, "www.example.com").await;
    client.open_websocket("/").await;

    // A key that does not fit changes nothing.
    tidegate.folder.write("cert.pem", &new.chain);
    let error = tidegate.reload().await.unwrap_err();
    assert!(error.contains("key.pem"), "{error}");
    tidegate.folder.write("key.pem", &new.key);
    tidegate.reload().await.unwrap();

    client.expect_echo("still here").await;
    // On every worker; connections are shared out at random.
    for _ in 0..8 {
        let config = Arc::new(authority.client(rustls::ALL_VERSIONS));
        let stream = tls_handshake(&config, address, "www.example.com")
            .await
            .unwrap();
        assert_eq!(
            stream.get_ref().1.peer_certificates().unwrap()[0].as_ref(),
            new.der()
        );
    }
}

/// Promise 2 of the design.
#[tokio::test]
async fn reloads_lose_nothing_of_many_sessions_that_echo() {
    const SESSIONS: usize = 100;
    const MESSAGES: usize = 100;
    let service = Service::websocket_echo().await;
    let with = |number: usize| {
        one_listener(&format!(
            "{}[[sites.routes]]\nmatch = \"/n\"\nrespond = {{ status = 200, body = \"{number}\" }}",
            route_to(&service)
        ))
        .replace("workers = 1", "workers = 2")
    };
    let mut tidegate = Tidegate::start(&with(0)).await;
    let mut echoing = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        let address = tidegate.address(0);
        echoing.spawn(async move {
            let mut client = Connection::open(address).await;
            client.open_websocket("/").await;
            for message in 0..MESSAGES {
                client.expect_echo(&format!("{session}/{message}")).await;
            }
        });
    }
    for number in 1..=10 {
        tidegate.reload_with(&with(number)).await.unwrap();
        // Both workers have it by now, or will in a moment.
        eventually("the new generation", async || {
            (tidegate.get("/n").await.text() == number.to_string()).then_some(())
        })
        .await;
    }
    echoing.join_all().await;
}

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

#[tokio::test]
async fn a_reload_without_a_change_is_none() {
    let service = Service::websocket_echo().await;
    let authority = Authority::new();
    let (folder, pair) = (Folder::new(), authority.issue(&["www.example.com"]));
    folder.write("cert.pem", &pair.chain);
    folder.write("key.pem", &pair.key);
    folder.write("ca.pem", authority.pem());
    folder.write("plugin.wasm", std::fs::read(guest("pass-through")).unwrap());
    let configuration = format!(
        r#"
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = true
        [[sites]]
        names = ["www.example.com"]
        certificate = {{ chain = "cert.pem", key = "key.pem" }}
        [[sites.routes]]
        match = "~ ^/(?<group>a)"
        upstream = "trusted"
        [upstreams.trusted]
        endpoints = [{{ address = "localhost:9" }}]
        tls = {{ ca = "ca.pem" }}
        {}
        plugins = ["mine"]
        [plugins.mine]
        module = "plugin.wasm"
        {ADMIN}
        "#,
        route_to(&service).replace("[[sites.routes]]", "[[sites.routes]]\n")
    );
    let mut tidegate = Tidegate::start_in(folder, &configuration).await;
    let plugins = tidegate.admin("/v1/plugins").await.text().to_owned();
    assert_eq!(tidegate.reload().await, Ok(1));
    // Where things stand in the file means nothing.
    let moved = format!("# A line more.\n{configuration}");
    assert_eq!(tidegate.reload_with(&moved).await, Ok(1));
    assert_eq!(tidegate.admin("/v1/plugins").await.text(), plugins);
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_generation", &[]), 1.0);

    // What files say that the configuration only names counts as well.
    let renewed = authority.issue(&["www.example.com"]);
    tidegate.folder.write("cert.pem", &renewed.chain);
    tidegate.folder.write("key.pem", &renewed.key);
    assert_eq!(tidegate.reload().await, Ok(2));
    tidegate.folder.write("ca.pem", Authority::new().pem());
    assert_eq!(tidegate.reload().await, Ok(3));
    assert_eq!(tidegate.reload().await, Ok(3));
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    folder.write("plugin.wasm", std::fs::read(guest("pass-through")).unwrap());
    let before = one_listener(&format!(
        r#"
        {}
        plugins = ["mine"]
        [[sites.routes]]
        match = "/gone"
        respond = {{ status = 204 }}
        [[sites.routes]]
        match = "/group"
        upstream = "group"
        [upstreams.group]
        endpoints = [{{ address = "127.0.0.1:9" }}]
        [plugins.mine]
        module = "plugin.wasm"
        {ADMIN}
        "#,
        route_to(&service)
    ));
    let tidegate = Tidegate::start_in(folder, &before).await;
    let same = tidegate.remote(&["reload", "--dry-run"]);
    assert_eq!(
        printed(&same.stdout),
        "nothing would change; generation 1 is in force\n"
    );

    let log = tidegate.folder.path().join("access.log");
    let after = before
        .replace("bind = ", "http2 = true\nbind = ")
        .replace("match = \"/gone\"", "match = \"/new\"")
        .replace("127.0.0.1:9\"", "127.0.0.1:9\", weight = 2")
        .replace("module = ", "on_failure = \"open\"\nmodule = ")
        .replace(
            "workers = 1",
            "workers = 1\naccess_log = { path = \"access.log\" }\nlimits = { max_headers = 50 }",
        );
    tidegate.folder.write("tidegate.toml", &after);
    let difference = tidegate.remote(&["reload", "--dry-run"]);
    assert_eq!(difference.status.code(), Some(0));
    let expected = "~ listener 127.0.0.1:0
~ site default
~ route default /
+ route default /new
~ route default /group
- route default /gone
~ upstream group
~ plugin mine
~ setting access_log
~ setting limits
nothing was done; generation 1 is in force
";
    assert_eq!(printed(&difference.stdout), expected);
    let json = tidegate.remote(&["reload", "--dry-run", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["dry_run"], true);
    assert_eq!(json["generation"], 1);
    let route = json!({ "kind": "route", "name": "default /new", "change": "added" });
    assert!(
        json["changes"].as_array().unwrap().contains(&route),
        "{json}"
    );

    assert_eq!(tidegate.get("/gone").await.status(), 204);
    assert!(
        !log.exists(),
        "even the access log is only opened by a reload"
    );
    let done = tidegate.remote(&["reload"]);
    let done = printed(&done.stdout);
    assert!(done.contains("+ route default /new\n"), "{done}");
    assert!(done.ends_with("\ngeneration 2 is in force\n"), "{done}");

    // What is wrong is told by a dry run as well, all of it.
    tidegate.folder.write(
        "tidegate.toml",
        after
            .replace("respond", "answer")
            .replace("upstream = \"group\"", "upstream = \"none\""),
    );
    let refused = tidegate.remote(&["reload", "--dry-run"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = printed(&refused.stderr);
    assert!(
        error.contains("answer") && error.contains("none"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_watched_is_reloaded_when_it_changes() {
    let with = |watch: &str, status: u16| {
        let respond = format!("[[sites.routes]]\nmatch = \"/\"\nrespond = {{ status = {status} }}");
        format!("{watch}\n{}", one_listener(&respond))
    };
    let mut tidegate = Tidegate::start(&with("watch = true", 204)).await;
    tidegate
        .folder
        .write("tidegate.toml", with("watch = true", 205));
    assert_eq!(tidegate.reloaded().await, Ok(2));
    assert_eq!(tidegate.get("/").await.status(), 205);
    tidegate.folder.write("tidegate.toml", "not = a = file");
    assert!(tidegate.reloaded().await.is_err());
    assert_eq!(tidegate.get("/").await.status(), 205);
    // By renaming another one over it, as editors do.
    let other = tidegate.folder.write("other.toml", with("", 206));
    std::fs::rename(other, tidegate.folder.path().join("tidegate.toml")).unwrap();
    assert_eq!(tidegate.reloaded().await, Ok(3));
    // Now it is not watched any more.
    tidegate
        .folder
        .write("tidegate.toml", with("watch = true", 200));
    assert_eq!(tidegate.get("/").await.status(), 206);
    assert_eq!(tidegate.reload().await, Ok(4));
}

#[tokio::test]
async fn a_certificate_that_is_watched_is_served_once_it_is_renewed() {
    let authority = Authority::new();
    let [old, new] = [(); 2].map(|()| authority.issue(&["www.example.com"]));
    let folder = Folder::new();
    // As certbot has it: links into a folder of all of them.
    for (version, pair) in [("old", &old), ("new", &new)] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        folder.write(&format!("{version}/cert.pem"), &pair.chain);
        folder.write(&format!("{version}/key.pem"), &pair.key);
    }
    let link = |folder: &Folder, version: &str| {
        let fresh = folder.path().join("fresh");
        std::os::unix::fs::symlink(version, &fresh).unwrap();
        std::fs::rename(fresh, folder.path().join("live")).unwrap();
    };
    link(&folder, "old");
    let mut tidegate = Tidegate::start_in(
        folder,
        r#"
        watch = true
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = true
        [[sites]]
        names = ["www.example.com"]
        certificate = { chain = "live/cert.pem", key = "live/key.pem" }
        [[sites.routes]]
        match = "/"
        respond = { status = 204 }
        "#,
    )
    .await;
    let address = tidegate.address(0);
    let config = Arc::new(authority.client(rustls::ALL_VERSIONS));
    let shown = async || {
        let stream = tls_handshake(&config, address, "www.example.com")
            .await
            .unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0]
            .as_ref()
            .to_vec()
    };
    assert_eq!(shown().await, old.der());
    link(&tidegate.folder, "new");
    assert_eq!(tidegate.reloaded().await, Ok(2));
    assert_eq!(shown().await, new.der());
}

#[tokio::test]
async fn a_watched_folder_that_another_takes_the_place_of_is_watched_on() {
    let authority = Authority::new();
    let pairs = [(); 2].map(|()| authority.issue(&["www.example.com"]));
    let folder = Folder::new();
    let write = |folder: &Folder, name: &str, pair: &Certificate| {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        folder.write(&format!("{name}/cert.pem"), &pair.chain);
        folder.write(&format!("{name}/key.pem"), &pair.key);
    };
    write(&folder, "certs", &pairs[0]);
    write(&folder, "certs.new", &pairs[1]);
    let mut tidegate = Tidegate::start_in(
        folder,
        r#"
        watch = true
        workers = 1
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = true
        [[sites]]
        names = ["www.example.com"]
        certificate = { chain = "certs/cert.pem", key = "certs/key.pem" }
        [[sites.routes]]
        match = "/"
        respond = { status = 204 }
        "#,
    )
    .await;
    let certs = tidegate.folder.path().join("certs");
    std::fs::rename(&certs, certs.with_extension("old")).unwrap();
    // What is not there cannot be read, and is waited for.
    assert!(tidegate.reloaded().await.is_err());
    std::fs::rename(certs.with_extension("new"), &certs).unwrap();
    assert_eq!(tidegate.reloaded().await, Ok(2));
    // It is watched as the one before it was.
    tidegate.folder.write("certs/cert.pem", &pairs[1].chain);
    assert_eq!(tidegate.reloaded().await, Ok(2));
    // And so is the old one, back where it was.
    std::fs::rename(&certs, certs.with_extension("new")).unwrap();
    assert!(tidegate.reloaded().await.is_err());
    std::fs::rename(certs.with_extension("old"), &certs).unwrap();
    assert_eq!(tidegate.reloaded().await, Ok(3));
}

/// A generation keeps plugins, certificates and files open.
#[tokio::test]
async fn a_listener_that_nobody_comes_to_keeps_no_old_generation() {
    let with = |log: &str| {
        one_listener(&format!(
            "access_log = {{ path = \"{log}.log\" }}\n[[sites.routes]]\nmatch = \"/\"\n\
             respond = {{ status = 204 }}"
        ))
    };
    let mut tidegate = Tidegate::start(&with("old")).await;
    assert_eq!(tidegate.reload_with(&with("new")).await, Ok(2));
    let files = format!("/proc/{}/fd", tidegate.process.id());
    eventually("end of the old generation", async || {
        let open = std::fs::read_dir(&files).unwrap();
        let open = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let open: Vec<_> = open.collect();
        assert!(open.iter().any(|file| file.ends_with("new.log")));
        (!open.iter().any(|file| file.ends_with("old.log"))).then_some(())
    })
    .await;
}

/// Promise 2 of the design, at its hardest: what changes are the routes themselves.
#[tokio::test]
async fn clients_of_unchanged_routes_see_nothing_of_two_hundred_reloads() {
    const RELOADS: u64 = 200;
    let (chat, pages) = (Service::websocket_echo().await, Service::http_echo().await);
    let with = |number: u64| {
        let routes = route_to(&chat).replace("\"/\"", "\"/chat\"") + &route_to(&pages);
        let changing = (0..number % 3).map(|n| {
            format!(
                "[[sites.routes]]\nmatch = \"/{n}\"\nrespond = {{ status = {} }}\n",
                200 + number
            )
        });
        one_listener(&(routes + &changing.collect::<String>()))
            .replace("workers = 1", "workers = 2")
    };
    let mut tidegate = Tidegate::start(&with(0)).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    let address = tidegate.address(0);
    for client in 0..12 {
        let stopped = stopped.clone();
        clients.spawn(async move {
            let mut kept = Connection::open(address).await;
            if client % 3 == 0 {
                kept.open_websocket("/chat").await;
            }
            let mut done = 0_u64;
            while !*stopped.borrow() {
                let request = format!("GET /page/{done} HTTP/1.1\nHost: a");
                match client % 3 {
                    0 => kept.expect_echo(&done.to_string()).await,
                    1 => assert_eq!(kept.exchange(&request).await.status(), 200),
                    _ => {
                        let mut fresh = Connection::open(address).await;
                        assert_eq!(fresh.exchange(&request).await.status(), 200);
                    }
                }
                done += 1;
            }
            done
        });
    }
    let mut generation = 1;
    for number in 1..=RELOADS {
        generation += 1;
        assert_eq!(tidegate.reload_with(&with(number)).await, Ok(generation));
    }
    stop.send_replace(true);
    for done in clients.join_all().await {
        assert!(done > RELOADS / 10, "only {done} exchanges");
    }
}

fn printed(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
