//! What was seen goes into the ledger before anything is done about it: replicas, gaps, pods found, pods lost.

use std::collections::BTreeSet;
use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use crate::provider::PodStatus;

use super::super::ledger::{Attempt, Change, Doom, PROOF_INTERVAL, PodRecord, QUIET, Why};
use super::super::observe::{Found, Gap, List, SeenPod};
use super::{Action, Decision, Look, Or, RETRY, Verdict, View, bills, sentence};

/// Notes the first thing that the ledger does not know yet.
pub(super) fn keep(view: &View<'_>) -> Or {
    replicas(view)?;
    gap(view)?;
    if let Some(list) = &view.seen.pods.list {
        account(view, list)?;
        found(view, list)?;
        alive(view, list)?;
    }
    sentence::pass(view)?;
    lost(view)?;
    bills::keep(view)
}

pub(super) fn note(view: &View<'_>, change: Change) -> Decision {
    let verdict = if view.wanted() {
        Verdict::Booting
    } else {
        Verdict::Entering
    };
    Decision::act(Action::Note(change), verdict)
}

/// A run starts when `replicas` is seen at 1 after not having been; what it rented must go when it is seen at 0.
fn replicas(view: &View<'_>) -> Or {
    let session = &view.seen.session;
    if !session.deleting && session.replicas != view.ledger.run.replicas {
        return Break(note(
            view,
            Change::Replicas {
                replicas: session.replicas,
                at: view.now(),
            },
        ));
    }
    Continue(())
}

/// S14: after a gap in the Lease, an open run without a live pod is not trusted to know that it never had one.
fn gap(view: &View<'_>) -> Or {
    let Some(Gap { from, until }) = view.seen.house.gap else {
        return Continue(());
    };
    if view.ledger.gap.is_some_and(|checked| checked >= until) || view.seen.session.deleting {
        return Continue(());
    }
    let old = view.seen.session.created < from && view.ledger.made < until;
    let open = view.wanted() && view.ledger.run.since < until;
    let latch = if old && open && view.ledger.current().is_none() {
        // Its pod may be one that the restored ledger forgot: that is found and ended, never adopted by a run that ended.
        true
    } else if old && open {
        match view.list_after(until) {
            Err(decision) if decision.look.is_some() => return Break(decision),
            // What is served goes on being visited meanwhile; nothing can be rented before this is settled.
            Err(_) => return Continue(()),
            Ok(list) => !list.pods.iter().any(|pod| alive_there(pod.status)),
        }
    } else {
        false
    };
    Break(note(
        view,
        Change::Gap {
            until,
            latch,
            at: view.now(),
        },
    ))
}

/// A key that sees a pod may speak of that pod's absence later on.
fn account(view: &View<'_>, list: &List) -> Or {
    let unseen = |pod: &&PodRecord| {
        !pod.accounts.contains(&list.account) && view.seen.listed(&pod.id).is_some()
    };
    if let Some(pod) = view.ledger.pods.iter().find(unseen) {
        return Break(note(
            view,
            Change::Account {
                pod: pod.id.clone(),
                account: list.account.clone(),
            },
        ));
    }
    Continue(())
}

/// Pods of ours that the ledger does not hold: of an open attempt the oldest is adopted, every other one must go.
fn found(view: &View<'_>, list: &List) -> Or {
    let unknown = list
        .pods
        .iter()
        .find(|pod| view.ledger.pod(&pod.id).is_none());
    let Some(pod) = unknown else {
        return Continue(());
    };
    let attempt = pod.attempt.and_then(|number| view.ledger.attempt(number));
    let change = match attempt {
        Some(attempt) if attempt.open() && attempt.offer.is_some() => Change::Rented {
            pod: Box::new(adopted(attempt, pod, list)),
        },
        Some(_) => Change::Found {
            pod: Box::new(stray(view, pod, list, Why::Duplicate)),
        },
        None => Change::Found {
            pod: Box::new(stray(view, pod, list, Why::Stray)),
        },
    };
    Break(note(view, change))
}

fn adopted(attempt: &Attempt, pod: &SeenPod, list: &List) -> PodRecord {
    PodRecord {
        created: pod.created.unwrap_or(attempt.intent),
        hourly: pod
            .cost
            .filter(|cost| *cost > Dollars::ZERO)
            .unwrap_or(attempt.hourly),
        data_center: pod.data_center.clone(),
        accounts: BTreeSet::from([attempt.account.clone(), list.account.clone()]),
        // Ended before anybody knew of it: nothing to wait for.
        doom: dead(pod.status).then(|| Doom {
            at: list.began,
            why: Why::Failed,
            detail: String::new(),
        }),
        ..PodRecord::of(attempt, pod.id.clone())
    }
}

fn stray(view: &View<'_>, pod: &SeenPod, list: &List, why: Why) -> PodRecord {
    let created = pod.created.unwrap_or(list.began);
    PodRecord {
        attempt: pod.attempt.unwrap_or_default(),
        run: view.ledger.run.number,
        hourly: pod.cost.unwrap_or_default(),
        data_center: pod.data_center.clone(),
        host_deadline: view.now(),
        doom: Some(Doom {
            at: view.now(),
            why,
            detail: String::new(),
        }),
        ..PodRecord::new(pod.id.clone(), created, list.account.clone())
    }
}

