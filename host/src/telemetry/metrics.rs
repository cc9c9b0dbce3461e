//! Counts what happens: each worker writes cells of its own, a scrape adds them up.
//!
//! How they read at `/metrics` is left to `exposition.rs`.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Index;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::plugins::PluginStatus;

/// A number that only grows, written by one thread and read by others.
///
/// An addition is a load and a store, about a nanosecond; two writing threads would lose counts.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks, written by one thread and read by others.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Counter);

impl Gauge {
    pub(crate) fn increment(&self) {
        self.0.add(1);
    }

    pub(crate) fn decrement(&self) {
        self.0.add(u64::MAX); // minus one
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.value()
    }
}

/// How often which time was taken, written by one thread and read by others.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One for each of [`BUCKETS`], and one for what took longer.
    pub(super) buckets: [Counter; BUCKETS.len() + 1],
    pub(super) sum_nanos: Counter,
}

/// Upper ends in nanoseconds.
pub(super) const BUCKETS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // From the lower end: nearly every call is in one of the first buckets.
        let bucket = BUCKETS.iter().position(|&end| nanos <= end);
        self.buckets[bucket.unwrap_or(BUCKETS.len())].increment();
        self.sum_nanos.add(nanos);
    }
}

/// A label whose values are known beforehand.
pub(crate) trait Label: Copy + 'static {
    const NAME: &str;
    const ALL: &[Self];
    fn index(self) -> usize;
    fn value(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $label:ident, $name:literal, { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $label {
            $($(#[$value_doc])* $value,)+
        }

        impl Label for $label {
            const NAME: &str = $name;
            const ALL: &[Self] = &[$(Self::$value,)+];

            fn index(self) -> usize {
                self as usize
            }

            fn value(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }
    };
}

label!(
    /// Which way bytes and messages go, or would have gone.
    Direction, "direction", {
        ToService = "to-service",
        ToClient = "to-client",
    }
);

label!(
    /// What became of a message.
    Fate, "verdict", {
        Pass = "pass",
        Replace = "replace",
        Drop = "drop",
        /// It closed the session.
        Close = "close",
        /// A plugin sent it.
        Send = "send",
        /// No plugin had asked for it.
        Unseen = "unseen",
    }
);

label!(
    /// What a plugin is called for.
    Phase, "phase", {
        Configure = "configure",
        Request = "request",
        Response = "response",
        Choose = "choose",
        Open = "open",
        Message = "message",
        Fragment = "fragment",
        Close = "close",
        Snapshot = "snapshot",
        Restore = "restore",
        Release = "release",
        Cancel = "cancel",
    }
);

label!(
    /// How a candidate that looks on differs from the version in force.
    Contrast, "kind", {
        /// Another verdict.
        Verdict = "verdict",
        /// The same, with other content: a replacement, a head, an answer, a close code.
        Content = "content",
        /// Other messages of its own.
        Sent = "sent",
        /// Another endpoint.
        Endpoint = "endpoint",
        /// It wants to see other messages.
        Subscription = "subscription",
        /// It failed.
        Failure = "failure",
        /// It would not take over a session.
        Refusal = "refusal",
    }
);

label!(
    /// What ended a call of a plugin.
    FailureKind, "kind", {
        Timeout = "cpu-time",
        Memory = "memory",
        Tables = "tables",
        Stack = "stack",
        Handles = "handles",
        OutputBytes = "output-bytes",
        OutputMessages = "output-messages",
        Trap = "trap",
        Contract = "contract",
        /// There was no instance to call, for what is wrong with the plugin.
        Start = "start",
        /// There was no instance to call: it is ejected, or has as many as it may.
        Refused = "refused",
        /// It waited too long, or its instance ended meanwhile.
        Waited = "wait",
        /// A fault of the host.
        Host = "host",
    }
);

label!(
    /// Hundreds of a status.
    StatusClass, "class", {
        Informational = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
    }
);

impl From<StatusCode> for StatusClass {
    fn from(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

label!(
    /// How a reload ended.
    ReloadResult, "result", {
        Success = "success",
        /// The generation before it stays in force.
        Failure = "failure",
    }
);

/// One value for each value of a label: `calls[Phase::Message]`.
#[derive(Debug)]
pub(crate) struct By<L, T, const N: usize> {
    values: [T; N],
    label: PhantomData<fn(L)>,
}

impl<L: Label, T: Default, const N: usize> Default for By<L, T, N> {
    fn default() -> Self {
        const { assert!(N == L::ALL.len()) };
        Self {
            values: std::array::from_fn(|_| T::default()),
            label: PhantomData,
        }
    }
}

impl<L: Label, T, const N: usize> Index<L> for By<L, T, N> {
    type Output = T;

    fn index(&self, label: L) -> &T {
        &self.values[label.index()]
    }
}

pub(crate) type ByDirection<T> = By<Direction, T, 2>;
pub(crate) type ByFate<T> = By<Fate, T, 6>;
pub(crate) type ByKind<T> = By<FailureKind, T, 13>;
pub(crate) type ByPhase<T> = By<Phase, T, 12>;

/// What one worker counts. Only that worker writes it.
// Cells of two workers never share a cache line, nor the pair of lines a prefetch brings.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerMetrics {
    pub(crate) connections_accepted: Counter,
    /// Closed at once because the worker held as many as `limits.max_connections` allows.
    pub(crate) connections_refused: Counter,
    pub(crate) connections_open: Gauge,
    pub(crate) tls_handshake_failures: Counter,
    pub(crate) requests: Counter,
    pub(crate) responses: By<StatusClass, Counter, 5>,
    /// Tunnels, filtered ones included.
    pub(crate) sessions_opened: Counter,
    pub(crate) sessions_open: Gauge,
    /// Bodies and what tunnels carry, on the client's side.
    pub(crate) bytes: ByDirection<Counter>,
    pub(crate) messages: ByDirection<ByFate<Counter>>,
    pub(crate) messages_inflated: Counter,
    pub(crate) upstream_connections_opened: Counter,
    pub(crate) upstream_connections_reused: Counter,
    // Locked when an instance or a generation is made, and by a scrape.
    pub(super) plugins: Named<Box<str>, PluginMetrics>,
    pub(super) endpoints: Named<(Box<str>, SocketAddr), EndpointMetrics>,
}

/// Cells made on demand.
pub(super) type Named<K, T> = Mutex<BTreeMap<K, Arc<T>>>;

impl WorkerMetrics {
    /// Returns what this worker counts for a plugin. Takes a lock: keep the result.
    pub(crate) fn plugin(&self, name: &str) -> Arc<PluginMetrics> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(plugins.entry(name.into()).or_default())
    }

    /// Returns what this worker counts for an endpoint. Takes a lock: keep the result.
    pub(crate) fn endpoint(&self, upstream: &str, address: SocketAddr) -> Arc<EndpointMetrics> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(endpoints.entry((upstream.into(), address)).or_default())
    }

    /// Lets go of endpoints that nobody counts for any more, but those that are `in_force`. The addresses
    /// of a name come and go.
    pub(crate) fn retain_endpoints(&self, in_force: impl Fn(&str, SocketAddr) -> bool) {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|(upstream, address), cells| {
            Arc::strong_count(cells) > 1 || in_force(upstream, *address)
        });
    }
}

/// What one worker counts for a plugin.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PluginMetrics {
    pub(crate) calls: ByPhase<Counter>,
    /// Traps and calls that broke a limit or the contract.
    pub(crate) failures: ByPhase<Counter>,
    /// The same by what it was, and calls that were refused.
    pub(crate) failures_by_kind: ByKind<Counter>,
    pub(crate) call_time: ByPhase<Histogram>,
    /// Thrown away after a failure.
    pub(crate) instances_replaced: Counter,
    /// Handed out for call-outs and timers, and those that were not.
    pub(crate) tickets: Counter,
    pub(crate) tickets_refused: Counter,
    pub(crate) tickets_open: Gauge,
}

