//! Files: a route answers as nginx does with the same root or alias, header by header and byte by byte.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::{Connection, Folder, Head, Response, Service, Tidegate, handshake, within};

/// When all files of [`www`] were last modified: Tue, 02 Jan 2024 03:04:05 GMT.
const MODIFIED: u64 = 1_704_164_645;
const LAST_MODIFIED: &str = "Tue, 02 Jan 2024 03:04:05 GMT";
const HELLO: &str = "hello world, this is a text file\n";
const HELLO_TAG: &str = "\"65937d25-21\"";

/// Writes a file into a folder of files, with the folders above it.
fn put(folder: &Folder, path: &str, content: impl AsRef<[u8]>) {
    put_at(&folder.path().join("www").join(path), content);
}

fn put_at(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    let modified = UNIX_EPOCH + Duration::from_secs(MODIFIED);
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_modified(modified))
        .unwrap();
}

/// A folder `www` with the files that most tests ask for.
fn www() -> Folder {
    let folder = Folder::new();
    put(&folder, "hello.txt", HELLO);
    put(&folder, "index.html", "<h1>root</h1>");
    put(&folder, "dir/index.html", "<h1>index</h1>");
    put(&folder, "empty/.keep", "");
    folder
}

/// One route for all paths that serves from `www`, with further lines of its `files` table.
async fn serving(folder: Folder, settings: &str) -> Tidegate {
    let route = format!(
        "[[sites.routes]]\nmatch = \"/\"\n[sites.routes.files]\nroot = \"www\"\n{settings}"
    );
    Tidegate::serving_in(folder, &route).await
}

/// Sends `GET` with further fields.
async fn get(client: &mut Connection, target: &str, fields: &str) -> Response {
    client
        .exchange(&format!(
            "GET {target} HTTP/1.1\nHost: example.com\n{fields}"
        ))
        .await
}

/// Fails the test unless a head has exactly these values of fields.
fn assert_fields(what: &str, head: &Head, fields: &[(&str, Option<&str>)]) {
    for (name, value) in fields {
        assert_eq!(head.field(name), *value, "{name} of {what}: {head:?}");
    }
}

#[tokio::test]
async fn a_file_is_sent_with_all_that_identifies_it() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    let response = get(&mut client, "/hello.txt?x=y", "").await;
    assert_eq!((response.status(), response.text()), (200, HELLO));
    let fields = [
        ("content-type", Some("text/plain")),
        ("content-length", Some("33")),
        ("last-modified", Some(LAST_MODIFIED)),
        ("etag", Some(HELLO_TAG)),
        ("accept-ranges", Some("bytes")),
        ("expires", None),
        ("cache-control", None),
        ("vary", None),
        ("content-encoding", None),
    ];
    assert_fields("GET", &response, &fields);
    client
        .send_head("HEAD /hello.txt HTTP/1.1\nHost: example.com")
        .await;
    let head = client.read_head().await;
    assert_eq!(head.status(), 200);
    assert_fields("HEAD", &head, &fields);
    // Nothing came after the head of HEAD's answer: the connection goes on.
    let response = get(&mut client, "/dir/", "").await;
    assert_eq!(response.text(), "<h1>index</h1>");
    assert_eq!(response.field("content-type"), Some("text/html"));
}

