//! The relay of messages, each of which passes the chain.
//!
//! On `pass` a message's original bytes go on as they came: with their mask and their fragmentation,
//! straight from the worker's buffer if they arrived whole. Only what a plugin changed or made is
//! framed anew, and what comes compressed to a side that is not, or the reverse; and compressed
//! messages are inflated only for somebody who wants them so. What becomes of a message is in
//! `judge.rs`; parsing is `protocol/message/`'s business, the verdict the chain's.

mod held;
mod judge;
mod parts;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::closing;
use super::compression::Legs;
use super::failure::SessionFailure;
use super::framing::frame_plain;
use super::liveness::{Due, Liveness, encode_ping};
use super::outlet::Outlet;
use super::registry::{Entry, Figures};
use super::relay::{Clocks, Crossing, Ends, Watched, Way};
use super::sweep::{Signal, Watch};
use super::tunnel;
use super::worker::Buffers;
use crate::config::Oversize;
use crate::plugin::{Handover, MessageChain, Sent};
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageReader, Side};
use crate::stream::Stream;
use crate::telemetry::{ClosedBy, Direction};
use judge::Held;
use parts::Passing;

/// While more than this waits for a side, no more messages are judged that may add to it: what
/// plugins make counts as much as what peers send.
const HIGH_WATER_BYTES: usize = 64 * 1024;

/// Worker buffers that a long message made larger than this are given back.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// A session whose messages are seen.
struct Filter {
    ends: Ends,
    chain: MessageChain,
    from_client: Inlet,
    from_service: Inlet,
    to_client: Outlet,
    to_service: Outlet,
    /// What plugins have sent and is not framed yet.
    sent: Vec<Sent>,
    compression: Legs,
    limits: Limits,
    counts: Counts,
    /// The first Close frame: its code, and who sent it.
    close: Option<(u16, Side)>,
    /// The Close frame has been delivered; now the other side's is waited for.
    closing: bool,
    /// Plugins have sent something against the stream, and something still waits.
    has_sent_back: bool,
    /// A message has ended that others waited for.
    let_go: bool,
    /// Plugins were swapped for others that want nothing.
    is_unwatched: bool,
    liveness: Option<Box<Liveness>>,
}

/// What comes from one side.
struct Inlet {
    reader: MessageReader,
    /// Messages are to be compressed for the other side.
    compresses: bool,
    /// The message that goes on in parts, if one does.
    passing: Option<Box<Passing>>,
    /// A message that a plugin waits before it judges.
    held: Option<Box<Held<'static>>>,
    /// Bytes of a frame that is not whole, or of messages whose turn has not come.
    partial: Vec<u8>,
    /// There are messages in `partial` that could be judged, or could but for one that waits.
    paused: bool,
    /// Nothing more comes: the peer ended its side, or its connection broke.
    ended: bool,
    /// A Close frame came; what follows it is nothing (RFC 6455 §5.5.1).
    closed: bool,
    bytes: u64,
    /// How many of these answered pings of the proxy.
    answers: u64,
}

/// How long messages may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest that is put together.
    pub(crate) max_message_bytes: usize,
    pub(crate) oversize: Oversize,
}

/// Messages, for the record of the session.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) from_client: u64,
    pub(crate) from_service: u64,
    pub(crate) dropped: u64,
    pub(crate) replaced: u64,
    pub(crate) sent: u64,
}

/// How a filtered session ended.
enum Outcome {
    /// Both sides have closed.
    Finished,
    Failed(SessionFailure),
    /// Nobody watches any more.
    Unwatched,
}

/// Relays messages until both sides have closed, the session fails, or nobody watches. `opening` is what
/// plugins sent when the session was opened.
pub(crate) fn run(
    ends: Ends,
    (early_client, early_service): (Vec<u8>, Vec<u8>),
    entry: Box<Entry>,
    watched: Watched,
    opening: Vec<Sent>,
    clocks: Clocks,
) -> impl Future<Output = ()> {
    let watch = ends.worker.sweep.watch_session(entry);
    watch.arm(clocks.idle_timeout);
    watch.listen();
    if let Some(liveness) = &clocks.liveness {
        watch.set_alarm(liveness.next());
    }
    let way = |early: Vec<u8>| Way {
        outlet: Outlet::default(),
        bytes: early.len() as u64,
        unread: early,
    };
    go_on(Crossing {
        ends,
        watch,
        liveness: clocks.liveness,
        watched: Box::new(watched),
        sent: opening,
        from_client: way(early_client),
        from_service: way(early_service),
    })
}

