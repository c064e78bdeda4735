//! What the tests of this folder share: a simulator whose clock stands, and a client that is not patient.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use srchat_operator::provider::{
    Cloud, NewPod,
    runpod::{Key, Patience, RunPod},
};
use srchat_tests::runpod::{Boot, Clock, Options, Simulator};

/// Time limits on a machine of one's own; long enough for a busy one.
pub const PATIENCE: Patience = Patience {
    create: Duration::from_secs(3),
    list: Duration::from_secs(3),
    get: Duration::from_secs(3),
    end: Duration::from_secs(3),
    report: Duration::from_secs(3),
};

/// A simulator whose time stands still, whose pods start as slowly as RunPod's, and a client of it.
pub async fn start() -> (Simulator, RunPod) {
    start_with(options()).await
}

/// No rate limit, since time stands still.
pub fn options() -> Options {
    Options {
        clock: Clock::standing(),
        boot: Boot::real(),
        limits: None,
        ..Options::default()
    }
}

pub async fn start_with(options: Options) -> (Simulator, RunPod) {
    let simulator = Simulator::start(options)
        .await
        .expect("loopback can be listened on");
    let client = client(&simulator, simulator.key());
    (simulator, client)
}

pub fn client(simulator: &Simulator, key: &str) -> RunPod {
    RunPod::with_patience(simulator.url(), Key::parse(key).expect("a key"), PATIENCE)
        .expect("a client")
}

/// A pod on the cheapest card.
pub fn new_pod(name: &str) -> NewPod {
    NewPod {
        name: name.into(),
        image: "runpod/pytorch:2.8.0".into(),
        gpu: "NVIDIA RTX 2000 Ada Generation".into(),
        count: 1,
        cloud: Cloud::Secure,
        disk_gb: 50,
        args: "sleep infinity".into(),
        env: BTreeMap::from([("SRCHAT_INSTALLATION".into(), "here".into())]),
        data_centers: vec![],
        min_cuda: None,
    }
}

/// A deadline that leaves time for one create.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Long enough for any pod of an image of 7 GB to be up.
pub const BOOTED: Duration = Duration::from_secs(120);
