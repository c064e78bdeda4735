//! One pod: what it is at any moment follows from its timeline, its container and the faults that strike it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use srchat_crds::Dollars;

use super::{
    faults::{Fault, Faults, Kind, Of, Turn},
    log::Log,
    request::{Compute, Request},
};

/// How long the stages of a pod's start take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// PROVISIONING: finding a machine.
    pub place: Duration,
    /// STARTING, after which it is RUNNING, whatever else is going on.
    pub start: Duration,
    /// Pulling a tenth of a GB of image, while RUNNING.
    pub pull: Duration,
    /// The same from a machine's cache.
    pub pull_cached: Duration,
    /// From the container's start until its ports are mapped.
    pub ports: Duration,
    /// From the end of PID 1 until the container is started again.
    pub restart: Duration,
}

impl Boot {
    /// As it was measured at RunPod: 16 GB in 165 s cold and 33 s cached.
    pub fn real() -> Self {
        Self {
            place: Duration::from_secs(4),
            start: Duration::from_secs(3),
            pull: Duration::from_millis(1_031),
            pull_cached: Duration::from_millis(206),
            ports: Duration::from_secs(3),
            restart: Duration::from_secs(2),
        }
    }

    /// The same stages in under a second together, for demos and tests.
    pub fn quick() -> Self {
        Self {
            place: Duration::from_millis(50),
            start: Duration::from_millis(50),
            pull: Duration::from_millis(1),
            pull_cached: Duration::ZERO,
            ports: Duration::from_millis(100),
            restart: Duration::from_millis(100),
        }
    }
}

/// RunPod's words for the state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Being placed.
    Provisioning,
    /// Being started.
    Starting,
    /// Said while the image is pulled, too.
    Running,
    /// Stopped.
    Exited,
    /// Broken.
    Error,
    /// Ended.
    Terminated,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Provisioning => "PROVISIONING",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Exited => "EXITED",
            Self::Error => "ERROR",
            Self::Terminated => "TERMINATED",
        })
    }
}

/// Who ended a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// DELETE with the account's key.
    Delete,
    /// The action `terminate` with the account's key.
    Action,
    /// The pod itself, with its own key.
    OwnKey,
    /// The provider: a fault, or a test.
    Provider,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) at: Timestamp,
    pub(super) by: EndedBy,
    /// When it was asked for.
    pub(super) asked: Timestamp,
    /// Until then the record stays, as TERMINATED.
    pub(super) shown_until: Timestamp,
}

/// A container that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container {
    pub(super) since: Timestamp,
    pub(super) address: SocketAddr,
}

/// A time in which something was billed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) from: Timestamp,
    pub(super) to: Option<Timestamp>,
    pub(super) hourly: Dollars,
    pub(super) disk: bool,
}

/// When each stage of the start is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) placed: Timestamp,
    pub(super) running: Timestamp,
    pub(super) boots: Timestamp,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) account: usize,
    pub(super) request: Request,
    pub(super) own_key: String,
    pub(super) created: Timestamp,
    pub(super) hourly: Dollars,
    pub(super) center: &'static str,
    pub(super) timeline: Timeline,
    pub(super) ports_after: Duration,
    pub(super) stopped: bool,
    pub(super) container: Option<Container>,
    pub(super) previous_address: Option<SocketAddr>,
    pub(super) first_running: Timestamp,
    pub(super) first_boot: Option<Timestamp>,
    pub(super) starts: u32,
    pub(super) end: Option<End>,
    pub(super) gone: Option<Timestamp>,
    pub(super) charges: Vec<Charge>,
    pub(super) log: Log,
    pub(super) assigned: BTreeMap<Kind, Fault>,
    pub(super) passed: BTreeSet<Kind>,
    pub(super) struck: BTreeSet<Kind>,
}

/// Where connections end that should not reach the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoys {
    /// Accepts and hangs up.
    pub(super) hang_up: SocketAddr,
    /// Another host's sshd.
    pub(super) stranger: SocketAddr,
}

