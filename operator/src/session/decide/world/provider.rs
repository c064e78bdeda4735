//! The provider of a modelled world: lists, logs, creates, ends, bills, and what it gets wrong.

use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use super::super::{Bill, Expiry, Look};
use super::fixtures::{attempt, offer, plan, real, record};
use super::{Create, Draw, Real, World};
use crate::plan::Plan;
use crate::provider::{Address, Billed, PodId, PodStatus};
use crate::session::ledger::{Change, Ledger, Outcome, Refusal, RefusedWhy, span};
use crate::session::observe::{
    BillSeen, BootSaid, BootSeen, Found, Glance, List, NoPlan, PlanAnswer, PlanSeen, PodsSeen,
    Proposal, SeenPod, Unread, UnreadWhy,
};

impl World {
    pub(super) fn fails(&mut self) -> Option<Unread> {
        self.outage = self.outage.checked_sub(1)?;
        let again = self.now + Duration::from_secs(5);
        Some(Unread {
            at: self.now,
            why: UnreadWhy::Unavailable,
            detail: "down".to_owned(),
            again,
        })
    }

    pub(super) fn settle_provider(&mut self) {
        let now = self.now;
        for pod in &mut self.pods {
            if pod.vanishes.is_some() {
                pod.status = PodStatus::Terminated;
                pod.cost = Dollars::ZERO;
            }
            let placed = pod.draw != Draw::Stuck && now >= pod.created + Duration::from_secs(3);
            if pod.status == PodStatus::Provisioning && placed {
                pod.status = PodStatus::Running;
            }
        }
        self.pods
            .retain(|pod| pod.vanishes.is_none_or(|at| at > now));
    }

    pub(super) fn look(&mut self, look: Look) {
        self.settle_provider();
        match look {
            Look::List { after } => {
                assert!(self.now > after, "a list cannot begin in the future");
                match self.fails() {
                    Some(unread) => self.pods_seen.failed = Some(unread),
                    None => {
                        self.pods_seen = PodsSeen {
                            list: Some(self.list()),
                            failed: None,
                        }
                    }
                }
            }
            Look::Plan => {
                let proposal = Proposal {
                    offer: offer(),
                    hourly: Dollars::cents(49),
                    estimate: Duration::from_secs(60),
                    plan: Some(Box::new(self.planned())),
                };
                let answer = match self.no_plan {
                    None => PlanAnswer::Fits(Box::new(proposal)),
                    Some(reason) => PlanAnswer::No(NoPlan {
                        reason,
                        message: "no".to_owned(),
                        passing: true,
                    }),
                };
                self.plan = Some(PlanSeen {
                    at: self.now,
                    generation: self.session.generation,
                    answer,
                });
            }
            Look::Log { pod } => {
                let said = match self.pods.iter().find(|real| real.id == pod) {
                    Some(_) if self.boots_fail => BootSaid::Failed("sshd".to_owned()),
                    Some(real)
                        if real.status == PodStatus::Running && real.draw != Draw::Speechless =>
                    {
                        BootSaid::Host(real.boot.clone(), real.key)
                    }
                    Some(_) | None => BootSaid::Silent,
                };
                self.boot = Some(BootSeen {
                    pod,
                    at: self.now,
                    said,
                });
            }
            Look::Visit { pod, deadline } => self.visit(&pod, deadline),
            Look::Bill { pod, since } => {
                let found = match self.fails() {
                    Some(unread) => Err(unread),
                    None => Ok(self.billed(since)),
                };
                let at = self.now;
                self.bills.insert(pod, BillSeen { at, found });
            }
            Look::Glance { pod } => {
                let found = match self.fails() {
                    Some(unread) => Err(unread),
                    None => Ok(match self.pods.iter().find(|real| real.id == pod) {
                        None => Found::Nothing,
                        Some(real) if real.bills() => Found::Alive,
                        Some(_) => Found::Ended,
                    }),
                };
                self.glance = Some(Glance {
                    pod,
                    began: self.now,
                    account: self.account.clone(),
                    found,
                });
            }
        }
    }

    pub(super) fn list(&self) -> List {
        let seen = |real: &Real| SeenPod {
            id: real.id.clone(),
            attempt: Some(real.attempt),
            status: real.status,
            created: Some(real.created),
            cost: Some(real.cost),
            address: real.has_address().then(|| Address {
                host: "192.0.2.1".to_owned(),
                port: real.port,
            }),
            data_center: None,
        };
        List {
            began: self.now,
            account: self.account.clone(),
            pods: self.pods.iter().map(seen).collect(),
        }
    }

