//! Copies for a candidate that looks on: of what the version in force is shown, at the same points. What it
//! answers is compared and forgotten.
//!
//! It is called where the version in force is, after that has answered, within a share of the worker's time;
//! what may be missed then, and what it costs, is `onlooker.rs`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, request, response};

use super::bindings::exports::tidegate::plugin::fragments::Place;
use super::engine::Compiled;
use super::interest::{Interest, side_index};
use super::messages::MessageChain;
use super::onlooker::{Onlooker, contrast, told_sent};
use super::rollout::Assignment;
use super::sessions::Piece;
use super::slots::{Seat, Slot};
use super::trial::Lot;
use super::{
    Candidate, Cause, Facts, MessageVerdict, Reopening, Sent, SentRequest, UpstreamView, Verdict,
};
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::{Contrast, Phase};

/// A session as a candidate knows it that looks on.
pub(super) struct Shadow {
    by: Rc<Onlooker>,
    slot: Rc<Slot>,
    number: u32,
    life: u32,
    interest: Interest,
    midway: [bool; 2],
    step: Step,
}

/// How much of a session a candidate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Too little: it has to be told what the version in force knows.
    Behind,
    /// All that the version in force was shown.
    Abreast,
    /// It does not want to know.
    Apart,
}

impl MessageChain {
    /// Lets the candidate of plugin `n` look on, if there is one and the session is within its share; and
    /// no other any more.
    pub(super) fn attach_shadow(&mut self, n: usize, assignment: &Assignment) {
        let link = &mut self.links[n];
        let onlooker = link.seat.onlooker(assignment);
        let onlooker = onlooker.filter(|by| by.sees(self.lot, &self.handshake.request));
        let is_same = |shadow: &Shadow, by| Rc::ptr_eq(&shadow.by, by);
        match (&link.shadow, onlooker) {
            (Some(shadow), Some(by)) if is_same(shadow, &by) => {}
            (_, onlooker) => {
                link.shadow = onlooker.map(|by| Box::new(Shadow::new(by, &link.seat)));
            }
        }
    }

    /// Opens the session in the candidate as it was opened in plugin `n`, and compares.
    pub(super) fn open_shadow(&mut self, n: usize, sent: &[Sent]) {
        let link = &mut self.links[n];
        let Some(shadow) = &mut link.shadow else {
            return;
        };
        let (handshake, max_message) = (&self.handshake, self.max_message);
        if !shadow.by.is_admitted() {
            return;
        }
        let mut said = Vec::new();
        let by = Rc::clone(&shadow.by);
        let opened = by.charge(|time| shadow.open(handshake, None, max_message, time, &mut said));
        let found = match opened {
            Err(cause) => Some(failed(&cause)),
            Ok(()) if shadow.interest != link.interest => Some((
                Contrast::Subscription,
                "another one".to_owned(),
                String::new(),
            )),
            Ok(()) if said != sent => Some((Contrast::Sent, told_sent(sent), told_sent(&said))),
            Ok(()) => None,
        };
        by.compared(Phase::Open, found);
    }

    /// Tells the candidate what plugin `n` knows of the session, if it has missed something. For before a
    /// message is shown to the plugin.
    pub(super) fn follow(&mut self, n: usize) {
        // What waits in the session is more than a snapshot tells.
        if self.is_parked() {
            return;
        }
        let link = &mut self.links[n];
        let is_open = link.is_open();
        let Some(shadow) = &mut link.shadow else {
            return;
        };
        if shadow.step == Step::Abreast && shadow.life != shadow.slot.life() {
            shadow.step = Step::Behind;
        }
        if shadow.step != Step::Behind
            || !is_open
            || link.midway != [false; 2]
            || !shadow.by.is_admitted()
        {
            return;
        }
        let (handshake, max_message) = (&self.handshake, self.max_message);
        let by = Rc::clone(&shadow.by);
        let followed = by.charge(|time| {
            shadow.forget(time);
            let both = [&link.slot, &shadow.slot].map(|slot| slot.exports().handover.is_some());
            let mut state = None;
            if both == [true; 2] {
                let number = link.number;
                let known = link
                    .slot
                    .call(Phase::Snapshot, time, |instance| instance.snapshot(number));
                // A fault of the version in force, and told as such.
                state = known
                    .inspect_err(|cause| link.slot.report(Phase::Snapshot, cause))
                    .ok();
                if state.is_none() {
                    return Ok(());
                }
            }
            if let Some(state) = state {
                let number = shadow.number;
                let restored = shadow.slot.call(Phase::Restore, time, |instance| {
                    instance.restore(number, &state)
                });
                restored
                    .map_err(|cause| (Phase::Restore, failed(&cause)))?
                    .map_err(|why| (Phase::Restore, (Contrast::Refusal, String::new(), why)))?;
            }
            shadow
                .open(
                    handshake,
                    Some(Reopening::Swap),
                    max_message,
                    time,
                    &mut Vec::new(),
                )
                .map_err(|cause| (Phase::Open, failed(&cause)))
        });
        if let Err((phase, (kind, in_force, said))) = followed {
            shadow.step = Step::Apart;
            by.differs(phase, kind, || (in_force, said));
        }
    }

