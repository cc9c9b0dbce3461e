//! A route's plugins in order, and their run over one exchange or opening handshake.
//!
//! What follows a handshake is `messages.rs`.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, request, response};

use super::engine::Compiled;
use super::messages::MessageChain;
use super::rollout::Plugin;
use super::shadow::HeadShadow;
use super::slots::{Instances, Seat, Slot};
use super::trial::Lot;
use super::wait::{Step, Wait};
use super::{
    Candidate, Cause, Facts, Failure, Handshake, Opening, Sent, SentRequest, UpstreamView, Verdict,
};
use crate::telemetry::Phase;

/// The plugins of a route, in the operator's order.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    plugins: Vec<Arc<Plugin>>,
}

/// A chain at work on one exchange or handshake.
pub(crate) struct ChainRun {
    links: Vec<Link>,
    /// How many plugins, from the first on, have a say in the response.
    reach: usize,
    lot: Lot,
    time_spent: Duration,
    waiting: Option<Box<Waiting>>,
}

/// A plugin that waits before it judges a head.
struct Waiting {
    /// Which of them.
    n: usize,
    wait: Box<Wait>,
    /// Body of the answer that a plugin has given to a response.
    replaced: Option<Bytes>,
}

struct Link {
    seat: Rc<Seat>,
    /// Number of the assignment when the run began.
    seen: u64,
    /// Of the version that was assigned then.
    slot: Rc<Slot>,
    /// What [`ChainRun::reserve`] took.
    reserved: Option<Rc<Slot>>,
    /// It failed and its `on_failure` is `open`: the rest goes on without it.
    skipped: bool,
    /// A candidate that looks on.
    shadow: Option<HeadShadow>,
}

/// What a plugin is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takes {
    pub(crate) request: bool,
    pub(crate) endpoint: bool,
    pub(crate) response: bool,
    pub(crate) messages: bool,
}

#[cfg(test)]
impl Chain {
    pub(super) fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }
}

impl Chain {
    pub(crate) fn new(plugins: Vec<Arc<Plugin>>) -> Self {
        Self { plugins }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// Begins a run for one exchange or handshake, which came with these fields. Instances are made when
    /// the first call needs them.
    pub(crate) fn begin(&self, instances: &Instances, headers: &HeaderMap) -> ChainRun {
        let lot = instances.draw();
        let link = |plugin| {
            let seat = instances.seat(plugin);
            let assignment = seat.assignment();
            Link {
                slot: seat.slot(assignment.version_for(None, lot, headers)),
                seen: assignment.number(),
                shadow: HeadShadow::of(&seat, &assignment, lot, headers),
                seat,
                reserved: None,
                skipped: false,
            }
        };
        ChainRun {
            links: self.plugins.iter().map(link).collect(),
            reach: self.plugins.len(),
            lot,
            time_spent: Duration::ZERO,
            waiting: None,
        }
    }
}

impl Link {
    /// Returns a copy of a head for a candidate that looks on, if there is one.
    fn copy_request(
        &self,
        is_asked: impl Fn(&Compiled) -> bool,
        head: &request::Parts,
    ) -> Option<(&HeadShadow, request::Parts)> {
        let shadow = self.shadow.as_ref()?;
        let copy = shadow.copy_request(is_asked, &self.slot, head)?;
        Some((shadow, copy))
    }
}

impl ChainRun {
    /// Returns the names of the plugins, first to last, and what each is asked about.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (&str, Takes)> {
        self.links.iter().map(|link| {
            let exports = link.slot.exports();
            let takes = Takes {
                request: exports.request.is_some(),
                endpoint: exports.balancer.is_some(),
                response: exports.response.is_some(),
                messages: exports.messages.is_some(),
            };
            (&**link.slot.version().name(), takes)
        })
    }

    /// Whether [`on_response`](Self::on_response) calls anybody.
    pub(crate) fn sees_responses(&self) -> bool {
        self.links
            .iter()
            .any(|link| link.slot.exports().response.is_some())
    }

    /// Whether [`choose`](Self::choose) calls anybody.
    pub(crate) fn chooses(&self) -> bool {
        self.links
            .iter()
            .any(|link| link.slot.exports().balancer.is_some())
    }

    /// Whether a session of this chain may be watched; [`open`](Self::open) tells whether one is.
    pub(crate) fn sees_messages(&self) -> bool {
        self.links.iter().any(|link| link.slot.sees_messages())
    }

    /// Shows the head of a request to the plugins, first to last.
    ///
    /// After an answer, and after a failure, [`on_response`](Self::on_response) is for the plugins up
    /// to the one that answered, and before the one that failed.
    pub(crate) fn on_request(
        &mut self,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
    ) -> Result<Verdict, Failure> {
        self.ask_about_request(0, head, facts)
    }

