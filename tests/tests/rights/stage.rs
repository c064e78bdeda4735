//! The cluster on which rights are tried: the rendered manifests, and in each tenant's namespace something worth stealing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::tools;
use tokio::sync::OnceCell;

use crate::caller::{Ask, Caller, connect, create, delete, get};

/// Admission policies and aggregated roles are in force a moment after they were made; here the machine may be compiling.
pub const IN_FORCE: Duration = Duration::from_secs(60);
pub const SYSTEM: &str = "srchat-system";
pub const SESSIONS: &str = "srchat-sessions";

/// The control plane of this process, with the rendered files applied as the README says and the policies in force.
pub async fn installed() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let control_plane = ControlPlane::shared().await;
    APPLIED
        .get_or_init(|| async {
            control_plane.apply_rendered().unwrap();
            let mut kubectl = control_plane.kubectl();
            kubectl.args([
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "crd/chatsessions.srchat.dev",
            ]);
            tools::run(&mut kubectl).unwrap();
            let admin = Caller::admin(control_plane).await;
            for (namespace, name) in [
                (SYSTEM, "srchat-provider"),
                (SYSTEM, "ledger-uid"),
                (SESSIONS, "route-uid"),
            ] {
                let (status, said) = admin.ask(&create(secrets(namespace), secret(name))).await;
                assert!(status.is_success(), "{said}");
            }
            let (status, said) = admin
                .ask(&create(
                    format!("/api/v1/namespaces/{SYSTEM}/pods"),
                    pod("p"),
                ))
                .await;
            assert!(status.is_success(), "{said}");
            policies_in_force(control_plane).await;
        })
        .await;
    control_plane
}

/// Until the API server checks what the controller writes; it is told by the refusal of what RBAC alone allows.
async fn policies_in_force(control_plane: &ControlPlane) {
    let controller = Caller::account(control_plane, SYSTEM, "srchat-controller").await;
    for (what, ask) in [
        (
            "foreign Secrets",
            create(secrets("default"), secret("early")),
        ),
        (
            "tokens",
            create(secrets(SYSTEM), token_of("srchat-gateway")),
        ),
    ] {
        let mut ask = ask;
        ask.path.push_str("?dryRun=All");
        eventually(
            &format!("the policy on {what} to be in force"),
            IN_FORCE,
            || async {
                match controller.ask(&ask).await {
                    (status, _) if status.as_u16() == 403 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            },
        )
        .await;
    }
}

/// A tenant: a namespace, somebody who may edit in it, a session and what belongs to it.
pub struct Tenant {
    pub namespace: String,
    pub person: Caller,
}

impl Tenant {
    /// A new one, whose person has the cluster's own role `edit` in that namespace and nothing else.
    pub async fn new(control_plane: &ControlPlane, name: &str) -> Tenant {
        let admin = Caller::admin(control_plane).await;
        let namespace = control_plane.namespace(name).await.unwrap();
        bind(&admin, &namespace, name, &["edit"]).await;
        for object in [
            create(secrets(&namespace), secret("private")),
            create(secrets(&namespace), secret("qwen-chat")),
            create(sessions(&namespace), session("qwen")),
            create(
                format!("/api/v1/namespaces/{namespace}/configmaps"),
                json!({"metadata": {"name": "srchat-receipt-uid"}}),
            ),
        ] {
            let (status, said) = admin.ask(&object).await;
            assert!(status.is_success(), "{said}");
        }
        // Pods wait for the namespace's own service account.
        eventually("a pod to be taken", IN_FORCE, || async {
            match admin
                .ask(&create(
                    format!("/api/v1/namespaces/{namespace}/pods"),
                    pod("p"),
                ))
                .await
            {
                (status, _) if status.is_success() => Ok(()),
                (_, said) => Err(said.to_string()),
            }
        })
        .await;
        let person = Caller::account(control_plane, &namespace, name).await;
        eventually("the role edit to be aggregated", IN_FORCE, || async {
            match person.ask(&get(sessions(&namespace))).await {
                (status, _) if status.is_success() => Ok(()),
                (_, said) => Err(said.to_string()),
            }
        })
        .await;
        Tenant { namespace, person }
    }
}

/// Makes a service account and binds it to cluster roles within its namespace.
pub async fn bind(admin: &Caller, namespace: &str, name: &str, roles: &[&str]) {
    let mut asks: Vec<Ask> = vec![create(
        format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        json!({"metadata": {"name": name}}),
    )];
    asks.extend(roles.iter().map(|role| {
        create(
            format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
            json!({
                "metadata": {"name": format!("{name}-{role}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            }),
        )
    }));
    for ask in asks {
        let (status, said) = admin.ask(&ask).await;
        assert!(status.is_success(), "{said}");
    }
}

pub fn secrets(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

pub fn sessions(namespace: &str) -> String {
    format!("/apis/srchat.dev/v1alpha1/namespaces/{namespace}/chatsessions")
}

pub fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"key": "worth stealing"}})
}

/// A Secret such as the controller makes.
pub fn labelled(name: &str) -> Value {
    let mut secret = secret(name);
    secret["metadata"]["labels"] =
        json!(BTreeMap::from([("app.kubernetes.io/managed-by", "srchat")]));
    secret
}

/// A Secret that the token controller fills with a token of this service account, labelled as if it were ours.
pub fn token_of(account: &str) -> Value {
    let mut secret = labelled(&format!("token-of-{account}"));
    secret["type"] = json!("kubernetes.io/service-account-token");
    secret["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": account});
    secret
}

/// A session that rents nothing.
pub fn session(name: &str) -> Value {
    json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": name},
        "spec": {"model": "a/b", "replicas": 0},
    })
}

