//! A modelled world for `decide`: a provider, hosts and an API server as values, in virtual time. Decisions are applied to it one by
//! one, and whatever may never happen is asserted on the way.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;
use srchat_crds::session::Quantization;

use super::super::ledger::{
    Attempt, Change, Ledger, Outcome, Owner, PodRecord, Refusal, RefusedWhy, SEND_WINDOW, Wipe,
    WipeResult, span,
};
use super::super::observe::{
    BillSeen, BootSaid, BootSeen, Door, EngineSeen, FailedAt, Found, Gap, Glance, HostSeen, House,
    LedgerSeen, Limits, List, NoAccount, Observation, PlanAnswer, PlanSeen, PodsSeen, Proposal,
    Published, RouteSeen, SeenPod, Session, Trouble, Unread, UnreadWhy, Visit,
};
use super::{Action, Bill, Decision, Expiry, Look, Verdict, decide};
use crate::host::{BootId, Medium, Stage};
use crate::plan::{Fallback, Memory, OfferKey, Plan};
use crate::provider::{Address, Billed, Cloud, Fingerprint, PodId, PodStatus};
use crate::route::{Abilities, Engine};
use crate::session::ledger::Keys;
use crate::ssh::{HostKey, KeyPair};

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

pub(crate) fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

pub(crate) fn pod_id(n: u32) -> PodId {
    format!("pod{n}").parse().unwrap()
}

pub(crate) fn boot_id(n: u32) -> BootId {
    format!("{n:032x}").parse().unwrap()
}

/// Made once: keys cost time, and nothing depends on which they are.
pub(crate) fn keys() -> Keys {
    static KEYS: std::sync::OnceLock<Keys> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| Keys {
        controller: KeyPair::generate().unwrap(),
        gateway: KeyPair::generate().unwrap(),
    })
    .clone()
}

pub(crate) fn host_key(n: u32) -> HostKey {
    static KEYS: std::sync::OnceLock<Vec<HostKey>> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        (0..16)
            .map(|_| KeyPair::generate().unwrap().public())
            .collect()
    })[n as usize % 16]
}

pub(crate) fn account() -> Fingerprint {
    Fingerprint("00000000aaaaaaaa".to_owned())
}

pub(crate) fn offer() -> OfferKey {
    OfferKey {
        gpu: "NVIDIA L4".to_owned(),
        cloud: Cloud::Secure,
    }
}

/// vLLM on the one card there is, with transformers in reserve.
pub(crate) fn plan() -> Plan {
    let abilities = Abilities {
        chat: true,
        ..Abilities::default()
    };
    Plan {
        model: "acme/tiny".to_owned(),
        revision: "0".repeat(40),
        engine: Engine::Vllm,
        quantization: Quantization::None,
        quantize_online: false,
        vision: false,
        abilities,
        context_length: 4096,
        slots: 1,
        memory: Memory {
            weights: 1,
            kv_per_token: 1,
            kv: 1,
            overhead: 1,
            per_gpu: 1,
            required: 1,
        },
        gpu: offer().gpu,
        gpu_name: "L4".to_owned(),
        gpu_count: 1,
        cloud: offer().cloud,
        data_centers: Vec::new(),
        hourly_cost: Dollars::cents(49),
        disk_gb: 50,
        image: "vllm/vllm-openai:v1".to_owned(),
        min_cuda: None,
        files: Vec::new(),
        gguf: None,
        trust_remote_code: false,
        extra_args: Vec::new(),
        fallback: Some(Fallback {
            engine: Engine::Transformers,
            quantization: Quantization::None,
            quantize_online: false,
            vision: false,
            abilities,
        }),
        startup_seconds: 60,
        rejected: Vec::new(),
    }
}

pub(crate) fn session() -> Session {
    Session {
        uid: "u".to_owned(),
        namespace: "team".to_owned(),
        name: "chat".to_owned(),
        generation: 1,
        created: start(),
        deleting: false,
        finalizer: false,
        unreadable: None,
        replicas: 1,
        limits: Limits {
            hourly: Dollars::whole(1),
            total: None,
            lifetime: Duration::from_secs(4 * 3600),
            idle: None,
            startup: None,
            attempts: 3,
        },
        wipe_timeout: Duration::from_secs(60),
        abandon: None,
        unconfirmed_until: None,
    }
}