    /// Goes on after [`Verdict::Wait`] of [`Self::on_request`], once a plugin has answered that waited.
    /// Dropped before that, the plugin is told that nobody needs its answer.
    pub(crate) async fn resume_request(
        &mut self,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
    ) -> Result<Verdict, Failure> {
        let Some(Waiting { n, mut wait, .. }) = self.waiting.take().map(|waiting| *waiting) else {
            return Ok(Verdict::Continue);
        };
        let limit = self.links[n].slot.allowance();
        let answer = loop {
            let replies = match poll_fn(|cx| wait.poll(cx)).await {
                Ok(replies) => replies,
                Err(cause) => break Err(cause),
            };
            let held = wait.held();
            let resumed = wait.resume(Phase::Request, &mut self.time_spent, |instance| {
                instance.hold(held);
                instance.resume_request(&replies, head, facts, limit)
            });
            if let Some(answer) = resumed.transpose() {
                break answer;
            }
        };
        drop(wait);
        match self.settle_request(n, answer.map(Step::Done))? {
            Verdict::Continue => self.ask_about_request(n + 1, head, facts),
            verdict => Ok(verdict),
        }
    }

    fn ask_about_request(
        &mut self,
        from: usize,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
    ) -> Result<Verdict, Failure> {
        for n in from..self.links.len() {
            let link = &self.links[n];
            if link.skipped {
                continue;
            }
            let copy = link.copy_request(|exports| exports.request.is_some(), head);
            let limit = link.slot.allowance();
            let asked = if link.slot.exports().request.is_none() {
                Ok(Step::Done(Verdict::Continue))
            } else {
                link.slot
                    .ask(Phase::Request, &mut self.time_spent, |instance| {
                        instance.on_request(head, facts, limit)
                    })
            };
            match (&asked, copy) {
                (Ok(Step::Done(verdict)), Some((shadow, copy))) => {
                    shadow.on_request(copy, facts, (verdict, head));
                }
                (Ok(Step::Waits(_)), Some((shadow, _))) => shadow.skip(),
                _ => {}
            }
            match self.settle_request(n, asked)? {
                Verdict::Continue => {}
                verdict => return Ok(verdict),
            }
        }
        Ok(Verdict::Continue)
    }

    /// Notes what plugin `n` made of a request.
    fn settle_request(
        &mut self,
        n: usize,
        asked: Result<Step<Verdict>, Cause>,
    ) -> Result<Verdict, Failure> {
        match asked {
            Ok(Step::Done(verdict)) => {
                if matches!(verdict, Verdict::Respond(_)) {
                    self.reach = n + 1;
                }
                Ok(verdict)
            }
            Ok(Step::Waits(wait)) => {
                self.waiting = Some(Box::new(Waiting {
                    n,
                    wait,
                    replaced: None,
                }));
                Ok(Verdict::Wait)
            }
            Err(cause) => {
                let failed = self.fail(n, Phase::Request, cause);
                failed.inspect_err(|_| self.reach = n)?;
                Ok(Verdict::Continue)
            }
        }
    }

    /// Shows the head of a response to the plugins, last to first. An answer of one is shown to those
    /// before it, and returned when all have seen it.
    ///
    /// After a failure the answer that the proxy makes of it may be shown again: to the plugins
    /// that have not seen the first.
    pub(crate) fn on_response(
        &mut self,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
    ) -> Result<Verdict, Failure> {
        self.ask_about_response(None, request, head)
    }

