//! Who may ask the admin listener: over a Unix socket, with a token, or from where nobody else comes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::net::UnixStream;

use crate::harness::{Connection, Folder, Tidegate, check, command, one_listener};

const RESPOND: &str = "[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 204 }\n";

fn printed(output: &Output) -> String {
    String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap()
}

async fn with(folder: Folder, admin: &str) -> Tidegate {
    let configuration = one_listener(&format!("{RESPOND}[admin]\n{admin}"));
    Tidegate::start_in(folder, &configuration).await
}

/// Asks as the command line does, over a socket.
fn over(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments).arg("--admin").arg(socket);
    command.output().unwrap()
}

/// Sends a request. `fields`: more lines of its head.
async fn ask(tidegate: &Tidegate, request: &str, fields: &str) -> (u16, String) {
    let mut connection = Connection::open(tidegate.admin_address()).await;
    let answer = connection
        .exchange(&format!(
            "{request} HTTP/1.1\nHost: localhost\nContent-Length: 0{fields}"
        ))
        .await;
    (answer.status(), answer.text().to_owned())
}

#[tokio::test]
async fn a_unix_socket_is_asked_by_those_whom_its_permissions_let() {
    let folder = Folder::new();
    let path = folder.path().join("admin.sock");
    let mut tidegate = with(folder, "unix = \"admin.sock\"\nmode = \"0660\"").await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for arguments in [&["version"][..], &["sessions", "list"], &["reload"]] {
        let answered = over(&path, arguments);
        assert!(answered.status.success(), "{}", printed(&answered));
    }
    let named = over(Path::new(&format!("unix:{}", path.display())), &["version"]);
    assert!(named.status.success(), "{}", printed(&named));

    // Another process must not take it away.
    let file = tidegate.folder.path().join("tidegate.toml");
    let second = command().arg("run").arg("-c").arg(&file).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        printed(&second).contains("admin.sock"),
        "{}",
        printed(&second)
    );
    assert!(UnixStream::connect(&path).await.is_ok());

    tidegate.process.signal(rustix::process::Signal::TERM);
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
    assert!(!path.exists(), "it is removed at the end");
    let nobody = over(&path, &["version"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        printed(&nobody).contains("cannot reach tidegate"),
        "{}",
        printed(&nobody)
    );
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced_and_a_file_is_not() {
    let folder = Folder::new();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let tidegate = with(folder, "unix = \"admin.sock\"").await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(over(&path, &["version"]).status.success());
    drop(tidegate);

    let folder = Folder::new();
    let path = folder.write("admin.sock", "precious");
    let text = one_listener(&format!("{RESPOND}[admin]\nunix = \"admin.sock\""));
    let file = folder.write("tidegate.toml", text);
    let run = command().arg("run").arg("-c").arg(file).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", printed(&run));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
}

#[tokio::test]
async fn who_does_not_show_the_token_gets_nothing_but_the_health() {
    let folder = Folder::new();
    folder.write("token", "open sesame\n");
    let tidegate = with(folder, "listen = \"127.0.0.1:0\"\ntoken_file = \"token\"").await;
    for request in [
        "GET /metrics",
        "GET /v1/sessions",
        "POST /v1/reload",
        "GET /nothing",
    ] {
        let (status, says) = ask(&tidegate, request, "").await;
        assert_eq!(status, 401, "{request}");
        assert!(says.contains("a token is wanted"), "{says}");
        for wrong in ["open sesam", "open sesame2", ""] {
            let field = format!("\nAuthorization: Bearer {wrong}");
            assert_eq!(
                ask(&tidegate, request, &field).await.0,
                401,
                "{request} {wrong}"
            );
        }
    }
    assert_eq!(ask(&tidegate, "GET /healthz", "").await.0, 200);
    let shown = "\nAuthorization: bearer open sesame";
    assert_eq!(ask(&tidegate, "GET /metrics", shown).await.0, 200);
    assert_eq!(ask(&tidegate, "POST /v1/reload", shown).await.0, 200);

    // The command line shows it as well.
    let bare = tidegate.remote(&["version"]);
    assert_eq!(bare.status.code(), Some(1));
    assert!(
        printed(&bare).contains("a token is wanted"),
        "{}",
        printed(&bare)
    );
    let shown = tidegate.remote(&["version", "--token-file", "token"]);
    assert!(shown.status.success(), "{}", printed(&shown));
    let admin = tidegate.admin_address().to_string();
    let mut command = command();
    command
        .args(["version", "--admin", &admin])
        .env("TIDEGATE_TOKEN", "open sesame");
    assert!(command.output().unwrap().status.success());

    // Another token takes its place without a reload.
    tidegate.folder.write("token", "another");
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    let shown = tidegate.remote(&["version", "--token-file", "token"]);
    assert!(shown.status.success(), "{}", printed(&shown));
    std::fs::remove_file(tidegate.folder.path().join("token")).unwrap();
    assert_eq!(
        ask(&tidegate, "GET /metrics", "\nAuthorization: Bearer another")
            .await
            .0,
        500
    );
}

#[tokio::test]
async fn without_a_token_an_address_that_anybody_reaches_takes_no_orders() {
    let tidegate = with(Folder::new(), "listen = \"0.0.0.0:0\"").await;
    assert_eq!(ask(&tidegate, "GET /healthz", "").await.0, 200);
    assert_eq!(ask(&tidegate, "GET /metrics", "").await.0, 200);
    for request in ["GET /v1/sessions", "POST /v1/reload", "GET /v1/plugins"] {
        let (status, says) = ask(&tidegate, request, "").await;
        assert_eq!(status, 403, "{request}");
        assert!(says.contains("token_file"), "{says}");
    }
}

/// A browser asks so once the page's name means this machine.
#[tokio::test]
async fn without_a_token_who_asks_by_a_name_gets_nothing_but_the_health() {
    let tidegate = with(Folder::new(), "listen = \"127.0.0.1:0\"").await;
    let port = tidegate.admin_address().port();
    let ask = async |path: &str, host: &str| {
        let mut connection = Connection::open(tidegate.admin_address()).await;
        let request = format!("GET {path} HTTP/1.1\nHost: {host}:{port}");
        let answer = connection.exchange(&request).await;
        (answer.status(), answer.text().to_owned())
    };
    for path in ["/metrics", "/v1/version", "/v1/sessions", "/nothing"] {
        let (status, says) = ask(path, "evil.example").await;
        assert_eq!(status, 403, "{path}");
        let json: Value = serde_json::from_str(&says).unwrap();
        assert!(json["error"].as_str().unwrap().contains("`Host`"), "{says}");
    }
    assert_eq!(ask("/healthz", "evil.example").await.0, 200);
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        assert_eq!(ask("/v1/version", host).await.0, 200, "{host}");
    }
    // HTTP/1.0 knows of none.
    let mut connection = Connection::open(tidegate.admin_address()).await;
    connection.send_head("GET /metrics HTTP/1.0").await;
    let answer = connection.read_to_end().await;
    assert!(answer.starts_with(b"HTTP/1.0 200"));
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_an_error_at_the_start() {
    for (token, says) in [("absent", "absent"), ("empty", "no admin token")] {
        let folder = Folder::new();
        folder.write("empty", "\n");
        let admin = format!("[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{token}\"");
        let text = one_listener(&format!("{RESPOND}{admin}"));
        let file = folder.write("tidegate.toml", text);
        for command_line in [&["run", "-c"][..], &["check"]] {
            let mut command = command();
            let output = command.args(command_line).arg(&file).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{token}");
            assert!(printed(&output).contains(says), "{}", printed(&output));
        }
    }
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\ntoken_env = \"TIDEGATE_NO_SUCH_TOKEN\"";
    let problems = check(&one_listener(&format!("{RESPOND}{admin}"))).unwrap_err();
    assert!(problems.contains("TIDEGATE_NO_SUCH_TOKEN"), "{problems}");
}

#[tokio::test]
async fn whatever_is_refused_is_refused_in_json() {
    let tidegate = with(Folder::new(), "listen = \"127.0.0.1:0\"").await;
    let rows = [
        ("GET /v1/nothing", "", 404, "docs/admin.md"),
        ("DELETE /v1/plugins", "", 405, "Method Not Allowed"),
        ("POST /v1/reload?dry_run=perhaps", "", 400, "dry_run"),
        ("POST /v1/reload", "\nOrigin: http://a", 403, "web pages"),
    ];
    for (request, fields, expected, says) in rows {
        let (status, text) = ask(&tidegate, request, fields).await;
        assert_eq!(status, expected, "{request}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(
            json["error"].as_str().unwrap().contains(says),
            "{request}: {text}"
        );
    }
    // Nobody has to send what is refused anyway.
    let mut connection = Connection::open(tidegate.admin_address()).await;
    let length = (64 << 20) + 1;
    let swap =
        format!("POST /v1/plugins/a/swap HTTP/1.1\nHost: [::1]:9900\nContent-Length: {length}");
    let refused = connection.exchange(&swap).await;
    assert_eq!(refused.status(), 413);
    assert!(refused.text().contains("64 MiB"), "{}", refused.text());

    let path = tidegate.folder.path().join("large.wasm");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(length)
        .unwrap();
    let swap = tidegate.remote(&["plugin", "swap", "a", "large.wasm"]);
    assert_eq!(swap.status.code(), Some(1));
    assert_eq!(printed(&swap), "large.wasm: a module may be 64 MiB long\n");
}
