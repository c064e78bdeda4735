//! The resource on a real API server: every rule answers there, every default is filled in, every example is taken.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, CustomResourceExt};
use serde_json::{Value, json};
use srchat_crds::{ChatSession, ChatSessionSpec, FIELD_MANAGER};
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::tools;
use tokio::sync::OnceCell;

/// A CRD is served within a second or two of its making; here the machine may be compiling.
const ESTABLISHED: Duration = Duration::from_secs(60);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The control plane of this process, with what stays of the chart applied.
async fn served() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let control_plane = ControlPlane::shared().await;
    APPLIED
        .get_or_init(|| async {
            let mut kubectl = control_plane.kubectl();
            kubectl
                .args(["apply", "--server-side", "--filename"])
                .arg(repository().join("charts/rendered/stays.yaml"));
            tools::run(&mut kubectl).unwrap();
            let sessions: Api<ChatSession> =
                Api::default_namespaced(control_plane.client().await.unwrap());
            eventually("the resource to be served", ESTABLISHED, || {
                sessions.get_opt("none")
            })
            .await;
        })
        .await;
    control_plane
}

/// Sessions of one namespace, as JSON, so that wrong ones can be sent.
struct Sessions {
    api: Api<DynamicObject>,
    namespace: String,
    control_plane: &'static ControlPlane,
}

impl Sessions {
    async fn new() -> Self {
        let control_plane = served().await;
        let namespace = control_plane.namespace("crd").await.unwrap();
        let resource = ApiResource::erase::<ChatSession>(&());
        let client = control_plane.client().await.unwrap();
        Self {
            api: Api::namespaced_with(client, &namespace, &resource),
            namespace,
            control_plane,
        }
    }

    fn object(&self, name: &str, spec: &Value) -> DynamicObject {
        let mut spec = spec.clone();
        if spec.get("model").is_none() {
            spec["model"] = json!("Qwen/Qwen3-8B");
        }
        serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1",
            "kind": "ChatSession",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": spec,
        }))
        .unwrap()
    }

    /// What the API server would say to a new session; nothing is stored.
    async fn tried(&self, name: &str, spec: &Value) -> Result<DynamicObject, String> {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        self.api
            .create(&dry, &self.object(name, spec))
            .await
            .map_err(|error| error.to_string())
    }

    async fn accepted(&self, spec: Value) -> DynamicObject {
        self.tried("qwen", &spec)
            .await
            .unwrap_or_else(|refusal| panic!("{spec} was refused: {refusal}"))
    }

    async fn refused(&self, spec: Value, sentence: &str) -> String {
        match self.tried("qwen", &spec).await {
            Ok(_) => panic!("{spec} was accepted"),
            Err(refusal) => {
                assert!(
                    refusal.contains(sentence),
                    "{spec} was refused with {refusal}"
                );
                refusal
            }
        }
    }

    async fn stored(&self, name: &str, spec: Value) {
        self.api
            .create(&PostParams::default(), &self.object(name, &spec))
            .await
            .unwrap();
    }

    /// What the API server would say to a change of a stored session.
    async fn changed(&self, name: &str, spec: Value) -> Result<(), String> {
        let dry = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api
            .patch(name, &dry, &patch)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut kubectl = self.control_plane.kubectl();
        kubectl
            .args(["--namespace", &self.namespace])
            .args(arguments);
        tools::run(&mut kubectl).map_err(|error| error.to_string())
    }
}

