//! What cannot work is said in a sentence, and nothing is rented for it.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::runpod::Level;
use srchat_tests::stand_ins::{GATED, TOKEN};

use super::stage::{Stage, tiny};

pub async fn what_cannot_be_rented_is_a_sentence_and_costs_nothing() {
    let stage = Stage::together().await;
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
    stage.simulator().stock("NVIDIA RTX A5000", Level::High);
    for (name, ..) in &cases {
        assert_eq!(stage.pods(name).await, []);
        stage.end(name).await;
    }
}

pub async fn a_model_behind_a_licence_needs_a_token_that_is_offered_and_admitted() {
    let stage = Stage::together().await;
    stage.token("not-offered", TOKEN, false).await;
    stage
        .token("not-admitted", "hf_NobodyHasAcceptedAnythingHere123", true)
        .await;
    stage.token("admitted", TOKEN, true).await;
    let with = |secret: &str| json!({"model": GATED, "modelTokenSecretRef": {"name": secret, "key": "token"}});
    for (name, spec, words) in [
        ("no-token", json!({"model": GATED}), "modelTokenSecretRef"),
        ("no-secret", with("nowhere"), "no Secret nowhere"),
        (
            "no-label",
            with("not-offered"),
            "kubectl label secret not-offered srchat.dev/model-token=true",
        ),
        ("no-licence", with("not-admitted"), "licen"),
    ] {
        stage.apply(name, tiny(spec)).await;
        let said = stage.until(name, Type::Planned, "GatedModel").await;
        assert!(said.contains(words), "{name}: {said}");
        stage.until(name, Type::Ready, "GatedModel").await;
        assert_eq!(stage.pods(name).await, []);
        stage.end(name).await;
    }
    // With the right one it is served, and the download had the token that nobody else saw.
    stage.apply("licensed", tiny(with("admitted"))).await;
    stage.until("licensed", Type::Ready, "Serving").await;
    stage.end("licensed").await;
}

pub async fn what_is_no_session_is_refused_at_once_in_a_sentence() {
    let stage = Stage::together().await;
    for (spec, words) in [
        (json!({"model": "just-a-name"}), "owner/name"),
        (
            json!({"model": "https://huggingface.co/acme/tiny"}),
            "owner/name",
        ),
        (json!({"replicas": 2}), "replicas"),
        (
            json!({"limits": {"idle": "2h", "lifetime": "1h"}}),
            "idle may not be longer than lifetime",
        ),
        (json!({"limits": {"maxHourlyCost": "0"}}), "more than 0"),
    ] {
        let refused = stage.try_apply("refused", spec.clone()).await.unwrap_err();
        let kube::Error::Api(status) = refused else {
            panic!("{spec}: {refused}");
        };
        assert_eq!(status.code, 422, "{spec}: {status:?}");
        assert!(status.message.contains(words), "{spec}: {}", status.message);
    }
    assert!(stage.sessions().get_opt("refused").await.unwrap().is_none());
}
