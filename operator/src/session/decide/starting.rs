//! From a wanted session to a served model: one pod at a time, and none before everything older is proved closed.

use std::convert::Infallible;
use std::ops::ControlFlow::Break;
use std::time::Duration;

use jiff::Timestamp;

use crate::provider::Address;

use super::super::ledger::{Change, Pin, PodRecord, RefusedWhy, Served, span};
use super::super::observe::{BootSaid, EngineSeen, HostSeen, PlanAnswer, PlanSeen, Trouble, Visit};
use super::{Action, Blocked, Decision, Look, Or, RETRY, Verdict, View, draw, limits};
use crate::host::Medium;

/// An offer's price and stock are believed for so long before a new answer is asked for.
const PLAN_FRESH: Duration = Duration::from_secs(30);
/// After a look at the log that explained nothing, before the next one.
const LOG_AGAIN: Duration = Duration::from_secs(2);
/// Between two lists while the address of a pod whose host has shown itself is not known.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// Between two visits to a host that serves.
const VISIT_EVERY: Duration = Duration::from_secs(300);
/// Between two looks at the log of a host that does not answer: has it been restarted?
const RESTART_EVERY: Duration = Duration::from_secs(30);
/// While somebody has to act first, looked at again in case that nothing tells us of it.
const CALM: Duration = Duration::from_secs(60);

/// The next step towards serving, or the wait until what is left of earlier pods is settled.
pub(super) fn advance(view: &View<'_>, pending: Option<Decision>) -> Or<Infallible> {
    Break(match (view.current(), pending) {
        (Some(record), pending) => with_pod(view, record)
            .by(pending.and_then(|pending| pending.again))
            .by(view.absence_again(record)),
        (None, Some(pending)) => pending,
        (None, None) => rent(view).unwrap_or_else(|waiting| waiting),
    })
}

/// Everything that has to hold before money is spent, in the order of what it costs to find out.
fn rent(view: &View<'_>) -> Result<Decision, Decision> {
    let session = &view.seen.session;
    if session.unreadable.is_some() {
        return Err(Decision::rest(Verdict::Blocked(Blocked::Unreadable)));
    }
    if view.ledger.used() >= session.limits.attempts as usize {
        let reason = super::EndReason::Attempts;
        let change = Change::Ended {
            reason,
            at: view.now(),
        };
        return Ok(Decision::act(Action::Note(change), Verdict::Ended(reason)));
    }
    if let Some(until) = session.unconfirmed_until {
        return Err(view.unconfirmed(until).unwrap_or(Decision::wait(
            view.now() + CALM,
            Verdict::Blocked(Blocked::Unconfirmed),
        )));
    }
    let blocked =
        |blocked, wait: Duration| Decision::wait(view.now() + wait, Verdict::Blocked(blocked));
    if !view.seen.house.bound {
        return Err(blocked(Blocked::ForeignInstallation, CALM));
    }
    let account = view
        .seen
        .house
        .account
        .as_ref()
        .map_err(|why| blocked(Blocked::NoAccount(*why), CALM))?;
    if !view.published().map_err(|taken| blocked(taken, CALM))? {
        return Ok(Decision::act(
            Action::Publish,
            Verdict::Blocked(Blocked::Planning),
        ));
    }
    if let Some(refusal) = &view.ledger.refusal {
        let cured = refusal.why == RefusedWhy::Unauthorized && refusal.account != *account;
        if refusal.again > view.now() && !cured {
            return Err(Decision::wait(
                refusal.again,
                Verdict::Blocked(Blocked::Refused),
            ));
        }
    }
    let proposal = match &view.plan()?.answer {
        PlanAnswer::Fits(proposal) => proposal,
        PlanAnswer::No(no) => {
            let wait = if no.passing {
                view.patience()
            } else {
                Duration::from_secs(600)
            };
            return Err(Decision::wait(
                view.plan_asked() + wait,
                Verdict::Blocked(Blocked::NoPlan(no.clone())),
            ));
        }
    };
    let now = view.now();
    let left = session
        .limits
        .total
        .map(|total| total.less(view.ledger.spent(now)));
    let needed = limits::start_and_end(session, proposal.hourly, proposal.estimate);
    if let Some(left) = left.filter(|left| *left < needed) {
        if view.ledger.run.started.is_none() {
            return Err(blocked(Blocked::Budget { left, needed }, CALM));
        }
        let reason = super::EndReason::Cost;
        return Ok(Decision::act(
            Action::Note(Change::Ended { reason, at: now }),
            Verdict::Ended(reason),
        ));
    }
    // S12, once more and where it counts: whatever the planner thought.
    if proposal.hourly > session.limits.hourly {
        return Err(Decision::look(
            Look::Plan,
            Verdict::Blocked(Blocked::Planning),
        ));
    }
    view.list_now().map_err(|decision| Decision {
        verdict: Verdict::Renting,
        ..decision
    })?;
    let number = view.ledger.next_number();
    Ok(Decision::act(
        Action::Rent {
            proposal: proposal.clone(),
            number,
        },
        Verdict::Renting,
    ))
}

