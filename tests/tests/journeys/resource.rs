//! The resource ChatSession itself, for journeys on which another one than ours is installed.
#![allow(clippy::unwrap_used)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::Value;
use srchat_crds::ChatSession;

use super::stage::{Alone, Stage};

const NAME: &str = "chatsessions.srchat.dev";
/// Where it says what a session has.
pub const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties";

fn resources(stage: &Stage<Alone>) -> Api<CustomResourceDefinition> {
    Api::all(stage.client.clone())
}

/// The one that is there.
pub async fn installed(stage: &Stage<Alone>) -> Value {
    let found = resources(stage).get(NAME).await.unwrap();
    serde_json::to_value(&found).unwrap()
}

/// Puts another in its place, whatever became of it meanwhile.
pub async fn install(stage: &Stage<Alone>, resource: &Value) {
    let resources = resources(stage);
    let mut resource: CustomResourceDefinition = serde_json::from_value(resource.clone()).unwrap();
    let found = resources.get(NAME).await.unwrap();
    resource.metadata.resource_version = found.metadata.resource_version;
    let params = PostParams::default();
    resources.replace(NAME, &params, &resource).await.unwrap();
}

/// Sessions as anything at all.
pub fn anything(stage: &Stage<Alone>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<ChatSession>(&());
    Api::default_namespaced_with(stage.client.clone(), &resource)
}
