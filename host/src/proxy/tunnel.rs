//! The relay of bytes, blind to what they mean.
//!
//! An idle tunnel holds no buffer: what is read into the worker's buffer is written at once, and only
//! what the other side would not take yet is kept, bounded, while that direction stops reading. On a
//! WebSocket the frames' boundaries are followed, so that the proxy can say goodbye between two.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::{self, Farewell};
use super::failure::SessionFailure;
use super::filter;
use super::outlet::Outlet;
use super::relay::Ends;
use super::sweep::{Signal, Watch};
use super::worker::Buffers;
use crate::plugin::Sent;
use crate::protocol::frame::Boundaries;
use crate::stream::Stream;
use crate::telemetry::{ClosedBy, Direction, Fate};

/// Reads of one direction before the worker's other tasks get a turn: 2 MiB at most.
const READS_AT_ONCE: usize = 8;

/// A tunnel: what goes which way, and when it ends.
struct Tunnel {
    ends: Ends,
    to_service: Flow,
    to_client: Flow,
    /// The worker wants the tunnel to end: at the next boundary, if there are any.
    draining: bool,
    /// Who ended it first.
    ended_by: Option<ClosedBy>,
}

/// One direction of a tunnel.
struct Flow {
    outlet: Outlet,
    /// The reader is at its end, or its connection broke.
    ended: bool,
    /// The writer has been told so, or takes nothing any more.
    finished: bool,
    bytes: u64,
    /// None: not WebSocket, or not understood.
    frames: Option<Boundaries>,
}

/// How a tunnel ended.
enum Outcome {
    /// Both directions came to their end.
    Finished,
    Failed(SessionFailure),
}

/// Relays until both directions have ended or nothing has moved for `idle_timeout`. An end in one
/// direction is passed on and leaves the other open.
pub(crate) async fn run(
    ends: Ends,
    (for_service, for_client): (Vec<u8>, Vec<u8>),
    is_websocket: bool,
    idle_timeout: Duration,
) {
    let watch = ends.worker.sweep.watch();
    watch.arm(idle_timeout);
    let mut tunnel = Tunnel {
        ends,
        to_service: Flow::new(for_service, is_websocket),
        to_client: Flow::new(for_client, is_websocket),
        draining: false,
        ended_by: None,
    };
    let outcome = poll_fn(|cx| tunnel.poll(cx, &watch)).await;
    drop(watch);
    // Boxed, so that a tunnel is not larger all its life for how it ends.
    Box::pin(tunnel.end(outcome)).await;
}

