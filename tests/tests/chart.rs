//! The chart: its CRD is the crate's, its rendered copies are its own, a wrong value is named. What it grants is tried in `rights.rs`.
//!
//! `SRCHAT_RENDER=1 cargo test -p srchat-tests --test chart` writes the copies anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kube::CustomResourceExt;
use serde_json::Value;
use srchat_crds::ChatSession;
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
