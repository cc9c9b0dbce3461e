//! The run of a route's plugins over one WebSocket session: who wants to see which message, in what
//! order, and the way of the messages that plugins send themselves.
//!
//! Frames are not known here; `proxy/filter/` reads and writes them.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::bindings::exports::tidegate::plugin::fragments::Place;
use super::host::Allowance;
use super::interest::{Interest, Wanted, side_index};
use super::parked::Parked;
use super::sessions::Piece;
use super::shadow::Shadow;
use super::slots::{Seat, Slot};
use super::trial::Lot;
use super::wait::{Step, Wait};
use super::{Cause, Failure, Handshake, MessageVerdict, Opening, Reopening, Sent};
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::Phase;

/// The plugins that watch a session.
pub(crate) struct MessageChain {
    /// What any plugin wants.
    interest: Interest,
    /// What all plugins want that want the kind at all.
    wanted_by_all: Wanted,
    /// In the operator's order.
    pub(super) links: Vec<Link>,
    pub(super) lot: Lot,
    pub(super) handshake: Arc<Handshake>,
    /// Longest message in bytes that is put together for plugins.
    pub(super) max_message: u64,
    /// Whether a message from the client, or from the service, goes on in parts: nothing can be sent
    /// that way before it has ended.
    in_parts: [bool; 2],
    /// What plugins have sent that way meanwhile, or behind a message that waits, and which of them.
    later: Vec<(usize, Sent)>,
    /// Messages that plugins wait before they judge, each with those that wait for it.
    pub(super) parked: Vec<Parked>,
    pub(super) time_spent: Duration,
}

/// One plugin's part in a session.
pub(super) struct Link {
    pub(super) seat: Rc<Seat>,
    /// Number of the assignment that was looked at last.
    pub(super) seen: u64,
    /// Of the version that the session is on.
    pub(super) slot: Rc<Slot>,
    pub(super) interest: Interest,
    /// What the plugin knows the session by.
    pub(super) number: u32,
    /// The life of the slot in which it was opened; another one does not know it.
    pub(super) life: u32,
    /// Whether it was shown pieces of a message from the client, or from the service, but not the last.
    pub(super) midway: [bool; 2],
    /// A candidate that looks on.
    pub(super) shadow: Option<Box<Shadow>>,
}

/// Longest piece of a message that a plugin is shown, in bytes.
const PIECE: usize = 64 * 1024;

/// A message on its way past the plugins.
pub(super) struct Passage<'a> {
    pub(super) from: Side,
    pub(super) kind: MessageKind,
    payload: Cow<'a, [u8]>,
    is_changed: bool,
    /// Index of the next plugin that is asked; nothing once it is past them all.
    next: Option<usize>,
    /// Whether it came from an end of the session. All others were sent by plugins.
    pub(super) came: bool,
    /// It was judged, and waits for what was sent before it.
    judged: Option<MessageVerdict>,
    /// The plugin that waits before it judges it.
    pub(super) waits: Option<(usize, Box<Wait>)>,
}

/// What a plugin has sent that waits for a message to end.
#[derive(Default)]
struct Kept {
    bytes: usize,
    messages: usize,
}

/// What messages that plugins sent may in turn make plugins produce, per message that came: two
/// plugins that answer each other must come to an end.
pub(super) struct Budget(Option<Allowance>);

