//! Values that worlds are made of.

use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;
use srchat_crds::session::Quantization;

use super::{Draw, Real};
use crate::host::BootId;
use crate::plan::{Fallback, Memory, OfferKey, Plan};
use crate::provider::{Cloud, Fingerprint, PodId, PodStatus};
use crate::route::{Abilities, Engine};
use crate::session::ledger::{
    Attempt, Change, Keys, Ledger, Outcome, Owner, PodRecord, SEND_WINDOW,
};
use crate::session::observe::{Limits, Session};
use crate::ssh::{HostKey, KeyPair};

pub(crate) fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

pub(crate) fn pod_id(n: u32) -> PodId {
    format!("pod{n}").parse().unwrap()
}

pub(crate) fn boot_id(n: u32) -> BootId {
    format!("{n:032x}").parse().unwrap()
}

/// Made once: keys cost time, and nothing depends on which they are.
pub(crate) fn keys() -> Keys {
    static KEYS: std::sync::OnceLock<Keys> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| Keys {
        controller: KeyPair::generate().unwrap(),
        gateway: KeyPair::generate().unwrap(),
    })
    .clone()
}

pub(crate) fn host_key(n: u32) -> HostKey {
    static KEYS: std::sync::OnceLock<Vec<HostKey>> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        (0..16)
            .map(|_| KeyPair::generate().unwrap().public())
            .collect()
    })[n as usize % 16]
}

pub(crate) fn account() -> Fingerprint {
    Fingerprint("00000000aaaaaaaa".to_owned())
}

pub(crate) fn offer() -> OfferKey {
    OfferKey {
        gpu: "NVIDIA L4".to_owned(),
        cloud: Cloud::Secure,
    }
}

/// vLLM on the one card there is, with transformers in reserve.
pub(crate) fn plan() -> Plan {
    let abilities = Abilities {
        chat: true,
        ..Abilities::default()
    };
    Plan {
        model: "acme/tiny".to_owned(),
        revision: "0".repeat(40),
        engine: Engine::Vllm,
        quantization: Quantization::None,
        quantize_online: false,
        vision: false,
        abilities,
        context_length: 4096,
        slots: 1,
        memory: Memory {
            weights: 1,
            kv_per_token: 1,
            kv: 1,
            overhead: 1,
            per_gpu: 1,
            required: 1,
        },
        gpu: offer().gpu,
        gpu_name: "L4".to_owned(),
        gpu_count: 1,
        cloud: offer().cloud,
        data_centers: Vec::new(),
        hourly_cost: Dollars::cents(49),
        disk_gb: 50,
        image: "vllm/vllm-openai:v1".to_owned(),
        min_cuda: None,
        files: Vec::new(),
        gguf: None,
        trust_remote_code: false,
        extra_args: Vec::new(),
        fallback: Some(Fallback {
            engine: Engine::Transformers,
            quantization: Quantization::None,
            quantize_online: false,
            vision: false,
            abilities,
        }),
        boot_seconds: 40,
        startup_seconds: 60,
        rejected: Vec::new(),
    }
}

pub(crate) fn session() -> Session {
    Session {
        uid: "u".to_owned(),
        namespace: "team".to_owned(),
        name: "chat".to_owned(),
        generation: 1,
        created: start(),
        deleting: false,
        finalizer: false,
        unreadable: None,
        replicas: 1,
        limits: Limits {
            hourly: Dollars::whole(1),
            total: None,
            lifetime: Duration::from_secs(4 * 3600),
            idle: None,
            startup: None,
            attempts: 3,
        },
        wipe_timeout: Duration::from_secs(60),
        abandon: None,
        unconfirmed_until: None,
    }
}

pub(crate) fn ledger() -> Ledger {
    let owner = Owner {
        uid: "u".to_owned(),
        namespace: "team".to_owned(),
        name: "chat".to_owned(),
    };
    Ledger::new(owner, "inst", keys(), start())
}

/// The same with a run that has rented one pod.
pub(crate) fn rented() -> Ledger {
    let mut ledger = ledger();
    ledger.apply(Change::Replicas {
        replicas: 1,
        at: start(),
    });
    let attempt = attempt(1, start(), Outcome::Open { misses: Vec::new() });
    let pod = Box::new(PodRecord::of(&attempt, pod_id(1)));
    ledger.apply(Change::Intend {
        attempt: Box::new(attempt),
        plan: None,
    });
    ledger.apply(Change::Rented { pod });
    ledger
}

pub(crate) fn attempt(number: u64, intent: Timestamp, outcome: Outcome) -> Attempt {
    Attempt {
        number,
        run: 1,
        name: format!("srchat-inst-u-{number}"),
        offer: Some(offer()),
        hourly: Dollars::cents(49),
        intent,
        deadline: intent + SEND_WINDOW,
        account: account(),
        estimate: Duration::from_secs(60),
        host_deadline: intent + Duration::from_secs(4 * 3600),
        outcome,
    }
}

pub(crate) fn record(n: u32, number: u64, created: Timestamp) -> PodRecord {
    let attempt = attempt(number, created, Outcome::Pod(pod_id(n)));
    PodRecord::of(&attempt, pod_id(n))
}

pub(crate) fn real(n: u32, attempt: u64, created: Timestamp, status: PodStatus) -> Real {
    let dead = matches!(status, PodStatus::Terminated | PodStatus::Exited);
    Real {
        id: pod_id(n),
        attempt,
        draw: Draw::Good,
        status,
        created,
        cost: if dead {
            Dollars::ZERO
        } else {
            Dollars::cents(49)
        },
        boot: boot_id(n),
        key: host_key(n),
        port: 22,
        deployed: None,
        cleared: false,
        deadline: created + Duration::from_secs(4 * 3600),
        vanishes: None,
    }
}
