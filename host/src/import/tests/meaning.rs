//! What files become.

use super::*;

/// Imports a text, whose configuration without its first line must be this.
#[track_caller]
fn becomes(text: &str, expected: &str) {
    let (written, report) = imported(text);
    let written = written.unwrap_or_else(|| panic!("{text}\n{report}"));
    let (_, written) = written.split_once('\n').unwrap();
    assert_eq!(written, expected, "{text}\n{report}");
}

/// What a server with this in it becomes, from its first key on.
#[track_caller]
fn server_becomes(text: &str, expected: &str) {
    let text = format!("server {{ listen 127.0.0.1:8080; server_name a; {text} }}");
    let (written, report) = imported(&text);
    let written = written.unwrap_or_else(|| panic!("{text}\n{report}"));
    let (_, written) = written.split_once("names = [\"a\"]\n").unwrap();
    assert_eq!(written, expected, "{text}\n{report}");
}

#[test]
fn a_small_file_becomes_a_small_file() {
    becomes(
        "server { listen 127.0.0.1:8080; server_name A.example.com;\n\
         location / { proxy_pass http://127.0.0.1:9001; } }",
        r#"
[[listeners]]
bind = "127.0.0.1:8080"

[[sites]]
names = ["a.example.com"]

  [[sites.routes]]
  match = "/"
  url = "http://127.0.0.1:9001"
  upgrade = []
"#,
    );
}

#[test]
fn levels_stay_levels_and_what_http_says_stands_in_the_site() {
    becomes(
        "worker_processes 2; events { worker_connections 9; }\n\
         http { proxy_read_timeout 90; proxy_set_header Host $host;\n\
         map $http_upgrade $connection_upgrade { default upgrade; '' close; }\n\
         upstream chat { server 127.0.0.1:9001 weight=5 max_fails=10 fail_timeout=120s;\n\
         server 127.0.0.1:9002 backup; keepalive 8; }\n\
         server { listen 127.0.0.1:80; server_name a;\n\
         location /chat { proxy_pass http://chat; proxy_read_timeout 1d; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $connection_upgrade; }\n\
         location / { proxy_pass http://chat/app/; client_max_body_size 0; } } }",
        r#"# left out: worker_connections 9 (limits.max_connections bounds clients alone)
workers = 2

[[listeners]]
bind = "127.0.0.1:80"

[maps.connection_upgrade]
source = "$http_upgrade"
default = "upgrade"
[maps.connection_upgrade.values]
"" = "close"

[upstreams.chat]
endpoints = [
  { address = "127.0.0.1:9001", weight = 5, max_fails = 10, fail_timeout = "2m" },
  { address = "127.0.0.1:9002", backup = true },
]
keep_alive = 8

[[sites]]
names = ["a"]
timeouts = { read = "90s" }
[sites.set_headers]
Host = "$host"

  [[sites.routes]]
  match = "/chat"
  upstream = "chat"
  timeouts = { read = "1d" }
  [sites.routes.set_headers]
  Upgrade = "$http_upgrade"
  Connection = "$connection_upgrade"

  [[sites.routes]]
  match = "/"
  upstream = "chat"
  replace_prefix = "/app/"
  upgrade = []
  max_body = "0B"
"#,
    );
}

