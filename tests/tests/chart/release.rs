//! A release on a real API server: installed, upgraded, refused a second time, uninstalled. There is no node here, so nothing of it
//! runs but what the test runs itself, with the account that it would run with.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use srchat_crds::{ChatSession, FINALIZER};
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::operator_binaries::OperatorBinaries;
use srchat_tests::process::without_the_callers_settings;

use crate::helm::{arguments, at, charts, documents, rendered_with_hooks};

/// The API server answers at once; here the machine may be compiling.
const PATIENCE: Duration = Duration::from_secs(60);

/// helm's verb on the release, without hooks: there is no node that could run them.
async fn helm(control_plane: &ControlPlane, verb: &str, settings: &[&str]) -> Output {
    let mut all = arguments(verb, settings);
    match verb {
        "uninstall" => drop(all.remove(2)),
        "install" => all.push("--create-namespace"),
        _ => {}
    }
    all.push("--no-hooks");
    at(Some(control_plane.kubeconfig()), &all).await
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn done(control_plane: &ControlPlane, verb: &str, settings: &[&str]) {
    let output = helm(control_plane, verb, settings).await;
    assert!(output.status.success(), "{verb}: {}", said(&output));
}

fn session(name: &str) -> ChatSession {
    serde_json::from_value(json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession", "metadata": {"name": name},
        "spec": {"model": "a/b", "replicas": 0},
    }))
    .unwrap()
}

/// A copy of the chart, of a later version whose CRD has one more field.
fn next_version() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let from = charts().join("srchat");
    let to = copy.path().join("srchat");
    copy_folder(&from, &to);
    let chart = fs::read_to_string(from.join("Chart.yaml")).unwrap();
    fs::write(
        to.join("Chart.yaml"),
        chart.replace("version: 0.1.0", "version: 0.2.0"),
    )
    .unwrap();
    let crd = fs::read_to_string(from.join("templates/crd.yaml")).unwrap();
    let version = "    name: v1alpha1\n";
    let warning = "    deprecated: true\n    deprecationWarning: of the next version\n";
    let changed = crd.replacen(version, &format!("{version}{warning}"), 1);
    assert_ne!(changed, crd, "the CRD has a version v1alpha1");
    fs::write(to.join("templates/crd.yaml"), changed).unwrap();
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn warning(control_plane: &ControlPlane) -> Option<String> {
    let crds: Api<CustomResourceDefinition> = Api::all(control_plane.client().await.unwrap());
    let crd = crds.get("chatsessions.srchat.dev").await.unwrap();
    crd.spec.versions[0].deprecation_warning.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_installed_once_upgraded_with_its_crd_and_leaves_what_is_kept() {
    let control_plane = &ControlPlane::start().await.unwrap();
    done(control_plane, "install", &[]).await;
    let sessions: Api<ChatSession> =
        Api::namespaced(control_plane.client().await.unwrap(), "default");
    eventually("a session to be taken", PATIENCE, || async {
        sessions
            .create(&PostParams::default(), &session("qwen"))
            .await
    })
    .await;

    // Two would rent on one account and write one CRD: the second is refused, and names what it ran into.
    let second = [
        "install",
        "other",
        "srchat",
        "--namespace",
        "elsewhere",
        "--create-namespace",
        "--no-hooks",
        "--set",
        "sessionsNamespace=other-sessions",
    ];
    let refused = at(Some(control_plane.kubeconfig()), &second).await;
    let complaint = said(&refused);
    assert!(
        !refused.status.success()
            && complaint.contains("srchat")
            && complaint.contains("release-name"),
        "{complaint}"
    );

    // helm never upgrades what stands in crds/; this CRD is a template.
    assert_eq!(warning(control_plane).await, None);
    let next = next_version();
    let chart = next.path().join("srchat").display().to_string();
    let upgrade = [
        "upgrade",
        "srchat",
        &chart,
        "--namespace",
        "srchat-system",
        "--reuse-values",
        "--no-hooks",
        "--set",
        "uninstall.drain=true",
    ];
    let output = at(Some(control_plane.kubeconfig()), &upgrade).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        warning(control_plane).await.as_deref(),
        Some("of the next version")
    );
    assert!(
        sessions.get_opt("qwen").await.unwrap().is_some(),
        "live sessions stay"
    );

    done(control_plane, "uninstall", &[]).await;
    assert!(
        sessions.get_opt("qwen").await.unwrap().is_some(),
        "and so do they without the operator"
    );
    let namespaces: Api<Namespace> = Api::all(control_plane.client().await.unwrap());
    assert!(
        namespaces
            .get_opt("srchat-sessions")
            .await
            .unwrap()
            .is_some()
    );
    done(control_plane, "install", &[]).await;
    assert!(
        sessions.get_opt("qwen").await.unwrap().is_some(),
        "and are found again by the next installation"
    );
}

