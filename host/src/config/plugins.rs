//! Plugins as they are written: `[plugins.NAME]`, and the chains of routes that refer to them.

use std::time::Duration;

use super::containment;
use super::reader::{Table, Value};
use super::upstreams::{Upstreams, check_name, unknown};
use super::{
    Ejection, FailurePolicy, Module, OnFailure, Plugin, PluginLimits, SwapPolicy, TicketLimits,
    trials,
};

const MODULE: &str = "a path of a .wasm file or \"builtin:NAME\"";
const REFERENCE: &str =
    "the name of a plugin or a table such as { name = \"redact\", config = {} }";

/// All plugins of a file, growing as chains are read.
pub(super) struct Plugins<'r> {
    declared: Vec<Declared<'r>>,
    /// What [`Plugins::finish`] returns: each plugin and each variant once.
    used: Vec<Plugin>,
}

struct Declared<'r> {
    value: Value<'r>,
    /// None if it cannot be used, which is noted.
    plugin: Option<Plugin>,
    /// By a chain, as it is or as a variant.
    used: bool,
}

impl<'r> Plugins<'r> {
    /// Reads the declared ones.
    pub(super) fn read(t: &Table<'r>, upstreams: &mut Upstreams<'_>) -> Self {
        let declared = t.get("plugins");
        let declared = declared
            .map(|value| value.entries("tables [plugins.NAME]"))
            .unwrap_or_default();
        let declared = declared
            .into_iter()
            .map(|value| Declared {
                plugin: plugin(&value, upstreams),
                value,
                used: false,
            })
            .collect();
        Self {
            declared,
            used: Vec::new(),
        }
    }

    /// Reads a route's chain: indices into what [`Plugins::finish`] returns.
    pub(super) fn chain(&mut self, value: &Value<'r>) -> Vec<usize> {
        let mut chain = Vec::new();
        for item in value.list("a list such as [\"auth\", { name = \"redact\", config = {} }]") {
            let Some(index) = self.link(&item) else {
                continue;
            };
            if chain.contains(&index) {
                item.problem(format_args!(
                    "{:?} is already in this chain with the same configuration",
                    self.used[index].name
                ));
            }
            chain.push(index);
        }
        chain
    }

    fn link(&mut self, item: &Value<'r>) -> Option<usize> {
        let read = |t: &Table<'r>| (t.require("name", REFERENCE), t.get("config"));
        let (name, config) = match item.is_table() {
            true => item.table(REFERENCE, read)?,
            false => (Some(item.clone()), None),
        };
        let config = config.map(|value| configuration(&value));
        let reference = name?;
        let name = reference.parse(REFERENCE, Some)?;
        let Some(declared) = self.declared.iter_mut().find(|d| d.value.name() == name) else {
            let known = self.declared.iter().map(|declared| declared.value.name());
            reference.problem(unknown("plugin", "plugins", name, known));
            return None;
        };
        declared.used = true;
        let mut plugin = declared.plugin.clone()?;
        if let Some(config) = config {
            plugin.config = config;
        }
        let known = self.used.iter().position(|used| *used == plugin);
        Some(known.unwrap_or_else(|| {
            self.used.push(plugin);
            self.used.len() - 1
        }))
    }

    /// All plugins, once all routes are read: those in chains and those that no chain names. One
    /// that appears in chains with other configurations only is not among them: its own may be no
    /// configuration at all.
    pub(super) fn finish(mut self) -> Vec<Plugin> {
        for declared in self.declared.into_iter().filter(|declared| !declared.used) {
            declared.value.warn("no route uses this plugin");
            self.used.extend(declared.plugin);
        }
        self.used
    }
}

