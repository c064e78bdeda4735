//! Events: what an action did, and what a status has come to, each on its transition only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use srchat_crds::conditions::{Type, find};
use srchat_crds::events::Event;

use super::super::decide::Action;
use super::super::ledger::{Change, Ledger, Outcome, PROOF_INTERVAL, Why, WipeResult};
use super::conditions::says_stuck;

/// What an action did, as far as people are told of it.
pub fn of_action(action: &Action, ledger: Option<&Ledger>) -> Vec<(Event, String)> {
    let one = |event, note: String| vec![(event, note)];
    match action {
        Action::Note(change) => of_change(change, ledger),
        Action::Rent { proposal, .. } => one(
            Event::Renting,
            format!("{} at ${} an hour.", proposal.offer.gpu, proposal.hourly),
        ),
        Action::OpenDoor { .. } => {
            one(Event::EndpointPublished, "The endpoint answers.".to_owned())
        }
        Action::Open { .. }
        | Action::Guard
        | Action::Publish
        | Action::Deploy { .. }
        | Action::CloseDoor
        | Action::DropRoute
        | Action::Clear { .. }
        | Action::Terminate { .. }
        | Action::Receipt
        | Action::Release
        | Action::Discard => Vec::new(),
    }
}

fn of_change(change: &Change, ledger: Option<&Ledger>) -> Vec<(Event, String)> {
    let one = |event, note: String| vec![(event, note)];
    match change {
        Change::Rented { pod } => one(
            Event::InstanceAdopted,
            format!("Pod {} was found and taken over.", pod.id),
        ),
        Change::Pinned { pod, pin } => one(
            Event::HostKeyPinned,
            format!("Pod {pod} has the key {}.", pin.key.fingerprint()),
        ),
        Change::Served { pod, .. } => {
            one(Event::ModelServed, format!("Pod {pod} serves the model."))
        }
        Change::FellBack { fallback } => one(
            Event::EngineFallback,
            format!(
                "vLLM did not start on pod {}, so transformers is tried there, once in this run. The end of its log: {}",
                fallback.pod, fallback.said
            ),
        ),
        Change::Doomed { pod, doom, .. } => match doom.why {
            Why::KeyMismatch => one(
                Event::HostKeyMismatch,
                format!("Pod {pod} has a key that it did not announce."),
            ),
            Why::PriceDrift => one(Event::PriceDrift, format!("Pod {pod}: {}.", doom.detail)),
            Why::StartupTimeout => one(
                Event::StartupTimeout,
                format!("Pod {pod} did not serve within limits.startup."),
            ),
            Why::BadDraw => one(
                Event::StartupTimeout,
                format!("Pod {pod} is replaced. {}", doom.detail),
            ),
            Why::Failed | Why::Lost | Why::HostRestarted | Why::OutOfContact | Why::BootFailed => {
                one(
                    Event::InstanceLost,
                    format!("Pod {pod} is lost: {:?}. {}", doom.why, doom.detail),
                )
            }
            Why::EngineFailed | Why::OutOfMemory => one(
                Event::InstanceLost,
                format!("The engine of pod {pod} failed."),
            ),
            Why::Deleted | Why::Paused | Why::Limit(_) | Why::Duplicate | Why::Stray => Vec::new(),
        },
        Change::Found { pod } => one(
            Event::OrphanTerminated,
            format!("Pod {} is not the one in use, and is terminated.", pod.id),
        ),
        Change::Wiped { pod, wipe } if wipe.result != WipeResult::NothingToWipe => one(
            Event::WipeIncomplete,
            format!("Pod {pod} was not cleared: {:?}.", wipe.result),
        ),
        Change::Proved { pod, began, .. } => {
            let proofs = ledger
                .and_then(|ledger| ledger.pod(pod))
                .map(|record| record.proofs.as_slice())
                .unwrap_or_default();
            let second = proofs
                .last()
                .is_some_and(|first| *began >= *first + PROOF_INTERVAL);
            if second {
                one(Event::Terminated, format!("Pod {pod} is proved gone."))
            } else {
                Vec::new()
            }
        }
        Change::Abandoned { pod, .. } => one(
            Event::TerminationUnverified,
            format!("Pod {pod} was let go of without proof."),
        ),
        Change::Ended { reason, .. } => one(
            Event::LimitReached,
            format!("The run is ended: {reason:?}."),
        ),
        Change::Gap { latch: true, .. } => one(
            Event::LimitReached,
            "The run is ended: NeedsConfirmation.".to_owned(),
        ),
        Change::Replicas { .. }
        | Change::Gap { latch: false, .. }
        | Change::Intend { .. }
        | Change::Refused { .. }
        | Change::Missed { .. }
        | Change::Waived { .. }
        | Change::Account { .. }
        | Change::Acknowledged { .. }
        | Change::Missing { .. }
        | Change::Wiped { .. }
        | Change::Deleted { .. }
        | Change::Billed { .. }
        | Change::Alive { .. }
        | Change::Receipted { .. } => Vec::new(),
    }
}

