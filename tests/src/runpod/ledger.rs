//! What really happened, for whoever has to prove that nothing leaked: served on a port of its own, which no key opens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;

use super::{
    faults::{Call, Kind},
    log::Source,
    pod::{EndedBy, Pod, Status},
    world::World,
};

/// Every create, every end, every second billed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The simulator's time.
    pub now: Timestamp,
    /// The counts over all pods.
    #[serde(flatten)]
    pub total: Totals,
    /// The same by installation, where a pod says which it belongs to.
    pub installations: BTreeMap<String, Totals>,
    /// Every pod there ever was, oldest first.
    pub pods: Vec<Entry>,
    /// Faults that were really injected.
    pub faults: BTreeMap<Kind, u64>,
    /// Calls that were answered with more than a refusal of the key.
    pub calls: BTreeMap<Call, u64>,
    /// Logins that were tried at the stranger behind a foreign address: each is a credential sent to the wrong host.
    pub strangers_logins: u64,
}

/// How many pods, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Made.
    pub created: u64,
    /// Ended by whoever made them.
    pub terminated: u64,
    /// Neither ended nor vanished: still costing money.
    pub alive: u64,
    /// Dollars.
    pub billed: Dollars,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The provider's id.
    pub id: String,
    /// The name it was created with.
    pub name: String,
    /// `SRCHAT_INSTALLATION` of its environment.
    pub installation: Option<String>,
    /// `SRCHAT_UID` of its environment.
    pub uid: Option<String>,
    /// Its state.
    pub status: Status,
    /// The GPU's or CPU's id.
    pub compute: String,
    /// Dollars an hour while it runs.
    pub hourly: Dollars,
    /// Dollars so far.
    pub billed: Dollars,
    /// When the create took effect.
    pub rented: Timestamp,
    /// When its status became RUNNING.
    pub running: Option<Timestamp>,
    /// When its container was started first.
    pub booted: Option<Timestamp>,
    /// When its container first wrote a line.
    pub spoke: Option<Timestamp>,
    /// How often its container was started.
    pub starts: u32,
    /// When its end was asked for.
    pub asked_to_end: Option<Timestamp>,
    /// When its end took effect.
    pub terminated: Option<Timestamp>,
    /// Who ended it.
    pub ended_by: Option<EndedBy>,
    /// When its machine was gone with everything in it.
    pub gone: Option<Timestamp>,
}

impl Ledger {
    /// The entry of one pod.
    pub fn pod(&self, id: &str) -> Option<&Entry> {
        self.pods.iter().find(|pod| pod.id == id)
    }
}

pub(super) fn read(world: &mut World, strangers_logins: u64, now: Timestamp) -> Ledger {
    world.refresh(now);
    let World {
        pods,
        faults,
        calls,
        ..
    } = world;
    let mut pods: Vec<Entry> = pods
        .values_mut()
        .map(|pod| {
            let status = pod.status(faults, now);
            entry(pod, status, now)
        })
        .collect();
    pods.sort_by(|a, b| (a.rented, &a.id).cmp(&(b.rented, &b.id)));
    let mut total = Totals::default();
    let mut installations = BTreeMap::<String, Totals>::new();
    for pod in &pods {
        total.add(pod);
        if let Some(installation) = &pod.installation {
            installations
                .entry(installation.clone())
                .or_default()
                .add(pod);
        }
    }
    Ledger {
        now,
        total,
        installations,
        pods,
        faults: faults.injected.clone(),
        calls: calls.clone(),
        strangers_logins,
    }
}

fn entry(pod: &Pod, status: Status, now: Timestamp) -> Entry {
    let (compute, disk) = pod.billed(Timestamp::MIN, now);
    let end = pod.end.filter(|end| end.at <= now);
    let named = |name: &str| pod.request.env.get(name).cloned();
    Entry {
        id: pod.id.clone(),
        name: pod.request.name.clone(),
        installation: named("SRCHAT_INSTALLATION"),
        uid: named("SRCHAT_UID"),
        status,
        compute: pod.request.compute.id().to_owned(),
        hourly: pod.hourly,
        billed: compute + disk,
        rented: pod.created,
        running: Some(pod.first_running).filter(|at| *at <= now),
        booted: pod.first_boot,
        spoke: pod.log.first_of(Source::Container),
        starts: pod.starts,
        asked_to_end: pod.end.map(|end| end.asked),
        terminated: end.map(|end| end.at),
        ended_by: end.map(|end| end.by),
        gone: pod.gone,
    }
}

impl Totals {
    fn add(&mut self, pod: &Entry) {
        let ended_by_its_maker = pod.ended_by.is_some_and(|by| by != EndedBy::Provider);
        self.created += 1;
        self.terminated += u64::from(ended_by_its_maker);
        self.alive += u64::from(pod.terminated.is_none());
        self.billed = self.billed + pod.billed;
    }
}
