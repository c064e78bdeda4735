//! A release in the cluster, as whoever installs srchat meets it.

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use srchat_crds::conditions::Type;
use srchat_tests::cache::say;
use srchat_tests::eventually::eventually;
use srchat_tests::stand_ins::TINY;

use super::stage::{STEP, SYSTEM, Stage, stage};

const GATEWAYS: &str = "app.kubernetes.io/component=gateway";
const CONTROLLER: &str = "app.kubernetes.io/component=controller";

/// The chart takes URLs of HTTPS alone; the rig's world is on loopback, where the operator takes others.
const SCHEMA: &str = "--skip-schema-validation";

#[track_caller]
fn done(output: &Output) -> String {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (words(&output.stdout), words(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out
}

/// One after the other, since there is one release in a cluster.
pub async fn it_is_installed_used_and_taken_away_and_nothing_is_left() {
    let stage = stage().await;
    install(stage).await;
    let namespace = stage.namespace("users").await;
    apply(stage, &namespace, "qwen");
    // The controller is killed at each stage of a start, and goes on where it was.
    for (condition, reason) in [(Type::Planned, "Fits"), (Type::HostTrusted, "KeyPinned")] {
        stage.until(&namespace, "qwen", condition, reason).await;
        kill(stage, CONTROLLER);
    }
    stage
        .until(&namespace, "qwen", Type::Ready, "Serving")
        .await;

    let answer = ask(stage, &namespace, "first").await;
    assert!(
        answer["choices"][0]["message"]["content"].is_string(),
        "{answer}"
    );
    // From outside of the cluster, where the gateway's Service has no name.
    let said = done(&stage.srchat(&namespace, &["ask", "qwen", "Are you there?"]));
    assert!(!said.trim().is_empty());

    // Both gateways are replaced, one after the other.
    stage.kubectl(&[
        "--namespace",
        SYSTEM,
        "rollout",
        "restart",
        "deployment/srchat-gateway",
    ]);
    let roll = [
        "--namespace",
        SYSTEM,
        "rollout",
        "status",
        "deployment/srchat-gateway",
        "--timeout=180s",
    ];
    stage.kubectl(&roll);
    ask(stage, &namespace, "second").await;
    kill(stage, GATEWAYS);
    stage.kubectl(&roll);
    ask(stage, &namespace, "third").await;

    uninstall(stage, &namespace).await;
    let left = stage
        .world(|world| world.simulator.as_ref().unwrap().ledger())
        .await;
    assert_eq!((left.total.created, left.total.alive), (1, 0), "{left:?}");
}

async fn install(stage: &Stage) {
    let (runpod, hub, key) = stage
        .world(|world| {
            let around = &world.surroundings;
            (
                around.runpod_url.clone(),
                around.hub_url.clone(),
                world.provider_key.clone(),
            )
        })
        .await;
    let chart = chart();
    let began = Instant::now();
    done(&stage.helm(&[
        "install",
        "srchat",
        &chart,
        "--create-namespace",
        "--wait",
        "--timeout=4m",
        SCHEMA,
        "--set",
        &format!(
            "controller.runpodUrl={runpod},controller.hubUrl={}",
            hub.trim_end_matches('/')
        ),
    ]));
    let seconds = began.elapsed().as_secs_f64();
    stage
        .cluster
        .secret(SYSTEM, "srchat-provider", &[("RUNPOD_API_KEY", &key)])
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), SYSTEM);
    let gateways = pods
        .list(&ListParams::default().labels(GATEWAYS))
        .await
        .unwrap();
    assert_eq!(gateways.items.len(), 2);
    say(&json!({"helm_install_seconds": seconds}).to_string());
}

fn chart() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/srchat");
    path.display().to_string()
}

fn apply(stage: &Stage, namespace: &str, name: &str) {
    stage.apply(&json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": TINY},
    }));
}

/// Ends pods as a node that dies does.
fn kill(stage: &Stage, selector: &str) {
    let delete = [
        "--namespace",
        SYSTEM,
        "delete",
        "pod",
        "--selector",
        selector,
        "--force",
        "--grace-period=0",
    ];
    stage.kubectl(&delete);
}

/// Asks from a pod in the cluster, through the Service, with what the session's Secret says and nothing else.
async fn ask(stage: &Stage, namespace: &str, name: &str) -> Value {
    let question =
        json!({"model": TINY, "messages": [{"role": "user", "content": "Are you there?"}]})
            .to_string();
    let said = stage
        .curl(
            namespace,
            name,
            &[
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--cacert",
                "/srchat/ca.crt",
                "--header",
                "Authorization: Bearer $(OPENAI_API_KEY)",
                "--header",
                "Content-Type: application/json",
                "--data",
                &question,
                "$(OPENAI_BASE_URL)/chat/completions",
            ],
            json!({
                "envFrom": [{"secretRef": {"name": "qwen-chat"}}],
                "volumeMounts": [{"name": "srchat", "mountPath": "/srchat"}],
            }),
        )
        .await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Refused while there is a session; with `uninstall.drain=true` it is ended first.
async fn uninstall(stage: &Stage, namespace: &str) {
    let refused = stage.helm(&["uninstall", "srchat", "--timeout=3m"]);
    let words = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(!refused.status.success(), "{words}");
    let qwen = stage.sessions(namespace).get("qwen").await.unwrap();
    assert!(qwen.metadata.deletion_timestamp.is_none(), "it only looked");

    // A refusal leaves the release as uninstalling, which helm does not upgrade.
    done(&stage.helm(&["rollback", "srchat", "1", "--wait", "--timeout=3m"]));
    let drain = [
        "upgrade",
        "srchat",
        &chart(),
        "--reuse-values",
        SCHEMA,
        "--set",
        "uninstall.drain=true",
        "--wait",
        "--timeout=3m",
    ];
    done(&stage.helm(&drain));
    done(&stage.helm(&["uninstall", "srchat", "--timeout=5m"]));
    assert!(
        stage
            .sessions(namespace)
            .get_opt("qwen")
            .await
            .unwrap()
            .is_none()
    );
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), SYSTEM);
    eventually("the release's pods to be gone", STEP, || async {
        let left = pods
            .list(&ListParams::default())
            .await
            .map_err(|e| e.to_string())?;
        let names: Vec<_> = left
            .items
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
}
