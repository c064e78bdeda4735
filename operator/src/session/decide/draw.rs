//! A bad draw: a machine that does not get a pod up in the time that most need. It is replaced while the run may rent another one;
//! the last pod that a run may have is allowed its whole start.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use jiff::Timestamp;

use super::super::ledger::PodRecord;
use super::super::observe::{BootSaid, SeenPod, Trouble};
use super::{Or, View, limits};
use crate::provider::PodStatus;

/// A pull of 16 GB takes under three minutes at RunPod, so a pod that is not up in six has drawn a machine that is not worth waiting
/// for (`runpod.md`).
const PATIENCE: Duration = Duration::from_secs(360);
/// A host that has only just shown itself is given this long to be reached: its port may be mapped a little later.
const REACH: Duration = Duration::from_secs(60);

/// When a pod that has not been reached counts as a bad draw; `None`: it never does.
pub(super) fn due(view: &View<'_>, record: &PodRecord) -> Option<Timestamp> {
    let up = record.reached.is_some() || record.served.is_some();
    if up || !another(view, record) {
        return None;
    }
    let due = rented(view, record) + patience(view);
    Some(match &record.pin {
        Some(pin) => due.max(pin.at + REACH),
        None => due,
    })
}

/// Whether this is one by now, and what shows it. Only what was seen after its time counts: a provider that cannot be read says
/// nothing about its machines.
pub(super) fn bad(view: &View<'_>, record: &PodRecord) -> Or<Option<String>> {
    let Some(due) = due(view, record).filter(|due| *due < view.now()) else {
        return Continue(None);
    };
    match view.list_after(due) {
        Err(decision) if decision.look.is_some() => return Break(decision),
        Err(_) => return Continue(None),
        Ok(_) => {}
    }
    let shown = view
        .seen
        .listed(&record.id)
        .and_then(|pod| shows(view, record, (pod, due)));
    Continue(shown.map(|shown| {
        let minutes = patience(view).as_secs() / 60;
        format!("It was not up {minutes} minutes after it was rented: {shown}.")
    }))
}

/// RUNNING proves nothing: what counts is a line in its log, an address, and an answer from there.
fn shows(
    view: &View<'_>,
    record: &PodRecord,
    (pod, due): (&SeenPod, Timestamp),
) -> Option<&'static str> {
    if record.pin.is_some() {
        let host = view.host_of(record).filter(|host| host.at > due)?;
        return match &host.found {
            Err(Trouble::Unreachable(_)) if pod.address.is_none() => Some("it has no address"),
            Err(Trouble::Unreachable(_)) => Some("its sshd does not answer"),
            Err(Trouble::WrongKey) | Ok(_) => None,
        };
    }
    let boot = view.seen.boot.as_ref().filter(|boot| boot.pod == record.id);
    if matches!(boot.map(|boot| &boot.said), Some(BootSaid::Host(..))) {
        return None;
    }
    match pod.status {
        PodStatus::Provisioning => Some("RunPod still looks for a machine"),
        PodStatus::Starting => Some("RunPod still starts it"),
        PodStatus::Running | PodStatus::Other if pod.address.is_none() => Some("it has no address"),
        PodStatus::Running | PodStatus::Other => boot
            .filter(|boot| boot.at > due && boot.said == BootSaid::Silent)
            .map(|_| "its log does not show that it has booted"),
        // Sentenced already, for what they are.
        PodStatus::Exited | PodStatus::Error | PodStatus::Terminated => None,
    }
}

/// Whether the run may have another pod, has the time to start it, and the money.
fn another(view: &View<'_>, record: &PodRecord) -> bool {
    let (session, ledger) = (&view.seen.session, view.ledger);
    let estimate = ledger
        .attempt(record.attempt)
        .map(|attempt| attempt.estimate)
        .unwrap_or_default();
    let starts = session.limits.startup.unwrap_or(estimate) + limits::END;
    let started = ledger.run.started.unwrap_or(record.created);
    let in_time = view.now() + starts <= started + session.limits.lifetime;
    let affordable = session.limits.total.is_none_or(|total| {
        // This pod's own end is paid for first.
        let left = total
            .less(ledger.spent(view.now()))
            .less(record.hourly.for_hours_of(limits::END));
        left >= limits::start_and_end(session, record.hourly, estimate)
    });
    ledger.used() < session.limits.attempts as usize && in_time && affordable
}

/// By our own clock: the provider's may be wrong, and nothing shall be condemned for that.
fn rented(view: &View<'_>, record: &PodRecord) -> Timestamp {
    view.ledger
        .attempt(record.attempt)
        .map_or(record.created, |attempt| attempt.intent)
}

fn patience(view: &View<'_>) -> Duration {
    let plan = view.ledger.plan.as_ref();
    let estimate = plan.map_or(Duration::ZERO, |plan| {
        Duration::from_secs(plan.boot_seconds)
    });
    PATIENCE.max(estimate)
}
