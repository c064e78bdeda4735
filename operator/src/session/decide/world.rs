//! A modelled world for `decide`: a provider, hosts and an API server as values, in virtual time. Decisions are applied to it one by
//! one, and whatever may never happen is asserted on the way.

#![allow(clippy::unwrap_used)]

mod act;
mod fixtures;
mod host;
mod provider;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;
use srchat_crds::conditions::Planned;

use super::super::ledger::{Change, Ledger, RefusedWhy};
use super::super::observe::{
    BillSeen, BootSeen, Door, FailedAt, Gap, Glance, HostSeen, House, LedgerSeen, NoAccount,
    Observation, PlanSeen, PodsSeen, Published, RouteSeen, Session,
};
use super::{Action, Decision, Expiry, Look, Verdict, decide};
use crate::host::{BootId, Stage};
use crate::provider::{Fingerprint, PodId, PodStatus};
use crate::route::Engine;
use crate::ssh::HostKey;

pub(crate) use fixtures::{
    account, attempt, boot_id, host_key, ledger, pod_id, real, record, rented, session, start,
};

/// How the provider answers the next create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Create {
    /// 201.
    Answers,
    /// The pod is made, and the answer lost.
    MadeAndLost,
    /// Nothing is made, and the answer lost.
    Lost,
    /// Two pods are made, one is named.
    Twice,
    /// No capacity.
    Refuses,
}

/// What kind of machine a pod has drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// One that gets it up.
    Good,
    /// One that stays in PROVISIONING.
    Stuck,
    /// One that runs it and never gives it a port.
    Portless,
    /// One on which it says nothing.
    Speechless,
}

/// Which engines do not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// All do.
    None,
    /// vLLM does not.
    Vllm,
    /// None does.
    All,
}

/// A pod as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    pub id: PodId,
    pub attempt: u64,
    pub draw: Draw,
    pub status: PodStatus,
    pub created: Timestamp,
    pub cost: Dollars,
    pub boot: BootId,
    pub key: HostKey,
    /// Where its sshd is reached.
    pub port: u16,
    pub deployed: Option<(Timestamp, Engine)>,
    pub cleared: bool,
    pub deadline: Timestamp,
    /// When it disappears from lists, once deleted.
    pub vanishes: Option<Timestamp>,
}

impl Real {
    pub(crate) fn bills(&self) -> bool {
        self.status != PodStatus::Terminated
    }

    fn has_address(&self) -> bool {
        self.status == PodStatus::Running && self.draw != Draw::Portless
    }
}

/// What happened in a pass.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Look(Look),
    Act(Action),
    Wait(Option<Timestamp>, Verdict),
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub now: Timestamp,
    pub session: Session,
    pub exists: bool,
    pub ledger: Option<Ledger>,
    pub pods: Vec<Real>,
    /// So many reads of the provider fail before it answers again.
    pub outage: u32,
    /// So many DELETEs are answered and have no effect.
    pub deaf: u32,
    pub create: Create,
    /// What the next pods draw, each one; a good machine once there is nothing in it.
    pub draws: Vec<Draw>,
    pub published: bool,
    pub route: RouteSeen,
    pub receipt: bool,
    pub gap: Option<Gap>,
    pub account: Fingerprint,
    /// When the model was last used; it is used for ever when `None`.
    pub last_use: Option<Timestamp>,
    /// Hosts answer nobody.
    pub mute: bool,
    pub broken: Broken,
    /// At what such an engine fails.
    pub broken_at: FailedAt,
    /// The stage that a deployment shows until it serves.
    pub stage: Stage,
    /// Boots give up.
    pub boots_fail: bool,
    /// What the planner says when there is no plan.
    pub no_plan: Option<Planned>,
    /// The published Secret's name is somebody else's.
    pub taken: bool,
    /// Nobody lets us look at Secrets in the session's namespace.
    pub forbidden: bool,
    /// Why a create is refused.
    pub refused: RefusedWhy,
    /// Before this the provider has billed nothing.
    pub bills_from: Option<Timestamp>,
    pub no_account: Option<NoAccount>,
    pub created: u32,
    pub history: Vec<(Timestamp, Step)>,
    pods_seen: PodsSeen,
    plan: Option<PlanSeen>,
    boot: Option<BootSeen>,
    host: Option<HostSeen>,
    glance: Option<Glance>,
    bills: BTreeMap<PodId, BillSeen>,
    serial: u32,
}

/// Actions after which a world that has not settled never will.
const ACTIONS: u32 = 150;

/// Waits after which it never will: a pod that never boots is watched until its start-up deadline, three times over.
const WAITS: u32 = 2500;

const TICK: Duration = Duration::from_millis(10);

impl World {
    pub(crate) fn new() -> Self {
        Self {
            now: start(),
            session: session(),
            exists: true,
            ledger: None,
            pods: Vec::new(),
            outage: 0,
            deaf: 0,
            create: Create::Answers,
            draws: Vec::new(),
            published: false,
            route: RouteSeen::Missing,
            receipt: false,
            gap: None,
            account: account(),
            last_use: None,
            mute: false,
            broken: Broken::None,
            broken_at: FailedAt::Starting,
            stage: Stage::Loading,
            boots_fail: false,
            no_plan: None,
            taken: false,
            forbidden: false,
            refused: RefusedWhy::NoCapacity,
            bills_from: None,
            no_account: None,
            created: 0,
            history: Vec::new(),
            pods_seen: PodsSeen::default(),
            plan: None,
            boot: None,
            host: None,
            glance: None,
            bills: BTreeMap::new(),
            serial: 100,
        }
    }

