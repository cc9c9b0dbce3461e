//! What a swap costs those who talk meanwhile: `cargo bench --bench hand_over`. Prints numbers and judges
//! none of them, but stops if a message is lost, doubled or out of order.
//!
//! The proxy is a process of its own with two workers; clients and service share another one, so on few
//! cores the times are those of all three together.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a program for developers, as the tests are"
)]

#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the tests use the rest of it"
)]
#[path = "../../tests/harness/mod.rs"]
mod harness;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{
    Connection, Folder, Service, Tidegate, guest, one_listener, raise_descriptor_limit, text,
};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    raise_descriptor_limit();
    let mut chosen: Vec<String> = std::env::args().skip(1).collect();
    chosen.retain(|argument| argument != "--bench");
    if chosen == ["service"] {
        return serve().await;
    }
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    if wants("talking") {
        talking(1000, 100).await;
    }
    if wants("memory") {
        memory(100, 1000).await;
    }
    if wants("idle") {
        idle(9500).await;
    }
}

/// Sessions that talk while their plugin, which numbers their messages, is swapped.
async fn talking(sessions: usize, swaps: usize) {
    let service = Service::websocket_echo().await;
    let proxy = Proxy::start(service.address).await;
    let (stop, stopped) = watch::channel(false);
    let mut talks = JoinSet::new();
    for n in 0..sessions {
        let client = proxy.tidegate.websocket("/").await;
        let pause = PERIOD.mul_f64(n as f64 / sessions as f64);
        talks.spawn(talk(client, pause, stopped.clone()));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let steady = begin..Instant::now();
    let mut windows = Vec::new();
    let mut moving = Vec::new();
    for _ in 0..swaps {
        let begin = Instant::now();
        proxy.swap().await;
        let in_force = Instant::now();
        proxy.moved(sessions as u64).await;
        moving.push(in_force.elapsed());
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed())).await;
        windows.push(begin..begin + Duration::from_secs(1));
    }
    stop.send_replace(true);
    let mut trips = Vec::new();
    while let Some(talk) = talks.join_next().await {
        trips.extend(talk.unwrap());
    }
    let within = |windows: &[std::ops::Range<Instant>]| {
        let trips = trips.iter();
        let inside = trips.filter(|(at, _)| windows.iter().any(|window| window.contains(at)));
        inside.map(|(_, trip)| *trip).collect::<Vec<_>>()
    };
    println!(
        "{sessions} sessions, {swaps} swaps, {} messages: none lost, doubled or out of order",
        trips.len()
    );
    println!("  in steady state        {}", told(within(&[steady])));
    println!("  in the second of a swap {}", told(within(&windows)));
    println!("  until all have moved   {}", told(moving));
}

/// What each session waits between two messages.
const PERIOD: Duration = Duration::from_millis(100);

/// Sends messages that the service echoes and orders that the plugin answers with its number, in turn.
/// Returns when each was sent and how long its answer took.
async fn talk(
    mut client: Connection,
    pause: Duration,
    stopped: watch::Receiver<bool>,
) -> Vec<(Instant, Duration)> {
    tokio::time::sleep(pause).await;
    let mut clock = tokio::time::interval(PERIOD);
    let mut trips = Vec::new();
    for n in 1_u64.. {
        clock.tick().await;
        if *stopped.borrow() {
            break;
        }
        let (said, expected) = match n % 2 {
            0 => ("count".to_owned(), n.to_string()),
            _ => (format!("message {n}"), format!("message {n}")),
        };
        let begin = Instant::now();
        client.send_frame(text(&said)).await;
        let answer = client.read_frame().await;
        assert!(
            answer == text(&expected),
            "{answer:?}, but {expected} was due"
        );
        trips.push((begin, begin.elapsed()));
    }
    trips
}

/// What a process holds after many swaps.
async fn memory(sessions: usize, swaps: usize) {
    let service = Service::websocket_echo().await;
    let proxy = Proxy::start(service.address).await;
    let mut clients = Vec::new();
    for _ in 0..sessions {
        clients.push(proxy.tidegate.websocket("/").await);
    }
    println!("{swaps} swaps under {sessions} sessions");
    for n in 0..=swaps {
        if n == swaps / 10 || n == swaps {
            let held = proxy.held();
            println!("  after {n}: {held}");
        }
        if n < swaps {
            proxy.swap().await;
            proxy.moved(sessions as u64).await;
        }
    }
}

