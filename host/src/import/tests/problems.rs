//! What is said of files that cannot be translated.

use super::*;

/// Checks rows of a file and what is said of it, without the last line, which counts the errors.
#[track_caller]
fn refused(rows: &[(&str, &[&str])]) {
    for (text, expected) in rows {
        let (written, report) = imported(text);
        assert_eq!(written, None, "{text}\n{report}");
        let mut lines: Vec<_> = report.lines().collect();
        let count = lines.pop().unwrap_or_default();
        assert_eq!(lines, *expected, "{text}");
        let s = if lines.len() == 1 { "" } else { "s" };
        assert_eq!(
            count,
            format!("{} error{s}; nothing is written", lines.len())
        );
    }
}

/// A location with this in it, which stands in line 2.
fn in_location(text: &str) -> String {
    format!("server {{ location / {{\n{text} }} }}")
}

/// As [`refused`], for what stands in line 2, within a location that has a service.
#[track_caller]
fn refused_in_location(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let text = in_location(&format!("{text} proxy_pass http://127.0.0.1:9001;"));
        refused(&[(&text, &[*expected])]);
    }
}

#[test]
fn errors_of_syntax_are_told_with_their_lines() {
    refused(&[
        (
            "server {\nlisten 80;\n",
            &["nginx.conf:1: the file ends before the `}` of `server`"],
        ),
        (
            "server {\nlisten 80\n}",
            &["nginx.conf:2: `listen` has no `;` at its end"],
        ),
        (
            "server {\n}\n}",
            &["nginx.conf:3: unexpected `}`: no block is open"],
        ),
        (
            "\n;",
            &["nginx.conf:2: unexpected `;`: nothing is before it"],
        ),
        (
            "{ }",
            &["nginx.conf:1: unexpected `{`: nothing is before it"],
        ),
        (
            "server",
            &["nginx.conf:1: the file ends before the `;` or `{` of `server`"],
        ),
        (
            "server {\n  server_name \"a;\n}",
            &["nginx.conf:2: no \" closes the word that begins here"],
        ),
        (
            "server {\n  server_name 'a'b;\n}",
            &["nginx.conf:2: unexpected 'b' behind a quoted word; expected a space, `;` or `{`"],
        ),
    ]);
}

#[test]
fn included_files_must_be_there_and_be_whole() {
    let folder = Folder::new();
    folder.write(
        "nginx.conf",
        "include sites/*.conf;\ninclude none/*.conf;\ninclude absent.conf;",
    );
    folder.write("sites/a.conf", "server {\n");
    let (imported, report) = folder.import(&Options::default());
    assert_eq!(imported.text, None);
    let folder = folder.0.display();
    assert_eq!(
        report,
        format!(
            "nginx.conf:3: include: {folder}/absent.conf cannot be read: No such file or directory; \
             relative names begin in the main file's folder, {folder}\n\
             sites/a.conf:1: the file ends before the `}}` of `server`\n\
             2 errors; nothing is written"
        )
        .replace(&format!("{folder}/absent"), "absent")
    );
}

#[test]
fn a_file_that_includes_itself_is_an_error() {
    refused(&[(
        "include nginx.conf;",
        &["nginx.conf:1: include: nginx.conf includes itself"],
    )]);
}