    /// A world in which the session is under way.
    pub(crate) fn under_way() -> Self {
        let mut world = Self::new();
        world.session.finalizer = true;
        let mut ledger = ledger();
        ledger.apply(Change::Replicas {
            replicas: 1,
            at: start(),
        });
        world.ledger = Some(ledger);
        world
    }

    pub(crate) fn observation(&self) -> Observation {
        let token = Some("hash".to_owned());
        Observation {
            now: self.now,
            session: self.session.clone(),
            ledger: self.ledger.clone().map_or(LedgerSeen::Missing, |ledger| {
                LedgerSeen::Is(Box::new(ledger))
            }),
            house: House {
                bound: true,
                installation: "inst".to_owned(),
                account: self.no_account.map_or(Ok(self.account.clone()), Err),
                gap: self.gap,
            },
            door: Door {
                published: if self.forbidden {
                    Published::Forbidden
                } else if self.taken {
                    Published::Taken
                } else if self.published {
                    Published::Ours {
                        stale: false,
                        token,
                    }
                } else {
                    Published::Missing
                },
                route: self.route.clone(),
            },
            pods: self.pods_seen.clone(),
            plan: self.plan.clone(),
            boot: self.boot.clone(),
            host: self.host.clone(),
            glance: self.glance.clone(),
            bills: self.bills.clone(),
        }
    }

    /// One pass: looks until there is something to do or to wait for, then does it. Time passes while it waits.
    pub(crate) fn pass(&mut self) -> Decision {
        let decision = self.next();
        self.perform(&decision);
        decision
    }

    /// Looks until there is something to do or to wait for.
    pub(crate) fn next(&mut self) -> Decision {
        assert!(self.history.len() < 20_000, "goes on for ever");
        let mut looks = 0;
        loop {
            let decision = decide(&self.observation());
            self.now += TICK;
            let Some(look) = &decision.look else {
                return decision;
            };
            assert!(decision.action.is_none(), "a look and an action at once");
            looks += 1;
            assert!(looks < 20, "looks for ever: {look:?}\n{}", self.story());
            self.history.push((self.now, Step::Look(look.clone())));
            self.look(look.clone());
        }
    }

    /// Does what was decided.
    pub(crate) fn perform(&mut self, decision: &Decision) {
        match &decision.action {
            Some(action) => {
                self.history.push((self.now, Step::Act(action.clone())));
                self.act(action.clone());
            }
            None => self.history.push((
                self.now,
                Step::Wait(decision.again, decision.verdict.clone()),
            )),
        }
    }

    /// Passes until it serves, rests or is gone; panics with its history when that never happens.
    pub(crate) fn settle(&mut self) -> Verdict {
        let mut polled = false;
        let (mut actions, mut waits) = (0, 0);
        while actions < ACTIONS && waits < WAITS {
            if !self.exists {
                return Verdict::Finished;
            }
            let decision = self.pass();
            if !decision.idle() {
                polled = false;
                actions += 1;
                continue;
            }
            waits += 1;
            let resting = matches!(
                decision.verdict,
                Verdict::Serving | Verdict::Paused | Verdict::Ended(_) | Verdict::Finished
            );
            if resting && !self.waits_for_leftovers() {
                if polled {
                    return decision.verdict;
                }
                // The one poller wakes every session whose pods have changed.
                self.poll();
                polled = true;
                continue;
            }
            let again = decision.again;
            assert!(
                again.is_some(),
                "nothing would ever happen again: {:?}\n{}",
                decision.verdict,
                self.story()
            );
            self.now = self.now.max(again.unwrap());
        }
        let last = self.history.len().saturating_sub(100);
        panic!(
            "never settles\n{}",
            self.lines()[last..].join(
                "
"
            )
        );
    }

    fn waits_for_leftovers(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| {
            ledger
                .pods
                .iter()
                .any(|pod| pod.doom.is_some() && pod.gone.is_none())
        })
    }

    /// What happened so far, a line a step.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(at, step): &(Timestamp, Step)| match step {
            Step::Look(look) => format!("{at} look {look:?}"),
            Step::Act(action) => format!("{at} {action:?}"),
            Step::Wait(again, verdict) => format!("{at} wait for {again:?}: {verdict:?}"),
        };
        self.history.iter().map(line).collect()
    }

    pub(crate) fn story(&self) -> String {
        self.lines().join("\n")
    }

    /// The poller's list.
    pub(crate) fn poll(&mut self) {
        self.settle_provider();
        self.pods_seen = PodsSeen {
            list: Some(self.list()),
            failed: None,
        };
    }

    /// When the run in progress ends at the latest.
    pub(crate) fn expiry(&self) -> Expiry {
        Expiry::now(&self.session, self.ledger.as_ref().unwrap(), self.now).unwrap()
    }

    pub(crate) fn billing(&self) -> usize {
        self.pods.iter().filter(|pod| pod.bills()).count()
    }

    /// A new process: only what is written down outside of it is left.
    pub(crate) fn forget(&mut self) {
        self.pods_seen = PodsSeen::default();
        self.plan = None;
        self.boot = None;
        self.host = None;
        self.glance = None;
        self.bills.clear();
    }
}
