//! The end of pods, whatever the reason: close, clear, terminate, prove, in this order and for ever; and the end of a session.

use std::convert::Infallible;
use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use super::super::ledger::{
    Attempt, Change, LINGER, Outcome, PROOF_INTERVAL, PodRecord, Why, Wipe, WipeResult, span,
};
use super::super::observe::{Found, List, RouteSeen, Trouble};
use super::bills::{self, Later};
use super::books::dead;
use super::{Action, Decision, Ending, Look, Or, RETRY, Verdict, View};
use crate::provider::PodStatus;

/// A pod that is still there so long after its DELETE was answered gets another one.
const DELETE_AGAIN: Duration = Duration::from_secs(15);
/// Between two tries to clear a host that does not answer.
const CLEAR_AGAIN: Duration = Duration::from_secs(2);
/// While only a person can help, looked at again in case that nothing tells us of it.
const CALM: Duration = Duration::from_secs(60);

/// Works on whatever is open beside the current pod. `None`: nothing is. Otherwise the earliest wait of all of them.
pub(super) fn pods(view: &View<'_>) -> Or<Option<Decision>> {
    let mut pending: Option<Decision> = None;
    let open = view
        .ledger
        .pods
        .iter()
        .filter(|pod| pod.gone.is_none() && pod.doom.is_some());
    let ending = open.map(|pod| end(view, pod).unwrap_or_else(|decision| decision));
    let resolving = view
        .ledger
        .open_attempt()
        .map(|attempt| resolve(view, attempt).unwrap_or_else(|decision| decision));
    for decision in ending.chain(resolving) {
        if !decision.idle() {
            return Break(decision);
        }
        pending = Some(match pending {
            None => decision,
            Some(earlier) => earlier.by(decision.again),
        });
    }
    Continue(pending)
}

/// Nothing is wanted: when nothing is open either, the door is closed, and a session that is being deleted may go.
pub(super) fn rest(view: &View<'_>, pending: Option<Decision>) -> Or<Infallible> {
    Break(match (pending, close(view)) {
        (_, Some(action)) => Decision::act(action, Verdict::Ending(Ending::Clearing)),
        (Some(pending), None) => pending,
        (None, None) if view.seen.session.deleting => {
            finish(view).unwrap_or_else(|waiting| waiting)
        }
        (None, None) => quiet(view),
    })
}

/// One step of the end of one pod.
fn end(view: &View<'_>, record: &PodRecord) -> Result<Decision, Decision> {
    if view.seen.session.abandon.as_deref() == Some(record.id.as_str()) {
        let change = Change::Abandoned {
            pod: record.id.clone(),
            at: view.now(),
        };
        return Ok(Decision::act(
            Action::Note(change),
            Verdict::Ending(Ending::Verifying),
        ));
    }
    // S10: nothing may reach the host any more before it is cleared.
    if let Some(action) = close(view) {
        return Ok(Decision::act(action, Verdict::Ending(Ending::Clearing)));
    }
    if record.wipe.is_none() {
        return clear(view, record);
    }
    match record.deleted {
        None => Ok(Decision::act(
            Action::Terminate {
                pod: record.id.clone(),
            },
            Verdict::Ending(Ending::Terminating),
        )),
        Some(_) => prove(view, record),
    }
}

/// The way in is closed unless it leads to the pod in use; with the session it goes altogether.
fn close(view: &View<'_>) -> Option<Action> {
    match &view.seen.door.route {
        RouteSeen::Missing => None,
        RouteSeen::Is { .. } if view.seen.session.deleting => Some(Action::DropRoute),
        RouteSeen::Is { token: _, host } => {
            let (key, _) = host.as_ref()?;
            let current = view.current().and_then(|pod| pod.pin.as_ref());
            current
                .is_none_or(|pin| pin.key != *key)
                .then_some(Action::CloseDoor)
        }
    }
}

