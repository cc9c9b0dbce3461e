//! Compiles the stock plugins to WebAssembly and lists them in `$OUT_DIR/builtin.rs` as
//! `BUILTIN: &[(name, core module)]`. Turning the modules into components is left to the host, which
//! does that with every plugin it loads.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const STOCK_PLUGINS: [&str; 4] = ["headers", "choose-endpoint", "redact", "auth-request"];
const WASM_TARGET: &str = "wasm32-unknown-unknown";

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir
        .parent()
        .ok_or("host/ is not within a workspace")?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    for input in ["plugins", "plugin-sdk", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }

    require_wasm_target()?;
    let target_dir = target_dir_of(&out_dir)?.join("plugins");
    compile_plugins(workspace, &target_dir)?;
    write_list(&target_dir.join(WASM_TARGET).join("plugin"), &out_dir)
}

fn require_wasm_target() -> Result<(), Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", WASM_TARGET])
        .output()?;
    let libdir = String::from_utf8(output.stdout)?;
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    Err(format!("the stock plugins need a target that is not installed; run: rustup target add {WASM_TARGET}").into())
}

/// Finds the target directory, which cargo does not tell: `OUT_DIR` is
/// `TARGET_DIR[/TRIPLE]/PROFILE/build/...`.
fn target_dir_of(out_dir: &Path) -> Result<&Path, Box<dyn Error>> {
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build"));
    let dir = build
        .and_then(|build| build.ancestors().nth(2))
        .ok_or_else(|| format!("{} is not within a target directory", out_dir.display()))?;
    let triple = env::var_os("TARGET").unwrap_or_default();
    Ok(if dir.ends_with(&triple) {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    })
}

/// Runs cargo for the plugins, in a target directory of its own: the one of this build is locked. It
/// is shared by debug and release builds, since the plugins are the same.
fn compile_plugins(workspace: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args([
            "build",
            "--locked",
            "--profile",
            "plugin",
            "--target",
            WASM_TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir);
    for plugin in STOCK_PLUGINS {
        command.args(["-p", plugin]);
    }
    // What the outer build is told (flags for the host's target, clippy in place of rustc, coverage)
    // is not meant for the plugins, and would compile them anew each time it changes.
    for (name, _) in env::vars_os() {
        if is_of_the_outer_build(&name) {
            command.env_remove(name);
        }
    }
    let status = command.status()?;
    if !status.success() {
        return Err(format!("the stock plugins do not compile: cargo ended with {status}").into());
    }
    Ok(())
}

fn is_of_the_outer_build(name: &OsStr) -> bool {
    const NAMES: [&str; 5] = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_INCREMENTAL",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    name.to_str().is_some_and(|name| {
        NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// Copies the modules to `OUT_DIR`, where no other build replaces them, and lists them.
fn write_list(modules: &Path, out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut list = String::from("pub(crate) static BUILTIN: &[(&str, &[u8])] = &[\n");
    for plugin in STOCK_PLUGINS {
        let file = format!("{}.wasm", plugin.replace('-', "_"));
        fs::copy(modules.join(&file), out_dir.join(&file))
            .map_err(|error| format!("{}: {error}", modules.join(&file).display()))?;
        list.push_str(&format!(
            "    ({plugin:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))),\n"
        ));
    }
    list.push_str("];\n");
    fs::write(out_dir.join("builtin.rs"), list)?;
    Ok(())
}
