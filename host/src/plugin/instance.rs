//! Instances of plugins: one store and one component instance each, called within the plugin's
//! limits. A call that fails ends its instance.
//!
//! Where instances are kept and how they are replaced is `slots.rs`.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, request, response};
use wasmtime::component::{Resource, ResourceTableError};
use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};

use super::bindings::exports::tidegate::plugin::handover::State as SessionState;
use super::bindings::exports::tidegate::plugin::{
    balancer, fragments, handover, lifecycle, messages, request as requests, response as responses,
    resumption,
};
use super::engine::{self, Compiled, Version};
use super::host::{Allowance, Gate, Lent, Loan, LogGate, State, rule};
use super::resumption::{resumable, waits};
use super::wait::Asked;
use super::{Candidate, Cause, EndpointView, Facts, SentRequest, Source, UpstreamView, Verdict};
use crate::telemetry::Phase;

/// What starting an instance may take, in call timeouts: a configuration may hold a thousand patterns
/// to compile.
const START_TIMEOUTS: u32 = 10;

/// What a guest may hand over in one call of the host beyond what it may produce: names, log lines.
const HOST_CALL_BYTES: usize = 1024 * 1024;

/// Frames of a backtrace that are reported.
const MAX_FRAMES: usize = 4;

/// What a version may say of one session.
const MAX_STATE_BYTES: usize = 1024 * 1024;

/// What calls may produce that nothing may come of.
const NOTHING: Allowance = Allowance {
    bytes: 0,
    messages: 0,
};

/// The representation of every lent handle.
pub(super) const LENT: u32 = 0;

/// A store and the instance in it.
pub(super) struct Instance {
    pub(super) store: Store<State>,
    pub(super) guest: Guest,
    pub(super) timeout: Duration,
    /// Upstreams it was told of, by name.
    told: HashMap<Box<str>, u32>,
}

/// What it exports.
pub(super) struct Guest {
    lifecycle: Option<lifecycle::Guest>,
    request: Option<requests::Guest>,
    response: Option<responses::Guest>,
    balancer: Option<balancer::Guest>,
    pub(super) messages: Option<messages::Guest>,
    pub(super) fragments: Option<fragments::Guest>,
    handover: Option<handover::Guest>,
    pub(super) resumption: Option<resumption::Guest>,
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

impl From<&EndpointView> for balancer::Endpoint {
    fn from(endpoint: &EndpointView) -> Self {
        Self {
            address: endpoint.address.to_string(),
            weight: endpoint.weight,
            backup: endpoint.backup,
        }
    }
}

impl Instance {
    /// Makes an instance and configures it.
    pub(super) fn start(
        version: &Version,
        log: &Arc<LogGate>,
        gate: &Arc<Gate>,
    ) -> Result<Self, StartError> {
        let declared = version.declared();
        let compiled = version.compiled();
        let limits = &declared.limits;
        let mut store = Store::new(
            compiled.pre.engine(),
            State::new(version.name(), declared, log, gate),
        );
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes.saturating_add(HOST_CALL_BYTES));
        store.set_max_component_handles(limits.handles);
        store.epoch_deadline_callback(|mut store| store.data_mut().tick());

        let timeout = limits.call_timeout.saturating_mul(START_TIMEOUTS);
        begin(&mut store, Phase::Configure, timeout, NOTHING);
        let instance = guarded(&mut store, |store| compiled.pre.instantiate(store))
            .map_err(StartError::Cause)?;
        let guest = Guest::load(compiled, &mut store, &instance)?;
        if let Some(lifecycle) = &guest.lifecycle {
            begin(&mut store, Phase::Configure, timeout, NOTHING);
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
    ) -> Result<Asked<Verdict>, Cause> {
        let resumption = self.guest.resumption.as_ref();
        let guest = self
            .guest
            .request
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Request, self.timeout, limit);
        lend_request(&mut self.store, head, facts, |store| {
            match guest.call_on_request(&mut *store, Resource::new_borrow(LENT))? {
                requests::Verdict::Continue => Ok(Asked::Answered(Verdict::Continue)),
                requests::Verdict::Respond => Ok(Asked::Answered(Verdict::Respond(answer(store)?))),
                requests::Verdict::Wait => {
                    resumable(resumption)?;
                    Ok(waits(store))
                }
            }
        })
    }

