//! The nine conditions of a session. Their sentences hold nothing that changes by itself, so that a session at rest is not written.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use srchat_crds::conditions::{
    Conditions, EndpointPublished, HostTrusted, Life, ModelServed, Planned, Provisioned,
    Terminated, Type, Verdict as Says, Wiped, WithinLimits, find,
};

use super::super::decide::{Blocked, Ending, Near, Verdict, idle_due};
use super::super::ledger::{EndReason, GoneHow, Ledger, PodRecord, RefusedWhy, Why};
use super::super::observe::{
    EngineSeen, FailedAt, NoAccount, Observation, PlanAnswer, RouteSeen, Session, Trouble,
    UnreadWhy,
};
use super::{Facts, Setback, ending, shown_end, shown_wipe};
use crate::host::Stage;

/// Everything there is to say.
pub fn of(facts: &Facts<'_>, ledger: Option<&Ledger>) -> Conditions {
    let seen = facts.seen;
    let life = life(seen, ledger);
    let Some(ledger) = ledger else {
        let mut says = Conditions::pending(life);
        if let Some(unreadable) = unreadable(&seen.session) {
            // Nothing was ever done for it: what it says of itself is that it cannot be read, and not that it is paused.
            says.life = if seen.session.deleting {
                life
            } else {
                Life::Wanted
            };
            says.planned = unreadable;
        }
        return says;
    };
    let end = ending(&seen.session, ledger);
    let mut says = match life {
        Life::Wanted => wanted(facts, ledger),
        Life::Paused | Life::Ended | Life::Deleting => Conditions::released(life),
    };
    if life == Life::Paused {
        says.planned = planned(facts, ledger);
    }
    if let Some(unreadable) = unreadable(&seen.session).filter(|_| life != Life::Deleting) {
        says.planned = unreadable;
    }
    if let Some(ended) = ledger.run.ended.filter(|_| life == Life::Ended) {
        says.within_limits = reached(ledger, ended.reason);
    }
    if let Some(pod) = end {
        says.wiped = wiped(facts, pod);
        says.terminated = terminated(facts, pod);
    }
    says
}

/// How the message of a condition begins when nothing has changed for too long.
pub const STUCK: &str = "No progress since ";

/// Says so where people look first: in `Ready`, or where that holds all the same, in `Terminated`, since then something is left
/// that does not end.
pub fn say_stuck(conditions: &mut [Condition], stuck: Option<Timestamp>) {
    let Some(since) = stuck else {
        return;
    };
    let ready = find(conditions, Type::Ready).is_some_and(|ready| ready.status == "True");
    let type_ = if ready { Type::Terminated } else { Type::Ready };
    let shown = conditions
        .iter_mut()
        .find(|condition| condition.type_ == type_.as_str());
    if let Some(shown) = shown {
        // Whole seconds, which people read; the moment itself never changes while this is said.
        let since = since.strftime("%H:%M:%SZ");
        shown.message = format!("{STUCK}{since}. {}", shown.message);
    }
}

/// Whether one of these says so.
pub fn says_stuck(conditions: &[Condition]) -> Option<&str> {
    let mut messages = conditions
        .iter()
        .map(|condition| condition.message.as_str());
    messages.find(|message| message.starts_with(STUCK))
}

fn life(seen: &Observation, ledger: Option<&Ledger>) -> Life {
    if seen.session.deleting {
        Life::Deleting
    } else if seen.session.replicas == 0 {
        Life::Paused
    } else if ledger.is_some_and(|ledger| ledger.run.ended.is_some()) {
        Life::Ended
    } else {
        Life::Wanted
    }
}

/// What is rented goes on until the end that its host was told; nothing else is.
fn unreadable(session: &Session) -> Option<Says<Planned>> {
    let why = session.unreadable.as_ref()?;
    Some(Says::new(
        Planned::SpecUnreadable,
        format!(
            "The spec, as it is stored, cannot be read: {why}. Nothing is rented for it; correct it, or delete the session."
        ),
    ))
}

fn wanted(facts: &Facts<'_>, ledger: &Ledger) -> Conditions {
    let current = ledger.current();
    Conditions {
        planned: planned(facts, ledger),
        provisioned: provisioned(facts, ledger),
        host_trusted: host_trusted(ledger),
        model_served: current.map_or_else(
            || last_failure(ledger),
            |pod| by_fallback(ledger, model_served(facts.seen, pod)),
        ),
        endpoint_published: endpoint(facts.seen, current),
        within_limits: within_limits(facts.seen, ledger),
        ..Conditions::pending(Life::Wanted)
    }
}

