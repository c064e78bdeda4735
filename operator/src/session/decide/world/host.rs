//! The hosts of a modelled world: visits, engines, clearing.

use std::time::Duration;

use jiff::Timestamp;

use super::{Broken, TICK, World};
use crate::host::Medium;
use crate::provider::PodId;
use crate::route::Engine;
use crate::session::ledger::{Change, Wipe, WipeResult};
use crate::session::observe::{EngineSeen, HostSeen, Trouble, Visit};

impl World {
    pub(super) fn visit(&mut self, pod: &PodId, deadline: Timestamp) {
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
        let (broken, broken_at, planned) = (self.broken, self.broken_at, self.engine());
        let stage = self.stage;
        let found = match self
            .pods
            .iter_mut()
            .find(|real| real.id == *pod && real.has_address() && !self.mute)
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
                            at: broken_at,
                            said: "no kernel image is available".to_owned(),
                        }
                    }
                    Some((at, _)) if now < at + Duration::from_secs(10) => EngineSeen::Starting {
                        stage,
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

    pub(super) fn clear(&mut self, pod: &PodId, until: Timestamp) {
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
            .find(|real| real.id == *pod && real.has_address() && !self.mute);
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

    /// The engine of the plan in force.
    pub(super) fn engine(&self) -> Engine {
        let plan = self.ledger.as_ref().and_then(|ledger| ledger.plan.as_ref());
        plan.map_or(Engine::Vllm, |plan| plan.engine)
    }
}