fn with_pod(view: &View<'_>, record: &PodRecord) -> Decision {
    match &record.pin {
        None => boot(view, record),
        Some(pin) => serve(view, record, pin).unwrap_or_else(|waiting| waiting),
    }
}

/// Until the host has shown its identity in its own log.
fn boot(view: &View<'_>, record: &PodRecord) -> Decision {
    let boot = view.seen.boot.as_ref().filter(|boot| boot.pod == record.id);
    if let Some(BootSaid::Host(id, key)) = boot.map(|boot| &boot.said) {
        let pin = Pin {
            at: view.now(),
            boot: id.clone(),
            key: *key,
        };
        return Decision::act(
            Action::Note(Change::Pinned {
                pod: record.id.clone(),
                pin,
            }),
            Verdict::Booting,
        );
    }
    // A log is followed while it is looked at. Often at first; a long boot is a pull or an installation, where seconds do not
    // matter and other pods need the rate limit.
    let age = span(record.created, view.now());
    let every = match boot.map(|boot| &boot.said) {
        Some(BootSaid::Unread(_)) => {
            (age / 10).clamp(Duration::from_secs(1), Duration::from_secs(10))
        }
        Some(BootSaid::Silent | BootSaid::Host(..) | BootSaid::Failed(_)) | None => {
            (age / 60).clamp(Duration::from_millis(100), Duration::from_secs(10))
        }
    };
    match boot
        .map(|boot| boot.at + every)
        .filter(|next| *next > view.now())
    {
        None => Decision::look(
            Look::Log {
                pod: record.id.clone(),
            },
            Verdict::Booting,
        ),
        Some(next) => Decision::wait(next, Verdict::Booting).by(view.deadline_of_start(record)),
    }
}

