//! Notices when a plugin's file changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// A file that is being written is left alone until nothing has happened to it for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Watches the files of plugins.
pub(super) struct ModuleWatch {
    modules: BTreeSet<PathBuf>,
    /// Folders: a file that is replaced by renaming another is a new file.
    folders: BTreeSet<PathBuf>,
    /// None: the system offers no notifications; then SIGHUP remains.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<PathBuf>,
    /// One of the files has changed; if nothing else happens to them, this is when they are whole.
    quiet_at: Option<Instant>,
}

impl ModuleWatch {
    /// Watches `modules`.
    pub(super) fn new(modules: Vec<PathBuf>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let noticed = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.kind.is_access() => {}
            Ok(event) => {
                for path in event.paths {
                    // Nobody listens any more when the process ends.
                    if sender.send(path).is_err() {
                        return;
                    }
                }
            }
            Err(error) => warn!(%error, "cannot watch plugin files"),
        };
        let watcher = notify::recommended_watcher(noticed)
            .inspect_err(|error| warn!(%error, "cannot watch plugin files"))
            .ok();
        let mut watch = Self {
            modules: BTreeSet::new(),
            folders: BTreeSet::new(),
            watcher,
            events,
            quiet_at: None,
        };
        watch.set(modules);
        watch
    }

    /// Watches `modules` from now on, and nothing else.
    pub(super) fn set(&mut self, modules: Vec<PathBuf>) {
        self.modules = modules.iter().map(|module| absolute(module)).collect();
        let folders: BTreeSet<_> = self
            .modules
            .iter()
            .filter_map(|module| module.parent())
            .map(Path::to_owned)
            .collect();
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for folder in self.folders.difference(&folders) {
            if let Err(error) = watcher.unwatch(folder) {
                warn!(%error, folder = %folder.display(), "cannot stop watching");
            }
        }
        for folder in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                warn!(%error, folder = %folder.display(), "cannot watch for new plugin versions");
            }
        }
        self.folders = folders;
    }

    /// Waits until one of the files has changed and been left alone for a moment. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let event = match self.quiet_at {
                None => self.events.recv().await,
                Some(quiet_at) => match timeout_at(quiet_at, self.events.recv()).await {
                    Ok(event) => event,
                    Err(_) => {
                        self.quiet_at = None;
                        return;
                    }
                },
            };
            match event {
                Some(path) if self.modules.contains(&path) => {
                    self.quiet_at = Some(Instant::now() + QUIET);
                }
                // Other files in the folder are no reason to wait longer.
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    // The folder as the system knows it, since that is how changes are told.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}
