//! The simulator against the contract that RunPod publishes: its answers satisfy it, and it takes and refuses what the contract does.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use jsonschema::Validator;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use srchat_tests::{
    runpod::{Call, Fault, Kind, Limits, Options, Simulator},
    skipped,
};

use super::setting::{BOOTED, options, start_with};

/// The published document, or why the test is skipped.
fn document() -> Option<Value> {
    let Some(path) = std::env::var_os("SRCHAT_RUNPOD_OPENAPI") else {
        skipped::because(
            "SRCHAT_RUNPOD_OPENAPI does not name RunPod's OpenAPI document of REST v2",
        );
        return None;
    };
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(serde_json::from_str(&text).expect("the document is JSON"))
}

/// A validator of a schema within the document, so that its references resolve.
fn validator(document: &Value, schema: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the document's schemas are schemas")
}

/// The documented answer of an operation: by its status, else `default`; references followed.
fn documented<'a>(
    document: &'a Value,
    path: &str,
    method: &Method,
    status: StatusCode,
) -> &'a Value {
    let responses = &document["paths"][path][method.as_str().to_lowercase()]["responses"];
    let answer = responses
        .get(status.as_str())
        .unwrap_or(&responses["default"]);
    match answer.get("$ref").and_then(Value::as_str) {
        Some(reference) => document
            .pointer(reference.trim_start_matches('#'))
            .expect("references resolve"),
        None => answer,
    }
}

/// Asks, and holds the answer against the document.
struct Checker<'a> {
    document: &'a Value,
    simulator: &'a Simulator,
    seen: BTreeSet<(String, u16)>,
}