/// From a pinned host to a served model, and as long as it serves.
fn serve(view: &View<'_>, record: &PodRecord, pin: &Pin) -> Result<Decision, Decision> {
    let verdict = view.standing(record);
    let address = view.seen.address(record);
    let host = view.seen.host.as_ref().filter(|host| host.pod == record.id);
    let due = host.map_or(view.now(), |host| host.at + view.visit_every(record, host));
    let told = view.host_deadline(record) == record.host_deadline;
    // A host that does not answer is not asked more often because there is something to tell it.
    let tell_at = host
        .filter(|host| !told && host.found.is_ok())
        .map(|host| host.at + RETRY);
    let due = tell_at.map_or(due, |tell_at| due.min(tell_at));
    // What was seen before another engine was chosen is about the one that failed.
    let due = if host.is_some_and(|host| view.ledger.outdates(host)) {
        view.now()
    } else {
        due
    };
    let host = match host {
        Some(host) if due > view.now() => host,
        Some(_) | None => {
            // Without an address even in a new list the visit fails, which is what is to be known.
            return Ok(
                match (
                    address,
                    view.list_after(pin.at.max(view.now() - LIST_EVERY)),
                ) {
                    (None, Err(decision)) if decision.look.is_some() => Decision {
                        verdict,
                        ..decision
                    },
                    (Some(_) | None, Ok(_) | Err(_)) => view.visit(record),
                },
            );
        }
    };
    let wait = Decision::wait(due, verdict.clone())
        .by(view.deadline_of_start(record))
        .by(view.next_mark());
    let visit = match &host.found {
        Ok(visit) => visit,
        Err(trouble) => {
            return Err(view
                .log_after_trouble(record, host, trouble)
                .unwrap_or(wait));
        }
    };
    let Visit {
        engine,
        activity: _,
        activity_known: _,
        deadline,
        uploads,
    } = visit;
    let act = |action| Ok(Decision::act(action, verdict.clone()));
    // That a host was once reached has to outlive this process, which may find it silent later on.
    let unknown = record.reached.is_none() && record.served.is_none();
    if unknown || *deadline != record.host_deadline {
        return act(Action::Note(Change::Acknowledged {
            pod: record.id.clone(),
            deadline: *deadline,
            at: host.at,
        }));
    }
    match engine {
        EngineSeen::Absent => act(Action::Deploy {
            pod: record.id.clone(),
        }),
        // The books have sentenced a host whose engine failed.
        EngineSeen::Starting { .. } | EngineSeen::Failed { .. } => Err(wait),
        EngineSeen::Healthy { port } => {
            if record.served.is_none() {
                let (medium, quota) = uploads.unwrap_or((Medium::Disk, 0));
                let served = Served {
                    at: view.now(),
                    medium,
                    quota,
                };
                return act(Action::Note(Change::Served {
                    pod: record.id.clone(),
                    served,
                }));
            }
            if view.published() == Ok(false) {
                return act(Action::Publish);
            }
            match address {
                Some(address) if view.has_moved(pin, address, host) => Ok(view.visit(record)),
                Some(address) if view.door() != Some(&(pin.key, address.clone())) => {
                    act(Action::OpenDoor {
                        pod: record.id.clone(),
                        address: address.clone(),
                        port: *port,
                    })
                }
                Some(_) | None => Err(wait),
            }
        }
    }
}

