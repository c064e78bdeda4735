//! The end: DELETE, the receipt, the finalizer.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use srchat_crds::FINALIZER;
use srchat_crds::status::CostSource;

use super::super::Given;
use super::super::context::Memory;
use super::super::ledger::{Change, GoneHow, Ledger, PodRecord};
use super::{Failure, Pass, set_finalizers};
use crate::provider::{Error, PodId};
use crate::receipt::{self, Receipt};

/// Ends a pod. Success and 404 are the same: the provider has heard of it, or does not know it (S7: neither proves its absence).
pub(super) async fn terminate(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
) -> Result<(), Failure> {
    let failed = |error| Failure::Provider("terminate the pod", error);
    let none = || {
        failed(Error::Unauthorized {
            detail: "there is no RunPod API key".into(),
        })
    };
    let provider = pass.context.snapshots.provider().ok_or_else(none)?;
    match provider.delete(pod).await {
        Ok(()) | Err(Error::NotFound) => {}
        Err(error) => return Err(failed(error)),
    }
    // Nothing is to be said to it any more.
    memory.line = None;
    pass.note(Change::Deleted {
        pod: pod.clone(),
        at: Timestamp::now(),
    })
    .await
}

/// The signed account of what was rented and how it ended. One that is there already is this one: it is written after everything ended.
pub(super) async fn receipt(pass: &Pass<'_>) -> Result<(), Failure> {
    let context = pass.context;
    let ledger = pass.ledger()?;
    let now = Timestamp::now();
    let receipt = account(ledger, now);
    let written = receipt
        .write(
            &context.client,
            &context.installation,
            &context.settings.namespace,
        )
        .await;
    written.map_err(|e| Failure::Api("write the receipt", e))?;
    pass.note(Change::Receipted { at: now }).await
}

/// S6: on reads taken now. The ledger goes after the finalizer; a crash in between leaves it to the sweep.
pub(super) async fn release(pass: &Pass<'_>) -> Result<(), Failure> {
    let context = pass.context;
    let uid = &pass.seen.session.uid;
    let stored = context
        .ledgers
        .read(uid)
        .await
        .map_err(|e| Failure::Api("read the ledger", e))?;
    if stored != *pass.stored {
        return Err(Failure::Overtaken("the ledger has changed"));
    }
    if let Some(Given { session: live, .. }) = pass.live().await? {
        let finalizers = live
            .finalizers()
            .iter()
            .filter(|one| *one != FINALIZER)
            .cloned()
            .collect();
        match set_finalizers(pass, &live, finalizers, "take the finalizer off").await {
            Err(Failure::Api(_, kube::Error::Api(status))) if status.is_not_found() => {}
            outcome => outcome?,
        }
    }
    context
        .ledgers
        .delete(uid, stored.version)
        .await
        .map_err(|e| Failure::Api("forget the ledger", e))?;
    context.forget(uid);
    Ok(())
}

/// Deletes a session that nobody confirmed, as it was read: one that was confirmed meanwhile has another version.
pub(super) async fn discard(pass: &Pass<'_>) -> Result<(), Failure> {
    let metadata = &pass.session.metadata;
    let preconditions = Preconditions {
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match pass
        .sessions()
        .delete(&pass.seen.session.name, &params)
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(Failure::Api(
            "delete a session that nobody confirmed",
            error,
        )),
    }
}

/// What a ledger amounts to.
pub(crate) fn account(ledger: &Ledger, now: Timestamp) -> Receipt {
    let (cost, source) = ledger.account(now);
    Receipt {
        version: receipt::VERSION,
        installation: ledger.installation.clone(),
        session: receipt::Session {
            uid: ledger.session.uid.clone(),
            namespace: ledger.session.namespace.clone(),
            name: ledger.session.name.clone(),
        },
        written: now,
        pods: ledger.pods.iter().map(|pod| of_pod(pod, now)).collect(),
        refused: ledger.folded.refused,
        absent: ledger.folded.absent,
        cost,
        cost_source: source,
    }
}

fn of_pod(pod: &PodRecord, now: Timestamp) -> receipt::Pod {
    receipt::Pod {
        id: pod.id.to_string(),
        attempt: pod.attempt,
        created: pod.created,
        hourly: pod.hourly,
        host_key: pod.pin.as_ref().map(|pin| pin.key.fingerprint()),
        served: pod.served.as_ref().map(|served| served.at),
        ended: pod.doom.as_ref().map(|doom| format!("{:?}", doom.why)),
        cleared: pod.wipe.as_ref().map(|wipe| receipt::Cleared {
            result: format!("{:?}", wipe.result),
            at: wipe.at,
            detail: wipe.detail.clone(),
        }),
        deleted: pod.deleted,
        absence_proofs: pod.proofs.clone(),
        gone: pod.gone.map(|gone| match gone.how {
            GoneHow::Proved => "Proved".to_owned(),
            GoneHow::Abandoned => "Abandoned".to_owned(),
        }),
        cost: pod.billed().unwrap_or_else(|| pod.cost(now)),
        cost_source: match pod.billed() {
            Some(_) => CostSource::Billed,
            None => CostSource::Estimated,
        },
    }
}
