//! The metrics as Prometheus reads them.
//!
//! What is counted is in `metrics.rs`; serving the text is left to `server/admin.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::metrics::{
    BUCKETS, Direction, EndpointMetrics, EndpointStatus, FailureKind, Fate, Histogram, Label,
    Metrics, Named, Phase, PluginMetrics, ReloadResult, StatusClass, WorkerMetrics,
};
use super::plugins::Plugins;

/// `Content-Type` of what [`Metrics::encode`] returns.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// Returns everything in the OpenMetrics text format.
    pub(crate) fn encode(self: &Arc<Self>) -> String {
        let mut registry = Registry::with_prefix("tidegate");
        registry.register_collector(Box::new(Arc::clone(self)));
        registry.register_collector(Box::new(Endpoints::new(self.in_force.endpoints())));
        registry.register_collector(Box::new(Plugins::new(self.in_force.plugins())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a string succeeds");
        text
    }

    fn sum(&self, value: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.workers
            .iter()
            .fold(0, |sum, worker| sum.wrapping_add(value(worker)))
    }

    fn encode_workers(&self, out: &mut Families<'_>) -> fmt::Result {
        let sum = |value: fn(&WorkerMetrics) -> u64| self.sum(value);
        out.counter(
            "connections_accepted",
            "Client connections accepted",
            sum(|worker| worker.connections_accepted.value()),
        )?;
        out.counter(
            "connections_refused",
            "Client connections closed at once because of limits.max_connections",
            sum(|worker| worker.connections_refused.value()),
        )?;
        out.gauge(
            "connections_open",
            "Client connections open",
            sum(|worker| worker.connections_open.value()),
        )?;
        out.counter(
            "tls_handshake_failures",
            "TLS handshakes of clients that failed",
            sum(|worker| worker.tls_handshake_failures.value()),
        )?;
        out.counter(
            "requests",
            "Requests read",
            sum(|worker| worker.requests.value()),
        )?;
        out.counters(
            "responses",
            "Responses sent, by hundreds of the status",
            StatusClass::ALL.iter().map(|&class| {
                let count = self.sum(|worker| worker.responses[class].value());
                ([(StatusClass::NAME, class.value())], count)
            }),
        )?;
        out.counter(
            "sessions_opened",
            "WebSocket sessions and other tunnels opened",
            sum(|worker| worker.sessions_opened.value()),
        )?;
        out.gauge(
            "sessions_open",
            "WebSocket sessions and other tunnels open",
            sum(|worker| worker.sessions_open.value()),
        )?;
        out.counters(
            "bytes",
            "Bytes of bodies and tunnels relayed, by direction",
            Direction::ALL.iter().map(|&direction| {
                let count = self.sum(|worker| worker.bytes[direction].value());
                ([(Direction::NAME, direction.value())], count)
            }),
        )?;
        out.counters(
            "messages",
            "WebSocket messages, by direction and by what became of them",
            Direction::ALL.iter().flat_map(|&direction| {
                Fate::ALL.iter().map(move |&fate| {
                    let count = self.sum(|worker| worker.messages[direction][fate].value());
                    (
                        [
                            (Direction::NAME, direction.value()),
                            (Fate::NAME, fate.value()),
                        ],
                        count,
                    )
                })
            }),
        )?;
        out.counter(
            "messages_inflated",
            "Compressed WebSocket messages inflated, for plugins or for a side that is not compressed",
            sum(|worker| worker.messages_inflated.value()),
        )?;
        out.counter(
            "upstream_connections_opened",
            "Connections to services opened",
            sum(|worker| worker.upstream_connections_opened.value()),
        )?;
        out.counter(
            "upstream_connections_reused",
            "Exchanges that took an idle connection to the service",
            sum(|worker| worker.upstream_connections_reused.value()),
        )
    }

    fn encode_plugins(&self, out: &mut Families<'_>) -> fmt::Result {
        let plugins = gather(&self.workers, |worker| &worker.plugins);
        // A phase that a plugin is never called for is left out.
        let called = || {
            plugins.iter().flat_map(|(name, cells)| {
                Phase::ALL.iter().filter_map(move |&phase| {
                    let calls = sum(cells, |plugin| plugin.calls[phase].value());
                    let labels = [("plugin", &**name), (Phase::NAME, phase.value())];
                    (calls > 0).then_some((labels, cells, phase, calls))
                })
            })
        };
        out.counters(
            "plugin_calls",
            "Calls of plugins, by phase",
            called().map(|(labels, _, _, calls)| (labels, calls)),
        )?;
        out.counters(
            "plugin_failures",
            "Calls of plugins that trapped or broke a limit or the contract, by phase",
            called().map(|(labels, cells, phase, _)| {
                (labels, sum(cells, |plugin| plugin.failures[phase].value()))
            }),
        )?;
        let kinds = || {
            plugins.iter().flat_map(|(name, cells)| {
                FailureKind::ALL.iter().filter_map(move |&kind| {
                    let count = sum(cells, |plugin| plugin.failures_by_kind[kind].value());
                    let labels = [("plugin", &**name), (FailureKind::NAME, kind.value())];
                    (count > 0).then_some((labels, count))
                })
            })
        };
        out.counters(
            "plugin_failures_by_kind",
            "Calls of plugins that failed or were refused, by what it was",
            kinds(),
        )?;
        out.counters(
            "plugin_instances_replaced",
            "Instances of plugins thrown away after a failure",
            plugins.iter().map(|(name, cells)| {
                (
                    [("plugin", &**name)],
                    sum(cells, |plugin| plugin.instances_replaced.value()),
                )
            }),
        )?;
        let by_plugin = |value: fn(&PluginMetrics) -> u64| {
            plugins
                .iter()
                .map(move |(name, cells)| ([("plugin", &**name)], sum(cells, value)))
        };
        out.counters(
            "plugin_tickets",
            "Call-outs and timers that plugins started",
            by_plugin(|plugin| plugin.tickets.value()),
        )?;
        out.counters(
            "plugin_tickets_refused",
            "Call-outs and timers that plugins could not start for their limits",
            by_plugin(|plugin| plugin.tickets_refused.value()),
        )?;
        out.gauges(
            "plugin_tickets_open",
            "Call-outs and timers that hooks of plugins wait for now",
            by_plugin(|plugin| plugin.tickets_open.value()),
        )?;
        out.histograms(
            "plugin_call_duration_seconds",
            "Time of plugin calls, by phase",
            called().map(|(labels, cells, phase, _)| {
                (
                    labels,
                    cells.iter().map(move |plugin| &plugin.call_time[phase]),
                )
            }),
        )
    }

    fn encode_endpoints(&self, out: &mut Families<'_>) -> fmt::Result {
        let endpoints = gather(&self.workers, |worker| &worker.endpoints);
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|((upstream, address), cells)| (upstream, address.to_string(), cells))
            .collect();
        let each = |value: fn(&EndpointMetrics) -> u64| {
            endpoints.iter().map(move |(upstream, address, cells)| {
                (
                    [("upstream", &***upstream), ("address", &**address)],
                    sum(cells, value),
                )
            })
        };
        out.counters(
            "endpoint_picks",
            "Times an endpoint was picked",
            each(|endpoint| endpoint.picks.value()),
        )?;
        out.counters(
            "endpoint_failures",
            "Times an endpoint could not be reached, broke off or took too long",
            each(|endpoint| endpoint.failures.value()),
        )?;
        out.gauges(
            "endpoint_open",
            "Exchanges and tunnels under way",
            each(|endpoint| endpoint.open.value()),
        )
    }

    fn encode_process(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters(
            "reloads",
            "Reloads, by result",
            ReloadResult::ALL.iter().map(|&result| {
                let count = self.reloads[result].load(Ordering::Relaxed);
                ([(ReloadResult::NAME, result.value())], count)
            }),
        )?;
        out.counters(
            "resolver_lookups",
            "Names of endpoints asked for again, by result",
            self.lookups
                .iter()
                .zip(["success", "failure"])
                .map(|(lookups, result)| ([("result", result)], lookups.load(Ordering::Relaxed))),
        )?;
        out.gauge(
            "generation",
            "Number of the configuration in force",
            self.generation.load(Ordering::Relaxed),
        )?;
        out.gauge("workers", "Worker threads", self.workers.len() as u64)?;
        out.info(
            "build",
            "Version",
            &[("version", env!("CARGO_PKG_VERSION"))],
        )
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        self.encode_workers(&mut out)?;
        self.encode_plugins(&mut out)?;
        self.encode_endpoints(&mut out)?;
        self.encode_process(&mut out)
    }
}

