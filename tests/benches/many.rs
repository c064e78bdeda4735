//! What thousands of sessions cost one controller, and thousands of others' pods in every list: memory, and calls to the provider.
//! `cargo bench -p srchat-tests --bench many -- [--sessions N] [--pods N] [--controller FILE]` prints one JSON object.
//!
//! The sessions rent nothing (`replicas: 0`): each has its ledger, its finalizer, its Secret's place and its plan. Another build of the
//! controller may be measured by its file; without one it is of this bench's own profile.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_tests::eventually::eventually;
use srchat_tests::rig::{Options, Rig};
use srchat_tests::runpod::{self, Call, Simulator};
use srchat_tests::stand_ins::TINY;

/// Requests on the way at once.
const AT_ONCE: usize = 32;
/// Until thousands of sessions are at rest, on a busy machine.
const SETTLE: Duration = Duration::from_secs(3600);
/// Lists in the time that is looked at: a minute.
const LISTS: u64 = 6;

struct Arguments {
    sessions: usize,
    pods: usize,
    controller: Option<PathBuf>,
}

impl Arguments {
    /// Those of the command line; what cargo adds is none of ours.
    fn read() -> Self {
        let all: Vec<String> = std::env::args().collect();
        let after = |name: &str| {
            let at = all.iter().position(|one| one == name)?;
            all.get(at + 1).cloned()
        };
        let number = |name: &str| after(name).map_or(5_000, |text| text.parse().unwrap());
        Self {
            sessions: number("--sessions"),
            pods: number("--pods"),
            controller: after("--controller").map(PathBuf::from),
        }
    }
}

#[tokio::main]
async fn main() {
    let Arguments {
        sessions,
        pods,
        controller,
    } = Arguments::read();
    let simulator = Simulator::start(runpod::Options {
        limits: None,
        ..runpod::Options::default()
    });
    let simulator = simulator.await.unwrap();
    rent_by_others(&simulator, pods).await;
    let url = simulator
        .url()
        .replace("http://", &format!("http://{}@", simulator.key()));
    let options = Options {
        runpod: Some(url.parse().unwrap()),
        limits: None,
        ..Options::default()
    };
    let mut rig = Rig::start(options).await.unwrap();
    let own = controller.is_none();
    if let Some(program) = controller {
        let controller = rig.operator.controller();
        controller.build(program);
        controller.start().await.unwrap();
    }
    lists(&simulator, LISTS).await;
    let without = resident(&mut rig);

    let began = Instant::now();
    apply(&rig, sessions).await;
    let applied = began.elapsed();
    at_rest(&mut rig, sessions).await;
    let rested = began.elapsed();
    let settled = resident(&mut rig);
    let calls = lists(&simulator, LISTS).await;
    let with = resident(&mut rig);

    let began = Instant::now();
    rig.operator.controller().start().await.unwrap();
    at_rest(&mut rig, sessions).await;
    let watched_again = began.elapsed();
    lists(&simulator, LISTS).await;
    let restarted = resident(&mut rig);
    let megabytes = |kib: u64| (kib as f64 / 1024.0 * 10.0).round() / 10.0;
    let report = json!({
        "sessions": sessions,
        "pods_of_others": pods,
        "controller": if own { "of this bench's profile" } else { "as given" },
        "resident_mb": {
            "without_sessions": megabytes(without), "settled": megabytes(settled), "at_rest": megabytes(with),
            "restarted": megabytes(restarted), "goal": 150,
        },
        "provider_calls_of_six_lists": calls,
        "seconds": {
            "applied": applied.as_secs_f64().round(), "at_rest": rested.as_secs_f64().round(),
            "all_seen_again_after_a_restart": watched_again.as_secs_f64().round(),
        },
    });
    println!("{report}");
    rig.stop().await;
    simulator.stop().await;
}

/// Pods of another installation, or of nobody's.
async fn rent_by_others(simulator: &Simulator, pods: usize) {
    let http = reqwest::Client::new();
    let rent = |n: usize| {
        let asked = http
            .post(format!("{}/pods", simulator.url()))
            .bearer_auth(simulator.key())
            .json(&json!({
                "name": format!("somebody-elses-{n}"), "image": "example.com/other:1", "disk": 20,
                "gpu": {"id": "NVIDIA L4", "count": 1}, "ports": ["22/tcp"],
                "env": {"SOMETHING": "x".repeat(200)},
            }))
            .send();
        async move {
            let answer = asked.await.unwrap();
            assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        }
    };
    stream::iter(0..pods)
        .for_each_concurrent(AT_ONCE, rent)
        .await;
}

async fn apply(rig: &Rig, sessions: usize) {
    let resource = ApiResource::erase::<ChatSession>(&());
    let client = rig.cluster().client().await.unwrap();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
    let make = |n: usize| {
        let session = serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": format!("resting-{n}")}, "spec": {"model": TINY, "replicas": 0},
        }));
        let api = api.clone();
        async move {
            let session: DynamicObject = session.unwrap();
            api.create(&PostParams::default(), &session).await.unwrap();
        }
    };
    stream::iter(0..sessions)
        .for_each_concurrent(AT_ONCE, make)
        .await;
}

/// Waits until the controller says of all of them that they rest.
async fn at_rest(rig: &mut Rig, sessions: usize) {
    let line = format!("srchat_sessions{{outcome=\"Paused\"}} {sessions}");
    let controller = &*rig.operator.controller();
    eventually("all sessions to be at rest", SETTLE, || async {
        let text = controller.metrics().await.map_err(|e| e.to_string())?;
        if text.lines().any(|one| one == line) {
            return Ok(());
        }
        let stands = text
            .lines()
            .filter(|one| one.starts_with("srchat_sessions{"));
        Err(stands.collect::<Vec<_>>().join("; "))
    })
    .await;
}

/// Waits for so many lists, and tells what was called meanwhile.
async fn lists(simulator: &Simulator, lists: u64) -> BTreeMap<Call, Value> {
    let calls = || simulator.ledger().calls;
    let before = calls();
    eventually("lists", SETTLE, || async {
        let more = calls()
            .into_iter()
            .map(|(call, count)| (call, count - before.get(&call).unwrap_or(&0)));
        let more: BTreeMap<Call, u64> = more.filter(|(_, count)| *count > 0).collect();
        match more.get(&Call::List) {
            Some(made) if *made >= lists => {
                Ok(more.into_iter().map(|(call, n)| (call, json!(n))).collect())
            }
            _ => Err(format!("{more:?}")),
        }
    })
    .await
}

/// In KiB.
fn resident(rig: &mut Rig) -> u64 {
    let controller = rig.operator.controller().process();
    controller.resident().unwrap()
}
