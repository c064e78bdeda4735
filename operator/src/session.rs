//! The ChatSession controller: observe, decide, act, report, one action a pass. This file is the table of contents, and the loop.

mod act;
pub mod context;
pub mod decide;
mod given;
pub mod ledger;
pub mod observe;
mod outage;
pub mod progress;
pub mod report;
mod run;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action as Next;
use kube::{Api, ResourceExt as _};
use srchat_crds::ChatSession;
use srchat_crds::conditions::{Type, find};
use srchat_crds::status::ChatSessionStatus;

use crate::backoff;
use crate::metrics::Standing;
use act::{Failure, Pass, act};
use context::{Context, Memory};
use decide::{Decision, decide};
use ledger::Ledger;
use ledger::store::Stored;
use observe::{LedgerSeen, Observation, read};
use progress::Progress;

pub(crate) use given::Given;
pub use run::{Stopped, run};

/// Looks in one pass: each kind of look once, and each once more after another has changed the picture.
const LOOKS: u32 = 12;
/// Passes in one go, before other sessions get their turn: a whole start or end without a wait is shorter.
const PASSES: u32 = 40;
/// How old the session itself may be within one go. Acts that cannot be undone read it again in any case (S13).
const SESSION_FRESH: Duration = Duration::from_millis(500);
/// Before what a pass still wants to know is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// After failures in a row.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Why a pass came to nothing: only what could not be learned. What the world says is never an error.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} the session")]
pub(crate) struct Unlearned {
    what: &'static str,
    source: kube::Error,
}

/// Everything that is to be done about one session now, and when to look again.
pub(crate) async fn reconcile(given: Given, context: Arc<Context>) -> Result<Next, Unlearned> {
    let session = &given.session;
    let uid = session.uid().unwrap_or_default();
    context.place(
        &uid,
        session.namespace().unwrap_or_default(),
        session.name_any(),
    );
    let mut memory = context.recall(&uid);
    if let (Some(why), None) = (&given.unreadable, &memory.said) {
        tracing::warn!(session = %session.name_any(), uid, why, "the spec of a session cannot be read");
    }
    let outcome = passes(given, &context, &mut memory).await;
    let gone = matches!(outcome, Ok(None));
    let next = match outcome {
        Ok(next) => Ok(next.unwrap_or_else(Next::await_change)),
        Err(error) => {
            memory.failures = memory.failures.saturating_add(1);
            tracing::warn!(uid, error = %error.source, "{error}");
            Ok(Next::requeue(backoff::wait(
                memory.failures,
                LONGEST_BACKOFF,
            )))
        }
    };
    // Ledger, route and Secret are read anew in the next go; until then they would only lie in memory, thousands of times.
    (memory.stored, memory.door) = (None, None);
    if gone {
        context.forget(&uid);
    } else {
        let failing = memory.failures > 0;
        context.remember(&uid, memory);
        if failing {
            context.failed.notify_one();
        }
    }
    next
}

/// Passes until there is something to wait for. `None`: the session is gone.
async fn passes(
    mut given: Given,
    context: &Context,
    memory: &mut Memory,
) -> Result<Option<Next>, Unlearned> {
    if given.unreadable.is_some() {
        // Its status could not be read either; this is what it was told last.
        given.session.status.clone_from(&memory.shown);
    }
    let mut read_at = Instant::now();
    for _ in 0..PASSES {
        let observed = read::observe(context, &given, memory).await;
        let session = &mut given.session;
        let (mut seen, stored) = observed.map_err(|source| Unlearned {
            what: "read",
            source,
        })?;
        let decision = settle(context, session, memory, &mut seen).await;
        let still = progress::look(&mut memory.progress, &seen, &decision);
        let decision = decision.noticing(still, seen.now);
        if worth_telling(&decision, memory) {
            tell(context, session, memory, (&seen, &decision, None)).await?;
        }
        let outcome = perform(context, session, memory, (&seen, stored, &decision)).await;
        if decision.action == Some(decide::Action::Release) && outcome.is_ok() {
            return Ok(None);
        }
        let overtaken = match &outcome {
            Ok(()) => false,
            Err(failure) if failure.overtaken() => {
                memory.door = None;
                true
            }
            Err(failure) => {
                let trouble = describe(failure);
                memory.failures = memory.failures.saturating_add(1);
                tracing::warn!(session = %session.name_any(), trouble = trouble.sentence, "an action failed");
                tell(context, session, memory, (&seen, &decision, Some(&trouble))).await?;
                return Ok(Some(Next::requeue(backoff::wait(
                    memory.failures,
                    LONGEST_BACKOFF,
                ))));
            }
        };
        memory.failures = 0;
        if decision.idle() {
            return Ok(Some(again(&decision)));
        }
        let touched = matches!(
            decision.action,
            Some(decide::Action::Guard | decide::Action::Discard)
        );
        if !touched && !overtaken && read_at.elapsed() < SESSION_FRESH {
            continue;
        }
        // As the API server has it now: a deletion in the meantime is the next thing to know.
        let found = live(context, session).await.map_err(|source| Unlearned {
            what: "read",
            source,
        })?;
        read_at = Instant::now();
        match found {
            Some(mut found) => {
                found.session.status = given.session.status.take();
                given = found;
            }
            // What was being ended when its object went is ended all the same.
            None if given.session.metadata.deletion_timestamp.is_some() => {}
            None => return Ok(None),
        }
    }
    Ok(Some(Next::requeue(Duration::ZERO)))
}

