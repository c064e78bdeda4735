//! helm, run on the chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use srchat_tests::process::without_the_callers_settings;
use srchat_tests::tools;
use tokio::sync::OnceCell;

pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

/// Where helm is.
async fn program() -> &'static PathBuf {
    static HELM: OnceCell<PathBuf> = OnceCell::const_new();
    HELM.get_or_init(|| async {
        tokio::task::spawn_blocking(tools::helm)
            .await
            .unwrap()
            .unwrap()
    })
    .await
}

/// helm on the chart, with nothing of the caller's.
pub async fn helm(arguments: &[&str]) -> Output {
    at(None, arguments).await
}

/// helm at a cluster.
pub async fn at(kubeconfig: Option<&Path>, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(program().await);
    without_the_callers_settings(&mut command);
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(folder, home.path());
    }
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    command.args(arguments).current_dir(charts());
    // A thread of its own, since a release waits for the API server that this process drives.
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// The release's usual arguments: `helm VERB srchat srchat --namespace srchat-system`.
pub fn arguments<'a>(verb: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![verb, "srchat", "srchat", "--namespace", "srchat-system"];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    arguments
}

/// What the chart renders to, without what runs only during an uninstallation.
pub async fn rendered(settings: &[&str]) -> String {
    let mut all = arguments("template", settings);
    all.push("--no-hooks");
    printed(&all).await
}

/// The same with the hooks.
pub async fn rendered_with_hooks(settings: &[&str]) -> String {
    printed(&arguments("template", settings)).await
}

async fn printed(arguments: &[&str]) -> String {
    let output = helm(arguments).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// The documents of one kind.
pub fn of_kind(documents: &[Value], kind: &str) -> Vec<Value> {
    let of_kind = documents.iter().filter(|document| document["kind"] == kind);
    of_kind.cloned().collect()
}
