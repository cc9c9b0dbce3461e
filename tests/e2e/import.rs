//! `tidegate import`: what it prints and writes, and that the published set-ups become what they should.

use std::process::Output;

use serde_json::Value;

use crate::harness::{Folder, check, command};

const SMALL: &str =
    "server {\n  listen 127.0.0.1:8080;\n  location / { proxy_pass http://127.0.0.1:9001; }\n}\n";

#[test]
fn the_configuration_goes_to_standard_output_and_the_report_to_standard_error() {
    let folder = Folder::new();
    folder.write("nginx.conf", SMALL);
    let output = import(&folder, &["nginx.conf"]);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("[[sites.routes]]"), "{output:?}");
    check(&stdout(&output)).unwrap();
    assert!(
        stderr(&output).ends_with("directives translated\n"),
        "{output:?}"
    );
}

#[test]
fn what_is_imported_passes_check_and_goes_into_a_file() {
    let folder = Folder::new();
    folder.write("nginx.conf", SMALL);
    let output = import(&folder, &["nginx.conf", "-o", "tidegate.toml"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output), "");
    check(&folder.read("tidegate.toml")).unwrap();
}

#[test]
fn nothing_is_written_if_something_cannot_be_kept() {
    let folder = Folder::new();
    folder.write("nginx.conf", format!("gzip on;\n{SMALL}"));
    folder.write("tidegate.toml", "as it was");
    let output = import(&folder, &["nginx.conf", "-o", "tidegate.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).starts_with("nginx.conf:1: gzip: its meaning cannot be kept; "));
    assert!(stderr(&output).ends_with("1 error; nothing is written\n"));
    assert_eq!(folder.read("tidegate.toml"), "as it was");
}

#[test]
fn an_operator_may_say_what_can_be_left_out() {
    let folder = Folder::new();
    folder.write("nginx.conf", format!("gzip on;\nquantum leap;\n{SMALL}"));
    let drop = ["--drop", "gzip", "--drop", "quantum", "nginx.conf"];
    let output = import(&folder, &drop);
    assert!(output.status.success(), "{output:?}");
    let written = stdout(&output);
    for line in [
        "# left out: gzip on (left out because --drop names it)",
        "# left out: quantum leap (left out because --drop names it)",
    ] {
        assert!(written.contains(line), "{written}");
    }
    assert!(stderr(&output).contains("nginx.conf:1: gzip on: left out because --drop names it"));
}

#[test]
fn files_may_be_fragments_for_the_http_block_and_more_than_one() {
    let folder = Folder::new();
    folder.write("chat.conf", "upstream chat { server 127.0.0.1:9001; }\n");
    folder.write(
        "site.conf",
        "server { location / { proxy_pass http://chat; } }\n",
    );
    let output = import(&folder, &["chat.conf", "site.conf"]);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("[upstreams.chat]"));
    assert!(stdout(&output).contains("upstream = \"chat\""));
}

#[test]
fn the_report_for_scripts_has_place_and_reason_of_everything() {
    let folder = Folder::new();
    folder.write("nginx.conf", format!("sendfile on;\n{SMALL}"));
    let report = json(&import(&folder, &["--json", "nginx.conf"]));
    assert_eq!(report["ok"], true);
    assert_eq!(report["dropped"][0]["file"], "nginx.conf");
    assert_eq!(report["dropped"][0]["line"], 1);
    assert_eq!(report["dropped"][0]["directive"], "sendfile on");
    assert!(report["dropped"][0]["reason"].is_string());
    let translated = report["translated"].as_array().unwrap();
    assert!(
        translated
            .iter()
            .any(|note| note["key"] == "url" && note["line"] == 4)
    );
    assert!(!report["defaults"].as_array().unwrap().is_empty());

    folder.write("nginx.conf", format!("gzip on;\n{SMALL}"));
    let report = json(&import(&folder, &["--json", "nginx.conf"]));
    assert_eq!(report["ok"], false);
    assert_eq!(report["errors"][0]["line"], 1);
    assert_eq!(report["errors"][0]["problem"], "its meaning cannot be kept");
    assert!(report["errors"][0]["suggestion"].is_string());
}

#[test]
fn a_certificate_that_is_missing_is_told_of_the_line_that_names_it() {
    let folder = Folder::new();
    let server = "server {\n  listen 443 ssl;\n  ssl_certificate no.pem;\n  ssl_certificate_key no.key;\n  \
                  location / { return 204; }\n}\n";
    folder.write("nginx.conf", server);
    let output = import(&folder, &["nginx.conf"]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.starts_with("nginx.conf:3: sites[0].certificate.chain: "),
        "{error}"
    );
    assert!(error.contains("no.pem"), "{error}");
}

#[test]
fn set_up_4_as_it_was_printed_is_told_what_it_lost() {
    let folder = Folder::new();
    folder.write("s4.conf", include_str!("../../host/examples/s4.conf"));
    let output = import(&folder, &["s4.conf"]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    for line in [
        "s4.conf:8: proxy_pass: expected 1 argument, found none; write the service's address: proxy_pass http://127.0.0.1:9001;",
        "s4.conf:10: proxy_set_header: \"http_upgrade\" would be sent as it is; its `$` is lost; write $http_upgrade",
        "s4.conf:12: proxy_set_header: \"host\" would be sent as it is; its `$` is lost; write $host",
        "3 errors; nothing is written",
    ] {
        assert!(error.contains(line), "{error}");
    }
}

#[test]
fn set_up_1_with_urls_in_a_group_is_told_to_leave_the_scheme_out() {
    let folder = Folder::new();
    folder.write(
        "s1.conf",
        include_str!("../../host/examples/s1-default-server.conf"),
    );
    let output = import(&folder, &["s1.conf"]);
    assert_eq!(output.status.code(), Some(1));
    for (line, port) in [(4, 8080), (5, 8081)] {
        let expected = format!(
            "s1.conf:{line}: server: invalid host in upstream \"http://localhost:{port}\": http:// \
             belongs to `proxy_pass`; write server localhost:{port};"
        );
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
}

fn import(folder: &Folder, arguments: &[&str]) -> Output {
    let mut import = command();
    import.arg("import").args(arguments);
    import.current_dir(folder.path()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
