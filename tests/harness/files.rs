//! A folder for the files of one test. Its place is left to cargo.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::eventually;

/// A folder of one test's own, removed at its end unless the test fails.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, in one step as a deployment would: a reader sees the old one or the new one.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        let fresh = self.path.join(format!("{name}.new"));
        fs::write(&fresh, content).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    /// Content of a file; empty while there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }
}

/// A file that whoever reads it reads for as long as its writer is there.
pub(crate) struct Endless(PathBuf);

impl Endless {
    /// Puts one in place of a file.
    pub(crate) fn replacing(folder: &Folder, name: &str) -> Self {
        let path = folder.path().join(name);
        fs::remove_file(&path).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
        Self(path)
    }

    /// Waits for a reader. Returns its writer.
    pub(crate) async fn is_read(&self) -> OwnedFd {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        eventually("reader of the endless file", async || {
            rustix::fs::open(&self.0, flags, Mode::empty()).ok()
        })
        .await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test's files are left in {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}