/// The message of every rule in a schema.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                found.insert(rule["message"].as_str().unwrap().to_owned());
            }
            fields.values().for_each(|field| messages(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn every_rule_answers_in_its_own_sentence() {
    let sessions = Sessions::new().await;
    let mut answers = Vec::new();
    for wrong in [
        json!({ "model": "gpt2" }),
        json!({ "model": "a/b--c" }),
        json!({ "disk": "50" }),
        json!({ "disk": "5Gi" }),
        json!({ "gpu": { "minMemory": "24" } }),
        json!({ "runtime": { "quantization": "FP8", "engine": "LlamaCpp" } }),
        json!({ "runtime": { "image": "a b" } }),
        json!({ "runtime": { "extraArgs": ["--host=0.0.0.0"] } }),
        json!({ "limits": { "maxHourlyCost": "1000.01" } }),
        json!({ "limits": { "maxTotalCost": 0 } }),
        json!({ "limits": { "lifetime": "169h" } }),
        json!({ "limits": { "idle": "5h" } }),
        json!({ "limits": { "lifetime": "15m", "startup": "15m" } }),
        json!({ "limits": { "startup": "0s" } }),
        json!({ "teardown": { "wipeTimeout": "601s" } }),
    ] {
        answers.push(sessions.refused(wrong, "").await);
    }
    let long = "a".repeat(53);
    answers.push(sessions.tried(&long, &json!({})).await.unwrap_err());
    sessions.tried(&long[1..], &json!({})).await.unwrap();

    sessions.stored("running", json!({})).await;
    for change in [
        json!({ "model": "a/c" }),
        json!({ "modelTokenSecretRef": { "name": "hf" } }),
        json!({ "runtime": { "engine": "VLLM" } }),
        json!({ "gpu": { "count": 2 } }),
        json!({ "disk": "60Gi" }),
        json!({ "runpod": { "cloud": "Any" } }),
    ] {
        answers.push(sessions.changed("running", change).await.unwrap_err());
    }

    let crd = serde_json::to_value(ChatSession::crd()).unwrap();
    let mut expected = BTreeSet::new();
    messages(&crd["spec"]["versions"], &mut expected);
    // There is one provider: nothing else passes the enum, so its rule has nothing to refuse yet.
    expected.retain(|message| !message.starts_with("the provider cannot be changed"));
    let unheard: Vec<_> = expected
        .iter()
        .filter(|message| !answers.iter().any(|answer| answer.contains(*message)))
        .collect();
    assert!(
        unheard.is_empty(),
        "no answer had {unheard:#?} among {answers:#?}"
    );
}

#[tokio::test]
async fn what_the_rules_allow_is_taken() {
    let sessions = Sessions::new().await;
    for spec in [
        json!({}),
        json!({ "model": "bartowski/x_y.z-GGUF:Q4_K_M@refs/pr/1" }),
        json!({ "disk": "20G" }),
        json!({ "disk": "10Ti", "gpu": { "minMemory": "24Gi", "count": 8, "types": ["L4"] } }),
        json!({ "runtime": { "quantization": "FP8", "engine": "VLLM", "extraArgs": ["--max-num-seqs", "4"] } }),
        json!({ "limits": { "maxHourlyCost": 1 } }),
        json!({ "limits": { "maxHourlyCost": "2.5", "maxTotalCost": 100_000 } }),
        json!({ "limits": { "maxHourlyCost": "0.000001" } }),
        json!({ "limits": { "lifetime": "15m" } }),
        json!({ "limits": { "lifetime": "168h", "idle": "0s", "startup": "167h59m59s" } }),
        json!({ "teardown": { "wipeTimeout": "10m" } }),
        json!({ "replicas": 0 }),
    ] {
        sessions.accepted(spec).await;
    }
}

#[tokio::test]
async fn what_the_schema_forbids_is_refused() {
    let sessions = Sessions::new().await;
    for (spec, sentence) in [
        (json!({ "replicas": 2 }), "less than or equal to 1"),
        (json!({ "replicas": -1 }), "greater than or equal to 0"),
        (
            json!({ "limits": { "attempts": 0 } }),
            "greater than or equal to 1",
        ),
        (
            json!({ "limits": { "attempts": 11 } }),
            "less than or equal to 10",
        ),
        (json!({ "gpu": { "count": 9 } }), "less than or equal to 8"),
        (
            json!({ "limits": { "lifetime": "-1h" } }),
            "spec.limits.lifetime",
        ),
        (
            json!({ "limits": { "lifetime": "in 3 days or so" } }),
            "spec.limits.lifetime",
        ),
        (json!({ "limits": { "idle": "1.5h" } }), "spec.limits.idle"),
        (json!({ "limits": { "idle": "30" } }), "spec.limits.idle"),
        (
            json!({ "limits": { "lifetime": "99999999999999h" } }),
            "spec.limits.lifetime",
        ),
        (
            json!({ "limits": { "maxHourlyCost": 2.5 } }),
            "spec.limits.maxHourlyCost",
        ),
        (
            json!({ "limits": { "maxHourlyCost": "1e3" } }),
            "spec.limits.maxHourlyCost",
        ),
        (
            json!({ "limits": { "maxHourlyCost": "0.1234567" } }),
            "spec.limits.maxHourlyCost",
        ),
        (json!({ "limits": { "maxHourlyCost": -1 } }), "more than 0"),
        (
            json!({ "runtime": { "engine": "vllm" } }),
            "spec.runtime.engine",
        ),
        (
            json!({ "runtime": { "contextLength": 10 } }),
            "greater than or equal to 256",
        ),
        (json!({ "provider": "Other" }), "spec.provider"),
        (json!({ "runpod": { "cloud": "Own" } }), "spec.runpod.cloud"),
        (
            json!({ "modelTokenSecretRef": {} }),
            "spec.modelTokenSecretRef.name",
        ),
        (json!({ "model": null }), "spec.model"),
    ] {
        sessions.refused(spec, sentence).await;
    }
}

/// What is stored can be read: a session that could not be would never end.
#[tokio::test]
async fn null_is_refused_or_reads_as_absent() {
    let sessions = Sessions::new().await;
    for spec in [
        json!({ "modelTokenSecretRef": null }),
        json!({ "replicas": null }),
        json!({ "runtime": null }),
        json!({ "runtime": { "engine": null, "contextLength": null, "extraArgs": null, "image": null } }),
        json!({ "gpu": { "types": null, "count": null, "minMemory": null } }),
        json!({ "disk": null, "provider": null, "runpod": { "cloud": null, "dataCenters": null } }),
        json!({ "limits": { "maxHourlyCost": null, "lifetime": null, "attempts": null } }),
        json!({ "limits": { "maxTotalCost": null, "idle": null, "startup": null } }),
        json!({ "teardown": { "wipeTimeout": null } }),
    ] {
        if let Ok(taken) = sessions.tried("qwen", &spec).await {
            let stored = taken.data["spec"].clone();
            let read: ChatSessionSpec = serde_json::from_value(stored.clone())
                .unwrap_or_else(|error| panic!("{stored} was stored and cannot be read: {error}"));
            assert_eq!(
                read,
                ChatSessionSpec::of("Qwen/Qwen3-8B".parse().unwrap()),
                "{spec}"
            );
        }
    }
}

#[tokio::test]
async fn a_misspelt_field_is_named() {
    let sessions = Sessions::new().await;
    let object = sessions.object("qwen", &json!({ "limits": { "lifetme": "1h" } }));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), serde_json::to_string(&object).unwrap()).unwrap();
    let refusal = sessions
        .kubectl(&["apply", "--filename", file.path().to_str().unwrap()])
        .unwrap_err();
    assert!(refusal.contains("spec.limits.lifetme"), "{refusal}");
}