/// What one worker counts for one version of a plugin.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct VersionMetrics {
    /// Sessions that are on it.
    pub(crate) sessions: Gauge,
    pub(crate) calls: ByPhase<Counter>,
    /// Of calls about messages and heads; how many there were is in here as well.
    pub(crate) serving: Histogram,
    /// Of calls about sessions as they come and go.
    pub(crate) other: Histogram,
    /// Calls about messages and heads that took longer than a limit that the version is held to.
    pub(crate) slow: Counter,
    /// Calls that ended their instance.
    pub(crate) failures: Counter,
    /// Those of them that took too long.
    pub(crate) timeouts: Counter,
    /// Sessions that came to it from another version, and that it refused.
    pub(crate) moved: Counter,
    pub(crate) refused: Counter,
    /// Sessions that ended on it, by the code they were closed with.
    closes: Mutex<BTreeMap<u16, u64>>,
}

impl VersionMetrics {
    /// Counts a call, which is slow if it took longer than `limit`.
    pub(crate) fn count_call(&self, phase: Phase, time: Duration, limit: Duration) {
        self.calls[phase].increment();
        match phase {
            Phase::Request | Phase::Response | Phase::Choose | Phase::Message | Phase::Fragment => {
                self.serving.observe(time);
                if time > limit {
                    self.slow.increment();
                }
            }
            Phase::Configure
            | Phase::Open
            | Phase::Close
            | Phase::Snapshot
            | Phase::Restore
            | Phase::Release
            | Phase::Cancel => self.other.observe(time),
        }
    }

