//! A release in the cluster, as whoever installs srchat meets it.

use std::process::Output;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::cache::say;
use srchat_tests::eventually::eventually;
use srchat_tests::stand_ins::ENDLESS;

use super::chat::{ask, stream, streamed};
use super::stage::{STEP, SYSTEM, Stage, stage};
use super::{chart, idle, kill};

/// The one session.
pub const SESSION: &str = "qwen";
pub const GATEWAYS: &str = "app.kubernetes.io/component=gateway";
pub const CONTROLLER: &str = "app.kubernetes.io/component=controller";

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
pub async fn it_is_installed_used_upgraded_and_taken_away_and_nothing_is_left() {
    let stage = stage().await;
    install(stage).await;
    idle::tell().await;
    let namespace = stage.namespace("users").await;
    apply(stage, &namespace);
    kill::at_each_stage_of_its_start(stage, &namespace).await;
    stage
        .until(&namespace, SESSION, Type::Ready, "Serving")
        .await;

    let answer = ask(stage, &namespace, "first").await;
    assert!(
        answer["choices"][0]["message"]["content"].is_string(),
        "{answer}"
    );
    // From outside of the cluster, where the gateway's Service has no name.
    let said = done(&stage.srchat(&namespace, &["ask", SESSION, "Are you there?"]));
    assert!(!said.trim().is_empty());

    upgrade(stage, &namespace).await;
    ask(stage, &namespace, "second").await;
    kill::pods(stage, GATEWAYS);
    rolled(stage);
    ask(stage, &namespace, "third").await;

    uninstall(stage, &namespace).await;
    let left = stage
        .world(|world| world.simulator.as_ref().unwrap().ledger())
        .await;
    assert_eq!((left.total.created, left.total.alive), (1, 0), "{left:?}");
}

/// An older release, since the trial goes on to upgrade it.
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
    let chart = chart::older(stage);
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
    assert_eq!(pods(stage, GATEWAYS).await.len(), 2);
    say(&json!({"helm_install_seconds": seconds}).to_string());
}

/// With a session that lives, and while a chat streams: a stream in hand goes on to its end on a gateway that takes nothing new.
async fn upgrade(stage: &Stage, namespace: &str) {
    let before = stage.sessions(namespace).get(SESSION).await.unwrap();
    let pod = before.status.unwrap().instance.unwrap().provider_id;
    assert!(!chart::has_its_columns(stage, namespace), "it is older");
    let old = pods(stage, GATEWAYS).await;

    stream(stage, namespace, "stream").await;
    let chart = chart::ours();
    let began = Instant::now();
    done(&stage.helm(&[
        "upgrade",
        "srchat",
        &chart,
        "--reset-then-reuse-values",
        SCHEMA,
        "--wait",
        "--timeout=4m",
    ]));
    let seconds = began.elapsed().as_secs_f64();
    rolled(stage);
    let streams = !stage.curl_ended(namespace, "stream").await;
    streamed(stage, namespace, "stream").await;
    eventually("the old gateways to be gone", STEP, || async {
        let left = pods(stage, GATEWAYS).await;
        if left.iter().any(|name| old.contains(name)) {
            Err(format!("{left:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    // On a busy machine the roll may take longer than the stream.
    say(&json!({"helm_upgrade_seconds": seconds, "stream_outlived_the_roll": streams}).to_string());

    assert!(
        chart::has_its_columns(stage, namespace),
        "the CRD is upgraded"
    );
    stage
        .until(namespace, SESSION, Type::Ready, "Serving")
        .await;
    let after = stage.sessions(namespace).get(SESSION).await.unwrap();
    assert_eq!(after.status.unwrap().instance.unwrap().provider_id, pod);
}

/// Until both gateways are new, one after the other.
fn rolled(stage: &Stage) {
    stage.kubectl(&[
        "--namespace",
        SYSTEM,
        "rollout",
        "status",
        "deployment/srchat-gateway",
        "--timeout=180s",
    ]);
}

fn apply(stage: &Stage, namespace: &str) {
    stage.apply(&json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": SESSION, "namespace": namespace},
        "spec": {"model": ENDLESS},
    }));
}

/// The names of the release's pods, of all or of those with these labels.
async fn pods(stage: &Stage, selector: &str) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), SYSTEM);
    let found = pods
        .list(&ListParams::default().labels(selector))
        .await
        .unwrap();
    let names = found.items.into_iter().filter_map(|pod| pod.metadata.name);
    names.collect()
}

/// Refused while there is a session; with `uninstall.drain=true` it is ended first.
async fn uninstall(stage: &'static Stage, namespace: &str) {
    let refused = stage.helm(&["uninstall", "srchat", "--timeout=3m"]);
    let words = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(!refused.status.success(), "{words}");
    let qwen = stage.sessions(namespace).get(SESSION).await.unwrap();
    assert!(qwen.metadata.deletion_timestamp.is_none(), "it only looked");

    // A refusal leaves the release as uninstalling, which helm does not upgrade.
    done(&stage.helm(&["rollback", "srchat", "2", "--wait", "--timeout=3m"]));
    let drain = [
        "upgrade",
        "srchat",
        &chart::ours(),
        "--reuse-values",
        SCHEMA,
        "--set",
        "uninstall.drain=true",
        "--wait",
        "--timeout=3m",
    ];
    done(&stage.helm(&drain));
    let uninstalling =
        tokio::spawn(async move { stage.helm(&["uninstall", "srchat", "--timeout=5m"]) });
    kill::at_each_stage_of_its_end(stage, namespace).await;
    done(&uninstalling.await.unwrap());
    assert!(
        stage
            .sessions(namespace)
            .get_opt(SESSION)
            .await
            .unwrap()
            .is_none()
    );
    eventually("the release's pods to be gone", STEP, || async {
        match pods(stage, "").await {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}