#[tokio::test]
async fn what_is_not_served_has_the_status_that_nginx_gives_it() {
    let folder = www();
    put(&folder, "zero.bin", "");
    put(&folder, "index-is-a-folder/index.html/x", "");
    symlink("loop", folder.path().join("www/loop")).unwrap();
    let tidegate = serving(folder, "").await;
    let mut client = tidegate.connect().await;
    let long = format!("/{}", "x".repeat(300));
    for (target, status, body) in [
        ("/", 200, "<h1>root</h1>"),
        ("/dir/", 200, "<h1>index</h1>"),
        ("//dir/./index.html", 200, "<h1>index</h1>"),
        ("/empty/../hello.txt", 200, HELLO),
        ("/dir%2Findex.html", 200, "<h1>index</h1>"),
        ("/zero.bin", 200, ""),
        ("/missing", 404, "404 Not Found\n"),
        ("/missing/", 404, "404 Not Found\n"),
        ("/hello.txt/", 404, "404 Not Found\n"),
        ("/hello.txt/x", 404, "404 Not Found\n"),
        (&long, 404, "404 Not Found\n"),
        ("/hello.txt%2500", 404, "404 Not Found\n"),
        ("/empty/", 403, "403 Forbidden\n"),
        ("/index-is-a-folder/", 403, "403 Forbidden\n"),
        ("/loop", 403, "403 Forbidden\n"),
        ("/hello.txt%00", 400, "400 Bad Request\n"),
    ] {
        let response = get(&mut client, target, "").await;
        assert_eq!(
            (response.status(), response.text()),
            (status, body),
            "{target}"
        );
        if status != 200 {
            let none = [("etag", None), ("last-modified", None)];
            assert_fields(target, &response, &none);
        }
    }
}

#[tokio::test]
async fn other_methods_are_told_which_are_allowed() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        client
            .send_head(&format!(
                "{method} /hello.txt HTTP/1.1\nHost: a\nContent-Length: 4"
            ))
            .await;
        client.send("body").await;
        // The body has been read, so that the connection goes on.
        let response = client.read_response().await;
        assert_eq!(response.status(), 405, "{method}");
        assert_eq!(response.field("allow"), Some("GET, HEAD"), "{method}");
    }
    client
        .send_head("GET /hello.txt HTTP/1.1\nHost: a\nContent-Length: 4")
        .await;
    client.send("body").await;
    assert_eq!(client.read_response().await.text(), HELLO);
    assert_eq!(get(&mut client, "/hello.txt", "").await.text(), HELLO);
}

#[tokio::test]
async fn a_folder_without_its_slash_is_a_redirect_to_the_port_that_was_reached() {
    let folder = www();
    put(&folder, "sp ace/ü?#%\"/index.html", "");
    let tidegate = serving(folder, "").await;
    let port = tidegate.address(0).port();
    for (target, host, location) in [
        ("/dir", "example.com", "http://example.com:PORT/dir/"),
        (
            "/dir?a=b%20c",
            "Example.COM",
            "http://example.com:PORT/dir/?a=b%20c",
        ),
        ("/dir?", "example.com:99", "http://example.com:PORT/dir/"),
        ("/x/..//dir", "[::1]:99", "http://[::1]:PORT/dir/"),
        ("/sp%20ace", "a", "http://a:PORT/sp%20ace/"),
        (
            "/sp%20ace/%C3%BC%3F%23%25%22",
            "a",
            "http://a:PORT/sp%20ace/%C3%BC%3F%23%25%22/",
        ),
    ] {
        let response = tidegate
            .exchange(&format!("GET {target} HTTP/1.1\nHost: {host}"))
            .await;
        assert_eq!(response.status(), 301, "{target}");
        let location = location.replace("PORT", &port.to_string());
        assert_eq!(response.field("location"), Some(&*location), "{target}");
    }
}

