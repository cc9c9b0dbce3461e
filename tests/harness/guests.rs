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

/// The script guest as if it had been built anew, with other behaviour under the same configuration: words
/// that its source lists, such as `name=b,trap=100`.
pub(crate) fn variant(words: &str) -> Vec<u8> {
    const BEGINNING: &[u8] = b"build:  ";
    let mut module = std::fs::read(guest("guest-script")).unwrap();
    let mut places = module.windows(BEGINNING.len());
    let at = places.position(|bytes| bytes == BEGINNING).unwrap() + BEGINNING.len() - 2;
    let room = module[at..]
        .iter()
        .take_while(|byte| **byte == b' ')
        .count();
    assert!(words.len() <= room, "{words:?} is longer than {room}");
    module[at..at + words.len()].copy_from_slice(words.as_bytes());
    module
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
