//! Sessions whose spec, as it is stored, this version cannot read: written while the resource allowed everything, as an older or newer
//! version of it may have.
#![allow(clippy::unwrap_used)]

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;

use super::resource::{SCHEMA, anything, install, installed};
use super::stage::{Alone, STEP, Stage, tiny};

const TOMORROW: &str = "Tomorrow";

/// Replaces what the resource says of a spec, and returns what it said.
async fn allow(stage: &Stage<Alone>, spec: &Value) -> Value {
    let mut resource = installed(stage).await;
    let place = resource.pointer_mut(&format!("{SCHEMA}/spec")).unwrap();
    let before = std::mem::replace(place, spec.clone());
    install(stage, &resource).await;
    before
}

/// Waits until the API server takes, or refuses, an engine that nobody knows. Nothing is written by asking.
async fn until_taken(stage: &Stage<Alone>, taken: bool) {
    let engine = json!({"model": "a/b", "runtime": {"engine": TOMORROW}});
    let session = session("asked-about", &engine);
    let mut params = PatchParams::apply("journeys").force();
    params.dry_run = true;
    eventually("the resource to be as it was made", STEP, || async {
        let patch = Patch::Apply(&session);
        let answer = anything(stage).patch("asked-about", &params, &patch).await;
        if answer.is_ok() == taken {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
}

fn session(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// A condition's reason, of an object that is no session of ours.
async fn reason(stage: &Stage<Alone>, name: &str, type_: Type) -> Result<(), String> {
    let found = anything(stage).get(name).await.map_err(|e| e.to_string())?;
    let conditions = found.data["status"]["conditions"].as_array().cloned();
    let conditions = conditions.unwrap_or_default();
    let says = conditions
        .iter()
        .any(|one| one["type"] == type_.as_str() && one["reason"] == "SpecUnreadable");
    if says {
        Ok(())
    } else {
        Err(format!("{conditions:?}"))
    }
}

async fn until_unreadable(stage: &Stage<Alone>, name: &str) {
    let what = format!("{name} to be said not to be readable");
    eventually(&what, STEP, || reason(stage, name, Type::Planned)).await;
}

async fn end(stage: &Stage<Alone>, name: &str) {
    let sessions = anything(stage);
    sessions.delete(name, &Default::default()).await.unwrap();
    eventually(&format!("{name} to be gone"), STEP, || async {
        match sessions.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

pub async fn a_session_whose_stored_spec_cannot_be_read_rents_nothing_and_can_be_deleted() {
    let stage = Stage::alone().await;
    stage.apply("once-legible", tiny(json!({}))).await;
    stage.until("once-legible", Type::Ready, "Serving").await;
    let uid = stage.uid("once-legible").await;

    let everything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let strict = allow(&stage, &everything).await;
    until_taken(&stage, true).await;
    let engine = json!({"runtime": {"engine": TOMORROW}});
    let params = PatchParams::apply("journeys").force();
    let never = session("never-legible", &tiny(engine.clone()));
    let never = anything(&stage)
        .patch("never-legible", &params, &Patch::Apply(&never))
        .await
        .unwrap();
    let merge = Patch::Merge(json!({ "spec": engine }));
    anything(&stage)
        .patch("once-legible", &PatchParams::default(), &merge)
        .await
        .unwrap();
    allow(&stage, &strict).await;
    until_taken(&stage, false).await;

    // The one that was never readable is not rented for; what the other has rented is kept, and not replaced by anything.
    for name in ["never-legible", "once-legible"] {
        until_unreadable(&stage, name).await;
    }
    let never = never.metadata.uid.unwrap();
    stage.until_event_of(&never, "SpecUnreadable").await;
    assert_eq!(stage.pods_of(&never), []);
    let pods = stage.pods_of(&uid);
    assert_eq!((pods.len(), pods[0].terminated), (1, None));

    for name in ["never-legible", "once-legible"] {
        end(&stage, name).await;
    }
    let pods = stage.pods_of(&uid);
    assert_eq!(pods.len(), 1);
    assert!(pods[0].terminated.is_some(), "{pods:?}");
    assert_eq!(stage.pods_of(&never), []);
}
