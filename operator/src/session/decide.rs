//! What to do next about one session. Pure and total: the clock, the ledger and everything seen come in as values, and at most one
//! look or one action comes out, with the moment at which to ask again. Nothing here waits, reads or writes.

#![expect(
    clippy::result_large_err,
    reason = "a decision is the value that every step is about, not an error"
)]

mod bills;
mod books;
mod draw;
mod ending;
mod limits;
mod sentence;
mod starting;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use crate::provider::{Address, Fingerprint, PodId};
use crate::ssh::HostKey;

use super::ledger::{Change, EndReason, Ledger, PodRecord};
use super::observe::{
    HostSeen, LedgerSeen, List, NoAccount, NoPlan, Observation, Proposal, Published, RouteSeen,
    UnreadWhy,
};

pub(crate) use limits::idle_due;
pub use limits::{Bill, Expiry, Near};

/// After a look that failed, before it is tried again, where the failure does not say.
pub const RETRY: Duration = Duration::from_secs(5);
/// A list that began longer ago is not "now" for an act that cannot be undone (S13).
pub const FRESH: Duration = Duration::from_secs(10);

/// What one pass comes to. A look is done at once and followed by another decision; an action by another pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Something has to be read before anything can be decided.
    pub look: Option<Look>,
    /// The one thing to do now.
    pub action: Option<Action>,
    /// When to look again if nothing happens; `None`: only a change of the session matters.
    pub again: Option<Timestamp>,
    /// Where the session stands.
    pub verdict: Verdict,
}

/// A read that costs something, so it is made only when a decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A complete list begun after this moment.
    List {
        /// The moment.
        after: Timestamp,
    },
    /// What the planner would rent now.
    Plan,
    /// A pod's log.
    Log {
        /// Which.
        pod: PodId,
    },
    /// A pod's host, which is told its deadline on the occasion.
    Visit {
        /// Which.
        pod: PodId,
        /// When it is to end itself.
        deadline: Timestamp,
    },
    /// One pod, at the provider.
    Glance {
        /// Which.
        pod: PodId,
    },
    /// What the provider bills for a pod.
    Bill {
        /// Which.
        pod: PodId,
        /// From when on.
        since: Timestamp,
    },
}

/// The one thing to do. Each is idempotent: done twice is done once, and "already so" is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the ledger, with new keys. `adrift`: the session already has our finalizer, so one of it was lost.
    Open {
        /// Whether a ledger was lost.
        adrift: bool,
        /// Whether the run is ended before it began (S14).
        latch: Option<Timestamp>,
    },
    /// Put the finalizer on.
    Guard,
    /// Write one fact into the ledger.
    Note(Change),
    /// Write the published Secret and the route, without a host.
    Publish,
    /// Intend, by compare-and-swap, and rent (S1, S2).
    Rent {
        /// What.
        proposal: Box<Proposal>,
        /// Under which number.
        number: u64,
    },
    /// Deploy on a pinned host, or find that it is under way.
    Deploy {
        /// Which.
        pod: PodId,
    },
    /// Lead the route to this host, or bring what it says up to date.
    OpenDoor {
        /// Which.
        pod: PodId,
        /// Where its sshd is.
        address: Address,
        /// The engine's port on its loopback.
        port: u16,
    },
    /// Take the host out of the route.
    CloseDoor,
    /// Delete the route.
    DropRoute,
    /// Take the gateways' key off the host, and erase; until this moment at the latest.
    Clear {
        /// Which.
        pod: PodId,
        /// The moment.
        until: Timestamp,
    },
    /// DELETE it at the provider.
    Terminate {
        /// Which.
        pod: PodId,
    },
    /// Write the signed receipt.
    Receipt,
    /// Take the finalizer off, then forget the ledger (S6).
    Release,
    /// Delete a session whose plan nobody confirmed in time.
    Discard,
}