/// The endpoints in force, as they are.
#[derive(Debug)]
struct Endpoints(BTreeMap<(String, String), EndpointStatus>);

impl Endpoints {
    fn new(endpoints: Vec<EndpointStatus>) -> Self {
        let keyed = |status: EndpointStatus| {
            let labels = (status.upstream.clone(), status.address.to_string());
            (labels, status)
        };
        Self(endpoints.into_iter().map(keyed).collect())
    }
}

impl Collector for Endpoints {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        let labelled = || {
            self.0.iter().map(|((upstream, address), status)| {
                let labels = [
                    ("upstream", upstream.as_str()),
                    ("address", address.as_str()),
                ];
                (labels, status)
            })
        };
        out.gauges(
            "endpoint_up",
            "Whether an endpoint is in use: healthy, and not resting after failures",
            labelled().map(|(labels, status)| (labels, u64::from(status.is_up))),
        )?;
        out.counters(
            "endpoint_health_checks",
            "Health checks, by result",
            labelled().flat_map(|([upstream, address], status)| {
                let (passed, failed) = status.checks.unwrap_or_default();
                let results = [("success", passed), ("failure", failed)];
                let labelled =
                    results.map(|(result, count)| ([upstream, address, ("result", result)], count));
                labelled.into_iter().filter(|_| status.checks.is_some())
            }),
        )
    }
}

