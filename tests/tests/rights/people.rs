//! What the cluster's own roles give to people, and the one act that is an admin's: letting go of a pod without proof.

use serde_json::{Value, json};
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;

use crate::caller::{Caller, create, delete, get, patch};
use crate::stage::{IN_FORCE, bind, installed, session, sessions};

/// Somebody with these cluster roles in one namespace.
async fn person(
    control_plane: &ControlPlane,
    namespace: &str,
    name: &str,
    roles: &[&str],
) -> Caller {
    let admin = Caller::admin(control_plane).await;
    bind(&admin, namespace, name, roles).await;
    Caller::account(control_plane, namespace, name).await
}

#[tokio::test]
async fn people_get_their_rights_from_the_clusters_own_roles() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("people").await.unwrap();
    let admin = Caller::admin(control_plane).await;
    let viewer = person(control_plane, &namespace, "viewer", &["view"]).await;
    let editor = person(control_plane, &namespace, "editor", &["edit"]).await;
    let chief = person(control_plane, &namespace, "chief", &["admin"]).await;
    let session_there = || create(sessions(&namespace), session("qwen"));
    eventually("the role edit to be aggregated", IN_FORCE, || async {
        match editor.ask(&session_there()).await {
            (status, _) if status.is_success() => Ok(()),
            (_, said) => Err(said.to_string()),
        }
    })
    .await;
    for person in [&viewer, &chief] {
        eventually("the roles to be aggregated", IN_FORCE, || async {
            match person.ask(&get(sessions(&namespace))).await {
                (status, _) if status.is_success() => Ok(()),
                (_, said) => Err(said.to_string()),
            }
        })
        .await;
    }

    let one = format!("{}/qwen", sessions(&namespace));
    let writes = [
        create(sessions(&namespace), session("second")),
        patch(one.clone(), json!({"spec": {"limits": {"lifetime": "1h"}}})),
        patch(format!("{one}/scale"), json!({"spec": {"replicas": 0}})),
        delete(one.clone()),
    ];
    let reads = [
        get(sessions(&namespace)),
        get(one.clone()),
        get(format!("{one}/scale")),
        get(format!("{one}/status")),
    ];
    for person in [&viewer, &editor, &chief] {
        person.can(&reads).await;
    }
    viewer.cannot(&admin, &writes).await;
    for person in [&editor, &chief] {
        person.can(&writes).await;
    }
    // Status is the controller's word.
    let status = patch(
        format!("{one}/status"),
        json!({"status": {"observedGeneration": 1}}),
    );
    for person in [&viewer, &editor, &chief] {
        person.cannot(&admin, std::slice::from_ref(&status)).await;
    }
}

#[tokio::test]
async fn chatting_needs_the_role_that_may_make_sessions() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("chatting").await.unwrap();
    let gateway = Caller::account(control_plane, crate::stage::SYSTEM, "srchat-gateway").await;
    let viewer = person(control_plane, &namespace, "viewer", &["srchat-viewer"]).await;
    let user = person(control_plane, &namespace, "user", &["srchat-user"]).await;
    // As the gateway asks.
    let may = async |who: &Caller, subresource: &str, namespace: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": who.name(), "resourceAttributes": {
                "group": "srchat.dev", "resource": "chatsessions", "subresource": subresource, "verb": "create",
                "name": "qwen", "namespace": namespace,
            }},
        });
        let (status, said) = gateway
            .ask(&create(
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                review,
            ))
            .await;
        assert!(status.is_success(), "{said}");
        said["status"]["allowed"] == json!(true)
    };
    for subresource in ["chat", "files"] {
        assert!(may(&user, subresource, &namespace).await);
        assert!(!may(&user, subresource, "default").await, "elsewhere");
        assert!(!may(&viewer, subresource, &namespace).await);
    }
}

/// A session of this name, with or without letting go of a pod.
fn abandoning(name: &str, pod: Option<&str>) -> Value {
    let mut session = session(name);
    session["metadata"]["annotations"] = json!({"srchat.dev/abandon": pod});
    session
}

#[tokio::test]
async fn only_an_admin_lets_go_of_a_pod() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("abandon").await.unwrap();
    let admin = Caller::admin(control_plane).await;
    let editor = person(control_plane, &namespace, "editor", &["srchat-user"]).await;
    let chief = person(
        control_plane,
        &namespace,
        "chief",
        &["srchat-user", "srchat-admin"],
    )
    .await;
    let there = sessions(&namespace);
    let one = format!("{there}/stuck");
    // The policy is enforced a moment after it was made.
    let mut early = create(&there, abandoning("early", Some("pod0")));
    early.path.push_str("?dryRun=All");
    let refusal = eventually("the policy to be in force", IN_FORCE, || async {
        match editor.ask(&early).await {
            (status, said) if status.as_u16() == 403 => Ok(said["message"].to_string()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(refusal.contains("srchat-admin"), "{refusal}");

    let let_go = |pod: Value| {
        patch(
            one.clone(),
            json!({"metadata": {"annotations": {"srchat.dev/abandon": pod}}}),
        )
    };
    editor
        .cannot(&admin, &[create(&there, abandoning("born", Some("pod1")))])
        .await;
    let (status, said) = editor.ask(&create(&there, session("stuck"))).await;
    assert!(status.is_success(), "{said}");
    editor.cannot(&admin, &[let_go("pod1".into())]).await;
    let (status, said) = chief.ask(&let_go("pod1".into())).await;
    assert!(status.is_success(), "{said}");
    // What stands there already is in nobody's way and may be taken back, but not turned to another pod.
    editor.cannot(&admin, &[let_go("pod2".into())]).await;
    editor
        .can(&[
            patch(one.clone(), json!({"spec": {"limits": {"lifetime": "1h"}}})),
            let_go(Value::Null),
        ])
        .await;
}
