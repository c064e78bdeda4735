//! The chart: its CRD is the crate's, its rendered copies are its own, and what they grant is what the two processes need.
//!
//! `SRCHAT_RENDER=1 cargo test -p srchat-tests --test chart` writes the copies anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kube::CustomResourceExt;
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::process::without_the_callers_settings;
use srchat_tests::tools;
use tokio::sync::OnceCell;

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

/// helm on the chart, with nothing of the caller's.
async fn helm(arguments: &[&str]) -> Output {
    static HELM: OnceCell<PathBuf> = OnceCell::const_new();
    let helm = HELM
        .get_or_init(|| async {
            tokio::task::spawn_blocking(tools::helm)
                .await
                .unwrap()
                .unwrap()
        })
        .await;
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(helm);
    without_the_callers_settings(&mut command);
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(folder, home.path());
    }
    command
        .args(arguments)
        .current_dir(charts())
        .output()
        .unwrap()
}

async fn rendered(settings: &[&str]) -> String {
    let mut arguments = vec![
        "template",
        "srchat",
        "srchat",
        "--namespace",
        "srchat-system",
        "--no-hooks",
    ];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    let output = helm(&arguments).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// Compares a file with what it should be, or writes it when that is asked for.
fn in_step(path: &Path, expected: &str) {
    if std::env::var_os("SRCHAT_RENDER").is_some() {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{} is not in step (line {:?}): run SRCHAT_RENDER=1 cargo test -p srchat-tests --test chart",
        path.display(),
        differs.map(|line| line + 1)
    );
}

#[test]
fn the_crd_is_the_crates() {
    let expected = serde_saphyr::to_string(&ChatSession::crd()).unwrap();
    in_step(&charts().join("srchat/templates/crd.yaml"), &expected);
}

#[tokio::test]
async fn the_rendered_copies_are_the_charts() {
    let all = rendered(&["createNamespace=true"]).await;
    let (stays, operator): (Vec<&str>, Vec<&str>) = all
        .trim_start_matches("---\n")
        .split("\n---\n")
        .partition(|document| {
            let source = document.lines().next().unwrap_or_default();
            source.ends_with("/crd.yaml") || source.ends_with("/namespaces.yaml")
        });
    let file = |head: &str, documents: &[&str]| {
        let documents: Vec<_> = documents
            .iter()
            .map(|document| document.trim_end())
            .collect();
        format!("{head}---\n{}\n", documents.join("\n---\n"))
    };
    in_step(
        &charts().join("rendered/stays.yaml"),
        &file(
            "# Rendered from charts/srchat. Apply first, and keep: deleting it deletes every session.\n",
            &stays,
        ),
    );
    in_step(
        &charts().join("rendered/operator.yaml"),
        &file(
            "# Rendered from charts/srchat. Apply after stays.yaml.\n",
            &operator,
        ),
    );
}

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() {
    let output = helm(&["lint", "--strict", "srchat"]).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn what_stays_is_kept_on_uninstall() {
    for document in documents(&rendered(&["createNamespace=true"]).await) {
        let kept = document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
        let stays =
            ["CustomResourceDefinition", "Namespace"].contains(&document["kind"].as_str().unwrap());
        assert_eq!(kept, stays, "{}", document["metadata"]["name"]);
    }
}

#[tokio::test]
async fn a_value_that_is_mistyped_is_refused_by_its_name() {
    for (setting, named) in [
        ("gatway.url=https://x", "gatway"),
        ("gateway.repicas=2", "repicas"),
        ("gateway.url=http://plain.example", "url"),
        ("gateway.replicas=many", "replicas"),
        ("image.digest=latest", "digest"),
        ("sessionsNamespace=No_Name", "sessionsNamespace"),
    ] {
        let output = helm(&[
            "template",
            "srchat",
            "srchat",
            "--namespace",
            "srchat-system",
            "--set",
            setting,
        ])
        .await;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && complaint.contains(named),
            "{setting}: {complaint}"
        );
    }
}

#[tokio::test]
async fn every_value_has_its_place_in_the_schema() {
    fn check(values: &Value, schema: &Value, path: &str) {
        for (name, value) in values.as_object().into_iter().flatten() {
            let property = &schema["properties"][name];
            assert!(
                !property.is_null(),
                "{path}{name} is not in values.schema.json"
            );
            if property.get("properties").is_some() {
                check(value, property, &format!("{path}{name}."));
            }
        }
    }
    let read = |file: &str| fs::read_to_string(charts().join("srchat").join(file)).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    check(
        &values,
        &serde_json::from_str(&read("values.schema.json")).unwrap(),
        "",
    );
}

#[tokio::test]
async fn the_sessions_namespace_is_nobody_elses() {
    for setting in [
        "sessionsNamespace=srchat-system",
        "watchNamespaces={srchat-sessions}",
    ] {
        let output = helm(&[
            "template",
            "srchat",
            "srchat",
            "--namespace",
            "srchat-system",
            "--set",
            setting,
        ])
        .await;
        assert!(!output.status.success(), "{setting} was accepted");
    }
}

#[tokio::test]
async fn watched_namespaces_narrow_the_rights_on_secrets_and_nothing_else() {
    let bindings = |yaml: &str, kind: &str| -> Vec<(String, String)> {
        documents(yaml)
            .iter()
            .filter(|document| document["kind"] == kind)
            .map(|document| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (
                    text(&document["metadata"]["namespace"]),
                    text(&document["roleRef"]["name"]),
                )
            })
            .collect()
    };
    let pair = |namespace: &str, role: &str| (namespace.to_owned(), role.to_owned());
    let everywhere = rendered(&[]).await;
    assert!(
        bindings(&everywhere, "ClusterRoleBinding")
            .contains(&pair("", "srchat-controller-tenants"))
    );

    let narrowed = rendered(&["watchNamespaces={team-a,team-b}"]).await;
    assert_eq!(
        bindings(&narrowed, "ClusterRoleBinding"),
        [pair("", "srchat-controller"), pair("", "srchat-gateway")],
        "sessions stay visible everywhere, so that a namespace can be deleted"
    );
    let in_namespaces = bindings(&narrowed, "RoleBinding");
    for namespace in ["team-a", "team-b"] {
        assert!(in_namespaces.contains(&pair(namespace, "srchat-controller-tenants")));
    }
}