    /// Shows a message that plugin `n` has judged to the candidate as well, and compares.
    pub(super) fn shadow_message(
        &mut self,
        n: usize,
        (from, kind, payload): (Side, MessageKind, &[u8]),
        verdict: &MessageVerdict,
        sent: &[Sent],
    ) {
        let Some((live, shadow)) = self.in_step(n) else {
            return;
        };
        let by = Rc::clone(&shadow.by);
        if !shadow.interest.whole.covers(from, kind, payload.len()) {
            if shadow.interest.pieces.covers(from, kind) {
                // It would be shown the same in another way.
                by.skip();
                shadow.has_missed(live);
            } else {
                let found = contrast((verdict, sent), (&MessageVerdict::Pass, &[]));
                by.compared(Phase::Message, found);
            }
            return;
        }
        if !by.is_admitted() {
            shadow.has_missed(live);
            return;
        }
        let mut limit = shadow.slot.allowance();
        let mut said = Vec::new();
        let number = shadow.number;
        let judged = by.charge(|time| {
            shadow.slot.ask_at_once(Phase::Message, time, |instance| {
                instance.on_message(number, from, kind, payload, &mut limit, &mut said)
            })
        });
        match judged.transpose() {
            Some(judged) => by.compared(Phase::Message, compare((verdict, sent), judged, &said)),
            None => self.shadow_misses(n),
        }
    }

    /// Notes that a message cannot be compared, since a version of plugin `n` waits before it judges it: what
    /// a candidate would ask others for has effects.
    pub(super) fn shadow_misses(&mut self, n: usize) {
        if let Some((live, shadow)) = self.in_step(n) {
            shadow.by.skip();
            shadow.has_missed(live);
        }
    }

    /// The same for a piece of one.
    pub(super) fn shadow_piece(
        &mut self,
        n: usize,
        (from, kind, payload, ends): (Side, MessageKind, &[u8], bool),
        verdict: &MessageVerdict,
        sent: &[Sent],
    ) {
        let Some((live, shadow)) = self.in_step(n) else {
            return;
        };
        let by = Rc::clone(&shadow.by);
        let midway = &mut shadow.midway[side_index(from)];
        if !shadow.interest.pieces.covers(from, kind) {
            if shadow.interest.whole.covers(from, kind, payload.len()) {
                by.skip();
                shadow.has_missed(live);
            } else {
                let found = contrast((verdict, sent), (&MessageVerdict::Pass, &[]));
                by.compared(Phase::Fragment, found);
            }
            return;
        }
        let first = if *midway {
            Place::empty()
        } else {
            Place::FIRST
        };
        let last = if ends { Place::LAST } else { Place::empty() };
        *midway = !ends;
        if !by.is_admitted() {
            // Nobody can go on in the midst of a message.
            shadow.step = Step::Behind;
            shadow.midway = [false; 2];
            return;
        }
        let may_edit = shadow.interest.pieces.edits(from, kind);
        let place = first | last;
        let piece = Piece {
            from,
            kind,
            payload,
            place,
        };
        let mut limit = shadow.slot.allowance();
        let mut said = Vec::new();
        let number = shadow.number;
        let judged = by.charge(|time| {
            shadow.slot.call(Phase::Fragment, time, |instance| {
                instance.on_fragment(number, &piece, may_edit, &mut limit, &mut said)
            })
        });
        by.compared(Phase::Fragment, compare((verdict, sent), judged, &said));
    }

