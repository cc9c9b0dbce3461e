//! Instances of plugins: one store and one component instance each, called within the plugin's
//! limits and replaced when a call ends one.
//!
//! An instance belongs to one worker. Which calls are made, and what their failure means for an
//! exchange or session, is left to `exchange.rs` and `messages.rs`.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, request, response};
use slab::Slab;
use tracing::warn;
use wasmtime::component::Resource;
use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};

use super::bindings::exports::tidegate::plugin::{
    balancer, lifecycle, messages, request as requests, response as responses,
};
use super::engine::{self, Compiled, Plugin};
use super::host::{Allowance, Lent, Loan, LogGate, State, rule};
use super::{
    Candidate, Cause, EndpointView, Facts, Failure, Handshake, MessageVerdict, Sent, SentRequest,
    Source, UpstreamView, Verdict,
};
use crate::config::OnFailure;
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::{Phase, PluginMetrics, WorkerMetrics};

/// What starting an instance may take, in call timeouts: a configuration may hold a thousand patterns
/// to compile.
const START_TIMEOUTS: u32 = 10;

/// How long after a failed start the next one is tried, at first and at most.
const MIN_BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// Failures of a plugin that are logged per second and worker.
const MAX_REPORTS: u32 = 5;

/// Handles to the host's resources that one instance may hold.
const MAX_HANDLES: usize = 1_000;

/// What a guest may hand over in one call of the host beyond what it may produce: names, log lines.
const HOST_CALL_BYTES: usize = 1024 * 1024;

/// Frames of a backtrace that are reported.
const MAX_FRAMES: usize = 4;

/// The representation of every lent handle.
const LENT: u32 = 0;

/// Instances of one worker: made when first used, and kept while a generation or session holds their
/// plugin.
pub(crate) struct Instances {
    metrics: Arc<WorkerMetrics>,
    /// By [`Plugin::id`].
    slots: RefCell<HashMap<u64, Rc<Slot>>>,
}

/// The place of one plugin on one worker: its instance, or the next one.
pub(super) struct Slot {
    plugin: Arc<Plugin>,
    metrics: Arc<PluginMetrics>,
    /// For what the plugin writes.
    log: Arc<LogGate>,
    /// For what the host writes about its failures.
    reports: LogGate,
    live: RefCell<Option<Instance>>,
    /// Instances that have ended. A session open in an earlier life is not known to this one.
    life: Cell<u32>,
    sessions: RefCell<Slab<()>>,
    back_off: Cell<Option<BackOff>>,
}

#[derive(Clone, Copy)]
struct BackOff {
    delay: Duration,
    until: Instant,
}

/// A store and the instance in it.
pub(super) struct Instance {
    store: Store<State>,
    guest: Guest,
    timeout: Duration,
    /// Upstreams it was told of, by name.
    told: HashMap<Box<str>, u32>,
}

/// What it exports.
struct Guest {
    lifecycle: Option<lifecycle::Guest>,
    request: Option<requests::Guest>,
    response: Option<responses::Guest>,
    balancer: Option<balancer::Guest>,
    messages: Option<messages::Guest>,
}

/// Why there is no instance.
pub(super) enum StartError {
    ExportType {
        name: String,
        source: Source,
    },
    /// What `configure` returned.
    Configure(String),
    Cause(Cause),
}

impl Instances {
    pub(crate) fn new(metrics: Arc<WorkerMetrics>) -> Self {
        Self {
            metrics,
            slots: RefCell::default(),
        }
    }

    /// Lets go of all plugins but those `in_force`. Instances of the others go with the last session
    /// that holds them, or now. To be called when another generation is in force; an exchange that
    /// begins with an earlier one is served all the same.
    pub(crate) fn retain(&self, in_force: &[Arc<Plugin>]) {
        let ids: HashSet<u64> = in_force.iter().map(|plugin| plugin.id()).collect();
        self.slots.borrow_mut().retain(|id, _| ids.contains(id));
    }