/// The control plane of this process, with the rendered files applied as the README says.
async fn installed() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let control_plane = ControlPlane::shared().await;
    APPLIED
        .get_or_init(|| async {
            for file in ["stays.yaml", "operator.yaml"] {
                let mut kubectl = control_plane.kubectl();
                kubectl
                    .args(["apply", "--server-side", "--filename"])
                    .arg(charts().join("rendered").join(file));
                tools::run(&mut kubectl).unwrap();
            }
        })
        .await;
    control_plane
}

/// Whether a service account of ours may do this, as the API server says.
fn may(control_plane: &ControlPlane, account: &str, what: &[&str]) -> bool {
    let output = control_plane
        .kubectl()
        .args([
            "auth",
            "can-i",
            "--quiet",
            &format!("--as=system:serviceaccount:srchat-system:{account}"),
        ])
        .args(what)
        .output()
        .unwrap();
    output.status.success()
}

#[tokio::test]
async fn the_controller_may_do_its_work_and_no_more() {
    let control_plane = installed().await;
    for allowed in [
        &["list", "chatsessions.srchat.dev", "--all-namespaces"][..],
        &["watch", "chatsessions.srchat.dev", "--all-namespaces"],
        &["patch", "chatsessions.srchat.dev", "-n", "team-a"],
        &[
            "patch",
            "chatsessions.srchat.dev",
            "--subresource=status",
            "-n",
            "team-a",
        ],
        &[
            "update",
            "chatsessions.srchat.dev",
            "--subresource=finalizers",
            "-n",
            "team-a",
        ],
        &["create", "events.events.k8s.io", "-n", "team-a"],
        &["get", "namespaces/kube-system"],
        &["create", "secrets", "-n", "team-a"],
        &["create", "configmaps", "-n", "team-a"],
        &["list", "secrets", "-n", "srchat-system"],
        &["delete", "secrets", "-n", "srchat-sessions"],
        &[
            "update",
            "leases.coordination.k8s.io",
            "-n",
            "srchat-system",
        ],
    ] {
        assert!(
            may(control_plane, "srchat-controller", allowed),
            "the controller may not {allowed:?}"
        );
    }
    for denied in [
        &["list", "secrets", "--all-namespaces"][..],
        &["list", "secrets", "-n", "team-a"],
        &["watch", "secrets", "-n", "kube-system"],
        &["create", "chatsessions.srchat.dev", "-n", "team-a"],
        &[
            "update",
            "chatsessions.srchat.dev",
            "--subresource=abandon",
            "-n",
            "team-a",
        ],
        &["delete", "namespaces"],
        &["create", "pods", "-n", "srchat-system"],
        &["create", "clusterroles.rbac.authorization.k8s.io"],
        &["impersonate", "users"],
    ] {
        assert!(
            !may(control_plane, "srchat-controller", denied),
            "the controller may {denied:?}"
        );
    }
}

#[tokio::test]
async fn the_gateway_reads_routes_and_asks_who_is_who() {
    let control_plane = installed().await;
    for allowed in [
        &["watch", "secrets", "-n", "srchat-sessions"][..],
        &["create", "tokenreviews.authentication.k8s.io"],
        &["create", "subjectaccessreviews.authorization.k8s.io"],
    ] {
        assert!(
            may(control_plane, "srchat-gateway", allowed),
            "the gateway may not {allowed:?}"
        );
    }
    for denied in [
        &["get", "secrets", "-n", "srchat-system"][..],
        &["get", "secrets", "-n", "team-a"],
        &["update", "secrets", "-n", "srchat-sessions"],
        &["create", "secrets", "-n", "srchat-sessions"],
        &["get", "chatsessions.srchat.dev", "-n", "team-a"],
        &[
            "patch",
            "chatsessions.srchat.dev",
            "--subresource=status",
            "-n",
            "team-a",
        ],
    ] {
        assert!(
            !may(control_plane, "srchat-gateway", denied),
            "the gateway may {denied:?}"
        );
    }
}

