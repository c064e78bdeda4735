//! Intents to rent, and what became of them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;

use crate::plan::OfferKey;
use crate::provider::{Fingerprint, PodId};

/// How long one create call may take: RunPod places a pod within seconds, and its own edge gives up after 30 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// From the intent, after which no byte of its request may leave: twice the request's own time, so that a slow write of the
/// intent does not already use it up.
pub const SEND_WINDOW: Duration = Duration::from_secs(60);

/// How long after that deadline a pod may still appear in lists: RunPod's lists have been seen to lag by seconds.
pub const QUIET: Duration = Duration::from_secs(60);

/// One intent to rent. Its number is never used again, its name, nonce and proof depend on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counts up over all runs; a ledger that was made anew starts at the Unix time.
    pub number: u64,
    /// The run it belongs to.
    pub run: u32,
    /// The pod's name.
    pub name: String,
    /// What was asked for; `None` when the attempt stands for whatever a lost ledger may have done.
    pub offer: Option<OfferKey>,
    /// The offer's price an hour.
    pub hourly: Dollars,
    /// When the intent was written.
    pub intent: Timestamp,
    /// After which no byte of its request leaves.
    pub deadline: Timestamp,
    /// The provider key it was, or may have been, sent with.
    pub account: Fingerprint,
    /// What the plan thought that start-up takes.
    #[serde(default)]
    pub estimate: Duration,
    /// The end that the host was told at its creation.
    pub host_deadline: Timestamp,
    /// How it came out.
    pub outcome: Outcome,
}

/// How an attempt came out. Refused and absent ones are folded away, so these two remain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// In flight, or its answer was never learned: a pod may exist.
    Open {
        /// When the complete lists began that did not have it, all later than deadline + [`QUIET`].
        misses: Vec<Timestamp>,
    },
    /// This pod.
    Pod(PodId),
}

/// Closed attempts that led to no pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Definitely refused, or never sent.
    pub refused: u64,
    /// Of unknown outcome, and proved to have made nothing.
    pub absent: u64,
    /// The highest number among them.
    pub highest: u64,
}

/// Why the provider did not rent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When.
    pub at: Timestamp,
    /// In a word.
    pub why: RefusedWhy,
    /// The provider's sentence.
    pub detail: String,
    /// Not before this is there a point in asking again.
    pub again: Timestamp,
    /// The key it was asked with.
    pub account: Fingerprint,
}

/// Why the provider did not rent, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedWhy {
    /// No machine is free for this candidate.
    NoCapacity,
    /// It was understood and refused.
    Rejected,
    /// The key may not do this.
    Forbidden,
    /// The account has no money.
    InsufficientBalance,
    /// The key is not accepted.
    Unauthorized,
    /// Too many calls.
    RateLimited,
    /// It never left: the provider could not be reached, or the window had closed.
    NotSent,
}

/// An offer that is not to be tried for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which.
    pub offer: OfferKey,
    /// Until when.
    pub until: Timestamp,
}

impl Attempt {
    /// Whether a pod may exist that we do not know of.
    pub fn open(&self) -> bool {
        matches!(self.outcome, Outcome::Open { .. })
    }

    /// From when on a complete list without its pod counts.
    pub fn quiet_from(&self) -> Timestamp {
        self.deadline + QUIET
    }
}