impl MessageChain {
    pub(super) fn open(
        seats: impl Iterator<Item = (Rc<Seat>, u64, Rc<Slot>, Option<Rc<Slot>>)>,
        lot: Lot,
        handshake: &Arc<Handshake>,
        max_message: u64,
        time_spent: Duration,
        sent: &mut Vec<Sent>,
    ) -> Result<Opening, Failure> {
        let mut chain = Self {
            interest: Interest::default(),
            wanted_by_all: Wanted::default(),
            links: Vec::new(),
            lot,
            handshake: Arc::clone(handshake),
            max_message,
            in_parts: [false; 2],
            later: Vec::new(),
            parked: Vec::new(),
            time_spent,
        };
        // What a plugin sends passes plugins that come after it, so all are opened before.
        let mut first_words = Vec::new();
        for (seat, seen, asked, reserved) in seats {
            // Looked at before: an assignment that comes in between is noticed at the next look.
            let assignment = seat.assignment();
            let asked = asked.version();
            let version = match assignment.number() == seen {
                // What its request was shown to; what the service was sent may draw otherwise.
                true => asked,
                false => assignment.version_for(Some(asked), lot, &handshake.request),
            };
            let seen = assignment.number();
            let reserved = reserved.filter(|slot| Arc::ptr_eq(slot.version(), version));
            let slot = match reserved.map_or_else(|| seat.slot_for_session(version), Ok) {
                Ok(slot) => slot,
                Err(cause) => {
                    seat.slot(version).fail(Phase::Open, cause)?;
                    continue;
                }
            };
            let n = chain.links.len();
            chain.links.push(Link {
                seat,
                seen,
                interest: Interest::default(),
                number: slot.number_session(),
                slot,
                life: 0,
                midway: [false; 2],
                shadow: None,
            });
            chain.attach_shadow(n, &assignment);
            let mut said = Vec::new();
            chain.open_link(n, None, &mut said)?;
            chain.open_shadow(n, &said);
            first_words.extend(said.into_iter().map(|sent| (n, sent)));
        }
        let waiting = chain.on_their_way(first_words);
        if let Some(MessageVerdict::Close { code, reason }) = chain.run_aside(waiting, sent)? {
            return Ok(Opening::Close { code, reason });
        }
        // Those that want nothing stay: another version of them may.
        chain.links.shrink_to_fit();
        if !chain.is_watching() {
            return Ok(Opening::Unwatched(chain));
        }
        Ok(Opening::Watched(chain))
    }

    /// Whether any plugin wants to see anything.
    pub(crate) fn is_watching(&self) -> bool {
        !self.interest.is_none()
    }

    /// Whether a plugin wants to see a message. What none wants passes without a call.
    pub(crate) fn wants(&self, from: Side, kind: MessageKind, len: usize) -> bool {
        self.interest.covers(from, kind, len)
    }

    /// Whether a plugin wants to see messages of a kind in pieces.
    pub(crate) fn shows_parts(&self, from: Side, kind: MessageKind) -> bool {
        self.interest.pieces.covers(from, kind)
    }

    /// Whether one that does may change them.
    pub(crate) fn edits_parts(&self, from: Side, kind: MessageKind) -> bool {
        self.interest.pieces.edits(from, kind)
    }

    /// Returns the length that messages have to be shorter than for any plugin to want them whole; 0 if
    /// none does.
    pub(crate) fn wanted_below(&self, from: Side, kind: MessageKind) -> u64 {
        self.interest.whole.below(from, kind)
    }

    /// Returns the length that messages have to be shorter than for each plugin that wants the kind to
    /// want them.
    pub(crate) fn wanted_by_all_below(&self, from: Side, kind: MessageKind) -> u64 {
        self.wanted_by_all.below(from, kind)
    }

    /// Notes that a message from a side goes on in parts: until it ends, messages that plugins send the
    /// same way wait. Nothing else is shown of that side but pings and pongs.
    pub(crate) fn begin_parts(&mut self, from: Side) {
        self.in_parts[side_index(from)] = true;
    }