    /// The candidate of plugin `n`, if it has been shown all that the plugin was.
    fn in_step(&mut self, n: usize) -> Option<(&Slot, &mut Shadow)> {
        let link = &mut self.links[n];
        let shadow = link.shadow.as_deref_mut()?;
        let is_known = shadow.step == Step::Abreast && shadow.life == shadow.slot.life();
        is_known.then_some((&*link.slot, shadow))
    }
}

impl Shadow {
    fn new(by: Rc<Onlooker>, seat: &Seat) -> Self {
        // Nobody is served by it, so none needs an instance of its own.
        let slot = seat.shared_slot(&by.trial().version);
        Self {
            number: slot.number_session(),
            life: slot.life(),
            slot,
            interest: Interest::default(),
            midway: [false; 2],
            step: Step::Behind,
            by,
        }
    }

    fn open(
        &mut self,
        handshake: &Arc<super::Handshake>,
        reopening: Option<Reopening>,
        max_message: u64,
        time: &mut Duration,
        said: &mut Vec<Sent>,
    ) -> Result<(), Cause> {
        self.interest = Interest::default();
        if self.slot.sees_messages() {
            let (number, limit) = (self.number, self.slot.allowance());
            let wants = self.slot.call(Phase::Open, time, |instance| {
                instance.open(number, handshake, reopening, limit, said)
            })?;
            self.interest = Interest::of(&wants, max_message);
        }
        self.life = self.slot.life();
        self.midway = [false; 2];
        self.step = Step::Abreast;
        Ok(())
    }

    /// Has the candidate forget what it knows, before it is told anew.
    fn forget(&mut self, time: &mut Duration) {
        if !self.interest.is_none() && self.slot.exports().handover.is_some() {
            self.slot
                .call_if_alive(self.life, Phase::Release, time, |instance| {
                    instance.release(self.number)
                });
        }
        self.interest = Interest::default();
    }

    /// Notes that it was not shown what the version in force was.
    fn has_missed(&mut self, live: &Slot) {
        // Without hand-over there is no way to catch up, and little to catch up with.
        if live.exports().handover.is_some() && self.slot.exports().handover.is_some() {
            self.step = Step::Behind;
        }
    }

    /// Notes that the instance in force has begun anew.
    pub(super) fn fall_behind(&mut self) {
        self.step = Step::Behind;
    }

    /// Tells the candidate how the session ended.
    pub(super) fn close(&self, code: u16, by: Option<Side>) {
        let watches = self.interest.watches();
        if self.step == Step::Abreast && watches != (false, false) && self.by.is_admitted() {
            self.by.charge(|time| {
                self.slot
                    .call_if_alive(self.life, Phase::Close, time, |instance| {
                        instance.on_close(self.number, code, by, watches)
                    });
            });
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.slot.free_session(self.number);
    }
}

/// A candidate that looks on at one exchange or handshake.
pub(super) struct HeadShadow {
    by: Rc<Onlooker>,
    slot: Rc<Slot>,
}

impl HeadShadow {
    pub(super) fn of(
        seat: &Seat,
        assignment: &Assignment,
        lot: Lot,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let by = seat.onlooker(assignment)?;
        by.sees(lot, headers).then(|| Self {
            slot: seat.slot(&by.trial().version),
            by,
        })
    }

    /// Returns a copy of a head before the version in force may change it; nothing if there is nothing to
    /// compare, or no time for it.
    pub(super) fn copy_request(
        &self,
        is_asked: impl Fn(&Compiled) -> bool,
        live: &Slot,
        head: &request::Parts,
    ) -> Option<request::Parts> {
        self.admits(is_asked, live).then(|| {
            let mut copy = Request::new(()).into_parts().0;
            copy.method = head.method.clone();
            copy.uri = head.uri.clone();
            copy.version = head.version;
            copy.headers = head.headers.clone();
            copy
        })
    }

    /// The same of a response.
    pub(super) fn copy_response(
        &self,
        live: &Slot,
        head: &response::Parts,
    ) -> Option<response::Parts> {
        let is_asked = |exports: &Compiled| exports.response.is_some();
        self.admits(is_asked, live).then(|| {
            let mut copy = Response::new(()).into_parts().0;
            copy.status = head.status;
            copy.version = head.version;
            copy.headers = head.headers.clone();
            copy
        })
    }

    fn admits(&self, is_asked: impl Fn(&Compiled) -> bool, live: &Slot) -> bool {
        (is_asked(live.exports()) || is_asked(self.slot.exports())) && self.by.is_admitted()
    }

