//! What a session shows: a projection of what was seen and decided. It reads the last status only to keep what need not be written
//! again; nothing here decides.

pub mod conditions;
pub mod events;
pub mod publish;
#[cfg(test)]
mod reached;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use srchat_crds::conditions::Wiped;
use srchat_crds::status::{
    self, ChatSessionStatus, Cost, EndReason as ShownEnd, Endpoint, ExpiryReason, Instance,
    SecretName, Stage, Startup, Teardown,
};
use srchat_crds::{Dollars, LABEL_SESSION, PUBLISHED_SUFFIX, Size};

use super::decide::{Decision, Expiry, Verdict};
use super::ledger::{EndReason, Ledger, PodRecord, WipeResult, pod_name};
use super::observe::{EngineSeen, LedgerSeen, Observation, PlanAnswer, Published, Session};
use crate::host::Medium;

/// Progress within a stage is written when it has moved by so many points, or after this time.
const PROGRESS_POINTS: u8 = 5;
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// Spending is written at each so many percent of the most that the run may cost.
const SPENT_PERCENT: u32 = 10;

/// Why an action did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// For people.
    pub sentence: String,
    /// The provider does not accept the key: nobody but a person can help.
    pub unauthorized: bool,
}

/// What a status is made from.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// What was seen.
    pub seen: &'a Observation,
    /// What was decided.
    pub decision: &'a Decision,
    /// Since when nothing about the session has changed although it is not at rest, when that is too long.
    pub stuck: Option<Timestamp>,
    /// What went wrong in doing it.
    pub trouble: Option<&'a Setback>,
    /// The base URL of the endpoint.
    pub endpoint: &'a str,
    /// The status as it was written last.
    pub previous: &'a ChatSessionStatus,
    /// When that was.
    pub written: Option<Timestamp>,
}

/// The status, whole. Equal to the previous one when there is nothing to write.
pub fn status(facts: Facts<'_>) -> ChatSessionStatus {
    let Facts {
        seen,
        decision,
        stuck,
        trouble: _,
        endpoint,
        previous,
        written: _,
    } = facts;
    let session = &seen.session;
    let ledger = match &seen.ledger {
        LedgerSeen::Is(ledger) => Some(&**ledger),
        LedgerSeen::Missing | LedgerSeen::Unreadable => None,
    };
    let now = time(seen.now);
    let conditions = conditions::of(&facts, ledger);
    let mut shown = ChatSessionStatus {
        observed_generation: Some(session.generation),
        replicas: u32::from(ledger.is_some_and(|ledger| ledger.current().is_some())),
        selector: Some(format!("{LABEL_SESSION}={}", session.name)),
        plan: plan(seen, ledger),
        run: ledger.and_then(run),
        instance: ledger.and_then(|ledger| instance(seen, ledger, previous)),
        startup: startup(seen, decision),
        endpoint: matches!(seen.door.published, Published::Ours { .. }).then(|| Endpoint {
            url: endpoint.to_owned(),
            credentials_secret_ref: SecretName {
                name: format!("{}{PUBLISHED_SUFFIX}", session.name),
            },
        }),
        cost: previous.cost.clone(),
        expiry: ledger.and_then(|ledger| expiry(session, ledger, seen.now)),
        teardown: ledger.and_then(|ledger| teardown(session, ledger)),
        conditions: conditions.project(&previous.conditions, session.generation, &now),
    };
    conditions::say_stuck(&mut shown.conditions, stuck);
    hold_progress(&facts, &mut shown);
    let fresh = ledger
        .filter(|ledger| ledger.tried())
        .map(|ledger| cost(ledger, &now));
    let due = shown != *previous
        || fresh
            .as_ref()
            .is_some_and(|fresh| stepped(session, previous.cost.as_ref(), fresh));
    if due {
        shown.cost = fresh.map(|fresh| match &previous.cost {
            // The same sum is not a new one because its time is later.
            Some(before)
                if (before.hourly, before.accrued, before.source)
                    == (fresh.hourly, fresh.accrued, fresh.source) =>
            {
                before.clone()
            }
            Some(_) | None => fresh,
        });
    }
    shown
}

/// To the second, as the API server keeps it: a finer one is never what is read back, and would be written anew in every pass.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn plan(seen: &Observation, ledger: Option<&Ledger>) -> Option<status::Plan> {
    let in_force = ledger
        .filter(|ledger| !ledger.settled())
        .and_then(|ledger| ledger.plan.as_ref());
    let proposed = match seen.plan.as_ref().map(|plan| &plan.answer) {
        Some(PlanAnswer::Fits(proposal)) => proposal.plan.as_deref(),
        Some(PlanAnswer::No(_)) | None => None,
    };
    let last = ledger.and_then(|ledger| ledger.plan.as_ref());
    in_force.or(proposed).or(last).map(status::Plan::from)
}

