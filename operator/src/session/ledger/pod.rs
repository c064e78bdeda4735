//! Pods that are, or were, ours: from their identity to the proof of their absence, and what they cost.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;

use super::{Attempt, EndReason, span};
use crate::host::{BootId, Medium};
use crate::provider::{Fingerprint, PodId};
use crate::ssh::HostKey;

/// Between two observations that together prove an absence.
pub const PROOF_INTERVAL: Duration = Duration::from_secs(10);

/// A bill of so many percent of price times time is that of the whole time: clocks differ by seconds, and prices are rounded.
const BILLED_WHOLE: u32 = 95;

/// After which a record that says TERMINATED at no cost, and stays in lists, counts as absent.
pub const LINGER: Duration = Duration::from_secs(600);

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
    /// When its host was first spoken to.
    #[serde(default)]
    pub reached: Option<Timestamp>,
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
    /// It did not show itself in the time that most need, and another may be rented instead.
    BadDraw,
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

impl PodRecord {
    /// A pod of which no more is known than that it is there, to this key: of no attempt, and at no price.
    pub fn new(id: PodId, created: Timestamp, account: Fingerprint) -> Self {
        Self {
            id,
            attempt: 0,
            run: 0,
            created,
            hourly: Dollars::ZERO,
            data_center: None,
            pin: None,
            reached: None,
            served: None,
            host_deadline: created,
            accounts: BTreeSet::from([account]),
            missing: None,
            doom: None,
            wipe: None,
            deleted: None,
            deleted_last: None,
            proofs: Vec::new(),
            gone: None,
            bill: None,
        }
    }

    /// The pod that an attempt led to, as far as the attempt tells.
    pub fn of(attempt: &Attempt, id: PodId) -> Self {
        Self {
            attempt: attempt.number,
            run: attempt.run,
            hourly: attempt.hourly,
            host_deadline: attempt.host_deadline,
            ..Self::new(id, attempt.intent, attempt.account.clone())
        }
    }

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