fn plugin(value: &Value<'_>, upstreams: &mut Upstreams<'_>) -> Option<Plugin> {
    check_name(value);
    let read = |t: &Table<'_>| {
        let module = t.require("module", MODULE).and_then(|value| module(&value));
        let config = t.get("config").map(|value| configuration(&value));
        let call = t.get("call").map(|value| grants(&value, upstreams));
        let limits = t.section("limits", limits);
        let on_failure = t.get("on_failure");
        let on_failure = on_failure.and_then(|value| containment::on_failure(&value));
        let snapshot_every = t.get("snapshot_every");
        let eject = t.get("eject");
        let eject = eject.map_or(Some(Ejection::default()), |value| {
            containment::eject(&value)
        });
        let swap = t.get("swap").and_then(|value| swap(&value));
        let canary = t.section("canary", trials::canary);
        let shadow = t.section("shadow", trials::shadow);
        Some(Plugin {
            name: value.name().to_owned(),
            module: module?,
            config: config.unwrap_or_else(|| "{}".to_owned()),
            call: call.unwrap_or_default(),
            limits,
            on_failure: on_failure.unwrap_or(FailurePolicy::all(OnFailure::Closed)),
            eject,
            isolation: containment::isolation(t),
            snapshot_every: snapshot_every.and_then(|value| containment::snapshot_every(&value)),
            swap: swap.unwrap_or(SwapPolicy::NextMessage),
            canary,
            shadow,
        })
    };
    value.table("a table with `module`", read).flatten()
}

/// Upstreams that a plugin may call: what reaches outside is denied unless it is written down.
fn grants(value: &Value<'_>, upstreams: &mut Upstreams<'_>) -> Vec<String> {
    let granted = value.list("a list of upstreams such as [\"auth\"]");
    let mut names = Vec::new();
    for item in granted {
        if upstreams.named(&item).is_some() {
            names.extend(item.as_str().map(str::to_owned));
        }
    }
    names
}

fn module(value: &Value<'_>) -> Option<Module> {
    match value.as_str().and_then(|text| text.split_once(':')) {
        Some(("builtin", name)) if !name.is_empty() => Some(Module::Builtin(name.to_owned())),
        Some(("builtin", _)) => {
            value.expected(MODULE);
            None
        }
        Some((_, rest)) if rest.starts_with("//") => {
            value.expected_because(
                MODULE,
                "modules from elsewhere are not supported in this release",
            );
            None
        }
        _ => value.existing_file().map(Module::File),
    }
}

fn swap(value: &Value<'_>) -> Option<SwapPolicy> {
    const EXPECTED: &str =
        "\"next-message\", \"next-session\" or a table such as { drain_by = \"30s\" }";
    match value.as_str() {
        Some("next-message") => Some(SwapPolicy::NextMessage),
        Some("next-session") => Some(SwapPolicy::NextSession),
        _ => {
            let read = |t: &Table<'_>| {
                t.require("drain_by", "a duration such as \"30s\"")
                    .map(|_| t.duration("drain_by", Duration::ZERO))
            };
            value
                .table(EXPECTED, read)
                .flatten()
                .map(SwapPolicy::DrainBy)
        }
    }
}

/// A `config` table as JSON text.
fn configuration(value: &Value<'_>) -> String {
    if !value.is_table() {
        value.expected("a table such as { words = [\"secret\"] }");
    }
    value.json().to_string()
}

fn limits(t: &Table<'_>) -> PluginLimits {
    PluginLimits {
        call_timeout: t.duration("call_timeout", Duration::from_millis(5)),
        memory_bytes: t.size("memory", 64 << 10..=4 << 30, 16 << 20),
        table_elements: t.whole("table_elements", 0..=1 << 20, 64 << 10),
        stack_bytes: t.size("stack", 64 << 10..=1 << 20, 512 << 10),
        handles: t.whole("handles", 1..=1 << 20, 1_000),
        snapshots_bytes: t.size("snapshots", 0.., 16 << 20),
        output_bytes: t.size("output_bytes", 0.., 4 << 20),
        output_messages: t.whole("output_messages", 0.., 64),
        tickets: TicketLimits {
            per_second: t.whole("max_calls_per_second", 0.., 1_000),
            at_once: t.whole("max_calls", 0.., 256),
            per_session: t.whole("max_calls_per_session", 0.., 8),
            reply_bytes: t.size("reply_bytes", 0.., 64 << 10),
            wait_timeout: t.duration("wait_timeout", Duration::from_secs(5)),
        },
    }
}
