//! Clients nobody here wrote: Node's `ws` and Python's `websockets`, put in place by `tests/run`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;

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

/// Cargo's target folder.
pub(super) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it is inside of it")
        .to_owned()
}

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
