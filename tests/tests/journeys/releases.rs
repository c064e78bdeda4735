//! The resource ChatSession of another release than the controller's and srchat's: what they tell and ask for may not be in it, or less
//! than is.
#![allow(clippy::unwrap_used)]

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::stand_ins::TINY;

use super::resource::{SCHEMA, anything, install, installed};
use super::stage::{Alone, STEP, Stage};

/// `srchat` as an administrator runs it: its exit code, and all that it said.
fn srchat(stage: &Stage<Alone>, arguments: &[&str]) -> (Option<i32>, String) {
    let ran = stage
        .rig
        .binaries
        .srchat(stage.rig.cluster().kubeconfig(), arguments);
    ran.unwrap()
}

/// Waits until doctor says this of the resource: the API server takes a changed one up in its own time.
async fn until_doctor_says(stage: &Stage<Alone>, words: &str) {
    let what = format!("doctor to say {words:?}");
    eventually(&what, STEP, || async {
        let (_, said) = srchat(stage, &["doctor"]);
        if said.contains(words) {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

/// Without what came later: a limit with its rules, and two fields of the status.
fn older(resource: &Value) -> Value {
    let mut older = resource.clone();
    let fields = older.pointer_mut(SCHEMA).unwrap();
    for (parent, field) in [
        ("/spec/properties/limits", "maxTotalCost"),
        ("/status", "startup"),
        ("/status", "cost"),
    ] {
        let parent = fields.pointer_mut(parent).unwrap();
        let properties = parent["properties"].as_object_mut().unwrap();
        assert!(properties.remove(field).is_some(), "{field}");
        if let Some(rules) = parent.get_mut("x-kubernetes-validations") {
            let mentions = |rule: &Value| rule["rule"].as_str().unwrap().contains(field);
            rules.as_array_mut().unwrap().retain(|rule| !mentions(rule));
        }
    }
    older
}

/// With what will come later.
fn newer(resource: &Value) -> Value {
    let mut newer = resource.clone();
    for part in ["spec", "status"] {
        let part = newer.pointer_mut(&format!("{SCHEMA}/{part}")).unwrap();
        part["properties"]["tomorrow"] = json!({"type": "string"});
    }
    newer
}

pub async fn a_resource_of_another_release_drops_no_limit_in_silence_and_holds_up_no_end() {
    let stage = Stage::alone().await;
    let ours = installed(&stage).await;

    install(&stage, &older(&ours)).await;
    until_doctor_says(
        &stage,
        "it lacks spec.limits.maxTotalCost, status.cost, status.startup",
    )
    .await;
    let (code, said) = srchat(&stage, &["plan", TINY, "--max-total-cost", "3"]);
    assert_eq!(code, Some(1), "{said}");
    let sentence = "does not know spec.limits.maxTotalCost, and would have dropped it";
    assert!(said.contains(sentence) && said.contains("hint: "), "{said}");

    // What can be shown is shown, and what was rented ends.
    stage.apply("under-older", json!({})).await;
    stage.until("under-older", Type::Ready, "Serving").await;
    let shown = anything(&stage).get("under-older").await.unwrap().data;
    assert!(shown["status"]["plan"].is_object(), "{shown}");
    assert_eq!(shown["status"]["cost"], Value::Null, "{shown}");
    stage.end("under-older").await;

    // Fields of a later release are kept as they are, and nothing is lost by them.
    install(&stage, &newer(&ours)).await;
    until_doctor_says(&stage, "ChatSession is known").await;
    stage.apply("under-newer", json!({})).await;
    let params = PatchParams::default();
    let tomorrow = Patch::Merge(json!({"spec": {"tomorrow": "yes"}}));
    anything(&stage)
        .patch("under-newer", &params, &tomorrow)
        .await
        .unwrap();
    stage.until("under-newer", Type::Ready, "Serving").await;
    let shown = anything(&stage).get("under-newer").await.unwrap().data;
    assert_eq!(shown["spec"]["tomorrow"], "yes");
    stage.end("under-newer").await;
    install(&stage, &ours).await;
    until_doctor_says(&stage, "ChatSession is known").await;
}