#[tokio::test]
async fn every_default_is_filled_in() {
    let sessions = Sessions::new().await;
    let spec = &sessions.accepted(json!({})).await.data["spec"];
    assert_eq!(
        *spec,
        json!({
            "model": "Qwen/Qwen3-8B",
            "replicas": 1,
            "runtime": {
                "engine": "Auto", "quantization": "Auto", "image": "", "trustRemoteCode": false, "extraArgs": [],
            },
            "gpu": { "types": [], "count": 1 },
            "provider": "RunPod",
            "runpod": { "cloud": "Secure", "dataCenters": [] },
            "limits": { "maxHourlyCost": "1", "lifetime": "4h", "attempts": 3 },
            "teardown": { "wipeTimeout": "60s" },
        })
    );
    let read: ChatSessionSpec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(read, ChatSessionSpec::of("Qwen/Qwen3-8B".parse().unwrap()));

    let partly = sessions
        .accepted(json!({ "limits": { "lifetime": "15m" }, "gpu": { "types": ["L4"] } }))
        .await;
    assert_eq!(
        partly.data["spec"]["limits"],
        json!({ "maxHourlyCost": "1", "lifetime": "15m", "attempts": 3 })
    );
    assert_eq!(
        partly.data["spec"]["gpu"],
        json!({ "types": ["L4"], "count": 1 })
    );
}