#[test]
fn locations_become_routes_with_their_signs() {
    server_becomes(
        r"location = /a { return 204; } location ^~ /b { return 410; }
          location ~ \.(gif|png)$ { return 301 https://$host$request_uri; }
          location ~*^/c$ { return 302 /d; }
          location /e { return 200 'it is $remote_addr'; location /e/f { return 404; } }
          location / { return 403; }",
        r#"
  [[sites.routes]]
  match = "= /a"
  respond = { status = 204 }

  [[sites.routes]]
  match = "^~ /b"
  respond = { status = 410 }

  [[sites.routes]]
  match = '~ \.(gif|png)$'
  redirect = { status = 301, to = "https://$host$request_uri" }

  [[sites.routes]]
  match = "~* ^/c$"
  redirect = "/d"

  [[sites.routes]]
  match = "/e"
  respond = { status = 200, headers = { Content-Type = "text/plain" }, body = "it is $remote_addr" }

  [[sites.routes]]
  match = "/e/f"
  respond = { status = 404 }

  [[sites.routes]]
  match = "/"
  respond = { status = 403 }
"#,
    );
}

#[test]
fn a_server_that_returns_answers_everything() {
    server_becomes(
        "return 301 https://b$request_uri; location /x { return 204; }",
        r#"
  [[sites.routes]]
  match = "/"
  redirect = { status = 301, to = "https://b$request_uri" }
"#,
    );
}

#[test]
fn responses_and_retries_are_kept_as_they_are_written() {
    server_becomes(
        "location / { proxy_pass http://127.0.0.1:9001;\n\
         proxy_next_upstream error http_502 non_idempotent; proxy_next_upstream_tries 2;\n\
         proxy_redirect default; proxy_redirect http://x/ /;\n\
         proxy_cookie_path /app/ /; proxy_hide_header X-A; proxy_hide_header X-B;\n\
         add_header X-C 1; add_header X-D $status always; add_header X-C 2; proxy_ignore_client_abort on; }",
        r#"
  [[sites.routes]]
  match = "/"
  url = "http://127.0.0.1:9001"
  upgrade = []
  ignore_client_abort = true
  retry = { on = ["error", 502], non_idempotent = true, tries = 2 }
  hide_headers = ["X-A", "X-B"]
  rewrite_location = ["default", { from = "http://x/", to = "/" }]
  rewrite_cookies = { path = [{ from = "/app/", to = "/" }] }
  [sites.routes.add_headers]
  X-C = ["1", "2"]
  X-D = { value = "$status", always = true }
"#,
    );
}

#[test]
fn files_are_served_from_where_nginx_finds_them() {
    server_becomes(
        "root /srv/www; location /app/ { try_files $uri $uri/ /index.html; default_type application/octet-stream; }\n\
         location /img/ { alias /srv/img/; expires 30d; types { image/x-ours ours; text/css css; } }",
        r#"
  [[sites.routes]]
  match = "/app/"
  files = { root = "/srv/www", try = ["$uri", "$uri/", "/index.html"] }

  [[sites.routes]]
  match = "/img/"
  files = { alias = "/srv/img/", default_type = "text/plain", types = { ours = "image/x-ours" } }
  expires = "30d"

  [[sites.routes]]
  match = "/"
  files = { root = "/srv/www", default_type = "text/plain" }
"#,
    );
}

#[test]
fn access_logs_keep_their_formats() {
    becomes(
        "log_format main '$remote_addr ' '$status'; log_format json escape=json '{\"s\":$status}';\n\
         map $status $bad { ~^[45] 1; default 0; }\n\
         access_log /dev/stdout main; server { listen 127.0.0.1:80; server_name a; location / { return 204; }\n\
         location /q { access_log off; return 204; }\n\
         location /j { access_log /tmp/a.log json buffer=4k if=$bad; access_log /tmp/b.log; return 204; } }",
        r#"access_log = { path = "stdout", format = "main" }

[log_formats]
main = "$remote_addr $status"
nginx-json = { line = '{"s":$status}', escape = "json" }

[[listeners]]
bind = "127.0.0.1:80"

[maps.bad]
source = "$status"
default = "0"
[maps.bad.values]
"~^[45]" = "1"

[[sites]]
names = ["a"]

  [[sites.routes]]
  match = "/"
  respond = { status = 204 }

  [[sites.routes]]
  match = "/q"
  respond = { status = 204 }
  access_log = false

  [[sites.routes]]
  match = "/j"
  respond = { status = 204 }
  access_log = [{ path = "/tmp/a.log", format = "nginx-json", when = "$bad" }, { path = "/tmp/b.log", format = "combined" }]
"#,
    );
}

/// The sites of a text: names, listeners, whether `default` is written.
fn sites(text: &str) -> Vec<String> {
    let (written, report) = imported(text);
    let written = written.unwrap_or_else(|| panic!("{text}\n{report}"));
    let keys = ["[[sites]]", "names", "listeners = [", "default"];
    let lines = written
        .lines()
        .filter(|l| keys.iter().any(|key| l.starts_with(key)));
    let text = lines.collect::<Vec<_>>().join(" ");
    text.split("[[sites]]")
        .skip(1)
        .map(|site| site.trim().to_owned())
        .collect()
}

#[test]
fn a_server_that_is_default_here_and_not_there_becomes_two_sites() {
    let answer = "location / { return 204; }";
    assert_eq!(
        sites(&format!(
            "server {{ listen 127.0.0.1:1 default_server; listen 127.0.0.1:2; server_name a; {answer} }}\n\
             server {{ listen 127.0.0.1:2 default_server; server_name b; {answer} }}"
        )),
        [
            r#"names = ["a"] listeners = ["127.0.0.1:1"] default = true"#,
            r#"names = ["a"] listeners = ["127.0.0.1:2"]"#,
            r#"names = ["b"] listeners = ["127.0.0.1:2"] default = true"#,
        ]
    );
    // The first is the default without being told.
    assert_eq!(
        sites(&format!(
            "server {{ listen 127.0.0.1:1; server_name a; {answer} }}\n\
             server {{ listen 127.0.0.1:1; server_name .b ''; {answer} }}\n\
             server {{ listen 127.0.0.1:1; server_name _; {answer} }}\n\
             server {{ listen 127.0.0.1:1; server_name a; {answer} }}"
        )),
        [r#"names = ["a"]"#, r#"names = ["b", "*.b"]"#]
    );
}

#[test]
fn services_behind_tls_are_trusted_as_little_as_nginx_does() {
    let (written, report) = imported(
        "server { listen 127.0.0.1:80; server_name a; location / { proxy_pass https://localhost; } }",
    );
    let written = written.unwrap();
    assert!(
        written.contains(
            "[upstreams.localhost]\nendpoints = [\"localhost:443\"]\n\
             # nginx does not verify unless told to. Better: verify = true.\n\
             tls = { server_name = \"localhost\", verify = false }\n"
        ),
        "{written}"
    );
    assert!(written.contains("upstream = \"localhost\""));
    assert!(report.contains("without `proxy_ssl_verify on` nobody checks whom they talk to"));
}

#[test]
fn what_changes_nothing_is_told_of_in_both_places() {
    let (written, report) = imported(
        "sendfile on;\nproxy_buffering off;\nproxy_read_timeout 5;\n\
         server { listen 127.0.0.1:80; location / { return 204; } }",
    );
    let written = written.unwrap();
    for line in [
        "# left out: sendfile on (a choice about system calls that Tidegate makes itself)",
        "# left out: proxy_buffering off (bodies are passed on as they come, and never written to disk)",
    ] {
        assert!(written.contains(line), "{written}");
    }
    assert!(report.contains("nginx.conf:1: sendfile on: "), "{report}");
}

#[test]
fn included_files_stand_where_they_are_included() {
    let folder = Folder::new();
    folder.write("nginx.conf", "events { }\nhttp { include conf.d/*.conf; }");
    folder.write(
        "conf.d/b.conf",
        "server { listen 127.0.0.1:2; include routes; }",
    );
    folder.write(
        "conf.d/a.conf",
        "server { listen 127.0.0.1:1; include routes; }",
    );
    folder.write("routes", "location / { return 204; }");
    let (imported, report) = folder.import(&Options::default());
    let written = imported.text.unwrap_or_else(|| panic!("{report}"));
    let first = written.find("127.0.0.1:1").unwrap();
    assert!(first < written.find("127.0.0.1:2").unwrap(), "by name");
    assert_eq!(written.matches("respond = { status = 204 }").count(), 2);
}

#[test]
fn relative_roots_need_to_be_told_where_they_begin() {
    let folder = Folder::new();
    folder.write(
        "nginx.conf",
        "server { listen 127.0.0.1:1; location / { root html; } }",
    );
    let options = Options {
        prefix: Some("/usr/share/nginx".into()),
        ..Options::default()
    };
    let (imported, report) = folder.import(&options);
    let written = imported.text.unwrap_or_else(|| panic!("{report}"));
    assert!(
        written.contains("root = \"/usr/share/nginx/html\""),
        "{written}"
    );
}

#[test]
fn defaults_of_nginx_that_are_none_here_are_told() {
    for (text, expected) in [
        (
            "server { location / {\nroot /srv; default_type text/html; types { text/css css; } } }",
            "nginx.conf:2: types: files whose kind it does not name have their usual media type, and not the default",
        ),
        (
            "server { location / {\nroot /srv; } }",
            "nginx.conf:2: root /srv: without `default_type` files of unknown kinds are text/plain",
        ),
        (
            "server { location / {\nproxy_pass http://127.0.0.1:1; } }",
            "nginx.conf:2: proxy_pass http://127.0.0.1:1: without `proxy_set_header Upgrade` no WebSocket passes",
        ),
        (
            "server { location / { return 204; } }",
            "nginx.conf:1: server: without `listen` it is *:80",
        ),
    ] {
        let (written, report) = imported(text);
        assert!(written.is_some(), "{report}");
        assert!(
            report.lines().any(|line| line.trim() == expected),
            "no {expected:?} in\n{report}"
        );
    }
}

#[test]
fn names_of_fields_that_pass_are_one_setting_for_all_servers() {
    let server = "server { location / { return 204; } }";
    for (text, expected) in [
        (format!("underscores_in_headers off; {server}"), None),
        (
            format!("underscores_in_headers on; {server}"),
            Some("field_names = \"underscores\""),
        ),
        (
            format!("ignore_invalid_headers off; {server}"),
            Some("field_names = \"any\""),
        ),
    ] {
        let (written, report) = imported(&text);
        let written = written.unwrap_or_else(|| panic!("{report}"));
        let found = written.lines().find(|line| line.contains("field_names"));
        assert_eq!(found, expected, "{text}");
    }
}
