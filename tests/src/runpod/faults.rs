//! Everything that can go wrong, to be switched on for a call or a pod, and counted when it really did.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A call of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `POST /pods`.
    Create,
    /// `GET /pods`.
    List,
    /// `GET /pods/{id}`.
    Get,
    /// `DELETE /pods/{id}`.
    Delete,
    /// `POST /pods/{id}/action`.
    Action,
    /// `GET /pods/{id}/logs`.
    Logs,
    /// `GET /catalog/gpus`.
    Catalog,
    /// `GET /billing/pods`.
    Billing,
}

/// What goes wrong. `seconds` of a [`Fault`] means what is said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A create makes the pod and answers 500.
    CreateErrorAfter,
    /// A create answers 500 and makes nothing.
    CreateErrorBefore,
    /// A create never answers; the pod is made after `seconds` (0), whether or not anybody still waits.
    CreateHangs,
    /// A create never answers and makes nothing.
    CreateLost,
    /// A create makes two pods and answers with one.
    TwoPods,
    /// A create is refused with RunPod's sentence for "no machine is free".
    NoCapacity,
    /// The pod costs `percent` (200) of what the catalog says.
    PriceOther,
    /// The pod is missing from lists for `seconds` (5) after its create.
    ListLags,
    /// GET answers 404 for `seconds` (5) after the create.
    GetLags,
    /// DELETE answers 500 and does nothing.
    DeleteErrorBefore,
    /// DELETE ends the pod and answers 500.
    DeleteErrorAfter,
    /// DELETE answers 204; the pod goes on, listed and billed, for `seconds` (10).
    DeleteLags,
    /// DELETE never answers, and does nothing.
    DeleteHangs,
    /// After its end the pod stays in lists as TERMINATED for `seconds` (60).
    Lingers,
    /// RUNNING, and never a port.
    NoPorts,
    /// PROVISIONING for ever.
    StuckProvisioning,
    /// ERROR `seconds` (1) after the container's start.
    Error,
    /// PID 1 is killed every `seconds` (2); the pod is RUNNING all the while.
    CrashLoop,
    /// The public port answers nothing but a hang-up for `seconds` (5) after the container's start.
    SshdLate,
    /// The public port never answers anything but a hang-up.
    SshdAbsent,
    /// After a restart the record names the old address for `seconds` (5).
    StaleAddress,
    /// Another host's sshd is behind the pod's address.
    ForeignHost,
    /// The pod is gone, without a trace, `seconds` (5) after its container's start.
    Vanishes,
    /// The pod's own key may not end it.
    OwnKeyMayNotDelete,
    /// The account's key is not accepted: 401.
    KeyRevoked,
    /// The key may not do this: 403.
    Forbidden,
    /// Creates answer 402.
    BalanceGone,
    /// 429 with `Retry-After: seconds` (1).
    RateLimited,
    /// 503, from a proxy that speaks HTML.
    Outage,
    /// The call takes effect, and its answer cannot be parsed.
    Garbage,
    /// The call takes effect, and its answer breaks off.
    Truncated,
    /// Errors are `{"error": …}` instead of problem documents.
    BareErrors,
}

impl Kind {
    /// Every one of them.
    pub const ALL: [Self; 32] = [
        Self::CreateErrorAfter,
        Self::CreateErrorBefore,
        Self::CreateHangs,
        Self::CreateLost,
        Self::TwoPods,
        Self::NoCapacity,
        Self::PriceOther,
        Self::ListLags,
        Self::GetLags,
        Self::DeleteErrorBefore,
        Self::DeleteErrorAfter,
        Self::DeleteLags,
        Self::DeleteHangs,
        Self::Lingers,
        Self::NoPorts,
        Self::StuckProvisioning,
        Self::Error,
        Self::CrashLoop,
        Self::SshdLate,
        Self::SshdAbsent,
        Self::StaleAddress,
        Self::ForeignHost,
        Self::Vanishes,
        Self::OwnKeyMayNotDelete,
        Self::KeyRevoked,
        Self::Forbidden,
        Self::BalanceGone,
        Self::RateLimited,
        Self::Outage,
        Self::Garbage,
        Self::Truncated,
        Self::BareErrors,
    ];

    /// What `seconds` is when a fault does not say.
    fn usual_seconds(self) -> u64 {
        match self {
            Self::ListLags
            | Self::GetLags
            | Self::SshdLate
            | Self::StaleAddress
            | Self::Vanishes => 5,
            Self::DeleteLags => 10,
            Self::Lingers => 60,
            Self::Error | Self::RateLimited => 1,
            Self::CrashLoop => 2,
            Self::CreateErrorAfter
            | Self::CreateErrorBefore
            | Self::CreateHangs
            | Self::CreateLost
            | Self::TwoPods
            | Self::NoCapacity
            | Self::PriceOther
            | Self::DeleteErrorBefore
            | Self::DeleteErrorAfter
            | Self::DeleteHangs
            | Self::NoPorts
            | Self::StuckProvisioning
            | Self::SshdAbsent
            | Self::ForeignHost
            | Self::OwnKeyMayNotDelete
            | Self::KeyRevoked
            | Self::Forbidden
            | Self::BalanceGone
            | Self::Outage
            | Self::Garbage
            | Self::Truncated
            | Self::BareErrors => 0,
        }
    }
}

