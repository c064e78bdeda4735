//! All that one decision is made of. Reads only; what could not be read is a value, not an error. Nothing here decides.

pub(crate) mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;
use srchat_crds::conditions::Planned;

use crate::host::{BootId, Medium};
pub use crate::lease::Gap;
use crate::plan::{OfferKey, Plan};
use crate::provider::{Address, Billed, Fingerprint, PodId, PodStatus};
use crate::ssh::HostKey;

use super::ledger::{Ledger, PodRecord};

/// The world as far as one decision needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The moment of the decision.
    pub now: Timestamp,
    /// The session, as the API server has it.
    pub session: Session,
    /// Its ledger.
    pub ledger: LedgerSeen,
    /// What the controller itself stands on.
    pub house: House,
    /// Its route and its published Secret.
    pub door: Door,
    /// Its pods, from the last complete list.
    pub pods: PodsSeen,
    /// What the planner says.
    pub plan: Option<PlanSeen>,
    /// What the log of the current pod says of its boot.
    pub boot: Option<BootSeen>,
    /// What the last visit to the current pod's host found.
    pub host: Option<HostSeen>,
    /// The last single look at a pod.
    pub glance: Option<Glance>,
    /// What the provider was last heard to bill, by pod, or that it could not be asked.
    pub bills: BTreeMap<PodId, BillSeen>,
}

/// A session's own words, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether it has our finalizer.
    pub finalizer: bool,
    /// Why its spec cannot be read; then the fields below are what its ledger remembers.
    pub unreadable: Option<String>,
    /// `spec.replicas`: 0 or 1.
    pub replicas: u8,
    /// `spec.limits`, with the defaults that are computed.
    pub limits: Limits,
    /// `spec.teardown.wipeTimeout`.
    pub wipe_timeout: Duration,
    /// The annotation `srchat.dev/abandon`.
    pub abandon: Option<String>,
    /// The annotation `srchat.dev/unconfirmed-until`.
    pub unconfirmed_until: Option<Timestamp>,
}

/// What bounds a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most dollars an hour.
    pub hourly: Dollars,
    /// Most dollars over all runs.
    pub total: Option<Dollars>,
    /// Of a run, from its first pod.
    pub lifetime: Duration,
    /// Without use; `None` when turned off.
    pub idle: Option<Duration>,
    /// From a pod's creation to a served model; `None` leaves it to the plan.
    pub startup: Option<Duration>,
    /// Pods that a run may use.
    pub attempts: u32,
}

/// What the ledger's Secret holds.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerSeen {
    /// There is none.
    Missing,
    /// There is one, and it is not a ledger that this version can read: nothing may be done.
    Unreadable,
    /// It.
    Is(Box<Ledger>),
}

/// What the controller itself stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct House {
    /// Whether the installation's identity is that of this cluster. If not, nothing is rented.
    pub bound: bool,
    /// The installation's id.
    pub installation: String,
    /// The provider key in use; `None`: there is none, or it is not accepted.
    pub account: Result<Fingerprint, NoAccount>,
    /// The last time that the controller was away for more than ten minutes (S14).
    pub gap: Option<Gap>,
}

/// Why there is no provider key to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// The Secret `srchat-provider` is not there, or holds no key.
    Missing,
    /// The provider does not accept it.
    Refused,
}

/// The session's way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Its published Secret.
    pub published: Published,
    /// Its route.
    pub route: RouteSeen,
}

/// The Secret `<name>-chat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// There is none.
    Missing,
    /// One of that name that is not ours: never written.
    Taken,
    /// We may not look: the rights are missing here, or went first when the namespace was deleted.
    Forbidden,
    /// Ours, whole and of the present URL and CA; `stale` when not.
    Ours {
        /// Whether something in it is out of date.
        stale: bool,
        /// The SHA-256 of its token, in hex; `None` when it holds none.
        token: Option<String>,
    },
}

/// The Secret `route-<uid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSeen {
    /// There is none.
    Missing,
    /// There is one.
    Is {
        /// The SHA-256 of the token that it admits, in hex.
        token: Option<String>,
        /// The host it leads to, by its pin and address.
        host: Option<(HostKey, Address)>,
    },
}

/// The provider's pods, as far as they are this session's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodsSeen {
    /// From the last complete list.
    pub list: Option<List>,
    /// The last attempt to get one, if it failed since.
    pub failed: Option<Unread>,
}

/// A complete list, reduced to the pods of one session.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// When its first request left.
    pub began: Timestamp,
    /// The key it was read with.
    pub account: Fingerprint,
    /// Those whose id the ledger holds, and those whose proof of ownership names this session; by age.
    pub pods: Vec<SeenPod>,
}

/// A pod of ours, as the provider shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPod {
    /// The provider's id.
    pub id: PodId,
    /// The attempt whose proof it carries; `None`: it is ours by its id only.
    pub attempt: Option<u64>,
    /// The provider's word on its state.
    pub status: PodStatus,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Dollars an hour.
    pub cost: Option<Dollars>,
    /// Where its sshd is published.
    pub address: Option<Address>,
    /// Where it was placed.
    pub data_center: Option<String>,
}

