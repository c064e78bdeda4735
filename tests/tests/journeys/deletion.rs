//! A session can be deleted at any moment of its life: nothing of it stays, and nothing is paid for any longer.
#![allow(clippy::unwrap_used)]

use futures::future::join_all;
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::runpod::{Fault, Kind};
use srchat_tests::stand_ins::TOO_LARGE;

use super::stage::{BROKEN_IMAGE, Stage, tiny};

pub async fn a_session_deleted_at_any_stage_leaves_nothing() {
    let stage = Stage::together().await;
    let once = |kind| vec![Fault::once(kind)];
    let large = json!({"model": TOO_LARGE, "runtime": {"engine": "VLLM"}});
    let broken = json!({"runtime": {"image": BROKEN_IMAGE}});
    let stages = [
        ("at-once", json!({}), vec![], None),
        // The create call is in flight: its pod appears after the session was deleted.
        (
            "in-flight",
            json!({}),
            vec![Fault::once(Kind::CreateHangs).seconds(2)],
            Some((Type::Planned, "Fits")),
        ),
        (
            "booting",
            json!({}),
            once(Kind::StuckProvisioning),
            Some((Type::Provisioned, "Booting")),
        ),
        (
            "boot-failed",
            broken,
            vec![],
            Some((Type::Provisioned, "BootFailed")),
        ),
        (
            "trusted",
            json!({}),
            vec![],
            Some((Type::HostTrusted, "KeyPinned")),
        ),
        (
            "deaf",
            json!({}),
            once(Kind::SshdAbsent),
            Some((Type::ModelServed, "Connecting")),
        ),
        (
            "failing",
            large,
            vec![],
            Some((Type::ModelServed, "OutOfMemory")),
        ),
        ("serving", json!({}), vec![], Some((Type::Ready, "Serving"))),
        (
            "vanished",
            json!({}),
            once(Kind::Vanishes),
            Some((Type::HostTrusted, "KeyPinned")),
        ),
    ];
    let lives = stages.into_iter().map(|(name, spec, faults, until)| {
        let stage = &stage;
        async move {
            stage.apply_with(name, tiny(spec), &faults).await;
            if let Some((condition, reason)) = until {
                stage.until(name, condition, reason).await;
            }
            stage.end(name).await;
        }
    });
    join_all(lives).await;
}

pub async fn a_paused_session_rents_nothing_and_comes_back_with_the_same_token() {
    let stage = Stage::together().await;
    stage.apply("calm", tiny(json!({}))).await;
    stage.until("calm", Type::Ready, "Serving").await;
    let door = stage.door("calm").await;
    stage.scale("calm", 0).await;
    stage.until("calm", Type::Ready, "Paused").await;
    stage.until("calm", Type::Terminated, "ProvedAbsent").await;
    assert!(stage.pods("calm").await[0].terminated.is_some());
    stage.scale("calm", 1).await;
    stage.until("calm", Type::Ready, "Serving").await;
    assert!(stage.ask("calm", "Are you there?").await.len() > 1);
    assert_eq!(stage.door("calm").await, door);
    // Its host is gone without a word when it is deleted.
    stage.simulator().vanish(&stage.pods("calm").await[1].id);
    stage.end("calm").await;
}
