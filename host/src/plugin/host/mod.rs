//! What the host offers to plugins: the imports of `wit/host.wit`.
//!
//! [`State`] is what a store holds: what is lent to the guest for the call under way, what that call
//! may still use up, and what it has produced. Making calls is left to `instance.rs`.

mod heads;
mod loan;
mod logging;
mod outgoing;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{request, response};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Result, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{Cause, Handshake, Reopening, Sent, SentRequest, wasi};
use crate::config::{self, PluginLimits};
use crate::protocol::close::CloseCode;
use crate::protocol::message::MessageKind;
use crate::telemetry::Phase;
use tickets::Tickets;

pub(super) use loan::Loan;
pub(super) use logging::LogGate;
pub(crate) use tickets::{CallOut, CallResult, Caller};
pub(super) use tickets::{Gate, Orders, Place, Started, Work};

/// What one element of a table counts for in an instance's memory.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// What the guest's handles are of. A call lends at most one of each, so all of a kind have the same
/// representation, and what they stand for is in [`State::lent`].
#[allow(unreachable_pub, reason = "the generated bindings export them again")]
pub(super) mod handles {
    pub struct RequestHead;
    pub struct SentRequestHead;
    pub struct ResponseHead;
    pub struct HandshakeFacts;
}

/// What a store holds beside the instance.
pub(super) struct State {
    plugin: Arc<str>,
    log: Arc<LogGate>,
    pub(super) tickets: Tickets,
    /// Bytes of memories and tables, and elements of tables.
    memory: usize,
    tables: usize,
    limits: PluginLimits,
    /// Counted before a growth, and taken back if that fails.
    growing: Growth,
    pub(super) call: Call,
    pub(super) lent: Lent,
    pub(super) produced: Produced,
    wasi: WasiCtx,
    table: ResourceTable,
}

/// What a memory or table grows by.
#[derive(Clone, Copy, Default)]
struct Growth {
    bytes: usize,
    elements: usize,
}

/// The call under way and what it may use.
pub(super) struct Call {
    phase: Phase,
    /// Of the message being judged.
    kind: MessageKind,
    /// CPU time of the thread at the first tick of the clock within the call.
    since: Option<Duration>,
    timeout: Duration,
    limit: Allowance,
    left: Allowance,
}

/// What a call may produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) bytes: usize,
    pub(super) messages: usize,
}

/// What a call left with the host beside its verdict.
#[derive(Default)]
pub(super) struct Produced {
    pub(super) answer: Option<http::Response<Bytes>>,
    pub(super) replacement: Option<Vec<u8>>,
    pub(super) close: Option<(CloseCode, String)>,
    pub(super) sent: Vec<Sent>,
}

/// What the guest's handles stand for.
pub(super) enum Lent {
    Nothing,
    Request(Loan<request::Parts>),
    Response(Arc<SentRequest>, Loan<response::Parts>),
    Handshake {
        handshake: Arc<Handshake>,
        reopening: Option<Reopening>,
    },
}

impl State {
    pub(super) fn new(
        plugin: &Arc<str>,
        declared: &config::Plugin,
        log: &Arc<LogGate>,
        gate: &Arc<Gate>,
    ) -> Self {
        let limits = &declared.limits;
        let nothing = Allowance {
            bytes: 0,
            messages: 0,
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            plugin: Arc::clone(plugin),
            log: Arc::clone(log),
            tickets: Tickets::new(declared, gate),
            memory: 0,
            tables: 0,
            limits: limits.clone(),
            growing: Growth::default(),
            call: Call {
                phase: Phase::Configure,
                kind: MessageKind::Text,
                since: None,
                timeout: limits.call_timeout,
                limit: nothing,
                left: nothing,
            },
            lent: Lent::Nothing,
            produced: Produced::default(),
            wasi: wasi::context(plugin, log),
            table,
        }
    }

    pub(super) fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    /// Asked at each tick of the clock that a call lives through. Wall time stops healthy calls when
    /// their thread does not run, so it is CPU time that counts, from the first tick on: reading it
    /// before each call would cost more than most calls.
    pub(super) fn tick(&mut self) -> Result<UpdateDeadline> {
        let now = thread_cpu_time();
        let since = *self.call.since.get_or_insert(now);
        let limit = self.call.timeout;
        if now.saturating_sub(since) >= limit {
            return Err(Cause::Timeout { limit }.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }

    fn spend(&mut self, bytes: usize, messages: usize) -> Result<()> {
        let Allowance {
            bytes: limit,
            messages: most,
        } = self.call.limit;
        let left = &mut self.call.left;
        left.bytes = left.bytes.checked_sub(bytes).ok_or(Cause::Output {
            limit,
            unit: "bytes",
        })?;
        left.messages = left.messages.checked_sub(messages).ok_or(Cause::Output {
            limit: most,
            unit: "messages",
        })?;
        Ok(())
    }

    fn grow(&mut self, growth: Growth) -> Result<bool> {
        let memory = self.memory.saturating_add(growth.bytes);
        let tables = self.tables.saturating_add(growth.elements);
        let limits = &self.limits;
        if tables > limits.table_elements {
            let limit = limits.table_elements;
            return Err(Cause::Tables { limit }.into());
        }
        if memory > limits.memory_bytes {
            let limit = limits.memory_bytes;
            return Err(Cause::Memory { limit }.into());
        }
        self.memory = memory;
        self.tables = tables;
        self.growing = growth;
        Ok(true)
    }

    fn grow_failed(&mut self) {
        let Growth { bytes, elements } = std::mem::take(&mut self.growing);
        self.memory = self.memory.saturating_sub(bytes);
        self.tables = self.tables.saturating_sub(elements);
    }
}

impl Call {
    pub(super) fn begin(&mut self, phase: Phase, timeout: Duration, limit: Allowance) {
        self.phase = phase;
        self.since = None;
        self.timeout = timeout;
        self.limit = limit;
        self.left = limit;
    }

    pub(super) fn judges(&mut self, kind: MessageKind) {
        self.kind = kind;
    }

    /// What the call may still produce.
    pub(super) fn left(&self) -> Allowance {
        self.left
    }

    pub(super) fn too_much_output(&self) -> Cause {
        Cause::Output {
            limit: self.limit.bytes,
            unit: "bytes",
        }
    }

    fn must_be(&self, allowed: &[Phase], function: &str) -> Result<()> {
        if allowed.contains(&self.phase) {
            Ok(())
        } else {
            rule(format!(
                "called `{function}` within `{}`",
                super::function(self.phase)
            ))
        }
    }
}

impl Allowance {
    pub(super) fn of(limits: &PluginLimits) -> Self {
        Self {
            bytes: limits.output_bytes,
            messages: limits.output_messages,
        }
    }
}

impl Produced {
    pub(super) fn clear(&mut self) {
        self.answer = None;
        self.replacement = None;
        self.close = None;
        self.sent.clear();
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.grow(Growth {
            bytes: desired.saturating_sub(current),
            elements: 0,
        })
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.grow_failed();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let elements = desired.saturating_sub(current);
        self.grow(Growth {
            bytes: elements.saturating_mul(TABLE_ELEMENT_BYTES),
            elements,
        })
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.grow_failed();
        Ok(())
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        8
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// A failure of the plugin: it did what the contract forbids.
pub(super) fn rule<T>(what: String) -> Result<T> {
    Err(Cause::Rule(what).into())
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}
