//! What bounds a run: lifetime, idleness, total cost. Each latches the run's end in the ledger; the spec is never edited.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use super::super::ledger::{Change, EndReason, Ledger, PodRecord};
use super::super::observe::{Session, Visit};
use super::{Action, Decision, Look, Or, RETRY, Verdict, View};

/// Start-up without a word of the user's: enough for a cold pull and a large download.
pub(super) const STARTUP: Duration = Duration::from_secs(20 * 60);
/// Beyond the clearing, an end takes a DELETE and its proofs.
pub(super) const END: Duration = Duration::from_secs(60);
/// A run's lifetime counts as near when so much is left of it.
const LIFETIME_NEAR: Duration = Duration::from_secs(600);
/// Idleness is announced so much before it ends the run.
const IDLE_SOON: Duration = Duration::from_secs(300);
/// The total counts as near from this percentage on.
const COST_NEAR: u32 = 80;

/// When the run ends at the latest, and by which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The moment, in whole seconds.
    pub time: Timestamp,
    /// [`EndReason::Lifetime`] or [`EndReason::Cost`].
    pub reason: EndReason,
}

impl Expiry {
    /// Of a pod that is, or would be, billed at `hourly` from `created` on, in a run that started at `started`.
    pub fn of(session: &Session, ledger: &Ledger, bill: Bill<'_>) -> Self {
        let limits = &session.limits;
        let lifetime = Self {
            time: whole(bill.started + limits.lifetime),
            reason: EndReason::Lifetime,
        };
        let Some(total) = limits.total else {
            return lifetime;
        };
        let others = ledger
            .pods
            .iter()
            .filter(|pod| bill.pod.is_none_or(|own| own.id != pod.id));
        let spent: Dollars = others.map(|pod| pod.cost(bill.now)).sum();
        let end = bill.hourly.for_hours_of(session.wipe_timeout + END);
        let lasts = total.less(spent).less(end).lasts_at(bill.hourly);
        let budget = lasts.and_then(|lasts| bill.created.checked_add(lasts).ok());
        match budget.map(whole) {
            Some(time) if time < lifetime.time => Self {
                time,
                reason: EndReason::Cost,
            },
            Some(_) | None => lifetime,
        }
    }

    /// Of the run in progress, if it has a pod.
    pub fn now(session: &Session, ledger: &Ledger, now: Timestamp) -> Option<Self> {
        let pod = ledger.current()?;
        let started = ledger.run.started.unwrap_or(pod.created);
        Some(Self::of(
            session,
            ledger,
            Bill {
                pod: Some(pod),
                started,
                created: pod.created,
                hourly: pod.hourly,
                now,
            },
        ))
    }
}

/// What is billed, and from when on.
#[derive(Clone, Copy, Debug)]
pub struct Bill<'a> {
    /// The pod, when there is one already.
    pub pod: Option<&'a PodRecord>,
    /// The start of the run.
    pub started: Timestamp,
    /// The start of billing.
    pub created: Timestamp,
    /// Dollars an hour.
    pub hourly: Dollars,
    /// The moment of the question.
    pub now: Timestamp,
}

/// What a start at this price, and the end after it, may cost at most.
pub(super) fn start_and_end(session: &Session, hourly: Dollars, estimate: Duration) -> Dollars {
    let startup = session.limits.startup.unwrap_or(estimate);
    hourly.for_hours_of(startup + session.wipe_timeout + END)
}

/// Ends the run when it has met a limit.
pub(super) fn enforce(view: &View<'_>) -> Or {
    if !view.wanted() {
        return Continue(());
    }
    let ended = |reason| {
        let change = Change::Ended {
            reason,
            at: view.now(),
        };
        Break(Decision::act(Action::Note(change), Verdict::Ended(reason)))
    };
    let started = view.ledger.run.started;
    if started.is_some_and(|started| view.now() >= started + view.seen.session.limits.lifetime) {
        return ended(EndReason::Lifetime);
    }
    if let Some(expiry) = view.expiry().filter(|expiry| view.now() >= expiry.time) {
        return ended(expiry.reason);
    }
    match idle(view) {
        Idle::Yes => ended(EndReason::Idle),
        Idle::Ask(decision) => Break(*decision),
        Idle::No => Continue(()),
    }
}

