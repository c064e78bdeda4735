//! What bounds a run: reached, it ends the rental and never the object, and nothing is rented again until somebody asks for it.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use srchat_crds::conditions::Type;

use super::stage::{Stage, tiny};

pub async fn a_session_that_nobody_uses_ends_and_rents_again_only_when_asked_to() {
    let stage = Stage::together().await;
    let name = "unused";
    stage
        .apply(name, tiny(json!({"limits": {"idle": "5s"}})))
        .await;
    stage.until(name, Type::Ready, "Serving").await;
    // Five seconds are nearer than five minutes.
    stage.until(name, Type::WithinLimits, "IdleReached").await;
    stage.until(name, Type::Ready, "Ended").await;
    stage.until(name, Type::Wiped, "Cleared").await;
    stage.until(name, Type::Terminated, "ProvedAbsent").await;
    stage.until_event(name, "LimitReached").await;

    // A change that does not pause it first, as a GitOps tool makes them, buys nothing.
    let changed = stage
        .patch(name, json!({"limits": {"idle": "0s", "attempts": 5}}))
        .await;
    let seen = stage.until_observed(&changed).await;
    assert_eq!(seen.condition(Type::Ready).unwrap().reason, "Ended");
    assert_eq!(seen.spec.replicas, 1, "the spec is never edited");
    assert_eq!(stage.pods(name).await.len(), 1);

    stage.scale(name, 0).await;
    stage.until(name, Type::Ready, "Paused").await;
    stage.scale(name, 1).await;
    stage.until(name, Type::Ready, "Serving").await;
    let run = stage.get(name).await.status.unwrap().run.unwrap();
    assert_eq!((run.number, run.attempts), (2, 1));
    stage.end(name).await;
}

pub async fn a_run_ends_at_its_lifetime() {
    let stage = Stage::together().await;
    let _room = stage.room_for_the_real_model().await;
    let name = "short-lived";
    // The shortest in which a plan for llama.cpp can start.
    let limits = json!({"lifetime": "105s", "idle": "0s"});
    stage.apply(name, json!({ "limits": limits })).await;
    stage.until(name, Type::Ready, "Serving").await;
    let said = stage.until(name, Type::WithinLimits, "NearLimit").await;
    assert!(said.contains("lifetime"), "{said}");
    stage
        .until(name, Type::WithinLimits, "LifetimeReached")
        .await;
    stage.until(name, Type::Ready, "Ended").await;
    stage.until(name, Type::Terminated, "ProvedAbsent").await;
    stage.until_event(name, "LimitReached").await;
    let pods = stage.pods(name).await;
    assert_eq!(pods.len(), 1);
    assert!(pods[0].terminated.is_some());
    stage.end(name).await;
}

pub async fn a_run_ends_when_its_total_cost_is_reached() {
    let stage = Stage::together().await;
    let _room = stage.room_for_the_real_model().await;
    let name = "spent";
    // At $0.24 an hour this is 180 s, of which 70 are kept back for the end; a start may take the others.
    let limits = json!({"maxTotalCost": "0.012", "startup": "105s", "idle": "0s"});
    let spec = json!({"limits": limits, "teardown": {"wipeTimeout": "10s"}});
    stage.apply(name, spec).await;
    stage.until(name, Type::Ready, "Serving").await;
    let expiry = stage.get(name).await.status.unwrap().expiry.unwrap();
    assert_eq!(expiry.reason.to_string(), "Budget");
    stage.until(name, Type::WithinLimits, "CostReached").await;
    stage.until(name, Type::Ready, "Ended").await;
    stage.until(name, Type::Terminated, "ProvedAbsent").await;
    let pods = stage.pods(name).await;
    assert_eq!(pods.len(), 1);
    assert!(pods[0].billed <= "0.012".parse().unwrap(), "{pods:?}");

    // Asked for again, it has nothing left to rent with, and says so.
    stage.scale(name, 0).await;
    stage.until(name, Type::Ready, "Paused").await;
    stage.scale(name, 1).await;
    let said = stage.until(name, Type::Planned, "OverPrice").await;
    assert!(said.contains("limits.maxTotalCost"), "{said}");
    assert_eq!(stage.pods(name).await.len(), 1);
    stage.end(name).await;
}