impl Action {
    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Guard => "guard",
            Self::Note(_) => "note",
            Self::Publish => "publish",
            Self::Rent { .. } => "rent",
            Self::Deploy { .. } => "deploy",
            Self::OpenDoor { .. } => "open_door",
            Self::CloseDoor => "close_door",
            Self::DropRoute => "drop_route",
            Self::Clear { .. } => "clear",
            Self::Terminate { .. } => "terminate",
            Self::Receipt => "receipt",
            Self::Release => "release",
            Self::Discard => "discard",
        }
    }

    /// Whether it changes the published Secret or the route.
    pub fn moves_door(&self) -> bool {
        matches!(
            self,
            Self::Publish | Self::OpenDoor { .. } | Self::CloseDoor | Self::DropRoute
        )
    }

    /// Whether it makes the ledger.
    pub fn opens(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// Where a session stands, for status and people.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Its ledger cannot be read.
    LedgerUnreadable,
    /// Ledger and finalizer are being put in place.
    Entering,
    /// Nothing is wanted, and nothing is left.
    Paused,
    /// A limit ended the run, and nothing is left.
    Ended(EndReason),
    /// Wanted, and something stands in the way of renting.
    Blocked(Blocked),
    /// Renting.
    Renting,
    /// Whether a request made a pod is not known yet.
    Resolving,
    /// The pod's host has not shown its identity yet.
    Booting,
    /// The host is known, and the model not served yet.
    Deploying,
    /// All is well.
    Serving,
    /// Something ends: the current pod, or one that should not be.
    Ending(Ending),
    /// Nothing is left to do.
    Finished,
}

/// What stands in the way of renting.
#[derive(Clone, Debug, PartialEq)]
pub enum Blocked {
    /// Somebody has to confirm the plan first.
    Unconfirmed,
    /// The installation's identity is another cluster's.
    ForeignInstallation,
    /// There is no provider key that works.
    NoAccount(NoAccount),
    /// The provider cannot be read.
    Provider(UnreadWhy),
    /// A Secret of the name to publish is somebody else's.
    SecretNameTaken,
    /// We may not handle Secrets in its namespace.
    SecretsForbidden,
    /// The plan is being made.
    Planning,
    /// There is no plan.
    NoPlan(NoPlan),
    /// What is left of the budget does not pay for a start and an end.
    Budget {
        /// What is left.
        left: Dollars,
        /// What a start and an end may cost.
        needed: Dollars,
    },
    /// The provider refused, and it is too early to ask again.
    Refused,
    /// Its spec cannot be read, and nobody knows what is wanted.
    Unreadable,
}

/// How far an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The endpoint is being closed, the host cleared.
    Clearing,
    /// The provider is being asked.
    Terminating,
    /// Absence is being proved.
    Verifying,
    /// No key at hand may speak about this pod's absence.
    AccountUnknown,
    /// The provider cannot be read.
    Unread(UnreadWhy),
    /// Receipt and finalizer.
    Finishing,
}

/// Either a decision, or a reason to go on looking for one.
type Or<T = ()> = ControlFlow<Decision, T>;

impl Decision {
    fn look(look: Look, verdict: Verdict) -> Self {
        Self {
            look: Some(look),
            action: None,
            again: None,
            verdict,
        }
    }

    fn act(action: Action, verdict: Verdict) -> Self {
        Self {
            look: None,
            action: Some(action),
            again: None,
            verdict,
        }
    }

    fn wait(until: Timestamp, verdict: Verdict) -> Self {
        Self {
            look: None,
            action: None,
            again: Some(until),
            verdict,
        }
    }

    /// Until something about the session itself changes.
    fn rest(verdict: Verdict) -> Self {
        Self {
            look: None,
            action: None,
            again: None,
            verdict,
        }
    }

    /// Whether it only waits.
    pub fn idle(&self) -> bool {
        self.look.is_none() && self.action.is_none()
    }

    /// The same, but looking again when it has stood still for too long, so that this shows.
    pub fn noticing(self, still: Option<Timestamp>, now: Timestamp) -> Self {
        let due = still.map(|since| since + super::progress::STILL);
        match due.filter(|due| self.idle() && *due > now) {
            Some(due) => self.by(Some(due)),
            None => self,
        }
    }

    /// The same, but looking again at `until` at the latest.
    fn by(mut self, until: Option<Timestamp>) -> Self {
        self.again = [self.again, until].into_iter().flatten().min();
        self
    }
}

/// What to do next.
pub fn decide(seen: &Observation) -> Decision {
    match steps(seen) {
        Break(decision) => decision,
        Continue(never) => match never {},
    }
}

/// In this order: what is owed to safety, what is owed to truth, what must end, and only then what is wanted.
fn steps(seen: &Observation) -> Or<Infallible> {
    let view = enter(seen)?;
    books::keep(&view)?;
    limits::enforce(&view)?;
    let pending = ending::pods(&view)?;
    if view.wanted() {
        starting::advance(&view, pending)
    } else {
        ending::rest(&view, pending)
    }
}

/// What every step looks at.
#[derive(Clone, Copy)]
struct View<'a> {
    seen: &'a Observation,
    ledger: &'a Ledger,
}

