//! What a candidate that only looks on may cost, and where its verdicts differ from those in force.
//!
//! What it is shown is left to `shadow.rs`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use tracing::info;

use super::host::{Gate, LogGate};
use super::trial::{Lot, Role, Share, Trial};
use super::{MessageVerdict, Sent};
use crate::telemetry::{Contrast, Label as _, Phase, ShadowFigures, ShadowMetrics};

/// Differences that are kept to be looked at.
const KEPT_DIFFERENCES: usize = 32;

/// Differences that are kept and logged per second and worker; all are counted.
const REPORTS_PER_SECOND: u32 = 10;

/// How much time a candidate may take at once that has taken none for a while.
const SAVINGS: Duration = Duration::from_millis(5);

/// What a candidate has been seen to do, on all workers.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    cells: Mutex<Vec<Arc<ShadowMetrics>>>,
    recent: Mutex<VecDeque<Difference>>,
}

/// What the version in force said, and what the candidate would have.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) at: SystemTime,
    pub(crate) function: &'static str,
    pub(crate) kind: Contrast,
    pub(crate) in_force: String,
    pub(crate) shadow: String,
}

/// A candidate that looks on, on one worker.
pub(super) struct Onlooker {
    trial: Arc<Trial>,
    share: Share,
    observed: Arc<Observed>,
    metrics: Arc<ShadowMetrics>,
    /// Percent of the worker's time.
    budget: u64,
    /// Nanoseconds that may be taken before any more have passed; what was taken too much is negative.
    credit: Cell<i64>,
    counted_to: Cell<Instant>,
    reports: LogGate,
    /// What it starts takes nothing from what the plugin may start.
    gate: Arc<Gate>,
}

impl Observed {
    pub(crate) fn figures(&self) -> ShadowFigures {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        ShadowFigures::sum(&cells)
    }

    /// Returns differences, the last one first.
    pub(crate) fn recent(&self) -> Vec<Difference> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().cloned().collect()
    }
}

impl Onlooker {
    /// Nothing, if the candidate does not only look on.
    pub(super) fn of(trial: &Arc<Trial>) -> Option<Rc<Self>> {
        let Role::Shadow {
            share,
            budget,
            observed,
        } = &trial.role
        else {
            return None;
        };
        let metrics = Arc::<ShadowMetrics>::default();
        let mut cells = observed
            .cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cells.push(Arc::clone(&metrics));
        drop(cells);
        Some(Rc::new(Self {
            trial: Arc::clone(trial),
            share: share.clone(),
            observed: Arc::clone(observed),
            metrics,
            budget: *budget,
            credit: Cell::new(nanos(SAVINGS)),
            counted_to: Cell::new(Instant::now()),
            reports: LogGate::new(REPORTS_PER_SECOND),
            gate: Gate::new(Arc::default()),
        }))
    }