/// Ends a session that a plugin ended before it began, after what plugins sent.
pub(crate) async fn refuse(mut ends: Ends, sent: Vec<Sent>, failure: SessionFailure) {
    ends.failed(&failure);
    let (to_service, to_client) = filter::behind(sent, Default::default());
    let farewell = |rest| Farewell {
        rest,
        at_boundary: true,
    };
    closing::say_goodbye(
        &mut ends,
        &failure,
        farewell(to_client),
        farewell(to_service),
    )
    .await;
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Outcome> {
        while let Poll::Ready(signal) = watch.poll_signal(cx) {
            match signal {
                Signal::Expired => return Poll::Ready(Outcome::Failed(SessionFailure::Idle)),
                Signal::Drain => self.draining = true,
            }
        }
        let before = self.moved();
        let Ends {
            worker,
            client,
            service,
            ..
        } = &mut self.ends;
        let draining = self.draining;
        let (one, other) = {
            let buffers = &mut *worker.buffers.borrow_mut();
            (
                self.to_service.poll(cx, client, service, buffers, draining),
                self.to_client.poll(cx, service, client, buffers, draining),
            )
        };
        let after = self.moved();
        if before != after {
            let bytes = &self.ends.worker.metrics.bytes;
            bytes[Direction::ToService].add(after[0] - before[0]);
            bytes[Direction::ToClient].add(after[1] - before[1]);
            watch.touch();
        }
        self.ended_by = self
            .ended_by
            .or(match (self.to_service.ended, self.to_client.ended) {
                (true, false) => Some(ClosedBy::Client),
                (false, true) => Some(ClosedBy::Service),
                _ => None,
            });
        if self.draining && self.to_service.is_at_boundary() && self.to_client.is_at_boundary() {
            return Poll::Ready(Outcome::Failed(SessionFailure::Draining));
        }
        match (one, other) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Outcome::Finished),
            _ => Poll::Pending,
        }
    }

    /// Returns bytes read from the client and from the service, and bytes written to them.
    fn moved(&self) -> [u64; 4] {
        let Self {
            to_service,
            to_client,
            ..
        } = self;
        let written = (to_service.outlet.delivered(), to_client.outlet.delivered());
        [to_service.bytes, to_client.bytes, written.0, written.1]
    }

    async fn end(self, outcome: Outcome) {
        let Self {
            mut ends,
            to_service,
            to_client,
            ended_by,
            ..
        } = self;
        if let Some(record) = &mut ends.ending.record {
            record.bytes_from_client = to_service.bytes;
            record.bytes_to_client = to_client.bytes;
            record.messages_from_client = to_service.messages();
            record.messages_from_service = to_client.messages();
            record.closed_by = ended_by;
        }
        let messages = &ends.worker.metrics.messages;
        messages[Direction::ToService][Fate::Unseen].add(to_service.messages());
        messages[Direction::ToClient][Fate::Unseen].add(to_client.messages());
        let (client, service) = (to_client.farewell(), to_service.farewell());
        match outcome {
            Outcome::Finished => closing::finish(&mut ends, client, service).await,
            Outcome::Failed(failure) => {
                ends.failed(&failure);
                closing::say_goodbye(&mut ends, &failure, client, service).await;
            }
        }
    }
}

impl Flow {
    fn new(early: Vec<u8>, is_websocket: bool) -> Self {
        let mut frames = is_websocket.then(Boundaries::new);
        follow(&mut frames, &early);
        Self {
            bytes: early.len() as u64,
            outlet: Outlet::new(early),
            ended: false,
            finished: false,
            frames,
        }
    }

    /// Moves what there is to move. Ready once the end has been passed on. While `draining`, nothing
    /// more is read from where a frame ends.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffers: &mut Buffers,
        draining: bool,
    ) -> Poll<()> {
        for _ in 0..READS_AT_ONCE {
            ready!(self.outlet.poll(cx, to));
            if self.finished || self.outlet.is_dead() {
                self.finished = true;
                return Poll::Ready(());
            }
            if self.ended {
                // A peer that cannot be told is gone.
                if let Err(error) = ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    tracing::debug!(%error, "a peer was gone before the end of a tunnel");
                }
                self.finished = true;
                return Poll::Ready(());
            }
            if draining && self.is_at_boundary() {
                return Poll::Pending;
            }
            let mut read = ReadBuf::new(&mut buffers.read);
            let broken = ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).is_err();
            let bytes = read.filled();
            if broken || bytes.is_empty() {
                self.ended = true;
                continue;
            }
            self.bytes += bytes.len() as u64;
            follow(&mut self.frames, bytes);
            self.outlet.send(cx, to, bytes);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a Close frame could follow what has been written.
    fn is_at_boundary(&self) -> bool {
        self.outlet.waiting() == 0 && self.frames.as_ref().is_some_and(Boundaries::at_boundary)
    }

    fn farewell(self) -> Farewell {
        let at_boundary = self.frames.as_ref().is_some_and(Boundaries::at_boundary);
        self.outlet.farewell(at_boundary && !self.finished)
    }

    fn messages(&self) -> u64 {
        self.frames.as_ref().map_or(0, Boundaries::messages)
    }
}

/// Keeps track of where frames end.
fn follow(frames: &mut Option<Boundaries>, bytes: &[u8]) {
    if let Some(boundaries) = frames
        && boundaries.advance(bytes).is_err()
    {
        *frames = None;
    }
}
