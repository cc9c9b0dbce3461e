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
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--profile", "plugin", "--package", package])
        .args(["--target", target_triple])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&folder)
        // Flags for the machine the tests run on mean nothing there.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{package} does not build for {target_triple}:\n{errors}");
    folder.join(target_triple).join("plugin").join(format!("{}.wasm", package.replace('-', "_")))
}