#[tokio::test]
async fn ranges_are_sent_byte_for_byte() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    for (range, status, content_range, body) in [
        ("0-4", 206, Some("bytes 0-4/33"), "hello"),
        ("28-", 206, Some("bytes 28-32/33"), "file\n"),
        ("-5", 206, Some("bytes 28-32/33"), "file\n"),
        ("-99", 206, Some("bytes 0-32/33"), HELLO),
        ("0-4,100-200", 206, Some("bytes 0-4/33"), "hello"),
        (
            "33-",
            416,
            Some("bytes */33"),
            "416 Range Not Satisfiable\n",
        ),
        ("x", 416, Some("bytes */33"), "416 Range Not Satisfiable\n"),
        ("0-,0-", 200, None, HELLO),
    ] {
        let response = get(&mut client, "/hello.txt", &format!("Range: bytes={range}")).await;
        let seen = (response.status(), response.text());
        assert_eq!(seen, (status, body), "{range}");
        assert_eq!(response.field("content-range"), content_range, "{range}");
        let accepts = (status == 200).then_some("bytes");
        assert_eq!(response.field("accept-ranges"), accepts, "{range}");
        if status == 206 {
            let fields = [
                ("content-type", Some("text/plain")),
                ("last-modified", Some(LAST_MODIFIED)),
                ("etag", Some(HELLO_TAG)),
            ];
            assert_fields(range, &response, &fields);
        }
    }
    client
        .send_head("HEAD /hello.txt HTTP/1.1\nHost: a\nRange: bytes=0-4")
        .await;
    let head = client.read_head().await;
    let fields = [
        ("content-length", Some("5")),
        ("content-range", Some("bytes 0-4/33")),
    ];
    assert_eq!(head.status(), 206);
    assert_fields("HEAD", &head, &fields);
}

#[tokio::test]
async fn several_ranges_are_one_multipart_body() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    let response = get(&mut client, "/hello.txt", "Range: bytes=6-10, 0-0,-2").await;
    assert_eq!(response.status(), 206);
    let content_type = response.field("content-type").unwrap();
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let part = |range: &str, content: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/33\r\n\r\n{content}"
        )
    };
    let expected = part("6-10", "world")
        + &part("0-0", "h")
        + &part("31-32", "e\n")
        + &format!("\r\n--{boundary}--\r\n");
    assert_eq!(response.text(), expected);
    let length = expected.len().to_string();
    let fields = [
        ("content-length", Some(&*length)),
        ("content-range", None),
        ("etag", Some(HELLO_TAG)),
    ];
    assert_fields("several ranges", &response, &fields);
}

#[tokio::test]
async fn conditions_are_judged_as_nginx_judges_them() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    for (fields, status) in [
        (format!("If-None-Match: {HELLO_TAG}"), 304),
        (format!("If-None-Match: \"x\", W/{HELLO_TAG}"), 304),
        ("If-None-Match: \"x\"".to_owned(), 200),
        (format!("If-Modified-Since: {LAST_MODIFIED}"), 304),
        (
            "If-Modified-Since: Wed, 03 Jan 2024 03:04:05 GMT".to_owned(),
            200,
        ),
        ("If-Match: \"x\"".to_owned(), 412),
        (format!("If-Match: {HELLO_TAG}"), 200),
        (
            "If-Unmodified-Since: Mon, 01 Jan 2024 03:04:05 GMT".to_owned(),
            412,
        ),
        (format!("If-Unmodified-Since: {LAST_MODIFIED}"), 200),
        (format!("If-None-Match: {HELLO_TAG}\nRange: bytes=0-1"), 304),
        (format!("If-Range: {HELLO_TAG}\nRange: bytes=0-1"), 206),
        (format!("If-Range: {LAST_MODIFIED}\nRange: bytes=0-1"), 206),
        ("If-Range: \"x\"\nRange: bytes=0-1".to_owned(), 200),
    ] {
        let response = get(&mut client, "/hello.txt", &fields).await;
        assert_eq!(response.status(), status, "{fields}");
        let body = match status {
            200 => HELLO,
            206 => "he",
            304 => "",
            _ => "412 Precondition Failed\n",
        };
        assert_eq!(response.text(), body, "{fields}");
        let identified = (status != 412).then_some(HELLO_TAG);
        assert_eq!(response.field("etag"), identified, "{fields}");
        if status == 304 {
            let none = [("content-type", None), ("accept-ranges", None)];
            assert_fields(&fields, &response, &none);
        }
    }
}

