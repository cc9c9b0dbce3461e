//! What an operator meets before the first request: arguments, errors of the file, exit codes.

use std::process::Output;

use crate::harness::{Folder, Process, Tidegate, check, command, one_listener};

const RESPOND: &str = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";

#[test]
fn a_correct_file_is_ok() {
    let folder = Folder::new();
    let file = folder.write("tidegate.toml", one_listener(RESPOND));
    let output = command().arg("check").arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output), format!("{}: ok\n", file.display()));
    assert_eq!(stderr(&output), "");
}

#[test]
fn all_errors_of_a_file_are_reported_at_once_with_line_key_value_and_expectation() {
    let problems = check(
        r#"workers = "many"
[limits]
max_header = "big"
[[listeners]]
bind = "localhost"
[[sites]]
default = true
speed = 3
[[sites.routes]]
match = "chat"
upstream = "missing"
plugins = ["absent"]
timeouts = { read = "5 minutes" }
"#,
    )
    .unwrap_err();
    // Line, key, the value that is wrong.
    let expected = [
        (1, "workers", "many"),
        (3, "limits.max_header", "big"),
        (5, "bind", "localhost"),
        (8, "speed", ""),
        (10, "match", "chat"),
        (11, "upstream", "missing"),
        (12, "plugins", "absent"),
        (13, "read", "5 minutes"),
    ];
    for (line, key, value) in expected {
        let found = problems.lines().any(|problem| {
            problem.contains(&format!("tidegate.toml:{line}"))
                && problem.contains(key)
                && problem.contains(value)
        });
        assert!(found, "nothing about {key} in line {line}:\n{problems}");
    }
    let about_size = problems
        .lines()
        .find(|problem| problem.contains("max_header"))
        .unwrap();
    assert!(
        about_size.contains("expected a size such as \"64KiB\""),
        "{about_size}"
    );
}

#[test]
fn keys_of_a_later_release_are_refused_and_not_ignored() {
    let file = format!("include = \"more.toml\"\n{}", one_listener(RESPOND));
    let problems = check(&file).unwrap_err();
    assert!(problems.contains("include: not supported"), "{problems}");
}

#[test]
fn errors_of_run_are_those_of_check() {
    let folder = Folder::new();
    let file = folder.write(
        "tidegate.toml",
        one_listener("[limits]\nmax_header = \"big\""),
    );
    let checked = command().arg("check").arg(&file).output().unwrap();
    let run = command().arg("run").arg("-c").arg(&file).output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(stderr(&run), stderr(&checked));
    assert!(stderr(&run).contains("max_header"));
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_an_error() {
    let folder = Folder::new();
    let broken = folder.write("broken.toml", "workers = = 2");
    for (file, says) in [
        (folder.path().join("absent.toml"), "absent.toml"),
        (broken, "broken.toml:1"),
    ] {
        let output = command().arg("run").arg("-c").arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{says}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn files_that_the_configuration_names_must_be_usable() {
    let folder = Folder::new();
    folder.write("not.wasm", "MZ");
    let rows = [
        (
            "certificate",
            "certificate = { chain = \"no.pem\", key = \"no.key\" }\n".to_owned() + RESPOND,
            "no.pem",
        ),
        (
            "plugin",
            format!(
                "{}plugins = [\"x\"]\n[plugins.x]\nmodule = \"not.wasm\"",
                RESPOND
            ),
            "not.wasm",
        ),
        (
            "builtin",
            format!(
                "{}plugins = [\"x\"]\n[plugins.x]\nmodule = \"builtin:nothing\"",
                RESPOND
            ),
            "builtin:nothing",
        ),
    ];
    for (what, rest, says) in rows {
        let text = one_listener(&rest).replace(
            "bind = \"127.0.0.1:0\"",
            "bind = \"127.0.0.1:0\"\ntls = true",
        );
        let text = if what == "certificate" {
            text
        } else {
            one_listener(&rest)
        };
        let file = folder.write("tidegate.toml", text);
        let output = command().arg("run").arg("-c").arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(
            stderr(&output).contains(says),
            "{what}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_point_to_the_help() {
    for arguments in [
        &["walk"][..],
        &["run"],
        &["check"],
        &["run", "-c", "x", "--log-format", "xml"],
    ] {
        let output = command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains("--help"),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn help_has_an_example_for_every_command() {
    for name in ["run", "check", "explain", "import", "demo"] {
        let output = command().args([name, "--help"]).output().unwrap();
        assert!(output.status.success());
        let help = stdout(&output);
        assert!(help.contains(&format!("tidegate {name}")), "{help}");
        assert!(help.to_lowercase().contains("example"), "{help}");
    }
}

#[tokio::test]
async fn a_busy_port_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    let file = folder.write(
        "tidegate.toml",
        one_listener(RESPOND).replace("127.0.0.1:0", &address),
    );
    let run = command().arg("run").arg("-c").arg(&file).output().unwrap();
    let demo = command()
        .args(["demo", "--listen", &address])
        .output()
        .unwrap();
    for output in [run, demo] {
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output).to_lowercase();
        assert!(
            error.contains(&address) && error.contains("in use"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_second_tidegate_does_not_share_the_port_of_the_first() {
    let first = Tidegate::serving(RESPOND).await;
    let address = first.address(0).to_string();
    let folder = Folder::new();
    let file = folder.write(
        "tidegate.toml",
        one_listener(RESPOND).replace("127.0.0.1:0", &address),
    );
    let second = command().arg("run").arg("-c").arg(&file).output().unwrap();
    assert_eq!(
        second.status.code(),
        Some(1),
        "SO_REUSEPORT must not hide that the port is taken"
    );
    assert_eq!(first.get("/").await.status(), 204);
}

#[tokio::test]
async fn the_log_says_as_much_as_it_is_told_to() {
    for (level, says_ready) in [("info", true), ("warn", false)] {
        let mut demo = command();
        demo.args(["demo", "--listen", "127.0.0.1:0", "--log", level]);
        let mut demo = Process::spawn(&mut demo);
        // What the demo prints for its user is no log.
        demo.stdout
            .find("banner", |line| line.contains("http://").then_some(()))
            .await;
        demo.signal(rustix::process::Signal::TERM);
        assert!(demo.exit().await.success());
        assert_eq!(demo.stderr.text().contains("ready"), says_ready, "{level}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
