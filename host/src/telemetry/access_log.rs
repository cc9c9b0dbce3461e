//! Access logs: one line for each exchange or session, written at its end.
//!
//! Each worker collects lines in buffers of its own; how they look is said elsewhere.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::warn;

/// A worker writes when one of its buffers has grown beyond this.
const FLUSH_BYTES: usize = 32 * 1024;

/// Failures to write are logged once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Where an access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
    File(PathBuf),
    /// What is written is forgotten.
    Nowhere,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// A destination, shared by the workers.
#[derive(Debug)]
pub(crate) struct AccessLogFile {
    target: Target,
    file: ArcSwap<File>,
    losses: Mutex<Losses>,
}

/// Lines that could not be written.
#[derive(Debug, Default)]
struct Losses {
    bytes: usize,
    complained: Option<Instant>,
}

/// All destinations that are open, so that each is opened once, whoever writes to it.
#[derive(Debug, Default)]
pub(crate) struct AccessLogFiles {
    open: Mutex<Vec<Weak<AccessLogFile>>>,
    /// Nothing is written anywhere.
    is_trial: bool,
}

impl AccessLogFiles {
    /// For a configuration that is only checked: touches no file.
    pub(crate) fn for_trial() -> Self {
        Self {
            is_trial: true,
            ..Self::default()
        }
    }

