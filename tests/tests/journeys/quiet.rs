//! A session at rest: nobody writes anything about it, and nobody who uses it misses the API server.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::DerefMut as _;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use srchat_crds::LABEL_UID;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::rig::SYSTEM;
use tokio::sync::Mutex;

use super::stage::{Alone, STEP, Stage};

const NAME: &str = "resting";
/// How long the API server stays away.
const AWAY: Duration = Duration::from_secs(60);
/// What a pass has to write is written within this, also on a busy machine.
const STILL: Duration = Duration::from_secs(8);

/// The versions of everything there is about the session: the object, what it published, its ledger, its route.
async fn versions(stage: &Stage<Alone>) -> BTreeMap<String, String> {
    let session = stage.get(NAME).await;
    let about = ListParams::default().labels(&format!("{LABEL_UID}={}", session.uid().unwrap()));
    let secrets: Api<Secret> = Api::all(stage.client.clone());
    let found = secrets.list(&about).await.unwrap();
    let all = found
        .items
        .iter()
        .map(|secret| (secret.name_any(), secret.resource_version()));
    all.chain([(NAME.to_owned(), session.resource_version())])
        .map(|(name, version)| (name, version.unwrap()))
        .collect()
}

/// The same, once they have been still for a while: what came before the rest is written down.
async fn settled(stage: &Stage<Alone>) -> BTreeMap<String, String> {
    let still = Mutex::new((Instant::now(), BTreeMap::new()));
    eventually("everything to be written", STEP, || async {
        let now = versions(stage).await;
        let mut still = still.lock().await;
        if still.1 != now {
            *still = (Instant::now(), now.clone());
        }
        if still.0.elapsed() < STILL {
            Err(format!("{now:?}"))
        } else {
            Ok(now)
        }
    })
    .await
}

/// How often the controller has looked at a host since it was started first.
fn visits(stage: &Stage<Alone>) -> usize {
    let log = std::fs::read_to_string(stage.rig.folder().join("controller.log")).unwrap();
    log.lines()
        .filter(|line| line.contains("look") && line.contains("Visit"))
        .count()
}

async fn another_visit(stage: &Stage<Alone>, before: usize) {
    eventually("another visit", STEP, || async {
        let now = visits(stage);
        if now > before {
            Ok(())
        } else {
            Err(format!("{now} visits"))
        }
    })
    .await;
}

/// When the controller last said that it is there: once a minute.
async fn renewed(stage: &Stage<Alone>) -> String {
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), SYSTEM);
    leases
        .get("srchat-controller")
        .await
        .unwrap()
        .resource_version()
        .unwrap()
}

/// What the controller's account has changed since a moment, by verb and kind, from the API server's own books.
async fn changes(stage: &mut Stage<Alone>, since: jiff::Timestamp) -> Vec<String> {
    let log = std::fs::read_to_string(stage.rig.deref_mut().control_plane().unwrap().audit_log())
        .unwrap();
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| {
            let at = event["requestReceivedTimestamp"]
                .as_str()
                .and_then(|at| at.parse::<jiff::Timestamp>().ok());
            event["user"]["username"] == "system:serviceaccount:srchat-system:srchat-controller"
                && at.is_some_and(|at| at > since)
                && ["create", "update", "patch", "delete"]
                    .contains(&event["verb"].as_str().unwrap_or_default())
        })
        .map(|event| format!("{} {}", event["verb"], event["objectRef"]["resource"]))
        .collect()
}

pub async fn a_session_at_rest_is_written_by_nobody_and_a_minute_without_an_api_server_ends_nothing()
 {
    let mut stage = Stage::alone().await;
    let _room = stage.room_for_the_real_model().await;
    stage.apply(NAME, json!({"limits": {"idle": "0s"}})).await;
    stage.until(NAME, Type::Ready, "Serving").await;
    // Each start is followed by a visit, which finds everything as it is.
    let mut visited = visits(&stage);
    stage.restart_controller().await;
    another_visit(&stage, visited).await;
    let (before, since) = (settled(&stage).await, jiff::Timestamp::now());
    assert!(before.len() >= 4, "{before:?}");
    for _ in 0..2 {
        visited = visits(&stage);
        stage.restart_controller().await;
        another_visit(&stage, visited).await;
        assert!(stage.ask(NAME, "Say yes.").await.len() > 1);
    }
    let lease = renewed(&stage).await;
    eventually(
        "the Lease to be renewed by a controller that was left alone",
        STEP,
        || async {
            if renewed(&stage).await == lease {
                Err("it is as it was")
            } else {
                Ok(())
            }
        },
    )
    .await;
    assert_eq!(versions(&stage).await, before);
    let changes = changes(&mut stage, since).await;
    assert!(
        changes.iter().all(|change| change.contains("leases")),
        "{changes:?}"
    );

    stay_without_an_api_server(&mut stage).await;
    // The controller is at work again: it looks at what is changed now.
    let changed = stage
        .patch(NAME, json!({"limits": {"lifetime": "5h"}}))
        .await;
    stage.until_observed(&changed).await;
    stage.until(NAME, Type::Ready, "Serving").await;
    assert!(stage.ask(NAME, "Say yes.").await.len() > 1);
    stage.rig.deref_mut().alive().unwrap();
    assert_eq!(stage.pods(NAME).await.len(), 1);
    stage.end(NAME).await;
}

/// A chat that streams goes on to its end, and others begin, for a whole minute.
async fn stay_without_an_api_server(stage: &mut Stage<Alone>) {
    let door = stage.door(NAME).await;
    let model = stage.rig.model.id.clone();
    let asked = door
        .post("/chat/completions")
        .json(&json!({
            "model": model, "stream": true, "max_tokens": 300, "temperature": 0,
            "messages": [{"role": "user", "content": "Count from one to one thousand, in words."}],
        }))
        .send()
        .await
        .unwrap();
    let mut stream = asked.bytes_stream();
    let mut said = stream.next().await.unwrap().unwrap().to_vec();
    stage
        .rig
        .deref_mut()
        .control_plane()
        .unwrap()
        .kill_api_server();
    let since = Instant::now();
    while let Some(bytes) = stream.next().await {
        said.extend_from_slice(&bytes.unwrap());
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.trim_end().ends_with("data: [DONE]"), "{said}");
    while since.elapsed() < AWAY {
        let answer = door.ask(&model, "Say yes.", |_| {}).await.unwrap();
        assert!(!answer.text.is_empty());
    }
    stage
        .rig
        .deref_mut()
        .control_plane()
        .unwrap()
        .restart_api_server()
        .await
        .unwrap();
}
