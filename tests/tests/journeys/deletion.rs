//! A session can be deleted at any moment of its life: nothing of it stays, and nothing is paid for any longer.

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::runpod::{Fault, Kind};

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_deleted_at_any_stage_leaves_nothing() {
    let stage = Stage::set().await;

    stage.apply("at-once", json!({})).await;
    stage.end("at-once").await;

    // The create call is in flight: its pod appears after the session was deleted.
    stage
        .simulator()
        .fault(Fault::once(Kind::CreateHangs).seconds(2));
    stage.apply("in-flight", json!({})).await;
    stage.until("in-flight", Type::Planned, "Fits").await;
    stage.end("in-flight").await;

    stage
        .simulator()
        .fault(Fault::once(Kind::StuckProvisioning));
    stage.apply("booting", json!({})).await;
    stage.until("booting", Type::Provisioned, "Booting").await;
    stage.end("booting").await;

    stage.apply("trusted", json!({})).await;
    stage.until("trusted", Type::HostTrusted, "KeyPinned").await;
    stage.end("trusted").await;

    stage.apply("serving", json!({})).await;
    stage.until("serving", Type::Ready, "Serving").await;
    stage.end("serving").await;

    let total = stage.simulator().ledger().total;
    assert_eq!(total.created, total.terminated);
    stage.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_session_rents_nothing_and_comes_back_with_the_same_token() {
    let stage = Stage::set().await;
    stage.apply("calm", json!({})).await;
    stage.until("calm", Type::Ready, "Serving").await;
    stage.scale("calm", 0).await;
    stage.until("calm", Type::Ready, "Paused").await;
    stage.until("calm", Type::Terminated, "ProvedAbsent").await;
    assert_eq!(stage.simulator().ledger().total.alive, 0);
    stage.scale("calm", 1).await;
    stage.until("calm", Type::Ready, "Serving").await;
    assert!(stage.ask("calm", "Say yes.").await.len() > 1);
    stage.end("calm").await;
    stage.rig.stop().await;
}
