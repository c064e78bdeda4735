//! Whether a session moves. One that is neither at rest nor changes for five minutes is visible as such: by condition, event and metric.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::{Blocked, Decision, Ending, Verdict};
use super::ledger::{Ledger, Outcome, PodRecord};
use super::observe::{EngineSeen, LedgerSeen, Observation};
use crate::provider::PodId;

/// Without any change for so long, somebody should know.
pub const STILL: Duration = Duration::from_secs(300);

/// How far a session has come, in what counts as progress. Trying again does not, nor does the time that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    standing: (std::mem::Discriminant<Verdict>, Option<&'static str>),
    generation: i64,
    run: Option<(u32, bool)>,
    attempts: Vec<(u64, usize)>,
    pods: Vec<(PodId, usize)>,
    start: Option<(crate::host::Stage, Option<u8>, String)>,
}

/// What a session's controller remembers of its progress. A new process begins to count anew.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    mark: Mark,
    since: Timestamp,
    restless: bool,
}

impl Progress {
    /// Since when nothing has changed, unless the session is at rest.
    pub(crate) fn still(&self) -> Option<Timestamp> {
        self.restless.then_some(self.since)
    }
}

/// Looks at a session once more, and tells since when it has stood still, when it is not at rest.
pub(crate) fn look(
    before: &mut Option<Progress>,
    seen: &Observation,
    decision: &Decision,
) -> Option<Timestamp> {
    let mark = mark(seen, decision);
    let since = match before {
        Some(progress) if progress.mark == mark => progress.since,
        Some(_) | None => seen.now,
    };
    let now = Progress {
        mark,
        since,
        restless: restless(seen, decision),
    };
    let still = now.still();
    *before = Some(now);
    still
}

/// Since when nothing has changed, when that is too long ago.
pub fn stuck(still: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    still.filter(|since| *since + STILL <= now)
}

fn mark(seen: &Observation, decision: &Decision) -> Mark {
    let ledger = ledger(seen);
    let engine = seen
        .host
        .as_ref()
        .and_then(|host| host.found.as_ref().ok())
        .map(|visit| &visit.engine);
    let attempt = |attempt: &super::ledger::Attempt| match &attempt.outcome {
        Outcome::Open { misses } => (attempt.number, misses.len()),
        Outcome::Pod(_) => (attempt.number, usize::MAX),
    };
    Mark {
        standing: (
            std::mem::discriminant(&decision.verdict),
            within(&decision.verdict),
        ),
        generation: seen.session.generation,
        run: ledger.map(|ledger| (ledger.run.number, ledger.run.ended.is_some())),
        attempts: ledger
            .map(|ledger| ledger.attempts.iter().map(attempt).collect())
            .unwrap_or_default(),
        pods: ledger
            .map(|ledger| {
                ledger
                    .pods
                    .iter()
                    .map(|pod| (pod.id.clone(), steps(pod)))
                    .collect()
            })
            .unwrap_or_default(),
        start: match engine {
            Some(EngineSeen::Starting {
                stage,
                percent,
                message,
            }) => Some((*stage, *percent, message.clone())),
            Some(EngineSeen::Absent | EngineSeen::Healthy { .. } | EngineSeen::Failed { .. })
            | None => None,
        },
    }
}

/// What a verdict says beyond its name, without what changes from one try to the next.
fn within(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Blocked(blocked) => Some(match blocked {
            Blocked::Unconfirmed => "unconfirmed",
            Blocked::ForeignInstallation => "foreign",
            Blocked::NoAccount(_) => "account",
            Blocked::Provider(_) => "provider",
            Blocked::SecretNameTaken | Blocked::SecretsForbidden => "secret",
            // A plan that is made again and comes to nothing again is one try.
            Blocked::Planning | Blocked::NoPlan(_) => "plan",
            Blocked::Budget { .. } => "budget",
            Blocked::Refused => "refused",
            Blocked::Unreadable => "unreadable",
        }),
        Verdict::Ending(ending) => Some(match ending {
            Ending::Clearing => "clearing",
            // Asked and looked at in turns until it is proved.
            Ending::Terminating | Ending::Verifying => "terminating",
            Ending::AccountUnknown => "account",
            Ending::Unread(_) => "provider",
            Ending::Finishing => "finishing",
        }),
        Verdict::LedgerUnreadable
        | Verdict::Entering
        | Verdict::Paused
        | Verdict::Ended(_)
        | Verdict::Renting
        | Verdict::Resolving
        | Verdict::Booting
        | Verdict::Deploying
        | Verdict::Serving
        | Verdict::Finished => None,
    }
}