fn run(ledger: &Ledger) -> Option<status::Run> {
    let run = &ledger.run;
    (run.number > 0).then(|| status::Run {
        number: run.number,
        attempts: u32::try_from(ledger.used()).unwrap_or(u32::MAX),
        started: run.started.map(time),
        ended: run.ended.map(|ended| status::Ended {
            time: time(ended.at),
            reason: shown_end(ended.reason),
        }),
    })
}

pub(super) fn shown_end(reason: EndReason) -> ShownEnd {
    match reason {
        EndReason::Lifetime => ShownEnd::LifetimeReached,
        EndReason::Idle => ShownEnd::IdleReached,
        EndReason::Cost => ShownEnd::CostReached,
        EndReason::Attempts => ShownEnd::AttemptsUsed,
        EndReason::NeedsConfirmation => ShownEnd::NeedsConfirmation,
    }
}

/// The pod in use, or the one that is being ended. What only a list tells stays as it was while there is none yet.
fn instance(seen: &Observation, ledger: &Ledger, previous: &ChatSessionStatus) -> Option<Instance> {
    let pod = ledger
        .current()
        .or_else(|| ledger.pods.iter().rev().find(|pod| pod.gone.is_none()))?;
    let listed = seen.listed(&pod.id);
    let provider_id = format!("runpod://{}", pod.id);
    let before = previous
        .instance
        .as_ref()
        .filter(|before| seen.pods.list.is_none() && before.provider_id == provider_id);
    Some(Instance {
        data_center: pod
            .data_center
            .clone()
            .or_else(|| listed.and_then(|listed| listed.data_center.clone()))
            .or_else(|| before.and_then(|before| before.data_center.clone())),
        address: seen
            .address(pod)
            .map(ToString::to_string)
            .or_else(|| before.and_then(|before| before.address.clone())),
        provider_id,
        host_key: pod.pin.as_ref().map(|pin| pin.key.fingerprint()),
        pod_name: pod_name(&ledger.installation, &ledger.session.uid, pod.attempt),
        hourly_cost: pod.hourly,
        created_time: time(pod.created),
        ready_time: pod.served.as_ref().map(|served| time(served.at)),
        medium: pod.served.as_ref().map(|served| match served.medium {
            Medium::Memory => status::Medium::Memory,
            Medium::Disk => status::Medium::Disk,
        }),
        upload_quota: pod.served.as_ref().map(|served| Size::within(served.quota)),
    })
}

fn startup(seen: &Observation, decision: &Decision) -> Option<Startup> {
    let (stage, percent, message) = match &decision.verdict {
        Verdict::Entering | Verdict::Blocked(_) => (Stage::Planning, None, String::new()),
        Verdict::Renting | Verdict::Resolving => (Stage::Renting, None, String::new()),
        Verdict::Booting => (Stage::Booting, None, String::new()),
        Verdict::Deploying => deployment(seen),
        Verdict::Serving => (Stage::Serving, Some(100), String::new()),
        Verdict::LedgerUnreadable
        | Verdict::Paused
        | Verdict::Ended(_)
        | Verdict::Ending(_)
        | Verdict::Finished => return None,
    };
    if seen.session.deleting || seen.session.replicas == 0 {
        return None;
    }
    let estimated_ready_time = match &seen.ledger {
        LedgerSeen::Is(ledger) => estimate(ledger),
        LedgerSeen::Missing | LedgerSeen::Unreadable => None,
    };
    Some(Startup {
        stage,
        percent,
        message,
        estimated_ready_time,
    })
}

fn deployment(seen: &Observation) -> (Stage, Option<u8>, String) {
    let engine = seen
        .host
        .as_ref()
        .and_then(|host| host.found.as_ref().ok())
        .map(|visit| &visit.engine);
    match engine {
        Some(EngineSeen::Starting {
            stage,
            percent,
            message,
        }) => (shown_stage(*stage), *percent, message.clone()),
        Some(EngineSeen::Healthy { .. }) => (Stage::Serving, Some(100), String::new()),
        Some(EngineSeen::Absent | EngineSeen::Failed { .. }) | None => {
            (Stage::Connecting, None, String::new())
        }
    }
}

pub(super) fn shown_stage(stage: crate::host::Stage) -> Stage {
    match stage {
        crate::host::Stage::Connecting => Stage::Connecting,
        crate::host::Stage::Installing => Stage::Installing,
        crate::host::Stage::Downloading => Stage::Downloading,
        crate::host::Stage::Loading => Stage::Loading,
        crate::host::Stage::Serving => Stage::Serving,
    }
}

fn estimate(ledger: &Ledger) -> Option<Time> {
    let pod = ledger.current().filter(|pod| pod.served.is_none())?;
    let attempt = ledger.attempt(pod.attempt)?;
    Some(time(pod.created + attempt.estimate))
}

/// The earlier of what the spec says and what the host knows: it moves only when the host has acknowledged it.
pub(crate) fn expiry(session: &Session, ledger: &Ledger, now: Timestamp) -> Option<status::Expiry> {
    let expiry = Expiry::now(session, ledger, now)?;
    let told = ledger
        .current()
        .map_or(expiry.time, |pod| pod.host_deadline);
    let reason = match expiry.reason {
        EndReason::Cost => ExpiryReason::Budget,
        EndReason::Lifetime
        | EndReason::Idle
        | EndReason::Attempts
        | EndReason::NeedsConfirmation => ExpiryReason::Lifetime,
    };
    Some(status::Expiry {
        time: time(expiry.time.min(told)),
        reason,
    })
}