/// As [`run`], with a session that nobody watched so far.
pub(crate) fn go_on(crossing: Crossing) -> impl Future<Output = ()> {
    let Crossing {
        ends,
        watch,
        liveness,
        watched,
        sent,
        from_client,
        from_service,
    } = crossing;
    let Watched {
        chain,
        compression,
        limits,
        counts,
    } = *watched;
    watch.is_on(chain.versions());
    let inlet = |side, unread: Vec<u8>, bytes| Inlet {
        reader: MessageReader::new(side, compression.is_compressed(side)),
        passing: None,
        held: None,
        compresses: compression.compresses(side),
        bytes,
        paused: !unread.is_empty(),
        partial: unread,
        ended: false,
        closed: false,
        answers: 0,
    };
    let mut filter = Filter {
        chain,
        from_client: inlet(Side::Client, from_client.unread, from_client.bytes),
        from_service: inlet(Side::Service, from_service.unread, from_service.bytes),
        to_client: from_service.outlet,
        to_service: from_client.outlet,
        sent,
        compression,
        limits,
        counts,
        close: None,
        closing: false,
        has_sent_back: false,
        let_go: false,
        is_unwatched: false,
        liveness,
        ends,
    };
    // What plugins sent when they were told of the session goes first.
    let worker = filter.ends.worker.clone();
    filter.take_sent(None, &mut worker.buffers.borrow_mut().codec.deflater);
    drop(worker);
    // An `async fn` would keep room for its arguments as well, for as long as it lives.
    async move {
        let failure = match poll_fn(|cx| filter.poll(cx, &watch)).await {
            Outcome::Unwatched => {
                tokio::task::spawn_local(tunnel::go_on(filter.cross(watch)));
                return;
            }
            Outcome::Finished => None,
            Outcome::Failed(failure) => Some(failure),
        };
        drop(watch);
        // Boxed, so that a session is not larger all its life for how it ends.
        Box::pin(filter.end(failure)).await;
    }
}

