//! What is said of files that cannot be used, word by word, and of files that look odd.

use std::path::Path;

use super::*;

/// Checks rows of: a line of [`BASE`], what it becomes, what is then said. The lines of the message
/// are given without the file's name.
#[track_caller]
pub(super) fn explained(rows: &[(&str, &str, &[&str])]) {
    for (line, text, expected) in rows {
        let error = parse(&with(line, text))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        let expected: Vec<_> = expected
            .iter()
            .map(|l| format!("tidegate.toml:{l}"))
            .collect();
        assert_eq!(error, expected.join("\n"), "{text}");
    }
}

#[test]
fn a_syntax_error_is_one_problem() {
    explained(&[
        (
            BIND,
            "bind = ",
            &["2:8: string values must be quoted, expected literal string"],
        ),
        (
            BIND,
            r#"bind = "127.0.0.1:8080"#,
            &[r#"2:23: invalid basic string, expected `"`"#],
        ),
        (
            BIND,
            r#"+bind = "127.0.0.1:8080""#,
            &["3:1: duplicate key at `bind`"],
        ),
        (
            MODULE,
            "+[upstreams.chat]",
            &["7:12: duplicate key at `chat`"],
        ),
    ]);
}

#[test]
fn unknown_keys_and_keys_of_later_releases_are_explained_where_they_stand() {
    explained(&[
        (
            TOP,
            "worker = 2",
            &["1:1: worker: unknown key; did you mean `workers`?"],
        ),
        (
            TOP,
            r#"include = ["conf.d/*.toml"]"#,
            &[
                "1:1: include: not supported in this release; write the whole configuration in one file",
            ],
        ),
        (
            UPSTREAM,
            r#"+max-body = "1MiB""#,
            &["12:1: sites[0].routes[0].max-body: unknown key; did you mean `max_body`?"],
        ),
        (
            UPSTREAM,
            r#"+proxy_pass = "http://chat""#,
            &[
                "12:1: sites[0].routes[0].proxy_pass: unknown key; known here: match, upstream, url, files, respond, redirect, replace_prefix, plugins, timeouts, websocket, set_headers, add_headers, hide_headers, pass_headers, rewrite_location, rewrite_cookies, absolute_redirect, server_header, upgrade, retry, ignore_client_abort, max_body, expires, access_log",
            ],
        ),
        (
            BIND,
            r#"+"odd key" = 1"#,
            &[r#"3:1: listeners[0]."odd key": unknown key; known here: bind, tls, http2"#],
        ),
        (
            TOP,
            "[limits]\nfield_names = \"all\"",
            &[r#"2:1: limits.field_names: expected "plain", "underscores" or "any", found "all""#],
        ),
        (
            TOP,
            "[limits]\nmax_uris = \"1KiB\"",
            &[
                "2:1: limits.max_uris: unknown key; did you mean `max_uri`? known here: max_header, max_headers, field_names, max_uri, max_connections",
            ],
        ),
    ]);
}

#[test]
fn top_level_sections_are_explained_where_they_stand() {
    explained(&[
        (
            TOP,
            "workers = 0",
            &[r#"1:1: workers: expected "auto" or a whole number from 1 to 1024, found 0"#],
        ),
        (
            TOP,
            r#"workers = "all""#,
            &[r#"1:1: workers: expected "auto" or a whole number from 1 to 1024, found "all""#],
        ),
        (
            TOP,
            "admin = true",
            &[r#"1:1: admin: expected a table such as { listen = "127.0.0.1:9900" }, found true"#],
        ),
        (
            TOP,
            "watch = \"yes\"",
            &[r#"1:1: watch: expected true or false, found "yes""#],
        ),
        (
            TOP,
            "[timeouts]\ndrain = \"10s\"\ndrain_spread = \"11s\"",
            &[
                r#"3:1: timeouts.drain_spread: expected a duration not longer than `drain`, found "11s""#,
            ],
        ),
        (
            TOP,
            "[admin]",
            &[
                r#"1:2: admin.listen: missing; expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080""#,
            ],
        ),
        (
            TOP,
            "[admin]\nlisten = \"127.0.0.1:9900\"\nmode = \"0600\"",
            &["3:1: admin.mode: means nothing without `unix`"],
        ),
        (
            TOP,
            "[admin]\nunix = \"a.sock\"\nmode = \"rw\"",
            &[r#"3:1: admin.mode: expected permissions such as "0600" or "0660", found "rw""#],
        ),
        (
            TOP,
            "[admin]\nunix = \"a.sock\"\ntoken_file = 3\ntoken_env = \"\"",
            &[
                r#"3:1: admin.token_file: expected a path such as "/etc/tidegate/token", found 3"#,
                r#"4:1: admin.token_env: expected the name of a variable, found """#,
            ],
        ),
        (
            TOP,
            "[admin]\nlisten = \"9900\"",
            &[
                r#"2:1: admin.listen: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found "9900""#,
            ],
        ),
        (
            TOP,
            "[admin]\nlisten = \"127.0.0.1:8080\"",
            &["4:1: listeners[0].bind: 127.0.0.1:8080 is already bound by admin.listen"],
        ),
        (
            TOP,
            r#"access_log = "stdout""#,
            &[
                r#"1:1: access_log: expected a table such as { path = "stdout" }, a list of such tables, or false, found "stdout""#,
            ],
        ),
        (
            TOP,
            "access_log = { path = 1 }",
            &[r#"1:16: access_log.path: expected "stdout", "stderr" or a path of a file, found 1"#],
        ),
        (
            TOP,
            r#"access_log = { path = "nowhere/access.log" }"#,
            &[
                r#"1:16: access_log.path: expected a path of a file, in a folder that exists, found "nowhere/access.log""#,
            ],
        ),
        (
            TOP,
            r#"access_log = { path = "stdout", format = "xml" }"#,
            &[r#"1:33: access_log.format: unknown format "xml"; known: json, text, combined"#],
        ),
        (
            TOP,
            "[limits]\nmax_header = \"1KiB\"",
            &[r#"2:1: limits.max_header: expected a size from 8KiB to 16MiB, found "1KiB""#],
        ),
        (
            TOP,
            "[limits]\nmax_header = 32768",
            &[
                r#"2:1: limits.max_header: expected a size such as "64KiB" (units: B, KiB, MiB, GiB), found 32768"#,
            ],
        ),
        (
            TOP,
            "[limits]\nmax_header = \"32KB\"",
            &[
                r#"2:1: limits.max_header: expected a size such as "64KiB" (units: B, KiB, MiB, GiB), found "32KB""#,
            ],
        ),
        (
            TOP,
            "[limits]\nmax_headers = 0",
            &["2:1: limits.max_headers: expected a whole number from 1 to 4096, found 0"],
        ),
        (
            TOP,
            "[http2]\nmax_streams = 0\nconnection_window = \"1KiB\"\nsend_buffer = \"2GiB\"",
            &[
                "2:1: http2.max_streams: expected a whole number from 1 to 65535, found 0",
                r#"3:1: http2.connection_window: expected a size from 64KiB to 1GiB, found "1KiB""#,
                r#"4:1: http2.send_buffer: expected a size from 1KiB to 1GiB, found "2GiB""#,
            ],
        ),
        (
            BIND,
            r#"+http2 = "h2c""#,
            &[r#"3:1: listeners[0].http2: expected true or false, found "h2c""#],
        ),
        (
            TOP,
            "[timeouts]\ndrain = 30",
            &[
                r#"2:1: timeouts.drain: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found 30"#,
            ],
        ),
        (
            TOP,
            "[timeouts]\nkeep_alive = \"0s\"",
            &[r#"2:1: timeouts.keep_alive: expected a duration of at least 1ms, found "0s""#],
        ),
        (
            TOP,
            "[timeouts]\nsend = \"30m1h\"",
            &[
                r#"2:1: timeouts.send: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found "30m1h""#,
            ],
        ),
    ]);
}

#[test]
fn listeners_are_explained_where_they_stand() {
    explained(&[
        (
            "[[listeners]]\nbind = \"127.0.0.1:8080\"",
            "listeners = []",
            &["1:1: listeners: expected at least one table [[listeners]] with `bind`, found none"],
        ),
        (
            "[[listeners]]",
            "[listeners]",
            &["1:2: listeners: expected a list of tables [[listeners]], found a table"],
        ),
        (
            BIND,
            "tls = false",
            &[
                r#"1:1: listeners[0].bind: missing; expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080""#,
            ],
        ),
        (
            BIND,
            r#"bind = ":8080""#,
            &[
                r#"2:1: listeners[0].bind: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found ":8080"; all addresses are "0.0.0.0:8080" and, IPv6, "[::]:8080""#,
            ],
        ),
        (
            BIND,
            r#"bind = "localhost:8080""#,
            &[
                r#"2:1: listeners[0].bind: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found "localhost:8080"; this machine is "127.0.0.1:8080" or "[::1]:8080""#,
            ],
        ),
        (
            BIND,
            r#"bind = "127.0.0.1""#,
            &[
                r#"2:1: listeners[0].bind: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found "127.0.0.1""#,
            ],
        ),
        (
            BIND,
            "bind = 8080",
            &[
                r#"2:1: listeners[0].bind: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found 8080"#,
            ],
        ),
        (
            BIND,
            r#"+tls = "yes""#,
            &[r#"3:1: listeners[0].tls: expected true or false, found "yes""#],
        ),
        (
            BIND,
            "+[[listeners]]\nbind = \"127.0.0.1:8080\"",
            &["4:1: listeners[1].bind: 127.0.0.1:8080 is already bound by listeners[0]"],
        ),
    ]);
}

#[test]
fn upstreams_are_explained_where_they_stand() {
    explained(&[
        (
            "[upstreams.chat]",
            "[[upstreams]]",
            &[
                "3:3: upstreams: expected tables [upstreams.NAME], found a list",
                r#"11:1: sites[0].routes[0].upstream: unknown upstream "chat"; there is no [upstreams.NAME] in this file"#,
            ],
        ),
        (
            "[upstreams.chat]",
            r#"[upstreams."chat room"]"#,
            &[
                r#"3:12: upstreams."chat room": expected a name of letters, digits, `-`, `_` and `.`"#,
                r#"11:1: sites[0].routes[0].upstream: unknown upstream "chat"; known: chat room"#,
            ],
        ),
        (
            ENDPOINTS,
            "endpoints = []",
            &["4:1: upstreams.chat.endpoints: expected at least one endpoint, found none"],
        ),
        (
            ENDPOINTS,
            r#"balance = "round-robin""#,
            &[
                r#"3:12: upstreams.chat.endpoints: missing; expected a list such as ["127.0.0.1:9001"]"#,
            ],
        ),
        (
            ENDPOINTS,
            r#"endpoints = ["http://127.0.0.1:9001"]"#,
            &[
                r#"4:14: upstreams.chat.endpoints[0]: invalid host in upstream: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found "http://127.0.0.1:9001"; write "127.0.0.1:9001""#,
            ],
        ),
        (
            ENDPOINTS,
            r#"endpoints = ["localhost"]"#,
            &[
                r#"4:14: upstreams.chat.endpoints[0]: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found "localhost""#,
            ],
        ),
        (
            ENDPOINTS,
            r#"endpoints = ["127.0.0.1:0"]"#,
            &[
                r#"4:14: upstreams.chat.endpoints[0]: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found "127.0.0.1:0""#,
            ],
        ),
        (
            ENDPOINTS,
            "endpoints = [9001]",
            &[
                r#"4:14: upstreams.chat.endpoints[0]: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found 9001"#,
            ],
        ),
        (
            ENDPOINTS,
            r#"endpoints = ["127.0.0.1:9001", { address = "127.0.0.1:9001", weight = 2 }]"#,
            &[
                "4:34: upstreams.chat.endpoints[1].address: 127.0.0.1:9001 is already upstreams.chat.endpoints[0]; `weight` gives an endpoint a larger share",
            ],
        ),
        (
            ENDPOINTS,
            "endpoints = [{ weight = 2 }]",
            &[
                r#"4:14: upstreams.chat.endpoints[0].address: missing; expected host:port such as "127.0.0.1:9001" or "localhost:9001""#,
            ],
        ),
        (
            ENDPOINTS,
            "endpoints = [\n  { address = \"127.0.0.1:9001\", weight = 0 },\n]",
            &[
                "5:33: upstreams.chat.endpoints[0].weight: expected a whole number of at least 1, found 0",
            ],
        ),
        (
            ENDPOINTS,
            r#"endpoints = [{ address = "127.0.0.1:9001", max_fails = -1 }]"#,
            &["4:44: upstreams.chat.endpoints[0].max_fails: expected a whole number, found -1"],
        ),
        (
            ENDPOINTS,
            r#"endpoints = [{ address = "127.0.0.1:9001", backup = true }]"#,
            &[
                "4:1: upstreams.chat.endpoints: expected at least one endpoint that is no backup, found only backups",
            ],
        ),
        (
            ENDPOINTS,
            "+keep_alive = 99999999999999999999",
            &[
                "5:1: upstreams.chat.keep_alive: expected a whole number, found 99999999999999999999",
            ],
        ),
        (
            ENDPOINTS,
            r#"+tls = "on""#,
            &[
                r#"5:1: upstreams.chat.tls: expected true, false or a table such as { ca = "ca.pem" }, found "on""#,
            ],
        ),
        (
            ENDPOINTS,
            r#"+tls = { ca = "missing.pem" }"#,
            &[
                r#"5:9: upstreams.chat.tls.ca: expected a file that can be read, found "missing.pem"; No such file or directory"#,
            ],
        ),
        (
            ENDPOINTS,
            "endpoints = [\"127.0.0.1:9001\", \"127.0.0.2:9001\"]\ntls = true",
            &[
                "5:1: upstreams.chat.tls: the endpoints have different hosts; expected `server_name`, the name that their certificates are for",
            ],
        ),
    ]);
}

#[test]
fn plugins_and_chains_are_explained_where_they_stand() {
    explained(&[
        (
            MODULE,
            "config = {}",
            &[
                r#"5:10: plugins.redact.module: missing; expected a path of a .wasm file or "builtin:NAME""#,
            ],
        ),
        (
            MODULE,
            r#"module = "missing.wasm""#,
            &[
                r#"6:1: plugins.redact.module: expected a file that can be read, found "missing.wasm"; No such file or directory"#,
            ],
        ),
        (
            MODULE,
            r#"module = "src""#,
            &[r#"6:1: plugins.redact.module: expected a file, found "src""#],
        ),
        (
            MODULE,
            r#"module = "oci://example.com/redact""#,
            &[
                r#"6:1: plugins.redact.module: expected a path of a .wasm file or "builtin:NAME", found "oci://example.com/redact"; modules from elsewhere are not supported in this release"#,
            ],
        ),
        (
            MODULE,
            r#"module = "builtin:""#,
            &[
                r#"6:1: plugins.redact.module: expected a path of a .wasm file or "builtin:NAME", found "builtin:""#,
            ],
        ),
        (
            MODULE,
            r#"+config = ["secret"]"#,
            &[
                r#"7:1: plugins.redact.config: expected a table such as { words = ["secret"] }, found a list"#,
            ],
        ),
        (
            MODULE,
            "+config = { share = nan }",
            &["7:12: plugins.redact.config.share: expected a finite number, found nan"],
        ),
        (
            MODULE,
            "+limits = { call_timeout = 5 }",
            &[
                r#"7:12: plugins.redact.limits.call_timeout: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found 5"#,
            ],
        ),
        (
            MODULE,
            r#"+limits = { memory = "1KiB" }"#,
            &[
                r#"7:12: plugins.redact.limits.memory: expected a size from 64KiB to 4GiB, found "1KiB""#,
            ],
        ),
        (
            MODULE,
            r#"+on_failure = "ignore""#,
            &[
                r#"7:1: plugins.redact.on_failure: expected "closed", "open" or a table such as { http = "closed", messages = "open" }, found "ignore""#,
            ],
        ),
        (
            MODULE,
            r#"+on_failure = { message = "open" }"#,
            &[
                r#"7:16: plugins.redact.on_failure.message: unknown key; did you mean `messages`? known here: http, messages, request, response, choose, open"#,
            ],
        ),
        (
            MODULE,
            r#"+on_failure = { http = "ignore" }"#,
            &[
                r#"7:16: plugins.redact.on_failure.http: expected "closed" or "open", found "ignore""#,
            ],
        ),
        (
            MODULE,
            "+eject = true",
            &[
                r#"7:1: plugins.redact.eject: expected "never" or a table such as { failures = 20, within = "10s" }, found true"#,
            ],
        ),
        (
            MODULE,
            "+eject = { percent = 101 }",
            &[
                "7:11: plugins.redact.eject.percent: expected a whole number of at most 100, found 101",
            ],
        ),
        (
            MODULE,
            r#"+limits = { stack = "8MiB" }"#,
            &[
                r#"7:12: plugins.redact.limits.stack: expected a size from 64KiB to 1MiB, found "8MiB""#,
            ],
        ),
        (
            MODULE,
            r#"+call = ["caht"]"#,
            &[r#"7:9: plugins.redact.call[0]: unknown upstream "caht"; did you mean "chat"?"#],
        ),
        (
            MODULE,
            r#"+call = "chat""#,
            &[
                r#"7:1: plugins.redact.call: expected a list of upstreams such as ["auth"], found "chat""#,
            ],
        ),
        (
            MODULE,
            r#"+limits = { max_calls = -1, wait_timeout = "0s" }"#,
            &[
                "7:12: plugins.redact.limits.max_calls: expected a whole number, found -1",
                r#"7:28: plugins.redact.limits.wait_timeout: expected a duration of at least 1ms, found "0s""#,
            ],
        ),
        (
            MODULE,
            r#"+swap = "now""#,
            &[
                r#"7:1: plugins.redact.swap: expected "next-message", "next-session" or a table such as { drain_by = "30s" }, found "now""#,
            ],
        ),
        (
            MODULE,
            r#"+swap = { drain_by = "soon" }"#,
            &[
                r#"7:10: plugins.redact.swap.drain_by: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found "soon""#,
            ],
        ),
        (
            MODULE,
            "+swap = {}",
            &[r#"7:1: plugins.redact.swap.drain_by: missing; expected a duration such as "30s""#],
        ),
        (
            MODULE,
            r#"+isolation = "route""#,
            &[r#"7:1: plugins.redact.isolation: expected "worker" or "session", found "route""#],
        ),
        (
            MODULE,
            "+max_instances = 20000",
            &[
                "7:1: plugins.redact.max_instances: expected a whole number from 1 to 8000, found 20000",
            ],
        ),
        (
            MODULE,
            "+snapshot_every = 0",
            &[
                r#"7:1: plugins.redact.snapshot_every: expected a number of messages from 1, or a duration such as "10s", found 0"#,
            ],
        ),
        (
            MODULE,
            r#"+snapshot_every = "often""#,
            &[
                r#"7:1: plugins.redact.snapshot_every: expected a number of messages from 1, or a duration such as "10s", found "often""#,
            ],
        ),
        (
            MODULE,
            "+canary = { window = \"soon\", by = \"user\", call_time = \"fast\", max_traps = -1 }",
            &[
                r#"7:12: plugins.redact.canary.window: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found "soon""#,
                r#"7:29: plugins.redact.canary.by: expected "session", "header:NAME" or "cookie:NAME", found "user""#,
                r#"7:42: plugins.redact.canary.call_time: expected a time such as "500us" or "2ms", found "fast""#,
                "7:62: plugins.redact.canary.max_traps: expected a whole number, found -1",
            ],
        ),
        (
            MODULE,
            "+canary = { max_closes = { 1011 = 1, 99 = 0 } }",
            &[
                "7:37: plugins.redact.canary.max_closes.99: expected a close code from 1000 to 4999 as the key",
            ],
        ),
        (
            MODULE,
            "+canary = { percent = 10 }",
            &[
                "7:12: plugins.redact.canary.percent: unknown key; known here: by, call_time, window, min_calls, max_traps, max_timeouts, slowdown, max_closes",
            ],
        ),
        (
            MODULE,
            "+shadow = { budget = 60, sample = 0 }",
            &[
                "7:12: plugins.redact.shadow.budget: expected a whole number from 1 to 50, found 60",
                "7:25: plugins.redact.shadow.sample: expected a whole number from 1 to 100, found 0",
            ],
        ),
        (
            CHAIN,
            r#"plugins = ["redacted"]"#,
            &[
                r#"12:12: sites[0].routes[0].plugins[0]: unknown plugin "redacted"; did you mean "redact"?"#,
            ],
        ),
        (
            CHAIN,
            r#"plugins = ["redact", "redact"]"#,
            &[
                r#"12:22: sites[0].routes[0].plugins[1]: "redact" is already in this chain with the same configuration"#,
            ],
        ),
        (
            CHAIN,
            "plugins = [{ config = {} }]",
            &[
                r#"12:12: sites[0].routes[0].plugins[0].name: missing; expected the name of a plugin or a table such as { name = "redact", config = {} }"#,
            ],
        ),
        (
            CHAIN,
            r#"plugins = "redact""#,
            &[
                r#"12:1: sites[0].routes[0].plugins: expected a list such as ["auth", { name = "redact", config = {} }], found "redact""#,
            ],
        ),
        (
            CHAIN,
            "plugins = [1]",
            &[
                r#"12:12: sites[0].routes[0].plugins[0]: expected the name of a plugin or a table such as { name = "redact", config = {} }, found 1"#,
            ],
        ),
    ]);
}

#[test]
fn sites_are_explained_where_they_stand() {
    explained(&[
        (
            "[[sites]]\nnames = [\"example.com\"]\n[[sites.routes]]\nmatch = \"/\"\nupstream = \"chat\"\nplugins = [\"redact\"]\n",
            "",
            &["1:1: sites: missing; expected at least one table [[sites]] with [[sites.routes]]"],
        ),
        (
            NAMES,
            r#"+listeners = ["127.0.0.1:9999"]"#,
            &[
                r#"9:14: sites[0].listeners[0]: unknown listener "127.0.0.1:9999"; known: 127.0.0.1:8080"#,
            ],
        ),
        (
            NAMES,
            "+listeners = []",
            &["9:1: sites[0].listeners: expected at least one listener, found none"],
        ),
        (
            NAMES,
            "default = false",
            &["8:1: sites[0].default: a site without `names` can only be a default site"],
        ),
        (
            NAMES,
            "+default = 1",
            &["9:1: sites[0].default: expected true or false, found 1"],
        ),
        (
            NAMES,
            r#"names = ["example.com:8080"]"#,
            &[
                r#"8:10: sites[0].names[0]: expected a host name such as "www.example.com", "*.example.com" or "www.example.*", or a pattern such as "~^www[0-9]+[.]example[.]com$", found "example.com:8080"; ports belong to `listeners`"#,
            ],
        ),
        (
            NAMES,
            r#"names = ["~^(www"]"#,
            &[
                r#"8:10: sites[0].names[0]: expected a regular expression, found "~^(www"; unclosed group"#,
            ],
        ),
        (
            NAMES,
            r#"names = ["www.*.com"]"#,
            &[
                r#"8:10: sites[0].names[0]: expected a host name such as "www.example.com", "*.example.com" or "www.example.*", or a pattern such as "~^www[0-9]+[.]example[.]com$", found "www.*.com""#,
            ],
        ),
        (
            NAMES,
            r#"names = [".example.com"]"#,
            &[
                r#"8:10: sites[0].names[0]: expected a host name such as "www.example.com", "*.example.com" or "www.example.*", or a pattern such as "~^www[0-9]+[.]example[.]com$", found ".example.com"; write "example.com", "*.example.com" for both"#,
            ],
        ),
        (
            BIND,
            "+tls = true",
            &[
                "8:1: sites[0]: expected `certificate`, found none; 127.0.0.1:8080 has `tls`, and `listeners` can keep this site off it",
            ],
        ),
        (
            NAMES,
            r#"+certificate = { chain = "missing.pem" }"#,
            &[
                "9:1: sites[0].certificate.key: missing; expected a path of a PEM file",
                r#"9:17: sites[0].certificate.chain: expected a file that can be read, found "missing.pem"; No such file or directory"#,
            ],
        ),
        (
            "names = [\"example.com\"]\n[[sites.routes]]\nmatch = \"/\"\nupstream = \"chat\"\nplugins = [\"redact\"]",
            "[[sites.routes]]\nmatch = \"/\"\nupstream = \"chat\"\nplugins = [\"redact\"]\n[[sites]]\ndefault = true\nroutes = [{ match = \"/\", upstream = \"chat\" }]",
            &[
                "12:1: sites[1]: 127.0.0.1:8080 already has a default site, sites[0]; a site without `names` is one too",
            ],
        ),
        (
            NAMES,
            "+listeners = [\"127.0.0.1:8081\"]\n[[listeners]]\nbind = \"127.0.0.1:8081\"",
            &["1:1: listeners[0]: no site answers here; add it to the `listeners` of one"],
        ),
        (
            "[[sites.routes]]\nmatch = \"/\"\nupstream = \"chat\"\nplugins = [\"redact\"]\n",
            "",
            &[
                "7:1: sites[0].routes: missing; expected at least one table [[sites.routes]] with `match`",
            ],
        ),
    ]);
}

#[test]
fn routes_are_explained_where_they_stand() {
    explained(&[
        (
            MATCH,
            r#"match = "chat""#,
            &[
                r#"10:1: sites[0].routes[0].match: expected a path such as "/chat" or "= /chat" (exact) or "^~ /chat" (before patterns), or a pattern such as "~ [.]png$" or "~* [.]png$" (any case), found "chat""#,
            ],
        ),
        (
            MATCH,
            r#"match = "@named""#,
            &[
                r#"10:1: sites[0].routes[0].match: expected a path such as "/chat" or "= /chat" (exact) or "^~ /chat" (before patterns), or a pattern such as "~ [.]png$" or "~* [.]png$" (any case), found "@named""#,
            ],
        ),
        (
            MATCH,
            r#"match = "~ (""#,
            &[
                r#"10:1: sites[0].routes[0].match: expected a regular expression, found "~ ("; unclosed group"#,
            ],
        ),
        (
            MATCH,
            "# none",
            &[
                r#"9:1: sites[0].routes[0].match: missing; expected a path such as "/chat" or "= /chat" (exact) or "^~ /chat" (before patterns), or a pattern such as "~ [.]png$" or "~* [.]png$" (any case)"#,
            ],
        ),
        (
            CHAIN,
            "[[sites.routes]]\nmatch = \"^~ /\"\nupstream = \"chat\"",
            &[r#"13:1: sites[0].routes[1].match: "^~ /" is already matched by sites[0].routes[0]"#],
        ),
        (
            UPSTREAM,
            "",
            &[
                "9:1: sites[0].routes[0]: expected one of `upstream`, `url`, `files`, `respond` and `redirect`, found none",
            ],
        ),
        (
            UPSTREAM,
            r#"+url = "http://127.0.0.1:9010""#,
            &[
                "12:1: sites[0].routes[0].url: this route already has `upstream`; expected only one of `upstream`, `url`, `files`, `respond` and `redirect`",
            ],
        ),
        (
            UPSTREAM,
            r#"+files = "/srv""#,
            &[
                "12:1: sites[0].routes[0].files: this route already has `upstream`; expected only one of `upstream`, `url`, `files`, `respond` and `redirect`",
            ],
        ),
        (
            UPSTREAM,
            r#"upstream = "chta""#,
            &[
                r#"11:1: sites[0].routes[0].upstream: unknown upstream "chta"; did you mean "chat"?"#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "127.0.0.1:9010""#,
            &[
                r#"11:1: sites[0].routes[0].url: expected a URL such as "http://localhost:9010", found "127.0.0.1:9010""#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "ws://127.0.0.1:9010""#,
            &[
                r#"11:1: sites[0].routes[0].url: expected a URL such as "http://localhost:9010", found "ws://127.0.0.1:9010"; a WebSocket begins as HTTP: write "http://127.0.0.1:9010""#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "http://127.0.0.1:9010/ver?x=1""#,
            &[
                r#"11:1: sites[0].routes[0].url: expected a URL such as "http://localhost:9010", found "http://127.0.0.1:9010/ver?x=1"; requests bring their own query"#,
            ],
        ),
        (
            MATCH,
            "match = \"~ ^/a\"\nreplace_prefix = \"/b\"",
            &[
                "11:1: sites[0].routes[0].replace_prefix: a route with a pattern has no prefix to replace; leave out the path",
            ],
        ),
        (
            "match = \"/\"\nupstream = \"chat\"",
            "match = \"~ ^/a\"\nurl = \"http://127.0.0.1:9010/\"",
            &[
                "11:1: sites[0].routes[0].url: a route with a pattern has no prefix to replace; leave out the path",
            ],
        ),
        (
            UPSTREAM,
            "url = \"http://127.0.0.1:9010/\"\nreplace_prefix = \"/b\"",
            &[
                "12:1: sites[0].routes[0].replace_prefix: has an effect only beside `upstream`; a `url` has its path at its end",
            ],
        ),
        (
            UPSTREAM,
            r#"+replace_prefix = "b""#,
            &[
                r#"12:1: sites[0].routes[0].replace_prefix: expected a path such as "/app/", found "b""#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "http://chat/a""#,
            &[
                r#"11:1: sites[0].routes[0].url: "chat" is an upstream of this file; write `upstream = "chat"` and `replace_prefix = "/a"`"#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "http://$host""#,
            &[
                r#"11:1: sites[0].routes[0].url: expected a URL such as "http://localhost:9010", found "http://$host"; variables in it are not supported in this release"#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = """#,
            &[
                r#"11:1: sites[0].routes[0].url: expected a URL such as "http://localhost:9010", found """#,
            ],
        ),
        (
            UPSTREAM,
            r#"url = "http://chat""#,
            &[
                r#"11:1: sites[0].routes[0].url: "chat" is an upstream of this file; write `upstream = "chat"`"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { Content-Length = "0" }"#,
            &[
                "12:17: sites[0].routes[0].set_headers.Content-Length: the proxy sets this field itself, as the body requires",
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { TE = "trailers" }"#,
            &[
                "12:17: sites[0].routes[0].set_headers.TE: this field concerns one connection only and is never passed on (RFC 9110 §7.6.1)",
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { "X Y" = "1" }"#,
            &[
                r#"12:17: sites[0].routes[0].set_headers."X Y": expected the name of a header field, of letters, digits and `-`"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { X-Mode = "a\nb" }"#,
            &[
                r#"12:17: sites[0].routes[0].set_headers.X-Mode: expected text that a header field can carry, without line breaks, found "a\nb""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { X-Mode = "$hots" }"#,
            &[
                r#"12:17: sites[0].routes[0].set_headers.X-Mode: unknown variable `$hots`; did you mean `$host`? (in "$hots")"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { X-Price = "5$" }"#,
            &[
                r#"12:17: sites[0].routes[0].set_headers.X-Price: a `$` without a name behind it; write `$$` for a dollar (in "5$")"#,
            ],
        ),
        (
            UPSTREAM,
            "+set_headers = { X-Mode = 1 }",
            &[
                r#"12:17: sites[0].routes[0].set_headers.X-Mode: expected text such as "$host:$server_port", found 1"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { X-Mode = "1", x-mode = "2" }"#,
            &[
                "12:31: sites[0].routes[0].set_headers.x-mode: this field is already in this table; case makes no difference",
            ],
        ),
        (
            UPSTREAM,
            r#"+set_headers = { Host = "" }"#,
            &[
                "12:17: sites[0].routes[0].set_headers.Host: a request without `Host` is not valid (RFC 9112 §3.2)",
            ],
        ),
        (
            UPSTREAM,
            r#"+upgrade = ["websocket", "h2c"]"#,
            &[
                "12:25: sites[0].routes[0].upgrade[1]: h2c cannot be switched to: requests in such a tunnel would pass all routes unseen",
            ],
        ),
        (
            UPSTREAM,
            r#"+upgrade = ["web socket"]"#,
            &[
                r#"12:12: sites[0].routes[0].upgrade[0]: expected a protocol such as "websocket", found "web socket""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+upgrade = "websocket""#,
            &[
                r#"12:1: sites[0].routes[0].upgrade: expected a list of protocols such as ["websocket"], found "websocket""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { ping_interval = 20 }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.ping_interval: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), or a table such as { client = "20s" }, found 20"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { ping_interval = { servce = "20s" } }"#,
            &[
                "12:33: sites[0].routes[0].websocket.ping_interval.servce: unknown key; did you mean `service`? known here: client, service",
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { ping_timeout = "5s" }"#,
            &[
                "12:15: sites[0].routes[0].websocket.ping_timeout: has no effect without `ping_interval`",
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { max_age_jitter = "1m" }"#,
            &[
                "12:15: sites[0].routes[0].websocket.max_age_jitter: has no effect without `max_age`",
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { max_age = "1m", max_age_jitter = "2m" }"#,
            &[
                r#"12:31: sites[0].routes[0].websocket.max_age_jitter: expected at most `max_age`, found "2m""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { max_age = "0s" }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.max_age: expected a duration of at least 1ms, found "0s""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { handshake = "relaxed" }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.handshake: expected "strict", "lenient" or "off", found "relaxed""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { origins = [] }"#,
            &[
                "12:15: sites[0].routes[0].websocket.origins: expected at least one origin, found none; without `origins` all are allowed",
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { origins = ["https://a.example.com", "a.example.com", "null"] }"#,
            &[
                r#"12:51: sites[0].routes[0].websocket.origins[1]: expected an origin such as "https://app.example.com" or "https://*.example.com", found "a.example.com""#,
                r#"12:68: sites[0].routes[0].websocket.origins[2]: expected an origin such as "https://app.example.com" or "https://*.example.com", found "null""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { max_message = "0B" }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.max_message: expected a size of at least 1B, found "0B""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { oversize = "drop" }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.oversize: expected "close", "pass" or "close-unseen", found "drop""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+websocket = { compression = true }"#,
            &[
                r#"12:15: sites[0].routes[0].websocket.compression: expected "both", "client", "service" or "off", found true"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+timeouts = { connect = "5" }"#,
            &[
                r#"12:14: sites[0].routes[0].timeouts.connect: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found "5""#,
            ],
        ),
        (
            UPSTREAM,
            "+max_body = 0",
            &[
                r#"12:1: sites[0].routes[0].max_body: expected a size such as "64KiB" (units: B, KiB, MiB, GiB), found 0"#,
            ],
        ),
        (
            UPSTREAM,
            "respond = { status = 101 }",
            &[
                "11:13: sites[0].routes[0].respond.status: expected a whole number from 200 to 599, found 101",
            ],
        ),
        (
            UPSTREAM,
            r#"respond = { status = 204, body = "x" }"#,
            &["11:27: sites[0].routes[0].respond.body: a response with status 204 has no body"],
        ),
        (
            UPSTREAM,
            "respond = {}\nset_headers = { X-Mode = \"1\" }",
            &["12:1: sites[0].routes[0].set_headers: has no effect on a route with `respond`"],
        ),
        (
            UPSTREAM,
            r#"respond = "no""#,
            &[
                r#"11:1: sites[0].routes[0].respond: expected a table such as { status = 204 }, found "no""#,
            ],
        ),
    ]);
}

#[test]
fn all_problems_of_a_file_are_reported_at_once_in_its_order() {
    let text = r#"worker = 2
[limits]
max_uri = "big"
[[listeners]]
bind = "8080"
[upstreams.chat]
endpoints = [
  { address = "127.0.0.1:9001", weight = 0, wieght = 1 },
  "http://127.0.0.1:9002",
]
[[sites]]
[[sites.routes]]
match = "/"
upstream = "caht"
timeouts = { connect = 5, reed = "1s" }
"#;
    let expected = r#"
tidegate.toml:1:1: worker: unknown key; did you mean `workers`?
tidegate.toml:3:1: limits.max_uri: expected a size such as "64KiB" (units: B, KiB, MiB, GiB), found "big"
tidegate.toml:5:1: listeners[0].bind: expected an IP address and port such as "127.0.0.1:8080" or "[::1]:8080", found "8080"
tidegate.toml:8:33: upstreams.chat.endpoints[0].weight: expected a whole number of at least 1, found 0
tidegate.toml:8:45: upstreams.chat.endpoints[0].wieght: unknown key; did you mean `weight`? known here: address, weight, max_fails, fail_timeout, max_connections, slow_start, backup, down
tidegate.toml:9:3: upstreams.chat.endpoints[1]: invalid host in upstream: expected host:port such as "127.0.0.1:9001" or "localhost:9001", found "http://127.0.0.1:9002"; write "127.0.0.1:9002"
tidegate.toml:14:1: sites[0].routes[0].upstream: unknown upstream "caht"; did you mean "chat"?
tidegate.toml:15:14: sites[0].routes[0].timeouts.connect: expected a duration such as "15s" or "1h30m" (units: ms, s, m, h, d), found 5
tidegate.toml:15:27: sites[0].routes[0].timeouts.reed: unknown key; did you mean `read`? known here: connect, send, read"#;
    assert_eq!(parse(text).unwrap_err().to_string(), expected.trim_start());
}

#[test]
fn an_empty_file_says_what_a_file_must_have() {
    assert_eq!(
        parse("").unwrap_err().to_string(),
        "tidegate.toml:1:1: listeners: missing; expected at least one table [[listeners]] with `bind`\n\
         tidegate.toml:1:1: sites: missing; expected at least one table [[sites]] with [[sites.routes]]"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("no/such/tidegate.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no/such/tidegate.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn what_looks_like_a_variable_is_a_warning() {
    let text = with(
        UPSTREAM,
        r#"+set_headers = { Host = "host", X-A = "http_upgrade", X-B = "$host" }"#,
    );
    let warnings: Vec<_> = parse(&text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            r#"tidegate.toml:12:17: sites[0].routes[0].set_headers.Host: "host" is sent as it is; did you mean "$host"?"#,
            r#"tidegate.toml:12:32: sites[0].routes[0].set_headers.X-A: "http_upgrade" is sent as it is; did you mean "$http_upgrade"?"#,
        ]
    );
}

#[test]
fn pings_beside_an_idle_timeout_that_nobody_chose_are_a_warning() {
    let warnings = |keys: &str| {
        let loaded = parse(&with(UPSTREAM, keys)).unwrap();
        let warnings = loaded.warnings.iter().map(ToString::to_string);
        warnings.collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(r#"+websocket = { ping_interval = "20s" }"#),
        [
            "tidegate.toml:12:15: sites[0].routes[0].websocket.ping_interval: pings do not keep a session open in which nobody says anything; how long such a one may last is for `idle_timeout` to say, which is 60s now",
        ]
    );
    for keys in [
        r#"+websocket = { ping_interval = "20s", idle_timeout = "60s" }"#,
        "+websocket = { ping_interval = \"20s\" }\ntimeouts = { read = \"1h\" }",
    ] {
        assert_eq!(warnings(keys), [""; 0], "{keys}");
    }
}

#[test]
fn a_name_that_is_taken_is_a_warning() {
    let text = with(
        NAMES,
        r#"names = ["Example.com", "example.com", "~^a", "~^a"]"#,
    ) + "[[sites]]\nnames = [\"example.com\"]\nroutes = [{ match = \"/\", upstream = \"chat\" }]";
    let warnings: Vec<_> = parse(&text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            r#"tidegate.toml:8:25: sites[0].names[1]: has no effect: "example.com" is already a name of sites[0] on 127.0.0.1:8080"#,
            r#"tidegate.toml:8:47: sites[0].names[3]: has no effect: "~^a" is already a name of sites[0] on 127.0.0.1:8080"#,
            r#"tidegate.toml:14:10: sites[1].names[0]: has no effect: "example.com" is already a name of sites[0] on 127.0.0.1:8080"#,
        ]
    );
}

#[test]
fn maps_and_formats_are_explained_where_they_stand() {
    explained(&[
        (
            TOP,
            "[maps.host]\nsource = \"$uri\"",
            &["1:7: maps.host: `$host` is a variable already"],
        ),
        (
            TOP,
            "[maps.a-b]\nsource = \"$host\"",
            &["1:7: maps.a-b: expected a name of letters, digits and `_`, without the dollar"],
        ),
        (
            TOP,
            "[maps.upgrade]\ndefault = \"close\"",
            &[r#"1:7: maps.upgrade.source: missing; expected text such as "$http_upgrade""#],
        ),
        (
            TOP,
            "[maps.a]\nsource = \"$b\"\n[maps.b]\nsource = \"$c\"\n[maps.c]\nsource = \"x\"\ndefault = \"$b\"",
            &[
                "3:7: maps.b: depends on itself: $b → $c → $b",
                "5:7: maps.c: depends on itself: $c → $b → $c",
            ],
        ),
        (
            TOP,
            "[maps.a]\nsource = \"$hots\"\nvalues = { \"~(\" = \"x\", \"~x\" = \"$1\", A = 1, a = \"2\" }",
            &[
                r#"2:1: maps.a.source: unknown variable `$hots`; did you mean `$host`? (in "$hots")"#,
                r#"3:12: maps.a.values."~(": expected a regular expression, found "x"; unclosed group"#,
                r#"3:24: maps.a.values."~x": `$1` means a group of a pattern, and there is none here (in "$1")"#,
                "3:37: maps.a.values.A: expected text, which may have variables, found 1",
                "3:44: maps.a.values.a: this text is already in this table; case makes no difference",
            ],
        ),
        (
            TOP,
            "[log_formats]\ncombined = \"$status\"\nmain = \"$stauts\"\nother = { escape = \"url\" }",
            &[
                "2:1: log_formats.combined: is a format that every file has; expected another name",
                r#"3:1: log_formats.main: unknown variable `$stauts`; did you mean `$status`? (in "$stauts")"#,
                r#"4:1: log_formats.other.line: missing; expected text such as "$remote_addr $status""#,
                r#"4:11: log_formats.other.escape: expected "hex", "json" or "off", found "url""#,
            ],
        ),
        (
            UPSTREAM,
            "+access_log = { path = \"stdout\", format = \"combind\" }",
            &[
                r#"12:33: sites[0].routes[0].access_log.format: unknown format "combind"; did you mean "combined"?"#,
            ],
        ),
    ]);
}

#[test]
fn what_routes_add_and_rewrite_is_explained_where_it_stands() {
    explained(&[
        (
            UPSTREAM,
            r#"+set_headers = { X-Status = "$status" }"#,
            &[
                r#"12:17: sites[0].routes[0].set_headers.X-Status: `$status` is not known before the response, in `add_headers` and access logs (in "$status")"#,
            ],
        ),
        (
            UPSTREAM,
            r#"+add_headers = { X-Sent = "$bytes_sent", Content-Length = "1", X-A = 1, X-B = {} }"#,
            &[
                r#"12:17: sites[0].routes[0].add_headers.X-Sent: `$bytes_sent` is known only at the end, for access logs (in "$bytes_sent")"#,
                "12:41: sites[0].routes[0].add_headers.Content-Length: the proxy sets this field itself, as the body requires",
                r#"12:63: sites[0].routes[0].add_headers.X-A: expected text, a table such as { value = "DENY", always = true }, or a list of these, found 1"#,
                r#"12:72: sites[0].routes[0].add_headers.X-B.value: missing; expected text such as "DENY""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+rewrite_location = "on""#,
            &[
                r#"12:1: sites[0].routes[0].rewrite_location: expected "default", "off" or a list of tables such as { from = "http://localhost:8000/", to = "/" }, found "on""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+rewrite_location = [{ from = "~ (a", to = "$1" }, { from = "" }]"#,
            &[
                r#"12:23: sites[0].routes[0].rewrite_location[0].from: expected a regular expression, found "~ (a"; unclosed group"#,
                r#"12:38: sites[0].routes[0].rewrite_location[0].to: `$1` means a group of a pattern, and there is none here (in "$1")"#,
                "12:51: sites[0].routes[0].rewrite_location[1].to: missing; expected text, which may have variables",
                r#"12:53: sites[0].routes[0].rewrite_location[1].from: expected text, or a pattern such as "~ ^http://[^/]+/", found """#,
            ],
        ),
        (
            UPSTREAM,
            r#"+hide_headers = ["X Y"]"#,
            &[
                r#"12:17: sites[0].routes[0].hide_headers[0]: expected the name of a header field, of letters, digits and `-`, found "X Y""#,
            ],
        ),
        (
            UPSTREAM,
            r#"+retry = { on = ["errors", 200, 502], tries = -1 }"#,
            &[
                r#"12:17: sites[0].routes[0].retry.on[0]: expected "error", "timeout", "invalid-response" or a status from 400 to 599, found "errors""#,
                r#"12:27: sites[0].routes[0].retry.on[1]: expected "error", "timeout", "invalid-response" or a status from 400 to 599, found 200"#,
                "12:38: sites[0].routes[0].retry.tries: expected a whole number, found -1",
            ],
        ),
        (
            UPSTREAM,
            r#"redirect = { status = 200, to = "/x" }"#,
            &[
                "11:14: sites[0].routes[0].redirect.status: expected 301, 302, 303, 307 or 308, found 200",
            ],
        ),
        (
            UPSTREAM,
            r#"redirect = """#,
            &[
                r#"11:1: sites[0].routes[0].redirect: expected where to, such as "https://$host$request_uri", or a table such as { status = 301, to = "https://$host$request_uri" }, found """#,
            ],
        ),
        (
            UPSTREAM,
            r#"redirect = "/$1""#,
            &[
                r#"11:1: sites[0].routes[0].redirect: `$1` means a group of a pattern, and there is none here (in "/$1")"#,
            ],
        ),
    ]);
}

#[test]
fn what_nothing_uses_is_a_warning() {
    let text = BASE.replace(
        "[plugins.redact]",
        "[upstreams.b]\nendpoints = [\"127.0.0.1:1\"]\n[plugins.redact]",
    );
    let text = text.replace(CHAIN, "").replace(
        NAMES,
        r#"certificate = { chain = "Cargo.toml", key = "Cargo.toml" }"#,
    );
    let warnings: Vec<_> = parse(&text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "tidegate.toml:5:12: upstreams.b: no route uses this upstream",
            "tidegate.toml:7:10: plugins.redact: no route uses this plugin",
            "tidegate.toml:9:1: sites[0]: `certificate` has no effect: no listener of this site has `tls`",
        ]
    );
}

#[test]
fn an_admin_listener_that_others_can_reach_without_a_token_is_a_warning() {
    let warnings = |admin: &str| {
        let text = format!(
            "[admin]\n{admin}\n[[listeners]]\nbind = \"127.0.0.1:0\"\n[[sites]]\n[[sites.routes]]\nmatch = \"/\"\nrespond = {{ status = 204 }}\n"
        );
        let loaded = Config::parse(&text, Path::new("f")).unwrap();
        loaded.warnings.len()
    };
    assert_eq!(warnings("listen = \"0.0.0.0:9900\""), 1);
    for fine in [
        "listen = \"0.0.0.0:9900\"\ntoken_env = \"A\"",
        "listen = \"[::1]:9900\"",
        "unix = \"a.sock\"\nmode = \"0660\"",
    ] {
        assert_eq!(warnings(fine), 0, "{fine}");
    }
}
