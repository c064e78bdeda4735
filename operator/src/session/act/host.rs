//! What is done on a host, and to the way there: deploy, open, close, clear.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::super::context::Memory;
use super::super::ledger::{Change, Keys, Wipe, WipeResult, span};
use super::super::observe::{HostSeen, Trouble, read};
use super::{Failure, Pass};
use crate::host::clear::ClearReport;
use crate::host::deploy::{Accepted, Deploy};
use crate::host::{self, Medium};
use crate::plan::Plan;
use crate::provider::{Address, PodId};
use crate::route::{self, RouteHost};

/// Below this there is no point in beginning to clear: a connection alone takes so long.
const LEAST: Duration = Duration::from_millis(500);

/// Starts the deployment, or finds that it is under way. Which it is shows in the next visit.
pub(super) async fn deploy(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
) -> Result<(), Failure> {
    let accepted = send(pass, memory, pod).await?;
    // The next decision rests on a visit made after this.
    memory.host = None;
    memory.accepted = accepted.clone().map(|accepted| (pod.clone(), accepted));
    tracing::debug!(pod = %pod, already = accepted.is_some_and(|accepted| accepted.already), "deployed");
    Ok(())
}

/// Sends the deployment. `None`: the host could not be asked, which the next visit will find out as well.
async fn send(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
) -> Result<Option<Accepted>, Failure> {
    let ledger = pass.ledger()?;
    let plan = ledger
        .plan
        .as_ref()
        .ok_or(Failure::Overtaken("there is no plan"))?;
    let deploy = parameters(pass, plan, &ledger.keys).await?;
    match read::connect(pass.context, memory, pass.seen, pod).await {
        Err(trouble) => {
            troubled(memory, pod, trouble);
            Ok(None)
        }
        Ok((line, incarnation)) => match host::deploy::deploy(&line, &incarnation, &deploy).await {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) => {
                memory.line = None;
                Err(Failure::Host("deploy on the host", error))
            }
        },
    }
}

async fn parameters(pass: &Pass<'_>, plan: &Plan, keys: &Keys) -> Result<Deploy, Failure> {
    let token = read::model_token(pass.context, pass.session)
        .await
        .map_err(|_| Failure::Overtaken("the model token is gone"))?;
    let token = token.map(|token| SecretString::from(token.expose().to_owned()));
    plan.deployment(&pass.context.settings.hub_url, keys.gateway.public(), token)
        .map_err(|_| Failure::Overtaken("the plan has a reserved argument"))
}

/// Leads the route to the host. What the gateways need to know of the deployment the host says again.
pub(super) async fn open_door(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
    address: &Address,
    port: u16,
) -> Result<(), Failure> {
    let ledger = pass.ledger()?;
    let plan = ledger
        .plan
        .as_ref()
        .ok_or(Failure::Overtaken("there is no plan"))?;
    let pin = ledger
        .pod(pod)
        .and_then(|record| record.pin.as_ref())
        .ok_or(Failure::Overtaken("the pod has no pin"))?;
    let known = memory
        .accepted
        .clone()
        .filter(|(of, _)| of == pod)
        .map(|(_, accepted)| accepted);
    let accepted = match known {
        Some(accepted) => accepted,
        // A process that did not deploy it itself asks once more: a second deployment changes nothing.
        None => match send(pass, memory, pod).await? {
            Some(accepted) => accepted,
            None => return Ok(()),
        },
    };
    let context = pass.context;
    let route = context
        .routes
        .get(&pass.seen.session.uid)
        .await
        .map_err(|e| Failure::Api("read the route", e))?;
    let mut route = route.ok_or(Failure::Overtaken("the route is gone"))?;
    route.host = Some(RouteHost {
        address: address.to_string(),
        host_key: pin.key,
        user: context.settings.gateway_user.clone(),
        key: ledger.keys.gateway.clone(),
        engine_port: port,
        files_dir: accepted.files,
        served_name: served_name(plan),
        max_model_len: plan.context_length,
        engine: plan.engine,
        abilities: plan.abilities,
        upload_quota: accepted.uploads.quota,
        medium: match accepted.uploads.medium {
            Medium::Memory => route::Medium::Memory,
            Medium::Disk => route::Medium::Disk,
        },
    });
    context
        .routes
        .put(&route)
        .await
        .map_err(|e| Failure::Api("write the route", e))
}

/// What the engine answers to. transformers knows no other name than the pinned one.
fn served_name(plan: &Plan) -> String {
    match plan.engine {
        route::Engine::Transformers => format!("{}@{}", plan.model, plan.revision),
        route::Engine::Vllm | route::Engine::LlamaCpp => plan.model.clone(),
    }
}

/// Takes the host out of the route: gateways end their connections and forget the key.
pub(super) async fn close_door(pass: &Pass<'_>) -> Result<(), Failure> {
    let routes = &pass.context.routes;
    let route = routes
        .get(&pass.seen.session.uid)
        .await
        .map_err(|e| Failure::Api("read the route", e))?;
    let Some(mut route) = route else {
        return Ok(());
    };
    route.host = None;
    routes
        .put(&route)
        .await
        .map_err(|e| Failure::Api("write the route", e))
}

/// Takes the gateways' key off the host, ends their connections, erases, reads back (S8). A host that cannot be asked is asked again,
/// until the time is over.
pub(super) async fn clear(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
    until: Timestamp,
) -> Result<(), Failure> {
    let left = span(Timestamp::now(), until).max(LEAST);
    match tokio::time::timeout(left, attempt(pass, memory, pod, left)).await {
        Err(_) => {
            troubled(
                memory,
                pod,
                Trouble::Unreachable("clearing took too long".to_owned()),
            );
            memory.line = None;
            Ok(())
        }
        Ok(Err(trouble)) => {
            troubled(memory, pod, trouble);
            memory.line = None;
            Ok(())
        }
        Ok(Ok(report)) if report.complete() => {
            let wipe = Wipe {
                at: Timestamp::now(),
                result: WipeResult::Cleared,
                detail: summary(&report),
            };
            pass.note(Change::Wiped {
                pod: pod.clone(),
                wipe,
            })
            .await
        }
        // Something is left: tried again while there is time, and never reported as done.
        Ok(Ok(report)) => {
            tracing::warn!(pod = %pod, report = summary(&report), "clearing left something behind");
            troubled(
                memory,
                pod,
                Trouble::Unreachable("something was left behind".to_owned()),
            );
            Ok(())
        }
    }
}

async fn attempt(
    pass: &Pass<'_>,
    memory: &mut Memory,
    pod: &PodId,
    left: Duration,
) -> Result<ClearReport, Trouble> {
    let (line, incarnation) = read::connect(pass.context, memory, pass.seen, pod).await?;
    host::clear::clear(&line, &incarnation, left)
        .await
        .map_err(|error| read::trouble(&error))
}

fn summary(report: &ClearReport) -> String {
    let files: u64 = report.paths.iter().map(|path| path.files).sum();
    let users = if report.users_separated {
        "by user"
    } else {
        "by process group"
    };
    format!(
        "{} paths, {files} files, {} bytes erased and read back; processes found {users}, {} left",
        report.paths.len(),
        report.bytes(),
        report.processes_left
    )
}

fn troubled(memory: &mut Memory, pod: &PodId, trouble: Trouble) {
    let at = Timestamp::now();
    let before = memory.host.take().filter(|host| host.pod == *pod);
    let (last, silent_since) =
        before.map_or((None, at), |before| (before.last, before.silent_since));
    memory.host = Some(HostSeen {
        pod: pod.clone(),
        at,
        found: Err(trouble),
        last,
        silent_since,
    });
}
