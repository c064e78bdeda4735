//! Renting: the intent by compare-and-swap, then one request, fenced by the monotonic clock (S1, S2).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use srchat_crds::Dollars;

use super::super::context::Settings;
use super::super::decide::{Bill, Expiry};
use super::super::ledger::store::Stored;
use super::super::ledger::{
    Attempt, Change, Ledger, LeftOut, Outcome, PodRecord, REQUEST_TIMEOUT, Refusal, RefusedWhy,
    SEND_WINDOW, pod_name,
};
use super::super::observe::Proposal;
use super::{Failure, Pass};
use crate::host::Incarnation;
use crate::host::boot::{self, Environment, Nonce};
use crate::host::image;
use crate::plan::Plan;
use crate::provider::runpod::RunPod;
use crate::provider::{Error, NewPod, Pod, Scope};

/// How long an offer is left out that has no machine free: stock changes by the minute.
const NO_CAPACITY_PAUSE: Duration = Duration::from_secs(300);
/// How long one is left out that was refused for another reason.
const REFUSED_PAUSE: Duration = Duration::from_secs(3600);
/// Before asking again for what only a person can change.
const PERSON_PAUSE: Duration = Duration::from_secs(300);
/// Before asking again after a request that never left.
const UNSENT_PAUSE: Duration = Duration::from_secs(5);

/// Rents one pod. Every early return before the intent leaves nothing behind; every one after it leaves an open attempt.
pub(super) async fn rent(pass: &Pass<'_>, proposal: Proposal, number: u64) -> Result<(), Failure> {
    let provider = pass
        .context
        .snapshots
        .provider()
        .ok_or(Failure::Overtaken("there is no provider key"))?;
    let plan = proposal
        .plan
        .clone()
        .ok_or(Failure::Overtaken("there is no plan"))?;
    let ledger = pass.ledger()?;
    still_wanted(pass, ledger).await?;

    // S2: the fence is set on the monotonic clock before the intent is written. The client lets the request leave only while its
    // own time limit ends before it.
    let fence = Instant::now() + SEND_WINDOW;
    let intent = Timestamp::now();
    let attempt = Attempt {
        number,
        run: ledger.run.number,
        name: pod_name(&ledger.installation, &ledger.session.uid, number),
        offer: Some(proposal.offer.clone()),
        hourly: proposal.hourly,
        intent,
        deadline: intent + SEND_WINDOW,
        account: provider.fingerprint().clone(),
        estimate: proposal.estimate,
        host_deadline: host_deadline(pass, ledger, &proposal, intent),
        outcome: Outcome::Open { misses: Vec::new() },
    };
    let request = new_pod(pass, ledger, &attempt, &plan);
    let change = Change::Intend {
        attempt: Box::new(attempt.clone()),
        plan: Some(plan),
    };
    let stored = pass.write(pass.stored, [change]).await?;

    let answer = ask(&provider, &request, fence).await;
    let outcome = learn(&attempt, answer);
    settle(pass, &stored, outcome).await
}

/// The earlier of lifetime and total cost: the host knows it from its first second (S12).
fn host_deadline(
    pass: &Pass<'_>,
    ledger: &Ledger,
    proposal: &Proposal,
    intent: Timestamp,
) -> Timestamp {
    let started = ledger.run.started.unwrap_or(intent);
    let bill = Bill {
        pod: None,
        started,
        created: intent,
        hourly: proposal.hourly,
        now: intent,
    };
    Expiry::of(&pass.seen.session, ledger, bill).time
}

/// S1, S13: the session as it is now, not as a cache has it.
async fn still_wanted(pass: &Pass<'_>, ledger: &Ledger) -> Result<(), Failure> {
    let live = pass
        .live()
        .await?
        .ok_or(Failure::Overtaken("the session is gone"))?;
    let live = live.parse(&pass.seen.ledger);
    let wanted = !live.deleting
        && live.finalizer
        && live.unreadable.is_none()
        && live.replicas == 1
        && live.unconfirmed_until.is_none();
    if !wanted || ledger.run.ended.is_some() || live.generation != pass.seen.session.generation {
        return Err(Failure::Overtaken("the session has changed"));
    }
    Ok(())
}

/// One request. The time limit is the client's own; the fence cuts off whatever it does not know of.
async fn ask(provider: &RunPod, request: &NewPod, fence: Instant) -> Result<Pod, Error> {
    debug_assert!(
        REQUEST_TIMEOUT < SEND_WINDOW,
        "or no request could ever leave"
    );
    match tokio::time::timeout_at(fence.into(), provider.create(request, fence)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Ambiguous {
            detail: "no answer by the deadline".into(),
        }),
    }
}