pub(crate) fn ledger() -> Ledger {
    let owner = Owner {
        uid: "u".to_owned(),
        namespace: "team".to_owned(),
        name: "chat".to_owned(),
    };
    Ledger::new(owner, "inst", keys(), start())
}

pub(crate) fn attempt(number: u64, intent: Timestamp, outcome: Outcome) -> Attempt {
    Attempt {
        number,
        run: 1,
        name: format!("srchat-inst-u-{number}"),
        offer: Some(offer()),
        hourly: Dollars::cents(49),
        intent,
        deadline: intent + SEND_WINDOW,
        account: account(),
        estimate: Duration::from_secs(60),
        host_deadline: intent + Duration::from_secs(4 * 3600),
        outcome,
    }
}

pub(crate) fn record(n: u32, attempt: u64, created: Timestamp) -> PodRecord {
    PodRecord {
        id: pod_id(n),
        attempt,
        run: 1,
        created,
        hourly: Dollars::cents(49),
        data_center: None,
        pin: None,
        served: None,
        host_deadline: created + Duration::from_secs(4 * 3600),
        accounts: BTreeSet::from([account()]),
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

pub(crate) fn real(n: u32, attempt: u64, created: Timestamp, status: PodStatus) -> Real {
    let dead = matches!(status, PodStatus::Terminated | PodStatus::Exited);
    Real {
        id: pod_id(n),
        attempt,
        status,
        created,
        cost: if dead {
            Dollars::ZERO
        } else {
            Dollars::cents(49)
        },
        boot: boot_id(n),
        key: host_key(n),
        port: 22,
        deployed: None,
        cleared: false,
        deadline: created + Duration::from_secs(4 * 3600),
        vanishes: None,
    }
}

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
            published: false,
            route: RouteSeen::Missing,
            receipt: false,
            gap: None,
            account: account(),
            last_use: None,
            mute: false,
            broken: Broken::None,
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
                published: if self.published {
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
        assert!(self.history.len() < 20_000, "goes on for ever");
        let mut looks = 0;
        loop {
            let decision = decide(&self.observation());
            self.now += TICK;
            if let Some(look) = &decision.look {
                assert!(decision.action.is_none(), "a look and an action at once");
                looks += 1;
                assert!(looks < 20, "looks for ever: {look:?}\n{}", self.story());
                self.history.push((self.now, Step::Look(look.clone())));
                self.look(look.clone());
                continue;
            }
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
            return decision;
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

    fn fails(&mut self) -> Option<Unread> {
        self.outage = self.outage.checked_sub(1)?;
        let again = self.now + Duration::from_secs(5);
        Some(Unread {
            at: self.now,
            why: UnreadWhy::Unavailable,
            detail: "down".to_owned(),
            again,
        })
    }

    fn settle_provider(&mut self) {
        let now = self.now;
        for pod in &mut self.pods {
            if pod.vanishes.is_some() {
                pod.status = PodStatus::Terminated;
                pod.cost = Dollars::ZERO;
            }
            if pod.status == PodStatus::Provisioning && now >= pod.created + Duration::from_secs(3)
            {
                pod.status = PodStatus::Running;
            }
        }
        self.pods
            .retain(|pod| pod.vanishes.is_none_or(|at| at > now));
    }

    fn look(&mut self, look: Look) {
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
                let answer = PlanAnswer::Fits(Box::new(proposal));
                self.plan = Some(PlanSeen {
                    at: self.now,
                    generation: self.session.generation,
                    answer,
                });
            }
            Look::Log { pod } => {
                let said = match self.pods.iter().find(|real| real.id == pod) {
                    Some(real) if real.status == PodStatus::Running => {
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

    fn list(&self) -> List {
        let seen = |real: &Real| SeenPod {
            id: real.id.clone(),
            attempt: Some(real.attempt),
            status: real.status,
            created: Some(real.created),
            cost: Some(real.cost),
            address: (real.status == PodStatus::Running).then(|| Address {
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

    fn visit(&mut self, pod: &PodId, deadline: Timestamp) {
        let pin = self
            .ledger
            .as_ref()
            .unwrap()
            .pod(pod)
            .unwrap()
            .pin
            .clone()
            .expect("visited only when pinned");
        let now = self.now;
        let used = self.last_use.unwrap_or(now);
        let (broken, planned) = (self.broken, self.engine());
        let found = match self
            .pods
            .iter_mut()
            .find(|real| real.id == *pod && real.status == PodStatus::Running && !self.mute)
        {
            None => Err(Trouble::Unreachable("gone".to_owned())),
            Some(real) if real.key != pin.key => Err(Trouble::WrongKey),
            Some(real) => {
                real.deadline = deadline;
                let starts = |engine| match broken {
                    Broken::None => true,
                    Broken::Vllm => engine != Engine::Vllm,
                    Broken::All => false,
                };
                let engine = match real.deployed {
                    None => EngineSeen::Absent,
                    Some((_, engine)) if !starts(engine) && engine != planned => EngineSeen::Absent,
                    Some((at, engine)) if !starts(engine) && now >= at + Duration::from_secs(5) => {
                        EngineSeen::Failed {
                            at: FailedAt::Starting,
                            said: "no kernel image is available".to_owned(),
                        }
                    }
                    Some((at, _)) if now < at + Duration::from_secs(10) => EngineSeen::Starting {
                        stage: Stage::Loading,
                        percent: None,
                        message: String::new(),
                    },
                    Some(_) => EngineSeen::Healthy { port: 8000 },
                };
                Ok(Visit {
                    engine,
                    activity: Some(used),
                    activity_known: true,
                    deadline,
                    uploads: Some((Medium::Memory, 1 << 30)),
                })
            }
        };
        let before = self.host.take().filter(|host| host.pod == *pod);
        let (last, silent_since) = match &found {
            Ok(visit) => (Some((now, visit.clone())), now),
            Err(_) => before.map_or((None, now), |before| (before.last, before.silent_since)),
        };
        self.host = Some(HostSeen {
            pod: pod.clone(),
            at: now,
            found,
            last,
            silent_since,
        });
    }

    fn act(&mut self, action: Action) {
        self.settle_provider();
        match action {
            Action::Open { adrift, latch } => {
                assert!(self.ledger.is_none());
                let mut ledger = ledger();
                ledger.made = self.now;
                ledger.open(self.now, adrift.then(|| self.account.clone()), latch);
                self.ledger = Some(ledger);
            }
            Action::Guard => self.session.finalizer = true,
            Action::Note(change) => {
                let ledger = self.ledger.as_mut().unwrap();
                let before = ledger.clone();
                ledger.apply(change.clone());
                assert_ne!(
                    before, *ledger,
                    "a note that changes nothing would be written for ever: {change:?}"
                );
                let once = ledger.clone();
                ledger.apply(change.clone());
                assert_eq!(
                    once, *ledger,
                    "a note applied twice is not a note applied once: {change:?}"
                );
            }
            Action::Publish => {
                self.published = true;
                let host = match &self.route {
                    RouteSeen::Missing => None,
                    RouteSeen::Is { token: _, host } => host.clone(),
                };
                self.route = RouteSeen::Is {
                    token: Some("hash".to_owned()),
                    host,
                };
            }
            Action::Rent { proposal, number } => self.rent(&proposal, number),
            Action::Deploy { pod } => {
                let deploy = (self.now, self.engine());
                if let Some(real) = self.pods.iter_mut().find(|real| real.id == pod) {
                    // The same once more changes nothing; another one ends the first.
                    match real.deployed {
                        Some((_, engine)) if engine == deploy.1 => {}
                        Some(_) | None => real.deployed = Some(deploy),
                    }
                }
                self.host = None;
            }
            Action::OpenDoor {
                pod,
                address,
                port: _,
            } => {
                let ledger = self.ledger.as_ref().unwrap();
                let record = ledger.pod(&pod).unwrap();
                assert_eq!(
                    ledger.current(),
                    Some(record),
                    "S3: the door leads to the current pod only"
                );
                let pin = record
                    .pin
                    .as_ref()
                    .expect("S9: nothing leads to a host without a pin");
                self.route = RouteSeen::Is {
                    token: Some("hash".to_owned()),
                    host: Some((pin.key, address)),
                };
            }
            Action::CloseDoor => {
                if let RouteSeen::Is { token: _, host } = &mut self.route {
                    *host = None;
                }
            }
            Action::DropRoute => self.route = RouteSeen::Missing,
            Action::Clear { pod, until } => self.clear(&pod, until),
            Action::Terminate { pod } => self.terminate(&pod),
            Action::Receipt => {
                self.receipt = true;
                self.ledger
                    .as_mut()
                    .unwrap()
                    .apply(Change::Receipted { at: self.now });
            }
            Action::Release => {
                let ledger = self.ledger.as_ref().unwrap();
                assert!(
                    ledger.settled(),
                    "S6: released with something open\n{}",
                    self.story()
                );
                assert_eq!(
                    self.billing(),
                    0,
                    "S6: released while a pod bills\n{}",
                    self.story()
                );
                assert!(
                    !ledger.tried() || self.receipt,
                    "S6: released without a receipt"
                );
                assert_eq!(
                    self.route,
                    RouteSeen::Missing,
                    "S6: released with an open endpoint"
                );
                self.session.finalizer = false;
                self.exists = false;
                self.ledger = None;
            }
            Action::Discard => self.session.deleting = true,
        }
    }

    fn rent(&mut self, proposal: &Proposal, number: u64) {
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
            let pod = real(self.serial, number, self.now, PodStatus::Provisioning);
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
                    why: RefusedWhy::NoCapacity,
                    detail: "none".to_owned(),
                    again: self.now,
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

    fn clear(&mut self, pod: &PodId, until: Timestamp) {
        assert!(self.now <= until + TICK, "S8: clears beyond its time");
        let pin = self
            .ledger
            .as_ref()
            .unwrap()
            .pod(pod)
            .unwrap()
            .pin
            .clone()
            .expect("cleared only when pinned");
        let there = self
            .pods
            .iter_mut()
            .find(|real| real.id == *pod && real.status == PodStatus::Running && !self.mute);
        let trouble = match there {
            Some(real) if real.key == pin.key => {
                real.cleared = true;
                let wipe = Wipe {
                    at: self.now,
                    result: WipeResult::Cleared,
                    detail: String::new(),
                };
                self.ledger.as_mut().unwrap().apply(Change::Wiped {
                    pod: pod.clone(),
                    wipe,
                });
                return;
            }
            Some(_) => Trouble::WrongKey,
            None => Trouble::Unreachable("gone".to_owned()),
        };
        let at = self.now;
        self.host = Some(HostSeen {
            pod: pod.clone(),
            at,
            found: Err(trouble),
            last: None,
            silent_since: at,
        });
    }

    fn terminate(&mut self, pod: &PodId) {
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
}

impl World {
    /// What the planner says now: transformers once vLLM has failed in this run.
    fn planned(&self) -> Plan {
        let fell_back = |ledger: &Ledger| ledger.run.fallback.is_some();
        let plan = plan();
        match plan.instead() {
            Some(instead) if self.ledger.as_ref().is_some_and(fell_back) => instead,
            Some(_) | None => plan,
        }
    }

    /// Nothing until bills are out, and then what the pod's time comes to.
    fn billed(&self, since: Timestamp) -> Billed {
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

    /// The engine of the plan in force.
    fn engine(&self) -> Engine {
        let plan = self.ledger.as_ref().and_then(|ledger| ledger.plan.as_ref());
        plan.map_or(Engine::Vllm, |plan| plan.engine)
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
