//! What the control thread does while the workers serve: signals, changed files, and what the admin
//! listener is asked for. Reloads and swaps are done one after the other, and prepared on another
//! thread, since compiling takes up to seconds.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::checks::Checks;
use super::reload::{self, Build, Reloaded, Reloader, SetWeight};
use super::swap::{self, Preparation, Swap, Swapped};
use super::watch::FileWatch;
use super::workers::Lines;
use crate::telemetry::AccessLogFiles;

/// Requests that wait at most; whoever asks waits in line beyond that.
const LONGEST_QUEUE: usize = 64;

/// How to ask the control thread. Clones ask the same.
#[derive(Clone)]
pub(super) struct Control(mpsc::Sender<Request>);

/// What the control thread is asked for.
pub(super) enum Request {
    /// To put in force what the configuration says now.
    Reload(Answer<Reloaded>),
    /// To tell what that would change.
    Compare(Answer<Reloaded>),
    Swap(Swap, Answer<Swapped>),
    /// None: there is no such endpoint.
    SetWeight(SetWeight, Answer<Option<u64>>),
}

/// Who waits for an outcome, if anybody does. An error is for people.
type Answer<T> = Option<oneshot::Sender<Result<T, String>>>;

impl Control {
    /// Returns the two ends of the line to the control thread.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(LONGEST_QUEUE);
        (Self(sender), receiver)
    }

    /// Reloads.
    pub(super) async fn reload(&self) -> Result<Reloaded, String> {
        self.ask(Request::Reload).await
    }

    /// Returns what a reload would do, and does nothing.
    pub(super) async fn compare(&self) -> Result<Reloaded, String> {
        self.ask(Request::Compare).await
    }

    /// Sets a weight. Returns the number of the generation in force then; None: there is no such endpoint.
    pub(super) async fn set_weight(&self, set: SetWeight) -> Result<Option<u64>, String> {
        self.ask(|answer| Request::SetWeight(set, answer)).await
    }

    /// Swaps a plugin.
    pub(super) async fn swap(&self, swap: Swap) -> Result<Swapped, String> {
        self.ask(|answer| Request::Swap(swap, answer)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, String> {
        const GONE: &str = "tidegate is shutting down";
        let (sender, receiver) = oneshot::channel();
        let asked = self.0.send(request(Some(sender))).await;
        asked.map_err(|_| GONE.to_owned())?;
        receiver.await.map_err(|_| GONE.to_owned())?
    }
}

/// The signals that mean something.
pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens for them from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// What is being prepared, and who waits for it.
enum Work {
    Reload(Build, Answer<Reloaded>),
    Compare(Build, Answer<Reloaded>),
    Swap(Preparation, Answer<Swapped>),
}

/// What has been prepared.
enum Done {
    Reload(Box<reload::Built>, Answer<Reloaded>),
    Compare(Box<reload::Built>, Answer<Reloaded>),
    Swap(swap::Prepared, Answer<Swapped>),
}

/// Does what it is asked for, until a signal says to stop.
pub(super) async fn run(
    mut reloader: Reloader,
    signals: Signals,
    mut files: FileWatch,
    workers: Lines,
    logs: Arc<AccessLogFiles>,
    mut requests: mpsc::Receiver<Request>,
) {
    let Signals {
        mut hangup,
        mut reopen,
        mut terminate,
        mut interrupt,
    } = signals;
    let mut checks = Checks::start(reloader.in_force());
    let mut queue: VecDeque<Request> = VecDeque::new();
    let mut work: Option<Work> = None;
    loop {
        while work.is_none()
            && let Some(request) = queue.pop_front()
        {
            if request.is_wanted() {
                work = Work::begin(&reloader, request);
            }
        }
        let is_idle = work.is_none();
        let done = async {
            match &mut work {
                Some(work) => work.done().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reopen.recv() => {
                for (path, error) in logs.reopen() {
                    error!(%error, path = %path.display(), "cannot open the access log anew");
                }
            }
            _ = hangup.recv() => want_reload(&mut queue),
            () = files.changed() => {
                info!("a file has changed");
                want_reload(&mut queue);
            }
            Some(request) = requests.recv(), if queue.len() < LONGEST_QUEUE => queue.push_back(request),
            // While a generation is in the making, it would be made without this.
            () = reloader.follow_names(), if is_idle => checks.renew(),
            done = done => {
                work = None;
                done.finish(&mut reloader, &workers);
                checks.renew();
                files.set(reloader.watched());
            }
        }
    }
    info!("draining");
    // A second signal says that nobody wants to wait.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("ended by a second signal");
        std::process::exit(1);
    });
}

impl Request {
    /// Whether somebody waits for the outcome still, or never did.
    fn is_wanted(&self) -> bool {
        fn is<T>(answer: &Answer<T>) -> bool {
            answer.as_ref().is_none_or(|answer| !answer.is_closed())
        }
        match self {
            Self::Reload(answer) | Self::Compare(answer) => is(answer),
            Self::Swap(_, answer) => is(answer),
            Self::SetWeight(_, answer) => is(answer),
        }
    }
}

/// Asks for a reload that nobody waits for. One that has not begun yet does for all, unless it is for
/// somebody who may go away.
fn want_reload(queue: &mut VecDeque<Request>) {
    let is_reload = |request: &Request| matches!(request, Request::Reload(None));
    if !queue.iter().any(is_reload) {
        queue.push_back(Request::Reload(None));
    }
}

impl Work {
    /// Returns what is to be waited for, if it is not done at once.
    fn begin(reloader: &Reloader, request: Request) -> Option<Self> {
        Some(match request {
            Request::SetWeight(set, answer) => {
                tell(answer, Ok(reloader.set_weight(&set)));
                return None;
            }
            Request::Reload(answer) => Self::Reload(reloader.start(false), answer),
            Request::Compare(answer) => Self::Compare(reloader.start(true), answer),
            Request::Swap(swap, answer) => Self::Swap(reloader.prepare(swap), answer),
        })
    }

    /// Waits until it is prepared. Cancel safe; to be called until it has returned once.
    async fn done(&mut self) -> Done {
        match self {
            Self::Reload(build, answer) => {
                Done::Reload(Box::new(build.done().await), answer.take())
            }
            Self::Compare(build, answer) => {
                Done::Compare(Box::new(build.done().await), answer.take())
            }
            Self::Swap(swap, answer) => Done::Swap(swap.done().await, answer.take()),
        }
    }
}

impl Done {
    fn finish(self, reloader: &mut Reloader, workers: &Lines) {
        match self {
            Self::Reload(built, answer) => tell(answer, reloader.finish(*built, workers)),
            Self::Compare(built, answer) => tell(answer, reloader.compare(*built)),
            Self::Swap(prepared, answer) => tell(answer, swap::finish(prepared)),
        }
    }
}

/// Answers whoever asked. One who has gone away did not want to know.
fn tell<T>(answer: Answer<T>, outcome: Result<T, String>) {
    if let Some(answer) = answer
        && answer.send(outcome).is_err()
    {
        info!("whoever asked did not wait for the answer");
    }
}
