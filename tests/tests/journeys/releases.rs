//! The resource ChatSession of another release than the controller's and srchat's: what they tell and ask for may not be in it, or less
//! than is.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::process::without_the_callers_settings;
use srchat_tests::stand_ins::TINY;

use super::stage::{Alone, STEP, Stage};

const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties";

/// Puts the resource in, whatever is there now.
async fn install(stage: &Stage<Alone>, resource: &Value) {
    let resources: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let name = resource["metadata"]["name"].as_str().unwrap();
    let mut resource: CustomResourceDefinition = serde_json::from_value(resource.clone()).unwrap();
    resource.metadata.resource_version =
        resources.get(name).await.unwrap().metadata.resource_version;
    let params = PostParams::default();
    resources.replace(name, &params, &resource).await.unwrap();
}

/// What `srchat` says and answers with, for an administrator.
fn srchat(stage: &Stage<Alone>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(&stage.rig.binaries.cli);
    without_the_callers_settings(&mut command);
    command
        .args(arguments)
        .env("KUBECONFIG", stage.rig.cluster().kubeconfig())
        .stdin(Stdio::null());
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code(), said)
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

async fn stored(stage: &Stage<Alone>, name: &str) -> Value {
    let resource = ApiResource::erase::<ChatSession>(&());
    let api: Api<DynamicObject> = Api::default_namespaced_with(stage.client.clone(), &resource);
    api.get(name).await.unwrap().data
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
    let resources: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let ours = resources.get("chatsessions.srchat.dev").await.unwrap();
    let ours = serde_json::to_value(&ours).unwrap();

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
    let shown = stored(&stage, "under-older").await;
    assert!(shown["status"]["plan"].is_object(), "{shown}");
    assert_eq!(shown["status"]["cost"], Value::Null, "{shown}");
    stage.end("under-older").await;

    // Fields of a later release are kept as they are, and nothing is lost by them.
    install(&stage, &newer(&ours)).await;
    until_doctor_says(&stage, "ChatSession is known").await;
    stage.apply("under-newer", json!({})).await;
    let resource = ApiResource::erase::<ChatSession>(&());
    let anything: Api<DynamicObject> =
        Api::default_namespaced_with(stage.client.clone(), &resource);
    let params = PatchParams::default();
    let tomorrow = Patch::Merge(json!({"spec": {"tomorrow": "yes"}}));
    anything
        .patch("under-newer", &params, &tomorrow)
        .await
        .unwrap();
    stage.until("under-newer", Type::Ready, "Serving").await;
    let shown = stored(&stage, "under-newer").await;
    assert_eq!(shown["spec"]["tomorrow"], "yes");
    stage.end("under-newer").await;
    install(&stage, &ours).await;
    until_doctor_says(&stage, "ChatSession is known").await;
}
