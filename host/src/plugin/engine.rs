//! Loads plugins: compiles them, checks them against the contract and starts them once.
//!
//! For the control thread. Running them is `instance.rs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tracing::warn;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings::exports::tidegate::plugin::{
    balancer, fragments, handover, lifecycle, messages, request, response, resumption,
};
use super::breaker::Breaker;
use super::host::{Gate, LogGate, State};
use super::instance::{Instance, StartError};
use super::isolation::too_many_for_kernel;
use super::{Error, Source, bindings, wasi};
use crate::config;
use crate::telemetry::{Phase, VersionFigures, VersionMetrics};

/// How often running calls are asked for their CPU time.
const TICK: Duration = Duration::from_millis(1);

/// Live instances there is room for: workers x plugins x versions, and those of single sessions. A reservation of addresses, not of
/// memory.
const MAX_INSTANCES: u32 = 8192;

/// Core instances and tables of one component: a module componentised here needs three, what comes
/// from the toolchains of other languages up to a dozen.
const PARTS_OF_INSTANCE: u32 = 6;

/// Function table of one module; those of whole language runtimes have some 20,000 elements.
const MAX_TABLE_ELEMENTS: usize = 64 * 1024;

/// Stack of one call, unless a plugin's `limits.stack` says otherwise. Workers have 2 MiB.
const USUAL_STACK: usize = 512 * 1024;

/// The package of the contract, as names begin with it.
const PACKAGE: &str = "tidegate:plugin/";

/// What plugins may export.
pub(super) const EXPORTS: [&str; 8] = [
    "lifecycle",
    "request",
    "response",
    "balancer",
    "messages",
    "handover",
    "fragments",
    "resumption",
];

/// What plugins may import.
const IMPORTS: [&str; 4] = ["logging", "http", "outgoing", "tickets"];

/// What a component made for WASI 0.2 may import; see `wasi.rs` for how little it does.
const WASI_IMPORTS: [&str; 6] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Compiles and starts plugins. One per process; clones share it.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Inner>);

struct Inner {
    wasm: wasmtime::Engine,
    stack: usize,
    /// Those with other stacks: the engine underneath has one size for all that it runs.
    others: Mutex<BTreeMap<usize, Engine>>,
    linker: Linker<State>,
    has_ticker: Mutex<bool>,
    /// Variants of one plugin that differ in their configuration share what was compiled.
    compiled: Mutex<HashMap<Digest, Weak<Compiled>>>,
}

/// One version of a plugin, ready to be run by any worker: code, configuration and limits.
pub(crate) struct Version {
    id: u64,
    name: Arc<str>,
    origin: Arc<Origin>,
    compiled: Arc<Compiled>,
    loaded_at: SystemTime,
    /// A candidate that was turned down: nobody may stay on it.
    revoked: AtomicBool,
    slow_after: OnceLock<Duration>,
    breaker: Breaker,
    metrics: Mutex<Vec<Weak<VersionMetrics>>>,
}

/// What a version was made from.
#[derive(Debug)]
pub(super) struct Origin {
    declared: config::Plugin,
    digest: Digest,
}

/// Code and what it exports.
pub(super) struct Compiled {
    pub(super) pre: InstancePre<State>,
    pub(super) lifecycle: Option<lifecycle::GuestIndices>,
    pub(super) request: Option<request::GuestIndices>,
    pub(super) response: Option<response::GuestIndices>,
    pub(super) balancer: Option<balancer::GuestIndices>,
    pub(super) messages: Option<messages::GuestIndices>,
    pub(super) handover: Option<handover::GuestIndices>,
    pub(super) fragments: Option<fragments::GuestIndices>,
    pub(super) resumption: Option<resumption::GuestIndices>,
}

/// Tells contents apart within this process, and means nothing outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Digest([u64; 2]);

impl Engine {
    /// Makes the engine. Without the address space for a pool, instances are allocated one by one.
    pub(crate) fn new() -> Result<Self, Error> {
        let mut configuration = configuration(USUAL_STACK);
        match wasmtime::Engine::new(configuration.allocation_strategy(pool())) {
            Ok(wasm) => Self::over(wasm, USUAL_STACK),
            Err(error) => {
                warn!(
                    error = %format_args!("{error:#}"),
                    "no address space for a pool of plugin instances; making them one by one"
                );
                Self::without_pool(USUAL_STACK)
            }
        }
    }