    /// Shows the next part of a message that goes on in parts to the plugins that want pieces, in the
    /// order of [`Self::on_message`]. `ends`: it is the last. Text has whole characters.
    pub(crate) fn on_part(
        &mut self,
        from: Side,
        kind: MessageKind,
        part: &[u8],
        ends: bool,
        sent: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Failure> {
        let len = self.links.len();
        let mut next = match from {
            Side::Client => Some(0),
            Side::Service => len.checked_sub(1),
        };
        // None: it was dropped.
        let mut payload = Some(Cow::Borrowed(part));
        let mut said = Vec::new();
        while let Some(n) = next.filter(|n| *n < len) {
            next = beyond(n, from, len);
            let link = &self.links[n];
            let is_midway = link.midway[side_index(from)];
            let shown = payload.as_deref().unwrap_or_default();
            // Who has seen pieces is told that the message ends, though the rest of it was dropped.
            let is_told = !shown.is_empty() || ends && (is_midway || payload.is_some());
            if !is_told || !link.interest.pieces.covers(from, kind) {
                continue;
            }
            let message = Passage {
                from,
                kind,
                payload: Cow::Borrowed(shown),
                next: None,
                is_changed: false,
                came: true,
                judged: None,
                waits: None,
            };
            match self.show(n, &message, ends, &mut Budget(None), &mut said)? {
                MessageVerdict::Pass => {}
                MessageVerdict::Replace(replacement) => payload = Some(Cow::Owned(replacement)),
                MessageVerdict::Drop => payload = None,
                closed @ MessageVerdict::Close { .. } => return Ok(closed),
                MessageVerdict::Wait => {}
            }
            if !said.is_empty() {
                let said = said.drain(..).map(|sent| (n, sent)).collect();
                let waiting = self.on_their_way(said);
                if let Some(closed) = self.run_aside(waiting, sent)? {
                    return Ok(closed);
                }
            }
        }
        Ok(match payload {
            None => MessageVerdict::Drop,
            Some(Cow::Borrowed(_)) => MessageVerdict::Pass,
            Some(Cow::Owned(replacement)) => MessageVerdict::Replace(replacement),
        })
    }

    /// Ends what [`Self::begin_parts`] began. What waited is appended to `sent`, past the plugins on its
    /// way; one of them may close the session.
    pub(crate) fn end_parts(
        &mut self,
        from: Side,
        sent: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Failure> {
        self.in_parts[side_index(from)] = false;
        if self.later.is_empty() {
            return Ok(MessageVerdict::Pass);
        }
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(_, sent)| sent.to != from);
        self.later = later;
        let waiting = self.on_their_way(due);
        let closed = self.run_aside(waiting, sent)?;
        Ok(closed.unwrap_or(MessageVerdict::Pass))
    }

    /// Whether anything waits for a message of its direction: to end that goes on in parts, or to be judged.
    pub(crate) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// Returns how many bytes wait for a message that goes to a side in parts, or waits.
    pub(crate) fn waiting_for(&self, to: Side) -> usize {
        let waiting = self.later.iter().filter(|(_, sent)| sent.to == to);
        waiting.map(|(_, sent)| sent.payload.len()).sum()
    }

    /// Shows a message to the plugins that want it: first to last if it comes from the client, last to
    /// first if it comes from the service.
    ///
    /// What they send is appended to `sent`, past the plugins on its way, in the order in which it is
    /// to go out: before the message itself. After a failure the session must end.
    pub(crate) fn on_message(
        &mut self,
        from: Side,
        kind: MessageKind,
        payload: &[u8],
        sent: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Failure> {
        let first = match from {
            Side::Client => 0,
            Side::Service => self.links.len().wrapping_sub(1),
        };
        let mut message = Passage {
            from,
            kind,
            payload: Cow::Borrowed(payload),
            next: (first < self.links.len()).then_some(first),
            is_changed: false,
            came: true,
            judged: None,
            waits: None,
        };
        let mut said = Vec::new();
        while let Some(n) = self.advance(&mut message) {
            match self.ask(n, &message, &mut Budget(None), &mut said)? {
                Step::Done(verdict) => message.judge(verdict),
                Step::Waits(wait) => message.waits = Some((n, wait)),
            }
            if !said.is_empty() || message.waits.is_some() {
                // Rare, so it is kept out of the way of all others.
                let mut waiting = vec![message];
                waiting.extend(self.on_their_way(said.into_iter().map(|sent| (n, sent)).collect()));
                let verdict = self.run(waiting, Budget(None), sent)?;
                return Ok(verdict.unwrap_or(MessageVerdict::Pass));
            }
        }
        Ok(message.verdict())
    }

    /// Tells the plugins how the session ended: the code of the Close frame that did it, 1006 if there
    /// was none, and who sent it, nothing if the proxy or a plugin did. Dropped without this, a
    /// chain tells them 1006 and nobody.
    pub(crate) fn close(mut self, code: u16, by: Option<Side>) {
        // What one of the plugins did is counted as it is done.
        if by.is_some() {
            self.links
                .iter()
                .for_each(|link| link.slot.count_close(code));
        }
        self.end(code, by);
    }

    /// Returns the plugins that see messages of the session, and the version of each that it is on.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (Arc<str>, u64)> {
        let slots = self.links.iter().map(|link| link.slot.version());
        slots.map(|version| (Arc::clone(version.name()), version.id()))
    }

    /// Returns the time that plugins have taken since the request.
    pub(crate) fn time_spent(&self) -> Duration {
        self.time_spent
    }

    /// Takes what plugin `n` sent past the plugins on its way. Returns a verdict that ends the session,
    /// if there was one.
    pub(super) fn pass_on(
        &mut self,
        n: usize,
        said: Vec<Sent>,
        sent: &mut Vec<Sent>,
    ) -> Result<Option<MessageVerdict>, Failure> {
        let said = said.into_iter().map(|sent| (n, sent)).collect();
        let waiting = self.on_their_way(said);
        self.run_aside(waiting, sent)
    }

    /// Moves messages on that plugins sent, beside any that came. Returns a verdict that ends the session,
    /// if there was one.
    fn run_aside(
        &mut self,
        waiting: Vec<Passage<'_>>,
        sent: &mut Vec<Sent>,
    ) -> Result<Option<MessageVerdict>, Failure> {
        let verdict = self.run(waiting, Budget(None), sent)?;
        Ok(verdict.filter(|verdict| *verdict != MessageVerdict::Wait))
    }

    /// Moves messages on, the last of `waiting` first, until the one that came has been judged or
    /// none is left. If a plugin waits before it judges one, all that are left wait with it.
    pub(super) fn run(
        &mut self,
        mut waiting: Vec<Passage<'_>>,
        mut budget: Budget,
        sent: &mut Vec<Sent>,
    ) -> Result<Option<MessageVerdict>, Failure> {
        let mut said = Vec::new();
        while let Some(mut message) = waiting.pop() {
            if message.waits.is_some() {
                waiting.push(message);
                self.park(waiting, budget);
                return Ok(Some(MessageVerdict::Wait));
            }
            match self.advance(&mut message) {
                Some(n) => {
                    match self.ask(n, &message, &mut budget, &mut said)? {
                        Step::Done(verdict) => message.judge(verdict),
                        Step::Waits(wait) => message.waits = Some((n, wait)),
                    }
                    waiting.push(message);
                    let said = said.drain(..).map(|sent| (n, sent)).collect();
                    waiting.extend(self.on_their_way(said));
                }
                None if message.came => return Ok(Some(message.verdict())),
                None => match message.judged {
                    Some(MessageVerdict::Close { code, reason }) => {
                        return Ok(Some(MessageVerdict::Close { code, reason }));
                    }
                    Some(_) => {}
                    None => sent.push(Sent {
                        to: message.from.other(),
                        kind: message.kind,
                        payload: message.payload.into_owned(),
                    }),
                },
            }
        }
        Ok(None)
    }

    /// Moves a message to the next plugin that wants to see it and returns which that is; nothing if
    /// it is at its end.
    fn advance(&self, message: &mut Passage<'_>) -> Option<usize> {
        if message.judged.is_some() {
            return None;
        }
        while let Some(n) = message.next {
            message.next = beyond(n, message.from, self.links.len());
            let Some(link) = self.links.get(n) else {
                continue;
            };
            if link
                .interest
                .covers(message.from, message.kind, message.payload.len())
            {
                return Some(n);
            }
        }
        None
    }

    /// What plugins sent, on its way, the last first; but for what has to wait.
    pub(super) fn on_their_way(&mut self, said: Vec<(usize, Sent)>) -> Vec<Passage<'static>> {
        let mut waiting = Vec::with_capacity(said.len());
        for (n, sent) in said {
            let is_data = matches!(sent.kind, MessageKind::Text | MessageKind::Binary);
            if is_data && self.has_to_wait(&sent) {
                self.later.push((n, sent));
            } else {
                waiting.push(self.passage(n, sent));
            }
        }
        waiting.reverse();
        waiting
    }

