//! Tickets: what a plugin starts while one of its hooks is called, and the bounds on that.
//!
//! How a hook waits for them is `plugin/wait.rs`; sending a call-out is for `proxy/`, since plugins know no
//! upstreams.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request};
use tracing::Level;
use wasmtime::Result;
use wasmtime::component::Resource;

use super::State;
use super::handles::{RequestHead, ResponseHead, SentRequestHead};
use super::heads::{CONNECTION_FIELDS, origin_form};
use crate::config;
use crate::plugin::bindings::tidegate::plugin::tickets::{self, Call, CallError};
use crate::plugin::instance::LENT;
use crate::telemetry::{Phase, PluginMetrics};

/// A request to an upstream, on behalf of a plugin.
#[derive(Debug)]
pub(crate) struct CallOut {
    /// Name of an upstream that the plugin may call. Whether there is one is not known here.
    pub(crate) upstream: String,
    /// Target in origin form. Without fields of the connection or its framing.
    pub(crate) request: Request<Bytes>,
    /// For all of it.
    pub(crate) timeout: Option<Duration>,
    /// Longest body of a response.
    pub(crate) max_reply_bytes: usize,
}

/// What came of a call-out.
pub(crate) type CallResult = std::result::Result<http::Response<Bytes>, CallError>;

/// Whoever sends call-outs. Dropping what it returns ends the call-out.
pub(crate) type Caller = Rc<dyn Fn(CallOut) -> Pin<Box<dyn Future<Output = CallResult>>>>;

/// Counts what a plugin has started on one worker. Used by one thread at a time.
pub(in crate::plugin) struct Gate {
    metrics: Arc<PluginMetrics>,
    /// Second since the first ticket of the process, and tickets handed out in it.
    second: AtomicU64,
    started: AtomicU32,
    open: AtomicU32,
}

/// A ticket that is not settled, counted until this is dropped.
pub(in crate::plugin) struct Place(Arc<Gate>);

/// The tickets of one instance.
pub(in crate::plugin) struct Tickets {
    grants: Vec<String>,
    limits: config::TicketLimits,
    gate: Arc<Gate>,
    next: u64,
    /// Held by the exchange or session whose hook is called next.
    held: usize,
    /// How many more it may have.
    left: usize,
    orders: Orders,
}

/// What one call of a hook started and cancelled.
#[derive(Default)]
pub(in crate::plugin) struct Orders {
    pub(in crate::plugin) started: Vec<Started>,
    pub(in crate::plugin) cancelled: Vec<u64>,
}

/// Work that is to be done.
pub(in crate::plugin) struct Started {
    pub(in crate::plugin) ticket: u64,
    pub(in crate::plugin) work: Work,
    pub(in crate::plugin) place: Place,
}

pub(in crate::plugin) enum Work {
    Call(Box<CallOut>),
    Sleep(Duration),
}

impl Gate {
    pub(in crate::plugin) fn new(metrics: Arc<PluginMetrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            second: AtomicU64::new(0),
            started: AtomicU32::new(0),
            open: AtomicU32::new(0),
        })
    }

    /// Returns a place for one more; None: there are too many, in this second or at once.
    pub(in crate::plugin) fn enter(
        self: &Arc<Self>,
        limits: &config::TicketLimits,
    ) -> Option<Place> {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);

        let second = START.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.started.store(0, Ordering::Relaxed);
        }
        let started = self.started.load(Ordering::Relaxed);
        let open = self.open.load(Ordering::Relaxed);
        if started >= limits.per_second || open >= limits.at_once {
            return None;
        }
        self.started.store(started + 1, Ordering::Relaxed);
        self.open.store(open + 1, Ordering::Relaxed);
        self.metrics.tickets.increment();
        self.metrics.tickets_open.increment();
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.tickets_open.decrement();
    }
}

impl Tickets {
    pub(in crate::plugin) fn new(plugin: &config::Plugin, gate: &Arc<Gate>) -> Self {
        Self {
            grants: plugin.call.clone(),
            limits: plugin.limits.tickets.clone(),
            gate: Arc::clone(gate),
            next: 0,
            held: 0,
            left: 0,
            orders: Orders::default(),
        }
    }

    /// Notes how many tickets the exchange or session holds whose hook is called next.
    pub(in crate::plugin) fn hold(&mut self, held: usize) {
        self.held = held;
    }

    /// Begins a call. What the last one started and nobody waits for is forgotten.
    pub(in crate::plugin) fn begin(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.left = self.limits.per_session.saturating_sub(held);
        if !self.orders.started.is_empty() || !self.orders.cancelled.is_empty() {
            self.orders = Orders::default();
        }
    }

    pub(in crate::plugin) fn take_orders(&mut self) -> Orders {
        std::mem::take(&mut self.orders)
    }

    fn start(&mut self, work: Work) -> std::result::Result<u64, CallError> {
        let place = match self.left {
            0 => None,
            _ => self.gate.enter(&self.limits),
        };
        let Some(place) = place else {
            self.gate.metrics.tickets_refused.increment();
            return Err(CallError::Limit);
        };
        self.left -= 1;
        let ticket = self.next;
        self.next += 1;
        self.orders.started.push(Started {
            ticket,
            work,
            place,
        });
        Ok(ticket)
    }
}