/// Whether nobody uses the session.
enum Idle {
    No,
    Yes,
    Ask(Box<Decision>),
}

/// Idle only when a visit made after the deadline could read that there was no activity. What cannot be read is never idle.
fn idle(view: &View<'_>) -> Idle {
    let (Some(record), Some(due)) = (view.current(), view.idle_due()) else {
        return Idle::No;
    };
    if view.now() < due {
        return Idle::No;
    }
    let Some(host) = view.seen.host.as_ref().filter(|host| host.pod == record.id) else {
        return Idle::Ask(Box::new(view.visit(record)));
    };
    match &host.last {
        Some((
            began,
            Visit {
                activity_known: true,
                ..
            },
        )) if *began >= due => Idle::Yes,
        // A visit that failed, or could not read it, is repeated at its own pace.
        _ if host.at >= due && view.now() < host.at + RETRY => Idle::No,
        _ if view.reachable(record) => Idle::Ask(Box::new(view.visit(record))),
        _ => Idle::No,
    }
}

/// What a limit's nearness is worth saying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Near {
    /// 80 % of the total cost is spent.
    pub cost: bool,
    /// Ten minutes of the lifetime are left.
    pub lifetime: bool,
    /// Five minutes are left until idleness ends the run.
    pub idle: bool,
}

impl Near {
    /// How near the limits of the run in progress are, where `idle` is the moment at which idleness would end it.
    pub fn of(session: &Session, ledger: &Ledger, idle: Option<Timestamp>, now: Timestamp) -> Self {
        let total = session.limits.total.map(|total| total.percent(COST_NEAR));
        let end = ledger
            .run
            .started
            .map(|started| started + session.limits.lifetime);
        Self {
            cost: total.is_some_and(|mark| ledger.spent(now) >= mark),
            lifetime: end.is_some_and(|end| now >= end - LIFETIME_NEAR),
            idle: idle.is_some_and(|due| now >= due - IDLE_SOON),
        }
    }
}

impl View<'_> {
    /// When the run ends at the latest.
    pub(super) fn expiry(&self) -> Option<Expiry> {
        self.current()
            .and_then(|_| Expiry::now(&self.seen.session, self.ledger, self.now()))
    }

    /// When idleness would end the run, as far as is known.
    pub(super) fn idle_due(&self) -> Option<Timestamp> {
        idle_due(self.seen, self.ledger)
    }

    /// When the host is to end itself.
    pub(super) fn host_deadline(&self, record: &PodRecord) -> Timestamp {
        self.expiry()
            .map_or(record.host_deadline, |expiry| expiry.time)
    }

    pub(super) fn visit(&self, record: &PodRecord) -> Decision {
        let look = Look::Visit {
            pod: record.id.clone(),
            deadline: self.host_deadline(record),
        };
        Decision::look(look, Verdict::Deploying)
    }

    /// The next moment at which a limit, or its nearness, has to be looked at.
    pub(super) fn next_mark(&self) -> Option<Timestamp> {
        let session = &self.seen.session;
        let end = self
            .ledger
            .run
            .started
            .map(|started| started + session.limits.lifetime);
        let idle = self.idle_due();
        let near_cost = session.limits.total.and_then(|total| {
            let left = total.percent(COST_NEAR).less(self.ledger.spent(self.now()));
            self.now()
                .checked_add(left.lasts_at(self.ledger.hourly())?)
                .ok()
        });
        let marks = [
            self.expiry().map(|expiry| expiry.time),
            end,
            end.map(|end| end - LIFETIME_NEAR),
            idle,
            idle.map(|idle| idle - IDLE_SOON),
            near_cost,
        ];
        marks
            .into_iter()
            .flatten()
            .filter(|mark| *mark > self.now())
            .min()
    }
}

/// When idleness would end the run: counted from its being served, or from its last known use.
pub(crate) fn idle_due(seen: &super::Observation, ledger: &Ledger) -> Option<Timestamp> {
    let pod = ledger.current()?;
    let served = pod.served.as_ref()?.at;
    let host = seen.host.as_ref().filter(|host| host.pod == pod.id);
    let used = host
        .and_then(|host| host.last.as_ref())
        .and_then(|(_, visit)| visit.activity);
    Some(used.map_or(served, |used| used.max(served)) + seen.session.limits.idle?)
}

/// Hosts are told whole seconds; what they acknowledge must compare equal.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