/// The ledger first, then the finalizer; without both nothing else happens (S1).
fn enter(seen: &Observation) -> Or<View<'_>> {
    let session = &seen.session;
    let ledger = match &seen.ledger {
        LedgerSeen::Unreadable => {
            return Break(Decision::wait(seen.now + RETRY, Verdict::LedgerUnreadable));
        }
        LedgerSeen::Missing if session.deleting && !session.finalizer => {
            return Break(Decision::rest(Verdict::Finished));
        }
        // Nothing was done for it, and nobody knows what to do.
        LedgerSeen::Missing
            if session.unreadable.is_some() && !session.deleting && !session.finalizer =>
        {
            return Break(Decision::rest(Verdict::Blocked(Blocked::Unreadable)));
        }
        LedgerSeen::Missing => {
            let latch = seen
                .house
                .gap
                .filter(|gap| session.created < gap.from)
                .map(|gap| gap.until);
            let action = Action::Open {
                adrift: session.finalizer,
                latch,
            };
            return Break(Decision::act(action, Verdict::Entering));
        }
        LedgerSeen::Is(ledger) => ledger,
    };
    if !session.finalizer && !session.deleting {
        return Break(Decision::act(Action::Guard, Verdict::Entering));
    }
    Continue(View { seen, ledger })
}

impl<'a> View<'a> {
    fn now(&self) -> Timestamp {
        self.seen.now
    }

    /// Whether something may be rented, or what is rented kept.
    fn wanted(&self) -> bool {
        let run = &self.ledger.run;
        !self.seen.session.deleting && run.replicas == 1 && run.ended.is_none()
    }

    /// The pod in use.
    fn current(&self) -> Option<&'a PodRecord> {
        self.ledger.current().filter(|_| self.wanted())
    }

    /// What is known of a pod's host.
    fn host_of(&self, record: &PodRecord) -> Option<&'a HostSeen> {
        self.seen.host.as_ref().filter(|host| host.pod == record.id)
    }

    /// A complete list begun after `t`, or the way to get one.
    fn list_after(&self, t: Timestamp) -> Result<&'a List, Decision> {
        let pods = &self.seen.pods;
        if let Some(list) = pods.list.as_ref().filter(|list| list.began > t) {
            return Ok(list);
        }
        // What has not begun yet cannot be waited for inside a pass.
        if self.now() <= t {
            return Err(Decision::wait(
                t + Duration::from_millis(1),
                Verdict::Ending(Ending::Verifying),
            ));
        }
        match &pods.failed {
            Some(unread) if unread.again > self.now() => {
                Err(Decision::wait(unread.again, self.unread(unread.why)))
            }
            _ => Err(Decision::look(
                Look::List { after: t },
                Verdict::Ending(Ending::Verifying),
            )),
        }
    }

    /// A list that is "now" (S13).
    fn list_now(&self) -> Result<&'a List, Decision> {
        self.list_after(self.now() - FRESH)
    }

    /// Whether a key may speak of the absence of what these keys made or saw: it is one of them, or has seen a pod that one of
    /// them made or saw, and so is of the same account.
    fn may_speak(&self, key: &Fingerprint, of: &BTreeSet<Fingerprint>) -> bool {
        let same = |pod: &PodRecord| pod.accounts.contains(key) && !pod.accounts.is_disjoint(of);
        of.contains(key) || self.ledger.pods.iter().any(same)
    }

    fn unread(&self, why: UnreadWhy) -> Verdict {
        if self.wanted() {
            Verdict::Blocked(Blocked::Provider(why))
        } else {
            Verdict::Ending(Ending::Unread(why))
        }
    }

    /// Whether the route leads to a host, and to whose.
    fn door(&self) -> Option<&'a (HostKey, Address)> {
        match &self.seen.door.route {
            RouteSeen::Missing => None,
            RouteSeen::Is { token: _, host } => host.as_ref(),
        }
    }

    /// Whether published Secret and route are there and agree.
    fn published(&self) -> Result<bool, Blocked> {
        match (&self.seen.door.published, &self.seen.door.route) {
            (Published::Taken, _) => Err(Blocked::SecretNameTaken),
            (Published::Forbidden, _) => Err(Blocked::SecretsForbidden),
            (
                Published::Ours {
                    stale: false,
                    token: Some(given),
                },
                RouteSeen::Is {
                    token: Some(admitted),
                    host: _,
                },
            ) => Ok(given == admitted),
            (
                Published::Missing | Published::Ours { .. },
                RouteSeen::Missing | RouteSeen::Is { .. },
            ) => Ok(false),
        }
    }
}