    pub(super) fn trial(&self) -> &Arc<Trial> {
        &self.trial
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Whether it is shown what has drawn `lot` and came with these fields.
    pub(super) fn sees(&self, lot: Lot, headers: &HeaderMap) -> bool {
        self.share.takes(lot, headers)
    }

    /// Whether it may be shown something now. What it may not is counted.
    pub(super) fn is_admitted(&self) -> bool {
        let now = Instant::now();
        let passed = nanos(now - self.counted_to.replace(now));
        let share = i64::try_from(self.budget).unwrap_or(100);
        let earned = (passed / 100).saturating_mul(share);
        let credit = self.credit.get().saturating_add(earned).min(nanos(SAVINGS));
        self.credit.set(credit);
        if credit <= 0 {
            self.metrics.skipped.increment();
        }
        credit > 0
    }

    /// Does what is to be done for it, and takes the time off what it may use.
    pub(super) fn charge<R>(&self, work: impl FnOnce(&mut Duration) -> R) -> R {
        let started = Instant::now();
        // What it takes is not what the plugin has taken.
        let mut apart = Duration::ZERO;
        let result = work(&mut apart);
        self.credit
            .set(self.credit.get().saturating_sub(nanos(started.elapsed())));
        result
    }

    /// Notes that something could not be compared.
    pub(super) fn skip(&self) {
        self.metrics.skipped.increment();
    }

    /// Counts what was compared, and how it differs, if it does.
    pub(super) fn compared(&self, phase: Phase, found: Option<(Contrast, String, String)>) {
        self.metrics.compared.increment();
        if let Some((kind, in_force, shadow)) = found {
            self.differs(phase, kind, || (in_force, shadow));
        }
    }

    /// Counts a difference; tells what the two said if there are not too many.
    pub(super) fn differs(
        &self,
        phase: Phase,
        kind: Contrast,
        said: impl FnOnce() -> (String, String),
    ) {
        self.metrics.differences[kind].increment();
        let Some(unreported) = self.reports.admit() else {
            return;
        };
        let (in_force, shadow) = said();
        let function = super::function(phase);
        let plugin: &str = self.trial.version.name();
        let version = self.trial.version.id();
        let text = kind.value();
        info!(
            plugin,
            version,
            function,
            kind = text,
            in_force,
            shadow,
            unreported,
            "shadow differs"
        );
        let observed = &self.observed.recent;
        let mut recent = observed.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT_DIFFERENCES {
            recent.pop_front();
        }
        recent.push_back(Difference {
            at: SystemTime::now(),
            function,
            kind,
            in_force,
            shadow,
        });
    }
}

/// Compares verdicts on a message, and what was sent beside them.
pub(super) fn contrast(
    (verdict, sent): (&MessageVerdict, &[Sent]),
    (shadow, shadow_sent): (&MessageVerdict, &[Sent]),
) -> Option<(Contrast, String, String)> {
    let kind = match (verdict, shadow) {
        _ if std::mem::discriminant(verdict) != std::mem::discriminant(shadow) => Contrast::Verdict,
        _ if verdict != shadow => Contrast::Content,
        _ if sent != shadow_sent => Contrast::Sent,
        _ => return None,
    };
    // What peers say is nothing for a log, so only how long it is.
    Some(match (kind, verdict, shadow) {
        (Contrast::Content, MessageVerdict::Replace(one), MessageVerdict::Replace(other)) => {
            let common = one.iter().zip(other).take_while(|(a, b)| a == b).count();
            let differs = format!("{}, other from byte {common}", Told(shadow));
            (kind, Told(verdict).to_string(), differs)
        }
        (Contrast::Sent, ..) => (kind, told_sent(sent), told_sent(shadow_sent)),
        _ => (kind, Told(verdict).to_string(), Told(shadow).to_string()),
    })
}

/// A verdict without what was in the message.
struct Told<'a>(&'a MessageVerdict);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MessageVerdict::Pass => f.write_str("pass"),
            MessageVerdict::Drop => f.write_str("drop"),
            MessageVerdict::Wait => f.write_str("wait"),
            MessageVerdict::Replace(payload) => write!(f, "replace with {} bytes", payload.len()),
            MessageVerdict::Close { code, reason } => {
                write!(f, "close with {} and {} bytes", code.as_u16(), reason.len())
            }
        }
    }
}

pub(super) fn told_sent(sent: &[Sent]) -> String {
    let bytes: usize = sent.iter().map(|sent| sent.payload.len()).sum();
    format!("{} sent, {bytes} bytes", sent.len())
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::close::CloseCode;
    use crate::protocol::message::{MessageKind, Side};

    #[test]
    fn verdicts_differ_by_what_they_are_what_they_carry_and_what_was_sent() {
        use MessageVerdict::{Close, Drop, Pass, Replace};
        let close = |reason: &str| Close {
            code: CloseCode::POLICY,
            reason: reason.to_owned(),
        };
        let none: &[Sent] = &[];
        let one: &[Sent] = &[Sent {
            to: Side::Client,
            kind: MessageKind::Text,
            payload: b"abc".to_vec(),
        }];
        let abc = Replace(b"abc".to_vec());
        for (live, shadow, kind, told) in [
            ((&Pass, none), (&Pass, none), None, ""),
            ((&Pass, one), (&Pass, one), None, ""),
            (
                (&Pass, none),
                (&Drop, none),
                Some(Contrast::Verdict),
                "drop",
            ),
            (
                (&abc, none),
                (&Replace(b"abxyz".to_vec()), none),
                Some(Contrast::Content),
                "replace with 5 bytes, other from byte 2",
            ),
            (
                (&close("a"), none),
                (&close("bc"), none),
                Some(Contrast::Content),
                "close with 1008 and 2 bytes",
            ),
            (
                (&Drop, none),
                (&Drop, one),
                Some(Contrast::Sent),
                "1 sent, 3 bytes",
            ),
        ] {
            let found = contrast(live, shadow);
            assert_eq!(found.as_ref().map(|found| found.0), kind);
            assert_eq!(found.map(|found| found.2).unwrap_or_default(), told);
        }
    }
}
