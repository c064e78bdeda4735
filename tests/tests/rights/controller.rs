//! The controller: it writes beside every session, so what it may not do there matters most.

use serde_json::json;

use crate::caller::{Caller, create, delete, get, patch};
use crate::stage::{
    SESSIONS, SYSTEM, Tenant, escalations, installed, labelled, secret, secrets, session, sessions,
    token_of,
};

async fn controller() -> Caller {
    Caller::account(installed().await, SYSTEM, "srchat-controller").await
}

#[tokio::test]
async fn the_controller_may_do_its_work_and_no_more() {
    let control_plane = installed().await;
    let admin = Caller::admin(control_plane).await;
    let controller = controller().await;
    let team = Tenant::new(control_plane, "work").await.namespace;
    let lease = "/apis/coordination.k8s.io/v1/namespaces";
    let event = json!({
        "metadata": {"name": "mine"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Rent", "reason": "Renting",
        "type": "Normal", "reportingController": "srchat", "reportingInstance": "srchat-1",
        "regarding": {"kind": "ChatSession", "name": "qwen", "namespace": team},
    });
    controller
        .can(&[
            get("/apis/srchat.dev/v1alpha1/chatsessions"),
            get("/apis/srchat.dev/v1alpha1/chatsessions?watch=1&timeoutSeconds=1"),
            patch(format!("{}/qwen", sessions(&team)), json!({"metadata": {"finalizers": ["srchat.dev/teardown"]}})),
            patch(format!("{}/qwen/status", sessions(&team)), json!({"status": {"observedGeneration": 1}})),
            delete(format!("{}/qwen", sessions(&team))),
            create(format!("/apis/events.k8s.io/v1/namespaces/{team}/events"), event),
            get("/api/v1/namespaces/kube-system"),
            // Beside the sessions: what it publishes, receipts, and by name any Secret: RBAC cannot say "only labelled ones".
            create(secrets(&team), labelled("new-chat")),
            get(format!("{}/private", secrets(&team))),
            create(
                format!("/api/v1/namespaces/{team}/configmaps"),
                json!({"metadata": {"name": "srchat-receipt-1", "labels": {"app.kubernetes.io/managed-by": "srchat"}}}),
            ),
            // Its own.
            get(format!("{}/srchat-provider", secrets(SYSTEM))),
            get(secrets(SYSTEM)),
            create(secrets(SYSTEM), labelled("ledger-new")),
            patch(format!("{}/ledger-uid", secrets(SYSTEM)), json!({"stringData": {"key": "new"}})),
            delete(format!("{}/ledger-uid", secrets(SYSTEM))),
            create(secrets(SESSIONS), labelled("route-new")),
            delete(format!("{}/route-uid", secrets(SESSIONS))),
            create(format!("{lease}/{SYSTEM}/leases"), json!({"metadata": {"name": "srchat-controller"}})),
        ])
        .await;

    let mut refused = vec![
        get("/api/v1/secrets"),
        get(secrets(&team)),
        get(format!(
            "{}?watch=1&timeoutSeconds=1",
            secrets("kube-system")
        )),
        create(sessions(&team), session("mine")),
        get(format!("/api/v1/namespaces/{team}/configmaps")),
        patch(
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
            json!({"data": {"client-ca-file": "mine"}}),
        ),
        patch(
            format!("/api/v1/namespaces/{team}"),
            json!({"metadata": {"labels": {"mine": "true"}}}),
        ),
        delete(format!("/api/v1/namespaces/{team}")),
        create(
            format!("{lease}/{team}/leases"),
            json!({"metadata": {"name": "srchat-controller"}}),
        ),
        patch(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chatsessions.srchat.dev",
            json!({"metadata": {"labels": {"mine": "true"}}}),
        ),
    ];
    refused.extend(escalations(&team));
    refused.extend(escalations(SYSTEM));
    controller.cannot(&admin, &refused).await;
}

#[tokio::test]
async fn the_controller_writes_among_others_only_what_is_its_own() {
    let control_plane = installed().await;
    let admin = Caller::admin(control_plane).await;
    let controller = controller().await;
    let team = Tenant::new(control_plane, "others").await.namespace;
    let maps = format!("/api/v1/namespaces/{team}/configmaps");
    // RBAC lets all of these pass; the admission policies do not.
    controller
        .cannot(
            &admin,
            &[
                create(secrets(&team), secret("unlabelled")),
                create(secrets("kube-system"), secret("unlabelled")),
                patch_by_put(&admin, &secrets(&team), "private").await,
                delete(format!("{}/private", secrets(&team))),
                create(maps, json!({"metadata": {"name": "unlabelled"}})),
            ],
        )
        .await;

    // What it owns stays its own when somebody takes the label off: otherwise an end could be blocked that way.
    let (_, owner) = admin.ask(&get(format!("{}/qwen", sessions(&team)))).await;
    let mut owned = secret("owned");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession", "name": "qwen", "uid": owner["metadata"]["uid"],
    }]);
    let (status, said) = admin.ask(&create(secrets(&team), owned)).await;
    assert!(status.is_success(), "{said}");
    controller
        .can(&[
            patch_by_put(&admin, &secrets(&team), "owned").await,
            delete(format!("{}/owned", secrets(&team))),
        ])
        .await;
}

/// The way the controller changes a Secret: it has no right to patch one there.
async fn patch_by_put(admin: &Caller, secrets: &str, name: &str) -> crate::caller::Ask {
    let path = format!("{secrets}/{name}");
    let (status, mut found) = admin.ask(&get(path.clone())).await;
    assert!(status.is_success(), "{found}");
    found["stringData"] = json!({"key": "mine"});
    crate::caller::put(path, found)
}

#[tokio::test]
async fn the_controller_makes_no_secret_that_the_cluster_would_fill_with_a_token() {
    let control_plane = installed().await;
    let admin = Caller::admin(control_plane).await;
    let team = Tenant::new(control_plane, "tokens").await.namespace;
    let asks = [
        create(secrets(&team), token_of("default")),
        create(
            secrets("kube-system"),
            token_of("clusterrole-aggregation-controller"),
        ),
        create(secrets(SYSTEM), token_of("srchat-gateway")),
    ];
    controller().await.cannot(&admin, &asks).await;
}
