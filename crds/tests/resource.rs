//! The resource as a whole: what the CRD says, what Rust reads and writes, and that the two agree.

#![allow(clippy::unwrap_used, missing_docs)]

use kube::CustomResourceExt;
use proptest::prelude::*;
use regex::Regex;
use serde_json::{Value, json};
use srchat_crds::{
    ChatSession, ChatSessionSpec, ChatSessionStatus, Dollars, ModelId, Size, Span, duration, model,
    money, session::Limits, size,
};

fn crd() -> Value {
    serde_json::to_value(ChatSession::crd()).unwrap()
}

fn read(spec: Value) -> ChatSessionSpec {
    serde_json::from_value(spec).unwrap()
}

#[test]
fn the_resource_is_named_as_documented() {
    let crd = crd();
    assert_eq!(crd["metadata"]["name"], "chatsessions.srchat.dev");
    let names = &crd["spec"]["names"];
    assert_eq!(names["shortNames"], json!(["chat"]));
    assert_eq!(names["categories"], json!(["all", "srchat"]));
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(
        version["subresources"],
        json!({
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        })
    );
}

#[test]
fn the_columns_are_those_documented() {
    let crd = crd();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .unwrap();
    let named = |wide: bool| -> Vec<&str> {
        columns
            .iter()
            .filter(|column| column["priority"].as_i64().unwrap_or(0) > 0 || !wide)
            .filter(|column| wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|column| column["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(
        named(false),
        ["MODEL", "GPU", "$/H", "SPENT", "STATE", "EXPIRES", "AGE"]
    );
    assert_eq!(named(true), ["INSTANCE", "URL", "MESSAGE"]);
    let expires = columns
        .iter()
        .find(|column| column["name"] == "EXPIRES")
        .unwrap();
    assert_eq!(
        expires["type"], "string",
        "a date in the future prints <invalid>"
    );
}

/// What the API server fills in, field by field, is what Rust assumes of a field that is absent.
#[test]
fn the_defaults_of_the_crd_are_those_of_the_types() {
    fn filled(schema: &Value) -> Option<Value> {
        let mut value = schema.get("default").cloned();
        if let (Some(Value::Object(value)), Some(properties)) =
            (&mut value, schema["properties"].as_object())
        {
            for (name, property) in properties {
                if let Some(default) = filled(property) {
                    assert_eq!(
                        value.get(name),
                        Some(&default),
                        "the default of an object spells every default in it: {name} is missing"
                    );
                }
            }
        }
        value
    }
    let crd = crd();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut by_server = json!({ "model": "a/b" });
    for (name, property) in spec["properties"].as_object().unwrap() {
        if let Some(default) = filled(property) {
            by_server[name] = default;
        }
    }
    assert_eq!(read(by_server), read(json!({ "model": "a/b" })));
    assert_eq!(
        read(json!({ "model": "a/b" })),
        ChatSessionSpec::of("a/b".parse().unwrap())
    );
}

#[test]
fn partly_written_objects_keep_their_other_defaults() {
    let spec = read(
        json!({ "model": "a/b", "limits": { "lifetime": "15m" }, "gpu": { "types": ["L4"] } }),
    );
    assert_eq!(
        spec.limits,
        Limits {
            lifetime: Span::minutes(15),
            ..Limits::default()
        }
    );
    assert_eq!(
        (spec.gpu.count, spec.gpu.types.as_slice()),
        (1, ["L4".to_owned()].as_slice())
    );
}

#[test]
fn idle_and_startup_have_no_stored_default() {
    let crd = crd();
    let limits = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["limits"];
    for field in ["idle", "startup"] {
        assert_eq!(limits["properties"][field].get("default"), None);
        assert_eq!(limits["default"].get(field), None);
    }
}

#[test]
fn idle_defaults_to_half_an_hour_within_the_lifetime() {
    let idle = |limits: Value| -> Option<Span> {
        serde_json::from_value::<Limits>(limits)
            .unwrap()
            .idle_in_force()
    };
    assert_eq!(idle(json!({})), Some(Span::minutes(30)));
    assert_eq!(idle(json!({ "lifetime": "10m" })), Some(Span::minutes(10)));
    assert_eq!(idle(json!({ "idle": "1h" })), Some(Span::hours(1)));
    assert_eq!(idle(json!({ "idle": "0s" })), None);
}

#[test]
fn startup_defaults_to_twenty_minutes_or_three_times_the_estimate() {
    let limits = Limits::default();
    assert_eq!(limits.startup_in_force(Span::minutes(2)), Span::minutes(20));
    assert_eq!(
        limits.startup_in_force(Span::minutes(10)),
        Span::minutes(30)
    );
    let written = Limits {
        startup: Some(Span::minutes(5)),
        ..limits
    };
    assert_eq!(
        written.startup_in_force(Span::minutes(10)),
        Span::minutes(5)
    );
}

#[test]
fn a_status_that_somebody_edited_does_not_hide_the_rest() {
    let status: ChatSessionStatus = serde_json::from_value(json!({
        "replicas": "many",
        "plan": { "engine": "Abacus" },
        "endpoint": { "url": "https://x/v1", "credentialsSecretRef": { "name": "x-chat" } },
        "conditions": [{ "type": "Ready" }],
        "added": "later",
    }))
    .unwrap();
    assert_eq!(status.replicas, 0);
    assert_eq!(status.plan, None);
    assert_eq!(status.endpoint.unwrap().url, "https://x/v1");
    assert!(status.conditions.is_empty());
}

#[test]
fn the_documented_status_is_read_and_written_unchanged() {
    let documented = json!({
        "observedGeneration": 2,
        "replicas": 1,
        "selector": "srchat.dev/session=vision",
        "plan": {
            "revision": "abc", "engine": "VLLM", "quantization": "None", "vision": true, "contextLength": 16384,
            "requiredMemory": "21Gi", "gpu": "NVIDIA L40S", "gpuCount": 1, "disk": "60Gi", "hourlyCost": "0.79",
            "rejected": [{ "gpu": "RTX 4090", "reason": "NoStock" }, { "gpu": "H100 PCIe", "reason": "OverPrice" }],
        },
        "run": {
            "number": 1, "attempts": 1, "started": "2026-11-01T10:00:00Z",
            "ended": { "time": "2026-11-01T14:00:00Z", "reason": "LifetimeReached" },
        },
        "instance": {
            "providerID": "runpod://7h9k2m4n6p", "dataCenter": "EU-RO-1", "address": "1.2.3.4:34446",
            "hostKey": "SHA256:x", "podName": "srchat-9f3a2c1b-u-1", "hourlyCost": "0.79",
            "createdTime": "2026-11-01T10:00:00Z", "readyTime": "2026-11-01T10:05:00Z", "medium": "Memory",
            "uploadQuota": "4Gi",
        },
        "startup": {
            "stage": "Downloading", "percent": 63, "message": "9.8 of 15.6 GiB",
            "estimatedReadyTime": "2026-11-01T10:05:00Z",
        },
        "endpoint": {
            "url": "https://srchat.example/team-a/vision/v1", "credentialsSecretRef": { "name": "vision-chat" },
        },
        "cost": { "hourly": "0.79", "accrued": "0.05", "source": "Estimated", "asOf": "2026-11-01T10:04:00Z" },
        "expiry": { "time": "2026-11-01T14:00:00Z", "reason": "Lifetime" },
        "teardown": {
            "wipe": "Cleared", "wipedTime": "2026-11-01T14:00:01Z", "terminatedTime": "2026-11-01T14:00:02Z",
            "absenceProofs": 2,
        },
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Serving", "message": "", "observedGeneration": 2,
            "lastTransitionTime": "2026-11-01T10:05:00Z",
        }],
    });
    let status: ChatSessionStatus = serde_json::from_value(documented.clone()).unwrap();
    assert_eq!(serde_json::to_value(status).unwrap(), documented);
}

