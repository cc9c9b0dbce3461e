//! Trials of candidates: what is asked for, and who looks after them until they are promoted or rolled
//! back.
//!
//! What a trial is, and how it is judged, is the plugin seam's business.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::parameters::Parameters;
use super::swap::end_grace_later;
use crate::config::{self, Match, ShareKey, SwapPolicy, call_time, closes, duration};
use crate::generation::Generation;
use crate::plugin::{Look, Plugin, Role, Share, Trial, Version};

/// How often a candidate is looked at: a short time beside that in which somebody would notice.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How a version comes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// None: as the configuration has it.
    pub(super) policy: Option<SwapPolicy>,
    pub(super) how: How,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum How {
    #[default]
    AtOnce,
    Canary(Box<Asked>),
    /// What is not said is as the configuration has it.
    Shadow {
        sample: Option<u64>,
        budget: Option<u64>,
    },
}

/// What is asked of a canary. What is not said is as the configuration has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    percent: u64,
    when: Option<Match>,
    by: Option<ShareKey>,
    window: Option<Duration>,
    min_calls: Option<u64>,
    max_traps: Option<u64>,
    max_timeouts: Option<u64>,
    call_time: Option<Duration>,
    slowdown: Option<u64>,
    closes: Option<BTreeMap<u16, u64>>,
}

impl Terms {
    /// Reads how a swap is asked for beside the module. The error is for people.
    pub(super) fn read(mut given: Parameters) -> Result<Self, String> {
        let expected = "`next-message`, `next-session` or `drain-by:30s`";
        let policy = given.read("policy", expected, policy)?;
        let percent = up_to(100, "percent", &mut given)?;
        let asked = Asked::read(percent.unwrap_or(0), &mut given)?;
        let shadow = given.read("shadow", "`true` or `false`", |text| text.parse().ok())?;
        let sample = up_to(100, "sample", &mut given)?;
        let budget = up_to(50, "budget", &mut given)?;
        given.finish()?;
        if shadow == Some(true) {
            if asked != Asked::default() {
                let why = "a shadow serves nobody: it has no share, window or limits of a canary";
                return Err(why.to_owned());
            }
            let how = How::Shadow { sample, budget };
            return Ok(Self { policy, how });
        }
        if sample.or(budget).is_some() {
            return Err("`sample` and `budget` are for a shadow: expected `shadow`".to_owned());
        }
        if percent.is_some() || asked.when.is_some() {
            let how = How::Canary(Box::new(asked));
            return Ok(Self { policy, how });
        }
        if asked != Asked::default() {
            let why = "limits and a window are for a share: expected `percent` or `when`";
            return Err(why.to_owned());
        }
        let how = How::AtOnce;
        Ok(Self { policy, how })
    }
}

