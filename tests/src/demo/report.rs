//! What a demo has seen, as one line of JSON.

use std::collections::BTreeMap;

use serde::Serialize;

/// All of it. Nothing is true that was not seen: what was not reached, or cannot hold here, is null.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether every step held.
    pub ok: bool,
    /// The first thing that did not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How simulated pods were kept apart: namespace, userns or process.
    pub isolation: Option<String>,
    /// The model that was asked.
    pub model: String,
    /// What it was asked.
    pub question: String,
    /// What it answered.
    pub answer: Option<String>,
    /// How many tokens that was.
    pub tokens: Option<u64>,
    /// When each stage was over.
    pub seconds: Seconds,
    /// What others took of that.
    pub others: Others,
    /// Seconds from apply to the first token that were neither the provider's nor the model's own: ours.
    pub overhead: Option<f64>,
    /// Seconds from delete to gone that were neither clearing nor the interval between two proofs: ours.
    pub overhead_gone: Option<f64>,
    /// What our processes held while the session was ready, after the answer and the files.
    pub memory: Memory,
    /// Whether 5 MiB came back with the same SHA-256.
    pub files: Option<bool>,
    /// What a wrong token got.
    pub wrong_token: Option<u16>,
    /// Whether the engine's port was closed to everything but the tunnel.
    pub port_closed: Option<bool>,
    /// How the host was cleared: the reason of the condition `Wiped`.
    pub wipe: Option<String>,
    /// How many complete lists of the provider's were without the pod.
    pub absence_proofs: Option<u32>,
    /// What the simulator counted.
    pub ledger: Option<Counted>,
    /// What was left on this machine: processes, mounts. Empty is good.
    pub left: Vec<String>,
    /// What could not be tried here, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, String>,
}

/// Seconds since the session was applied; from `cleared` on, since it was deleted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seconds {
    /// There was a plan.
    pub planned: Option<f64>,
    /// The provider had made the pod, by its own clock.
    pub rented: Option<f64>,
    /// The pod's container ran, by the provider's clock.
    pub booted: Option<f64>,
    /// The host key was pinned.
    pub trusted: Option<f64>,
    /// The engine answered.
    pub served: Option<f64>,
    /// The endpoint was published.
    pub published: Option<f64>,
    /// The first word of the answer arrived.
    pub first_token: Option<f64>,
    /// The host was cleared.
    pub cleared: Option<f64>,
    /// The provider had ended the pod, by its own clock.
    pub terminated: Option<f64>,
    /// The object was gone.
    pub gone: Option<f64>,
}

/// Seconds that were somebody else's, by their own clocks.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Others {
    /// kubectl, from its start until the API server had the session.
    pub kubectl: Option<f64>,
    /// From the pod's creation to the start of its container.
    pub provider: Option<f64>,
    /// The Hub, handing out the weights.
    pub download: Option<f64>,
    /// The engine, from its start to its first readiness.
    pub engine: Option<f64>,
    /// The model, reading the question.
    pub prompt: Option<f64>,
}

/// KiB of resident memory, as the kernel counts them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// The controller.
    pub controller: Option<u64>,
    /// The gateway.
    pub gateway: Option<u64>,
}

/// The simulator's own books.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Pods made.
    pub created: u64,
    /// Pods ended.
    pub terminated: u64,
    /// Pods that were still there at the end.
    pub leaked: u64,
    /// Dollars.
    pub billed: f64,
}
