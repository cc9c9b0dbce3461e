//! The worker threads: started once, told what to do, told to drain once.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::downstream::Listener;
use crate::generation::{Generation, ListenerId};
use crate::proxy::Worker;
use crate::telemetry::Metrics;

/// The running workers.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    lines: Lines,
    drain: watch::Sender<bool>,
}

/// The lines to the workers, in their order. Clones are lines to the same.
#[derive(Clone)]
pub(super) struct Lines(Arc<[mpsc::UnboundedSender<Order>]>);

/// What a worker is told to do.
pub(super) enum Order {
    /// With the generation that brought it.
    Listen(Listener, Arc<Generation>),
    /// Accepts what waits at it, and closes it.
    Close(ListenerId),
    Ask(Question),
}

/// What is asked of a worker, on its own thread.
type Question = Box<dyn FnOnce(Rc<Worker>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Lines {
    /// Hands each worker its socket of a listener that `generation` brings.
    pub(super) fn listen(&self, sockets: Vec<Listener>, generation: &Arc<Generation>) {
        for (line, socket) in self.0.iter().zip(sockets) {
            tell(line, Order::Listen(socket, generation.clone()));
        }
    }

    /// Returns how many workers there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Asks a worker something, on its own thread. None: there is no such worker, or not any more.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl AsyncFnOnce(&Worker) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask: Question = Box::new(move |worker| {
            Box::pin(async move {
                // Whoever asked may have gone away.
                drop(answer.send(question(&worker).await));
            })
        });
        self.0.get(worker)?.send(Order::Ask(ask)).ok()?;
        answered.await.ok()
    }

    /// Has a listener closed.
    pub(super) fn close(&self, listener: ListenerId) {
        for line in &*self.0 {
            tell(line, Order::Close(listener));
        }
    }
}

fn tell(line: &mpsc::UnboundedSender<Order>, order: Order) {
    if line.send(order).is_err() {
        warn!("a worker that has ended was told to do something");
    }
}

impl Workers {
    /// Starts `workers` threads, which listen to nothing yet.
    pub(super) fn start(
        workers: usize,
        in_force: &Arc<ArcSwap<Generation>>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let (drain, draining) = watch::channel(false);
        let mut threads = Vec::new();
        let mut lines = Vec::new();
        let (started, starts) = std::sync::mpsc::channel();
        for index in 0..workers {
            let (line, orders) = mpsc::unbounded_channel();
            lines.push(line);
            let in_force = in_force.clone();
            let metrics = metrics.worker(index);
            let draining = draining.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let started = started.clone();
            threads.push(thread.spawn(move || {
                // Made here, since it cannot move to another thread.
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let (runtime, outcome) = match runtime {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let told = started.send(outcome);
                // Whoever waits for the others must not wait for this one's end.
                drop(started);
                if told.is_err() {
                    return;
                }
                if let Some(runtime) = runtime {
                    let worker = Worker::new(index, in_force, metrics);
                    runtime.block_on(serve(worker, orders, draining));
                    // A thread that waits for a dead disk does not keep the process from ending.
                    runtime.shutdown_background();
                }
            })?);
        }
        drop(started);
        starts.iter().collect::<io::Result<()>>()?;
        Ok(Self {
            threads,
            lines: Lines(lines.into()),
            drain,
        })
    }

    /// Returns the lines to the workers.
    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Lets the workers finish what they have begun, for as long as the generation in force allows,
    /// and waits for them.
    pub(super) async fn drain(self) {
        self.drain.send_replace(true);
        let joined = tokio::task::spawn_blocking(move || {
            self.threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match joined.await {
            Ok(0) => info!("drained"),
            Ok(panicked) => warn!(panicked, "workers had panicked"),
            Err(error) => warn!(%error, "cannot wait for the workers"),
        }
    }
}

/// Serves until told to drain, then until everything has ended or the drain timeout has passed.
async fn serve(
    worker: Rc<Worker>,
    orders: mpsc::UnboundedReceiver<Order>,
    mut draining: watch::Receiver<bool>,
) {
    tokio::task::spawn_local(obey(worker.clone(), orders));
    let sweeper = worker.clone();
    tokio::task::spawn_local(async move { sweeper.sweep_forever().await });
    // An error means that the control thread is gone, which is a reason to end as well.
    if draining.wait_for(|draining| *draining).await.is_err() {
        warn!("the control thread is gone");
    }
    worker.sweep.drain();
    worker.pools.clear();
    let (limit, spread) = {
        let timeouts = &worker.generation().timeouts;
        (timeouts.drain, timeouts.drain_spread)
    };
    let dismissing = worker.clone();
    tokio::task::spawn_local(async move { dismissing.dismiss_sessions(spread).await });
    if !worker.drained(limit).await {
        warn!(
            connections = worker.connections(),
            "ended with connections that did not finish"
        );
    }
    worker.access_logs.flush();
}

/// Does what the worker is told.
async fn obey(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut listening = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Listen(listener, generation) => {
                let (close, closed) = oneshot::channel::<()>();
                listening.insert(listener.id, close);
                let accepting = listener.accept_loop(worker.clone(), generation, closed);
                tokio::task::spawn_local(accepting);
            }
            // Dropping the sender is the sign.
            Order::Close(listener) => drop(listening.remove(&listener)),
            Order::Ask(question) => drop(tokio::task::spawn_local(question(worker.clone()))),
        }
    }
}
