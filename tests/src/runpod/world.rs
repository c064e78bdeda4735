//! What exists: accounts, pods, stock, faults. Every change is made here, at a time that is handed in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use srchat_crds::Dollars;
use tokio::sync::watch;

use super::{
    catalog::{self, Level, Stock},
    faults::{Call, Faults, Kind, Of},
    images::Images,
    limits::{Limits, Meter},
    log::{Log, Source},
    pod::{Boot, Charge, Container, Decoys, End, EndedBy, Pod, Status, Timeline},
    problem::Problem,
    request::{Compute, Request},
};

/// RunPod's words when there is no machine.
const NO_CAPACITY: &str = "There are no longer any instances available with the requested specifications. Please refresh and try again.";

#[derive(Debug)]
pub(super) struct World {
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) faults: Faults,
    pub(super) stock: Stock,
    pub(super) calls: BTreeMap<Call, u64>,
    pub(super) images: Images,
    pub(super) decoys: Decoys,
    pub(super) boot: Boot,
    pub(super) own_key_may_delete: bool,
    /// Whether containers are started by someone else, who tells; otherwise they are as old as they should be.
    pub(super) machines: bool,
    accounts: Vec<Account>,
    /// Tells those who run containers that something is different.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Account {
    keys: Vec<String>,
    meter: Option<Meter>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    account: usize,
    /// Set when it is a pod with its own key.
    pod: Option<String>,
}

