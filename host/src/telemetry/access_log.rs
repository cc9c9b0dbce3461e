//! The access log: one line for each exchange or session, written at its end.
//!
//! Each worker collects lines in a buffer of its own; `line.rs` says how they look.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jiff::tz::TimeZone;
use tracing::warn;

use super::Format;
use super::line::{self, Clock};
use super::record::Record;

/// A worker writes when its buffer has grown beyond this.
const FLUSH_BYTES: usize = 32 * 1024;

/// Failures to write are logged once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Where the access log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Stdout,
    Stderr,
    File(&'a Path),
}

/// The destination, shared by the workers.
#[derive(Debug)]
pub(crate) struct AccessLogFile {
    /// `None` for the standard streams.
    path: Option<PathBuf>,
    format: Format,
    file: ArcSwap<File>,
    losses: Mutex<Losses>,
}

/// Lines that could not be written.
#[derive(Debug, Default)]
struct Losses {
    bytes: usize,
    complained: Option<Instant>,
}

impl AccessLogFile {
    pub(crate) fn open(target: Target<'_>, format: Format) -> io::Result<Arc<Self>> {
        let (path, file) = match target {
            Target::Stdout => (None, io::stdout().as_fd().try_clone_to_owned()?.into()),
            Target::Stderr => (None, io::stderr().as_fd().try_clone_to_owned()?.into()),
            Target::File(path) => (Some(path.to_owned()), append_to(path)?),
        };
        let file = ArcSwap::from_pointee(file);
        Ok(Arc::new(Self {
            path,
            format,
            file,
            losses: Mutex::default(),
        }))
    }

    /// Opens the path anew, for a file that was moved away; does nothing for a standard stream.
    ///
    /// Workers write to the new file from their next flush on. After an error the old one stays.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file.store(Arc::new(append_to(path)?));
        }
        Ok(())
    }

    /// Returns what a worker writes with.
    pub(crate) fn for_worker(self: &Arc<Self>) -> AccessLog {
        AccessLog {
            file: Arc::clone(self),
            buffer: RefCell::default(),
            clock: RefCell::new(Clock::new(TimeZone::system(), self.format)),
        }
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
            let path = self.path.as_deref().unwrap_or(Path::new("standard stream"));
            warn!(%error, path = %path.display(), lost_bytes = losses.bytes, "cannot write the access log");
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

/// One worker's end of the access log. What it holds is written when it is dropped.
#[derive(Debug)]
pub(crate) struct AccessLog {
    file: Arc<AccessLogFile>,
    buffer: RefCell<Vec<u8>>,
    clock: RefCell<Clock>,
}

impl AccessLog {
    /// Adds the line of a record. It is written by the next [`AccessLog::flush`], or at once if much is waiting.
    pub(crate) fn record(&self, record: &Record) {
        let buffer = &mut *self.buffer.borrow_mut();
        let clock = &mut *self.clock.borrow_mut();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        line::push(buffer, record, clock, now, record.started.elapsed());
        if buffer.len() > FLUSH_BYTES {
            self.write(buffer);
        }
    }

    /// Writes the lines that wait. A worker calls it at least once a second.
    pub(crate) fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.write(&mut buffer);
        }
    }

    fn write(&self, buffer: &mut Vec<u8>) {
        self.file.append(buffer);
        buffer.clear();
        buffer.shrink_to(2 * FLUSH_BYTES);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::record::tests::tunnel;
    use super::*;

    /// A directory of one test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tidegate-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn lines_are_written_by_a_flush_and_by_the_end_of_the_worker() {
        let directory = Directory::new("flush");
        let path = directory.0.join("access.log");
        let file = AccessLogFile::open(Target::File(&path), Format::Text).unwrap();
        let (first, second) = (file.for_worker(), file.for_worker());
        let lines = || fs::read_to_string(&path).unwrap().lines().count();

        first.record(&tunnel());
        second.record(&tunnel());
        assert_eq!(lines(), 0);
        first.flush();
        assert_eq!(lines(), 1);
        drop(second);
        assert_eq!(lines(), 2);
    }

    #[test]
    fn much_is_written_without_a_flush() {
        let directory = Directory::new("much");
        let path = directory.0.join("access.log");
        let file = AccessLogFile::open(Target::File(&path), Format::Json).unwrap();
        let log = file.for_worker();
        for _ in 0..200 {
            log.record(&tunnel());
        }
        assert!(fs::metadata(&path).unwrap().len() > FLUSH_BYTES as u64);
        assert!(log.buffer.borrow().len() <= FLUSH_BYTES);
    }

    #[test]
    fn a_reopened_log_continues_at_its_path() {
        let directory = Directory::new("reopen");
        let (path, moved) = (
            directory.0.join("access.log"),
            directory.0.join("access.log.1"),
        );
        let file = AccessLogFile::open(Target::File(&path), Format::Text).unwrap();
        let log = file.for_worker();
        log.record(&tunnel());
        log.flush();
        fs::rename(&path, &moved).unwrap();

        file.reopen().unwrap();

        log.record(&tunnel());
        log.flush();
        for path in [&path, &moved] {
            assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let file = AccessLogFile::open(Target::File(Path::new("/dev/full")), Format::Text).unwrap();
        let log = file.for_worker();
        for _ in 0..2 {
            log.record(&tunnel());
            log.flush();
        }
        let losses = file.losses.lock().unwrap();
        assert!(losses.complained.is_some());
        assert!(
            losses.bytes > 0,
            "the second loss waits for the next complaint"
        );
    }
}
