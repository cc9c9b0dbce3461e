//! The rows, one for each directive, in the order of the reference they are taken from.

use super::Is::{Body, By, Client, Line, NotClient, NotService, Service, Status};
use super::Row;
use super::Then::{Refused, Seen, Story};
use super::stories;

/// A handshake that every service accepts, for `GET`.
macro_rules! handshake {
    ($target:literal) => {
        concat!(
            "GET ",
            $target,
            " HTTP/1.1\nHost: a.example\nUpgrade: websocket\nConnection: Upgrade\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13"
        )
    };
}

const GET: &str = "GET / HTTP/1.1\nHost: a.example";

pub(super) const ROWS: &[Row] = &[
    Row {
        directive: "upstream: smooth weighted round-robin",
        fragment: "upstream g { server ONE weight=5; server TWO; server THREE; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::weights_5_1_1),
    },
    Row {
        directive: "upstream: equal servers take turns",
        fragment: "upstream g { server ONE; server TWO; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::two_in_turn),
    },
    Row {
        directive: "server weight=50",
        fragment: "upstream g { server ONE weight=50; server TWO weight=50;
                                server THREE weight=50; server FOUR weight=50; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::four_in_turn),
    },
    Row {
        directive: "server weight=0",
        fragment: "upstream g { server 127.0.0.1:1 weight=0; }
                   server { location / { proxy_pass http://g; } }",
        then: Refused(&["site.conf:1: server: invalid parameter \"weight=0\""]),
    },
    Row {
        directive: "server max_fails, fail_timeout",
        fragment: "upstream g { server DEAD max_fails=3 fail_timeout=1h; server ONE; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::three_failures_and_no_fourth),
    },
    Row {
        directive: "server max_fails=0",
        fragment: "upstream g { server DEAD max_fails=0; server ONE; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::failures_without_end),
    },
    Row {
        directive: "a group with a single server",
        fragment: "upstream g { server DEAD max_fails=1 fail_timeout=1h; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::failures_without_end),
    },
    Row {
        directive: "what counts as failure",
        fragment: "upstream g { server ONE max_fails=1; server TWO max_fails=1; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::errors_of_services_are_no_failures),
    },
    Row {
        directive: "proxy_next_upstream, by default",
        fragment: "upstream g { server DEAD; server ONE; }
                   server { location / { proxy_pass http://g;
                     proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } }",
        then: Story(stories::handshakes_of_the_dead_go_to_the_living),
    },
    Row {
        directive: "proxy_next_upstream",
        fragment: "upstream g { server ONE max_fails=0; server TWO backup; }
                   server {
                     location /503 { proxy_pass http://g/status/503; proxy_next_upstream http_503; }
                     location /off { proxy_pass http://d; proxy_next_upstream off; }
                   }
                   upstream d { server DEAD; server TWO backup; }",
        then: Seen(&[
            ("GET /503 HTTP/1.1\nHost: a", &[Status(503), By("2")]),
            (
                "POST /503 HTTP/1.1\nHost: a\nContent-Length: 0",
                &[Status(503), By("1")],
            ),
            ("GET /off HTTP/1.1\nHost: a", &[Status(502), By("-")]),
        ]),
    },
    Row {
        directive: "server backup",
        fragment: "upstream g { server DEAD; server ONE backup; }
                   upstream h { server TWO; server ONE backup; }
                   server { location / { proxy_pass http://g; } location /h { proxy_pass http://h; } }",
        then: Seen(&[
            (GET, &[By("1")]),
            (GET, &[By("1")]),
            ("GET /h HTTP/1.1\nHost: a", &[By("2")]),
            ("GET /h HTTP/1.1\nHost: a", &[By("2")]),
        ]),
    },
    Row {
        directive: "nobody left",
        fragment: "upstream g { server DEAD max_fails=1 fail_timeout=1h; server ONE down; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::nobody_left_is_a_502_at_once),
    },
    Row {
        directive: "ip_hash",
        fragment: "upstream g { ip_hash; server ONE; server TWO; server THREE; }
                   server { location / { proxy_pass http://g; } }",
        then: Story(stories::networks_stay_where_they_are),
    },
    Row {
        directive: "ip_hash with backup",
        fragment: "upstream g { ip_hash; server 127.0.0.1:1; server 127.0.0.1:2 backup; }
                   server { location / { proxy_pass http://g; } }",
        then: Refused(&["site.conf:1: ", "backup"]),
    },
    Row {
        directive: "server NAME:PORT",
        fragment: "upstream g { server LOCAL; }
                   server { location / { proxy_pass http://g; } }",
        then: Seen(&[(GET, &[By("1"), Service("host", "g")])]),
    },
    Row {
        directive: "server http://...",
        fragment: "upstream g {\nserver http://localhost:8080;\n}
                   server { location / { proxy_pass http://g; } }",
        then: Refused(&[
            "site.conf:2: server: invalid host in upstream \"http://localhost:8080\"",
            "write server localhost:8080;",
        ]),
    },
    Row {
        directive: "listen 80; listen 443 ssl;",
        fragment: "server { listen 80; listen 443 ssl; server_name one.example;
                     ssl_certificate FOLDER/one.pem; ssl_certificate_key FOLDER/one.key;
                     location / { proxy_pass http://ONE; proxy_set_header X-Scheme $scheme; } }",
        then: Story(stories::both_ports_answer_and_plain_http_on_tls_is_a_400),
    },
    Row {
        directive: "listen default_server",
        fragment: "server { listen *:80; server_name a.example; return 200 a; }
                   server { listen *:80 default_server; server_name b.example; return 200 b; }",
        then: Seen(&[
            (GET, &[Body("a")]),
            ("GET / HTTP/1.1\nHost: nobody", &[Body("b")]),
            ("GET / HTTP/1.1\nHost: 127.0.0.1:1", &[Body("b")]),
        ]),
    },
    Row {
        directive: "listen without default_server",
        fragment: "server { listen 80; server_name b.example; return 200 b; }
                   server { listen 80; server_name a.example; return 200 a; }",
        then: Seen(&[("GET / HTTP/1.1\nHost: nobody", &[Body("b")])]),
    },
    Row {
        directive: "listen default_server, twice",
        fragment: "server { listen 80 default_server; return 204; }
                   server { listen 80 default_server; return 204; }",
        then: Refused(&["site.conf:2: listen: 0.0.0.0:80 has a default server already"]),
    },
    Row {
        directive: "server_name",
        fragment: "server { server_name www.example.com; return 200 exact; }
                   server { server_name *.example.com; return 200 front; }
                   server { server_name *.a.example.com; return 200 longer; }
                   server { server_name www.example.*; return 200 back; }
                   server { server_name ~^db[0-9] ~^db; return 200 first; }
                   server { server_name ~^db1; return 200 second; }
                   server { server_name www.example.com; return 200 never; }
                   server { listen 80 default_server; return 200 default; }",
        then: Seen(&[
            ("GET / HTTP/1.1\nHost: Www.Example.com:8080", &[Body("exact")]),
            ("GET / HTTP/1.1\nHost: x.example.com", &[Body("front")]),
            ("GET / HTTP/1.1\nHost: x.a.example.com", &[Body("longer")]),
            ("GET / HTTP/1.1\nHost: www.example.org", &[Body("back")]),
            ("GET / HTTP/1.1\nHost: db1.example.org", &[Body("first")]),
            ("GET / HTTP/1.1\nHost: example.com", &[Body("default")]),
        ]),
    },
    Row {
        directive: "ssl_certificate, ssl_certificate_key",
        fragment: "server { listen 443 ssl; server_name one.example;
                     ssl_certificate FOLDER/one.pem; ssl_certificate_key FOLDER/one.key;
                     ssl_session_timeout 5m; return 200 one; }
                   server { listen 443 ssl; server_name two.example;
                     ssl_certificate FOLDER/two.pem; ssl_certificate_key FOLDER/two.key;
                     return 200 two; }",
        then: Story(stories::certificates_follow_the_server_name),
    },
    Row {
        directive: "include, of a file that is missing",
        fragment: "server {\ninclude missing.conf;\nreturn 204; }",
        then: Refused(&["site.conf:2: include: ", "missing.conf cannot be read"]),
    },
    Row {
        directive: "ssl_dhparam",
        fragment: "server { listen 443 ssl; server_name one.example; ssl_dhparam dh.pem;
                     ssl_certificate FOLDER/one.pem; ssl_certificate_key FOLDER/one.key;
                     return 200 one; }",
        then: Story(stories::dhparam_is_left_out_and_told),
    },
    Row {
        directive: "location",
        fragment: "server {
                     location / { return 200 root; }
                     location /ver { return 200 ver; }
                     location /version { return 200 version; }
                     location = /ver { return 200 exactly; }
                     location ^~ /raw { return 200 raw; }
                     location ~ \\.json$ { return 200 json; }
                     location ~* \\.JS { return 200 any; }
                   }",
        then: Seen(&[
            ("GET /x HTTP/1.1\nHost: a", &[Body("root")]),
            ("GET /ver HTTP/1.1\nHost: a", &[Body("exactly")]),
            ("GET /ver/1 HTTP/1.1\nHost: a", &[Body("ver")]),
            ("GET /versions HTTP/1.1\nHost: a", &[Body("version")]),
            ("GET /ver/x.json HTTP/1.1\nHost: a", &[Body("json")]),
            ("GET /x.JSON HTTP/1.1\nHost: a", &[Body("any")]),
            ("GET /raw/x.json HTTP/1.1\nHost: a", &[Body("raw")]),
            ("GET /raw/%2e%2e/x%2Ejson?y HTTP/1.1\nHost: a", &[Body("json")]),
        ]),
    },
    Row {
        directive: "location ~ .*.(gif|...|json)$",
        fragment: "server {
                     location / { return 200 service; }
                     location ~ .*.(gif|txt|jpg|jpeg|png|bmp|swf|json)$ { return 200 file; }
                   }",
        then: Seen(&[
            ("GET /a.gif HTTP/1.1\nHost: a", &[Body("file")]),
            ("GET /gif HTTP/1.1\nHost: a", &[Body("file")]),
            ("GET /notagif HTTP/1.1\nHost: a", &[Body("file")]),
            ("GET /socket.json?x=1 HTTP/1.1\nHost: a", &[Body("file")]),
            ("GET /a.GIF HTTP/1.1\nHost: a", &[Body("service")]),
            ("GET /a.gif/ HTTP/1.1\nHost: a", &[Body("service")]),
            ("GET /a.json5 HTTP/1.1\nHost: a", &[Body("service")]),
            ("GET /a?x.gif HTTP/1.1\nHost: a", &[Body("service")]),
        ]),
    },
    Row {
        directive: "root, expires",
        fragment: "server { location / { root WWW; expires 30d; } }",
        then: Seen(&[
            (
                "GET /x.json HTTP/1.1\nHost: a",
                &[
                    Status(200),
                    Body("x.json"),
                    Client("cache-control", "max-age=2592000"),
                ],
            ),
            ("HEAD /a.gif HTTP/1.1\nHost: a", &[Status(200)]),
            (
                "GET /missing.gif HTTP/1.1\nHost: a",
                &[Status(404), NotClient("expires"), NotClient("cache-control")],
            ),
            (
                "POST /x.json HTTP/1.1\nHost: a\nContent-Length: 0",
                &[Status(405)],
            ),
            (
                "GET /sub HTTP/1.1\nHost: a",
                &[Status(301), Client("location", "http://a:PORT/sub/")],
            ),
            (handshake!("/x.json"), &[Status(200), Body("x.json")]),
        ]),
    },
    Row {
        directive: "proxy_pass",
        fragment: "upstream g { server ONE; }
                   server {
                     location / { proxy_pass http://g; }
                     location /app/ { proxy_pass http://TWO/inner/; }
                     location /group/ { proxy_pass http://g/inner/; }
                   }",
        then: Seen(&[
            (
                "GET /a%2Fb?x=1 HTTP/1.1\nHost: a",
                &[By("1"), Line("GET /a%2Fb?x=1 HTTP/1.1")],
            ),
            (
                "GET /app/x%20y?z HTTP/1.1\nHost: a",
                &[By("2"), Line("GET /inner/x%20y?z HTTP/1.1")],
            ),
            (
                "GET /group/x HTTP/1.1\nHost: a",
                &[By("1"), Line("GET /inner/x HTTP/1.1")],
            ),
        ]),
    },
    Row {
        directive: "proxy_pass with another scheme",
        fragment: "server { location / {\nproxy_pass ws://127.0.0.1:1; } }",
        then: Refused(&["site.conf:2: proxy_pass: invalid URL prefix in \"ws://127.0.0.1:1\""]),
    },
    Row {
        directive: "proxy_pass without an argument",
        fragment: "server { location / {\nproxy_pass; } }",
        then: Refused(&["site.conf:2: proxy_pass: expected 1 argument, found none"]),
    },
    Row {
        directive: "proxy_set_header",
        fragment: "server {
                     proxy_set_header Host $host; proxy_set_header X-Server 1;
                     location / { proxy_pass http://ONE; }
                     location /own { proxy_pass http://ONE; proxy_set_header X-Own 2;
                                     proxy_set_header Accept-Encoding \"\"; }
                   }",
        then: Seen(&[
            (
                "GET / HTTP/1.1\nHost: a.example:81\nAccept-Encoding: gzip\nConnection: x-hop\nX-Hop: 1\n\
                 Keep-Alive: 5\nTE: gzip\nProxy-Connection: close\nExpect:\nUpgrade: other",
                &[
                    Service("host", "a.example"),
                    Service("x-server", "1"),
                    Service("accept-encoding", "gzip"),
                    NotService("connection"),
                    NotService("keep-alive"),
                    NotService("te"),
                    NotService("proxy-connection"),
                    NotService("upgrade"),
                ],
            ),
            (
                "GET /own HTTP/1.1\nHost: a.example\nAccept-Encoding: gzip",
                &[
                    Service("host", "ONE"),
                    NotService("x-server"),
                    Service("x-own", "2"),
                    NotService("accept-encoding"),
                ],
            ),
        ]),
    },
    Row {
        directive: "a literal without $",
        fragment: "server { location / { proxy_pass http://127.0.0.1:1;
                     proxy_set_header Upgrade http_upgrade;
                     proxy_set_header Connection upgrade;\nproxy_set_header Host host; } }",
        then: Refused(&[
            "\"http_upgrade\" would be sent as it is; its `$` is lost; write $http_upgrade",
            "\"host\" would be sent as it is; its `$` is lost; write $host",
        ]),
    },
    Row {
        directive: "Host $host",
        fragment: "server { server_name first.example;
                     location / { proxy_pass http://ONE; proxy_set_header Host $host; } }",
        then: Seen(&[
            ("GET / HTTP/1.1\nHost: A.Example:81", &[Service("host", "a.example")]),
            (
                "GET http://Line.Example:82/ HTTP/1.1\nHost: a.example",
                &[Service("host", "line.example")],
            ),
            ("GET / HTTP/1.0", &[Service("host", "first.example")]),
        ]),
    },
    Row {
        directive: "Host $http_host",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Host $http_host; } }",
        then: Seen(&[
            ("GET / HTTP/1.1\nHost: A.Example:81", &[Service("host", "A.Example:81")]),
            ("GET / HTTP/1.0", &[Service("host", "ONE")]),
        ]),
    },
    Row {
        directive: "Host $proxy_host",
        fragment: "upstream g { server TWO; }
                   server {
                     location / { proxy_pass http://ONE; proxy_set_header Host $proxy_host; }
                     location /g { proxy_pass http://g; proxy_set_header Host $proxy_host; }
                     location /default { proxy_pass http://g; }
                   }",
        then: Seen(&[
            (GET, &[Service("host", "ONE")]),
            ("GET /g HTTP/1.1\nHost: a", &[Service("host", "g")]),
            ("GET /default HTTP/1.1\nHost: a", &[Service("host", "g")]),
        ]),
    },
    Row {
        directive: "Host $host:$server_port",
        fragment: "server { location / { proxy_pass http://ONE;
                     proxy_set_header Host $host:$server_port; } }",
        then: Seen(&[("GET / HTTP/1.1\nHost: A.Example:81", &[Service("host", "a.example:PORT")])]),
    },
    Row {
        directive: "X-Real-IP, REMOTE-HOST $remote_addr",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header X-Real-IP $remote_addr;
                     proxy_set_header REMOTE-HOST $remote_addr; } }",
        then: Seen(&[(
            "GET / HTTP/1.1\nHost: a\nX-Real-IP: 192.0.2.1",
            &[Service("x-real-ip", "127.0.0.1"), Service("remote-host", "127.0.0.1")],
        )]),
    },
    Row {
        directive: "$proxy_add_x_forwarded_for",
        fragment: "server { location / { proxy_pass http://ONE;
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }",
        then: Seen(&[
            (GET, &[Service("x-forwarded-for", "127.0.0.1")]),
            (
                "GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\nX-Forwarded-For: 192.0.2.3",
                &[Service("x-forwarded-for", "192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1")],
            ),
        ]),
    },
    Row {
        directive: "map",
        fragment: "map $http_upgrade $connection_upgrade { default upgrade; '' close; }
                   map $arg_x $told { exact 1; ~^pat(.*) of-$1; ~*^ANY $host; }
                   server { location / { proxy_pass http://ONE;
                     proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection $connection_upgrade;
                     proxy_set_header X-Told $told; } }",
        then: Seen(&[
            (
                concat!(handshake!("/status/200"), "\nX-Other: 1"),
                &[Service("connection", "upgrade"), NotService("x-told")],
            ),
            (
                "GET /?x=EXACT HTTP/1.1\nHost: a",
                &[Service("connection", "close"), Service("x-told", "1")],
            ),
            ("GET /?x=pattern HTTP/1.1\nHost: a", &[Service("x-told", "of-tern")]),
            ("GET /?x=anything HTTP/1.1\nHost: a", &[Service("x-told", "a")]),
        ]),
    },
    Row {
        directive: "Connection \"upgrade\"",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection \"upgrade\"; } }",
        then: Seen(&[(
            GET,
            &[Status(200), Service("connection", "upgrade"), NotService("upgrade")],
        )]),
    },
    Row {
        directive: "proxy_http_version",
        fragment: "server { location / { proxy_pass http://ONE; }
                     location /said { proxy_pass http://ONE; proxy_http_version 1.1; } }",
        then: Seen(&[
            (GET, &[Line("GET / HTTP/1.1")]),
            ("GET /said HTTP/1.0\nHost: a", &[Line("GET /said HTTP/1.1")]),
        ]),
    },
    Row {
        directive: "proxy_http_version 1.0",
        fragment: "server { location / { proxy_pass http://127.0.0.1:1;\nproxy_http_version 1.0; } }",
        then: Refused(&["site.conf:2: proxy_http_version: HTTP/1.0 towards services is not supported"]),
    },
    Row {
        directive: "the upgrade rule",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade; } }",
        then: Seen(&[
            (handshake!("/"), &[
                Status(101),
                Client("upgrade", "websocket"),
                Client("connection", "upgrade"),
            ]),
            (handshake!("/status/200"), &[Status(200), By("1")]),
            (handshake!("/status/401"), &[Status(401), By("1")]),
            (handshake!("/status/403"), &[Status(403), By("1")]),
            (handshake!("/status/426"), &[Status(426), By("1")]),
            // Nobody asked for it.
            ("GET /status/101 HTTP/1.1\nHost: a", &[Status(502), By("-")]),
        ]),
    },
    Row {
        directive: "no Upgrade towards the service",
        fragment: "server { location / { proxy_pass http://ONE; } }",
        then: Seen(&[(handshake!("/"), &[Status(200), NotService("upgrade")])]),
    },
    Row {
        directive: "early bytes",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade; } }",
        then: Story(stories::a_frame_may_come_with_the_handshake),
    },
    Row {
        directive: "101 with Content-Length: 0",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade; } }",
        then: Story(stories::a_101_may_have_a_content_length_of_0),
    },
    Row {
        directive: "proxy_connect_timeout",
        fragment: "server { location / { proxy_pass http://VOID; proxy_connect_timeout 200ms; } }",
        then: Seen(&[(GET, &[Status(504)])]),
    },
    Row {
        directive: "proxy_send_timeout",
        fragment: "server { location / { proxy_pass http://ONE; proxy_send_timeout 2s;
                     client_max_body_size 0; } }",
        then: Story(stories::a_service_that_does_not_read_is_a_504),
    },
    Row {
        directive: "proxy_read_timeout",
        fragment: "server { location / { proxy_pass http://ONE; proxy_read_timeout 1s;
                     proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } }",
        then: Story(stories::silence_ends_exchanges_and_tunnels),
    },
    Row {
        directive: "the end of a tunnel",
        fragment: "server { location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade; } }",
        then: Story(stories::either_side_ends_a_tunnel),
    },
    Row {
        directive: "proxy_ignore_client_abort",
        fragment: "log_format status '$request_uri $status';
                   server { access_log FOLDER/access.log status;
                     location /silent { proxy_pass http://ONE; }
                     location /slow { proxy_pass http://ONE; proxy_ignore_client_abort on; } }",
        then: Story(stories::a_client_that_leaves_is_a_499_unless_it_is_ignored),
    },
    Row {
        directive: "proxy_redirect",
        fragment: "upstream g { server ONE; }
                   server {
                     location / { proxy_pass http://g; proxy_redirect default; }
                     location /app/ { proxy_pass http://ONE/inner/; }
                     location /off/ { proxy_pass http://ONE/inner/; proxy_redirect off; }
                     location /rules/ { proxy_pass http://ONE/;
                       proxy_redirect http://inside/ /outside/;
                       proxy_redirect ~^http://other/(.*)$ https://$host/$1; }
                   }",
        then: Seen(&[
            (
                "GET /status/302 HTTP/1.1\nHost: a\nX-Say: Location: http://g/x",
                &[Status(302), Client("location", "http://a:PORT/x")],
            ),
            (
                "GET /app/status/302 HTTP/1.1\nHost: a\nX-Say: Location: http://ONE/inner/x\n\
                 X-Say: Refresh: 5; url=http://ONE/inner/y",
                &[
                    Client("location", "http://a:PORT/app/x"),
                    Client("refresh", "5; url=/app/y"),
                ],
            ),
            (
                "GET /off/status/302 HTTP/1.1\nHost: a\nX-Say: Location: http://ONE/inner/x",
                &[Client("location", "http://ONE/inner/x")],
            ),
            (
                "GET /rules/status/302 HTTP/1.1\nHost: a\nX-Say: Location: http://inside/x",
                &[Client("location", "http://a:PORT/outside/x")],
            ),
            (
                "GET /rules/status/302 HTTP/1.1\nHost: a\nX-Say: Location: http://other/x",
                &[Client("location", "https://a/x")],
            ),
        ]),
    },
    Row {
        directive: "proxy_redirect default before proxy_pass",
        fragment: "server { location / {\nproxy_redirect default; proxy_pass http://127.0.0.1:1; } }",
        then: Refused(&["site.conf:2: proxy_redirect: stands before any `proxy_pass`"]),
    },
    Row {
        directive: "access_log",
        fragment: "log_format main '$request_uri $status $body_bytes_sent';
                   server {
                     access_log FOLDER/access.log main;
                     location / { proxy_pass http://ONE; proxy_set_header Upgrade $http_upgrade;
                       proxy_set_header Connection upgrade; }
                     location /combined { access_log FOLDER/combined.log; return 204; }
                   }",
        then: Story(stories::a_tunnel_has_one_line_at_its_end),
    },
    Row {
        directive: "access_log with an unknown format",
        fragment: "server {\naccess_log /tmp/a.log none;\nreturn 204; }",
        then: Refused(&["site.conf:2: access_log: unknown log format \"none\""]),
    },
    Row {
        directive: "hidden response headers",
        fragment: "server {
                     location / { proxy_pass http://ONE; }
                     location /hide { proxy_pass http://ONE; proxy_hide_header X-Powered-By; }
                     location /pass { proxy_pass http://ONE; proxy_pass_header Server;
                                      proxy_pass_header X-Accel-Expires; }
                   }",
        then: Seen(&[
            (
                "GET / HTTP/1.1\nHost: a\nX-Say: Server: s\nX-Say: X-Pad: p\nX-Say: X-Accel-Expires: 1\n\
                 X-Say: X-Powered-By: test",
                &[
                    Client("server", "tidegate"),
                    NotClient("x-pad"),
                    NotClient("x-accel-expires"),
                    Client("x-powered-by", "test"),
                ],
            ),
            (
                "GET /hide HTTP/1.1\nHost: a\nX-Say: X-Powered-By: test",
                &[NotClient("x-powered-by")],
            ),
            (
                "GET /pass HTTP/1.1\nHost: a\nX-Say: Server: s\nX-Say: X-Accel-Expires: 1",
                &[Client("server", "s"), Client("x-accel-expires", "1")],
            ),
        ]),
    },
    Row {
        directive: "add_header",
        fragment: "server {
                     add_header X-Server 1;
                     location / { proxy_pass http://ONE; }
                     location /own { proxy_pass http://ONE; add_header X-Own 2; add_header X-All 3 always; }
                   }",
        then: Seen(&[
            (GET, &[Client("x-server", "1")]),
            ("GET /status/404 HTTP/1.1\nHost: a", &[Status(404), NotClient("x-server")]),
            (
                "GET /own HTTP/1.1\nHost: a",
                &[NotClient("x-server"), Client("x-own", "2"), Client("x-all", "3")],
            ),
            (
                "GET /own/status/404 HTTP/1.1\nHost: a",
                &[NotClient("x-own"), Client("x-all", "3")],
            ),
        ]),
    },
    Row {
        directive: "proxy_cookie_domain, proxy_cookie_path",
        fragment: "server { location / { proxy_pass http://ONE;
                     proxy_cookie_domain inside $host;
                     proxy_cookie_domain ~^(.+)\\.internal$ $1.example;
                     proxy_cookie_path /app/ /; } }",
        then: Seen(&[
            (
                "GET / HTTP/1.1\nHost: a\nX-Say: Set-Cookie: x=1; Domain=inside; Path=/app/z; Secure",
                &[Client("set-cookie", "x=1; Domain=a; Path=/z; Secure")],
            ),
            (
                "GET / HTTP/1.1\nHost: a\nX-Say: Set-Cookie: x=1; Domain=chat.internal; Path=/",
                &[Client("set-cookie", "x=1; Domain=chat.example; Path=/")],
            ),
        ]),
    },
    Row {
        directive: "absolute_redirect",
        fragment: "server {
                     location /old { return 301 /new; }
                     location /relative { absolute_redirect off; return 301 /new; }
                     location /service/ { absolute_redirect off; proxy_pass http://ONE; }
                   }",
        then: Seen(&[
            ("GET /old HTTP/1.1\nHost: a", &[Status(301), Client("location", "http://a:PORT/new")]),
            ("GET /relative HTTP/1.1\nHost: a", &[Client("location", "/new")]),
            ("GET /service HTTP/1.1\nHost: a", &[Status(301), Client("location", "/service/")]),
        ]),
    },
    Row {
        directive: "underscores_in_headers off, ignore_invalid_headers on",
        fragment: "server { location / { proxy_pass http://ONE; } }",
        then: Seen(&[
            (
                "GET / HTTP/1.1\nHost: a\nX_Real_IP: 192.0.2.1\nX.Dot: 1\nX-Fine-2: 1",
                &[NotService("x_real_ip"), NotService("x.dot"), Service("x-fine-2", "1")],
            ),
            ("TRACE / HTTP/1.1\nHost: a", &[Status(405), By("-")]),
        ]),
    },
    Row {
        directive: "underscores_in_headers on",
        fragment: "underscores_in_headers on; server { location / { proxy_pass http://ONE; } }",
        then: Seen(&[(
            "GET / HTTP/1.1\nHost: a\nX_Kept: 1\nX.Dot: 1",
            &[Service("x_kept", "1"), NotService("x.dot")],
        )]),
    },
    Row {
        directive: "ignore_invalid_headers off",
        fragment: "server { ignore_invalid_headers off; location / { proxy_pass http://ONE; } }",
        then: Seen(&[(
            "GET / HTTP/1.1\nHost: a\nX_Kept: 1\nX.Dot: 1",
            &[Service("x_kept", "1"), Service("x.dot", "1")],
        )]),
    },
    Row {
        directive: "client_max_body_size",
        fragment: "server {
                     location / { proxy_pass http://ONE; }
                     location /small { proxy_pass http://ONE; client_max_body_size 1k; }
                   }",
        then: Seen(&[
            (
                "POST / HTTP/1.1\nHost: a\nContent-Length: 1048577",
                &[Status(413), By("-")],
            ),
            (
                "POST /small HTTP/1.1\nHost: a\nContent-Length: 1025",
                &[Status(413), By("-")],
            ),
            (
                "POST /small HTTP/1.1\nHost: a\nContent-Length: 0",
                &[Status(200), By("1")],
            ),
        ]),
    },
];