#[tokio::test]
async fn a_time_after_that_of_the_file_is_fresh_if_the_route_says_before() {
    let later = "If-Modified-Since: Wed, 03 Jan 2024 03:04:05 GMT";
    for (setting, status) in [("exact", 200), ("before", 304), ("off", 200)] {
        let setting = format!("if_modified_since = \"{setting}\"");
        let tidegate = serving(www(), &setting).await;
        let mut client = tidegate.connect().await;
        let response = get(&mut client, "/hello.txt", later).await;
        assert_eq!(response.status(), status, "{setting}");
    }
}

/// The static location of a published set-up: 30 days for whatever looks like a file, although `/`
/// proxies.
#[tokio::test]
async fn a_file_is_a_file_even_when_a_handshake_asks_for_it() {
    let service = Service::websocket_echo().await;
    let folder = www();
    put(&folder, "x.json", "{}");
    let tidegate = Tidegate::serving_in(
        folder,
        &format!(
            r#"
            [[sites.routes]]
            match = "/"
            url = "http://{}"
            [[sites.routes]]
            match = '~ .*.(gif|txt|jpg|jpeg|png|bmp|swf|json)$'
            files = "www"
            expires = "30d"
            "#,
            service.address
        ),
    )
    .await;
    let mut client = tidegate.connect().await;
    let before = SystemTime::now();
    let response = client.exchange(&handshake("/x.json")).await;
    assert_eq!((response.status(), response.text()), (200, "{}"));
    let fields = [
        ("content-type", Some("application/json")),
        ("cache-control", Some("max-age=2592000")),
    ];
    assert_fields("x.json", &response, &fields);
    let expires = httpdate::parse_http_date(response.field("expires").unwrap()).unwrap();
    let fresh = expires.duration_since(before).unwrap().as_secs();
    assert!((2_591_998..=2_592_030).contains(&fresh), "{fresh}");
    let missing = client.exchange(&handshake("/socket.json")).await;
    assert_eq!(missing.status(), 404);
    assert_fields(
        "404",
        &missing,
        &[("expires", None), ("cache-control", None)],
    );
    // The connection is still an ordinary one, and elsewhere handshakes open tunnels.
    client.open_websocket("/chat").await;
    client.expect_echo("hello").await;
}

#[tokio::test]
async fn expires_goes_on_whatever_may_be_cached() {
    let service = Service::http_echo().await;
    let route = |path: &str, action: &str, expires: &str| {
        format!("[[sites.routes]]\nmatch = \"{path}\"\n{action}\nexpires = \"{expires}\"\n")
    };
    let files = "files = { root = \"www\", try = [\"/hello.txt\", \"=404\"] }";
    let routes = [
        route("/files/", "files = \"www\"", "1h"),
        route("/epoch", files, "epoch"),
        route("/max", files, "max"),
        route("/past", files, "-1s"),
        route("/zero", files, "0s"),
        route("/modified", files, "modified 30d"),
        route("/respond", "respond = { status = 204 }", "1h"),
        route("/refused", "respond = { status = 403 }", "1h"),
        route(
            "/service",
            &format!("url = \"http://{}\"", service.address),
            "1h",
        ),
    ];
    let folder = www();
    put(&folder, "files/dir/x", "x");
    let tidegate = Tidegate::serving_in(folder, &routes.concat()).await;
    for (target, status, cache_control) in [
        ("/files/dir/x", 200, Some("max-age=3600")),
        ("/files/dir", 301, Some("max-age=3600")),
        ("/files/missing", 404, None),
        ("/files/dir/", 403, None),
        ("/epoch", 200, Some("no-cache")),
        ("/max", 200, Some("max-age=315360000")),
        ("/past", 200, Some("no-cache")),
        ("/zero", 200, Some("max-age=0")),
        ("/modified", 200, Some("no-cache")),
        ("/respond", 204, Some("max-age=3600")),
        ("/refused", 403, None),
        ("/service", 200, Some("max-age=3600")),
    ] {
        let response = tidegate.get(target).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.field("cache-control"), cache_control, "{target}");
        let is_dated = response.field("expires").is_some();
        assert_eq!(is_dated, cache_control.is_some(), "{target}");
    }
    let dates = [
        ("/epoch", "Thu, 01 Jan 1970 00:00:01 GMT"),
        ("/max", "Thu, 31 Dec 2037 23:55:55 GMT"),
        ("/modified", "Thu, 01 Feb 2024 03:04:05 GMT"),
    ];
    for (target, expires) in dates {
        assert_eq!(tidegate.get(target).await.field("expires"), Some(expires));
    }
}