impl View<'_> {
    /// A plan that is recent, of this generation, and later than the last refusal; or the way to get one.
    fn plan(&self) -> Result<&PlanSeen, Decision> {
        let refused = self.ledger.refusal.as_ref().map(|refusal| refusal.at);
        let left_out = self
            .ledger
            .pods
            .iter()
            .filter_map(|pod| pod.doom.as_ref())
            .map(|doom| doom.at)
            .max();
        let usable = |plan: &&PlanSeen| {
            let patience = match &plan.answer {
                PlanAnswer::Fits(_) => PLAN_FRESH,
                PlanAnswer::No(no) if no.passing => self.patience(),
                PlanAnswer::No(_) => Duration::from_secs(600),
            };
            plan.generation == self.seen.session.generation
                && plan.at + patience > self.now()
                && refused.is_none_or(|refused| plan.at > refused)
                && left_out.is_none_or(|left_out| plan.at > left_out)
        };
        let ask = || Decision::look(Look::Plan, Verdict::Blocked(Blocked::Planning));
        self.seen.plan.as_ref().filter(usable).ok_or_else(ask)
    }

    fn plan_asked(&self) -> Timestamp {
        self.seen.plan.as_ref().map_or(self.now(), |plan| plan.at)
    }

    /// How long to wait before asking again for what the world does not offer: longer, the longer it has not.
    fn patience(&self) -> Duration {
        (span(self.ledger.run.since, self.now()) / 4)
            .clamp(Duration::from_secs(10), Duration::from_secs(300))
    }

    /// A host that is found elsewhere than where the route leads may have been started again, or be another one: nobody is led there
    /// before a visit, later than the list that says so, has found it there. Without this it would serve nobody until the next one.
    fn has_moved(&self, pin: &Pin, address: &Address, host: &HostSeen) -> bool {
        let elsewhere = self
            .door()
            .is_some_and(|(key, leads_to)| *key == pin.key && leads_to != address);
        let list = self.seen.pods.list.as_ref();
        elsewhere && list.is_some_and(|list| host.at <= list.began)
    }

    pub(super) fn reachable(&self, record: &PodRecord) -> bool {
        self.seen.address(record).is_some()
    }

    /// It serves when the last visit said so.
    fn standing(&self, record: &PodRecord) -> Verdict {
        let host = self.seen.host.as_ref().filter(|host| host.pod == record.id);
        match host.map(|host| &host.found) {
            Some(Ok(Visit {
                engine: EngineSeen::Healthy { .. },
                ..
            })) if record.served.is_some() => Verdict::Serving,
            Some(Ok(_) | Err(_)) | None => Verdict::Deploying,
        }
    }

    /// When something is next to be decided about a pod that does not serve yet.
    fn deadline_of_start(&self, record: &PodRecord) -> Option<Timestamp> {
        let deadline = record
            .served
            .is_none()
            .then(|| self.startup_deadline(record))?;
        let draw = draw::due(self, record).filter(|due| *due > self.now());
        Some(draw.map_or(deadline, |draw| draw.min(deadline)))
    }

    /// Often while something moves, seldom when it serves, and with growing patience when it does not answer.
    fn visit_every(&self, record: &PodRecord, host: &HostSeen) -> Duration {
        let between = |past: Duration, part: u32, least: u64, most: u64| {
            (past / part).clamp(Duration::from_millis(least), Duration::from_millis(most))
        };
        match &host.found {
            Ok(Visit {
                engine: EngineSeen::Healthy { .. },
                ..
            }) => VISIT_EVERY,
            Ok(_) => {
                let since = record.pin.as_ref().map_or(record.created, |pin| pin.at);
                between(span(since, self.now()), 20, 500, 5_000)
            }
            Err(_) => between(span(host.silent_since, self.now()), 10, 1_000, 30_000),
        }
    }

    /// A host that does not answer, or answers with another key, may have been restarted: its log tells.
    fn log_after_trouble(
        &self,
        record: &PodRecord,
        host: &HostSeen,
        trouble: &Trouble,
    ) -> Option<Decision> {
        let boot = self.seen.boot.as_ref().filter(|boot| boot.pod == record.id);
        let due = match trouble {
            Trouble::WrongKey => {
                boot.is_none_or(|boot| boot.at <= host.at || boot.at + LOG_AGAIN <= self.now())
            }
            Trouble::Unreachable(_) => {
                boot.is_none_or(|boot| boot.at + RESTART_EVERY <= self.now())
            }
        };
        due.then(|| {
            Decision::look(
                Look::Log {
                    pod: record.id.clone(),
                },
                Verdict::Deploying,
            )
        })
    }

    /// What becomes of a session whose plan has to be confirmed.
    pub(super) fn unconfirmed(&self, until: Timestamp) -> Option<Decision> {
        if self.ledger.tried() {
            return None;
        }
        Some(if self.now() >= until {
            Decision::act(Action::Discard, Verdict::Blocked(Blocked::Unconfirmed))
        } else {
            Decision::wait(until, Verdict::Blocked(Blocked::Unconfirmed))
        })
    }

    /// What a session that rents nothing would rent: asked once a generation, and again while the Hub could not say.
    pub(super) fn preview(&self) -> Option<Decision> {
        if self.seen.session.unreadable.is_some() {
            return None;
        }
        let answer = self
            .seen
            .plan
            .as_ref()
            .filter(|plan| plan.generation == self.seen.session.generation);
        match answer {
            None => Some(Decision::look(Look::Plan, Verdict::Paused)),
            Some(PlanSeen {
                at,
                answer: PlanAnswer::No(no),
                ..
            }) if no.passing => {
                let next = *at + self.patience();
                Some(if next <= self.now() {
                    Decision::look(Look::Plan, Verdict::Paused)
                } else {
                    Decision::wait(next, Verdict::Paused)
                })
            }
            Some(PlanSeen {
                answer: PlanAnswer::Fits(_) | PlanAnswer::No(_),
                ..
            }) => None,
        }
    }
}
