//! Whole files: what they become, and what is said of those that cannot be kept, word by word.

mod meaning;
mod problems;

use std::fs;
use std::path::PathBuf;

use super::{Imported, Options, import};

/// A folder of one test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-import-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Imports `nginx.conf`, and takes the folder's name out of what is said.
    fn import(&self, options: &Options) -> (Imported, String) {
        let imported = import(&[self.0.join("nginx.conf")], options);
        let folder = format!("{}/", self.0.display());
        let report = imported.report.to_string().replace(&folder, "");
        (imported, report)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Imports a text as `nginx.conf`. Returns the configuration, if there is one, and the report.
fn imported(text: &str) -> (Option<String>, String) {
    let folder = Folder::new();
    folder.write("nginx.conf", text);
    let (imported, report) = folder.import(&Options::default());
    (imported.text, report)
}
