//! The relay of bytes, blind to what they mean.
//!
//! An idle tunnel holds no buffer: what is read into the worker's buffer is written at once, and only
//! what the other side would not take yet is kept, bounded, while that direction stops reading. On a
//! WebSocket the frames' boundaries are followed, so that the proxy can ping or say goodbye between
//! two; the answers to its own pings are the only bytes it ever takes out. Where the route has plugins
//! that want nothing, it is looked between two messages whether they were swapped for others that do.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::{self, Farewell};
use super::failure::SessionFailure;
use super::filter;
use super::framing::frame_plain;
use super::liveness::{Due, Liveness, encode_ping};
use super::outlet::Outlet;
use super::registry::{Entry, Figures};
use super::relay::{Clocks, Crossing, Ends, Watched, Way};
use super::sweep::{Signal, Watch};
use super::worker::Buffers;
use crate::plugin::{Handover, Sent};
use crate::protocol::answers::{AnswerSieve, Token};
use crate::protocol::frame::Boundaries;
use crate::protocol::message::Side;
use crate::stream::Stream;
use crate::telemetry::{ClosedBy, Direction, Fate};

/// Reads of one direction before the worker's other tasks get a turn: 2 MiB at most.
const READS_AT_ONCE: usize = 8;

/// A tunnel: what goes which way, and when it ends.
struct Tunnel {
    ends: Ends,
    to_service: Flow,
    to_client: Flow,
    /// Who ended it first.
    ended_by: Option<ClosedBy>,
    liveness: Option<Box<Liveness>>,
    /// Who sent the first Close frame.
    closer: Option<Side>,
    /// Why the proxy ends the session, as soon as that cuts no frame.
    leaving: Option<Box<SessionFailure>>,
    /// The session has a last deadline, which no activity postpones.
    is_ending: bool,
    /// The plugins of the route, none of which wants to see anything.
    watched: Option<Box<Watched>>,
}

/// One direction of a tunnel.
struct Flow {
    outlet: Outlet,
    /// The reader is at its end, or its connection broke.
    ended: bool,
    /// The writer has been told so, or takes nothing any more.
    finished: bool,
    /// Nothing more is read, since the proxy ends the session.
    stopped: bool,
    /// Something was read since [`Tunnel::note_life`] last asked.
    heard: bool,
    /// A ping was put in since [`Tunnel::note_life`] last asked.
    pinged: bool,
    /// Read, without answers to the proxy's own pings.
    bytes: u64,
    /// None: not WebSocket, or not understood.
    frames: Option<Boundaries>,
    /// None: the side that is read from is not pinged.
    answers: Option<Box<AnswerSieve>>,
    /// What to do where the frame at hand ends. Boxed, since there is rarely anything.
    then: Option<Box<Then>>,
}

enum Then {
    /// Put this ping in.
    Ping(Box<[u8]>),
    Stop,
    /// Wait, if a message ends there, for a look at whether plugins were swapped.
    Look,
    /// It did end there, and this came behind it.
    Wait(Vec<u8>),
}

/// How a tunnel ended.
enum Outcome {
    /// Both directions came to their end.
    Finished,
    Failed(SessionFailure),
    /// Plugins want to see what passes from here on, and have sent this.
    Watched(Vec<Sent>),
}

/// Relays until both directions have ended or a clock says so. An end in one direction is passed on
/// and leaves the other open. `watched`: plugins that want to see nothing, but may be swapped.
pub(crate) fn run(
    ends: Ends,
    (for_service, for_client): (Vec<u8>, Vec<u8>),
    entry: Box<Entry>,
    clocks: Clocks,
    watched: Option<Box<Watched>>,
) -> impl Future<Output = ()> {
    let is_websocket = entry.is_websocket;
    let watch = ends.worker.sweep.watch_session(entry);
    watch.arm(clocks.idle_timeout);
    if let Some(liveness) = &clocks.liveness {
        watch.set_alarm(liveness.next());
    }
    let token = |from| token(clocks.liveness.as_deref(), from);
    let tunnel = Tunnel {
        to_service: Flow::new(for_service, is_websocket, token(Side::Client)),
        to_client: Flow::new(for_client, is_websocket, token(Side::Service)),
        liveness: clocks.liveness,
        ends,
        ended_by: None,
        closer: None,
        leaving: None,
        is_ending: false,
        watched,
    };
    tunnel.run(watch)
}