    /// Whether what a plugin sent has to wait for a message of its direction.
    fn has_to_wait(&self, sent: &Sent) -> bool {
        let from = sent.to.other();
        self.in_parts[side_index(from)] || self.stands_still(from)
    }

    /// Moves on what had to wait and does not any more. Returns a verdict that ends the session, if there
    /// was one.
    pub(super) fn let_go(
        &mut self,
        sent: &mut Vec<Sent>,
    ) -> Result<Option<MessageVerdict>, Failure> {
        if self.later.iter().all(|(_, sent)| self.has_to_wait(sent)) {
            return Ok(None);
        }
        let (later, due) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(_, sent)| self.has_to_wait(sent));
        self.later = later;
        let waiting = self.on_their_way(due);
        self.run_aside(waiting, sent)
    }

    /// The message that plugin `n` sent, on its way.
    fn passage(&self, n: usize, sent: Sent) -> Passage<'static> {
        let from = sent.to.other();
        Passage {
            from,
            kind: sent.kind,
            payload: Cow::Owned(sent.payload),
            is_changed: false,
            next: beyond(n, from, self.links.len()),
            came: false,
            judged: None,
            waits: None,
        }
    }

    /// Asks plugin `n` for its verdict on a message. A plugin that fails and whose `on_failure` is
    /// `open` lets it pass, now and from now on.
    fn ask(
        &mut self,
        n: usize,
        message: &Passage<'_>,
        budget: &mut Budget,
        said: &mut Vec<Sent>,
    ) -> Result<Step<MessageVerdict>, Failure> {
        self.follow(n);
        if !self.knows(n, said)? {
            return Ok(Step::Done(MessageVerdict::Pass));
        }
        let held = self.held(n);
        let Passage {
            from,
            kind,
            ref payload,
            came,
            ..
        } = *message;
        let already = said.len();
        let link = &self.links[n];
        if !link.interest.whole.covers(from, kind, payload.len()) {
            let verdict = self.show(n, message, true, budget, said)?;
            return Ok(Step::Done(verdict));
        }
        let own = link.slot.allowance();
        let mut limit = if came {
            own
        } else {
            budget.share(own, &self.links)
        };
        let before = limit;
        let asked = link
            .slot
            .ask(Phase::Message, &mut self.time_spent, |instance| {
                instance.hold(held);
                instance.on_message(link.number, from, kind, payload, &mut limit, said)
            });
        match asked {
            Ok(step) => {
                if !came {
                    budget.spend(before, limit);
                }
                match &step {
                    Step::Done(verdict) => {
                        link.count_verdict(verdict);
                        let message = (from, kind, &payload[..]);
                        self.saw_message(n);
                        self.shadow_message(n, message, verdict, &said[already..]);
                    }
                    Step::Waits(_) => {
                        link.slot.session_waits(link.number);
                        self.shadow_misses(n);
                    }
                }
                Ok(step)
            }
            Err(cause) => self.failed(n, Phase::Message, cause).map(Step::Done),
        }
    }

    /// Shows a message, or the next part of one, to plugin `n` in pieces. The verdict is on all of them.
    fn show(
        &mut self,
        n: usize,
        message: &Passage<'_>,
        ends: bool,
        budget: &mut Budget,
        said: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Failure> {
        self.follow(n);
        if !self.knows(n, said)? {
            return Ok(MessageVerdict::Pass);
        }
        let payload = &message.payload[..];
        // What goes on instead, from the first change on.
        let mut changed: Option<Vec<u8>> = None;
        let (mut at, mut goes_on) = (0, false);
        loop {
            let rest = &payload[at..];
            let is_shown = self.links[n]
                .interest
                .pieces
                .covers(message.from, message.kind);
            let end = if is_shown {
                at + piece_end(rest, message.kind)
            } else {
                payload.len()
            };
            let piece = &payload[at..end];
            let is_last = end == payload.len();
            let verdict = if is_shown {
                self.show_piece(n, message, piece, ends && is_last, budget, said)?
            } else {
                MessageVerdict::Pass
            };
            goes_on |= !matches!(verdict, MessageVerdict::Drop);
            match (verdict, &mut changed) {
                (MessageVerdict::Pass, None) => {}
                (MessageVerdict::Pass, Some(changed)) => changed.extend_from_slice(piece),
                (MessageVerdict::Replace(replacement), changed) => changed
                    .get_or_insert_with(|| payload[..at].to_vec())
                    .extend_from_slice(&replacement),
                (MessageVerdict::Drop, changed) => {
                    changed.get_or_insert_with(|| payload[..at].to_vec());
                }
                (closed @ MessageVerdict::Close { .. }, _) => return Ok(closed),
                (MessageVerdict::Wait, _) => {}
            }
            at = end;
            if is_last {
                break;
            }
        }
        Ok(match changed {
            None => MessageVerdict::Pass,
            Some(changed) if goes_on => MessageVerdict::Replace(changed),
            Some(_) => MessageVerdict::Drop,
        })
    }

    fn show_piece(
        &mut self,
        n: usize,
        message: &Passage<'_>,
        payload: &[u8],
        ends: bool,
        budget: &mut Budget,
        said: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Failure> {
        let Passage {
            from, kind, came, ..
        } = *message;
        let own = self.links[n].slot.allowance();
        let kept = self.kept(n, from);
        let mut limit = if came {
            own
        } else {
            budget.share(own, &self.links)
        };
        let before = limit;
        let keeps = self.in_parts[side_index(from)];
        let already = said.len();
        let link = &mut self.links[n];
        let midway = &mut link.midway[side_index(from)];
        let first = if *midway {
            Place::empty()
        } else {
            Place::FIRST
        };
        let last = if ends { Place::LAST } else { Place::empty() };
        let place = first | last;
        *midway = !ends;
        let piece = Piece {
            from,
            kind,
            payload,
            place,
        };
        let may_edit = link.interest.pieces.edits(from, kind);
        let verdict = link
            .slot
            .call(Phase::Fragment, &mut self.time_spent, |instance| {
                let verdict =
                    instance.on_fragment(link.number, &piece, may_edit, &mut limit, said)?;
                // What waits for the end of the message is bounded for all of it.
                if keeps {
                    kept.add(&said[already..], from, own)?;
                }
                Ok(verdict)
            });
        match verdict {
            Ok(verdict) => {
                if !came {
                    budget.spend(before, limit);
                }
                link.count_verdict(&verdict);
                if ends {
                    self.saw_message(n);
                }
                self.shadow_piece(n, (from, kind, payload, ends), &verdict, &said[already..]);
                Ok(verdict)
            }
            Err(cause) => self.failed(n, Phase::Fragment, cause),
        }
    }

    /// Returns what plugin `n` has sent that waits for a message from a side to end.
    fn kept(&self, n: usize, from: Side) -> Kept {
        let of_plugin = |(by, sent): &&(usize, Sent)| *by == n && sent.to == from.other();
        let kept = self.later.iter().filter(of_plugin);
        kept.fold(Kept::default(), |kept, (_, sent)| Kept {
            bytes: kept.bytes + sent.payload.len(),
            messages: kept.messages + 1,
        })
    }

    /// Opens the session in the instance that plugin `n` has now, if that does not know it. Returns whether
    /// it is to be asked about the session then.
    fn knows(&mut self, n: usize, said: &mut Vec<Sent>) -> Result<bool, Failure> {
        if self.links[n].life != self.links[n].slot.life() {
            self.restore_link(n);
            self.open_link(n, Some(Reopening::Failure), said)?;
        }
        Ok(self.links[n].is_open())
    }

    /// Applies `on_failure` of plugin `n`.
    pub(super) fn failed(
        &mut self,
        n: usize,
        phase: Phase,
        cause: Cause,
    ) -> Result<MessageVerdict, Failure> {
        let is_absence = cause.is_absence();
        let failed = self.links[n].fail(phase, cause);
        // An absent plugin may be back before the session ends.
        if !is_absence {
            self.leave(n);
        }
        failed.map(|()| MessageVerdict::Pass)
    }

    /// Opens the session in the instance that plugin `n` has now.
    fn open_link(
        &mut self,
        n: usize,
        reopening: Option<Reopening>,
        said: &mut Vec<Sent>,
    ) -> Result<(), Failure> {
        let link = &mut self.links[n];
        if !link.slot.sees_messages() {
            return Ok(());
        }
        let limit = link.slot.allowance();
        let wants = link
            .slot
            .call(Phase::Open, &mut self.time_spent, |instance| {
                instance.open(link.number, &self.handshake, reopening, limit, said)
            });
        match wants {
            Ok(wants) => {
                link.life = link.slot.life();
                link.interest = Interest::of(&wants, self.max_message);
                if let Some(shadow) = &mut link.shadow {
                    shadow.fall_behind();
                }
                self.sum_up();
                Ok(())
            }
            Err(cause) => self.failed(n, Phase::Open, cause).map(drop),
        }
    }

    /// Notes that plugin `n` has judged a message. What waits in the session is more than a snapshot tells.
    pub(super) fn saw_message(&mut self, n: usize) {
        if !self.is_parked() {
            let link = &self.links[n];
            link.slot.saw_message(link.number, &mut self.time_spent);
        }
    }

    /// Hands the last snapshot of the session, if there is one, to the instance that plugin `n` has now. One
    /// that it does not take is forgotten: the session is opened there anew.
    fn restore_link(&mut self, n: usize) {
        let link = &self.links[n];
        let Some(state) = link.slot.snapshot_of(link.number) else {
            return;
        };
        let restored = link
            .slot
            .call(Phase::Restore, &mut self.time_spent, |instance| {
                instance.restore(link.number, &state)
            });
        match restored {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => link.slot.refused_snapshot(link.number, &reason),
            Err(cause) if cause.is_absence() => {}
            Err(cause) => {
                link.slot.report(Phase::Restore, &cause);
                link.slot.forget_snapshot(link.number);
            }
        }
    }

    /// Goes on without plugin `n`.
    fn leave(&mut self, n: usize) {
        self.links[n].interest = Interest::default();
        self.sum_up();
    }

    pub(super) fn sum_up(&mut self) {
        let all = self.links.iter().map(|link| link.interest);
        self.interest = all.clone().fold(Interest::default(), Interest::or);
        let whole = all.map(|interest| interest.whole);
        self.wanted_by_all = whole.fold(Wanted::EVERYTHING, Wanted::and);
    }

    fn end(&mut self, code: u16, by: Option<Side>) {
        self.parked.clear();
        for link in self.links.drain(..) {
            // Nobody who wants nothing is told, and nobody who failed.
            let watches = link.interest.watches();
            if let Some(shadow) = &link.shadow {
                shadow.close(code, by);
            }
            if watches != (false, false) {
                let time_spent = &mut self.time_spent;
                link.slot
                    .call_if_alive(link.life, Phase::Close, time_spent, |instance| {
                        instance.on_close(link.number, code, by, watches)
                    });
            }
        }
    }
}

impl Drop for MessageChain {
    fn drop(&mut self) {
        self.end(CloseCode::ABNORMAL, None);
    }
}

impl Link {
    pub(super) fn is_behind(&self) -> bool {
        self.seen != self.seat.number()
    }

    /// Applies `on_failure`.
    pub(super) fn fail(&self, phase: Phase, cause: Cause) -> Result<(), Failure> {
        let failed = self.slot.fail(phase, cause);
        failed.inspect_err(|_| self.slot.count_close(CloseCode::INTERNAL_ERROR.as_u16()))
    }

    pub(super) fn count_verdict(&self, verdict: &MessageVerdict) {
        if let MessageVerdict::Close { code, .. } = verdict {
            self.slot.count_close(code.as_u16());
        }
    }

    /// Whether the instance at hand knows the session.
    pub(super) fn is_open(&self) -> bool {
        !self.interest.is_none() && self.life == self.slot.life()
    }

    /// Tells the instance at hand that the session goes on elsewhere.
    pub(super) fn release(&self, time_spent: &mut Duration) {
        if self.slot.exports().handover.is_some() && self.is_open() {
            self.slot
                .call_if_alive(self.life, Phase::Release, time_spent, |instance| {
                    instance.release(self.number)
                });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.slot.free_session(self.number);
    }
}

impl Passage<'_> {
    pub(super) fn judge(&mut self, verdict: MessageVerdict) {
        match verdict {
            MessageVerdict::Pass | MessageVerdict::Wait => {}
            MessageVerdict::Replace(payload) => {
                self.payload = Cow::Owned(payload);
                self.is_changed = true;
            }
            MessageVerdict::Drop | MessageVerdict::Close { .. } => self.judged = Some(verdict),
        }
    }

    fn verdict(self) -> MessageVerdict {
        match self.judged {
            Some(verdict) => verdict,
            None if self.is_changed => MessageVerdict::Replace(self.payload.into_owned()),
            None => MessageVerdict::Pass,
        }
    }

    /// The same, without what it was read from.
    pub(super) fn into_owned(self) -> Passage<'static> {
        let Self {
            from,
            kind,
            payload,
            is_changed,
            next,
            came,
            judged,
            waits,
        } = self;
        Passage {
            from,
            kind,
            payload: Cow::Owned(payload.into_owned()),
            is_changed,
            next,
            came,
            judged,
            waits,
        }
    }
}