fn planned(facts: &Facts<'_>, ledger: &Ledger) -> Says<Planned> {
    if let Verdict::Blocked(Blocked::Budget { left, needed }) = &facts.decision.verdict {
        let message = format!(
            "${left} is left of limits.maxTotalCost, and a start and an end may cost ${needed}."
        );
        return Says::new(Planned::OverPrice, message);
    }
    if ledger.current().is_some() || ledger.open_attempt().is_some() {
        return fits(
            ledger
                .plan
                .as_ref()
                .map(|plan| (plan.gpu_name.as_str(), plan.hourly_cost)),
        );
    }
    match facts.seen.plan.as_ref().map(|plan| &plan.answer) {
        // Nobody makes a plan before this is settled, and it is this that a person has to hear of.
        None if matches!(
            facts.decision.verdict,
            Verdict::Blocked(
                Blocked::NoAccount(_)
                    | Blocked::Provider(_)
                    | Blocked::SecretNameTaken
                    | Blocked::SecretsForbidden
            )
        ) =>
        {
            Planned::Pending.into()
        }
        None => Planned::Planning.into(),
        Some(PlanAnswer::Fits(proposal)) => fits(
            proposal
                .plan
                .as_ref()
                .map(|plan| (plan.gpu_name.as_str(), plan.hourly_cost)),
        ),
        Some(PlanAnswer::No(no)) => Says::new(no.reason, no.message.clone()),
    }
}

fn fits(choice: Option<(&str, srchat_crds::Dollars)>) -> Says<Planned> {
    match choice {
        None => Planned::Fits.into(),
        Some((gpu, hourly)) => Says::new(Planned::Fits, format!("{gpu} at ${hourly} an hour.")),
    }
}

fn provisioned(facts: &Facts<'_>, ledger: &Ledger) -> Says<Provisioned> {
    match (&facts.decision.verdict, ledger.current()) {
        (_, Some(pod)) if pod.pin.is_some() => Provisioned::Running.into(),
        (_, Some(_)) => Provisioned::Booting.into(),
        (Verdict::Blocked(Blocked::NoAccount(NoAccount::Missing)), None) => Says::new(
            Provisioned::ProviderUnauthorized,
            "There is no RunPod API key: srchat login, or the key RUNPOD_API_KEY in the Secret srchat-provider.",
        ),
        (Verdict::Blocked(Blocked::NoAccount(NoAccount::Refused)), None) => {
            Provisioned::ProviderUnauthorized.into()
        }
        (Verdict::Blocked(Blocked::Provider(why)) | Verdict::Ending(Ending::Unread(why)), None) => {
            provider(*why, facts.trouble)
        }
        (Verdict::Blocked(Blocked::ForeignInstallation), None) => Says::new(
            Provisioned::Pending,
            "The Secret srchat-installation was made for another cluster: nothing is rented with it. Delete it to begin anew.",
        ),
        (Verdict::Renting | Verdict::Resolving, None) => Provisioned::Renting.into(),
        _ => refused(ledger)
            .or_else(|| lost(ledger))
            .unwrap_or(Provisioned::Pending.into()),
    }
}

fn provider(why: UnreadWhy, trouble: Option<&Setback>) -> Says<Provisioned> {
    let reason = match why {
        UnreadWhy::Unauthorized => Provisioned::ProviderUnauthorized,
        UnreadWhy::Refused | UnreadWhy::RateLimited | UnreadWhy::Unavailable => {
            Provisioned::ProviderUnavailable
        }
    };
    trouble.map_or_else(
        || reason.into(),
        |trouble| Says::new(reason, &trouble.sentence),
    )
}

fn refused(ledger: &Ledger) -> Option<Says<Provisioned>> {
    let refusal = ledger.refusal.as_ref()?;
    let reason = match refusal.why {
        RefusedWhy::NoCapacity | RefusedWhy::Rejected | RefusedWhy::Forbidden => {
            Provisioned::WaitingForCapacity
        }
        RefusedWhy::InsufficientBalance => Provisioned::InsufficientBalance,
        RefusedWhy::Unauthorized => Provisioned::ProviderUnauthorized,
        RefusedWhy::RateLimited | RefusedWhy::NotSent => Provisioned::ProviderUnavailable,
    };
    Some(Says::new(reason, refusal.detail.clone()))
}

