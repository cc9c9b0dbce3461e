//! Directions that stand still while a plugin waits before it judges a message.
//!
//! What comes behind that message is read up to a bound, so that it is noticed when a peer goes, and
//! judged when the plugin has answered. The other direction goes on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::super::failure::SessionFailure;
use super::super::framing::is_data;
use super::judge::fate;
use super::{Filter, HIGH_WATER_BYTES};
use crate::plugin::{MessageVerdict, Resumed};
use crate::protocol::frame::Boundaries;
use crate::protocol::message::Side;

impl Filter {
    /// Sends on the messages that plugins have judged by now. Returns whether there were any.
    pub(super) fn resume(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionFailure> {
        let mut has_resumed = false;
        while let Poll::Ready(resumed) = self.chain.poll_resumed(cx, &mut self.sent) {
            let Resumed { from, verdict } = resumed.map_err(SessionFailure::Plugin)?;
            self.put_resumed(cx, from, verdict)?;
            has_resumed = true;
        }
        if !self.sent.is_empty() {
            let worker = self.ends.worker.clone();
            self.take_sent(None, &mut worker.buffers.borrow_mut().codec.deflater);
            has_resumed = true;
        }
        self.has_sent_back |= self.chain.has_later();
        Ok(has_resumed)
    }

    fn put_resumed(
        &mut self,
        cx: &mut Context<'_>,
        from: Option<Side>,
        verdict: MessageVerdict,
    ) -> Result<(), SessionFailure> {
        let worker = self.ends.worker.clone();
        let buffers = &mut *worker.buffers.borrow_mut();
        let deflater = &mut buffers.codec.deflater;
        let message = from.and_then(|side| self.inlet(side).held.take());
        let (Some(side), Some(message)) = (from, message) else {
            self.take_sent(None, deflater);
            return match verdict {
                MessageVerdict::Close { code, reason } => {
                    Err(SessionFailure::ClosedByPlugin { code, reason })
                }
                _ => Ok(()),
            };
        };
        if let Some(fate) = fate(&verdict).filter(|_| is_data(message.kind)) {
            self.count(side, fate);
        }
        let write = &mut buffers.write;
        write.clear();
        self.take_sent(Some((side, write)), deflater);
        let result = self.put(side, &message, verdict, write, deflater);
        let (outlet, stream) = self.outlet_and_stream(side);
        outlet.send(cx, stream, write);
        result
    }

    /// Reads what comes behind a message that waits, and judges none of it.
    pub(super) fn hold_back(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
        read: &mut [u8],
    ) -> Poll<()> {
        let (inlet, stream) = self.inlet_and_stream(side);
        inlet.paused = true;
        while !inlet.ended {
            let room = HIGH_WATER_BYTES.saturating_sub(inlet.partial.len());
            if room == 0 {
                return Poll::Pending;
            }
            let room = room.min(read.len());
            let mut read = ReadBuf::new(&mut read[..room]);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
                // Nobody is there any more for what it has said.
                Err(_) => {
                    inlet.partial = Vec::new();
                    inlet.ended = true;
                }
                Ok(()) => {
                    let read = read.filled();
                    inlet.bytes += read.len() as u64;
                    inlet.ended = read.is_empty();
                    // What follows a Close frame is nothing (RFC 6455 §5.5.1).
                    if !inlet.closed {
                        inlet.partial.extend_from_slice(read);
                    }
                }
            }
        }
        Poll::Ready(())
    }

    /// Whether a side that has ended said goodbye before, and a message waits in front of that.
    pub(super) fn has_last_words(&self, side: Side) -> bool {
        if !self.chain.blocks(side) {
            return false;
        }
        let mut boundaries = Boundaries::new();
        boundaries.advance(&self.inlet_of(side).partial).is_ok() && boundaries.closed()
    }
}