#[test]
fn directives_must_be_known_and_stand_where_they_may() {
    refused(&[
        (
            "server { proxy_passs http://a; }",
            &["nginx.conf:1: proxy_passs: unknown directive; did you mean `proxy_pass`?"],
        ),
        (
            "server { quantum on; }",
            &[
                "nginx.conf:1: quantum: unknown directive; if nothing depends on it, `--drop quantum` leaves it out",
            ],
        ),
        (
            "server { proxy_pass http://127.0.0.1:1; }",
            &[
                "nginx.conf:1: proxy_pass: is not allowed in `server`; write the service's address: proxy_pass http://127.0.0.1:9001;",
            ],
        ),
        (
            "location / { }",
            &["nginx.conf:1: location: is not allowed in `http`"],
        ),
        (
            "events { }\nserver { }",
            &["nginx.conf:2: server: is not allowed outside of all blocks"],
        ),
        (
            "server { listen; }",
            &["nginx.conf:1: listen: expected at least 1 argument, found none"],
        ),
        (
            "server { root a b; }",
            &["nginx.conf:1: root: expected 1 argument, found 2"],
        ),
        (
            "upstream { }",
            &["nginx.conf:1: upstream: expected 1 argument, found none"],
        ),
        (
            "server a { }",
            &["nginx.conf:1: server: expected no argument, found 1"],
        ),
        (
            "server;",
            &["nginx.conf:1: server: expected a block in `{` and `}`, found `;`"],
        ),
        (
            "server { listen 80 { } }",
            &["nginx.conf:1: listen: expected `;`, found a block"],
        ),
        (
            "server {\nroot /a;\nroot /b; }",
            &["nginx.conf:3: root: stands in this block already (nginx.conf:2)"],
        ),
    ]);
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_hint() {
    refused_in_location(&[
        (
            "auth_basic \"x\";",
            "nginx.conf:2: auth_basic: its meaning cannot be kept; let a plugin or the service ask for credentials",
        ),
        (
            "limit_req zone=a;",
            "nginx.conf:2: limit_req: its meaning cannot be kept; let a plugin count (it may keep state), or the service",
        ),
        (
            "rewrite ^/a /b;",
            "nginx.conf:2: rewrite: its meaning cannot be kept; write a `location` for each case, with `return` or a URI in `proxy_pass`",
        ),
        (
            "if ($a) { return 404; }",
            "nginx.conf:2: if: is not supported; write a `map` and use its variable, or a `location` for each case",
        ),
        (
            "gzip on;",
            "nginx.conf:2: gzip: its meaning cannot be kept; responses are passed on as services compress them; files may be compressed beforehand",
        ),
        (
            "proxy_cache c;",
            "nginx.conf:2: proxy_cache: its meaning cannot be kept; there is no cache; let a cache before or behind Tidegate do it",
        ),
        (
            "deny all;",
            "nginx.conf:2: deny: its meaning cannot be kept; let a plugin or a firewall refuse addresses",
        ),
        (
            "proxy_http_version 1.0;",
            "nginx.conf:2: proxy_http_version: HTTP/1.0 towards services is not supported; write 1.1",
        ),
    ]);
}

#[test]
fn addresses_of_services_are_checked_as_nginx_does() {
    refused(&[
        (
            &in_location("proxy_pass;"),
            &[
                "nginx.conf:2: proxy_pass: expected 1 argument, found none; write the service's address: proxy_pass http://127.0.0.1:9001;",
            ],
        ),
        (
            &in_location("proxy_pass ws://127.0.0.1:9001;"),
            &[
                "nginx.conf:2: proxy_pass: invalid URL prefix in \"ws://127.0.0.1:9001\"; write http:// or https:// before the host; a WebSocket begins as HTTP",
            ],
        ),
        (
            &in_location("proxy_pass http://$backend;"),
            &[
                "nginx.conf:2: proxy_pass: variables in it are not supported; write a `location` for each service",
            ],
        ),
        (
            &in_location("proxy_pass http://unix:/run/a.sock;"),
            &[
                "nginx.conf:2: proxy_pass: UNIX sockets are not supported; let the service listen on 127.0.0.1",
            ],
        ),
        (
            "upstream a { server 127.0.0.1:1; }\nserver { location / { proxy_pass http://a:80; } }",
            &[
                "nginx.conf:2: proxy_pass: upstream a has ports of its own, and may not have one here; write http://a",
            ],
        ),
        (
            "server { location ~ x {\nproxy_pass http://127.0.0.1:1/y; } }",
            &[
                "nginx.conf:2: proxy_pass: has a path, which a location with a pattern cannot replace anything by; leave the path out of `proxy_pass`, or use a location without pattern",
            ],
        ),
        (
            "upstream a { }\nserver { location / { proxy_pass http://a; } }",
            &["nginx.conf:1: upstream: no `server` is in it; write server 127.0.0.1:9001;"],
        ),
        (
            "upstream a { server 127.0.0.1:1; }\nupstream a { server 127.0.0.1:2; }\nserver { location / { proxy_pass http://a; } }",
            &["nginx.conf:2: upstream: a is an upstream already (nginx.conf:1)"],
        ),
    ]);
}

#[test]
fn members_of_a_group_are_hosts_with_ports() {
    let group = |server: &str| {
        format!("upstream a {{ {server} }}\nserver {{ location / {{ proxy_pass http://a; }} }}")
    };
    for (server, expected) in [
        (
            "server http://localhost:8080;",
            "server: invalid host in upstream \"http://localhost:8080\": http:// belongs to `proxy_pass`; write server localhost:8080;",
        ),
        (
            "server 127.0.0.1:1 weight=0;",
            "server: invalid parameter \"weight=0\"",
        ),
        (
            "server 127.0.0.1:1 wieght=2;",
            "server: invalid parameter \"wieght=2\"",
        ),
        (
            "server 127.0.0.1:1 fail_timeout=soon;",
            "server: expected fail_timeout=TIME, found \"fail_timeout=soon\"",
        ),
        (
            "server 127.0.0.1:1; random;",
            "random: only `random two` is supported; write `random two least_conn`",
        ),
    ] {
        let expected = format!("nginx.conf:1: {expected}");
        refused(&[(&group(server), &[&expected])]);
    }
}

#[test]
fn fields_that_lost_their_dollar_are_errors() {
    refused(&[
        (
            &in_location("proxy_pass http://127.0.0.1:1;\nproxy_set_header Host host;"),
            &[
                "nginx.conf:3: proxy_set_header: \"host\" would be sent as it is; its `$` is lost; write $host",
            ],
        ),
        (
            &in_location("proxy_pass http://127.0.0.1:1; proxy_set_header Upgrade $http_upgrade;"),
            &[
                "nginx.conf:2: proxy_set_header: is sent without `Connection`, so that services do not switch; add proxy_set_header Connection \"upgrade\";",
            ],
        ),
        (
            &in_location(
                "proxy_pass http://127.0.0.1:1; proxy_set_header X a; proxy_set_header x b;",
            ),
            &["nginx.conf:2: proxy_set_header: x is set twice, and a field is sent once here"],
        ),
        (
            &in_location("proxy_pass http://127.0.0.1:1; proxy_set_header X 5$;"),
            &[
                "nginx.conf:2: proxy_set_header: a `$` without a name in \"5$\"; nginx has no way to write a dollar; write a `map` whose value is one",
            ],
        ),
    ]);
}

#[test]
fn values_are_checked() {
    refused_in_location(&[
        (
            "proxy_read_timeout soon;",
            "nginx.conf:2: proxy_read_timeout: expected a time such as 60s or 500ms, found \"soon\"",
        ),
        (
            "client_max_body_size 1x;",
            "nginx.conf:2: client_max_body_size: expected a size such as 8k or 1m, found \"1x\"",
        ),
        (
            "proxy_ignore_client_abort yes;",
            "nginx.conf:2: proxy_ignore_client_abort: expected `on` or `off`, found \"yes\"",
        ),
        (
            "proxy_redirect default;",
            "nginx.conf:2: proxy_redirect: stands before any `proxy_pass`; move it behind `proxy_pass`",
        ),
        (
            "proxy_next_upstream often;",
            "nginx.conf:2: proxy_next_upstream: unknown condition \"often\"",
        ),
        (
            "access_log /tmp/a.log none;",
            "nginx.conf:2: access_log: unknown log format \"none\"; write a `log_format` of that name",
        ),
        (
            "access_log logs/a.log;",
            "nginx.conf:2: access_log: \"logs/a.log\" begins where nginx was installed; write it from the root, or give nginx's prefix with --prefix",
        ),
    ]);
}

#[test]
fn addresses_and_names_are_checked() {
    let server = |text: &str| format!("server {{ {text} location / {{ return 204; }} }}");
    for (text, expected) in [
        (
            "listen nowhere;",
            "listen: no address: \"nowhere\"; write an IP address, such as 127.0.0.1:80 or [::]:80, or a port",
        ),
        (
            "listen 127.0.0.1:http;",
            "listen: invalid port in \"127.0.0.1:http\"",
        ),
        (
            "listen unix:/run/a.sock;",
            "listen: UNIX sockets are not supported; write an address and port",
        ),
        ("listen 80 fast;", "listen: invalid parameter \"fast\""),
        (
            "listen 80 proxy_protocol;",
            "listen: proxy_protocol is not supported; let clients or the proxy in front connect without it",
        ),
        (
            "listen 443 ssl;",
            "server: listens with `ssl` and has no `ssl_certificate`",
        ),
        (
            "ssl on;",
            "ssl: its meaning cannot be kept; write `listen 443 ssl;`",
        ),
    ] {
        let expected = format!("nginx.conf:1: {expected}");
        refused(&[(&server(text), &[&expected])]);
    }
    refused(&[(
        "server { listen 80 default_server; location / { return 204; } }\n\
         server { listen 80 default_server; location / { return 204; } }",
        &["nginx.conf:2: listen: 0.0.0.0:80 has a default server already (nginx.conf:1)"],
    )]);
}

#[test]
fn locations_say_what_they_do() {
    refused(&[
        (
            "server { location / { } }",
            &[
                "nginx.conf:1: location: has neither `proxy_pass` nor `return` nor a `root`, so nginx looks for files where it was installed; say what it does",
            ],
        ),
        (
            "server { location @a { return 204; } }",
            &[
                "nginx.conf:1: location: named locations are not supported; nothing refers to a named location here; leave it out",
            ],
        ),
        (
            "server { location == /a { return 204; } }",
            &["nginx.conf:1: location: invalid modifier \"==\"; expected =, ^~, ~ or ~*"],
        ),
        (
            "server { location a { return 204; } }",
            &["nginx.conf:1: location: \"a\" matches nothing: paths begin with a slash; write /a"],
        ),
        (
            "server { location /a { return 204; location ~ x { return 205; } } }",
            &[
                "nginx.conf:1: location: a pattern within a location is tried only there; move it out of the location around it",
            ],
        ),
        (
            "server { location / { return 444; } }",
            &[
                "nginx.conf:1: return: 444 (close without an answer) is not supported; write another status, such as 404",
            ],
        ),
        (
            "worker_processes 1;",
            &["nginx.conf:1: worker_processes: is not allowed in `http`"],
        ),
        (
            "",
            &["nginx.conf: no `server` is in these files; there is nothing to serve"],
        ),
    ]);
}

#[test]
fn what_one_setting_says_for_all_must_be_the_same_for_all() {
    refused(&[(
        "server { keepalive_timeout 5; location / { return 204; } }\n\
         server { listen 81; keepalive_timeout 6; location / { return 204; } }",
        &[
            "nginx.conf:2: keepalive_timeout: is not the same for all servers, and timeouts.keep_alive is one for all (see nginx.conf:1); move it to `http`",
        ],
    )]);
}