/// S8: a host that holds data and can be trusted is cleared first, for the time the session allows; nothing else delays its end.
fn clear(view: &View<'_>, record: &PodRecord) -> Result<Decision, Decision> {
    let (why, since) = match &record.doom {
        Some(doom) => (doom.why, doom.at),
        None => (Why::Stray, view.now()),
    };
    let until = since + view.seen.session.wipe_timeout;
    let verdict = Verdict::Ending(Ending::Clearing);
    let note = |result| {
        let wipe = Wipe {
            at: view.now(),
            result,
            detail: String::new(),
        };
        Ok(Decision::act(
            Action::Note(Change::Wiped {
                pod: record.id.clone(),
                wipe,
            }),
            verdict.clone(),
        ))
    };
    let trouble = view
        .seen
        .host
        .as_ref()
        .filter(|host| host.pod == record.id)
        .and_then(|host| host.found.as_ref().err());
    match why {
        _ if record.pin.is_none() => return note(WipeResult::NothingToWipe),
        Why::Duplicate | Why::Stray | Why::BadDraw => return note(WipeResult::NothingToWipe),
        Why::HostRestarted | Why::KeyMismatch => return note(WipeResult::HostUntrusted),
        Why::Failed | Why::Lost | Why::OutOfContact => return note(WipeResult::HostUnreachable),
        Why::Deleted
        | Why::Paused
        | Why::Limit(_)
        | Why::PriceDrift
        | Why::BootFailed
        | Why::StartupTimeout
        | Why::EngineFailed
        | Why::OutOfMemory => {}
    }
    match trouble {
        Some(Trouble::WrongKey) => return note(WipeResult::HostUntrusted),
        Some(Trouble::Unreachable(_)) if view.now() >= until => {
            return note(WipeResult::HostUnreachable);
        }
        Some(Trouble::Unreachable(_)) | None if view.now() >= until => {
            return note(WipeResult::WipeTimedOut);
        }
        Some(Trouble::Unreachable(_)) | None => {}
    }
    match view.seen.listed(&record.id) {
        Some(seen) if dead(seen.status) => return note(WipeResult::HostUnreachable),
        Some(seen) if seen.address.is_some() => {}
        // A list that began before it was known to end may be older than its address.
        Some(_) | None => match view.list_after(since) {
            Ok(_) => return note(WipeResult::HostUnreachable),
            Err(decision) if decision.look.is_some() => return Err(decision),
            Err(decision) => return Err(decision.by(Some(until))),
        },
    }
    let failed = view
        .seen
        .host
        .as_ref()
        .filter(|host| host.pod == record.id && host.found.is_err() && host.at >= since);
    match failed
        .map(|host| host.at + CLEAR_AGAIN)
        .filter(|next| *next > view.now())
    {
        Some(next) => Err(Decision::wait(next.min(until), verdict)),
        None => Ok(Decision::act(
            Action::Clear {
                pod: record.id.clone(),
                until,
            },
            verdict,
        )),
    }
}

/// S7: gone is what two observations at least ten seconds apart did not find, each a single look and a complete list.
fn prove(view: &View<'_>, record: &PodRecord) -> Result<Decision, Decision> {
    let verdict = Verdict::Ending(Ending::Verifying);
    let deleted = record.deleted.unwrap_or(view.now());
    let deleted_last = record.deleted_last.unwrap_or(deleted);
    if !view
        .seen
        .house
        .account
        .as_ref()
        .is_ok_and(|account| view.may_speak(account, &record.accounts))
    {
        return Err(Decision::wait(
            view.now() + CALM,
            Verdict::Ending(Ending::AccountUnknown),
        ));
    }
    // Between its two proofs there is time to ask for its bill.
    if let Some(look) = bills::first(view, record).filter(|_| !record.proofs.is_empty()) {
        return Ok(Decision::look(look, verdict));
    }
    let base = record.proofs.last().map_or(deleted_last, |last| {
        deleted_last.max(*last + PROOF_INTERVAL)
    });
    let mut list = view.list_after(base)?;
    // The last list may be an older key's, which knows nothing of this pod.
    if !view.may_speak(&list.account, &record.accounts) {
        list = view.list_after(list.began)?;
    }
    let again = || {
        Decision::act(
            Action::Terminate {
                pod: record.id.clone(),
            },
            Verdict::Ending(Ending::Terminating),
        )
    };
    match view
        .seen
        .listed(&record.id)
        .map(|seen| (seen.status, list.began >= deleted + LINGER))
    {
        None | Some((PodStatus::Terminated, true)) => {}
        Some((PodStatus::Terminated, false)) => {
            // Soon at first, since most such records leave within seconds.
            let patience =
                (span(deleted, list.began) / 4).clamp(Duration::from_secs(1), PROOF_INTERVAL);
            list = view.list_after(list.began + patience)?;
        }
        Some(_) if view.now() >= deleted_last + DELETE_AGAIN => return Ok(again()),
        Some(_) => return Err(Decision::wait(deleted_last + DELETE_AGAIN, verdict)),
    }
    let glance = view
        .seen
        .glance
        .as_ref()
        .filter(|glance| glance.pod == record.id && glance.began > base);
    let look = Decision::look(
        Look::Glance {
            pod: record.id.clone(),
        },
        verdict.clone(),
    );
    match glance.map(|glance| (glance, &glance.found)) {
        None => Ok(look),
        Some((glance, _)) if !view.may_speak(&glance.account, &record.accounts) => Ok(look),
        Some((glance, Ok(Found::Nothing | Found::Ended))) => {
            let change = Change::Proved {
                pod: record.id.clone(),
                began: list.began.min(glance.began),
                at: view.now(),
            };
            Ok(Decision::act(Action::Note(change), verdict))
        }
        Some((_, Ok(Found::Alive))) if view.now() >= deleted_last + DELETE_AGAIN => Ok(again()),
        Some((glance, Ok(Found::Alive))) if view.now() >= glance.began + RETRY => Ok(look),
        Some((glance, Ok(Found::Alive))) => Err(Decision::wait(glance.began + RETRY, verdict)),
        Some((_, Err(unread))) if unread.again > view.now() => Err(Decision::wait(
            unread.again,
            Verdict::Ending(Ending::Unread(unread.why)),
        )),
        Some((_, Err(_))) => Ok(look),
    }
}

