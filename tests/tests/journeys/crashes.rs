//! Processes die at any moment: nothing is rented twice, nothing is forgotten, and chats go on.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use srchat_crds::conditions::Type;

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_at_every_stage_rents_once_and_forgets_nothing() {
    let mut stage = Stage::set().await;
    stage.apply("unkillable", json!({})).await;
    for (condition, reason) in [
        (Type::Planned, "Fits"),
        (Type::HostTrusted, "KeyPinned"),
        (Type::Ready, "Serving"),
    ] {
        stage.until("unkillable", condition, reason).await;
        stage.rig.operator.controller().kill();
        stage.rig.operator.controller().start().await.unwrap();
    }
    stage.until("unkillable", Type::Ready, "Serving").await;
    assert_eq!(stage.simulator().ledger().total.created, 1);

    stage.delete("unkillable").await;
    stage.rig.operator.controller().kill();
    stage.rig.operator.controller().start().await.unwrap();
    stage
        .until("unkillable", Type::Terminated, "VerifyingAbsence")
        .await;
    stage.rig.operator.controller().kill();
    stage.rig.operator.controller().start().await.unwrap();
    stage.gone("unkillable").await;
    let total = stage.simulator().ledger().total;
    assert_eq!((total.created, total.terminated, total.alive), (1, 1, 0));
    stage.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_comes_back_and_an_absent_api_server_ends_nothing() {
    let mut stage = Stage::set().await;
    stage.apply("steady", json!({})).await;
    stage.until("steady", Type::Ready, "Serving").await;
    stage.rig.operator.gateway().kill();
    stage.rig.operator.gateway().start().await.unwrap();
    assert!(stage.ask("steady", "Say yes.").await.len() > 1);

    stage.rig.control_plane().unwrap().kill_api_server();
    stage
        .rig
        .control_plane()
        .unwrap()
        .restart_api_server()
        .await
        .unwrap();
    stage.until("steady", Type::Ready, "Serving").await;
    assert!(stage.ask("steady", "Say yes.").await.len() > 1);
    assert_eq!(stage.simulator().ledger().total.created, 1);
    stage.end("steady").await;
    stage.rig.stop().await;
}
