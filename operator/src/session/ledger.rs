//! What we did and may have done for one session: attempts, pods, pins, the run. Written before money is spent, by compare-and-swap
//! only, and the sole memory that `decide` trusts. Status is a projection of it and never read back.

mod apply;
mod attempt;
pub mod change;
mod pod;
mod run;
pub mod store;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;
use srchat_crds::status::CostSource;

use crate::plan::Plan;
use crate::provider::{Fingerprint, PodId};
use crate::session::observe::HostSeen;
use crate::ssh::{KeyPair, openssh_pem};

pub use attempt::{
    Attempt, Folded, LeftOut, Outcome, QUIET, REQUEST_TIMEOUT, Refusal, RefusedWhy, SEND_WINDOW,
};
pub use change::Change;
pub use pod::{
    Bill, Doom, Gone, GoneHow, LINGER, PROOF_INTERVAL, Pin, PodRecord, Served, Why, Wipe,
    WipeResult,
};
pub use run::{EndReason, Ended, FellBack, Run};

/// The form of the JSON. A reader ignores fields it does not know and fills in those that an older writer lacked.
pub const VERSION: u32 = 1;

/// All that is known of what was done for one session UID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// [`VERSION`] of its writer.
    pub version: u32,
    /// Whose it is.
    pub session: Owner,
    /// The installation that wrote it; names and proofs of its pods are made with this.
    pub installation: String,
    /// When it was made.
    pub made: Timestamp,
    /// The session's SSH keys, made before the first intent.
    pub keys: Keys,
    /// Attempts that are open, or that led to a pod; the others are folded.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// Closed attempts without a pod.
    #[serde(default)]
    pub folded: Folded,
    /// Why the last refused attempt was refused; cleared by the next pod.
    #[serde(default)]
    pub refusal: Option<Refusal>,
    /// Every pod that was ever found to be ours, in the order of finding.
    #[serde(default)]
    pub pods: Vec<PodRecord>,
    /// What the last intent was about: revision, engine, quantization, context, GPU, disk.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// The run in progress, or the last one.
    pub run: Run,
    /// Offers that are not to be tried for a while.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The end of the last gap in the controller's Lease that this session was checked against (S14).
    #[serde(default)]
    pub gap: Option<Timestamp>,
    /// When the signed receipt was written.
    #[serde(default)]
    pub receipted: Option<Timestamp>,
}

/// The session that a ledger belongs to: the UID decides, the names are for people and for finding it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The two pairs of a session. The controller's opens root on its pods; the gateways' opens a user that may only forward.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// Never leaves the controller.
    #[serde(with = "openssh_pem")]
    pub controller: KeyPair,
    /// Goes into the route while a host is deployed.
    #[serde(with = "openssh_pem")]
    pub gateway: KeyPair,
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            controller,
            gateway,
        } = self;
        controller.public() == other.controller.public()
            && gateway.public() == other.gateway.public()
    }
}

impl Ledger {
    /// The ledger of a session for which nothing was done yet.
    pub fn new(session: Owner, installation: &str, keys: Keys, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            session,
            installation: installation.to_owned(),
            made: now,
            keys,
            attempts: Vec::new(),
            folded: Folded::default(),
            refusal: None,
            pods: Vec::new(),
            plan: None,
            run: Run {
                number: 0,
                replicas: 0,
                since: now,
                started: None,
                ended: None,
                fallback: None,
            },
            left_out: Vec::new(),
            gap: None,
            receipted: None,
        }
    }

    /// The number of the next attempt.
    pub fn next_number(&self) -> u64 {
        let attempts = self.attempts.iter().map(|attempt| attempt.number);
        let pods = self.pods.iter().map(|pod| pod.attempt);
        attempts
            .chain(pods)
            .chain([self.folded.highest])
            .max()
            .map_or(1, |highest| highest + 1)
    }

    /// The pod that is in use: of the last attempt, and neither gone nor sentenced. User bytes go nowhere else (S3).
    pub fn current(&self) -> Option<&PodRecord> {
        self.pods.iter().find(|pod| pod.live())
    }

    /// A pod's record.
    pub fn pod(&self, id: &PodId) -> Option<&PodRecord> {
        self.pods.iter().find(|pod| pod.id == *id)
    }

    /// The attempt of a number, unless it was folded away.
    pub fn attempt(&self, number: u64) -> Option<&Attempt> {
        self.attempts
            .iter()
            .find(|attempt| attempt.number == number)
    }

    /// The attempt whose outcome is unknown, if there is one.
    pub fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.open())
    }

    /// Whether nothing is open: every attempt closed, every pod gone. Only then may it be forgotten, or anything new be rented.
    pub fn settled(&self) -> bool {
        self.open_attempt().is_none() && self.pods.iter().all(|pod| pod.gone.is_some())
    }

    /// Whether anything was ever tried.
    pub fn tried(&self) -> bool {
        !self.attempts.is_empty() || !self.pods.is_empty() || self.folded != Folded::default()
    }

    /// How many attempts of this run produced a pod of their own.
    pub fn used(&self) -> usize {
        let of_run = |attempt: &&Attempt| attempt.run == self.run.number && !attempt.open();
        self.attempts.iter().filter(of_run).count()
    }

    /// Whether what was seen of a host is about an engine that has given way to another since.
    pub fn outdates(&self, host: &HostSeen) -> bool {
        self.run
            .fallback
            .as_ref()
            .is_some_and(|fallback| fallback.pod == host.pod && host.at <= fallback.at)
    }

    /// What the session has cost by `now`, over all its runs: an estimate on the safe side.
    pub fn spent(&self, now: Timestamp) -> Dollars {
        self.pods.iter().map(|pod| pod.cost(now)).sum()
    }

    /// What the session has cost by `now`, for people, and where that comes from: billed only when every pod's bill is whole.
    pub fn account(&self, now: Timestamp) -> (Dollars, CostSource) {
        let known = |pod: &PodRecord| pod.billed().unwrap_or_else(|| pod.cost(now));
        let all = !self.pods.is_empty() && self.pods.iter().all(|pod| pod.billed().is_some());
        let source = if all {
            CostSource::Billed
        } else {
            CostSource::Estimated
        };
        (self.pods.iter().map(known).sum(), source)
    }

    /// What it costs an hour now.
    pub fn hourly(&self) -> Dollars {
        self.pods
            .iter()
            .filter(|pod| pod.gone.is_none())
            .map(|pod| pod.hourly)
            .sum()
    }
}

/// From `start` to `end`, nothing when that is negative.
pub fn span(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}

/// The name of an attempt's pod: the only handle on a pod whose id we never learned.
pub fn pod_name(installation: &str, uid: &str, attempt: u64) -> String {
    format!("srchat-{installation}-{uid}-{attempt}")
}