/// The pod whose end is shown: the last one that must go, while it goes or when nothing else is wanted.
pub(super) fn ending<'a>(session: &Session, ledger: &'a Ledger) -> Option<&'a PodRecord> {
    let wanted = !session.deleting && ledger.run.replicas == 1 && ledger.run.ended.is_none();
    let doomed = |pod: &&PodRecord| pod.doom.is_some();
    let open = ledger
        .pods
        .iter()
        .rev()
        .filter(doomed)
        .find(|pod| pod.gone.is_none());
    open.or_else(|| ledger.pods.iter().rev().find(doomed).filter(|_| !wanted))
}

fn teardown(session: &Session, ledger: &Ledger) -> Option<Teardown> {
    let pod = ending(session, ledger)?;
    Some(Teardown {
        wipe: pod.wipe.as_ref().map(|wipe| shown_wipe(wipe.result)),
        wiped_time: pod.wipe.as_ref().map(|wipe| time(wipe.at)),
        terminated_time: pod.deleted.map(time),
        absence_proofs: u32::try_from(pod.proofs.len()).unwrap_or(u32::MAX),
    })
}

pub(super) fn shown_wipe(result: WipeResult) -> Wiped {
    match result {
        WipeResult::Cleared => Wiped::Cleared,
        WipeResult::NothingToWipe => Wiped::NothingToWipe,
        WipeResult::HostUnreachable => Wiped::HostUnreachable,
        WipeResult::HostUntrusted => Wiped::HostUntrusted,
        WipeResult::WipeTimedOut => Wiped::WipeTimedOut,
    }
}

fn cost(ledger: &Ledger, now: &Time) -> Cost {
    let (spent, source) = ledger.account(now.0);
    // Whole cents, rounded up: more digits would only pretend.
    let cents = spent.as_micros().div_ceil(10_000);
    let accrued = Dollars::cents(u32::try_from(cents).unwrap_or(u32::MAX));
    Cost {
        hourly: ledger.hourly(),
        accrued,
        source,
        as_of: now.clone(),
    }
}

/// Whether spending has passed another tenth of the most that it may come to.
fn stepped(session: &Session, before: Option<&Cost>, fresh: &Cost) -> bool {
    let limits = &session.limits;
    let most = limits
        .total
        .unwrap_or_else(|| limits.hourly.for_hours_of(limits.lifetime));
    let step = most.percent(SPENT_PERCENT).as_micros().max(1);
    before.is_none_or(|before| {
        before.source != fresh.source
            || before.accrued.as_micros() / step != fresh.accrued.as_micros() / step
    })
}

/// Keeps progress that has hardly moved.
fn hold_progress(facts: &Facts<'_>, shown: &mut ChatSessionStatus) {
    let (Some(new), Some(old)) = (&shown.startup, &facts.previous.startup) else {
        return;
    };
    let long_ago = facts
        .written
        .is_none_or(|written| facts.seen.now >= written + PROGRESS_EVERY);
    let moved = match (new.percent, old.percent) {
        (Some(new), Some(old)) => new.abs_diff(old) >= PROGRESS_POINTS,
        (new, old) => new != old,
    };
    if new.stage == old.stage && !moved && !long_ago {
        shown.startup.clone_from(&facts.previous.startup);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::decide::{decide, world::World};
    use super::*;

    #[test]
    fn a_status_that_is_read_back_is_not_written_again() {
        let mut world = World::new();
        world.settle();
        // No clock stops at a whole second, and neither did anything that it is asked about.
        world.now += Duration::from_millis(123);
        for pod in &mut world.ledger.as_mut().unwrap().pods {
            pod.created += Duration::from_micros(456_789);
        }
        let seen = world.observation();
        let decision = decide(&seen);
        let of = |previous: &ChatSessionStatus| {
            status(Facts {
                seen: &seen,
                decision: &decision,
                trouble: None,
                endpoint: "https://gateway/team-a/vision/v1",
                previous,
                written: Some(seen.now),
                stuck: None,
            })
        };
        let written = of(&ChatSessionStatus::default());
        let json = serde_json::to_value(&written).unwrap();
        let read: ChatSessionStatus = serde_json::from_value(json).unwrap();
        assert!(read.instance.is_some() && read.cost.is_some());
        assert_eq!(of(&read), read);

        // Nor by a controller that has just been started, and has seen no list yet.
        let mut seen = seen.clone();
        seen.pods = Default::default();
        let decision = decide(&seen);
        let again = status(Facts {
            seen: &seen,
            decision: &decision,
            trouble: None,
            endpoint: "https://gateway/team-a/vision/v1",
            previous: &read,
            written: None,
            stuck: None,
        });
        assert_eq!(again, read);
    }
}