    pub(super) fn slot(&self, plugin: &Arc<Plugin>) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(plugin.id()).or_insert_with(|| {
            Rc::new(Slot {
                plugin: Arc::clone(plugin),
                metrics: self.metrics.plugin(plugin.name()),
                log: LogGate::of_plugin(),
                reports: LogGate::new(MAX_REPORTS),
                live: RefCell::default(),
                life: Cell::new(0),
                sessions: RefCell::default(),
                back_off: Cell::default(),
            })
        });
        Rc::clone(slot)
    }
}

impl From<&EndpointView> for balancer::Endpoint {
    fn from(endpoint: &EndpointView) -> Self {
        Self {
            address: endpoint.address.to_string(),
            weight: endpoint.weight,
            backup: endpoint.backup,
        }
    }
}

impl Slot {
    pub(super) fn exports(&self) -> &Compiled {
        self.plugin.compiled()
    }

    /// What one call may produce.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance::of(&self.plugin.declared().limits)
    }

    pub(super) fn life(&self) -> u32 {
        self.life.get()
    }

    /// Returns a number for a session: one that is free again, or the next.
    pub(super) fn number_session(&self) -> u32 {
        let number = self.sessions.borrow_mut().insert(());
        u32::try_from(number).expect("a worker holds fewer sessions than a u32 counts")
    }

    pub(super) fn free_session(&self, number: u32) {
        self.sessions.borrow_mut().try_remove(number as usize);
    }

    /// Calls the instance, which is made first if there is none. A failed call ends it.
    pub(super) fn call<R>(
        &self,
        phase: Phase,
        time_spent: &mut Duration,
        call: impl FnOnce(&mut Instance) -> Result<R, Cause>,
    ) -> Result<R, Cause> {
        let mut live = self.live.borrow_mut();
        let instance = match &mut *live {
            Some(instance) => instance,
            none => {
                let started = Instant::now();
                let made = self.make();
                *time_spent += started.elapsed();
                none.insert(made.inspect_err(|_| self.metrics.failures[phase].increment())?)
            }
        };
        let started = Instant::now();
        let result = call(instance);
        let took = started.elapsed();
        *time_spent += took;
        self.metrics.calls[phase].increment();
        self.metrics.call_time[phase].observe(took);
        if result.is_err() {
            self.metrics.failures[phase].increment();
            self.metrics.instances_replaced.increment();
            *live = None;
            self.life.set(self.life.get().wrapping_add(1));
        }
        result
    }

    /// Calls the instance if a session is open in it still. What fails here fails nothing else.
    pub(super) fn call_if_alive(
        &self,
        life: u32,
        phase: Phase,
        time_spent: &mut Duration,
        call: impl FnOnce(&mut Instance) -> Result<(), Cause>,
    ) {
        // Sessions may end while the worker unwinds out of a call.
        let alive = self.live.try_borrow().is_ok_and(|live| live.is_some());
        if alive
            && life == self.life.get()
            && let Err(cause) = self.call(phase, time_spent, call)
        {
            self.report(phase, &cause);
        }
    }

    /// Applies `on_failure`: returns the failure that ends the exchange or session, or nothing if it
    /// goes on without the plugin.
    pub(super) fn fail(&self, phase: Phase, cause: Cause) -> Result<(), Failure> {
        match self.plugin.declared().on_failure {
            OnFailure::Closed => Err(Failure {
                plugin: Arc::clone(self.plugin.name()),
                phase,
                cause,
            }),
            OnFailure::Open => {
                // The failed start was reported; that there is no instance since then is no news.
                if !matches!(cause, Cause::Unavailable { .. }) {
                    self.report(phase, &cause);
                }
                Ok(())
            }
        }
    }

    fn make(&self) -> Result<Instance, Cause> {
        let now = Instant::now();
        let back_off = self.back_off.get();
        if let Some(BackOff { until, .. }) = back_off
            && now < until
        {
            return Err(Cause::Unavailable {
                retry_in: until - now,
            });
        }
        self.metrics.calls[Phase::Configure].increment();
        let started = Instance::start(&self.plugin, &self.log);
        self.metrics.call_time[Phase::Configure].observe(now.elapsed());
        match started {
            Ok(instance) => {
                self.back_off.set(None);
                Ok(instance)
            }
            Err(error) => {
                let delay = back_off
                    .map_or(MIN_BACK_OFF, |last| last.delay * 2)
                    .min(MAX_BACK_OFF);
                self.back_off.set(Some(BackOff {
                    delay,
                    until: Instant::now() + delay,
                }));
                self.metrics.failures[Phase::Configure].increment();
                let cause = Cause::from(error);
                self.report(Phase::Configure, &cause);
                Err(cause)
            }
        }
    }

    fn report(&self, phase: Phase, cause: &Cause) {
        if let Some(unreported) = self.reports.admit() {
            let plugin: &str = self.plugin.name();
            let function = super::function(phase);
            warn!(plugin, function, %cause, unreported, "plugin failed");
        }
    }
}