#[test]
fn money_is_exact() {
    let dollars = |text: &str| text.parse::<Dollars>().unwrap();
    assert_eq!(dollars("0.79").to_string(), "0.79");
    assert_eq!(dollars("1").to_string(), "1.00");
    assert_eq!(dollars("0.000001").to_string(), "0.000001");
    assert_eq!(dollars("2.50").to_string(), "2.50");
    assert_eq!(dollars("0.1") + dollars("0.2"), dollars("0.3"));
    assert_eq!(
        serde_json::from_value::<Dollars>(json!(3)).unwrap(),
        Dollars::whole(3)
    );
    assert!(serde_json::from_value::<Dollars>(json!(2.5)).is_err());
    assert_eq!(
        dollars("0.79").for_hours_of(std::time::Duration::from_secs(1800)),
        dollars("0.395")
    );
    assert_eq!(
        dollars("1").for_hours_of(std::time::Duration::from_secs(1)),
        dollars("0.000278")
    );
    assert_eq!(
        dollars("0.79").lasts_at(dollars("1.58")).unwrap().as_secs(),
        1800
    );
    assert_eq!(dollars("5").lasts_at(Dollars::ZERO), None);
    assert_eq!(dollars("0.25").less(dollars("1")), Dollars::ZERO);
}

#[test]
fn a_providers_floats_become_exact() {
    let read = |text: &str| {
        Dollars::from_number(&serde_json::from_str(text).unwrap())
            .ok()
            .map(|d| d.to_string())
    };
    assert_eq!(read("0.44").as_deref(), Some("0.44"));
    assert_eq!(read("0.4399999976").as_deref(), Some("0.44"));
    assert_eq!(read("0.44000000953674316").as_deref(), Some("0.44"));
    assert_eq!(read("2").as_deref(), Some("2.00"));
    assert_eq!(read("1e-7").as_deref(), Some("0.00"));
    assert_eq!(read("1.5e2").as_deref(), Some("150.00"));
    assert_eq!(read("0").as_deref(), Some("0.00"));
    assert_eq!(read("-0.5"), None);
    assert_eq!(read("1e300"), None);
    assert_eq!(Dollars::from_f64(f64::NAN), None);
}