/// Why the last pod of this run is not in use any more.
fn lost(ledger: &Ledger) -> Option<Says<Provisioned>> {
    let doom = last_doom(ledger)?;
    let reason = match doom.why {
        Why::BootFailed | Why::BadDraw => Provisioned::BootFailed,
        Why::Failed | Why::Lost | Why::OutOfContact | Why::KeyMismatch => Provisioned::InstanceLost,
        Why::HostRestarted => Provisioned::HostRestarted,
        Why::PriceDrift => Provisioned::PriceDrift,
        Why::StartupTimeout => Provisioned::StartupTimeout,
        Why::EngineFailed | Why::OutOfMemory => Provisioned::Renting,
        Why::Deleted | Why::Paused | Why::Limit(_) | Why::Duplicate | Why::Stray => return None,
    };
    if doom.detail.is_empty() {
        Some(reason.into())
    } else {
        Some(Says::new(reason, doom.detail.clone()))
    }
}

/// The limit that ended the run. Where that is its attempts, also why the last of them failed: every other condition has been
/// released by then, and a person would have to have watched.
fn reached(ledger: &Ledger, reason: EndReason) -> Says<WithinLimits> {
    let says: Says<WithinLimits> = WithinLimits::from(shown_end(reason)).into();
    if reason != EndReason::Attempts {
        return says;
    }
    let why = match last_doom(ledger).map(|doom| doom.why) {
        Some(Why::EngineFailed | Why::OutOfMemory) => Some(last_failure(ledger).message),
        Some(_) | None => lost(ledger).map(|lost| lost.message),
    };
    match why {
        Some(why) => Says::new(says.reason, format!("{} The last one: {why}", says.message)),
        None => says,
    }
}

fn last_doom(ledger: &Ledger) -> Option<&super::super::ledger::Doom> {
    let of_run = |pod: &&PodRecord| pod.run == ledger.run.number;
    ledger
        .pods
        .iter()
        .rev()
        .filter(of_run)
        .find_map(|pod| pod.doom.as_ref())
}

fn host_trusted(ledger: &Ledger) -> Says<HostTrusted> {
    match ledger.current() {
        Some(pod) if pod.pin.is_some() => HostTrusted::KeyPinned.into(),
        Some(_) => HostTrusted::WaitingForKey.into(),
        None if last_doom(ledger).is_some_and(|doom| doom.why == Why::KeyMismatch) => {
            HostTrusted::KeyMismatch.into()
        }
        None => HostTrusted::Pending.into(),
    }
}

/// Without a pod: why the last one's engine failed, so that a person can read it while the next one starts.
fn last_failure(ledger: &Ledger) -> Says<ModelServed> {
    match last_doom(ledger) {
        Some(doom) if doom.why == Why::EngineFailed => {
            Says::new(ModelServed::EngineFailed, doom.detail.clone())
        }
        Some(doom) if doom.why == Why::OutOfMemory => {
            Says::new(ModelServed::OutOfMemory, doom.detail.clone())
        }
        Some(_) | None => ModelServed::Pending.into(),
    }
}

/// The same, saying so where another engine than the planned one serves.
fn by_fallback(ledger: &Ledger, says: Says<ModelServed>) -> Says<ModelServed> {
    match ledger.run.fallback {
        None => says,
        Some(_) => Says::new(
            says.reason,
            format!(
                "{} vLLM did not start, so transformers serves instead.",
                says.message
            ),
        ),
    }
}

fn model_served(seen: &Observation, pod: &PodRecord) -> Says<ModelServed> {
    if pod.pin.is_none() {
        return ModelServed::Pending.into();
    }
    let host = seen.host.as_ref().filter(|host| host.pod == pod.id);
    match host.map(|host| &host.found) {
        // Nobody has looked since this process started; what was served is taken to be.
        None if pod.served.is_some() => ModelServed::Healthy.into(),
        None => ModelServed::Connecting.into(),
        Some(Err(Trouble::WrongKey)) => ModelServed::Connecting.into(),
        Some(Err(Trouble::Unreachable(detail))) => {
            Says::new(ModelServed::Connecting, detail.clone())
        }
        Some(Ok(visit)) => match &visit.engine {
            EngineSeen::Healthy { .. } => ModelServed::Healthy.into(),
            EngineSeen::Absent => ModelServed::Connecting.into(),
            EngineSeen::Starting { stage, .. } => match stage {
                Stage::Connecting => ModelServed::Connecting.into(),
                Stage::Installing => ModelServed::Installing.into(),
                Stage::Downloading => ModelServed::Downloading.into(),
                Stage::Loading | Stage::Serving => ModelServed::Loading.into(),
            },
            EngineSeen::Failed { at, said } => Says::new(
                match at {
                    FailedAt::Memory => ModelServed::OutOfMemory,
                    FailedAt::Starting | FailedAt::Weights | FailedAt::Serving => {
                        ModelServed::EngineFailed
                    }
                },
                said.clone(),
            ),
        },
    }
}