    pub(super) fn on_response(
        &mut self,
        request: &Arc<SentRequest>,
        head: &mut response::Parts,
        limit: Allowance,
    ) -> Result<Asked<Verdict>, Cause> {
        let resumption = self.guest.resumption.as_ref();
        let guest = self
            .guest
            .response
            .as_ref()
            .expect("called for what it exports only");
        begin(&mut self.store, Phase::Response, self.timeout, limit);
        let status = head.status;
        lend_response(&mut self.store, request, head, |store| {
            let verdict = guest.call_on_response(
                &mut *store,
                Resource::new_borrow(LENT),
                Resource::new_borrow(LENT),
            )?;
            match verdict {
                responses::Verdict::Continue => Ok(Asked::Answered(Verdict::Continue)),
                responses::Verdict::Respond if status == StatusCode::SWITCHING_PROTOCOLS => {
                    rule("answered `respond` to a 101".to_owned())
                }
                responses::Verdict::Respond => {
                    Ok(Asked::Answered(Verdict::Respond(answer(store)?)))
                }
                responses::Verdict::Wait => {
                    resumable(resumption)?;
                    Ok(waits(store))
                }
            }
        })
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
        let told = self.told.get(upstream.name).copied();
        if told != Some(upstream.id) {
            let mut tell = |id, endpoints: &[_]| {
                begin(&mut self.store, Phase::Choose, self.timeout, NOTHING);
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
        begin(&mut self.store, Phase::Choose, self.timeout, NOTHING);
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

    /// Asks what the plugin knows of a session.
    pub(super) fn snapshot(&mut self, session: u32) -> Result<SessionState, Cause> {
        let guest = self.guest.handover.as_ref();
        let guest = guest.expect("called for what it exports only");
        begin(&mut self.store, Phase::Snapshot, self.timeout, NOTHING);
        let state = guarded(&mut self.store, |store| guest.call_snapshot(store, session))?;
        if state.bytes.len() > MAX_STATE_BYTES {
            return Err(Cause::Output {
                limit: MAX_STATE_BYTES,
                unit: "bytes of state",
            });
        }
        Ok(state)
    }

    /// Hands over what another version knew of a session that is about to be opened. The inner error is
    /// a refusal.
    pub(super) fn restore(
        &mut self,
        session: u32,
        state: &SessionState,
    ) -> Result<Result<(), String>, Cause> {
        let guest = self.guest.handover.as_ref();
        let guest = guest.expect("called for what it exports only");
        begin(&mut self.store, Phase::Restore, self.timeout, NOTHING);
        guarded(&mut self.store, |store| {
            guest.call_restore(store, session, state)
        })
    }

    /// Tells that a session goes on elsewhere.
    pub(super) fn release(&mut self, session: u32) -> Result<(), Cause> {
        let guest = self.guest.handover.as_ref();
        let guest = guest.expect("called for what it exports only");
        begin(&mut self.store, Phase::Release, self.timeout, NOTHING);
        guarded(&mut self.store, |store| guest.call_release(store, session))
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
            handover: load!(handover, "handover"),
            fragments: load!(fragments, "fragments"),
            resumption: load!(resumption, "resumption"),
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
pub(super) fn begin(store: &mut Store<State>, phase: Phase, timeout: Duration, limit: Allowance) {
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.call.begin(phase, timeout, limit);
    state.produced.clear();
    state.tickets.begin();
}

/// Lends a request head for one call, and takes it back: as the call left it, or as it was.
pub(super) fn lend_request<R>(
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

/// As [`lend_request`], of a response head.
pub(super) fn lend_response<R>(
    store: &mut Store<State>,
    request: &Arc<SentRequest>,
    head: &mut response::Parts,
    call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> Result<R, Cause> {
    let lent = std::mem::replace(head, http::Response::new(()).into_parts().0);
    store.data_mut().lent = Lent::Response(Arc::clone(request), Loan::new(lent, &request.facts));
    let result = guarded(store, call);
    if let Lent::Response(_, loan) = take_lent(store) {
        *head = if result.is_ok() {
            loan.give_back()
        } else {
            loan.undo()
        };
    }
    result
}

pub(super) fn take_lent(store: &mut Store<State>) -> Lent {
    std::mem::replace(&mut store.data_mut().lent, Lent::Nothing)
}

/// Takes the answer that a verdict refers to.
pub(super) fn answer(store: &mut Store<State>) -> wasmtime::Result<http::Response<Bytes>> {
    match store.data_mut().produced.answer.take() {
        Some(answer) => Ok(answer),
        None => Ok(unmet("respond", "http.respond")?),
    }
}

/// A verdict that refers to what was never given.
pub(super) fn unmet<T>(verdict: &str, function: &str) -> Result<T, Cause> {
    Err(Cause::Rule(format!(
        "answered `{verdict}` without a call of `{function}`"
    )))
}

/// Calls into the store. Whatever goes wrong is the end of the store, a panic of the host's own
/// functions included: it must not take the worker's other sessions with it.
pub(super) fn guarded<R>(
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
    let limits = state.limits();
    if let Some(Trap::StackOverflow) = error.downcast_ref::<Trap>() {
        let limit = limits.stack_bytes;
        return Cause::Stack { limit };
    }
    let root = error.root_cause().to_string();
    // The engine has no types for these.
    if root.contains("fuel allocated for hostcalls has been exhausted") {
        return state.call.too_much_output();
    }
    let is_full = matches!(
        error.downcast_ref::<ResourceTableError>(),
        Some(ResourceTableError::Full)
    );
    if is_full || root.contains("store handle limit exceeded") {
        let limit = limits.handles;
        return Cause::Handles { limit };
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
