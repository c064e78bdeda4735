//! Processes die at any moment: nothing is rented twice, nothing is forgotten, and chats go on.
#![allow(clippy::unwrap_used)]

use std::ops::DerefMut as _;

use serde_json::json;
use srchat_crds::conditions::Type;

use super::stage::{Stage, tiny};

pub async fn a_controller_killed_at_every_stage_rents_once_and_forgets_nothing() {
    let mut stage = Stage::alone().await;
    stage.apply("unkillable", tiny(json!({}))).await;
    for (condition, reason) in [
        (Type::Planned, "Fits"),
        (Type::HostTrusted, "KeyPinned"),
        (Type::Ready, "Serving"),
    ] {
        stage.until("unkillable", condition, reason).await;
        stage.restart_controller().await;
    }
    stage.until("unkillable", Type::Ready, "Serving").await;
    let uid = stage.uid("unkillable").await;
    assert_eq!(stage.pods_of(&uid).len(), 1);

    stage.delete("unkillable").await;
    stage.restart_controller().await;
    stage
        .until("unkillable", Type::Terminated, "VerifyingAbsence")
        .await;
    stage.restart_controller().await;
    stage.gone("unkillable").await;
    let pods = stage.pods_of(&uid);
    assert_eq!(pods.len(), 1);
    assert!(pods[0].terminated.is_some());
}

pub async fn a_gateway_comes_back_and_an_absent_api_server_ends_nothing() {
    let mut stage = Stage::alone().await;
    let _room = stage.room_for_the_real_model().await;
    stage.apply("steady", json!({})).await;
    stage.until("steady", Type::Ready, "Serving").await;
    let gateway = stage.rig.deref_mut().operator.gateway();
    gateway.kill();
    gateway.start().await.unwrap();
    assert!(stage.ask("steady", "Say yes.").await.len() > 1);

    let control_plane = stage.rig.deref_mut().control_plane().unwrap();
    control_plane.kill_api_server();
    control_plane.restart_api_server().await.unwrap();
    stage.until("steady", Type::Ready, "Serving").await;
    assert!(stage.ask("steady", "Say yes.").await.len() > 1);
    assert_eq!(stage.pods("steady").await.len(), 1);
    stage.end("steady").await;
}
