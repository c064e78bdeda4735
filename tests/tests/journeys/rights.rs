//! Rights that are not there yet, and rights that went first: `watchNamespaces` binds them in each namespace, and a namespace that is
//! deleted loses its bindings before its sessions.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;
use srchat_crds::conditions::Type;

use super::stage::Stage;

/// The chart's name for the rights on Secrets and receipts beside sessions.
const TENANTS: &str = "srchat-controller-tenants";

pub async fn without_rights_to_secrets_nothing_is_rented_and_what_was_is_ended_all_the_same() {
    let stage = Stage::alone().await;
    let everywhere: Api<ClusterRoleBinding> = Api::all(stage.client.clone());
    let here: Api<RoleBinding> = Api::default_namespaced(stage.client.clone());
    let whole = everywhere.get(TENANTS).await.unwrap();
    let delete = Default::default();
    everywhere.delete(TENANTS, &delete).await.unwrap();

    stage.apply("rightless", json!({})).await;
    let said = stage
        .until("rightless", Type::EndpointPublished, "SecretsForbidden")
        .await;
    assert!(said.contains("watchNamespaces"), "{said}");
    stage
        .until("rightless", Type::Ready, "SecretsForbidden")
        .await;
    assert_eq!(stage.pods("rightless").await, []);

    // As the chart binds them with `watchNamespaces: [default]`.
    let narrow = RoleBinding {
        metadata: ObjectMeta {
            name: Some(TENANTS.to_owned()),
            ..ObjectMeta::default()
        },
        role_ref: whole.role_ref.clone(),
        subjects: whole.subjects.clone(),
    };
    here.create(&PostParams::default(), &narrow).await.unwrap();
    stage.until("rightless", Type::Ready, "Serving").await;

    // Taken away again, as by the deletion of the namespace: who has the token chats on, and the end comes all the same.
    here.delete(TENANTS, &delete).await.unwrap();
    stage
        .ask("rightless", "What is the capital of France?")
        .await;
    stage.end("rightless").await;

    let again = ClusterRoleBinding {
        metadata: ObjectMeta {
            name: Some(TENANTS.to_owned()),
            labels: whole.metadata.labels,
            ..ObjectMeta::default()
        },
        ..whole
    };
    everywhere
        .create(&PostParams::default(), &again)
        .await
        .unwrap();
}
