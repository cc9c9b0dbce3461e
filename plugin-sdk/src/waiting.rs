//! Futures that stand for tickets of the host, and the desk at which they wait for replies.
//!
//! A hook that waits is a task of `export.rs`; natively it is run by [`testing`](crate::testing). Whatever
//! the author awaits beside call-outs and timers is the author's business: wakers work as everywhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::bindings::imports::tidegate::plugin::tickets::Reply;
use crate::call::{Error, Request};

/// Waits for so long. For the `async` traits; it counts against the same limits as a call-out.
///
/// # Errors
///
/// [`Error::Limit`]: the plugin waits for too much already.
pub async fn sleep(time: Duration) -> Result<(), Error> {
    Ticket::new(Order::Sleep(time)).await.map(drop)
}

/// What a ticket is for.
#[derive(Debug)]
pub(crate) enum Order {
    Call(Request),
    Sleep(Duration),
}

/// A ticket, and before that what it will be for. Dropping it cancels it.
pub(crate) struct Ticket(State);

enum State {
    Ordered(Order),
    Waiting(u64),
    Settled,
}

/// Tickets that somebody waits for.
#[derive(Default)]
struct Desk {
    /// With the task whose poll asked last.
    waiting: HashMap<u64, (u64, Waker)>,
    /// Replies that have not been taken yet.
    replies: HashMap<u64, Reply>,
    /// The task being polled.
    task: Option<u64>,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::default();
}

impl Ticket {
    pub(crate) fn new(order: Order) -> Self {
        Self(State::Ordered(order))
    }
}

impl Future for Ticket {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = match std::mem::replace(&mut self.0, State::Settled) {
            State::Waiting(ticket) => ticket,
            State::Ordered(order) => host::start(order)?,
            State::Settled => return Poll::Ready(Err(Error::Failed)),
        };
        DESK.with_borrow_mut(|desk| {
            if let Some(reply) = desk.replies.remove(&ticket) {
                return Poll::Ready(Ok(reply));
            }
            let task = desk.task.expect("awaited in an `async` hook of a plugin");
            desk.waiting.insert(ticket, (task, cx.waker().clone()));
            self.0 = State::Waiting(ticket);
            Poll::Pending
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let State::Waiting(ticket) = self.0 {
            let was_open = DESK.with_borrow_mut(|desk| {
                desk.replies.remove(&ticket);
                desk.waiting.remove(&ticket).is_some()
            });
            if was_open {
                host::cancel(ticket);
            }
        }
    }
}

/// Says that a future has something to do.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls a task until it is done, or waits for something that has not come.
pub(crate) fn poll<F: Future + ?Sized>(task: u64, mut future: Pin<&mut F>) -> Poll<F::Output> {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut cx = Context::from_waker(&waker);
    let before = DESK.with_borrow_mut(|desk| desk.task.replace(task));
    let mut result = Poll::Pending;
    while result.is_pending() && flag.0.swap(false, Ordering::Relaxed) {
        result = future.as_mut().poll(&mut cx);
    }
    DESK.with_borrow_mut(|desk| desk.task = before);
    result
}

/// Hands in a reply. Returns the task that waits for it; None: nobody does any more.
pub(crate) fn settle(ticket: u64, reply: Reply) -> Option<u64> {
    let (task, waker) = DESK.with_borrow_mut(|desk| {
        let waiting = desk.waiting.remove(&ticket)?;
        desk.replies.insert(ticket, reply);
        Some(waiting)
    })?;
    waker.wake();
    Some(task)
}

/// Returns the task that waits for a ticket.
#[cfg(target_arch = "wasm32")]
pub(crate) fn owner(ticket: u64) -> Option<u64> {
    DESK.with_borrow(|desk| desk.waiting.get(&ticket).map(|(task, _)| *task))
}

#[cfg(target_arch = "wasm32")]
mod host {
    use std::time::Duration;

    use super::{Error, Order};
    use crate::bindings::imports::tidegate::plugin::tickets;

    pub(super) fn start(order: Order) -> Result<u64, Error> {
        let ticket = match order {
            Order::Sleep(time) => tickets::start_timer(millis(time)),
            Order::Call(request) => tickets::start_call(&tickets::Call {
                upstream: request.upstream,
                method: request.method,
                target: request.target,
                fields: request.fields,
                body: request.body,
                timeout: request.timeout.map(millis),
            }),
        };
        ticket.map_err(Error::from)
    }

    pub(super) fn cancel(ticket: u64) {
        tickets::cancel(ticket);
    }

    /// At least one: less is nothing that a clock could tell.
    fn millis(time: Duration) -> u32 {
        u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod host {
    use std::cell::RefCell;

    use super::{Error, Order};

    /// What was started and is not answered, by a test that is the host.
    #[derive(Default)]
    pub(crate) struct Host {
        next: u64,
        pub(crate) open: Vec<(u64, Order)>,
    }

    thread_local! {
        pub(crate) static HOST: RefCell<Host> = RefCell::default();
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "the host in earnest may have its limits"
    )]
    pub(super) fn start(order: Order) -> Result<u64, Error> {
        HOST.with_borrow_mut(|host| {
            let ticket = host.next;
            host.next += 1;
            host.open.push((ticket, order));
            Ok(ticket)
        })
    }

    pub(super) fn cancel(ticket: u64) {
        HOST.with_borrow_mut(|host| host.open.retain(|(open, _)| *open != ticket));
    }
}