#[tokio::test]
async fn what_is_rented_changes_only_at_zero_replicas() {
    let sessions = Sessions::new().await;
    sessions.stored("running", json!({ "disk": "50Gi" })).await;
    sessions
        .stored("paused", json!({ "replicas": 0, "disk": "50Gi" }))
        .await;
    for change in [
        json!({ "runtime": { "engine": "VLLM" } }),
        json!({ "runtime": { "contextLength": 4096 } }),
        json!({ "gpu": { "minMemory": "24Gi" } }),
        json!({ "disk": "60Gi" }),
        json!({ "disk": null }),
        json!({ "runpod": { "dataCenters": ["EU-RO-1"] } }),
    ] {
        let refusal = sessions
            .changed("running", change.clone())
            .await
            .unwrap_err();
        assert!(
            refusal.contains("set replicas to 0 first"),
            "{change}: {refusal}"
        );
        sessions.changed("paused", change.clone()).await.unwrap();
        let mut and_resume = change;
        and_resume["replicas"] = json!(1);
        sessions.changed("paused", and_resume).await.unwrap();
    }
    for name in ["running", "paused"] {
        for change in [
            json!({ "model": "a/c" }),
            json!({ "modelTokenSecretRef": { "name": "hf" } }),
        ] {
            sessions.changed(name, change).await.unwrap_err();
        }
        sessions
            .changed(
                name,
                json!({ "limits": { "lifetime": "8h", "maxTotalCost": "9" } }),
            )
            .await
            .unwrap();
        sessions
            .changed(name, json!({ "teardown": { "wipeTimeout": "5s" } }))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn every_example_is_taken_as_it_stands() {
    let sessions = Sessions::new().await;
    let mut taken = 0;
    for entry in fs::read_dir(repository().join("crds/examples")).unwrap() {
        let path = entry.unwrap().path();
        sessions
            .kubectl(&[
                "apply",
                "--validate=strict",
                "--filename",
                path.to_str().unwrap(),
            ])
            .unwrap();
        taken += 1;
    }
    assert!(taken >= 6, "only {taken} examples");
}

#[tokio::test]
async fn a_session_scales_between_nothing_and_one() {
    let sessions = Sessions::new().await;
    sessions.stored("qwen", json!({})).await;
    sessions
        .kubectl(&["scale", "chat/qwen", "--replicas=0"])
        .unwrap();
    assert_eq!(
        sessions
            .kubectl(&["get", "chat", "qwen", "-o", "jsonpath={.spec.replicas}"])
            .unwrap(),
        "0"
    );
    sessions
        .kubectl(&["scale", "chat/qwen", "--replicas=1"])
        .unwrap();
    let refusal = sessions
        .kubectl(&["scale", "chat/qwen", "--replicas=2"])
        .unwrap_err();
    assert!(refusal.contains("less than or equal to 1"), "{refusal}");
}

#[tokio::test]
async fn what_costs_money_shows_in_get_all_with_its_columns() {
    let sessions = Sessions::new().await;
    sessions.stored("qwen", json!({})).await;
    let status = json!({
        "apiVersion": "srchat.dev/v1alpha1",
        "kind": "ChatSession",
        "status": {
            "replicas": 1,
            "selector": "srchat.dev/session=qwen",
            "plan": {
                "revision": "abc", "engine": "VLLM", "quantization": "None", "vision": false, "contextLength": 4096,
                "requiredMemory": "21Gi", "gpu": "NVIDIA L40S", "gpuCount": 1, "disk": "60Gi", "hourlyCost": "0.79",
            },
            "cost": { "hourly": "0.79", "accrued": "0.05", "source": "Estimated", "asOf": "2026-11-01T10:00:00Z" },
            "expiry": { "time": "2999-01-01T00:00:00Z", "reason": "Lifetime" },
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "Downloading", "message": "9.8 of 15.6 GiB",
                "lastTransitionTime": "2026-11-01T10:00:00Z", "observedGeneration": 1,
            }],
        },
    });
    let ours = PatchParams::apply(FIELD_MANAGER);
    sessions
        .api
        .patch_status("qwen", &ours, &Patch::Apply(&status))
        .await
        .unwrap();

    let columns = |text: &str, line: usize| -> Vec<String> {
        text.lines()
            .nth(line)
            .unwrap()
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(String::from)
            .collect()
    };
    let table = sessions.kubectl(&["get", "chat"]).unwrap();
    assert_eq!(
        columns(&table, 0),
        [
            "NAME", "MODEL", "GPU", "$/H", "SPENT", "STATE", "EXPIRES", "AGE"
        ]
    );
    assert_eq!(
        columns(&table, 1)[..7],
        [
            "qwen",
            "Qwen/Qwen3-8B",
            "NVIDIA L40S",
            "0.79",
            "0.05",
            "Downloading",
            "2999-01-01T00:00:00Z"
        ]
    );
    let wide = sessions.kubectl(&["get", "chat", "-o", "wide"]).unwrap();
    assert!(
        wide.lines().next().unwrap().ends_with("MESSAGE") && wide.contains("9.8 of 15.6 GiB"),
        "{wide}"
    );
    for category in ["all", "srchat"] {
        let listed = sessions.kubectl(&["get", category]).unwrap();
        assert!(listed.contains("qwen"), "get {category}: {listed}");
    }
    let scale = sessions.kubectl(&[
        "get",
        "--raw",
        &format!(
            "/apis/srchat.dev/v1alpha1/namespaces/{}/chatsessions/qwen/scale",
            sessions.namespace
        ),
    ]);
    let scale: Value = serde_json::from_str(&scale.unwrap()).unwrap();
    assert_eq!(
        scale["status"],
        json!({ "replicas": 1, "selector": "srchat.dev/session=qwen" })
    );

    // The same again is no write: nobody is woken.
    let version = |object: DynamicObject| object.metadata.resource_version;
    let before = version(sessions.api.get("qwen").await.unwrap());
    sessions
        .api
        .patch_status("qwen", &ours, &Patch::Apply(&status))
        .await
        .unwrap();
    assert_eq!(version(sessions.api.get("qwen").await.unwrap()), before);
}