impl Filter {
    fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Outcome> {
        let mut alarm = false;
        while let Poll::Ready(signal) = watch.poll_signal(cx) {
            match signal {
                Signal::Expired => return Poll::Ready(self.expired()),
                // The peers end it themselves, and in bounded time.
                Signal::Drain if self.close.is_some() => {}
                Signal::Drain => return Poll::Ready(Outcome::Failed(SessionFailure::Draining)),
                Signal::Close => {
                    if let Some(goodbye) = watch.goodbye().filter(|_| self.close.is_none()) {
                        let failure = SessionFailure::ClosedByOperator(goodbye);
                        return Poll::Ready(Outcome::Failed(failure));
                    }
                }
                Signal::Alarm => alarm = true,
            }
        }
        let mut result = self.catch_up(watch).and_then(|()| self.relay(cx, watch));
        // Now, when all that has come was heard.
        if alarm && result.is_ok() {
            result = self.ring(watch).and_then(|()| self.relay(cx, watch));
        }
        if self.close.is_some() && !self.closing && self.has_delivered() {
            self.closing = true;
            watch.shorten(self.ends.close_timeout);
        }
        if let Err(failure) = result {
            return Poll::Ready(Outcome::Failed(failure));
        }
        if self.is_unwatched && self.is_between_messages() {
            return Poll::Ready(Outcome::Unwatched);
        }
        self.settled().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether the session goes on, and nothing of a message is held on either way.
    fn is_between_messages(&mut self) -> bool {
        let is_idle = |inlet: &mut Inlet| {
            let is_open = !inlet.ended && !inlet.closed;
            is_open && inlet.partial.is_empty() && inlet.reader.is_idle()
        };
        let inlets = [&mut self.from_client, &mut self.from_service];
        self.close.is_none() && inlets.into_iter().all(is_idle) && !self.chain.has_later()
    }

    /// Leaves the session to a relay that does not look at messages.
    fn cross(self, watch: Watch) -> Crossing {
        let way = |inlet: Inlet, outlet| Way {
            outlet,
            unread: inlet.partial,
            bytes: inlet.bytes,
        };
        Crossing {
            ends: self.ends,
            watch,
            liveness: self.liveness,
            watched: Box::new(Watched {
                chain: self.chain,
                compression: self.compression,
                limits: self.limits,
                counts: self.counts,
            }),
            sent: self.sent,
            from_client: way(self.from_client, self.to_service),
            from_service: way(self.from_service, self.to_client),
        }
    }

    /// Moves the session to the versions of its plugins that are assigned to it: whatever has been
    /// judged was judged whole, so this is between two messages.
    fn catch_up(&mut self, watch: &Watch) -> Result<(), SessionFailure> {
        if !self.chain.is_behind() || self.close.is_some() {
            return Ok(());
        }
        let handover = self.chain.catch_up(&mut self.sent);
        watch.is_on(self.chain.versions());
        let worker = self.ends.worker.clone();
        self.take_sent(None, &mut worker.buffers.borrow_mut().codec.deflater);
        match handover.map_err(SessionFailure::Plugin)? {
            Handover::Continue => {
                self.is_unwatched = !self.chain.is_watching()
                    && !self.chain.is_parked()
                    && self.compression.is_transparent();
                Ok(())
            }
            Handover::Overdue => Err(SessionFailure::Overdue),
            Handover::Closed { code, reason } => {
                Err(SessionFailure::ClosedByPlugin { code, reason })
            }
        }
    }

    /// Moves what there is to move, and notes that it moved.
    fn relay(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Result<(), SessionFailure> {
        let (before, answered) = (self.moved(), self.answered());
        let result = self.pump(cx, watch);
        let after = self.moved();
        if before != after {
            let bytes = &self.ends.worker.metrics.bytes;
            bytes[Direction::ToService].add(after[0] - before[0]);
            bytes[Direction::ToClient].add(after[1] - before[1]);
            // That a side is there is not yet that something is said.
            let moved = after.iter().sum::<u64>() - before.iter().sum::<u64>();
            if !self.closing && moved > self.answered() - answered {
                watch.touch();
            }
            watch.passed(Figures {
                bytes: [after[0], after[1]],
                messages: [self.counts.from_client, self.counts.from_service],
            });
        }
        if let Some(liveness) = &mut self.liveness {
            for (index, side) in [Side::Client, Side::Service].into_iter().enumerate() {
                if after[index] > before[index] {
                    liveness.heard(side, watch.now());
                }
            }
            if self.close.is_some() {
                liveness.stop();
            }
            watch.set_alarm(liveness.next());
        }
        result
    }

    /// Does what is due.
    fn ring(&mut self, watch: &Watch) -> Result<(), SessionFailure> {
        while let Some(liveness) = &mut self.liveness {
            let (side, is_ping) = match liveness.due(watch.past()) {
                None => break,
                Some(Due::Age) => return Err(SessionFailure::Age),
                Some(Due::Ping(side)) => (side, true),
                Some(Due::Unanswered(side)) => (side, false),
            };
            let (from, onward, to) = match side {
                Side::Client => (&self.from_client, &self.to_service, &mut self.to_client),
                Side::Service => (&self.from_service, &self.to_client, &mut self.to_service),
            };
            if is_ping && to.is_within_frame() {
                // It is sent plenty, and could not hear the ping before that ends.
                liveness.heard(side, watch.now());
            } else if is_ping {
                to.queue_ping(&encode_ping(side, &liveness.token()));
                liveness.pinged(side, watch.now());
            } else if from.paused || onward.waiting() > 0 || to.waiting() > HIGH_WATER_BYTES {
                // As long as too much waits for others, nothing is read: the answer may be there.
                liveness.heard(side, watch.now());
            } else {
                return Err(SessionFailure::PingUnanswered(side));
            }
        }
        Ok(())
    }

    /// Returns how a session ended in which nothing has moved for too long.
    fn expired(&self) -> Outcome {
        match self.close {
            None => Outcome::Failed(SessionFailure::Idle),
            // The peers had their time to take the Close frames, or to end their connections.
            Some(_) if self.from_client.closed && self.from_service.closed => Outcome::Finished,
            Some((_, closer)) => Outcome::Failed(SessionFailure::CloseUnanswered(closer.other())),
        }
    }

    /// Moves what there is to move in both directions.
    fn pump(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Result<(), SessionFailure> {
        if self.chain.is_parked() && self.resume(cx)? {
            self.catch_up(watch)?;
        }
        for side in [Side::Client, Side::Service] {
            if let Poll::Ready(Err(failure)) = self.pump_from(cx, side) {
                return Err(failure);
            }
        }
        // What has begun to wait just now has to be looked at to begin at all.
        if self.chain.is_parked() && self.resume(cx)? {
            cx.waker().wake_by_ref();
        }
        // Judging the second side may have left something for it to be sent. On this runtime nothing
        // becomes writable between the two polls, so whoever waits for an outlet will be woken.
        for side in [Side::Client, Side::Service] {
            let (outlet, stream) = self.outlet_and_stream(side);
            if outlet.poll(cx, stream).is_pending() {
                continue;
            }
        }
        // A side that is read first may have waited for what the other's messages let go.
        if std::mem::take(&mut self.let_go) {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Judges what comes from one side, until it is at its end, or there is nothing more for now, or
    /// someone does not take what there is.
    fn pump_from(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Result<(), SessionFailure>> {
        let worker = self.ends.worker.clone();
        loop {
            let (outlet, stream) = self.outlet_and_stream(side);
            ready!(outlet.poll(cx, stream));
            // Plugins may send to the side that is read from; it has to take that too.
            if self.sent_back(side) > HIGH_WATER_BYTES {
                let (outlet, stream) = self.outlet_and_stream(side.other());
                ready!(outlet.poll(cx, stream));
                // What waits for a message to end, that end lets go.
                if self.sent_back(side) > HIGH_WATER_BYTES {
                    return Poll::Pending;
                }
            }
            let buffers = &mut *worker.buffers.borrow_mut();
            if self.chain.blocks(side) {
                return self.hold_back(cx, side, &mut buffers.read).map(Ok);
            }
            let (inlet, stream) = self.inlet_and_stream(side);
            let mut length = 0;
            if !inlet.paused {
                if inlet.ended {
                    return Poll::Ready(Ok(()));
                }
                let mut read = ReadBuf::new(&mut buffers.read);
                // A connection that breaks is at its end as well.
                let broken = ready!(Pin::new(stream).poll_read(cx, &mut read)).is_err();
                length = if broken { 0 } else { read.filled().len() };
                inlet.bytes += length as u64;
                inlet.ended = length == 0;
                if inlet.ended || inlet.closed {
                    continue;
                }
            }
            self.take_in(cx, side, buffers, length)?;
            if self.inlet(side).paused && !self.chain.blocks(side) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Judges what waits and the `length` bytes that were read, and sends on what remains of it.
    fn take_in(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
        buffers: &mut Buffers,
        length: usize,
    ) -> Result<(), SessionFailure> {
        let Buffers {
            read,
            message,
            write,
            codec,
        } = buffers;
        let mut partial = std::mem::take(&mut self.inlet(side).partial);
        let input = if partial.is_empty() {
            &read[..length]
        } else {
            partial.extend_from_slice(&read[..length]);
            &partial[..]
        };
        let (judged, result) = self.judge(side, input, message, write, codec);
        // What passed before a failure still goes out.
        let (outlet, stream) = self.outlet_and_stream(side);
        outlet.send(cx, stream, judged.bytes(input, write));
        outlet.set_within_frame(judged.within_frame);
        let inlet = self.inlet(side);
        inlet.paused = judged.paused;
        inlet.partial = if judged.used == input.len() {
            // A message that was long once is no reason to hold its memory.
            Vec::new()
        } else if partial.is_empty() {
            input[judged.used..].to_vec()
        } else {
            partial.drain(..judged.used);
            partial
        };
        write.shrink_to(KEPT_BUFFER_BYTES);
        message.shrink_to(KEPT_BUFFER_BYTES);
        codec.shrink_to(KEPT_BUFFER_BYTES);
        result
    }

    /// Returns the bytes that wait for the side whose messages are being judged, if plugins have
    /// added to them. What only the other peer sends is that direction's own business.
    fn sent_back(&mut self, side: Side) -> usize {
        if !self.has_sent_back {
            return 0;
        }
        let waiting = self.outlet(side.other()).queued() + self.chain.waiting_for(side);
        let queued = self.to_client.queued() + self.to_service.queued();
        self.has_sent_back = queued > 0 || self.chain.has_later();
        waiting
    }

    /// Returns bytes read from the client and from the service, and bytes written to them.
    fn moved(&self) -> [u64; 4] {
        [
            self.from_client.bytes,
            self.from_service.bytes,
            self.to_client.delivered(),
            self.to_service.delivered(),
        ]
    }

    /// Returns the bytes read that answered pings of the proxy.
    fn answered(&self) -> u64 {
        self.from_client.answers + self.from_service.answers
    }

    /// Whether nothing waits for either side.
    fn has_delivered(&self) -> bool {
        self.to_client.waiting() + self.to_service.waiting() == 0
    }

    /// Returns how the session ended, if nothing more can come or go.
    fn settled(&self) -> Option<Outcome> {
        let has_more = |side| self.inlet_of(side).paused && !self.chain.blocks(side);
        if !self.has_delivered() || has_more(Side::Client) || has_more(Side::Service) {
            return None;
        }
        let (client, service) = (&self.from_client, &self.from_service);
        if client.closed && service.closed {
            return Some(Outcome::Finished);
        }
        let has_ended = |side| self.inlet_of(side).ended && !self.has_last_words(side);
        match (
            self.close,
            has_ended(Side::Client),
            has_ended(Side::Service),
        ) {
            // Who has sent a Close frame may end its side with it, as browsers do over HTTP/2, and waits
            // for the answer. The other may go without one (RFC 6455 §7.1.4).
            (Some((_, Side::Client)), _, ended) | (Some((_, Side::Service)), ended, _) => {
                ended.then_some(Outcome::Finished)
            }
            (None, true, _) => Some(Outcome::Failed(SessionFailure::ClientGone)),
            (None, _, true) => Some(Outcome::Failed(SessionFailure::ServiceGone)),
            (None, false, false) => None,
        }
    }

    /// Ends the session. No failure: both sides have closed.
    async fn end(self, failure: Option<SessionFailure>) {
        let Self {
            mut ends,
            chain,
            from_client,
            from_service,
            counts,
            close,
            ..
        } = self;
        // A side that was sent a Close frame is sent no other.
        let farewell = (
            self.to_client.farewell(!from_service.closed),
            self.to_service.farewell(!from_client.closed),
        );
        if let Some(record) = &mut ends.ending.notes {
            record.bytes_from_client = from_client.bytes;
            record.bytes_to_client = from_service.bytes;
            record.messages_from_client = counts.from_client;
            record.messages_from_service = counts.from_service;
            record.messages_dropped = counts.dropped;
            record.messages_replaced = counts.replaced;
            record.messages_sent = counts.sent;
            record.plugin_time = chain.time_spent();
            record.close_code = close.map(|(code, _)| code);
            record.closed_by = close.map(|(_, side)| match side {
                Side::Client => ClosedBy::Client,
                Side::Service => ClosedBy::Service,
            });
        }
        drop((from_client, from_service));
        let (code, by) = match (close, &failure) {
            (Some((code, by)), _) => (code, Some(by)),
            (None, Some(failure)) => (failure.close_code(), failure.side()),
            (None, None) => (CloseCode::ABNORMAL, None),
        };
        chain.close(code, by);
        match failure {
            None => {
                closing::finish(&mut ends, farewell.0, farewell.1).await;
            }
            Some(failure) => {
                ends.failed(&failure);
                closing::say_goodbye(&mut ends, &failure, farewell.0, farewell.1).await;
            }
        }
    }

    fn inlet(&mut self, side: Side) -> &mut Inlet {
        match side {
            Side::Client => &mut self.from_client,
            Side::Service => &mut self.from_service,
        }
    }

    fn inlet_of(&self, side: Side) -> &Inlet {
        match side {
            Side::Client => &self.from_client,
            Side::Service => &self.from_service,
        }
    }

    /// Where bytes from a side go to.
    fn outlet(&mut self, from: Side) -> &mut Outlet {
        match from {
            Side::Client => &mut self.to_service,
            Side::Service => &mut self.to_client,
        }
    }

    fn inlet_and_stream(&mut self, side: Side) -> (&mut Inlet, &mut Stream) {
        match side {
            Side::Client => (&mut self.from_client, &mut self.ends.client),
            Side::Service => (&mut self.from_service, &mut self.ends.service),
        }
    }

    fn outlet_and_stream(&mut self, from: Side) -> (&mut Outlet, &mut Stream) {
        match from {
            Side::Client => (&mut self.to_service, &mut self.ends.service),
            Side::Service => (&mut self.to_client, &mut self.ends.client),
        }
    }
}

/// Returns early bytes (for the service, for the client) with what plugins sent before them, which is
/// not compressed: no message has to be.
pub(crate) fn behind(
    sent: Vec<Sent>,
    (for_service, for_client): (Vec<u8>, Vec<u8>),
) -> (Vec<u8>, Vec<u8>) {
    let mut framed = (Vec::new(), Vec::new());
    for Sent { to, kind, payload } in sent {
        let out = match to {
            Side::Client => &mut framed.1,
            Side::Service => &mut framed.0,
        };
        frame_plain(out, to, kind, &payload);
    }
    framed.0.extend_from_slice(&for_service);
    framed.1.extend_from_slice(&for_client);
    framed
}

fn direction(to: Side) -> Direction {
    match to {
        Side::Client => Direction::ToClient,
        Side::Service => Direction::ToService,
    }
}
