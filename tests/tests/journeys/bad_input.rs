//! What cannot work is said in a sentence, and nothing is rented for it.

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::runpod::{Fault, Kind, Level};

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rented_is_a_sentence_and_costs_nothing() {
    let stage = Stage::set().await;
    let cases = [
        (
            "missing",
            json!({"model": "nobody/no-such-model"}),
            "ModelNotFound",
        ),
        (
            "dear",
            json!({"limits": {"maxHourlyCost": "0.01"}}),
            "OverPrice",
        ),
        (
            "huge",
            json!({"gpu": {"minMemory": "900Gi"}}),
            "NoFittingGPU",
        ),
        (
            "hasty",
            json!({"limits": {"startup": "1s"}}),
            "StartupTooLong",
        ),
        (
            "scarce",
            json!({"gpu": {"types": ["RTX A5000"]}}),
            "OutOfStock",
        ),
    ];
    stage.simulator().stock("NVIDIA RTX A5000", Level::None);
    for (name, spec, reason) in &cases {
        stage.apply(name, spec.clone()).await;
        let sentence = stage.until(name, Type::Planned, reason).await;
        assert!(
            sentence.len() > 20 && sentence.contains(' '),
            "{name}: {sentence}"
        );
        stage.until(name, Type::Ready, reason).await;
    }
    for (name, ..) in &cases {
        stage.end(name).await;
    }
    assert_eq!(stage.simulator().ledger().total.created, 0);
    stage.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_pay_or_is_not_known_is_said_so_and_nothing_is_lost() {
    let stage = Stage::set().await;
    stage.simulator().fault(Fault::always(Kind::BalanceGone));
    stage.apply("poor", json!({})).await;
    stage
        .until("poor", Type::Provisioned, "InsufficientBalance")
        .await;
    stage
        .until("poor", Type::Ready, "InsufficientBalance")
        .await;
    assert_eq!(stage.simulator().ledger().total.created, 0);
    stage.end("poor").await;
    stage.simulator().clear_faults();

    // A key that is revoked while something runs: said, and ended once the account is there again.
    stage.apply("revoked", json!({})).await;
    stage.until("revoked", Type::Ready, "Serving").await;
    stage.simulator().fault(Fault::always(Kind::KeyRevoked));
    stage.delete("revoked").await;
    stage
        .until("revoked", Type::Terminated, "ProviderUnauthorized")
        .await;
    assert_eq!(stage.simulator().ledger().total.alive, 1);
    stage.simulator().clear_faults();
    stage.gone("revoked").await;
    assert_eq!(stage.simulator().ledger().total.alive, 0);
    stage.rig.stop().await;
}