/// What an answer says of the attempt; `None`: nothing, it stays open.
fn learn(attempt: &Attempt, answer: Result<Pod, Error>) -> Option<Change> {
    let now = Timestamp::now();
    let refused = |why, again: Duration, left_out: Option<Duration>, detail: String| {
        let refusal = Refusal {
            at: now,
            why,
            detail,
            again: now + again,
            account: attempt.account.clone(),
        };
        let left_out = left_out
            .zip(attempt.offer.clone())
            .map(|(pause, offer)| LeftOut {
                offer,
                until: now + pause,
            });
        Some(Change::Refused {
            number: attempt.number,
            refusal,
            left_out,
        })
    };
    let error = match answer {
        Ok(pod) => {
            return Some(Change::Rented {
                pod: Box::new(record(attempt, &pod)),
            });
        }
        Err(error) => error,
    };
    let said = error.to_string();
    match error {
        Error::Ambiguous { .. } => None,
        Error::NoCapacity { .. } => refused(
            RefusedWhy::NoCapacity,
            Duration::ZERO,
            Some(NO_CAPACITY_PAUSE),
            said,
        ),
        Error::Rejected {
            scope: Scope::Candidate,
            ..
        } => refused(
            RefusedWhy::Rejected,
            Duration::ZERO,
            Some(REFUSED_PAUSE),
            said,
        ),
        Error::Rejected {
            scope: Scope::Request,
            ..
        } => refused(RefusedWhy::Rejected, PERSON_PAUSE, None, said),
        Error::Forbidden { .. } => refused(
            RefusedWhy::Forbidden,
            Duration::ZERO,
            Some(REFUSED_PAUSE),
            said,
        ),
        Error::InsufficientBalance { .. } => {
            refused(RefusedWhy::InsufficientBalance, PERSON_PAUSE, None, said)
        }
        Error::Unauthorized { .. } => refused(RefusedWhy::Unauthorized, PERSON_PAUSE, None, said),
        Error::RateLimited { after } => refused(RefusedWhy::RateLimited, after, None, said),
        // A create knows no such answer; whatever it means, nothing was made.
        Error::NotFound | Error::Conflict { .. } => {
            refused(RefusedWhy::Rejected, PERSON_PAUSE, None, said)
        }
        Error::Unavailable { .. } => refused(RefusedWhy::NotSent, UNSENT_PAUSE, None, said),
    }
}

/// Writes down what was learned. The pod of a 201 must not be forgotten because a write failed: tried again, over whatever is there.
async fn settle(pass: &Pass<'_>, stored: &Stored, outcome: Option<Change>) -> Result<(), Failure> {
    let Some(change) = outcome else {
        return Ok(());
    };
    match pass.write(stored, [change.clone()]).await {
        Err(failure) if failure.overtaken() => {
            let read = pass.context.ledgers.read(&pass.seen.session.uid).await;
            let read = read.map_err(|e| Failure::Api("read the ledger", e))?;
            pass.write(&read, [change]).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}

fn record(attempt: &Attempt, pod: &Pod) -> PodRecord {
    PodRecord {
        created: pod.created_at.unwrap_or(attempt.intent),
        hourly: pod
            .cost
            .filter(|cost| *cost > Dollars::ZERO)
            .unwrap_or(attempt.hourly),
        data_center: pod.data_center.clone(),
        ..PodRecord::of(attempt, pod.id.clone())
    }
}

fn new_pod(pass: &Pass<'_>, ledger: &Ledger, attempt: &Attempt, plan: &Plan) -> NewPod {
    let context = pass.context;
    let incarnation = Incarnation {
        installation: ledger.installation.clone(),
        uid: ledger.session.uid.clone(),
        attempt: attempt.number,
    };
    let environment = Environment {
        owner: boot::owner_proof(context.installation.key(), &incarnation),
        nonce: Nonce::derive(context.installation.key(), &incarnation.uid, attempt.number),
        deadline: attempt.host_deadline.as_second(),
        api: context.settings.api_for_hosts.clone(),
        root: Settings::root_for(
            &context.settings.host_root,
            &incarnation.uid,
            attempt.number,
        ),
        memory: Settings::root_for(
            &context.settings.host_memory,
            &incarnation.uid,
            attempt.number,
        ),
        controller_key: ledger.keys.controller.public(),
        incarnation,
    };
    NewPod {
        name: attempt.name.clone(),
        image: plan.image.clone(),
        gpu: plan.gpu.clone(),
        count: plan.gpu_count,
        cloud: plan.cloud,
        disk_gb: plan.disk_gb,
        args: boot::start_command(image::form(&plan.image)),
        env: environment.variables(),
        data_centers: plan.data_centers.clone(),
        min_cuda: plan.min_cuda.clone(),
    }
}