impl Pod {
    /// The fault of this kind that this pod has, from now on for good.
    pub(super) fn fault(
        &mut self,
        kind: Kind,
        faults: &mut Faults,
        now: Timestamp,
    ) -> Option<Fault> {
        if let Some(fault) = self.assigned.get(&kind) {
            return Some(fault.clone());
        }
        if self.passed.contains(&kind) {
            return None;
        }
        match faults.take(
            kind,
            None,
            Of {
                id: &self.id,
                name: &self.request.name,
            },
            now,
        ) {
            Turn::NotNow => None,
            Turn::PassedOver => {
                self.passed.insert(kind);
                None
            }
            Turn::Hit(fault) => {
                self.assigned.insert(kind, fault.clone());
                Some(fault)
            }
        }
    }

    /// The same, at the moment when somebody notices it.
    pub(super) fn strike(
        &mut self,
        kind: Kind,
        faults: &mut Faults,
        now: Timestamp,
    ) -> Option<Fault> {
        let fault = self.fault(kind, faults, now)?;
        if self.struck.insert(kind) {
            faults.count(kind);
        }
        Some(fault)
    }

    pub(super) fn ended(&self, now: Timestamp) -> bool {
        self.end.is_some_and(|end| end.at <= now)
    }

    /// Whether there is still a record of it.
    pub(super) fn known(&self, now: Timestamp) -> bool {
        self.end.is_none_or(|end| now < end.at.max(end.shown_until))
    }

    pub(super) fn status(&mut self, faults: &mut Faults, now: Timestamp) -> Status {
        if self.ended(now) {
            Status::Terminated
        } else if self.stopped {
            Status::Exited
        } else if self.strike(Kind::StuckProvisioning, faults, now).is_some() {
            Status::Provisioning
        } else if self.broken(faults, now) {
            Status::Error
        } else if now < self.timeline.placed {
            Status::Provisioning
        } else if now < self.timeline.running {
            Status::Starting
        } else {
            Status::Running
        }
    }

    fn broken(&mut self, faults: &mut Faults, now: Timestamp) -> bool {
        let Some(container) = self.container else {
            return false;
        };
        let due = |fault: Fault| container.since + fault.span() <= now;
        self.fault(Kind::Error, faults, now).is_some_and(due)
            && self.strike(Kind::Error, faults, now).is_some()
    }

    /// What the record says of where port 22 is.
    fn address(
        &mut self,
        faults: &mut Faults,
        decoys: Decoys,
        now: Timestamp,
    ) -> Option<SocketAddr> {
        let container = self.container?;
        if now < container.since + self.ports_after
            || !self.request.ports.iter().any(|port| port == "22/tcp")
        {
            return None;
        }
        let soon = |fault: &Fault| now < container.since + fault.span();
        if self.strike(Kind::NoPorts, faults, now).is_some() {
            return None;
        }
        if self.strike(Kind::SshdAbsent, faults, now).is_some() {
            return Some(decoys.hang_up);
        }
        if self
            .fault(Kind::SshdLate, faults, now)
            .filter(soon)
            .is_some()
        {
            self.strike(Kind::SshdLate, faults, now);
            return Some(decoys.hang_up);
        }
        if self.strike(Kind::ForeignHost, faults, now).is_some() {
            return Some(decoys.stranger);
        }
        if let Some(previous) = self.previous_address
            && self
                .fault(Kind::StaleAddress, faults, now)
                .filter(soon)
                .is_some()
        {
            self.strike(Kind::StaleAddress, faults, now);
            return Some(previous);
        }
        Some(container.address)
    }

    /// Dollars an hour now.
    pub(super) fn cost(&self, status: Status) -> Dollars {
        match status {
            Status::Exited | Status::Terminated => Dollars::ZERO,
            Status::Provisioning | Status::Starting | Status::Running | Status::Error => {
                self.hourly
            }
        }
    }