/// A pod that was believed absent and is there after all: every proof is void, and it is ended again.
fn alive(view: &View<'_>, list: &List) -> Or {
    for record in &view.ledger.pods {
        let believed = record
            .gone
            .map(|gone| gone.at)
            .or(record.proofs.last().copied());
        let seen = view.seen.listed(&record.id);
        let Some(seen) = seen.filter(|seen| alive_there(seen.status)) else {
            continue;
        };
        if believed.is_some_and(|believed| list.began > believed) && !view.abandoned(record, seen) {
            return Break(note(
                view,
                Change::Alive {
                    pod: record.id.clone(),
                },
            ));
        }
        if record.missing.is_some_and(|missing| list.began > missing) {
            return Break(note(
                view,
                Change::Missing {
                    pod: record.id.clone(),
                    since: None,
                },
            ));
        }
    }
    Continue(())
}

/// S7: lost only after two complete lists that should have it, and a 404 or an ended record for itself.
fn lost(view: &View<'_>) -> Or {
    let Some(record) = view.current() else {
        return Continue(());
    };
    let Some(due) = view.absence_due(record) else {
        return Continue(());
    };
    let list = match view.list_after(due) {
        Ok(list) => list,
        Err(decision) if decision.look.is_some() => return Break(decision),
        Err(_) => return Continue(()),
    };
    let Some(missing) = record.missing else {
        return Break(note(
            view,
            Change::Missing {
                pod: record.id.clone(),
                since: Some(list.began),
            },
        ));
    };
    let glance = view
        .seen
        .glance
        .as_ref()
        .filter(|glance| glance.pod == record.id && glance.began > missing + PROOF_INTERVAL);
    match glance.map(|glance| (&glance.found, glance)) {
        None => Break(Decision::look(
            Look::Glance {
                pod: record.id.clone(),
            },
            Verdict::Booting,
        )),
        Some((Ok(Found::Nothing | Found::Ended), glance))
            if view.may_speak(&glance.account, &record.accounts) =>
        {
            let doom = Doom {
                at: view.now(),
                why: Why::Lost,
                detail: String::new(),
            };
            let change = Change::Doomed {
                pod: record.id.clone(),
                doom,
                left_out: None,
            };
            Break(note(view, change))
        }
        // The list is wrong, or nothing was learned: begin again with the next one.
        Some((Ok(Found::Alive | Found::Nothing | Found::Ended) | Err(_), glance))
            if view.now() >= glance.began + RETRY =>
        {
            Break(note(
                view,
                Change::Missing {
                    pod: record.id.clone(),
                    since: Some(list.began),
                },
            ))
        }
        Some((Ok(_) | Err(_), _)) => Continue(()),
    }
}

/// What a provider says of a pod that will never run again.
pub(super) fn dead(status: PodStatus) -> bool {
    match status {
        PodStatus::Exited | PodStatus::Error | PodStatus::Terminated => true,
        // RUNNING proves nothing: only a served model ends start-up.
        PodStatus::Provisioning | PodStatus::Starting | PodStatus::Running | PodStatus::Other => {
            false
        }
    }
}

/// What a provider says of a pod that may still bill. Only TERMINATED does not.
fn alive_there(status: PodStatus) -> bool {
    match status {
        PodStatus::Terminated => false,
        PodStatus::Provisioning
        | PodStatus::Starting
        | PodStatus::Running
        | PodStatus::Exited
        | PodStatus::Error
        | PodStatus::Other => true,
    }
}

impl View<'_> {
    /// Until when a pod must have served.
    pub(super) fn startup_deadline(&self, record: &PodRecord) -> Timestamp {
        let estimate = self
            .ledger
            .attempt(record.attempt)
            .map(|attempt| attempt.estimate)
            .unwrap_or_default();
        record.created
            + self
                .seen
                .session
                .limits
                .startup
                .unwrap_or(estimate.saturating_mul(3).max(super::limits::STARTUP))
    }

    /// After which a list has to begin that says something about a pod which the last one lacks; `None`: it lacks nothing, or may not
    /// say so.
    fn absence_due(&self, record: &PodRecord) -> Option<Timestamp> {
        let list = self.seen.pods.list.as_ref()?;
        if self.seen.listed(&record.id).is_some()
            || !self.may_speak(&list.account, &record.accounts)
        {
            return None;
        }
        let told = record.created + QUIET;
        Some(
            record
                .missing
                .map_or(told, |missing| told.max(missing + PROOF_INTERVAL)),
        )
    }

    /// When to go on about a pod that the last list lacks: no other list wakes its session, since nothing in them changes any more.
    pub(super) fn absence_again(&self, record: &PodRecord) -> Option<Timestamp> {
        let due = self.absence_due(record)?;
        if self.now() <= due {
            return Some(due + Duration::from_millis(1));
        }
        let glanced = self.seen.glance.as_ref();
        let glanced = glanced.filter(|glance| glance.pod == record.id && glance.began > due);
        let failed = self.seen.pods.failed.as_ref();
        glanced
            .map(|glance| glance.began + RETRY)
            .or(failed.map(|unread| unread.again))
            .filter(|again| *again > self.now())
    }

    fn abandoned(&self, record: &PodRecord, seen: &SeenPod) -> bool {
        self.seen.session.abandon.as_deref() == Some(seen.id.as_str()) && record.gone.is_some()
    }
}
