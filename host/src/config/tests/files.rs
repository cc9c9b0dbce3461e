//! Routes that serve files: what their settings mean, and what is said of those that cannot be used.

use http::StatusCode;

use super::problems::explained;
use super::*;
use crate::config::template::Template;
use crate::config::{
    Action, Base, Coding, Expires, Files, IfModifiedSince, Otherwise, Problem, Symlinks,
};

fn files(line: &str) -> Files {
    let config = config(&with(UPSTREAM, line));
    let Action::Files(files) = &config.sites[0].routes[0].action else {
        panic!("no files: {line}")
    };
    Files::clone(files)
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

#[test]
fn a_text_is_a_root_and_the_rest_has_its_default() {
    let files = files(r#"files = "/$host""#);
    assert_eq!(files.base, Base::Root(template("/$host")));
    assert_eq!(files.index, ["index.html"]);
    assert_eq!(files.tries, None);
    assert!(files.types.is_empty());
    assert_eq!(files.default_type, "application/octet-stream");
    assert_eq!(files.charset, None);
    assert!(files.precompressed.is_empty());
    assert_eq!(files.symlinks, Symlinks::Follow);
    assert_eq!(files.if_modified_since, IfModifiedSince::Exact);
}

#[test]
fn a_table_says_the_rest() {
    let files = files(
        r#"files = { alias = "/$host", index = ["a.htm", "b.htm"], try = ["$uri", "$uri/", "=410"],
        types = { LOG = "text/plain; x=y" }, default_type = "text/plain", charset = "utf-8",
        precompressed = ["br", "gzip"], symlinks = "within", if_modified_since = "before" }"#,
    );
    assert_eq!(files.base, Base::Alias(template("/$host")));
    assert_eq!(files.index, ["a.htm", "b.htm"]);
    let tries = files.tries.unwrap();
    let paths: Vec<_> = tries
        .paths
        .iter()
        .map(|item| (item.path.clone(), item.folder))
        .collect();
    let uri = template("$uri");
    assert_eq!(paths, [(uri.clone(), false), (uri, true)]);
    assert_eq!(tries.otherwise, Otherwise::Status(StatusCode::GONE));
    assert_eq!(files.types["log"], "text/plain; x=y");
    assert_eq!(files.default_type, "text/plain");
    assert_eq!(files.charset.as_deref(), Some("utf-8"));
    assert_eq!(files.precompressed, [Coding::Brotli, Coding::Gzip]);
    assert_eq!(files.symlinks, Symlinks::Within);
    assert_eq!(files.if_modified_since, IfModifiedSince::Before);
}

#[test]
fn a_relative_root_begins_in_the_folder_of_the_file() {
    let text = with(UPSTREAM, r#"files = "www/$host""#);
    let root = |file: &str| {
        let loaded = Config::parse(&text, Path::new(file)).unwrap();
        match &loaded.config.sites[0].routes[0].action {
            Action::Files(files) => files.base.clone(),
            other => panic!("{other:?}"),
        }
    };
    let expected = |text| Base::Root(template(text));
    assert_eq!(root("/etc/tidegate.toml"), expected("/etc/www/$host"));
    assert_eq!(root("tidegate.toml"), expected("./www/$host"));
    assert_eq!(root("/cost$/tidegate.toml"), expected("/cost$$/www/$host"));
}

#[test]
fn expires_counts_seconds() {
    let after = |seconds, modified| Expires::After { seconds, modified };
    for (text, expected) in [
        ("off", Expires::Off),
        ("epoch", Expires::Epoch),
        ("max", Expires::Max),
        ("30d", after(2_592_000, false)),
        ("1h30m", after(5400, false)),
        ("0s", after(0, false)),
        ("-1s", after(-1, false)),
        ("modified 1d", after(86_400, true)),
        ("modified -1d", after(-86_400, true)),
    ] {
        let config = config(&with(UPSTREAM, &format!("+expires = {text:?}")));
        assert_eq!(
            config.sites[0].routes[0].settings.expires, expected,
            "{text}"
        );
    }
    assert_eq!(
        config(BASE).sites[0].routes[0].settings.expires,
        Expires::Off
    );
}

#[test]
fn files_are_explained_where_they_stand() {
    explained(&[
        (
            UPSTREAM,
            "files = true",
            &[
                r#"11:1: sites[0].routes[0].files: expected a folder such as "/srv/www", or a table with `root` or `alias`, found true"#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = """#,
            &[
                r#"11:1: sites[0].routes[0].files: expected a folder such as "/srv/www", or a table with `root` or `alias`, found """#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = "/dev/null""#,
            &[
                r#"11:1: sites[0].routes[0].files: expected a folder such as "/srv/www", or a table with `root` or `alias`, found "/dev/null""#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = "/srv/$hots""#,
            &[
                r#"11:1: sites[0].routes[0].files: unknown variable `$hots`; did you mean `$host`? (in "/srv/$hots")"#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = { index = ["a/b", "", ".."] }"#,
            &[
                "11:1: sites[0].routes[0].files: expected one of `root` and `alias`, found none",
                r#"11:20: sites[0].routes[0].files.index[0]: expected the name of a file such as "index.html", found "a/b""#,
                r#"11:27: sites[0].routes[0].files.index[1]: expected the name of a file such as "index.html", found """#,
                r#"11:31: sites[0].routes[0].files.index[2]: expected the name of a file such as "index.html", found "..""#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", alias = "/" }"#,
            &[
                "11:23: sites[0].routes[0].files.alias: expected one of `root` and `alias`, found both",
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", autoindex = true }"#,
            &[
                "11:23: sites[0].routes[0].files.autoindex: unknown key; known here: root, alias, index, try, types, default_type, charset, precompressed, symlinks, if_modified_since",
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", try = ["$uri"] }"#,
            &[
                r#"11:23: sites[0].routes[0].files.try: expected a list such as ["$uri", "$uri/", "/index.html"] or ["$uri", "=404"], found a list; the last one is served if no other exists"#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", try = ["index.html", "=200"] }"#,
            &[
                r#"11:30: sites[0].routes[0].files.try[0]: expected a path such as "$uri" or "/index.html", found "index.html""#,
                r#"11:44: sites[0].routes[0].files.try[1]: expected a status from "=400" to "=599", found "=200""#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", try = ["$uri", "@app"] }"#,
            &[
                r#"11:38: sites[0].routes[0].files.try[1]: expected a path such as "/index.html" or a status such as "=404", found "@app""#,
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", types = { ".js" = "text/javascript", js = "javascript", htm = "a/b", HTM = "a/b" } }"#,
            &[
                "11:33: sites[0].routes[0].files.types.\".js\": expected an extension without its dot, such as `html`",
                r#"11:60: sites[0].routes[0].files.types.js: expected a media type such as "text/html", found "javascript""#,
                "11:92: sites[0].routes[0].files.types.HTM: this extension is already in this table; case makes no difference",
            ],
        ),
        (
            UPSTREAM,
            r#"files = { root = "/", precompressed = ["gz", "br", "br"], charset = "utf 8", symlinks = "no" }"#,
            &[
                r#"11:40: sites[0].routes[0].files.precompressed[0]: expected "br" or "gzip", found "gz""#,
                r#"11:52: sites[0].routes[0].files.precompressed[2]: "br" is already in this list"#,
                r#"11:59: sites[0].routes[0].files.charset: expected a charset such as "utf-8", found "utf 8""#,
                r#"11:78: sites[0].routes[0].files.symlinks: expected "follow", "deny" or "within", found "no""#,
            ],
        ),
        (
            UPSTREAM,
            "files = \"/\"\nset_headers = { A = \"b\" }",
            &["12:1: sites[0].routes[0].set_headers: has no effect on a route with `files`"],
        ),
        (
            UPSTREAM,
            r#"+expires = "30""#,
            &[
                r#"12:1: sites[0].routes[0].expires: expected a duration such as "30d", "-1s" or "modified 30d", or "epoch", "max" or "off", found "30""#,
            ],
        ),
    ]);
}

#[test]
fn a_root_that_does_not_exist_is_a_warning() {
    let warnings = |line: &str| {
        let warnings = parse(&with(UPSTREAM, line)).unwrap().warnings;
        let of_files = |problem: &Problem| problem.key.contains(".files");
        let texts = warnings.iter().filter(|problem| of_files(problem));
        texts
            .map(|problem| problem.text.clone())
            .collect::<Vec<_>>()
    };
    let expected =
        "\"/does not/exist\" does not exist; requests are answered with 404 until it does";
    assert_eq!(warnings(r#"files = "/does not/exist""#), [expected]);
    assert_eq!(
        warnings(r#"files = { alias = "/does not/exist" }"#),
        [expected]
    );
    assert_eq!(warnings(r#"files = "/""#), [""; 0]);
    // Nobody knows yet what this will be.
    assert_eq!(warnings(r#"files = "/does not/exist/$host""#), [""; 0]);
}