/// What the answer to a create made, and what a clearing came to: told from the ledgers before and after.
pub fn of_ledgers(before: &Ledger, after: &Ledger) -> Vec<(Event, String)> {
    let mut events = Vec::new();
    let made = |attempt: &&super::super::ledger::Attempt| match &attempt.outcome {
        Outcome::Pod(id) => before.pod(id).is_none() && before.attempt(attempt.number).is_none(),
        Outcome::Open { .. } => false,
    };
    if let Some(attempt) = after.attempts.iter().find(made) {
        events.push((
            Event::InstanceCreated,
            format!("Pod {} at ${} an hour.", attempt.name, attempt.hourly),
        ));
    }
    for pod in &after.pods {
        let cleared = |wipe: &Option<super::super::ledger::Wipe>| {
            wipe.as_ref()
                .is_some_and(|wipe| wipe.result == WipeResult::Cleared)
        };
        if cleared(&pod.wipe)
            && before
                .pod(&pod.id)
                .is_some_and(|before| before.wipe.is_none())
        {
            events.push((Event::Wiped, format!("Pod {} was cleared.", pod.id)));
        }
    }
    events
}

/// What a status has come to.
pub fn of_conditions(before: &[Condition], after: &[Condition]) -> Vec<(Event, String)> {
    let watched = [
        (Type::Planned, "Fits", Event::Planned),
        (Type::Planned, "NoFittingGPU", Event::NoFittingGPU),
        (Type::Planned, "OverPrice", Event::OverPrice),
        (Type::Planned, "OutOfStock", Event::WaitingForCapacity),
        (Type::Planned, "SpecUnreadable", Event::SpecUnreadable),
        (
            Type::Provisioned,
            "WaitingForCapacity",
            Event::WaitingForCapacity,
        ),
        (
            Type::Provisioned,
            "ProviderUnauthorized",
            Event::ProviderUnauthorized,
        ),
        (
            Type::Terminated,
            "ProviderUnauthorized",
            Event::ProviderUnauthorized,
        ),
        (
            Type::Terminated,
            "AccountUnknown",
            Event::TerminationUnverified,
        ),
        (
            Type::Terminated,
            "ProviderError",
            Event::TerminationUnverified,
        ),
    ];
    let mut events = Vec::new();
    for (type_, reason, event) in watched {
        let is = |conditions: &[Condition]| {
            find(conditions, type_).is_some_and(|condition| condition.reason == reason)
        };
        if is(after) && !is(before) {
            events.push((
                event,
                find(after, type_)
                    .map(|condition| condition.message.clone())
                    .unwrap_or_default(),
            ));
        }
    }
    if let (None, Some(message)) = (says_stuck(before), says_stuck(after)) {
        events.push((Event::NoProgress, message.to_owned()));
    }
    let near = |conditions: &[Condition]| {
        find(conditions, Type::WithinLimits)
            .filter(|one| one.reason == "NearLimit")
            .map(|one| one.message.clone())
    };
    match (near(before), near(after)) {
        (None, Some(message)) if message.contains("idle") => {
            events.push((Event::IdleSoon, message))
        }
        (None, Some(message)) if message.contains("maxTotalCost") => {
            events.push((Event::CostNear, message))
        }
        (None | Some(_), Some(_) | None) => {}
    }
    events
}