/// A swap under sessions that say nothing, beside one that does.
async fn idle(sessions: usize) {
    let service = Elsewhere::start();
    let proxy = Proxy::start(service.address).await;
    let mut clients = Vec::new();
    for _ in 0..sessions {
        clients.push(proxy.tidegate.websocket("/").await);
    }
    let mut talker = proxy.tidegate.websocket("/").await;
    let mut trips = async |until: &dyn Fn() -> bool| {
        let mut trips = Vec::new();
        while !until() {
            let begin = Instant::now();
            talker.expect_echo("hello").await;
            trips.push(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        trips
    };
    let begin = Instant::now();
    let steady = trips(&|| begin.elapsed() > Duration::from_secs(3)).await;
    let (busy, begin) = (proxy.worker_time(), Instant::now());
    let is_over = std::cell::Cell::new(false);
    let swap = async {
        proxy.swap().await;
        let in_force = begin.elapsed();
        proxy.moved(sessions as u64 + 1).await;
        is_over.set(true);
        (in_force, begin.elapsed())
    };
    let (meanwhile, (in_force, all)) = {
        let is_over = || is_over.get();
        tokio::join!(trips(&is_over), swap)
    };
    println!("{sessions} idle sessions beside one that talks");
    println!("  in steady state  {}", told(steady));
    println!("  during the swap  {}", told(meanwhile));
    println!(
        "  compiled after {in_force:?}, all moved after {all:?}; time of the workers: {:?}",
        proxy.worker_time() - busy
    );
}

/// A proxy with two workers and a plugin that numbers messages.
struct Proxy {
    tidegate: Tidegate,
    module: Vec<u8>,
}

impl Proxy {
    async fn start(service: SocketAddr) -> Self {
        let module = guest("guest-script");
        // The shortest timeout says how often idle sessions are looked at.
        let configuration = one_listener(&format!(
            "[timeouts]\nkeep_alive = \"200ms\"\n[[sites.routes]]\nmatch = \"/\"\nurl = \"http://{service}\"\nwebsocket = {{ idle_timeout = \"1h\" }}\nplugins = [\"mine\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[plugins.mine]\nmodule = {module:?}\n\
             config = {{ name = \"a\" }}\n"
        ));
        let configuration = configuration.replace("workers = 1", "workers = 2");
        Self {
            tidegate: Tidegate::start_in(Folder::new(), &configuration).await,
            module: std::fs::read(module).unwrap(),
        }
    }

    async fn swap(&self) {
        let mut admin = Connection::open(self.tidegate.admin_address()).await;
        let head = format!(
            "POST /v1/plugins/mine/swap HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            self.module.len()
        );
        admin.send(head).await;
        admin.send(&self.module).await;
        let head = admin.read_head().await;
        assert_eq!(head.status(), 200);
    }

    /// Waits until all sessions are on the version in force.
    async fn moved(&self, sessions: u64) {
        loop {
            let answer = self.tidegate.admin("/v1/plugins").await;
            let status: Value = serde_json::from_str(answer.text()).unwrap();
            let versions = status["plugins"][0]["versions"].as_array().unwrap();
            if versions.len() == 1 && versions[0]["sessions"] == sessions {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.tidegate.process.id()))
    }

    fn held(&self) -> String {
        let maps = std::fs::read_to_string(self.proc("maps")).unwrap();
        format!(
            "{} MiB, {} mappings, {} descriptors",
            self.tidegate.memory() >> 20,
            maps.lines().count(),
            std::fs::read_dir(self.proc("fd")).unwrap().count()
        )
    }

    /// Time that all workers have been on a core.
    fn worker_time(&self) -> Duration {
        let tasks = std::fs::read_dir(self.proc("task")).unwrap();
        let nanoseconds = tasks.map(|task| {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap();
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap();
            let busy = times.split(' ').next().unwrap().parse().unwrap();
            if name.starts_with("worker") { busy } else { 0 }
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

/// The service in a process of its own: one process has not descriptors enough for both ends.
struct Elsewhere {
    address: SocketAddr,
    child: Child,
}

impl Elsewhere {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("service")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        Self {
            address: line.trim().parse().unwrap(),
            child,
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn serve() {
    let service = Service::websocket_echo().await;
    println!("{}", service.address);
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

fn told(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!(
        "p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?} of {}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        times.len()
    )
}