impl Instance {
    /// Makes an instance and configures it.
    pub(super) fn start(plugin: &Plugin, log: &Arc<LogGate>) -> Result<Self, StartError> {
        let declared = plugin.declared();
        let compiled = plugin.compiled();
        let limits = &declared.limits;
        let mut store = Store::new(
            compiled.pre.engine(),
            State::new(plugin.name(), limits, log),
        );
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes.saturating_add(HOST_CALL_BYTES));
        store.set_max_component_handles(MAX_HANDLES);
        store.epoch_deadline_callback(|mut store| store.data_mut().tick());

        let timeout = limits.call_timeout.saturating_mul(START_TIMEOUTS);
        let nothing = Allowance {
            bytes: 0,
            messages: 0,
        };
        begin(&mut store, Phase::Configure, timeout, nothing);
        let instance = guarded(&mut store, |store| compiled.pre.instantiate(store))
            .map_err(StartError::Cause)?;
        let guest = Guest::load(compiled, &mut store, &instance)?;
        if let Some(lifecycle) = &guest.lifecycle {
            begin(&mut store, Phase::Configure, timeout, nothing);
            guarded(&mut store, |store| {
                lifecycle.call_configure(store, &declared.config)
            })
            .map_err(StartError::Cause)?
            .map_err(StartError::Configure)?;
        }
        Ok(Self {
            store,
            guest,
            timeout: limits.call_timeout,
            told: HashMap::new(),
        })
    }

    pub(super) fn on_request(
        &mut self,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
        limit: Allowance,
    ) -> Result<Verdict, Cause> {
        let guest = self
            .guest
            .request
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Request, self.timeout, limit);
        lend_request(&mut self.store, head, facts, |store| {
            match guest.call_on_request(&mut *store, Resource::new_borrow(LENT))? {
                requests::Verdict::Continue => Ok(Verdict::Continue),
                requests::Verdict::Respond => answer(store).map(Verdict::Respond),
                requests::Verdict::Wait => Err(waits().into()),
            }
        })
    }

    pub(super) fn on_response(
        &mut self,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
        limit: Allowance,
    ) -> Result<Verdict, Cause> {
        let guest = self
            .guest
            .response
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Response, self.timeout, limit);
        let status = head.status;
        let lent = std::mem::replace(head, http::Response::new(()).into_parts().0);
        self.store.data_mut().lent =
            Lent::Response(Arc::clone(request), Loan::new(lent, &request.facts));
        let result = guarded(&mut self.store, |store| {
            let verdict = guest.call_on_response(
                &mut *store,
                Resource::new_borrow(LENT),
                Resource::new_borrow(LENT),
            )?;
            match verdict {
                responses::Verdict::Continue => Ok(Verdict::Continue),
                responses::Verdict::Respond if status == StatusCode::SWITCHING_PROTOCOLS => {
                    rule("answered `respond` to a 101".to_owned())
                }
                responses::Verdict::Respond => answer(store).map(Verdict::Respond),
                responses::Verdict::Wait => Err(waits().into()),
            }
        });
        if let Lent::Response(_, loan) = take_lent(&mut self.store) {
            *head = if result.is_ok() {
                loan.give_back()
            } else {
                loan.undo()
            };
        }
        result
    }

    pub(super) fn choose(
        &mut self,
        upstream: UpstreamView<'_>,
        head: &mut request::Parts,
        facts: &Arc<Facts>,
        candidates: &[Candidate],
    ) -> Result<Option<usize>, Cause> {
        let guest = self
            .guest
            .balancer
            .as_ref()
            .expect("called for what it exports only");
        let nothing = Allowance {
            bytes: 0,
            messages: 0,
        };
        let told = self.told.get(upstream.name).copied();
        if told != Some(upstream.id) {
            let mut tell = |id, endpoints: &[_]| {
                begin(&mut self.store, Phase::Choose, self.timeout, nothing);
                guarded(&mut self.store, |store| {
                    guest.call_endpoints(store, id, upstream.name, endpoints)
                })
            };
            if let Some(old) = told {
                tell(old, &[])?;
            }
            let endpoints = upstream.endpoints.iter();
            let endpoints: Vec<_> = endpoints.map(balancer::Endpoint::from).collect();
            tell(upstream.id, &endpoints)?;
            self.told.insert(upstream.name.into(), upstream.id);
        }
        begin(&mut self.store, Phase::Choose, self.timeout, nothing);
        lend_request(&mut self.store, head, facts, |store| {
            let head = Resource::new_borrow(LENT);
            let Some(chosen) = guest.call_choose(store, upstream.id, head, candidates)? else {
                return Ok(None);
            };
            if candidates
                .iter()
                .any(|candidate| candidate.endpoint == chosen)
            {
                Ok(Some(chosen as usize))
            } else {
                rule(format!("chose endpoint {chosen}, which is not a candidate"))
            }
        })
    }

    pub(super) fn open(
        &mut self,
        session: u32,
        handshake: &Arc<Handshake>,
        reopened: bool,
        limit: Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<messages::Subscription, Cause> {
        let guest = self
            .guest
            .messages
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Open, self.timeout, limit);
        self.store.data_mut().lent = Lent::Handshake {
            handshake: Arc::clone(handshake),
            reopened,
        };
        let result = guarded(&mut self.store, |store| {
            guest.call_open(store, session, Resource::new_borrow(LENT))
        });
        drop(take_lent(&mut self.store));
        if result.is_ok() {
            sent.append(&mut self.store.data_mut().produced.sent);
        }
        result
    }

    /// Asks for a verdict. What the call sent is appended to `sent`, and what it produced is taken from
    /// `limit`.
    pub(super) fn on_message(
        &mut self,
        session: u32,
        from: Side,
        kind: MessageKind,
        payload: &[u8],
        limit: &mut Allowance,
        sent: &mut Vec<Sent>,
    ) -> Result<MessageVerdict, Cause> {
        let guest = self
            .guest
            .messages
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Message, self.timeout, *limit);
        self.store.data_mut().call.judges(kind);
        let verdict = guarded(&mut self.store, |store| {
            guest.call_on_message(&mut *store, session, from.into(), kind.into(), payload)
        })?;
        let state = self.store.data_mut();
        let produced = &mut state.produced;
        let verdict = match verdict {
            messages::Verdict::Pass => MessageVerdict::Pass,
            messages::Verdict::Drop => MessageVerdict::Drop,
            messages::Verdict::Replace => match produced.replacement.take() {
                Some(payload) => MessageVerdict::Replace(payload),
                None => return unmet("replace", "outgoing.replace"),
            },
            messages::Verdict::Close => {
                let named = produced.close.take();
                let (code, reason) = named.unwrap_or((CloseCode::POLICY, String::new()));
                MessageVerdict::Close { code, reason }
            }
            messages::Verdict::Wait => return Err(waits()),
        };
        *limit = state.call.left();
        if !produced.sent.is_empty() {
            sent.append(&mut produced.sent);
        }
        Ok(verdict)
    }

    pub(super) fn on_close(
        &mut self,
        session: u32,
        code: u16,
        by: Option<Side>,
    ) -> Result<(), Cause> {
        let guest = self
            .guest
            .messages
            .as_ref()
            .expect("called for what it exports only");
        let nothing = Allowance {
            bytes: 0,
            messages: 0,
        };
        begin(&mut self.store, Phase::Close, self.timeout, nothing);
        let ending = messages::Ending {
            code,
            by: by.map(Into::into),
        };
        guarded(&mut self.store, |store| {
            guest.call_on_close(store, session, ending)
        })
    }
}

