//! The gateway faces users: whoever takes it over has what it has, so it has little.

use serde_json::json;

use crate::caller::{Caller, create, delete, get, patch};
use crate::stage::{
    SESSIONS, SYSTEM, Tenant, escalations, installed, secret, secrets, session, sessions, token_of,
};

#[tokio::test]
async fn the_gateway_reads_routes_and_asks_who_is_who() {
    let control_plane = installed().await;
    let admin = Caller::admin(control_plane).await;
    let gateway = Caller::account(control_plane, SYSTEM, "srchat-gateway").await;
    let team = Tenant::new(control_plane, "served").await.namespace;
    let review = |kind: &str, group: &str, spec| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
    gateway
        .can(&[
            get(secrets(SESSIONS)),
            get(format!("{}/route-uid", secrets(SESSIONS))),
            get(format!("{}?watch=1&timeoutSeconds=1", secrets(SESSIONS))),
            create(
                "/apis/authentication.k8s.io/v1/tokenreviews",
                review("TokenReview", "authentication.k8s.io", json!({"token": "x", "audiences": ["srchat"]})),
            ),
            create(
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                review(
                    "SubjectAccessReview",
                    "authorization.k8s.io",
                    json!({"user": "x", "resourceAttributes": {
                        "group": "srchat.dev", "resource": "chatsessions", "subresource": "chat", "verb": "create", "namespace": team,
                    }}),
                ),
            ),
        ])
        .await;

    let mut refused = vec![
        // The provider's key, the ledgers with the keys that are root, and everybody else's Secrets.
        get(format!("{}/srchat-provider", secrets(SYSTEM))),
        get(format!("{}/ledger-uid", secrets(SYSTEM))),
        get(secrets(SYSTEM)),
        get(format!("{}/private", secrets(&team))),
        get(format!("{}/qwen-chat", secrets(&team))),
        get(secrets(&team)),
        get("/api/v1/secrets"),
        get(secrets("kube-system")),
        // What it reads it may not write: a route is a way to a host.
        create(secrets(SESSIONS), secret("route-mine")),
        patch(
            format!("{}/route-uid", secrets(SESSIONS)),
            json!({"stringData": {"key": "mine"}}),
        ),
        delete(format!("{}/route-uid", secrets(SESSIONS))),
        create(secrets(SESSIONS), token_of("default")),
        create(secrets(&team), secret("mine")),
        // Sessions are none of its business.
        get("/apis/srchat.dev/v1alpha1/chatsessions"),
        get(format!("{}/qwen", sessions(&team))),
        create(sessions(&team), session("mine")),
        delete(format!("{}/qwen", sessions(&team))),
        patch(
            format!("{}/qwen", sessions(&team)),
            json!({"spec": {"replicas": 1}}),
        ),
        patch(
            format!("{}/qwen/status", sessions(&team)),
            json!({"status": {"observedGeneration": 1}}),
        ),
        patch(
            format!("{}/qwen/scale", sessions(&team)),
            json!({"spec": {"replicas": 1}}),
        ),
        create(
            format!("/api/v1/namespaces/{team}/configmaps"),
            json!({"metadata": {"name": "srchat-receipt-1"}}),
        ),
        get("/api/v1/namespaces/kube-system"),
    ];
    refused.extend(escalations(&team));
    refused.extend(escalations(SYSTEM));
    refused.extend(escalations_without_pods(SESSIONS));
    gateway.cannot(&admin, &refused).await;
}

/// In a namespace that has no pods, what there is to try all the same.
fn escalations_without_pods(namespace: &str) -> Vec<crate::caller::Ask> {
    escalations(namespace)
        .into_iter()
        .filter(|ask| !ask.path.contains("/pods/p/"))
        .collect()
}
