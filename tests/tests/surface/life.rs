//! Lives of sessions by name: planned, run, paused, resumed, extended, ended.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;

use super::stage::{Ran, Run as _, STEP, Stage, stage};

/// Runs a command with a text on its stdin.
fn told(command: &mut Command, text: &str) -> Ran {
    let shown = format!("{:?}", command.get_args());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    tokio::task::block_in_place(|| {
        let mut child = command.spawn().unwrap();
        // Whoever does not read it may be gone.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        Ran::new(shown, &child.wait_with_output().unwrap())
    })
}

/// What makes no GPU cheap enough, and what makes one.
const TOO_LITTLE: &str = "0.01";

pub async fn a_session_is_run_paused_resumed_and_ended_by_name() {
    let stage = stage().await;
    let namespace = stage.namespace("life");
    let srchat = |arguments: &[&str]| stage.srchat_in(&namespace, arguments);

    let run = &[
        "run",
        &stage.model,
        "--name",
        "mine",
        "--context-length",
        "2048",
        "--yes",
        "--keep",
    ];
    let ran = told(
        &mut srchat(run),
        "What is the capital of France? One word.\n",
    );
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.out.contains("Paris"), "{ran:#?}");
    for said in [
        "price     about $",
        ", never above $1.00",
        "engine    llama.cpp",
        "mine goes on:",
    ] {
        assert!(ran.err.contains(said), "{said:?} is not in {ran:#?}");
    }
    let session = stage.sessions(&namespace).get("mine").await.unwrap();
    assert_eq!(session.metadata.annotations.unwrap_or_default().len(), 0);
    let taken = srchat(&["run", &stage.model, "--name", "mine", "--yes"]).ran();
    taken.fails(
        1,
        "there is a session mine already",
        "`srchat attach mine` chats with it",
    );

    let paused = srchat(&["pause", "mine"]).ran();
    assert!(
        paused.err.contains("mine ends what it rents"),
        "{paused:#?}"
    );
    stage.until(&namespace, "mine", Type::Ready, "Paused").await;
    let asked = srchat(&["ask", "mine", "Hi"]).ran();
    assert_eq!(asked.code, 4, "{asked:#?}");
    let attached = told(&mut srchat(&["attach", "mine"]), "");
    attached.fails(
        4,
        "session mine is not ready, for ",
        "`srchat resume mine` rents again",
    );
    assert!(
        srchat(&["pause", "mine"])
            .ran()
            .err
            .contains("was paused already")
    );

    let resumed = srchat(&["resume", "mine"]).ran();
    assert!(
        resumed
            .err
            .contains("mine rents again, $1.00 an hour at most"),
        "{resumed:#?}"
    );
    let again = srchat(&["resume", "mine"]).ran();
    assert!(again.err.contains("neither paused nor ended"), "{again:#?}");
    stage.until(&namespace, "mine", Type::Planned, "Fits").await;

    let ended = srchat(&["rm", "mine", "--wait"]).ran();
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(ended.err.ends_with("mine is gone.\n"), "{ended:#?}");
    srchat(&["status", "mine"])
        .ran()
        .fails(3, "there is no session mine", "srchat run MODEL");
}

pub async fn told_to_stop_run_ends_what_it_has_rented() {
    let stage = stage().await;
    let namespace = stage.namespace("stopped");
    let mut run = stage.srchat_in(
        &namespace,
        &["run", &stage.model, "--name", "short", "--yes"],
    );
    let child = run.stderr(Stdio::piped()).spawn().unwrap();
    let rented = |stage: &'static Stage| async move {
        let session = stage.sessions("stopped").get_opt("short").await;
        let session = session.map_err(|e| e.to_string())?.ok_or("no session")?;
        let status = session.status.unwrap_or_default();
        status
            .instance
            .map(drop)
            .ok_or(format!("{:?}", status.startup))
    };
    eventually("something to be rented", STEP, || rented(stage)).await;
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
    let ended = Ran::new("run".to_owned(), &ended);
    assert_eq!(ended.code, 130, "{ended:#?}");
    assert!(ended.err.contains("short is ending"), "{ended:#?}");
    stage.gone(&namespace, "short").await;
}