impl Guest {
    fn load(
        compiled: &Compiled,
        store: &mut Store<State>,
        instance: &wasmtime::component::Instance,
    ) -> Result<Self, StartError> {
        macro_rules! load {
            ($interface:ident, $name:literal) => {
                match &compiled.$interface {
                    Some(indices) => {
                        let guest = indices.load(&mut *store, instance);
                        Some(guest.map_err(|error| StartError::ExportType {
                            name: concat!("tidegate:plugin/", $name).to_owned(),
                            source: engine::source(error),
                        })?)
                    }
                    None => None,
                }
            };
        }
        Ok(Self {
            lifecycle: load!(lifecycle, "lifecycle"),
            request: load!(request, "request"),
            response: load!(response, "response"),
            balancer: load!(balancer, "balancer"),
            messages: load!(messages, "messages"),
        })
    }
}

impl From<StartError> for Cause {
    fn from(error: StartError) -> Self {
        match error {
            StartError::ExportType { name, .. } => {
                Self::Rule(format!("exports `{name}` in another form"))
            }
            StartError::Configure(message) => Self::Configure(message),
            StartError::Cause(cause) => cause,
        }
    }
}

/// Sets what the next call may use up, and forgets what the last one left.
fn begin(store: &mut Store<State>, phase: Phase, timeout: Duration, limit: Allowance) {
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.call.begin(phase, timeout, limit);
    state.produced.clear();
}

