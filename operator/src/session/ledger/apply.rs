//! What each change does to a ledger.

use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use super::{
    Attempt, Change, Doom, EndReason, Ended, Fingerprint, Gone, GoneHow, Ledger, LeftOut, Outcome,
    PROOF_INTERVAL, Plan, PodId, PodRecord, Run, Why, pod_name,
};

impl Ledger {
    /// Applies a change. What is already so stays so, and what a change is about but is not there is ignored.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Replicas { replicas, at } => self.replicas_seen(replicas, at),
            Change::Gap { until, latch, at } => {
                self.gap = Some(until);
                if latch {
                    self.end_run(EndReason::NeedsConfirmation, at);
                }
            }
            Change::Intend { attempt, plan } => {
                self.left_out.retain(|left| left.until > attempt.intent);
                self.plan = plan.map(|plan| *plan).or_else(|| self.plan.take());
                self.attempts.push(*attempt);
            }
            Change::Refused {
                number,
                refusal,
                left_out,
            } => {
                if self.fold(number) {
                    self.folded.refused += 1;
                }
                self.refusal = Some(refusal);
                self.leave_out(left_out);
            }
            Change::Rented { pod } => self.rented(*pod),
            Change::Missed { number, began } => self.missed(number, began),
            Change::Waived { number } => {
                if self.fold(number) {
                    self.folded.absent += 1;
                }
            }
            Change::Found { pod } => {
                if self.pod(&pod.id).is_none() {
                    self.pods.push(*pod);
                }
            }
            Change::Account { pod, account } => self.on(&pod, |pod| {
                pod.accounts.insert(account);
            }),
            Change::Pinned { pod, pin } => self.on(&pod, |pod| {
                pod.pin.get_or_insert(pin);
            }),
            Change::Served { pod, served } => self.on(&pod, |pod| {
                pod.served.get_or_insert(served);
            }),
            Change::FellBack { fallback } => {
                if let Some(plan) = self.plan.as_ref().and_then(Plan::instead) {
                    self.plan = Some(plan);
                    self.run.fallback = Some(fallback);
                }
            }
            Change::Acknowledged { pod, deadline, at } => self.on(&pod, |pod| {
                pod.reached.get_or_insert(at);
                pod.host_deadline = deadline;
            }),
            Change::Missing { pod, since } => self.on(&pod, |pod| pod.missing = since),
            Change::Doomed {
                pod,
                doom,
                left_out,
            } => {
                self.on(&pod, |pod| {
                    pod.doom.get_or_insert(doom);
                });
                self.leave_out(left_out);
            }
            Change::Wiped { pod, wipe } => self.on(&pod, |pod| {
                pod.wipe.get_or_insert(wipe);
            }),
            Change::Deleted { pod, at } => self.on(&pod, |pod| {
                pod.deleted.get_or_insert(at);
                pod.deleted_last = Some(at);
            }),
            Change::Proved { pod, began, at } => self.on(&pod, |pod| pod.proved(began, at)),
            Change::Billed { pod, bill } => self.on(&pod, |pod| pod.bill = Some(bill)),
            Change::Alive { pod } => self.on(&pod, |pod| {
                pod.proofs.clear();
                pod.gone = None;
            }),
            Change::Abandoned { pod, at } => self.on(&pod, |pod| {
                pod.gone.get_or_insert(Gone {
                    at,
                    how: GoneHow::Abandoned,
                });
            }),
            Change::Ended { reason, at } => self.end_run(reason, at),
            Change::Receipted { at } => self.receipted = Some(at),
        }
    }

    /// The first entry of a new ledger. With an account, the session has our finalizer already: whatever a lost ledger may have
    /// done counts as one open attempt whose deadline is now, numbered by the Unix time so that no number is used twice. With
    /// `latch`, the run is over before it began (S14).
    pub fn open(&mut self, now: Timestamp, adrift: Option<Fingerprint>, latch: Option<Timestamp>) {
        if let Some(account) = adrift {
            let number = u64::try_from(now.as_second()).unwrap_or_default();
            self.attempts.push(Attempt {
                number,
                run: 0,
                name: pod_name(&self.installation, &self.session.uid, number),
                offer: None,
                hourly: Dollars::ZERO,
                intent: now,
                deadline: now,
                account,
                estimate: Duration::ZERO,
                host_deadline: now,
                outcome: Outcome::Open { misses: Vec::new() },
            });
        }
        if let Some(until) = latch {
            self.run = Run {
                number: 1,
                replicas: 1,
                since: now,
                started: None,
                ended: None,
                fallback: None,
            };
            self.gap = Some(until);
            self.end_run(EndReason::NeedsConfirmation, now);
        }
    }

    fn on(&mut self, id: &PodId, change: impl FnOnce(&mut PodRecord)) {
        if let Some(pod) = self.pods.iter_mut().find(|pod| pod.id == *id) {
            change(pod);
        }
    }

    fn replicas_seen(&mut self, replicas: u8, at: Timestamp) {
        if replicas == self.run.replicas {
            return;
        }
        if replicas == 0 {
            self.run.replicas = 0;
            self.run.since = at;
            self.doom_all(Why::Paused, at);
        } else {
            self.run = Run {
                number: self.run.number + 1,
                replicas,
                since: at,
                started: None,
                ended: None,
                fallback: None,
            };
            self.refusal = None;
        }
    }

    fn end_run(&mut self, reason: EndReason, at: Timestamp) {
        self.run.ended.get_or_insert(Ended { at, reason });
        self.doom_all(Why::Limit(reason), at);
    }

    fn doom_all(&mut self, why: Why, at: Timestamp) {
        for pod in self.pods.iter_mut().filter(|pod| pod.live()) {
            pod.doom = Some(Doom {
                at,
                why,
                detail: String::new(),
            });
        }
    }

    fn rented(&mut self, pod: PodRecord) {
        let Some(attempt) = self
            .attempts
            .iter_mut()
            .find(|attempt| attempt.number == pod.attempt)
        else {
            return;
        };
        if !attempt.open() {
            return;
        }
        attempt.outcome = Outcome::Pod(pod.id.clone());
        if attempt.run == self.run.number {
            self.run.started.get_or_insert(attempt.intent);
        }
        self.refusal = None;
        // It may have been found as a stray before its own attempt was looked at; then its sentence stands.
        if self.pod(&pod.id).is_none() {
            self.pods.push(pod);
        }
    }

    fn missed(&mut self, number: u64, began: Timestamp) {
        let Some(attempt) = self
            .attempts
            .iter_mut()
            .find(|attempt| attempt.number == number)
        else {
            return;
        };
        let from = attempt.quiet_from();
        let Outcome::Open { misses } = &mut attempt.outcome else {
            return;
        };
        if began > from
            && misses
                .last()
                .is_none_or(|last| began >= *last + PROOF_INTERVAL)
        {
            misses.push(began);
        }
        if misses.len() >= 2 && self.fold(number) {
            self.folded.absent += 1;
        }
    }

    fn leave_out(&mut self, left_out: Option<LeftOut>) {
        let Some(left_out) = left_out else {
            return;
        };
        match self
            .left_out
            .iter_mut()
            .find(|other| other.offer == left_out.offer)
        {
            Some(other) => other.until = other.until.max(left_out.until),
            None => self.left_out.push(left_out),
        }
    }

    /// Removes an open attempt, keeping its number.
    fn fold(&mut self, number: u64) -> bool {
        let Some(index) = self
            .attempts
            .iter()
            .position(|attempt| attempt.number == number && attempt.open())
        else {
            return false;
        };
        self.attempts.remove(index);
        self.folded.highest = self.folded.highest.max(number);
        true
    }
}

impl PodRecord {
    fn proved(&mut self, began: Timestamp, at: Timestamp) {
        if self.deleted.is_none_or(|deleted| began <= deleted) {
            return;
        }
        if self
            .proofs
            .last()
            .is_none_or(|last| began >= *last + PROOF_INTERVAL)
        {
            self.proofs.push(began);
        }
        if self.proofs.len() >= 2 {
            self.gone.get_or_insert(Gone {
                at,
                how: GoneHow::Proved,
            });
        }
    }
}
