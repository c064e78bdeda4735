//! What the provider says of pods: the list for all, reduced to one session's own, and a look at a single one.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use srchat_crds::Dollars;
use tokio::time::timeout;

use super::super::super::context::{Context, Memory};
use super::super::super::ledger::Ledger;
use super::super::{
    BillSeen, Found, Glance, LedgerSeen, List, Observation, SeenPod, Unread, UnreadWhy,
};
use crate::ours;
use crate::provider::{Error, Fingerprint, Pod, PodId, PodStatus, Snapshot};

/// What a look that failed waits for when the provider does not say.
const AGAIN: Duration = Duration::from_secs(5);
/// While the key is not accepted nobody but a person can help.
const AGAIN_UNAUTHORIZED: Duration = Duration::from_secs(60);
/// An end waits for its bill for so long: it has ten seconds between its two proofs anyway.
const BILL: Duration = Duration::from_secs(5);

/// A complete list begun after a moment; why there is none is a value as well.
pub(super) async fn list(
    context: &Context,
    memory: &mut Memory,
    seen: &Observation,
    after: Timestamp,
) {
    // A hair later than asked for, so that the two clocks cannot disagree about "after".
    let ago = Duration::try_from(Timestamp::now().duration_since(after)).unwrap_or_default();
    let at = Instant::now()
        .checked_sub(ago)
        .map(|at| at + Duration::from_millis(1));
    match context
        .snapshots
        .after(at.unwrap_or_else(Instant::now))
        .await
    {
        Ok(snapshot) => {
            if let LedgerSeen::Is(ledger) = &seen.ledger {
                newer(context, ledger, memory, &snapshot);
            }
            memory.pods.failed = None;
        }
        Err(error) => memory.pods.failed = Some(unread(&error)),
    }
}

/// Takes a complete list over, reduced to the session's own pods.
pub(super) fn newer(context: &Context, ledger: &Ledger, memory: &mut Memory, snapshot: &Snapshot) {
    let mut own: Vec<&Pod> = snapshot
        .pods
        .values()
        .filter(|pod| ours(context, ledger, pod))
        .collect();
    own.sort_by(|a, b| a.age_order(b));
    let pods = own
        .into_iter()
        .map(|pod| seen_pod(context, ledger, pod))
        .collect();
    memory.pods.list = Some(List {
        began: snapshot.began_at,
        account: snapshot.key.clone(),
        pods,
    });
}

fn ours(context: &Context, ledger: &Ledger, pod: &Pod) -> bool {
    ledger.pod(&pod.id).is_some() || attempt_of(context, ledger, pod).is_some()
}

fn seen_pod(context: &Context, ledger: &Ledger, pod: &Pod) -> SeenPod {
    SeenPod {
        id: pod.id.clone(),
        attempt: attempt_of(context, ledger, pod),
        status: pod.status,
        created: pod.created_at,
        cost: pod.cost,
        address: pod.ssh.clone(),
        data_center: pod.data_center.clone(),
    }
}

/// The attempt of this session that a pod is proved to be of (S5).
fn attempt_of(context: &Context, ledger: &Ledger, pod: &Pod) -> Option<u64> {
    let by = &context.installation;
    let (uid, attempt) = ours::owner(pod, &by.id, by.key())?;
    (uid == ledger.session.uid).then_some(attempt)
}

/// One pod, asked for by its id.
pub(super) async fn glance(context: &Context, pod: PodId) -> Glance {
    let began = Timestamp::now();
    let Some(provider) = context.snapshots.provider() else {
        let found = Err(unread(&no_key()));
        return Glance {
            pod,
            began,
            account: Fingerprint(String::new()),
            found,
        };
    };
    let found = match provider.get(&pod).await {
        Ok(found) if found.status == PodStatus::Terminated && found.cost == Some(Dollars::ZERO) => {
            Ok(Found::Ended)
        }
        Ok(_) => Ok(Found::Alive),
        Err(Error::NotFound) => Ok(Found::Nothing),
        Err(error) => Err(unread(&error)),
    };
    let account: Fingerprint = provider.fingerprint().clone();
    Glance {
        pod,
        began,
        account,
        found,
    }
}

/// What a pod was billed since it was made. Nothing waits for long for this.
pub(super) async fn bill(context: &Context, pod: &PodId, since: Timestamp) -> BillSeen {
    let at = Timestamp::now();
    let asked = match context.snapshots.provider() {
        None => Err(no_key()),
        Some(provider) => match timeout(BILL, provider.billing(pod, since)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable {
                detail: "no bill in time".into(),
            }),
        },
    };
    BillSeen {
        at,
        found: asked.map_err(|error| unread(&error)),
    }
}

fn no_key() -> Error {
    Error::Unauthorized {
        detail: "there is no RunPod API key".into(),
    }
}

/// A failed read, as a value.
fn unread(error: &Error) -> Unread {
    let at = Timestamp::now();
    let (why, wait) = match error {
        Error::Unauthorized { .. } => (UnreadWhy::Unauthorized, AGAIN_UNAUTHORIZED),
        Error::RateLimited { after } => (UnreadWhy::RateLimited, *after),
        Error::Ambiguous { .. } | Error::Unavailable { .. } => (UnreadWhy::Unavailable, AGAIN),
        Error::NotFound
        | Error::NoCapacity { .. }
        | Error::Forbidden { .. }
        | Error::InsufficientBalance { .. }
        | Error::Rejected { .. }
        | Error::Conflict { .. } => (UnreadWhy::Refused, AGAIN_UNAUTHORIZED),
    };
    Unread {
        at,
        why,
        detail: error.to_string(),
        again: at + wait,
    }
}