impl World {
    pub(super) fn new(images: Images, boot: Boot, decoys: Decoys) -> Self {
        Self {
            pods: BTreeMap::new(),
            faults: Faults::default(),
            stock: Stock::default(),
            calls: BTreeMap::new(),
            images,
            decoys,
            boot,
            own_key_may_delete: true,
            machines: false,
            accounts: Vec::new(),
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn add_account(
        &mut self,
        key: String,
        limits: Option<Limits>,
        now: Timestamp,
    ) -> usize {
        self.accounts.push(Account {
            keys: vec![key],
            meter: limits.map(|limits| Meter::new(limits, now)),
        });
        self.accounts.len() - 1
    }

    /// Accepts another key for the first account; the old ones go on being accepted until they are revoked.
    pub(super) fn add_key(&mut self, key: String) {
        if let Some(account) = self.accounts.first_mut() {
            account.keys.push(key);
        }
    }

    pub(super) fn revoke(&mut self, key: &str) {
        for account in &mut self.accounts {
            account.keys.retain(|known| known != key);
        }
    }

    /// Whose key this is.
    pub(super) fn caller(&self, key: &str) -> Option<Caller> {
        let account = self
            .accounts
            .iter()
            .position(|account| account.keys.iter().any(|known| known == key));
        if let Some(account) = account {
            return Some(Caller { account, pod: None });
        }
        let pod = self
            .pods
            .values()
            .find(|pod| pod.own_key == key && pod.gone.is_none())?;
        Some(Caller {
            account: pod.account,
            pod: Some(pod.id.clone()),
        })
    }

    /// Counts a request of this user; when it is too many, for how long and in which window.
    pub(super) fn count(
        &mut self,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<(), (&'static str, u64)> {
        let meter = self
            .accounts
            .get_mut(caller.account)
            .and_then(|account| account.meter.as_mut());
        meter.map_or(Ok(()), |meter| meter.count(now))
    }

    /// `RateLimit` and `RateLimit-Policy`, for users that are limited.
    pub(super) fn rate_limit(&self, caller: &Caller, now: Timestamp) -> Option<(String, String)> {
        Some(
            self.accounts
                .get(caller.account)?
                .meter
                .as_ref()?
                .headers(now),
        )
    }

    /// Makes a pod.
    pub(super) fn create(
        &mut self,
        caller: &Caller,
        request: &Request,
        now: Timestamp,
    ) -> Result<String, Problem> {
        if caller.pod.is_some() {
            return Err(Problem::new(403, "access denied"));
        }
        let of = Of {
            id: "",
            name: &request.name,
        };
        if self
            .faults
            .strike(Kind::BalanceGone, Call::Create, of, now)
            .is_some()
        {
            return Err(Problem::new(
                402,
                "insufficient balance: add funds to deploy this pod",
            ));
        }
        if self
            .faults
            .strike(Kind::NoCapacity, Call::Create, of, now)
            .is_some()
        {
            return Err(Problem::new(400, NO_CAPACITY));
        }
        let (hourly, center) = self.place(request)?;
        let id = random_id();
        let image = self.images.find(&request.image);
        let pull = if image.cached {
            self.boot.pull_cached
        } else {
            self.boot.pull
        };
        let placed = now + self.boot.place;
        let running = placed + self.boot.start;
        let boots = running + pull * u32::try_from(image.tenths_of_gb).unwrap_or(u32::MAX);
        let mut pod = Pod {
            own_key: format!("rps_{id}{}", random_id()),
            account: caller.account,
            request: request.clone(),
            created: now,
            hourly,
            center,
            timeline: Timeline {
                placed,
                running,
                boots,
            },
            ports_after: self.boot.ports,
            stopped: false,
            container: None,
            previous_address: None,
            first_running: running,
            first_boot: None,
            starts: 0,
            end: None,
            gone: None,
            charges: Vec::new(),
            log: Log::new(),
            assigned: BTreeMap::new(),
            passed: Default::default(),
            struck: Default::default(),
            id: id.clone(),
        };
        if let Some(fault) = pod.strike(Kind::PriceOther, &mut self.faults, now) {
            pod.hourly = pod.hourly.percent(fault.percent.unwrap_or(200));
        }
        pod.charges.push(Charge {
            from: now,
            to: None,
            hourly: pod.hourly,
            disk: false,
        });
        pod.log.write(
            Source::System,
            format!("create container {}", request.image),
            now,
        );
        self.pods.insert(id.clone(), pod);
        self.touch();
        Ok(id)
    }

    /// The price an hour and the data center, if there is a machine.
    fn place(&self, request: &Request) -> Result<(Dollars, &'static str), Problem> {
        let none = || Problem::new(400, NO_CAPACITY);
        match &request.compute {
            Compute::Cpu { count, .. } => Ok((Dollars::cents(3).times(*count), "EU-RO-1")),
            Compute::Gpu { id, count, cuda } => {
                let gpu = catalog::find(id).ok_or_else(none)?;
                let wanted = |center: &&&str| {
                    request.centers.is_empty()
                        || request.centers.iter().any(|asked| asked == **center)
                };
                let center = gpu.centers.iter().find(wanted).ok_or_else(none)?;
                let fits = cuda.is_empty() || cuda.iter().any(|version| has_cuda(version));
                let millis = if request.secure {
                    Some(gpu.secure_millis)
                } else {
                    gpu.community_millis
                };
                match millis {
                    Some(millis)
                        if fits && self.stock.of(gpu, *count, request.secure) > Level::None =>
                    {
                        Ok((Dollars::micros(millis * 1_000).times(*count), *center))
                    }
                    _ => Err(none()),
                }
            }
        }
    }

    /// The records of a user's pods, oldest first.
    pub(super) fn list(&mut self, caller: &Caller, now: Timestamp) -> Result<Vec<Value>, Problem> {
        if caller.pod.is_some() {
            return Err(Problem::new(403, "access denied"));
        }
        self.refresh(now);
        let Self {
            pods,
            faults,
            decoys,
            ..
        } = self;
        let mut mine: Vec<&mut Pod> = pods
            .values_mut()
            .filter(|pod| pod.account == caller.account && pod.known(now))
            .collect();
        mine.retain_mut(|pod| !pod.hidden(Kind::ListLags, faults, now));
        mine.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(mine
            .into_iter()
            .map(|pod| {
                if pod.ended(now) {
                    pod.strike(Kind::Lingers, faults, now);
                }
                pod.describe(faults, *decoys, now)
            })
            .collect())
    }

    /// One record.
    pub(super) fn get(
        &mut self,
        caller: &Caller,
        id: &str,
        now: Timestamp,
    ) -> Result<Value, Problem> {
        let Self {
            faults,
            decoys,
            pods,
            ..
        } = self.refreshed(now);
        let pod = mine(pods, caller, id, now)?;
        if pod.hidden(Kind::GetLags, faults, now) {
            return Err(Problem::not_found());
        }
        Ok(pod.describe(faults, *decoys, now))
    }

    /// Ends a pod, now or when it lags.
    pub(super) fn terminate(
        &mut self,
        caller: &Caller,
        id: &str,
        by: EndedBy,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let may = self.own_key_may_delete;
        let Self { faults, pods, .. } = self.refreshed(now);
        let pod = mine(pods, caller, id, now)?;
        if pod.ended(now) {
            return Err(Problem::not_found());
        }
        let own = caller.pod.is_some();
        if own && (!may || pod.strike(Kind::OwnKeyMayNotDelete, faults, now).is_some()) {
            return Err(Problem::new(403, "access denied"));
        }
        if pod.end.is_none() {
            let lag = pod
                .strike(Kind::DeleteLags, faults, now)
                .map(|fault| fault.span())
                .unwrap_or_default();
            let shown = pod
                .fault(Kind::Lingers, faults, now)
                .map(|fault| fault.span())
                .unwrap_or_default();
            let at = now + lag;
            pod.end = Some(End {
                at,
                by: if own { EndedBy::OwnKey } else { by },
                asked: now,
                shown_until: at + shown,
            });
        }
        self.refresh(now);
        self.touch();
        Ok(())
    }

    /// `start`, `stop` and `restart`.
    pub(super) fn act(
        &mut self,
        caller: &Caller,
        id: &str,
        action: &str,
        now: Timestamp,
    ) -> Result<Value, Problem> {
        let boot = self.boot;
        let Self {
            faults,
            pods,
            decoys,
            ..
        } = self.refreshed(now);
        let pod = mine(pods, caller, id, now)?;
        let status = pod.status(faults, now);
        if !super::pod::actions(status).contains(&action) {
            let detail = format!("cannot {action} a pod in status {status}");
            return Err(Problem::new(409, detail));
        }
        match action {
            "stop" => {
                pod.stopped = true;
                pod.leave_container();
                let disk =
                    Dollars::cents(10).times(u32::try_from(pod.request.disk).unwrap_or(u32::MAX));
                pod.charge(Dollars::micros(disk.as_micros() / 730), true, now);
            }
            _ => {
                if pod.stopped || status == Status::Error {
                    let hourly = pod.hourly;
                    pod.charge(hourly, false, now);
                }
                pod.stopped = false;
                pod.assigned.remove(&Kind::Error);
                pod.leave_container();
                pod.timeline = Timeline {
                    placed: now,
                    running: now,
                    boots: now + boot.restart,
                };
            }
        }
        pod.log
            .write(Source::System, format!("{action} container"), now);
        let record = pod.describe(faults, *decoys, now);
        self.touch();
        Ok(record)
    }

    /// Lets time do what it does to pods by itself.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        let (machines, hang_up) = (self.machines, self.decoys.hang_up);
        for pod in self.pods.values_mut() {
            let boots = pod.timeline.boots;
            let due = !machines && pod.container.is_none() && !pod.stopped && boots <= now;
            let stuck = pod
                .fault(Kind::StuckProvisioning, &mut self.faults, now)
                .is_some();
            if due && !stuck && pod.end.is_none_or(|end| end.at >= boots) {
                pod.enter_container(Container {
                    since: boots,
                    address: hang_up,
                });
            }
            pod.vanish_when_due(&mut self.faults, now);
            if !machines {
                pod.gone = pod
                    .gone
                    .or(pod.end.map(|end| end.at).filter(|at| *at <= now));
            }
        }
    }

    /// A user's pods, ended ones included.
    pub(super) fn pods_of(&self, caller: &Caller) -> impl Iterator<Item = &Pod> + use<'_> {
        let account = caller.account;
        self.pods.values().filter(move |pod| pod.account == account)
    }

    /// Switches all faults off, for the pods that have them, too.
    pub(super) fn heal(&mut self) {
        self.faults.clear();
        for pod in self.pods.values_mut() {
            pod.assigned.clear();
            pod.passed.clear();
        }
        self.touch();
    }

    /// The same for the faults that are about this pod or name alone.
    pub(super) fn heal_of(&mut self, named: &str) {
        self.faults.clear_of(named);
        for pod in self.pods.values_mut() {
            pod.assigned
                .retain(|_, fault| fault.pod.as_deref() != Some(named));
        }
        self.touch();
    }

    /// The provider ends a pod by itself, without a trace.
    pub(super) fn vanish(&mut self, id: &str, now: Timestamp) {
        if let Some(pod) = self.pods.get_mut(id).filter(|pod| !pod.ended(now)) {
            pod.end = Some(End {
                at: now,
                by: EndedBy::Provider,
                asked: now,
                shown_until: now,
            });
        }
        self.touch();
    }

    /// Ends everything, with the simulator itself.
    pub(super) fn end_all(&mut self, now: Timestamp) {
        for id in Vec::from_iter(self.pods.keys().cloned()) {
            self.vanish(&id, now);
        }
    }

    fn refreshed(&mut self, now: Timestamp) -> &mut Self {
        self.refresh(now);
        self
    }
}

impl Pod {
    /// Whether a lag since the create still hides it.
    fn hidden(&mut self, by: Kind, faults: &mut Faults, now: Timestamp) -> bool {
        let hides = self
            .fault(by, faults, now)
            .is_some_and(|fault| now < self.created + fault.span());
        hides && self.strike(by, faults, now).is_some()
    }