fn endpoint(seen: &Observation, current: Option<&PodRecord>) -> Says<EndpointPublished> {
    if seen.door.published == super::Published::Taken {
        return EndpointPublished::SecretNameTaken.into();
    }
    let pin = current.and_then(|pod| pod.pin.as_ref());
    match (&seen.door.route, pin) {
        (
            RouteSeen::Is {
                token: _,
                host: Some((key, _)),
            },
            Some(pin),
        ) if *key == pin.key => EndpointPublished::Published.into(),
        // What is published already answers on: that is said first.
        (RouteSeen::Is { .. } | RouteSeen::Missing, _)
            if seen.door.published == super::Published::Forbidden =>
        {
            EndpointPublished::SecretsForbidden.into()
        }
        (RouteSeen::Is { .. } | RouteSeen::Missing, _) if current.is_some() => {
            EndpointPublished::WaitingForModel.into()
        }
        (RouteSeen::Is { .. } | RouteSeen::Missing, _) => EndpointPublished::Pending.into(),
    }
}

fn within_limits(seen: &Observation, ledger: &Ledger) -> Says<WithinLimits> {
    if ledger.run.started.is_none() {
        return WithinLimits::Pending.into();
    }
    let Near {
        cost,
        lifetime,
        idle,
    } = Near::of(&seen.session, ledger, idle_due(seen, ledger), seen.now);
    let near = [
        (cost, "80 % of limits.maxTotalCost is spent."),
        (
            lifetime,
            "Less than ten minutes of limits.lifetime are left.",
        ),
        (
            idle,
            "Nobody uses it, and limits.idle ends it within five minutes.",
        ),
    ];
    match near.into_iter().find(|(near, _)| *near) {
        Some((_, sentence)) => Says::new(WithinLimits::NearLimit, sentence),
        None => WithinLimits::UnderLimits.into(),
    }
}

fn wiped(facts: &Facts<'_>, pod: &PodRecord) -> Says<Wiped> {
    match &pod.wipe {
        Some(wipe) if wipe.detail.is_empty() => shown_wipe(wipe.result).into(),
        Some(wipe) => Says::new(shown_wipe(wipe.result), wipe.detail.clone()),
        None => facts.trouble.map_or_else(
            || Wiped::Wiping.into(),
            |trouble| Says::new(Wiped::Wiping, &trouble.sentence),
        ),
    }
}

fn terminated(facts: &Facts<'_>, pod: &PodRecord) -> Says<Terminated> {
    match (&pod.gone, pod.deleted, &facts.decision.verdict) {
        (Some(gone), _, _) => match gone.how {
            GoneHow::Proved => Terminated::ProvedAbsent.into(),
            GoneHow::Abandoned => Terminated::Abandoned.into(),
        },
        (None, _, Verdict::Ending(Ending::AccountUnknown)) => match facts.seen.house.account {
            Err(_) => Terminated::ProviderUnauthorized.into(),
            Ok(_) => Terminated::AccountUnknown.into(),
        },
        (None, _, Verdict::Ending(Ending::Unread(UnreadWhy::Unauthorized))) => {
            Terminated::ProviderUnauthorized.into()
        }
        (None, _, Verdict::Ending(Ending::Unread(_))) => Terminated::ProviderError.into(),
        (None, None, Verdict::Ending(Ending::Terminating)) => facts.trouble.map_or_else(
            || Terminated::Requested.into(),
            |trouble| match trouble.unauthorized {
                true => Terminated::ProviderUnauthorized.into(),
                false => Says::new(Terminated::ProviderError, &trouble.sentence),
            },
        ),
        (None, Some(_), _) => Terminated::VerifyingAbsence.into(),
        (None, None, _) => Terminated::NotEnding.into(),
    }
}