/// How many of the things that happen to a pod have happened to it.
fn steps(pod: &PodRecord) -> usize {
    let done = [
        pod.pin.is_some(),
        pod.served.is_some(),
        pod.doom.is_some(),
        pod.wipe.is_some(),
        pod.deleted.is_some(),
        pod.gone.is_some(),
    ];
    done.into_iter().filter(|done| *done).count() + pod.proofs.len()
}

/// Whether something is still to come of a session by itself.
fn restless(seen: &Observation, decision: &Decision) -> bool {
    let leftovers = ledger(seen).is_some_and(|ledger| {
        ledger.open_attempt().is_some()
            || ledger
                .pods
                .iter()
                .any(|pod| pod.doom.is_some() && pod.gone.is_none())
    });
    let rests = match &decision.verdict {
        Verdict::Serving
        | Verdict::Paused
        | Verdict::Ended(_)
        | Verdict::Finished
        | Verdict::Blocked(Blocked::Unconfirmed) => true,
        Verdict::LedgerUnreadable
        | Verdict::Entering
        | Verdict::Blocked(_)
        | Verdict::Renting
        | Verdict::Resolving
        | Verdict::Booting
        | Verdict::Deploying
        | Verdict::Ending(_) => false,
    };
    leftovers || !rests
}

fn ledger(seen: &Observation) -> Option<&Ledger> {
    match &seen.ledger {
        LedgerSeen::Is(ledger) => Some(ledger),
        LedgerSeen::Missing | LedgerSeen::Unreadable => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::decide::world::World;
    use super::*;

    /// Passes of a world, with what is said of its progress after each.
    fn watch(world: &mut World, passes: u32) -> Vec<Option<Duration>> {
        let mut progress = None;
        let mut said = Vec::new();
        for _ in 0..passes {
            let decision = world.pass();
            let seen = world.observation();
            let still = look(&mut progress, &seen, &decision);
            said.push(
                stuck(still, seen.now).map(|since| super::super::ledger::span(since, seen.now)),
            );
            if let (true, Some(again)) = (decision.idle(), decision.noticing(still, seen.now).again)
            {
                world.now = world.now.max(again);
            }
        }
        said
    }

    #[test]
    fn a_session_that_starts_and_serves_is_never_said_to_stand_still() {
        let mut world = World::new();
        assert!(watch(&mut world, 200).iter().all(Option::is_none));
        world.now += Duration::from_secs(3000);
        assert!(watch(&mut world, 20).iter().all(Option::is_none));
    }

    #[test]
    fn a_host_that_never_answers_is_said_to_make_no_progress_after_five_minutes() {
        let mut world = World::new();
        world.mute = true;
        let said = watch(&mut world, 400);
        let first = said.iter().flatten().next().copied().unwrap();
        assert!(
            first >= STILL && first < STILL + Duration::from_secs(40),
            "{first:?}"
        );
        assert!(
            said.last().unwrap().is_none() || world.created > 1,
            "a new pod is progress"
        );
    }

    #[test]
    fn an_end_that_the_provider_does_not_let_happen_is_said_to_make_no_progress() {
        let mut world = World::new();
        world.settle();
        world.deaf = u32::MAX;
        world.session.deleting = true;
        let said = watch(&mut world, 200);
        assert!(
            said.iter().flatten().any(|still| *still >= STILL),
            "{}",
            world.story()
        );
    }

    #[test]
    fn waiting_for_what_is_not_to_be_had_is_no_progress_however_often_it_is_tried() {
        let mut world = World::new();
        world.outage = u32::MAX;
        let said = watch(&mut world, 200);
        assert!(said.iter().flatten().any(|still| *still >= STILL));
    }
}
