//! What the controller counts: sessions as they stand, what they cost, calls, and what makes no progress.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use srchat_crds::Dollars;

/// How a reconcile, or a call to the provider, went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// A closed word of ours: the name of an action, of an error's kind, or `Ok`.
    pub outcome: &'static str,
}

/// How a session stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// The reason of its `Ready` condition: one of a closed set.
    pub outcome: String,
}

/// Calls to the provider, by how they ended: `Ok`, or the kind of the error.
pub type ProviderCalls = Family<OutcomeLabels, Counter>;

/// What one session adds to the totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The reason of its `Ready` condition.
    pub state: String,
    /// Dollars an hour, now.
    pub hourly: Dollars,
    /// Whether it makes no progress.
    pub stuck: bool,
}

/// What the controller counts.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Passes, by the action taken.
    pub passes: Family<OutcomeLabels, Counter>,
    /// Calls to the provider.
    pub provider_calls: ProviderCalls,
    /// Pods of ours that no session owns, as the last sweep saw them.
    pub orphans: Gauge,
    sessions: Family<StateLabels, Gauge>,
    hourly_dollars: Gauge<f64, AtomicU64>,
    stuck: Gauge,
    standings: Arc<Mutex<HashMap<String, Standing>>>,
}

impl Controller {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Family::default(),
            provider_calls: Family::default(),
            orphans: Gauge::default(),
            sessions: Family::default(),
            hourly_dollars: Gauge::default(),
            stuck: Gauge::default(),
            standings: Arc::default(),
        };
        registry.register(
            "srchat_sessions",
            "Sessions by the reason of Ready",
            metrics.sessions.clone(),
        );
        registry.register(
            "srchat_passes",
            "Reconciliations by the action taken",
            metrics.passes.clone(),
        );
        registry.register(
            "srchat_provider_calls",
            "Calls to the provider by how they ended",
            metrics.provider_calls.clone(),
        );
        registry.register(
            "srchat_hourly_dollars",
            "What is being spent now, in dollars an hour",
            metrics.hourly_dollars.clone(),
        );
        registry.register(
            "srchat_orphans",
            "Pods of ours that no session owns",
            metrics.orphans.clone(),
        );
        registry.register(
            "srchat_stuck",
            "Sessions that are not at rest and have made no progress for five minutes",
            metrics.stuck.clone(),
        );
        metrics
    }

    /// How a session stands from now on.
    pub fn stands(&self, uid: &str, standing: Standing) {
        self.change(|standings| {
            let before = standings.insert(uid.to_owned(), standing.clone());
            if before.as_ref() != Some(&standing) {
                self.move_gauges(before, Some(standing));
            }
        });
    }

    /// Sessions that are not there any more count for nothing.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.change(|standings| {
            let gone: Vec<String> = standings.keys().filter(|uid| !keep(uid)).cloned().collect();
            for uid in gone {
                self.move_gauges(standings.remove(&uid), None);
            }
        });
    }

    fn move_gauges(&self, before: Option<Standing>, after: Option<Standing>) {
        for (standing, one) in [(before, -1), (after, 1)] {
            let Some(Standing {
                state,
                hourly: _,
                stuck,
            }) = standing
            else {
                continue;
            };
            self.sessions
                .get_or_create(&StateLabels { outcome: state })
                .inc_by(one);
            self.stuck.inc_by(one * i64::from(stuck));
        }
    }

    /// Sums are made of whole millionths each time, so that they never drift.
    fn change(&self, change: impl FnOnce(&mut HashMap<String, Standing>)) {
        let mut standings = self
            .standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut standings);
        let micros: u64 = standings
            .values()
            .map(|standing| standing.hourly.as_micros())
            .sum();
        self.hourly_dollars.set(micros as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    fn standing(state: &str, cents: u32, stuck: bool) -> Standing {
        Standing {
            state: state.to_owned(),
            hourly: Dollars::cents(cents),
            stuck,
        }
    }

    #[test]
    fn sessions_are_counted_as_they_stand_and_not_at_all_when_gone() {
        let mut registry = Registry::default();
        let counted = Controller::new(&mut registry);
        counted.stands("a", standing("Booting", 49, false));
        counted.stands("b", standing("Booting", 30, true));
        counted.stands("a", standing("Serving", 49, false));
        counted.stands("a", standing("Serving", 49, false));
        let text = shown(&registry);
        for line in [
            "srchat_sessions{outcome=\"Serving\"} 1",
            "srchat_sessions{outcome=\"Booting\"} 1",
            "srchat_stuck 1",
            "srchat_hourly_dollars 0.79",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        counted.retain(|uid| uid == "a");
        let text = shown(&registry);
        for line in [
            "srchat_sessions{outcome=\"Serving\"} 1",
            "srchat_sessions{outcome=\"Booting\"} 0",
            "srchat_stuck 0",
            "srchat_hourly_dollars 0.49",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