    /// Ends it without a trace when that is due, and counts the fault.
    pub(super) fn vanish_when_due(&mut self, faults: &mut Faults, now: Timestamp) {
        let Some(container) = self.container.filter(|_| self.end.is_none()) else {
            return;
        };
        let Some(fault) = self.fault(Kind::Vanishes, faults, now) else {
            return;
        };
        let at = container.since + fault.span();
        if at <= now {
            self.strike(Kind::Vanishes, faults, now);
            self.end = Some(End {
                at,
                by: EndedBy::Provider,
                asked: at,
                shown_until: at,
            });
        }
    }

    pub(super) fn enter_container(&mut self, container: Container) {
        self.container = Some(container);
        self.first_boot.get_or_insert(container.since);
        self.starts += 1;
        self.log
            .write(Source::System, "start container", container.since);
    }

    pub(super) fn leave_container(&mut self) {
        self.previous_address = self
            .container
            .take()
            .map(|container| container.address)
            .or(self.previous_address);
    }
}

fn mine<'a>(
    pods: &'a mut BTreeMap<String, Pod>,
    caller: &Caller,
    id: &str,
    now: Timestamp,
) -> Result<&'a mut Pod, Problem> {
    let pod = pods
        .get_mut(id)
        .filter(|pod| pod.account == caller.account && pod.known(now))
        .ok_or_else(Problem::not_found)?;
    match &caller.pod {
        Some(own) if *own != pod.id => Err(Problem::new(403, "access denied")),
        _ => Ok(pod),
    }
}

fn has_cuda(asked: &str) -> bool {
    let number = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?))
    };
    match asked.strip_prefix(">=") {
        Some(floor) => number(floor) <= number(catalog::CUDA),
        None => asked == catalog::CUDA,
    }
}

/// Fourteen lower-case letters and digits, as RunPod's ids.
pub(super) fn random_id() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0; 14];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
