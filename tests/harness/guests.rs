//! Plugins of `tests/guests`, built when a test first asks for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use super::foreign::target;

/// Where a guest, or a plugin of `plugins/`, lies once it is built as a core module.
///
/// Built once per run, into the same folder as the stock plugins, so that a second run finds it done.
/// Blocks for as long as that takes.
pub(crate) fn guest(package: &str) -> PathBuf {
    built(package, "wasm32-unknown-unknown")
}

/// As [`guest`], built as a ready component.
pub(crate) fn component(package: &str) -> PathBuf {
    built(package, "wasm32-wasip2")
}

fn built(package: &str, target_triple: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashMap<String, Arc<OnceLock<PathBuf>>>>> =
        LazyLock::new(Mutex::default);
    let name = format!("{package} {target_triple}");
    let once = BUILT.lock().unwrap().entry(name).or_default().clone();
    once.get_or_init(|| build(package, target_triple)).clone()
}

fn build(package: &str, target_triple: &str) -> PathBuf {
    let folder = target().join("plugins");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--profile",
            "plugin",
            "--package",
            package,
        ])
        .args(["--target", target_triple])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&folder);
    // What is meant for the machine the tests run on is not meant for plugins, and would make cargo
    // build anew what the host's build script has built there.
    for (name, _) in std::env::vars_os() {
        let outer = |name: &str| {
            let prefixes = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
            let names = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL"];
            names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        if name.to_str().is_some_and(outer) {
            cargo.env_remove(name);
        }
    }
    let built = cargo.output().unwrap();
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "{package} does not build for {target_triple}:\n{errors}"
    );
    folder
        .join(target_triple)
        .join("plugin")
        .join(format!("{}.wasm", package.replace('-', "_")))
}