    pub(super) fn rent(&mut self, proposal: &Proposal, number: u64) {
        let now = self.now;
        let lines = || self.story();
        assert_eq!(self.billing(), 0, "rents while a pod bills\n{}", lines());
        assert!(self.session.finalizer, "S1: rents without a finalizer");
        assert!(
            !self.session.deleting && self.session.replicas == 1,
            "rents what nobody wants\n{}",
            lines()
        );
        let session = self.session.clone();
        let ledger = self.ledger.as_mut().unwrap();
        let bill = Bill {
            pod: None,
            started: ledger.run.started.unwrap_or(now),
            created: now,
            hourly: proposal.hourly,
            now,
        };
        let host_deadline = Expiry::of(&session, ledger, bill).time;
        assert!(
            ledger.settled() && ledger.run.ended.is_none(),
            "rents with something open, or after the end"
        );
        assert!(
            ledger.used() < self.session.limits.attempts as usize,
            "rents more often than allowed"
        );
        let mut intent = attempt(number, self.now, Outcome::Open { misses: Vec::new() });
        intent.run = ledger.run.number;
        intent.host_deadline = host_deadline;
        intent.hourly = proposal.hourly;
        ledger.apply(Change::Intend {
            attempt: Box::new(intent),
            plan: proposal.plan.clone(),
        });
        let how = std::mem::replace(&mut self.create, Create::Answers);
        let made = match how {
            Create::Answers | Create::MadeAndLost => 1,
            Create::Twice => 2,
            Create::Lost | Create::Refuses => 0,
        };
        let mut answered = None;
        for _ in 0..made {
            self.serial += 1;
            self.created += 1;
            let mut pod = real(self.serial, number, self.now, PodStatus::Provisioning);
            pod.draw = self.draws.pop().unwrap_or(Draw::Good);
            answered.get_or_insert(pod.id.clone());
            self.pods.push(pod);
        }
        match (how, answered) {
            (Create::Answers | Create::Twice, Some(id)) => {
                let mut pod = record(self.serial, number, self.now);
                pod.id = id;
                pod.run = ledger.run.number;
                pod.host_deadline = host_deadline;
                ledger.apply(Change::Rented { pod: Box::new(pod) });
            }
            (Create::Refuses, _) => {
                let refusal = Refusal {
                    at: self.now,
                    why: self.refused,
                    detail: "none".to_owned(),
                    again: match self.refused {
                        RefusedWhy::NoCapacity => self.now,
                        _ => self.now + Duration::from_secs(300),
                    },
                    account: self.account.clone(),
                };
                ledger.apply(Change::Refused {
                    number,
                    refusal,
                    left_out: None,
                });
            }
            (Create::Answers | Create::Twice | Create::MadeAndLost | Create::Lost, _) => {}
        }
    }

    pub(super) fn terminate(&mut self, pod: &PodId) {
        let now = self.now;
        let ledger = self.ledger.as_mut().unwrap();
        assert!(
            ledger.pod(pod).unwrap().wipe.is_some(),
            "S8: terminated before its data was spoken of"
        );
        assert!(
            ledger.pod(pod).unwrap().doom.is_some(),
            "terminated without a sentence"
        );
        ledger.apply(Change::Deleted {
            pod: pod.clone(),
            at: now,
        });
        if self.deaf > 0 {
            self.deaf -= 1;
            return;
        }
        if let Some(real) = self.pods.iter_mut().find(|real| real.id == *pod) {
            real.status = PodStatus::Terminated;
            real.cost = Dollars::ZERO;
            real.vanishes.get_or_insert(now + Duration::from_secs(4));
        }
    }

    /// What the planner says now: transformers once vLLM has failed in this run.
    pub(super) fn planned(&self) -> Plan {
        let fell_back = |ledger: &Ledger| ledger.run.fallback.is_some();
        let plan = plan();
        match plan.instead() {
            Some(instead) if self.ledger.as_ref().is_some_and(fell_back) => instead,
            Some(_) | None => plan,
        }
    }

    /// Nothing until bills are out, and then what the pod's time comes to.
    pub(super) fn billed(&self, since: Timestamp) -> Billed {
        if self.bills_from.is_some_and(|from| self.now < from) {
            return Billed {
                total: Dollars::ZERO,
                until: None,
            };
        }
        Billed {
            total: Dollars::cents(49).for_hours_of(span(since, self.now)),
            until: Some(self.now + Duration::from_secs(600)),
        }
    }
}