/// As [`run`], with a session that plugins watched so far.
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
    let token = |from| token(liveness.as_deref(), from);
    let mut tunnel = Tunnel {
        to_service: Flow::going_on(from_client, token(Side::Client)),
        to_client: Flow::going_on(from_service, token(Side::Service)),
        liveness,
        ends,
        ended_by: None,
        closer: None,
        leaving: None,
        is_ending: false,
        watched: Some(watched),
    };
    tunnel.put_in(sent);
    tunnel.run(watch)
}

/// What tells answers to the proxy's pings from other pongs of a side. None: it is not pinged.
fn token(liveness: Option<&Liveness>, from: Side) -> Option<Token> {
    let liveness = liveness.filter(|liveness| liveness.pings(from))?;
    Some(liveness.token())
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
    fn run(mut self, watch: Watch) -> impl Future<Output = ()> {
        if let Some(watched) = &self.watched {
            watch.listen();
            watch.is_on(watched.chain.versions());
        }
        // An `async fn` would keep room for its arguments as well, for as long as it lives.
        async move {
            let failure = match poll_fn(|cx| self.poll(cx, &watch)).await {
                Outcome::Finished => None,
                Outcome::Failed(failure) => Some(failure),
                Outcome::Watched(sent) => {
                    if let Some(crossing) = self.cross(watch, sent) {
                        tokio::task::spawn_local(filter::go_on(crossing));
                    }
                    return;
                }
            };
            drop(watch);
            // Boxed, so that a tunnel is not larger all its life for how it ends.
            Box::pin(self.end(failure)).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Outcome> {
        let mut alarm = false;
        while let Poll::Ready(signal) = watch.poll_signal(cx) {
            match signal {
                Signal::Expired => return Poll::Ready(self.expired()),
                // It goes on until the worker ends it, if there is no better moment.
                Signal::Drain => _ = self.leave(SessionFailure::Draining),
                Signal::Close => {
                    let Some(goodbye) = watch.goodbye() else {
                        continue;
                    };
                    let failure = SessionFailure::ClosedByOperator(goodbye);
                    if !self.is_understood() {
                        return Poll::Ready(Outcome::Failed(failure));
                    }
                    self.leave(failure);
                    self.end_within(watch);
                }
                Signal::Alarm => alarm = true,
            }
        }
        if let Some(outcome) = self.catch_up(cx, watch) {
            return Poll::Ready(outcome);
        }
        let mut relayed = self.relay(cx, watch);
        if alarm && relayed.is_pending() {
            // Now, when all that has come was heard.
            relayed = match self.ring(watch) {
                Some(outcome) => Poll::Ready(outcome),
                None => self.relay(cx, watch),
            };
        }
        if relayed.is_pending() && (self.to_service.waits() || self.to_client.waits()) {
            return self.catch_up(cx, watch).map_or(Poll::Pending, Poll::Ready);
        }
        relayed
    }

    /// Moves the session to the versions of its plugins that are assigned to it, once both directions are
    /// between two messages at a time. Returns how the relay ends here, if it does.
    fn catch_up(&mut self, cx: &Context<'_>, watch: &Watch) -> Option<Outcome> {
        let watched = self.watched.as_mut()?;
        let flows = [&mut self.to_service, &mut self.to_client];
        if !watched.chain.is_behind() || self.closer.is_some() || self.leaving.is_some() {
            return None;
        }
        if !flows.iter().all(|flow| flow.is_between_messages()) {
            for flow in flows {
                flow.look();
            }
            return None;
        }
        let mut sent = Vec::new();
        let handover = watched.chain.catch_up(&mut sent);
        watch.is_on(watched.chain.versions());
        let failure = match handover {
            Ok(Handover::Continue) if watched.chain.is_watching() => {
                return Some(Outcome::Watched(sent));
            }
            Ok(Handover::Continue) => None,
            Ok(Handover::Overdue) => Some(SessionFailure::Overdue),
            Ok(Handover::Closed { code, reason }) => {
                Some(SessionFailure::ClosedByPlugin { code, reason })
            }
            Err(failure) => Some(SessionFailure::Plugin(failure)),
        };
        if !sent.is_empty() {
            cx.waker().wake_by_ref();
            self.put_in(sent);
        }
        failure.map(Outcome::Failed)
    }

    /// Sends what plugins have sent: plain messages, which are allowed whatever was agreed on.
    fn put_in(&mut self, sent: Vec<Sent>) {
        let metrics = self.ends.worker.metrics.clone();
        for Sent { to, kind, payload } in sent {
            let (flow, direction) = match to {
                Side::Client => (&mut self.to_client, Direction::ToClient),
                Side::Service => (&mut self.to_service, Direction::ToService),
            };
            flow.outlet
                .queue(|out| frame_plain(out, to, kind, &payload));
            metrics.messages[direction][Fate::Send].increment();
            if let Some(watched) = &mut self.watched {
                watched.counts.sent += 1;
            }
        }
    }

    /// Leaves the session to a relay that looks at messages.
    fn cross(self, watch: Watch, sent: Vec<Sent>) -> Option<Crossing> {
        let mut watched = self.watched?;
        let metrics = &self.ends.worker.metrics;
        let unseen = [
            (Direction::ToService, self.to_service.messages()),
            (Direction::ToClient, self.to_client.messages()),
        ];
        for (direction, count) in unseen {
            metrics.messages[direction][Fate::Unseen].add(count);
        }
        watched.counts.from_client += unseen[0].1;
        watched.counts.from_service += unseen[1].1;
        let (from_client, from_service) = (self.to_service.cross(), self.to_client.cross());
        metrics.bytes[Direction::ToService].add(from_client.unread.len() as u64);
        metrics.bytes[Direction::ToClient].add(from_service.unread.len() as u64);
        Some(Crossing {
            ends: self.ends,
            watch,
            liveness: self.liveness,
            watched,
            sent,
            from_client,
            from_service,
        })
    }

    /// Moves what there is to move in both directions.
    fn relay(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<Outcome> {
        let before = self.moved();
        let Ends {
            worker,
            client,
            service,
            ..
        } = &mut self.ends;
        let (one, other) = {
            let buffers = &mut *worker.buffers.borrow_mut();
            (
                self.to_service.poll(cx, client, service, buffers),
                self.to_client.poll(cx, service, client, buffers),
            )
        };
        let after = self.moved();
        if before != after {
            let bytes = &self.ends.worker.metrics.bytes;
            bytes[Direction::ToService].add(after[0] - before[0]);
            bytes[Direction::ToClient].add(after[1] - before[1]);
            if !self.is_ending {
                watch.touch();
            }
            watch.passed(Figures {
                bytes: [after[0], after[1]],
                messages: self.messages(),
            });
            self.note_close(watch);
        }
        self.ended_by = self
            .ended_by
            .or(match (self.to_service.ended, self.to_client.ended) {
                (true, false) => Some(ClosedBy::Client),
                (false, true) => Some(ClosedBy::Service),
                _ => None,
            });
        self.note_life(watch);
        match (one, other) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(match self.leaving.take() {
                Some(failure) => Outcome::Failed(*failure),
                None => Outcome::Finished,
            }),
            _ => Poll::Pending,
        }
    }

    /// Once a Close frame has passed, the peers end the session, in bounded time, and nobody is pinged.
    fn note_close(&mut self, watch: &Watch) {
        if self.closer.is_some() {
            return;
        }
        self.closer = if self.to_service.closed() {
            Some(Side::Client)
        } else if self.to_client.closed() {
            Some(Side::Service)
        } else {
            return;
        };
        self.end_within(watch);
        if let Some(liveness) = &mut self.liveness {
            liveness.stop();
        }
    }

    /// Sets the last deadline.
    fn end_within(&mut self, watch: &Watch) {
        self.is_ending = true;
        watch.shorten(self.ends.close_timeout);
    }

    /// Notes who has said something and who has been pinged.
    fn note_life(&mut self, watch: &Watch) {
        let Some(liveness) = &mut self.liveness else {
            return;
        };
        let now = watch.now();
        let (to_service, to_client) = (&mut self.to_service, &mut self.to_client);
        for (side, flow) in [(Side::Client, &mut *to_service), (Side::Service, to_client)] {
            if std::mem::take(&mut flow.heard) {
                liveness.heard(side, now);
            }
        }
        let (to_service, to_client) = (&mut self.to_service, &mut self.to_client);
        for (side, flow) in [(Side::Client, to_client), (Side::Service, to_service)] {
            if std::mem::take(&mut flow.pinged) {
                liveness.pinged(side, now);
            }
        }
        watch.set_alarm(liveness.next());
    }

    /// Does what is due. Returns how the session ended, if it did.
    fn ring(&mut self, watch: &Watch) -> Option<Outcome> {
        while let Some(liveness) = &mut self.liveness {
            let (side, is_ping) = match liveness.due(watch.past())? {
                Due::Age => {
                    if !self.leave(SessionFailure::Age) {
                        return Some(Outcome::Failed(SessionFailure::Age));
                    }
                    self.end_within(watch);
                    continue;
                }
                Due::Ping(side) => (side, true),
                Due::Unanswered(side) => (side, false),
            };
            let (from, to) = match side {
                Side::Client => (&mut self.to_service, &mut self.to_client),
                Side::Service => (&mut self.to_client, &mut self.to_service),
            };
            if from.ended || !to.takes_frames() {
                liveness.release(side);
            } else if is_ping {
                to.ping(encode_ping(side, &liveness.token()));
            } else if from.outlet.waiting() > 0 {
                // As long as the other side takes nothing, nothing is read: the answer may be there.
                liveness.heard(side, watch.now());
            } else {
                return Some(Outcome::Failed(SessionFailure::PingUnanswered(side)));
            }
        }
        None
    }

    /// Returns the messages from the client and from the service so far, those that plugins saw included.
    fn messages(&self) -> [u64; 2] {
        let counts = self.watched.as_ref().map(|watched| &watched.counts);
        let seen = counts.map_or([0; 2], |counts| [counts.from_client, counts.from_service]);
        let unseen = [self.to_service.messages(), self.to_client.messages()];
        [seen[0] + unseen[0], seen[1] + unseen[1]]
    }

    /// Whether frames are followed both ways.
    fn is_understood(&self) -> bool {
        self.to_service.frames.is_some() && self.to_client.frames.is_some()
    }

    /// Ends the session as soon as that cuts no frame. False: of what is not understood nobody knows a
    /// good moment to end it.
    fn leave(&mut self, failure: SessionFailure) -> bool {
        if !self.is_understood() {
            return false;
        }
        // The peers end it themselves, and in bounded time.
        if self.closer.is_some() || self.leaving.is_some() {
            return true;
        }
        self.leaving = Some(Box::new(failure));
        self.to_service.stop();
        self.to_client.stop();
        if let Some(liveness) = &mut self.liveness {
            liveness.stop();
        }
        true
    }

    /// Returns how a session ended in which nothing has moved for too long.
    fn expired(&mut self) -> Outcome {
        if let Some(failure) = self.leaving.take() {
            return Outcome::Failed(*failure);
        }
        match self.closer {
            None => Outcome::Failed(SessionFailure::Idle),
            Some(_) if self.to_service.closed() && self.to_client.closed() => Outcome::Finished,
            Some(closer) => Outcome::Failed(SessionFailure::CloseUnanswered(closer.other())),
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

    /// Ends the session. No failure: both directions came to their end.
    async fn end(self, failure: Option<SessionFailure>) {
        let Self {
            mut ends,
            to_service,
            to_client,
            ended_by,
            closer,
            watched,
            ..
        } = self;
        if let Some(record) = &mut ends.ending.notes {
            record.bytes_from_client = to_service.bytes;
            record.bytes_to_client = to_client.bytes;
            record.messages_from_client = to_service.messages();
            record.messages_from_service = to_client.messages();
            if let Some(watched) = watched {
                let counts = watched.counts;
                record.messages_from_client += counts.from_client;
                record.messages_from_service += counts.from_service;
                record.messages_dropped = counts.dropped;
                record.messages_replaced = counts.replaced;
                record.messages_sent = counts.sent;
                record.plugin_time = watched.chain.time_spent();
            }
            let closer = closer.map(|side| match side {
                Side::Client => ClosedBy::Client,
                Side::Service => ClosedBy::Service,
            });
            record.closed_by = closer.or(ended_by);
        }
        let messages = &ends.worker.metrics.messages;
        messages[Direction::ToService][Fate::Unseen].add(to_service.messages());
        messages[Direction::ToClient][Fate::Unseen].add(to_client.messages());
        let (client, service) = (to_client.farewell(), to_service.farewell());
        match failure {
            None => closing::finish(&mut ends, client, service).await,
            Some(failure) => {
                ends.failed(&failure);
                closing::say_goodbye(&mut ends, &failure, client, service).await;
            }
        }
    }
}

impl Flow {
    /// Begins with what came early. With `token`, the side that is read from is pinged.
    fn new(early: Vec<u8>, is_websocket: bool, token: Option<Token>) -> Self {
        let mut answers = token.map(|token| Box::new(AnswerSieve::new(token)));
        let early = match &mut answers {
            // There are no answers yet, but frames to follow.
            Some(answers) => answers.sift(&early, &mut Vec::new()).to_vec(),
            None => early,
        };
        let mut frames = is_websocket.then(Boundaries::new);
        follow(&mut frames, &early);
        Self {
            bytes: early.len() as u64,
            outlet: Outlet::new(early),
            ended: false,
            finished: false,
            stopped: false,
            heard: false,
            pinged: false,
            frames,
            answers,
            then: None,
        }
    }

    /// Goes on with a WebSocket, between two messages.
    fn going_on(way: Way, token: Option<Token>) -> Self {
        Self {
            outlet: way.outlet,
            bytes: way.bytes,
            ..Self::new(Vec::new(), true, token)
        }
    }

    /// Moves what there is to move. Ready once the end has been passed on, or nothing more is to be
    /// moved.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffers: &mut Buffers,
    ) -> Poll<()> {
        let Buffers { read, write, .. } = buffers;
        for _ in 0..READS_AT_ONCE {
            ready!(self.outlet.poll(cx, to));
            if self.finished || self.outlet.is_dead() {
                self.finished = true;
                return Poll::Ready(());
            }
            if self.stopped {
                return Poll::Ready(());
            }
            if self.waits() {
                if let Some(Then::Wait(bytes)) = self.then.take().as_deref() {
                    self.pass(cx, to, bytes);
                }
                continue;
            }
            if self.ended {
                // A peer that cannot be told is gone.
                if let Err(error) = ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    tracing::debug!(%error, "a peer was gone before the end of a tunnel");
                }
                self.finished = true;
                return Poll::Ready(());
            }
            let mut read = ReadBuf::new(read);
            let broken = ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).is_err();
            let mut bytes = read.filled();
            if broken || bytes.is_empty() {
                self.ended = true;
                // Nothing can become an answer any more.
                if let Some(answers) = self.answers.take() {
                    self.pass(cx, to, answers.held());
                }
                continue;
            }
            self.heard = true;
            if let Some(answers) = &mut self.answers {
                bytes = answers.sift(bytes, write);
            }
            if let Some(then) = self.then.as_deref()
                && let Some(frames) = &self.frames
            {
                let mut ahead = frames.clone();
                let end = match then {
                    Then::Look => ahead.advance_to_message_end(bytes),
                    _ => ahead.advance_to_boundary(bytes),
                };
                if let Ok(Some(end)) = end {
                    let (before, after) = bytes.split_at(end);
                    self.pass(cx, to, before);
                    match self.then.take().as_deref() {
                        Some(Then::Look) => {
                            self.then = Some(Box::new(Then::Wait(after.to_vec())));
                            // Whatever comes of the look, what waits goes on.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Some(Then::Stop) => {
                            self.stopped = true;
                            continue;
                        }
                        Some(Then::Ping(ping)) => self.put_in(ping),
                        Some(Then::Wait(_)) | None => {}
                    }
                    bytes = after;
                }
            }
            self.pass(cx, to, bytes);
            // It is not understood any more.
            self.stopped |=
                self.frames.is_none() && matches!(self.then.as_deref(), Some(Then::Stop));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends on what was read.
    fn pass(&mut self, cx: &mut Context<'_>, to: &mut Stream, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        follow(&mut self.frames, bytes);
        self.outlet.send(cx, to, bytes);
    }

    /// Sends a ping as soon as that cuts no frame.
    fn ping(&mut self, ping: Box<[u8]>) {
        if self.is_at_boundary() {
            self.put_in(&ping);
        } else {
            self.then = Some(Box::new(Then::Ping(ping)));
        }
    }

    fn put_in(&mut self, ping: &[u8]) {
        if self.takes_frames() {
            self.outlet.queue_ping(ping);
            self.pinged = true;
        }
    }

    /// Reads nothing more as soon as that cuts no frame.
    fn stop(&mut self) {
        if self.is_at_boundary() {
            self.stopped = true;
        } else {
            self.then = Some(Box::new(Then::Stop));
        }
    }

    /// Waits for a look where the message at hand ends, if there is nothing else to do there.
    fn look(&mut self) {
        if self.then.is_none() {
            self.then = Some(Box::new(Then::Look));
        }
    }

    /// Whether something was read that has to wait.
    fn waits(&self) -> bool {
        matches!(self.then.as_deref(), Some(Then::Wait(_)))
    }

    /// Whether what has been read, but for what waits, ends with a message that others may follow.
    fn is_between_messages(&self) -> bool {
        let frames = self.frames.as_ref();
        self.takes_frames() && frames.is_some_and(Boundaries::is_between_messages)
    }

    /// What another kind of relay has to go on with.
    fn cross(mut self) -> Way {
        let mut unread = match self.then.take().map(|then| *then) {
            Some(Then::Wait(bytes)) => bytes,
            _ => Vec::new(),
        };
        if let Some(answers) = &self.answers {
            unread.extend_from_slice(answers.held());
        }
        Way {
            outlet: self.outlet,
            bytes: self.bytes + unread.len() as u64,
            unread,
        }
    }

    /// Whether frames of the proxy may go with those that are relayed.
    fn takes_frames(&self) -> bool {
        self.frames.is_some() && !self.closed() && !self.ended && !self.finished
    }

    /// Whether a Close frame has passed.
    fn closed(&self) -> bool {
        self.frames.as_ref().is_some_and(Boundaries::closed)
    }

    /// Whether what has been read ends with a frame.
    fn is_at_boundary(&self) -> bool {
        self.frames.as_ref().is_some_and(Boundaries::at_boundary)
    }

    fn farewell(self) -> Farewell {
        let may_close = self.is_at_boundary() && !self.closed() && !self.finished;
        self.outlet.farewell(may_close)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be a hundred thousand of them, most of them idle.
    #[test]
    fn an_idle_tunnel_takes_little_more_than_half_a_kibibyte() {
        fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(run);
        assert!(size <= 544, "{size} bytes");
    }
}