#[tokio::test]
async fn the_extension_decides_the_media_type() {
    let folder = www();
    for name in [
        "A.GIF", ".gif", "x.zzz", "none", "a.b/none", "x.log", "s.css", "x.js",
    ] {
        put(&folder, name, "x");
    }
    let tidegate = serving(
        folder,
        "charset = \"utf-8\"\ntypes = { LOG = \"text/plain\", css = \"text/x-own\" }",
    )
    .await;
    for (target, content_type) in [
        ("/A.GIF", "image/gif"),
        ("/.gif", "application/octet-stream"),
        ("/x.zzz", "application/octet-stream"),
        ("/none", "application/octet-stream"),
        ("/a.b/none", "application/octet-stream"),
        ("/x.log", "text/plain; charset=utf-8"),
        ("/s.css", "text/x-own"),
        ("/x.js", "text/javascript; charset=utf-8"),
        ("/dir/", "text/html; charset=utf-8"),
    ] {
        let response = tidegate.get(target).await;
        assert_eq!(
            response.field("content-type"),
            Some(content_type),
            "{target}"
        );
    }
    let folder = www();
    put(&folder, "none", "x");
    let tidegate = serving(folder, "default_type = \"text/x-default\"").await;
    let response = tidegate.get("/none").await;
    assert_eq!(response.field("content-type"), Some("text/x-default"));
}

#[tokio::test]
async fn a_compressed_file_stands_in_for_the_plain_one() {
    let folder = www();
    put(&folder, "app.js", "plain");
    put(&folder, "app.js.gz", "gzipped");
    put(&folder, "app.js.br", "brotli");
    put(&folder, "only.js.gz", "gzipped");
    put(&folder, "dir/index.html.gz", "gzipped");
    let tidegate = serving(folder, "precompressed = [\"br\", \"gzip\"]").await;
    let mut client = tidegate.connect().await;
    let vary = Some("Accept-Encoding");
    for (target, accepted, coding, body, varies) in [
        ("/app.js", "gzip, br", Some("br"), "brotli", vary),
        ("/app.js", "br;q=0.5, gzip", Some("gzip"), "gzipped", vary),
        ("/app.js", "gzip", Some("gzip"), "gzipped", vary),
        ("/app.js", "gzip;q=0", None, "plain", vary),
        ("/app.js", "*", None, "plain", vary),
        ("/dir/", "gzip", Some("gzip"), "gzipped", vary),
        ("/dir/", "br", None, "<h1>index</h1>", vary),
        ("/only.js", "gzip", Some("gzip"), "gzipped", vary),
        ("/hello.txt", "gzip, br", None, HELLO, None),
    ] {
        let response = get(&mut client, target, &format!("Accept-Encoding: {accepted}")).await;
        assert_eq!(response.text(), body, "{target} {accepted}");
        let fields = [("content-encoding", coding), ("vary", varies)];
        assert_fields(&format!("{target} {accepted}"), &response, &fields);
    }
    assert_eq!(tidegate.get("/only.js").await.status(), 404);
    // The type is that of what is compressed, the tag that of what is sent; nginx offers no ranges.
    let fields = "Accept-Encoding: gzip\nRange: bytes=0-1";
    let response = get(&mut client, "/app.js", fields).await;
    assert_eq!((response.status(), response.text()), (200, "gzipped"));
    let fields = [
        ("content-type", Some("text/javascript")),
        ("etag", Some("\"65937d25-7\"")),
        ("accept-ranges", None),
    ];
    assert_fields("compressed", &response, &fields);
    let fields = "Accept-Encoding: gzip\nIf-None-Match: \"65937d25-7\"";
    let response = get(&mut client, "/app.js", fields).await;
    assert_eq!(response.status(), 304);
    assert_fields(
        "304",
        &response,
        &[("vary", vary), ("content-encoding", None)],
    );
}

