//! A child process whose output is read line by line as it comes. What the lines mean is left to others.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal};
use tokio::sync::watch;

use super::within;

/// A child process, killed at the end of the test.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Lines::read("stdout", child.stdout.take().unwrap());
        let stderr = Lines::read("stderr", child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Time that its threads have been on a core.
    pub(crate) fn cpu_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let times = tasks.filter_map(|task| {
            let times = std::fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
            times.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let status = within("exit of the process", async {
            self.stdout.ended().await;
            self.stderr.ended().await;
            // Both pipes are closed, so this returns at once.
            self.child.wait()
        });
        status.await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            for lines in [&self.stdout, &self.stderr] {
                eprintln!(
                    "--- {} of process {}\n{}",
                    lines.name,
                    self.child.id(),
                    lines.text()
                );
            }
        }
    }
}

/// Lines of a pipe so far, and a place in them up to which the test has looked.
pub(crate) struct Lines {
    name: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
    /// How many lines there are; closed at the end of the pipe.
    count: watch::Receiver<usize>,
    seen: usize,
}

impl Lines {
    fn read(name: &'static str, pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (counted, count) = watch::channel(0);
        let written = lines.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length != 0)
            {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches('\n')
                    .to_owned();
                line.clear();
                let mut lines = written.lock().unwrap();
                lines.push(text);
                counted.send_replace(lines.len());
            }
        });
        Self {
            name,
            lines,
            count,
            seen: 0,
        }
    }

    /// Waits for the next line in which `find` finds something. Lines before it are passed over.
    pub(crate) async fn find<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let search = async {
            loop {
                while let Some(line) = self.next() {
                    if let Some(found) = find(&line) {
                        return found;
                    }
                }
                if self.count.changed().await.is_err()
                    && self.seen == self.lines.lock().unwrap().len()
                {
                    panic!("{} ended without {what}", self.name);
                }
            }
        };
        within(what, search).await
    }

    /// Waits for the next line.
    pub(crate) async fn line(&mut self) -> String {
        self.find("line", |line| Some(line.to_owned())).await
    }

    /// All lines so far.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    async fn ended(&mut self) {
        while self.count.changed().await.is_ok() {}
    }

    fn next(&mut self) -> Option<String> {
        let line = self.lines.lock().unwrap().get(self.seen).cloned()?;
        self.seen += 1;
        Some(line)
    }
}

/// Lets this process, and those it starts, open as many sockets as the system allows at all.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
}