#[test]
fn sizes_compare_by_the_number_on_the_label() {
    let size = |text: &str| text.parse::<Size>().unwrap();
    assert_eq!(
        (
            size("24Gi").nominal(),
            size("24G").nominal(),
            size("1Ti").nominal()
        ),
        (24, 24, 1024)
    );
    assert_eq!((size("50Gi").gb_up(), size("50G").gb_up()), (54, 50));
    assert_eq!(Size::gib_for((20 << 30) + 1).to_string(), "21Gi");
    assert_eq!(Size::within(4 << 30).to_string(), "4Gi");
    assert_eq!(Size::within(300 << 20).to_string(), "300Mi");
}

#[test]
fn a_model_is_read_in_parts() {
    let id: ModelId = "o/n:Q4_K_M@refs/pr/1".parse().unwrap();
    assert_eq!(
        (
            id.repository(),
            id.owner(),
            id.name(),
            id.variant(),
            id.revision()
        ),
        ("o/n", "o", "n", Some("Q4_K_M"), Some("refs/pr/1"))
    );
    let id: ModelId = "o/n@main".parse().unwrap();
    assert_eq!(
        (id.repository(), id.variant(), id.revision()),
        ("o/n", None, Some("main"))
    );
    let id: ModelId = "o/n".parse().unwrap();
    assert_eq!(
        (id.variant(), id.revision(), id.to_string()),
        (None, None, "o/n".to_owned())
    );
}

/// Characters that make texts which nearly pass.
fn nearly(characters: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(characters.chars().collect::<Vec<_>>()),
        0..24,
    )
    .prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #[test]
    fn a_model_parses_exactly_when_the_crd_admits_it(text in nearly("aZ0_.-/:@")) {
        let head = text.split([':', '@']).next().unwrap();
        let admitted = Regex::new(model::PATTERN).unwrap().is_match(&text) && !text.contains("..") && !head.contains("--");
        prop_assert_eq!(text.parse::<ModelId>().is_ok(), admitted);
    }

    #[test]
    fn a_duration_parses_exactly_when_the_crd_admits_it(text in nearly("0123hms. -")) {
        let admitted = Regex::new(duration::PATTERN).unwrap().is_match(&text) && text.len() <= duration::MAX_LENGTH;
        prop_assert_eq!(text.parse::<Span>().is_ok(), admitted);
    }

    #[test]
    fn a_price_parses_exactly_when_the_crd_admits_it(text in nearly("0123.-e")) {
        prop_assert_eq!(text.parse::<Dollars>().is_ok(), Regex::new(money::PATTERN).unwrap().is_match(&text));
    }

    #[test]
    fn a_size_parses_exactly_when_the_crd_admits_it(text in nearly("0123GMTi.")) {
        prop_assert_eq!(text.parse::<Size>().is_ok(), Regex::new(size::PATTERN).unwrap().is_match(&text));
    }

    #[test]
    fn what_is_printed_reads_the_same(seconds in 0u64..1_000_000, micros in 0u64..10_000_000_000_000, text in nearly("0123GMTi")) {
        prop_assert_eq!(Span::seconds(seconds).to_string().parse(), Ok(Span::seconds(seconds)));
        prop_assert_eq!(Dollars::micros(micros).to_string().parse(), Ok(Dollars::micros(micros)));
        if let Ok(size) = text.parse::<Size>() {
            prop_assert_eq!(size.to_string(), text);
        }
    }
}
