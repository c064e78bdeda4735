//! Whose time it was: the provider's, the model's, or ours. What cannot be told counts as ours.

use jiff::Timestamp;

use crate::runpod::Entry;

use super::client::Answer;
use super::follow::{Milestone, View};
use super::report::{Others, Seconds};

/// Two proofs of absence are at least this far apart, by design.
const BETWEEN_PROOFS: f64 = 10.0;

/// The engine's own account of its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Engine {
    started: Timestamp,
    ready: Timestamp,
}

impl Engine {
    /// From the lines `srchat-engine started <Unix seconds>` and `srchat-engine ready <Unix seconds>` that the
    /// rig's model server writes; the last start counts.
    pub(super) fn from_log(log: &str) -> Option<Engine> {
        let last = |word: &str| {
            let (_, rest) = log.rsplit_once(&format!("srchat-engine {word} "))?;
            let seconds: f64 = rest.split_whitespace().next()?.parse().ok()?;
            // Milliseconds of this century fit.
            Timestamp::from_millisecond((seconds * 1000.0) as i64).ok()
        };
        Some(Engine {
            started: last("started")?,
            ready: last("ready")?,
        })
    }
}

/// Everything that has a time.
pub(super) struct Times<'a> {
    pub(super) applied: Timestamp,
    pub(super) deleted: Option<Timestamp>,
    pub(super) view: &'a View,
    pub(super) pod: Option<&'a Entry>,
    pub(super) engine: Option<Engine>,
    /// How long the Hub took to hand out the weights, by its own clock.
    pub(super) download: Option<f64>,
    pub(super) answer: Option<&'a Answer>,
}

impl Times<'_> {
    /// When each stage was over.
    pub(super) fn seconds(&self) -> Seconds {
        let up = |at: Option<Timestamp>| at.map(|at| between(self.applied, at));
        let down = |at: Option<Timestamp>| Some(between(self.deleted?, at?));
        let seen = |milestone: Milestone| self.view.reached.get(&milestone).copied();
        Seconds {
            planned: up(seen(Milestone::Planned)),
            rented: up(self.pod.map(|pod| pod.rented)),
            booted: up(self.pod.and_then(|pod| pod.booted)),
            trusted: up(seen(Milestone::Trusted)),
            served: up(self
                .engine
                .map(|engine| engine.ready)
                .or(seen(Milestone::Served))),
            published: up(seen(Milestone::Published)),
            first_token: up(self.answer.map(|answer| answer.first_token)),
            cleared: down(seen(Milestone::Cleared)),
            terminated: down(self.pod.and_then(|pod| pod.terminated)),
            gone: down(seen(Milestone::Gone)),
        }
    }

    /// What others took, by their own clocks.
    pub(super) fn others(&self) -> Others {
        let stored = self.view.reached.get(&Milestone::Stored);
        Others {
            kubectl: stored.map(|at| between(self.applied, *at)),
            provider: self
                .pod
                .and_then(|pod| Some(between(pod.rented, pod.booted?))),
            download: self.download.map(rounded),
            engine: self
                .engine
                .map(|engine| between(engine.started, engine.ready)),
            prompt: self
                .answer
                .and_then(|answer| answer.prompt_seconds)
                .map(rounded),
        }
    }

    /// Apply to first token, without what kubectl took to send the session, the provider to start the container,
    /// the Hub to hand out the weights, the engine to load them, and the model to read the prompt.
    pub(super) fn overhead(&self) -> Option<f64> {
        let answer = self.answer?;
        let Others {
            kubectl,
            provider,
            download,
            engine,
            prompt,
        } = self.others();
        let others: f64 = [kubectl, provider, download, engine, prompt]
            .into_iter()
            .flatten()
            .sum();
        // Asking is a user's act, and the demo asks a moment after it may.
        let asking = self
            .view
            .reached
            .get(&Milestone::Published)
            .map_or(0.0, |at| between(*at, answer.asked).max(0.0));
        Some(rounded(
            between(self.applied, answer.first_token) - others - asking,
        ))
    }

    /// Delete to gone, without the clearing of the host and the interval between two proofs.
    pub(super) fn overhead_gone(&self) -> Option<f64> {
        let reached = &self.view.reached;
        let cleared = reached.get(&Milestone::Cleared)?;
        let gone = reached.get(&Milestone::Gone)?;
        Some(rounded(between(*cleared, *gone) - BETWEEN_PROOFS))
    }
}

fn between(from: Timestamp, to: Timestamp) -> f64 {
    rounded(to.duration_since(from).as_secs_f64())
}

/// To the millisecond: more is not known.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_engine_tells_when_it_started_and_was_ready() {
        let log = "srchat-engine started 1700000000.250\nloading\ndata: srchat-engine started 1700000001.5\n\
                   srchat-engine ready 1700000003.125\n";
        let engine = Engine::from_log(log).unwrap();
        assert_eq!(between(engine.started, engine.ready), 1.625);
        assert_eq!(Engine::from_log("srchat-engine started 1700000000\n"), None);
    }
}
