//! An account: one that is not known, or cannot pay, is said so, nothing rented, and nothing lost of what runs; its calls are counted,
//! and its bills believed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::DerefMut as _;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::{Value, json};
use srchat_crds::Dollars;
use srchat_crds::conditions::Type;
use srchat_crds::status::CostSource;
use srchat_tests::eventually::eventually;
use srchat_tests::rig::SYSTEM;
use srchat_tests::runpod::{Call, Fault, Kind};

use super::stage::{Alone, STEP, Stage, tiny};

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

/// Calls that the provider has answered so far, by kind.
fn calls(stage: &Stage<Alone>) -> BTreeMap<Call, u64> {
    stage.simulator().ledger().calls
}

/// What was called between two moments.
fn since(before: &BTreeMap<Call, u64>, after: &BTreeMap<Call, u64>) -> BTreeMap<Call, u64> {
    let more = |(call, count): (&Call, &u64)| (*call, count - before.get(call).unwrap_or(&0));
    after
        .iter()
        .map(more)
        .filter(|(_, more)| *more > 0)
        .collect()
}

/// What is called while three lists are made, once that is nothing but lists.
async fn calls_at_rest(stage: &Stage<Alone>) -> BTreeMap<Call, u64> {
    eventually("nothing but lists to be asked for", STEP, || async {
        let before = calls(stage);
        let made = eventually("three lists", STEP, || async {
            let made = since(&before, &calls(stage));
            match made.get(&Call::List) {
                Some(3..) => Ok(made),
                _ => Err(format!("{made:?}")),
            }
        })
        .await;
        if made.len() == 1 {
            Ok(made)
        } else {
            Err(format!("{made:?}"))
        }
    })
    .await
}

/// `srchat_provider_calls` of the controller, summed over how they ended.
async fn counted(stage: &mut Stage<Alone>) -> u64 {
    let controller = stage.rig.deref_mut().operator.controller();
    let text = controller.metrics().await.unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("srchat_provider_calls_total{"));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

pub async fn calls_to_the_provider_are_counted_and_do_not_grow_with_the_sessions() {
    let mut stage = Stage::alone().await;
    stage.rig.deref_mut().operator.controller().kill();
    let before = calls(&stage);
    stage.restart_controller().await;

    stage.apply("counted-0", tiny(json!({}))).await;
    stage.until("counted-0", Type::Ready, "Serving").await;
    let with_one = calls_at_rest(&stage).await;

    let others: Vec<String> = (1..24).map(|n| format!("counted-{n}")).collect();
    let (serving, paused) = others.split_at(3);
    for name in serving {
        stage.apply(name, tiny(json!({}))).await;
    }
    for name in paused {
        stage.apply(name, tiny(json!({"replicas": 0}))).await;
    }
    for name in serving {
        stage.until(name, Type::Ready, "Serving").await;
    }
    for name in paused {
        stage.until(name, Type::Ready, "Paused").await;
    }
    let with_many = calls_at_rest(&stage).await;
    let kinds = |calls: &BTreeMap<Call, u64>| calls.keys().copied().collect::<Vec<_>>();
    assert_eq!(kinds(&with_one), [Call::List]);
    assert_eq!(kinds(&with_many), [Call::List]);

    // What the controller says of itself is what the provider has seen.
    let mut last = (0, 0);
    for _ in 0..100 {
        let seen = |stage: &Stage<Alone>| since(&before, &calls(stage)).values().sum::<u64>();
        let early = seen(&stage);
        last = (counted(&mut stage).await, seen(&stage));
        // Unless a call was under way meanwhile.
        if early == last.1 && last.0 == last.1 {
            break;
        }
    }
    assert_eq!(last.0, last.1, "counted, and seen");
    for name in others.iter().map(String::as_str).chain(["counted-0"]) {
        stage.delete(name).await;
    }
    for name in others.iter().map(String::as_str).chain(["counted-0"]) {
        stage.gone(name).await;
    }
}

pub async fn what_was_billed_is_what_status_and_receipt_say() {
    let stage = Stage::alone().await;
    let name = "billed";
    stage.apply(name, tiny(json!({}))).await;
    stage.until(name, Type::Ready, "Serving").await;
    let cost = stage.get(name).await.status.unwrap().cost.unwrap();
    assert_eq!(cost.source, CostSource::Estimated);

    stage.scale(name, 0).await;
    stage.until(name, Type::Ready, "Paused").await;
    let cost = eventually("the bill to be in status", STEP, || async {
        let cost = stage.get(name).await.status.unwrap().cost.unwrap();
        match cost.source {
            CostSource::Billed => Ok(cost),
            CostSource::Estimated => Err(format!("{cost:?}")),
        }
    })
    .await;
    let uid = stage.uid(name).await;
    let billed: Dollars = stage.pods_of(&uid).iter().map(|pod| pod.billed).sum();
    assert!(billed > Dollars::ZERO);
    let cents = billed.as_micros().div_ceil(10_000);
    assert_eq!(cost.accrued, Dollars::cents(cents.try_into().unwrap()));
    assert_eq!(cost.hourly, Dollars::ZERO);

    stage.end(name).await;
    let receipts: Api<ConfigMap> = Api::default_namespaced(stage.client.clone());
    let receipt = receipts
        .get(&format!("srchat-receipt-{uid}"))
        .await
        .unwrap();
    let receipt: Value = serde_json::from_str(&receipt.data.unwrap()["receipt.json"]).unwrap();
    assert_eq!(receipt["cost"], json!(billed), "{receipt:#}");
    assert_eq!(receipt["costSource"], "Billed", "{receipt:#}");
}