/// A fault to be injected, and when. The defaults are: any call or pod that the kind is about, every time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// Only in these calls; empty is all that the kind is about.
    #[serde(default)]
    pub calls: Vec<Call>,
    /// Only for pods whose id is this, or whose name contains it; and for creates with such a name.
    #[serde(default)]
    pub pod: Option<String>,
    /// How many calls, or pods, are passed over first.
    #[serde(default)]
    pub skip: u32,
    /// How many calls, or pods, it happens to.
    #[serde(default)]
    pub times: Option<u32>,
    /// See [`Kind`].
    #[serde(default)]
    pub seconds: Option<u64>,
    /// See [`Kind::PriceOther`].
    #[serde(default)]
    pub percent: Option<u32>,
    /// It is over so many seconds after it was switched on.
    #[serde(default)]
    pub lasts: Option<u64>,
}

impl Fault {
    /// Always, for everything that the kind is about.
    pub fn always(kind: Kind) -> Self {
        Self {
            kind,
            calls: Vec::new(),
            pod: None,
            skip: 0,
            times: None,
            seconds: None,
            percent: None,
            lasts: None,
        }
    }

    /// For the next call, or pod, only.
    pub fn once(kind: Kind) -> Self {
        Self {
            times: Some(1),
            ..Self::always(kind)
        }
    }

    /// Only in this call.
    pub fn in_call(mut self, call: Call) -> Self {
        self.calls.push(call);
        self
    }

    /// Only for pods whose id this is, or whose name contains it.
    pub fn on(self, pod: &str) -> Self {
        Self {
            pod: Some(pod.to_owned()),
            ..self
        }
    }

    /// With this many seconds.
    pub fn seconds(self, seconds: u64) -> Self {
        Self {
            seconds: Some(seconds),
            ..self
        }
    }

    /// How long, as [`Kind`] says.
    pub(super) fn span(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(self.kind.usual_seconds()))
    }
}

/// The faults that are switched on, and how often each kind was really injected.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    pub(super) injected: BTreeMap<Kind, u64>,
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    since: Timestamp,
    skipped: u32,
    used: u32,
}

/// What a fault is asked about: a pod by id and name, or a create by its name, or neither.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
}

/// What a fault answers when it is asked.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    /// It is about something else.
    NotNow,
    /// This one is spared, by `skip`.
    PassedOver,
    /// It happens.
    Hit(Fault),
}

/// A call that is about no pod.
pub(super) const NOBODY: Of<'static> = Of { id: "", name: "" };

impl Faults {
    pub(super) fn add(&mut self, fault: Fault, now: Timestamp) {
        self.rules.push(Rule {
            fault,
            since: now,
            skipped: 0,
            used: 0,
        });
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn clear_of(&mut self, named: &str) {
        self.rules
            .retain(|rule| rule.fault.pod.as_deref() != Some(named));
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Fault> {
        self.rules.iter().map(|rule| &rule.fault)
    }

    /// Asks the first fault of this kind that is about this call or pod. The caller counts it when it takes effect.
    pub(super) fn take(
        &mut self,
        kind: Kind,
        call: Option<Call>,
        of: Of<'_>,
        now: Timestamp,
    ) -> Turn {
        let mut matching = self
            .rules
            .iter_mut()
            .filter(|rule| rule.is_about(kind, call, of, now));
        let Some(rule) = matching.next() else {
            return Turn::NotNow;
        };
        if rule.skipped < rule.fault.skip {
            rule.skipped += 1;
            return Turn::PassedOver;
        }
        rule.used += 1;
        Turn::Hit(rule.fault.clone())
    }

    /// For a call: the fault, if it is its turn, counted at once.
    pub(super) fn strike(
        &mut self,
        kind: Kind,
        call: Call,
        of: Of<'_>,
        now: Timestamp,
    ) -> Option<Fault> {
        match self.take(kind, Some(call), of, now) {
            Turn::Hit(fault) => {
                self.count(kind);
                Some(fault)
            }
            Turn::PassedOver | Turn::NotNow => None,
        }
    }

    pub(super) fn count(&mut self, kind: Kind) {
        *self.injected.entry(kind).or_default() += 1;
    }
}

impl Rule {
    fn is_about(&self, kind: Kind, call: Option<Call>, of: Of<'_>, now: Timestamp) -> bool {
        let Fault {
            kind: mine,
            calls,
            pod,
            skip: _,
            times,
            seconds: _,
            percent: _,
            lasts,
        } = &self.fault;
        *mine == kind
            && call.is_none_or(|call| calls.is_empty() || calls.contains(&call))
            && pod
                .as_ref()
                .is_none_or(|pod| of.id == pod || of.name.contains(pod.as_str()))
            && times.is_none_or(|times| self.used < times)
            && lasts.is_none_or(|lasts| now < self.since + Duration::from_secs(lasts))
    }
}