/// Applies the uninstallation's account and rights, as helm would before it runs the Job, and gives the Job's arguments.
async fn hooks(control_plane: &ControlPlane, settings: &[&str]) -> Vec<String> {
    let mut job = None;
    for hook in documents(&rendered_with_hooks(settings).await) {
        if hook["metadata"]["annotations"]["helm.sh/hook"] != "pre-delete" {
            continue;
        }
        if hook["kind"] == "Job" {
            job = Some(hook);
            continue;
        }
        control_plane
            .kubectl_with(
                &["apply", "--server-side", "--filename=-"],
                &hook.to_string(),
            )
            .unwrap();
    }
    let container = &job.unwrap()["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["env"],
        json!([{"name": "SRCHAT_NAMESPACE", "value": "srchat-system"}])
    );
    let arguments = container["args"].as_array().unwrap().iter();
    arguments
        .map(|argument| argument.as_str().unwrap().to_owned())
        .collect()
}

/// What the Job's container would run, with the Job's account.
async fn uninstall(control_plane: &ControlPlane, arguments: &[String]) -> Output {
    let kubeconfig = control_plane
        .kubeconfig_of("srchat-system", "srchat-uninstall")
        .await
        .unwrap();
    let mut command =
        tokio::process::Command::new(OperatorBinaries::build().await.unwrap().operator);
    without_the_callers_settings(command.as_std_mut());
    command.env("KUBECONFIG", kubeconfig).args(arguments);
    command.output().await.unwrap()
}

fn ledger(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "srchat", "srchat.dev/uid": uid}},
        // Of a version that is not known here: what it stands for cannot be told, so it may stand for a pod.
        "stringData": {"ledger.json": "{\"version\": 99}"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_uninstallation_names_what_is_in_its_way_and_ends_it_when_told_to() {
    // Compiling is no part of what is waited for.
    OperatorBinaries::build().await.unwrap();
    let control_plane = &ControlPlane::start().await.unwrap();
    done(control_plane, "install", &[]).await;
    let client = control_plane.client().await.unwrap();
    let sessions: Api<ChatSession> = Api::namespaced(client.clone(), "default");
    let check = hooks(control_plane, &[]).await;
    eventually("nothing to be in the way", PATIENCE, || async {
        let output = uninstall(control_plane, &check).await;
        if output.status.success() {
            Ok(())
        } else {
            Err(said(&output))
        }
    })
    .await;

    let mut held = session("held");
    held.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    for session in [session("free"), held] {
        sessions
            .create(&PostParams::default(), &session)
            .await
            .unwrap();
    }
    let secrets: Api<DynamicObject> = Api::namespaced_with(
        client.clone(),
        "srchat-system",
        &kube::api::ApiResource::erase::<Secret>(&()),
    );
    let open: DynamicObject = serde_json::from_value(ledger("ledger-lost", "lost")).unwrap();
    secrets.create(&PostParams::default(), &open).await.unwrap();

    let refused = uninstall(control_plane, &check).await;
    let words = format!(
        "{}{}",
        String::from_utf8_lossy(&refused.stdout),
        said(&refused)
    );
    assert!(!refused.status.success());
    for named in [
        "default/free",
        "default/held",
        "UID lost",
        "hint: ",
        "uninstall.drain=true",
    ] {
        assert!(words.contains(named), "{named} is not in: {words}");
    }
    assert_eq!(
        sessions
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        2,
        "it only looked"
    );

    let drain = hooks(control_plane, &["uninstall.drain=true"]).await;
    let draining = uninstall(control_plane, &drain);
    let controller = async {
        // In the controller's place: it takes the finalizer off when the pod is proved gone, and then forgets the ledger.
        eventually("the session to be deleted", PATIENCE, || async {
            let found = sessions
                .get("held")
                .await
                .map_err(|error| error.to_string())?;
            found
                .metadata
                .deletion_timestamp
                .map(drop)
                .ok_or("it lives".to_owned())
        })
        .await;
        let off = Patch::Merge(json!({"metadata": {"finalizers": []}}));
        sessions
            .patch("held", &PatchParams::default(), &off)
            .await
            .unwrap();
        secrets
            .delete("ledger-lost", &DeleteParams::default())
            .await
            .unwrap();
    };
    let (drained, ()) = tokio::join!(draining, controller);
    assert!(drained.status.success(), "{}", said(&drained));
    let words = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(words.contains("ending sessions that exist: "), "{words}");
    let left = sessions.list(&ListParams::default()).await.unwrap().items;
    assert!(
        left.is_empty(),
        "{:?}",
        left.iter().map(|one| one.name_any()).collect::<Vec<_>>()
    );
}
