//! Engines that die, and clients that leave: what a person is told of it, and what the engine is.
#![allow(clippy::unwrap_used)]

use futures::StreamExt as _;
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::stand_ins::{
    FRAGILE, FRAGILE_SAYS, INDISCREET, INDISCREET_SAYS, MISFIT, TOKEN, TOO_LARGE,
};

use super::stage::{STEP, Stage, tiny};

pub async fn an_engine_that_dies_while_loading_leaves_its_last_words_and_no_secret() {
    let stage = Stage::together().await;
    stage.token("licence-of-the-indiscreet", TOKEN, true).await;
    let secret = json!({"name": "licence-of-the-indiscreet", "key": "token"});
    // An engine that was asked for by name gives way to no other.
    let (limits, runtime) = (json!({"attempts": 1}), json!({"engine": "VLLM"}));
    let mut spec = json!({"model": INDISCREET, "limits": limits, "runtime": runtime});
    spec["modelTokenSecretRef"] = secret;
    stage.apply("indiscreet", tiny(spec)).await;
    let spec = json!({"model": TOO_LARGE, "limits": limits, "runtime": runtime});
    stage.apply("too-large", tiny(spec)).await;

    let said = stage
        .until("indiscreet", Type::ModelServed, "EngineFailed")
        .await;
    assert!(said.contains(INDISCREET_SAYS), "{said}");
    let said = stage
        .until("too-large", Type::ModelServed, "OutOfMemory")
        .await;
    assert!(said.contains("CUDA out of memory"), "{said}");
    stage.until_event("indiscreet", "InstanceLost").await;
    // And so it stays, after all of it is over.
    for (name, words) in [
        ("indiscreet", INDISCREET_SAYS),
        ("too-large", "CUDA out of memory"),
    ] {
        let said = stage.until(name, Type::WithinLimits, "AttemptsUsed").await;
        assert!(said.contains(words), "{said}");
    }

    // The engine wrote the token down; nobody else has.
    let session = stage.get("indiscreet").await;
    let uid = session.metadata.uid.clone().unwrap();
    let shown = serde_json::to_string(&session).unwrap();
    let events = format!("{:?}", stage.events(&uid).await);
    let logs = ["controller", "gateway"].map(|part| {
        let log = stage.rig.folder().join(format!("{part}.log"));
        std::fs::read_to_string(log).unwrap()
    });
    for text in [&shown, &events, &logs[0], &logs[1]] {
        assert!(!text.contains(TOKEN), "the token was told: {text}");
    }
    stage.end("indiscreet").await;
    stage.end("too-large").await;
}

pub async fn a_model_that_vllm_cannot_start_is_served_by_transformers_on_the_same_pod() {
    let stage = Stage::together().await;
    stage.apply("misfit", tiny(json!({"model": MISFIT}))).await;
    stage.until("misfit", Type::Ready, "Serving").await;
    let said = stage.until("misfit", Type::ModelServed, "Healthy").await;
    assert!(said.contains("transformers"), "{said}");
    assert!(stage.ask("misfit", "Who are you?").await.len() > 1);
    let run = stage.get("misfit").await.status.unwrap().run.unwrap();
    assert_eq!((run.attempts, stage.pods("misfit").await.len()), (1, 1));
    stage.end("misfit").await;
}

pub async fn an_engine_that_dies_while_serving_is_replaced() {
    let stage = Stage::together().await;
    let spec = json!({"model": FRAGILE, "limits": {"attempts": 2}});
    stage.apply("fragile", tiny(spec)).await;
    stage.until("fragile", Type::Ready, "Serving").await;
    let asked = stage.asked("fragile", "What is one and one?").await;
    assert!(!asked.status.success());
    // The visit in which a later end is told finds it; without one it would be the next, five minutes later.
    stage
        .patch("fragile", json!({"limits": {"lifetime": "5h"}}))
        .await;
    let said = stage
        .until("fragile", Type::ModelServed, "EngineFailed")
        .await;
    assert!(said.contains(FRAGILE_SAYS), "{said}");
    stage.until("fragile", Type::Ready, "Serving").await;
    assert_eq!(stage.pods("fragile").await.len(), 2);
    stage.end("fragile").await;
}

pub async fn a_client_that_leaves_in_the_middle_of_an_answer_stops_the_engine() {
    let stage = Stage::together().await;
    let _room = stage.room_for_the_real_model().await;
    stage.apply("deserted", json!({})).await;
    stage.until("deserted", Type::Ready, "Serving").await;
    let door = stage.door("deserted").await;
    let asked = door
        .post("/chat/completions")
        .json(&json!({
            "model": stage.rig.model.id, "stream": true, "max_tokens": 1500, "temperature": 0,
            "messages": [{"role": "user", "content": "Count from one to one thousand, in words."}],
        }))
        .send()
        .await
        .unwrap();
    assert_eq!(asked.status(), 200);
    let mut words = asked.bytes_stream();
    for _ in 0..5 {
        words.next().await.unwrap().unwrap();
    }
    drop(words);
    eventually("the engine to stop", STEP, || async {
        let log = door.logs().await.unwrap_or_default();
        let stopped = log.lines().any(|line| line.contains("cancel task"));
        if stopped { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(stage.ask("deserted", "Say yes.").await.len() > 1);
    stage.end("deserted").await;
}