/// Whether a decision is to be shown: when it waits, and when it begins something else than the last one that was. Facts that are
/// only noted down show in what comes of them.
fn worth_telling(decision: &Decision, memory: &Memory) -> bool {
    match &decision.action {
        None => true,
        Some(decide::Action::Note(_)) => false,
        Some(_) => memory.said.as_ref() != Some(&decision.verdict),
    }
}

/// Decides, and makes the looks that decisions ask for, until one needs no more of them.
async fn settle(
    context: &Context,
    session: &ChatSession,
    memory: &mut Memory,
    seen: &mut Observation,
) -> Decision {
    let mut decision = decide(seen);
    for _ in 0..LOOKS {
        let Some(look) = decision.look.take() else {
            return decision;
        };
        tracing::debug!(session = %session.name_any(), ?look, "look");
        read::look(context, session, memory, seen, look).await;
        decision = decide(seen);
    }
    // Whatever it still wants to know, it may ask for in the next pass.
    decision.again = Some(seen.now + AGAIN);
    decision.look = None;
    decision
}

/// Does what was decided, and tells of it.
async fn perform(
    context: &Context,
    session: &ChatSession,
    memory: &mut Memory,
    (seen, stored, decision): (&Observation, Stored, &Decision),
) -> Result<(), Failure> {
    let Some(action) = decision.action.clone() else {
        return Ok(());
    };
    let name = action.name();
    tracing::debug!(session = %session.name_any(), action = name, "act");
    context
        .metrics
        .passes
        .get_or_create(&crate::metrics::OutcomeLabels { outcome: name })
        .inc();
    if action.moves_door() {
        memory.door = None;
    }
    let before = ledger_of(&seen.ledger);
    let mut events = report::events::of_action(&action, before);
    let pass = Pass {
        context,
        session,
        seen,
        stored: &stored,
        written: Mutex::default(),
    };
    let outcome = act(&pass, memory, action).await;
    let written = pass
        .written
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if outcome.is_ok() {
        if let Some((before, after)) =
            before.zip(written.as_ref().and_then(|after| ledger_of(&after.seen)))
        {
            events.extend(report::events::of_ledgers(before, after));
        }
        report::publish::events(context, session, events).await;
        memory.stored = written.or_else(|| {
            (!decision.action.as_ref().is_some_and(decide::Action::opens)).then_some(stored)
        });
    }
    outcome
}

/// Reports, where the API server takes it. Status is a projection: one that is refused holds up nothing, least of all an end.
async fn tell(
    context: &Context,
    session: &mut ChatSession,
    memory: &mut Memory,
    about: (&Observation, &Decision, Option<&report::Setback>),
) -> Result<(), Unlearned> {
    match report(context, session, memory, about).await {
        Ok(told) => session.status = Some(told),
        Err(kube::Error::Api(refused)) if refused.code < 500 => {
            tracing::warn!(session = %session.name_any(), %refused, "what a session shows is refused: is the resource of this release installed?");
        }
        Err(source) => {
            return Err(Unlearned {
                what: "report",
                source,
            });
        }
    }
    Ok(())
}

async fn report(
    context: &Context,
    session: &ChatSession,
    memory: &mut Memory,
    (seen, decision, trouble): (&Observation, &Decision, Option<&report::Setback>),
) -> Result<ChatSessionStatus, kube::Error> {
    let previous = session.status.clone().unwrap_or_default();
    let endpoint = context
        .front
        .endpoint(&seen.session.namespace, &seen.session.name);
    let written = memory.written;
    let still = memory.progress.as_ref().and_then(Progress::still);
    let facts = report::Facts {
        seen,
        decision,
        stuck: progress::stuck(still, seen.now),
        trouble,
        endpoint: &endpoint,
        previous: &previous,
        written,
    };
    let status = report::status(facts);
    memory.said = Some(decision.verdict.clone());
    if seen.session.unreadable.is_some() {
        memory.shown = Some(status.clone());
    }
    context.metrics.stands(
        &seen.session.uid,
        Standing {
            state: find(&status.conditions, Type::Ready)
                .map(|ready| ready.reason.clone())
                .unwrap_or_default(),
            hourly: ledger_of(&seen.ledger)
                .map(Ledger::hourly)
                .unwrap_or_default(),
            stuck: facts.stuck.is_some(),
        },
    );
    if report::publish::status(context, session, &status).await? {
        memory.written = Some(seen.now);
        let events = report::events::of_conditions(&previous.conditions, &status.conditions);
        report::publish::events(context, session, events).await;
        report::publish::route(context, seen, decision, &status).await?;
    }
    Ok(status)
}

/// The session as it is at this moment, if it is still the same one (S4).
async fn live(context: &Context, session: &ChatSession) -> Result<Option<Given>, kube::Error> {
    let namespace = session.namespace().unwrap_or_default();
    let api: Api<DeserializeGuard<ChatSession>> =
        Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(&session.name_any()).await?;
    let same = found.filter(|found| found.uid() == session.uid());
    Ok(same.map(Given::from))
}

fn again(decision: &Decision) -> Next {
    match decision.again {
        None => Next::await_change(),
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            Next::requeue(wait)
        }
    }
}

fn ledger_of(seen: &LedgerSeen) -> Option<&Ledger> {
    match seen {
        LedgerSeen::Is(ledger) => Some(ledger),
        LedgerSeen::Missing | LedgerSeen::Unreadable => None,
    }
}

/// A failure and its cause, for a condition.
fn describe(failure: &Failure) -> report::Setback {
    let sentence = match std::error::Error::source(failure) {
        Some(cause) => format!("{failure}: {cause}"),
        None => failure.to_string(),
    };
    report::Setback {
        sentence,
        unauthorized: failure.unauthorized(),
    }
}
