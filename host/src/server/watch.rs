//! Notices when a file changes that what is in force was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

/// A file that is being written is left alone until nothing has happened to it for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Links that are followed on the way to one file.
const MAX_LINKS: usize = 40;

/// Device and inode.
type Identity = (u64, u64);

/// Watches files.
pub(super) struct FileWatch {
    /// Where a change means that one of them is another: the files, and the links on the way to them.
    places: BTreeSet<PathBuf>,
    /// Folders of the places: a file that is replaced by renaming another is a new file. With what each of
    /// them is, if it is there: another folder may take its place, and is not watched then.
    folders: BTreeMap<PathBuf, Option<Identity>>,
    /// None: the system offers no notifications; then SIGHUP remains.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<PathBuf>,
    /// One of the files has changed; if nothing else happens to them, this is when they are whole.
    quiet_at: Option<Instant>,
}

impl FileWatch {
    /// Watches `files`.
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
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
            Err(error) => warn!(%error, "cannot watch files"),
        };
        let watcher = notify::recommended_watcher(noticed)
            .inspect_err(|error| warn!(%error, "cannot watch files"))
            .ok();
        let mut watch = Self {
            places: BTreeSet::new(),
            folders: BTreeMap::new(),
            watcher,
            events,
            quiet_at: None,
        };
        watch.set(files);
        watch
    }

    /// Watches `files` from now on, and nothing else.
    pub(super) fn set(&mut self, files: Vec<PathBuf>) {
        self.places = files.iter().flat_map(|file| places(file)).collect();
        // Whole folders are replaced as well.
        let parents: Vec<_> = folders(&self.places).collect();
        self.places.extend(parents);
        self.watch();
    }

    /// Watches the folders of the places as they are now, and nothing else.
    fn watch(&mut self) {
        let folders = folders(&self.places).map(|folder| (folder.clone(), identity(&folder)));
        let folders: BTreeMap<_, _> = folders.collect();
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for (folder, is) in &self.folders {
            // It may be gone, and the watch with it.
            if folders.get(folder) != Some(is)
                && let Err(error) = watcher.unwatch(folder)
            {
                debug!(%error, folder = %folder.display(), "cannot stop watching");
            }
        }
        // Also those that are watched, which changes nothing, unless they were away for a moment.
        for folder in folders.keys() {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                warn!(%error, folder = %folder.display(), "cannot watch for changes");
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
                        // Before the files are read, or what changes after that would be missed.
                        self.watch();
                        return;
                    }
                },
            };
            match event {
                Some(path) if self.places.contains(&path) => {
                    self.quiet_at = Some(Instant::now() + QUIET);
                }
                // Other files in the folder are no reason to wait longer.
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

/// Returns the folders that places are in.
fn folders(places: &BTreeSet<PathBuf>) -> impl Iterator<Item = PathBuf> {
    places
        .iter()
        .filter_map(|place| place.parent())
        .map(Path::to_owned)
}

/// Returns what a folder is; None: it is not there.
fn identity(folder: &Path) -> Option<Identity> {
    let folder = std::fs::metadata(folder).ok()?;
    Some((folder.dev(), folder.ino()))
}

/// Returns where a change means that `file` is another one: the file, and each link on the way to it, such
/// as those by which whole folders are replaced at once.
fn places(file: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(absolute) = std::path::absolute(file) else {
        return vec![file.to_owned()];
    };
    // What is left to walk, next one last.
    let mut rest: Vec<_> = components(&absolute);
    let mut at = PathBuf::new();
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if found.len() < MAX_LINKS => {
                rest.extend(components(&target));
                if target.is_absolute() {
                    at = PathBuf::new();
                }
                found.push(next);
            }
            _ => at = next,
        }
    }
    found.push(at);
    found
}

/// Returns the parts of a path, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev();
    let parts = parts.filter(|part| *part != Component::CurDir);
    parts
        .map(|part| Path::new(part.as_os_str()).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_on_the_way_to_a_file_is_a_place_where_it_changes() {
        let folder = std::env::temp_dir().join(format!("tidegate-watch-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("first")).unwrap();
        std::fs::write(folder.join("first/file"), "").unwrap();
        std::os::unix::fs::symlink("first", folder.join("now")).unwrap();
        std::os::unix::fs::symlink("./now/file", folder.join("file")).unwrap();
        let root = folder.canonicalize().unwrap();
        let places: BTreeSet<_> = places(&root.join("first/../file")).into_iter().collect();
        let expected = ["file", "now", "first/file"].map(|place| root.join(place));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(places, BTreeSet::from(expected));
    }
}