pub async fn a_plan_costs_nothing_and_leaves_nothing() {
    let stage = stage().await;
    let namespace = stage.namespace("plans");
    let srchat = |arguments: &[&str]| stage.srchat_in(&namespace, arguments);

    let plan = srchat(&["plan", &stage.model]).ran().done();
    for line in [
        "model     Qwen/",
        "gpu       1 × ",
        "memory    ",
        "price     about $",
        "ends      after 4h at the latest, after 30m without use, and before $4.00 are spent",
        "others    ",
        " would do, but cost more: ",
    ] {
        assert!(plan.contains(line), "{line:?} is not in\n{plan}");
    }
    let plan = srchat(&[
        "plan",
        "--model",
        &stage.model,
        "--gpu-type",
        "L40S",
        "-o",
        "json",
    ])
    .ran()
    .json();
    assert_eq!(plan["plan"]["gpu"], "NVIDIA L40S");
    assert_eq!(plan["withinLimit"], true);
    let rejected = plan["plan"]["rejected"].as_array().unwrap();
    assert!(
        rejected.iter().any(|r| r["reason"] == "WrongType"),
        "{plan}"
    );

    let dear = srchat(&["plan", &stage.model, "--max-cost-per-hour", TOO_LITTLE]).ran();
    assert_eq!(dear.code, 1, "{dear:#?}");
    assert!(dear.out.contains("price     about $"), "{dear:#?}");
    assert!(
        dear.err
            .contains("nothing that fits costs $0.01 an hour or less"),
        "{dear:#?}"
    );
    assert!(
        dear.err.contains("hint: --max-cost-per-hour 0."),
        "{dear:#?}"
    );

    srchat(&["plan", "nobody/no-such-model"])
        .ran()
        .fails(3, "there is no plan: ", "owner/name");
    srchat(&["plan", &stage.model, "--gpu-type", "Abacus"])
        .ran()
        .fails(1, "(not in gpu.types)", "--gpu-type");
    srchat(&["plan", &stage.model, "--lifetime", "200h"])
        .ran()
        .fails(
            2,
            "lifetime is more than 0s and at most 168h",
            "kubectl explain",
        );

    let left = stage
        .sessions(&namespace)
        .list(&Default::default())
        .await
        .unwrap();
    let left: Vec<_> = left
        .items
        .iter()
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let secrets = stage.kubectl(&[
        "-n",
        &namespace,
        "get",
        "configmaps",
        "-l",
        "srchat.dev/uid",
        "-o",
        "name",
    ]);
    assert_eq!(secrets.done(), "", "a plan has left a receipt");
}

pub async fn what_nobody_has_confirmed_rents_nothing() {
    let stage = stage().await;
    let namespace = stage.namespace("unconfirmed");
    let run = stage.srchat_in(&namespace, &["run", &stage.model]).ran();
    run.fails(
        2,
        "there is nobody to ask whether the price is right",
        "--yes rents without asking",
    );
    assert!(
        stage
            .sessions(&namespace)
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );

    // As a client leaves it that was killed while the price was being read: the operator deletes it.
    let session = json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {
            "name": "left", "namespace": namespace,
            "annotations": {"srchat.dev/unconfirmed-until": (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2)).to_string()},
        },
        "spec": {"model": stage.model, "replicas": 0},
    });
    stage.apply(&session.to_string());
    let uid = stage
        .sessions(&namespace)
        .get("left")
        .await
        .unwrap()
        .metadata
        .uid;
    stage.gone(&namespace, "left").await;
    let rented = stage.simulator(|simulator| simulator.ledger().pods).await;
    assert!(rented.iter().all(|pod| pod.uid != uid), "{rented:#?}");
}

pub async fn a_limit_is_raised_by_those_who_say_so_and_by_nobody_else() {
    let stage = stage().await;
    let namespace = stage.namespace("dear");
    let run = [
        "run",
        &stage.model,
        "--max-cost-per-hour",
        TOO_LITTLE,
        "--yes",
    ];
    let refused = stage.srchat_in(&namespace, &run).ran();
    refused.fails(
        1,
        "nothing that fits costs $0.01 an hour or less",
        "--max-cost-per-hour 0.",
    );
    stage
        .gone(&namespace, "qwen2-5-coder-0-5b-instruct-gguf")
        .await;
}

pub async fn a_session_is_extended_as_far_as_the_resource_allows() {
    let stage = stage().await;
    let namespace = stage.namespace("extended");
    let srchat = |arguments: &[&str]| stage.srchat_in(&namespace, arguments);
    let session = json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": "long", "namespace": namespace},
        "spec": {"model": stage.model, "replicas": 0},
    });
    stage.apply(&session.to_string());
    let extended = srchat(&["extend", "long", "1h30m", "-o", "json"])
        .ran()
        .json();
    assert_eq!(extended["spec"]["limits"]["lifetime"], "5h30m");
    srchat(&["extend", "long", "163h"]).ran().fails(
        2,
        "a session lives 168h at most",
        "srchat resume",
    );
    srchat(&["extend", "long", "soon"])
        .ran()
        .fails(2, "is not a duration", "");
    srchat(&["rm", "long"]).ran().done();
}