    /// As [`Self::resume_request`], for [`Self::on_response`].
    pub(crate) async fn resume_response(
        &mut self,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
    ) -> Result<Verdict, Failure> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(Verdict::Continue);
        };
        let Waiting {
            n,
            mut wait,
            replaced,
        } = *waiting;
        let limit = self.links[n].slot.allowance();
        let answer = loop {
            let replies = match poll_fn(|cx| wait.poll(cx)).await {
                Ok(replies) => replies,
                Err(cause) => break Err(cause),
            };
            let held = wait.held();
            let resumed = wait.resume(Phase::Response, &mut self.time_spent, |instance| {
                instance.hold(held);
                instance.resume_response(&replies, request, head, limit)
            });
            if let Some(answer) = resumed.transpose() {
                break answer;
            }
        };
        drop(wait);
        let replaced = match answer {
            Ok(answer) => replace(head, answer).or(replaced),
            Err(cause) => {
                self.fail(n, Phase::Response, cause)?;
                replaced
            }
        };
        self.ask_about_response(replaced, request, head)
    }

    fn ask_about_response(
        &mut self,
        mut replaced: Option<Bytes>,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
    ) -> Result<Verdict, Failure> {
        while let Some(n) = self.reach.checked_sub(1) {
            self.reach = n;
            let link = &self.links[n];
            if link.skipped {
                continue;
            }
            let shadow = link.shadow.as_ref();
            let copy =
                shadow.and_then(|shadow| Some((shadow, shadow.copy_response(&link.slot, head)?)));
            let limit = link.slot.allowance();
            let asked = if link.slot.exports().response.is_none() {
                Ok(Step::Done(Verdict::Continue))
            } else {
                link.slot
                    .ask(Phase::Response, &mut self.time_spent, |instance| {
                        instance.on_response(request, head, limit)
                    })
            };
            match (&asked, copy) {
                (Ok(Step::Done(verdict)), Some((shadow, copy))) => {
                    shadow.on_response(copy, request, (verdict, head));
                }
                (Ok(Step::Waits(_)), Some((shadow, _))) => shadow.skip(),
                _ => {}
            }
            match asked {
                Ok(Step::Done(answer)) => replaced = replace(head, answer).or(replaced),
                Ok(Step::Waits(wait)) => {
                    self.waiting = Some(Box::new(Waiting { n, wait, replaced }));
                    return Ok(Verdict::Wait);
                }
                Err(cause) => {
                    self.fail(n, Phase::Response, cause)?;
                }
            }
        }
        let Some(body) = replaced else {
            return Ok(Verdict::Continue);
        };
        let mut answer = http::Response::new(body);
        *answer.status_mut() = head.status;
        *answer.headers_mut() = std::mem::take(&mut head.headers);
        Ok(Verdict::Respond(answer))
    }

    /// Applies `on_failure` of plugin `n`: a failure that ends the exchange, or it goes on without it.
    fn fail(&mut self, n: usize, phase: Phase, cause: Cause) -> Result<(), Failure> {
        let link = &mut self.links[n];
        link.skipped = true;
        if cause.is_of_waiting() {
            link.slot.failed_waiting(phase, &cause);
        }
        link.slot.fail(phase, cause)
    }

    /// Asks the plugins for an endpoint, first to last, until one names one: an index into
    /// `upstream.endpoints`. `candidates` must not be empty. To be called once per attempt.
    pub(crate) fn choose(
        &mut self,
        upstream: UpstreamView<'_>,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
        candidates: &[Candidate],
    ) -> Result<Option<usize>, Failure> {
        for link in &mut self.links {
            if link.skipped {
                continue;
            }
            let copy = link.copy_request(|exports| exports.balancer.is_some(), head);
            let chosen = if link.slot.exports().balancer.is_none() {
                Ok(None)
            } else {
                link.slot
                    .call(Phase::Choose, &mut self.time_spent, |instance| {
                        instance.choose(upstream, head, facts, candidates)
                    })
            };
            if let (Ok(chosen), Some((shadow, copy))) = (&chosen, copy) {
                shadow.choose(copy, facts, upstream, candidates, *chosen);
            }
            match chosen {
                Ok(None) => {}
                Ok(chosen) => return Ok(chosen),
                Err(cause) => {
                    link.skipped = true;
                    link.slot.fail(Phase::Choose, cause)?;
                }
            }
        }
        Ok(None)
    }

    /// Sees to it that the plugins that may watch a session can take one, before the service is asked: what
    /// is to be closed as it opens need not be opened.
    pub(crate) fn reserve(&mut self) -> Result<(), Failure> {
        for link in &mut self.links {
            if link.skipped || !link.slot.sees_messages() {
                continue;
            }
            let reserved = link
                .slot
                .is_called()
                .and_then(|()| link.seat.own_slot(link.slot.version()));
            match reserved {
                Ok(slot) => link.reserved = slot,
                Err(cause) => link.slot.fail(Phase::Open, cause)?,
            }
        }
        Ok(())
    }

    /// Opens a session, after the 101 went out and before any message. Longer messages than
    /// `max_message` bytes are not shown whole. What plugins send at once is appended to `sent`, also if
    /// nobody watches the session then.
    pub(crate) fn open(
        self,
        handshake: &Arc<Handshake>,
        max_message: usize,
        sent: &mut Vec<Sent>,
    ) -> Result<Opening, Failure> {
        let watching = self
            .links
            .into_iter()
            .filter(|link| !link.skipped)
            .map(|link| (link.seat, link.seen, link.slot, link.reserved));
        MessageChain::open(
            watching,
            self.lot,
            handshake,
            max_message as u64,
            self.time_spent,
            sent,
        )
    }

    /// Returns the time that plugins have taken so far.
    pub(crate) fn time_spent(&self) -> Duration {
        self.time_spent
    }
}

/// Puts the answer of a plugin in the place of a response, and returns its body.
fn replace(head: &mut response::Parts, answer: Verdict) -> Option<Bytes> {
    let Verdict::Respond(answer) = answer else {
        return None;
    };
    let (parts, body) = answer.into_parts();
    *head = parts;
    Some(body)
}