    /// Counts a session that was closed. Takes a lock that nobody else takes but whoever reads it.
    pub(crate) fn count_close(&self, code: u16) {
        let mut closes = self.closes.lock().unwrap_or_else(PoisonError::into_inner);
        *closes.entry(code).or_default() += 1;
    }
}

/// What one worker counts of a candidate that looks on.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShadowMetrics {
    pub(crate) compared: Counter,
    /// Not shown to it, for the time that it had taken.
    pub(crate) skipped: Counter,
    pub(crate) differences: By<Contrast, Counter, 7>,
}

/// The same of all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShadowFigures {
    pub(crate) compared: u64,
    pub(crate) skipped: u64,
    /// Of each kind.
    pub(crate) differences: BTreeMap<&'static str, u64>,
}

impl ShadowFigures {
    /// Adds up.
    pub(crate) fn sum(cells: &[Arc<ShadowMetrics>]) -> Self {
        let of =
            |value: &dyn Fn(&ShadowMetrics) -> u64| cells.iter().map(|cells| value(cells)).sum();
        let differences = Contrast::ALL.iter().map(|&kind| {
            let count = of(&|cells| cells.differences[kind].value());
            (kind.value(), count)
        });
        Self {
            compared: of(&|cells| cells.compared.value()),
            skipped: of(&|cells| cells.skipped.value()),
            differences: differences.collect(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.skipped += other.skipped;
        for (kind, count) in &other.differences {
            *self.differences.entry(kind).or_default() += count;
        }
    }
}

/// What all workers count for one version of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VersionFigures {
    pub(crate) sessions: u64,
    pub(crate) calls: u64,
    /// About messages and heads.
    pub(crate) serving: Buckets,
    pub(crate) slow: u64,
    pub(crate) failures: u64,
    pub(crate) timeouts: u64,
    pub(crate) moved: u64,
    pub(crate) refused: u64,
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Half of the calls, and all but one in a hundred, took no longer: the upper end of a bucket.
    /// None: there were none, or they took longer than any bucket holds.
    pub(crate) median: Option<Duration>,
    pub(crate) percentile_99: Option<Duration>,
}

impl VersionFigures {
    /// Adds up.
    pub(crate) fn sum(cells: &[Arc<VersionMetrics>]) -> Self {
        let of = |value: fn(&VersionMetrics) -> u64| cells.iter().map(|cells| value(cells)).sum();
        let (mut serving, mut all) = (Buckets::default(), Buckets::default());
        let mut closes = BTreeMap::new();
        for cells in cells {
            serving.add(&cells.serving);
            all.add(&cells.serving);
            all.add(&cells.other);
            let closed = cells.closes.lock().unwrap_or_else(PoisonError::into_inner);
            for (&code, &count) in &*closed {
                *closes.entry(code).or_default() += count;
            }
        }
        Self {
            sessions: of(|cells| cells.sessions.value()),
            calls: all.count(),
            serving,
            slow: of(|cells| cells.slow.value()),
            failures: of(|cells| cells.failures.value()),
            timeouts: of(|cells| cells.timeouts.value()),
            moved: of(|cells| cells.moved.value()),
            refused: of(|cells| cells.refused.value()),
            closes,
            median: all.quantile(50),
            percentile_99: all.quantile(99),
        }
    }