#[tokio::test]
async fn what_exists_first_of_the_paths_to_try_is_served() {
    let tidegate = Tidegate::serving_in(
        www(),
        r#"
        [[sites.routes]]
        match = "/"
        files = { root = "www", try = ["$uri", "$uri/", "/index.html"] }
        [[sites.routes]]
        match = "/strict/"
        files = { alias = "www", try = ["$uri", "$uri.txt", "=410"] }
        "#,
    )
    .await;
    for (target, status, body) in [
        ("/hello.txt", 200, HELLO),
        ("/", 200, "<h1>root</h1>"),
        ("/users/17", 200, "<h1>root</h1>"),
        ("/users/17/", 200, "<h1>root</h1>"),
        ("/dir/", 200, "<h1>index</h1>"),
        ("/dir", 301, "301 Moved Permanently\n"),
        ("/empty/", 403, "403 Forbidden\n"),
        ("/strict/hello.txt", 200, HELLO),
        ("/strict/hello", 200, HELLO),
        ("/strict/dir", 410, "410 Gone\n"),
        ("/strict/missing", 410, "410 Gone\n"),
    ] {
        let response = tidegate.get(target).await;
        let seen = (response.status(), response.text());
        assert_eq!(seen, (status, body), "{target}");
    }
}

#[tokio::test]
async fn an_alias_replaces_what_the_pattern_matched_and_lets_nobody_out() {
    let folder = www();
    put_at(&folder.path().join("secret"), "secret");
    put_at(&folder.path().join("www-secret/x"), "secret");
    put_at(&folder.path().join("pictures/a.gif"), "GIF");
    let tidegate = Tidegate::serving_in(
        folder,
        r#"
        [[sites.routes]]
        match = "/img/"
        files = { alias = "pictures/" }
        [[sites.routes]]
        match = "/w"
        files = { alias = "www" }
        [[sites.routes]]
        match = "= /one"
        files = { alias = "www/hello.txt" }
        [[sites.routes]]
        match = "~ ^/any/"
        files = { alias = "www/hello.txt" }
        "#,
    )
    .await;
    for (target, status, body) in [
        ("/img/a.gif", 200, "GIF"),
        ("/img//a.gif", 200, "GIF"),
        ("/w/hello.txt", 200, HELLO),
        ("/one", 200, HELLO),
        ("/any/thing", 200, HELLO),
        ("/w/", 200, "<h1>root</h1>"),
        ("/w", 301, "301 Moved Permanently\n"),
        // The well-known hole of `location /w { alias www/; }`, and what lies beside the folder.
        ("/w../secret", 404, "404 Not Found\n"),
        ("/w..%2fsecret", 404, "404 Not Found\n"),
        ("/w/..%2f..%2fsecret", 400, "400 Bad Request\n"),
        ("/w/%2e%2e/secret", 404, "404 Not Found\n"),
        ("/w-secret/x", 404, "404 Not Found\n"),
    ] {
        let response = tidegate.get(target).await;
        let seen = (response.status(), response.text());
        assert_eq!(seen, (status, body), "{target}");
    }
    let response = tidegate.get("/one").await;
    assert_eq!(response.field("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn variables_choose_a_root_but_lead_nowhere_else() {
    let folder = Folder::new();
    put(&folder, "a.example/x.txt", "a");
    put(&folder, "b.example/x.txt", "b");
    put_at(&folder.path().join("x.txt"), "outside");
    let tidegate = Tidegate::serving_in(
        folder,
        r#"
        [[sites.routes]]
        match = "/"
        files = "www/$host"
        [[sites.routes]]
        match = "/arg/"
        files = { alias = "www/$arg_of" }
        "#,
    )
    .await;
    for (target, host, status, body) in [
        ("/x.txt", "a.example", 200, "a"),
        ("/x.txt", "B.example:80", 200, "b"),
        ("/x.txt", "c.example", 404, "404 Not Found\n"),
        ("/arg/x.txt?of=a.example", "a", 200, "a"),
        ("/arg/x.txt?of=..", "a", 404, "404 Not Found\n"),
        ("/arg/x.txt?of=a.example/../..", "a", 404, "404 Not Found\n"),
    ] {
        let response = tidegate
            .exchange(&format!("GET {target} HTTP/1.1\nHost: {host}"))
            .await;
        let seen = (response.status(), response.text());
        assert_eq!(seen, (status, body), "{target} {host}");
    }
}

#[tokio::test]
async fn symbolic_links_are_followed_as_far_as_the_route_lets_them() {
    for (symlinks, statuses) in [
        ("follow", [200, 200, 200, 200, 200]),
        ("deny", [200, 403, 403, 403, 403]),
        ("within", [200, 200, 200, 403, 403]),
    ] {
        let folder = www();
        put_at(&folder.path().join("outside/x.txt"), HELLO);
        let www = folder.path().join("www");
        put(&folder, "sub/hello.txt", HELLO);
        symlink("../hello.txt", www.join("sub/link.txt")).unwrap();
        symlink("sub", www.join("folder")).unwrap();
        symlink("../outside/x.txt", www.join("out.txt")).unwrap();
        symlink(folder.path().join("outside"), www.join("out")).unwrap();
        // The root itself may always be one.
        fs::rename(&www, folder.path().join("release-1")).unwrap();
        symlink("release-1", &www).unwrap();
        let tidegate = serving(folder, &format!("symlinks = \"{symlinks}\"")).await;
        let targets = [
            "/hello.txt",
            "/sub/link.txt",
            "/folder/hello.txt",
            "/out.txt",
            "/out/x.txt",
        ];
        for (target, status) in targets.into_iter().zip(statuses) {
            let response = tidegate.get(target).await;
            assert_eq!(response.status(), status, "{symlinks} {target}");
            if status == 200 {
                assert_eq!(response.text(), HELLO, "{symlinks} {target}");
            }
        }
        assert_eq!(tidegate.get("/missing").await.status(), 404, "{symlinks}");
        assert_eq!(tidegate.get("/dir/").await.text(), "<h1>index</h1>");
    }
}

#[tokio::test]
async fn what_is_neither_file_nor_folder_is_not_served_and_holds_nobody_up() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = www();
    let www = folder.path().join("www");
    mknodat(CWD, www.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink("/dev/zero", www.join("device")).unwrap();
    let tidegate = serving(folder, "").await;
    for target in ["/fifo", "/device", "/fifo/", "/fifo/x"] {
        assert_eq!(tidegate.get(target).await.status(), 404, "{target}");
    }
    assert_eq!(tidegate.get("/hello.txt").await.text(), HELLO);
}

#[tokio::test]
async fn names_are_bytes() {
    let folder = www();
    let latin1 = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    put_at(&folder.path().join("www").join(latin1), "latin");
    put(&folder, "café.txt", "utf");
    let tidegate = serving(folder, "").await;
    assert_eq!(tidegate.get("/caf%E9.txt").await.text(), "latin");
    assert_eq!(tidegate.get("/caf%C3%A9.txt").await.text(), "utf");
    assert_eq!(tidegate.get("/caf%EF%BF%BD.txt").await.status(), 404);
}

/// Bytes of which no two stretches are alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

#[tokio::test]
async fn a_large_file_arrives_whole_and_is_never_held_whole() {
    const LENGTH: usize = 16 << 20;
    let folder = www();
    let content = noise(LENGTH);
    put(&folder, "large.bin", &content);
    let tidegate = serving(folder, "").await;
    assert_eq!(tidegate.get("/hello.txt").await.text(), HELLO);
    let before = tidegate.memory();
    let mut client = tidegate.connect().await;
    client
        .send_head("GET /large.bin HTTP/1.1\nHost: example.com")
        .await;
    let head = client.read_head().await;
    assert_eq!(head.field("content-length"), Some(&*LENGTH.to_string()));
    for chunk in content.chunks(1 << 20) {
        assert!(client.read_exactly(chunk.len()).await == chunk);
        let grown = tidegate.memory().saturating_sub(before);
        assert!(grown < 8 << 20, "{grown}");
    }
    let parts = get(&mut client, "/large.bin", "Range: bytes=1000000-3999999").await;
    assert!(parts.body == content[1_000_000..4_000_000]);
}

#[tokio::test]
async fn a_file_that_becomes_shorter_ends_the_connection() {
    const LENGTH: u64 = 64 << 20;
    let folder = www();
    let path = folder.path().join("www/large.bin");
    File::create(&path).unwrap().set_len(LENGTH).unwrap();
    let mut tidegate = Tidegate::serving_in(
        folder,
        r#"
        [[sites.routes]]
        match = "/"
        files = "www"
        [access_log]
        path = "stdout"
        format = "json"
        "#,
    )
    .await;
    let mut client = tidegate.connect().await;
    client
        .send_head("GET /large.bin HTTP/1.1\nHost: example.com")
        .await;
    assert_eq!(client.read_head().await.status(), 200);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1)
        .unwrap();
    let got = client.read_to_end().await.len() as u64;
    assert!(got < LENGTH, "{got}");
    let record: Value = serde_json::from_str(&tidegate.process.stdout.line().await).unwrap();
    let failure = record["failure"].as_str().unwrap();
    assert!(failure.starts_with("file cannot be read on"), "{record}");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let folder = www();
    let path = folder.path().join("www/large.bin");
    File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let tidegate = serving(folder, "").await;
    let before = tidegate.memory();
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut client = tidegate.connect().await;
        client
            .send_head("GET /large.bin HTTP/1.1\nHost: example.com")
            .await;
        assert_eq!(client.read_head().await.status(), 200);
        idle.push(client);
    }
    assert_eq!(tidegate.get("/hello.txt").await.text(), HELLO);
    let grown = tidegate.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
}

