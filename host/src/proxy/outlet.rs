//! What goes to one peer: written at once as far as the peer takes it, and kept for the rest.
//!
//! Whoever fills an outlet stops reading while something waits in it; that is what bounds it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tracing::debug;

use super::closing::Farewell;
use crate::stream::Stream;

/// Bytes on their way to a peer.
#[derive(Default)]
pub(crate) struct Outlet {
    /// Not taken yet, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// The stream may hold bytes back: TLS does.
    unflushed: bool,
    /// The peer takes nothing any more, so what is for it is dropped. What it still has to say is
    /// read all the same.
    dead: bool,
    /// What has been sent ends within a frame.
    within_frame: bool,
    /// What waits for that frame to end.
    behind_frame: Vec<u8>,
    /// Bytes of pings that wait: the proxy's own, so they are not counted as delivered.
    pings: u32,
    /// Bytes that the stream has taken, ever.
    delivered: u64,
}

impl Outlet {
    /// An outlet in which `pending` waits.
    pub(crate) fn new(pending: Vec<u8>) -> Self {
        Self {
            pending,
            ..Self::default()
        }
    }

    /// Writes what it can at once and keeps the rest.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) {
        if bytes.is_empty() || self.dead {
            return;
        }
        let mut written = 0;
        if self.pending.is_empty() {
            self.unflushed = !matches!(stream, Stream::Plain(_));
            match Pin::new(stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(taken)) => written = taken,
                Poll::Ready(Err(error)) => return self.die(&error),
                Poll::Pending => {}
            }
            self.delivered += written as u64;
        }
        self.pending.extend_from_slice(&bytes[written..]);
    }

    /// Notes whether what has been sent ends within a frame, and lets go of what waited for its end.
    pub(crate) fn set_within_frame(&mut self, within_frame: bool) {
        self.within_frame = within_frame && !self.dead;
        if !self.within_frame && !self.behind_frame.is_empty() {
            let waited = std::mem::take(&mut self.behind_frame);
            self.pending.extend_from_slice(&waited);
        }
    }

    /// Whether nothing can be queued just now that would go out before more is sent.
    pub(crate) fn is_within_frame(&self) -> bool {
        self.within_frame
    }

    /// Lets `frame` append what is to go out behind what waits, between two frames.
    pub(crate) fn queue(&mut self, frame: impl FnOnce(&mut Vec<u8>)) {
        if self.dead {
            return;
        }
        if self.within_frame {
            frame(&mut self.behind_frame);
        } else {
            frame(&mut self.pending);
        }
    }

    /// Puts a ping of the proxy behind what waits.
    pub(crate) fn queue_ping(&mut self, ping: &[u8]) {
        self.pings = self.pings.saturating_add(small(ping.len()));
        self.queue(|out| out.extend_from_slice(ping));
    }

    /// Writes what waits. Ready once nothing does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<()> {
        while self.waiting() > 0 {
            let rest = &self.pending[self.written..];
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest)) {
                Ok(0) => self.die(&std::io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.written += taken;
                    self.count(taken);
                }
                Err(error) => self.die(&error),
            }
        }
        if !self.pending.is_empty() {
            // What was long once is no reason to hold its memory.
            self.pending = Vec::new();
            self.written = 0;
            self.unflushed = true;
        }
        if self.unflushed {
            if let Err(error) = ready!(Pin::new(stream).poll_flush(cx)) {
                self.die(&error);
            }
            self.unflushed = false;
        }
        Poll::Ready(())
    }

    /// Returns the bytes that wait for the peer.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Returns the bytes that wait, those included that wait for a frame to end.
    pub(crate) fn queued(&self) -> usize {
        self.waiting() + self.behind_frame.len()
    }

    /// Returns the bytes that the stream has taken, ever.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether the peer takes nothing any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Returns what is left to write. `at_boundary`: a Close frame may follow it.
    pub(crate) fn farewell(mut self, at_boundary: bool) -> Farewell {
        self.pending.drain(..self.written);
        Farewell {
            rest: self.pending,
            at_boundary: at_boundary && !self.dead && !self.within_frame,
        }
    }

    /// Counts what was taken. Which of it were pings does not matter, only how much.
    fn count(&mut self, taken: usize) {
        let pings = small(taken).min(self.pings);
        self.pings -= pings;
        self.delivered += taken as u64 - u64::from(pings);
    }

    fn die(&mut self, error: &std::io::Error) {
        debug!(%error, "a peer takes nothing any more");
        *self = Self {
            dead: true,
            delivered: self.delivered,
            ..Self::default()
        };
    }
}

/// A length, or as much of it as matters beside pings.
fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