    /// Returns what of the calls about messages and heads has come since an earlier look; the rest as it
    /// is.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (count, before) in self.serving.0.iter_mut().zip(before.serving.0) {
            *count = count.saturating_sub(before);
        }
        self
    }
}

/// How often which time was taken: one number for each of [`BUCKETS`], and one for what took longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Buckets([u64; BUCKETS.len() + 1]);

impl Buckets {
    #[cfg(test)]
    pub(crate) fn of(times: impl Iterator<Item = Duration>) -> Self {
        let histogram = Histogram::default();
        times.for_each(|time| histogram.observe(time));
        let mut buckets = Self::default();
        buckets.add(&histogram);
        buckets
    }

    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.0.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.value();
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the upper end of the bucket below which `percent` of all observations are. None: there are
    /// none, or it has no end.
    fn quantile(&self, percent: u64) -> Option<Duration> {
        let (bucket, ..) = self.find(percent)?;
        BUCKETS.get(bucket).map(|end| Duration::from_nanos(*end))
    }

    /// Returns the time that `percent` of all observations are probably below, as if those within a bucket
    /// were spread evenly; twice the end of the last one beyond that. Zero if there are none.
    pub(crate) fn estimate(&self, percent: u64) -> Duration {
        let Some((bucket, part, of)) = self.find(percent) else {
            return Duration::ZERO;
        };
        let last = BUCKETS[BUCKETS.len() - 1];
        let end = BUCKETS.get(bucket).copied().unwrap_or(2 * last);
        let start = bucket.checked_sub(1).map_or(0, |before| BUCKETS[before]);
        Duration::from_nanos(start + (end - start) * part / of)
    }

    /// Returns the bucket in which `percent` of all observations are reached, and with how many of those
    /// in it.
    fn find(&self, percent: u64) -> Option<(usize, u64, u64)> {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, &count) in self.0.iter().enumerate() {
            if count > 0 && seen + count >= wanted {
                return Some((bucket, wanted - seen, count));
            }
            seen += count;
        }
        None
    }
}

/// What one worker counts for an endpoint.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EndpointMetrics {
    pub(crate) picks: Counter,
    pub(crate) failures: Counter,
    /// Exchanges and tunnels under way.
    pub(crate) open: Gauge,
}

/// How an endpoint is at the moment of a scrape.
#[derive(Debug, Clone)]
pub(crate) struct EndpointStatus {
    pub(crate) upstream: String,
    pub(crate) address: SocketAddr,
    /// Whether it is in use.
    pub(crate) is_up: bool,
    /// Health checks passed and not passed; none without health checks.
    pub(crate) checks: Option<(u64, u64)>,
}

/// All that the process counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(super) workers: Vec<Arc<WorkerMetrics>>,
    // These are written by the control thread.
    pub(super) reloads: By<ReloadResult, AtomicU64, 2>,
    pub(super) generation: AtomicU64,
    /// Names asked for again: found, and not found.
    pub(super) lookups: [AtomicU64; 2],
    pub(super) in_force: InForce,
}

/// Who knows the generation in force.
#[derive(Default)]
pub(super) struct InForce {
    endpoints: OnceLock<Box<dyn Fn() -> Vec<EndpointStatus> + Send + Sync>>,
    plugins: OnceLock<Box<dyn Fn() -> Vec<PluginStatus> + Send + Sync>>,
}