/// Reads a number that is not 0.
fn up_to(most: u64, name: &'static str, given: &mut Parameters) -> Result<Option<u64>, String> {
    given.read(name, &format!("a whole number from 1 to {most}"), |text| {
        number(text).filter(|n| (1..=most).contains(n))
    })
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn policy(text: &str) -> Option<SwapPolicy> {
    match text.split_once(':') {
        None if text == "next-message" => Some(SwapPolicy::NextMessage),
        None if text == "next-session" => Some(SwapPolicy::NextSession),
        Some(("drain-by", time)) => duration(time).map(SwapPolicy::DrainBy),
        _ => None,
    }
}

impl How {
    /// What a candidate is to do. None: there is no trial.
    pub(super) fn role(&self, declared: &config::Plugin) -> Option<Role> {
        match self {
            Self::AtOnce => None,
            Self::Canary(asked) => {
                let limits = asked.over(&declared.canary);
                let share = Share {
                    percent: asked.percent,
                    key: limits.by.clone(),
                    when: asked.when.clone(),
                };
                Some(Role::Canary { share, limits })
            }
            Self::Shadow { sample, budget } => Some(Role::Shadow {
                share: Share {
                    percent: sample.unwrap_or(declared.shadow.sample),
                    key: ShareKey::Session,
                    when: None,
                },
                budget: budget.unwrap_or(declared.shadow.budget),
                observed: Arc::default(),
            }),
        }
    }
}

impl Asked {
    fn read(percent: u64, given: &mut Parameters) -> Result<Self, String> {
        const WHOLE: &str = "a whole number";
        const WHEN: &str = "`header:NAME=VALUE` or `cookie:NAME=VALUE`";
        const BY: &str = "`session`, `header:NAME` or `cookie:NAME`";
        let window = given.read("window", "a duration such as `60s`", |text| {
            duration(text).filter(|time| !time.is_zero())
        })?;
        Ok(Self {
            percent,
            when: given.read("when", WHEN, Match::parse)?,
            by: given.read("by", BY, ShareKey::parse)?,
            window,
            min_calls: given.read("min_calls", WHOLE, number)?,
            max_traps: given.read("max_traps", WHOLE, number)?,
            max_timeouts: given.read("max_timeouts", WHOLE, number)?,
            call_time: given.read("call_time", "a time such as `500us`", call_time)?,
            slowdown: given.read("slowdown", WHOLE, number)?,
            closes: given.read("max_closes", "a list such as `1011=0,1008=20`", closes)?,
        })
    }

    /// Returns what holds where the configuration says otherwise.
    fn over(&self, declared: &config::Canary) -> config::Canary {
        let declared = declared.clone();
        config::Canary {
            window: self.window.unwrap_or(declared.window),
            by: self.by.clone().unwrap_or(declared.by),
            min_calls: self.min_calls.unwrap_or(declared.min_calls),
            max_traps: self.max_traps.unwrap_or(declared.max_traps),
            max_timeouts: self.max_timeouts.unwrap_or(declared.max_timeouts),
            call_time: self.call_time.or(declared.call_time),
            slowdown: self.slowdown.unwrap_or(declared.slowdown),
            closes: self.closes.clone().unwrap_or(declared.closes),
        }
    }
}

/// A plugin and the candidate that begins its trial beside it.
pub(super) type Candidate = (Arc<Plugin>, Arc<Version>, SwapPolicy, Role);

/// Begins trials of one module, and sees to it that they end: together, since it is one module.
pub(super) fn begin(candidates: Vec<Candidate>) {
    let begin = |(plugin, version, policy, role): Candidate| {
        let id = version.id();
        plugin.begin(Trial::new(version, role, policy, &plugin.version()));
        (Arc::downgrade(&plugin), id)
    };
    let ends_by_itself = |(.., role): &Candidate| matches!(role, Role::Canary { .. });
    let ends_by_itself = candidates.iter().any(ends_by_itself);
    let trials = candidates.into_iter().map(begin).collect::<Vec<_>>();
    if !ends_by_itself {
        return;
    }
    tokio::spawn(async move {
        while is_undecided(&trials) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
}

/// Looks at trials and does what there is to do. Returns whether to look again.
fn is_undecided(trials: &[(Weak<Plugin>, u64)]) -> bool {
    let plugins: Vec<_> = trials
        .iter()
        .filter_map(|(plugin, version)| {
            let plugin = plugin.upgrade()?;
            let trial = plugin.trial()?;
            (trial.version.id() == *version).then_some((plugin, trial))
        })
        .collect();
    if plugins.is_empty() {
        return false;
    }
    let mut all_well = true;
    for (plugin, trial) in &plugins {
        match trial.look(&plugin.version()) {
            Look::GoOn => all_well = false,
            Look::Promote => {}
            Look::RollBack(breach) => {
                end(
                    plugins.iter().map(|(plugin, _)| plugin),
                    Decision::RollBack,
                    breach,
                );
                return false;
            }
        }
    }
    if all_well {
        let reason = "it kept to its limits throughout the window";
        end(
            plugins.iter().map(|(plugin, _)| plugin),
            Decision::Promote,
            reason,
        );
    }
    !all_well
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Promote,
    RollBack,
}

/// Ends the trial of a plugin of the generation in force, by hand. Returns the number of the candidate,
/// or why there is nothing to end.
pub(super) fn decide(
    generation: &Generation,
    name: &str,
    decision: Decision,
) -> Result<u64, String> {
    let named = named(generation, name)?;
    let ended = end(named.into_iter(), decision, "by hand");
    ended.ok_or_else(|| format!("plugin `{name}` has no candidate on trial"))
}

/// Returns the number of the last candidate whose trial was ended.
fn end<'a>(
    plugins: impl Iterator<Item = &'a Arc<Plugin>>,
    decision: Decision,
    reason: impl Display,
) -> Option<u64> {
    let reason = reason.to_string();
    let end = |plugin: &Arc<Plugin>| {
        let version = match decision {
            Decision::RollBack => plugin.roll_back(&reason)?,
            Decision::Promote => {
                let version = plugin.promote(&reason)?;
                end_grace_later(plugin);
                version
            }
        };
        Some(version.id())
    };
    plugins.filter_map(end).last()
}

/// Returns the plugins of a name; more than one, if routes give it a `config` of their own.
pub(super) fn named<'a>(
    generation: &'a Generation,
    name: &str,
) -> Result<Vec<&'a Arc<Plugin>>, String> {
    let plugins = || generation.plugins.iter();
    let named: Vec<_> = plugins()
        .filter(|plugin| **plugin.name() == *name)
        .collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let mut known: Vec<_> = plugins().map(|plugin| &**plugin.name()).collect();
    known.dedup();
    let known = match known.join("`, `") {
        names if names.is_empty() => "the configuration has none".to_owned(),
        names => format!("expected one of `{names}`"),
    };
    Err(format!("no plugin `{name}`; {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<Terms, String> {
        let given = pairs.iter();
        let given = given.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Terms::read(Parameters::new(given.collect()))
    }

    #[test]
    fn what_is_not_said_is_as_the_configuration_has_it() {
        let declared = config::Canary {
            max_traps: 7,
            ..config::Canary::default()
        };
        let terms = query(&[("percent", "10"), ("window", "5s"), ("by", "cookie:sid")]).unwrap();
        let How::Canary(asked) = terms.how else {
            panic!("{terms:?}")
        };
        let limits = asked.over(&declared);
        assert_eq!(limits.window, Duration::from_secs(5));
        assert_eq!(limits.by, ShareKey::Cookie("sid".to_owned()));
        assert_eq!(limits.max_traps, 7);
        assert_eq!(query(&[]).unwrap(), Terms::default());
    }

    #[test]
    fn wrong_parameters_are_told_with_what_is_expected() {
        for (pairs, expected) in [
            (
                &[("percent", "0")][..],
                "percent: expected a whole number from 1 to 100, found `0`",
            ),
            (
                &[("percent", "101")],
                "percent: expected a whole number from 1 to 100, found `101`",
            ),
            (
                &[("percent", "10"), ("by", "user")],
                "by: expected `session`, `header:NAME` or `cookie:NAME`, found `user`",
            ),
            (
                &[("when", "header:x-canary")],
                "when: expected `header:NAME=VALUE` or `cookie:NAME=VALUE`, found `header:x-canary`",
            ),
            (
                &[("shares", "5")],
                "unknown parameter `shares`; known here: ",
            ),
            (
                &[("shadow", "true"), ("percent", "10")],
                "a shadow serves nobody: it has no share",
            ),
            (
                &[("sample", "10")],
                "`sample` and `budget` are for a shadow",
            ),
            (
                &[("shadow", "true"), ("budget", "51")],
                "budget: expected a whole number from 1 to 50, found `51`",
            ),
            (
                &[("window", "5s")],
                "limits and a window are for a share: expected `percent` or `when`",
            ),
        ] {
            let error = query(pairs).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