/// Lends a request head for one call, and takes it back: as the call left it, or as it was.
fn lend_request<R>(
    store: &mut Store<State>,
    head: &mut request::Parts,
    facts: &Arc<Facts>,
    call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> Result<R, Cause> {
    let lent = std::mem::replace(head, http::Request::new(()).into_parts().0);
    store.data_mut().lent = Lent::Request(Loan::new(lent, facts));
    let result = guarded(store, call);
    if let Lent::Request(loan) = take_lent(store) {
        *head = if result.is_ok() {
            loan.give_back()
        } else {
            loan.undo()
        };
    }
    result
}

fn take_lent(store: &mut Store<State>) -> Lent {
    std::mem::replace(&mut store.data_mut().lent, Lent::Nothing)
}

/// Takes the answer that a verdict refers to.
fn answer(store: &mut Store<State>) -> wasmtime::Result<http::Response<Bytes>> {
    match store.data_mut().produced.answer.take() {
        Some(answer) => Ok(answer),
        None => Ok(unmet("respond", "http.respond")?),
    }
}

/// A verdict that refers to what was never given.
fn unmet<T>(verdict: &str, function: &str) -> Result<T, Cause> {
    Err(Cause::Rule(format!(
        "answered `{verdict}` without a call of `{function}`"
    )))
}

/// Nothing hands out tickets yet that could be waited for.
fn waits() -> Cause {
    Cause::Rule("answered `wait` without a ticket".to_owned())
}

/// Calls into the store. Whatever goes wrong is the end of the store, a panic of the host's own
/// functions included: it must not take the worker's other sessions with it.
fn guarded<R>(
    store: &mut Store<State>,
    call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> Result<R, Cause> {
    // Unwind safe: after a panic nothing of the store is used but what was lent to it, which
    // is undone, and then it is dropped.
    match catch_unwind(AssertUnwindSafe(|| call(store))) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(cause_of(&error, store.data())),
        Err(panic) => Err(Cause::Panic(panic_message(&*panic))),
    }
}

/// Tells what ended a call.
fn cause_of(error: &wasmtime::Error, state: &State) -> Cause {
    if let Some(cause) = error.downcast_ref::<Cause>() {
        return cause.clone();
    }
    let root = error.root_cause().to_string();
    // The engine has no type for it.
    if root.contains("fuel allocated for hostcalls has been exhausted") {
        return state.call.too_much_output();
    }
    let mut message = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => root,
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // A stripped module has no names, and its numbers tell nobody anything.
        let names = backtrace.frames().iter().filter_map(FrameInfo::func_name);
        for name in names.take(MAX_FRAMES) {
            message.push_str(" < ");
            message.push_str(name);
        }
    }
    Cause::Trap(message)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    message
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}
