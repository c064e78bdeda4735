//! The demo for a program: every step is tried and proved, and one line of JSON says what was seen.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;
use srchat_crds::LABEL_UID;
use srchat_operator::route::Route;
use tokio_util::sync::CancellationToken;

use crate::cache::say;
use crate::explain::causes;
use crate::hub::HubServer;
use crate::runpod::Ledger;

use super::args::Arguments;
use super::client::{Answer, Client};
use super::env::Folder;
use super::follow::{Milestone, View};
use super::leftovers::Before;
use super::report::{Counted, Memory, Report};
use super::stage::{Error, NAME, Stage, unless};
use super::timing::{Engine, Times};
use super::{Outcome, print};

/// What is uploaded and downloaded.
const MIB_5: usize = 5 << 20;

/// The namespace of the routes, as the rendered manifests have it.
const SESSIONS: &str = "srchat-sessions";

/// Runs it, and prints the report whatever happens.
pub(super) async fn run(
    arguments: &Arguments,
    before: &Before,
    stop: &CancellationToken,
) -> Outcome {
    let mut report = Report {
        question: arguments.ask.clone(),
        ..Report::default()
    };
    let held = match Stage::set(arguments, Folder::take().ok(), stop).await {
        Ok(mut stage) => {
            let held = steps(&mut stage, stop, &mut report).await;
            say("ending all parts");
            stage.strike().await;
            held
        }
        Err(error) => Err(error),
    };
    report.left = before.left();
    let held = held.and_then(|()| verdict(&report));
    report.ok = held.is_ok();
    report.error = held.as_ref().err().map(|error| causes(error));
    if let Err(error) = &held {
        super::tell(error);
    }
    // All of it is numbers and text: there is nothing that could not be written.
    print(&serde_json::to_string(&report).unwrap_or_default());
    match held {
        Ok(()) => Outcome::Held,
        Err(Error::Interrupted) => Outcome::Interrupted,
        Err(_) => Outcome::Failed,
    }
}

