//! A run: from `replicas` being seen at 1 until it is seen at 0, and what ends it earlier.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::provider::PodId;

/// From `replicas` being seen at 1 after not having been, until it is seen at 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Counts the runs of this session; 0 before the first.
    pub number: u32,
    /// `replicas`, as last seen and recorded.
    pub replicas: u8,
    /// When it was first seen at that.
    pub since: Timestamp,
    /// The intent of the first attempt that produced a pod: its lifetime counts from here.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// Latched by any limit: nothing is rented until the next run.
    #[serde(default)]
    pub ended: Option<Ended>,
    /// The planned engine did not start, and the plan's other one serves for the rest of the run.
    #[serde(default)]
    pub fallback: Option<FellBack>,
}

/// An engine that did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// On which pod.
    pub pod: PodId,
    /// When that was noted. What was seen of its host before is about the engine that failed.
    pub at: Timestamp,
    /// The end of its log, without secrets.
    #[serde(default)]
    pub said: String,
}

/// The latch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// By which limit.
    pub reason: EndReason,
}

/// What can end a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// `limits.lifetime`.
    Lifetime,
    /// `limits.idle`.
    Idle,
    /// `limits.maxTotalCost`.
    Cost,
    /// `limits.attempts`.
    Attempts,
    /// The controller was away for long, and may have forgotten something (S14).
    NeedsConfirmation,
}