    /// What was billed between two moments: for compute, and for the disk of a stopped pod.
    pub(super) fn billed(&self, from: Timestamp, to: Timestamp) -> (Dollars, Dollars) {
        let ended = self.end.map_or(to, |end| end.at.min(to));
        let (mut compute, mut disk) = (Dollars::ZERO, Dollars::ZERO);
        for charge in &self.charges {
            let (begin, end) = (charge.from.max(from), charge.to.unwrap_or(ended).min(ended));
            let time = Duration::try_from(end.duration_since(begin)).unwrap_or_default();
            // By the second, begun ones included.
            let time = Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0));
            let sum = if charge.disk { &mut disk } else { &mut compute };
            *sum = *sum + charge.hourly.for_hours_of(time);
        }
        (compute, disk)
    }

    /// Closes the running charge and starts another.
    pub(super) fn charge(&mut self, hourly: Dollars, disk: bool, now: Timestamp) {
        if let Some(last) = self.charges.last_mut() {
            last.to.get_or_insert(now);
        }
        self.charges.push(Charge {
            from: now,
            to: None,
            hourly,
            disk,
        });
    }

    /// The record, as REST v2 shows it.
    pub(super) fn describe(
        &mut self,
        faults: &mut Faults,
        decoys: Decoys,
        now: Timestamp,
    ) -> Value {
        let status = self.status(faults, now);
        let running = status == Status::Running;
        let address = if running {
            self.address(faults, decoys, now)
        } else {
            None
        };
        let uptime = self
            .container
            .map(|container| self.uptime(container, faults, now));
        let Self {
            id,
            request,
            center,
            timeline,
            ..
        } = self;
        let placed = now >= timeline.placed;
        let user = format!(
            "{id}-{:08x}",
            id.bytes().fold(7u32, |sum, byte| sum
                .wrapping_mul(31)
                .wrapping_add(byte.into()))
        );
        let mut record = json!({
            "id": id,
            "name": request.name,
            "image": request.image,
            "args": request.args,
            "disk": request.disk,
            "ports": request.ports,
            "env": request.env,
            "registry": request.registry,
            "status": status,
            "actions": actions(status),
            "mounts": request.mounts,
            "cloud": if request.secure { "SECURE" } else { "COMMUNITY" },
            "dataCenterId": placed.then_some(center),
            "cudaVersion": (placed && matches!(request.compute, Compute::Gpu { .. })).then_some(super::catalog::CUDA),
            "ssh": {
                "proxy": placed.then(|| json!({
                    "host": "ssh.runpod.io", "port": 22, "username": user, "command": format!("ssh {user}@ssh.runpod.io"),
                })),
                "direct": address.map(|address| json!({
                    "host": address.ip().to_string(),
                    "port": address.port(),
                    "username": "root",
                    "command": format!("ssh root@{} -p {}", address.ip(), address.port()),
                })),
            },
            "template": null,
            "locked": false,
            "globalNetworking": {"enabled": false},
            "runtime": null,
            "createdAt": self.created.to_string(),
            "startedAt": self.first_boot.map(|at| at.to_string()),
        });
        if running {
            let port = |address: SocketAddr| json!([{"private": 22, "public": address.port(), "type": "tcp", "ip": address.ip().to_string()}]);
            record["runtime"] = match (uptime, address) {
                (Some(uptime), Some(address)) => json!({"uptime": uptime, "ports": port(address)}),
                (Some(uptime), None) => json!({"uptime": uptime, "ports": []}),
                (None, _) => json!({}),
            };
        }
        match &self.request.compute {
            Compute::Gpu { id, count, .. } => record["gpu"] = json!({"id": id, "count": count}),
            Compute::Cpu { id, count } => {
                record["cpu"] = json!({"id": id, "vcpuCount": count, "memory": count * 2})
            }
        }
        record["cost"] = json!(self.cost(status).as_micros() as f64 / 1e6);
        record
    }

    /// Seconds, begun ones included: a container that runs has an uptime.
    fn uptime(&mut self, container: Container, faults: &mut Faults, now: Timestamp) -> u64 {
        let run = Duration::try_from(now.duration_since(container.since))
            .unwrap_or_default()
            .as_secs();
        match self
            .fault(Kind::CrashLoop, faults, now)
            .map(|fault| fault.span().as_secs())
        {
            Some(period) if period > 0 => {
                if run >= period {
                    self.strike(Kind::CrashLoop, faults, now);
                }
                run % period + 1
            }
            _ => run + 1,
        }
    }
}

/// What may be done to a pod in this state.
pub(super) fn actions(status: Status) -> &'static [&'static str] {
    match status {
        Status::Running => &["stop", "restart", "terminate"],
        Status::Exited | Status::Error => &["start", "terminate"],
        Status::Provisioning | Status::Starting => &["stop", "terminate"],
        Status::Terminated => &[],
    }
}