    fn without_pool(stack: usize) -> Result<Self, Error> {
        let mut configuration = configuration(stack);
        let strategy = InstanceAllocationStrategy::OnDemand;
        let wasm = wasmtime::Engine::new(configuration.allocation_strategy(strategy))
            .map_err(|error| Error::Engine(source(error)))?;
        Self::over(wasm, stack)
    }

    fn over(wasm: wasmtime::Engine, stack: usize) -> Result<Self, Error> {
        let mut linker = Linker::new(&wasm);
        bindings::Plugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)
            .and_then(|()| wasi::add_to_linker(&mut linker))
            .map_err(|error| Error::Engine(source(error)))?;
        Ok(Self(Arc::new(Inner {
            wasm,
            stack,
            others: Mutex::default(),
            linker,
            has_ticker: Mutex::new(false),
            compiled: Mutex::default(),
        })))
    }

    /// Returns the engine whose calls have that stack.
    fn with_stack(&self, stack: usize) -> Result<Self, Error> {
        if stack == self.0.stack {
            return Ok(self.clone());
        }
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = others.get(&stack) {
            return Ok(other.clone());
        }
        // Not worth another reservation of addresses.
        let other = Self::without_pool(stack)?;
        others.insert(stack, other.clone());
        Ok(other)
    }

    /// Compiles a plugin, checks it against the contract, makes a first instance and configures it.
    ///
    /// Takes milliseconds to seconds, so it is for the control thread. `bytes` is what
    /// `plugin.module` names: a component, or a core module that says which world it was built for.
    pub(crate) fn load(
        &self,
        plugin: &config::Plugin,
        bytes: &[u8],
    ) -> Result<Arc<Version>, Error> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);

        let engine = self.with_stack(plugin.limits.stack_bytes)?;
        engine.start_ticker()?;
        let digest = Digest::of(bytes);
        let compiled = engine.compile(digest, bytes)?;
        if compiled.lifecycle.is_none() && plugin.config != "{}" {
            return Err(Error::TakesNoConfig);
        }
        warn_of_settings(plugin, &compiled);
        let version = Arc::new(Version {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: plugin.name.as_str().into(),
            origin: Arc::new(Origin {
                declared: plugin.clone(),
                digest,
            }),
            compiled,
            loaded_at: SystemTime::now(),
            revoked: AtomicBool::new(false),
            slow_after: OnceLock::new(),
            breaker: Breaker::new(plugin.eject),
            metrics: Mutex::default(),
        });
        // Workers make their own. This one shows that they can, and what the first call would
        // otherwise find cold is warm.
        Instance::start(&version, &LogGate::of_plugin(), &Gate::new(Arc::default()))
            .map_err(|error| match error {
                StartError::ExportType { name, source } => Error::ExportType { name, source },
                StartError::Configure(message) => Error::Configure(message),
                StartError::Cause(cause) => Error::Start(cause),
            })
            .map(drop)?;
        Ok(version)
    }

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Arc<Compiled>, Error> {
        let known = |known: &HashMap<Digest, Weak<Compiled>>| known.get(&digest)?.upgrade();
        // A map is whole whatever panicked while it was locked.
        let cache = || {
            self.0
                .compiled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(compiled) = known(&cache()) {
            return Ok(compiled);
        }
        let compiled = Arc::new(self.compile_anew(bytes)?);
        let mut cache = cache();
        cache.retain(|_, compiled| compiled.strong_count() > 0);
        cache.insert(digest, Arc::downgrade(&compiled));
        Ok(compiled)
    }

    fn compile_anew(&self, bytes: &[u8]) -> Result<Compiled, Error> {
        let made;
        let component = match bytes {
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
                made = componentise(&self.0.wasm, bytes)?;
                made.as_slice()
            }
            // The version of the binary format, then the layer: 1 is a component.
            [0, b'a', b's', b'm', _, _, 1, 0, ..] => bytes,
            _ => return Err(Error::NotWasm),
        };
        let component = Component::from_binary(&self.0.wasm, component)
            .map_err(|error| Error::Compile(source(error)))?;
        self.check_imports(&component)?;
        let pre = self
            .0
            .linker
            .instantiate_pre(&component)
            .map_err(|error| Error::ImportType(source(error)))?;
        self.exports_of(pre)
    }

    fn check_imports(&self, component: &Component) -> Result<(), Error> {
        for (name, _) in component.component_type().imports(&self.0.wasm) {
            let offered = match name.strip_prefix(PACKAGE) {
                Some(rest) => IMPORTS.contains(&without_version(rest)),
                None => WASI_IMPORTS.iter().any(|prefix| name.starts_with(prefix)),
            };
            if !offered {
                return Err(Error::Import {
                    name: name.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn exports_of(&self, pre: InstancePre<State>) -> Result<Compiled, Error> {
        let mut found: [Option<String>; EXPORTS.len()] = Default::default();
        let component = pre.component().component_type();
        for (name, _) in component.exports(&self.0.wasm) {
            if let Some(rest) = name.strip_prefix(PACKAGE) {
                let known = EXPORTS
                    .iter()
                    .position(|known| *known == without_version(rest));
                let known = known.ok_or_else(|| Error::Export {
                    name: name.to_owned(),
                })?;
                found[known] = Some(name.to_owned());
            }
        }
        if found.iter().all(Option::is_none) {
            return Err(Error::NoExports);
        }
        let [
            lifecycle,
            request,
            response,
            balancer,
            messages,
            handover,
            fragments,
            resumption,
        ] = found;
        Ok(Compiled {
            lifecycle: indices(&pre, lifecycle, lifecycle::GuestIndices::new)?,
            request: indices(&pre, request, request::GuestIndices::new)?,
            response: indices(&pre, response, response::GuestIndices::new)?,
            balancer: indices(&pre, balancer, balancer::GuestIndices::new)?,
            messages: indices(&pre, messages, messages::GuestIndices::new)?,
            handover: indices(&pre, handover, handover::GuestIndices::new)?,
            fragments: indices(&pre, fragments, fragments::GuestIndices::new)?,
            resumption: indices(&pre, resumption, resumption::GuestIndices::new)?,
            pre,
        })
    }

    /// Starts the clock that running calls are measured by. Its thread ends with the engine and keeps
    /// no process alive.
    fn start_ticker(&self) -> Result<(), Error> {
        let mut has_ticker = self
            .0
            .has_ticker
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *has_ticker {
            return Ok(());
        }
        let engine = self.0.wasm.weak();
        let tick = move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        };
        std::thread::Builder::new()
            .name("plugin-clock".into())
            .spawn(tick)
            .map_err(|error| Error::Engine(error.into()))?;
        *has_ticker = true;
        Ok(())
    }
}

impl Origin {
    /// Whether loading `plugin` with `bytes` would make this version again, so that a reload can keep
    /// it.
    pub(super) fn is(&self, plugin: &config::Plugin, bytes: &[u8]) -> bool {
        self.declared == *plugin && self.digest == Digest::of(bytes)
    }
}

impl Version {
    /// Its number: a larger one for each [`Engine::load`].
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The same code with another configuration, which nobody has checked.
    #[cfg(test)]
    pub(super) fn with_config(&self, config: &str) -> Arc<Self> {
        let mut declared = self.origin.declared.clone();
        declared.config = config.to_owned();
        let digest = self.origin.digest;
        Arc::new(Self {
            id: u64::MAX,
            name: Arc::clone(&self.name),
            origin: Arc::new(Origin { declared, digest }),
            compiled: Arc::clone(&self.compiled),
            loaded_at: self.loaded_at,
            revoked: AtomicBool::new(false),
            slow_after: OnceLock::new(),
            breaker: Breaker::new(self.origin.declared.eject),
            metrics: Mutex::default(),
        })
    }

    /// Returns cells that one worker counts this version's calls and sessions in.
    pub(super) fn count(&self) -> Arc<VersionMetrics> {
        let cells = Arc::default();
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.retain(|cells| cells.strong_count() > 0);
        metrics.push(Arc::downgrade(&cells));
        cells
    }

    /// Returns how many calls of a phase have been counted by [`Self::count`].
    pub(super) fn calls(&self, phase: Phase) -> u64 {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = metrics.iter().filter_map(Weak::upgrade);
        cells.map(|cells| cells.calls[phase].value()).sum()
    }

    /// Returns what has been counted by [`Self::count`].
    pub(crate) fn figures(&self) -> VersionFigures {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let cells: Vec<_> = metrics.iter().filter_map(Weak::upgrade).collect();
        VersionFigures::sum(&cells)
    }

    /// Turns a candidate down, for good.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Has calls counted that take longer, from the first one on.
    pub(super) fn count_slower_than(&self, limit: Duration) {
        self.slow_after.get_or_init(|| limit);
    }

    /// Returns what [`Self::count_slower_than`] was told.
    pub(super) fn slow_after(&self) -> Duration {
        self.slow_after.get().copied().unwrap_or(Duration::MAX)
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Returns how long it is until it is tried again, if it is ejected: not called, since it kept failing.
    pub(crate) fn retry_in(&self) -> Option<Duration> {
        self.breaker.retry_in()
    }

    /// Returns how often it was ejected.
    pub(crate) fn ejections(&self) -> u64 {
        self.breaker.ejections()
    }

    pub(crate) fn loaded_at(&self) -> SystemTime {
        self.loaded_at
    }

    pub(crate) fn declared(&self) -> &config::Plugin {
        &self.origin.declared
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    pub(super) fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Whether it may want to see messages of a session.
    pub(super) fn sees_messages(&self) -> bool {
        self.compiled.messages.is_some() || self.compiled.fragments.is_some()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        // Keyed afresh in each process: nobody can make two contents that look the same.
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        Self(std::array::from_fn(|n| KEYS[n].hash_one(bytes)))
    }
}

/// Says what is allowed and will not do what it looks like.
fn warn_of_settings(plugin: &config::Plugin, compiled: &Compiled) {
    let name = plugin.name.as_str();
    if plugin.snapshot_every.is_some() && compiled.handover.is_none() {
        warn!(
            plugin = name,
            "`snapshot_every` has no effect: the plugin cannot hand over"
        );
    }
    if let config::Isolation::Session { max_instances } = plugin.isolation
        && let Some(most) = too_many_for_kernel(max_instances)
    {
        warn!(
            plugin = name,
            max_instances, most, "the kernel has no mappings for so many (vm.max_map_count)"
        );
    }
}

fn configuration(stack: usize) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Nothing is called asynchronously, and being able to would cost every call.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(stack)
        .memory_init_cow(true);
    config
}

fn pool() -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(MAX_INSTANCES)
        .total_core_instances(MAX_INSTANCES * PARTS_OF_INSTANCE)
        .total_memories(MAX_INSTANCES)
        .total_tables(MAX_INSTANCES * PARTS_OF_INSTANCE)
        .table_elements(MAX_TABLE_ELEMENTS)
        .total_stacks(0)
        // Cleared rather than given back when an instance goes: the next one finds them mapped.
        .linear_memory_keep_resident(128 * 1024)
        .table_keep_resident(16 * 1024)
        .pagemap_scan(Enabled::Auto);
    InstanceAllocationStrategy::Pooling(pool)
}

fn componentise(engine: &wasmtime::Engine, module: &[u8]) -> Result<Vec<u8>, Error> {
    // The encoder trusts what it is given, and panics where a file was cut.
    wasmtime::Module::validate(engine, module)
        .map_err(|error| Error::Componentise(source(error)))?;
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Error::Componentise(error.into()))
}

/// Looks up the functions of an interface that is exported as `name`.
fn indices<I>(
    pre: &InstancePre<State>,
    name: Option<String>,
    look_up: impl FnOnce(&InstancePre<State>) -> wasmtime::Result<I>,
) -> Result<Option<I>, Error> {
    let Some(name) = name else { return Ok(None) };
    match look_up(pre) {
        Ok(indices) => Ok(Some(indices)),
        Err(error) => Err(Error::ExportType {
            name,
            source: source(error),
        }),
    }
}

fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

pub(super) fn source(error: wasmtime::Error) -> Source {
    error.into_boxed_dyn_error()
}