    /// Notes that a head cannot be compared, since a version waits before it judges it.
    pub(super) fn skip(&self) {
        self.by.skip();
    }

    /// Shows it a request, and compares with what the version in force made of it.
    pub(super) fn on_request(
        &self,
        mut copy: request::Parts,
        facts: &Arc<Facts>,
        (verdict, head): (&Verdict, &request::Parts),
    ) {
        let limit = self.slot.allowance();
        let said = if self.slot.exports().request.is_none() {
            Ok(Some(Verdict::Continue))
        } else {
            self.by.charge(|time| {
                self.slot.ask_at_once(Phase::Request, time, |instance| {
                    instance.on_request(&mut copy, facts, limit)
                })
            })
        };
        let Some(said) = said.transpose() else {
            return self.skip();
        };
        let is_same_head = copy.uri == head.uri && copy.headers == head.headers;
        let found = compare_heads(verdict, said, is_same_head);
        self.by.compared(Phase::Request, found);
    }

    /// The same for a response.
    pub(super) fn on_response(
        &self,
        mut copy: response::Parts,
        request: &Arc<SentRequest>,
        (verdict, head): (&Verdict, &response::Parts),
    ) {
        let limit = self.slot.allowance();
        let said = if self.slot.exports().response.is_none() {
            Ok(Some(Verdict::Continue))
        } else {
            self.by.charge(|time| {
                self.slot.ask_at_once(Phase::Response, time, |instance| {
                    instance.on_response(request, &mut copy, limit)
                })
            })
        };
        let Some(said) = said.transpose() else {
            return self.skip();
        };
        let is_same_head = copy.status == head.status && copy.headers == head.headers;
        let found = compare_heads(verdict, said, is_same_head);
        self.by.compared(Phase::Response, found);
    }

    /// The same for the choice of an endpoint.
    pub(super) fn choose(
        &self,
        mut copy: request::Parts,
        facts: &Arc<Facts>,
        upstream: UpstreamView<'_>,
        candidates: &[Candidate],
        chosen: Option<usize>,
    ) {
        let other = if self.slot.exports().balancer.is_none() {
            Ok(None)
        } else {
            self.by.charge(|time| {
                self.slot.call(Phase::Choose, time, |instance| {
                    instance.choose(upstream, &mut copy, facts, candidates)
                })
            })
        };
        let told = |chosen: Option<usize>| match chosen {
            Some(endpoint) => upstream.endpoints[endpoint].address.to_string(),
            None => "no opinion".to_owned(),
        };
        let found = match other {
            Err(cause) => Some(failed(&cause)),
            Ok(other) if other != chosen => Some((Contrast::Endpoint, told(chosen), told(other))),
            Ok(_) => None,
        };
        self.by.compared(Phase::Choose, found);
    }
}

fn compare_heads(
    live: &Verdict,
    shadow: Result<Verdict, Cause>,
    is_same_head: bool,
) -> Option<(Contrast, String, String)> {
    let told = |verdict: &Verdict| match verdict {
        Verdict::Continue => "continue".to_owned(),
        Verdict::Wait => "wait".to_owned(),
        Verdict::Respond(answer) => format!("respond with {}", answer.status().as_u16()),
    };
    let shadow = match shadow {
        Ok(shadow) => shadow,
        Err(cause) => return Some(failed(&cause)),
    };
    let kind = match (live, &shadow) {
        (Verdict::Continue, Verdict::Continue) if is_same_head => return None,
        (Verdict::Continue, Verdict::Continue) => {
            let other = "continue, with another head".to_owned();
            return Some((Contrast::Content, told(live), other));
        }
        (Verdict::Respond(one), Verdict::Respond(other))
            if one.status() == other.status()
                && one.headers() == other.headers()
                && one.body() == other.body() =>
        {
            return None;
        }
        (Verdict::Respond(_), Verdict::Respond(_)) => Contrast::Content,
        _ => Contrast::Verdict,
    };
    Some((kind, told(live), told(&shadow)))
}

fn compare(
    live: (&MessageVerdict, &[Sent]),
    judged: Result<MessageVerdict, Cause>,
    said: &[Sent],
) -> Option<(Contrast, String, String)> {
    match judged {
        Ok(verdict) => contrast(live, (&verdict, said)),
        Err(cause) => Some(failed(&cause)),
    }
}

fn failed(cause: &Cause) -> (Contrast, String, String) {
    (Contrast::Failure, String::new(), cause.to_string())
}