    /// Opens a destination, or returns it if it is open.
    pub(crate) fn open(&self, target: &Target) -> io::Result<Arc<AccessLogFile>> {
        let target = if self.is_trial {
            &Target::Nowhere
        } else {
            target
        };
        let mut open = self.lock();
        open.retain(|file| file.strong_count() > 0);
        let known = open.iter().filter_map(Weak::upgrade);
        if let Some(file) = known.into_iter().find(|file| file.target == *target) {
            return Ok(file);
        }
        let file = Arc::new(AccessLogFile::open(target.clone())?);
        open.push(Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens all files anew, for those that were moved away. Returns the paths where this failed; what
    /// was open there stays.
    pub(crate) fn reopen(&self) -> Vec<(PathBuf, io::Error)> {
        let files: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        files
            .iter()
            .filter_map(|file| file.reopen().err())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<AccessLogFile>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccessLogFile {
    fn open(target: Target) -> io::Result<Self> {
        let file = match &target {
            Target::Stdout => io::stdout().as_fd().try_clone_to_owned()?.into(),
            Target::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
            Target::File(path) => append_to(path)?,
            Target::Nowhere => append_to(Path::new("/dev/null"))?,
        };
        Ok(Self {
            target,
            file: ArcSwap::from_pointee(file),
            losses: Mutex::default(),
        })
    }

    /// Workers write to the new file from their next flush on.
    fn reopen(&self) -> Result<(), (PathBuf, io::Error)> {
        if let Target::File(path) = &self.target {
            let file = append_to(path).map_err(|error| (path.clone(), error))?;
            self.file.store(Arc::new(file));
        }
        Ok(())
    }

    /// Writes whole lines. What cannot be written is lost: waiting for a disk would stop the traffic.
    fn append(&self, lines: &[u8]) {
        // Through O_APPEND one write is not torn by those of other workers.
        if let Err(error) = (&**self.file.load()).write_all(lines) {
            self.complain(&error, lines.len());
        }
    }

    fn complain(&self, error: &io::Error, lost: usize) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.bytes += lost;
        if losses
            .complained
            .is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL)
        {
            warn!(%error, path = %self.target, lost_bytes = losses.bytes, "cannot write the access log");
            *losses = Losses {
                bytes: 0,
                complained: Some(Instant::now()),
            };
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// One worker's ends of the access logs. What they hold is written when they are dropped.
#[derive(Debug, Default)]
pub(crate) struct AccessLogs {
    ends: RefCell<Vec<End>>,
}

#[derive(Debug)]
struct End {
    file: Arc<AccessLogFile>,
    buffer: Vec<u8>,
}

impl AccessLogs {
    /// Adds what `line` appends. It is written by the next [`AccessLogs::flush`], or at once if much is
    /// waiting.
    pub(crate) fn add(&self, file: &Arc<AccessLogFile>, line: impl FnOnce(&mut Vec<u8>)) {
        let mut ends = self.ends.borrow_mut();
        let index = ends.iter().position(|end| Arc::ptr_eq(&end.file, file));
        let index = index.unwrap_or_else(|| {
            ends.push(End {
                file: file.clone(),
                buffer: Vec::new(),
            });
            ends.len() - 1
        });
        let end = &mut ends[index];
        line(&mut end.buffer);
        if end.buffer.len() > FLUSH_BYTES {
            end.write();
        }
    }

    /// Writes the lines that wait. A worker calls it at least once a second.
    pub(crate) fn flush(&self) {
        self.ends.borrow_mut().retain_mut(|end| {
            // One that nobody has written to since the last time may be of a log that is no more.
            let is_used = !end.buffer.is_empty();
            if is_used {
                end.write();
            }
            is_used
        });
    }
}

impl End {
    fn write(&mut self) {
        self.file.append(&self.buffer);
        self.buffer.clear();
        self.buffer.shrink_to(2 * FLUSH_BYTES);
    }
}

impl Drop for AccessLogs {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory of one test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tidegate-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> Target {
            Target::File(self.0.join(name))
        }

        fn lines(&self, name: &str) -> usize {
            let text = fs::read_to_string(self.0.join(name)).unwrap();
            text.lines().count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn line(out: &mut Vec<u8>) {
        out.extend_from_slice(&[b'x'; 300]);
        out.push(b'\n');
    }

    #[test]
    fn lines_are_written_by_a_flush_and_by_the_end_of_the_worker() {
        let directory = Directory::new("flush");
        let files = AccessLogFiles::default();
        let file = files.open(&directory.file("log")).unwrap();
        let (first, second) = (AccessLogs::default(), AccessLogs::default());

        first.add(&file, line);
        second.add(&file, line);
        assert_eq!(directory.lines("log"), 0);
        first.flush();
        assert_eq!(directory.lines("log"), 1);
        drop(second);
        assert_eq!(directory.lines("log"), 2);
    }

    #[test]
    fn much_is_written_without_a_flush() {
        let directory = Directory::new("much");
        let file = AccessLogFiles::default()
            .open(&directory.file("log"))
            .unwrap();
        let logs = AccessLogs::default();
        for _ in 0..200 {
            logs.add(&file, line);
        }
        assert!(directory.lines("log") > FLUSH_BYTES / 301);
        assert!(logs.ends.borrow()[0].buffer.len() <= FLUSH_BYTES);
    }

    #[test]
    fn a_file_is_opened_once_and_forgotten_when_nobody_writes_to_it() {
        let directory = Directory::new("once");
        let files = AccessLogFiles::default();
        let file = files.open(&directory.file("log")).unwrap();
        let same = files.open(&directory.file("log")).unwrap();
        let other = files.open(&directory.file("other")).unwrap();
        assert!(Arc::ptr_eq(&file, &same) && !Arc::ptr_eq(&file, &other));

        let logs = AccessLogs::default();
        logs.add(&file, line);
        let gone = Arc::downgrade(&file);
        drop((file, same));
        logs.flush();
        assert!(gone.upgrade().is_some());
        logs.flush();
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn a_reopened_log_continues_at_its_path() {
        let directory = Directory::new("reopen");
        let files = AccessLogFiles::default();
        let file = files.open(&directory.file("log")).unwrap();
        let logs = AccessLogs::default();
        logs.add(&file, line);
        logs.flush();
        fs::rename(directory.0.join("log"), directory.0.join("log.1")).unwrap();

        assert!(files.reopen().is_empty());

        logs.add(&file, line);
        logs.flush();
        assert_eq!((directory.lines("log"), directory.lines("log.1")), (1, 1));
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let full = Target::File("/dev/full".into());
        let file = AccessLogFiles::default().open(&full).unwrap();
        let logs = AccessLogs::default();
        for _ in 0..2 {
            logs.add(&file, line);
            logs.flush();
        }
        let losses = file.losses.lock().unwrap();
        assert!(losses.complained.is_some());
        assert!(
            losses.bytes > 0,
            "the second loss waits for the next complaint"
        );
    }
}
