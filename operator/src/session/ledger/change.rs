//! The only ways in which a ledger changes. Each is a fact that was seen or an intent; applying one twice is applying it once.

use jiff::Timestamp;

use super::{
    Attempt, Bill, Doom, EndReason, FellBack, Fingerprint, LeftOut, Pin, Plan, PodId, PodRecord,
    Refusal, Served, Wipe,
};

/// One change of a ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// `replicas` was seen at another value than before: 1 starts a run, 0 dooms what it rented.
    Replicas {
        /// The value.
        replicas: u8,
        /// When.
        at: Timestamp,
    },
    /// The session was checked against a gap in the controller's Lease.
    Gap {
        /// The gap's end.
        until: Timestamp,
        /// Whether it ends the run.
        latch: bool,
        /// When.
        at: Timestamp,
    },
    /// The intent to rent (S1).
    Intend {
        /// The attempt, open.
        attempt: Box<Attempt>,
        /// What it is about.
        plan: Option<Box<Plan>>,
    },
    /// An attempt was definitely refused, or never sent.
    Refused {
        /// Its number.
        number: u64,
        /// Why.
        refusal: Refusal,
        /// Whether its offer is to be left out for a while.
        left_out: Option<LeftOut>,
    },
    /// An attempt led to this pod: by the answer to its request, or found by its name.
    Rented {
        /// The pod.
        pod: Box<PodRecord>,
    },
    /// A complete list, begun in the quiet period, does not have an open attempt's pod. The second one closes it.
    Missed {
        /// The attempt's number.
        number: u64,
        /// When the list began.
        began: Timestamp,
    },
    /// Somebody vouched for an open attempt's having made nothing.
    Waived {
        /// Its number.
        number: u64,
    },
    /// A pod of ours that belongs to no open attempt.
    Found {
        /// The pod, sentenced.
        pod: Box<PodRecord>,
    },
    /// A provider key has seen a pod: its word on that pod's absence counts from now on.
    Account {
        /// Which.
        pod: PodId,
        /// The key.
        account: Fingerprint,
    },
    /// A pod showed its identity.
    Pinned {
        /// Which.
        pod: PodId,
        /// The identity.
        pin: Pin,
    },
    /// A pod serves.
    Served {
        /// Which.
        pod: PodId,
        /// Since when, and where files live.
        served: Served,
    },
    /// The planned engine did not start on a pod: the plan's other one is served there instead, once in a run.
    FellBack {
        /// Which pod, when, and what the engine said.
        fallback: FellBack,
    },
    /// A host was spoken to, and acknowledged the moment at which it ends itself.
    Acknowledged {
        /// Which.
        pod: PodId,
        /// The moment.
        deadline: Timestamp,
        /// When it said so.
        at: Timestamp,
    },
    /// A pod that should be in a complete list is not, or is there again.
    Missing {
        /// Which.
        pod: PodId,
        /// When that list began; `None`: it is there.
        since: Option<Timestamp>,
    },
    /// A pod must go.
    Doomed {
        /// Which.
        pod: PodId,
        /// Why.
        doom: Doom,
        /// Whether its offer is to be left out for a while.
        left_out: Option<LeftOut>,
    },
    /// What became of a pod's data.
    Wiped {
        /// Which.
        pod: PodId,
        /// What.
        wipe: Wipe,
    },
    /// A DELETE was answered with success or 404.
    Deleted {
        /// Which.
        pod: PodId,
        /// When.
        at: Timestamp,
    },
    /// An observation begun after the DELETE found it absent. The second one makes it gone.
    Proved {
        /// Which.
        pod: PodId,
        /// When the observation began.
        began: Timestamp,
        /// When it was made.
        at: Timestamp,
    },
    /// The provider has said what it bills for a pod.
    Billed {
        /// Which.
        pod: PodId,
        /// What it said.
        bill: Bill,
    },
    /// A pod is seen alive after all: whatever was proved is void.
    Alive {
        /// Which.
        pod: PodId,
    },
    /// Somebody vouched for a pod.
    Abandoned {
        /// Which.
        pod: PodId,
        /// When.
        at: Timestamp,
    },
    /// A limit ended the run.
    Ended {
        /// Which.
        reason: EndReason,
        /// When.
        at: Timestamp,
    },
    /// The receipt was written.
    Receipted {
        /// When.
        at: Timestamp,
    },
}