/// A pod that even a restricted namespace takes. There is no node, so it never runs.
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c", "image": "none",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// What every process of ours would need in order to become somebody else, in a namespace that has a pod `p`.
pub fn escalations(namespace: &str) -> Vec<Ask> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let us = json!([{"kind": "User", "name": "anybody"}]);
    let admin = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    vec![
        create(format!("/api/v1/namespaces/{namespace}/pods"), pod("mine")),
        connect(format!(
            "/api/v1/namespaces/{namespace}/pods/p/exec?command=id&stdout=true"
        )),
        connect(format!(
            "/api/v1/namespaces/{namespace}/pods/p/portforward?ports=22"
        )),
        connect(format!(
            "/api/v1/namespaces/{namespace}/pods/p/attach?stdout=true"
        )),
        get(format!("/api/v1/namespaces/{namespace}/pods")),
        create(
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/default/token"),
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["srchat"]}}),
        ),
        create(
            format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            json!({"metadata": {"name": "mine"}}),
        ),
        create(
            format!("{rbac}/clusterroles"),
            json!({"metadata": {"name": "mine"}, "rules": everything}),
        ),
        create(
            format!("{rbac}/clusterrolebindings"),
            json!({"metadata": {"name": "mine"}, "roleRef": admin, "subjects": us}),
        ),
        create(
            format!("{rbac}/namespaces/{namespace}/rolebindings"),
            json!({"metadata": {"name": "mine"}, "roleRef": admin, "subjects": us}),
        ),
        create(
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            json!({
                "metadata": {"name": "mine"},
                "spec": {"request": "", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
            }),
        ),
        create(
            format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            json!({
                "metadata": {"name": "mine"},
                "spec": {
                    "selector": {"matchLabels": {"a": "b"}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]},
                },
            }),
        ),
        delete_policy("srchat-abandon"),
        delete_policy("srchat-controller-writes"),
        delete_policy("srchat-controller-secrets"),
        get("/apis/srchat.dev/v1alpha1/chatsessions")
            .posing_as("system:serviceaccount:srchat-system:srchat-controller"),
    ]
}

fn delete_policy(name: &str) -> Ask {
    delete(format!(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{name}"
    ))
}