/// Returns the cells of all workers under the key they are counted for.
fn gather<K: Ord + Clone, V>(
    workers: &[Arc<WorkerMetrics>],
    map: impl Fn(&WorkerMetrics) -> &Named<K, V>,
) -> BTreeMap<K, Vec<Arc<V>>> {
    let mut gathered = BTreeMap::<K, Vec<Arc<V>>>::new();
    for worker in workers {
        let cells = map(worker).lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in &*cells {
            gathered
                .entry(key.clone())
                .or_default()
                .push(Arc::clone(value));
        }
    }
    gathered
}

fn sum<T>(cells: &[Arc<T>], value: impl Fn(&T) -> u64) -> u64 {
    cells
        .iter()
        .fold(0, |sum, cell| sum.wrapping_add(value(cell)))
}

/// Writes whole families.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.begin(name, help, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, impl Iterator<Item = &'h Histogram>)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Histogram)?;
        for (labels, histograms) in values {
            let ends = BUCKETS
                .iter()
                .map(|&nanos| seconds(nanos))
                .chain([f64::INFINITY]);
            let mut buckets: Vec<(f64, u64)> = ends.map(|end| (end, 0)).collect();
            let mut sum_nanos = 0u64;
            for histogram in histograms {
                for (total, bucket) in buckets.iter_mut().zip(&histogram.buckets) {
                    total.1 += bucket.value();
                }
                sum_nanos = sum_nanos.wrapping_add(histogram.sum_nanos.value());
            }
            let count = buckets.iter().map(|&(_, n)| n).sum();
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(seconds(sum_nanos), count, &buckets, None)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.begin(name, help, MetricType::Info)?
            .encode_info(&labels)
    }

    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    fn has_line(text: &str, line: &str) {
        assert!(
            text.lines().any(|found| found == line),
            "no line {line:?} in\n{text}"
        );
    }

    #[test]
    fn a_scrape_adds_up_what_the_workers_counted() {
        let metrics = Metrics::new(2);
        let (first, second) = (metrics.worker(0), metrics.worker(1));
        first.requests.add(3);
        second.requests.increment();
        first.responses[StatusCode::SWITCHING_PROTOCOLS.into()].increment();
        second.responses[StatusCode::NOT_FOUND.into()].add(2);
        first.bytes[Direction::ToClient].add(10);
        second.messages[Direction::ToService][Fate::Replace].increment();

        let text = metrics.encode();

        has_line(&text, "# HELP tidegate_requests Requests read");
        has_line(&text, "# TYPE tidegate_requests counter");
        has_line(&text, "tidegate_requests_total 4");
        has_line(&text, "tidegate_responses_total{class=\"1xx\"} 1");
        has_line(&text, "tidegate_responses_total{class=\"4xx\"} 2");
        has_line(&text, "tidegate_bytes_total{direction=\"to-client\"} 10");
        has_line(
            &text,
            "tidegate_messages_total{direction=\"to-service\",verdict=\"replace\"} 1",
        );
        has_line(&text, "tidegate_workers 2");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_gauge_may_grow_on_one_worker_and_shrink_on_another() {
        let metrics = Metrics::new(2);
        metrics.worker(0).connections_open.increment();
        metrics.worker(0).connections_open.increment();
        metrics.worker(1).connections_open.decrement();
        has_line(&metrics.encode(), "tidegate_connections_open 1");
    }

    #[test]
    fn plugins_and_endpoints_have_one_series_for_all_workers() {
        let metrics = Metrics::new(2);
        let address: SocketAddr = "[::1]:9001".parse().unwrap();
        for n in 0..2 {
            let worker = metrics.worker(n);
            let plugin = worker.plugin("redact");
            plugin.calls[Phase::Message].add(2);
            plugin.failures[Phase::Message].increment();
            plugin.call_time[Phase::Message].observe(Duration::from_nanos(900));
            plugin.call_time[Phase::Message].observe(Duration::from_millis(20));
            worker.plugin("redact").instances_replaced.increment();
            worker.endpoint("chat", address).picks.increment();
        }

        let text = metrics.encode();

        has_line(
            &text,
            r#"tidegate_plugin_calls_total{plugin="redact",phase="message"} 4"#,
        );
        has_line(
            &text,
            r#"tidegate_plugin_failures_total{plugin="redact",phase="message"} 2"#,
        );
        has_line(
            &text,
            r#"tidegate_plugin_instances_replaced_total{plugin="redact"} 2"#,
        );
        let histogram = "tidegate_plugin_call_duration_seconds";
        let labels = r#"plugin="redact",phase="message""#;
        has_line(
            &text,
            &format!("{histogram}_bucket{{le=\"0.000001\",{labels}}} 2"),
        );
        has_line(
            &text,
            &format!("{histogram}_bucket{{le=\"0.01\",{labels}}} 2"),
        );
        has_line(
            &text,
            &format!("{histogram}_bucket{{le=\"+Inf\",{labels}}} 4"),
        );
        has_line(&text, &format!("{histogram}_count{{{labels}}} 4"));
        has_line(&text, &format!("{histogram}_sum{{{labels}}} 0.0400018"));
        has_line(
            &text,
            r#"tidegate_endpoint_picks_total{upstream="chat",address="[::1]:9001"} 2"#,
        );
        assert!(
            !text.contains(r#"phase="request""#),
            "it was never called for requests"
        );
    }

    #[test]
    fn endpoints_in_force_are_told_as_they_are() {
        let status = |port, checks| EndpointStatus {
            upstream: "chat".to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            is_up: checks != Some((0, 3)),
            checks,
        };
        let endpoints = [status(1, Some((0, 3))), status(2, None)];
        let metrics = Metrics::new(1);
        metrics.ask_for_endpoints(move || endpoints.to_vec());
        let text = metrics.encode();
        let (bad, good) = (
            r#"upstream="chat",address="127.0.0.1:1""#,
            r#"upstream="chat",address="127.0.0.1:2""#,
        );
        has_line(&text, &format!("tidegate_endpoint_up{{{bad}}} 0"));
        has_line(&text, &format!("tidegate_endpoint_up{{{good}}} 1"));
        let checks = "tidegate_endpoint_health_checks_total";
        has_line(&text, &format!("{checks}{{{bad},result=\"failure\"}} 3"));
        assert!(!text.contains(&format!("{checks}{{{good}")), "it has none");
    }

    #[test]
    fn the_process_reports_reloads_generation_and_version() {
        let metrics = Metrics::new(1);
        metrics.reloaded(ReloadResult::Failure);
        metrics.set_generation(7);
        let text = metrics.encode();
        has_line(&text, r#"tidegate_reloads_total{result="failure"} 1"#);
        has_line(&text, r#"tidegate_reloads_total{result="success"} 0"#);
        has_line(&text, "tidegate_generation 7");
        let version = env!("CARGO_PKG_VERSION");
        has_line(
            &text,
            &format!("tidegate_build_info{{version=\"{version}\"}} 1"),
        );
    }
}