impl Kept {
    /// Adds those of the messages that wait for the end of one from a side. More than a call may produce
    /// is too much for all of its pieces.
    fn add(mut self, said: &[Sent], from: Side, limit: Allowance) -> Result<(), Cause> {
        for sent in said {
            let is_data = matches!(sent.kind, MessageKind::Text | MessageKind::Binary);
            if !is_data || sent.to != from.other() {
                continue;
            }
            self.bytes += sent.payload.len();
            self.messages += 1;
            if self.bytes > limit.bytes {
                return Err(Cause::Output {
                    limit: limit.bytes,
                    unit: "bytes",
                });
            }
            if self.messages > limit.messages {
                return Err(Cause::Output {
                    limit: limit.messages,
                    unit: "messages",
                });
            }
        }
        Ok(())
    }
}

impl Budget {
    /// What the next call may produce: no more than its plugin's limit, and than is left of all.
    pub(super) fn share(&mut self, own: Allowance, links: &[Link]) -> Allowance {
        let left = self.0.get_or_insert_with(|| {
            let limits = links.iter().map(|link| link.slot.allowance());
            limits.fold(
                Allowance {
                    bytes: 0,
                    messages: 0,
                },
                |sum, limit| Allowance {
                    bytes: sum.bytes.saturating_add(limit.bytes),
                    messages: sum.messages.saturating_add(limit.messages),
                },
            )
        });
        Allowance {
            bytes: own.bytes.min(left.bytes),
            messages: own.messages.min(left.messages),
        }
    }

    pub(super) fn spend(&mut self, before: Allowance, after: Allowance) {
        if let Some(left) = &mut self.0 {
            left.bytes = left.bytes.saturating_sub(before.bytes - after.bytes);
            left.messages = left
                .messages
                .saturating_sub(before.messages - after.messages);
        }
    }
}

/// The plugin after plugin `n`, of `len`, for a message from one side.
fn beyond(n: usize, from: Side, len: usize) -> Option<usize> {
    match from {
        Side::Client => Some(n + 1).filter(|next| *next < len),
        Side::Service => n.checked_sub(1),
    }
}

/// Returns how much of a payload is shown at once: all, or up to the last whole character within
/// [`PIECE`].
fn piece_end(payload: &[u8], kind: MessageKind) -> usize {
    if payload.len() <= PIECE || kind != MessageKind::Text {
        return payload.len().min(PIECE);
    }
    // It is UTF-8, so a character is at most four bytes.
    let continues = |n: &usize| payload[*n] & 0xc0 == 0x80;
    (PIECE - 3..=PIECE)
        .rev()
        .find(|n| !continues(n))
        .unwrap_or(PIECE)
}