/// S2: an attempt of unknown outcome is closed by finding its pod (the books do), or by two complete lists without it, both begun
/// when no request of ours could still take effect.
fn resolve(view: &View<'_>, attempt: &Attempt) -> Result<Decision, Decision> {
    let verdict = Verdict::Resolving;
    let note = |change| Ok(Decision::act(Action::Note(change), Verdict::Resolving));
    if view.seen.session.abandon.as_deref() == Some(attempt.name.as_str()) {
        return note(Change::Waived {
            number: attempt.number,
        });
    }
    if view.now() <= attempt.quiet_from() {
        // Its pod may already be there: looked for all the while, so that it is adopted, or ended, early.
        let list = view
            .list_after(attempt.intent.max(view.now() - PROOF_INTERVAL))
            .map_err(|d| Decision {
                verdict: Verdict::Resolving,
                ..d
            })?;
        let next = (list.began + PROOF_INTERVAL)
            .min(attempt.quiet_from())
            .max(view.now());
        return Err(Decision::wait(next + Duration::from_millis(1), verdict));
    }
    let last = match &attempt.outcome {
        Outcome::Open { misses } => misses.last(),
        Outcome::Pod(_) => None,
    };
    let base = last.map_or(attempt.quiet_from(), |last| *last + PROOF_INTERVAL);
    let list: &List = view.list_after(base)?;
    let made_by = std::collections::BTreeSet::from([attempt.account.clone()]);
    if !view.may_speak(&list.account, &made_by) {
        // Another key may be in use by now; if not, only a person can help.
        let known = view
            .seen
            .house
            .account
            .as_ref()
            .is_ok_and(|account| view.may_speak(account, &made_by));
        view.list_after(if known { list.began } else { view.now() + CALM })
            .map_err(|d| {
                if known {
                    d
                } else {
                    Decision {
                        verdict: Verdict::Ending(Ending::AccountUnknown),
                        ..d
                    }
                }
            })?;
    }
    note(Change::Missed {
        number: attempt.number,
        began: list.began,
    })
}

/// S6: receipt, then one more look at the provider, then the finalizer.
fn finish(view: &View<'_>) -> Result<Decision, Decision> {
    let verdict = Verdict::Ending(Ending::Finishing);
    if view.ledger.tried() && view.ledger.receipted.is_none() {
        let mut unasked = view.ledger.pods.iter();
        if let Some(look) = unasked.find_map(|record| bills::first(view, record)) {
            return Ok(Decision::look(look, verdict));
        }
        return Ok(Decision::act(Action::Receipt, verdict));
    }
    // Pods of ours in it would have been found by the books, and be open now. Where nothing was ever tried, the want of a key
    // holds nobody up.
    if view.ledger.tried() || view.seen.house.account.is_ok() {
        view.list_now().map_err(|decision| Decision {
            verdict: verdict.clone(),
            ..decision
        })?;
    }
    if !view.seen.session.finalizer {
        return Err(Decision::rest(Verdict::Finished));
    }
    Ok(Decision::act(Action::Release, verdict))
}

/// Paused or ended, and nothing is left of the run but bills that are late.
fn quiet(view: &View<'_>) -> Decision {
    let resting = resting(view);
    if !resting.idle() {
        return resting;
    }
    match bills::later(view) {
        Some(Later::Now(look)) => Decision::look(look, resting.verdict),
        Some(Later::At(at)) => resting.by(Some(at)),
        None => resting,
    }
}

fn resting(view: &View<'_>) -> Decision {
    if let Some(decision) = view
        .seen
        .session
        .unconfirmed_until
        .and_then(|until| view.unconfirmed(until))
    {
        if !decision.idle() {
            return decision;
        }
        return view
            .preview()
            .unwrap_or(Decision::rest(Verdict::Paused))
            .by(decision.again);
    }
    match view.ledger.run.ended {
        Some(ended) if view.ledger.run.replicas == 1 => {
            Decision::rest(Verdict::Ended(ended.reason))
        }
        Some(_) | None => view.preview().unwrap_or(Decision::rest(Verdict::Paused)),
    }
}