impl InForce {
    /// Returns the endpoints; none before anybody knows them.
    pub(super) fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints.get().map(|ask| ask()).unwrap_or_default()
    }

    /// Returns the plugins; none before anybody knows them.
    pub(super) fn plugins(&self) -> Vec<PluginStatus> {
        self.plugins.get().map(|ask| ask()).unwrap_or_default()
    }
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InForce")
    }
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            reloads: By::default(),
            generation: AtomicU64::new(0),
            lookups: Default::default(),
            in_force: InForce::default(),
        })
    }

    /// Returns the cells of worker `n`, which counts from 0 and alone may write them.
    pub(crate) fn worker(&self, n: usize) -> Arc<WorkerMetrics> {
        Arc::clone(&self.workers[n])
    }

    pub(crate) fn reloaded(&self, result: ReloadResult) {
        self.reloads[result].fetch_add(1, Ordering::Relaxed);
    }

    /// Says whom each scrape asks for the endpoints in force. Only the first to be named is asked.
    pub(crate) fn ask_for_endpoints(
        &self,
        ask: impl Fn() -> Vec<EndpointStatus> + Send + Sync + 'static,
    ) {
        self.in_force.endpoints.get_or_init(|| Box::new(ask));
    }

    /// The same of the plugins.
    pub(crate) fn ask_for_plugins(
        &self,
        ask: impl Fn() -> Vec<PluginStatus> + Send + Sync + 'static,
    ) {
        self.in_force.plugins.get_or_init(|| Box::new(ask));
    }

    /// Counts names that were asked for again.
    pub(crate) fn resolved(&self, found: u64, failed: u64) {
        self.lookups[0].fetch_add(found, Ordering::Relaxed);
        self.lookups[1].fetch_add(failed, Ordering::Relaxed);
    }

    /// Says which generation is in force.
    pub(crate) fn set_generation(&self, number: u64) {
        self.generation.store(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000, 1_001, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let counts = histogram.buckets.each_ref().map(Counter::value);
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn quantiles_are_upper_ends_of_buckets_over_all_workers() {
        let cells = [Arc::new(VersionMetrics::default()), Arc::default()];
        assert_eq!(VersionFigures::sum(&cells), VersionFigures::default());
        for (n, nanos) in (0..100).zip([900, 900, 2_000, 40_000].into_iter().cycle()) {
            cells[n % 2].serving.observe(Duration::from_nanos(nanos));
        }
        let figures = VersionFigures::sum(&cells);
        assert_eq!(figures.calls, 100);
        assert_eq!(figures.median, Some(Duration::from_micros(1)));
        assert_eq!(figures.percentile_99, Some(Duration::from_micros(50)));
        cells[0].other.observe(Duration::from_secs(1));
        cells[1].other.observe(Duration::from_secs(1));
        assert_eq!(VersionFigures::sum(&cells).percentile_99, None);
    }

    #[test]
    fn endpoints_go_when_they_are_not_in_force_and_nobody_counts_for_them() {
        let metrics = WorkerMetrics::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let held = metrics.endpoint("a", address(1));
        for (upstream, port) in [("a", 2), ("a", 3), ("b", 2)] {
            drop(metrics.endpoint(upstream, address(port)));
        }
        let ports = || {
            let endpoints = metrics.endpoints.lock().unwrap();
            let names = endpoints
                .keys()
                .map(|(name, at)| format!("{name}{}", at.port()));
            names.collect::<Vec<_>>().join(" ")
        };
        let in_force = |upstream: &str, at: SocketAddr| upstream == "a" && at.port() == 2;
        metrics.retain_endpoints(in_force);
        assert_eq!(ports(), "a1 a2");
        drop(held);
        metrics.retain_endpoints(in_force);
        assert_eq!(ports(), "a2");
    }

    #[test]
    fn a_time_within_a_bucket_is_estimated_by_how_many_are_below() {
        assert_eq!(Buckets::default().estimate(99), Duration::ZERO);
        let times = [1_500, 2_400, 2_000, 1_700].map(Duration::from_nanos);
        let buckets = Buckets::of(times.into_iter());
        assert_eq!(buckets.estimate(50), Duration::from_nanos(1_750));
        assert_eq!(buckets.estimate(99), Duration::from_nanos(2_500));
        let beyond = Buckets::of([Duration::from_secs(1)].into_iter());
        assert_eq!(beyond.estimate(99), Duration::from_millis(20));
    }

    #[test]
    fn cells_of_two_workers_share_no_cache_line() {
        assert_eq!(align_of::<WorkerMetrics>(), 128);
        assert_eq!(align_of::<PluginMetrics>(), 128);
        assert_eq!(align_of::<EndpointMetrics>(), 128);
    }
}
