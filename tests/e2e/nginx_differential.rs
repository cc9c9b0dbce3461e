//! The same requests through nginx with a file of its own, and through Tidegate with what `import`
//! made of that file. What clients and services see must be the same, but for what is in
//! [`DIFFERENCES`].
//!
//! The nginx is the system's. Debian's is older than the one whose semantics are followed here, which
//! is what some of the differences are about.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use crate::harness::{
    Authority, Connection, Folder, Head, Nginx, Service, Tidegate, accepting, command,
    free_addresses, text,
};

/// Where a field is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Client,
    Service,
}

/// Fields that may differ, with the reason. All others must be the same on both ways.
const DIFFERENCES: [(At, &str, &str); 9] = [
    (At::Client, "server", "each has a name of its own"),
    (
        At::Client,
        "date",
        "the requests are not made in the same second",
    ),
    (
        At::Client,
        "connection",
        "nginx says `keep-alive`, which HTTP/1.1 means anyway",
    ),
    (
        At::Client,
        "expires",
        "it has the time in it; cache-control says the same",
    ),
    (
        At::Client,
        "allow",
        "RFC 9110 section 15.5.6 wants it beside a 405; nginx has none",
    ),
    (
        At::Client,
        "accept-ranges",
        "said of files by both, and of other answers by neither",
    ),
    (
        At::Client,
        "transfer-encoding",
        "how a body is framed is the connection's affair",
    ),
    (
        At::Client,
        "content-length",
        "pages of errors have other words",
    ),
    (
        At::Service,
        "connection",
        "before 1.29.7 nginx sends `close` where the file sets nothing",
    ),
];

/// One request and what was seen of it at both ends.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    /// Name and value in lower case and order.
    at_client: BTreeSet<(String, String)>,
    start_at_service: String,
    at_service: BTreeSet<(String, String)>,
}

/// nginx and Tidegate before the same services.
struct Pair {
    _nginx: Nginx,
    _tidegate: Tidegate,
    /// Addresses of nginx's listeners, and those of Tidegate.
    addresses: [Vec<SocketAddr>; 2],
    authority: Authority,
    toml: String,
}

