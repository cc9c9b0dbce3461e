//! The relay of bytes, blind to what they mean.
//!
//! An idle tunnel holds no buffer: what is read into the worker's buffer is written at once, and only
//! what the other side would not take yet is kept, bounded, while that direction stops reading. On a
//! WebSocket the frames' boundaries are followed, so that the proxy can say goodbye between two.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::{self, Farewell};
use super::failure::SessionFailure;
use super::filter;
use super::relay::Ends;
use super::sweep::{Signal, Watch};
use super::worker::Buffers;
use crate::plugin::Sent;
use crate::protocol::frame::Boundaries;
use crate::stream::Stream;
use crate::telemetry::{ClosedBy, Direction, Fate};

/// One direction of a tunnel.
#[derive(Default)]
struct Flow {
    /// Read and not yet taken by the other side, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// The writer may hold bytes back: TLS does.
    unflushed: bool,
    /// The reader is at its end.
    ended: bool,
    /// The writer has been told so.
    finished: bool,
    bytes: u64,
    /// None: not WebSocket, or not understood.
    frames: Option<Box<Boundaries>>,
}

/// How a tunnel ended.
enum Outcome {
    /// Both directions came to their end.
    Finished,
    /// A socket failed.
    Broken(io::Error),
    Failed(SessionFailure),
}

/// Relays until both directions have ended, a socket fails, or nothing has moved for `idle_timeout`.
/// An end in one direction is passed on and leaves the other open.
pub(crate) async fn run(
    mut ends: Ends,
    (for_service, for_client): (Vec<u8>, Vec<u8>),
    is_websocket: bool,
    idle_timeout: Duration,
) {
    let mut to_service = Flow::new(for_service, is_websocket);
    let mut to_client = Flow::new(for_client, is_websocket);
    let watch = ends.worker.sweep.watch();
    watch.arm(idle_timeout);
    let outcome = poll_fn(|cx| {
        poll(
            cx,
            &mut ends,
            &mut to_service,
            &mut to_client,
            &watch,
            is_websocket,
        )
    })
    .await;
    drop(watch);

    if let Some(record) = &mut ends.ending.record {
        record.bytes_from_client = to_service.bytes;
        record.bytes_to_client = to_client.bytes;
        record.messages_from_client = to_service.messages();
        record.messages_from_service = to_client.messages();
        record.closed_by = match (to_service.ended, to_client.ended) {
            (true, false) => Some(ClosedBy::Client),
            (false, true) => Some(ClosedBy::Service),
            _ => None,
        };
    }
    let messages = &ends.worker.metrics.messages;
    messages[Direction::ToService][Fate::Unseen].add(to_service.messages());
    messages[Direction::ToClient][Fate::Unseen].add(to_client.messages());
    match outcome {
        Outcome::Finished => {}
        Outcome::Broken(error) => ends.ending.failed(&error),
        Outcome::Failed(failure) => {
            ends.failed(&failure);
            let (client, service) = (to_client.farewell(), to_service.farewell());
            closing::say_goodbye(&mut ends, &failure, client, service).await;
        }
    }
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

fn poll(
    cx: &mut Context<'_>,
    ends: &mut Ends,
    to_service: &mut Flow,
    to_client: &mut Flow,
    watch: &Watch,
    is_websocket: bool,
) -> Poll<Outcome> {
    while let Poll::Ready(signal) = watch.poll_signal(cx) {
        match signal {
            Signal::Expired => return Poll::Ready(Outcome::Failed(SessionFailure::Idle)),
            Signal::Drain if is_websocket => {
                return Poll::Ready(Outcome::Failed(SessionFailure::Draining));
            }
            // Of what is not understood nobody knows a good moment to end it.
            Signal::Drain => {}
        }
    }
    let Ends {
        worker,
        client,
        service,
        ..
    } = ends;
    let moved = (to_service.bytes, to_client.bytes);
    let buffers = &mut *worker.buffers.borrow_mut();
    let one = to_service.poll(cx, client, service, buffers);
    let other = to_client.poll(cx, service, client, buffers);
    if moved != (to_service.bytes, to_client.bytes) {
        worker.metrics.bytes[Direction::ToService].add(to_service.bytes - moved.0);
        worker.metrics.bytes[Direction::ToClient].add(to_client.bytes - moved.1);
        watch.touch();
    }
    match (one, other) {
        (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
            Poll::Ready(Outcome::Broken(error))
        }
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Outcome::Finished),
        _ => Poll::Pending,
    }
}

impl Flow {
    fn new(early: Vec<u8>, is_websocket: bool) -> Self {
        let mut flow = Self {
            bytes: early.len() as u64,
            frames: is_websocket.then(|| Box::new(Boundaries::new())),
            ..Self::default()
        };
        flow.follow(&early);
        flow.pending = early;
        flow
    }

    /// Moves what there is to move. Ready once the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_pending(cx, to))?;
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut buffers.read);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.ended = true;
                continue;
            }
            self.bytes += bytes.len() as u64;
            self.follow(bytes);
            let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.unflushed = !matches!(to, Stream::Plain(_));
            if written < bytes.len() {
                self.pending = bytes[written..].to_vec();
            }
        }
    }

    /// Writes what was kept back. Ready once nothing is.
    fn poll_pending(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.written = 0;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps track of where frames end.
    fn follow(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames
            && frames.advance(bytes).is_err()
        {
            self.frames = None;
        }
    }

    /// Returns what is left to write, and whether a Close frame may follow it.
    fn farewell(mut self) -> Farewell {
        self.pending.drain(..self.written);
        let at_boundary = self
            .frames
            .as_ref()
            .is_some_and(|frames| frames.at_boundary());
        Farewell {
            rest: self.pending,
            at_boundary,
        }
    }

    fn messages(&self) -> u64 {
        self.frames.as_ref().map_or(0, |frames| frames.messages())
    }
}
