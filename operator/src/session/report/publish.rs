//! Writes what is shown: the status by one server-side apply, the route's own account of it, and events. What is unchanged is not
//! written.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event as Told, EventType};
use kube::{Api, Resource as _};
use serde_json::json;
use srchat_crds::events::{Event, Kind};
use srchat_crds::status::ChatSessionStatus;
use srchat_crds::{ChatSession, FIELD_MANAGER};

use super::super::context::Context;
use super::super::decide::{Decision, Verdict};
use super::super::ledger::Ledger;
use super::super::observe::{LedgerSeen, Observation};
use crate::route::{self, Route, Stage};

/// Kubernetes cuts off longer notes.
const LONGEST_NOTE: usize = 1000;

/// Writes a status, if it is another than the one before.
///
/// # Errors
/// Those of the API server; a session that is gone is none.
pub(crate) async fn status(
    context: &Context,
    session: &ChatSession,
    status: &ChatSessionStatus,
) -> Result<bool, kube::Error> {
    if session.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let metadata = &session.metadata;
    let api: Api<DeserializeGuard<ChatSession>> = Api::namespaced(
        context.client.clone(),
        metadata.namespace.as_deref().unwrap_or_default(),
    );
    // With the UID, so that another incarnation of the name is never written (S4).
    let patch = json!({
        "apiVersion": ChatSession::api_version(&()),
        "kind": ChatSession::kind(&()),
        "metadata": {"name": metadata.name, "uid": metadata.uid},
        "status": status,
    });
    let name = metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let mut answer = api.patch_status(name, &params, &Patch::Apply(&patch)).await;
    if matches!(&answer, Err(kube::Error::Api(refused)) if undeclared(refused)) {
        // A resource of an older release: what is put there instead is pruned to what it has.
        let whole = json!([
            {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        let whole = serde_json::from_value(whole).map_err(kube::Error::SerdeError)?;
        let params = PatchParams::default();
        answer = api
            .patch_status(name, &params, &Patch::Json::<()>(whole))
            .await;
    }
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an apply was refused for a field that the resource, as it is installed, does not have. The words are those of
/// structured-merge-diff, which every API server applies with; it sends them with differing codes.
fn undeclared(refused: &kube::core::Status) -> bool {
    refused.message.contains("field not declared in schema")
}

/// Brings the route's account of the session up to date.
///
/// # Errors
/// Those of the API server.
pub(crate) async fn route(
    context: &Context,
    seen: &Observation,
    decision: &Decision,
    status: &ChatSessionStatus,
) -> Result<(), kube::Error> {
    let LedgerSeen::Is(ledger) = &seen.ledger else {
        return Ok(());
    };
    let Some(mut route) = context.routes.get(&seen.session.uid).await? else {
        return Ok(());
    };
    let before = route.clone();
    describe(&mut route, seen, ledger, decision, status);
    if route != before {
        context.routes.put(&route).await
    } else {
        Ok(())
    }
}

fn describe(
    route: &mut Route,
    seen: &Observation,
    ledger: &Ledger,
    decision: &Decision,
    status: &ChatSessionStatus,
) {
    route.stage = match (
        &decision.verdict,
        status.startup.as_ref().map(|startup| startup.stage),
    ) {
        (Verdict::Paused, _) => Stage::Paused,
        (Verdict::Ended(_) | Verdict::Ending(_) | Verdict::Finished, _)
            if ledger.current().is_none() =>
        {
            Stage::Ended
        }
        (_, Some(stage)) => shown(stage),
        (_, None) => Stage::Planning,
    };
    route.percent = status.startup.as_ref().and_then(|startup| startup.percent);
    route.message = status
        .startup
        .as_ref()
        .map(|startup| startup.message.clone())
        .unwrap_or_default();
    route.hourly = status.cost.as_ref().map(|cost| cost.hourly);
    route.spend = status.cost.as_ref().map(|cost| cost.accrued);
    route.spend_as_of = status.cost.as_ref().map(|cost| cost.as_of.0);
    route.expiry = status.expiry.as_ref().map(|expiry| route::Expiry {
        time: expiry.time.0,
        reason: format!("{:?}", expiry.reason),
    });
    route.idle_seconds = seen.session.limits.idle.map(|idle| idle.as_secs());
    route.ready = ledger
        .current()
        .and_then(|pod| pod.served.as_ref())
        .map(|served| served.at);
}

fn shown(stage: srchat_crds::status::Stage) -> Stage {
    use srchat_crds::status::Stage as Shown;
    match stage {
        Shown::Planning => Stage::Planning,
        Shown::Renting => Stage::Renting,
        Shown::Booting => Stage::Booting,
        Shown::Connecting => Stage::Connecting,
        Shown::Installing => Stage::Installing,
        Shown::Downloading => Stage::Downloading,
        Shown::Loading => Stage::Loading,
        Shown::Serving => Stage::Serving,
    }
}

/// Sends events. A namespace that is ending refuses them, and nothing depends on them.
pub(crate) async fn events(context: &Context, session: &ChatSession, events: Vec<(Event, String)>) {
    for (event, note) in events {
        let told = Told {
            type_: match event.kind() {
                Kind::Normal => EventType::Normal,
                Kind::Warning => EventType::Warning,
            },
            reason: event.as_str().to_owned(),
            note: Some(note.chars().take(LONGEST_NOTE).collect()),
            action: event.as_str().to_owned(),
            secondary: None,
        };
        if let Err(error) = context
            .recorder
            .publish(&told, &session.object_ref(&()))
            .await
        {
            tracing::debug!(%error, event = event.as_str(), at = %Timestamp::now(), "an event was refused");
        }
    }
}