#[tokio::test]
async fn plugins_see_the_response_and_the_log_has_its_line() {
    let mut tidegate = Tidegate::serving_in(
        www(),
        r#"
        [[sites.routes]]
        match = "/"
        files = "www"
        expires = "1h"
        plugins = ["headers"]
        [plugins.headers]
        module = "builtin:headers"
        config = { response = { set = { Cache-Control = "private", X-Seen = "yes" } } }
        [access_log]
        path = "stdout"
        format = "json"
        "#,
    )
    .await;
    let mut client = tidegate.connect().await;
    for (target, fields, status, bytes) in [
        ("/hello.txt", "", 200, 33),
        ("/hello.txt", "Range: bytes=0-4", 206, 5),
        ("/missing", "", 404, 14),
    ] {
        let response = get(&mut client, target, fields).await;
        assert_eq!(response.status(), status);
        let expected = [("x-seen", Some("yes")), ("cache-control", Some("private"))];
        assert_fields(target, &response, &expected);
        let line = within("line", tidegate.process.stdout.line()).await;
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(record["status"], status, "{record}");
        assert_eq!(record["bytes_to_client"], bytes, "{record}");
        assert_eq!(record["route"], "/", "{record}");
    }
}

#[tokio::test]
async fn a_file_that_changes_is_another_file() {
    let tidegate = serving(www(), "").await;
    let mut client = tidegate.connect().await;
    assert_eq!(get(&mut client, "/hello.txt", "").await.text(), HELLO);
    put(&tidegate.folder, "hello.txt", "other");
    let response = get(
        &mut client,
        "/hello.txt",
        &format!("If-None-Match: {HELLO_TAG}"),
    )
    .await;
    assert_eq!((response.status(), response.text()), (200, "other"));
}
