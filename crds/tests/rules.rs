//! Every rule of the CRD, evaluated as the API server does: once accepting, once refusing. The same rules meet a real API
//! server in the tests of the rig.

#![allow(clippy::unwrap_used, missing_docs)]

use kube::CustomResourceExt;
use kube_cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::{Value, json};
use srchat_crds::ChatSession;

fn schema() -> Value {
    let crd = serde_json::to_value(ChatSession::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// A session with this spec, the model added where it has none.
fn session(mut spec: Value) -> Value {
    if spec.get("model").is_none() {
        spec["model"] = json!("Qwen/Qwen3-8B");
    }
    json!({
        "apiVersion": "srchat.dev/v1alpha1",
        "kind": "ChatSession",
        "metadata": { "name": "qwen" },
        "spec": spec,
    })
}

fn answer(object: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(&schema(), object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_iter()
            .map(|error| {
                assert_eq!(
                    error.kind,
                    ErrorKind::ValidationFailure,
                    "a rule broke instead of answering: {error}"
                );
                error.message
            })
            .collect(),
    }
}

#[track_caller]
fn accepted(spec: Value) {
    assert_eq!(answer(&session(spec.clone()), None), [""; 0], "{spec}");
}

#[track_caller]
fn refused(spec: Value, sentence: &str) {
    let answers = answer(&session(spec.clone()), None);
    assert!(
        answers.iter().any(|answer| answer.contains(sentence)),
        "{spec} was answered with {answers:?}"
    );
}

#[track_caller]
fn change_accepted(old: Value, new: Value) {
    let answers = answer(&session(new.clone()), Some(&session(old.clone())));
    assert_eq!(answers, [""; 0], "{old} -> {new}");
}

#[track_caller]
fn change_refused(old: Value, new: Value, sentence: &str) {
    let answers = answer(&session(new.clone()), Some(&session(old.clone())));
    assert!(
        answers.iter().any(|answer| answer.contains(sentence)),
        "{old} -> {new} was answered with {answers:?}"
    );
}

#[test]
fn every_rule_compiles() {
    fn check(node: &CompiledSchema) {
        assert!(!node.has_errors(), "{:?}", node.compilation_errors());
        node.properties.values().for_each(check);
        node.items.iter().for_each(|items| check(items));
    }
    check(&compile_schema(&schema()));
}

#[test]
fn the_model_alone_is_enough() {
    accepted(json!({}));
}

#[test]
fn a_name_has_at_most_52_characters() {
    let mut object = session(json!({}));
    object["metadata"]["name"] = json!("a".repeat(52));
    assert_eq!(answer(&object, None), [""; 0]);
    object["metadata"]["name"] = json!("a".repeat(53));
    assert!(answer(&object, None)[0].contains("at most 52 characters"));
}

#[test]
fn a_model_is_owner_and_name_with_variant_and_revision() {
    for model in [
        "Qwen/Qwen3-8B",
        "meta-llama/Llama-3.1-8B",
        "bartowski/x_y.z-GGUF:Q4_K_M",
        "o/n@main",
        "o/n:Q8_0@refs/pr/1",
        "_/_",
    ] {
        accepted(json!({ "model": model }));
    }
    for model in [
        "gpt2",
        "/name",
        "owner/",
        "a/b/c",
        "a b/c",
        "-a/b",
        "a/b-",
        "a/b:",
        "a/b@",
        "https://huggingface.co/a/b",
        "",
    ] {
        refused(json!({ "model": model }), "owner/name");
    }
    for model in ["a/b..c", "a/b--c", "a/b@x..y"] {
        refused(json!({ "model": model }), "two dots");
    }
    accepted(json!({ "model": "a/b@x--y" }));
}

#[test]
fn a_disk_has_a_unit_and_a_sensible_size() {
    for disk in ["50Gi", "20G", "100G", "1Ti", "10Ti"] {
        accepted(json!({ "disk": disk }));
    }
    for disk in ["50", "50gb", "0Gi", "1.5Ti", "-5Gi"] {
        refused(json!({ "disk": disk }), "whole number with a unit");
    }
    for disk in ["19G", "5Gi", "11Ti", "20M"] {
        refused(json!({ "disk": disk }), "at least 20G");
    }
}

#[test]
fn gpu_memory_has_a_unit() {
    accepted(json!({ "gpu": { "minMemory": "24Gi" } }));
    refused(json!({ "gpu": { "minMemory": "24" } }), "such as 24Gi");
}

#[test]
fn fp8_needs_vllm() {
    accepted(json!({ "runtime": { "quantization": "FP8" } }));
    accepted(json!({ "runtime": { "quantization": "FP8", "engine": "VLLM" } }));
    accepted(json!({ "runtime": { "quantization": "Int4", "engine": "Transformers" } }));
    for engine in ["Transformers", "LlamaCpp"] {
        refused(
            json!({ "runtime": { "quantization": "FP8", "engine": engine } }),
            "FP8 needs",
        );
    }
}

#[test]
fn an_image_has_no_spaces() {
    accepted(json!({ "runtime": { "image": "registry.example:5000/a/b:tag@sha256:0" } }));
    refused(json!({ "runtime": { "image": "a b" } }), "no spaces");
}

#[test]
fn the_engine_cannot_be_told_to_listen_elsewhere() {
    accepted(
        json!({ "runtime": { "extraArgs": ["--max-num-seqs", "32", "--hostile", "--host-memory=1"] } }),
    );
    for arg in ["--host", "--host=0.0.0.0", "-port", "--port", "--uds=/x"] {
        refused(
            json!({ "runtime": { "extraArgs": ["--x", arg] } }),
            "loopback only",
        );
    }
}

#[test]
fn an_hour_costs_more_than_nothing_and_at_most_1000_dollars() {
    for price in [
        json!(1),
        json!("2.5"),
        json!("0.000001"),
        json!("1000"),
        json!(1000),
    ] {
        accepted(json!({ "limits": { "maxHourlyCost": price } }));
    }
    for price in [
        json!(0),
        json!("0"),
        json!("0.00"),
        json!(1001),
        json!("1000.01"),
        json!(-1),
    ] {
        refused(
            json!({ "limits": { "maxHourlyCost": price } }),
            "at most 1000 dollars",
        );
    }
}

#[test]
fn a_session_costs_more_than_nothing_and_at_most_100000_dollars() {
    for price in [json!(3), json!("0.5"), json!("100000")] {
        accepted(json!({ "limits": { "maxTotalCost": price } }));
    }
    for price in [json!(0), json!("0"), json!(100_001), json!("100000.01")] {
        refused(
            json!({ "limits": { "maxTotalCost": price } }),
            "at most 100000 dollars",
        );
    }
}

#[test]
fn a_run_lives_at_most_a_week() {
    for lifetime in ["1s", "15m", "168h", "167h60m"] {
        accepted(json!({ "limits": { "lifetime": lifetime } }));
    }
    for lifetime in ["0s", "169h", "168h1s"] {
        refused(
            json!({ "limits": { "lifetime": lifetime } }),
            "at most 168h",
        );
    }
}

#[test]
fn idle_is_not_longer_than_lifetime() {
    accepted(json!({ "limits": { "lifetime": "15m" } }));
    accepted(json!({ "limits": { "lifetime": "15m", "idle": "15m" } }));
    accepted(json!({ "limits": { "idle": "0s" } }));
    refused(
        json!({ "limits": { "lifetime": "15m", "idle": "16m" } }),
        "idle may not be longer",
    );
    refused(
        json!({ "limits": { "idle": "5h" } }),
        "idle may not be longer",
    );
}

#[test]
fn startup_is_shorter_than_lifetime() {
    accepted(json!({ "limits": { "lifetime": "15m", "startup": "14m" } }));
    refused(
        json!({ "limits": { "lifetime": "15m", "startup": "15m" } }),
        "startup must be shorter",
    );
    refused(
        json!({ "limits": { "startup": "0s" } }),
        "startup is more than 0s",
    );
}

#[test]
fn clearing_takes_at_most_ten_minutes() {
    accepted(json!({ "teardown": { "wipeTimeout": "10m" } }));
    refused(
        json!({ "teardown": { "wipeTimeout": "601s" } }),
        "at most 10m",
    );
}

#[test]
fn the_model_never_changes() {
    change_accepted(
        json!({ "model": "a/b" }),
        json!({ "model": "a/b", "limits": { "lifetime": "5h" } }),
    );
    for replicas in [0, 1] {
        change_refused(
            json!({ "model": "a/b", "replicas": replicas }),
            json!({ "model": "a/c", "replicas": replicas }),
            "model cannot be changed",
        );
    }
}

#[test]
fn the_model_token_neither_changes_nor_comes_nor_goes() {
    let (none, one, two) = (
        json!({}),
        json!({ "modelTokenSecretRef": { "name": "hf" } }),
        json!({ "modelTokenSecretRef": { "name": "hf", "key": "other" } }),
    );
    change_accepted(none.clone(), none.clone());
    change_accepted(one.clone(), one.clone());
    change_accepted(
        one.clone(),
        json!({ "modelTokenSecretRef": { "name": "hf", "key": "token" } }),
    );
    for (old, new) in [(&none, &one), (&one, &none), (&one, &two)] {
        change_refused(
            old.clone(),
            new.clone(),
            "modelTokenSecretRef can be neither",
        );
    }
}

#[test]
fn the_provider_never_changes() {
    change_accepted(json!({}), json!({ "provider": "RunPod" }));
    // There is no second provider yet: the enum would refuse it as well, which this evaluation does not look at.
    change_refused(
        json!({}),
        json!({ "provider": "Other" }),
        "provider cannot be changed",
    );
}

#[test]
fn what_is_rented_changes_only_at_zero_replicas() {
    let changes = [
        ("runtime", json!({ "engine": "VLLM" })),
        ("gpu", json!({ "count": 2 })),
        ("disk", json!("60Gi")),
        ("runpod", json!({ "cloud": "Any" })),
    ];
    for (field, value) in changes {
        let sentence =
            format!("{field} cannot be changed while something is rented: set replicas to 0 first");
        change_refused(json!({}), json!({ field: value }), &sentence);
        change_refused(json!({ field: value }), json!({}), &sentence);
        change_refused(json!({}), json!({ "replicas": 0, field: value }), &sentence);
        change_accepted(
            json!({ "replicas": 0 }),
            json!({ "replicas": 0, field: value }),
        );
        change_accepted(
            json!({ "replicas": 0 }),
            json!({ "replicas": 1, field: value }),
        );
        change_accepted(
            json!({ field: value }),
            json!({ field: value, "replicas": 0 }),
        );
    }
}

#[test]
fn what_equals_the_default_is_no_change() {
    change_accepted(
        json!({}),
        json!({
            "runtime": { "engine": "Auto" },
            "gpu": { "count": 1 },
            "runpod": { "cloud": "Secure" },
            "replicas": 1
        }),
    );
}

#[test]
fn limits_change_while_something_is_rented() {
    change_accepted(
        json!({ "limits": { "lifetime": "1h" } }),
        json!({ "limits": { "lifetime": "8h", "maxHourlyCost": "2", "idle": "1h" }, "teardown": { "wipeTimeout": "5s" } }),
    );
}
