//! What we did and may have done for one session: attempts, pods, pins, the run. Written before money is spent, by compare-and-swap
//! only, and the sole memory that `decide` trusts. Status is a projection of it and never read back.

pub mod change;
pub mod store;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;
use srchat_crds::status::CostSource;

use crate::host::{BootId, Medium};
use crate::plan::{OfferKey, Plan};
use crate::provider::{Fingerprint, PodId};
use crate::session::observe::HostSeen;
use crate::ssh::{HostKey, KeyPair, openssh_pem};

pub use change::Change;

/// The form of the JSON. A reader ignores fields it does not know and fills in those that an older writer lacked.
pub const VERSION: u32 = 1;

/// How long one create call may take: RunPod places a pod within seconds, and its own edge gives up after 30 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// From the intent, after which no byte of its request may leave: twice the request's own time, so that a slow write of the
/// intent does not already use it up.
pub const SEND_WINDOW: Duration = Duration::from_secs(60);
/// How long after that deadline a pod may still appear in lists: RunPod's lists have been seen to lag by seconds.
pub const QUIET: Duration = Duration::from_secs(60);
/// Between two observations that together prove an absence.
pub const PROOF_INTERVAL: Duration = Duration::from_secs(10);
/// A bill of so many percent of price times time is that of the whole time: clocks differ by seconds, and prices are rounded.
const BILLED_WHOLE: u32 = 95;
/// After which a record that says TERMINATED at no cost, and stays in lists, counts as absent.
pub const LINGER: Duration = Duration::from_secs(600);

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

/// A pod that is, or was, ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// The provider's id.
    pub id: PodId,
    /// The attempt that made it.
    pub attempt: u64,
    /// The run it served.
    pub run: u32,
    /// When it was made: counted as billed from here.
    pub created: Timestamp,
    /// Dollars an hour.
    pub hourly: Dollars,
    /// Where it was placed.
    #[serde(default)]
    pub data_center: Option<String>,
    /// The identity of its host.
    #[serde(default)]
    pub pin: Option<Pin>,
    /// When the model was first served, and where files live.
    #[serde(default)]
    pub served: Option<Served>,
    /// The end that the host has acknowledged.
    pub host_deadline: Timestamp,
    /// Provider keys that created it, or have seen it: only their word on its absence counts.
    #[serde(default)]
    pub accounts: BTreeSet<Fingerprint>,
    /// The first of the complete lists that did not have it although they should.
    #[serde(default)]
    pub missing: Option<Timestamp>,
    /// Why and since when it must go.
    #[serde(default)]
    pub doom: Option<Doom>,
    /// What became of the data on it.
    #[serde(default)]
    pub wipe: Option<Wipe>,
    /// When a DELETE of ours was first answered with success or 404.
    #[serde(default)]
    pub deleted: Option<Timestamp>,
    /// When the last one was.
    #[serde(default)]
    pub deleted_last: Option<Timestamp>,
    /// When the observations began that found it absent, all later than `deleted`.
    #[serde(default)]
    pub proofs: Vec<Timestamp>,
    /// The end of it.
    #[serde(default)]
    pub gone: Option<Gone>,
    /// What the provider has billed for it, as it said last.
    #[serde(default)]
    pub bill: Option<Bill>,
}

/// What the provider has billed for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// When it was asked.
    pub at: Timestamp,
    /// All of it: compute and disk.
    pub total: Dollars,
    /// The end of the last period in it; `None`: there is none yet.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// The identity that a host showed in its own log, under the nonce of its attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// When it was pinned.
    pub at: Timestamp,
    /// The boot that showed it.
    pub boot: BootId,
    /// The host key.
    pub key: HostKey,
}

/// A model was served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// First seen.
    pub at: Timestamp,
    /// Where uploads live.
    pub medium: Medium,
    /// How many bytes of them there may be.
    pub quota: u64,
}

/// A sentence over a pod: it is never lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// When it was passed.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
    /// What there is to say beyond that, without secrets.
    #[serde(default)]
    pub detail: String,
}

/// Why a pod must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Its session is being deleted.
    Deleted,
    /// `replicas` is 0.
    Paused,
    /// A limit ended the run.
    Limit(EndReason),
    /// Another pod of the same attempt was taken.
    Duplicate,
    /// It belongs to no attempt that is open or in force.
    Stray,
    /// The provider says that it stopped, broke or ended.
    Failed,
    /// The provider does not have it any more.
    Lost,
    /// It costs more than was offered, or than is allowed.
    PriceDrift,
    /// Its boot gave up.
    BootFailed,
    /// Its container was started again, with an empty disk and another key.
    HostRestarted,
    /// Something at its address has a key that no line of its log explains.
    KeyMismatch,
    /// It did not serve in time.
    StartupTimeout,
    /// The engine ended, or could not be installed.
    EngineFailed,
    /// The engine ran out of memory.
    OutOfMemory,
    /// It was served and has not been reachable for so long that it has cleared itself.
    OutOfContact,
}

/// What became of the data on a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wipe {
    /// When this was known.
    pub at: Timestamp,
    /// In a word.
    pub result: WipeResult,
    /// What was erased and how it was checked, or why it was not.
    #[serde(default)]
    pub detail: String,
}

/// What became of the data on a pod, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WipeResult {
    /// Erased, and read back.
    Cleared,
    /// Nothing was ever sent to it.
    NothingToWipe,
    /// It could not be reached.
    HostUnreachable,
    /// It is not, or no longer, the host that was pinned.
    HostUntrusted,
    /// It took longer than `teardown.wipeTimeout`.
    WipeTimedOut,
}

/// How a pod was found to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// When this was known.
    pub at: Timestamp,
    /// By proof, or by somebody's word.
    pub how: GoneHow,
}

/// By proof, or by somebody's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoneHow {
    /// Two observations at least [`PROOF_INTERVAL`] apart.
    Proved,
    /// The annotation `srchat.dev/abandon` named it.
    Abandoned,
}

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

impl PodRecord {
    /// Neither gone nor sentenced.
    pub fn live(&self) -> bool {
        self.gone.is_none() && self.doom.is_none()
    }

    /// What it has cost by `now`, for limits: until it was first proved absent, and not less than what is billed, to be on the
    /// safe side.
    pub fn cost(&self, now: Timestamp) -> Dollars {
        let end = match &self.gone {
            Some(gone) => self.proofs.first().copied().unwrap_or(gone.at),
            None => now,
        };
        let billed = self
            .bill
            .as_ref()
            .map(|bill| bill.total)
            .unwrap_or_default();
        self.hourly
            .for_hours_of(span(self.created, end))
            .max(billed)
    }

    /// What the provider has billed for the whole of it. `None` as long as it may be billed on, or bills are behind: the periods
    /// of a bill are hours, and when the last of them is complete is not said. It is taken to be when its end is past, or when it
    /// holds what the pod's whole time comes to.
    pub fn billed(&self) -> Option<Dollars> {
        let gone = self.gone.filter(|gone| gone.how == GoneHow::Proved)?;
        let Bill { at, total, until } = self.bill.as_ref()?;
        let end = self.deleted.unwrap_or(gone.at);
        let past = until
            .as_ref()
            .is_some_and(|until| *until >= end && until <= at);
        let whole = self.hourly.for_hours_of(span(self.created, end));
        let holds = until.is_some() && *total >= whole.percent(BILLED_WHOLE);
        (past || holds).then_some(*total)
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
