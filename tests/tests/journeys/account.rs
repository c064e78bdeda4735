//! An account that is not known, or cannot pay: said so, nothing rented, and nothing lost of what runs.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::rig::SYSTEM;
use srchat_tests::runpod::{Fault, Kind};

use super::stage::{Alone, Stage, tiny};

const SECRET: &str = "srchat-provider";

/// Gives the operator this key, or none.
async fn give(stage: &Stage<Alone>, key: Option<&str>) {
    let cluster = stage.rig.cluster();
    match key {
        Some(key) => cluster
            .secret(SYSTEM, SECRET, &[("RUNPOD_API_KEY", key)])
            .await
            .unwrap(),
        None => {
            let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), SYSTEM);
            secrets.delete(SECRET, &Default::default()).await.unwrap();
        }
    }
}

pub async fn a_key_that_is_missing_wrong_or_revoked_is_said_so_and_nothing_is_lost() {
    let mut stage = Stage::alone().await;
    let right = stage.rig.provider_key.clone();

    give(&stage, None).await;
    stage.restart_controller().await;
    stage.apply("keyless", tiny(json!({}))).await;
    let said = stage
        .until("keyless", Type::Provisioned, "ProviderUnauthorized")
        .await;
    assert!(said.contains("srchat login"), "{said}");
    stage
        .until("keyless", Type::Ready, "ProviderUnauthorized")
        .await;
    stage.until_event("keyless", "ProviderUnauthorized").await;

    give(&stage, Some("rpa_ThisIsNobodysKey")).await;
    stage.restart_controller().await;
    stage.apply("mistaken", tiny(json!({}))).await;
    let said = stage
        .until("mistaken", Type::Provisioned, "ProviderUnauthorized")
        .await;
    assert!(
        !said.contains("There is no RunPod API key") && said.len() > 20,
        "{said}"
    );
    stage.until_event("mistaken", "ProviderUnauthorized").await;
    for name in ["keyless", "mistaken"] {
        assert_eq!(stage.pods(name).await, []);
    }
    // Nothing was ever tried for it, so it may go without a key.
    stage.end("mistaken").await;

    // A key that comes later is taken without a restart.
    give(&stage, Some(&right)).await;
    stage.until("keyless", Type::Ready, "Serving").await;

    // Revoked while something runs: said, and ended once the account is there again.
    stage.simulator().fault(Fault::always(Kind::KeyRevoked));
    stage.delete("keyless").await;
    stage
        .until("keyless", Type::Terminated, "ProviderUnauthorized")
        .await;
    let uid = stage.uid("keyless").await;
    assert_eq!(stage.pods_of(&uid)[0].terminated, None);
    stage.simulator().clear_faults();
    stage.gone("keyless").await;
    assert!(stage.pods_of(&uid)[0].terminated.is_some());

    stage.simulator().fault(Fault::always(Kind::BalanceGone));
    stage.apply("poor", tiny(json!({}))).await;
    stage
        .until("poor", Type::Provisioned, "InsufficientBalance")
        .await;
    stage
        .until("poor", Type::Ready, "InsufficientBalance")
        .await;
    assert_eq!(stage.pods("poor").await, []);
    stage.end("poor").await;
    stage.simulator().clear_faults();
}