/// A session of this name, with or without letting go of a pod.
fn abandoning(namespace: &str, pod: Option<&str>) -> Value {
    let annotations = pod.map_or(json!({}), |pod| json!({ "srchat.dev/abandon": pod }));
    json!({
        "apiVersion": "srchat.dev/v1alpha1",
        "kind": "ChatSession",
        "metadata": { "name": "stuck", "namespace": namespace, "annotations": annotations },
        "spec": { "model": "a/b", "replicas": 0 },
    })
}

/// `kubectl apply` as somebody of a group that the test has bound; the answer in words.
fn apply(control_plane: &ControlPlane, user: &str, object: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), object.to_string()).unwrap();
    let mut kubectl = control_plane.kubectl();
    kubectl
        .arg(format!("--as={user}"))
        .args(["apply", "--filename"])
        .arg(file.path());
    tools::run(&mut kubectl).map_err(|error| error.to_string())
}

#[tokio::test]
async fn only_an_admin_lets_go_of_a_pod() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("abandon").await.unwrap();
    for (user, role) in [
        ("editor", "srchat-user"),
        ("chief", "srchat-user"),
        ("chief", "srchat-admin"),
    ] {
        let mut kubectl = control_plane.kubectl();
        kubectl.args([
            "create",
            "rolebinding",
            &format!("{user}-{role}"),
            "-n",
            &namespace,
        ]);
        kubectl.args([&format!("--user={user}"), &format!("--clusterrole={role}")]);
        tools::run(&mut kubectl).unwrap();
    }
    // The policy is enforced a moment after it was made.
    srchat_tests::eventually::eventually(
        "the policy to be in force",
        std::time::Duration::from_secs(60),
        || async {
            match apply(
                control_plane,
                "editor",
                &abandoning(&namespace, Some("early")),
            ) {
                Err(refused) if refused.contains("chatsessions/abandon") => Ok(()),
                Err(other) => Err(other),
                Ok(_) => {
                    let mut kubectl = control_plane.kubectl();
                    kubectl.args(["delete", "chat", "stuck", "-n", &namespace]);
                    tools::run(&mut kubectl).map_err(|error| error.to_string())?;
                    Err("an editor could write the annotation".to_owned())
                }
            }
        },
    )
    .await;

    apply(control_plane, "editor", &abandoning(&namespace, None)).unwrap();
    let refused = apply(
        control_plane,
        "editor",
        &abandoning(&namespace, Some("pod1")),
    )
    .unwrap_err();
    assert!(refused.contains("srchat-admin"), "{refused}");
    apply(
        control_plane,
        "chief",
        &abandoning(&namespace, Some("pod1")),
    )
    .unwrap();
    // What stands there already is in nobody's way, and may be taken back.
    let mut others = abandoning(&namespace, Some("pod1"));
    others["spec"]["limits"] = json!({ "lifetime": "1h" });
    apply(control_plane, "editor", &others).unwrap();
    apply(control_plane, "editor", &abandoning(&namespace, None)).unwrap();
}

#[tokio::test]
async fn people_get_their_rights_from_the_clusters_own_roles() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("people").await.unwrap();
    for role in ["view", "edit", "admin"] {
        let mut kubectl = control_plane.kubectl();
        kubectl.args(["create", "rolebinding", role, "-n", &namespace]);
        kubectl.args([
            &format!("--user={role}er"),
            &format!("--clusterrole={role}"),
        ]);
        tools::run(&mut kubectl).unwrap();
    }
    let may = |user: &str, what: &[&str]| {
        let mut kubectl = control_plane.kubectl();
        kubectl
            .args([
                "auth",
                "can-i",
                "--quiet",
                &format!("--as={user}"),
                "-n",
                &namespace,
            ])
            .args(what);
        kubectl.output().unwrap().status.success()
    };
    srchat_tests::eventually::eventually(
        "the roles to be aggregated",
        std::time::Duration::from_secs(60),
        || async {
            let admin = ["update", "chatsessions.srchat.dev", "--subresource=abandon"];
            if may("adminer", &admin) && may("viewer", &["list", "chatsessions.srchat.dev"]) {
                Ok(())
            } else {
                Err("not yet")
            }
        },
    )
    .await;
    assert!(!may("viewer", &["create", "chatsessions.srchat.dev"]));
    assert!(may("editer", &["create", "chatsessions.srchat.dev"]));
    assert!(may(
        "editer",
        &["patch", "chatsessions.srchat.dev", "--subresource=scale"]
    ));
    assert!(may(
        "editer",
        &["create", "chatsessions.srchat.dev", "--subresource=chat"]
    ));
    assert!(!may(
        "editer",
        &["update", "chatsessions.srchat.dev", "--subresource=abandon"]
    ));
    assert!(!may(
        "editer",
        &["patch", "chatsessions.srchat.dev", "--subresource=status"]
    ));
}
