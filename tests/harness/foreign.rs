//! Clients nobody here wrote: Node's `ws`, Python's `websockets` and Chromium, put in place by
//! `tests/run`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;

/// Runs a function in a page of Chromium, and prints what it returns. Opens the page at a target if
/// there is one.
const BROWSER: &str = r#"
    const { chromium } = require("playwright-core");
    const [executablePath, page, script, ...rest] = process.argv.slice(1);
    const args = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
    ];
    (async () => {
        const browser = await chromium.launch({ executablePath, args });
        const context = await browser.newContext({ ignoreHTTPSErrors: true });
        const tab = await context.newPage();
        console.log("ready");
        if (page) await tab.goto(page);
        console.log(await tab.evaluate(`(${script})(...${JSON.stringify(rest)})`));
        await browser.close();
    })().catch((error) => {
        console.error(error);
        process.exit(1);
    });
"#;

/// Starts a script in Node, where `require("ws")` works. Its arguments are `process.argv.slice(1)`.
pub(crate) fn node(script: &str, arguments: &[&str]) -> Process {
    let modules = clients().join("node_modules");
    must_exist(&modules.join("ws"));
    let mut node = Command::new("node");
    node.args(["-e", script, "--"])
        .args(arguments)
        .env("NODE_PATH", modules);
    Process::spawn(&mut node)
}

/// Starts a script in Python, where `import websockets` works. Its arguments are `sys.argv[1:]`.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Process {
    let interpreter = clients().join("venv/bin/python");
    must_exist(&interpreter);
    let mut python = Command::new(interpreter);
    Process::spawn(python.args(["-u", "-c", script]).args(arguments))
}

/// Runs a function in a new Chromium, which believes any certificate, and prints what its promise
/// comes to. Its page is empty, or that of a URL; its arguments are given as strings.
pub(crate) async fn chromium(page: Option<&str>, function: &str, arguments: &[&str]) -> Process {
    let arguments = [&[CHROMIUM, page.unwrap_or_default(), function], arguments].concat();
    must_exist(Path::new(CHROMIUM));
    must_exist(&clients().join("node_modules/playwright-core"));
    let mut browser = node(BROWSER, &arguments);
    // It takes a while to start, which is not the time that a test grants to what it is about.
    assert_eq!(browser.stdout.line().await, "ready");
    browser
}

/// Cargo's target folder.
pub(super) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it is inside of it")
        .to_owned()
}

/// Where Debian's package puts it.
const CHROMIUM: &str = "/usr/bin/chromium";

fn clients() -> PathBuf {
    target().join("clients")
}

fn must_exist(path: &Path) {
    assert!(
        path.exists(),
        "{} is missing: run the tests with tests/run once",
        path.display()
    );
}
