//! Why the pod in use must go: its session does, a limit was met, it failed, or it is not what was rented.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use srchat_crds::Dollars;

use super::super::ledger::{Change, Doom, FellBack, LeftOut, PodRecord, Why};
use super::super::observe::{BootSaid, EngineSeen, FailedAt, Trouble};
use super::books::{dead, note};
use super::{Or, View, draw};
use crate::plan::OfferKey;

/// How long an offer whose pod cost more than it said is left out.
const DRIFT_PAUSE: Duration = Duration::from_secs(3600);
/// How long an offer whose pod failed to start is left out: the same machine is often the next one given.
const FAILED_PAUSE: Duration = Duration::from_secs(600);
/// A served host that was silent for so long has cleared itself (`host.md`, watchdog): 15 minutes, and one for the clocks.
const OUT_OF_CONTACT: Duration = Duration::from_secs(16 * 60);

/// Passes sentence where there is reason to: the current pod must go when its session does, when it failed, or when it is not what was rented.
pub(super) fn pass(view: &View<'_>) -> Or {
    let Some(record) = view.ledger.current() else {
        return Continue(());
    };
    let doomed = |why, detail: String, pause: Option<Duration>| {
        let left_out = pause.and_then(|pause| left_out(view, record, pause));
        let doom = Doom {
            at: view.now(),
            why,
            detail,
        };
        Break(note(
            view,
            Change::Doomed {
                pod: record.id.clone(),
                doom,
                left_out,
            },
        ))
    };
    if view.seen.session.deleting {
        return doomed(Why::Deleted, String::new(), None);
    }
    if let Some(ended) = view.ledger.run.ended {
        return doomed(Why::Limit(ended.reason), String::new(), None);
    }
    if view.ledger.run.replicas == 0 || record.run != view.ledger.run.number {
        return doomed(Why::Paused, String::new(), None);
    }
    if let Some(seen) = view.seen.listed(&record.id) {
        if dead(seen.status) {
            return doomed(
                Why::Failed,
                format!("RunPod says {:?}", seen.status),
                Some(FAILED_PAUSE),
            );
        }
        if let Some(cost) = seen.cost.filter(|cost| drifted(view, record, *cost)) {
            return doomed(
                Why::PriceDrift,
                format!("it costs ${cost} an hour"),
                Some(DRIFT_PAUSE),
            );
        }
    }
    if let Some(change) = fallback(view, record) {
        return Break(note(view, change));
    }
    if let Some((why, detail)) = boot_trouble(view, record).or_else(|| host_trouble(view, record)) {
        return doomed(why, detail, Some(FAILED_PAUSE));
    }
    if record.served.is_none() && view.now() >= view.startup_deadline(record) {
        return doomed(Why::StartupTimeout, String::new(), Some(FAILED_PAUSE));
    }
    if let Some(detail) = draw::bad(view, record)? {
        return doomed(Why::BadDraw, detail, Some(FAILED_PAUSE));
    }
    Continue(())
}

/// S12: above the cap, or above its offer by more than rounding.
fn drifted(view: &View<'_>, record: &PodRecord, cost: Dollars) -> bool {
    let offered = view
        .ledger
        .attempt(record.attempt)
        .map_or(record.hourly, |attempt| attempt.hourly);
    cost > view.seen.session.limits.hourly || cost > offered.percent(102) + Dollars::cents(1)
}

fn boot_trouble(view: &View<'_>, record: &PodRecord) -> Option<(Why, String)> {
    let boot = view
        .seen
        .boot
        .as_ref()
        .filter(|boot| boot.pod == record.id)?;
    match (&boot.said, &record.pin) {
        (BootSaid::Failed(detail), None) => Some((Why::BootFailed, detail.clone())),
        (BootSaid::Host(id, _), Some(pin)) if *id != pin.boot => {
            Some((Why::HostRestarted, String::new()))
        }
        // After the pin a boot that fails is a container that was started again.
        (BootSaid::Failed(detail), Some(_)) => Some((Why::HostRestarted, detail.clone())),
        (BootSaid::Host(..) | BootSaid::Silent | BootSaid::Unread(_), _) => None,
    }
}

/// An engine that does not start gives way to the plan's other one, once in a run. That costs no attempt: the pod is sound.
fn fallback(view: &View<'_>, record: &PodRecord) -> Option<Change> {
    view.ledger.plan.as_ref()?.fallback?;
    if view.ledger.run.fallback.is_some() || record.served.is_some() {
        return None;
    }
    let (at, said) = engine_failure(view, record)?;
    match at {
        FailedAt::Starting | FailedAt::Memory => Some(Change::FellBack {
            fallback: FellBack {
                pod: record.id.clone(),
                at: view.now(),
                said: said.to_owned(),
            },
        }),
        // Another engine would want the same weights.
        FailedAt::Weights | FailedAt::Serving => None,
    }
}

/// That the engine in force failed on this pod, and what it said.
fn engine_failure<'a>(view: &View<'a>, record: &PodRecord) -> Option<(FailedAt, &'a str)> {
    let host = view.host_of(record)?;
    match &host.found.as_ref().ok()?.engine {
        EngineSeen::Failed { at, said } if !view.ledger.outdates(host) => Some((*at, said)),
        EngineSeen::Failed { .. }
        | EngineSeen::Absent
        | EngineSeen::Starting { .. }
        | EngineSeen::Healthy { .. } => None,
    }
}

fn host_trouble(view: &View<'_>, record: &PodRecord) -> Option<(Why, String)> {
    let host = view.host_of(record)?;
    match &host.found {
        Ok(_) => engine_failure(view, record).map(|(at, said)| {
            let why = match at {
                FailedAt::Memory => Why::OutOfMemory,
                FailedAt::Starting | FailedAt::Weights | FailedAt::Serving => Why::EngineFailed,
            };
            (why, said.to_owned())
        }),
        // Condemned only once its log, read after the mismatch, has no line that explains the key.
        Err(Trouble::WrongKey) => {
            let boot = view
                .seen
                .boot
                .as_ref()
                .filter(|boot| boot.pod == record.id && boot.at > host.at)?;
            match &boot.said {
                BootSaid::Unread(_) => None,
                BootSaid::Silent | BootSaid::Host(..) | BootSaid::Failed(_) => {
                    Some((Why::KeyMismatch, String::new()))
                }
            }
        }
        Err(Trouble::Unreachable(_))
            if record.served.is_some() && view.now() >= host.silent_since + OUT_OF_CONTACT =>
        {
            Some((Why::OutOfContact, String::new()))
        }
        Err(Trouble::Unreachable(_)) => None,
    }
}

fn left_out(view: &View<'_>, record: &PodRecord, pause: Duration) -> Option<LeftOut> {
    let offer: OfferKey = view.ledger.attempt(record.attempt)?.offer.clone()?;
    Some(LeftOut {
        offer,
        until: view.now() + pause,
    })
}