impl State {
    fn must_be_a_hook(&self, function: &str) -> Result<()> {
        let hooks = [Phase::Request, Phase::Response, Phase::Message];
        self.call.must_be(&hooks, function)
    }

    /// Says that a grant is missing, which only the operator can mend.
    fn denied(&self, upstream: &str) {
        let message =
            format!("call-out to `{upstream}` denied; the plugin's `call` does not name it");
        self.log
            .write(&self.plugin, Level::WARN, "tickets", &message);
    }
}

impl tickets::Host for State {
    fn may_call(&mut self, upstream: String) -> Result<bool> {
        Ok(self.tickets.grants.contains(&upstream))
    }

    fn start_call(&mut self, call: Call) -> Result<std::result::Result<u64, CallError>> {
        self.must_be_a_hook("tickets.start-call")?;
        let of_fields = call
            .fields
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.spend(of_fields.sum::<usize>() + call.body.len(), 0)?;
        if !self.tickets.grants.contains(&call.upstream) {
            self.denied(&call.upstream);
            return Ok(Err(CallError::Denied));
        }
        let max_reply_bytes = self.tickets.limits.reply_bytes;
        let Some(call_out) = call_out(call, max_reply_bytes) else {
            return Ok(Err(CallError::Invalid));
        };
        Ok(self.tickets.start(Work::Call(Box::new(call_out))))
    }

    fn start_timer(&mut self, milliseconds: u32) -> Result<std::result::Result<u64, CallError>> {
        self.must_be_a_hook("tickets.start-timer")?;
        let time = Duration::from_millis(milliseconds.into());
        Ok(self.tickets.start(Work::Sleep(time)))
    }

    fn cancel(&mut self, ticket: u64) -> Result<()> {
        self.tickets.orders.cancelled.push(ticket);
        Ok(())
    }

    fn held_request(&mut self) -> Result<Resource<RequestHead>> {
        Ok(Resource::new_own(LENT))
    }

    fn held_sent_request(&mut self) -> Result<Resource<SentRequestHead>> {
        Ok(Resource::new_own(LENT))
    }

    fn held_response(&mut self) -> Result<Resource<ResponseHead>> {
        Ok(Resource::new_own(LENT))
    }
}

/// Returns what a plugin asks for as a request that can be sent.
fn call_out(call: Call, max_reply_bytes: usize) -> Option<CallOut> {
    let mut request = Request::new(Bytes::from(call.body));
    *request.method_mut() = Method::from_bytes(call.method.as_bytes()).ok()?;
    if *request.method() == Method::CONNECT {
        return None;
    }
    let target: PathAndQuery = origin_form(&call.target)?;
    *request.uri_mut() = target.into();
    for (name, value) in call.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?;
        if CONNECTION_FIELDS.contains(&name) || name == http::header::EXPECT {
            return None;
        }
        request.headers_mut().try_append(name, value).ok()?;
    }
    Some(CallOut {
        upstream: call.upstream,
        request,
        timeout: call.timeout.map(|ms| Duration::from_millis(ms.into())),
        max_reply_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_second: u32, at_once: u32) -> config::TicketLimits {
        config::TicketLimits {
            per_second,
            at_once,
            per_session: 8,
            reply_bytes: 1024,
            wait_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_ticket_is_settled_but_counts_for_its_second() {
        let metrics = Arc::new(PluginMetrics::default());
        let gate = Gate::new(Arc::clone(&metrics));
        let one = limits(1_000, 1);
        let place = gate.enter(&one).unwrap();
        assert!(gate.enter(&one).is_none());
        assert_eq!(metrics.tickets_open.value(), 1);
        drop(place);
        assert_eq!(metrics.tickets_open.value(), 0);
        assert!(gate.enter(&one).is_some());

        // At most two seconds are touched by so few steps.
        let gate = Gate::new(metrics);
        let admitted = (0..10).filter(|_| gate.enter(&limits(2, 9)).is_some());
        assert!((2..=4).contains(&admitted.count()));
    }

    #[test]
    fn what_cannot_be_sent_is_no_call_out() {
        let call = |method: &str, target: &str, field: (&str, &str)| Call {
            upstream: "auth".to_owned(),
            method: method.to_owned(),
            target: target.to_owned(),
            fields: vec![(field.0.to_owned(), field.1.as_bytes().to_vec())],
            body: Vec::new(),
            timeout: None,
        };
        let is_one = |call| call_out(call, 1).is_some();
        assert!(is_one(call("POST", "/a?b", ("x-user", "ann"))));
        for (method, target, field) in [
            ("CONNECT", "/", ("a", "b")),
            ("G T", "/", ("a", "b")),
            ("GET", "check", ("a", "b")),
            ("GET", "/a b", ("a", "b")),
            ("GET", "/", ("a b", "c")),
            ("GET", "/", ("a", "b\r\nc: d")),
            ("GET", "/", ("Content-Length", "7")),
            ("GET", "/", ("Upgrade", "websocket")),
        ] {
            assert!(
                !is_one(call(method, target, field)),
                "{method} {target} {field:?}"
            );
        }
    }
}