impl Checker<'_> {
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        id: &str,
        query: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        self.ask_with(self.simulator.key(), method, path, id, query, body)
            .await
    }

    async fn ask_with(
        &mut self,
        key: &str,
        method: Method,
        path: &str,
        id: &str,
        query: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let base = self.simulator.url().trim_end_matches("/v2");
        let url = format!("{base}{}{query}", path.replace("{id}", id));
        let mut request = reqwest::Client::new()
            .request(method.clone(), url)
            .bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let at = format!("{method} {path} {status}");
        let documented = documented(self.document, path, &method, status);
        assert!(documented.is_object(), "{at}: not documented");
        for (name, header) in documented["headers"].as_object().into_iter().flatten() {
            let required = [
                "Retry-After",
                "RateLimit",
                "RateLimit-Policy",
                "Cache-Control",
                "X-Accel-Buffering",
            ];
            if required.contains(&name.as_str()) {
                assert!(
                    headers.contains_key(name.as_str()),
                    "{at}: no {name} of {header}"
                );
            }
        }
        self.seen
            .insert((format!("{method} {path}"), status.as_u16()));
        let kind = headers
            .get("content-type")
            .map(|kind| kind.to_str().unwrap().to_owned());
        if kind.as_deref() == Some("text/event-stream") {
            assert!(
                documented["content"]["text/event-stream"].is_object(),
                "{at}"
            );
            return (status, Value::Null);
        }
        let text = response.text().await.unwrap();
        let Some(content) = documented["content"].as_object() else {
            assert_eq!(text, "", "{at} has no body");
            return (status, Value::Null);
        };
        let kind = kind.unwrap_or_default();
        let schema = &content
            .get(&kind)
            .unwrap_or_else(|| panic!("{at}: {kind} is not documented"))["schema"];
        let body: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{at}: {error}: {text}"));
        let errors: Vec<String> = validator(self.document, schema)
            .iter_errors(&body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{at}: {errors:#?} in {body:#}");
        (status, body)
    }
}

fn create(name: &str) -> Value {
    json!({"name": name, "image": "runpod/pytorch:2.8.0", "gpu": {"id": "NVIDIA L4", "count": 2}, "disk": 50, "ports": ["22/tcp"], "env": {"A": "b"}})
}

#[tokio::test]
async fn every_answer_is_one_that_the_document_describes() {
    let Some(document) = document() else { return };
    let (simulator, _) = start_with(Options {
        limits: Some(Limits {
            minute: 1_000,
            ..Limits::default()
        }),
        ..options()
    })
    .await;
    let mut check = Checker {
        document: &document,
        simulator: &simulator,
        seen: BTreeSet::new(),
    };
    let (pods, one, action, logs) = (
        "/v2/pods",
        "/v2/pods/{id}",
        "/v2/pods/{id}/action",
        "/v2/pods/{id}/logs",
    );

    let (status, pod) = check
        .ask(Method::POST, pods, "", "", Some(create("gpu")))
        .await;
    assert_eq!(status, 201);
    let id = pod["id"].as_str().unwrap().to_owned();
    let cpu =
        json!({"name": "cpu", "image": "ubuntu:24.04", "cpu": {"id": "cpu5c", "vcpuCount": 4}});
    assert_eq!(
        check.ask(Method::POST, pods, "", "", Some(cpu)).await.0,
        201
    );
    for step in [0, 5, 60, BOOTED.as_secs()] {
        simulator.clock().advance(Duration::from_secs(step));
        check.ask(Method::GET, pods, "", "", None).await;
        check.ask(Method::GET, one, &id, "", None).await;
    }
    check
        .ask(
            Method::GET,
            pods,
            "",
            "?includeClusterPods=true&limit=1",
            None,
        )
        .await;
    assert_eq!(
        check
            .ask(Method::GET, logs, &id, "?source=container&tail=5000", None)
            .await
            .0,
        200
    );
    assert_eq!(
        check
            .ask(Method::GET, logs, &id, "?tail=5001", None)
            .await
            .0,
        422
    );
    for (verb, want) in [
        ("start", 409),
        ("restart", 200),
        ("stop", 200),
        ("stop", 409),
        ("start", 200),
        ("explode", 422),
    ] {
        let (status, _) = check
            .ask(Method::POST, action, &id, "", Some(json!({"action": verb})))
            .await;
        assert_eq!(status, want, "{verb}");
        check.ask(Method::GET, one, &id, "", None).await;
        simulator.clock().advance(Duration::from_secs(30));
    }
    let gpus = "/v2/catalog/gpus";
    let queries = [
        ("", 200),
        ("?include=AVAILABILITY&product=POD", 200),
        (
            "?include=AVAILABILITY&product=POD&count=2&cloud=COMMUNITY&countryCodes=RO,SE&minCudaVersion=12",
            200,
        ),
        ("?include=AVAILABILITY", 400),
        ("?product=POD", 400),
    ];
    for (query, want) in queries {
        assert_eq!(
            check.ask(Method::GET, gpus, "", query, None).await.0,
            want,
            "{query}"
        );
    }
    let gpu = "/v2/catalog/gpus/{id}";
    let known = check.ask(
        Method::GET,
        gpu,
        "NVIDIA%20L4",
        "?include=AVAILABILITY&product=POD&countryCodes=US",
        None,
    );
    let (status, l4) = known.await;
    assert_eq!(
        (status.as_u16(), &l4["availability"]),
        (200, &json!("NONE")),
        "it is in Europe only"
    );
    assert_eq!(check.ask(Method::GET, gpu, "nobody", "", None).await.0, 404);
    let billing = "/v2/billing/pods";
    for query in [
        "",
        "?bucketSize=hour&lastN=3",
        "?startTime=2026-01-01T00:00:00Z&bucketSize=month",
    ] {
        assert_eq!(
            check.ask(Method::GET, billing, "", query, None).await.0,
            200,
            "{query}"
        );
    }
    assert_eq!(
        check
            .ask(
                Method::POST,
                pods,
                "",
                "",
                Some(json!({"name": "n", "bogus": 1}))
            )
            .await
            .0,
        422
    );
    assert_eq!(
        check
            .ask(
                Method::POST,
                pods,
                "",
                "",
                Some(json!({"name": "n", "image": "i"}))
            )
            .await
            .0,
        400
    );
    assert_eq!(
        check
            .ask(
                Method::POST,
                pods,
                "",
                "",
                Some(json!({"name": "n", "templateId": "nobody's"}))
            )
            .await
            .0,
        404
    );
    let refusals = [
        (Kind::KeyRevoked, 401),
        (Kind::BalanceGone, 402),
        (Kind::Forbidden, 403),
        (Kind::NoCapacity, 400),
        (Kind::RateLimited, 429),
        (Kind::CreateErrorBefore, 500),
    ];
    for (kind, want) in refusals {
        simulator.fault(Fault::always(kind).in_call(Call::Create));
        assert_eq!(
            check
                .ask(Method::POST, pods, "", "", Some(create("refused")))
                .await
                .0,
            want
        );
        simulator.clear_faults();
    }
    let own = simulator.own_key(&id).unwrap();
    assert_eq!(
        check
            .ask_with(&own, Method::GET, pods, "", "", None)
            .await
            .0,
        403
    );
    simulator.fault(Fault::always(Kind::Lingers));
    assert_eq!(check.ask(Method::DELETE, one, &id, "", None).await.0, 204);
    check.ask(Method::GET, pods, "", "", None).await;
    assert_eq!(
        check.ask(Method::DELETE, one, "nobody", "", None).await.0,
        404
    );
    assert_eq!(
        check
            .ask(
                Method::POST,
                action,
                "nobody",
                "",
                Some(json!({"action": "terminate"}))
            )
            .await
            .0,
        404
    );
    assert_eq!(
        check.ask(Method::GET, logs, "nobody", "", None).await.0,
        404
    );
    assert!(check.seen.len() >= 24, "{:?}", check.seen);
    simulator.stop().await;
}

/// Bodies of creates, most of them nearly right.
fn any_create() -> impl Strategy<Value = Value> {
    fn mostly(right: Vec<Value>) -> BoxedStrategy<Option<Value>> {
        let odd = vec![
            json!(null),
            json!(7),
            json!(-1),
            json!(0.5),
            json!("text"),
            json!(""),
            json!([]),
            json!({}),
            json!([1]),
            json!(true),
        ];
        prop_oneof![
            40 => proptest::sample::select(right).prop_map(Some),
            10 => Just(None),
            1 => proptest::sample::select(odd).prop_map(Some),
        ]
        .boxed()
    }
    let gpu = vec![
        json!({"id": "NVIDIA L4"}),
        json!({"id": "NVIDIA L4"}),
        json!({"id": "NVIDIA L4"}),
        json!({"id": "NVIDIA L4"}),
        json!({"id": "NVIDIA L4", "count": 2}),
        json!({"id": "NVIDIA L4", "count": 2}),
        json!({"id": "NVIDIA L4", "count": 0}),
        json!({"id": "NVIDIA L4", "count": 1.0}),
        json!({"count": 1}),
        json!({"id": "NVIDIA L4", "bogus": 1}),
        json!({"id": "NVIDIA L4", "minCudaVersion": "12.1"}),
        json!({"id": "NVIDIA L4", "minCudaVersion": "12"}),
        json!({"id": "NVIDIA L4", "allowedCudaVersions": ["12.8"], "minCudaVersion": "12.1"}),
        json!({"id": "NVIDIA L4", "allowedCudaVersions": ["x"]}),
    ];
    let cpu = vec![
        json!({"id": "cpu5c", "vcpuCount": 4}),
        json!({"id": "", "vcpuCount": 4}),
        json!({"id": "cpu5c", "vcpuCount": 1}),
    ];
    let mounts = vec![
        json!({"persistent": {"size": 20, "path": "/w"}}),
        json!({"persistent": {"size": 9, "path": "/w"}}),
        json!({"network": [{"volumeId": "v", "path": "/w"}]}),
        json!({"network": [{"volumeId": "v"}]}),
        json!({"network": [{"volumeId": "v", "path": "/w"}, {"volumeId": "w", "path": "/x"}]}),
        json!({"bogus": 1}),
    ];
    let fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)> = vec![
        (
            "name",
            prop_oneof![30 => Just(Some(json!("n"))), 1 => mostly(vec![json!("")])].boxed(),
        ),
        (
            "image",
            prop_oneof![30 => Just(Some(json!("i"))), 1 => mostly(vec![json!("")])].boxed(),
        ),
        ("gpu", mostly(gpu)),
        (
            "cpu",
            prop_oneof![8 => Just(None), 2 => mostly(cpu)].boxed(),
        ),
        (
            "cloud",
            mostly(vec![
                json!("SECURE"),
                json!("SECURE"),
                json!("SECURE"),
                json!("ANY"),
            ]),
        ),
        (
            "disk",
            mostly(vec![json!(50), json!(1), json!(20), json!(0)]),
        ),
        ("ports", mostly(vec![json!(["22/tcp"]), json!([])])),
        (
            "env",
            mostly(vec![
                json!({}),
                json!({"A": "b"}),
                json!({"B": ""}),
                json!({"A": 1}),
            ]),
        ),
        ("args", mostly(vec![json!(""), json!("sh -c true")])),
        (
            "registry",
            mostly(vec![json!(null), json!(null), json!("r")]),
        ),
        ("dataCenterIds", mostly(vec![json!(["EU-RO-1"]), json!([])])),
        (
            "mounts",
            prop_oneof![6 => Just(None), 4 => mostly(mounts)].boxed(),
        ),
        ("startSsh", mostly(vec![json!(true), json!(false)])),
        ("startJupyter", mostly(vec![json!(true)])),
        ("globalNetworking", mostly(vec![json!(false)])),
        (
            "templateId",
            prop_oneof![8 => Just(None), 2 => mostly(vec![json!("t"), json!("")])].boxed(),
        ),
        (
            "bogus",
            prop_oneof![9 => Just(None), 1 => Just(Some(json!(1)))].boxed(),
        ),
    ];
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values.prop_map(move |values| {
        let present = names
            .iter()
            .zip(values)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(present.collect())
    })
}