async fn steps(
    stage: &mut Stage,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<(), Error> {
    report.model = stage.model().to_owned();
    report.isolation = stage
        .rig
        .simulator
        .as_ref()
        .map(|simulator| simulator.isolation().to_string());
    say(&format!("applying a session for {}", report.model));
    let applied = stage.apply().await?;
    let mut last = String::new();
    let view = stage
        .reach(Milestone::Published, stop, |view| {
            tell_progress(view, &mut last)
        })
        .await?;
    let uid = view
        .session
        .as_ref()
        .and_then(|session| session.metadata.uid.clone())
        .unwrap_or_default();

    let client = Client::from_secret(stage.client.clone(), stage.namespace, NAME).await?;
    say(&format!("asking: {}", report.question));
    let answer = unless(stop, client.ask(&report.model, &report.question, |_| {})).await??;
    say(&format!("answer: {}", answer.text.trim()));
    report.answer = Some(answer.text.trim().to_owned());
    report.tokens = Some(answer.tokens);
    let engine = Engine::from_log(&unless(stop, client.logs()).await?.unwrap_or_default());

    say("uploading 5 MiB and downloading them again");
    report.files = Some(unless(stop, client.round_trip("demo.bin", random(MIB_5)?)).await??);
    let operator = &mut stage.rig.operator;
    report.memory = Memory {
        controller: operator.controller().process().resident(),
        gateway: operator.gateway().process().resident(),
    };
    let (known, unknown) = unless(stop, client.strangers()).await??;
    report.wrong_token = (known == unknown).then_some(known.as_u16());
    report.port_closed = port_closed(stage, &uid, report).await?;

    say("deleting the session");
    let deleted = stage.delete().await?;
    let view = stage
        .reach(Milestone::Gone, stop, |view| tell_progress(view, &mut last))
        .await?;
    report.wipe = view.condition("Wiped").map(|(reason, _)| reason.to_owned());
    report.absence_proofs = view
        .status()
        .and_then(|status| status.teardown.as_ref())
        .map(|end| end.absence_proofs);

    let ledger = ledger(stage).await?;
    let pod = ledger
        .pods
        .iter()
        .find(|pod| pod.uid.as_deref() == Some(&uid));
    let answer: &Answer = &answer;
    let times = Times {
        applied,
        deleted: Some(deleted),
        view: &view,
        pod,
        engine,
        download: download(stage),
        answer: Some(answer),
    };
    report.seconds = times.seconds();
    report.others = times.others();
    report.overhead = times.overhead();
    report.overhead_gone = times.overhead_gone();
    let total = ledger.total;
    report.ledger = Some(Counted {
        created: total.created,
        terminated: total.terminated,
        leaked: total.alive,
        billed: total.billed.to_string().parse().unwrap_or_default(),
    });
    Ok(())
}

/// Whether all of it held.
fn verdict(report: &Report) -> Result<(), Error> {
    let not = |what: String| Err(Error::Not(what));
    if report.answer.as_deref().unwrap_or_default().is_empty() {
        return not("the model said nothing".to_owned());
    }
    if report.files != Some(true) {
        return not("what was downloaded is not what was uploaded".to_owned());
    }
    if report.wrong_token != Some(401) {
        return not(format!(
            "a wrong token and an unknown session did not both get 401: {:?}",
            report.wrong_token
        ));
    }
    if report.port_closed == Some(false) {
        return not("the engine's port can be reached without the tunnel".to_owned());
    }
    if report.wipe.as_deref() != Some("Cleared") {
        return not(format!("the host was not cleared: {:?}", report.wipe));
    }
    if report.absence_proofs.unwrap_or_default() < 2 {
        return not(format!(
            "the pod's absence was not proved twice: {:?}",
            report.absence_proofs
        ));
    }
    match &report.ledger {
        Some(Counted {
            created,
            terminated,
            leaked: 0,
            ..
        }) if *created > 0 && created == terminated => {}
        other => return not(format!("the simulator's ledger does not add up: {other:?}")),
    }
    if !report.left.is_empty() {
        return not(format!(
            "something is left on this machine: {}",
            report.left.join(", ")
        ));
    }
    Ok(())
}

/// A line for each stage, not for each percent.
fn tell_progress(view: &View, last: &mut String) {
    let startup = view
        .status()
        .and_then(|status| status.startup.as_ref())
        .map(|startup| startup.stage.to_string());
    let line = match (view.condition("Ready"), startup) {
        (Some((reason, _)), Some(stage)) if reason != stage => format!("{reason}, {stage}"),
        (Some((reason, _)), _) => reason.to_owned(),
        (None, _) => return,
    };
    if *last != line {
        say(&format!("  {line}"));
        *last = line;
    }
}

/// Whether the engine's port is closed to everything that does not come through the tunnel.
async fn port_closed(stage: &Stage, uid: &str, report: &mut Report) -> Result<Option<bool>, Error> {
    let mut unknown = |why: &str| {
        report
            .skipped
            .insert("port_closed".to_owned(), why.to_owned());
        Ok(None)
    };
    let Some(simulator) = &stage.rig.simulator else {
        return unknown("the pods are another simulator's");
    };
    let routes: Api<Secret> = Api::namespaced(stage.client.clone(), SESSIONS);
    let found = routes
        .list(&ListParams::default().labels(&format!("{LABEL_UID}={uid}")))
        .await?;
    let route = found
        .items
        .iter()
        .find_map(|secret| Route::from_secret(secret).ok());
    let Some(port) = route
        .and_then(|route| route.host)
        .map(|host| host.engine_port)
    else {
        return Err(Error::Not(
            "the session is published and has no route with a host".to_owned(),
        ));
    };
    let ledger = simulator.ledger();
    let pod = ledger
        .pods
        .iter()
        .rfind(|pod| pod.uid.as_deref() == Some(uid));
    let Some(pod) = pod else {
        return Err(Error::Not(
            "the simulator has no pod of this session".to_owned(),
        ));
    };
    match simulator.port_reachable(&pod.id, port).await {
        Some(reachable) => Ok(Some(!reachable)),
        None => unknown(
            "pods share this machine's loopback here, or nothing listens on the engine's port",
        ),
    }
}

/// How long the weights were on their way from the embedded Hub, by its clock.
fn download(stage: &Stage) -> Option<f64> {
    let served = stage
        .rig
        .hub
        .as_ref()
        .map(HubServer::served)
        .unwrap_or_default();
    let largest = served.iter().max_by_key(|file| file.bytes);
    largest.and_then(|file| Some(file.ended?.duration_since(file.began).as_secs_f64()))
}

/// The simulator's own books, also of one that is not ours.
async fn ledger(stage: &Stage) -> Result<Ledger, Error> {
    match &stage.rig.simulator {
        Some(simulator) => Ok(simulator.ledger()),
        None => {
            let url = std::env::var("SRCHAT_SIM_LEDGER_URL").map_err(|_| {
                Error::Not(
                    "SRCHAT_SIM_LEDGER_URL does not say where the simulator's ledger is".to_owned(),
                )
            })?;
            let read = async {
                reqwest::get(&url)
                    .await?
                    .error_for_status()?
                    .json::<Ledger>()
                    .await
            };
            read.await.map_err(|error| {
                Error::Not(format!(
                    "the simulator's ledger cannot be read: {}",
                    causes(&error)
                ))
            })
        }
    }
}

fn random(length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|error| Error::Not(format!("no random bytes: {error}")))?;
    Ok(bytes)
}