/// Texts of a file that a test changes: what, and into what.
type Changes<'a> = &'a [(&'a str, String)];

impl Pair {
    /// Starts both. `listens` are the listeners of the file as it has them, and whether they do TLS.
    async fn start<const N: usize>(
        fragment: &str,
        listens: [&str; N],
        certificate: Option<(&str, &[&str])>,
        changes: Changes<'_>,
    ) -> Self {
        Nginx::require();
        let authority = Authority::new();
        let folder = Folder::new();
        let mut fragment = fragment.to_owned();
        for (from, to) in changes {
            assert!(fragment.contains(from), "nothing to change: {from}");
            fragment = fragment.replace(from, to);
        }
        fragment = fragment.replace("/var/log/nginx", &folder.path().display().to_string());
        if let Some((file, names)) = certificate {
            let issued = authority.issue(names);
            for (end, content) in [("pem", &issued.chain), ("key", &issued.key)] {
                let from = format!("/etc/nginx/certs/{file}.{end}");
                let path = folder.write(&format!("{file}.{end}"), content);
                fragment = fragment.replace(&from, &path.display().to_string());
            }
        }
        let write = |name: &str| {
            let addresses: [SocketAddr; N] = free_addresses();
            let mut text = fragment.clone();
            for (listen, address) in listens.iter().zip(addresses) {
                assert!(
                    text.contains(&format!("listen {listen}")),
                    "no listen {listen}"
                );
                text = text.replace(&format!("listen {listen}"), &format!("listen {address}"));
            }
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            folder.write(&format!("{name}/site.conf"), text);
            let main = "user root;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr;\n\
                        events { worker_connections 256; }\nhttp {\n    access_log off;\n    \
                        include /etc/nginx/mime.types;\n    include site.conf;\n}\n";
            (
                folder.write(&format!("{name}/nginx.conf"), main),
                addresses.to_vec(),
            )
        };
        let (original, at_nginx) = write("nginx");
        let (copy, at_tidegate) = write("tidegate");
        let nginx = Nginx::start(&original, &at_nginx).await;
        let toml = import(&copy);
        let tidegate = Tidegate::start_in(folder, &toml).await;
        Self {
            _nginx: nginx,
            _tidegate: tidegate,
            addresses: [at_nginx, at_tidegate],
            authority,
            toml,
        }
    }

    /// Sends a head to both and returns what was seen of it. `tls` is the name to ask for.
    async fn seen(&self, listener: usize, tls: Option<&str>, lines: &str) -> [Seen; 2] {
        [
            self.seen_by(0, listener, tls, lines).await,
            self.seen_by(1, listener, tls, lines).await,
        ]
    }

    async fn seen_by(&self, of: usize, listener: usize, tls: Option<&str>, lines: &str) -> Seen {
        let address = self.addresses[of][listener];
        let mut client = match tls {
            None => Connection::open(address).await,
            Some(name) => self.authority.connect(address, name).await,
        };
        client.send_head(lines).await;
        let head = client.read_head().await;
        let mut service = None;
        if head.status() == 101 {
            client.send_frame(text("hello")).await;
            let told = client.read_frame().await;
            service = Some(Head::parse(&String::from_utf8_lossy(&told.payload)));
            assert_eq!(client.read_frame().await, text("hello"));
        } else if !lines.trim().starts_with("HEAD") {
            let (body, _) = client.read_body(&head).await;
            if head.field("x-service").is_some() {
                service = Some(Head::parse(&String::from_utf8_lossy(&body)));
            }
        }
        let addresses = &self.addresses[of];
        let named = |text: &str| {
            let mut text = text.to_owned();
            for (index, address) in addresses.iter().enumerate() {
                text = text.replace(
                    &format!(":{}", address.port()),
                    &format!(":LISTENER{index}"),
                );
            }
            text
        };
        let mut at_client = fields(At::Client, &head, &named);
        if service.is_none() && head.status() >= 300 {
            // The pages of redirects and errors are HTML in nginx and text here.
            at_client.retain(|(name, _)| name != "content-type");
        }
        Seen {
            status: head.status(),
            at_client,
            start_at_service: service.as_ref().map_or_else(String::new, |s| {
                // Before 1.29.7 nginx speaks HTTP/1.0 where the file sets nothing.
                s.start.replace("HTTP/1.0", "HTTP/1.1")
            }),
            at_service: service
                .map(|head| fields(At::Service, &head, &named))
                .unwrap_or_default(),
        }
    }

    /// Fails unless both are the same for all of these requests, in order.
    #[track_caller]
    fn same(&self, requests: &str, [nginx, tidegate]: [Seen; 2]) {
        assert_eq!(
            tidegate, nginx,
            "left is Tidegate, right is nginx, for\n{requests}\nwith\n{}",
            self.toml
        );
    }

    /// Sends heads without TLS, one after the other.
    async fn compare(&self, requests: &[&str]) {
        for lines in requests {
            let seen = self.seen(0, None, lines).await;
            self.same(lines, seen);
        }
    }
}

fn fields(at: At, head: &Head, named: &impl Fn(&str) -> String) -> BTreeSet<(String, String)> {
    let may_differ = |name: &str| {
        DIFFERENCES
            .iter()
            .any(|(where_, field, _)| *where_ == at && *field == name)
    };
    let fields = head.fields.iter();
    fields
        .map(|(name, value)| (name.to_ascii_lowercase(), named(value)))
        .filter(|(name, _)| !may_differ(name))
        .collect()
}

/// Imports a file by the command, as an operator would.
fn import(file: &Path) -> String {
    let output = command().arg("import").arg(file).output().unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    String::from_utf8(output.stdout).unwrap()
}

/// Answers with its number, and the head it was sent; a path can ask for something else. Of a
/// WebSocket the first message is the head.
async fn service(number: usize) -> Service {
    Service::start(move |mut connection| async move {
        while let Some(head) = connection.next_request().await {
            if head
                .field("upgrade")
                .is_some_and(|u| u.eq_ignore_ascii_case("websocket"))
                && head.field("sec-websocket-key").is_some()
            {
                let answer = accepting(&head).with("X-Service", &number.to_string());
                connection.send(answer.to_wire()).await;
                connection.send_frame(text(head.to_wire())).await;
                while let Some(frame) = connection.next_frame().await {
                    if connection.try_send(frame.encode(None)).await.is_err() {
                        return;
                    }
                }
                return;
            }
            let body = head.to_wire();
            let asked = head.target().rsplit("/status/").next().unwrap_or_default();
            let status = match asked.get(..3).and_then(|code| code.parse::<u16>().ok()) {
                Some(code) => format!("{code} As Asked"),
                None => "200 OK".to_owned(),
            };
            let location = match head.field("x-want-location") {
                Some(location) => format!("\r\nLocation: {location}"),
                None => String::new(),
            };
            let answer = format!(
                "HTTP/1.1 {status}{location}\r\nX-Service: {number}\r\nServer: of the service\r\n\
                 Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Accel-Expires: 0\r\nX-Pad: x\r\n\
                 X-Powered-By: test\r\nSet-Cookie: a=b; Domain=service; Path=/app/\r\n\
                 Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if connection.try_send(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// What a file has where a service is, and the service's address there.
fn at(written: &str, service: &Service) -> (String, String) {
    (written.to_owned(), service.address.to_string())
}

fn borrowed(changes: &[(String, String)]) -> Vec<(&str, String)> {
    changes
        .iter()
        .map(|(from, to)| (from.as_str(), to.clone()))
        .collect()
}

fn request(method: &str, target: &str, host: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\nHost: {host}\n{more}")
}

fn websocket(target: &str, host: &str) -> String {
    request(
        "GET",
        target,
        host,
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
}

#[tokio::test]
async fn set_up_0_spreads_handshakes_and_serves_files_as_nginx_does() {
    let mut services = Vec::new();
    for number in 0..4 {
        services.push(service(number).await);
    }
    let www = Folder::new();
    for name in ["a.gif", "x.json", "notagif", "b.txt"] {
        www.write(name, name);
    }
    let mut changes = vec![(
        "/srv/www/static".to_owned(),
        www.path().display().to_string(),
    )];
    for (index, service) in services.iter().enumerate() {
        changes.push(at(&format!("127.0.0.1:{}", 8888 + index), service));
    }
    let names: &[&str] = &["www.xxxx.com"];
    let pair = Pair::start(
        include_str!("../../host/examples/s0a.conf"),
        ["80", "443"],
        Some(("www.xxxx.com", names)),
        &borrowed(&changes),
    )
    .await;
    let host = "www.xxxx.com";
    for _ in 0..5 {
        let seen = pair.seen(0, None, &websocket("/chat", host)).await;
        pair.same("handshake", seen);
        let seen = pair.seen(1, Some(host), &websocket("/chat", host)).await;
        pair.same("handshake over TLS", seen);
    }
    let rows = [
        request("GET", "/", host, ""),
        request("GET", "/a%2Fb?x=1", host, "X-Accel: 1"),
        request("GET", "/x.json", host, ""),
        request("HEAD", "/a.gif", host, ""),
        request("GET", "/notagif", host, ""),
        request("GET", "/missing.gif", host, ""),
        request("GET", "/a.GIF", host, ""),
        request("GET", "/a.gif/", host, ""),
        request("GET", "/a.json5", host, ""),
        request("POST", "/b.txt", host, "Content-Length: 0"),
        websocket("/x.json", host),
        request("GET", "/", "unknown.example.com", ""),
        request("GET", "/", "WWW.XXXX.com:1234", ""),
    ];
    for lines in &rows {
        pair.compare(&[lines]).await;
    }
}

#[tokio::test]
async fn set_up_0_sends_fields_and_keeps_the_backup_for_bad_times_as_nginx_does() {
    let mut services = Vec::new();
    for number in 0..5 {
        services.push(service(number).await);
    }
    let www = Folder::new();
    let mut changes = vec![(
        "/srv/www/static".to_owned(),
        www.path().display().to_string(),
    )];
    for (index, service) in services.iter().enumerate() {
        changes.push(at(&format!("127.0.0.1:{}", 8881 + index), service));
    }
    let names: &[&str] = &["www.xxx.com"];
    let pair = Pair::start(
        include_str!("../../host/examples/s0b.conf"),
        ["80", "443"],
        Some(("www.xxx.com", names)),
        &borrowed(&changes),
    )
    .await;
    let host = "www.xxx.com";
    for _ in 0..6 {
        pair.compare(&[&request("GET", "/", host, "")]).await;
    }
    let rows = [
        request(
            "GET",
            "/x",
            host,
            "X-Forwarded-For: 192.0.2.1\nX-Forwarded-For: 192.0.2.2",
        ),
        request("GET", "/x", host, "X-Real-IP: 192.0.2.1"),
        request(
            "GET",
            "/status/302",
            host,
            "X-Want-Location: http://xxxhttps/there",
        ),
        request(
            "GET",
            "/status/302",
            host,
            "X-Want-Location: http://elsewhere/there",
        ),
        request("GET", "/status/404", host, ""),
        request("GET", "/status/500", host, ""),
        request("GET", "/status/403", host, ""),
        websocket("/", host),
    ];
    for lines in &rows {
        pair.compare(&[lines]).await;
    }
}

#[tokio::test]
async fn set_up_1_names_the_service_as_nginx_does() {
    let service = service(0).await;
    let port = format!("localhost:{}", service.address.port());
    let pair = Pair::start(
        include_str!("../../host/examples/s1.conf"),
        ["80"],
        None,
        &[("localhost:9010", port)],
    )
    .await;
    let host = "www.xxx.net";
    let rows = [
        websocket("/ver", host),
        websocket("/ver/1?x=%20", host),
        request(
            "GET",
            "/version",
            host,
            "Connection: close, X-Hop\nX-Kept: 1",
        ),
        request("GET", "/ver", host, "Upgrade: other\nConnection: upgrade"),
        request("GET", "/v%65r", host, ""),
        request("GET", "//ver", host, ""),
        request("GET", "/a/../ver", host, ""),
    ];
    for lines in &rows {
        pair.compare(&[lines]).await;
    }
}

#[tokio::test]
async fn set_up_1_has_a_server_of_last_resort_as_nginx_does() {
    let services = [service(0).await, service(1).await];
    let changes = [
        at("http://localhost:8080", &services[0]),
        at("http://localhost:8081", &services[1]),
    ];
    let pair = Pair::start(
        include_str!("../../host/examples/s1-default-server.conf"),
        ["*:80"],
        None,
        &borrowed(&changes),
    )
    .await;
    for host in ["www.xxx.net", "unknown", "127.0.0.1", "Www.Xxx.Net:80"] {
        let rows = [
            request("GET", "/res/1", host, ""),
            websocket("/resource", host),
        ];
        for lines in &rows {
            pair.compare(&[lines]).await;
        }
    }
}

#[tokio::test]
async fn set_up_2_says_close_or_upgrade_by_its_map_as_nginx_does() {
    let services = [service(0).await, service(1).await];
    let changes = [
        at("localhost:8010", &services[0]),
        at("localhost:8011", &services[1]),
    ];
    let pair = Pair::start(
        include_str!("../../host/examples/s2.conf"),
        ["8020"],
        None,
        &borrowed(&changes),
    )
    .await;
    let host = "ws.repo";
    for _ in 0..3 {
        let rows = [
            websocket("/", host),
            request("GET", "/", host, ""),
            request("POST", "/", host, "Content-Length: 0"),
            websocket("/x", host).replace("Upgrade: websocket", "Upgrade: WebSocket"),
        ];
        for lines in &rows {
            pair.compare(&[lines]).await;
        }
    }
}

#[tokio::test]
async fn set_up_3_speaks_tls_in_front_and_finds_the_inner_name_as_nginx_does() {
    let service = service(0).await;
    let names: &[&str] = &["www.xncoding.com"];
    let edge = Pair::start(
        include_str!("../../host/examples/s3-edge.conf"),
        ["443"],
        Some(("www.xncoding.com", names)),
        &[
            (
                "http://board.xncoding.com",
                format!("http://{}", service.address),
            ),
            (
                "    ssl_dhparam         /etc/nginx/certs/dhparam.pem;\n",
                String::new(),
            ),
        ],
    )
    .await;
    let host = "www.xncoding.com";
    for lines in [websocket("/", host), request("GET", "/x", host, "")] {
        let seen = edge.seen(0, Some(host), &lines).await;
        edge.same(&lines, seen);
    }
    let inner = Pair::start(
        include_str!("../../host/examples/s3-inner.conf"),
        ["80"],
        None,
        &[("localhost:8282", service.address.to_string())],
    )
    .await;
    let host = "board.xncoding.com";
    let rows = [
        websocket("/", host),
        request(
            "GET",
            "/",
            host,
            "X-Forwarded-For: 192.0.2.7\nX-Real-IP: 192.0.2.7",
        ),
    ];
    for lines in &rows {
        inner.compare(&[lines]).await;
    }
}

#[tokio::test]
async fn ordinary_configurations_do_what_they_do_in_nginx() {
    let services = [service(0).await, service(1).await];
    let www = Folder::new();
    www.write("index.html", "<p>");
    www.write("a.css", "p {}");
    std::fs::create_dir_all(www.path().join("folder")).unwrap();
    let changes = [
        at("127.0.0.1:9001", &services[0]),
        at("127.0.0.1:9002", &services[1]),
        ("/srv/www".to_owned(), www.path().display().to_string()),
    ];
    let pair = Pair::start(
        include_str!("../nginx/ordinary.conf"),
        ["80"],
        None,
        &borrowed(&changes),
    )
    .await;
    let rows = [
        // Which location, and what becomes of the path.
        request("GET", "/app/x%2Fy?z=1", "a.example.com", ""),
        request("GET", "/app", "a.example.com", ""),
        request("GET", "/exact", "a.example.com", ""),
        request("GET", "/exact/", "a.example.com", ""),
        request("GET", "/first/x.php", "a.example.com", ""),
        request("GET", "/second/x.php", "a.example.com", ""),
        request("GET", "/second/X.PHP", "a.example.com", ""),
        request("GET", "/users/42/edit", "a.example.com", ""),
        request("GET", "/none", "a.example.com", ""),
        // Names.
        request("GET", "/", "b.example.com", ""),
        request("GET", "/", "deep.b.example.com", ""),
        request("GET", "/", "www.example.net", ""),
        request("GET", "/", "tenant7.example.org", ""),
        request("GET", "/", "nobody.example", ""),
        // Answers of its own.
        request("GET", "/old?x=1", "a.example.com", ""),
        request("GET", "/gone", "a.example.com", ""),
        request("GET", "/hello", "a.example.com", ""),
        // Fields.
        request("GET", "/own-fields", "a.example.com", "X-Kind: mobile"),
        request(
            "GET",
            "/inherited",
            "a.example.com",
            "X-Kind: Mobile\nCookie: sid=7",
        ),
        request("GET", "/inherited", "a.example.com", "X-Kind: bot-9"),
        request("GET", "/hidden", "a.example.com", ""),
        request("GET", "/hidden/status/404", "a.example.com", ""),
        // What services redirect to.
        request(
            "GET",
            "/app/status/301",
            "a.example.com",
            "X-Want-Location: http://127.0.0.1/x",
        ),
        request(
            "GET",
            "/rules/status/301",
            "a.example.com",
            "X-Want-Location: http://inside/x",
        ),
        request(
            "GET",
            "/rules/status/301",
            "a.example.com",
            "X-Want-Location: /plain",
        ),
        // Retries.
        request("GET", "/retry/status/503", "a.example.com", ""),
        request(
            "POST",
            "/retry/status/503",
            "a.example.com",
            "Content-Length: 0",
        ),
        // Files.
        request("GET", "/static/", "a.example.com", ""),
        request("GET", "/static/a.css", "a.example.com", ""),
        request("GET", "/static/folder", "a.example.com", ""),
        request("GET", "/static/folder/", "a.example.com", ""),
        request("GET", "/static/none", "a.example.com", ""),
        request("GET", "/static/../secret", "a.example.com", ""),
        // Limits.
        request("POST", "/small", "a.example.com", "Content-Length: 2000"),
    ];
    for lines in &rows {
        pair.compare(&[lines]).await;
    }
}
