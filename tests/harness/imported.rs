//! Files of nginx as tidegate runs them: translated by the command, as an operator would, and moved to
//! ports that are free.

use super::files::Folder;
use super::tidegate::{Tidegate, command};

/// Where the listeners of a fragment are when it runs: what `listen` says becomes, in the result, any
/// free port of an address of its own. The first listener of the file comes first.
const LISTENERS: [(&str, &str); 4] = [
    ("0.0.0.0:80", "127.0.0.1:0"),
    ("0.0.0.0:443", "127.0.0.2:0"),
    ("0.0.0.0:8020", "127.0.0.1:0"),
    ("0.0.0.0:81", "127.0.0.3:0"),
];

/// Translates a fragment for nginx's `http` block. The error is what is reported.
pub(crate) fn import(folder: &Folder, fragment: &str) -> Result<String, String> {
    folder.write("site.conf", fragment);
    let mut import = command();
    import.args(["import", "site.conf"]);
    let output = import.current_dir(folder.path()).output().unwrap();
    let report = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(1) => Err(report),
        _ => panic!("import ended with {}: {report}", output.status),
    }
}

/// A configuration as it is, but with its listeners on free ports, one worker, and an admin listener.
pub(crate) fn on_free_ports(toml: &str) -> String {
    let mut toml = toml.to_owned();
    for (written, free) in LISTENERS {
        toml = toml.replace(&format!("\"{written}\""), &format!("\"{free}\""));
    }
    format!("workers = 1\nadmin = {{ listen = \"127.0.0.1:0\" }}\n{toml}")
}

impl Tidegate {
    /// Starts with what a fragment for nginx's `http` block becomes.
    pub(crate) async fn imported(fragment: &str) -> Self {
        Self::imported_in(Folder::new(), fragment).await
    }

    /// As [`Tidegate::imported`], beside files that the fragment names.
    pub(crate) async fn imported_in(folder: Folder, fragment: &str) -> Self {
        let toml = import(&folder, fragment).unwrap_or_else(|report| panic!("{report}"));
        Self::start_in(folder, &on_free_ports(&toml)).await
    }
}