/// Something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// When that was tried.
    pub at: Timestamp,
    /// In a word.
    pub why: UnreadWhy,
    /// A sentence, without secrets.
    pub detail: String,
    /// Not before this is there a point in trying again.
    pub again: Timestamp,
}

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadWhy {
    /// No key, or one that is not accepted.
    Unauthorized,
    /// The provider refuses otherwise.
    Refused,
    /// Too many calls.
    RateLimited,
    /// Nothing was learned.
    Unavailable,
}

/// What the planner said.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanSeen {
    /// When it was asked.
    pub at: Timestamp,
    /// Of which generation of the session.
    pub generation: i64,
    /// Its answer.
    pub answer: PlanAnswer,
}

/// The planner's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanAnswer {
    /// This.
    Fits(Box<Proposal>),
    /// Nothing, and why.
    No(NoPlan),
}

/// What could be rented now.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The candidate.
    pub offer: OfferKey,
    /// Its price an hour.
    pub hourly: Dollars,
    /// What start-up is thought to take.
    pub estimate: Duration,
    /// All of it.
    pub plan: Option<Box<Plan>>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq)]
pub struct NoPlan {
    /// The reason of the condition `Planned`.
    pub reason: Planned,
    /// A sentence; where offers were looked at, with the ones that came nearest and why each was not taken.
    pub message: String,
    /// Whether only the world has to change, not the session.
    pub passing: bool,
}

/// What a pod's log says of its boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSeen {
    /// Whose log.
    pub pod: PodId,
    /// When it was asked for.
    pub at: Timestamp,
    /// What it said.
    pub said: BootSaid,
}

/// What a pod's log says of its boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootSaid {
    /// It could not be read.
    Unread(String),
    /// Nothing that counts.
    Silent,
    /// The newest valid line: this boot, with this key.
    Host(BootId, HostKey),
    /// It gave up, and why.
    Failed(String),
}

/// What the visits to a host found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSeen {
    /// Which pod's.
    pub pod: PodId,
    /// When the last visit began.
    pub at: Timestamp,
    /// What it found.
    pub found: Result<Visit, Trouble>,
    /// What the last successful one found, and when that began.
    pub last: Option<(Timestamp, Visit)>,
    /// Since when no visit has succeeded; the first visit's time when none ever has.
    pub silent_since: Timestamp,
}

/// Why a visit found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No address is known, or nothing there answered as it should.
    Unreachable(String),
    /// What answered has another key than the pin.
    WrongKey,
}

/// What a visit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// How far the deployment is.
    pub engine: EngineSeen,
    /// When it was last used, on the controller's clock; `None`: that could not be read, or it was never used.
    pub activity: Option<Timestamp>,
    /// Whether the last activity could be read, `false`: nothing may be concluded from its absence.
    pub activity_known: bool,
    /// The end that the host has acknowledged.
    pub deadline: Timestamp,
    /// Where uploads live and how many bytes of them there may be, once measured.
    pub uploads: Option<(Medium, u64)>,
}

/// How far a deployment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSeen {
    /// Nothing was deployed.
    Absent,
    /// On its way.
    Starting {
        /// Where.
        stage: crate::host::Stage,
        /// 0 to 100, where it can be told.
        percent: Option<u8>,
        /// For people.
        message: String,
    },
    /// It answers, on this port of the host's loopback.
    Healthy {
        /// The port.
        port: u16,
    },
    /// It does not, and will not.
    Failed {
        /// At what.
        at: FailedAt,
        /// The end of its log, without secrets.
        said: String,
    },
}

/// At what a deployment failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedAt {
    /// The engine could not be installed, does not run here, or ended before it answered.
    Starting,
    /// There was not enough memory for the model.
    Memory,
    /// The weights: no room, no access, no whole download.
    Weights,
    /// It answered, and ended; or nobody knows how it ended.
    Serving,
}

/// One look at one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Which.
    pub pod: PodId,
    /// When the request left.
    pub began: Timestamp,
    /// The key it was asked with.
    pub account: Fingerprint,
    /// The answer.
    pub found: Result<Found, Unread>,
}

/// An answer about a bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillSeen {
    /// When it was asked for.
    pub at: Timestamp,
    /// The answer.
    pub found: Result<Billed, Unread>,
}

/// What one look at one pod found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// 404.
    Nothing,
    /// A record that says TERMINATED, at no cost.
    Ended,
    /// Anything else.
    Alive,
}

impl Observation {
    /// Where a pod's sshd is, as the last list says. A controller that has had no list yet, because it has just been started or the
    /// provider does not answer, takes the route's word, which it wrote itself: the pin tells whether that still holds.
    pub fn address(&self, record: &PodRecord) -> Option<&Address> {
        if self.pods.list.is_some() {
            return self.listed(&record.id)?.address.as_ref();
        }
        match &self.door.route {
            RouteSeen::Is {
                token: _,
                host: Some((key, address)),
            } if record.pin.as_ref().is_some_and(|pin| pin.key == *key) => Some(address),
            RouteSeen::Is { .. } | RouteSeen::Missing => None,
        }
    }

    /// The list's word on one pod.
    pub fn listed(&self, id: &PodId) -> Option<&SeenPod> {
        self.pods
            .list
            .as_ref()?
            .pods
            .iter()
            .find(|pod| pod.id == *id)
    }
}