#[tokio::test]
async fn a_body_is_422_exactly_when_the_document_says_that_it_is_invalid() {
    let Some(document) = document() else { return };
    let (simulator, _) = start_with(options()).await;
    let valid = validator(
        &document,
        &json!({"$ref": "#/components/schemas/CreatePodRequest"}),
    );
    let client = reqwest::Client::new();
    let mut runner = TestRunner::deterministic();
    let (mut refused, mut made) = (0, 0);
    for _ in 0..1_500 {
        let body = any_create().new_tree(&mut runner).unwrap().current();
        let answer = client
            .post(format!("{}/pods", simulator.url()))
            .bearer_auth(simulator.key())
            .json(&body)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let says = answer.text().await.unwrap();
        assert_eq!(
            status != 422,
            valid.is_valid(&body),
            "{status} {says} for {body:#}"
        );
        refused += u32::from(status == 422);
        made += u32::from(status == 201);
    }
    assert!(
        refused > 100 && made > 50,
        "{refused} refused and {made} made: the bodies prove little"
    );
    simulator.stop().await;
}

#[test]
fn what_the_client_sends_satisfies_the_document() {
    let Some(document) = document() else { return };
    let valid = validator(
        &document,
        &json!({"$ref": "#/components/schemas/CreatePodRequest"}),
    );
    // The body as the client writes it, seen by a server that keeps it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let sent = runtime.block_on(async {
        let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2", listener.local_addr().unwrap());
        let router =
            axum::Router::new().fallback(move |body: String| async move { drop(keep.send(body)) });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let key = srchat_operator::provider::runpod::Key::parse("k").unwrap();
        let runpod = srchat_operator::provider::runpod::RunPod::new(&url, key).unwrap();
        let mut new = super::setting::new_pod("n");
        new.data_centers = vec!["EU-RO-1".into()];
        new.min_cuda = Some("12.8".into());
        let _ = runpod.create(&new, super::setting::soon()).await;
        kept.recv().await.unwrap()
    });
    let body: Value = serde_json::from_str(&sent).unwrap();
    let errors: Vec<String> = valid
        .iter_errors(&body)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?} in {body:#}");
    assert_eq!(body["gpu"]["minCudaVersion"], "12.8");
}
